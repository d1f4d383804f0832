"""Wrappers around systems: retry, limits, logging, counting, faults.

A system does each request once and says what happened. What is done around that is said here, once for all of them::

    system = Limited(Retrying(S3System.open(location, settings)), requests=8, bytes_per_s=50_000_000)

`wrap` puts around a system what every handle from `open_system` has; `unwrap` gives the system itself. Wrappers answer
`ask` for what they wrap: an ability they hand out goes through them.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rh.errors import InvalidError, RhError, UnavailableError
from rh.forks import Lock
from rh.observe import log
from rh.systems.abilities import Item
from rh.systems.base import Body, Bytes, System
from rh.systems.wrap.retry import Retrying
from rh.systems.wrap.wrapper import Flow, Listing, Wrapper, unwrap
from rh.types import Entry, Link

__all__ = ["Bucket", "Counting", "Faulty", "Limited", "Logged", "Retrying", "Wrapper", "unwrap", "wrap"]

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")


def wrap(system: System) -> System:
    """The system as every handle of `open_system` is: with retry."""
    return system if isinstance(system, Wrapper) else Retrying(system)


class _SeenBody(Body):
    """A body whose pieces pass by a function."""

    def __init__(self, body: Body, see: Callable[[Bytes], Bytes]) -> None:
        self.entry = body.entry
        self.undivided = body.undivided
        self._body = body
        self._see = see

    def __iter__(self) -> Iterator[Bytes]:
        return map(self._see, self._body)

    def close(self) -> None:
        self._body.close()


def _passing(data: Bytes | Iterable[Bytes] | Link, see: Callable[[Bytes], Bytes]) -> Bytes | Iterable[Bytes] | Link:
    """Data whose pieces pass by a function when they are taken."""
    if isinstance(data, Link):
        return data
    if isinstance(data, (bytes, bytearray, memoryview)):
        return see(data)
    return map(see, data)


def _size(thing: Any) -> int:
    """Bytes in an item of `write_many`, or in an outcome of `read_many`."""
    if isinstance(thing, Item):
        return 0 if isinstance(thing.data, Link) else len(thing.data)
    if isinstance(thing, tuple) and len(thing) == 2 and isinstance(thing[1], bytes):
        return len(thing[1])
    return 0


class Bucket:
    """A token bucket: `take` waits until so many bytes may pass. A second's worth may pass at once."""

    def __init__(self, bytes_per_s: float) -> None:
        if bytes_per_s <= 0:
            raise InvalidError("a bandwidth limit must be more than nothing", where=f"{bytes_per_s} bytes/s")
        self.bytes_per_s = bytes_per_s
        self._lock = Lock()
        self._free_at = time.monotonic() - 1.0

    def take(self, size: int) -> None:
        """Wait for room for `size` bytes."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - 1.0) + size / self.bytes_per_s
            wait = self._free_at - now
        if wait > 0:
            time.sleep(wait)


class Limited(Wrapper):
    """A system of which no more is asked than this.

    Args:
        requests: so many single verbs at once. Listings and streams of items, which last as long as their reader
            takes, are not counted: what they ask for at once is the system's own `workers`.
        bytes_per_s: payload in both directions together.
    """

    def __init__(self, inner: System, *, requests: int | None = None, bytes_per_s: float | None = None) -> None:
        super().__init__(inner)
        if requests is not None and requests < 1:
            raise InvalidError("at least one request at once must be allowed", where=inner.url())
        self._requests = requests
        self._slots = threading.BoundedSemaphore(requests) if requests else None
        self._bucket = Bucket(bytes_per_s) if bytes_per_s else None
        self._pid = os.getpid()

    def call(self, verb: str, key: str, work: Callable[[], T]) -> T:  # noqa: ARG002
        if self._requests is None or verb == "list":
            return work()
        if self._pid != os.getpid():
            self._slots, self._pid = threading.BoundedSemaphore(self._requests), os.getpid()
        assert self._slots is not None
        with self._slots:
            return work()

    def _see(self, piece: Bytes) -> Bytes:
        if self._bucket is not None:
            self._bucket.take(len(piece))
        return piece

    def body(self, key: str, body: Body) -> Body:  # noqa: ARG002
        return body if self._bucket is None else _SeenBody(body, self._see)

    def data(self, key: str, data: Bytes | Iterable[Bytes] | Link) -> Bytes | Iterable[Bytes] | Link:  # noqa: ARG002
        return data if self._bucket is None else _passing(data, self._see)

    def many(self, flow: Flow[In, Out], items: Iterable[In]) -> Iterator[Out]:
        bucket = self._bucket
        if bucket is None:
            return flow.work(items)

        def taking(stream: Iterable[T]) -> Iterator[T]:
            for one in stream:
                size = _size(one)
                if size:
                    bucket.take(size)
                yield one

        return taking(flow.work(taking(items)))


class Logged(Wrapper):
    """A system whose every request is a line at DEBUG on the logger `rh`: verb, place, milliseconds, result."""

    def call(self, verb: str, key: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        try:
            done = work()
        except RhError as error:
            self._line(verb, key, started, error.kind)
            raise
        self._line(verb, key, started, f"{done.size} bytes" if isinstance(done, Entry) else "ok")
        return done

    def _line(self, verb: str, key: str, started: float, result: str) -> None:
        log.debug("%s %s %.1f ms %s", verb, self.url(key), (time.perf_counter() - started) * 1000, result)

    def many(self, flow: Flow[In, Out], items: Iterable[In]) -> Iterator[Out]:
        started, done, failed = time.perf_counter(), 0, 0
        try:
            for outcome in flow.work(items):
                done += 1
                error = flow.error(outcome)
                if error is not None:
                    failed += 1
                    kind = error.kind if isinstance(error, RhError) else type(error).__name__
                    log.debug("%s %s failed: %s", flow.verb, self.url(flow.outcome(outcome)), kind)
                yield outcome
        finally:
            self._line(flow.verb, "", started, f"{done} items, {failed} failed")


class Counting(Wrapper):
    """A system that counts what it is asked: `calls` by verb (`many` verbs by item), `sent` and `received` in bytes."""

    def __init__(self, inner: System) -> None:
        super().__init__(inner)
        self._lock = Lock()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    @property
    def sent(self) -> int:
        return self.bytes["sent"]

    @property
    def received(self) -> int:
        return self.bytes["received"]

    def _add(self, counter: Counter[str], name: str, amount: int) -> None:
        with self._lock:
            counter[name] += amount

    def call(self, verb: str, key: str, work: Callable[[], T]) -> T:  # noqa: ARG002
        self._add(self.calls, verb, 1)
        return work()

    def body(self, key: str, body: Body) -> Body:  # noqa: ARG002
        def see(piece: Bytes) -> Bytes:
            self._add(self.bytes, "received", len(piece))
            return piece

        return _SeenBody(body, see)

    def data(self, key: str, data: Bytes | Iterable[Bytes] | Link) -> Bytes | Iterable[Bytes] | Link:  # noqa: ARG002
        def see(piece: Bytes) -> Bytes:
            self._add(self.bytes, "sent", len(piece))
            return piece

        return _passing(data, see)

    def many(self, flow: Flow[In, Out], items: Iterable[In]) -> Iterator[Out]:
        def going(stream: Iterable[In]) -> Iterator[In]:
            for item in stream:
                self._add(self.calls, flow.verb, 1)
                self._add(self.bytes, "sent", _size(item))
                yield item

        for outcome in flow.work(going(items)):
            self._add(self.bytes, "received", _size(outcome))
            yield outcome


class Faulty(Wrapper):
    """A system on a bad wire, for tests: the same faults for the same seed, as long as one thread asks.

    Args:
        errors: probability that a request fails before it is sent.
        lost: probability that a request is done, but its answer is lost.
        flips, truncations, duplicates: probability that a body, or the data of a write, has one bit flipped, loses
            its end, or has a block twice; nobody is told.
        delay_s: requests wait up to so long first.
        verbs: leave other verbs alone.
        limit: after so many faults, behave.

    `injected` counts the faults by name.
    """

    def __init__(
        self,
        inner: System,
        *,
        seed: int = 0,
        errors: float = 0.0,
        lost: float = 0.0,
        flips: float = 0.0,
        truncations: float = 0.0,
        duplicates: float = 0.0,
        delay_s: float = 0.0,
        verbs: Iterable[str] | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(inner)
        self._random = random.Random(seed)  # noqa: S311  (faults, not secrets)
        self._chances = {
            "error": errors,
            "lost": lost,
            "flip": flips,
            "truncation": truncations,
            "duplicate": duplicates,
        }
        self._delay_s = delay_s
        self._verbs = None if verbs is None else frozenset(verbs)
        self._limit = limit
        self._lock = Lock()
        self.injected: Counter[str] = Counter()

    def _strikes(self, fault: str, verb: str) -> bool:
        if self._verbs is not None and verb not in self._verbs:
            return False
        with self._lock:
            if self._limit is not None and self.injected.total() >= self._limit:
                return False
            if self._random.random() >= self._chances[fault]:
                return False
            self.injected[fault] += 1
            return True

    def _fail(self, verb: str, key: str, how: str) -> UnavailableError:
        return UnavailableError(f"injected: {verb} {how}", where=self.url(key))

    def call(self, verb: str, key: str, work: Callable[[], T]) -> T:
        if self._delay_s and (self._verbs is None or verb in self._verbs):
            time.sleep(self._random.random() * self._delay_s)
        if self._strikes("error", verb):
            raise self._fail(verb, key, "was not sent")
        done = work()
        if self._strikes("lost", verb):
            if isinstance(done, Body):
                done.close()
            raise self._fail(verb, key, "was done, its answer lost")
        return done

    def _damage(self, data: bytes, verb: str) -> bytes:
        """The bytes as they arrive."""
        for fault in ("flip", "truncation", "duplicate"):
            if data and self._strikes(fault, verb):
                at = self._random.randrange(len(data))
                if fault == "flip":
                    data = data[:at] + bytes([data[at] ^ 1 << self._random.randrange(8)]) + data[at + 1 :]
                elif fault == "truncation":
                    data = data[:at]
                else:
                    block = data[at : at + 4096]
                    data = data[:at] + block + data[at:]
        return data

    def _breaking(self, pieces: Iterable[Bytes], verb: str, key: str) -> Iterator[Bytes]:
        """A stream in which one piece may be damaged, or which may break off between two."""
        for number, piece in enumerate(pieces):
            if number and self._strikes("error", verb):
                raise self._fail(verb, key, "broke off")
            yield self._damage(bytes(piece), verb)

    def listing(self, verb: str, listing: Listing[T], prefix: str, after: str) -> Iterator[T]:
        found = super().listing(verb, listing, prefix, after)

        def breaking() -> Iterator[T]:
            for number, one in enumerate(found):
                if (number % 100 == 99 or not isinstance(one, Entry)) and self._strikes("error", "list"):
                    raise self._fail("list", listing.last(one), "broke off")
                yield one

        return breaking()

    def body(self, key: str, body: Body) -> Body:
        return _FaultyBody(body, self._breaking(body, "read", key))

    def data(self, key: str, data: Bytes | Iterable[Bytes] | Link) -> Bytes | Iterable[Bytes] | Link:  # noqa: ARG002
        return _passing(data, lambda piece: self._damage(bytes(piece), "write"))

    def many(self, flow: Flow[In, Out], items: Iterable[In]) -> Iterator[Out]:
        stopped: list[Out] = []

        def going(stream: Iterable[In]) -> Iterator[In]:
            for item in stream:
                if self._strikes("error", flow.verb):
                    stopped.append(flow.failed(item, self._fail(flow.verb, flow.item(item), "was not sent")))
                    continue
                if isinstance(item, Item) and not isinstance(item.data, Link):
                    damaged: Any = item._replace(data=self._damage(bytes(item.data), "write"))
                    yield damaged
                else:
                    yield item

        waiting: dict[str, list[In]] = {}

        def remembered(stream: Iterable[In]) -> Iterator[In]:
            for item in stream:
                waiting.setdefault(flow.item(item), []).append(item)
                yield item

        for outcome in flow.work(remembered(going(items))):
            key = flow.outcome(outcome)
            asked = waiting.get(key)
            item = asked.pop(0) if asked else None
            if asked == []:
                del waiting[key]
            if item is not None and self._strikes("lost", flow.verb):
                yield flow.failed(item, self._fail(flow.verb, key, "was done, its answer lost"))
            elif isinstance(outcome, tuple) and len(outcome) == 2 and isinstance(outcome[1], bytes):
                damaged: Any = (outcome[0], self._damage(outcome[1], "read"))
                yield damaged
            else:
                yield outcome
            while stopped:
                yield stopped.pop()
        yield from stopped


class _FaultyBody(Body):
    def __init__(self, body: Body, pieces: Iterator[Bytes]) -> None:
        self.entry = body.entry
        self.undivided = body.undivided
        self._body = body
        self._pieces = pieces

    def __iter__(self) -> Iterator[Bytes]:
        return self._pieces

    def close(self) -> None:
        self._body.close()
