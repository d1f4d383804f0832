"""The store: what goes in comes out, everywhere, or an error says where it was lost."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import count

import pytest

from rh import config, digest, observe, transfer
from rh.errors import (
    ConflictError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RhError,
    UnsupportedError,
)
from rh.systems import locate, open_system
from rh.types import Entry, Location
from rh.versions import cache
from rh.versions.lost import LostError
from rh.versions.nodes import EMPTY, Child, Node
from rh.versions.store import NAME, Ref, Store, Tree, object_key, place_of, tree_key
from rh.versions.system import TreeSystem, location_of
from tests.versions.made import KINDS, again, build, commit, source_of, store_on

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


FILES = {
    "a.txt": b"hello\r\n",
    "again.txt": b"hello\r\n",
    "deep/er/x.bin": noise(1000),
    "deep/run.sh": b"#!/bin/sh\n",
    "empty": b"",
    "large": noise(17 * MIB + 5),
    "middle": noise(MIB + 1, 2),
    "odd\udcff name": b"bytes that are no text",
}
MORE = {"links": {"deep/link": "../a.txt"}, "voids": ("void/",), "executable": frozenset({"deep/run.sh"})}


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    """A fresh store on every system."""
    return store_on(request.param, request, tmp_path)


@pytest.fixture
def memory(request, tmp_path):
    return store_on("memory", request, tmp_path)


@pytest.fixture
def elsewhere(monkeypatch, tmp_path_factory):
    """Call it to be on another machine: nothing is cached there."""
    numbers = count()

    def go() -> None:
        monkeypatch.setenv("RH_HOME", str(tmp_path_factory.mktemp(f"machine{next(numbers)}")))

    return go


def tree_of(store: Store, tree: Tree) -> TreeSystem:
    """The tree as another process opens it."""
    return TreeSystem(location_of(store.system.location, tree.digest), {"kind": "tree"}, again(store))


def read_all(store: Store, tree: Tree) -> dict[str, bytes]:
    """Every file of a tree, as another process reads it: node by node, one by one."""
    found = {}
    store = again(store)

    def walk(node: Node, top: str) -> None:
        for child in node.children:
            key = top + os.fsdecode(child.name)
            if child.kind == "dir":
                walk(store.below(child), key + "/")
            elif child.kind == "file":
                with store.open(child) as body:
                    found[key] = body.read()

    walk(store.root(store.tree(tree.digest)), "")
    return found


# What goes in comes out


def test_round_trip(store, elsewhere):
    """Promise 4, promise 16: on every system a version comes back whole on another machine, listed, bulk and ranges."""
    tree = commit(store, FILES, **MORE)
    assert (tree.files, tree.size, tree.entries) == (8, sum(map(len, FILES.values())) + len("../a.txt"), 10)
    elsewhere()
    assert read_all(store, tree) == FILES
    elsewhere()
    system = tree_of(store, tree)
    entries = {entry.key: entry for entry in system.list()}
    assert sorted(entries) == sorted([*FILES, "deep/link", "void/"])
    assert [key for key, entry in entries.items() if entry.executable] == ["deep/run.sh"]
    assert entries["deep/link"].target == "../a.txt"
    files = [entry for entry in entries.values() if entry.kind == "file"]
    assert {entry.key: data for entry, data in system.read_many(files)} == FILES
    elsewhere()
    for key, span in (("large", (16 * MIB - 3, 16 * MIB + 3)), ("middle", (7, 9)), ("a.txt", (1, 3))):
        for _ in range(2):
            with system.read(key, span) as body:
                assert body.read() == FILES[key][slice(*span)]
    assert list(store.trees()) == [tree.digest]
    assert store.has_tree(tree.digest)
    assert not store.has_tree(EMPTY)


def test_it_is_the_digest_of_the_folder(memory):
    """A version has the digest that the tree it was made from has, and the copy made from it."""
    files = {key: data for key, data in FILES.items() if key != "large"}
    source = source_of(files)
    tree = commit(memory, files)
    assert tree.digest == transfer.digest_tree(source.location)
    assert transfer.digest_tree(location_of(memory.system.location, tree.digest)) == tree.digest


@pytest.mark.parametrize("kind", ["memory", "s3", "ssh-a"])
def test_a_version_is_copied_like_any_folder(kind, request, tmp_path):
    """`.to()` of a version: the engine reads it as any other system, and what arrives has its digest."""
    store = store_on(kind, request, tmp_path)
    files = {key: data for key, data in FILES.items() if key.isascii()}
    tree = commit(store, files, voids=("void/",), executable=frozenset({"deep/run.sh"}))
    target = Location("file", str(tmp_path / "copy"))
    receipt = transfer.copy_tree(location_of(store.system.location, tree.digest), target)
    assert receipt.digest == tree.digest
    assert transfer.digest_tree(target) == tree.digest
    repeated = transfer.copy_tree(location_of(store.system.location, tree.digest), target)
    assert (repeated.done, repeated.bytes_moved) == (0, 0)


def test_nothing_is_stored_twice(store):
    """What the store has is neither read nor sent: by this writer, or by one before."""
    commit(store, FILES, **MORE)
    before = sorted(entry.key for entry in store.system.list() if entry.kind == "file")
    second = commit(again(store), FILES | {"new": b"new"}, **MORE)
    objects = [key for key in (entry.key for entry in store.system.list()) if key.startswith(("objects", "packs"))]
    assert len([key for key in objects if key not in before and not key.endswith("/")]) == 1
    assert read_all(store, second) == FILES | {"new": b"new"}


def test_equal_content_makes_one_tree(store):
    """Who comes second finds the marker of the first."""
    first = commit(store, FILES, **MORE)
    assert commit(again(store), FILES, **MORE) == first


# What it costs


@pytest.mark.slow
def test_small_files_travel_together(request, tmp_path, elsewhere):
    """Committing and reading 3,000 small files on S3: requests per file far below one."""
    store = store_on("s3", request, tmp_path)
    files = {f"d{number % 30:02d}/f{number:04d}": noise(1 + number % 3000, number) for number in range(3000)}
    with observe.counting() as counts:
        tree = commit(store, files)
    assert counts.total("s3") <= 16
    assert counts.requests["s3", "write"] <= 6
    elsewhere()
    with observe.counting() as counts:
        receipt = transfer.copy_tree(
            location_of(store.system.location, tree.digest), Location("file", str(tmp_path / "copy"))
        )
    assert receipt.digest == tree.digest
    assert counts.total("s3") <= 12
    assert 0 < len(list(cache.ls("packs"))) <= 12
    with observe.counting() as counts:
        assert read_all(store, tree) == files
    assert counts.total("s3") == 0
    assert cache.verify()[1] == []
    for one in cache.ls("packs"):
        one.path.write_bytes(one.path.read_bytes()[:-9] + b"a" * 9)
    assert read_all(store, tree) == files


def test_one_small_file_is_one_range_request(request, tmp_path, elsewhere):
    """Reading one file of a pack, once its directory is known, asks for its bytes and no others."""
    store = store_on("s3", request, tmp_path)
    tree = commit(store, {f"f{number}": noise(1000, number) for number in range(100)})
    elsewhere()
    system = tree_of(store, tree)
    system.head("f0")
    with observe.counting() as counts:
        assert system.read("f50").read() == noise(1000, 50)
    assert counts.requests == {("s3", "read"): 1}
    assert counts.received["s3"] == 1000


def test_a_range_of_a_large_file_is_its_chunk(request, tmp_path, elsewhere):
    """A range is proven by its chunk, without the others."""
    store = store_on("s3", request, tmp_path)
    data = noise(40 * MIB)
    tree = commit(store, {"large": data})
    elsewhere()
    system = tree_of(store, tree)
    system.head("large")
    with observe.counting() as counts:
        assert system.read("large", (33 * MIB, 33 * MIB + 10)).read() == data[33 * MIB : 33 * MIB + 10]
    assert counts.received["s3"] == 8 * MIB + 3 * 32
    with observe.counting() as counts:
        assert system.read("large", (34 * MIB, 34 * MIB + 10)).read() == data[34 * MIB : 34 * MIB + 10]
    assert counts.total() == 0


@pytest.mark.parametrize("kind", ["memory", "s3", "gs", "azure", "ssh-a"])
def test_what_is_cached_needs_no_request(kind, request, tmp_path):
    """Promise 24: a version that was read opens, lists and reads again with no request at all."""
    store = store_on(kind, request, tmp_path)
    tree = commit(store, FILES, **MORE)
    read_all(store, tree)
    with observe.counting() as counts:
        assert read_all(store, tree) == FILES
        system = tree_of(again(store), tree)
        entries = [entry for entry in system.list() if entry.kind == "file"]
        assert {entry.key: data for entry, data in system.read_many(entries)} == FILES
        assert system.read("large", (5, 10)).read() == FILES["large"][5:10]
        assert len(list(system.digest_many(entries))) == len(FILES)
    assert counts.total() == 0


# Damage


def keys_of(store: Store, *parts: str) -> list[str]:
    return [
        entry.key for part in parts for entry in store.system.list(f"{part}/") if entry.kind == "file" and entry.size
    ]


def problem_of(store: Store, tree: Tree) -> Exception | None:
    """What reading all of a tree in bulk says first."""
    system = tree_of(store, tree)
    try:
        entries = [entry for entry in system.list() if entry.kind == "file"]
    except RhError as error:
        return error
    return next((data for _, data in system.read_many(entries) if isinstance(data, Exception)), None)


@pytest.mark.parametrize("kind", ["memory", "file", "s3"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_damage_is_found_and_placed(kind, how, request, tmp_path, elsewhere):
    """Promise 2: a bit flipped, an end cut off, an object gone: every read of the version says where, none goes on."""
    store = store_on(kind, request, tmp_path)
    tree = commit(store, FILES, **MORE)
    store.ref("a series", tree.digest)
    store.check_format()
    for key in keys_of(store, "objects", "packs", "nodes", "trees"):
        if key.endswith(".chunks"):
            continue
        whole = store.system.read(key).read()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :]
        store.system.delete([key])
        if how != "gone":
            store.system.write(key, flipped if how == "flipped" else whole[: len(whole) // 2])
        elsewhere()
        with pytest.raises(IntegrityError) as caught:
            read_all(store, tree)
        assert key in str(caught.value)
        assert isinstance(caught.value, LostError) is (how == "gone")
        elsewhere()
        told = problem_of(store, tree)
        assert key in str(told)
        assert type(told) is type(caught.value)
        store.system.write(key, whole)
    elsewhere()
    assert read_all(store, tree) == FILES


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_damage_in_a_range_is_found(kind, request, tmp_path, elsewhere):
    """A range is compared as well; damaged chunk digests are not believed."""
    store = store_on(kind, request, tmp_path)
    tree = commit(store, FILES)
    key = object_key(digest.of_bytes(FILES["large"]).text)
    chunks = store.system.read(key + ".chunks").read()
    for damaged in (b"", chunks[:-1] + b"x"):
        store.system.write(key + ".chunks", damaged)
        elsewhere()
        assert tree_of(store, tree).read("large", (16 * MIB, 16 * MIB + 9)).read() == FILES["large"][16 * MIB :][:9]
    for there in (chunks, b""):
        store.system.write(key + ".chunks", there)
        store.system.write(key, FILES["large"][:-1] + b"?")
        elsewhere()
        with pytest.raises(IntegrityError, match=key):
            tree_of(store, tree).read("large", (16 * MIB, 16 * MIB + 4)).read()


def test_a_damaged_cache_is_fetched_again(memory):
    """Promise 2: whatever is wrong on this machine, the right bytes are read, and kept again."""
    tree = commit(memory, FILES, **MORE)
    read_all(memory, tree)
    kept = list(cache.ls())
    assert {one.path.parent.parent.name for one in kept} == {"objects", "nodes", "trees"}
    for one in kept:
        data = bytearray(one.path.read_bytes())
        data[len(data) // 2] ^= 1
        one.path.write_bytes(data)
    assert read_all(memory, tree) == FILES
    with observe.counting() as counts:
        assert read_all(memory, tree) == FILES
    assert counts.total() == 0
    for one in cache.ls():
        one.path.write_bytes(one.path.read_bytes()[:-1])
    assert read_all(memory, tree) == FILES


def test_a_marker_that_says_too_much(memory):
    """Sizes of a marker are compared with the root, so that no listing is believed to be whole that is not."""
    tree = commit(memory, FILES)
    for wrong in (tree._replace(files=1), tree._replace(size=0), tree._replace(entries=99)):
        memory.system.write(tree_key(tree.digest), wrong.encode())
        cache.rm()
        with pytest.raises(IntegrityError, match="marker"):
            read_all(memory, tree)
    memory.system.write(tree_key(tree.digest), commit(memory, {"x": b"y"}).encode())
    cache.rm()
    with pytest.raises(IntegrityError, match="another version"):
        read_all(memory, tree)


def test_a_directory_that_says_too_little(memory):
    """A parent that makes less of a directory than it holds is found."""
    with memory.lease() as lease, memory.writer(lease=lease) as writer:
        below = build(writer, {"a": b"1", "b": b"2"})
        where = writer.node(below)
        child = Child("dir", b"d", 2, below.digest, executable=False, where=(*where[:4], 1, 1))
        tree = writer.finish(Node.of([child]))
    with pytest.raises(IntegrityError, match="above"):
        list(tree_of(memory, tree).list())


def test_a_damaged_marker_is_mended_by_the_next_commit(memory):
    tree = commit(memory, FILES)
    memory.system.write(tree_key(tree.digest), b"{}\n")
    cache.rm()
    assert commit(again(memory), FILES).digest == tree.digest
    cache.rm()
    assert read_all(memory, tree) == FILES


def test_a_newer_format_is_refused(memory):
    """Promise 37: what a newer rh wrote is refused, not guessed."""
    tree = commit(memory, {"a": b"1"})
    text = tree.encode().partition(b"\n")[0].replace(b'"rh-tree":1', b'"rh-tree":2')
    sha = digest.of_bytes(text).text.removeprefix("sha256:").encode()
    memory.system.write(tree_key(tree.digest), text + b"\n" + sha + b"\n")
    cache.rm()
    with pytest.raises(UnsupportedError, match="upgrade"):
        memory.tree(tree.digest)
    memory.system.write("format.json", json.dumps({"rh-store": 3}).encode())
    with pytest.raises(UnsupportedError, match="upgrade"):
        commit(memory, {"b": b"2"})
    assert len(list(memory.trees())) == 1


# Writers


def test_a_writer_that_fails_leaves_no_tree(store):
    """Promise 6: whatever happened before the marker, there is no version; the next commit is whole."""
    with suppress(ZeroDivisionError), store.lease() as lease, store.writer(lease=lease) as writer:
        writer.node(build(writer, FILES, **MORE))
        raise ZeroDivisionError
    assert list(store.trees()) == []
    assert read_all(store, commit(again(store), FILES, **MORE)) == FILES


def test_many_writers_at_once(tmp_path, python):
    """Processes that commit to one store at once, equal and different trees, lose nothing."""
    code = """
