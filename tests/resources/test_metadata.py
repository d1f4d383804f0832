"""Tags and properties of resources, versions and files."""

import threading

import numpy
import pytest

import rh
from rh import F, errors
from rh.registry import holding
from rh.registry.names import Name
from rh.versions import properties

FILES = {"img/1.png": b"one", "img/2.png": b"two", "3.png": b"three"}


@pytest.fixture
def cats(here):
    """A saved folder with three images, and no version."""
    here.put(FILES)
    return here.save("cats")


def revisions(folder):
    """How often each record of a file was written."""
    series = folder.series_of()
    prefix = properties.files_prefix(series.series)
    return {properties.path_of(record.key): record.revision for record in series.registry.list(prefix)}


# A resource.


def test_scalars_of_numpy_are_numbers(cats):
    plain = {"score": 0.5, "count": 3, "ok": True, "list": [1, {"x": 2.0}]}
    said = {
        "score": numpy.float64(0.5),
        "count": numpy.int64(3),
        "ok": numpy.bool_(True),
        "list": [numpy.int8(1), {"x": numpy.float32(2)}],
    }
    assert rh.folder(path=cats.path, metadata=said).save("said").metadata == plain
    assert rh.folder("said").metadata == plain
    assert cats.annotate(**said).metadata == plain
    cats.annotate("3.png", score=numpy.float64(0.5), count=numpy.int64(3))
    assert cats.annotations("3.png")["metadata"] == {"score": 0.5, "count": 3}
    assert cats.commit(metadata=said).metadata == plain
    with pytest.raises(errors.InvalidError, match="holds no ndarray"):
        cats.annotate(score=numpy.arange(3))


@pytest.mark.parametrize("wrong", [{"": 1}, {" ": 1}, {"a": {"": 1}}, {"a.b": 1, "a": {"b": 2}}])
def test_names_that_conditions_could_not_tell_are_refused(cats, wrong):
    cats.commit()
    for told in (
        lambda: cats.annotate(metadata=wrong),
        lambda: cats.at("v1").annotate(metadata=wrong),
        lambda: cats.annotate("3.png", metadata=wrong),
        lambda: cats.annotate({"3.png": {"c": 1}, "img/1.png": wrong}),
        lambda: cats.commit(metadata=wrong),
        lambda: rh.folder("wrong", path=cats.path, metadata=wrong).save(),
    ):
        with pytest.raises(errors.InvalidError, match=r"needs a name|are called 'a\.b'"):
            told()
    assert cats.annotations() == cats.annotations("3.png") == {"tags": [], "metadata": {}}
    assert not rh.exists("wrong")


def test_a_name_that_is_there_by_other_keys(cats):
    """What is said anew is held against what was said before."""
    said = cats.annotate("3.png", metadata={"a.b": 1}).annotate(metadata={"a": {"b": 1}})
    for told in (lambda: cats.annotate("3.png", a={"b": 2}), lambda: said.annotate(metadata={"a.b": 2})):
        with pytest.raises(errors.InvalidError, match=r"two properties are called 'a\.b'"):
            told()
    cats.annotate("3.png", a={"c": 3})
    assert cats.annotations("3.png")["metadata"] == {"a.b": 1, "a": {"c": 3}}
    cats.annotate("3.png", metadata={"a.b": 2})
    assert said.annotate(a={"b": 2}).metadata == {"a": {"b": 2}}


def test_a_list_of_several_types_is_mixed(cats):
    for known in (None, 1):
        if known is not None:
            cats.annotate("3.png", score=known)
        with pytest.raises(errors.InvalidError, match="'score' is mixed here, a number and text"):
            cats.annotate("3.png", score=[1, 2, "a"])


def test_a_type_that_was_fixed_in_the_same_call(cats):
    with pytest.raises(
        errors.InvalidError, match=r"text here, and a number since its first use in ~/cats/3\.png \["
    ) as caught:
        cats.annotate({"3.png": {"score": 1}, "img/1.png": {"score": "high"}})
    assert caught.value.where == "~/cats/img/1.png"


