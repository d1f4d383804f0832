"""SQL over a table's files: DuckDB reads them where they are, as little as it can, and nothing else."""

from __future__ import annotations

import io
import os
import tempfile
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rh
from rh import config, observe
from rh.errors import ConflictError, FullError, IntegrityError, InvalidError, NotFoundError
from rh.systems import locate, open_system
from rh.tables import query
from rh.tables.base import DataFile, Snapshot

ROWS = 40_000


@cache
def rows(start: int = 0, count: int = ROWS) -> pa.Table:
    """Numbers, their text, and a column that does not compress and is not asked for."""
    noise = os.urandom(32 * count)
    return pa.table(
        {
            "number": pa.array(range(start, start + count), pa.int64()),
            "text": [f"row {n}" for n in range(start, start + count)],
            "noise": [noise[32 * n : 32 * n + 32] for n in range(count)],
        }
    )


def stored(system, *tables: pa.Table) -> Snapshot:
    files = []
    for number, table in enumerate(tables):
        target = io.BytesIO()
        pq.write_table(table, target, row_group_size=5_000, write_page_checksum=True)
        entry = system.write(f"part-{number}.parquet", target.getvalue())
        files.append(DataFile(entry.key, entry.size, table.num_rows, entry.etag))
    return Snapshot("parquet", tuple(files))


@pytest.fixture
def here(tmp_path):
    (tmp_path / "table").mkdir()
    system = open_system(locate(tmp_path / "table"))
    return system, stored(system, rows(), rows(ROWS))


def test_a_query_gives_arrow(here):
    found = query.sql(*here, "select count(*) as n, min(number) as low, max(text) as high from t where number >= 10")
    assert found.to_pylist() == [{"n": 2 * ROWS - 10, "low": 10, "high": "row 9999"}]


def test_rows_come_in_the_order_of_the_files(here):
    numbers = query.sql(*here, "select number from t").column("number")
    assert numbers.to_pylist() == list(range(2 * ROWS))


def test_parameters_are_bound(here):
    hostile = "row 1' or number >= 0 --"
    assert query.sql(*here, "select * from t where text = ?", parameters=[hostile]).num_rows == 0
    assert query.sql(*here, "select number from t where text = $1", parameters=["row 7"]).to_pylist() == [{"number": 7}]
    named = query.sql(*here, "select number from t where text = $text", parameters={"text": "row 8"})
    assert named.to_pylist() == [{"number": 8}]


def test_further_tables_have_their_names(here, tmp_path):
    """A table of rh, and rows in memory of any library that speaks Arrow."""
    (tmp_path / "other").mkdir()
    other = open_system(locate(tmp_path / "other"))
    tables = {
        "other": (other, stored(other, rows(5, 3))),
        "memory": pa.table({"number": [6, 7, 8]}),
        "reader": pa.table({"number": [7, 9]}).to_reader(),
    }
    text = "select number from t join other using (number) join memory using (number) join reader using (number)"
    assert query.sql(*here, text, tables=tables).to_pylist() == [{"number": 7}]
    with pytest.raises(InvalidError, match="'wrong' is no table: a query cannot read int"):
        query.sql(*here, "select 1", tables={"wrong": 5})


def test_columns_and_filters_reach_the_files(s3_server):
    """One column and one of 16 row groups: a small part of the table's bytes crosses the wire (counted on S3)."""
    config.register("s3", s3_server.settings(root=f"s3://{s3_server.buckets[0]}/sql"))
    system = open_system(locate("table", "s3"))
    snapshot = stored(system, rows(), rows(ROWS))
    whole = sum(file.size for file in snapshot.files)
    with observe.counting() as all_of_it:
        assert query.sql(system, snapshot, "select * from t").num_rows == 2 * ROWS
    assert sum(all_of_it.received.values()) >= whole
    with observe.counting() as column:
        assert query.sql(system, snapshot, "select sum(number)::bigint as s from t").to_pylist() == [
            {"s": sum(range(2 * ROWS))}
        ]
    assert sum(column.received.values()) < 0.4 * whole
    with observe.counting() as group:
        text = "select noise from t where number = ?"
        assert query.sql(system, snapshot, text, parameters=[7]).num_rows == 1
    assert sum(group.received.values()) < 0.2 * whole


