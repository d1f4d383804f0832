"""What is in progress with the far program: reads, and files arriving in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from rh import observe
from rh.errors import IntegrityError, NotFoundError, RhError
from rh.systems.base import Body, Bytes
from rh.systems.far import wire
from rh.types import ABSENT, ANY, Condition, Entry, Match, Span

if TYPE_CHECKING:
    from rh.systems.ssh.road import FarRoad
    from rh.systems.ssh.session import Session

__all__ = ["WINDOW", "FarBody", "FarUpload", "entries_of", "entry_of"]

WINDOW = 4 << 20
"""Bytes the far side may send before they are asked for again."""
_SMALL = 1 << 20


def entry_of(key: str, stat: Sequence[int], target: bytes = b"") -> Entry:
    """An entry from the fields of a `STAT`."""
    flags, size, mtime, ctime, inode = stat
    if flags & wire.DIR:
        return Entry(key if key.endswith("/") else key + "/", 0, "dir")
    etag = f"{size:x}-{mtime:x}-{ctime:x}-{inode:x}"
    if flags & wire.LINK:
        return Entry(key, size, "link", etag, mtime / 1e9, None, None, target.decode("utf-8", "surrogateescape"))
    if not flags:  # a pipe, socket or device
        return Entry(key, 0, "file", None, mtime / 1e9, None, executable=False)
    return Entry(key, size, "file", etag, mtime / 1e9, None, bool(flags & wire.EXEC))


def entries_of(page: bytes) -> Sequence[Entry]:
    """The entries of a page of a listing."""
    keys, stats, targets = wire.unpack_page(page)
    entries: list[Entry] = []
    for key, fields in zip(keys, stats, strict=True):
        flags, size, mtime, ctime, inode = fields
        if flags & wire.LINK:
            entries.append(entry_of(key, fields, next(targets, "").encode("utf-8", "surrogateescape")))
        elif flags & wire.DIR or not flags:
            entries.append(entry_of(key, fields))
        else:
            etag = "%x-%x-%x-%x" % (size, mtime, ctime, inode)  # noqa: UP031  (quicker than an f-string)
            entries.append(Entry(key, size, "file", etag, mtime / 1e9, None, flags & wire.EXEC != 0))
    return entries


class FarBody(Body):
    """A read in progress; of more than `_SMALL` bytes it holds its session until it is closed or at its end."""

    def __init__(self, road: FarRoad, key: str, span: Span | None, want: bytes) -> None:
        self._road, self._key = road, key
        self._left = self._credit = 0
        self._taken = road.pool.session()
        self._session: Session | None = self._taken.__enter__()
        start, stop = span if span is not None else (0, 1 << 62)
        try:
            session = self._session
            session.request("read", road.root, road.name(key), start, stop, want, WINDOW)
            kind, payload = session.next(road.url, key)
            if kind != wire.OUT:
                raise IntegrityError(f"an answer out of turn ({kind})", where=road.url(key))
            self.entry = entry_of(key, wire.STAT.unpack(payload))
        except BaseException as error:
            self._end(error)
            raise
        observe.count(road.system, "read")
        self._left = max(0, min(stop, self.entry.size) - min(start, self.entry.size))
        # Little is taken at once, so that the session is free for what the reader asks for meanwhile.
        self._held = list(self._arriving(keep=True)) if self._left <= _SMALL else []

    def __iter__(self) -> Iterator[Bytes]:
        return self._pieces(keep=True)

    def _pieces(self, *, keep: bool) -> Iterator[Bytes]:
        """What is left, each piece ours to `keep`, or good until the next one."""
        held, self._held = self._held, []
        yield from held
        yield from self._arriving(keep=keep)

    def _arriving(self, *, keep: bool) -> Iterator[Bytes]:
        while (piece := self._next(keep=keep)) is not None:
            yield piece

    def readinto(self, buffer: memoryview) -> int:
        if self._held or self._coming is not None or len(buffer) < min(self._left, wire.PIECE):
            return super().readinto(buffer)
        piece = self._next(keep=False, room=buffer)
        if piece is None:
            return 0
        if len(piece) > len(buffer):  # no far program of ours sends such
            self._coming, self._unread = self._arriving(keep=True), bytes(piece)
            return super().readinto(buffer)
        if not self._left:
            self._next(keep=False)
        return len(piece)

    def _next(self, *, keep: bool, room: memoryview | None = None) -> Bytes | None:
        """The next piece, which comes into `room` if it fits; `None` at the end."""
        if self._session is None:
            return None
        try:
            kind, payload = self._session.next(self._road.url, keep=keep, room=room)
            if kind == wire.OK:
                if self._left:
                    raise IntegrityError("the bytes ended early", where=self._road.url(self._key))
                self._end(None)
                return None
            if kind != wire.DATA or len(payload) > self._left:
                raise IntegrityError("the answer is garbled", where=self._road.url(self._key))
            self._left -= len(payload)
            self._credit += len(payload)
            if self._credit >= WINDOW // 4 and self._left:
                self._session.send(wire.CREDIT, wire.dumps(self._credit))
                self._credit = 0
        except BaseException as error:
            self._end(error)
            raise
        observe.count(self._road.system, "read", requests=0, received=len(payload))
        return payload

    def read(self) -> bytes:
        whole = BytesIO()  # hands its bytes over without another copy
        for piece in self._pieces(keep=False):
            whole.write(piece)
        return whole.getvalue()

    def close(self) -> None:
        session = self._session
        if session is None:
            return
        try:
            session.send(wire.CANCEL)
            while session.next(self._road.url)[0] != wire.OK:
                continue
        except RhError:
            pass  # nobody wants the rest, or its error; a session that failed is closed below
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        if self._session is not None:
            self._session = None
            self._taken.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    def __del__(self) -> None:
        if getattr(self, "_session", None) is not None:
            self._end(None)


class FarUpload:
    """A large file arriving in parts. A part's tag is the SHA-256 of its chunks (16 MiB or less each), in hex."""

    def __init__(self, road: FarRoad, key: str, temp: bytes, size: int, part_size: int) -> None:
        self._road, self._key, self._temp, self._size = road, key, temp, size
        self.part_size = part_size
        self.token = temp.decode("utf-8", "surrogateescape")

    def put(self, number: int, data: Bytes) -> str:
        road, view = self._road, memoryview(data).cast("B")
        with road.pool.session() as session:
            session.request("part", road.root, road.name(self._key), self._temp, number, len(view))
            for at in range(0, len(view), wire.PIECE):
                session.send(wire.DATA, view[at : at + wire.PIECE])
                if session.waiting():
                    break  # the answer says why
            observe.count(road.system, "part", sent=len(view))
            raw: bytes = session.answer(road.url)
        return raw.hex()

    def parts(self) -> dict[int, str]:
        _, _, found = self._road.call("parts", "parts", self._road.name(self._key), self._temp)
        return {number: raw.hex() for number, raw in found}

    def finish(self, tags: Sequence[str], *, when: Condition = ANY) -> Entry:
        road = self._road
        want = b"*" if when is ABSENT else when.etag.encode() if isinstance(when, Match) else b""
        raw = [bytes.fromhex(tag) for tag in tags]
        told = road.call("finish", "finish", road.name(self._key), self._temp, raw, want, road.flush)
        (outcome,) = road.outcomes(memoryview(told), {0: self._key})
        if outcome.error is not None:
            raise outcome.error
        if outcome.entry is None:
            raise NotFoundError("this upload is gone", where=road.url(self._key))
        return outcome.entry

    def abort(self) -> None:
        self._road.call("abort", "abort", self._road.name(self._key), self._temp)
