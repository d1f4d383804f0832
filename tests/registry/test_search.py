"""The index of properties: its bytes are in the order of the values, and what it finds is what filters hold for."""

import random
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rh.registry.base import Put, Registry
from rh.registry.filters import All, AnyOf, Compare, F, Not
from rh.registry.sql import index
from rh.registry.sql.sqlite import SQLiteRegistry
from rh.testing._suite_search import VALUES, some_document, some_filter

numbers = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-1100, 1100).map(lambda n: 2**53 + n),
    st.integers(-1100, 1100).map(lambda n: 2**63 + n),
    st.integers(-1100, 1100).map(lambda n: float(2**63 + n)),
    st.integers(-1100, 1100).map(lambda n: -(2**62) + n),
)


@given(numbers, numbers)
def test_numbers_compare_as_their_bytes(a, b):
    x, y = index._value(a), index._value(b)
    assert (x < y, x == y) == (a < b, a == b)


@given(st.text(), st.text())
def test_texts_compare_as_their_bytes(a, b):
    x, y = index._value(a), index._value(b)
    assert (x < y, x == y) == (a < b, a == b)
    assert (index._value(b)[1:] in x) == (b in a)


def test_types_are_apart():
    kinds = [index._value(value)[:1] for value in (True, 1, "1")]
    assert len(set(kinds)) == 3
    assert max(kinds) < b"\xfe"


def test_entries_are_short():
    document = {"metadata": {"n" * 5000: "v" * 5000, "n" * 5000 + "2": "v" * 5000}}
    entries = index.rows(document)
    assert len(entries) == 2
    assert all(len(name) <= index.NAME and len(value) <= index.VALUE for name, value in entries)


@pytest.mark.slow
@given(seed=st.integers(0, 2**32))
def test_searches_are_filtered_listings(tmp_path_factory, seed):
    chance = random.Random(seed)
    with SQLiteRegistry(tmp_path_factory.mktemp("search") / "registry.db") as registry:
        for _ in range(3):
            registry.commit([Put(f"k/{n}", some_document(chance)) for n in chance.sample(range(20), 12)])
        for _ in range(20):
            where = some_filter(chance)
            assert list(registry.search(where)) == list(Registry.search(registry, where)), str(where)


def test_huge_filters_are_answered_all_the_same(tmp_path):
    with SQLiteRegistry(tmp_path / "registry.db") as registry:
        registry.commit([Put(f"k/{n}", {"metadata": {"n": n}}) for n in range(30)])
        listed = F.n.is_in(list(range(5, 10_000)))
        nested = F.n == 3
        for _ in range(100):
            nested = Not(nested)
        for where, count in (
            (listed, 25),
            (~listed, 5),
            (F.n != 10**400, 30),
            (F.n < 10**400, 30),
            (Compare("n", "!=", tuple(range(5000))), 0),
            (AnyOf(tuple(F.n == n for n in range(900))), 30),
            (All(tuple(F.n != n for n in range(15, 900))), 15),
            (nested, 1),
            (All(()), 30),
            (AnyOf(()), 0),
        ):
            assert len(list(registry.search(where))) == count


def test_many_candidates_are_walked(tmp_path, monkeypatch):
    from rh.registry.sql import relational

    monkeypatch.setattr(relational, "_CANDIDATES", 5)
    chance = random.Random(3)
    with SQLiteRegistry(tmp_path / "registry.db") as registry:
        registry.commit([Put(f"k/{n:03}", some_document(chance)) for n in range(100)])
        for where in map(partial(some_filter), [chance] * 200):
            assert list(registry.search(where)) == list(Registry.search(registry, where)), str(where)


def test_the_suites_values_go_into_documents():
    assert sum(isinstance(value, str) for value in VALUES) > 10
