"""No value of a file is changed by the schema that is given for it, but fractions, which are rounded."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal

import pyarrow as pa
import pytest

import rh
from rh import errors
from tests.tables.test_given import ERRING, WAYS, put, rows_of

NOON = datetime.datetime.fromisoformat("2026-01-02T12:00")
DAY = datetime.datetime.fromisoformat("2026-01-02")
FIVE = datetime.datetime.fromisoformat("1970-01-01T05:00")
ZONED = pa.timestamp("us", "Europe/Helsinki")
HELSINKI = datetime.timezone(datetime.timedelta(hours=2))


@pytest.fixture
def place(tmp_path):
    return rh.folder(path=tmp_path / "data")


LOST = {
    "too large": ([1.0, 1e300], pa.float64(), "float32", "1e\\+300 would be inf"),
    "text too large": (["1", "1e400"], pa.string(), "float64", "1e400 would be inf"),
    "whole, rounded": ([1, 2049], pa.int64(), "float16", "2049 would be 2048"),
    "two are not true": ([1, 2], pa.int8(), "bool", "2 would be True"),
    "cents": ([1.5, 1.125], pa.float64(), "decimal128(20, 2)", "1.125 would be 1.12"),
    "cents of few bits": ([1.5, 1.125], pa.float32(), "decimal128(20, 2)", "1.125 would be 1.12"),
    "a day": ([DAY, NOON], pa.timestamp("us"), "date32", "2026-01-02 12:00:00.* would be 2026-01-02"),
    "a day in ms": ([DAY, NOON], pa.timestamp("ms"), "date64", "2026-01-02 12:00:00 would be 2026-01-02"),
    "a day there": ([DAY], ZONED, "date32", "would be 2026-01-02"),
    "a time": ([NOON], pa.timestamp("us"), "time64[us]", "would be 12:00:00"),
    "within lists": ([[1.0], None, [1e300]], pa.list_(pa.float64()), pa.list_(pa.float32()), "1e\\+300 would be inf"),
    "within structs": (
        [{"x": 1, "y": NOON}],
        pa.struct([("x", pa.int8()), ("y", pa.timestamp("us"))]),
        pa.struct([("x", pa.int64()), ("y", pa.date32())]),
        "would be 2026-01-02",
    ),
    "within maps": (
        [[("k", 1.125)]],
        pa.map_(pa.string(), pa.float64()),
        pa.map_(pa.string(), pa.decimal128(9, 2)),
        "1.125 would be 1.12",
    ),
    "within dictionaries": (
        [1e300],
        pa.dictionary(pa.int8(), pa.float64()),
        pa.dictionary(pa.int8(), pa.float32()),
        "1e\\+300 would be inf",
    ),
}


@pytest.mark.parametrize(
    ("form", "case"),
    [
        (form, case)
        for form in ("parquet", "arrow", "arrows")
        for case in LOST
        if form != "parquet" or "dictionaries" not in case  # it has none of fractions
    ],
)
def test_a_value_that_the_type_would_change(place, form, case):
    """The file, the column, both types, the value and what it would become; a type that holds it is the way out."""
    values, kind, want, says = LOST[case]
    put(place, form, a=pa.table({"n": pa.array(values[:1] * 0, kind), "m": pa.array([], pa.string())}))
    put(place, form, b=pa.table({"n": pa.array(values, kind), "m": ["x"] * len(values)}))
    table = rh.table(path=place.url, schema={"m": "string", "n": want})
    for name in ERRING if case == "too large" else ("to_arrow", "stream", "sample"):
        with pytest.raises(errors.InvalidError, match=says) as caught:
            ERRING[name](table)
        told = str(caught.value).replace("element: ", "item: ").replace(" ('n')", "")
        assert f"column 'n' is {kind} in this file and {table.schema.field('n').type} in the table" in told
        assert f"b.{form}" in str(caught.value.where), name
        assert f"such as {kind};" in told
    assert table.to_arrow(columns=["m"]).num_rows == len(values)
    if case == "too large":
        with pytest.raises(errors.InvalidError, match=says):
            table.to_arrow(where=[("n", ">", 5)])


KEPT = {
    "rounded": ([0.1, None, float("inf"), float("-inf")], pa.float64(), "float32", None),
    "text": (["inf", "-Infinity", "1.5", None], pa.string(), "float64", [float("inf"), float("-inf"), 1.5, None]),
    "whole": ([2048, None], pa.int64(), "float16", [2048.0, None]),
    "flags": ([0, 1, None], pa.int64(), "bool", [False, True, None]),
    "cents": ([0.1, None, 1e22], pa.float64(), "decimal128(38, 2)", [Decimal("0.10"), None, Decimal("1e22")]),
    "midnight": ([DAY, None], pa.timestamp("ns"), "date32", [DAY.date(), None]),
    "midnight there": ([DAY.replace(tzinfo=HELSINKI)], ZONED, "date32", [DAY.date()]),
    "no day": ([FIVE, None], pa.timestamp("us"), "time64[us]", [FIVE.time(), None]),
    "lists": ([[1.5, None], None], pa.list_(pa.float64()), pa.list_(pa.float32()), None),
    "maps": ([[("k", 1.5)], None], pa.map_(pa.string(), pa.float64()), pa.map_(pa.string(), pa.float32()), None),
}  # fmt: skip


@pytest.mark.parametrize("form", ["parquet", "arrow", "arrows"])
@pytest.mark.parametrize("case", KEPT)
def test_values_that_become_the_type(place, form, case):
    """In all files, whatever types they have, in their order, with filters and columns of directories."""
    values, kind, want, expected = KEPT[case]
    have = pa.array(values, kind)
    schema = {"k": "string", "n": want, "row": "int64"}
    put(place, form, **{"k=1/a": pa.table({"n": have, "row": list(range(len(have)))})})
    put(place, form, **{"k=2/b": pa.table({"row": [7]})})
    table = rh.table(path=place.url, schema=schema)
    again = pa.array(values, kind).cast(table.schema.field("n").type)
    made = again.to_pylist() if expected is None else expected
    rows = [{"k": "1", "n": value, "row": row} for row, value in enumerate(made)] + [{"k": "2", "n": None, "row": 7}]
    for name in WAYS if case == "rounded" else ("to_arrow", "stream", "sample", "to_reader"):
        assert WAYS[name](table) == rows, name
    assert table.to_arrow(columns=["n"], where=[("row", "==", 0)])["n"].to_pylist() == made[:1]
    assert rows_of(table.stream(2, columns=["k"], where=[("k", "==", "2")])) == [{"k": "2"}]


def test_decimals_of_many_fractions(place):
    """That Arrow's way back from a decimal is not always the nearest fraction refuses none."""
    values = [number / 1000 for number in range(10**15, 10**15 + 30_000, 7)] + [number / 100 for number in range(5000)]
    put(place, "parquet", a={"n": values})
    found = rh.table(path=place.url, schema={"n": "decimal128(38, 3)"}).to_arrow()
    assert [float(value) for value in found["n"].to_pylist()] == values


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_text_that_is_too_large(place, form):
    """Of text, fractions are rounded; those that would be infinite are errors."""
    put(place, form, a={"n": [0.1, 2.0]}, b={"n": [1.5, 1e300]})
    table = rh.table(path=place.url, schema={"n": "float32"})
    for name, way in ERRING.items():
        with pytest.raises(errors.InvalidError, match=r"'n' is double in .*1e\+300 would be inf") as caught:
            way(table)
        assert f"b.{form}" in str(caught.value.where), name
    place.rm(f"b.{form}")
    for name in ("to_arrow", "stream", "sql", "sample"):
        assert WAYS[name](table) == [{"n": pa.scalar(0.1, pa.float32()).as_py()}, {"n": 2.0}], name
    assert rh.table(path=place.url, schema={"n": "float16"}).to_arrow()["n"].to_pylist()[1] == 2.0


