"""The memory system keeps the contract, and is fast enough for promise 18."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import tracemalloc
import uuid

import pytest

from rh.errors import NameClashError, NotFoundError
from rh.systems.abilities import Bulk, Digesting, Multipart, ServerCopy, Sweeping
from rh.systems.memory import MemorySystem, forget
from rh.testing.systems import SystemSuite, in_child
from rh.types import Location


class TestMemory(SystemSuite):
    keeps = frozenset({"links", "executable", "directories"})
    abilities = frozenset({Bulk, ServerCopy, Digesting, Multipart, Sweeping})

    @pytest.fixture
    def system(self):
        store = uuid.uuid4().hex
        yield MemorySystem.open(Location("memory", f"{store}/root"), {"kind": "memory", "timeout_s": 10.0})
        forget(store)


@pytest.fixture
def memory():
    store = uuid.uuid4().hex
    yield MemorySystem.open(Location("memory", f"{store}/root"), {"kind": "memory"})
    forget(store)


def test_handles_of_one_process_share_a_store(memory):
    memory.write("a", b"1")
    other = MemorySystem.open(memory.location, {})
    assert other.read("a").read() == b"1"
    assert list(MemorySystem.open(Location("memory", "elsewhere"), {}).list()) == []
    store = memory.location.path.split("/")[0]
    assert [entry.key for entry in MemorySystem.open(Location("memory", store), {}).list()] == ["root/a"]


def test_bytes_are_copied_in(memory):
    """What the caller does to its buffer afterwards changes nothing."""
    buffer = bytearray(b"before")
    memory.write("a", buffer)
    memory.write("b", [memoryview(buffer)])
    buffer[:] = b"after!"
    assert memory.read("a").read() == memory.read("b").read() == b"before"


def test_names_that_are_not_text_sort_as_bytes(memory):
    keys = [os.fsdecode(raw) for raw in (b"\xff", b"\xfe\x80", "é".encode(), "～".encode(), "😀".encode(), b"z")]
    for key in keys:
        memory.write(key, b"")
    expected = sorted(keys, key=os.fsencode)
    assert [entry.key for entry in memory.list()] == expected
    for number, key in enumerate(expected):
        assert [entry.key for entry in memory.list(after=key)] == expected[number + 1 :]
        assert [entry.key for entry in memory.list(prefix=key)] == [key]
    with pytest.raises(NameClashError):
        memory.write("\ud800", b"")


def test_a_listing_is_of_one_moment(memory):
    """What is written during a listing does not disturb it; what is deleted is not shown."""
    for number in range(100):
        memory.write(f"k{number:03d}", b"")
    listing = memory.list()
    assert next(listing).key == "k000"
    memory.write("k0005", b"")
    memory.delete(["k050"])
    keys = [entry.key for entry in listing]
    assert keys == [f"k{number:03d}" for number in range(1, 100) if number != 50]


def test_a_directory_in_use_is_no_entry(memory):
    memory.write("d/", b"")
    memory.write("d/x", b"")
    assert [entry.key for entry in memory.list()] == ["d/x"]
    memory.delete(["d/x"])
    assert [entry.key for entry in memory.list()] == ["d/"]


@pytest.mark.slow
def test_a_fork_while_another_thread_writes(memory):
    """Promise 27: no lock that another thread held is waited for in the child."""
    stop = threading.Event()

    def busy():
        number = 0
        while not stop.is_set():
            memory.write(f"k{number % 1000}", b"")
            list(memory.list(depth=1))
            number += 1

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(20):
            in_child(lambda: memory.write("child", b"1"), 10.0)
    finally:
        stop.set()
        thread.join()
    with pytest.raises(NotFoundError):
        memory.head("child")


@pytest.mark.slow
def test_a_million_entries(memory):
    """Promise 18: listing them costs little work for each, and next to no memory of its own."""
    for number in range(1_000_000):
        memory.write(f"d{number % 1000:03d}/f{number:07d}", b"")
    next(memory.list())
    tracemalloc.start()
    last, count = "", 0
    for entry in memory.list():
        assert last < entry.key
        last = entry.key
        count += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 1_000_000
    assert peak < 20 << 20
    entries = memory.list()
    assert calls(lambda: list(itertools.islice(entries, 10_000))) <= 15 * 10_000
    memory.write("zz", b"")
    assert calls(lambda: list(memory.list(after=last))) <= 100, "what is sorted is not gone through again"
    assert [entry.key for entry in memory.list(after=last)] == ["zz"]


def calls(work):
    """How many functions are called by it."""
    count = 0

    def see(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count
