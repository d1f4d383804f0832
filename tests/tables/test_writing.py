"""How rows become files: what is kept, what is refused before the first byte, and what a failure leaves."""

from __future__ import annotations

import datetime
import decimal
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import rh
from rh import config, observe
from rh.errors import ExistsError, FullError, InvalidError, NotFoundError, UnavailableError
from rh.systems import locate, open_system
from rh.systems.base import System
from rh.systems.memory import MemorySystem
from rh.systems.wrap import Faulty, Retrying
from rh.tables import access, adoption, store, writing
from rh.tables.base import INDEX
from rh.testing.faults import Cut, FaultProxy
from rh.types import Location
from tests.tables.data import packages, sources
from tests.tables.test_store import ROWS, everywhere, names, place, rows_of

__all__ = ["place"]


@pytest.fixture
def here(tmp_path) -> System:
    return open_system(locate(str(tmp_path / "table")))


@pytest.fixture
def memory() -> System:
    return open_system(locate(f"memory://{uuid4().hex}/table"))


def noise(rows: int, seed: int = 0) -> pa.Table:
    """Rows that do not compress."""
    return pa.table({"id": range(rows), "noise": [random.Random(f"{seed}/{n}").randbytes(100) for n in range(rows)]})


def footers(system: System) -> list[pq.FileMetaData]:
    found = []
    for file in store.look(system).files:
        with access.open_file(system, file) as source:
            found.append(pq.read_metadata(source))
    return found


# What is kept


@pytest.mark.slow
def test_real_tables_come_back(memory) -> None:
    """The package index with its nested lists, and long texts: every row, in its order."""
    for table in (packages(), sources()):
        writing.write(memory, table.to_reader(1000), mode="overwrite")
        assert rows_of(memory) == table


KEPT = [
    pa.null(),
    pa.bool_(),
    pa.int8(),
    pa.uint64(),
    pa.float16(),
    pa.float64(),
    pa.decimal128(20, 3),
    pa.decimal256(60, 3),
    pa.date32(),
    pa.time64("ns"),
    pa.timestamp("us", "UTC"),
    pa.timestamp("ns", "Europe/Berlin"),
    pa.duration("ns"),
    pa.large_string(),
    pa.binary(4),
    pa.large_list(pa.string()),
    pa.list_(pa.int8(), 3),
    pa.struct([("a", pa.list_(pa.int32()))]),
    pa.map_(pa.string(), pa.int32()),
    pa.dictionary(pa.int32(), pa.string()),
    pa.uuid(),
    pa.fixed_shape_tensor(pa.float32(), (2, 2)),
]
BECOMES = [
    (pa.timestamp("s"), pa.timestamp("ms")),
    (pa.time32("s"), pa.time32("ms")),
    (pa.date64(), pa.date32()),
    (pa.dictionary(pa.int32(), pa.int64()), pa.int64()),
    (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.string())),
    (
        pa.list_(pa.dictionary(pa.uint16(), pa.string(), ordered=True)),
        pa.list_(pa.dictionary(pa.int32(), pa.string(), ordered=True)),
    ),
    (pa.string_view(), pa.large_string()),
    (pa.binary_view(), pa.large_binary()),
    (pa.list_(pa.string_view()), pa.list_(pa.large_string())),
    (
        pa.map_(pa.string_view(), pa.list_(pa.binary_view(), 2)),
        pa.map_(pa.large_string(), pa.list_(pa.large_binary(), 2)),
    ),
]
LOST = [
    pa.month_day_nano_interval(),
    pa.struct([]),
    pa.run_end_encoded(pa.int32(), pa.string()),
    pa.dense_union([pa.field("a", pa.int8())]),
    pa.dictionary(pa.int8(), pa.struct([("a", pa.int8()), ("b", pa.int8())])),
]


