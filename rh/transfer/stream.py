"""Bytes that pass through here: read, hash, compare, write.

Small files are moved whole, many at a time: packed where an end can (`Bulk`), by several workers where it cannot. Large
files are moved in parts by several workers, each part hashed as one chunk of the digest or more.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from rh import digest as digests
from rh.digest import Digest
from rh.errors import IntegrityError, NotFoundError, UnsupportedError
from rh.systems.abilities import Bulk, Item, Multipart, Upload
from rh.systems.base import Bytes
from rh.transfer.journal import OpenUpload
from rh.transfer.mover import Mover, Shared, as_rh, changed, crew, expect
from rh.transfer.plan import Step
from rh.types import ANY, Match, Outcome

__all__ = ["move"]

SMALL = digests.CHUNK
"""Files up to so many bytes are moved whole."""
_LIGHT = 256 * 1024
"""Files up to so many bytes are not counted against the bytes in flight."""
_CHECKS: dict[str, Callable[[bytes], str]] = {
    "md5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
}


def move(mover: Mover, steps: Iterable[Step]) -> None:
    """Move the files of these steps through here."""
    large: list[Step] = []

    def small() -> Iterator[Step]:
        for step in steps:
            if mover.stopped:
                return
            if step.entry.size > SMALL:
                large.append(step)
            else:
                yield step

    _move_small(mover, small())
    if large and not mover.stopped:
        _move_large(mover, large)


def _verified(mover: Mover, step: Step, data: bytes) -> Digest:
    """The digest of a whole small file, compared with all that is known of it."""
    if len(data) != step.entry.size:
        raise IntegrityError(
            "the source gave another number of bytes than it said",
            where=mover.source.url(step.entry.key),
            expected=str(step.entry.size),
            got=str(len(data)),
        )
    digest = digests.of_bytes(data)
    if step.digest is not None:
        expect(step, digest.text, mover.source.url(step.entry.key))
    elif step.entry.check is not None:
        name, _, value = step.entry.check.partition(":")
        check = _CHECKS.get(name)
        if check is not None and check(data) != value:
            raise IntegrityError(
                "the bytes are not those the store vouches for",
                where=mover.source.url(step.entry.key),
                expected=step.entry.check,
                got=f"{name}:{check(data)}",
            )
    return digest


def _read(mover: Mover, step: Step) -> bytes:
    etag = step.entry.etag
    with mover.source.read(step.entry.key, when=ANY if etag is None else Match(etag)) as body:
        return body.read()


def _read_many(mover: Mover, bulk: Bulk, steps: Iterable[Step]) -> Iterator[tuple[Step, bytes]]:
    """Steps with their bytes; failures go to the books. A stream that breaks fails what was asked of it and ends."""
    pending: dict[str, Step] = {}

    def entries() -> Iterator:  # type: ignore[type-arg]
        for step in steps:
            pending[step.entry.key] = step
            yield step.entry

    try:
        for entry, data in bulk.read_many(entries()):
            step = pending.pop(entry.key)
            if isinstance(data, Exception):
                mover.failed(step, as_rh(data, mover.source.url(entry.key)))
            elif entry.check is not None and step.entry.check is None:
                # What the far side computed next to the bytes.
                yield step._replace(entry=step.entry._replace(check=entry.check)), data
            else:
                yield step, data
    except Exception as error:  # noqa: BLE001 - every file in flight is told
        for step in pending.values():
            mover.failed(step, as_rh(error, mover.source.url(step.entry.key)))


def _move_small(mover: Mover, steps: Iterator[Step]) -> None:
    first = next(steps, None)
    if first is None:
        return
    steps = chain((first,), steps)
    reader, writer = mover.source.ask(Bulk), mover.target.ask(Bulk)
    if writer is not None:
        read = _read_many(mover, reader, steps) if reader is not None else _read_ahead(mover, steps)
        _write_many(mover, writer, read)
        return
    if reader is not None:
        shared: Shared[tuple[Step, bytes | None]] = Shared(_read_many(mover, reader, steps))
    else:
        shared = Shared((step, None) for step in steps)

    room = _Room(mover.memory)

    def work() -> None:
        for step, ready in shared:
            if mover.stopped:
                return
            held = step.entry.size if step.entry.size > _LIGHT else 0
            if held:
                room.take(held)
            try:
                data = _read(mover, step) if ready is None else ready
                digest = _verified(mover, step, data)
                mover.throttle(len(data))
                entry = mover.target.write(step.key, data, size=len(data), executable=step.executable)
            except Exception as error:  # noqa: BLE001 - told per file
                mover.failed(step, as_rh(error, mover.source.url(step.entry.key)))
                continue
            finally:
                if held:
                    room.give(held)
            mover.done(step, entry, digest)

    crew(mover.workers, work, mover.stop)


def _write_many(mover: Mover, writer: Bulk, read: Iterator[tuple[Step, bytes]]) -> None:
    pending: dict[str, tuple[Step, Digest]] = {}

    def items() -> Iterator[Item]:
        for step, data in read:
            if mover.stopped:
                return
            try:
                digest = _verified(mover, step, data)
            except Exception as error:  # noqa: BLE001 - told per file
                mover.failed(step, as_rh(error, mover.source.url(step.entry.key)))
                continue
            pending[step.key] = (step, digest)
            mover.throttle(len(data))
            yield Item(step.key, data, step.executable)

    try:
        for outcome in writer.write_many(items()):
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
                    data = _read(mover, step)
                except Exception as error:  # noqa: BLE001 - told per file
                    room.give(step.entry.size)
                    mover.failed(step, as_rh(error, mover.source.url(step.entry.key)))
                    continue
                ready.put((step, data))
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


class _Room:
    """A bound on bytes in flight; a single item larger than it passes alone."""

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


class _Large:
    """One large file on its way in parts."""

    def __init__(self, mover: Mover, step: Step, multipart: Multipart) -> None:
        self.mover, self.step = mover, step
        size = step.entry.size
        self.chunk = digests.chunk_size(size)
        self.tags: dict[int, str] = {}
        self.chunks: dict[int, bytes] = {}
        self.upload = self._resumed(multipart) or self._begun(multipart)
        self.part_size = self.upload.part_size
        self.count = -(-size // self.part_size)
        self.missing = [number for number in range(self.count) if number not in self.tags]
        self.lock = threading.Lock()
        self.left = len(self.missing)
        self.error: Exception | None = None
        for number in self.tags:
            mover.part(self._span(number)[1] - self._span(number)[0])

    def _resumed(self, multipart: Multipart) -> Upload | None:
        """The upload of an earlier run, if the source is still what it was and the parts are there."""
        journal, step = self.mover.journal, self.step
        earlier = journal.uploads.get(step.key)
        if earlier is None:
            return None
        try:
            upload = multipart.resume(step.key, earlier.token)
            if step.entry.etag is None or earlier.source_etag != step.entry.etag or earlier.size != step.entry.size:
                upload.abort()
                journal.drop(step.key)
                return None
            there = upload.parts()
        except (NotFoundError, UnsupportedError):
            journal.drop(step.key)
            return None
        self.tags = {number: tag for number, tag in there.items() if number in earlier.parts}
        self.chunks = {number: earlier.parts[number] for number in self.tags}
        return upload

    def _begun(self, multipart: Multipart) -> Upload:
        step = self.step
        upload = multipart.begin(step.key, step.entry.size, part_size=self.chunk, executable=step.executable)
        self.mover.journal.begin(OpenUpload(step.key, step.entry.size, step.entry.etag, upload.token, upload.part_size))
        return upload

    def _span(self, number: int) -> tuple[int, int]:
        return number * self.part_size, min((number + 1) * self.part_size, self.step.entry.size)

    def move(self, number: int) -> None:
        """Move one part; the thread that moves the last one publishes the file."""
        mover, step = self.mover, self.step
        try:
            if self.error is None:
                start, stop = self._span(number)
                etag = step.entry.etag
                with mover.source.read(
                    step.entry.key, (start, stop), when=ANY if etag is None else Match(etag)
                ) as body:
                    data = body.read()
                if len(data) != stop - start:
                    raise changed(mover.source.url(step.entry.key))
                raw = self._hash(data, start)
                mover.throttle(len(data))
                tag = self.upload.put(number, data)
                mover.journal.part(step.key, number, raw)
                mover.part(len(data))
                with self.lock:
                    self.tags[number] = tag
                    self.chunks[number] = raw
        except Exception as error:  # noqa: BLE001 - told per file
            with self.lock:
                self.error = self.error or error
        with self.lock:
            self.left -= 1
            last = self.left == 0
        if last:
            self.finish()

    def _hash(self, data: bytes, start: int) -> bytes:
        view = memoryview(data)
        raw = b"".join(hashlib.sha256(view[at : at + self.chunk]).digest() for at in range(0, len(data), self.chunk))
        known = self.step.chunks[start // self.chunk * 32 :][: len(raw)]
        if self.step.chunks and raw != known:
            raise IntegrityError(
                f"bytes {start} to {start + len(data)} are not those of the manifest",
                where=self.mover.source.url(self.step.entry.key),
                expected=known.hex()[:64],
                got=raw.hex()[:64],
            )
        return raw

    def finish(self) -> None:
        """Publish the file if all parts arrived; tell the books either way."""
        mover, step = self.mover, self.step
        if self.error is not None:
            mover.failed(step, as_rh(self.error, mover.source.url(step.entry.key)))
            return
        try:
            digest = digests.combine(b"".join(self.chunks[number] for number in range(self.count)), self.chunk)
            expect(step, digest.text, mover.source.url(step.entry.key))
            entry = self.upload.finish([self.tags[number] for number in range(self.count)])
        except Exception as error:  # noqa: BLE001 - told per file
            mover.failed(step, as_rh(error, mover.target.url(step.key)))
            return
        mover.done(step, entry, digest, counted=True)
        mover.journal.drop(step.key)


def _move_large(mover: Mover, steps: list[Step]) -> None:
    multipart = mover.target.ask(Multipart)
    if multipart is None:
        _stream_large(mover, steps)
        return

    def tasks() -> Iterator[tuple[_Large, int]]:
        for step in steps:
            if mover.stopped:
                return
            try:
                large = _Large(mover, step, multipart)
            except Exception as error:  # noqa: BLE001 - told per file
                mover.failed(step, as_rh(error, mover.target.url(step.key)))
                continue
            if not large.missing:
                large.finish()
            for number in large.missing:
                yield large, number

    shared = Shared(tasks())

    def work() -> None:
        for large, number in shared:
            if mover.stopped:
                return
            large.move(number)

    part = max(digests.chunk_size(step.entry.size) for step in steps)
    crew(max(1, min(mover.workers, mover.memory // part)), work, mover.stop)


def _stream_large(mover: Mover, steps: list[Step]) -> None:
    """Large files to a place without parts: one stream each."""
    shared = Shared(steps)

    def work() -> None:
        for step in shared:
            if mover.stopped:
                return
            hasher = digests.Hasher(step.entry.size)
            try:
                etag = step.entry.etag
                with mover.source.read(step.entry.key, when=ANY if etag is None else Match(etag)) as body:
                    stream = _hashed(mover, step, body, hasher)
                    entry = mover.target.write(step.key, stream, size=step.entry.size, executable=step.executable)
            except Exception as error:  # noqa: BLE001 - told per file
                mover.failed(step, as_rh(error, mover.source.url(step.entry.key)))
                continue
            mover.done(step, entry, hasher.finish(), counted=True)

    crew(min(mover.workers, 4), work, mover.stop)


def _hashed(mover: Mover, step: Step, body: Iterable[Bytes], hasher: digests.Hasher) -> Iterator[Bytes]:
    """The bytes of a body; it raises at the end, before anything is published, if they are not the right ones."""
    for block in body:
        hasher.update(block)
        mover.throttle(len(block))
        mover.part(len(block))
        yield block
    where = mover.source.url(step.entry.key)
    if hasher.size != step.entry.size:
        raise changed(where)
    expect(step, hasher.finish().text, where)
