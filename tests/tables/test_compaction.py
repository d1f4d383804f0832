"""Many small files as few large ones: the same rows in the same order, in one step, and nothing of others is lost."""

from __future__ import annotations

import pyarrow as pa
import pytest

import rh
from rh import errors
from rh.tables import compaction, store, writing
from rh.tables.base import DataFile
from rh.tables.stream import Stream


def appended(path, parts, **options):
    """A table that was written in so many steps, of ten rows each."""
    table = None
    for part in range(parts):
        rows = pa.table({"n": range(part * 10, part * 10 + 10), "k": [f"k{n % 3}" for n in range(10)]})
        table = rh.table(path=path, **options).write(rows, mode="append" if part else "error")
    return table


@pytest.mark.parametrize("system", ["file", "s3", "gs", "ssh-a"])
def test_the_rows_stay_and_the_old_files_go(world, tmp_path, system):
    table = appended({**world, "file": str(tmp_path)}[system] + "/t", 7)
    place = rh.folder(path=table.url)
    place.put({"notes.txt": b"mine"})
    before = table.to_arrow()
    small = table.compact()
    assert small.to_arrow() == before
    assert len(small.opened_files()[1].files) == 1
    assert len(place.ls()) == 2
    assert small.verify()
    assert small.num_rows == len(small) == 70
    assert small.compact().opened_files()[1].fingerprint == small.opened_files()[1].fingerprint
    more = small.write({"n": [70], "k": ["x"]}, mode="append")
    assert more.to_arrow()["n"].to_pylist() == list(range(71))
    assert more.to(path=str(tmp_path / "copy")).to_arrow() == more.to_arrow()


def test_partitions_stay_apart_and_in_order(tmp_path):
    table = appended(tmp_path / "t", 5, partition_cols=["k"])
    assert len(table.opened_files()[1].files) == 15
    small = table.compact()
    assert len(small.opened_files()[1].files) == 3
    for kind in ("k0", "k1", "k2"):
        mine = [("k", "==", kind)]
        assert small.to_arrow(where=mine)["n"].to_pylist() == [n for n in range(50) if f"k{n % 10 % 3}" == kind]
    copy = small.to(path=str(tmp_path / "copy"))
    assert copy.to_arrow() == small.to_arrow()


def test_large_files_stay_as_they_are():
    sizes = [10, 10, 100, 10, 60, 50, 10, 100]
    files = [DataFile(str(number), size) for number, size in enumerate(sizes)]
    found = [[int(file.key) for file in run] for run in compaction.runs(files, 100)]
    assert found == [[0, 1], [3, 4], [5, 6]]
    two = [file._replace(values=(str(number % 2),)) for number, file in enumerate(files[:4])]
    assert [[int(file.key) for file in run] for run in compaction.runs(two, 100)] == [[1, 3]]


def test_what_others_append_meanwhile_stays(tmp_path, monkeypatch):
    table = appended(tmp_path / "t", 3)
    real = store.exchange

    def late(system, pieces):
        monkeypatch.setattr(store, "exchange", real)
        rh.table(path=tmp_path / "t").write({"n": [99], "k": ["late"]}, mode="append")
        return real(system, pieces)

    monkeypatch.setattr(store, "exchange", late)
    assert table.compact().to_arrow()["n"].to_pylist() == [*range(30), 99]


def test_whoever_overwrites_meanwhile_wins(tmp_path, monkeypatch):
    table = appended(tmp_path / "t", 3)
    real = store.exchange

    def late(system, pieces):
        rh.table(path=tmp_path / "t").write({"z": [1]}, mode="overwrite")
        return real(system, pieces)

    monkeypatch.setattr(store, "exchange", late)
    with pytest.raises(errors.ConflictError, match="while it was rewritten"):
        table.compact()
    assert rh.table(path=tmp_path / "t").to_arrow().to_pydict() == {"z": [1]}
    assert len(rh.folder(path=tmp_path / "t").ls()) == 1


def test_two_at_once(tmp_path):
    """The second finds that the files it rewrote are gone."""
    table = appended(tmp_path / "t", 4)
    system, snapshot = table.opened_files()
    compaction.compact(system, snapshot)
    with pytest.raises(errors.ConflictError):
        compaction.compact(system, snapshot)
    assert table.to_arrow()["n"].to_pylist() == list(range(40))


def test_a_stream_of_the_old_files_ends_with_a_conflict(tmp_path):
    table = appended(tmp_path / "t", 3)
    system, snapshot = table.opened_files()
    with Stream(system, snapshot, 4, prefetch=0) as stream:
        next(stream)
        table.compact()
        with pytest.raises(errors.ConflictError):
            list(stream)


def test_a_failure_leaves_the_table_as_it_was(tmp_path, monkeypatch):
    table = appended(tmp_path / "t", 3)
    names = sorted(rh.folder(path=table.url).ls())

    def full(*_arguments):
        raise errors.FullError("no room")

    monkeypatch.setattr(store, "exchange", full)
    with pytest.raises(errors.FullError):
        table.compact()
    assert sorted(rh.folder(path=table.url).ls()) == names
    assert table.to_arrow()["n"].to_pylist() == list(range(30))


def test_what_cannot_be_compacted(tmp_path):
    rh.folder(path=tmp_path / "csv").put({"1.csv": b"n\n1\n", "2.csv": b"n\n2\n"})
    with pytest.raises(errors.UnsupportedError, match="others wrote these files"):
        rh.table(path=tmp_path / "csv").compact()
    with pytest.raises(errors.InvalidError, match="not written yet"):
        rh.table({"n": [1]}).compact()
    table = appended(tmp_path / "t", 2)
    for wrong in (0, -1, "x", 1.5, None, True):
        with pytest.raises(errors.InvalidError, match="target_mb"):
            table.compact(wrong)
    assert writing.FILE_BYTES == 256 << 20
