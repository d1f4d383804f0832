"""Where contents are in a store, as far as this machine has seen: a hint that saves uploads and is checked before use.

One SQLite file below `$RH_HOME/cache`, shared by processes. Where it cannot be opened or written, everything works
without it, and contents are stored again.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Mapping
from itertools import islice

from rh import config, sqlite
from rh.content import cache
from rh.observe import log
from rh.systems.base import System
from rh.versions.nodes import Where

__all__ = ["Index", "identity"]

_SCHEMA = """
create table if not exists stores (id integer primary key, name text unique);
create table if not exists packs (id integer primary key, name text unique);
create table if not exists contents (
    store integer, digest blob, pack integer, start integer, primary key (store, digest)
) without rowid;
"""
_AT_ONCE = 500
_PROCESS = secrets.token_hex(8)


def identity(system: System) -> str:
    """What tells a store from others on this machine. Memory is another one in each process."""
    if system.kind == "memory":
        return f"memory|{_PROCESS}|{system.location.path}"
    found = cache.place(system)
    if found is None:
        return f"{system.kind}|{system.settings.get('endpoint_url') or ''}|{system.url()}"
    return f"{found[0]}|{found[1].hex()}"


class Index:
    """What is known of one store."""

    def __init__(self, store: str) -> None:
        self._store = store

    def known(self, digests: Iterable[str]) -> dict[str, Where]:
        """Where these contents are said to be."""
        found: dict[str, Where] = {}
        wanted = iter(digests)
        try:
            while batch := {_key(digest): digest for digest in islice(wanted, _AT_ONCE)}:
                with sqlite.opened(self._path(), timeout=10) as db:
                    db.executescript(_SCHEMA)
                    marks = ",".join("?" * len(batch))
                    rows = db.execute(
                        "select digest, packs.name, start from contents join stores on stores.id = store "  # noqa: S608
                        f"left join packs on packs.id = pack where stores.name = ? and digest in ({marks})",
                        (self._store, *batch),
                    ).fetchall()
                for key, pack, start in rows:
                    found[batch[bytes(key)]] = ("o",) if pack is None else ("p", pack, start)
        except (sqlite3.Error, OSError) as error:
            log.debug("the index of contents cannot be read: %s", error)
        return found

    def add(self, places: Mapping[str, Where]) -> None:
        """Note where contents are: whole, or in a pack."""
        rows = iter([(digest, where) for digest, where in places.items() if where[0] in ("o", "p")])
        try:
            while batch := list(islice(rows, 20 * _AT_ONCE)):
                with sqlite.opened(self._path(), timeout=10) as db, db:
                    db.executescript("pragma synchronous = off;" + _SCHEMA)
                    store = _id(db, "stores", self._store)
                    packs = {where[1]: _id(db, "packs", where[1]) for _, where in batch if where[0] == "p"}
                    db.executemany(
                        "insert or replace into contents values (?, ?, ?, ?)",
                        (
                            (store, _key(digest), packs.get(where[1]), where[2])
                            if where[0] == "p"
                            else (store, _key(digest), None, None)
                            for digest, where in batch
                        ),
                    )
        except (sqlite3.Error, OSError) as error:
            log.debug("the index of contents cannot be written: %s", error)

    def forget(self, digests: Iterable[str]) -> None:
        """These contents are not where they were said to be."""
        keys = [_key(digest) for digest in digests]
        try:
            with sqlite.opened(self._path(), timeout=10) as db, db:
                db.executescript(_SCHEMA)
                store = _id(db, "stores", self._store)
                db.executemany("delete from contents where store = ? and digest = ?", ((store, key) for key in keys))
        except (sqlite3.Error, OSError) as error:
            log.debug("the index of contents cannot be written: %s", error)

    def _path(self) -> str:
        folder = config.home() / "cache"
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder / "contents.db")


def _key(digest: str) -> bytes:
    tag, _, value = digest.partition(":")
    return bytes.fromhex(value) + tag.removeprefix("sha256").encode()


def _id(db: sqlite3.Connection, table: str, name: str) -> int:
    db.execute(f"insert or ignore into {table} (name) values (?)", (name,))  # noqa: S608 - one of our own
    return int(db.execute(f"select id from {table} where name = ?", (name,)).fetchone()[0])  # noqa: S608
