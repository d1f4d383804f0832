"""Many small requests at once, on one thread: each connection has one under way, and what is answered first is next.

Threads of one interpreter take turns. Sixteen of them spend half as much processor time again on waking each other as
on the requests (150 µs for an object of 4 KiB; 107 here), and the interpreter is the bottleneck of small objects. Only
connections are made by threads: that takes long over a network, and a moment of processor time.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

from rh.errors import IntegrityError, RhError
from rh.forks import Lock
from rh.systems.base import Bytes
from rh.systems.far.http1 import Chunks, Ended, Line, Malformed, Reply, end_of_head, head_of
from rh.systems.objects.http import ANSWER_LIMIT, Pool

__all__ = ["Call", "Response", "together"]

T = TypeVar("T")

_AT_ONCE = 1 << 16
_LOOK_S = 1.0
"""How often it is looked who has waited for too long; as long, nobody dials where one could not be reached."""
_FRESH_S = 0.001
"""A connection that was idle for longer is looked at before it is used again."""
_LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Call(NamedTuple):
    """A request: its body is in memory, and so will be that of its answer.

    `limit`: a longer body of a success is not read, and its connection dropped.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: Bytes
    where: str
    limit: int

    def __repr__(self) -> str:
        return f"<Call {self.method} {self.where}>"  # target and headers may hold secrets


class Response(NamedTuple):
    """What was answered; `data` is `None` where it is longer than anybody wants."""

    status: int
    headers: Mapping[str, str]
    data: bytes | None


def together(
    pool: Pool, calls: Iterator[tuple[T, Call | RhError]], *, workers: int
) -> Iterator[tuple[T, Response | RhError]]:
    """Send each of these, at most `workers` at once, each once; what they are, with their answers, as these come.

    Calls are taken as room is. What is an error already is handed on. Where `calls` itself fails, what was begun is
    answered first.
    """
    crowd = _Crowd[T](pool, workers)
    try:
        yield from crowd.run(calls)
    finally:
        crowd.end()


class _Flight(Generic[T]):
    """A request under way on a connection."""

    __slots__ = ("broken", "call", "chunks", "got", "left", "limit", "line", "parts", "reply", "since", "tag", "unsent")

    def __init__(self, line: Line, tag: T, call: Call, unsent: memoryview) -> None:
        self.line = line
        self.tag = tag
        self.call = call
        self.unsent = unsent
        self.broken = False
        """Whether the connection is of no more use when the answer is there."""
        self.since = time.monotonic()
        self.got = b""
        """Of the head, as long as it is not whole."""
        self.reply: Reply | None = None
        self.chunks: Chunks | None = None
        self.parts: list[bytes] = []
        self.left: int | None = 0
        self.limit = 0

    def send(self) -> bool:
        """Send on; whether all is on its way."""
        while self.unsent:
            try:
                sent = self.line.sock.send(self.unsent)
            except _LATER:
                return False
            except OSError:
                # A refusal may stand in the buffer already: it says more than the broken pipe.
                self.broken, sent = True, len(self.unsent)
            self.unsent = self.unsent[sent:]
        return True

    def take(self, data: bytes) -> Response | None:
        """Some bytes of the answer, none at the end of the connection; the answer once it is whole."""
        reply = self.reply
        if reply is None:
            if not data:
                raise Ended
            raw = self.got + data if self.got else data
            while True:
                end = end_of_head(raw)
                if end < 0:
                    self.got = raw
                    return None
                head = head_of(raw[:end])
                data = raw = raw[end + 4 :]
                if head[0] >= 200:
                    break
            reply = self._begun(head)
            if reply.length is not None and reply.length > self.limit:
                return self._too_long(reply)
        elif not data:
            if self.chunks is not None or self.left is not None:
                raise Ended
            return Response(reply.status, reply.headers, b"".join(self.parts))
        if self.chunks is not None:
            self.parts += self.chunks.feed(data)
            whole = self.chunks.over
            self.broken |= bool(whole and self.chunks.rest)
        else:
            if self.left is not None:
                self.broken |= len(data) > self.left  # it talks out of turn
                data = data[: self.left]
                self.left -= len(data)
            self.parts.append(data)
            whole = self.left == 0
        if reply.length is None and sum(map(len, self.parts)) > self.limit:
            return self._too_long(reply)
        if not whole:
            return None
        return Response(reply.status, reply.headers, self.parts[0] if len(self.parts) == 1 else b"".join(self.parts))

    def _begun(self, head: tuple[int, dict[str, str], bool]) -> Reply:
        self.reply = reply = Reply(self.line, self.call.method, head)
        self.limit = self.call.limit if 200 <= reply.status < 300 else ANSWER_LIMIT
        self.broken |= not reply.stays
        self.left = reply.length
        if reply.chunked:
            self.chunks = Chunks()
        return reply

    def _too_long(self, reply: Reply) -> Response:
        self.broken = True
        if not 200 <= reply.status < 300:
            raise IntegrityError("the answer is longer than any should be", where=self.call.where)
        return Response(reply.status, reply.headers, None)