def test_a_resource(cats):
    said = cats.annotate(tags=["gold", "new"], stage="train", metadata={"eval": {"accuracy": 0.9}, "ids": [1, 2]})
    assert said.tags == ("gold", "new")
    assert said.metadata == {"eval": {"accuracy": 0.9}, "ids": [1, 2], "stage": "train"}
    assert rh.load("cats") == said
    assert cats.annotations() == {"tags": ["gold", "new"], "metadata": said.metadata}
    less = said.annotate(untag=["new"], remove=["eval.accuracy"], ids=None)
    assert (less.tags, less.metadata) == (("gold",), {"stage": "train"})
    assert less.save() == less
    assert less.revision == rh.load("cats").revision
    assert "gold" in less._repr_html_()
    none = less.annotate(untag=["gold"], remove=["stage"])
    assert none.config() == cats.config()
    assert rh.Folder.from_config(said.config()) == said


def test_tables_blobs_and_clusters(here):
    for resource in (rh.blob(b"x", name="b").save(), rh.table({"x": [1]}, name="t").save(), rh.here.save("mine")):
        assert resource.annotate(tags=["x"], n=1).annotations() == {"tags": ["x"], "metadata": {"n": 1}}
        loaded = rh.load(resource.name)
        assert loaded.tags == ("x",)
        assert loaded != resource
        assert type(loaded).from_config(loaded.config()) == loaded
        with pytest.raises(errors.InvalidError, match="has no files"):
            resource.annotate("a.png", label="cat")


def test_a_resource_that_somebody_changed_keeps_its_conflict(cats):
    mine = rh.load("cats")
    rh.load("cats").annotate(a=1)
    said = mine.annotate(b=2)
    assert rh.load("cats").metadata == {"a": 1, "b": 2}
    with pytest.raises(errors.ConflictError):
        said.to(path=f"{cats.path}-copy").save()


def test_what_cannot_be_said_of_a_resource(cats, tmp_path):
    with pytest.raises(errors.InvalidError, match="has no name"):
        rh.folder(path=tmp_path).annotate(a=1)
    with pytest.raises(errors.NotFoundError, match="did you mean ~/cats"):
        rh.folder(name="cets", path=tmp_path).annotate(a=1)
    with pytest.raises(errors.InvalidError, match="looks like a secret") as caught:
        cats.annotate(password="hunter2")
    assert "hunter2" not in str(caught.value)
    for wrong in (
        {"tags": "gold"},
        {"tags": [1]},
        {"tags": ["two\nlines"]},
        {"untag": "gold"},
        {"remove": "a"},
        {"remove": 5},
        {"metadata": [1]},
        {"metadata": {1: 2}},
        {"metadata": {"tags": ["x"]}},
        {"when": object()},
    ):
        with pytest.raises(errors.InvalidError):
            cats.annotate(**wrong)
    for gone in ({"untag": ["x"]}, {"remove": ["x"]}, {"remove": ["a.b"]}):
        with pytest.raises(errors.NotFoundError):
            cats.annotate(**gone)
    assert rh.load("cats") == cats


def test_the_types_of_an_owner_are_fixed(tmp_path, monkeypatch):
    one = rh.folder(name="/org/one", path=tmp_path / "1", metadata={"acc": 1}).save()
    one.annotate(acc=0.5)
    with pytest.raises(errors.InvalidError, match="'acc' is text here, and a number since its first use"):
        one.annotate(acc="high")
    with pytest.raises(errors.InvalidError, match="'acc' is true or false here"):
        rh.folder(name="/org/two", path=tmp_path / "2", metadata={"acc": True}).save()
    assert not rh.exists("/org/two")
    rh.folder(name="/other/two", path=tmp_path / "2", metadata={"acc": "x"}).save()


