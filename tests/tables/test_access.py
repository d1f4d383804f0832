"""How Arrow reads a table's files where they are: few requests, typed errors, never another table's rows."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from dataclasses import replace
from datetime import datetime, timedelta
from operator import eq, ge, gt, le, lt, ne
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from rh import F, config, observe
from rh.errors import AccessError, ConflictError, IntegrityError, InvalidError
from rh.systems import locate, open_system
from rh.systems.base import System
from rh.tables import access, store, writing
from rh.tables.base import INDEX, DataFile, Snapshot
from rh.tables.stream import Stream
from rh.testing.faults import FaultProxy, Status
from tests.tables.data import packages

EVERYWHERE = ["file", "memory", "s3", "gs", "azure", "ssh-a"]


@pytest.fixture
def place(request, world, tmp_path) -> System:
    roots = {**world, "file": str(tmp_path / "t"), "memory": f"memory://{uuid4().hex}/t"}
    return open_system(locate(roots[request.param])).at("table")


@pytest.fixture
def here(tmp_path) -> System:
    return open_system(locate(str(tmp_path / "table")))


def put(system: System, key: str, table: pa.Table, **options) -> DataFile:
    """A Parquet file as another tool writes it."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    entry = system.write(key, buffer.getvalue())
    return DataFile(key, entry.size, None, entry.etag)


def rows(system: System, snapshot: Snapshot, **options) -> pa.Table:
    stream = Stream(system, snapshot, 1000, **options)
    return pa.Table.from_batches(list(stream), stream.schema)


@pytest.mark.parametrize("place", EVERYWHERE, indirect=True)
def test_a_dataset_reads_only_what_a_filter_leaves_and_can_be_sent_elsewhere(place) -> None:
    """Files are left out by their directories and row groups by their statistics; the dataset can be pickled."""
    table = packages().slice(0, 3000).select(["package", "section", "size_bytes"]).sort_by("section")
    snapshot = writing.write(place, table.to_reader(), partition_cols=["section"])
    dataset = pickle.loads(pickle.dumps(access.dataset(place, snapshot)))
    assert dataset.count_rows() == access.num_rows(place, snapshot) == len(table)
    assert dataset.schema == access.schema(place, snapshot)
    section = table["section"][1500].as_py()
    held = [("section", "=", section)]
    with observe.counting() as counts:
        found = dataset.to_table(filter=access.expression(held, dataset.schema))
    assert sorted(found["package"].to_pylist()) == sorted(
        table.filter(pc.field("section") == section)["package"].to_pylist()
    )
    files = {file.key for file in snapshot.files if section in file.values}
    assert 1 <= len(files) < len(snapshot.files)
    name = place.location.system
    assert counts.requests[name, "read"] <= 3 * len(files)


