"""Digests remembered: (place, key, etag) → digest, so that unchanged bytes are not hashed again.

One SQLite file below `~/.rh`, shared by processes. A row is believed only while the etag is the same; an entry whose
time of change lies less than two seconds back when it was hashed is not remembered, since a later change might not
show. The cache is a convenience: where it cannot be opened or written, everything works without it.

Rows are kept in blocks of about a thousand neighbours, which are read and compared as a whole. A block's keys are
relative to the root it was written for; no two blocks of a system overlap. Where all that is known of a root is just
what its manifest says, the manifest's etag is kept as well, so that it need not be read again.
"""

from __future__ import annotations

import marshal
import sqlite3
import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable
from functools import partial
from itertools import compress
from pathlib import Path
from typing import NamedTuple, TypeVar

from rh import config, sqlite
from rh.content.manifest import Footer
from rh.content.rows import Rows, paged, position
from rh.content.tree import Row, key_bytes, key_text
from rh.observe import log
from rh.systems.base import System

__all__ = ["RACY_S", "Described", "DigestCache", "place", "settled"]

T = TypeVar("T")

RACY_S = 2.0
_KINDS = frozenset({"file", "ssh", "s3", "gs", "azure"})
_KEPT_S = 90 * 24 * 3600
_AT_ONCE = 8
_SCHEMA = """
create table if not exists blocks (
    place text, first blob, last blob, base blob, data blob, primary key (place, first)
) without rowid;
create table if not exists trees (
    place text, root blob, manifest text, files integer, size integer, tree text, used integer,
    primary key (place, root)
) without rowid;
"""


def place(system: System) -> tuple[str, bytes] | None:
    """What identifies a root in the cache: the system itself, and the path on it. `None` where etags say too little."""
    if system.kind not in _KINDS:
        return None
    settings = system.settings
    who = "|".join(str(settings.get(key) or "") for key in ("endpoint_url", "account", "host", "port", "user"))
    path = key_bytes(system.location.path)
    return f"{system.kind}|{who}", path if path.endswith(b"/") or not path else path + b"/"


class Described(NamedTuple):
    """The manifest that the rows known of a root are the same as."""

    etag: str
    footer: Footer


class _Block(NamedTuple):
    base: bytes
    rows: Rows

    @classmethod
    def of(cls, base: bytes, data: bytes) -> _Block:
        return cls(base, Rows._make(marshal.loads(data)))  # noqa: S302 - our own file

    def seen_from(self, root: bytes) -> Rows:
        """The rows that are below another root, with keys relative to it."""
        if root == self.base:
            return self.rows
        if self.base.startswith(root):
            prefix = key_text(self.base[len(root) :])
            return self.rows._replace(keys=[prefix + key for key in self.rows.keys])
        prefix = key_text(root[len(self.base) :])
        inside = [key.startswith(prefix) for key in self.rows.keys]
        rows = Rows._make(list(compress(column, inside)) for column in self.rows)
        return rows._replace(keys=[key[len(prefix) :] for key in rows.keys])


