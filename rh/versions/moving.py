"""Whole files on their way into a store, by the transfer engine's means, and small ones read to be put together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rh import config
from rh.content.cache import DigestCache
from rh.errors import IntegrityError, UnsupportedError
from rh.observe import log
from rh.progress import Progress
from rh.systems.abilities import Bulk, Composed
from rh.systems.base import System
from rh.transfer import far, stream
from rh.transfer.compare import Step
from rh.transfer.mover import Mover, as_rh
from rh.transfer.options import Options
from rh.transfer.route import Way, route
from rh.types import ANY, Entry, Match
from rh.versions.lost import LostError

__all__ = ["each", "move", "read_small", "twice"]

T = TypeVar("T")
R = TypeVar("R")


def move(source: System, target: System, steps: Sequence[Step], progress: Progress) -> None:
    """Move files by the shortest road, verified on arrival.

    Raises:
        ConflictError: a file is not the one it was. RhError: the first failure, when nothing helped.
    """
    mover = Mover.new(source, target, Options(), progress, threading.Event())
    complete = False
    try:
        _, way = route(source, target)
        if way is Way.SERVER and source.ask(Composed) is not None:
            way = Way.STREAM  # what is stored under a digest is read first, and compared with it
        _run(mover, steps, way)
        closed = [key for key, error in mover.failures.items() if isinstance(error, UnsupportedError)]
        if closed and way is not Way.STREAM:
            _run(mover, [step for step in steps if step.key in set(closed)], Way.STREAM)
        damaged = {key for key, error in mover.failures.items() if isinstance(error, IntegrityError)}
        if damaged:
            _run(mover, [step for step in steps if step.key in damaged], way)
        for step in steps:
            if step.key in mover.failures:
                raise as_rh(mover.failures[step.key], source.url(step.entry.key))
            if step.key not in mover.rows:
                raise mover.gone or IntegrityError("a file did not arrive", where=source.url(step.entry.key))
        complete = True
    except KeyboardInterrupt:
        mover.stop.set()
        raise
    finally:
        mover.journal.close(complete=complete)
        if mover.learned:
            DigestCache(source).remember(mover.learned)


def _run(mover: Mover, steps: Sequence[Step], way: Way) -> None:
    if way is Way.STREAM:
        stream.move(mover, steps)
    else:
        stream.move(mover, far.move(mover, steps, way))


def read_small(source: System, entries: Sequence[Entry]) -> Iterator[tuple[Entry, bytes]]:
    """The bytes of these files, in any order: packed where the source can, else by several workers.

    Raises:
        ConflictError: a file is not the one that was listed.
    """
    bulk = source.ask(Bulk)
    if bulk is not None:
        for entry, data in bulk.read_many(entries, workers=int(config.get("workers"))):
            if isinstance(data, Exception):
                raise as_rh(data, source.url(entry.key))
            yield entry, data
        return

    def one(entry: Entry) -> tuple[Entry, bytes]:
        with source.read(entry.key, when=ANY if entry.etag is None else Match(entry.etag)) as body:
            return entry, body.read()

    yield from each(one, entries)


def twice(work: Callable[[], R]) -> R:
    """What the work gives; done once more if it finds damage, which may have come about on the way."""
    try:
        return work()
    except LostError:
        raise
    except IntegrityError as error:
        log.debug("read again: %s", error)
        return work()


def each(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The work on each item, by several workers, in order; the first error is raised."""
    found = list(items)
    if len(found) < 2:
        yield from map(work, found)
        return
    with ThreadPoolExecutor(min(len(found), int(config.get("workers")))) as pool:
        yield from pool.map(work, found)
