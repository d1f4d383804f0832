"""What `rh` wrote and is still what it was is not read again for its digest, not even by a machine that is new."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

import rh
from rh import errors, observe

MIB = 1 << 20
DATA = random.Random(3).randbytes(3 * MIB)
SYSTEMS = ["s3", "gs", "azure"]


@pytest.fixture
def forget(tmp_path, monkeypatch):
    """The next call is from another machine: no registry, cache or remembered digest of this one."""

    def other(name="other"):
        monkeypatch.setenv("RH_HOME", str(tmp_path / name))

    return other


@pytest.mark.parametrize("kind", SYSTEMS)
def test_a_manifest_is_believed(kind, world, tmp_path, forget):
    """A copy has a manifest: only the small files that go into packs are read, and nothing the second time."""
    (tmp_path / "src").mkdir()
    for number in range(3):
        (tmp_path / "src" / f"{number}.bin").write_bytes(DATA[number:])
    (tmp_path / "src" / "small.txt").write_bytes(b"small")
    rh.folder(path=tmp_path / "src").to(kind, path="live")
    forget()
    live = rh.folder(path="live", system=kind).save("cats")
    with observe.counting() as counts:
        live.commit()
    assert counts.received[kind] < 0.1 * MIB
    live.put({"0.bin": DATA[::-1]}, overwrite=True)  # its etag is another one
    with observe.counting() as counts:
        changed = live.commit()
    assert counts.received[kind] < len(DATA) + 0.1 * MIB
    assert changed.digest == live.digest()
    assert rh.folder("cats:latest").get("0.bin") == DATA[::-1]


@pytest.mark.parametrize("kind", SYSTEMS)
def test_the_index_of_a_table_is_believed(kind, world, forget):
    """A table's index knows the digests of its files."""
    rows = pa.table({"n": random.Random(4).choices(range(1 << 40), k=300_000)})
    table = rh.table(rows, path="rows", system=kind).write()
    forget()
    table = rh.table(path="rows", system=kind).save("rows")
    with observe.counting() as counts:
        version = table.commit()
    assert version.size > MIB
    assert counts.received[kind] < 0.3 * MIB
    assert rh.table(name="rows:v1").verify()
    assert rh.table(name="rows:v1").num_rows == 300_000
    table.write(rows.slice(0, 10), mode="append")
    forget("third")
    with observe.counting() as counts:
        rh.table(path="rows", system=kind).save("rows").commit()
    assert counts.received[kind] < 0.3 * MIB


@pytest.mark.parametrize("kind", SYSTEMS)
def test_the_record_of_a_blob_is_believed(kind, world):
    """A blob's record knows what was stored, as long as it is that."""
    blob = rh.blob(DATA, path="one.bin", system=kind).save("one")
    with observe.counting() as counts:
        blob.commit()
    assert counts.received[kind] < 0.1 * MIB
    assert rh.blob(name="one:v1").read() == DATA
    assert rh.blob(name="one:v1").verify()
    rh.blob(DATA[::-1], path="one.bin", system=kind).write()
    version = rh.blob(name="one").commit()  # the record still tells of the bytes before
    assert version.number == 2
    assert rh.blob(name="one:v2").read() == DATA[::-1]


def test_an_index_that_errs_is_found_out(world, tmp_path):
    """What is believed is compared with what is read: nothing is stored under a digest that is not its own."""
    from rh.digest import of_bytes
    from rh.systems import open_system
    from rh.versions.commit import commit_file, commit_tree
    from rh.versions.source import Written
    from tests.versions.places import place, store_at

    source = open_system(place("file", tmp_path, "data"))
    entry = source.write("a.bin", b"these are the bytes")
    wrong = Written(of_bytes(b"others").text, entry.etag)
    for commit in (
        lambda: commit_tree(source, store_at("s3", tmp_path), written={"a.bin": wrong}),
        lambda: commit_file(source, "a.bin", store_at("s3", tmp_path), written=wrong),
    ):
        with pytest.raises((errors.ConflictError, errors.IntegrityError)):
            commit()
    stale = wrong._replace(etag="another")
    tree = commit_tree(source, store_at("s3", tmp_path), written={"a.bin": stale})
    assert tree.size == entry.size


@pytest.mark.parametrize("system", ["s3", "gs", "azure"])
def test_what_a_bucket_has_is_read_once_however_soon(system, world):
    """Its etags tell any change, where the clock of a disk may not."""
    live = rh.folder(path="live", system=system).mkdir()
    live.put({f"{number}.txt": b"%d" % number * 100 for number in range(20)})
    live = live.save("cats")
    live.commit()
    with observe.counting() as counts:
        assert live.commit().label == "v1"
    assert counts.requests[system, "read"] < 10
    live.put({"3.txt": b"x" * 100}, overwrite=True)
    assert live.commit().label == "v2"
    assert rh.folder("cats:v2").get("3.txt") == b"x" * 100
