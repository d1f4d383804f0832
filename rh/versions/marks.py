"""What the versions of a store need, noted on disk: a store of millions of files is marked in little memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rh import sqlite
from rh.errors import IntegrityError, NotFoundError
from rh.observe import log
from rh.types import Entry
from rh.versions import cache
from rh.versions.layout import node_key, object_key, pack_key, tree_key
from rh.versions.moving import twice
from rh.versions.nodes import Node, Where
from rh.versions.store import Ref, Store, Tree

__all__ = ["KINDS", "Marker", "Marks"]

KINDS = ("trees", "nodes", "packs", "objects")
"""What a store holds, in the order in which it goes: no marker may stay whose contents are gone."""
_CHUNKS = ".chunks"
_NODES = 200


class Marks:
    """What is needed, and what is there that is not: on disk, so that a large store fits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with sqlite.opened(path) as db:
            db.executescript(
                """
                pragma journal_mode = off;
                create table needed (key text primary key) without rowid;
                create table members (key text, start integer, size integer, primary key (key, start)) without rowid;
                create table seen (pack text, start integer, primary key (pack, start)) without rowid;
                create table found (
                    key text primary key, belongs text, kind text, rank integer, size integer, young integer
                ) without rowid;
                create table gone (kind text, size integer);
                create table packs (key text primary key, size integer) without rowid;
                """
            )

    def _do(self, work: Any) -> Any:
        with sqlite.opened(self._path, isolation_level=None) as db:
            db.execute("pragma synchronous = off")
            db.execute("begin")
            result = work(db)
            db.execute("commit")
            return result

    def run(self, statement: str) -> None:
        """Run a statement."""
        self._do(lambda db: db.execute(statement))

    def all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return list(self._do(lambda db: db.execute(query, values).fetchall()))

    def one(self, query: str) -> bool:
        """Whether a query has a row."""
        return bool(self.all(query))

    def need(self, keys: Iterable[str], members: Iterable[tuple[str, int, int]] = ()) -> None:
        """Note keys that are needed, and members of packs."""

        def work(db: Any) -> None:
            db.executemany("insert or ignore into needed values (?)", ((key,) for key in set(keys)))
            db.executemany("insert or ignore into members values (?, ?, ?)", members)

        self._do(work)

    def unseen(self, records: Sequence[tuple[str, Where]]) -> list[tuple[str, Where]]:
        """Those of these records that were not asked about before."""

        def work(db: Any) -> list[tuple[str, Where]]:
            return [
                (digest, where)
                for digest, where in records
                if db.execute("insert or ignore into seen values (?, ?)", where[1:3]).rowcount
            ]

        return list(self._do(work))

    def weigh(self, kind: str, entries: Sequence[Entry], before: float) -> None:
        """Note those of these entries that nothing needs, and whether they are too young to go."""

        def work(db: Any) -> None:
            for entry in entries:
                key = entry.key.removesuffix(_CHUNKS) if kind == "objects" else entry.key
                if db.execute("select 1 from needed where key = ?", (key,)).fetchone() is None:
                    young = entry.modified is None or entry.modified > before
                    row = (entry.key, key, kind, KINDS.index(kind), entry.size, young)
                    db.execute("insert or replace into found values (?, ?, ?, ?, ?, ?)", row)
                elif kind == "packs":
                    db.execute("insert or replace into packs values (?, ?)", (entry.key, entry.size))

        self._do(work)

    def gone(self, keys: Sequence[str]) -> None:
        """Note that these are deleted."""

        def work(db: Any) -> None:
            for key in keys:
                db.execute("insert into gone select kind, size from found where key = ?", (key,))
                db.execute("delete from found where key = ?", (key,))

        self._do(work)


class Marker:
    """Marks what references need: each record of a directory once, wherever several trees have it."""

    def __init__(self, store: Store, marks: Marks, without: Collection[Ref] = ()) -> None:
        self._store = store
        self._marks = marks
        self._without = frozenset(without)
        self._done: set[str] = set()

    def mark(self) -> None:
        """Mark what all references need that are there now."""
        wanted = {ref.tree for ref in self._store.refs() if ref not in self._without}
        for digest in sorted(wanted - self._done):
            self._mark_tree(digest)
            self._done.add(digest)

    def _mark_tree(self, digest: str) -> None:
        key = tree_key(digest)
        where = self._store.system.url(key)

        def read() -> Tree:
            try:
                with self._store.system.read(key) as body:
                    return Tree.decode(body.read(), digest, where)
            except NotFoundError as error:
                raise NotFoundError(
                    "a version that is to be kept has lost its marker; nothing was deleted", where=where
                ) from error

        tree = twice(read)
        self._marks.need([key])
        waiting = [(tree.digest, tree.root)]
        while waiting:
            batch = [waiting.pop() for _ in range(min(len(waiting), _NODES))]
            for node in self._nodes(self._marks.unseen(batch)):
                keys: list[str] = []
                members: list[tuple[str, int, int]] = []
                for child in node.children:
                    if child.kind == "dir":
                        waiting.append((child.digest, child.where))
                    elif child.kind == "file":
                        _needs(child.digest, child.size, child.where, keys, members)
                self._marks.need(keys, members)

    def _nodes(self, wanted: Sequence[tuple[str, Where]]) -> Iterator[Node]:
        """The very records that are at these places: another one of the same digest may need other packs."""
        ordered = sorted(wanted, key=lambda one: (one[1][1], one[1][2]))
        for pack, members in groupby(ordered, key=lambda one: one[1][1]):
            group = list(members)
            start = group[0][1][2]
            stop = max(where[2] + where[3] for _, where in group)
            place = self._store.system.url(node_key(pack))

            def decoded(data: bytes, group: Any = group, start: int = start, place: str = place) -> list[Node]:
                return [
                    Node.decode(data[where[2] - start : where[2] - start + where[3]], digest, f"{place} at {where[2]}")
                    for digest, where in group
                ]

            def read(pack: str = pack, start: int = start, stop: int = stop, place: str = place) -> bytes:
                try:
                    with self._store.system.read(node_key(pack), (start, stop)) as body:
                        return body.read()
                except NotFoundError as error:
                    raise NotFoundError(
                        "a version that is to be kept has lost a part; nothing was deleted", where=place
                    ) from error

            self._marks.need([node_key(pack)])
            kept = cache.kept_span("nodes", pack, start, stop - start)
            try:
                found = decoded(kept) if kept is not None else None
            except IntegrityError as error:
                log.debug("the cache is damaged: %s", error)
                found = None
            yield from found if found is not None else twice(lambda: decoded(read()))


def _needs(digest: str, size: int, where: Where, keys: list[str], members: list[tuple[str, int, int]]) -> None:
    """What a file needs: an object, a part of a pack, or several."""
    if where[0] == "o":
        keys.append(object_key(digest))
    elif where[0] == "p":
        keys.append(pack_key(where[1]))
        members.append((pack_key(where[1]), where[2], size))
    elif where[0] == "c":
        keys.append(object_key(digest))  # for its chunk digests
        for piece, length, place in where[1]:
            _needs(piece, length, tuple(place), keys, members)
