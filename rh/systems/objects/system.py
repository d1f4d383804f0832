"""The verbs that are said the same way of every object store."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, ClassVar, Self, overload

from rh.errors import InvalidError, NameClashError, RhError, UnsupportedError
from rh.systems.abilities import WORKERS, Item, Watch
from rh.systems.base import HIDDEN, Bytes, Settings, System
from rh.systems.far.skip import Skip
from rh.systems.objects.root import Root
from rh.systems.objects.spread import spread
from rh.systems.objects.wire import Answer, Asked
from rh.types import Entry, Link, Location, Outcome

__all__ = ["BulkStore", "StoreSystem", "hidden", "lasting"]

MAX_EXPIRY_S = 7 * 24 * 3600
"""Longest life of a signed URL, in seconds."""


class StoreSystem(System):
    """A bucket of an object store, or a prefix in one."""

    store: ClassVar[str]
    """The store's name, for errors."""

    def __init__(self, location: Location, settings: Settings) -> None:
        try:
            location.path.encode()
        except UnicodeEncodeError as error:
            raise NameClashError(f"{location.path!a} is not valid Unicode", where=location.system) from error
        self.location = location
        self.settings = settings

    @classmethod
    def open(cls, location: Location, settings: Settings) -> Self:
        return cls(location, settings)

    @classmethod
    @abstractmethod
    def buckets(cls, settings: Settings) -> Iterator[str]:
        """`Bucketed.buckets`: a request for each page of names."""

    def at(self, path: str) -> Self:
        path = path.strip("/")
        return type(self)(self.location / path, self.settings) if path else self

    # Listing

    def list(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        if depth not in (None, 1):
            raise InvalidError(f"depth is 1 or None, not {depth}", where=self.url(prefix))
        return chain.from_iterable(self._listing(prefix, after, depth))

    def list_pages(
        self,
        prefix: str = "",
        *,
        after: str = "",
        follow: bool = False,  # noqa: ARG002 - there are no links
        skip: Skip | None = None,  # noqa: ARG002 - no directory is read by itself
    ) -> Iterator[Sequence[Entry]]:
        return self._listing(prefix, after, None)

    @abstractmethod
    def _listing(self, prefix: str, after: str, depth: int | None) -> Iterator[Sequence[Entry]]:
        """Pages of what `list` gives."""

    # Copies

    @abstractmethod
    def can_copy_from(self, source: System) -> bool: ...

    @abstractmethod
    def _copy(self, source: Any, entry: Entry, key: str, watch: Callable[[int], None]) -> Entry:
        """Copy one object of a source that `can_copy_from` has taken. `watch` is told how far a large one is."""

    def copy_many(
        self, source: System, pairs: Iterable[tuple[Entry, str]], *, watch: Watch | None = None
    ) -> Iterator[Outcome]:
        if not self.can_copy_from(source):
            raise UnsupportedError(f"{self.store} copies only within one account of one endpoint", where=source.url())

        def one(pair: tuple[Entry, str]) -> Outcome:
            seen = partial(watch, pair[1]) if watch is not None else _unwatched
            try:
                return Outcome(pair[1], self._copy(source, *pair, seen))
            except RhError as error:
                return Outcome(pair[1], error=error)

        return spread(one, pairs)

    @overload
    def _storable(self, key: str, data: Bytes | Link) -> Bytes: ...

    @overload
    def _storable(self, key: str, data: Bytes | Iterable[Bytes] | Link) -> Bytes | Iterable[Bytes]: ...

    def _storable(self, key: str, data: Bytes | Iterable[Bytes] | Link) -> Bytes | Iterable[Bytes]:
        """The data, unless it is a link or a directory."""
        if isinstance(data, Link):
            raise UnsupportedError(f"{self.store} has no links", where=self.url(key))
        if key.endswith("/"):
            if isinstance(data, bytes | bytearray | memoryview) and len(data):
                raise InvalidError("a key that ends with / is a directory and has no bytes", where=self.url(key))
            raise UnsupportedError(f"{self.store} has no directories", where=self.url(key))
        return data


def _unwatched(_size: int) -> None:
    return


class BulkStore(StoreSystem):
    """A store whose requests are made of what they store or fetch, and can be under way many at a time."""

    largest: ClassVar[int] = 1 << 16
    """Up to here an object costs more as a request than as bytes, whose digests threads compute side by side."""

    @property
    @abstractmethod
    def root(self) -> Root[Any]:
        """The bucket, or the prefix in one."""

    @abstractmethod
    def _putting(self, key: str, data: Bytes) -> tuple[Asked, Callable[[Answer], Entry]]:
        """The request that stores an object, and what is to be made of its answer."""

    def read_many(
        self, entries: Iterable[Entry], *, workers: int = WORKERS
    ) -> Iterator[tuple[Entry, bytes | Exception]]:
        return self.root.read_many(entries, workers=workers)

    def write_many(self, items: Iterable[Item], *, workers: int = WORKERS) -> Iterator[Outcome]:
        def put(item: Item) -> tuple[Asked, Callable[[Answer], Entry]]:
            data = self._storable(item.key, item.data)
            return self._putting(item.key, data.cast("B") if isinstance(data, memoryview) else data)

        return self.root.write_many(items, put, workers=workers)


def lasting(expires_s: int, where: str) -> None:
    """Raise `InvalidError` where no signed URL can live that long."""
    if not 1 <= expires_s <= MAX_EXPIRY_S:
        raise InvalidError(f"a signed URL lives for 1 second to 7 days, not {expires_s} s", where=where)


def hidden(key: str) -> str:
    """The key up to and with the mark of its first hidden component; nothing when none is hidden."""
    if HIDDEN not in key:
        return ""
    at = 0 if key.startswith(HIDDEN) else key.find("/" + HIDDEN) + 1
    return key[: at + len(HIDDEN)] if at or key.startswith(HIDDEN) else ""
