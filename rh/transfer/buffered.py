"""What is not tiny: read into a buffer, hashed, compared, written from there, by as many workers as there is room for.

A file up to 16 MiB is one job; a larger one is a job for each of its parts, each hashed as one chunk of the digest or
more. Buffers are few and used again and again: that costs no page faults, and what a transfer holds in memory is what
it was allowed to hold (`memory_mb`), however many threads take part.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import TypeAlias, TypeVar

from rh import digest as digests
from rh.digest import Digest
from rh.errors import AccessError, ConflictError, IntegrityError, InvalidError, NotFoundError, RhError, UnsupportedError
from rh.systems.abilities import Multipart, Upload
from rh.systems.base import Body, Bytes
from rh.transfer.journal import OpenUpload
from rh.transfer.mover import Mover, Shared, as_rh, changed, crew, expect, verified
from rh.transfer.plan import Step
from rh.transfer.verify import finish
from rh.transfer.vouched import InOrder, running, vouched
from rh.types import ANY, Entry, Match, Span

__all__ = ["Buffers", "as_told", "move", "open_source"]

T = TypeVar("T")

_STEP = 1 << 18
_PIECE = 1 << 20
_TRIES = 3
"""How often bytes are read that arrive damaged."""


class Buffers:
    """Buffers of at most `size` bytes together; a single one larger than that is lent when no other is."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size
        self._free: list[mmap] = []
        self._changed = threading.Condition()

    @contextmanager
    def lend(self, size: int) -> Iterator[memoryview]:
        """A buffer of `size` bytes, with anything in it, as soon as there is room."""
        buffer = self._take(max(1, -(-size // _STEP)) * _STEP)
        try:
            with memoryview(buffer) as whole, whole[:size] as view:
                yield view
        finally:
            with self._changed:
                self._free.append(buffer)
                self._changed.notify_all()

    def _take(self, want: int) -> mmap:
        with self._changed:
            while True:
                for number, buffer in enumerate(self._free):
                    if want <= len(buffer) <= 2 * want:
                        return self._free.pop(number)
                while self._free and self._left < want:
                    self._left += len(self._free[-1])
                    self._free.pop().close()
                if self._left >= want or self._left == self._size:
                    self._left -= want
                    # Not by the allocator: it would keep what it gets back, in the part that it has for each thread.
                    return mmap(-1, want, MAP_PRIVATE | MAP_ANONYMOUS)
                self._changed.wait()


def open_source(mover: Mover, step: Step, span: Span | None = None) -> Body:
    """The bytes of a step's file, or a range of them, if they are still those that were listed."""
    etag = step.entry.etag
    return mover.source.read(step.entry.key, span, when=ANY if etag is None else Match(etag))


def as_told(step: Step, entry: Entry) -> Step:
    """The step with the checksum that the answer to who reads its file tells, where there was none to compare with."""
    if step.digest is not None or entry.check is None or running(step.entry.check) is not None:
        return step
    return step._replace(entry=step.entry._replace(check=entry.check))


def _fill(
    mover: Mover, step: Step, span: Span | None, view: memoryview, chunk: int, check: Callable[[Step, bytes], T]
) -> T:
    """Read bytes into a buffer that they must just fill, and let the raw digests of their chunks be checked.

    What arrives damaged is read again.
    """
    for left in reversed(range(_TRIES)):
        try:
            with open_source(mover, step, span) as body:
                raw = b"".join(_chunk(body, view[at : at + chunk]) for at in range(0, len(view), chunk))
                if len(raw) != -(-len(view) // chunk) * 32 or body.readinto(memoryview(bytearray(1))):
                    raise changed(mover.source.url(step.entry.key))
            return check(as_told(step, body.entry), raw)
        except IntegrityError:
            if not left:
                raise
    raise AssertionError("unreachable: the last try returns or raises")


def _chunk(body: Body, view: memoryview) -> bytes:
    """The raw digest of bytes that are read into a buffer, hashed while they are in the processor's cache.

    Nothing where they end before the buffer does.
    """
    state, at = hashlib.sha256(), 0
    while at < len(view):
        count = body.readinto(view[at : at + _PIECE])
        if not count:
            return b""
        state.update(view[at : at + count])
        at += count
    return state.digest()


class _Whole:
    """A file that is moved whole."""

    def __init__(self, mover: Mover, step: Step) -> None:
        self.mover, self.step, self.size = mover, step, step.entry.size

    def move(self, view: memoryview) -> None:
        mover, step = self.mover, self.step

        def check(step: Step, raw: bytes) -> Digest:
            return verified(mover, step, view, Digest(f"sha256:{raw.hex()}"))

        try:
            digest = _fill(mover, step, None, view, digests.CHUNK, check)
            mover.throttle(self.size)
            entry = mover.target.write(step.key, view, size=self.size, executable=step.executable)
        except Exception as error:  # noqa: BLE001 - told per file
            mover.failed(step, as_rh(error, mover.source.url(step.entry.key)))
            return
        mover.done(step, entry, digest)


class _Large:
    """A file on its way in parts."""

    def __init__(self, mover: Mover, step: Step, multipart: Multipart) -> None:
        self.mover, self.step = mover, step
        self.chunk = digests.chunk_size(step.entry.size)
        self.tags: dict[int, str] = {}
        self.chunks: dict[int, bytes] = {}
        self.upload = self._resumed(multipart) or self._begun(multipart)
        self.part_size = self.upload.part_size
        self.count = -(-step.entry.size // self.part_size)
        missing = [number for number in range(self.count) if number not in self.tags]
        self.lock = threading.Lock()
        self.left = len(missing)
        self.error: Exception | None = None
        # What was taken over from an earlier run does not pass here again.
        told = running(step.entry.check) if step.digest is None and not self.tags else None
        self.told = None if told is None else InOrder(told, lambda: self.error is not None or mover.stopped)
        for number in self.tags:
            start, stop = self.span(number)
            mover.resumed(stop - start)
        self.jobs = [_Part(self, number) for number in missing]

    def _resumed(self, multipart: Multipart) -> Upload | None:
        """The upload of an earlier run, if the source is still what it was and the parts are there."""
        step = self.step
        earlier = self.mover.journal.uploads.get(step.key)
        if earlier is None:
            return None
        try:
            upload = multipart.resume(step.key, earlier.token)
            if step.entry.etag is None or earlier.source_etag != step.entry.etag or earlier.size != step.entry.size:
                upload.abort()
                return None
            there = upload.parts()
        except (AccessError, InvalidError, NotFoundError, UnsupportedError):
            return None  # gone, or not ours to look at; a new one takes its place, in the journal as well
        self.tags = {number: tag for number, tag in there.items() if number in earlier.parts}
        self.chunks = {number: earlier.parts[number] for number in self.tags}
        return upload

    def _begun(self, multipart: Multipart) -> Upload:
        step = self.step
        upload = multipart.begin(step.key, step.entry.size, part_size=self.chunk, executable=step.executable)
        self.mover.journal.begin(OpenUpload(step.key, step.entry.size, step.entry.etag, upload.token, upload.part_size))
        return upload

    def span(self, number: int) -> Span:
        """The bytes of a part."""
        return number * self.part_size, min((number + 1) * self.part_size, self.step.entry.size)

    def check(self, _step: Step, raw: bytes, number: int) -> bytes:
        """The raw digests of the chunks in a part, once they were compared with those that are known."""
        start, stop = self.span(number)
        known = self.step.chunks[start // self.chunk * 32 :][: len(raw)]
        if self.step.chunks and raw != known:
            raise IntegrityError(
                f"bytes {start} to {stop} are not those of the manifest",
                where=self.mover.source.url(self.step.entry.key),
                expected=known.hex()[:64],
                got=raw.hex()[:64],
            )
        return raw

    def finish(self) -> None:
        """Publish the file if all parts arrived; tell the books either way."""
        mover, step = self.mover, self.step
        if self.error is not None:
            damaged = isinstance(self.error, IntegrityError) and not step.chunks  # nobody knows which parts are right
            if damaged or isinstance(self.error, ConflictError):  # the source changed: its parts are of no more use
                self._give_up()
            mover.failed(step, as_rh(self.error, mover.source.url(step.entry.key)))
            return
        try:
            digest = digests.combine(b"".join(self.chunks[number] for number in range(self.count)), self.chunk)
            try:
                expect(step, digest.text, mover.source.url(step.entry.key))
                if self.told is not None:
                    self.told.compare(mover.source.url(step.entry.key))
            except IntegrityError:
                self._give_up()  # nobody knows which part is wrong: all are fetched again
                raise
            tags = [self.tags[number] for number in range(self.count)]
            entry = finish(self.upload, tags, mover.target, step.key, digest.text)
        except Exception as error:  # noqa: BLE001 - told per file
            if isinstance(error, NotFoundError):
                mover.journal.drop(step.key)
            mover.failed(step, as_rh(error, mover.target.url(step.key)))
            return
        mover.done(step, entry, digest, counted=True)
        mover.journal.drop(step.key)

    def _give_up(self) -> None:
        """Let no later run go on from the parts, even where the upload cannot be aborted."""
        self.mover.journal.drop(self.step.key)
        with suppress(RhError):  # what went wrong before is what has to be told
            self.upload.abort()


class _Part:
    """One part of a large file; the worker that moves the last one publishes the file."""

    def __init__(self, large: _Large, number: int) -> None:
        self.large, self.number = large, number
        self.span = large.span(number)
        self.size = self.span[1] - self.span[0]

    def move(self, view: memoryview) -> None:
        large, mover, key = self.large, self.large.mover, self.large.step.key
        try:
            if large.error is None:
                check = partial(large.check, number=self.number)
                raw = _fill(mover, large.step, self.span, view, large.chunk, check)
                if large.told is not None:
                    large.told.add(self.number, view)
                mover.throttle(self.size)
                tag = large.upload.put(self.number, view)
                mover.journal.part(key, self.number, raw)
                mover.part(self.size)
                with large.lock:
                    large.tags[self.number] = tag
                    large.chunks[self.number] = raw
        except Exception as error:  # noqa: BLE001 - told per file
            with large.lock:
                large.error = large.error or error
        with large.lock:
            large.left -= 1
            last = large.left == 0
        if last:
            large.finish()


_Job: TypeAlias = _Whole | _Part


def move(mover: Mover, steps: Sequence[Step]) -> None:
    """Move these files."""
    multipart = mover.target.ask(Multipart)
    streamed: list[Step] = []

    def jobs() -> Iterator[_Job]:
        for step in steps:
            if mover.stopped:
                return
            if step.digest is None:
                step = step._replace(entry=vouched(mover.source, step.entry))  # noqa: PLW2901
            if step.entry.size <= digests.CHUNK:
                yield _Whole(mover, step)
            elif multipart is None or (step.entry.etag is None and step.digest is None):
                # Parts that nothing tells apart could be of two states of the file.
                streamed.append(step)
            else:
                try:
                    large = _Large(mover, step, multipart)
                except Exception as error:  # noqa: BLE001 - told per file
                    mover.failed(step, as_rh(error, mover.target.url(step.key)))
                    continue
                if not large.jobs:
                    large.finish()
                yield from large.jobs

    shared, buffers = Shared(jobs()), Buffers(mover.memory)

    def work() -> None:
        for job in shared:
            if mover.stopped:
                return
            with buffers.lend(job.size) as view:
                job.move(view)

    # No more threads than find room: each leaves traces in the allocator.
    least = min(max(_STEP, min(step.entry.size, digests.CHUNK)) for step in steps)
    crew(max(1, min(mover.workers, mover.memory // least)), work, mover.stop)
    if streamed and not mover.stopped:
        _stream(mover, streamed)


def _stream(mover: Mover, steps: Iterable[Step]) -> None:
    """Large files to a place without parts, or from one that tells no etags: one stream each."""
    shared = Shared(steps)

    def work() -> None:
        for step in shared:
            if mover.stopped:
                return
            hasher = digests.Hasher(step.entry.size)
            try:
                with open_source(mover, step) as body:
                    stream = _hashed(mover, step, body, hasher)
                    entry = mover.target.write(step.key, stream, size=step.entry.size, executable=step.executable)
            except Exception as error:  # noqa: BLE001 - told per file
                mover.failed(step, as_rh(error, mover.source.url(step.entry.key)))
                continue
            mover.done(step, entry, hasher.finish(), counted=True)

    crew(min(mover.workers, 4), work, mover.stop)


def _hashed(mover: Mover, step: Step, body: Iterable[Bytes], hasher: digests.Hasher) -> Iterator[Bytes]:
    """The bytes of a body; it raises at the end, before anything is published, if they are not the right ones."""
    told = running(step.entry.check) if step.digest is None else None
    for block in body:
        hasher.update(block)
        if told is not None:
            told.update(block)
        mover.throttle(len(block))
        mover.part(len(block))
        yield block
    where = mover.source.url(step.entry.key)
    if hasher.size != step.entry.size:
        raise changed(where)
    expect(step, hasher.finish().text, where)
    if told is not None:
        told.compare(where)
