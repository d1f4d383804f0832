"""Packs that are hardly needed are written anew: every version stays what it was, whoever reads, commits or dies."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rh
from rh import observe
from rh.cli.app import app
from rh.errors import ConflictError, IntegrityError, InvalidError, UnsupportedError
from rh.systems import memory
from rh.types import Entry
from rh.versions.bulk import read_children
from rh.versions.cache import Contents
from rh.versions.gc import collect
from rh.versions.repair import mend_contents
from rh.versions.verify import files_of, verify_version
from tests.versions.made import again, build, commit, source_of, store_on
from tests.versions.test_gc import keys, read

KIB = 1 << 10
RANDOM = random.Random(7)
KEPT = {f"kept/{number}": RANDOM.randbytes(2 * KIB) for number in range(12)}
SPARE = {f"spare/{number}": RANDOM.randbytes(8 * KIB) for number in range(12)}
BOTH = dict(sorted((KEPT | SPARE).items(), key=lambda item: item[0].partition("/")[2]))


@pytest.fixture
def store(request, tmp_path):
    return store_on("memory", request, tmp_path)


def half_needed(store):
    """Two versions that share a pack, of which the one with the smaller part is kept."""
    commit(store, BOTH)
    kept = commit(store, KEPT)
    store.ref("kept", kept.digest)
    return kept


def packs(store):
    return {key for key in keys(store) if key.startswith("packs/")}


def redirects(store):
    return {key for key in keys(store) if key.startswith("moved/")}


@pytest.mark.parametrize(
    "kind", ["memory", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("s3", "moto", "gs", "azure"))]
)
def test_a_pack_is_written_anew(kind, request, tmp_path, monkeypatch):
    """What is needed is in a smaller pack, the old one is gone, and the version is what it was, from any machine."""
    store = store_on(kind, request, tmp_path)
    kept = half_needed(store)
    before = packs(store)
    told = collect(store, dry_run=True, older_than_s=-60)
    assert packs(store) == before
    assert [one.needed for one in told.rewritten] == [12 * 2 * KIB]
    assert "would rewrite 1 packs (96.0 KiB less)" in str(told)
    done = collect(store, older_than_s=-60)
    assert done.rewritten == told.rewritten
    assert done.sparse == ()
    assert not packs(store) & before
    assert sum(store.system.head(key).size for key in packs(store)) == 12 * 2 * KIB
    assert len(redirects(store)) == 1
    assert json.loads(store.system.read("format.json").read()) == {"rh-store": 2}
    assert store.has_tree(kept.digest)
    monkeypatch.setenv("RH_HOME", str(tmp_path / "elsewhere"))
    assert read(store, kept) == KEPT
    assert verify_version(again(store), kept.digest, "x").ok
    last = collect(store, older_than_s=-60)
    assert (last.size, last.rewritten, last.sparse) == (0, (), ())
    store.unref("kept", kept.digest)
    collect(store, older_than_s=-60)
    assert [key for key in keys(store) if not key.startswith("refs/")] == ["format.json"]


def test_packs_become_one(store):
    """Several packs become one; what they had twice it has once."""
    trees = []
    for number in range(4):
        own = {f"{number}/kept": b"%d" % number * 100, "same": b"same" * 10, f"{number}/not": b"%d" % number * 900}
        with store.lease() as lease, again(store).writer(lease=lease) as writer:
            writer.finish(build(writer, own))
        del own[f"{number}/not"]
        trees.append((commit(store, own), own))
        store.ref("x", trees[-1][0].digest)
    done = collect(store, older_than_s=-60)
    assert len(done.rewritten) == 4
    (pack,) = packs(store)
    assert store.system.head(pack).size == 4 * 100 + 40
    for tree, files in trees:
        assert read(store, tree) == files


def test_what_was_written_anew_is_written_anew(store):
    """A second time: the redirect of the first pack leads to the newest one, and nothing is left in between."""
    half_needed(store)
    fewer = dict(list(KEPT.items())[:3])
    last = commit(store, fewer)
    store.ref("last", last.digest)
    collect(store, older_than_s=-60)
    old = again(store)
    assert read(old, last) == fewer  # it remembers the redirect
    first = packs(store)
    for ref in list(store.refs("kept")):
        store.unref(*ref)
    assert len(collect(store, older_than_s=-60).rewritten) == 1
    assert not first & packs(store)
    assert len(packs(store)) == len(redirects(store)) == 1
    for one in (old, again(store)):
        system_files = {}
        for key, child in files_of(one, one.root(one.tree(last.digest))):
            with one.open(child) as body:
                system_files[key] = body.read()
        assert system_files == fewer


def test_who_has_looked_already_finds_it(store, tmp_path, monkeypatch):
    """Nodes that are in somebody's hands stay right: one by one, in bulk, and after the pack moved once more."""
    kept = half_needed(store)
    fewer = dict(list(KEPT.items())[:2])
    store.ref("fewer", commit(store, fewer).digest)
    reader = again(store)
    children = list(files_of(reader, reader.root(reader.tree(kept.digest))))

    def all_of(names):
        group = [(Entry(key, child.size), child) for key, child in children if key in names]
        return {entry.key: data for entry, data in read_children(reader, group)}

    monkeypatch.setenv("RH_HOME", str(tmp_path / "1"))
    collect(store, older_than_s=-60)
    with reader.open(children[0][1]) as body:
        assert body.read() == KEPT[children[0][0]]
    assert all_of(set(KEPT)) == KEPT
    store.unref("kept", kept.digest)
    monkeypatch.setenv("RH_HOME", str(tmp_path / "2"))
    collect(store, older_than_s=-60)
    assert all_of(set(fewer)) == fewer


