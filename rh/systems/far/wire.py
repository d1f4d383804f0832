"""The language spoken with the far side of an SSH link: frames, values, and the records in them.

A conversation is one request frame, then data frames either way, then one `OK` or `ERR` frame from the far side. Names
are bytes with their length in front. Integrity in flight is SSH's own (every packet is authenticated); what cannot be
decoded raises `Garbled`.

This module runs on both sides: standard library only, Python 3.7 or newer.
"""

from __future__ import annotations

import errno
import marshal
import os
import select
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:  # the far side spares the time to import it
    from collections.abc import Iterator
    from typing import Any

    Buffer = bytes | bytearray | memoryview

PROTOCOL = 2
BOOTSTRAP = (
    "import sys,zlib;sys.version_info<(3,7)and sys.exit(127);i=sys.stdin.buffer;"
    "a=i.readline().split();z=i.read(int(a[0]));exec(zlib.decompress(z))"
)
"""What the interpreter over there is told to run: read so many bytes, and run them."""
FRAME = struct.Struct("!BI")
REQ, DATA, PACK, ITEMS, BEGIN, FINISH, END, CREDIT, CANCEL, OUT, PING, OK, ERR = range(1, 14)
LIMIT = 80 << 20
"""No frame is longer, in bytes; a length beyond it means the stream is garbled."""
PIECE = 1 << 20
"""Data frames and packs are about this long, in bytes."""

EXEC, NOEXEC, LINK, DIR, FAILED, BIG, SUM, KNOWN = 1, 2, 4, 8, 16, 32, 64, 128
STAT = struct.Struct("!BQqqQ")
"""Flags, size, mtime_ns, ctime_ns, inode."""
OUTCOME = struct.Struct("!IBQqqQI")
"""Number of the item, a `STAT`, length of the digest or error that follows."""
ITEM = struct.Struct("!BHQ")
"""Flags, length of the name, length of the data; then the name, 32 bytes of SHA-256 if `SUM`, the data."""
PAGE = struct.Struct("!III")
"""Number of entries, length of the keys, length of the targets; then that many `STAT`, and both joined by NUL."""

_LEN = struct.Struct("!I")
_INT = struct.Struct("!q")
_REAL = struct.Struct("!d")


class Garbled(Exception):  # noqa: N818 - it is what it says
    """Bytes that are not of this language."""


class Failure(Exception):  # noqa: N818
    """An error with the kind it will have on the near side."""

    def __init__(self, kind: str, message: str, path: bytes = b"") -> None:
        super().__init__(message)
        self.kind = kind
        self.path = path


class Cancelled(Exception):  # noqa: N818
    """The near side wants no more of this."""


def dumps(value: Any) -> bytes:
    """A value of None, bool, int, float, bytes, str and lists of these as bytes."""
    out: list[bytes] = []
    _dump(value, out.append)
    return b"".join(out)


def _dump(value: Any, put: Any) -> None:
    if isinstance(value, (bytes, bytearray, memoryview)):
        put(b"B" + _LEN.pack(len(value)))
        put(bytes(value))
    elif value is None:
        put(b"N")
    elif value is True:
        put(b"T")
    elif value is False:
        put(b"F")
    elif isinstance(value, int):
        put(b"I" + _INT.pack(value))
    elif isinstance(value, float):
        put(b"R" + _REAL.pack(value))
    elif isinstance(value, str):
        data = value.encode("utf-8", "surrogateescape")
        put(b"S" + _LEN.pack(len(data)))
        put(data)
    else:
        put(b"L" + _LEN.pack(len(value)))
        for item in value:
            _dump(item, put)


def loads(data: Buffer) -> Any:
    """The value `dumps` was given; `Garbled` if there is none."""
    try:
        value, at = _load(bytes(data), 0, 0)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise Garbled("not a value") from error
    if at != len(data):
        raise Garbled("bytes after the value")
    return value


