"""HTTP/1.1 on one connection, as object stores are spoken to from here and from hosts.

Only what they need: requests of known length; answers of known length, chunked, or as long as the connection. Whatever
is not plainly correct is an error. Framing follows RFC 9112.

This module runs on both sides: standard library only, Python 3.7 or newer.
"""

from __future__ import annotations

import select
import socket
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from rh.systems.far.wire import Buffer

TOGETHER = 1 << 16
"""Requests up to this many bytes leave in one system call."""
PIECE = 1 << 18
"""Bytes asked of the socket at once, and yielded at most."""
HEAD_LIMIT = 1 << 16


class Malformed(Exception):  # noqa: N818 - it is what it says
    """The answer is not HTTP as we know it."""


class Ended(Exception):  # noqa: N818
    """The other side closed the connection."""


def request_of(method: str, target: str, lines: str, headers: Mapping[str, str], length: int | None) -> bytes:
    """The head of a request; `lines` are whole header lines. Without a `length` it has no body."""
    text = [f"{method} {target} HTTP/1.1\r\n{lines}"]
    text += [f"{name}: {value}\r\n" for name, value in headers.items()]
    if length is not None:
        text.append(f"Content-Length: {length}\r\n")
    text.append("\r\n")
    return "".join(text).encode("latin-1")


class Line:
    """One connection and what was read from it beyond the last answer. No wait is longer than `timeout_s`."""

    __slots__ = ("_patience", "rest", "sock", "used", "whole")

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        self.sock = sock
        self.whole = 0
        self._patience: float | None = timeout_s
        if type(sock) is socket.socket:
            # Let the kernel watch the clock: with a timeout of its own, Python asks it before every call. The kernel
            # may gather a piece, too; TLS gives records as they come.
            limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            except OSError:
                sock.settimeout(timeout_s)  # a kernel with other ideas of time
            else:
                sock.settimeout(None)
                self._patience = None
                self.whole = socket.MSG_WAITALL
        self.rest = b""
        self.used = time.monotonic()

    def wait(self, *, patient: bool) -> None:
        """Whether calls wait, as they do at first, or raise at once where there is nothing to do yet."""
        self.sock.settimeout(self._patience if patient else 0.0)

    def send(self, head: bytes, body: Iterable[Buffer], length: int) -> None:
        """A request, whose body has so many bytes."""
        if len(head) + length <= TOGETHER:
            self.sock.sendall(b"".join((head, *body)))
            return
        self.sock.sendall(head)
        for part in body:
            # One `sendall` would have to be over within one timeout, however large the part is.
            view = memoryview(part).cast("B")
            at = 0
            while at < len(view):
                at += self.sock.send(view[at : at + (1 << 20)])

    def _more(self, limit: int = PIECE) -> bytes:
        data = self.sock.recv(limit)
        if not data:
            raise Ended
        return data

    def head(self) -> tuple[int, dict[str, str], bool]:
        """Status, headers (lower case, repeated ones joined by commas) and whether the connection stays open."""
        while True:
            raw = self.rest or self._more()
            end = end_of_head(raw)
            while end < 0:
                raw += self._more()
                end = end_of_head(raw)
            self.rest = raw[end + 4 :]
            told = head_of(raw[:end])
            if told[0] >= 200:
                return told

    def into(self, buffer: memoryview) -> int:
        """Some bytes of a body, into a buffer that is not empty and no longer than what is left of it."""
        if self.rest:
            count = min(len(self.rest), len(buffer))
            buffer[:count], self.rest = self.rest[:count], self.rest[count:]
            return count
        count = self.sock.recv_into(buffer, len(buffer), self.whole)
        if not count:
            raise Ended
        return count

    def bounded(self, length: int) -> Iterator[bytes]:
        """The pieces of a body of so many bytes."""
        if self.rest and length:
            data, self.rest = self.rest[:length], self.rest[length:]
            length -= len(data)
            yield data
        while length:
            data = self.sock.recv(min(PIECE, length), self.whole)
            if not data:
                raise Ended
            length -= len(data)
            yield data

    def chunked(self) -> Iterator[bytes]:
        """The pieces of a body that comes in chunks."""
        chunks = Chunks()
        data = self.rest
        while True:
            pieces = chunks.feed(data)
            self.rest = chunks.rest if chunks.over else b""
            yield from pieces
            if chunks.over:
                return
            data = self._more()

    def unbounded(self) -> Iterator[bytes]:
        """The pieces of a body that ends with the connection."""
        if self.rest:
            data, self.rest = self.rest, b""
            yield data
        while True:
            data = self.sock.recv(PIECE)
            if not data:
                return
            yield data

    def dropped(self) -> bool:
        """Whether an idle connection has been closed by the other side (or talks out of turn)."""
        if self.rest:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(0):
            return False
        before = self.sock.gettimeout()
        self.sock.settimeout(0.0)
        try:
            self.sock.recv(1)
        except OSError as error:
            # What TLS says of itself, as the tickets after a handshake, is no answer.
            return type(error).__name__ != "SSLWantReadError"
        else:
            return True
        finally:
            self.sock.settimeout(before)

    def close(self) -> None:
        """Drop the connection."""
        try:
            self.sock.close()
        except OSError:
            # It is being thrown away; there is nobody to tell.
            return

    def __del__(self) -> None:
        self.close()


