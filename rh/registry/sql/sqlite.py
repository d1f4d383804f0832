"""The registry in one SQLite file: no server, many processes.

Connections are kept between calls, a few for the whole process, because opening one costs more than a commit. No call
shares its connection, a fork closes those that are idle and waits for the others (`rh.forks`), and a file that was
replaced is opened anew. Writers take the write lock at once (`BEGIN IMMEDIATE`) and wait for it up to the deadline;
readers see the last committed state and wait for nobody. Each change is on disk when the call returns.
"""

from __future__ import annotations

import atexit
import builtins
import errno
import json
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

from rh import config
from rh.errors import (
    AccessError,
    DeadlineError,
    FullError,
    IntegrityError,
    InvalidError,
    RhError,
    UnavailableError,
)
from rh.forks import Lock, databases
from rh.observe import log
from rh.registry.base import NewerError, begun
from rh.registry.documents import decode
from rh.registry.sql import index
from rh.registry.sql.relational import TABLES, Dialect, Query, RelationalRegistry, Row, Session

__all__ = ["MIGRATIONS", "NETWORK_DISK", "SHARED", "SQLiteRegistry", "on_network"]

T = TypeVar("T")
APPLICATION = 0x72685247
"""Marks the file as ours (`pragma application_id`): `rhRG`."""


def _fill_index(db: sqlite3.Connection) -> None:
    """The properties of the records that are there."""
    add = db.cursor()
    for sequence, document in db.execute("select sequence, document from records join changes using (sequence)"):
        entries = [(name, value, sequence) for name, value in index.rows(decode(document))]
        add.executemany("insert into properties values (?, ?, ?)", entries)


MIGRATIONS: tuple[tuple[str | Callable[[sqlite3.Connection], None], ...], ...] = (
    (
        """create table changes (sequence integer primary key, key text not null, revision integer not null,
           action text not null, document text, author text not null, time real not null, token text not null,
           moved text, unique (key, revision))""",
        "create index changes_token on changes (token)",
        "create table records (key text primary key, sequence integer not null references changes) without rowid",
        "create table commits (token text primary key, request text not null) without rowid",
    ),
    (
        """create table properties (name blob not null, value blob not null, sequence integer not null,
           primary key (name, value, sequence)) without rowid""",
        "create index properties_sequence on properties (sequence, name, value)",
        _fill_index,
    ),
)
"""The schema, step by step; step n makes schema n + 1 (`pragma user_version`). Released steps never change."""

_SHARED = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p", "fuse")
NETWORK_DISK = "a network disk: safe only if its locks are, and slower than elsewhere"
SHARED = "file:///directory is the kind of registry for a shared disk"
_KEPT = 8
"""Idle connections of the process."""