import sys
from rh.systems import locate
from rh.versions.store import Store
from tests.versions.made import commit
store = Store.at(locate(sys.argv[1]))
for number in range(8):
    commit(store, {"same": b"same" * 1000, f"f{number}": b"%d" % number, "big": bytes(1 << 21)})
    commit(store, {f"mine{sys.argv[2]}": b"mine", "n": b"%d" % number})
"""
    place = str(tmp_path / "store")
    workers = [threading.Thread(target=python, args=(code, place, str(number))) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    store = Store.at(locate(place))
    trees = list(store.trees())
    assert len(trees) == 8 + 3 * 8
    for found in trees:
        assert len(read_all(store, store.tree(found))) in (2, 3)
    assert [entry.key for entry in store.system.list("leases/") if entry.kind == "file"] == []


@pytest.mark.parametrize("moment", range(4))
def test_a_killed_writer_leaves_only_debris(moment, tmp_path):
    """Promise 6: killed with contents, nodes or packs half there, no version points at nothing."""
    code = """
import os, sys
from rh.systems import locate
from rh.systems.wrap import Wrapper
from rh.versions.store import Store
from tests.versions.made import commit

doomed = ("objects/", "nodes/", "format", "trees/")[int(sys.argv[2])]

class Killed(Wrapper):
    def call(self, verb, key, work):
        if verb == "write" and key.startswith(doomed):
            os._exit(9)
        return work()
    def many(self, flow, items):
        if flow.verb == "write_many" and doomed == "objects/":
            os._exit(9)
        return flow.work(items)

