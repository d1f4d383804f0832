"""What is not tiny: read into a buffer, hashed, compared, written from there, by as many workers as there is room for.

A file up to 16 MiB is one job; a larger one is a job for each of its parts, each hashed as one chunk of the digest or
more. To a place that takes bytes as they come (`Streaming`) they pass by the mebibyte, and parts that lie side by side
are one request; to others goes what is whole and was compared. Buffers are few and used again and again: that costs no
page faults, and what a transfer holds in memory is what it was allowed to hold (`memory_mb`), however many threads take
part.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import TypeAlias, TypeVar

from rh import digest as digests
from rh.digest import Digest, Hasher
from rh.errors import AccessError, ConflictError, IntegrityError, InvalidError, NotFoundError, RhError, UnsupportedError
from rh.systems.abilities import Multipart, Streaming, Upload
from rh.systems.base import Body, Bytes
from rh.transfer.journal import OpenUpload
from rh.transfer.mover import Mover, as_rh, changed, crew, expect, verified
from rh.transfer.plan import Step
from rh.transfer.verify import finish
from rh.transfer.vouched import InOrder, running, vouched
from rh.types import ANY, Entry, Match, Span

__all__ = ["Buffers", "as_told", "move", "open_source"]

T = TypeVar("T")

_STEP = 1 << 18
_PIECE = 1 << 20
_TOGETHER = 4
"""So many parts are asked for at once, at most."""
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


def _pieces(mover: Mover, step: Step, body: Body, size: int, view: memoryview) -> Iterator[memoryview]:
    """Just so many bytes of a body, in pieces that fit into the processor's cache.

    They fill the buffer, or pass through it where it is smaller: then each lasts until the next is asked for.
    """
    whole, done = len(view) >= size, 0
    while done < size:
        start, got = done if whole else 0, 0
        piece = view[start : start + min(_PIECE, size - done)]
        while got < len(piece):
            count = body.readinto(piece[got:])
            if not count:
                raise changed(mover.source.url(step.entry.key))
            got += count
        done += got
        yield piece


def _over(mover: Mover, step: Step, body: Body) -> None:
    """A body must end here, and may have found by now that something was wrong with it."""
    if body.readinto(memoryview(bytearray(1))):
        raise changed(mover.source.url(step.entry.key))


def _tried(work: Callable[[], T]) -> T:
    """What `work` returns. What arrives damaged is read again."""
    for _ in range(_TRIES - 1):
        with suppress(IntegrityError):
            return work()
    return work()


def _fill(mover: Mover, step: Step, span: Span | None, view: memoryview, check: Callable[[Step, Hasher], T]) -> T:
    """Read bytes into a buffer that they must just fill, and let what was hashed be checked."""

    def once() -> T:
        hasher = Hasher(step.entry.size)
        with open_source(mover, step, span) as body:
            for piece in _pieces(mover, step, body, len(view), view):
                hasher.update(piece)
            _over(mover, step, body)
        return check(as_told(step, body.entry), hasher)

    return _tried(once)


class _Whole:
    """A file that is read whole, and then written."""

    def __init__(self, mover: Mover, step: Step) -> None:
        self.mover, self.step, self.room = mover, step, step.entry.size

    def move(self, view: memoryview) -> None:
        self.mover.carry(self.step, lambda: self._once(view))

    def _once(self, view: memoryview) -> tuple[Entry, Digest]:
        mover, step = self.mover, self.step
        digest = _fill(mover, step, None, view, lambda step, hasher: verified(mover, step, view, hasher.finish()))
        mover.throttle(len(view))
        return mover.target.write(step.key, view, size=len(view), executable=step.executable), digest


class _Stream:
    """A file of any size that is written as it comes, all of it by one request."""

    room = _PIECE

    def __init__(self, mover: Mover, step: Step, *, lasting: bool) -> None:
        self.mover, self.step = mover, step
        self.lasting = lasting
        """Whether the target may keep pieces for longer than `Streaming` says."""

    def move(self, view: memoryview) -> None:
        self.mover.carry(self.step, lambda: _tried(lambda: self._once(view)))

    def _once(self, view: memoryview) -> tuple[Entry, Digest]:
        mover, size = self.mover, self.step.entry.size
        hasher = Hasher(size)
        with open_source(mover, self.step) as body:
            step = as_told(self.step, body.entry)
            pieces = self._passing(step, body, view, hasher)
            entry = mover.target.write(step.key, pieces, size=size, executable=step.executable)
        return entry, hasher.finish()

    def _passing(self, step: Step, body: Body, view: memoryview, hasher: Hasher) -> Iterator[Bytes]:
        """The bytes of a body; it raises at the end, before anything is published, if they are not the right ones."""
        mover, where = self.mover, self.mover.source.url(step.entry.key)
        told = running(step.entry.check) if step.digest is None else None
        for piece in _pieces(mover, step, body, step.entry.size, view):
            hasher.update(piece)
            if told is not None:
                told.update(piece)
            mover.throttle(len(piece))
            mover.watch(step.key, hasher.size)
            yield bytes(piece) if self.lasting else piece
        _over(mover, step, body)
        expect(step, hasher.finish().text, where)
        if told is not None:
            told.compare(where)


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
        self.jobs: list[_Part | _Run]
        streaming = mover.target.ask(Streaming) if self.told is None else None
        if streaming is None:
            self.jobs = [_Part(self, number) for number in missing]
        else:
            together = max(1, min(_TOGETHER, self.count // mover.workers))
            self.jobs = [_Run(self, streaming, group) for group in _groups(missing, together)]

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

    def check(self, _step: Step, hasher: Hasher, number: int) -> bytes:
        """The raw digests of the chunks in a part, once they were compared with those that are known."""
        start, stop = self.span(number)
        raw = hasher.raw()
        known = self.step.chunks[start // self.chunk * 32 :][: len(raw)]
        if self.step.chunks and raw != known:
            raise IntegrityError(
                f"bytes {start} to {stop} are not those of the manifest",
                where=self.mover.source.url(self.step.entry.key),
                expected=known.hex()[:64],
                got=raw.hex()[:64],
            )
        return raw

    def arrived(self, number: int, tag: str, raw: bytes) -> None:
        """A part is there; these are the digests of its chunks."""
        start, stop = self.span(number)
        self.mover.journal.part(self.step.key, number, raw)
        self.mover.part(stop - start)
        with self.lock:
            self.tags[number] = tag
            self.chunks[number] = raw

    def failed(self, error: Exception) -> None:
        """A part did not arrive; the others are not wanted any more."""
        with self.lock:
            self.error = self.error or error

    def ended(self, count: int) -> None:
        """So many parts have arrived or failed; after the last of them the file is published."""
        with self.lock:
            self.left -= count
            last = self.left == 0
        if last:
            self.finish()

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
    """One part of a large file, which is read whole and then written."""

    def __init__(self, large: _Large, number: int) -> None:
        self.large, self.number = large, number
        self.span = large.span(number)
        self.room = self.span[1] - self.span[0]

    def move(self, view: memoryview) -> None:
        large, mover, number = self.large, self.large.mover, self.number
        try:
            if large.error is None:
                raw = _fill(mover, large.step, self.span, view, partial(large.check, number=number))
                if large.told is not None:
                    large.told.add(number, view)
                mover.throttle(len(view))
                large.arrived(number, large.upload.put(number, view), raw)
        except Exception as error:  # noqa: BLE001 - told per file
            large.failed(error)
        large.ended(1)


class _Run:
    """Parts of a large file that lie side by side: one request for all of them, each written as it comes."""

    room = _PIECE

    def __init__(self, large: _Large, streaming: Streaming, numbers: Sequence[int]) -> None:
        self.large, self.streaming, self.numbers = large, streaming, numbers
        self.left = deque(numbers)

    def move(self, view: memoryview) -> None:
        large = self.large
        try:
            _tried(lambda: self._once(view))
        except Exception as error:  # noqa: BLE001 - told per file
            large.failed(error)
        if large.error is not None or not self.left:
            large.ended(len(self.numbers))

    def _once(self, view: memoryview) -> None:
        large, mover, left = self.large, self.large.mover, self.left
        if large.error is not None:
            return
        span = large.span(left[0])[0], large.span(left[-1])[1]
        with open_source(mover, large.step, span) as body:
            while left and large.error is None and not mover.stopped:
                raw: list[bytes] = []
                tag = self.streaming.put_stream(large.upload, left[0], self._passing(body, view, raw))
                large.arrived(left.popleft(), tag, raw[0])

    def _passing(self, body: Body, view: memoryview, raw: list[bytes]) -> Iterator[memoryview]:
        """The bytes of the next part; it raises at the end, before the part counts, if they are not the right ones."""
        large, mover, number = self.large, self.large.mover, self.left[0]
        start, stop = large.span(number)
        hasher = Hasher(large.step.entry.size)
        for piece in _pieces(mover, large.step, body, stop - start, view):
            hasher.update(piece)
            mover.throttle(len(piece))
            yield piece
        if number == self.left[-1]:
            _over(mover, large.step, body)
        raw.append(large.check(large.step, hasher, number))


def _groups(numbers: Sequence[int], most: int) -> Iterator[list[int]]:
    """These numbers, in order, cut into groups of numbers that follow each other."""
    group: list[int] = []
    for number in numbers:
        if group and (number != group[-1] + 1 or len(group) == most):
            yield group
            group = []
        group.append(number)
    if group:
        yield group


_Job: TypeAlias = _Whole | _Stream | _Part | _Run


def move(mover: Mover, steps: Sequence[Step]) -> None:
    """Move these files."""
    multipart, streams = mover.target.ask(Multipart), mover.target.ask(Streaming) is not None
    alone: list[Step] = []

    def jobs() -> Iterator[_Job]:
        for step in steps:
            if mover.stopped:
                return
            if step.digest is None:
                step = step._replace(entry=vouched(mover.source, step.entry))  # noqa: PLW2901
            if step.entry.size <= digests.CHUNK:
                yield _Stream(mover, step, lasting=False) if streams else _Whole(mover, step)
            elif multipart is None or (step.entry.etag is None and step.digest is None):
                # Parts that nothing tells apart could be of two states of the file.
                alone.append(step)
            else:
                try:
                    large = _Large(mover, step, multipart)
                except Exception as error:  # noqa: BLE001 - told per file
                    mover.failed(step, as_rh(error, mover.target.url(step.key)))
                    continue
                if not large.jobs:
                    large.finish()
                yield from large.jobs

    # No more threads than find room: each leaves traces in the allocator.
    least = _PIECE if streams else min(max(_STEP, min(step.entry.size, digests.CHUNK)) for step in steps)
    _work(mover, jobs(), mover.memory // least)
    if alone:
        _work(mover, (_Stream(mover, step, lasting=not streams) for step in alone), 4)


def _work(mover: Mover, jobs: Iterable[_Job], most: int) -> None:
    """Do these jobs, in so many threads or fewer. They get their room in their order: no part waits for a later one.

    A server that puts parts together as they come holds on to later ones until the one that is next is there.
    """
    waiting, turn, buffers = iter(jobs), threading.Lock(), Buffers(mover.memory)

    def work() -> None:
        while True:
            with ExitStack() as lent:
                with turn:
                    job = next(waiting, None)
                    if job is None or mover.stopped:
                        return
                    view = lent.enter_context(buffers.lend(job.room))
                job.move(view)

    crew(max(1, min(mover.workers, most)), work, mover.stop)
