"""meta and find."""

from __future__ import annotations

import gzip

import pytest

import rh as library


@pytest.fixture
def mine(rh, tree):
    """`mine`, with one version."""
    rh("save", "mine", "src")
    rh("commit", "mine", "-m", "first", "--tag", "good")
    return tree


def test_a_resource_and_a_version(rh, mine):
    """What is set is shown, found and taken away."""
    rh("meta", "set", "mine", "stage=train", "--tag", "gold")
    assert rh("meta", "set", "mine:v1", "accuracy=0.93", "final=true", "--json").json == {
        "name": "~/mine", "version": "v1", "file": None, "tags": ["good"],
        "metadata": {"accuracy": 0.93, "final": True},
    }  # fmt: skip
    assert rh("meta", "get", "rh://mine").out == "tags   gold\nstage  train\n"
    assert rh("meta", "rm", "mine", "stage", "--tag", "gold", "--json").json["tags"] == []
    assert "did you mean accuracy" in rh("meta", "rm", "mine:v1", "acuracy", "--json", expect=3).error["message"]
    assert rh("meta", "set", "mine:v1", "accuracy=high", "--json", expect=2).error["where"] == "~/mine:v1"
    assert rh("meta", "set", "mine", "--json", expect=2).error["kind"] == "invalid"
    assert rh("meta", "rm", "mine", "--json", expect=2).error["kind"] == "invalid"
    assert "~/mine" in rh("meta", "get", "mina", "--json", expect=3).error["message"]


def test_a_file(rh, mine):
    """Values are JSON or text; the first word without `=` is the path."""
    rh("meta", "set", "mine", "sub/run.sh", "label=x=y", "n=5", 'text="5"', "none=null", "-t", "a")
    found = rh("meta", "get", "mine", "sub/run.sh", "--json").json
    assert found["metadata"] == {"label": "x=y", "n": 5, "text": "5", "none": "null"}
    rh("meta", "rm", "mine", "n", "text", "--file", "sub/run.sh", "--tag", "a")
    assert rh("meta", "get", "mine", "sub/run.sh").out == "label  x=y\nnone   null\n"
    assert "a.txt" in rh("meta", "set", "mine", "b.txt", "n=5", "--json", expect=3).error["message"]
    assert rh("meta", "set", "mine", "a.txt", "n", "--json", expect=2).error["kind"] == "invalid"


def test_import(rh, mine, tmp_path):
    """A table in a file, of any format that tables have."""
    (tmp_path / "labels.csv").write_text("file,label,score\na.txt,cat,0.5\nz.bin,dog,0.7\n")
    assert rh("meta", "import", "mine", "labels.csv").out == "~/mine: 2 files\n"
    assert rh("meta", "get", "mine", "z.bin", "--json").json["metadata"] == {"label": "dog", "score": 0.7}
    (tmp_path / "more.jsonl").write_text('{"file": "a.txt", "tags": ["gold"]}\n{"file": "b.txt", "tags": []}\n')
    assert "'b.txt'" in rh("meta", "import", "mine", "more.jsonl", "--json", expect=3).error["message"]
    assert rh("meta", "get", "mine", "a.txt", "--json").json["tags"] == []


def test_import_of_what_is_wrong(rh, mine, tmp_path):
    """An empty cell says nothing; errors name the file and the row, counted from 1."""
    rh("meta", "set", "mine", "a.txt", "label=cat", "score=0.5", "final=true")
    csv = tmp_path / "labels.csv"
    csv.write_text("file,label,score,note\na.txt,,0.7,\nz.bin,dog,,\n")
    assert rh("meta", "import", "mine", "labels.csv").out == "~/mine: 2 files\n"
    assert rh("meta", "get", "mine", "a.txt", "--json").json["metadata"] == {
        "label": "cat",
        "score": 0.7,
        "final": True,
    }
    assert rh("meta", "get", "mine", "z.bin", "--json").json["metadata"] == {"label": "dog"}
    (tmp_path / "empty.jsonl").write_text('{"file": "a.txt", "label": ""}\n')
    rh("meta", "import", "mine", "empty.jsonl")
    assert rh("meta", "get", "mine", "a.txt", "--json").json["metadata"]["label"] == ""
    error = rh("meta", "import", "mine", "lables.csv", "--json", expect=3).error
    assert (error["message"], error["where"]) == ("nothing is there", f"file://{tmp_path}/lables.csv")
    for text, row in (
        ("file,label\na.txt,cat\nb.txt,dog\n", "row 2: b.txt"),
        ("file,label\n,cat\n", "row 1"),
        ("file,label\na.txt,cat\nz.bin,x\na.txt,cat\n", "row 3"),
        ("file,score\na.txt,high\n", "row 1: a.txt"),
        ("file,score\na.txt,1\nz.bin,high\n", "row 2: z.bin"),
        ("file,final\na.txt,TRUE\nz.bin,perhaps\n", "row 2: z.bin"),
    ):
        csv.write_text(text)
        where = rh("meta", "import", "mine", "labels.csv", "--json", expect=None).error["where"]
        assert where == f"labels.csv, {row}"
    csv.write_text("file,label\nb.txt,cat\n")
    hint = rh("meta", "import", "mine", csv, "--json", expect=3).error["hint"]
    assert hint == "the column `file` has the paths of its files"