commit(Store(Killed(Store.at(locate(sys.argv[1])).system)), {"a/x": b"1", "b": bytes(3 << 20)})
"""
    place = str(tmp_path / "store")
    done = subprocess.run([sys.executable, "-c", code, place, str(moment)], check=False, env={**os.environ})
    assert done.returncode == 9
    store = Store.at(locate(place))
    assert list(store.trees()) == []
    files = {"a/x": b"1", "b": bytes(3 << 20)}
    assert read_all(store, commit(store, files)) == files


def test_changed_meanwhile(memory):
    """Promise 10: a file that is not the one that was listed is a conflict, never stored under another's digest."""
    source = source_of({"small": b"old", "large": noise(2 * MIB)})
    listed = [(entry, digest.of_bytes(source.read(entry.key).read())) for entry in source.list()]
    for key, data in (("small", b"new"), ("large", noise(2 * MIB, 9))):
        meant = [(entry, found) for entry, found in listed if entry.key == key]
        source.write(key, data)
        with memory.lease() as lease, memory.writer(lease=lease) as writer:
            with pytest.raises(ConflictError):
                list(writer.add(source, meant))
            with pytest.raises(ConflictError):
                list(writer.add(source, [(entry, None) for entry, _ in meant]))
    with memory.lease() as lease, memory.writer(lease=lease) as writer, pytest.raises(IntegrityError):
        writer.put(b"these", digest.of_bytes(b"those").text)


