"""A sweeper that was killed is noticed: at once on its own machine, and elsewhere when its beats stay away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from rh import config
from rh.errors import ConflictError
from rh.systems import locate
from rh.versions import alive
from rh.versions.gc import collect
from rh.versions.lease import GC, valid
from rh.versions.store import Store, place_of
from rh.versions.sweep import Sweep
from tests.versions.made import again, commit, store_on
from tests.versions.test_gc import keys

SWEEPS = """
import os, sys, time
from rh.systems import locate
from rh.versions.store import Store
from rh.versions.sweep import Sweep
store = Store.at(locate(sys.argv[1]))
with Sweep(store.system, 0, beat_s=float(sys.argv[2])):
    print("sweeping", flush=True)
    time.sleep(600)
"""
WRITES = """
import sys, time
from rh.systems import locate
from rh.versions.store import Store
store = Store.at(locate(sys.argv[1]))
with store.lease():
    print("writing", flush=True)
    time.sleep(600)
"""
ELSEWHERE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""Where process numbers are others, as on another machine."""


@contextmanager
def running(code, *args, before=(), **environment):
    """A process that has said its first word; killed at the end, if not before."""
    command = [*before, sys.executable, "-c", code, *map(str, args)]
    with subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline().strip() in ("sweeping", "writing")
            yield process
        finally:
            process.kill()


@pytest.fixture
def store(request, tmp_path):
    return store_on("file", request, tmp_path)


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.slow)])
def shared(request, tmp_path):
    """A store that other processes find, and what they need for that."""
    if request.param == "file":
        return store_on("file", request, tmp_path), {}
    server = request.getfixturevalue("moto_server")
    settings = server.settings(root=f"s3://{server.buckets[0]}/{tmp_path.name}")
    config.register("s3", settings)
    told = {f"RH_S3_{name.upper()}": str(value) for name, value in settings.items() if name != "kind"}
    return Store.at(place_of(locate("data", "s3"))), told


def test_one_that_was_killed_here(shared):
    """`kill -9` of a sweeper: who writes goes on, and says so; the next one sweeps."""
    store, environment = shared
    commit(store, {"a": b"1"})
    with running(SWEEPS, store.system.url(), 5, **environment):
        assert valid(store.system, GC) is not None
        with pytest.raises(ConflictError, match="is being swept by"), Sweep(store.system, 0):
            pass
    assert valid(store.system, GC) is None
    with store.lease():
        assert json.loads(store.system.read(GC).read())["ttl"] == 0
    with store.lease():
        pass
    assert collect(store, older_than_s=-60).trees == 1
    assert keys(store) == ["format.json"]


def test_one_that_was_killed_here_and_nobody_looked(store):
    """A killed process whose parent has not asked for it is gone as well."""
    with running(SWEEPS, store.system.location.path, 5) as process:
        process.kill()
        while (alive._state(process.pid) or "?")[0] != "Z":  # first its other threads end
            time.sleep(0.01)
        with store.lease():
            pass
    with Sweep(store.system, 0):
        assert valid(store.system, GC) is not None


@pytest.mark.slow
def test_one_that_was_killed_elsewhere(shared):
    """Of another machine nobody knows the processes: its beats stay away, and then who writes goes on."""
    store, environment = shared
    with running(SWEEPS, store.system.url(), 0.3, before=ELSEWHERE, **environment):
        pass
    told = json.loads(store.system.read(GC).read())
    assert told["process"]["here"]
    assert not alive.is_gone(told["process"])
    with store.lease():
        assert json.loads(store.system.read(GC).read())["ttl"] == 0
    with Sweep(store.system, 0):
        pass
    assert GC not in keys(store)


@pytest.mark.slow
def test_one_that_lives_is_waited_for(store):
    """As long as the beats come, who writes waits, however many there were."""
    wrote, done = threading.Event(), []

    def write():
        with again(store).lease():
            done.append(json.loads(store.system.read(GC).read()) if GC in keys(store) else None)
            wrote.set()

    writer = threading.Thread(target=write)
    with Sweep(store.system, 0, beat_s=0.05) as sweep:
        first = store.system.head(GC).etag
        writer.start()
        until = time.monotonic() + 12 * 0.05 * 3
        while time.monotonic() < until:
            assert not wrote.is_set()
            assert not sweep.is_over()
            time.sleep(0.02)
        assert store.system.head(GC).etag != first
    writer.join()
    assert done == [None]


def test_one_that_slept_is_told(store):
    """A sweeper that was stopped for long, and goes on when others have written, begins nothing more."""
    sweep = Sweep(store.system, 0, beat_s=0.1)
    with sweep:
        assert not sweep.is_over()
        told = json.dumps({"until": 0, "ttl": 0, "by": "x"}).encode()
        store.system.write(GC, told)
        while not sweep.is_over():
            time.sleep(0.01)
        with store.lease():
            pass
    assert store.system.read(GC).read() == told  # not its own any more


def test_beats_that_do_not_arrive(store, monkeypatch):
    """Who cannot say that it sweeps stops long before others may go on."""
    from rh.errors import UnavailableError

    def refuse(*_args, **_more):
        raise UnavailableError("no network")

    with Sweep(store.system, 0, beat_s=0.1) as sweep:
        monkeypatch.setattr(store.system, "write", refuse)
        while not sweep.is_over():
            time.sleep(0.01)
        monkeypatch.undo()
        assert valid(store.system, GC) is not None


def test_a_writer_that_was_killed_here(store):
    """It does not count as writing for an hour: the collection goes on at once."""
    commit(store, {"a": b"1"})
    with running(WRITES, store.system.location.path), pytest.raises(ConflictError, match="writes to the store"):
        collect(store, older_than_s=-60, patience_s=0)
    assert collect(store, older_than_s=-60, patience_s=0).trees == 1


def test_a_process_is_not_taken_for_another():
    """A number that is used again, or that of another machine, says nothing."""
    here = alive.process()
    assert not alive.is_gone(here)
    assert alive.is_gone({**here, "born": here["born"] - 1})
    others = {**here, "pid": True}, {**here, "pid": -1}, {**here, "here": "x"}
    for told in (None, {}, "x", {"here": here["here"]}, *others):
        assert not alive.is_gone(told)
    assert not alive.is_gone({**here, "here": "another boot", "pid": 1 << 22})
    assert alive.is_gone({**here, "pid": (1 << 22) + 1})