def test_large_results_are_streamed(here):
    """The first batch is there before the rest was read, and the connection ends with the reader."""
    system, snapshot = here
    reader = query.reader(system, snapshot, "select number from t", batch_size=1_000)
    assert reader.read_next_batch().num_rows <= 1_000
    assert sum(batch.num_rows for batch in reader) > 70_000
    with pytest.raises(InvalidError, match="one row or more"):
        query.reader(system, snapshot, "select 1", batch_size=0)


@pytest.mark.parametrize(
    "text",
    [
        "copy t to '{path}/stolen.csv'",
        "install httpfs",
        "load httpfs",
        "attach '{path}/new.db'",
        "set threads = 1",
        "create table made as select 1",
        "insert into t values (1, 'x', 'y')",
        "drop view t",
        "export database '{path}/export'",
        "call pragma_version()",
        "prepare p as select 1",
        "set variable x = 1",
        "vacuum",
    ],
)
def test_only_queries_run(here, tmp_path, text):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidError, match="only queries are run here"):
        query.sql(*here, text.format(path=tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "text",
    [
        "select * from read_csv('{path}/secret.csv')",
        "select * from read_text('{path}/secret.csv')",
        "select * from '{path}/secret.csv'",
        "select * from glob('{path}/*')",
        "select * from parquet_metadata('{path}/table/part-0.parquet')",
        "select * from sniff_csv('{path}/secret.csv')",
        "select * from read_parquet('http://127.0.0.1:1/x.parquet')",
        "select * from read_parquet('s3://bucket/x.parquet')",
        "select * from query('select * from read_text(''{path}/secret.csv'')')",
        "select * from secret",
        "select getenv('HOME')",
    ],
)
def test_a_query_reads_nothing_but_its_tables(here, tmp_path, text):
    """No file, no host, no variable of the program."""
    secret = pa.table({"word": ["hunter2"]})
    (tmp_path / "secret.csv").write_text("word\nhunter2\n")
    with pytest.raises((InvalidError, NotFoundError)) as caught:
        query.sql(*here, text.format(path=tmp_path))
    assert secret.column(0)[0].as_py() not in str(caught.value)


def test_settings_stay_locked(here):
    found = query.sql(
        *here,
        """select name, value from duckdb_settings() where name in
           ('enable_external_access', 'autoinstall_known_extensions', 'autoload_known_extensions', 'lock_configuration')
           order by name""",
    )
    assert [row["value"] for row in found.to_pylist()] == ["false", "false", "false", "true"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("select nomber from t", r"did you mean number"),
        ("select t.texd from t", r"did you mean text\?"),
        ("select number frm t", r'syntax error at or near "t"\nLINE 1: select number frm t\n +\^'),
        ("select 1; select 2", r"one statement; here are 2"),
        ("", r"one statement; here are 0"),
        ("select * from t where number = ?", r"(?i)parameter"),
        ("select cast(text as int) from t", r"Could not convert string"),
        (5, r"a query is text, not int"),
    ],
)
def test_a_wrong_query_says_what_is_wrong(here, text, told):
    with pytest.raises(InvalidError, match=told) as caught:
        query.sql(*here, text)
    assert text in (5, "") or "table" in str(caught.value.where)


def test_a_table_that_is_not_there(here):
    with pytest.raises(NotFoundError, match="tables here: t"):
        query.sql(*here, "select * from tt")


@pytest.mark.parametrize("names", [["t"], ["T"], ["other", "OTHER"]])
def test_a_name_stands_for_one_table(here, names):
    """DuckDB would ask the one that comes last."""
    with pytest.raises(InvalidError, match="is the name of"):
        query.sql(*here, "select * from t", tables={name: pa.table({"number": [1]}) for name in names})


