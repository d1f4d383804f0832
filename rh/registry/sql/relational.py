"""What the registries in SQL databases share: the tables, the statements, and what a commit does.

Five tables hold a registry. `changes` is the history, every change ever made by its number `sequence`; `records` says
which change made what is under a key now; `commits` knows the tokens that were used; `properties` is the index that
`search` reads (`rh.registry.sql.index`). What a database adds is how connections, transactions and errors work there: a
subclass with `_read` and `_write`, and a `Session` that runs statements.

A commit reads the last change of each key it touches, decides everything here, and writes: two round trips.
"""

from __future__ import annotations

import builtins
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

from rh.errors import ConflictError, ExistsError, IntegrityError, InvalidError, NotFoundError
from rh.registry.base import (
    Change,
    Delete,
    Put,
    Record,
    Registry,
    Rename,
    Step,
    author,
    check_steps,
    new_token,
    request_digest,
)
from rh.registry.documents import decode, encode
from rh.registry.filters import Filter, moment
from rh.registry.sql import index
from rh.types import ABSENT, ANY, Condition, Match

__all__ = ["TABLES", "Dialect", "Query", "RelationalRegistry", "Row", "Session"]

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]
Query: TypeAlias = tuple[str, Sequence[Any]]
"""A statement and its values. `?` is a value, `@changes` the table of that name."""

TABLES: Mapping[str, Mapping[str, str]] = {
    "changes": {
        "sequence": "bigint",
        "key": "text",
        "revision": "bigint",
        "action": "text",
        "document": "text",
        "author": "text",
        "time": "double precision",
        "token": "text",
        "moved": "text",
    },
    "records": {"key": "text", "sequence": "bigint"},
    "commits": {"token": "text", "request": "text"},
    "properties": {"name": "bytea", "value": "bytea", "sequence": "bigint"},
}
"""The columns of each table and their types."""

_COLUMNS = ", ".join(f"c.{column}" for column in TABLES["changes"])
_GET = f"select {_COLUMNS} from @records r join @changes c on c.sequence = r.sequence where r.key = ?"
_LIST = (
    f"select {_COLUMNS} from @records r join @changes c on c.sequence = r.sequence"
    " where {within} and {condition} order by r.key limit ?"
)
_AMONG = f"select {_COLUMNS} from @changes c where {{among}} and {{within}} and {{condition}} order by c.key limit ?"
_LAST = (
    f"select {_COLUMNS} from {{keys}} k join @changes c on c.key = k.key and c.revision ="
    " (select max(revision) from @changes where key = k.key)"
)
_ONE = f"select {_COLUMNS} from @changes c where c.key = ? and c.revision = ?"
_HISTORY = f"select {_COLUMNS} from @changes c where c.key = ? and c.revision > ? order by c.revision limit ?"
_SAME = f"select {_COLUMNS} from @changes c where c.token = ? order by c.sequence"
_CHANGES = (
    f"select {_COLUMNS} from @changes c where c.sequence > ? and c.sequence <= ? and {{within}}"
    " order by c.sequence limit ?"
)
_STOOD = (
    f"select {_COLUMNS} from (select c.key, max(c.revision) as revision from @changes c"
    " where {within} and c.time <= ? group by c.key order by c.key limit ?) k"
    " join @changes c on c.key = k.key and c.revision = k.revision order by c.key"
)
_DONE = "select request from @commits where token = ?"
_PAGE = 1000
_BATCH = 5000
_CANDIDATES = 20_000
"""As many records are looked up one by one; for more it is quicker to go through all in key order."""
_LAST_SEQUENCE = (1 << 63) - 1


class Dialect(NamedTuple):
    """What databases say differently."""

    keys: str
    """The texts of one value as the column `key`."""
    among: str
    """`{}` is one of the numbers or texts of one value."""
    contains: str
    """The bytes `p.value` hold those of one value."""
    next: str
    """The query for the first number of a commit's changes."""
    array: Callable[[Sequence[Any]], Any]
    """Numbers or texts as one value."""