@pytest.mark.parametrize(("kind", "stored"), [*((kind, kind) for kind in KEPT), *BECOMES], ids=str)
def test_types(memory, kind, stored) -> None:
    """What Parquet keeps is recorded as it was; what it widens is recorded as it is."""
    schema = pa.schema(
        [pa.field("x", kind, metadata={"a": "b"}), pa.field("n", pa.int64(), nullable=False)], {"k": "v"}
    )
    table = pa.table([pa.nulls(3, kind), [1, 2, 3]], schema=schema)
    snapshot = writing.write(memory, table.to_reader())
    found = access.schema(memory, snapshot)
    assert found.field("x").type == stored
    assert not found.field("n").nullable
    assert (found.metadata, found.field("x").metadata) == ({b"k": b"v"}, {b"a": b"b"})
    (metadata,) = footers(memory)
    assert metadata.schema.to_arrow_schema().field("x").type == stored


def test_views_are_filtered_and_shuffled(tmp_path) -> None:
    """Arrow neither filters nor takes views, so they are stored as what it does."""
    texts = ["a", "b" * 30, None, ""]
    view = pa.array(texts, pa.string_view())
    nested = pa.StructArray.from_arrays(
        [view, pa.array([[b"1"], [], None, [b"2" * 30]], pa.list_(pa.binary_view()))], "st"
    )
    table = rh.table(pa.table({"n": range(4), "view": view, "nested": nested}), path=tmp_path / "t").write()
    shuffled = pa.Table.from_batches(table.stream(3, shuffle_seed=1)).sort_by("n")
    assert shuffled["view"].to_pylist() == texts
    assert shuffled["nested"].to_pylist() == nested.to_pylist()
    assert table.to_arrow(where=("n", ">=", 1))["view"].to_pylist() == texts[1:]
    assert table.to_arrow(where=("view", "==", "a"))["nested"].to_pylist() == nested.to_pylist()[:1]
    again = table.write(pa.table({"n": [4], "view": view[:1], "nested": nested[:1]}), mode="append")
    assert again.num_rows == 5


def test_lists_of_no_values(tmp_path) -> None:
    """Parquet keeps no lists whose type says that they are empty: what is written of such cannot be read."""
    rows = pa.table({"x": pa.array([[], None, []], pa.list_(pa.int8(), 0))})
    table = rh.table(rows, path=tmp_path / "t").write()
    assert table.to_arrow().to_pydict() == pa.Table.from_batches(table.stream(2)).to_pydict() == rows.to_pydict()


def test_a_partition_column_of_views(tmp_path) -> None:
    rows = pa.table({"p": pa.array(["a", "b"], pa.string_view()), "n": [1, 2]})
    table = rh.table(rows, path=tmp_path / "t", partition_cols=["p"]).write()
    assert table.to_arrow(where=[("p", "=", "b")])["n"].to_pylist() == [2]
    assert sorted(pa.Table.from_batches(table.stream(2, shuffle_seed=1))["p"].to_pylist()) == ["a", "b"]


def _with_few_indices(first: int, layout: str) -> pa.RecordBatch:
    """100 texts, each another one, of a dictionary whose indices count up to 127."""
    values = pa.array([f"{number}" for number in range(first, first + 100)])
    column = pa.DictionaryArray.from_arrays(pa.array(range(100), pa.int8()), values, ordered=layout == "ordered")
    if layout == "struct":
        column = pa.StructArray.from_arrays([column], ["y"])
    elif layout == "list":
        column = pa.ListArray.from_arrays(pa.array(range(101), pa.int32()), column)
    return pa.record_batch([column], ["x"])