def test_durations_that_intervals_would_cut_off(tmp_path):
    """They are refused where a query reads them."""
    kept, more = (pa.array([nanoseconds], pa.duration("ns")) for nanoseconds in (1000, 1001))
    table = rh.table({"kept": kept, "more": more}, path=tmp_path / "t").write()
    assert table.sql("select kept from t").to_pylist() == [{"kept": pa.MonthDayNano([0, 0, 1000])}]
    with pytest.raises(InvalidError, match="nanoseconds of the durations in column 'more'"):
        table.sql("select * from t")


def test_an_error_of_reading_is_the_one_that_happened(here, tmp_path):
    """Through DuckDB and back: a damaged file and a changed table are not a wrong query."""
    system, snapshot = here
    path = tmp_path / "table" / snapshot.files[0].key
    whole = path.read_bytes()
    reader = query.reader(system, snapshot, "select number, noise from t", batch_size=100)
    position = whole.index(pq.read_table(io.BytesIO(whole), columns=["noise"]).column(0)[17_000].as_py()[4:28])
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    with pytest.raises(ConflictError, match="the table changed"):
        query.sql(system, snapshot, "select sum(number) from t")
    del reader
    entry = system.head(path.name)
    again = Snapshot("parquet", (DataFile(path.name, entry.size, None, entry.etag),))
    with pytest.raises(IntegrityError, match="CRC"):
        query.sql(system, again, "select max(noise) from t")
    path.unlink()
    with pytest.raises(ConflictError, match="gone"):
        query.sql(system, again, "select max(noise) from t")


def test_memory_is_bounded_and_what_does_not_fit_is_spilled(here, monkeypatch, tmp_path):
    """Too much for memory goes to a private directory, which is gone afterwards; too much for that is `FullError`."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "spill"))
    (tmp_path / "spill").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    text = "select a.number, b.noise from t a join t b on a.number = b.number order by b.noise limit 70000"
    with config.override({"query_memory_mb": 48}):
        assert query.sql(*here, text).num_rows == 70_000
        assert list((tmp_path / "spill").iterdir()) == []
        with pytest.raises(FullError, match="query_memory_mb"):
            query.sql(*here, "select list(a.number) from t a, range(3000)")
    assert list((tmp_path / "spill").iterdir()) == []


def test_it_leaves_nothing_behind(here, monkeypatch, tmp_path):
    """Neither a query that was abandoned nor one that failed leaves a file; not in the caller's directory either."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "spill"))
    (tmp_path / "spill").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    before = sorted(Path().rglob("*"))
    query.reader(*here, "select * from t", batch_size=10)
    begun = query.reader(*here, "select * from t", batch_size=10)
    begun.read_next_batch()
    del begun
    with pytest.raises(InvalidError):
        query.sql(*here, "select nothing from t")
    assert sorted(Path().rglob("*")) == before


def test_parameters_keep_their_nanoseconds(tmp_path):
    import numpy as np
    import pandas as pd

    system = open_system(locate(tmp_path))
    base = 1_700_000_000_000_000_000
    at = pa.array([base, base + 1, base + 1000], pa.timestamp("ns"))
    here = system, stored(system, pa.table({"i": range(3), "w": at}))
    time = pd.Timestamp(base + 1)
    for one in (time, time.to_datetime64()):
        for text, values in (("w = ?", [one]), ("w = $p", {"p": one}), ("w = any(?)", [[one]]), ("w = ?", (one,))):
            assert query.sql(*here, f"select i from t where {text}", parameters=values)["i"].to_pylist() == [1], text
        assert query.sql(*here, "select i from t where w >= ?", parameters=[one])["i"].to_pylist() == [1, 2]
    plain = [pd.Timestamp(base + 1000), np.datetime64(base // 1000 + 1, "us")]
    assert query.sql(*here, "select i from t where w = ? and w = ?", parameters=plain)["i"].to_pylist() == [2]
    for lost in (time.tz_localize("UTC"), pd.Timedelta(1)):
        with pytest.raises(InvalidError, match="nanoseconds of the parameter"):
            query.sql(*here, "select ? as x", parameters=[lost])
