"""Bytes to and from Google Cloud Storage: checked downloads, and uploads in one request or block by block."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from rh.errors import (
    ConflictError,
    DeadlineError,
    ExistsError,
    IntegrityError,
    RhError,
    UnavailableError,
)
from rh.observe import log
from rh.systems.base import Body, Bytes
from rh.systems.gcs.json_api import STAMP, Api, Crc, Object, Target, crc_of_header, entry_of_headers, precheck
from rh.systems.objects.http import Answer
from rh.systems.objects.parts import same_length
from rh.systems.objects.wire import Nothing, WireBody
from rh.types import ANY, Condition, Entry, Match, Span

__all__ = ["BLOCK", "Writer", "download"]

BLOCK = 8 << 20
"""Streams are sent in blocks of this many bytes (a multiple of 256 KiB); shorter ones in one request."""
LOST_LIMIT = 10_000


class _Download(WireBody):
    """An object, or a range of it, on its way here. `crc` is what the bytes must have."""

    def __init__(self, api: Api, where: str, entry: Entry, answer: Answer, want: int | None, crc: int | None) -> None:
        super().__init__(api.system, answer, entry, want, where)
        self._crc = crc
        self.undivided = crc is not None
        self._got = Crc(api.extend)

    def __iter__(self) -> Iterator[Bytes]:
        try:
            for piece in super().__iter__():
                if self._crc is not None:
                    self._got.update(piece)
                yield piece
        except UnavailableError as error:
            raise self._cut(error) from None
        self._compare()

    def readinto(self, buffer: memoryview) -> int:
        try:
            count = super().readinto(buffer)
        except UnavailableError as error:
            raise self._cut(error) from None
        if self._crc is not None:
            self._got.update(buffer[:count])
        if not count and len(buffer):
            self._compare()
        return count

    def _cut(self, error: UnavailableError) -> IntegrityError:
        return IntegrityError(f"the download ended early: {error.message}", where=self._where)

    def _compare(self) -> None:
        if self._crc not in (None, self._got.value):
            raise IntegrityError(
                "the bytes were damaged on the way",
                where=self._where,
                expected=f"crc32c {self._crc:08x}",
                got=f"crc32c {self._got.value:08x}",
            )


def download(api: Api, key: str, what: Target, span: Span | None, when: Condition) -> Body:
    """Begin to read an object or a range of it, in one request where there is anything to read."""
    if span is not None and span[0] == span[1]:
        return _nothing(api, key, what, span, when)
    answer = api.open(what, span, when)
    if answer.status == 416 and span is not None:
        answer.read()
        return _nothing(api, key, what, span, when)
    try:
        headers, want, crc = answer.headers, answer.length, None
        if span is None:
            if want is None and (stored := headers.get("x-goog-stored-content-length", "")).isdigit():
                want = int(stored)
            size = want or 0
            crc = crc_of_header(headers.get("x-goog-hash"))
            if crc is None:
                # Every object has one: a header was lost, not the checksum.
                thing = api.get(what)
                crc = thing.crc if thing.generation == headers.get("x-goog-generation") else None
            if crc is None:
                raise IntegrityError("the store does not tell the checksum of what it sends", where=what.where)
        else:
            told = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("content-range", ""), re.ASCII)
            start, stop, size = (int(told[1]), int(told[2]) + 1, int(told[3])) if told else (0, 0, 0)
            if (start, stop) != (span[0], min(span[1], size)) or want not in (None, stop - start):
                raise IntegrityError(
                    "the store answered another range",
                    where=what.where,
                    expected=f"bytes {span[0]}-{span[1] - 1}",
                    got=headers.get("content-range", "none")[:80],
                )
            want = stop - start
        entry = entry_of_headers(key, size, headers)
        _same(entry.etag, when, what)
    except RhError:
        answer.close()
        raise
    return _Download(api, what.where, entry, answer, want, crc)


def _nothing(api: Api, key: str, what: Target, span: Span, when: Condition) -> Body:
    """The empty body of a span of nothing."""
    thing = api.get(what)
    _same(thing.generation, when, what)
    if span[0] < min(span[1], thing.size):
        raise ConflictError("it changed while it was read", where=what.where)
    return Nothing(thing.entry(key))


def _same(generation: str | None, when: Condition, what: Target) -> None:
    if isinstance(when, Match) and generation not in (None, when.etag):
        raise ConflictError("it has changed since it was listed", where=what.where)


class _Feed:
    """A stream of bytes in blocks, with a look ahead: which block is the last. `crc` is of all that was taken."""

    def __init__(self, data: Iterable[Bytes], crc: Crc) -> None:
        self._pieces = iter(data)
        self._held: bytes | None = None
        self.crc = crc
        self.taken = 0
        self.ended = False

    def _next(self) -> bytes | None:
        held, self._held = self._held, None
        while not held:
            piece = next(self._pieces, None)
            if piece is None:
                return None
            # A buffer that its owner fills again must not change under us.
            held = piece if isinstance(piece, bytes) else bytes(piece)
        return held

    def take(self) -> Sequence[bytes]:
        """The pieces of the next block."""
        block: list[bytes] = []
        room = BLOCK
        while room:
            piece = self._next()
            if piece is None:
                self.ended = True
                return block
            if len(piece) > room:
                self._held = piece[room:]
                piece = piece[:room]
            block.append(piece)
            self.crc.update(piece)
            self.taken += len(piece)
            room -= len(piece)
        self._held = self._next()
        self.ended = self._held is None
        return block


class _Lost(NamedTuple):
    """A conditional write whose answer never came: it may have been made."""

    stamps: tuple[str, ...]
    size: int
    crc: int


class Writer:
    """Stores bytes so that they are whole and as given, or not there."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._lost: dict[tuple[int, str, str], _Lost] = {}

    def write(self, key: str, what: Target, data: Bytes | Iterable[Bytes], size: int | None, when: Condition) -> Entry:
        """Store bytes, or a stream of them, under a condition."""
        crc = Crc(self._api.extend)
        if isinstance(data, (bytes, bytearray, memoryview)):
            length = memoryview(data).nbytes
            same_length(what.where, size, length)
            crc.update(data)
            return self._whole(key, what, (data,), length, crc.value, when)
        feed = _Feed(data, crc)
        block = feed.take()
        if feed.ended:
            same_length(what.where, size, feed.taken)
            return self._whole(key, what, block, feed.taken, crc.value, when)
        return self._stream(key, what, feed, block, size, when)

    def _whole(self, key: str, what: Target, parts: Sequence[Bytes], size: int, crc: int, when: Condition) -> Entry:
        made = self._once(
            what,
            when,
            lambda stamp: self._api.insert(what, parts, size, crc, when=when, stamp=stamp),
            sent=lambda: (size, crc),
            content=lambda: (size, crc),
        )
        return self._stored(key, what, made, size, crc)

    def _stream(
        self, key: str, what: Target, feed: _Feed, block: Sequence[bytes], size: int | None, when: Condition
    ) -> Entry:
        def attempt(stamp: str | None) -> Object:
            precheck(self._api, what, when)
            session = self._api.begin(what, size=size, when=when, stamp=stamp)
            try:
                pieces, start, made = block, 0, None
                while made is None:
                    if feed.ended or (size is not None and feed.taken > size):
                        same_length(what.where, size, feed.taken)
                    made = self._api.append(
                        what, session, pieces, start, feed.taken - start, crc=feed.crc.value, last=feed.ended, when=when
                    )
                    if made is None:
                        start = feed.taken
                        pieces = feed.take()
                return made
            except BaseException:
                self._cancel(what, session)
                raise

        def content() -> tuple[int, int]:
            while not feed.ended:
                feed.take()
            return feed.taken, feed.crc.value

        made = self._once(what, when, attempt, sent=lambda: content() if feed.ended else None, content=content)
        return self._stored(key, what, made, feed.taken, feed.crc.value)

    def _cancel(self, what: Target, session: str) -> None:
        try:
            self._api.cancel(what, session)
        except RhError as error:
            # Sessions expire by themselves and cost nothing; the error that led here is the one to tell.
            log.debug("an upload session of %s was not cancelled: %s", what.where, error)

    def _once(
        self,
        what: Target,
        when: Condition,
        attempt: Callable[[str | None], Object],
        *,
        sent: Callable[[], tuple[int, int] | None],
        content: Callable[[], tuple[int, int]],
    ) -> Object:
        """Write under a condition such that our own success, its answer lost, is no conflict when it is tried again.

        A conditional write carries a stamp. When no answer comes, the stamp is remembered with size and CRC-32C of
        what had been `sent`, if it was all; when the next attempt is refused, and the object there has that stamp and
        the `content` that is being written, it is ours.
        """
        if when is ANY:
            return attempt(None)
        slot = (threading.get_ident(), what.bucket, what.name)
        before = self._lost.pop(slot, None)
        stamp = secrets.token_hex(8)
        try:
            return attempt(stamp)
        except (ExistsError, ConflictError):
            if before is None or content() != (before.size, before.crc):
                raise
            found = self._api.get(what)
            if (found.metadata or {}).get(STAMP) not in before.stamps:
                raise
            return found
        except (UnavailableError, DeadlineError, IntegrityError):
            told = sent()
            if told is not None:
                earlier = before.stamps if before is not None and (before.size, before.crc) == told else ()
                if len(self._lost) >= LOST_LIMIT:
                    self._lost.clear()
                self._lost[slot] = _Lost((*earlier, stamp), *told)
            raise

    def _stored(self, key: str, what: Target, made: Object, size: int, crc: int) -> Entry:
        """The entry of what was stored, if that is what was sent; else it is removed."""
        first = made.generation
        if not made.holds(size, crc):
            # The answer may be what was damaged: ask again before anything is removed.
            made = self._api.get(what)
        if made.holds(size, crc):
            return made.entry(key)
        if made.generation == first:
            self._api.delete(what, first)
        raise IntegrityError(
            "the store received other bytes than were sent",
            where=what.where,
            expected=f"{size} bytes, crc32c {crc:08x}",
            got=f"{made.size} bytes, " + ("no crc32c" if made.crc is None else f"crc32c {made.crc:08x}"),
        )
