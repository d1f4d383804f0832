"""The registry in a PostgreSQL database: a schema of its own, `rh`, and many clients.

A commit is two round trips in one transaction: it takes advisory locks on the keys it touches, in one order, and reads
how they stand; then it writes. Locks end with the transaction, so nothing a client leaves behind stays locked. A read
is one round trip. Connections are kept between calls, a few for the whole process, and are opened anew when the server
was restarted; a commit whose answer was lost is sent again with its token, which makes it one.
"""

from __future__ import annotations

import atexit
import builtins
import hashlib
import os
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, TypeAlias, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from rh import config
from rh.errors import (
    AccessError,
    ConflictError,
    DeadlineError,
    FullError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
)
from rh.forks import Lock
from rh.plugins import need
from rh.registry.base import STILL, NewerError, UnconnectedError, begun, unreachable
from rh.registry.documents import is_secret_field
from rh.registry.sql.relational import TABLES, Dialect, Query, RelationalRegistry, Row, Session

__all__ = ["MIGRATIONS", "PostgresRegistry"]

T = TypeVar("T")

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "create sequence @numbers",
        """create table @changes (sequence bigint primary key, key text collate "C" not null, revision bigint not null,
           action text not null, document text, author text not null, time double precision not null,
           token text not null, moved text, unique (key, revision))""",
        "create index changes_token on @changes (token)",
        'create table @records (key text collate "C" primary key, sequence bigint not null unique)',
        "create table @commits (token text primary key, request text not null)",
        """create table @properties (name bytea not null, value bytea not null, sequence bigint not null,
           primary key (name, value, sequence))""",
        "create index properties_sequence on @properties (sequence)",
    ),
)
"""The schema, step by step; step n makes schema n (`about.schema`). Released steps never change."""

KEY_BYTES = 2600
"""What fits into an index of PostgreSQL, whatever the text."""
_FEW = 64
"""Keys that are locked one by one; a larger commit keeps all others waiting."""
_KEPT = 4
"""Idle connections of the process, per database."""
_SECRETS = ("password", "sslpassword")
_AGAIN = ("40001", "40P01")  # somebody was in the way
_GONE = ("57P01", "57P02", "57P03", "25P03")  # the server stops, or starts, or took us for dead
_STARTING = "starting up"