LAYOUTS = ["plain", "ordered", "struct", "list"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_have_more_values_together_than_their_indices_count(tmp_path, layout) -> None:
    batches = [_with_few_indices(first, layout) for first in (0, 100)]
    rows = pa.Table.from_batches(batches)["x"].to_pylist()
    table = rh.table(pa.RecordBatchReader.from_batches(batches[0].schema, batches), path=tmp_path / "t").write()
    table = table.write(pa.Table.from_batches([_with_few_indices(200, layout)]), mode="append")
    rows += _with_few_indices(200, layout)["x"].to_pylist()
    assert table.to_arrow()["x"].to_pylist() == rows
    assert pa.Table.from_batches(table.stream(250))["x"].to_pylist() == rows
    assert table.compact().to_arrow()["x"].to_pylist() == rows


@pytest.mark.parametrize("recorded", [False, True], ids=["adopted", "recorded"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_have_more_values_together_than_their_indices_count(tmp_path, here, layout, recorded) -> None:
    """Files of others, and a table whose index has such a type, as those that were written before have."""
    batches = [_with_few_indices(first, layout) for first in (0, 100)]
    (tmp_path / "table").mkdir()
    for number, batch in enumerate(batches):
        pq.write_table(pa.Table.from_batches([batch]), tmp_path / "table" / f"{number}.parquet")
    if recorded:
        base = store.look(here)
        store.publish(here, base, base.files, mode="overwrite", schema=batches[0].schema)
    table = rh.table(path=tmp_path / "table")
    rows = pa.Table.from_batches(batches)["x"].to_pylist()
    assert pa.Table.from_batches(table.stream(150))["x"].to_pylist() == rows
    table = table.write(pa.Table.from_batches(batches), mode="append").compact()
    assert table.to_arrow()["x"].to_pylist() == rows * 2


@pytest.mark.parametrize("columns", [(), ("id",)])
def test_text_that_is_no_utf8_is_not_written(memory, columns) -> None:
    rows = pa.table({"id": [1], "name": pa.array([b"M\xfcller"]).view(pa.string())})
    with pytest.raises(InvalidError, match="column 'name' has text that is not UTF-8"):
        writing.write(memory, rows.to_reader(), partition_cols=columns)
    assert names(memory) == []
    rows = rows.set_column(1, "name", rows["name"].combine_chunks().view(pa.binary()))  # as the hint says
    writing.write(memory, rows.to_reader())
    assert rows_of(memory)["name"].to_pylist() == [b"M\xfcller"]


@pytest.mark.parametrize("kind", LOST, ids=str)
def test_types_that_parquet_cannot_hold(memory, kind) -> None:
    """They are refused by the column's name, and nothing is written."""
    schema = pa.schema([("n", pa.int64()), ("odd", kind)])
    reader = pa.RecordBatchReader.from_batches(schema, iter(()))
    with observe.counting() as counts, pytest.raises(InvalidError, match="'odd'"):
        writing.write(memory, reader)
    assert counts.total() == 0


def test_files_and_row_groups(memory) -> None:
    """Row groups have at most so many rows, files about so many bytes; zstd, statistics; order is kept."""
    table = noise(40_000)
    snapshot = writing.write(memory, table.to_reader(777), group_rows=3000, file_bytes=1 << 20)
    assert len(snapshot.files) == 4
    assert [file.size >> 20 for file in snapshot.files[:-1]] == [1, 1, 1]
    groups = [metadata.row_group(n) for metadata in footers(memory) for n in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [3000] * 13 + [1000]
    assert {group.column(0).compression for group in groups} == {"ZSTD"}
    assert [group.column(0).statistics.min for group in groups] == [n * 3000 for n in range(14)]
    assert sum(file.rows for file in snapshot.files) == 40_000
    assert rows_of(memory) == table


def test_row_groups_of_wide_rows(memory, monkeypatch) -> None:
    """Row groups are bounded in bytes as well, down to single rows."""
    monkeypatch.setattr(writing, "GROUP_BYTES", 1 << 20)
    table = pa.table({"x": [bytes(300_000)] * 10 + [bytes(3 << 20)] + [b"small"] * 100})
    writing.write(memory, table.to_reader())
    (metadata,) = footers(memory)
    counts = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    assert max(counts[:4]) <= 3
    assert 1 in counts
    assert counts[-1] == 100
    assert rows_of(memory) == table


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "nested"])
def test_row_groups_of_a_large_dictionary(memory, monkeypatch, nested) -> None:
    """A dictionary that is larger than a row group is not counted for each slice of the rows that have it."""
    monkeypatch.setattr(writing, "GROUP_BYTES", 1 << 20)
    values = pa.array([f"{number:06d}{'x' * 94}" for number in range(40_000)])
    column = pa.DictionaryArray.from_arrays(pa.array([*range(0, 40_000, 20), None], pa.int32()), values)
    table = pa.table({"x": pa.StructArray.from_arrays([column], ["y"]) if nested else column})
    snapshot = writing.write(memory, table.to_reader(500))
    (metadata,) = footers(memory)
    assert metadata.num_row_groups == 1
    assert nested or metadata.row_group(0).total_byte_size < 1 << 20
    assert rows_of(memory).to_pylist() == table.to_pylist()
    assert access.schema(memory, snapshot).types == table.schema.types


def test_a_rewritten_table_shares_its_bytes(memory) -> None:
    """Content-defined chunking: with rows put in at the front, most pages are the same bytes again."""
    table = noise(60_000)
    writing.write(memory, table.to_reader())
    old = memory.read(store.look(memory).files[0].key).read()
    longer = pa.concat_tables([noise(100, seed=1), table])
    writing.write(memory, longer.to_reader(), mode="overwrite")
    new = memory.read(store.look(memory).files[0].key).read()
    windows = [random.Random(n).randrange(len(new) - 64) for n in range(200)]
    assert sum(new[at : at + 64] in old for at in windows) > 150


def test_appended_rows_come_last_whatever_the_clock_says(memory, monkeypatch) -> None:
    """Promise 38: with the clock turned back, key order still is the order of writing."""
    for n, now in enumerate((2_000_000_000, 1_000_000_000, 0, 1_500_000_000)):
        monkeypatch.setattr(time, "time_ns", lambda now=now: now * 10**9)
        writing.write(memory, pa.table({"n": [n]}).to_reader(), mode="append")
    assert rows_of(memory)["n"].to_pylist() == [0, 1, 2, 3]


def test_tables_without_rows(memory, here) -> None:
    """One file, which has the schema; appending no rows adds none."""
    for system, columns in ((memory, ()), (here, ("word",))):
        snapshot = writing.write(system, ROWS.schema.empty_table().to_reader(), partition_cols=columns)
        assert [file.rows for file in snapshot.files] == [0]
        assert rows_of(system) == ROWS.schema.empty_table()
        again = writing.write(system, ROWS.schema.empty_table().to_reader(), mode="append")
        assert again.files == snapshot.files


# What is refused


def test_rows_that_cannot_be_a_table(memory) -> None:
    """Each is refused before anything is asked of the place."""
    cases = [
        (pa.schema([]), {}, "needs a column"),
        (pa.schema([("x", pa.int8()), ("x", pa.int8())]), {}, "two columns are called 'x'"),
        (ROWS.schema, {"partition_cols": ["wort"]}, "near: word"),
        (ROWS.schema, {"partition_cols": ["word", "n"]}, "every column"),
        (ROWS.schema, {"partition_cols": ["word", "word"]}, "twice"),
        (pa.schema([("x", pa.list_(pa.int8())), ("n", pa.int8())]), {"partition_cols": ["x"]}, "'x' is list"),
        (ROWS.schema, {"mode": "replace"}, "'replace'"),
    ]
    for schema, options, told in cases:
        with observe.counting() as counts, pytest.raises(InvalidError) as caught:
            writing.write(memory, pa.RecordBatchReader.from_batches(schema, iter(())), **options)
        assert told in str(caught.value)
        assert counts.total() == 0


def test_appended_rows_have_the_schema_of_the_table(memory) -> None:
    """A column that is missing, new or of another type is named, with both types, before a byte is written."""
    writing.write(memory, ROWS.to_reader())
    cases = [
        (pa.table({"n": [1]}), ["the rows lack the column 'word'"]),
        (pa.table({"n": [1], "word": ["x"], "more": [1]}), ["the table lacks the column 'more'"]),
        (pa.table({"n": [1.5], "word": ["x"]}), ["'n' is int64 in the table and double in the rows"]),
    ]
    for rows, told in cases:
        with observe.counting() as counts, pytest.raises(InvalidError) as caught:
            writing.write(memory, rows.to_reader(), mode="append")
        assert all(text in str(caught.value) for text in told)
        assert counts.requests["memory", "write"] == 0
    with pytest.raises(InvalidError, match="partition columns"):
        writing.write(memory, ROWS.to_reader(), mode="append", partition_cols=["word"])


def test_what_may_differ_in_appended_rows(memory) -> None:
    """The order of columns, the width of offsets, and more nulls than before."""
    first = pa.schema([pa.field("n", pa.int64(), nullable=False), ("word", pa.string())])
    writing.write(memory, ROWS.cast(first).to_reader())
    other = pa.table({"word": pa.array(["x"], pa.large_string()), "n": pa.array([None], pa.int64())})
    snapshot = writing.write(memory, other.to_reader(), mode="append")
    schema = access.schema(memory, snapshot)
    assert schema == pa.schema([("n", pa.int64()), ("word", pa.string())])
    assert [footer.schema.to_arrow_schema().types for footer in footers(memory)] == [schema.types] * 2
    assert rows_of(memory).slice(1000).to_pylist() == [{"n": None, "word": "x"}]


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (pa.array([1], pa.int64()), pa.array([2], pa.int32())),
        (pa.array([1], pa.int64()), pa.array([None], pa.null())),
        (pa.array([1.5], pa.float64()), pa.array([2.5], pa.float32())),
        (pa.array([1.5], pa.float64()), pa.array([2], pa.int32())),
        (pa.array(["a"]), pa.array(["b"]).dictionary_encode()),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"])),
        (pa.array([1], pa.timestamp("us", "UTC")), pa.array([2], pa.timestamp("ms", "UTC"))),
        (pa.array([[1]], pa.list_(pa.int64())), pa.array([[2]], pa.list_(pa.int16()))),
        (pa.array([{"a": 1}]), pa.array([{"a": 2}], pa.struct([("a", pa.int8())]))),
    ],
    ids=str,
)
def test_appended_rows_become_the_wider_type_of_the_table(memory, table, rows) -> None:
    writing.write(memory, pa.table({"v": table}).to_reader())
    before = access.schema(memory, store.look(memory))
    snapshot = writing.write(memory, pa.table({"v": rows}).to_reader(), mode="append")
    assert access.schema(memory, snapshot) == before
    assert rows_of(memory)["v"].to_pylist() == [*table.to_pylist(), *rows.cast(table.type).to_pylist()]


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (pa.int32(), pa.int64()),
        (pa.int64(), pa.uint64()),
        (pa.float64(), pa.int64()),
        (pa.float32(), pa.float64()),
        (pa.string(), pa.int64()),
        (pa.int64(), pa.string()),
        (pa.timestamp("ms"), pa.timestamp("us")),
        (pa.timestamp("us", "UTC"), pa.timestamp("us")),
        (pa.null(), pa.int64()),
        (pa.date32(), pa.timestamp("s")),
        (pa.binary(), pa.string()),
    ],
    ids=str,
)
def test_appended_rows_of_which_a_value_might_be_lost_are_refused(memory, table, rows) -> None:
    """Whatever their values are: what the table takes does not hang on them."""
    writing.write(memory, pa.table({"v": pa.array([None], table)}).to_reader())
    stored = access.schema(memory, store.look(memory)).field("v").type
    with pytest.raises(InvalidError) as caught:
        writing.write(memory, pa.table({"v": pa.array([None], rows)}).to_reader(), mode="append")
    kept = writing.stored(pa.schema({"v": rows})).field("v").type
    assert f"the column 'v' is {stored} in the table and {kept} in the rows" in caught.value.message


