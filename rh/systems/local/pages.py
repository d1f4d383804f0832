"""Many plain small files: gathered by directory, done here or by helper processes, and what is not plain one by one."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Generic, Self, TypeVar

from rh.errors import ConflictError, InvalidError, RhError
from rh.systems.local import plain
from rh.systems.local.batch import Batch, Place
from rh.systems.local.copies import digest_one
from rh.systems.local.disk import Root, entry_of, expect, split, temp
from rh.systems.local.draft import remove
from rh.systems.local.helpers import Helpers
from rh.systems.local.source import SMALL, Source, digest_of
from rh.types import Entry, Link, Outcome

__all__ = ["Copies", "Digests"]

_FILES = 64
_BYTES = 4 << 20
_UNUSUAL = frozenset({"", ".", ".."})


@dataclass(slots=True, eq=False)
class _Page:
    """Files of one directory."""

    folder: str
    entries: list[Entry] = field(default_factory=list)
    wanted: list[plain.Wanted] = field(default_factory=list)


@dataclass(slots=True, eq=False, kw_only=True)
class _Copy(_Page):
    """Files of one directory to be copied to a place: under these names, which replace those in the end."""

    place: Place
    keys: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    replaced: list[bytes] = field(default_factory=list)


P = TypeVar("P", bound=_Page)


class _Pages(ABC, Generic[P]):
    """Files on their way. `take` what is plain, `go_on` when it is `full`, do anything else with `one`, then `rest`."""

    def __init__(self, source: Source, root: Root) -> None:
        self._source = source
        self._root = root
        self._helpers: Helpers[list[P]] = Helpers(root.timeout_s)
        self._pages: list[P] = []
        self._target = ""
        self._files = self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._helpers.close()

    @property
    def full(self) -> bool:
        return self._files >= _FILES or self._bytes >= _BYTES

    def take(self, entry: Entry, key: str) -> bool:
        """Whether this is a plain file; then it is taken."""
        size, etag = entry.size, entry.etag
        if entry.kind != "file" or size > SMALL or etag is None or etag[0] == "~":
            return False
        folder, _, name = entry.key.rpartition("/")
        target, _, new = (folder, "", name) if key == entry.key else key.rpartition("/")
        page = self._pages[-1] if self._pages else None
        try:
            if name in _UNUSUAL or new in _UNUSUAL or "\0" in name or "\0" in new:
                return False
            if page is None or page.folder != folder or self._target != target:
                split(entry.key, self._root.where)
                split(key, self._root.where)
                page, self._target = self._page(folder, target), target
                self._pages.append(page)
            raw = _raw(name)
        except (OSError, RhError, UnicodeError):
            return False  # whoever takes it one by one will say what is wrong with it
        page.entries.append(entry)
        page.wanted.append((raw, size, etag))
        self._took(page, key, new, size)
        self._files += 1
        self._bytes += size
        return True

    def go_on(self) -> Iterator[Outcome]:
        """Have what was taken done. Yields what is ready."""
        pages, files = self._pages, self._files
        self._pages, self._files, self._bytes = [], 0, 0
        if self._helpers.have_room(files):
            self._helpers.give(pages, [self._told(page) for page in pages])
        else:
            for page in pages:
                yield from self._settle(page, self._here(page))
        yield from self._collect(wait=False)

    def rest(self) -> Iterator[Outcome]:
        """Everything that was taken, done."""
        if self._files:
            yield from self.go_on()
        while self._helpers.busy:
            yield from self._collect(wait=True)

    def _collect(self, *, wait: bool) -> Iterator[Outcome]:
        for pages, answer in self._helpers.answers(wait=wait):
            for page, told in zip(pages, repeat(None) if answer is None else answer, strict=False):
                if told is None:
                    self._undone(page)
                    told = self._here(page)  # noqa: PLW2901
                yield from self._settle(page, told)

    def _told(self, page: P) -> tuple[Any, ...]:
        """A page as helpers take it."""
        try:
            there = self._source.reached(page.folder)
        except (OSError, RhError):
            there = ("", 0, 0)  # found by nobody
        return self._asked(there, page)

    def _here(self, page: P) -> Sequence[Any]:
        try:
            folder = self._source.folder(page.folder)
        except (OSError, RhError):
            return [None] * len(page.entries)
        return self._work(folder, page)

    @abstractmethod
    def one(self, entry: Entry, key: str) -> Iterator[Outcome]:
        """Do one thing by itself, whatever it is. Its outcome says what is wrong with it."""

    @abstractmethod
    def _page(self, folder: str, target: str) -> P:
        """A new page. Errors as they come."""

    @abstractmethod
    def _took(self, page: P, key: str, name: str, size: int) -> None:
        """Note a file that was put on a page."""

    @abstractmethod
    def _undone(self, page: P) -> None:
        """Clear away what a helper may have left of a page."""

    @abstractmethod
    def _asked(self, source: plain.Reached, page: P) -> tuple[Any, ...]:
        """What a helper is asked."""

    @abstractmethod
    def _work(self, folder: int, page: P) -> Sequence[Any]: ...

    @abstractmethod
    def _settle(self, page: P, told: Sequence[Any]) -> Iterator[Outcome]: ...


class Digests(_Pages[_Page]):
    """Files to be hashed."""

    def one(self, entry: Entry, key: str) -> Iterator[Outcome]:
        try:
            if entry.kind != "file":
                raise InvalidError(f"a {entry.kind} has no bytes", where=self._root.where(key))
            data, at = self._source.read(entry)
        except ConflictError:
            yield digest_one(self._root, entry, None)
        except RhError as error:
            yield Outcome(key, error=error)
        else:
            now = entry if entry.etag is not None else entry_of(key, at)
            yield Outcome(key, now, None, *digest_of(data))

    def _page(self, folder: str, target: str) -> _Page:  # noqa: ARG002
        return _Page(folder)

    def _took(self, page: _Page, key: str, name: str, size: int) -> None:
        """Nothing but the entry is needed."""

    def _undone(self, page: _Page) -> None:
        """Reading leaves nothing."""

    def _asked(self, source: plain.Reached, page: _Page) -> tuple[Any, ...]:
        return "digest", [source], page.wanted

    def _work(self, folder: int, page: _Page) -> Sequence[Any]:
        return plain.digests(folder, page.wanted)

    def _settle(self, page: _Page, told: Sequence[Any]) -> Iterator[Outcome]:
        for entry, text in zip(page.entries, told, strict=True):
            if text is None:
                yield from self.one(entry, entry.key)
            else:
                yield Outcome(entry.key, entry, None, text, b"")


class Copies(_Pages[_Copy]):
    """Files to be copied into a batch, which publishes them."""

    def __init__(self, source: Source, batch: Batch, root: Root) -> None:
        super().__init__(source, root)
        self._batch = batch

    def one(self, entry: Entry, key: str) -> Iterator[Outcome]:
        try:
            if entry.kind == "dir":
                yield Outcome(key, self._batch.folder(key))
            elif entry.kind == "link":
                self._batch.add(key, Link(self._source.target(entry)), executable=False, digest=None)
            else:
                split(key, self._root.where)
                data, at = self._source.read(entry)
                text = digest_of(data)[0]
                expect(entry, text, self._source.where(entry.key))
                self._batch.add(key, data, executable=at.st_mode & 0o100 != 0, digest=text)
        except RhError as error:
            self._batch.lost(key)
            yield Outcome(key, error=error)

    def _page(self, folder: str, target: str) -> _Copy:
        page = _Copy(folder, place=self._batch.place(target))
        page.place.expected.append(page.names)
        return page

    def _took(self, page: _Copy, key: str, name: str, size: int) -> None:
        page.keys.append(key)
        if page.place.top is not None:
            page.names.append(name)
        else:
            page.names.append(temp())
            page.replaced.append(_raw(name))
        self._batch.claim(key, size)

    def _undone(self, page: _Copy) -> None:
        remove(page.place.descriptor, page.names)

    def _asked(self, source: plain.Reached, page: _Copy) -> tuple[Any, ...]:
        places = [source, page.place.reached()]
        return "copy", places, page.wanted, [_raw(name) for name in page.names], page.replaced

    def _work(self, folder: int, page: _Copy) -> Sequence[Any]:
        return plain.copies(folder, page.place.descriptor, page.wanted, page.names, page.replaced)

    def _settle(self, page: _Copy, told: Sequence[Any]) -> Iterator[Outcome]:
        page.place.expected.remove(page.names)
        stage = page.place.stage
        for number, copied in enumerate(told):
            check = page.entries[number].check
            if copied is None:
                yield from self.one(page.entries[number], page.keys[number])
            elif check is None or check == copied[-1]:
                stage(page.keys[number], page.names[number], copied)
            else:
                remove(page.place.descriptor, [page.names[number]])
                yield from self.one(page.entries[number], page.keys[number])  # which says what is wrong


def _raw(name: str) -> bytes:
    return name.encode() if name.isascii() else os.fsencode(name)