class PostgresRegistry(RelationalRegistry):
    """A registry in a PostgreSQL database, whose tables the first change creates.

    Args:
        url: `postgresql://[user[:password]@]host[:port]/database[?options]`, with the options of libpq and `schema`.
            A password is better left to `PGPASSWORD`, `~/.pgpass` or `passfile`; it is kept out of `url`.
        timeout_s: seconds that a call may take, by default the setting `timeout_s`.
    """

    distant: ClassVar[bool] = True
    dialect: ClassVar[Dialect] = Dialect(
        keys="(select unnest(?::text[]) as key)",
        among="{} = any(?)",
        contains="position(?::bytea in p.value) > 0",
        next="select nextval('@numbers') << 24",  # the commit's number, with room for that of each change
        array=list,
    )

    def __init__(self, url: str, *, timeout_s: float | None = None) -> None:
        self.url, self._conninfo, self._schema = _parsed(url)
        self._timeout_s = timeout_s
        self._prefix = f'"{self._schema}".'

    def __getstate__(self) -> dict[str, Any]:
        """Without a password: where it is unpickled, libpq finds its own."""
        kept = {name: value for name, value in self._conninfo.items() if name not in _SECRETS}
        return {**self.__dict__, "_conninfo": kept}

    def close(self) -> None:
        _connections.close(self._place)

    @property
    def _place(self) -> tuple[tuple[str, str], ...]:
        return tuple(sorted(self._conninfo.items()))

    # Transactions.

    def _read(self, work: Callable[[Session], T], *, nothing: T, snapshot: bool = False) -> T:
        begin = "begin isolation level repeatable read read only" if snapshot else None
        return self._tried(begin, (), work, nothing=lambda: nothing, connect_s=self.connect_s)

    def _write(self, work: Callable[[Session], T], keys: Sequence[str], token: str) -> T:
        for key in keys:
            if len(key.encode()) > KEY_BYTES:
                raise InvalidError(f"a key of more than {KEY_BYTES} bytes does not fit: {key[:80]!r}", where=self.url)
        if len(keys) > _FEW:
            return self._tried("begin", [_alone(self._everybody)], work)
        numbers = sorted({_number(f"{self._schema}\0{what}") for what in (*keys, f"\0{token}")})
        locks = [("select pg_advisory_xact_lock_shared(?)", (self._everybody,)), *map(_alone, numbers)]
        return self._tried("begin", locks, work)

    def _settled(self) -> int:
        # Who holds this lock alone knows that no commit is under way: all that are to come have greater numbers.
        def work(session: Session) -> int:
            (((last,),),) = session.select(("select coalesce(max(sequence), 0) from @changes", ()))
            return int(last)

        return self._tried("begin", [_alone(self._everybody)], work, nothing=lambda: 0)

    def _tried(
        self,
        begin: str | None,
        locks: Sequence[Query],
        work: Callable[[Session], T],
        *,
        nothing: Callable[[], T] | None = None,
        connect_s: float | None = None,
    ) -> T:
        """Do the work in a transaction, once more where the connection broke or others were in the way.

        Args:
            begin: the statement that begins it; `None` for a single round trip.
            locks: to take first.
            work: what to do.
            nothing: the answer where there are no tables yet; else they are made.
            connect_s: how long to try where no connection comes about, if not until the deadline.
        """
        psycopg = need("psycopg", purpose="a registry in PostgreSQL")
        if self._timeout_s is None:
            self._timeout_s = float(config.get("timeout_s"))
        deadline, pause, connected = time.monotonic() + self._timeout_s, 0.01, False
        if connect_s is not None and connect_s >= self._timeout_s:
            connect_s = None
        nobody: float | None = None  # since when no connection came about
        while True:
            tried, through = time.monotonic(), False
            try:
                with _connections.one(self._place, self._timeout_s, deadline, connect_s) as db:
                    connected = through = True
                    try:
                        with _transaction(db, begin):
                            return work(_Session(db, self._prefix, self._is_current, locks, alone=begin is None))
                    except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedTable):
                        if nothing is not None:
                            return nothing()
                    except _OlderError:
                        pass
                    self._migrate(db)
                continue
            except psycopg.Error as error:
                broken = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and (
                    error.sqlstate is None or error.sqlstate in _GONE
                )
                if broken:
                    _connections.close(self._place)  # what is idle is broken as well
                again = (broken and (connected or _STARTING in str(error))) or error.sqlstate in _AGAIN
                end = deadline
                unconnected = broken and not through and _STARTING not in str(error)
                if unconnected and connect_s is not None:
                    nobody = tried if nobody is None else nobody
                    end = min(end, nobody + connect_s)
                if not again or time.monotonic() + pause > end:
                    raise _translated(error, self.url, self._timeout_s, unconnected=unconnected) from error
            except UnicodeEncodeError as error:
                raise InvalidError("text that is not valid Unicode", where=self.url) from error
            except TimeoutError as error:
                if isinstance(error, RhError):
                    raise
                raise DeadlineError(f"no answer within {self._timeout_s:g} s", where=self.url, hint=STILL) from error
            time.sleep(pause)
            pause = min(pause * 2, 0.5)

    @property
    def _everybody(self) -> int:
        """The number of the lock that commits share."""
        return _number(self._schema)

    # The schema.

    def _is_current(self, schema: int) -> None:
        if schema > len(MIGRATIONS):
            raise NewerError(
                f"the registry has schema {schema}; this version of rh knows schemas up to {len(MIGRATIONS)}",
                where=self.url,
                hint="upgrade rh-data",
            )
        if schema < len(MIGRATIONS):
            raise _OlderError

    def _migrate(self, db: Any) -> None:
        """Bring the tables to the current schema. Of two who do so at once one waits for the other."""
        name, about = self._prefix[:-1], f"{self._prefix}about"
        with _transaction(db, "begin"):
            db.execute("select pg_advisory_xact_lock(%s)", (self._everybody,))
            schema, table = db.execute("select to_regnamespace(%s), to_regclass(%s)", (name, about)).fetchone()
            if schema is None:
                db.execute(f"create schema {name}")
            if table is None:
                db.execute(f"create table {about} (schema integer not null)")
                db.execute(f"insert into {about} values (0)")
            (found,) = db.execute(f"select schema from {about}").fetchone()
            for step in MIGRATIONS[found:]:
                for statement in step:
                    db.execute(statement.replace("@", self._prefix))
            if found < len(MIGRATIONS):
                db.execute(f"update {about} set schema = %s", (len(MIGRATIONS),))
        if table is None:
            begun(self.url)