def test_what_is_thought_to_be_there_is_asked_for(memory):
    """The index is a hint: contents that somebody swept are stored again."""
    tree = commit(memory, FILES)
    for key in keys_of(memory, "packs", "objects", "trees"):
        memory.system.delete([key])
    assert memory.known([digest.of_bytes(FILES["a.txt"]).text])
    assert memory.exists([digest.of_bytes(FILES["a.txt"]).text]) == {}
    assert commit(again(memory), FILES).digest == tree.digest
    cache.rm()
    assert read_all(memory, tree) == FILES


# Other places of contents


def test_by_reference(memory):
    """An adopted file is read where it is; what has changed or gone there is said, with its place."""
    source = source_of({"x": b"adopted", "sub/large": noise(3 * MIB)})
    children = []
    for entry in source.list():
        place = source.location / entry.key
        found = digest.of_bytes(source.read(entry.key).read()).text
        where = ("r", place.system, place.path, entry.etag)
        children.append(Child("file", entry.key.rpartition("/")[2].encode(), entry.size, found, False, where))
    with memory.lease() as lease, memory.writer(lease=lease) as writer:
        tree = writer.finish(Node.of(children))
    system = tree_of(memory, tree)
    assert system.read("x").read() == b"adopted"
    assert system.read("large", (5, 9)).read() == noise(3 * MIB)[5:9]
    cache.rm()
    source.write("x", b"changed")
    source.delete(["sub/large"])
    with pytest.raises(ConflictError, match="has changed"):
        system.read("x").read()
    with pytest.raises(IntegrityError, match=r"refers to is gone.*sub/large"):
        system.read("large").read()


