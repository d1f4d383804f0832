"""A client of the SFTP protocol, version 3, over any channel.

Source of the format: draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL file for the extensions. Names are bytes.
Requests may be sent ahead of the answers, so that latency is paid once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

from rh.errors import (
    AccessError,
    FullError,
    IntegrityError,
    NotFoundError,
    RhError,
    UnavailableError,
    UnsupportedError,
)
from rh.systems.ssh.transport import Channel, explain

__all__ = ["SFTP", "Attributes", "StatusError"]

_INIT, _VERSION, _OPEN, _CLOSE, _READ, _WRITE, _LSTAT, _FSTAT = 1, 2, 3, 4, 5, 6, 7, 8
_SETSTAT, _OPENDIR, _READDIR, _REMOVE, _MKDIR, _RMDIR, _REALPATH, _STAT, _RENAME, _READLINK, _SYMLINK = (
    9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
)  # fmt: skip
_STATUS, _HANDLE, _DATA, _NAME, _ATTRS, _EXTENDED = 101, 102, 103, 104, 105, 200
_OK, _EOF, _NO_FILE, _DENIED, _FAILURE, _UNSUPPORTED = 0, 1, 2, 3, 4, 8
READ, WRITE, CREATE, EXCLUSIVE = 1, 2, 8, 32
BLOCK = 32768
"""Every server accepts reads and writes of this length, in bytes."""
AHEAD = 64
"""Requests sent ahead of their answers."""
_LIMIT = 1 << 20
_U32 = struct.Struct("!I")
_HEAD = struct.Struct("!IBI")


class Attributes(NamedTuple):
    """What a server tells of a file; `None` where it does not."""

    size: int | None
    mode: int | None
    mtime: int | None


class StatusError(Exception):
    """A status that is not OK: the number and what the server says."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code, self.text = code, text

    def typed(self, where: str) -> RhError:
        """The error of ours that it is."""
        if self.code == _NO_FILE:
            return NotFoundError("there is nothing", where=where)
        if self.code == _DENIED:
            return AccessError("permission denied", where=where, hint="check the owner and the mode over there")
        if self.code == _UNSUPPORTED:
            return UnsupportedError("the server cannot do that", where=where)
        if "space" in self.text or "quota" in self.text.lower():
            return FullError(self.text, where=where)
        return UnavailableError(f"the server says: {self.text}", where=where)


def _string(data: bytes) -> bytes:
    return _U32.pack(len(data)) + data


def _attributes(mode: int | None) -> bytes:
    return _U32.pack(0) if mode is None else struct.pack("!II", 4, mode)


