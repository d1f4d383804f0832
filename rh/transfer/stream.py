"""Bytes that pass through here: read, hash, compare, write.

A file is moved in the way that is cheapest for its size:

* tiny, up to 256 KiB: whole. Packed, or many at once, where an end can (`Bulk`), by many workers where it cannot.
* medium, up to 16 MiB: whole. Packed where both ends can, and read ahead by a thread where that pays (1 MiB and more);
  else through a buffer (`rh.transfer.buffered`).
* large: in parts, through buffers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain

from rh import digest as digests
from rh.digest import Digest
from rh.errors import IntegrityError, UnsupportedError
from rh.systems.abilities import Bulk, Item
from rh.transfer import buffered
from rh.transfer.buffered import as_told, open_source
from rh.transfer.held import taken
from rh.transfer.mover import Mover, Shared, as_rh, crew, verified
from rh.transfer.plan import Step
from rh.types import Entry, Outcome

__all__ = ["arrived", "move"]

TINY = 1 << 18
_WAITING = 10_000
"""So many larger files are set aside before they get their turn."""
_ALONE = 1 << 20
"""Up to here a thread that reads ahead would cost more than it spares."""
_AHEAD = 8 << 20
"""So many bytes are read ahead of those that are being written."""


def move(mover: Mover, steps: Iterable[Step]) -> None:
    """Move the files of these steps through here."""
    reader, writer = mover.source.ask(Bulk), mover.target.ask(Bulk)
    together = reader is not None and writer is not None
    packed = min([end.largest for end in (reader, writer) if end is not None], default=TINY)
    limit = min(packed, _ALONE if together else TINY)
    steps = taken(mover, steps)
    waiting: list[Step] = []
    more = True

    def small() -> Iterator[Step]:
        nonlocal more
        for step in steps:
            if mover.stopped:
                return
            if step.entry.size <= limit:
                yield step
                continue
            waiting.append(step)
            if len(waiting) >= _WAITING:
                return
        more = False

    while more and not mover.stopped:
        _move_small(mover, reader, writer, small())
        if reader is not None and writer is not None and packed >= digests.CHUNK:
            _move_medium(mover, reader, writer, [step for step in waiting if step.entry.size <= digests.CHUNK])
            waiting = [step for step in waiting if step.entry.size > digests.CHUNK]
        if waiting and not mover.stopped:
            buffered.move(mover, waiting)
        waiting = []


def _read(mover: Mover, step: Step) -> tuple[Step, bytes]:
    with open_source(mover, step) as body:
        return as_told(step, body.entry), body.read()


def _read_many(mover: Mover, bulk: Bulk, steps: Iterable[Step]) -> Iterator[tuple[Step, bytes]]:
    """Steps with their bytes; failures go to the books. A stream that breaks fails what was asked of it and ends."""
    pending: dict[str, Step] = {}

    def entries() -> Iterator[Entry]:
        for step in steps:
            pending[step.entry.key] = step
            known = step.digest if step.entry.check is None else None
            yield step.entry if known is None else step.entry._replace(check=known)

    try:
        for entry, data in bulk.read_many(entries(), workers=mover.workers):
            step = pending.pop(entry.key)
            if isinstance(data, Exception):
                mover.failed(step, as_rh(data, mover.source.url(entry.key)))
            elif step.digest is None and entry.check is not None and step.entry.check is None:
                # What the far side computed next to the bytes.
                yield Step(step.action, step.key, entry, *step[3:]), data
            else:
                yield step, data
    except Exception as error:  # noqa: BLE001 - every file in flight is told
        for step in pending.values():
            mover.failed(step, as_rh(error, mover.source.url(step.entry.key)))


def _move_small(mover: Mover, reader: Bulk | None, writer: Bulk | None, steps: Iterator[Step]) -> None:
    first = next(steps, None)
    if first is None:
        return
    steps = chain((first,), steps)
    if writer is not None:
        read = _read_many(mover, reader, steps) if reader is not None else _read_ahead(mover, steps)
        _write_many(mover, writer, read)
        return
    if reader is not None:
        shared: Shared[tuple[Step, bytes | None]] = Shared(_read_many(mover, reader, steps))
    else:
        shared = Shared((step, None) for step in steps)

    def once(step: Step, ready: bytes | None) -> tuple[Entry, Digest]:
        step, data = _read(mover, step) if ready is None else (step, ready)
        digest = verified(mover, step, data)
        mover.throttle(len(data))
        return mover.target.write(step.key, data, size=len(data), executable=step.executable), digest

    def work() -> None:
        for step, ready in shared:
            if mover.stopped:
                return
            mover.carry(step, partial(once, step, ready))

    crew(mover.workers, work, mover.stop)


def _move_medium(mover: Mover, reader: Bulk, writer: Bulk, steps: list[Step]) -> None:
    """A stream that breaks fails what it was busy with; the next one goes on with the others."""
    while steps and not mover.stopped:
        _write_many(mover, writer, _ahead(mover, _read_many(mover, reader, steps)))
        left = [step for step in steps if step.key not in mover.rows and step.key not in mover.failures]
        if len(left) == len(steps):
            return  # nothing is told of them: they did not arrive
        steps = left


def _write_many(mover: Mover, writer: Bulk, read: Iterator[tuple[Step, bytes]]) -> None:
    pending: dict[str, tuple[Step, Digest]] = {}

    def items() -> Iterator[Item]:
        for step, data in read:
            if mover.stopped:
                return
            try:
                digest = verified(mover, step, data)
            except Exception as error:  # noqa: BLE001 - told per file
                mover.failed(step, as_rh(error, mover.source.url(step.entry.key)))
                continue
            pending[step.key] = (step, digest)
            mover.throttle(len(data))
            yield Item(step.key, data, step.executable)

    try:
        for outcome in writer.write_many(items(), workers=mover.workers):
            step, digest = pending.pop(outcome.key)
            arrived(mover, step, outcome, digest)
    except Exception as error:  # noqa: BLE001 - every file in flight is told
        for step, _ in pending.values():
            mover.failed(step, as_rh(error, mover.target.url(step.key)))


def arrived(mover: Mover, step: Step, outcome: Outcome, digest: Digest | None) -> None:
    """Enter an outcome into the books. A digest that the far side computed must be the one we know."""
    if outcome.error is not None or outcome.entry is None:
        error = outcome.error or UnsupportedError("no answer", where=mover.target.url(step.key))
        mover.failed(step, as_rh(error, mover.target.url(step.key)))
        return
    known = digest.text if digest is not None else step.digest
    if outcome.digest is not None and known is not None and outcome.digest != known:
        mover.target.delete([step.key])
        mover.failed(
            step,
            IntegrityError(
                "what arrived is not what was sent",
                where=mover.target.url(step.key),
                expected=known,
                got=outcome.digest,
            ),
        )
        return
    if digest is None and outcome.digest is not None:
        digest = Digest(outcome.digest, outcome.chunks or b"")
    mover.done(step, outcome.entry, digest)


def _read_ahead(mover: Mover, steps: Iterable[Step]) -> Iterator[tuple[Step, bytes]]:
    """Read with several workers, some MiB ahead of who takes the bytes."""
    shared = Shared(steps)
    ready: queue.SimpleQueue[tuple[Step, bytes] | None] = queue.SimpleQueue()
    room = _Room(mover.memory // 2)

    def work() -> None:
        try:
            for step in shared:
                if mover.stopped:
                    return
                room.take(step.entry.size)
                try:
                    pair = _read(mover, step)
                except Exception as error:  # noqa: BLE001 - told per file
                    room.give(step.entry.size)
                    mover.failed(step, as_rh(error, mover.source.url(step.entry.key)))
                    continue
                ready.put(pair)
        finally:
            ready.put(None)

    for _ in range(mover.workers):
        threading.Thread(target=work, name="rh-read", daemon=True).start()
    left = mover.workers
    try:
        while left:
            pair = ready.get()
            if pair is None:
                left -= 1
                continue
            yield pair
            room.give(pair[0].entry.size)
    finally:
        room.open()


def _ahead(mover: Mover, read: Iterator[tuple[Step, bytes]]) -> Iterator[tuple[Step, bytes]]:
    """The same, taken by a thread: bytes arrive while those that came before are hashed and written."""
    ready: queue.SimpleQueue[tuple[Step, bytes] | None] = queue.SimpleQueue()
    room = _Room(_AHEAD)
    over = threading.Event()

    def work() -> None:
        try:
            for step, data in read:
                room.take(len(data))
                ready.put((step, data))
                if over.is_set() or mover.stopped:
                    return
        finally:
            ready.put(None)

    threading.Thread(target=work, name="rh-read", daemon=True).start()
    try:
        while (pair := ready.get()) is not None:
            yield pair
            room.give(len(pair[1]))
    finally:
        over.set()
        room.open()


class _Room:
    """A bound on bytes read ahead; a single file larger than it passes alone."""

    def __init__(self, size: int) -> None:
        self._left = self._size = size
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        with self._changed:
            while self._left < size and self._left < self._size:
                self._changed.wait()
            self._left -= size

    def give(self, size: int) -> None:
        with self._changed:
            self._left += size
            self._changed.notify_all()

    def open(self) -> None:
        """Let everybody through from now on."""
        with self._changed:
            self._left = self._size = 1 << 62
            self._changed.notify_all()
