"""What was read of a registry elsewhere, kept here, so that names can still be read when it cannot be reached.

A mirror is a convenience, never the truth: it is asked only after the registry itself did not answer, every answer out
of it comes with a `StaleWarning`, and nothing is written to it that was not read. It holds what this user has read, in
one SQLite file per registry below `~/.rh/mirrors`; where that cannot be opened, everything works without it.
"""

from __future__ import annotations

import builtins
import hashlib
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rh import config, sqlite
from rh.errors import DeadlineError, NotFoundError, RhError, UnavailableError
from rh.observe import log
from rh.registry.base import Change, Record, Registry, StaleWarning, Step, UnconnectedError
from rh.registry.documents import decode, encode
from rh.registry.filters import Filter

__all__ = ["Mirrored"]

T = TypeVar("T")

_SCHEMA = """
create table if not exists records (
    key text primary key, revision integer, document text, author text, time real, read real, turn integer
) without rowid;
"""
_FORMAT = 1
"""Of the file, and in its name."""
_PAGE = 1000
_PAUSE_S = 30.0
"""How long readers take the mirror's word before they try again to reach a registry that did not answer."""

_silent: dict[str, tuple[float, str]] = {}
"""Registries that did not answer: until when (monotonic), and what was wrong."""


class Mirrored(Registry):
    """A registry whose records can still be read when it cannot be reached.

    Args:
        inner: the registry itself. Whatever writes, and histories, are its own business.
    """

    def __init__(self, inner: Registry) -> None:
        self.inner = inner
        self._hurried = inner.hurried()
        self.url = inner.url
        self._path = config.home() / "mirrors" / f"{hashlib.sha256(inner.url.encode()).hexdigest()[:32]}-{_FORMAT}.db"

    def __reduce__(self) -> tuple[type[Mirrored], tuple[Registry]]:
        return Mirrored, (self.inner,)

    @property
    def direct(self) -> Registry:
        return self.inner

    # Read, and remembered.

    def get(self, key: str) -> Record:
        if (silent := self._silence()) and (known := self._read("key = ?", (key,))):
            self._warn(silent, known)
            return known[0][0]
        try:
            with self._answering():
                record = self._got(key)
        except NotFoundError:
            self._write(lambda db: db.execute("delete from records where key = ?", (key,)))
            raise
        except (UnavailableError, DeadlineError) as error:
            known = self._read("key = ?", (key,))
            if not known:
                raise self._unknown(error, repr(key)) from error
            self._warn(error, known)
            return known[0][0]
        self._remember([record])
        return record

    def _got(self, key: str) -> Record:
        try:
            return self._hurried.get(key)
        except UnconnectedError:
            if self._read("key = ?", (key,)):
                raise
        return self.inner.get(key)  # nothing else can tell: it may be slow to answer, or about to be back

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Record]:
        if (silent := self._silence()) and (known := self._below(prefix, after)):
            yield from self._told(silent, known)
            return
        seen: builtins.list[Record] = []
        last, began = after, self._turn()
        try:
            for record in self._asked(lambda registry, last: registry.list(prefix, after=last), prefix, after):
                seen.append(record)
                last = record.key
                if len(seen) >= _PAGE:
                    self._remember(seen)
                    seen.clear()
                yield record
        except (UnavailableError, DeadlineError) as error:
            self._remember(seen)
            yield from self._known(error, prefix, last)
            return
        self._remember(seen)
        # What was not told is gone; what somebody else read meanwhile is not.
        gone = "delete from records where substr(key, 1, length(?)) = ? and key > ? and turn <= ?"
        self._write(lambda db: db.execute(gone, (prefix, prefix, after, began)))

    def search(
        self, where: Filter, prefix: str = "", *, after: str = "", as_of: float | None = None
    ) -> Iterator[Record]:
        if as_of is not None:
            yield from self.inner.search(where, prefix, after=after, as_of=as_of)
            return
        if (silent := self._silence()) and (known := self._below(prefix, after)):
            yield from (record for record in self._told(silent, known) if where.matches(record.document))
            return
        last = after
        try:
            for record in self._asked(lambda registry, last: registry.search(where, prefix, after=last), prefix, after):
                last = record.key
                yield record
        except (UnavailableError, DeadlineError) as error:
            yield from (record for record in self._known(error, prefix, last) if where.matches(record.document))

    def _asked(self, ask: Callable[[Registry, str], Iterator[Record]], prefix: str, last: str) -> Iterator[Record]:
        """What the registry tells of a prefix; in no hurry where the mirror knows nothing of it.

        Args:
            ask: asks a registry for the records after a key.
            prefix: of the keys.
            last: the key that the first ones come after.
        """
        try:
            for record in ask(self._hurried, last):
                last = record.key
                yield record
            return
        except UnconnectedError:
            if self._below(prefix, last):
                raise
        yield from ask(self.inner, last)

    # Not mirrored.

    def commit(self, steps: Sequence[Step], *, by: str | None = None, token: str | None = None) -> Sequence[Change]:
        with self._answering():
            changes = self.inner.commit(steps, by=by, token=token)
        self._remember(
            Record(change.key, change.revision, change.document, change.author, change.time)
            for change in changes
            if change.document is not None
        )
        gone = [(change.key,) for change in changes if change.document is None]
        if gone:
            self._write(lambda db: db.executemany("delete from records where key = ?", gone))
        return changes

    def history(self, key: str, *, after: int = 0) -> Iterator[Change]:
        return self.inner.history(key, after=after)

    def changes(self, prefix: str = "") -> Iterator[Change]:
        return self.inner.changes(prefix)

    def replay(self, changes: Iterable[Change]) -> int:
        with self._answering():
            return self.inner.replay(changes)

    def close(self) -> None:
        self.inner.close()

    # The file.

    def _below(self, prefix: str, after: str) -> builtins.list[tuple[Record, float]]:
        """What is known of a prefix, in key order."""
        return self._read("substr(key, 1, length(?)) = ? and key > ? order by key", (prefix, prefix, after))

    def _known(self, error: RhError, prefix: str, after: str) -> Iterator[Record]:
        known = self._below(prefix, after)
        if not known:
            raise self._unknown(error, f"{prefix!r}…") from error
        yield from self._told(error, known)

    def _told(self, error: RhError, known: Sequence[tuple[Record, float]]) -> Iterator[Record]:
        self._warn(error, known)
        yield from (record for record, _ in known)

    def _unknown(self, error: RhError, what: str) -> RhError:
        return UnavailableError(
            f"the registry cannot be reached ({_reason(error)}), and nothing was read of {what} before",
            where=self.url,
            hint="names in ~/ are on this machine and work",
        )

    def _silence(self) -> RhError | None:
        """What was wrong a moment ago, while readers are not to try again what the mirror can tell."""
        until, reason = _silent.get(self.url, (0.0, ""))
        return UnavailableError(reason, where=self.url) if time.monotonic() < until else None

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """What is asked of the registry itself. Once it answers, be it with an error, readers ask it again."""
        try:
            yield
        except (UnavailableError, DeadlineError):
            raise
        except RhError:
            _silent.pop(self.url, None)
            raise
        _silent.pop(self.url, None)

    def _warn(self, error: RhError, known: Sequence[tuple[Record, float]]) -> None:
        if self.url not in _silent or time.monotonic() >= _silent[self.url][0]:
            _silent[self.url] = (time.monotonic() + _PAUSE_S, error.message)
        oldest = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(min(read for _, read in known)))
        warnings.warn(
            f"{self.url} cannot be reached ({_reason(error)}): this is what was read of it, the oldest at {oldest}."
            " Changes since are not in it, and nothing can be saved until it is back",
            StaleWarning,
            stacklevel=4,
        )

    def _remember(self, records: Iterable[Record]) -> None:
        now = time.time()
        rows = [(r.key, r.revision, encode(r.document).decode(), r.author, r.time, now) for r in records]
        sql = "insert or replace into records values (?, ?, ?, ?, ?, ?, (select user_version from pragma_user_version))"
        if rows:
            self._write(lambda db: db.executemany(sql, rows))

    def _turn(self) -> int:
        """The number of the last change of the file. No clock tells what was remembered before what."""
        return self._open(lambda db: int(db.execute("pragma user_version").fetchone()[0])) or 0

    def _read(self, condition: str, values: tuple[object, ...]) -> builtins.list[tuple[Record, float]]:
        def work(db: sqlite3.Connection) -> builtins.list[tuple[Record, float]]:
            rows = db.execute(
                f"select key, revision, document, author, time, read from records where {condition}",  # noqa: S608 - ours
                values,
            )
            return [
                (Record(key, revision, decode(text), author, then), read)
                for key, revision, text, author, then, read in rows
            ]

        return self._open(work) or [] if self._path.exists() else []

    def _write(self, work: Callable[[sqlite3.Connection], object]) -> None:
        def whole(db: sqlite3.Connection) -> None:
            db.execute("begin immediate")
            (turn,) = db.execute("pragma user_version").fetchone()
            db.execute(f"pragma user_version = {(turn + 1) % (1 << 31)}")
            work(db)
            db.execute("commit")

        self._open(whole)

    def _open(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do some work on the file; one that is damaged is begun anew. `None` where it cannot be used."""
        try:
            try:
                return self._opened(work)
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                    raise
                log.warning("the mirror of %s is damaged and begun anew: %s", self.url, error)
            for end in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)
            return self._opened(work)
        except (sqlite3.Error, OSError, ValueError) as error:
            log.warning("the mirror of %s cannot be used: %s", self.url, error)
            return None

    def _opened(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with sqlite.opened(self._path, timeout=2, isolation_level=None) as db:
            db.execute("pragma synchronous=off")
            if not db.execute("select 1 from sqlite_master where name = 'records'").fetchone():
                db.execute("pragma journal_mode=wal")
                db.executescript(_SCHEMA)
            return work(db)


def _reason(error: RhError) -> str:
    return error.message.removeprefix("the registry cannot be reached: ")