class Session(ABC):
    """Statements in one transaction."""

    @abstractmethod
    def select(self, *queries: Query) -> builtins.list[builtins.list[Row]]:
        """The rows of each."""

    @abstractmethod
    def insert(self, table: str, rows: Sequence[Row], conflict: str = "") -> None:
        """Add rows; `conflict` says what to do where one is there, as in `on conflict …`."""

    @abstractmethod
    def remove(self, table: str, column: str, values: Sequence[Any]) -> None:
        """Take away rows by the values of a column."""


class RelationalRegistry(Registry):
    """A registry in a SQL database."""

    dialect: ClassVar[Dialect]

    @abstractmethod
    def _read(self, work: Callable[[Session], T], *, nothing: T, snapshot: bool = False) -> T:
        """What `work` returns, or `nothing` where there is no registry yet. May be called again after a failure.

        Args:
            work: selects, once if no `snapshot` is asked for.
            nothing: for a registry that nobody has written to.
            snapshot: all selects see the same moment.
        """

    @abstractmethod
    def _write(self, work: Callable[[Session], T], keys: Sequence[str], token: str) -> T:
        """What `work` returns, in a transaction that no other one about these keys or this token runs beside."""

    def _settled(self) -> int:
        """The last change such that none with a smaller number is still to come."""
        return _LAST_SEQUENCE

    # Reading.

    def get(self, key: str) -> Record:
        for row in self._select(_GET, key):
            return self._record(row)
        raise NotFoundError(f"nothing is registered as {key!r}", where=self.url)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Record]:
        # Page by page, so that a slow reader holds no snapshot and no lock.
        while True:
            within, bounds = _within("r.key", prefix, after)
            rows = self._select(_LIST.format(within=within, condition="1 = 1"), *bounds, _PAGE)
            yield from map(self._record, rows)
            if len(rows) < _PAGE:
                return
            after = rows[-1][1]

    def history(self, key: str, *, after: int = 0) -> Iterator[Change]:
        while True:
            rows = self._select(_HISTORY, key, after, _PAGE)
            yield from map(self._change, rows)
            if len(rows) < _PAGE:
                return
            after = rows[-1][2]

    def changes(self, prefix: str = "") -> Iterator[Change]:
        within, bounds = _within("c.key", prefix)
        statement, last, end = _CHANGES.format(within=within), 0, self._settled()
        while True:
            rows = self._select(statement, last, end, *bounds, _PAGE)
            yield from map(self._change, rows)
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def search(
        self, where: Filter, prefix: str = "", *, after: str = "", as_of: float | None = None
    ) -> Iterator[Record]:
        if as_of is not None:
            return super().search(where, prefix, after=after, as_of=moment(as_of))
        try:
            condition = index.condition(where, self.dialect.contains)
        except index.TooLargeError:
            return super().search(where, prefix, after=after)
        return self._found(where, condition, prefix, after)

    def _found(self, where: Filter, condition: index.Condition, prefix: str, after: str) -> Iterator[Record]:
        ways = index.anchors(where, self.dialect.contains)

        def page(session: Session, after: str) -> builtins.list[Row]:
            found = _candidates(session, ways)
            some: Sequence[Any] = () if found is None else (self.dialect.array(found),)
            within, bounds = _within("r.key" if found is None else "c.key", prefix, after)
            statement = (_LIST if found is None else _AMONG).format(
                within=within, condition=f"({condition.sql})", among=self.dialect.among.format("c.sequence")
            )
            (rows,) = session.select((statement, (*some, *bounds, *condition.values, _PAGE)))
            return rows

        while True:
            none: builtins.list[Row] = []
            rows = self._read(partial(page, after=after), nothing=none, snapshot=True)
            for record in map(self._record, rows):
                if condition.exact or where.matches(record.document):
                    yield record
            if len(rows) < _PAGE:
                return
            after = rows[-1][1]

    def _standing(self, prefix: str, after: str, as_of: float) -> Iterator[Record]:
        while True:
            within, bounds = _within("c.key", prefix, after)
            rows = self._select(_STOOD.format(within=within), *bounds, as_of, _PAGE)
            yield from (self._record(row) for row in rows if row[3] == "put")
            if len(rows) < _PAGE:
                return
            after = rows[-1][1]

    def _select(self, statement: str, *values: Any) -> builtins.list[Row]:
        return self._read(lambda session: session.select((statement, values))[0], nothing=[])

    # Writing.

    def commit(self, steps: Sequence[Step], *, by: str | None = None, token: str | None = None) -> Sequence[Change]:
        check_steps(steps, self.url)
        by, token, request = by or author(), token or new_token(), request_digest(steps)
        keys = [key for step in steps for key in ((step.key, step.to) if isinstance(step, Rename) else (step.key,))]

        def work(session: Session) -> builtins.list[Change]:
            dialect = self.dialect
            done, last, ((first,),) = session.select(
                (_DONE, (token,)),
                (_LAST.format(keys=dialect.keys), (dialect.array(keys),)),
                (dialect.next, ()),
            )
            if done:
                if done[0][0] not in (request, ""):  # none is known of what was taken over
                    raise InvalidError("this token was used for other changes", where=self.url)
                (rows,) = session.select((_SAME, (token,)))
                return [self._change(row) for row in rows]
            state = {row[1]: row for row in last}
            changes = [*self._changes(steps, state, by, time.time(), token)]
            self._store(session, first, changes, state)
            session.insert("commits", [(token, request)])
            return changes

        return self._write(work, keys, token)

    def _changes(
        self, steps: Sequence[Step], state: Mapping[str, Row], by: str, now: float, token: str
    ) -> Iterator[Change]:
        """What a commit does, given the last change of each key."""

        def change(key: str, document: Any = None, moved: str | None = None) -> Change:
            revision = state[key][2] + 1 if key in state else 1
            return Change(key, revision, "delete" if document is None else "put", document, by, now, token, moved)

        for step in steps:
            row = _current(state, step.key)
            self._check(step.key, row, step.when, needed=not isinstance(step, Put))
            if isinstance(step, Put):
                yield change(step.key, dict(step.document))
            elif isinstance(step, Delete):
                yield change(step.key)
            elif row is not None:
                if not step.replace:
                    self._check(step.to, _current(state, step.to), ABSENT, needed=False)
                yield change(step.key, moved=step.to)
                yield change(step.to, self._decode(row), moved=step.key)

    def _check(self, key: str, row: Row | None, when: Condition, *, needed: bool) -> None:
        if isinstance(when, Match):
            if row is None:
                raise ConflictError(f"{key!r} is gone; it was at revision {when.etag}", where=self.url)
            if str(row[2]) != when.etag:
                raise ConflictError(f"{key!r} is at revision {row[2]} (by {row[5]}), not {when.etag}", where=self.url)
        elif when is ABSENT and row is not None:
            raise ExistsError(f"{key!r} is there already, at revision {row[2]} (by {row[5]})", where=self.url)
        elif when is ANY and needed and row is None:
            raise NotFoundError(f"nothing is registered as {key!r}", where=self.url)

    def _store(self, session: Session, first: int, changes: Sequence[Change], state: Mapping[str, Row]) -> None:
        """Write changes, of which the one that comes last for a key makes what is there now."""
        rows = [
            (first + n, *change[:3], None if change.document is None else encode(change.document).decode(), *change[4:])
            for n, change in enumerate(changes)
        ]
        session.insert("changes", rows)
        now = {change.key: (sequence, change) for sequence, change in enumerate(changes, first)}
        put = [(sequence, change) for sequence, change in now.values() if change.document is not None]
        before = [row for key in now if (row := _current(state, key)) is not None]
        if before:
            session.remove("properties", "sequence", [row[0] for row in before])
            gone = [row[1] for row in before if now[row[1]][1].document is None]
            if gone:
                session.remove("records", "key", gone)
        if put:
            session.insert(
                "records",
                [(change.key, sequence) for sequence, change in put],
                "(key) do update set sequence = excluded.sequence",
            )
        entries = [
            (name, value, sequence) for sequence, change in put for name, value in index.rows(change.document or {})
        ]
        if entries:
            session.insert("properties", entries)

    def replay(self, changes: Iterable[Change]) -> int:
        new = 0
        batch: builtins.list[Change] = []
        for _, commit in itertools.groupby(changes, key=lambda change: change.token):
            batch += commit
            if len(batch) >= _BATCH:
                new += self._replay(batch)
                batch = []
        return new + (self._replay(batch) if batch else 0)

    def _replay(self, changes: Sequence[Change]) -> int:
        keys = [*dict.fromkeys(change.key for change in changes)]

        def work(session: Session) -> int:
            dialect = self.dialect
            last, ((first,),) = session.select(
                (_LAST.format(keys=dialect.keys), (dialect.array(keys),)), (dialect.next, ())
            )
            state = {row[1]: row for row in last}
            newest = {key: row[2] for key, row in state.items()}
            new, known = [], []
            for change in changes:
                there = newest.get(change.key, 0)
                if change.revision <= there:
                    known.append(change)
                elif change.revision > there + 1:
                    raise ConflictError(f"{change.key!r} has no revision {change.revision - 1}", where=self.url)
                else:
                    newest[change.key] = change.revision
                    new.append(change)
            asked: builtins.list[Query] = [
                (_ONE, (change.key, change.revision)) for change in known if change.revision < 1 or change.key in state
            ]
            found = {(row[1], row[2]): row for rows in session.select(*asked) for row in rows} if asked else {}
            mine = {(change.key, change.revision): change for change in new}
            for change in known:
                at = (change.key, change.revision)
                row = found.get(at)
                standing = mine.get(at) if row is None else self._change(row)
                if standing != change:
                    whose = "" if standing is None else f", by {standing.author}"
                    raise ConflictError(
                        f"{change.key!r} has another change as revision {change.revision}{whose}", where=self.url
                    )
            if new:
                self._store(session, first, new, state)
                tokens = [(token, "") for token in dict.fromkeys(change.token for change in new)]
                session.insert("commits", tokens, "(token) do nothing")
            return len(new)

        return self._write(work, keys, changes[0].token)

    # Rows.

    def _record(self, row: Row) -> Record:
        return Record(row[1], row[2], self._decode(row), row[5], row[6])

    def _change(self, row: Row) -> Change:
        key, revision, action, text, *told = row[1:]
        return Change(key, revision, action, None if text is None else self._decode(row), *told)

    def _decode(self, row: Row) -> dict[str, Any]:
        try:
            return decode(row[4])
        except (TypeError, ValueError) as error:
            raise IntegrityError(f"the record of {row[1]!r} is damaged: {error}", where=self.url) from error


