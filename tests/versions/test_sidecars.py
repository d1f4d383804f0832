"""Sidecars: what they say is taken over when a version is made; whatever is wrong with one is told with its line."""

import json
from pathlib import Path

import pytest

import rh
from rh import errors
from rh.resources import places

PLACES = ("file", "s3", "ssh-a")


@pytest.fixture(autouse=True, scope="module")
def _connections_closed():
    yield
    places.close()


@pytest.fixture
def cats(tmp_path):
    """A saved folder with three images."""
    folder = rh.folder(name="cats", path=tmp_path / "cats").save()
    folder.put({"img/1.png": b"one", "img/2.png": b"two", "3.png": b"three"})
    return folder


def lines(*documents):
    return "".join(json.dumps(one) + "\n" for one in documents).encode()


@pytest.mark.parametrize("system", PLACES)
def test_sidecars_are_read_at_commit_and_stay_files(system, tmp_path, request):
    if system != "file":
        request.getfixturevalue("world")
    place = tmp_path / "cats" if system == "file" else "cats"
    folder = rh.folder(name="cats", path=place, system=None if system == "file" else system).save()
    files = {
        "img/1.png": b"one",
        "img/2.png": b"two",
        "img/1.png.metadata.json": b'{"label": "cat", "score": 0.9, "tags": ["gold"]}',
        "img/rh.metadata.jsonl": lines({"file": "2.png", "metadata": {"label": "dog"}, "tags": ["a", "b"]}),
        "valohai.metadata.jsonl": lines({"file": "img/2.png", "metadata": {"score": 1, "valohai.tags": ["c"]}}),
    }
    folder.put(files)
    version = folder.commit()
    assert folder.annotations("img/1.png") == {"tags": ["gold"], "metadata": {"label": "cat", "score": 0.9}}
    assert folder.annotations("img/2.png") == {"tags": ["a", "b", "c"], "metadata": {"label": "dog", "score": 1}}
    assert version.files == len(files)
    assert {path: folder.at("v1").get(path) for path in files} == files


def test_valohai_names(cats):
    cats.put(
        {
            "3.png.metadata.json": json.dumps(
                {
                    "valohai.tags": ["x"],
                    "valohai.alias": "production",
                    "valohai.dataset-versions": [
                        "dataset://cats/spring",
                        {"uri": "dataset://dogs/v9", "targeting_aliases": ["best"], "packaging": True},
                        {"uri": "dataset://cats/summer", "targeting_aliases": ["staging"], "from": None},
                    ],
                    "mine": 1,
                }
            ).encode()
        }
    )
    version = cats.commit(aliases=["own"])
    assert set(version.aliases) == {"latest", "own", "production", "spring", "summer", "staging"}
    said = cats.annotations("3.png")
    assert said["tags"] == ["x", "dataset://cats/spring", "dataset://dogs/v9", "dataset://cats/summer"]
    assert said["metadata"] == {"mine": 1}


def test_a_file_of_such_a_name_beside_a_directory_is_like_any_other(cats):
    cats.put({"dir.metadata.json": b"not JSON", "dir/x": b"", ".metadata.json": b"nor this"})
    assert cats.commit().files == 6


def test_a_sidecar_of_a_file_that_is_not_there(cats):
    cats.commit()
    cats.put({"img/11.png.metadata.json": b"{}"})
    with pytest.raises(errors.NotFoundError, match=r"'img/11\.png' is told of.*did you mean img/1\.png") as caught:
        cats.commit()
    assert caught.value.where == "~/cats/img/11.png.metadata.json"
    assert "beside its file" in caught.value.hint
    assert [version.label for version in cats.versions()] == ["v1"]
    cats.put({"img/11.png": b"x"})
    assert cats.commit().label == "v2"


