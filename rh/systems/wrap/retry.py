"""Trying again, in the one place where that is decided.

Only what says that it is `retryable` is tried again; anything else costs exactly one request. There is a number of
tries (`retries` of the settings, after the first), and a budget in seconds (`retry_s`, by default `timeout_s`) from the
first failure on. stamina keeps the time between tries: `wait_s`, doubled each time, with jitter; or what the other side
asks for, if that is left of the budget.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any, TypeVar

from rh.errors import (
    ConflictError,
    DeadlineError,
    ExistsError,
    IntegrityError,
    NotFoundError,
    RhError,
)
from rh.observe import log
from rh.systems.base import Body, Bytes, System
from rh.systems.wrap.wrapper import Flow, Listing, Wrapper
from rh.types import ANY, Condition, Entry, Link, Match, Span

__all__ = ["Retrying"]

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")

_LONGEST_WAIT = 2.0
_IN_A_ROW = 4


class Retrying(Wrapper):
    """A system whose passing failures are tried again.

    * A listing goes on after the last key it gave.
    * A body that breaks goes on where it broke, by range, if its etag still stands. What `IntegrityError` says is
      wrong is never glued together: it is read again as a whole, or raised.
    * A one-shot stream can be sent again only as long as nothing was taken from it.
    * A conditional write that is refused after an answer was lost may have been refused because of itself: what is
      there is read back, and if it is what we sent, the write was ours (content that names its writer makes it exact).
    * Of a stream of items, those that failed for the moment are asked for again, the others are not. A place that
      answers nothing for the whole budget, or as often as it was to be tried, ends the stream with its last error.
    """

    def __init__(
        self, inner: System, *, retries: int | None = None, budget_s: float | None = None, wait_s: float = 0.05
    ) -> None:
        super().__init__(inner)
        self.wait_s = wait_s
        settings = inner.settings
        self.attempts = 1 + int(settings.get("retries", 10) if retries is None else retries)
        default = settings.get("retry_s") or settings.get("timeout_s") or 30.0
        self.budget_s = float(default if budget_s is None else budget_s)

    # Policy

    def again(self, error: RhError, work: Callable[[], T], spent: float = 0.0, *, slower: int = 1) -> T:
        """Go on after a first failure that took `spent` seconds. Raises what the last try raised."""
        import stamina

        log.debug("%s: %s; trying again", self.url(), error.message)
        _quieten()
        begun = time.monotonic()
        wait = self.wait_s * slower
        tries = 1
        last = spent

        def worth(problem: Exception) -> bool | float:
            if not isinstance(problem, RhError) or not problem.retryable:
                return False
            elapsed = time.monotonic() - begun
            if problem.wait_s:
                return elapsed + problem.wait_s <= self.budget_s and problem.wait_s
            if isinstance(problem, DeadlineError):
                # Another wait like the last one must fit as well, or two deadlines would pass for one.
                return spent + elapsed + last <= self.budget_s
            return elapsed < self.budget_s

        waited = False
        try:
            for attempt in stamina.retry_context(
                on=worth,
                attempts=self.attempts,
                timeout=None,
                wait_initial=wait,
                wait_max=min(_LONGEST_WAIT, self.budget_s / 10),
                wait_jitter=wait,
            ):
                with attempt:
                    if not waited:
                        waited = True
                        raise error
                    tries += 1
                    started = time.monotonic()
                    try:
                        return work()
                    finally:
                        last = time.monotonic() - started
        except RhError as problem:
            if problem.retryable and tries > 1:
                problem.add_note(f"given up after {tries} tries in {time.monotonic() - begun + spent:.1f} s")
            raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def call(self, verb: str, key: str, work: Callable[[], T]) -> T:  # noqa: ARG002 - as `Wrapper` has it
        if verb == "run":
            return work()  # what a command did before it broke cannot be undone
        started = time.monotonic()
        try:
            return work()
        except RhError as error:
            if not error.retryable:
                raise
            return self.again(error, work, time.monotonic() - started)

    def once(self, verb: str, key: str, work: Callable[[], T]) -> T:  # noqa: ARG002 - as `Wrapper` has it
        return work()

    # Verbs

    def listing(self, verb: str, listing: Listing[T], prefix: str, after: str) -> Iterator[T]:
        failures = 0
        started = time.monotonic()
        found = self.call(verb, prefix, lambda: listing.work(prefix, after))
        while True:
            try:
                for one in found:
                    yield one
                    after = listing.last(one)
                    failures = 0
                    started = time.monotonic()
                return
            except RhError as error:
                failures += 1
                if not error.retryable:
                    raise
                self.pause(error, failures, time.monotonic() - started)
                found = self.call(verb, prefix, partial(listing.work, prefix, after))

    def pause(self, error: RhError, failures: int, spent: float) -> None:
        """Wait as policy asks for after so many failures in a row, or raise if `spent` seconds were all there are."""
        if failures >= self.attempts or spent > self.budget_s:
            error.add_note(f"given up after {failures} tries in {spent:.1f} s")
            raise error
        self.again(error, lambda: None, spent, slower=2 ** min(failures - 1, 10))

    def head(self, key: str) -> Entry:
        started = time.monotonic()
        try:
            return self.inner.head(key)
        except RhError as error:
            if not error.retryable:
                raise
            return self.again(error, lambda: self.inner.head(key), time.monotonic() - started)

    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:
        body = self.call("read", key, lambda: self.inner.read(key, span, when=when))
        return _ResumingBody(self, body, key, span, when)

    def write(
        self,
        key: str,
        data: Bytes | Iterable[Bytes] | Link,
        *,
        size: int | None = None,
        executable: bool | None = None,
        when: Condition = ANY,
    ) -> Entry:
        given: Any = data
        stream: _OneShot | None = None
        if not isinstance(data, (bytes, bytearray, memoryview, Link)) and iter(data) is data:
            given = stream = _OneShot(data)
        inner = self.inner

        def send() -> Entry:
            return inner.write(key, given, size=size, executable=executable, when=when)

        def send_again() -> Entry:
            try:
                return send()
            except (ExistsError, ConflictError):
                entry = None if when is ANY else self._ours(key, given)
                if entry is None:
                    raise
                return entry

        started = time.monotonic()
        try:
            return send()
        except RhError as error:
            if not error.retryable:
                raise
            if stream is not None and stream.touched:
                if not stream.failed:
                    error.add_note("not tried again: part of the stream was taken, and it cannot be read twice")
                raise
            return self.again(error, send_again, time.monotonic() - started)

    def _ours(self, key: str, data: Bytes | Iterable[Bytes] | Link | _OneShot) -> Entry | None:
        """The entry under the key, if it holds just what we wanted to write there."""
        if isinstance(data, _OneShot):
            return None
        try:
            entry = self.head(key)
            if isinstance(data, Link):
                return entry if entry.target == data.target else None
            if entry.kind != "file":
                return None
            with self.read(key, when=ANY if entry.etag is None else Match(entry.etag)) as body:
                pieces = (data,) if isinstance(data, (bytes, bytearray, memoryview)) else data
                return entry if _same(body, pieces, entry.size) else None
        except (NotFoundError, ConflictError):
            return None

    # Streams of items

    def many(self, flow: Flow[In, Out], items: Iterable[In]) -> Iterator[Out]:
        feed = _Feed(flow, items)
        tries: dict[str, int] = {}
        row, since, paused = 0, 0.0, 0
        while True:
            try:
                for outcome in flow.work(feed):
                    key = flow.outcome(outcome)
                    asked, number = feed.answered(key)
                    error = flow.error(outcome)
                    if error is None or not asked or not isinstance(error, RhError) or not error.retryable:
                        row = 0
                        if tries:
                            tries.pop(key, None)
                        yield outcome
                        continue
                    tries[key] = tries.get(key, 0) + 1
                    if tries[key] >= self.attempts:
                        error.add_note(f"given up after {tries.pop(key)} tries")
                        if row > _IN_A_ROW and feed.busy:
                            feed.broken = True  # all the others fared no better
                            raise error
                        yield outcome
                        continue
                    feed.repeat(asked)
                    if number <= paused:
                        continue  # it was on its way before the last pause, and says nothing of what came of that
                    row += 1
                    since = since if row > 1 else time.monotonic()
                    if row > _IN_A_ROW:
                        if time.monotonic() - since > self.budget_s:
                            feed.broken = True
                            raise error
                        self.again(error, lambda: None, slower=2 ** min(row - _IN_A_ROW, 10))
                        paused = feed.count
            except RhError as error:
                row += 1
                since = since if row > 1 else time.monotonic()
                if feed.broken or not error.retryable:
                    raise
                feed.repeat(feed.unanswered())
                self.pause(error, row, time.monotonic() - since)
                continue
            for item in feed.unanswered():
                yield flow.failed(
                    item, RhError(f"{flow.verb} ended without an answer", where=self.url(flow.item(item)))
                )
            if feed.empty:
                return


@cache
def _quieten() -> None:
    """Without this, a program that has not set up logging would find stamina's notices on its standard error."""
    logging.getLogger("stamina").addHandler(logging.NullHandler())


