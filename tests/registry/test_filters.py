"""Filters by themselves: three ways to write them, what they hold for, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rh.errors import InvalidError
from rh.registry.filters import All, AnyOf, Compare, Exists, F, Filter, Not, of_dict, parse, properties

DOCUMENT = {
    "kind": "folder",
    "tags": ["gold", "new"],
    "metadata": {
        "stage": "train",
        "eval": {"accuracy": 0.93, "name": "v1"},
        "ids": [3, 5],
        "done": True,
        "one": 1,
        "none": None,
        "big": 2**53 + 1,
        "deep": [[1], {"x": 1}, 7],
    },
}


def test_properties():
    assert sorted(properties(DOCUMENT), key=repr) == sorted(
        [
            ("tags", "gold"),
            ("tags", "new"),
            ("stage", "train"),
            ("eval.accuracy", 0.93),
            ("eval.name", "v1"),
            ("ids", 3),
            ("ids", 5),
            ("done", True),
            ("one", 1),
            ("big", 2**53 + 1),
            ("deep", 7),
        ],
        key=repr,
    )
    assert list(properties({"kind": "folder", "tags": None, "metadata": "text"})) == []


@pytest.mark.parametrize(
    ("text", "where", "holds"),
    [
        ('stage == "train"', F.stage == "train", True),
        ('stage != "train"', F.stage != "train", False),
        ("missing != 1", F.missing != 1, False),
        ("not missing == 1", ~(F.missing == 1), True),
        ("eval.accuracy > 0.9", F.eval.accuracy > 0.9, True),
        ("0.9 < eval.accuracy <= 0.93", (F.eval.accuracy > 0.9) & (F.eval.accuracy <= 0.93), True),
        ('F["eval.accuracy"] >= 1', F["eval.accuracy"] >= 1, False),
        ("ids == 5", F.ids == 5, True),
        ("ids != 5", F.ids != 5, False),
        ("ids in [1, 2]", F.ids.is_in([1, 2]), False),
        ("ids not in [1, 2]", F.ids != 1, True),
        ('"gold" in tags', F.tags == "gold", True),
        ('"gold" not in tags', F.tags != "gold", False),
        ("done == True", F.done == True, True),  # noqa: E712 - a filter
        ("done == 1", F.done == 1, False),
        ("one == True", F.one == True, False),  # noqa: E712 - a filter
        ('one == "1"', F.one == "1", False),
        ('stage > 3 or stage < "z"', (F.stage > 3) | (F.stage < "z"), True),
        ("big > 9007199254740992.0", F.big > 2.0**53, True),
        ("big == 9007199254740992.0", F.big == 2.0**53, False),
        ("none.exists()", F.none.exists(), False),
        ("ids.exists()", F.ids.exists(), True),
        ('stage.contains("rai") and stage.startswith("tr")', F.stage.contains("rai") & F.stage.startswith("tr"), True),
        ('ids.contains("3")', F.ids.contains("3"), False),
        ("one > -1", F.one > -1, True),
    ],
)
def test_text_and_python_say_the_same(text, where, holds):
    for one in (where, parse(text), parse(str(where)), of_dict(json.loads(json.dumps(where.as_dict())))):
        assert one.matches(DOCUMENT) is holds
    assert set(parse(text).fields()) == set(where.fields())


scalars = st.one_of(
    st.text(max_size=5),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
names = st.sampled_from(["stage", "eval.accuracy", "odd name", "é", "a b.c"])
compares = st.one_of(
    st.builds(
        lambda f, op, v: Compare(f, op, tuple(v)),
        names,
        st.sampled_from(["==", "!="]),
        st.lists(scalars, min_size=1, max_size=3),
    ),
    st.builds(
        lambda f, op, v: Compare(f, op, (v,)),
        names,
        st.sampled_from(["<", "<=", ">", ">="]),
        scalars.filter(lambda value: not isinstance(value, bool)),
    ),
    st.builds(
        lambda f, op, v: Compare(f, op, (v,)), names, st.sampled_from(["contains", "starts"]), st.text(max_size=3)
    ),
    st.builds(Exists, names),
)
filters = st.recursive(
    compares,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: All(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: AnyOf(tuple(parts))),
        inner.map(Not),
    ),
    max_leaves=6,
)


@given(filters, st.dictionaries(names, st.lists(scalars, max_size=3)))
def test_every_filter_can_be_written_and_read(where, metadata):
    document = {"metadata": metadata}
    told = of_dict(json.loads(json.dumps(where.as_dict())))
    assert told == where
    read = parse(str(where))
    assert read.matches(document) == told.matches(document) == where.matches(document)
    assert (~where).matches(document) is not where.matches(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "stage",
        "stage = 1",
        "stage ==",
        "stage == other",
        "stage == None",
        "stage is 1",
        "f(stage)",
        "stage.exists(1)",
        "stage.upper() == 'A'",
        "'a' in 'b'",
        "stage in 'train'",
        "ids in [x]",
        "__import__('os').system('true') == 0",
        "lambda: 1",
        "stage < True",
        "a and" * 3,
        "not " * 60 + "a == 1",
        "(" * 300 + "a == 1" + ")" * 300,
        "stage.contains(3)",
    ],
)
def test_what_is_no_filter(text):
    with pytest.raises(InvalidError):
        parse(text)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"field": "a", "op": "~", "values": [1]},
        {"field": "a", "op": "==", "values": [None]},
        {"field": "a", "op": "==", "values": [[1]]},
        {"field": "", "op": "==", "values": [1]},
        {"field": "a", "op": "<", "values": [1, 2]},
        {"field": "a", "op": "==", "values": list(range(10_001))},
        {"all": [1]},
        {"not": []},
        {"exists": 3},
    ],
)
def test_json_that_is_no_filter(told):
    with pytest.raises(InvalidError):
        of_dict(told)


def test_json_nested_without_end():
    told = {"exists": "a"}
    for _ in range(100):
        told = {"not": told}
    with pytest.raises(InvalidError, match="deeply"):
        of_dict(told)


def test_what_python_would_misread():
    with pytest.raises(InvalidError, match="parentheses"):
        bool(F.a == 1)
    with pytest.raises(InvalidError, match="exists"):
        bool(F.a)
    with pytest.raises(InvalidError, match="takes a list"):
        F.a.is_in("text")
    for values, hint in ((("a", "b"), "is_in(['a', 'b'])"), ((1, 2), "is_in([1, 2])"), ((3,), "is_in([3])")):
        with pytest.raises(InvalidError, match=r"a\.is_in takes a list") as caught:
            F.a.is_in(*values)
        assert caught.value.hint == hint
    assert F.a.is_in(range(2)) == Compare("a", "==", (0, 1))
    with pytest.raises(InvalidError, match="not a filter"):
        (F.a == 1) & True
    with pytest.raises(InvalidError):
        F.a == float("inf")  # noqa: B015 - it raises
    assert isinstance((F.a == 1) | (F.b == 2), Filter)


def test_what_other_libraries_call_it():
    with pytest.raises(InvalidError, match=r"no method 'isin'; did you mean is_in") as caught:
        F.label.isin(["cat"])
    assert "contains" in caught.value.hint
    for wrong in (lambda: F.score == None, lambda: F.score != None, lambda: parse("score == None")):  # noqa: E711
        with pytest.raises(InvalidError, match="held against None") as caught:
            wrong()
        assert "score.exists()" in caught.value.hint