def _load(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    tag = data[at : at + 1]
    at += 1
    if tag in (b"B", b"S"):
        (length,) = _LEN.unpack_from(data, at)
        at += 4
        if at + length > len(data):
            raise Garbled("a value is cut short")
        value = data[at : at + length]
        return (value if tag == b"B" else value.decode("utf-8", "surrogateescape")), at + length
    if tag == b"I":
        return _INT.unpack_from(data, at)[0], at + 8
    if tag == b"N":
        return None, at
    if tag in (b"T", b"F"):
        return tag == b"T", at
    if tag == b"R":
        return _REAL.unpack_from(data, at)[0], at + 8
    if tag == b"L" and depth < 16:
        (length,) = _LEN.unpack_from(data, at)
        at += 4
        if length > len(data):
            raise Garbled("a list is cut short")
        items = []
        for _ in range(length):
            item, at = _load(data, at, depth + 1)
            items.append(item)
        return items, at
    raise Garbled("not a value")


def dump_items(items: Any) -> bytes:
    """Items on their way out, quicker than `dumps`."""
    return marshal.dumps(items, 2)


def load_items(payload: Buffer) -> Any:
    """What `dump_items` was given. Only for the far side: whoever sends it items has sent it its program as well."""
    return marshal.loads(payload)  # noqa: S302


def unpack_items(payload: memoryview) -> Iterator[tuple[int, bytes, bytes, memoryview]]:
    """Flags, name, digest and data of each item of a pack."""
    at, end, unpack, step = 0, len(payload), ITEM.unpack_from, ITEM.size
    while at < end:
        try:
            flags, names, size = unpack(payload, at)
        except struct.error as error:
            raise Garbled("a pack is cut short") from error
        at += step
        name = bytes(payload[at : at + names])
        at += names
        digest = b""
        if flags & SUM:
            digest = bytes(payload[at : at + 32])
            at += 32
        if at + size > end:
            raise Garbled("a pack is cut short")
        yield flags, name, digest, payload[at : at + size]
        at += size


def pack_page(found: list[tuple[bytes, tuple[int, int, int, int, int], bytes]]) -> bytes:
    """Entries of a listing as bytes: keys, the fields of their `STAT`, and the targets of those that are links."""
    keys = b"\0".join([key for key, _, _ in found])
    targets = b"\0".join([target for _, fields, target in found if fields[0] & LINK])
    pack = STAT.pack
    return b"".join(
        [PAGE.pack(len(found), len(keys), len(targets)), *[pack(*fields) for _, fields, _ in found], keys, targets]
    )


def unpack_page(data: bytes) -> tuple[list[str], Iterator[tuple[int, ...]], Iterator[str]]:
    """Keys, `STAT` fields, and targets of the links of what `pack_page` made."""
    try:
        count, keys, targets = PAGE.unpack_from(data)
        at = PAGE.size + count * STAT.size
        stats = STAT.iter_unpack(data[PAGE.size : at])
    except struct.error as error:
        raise Garbled("a page is cut short") from error
    names = data[at : at + keys].decode("utf-8", "surrogateescape").split("\0")
    if len(data) != at + keys + targets or len(names) != count:
        raise Garbled("a page is cut short")
    return names, stats, iter(data[at + keys :].decode("utf-8", "surrogateescape").split("\0"))


def etag(stat: os.stat_result) -> str:
    """What changes when a file does: size, both times and the inode."""
    return f"{stat.st_size:x}-{stat.st_mtime_ns:x}-{stat.st_ctime_ns:x}-{stat.st_ino:x}"


KINDS = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "name_clash",
    errno.EISDIR: "name_clash",
    errno.ENOTEMPTY: "name_clash",
    errno.ELOOP: "name_clash",
    errno.ENAMETOOLONG: "name_clash",
    errno.EILSEQ: "name_clash",
    errno.EEXIST: "exists",
    errno.EACCES: "access",
    errno.EPERM: "access",
    errno.EROFS: "access",
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EFBIG: "full",
    errno.ETIMEDOUT: "deadline",
    errno.EINVAL: "invalid",
    errno.EOPNOTSUPP: "unsupported",
}


def failure(error: BaseException, path: bytes = b"") -> bytes:
    """An error as bytes: kind, message, path."""
    if isinstance(error, Failure):
        return dumps([error.kind, str(error), error.path or path])
    if isinstance(error, OSError) and error.errno is not None:
        return dumps([KINDS.get(error.errno, "unavailable"), os.strerror(error.errno), path])
    if isinstance(error, (Garbled, UnicodeDecodeError, struct.error)):
        return dumps(["integrity", f"{type(error).__name__}: {error}", path])
    if isinstance(error, ValueError):
        return dumps(["invalid", str(error), path])
    return dumps(["unavailable", f"{type(error).__name__}: {error}", path])


class Wire:
    """Frames over two descriptors, as the far side sees them. A payload of `recv` lives until the next one."""

    def __init__(self, source: int, sink: int) -> None:
        import threading

        self.source = source
        self.sink = sink
        self.room = 0
        self.sent = 0
        self.busy = False
        self.over = False  # nobody listens any more: what is left is to tidy up
        self.program = b""
        self._lock = threading.Lock()
        self._head = bytearray(65536)
        self._from = self._to = 0
        self._body = bytearray(PIECE + 65536)

    def send(self, kind: int, *parts: Buffer) -> None:
        """One frame made of `parts`."""
        size = sum(map(len, parts))
        with self._lock:
            self.sent += 1
            if size < 65536 or len(parts) > 2:
                self._write(b"".join((FRAME.pack(kind, size), *parts)))
                return
            self._write(FRAME.pack(kind, size))
            for part in parts:
                self._write(part)

    def _write(self, data: Buffer) -> None:
        done = os.write(self.sink, data)
        if done < len(data):
            view = memoryview(data)
            while done < len(data):
                done += os.write(self.sink, view[done:])

    def waiting(self) -> bool:
        """Whether a frame, or some of it, has come already."""
        return self._to > self._from or bool(select.select([self.source], [], [], 0)[0])

    def ready(self, timeout_s: float) -> bool:
        """Whether something comes within that time."""
        return self._to > self._from or bool(select.select([self.source], [], [], timeout_s)[0])

    def recv(self) -> tuple[int, memoryview]:
        """The next frame; EOFError when the other side is gone."""
        while self._to - self._from < FRAME.size:
            if self._from:
                self._head[: self._to - self._from] = self._head[self._from : self._to]
                self._from, self._to = 0, self._to - self._from
            self._to += self._more(memoryview(self._head)[self._to :])
        kind, size = FRAME.unpack_from(self._head, self._from)
        self._from += FRAME.size
        if size > LIMIT:
            raise Garbled(f"a frame of {size} bytes")
        if size > len(self._body):
            self._body = bytearray(size)
        view = memoryview(self._body)[:size]
        done = min(size, self._to - self._from)
        view[:done] = self._head[self._from : self._from + done]
        self._from += done
        while done < size:
            done += self._more(view[done:])
        return kind, view

    def _more(self, view: memoryview) -> int:
        count = os.readv(self.source, [view])
        if not count:
            self.over = True
            raise EOFError("the other side is gone")
        return count

    def emit(self, kind: int, *parts: Buffer) -> None:
        """One frame, when the near side has room for it; `Cancelled` when it wants no more."""
        while self.room <= 0:
            got, payload = self.recv()
            if got == CREDIT:
                self.room += loads(payload)
            elif got == CANCEL:
                raise Cancelled
            else:
                raise Garbled(f"frame {got} instead of a credit")
        self.room -= sum(map(len, parts))
        self.send(kind, *parts)