NEVER = {
    "lists": ([[1], [2, None]], pa.list_(pa.int64()), pa.list_(pa.field("item", pa.int64(), nullable=False)), "n[]"),
    "structs": (
        [{"x": 1}, None, {"x": None}],
        pa.struct([("x", pa.int64())]),
        pa.struct([pa.field("x", pa.int64(), nullable=False)]),
        "n.x",
    ),
    "both": (
        [[{"x": [1]}], [{"x": None}]],
        pa.list_(pa.struct([("x", pa.list_(pa.int64()))])),
        pa.list_(pa.struct([pa.field("x", pa.list_(pa.int64()), nullable=False)])),
        "n[].x",
    ),
    "maps": (
        [[("k", 1)], [("l", None)]],
        pa.map_(pa.string(), pa.int64()),
        pa.map_(pa.string(), pa.field("value", pa.int64(), nullable=False)),
        "n[].value",
    ),
}


@pytest.mark.parametrize("form", ["parquet", "arrow", "jsonl"])
@pytest.mark.parametrize("case", NEVER)
def test_fields_within_that_may_not_be_null(place, form, case):
    values, kind, want, path = NEVER[case]
    if (form, case) == ("jsonl", "maps"):
        put(place, form, a={"n": [1]})
        with pytest.raises(errors.InvalidError, match="values of jsonl do not become map"):
            rh.table(path=place.url, schema={"n": want}).to_arrow()
        return
    put(place, form, a=pa.table({"n": pa.array(values[:1], kind)}))
    table = rh.table(path=place.url, schema=pa.schema([pa.field("n", want), pa.field("m", pa.string())]))
    for name in ("to_arrow", "stream", "sql", "sample"):
        assert WAYS[name](table) == [{"n": values[0], "m": None}], name
    put(place, form, b=pa.table({"n": pa.array(values, kind)}))
    for name, way in ERRING.items():
        with pytest.raises(errors.InvalidError) as caught:
            way(table)
        assert f"column '{path}' has nulls in this file" in caught.value.message
        assert f"b.{form}" in str(caught.value.where), name


