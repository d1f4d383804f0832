"""One connection through the proxy, of any protocol or of HTTP/1.1."""

from __future__ import annotations

import queue
import select
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from rh.testing.faults.damage import (
    MUTATING,
    Bandwidth,
    CutNow,
    Damage,
    Delay,
    DropAnswer,
    Repeat,
    Request,
    Status,
    SwallowNow,
)
from rh.testing.faults.http_wire import Head, Malformed, Reader

if TYPE_CHECKING:
    from rh.testing.faults.proxy import FaultProxy

__all__ = ["Connection", "Pace", "reset", "thread"]

PIECE = 1 << 18
_SPOOL = 8 << 20


class Pace:
    """How fast one direction may go."""

    def __init__(self, faults: Sequence[Bandwidth]) -> None:
        self._rate = min((fault.bytes_per_s for fault in faults), default=0.0)
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, size: int) -> None:
        if not self._rate:
            return
        with self._lock:
            begin = max(self._free_at, time.monotonic())
            self._free_at = begin + size / self._rate
        time.sleep(max(0.0, self._free_at - time.monotonic()))


class Lane:
    """One direction of one connection: sends at once, or later and in order where there is a delay."""

    def __init__(
        self, target: socket.socket, pace: Pace, note: Callable[[int], None], delay_s: float, first_s: float
    ) -> None:
        self._target, self._pace, self._note = target, pace, note
        self._delay_s, self._not_before = delay_s, time.monotonic() + first_s
        self._queue: queue.Queue[tuple[float, bytes]] | None = queue.Queue(256) if delay_s else None
        self._error: OSError | None = None
        self._thread = thread(self._drain) if self._queue is not None else None

    def send(self, data: bytes | memoryview) -> None:
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            self._pace.wait(len(piece))
            if self._queue is None:
                self._target.sendall(piece)
                self._note(len(piece))
            elif self._error is not None:
                raise self._error
            else:
                self._queue.put((max(time.monotonic() + self._delay_s, self._not_before), bytes(piece)))

    def _drain(self) -> None:
        assert self._queue is not None
        while True:
            due, data = self._queue.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                return
            if self._error is None:
                try:
                    self._target.sendall(data)
                    self._note(len(data))
                except OSError as error:
                    self._error = error

    def flush(self) -> None:
        """Wait until everything is sent."""
        if self._queue is not None and self._thread is not None and self._thread.is_alive():
            self._queue.put((time.monotonic() + self._delay_s, b""))
            self._thread.join()