@pytest.mark.parametrize("form", ["csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "arrow", "arrows", "parquet"])
def test_every_format_has_a_schema_a_number_of_rows_and_rows(here, form: str) -> None:
    """Text formats may be compressed; Arrow files may have the footer or be a stream of batches."""
    table = pa.table({"n": [1, 2, 3], "word": ["a", "b", "ä"]})
    buffer = io.BytesIO()
    if form.startswith(("csv", "tsv")):
        options = pyarrow.csv.WriteOptions(delimiter="\t" if form == "tsv" else ",")
        pyarrow.csv.write_csv(table, buffer, options)
    elif form.startswith("jsonl"):
        buffer.write("".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode())
    elif form == "parquet":
        pq.write_table(table, buffer)
    else:
        with (pa.ipc.new_file if form == "arrow" else pa.ipc.new_stream)(buffer, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    data = buffer.getvalue()
    for key in ("a", "b"):
        here.write(f"{key}.{form.removesuffix('s')}", gzip.compress(data) if form.endswith("gz") else data)
    snapshot = store.look(here)
    assert access.schema(here, snapshot) == table.schema
    assert rows(here, snapshot) == pa.concat_tables([table, table])
    assert rows(here, snapshot, columns=["word"], where=[("n", ">", 2)]).to_pydict() == {"word": ["ä", "ä"]}
    if form != "arrows":
        assert access.num_rows(here, snapshot) == 6
        assert access.dataset(here, snapshot).to_table() == pa.concat_tables([table, table])


EXAMPLE = 'where=[("column", ">", 3), …]'
INT64 = "a value that is int64, or a column of another type"


@pytest.mark.parametrize(
    ("where", "said", "fix"),
    [
        ([("sise", ">", 3)], "'sise'", "did you mean 'size'?"),
        (pc.field("sise") > 3, "'sise'", "did you mean 'size'?"),
        ([("size", ">", "x")], "does not fit the table: the column 'size' is int64, and 'x' is str", INT64),
        ([("size", ">", 1), ("name", "=", 1)], "'name' is string, and 1 is int", INT64.replace("int64", "string")),
        ([[("size", ">", 1)], [("size", "in", ["x"])]], r"'size' is int64, and \['x'\] is of str", INT64),
        (pc.field("size") > "x", "does not fit", None),
        ([("size", "~", 3)], "not a filter", EXAMPLE),
        ("size > 3", "Expression or a list", EXAMPLE),
        (F.size > 3, "Expression or a list", EXAMPLE),
    ],
)
def test_a_filter_that_cannot_be_right_says_why(where, said: str, fix: str | None) -> None:
    """An unknown column is named with the nearest one, and what is no filter gets an example of one."""
    schema = pa.schema([("size", pa.int64()), ("name", pa.string())])
    with pytest.raises(InvalidError, match=said) as caught:
        access.expression(where, schema)
    assert caught.value.hint == fix


def test_one_condition_needs_no_list() -> None:
    schema = pa.schema([("size", pa.int64()), ("name", pa.string())])
    for one in (("size", ">", 3), ["name", "==", "x"]):
        assert access.expression(one, schema).equals(access.expression([tuple(one)], schema))


OPERATORS = {"==": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
BASE = 1_700_000_000_000_000_000


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array([0, 5, 2**63, 2**64 - 1, None], pa.uint64()), [-1, 0, 5, 5.5, 2**63, 2**64 - 1, 2**64, 2**70]),
        (pa.array([-(2**63), -1, 7, 2**63 - 1, None]), [-(2**70), -(2**63), -1, 6.5, 7.0, 2**53 + 1, 2**63, 2**70]),
        (pa.array([-128, 3, 127, None], pa.int8()), [-129, -128, 3, 127, 128, 1e300]),
        (pa.array([0.5, 1e30, None]), [2**70, -(2**70)]),
    ],
    ids=lambda one: str(getattr(one, "type", "")),
)
def test_numbers_are_compared_as_they_are(here, column, values) -> None:
    """Whatever the type of the column can hold; streams and tables agree."""
    snapshot = numbered(here, column)
    assert_compared(here, snapshot, column.to_pylist(), [(value, value) for value in values])


@pytest.mark.parametrize("zone", [None, "Asia/Tokyo"])
@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_times_are_compared_to_the_nanosecond(here, unit: str, zone: str | None) -> None:
    import pandas as pd

    step = {"s": 10**9, "us": 10**3, "ns": 1}[unit]
    counts = [(BASE + add) // step for add in (0, 1, 2, 1000, 10**9)]
    column = pa.array([*counts, None], pa.timestamp(unit, zone))
    snapshot = numbered(here, column)
    times = [pd.Timestamp(BASE + add, tz=zone) for add in (-1, 0, 1, 500, 1000, 10**9, 10**9 + 1)]
    pairs = [(time, time.value) for time in times]
    if zone is None:
        pairs += [(np.datetime64(count, "ns"), count) for _, count in pairs]
        pairs += [
            (datetime.fromisoformat(f"{year}-01-01"), sign * 10**22) for year, sign in (("9999", 1), ("0001", -1))
        ]
    assert_compared(here, snapshot, [*(count * step for count in counts), None], pairs)


def test_durations_are_compared_to_the_nanosecond(here) -> None:
    import pandas as pd

    snapshot = numbered(here, pa.array([1, 2, 1000], pa.duration("ns")))
    pairs = [(make(count, "ns"), count) for make in (pd.Timedelta, np.timedelta64) for count in (0, 1, 2, 999, 1000)]
    assert_compared(here, snapshot, [1, 2, 1000], [*pairs, (timedelta(days=10**6), 10**24)])


def assert_compared(here, snapshot: Snapshot, have: list, pairs: list[tuple[Any, Any]]) -> None:
    """Hold filters against Python: `pairs` are values as they are given, and as they compare with those of `have`."""
    for value, number in pairs:
        for operator, holds in OPERATORS.items():
            where = [("v", operator, value)]
            wanted = [at for at, one in enumerate(have) if one is not None and holds(one, number)]
            assert left(here, snapshot, where) == wanted, where
    if isinstance(have[0], int):
        some = [value for value, _ in pairs]
        wanted = [at for at, one in enumerate(have) if one is not None and one in {number for _, number in pairs}]
        for values in (some, set(some)):
            assert left(here, snapshot, [[("v", "in", values)]]) == wanted


def numbered(here, column: pa.Array) -> Snapshot:
    """A table of one column, and the numbers of its rows."""
    return Snapshot("parquet", (put(here, "a.parquet", pa.table({"i": range(len(column)), "v": column})),))


def left(here, snapshot: Snapshot, where) -> list[int]:
    """The numbers of the rows that a filter leaves: the same of the table and of a stream."""
    files = access.dataset(here, snapshot)
    found = access.scanner(here, snapshot, files, where=access.expression(where, files.schema)).to_table()
    with Stream(here, snapshot, 100, where=where) as stream:
        assert [number for batch in stream for number in batch["i"].to_pylist()] == found["i"].to_pylist()
    return found["i"].to_pylist()


def test_a_filter_that_fails_on_the_rows_is_no_damage_of_the_files(here) -> None:
    table = pa.table({"v": pa.array([1, 2**63], pa.uint64())})
    snapshot = Snapshot("parquet", (put(here, "a.parquet", table, write_statistics=False),))
    with (
        Stream(here, snapshot, 2, where=pc.field("v") > 5) as stream,
        pytest.raises(InvalidError, match="the filter does not fit the table"),
    ):
        next(stream)


@pytest.mark.parametrize("columns", [["nme"], [], "name", ["name", "name"]])
def test_columns_are_checked(columns) -> None:
    with pytest.raises(InvalidError, match=r"nme|no column is asked|list of names|twice"):
        access.check_columns(columns, pa.schema([("size", pa.int64()), ("name", pa.string())]))


def test_narrower_files_are_promoted_and_others_named(here) -> None:
    """What differs is said with the file, the column and both types."""
    wide = put(here, "a.parquet", pa.table({"n": pa.array([1], pa.int64()), "x": pa.array([1.5])}))
    narrow = put(here, "b.parquet", pa.table({"x": pa.array([2.5], pa.float32()), "n": pa.array([2], pa.int16())}))
    assert rows(here, Snapshot("parquet", (wide, narrow))).to_pydict() == {"n": [1, 2], "x": [1.5, 2.5]}
    other = put(here, "c.parquet", pa.table({"n": ["one"], "x": [1.0]}))
    with pytest.raises(InvalidError, match=r"'n' is string in this file and int64 in the table.*c\.parquet"):
        rows(here, Snapshot("parquet", (wide, other)))
    without = put(here, "d.parquet", pa.table({"x": [1.0]}))
    with pytest.raises(InvalidError, match=r"'n' of the table is not in this file.*d\.parquet"):
        rows(here, Snapshot("parquet", (wide, without)))
    assert rows(here, Snapshot("parquet", (wide, without)), columns=["x"]).num_rows == 2


def test_partition_values_have_the_type_all_of_them_have(here) -> None:
    """Whole numbers where all are, text otherwise; a null is a null; a value of another type is named."""
    files = [put(here, f"{n}.parquet", pa.table({"v": [n]})) for n in range(3)]
    values = ("7", None, "-12")
    snapshot = Snapshot("parquet", tuple(f._replace(values=(v,)) for f, v in zip(files, values, strict=True)), ("k",))
    assert rows(here, snapshot).to_pydict() == {"v": [0, 1, 2], "k": [7, None, -12]}
    assert rows(here, snapshot, columns=["k"]).to_pydict() == {"k": [7, None, -12]}
    assert rows(here, snapshot, where=[("k", "<", 0)]).to_pydict() == {"v": [2], "k": [-12]}
    text = replace(snapshot, files=(*snapshot.files[:2], snapshot.files[2]._replace(values=("007",))))
    assert rows(here, text)["k"].to_pylist() == ["7", None, "007"]
    told = replace(text, schema=bytes(pa.schema([("v", pa.int64()), ("k", pa.date32())]).serialize()))
    with pytest.raises(InvalidError, match=r"'7' is no date32.*'k'"):
        rows(here, told)


@pytest.mark.parametrize("place", EVERYWHERE, indirect=True)
def test_a_table_that_changed_is_a_conflict_and_a_damaged_one_is_not(place) -> None:
    """A file replaced by another of the same size, one cut short, and one removed, on every system.

    As long as the index names the file as it was, to open the table again is no help; it is, once the index changed.
    """
    table = pa.table({"n": range(5000)})
    for change in ("replace", "cut", "remove"):
        snapshot = writing.write(place, table.to_reader(), mode="overwrite")
        [file] = snapshot.files
        with place.read(file.key) as body:
            data = body.read()
        if change == "remove":
            place.delete([file.key])
        else:
            place.write(file.key, bytes(reversed(data)) if change == "replace" else data[:-1])
        for known in (snapshot, store.look(place)):
            with pytest.raises(IntegrityError, match=r"the table is damaged.*part-.*\n.*restore") as caught:
                rows(place, known)
            assert ("is lost" in caught.value.message) is (change == "remove")
            with pytest.raises(IntegrityError), access.translated(place.url()):
                access.dataset(place, known).to_table()
        for change_of_index in ("overwrite", "remove"):
            if change_of_index == "overwrite":
                writing.write(place, table.to_reader(), mode="overwrite")
            else:
                place.delete([INDEX])
            with pytest.raises(ConflictError, match=r"the table changed.*part-"):
                rows(place, snapshot)
            with pytest.raises(ConflictError), access.translated(place.url()):
                access.dataset(place, snapshot).to_table()


def test_a_damaged_file_is_an_integrity_error_whatever_bit_is_wrong() -> None:
    """Every byte of a small file in turn: its footer, its pages' heads and their values. There are never wrong rows."""
    system = open_system(locate(f"memory://{uuid4().hex}/t"))
    table = pa.table({"n": range(50), "word": [f"w{n % 7}" for n in range(50)]})
    snapshot = writing.write(system, table.to_reader())
    file = snapshot.files[0]
    with system.read(file.key) as body:
        data = body.read()
    # Without the etag, as where a disk or a wire flips the bit; the digest tells it of files that are fetched whole.
    known = replace(snapshot, files=(file._replace(etag=None),))
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        system.write(file.key, damaged)
        with pytest.raises(IntegrityError):
            rows(system, known, prefetch=0)


def test_a_damaged_page_is_found_by_its_checksum() -> None:
    """Also in a file that is never read whole: pages carry checksums, and their heads do not decode."""
    system = open_system(locate(f"memory://{uuid4().hex}/t"))
    snapshot = writing.write(system, packages().slice(0, 4000).to_reader())
    [file] = snapshot.files
    assert file.size > 1 << 16
    with system.read(file.key) as body:
        data = body.read()
    table = rows(system, snapshot)
    known = replace(snapshot, files=(file._replace(etag=None),))
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    found = 0
    for at in range(4, footer, footer // 150):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        system.write(file.key, damaged)
        try:
            assert rows(system, known, prefetch=0) == table
        except IntegrityError:
            found += 1
    assert found > 140


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "arrow"])
def test_what_is_no_such_file_is_an_integrity_error_that_names_it(here, form: str) -> None:
    entry = here.write(f"x.{form}", b'{"a": 1}\n{"a": ]\n,"' if form == "jsonl" else b"\x00\xff\xfe,a\n1\n1,2,3,4\n")
    with pytest.raises(IntegrityError, match=rf"x\.{form}"):
        rows(here, Snapshot(form, (DataFile(entry.key, entry.size, None, entry.etag),)))


def test_a_value_that_does_not_fit_its_column_is_invalid(here) -> None:
    """The types of CSV are found in its first block, or given."""
    entry = here.write("x.csv", b"n\n1\ntwo\n")
    schema = bytes(pa.schema([("n", pa.int64())]).serialize())
    snapshot = Snapshot("csv", (DataFile(entry.key, entry.size, None, entry.etag),), (), schema)
    with pytest.raises(InvalidError, match=r"two.*x\.csv"):
        rows(here, snapshot)


def test_a_table_that_may_not_be_read_says_so(world, s3_server) -> None:
    """It is not taken for one that is damaged, missing or changed."""
    system = open_system(locate(world["s3"])).at("t")
    snapshot = writing.write(system, pa.table({"n": [1]}).to_reader())
    with FaultProxy(s3_server.port, [Status(code=403, times=None)], seed=1, http=True) as proxy:
        config.register("barred", s3_server.settings(via=proxy.port))
        barred = open_system(replace(system.location, system="barred"))
        with pytest.raises(AccessError):
            rows(barred, snapshot)


def test_a_table_without_files_has_no_schema(here) -> None:
    with pytest.raises(InvalidError, match="no files"):
        access.schema(here, Snapshot("parquet", ()))
