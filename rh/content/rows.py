"""Rows of many keys at once, column by column: what compares and stores them does so a column at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from rh.content.tree import Row, key_bytes
from rh.types import Kind

__all__ = ["PAGE", "Cursor", "Rows", "paged", "position"]

PAGE = 1_000
"""How many rows go together."""


class Rows(NamedTuple):
    """`Row`s in key order. All columns have the same length."""

    keys: list[str]
    sizes: list[int]
    kinds: list[Kind]
    digests: list[str | None]
    etags: list[str | None]
    executables: list[bool | None]
    chunks: list[bytes]
    targets: list[str | None]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Rows:
        """Columns of these rows."""
        columns = tuple(map(list, zip(*rows, strict=True)))
        return cls._make(columns or ([] for _ in cls._fields))

    def each(self) -> Iterator[Row]:
        """One row after the other."""
        return map(Row._make, zip(*self, strict=True))

    def cut(self, at: int) -> tuple[Rows, Rows]:
        """The first `at` rows, and the others."""
        return Rows._make(column[:at] for column in self), Rows._make(column[at:] for column in self)

    def __add__(self, other: object) -> Rows:
        if not isinstance(other, Rows):
            return NotImplemented
        return Rows._make(mine + theirs for mine, theirs in zip(self, other, strict=True))  # type: ignore[operator]


def position(keys: list[str], key: str) -> int:
    """How many of these keys (in key order) are not after `key`."""
    return bisect_right(keys, key_bytes(key), key=key_bytes)


def paged(rows: Iterable[Row]) -> Iterator[Rows]:
    """Rows in key order as columns, `PAGE` at a time."""
    left = iter(rows)
    while page := list(islice(left, PAGE)):
        yield Rows.of(page)


class Cursor:
    """Rows in key order, walked along beside something else that is in key order. Nothing is read before it is used."""

    def __init__(self, pages: Iterable[Rows]) -> None:
        self._pages = iter(pages)
        self._page: Rows | None = None
        self._begun = False

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._page = next(self._pages, None)

    def until(self, key: str) -> Rows | None:
        """The next rows, up to this key and with it; `None` if there are none."""
        self._begin()
        taken: Rows | None = None
        while self._page is not None:
            page = self._page
            if page.keys[-1] != key:
                raw = key_bytes(key)
                if key_bytes(page.keys[0]) > raw:
                    break
                if key_bytes(page.keys[-1]) > raw:
                    page, self._page = page.cut(position(page.keys, key))
                    return page if taken is None else taken + page
            self._page = next(self._pages, None)
            taken = page if taken is None else taken + page
        return taken

    def between(self, first: str, last: str) -> Rows | None:
        """The next rows up to the key `last`, less pages that end before `first`."""
        self._begin()
        raw = key_bytes(first)
        while self._page is not None and key_bytes(self._page.keys[-1]) < raw:
            self._page = next(self._pages, None)
        return self.until(last)

    def rest(self) -> Iterator[Rows]:
        """All that is left."""
        self._begin()
        while self._page is not None:
            page = self._page
            self._page = next(self._pages, None)
            yield page