def test_no_request_more(request, tmp_path, monkeypatch):
    """A version that was read once is read without any request, also where its pack was written anew (promise 24)."""
    store = store_on("moto", request, tmp_path)
    kept = half_needed(store)
    collect(store, older_than_s=-60)
    monkeypatch.setenv("RH_HOME", str(tmp_path / "elsewhere"))
    read(store, kept)
    with observe.counting() as counts:
        assert read(store, kept) == KEPT
    assert not counts.total()


def test_a_commit_finds_what_moved(store):
    """What the store has is not stored again; what was left behind is."""
    kept = half_needed(store)
    collect(store, older_than_s=-60)
    before = packs(store)
    tree = commit(again(store), {"again/" + key: data for key, data in KEPT.items()})
    assert packs(store) == before
    assert read(store, tree) == {"again/" + key: data for key, data in KEPT.items()}
    tree = commit(again(store), BOTH)
    assert len(packs(store)) == 2
    assert read(store, tree) == BOTH
    assert read(store, kept) == KEPT


def test_what_came_meanwhile_keeps_its_pack(store, monkeypatch):
    """Somebody commits what nobody needed, after it was not copied: the old pack stays, and nothing is left over."""
    kept = half_needed(store)
    before = packs(store)
    from rh.versions import repack

    copied = repack._copied
    trees = []

    def and_somebody_commits(*args):
        found = copied(*args)
        own = again(store)
        with own.lease() as lease, own.writer(lease=lease) as writer:
            trees.append(writer.finish(build(writer, {"late": SPARE["spare/3"]})))
            own.ref("late", trees[0].digest)
        return found

    monkeypatch.setattr(repack, "_copied", and_somebody_commits)
    done = collect(store, older_than_s=-60)
    assert done.rewritten == ()
    assert len(done.sparse) == 1
    assert packs(store) == before
    assert not redirects(store)
    assert read(store, trees[0]) == {"late": SPARE["spare/3"]}
    monkeypatch.undo()
    assert len(collect(store, older_than_s=-60).rewritten) == 1
    assert read(store, trees[0]) == {"late": SPARE["spare/3"]}
    assert read(store, kept) == KEPT


def test_not_while_somebody_writes(store):
    """Who writes is not waited for for ever: the packs stay, the result says so, and no copy is left."""
    half_needed(store)
    collect(store, older_than_s=-60, repack=1)
    before = keys(store)
    with store.lease():
        told = collect(store, older_than_s=-60, patience_s=0)
    assert (told.rewritten, len(told.sparse)) == ((), 1)
    assert keys(store) == before


def test_a_damaged_pack_stays(store, tmp_path, monkeypatch):
    """A pack of which a needed member is damaged is not touched: it may be repaired."""
    kept = half_needed(store)
    (pack,) = packs(store)
    data = bytearray(store.system.read(pack).read())
    at = bytes(data).index(KEPT["kept/3"])
    data[at] ^= 1
    store.system.write(pack, bytes(data))
    done = collect(store, older_than_s=-60)
    assert (done.rewritten, len(done.sparse)) == ((), 1)
    assert packs(store) == {pack}
    monkeypatch.setenv("RH_HOME", str(tmp_path / "elsewhere"))
    assert verify_version(again(store), kept.digest, "x").corrupt == ("kept/3",)


