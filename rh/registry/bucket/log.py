"""The log of a registry on a system: read, checked, and written to. `rh.registry.bucket.log_format` is how it looks."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from rh.errors import (
    AccessError,
    DeadlineError,
    ExistsError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RhError,
    UnavailableError,
    UnsupportedError,
)
from rh.observe import log as logger
from rh.registry.bucket import log_format
from rh.registry.bucket.log_format import HEADER, SEGMENT, Entry
from rh.systems.base import System
from rh.systems.objects.failures import NoBucketError
from rh.types import ABSENT

__all__ = ["Listing", "Log", "Position", "Stored", "UnreachableError"]

_THREADS = 16
_AT_ONCE = 64
_OURS = ("log/", "segments/")
_NEAR = 2
"""Directories that are listed one by one; who is further behind asks for segments."""


class UnreachableError(Exception):
    """The place did not answer. Tells its silence from what goes wrong on this machine."""

    def __init__(self, cause: RhError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Position(NamedTuple):
    """How much of a log is known: the registry's `id`, the last entry's number, digest and etag."""

    id: str
    sequence: int
    digest: str
    etag: str | None = None


class Stored(NamedTuple):
    """An entry with the bytes and the etag that it has in the log."""

    entry: Entry
    data: bytes
    etag: str | None

    def position(self, identity: str) -> Position:
        """Where a log stands whose last entry this is."""
        return Position(identity, self.entry.sequence, Entry.digest(self.data), self.etag)


class Listing(NamedTuple):
    """What there is from some entry on: the number of the last one, etags of those that were listed, and segments."""

    last: int
    etags: dict[int, str | None]
    segments: frozenset[int]


class Log:
    """The log below a system's root. It may be used from many threads, and after a fork, as the system may."""

    def __init__(self, system: System) -> None:
        self.system = system

    # Reading.

    def header(self) -> tuple[str, str] | None:
        """The registry's id, and what the first entry calls `registry.json`; `None` where there is no registry."""
        try:
            data = self._read(HEADER)[0]
        except NoBucketError:
            raise
        except NotFoundError:
            return None
        return log_format.identity_of(data, self.system.url(HEADER)), Entry.digest(data)

    def listed(self, first: int, *, far: bool = False) -> Listing:
        """What there is from this number on.

        Args:
            first: of the entries that are of interest.
            far: ask for segments at once, not only when there is much.
        """
        etags: dict[int, str | None] = {}
        segments: frozenset[int] = frozenset()
        directories, last = _NEAR if far else 0, first - 1
        while True:
            if directories == _NEAR:
                segments = frozenset(self._segments(first // SEGMENT))
                first = max(first, (max(segments, default=-1) + 1) * SEGMENT)
                last = max(last, first - 1) if segments else last
            directory = log_format.directory_of(first)
            after = log_format.entry_key(first - 1) if log_format.directory_of(first - 1) == directory else ""
            for key, etag in self._keys(directory, after):
                sequence = log_format.sequence_of(key)
                if sequence is not None:
                    etags[sequence] = etag
                    last = max(last, sequence)
            first = (first // SEGMENT + 1) * SEGMENT
            directories += 1
            if first - 1 not in etags:
                return Listing(last, etags, segments)

    def after(self, sequence: int, digest: str, there: Listing) -> Iterator[Sequence[Stored]]:
        """The entries after one that has this digest, in order and some at a time, each checked to follow the last.

        Raises:
            IntegrityError: one is missing, damaged, or not of this log.
        """
        steps = _steps(sequence, there)
        for start in range(0, len(steps), _AT_ONCE):
            found = [one for entries in self._spread(steps[start : start + _AT_ONCE], there) for one in entries]
            for one in found:
                if one.entry.previous != digest or one.entry.sequence != sequence + 1:
                    raise IntegrityError(
                        "an entry of the registry's log does not follow the one before it",
                        where=self.system.url(log_format.entry_key(one.entry.sequence)),
                        expected=digest,
                        got=one.entry.previous,
                        hint=log_format.REPAIR,
                    )
                sequence, digest = one.entry.sequence, Entry.digest(one.data)
            yield found

    def _spread(self, steps: Sequence[tuple[int, bool]], there: Listing) -> Iterator[list[Stored]]:
        def fetch(step: tuple[int, bool]) -> list[Stored]:
            number, segment = step
            return self._segment(number) if segment else [self.entry(number, there.etags.get(number))]

        if len(steps) == 1:
            yield fetch(steps[0])
            return
        with ThreadPoolExecutor(min(_THREADS, len(steps)), "rh-registry") as pool:
            yield from pool.map(fetch, steps)

    def entry(self, sequence: int, etag: str | None = None) -> Stored:
        """One entry, which must be there."""
        key = log_format.entry_key(sequence)
        where = self.system.url(key)
        try:
            data, read = self._read(key)
            try:
                entry = Entry.decode(data, sequence, where)
            except IntegrityError:
                data, read = self._read(key)  # it may have been damaged on its way
                entry = Entry.decode(data, sequence, where)
        except NoBucketError:
            raise
        except NotFoundError as error:
            raise IntegrityError("the registry's log has lost an entry", where=where, hint=log_format.REPAIR) from error
        return Stored(entry, data, read or etag)

    def _segment(self, number: int) -> list[Stored]:
        """The entries of a segment; if that is damaged, as they are in the log."""
        key = log_format.segment_key(number)
        numbers = log_format.numbers_of(number)
        try:
            lines = log_format.unpack(self._read(key)[0], self.system.url(key))
            return [
                Stored(Entry.decode(line, sequence, self.system.url(key)), line, None)
                for sequence, line in zip(numbers, lines, strict=True)
            ]
        except (NotFoundError, IntegrityError, ValueError) as error:
            logger.warning("a segment of a registry's log is of no use: %s", error)
            return [self.entry(sequence) for sequence in numbers]

    def _segments(self, first: int) -> Iterator[int]:
        for key, _ in self._keys("segments/", log_format.segment_key(first - 1) if first else ""):
            number = log_format.segment_of(key)
            if number is not None:
                yield number

    # Writing.

    def create(self) -> None:
        """Make a registry, unless somebody has.

        Raises:
            UnsupportedError: the place cannot hold one, since it does not know create-only writes, or ignores them.
            InvalidError: it holds other things.
        """
        self._check_own()
        for _ in range(2):  # with other bytes each time: a write that finds its own bytes there takes them for done
            try:
                self._write(HEADER, log_format.new_header(secrets.token_hex(16)))
            except ExistsError:
                return
        self.system.delete([HEADER])
        raise self._unfit("the place ignores the condition that nothing is there yet")

    def _check_own(self) -> None:
        """Refuse a place with other things in it, whose next listing would tell our files among them."""
        for key, _ in self._keys("", ""):
            if key != HEADER and not key.startswith((*_OURS, ".")):  # a disk may have hidden files of its own
                raise InvalidError(
                    f"no registry is made among other things: there is {key[:200]!r}",
                    where=self.system.url(),
                    hint="name a directory or prefix for the registry alone",
                )

    def append(self, entry: Entry) -> Stored:
        """Write the next entry.

        Raises:
            ExistsError: somebody else wrote one with this number.
        """
        data = entry.encode()
        return Stored(entry, data, self._write(log_format.entry_key(entry.sequence), data))

    def seal(self, number: int, entries: Sequence[bytes]) -> None:
        """Write a segment, whose entries are all given."""
        self._write(log_format.segment_key(number), log_format.pack(entries))

    def _write(self, key: str, data: bytes) -> str | None:
        try:
            return self.system.write(key, data, when=ABSENT).etag
        except UnsupportedError as error:
            raise self._unfit(error.message) from error
        except AccessError as error:
            error.hint = error.hint or f"who changes names needs the right to write below {self.system.url()}"
            raise

    def _unfit(self, reason: str) -> UnsupportedError:
        return UnsupportedError(
            f"no registry can be kept here, since two who save at once would overwrite each other: {reason}",
            where=self.system.url(),
            hint="use a place with conditional writes (S3 itself, GCS, Azure, a directory) or another kind of registry",
        )

    # The place.

    def _keys(self, prefix: str, after: str) -> Iterator[tuple[str, str | None]]:
        with _reaching():
            try:
                for entry in self.system.list(prefix, after=after):
                    yield entry.key, entry.etag
            except NoBucketError:
                raise
            except NotFoundError:
                return  # a directory that nobody has made yet

    def _read(self, key: str) -> tuple[bytes, str | None]:
        with _reaching(), self.system.read(key) as body:
            return body.read(), body.entry.etag


def _steps(sequence: int, there: Listing) -> list[tuple[int, bool]]:
    """What to fetch for the entries after one, in order: entries, and segments that are wholly after it (`True`)."""
    steps: list[tuple[int, bool]] = []
    one = sequence + 1
    while one <= there.last:
        number = one // SEGMENT
        whole = number in there.segments and one == log_format.numbers_of(number)[0]
        steps.append((number if whole else one, whole))
        one = (number + 1) * SEGMENT if whole else one + 1
    return steps


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except (UnavailableError, DeadlineError) as error:
        raise UnreachableError(error) from error
