"""Databases as sources of tables: a query runs there, and its rows come as Arrow batches.

PostgreSQL, Redshift, SQLite, Snowflake and BigQuery are reached by their ADBC drivers, DuckDB by its own library.
Nothing is written: the query runs in a read-only transaction or on a file opened for reading, and a statement that is
no query is refused before it runs.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from rh.errors import InvalidError, UnsupportedError
from rh.plugins import need
from rh.tables import drivers
from rh.tables import query as duck
from rh.tables.casts import check_text
from rh.tables.drivers import Address, Driver
from rh.tables.query import ROWS

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SCHEMES", "Source", "is_database"]

SCHEMES = (*drivers.DRIVERS, "duckdb")
"""Schemes of URLs that name a database."""


def is_database(system: Any) -> bool:
    """Whether `system=` names a database: a URL with one of `SCHEMES`. No I/O."""
    return isinstance(system, str) and "://" in system and system.partition("://")[0].lower() in SCHEMES


@dataclass(frozen=True)
class Source:
    """The rows of a query in a database: a value without a connection. Making one does no I/O.

    A password in the URL is used by this value as long as it lives here, and kept nowhere: it is not in `system`, in
    errors, in the record or in the pickle. A copy that was made elsewhere asks the platform's own places for it.

    Attributes:
        system: URL of the database, as it is kept: without secrets.
        query: one statement that gives rows, in the database's own SQL.
        parameters: values for the query's placeholders, in order: `$1` in PostgreSQL and Redshift, `?` elsewhere.

    Raises:
        InvalidError: not the URL of a database, no query, or a parameter that cannot be bound.
    """

    system: str
    query: str
    parameters: Sequence[Any] = ()
    _address: Address = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not is_database(self.system):
            shown = drivers.public(self.system) if isinstance(self.system, str) else type(self.system).__name__
            raise InvalidError(f"this is not the URL of a database: {shown}", hint=f"schemes: {', '.join(SCHEMES)}")
        if not isinstance(self.query, str) or not self.query.strip():
            raise InvalidError(f"query= is the text of one statement, not {self.query!r}", where=self._shown())
        if isinstance(self.parameters, str | bytes | Mapping) or not isinstance(self.parameters, Sequence):
            raise InvalidError("parameters are a list, in the order of the placeholders", where=self._shown())
        object.__setattr__(self, "parameters", tuple(self.parameters))
        object.__setattr__(self, "_address", drivers.parse(self.system))
        object.__setattr__(self, "system", self._address.url)

    def _shown(self) -> str:
        return drivers.public(self.system)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.system, self.query, self.parameters)

    # The rows.

    def reader(self, batch_size: int = ROWS) -> pa.RecordBatchReader:
        """The query's rows, `batch_size` at a time (the last batch may have fewer).

        The query begins at once; rows are fetched while they are read, and what is held is a few batches.

        Raises:
            UnavailableError: the database cannot be reached, or the connection was lost on the way.
            UnauthenticatedError: the database does not know us. `AccessError`: we may not read this.
            NotFoundError: there is no such database, file or table.
            InvalidError: not a query, or a wrong one: the database's own message, and the position where it tells one.
            UnsupportedError: a column's type has no counterpart in Arrow; the cast to write is in the hint.
            DeadlineError: it took longer than the database or `timeout_s` allows.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InvalidError(f"a batch has one row or more, not {batch_size!r}")
        return self._rows(_statement(self.query), batch_size)

    def schema(self) -> pa.Schema:
        """The columns of the result. The database describes them and runs as little of the query as it can."""
        driver = self._driver()
        if driver is None or driver.describes == "rows":
            return self.reader(1).schema
        if driver.describes == "empty":
            return self._rows(_wrapped("*", self.query, " limit 0"), ROWS).schema
        with _Session(self._address, driver) as session:
            return _Columns(session.describe(_statement(self.query), self.parameters), self.system).schema

    def count(self) -> int:
        """How many rows the query gives. The database counts them."""
        counted = self._rows(_wrapped("count(*) as n", self.query), ROWS).read_all()
        return int(counted.column(0)[0].as_py())

    def _driver(self) -> Driver | None:
        return drivers.DRIVERS.get(self._address.scheme)

    def _rows(self, text: str, batch_size: int) -> pa.RecordBatchReader:
        driver = self._driver()
        if driver is None:
            rows = duck.over({}, text, parameters=self.parameters, batch_size=batch_size, database=self._address.file())
            batches, schema = iter(rows), rows.schema
        else:
            session = _Session(self._address, driver)
            try:
                batches, schema = session.rows(text, self.parameters, batch_size)
            except BaseException:
                session.close()
                raise
            batches = _Rows(batches, session)
        return need("pyarrow").RecordBatchReader.from_batches(schema, _sized(batches, batch_size))

    # The value as plain data.

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values without secrets, for records; `of_dict` reads them.

        Raises:
            InvalidError: a parameter that JSON cannot say.
        """
        return {"system": self.system, "query": self.query, "parameters": [_plain(value) for value in self.parameters]}

    @classmethod
    def of_dict(cls, document: Mapping[str, Any], *, local: bool = True) -> Source:
        """The value that `as_dict` described.

        Args:
            document: what `as_dict` gave.
            local: whether the record is this machine's. What another's says of files here (`passfile=`, `sslkey=`,
                `service=`, …) is not believed: it could lead our secrets to a host of its own.

        Raises:
            InvalidError: a record of others names such files.
        """
        source = cls(
            document["system"], document["query"], [_of_plain(one) for one in document.get("parameters") or ()]
        )
        named = sorted(filter(drivers.is_place, () if local else source._address.options))
        if named:
            raise InvalidError(
                f"this record is not of this machine, and names files or settings here: {', '.join(named)}",
                where=source.system,
                hint="make the table anew, with a URL of your own",
            )
        return source


class _Session:
    """A connection for one query. Errors leave it as ours."""

    def __init__(self, address: Address, driver: Driver) -> None:
        self.driver = driver
        self.errors = drivers.Errors(address)
        self.cursor: Any = None
        self.running = False
        self.process = os.getpid()
        with self.errors.connecting():
            self.connection = self._call(lambda: driver.connect(address))
        try:
            with self.errors:
                self.cursor = self.connection.cursor()
                if driver.begin:
                    self._execute(driver.begin)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and with it the transaction; and the query, if nobody read it to its end."""
        if os.getpid() != self.process:
            return  # a forked child has the parent's connection, and would end it for both
        if self.running:
            self.running = False
            with suppress(Exception):
                self.cursor.adbc_cancel()  # else the database would go on with it
        for one in (self.cursor, self.connection):
            if one is not None:
                with suppress(Exception):  # a connection that was lost says so once more when it is closed
                    one.close()

    def describe(self, text: str, parameters: Sequence[Any]) -> pa.Schema:
        """The columns of a query that does not run for it.

        Raises:
            InvalidError: it gives no rows.
        """
        with self.errors:
            schema = self._call(lambda: self.cursor.adbc_execute_schema(text, list(parameters) or None))
        if not schema.names:
            raise self.errors.no_rows()
        return schema

    def rows(self, text: str, parameters: Sequence[Any], batch_size: int) -> tuple[Iterator[pa.RecordBatch], pa.Schema]:
        """Begin a query: its batches, and their schema."""
        if self.driver.describes == "statement":
            known = _Columns(self.describe(text, parameters), self.errors.where)
            found = self._postgres(text, parameters, batch_size)
        else:
            # Only a query can stand in brackets, so a statement of another kind is refused here, before it runs.
            with self.errors.checking(text):
                self._execute(_wrapped("*", text, " limit 0"), parameters)
                self._call(self.cursor.fetch_arrow_table)
            with self.errors:
                self.cursor.adbc_statement.set_options(**self.driver.options)
                self._execute(text, parameters)
                stream = self.cursor.fetch_record_batch()
                known = _Columns(stream.schema, self.errors.where)
            found = self._stream(stream)
        self.running = True
        return map(known.convert, found), known.schema

    def _postgres(self, text: str, parameters: Sequence[Any], batch_size: int) -> Iterator[pa.RecordBatch]:
        """Rows from PostgreSQL and what speaks as it does."""
        selects = re.match(r"\s*(?:select|with|values|table|\()", text, re.IGNORECASE)
        with self.errors:
            if not selects:  # `show` and `explain`: a few rows
                self.cursor.adbc_statement.set_options(**{drivers.COPY: "false"})
                self._execute(text, parameters)
            elif parameters or not self.driver.copies:
                # COPY takes no parameters, and without it the driver would hold the whole result: a cursor.
                self._execute(f"declare rh_rows no scroll cursor for\n{text}", parameters)
                self.cursor.adbc_statement.set_options(**{drivers.COPY: "false"})
                return self._fetches(max(batch_size, 1000))
            else:
                self.cursor.adbc_statement.set_options(**self.driver.options)
                self._execute(text)
            return self._stream(self.cursor.fetch_record_batch())

    def _fetches(self, rows: int) -> Iterator[pa.RecordBatch]:
        while True:
            with self.errors:
                self._execute(f"fetch forward {rows} from rh_rows")
                table = self._call(self.cursor.fetch_arrow_table)
            if not table.num_rows:
                return
            yield from table.to_batches()

    def _stream(self, stream: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                with self.errors:
                    batch = self._call(stream.read_next_batch)
            except StopIteration:
                return
            yield batch

    def _execute(self, text: str, parameters: Sequence[Any] = ()) -> None:
        self._call(lambda: self.cursor.execute(text, list(parameters) or None))

    def _call(self, work: Callable[[], Any]) -> Any:
        """Do what may take long, and let Ctrl-C end it: a driver that waits does not see an interrupt."""

        def cancel() -> None:
            self.cursor.adbc_cancel()

        return duck.interruptible(work, cancel)


class _Rows:
    """The batches of a session, which ends with them: when they were read, when one failed, when nobody has them."""

    def __init__(self, batches: Iterator[pa.RecordBatch], session: _Session) -> None:
        self.batches, self.session = batches, session

    def __iter__(self) -> _Rows:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            return next(self.batches)
        except StopIteration:
            self.session.running = False
            self.session.close()
            raise
        except BaseException:
            self.session.close()
            raise

    def __del__(self) -> None:
        self.session.close()


class _Columns:
    """The columns of a result, and how a driver's batches become them.

    PostgreSQL's `numeric` comes as text. With a precision it becomes a decimal; without one it may be of any size, and
    stays text.
    """

    def __init__(self, found: pa.Schema, where: str) -> None:
        pa = need("pyarrow")
        twice = sorted({name for name in found.names if found.names.count(name) > 1})
        if twice:
            raise InvalidError(
                f"two columns of the result are called {twice[0]!r}", where=where, hint="select … as another_name"
            )
        self.where = where
        self.schema = pa.schema([pa.field(one.name, self._type(one), one.nullable) for one in found])

    def _type(self, column: pa.Field) -> pa.DataType:
        pa = need("pyarrow")
        if isinstance(column.type, pa.OpaqueType) and column.type.type_name == "numeric":
            return _decimal(int((column.metadata or {}).get(b"POSTGRESQL:typmod", b"-1")))
        return self._known(column.type, column.name)

    def _known(self, kind: pa.DataType, name: str) -> pa.DataType:
        """A type without the parts that only the driver knows."""
        pa = need("pyarrow")
        if isinstance(kind, pa.OpaqueType):
            if pa.types.is_string(kind.storage_type):
                return kind.storage_type
            what = "a type that the driver does not know" if "<" in kind.type_name else kind.type_name
            raise UnsupportedError(
                f"column {name!r} is {what}, which Arrow does not have",
                where=self.where,
                hint=f"{name}::text as {name}",
            )
        if pa.types.is_list(kind):
            inner = kind.value_field
            return pa.list_(pa.field(inner.name, self._known(inner.type, name), inner.nullable))
        if pa.types.is_struct(kind):
            return pa.struct([pa.field(one.name, self._known(one.type, name), one.nullable) for one in kind])
        return kind

    def convert(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        pa = need("pyarrow")
        check_text(self.where, batch, "select its bytes: cast({name} as blob) as {name}")
        if batch.schema.types == self.schema.types:
            return pa.RecordBatch.from_arrays(batch.columns, schema=self.schema)
        columns = []
        for column, wanted in zip(batch.columns, self.schema, strict=True):
            try:
                plain = column.storage if isinstance(column.type, pa.OpaqueType) else column
                columns.append(plain if plain.type == wanted.type else plain.cast(wanted.type))
            except pa.ArrowException as error:
                raise InvalidError(
                    f"column {wanted.name!r} is {wanted.type}, and a value does not fit it: {error}",
                    where=self.where,
                    hint=f"cast it in the query: cast({wanted.name} as text)",
                ) from error
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _decimal(typmod: int) -> pa.DataType:
    """The type of `numeric(precision, scale)`, as `typmod` has them: 16 bits each, and 4 more than they are."""
    pa = need("pyarrow")
    precision, scale = (typmod - 4) >> 16 & 0xFFFF, (typmod - 4) & 0x7FF
    if typmod < 0 or scale > precision or precision > 76:  # a negative scale looks like one above 1000
        return pa.string()
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _statement(text: str) -> str:
    """A query that can stand in brackets: without a semicolon, and with an end of line, which ends a comment."""
    return text.rstrip().rstrip(";").rstrip() + "\n"


def _wrapped(what: str, query: str, end: str = "") -> str:
    """A query over a query."""
    return f"select {what} from (\n{_statement(query)}) as q{end}"  # noqa: S608 - both are the caller's own SQL


def _sized(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of exactly `size`; the last may have fewer."""
    pa = need("pyarrow")
    rest: list[Any] = []
    have = 0
    for batch in batches:
        at = 0
        while have + batch.num_rows - at >= size:
            piece = batch.slice(at, size - have)
            at += piece.num_rows
            yield pa.concat_batches([*rest, piece]) if rest else piece
            rest, have = [], 0
        if at < batch.num_rows:
            rest.append(batch.slice(at))
            have += batch.num_rows - at
    if rest:
        yield pa.concat_batches(rest)


# Parameters in records: JSON has no dates and no bytes, so these are objects with the type's name.

_KINDS: Mapping[str, tuple[type, Any, Any]] = {
    "datetime": (datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    "date": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": (datetime.time, datetime.time.isoformat, datetime.time.fromisoformat),
    "decimal": (decimal.Decimal, str, decimal.Decimal),
    "uuid": (uuid.UUID, str, uuid.UUID),
    "bytes": (bytes, lambda value: base64.b64encode(value).decode(), base64.b64decode),
}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    for name, (kind, write, _) in _KINDS.items():  # a datetime is a date as well, and stands before it
        if isinstance(value, kind):
            return {name: write(value)}
    raise InvalidError(
        f"a record cannot hold a parameter of type {type(value).__name__}",
        hint="give it as text, and cast it in the query",
    )


def _of_plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_of_plain(one) for one in value]
    if isinstance(value, Mapping):
        ((name, text),) = value.items()
        return _KINDS[name][2](text)
    return value