@pytest.mark.parametrize("damage", ["member", "pack", "redirect", "lost redirect"])
def test_repair_after_it(store, damage, tmp_path, monkeypatch):
    """What is damaged or lost of a pack that was written anew, or of its redirect, is found and mended."""
    kept = half_needed(store)
    collect(store, older_than_s=-60)
    monkeypatch.setenv("RH_HOME", str(tmp_path / "elsewhere"))
    store = again(store)
    (pack,), (redirect,) = packs(store), redirects(store)
    if damage == "member":
        data = bytearray(store.system.read(pack).read())
        data[5] ^= 1
        store.system.write(pack, bytes(data))
    elif damage == "redirect":
        store.system.write(redirect, store.system.read(redirect).read()[:-9])
        with pytest.raises(IntegrityError, match="where a pack went is damaged"):
            collect(store, older_than_s=-60)
    else:
        store.system.delete([pack if damage == "pack" else redirect])
    found = verify_version(again(store), kept.digest, "x")
    bad = [*found.corrupt, *found.missing]
    assert len(bad) == (1 if damage == "member" else 12)
    source = source_of(KEPT)
    with store.lease() as lease:
        mend_contents(again(store), kept.digest, bad, ((source, entry) for entry in source.list()), lease)
    assert verify_version(again(store), kept.digest, "x").ok
    assert read(store, kept) == KEPT
    collect(store, older_than_s=-60)
    assert verify_version(again(store), kept.digest, "x").ok


def test_an_older_rh_writes_nothing_there(store, monkeypatch):
    """One that knows the first format only refuses the store, and leaves it alone."""
    from rh.versions import store as module

    half_needed(store)
    collect(store, older_than_s=-60)
    monkeypatch.setattr(module, "REDIRECTED", 1)
    trees = list(store.trees())
    with pytest.raises(UnsupportedError, match="format 2"):
        commit(store, {"new": b"1"})
    with pytest.raises(UnsupportedError, match="format 2"):
        collect(store, older_than_s=-60)
    assert list(store.trees()) == trees


def test_the_sample_reader_reads_it(store, tmp_path, monkeypatch, capsys):
    """What the page of the format has for other programs finds what moved."""
    kept = half_needed(store)
    collect(store, older_than_s=-60)
    for key in keys(store):
        path = tmp_path / "store" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.system.read(key).read())
    page = Path(__file__).parents[2] / "docs" / "storage-format.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page.name, "exec"), {"digest": kept.digest})
    assert capsys.readouterr().out == "".join(f"{key} {KEPT[key]!r}\n" for key in sorted(KEPT))


# Crashes


class _Killed(BaseException):
    """The process ends here."""


def _steps(store):
    """Every change that a collection makes to the store, one after the other."""
    kept = half_needed(store)
    changes = []
    write, delete = store.system.write, store.system.delete
    store.system.write = lambda *args, **more: changes.append("write") or write(*args, **more)
    store.system.delete = lambda *args, **more: changes.append("delete") or delete(*args, **more)
    collect(store, older_than_s=-60)
    return kept, len(changes)


def _dies_at(system, number, *, after):
    """From its change of this number on, the system belongs to nobody: before it is made, or just after."""
    left = [number]
    for name in ("write", "delete"):
        real = getattr(system, name)

        def step(*args, real=real, **more):
            left[0] -= 1
            if left[0] < 0 or (left[0] == 0 and not after):
                raise _Killed
            found = real(*args, **more)
            if left[0] == 0:
                raise _Killed
            return found

        setattr(system, name, step)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_step(after, request, tmp_path):
    """Whichever change is the last one, the version is whole, and the next collection completes (promise 6)."""
    _, count = _steps(store_on("memory", request, tmp_path))
    assert count > 8
    for number in range(1, count + 1):
        store = store_on("memory", request, tmp_path)
        kept = half_needed(store)
        dying = again(store)
        _dies_at(dying.system, number, after=after)
        with suppress(_Killed):
            collect(dying, older_than_s=-60)
        assert verify_version(again(store), kept.digest, "x").ok, number
        for key in keys(store):  # its time is over
            if key == "gc.json" or key.startswith("leases/"):
                store.system.delete([key])
        commit(again(store), {"spare": SPARE["spare/5"]})
        collect(store, older_than_s=-60)
        assert verify_version(again(store), kept.digest, "x").ok, number
        assert sum(store.system.head(key).size for key in packs(store)) == 12 * 2 * KIB, number
        memory.forget(store.system.location.path.partition("/")[0])