@pytest.mark.parametrize(
    ("name", "data", "line", "message"),
    [
        ("3.png.metadata.json", b'{\n"a": 1,\n"b": }', 3, "not JSON"),
        ("3.png.metadata.json", b"[1]", 1, "an array, not an object"),
        ("3.png.metadata.json", b'\n\n"\xff"', 3, "not UTF-8"),
        ("3.png.metadata.json", b'{"a": 1, "a": 2}', 1, "'a' is there twice"),
        ("3.png.metadata.json", b'{"a": 1,\n"a": 2}', 2, "'a' is there twice"),
        (
            "3.png.metadata.json",
            b'{"a": ["b", "a", {"a": "x\\"\\\\"}], "b":\n{"a": {"b": 1},\n\n"b": [], "\\u0062": "b"}}',
            4,
            "'b' is there twice",
        ),
        ("rh.metadata.jsonl", b'{"file": "3.png"}\n{"file": "1.png",   "file": "1.png"}', 2, "'file' is there twice"),
        ("3.png.metadata.json", b'{"tags": "gold"}', 1, "tags is a list of words, not text"),
        ("3.png.metadata.json", b'{"tags": [1]}', 1, "tags is a list of words"),
        ("3.png.metadata.json", b'{"a": NaN}', 1, "nan, which JSON does not have"),
        ("3.png.metadata.json", b"[" * 100_000, 1, "nested too deeply"),
        ("3.png.metadata.json", b'{"password": "hunter2"}', 1, "looks like a secret"),
        ("3.png.metadata.json", b'{"valohai.tag": ["x"]}', 1, "did you mean valohai.tags"),
        ("3.png.metadata.json", b'{"valohai.alias": "latest"}', 1, "cannot be an alias"),
        ("3.png.metadata.json", b'{"valohai.alias": 3}', 1, "a list of words, not a number"),
        ("3.png.metadata.json", b'{"valohai.dataset-versions": "x"}', 1, "is a list"),
        ("3.png.metadata.json", b'{"valohai.dataset-versions": ["x"]}', 1, "not the URI"),
        ("3.png.metadata.json", b'{"valohai.dataset-versions": [{}]}', 1, "is a URI, or an object with one"),
        (
            "3.png.metadata.json",
            b'{"valohai.dataset-versions": [{"uri": "dataset://a/b", "from": "dataset://a/a"}]}',
            1,
            "builds another version",
        ),
        (
            "3.png.metadata.json",
            b'{"valohai.dataset-versions": [{"uri": "dataset://a/b", "packagin": true}]}',
            1,
            "did you mean packaging",
        ),
        (
            "3.png.metadata.json",
            b'{"a": "\\\\",\n "b": {"a": [1, "}"]},\n\n "c": 36893488147419103232}',
            4,
            "more than 64 bits",
        ),
        ("3.png.metadata.json", b'\xef\xbb\xbf{"a" :\n1 , "b":"\\ud800"}', 2, "not valid Unicode"),
        ("3.png.metadata.json", b'{"a": ' + b"1" * 5000 + b"}", 1, "too many digits"),
        ("3.png.metadata.json", b'{"a": 1,\n"tags": "gold"}', 2, "tags is a list of words, not text"),
        ("3.png.metadata.json", b'{"a": 1,\n"b": [1, 2, "x"]}', 2, "'b' is mixed here, a number and text"),
        ("3.png.metadata.json", b'{"a": 1,\n"": 2}', 2, "needs a name"),
        ("3.png.metadata.json", b'{"a.b": 1,\n"a": {"b": 2}}', 1, "two properties are called 'a.b'"),
        ("rh.metadata.jsonl", b'{"file": "3.png"}\n{"file"', 2, "not JSON"),
        ("rh.metadata.jsonl", b'\n{"fil": "3.png"}', 2, "did you mean file"),
        ("rh.metadata.jsonl", b"{}", 1, "names no file"),
        ("rh.metadata.jsonl", b'{"file": "../3.png"}', 1, "no path below"),
        ("rh.metadata.jsonl", b'{"file": "/3.png"}', 1, "no path below"),
        ("rh.metadata.jsonl", b'{"file": "3.png", "metadata": 4}', 1, "an object, not a number"),
        ("rh.metadata.jsonl", b'{"file": "3.png"}\n{"file": "./3.png"}', 2, "a line already: line 1"),
        (
            "rh.metadata.jsonl",
            b'{"file": "3.png", "metadata": {"a": [1, "x"]}}',
            1,
            "the property 'a' is mixed here, a number and text",
        ),
        ("img/rh.metadata.jsonl", b'{"file": "1.png", "metadata": {"tags": ["x"]}}', 1, "called 'tags'"),
    ],
)
def test_malformed_sidecars_make_no_version(cats, name, data, line, message):
    cats.commit()
    cats.put({name: data, "3.png.more": b"x"})
    with pytest.raises(errors.InvalidError) as caught:
        cats.commit()
    assert message in caught.value.message
    assert caught.value.where == f"~/cats/{name}, line {line}"
    assert "hunter2" not in str(caught.value)
    assert [version.label for version in cats.versions()] == ["v1"]
    assert len(cats.query()) == 5
    assert cats.annotations("3.png") == {"tags": [], "metadata": {}}


def test_a_file_that_is_not_there(cats):
    cats.put({"img/rh.metadata.jsonl": lines({"file": "1.png", "metadata": {"a": 1}}, {"file": "3.png"})})
    with pytest.raises(errors.NotFoundError, match=r"img/3\.png.*did you mean img/2\.png") as caught:
        cats.commit()
    assert caught.value.where == "~/cats/img/rh.metadata.jsonl, line 2"
    assert cats.versions() == []
    assert cats.query().properties()[1] == {"file": "img/1.png", "tags": []}


def test_a_type_that_changes_is_told_with_the_line_of_the_property(cats):
    """In the sidecar that has the last word on it."""
    cats.annotate("3.png", metadata={"score": 0.5, "of": {"size": 1}})
    for name, data, place in (
        ("3.png.metadata.json", b'{"a": 1,\n\n"score": "x"}', "3.png.metadata.json, line 3"),
        ("3.png.metadata.json", b'{"a": 1,\n"of": {"size":\ntrue}}', "3.png.metadata.json, line 2"),
        ("rh.metadata.jsonl", b'\n{"file": "3.png", "metadata": {"score": "x"}}', "rh.metadata.jsonl, line 2"),
    ):
        cats.put({"3.png.metadata.json": b'{"a": 1}', name: data}, overwrite=True)
        with pytest.raises(errors.InvalidError, match="since its first use") as caught:
            cats.commit()
        assert caught.value.where == f"~/cats/{place}"
    assert cats.versions() == []


