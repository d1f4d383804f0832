"""One bucket or container, seen from a prefix: exact keys, single requests, and what the answers mean."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from rh.errors import (
    AccessError,
    ConflictError,
    DeadlineError,
    ExistsError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnavailableError,
)
from rh.observe import count
from rh.systems.abilities import Item
from rh.systems.base import Body, Settings
from rh.systems.objects.failures import Failure, NoBucketError, is_plain
from rh.systems.objects.shared import Attempt, Attempts
from rh.systems.objects.spread import spread
from rh.systems.objects.wire import Answer, Asked, Nothing, StoreWire, WireBody, deadline_of, etag_of, seconds
from rh.types import ABSENT, ANY, Condition, Entry, Location, Match, Outcome, Span

__all__ = ["Root", "StorePlace", "conditions"]


class StorePlace:
    """One endpoint with one identity, shared by all handles on it in a process."""

    wire: StoreWire

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pid = os.getpid()
        self.system = str(settings["name"])
        self.timeout_s = deadline_of(settings)
        self.attempts = Attempts()

    def close(self) -> None:
        """Drop idle connections."""
        self.wire.close()


P = TypeVar("P", bound=StorePlace)
T = TypeVar("T")


class Root(ABC, Generic[P]):
    """A bucket and a prefix in it, on the connections of its place.

    Args:
        location: where it is.
        settings: of the system.
        url: the place of a key, for errors.
        place: gives the place for settings that have a `name`.

    """

    noun: ClassVar[str] = "bucket"
    example: ClassVar[str]
    mark: ClassVar[str]
    """The metadata header that tells our own write from another's when its answer was lost."""
    range_header: ClassVar[str] = "range"
    version_query: ClassVar[str]
    """The query parameter that names the version of an object which is read."""
    version_header: ClassVar[str]
    """The header that names the version of an object which was asked for."""
    older: ClassVar[str | None] = None
    """What names the version of an object that is older than the keeping of versions, where no header does."""

    def __init__(
        self, location: Location, settings: Settings, url: Callable[[str], str], place: Callable[[Settings], P]
    ) -> None:
        self.location = location
        self.settings = settings
        self.url = url
        self.name, _, prefix = location.path.strip("/").partition("/")
        if not self.name:
            raise InvalidError(f"a {self.noun} is needed", where=f"{location.system}://", hint=self.example)
        self.prefix = f"{prefix}/" if prefix else ""
        self.pins: Mapping[str, str] = {}
        """Versions by key, of what is read as it was."""
        self._place = place
        self._kept: P | None = None

    @property
    def place(self) -> P:
        """The endpoint; in a forked process a fresh one."""
        place = self._kept
        if place is None or place.pid != os.getpid():
            place = self._kept = self._place({**self.settings, "name": self.location.system})
        return place

    def close(self) -> None:
        """Drop idle connections."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def path(self, key: str) -> str:
        """The full key of a key, or why it cannot be one."""
        if not key:
            raise InvalidError("an empty key names nothing", where=self.url(""))
        path = self.prefix + key
        if not path.isascii():
            try:
                path.encode()
            except UnicodeEncodeError as error:
                raise NameClashError("keys here are text; this name is not valid UTF-8", where=ascii(key)) from error
        return path

    def ask(self, verb: str, method: str, key: str | None = None, *, at: str = "", **more: Any) -> Answer:
        """One request about the object under `key`, or without a key about the bucket; errors then name `at`."""
        named = at if key is None else key
        try:
            return self.place.wire.request(
                verb,
                method,
                self.name,
                None if key is None else self.path(key),
                where=self.url(named),
                error=lambda failure: self.failed(failure, named),
                **more,
            )
        except (AccessError, InvalidError):
            self._kept = None  # whoever renews the credentials goes on with this handle
            raise

    def asked(self, verb: str, method: str, key: str, **more: Any) -> Asked:
        """One of many requests about objects, for `ask_many`."""
        return Asked(verb, method, self.path(key), self.url(key), lambda failure: self.failed(failure, key), **more)

    def ask_many(
        self, requests: Iterator[tuple[T, Asked | RhError]], *, workers: int
    ) -> Iterator[tuple[T, Answer | RhError]]:
        """`StoreWire.request_many` on this bucket."""
        for tag, answer in self.place.wire.request_many(self.name, requests, workers=workers):
            if isinstance(answer, AccessError):
                self._kept = None
            yield tag, answer

    def failed(self, failure: Failure, key: str) -> RhError:
        """The error for a failure at a key."""
        if failure.status == 400 and not failure.code and key and not is_plain(self.prefix + key):
            # The answer to a HEAD has no body that would say so.
            return NameClashError("the store refuses this name", where=self.url(key))
        return self._error(failure, self.url(key))

    @abstractmethod
    def _error(self, failure: Failure, where: str) -> RhError:
        """The error a failure means on this store."""

    def entry(self, key: str, headers: Mapping[str, str], size: int | None = None) -> Entry:
        """The entry that the headers of an answer describe."""
        if size is None:
            ranged = headers.get("content-range")
            length = ranged.rpartition("/")[2] if ranged else headers.get("content-length", "")
            if not length.isdigit():
                raise UnavailableError("the store tells no size", where=self.url(key))
            size = int(length)
        modified = seconds(headers.get("last-modified"))
        return Entry(key, size, etag=etag_of(headers), modified=modified, check=self._check(headers))

    @abstractmethod
    def _check(self, headers: Mapping[str, str]) -> str | None:
        """The checksum of the whole object that the headers tell."""

    def is_directory(self, headers: Mapping[str, str]) -> bool:  # noqa: ARG002 - most stores mark none
        """Whether an object stands for a directory, whatever its key."""
        return False

    def pin(self, key: str) -> Sequence[tuple[str, str]]:
        """Query parameters that name the version of an object which is read."""
        version = self.pins.get(key)
        return () if version is None else [(self.version_query, version)]

    def versions(self, entries: Iterable[Entry]) -> Mapping[str, str]:
        """By key, the versions that entries are, of those that the store keeps: a request for each entry."""

        def version(entry: Entry) -> tuple[str, str | None]:
            try:
                headers = self.ask("head", "HEAD", entry.key).headers
            except NotFoundError:
                return entry.key, None
            same = entry.etag is not None and etag_of(headers) == entry.etag
            return entry.key, headers.get(self.version_header, self.older) if same else None

        return {key: name for key, name in spread(version, entries) if name}

    def head(self, key: str) -> Entry:
        """The entry under a key; directories of other tools are none."""
        headers = self.ask("head", "HEAD", key, query=self.pin(key)).headers
        entry = self.entry(key, headers)
        if self.is_directory(headers) or (key.endswith("/") and not entry.size):
            raise NotFoundError("this is an empty directory, not a file", where=self.url(key))
        return entry

    def read(self, key: str, span: Span | None, when: Condition) -> Body:
        """Begin to read an object or a span of it."""
        if when is ABSENT or (span is not None and not 0 <= span[0] <= span[1]):
            problem = f"not a byte range: {span}" if span else "a read cannot want absence"
            raise InvalidError(problem, where=self.url(key))
        body = self._open(key, span) if span is None or span[0] < span[1] else None
        if body is None:
            body = Nothing(self.head(key))
            if span is not None and span[0] < min(span[1], body.entry.size):
                raise ConflictError("it was replaced while it was asked for", where=self.url(key))
        # The etag of the answer itself is compared: that costs no request, and no store that ignores conditions
        # deceives us.
        if isinstance(when, Match) and body.entry.etag != when.etag:
            body.close()
            raise ConflictError("it has changed since it was listed", where=self.url(key))
        return body

    def read_many(self, entries: Iterable[Entry], *, workers: int) -> Iterator[tuple[Entry, bytes | Exception]]:
        """`Bulk.read_many`."""

        def requests() -> Iterator[tuple[Entry, Asked | RhError]]:
            for entry in entries:
                key = entry.key
                try:
                    yield entry, self.asked("read", "GET", key, query=self.pin(key), limit=entry.size)
                except RhError as error:
                    yield entry, error

        for entry, answer in self.ask_many(requests(), workers=workers):
            if isinstance(answer, RhError):
                yield entry, answer
                continue
            count(self.place.system, "read", requests=0, received=len(answer.data))
            if entry.etag not in (None, etag_of(answer.headers)):
                yield entry, ConflictError("it has changed since it was listed", where=self.url(entry.key))
            elif not answer.whole or len(answer.data) != entry.size:
                yield (
                    entry,
                    IntegrityError(
                        "the answer has the wrong length",
                        where=self.url(entry.key),
                        expected=f"{entry.size} bytes",
                        got=f"{answer.headers.get('content-length', len(answer.data))} bytes",
                    ),
                )
            elif entry.check is None:
                yield entry._replace(check=self._check(answer.headers)), answer.data
            else:
                yield entry, answer.data

    def write_many(
        self,
        items: Iterable[Item],
        put: Callable[[Item], tuple[Asked, Callable[[Answer], Entry]]],
        *,
        workers: int,
    ) -> Iterator[Outcome]:
        """`Bulk.write_many`.

        Args:
            items: what to write.
            put: gives the request that stores an item, and what is to be made of its answer.
            workers: so many at once.
        """

        def requests() -> Iterator[tuple[tuple[str, Callable[[Answer], Entry] | None], Asked | RhError]]:
            for item in items:
                try:
                    asked, stored = put(item)
                except RhError as error:
                    yield (item.key, None), error
                else:
                    yield (item.key, stored), asked

        for (key, stored), answer in self.ask_many(requests(), workers=workers):
            if isinstance(answer, RhError) or stored is None:
                assert isinstance(answer, RhError)
                yield Outcome(key, error=answer)
                continue
            try:
                outcome = Outcome(key, stored(answer))
            except RhError as error:
                outcome = Outcome(key, error=error)
            yield outcome

    def _open(self, key: str, span: Span | None) -> Body | None:
        """`read` of a span that is not empty; `None` when it begins beyond the end."""
        headers = {} if span is None else {self.range_header: f"bytes={span[0]}-{span[1] - 1}"}
        answer = self.ask("read", "GET", key, query=self.pin(key), headers=headers, stream=True, accept=(416,))
        if answer.status == 416:
            return None
        assert answer.stream is not None
        entry = self.entry(key, answer.headers)
        want = (0, entry.size) if span is None else (span[0], min(span[1], entry.size))
        if span is not None and answer.headers.get("content-range") != f"bytes {want[0]}-{want[1] - 1}/{entry.size}":
            answer.stream.close()
            raise IntegrityError("the store answered another range", where=self.url(key), expected=str(want))
        return WireBody(self.place.system, answer.stream, entry, want[1] - want[0], self.url(key))

    def conditionally(self, key: str, when: Condition, md5: str, send: Callable[[Mapping[str, str]], Answer]) -> Answer:
        """Send a write under its condition; a success whose answer was lost earlier is recognised by its mark."""
        if when is ANY:
            return send({})
        slot = (self.name, self.path(key), when.etag if isinstance(when, Match) else "absent")
        attempts = self.place.attempts
        attempt, again = attempts.begin(slot, md5)
        try:
            answer = send({**conditions(when), self.mark: attempt.mark})
        except (UnavailableError, DeadlineError):
            attempts.settle(slot, attempt)
            raise
        except (ConflictError, NotFoundError) as error:
            attempts.settle(slot)
            ours = self._ours(key, attempt) if again else None
            if ours is not None:
                return ours
            raise self.broken(error, key, when) from None
        attempts.settle(slot)
        return answer

    def _ours(self, key: str, attempt: Attempt) -> Answer | None:
        """The object as it is, if it is the one that a lost answer was about."""
        try:
            answer = self.ask("head", "HEAD", key)
        except NotFoundError:
            return None
        return answer if answer.headers.get(self.mark) == attempt.mark else None

    def broken(self, error: RhError, key: str, when: Condition) -> RhError:
        """The error for a precondition that does not hold."""
        if when is ANY or isinstance(error, NoBucketError) or (isinstance(error, NotFoundError) and when is ABSENT):
            return error
        if when is ABSENT:
            return ExistsError("there is something already", where=self.url(key))
        return ConflictError("it has changed since", where=self.url(key))


def conditions(when: Condition) -> dict[str, str]:
    """A precondition as headers."""
    if when is ABSENT:
        return {"if-none-match": "*"}
    return {"if-match": f'"{when.etag}"'} if isinstance(when, Match) else {}
