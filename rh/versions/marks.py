"""What the versions of a store need, noted on disk: a store of millions of files is marked in little memory."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from sqlite3 import OperationalError
from typing import Any

from rh import sqlite
from rh.errors import FullError, IntegrityError, NotFoundError
from rh.observe import log
from rh.types import Entry
from rh.versions import cache
from rh.versions.layout import node_key, object_key, tree_key
from rh.versions.moved import Redirect
from rh.versions.moving import each, twice
from rh.versions.nodes import Node, Where
from rh.versions.store import Ref, Store, Tree

__all__ = ["KINDS", "Marker", "Marks", "name_of"]

KINDS = ("trees", "nodes", "moved", "packs", "objects")
"""What a store holds, in the order in which it goes: no marker and no redirect may stay whose contents are gone."""
_CHUNKS = ".chunks"
_NODES = 200


class Marks:
    """What is needed, and what is there that is not: on disk, so that a large store fits."""

    def __init__(self) -> None:
        self._db = sqlite.Unnamed()
        with self._db.opened() as db:
            db.executescript(
                """
                create table needed (key text primary key) without rowid;
                create table members (
                    pack text, start integer, size integer, digest text, primary key (pack, start)
                ) without rowid;
                create table redirects (pack text primary key, etag text) without rowid;
                create table moved (
                    pack text, start integer, stop integer, target text, at integer, primary key (pack, start)
                ) without rowid;
                create view placed as
                    select members.pack as named, members.start, members.size, members.digest,
                        coalesce(moved.target, members.pack) as pack,
                        coalesce(moved.at + members.start - moved.start, members.start) as at
                    from members left join moved on moved.pack = members.pack
                        and moved.start = (
                            select max(start) from moved where pack = members.pack and start <= members.start
                        )
                        and members.start + members.size <= moved.stop;
                create table seen (pack text, start integer, primary key (pack, start)) without rowid;
                create table found (
                    key text primary key, belongs text, kind text, rank integer, size integer, young integer
                ) without rowid;
                create table gone (kind text, size integer);
                create table packs (pack text primary key, size integer, young integer) without rowid;
                """
            )

    def close(self) -> None:
        """Forget it all."""
        self._db.close()

    def _do(self, work: Any) -> Any:
        """`FullError`: what is noted finds no room."""
        try:
            with self._db.opened() as db, db:
                db.execute("begin")
                return work(db)
        except OperationalError as error:
            raise FullError(
                f"the directory for temporary files takes no notes of what is needed: {error}",
                where=tempfile.gettempdir(),
                hint="make room there, or set TMPDIR",
            ) from error

    def run(self, statement: str, *values: Any) -> None:
        """Run a statement."""
        self._do(lambda db: db.execute(statement, values))

    def all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return list(self._do(lambda db: db.execute(query, values).fetchall()))

    def one(self, query: str, *values: Any) -> bool:
        """Whether a query has a row."""
        return bool(self.all(query, *values))

    def need(self, keys: Iterable[str], members: Iterable[tuple[str, int, int, str]] = ()) -> None:
        """Note keys that are needed, and members of packs: of each the pack, the offset, the size and the digest."""

        def work(db: Any) -> None:
            db.executemany("insert or ignore into needed values (?)", ((key,) for key in set(keys)))
            db.executemany("insert or ignore into members values (?, ?, ?, ?)", members)

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
                    pack = (name_of(entry.key), entry.size, entry.modified is None or entry.modified > before)
                    db.execute("insert or replace into packs values (?, ?, ?)", pack)

        self._do(work)

    def moves(self, pack: str, etag: str | None, redirect: Redirect | None) -> None:
        """Note where the members of a pack are by now; `None`: where they were."""

        def work(db: Any) -> None:
            db.execute("delete from moved where pack = ?", (pack,))
            db.execute("delete from redirects where pack = ?", (pack,))
            if redirect is None:
                return
            db.execute("insert into redirects values (?, ?)", (pack, etag))
            db.executemany(
                "insert into moved values (?, ?, ?, ?, ?)",
                ((pack, start, start + length, to, at) for start, length, to, at in redirect.stretches),
            )

        self._do(work)

    def need_packs(self) -> None:
        """Note the packs that the members are in, and the redirects that say so."""
        key = "%s || substr({0}, 1, 2) || '/' || substr({0}, 3)"
        packs, redirects = key.format("pack") % "'packs/'", key.format("named") % "'moved/'"
        self.run(f"insert or ignore into needed select {packs} from placed")  # noqa: S608 - our own
        self.run(f"insert or ignore into needed select {redirects} from placed where named <> pack")  # noqa: S608

    def sparse(self, share: float) -> list[tuple[str, int, int, bool]]:
        """The packs of whose bytes more than a share is not needed: name, size, bytes needed, whether it is young."""
        return self.all(
            "select packs.pack, packs.size, sum(used.size) as needed, young from packs join "
            "(select distinct pack, at, size from placed) as used on used.pack = packs.pack "
            "group by packs.pack having packs.size - needed > ? * packs.size order by packs.pack",
            share,
        )

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
        self._done: set[tuple[str, str | None]] = set()

    def mark(self) -> None:
        """Mark what all references need that are there now, also where a marker was written again since."""
        etags = self._etags("trees/")
        wanted = {ref.tree for ref in self._store.refs() if ref not in self._without}
        unmarked = {(digest, etags.get(tree_key(digest))) for digest in wanted} - self._done
        for digest, etag in sorted(unmarked):
            try:
                self._mark_tree(digest)
            except NotFoundError:
                if digest in {ref.tree for ref in self._store.refs() if ref not in self._without}:
                    raise
                # It was let go of, and swept by somebody else, since the references were listed. Directories that
                # others have as well were seen by then, and what is in them was not marked.
                self._marks.run("delete from seen")
                continue
            self._done.add((digest, etag))
        if self._look_for_redirects() or unmarked:
            self._marks.need_packs()

    def _etags(self, prefix: str) -> dict[str, str | None]:
        """The keys of the files below a prefix, and their etags."""
        try:
            return {one.key: one.etag for one in self._store.system.list(prefix) if one.kind == "file"}
        except NotFoundError:
            return {}

    def _look_for_redirects(self) -> bool:
        """Note where the members of packs are that were written anew; whether that changed since it was noted."""
        there = {name_of(key): etag for key, etag in self._etags("moved/").items()}
        named = {pack for (pack,) in self._marks.all("select distinct pack from members")} if there else set()
        known = dict(self._marks.all("select pack, etag from redirects"))
        changed = [pack for pack, etag in there.items() if pack in named and (etag is None or known.get(pack) != etag)]
        asked = each(self._redirect, changed)
        for pack, redirect in zip(changed, asked, strict=True):
            self._marks.moves(pack, there[pack], redirect)
        for pack in known.keys() - there.keys():
            self._marks.moves(pack, None, None)
        return bool(changed or known.keys() - there.keys())

    def _redirect(self, pack: str) -> Redirect | None:
        """Where the members of a pack are; `None` if they are still there: of two places the first one counts."""
        return None if self._store.has_pack(pack) else self._store.redirects.ask(pack)

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
                members: list[tuple[str, int, int, str]] = []
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


def name_of(key: str) -> str:
    """The name of the pack that has a key, or whose redirect has it."""
    return key.partition("/")[2].replace("/", "")


def _needs(digest: str, size: int, where: Where, keys: list[str], members: list[tuple[str, int, int, str]]) -> None:
    """What a file needs: an object, a part of a pack, or several."""
    if where[0] == "o":
        keys.append(object_key(digest))
    elif where[0] == "p":
        members.append((where[1], where[2], size, digest))
    elif where[0] == "c":
        keys.append(object_key(digest))  # for its chunk digests
        for piece, length, place in where[1]:
            _needs(piece, length, tuple(place), keys, members)
