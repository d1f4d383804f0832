"""Mark and sweep: what a version needs stays, whoever commits meanwhile, and the rest goes."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rh import transfer
from rh.errors import ConflictError, FullError, IntegrityError, InvalidError, NotFoundError, UnavailableError
from rh.registry import default
from rh.registry.sql.sqlite import SQLiteRegistry
from rh.systems import locate, open_system
from rh.versions.commit import adopt_tree, commit_tree
from rh.versions.edit import Edit
from rh.versions.gc import collect, drop, prune, unneeded
from rh.versions.layout import tree_key
from rh.versions.lease import GC
from rh.versions.marks import Marks
from rh.versions.series import Series
from rh.versions.store import Store
from rh.versions.sweep import Sweep
from rh.versions.system import TreeSystem, location_of
from tests.versions.made import again, build, commit, store_on

MIB = 1 << 20
BIG = random.Random(1).randbytes(17 * MIB)


@pytest.fixture
def store(request, tmp_path):
    return store_on("memory", request, tmp_path)


def keys(store):
    """Every file that is in a store."""
    return [entry.key for entry in store.system.list() if entry.kind == "file"]


def read(store, tree):
    """Every file of a version, as another process reads it."""
    system = TreeSystem(location_of(store.system.location, tree.digest), {"kind": "tree"}, again(store))
    found = {}
    for entry in system.list():
        if entry.kind == "file":
            with system.read(entry.key) as body:
                found[entry.key] = body.read()
    return found


@pytest.mark.parametrize("kind", ["memory", "file", "s3", "ssh-a"])
def test_what_no_reference_needs_goes(kind, request, tmp_path, monkeypatch):
    """Of two versions that share files one is let go of: what only it had goes, and the other one is whole."""
    store = store_on(kind, request, tmp_path)
    shared = {"s/one": b"shared", "s/two": b"too", "large": BIG}
    a = commit(store, shared | {"a/only": b"a", "big": BIG[: 2 * MIB]})
    b = commit(store, shared | {"b/only": b"b"})
    store.ref("kept", b.digest)
    before = keys(store)
    told = collect(store, dry_run=True, older_than_s=-60)
    assert keys(store) == before
    assert (told.dry_run, told.trees) == (True, 1)
    assert told.size > 2 * MIB
    done = collect(store, older_than_s=-60)
    assert done.as_dict() | {"dry_run": True} == told.as_dict()
    assert done.objects == (2 if kind in ("file", "ssh-a") else 1)
    assert not store.has_tree(a.digest)
    assert GC not in keys(store)
    monkeypatch.setenv("RH_HOME", str(tmp_path / "elsewhere"))
    assert read(store, b) == shared | {"b/only": b"b"}
    assert collect(store, older_than_s=-60).size == 0
    store.unref("kept", b.digest)
    collect(store, older_than_s=-60)
    assert [key for key in keys(store) if not key.startswith("refs/")] == ["format.json"]


def test_what_is_young_stays(store):
    """Nothing goes before its time; a place without a store has nothing to collect."""
    commit(store, {"a": b"1"})
    before = keys(store)
    told = collect(store)
    assert (told.size, told.young, keys(store)) == (0, 3, before)
    assert "3 more" in str(told)
    assert collect(Store.at(locate("memory://nobody/.rh-store"))).size == 0


@pytest.mark.parametrize("damage", ["cut", "gone", "node"])
def test_nothing_goes_when_a_version_cannot_be_read(store, damage, tmp_path, monkeypatch):
    """A marker or node that is damaged or lost stops the collection before anything is deleted."""
    kept, _ = commit(store, {"d/a": b"1"}), commit(store, {"b": b"2"})
    store.ref("x", kept.digest)
    key = tree_key(kept.digest)
    if damage == "node":
        monkeypatch.setenv("RH_HOME", str(tmp_path / "elsewhere"))
        store.system.delete([key for key in keys(store) if key.startswith("nodes/")])
    elif damage == "gone":
        store.system.delete([key])
    else:
        store.system.write(key, store.system.read(key).read()[:-20])
    before = keys(store)
    with pytest.raises((NotFoundError, IntegrityError)) as caught:
        collect(store, older_than_s=-60)
    assert "memory://" in str(caught.value)
    assert keys(store) == before


@pytest.mark.parametrize("key", ["refs/.DS_Store", "refs/s/.DS_Store", "refs/s/" + "0" * 63, "refs/s/more/" + "0" * 64])
def test_nothing_goes_while_there_is_a_reference_that_is_none(store, key):
    """As other programs leave files in shared directories: the error tells which it is, and what to do."""
    commit(store, {"a": b"1"})
    store.system.write(key, b"")
    before = keys(store)
    with pytest.raises(IntegrityError, match=r"refs/.*\n  fix: .* delete it"):
        collect(store, older_than_s=-60)
    assert keys(store) == before
    store.system.delete([key])
    assert collect(store, older_than_s=-60).trees == 1


def test_nothing_goes_while_somebody_writes(store):
    """A valid lease keeps everything; one that has ended does not."""
    commit(store, {"a": b"1"})
    with store.lease():
        with pytest.raises(ConflictError, match="writes to the store"):
            collect(store, older_than_s=-60, patience_s=0)
        assert GC not in keys(store)
    assert list(store.trees())
    store.system.write("leases/dead", json.dumps({"until": time.time() - 90_000, "by": "x"}).encode())
    assert collect(store, older_than_s=-60, patience_s=0).trees == 1
    assert [key for key in keys(store) if not key.startswith("leases/")] == ["format.json"]


def test_one_sweeps_at_a_time(store):
    """Who comes second is refused; what somebody left who died is taken over."""
    commit(store, {"a": b"1"})
    with Sweep(store.system, 0), pytest.raises(ConflictError, match="is being swept by"):
        collect(store, older_than_s=-60)
    store.system.write(GC, json.dumps({"until": time.time() + 60, "by": "another"}).encode())
    with pytest.raises(ConflictError, match="another"):
        collect(store, older_than_s=-60)
    store.system.write(GC, json.dumps({"until": time.time() - 1, "by": "another"}).encode())
    assert collect(store, older_than_s=-60).trees == 1
    assert keys(store) == ["format.json"]


def test_a_version_that_came_after_marking_is_kept(store, monkeypatch):
    """What gets a reference between the marking and the sweep stays, with the chunk digests of its large file."""
    tree = commit(store, {"large": BIG, "small": b"1"})
    commit(store, {"other": b"2"})
    enter = Sweep.__enter__
    monkeypatch.setattr(Sweep, "__enter__", lambda sweep: store.ref("late", tree.digest) or enter(sweep))
    before = keys(store)
    done = collect(store, older_than_s=-60)
    assert (done.trees, done.packs, done.nodes) == (1, 1, 1)
    assert len(set(before) - set(keys(store))) == 3
    assert any(key.endswith(".chunks") for key in keys(store))
    assert read(store, tree) == {"large": BIG, "small": b"1"}


def test_a_version_whose_marker_is_written_again_after_marking_is_kept(store, tmp_path, monkeypatch):
    """One that was there by reference is committed with its bytes, which the store had left from something else."""
    (tmp_path / "f").write_bytes(BIG)
    source = open_system(locate(tmp_path))
    tree = adopt_tree(source, store)
    store.ref("s", tree.digest)
    with store.lease() as lease, store.writer(lease=lease) as writer:
        writer.finish(build(writer, {"left/over": BIG}))
    enter = Sweep.__enter__
    monkeypatch.setattr(Sweep, "__enter__", lambda sweep: commit_tree(source, store) and enter(sweep))
    assert collect(store, older_than_s=-60).trees == 1
    (tmp_path / "f").unlink()
    assert read(store, tree) == {"f": BIG}


def test_what_is_shared_with_a_version_that_goes_while_it_is_marked_is_kept(store, tmp_path, monkeypatch):
    """Another collection takes a version after its root was read: what it shares is marked for others all the same."""
    files = {"shared/a/f": b"1", "shared/b/f": b"2"}
    kept = commit(store, files)
    store.ref("s", kept.digest)
    for number in count():  # trees are marked in the order of their digests
        alone = commit(store, {"alone/f": b"%d" % number})
        with Edit(store, kept.digest) as edit:
            edit.copy_from(store, alone.digest)
            going = edit.finish()
        if going.digest < kept.digest:
            break
    store.ref("s", going.digest)
    monkeypatch.setenv("RH_HOME", str(tmp_path / "of-another-machine"))
    unseen, times = Marks.unseen, count()

    def after_the_root(marks, records):
        if next(times) == 1:
            store.unref("s", going.digest)
            collect(again(store), older_than_s=-60)
        return unseen(marks, records)

    monkeypatch.setattr(Marks, "unseen", after_the_root)
    collect(store, older_than_s=-60)
    assert not store.has_tree(going.digest)
    assert read(store, kept) == files


def test_equal_directories_at_two_places_are_both_kept(store):
    """Two writers at once store one directory twice: each version keeps the packs that its own nodes name."""
    files = {"d/f": b"the same"}
    with store.lease() as lease, store.writer(lease=lease) as one, again(store).writer(lease=lease) as two:
        first, second = build(one, files), build(two, files | {"more": b"?"})
        trees = one.finish(first), two.finish(second)
    assert len([key for key in keys(store) if key.startswith("packs/")]) == 2
    for tree in trees:
        store.ref("x", tree.digest)
    store.root(trees[0])
    assert collect(store, older_than_s=-60).packs == 0


def test_a_pack_that_is_hardly_needed_is_told(store):
    """Where it is not to be written anew, it stays whole, and the result says how much of it is needed."""
    commit(store, {"a": b"1" * 10, "b": b"2" * 90})
    kept = commit(store, {"a": b"1" * 10})
    store.ref("x", kept.digest)
    done = collect(store, older_than_s=60)
    ((key, size, needed),) = done.sparse
    assert (size, needed) == (100, 10)
    assert key in keys(store)
    assert "1 packs stay though 90 B of them are not needed" in str(done)
    assert collect(store, older_than_s=-60, repack=0.9).rewritten == ()
    assert key in keys(store)


FILES = st.dictionaries(st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a"]), st.sampled_from([b"", b"1", b"2"]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(FILES, st.booleans()), max_size=5))
@pytest.mark.slow
def test_whatever_is_kept_can_be_read(versions):
    """Of any versions any are kept: those are whole, and nothing is left that they do not need."""
    store = Store.at(locate("memory://gc-property/.rh-store"))
    store.system.delete(keys(store))
    store = again(store)
    made = [(commit(store, files), files, keep) for files, keep in versions]
    for tree, _, keep in made:
        if keep:
            store.ref("x", tree.digest)
    collect(store, older_than_s=-60)
    for tree, files, keep in made:
        if keep:
            assert read(store, tree) == files
    assert collect(store, dry_run=True, older_than_s=-60).size == 0


def test_safe_while_others_commit(store):
    """Three at once commit, let go of every second version, and sweep: what has a reference is whole."""
    failed, kept = [], []

    def work(number):
        own = again(store)
        try:
            for turn in range(8):
                files = {f"d{n}/{turn % 3}": b"%d" % (turn % 3) for n in range(3)}
                files["who"] = b"%d" % (turn if turn % 2 else number)
                with own.lease() as lease, own.writer(lease=lease) as writer:
                    tree = writer.finish(build(writer, files))
                    own.ref(f"s{number}-{turn}", tree.digest)
                if turn % 2:
                    own.unref(f"s{number}-{turn}", tree.digest)
                else:
                    kept.append((tree, files))
                with suppress(ConflictError):  # somebody else sweeps, or writes right now
                    collect(own, older_than_s=-60, patience_s=0)
        except Exception as error:
            failed.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed
    assert len(kept) == 12
    for tree, files in kept:
        assert read(store, tree) == files
        assert transfer.digest_tree(location_of(store.system.location, tree.digest)) == tree.digest


@pytest.fixture
def series(tmp_path):
    with SQLiteRegistry(tmp_path / "registry.db") as registry:
        yield Series(registry, "a1", "~/cats")


def version(series, store, content, **more):
    tree = commit(store, {"f": content})
    store.ref(series.series, tree.digest)
    return series.add(tree.digest, store.system.location, files=1, size=1, **more)[0]


NOTING = """
import os, signal, sys
from pathlib import Path
from rh.systems import locate
from rh.versions.gc import collect
from rh.versions.marks import Marker
from rh.versions.store import Store
def mark(marker):
    for number in range(50):
        marker._marks.need(f"objects/{number}/{other:064}" for other in range(1_000))
    print(*(os.readlink(one) for one in Path("/proc/self/fd").iterdir() if one.is_symlink()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
Marker.mark = mark
collect(Store.at(locate(sys.argv[1])))
"""


def test_what_was_noted_goes_with_the_process(request, tmp_path):
    """`kill -9`: what a large store needs is noted in a file that has no name, so that nothing is left behind."""
    store, scratch = store_on("file", request, tmp_path), tmp_path / "scratch"
    commit(store, {"a": b"1"})
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", NOTING, store.system.location.path],
        env={**os.environ, "TMPDIR": str(scratch)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert f"{scratch}/" in done.stdout
    assert list(scratch.iterdir()) == []


def test_a_full_disk_for_what_is_noted():
    """The kernel refuses what goes beyond this size; a store whose notes fit SQLite's cache writes none."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with closing(Marks()) as marks:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
        try:
            with pytest.raises(FullError, match="takes no notes") as caught:
                marks.need(f"objects/{number:064x}" for number in range(100_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "TMPDIR" in caught.value.hint


def test_prune(store, series):
    """Versions whose time is over go, and those beyond the newest; the newest and those with an alias stay."""
    version(series, store, b"1", expires=50.0)
    version(series, store, b"2", aliases=("production",), expires=50.0)
    version(series, store, b"3")
    version(series, store, b"1", expires=500.0)
    version(series, store, b"5", expires=50.0)
    assert [one.number for one in prune(series, store, now=100.0, dry_run=True)] == [1]
    assert len(series.all()) == 5
    assert [one.number for one in prune(series, store, now=100.0)] == [1]
    assert [one.number for one in series] == [2, 3, 4, 5]
    assert len(list(store.refs())) == 4  # v4 has what v1 had
    with pytest.raises(InvalidError, match="newest"):
        prune(series, store, keep=0)
    elsewhere = again(Store.at(locate("memory://another/.rh-store")))
    assert prune(series, elsewhere, keep=1, now=100.0) == []
    assert [one.number for one in prune(series, store, keep=1, now=100.0)] == [3, 4]
    assert [one.number for one in series] == [2, 5]
    assert collect(store, older_than_s=-60).trees == 2
    for one in series:
        assert store.has_tree(one.digest)


def test_what_another_registry_has_stays(store, series, tmp_path, monkeypatch):
    """A series may be in two registries: its trees go when neither needs them, and nothing while one is silent."""
    monkeypatch.setenv("RH_REGISTRY", f"sqlite://{tmp_path}/team.db")
    team = Series(default(), series.series, "/acme/cats")
    for content in (b"1", b"2", b"3"):
        version(series, store, content)
    team.registry.replay(series.registry.changes())
    one, two, _ = series
    assert not unneeded([one])
    assert unneeded([one, *team.all()[:1]]) == {("a1", one.digest)}
    drop(series, store, one)
    assert ("a1", one.digest) in set(store.refs())
    drop(team, store, team.get("v1"))
    assert ("a1", one.digest) not in set(store.refs())
    monkeypatch.setenv("RH_REGISTRY", "postgresql://nobody@127.0.0.1:1/names")
    for let_go in (lambda: drop(series, store, two, patience_s=0), lambda: prune(series, store, keep=1, runs=False)):
        with pytest.raises(UnavailableError):
            let_go()
    assert [one.number for one in series] == [2, 3]
    monkeypatch.setenv("RH_REGISTRY", f"sqlite://{tmp_path}/team.db")
    assert prune(series, store, keep=1) == [two]
    assert ("a1", two.digest) in set(store.refs())


def test_prune_waits_for_writers(store, series):
    """While somebody commits, no version is dropped: what they found may be just that."""
    version(series, store, b"1", expires=1.0)
    version(series, store, b"2")
    with store.lease(), pytest.raises(ConflictError):
        prune(series, store, patience_s=0)
    assert len(series.all()) == 2
