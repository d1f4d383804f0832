"""What this machine keeps of a registry on a bucket prefix: a SQLite registry that holds the log so far.

Never the truth: what is missing, damaged or of another registry is made anew from the log. A replica is built under a
name of its own and then pointed to, so that whoever still reads the one before goes on undisturbed; all processes of
one `RH_HOME` share it. Catching up may be done twice, by two at once: what is there already is skipped.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from rh import config, sqlite
from rh.errors import AccessError, ConflictError, FullError, IntegrityError
from rh.registry.bucket.log import Position, Stored
from rh.registry.bucket.log_format import SEGMENT, Entry, numbers_of
from rh.registry.sql.sqlite import SQLiteRegistry

__all__ = ["DamagedError", "Replica", "Replicas"]

_SCHEMA = (
    "create table if not exists replica_source (id text)",
    """create table if not exists replica_log (
       sequence integer primary key, digest text not null, etag text, data blob not null)""",
    "create table if not exists replica_tokens (token text primary key, request text, sequence integer) without rowid",
)
_TIMEOUT_S = 30.0
_OLD_S = 86_400.0


class DamagedError(IntegrityError):
    """A replica is of no use, and is to be made anew."""


class Replica:
    """One file: a SQLite registry, and beside its tables what is known of the log.

    What is damaged raises `DamagedError`; reading `records`, `IntegrityError`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = SQLiteRegistry(path)

    def position(self) -> Position | None:
        """How far it goes; `None` if it is not there."""
        if not self.path.exists():
            return None
        with self._open() as db:
            row = db.execute(
                "select id, sequence, digest, etag from replica_source, replica_log order by sequence desc limit 1"
            ).fetchone()
        return None if row is None else Position(*row)

    def begin(self, identity: str, entries: Sequence[Stored]) -> None:
        """Make it, from the first entries of a log."""
        self._replay(entries)
        with self._open() as db:
            for statement in _SCHEMA:
                db.execute(statement)
            db.execute("begin immediate")
            self._note(db, entries)
            db.execute("insert into replica_source values (?)", (identity,))
            db.execute("commit")

    def go_on(self, identity: str, entries: Sequence[Stored]) -> None:
        """Take over the next entries, as far as they are new.

        Raises:
            DamagedError: it does not go as far as to the entry before them.
        """
        there = self.position()
        if there is not None and there.id == identity and there.sequence >= entries[-1].entry.sequence:
            return  # another process was faster, and reading costs less than writing
        self._replay(entries)
        with self._open() as db:
            db.execute("begin immediate")
            row = db.execute("select id, max(sequence) from replica_source, replica_log").fetchone()
            if row[0] != identity or (row[1] or 0) < entries[0].entry.sequence - 1:
                raise DamagedError("the replica has been changed by something else", where=str(self.path))
            self._note(db, entries)
            db.execute("commit")

    def retag(self, position: Position, etag: str | None) -> None:
        """Note that an entry has another etag now, and the same bytes."""
        with self._open() as db:
            db.execute("update replica_log set etag = ? where sequence = ?", (etag, position.sequence))

    def token(self, token: str) -> tuple[str, int] | None:
        """What was asked for with a token, and the entry that did it."""
        with self._open() as db:
            row: tuple[str, int] | None = db.execute(
                "select request, sequence from replica_tokens where token = ?", (token,)
            ).fetchone()
        return row

    def newest(self, key: str) -> int:
        """The last revision of a key; 0 for one never used."""
        last = 0
        for change in self.records.history(key):
            last = change.revision
        return last

    def segment(self, number: int) -> list[bytes]:
        """The entries of a segment as they are in the log, if it is the last one and all of them are here."""
        numbers = numbers_of(number)
        with self._open() as db:
            rows = db.execute(
                "select data from replica_log where sequence between ? and ? order by sequence",
                (numbers[0], numbers[-1]),
            ).fetchall()
        return [row[0] for row in rows] if len(rows) == len(numbers) else []

    def _replay(self, entries: Iterable[Stored]) -> None:
        try:
            self.records.replay(
                chain.from_iterable(commit.changes for stored in entries for commit in stored.entry.commits)
            )
        except (ConflictError, IntegrityError) as error:
            raise DamagedError(
                f"the replica is not what the log says: {error.message}", where=str(self.path)
            ) from error

    @staticmethod
    def _note(db: sqlite3.Connection, entries: Sequence[Stored]) -> None:
        db.executemany(
            "insert or replace into replica_log values (?, ?, ?, ?)",
            ((one.entry.sequence, Entry.digest(one.data), one.etag, one.data) for one in entries),
        )
        db.executemany(
            "insert or ignore into replica_tokens values (?, ?, ?)",
            ((commit.token, commit.request, one.entry.sequence) for one in entries for commit in one.entry.commits),
        )
        db.execute(
            "delete from replica_log where sequence < (select max(sequence) / ? * ? from replica_log)",
            (SEGMENT, SEGMENT),
        )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            uri = f"{self.path.as_uri()}?mode=rw"
            with sqlite.opened(uri, timeout=_TIMEOUT_S, isolation_level=None, uri=True) as db:
                db.execute("pragma synchronous = normal")  # what is lost is read again; the order is kept
                yield db
        except sqlite3.Error as error:
            raise DamagedError(f"the replica cannot be used: {error}", where=str(self.path)) from error


class Replicas:
    """The replicas of one registry: the current one, and how long ago that was known to be all.

    Args:
        identity: tells the registry from others on this machine.
    """

    def __init__(self, identity: str) -> None:
        self.name = hashlib.sha256(identity.encode()).hexdigest()

    @property
    def _folder(self) -> Path:
        return config.home() / "replicas"

    @property
    def pointer(self) -> Path:
        """The file that names the current replica; it is touched whenever that one is up to date."""
        return self._folder / self.name

    def current(self) -> Replica | None:
        """The replica, if there is one."""
        try:
            with _usable():
                name = self.pointer.read_text("ascii")
        except (FileNotFoundError, ValueError):
            return None
        return Replica(self._folder / name) if name.startswith(self.name) and "/" not in name else None

    def new(self) -> Replica:
        """A place for a replica that nobody knows yet."""
        with _usable():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Replica(self._folder / f"{self.name}-{secrets.token_hex(8)}.db")

    def publish(self, replica: Replica) -> None:
        """Make a replica the current one, and remove what has long not been."""
        draft = replica.path.with_suffix(".new")
        with _usable():
            draft.write_text(replica.path.name, "ascii")
            draft.replace(self.pointer)
        for path in self._folder.glob(f"{self.name}-*"):
            with contextlib.suppress(OSError):
                if replica.path.name not in path.name and time.time() - path.stat().st_mtime > _OLD_S:
                    path.unlink()

    def drop(self, replica: Replica) -> None:
        """Remove a replica that was never published."""
        for path in self._folder.glob(f"{replica.path.stem}.*"):
            with contextlib.suppress(OSError):
                path.unlink()

    def touch(self) -> None:
        """Note that the current replica is up to date."""
        with contextlib.suppress(OSError):
            os.utime(self.pointer)

    def touched(self) -> float:
        """When it last was, in seconds since the epoch."""
        try:
            return self.pointer.stat().st_mtime
        except OSError:
            return time.time()


@contextmanager
def _usable() -> Iterator[None]:
    """Errors of the disk leave as ours, but for what is simply not there."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (FullError if full else AccessError)(
            f"a registry's replica cannot be kept: {error.strerror}",
            where=str(config.home()),
            hint="set RH_HOME to a place you may write",
        ) from error