class _Reader:
    """Fields of one packet."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def u32(self) -> int:
        (value,) = _U32.unpack_from(self.data, self.at)
        self.at += 4
        return int(value)

    def u64(self) -> int:
        return self.u32() << 32 | self.u32()

    def string(self) -> bytes:
        size = self.u32()
        value = self.data[self.at : self.at + size]
        if len(value) != size:
            raise struct.error
        self.at += size
        return value

    def attributes(self) -> Attributes:
        flags = self.u32()
        size = self.u64() if flags & 1 else None
        if flags & 2:
            self.at += 8
        mode = self.u32() if flags & 4 else None
        mtime = None
        if flags & 8:
            self.u32()
            mtime = self.u32()
        if flags & 0x80000000:
            for _ in range(self.u32()):
                self.string()
                self.string()
        return Attributes(size, mode, mtime)


class SFTP:
    """One SFTP session. One thread at a time."""

    def __init__(self, channel: Channel, lost: Callable[[str], RhError], where: str) -> None:
        self.channel, self._lost, self._where = channel, lost, where
        self._number = 0
        self._open: dict[int, None] = {}
        self._early: dict[int, tuple[int, _Reader]] = {}
        self._buffer = memoryview(bytearray(1 << 18))
        self._bytes = b""
        self.broken = True
        self.channel.send(_U32.pack(5) + bytes([_INIT]) + _U32.pack(3))
        kind, body = self._packet()
        if kind != _VERSION:
            raise IntegrityError("the answer is no SFTP", where=where)
        fields = _Reader(body)
        fields.u32()
        self.extensions: dict[bytes, bytes] = {}
        while fields.at < len(body):
            name = fields.string()
            self.extensions[name] = fields.string()
        self.broken = False

    def _packet(self) -> tuple[int, bytes]:
        while True:
            if len(self._bytes) >= 4:
                (size,) = _U32.unpack_from(self._bytes)
                if not 1 <= size <= _LIMIT:
                    raise IntegrityError("the answer is no SFTP", where=self._where)
                if len(self._bytes) >= 4 + size:
                    packet, self._bytes = self._bytes[4 : 4 + size], self._bytes[4 + size :]
                    return packet[0], packet[1:]
            count = self.channel.readinto(self._buffer)
            if not count:
                raise self._lost(self.channel.status()[1])
            self._bytes += self._buffer[:count]

    def ask(self, kind: int, *parts: bytes | memoryview) -> int:
        """Send a request; its number is for `answer`."""
        self._number = (self._number + 1) & 0xFFFFFFFF
        size = 5 + sum(map(len, parts))
        self._open[self._number] = None
        self.broken = True
        self.channel.send(b"".join((_HEAD.pack(size, kind, self._number), *parts)))
        return self._number

    def answer(self, number: int) -> tuple[int, _Reader]:
        """The answer to a request; `StatusError` if it is a status other than OK."""
        try:
            while number not in self._early:
                kind, body = self._packet()
                fields = _Reader(body)
                got = fields.u32()
                if got not in self._open:
                    raise IntegrityError("an answer to nothing", where=self._where)
                del self._open[got]
                self._early[got] = (kind, fields)
            kind, fields = self._early.pop(number)
            self.broken = bool(self._open or self._early)
            if kind == _STATUS:
                code = fields.u32()
                if code != _OK:
                    text = fields.string().decode("utf-8", "replace") if fields.at < len(fields.data) else "?"
                    raise StatusError(code, text)
        except struct.error as error:
            raise IntegrityError("the answer is no SFTP", where=self._where) from error
        return kind, fields

    def _call(self, kind: int, *parts: bytes | memoryview) -> _Reader:
        return self.answer(self.ask(kind, *parts))[1]

    def lstat(self, path: bytes) -> Attributes:
        """What is under a path, a link itself."""
        return self._call(_LSTAT, _string(path)).attributes()

    def stat(self, path: bytes) -> Attributes:
        """What is under a path, behind links."""
        return self._call(_STAT, _string(path)).attributes()

    def fstat(self, handle: bytes) -> Attributes:
        """What an open file is."""
        return self._call(_FSTAT, _string(handle)).attributes()

    def open(self, path: bytes, flags: int, mode: int | None = None) -> bytes:
        """Open a file; its handle."""
        return self._call(_OPEN, _string(path), _U32.pack(flags), _attributes(mode)).string()

    def close(self, handle: bytes) -> None:
        """Close a handle."""
        self._call(_CLOSE, _string(handle))

    def read(self, handle: bytes, start: int, stop: int) -> Generator[bytes, None, None]:
        """The bytes of a span, asked for ahead. Ends early where the file does."""
        asked: list[tuple[int, int, int]] = []
        at = start
        try:
            while at < stop or asked:
                while at < stop and len(asked) < AHEAD:
                    size = min(BLOCK, stop - at)
                    asked.append((self.ask(_READ, _string(handle), struct.pack("!QI", at, size)), at, size))
                    at += size
                number, first, size = asked.pop(0)
                try:
                    _, fields = self.answer(number)
                except StatusError as error:
                    if error.code == _EOF:
                        return
                    raise
                data = fields.string()
                yield data
                while len(data) < size:  # a server may give less than was asked for
                    first, size = first + len(data), size - len(data)
                    try:
                        data = self._call(_READ, _string(handle), struct.pack("!QI", first, size)).string()
                    except StatusError as error:
                        if error.code == _EOF:
                            return
                        raise
                    yield data
        finally:
            self._settle([number for number, _, _ in asked])

    def _settle(self, numbers: list[int]) -> None:
        """Take answers nobody waits for any more."""
        for number in numbers:
            try:
                self.answer(number)
            except StatusError:
                continue

    def write(self, handle: bytes, pieces: Iterator[Any]) -> int:
        """Write pieces one after the other, ahead of the answers. Returns how many bytes."""
        asked: list[int] = []
        at = 0
        try:
            for piece in pieces:
                view = memoryview(piece).cast("B") if len(piece) else memoryview(b"")
                for start in range(0, len(view), BLOCK):
                    block = view[start : start + BLOCK]
                    asked.append(self.ask(_WRITE, _string(handle), struct.pack("!QI", at, len(block)), block))
                    at += len(block)
                    if len(asked) >= AHEAD:
                        self.answer(asked.pop(0))
            while asked:
                self.answer(asked.pop(0))
        finally:
            if asked:
                try:
                    self._settle(asked)
                except RhError:
                    self.broken = True  # the error that is on its way says it
        return at

    def names(self, path: bytes) -> list[tuple[bytes, Attributes]]:
        """What a directory holds."""
        handle = self._call(_OPENDIR, _string(path)).string()
        found: list[tuple[bytes, Attributes]] = []
        try:
            while True:
                try:
                    fields = self._call(_READDIR, _string(handle))
                except StatusError as error:
                    if error.code == _EOF:
                        return found
                    raise
                for _ in range(fields.u32()):
                    name = fields.string()
                    fields.string()
                    attributes = fields.attributes()
                    if name not in (b".", b".."):
                        found.append((name, attributes))
        finally:
            self.close(handle)

    def readlink(self, path: bytes) -> bytes:
        """Where a link points to."""
        fields = self._call(_READLINK, _string(path))
        fields.u32()
        return fields.string()

    def realpath(self, path: bytes) -> bytes:
        """A path without links, absolute."""
        fields = self._call(_REALPATH, _string(path))
        fields.u32()
        return fields.string()

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a link. (The order of the two is OpenSSH's, which is not the draft's.)"""
        self._call(_SYMLINK, _string(target), _string(path))

    def remove(self, path: bytes) -> None:
        """Remove a file or link."""
        self._call(_REMOVE, _string(path))

    def mkdir(self, path: bytes) -> None:
        """Make a directory."""
        self._call(_MKDIR, _string(path), _attributes(None))

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        self._call(_RMDIR, _string(path))

    def rename(self, path: bytes, new: bytes) -> None:
        """Rename where nothing is; fails if something is there."""
        self._call(_RENAME, _string(path), _string(new))

    def replace(self, path: bytes, new: bytes) -> None:
        """Rename over what is there, atomically."""
        if b"posix-rename@openssh.com" not in self.extensions:
            raise StatusError(_UNSUPPORTED, "no posix-rename")
        self._call(_EXTENDED, _string(b"posix-rename@openssh.com"), _string(path), _string(new))

    def sync(self, handle: bytes) -> None:
        """Flush an open file, where the server can."""
        if b"fsync@openssh.com" in self.extensions:
            self._call(_EXTENDED, _string(b"fsync@openssh.com"), _string(handle))


def lost(host: Any, address: Callable[[], tuple[str, int, str | None]]) -> Callable[[str], RhError]:
    """The error for a channel that ended, from what the client said."""
    return lambda text: explain(text, host, address)