class _Crowd(Generic[T]):
    """Connections, and what is under way on them."""

    def __init__(self, pool: Pool, workers: int) -> None:
        self._pool = pool
        self._workers = workers
        self._waiting: deque[tuple[T, Call]] = deque()
        self._flights: dict[int, _Flight[T]] = {}
        self._free: dict[int, Line] = {}
        self._done: deque[tuple[T, Response | RhError]] = deque()
        self._poll = select.poll()
        self._scratch = memoryview(bytearray(_AT_ONCE))
        self._looked = time.monotonic()
        self._more = True
        self._failure: Exception | None = None
        self._lock = Lock()
        self._over = False
        self._dialling = 0
        self._dial_from = 0.0
        self._refusals: list[Exception] = []
        """Why connections could not be made, while others of the same moment still may be."""
        self._dialled: deque[Line | Exception] = deque()
        self._bell: tuple[socket.socket, socket.socket] | None = None

    def run(self, calls: Iterator[tuple[T, Call | RhError]]) -> Iterator[tuple[T, Response | RhError]]:
        """`together`."""
        self._begin(calls)
        while self._waiting or self._flights or self._done or self._more:
            for fileno, events in self._poll.poll(0 if self._done else _LOOK_S * 1000):
                self._look(fileno, events)
                # The other side is not to wait while somebody deals with its answer.
                self._begin(calls)
                while self._done:
                    yield self._done.popleft()
            self._look_for_late()
            self._begin(calls)
            while self._done:
                yield self._done.popleft()
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Give back the connections that are in order, and drop the others."""
        with self._lock:
            self._over = True
        for flight in self._flights.values():
            flight.line.close()
        for line in self._free.values():
            line.wait(patient=True)
            self._pool.give(line)
        for made in self._dialled:
            if isinstance(made, Line):
                self._pool.give(made)
        for bell in self._bell or ():
            bell.close()

    def _begin(self, calls: Iterator[tuple[T, Call | RhError]]) -> None:
        """Take what there is room for and begin it, as far as there are connections; make more if there are too few."""
        while self._more and max(len(self._waiting) + len(self._flights), len(self._done)) < self._workers:
            try:
                given = next(calls, None)
            except Exception as error:  # noqa: BLE001 - raised when what was begun is answered
                given, self._failure = None, error
            if given is None:
                self._more = False
            elif isinstance(given[1], RhError):
                self._done.append((given[0], given[1]))
            else:
                self._waiting.append((given[0], given[1]))
                self._start()
        self._start()
        there = len(self._flights) + len(self._free)
        if self._waiting and not self._refusals and (not there or time.monotonic() > self._dial_from):
            for _ in range(min(len(self._waiting), self._workers - there) - self._dialling):
                self._dial()

    def _start(self) -> None:
        """Begin what waits, as far as there are connections."""
        while self._waiting:
            if self._free:
                fileno, line = self._free.popitem()
                if time.monotonic() - line.used > _FRESH_S and line.dropped():
                    self._drop(fileno, line)
                    continue
            else:
                found = self._pool.take() if len(self._flights) + self._dialling < self._workers else None
                if found is None:
                    return
                fileno, line = self._add(found), found
            tag, call = self._waiting.popleft()
            head = self._pool.head(call.method, call.target, call.headers, len(call.body))
            flight = _Flight(line, tag, call, memoryview(head + call.body if call.body else head))
            self._flights[fileno] = flight
            if not flight.send():
                self._poll.modify(fileno, select.POLLIN | select.POLLOUT)

    # Connections

    def _add(self, line: Line) -> int:
        line.wait(patient=False)
        fileno = line.sock.fileno()
        self._poll.register(fileno, select.POLLIN)
        return fileno

    def _drop(self, fileno: int, line: Line) -> None:
        self._poll.unregister(fileno)
        line.close()

    def _dial(self) -> None:
        if self._bell is None:
            self._bell = socket.socketpair()
            self._poll.register(self._bell[0].fileno(), select.POLLIN)
        self._dialling += 1

        def connect() -> None:
            made: Line | Exception
            try:
                made = self._pool.connect()
            except Exception as error:  # noqa: BLE001 - handed to whoever waits for the connection
                made = error
            self._ring(made)

        try:
            threading.Thread(target=connect, name="rh-connect", daemon=True).start()
        except RuntimeError as error:
            self._ring(OSError(str(error)))

    def _ring(self, made: Line | Exception) -> None:
        with self._lock:
            if not self._over and self._bell is not None:
                self._dialled.append(made)
                self._bell[1].send(b"!")
            elif isinstance(made, Line):
                self._pool.give(made)

    def _dialled_up(self) -> None:
        """Take over the connections that were made; who waits for one that could not be made has failed."""
        assert self._bell is not None
        self._bell[0].recv(4096)
        while self._dialled:
            made = self._dialled.popleft()
            self._dialling -= 1
            if isinstance(made, Line):
                self._free[self._add(made)] = made
            else:
                self._refusals.append(made)
        if self._refusals and (self._flights or self._free):
            self._refusals.clear()
            self._dial_from = time.monotonic() + _LOOK_S  # there are connections, if not so many
        elif not self._dialling:
            for error in self._refusals[: len(self._waiting)]:
                tag, call = self._waiting.popleft()
                self._done.append((tag, self._error(error, call, begun=False)))
            self._refusals.clear()

    # Answers

    def _look(self, fileno: int, events: int) -> None:
        """Go on with what something happened to."""
        flight = self._flights.get(fileno)
        if flight is not None:
            self._go_on(fileno, flight, events)
        elif fileno not in self._free:
            self._dialled_up()
        elif self._free[fileno].dropped():
            self._drop(fileno, self._free.pop(fileno))  # closed by the other side, or talking out of turn

    def _look_for_late(self) -> None:
        now = time.monotonic()
        if now - self._looked <= _LOOK_S:
            return
        self._looked = now
        late = [one for one in self._flights.items() if now - one[1].since > self._pool.timeout_s]
        if late:
            # Whoever was busy elsewhere for long finds answers that came in time.
            ready = {fileno for fileno, _ in self._poll.poll(0)}
            for fileno, flight in late:
                if fileno not in ready:
                    self._failed(fileno, flight, TimeoutError())

    def _go_on(self, fileno: int, flight: _Flight[T], events: int) -> None:
        """Send or receive on."""
        sock, answer = flight.line.sock, None
        try:
            if flight.unsent and events & select.POLLOUT and flight.send():
                self._poll.modify(fileno, select.POLLIN)
            while answer is None:
                count = sock.recv_into(self._scratch)
                answer = flight.take(bytes(self._scratch[:count]))
        except _LATER:
            flight.since = time.monotonic()
            return
        except (OSError, Malformed, Ended, RhError) as error:
            self._failed(fileno, flight, error)
            return
        del self._flights[fileno]
        if flight.broken or flight.unsent:
            self._drop(fileno, flight.line)
        else:
            flight.line.used = time.monotonic()
            self._free[fileno] = flight.line
        self._done.append((flight.tag, answer))

    def _failed(self, fileno: int, flight: _Flight[T], error: Exception) -> None:
        del self._flights[fileno]
        self._drop(fileno, flight.line)
        self._done.append((flight.tag, self._error(error, flight.call, begun=True)))

    def _error(self, error: Exception, call: Call, *, begun: bool) -> RhError:
        return error if isinstance(error, RhError) else self._pool.failure(error, call.where, begun=begun)
