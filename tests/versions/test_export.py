"""A version as one file: equal versions give equal files, and a file that was changed anywhere is found out."""

from __future__ import annotations

import io
import json
import random
import tarfile

import pytest

from rh.errors import ExistsError, IntegrityError, NotFoundError, UnsupportedError
from rh.systems import locate, open_system
from rh.versions.export import read_file, write_file
from rh.versions.nodes import EMPTY
from rh.versions.store import Store
from rh.versions.system import TreeSystem, location_of
from tests.versions.made import again, commit, store_on

MIB = 1 << 20
BIG = random.Random(1).randbytes(17 * MIB + 3)
FILES = {
    "a.txt": b"hello\n",
    "again": b"hello\n",
    "d/e/x": b"x",
    "d2/e/x": b"x",
    "empty": b"",
    "large": BIG,
    "middle": BIG[: MIB + 1],
    "odd\udcff": b"!",
    "run": b"#!",
}
MORE = {"links": {"d/link": "../a.txt"}, "voids": ("void/",), "executable": frozenset({"run"})}


@pytest.fixture
def store(request, tmp_path):
    return store_on("memory", request, tmp_path)


def listed(store, tree):
    """What a version holds: entries, and the bytes of its files, as another process reads them."""
    system = TreeSystem(location_of(store.system.location, tree.digest), {"kind": "tree"}, again(store))
    found = list(system.list())
    return found, {entry.key: system.read(entry.key).read() for entry in found if entry.kind == "file"}


@pytest.mark.parametrize("kind", ["memory", "file", "s3"])
def test_from_store_to_store(kind, request, tmp_path, store, monkeypatch):
    """A version goes through a file from a store to any other, with all it has; the file is the same from both."""
    there = store_on(kind, request, tmp_path)
    tree = commit(there, FILES, **MORE)
    size = write_file(tree, there, tmp_path / "v.rh")
    assert size == (tmp_path / "v.rh").stat().st_size
    monkeypatch.setenv("RH_HOME", str(tmp_path / "elsewhere"))
    read = read_file(tmp_path / "v.rh", store)
    assert read.digest == tree.digest
    found, data = listed(store, read)
    assert data == FILES
    assert found == listed(there, tree)[0]
    write_file(read, store, tmp_path / "again.rh")
    assert (tmp_path / "again.rh").read_bytes() == (tmp_path / "v.rh").read_bytes()
    with tarfile.open(tmp_path / "v.rh") as archive:
        names = archive.getnames()
    assert names[0] == "rh-version.json"
    assert len([name for name in names if name.startswith("contents/")]) == 6


def test_on_a_bucket(world, store, tmp_path):
    """The file may be at any place; one that is there is not replaced unless that is asked for."""
    place = f"{world['s3']}/v1.rh"
    tree = commit(store, {"a": b"1"})
    write_file(tree, store, place)
    with pytest.raises(ExistsError, match=r"v1\.rh"):
        write_file(tree, store, place)
    write_file(tree, store, place, overwrite=True)
    other = Store.at(locate(tmp_path / "store"))
    assert listed(other, read_file(place, other))[1] == {"a": b"1"}
    with pytest.raises(NotFoundError):
        read_file(f"{place}.no", other)


def test_an_empty_version(store, tmp_path):
    """A version that holds nothing goes through a file as well."""
    tree = commit(store, {})
    write_file(tree, store, tmp_path / "v")
    other = Store.at(locate(tmp_path / "store"))
    assert read_file(tmp_path / "v", other).digest == tree.digest == EMPTY


@pytest.fixture
def small(store, tmp_path):
    """The bytes of a small version's file, and what is in it."""
    tree = commit(store, {"a": b"one", "d/b": b"two", "empty": b""}, links={"l": "a"})
    write_file(tree, store, tmp_path / "v")
    data = (tmp_path / "v").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return data, [(member.name, archive.extractfile(member).read()) for member in archive]


def refused(data, tmp_path):
    """Reading these bytes as a version is an error that says where, and no marker is in the store."""
    (tmp_path / "bad").write_bytes(data)
    store = Store.at(locate(f"memory://{tmp_path.name}-bad/.rh-store"))
    with pytest.raises(IntegrityError) as caught:
        read_file(tmp_path / "bad", store)
    assert "bad" in str(caught.value)
    assert not list(store.trees())
    return caught.value


def packed(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_any_flipped_byte_and_any_cut_is_found(small, tmp_path):
    """Whatever bit is flipped and wherever the file is cut: it is refused."""
    data, _ = small
    for at in range(0, len(data), 37):
        refused(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :], tmp_path)
    for at in range(0, len(data), 512):
        refused(data[:at], tmp_path)
    refused(data + b"\0", tmp_path)
    refused(data + data, tmp_path)


def test_members_that_do_not_belong(small, tmp_path):
    """Members that escape, are missing, doubled, or in another order are refused before anything is stored."""
    data, members = small
    assert packed(members) == data
    for number, (name, content) in enumerate(members):
        rest = members[:number], members[number + 1 :]
        refused(packed([*rest[0], *rest[1]]), tmp_path)
        refused(packed([*members, (name, content)]), tmp_path)
        refused(packed([*rest[0], (name, content), (name, content), *rest[1]]), tmp_path)
        refused(packed([*rest[0], (f"../{name}", content), *rest[1]]), tmp_path)
        refused(packed([*rest[0], (f"/{name}", content), *rest[1]]), tmp_path)
        refused(packed([*rest[0], (name, content + b"!"), *rest[1]]), tmp_path)
    error = refused(packed([*members, ("../../escape", b"x")]), tmp_path)
    assert "more than the version" in str(error)
    refused(packed([members[0], *reversed(members[1:])]), tmp_path)
    refused(b"", tmp_path)
    refused(b"no archive" * 1000, tmp_path)


def test_a_directory_that_lies_about_its_size(small, tmp_path):
    """What the marker or a directory says of how much is below must be so."""
    _, members = small
    marker = json.loads(members[0][1])
    for name in ("files", "size", "entries"):
        lie = json.dumps(marker | {name: marker[name] + 1}).encode() + b"\n"
        assert "not as large" in str(refused(packed([("rh-version.json", lie), *members[1:]]), tmp_path))
    root = members[1][1]
    assert root.count(b",0,0,1,1]") == 1
    refused(packed([members[0], (members[1][0], root.replace(b",0,0,1,1]", b",0,0,2,1]")), *members[2:]]), tmp_path)
    newer = json.dumps(marker | {"rh-version-file": 2}).encode() + b"\n"
    (tmp_path / "newer").write_bytes(packed([("rh-version.json", newer), *members[1:]]))
    with pytest.raises(UnsupportedError, match="format 2"):
        read_file(tmp_path / "newer", Store.at(locate("memory://newer/.rh-store")))


def test_a_store_that_lost_a_file_writes_nothing(store, tmp_path):
    """An export that fails leaves no file."""
    tree = commit(store, {"a": b"1"})
    store.system.delete([entry.key for entry in store.system.list("packs/")])
    store.contents.drop(next(iter(store.root(tree).children)).digest)
    with pytest.raises(IntegrityError, match="lost part"):
        write_file(tree, store, tmp_path / "out" / "v")
    assert not [entry for entry in open_system(locate(tmp_path)).list("out/") if entry.kind == "file"]
