"""A schema that is given for files of others: the columns it names, with its types, on every way to read them."""

from __future__ import annotations

import csv
import datetime
import io
import json
import pickle
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import rh
from rh import errors, observe
from rh.resources.base import Resource

FORMS = ["parquet", "arrow", "arrows", "csv", "jsonl"]


def encoded(table: pa.Table, form: str) -> bytes:
    """A table as a file of a format, as other tools write it; of text, nulls are left out."""
    out = io.BytesIO()
    if form == "parquet":
        pq.write_table(table, out, row_group_size=2)
    elif form in ("arrow", "arrows"):
        with (pa.ipc.new_file if form == "arrow" else pa.ipc.new_stream)(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    elif form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(table.column_names)
        writer.writerows(row.values() for row in table.to_pylist())
        out.write(text.getvalue().encode())
    else:
        for row in table.to_pylist():
            out.write(json.dumps({k: v for k, v in row.items() if v is not None}, default=str).encode() + b"\n")
    return out.getvalue()


@pytest.fixture
def place(tmp_path):
    return rh.folder(path=tmp_path / "data")


def put(folder, form: str, **tables: dict | pa.Table) -> None:
    folder.put({
        f"{name}.{form}": encoded(table if isinstance(table, pa.Table) else pa.table(table), form)
        for name, table in tables.items()
    })  # fmt: skip


def rows_of(batches) -> list[dict]:
    return [row for batch in batches for row in batch.to_pylist()]


WAYS = {
    "to_arrow": lambda table: table.to_arrow().to_pylist(),
    "to_reader": lambda table: table.to_reader().read_all().to_pylist(),
    "reader": lambda table: table.fetch("reader").read_all().to_pylist(),
    "dataset": lambda table: table.fetch("dataset").to_table().to_pylist(),
    "c_stream": lambda table: pa.table(table).to_pylist(),
    "polars": lambda table: table.to_polars().to_dicts(),
    "rows": lambda table: table.fetch("rows"),
    "hf": lambda table: table.to_hf().to_list(),
    "dask": lambda table: rh.table(table.to_dask()).to_arrow().to_pylist(),
    "head": lambda table: table.head(100).to_pylist(),
    "sample": lambda table: table.sample(100).to_pylist(),
    "stream": lambda table: rows_of(table.stream(2)),
    "stream at once": lambda table: rows_of(table.stream(2, prefetch=0)),
    "sql": lambda table: table.sql("select * from t").to_pylist(),
    "written": lambda table: rh.table(path=table.url + "-copy").write(table, mode="overwrite").to_arrow().to_pylist(),
}

ERRING = {name: way for name, way in WAYS.items() if name != "c_stream"}  # its errors are text

SCHEMA = {"word": "string", "late": "int32", "n": "float64"}
ROWS = [
    {"word": "a", "late": None, "n": 1.0},
    {"word": "b", "late": None, "n": 2.0},
    {"word": "c", "late": 7, "n": None},
]


@pytest.fixture(params=FORMS)
def table(request, place):
    """The rows of `ROWS`, in files that have other columns and types, and in another order."""
    first = {"n": [1, 2], "extra": [[1], [2]], "word": ["a", "b"]}
    if request.param == "csv":
        first["extra"] = ["1", "x"]
    put(place, request.param, a=first, b={"late": pa.array([7], pa.int8()), "word": ["c"]})
    return rh.table(path=place.url, schema=SCHEMA)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_exactly_these_columns(table, way):
    """In this order and with these types; other columns are not read, and what a file lacks is null."""
    rows = WAYS[way](table)
    assert rows == ROWS
    assert [list(row) for row in rows] == [list(SCHEMA)] * 3


def test_what_is_asked_of_the_table(table):
    """Schema, numbers of rows, parts of columns and rows, shares, mixtures, profiles and differences."""
    schema = pa.schema([("word", pa.string()), ("late", pa.int32()), ("n", pa.float64())])
    assert table.schema == table.to_arrow().schema == table.stream(2).schema == table.fetch("dataset").schema == schema
    assert table.num_rows == 3
    assert table.to_arrow(columns=["late"]).to_pydict() == {"late": [None, None, 7]}
    assert rows_of(table.stream(2, columns=["late"])) == [{"late": None}, {"late": None}, {"late": 7}]
    for where, kept in (
        ([("n", ">", 1.5)], [1]),
        ([("late", ">", 3)], [2]),
        (pc.field("late").is_null(), [0, 1]),
        ([("word", "in", ["a", "c"])], [0, 2]),
    ):
        expected = [ROWS[at] for at in kept]
        assert table.to_arrow(where=where).to_pylist() == expected
        assert rows_of(table.stream(2, where=where)) == expected
        assert table.fetch("reader", where=where).read_all().to_pylist() == expected
        assert rh.table(table.to_dask(where=where)).to_arrow().to_pylist() == expected
    assert sorted(row["word"] for row in rows_of(table.stream(1, shuffle_seed=3))) == ["a", "b", "c"]
    shares = [rows_of(table.stream(1, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [len(share) for share in shares] == [1, 2]
    assert shares[0] + shares[1] == ROWS
    assert table.sql("select count(*) as c, sum(late) as s from t where n is null").to_pylist() == [{"c": 1, "s": 7}]
    profile = table.profile()
    assert [(column.name, column.type, column.nulls) for column in profile.columns] == [
        ("word", "string", 0),
        ("late", "int32", 2),
        ("n", "double", 1),
    ]
    assert not table.diff(pa.Table.from_pylist(ROWS, schema))
    assert table.diff(pa.Table.from_pylist(ROWS[1:], schema)).removed == 1


def test_a_stream_goes_on_with_the_same_schema_only(table):
    stream = table.stream(1)
    next(stream)
    state = json.loads(json.dumps(stream.state_dict()))
    stream.close()
    again = rh.table(path=table.url, schema=pa.schema(table.schema, {b"about": b"a note"})).stream(2)
    again.load_state_dict(state)
    assert rows_of(again) == ROWS[1:]
    for other in ({**SCHEMA, "n": "float32"}, {"n": "float64"}, dict(reversed(SCHEMA.items())), None):
        if other is None and table.opened_files()[1].format != "csv":
            continue  # of the others, nothing else says what their columns are together
        with pytest.raises(errors.InvalidError, match="the state is of another table"):
            rh.table(path=table.url, schema=other).stream(1).load_state_dict(state)


@pytest.mark.parametrize("form", FORMS)
def test_only_columns_that_a_file_does_not_have(place, form):
    put(place, form, a={"n": [1, 2]}, b={"m": ["x"]})
    table = rh.table(path=place.url, schema={"none": "int64"})
    assert table.num_rows == 3
    for name, way in WAYS.items():
        assert way(table) == [{"none": None}] * 3, name
    other = rh.table(path=place.url, schema={"m": "string"})
    for name, way in WAYS.items():
        assert way(other) == [{"m": None}, {"m": None}, {"m": "x"}], name


@pytest.mark.parametrize("form", FORMS)
def test_a_column_that_may_not_be_null(place, form):
    """Whether a file does not have it, or has a null in it, the file and the column are named."""
    fields = [pa.field("n", pa.int64(), nullable=False), pa.field("m", pa.int64())]
    schema = pa.schema(fields, {"about": "a note"})
    put(place, form, a={"n": [1, 2], "m": [1, None]})
    good = rh.table(path=place.url, schema=schema)
    assert good.schema.equals(schema, check_metadata=True)
    assert good.to_arrow(where=[("m", ">", 0)]).to_pydict() == {"n": [1], "m": [1]}
    for name, way in WAYS.items():
        assert way(good) == [{"n": 1, "m": 1}, {"n": 2, "m": None}], name
    put(place, form, b={"m": [3]})
    put(rh.folder(path=place.url + "-nulls"), form, a={"n": [1]}, b={"n": [2, None, 4], "m": [1, 2, 3]})
    for url in (place.url, place.url + "-nulls"):
        for name, way in ERRING.items():
            with pytest.raises(errors.InvalidError, match="column 'n'") as caught:
                way(rh.table(path=url, schema=schema))
            assert f"b.{form}" in str(caught.value.where), name
            assert "nullable" in caught.value.hint
        assert rh.table(path=url, schema=schema).to_arrow(columns=["m"]).num_rows > 2


@pytest.mark.parametrize("form", FORMS)
def test_values_that_do_not_become_the_type(place, form):
    """The file, the column, both types, the value and the way out."""
    put(place, form, a={"n": ["1"], "m": ["x"]}, b={"n": ["2", "two"], "m": ["y", "z"]})
    table = rh.table(path=place.url, schema={"m": "string", "n": "int64"})
    for name, way in ERRING.items():
        with pytest.raises(errors.InvalidError, match=r"'n' is string in .*this file and (int64|number)") as caught:
            way(table)
        kept = "a" if form == "jsonl" else "b"  # JSON says that it is text
        assert f"{kept}.{form}" in str(caught.value.where), name
        assert "schema=" in caught.value.hint
        if form != "jsonl":
            assert "two" in caught.value.message
    assert table.to_arrow(columns=["m"])["m"].to_pylist() == ["x", "y", "z"]
    assert rh.table(path=place.url, schema={"m": "string"}).num_rows == 3


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_types_that_have_nothing_to_do_with_each_other(place, form):
    put(place, form, a={"n": [1, 2]})
    table = rh.table(path=place.url, schema={"n": pa.struct([("x", pa.int64())])})
    for name, way in ERRING.items():
        with pytest.raises(errors.InvalidError, match="'n' is int64 in this file and struct<x: int64>") as caught:
            way(table)
        assert f"a.{form}" in str(caught.value.where), name


def test_types_that_text_does_not_have(place):
    put(place, "csv", a={"n": ["[1]"]})
    with pytest.raises(errors.InvalidError, match="values of csv do not become list<item: int64>, which column 'n'"):
        rh.table(path=place.url, schema={"n": "list<int64>"}).to_arrow()


@pytest.mark.parametrize("form", FORMS)
def test_types_that_text_says(place, form):
    """Dates, moments with a zone, decimals and dictionaries are read of the text that other tools write."""
    schema = {
        "day": "date32",
        "at": "timestamp[us, tz=UTC]",
        "sum": "decimal128(10, 2)",
        "kind": pa.dictionary(pa.int32(), pa.string()),
    }
    numbers = [1.5] if form in ("csv", "jsonl") else ["1.5"]
    put(
        place, form,
        a={"day": ["2026-02-28"], "at": ["2026-02-28T12:30:00Z"], "sum": numbers, "kind": ["k"]},
    )  # fmt: skip
    expected = {
        "day": datetime.date(2026, 2, 28),
        "at": datetime.datetime(2026, 2, 28, 12, 30, tzinfo=datetime.UTC),
        "sum": Decimal("1.50"),
        "kind": "k",
    }
    table = rh.table(path=place.url, schema=schema)
    for name in ("to_arrow", "stream", "sql", "reader", "sample", "written"):
        assert WAYS[name](table) == [expected], name
    assert table.to_arrow(where=[("day", "==", expected["day"])]).num_rows == 1
    assert table.to_arrow(where=[("sum", ">", Decimal("1.60"))]).num_rows == 0


@pytest.mark.parametrize(
    ("have", "kind", "where"),
    [
        (pa.array([1, 20, 300, 5]), "string", ("n", ">", "3")),
        (pa.array([1, 20, 300, 5]), "string", ("n", "in", ["5", "300"])),
        (pa.array(["1", "20", "300", "5"]), "int64", ("n", ">", 19)),
        (pa.array([0.1, 0.2, 0.3, 0.4]), "float32", ("n", ">=", pa.scalar(0.4, pa.float32()).as_py())),
        (pa.array([0, 10**15, 5, 6], pa.timestamp("us")), "string", ("n", ">", "1970-01-01T")),
        (pa.array([1, 20, 300, 5]), "int16", ("n", ">", 19)),
    ],
    ids=str,
)
def test_a_filter_holds_for_the_values_as_they_are_given(place, have, kind, where):
    """What Parquet's footers say of the values as they are in the files leaves out no row of the table."""
    put(place, "parquet", a=pa.table({"n": have}), b=pa.table({"m": [1]}))
    table = rh.table(path=place.url, schema={"n": kind})
    whole = table.to_arrow()
    expected = whole.filter(pq.filters_to_expression([where])).to_pylist()
    assert 0 < len(expected) < 4
    assert table.to_arrow(where=[where]).to_pylist() == expected
    assert rows_of(table.stream(2, where=[where])) == expected
    assert rh.table(table.to_dask(where=[where])).to_arrow().to_pylist() == expected
    assert table.to_reader().schema == whole.schema
    if kind == "int64":
        assert table.sql("select * from t where n > 19").to_pylist() == expected


@pytest.mark.parametrize("form", FORMS)
def test_columns_of_directories(place, form):
    """They may stand anywhere in the schema, with any type, or not at all; what the directory says counts."""
    for kind, number in (("x", "1"), ("__HIVE_DEFAULT_PARTITION__", "2")):
        put(place, form, **{f"kind={kind}/part={number}/a": {"n": [int(number)], "part": ["7"]}})
    rows = [{"part": 1, "n": 1, "kind": "x"}, {"part": 2, "n": 2, "kind": None}]
    table = rh.table(path=place.url, schema={"part": "int8", "n": "int64", "kind": "string"})
    assert table.opened_files()[1].files[0].key.startswith("kind=__HIVE")
    for name, way in WAYS.items():
        found = way(table)
        assert sorted(found, key=lambda row: row["part"]) == rows, name
        assert list(found[0]) == ["part", "n", "kind"]
    assert table.to_arrow(where=[("part", "==", 2)]).to_pylist() == rows[1:]
    assert table.to_arrow(columns=["kind"], where=[("kind", "==", "x")]).to_pydict() == {"kind": ["x"]}
    alone = rh.table(path=place.url, schema={"kind": "string"})
    assert alone.num_rows == 2
    text = rh.table(path=place.url, schema={"part": "string"}).to_arrow()
    assert sorted(text["part"].to_pylist()) == ["1", "2"]
    for name, way in WAYS.items():
        assert sorted(str(row["kind"]) for row in way(alone)) == ["None", "x"], name
    without = rh.table(path=place.url, schema={"n": "int64"})
    for way in (WAYS["stream"], WAYS["to_arrow"]):
        assert sorted(row["n"] for row in way(without)) == [1, 2]
    never = pa.schema([pa.field("kind", pa.string(), nullable=False)])
    for work in (WAYS["to_arrow"], WAYS["stream"]):
        with pytest.raises(errors.InvalidError, match="partition column 'kind' is null"):
            work(rh.table(path=place.url, schema=never))
        with pytest.raises(errors.InvalidError, match="'x' is no int64, as partition column 'kind'"):
            work(rh.table(path=place.url, schema={"kind": "int64"}))


def test_one_file_and_options(tmp_path):
    (tmp_path / "export.txt").write_text("zip;n\n01;2\n")
    table = rh.table(
        path=tmp_path / "export.txt", format="csv", options={"delimiter": ";"}, schema={"n": "int8", "zip": "string"}
    )
    for name, way in WAYS.items():
        assert way(table) == [{"n": 2, "zip": "01"}], name


def test_nothing_but_empty_files(place):
    """Nothing else says what their columns are."""
    place.put({"1.csv": b"", "2.csv": b"\n"})
    table = rh.table(path=place.url, schema=SCHEMA)
    assert table.num_rows == 0
    assert table.schema.names == list(SCHEMA)
    for name in ("to_arrow", "stream", "sql", "sample"):
        assert WAYS[name](table) == [], name


def test_keys_of_json_lines_that_are_not_read_may_have_any_values(place):
    place.put({"1.jsonl": b'{"n": 1, "x": 1}\n{"n": 2, "x": "s", "y": {"z": []}}\n{"n": null, "x": [1]}\n'})
    table = rh.table(path=place.url, schema={"n": "int64"})
    assert table.num_rows == 3
    for name, way in WAYS.items():
        assert way(table) == [{"n": 1}, {"n": 2}, {"n": None}], name


@pytest.mark.parametrize("form", FORMS)
def test_a_file_with_none_of_the_columns_that_are_asked_for(place, form):
    """Nothing is said of its others, whatever they were given."""
    put(place, form, a={"n": ["x"]}, b={"m": ["y"]})
    table = rh.table(path=place.url, schema={"n": "decimal128(5, 1)", "m": "string"})
    expected = [{"m": None}, {"m": "y"}]
    assert table.to_arrow(columns=["m"]).to_pylist() == expected
    assert rows_of(table.stream(1, columns=["m"])) == expected
    assert table.sql("select m from t").to_pylist() == expected
    assert table.sql("select m from t where m is not null").to_pylist() == expected[1:]
    assert table.sample(5, columns=["m"]).to_pylist() == expected
    assert rh.table(table.to_dask(columns=["m"])).to_arrow().to_pylist() == expected


def test_no_file_is_asked_for_what_is_given(world):
    """The schema takes a listing, and a look for an index."""
    place = rh.folder(path=world["s3"] + "/many")
    put(place, "csv", **{f"f{n:02}": {"n": [n], "word": ["x" * 64]} for n in range(20)})
    table = rh.table(path=place.url, schema={"n": "int64"})
    with observe.counting() as counts:
        assert table.schema == pa.schema({"n": pa.int64()})
    assert counts.requests["s3", "read"] <= 1


# Bad input


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({}, "has no columns"),
        ({"n": "integer"}, "'integer' is no type for column 'n'"),
        ({"n": "in64"}, "'in64' is no type for column 'n'; did you mean int64"),
        ({"n": "timestamp[u]"}, "did you mean timestamp"),
        ({"n": "decimal128(99, 2)"}, "is no type for column 'n'"),
        ({"n": int}, "<class 'int'> is no type for column 'n'"),
        ({1: "int64"}, "the name of a column is text, not 1"),
        (5, "a dict of columns and types, not 5"),
        ("n=int64", "a dict of columns and types"),
        (pa.schema([("n", pa.int64()), ("n", pa.string())]), "two columns called 'n'"),
    ],
)
def test_schemas_that_cannot_be(place, schema, says):
    with pytest.raises(errors.InvalidError, match=says) as caught:
        rh.table(path=place.url, schema=schema)
    assert caught.value.hint


def test_where_a_schema_cannot_be_given(place, tmp_path):
    """For rows, queries, and writing; and not beside `column_types`. Nothing is changed."""
    with pytest.raises(errors.InvalidError, match="rows have the types that they have") as caught:
        rh.table({"n": [1]}, schema={"n": "string"})
    assert "cast" in caught.value.hint
    with pytest.raises(errors.InvalidError, match="the database says the types"):
        rh.table(query="select 1 as n", system=f"sqlite:///{tmp_path}/x.db", schema={"n": "string"})
    with pytest.raises(errors.InvalidError, match="column_types"):
        rh.table(path=place.url, schema={"n": "string"}, options={"column_types": {"n": "int64"}})
    put(place, "csv", a={"n": [1]})
    table = rh.table(path=place.url, schema={"n": "string"})
    for mode in ("error", "append", "overwrite"):
        with pytest.raises(errors.InvalidError, match="schema= says how files of others are read") as caught:
            table.write({"n": ["2"]}, mode=mode)
        assert "rh.table(path=…).write(rows)" in caught.value.hint
    assert place.ls(full_paths=False) == ["a.csv"]


def test_a_table_that_rh_wrote(tmp_path):
    """Its index says its columns; the same may be given, and another schema is an error that names what differs."""
    schema = pa.schema([("n", pa.int64()), ("word", pa.string())])
    never = pa.schema([schema.field(0).with_nullable(False), schema.field(1)])
    rh.table(pa.table({"n": [1], "word": ["a"]}), path=tmp_path / "own").write()
    table = rh.table(path=tmp_path / "own", schema=schema)
    for name, way in WAYS.items():
        assert way(table) == [{"n": 1, "word": "a"}], name
    for other, says in (
        ({"n": "string", "word": "string"}, "its column 'n' is int64, and schema= says string"),
        ({"n": "int64", "more": "string"}, "it has no column 'more'"),
        ({"word": "string", "n": "int64"}, "its columns are n, word, and schema= has word, n"),
        ({"n": "int64"}, "its columns are n, word, and schema= has n"),
        (never, "is int64, and schema= says int64 not null"),
    ):
        table = rh.table(path=tmp_path / "own", schema=other)
        for way in (lambda table: table.schema, lambda table: table.num_rows, *ERRING.values()):
            with pytest.raises(errors.InvalidError, match=says):
                way(table)


# The record


@pytest.mark.slow
def test_the_record_has_it(table, python):
    """Saved, loaded here and by another process, as plain JSON, pickled, moved and renamed: it is the same table."""
    saved = table.save("given")
    config = json.loads(json.dumps(saved.config()))
    for other in (
        rh.table(name="given"),
        rh.load("given"),
        rh.table(path="rh://given"),
        Resource.from_config(config),
        pickle.loads(pickle.dumps(saved)),
    ):
        assert other == saved
        assert other.schema == table.schema
        assert other.fetch("rows") == ROWS
    assert saved != rh.table(path=table.url, name="given")
    code = f"import rh; t = rh.table(name='given'); print(t.schema.names, t.fetch('rows') == {ROWS!r})"
    assert python(code) == "['word', 'late', 'n'] True\n"
    assert ("late", "int32") in list(saved.facts())
    other = rh.table(name="given", schema={"word": "string"})
    assert other.fetch("rows") == [{"word": row["word"]} for row in ROWS]
    with pytest.raises(errors.InvalidError, match="garbled"):
        Resource.from_config({**config, "schema": "%%%"})
    with pytest.raises(errors.InvalidError, match="garbled"):
        Resource.from_config({**config, "schema": "AAAA"}).fetch()


def test_versions_and_copies(table, tmp_path):
    """A version is of the files as they are, and read by the schema; so is a copy."""
    table = table.save("given")
    made = table.commit("as it was")
    assert made.number == 1
    rh.folder(path=table.url).rm(*rh.folder(path=table.url).ls(full_paths=False))
    old = rh.load("given:v1")
    assert old.fetch("rows") == rows_of(old.stream(2)) == ROWS
    assert old.num_rows == 3
    copy = old.to(path=tmp_path / "copy")
    assert copy.fetch("rows") == ROWS
    assert copy.schema == old.schema
    copy = copy.save("copied")
    copy.commit()
    assert not copy.at("v1").diff(old)


@pytest.mark.parametrize("system", ["s3", "ssh-a"])
def test_elsewhere(world, tmp_path, system):
    """The same on a store and on a host."""
    place = rh.folder(path=f"{world[system]}/given")
    for form in ("parquet", "csv", "jsonl"):
        folder = rh.folder(path=f"{place.url}/{form}")
        put(folder, form, **{"k=1/a": {"n": [1, 2], "extra": ["1", "x"]}, "k=2/b": {"late": [7]}})
        table = rh.table(path=folder.url, schema={"late": "int32", "k": "string", "n": "float64"})
        rows = [
            {"late": None, "k": "1", "n": 1.0},
            {"late": None, "k": "1", "n": 2.0},
            {"late": 7, "k": "2", "n": None},
        ]
        for name in ("to_arrow", "to_reader", "reader", "dataset", "stream", "sql", "sample"):
            assert WAYS[name](table) == rows, (form, name)
        assert table.to_arrow(where=[("n", ">", 1)]).to_pylist() == rows[1:2]
        assert table.save(f"{system}-{form}").schema == table.schema
        assert rh.table(name=f"{system}-{form}").fetch("rows") == rows
        assert rh.table(name=f"{system}-{form}").local().is_dir()
        assert table.to("here", path=tmp_path / form).fetch("rows") == rows
        missing = pa.schema([pa.field("n", pa.float64(), nullable=False)])
        with pytest.raises(errors.InvalidError, match="column 'n'") as caught:
            rh.table(path=folder.url, schema=missing).to_arrow()
        assert f"b.{form}" in caught.value.where