# A version.


def test_a_version(cats):
    first = cats.commit("one", tags=["a"], metadata={"accuracy": 0.5})
    pinned = rh.folder("cats:v1")
    assert pinned.annotate(tags=["b"], accuracy=0.6, note="fine") is pinned
    assert pinned.annotations() == {"tags": ["a", "b"], "metadata": {"accuracy": 0.6, "note": "fine"}}
    now = cats.versions()[0]
    assert (now.tags, now.metadata) == (("a", "b"), {"accuracy": 0.6, "note": "fine"})
    assert (now.number, now.digest, now.time, now.author) == (1, first.digest, first.time, first.author)
    assert rh.load("cats").metadata == {}
    pinned.annotate(untag=["a"], remove=["note"])
    assert cats.versions()[0].tags == ("b",)
    with pytest.raises(errors.InvalidError, match="'accuracy' is text here"):
        pinned.annotate(accuracy="good")
    cats.put({"more": b""})
    with pytest.raises(errors.InvalidError, match="'accuracy' is text here") as caught:
        cats.commit(metadata={"accuracy": "good"})
    assert "~/cats:v2" in caught.value.where
    assert len(cats.versions()) == 1


def test_what_is_said_of_content_that_is_a_version_already(cats):
    cats.commit(tags=["a"])
    again = cats.commit(tags=["b"], metadata={"n": 1})
    assert (again.label, again.tags, again.metadata) == ("v1", ("a", "b"), {"n": 1})


# Files.


def test_files(cats):
    cats.annotate("img/1.png", label="cat", score=0.9, tags=["gold"])
    cats.annotate({"img/2.png": {"label": "dog", "score": 1, "tags": ["a"]}, "3.png": {"label": "cat"}})
    assert cats.annotations("img/1.png") == {"tags": ["gold"], "metadata": {"label": "cat", "score": 0.9}}
    cats.annotate("img/1.png", score=None, tags=["new"], untag=["gold"])
    cats.annotate({"img/2.png": {"label": None}})
    assert cats.annotations("img/1.png") == {"tags": ["new"], "metadata": {"label": "cat"}}
    assert cats.annotations("img/2.png") == {"tags": ["a"], "metadata": {"score": 1}}
    before = revisions(cats)
    cats.annotate({"img/2.png": {"score": 1, "tags": ["a"]}, "3.png": {"label": "cat"}})
    assert revisions(cats) == before == {"3.png": 1, "img/1.png": 2, "img/2.png": 2}


@pytest.mark.parametrize("system", ["s3", "ssh-a"])
def test_files_elsewhere(world, system):
    folder = rh.folder(name="cats", path="cats", system=system).save()
    folder.put(FILES)
    folder.annotate({path: {"label": "cat"} for path in FILES})
    folder.annotate("3.png", label="dog")
    with pytest.raises(errors.NotFoundError, match=r"did you mean .*img/1\.png"):
        folder.annotate("img/4.png", label="cat")
    assert folder.query(F.label == "cat").files == ["img/1.png", "img/2.png"]
    folder.commit()
    assert dict(rh.folder("cats:v1").query(F.label == "dog").stream()) == {"3.png": b"three"}