def test_in_pieces(memory):
    """A file stored in pieces is read as one; a range needs only its pieces, each compared with its digest."""
    parts = [noise(700_000, 1), noise(300_000, 2), noise(2_000_000, 3)]
    whole = b"".join(parts)
    with memory.lease() as lease, memory.writer(lease=lease) as writer:
        stored = [writer.put(part) for part in parts]
        pieces = [[one.digest, one.entry.size, one.where] for one in stored]
        child = Child("file", b"f", len(whole), digest.of_bytes(whole).text, executable=False, where=("c", pieces))
        tree = writer.finish(Node.of([child]))
    system = tree_of(memory, tree)
    for span in (None, (0, 10), (699_990, 700_010), (650_000, 2_999_999)):
        cache.rm()
        assert system.read("f", span).read() == whole[slice(*(span or (0, len(whole))))]


# Leases and references


def test_a_lease_is_renewed_and_taken_back(memory):
    with memory.lease(ttl_s=0.3) as lease:
        first = json.loads(memory.system.read(lease.key).read())["until"]
        deadline = time.monotonic() + 60
        while json.loads(memory.system.read(lease.key).read())["until"] == first:
            assert time.monotonic() < deadline
        assert first > 0
    with pytest.raises(NotFoundError):
        memory.system.head(lease.key)