def test_import_of_json_lines(rh, mine, tmp_path):
    """Each value is what its line says; what is wrong is told with the line."""
    lines = tmp_path / "labels.jsonl"
    first, second = '{"file": "a.txt", "n": 1, "box": {"w": 2}}', '{"file": "z.bin", "n": 0.5, "at": "2026-11-21"}'
    lines.write_text(f"\ufeff{first}\n\n{second}\n")
    assert rh("meta", "import", "mine", "labels.jsonl").out == "~/mine: 2 files\n"
    assert rh("meta", "get", "mine", "a.txt", "--json").json["metadata"] == {"n": 1, "box": {"w": 2}}
    assert rh("meta", "get", "mine", "z.bin", "--json").json["metadata"] == {"n": 0.5, "at": "2026-11-21"}
    with gzip.open(tmp_path / "packed.jsonl.gz", "wt") as file:
        file.write('{"file": "a.txt", "n": 7}\n')
    rh("meta", "import", "mine", "packed.jsonl.gz")
    assert rh("meta", "get", "mine", "a.txt", "--json").json["metadata"]["n"] == 7
    for data, where, message in (
        (b'{"file": "a.txt"}\n{"file": "z.bin", \n', "line 2", "the line is not JSON"),
        (b'{"file": "a.txt"}\n[1]\n', "line 2", "the line has an array, not an object"),
        (b'{"file": "a.txt"}\n\n{"file": "z.bin", "x": 1, "x": 2}', "line 3", "'x' is there twice"),
        (b'{"file": "a.txt"}\n{"file": "\xff"}', "line 2", "not UTF-8"),
        (b'{"file": "a.txt", "m": 1}\n{"file": "z.bin", "m": "t"}', "line 2: z.bin", "'m' is text here, and a number"),
        (b'{"file": "a.txt"}\n{"file": "a.txt"}', "line 2", "has a row already"),
        (b'{"file": "a.txt"}\n{"file": "y.txt"}', "line 2: y.txt", "there is no file 'y.txt'"),
        (b'{"n": 1}', "line 1", "names no file"),
    ):
        lines.write_bytes(data)
        error = rh("meta", "import", "mine", "labels.jsonl", "--json", expect=None).error
        assert (error["where"], message in error["message"]) == (f"labels.jsonl, {where}", True)
    (tmp_path / "torn.jsonl.gz").write_bytes((tmp_path / "packed.jsonl.gz").read_bytes()[:-9])
    error = rh("meta", "import", "mine", "torn.jsonl.gz", "--json", expect=2).error
    assert (error["where"], error["message"][:19]) == ("torn.jsonl.gz", "the file is damaged")


def test_import_keeps_text(rh, mine, tmp_path):
    """Digits of a property that is text are that text, and a file may be called by a number."""
    (tmp_path / "src" / "7").write_text("seven")
    rh("meta", "set", "mine", "a.txt", 'zip="04103"')
    (tmp_path / "zip.csv").write_text("file,zip,n\na.txt,01234,1\nz.bin,1e5,2\n")
    rh("meta", "import", "mine", "zip.csv")
    assert rh("meta", "get", "mine", "a.txt", "--json").json["metadata"] == {"zip": "01234", "n": 1}
    assert rh("meta", "get", "mine", "z.bin", "--json").json["metadata"] == {"zip": "1e5", "n": 2}
    (tmp_path / "new.csv").write_text("file,postcode\na.txt,10115\nz.bin,01067\n")
    rh("meta", "import", "mine", "new.csv")
    assert rh("meta", "get", "mine", "a.txt", "--json").json["metadata"]["postcode"] == "10115"
    assert rh("meta", "get", "mine", "z.bin", "--json").json["metadata"]["postcode"] == "01067"
    (tmp_path / "more.tsv").write_text("file\tn\n7\t3\n")
    rh("meta", "import", "mine", "more.tsv")
    assert rh("meta", "get", "mine", "7", "--json").json["metadata"] == {"n": 3}