class SQLiteRegistry(RelationalRegistry):
    """A registry in the SQLite file `path`, which the first change creates."""

    dialect: ClassVar[Dialect] = Dialect(
        keys="(select value as key from json_each(?))",
        among="{} in (select value from json_each(?))",
        contains="instr(p.value, ?) > 0",
        next="select coalesce(max(sequence), 0) + 1 from @changes",
        array=json.dumps,
    )

    def __init__(self, path: str | os.PathLike[str], *, timeout_s: float | None = None) -> None:
        self.path = Path(os.path.abspath(os.path.expanduser(os.fspath(path))))
        self.url = f"sqlite://{self.path}"
        self._timeout_s = timeout_s

    def close(self) -> None:
        _connections.close(str(self.path))

    def _read(self, work: Callable[[Session], T], *, nothing: T, snapshot: bool = True) -> T:  # noqa: ARG002 - always is
        if not self._is_there():
            return nothing
        with self._open(write=False) as db:
            return work(_Session(db))

    def _write(self, work: Callable[[Session], T], keys: Sequence[str], token: str) -> T:  # noqa: ARG002 - one at a time
        with self._open(write=True) as db:
            return work(_Session(db))

    # How the file is opened.

    @contextmanager
    def _open(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        """A connection with the current schema, in a transaction. Errors leave as ours."""
        if self._timeout_s is None:
            self._timeout_s = float(config.get("timeout_s"))
        timeout_s = self._timeout_s
        deadline = time.monotonic() + timeout_s
        try:
            if write:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._connected(deadline, write=write) as db:
                try:
                    self._begin(db, deadline, write=write)
                    yield db
                    _retry(lambda: db.execute("commit"), deadline)
                finally:
                    if db.in_transaction:
                        db.execute("rollback")
        except RhError:
            raise
        except (sqlite3.Error, OSError) as error:
            raise _translated(error, self.url, timeout_s) from error
        except UnicodeEncodeError as error:
            raise InvalidError("text that is not valid Unicode", where=self.url) from error

    def _connected(self, deadline: float, *, write: bool) -> AbstractContextManager[sqlite3.Connection]:
        # A reader must not bring an empty file into being; `mode=rw` also lets SQLite mend what a crash left.
        return _connections.one(self.path, f"{self.path.as_uri()}?mode={'rwc' if write else 'rw'}", deadline)

    def _begin(self, db: sqlite3.Connection, deadline: float, *, write: bool) -> None:
        begin = "begin immediate" if write else "begin"
        _retry(lambda: db.execute(begin), deadline)
        if _retry(lambda: self._schema(db), deadline) != len(MIGRATIONS):
            db.execute("rollback")
            self._migrate(db, deadline)
            _retry(lambda: db.execute(begin), deadline)

    def _migrate(self, db: sqlite3.Connection, deadline: float) -> None:
        _retry(lambda: _journal(db, self.path), deadline)
        _retry(lambda: db.execute("begin immediate"), deadline)
        try:
            before = self._schema(db)
            for number, step in enumerate(MIGRATIONS[before:], before + 1):
                for action in step:
                    if isinstance(action, str):
                        db.execute(action)
                    else:
                        action(db)
                db.execute(f"pragma user_version = {number}")
            db.execute(f"pragma application_id = {APPLICATION}")
            _retry(lambda: db.execute("commit"), deadline)
            if before == 0:
                self._tell()
        finally:
            if db.in_transaction:
                db.execute("rollback")

    def _tell(self) -> None:
        """Say what may not have been meant of a registry that was just made."""
        if config.home() not in self.path.parents:
            begun(self.url)
            if on_network(self.path):
                log.warning("%s is on %s; %s", self.url, NETWORK_DISK, SHARED)

    def _schema(self, db: sqlite3.Connection) -> int:
        """The schema's number, in a transaction; 0 for a fresh file. Writes nothing."""
        (application,) = db.execute("pragma application_id").fetchone()
        (schema,) = db.execute("pragma user_version").fetchone()
        if application != APPLICATION and (
            application or schema or db.execute("select 1 from sqlite_master").fetchone()
        ):
            raise InvalidError("this file is a database of something else", where=self.url, hint=self._elsewhere())
        if schema > len(MIGRATIONS):
            raise NewerError(
                f"the registry has schema {schema}; this version of rh knows schemas up to {len(MIGRATIONS)}",
                where=self.url,
                hint="upgrade rh-data",
            )
        return int(schema)

    def _elsewhere(self) -> str:
        """What makes the registry another file: that of this machine has its place by `RH_HOME`."""
        if self.path == Path(os.path.abspath(config.home() / "registry.db")):
            return f"move {self.path} away, or set RH_HOME to another directory"
        return "name another file in RH_REGISTRY"

    def _is_there(self) -> bool:
        """Whether there is a file; none is an empty registry, unless its place cannot be looked at."""
        try:
            os.stat(self.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _translated(error, self.url, 0.0) from error
        return True


class _Session(Session):
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def select(self, *queries: Query) -> builtins.list[builtins.list[Row]]:
        return [self._db.execute(_bare(statement), values).fetchall() for statement, values in queries]

    def insert(self, table: str, rows: Sequence[Row], conflict: str = "") -> None:
        columns = TABLES[table]
        statement = f"insert into {table} ({', '.join(columns)}) values ({', '.join('?' * len(columns))})"
        self._db.executemany(f"{statement} on conflict {conflict}" if conflict else statement, rows)

    def remove(self, table: str, column: str, values: Sequence[Any]) -> None:
        self._db.executemany(f"delete from {table} where {column} = ?", ((value,) for value in values))


def _bare(statement: str) -> str:
    return statement.replace("@", "")


# Connections between calls.

_File: TypeAlias = tuple[int, int]


class _Idle(NamedTuple):
    path: str
    file: _File
    """Device and inode: the path may have become another file's."""
    db: sqlite3.Connection


class _Connections:
    """The connections of this process that no call has in use.

    A child that works on a file of which it inherited a connection takes the parent's locks for its own and damages the
    file, so none is open while the process forks.
    """

    def __init__(self) -> None:
        self._idle: list[_Idle] = []
        self._lock = Lock()
        self._forking = False

    @contextmanager
    def one(self, path: Path, uri: str, deadline: float) -> Iterator[sqlite3.Connection]:
        """A connection for one block. It is closed after an error that is not ours."""
        with databases:
            if databases.torn:
                raise sqlite3.OperationalError("this process was forked while a database was in use; spawn it instead")
            file = _file(path)
            db = None if file is None else self._take(str(path), file)
            if db is None:
                # Whoever finds the file busy asks again by `_retry`, more often than SQLite would.
                db = sqlite3.connect(uri, timeout=0, isolation_level=None, uri=True, check_same_thread=False)
            healthy = False
            try:
                _retry(lambda: db.execute("pragma synchronous = full"), deadline)
                yield db
                healthy = True
            except RhError:
                healthy = True
                raise
            finally:
                file = _file(path) if file is None else file
                if not (healthy and file is not None and self._keep(_Idle(str(path), file, db))):
                    db.close()

    def _take(self, path: str, file: _File) -> sqlite3.Connection | None:
        old = []
        try:
            with self._lock:
                for n in range(len(self._idle) - 1, -1, -1):
                    if self._idle[n].path == path:
                        idle = self._idle.pop(n)
                        if idle.file == file:
                            return idle.db
                        old.append(idle)
                return None
        finally:
            for idle in old:
                idle.db.close()

    def _keep(self, idle: _Idle) -> bool:
        with self._lock:
            if self._forking:
                return False
            self._idle.append(idle)
            old = self._idle.pop(0) if len(self._idle) > _KEPT else None
        if old is not None:
            old.db.close()
        return True

    def close(self, path: str | None = None) -> None:
        """Close the idle ones, of one file or all."""
        with self._lock:
            closing = [idle for idle in self._idle if path in (None, idle.path)]
            self._idle = [idle for idle in self._idle if idle not in closing]
        with databases:
            for idle in closing:
                idle.db.close()

    def before_fork(self) -> None:
        self._forking = True
        self.close()

    def after_fork(self) -> None:
        self._forking = False


def _file(path: Path) -> _File | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


_connections = _Connections()
atexit.register(_connections.close)
# Before the hooks of `rh.forks`, which wait for those in use: hooks run backwards before a fork, forwards after it.
os.register_at_fork(
    before=_connections.before_fork,
    after_in_parent=_connections.after_fork,
    after_in_child=_connections.after_fork,
)


def _journal(db: sqlite3.Connection, path: Path) -> None:
    """Write-ahead logging, which lets readers go on beside a writer; not where several machines may share the file."""
    db.execute(f"pragma journal_mode = {'delete' if on_network(path) else 'wal'}")


def on_network(path: Path) -> bool:
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
    """Call `action` until the file is not busy."""
    pause = 0.0005
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0, pause))  # noqa: S311 - so that two do not go in step
        pause = min(pause * 1.5, 0.02)


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
    number = getattr(error, "errno", None)
    if number == errno.EEXIST:
        number = errno.ENOTDIR  # what `mkdir` says of a file in its way
    reason = os.strerror(number) if number else str(error)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return FullError("no space is left for the registry", where=where)
    return AccessError(f"the registry's place cannot be used: {reason}", where=where, hint=_PLACE)


_PLACE = "set RH_HOME (or RH_REGISTRY=sqlite:///path) to a place you may write"
