"""`rh table`: rows on the terminal and in pipes."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pytest

import rh as library
from rh import plugins

ROWS = {
    "name": ["a", "b", None, "d"],
    "size": [1, 22, 333, 4],
    "day": [datetime.date(2026, 1, day) for day in range(1, 5)],
    "raw": [b"\x00\xff", b"", None, b"x"],
    "tags": [["x"], [], None, ["y", "z"]],
}


@pytest.fixture
def rows(tmp_path):
    """A table of four rows, saved as `rows`."""
    return library.table(pa.table(ROWS), name="rows", path=tmp_path / "rows").save()


def test_head_and_schema(rh, rows):
    lines = rh("table", "head", "rows", "-n", "2").out.splitlines()
    assert lines[0].split() == ["name", "size", "day", "raw", "tags"]
    assert lines[1].split()[:3] == ["a", "1", "2026-01-01"]
    assert len(lines) == 3
    found = rh("table", "head", "rh://rows", "--json", "--limit", "1").json
    assert found == {"name": "a", "size": 1, "day": "2026-01-01", "raw": "AP8=", "tags": ["x"]}
    assert rh("table", "head", "rows", "-n", "0", "--json").out == ""
    assert rh("table", "schema", "rows").out.splitlines()[1].split() == ["size", "int64"]
    assert rh("table", "schema", "rows", "--json").lines[0] == {"column": "name", "type": "string", "nullable": True}


def test_stream_is_one_document_per_row(rh, rows, program):
    assert [line["size"] for line in rh("table", "stream", "rows").lines] == [1, 22, 333, 4]
    picked = rh("table", "stream", "rows", "-c", "size", "--where", "size > 3", "--where", "day >= 2026-01-03").lines
    assert picked == [{"size": 333}, {"size": 4}]
    assert rh("table", "stream", "rows", "-c", "name", "--where", "name = 'b'").json == {"name": "b"}
    shares = [rh("table", "stream", "rows", "--rank", rank, "--world-size", 2).lines for rank in (0, 1)]
    assert [line["size"] for share in shares for line in share] == [1, 22, 333, 4]
    assert len(rh("table", "stream", "rows", "--start", 3, "--limit", 5).lines) == 1
    arrow = program("table", "stream", "rows", "--arrow", "--limit", "3")
    assert pyarrow.ipc.open_stream(arrow.stdout).read_all().to_pydict()["size"] == [1, 22, 333]


def test_a_file_whose_name_does_not_tell_its_format(rh, tmp_path):
    (tmp_path / "export.log").write_text("size\n7\n")
    error = rh("table", "head", "export.log", "--json", expect=2).error
    assert error["hint"] == "--format one of parquet, csv, jsonl, arrow"
    assert rh("table", "head", "export.log", "--format", "csv", "--json").json == {"size": 7}


def test_without_the_library_the_fix_is_the_line_that_installs_it(rh, tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("size\n1\n7\n")
    for module in [*plugins._loaded, "pyarrow"]:
        if module.startswith("pyarrow"):
            monkeypatch.setitem(sys.modules, module, None)
            monkeypatch.delitem(plugins._loaded, module, raising=False)
    for words in (["head"], ["head", "--json"], ["head", "--where", "size > 3"], ["stream"], ["stream", "--arrow"]):
        assert "rh-data[tables]" in rh("table", words[0], "t.csv", *words[1:], expect=1).err


def test_what_json_has_no_number_for_is_null(rh, tmp_path):
    table = library.table(
        pa.table({"x": [1.5, float("nan"), float("inf")], "l": [[float("nan")]] * 3}), path=tmp_path / "t"
    ).write()
    assert "NaN" not in rh("table", "profile", table.url, "--json").out
    assert rh("table", "stream", table.url).lines[1] == {"x": None, "l": [None]}
    assert [row["x"] for row in rh("table", "head", table.url, "--json").lines] == [1.5, None, None]


def test_sql_and_profile(rh, rows, tmp_path):
    assert rh("table", "sql", "rows", "select sum(size) as s from t", "--json").json == {"s": 360}
    assert rh("table", "sql", "rows", "select size from t order by 1 desc", "--limit", "1").out.split() == [
        "size",
        "333",
    ]
    assert "size" in rh("table", "profile", "rows").out
    assert json.dumps(rh("table", "profile", "rows", "--json").json)
    assert rh("table", "profile", "rows", "--limit", "2", "--json").json["rows"] == 2
    rh("table", "schema", "rows", "--limit", "2", expect=2)
    wrong = rh("table", "sql", "rows", "select sise from t", "--json", expect=2).error
    assert "size" in wrong["message"] + (wrong["hint"] or "")


def test_write(rh, rows, tmp_path):
    (tmp_path / "in.csv").write_text("k,v\n1,x\n2,y\n")
    assert rh("table", "write", "in.csv", "out", "--json").json["rows"] == 2
    assert rh("table", "head", "out", "--json").lines == [{"k": 1, "v": "x"}, {"k": 2, "v": "y"}]
    assert rh("table", "write", "in.csv", "out", "--json", expect=4).error["kind"] == "exists"
    assert rh("table", "write", "in.csv", "out", "--mode", "append", "--json").json["rows"] == 4
    assert rh("table", "write", "in.csv", "parted", "--partition", "v", "--json").json["rows"] == 2
    assert (tmp_path / "parted" / "v=x").is_dir()
    rh("table", "write", "in.csv", "out", "--mode", "upsert", expect=2)


def test_files_that_need_to_be_told_about(rh, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.txt").write_text("zip;n\n01;2\n")
    words = ["--format", "csv", "--option", "delimiter=;", "--option", 'column_types={"zip": "string"}', "--json"]
    assert rh("table", "head", "data", *words).json == {"zip": "01", "n": 2}
    assert rh("table", "stream", "data", *words).json == {"zip": "01", "n": 2}
    assert rh("table", "schema", "data", *words).lines[0]["type"] == "string"
    assert rh("table", "sql", "data", "select n + 1 as m from t", *words).json == {"m": 3}
    assert rh("table", "profile", "data", *words).json["rows"] == 1
    assert rh("table", "write", "data", "out", *words).json["rows"] == 1
    assert rh("table", "head", "out", "--json").json == {"zip": "01", "n": 2}


def test_a_schema_that_is_given(rh, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.csv").write_text("zip,n,x\n01,2,y\n")
    (tmp_path / "data" / "2.csv").write_text("n\n3\n")
    words = ["--schema", "n=decimal128(5, 1), zip=string,at=timestamp[us, tz=UTC]", "--json"]
    first, second = {"n": "2.0", "zip": "01", "at": None}, {"n": "3.0", "zip": None, "at": None}
    for command in ("head", "stream"):
        found = rh("table", command, "data", *words).lines
        assert [{**line, "n": str(float(line["n"]))} for line in found] == [first, second]
    assert [line["type"] for line in rh("table", "schema", "data", *words).lines] == [
        "decimal128(5, 1)",
        "string",
        "timestamp[us, tz=UTC]",
    ]
    assert rh("table", "sql", "data", "select count(zip) as c from t", *words).json == {"c": 1}
    assert rh("table", "profile", "data", *words).json["rows"] == 2
    assert rh("table", "write", "data", "out", *words).json["rows"] == 2
    library.table(path=tmp_path / "data", schema={"n": "int8"}, name="given").save()
    assert rh("table", "head", "rh://given", "--json").lines == [{"n": 2}, {"n": 3}]
    assert rh("table", "head", "rh://given", "--schema", "zip=string", "--json").lines == [{"zip": "01"}, {"zip": None}]
    library.folder(name="folder", path=tmp_path / "data").save().commit()
    assert rh("table", "head", "rh://folder:v1/", "--schema", "n=int8", "--json").lines == [{"n": 2}, {"n": 3}]
    for text, said in (
        ("n", "is not COLUMN=TYPE"),
        ("n=int64,n=string", "names column 'n' twice"),
        ("n=int", "is no type for column 'n'; did you mean"),
        ("zip=int64,at=date32,n=string", "schema"),
    ):
        error = rh("table", "head", "out", "--schema", text, "--json", expect=2).error
        assert said in error["message"]
        assert "schema=" not in str(error["hint"])
    words = ["--schema", "n=decimal128(5, 1)", "--schema", "zip=string"]
    assert rh("table", "head", "data", *words, "--json").lines == [{"n": "2.0", "zip": "01"}, {"n": "3.0", "zip": None}]
    assert "twice" in rh("table", "head", "data", *words, "--schema", "n=int8", "--json", expect=2).error["message"]
    hint = rh("table", "head", "data", "--schema", "zip=string", "--schema", "n=bool", "--json", expect=2).error["hint"]
    assert hint == "--schema can say another type, such as int64; it or --column can leave the column out"


@pytest.mark.slow
def test_versions_by_name(rh, rows):
    rows.commit("rows")
    library.table(path=rows.url).write(pa.table(ROWS), mode="append")
    for name in ("rows:v1", "rh://rows:v1", "rh://rows:v1/", "rh://rows:latest"):
        assert len(rh("table", "head", name, "--json").lines) == 4
        assert len(rh("table", "stream", name).lines) == 4
        assert len(rh("table", "schema", name, "--json").lines) == 5
        assert rh("table", "sql", name, "select count(*) as n from t", "--json").json == {"n": 4}
        assert rh("table", "profile", name, "--json").json["rows"] == 4
        assert rh("table", "write", name, "again", "--mode", "overwrite", "--json").json["rows"] == 4
        assert rh("table", "compact", name, "--json", expect=None).error["kind"] == "immutable_version"
    assert "v9" in rh("table", "head", "rows:v9", "--json", expect=3).error["message"]
    assert len(rh("table", "stream", "rh://rows").lines) == 8


def test_compact(rh, rows):
    rows.write(pa.table(ROWS), mode="append")
    found = rh("table", "compact", "rh://rows", "--target-mb", "8", "--json").json
    assert (found["rows"], found["files_before"], found["files"]) == (8, 2, 1)
    assert "1 → 1" in rh("table", "compact", "rows").out


def test_what_is_said_of_files_is_said_to_compact_too(rh, rows):
    """Files of others are left alone, and that is what it says of them."""
    rh("cp", "rows", "copy")
    assert "--format parquet" in rh("table", "compact", "copy", "--json", expect=3).error["hint"]
    error = rh("table", "compact", "copy", "--format", "parquet", "--json", expect=None).error
    assert error["kind"] == "unsupported"
    words = ("--format", "csv", "--option", "delimiter=;", "--json")
    Path("copy.csv").write_text("a;b\n1;2\n")
    assert rh("table", "compact", "copy.csv", *words, expect=None).error["kind"] == "unsupported"
    assert "KEY=VALUE" in rh("table", "compact", "rows", "--option", "x", "--json", expect=2).error["message"]


def test_a_copy_without_its_index(rh, rows):
    rh("cp", "rows", "copy")
    error = rh("table", "head", "copy", "--json", expect=3).error
    assert "--format parquet" in error["hint"]
    assert len(rh("table", "head", "copy", "--format", "parquet", "--json").lines) == 4
    rh("table", "write", "rows", "whole")
    assert len(rh("table", "head", "whole", "--json").lines) == 4


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("head", "missing"), 3, "missing"),
        (("head", "rows", "-c", "sise"), 2, "size"),
        (("stream", "rows", "--where", "size"), 2, "condition"),
        (("stream", "rows", "--where", "size > many"), 2, "int64"),
        (("stream", "rows", "--rank", "2", "--world-size", "2"), 2, "rank"),
        (("head", "rows", "--option", "x"), 2, "KEY=VALUE"),
        (("head", "rows", "--format", "xml"), 2, "parquet"),
        (("head", "x.csv", "--option", "delimiter=;;"), 2, "delimiter is one character, not ';;'"),
        (("head", "x.csv", "--option", "column_types=v:string"), 2, '--option \'column_types={"column": "int64"}\''),
        (("head", "x.csv", "--option", "encoding=utf-16"), 6, "--option 'delimiter=;' or --option 'encoding=utf-16'"),
        (("sql", "~/saved", "select 1"), 3, "rh://~/saved"),
        (("write", "rows", "rows"), 4, "--mode append or --mode overwrite"),
        (("head", "postgresql://u@127.0.0.1/db"), 2, "rh table sql"),
    ],
)
def test_what_is_wrong_is_said(rh, rows, tmp_path, words, code, says):
    (tmp_path / "x.csv").write_text("v,w\n1,2\n")
    rh("save", "saved", "rows")
    error = rh("table", *words, "--json", expect=code).error
    assert says in error["message"] + (error["hint"] or "") + str(error.get("where"))