def test_import_of_what_is_no_table(rh, mine, tmp_path):
    """Errors name the file as it was given."""
    for name in ("empty.csv", "empty.jsonl", "labels.txt"):
        (tmp_path / name).write_bytes(b"")
    error = rh("meta", "import", "mine", "labels.txt", "--json", expect=2).error
    assert (error["where"], error["message"]) == ("labels.txt", "the name does not tell the format")
    assert ".jsonl" in error["hint"]
    for name in ("empty.csv", "empty.jsonl"):
        error = rh("meta", "import", "mine", name, "--json", expect=2).error
        assert (error["where"], error["message"]) == (name, "the file is empty")
    library.table({"file": ["a.txt"], "n": [5]}, path=tmp_path / "table", name="labels").save()
    assert rh("meta", "import", "mine", "table/").out == "~/mine: 1 files\n"


def test_find_what_is_saved(rh, mine):
    """Without a place: resources and versions."""
    rh("meta", "set", "mine:v1", "accuracy=0.93")
    rh("meta", "set", "mine", "stage=train")
    line = rh("find", "--where", "accuracy > 0.9").out
    assert line.split()[:2] == ["~/mine:v1", "folder"]
    assert line.rstrip().endswith("good  accuracy=0.93")
    assert [one["name"] for one in rh("find", "--kind", "folder", "--name", "mi*", "--json").lines] == ["~/mine"]
    assert rh("find", "--tag", "good", "--json").json["version"] == "v1"
    assert rh("find", "--tag", "good", "--prefix", "/org").out == ""
    assert rh("find", "--created-after", "2000-01-01", "--limit", "1", "--json").json["version"] is None
    assert rh("find", "--tag", "good", "--as-of", "2000-01-01").out == ""
    assert "did you mean accuracy" in rh("find", "--where", "acuracy > 1", "--json", expect=2).error["message"]
    assert "did you mean folder" in rh("find", "--kind", "foldr", "--json", expect=2).error["message"]
    error = rh("find", "--where", "accuracy > 'x'", "--json", expect=2).error
    assert "'accuracy' is a number" in error["message"]
    assert rh("find", "--larger", "1M", "--json", expect=2).error["hint"] == "rh find PLACE …"


def test_find_files_by_properties(rh, mine):
    """With a saved place: files in it. With any place: by name, as before."""
    library.folder("mine").annotate({"a.txt": {"label": "cat", "tags": ["x"]}, "z.bin": {"label": "cat"}})
    assert rh("find", "rh://mine", "--where", 'label == "cat"').out == "a.txt\nz.bin\n"
    assert rh("find", "rh://mine:v1", "--tag", "x", "--json").json == {"file": "a.txt", "tags": ["x"], "label": "cat"}
    assert rh("find", "rh://mine", "--tag", "x", "--null").out == "a.txt\0"
    assert rh("find", "src", "*.txt").out == "a.txt\n"
    assert rh("find", "rh://mine", "**/*.sh", "--type", "f").out == "sub/run.sh\n"
    for wrong in (
        ("src", "--where", "label == 1"),
        ("rh://mine/sub", "--tag", "x"),
        ("rh://mine", "--tag", "x", "--larger", "1"),
        ("rh://mine", "*.txt", "--tag", "x"),
        ("rh://mine", "--kind", "folder"),
    ):
        assert rh("find", *wrong, "--json", expect=2).error["kind"] == "invalid"
    error = rh("find", "--where", 'label == "cat"', "--json", expect=2).error
    assert error["hint"] == "rh find rh://~/mine --where … finds files by theirs"
    assert rh("find", "rh://~/mine", "--where", 'label == "cat"').out == "a.txt\nz.bin\n"
    rh("meta", "set", "mine:v1", "accuracy=0.93")
    error = rh("find", "rh://mine", "--where", "accuracy > 0.9", "--json", expect=2).error
    assert error["hint"] == "rh find --where … finds resources and versions by theirs"