class _OneShot:
    """A stream that can be read once, whether that has begun, and whether it was the stream that failed."""

    def __init__(self, data: Iterable[Bytes]) -> None:
        self._pieces = iter(data)
        self.touched = self.failed = False

    def __iter__(self) -> Iterator[Bytes]:
        return self

    def __next__(self) -> Bytes:
        self.touched = True
        try:
            return next(self._pieces)
        except RhError:
            self.failed = True
            raise


class _Feed:
    """Items on their way in, remembered until they are answered; those to be repeated come first."""

    def __init__(self, flow: Flow[Any, Any], items: Iterable[Any]) -> None:
        self._key = flow.item
        self._items = iter(items)
        self._lock = threading.Lock()  # a system may take items from another thread than it gives outcomes in
        self._repeat: list[Any] = []
        self._waiting: dict[str, tuple[tuple[Any, int], ...]] = {}
        self.count = 0
        """So many were asked for."""
        self._exhausted = False
        self.broken = False

    @property
    def empty(self) -> bool:
        return self._exhausted and not self._repeat

    @property
    def busy(self) -> bool:
        """Whether there are items that were asked for and have no answer yet."""
        return bool(self._repeat or self._waiting)

    def __iter__(self) -> Iterator[Any]:
        key, waiting, lock = self._key, self._waiting, self._lock
        while True:
            if self._repeat:
                item = self._repeat.pop()
            else:
                try:
                    item = next(self._items)
                except StopIteration:
                    self._exhausted = True
                    return
                except BaseException:
                    self.broken = True  # where the items come from has failed, and cannot go on
                    raise
            name = key(item)
            with lock:
                self.count += 1
                mine = ((item, self.count),)
                waiting[name] = waiting[name] + mine if name in waiting else mine
            yield item

    def answered(self, key: str) -> tuple[tuple[Any, ...], int]:
        """The item an outcome is of, alone in a tuple, and its number among those asked; none if nobody asked."""
        with self._lock:
            asked = self._waiting.pop(key, ())
            if not asked:
                return (), 0
            if len(asked) > 1:
                self._waiting[key] = asked[1:]
            item, number = asked[0]
            return (item,), number

    def unanswered(self) -> list[Any]:
        with self._lock:
            items = [item for asked in self._waiting.values() for item, _ in asked]
            self._waiting.clear()
            return items

    def repeat(self, items: Sequence[Any]) -> None:
        self._repeat.extend(reversed(items))