class Connection:
    """One client's connection and what belongs to it."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, number: int) -> None:
        self.proxy, self.client, self.number = proxy, client, number
        self.server: socket.socket | None = None
        with suppress(OSError):  # it may be gone already
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        delays = [
            fault
            for place, fault in enumerate(proxy.plan)
            if isinstance(fault, Delay) and proxy.hit(place, fault, f"{number}")
        ]
        self._delay_s = sum(fault.each_way_s for fault in delays if proxy.happens(fault, number, None, None))
        self._down = Lane(client, proxy.pace["down"], self._received, self._delay_s, 0.0)
        self._up: Lane | None = None
        self._reader: Reader | None = None
        self._held = threading.Event()

    def _sent(self, size: int) -> None:
        with self.proxy._lock:
            self.proxy.counts.sent += size

    def _received(self, size: int) -> None:
        with self.proxy._lock:
            self.proxy.counts.received += size

    def _connect(self) -> tuple[socket.socket, Lane]:
        """The connection to the server, a new one if there is none or it was closed from there."""
        if self.server is not None and self._up is not None and not _ended(self.server):
            return self.server, self._up
        first_s = 3 * self._delay_s if self.server is None else 0.0
        self._disconnect()
        self.server = socket.create_connection(self.proxy.upstream, 30)
        self.server.settimeout(None)
        self.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._up = Lane(self.server, self.proxy.pace["up"], self._sent, self._delay_s, first_s)
        self._reader = Reader(self.server)
        return self.server, self._up

    def _disconnect(self) -> None:
        if self._up is not None:
            self._up.flush()
        if self._reader is not None:
            self._reader.close()
        if self.server is not None:
            self.server.close()
        self.server, self._up, self._reader = None, None, None

    def reset(self) -> None:
        """End both sides with RST."""
        # Whoever wakes up from its end must not pass that on as an end in order.
        self._held.set()
        reset(self.client)
        if self.server is not None:
            reset(self.server)

    def flush(self) -> None:
        """Wait until what is on its way to the client has been sent."""
        with suppress(OSError):
            self._down.flush()

    def hold(self, *, half_closed: bool = False) -> None:
        """Keep the connection open and pass nothing until the proxy stops, or the client (unless half closed) goes."""
        while self.proxy._listener is not None and self.client.fileno() >= 0:
            if not half_closed and _ended(self.client, discard=True):
                break
            time.sleep(0.02)
        self.reset()

    def close(self) -> None:
        self.flush()
        with suppress(OSError):
            self._disconnect()
        with suppress(OSError):
            self.client.shutdown(socket.SHUT_RDWR)
        self.client.close()

    # Any protocol.

    def relay(self) -> None:
        server, up = self._connect()
        damage = {
            direction: self.proxy.damage(direction, f"{self.number}", self.number, None, None)
            for direction in ("up", "down")
        }
        back = thread(self._pump, server, self.client, self._down, damage["down"])
        self._pump(self.client, server, up, damage["up"])
        back.join()
        if self._held.is_set():
            self.hold(half_closed=True)

    def _pump(self, source: socket.socket, target: socket.socket, lane: Lane, damage: Damage) -> None:
        """Pass on what comes from one side until it closes."""
        passing = True
        try:
            while data := source.recv(PIECE):
                if not passing or self._held.is_set():
                    continue
                try:
                    for piece in damage.feed(data):
                        lane.send(piece)
                except SwallowNow:
                    self._held.set()
                    continue
                if damage.ended:
                    lane.flush()
                    target.shutdown(socket.SHUT_WR)
                    passing = False
            if passing and not self._held.is_set():
                lane.flush()
                target.shutdown(socket.SHUT_WR)
        except (CutNow, OSError):
            self.reset()

    # HTTP.

    def converse(self) -> None:
        source = Reader(self.client)
        try:
            while (head := source.head()) is not None and self._exchange(source, head):
                continue
        finally:
            source.close()

    def _exchange(self, source: Reader, head: Head) -> bool:
        """One request and its answer; whether the connection goes on."""
        request = self._request(head)
        last = head.get("Connection").lower() == "close" or head.first.endswith(b"HTTP/1.0")
        length = None if head.chunked else head.length() or 0
        body = source.chunks() if head.chunked else source.sized(length or 0)
        fault = self.proxy.first(Status, self.number, request)
        if isinstance(fault, Status):
            waits = "100-continue" in head.get("Expect").lower()
            for piece in body if not waits else ():
                self._sent(len(piece))
            self._down.send(_error(fault, head=request.method == "HEAD", close=last or waits))
            return not (last or waits)
        if "100-continue" in head.get("Expect").lower():
            head.set("Expect", None)
            self._down.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        repeat = self.proxy.first(Repeat, self.number, request) if request.method in MUTATING else None
        with tempfile.SpooledTemporaryFile(_SPOOL) as copy:
            self._forward(head, body, length, request, copy if repeat is not None else None)
            answer, reader = self._answer()
            if isinstance(repeat, Repeat):
                first = b"".join(_body(answer, reader, request))
                if answer.get("Connection").lower() == "close":
                    self._disconnect()
                self._again(head, copy)
                other, reader = self._answer()
                if repeat.answer == "first":
                    for _ in _body(other, reader, request):
                        continue
                    answer.set("Transfer-Encoding", None)
                    if request.method != "HEAD" and not _bodiless(answer):
                        answer.set("Content-Length", str(len(first)))
                    return self._back(answer, iter([first] if first else []), request, last=last)
                answer = other
            return self._back(answer, _body(answer, reader, request), request, last=last)

    def _request(self, head: Head) -> Request:
        words = head.first.split(b" ")
        if len(words) != 3:
            raise Malformed(f"not a request: {head.first[:80]!r}")
        method, target = words[0].decode("latin-1"), words[1].decode("latin-1")
        path, _, query = target.partition("?")
        proxy = self.proxy
        with proxy._lock:
            request = Request(method, path, query, head.mapping(), proxy._seen[method, path])
            proxy._seen[method, path] += 1
            proxy.counts.requests[method] += 1
            proxy.requests.append(request)
        return request

    def _forward(
        self, head: Head, body: Iterator[bytes], length: int | None, request: Request, copy: IO[bytes] | None
    ) -> None:
        key = f"{request.method} {request.path} {request.nth}"
        damage = self.proxy.damage("up", key, self.number, request, length)
        if length:
            head.set("Content-Length", str(damage.length(length)))
        if self.proxy.rewrite:
            head.set("Host", f"{self.proxy.upstream[0]}:{self.proxy.upstream[1]}")
        _, lane = self._connect()
        pieces = _framed(_through(damage, body), chunked=head.chunked)
        try:
            lane.send(head.encode())
            for piece in pieces:
                if copy is not None:
                    copy.write(piece)
                lane.send(piece)
        except (BrokenPipeError, ConnectionResetError):
            # The server may have answered before it read everything: its answer counts. The client sends on regardless.
            for _ in pieces:
                continue

    def _again(self, head: Head, copy: IO[bytes]) -> None:
        """Send a request a second time."""
        _, lane = self._connect()
        copy.seek(0)
        lane.send(head.encode())
        while piece := copy.read(PIECE):
            lane.send(piece)

    def _answer(self) -> tuple[Head, Reader]:
        """The head of the server's answer, and where its body comes from."""
        reader = self._reader
        if reader is None:
            raise Malformed("no connection to the server")
        while True:
            head = reader.head()
            if head is None:
                raise Malformed("the server closed the connection instead of answering")
            if not 100 <= _status(head) < 200:
                return head, reader

    def _back(self, head: Head, body: Iterator[bytes], request: Request, *, last: bool) -> bool:
        """Hand the answer to the client; whether the connection goes on."""
        if 200 <= _status(head) < 300 and self.proxy.first(DropAnswer, self.number, request):
            for _ in body:
                continue
            raise CutNow
        empty = request.method == "HEAD" or _bodiless(head)
        length = None if head.chunked else head.length()
        open_ended = not empty and not head.chunked and length is None
        key = f"{request.method} {request.path} {request.nth}"
        damage = self.proxy.damage("down", key, self.number, request, 0 if empty else length)
        if length and not empty:
            head.set("Content-Length", str(damage.length(length)))
        if self.proxy.rewrite and (place := head.get("Location")):
            mine = f"{self.proxy.upstream[0]}:{self.proxy.upstream[1]}"
            head.set("Location", place.replace(mine, self.proxy.endpoint))
        closing = last or open_ended or head.get("Connection").lower() == "close"
        self._down.send(head.encode())
        for piece in _framed(_through(damage, body), chunked=head.chunked and not empty):
            self._down.send(piece)
        return not closing