@pytest.mark.parametrize("off", [-86_400, 0, 86_400])
@pytest.mark.slow
def test_who_writes_waits_for_who_sweeps(memory, off):
    """Nobody relies on what somebody is about to remove, however wrong their clock is (promise 38)."""
    began = memory.system.write("gc.json", json.dumps({"until": time.time() + off, "ttl": 1.2, "by": "x"}).encode())
    with memory.lease() as lease:
        assert memory.system.head(lease.key).modified - began.modified >= 1.2
    memory.system.write("gc.json", b"[]")
    with pytest.raises(IntegrityError, match="uses this store"), memory.lease():
        pass
    assert [entry.key for entry in memory.system.list("leases/")] == []


def test_a_lost_lease_makes_no_version(memory):
    with memory.lease() as lease, memory.writer(lease=lease) as writer:
        root = build(writer, {"a": b"1"})
        lease._told = time.monotonic() - 3600, time.time()
        with pytest.raises(ConflictError, match="in time"):
            writer.finish(root)
    assert list(memory.trees()) == []


@pytest.mark.parametrize("sleeps", ["the process", "the machine"])
def test_a_lease_that_was_over_once_is_lost(memory, sleeps):
    """Who slept for longer than it lasts may have been taken for gone: renewing it brings back nothing that went."""
    with memory.lease(ttl_s=0.3) as lease, memory.writer(lease=lease) as writer:
        root = build(writer, {"a": b"1"})
        told = lease._told
        while lease._told == told:  # it has just been renewed
            time.sleep(0.01)
        slept = 3600.0
        lease._told = lease._told[0] - (slept if sleeps == "the process" else 0), lease._told[1] - slept
        lease._thread.join(60)  # nobody renews it
        with pytest.raises(ConflictError, match="in time"):
            writer.finish(root)
    assert list(memory.trees()) == []
    assert [entry.key for entry in memory.system.list("leases/")] == []


def test_references(store):
    one, two = digest.of_bytes(b"1").text, digest.of_bytes(b"2").text
    for series, tree in (("team/x", one), ("team/x", two), ("y", one)):
        store.ref(series, tree)
    assert (
        sorted(store.refs()) == [Ref("team/x", two), Ref("team/x", one), Ref("y", one)] or len(list(store.refs())) == 3
    )
    store.unref("team/x", one)
    assert list(store.refs("team/x")) == [Ref("team/x", two)]
    for bad in ("", "..", "x" * 300):
        with pytest.raises(InvalidError):
            store.ref(bad, one)


# Where it is