@pytest.mark.parametrize("library", ["rows", "pandas", "polars", "arrow", "table"])
def test_a_table_with_a_row_for_each_file(cats, library):
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    columns = {
        "file": ["img/1.png", "img/2.png", "3.png"],
        "label": ["cat", "dog", None],
        "score": [0.5, None, 1.0],
        "ok": [True, False, None],
        "tags": [["gold"], None, []],
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    made = {
        "rows": lambda: rows,
        "pandas": lambda: pd.DataFrame(columns),
        "polars": lambda: pl.DataFrame(columns),
        "arrow": lambda: pa.table(columns),
        "table": lambda: rh.table(columns, name="labels").save(),
    }[library]()
    cats.annotate(made)
    assert cats.annotations("img/1.png") == {"tags": ["gold"], "metadata": {"label": "cat", "score": 0.5, "ok": True}}
    assert cats.annotations("img/2.png") == {"tags": [], "metadata": {"label": "dog", "ok": False}}
    assert cats.annotations("3.png") == {"tags": [], "metadata": {"score": 1.0}}


def test_nothing_is_written_unless_all_is_right(cats):
    cats.annotate("3.png", score=1)
    many = {path: {"score": 2} for path in FILES}
    for wrong, kind, message in (
        ({**many, "img/1.pnh": {}}, errors.NotFoundError, r"no file 'img/1\.pnh'.*did you mean img/1\.png"),
        ({**many, "img/1.png": {"score": "x"}}, errors.InvalidError, "'score' is text here, and a number"),
        ({**many, "img/1.png": {"api_key": "x"}}, errors.InvalidError, "looks like a secret"),
        ({**many, "img/1.png": 3}, errors.InvalidError, "no file with its properties"),
        ({**many, "../x": {}}, errors.InvalidError, "does not stay below"),
        ({**many, "img/": {}}, errors.InvalidError, "names a directory"),
        ([*({"file": path, "score": 2} for path in FILES), {"score": 3}], errors.InvalidError, "names no file"),
        ([{"file": "3.png"}, {"file": "3.png"}], errors.InvalidError, "has a row already"),
        (5, errors.InvalidError, "is not a table"),
    ):
        with pytest.raises(kind, match=message):
            cats.annotate(wrong)
    with pytest.raises(errors.InvalidError, match="have their own"):
        cats.annotate(many, label="cat")
    assert revisions(cats) == {"3.png": 1}
    assert cats.query(F.score == 2).files == []


def test_a_file_of_the_newest_version_or_of_a_pinned_one(cats):
    cats.commit()
    cats.rm("3.png")
    cats.annotate("3.png", label="cat")
    cats.commit()
    with pytest.raises(errors.NotFoundError, match=r"no file '3\.png' in ~/cats"):
        cats.annotate("3.png", label="dog")
    with pytest.raises(errors.NotFoundError):
        cats.annotations("3.png")
    rh.folder("cats:v1").annotate("3.png", label="dog")
    assert rh.folder("cats:v1").query(F.label == "dog").files == ["3.png"]
    assert cats.query(F.label == "dog").files == []


def test_odd_names(here):
    odd = ["a b%2F'\";$.png", "ä/日本.png", "-x", "a:b@c#d?e", "%", "e\u0301", "n\nl"]
    here.put(dict.fromkeys(odd, b"x"))
    folder = here.save("odd")
    folder.annotate({name: {"n": number} for number, name in enumerate(odd)})
    assert {row["file"]: row["n"] for row in folder.query(F.n >= 0).properties()} == {
        name: number for number, name in enumerate(odd)
    }
    with pytest.raises(errors.InvalidError, match="too long"):
        properties.file_key("s", "é" * 400)


def test_many_at_once_lose_nothing(cats):
    def work(number):
        for n in range(5):
            cats.annotate({path: {f"p{number}_{n}": n} for path in FILES})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for path in FILES:
        assert len(cats.annotations(path)["metadata"]) == 20


def test_properties_follow_a_rename(cats):
    cats.annotate("3.png", label="cat")
    assert cats.rename("felines").annotations("3.png")["metadata"] == {"label": "cat"}


def test_the_records(cats):
    cats.annotate("img/1.png", label="cat", score=1, ok=True, tags=["x"])
    series = cats.series_of()
    registry = holding(Name("~/cats"))
    assert registry.get(f"files/{series.series}/img/1.png").document == {
        "tags": ["x"],
        "metadata": {"label": "cat", "score": 1, "ok": True},
    }
    assert registry.get(f"types/{series.series}").document == {"text": ["label"], "number": ["score"], "truth": ["ok"]}