def test_types_that_are_given_for_some_columns(place):
    """`column_types` changes no value either."""
    put(place, "parquet", a={"n": [1e300], "m": [1]})
    table = rh.table(path=place.url, options={"column_types": {"n": "float32"}})
    for name in ("to_arrow", "stream", "sql", "sample"):
        with pytest.raises(errors.InvalidError, match=r"1e\+300 would be inf") as caught:
            WAYS[name](table)
        assert "column_types" in caught.value.hint
        assert '"double"' in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "value", "made"),
    [
        (pa.list_(pa.date32()), ["2026-01-02"], [DAY.date()]),
        (pa.struct([("d", pa.date64()), ("n", pa.int8())]), {"d": "2026-01-02", "n": 1}, {"d": DAY.date(), "n": 1}),
        (pa.list_(pa.struct([("d", pa.date32())])), [{"d": "2026-01-02"}, {}], [{"d": DAY.date()}, {"d": None}]),
        (pa.list_(pa.duration("s")), [5], [datetime.timedelta(seconds=5)]),
        (pa.list_(pa.dictionary(pa.int32(), pa.string())), ["a"], ["a"]),
        (pa.list_(pa.float32()), [1.5], [1.5]),
    ],
    ids=str,
)
def test_types_within_json_lines(place, kind, value, made):
    place.put({"a.jsonl": json.dumps({"n": value}).encode() + b'\n{"n": null}\n'})
    table = rh.table(path=place.url, schema={"n": kind})
    for name in ("to_arrow", "stream", "sample"):
        assert WAYS[name](table) == [{"n": made}, {"n": None}], name