def test_a_null_where_none_may_be(memory) -> None:
    """It is found while writing, and nothing stays."""
    schema = pa.schema([pa.field("n", pa.int64(), nullable=False)])
    with pytest.raises(InvalidError, match="n"):
        writing.write(memory, pa.table([pa.array([1, None])], schema=schema).to_reader())
    assert names(memory) == []


# Partitions

TEXTS = [None, "", "a/b", "x=y", "50%", "ü 日本", "..", "__HIVE_DEFAULT_PARTITION__", "%2F", "a\\b", "new\nline"]


@pytest.mark.parametrize("place", ["file", "memory", "moto", "azure"], indirect=True)
def test_texts_as_partition_values(place) -> None:
    """Null, the empty text and every odd character come back from the names of directories."""
    table = pa.table({"n": range(len(TEXTS) * 3), "text": TEXTS * 3})
    snapshot = writing.write(place, table.to_reader(), partition_cols=["text"])
    assert len(snapshot.files) == len(TEXTS)
    for text in TEXTS:
        (file,) = [file for file in snapshot.files if file.values == (text,)]
        assert file.rows == 3
    assert rows_of(place).sort_by("n") == table
    again = adoption.adopted(place, "parquet", list(place.list()), None)
    assert {file.values for file in again.files} == {(text,) for text in TEXTS}