def test_place_of(world, monkeypatch):
    """The system of the data says where its store is."""
    for name in ("s3", "gs", "azure"):
        root = locate(None, name)
        assert place_of(root / "data/x") == root / NAME
        bucket = root.path.partition("/")[0]
        assert place_of(Location(name, f"{bucket}/elsewhere")) == Location(name, f"{bucket}/{NAME}")
        assert place_of(Location(name, root.path + "x")) == Location(name, f"{bucket}/{NAME}")
    assert place_of(Location("ssh-a", "/srv/data")) == Location("ssh-a", "~/.rh/store")
    assert place_of(Location("file", "/srv/data")) == Location("file", str(config.home() / "store"))
    assert place_of(Location("memory", "m/a/b")) == Location("memory", f"m/{NAME}")
    for told, where in (
        ("/srv/store", Location("file", "/srv/store")),
        ("ssh-a:/srv/store", Location("ssh-a", "/srv/store")),
        ("ssh-a:~/store", Location("ssh-a", "~/store")),
        ("s3://bucket/store", Location("s3", "bucket/store")),
    ):
        monkeypatch.setenv("RH_FILE_STORE", told)
        assert place_of(Location("file", "/srv/data")) == where
    monkeypatch.setenv("RH_FILE_STORE", "ssh-c:/srv/store")
    with pytest.raises(NotFoundError):
        place_of(Location("file", "/srv/data"))
    monkeypatch.setenv("RH_SSH_A_STORE", "/srv/store")
    assert place_of(Location("ssh-a", "/srv/data")) == Location("ssh-a", "/srv/store")
    monkeypatch.setenv("RH_SSH_A_STORE", "ssh-b:/srv/store")
    assert place_of(Location("ssh-a", "/srv/data")) == Location("ssh-b", "/srv/store")
    with pytest.raises(UnsupportedError):
        place_of(Location("https://example.org", "/x"))


def test_a_version_has_a_url(store):
    """`tree://…` leads to the same version from any process."""
    tree = commit(store, {"d/a": b"1"})
    place = location_of(store.system.location, tree.digest)
    assert [entry.key for entry in open_system(place).list()] == ["d/a"]
    assert locate(f"{place.system}/{place.path}/d") == place / "d"
    assert open_system(place / "d").read("a").read() == b"1"
    for bad in ("", "x", "0" * 63, "../" + "0" * 61):
        with pytest.raises((InvalidError, NotFoundError)):
            list(open_system(Location(place.system, bad)).list())
    with pytest.raises(NotFoundError, match="no version"):
        list(open_system(Location(place.system, "0" * 64)).list())
    for missing in ("nothing", "d/a", "d/a/b"):
        with pytest.raises(NotFoundError, match="no such directory"):
            list(open_system(place / missing).list())


# What is kept here


def test_the_cache_has_a_bound(tmp_path):
    """What was not used for longest goes first, when there is more than the limit."""
    contents = cache.Contents(8 * MIB)
    datas = [noise(MIB, number) for number in range(12)]
    names = [digest.of_bytes(data).text for data in datas]
    for number, (name, data) in enumerate(zip(names, datas, strict=True)):
        contents.put(name, data)
        if contents.get(name) is not None:
            path = contents.sound(name, MIB)
            assert path is not None
            os.utime(path, (number, number))
    kept = {one.name for one in cache.ls("objects")}
    assert sum(one.size for one in cache.ls("objects")) <= 9 * MIB
    assert names[11] in kept
    assert names[0] not in kept
    assert cache.verify() == (len(kept), [])
    path = contents.sound(names[11], MIB)
    assert path is not None
    path.write_bytes(b"?" * MIB)
    assert cache.verify() == (len(kept), [names[11]])
    assert cache.rm(names[10]) == (1, MIB)
    assert cache.rm()[0] == len(kept) - 2
    assert list(cache.ls()) == []


def test_a_cache_that_cannot_be_written(memory, monkeypatch, tmp_path):
    """The cache is a convenience: without it everything works."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("RH_HOME", str(tmp_path / "file"))
    tree = commit(memory, FILES, **MORE)
    assert read_all(memory, tree) == FILES


def test_errors_are_ours(memory):
    """A digest that is none, a tree that is none."""
    for bad in ("", "sha256:xyz", "md5:" + "0" * 32, "sha256-16m:" + "0" * 64):
        with pytest.raises(InvalidError):
            memory.tree(bad)
    with pytest.raises(IntegrityError, match="nothing in it"):
        memory.tree(EMPTY)
    memory.check_format()
    with pytest.raises(NotFoundError, match="no version"):
        memory.tree(EMPTY)
    child = Child("dir", b"d", 0, EMPTY, executable=False, where=("n", "0" * 32, 0, 5, 0, 0))
    with pytest.raises(RhError, match="lost"):
        memory.below(child)
    with pytest.raises(InvalidError):
        memory.open(child)
    assert memory.exists([]) == {}
    assert Entry("x", 0).size == 0
