"""Children forked at any moment: what another thread of the parent holds just then does not stop them."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rh import config, forks, observe, plugins, sqlite
from rh.errors import UnavailableError
from rh.registry.base import Put
from rh.registry.names import current_folder, set_folder
from rh.registry.sql.sqlite import SQLiteRegistry

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def ends(work: Callable[[], object], *, within_s: float = 20.0) -> bool:
    """Whether a child forked now does this work in time."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


@contextmanager
def busy(work: Callable[[], object], *, threads: int = 3) -> Iterator[None]:
    """Threads that do nothing but this work, over and over."""
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            work()

    crew = [threading.Thread(target=go_on) for _ in range(threads)]
    for thread in crew:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in crew:
            thread.join()


@contextmanager
def staying(work: forks.Work) -> Iterator[None]:
    """A thread that is in the middle of this."""
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with work:
            inside.set()
            leave.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait()
    try:
        yield
    finally:
        leave.set()
        thread.join()


@pytest.mark.slow
def test_children_use_the_registry_while_the_parent_does(tmp_path: Path) -> None:
    """Promise 27. SQLite has locks of the whole process: without precaution one child in two never ends here."""
    registry = SQLiteRegistry(tmp_path / "registry.db")
    registry.commit([Put("a", {"kind": "folder"})])
    with busy(lambda: registry.get("a")):
        for _ in range(100):
            assert ends(lambda: registry.get("a"))


@pytest.mark.slow
def test_children_and_parent_write_the_same_registry(tmp_path: Path) -> None:
    """Promise 27. A child that inherits an open connection takes its locks for its own, and the file is damaged."""
    registry = SQLiteRegistry(tmp_path / "registry.db")
    numbers = itertools.count()

    def work() -> None:
        name = f"{os.getpid()}-{next(numbers)}"
        registry.commit([Put(name, {"kind": "folder"})])
        assert registry.get(name).document["kind"] == "folder"

    with busy(work, threads=2):
        for _ in range(40):
            assert ends(work)
    with sqlite.opened(tmp_path / "registry.db") as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        (written,) = db.execute("select count(*) from records").fetchone()
    assert written == len(list(registry.list())) > 40


def test_a_child_forked_in_the_middle_all_the_same_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather no registry than a damaged one."""
    monkeypatch.setattr(forks, "PATIENCE_S", 0.2)
    registry = SQLiteRegistry(tmp_path / "registry.db")
    registry.commit([Put("a", {"kind": "folder"})])

    def use() -> None:
        with pytest.raises(UnavailableError, match="forked while a database was in use"):
            registry.get("a")

    with staying(forks.databases):
        assert ends(use)
    assert registry.get("a").document == {"kind": "folder"}


@pytest.mark.slow
def test_our_own_locks_are_open_in_a_child() -> None:
    """Promise 27: settings, names and counts, at a moment when other threads change them without a pause."""
    with observe.counting() as counts:

        def work() -> None:
            config.register("forked", {"kind": "memory"})
            with set_folder("~/forked"):
                current_folder()
            observe.count("memory", "read")

        with busy(work):
            for _ in range(100):
                assert ends(work)
    config.register("forked", None)
    assert counts.requests["memory", "read"] > 0


def test_a_lock_held_elsewhere_is_open_in_the_child_and_stays_held_here() -> None:
    lock, taken, done = forks.Lock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            done.wait()

    def use() -> None:
        with lock, lock:
            pass

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    try:
        assert ends(use, within_s=5)
        waiter = threading.Thread(target=use)
        waiter.start()
        waiter.join(0.2)
        assert waiter.is_alive()
    finally:
        done.set()
        holder.join()
        waiter.join()


def test_a_fork_waits_for_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is half imported at that moment stays so in the child."""
    (tmp_path / "rh_test_slow_module.py").write_text("import time\ntime.sleep(0.5)\nready = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    thread = threading.Thread(target=plugins.need, args=("rh_test_slow_module",))
    thread.start()
    while "rh_test_slow_module" not in sys.modules:
        time.sleep(0.001)
    try:
        assert ends(lambda: plugins.need("rh_test_slow_module").ready, within_s=5)
    finally:
        thread.join()


def test_a_fork_from_inside_does_not_wait_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "PATIENCE_S", 60.0)
    began = time.monotonic()

    def work() -> None:
        with forks.imports:
            pass

    with forks.imports, forks.imports:
        assert ends(work)
    assert ends(work)
    assert time.monotonic() - began < 20


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread does may wait for what only the forking thread can give."""
    monkeypatch.setattr(forks, "PATIENCE_S", 0.2)
    with staying(forks.imports):
        assert ends(lambda: None, within_s=10)