VALUES = [
    pa.array([True, False, None]),
    pa.array([-1, 2**62, None]),
    pa.array([0, 2**64 - 1, None], pa.uint64()),
    pa.array([0.1, 1e300, None]),
    pa.array([decimal.Decimal("1.20"), decimal.Decimal("-0.01"), None]),
    pa.array([datetime.date(1, 1, 1), datetime.date(9999, 12, 31), None]),
    pa.array([1_700_000_000_123_456, -1, None], pa.timestamp("us")),
    pa.array([0, 1_700_000_000_123_456_789, None], pa.timestamp("ns", "America/New_York")),
    pa.array(["a", "b", None]).dictionary_encode(),
]


@pytest.mark.parametrize("values", VALUES, ids=lambda values: str(values.type))
def test_types_of_partition_values(memory, values) -> None:
    """They come back as what they were, by the recorded schema."""
    table = pa.table({"n": [0, 1, 2], "value": values})
    writing.write(memory, table.to_reader(), partition_cols=["value"])
    found = rows_of(memory)
    assert found.schema == table.schema
    assert sorted(found.to_pylist(), key=lambda row: row["n"]) == table.to_pylist()


def test_partitions_keep_the_order_of_their_rows(memory) -> None:
    """By two columns, real data: the rows of each are those it should have, in their order."""
    table = packages().append_column("at", pa.array(range(packages().num_rows)))
    writing.write(memory, table.to_reader(5000), partition_cols=["section", "priority"])
    found = rows_of(memory)
    assert found.sort_by("at").select(table.column_names) == table
    for pair in pc.unique(table["section"]).to_pylist():
        mine = found.filter(pc.equal(found["section"], pair) if pair is not None else pc.is_null(found["section"]))
        for priority in pc.unique(mine["priority"]).to_pylist():
            at = mine.filter(pc.equal(mine["priority"], priority))["at"].to_pylist()
            assert at == sorted(at)