class _OlderError(Exception):
    """The tables are of an older schema."""


class _Session(Session):
    def __init__(
        self, db: Any, prefix: str, is_current: Callable[[int], None], locks: Sequence[Query], *, alone: bool
    ) -> None:
        self._db, self._prefix, self._is_current, self._alone = db, prefix, is_current, alone
        self._first: Sequence[Query] | None = (*locks, ("select schema from @about", ()))

    def select(self, *queries: Query) -> builtins.list[builtins.list[Row]]:
        """The rows of each, in one round trip. The first time takes the locks and looks at the schema as well."""
        first, self._first = self._first or (), None
        # A pipeline of our own ends with the answers; in that of a transaction, the next statements follow.
        with _pipeline(self._db) if self._alone else nullcontext():
            cursors = [self._execute(statement, values) for statement, values in (*first, *queries)]
        found = [cursor.fetchall() for cursor in cursors]
        if first:
            ((schema,),) = found[len(first) - 1]
            self._is_current(schema)
        return found[len(first) :]

    def insert(self, table: str, rows: Sequence[Row], conflict: str = "") -> None:
        columns = TABLES[table]
        arrays = ", ".join(f"%b::{kind}[]" for kind in columns.values())  # as text they would be quoted, one by one
        statement = f"insert into @{table} ({', '.join(columns)}) select * from unnest({arrays})"
        self._execute(
            f"{statement} on conflict {conflict}" if conflict else statement,
            [list(column) for column in zip(*rows, strict=True)],
        )

    def remove(self, table: str, column: str, values: Sequence[Any]) -> None:
        self._execute(f"delete from @{table} where {column} = any(?)", (list(values),))

    def _execute(self, statement: str, values: Sequence[Any]) -> Any:
        return self._db.execute(statement.replace("@", self._prefix).replace("?", "%s"), values)


@contextmanager
def _transaction(db: Any, begin: str | None) -> Iterator[None]:
    """Statements that are sent without waiting for each other; all are made, or none. Without `begin` for reading."""
    if begin is None:
        yield
        return
    try:
        with _pipeline(db):
            db.execute(begin)
            yield
            db.execute("commit")
    except BaseException:
        status = need("psycopg").pq.TransactionStatus
        if db.info.transaction_status in (status.INTRANS, status.INERROR):
            db.execute("rollback")
        raise


@contextmanager
def _pipeline(db: Any) -> Iterator[None]:
    """A pipeline, which an error leaves when it has ended: of one left in between psycopg tells standard error."""
    failure: BaseException | None = None
    try:
        with db.pipeline():
            try:
                yield
            except BaseException as error:  # noqa: BLE001 - raised below
                failure = error
    except need("psycopg").Error as error:
        failure = failure or error
    if failure is not None:
        raise failure


