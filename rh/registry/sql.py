"""The registry in one SQLite file: no server, many processes.

Every call opens its own connection. That costs a fraction of a millisecond, and in return nothing is shared between
threads, nothing crosses a `fork`, no descriptor stays open and a file that was replaced is noticed. Writers take the
write lock at once (`BEGIN IMMEDIATE`) and wait for it up to the deadline; readers see the last committed state and wait
for nobody. Each change is on disk when the call returns.
"""

from __future__ import annotations

import builtins
import itertools
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rh import config, sqlite
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
from rh.registry.base import (
    Change,
    Delete,
    Put,
    Record,
    Registry,
    Step,
    author,
    check_steps,
    new_token,
    request_digest,
)
from rh.registry.documents import decode, encode
from rh.types import ABSENT, ANY, Condition, Match

__all__ = ["MIGRATIONS", "SQLRegistry"]

APPLICATION = 0x72685247
"""Marks the file as ours (`pragma application_id`): `rhRG`."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """create table changes (sequence integer primary key, key text not null, revision integer not null,
           action text not null, document text, author text not null, time real not null, token text not null,
           moved text, unique (key, revision))""",
        "create index changes_token on changes (token)",
        "create table records (key text primary key, sequence integer not null references changes) without rowid",
        "create table commits (token text primary key, request text not null) without rowid",
    ),
)
"""The schema, step by step; step n makes schema n + 1 (`pragma user_version`). Released steps never change."""

_GET = """select c.key, revision, action, document, author, time, token, moved
          from records r join changes c using (sequence) where r.key = ?"""
_LIST = """select c.key, revision, action, document, author, time, token, moved
           from records r join changes c using (sequence) where r.key >= ? and r.key > ? order by r.key limit ?"""
_HISTORY = """select key, revision, action, document, author, time, token, moved
              from changes where key = ? and revision > ? order by revision limit ?"""
_SAME = """select key, revision, action, document, author, time, token, moved
               from changes where token = ? order by sequence"""
_CHANGES = """select key, revision, action, document, author, time, token, moved, sequence
              from changes where sequence > ? order by sequence limit ?"""
_ADD = """insert into changes (key, revision, action, document, author, time, token, moved)
          values (?, ?, ?, ?, ?, ?, ?, ?)"""
_PAGE = 1000
_SHARED = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p", "fuse")


class SQLRegistry(Registry):
    """A registry in the SQLite file `path`, which the first change creates."""

    def __init__(self, path: str | os.PathLike[str], *, timeout_s: float | None = None) -> None:
        self.path = Path(os.path.abspath(os.path.expanduser(os.fspath(path))))
        self.url = f"sqlite://{self.path}"
        self._timeout_s = timeout_s

    # How the file is opened.

    @contextmanager
    def _open(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        """A connection with the current schema, in a transaction if `write`. Errors leave as ours."""
        timeout_s = self._timeout_s if self._timeout_s is not None else float(config.get("timeout_s"))
        deadline = time.monotonic() + timeout_s
        try:
            if write:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._connected(timeout_s, write=write) as db:
                self._prepare(db, deadline)
                if not write:
                    yield db
                    return
                _retry(lambda: db.execute("begin immediate"), deadline)
                try:
                    yield db
                    db.execute("commit")
                finally:
                    if db.in_transaction:
                        db.execute("rollback")
        except RhError:
            raise
        except (sqlite3.Error, OSError) as error:
            raise _translated(error, self.url, timeout_s) from error

    def _connected(self, timeout_s: float, *, write: bool) -> AbstractContextManager[sqlite3.Connection]:
        # A reader must not bring an empty file into being; `mode=rw` also lets SQLite mend what a crash left.
        mode = "rwc" if write else "rw"
        uri = f"{self.path.as_uri()}?mode={mode}"
        return sqlite.opened(uri, timeout=timeout_s, isolation_level=None, uri=True, check_same_thread=False)

    def _prepare(self, db: sqlite3.Connection, deadline: float) -> None:
        schema = _retry(lambda: self._schema(db), deadline)
        if schema != len(MIGRATIONS):
            _retry(lambda: _journal(db, self.path), deadline)
            _retry(lambda: db.execute("begin immediate"), deadline)
            try:
                for number, step in enumerate(MIGRATIONS[self._schema(db) :], self._schema(db) + 1):
                    for statement in step:
                        db.execute(statement)
                    db.execute(f"pragma user_version = {number}")
                db.execute(f"pragma application_id = {APPLICATION}")
                db.execute("commit")
            finally:
                if db.in_transaction:
                    db.execute("rollback")
        db.execute("pragma synchronous = full")

    def _schema(self, db: sqlite3.Connection) -> int:
        """The schema's number; 0 for a fresh file. Writes nothing."""
        outer = db.in_transaction
        if not outer:
            db.execute("begin")  # one snapshot: another process may be making the schema just now
        try:
            (application,) = db.execute("pragma application_id").fetchone()
            (schema,) = db.execute("pragma user_version").fetchone()
            tables = db.execute("select 1 from sqlite_master").fetchone()
        finally:
            if not outer and db.in_transaction:
                db.execute("rollback")
        if application != APPLICATION and (application or schema or tables):
            raise InvalidError(
                "this file is a database of something else", where=self.url, hint="name another file in RH_REGISTRY"
            )
        if schema > len(MIGRATIONS):
            raise UnsupportedError(
                f"the registry has schema {schema}; this version of rh knows schemas up to {len(MIGRATIONS)}",
                where=self.url,
                hint="upgrade rh-data",
            )
        return int(schema)

    # The contract.

    def get(self, key: str) -> Record:
        if self._is_there():
            with self._open(write=False) as db:
                row = _current(db, key)
            if row is not None:
                return self._record(row)
        raise NotFoundError(f"nothing is registered as {key!r}", where=self.url)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Record]:
        if not self._is_there():
            return
        while True:
            # Page by page, so that a slow reader holds no snapshot and no lock.
            with self._open(write=False) as db:
                rows = db.execute(_LIST, (prefix, after, _PAGE)).fetchall()
            for row in rows:
                if not row[0].startswith(prefix):
                    return
                yield self._record(row)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def history(self, key: str, *, after: int = 0) -> Iterator[Change]:
        if not self._is_there():
            return
        while True:
            with self._open(write=False) as db:
                rows = db.execute(_HISTORY, (key, after, _PAGE)).fetchall()
            yield from map(self._change, rows)
            if len(rows) < _PAGE:
                return
            after = rows[-1][1]

    def changes(self, prefix: str = "") -> Iterator[Change]:
        if not self._is_there():
            return
        last = 0
        while True:
            with self._open(write=False) as db:
                rows = db.execute(_CHANGES, (last, _PAGE)).fetchall()
            yield from (self._change(row[:8]) for row in rows if row[0].startswith(prefix))
            if len(rows) < _PAGE:
                return
            last = rows[-1][8]

    def replay(self, changes: Iterable[Change]) -> int:
        new = 0
        commits = (builtins.list(commit) for _, commit in itertools.groupby(changes, key=lambda change: change.token))
        while batch := builtins.list(itertools.islice(commits, _PAGE)):
            with self._open(write=True) as db:
                new += sum(self._replay(db, change) for commit in batch for change in commit)
        return new

    def commit(self, steps: Sequence[Step], *, by: str | None = None, token: str | None = None) -> Sequence[Change]:
        check_steps(steps, self.url)
        by = by or author()
        request = request_digest(steps)
        with self._open(write=True) as db:
            if token:
                done = db.execute("select request from commits where token = ?", (token,)).fetchone()
                if done is not None:
                    if done[0] not in (request, ""):  # none is known of what was taken over
                        raise InvalidError("this token was used for other changes", where=self.url)
                    rows = db.execute(_SAME, (token,))
                    return [self._change(row) for row in rows]
            token = token or new_token()
            now = time.time()
            made: builtins.list[Change] = []
            for step in steps:
                made += self._apply(db, step, by, now, token)
            db.execute("insert into commits values (?, ?)", (token, request))
        return made

    def close(self) -> None:
        """Nothing stays open between calls."""

    # One step of a commit, inside its transaction.

    def _apply(self, db: sqlite3.Connection, step: Step, by: str, now: float, token: str) -> Iterator[Change]:
        row = _current(db, step.key)
        self._check(step.key, row, step.when, needed=not isinstance(step, Put))
        if isinstance(step, Put):
            yield self._add(db, Change(step.key, 0, "put", dict(step.document), by, now, token))
        elif isinstance(step, Delete):
            yield self._add(db, Change(step.key, 0, "delete", None, by, now, token))
        elif row is not None:
            there = _current(db, step.to)
            if not step.replace:
                self._check(step.to, there, ABSENT, needed=False)
            yield self._add(db, Change(step.key, 0, "delete", None, by, now, token, moved=step.to))
            yield self._add(db, Change(step.to, 0, "put", decode(row[3]), by, now, token, moved=step.key))

    def _check(self, key: str, row: tuple[Any, ...] | None, when: Condition, *, needed: bool) -> None:
        if isinstance(when, Match):
            if row is None:
                raise ConflictError(f"{key!r} is gone; it was at revision {when.etag}", where=self.url)
            if str(row[1]) != when.etag:
                raise ConflictError(f"{key!r} is at revision {row[1]} (by {row[4]}), not {when.etag}", where=self.url)
        elif when is ABSENT and row is not None:
            raise ExistsError(f"{key!r} is there already, at revision {row[1]} (by {row[4]})", where=self.url)
        elif when is ANY and needed and row is None:
            raise NotFoundError(f"nothing is registered as {key!r}", where=self.url)

    def _add(self, db: sqlite3.Connection, change: Change) -> Change:
        change = change._replace(revision=_newest(db, change.key) + 1)
        self._insert(db, change)
        return change

    def _replay(self, db: sqlite3.Connection, change: Change) -> bool:
        """Take over a change unless it is here; whether it was new."""
        there = db.execute(_HISTORY, (change.key, change.revision - 1, 1)).fetchone()
        if there is not None:
            if self._change(there) != change:
                raise ConflictError(
                    f"{change.key!r} has another change as revision {change.revision}, by {there[4]}", where=self.url
                )
            return False
        if _newest(db, change.key) != change.revision - 1:
            raise ConflictError(f"{change.key!r} has no revision {change.revision - 1}", where=self.url)
        self._insert(db, change)
        db.execute("insert or ignore into commits values (?, '')", (change.token,))
        return True

    def _insert(self, db: sqlite3.Connection, change: Change) -> None:
        key = change.key
        document = None if change.document is None else encode(change.document).decode()
        cursor = db.execute(_ADD, (key, change.revision, change.action, document, *change[4:]))
        if change.action == "put":
            db.execute("insert or replace into records values (?, ?)", (key, cursor.lastrowid))
        else:
            db.execute("delete from records where key = ?", (key,))

    # Rows.

    def _record(self, row: tuple[Any, ...]) -> Record:
        return Record(row[0], row[1], self._decode(row[3], row[0]), row[4], row[5])

    def _change(self, row: tuple[Any, ...]) -> Change:
        document = None if row[3] is None else self._decode(row[3], row[0])
        return Change(row[0], row[1], row[2], document, *row[4:])

    def _decode(self, text: str, key: str) -> dict[str, Any]:
        try:
            return decode(text)
        except ValueError as error:
            raise IntegrityError(f"the record of {key!r} is damaged: {error}", where=self.url) from error

    def _is_there(self) -> bool:
        """Whether there is a file; none is an empty registry, unless its place cannot be looked at."""
        try:
            os.stat(self.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _translated(error, self.url, 0.0) from error
        return True


def _current(db: sqlite3.Connection, key: str) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = db.execute(_GET, (key,)).fetchone()
    return row


def _newest(db: sqlite3.Connection, key: str) -> int:
    """The last revision of a key; 0 for one never used."""
    (last,) = db.execute("select max(revision) from changes where key = ?", (key,)).fetchone()
    return last or 0


def _journal(db: sqlite3.Connection, path: Path) -> None:
    """Write-ahead logging, which lets readers go on beside a writer; not where several machines may share the file."""
    db.execute(f"pragma journal_mode = {'delete' if _is_shared(path) else 'wal'}")


def _is_shared(path: Path) -> bool:
    """Whether the file is on a network's file system, where the memory that a write-ahead log shares does not work."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False
    best, kind = "", ""
    text = os.path.realpath(path)
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = left.split(" ")[4].replace("\\040", " ")
        if len(mount) >= len(best) and (text + "/").startswith(mount.rstrip("/") + "/"):
            best, kind = mount, right.split(" ")[0]
    return kind.startswith(_SHARED) and kind != "fuseblk"


def _retry(action: Any, deadline: float) -> Any:
    """Call `action` until the file is not busy. SQLite's own waiting does not cover opening and closing of the log."""
    pause = 0.001
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.1)


def _translated(error: Exception, where: str, timeout_s: float) -> RhError:
    """The error of SQLite or the operating system as one of ours."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return DeadlineError(
                f"the registry stayed locked for {timeout_s:g} s", where=where, hint="another process is writing"
            )
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return IntegrityError(
                f"the registry is damaged: {error}",
                where=where,
                hint="put a copy of it back, or move the file away to start anew",
            )
        if code == sqlite3.SQLITE_FULL:
            return FullError("no space is left for the registry", where=where)
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            return AccessError(f"the registry cannot be opened for this: {error}", where=where, hint=_PLACE)
        return UnavailableError(f"the registry cannot be used: {error}", where=where)
    import errno

    number = getattr(error, "errno", None)
    if number == errno.EEXIST:
        number = errno.ENOTDIR  # what `mkdir` says of a file in its way
    reason = os.strerror(number) if number else str(error)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return FullError("no space is left for the registry", where=where)
    return AccessError(f"the registry's place cannot be used: {reason}", where=where, hint=_PLACE)


_PLACE = "set RH_HOME (or RH_REGISTRY=sqlite:///path) to a place you may write"