@pytest.mark.slow
def test_many_partitions(memory, monkeypatch) -> None:
    """With more partitions than may be open and little held, all rows arrive; few files are open at once."""
    monkeypatch.setattr(writing, "HELD_BYTES", 100_000)
    threads = set()
    table = pa.table({"n": range(20_000), "key": [n * 7919 % 500 for n in range(20_000)]})

    def batches():
        for batch in table.to_batches(1000):
            threads.update({thread for thread in threading.enumerate() if thread.name == "rh-table"})
            assert sum(thread.is_alive() for thread in threads) <= 2 * (2 * writing.OPEN_FILES + 1)
            yield batch

    reader = pa.RecordBatchReader.from_batches(table.schema, batches())
    snapshot = writing.write(memory, reader, partition_cols=["key"])
    assert len({file.values for file in snapshot.files}) == 500
    assert rows_of(memory).sort_by("n") == table


# Parts of others


def test_parts_of_several_workers(here) -> None:
    """Parts are published together, in their order; a write that is given up leaves nothing."""
    begin = writing.begin(here, ROWS.schema, mode="append")
    parts = {
        n: writing.write_part(here.location, ROWS.slice(n * 10, 10).to_reader(), begin.write_id, n) for n in (2, 0, 1)
    }
    writing.finish(here, begin, [file for files in parts.values() for file in files])
    assert rows_of(here) == ROWS.slice(0, 30)
    begin = writing.begin(here, ROWS.schema, mode="append")
    for n in range(3):
        writing.write_part(here.location, ROWS.to_reader(), begin.write_id, n)
    writing.abandon(here, begin.write_id)
    assert len(names(here)) == 3
    with pytest.raises(InvalidError):
        writing.write_part(here.location, ROWS.to_reader(), begin.write_id, -1)


