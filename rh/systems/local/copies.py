"""Large files on a disk: hashed, or hashed and copied, by as many threads as there are cores.

A file of more than 64 MiB is cut into the chunks of its digest for all of them; smaller ones get a thread each. Where
the file system can share blocks between files (reflinks), a copy is a clone, and the clone is what is hashed. Holes
stay holes.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Self, TypeVar

from rh import digest
from rh.errors import ConflictError, RhError
from rh.observe import count
from rh.systems.abilities import Watch
from rh.systems.local.disk import (
    Root,
    changed,
    entry_now,
    entry_of,
    expect,
    failure,
    holds,
    readable,
    split,
    through_links,
    translated,
)
from rh.systems.local.draft import Draft
from rh.types import ANY, Entry, Outcome

__all__ = ["Crew", "copy_one", "digest_one"]

HUGE = 1 << 26
_STEP = 1 << 18
_ZEROS = bytes(_STEP)
_FICLONE = 0x40049409
_cannot_clone: set[tuple[int, int]] = set()
_local = threading.local()

T = TypeVar("T")


class Crew:
    """Threads for large files, started when the first one comes. Few are ever waiting, so memory is bounded."""

    def __init__(self) -> None:
        self.size = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: set[Future[Outcome]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    @property
    def pool(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.size, "rh-disk")
        return self._pool

    def give(self, job: Callable[..., Outcome], *args: Any, size: int) -> Iterator[Outcome]:
        """Have `job(*args, crew)` done, here if it is huge and so has parts for everybody. Yields what is done."""
        if size > HUGE:
            yield job(*args, self)
            return
        self._jobs.add(self.pool.submit(job, *args, None))
        while len(self._jobs) > 2 * self.size:
            yield from self._collect()

    def rest(self) -> Iterator[Outcome]:
        """What was still to be done."""
        while self._jobs:
            yield from self._collect()

    def _collect(self) -> Iterator[Outcome]:
        done, self._jobs = wait(self._jobs, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()

    def map(
        self, function: Callable[[int], T], items: Iterable[int], seen: Callable[[int], None] | None
    ) -> Iterable[T]:
        """What the function gives for each item; `seen` is told which of them begin when all before them are done.

        Afterwards none of them runs on, whatever happened: they work on open files, whose numbers others get as soon
        as the caller has closed them.
        """
        jobs = {item: self.pool.submit(function, item) for item in items}
        found = []
        try:
            for item, job in jobs.items():
                if seen is not None:
                    seen(item)
                found.append(job.result())
            return found
        finally:
            for job in jobs.values():
                job.cancel()
            wait(jobs.values())


def _buffer() -> memoryview:
    view: memoryview | None = getattr(_local, "buffer", None)
    if view is None:
        view = _local.buffer = memoryview(bytearray(_STEP))
    return view


@functools.lru_cache(8)
def _digest_of_zeros(size: int) -> bytes:
    state = hashlib.sha256()
    for at in range(0, size, _STEP):
        state.update(_ZEROS[: size - at])
    return state.digest()


def _no_data_before(descriptor: int, start: int, stop: int) -> bool:
    """Whether a range is a hole."""
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA) >= stop
    except OSError as error:
        return error.errno == errno.ENXIO


def _move(source: int, target: int | None, start: int, stop: int, *, sparse: bool) -> bytes:
    """Hash a range of a file, and write it to the same range of another. EOFError if the file has become shorter."""
    if sparse and _no_data_before(source, start, stop):
        return _digest_of_zeros(stop - start)
    state = hashlib.sha256()
    buffer = _buffer()
    at = start
    while at < stop:
        want = min(_STEP, stop - at)
        if sparse and _no_data_before(source, at, at + want):
            state.update(_ZEROS[:want])
            at += want
            continue
        got = os.preadv(source, [buffer[:want]], at)
        if not got:
            raise EOFError
        piece = buffer[:got]
        state.update(piece)
        if target is not None:
            done = os.pwrite(target, piece, at)
            while done < got:
                done += os.pwrite(target, piece[done:], at + done)
        at += got
    return state.digest()


def _process(
    source: int, target: int | None, at: os.stat_result, crew: Crew | None, seen: Callable[[int], None] | None = None
) -> digest.Digest:
    size = at.st_size
    chunk = digest.chunk_size(size)
    sparse = at.st_blocks * 512 < size
    if not chunk:
        return digest.Digest("sha256:" + _move(source, target, 0, size, sparse=sparse).hex())
    starts = range(0, size, chunk)

    def part(start: int) -> bytes:
        return _move(source, target, start, min(start + chunk, size), sparse=sparse)

    parts = map(part, starts) if crew is None else crew.map(part, starts, seen)
    return digest.combine(b"".join(parts), chunk)


def _clone(source: int, target: int, devices: tuple[int, int]) -> bool:
    """Share the blocks of a file with another, if the file system can."""
    if devices in _cannot_clone:
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        _cannot_clone.add(devices)
        return False
    return True


def _open(root: Root, entry: Entry) -> tuple[int, os.stat_result]:
    parent, name = split(entry.key, root.where)
    follow = through_links(entry.etag)
    folder = root.folder(parent, follow=follow)
    try:
        descriptor = root.open(folder, name, entry.key, follow=follow)
    finally:
        os.close(folder)
    at = os.fstat(descriptor)
    try:
        readable(at, root.where(entry.key))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, at


def _moved(root: Root, key: str) -> ConflictError:
    return ConflictError("the file changed while it was read", where=root.where(key))


def copy_one(
    source_root: Root,
    entry: Entry,
    root: Root,
    key: str,
    system: str,
    lost: Callable[[str, list[str]], None],
    watch: Watch | None,
    crew: Crew | None,
) -> Outcome:
    """Copy one file; the digest is of the bytes that were written. `lost` is told the directories made for nothing."""
    made: list[str] = []
    seen = None if watch is None else partial(watch, key)
    try:
        with translated(source_root.where(entry.key)):
            source, before = _open(source_root, entry)
        try:
            if entry.etag is not None and not holds(entry.etag, before):
                raise ConflictError("it has changed since it was listed", where=source_root.where(entry.key))
            executable = before.st_mode & 0o100 != 0
            with translated(root.where(key)), Draft(root, key, executable=executable, made=made) as draft:
                target = draft.descriptor
                if _clone(source, target, (before.st_dev, os.fstat(target).st_dev)):
                    found = _process(target, None, os.fstat(target), crew, seen)
                else:
                    os.ftruncate(target, before.st_size)
                    found = _process(source, target, before, crew, seen)
                if changed(before, os.fstat(source)):
                    raise _moved(source_root, entry.key)
                expect(entry, found.text, source_root.where(entry.key))
                written = draft.publish(ANY)
        except EOFError:
            raise _moved(source_root, entry.key) from None
        finally:
            os.close(source)
    except RhError as error:
        lost(key, made)
        return Outcome(key, error=error)
    count(system, "write", sent=before.st_size)
    return Outcome(key, entry_of(key, written), None, found.text, found.chunks)


def digest_one(root: Root, entry: Entry, crew: Crew | None) -> Outcome:
    """The digest of one file as it is now."""
    key = entry.key
    try:
        descriptor, before = _open(root, entry)
        try:
            found = _process(descriptor, None, before, crew)
            if changed(before, os.fstat(descriptor)):
                raise _moved(root, key)
        except EOFError:
            raise _moved(root, key) from None
        finally:
            os.close(descriptor)
    except RhError as error:
        return Outcome(key, error=error)
    except OSError as error:
        return Outcome(key, error=failure(error, root.where(key)))
    return Outcome(key, entry_now(entry, before), None, found.text, found.chunks)