class Chunks:
    """What comes in chunks, put in order as it comes. `over` at the end; then `rest` is what came behind it."""

    __slots__ = ("_last", "_left", "over", "rest")

    def __init__(self) -> None:
        self.rest = b""
        self.over = False
        self._left = 0
        """Of the chunk, and the line end behind it; nothing where its size comes next."""
        self._last = False

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces in so many more bytes."""
        data = self.rest + data if self.rest else data
        found, at = [], 0
        while not self.over:
            if self._left > 2:
                piece = data[at : at + self._left - 2]
                if not piece:
                    break
                found.append(piece)
                at += len(piece)
                self._left -= len(piece)
                continue
            end = data.find(b"\r\n", at)
            if end < 0 and len(data) - at <= (1 if self._left else HEAD_LIMIT):
                break
            if end < 0 or (self._left and end > at):
                raise Malformed("a chunk has no end" if self._left else "a chunk's line is too long")
            line, at = data[at:end], end + 2
            if self._left:
                self._left = 0
            elif self._last:
                self.over = not line
            else:
                size = line.partition(b";")[0].strip()
                if not size or len(size) > 15 or size.strip(b"0123456789abcdefABCDEF"):
                    raise Malformed("a chunk has no size")
                length = int(size, 16)
                self._left, self._last = length + 2 if length else 0, not length
        self.rest = data[at:]
        return found


def end_of_head(raw: bytes) -> int:
    """Where the head ends that these bytes begin with; -1 if it goes on."""
    end = raw.find(b"\r\n\r\n")
    if end < 0 and len(raw) > HEAD_LIMIT:
        raise Malformed("the head is too long")
    return end


def head_of(raw: bytes) -> tuple[int, dict[str, str], bool]:
    """What the head of an answer says: `Line.head`; a status below 200 says that another one follows."""
    ends = raw.count(b"\r\n")
    if raw.count(b"\n") != ends or raw.count(b"\r") != ends or b"\n " in raw or b"\n\t" in raw:
        raise Malformed("a header is malformed")  # a line ends in an unusual way, or goes on in the next
    lines = raw.decode("latin-1").split("\r\n")
    first = lines[0]
    code = first[9:12]
    digits = len(code) == 3 and not code.strip("0123456789")
    if not first.startswith("HTTP/1.") or not digits or first[12:13] not in ("", " "):
        raise Malformed("no status line")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name:
            raise Malformed("a header is malformed")
        name = name.lower()
        value = value.strip(" \t")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    stays = headers.get("connection", "").lower() != "close" and first[7] == "1"
    return int(code), headers, stays


class Reply:
    """An answer: status and headers now, the body once, by its `pieces` or into buffers."""

    __slots__ = ("_unread", "chunked", "headers", "left", "length", "line", "pieces", "status", "stays")

    def __init__(self, line: Line, method: str, head: tuple[int, dict[str, str], bool] | None = None) -> None:
        self.line = line
        self.status, self.headers, self.stays = head or line.head()
        if self.status == 416:
            # Servers that mean to send a reason, and may not, end the connection here without saying so.
            self.stays = False
        self.length: int | None = None
        """Bytes of the body; `None` where only its end will tell."""
        encoding = self.headers.get("transfer-encoding", "identity").lower()
        self.chunked = False
        if method == "HEAD" or self.status in (204, 304):
            self.length = 0
        elif encoding != "identity":
            if encoding != "chunked":
                raise Malformed("an unknown transfer encoding")
            self.chunked = True
        elif "content-length" in self.headers:
            text = self.headers["content-length"]
            if not text or text.strip("0123456789") or len(text) > 18:
                raise Malformed("the length is not a number")
            self.length = int(text)
        else:
            self.stays = False
        self.left = self.length
        """Bytes that were not read by `readinto`."""
        if self.length is not None:
            self.pieces = line.bounded(self.length)
        elif self.chunked:
            self.pieces = line.chunked()
        else:
            self.pieces = line.unbounded()
        self._unread = memoryview(b"")

    def readinto(self, buffer: memoryview) -> int:
        """Some of the body, into a buffer: how many bytes; 0 at the end."""
        if self.left is not None:
            if not self.left or not len(buffer):
                return 0
            count = self.line.into(buffer[: self.left])
            self.left -= count
            return count
        while not len(self._unread):
            piece = next(self.pieces, None)
            if piece is None:
                return 0
            self._unread = memoryview(piece)
        count = min(len(self._unread), len(buffer))
        buffer[:count], self._unread = self._unread[:count], self._unread[count:]
        return count