class DigestCache:
    """The digests known of the keys below one root."""

    def __init__(self, system: System, path: Path | None = None) -> None:
        self._place = place(system)
        self._path = path or config.home() / "cache" / "digests.db"

    # Reading

    def pages(self, of: Described | None = None) -> Generator[Rows, None, str | None]:
        """What is known, in key order; with `of`, what that manifest says.

        Returns: `None` when that is all; where the cache cannot be read on, or no longer is the same as the manifest,
        the last key before that.
        """
        last = ""
        after: bytes | None = None
        while True:
            # No connection stays open between these: whoever takes the rows may do so slowly, and may fork.
            found = self._ask(partial(_following, after=after, of=of))
            if found is None:
                return last
            for _, rows in found:
                if rows.keys:
                    yield rows
                    last = rows.keys[-1]
            if len(found) < _AT_ONCE:
                return None
            after = found[-1][0]

    def get(self, key: str, etag: str | None) -> Row | None:
        """What is known of one key, if it still has this etag."""
        if etag is None:
            return None

        def work(db: sqlite3.Connection, who: str, root: bytes) -> Rows | None:
            found = _around(db, who, root + key_bytes(key))
            return _Block.of(*found[2:]).seen_from(root) if found else None

        rows = self._ask(work)
        at = position(rows.keys, key) - 1 if rows is not None else -1
        if rows is None or at < 0 or rows.keys[at] != key or rows.etags[at] != etag or rows.digests[at] is None:
            return None
        return Row(*(column[at] for column in rows))  # type: ignore[arg-type]

    def described(self) -> Described | None:
        """The manifest that what is known is the same as, if there is one."""
        return self._ask(_described)

    def _ask(self, work: Callable[[sqlite3.Connection, str, bytes], T | None]) -> T | None:
        """What this finds in one state of the cache; `None` as well where there is no cache, or none to be read."""
        if self._place is None or not self._path.exists():
            return None
        try:
            with sqlite.opened(self._path, timeout=5, isolation_level=None) as db:
                db.execute("begin")
                return work(db, *self._place)
        except (sqlite3.Error, ValueError, EOFError, TypeError) as error:
            log.warning("the digest cache cannot be read: %s", error)
            return None

    # Writing

    def remember(self, rows: Iterable[Row]) -> None:
        """Keep these rows (those with a digest and an etag) besides what is known."""
        new = {key_bytes(row.key): row for row in rows if row.digest and row.etag}
        if new:
            self._write(lambda db, who, root: _merge(db, who, root, dict(sorted(new.items()))))

    def replace(self, pages: Iterable[Rows], described: Described | None = None) -> None:
        """Keep just these rows (in key order) of the root; `described` is the manifest they are the same as."""

        def work(db: sqlite3.Connection, who: str, root: bytes) -> None:
            _clear(db, who, root)
            for page in pages:
                if page.keys:
                    _put(db, who, root, page)
            if described is not None:
                db.execute(
                    "update trees set manifest = ?, files = ?, size = ?, tree = ? where place = ? and root = ?",
                    (described.etag, *described.footer, who, root),
                )

        self._write(work)

    def _write(self, work: Callable[[sqlite3.Connection, str, bytes], None]) -> None:
        if self._place is None:
            return
        who, root = self._place
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with sqlite.opened(self._path, timeout=5, isolation_level=None) as db:
                db.execute("pragma synchronous=off")
                if not db.execute("select 1 from sqlite_master where name = 'trees'").fetchone():
                    db.execute("pragma journal_mode=wal")
                    db.executescript(_SCHEMA)
                db.execute("begin immediate")
                db.execute(
                    "update trees set manifest = null where place = ?1"
                    " and (substr(root, 1, length(?2)) = ?2 or substr(?2, 1, length(root)) = root)",
                    (who, root),
                )
                db.execute(
                    "insert into trees (place, root, used) values (?, ?, ?)"
                    " on conflict do update set used = excluded.used",
                    (who, root, int(time.time())),
                )
                work(db, who, root)
                _forget(db, int(time.time()) - _KEPT_S)
                db.execute("commit")
        except (sqlite3.Error, OSError, ValueError, EOFError, TypeError) as error:
            log.warning("the digest cache cannot be written: %s", error)


def _following(
    db: sqlite3.Connection, who: str, root: bytes, *, after: bytes | None, of: Described | None
) -> list[tuple[bytes, Rows]] | None:
    """The next blocks behind one that ends at `after`: where each ends, and its rows."""
    if of is not None and _described(db, who, root) != of:
        return None
    if after is None:
        straddling = _around(db, who, root)
        first = straddling[0] if straddling else root
    else:
        first = after + b"\0"
    found = db.execute(
        "select last, base, data from blocks where place = ? and first >= ? and first < ? order by first limit ?",
        (who, first, _end(root), _AT_ONCE),
    )
    return [(last, _Block.of(base, data).seen_from(root)) for last, base, data in found]