def _alone(number: int) -> Query:
    return "select pg_advisory_xact_lock(?)", (number,)


def _number(text: str) -> int:
    """A number for a lock, of 64 bits. Two texts with one number wait for each other, no more."""
    return int.from_bytes(hashlib.sha256(f"rh {text}".encode()).digest()[:8], "big", signed=True)


# Connections between calls.

_Place: TypeAlias = tuple[tuple[str, str], ...]


class _Connections:
    """The connections of this process that no call has in use. A forked child makes its own."""

    def __init__(self) -> None:
        self._idle: list[tuple[_Place, float, Any]] = []
        self._inherited: list[Any] = []  # kept, because ending them would end the parent's
        self._lock = Lock()

    @contextmanager
    def one(self, place: _Place, timeout_s: float, deadline: float, connect_s: float | None = None) -> Iterator[Any]:
        """A connection for one block; kept afterwards if it is between transactions."""
        db = self._take(place, timeout_s) or _connected(place, timeout_s, deadline, connect_s)
        pid, db.rh_deadline = os.getpid(), deadline
        try:
            yield db
        finally:
            idle = not db.closed and db.info.transaction_status == need("psycopg").pq.TransactionStatus.IDLE
            if pid == os.getpid() and not (idle and self._keep(place, timeout_s, db)):
                db.close()

    def _take(self, place: _Place, timeout_s: float) -> Any:
        with self._lock:
            for n in range(len(self._idle) - 1, -1, -1):
                if self._idle[n][:2] == (place, timeout_s):
                    return self._idle.pop(n)[2]
        return None

    def _keep(self, place: _Place, timeout_s: float, db: Any) -> bool:
        with self._lock:
            if sum(idle[0] == place for idle in self._idle) >= _KEPT:
                return False
            self._idle.append((place, timeout_s, db))
            return True

    def close(self, place: _Place | None = None) -> None:
        """Close the idle ones, to one place or all."""
        with self._lock:
            closing = [db for at, _, db in self._idle if place in (None, at)]
            self._idle = [idle for idle in self._idle if idle[2] not in closing]
        for db in closing:
            db.close()

    def after_fork(self) -> None:
        self._inherited += [db for _, _, db in self._idle]
        self._idle = []


_connections = _Connections()
atexit.register(_connections.close)
os.register_at_fork(after_in_child=_connections.after_fork)


def _connected(place: _Place, timeout_s: float, deadline: float, connect_s: float | None = None) -> Any:
    psycopg = need("psycopg")
    left_s = max(deadline - time.monotonic(), 1) if connect_s is None else connect_s
    options = {
        "application_name": "rh",
        "connect_timeout": max(int(left_s), 2),
        **dict(place),
        "client_encoding": "utf8",
    }
    db = psycopg.connect(**options, autocommit=True)
    wait = db.wait
    db.wait = lambda steps, *_: wait(_until(steps, db), _LOOK_S)
    db.rh_deadline = deadline
    # What we no longer wait for is given up there as well, and a client that hangs in a commit lets others go on.
    timeouts = {"statement_timeout": timeout_s, "idle_in_transaction_session_timeout": min(timeout_s, _HANGS_S)}
    with _pipeline(db):
        for name, seconds in timeouts.items():
            db.execute("select set_config(%s, %s, false)", (name, str(int(seconds * 1000))))
        # A commit that was answered is on disk, also where the server is told that others need not be.
        db.execute(
            "select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'"
        )
    return db


_LOOK_S = 0.1
_HANGS_S = 5.0


def _until(steps: Generator[Any, Any, T], db: Any) -> Generator[Any, Any, T]:
    """What psycopg waits for, until the deadline: a server that says nothing at all would keep it waiting for ever."""
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > db.rh_deadline:
                steps.close()
                db.pgconn.finish()
                raise TimeoutError
            wanted = steps.send(ready)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


