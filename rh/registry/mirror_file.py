"""The file of a mirror: records that were read of a registry, and what was asked of it and answered whole.

It is a convenience: where it cannot be used, nothing is remembered or known, and the log says why.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from rh import sqlite
from rh.observe import log
from rh.registry.base import Record
from rh.registry.documents import decode, encode

__all__ = ["Known", "MirrorFile", "listed"]

T = TypeVar("T")

_SCHEMA = """
create table if not exists records (
    key text primary key, revision integer, document text, author text, time real, read real, turn integer
) without rowid;
create table if not exists answers (question text primary key, read real, turn integer) without rowid;
"""
_ANSWERS = 10_000
"""Questions whose answers are known to be whole; of more, the oldest are forgotten."""
_TURN = "(select user_version from pragma_user_version)"


class Known(NamedTuple):
    """What a mirror knows, and when the oldest of it was read (seconds since the epoch)."""

    records: Sequence[Record]
    oldest: float


def listed(prefix: str, after: str) -> str:
    """The question that a listing is."""
    return f"list {prefix}\0{after}"


def _got(key: str) -> str:
    return f"get {key}"


class MirrorFile:
    """What is remembered of one registry.

    Args:
        path: of the file; it is made when there is something to remember.
        url: of the registry, for the log.
    """

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url

    # What is known.

    def known(self, key: str) -> Known | None:
        """What is under a key, where that was read; without records where it was told that nothing is."""
        return self._known("key = ?", (key,), [_got(key)])

    def below(self, prefix: str, after: str, question: str = "") -> Known | None:
        """What was read below a prefix, in key order.

        Args:
            prefix: of the keys.
            after: only keys after this one.
            question: another one to which "nothing" may have been the answer.
        """
        above = [prefix[: at + 1] for at, letter in enumerate(prefix) if letter == "/"]
        questions = [*(listed(folder, "") for folder in ("", *above, prefix)), listed(prefix, after), question]
        condition = "substr(key, 1, length(?)) = ? and key > ? order by key"
        return self._known(condition, (prefix, prefix, after), questions)

    def name_of(self, series: str) -> str | None:
        """The name that has a series, as far as that was read."""
        found = self._known("substr(key, 1, 7) = 'series/' and instr(document, ?)", (series,), []) if series else None
        if found is None:
            return None
        path = found.records[0].key.removeprefix("series/")
        return path if path.startswith("~/") else f"/{path}"

    def turn(self) -> int:
        """The number of the last change of the file. No clock tells what was remembered before what."""
        return self._open(lambda db: int(db.execute("pragma user_version").fetchone()[0])) or 0

    def _known(self, condition: str, values: tuple[object, ...], questions: Sequence[str]) -> Known | None:
        """Records; where there are none, whether that was the whole answer to one of the questions."""

        def work(db: sqlite3.Connection) -> Known | None:
            sql = f"select key, revision, document, author, time, read from records where {condition}"  # noqa: S608 - ours
            rows = db.execute(sql, values).fetchall()
            if rows:
                return Known([Record(r[0], r[1], decode(r[2]), r[3], r[4]) for r in rows], min(r[5] for r in rows))
            marks = ", ".join("?" * len(questions))
            sql = f"select max(read) from answers where question in ({marks})"  # noqa: S608 - ours
            (read,) = db.execute(sql, questions).fetchone()
            return None if read is None else Known([], read)

        return self._open(work) if self.path.exists() else None

    # What is remembered.

    def remember(self, records: Iterable[Record], question: str | None = None) -> None:
        """Keep what was read, and that it was all of the answer to a question."""
        rows = self._rows(records)
        if rows or question is not None:
            self._write(lambda db: self._put(db, rows, [] if question is None else [question]))

    def remember_all(self, records: Iterable[Record], prefix: str, after: str, since: int) -> None:
        """Keep the last records of a listing. What was not told is gone; what others read meanwhile is not.

        Args:
            records: the last ones.
            prefix: that was listed.
            after: the key after which it was.
            since: the turn when it began.
        """
        rows = self._rows(records)

        def work(db: sqlite3.Connection) -> None:
            gone = "delete from records where substr(key, 1, length(?)) = ? and key > ? and turn <= ?"
            db.execute(gone, (prefix, prefix, after, since))
            self._put(db, rows, [listed(prefix, after)])

        self._write(work)

    def forget(self, keys: Sequence[str]) -> None:
        """Keep that nothing is under these keys."""

        def work(db: sqlite3.Connection) -> None:
            db.executemany("delete from records where key = ?", [(key,) for key in keys])
            self._put(db, [], [_got(key) for key in keys])

        if keys:
            self._write(work)

    @staticmethod
    def _rows(records: Iterable[Record]) -> list[tuple[object, ...]]:
        now = time.time()
        return [(r.key, r.revision, encode(r.document).decode(), r.author, r.time, now) for r in records]

    @staticmethod
    def _put(db: sqlite3.Connection, rows: Sequence[tuple[object, ...]], questions: Sequence[str]) -> None:
        db.executemany(f"insert or replace into records values (?, ?, ?, ?, ?, ?, {_TURN})", rows)  # noqa: S608 - ours
        if not questions:
            return
        now = time.time()
        insert = f"insert or replace into answers values (?, ?, {_TURN})"  # noqa: S608 - ours
        db.executemany(insert, [(question, now) for question in questions])
        (more,) = db.execute("select count(*) - ? from answers", (_ANSWERS,)).fetchone()
        if more > 0:  # many at once: finding the oldest reads them all
            oldest = "select question from answers order by turn limit ?"
            db.execute(f"delete from answers where question in ({oldest})", (more + _ANSWERS // 10,))  # noqa: S608 - ours

    # The file.

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
                self.path.with_name(self.path.name + end).unlink(missing_ok=True)
            return self._opened(work)
        except (sqlite3.Error, OSError, ValueError) as error:
            log.warning("the mirror of %s cannot be used: %s", self.url, error)
            return None

    def _opened(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with sqlite.opened(self.path, timeout=2, isolation_level=None) as db:
            db.execute("pragma synchronous=off")
            if not db.execute("select 1 from sqlite_master where name = 'answers'").fetchone():
                db.execute("pragma journal_mode=wal")
                db.executescript(_SCHEMA)
            return work(db)