def test_a_type_that_was_fixed_in_the_same_sidecar(cats):
    cats.put(
        {
            "rh.metadata.jsonl": lines(
                *({"file": name, "metadata": {"a": value}} for name, value in (("3.png", 1), ("img/1.png", "x")))
            )
        }
    )
    with pytest.raises(
        errors.InvalidError, match=r"a number since its first use in ~/cats/rh.metadata.jsonl, line 1 \["
    ) as caught:
        cats.commit()
    assert caught.value.where == "~/cats/rh.metadata.jsonl, line 2"


def test_a_type_that_changes_names_property_file_line_and_types(cats):
    cats.annotate("3.png", score=0.5)
    cats.put({"rh.metadata.jsonl": lines({"file": "3.png"}, {"file": "img/1.png", "metadata": {"score": "high"}})})
    with pytest.raises(errors.InvalidError, match="'score' is text here, and a number since its first use") as caught:
        cats.commit()
    assert caught.value.where == "~/cats/rh.metadata.jsonl, line 2"
    assert cats.versions() == []


def test_what_a_changed_sidecar_says_no_longer_is_taken_away(cats):
    side = "3.png.metadata.json"
    cats.put({side: b'{"a": 1, "b": 2, "tags": ["x", "y"]}'})
    cats.commit()
    cats.annotate("3.png", mine=True, remove=["b"])
    cats.put({side: b'{"a": 3, "tags": ["y"]}'}, overwrite=True)
    cats.commit()
    assert cats.annotations("3.png") == {"tags": ["y"], "metadata": {"a": 3, "mine": True}}


def test_which_sidecar_has_the_last_word(cats):
    """The one beside the file; when it goes, or says no more of a property, the others are heard again."""
    side, many = "img/1.png.metadata.json", "img/rh.metadata.jsonl"
    cats.put({many: lines({"file": "1.png", "metadata": {"label": "dog", "n": 1}, "tags": ["x"]})})
    cats.commit()
    cats.put({side: b'{"label": "cow", "own": 1, "tags": ["x", "y"]}'})
    cats.commit()
    assert cats.annotations("img/1.png") == {"tags": ["x", "y"], "metadata": {"label": "cow", "n": 1, "own": 1}}
    cats.put({many: lines({"file": "1.png", "metadata": {"label": "bird", "n": 2}, "tags": ["x"]})}, overwrite=True)
    cats.commit()
    assert cats.annotations("img/1.png")["metadata"] == {"label": "cow", "n": 2, "own": 1}
    cats.put({side: b'{"own": 1}'}, overwrite=True)
    cats.commit()
    assert cats.annotations("img/1.png") == {"tags": ["x"], "metadata": {"label": "bird", "n": 2, "own": 1}}
    cats.put({side: b'{"label": "cow", "own": 1}'}, overwrite=True)
    cats.commit()
    cats.annotate("img/1.png", n=3)
    (Path(cats.path) / side).unlink()
    cats.commit()
    assert cats.annotations("img/1.png")["metadata"] == {"label": "bird", "n": 3, "own": 1}


def test_what_was_read_is_not_read_again(cats):
    cats.put({"3.png.metadata.json": b'{"a": 1}'})
    cats.commit()
    cats.annotate("3.png", a=2)
    cats.put({"more.png": b"more"})
    cats.commit()
    assert cats.annotations("3.png")["metadata"] == {"a": 2}


def test_drafts_and_uploads_read_them_too(cats, tmp_path):
    cats.commit()
    with cats.draft() as draft:
        draft.add(b'{"label": "cat", "valohai.alias": "drafted"}', path="3.png.metadata.json")
    assert "drafted" in draft.version.aliases
    assert cats.annotations("3.png")["metadata"] == {"label": "cat"}
    with pytest.raises(errors.InvalidError, match="not JSON"), cats.draft() as draft:
        draft.add(b"{", path="img/1.png.metadata.json")
    with cats.draft("shared") as draft:
        draft.add(b'{"label": "dog"}', path="img/1.png.metadata.json")
    draft.commit()
    assert cats.annotations("img/1.png")["metadata"] == {"label": "dog"}
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "4.png").write_bytes(b"four")
    (tmp_path / "new" / "4.png.metadata.json").write_text('{"label": "bird"}')
    cats.upload(tmp_path / "new")
    assert rh.folder("cats:latest").query('label == "bird"').files == ["4.png"]


def test_a_parent_that_is_not_the_newest_writes_nothing(cats):
    cats.commit()
    cats.put({"more": b""})
    cats.commit()
    cats.put({"3.png.metadata.json": b'{"label": "cat"}'})
    with pytest.raises(errors.ConflictError):
        cats.commit(parent="v1")
    assert cats.annotations("3.png")["metadata"] == {}


def test_blobs_and_tables_have_none():
    blob = rh.blob(b"{", name="rh.metadata.jsonl").save()
    assert blob.commit().label == "v1"