class _ResumingBody(Body):
    """A body that goes on where it broke."""

    def __init__(self, system: Retrying, body: Body, key: str, span: Span | None, when: Condition) -> None:
        self.entry = body.entry
        self._system = system
        self._body = body
        self._key = key
        self._span = span
        self._when = when
        self._got = self._failures = 0
        self._last = time.monotonic()

    def __iter__(self) -> Iterator[Bytes]:
        while True:
            try:
                for piece in self._body:
                    self._take(len(piece))
                    yield piece
                return
            except RhError as error:
                self._go_on(error)

    def readinto(self, buffer: memoryview) -> int:
        while True:
            try:
                count = self._body.readinto(buffer)
            except RhError as error:
                self._go_on(error)
            else:
                self._take(count)
                return count

    def _take(self, count: int) -> None:
        if count:
            self._got += count
            self._failures = 0
            self._last = time.monotonic()

    def _go_on(self, error: RhError) -> None:
        """Read on behind what was handed out, or raise the error."""
        self._failures += 1
        if not error.retryable:
            raise error
        size, span = self.entry.size, self._span
        if self._got:
            start, stop = (0, size) if span is None else (min(span[0], size), min(span[1], size))
            start += self._got
            if isinstance(error, IntegrityError) or self.entry.etag is None or start >= stop:
                raise error
            if self._body.undivided:
                if isinstance(error, DeadlineError):
                    raise error
                raise IntegrityError(f"the download ended early: {error.message}", where=error.where) from error
            span = (start, stop)
        self._reopen(error, span, self._failures, time.monotonic() - self._last)

    def read(self) -> bytes:
        try:
            return self._body.read()
        except RhError as error:
            if not error.retryable:
                raise
            problem = error
        failures = 0
        begun = time.monotonic()
        while True:
            failures += 1
            self._reopen(problem, self._span, failures, time.monotonic() - begun)
            try:
                return b"".join(self)
            except IntegrityError as error:
                problem = error  # nothing was handed out yet, so all of it may be read again

    def _reopen(self, error: RhError, span: Span | None, failures: int, spent: float) -> None:
        self._body.close()
        system, key = self._system, self._key
        when = self._when if self.entry.etag is None else Match(self.entry.etag)
        system.pause(error, failures, spent)
        self._body = system.call("read", key, lambda: system.inner.read(key, span, when=when))

    def close(self) -> None:
        self._body.close()


def _same(left: Iterable[Bytes], right: Iterable[Bytes], size: int) -> bool:
    """Whether two streams hold the same `size` bytes."""
    whole = b"".join(bytes(piece) for piece in right)
    at = 0
    for piece in left:
        if whole[at : at + len(piece)] != piece:
            return False
        at += len(piece)
    return at == len(whole) == size