# Text


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        (b"1.255", "decimal128(10, 2)", "is double in this file and .*: .*Rescaling"),
        (b"12345678", "decimal128(4, 2)", "is int64 in this file and .*: .*12345678"),
        (b"x", "decimal128(4, 2)", "is string in this file and .*: .*'x'"),
    ],
)
def test_decimals_of_csv(place, text, kind, says):
    place.put({"a.csv": b"n,m\n1.5,1\n", "b.csv": b"m,n\n1," + text + b"\n"})
    table = rh.table(path=place.url, schema={"m": "int8", "n": kind})
    for name, way in ERRING.items():
        with pytest.raises(errors.InvalidError, match=f"column 'n' {says}") as caught:
            way(table)
        assert "b.csv" in str(caught.value.where), name
        assert "schema=" in caught.value.hint


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ('{"n": 300}', "int8", r"'n' is number in line 3 of this file and int8 in the table: 300"),
        ('{"n": 1.5}', "int8", r"'n' is number in line 3 of this file and int8 in the table: 1\.5"),
        ('{"n": 1.555}', "decimal128(9, 2)", r"'n' is number in line 3 .* decimal128\(9, 2\) in the table: 1\.555"),
        ('{"n": {}}', "int8", r"'n' is object in line 3 of this file and int8 in the table: \{\}"),
        ('{"n": "1970-01-01T00:00:00.123456"}', "timestamp[ms]", r"'n' is string in line 3 .*: \"1970-01-01T00"),
        ('{"n": [1, 300]}', "list<int8>", r"'n' is array in line 3 of this file .*: \[1, 300\]"),
        ('{"n": null, "n": null}', "int8", "'n' is twice in line 3"),
        ("5", "int8", "line 3 of this file is no object, .* but number"),
    ],
)
def test_a_line_that_does_not_fit(place, line, kind, says):
    """File, line, column, both types and the value."""
    place.put({"a.jsonl": b"{}\n", "b.jsonl": f'{{"m": "x"}}\n\n{line}\n{{}}\n'.encode()})
    table = rh.table(path=place.url, schema={"m": "string", "n": kind})
    for name, way in ERRING.items():
        with pytest.raises(errors.InvalidError, match=says) as caught:
            way(table)
        assert "b.jsonl" in str(caught.value.where), name
        assert "column_types" not in caught.value.hint
        if "'n' is" in says:
            assert "schema=" in caught.value.hint


def test_a_line_that_is_no_json(place):
    place.put({"a.jsonl": b'{"n": 1}\n' * 9000 + b'{"n":\n'})
    for name in ("to_arrow", "stream", "sql"):
        with pytest.raises(errors.IntegrityError, match="line 9001 of this file is no JSON"):
            WAYS[name](rh.table(path=place.url, schema={"n": "int64"}))


LONG = "y" * (3 << 20)


@pytest.mark.slow
@pytest.mark.parametrize("schema", [None, {"n": "float32", "x": "string"}, {"n": "int8"}])
@pytest.mark.parametrize("before", [0, 400_000])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_row_that_is_longer_than_a_block(place, form, before, schema):
    """It is read in larger blocks, wherever it stands; no row is lost or given twice."""
    line = '{{"n": {}, "x": "{}"}}\n' if form == "jsonl" else "{},{}\n"
    text = "" if form == "jsonl" else "n,x\n"
    text += "".join(line.format(at % 100, "a") for at in range(before)) + line.format(100, LONG) + line.format(101, "b")
    place.put({f"a.{form}": text.encode(), f"b.{form}": text.encode()})
    table = rh.table(path=place.url, schema=schema)
    expected = [*(at % 100 for at in range(before)), 100, 101] * 2
    assert table.to_arrow()["n"].to_pylist() == expected
    assert [n for batch in table.stream(1000) for n in batch["n"].to_pylist()] == expected
    assert table.to_reader().read_all()["n"].to_pylist() == expected
    assert table.num_rows == len(expected)
    assert table.sql("select count(*) as c, max(n) as m from t").to_pylist() == [{"c": len(expected), "m": 101}]
    if schema is None or "x" in schema:
        assert table.to_arrow(where=[("n", ">", 99)])["x"].to_pylist() == [LONG, "b"] * 2


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_row_that_is_longer_than_any_block(place, monkeypatch, form):
    monkeypatch.setattr("rh.tables.blocks.MOST", 1 << 20)
    place.put({f"a.{form}": b'{"n": "' + LONG.encode() + b'"}\n' if form == "jsonl" else f"n\n{LONG}\n".encode()})
    for name in ("to_arrow", "stream", "sql"):
        with pytest.raises(errors.InvalidError, match="a row is longer than 1 MiB") as caught:
            WAYS[name](rh.table(path=place.url, schema={"n": "string"}))
        assert "block_size" in caught.value.hint
    table = rh.table(path=place.url, schema={"n": "string"}, options={"block_size": 8 << 20})
    assert table.to_arrow()["n"].to_pylist() == [LONG]