def _described(db: sqlite3.Connection, who: str, root: bytes) -> Described | None:
    found = db.execute(
        "select manifest, files, size, tree from trees where place = ? and root = ?", (who, root)
    ).fetchone()
    return Described(found[0], Footer(*found[1:])) if found and found[0] else None


def _end(root: bytes) -> bytes:
    """The first path after all that are below a root."""
    return root[:-1] + b"0" if root else b"\xff"


def _around(db: sqlite3.Connection, who: str, path: bytes) -> tuple[bytes, bytes, bytes, bytes] | None:
    """First, last, base and data of the block that a path falls into."""
    found: tuple[bytes, bytes, bytes, bytes] | None = db.execute(
        "select first, last, base, data from blocks where place = ? and first <= ? order by first desc limit 1",
        (who, path),
    ).fetchone()
    return found if found is not None and found[1] >= path else None


def _put(db: sqlite3.Connection, who: str, base: bytes, rows: Rows) -> None:
    first, last = base + key_bytes(rows.keys[0]), base + key_bytes(rows.keys[-1])
    db.execute(
        "insert or replace into blocks values (?, ?, ?, ?, ?)", (who, first, last, base, marshal.dumps(tuple(rows)))
    )


def _clear(db: sqlite3.Connection, who: str, root: bytes) -> None:
    """Forget what is below a root, and nothing else."""
    end = _end(root)
    for path in (root, end):
        straddling = _around(db, who, path)
        if straddling is not None and not straddling[2].startswith(root):
            first, _, base, data = straddling
            db.execute("delete from blocks where place = ? and first = ?", (who, first))
            rows = _Block.of(base, data).rows
            before = rows.cut(bisect_left(rows.keys, root[len(base) :], key=key_bytes))[0]
            behind = rows.cut(bisect_left(rows.keys, end[len(base) :], key=key_bytes))[1]
            for side in (before, behind):
                if side.keys:
                    _put(db, who, base, side)
    db.execute("delete from blocks where place = ? and first >= ? and first < ?", (who, root, end))


def _merge(db: sqlite3.Connection, who: str, root: bytes, new: dict[bytes, Row]) -> None:
    """Put rows among those that are there: each into the block it falls into, or into blocks between those."""
    waiting = list(new.items())
    waiting.reverse()
    while waiting:
        path = root + waiting[-1][0]
        block = _around(db, who, path)
        if block is not None:
            first, last, base, data = block
            db.execute("delete from blocks where place = ? and first = ?", (who, first))
            rows = _Block.of(base, data)
        else:
            following = db.execute(
                "select min(first) from blocks where place = ? and first > ?", (who, path)
            ).fetchone()[0]
            last, base, rows = following or b"", root, None
        taken: dict[bytes, Row] = {}
        while waiting and (_within(root + waiting[-1][0], last, inside=block is not None)):
            key, row = waiting.pop()
            taken[root + key] = row
        if rows is not None:
            known = {rows.base + key_bytes(row.key): row for row in rows.rows.each()}
            base = min(rows.base, root, key=len)
            taken = dict(sorted((known | taken).items()))
        moved = (row._replace(key=key_text(path[len(base) :])) for path, row in taken.items())
        for page in paged(moved):
            _put(db, who, base, page)


def _within(path: bytes, last: bytes, *, inside: bool) -> bool:
    """Whether a path belongs to a block that ends at `last`, or (not inside) to the gap before the block at `last`."""
    return path <= last if inside else not last or path < last


def _forget(db: sqlite3.Connection, before: int) -> None:
    """Forget trees that nobody has written to for long."""
    for who, root in db.execute("select place, root from trees where used < ?", (before,)).fetchall():
        _clear(db, who, root)
        db.execute("delete from trees where place = ? and root = ?", (who, root))


def settled(modified: float | None) -> bool:
    """Whether a digest of bytes last changed at `modified` may be remembered (the racy rule)."""
    return modified is None or abs(time.time() - modified) >= RACY_S
