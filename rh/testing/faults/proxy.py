"""The proxy: what it listens to, decides, counts and notes."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Self

from rh.errors import InvalidError
from rh.testing.faults.connection import Connection, Pace, reset, thread
from rh.testing.faults.damage import (
    Bandwidth,
    CutNow,
    Damage,
    Direction,
    DropAnswer,
    Due,
    Fault,
    Refuse,
    Repeat,
    Request,
    Status,
    Strike,
    SwallowNow,
    strike,
)
from rh.testing.faults.http_wire import Malformed

__all__ = ["Counts", "FaultProxy", "Injected"]

LOOPBACK = "127.0.0.1"


class Injected(NamedTuple):
    """One fault that happened: to which connection (from 0) or request, and at which byte."""

    fault: Fault
    connection: int
    request: Request | None
    at: int | None


class Counts:
    """What went through a proxy.

    Attributes:
        connections: made by clients.
        requests: by method, as clients sent them (HTTP only).
        sent, received: bytes as clients sent and got them, everything included.
        faults: by the name of their class.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.requests: Counter[str] = Counter()
        self.sent = 0
        self.received = 0
        self.faults: Counter[str] = Counter()


class FaultProxy:
    """A TCP proxy on a free loopback port that injects faults: `with` it, or `start` and `stop` it.

    Args:
        port: of the real server.
        plan: what shall go wrong; may be replaced at any time and holds for what begins afterwards.
        host: of the real server.
        seed: chooses what is drawn.
        http: whether to understand HTTP/1.1.
        rewrite: give the server its own name in `Host`, and clients the proxy's in `Location`. For servers that answer
            with URLs of themselves; breaks signatures that cover `Host`, as S3's do.

    Attributes:
        counts, injected, requests: what went through, which faults happened, and every request (HTTP only).
    """

    def __init__(
        self,
        port: int,
        plan: Sequence[Fault] = (),
        *,
        host: str = LOOPBACK,
        seed: int = 0,
        http: bool = False,
        rewrite: bool = False,
    ) -> None:
        self.upstream = (host, port)
        self.seed = seed
        self.http = http
        self.rewrite = rewrite
        self.port = 0
        self._used: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._open: set[Connection] = set()
        self.reset()
        self.plan = plan

    @property
    def plan(self) -> Sequence[Fault]:
        return self._plan

    @plan.setter
    def plan(self, plan: Sequence[Fault]) -> None:
        for fault in plan:
            if isinstance(fault, (Status, DropAnswer, Repeat)) and not self.http:
                raise InvalidError(f"{type(fault).__name__} needs a proxy with http=True")
        self._plan = tuple(plan)
        self._used.clear()
        self.pace = {
            d: Pace([f for f in plan if isinstance(f, Bandwidth) and f.direction == d]) for d in ("up", "down")
        }

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def endpoint(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def reset(self) -> None:
        """Start counting afresh: counts, faults used up, numbers of connections and requests."""
        with self._lock:
            self.counts = Counts()
            self.injected: list[Injected] = []
            self.requests: list[Request] = []
            self._seen: Counter[tuple[str, str]] = Counter()
            self._used.clear()

    def start(self) -> Self:
        """Listen, on the port of the last time if there was one."""
        if self._listener is not None:
            raise InvalidError("the proxy is running already", where=self.endpoint)
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, self.port))
        listener.listen(512)
        self.port = listener.getsockname()[1]
        self._listener = listener
        thread(self._accept, listener)
        return self

    def stop(self) -> None:
        """Stop listening and reset every connection. May be called twice; `start` goes on where it was."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.drop()

    def drop(self) -> int:
        """Reset every open connection, as a lost link does. Returns how many there were."""
        with self._lock:
            lost = list(self._open)
        for one in lost:
            one.reset()
        return len(lost)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<FaultProxy {self.endpoint} to {self.upstream[0]}:{self.upstream[1]}>"

    # Deciding.

    def hit(self, place: int, fault: Fault, key: str) -> random.Random | None:
        """Whether a fault is to happen to what `key` names; if so, the numbers to draw its details from."""
        rng = random.Random(f"{self.seed}/{place}/{key}")
        return rng if rng.random() < fault.probability else None

    def happens(self, fault: Fault, number: int, request: Request | None, at: int | None) -> bool:
        """Note a fault, unless it happened often enough."""
        with self._lock:
            if fault.times is not None and self._used[id(fault)] >= fault.times:
                return False
            self._used[id(fault)] += 1
            self.counts.faults[type(fault).__name__] += 1
            self.injected.append(Injected(fault, number, request, at))
        return True

    def damage(
        self, direction: Direction, key: str, number: int, request: Request | None, length: int | None
    ) -> Damage:
        due: list[Due] = []
        for place, fault in enumerate(self._plan):
            if not isinstance(fault, Strike) or fault.direction != direction:
                continue
            if fault.match is not None and (request is None or not fault.match(request)):
                continue
            rng = self.hit(place, fault, f"{direction}/{key}")
            found = strike(fault, rng, length) if rng is not None else None
            # A length that was announced has to fit: such a fault happens now or not at all.
            if found and (length is None or self.happens(fault, number, request, found.at)):
                due.append(found)
        if length is not None:
            return Damage(due, lambda _fault, _at: True)
        return Damage(due, lambda fault, at: self.happens(fault, number, request, at))

    def first(self, kind: type[Fault], number: int, request: Request) -> Fault | None:
        """The first fault of a kind that happens to a request."""
        for place, fault in enumerate(self._plan):
            if type(fault) is kind and (fault.match is None or fault.match(request)):
                key = f"{request.method} {request.path} {request.nth}"
                if self.hit(place, fault, key) and self.happens(fault, number, request, None):
                    return fault
        return None

    # Passing on.

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                number = self.counts.connections
                self.counts.connections += 1
            refused = any(
                isinstance(fault, Refuse)
                and self.hit(place, fault, f"{number}")
                and self.happens(fault, number, None, None)
                for place, fault in enumerate(self._plan)
            )
            if refused:
                reset(client)
                continue
            connection = Connection(self, client, number)
            with self._lock:
                self._open.add(connection)
            thread(self._serve, connection)

    def _serve(self, connection: Connection) -> None:
        try:
            if self.http:
                connection.converse()
            else:
                connection.relay()
        except SwallowNow:
            connection.hold()
        except CutNow:
            connection.flush()
            connection.reset()
        except (OSError, Malformed):
            connection.reset()
        finally:
            connection.close()
            with self._lock:
                self._open.discard(connection)
