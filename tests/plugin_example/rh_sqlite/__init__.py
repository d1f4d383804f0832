"""Objects under keys in one SQLite file: a system for millions of small things, and an example of a plug-in.

An object is a row and its pieces of 1 MiB. Writers take turns (`BEGIN IMMEDIATE`); a reader whose object is replaced
meanwhile gets `ConflictError`. Settings: `file`, the path of the database.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from rh.errors import (
    AccessError,
    ConflictError,
    DeadlineError,
    ExistsError,
    FullError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RhError,
    UnavailableError,
    UnsupportedError,
)
from rh.observe import count
from rh.systems.base import HIDDEN, Body, Bytes, Settings, System
from rh.types import ABSENT, ANY, Condition, Entry, Link, Location, Match, Span

__all__ = ["SQLiteSystem"]

PIECE = 1024 * 1024
PAGE = 1000
SELECT = "SELECT key, id, size, modified, sha256 FROM object"
SCHEMA = """
CREATE TABLE IF NOT EXISTS object (
    key BLOB PRIMARY KEY, id TEXT NOT NULL, size INTEGER NOT NULL, modified REAL NOT NULL, sha256 TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS piece (id TEXT, number INTEGER, data BLOB NOT NULL, PRIMARY KEY (id, number)) WITHOUT ROWID;
"""


class SQLiteSystem(System):
    """A prefix of the keys in one SQLite file."""

    kind: ClassVar[str] = "sqlite"

    def __init__(self, location: Location, settings: Settings, database: _Database) -> None:
        self.location = location
        self.settings = settings
        self._database = database
        root = location.path.strip("/")
        self._root = f"{root}/" if root else ""

    @classmethod
    def open(cls, location: Location, settings: Settings) -> SQLiteSystem:
        if not settings.get("file"):
            raise InvalidError("a sqlite system needs a file", hint=f"set systems.{location.system}.file")
        return cls(location, settings, _Database(str(settings["file"]), float(settings["timeout_s"])))

    def at(self, path: str) -> SQLiteSystem:
        return SQLiteSystem(self.location / path, self.settings, self._database) if path else self

    def close(self) -> None:
        self._database.close()

    def list(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        """Page by page, so that no transaction stays open between two entries."""
        first, last = self._encode(prefix), self._encode(after) if after else b""
        while True:
            count(self.location.system, "list")
            with self._database.use(self.url(prefix)) as link:
                rows = link.execute(
                    f"{SELECT} WHERE key >= ? AND key > ? ORDER BY key LIMIT ?",
                    (first, last, PAGE),
                ).fetchall()
            for row in rows:
                last = row[0]
                if not last.startswith(first):
                    return
                key = self._decode(last)
                below, slash, _ = key[len(prefix) :].partition("/")
                if key.rpartition("/")[2].startswith(HIDDEN):
                    continue
                if depth == 1 and slash:
                    folder = f"{prefix}{below}/"
                    last = self._encode(folder[:-1]) + b"/\xff"  # no UTF-8 text sorts behind this one
                    if self._encode(folder) > self._encode(after) and self._shown(folder):
                        yield Entry(folder, 0, "dir")
                    break
                yield self._entry(key, row)
            else:
                if len(rows) < PAGE:
                    return

    def _shown(self, folder: str) -> bool:
        return next(self.list(folder), None) is not None

    def head(self, key: str) -> Entry:
        count(self.location.system, "head")
        with self._database.use(self.url(key)) as link:
            return self._entry(key, self._row(link, key))

    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:
        if when is ABSENT or (span is not None and not 0 <= span[0] <= span[1]):
            raise InvalidError(f"cannot read {span} when {when}", where=self.url(key))
        entry = self.head(key)
        if isinstance(when, Match) and entry.etag != when.etag:
            raise ConflictError("it has changed in the meantime", where=self.url(key))
        return _Pieces(self, entry, span or (0, entry.size))

    def write(
        self,
        key: str,
        data: Bytes | Iterable[Bytes] | Link,
        *,
        size: int | None = None,
        executable: bool | None = None,
        when: Condition = ANY,
    ) -> Entry:
        """The stream is taken in first: the database is locked only as long as it takes to store what has arrived."""
        where = self.url(key)
        if isinstance(data, Link):
            raise UnsupportedError("this place has no links", where=where)
        pieces = [data] if isinstance(data, bytes | bytearray | memoryview) else data
        if key.endswith("/") and not any(map(len, pieces)):
            raise UnsupportedError("this place has no empty directories", where=where)
        if not key or key.endswith("/"):
            raise InvalidError(f"{key!r} names no object", where=where)
        name, state, new = self._encode(key), hashlib.sha256(), uuid.uuid4().hex
        with tempfile.SpooledTemporaryFile(max_size=8 * PIECE) as spool:
            for piece in pieces:
                state.update(piece)
                spool.write(piece)
            total = spool.tell()
            if size is not None and size != total:
                raise IntegrityError("the stream has another length", where=where, expected=str(size), got=str(total))
            count(self.location.system, "write", sent=total)
            spool.seek(0)
            with self._database.use(where) as link:
                link.execute("BEGIN IMMEDIATE")
                old = link.execute("SELECT id FROM object WHERE key = ?", (name,)).fetchone()
                if when is ABSENT and old is not None:
                    raise ExistsError("something is there already", where=where)
                if isinstance(when, Match) and (old is None or old[0] != when.etag):
                    raise ConflictError("it has changed in the meantime", where=where)
                if old is not None:
                    link.execute("DELETE FROM piece WHERE id = ?", old)
                for number, piece in enumerate(iter(lambda: spool.read(PIECE), b"")):
                    link.execute("INSERT INTO piece VALUES (?, ?, ?)", (new, number, piece))
                row = (name, new, total, time.time(), state.hexdigest())
                link.execute("INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?)", row)
                link.execute("COMMIT")
        return self._entry(key, row)

    def delete(self, keys: Sequence[str]) -> None:
        count(self.location.system, "delete")
        with self._database.use(self.url()) as link:
            link.execute("BEGIN IMMEDIATE")
            for key in keys:
                name = (self._encode(key),)
                link.execute("DELETE FROM piece WHERE id = (SELECT id FROM object WHERE key = ?)", name)
                link.execute("DELETE FROM object WHERE key = ?", name)
            link.execute("COMMIT")

    def piece(self, entry: Entry, number: int) -> bytes:
        """One piece of an object, as it was when its entry was read."""
        with self._database.use(self.url(entry.key)) as link:
            row = link.execute("SELECT data FROM piece WHERE id = ? AND number = ?", (entry.etag, number)).fetchone()
        if row is None:
            raise ConflictError("it was replaced while it was read", where=self.url(entry.key))
        return bytes(row[0])

    def _encode(self, key: str) -> bytes:
        return (self._root + key).encode("utf-8", "surrogateescape")

    def _decode(self, name: bytes) -> str:
        return name.decode("utf-8", "surrogateescape")[len(self._root) :]

    def _entry(self, key: str, row: Sequence[Any]) -> Entry:
        _, etag, size, modified, sha256 = row
        return Entry(key, size, etag=etag, modified=modified, check=f"sha256:{sha256}")

    def _row(self, link: sqlite3.Connection, key: str) -> Sequence[Any]:
        found = link.execute(f"{SELECT} WHERE key = ?", (self._encode(key),))
        row: Sequence[Any] | None = found.fetchone()
        if row is None:
            raise NotFoundError("nothing is there", where=self.url(key))
        return row


class _Pieces(Body):
    def __init__(self, system: SQLiteSystem, entry: Entry, span: Span) -> None:
        self.entry = entry
        self._system = system
        self._start, self._stop = min(span[0], entry.size), min(span[1], entry.size)

    def __iter__(self) -> Iterator[Bytes]:
        for number in range(self._start // PIECE, -(-self._stop // PIECE) if self._stop > self._start else 0):
            at = number * PIECE
            data = memoryview(self._system.piece(self.entry, number))[max(0, self._start - at) : self._stop - at]
            count(self._system.location.system, "read", received=len(data))
            yield data


class _Database:
    """A connection for each thread and process; errors become those of `rh`."""

    def __init__(self, file: str, timeout_s: float) -> None:
        self._file = file
        self._timeout_s = timeout_s
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._all: list[tuple[int, sqlite3.Connection]] = []

    @contextmanager
    def use(self, where: str) -> Iterator[sqlite3.Connection]:
        try:
            link = self._link()
            try:
                yield link
            finally:
                if link.in_transaction:
                    link.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise _error(error, where) from error

    def _link(self) -> sqlite3.Connection:
        pid, link = getattr(self._mine, "link", (0, None))
        if link is None or pid != os.getpid():
            link = sqlite3.connect(self._file, timeout=self._timeout_s, isolation_level=None, check_same_thread=False)
            link.executescript(SCHEMA)
            self._mine.link = os.getpid(), link
            with self._lock:
                self._all.append(self._mine.link)
        return link

    def close(self) -> None:
        with self._lock:
            links, self._all, self._mine = self._all, [], threading.local()
        for pid, link in links:
            if pid == os.getpid():
                link.close()


def _error(error: sqlite3.Error, where: str) -> RhError:
    code = getattr(error, "sqlite_errorname", "") or ""
    text = f"the database failed: {error}"
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return DeadlineError("the database stayed locked by others", where=where)
    if code.startswith("SQLITE_FULL"):
        return FullError("no space is left for the database", where=where)
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return IntegrityError(text, where=where)
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return AccessError(text, where=where)
    return UnavailableError(text, where=where)