def _current(state: Mapping[str, Row], key: str) -> Row | None:
    """What is under a key now: the last change, unless it took the record away."""
    row = state.get(key)
    return row if row is not None and row[3] == "put" else None


def _candidates(session: Session, ways: Sequence[Sequence[index.Leaf]]) -> Sequence[int] | None:
    """The changes that the shortest way leads to; `None` if there is none, or all are long."""
    if not ways:
        return None
    statements = [
        (
            " union all ".join(f"select p.sequence from @properties p where {leaf.sql}" for leaf in way),
            [value for leaf in way for value in leaf.values],
        )
        for way in ways
        if way
    ]
    if len(statements) < len(ways):
        return ()  # a way without a leaf leads nowhere
    if len(statements) > 1:
        counts = session.select(
            *((f"select count(*) from ({text} limit ?) n", [*values, _CANDIDATES + 1]) for text, values in statements)
        )
        best = min(range(len(ways)), key=lambda n: counts[n][0][0])
        if counts[best][0][0] > _CANDIDATES:
            return None
        statements = [statements[best]]
    ((text, values),) = statements
    (rows,) = session.select((f"select sequence from ({text} limit ?) n", [*values, _CANDIDATES + 1]))
    return None if len(rows) > _CANDIDATES else [row[0] for row in rows]


def _within(column: str, prefix: str, after: str = "") -> tuple[str, Sequence[str]]:
    """The condition that a key has a prefix and comes after another, as one range of an index."""
    if after.encode("utf-8", "surrogatepass") >= prefix.encode("utf-8", "surrogatepass"):
        low, start = f"{column} > ?", after
    else:
        low, start = f"{column} >= ?", prefix
    stem = prefix.rstrip(chr(0x10FFFF))
    if not stem:
        return low, (start,)
    # UTF-8 has no code for surrogates: what follows U+D7FF is U+E000.
    end = 0xE000 if stem[-1] == "\ud7ff" else ord(stem[-1]) + 1
    return f"{low} and {column} < ?", (start, stem[:-1] + chr(end))
