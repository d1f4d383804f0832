"""Digests remembered: (place, key, etag) → digest, so that unchanged bytes are not hashed again.

One SQLite file below `~/.rh`, shared by processes. A row is believed only while the etag is the same; an entry whose
time of change lies less than two seconds back when it was hashed is not remembered, since a later change might not
show. The cache is a convenience: where it cannot be opened or written, everything works without it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from rh import config
from rh.content.tree import Row, key_bytes, key_text
from rh.observe import log
from rh.systems.base import System

__all__ = ["RACY_S", "DigestCache", "place"]

RACY_S = 2.0
_KINDS = frozenset({"file", "ssh", "s3", "gs", "azure"})


def place(system: System) -> tuple[str, bytes] | None:
    """What identifies a root in the cache: the system itself, and the path on it. `None` where etags say too little."""
    if system.kind not in _KINDS:
        return None
    settings = system.settings
    who = "|".join(str(settings.get(key) or "") for key in ("endpoint_url", "account", "host", "port", "user"))
    path = key_bytes(system.location.path)
    return f"{system.kind}|{who}", path if path.endswith(b"/") or not path else path + b"/"


class DigestCache:
    """The digests known of the keys below one root."""

    def __init__(self, system: System, path: Path | None = None) -> None:
        self._place = place(system)
        self._path = path or config.home() / "cache" / "digests.db"

    def _connect(self, *, write: bool) -> sqlite3.Connection | None:
        if self._place is None or not (write or self._path.exists()):
            return None
        try:
            if write:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self._path, timeout=5, isolation_level=None)
            db.execute("pragma synchronous=off")
            if write:
                db.execute("pragma journal_mode=wal")
                db.execute(
                    "create table if not exists digests (place text, key blob, etag text, digest text, chunks blob,"
                    " primary key (place, key)) without rowid"
                )
        except (sqlite3.Error, OSError) as error:
            log.warning("the digest cache cannot be used: %s", error)
            return None
        return db

    def rows(self) -> Iterator[Row]:
        """What is known, in key order. Sizes are not kept (0)."""
        db = self._connect(write=False)
        if db is None or self._place is None:
            return
        who, root = self._place
        with closing(db):
            try:
                found = db.execute(
                    "select key, etag, digest, chunks from digests"
                    " where place = ? and key >= ? and key < ? order by key",
                    (who, root, root[:-1] + b"0" if root else b"\xff"),
                )
                for key, etag, digest, chunks in found:
                    yield Row(key_text(key[len(root) :]), 0, "file", digest, etag, None, chunks or b"")
            except sqlite3.Error as error:
                log.warning("the digest cache cannot be read: %s", error)

    def get(self, key: str, etag: str | None) -> Row | None:
        """What is known of one key, if it still has this etag."""
        db = self._connect(write=False)
        if db is None or self._place is None or etag is None:
            return None
        who, root = self._place
        with closing(db):
            try:
                found = db.execute(
                    "select digest, chunks from digests where place = ? and key = ? and etag = ?",
                    (who, root + key_bytes(key), etag),
                ).fetchone()
            except sqlite3.Error as error:
                log.warning("the digest cache cannot be read: %s", error)
                return None
        return Row(key, 0, "file", found[0], etag, None, found[1] or b"") if found else None

    def remember(self, rows: Iterable[Row]) -> None:
        """Keep the digests of these rows (those with a digest and an etag)."""
        db = self._connect(write=True)
        if db is None or self._place is None:
            return
        who, root = self._place
        with closing(db):
            try:
                db.execute("begin immediate")
                db.executemany(
                    "insert or replace into digests values (?, ?, ?, ?, ?)",
                    (
                        (who, root + key_bytes(row.key), row.etag, row.digest, row.chunks or None)
                        for row in rows
                        if row.digest and row.etag
                    ),
                )
                db.execute("commit")
            except sqlite3.Error as error:
                log.warning("the digest cache cannot be written: %s", error)


def settled(modified: float | None) -> bool:
    """Whether a digest of bytes last changed at `modified` may be remembered (the racy rule)."""
    return modified is None or abs(time.time() - modified) >= RACY_S