# URLs and errors.


def _parsed(url: str) -> tuple[str, dict[str, str], str]:
    """A URL without its secrets, what libpq takes, and the schema."""
    hint = "postgresql://user@host:5432/database"
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        found = {
            "host": parts.hostname,
            "port": None if parts.port is None else str(parts.port),
            "user": parts.username and unquote(parts.username),
            "password": parts.password and unquote(parts.password),
            "dbname": unquote(parts.path[1:]),
        }
    except ValueError:
        # The cause would repeat what may be a password.
        raise InvalidError("not the URL of a PostgreSQL database", where="registry", hint=hint) from None
    schema = query.pop("schema", "rh")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", schema):
        raise InvalidError(f"not the name of a schema: {schema!r}", where="registry", hint="letters, digits and _")
    conninfo = {name: value for name, value in (found | query).items() if value}
    shown = {name: value for name, value in query.items() if name not in _SECRETS and not is_secret_field(name)}
    if schema != "rh":
        shown["schema"] = schema
    place = parts.netloc.rpartition("@")[2]
    if found["user"]:
        place = f"{quote(found['user'], safe='')}@{place}"
    return urlunsplit(("postgresql", place, parts.path, urlencode(shown), "")), conninfo, schema


_STATES: Mapping[str, tuple[type[RhError], str]] = {
    "28": (UnauthenticatedError, "the registry does not know us"),
    "3D": (NotFoundError, "the database is not there"),
    "42501": (AccessError, "the registry's tables may not be used like this"),
    "25006": (AccessError, "the registry cannot be written"),
    "42": (InvalidError, "the schema holds tables of something else"),
    "22": (InvalidError, "the database does not take this text"),
    "54": (InvalidError, "the database does not take this"),
    "23": (ConflictError, "somebody else wrote the same"),
    "53100": (FullError, "no space is left for the registry"),
    "53": (UnavailableError, "the server has no room for another client"),
    "57014": (DeadlineError, "the registry stayed locked"),
    "55P03": (DeadlineError, "the registry stayed locked"),
    "XX": (IntegrityError, "the registry is damaged"),
}
"""What is meant by the codes of PostgreSQL's errors: five letters, or the two of a class."""

_REFUSALS: Mapping[str, str] = {
    "authentication failed": "28",
    "no password supplied": "28",
    "pg_hba.conf": "28",
    "does not exist": "3D",
    "too many clients": "53",
    "connection slots": "53",
    "timeout expired": "57014",
}
"""What is said when no connection comes about, which has no code."""


def _translated(error: Any, where: str, timeout_s: float, *, unconnected: bool = False) -> RhError:
    """The error of psycopg as one of ours; `unconnected` where that may be because nobody answers there."""
    said = (str(error).splitlines() or [type(error).__name__])[0]
    state = error.sqlstate or next((code for text, code in _REFUSALS.items() if text in str(error)), "")
    kind, what = _STATES.get(state) or _STATES.get(state[:2]) or (UnavailableError, "the registry cannot be used")
    if isinstance(error, need("psycopg").ProgrammingError) and not error.sqlstate:
        # libpq repeats an option that it does not know, but not what it was set to.
        return InvalidError("the registry's URL has an option that libpq does not take", where=where)
    hint = _HINT if kind is UnauthenticatedError else STILL if kind in (UnavailableError, DeadlineError) else None
    if unconnected and kind in (DeadlineError, UnavailableError) and state[:2] != "53":
        return unreachable(UnconnectedError(said, where=where, hint="check that the database server runs"))
    if kind is DeadlineError:
        what = f"{what} for {timeout_s:g} s" if error.sqlstate else f"no connection within {timeout_s:g} s"
    return kind(f"{what}: {said}", where=where, hint=hint)


_HINT = "libpq finds the password in PGPASSWORD, ~/.pgpass or passfile=, or it is in the URL"
