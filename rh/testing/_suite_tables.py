"""Part of `rh.testing.tables`: what a table promises on every system, as tests."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

import rh
from rh.errors import ConflictError, ExistsError, IntegrityError, InvalidError, NotFoundError
from rh.systems.base import System
from rh.tables.base import INDEX

NAMES = ("plain", "with space", "a/b", "x=y", "ünï😀", "%2F", "", None)
"""Partition values that are hard to keep in the name of a directory."""


class TableSuite:
    """Subclass it, and give the fixture `place`: a URL under which nothing is yet, where a table may be written."""

    @pytest.fixture
    def place(self) -> str:
        """Where this test's table is to be."""
        raise NotImplementedError

    def rows(self) -> pa.Table:
        """The rows that are written: 1,000, with texts, numbers, nulls and lists."""
        numbers = range(1_000)
        return pa.table(
            {
                "number": pa.array(numbers, pa.int64()),
                "text": [f"row {number}" if number % 7 else None for number in numbers],
                "group": [NAMES[number % len(NAMES)] for number in numbers],
                "real": [number / 8 for number in numbers],
                "list": [list(range(number % 3)) for number in numbers],
            }
        )

    # Writing and reading

    def test_write_and_read(self, place: str) -> None:
        """A table that was written is there for everybody who knows its place, with types and number of rows."""
        rows = self.rows()
        table = rh.table(rows, path=place).write()
        assert table.fetch().equals(rows)
        other = rh.table(path=place)
        assert other.num_rows == len(rows)
        assert other.schema.equals(rows.schema)
        assert other.fetch("arrow", columns=["text"], where=[("number", ">=", 990)]).equals(
            rows.slice(990).select(["text"])
        )
        assert other.head(3).equals(rows.slice(0, 3))

    def test_modes(self, place: str) -> None:
        """`error` leaves what is there, `append` adds to it, `overwrite` takes its place."""
        rows = self.rows()
        table = rh.table(rows.slice(0, 600), path=place).write()
        with pytest.raises(ExistsError):
            table.write(rows)
        table.write(rows.slice(600), mode="append")
        assert rh.table(path=place).fetch().equals(rows)
        table.write(rows.slice(10, 5), mode="overwrite")
        assert rh.table(path=place).fetch().equals(rows.slice(10, 5))
        assert len([key for key in _files(place) if key.endswith(".parquet")]) == 1

    def test_rm(self, place: str) -> None:
        """After `rm` nothing is there."""
        table = rh.table(self.rows(), path=place).write()
        table.rm()
        assert not rh.table(path=place).exists_in_system()
        with pytest.raises((NotFoundError, InvalidError)):  # a disk keeps the directory, which is empty then
            table.fetch()
        assert _files(place) == {}

    def test_siblings_survive(self, place: str) -> None:
        """Files beside the table's own, in the same directory, survive whatever is done to the table."""
        beside = {"notes.txt": b"mine", "other/part-00000.parquet.bak": b"also mine"}
        _put(place, beside)
        table = rh.table(self.rows(), path=place).write()
        table = table.write(self.rows().slice(0, 10), mode="append")
        table = table.write(self.rows().slice(0, 10), mode="overwrite")
        table.rm()
        assert _files(place) == beside

    def test_partitions(self, place: str) -> None:
        """Values of a partition column come back, whatever they are; a filter on them reads only their files."""
        rows = self.rows()
        table = rh.table(rows, path=place, partition_cols=["group"]).write()
        assert table.partition_cols == ("group",)
        fetched = rh.table(path=place).fetch().sort_by("number")
        assert fetched.select(rows.column_names).equals(rows)
        some = table.fetch("arrow", columns=["number"], where=[("group", "==", "a/b")]).sort_by("number")
        assert some["number"].to_pylist() == list(range(2, 1_000, len(NAMES)))

    def test_moved(self, place: str, tmp_path: Any) -> None:
        """A table that is copied elsewhere, and back, has the same rows; only its own files come along."""
        table = rh.table(self.rows(), path=place).write()
        _put(place, {"notes.txt": b"mine"})
        away = table.to(path=tmp_path / "away")
        assert away.fetch().equals(self.rows())
        assert "notes.txt" not in _files(str(tmp_path / "away"))
        table.rm()
        back = away.to(path=place)
        assert back.fetch().equals(self.rows())

    # Streams

    def test_stream(self, place: str) -> None:
        """Batches have exactly the size asked for, over the borders of files, and the table's order."""
        rows = self.rows()
        table = rh.table(rows.slice(0, 400), path=place).write().write(rows.slice(400), mode="append")
        with table.stream(150) as stream:
            batches = list(stream)
        assert [len(batch) for batch in batches] == [150] * 6 + [100]
        assert pa.Table.from_batches(batches).equals(rows)

    def test_resumed(self, place: str) -> None:
        """A shuffled stream goes on from its state at the exact row, and has every row once."""
        table = rh.table(self.rows(), path=place).write()
        with table.stream(90, shuffle_seed=3, columns=["number"]) as stream:
            first = [next(stream) for _ in range(4)]
            state = stream.state_dict()
            rest = list(stream)
        with table.stream(90, shuffle_seed=3, columns=["number"]) as again:
            again.load_state_dict(state)
            assert [batch.to_pydict() for batch in again] == [batch.to_pydict() for batch in rest]
        seen = pa.Table.from_batches(first + rest)["number"].to_pylist()
        assert sorted(seen) == list(range(1_000))
        assert seen != sorted(seen)

    def test_ranks(self, place: str) -> None:
        """The shares of the ranks are disjoint, of equal size, and together all rows."""
        table = rh.table(self.rows(), path=place).write()
        shares = []
        for rank in range(3):
            with table.stream(64, rank=rank, world_size=3) as stream:
                shares.append([number for batch in stream for number in batch["number"].to_pylist()])
        assert sorted(number for share in shares for number in share) == list(range(1_000))
        assert {len(share) for share in shares} <= {333, 334}

    # What others wrote

    @pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz", "jsonl", "arrow"])
    def test_adopted(self, place: str, kind: str) -> None:
        """Files that others wrote are a table as they are, in the order of their names."""
        rows = self.rows().select(["number", "text", "real"])
        _put(
            place,
            {
                f"b.{kind}": _encoded(rows.slice(500), kind),
                f"a.{kind}": _encoded(rows.slice(0, 500), kind),
                "_SUCCESS": b"",
                ".hidden.txt": b"x",
            },
        )
        table = rh.table(path=place)
        fetched = table.fetch()
        assert fetched["number"].equals(rows["number"])
        assert fetched["real"].equals(rows["real"])
        assert table.num_rows == 1_000
        assert table.fetch("dict", columns=["text"], where=[("number", "==", 501)]) == {"text": ["row 501"]}
        with table.stream(300) as stream:
            assert [len(batch) for batch in stream] == [300, 300, 300, 100]

    def test_adopted_partitions(self, place: str) -> None:
        """Directories named `column=value` are columns."""
        rows = self.rows().select(["number"])
        files = {
            f"year={year}/month={month}/x.parquet": _encoded(rows.slice(month, 1), "parquet")
            for year in (2025, 2026)
            for month in (1, 12)
        }
        _put(place, files)
        assert rh.table(path=place).fetch("dict", where=[("year", "==", 2026)]) == {
            "number": [1, 12],
            "year": [2026, 2026],
            "month": [1, 12],
        }

    def test_adopted_file(self, place: str) -> None:
        """One file is a table."""
        rows = self.rows()
        _put(place, {"one.parquet": _encoded(rows, "parquet"), "b.csv": b"x\n1\n"})
        assert rh.table(path=f"{place}/one.parquet").fetch().equals(rows)

    # What cannot be read

    def test_missing(self, place: str) -> None:
        """A place where nothing is, is no table."""
        with pytest.raises(NotFoundError):
            rh.table(path=place).fetch()
        with pytest.raises(NotFoundError):
            rh.table(path=place).stream(10)

    def test_no_data(self, place: str) -> None:
        """A directory without data files is no table, and the error says so."""
        _put(place, {"notes.txt": b"x"})
        with pytest.raises(InvalidError, match="data files"):
            rh.table(path=place).fetch()

    def test_mixed(self, place: str) -> None:
        """Files of several formats are no table; the error names them."""
        _put(place, {"a.csv": b"x\n1\n", "b.jsonl": b'{"x": 1}\n'})
        with pytest.raises(InvalidError, match=r"csv.*jsonl|jsonl.*csv"):
            rh.table(path=place).fetch()

    def test_cut_short(self, place: str) -> None:
        """A file of which the end is missing is damaged, and gives no rows."""
        whole = _encoded(self.rows(), "parquet")
        _put(place, {"a.parquet": whole[: len(whole) // 2]})
        with pytest.raises(IntegrityError, match=r"a\.parquet"):
            rh.table(path=place).fetch()

    def test_flipped_byte(self, place: str) -> None:
        """A byte of a table's file that is another one now is found; no row of it is given."""
        rh.table(self.rows(), path=place).write()
        ((key, whole),) = ((key, data) for key, data in _files(place).items() if key.endswith(".parquet"))
        data = bytearray(whole)
        data[len(data) // 3] ^= 1
        _put(place, {key: bytes(data)})
        with pytest.raises((IntegrityError, ConflictError)):
            rh.table(path=place).fetch()

    def test_file_gone(self, place: str) -> None:
        """A table of which a file is missing gives no rows."""
        rows = self.rows()
        rh.table(rows.slice(0, 400), path=place).write().write(rows.slice(400), mode="append")
        table = rh.table(path=place)
        system, _ = table.opened_files()
        system.delete([next(key for key in _files(place) if key.endswith(".parquet"))])
        with pytest.raises((ConflictError, IntegrityError, NotFoundError)):
            table.fetch()

    def test_garbled_index(self, place: str) -> None:
        """An index that cannot be understood is told, and nothing is guessed from the files."""
        table = rh.table(self.rows(), path=place).write()
        system, _ = table.opened_files()
        system.write(INDEX, b'{"format": 1, "files": [')
        with pytest.raises(IntegrityError):
            rh.table(path=place).fetch()


def _system(place: str) -> System:
    return rh.folder(path=place).handle()


def _put(place: str, files: Mapping[str, bytes]) -> None:
    """Store files as another tool would."""
    for key, data in files.items():
        _system(place).write(key, data)


def _files(place: str) -> dict[str, bytes]:
    """Every file below a place, other than `rh`'s own hidden ones."""
    system = _system(place)
    try:
        return {entry.key: system.read(entry.key).read() for entry in system.list() if entry.kind == "file"}
    except NotFoundError:
        return {}


def _encoded(rows: pa.Table, kind: str) -> bytes:
    """A table as the bytes of a file."""
    sink = io.BytesIO()
    if kind == "parquet":
        pyarrow.parquet.write_table(rows, sink)
    elif kind == "arrow":
        pyarrow.feather.write_feather(rows, sink, compression="uncompressed")
    elif kind == "csv":
        pyarrow.csv.write_csv(rows, sink)
    elif kind == "csv.gz":
        return gzip.compress(_encoded(rows, "csv"))
    else:
        sink.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows.to_pylist()))
    return sink.getvalue()