# Names


@pytest.mark.parametrize("form", ["parquet", "arrow", "csv"])
def test_two_columns_of_one_name(place, form):
    """An error that names the file and the column; of files that say their types, another column can be read."""
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["n", "n", "m"])
    place.put({f"b.{form}": b"n,n,m\n1,2,3\n"}) if form == "csv" else put(place, form, b=twice)
    put(place, form, a={"n": [1], "m": [2]})
    tables = [rh.table(path=place.url), rh.table(path=place.url, schema={"n": "int64"})]
    tables += [rh.table(path=f"{place.url}/b.{form}", schema=schema) for schema in (None, {"n": "int64"})]
    for table in tables:
        for name, way in ERRING.items():
            with pytest.raises(errors.InvalidError, match="two columns of this file are called 'n'") as caught:
                way(table)
            assert f"b.{form}" in str(caught.value.where), name
            assert "\n" not in caught.value.message
    if form != "csv":
        other = rh.table(path=place.url, schema={"m": "int64"})
        for name in ("to_arrow", "stream", "sql", "to_reader"):
            assert WAYS[name](other) == [{"m": 2}, {"m": 3}], name


def test_a_name_that_is_almost_there(place, caplog):
    """Told once, without an error: such a column is null."""
    put(place, "parquet", a={"Zip": [1], "count": [1], "m": [1]}, b={"Zip": [1], "count": [1], "m": [1]})
    table = rh.table(path=place.url, schema={"zip": "int64", "counts": "int64", "n": "int64"})
    assert table.to_arrow().num_rows == 2
    assert table.to_arrow().num_rows == 2
    assert sorted(record.getMessage().partition(", which")[0] for record in caplog.records) == [
        "schema= says column 'counts'",
        "schema= says column 'zip'",
    ]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("struct<a: int64>", "pyarrow.struct(…)"),
        ("map<string, int64>", "pyarrow.map_(…)"),
        ("dictionary<string>", "pyarrow.dictionary(…)"),
        ("timestamp[us, tz=Mars/Base]", "schema="),
    ],
)
def test_types_that_have_no_name(place, kind, says):
    with pytest.raises(errors.InvalidError, match="for column 'n'") as caught:
        rh.table(path=place.url, schema={"n": kind})
    assert says in caught.value.hint


def test_names_of_types(place):
    put(place, "parquet", a={"n": [1]})
    for kind, expected in (
        ("decimal(10,2)", pa.decimal128(10, 2)),
        ("list<element: double>", pa.list_(pa.float64())),
        ("timestamp[s, tz=+02:00]", pa.timestamp("s", "+02:00")),
    ):
        assert rh.table(path=place.url, schema={"n": kind}).schema.field("n").type == expected
    with pytest.raises(errors.InvalidError) as caught:
        rh.table(path=place.url, schema={"n": "decimal256(50, 2)"}).sql("select * from t")
    assert "38 digits" in caught.value.hint


def test_what_else_is_told(place):
    """Options that are arguments of tables, and directories whose values do not fit."""
    place.put({"y=2025/a.csv": b"n,m\n1,2\n"})
    with pytest.raises(errors.InvalidError, match="'include_columns' is not for tables") as caught:
        rh.table(path=place.url, options={"include_columns": ["n"]}).to_arrow()
    assert "columns=" in caught.value.hint
    with pytest.raises(errors.InvalidError, match="'2025' is no date32") as caught:
        rh.table(path=place.url, schema={"y": "date32"}).to_arrow()
    assert caught.value.where == f"{place.url}/y=2025/a.csv"
    assert "schema=" in caught.value.hint
