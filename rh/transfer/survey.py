"""What is at a place, with what is known of its content: a listing merged with the manifest and the digest cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rh.content import manifest
from rh.content.cache import DigestCache
from rh.content.tree import Row, key_bytes
from rh.errors import IntegrityError, InvalidError, NotFoundError, UnsupportedError
from rh.systems.abilities import Following
from rh.systems.base import System
from rh.transfer.options import Links
from rh.types import Entry

__all__ = ["Known", "Survey"]

_DISKS = frozenset({"file", "ssh"})
"""Kinds whose listing itself tells an empty root from a missing one."""


class Known(NamedTuple):
    """An entry and what is known of it: the digest of its content, chunk digests, and the executable bit."""

    entry: Entry
    digest: str | None
    chunks: bytes
    executable: bool | None

    def row(self) -> Row:
        """The same for a manifest."""
        entry = self.entry
        return Row(
            entry.key, entry.size, entry.kind, self.digest, entry.etag, self.executable, self.chunks, entry.target
        )


class Survey:
    """A pass over a tree in key order. Iterate it once.

    Args:
        system: the tree's root.
        links: what to do with symbolic links (`None` leaves them as they are).
        must_exist: whether nothing at all is an error, on places that cannot tell an empty root from a missing one.
        believe: whether to read the manifest; without, the tree is one that other tools wrote.

    Attributes:
        exact: after the iteration, whether the manifest describes just what is there.
        found: how many entries there were.
    """

    def __init__(
        self, system: System, *, links: Links | None = None, must_exist: bool = True, believe: bool = True
    ) -> None:
        self.system = system
        self.exact = False
        self.found = 0
        self.footer: manifest.Footer | None = None
        self.manifest_read = False
        self._links = links
        self._must_exist = must_exist
        self._believe = believe

    def _entries(self) -> Iterator[Entry]:
        system = self.system
        links = self._links
        following = system.ask(Following) if links == "follow" else None
        if following is not None:
            yield from following.list_following()
            return
        for entry in system.list():
            if entry.kind == "link" and links is not None:
                if links == "skip":
                    continue
                if links == "error":
                    raise InvalidError(
                        "the source has a symbolic link",
                        where=system.url(entry.key),
                        hint='links="follow", "keep" or "skip"',
                    )
                if links == "follow":
                    raise UnsupportedError(
                        "links cannot be followed here",
                        where=system.url(entry.key),
                        hint='links="keep" or links="skip"',
                    )
            yield entry

    def __iter__(self) -> Iterator[Known]:
        system = self.system
        rows = manifest.read(system) if self._believe else None
        self.manifest_read = rows is not None
        described = _Cursor(self._rows(rows))
        cached = _Cursor(DigestCache(system).rows())
        stale = False
        last = b""
        held: Row | None = None
        for entry in self._entries():
            key = key_bytes(entry.key)
            if key <= last and self.found:
                raise IntegrityError("the listing is out of order", where=system.url(entry.key))
            last = key
            for row in described.before(key):
                # A directory that only the manifest knows: the place keeps none, and nothing lies in it (yet).
                if held is not None:
                    yield self._directory(held)
                    held = None
                if row.kind == "dir" and not system.keeps_directories:
                    held = row
                else:
                    stale = True
            if held is not None:
                if entry.key.startswith(held.key):
                    stale = True
                else:
                    yield self._directory(held)
                held = None
            self.found += 1
            row_at = described.at(key)
            if (
                row_at is None
                or row_at.kind != entry.kind
                or (entry.kind != "dir" and (row_at.etag != entry.etag or row_at.size != entry.size))
            ):
                row_at = None
                stale = True
            executable = entry.executable
            if row_at is not None:
                if executable is None:
                    executable = row_at.executable
                yield Known(entry, row_at.digest, row_at.chunks, executable)
                continue
            row_at = cached.seek(key)
            if row_at is not None and entry.etag is not None and row_at.etag == entry.etag:
                yield Known(entry, row_at.digest, row_at.chunks, executable)
            else:
                yield Known(entry, None, b"", executable)
        for row in described.rest():
            if held is not None:
                yield self._directory(held)
                held = None
            if row.kind == "dir" and not system.keeps_directories:
                held = row
            else:
                stale = True
        if held is not None:
            yield self._directory(held)
        self.exact = self.manifest_read and not stale
        if self._must_exist and not self.found and not self.manifest_read and system.kind not in _DISKS:
            self._nothing()

    def _rows(self, rows: Iterator[Row | manifest.Footer] | None) -> Iterator[Row]:
        for row in rows or ():
            if isinstance(row, manifest.Footer):
                self.footer = row
            else:
                yield row

    def _directory(self, row: Row) -> Known:
        self.found += 1
        return Known(Entry(row.key, 0, "dir"), None, b"", None)

    def _nothing(self) -> None:
        raise NotFoundError("there is nothing under this prefix", where=self.system.url())


class _Cursor:
    """Rows in key order, walked along beside a listing."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._row: Row | None = None
        self._key = b""
        self._step()

    def _step(self) -> None:
        self._row = next(self._rows, None)
        if self._row is not None:
            self._key = key_bytes(self._row.key)

    def before(self, key: bytes) -> Iterator[Row]:
        while self._row is not None and self._key < key:
            row = self._row
            self._step()
            yield row

    def at(self, key: bytes) -> Row | None:
        if self._row is None or self._key != key:
            return None
        row = self._row
        self._step()
        return row

    def seek(self, key: bytes) -> Row | None:
        while self._row is not None and self._key < key:
            self._step()
        return self.at(key)

    def rest(self) -> Iterator[Row]:
        while self._row is not None:
            row = self._row
            self._step()
            yield row