# Failures


def broken(table: pa.Table, error: BaseException, after: int) -> pa.RecordBatchReader:
    def batches():
        for n, batch in enumerate(table.to_batches(1000)):
            if n == after:
                raise error
            yield batch

    return pa.RecordBatchReader.from_batches(table.schema, batches())


@everywhere
@pytest.mark.parametrize("error", [ValueError("theirs"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_rows_that_fail_leave_nothing(place, error) -> None:
    """What the rows raise passes as it is; the table is as before, and no file stays."""
    writing.write(place, noise(500).to_reader())
    before = store.look(place), names(place)
    monkey = noise(30_000)
    for mode, columns in (("append", ()), ("overwrite", ()), ("overwrite", ("part",))):
        table = monkey.append_column("part", pc.bit_wise_and(monkey["id"], 3)) if columns else monkey
        with pytest.raises(type(error)):
            writing.write(place, broken(table, error, 25), mode=mode, partition_cols=columns, group_rows=2000)
        assert (store.look(place), names(place)) == before


def test_a_full_disk(tmp_path) -> None:
    """Promise 8: `FullError`, no file left, the table as before."""
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=True)
    try:
        system = open_system(locate(str(disk / "table")))
        writing.write(system, noise(10).to_reader())
        before = store.look(system), sorted(os.listdir(disk / "table"))
        for mode in ("append", "overwrite"):
            with pytest.raises(FullError):
                writing.write(system, noise(60_000).to_reader(), mode=mode)
            assert (store.look(system), sorted(os.listdir(disk / "table"))) == before
        assert rows_of(system) == noise(10)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # Arrow closes what was read a moment after its last row


def test_a_bad_wire() -> None:
    """Promise 14: with three of ten requests failing, their answers lost or cut off, every row arrives."""
    store_name = uuid4().hex
    inner = MemorySystem.open(Location("memory", f"{store_name}/table"), config.system("memory"))
    for seed in range(5):
        system = Retrying(Faulty(inner, seed=seed, errors=0.2, lost=0.1))
        writing.write(system, ROWS.to_reader(), mode="append", file_bytes=1, group_rows=100)
    assert rows_of(inner).num_rows == 5000
    assert len(names(inner)) == 50


def test_a_connection_that_breaks_in_mid_file(moto_server) -> None:
    """A request that is cut off when half of a file has gone is made again; the rows are not asked for twice."""
    table = noise(30_000)
    with FaultProxy(moto_server.port, http=True) as proxy:
        config.register("moto", moto_server.settings(via=proxy.port))
        system = open_system(locate(f"moto://{moto_server.buckets[0]}/{uuid4().hex}"))
        cut = Cut(
            direction="up",
            at=1 << 20,
            match=lambda request: request.method == "PUT" and "part-" in request.path,
            times=1,
        )
        proxy.plan = [cut]
        writing.write(system, table.to_reader(), group_rows=5000)
        assert proxy.injected
        assert rows_of(system) == table


def test_a_place_that_fails_for_good() -> None:
    """Its error ends the write, though rows would come for ever, and nothing is visible."""
    inner = MemorySystem.open(Location("memory", f"{uuid4().hex}/table"), config.system("memory"))
    system = Faulty(inner, errors=1.0, verbs=["write"])
    (batch,) = noise(1000).to_batches()
    reader = pa.RecordBatchReader.from_batches(batch.schema, itertools.repeat(batch))
    with pytest.raises(UnavailableError):
        writing.write(system, reader, group_rows=1000)
    assert names(inner) == []
    with pytest.raises(NotFoundError):
        inner.head(INDEX)


WRITER = """
import os, sys, pyarrow as pa, random
from rh.systems import locate, open_system
from rh.tables import writing
def there():  # what has its name, not what is still being written
    found = os.listdir(sys.argv[1]) if os.path.isdir(sys.argv[1]) else []
    return {name for name in found if not name.startswith(".rh-tmp-")}
before = there()
system = open_system(locate(sys.argv[1]))
schema = pa.schema([("noise", pa.binary())])
def batches():
    told = False
    for n in range(10**9):
        if n >= 40 and not told and there() - before:
            told = True
            print("far", flush=True)
        yield pa.record_batch([[random.randbytes(100_000) for _ in range(10)]], schema=schema)
writing.write(system, pa.RecordBatchReader.from_batches(schema, batches()), mode=sys.argv[2], group_rows=50,
              file_bytes=10 << 20)
"""


def _writer(system: System, mode: str, how: signal.Signals) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, system.location.path, mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "far\n"
    process.send_signal(how)
    process.communicate(timeout=60)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_a_killed_writer(here, tmp_path, mode) -> None:
    """Promise 6: the table is as before, the next write completes, and what lies there still is found."""
    writing.write(here, noise(10).select(["noise"]).to_reader())
    before = store.look(here)
    assert _writer(here, mode, signal.SIGKILL).returncode == -signal.SIGKILL
    assert store.look(here) == before
    left = {name for name in names(here) if name != before.files[0].key}
    assert left
    for name in left:
        os.utime(tmp_path / "table" / name, (1, 1))
    assert {entry.key for entry in store.debris(here)} == left
    writing.write(here, noise(10).select(["noise"]).to_reader(), mode=mode)
    assert rows_of(here).num_rows == (20 if mode == "append" else 10)


@pytest.mark.slow
def test_an_interrupted_writer(here, tmp_path) -> None:
    """Promise 28: Ctrl-C ends the write and leaves nothing: no table, no part, no unfinished file."""
    assert _writer(here, "error", signal.SIGINT).returncode != 0
    assert not (tmp_path / "table").exists() or os.listdir(tmp_path / "table") == []


PEAK = """
import sys, pyarrow as pa
from rh.systems import locate, open_system
from rh.tables import writing
schema = pa.schema([("n", pa.int64()), ("noise", pa.binary(1000))])
def batches():
    for n in range(600):
        yield pa.record_batch([[n] * 1000, [bytes([n % 256]) * 1000] * 1000], schema=schema)
columns = sys.argv[2].split(",") if len(sys.argv) > 2 else ()
writing.write(open_system(locate(sys.argv[1])), pa.RecordBatchReader.from_batches(schema, batches()),
              partition_cols=columns)
print(pa.default_memory_pool().max_memory())
"""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [(), ("n",)], ids=["whole", "partitioned"])
def test_memory_is_bounded(here, python, columns) -> None:
    """Six hundred megabytes of rows are never in memory at once."""
    peak = int(python(PEAK, here.location.path, *columns))
    assert peak < 2 * writing.GROUP_BYTES + writing.WAITING_BYTES + (writing.HELD_BYTES if columns else 0)
    assert access.num_rows(here, store.look(here)) == 600_000


def test_a_second_table_beside_data(here) -> None:
    """Where data files are, nothing is written without being told how."""
    here.write("x.csv", b"a\n1\n")
    with observe.counting() as counts, pytest.raises(ExistsError):
        writing.write(here, ROWS.to_reader())
    assert counts.requests["file", "write"] == 0


@pytest.mark.parametrize("published", [False, True])
def test_a_failure_that_is_no_error_of_ours(here, monkeypatch, published) -> None:
    """Files that were not published go, whatever went wrong; those of a table never do."""
    writing.write(here, noise(10).select(["noise"]).to_reader())
    before, publish = names(here), store.publish

    def failing(*arguments, **options):
        if published:
            publish(*arguments, **options)
        raise MemoryError

    monkeypatch.setattr(store, "publish", failing)
    with pytest.raises(MemoryError):
        writing.write(here, noise(10).select(["noise"]).to_reader(), mode="append")
    assert rows_of(here).num_rows == (20 if published else 10)
    assert (names(here) == before) is not published