def _status(head: Head) -> int:
    word = head.first.split(b" ")[1:2]
    if not word or not word[0].isdigit():
        raise Malformed(f"not an answer: {head.first[:80]!r}")
    return int(word[0])


def _bodiless(head: Head) -> bool:
    return _status(head) in (204, 304)


def _body(head: Head, reader: Reader, request: Request) -> Iterator[bytes]:
    if request.method == "HEAD" or _bodiless(head):
        return iter(())
    if head.chunked:
        return reader.chunks()
    length = head.length()
    return reader.rest() if length is None else reader.sized(length)


def _through(damage: Damage, body: Iterable[bytes]) -> Iterator[bytes | memoryview]:
    for data in body:
        yield from damage.feed(data)


def _framed(pieces: Iterable[bytes | memoryview], *, chunked: bool) -> Iterator[bytes | memoryview]:
    for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), bytes(piece)) if chunked and piece else piece
    if chunked:
        yield b"0\r\n\r\n"


def _error(fault: Status, *, head: bool, close: bool) -> bytes:
    lines = [f"HTTP/1.1 {fault.code} Injected", f"Content-Length: {len(fault.body)}"]
    lines += [f"{key}: {value}" for key, value in fault.headers.items()]
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if head else fault.body)


def thread(target: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, name="rh-faults", daemon=True)
    thread.start()
    return thread


def reset(one: socket.socket) -> None:
    """End a connection with RST instead of FIN."""
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        # A thread that waits in recv keeps the descriptor busy: closing alone would send nothing until it returns.
        one.shutdown(socket.SHUT_RD)
    one.close()


def _ended(one: socket.socket, *, discard: bool = False) -> bool:
    """Whether the other side has closed a connection (or sent something nobody asked for)."""
    try:
        if not select.select([one], [], [], 0)[0]:
            return False
        data = one.recv(PIECE) if discard else b""
    except (OSError, ValueError):
        return True
    return not data