DYING = """
import os, signal, sys
from rh.systems import locate
from rh.versions.gc import collect
from rh.versions.store import Store
store = Store.at(locate(sys.argv[1]))
left = int(sys.argv[2])
kind = type(store.system)
for name in ("write", "delete"):
    def step(self, *args, real=getattr(kind, name), **more):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *args, **more)
    setattr(kind, name, step)
collect(store, older_than_s=-60)
"""


@pytest.mark.slow
def test_killed_and_done_again(request, tmp_path):
    """`kill -9` at each change of a store on a disk; the next collection takes over at once, and completes."""
    for number in range(1, 20):
        store, made = store_on("file", request, tmp_path / str(number)), store_on("memory", request, tmp_path)
        kept = half_needed(made)
        for key in keys(made):
            store.system.write(key, made.system.read(key).read())
        done = subprocess.run(
            [sys.executable, "-c", DYING, store.system.location.path, str(number)], env=os.environ, check=False
        )
        assert verify_version(again(store), kept.digest, "x").ok, number
        collect(store, older_than_s=-60, patience_s=0)
        assert verify_version(again(store), kept.digest, "x").ok, number
        assert sum(store.system.head(key).size for key in packs(store)) == 12 * 2 * KIB, number
        if done.returncode == 0:
            return
        assert done.returncode == -signal.SIGKILL
    raise AssertionError("it never came to its end")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_readers_see_no_gap(kind, request, tmp_path):
    """Three read all the time without a cache, while versions come and go and packs are written anew."""
    store = store_on(kind, request, tmp_path)
    files = {f"f/{number}": b"%d" % number * 200 for number in range(10)}
    tree = commit(store, files)
    store.ref("kept", tree.digest)
    stop, failed, turns = threading.Event(), [], []

    def work():
        own = again(store)
        own.contents = Contents(0)
        while not stop.is_set():
            try:
                group = [
                    (Entry(key, child.size), child) for key, child in files_of(own, own.root(own.tree(tree.digest)))
                ]
                found = {entry.key: data for entry, data in read_children(own, group)}
                assert found == files
                turns.append(1)
            except BaseException as error:
                failed.append(error)
                return

    readers = [threading.Thread(target=work) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        rewritten = 0
        for turn in range(6):
            extra = {f"x/{turn}/{number}": RANDOM.randbytes(400) for number in range(20)}
            own = again(store)
            other = commit(own, extra | {f"g/{turn}/{number}": b"%d%d" % (turn, number) * 50 for number in range(9)})
            own.ref("other", other.digest)
            mixed = {f"g/{turn}/{number}": b"%d%d" % (turn, number) * 50 for number in range(9)}
            small = commit(own, mixed)
            own.ref("small", small.digest)
            own.unref("other", other.digest)
            with suppress(ConflictError):
                rewritten += len(collect(own, older_than_s=-60, patience_s=5).rewritten)
            assert read(store, small) == mixed
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not failed
    assert rewritten
    assert turns


@pytest.mark.parametrize("wrong", [0, -1, 1.5, float("nan"), True, "half", None])
def test_no_share(wrong):
    """What is no share of a pack is refused."""
    with pytest.raises(InvalidError, match="repack"):
        rh.gc(repack=wrong)


def test_the_command_says_what_it_would_do(world, tmp_path):
    """`rh gc --dry-run` tells what would be written anew, and `--repack` from which share on."""
    (tmp_path / "live").mkdir()
    for key, data in BOTH.items():
        (tmp_path / "live" / key.replace("/", "-")).write_bytes(data)
    live = rh.folder(path=tmp_path / "live").to("s3", path="live").save("cats")
    live.commit()
    live.rm(*(key.replace("/", "-") for key in SPARE))
    live.commit()
    told = {}
    for name, options in (("dry", ["-n"]), ("never", ["--repack", "1"]), ("done", []), ("again", [])):
        done = CliRunner().invoke(app, ["gc", "rh://cats", "--keep", "1", "--older-than", "0s", *options])
        assert done.exit_code == 0, done.output
        told[name] = done.stdout.replace("\n", " ")
    assert "would rewrite 1 packs (96.0 KiB less)" in told["dry"]
    assert "rewrote" not in told["never"]
    assert "rewrote 1 packs (96.0 KiB less)" in told["done"]
    assert "rewrote" not in told["again"]
    assert isinstance(CliRunner().invoke(app, ["gc", "--repack", "0"]).exception, InvalidError)
    assert live.at("latest").verify().ok
