"""SQL over tables: DuckDB reads the same files, wherever they are, and nothing else.

Arrow does the reading (`rh.tables.access`), so columns and filters of a query reach the Parquet reader, and only what
is needed is fetched. The connection lives for one query. It has no file system, no network and no extensions, its
settings are locked, and it takes one statement that gives rows.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from rh import config
from rh.errors import FullError, InvalidError, NotFoundError, RhError, UnavailableError
from rh.plugins import need
from rh.systems.base import System
from rh.tables import access
from rh.tables.base import Snapshot
from rh.tables.conditions import nanoseconds

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

__all__ = ["ROWS", "Parameters", "Queried", "over", "reader", "sql"]

ROWS = 65_536
"""Rows of a batch, where nobody says how many."""

Parameters: TypeAlias = "Sequence[Any] | Mapping[str, Any] | None"
"""Values for `?` and `$1`, in order, or for `$name`, by name."""
Queried: TypeAlias = Any
"""What a query may read: `(system, snapshot)`, a table's files; or rows in memory, whatever speaks Arrow."""

_NO_TABLE = re.compile(r"Table with name .* does not exist")
LOOK_UP_S = 0.2
CANCELLED_S = 5.0
"""How long a query that was cancelled is waited for."""
AHEAD = 4
"""Batches, and files, that Arrow reads ahead of the query."""

LOCKED: Mapping[str, Any] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
}
"""What keeps a query from files, hosts and extensions."""
GIVE_ROWS = ("SELECT", "EXPLAIN")
"""Kinds of statements that are taken; `from`, `values`, `describe`, `summarize` and `show` are selections to DuckDB."""
IN_MEMORY = ":memory:"


def sql(
    system: System,
    snapshot: Snapshot,
    query: str,
    *,
    parameters: Parameters = None,
    tables: Mapping[str, Queried] | None = None,
) -> pa.Table:
    """The rows that a query over a table gives; the table is called `t`.

    Args:
        system: opened at the table's directory.
        snapshot: the table's files.
        query: one statement in DuckDB's SQL that gives rows.
        parameters: values for `?`, `$1` or `$name`. They are bound, not pasted in.
        tables: further tables by the names they have in the query.

    Raises:
        NotFoundError: the query names a table that is not there.
        InvalidError: not a query, or it names a column that is not there (with DuckDB's message and the position), or
            two tables have one name.
        ConflictError: the table changed.
        IntegrityError: a file is damaged.
        FullError: the query needs more memory or room on disk than it may have.
    """
    return reader(system, snapshot, query, parameters=parameters, tables=tables).read_all()


def reader(
    system: System,
    snapshot: Snapshot,
    query: str,
    *,
    parameters: Parameters = None,
    tables: Mapping[str, Queried] | None = None,
    batch_size: int = ROWS,
) -> pa.RecordBatchReader:
    """`sql`, batch by batch, of `batch_size` rows at the most: for results that are larger than memory."""
    names = Counter(name.casefold() for name in ("t", *(tables or ())))  # as DuckDB tells names apart
    for name, count in names.items():
        if count > 1:
            what = "the table that is asked" if name == "t" else "two tables"
            raise InvalidError(f"{name!r} is the name of {what}", hint="give each of the others a name of its own")
    return over({"t": (system, snapshot), **(tables or {})}, query, parameters=parameters, batch_size=batch_size)


def over(
    tables: Mapping[str, Queried],
    query: str,
    *,
    parameters: Parameters = None,
    batch_size: int = ROWS,
    database: str | None = None,
) -> pa.RecordBatchReader:
    """The rows that a query over any tables gives; otherwise `reader`.

    With `database`, the path of a DuckDB file, the query reads its tables as well; the file is opened for reading.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidError(f"a batch has one row or more, not {batch_size!r}")
    return _Run(tables, database).reader(query, parameters, batch_size)


def interruptible(work: Callable[[], Any], cancel: Callable[[], None]) -> Any:
    """Do what may take long in a thread of its own, and let Ctrl-C end it: a database that waits does not see one.

    The main thread waits here, and has the query cancelled. It looks up now and then: ADBC leaves SIGINT in a state in
    which no wait of Python's ends early.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the work was asked for
            answer.set_exception(error)

    threading.Thread(target=run, name="rh-query", daemon=True).start()
    try:
        while not answer.done():
            wait([answer], LOOK_UP_S)
        return answer.result()
    except KeyboardInterrupt:
        with suppress(Exception):
            cancel()
        wait([answer], CANCELLED_S)  # the connection is of no use to two
        raise


def _bound(value: Any) -> Any:
    """Parameters as DuckDB takes all of them: of times of pandas it drops the nanoseconds, numpy's are numbers to it.

    Raises:
        InvalidError: DuckDB has no type that holds the nanoseconds.
    """
    if isinstance(value, Mapping):
        return {name: _bound(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        found = [_bound(one) for one in value]
        return found if isinstance(value, list) else tuple(found)
    kind = type(value)
    if (kind.__module__, kind.__name__) == ("numpy", "datetime64"):
        known = value.item()  # a whole number where `datetime` cannot hold it
        return need("duckdb").TimestampNanosecondValue(str(value)) if isinstance(known, int) else known
    if nanoseconds(value) is None:
        return value
    if isinstance(value, timedelta) or value.tzinfo is not None:
        raise InvalidError(
            f"a query cannot have the nanoseconds of the parameter {value!s}",
            hint="DuckDB has them in times without a zone alone; where= compares them all",
        )
    return need("duckdb").TimestampNanosecondValue(str(value))


class _Run:
    """One query on a connection of its own, from its check to its last batch."""

    def __init__(self, tables: Mapping[str, Queried], database: str | None) -> None:
        self.where = f"duckdb://{database}" if database else None
        self.columns: dict[str, list[str]] = {}
        self.failures: list[RhError] = []
        duckdb = need("duckdb", purpose="SQL")
        spill = tempfile.mkdtemp(prefix="rh-query-")
        self._forget = weakref.finalize(self, shutil.rmtree, spill, ignore_errors=True)
        settings = {
            **LOCKED,
            "threads": str(max(1, min(int(config.get("workers")), os.cpu_count() or 1))),
            "memory_limit": f"{config.get('query_memory_mb')}MiB",
            "temp_directory": spill,
        }
        with self._translated():
            self.connection = duckdb.connect(database or IN_MEMORY, read_only=database is not None, config=settings)
        try:
            with self._translated():
                self._lock()
                if database is not None:
                    found = "select table_name, column_name from duckdb_columns() where not internal"
                    for name, column in self.connection.execute(found).fetchall():
                        self.columns.setdefault(name, []).append(column)
                for name, table in tables.items():
                    self._register(name, table)
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        """Python's variables are no tables, and the query changes no setting."""
        names = "select name from duckdb_settings() where name like 'python\\_enable\\_replacement%' escape '\\'"
        for (name,) in self.connection.execute(names).fetchall():  # its name is not the same in all versions
            self.connection.execute(f"set {name} = false")
        self.connection.execute("set lock_configuration = true")

    def _register(self, name: str, table: Queried) -> None:
        pa, ds = need("pyarrow"), need("pyarrow.dataset")
        if isinstance(table, tuple) and len(table) == 2 and isinstance(table[1], Snapshot):
            system, snapshot = table
            self.where = self.where or system.url()
            with access.translated(system.url()):
                table = _watched()(system, snapshot, self.failures)
        elif not isinstance(table, (pa.Table, pa.RecordBatch, pa.RecordBatchReader, ds.Dataset)):
            if not hasattr(table, "__arrow_c_stream__"):
                raise InvalidError(
                    f"{name!r} is no table: a query cannot read {type(table).__name__}",
                    hint="a table of rh, or anything that speaks Arrow (`__arrow_c_stream__`)",
                )
            table = pa.table(table)
        self.columns[name] = list(table.schema.names)
        self.connection.register(name, table)

    def reader(self, query: str, parameters: Parameters, batch_size: int) -> pa.RecordBatchReader:
        """Begin the query."""
        try:
            with self._translated():
                self._check(query)
                if parameters is not None and (
                    isinstance(parameters, str | bytes) or not isinstance(parameters, Sequence | Mapping)
                ):
                    raise InvalidError(
                        f"parameters are a list of values, or a dict of them by name, not {parameters!r}",
                        hint=f"parameters=[{parameters!r}]",
                    )
                parameters = _bound(parameters if isinstance(parameters, Mapping) else list(parameters or ()))
                rows = self._call(lambda: self.connection.sql(query, params=parameters).to_arrow_reader(batch_size))
            twice = sorted({name for name in rows.schema.names if rows.schema.names.count(name) > 1})
            if twice:
                raise InvalidError(
                    f"two columns of the result are called {twice[0]!r}",
                    where=self.where,
                    hint="select … as another_name",
                )
        except BaseException:
            self.close()
            raise
        return need("pyarrow").RecordBatchReader.from_batches(rows.schema, self._batches(rows))

    def _call(self, work: Callable[[], Any]) -> Any:
        return interruptible(work, self.connection.interrupt)

    def _check(self, query: str) -> None:
        if not isinstance(query, str):
            raise InvalidError(f"a query is text, not {type(query).__name__}")
        kinds = [statement.type.name for statement in self.connection.extract_statements(query)]
        if len(kinds) != 1:
            raise InvalidError(f"a query is one statement; here are {len(kinds)}", where=self.where)
        if kinds[0] not in GIVE_ROWS:
            raise InvalidError(
                f"only queries are run here, and this is a statement of another kind: {kinds[0]}",
                where=self.where,
                hint="select … from t",
            )

    def _batches(self, rows: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            with self._translated():
                while (batch := self._call(lambda: next(rows, None))) is not None:
                    yield batch
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the connection and of what it put on disk."""
        self.connection.close()
        self._forget()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """DuckDB's errors as ours; one of ours that went through DuckDB comes out as it was."""
        duckdb = need("duckdb")
        try:
            yield
        except (RhError, KeyboardInterrupt):
            raise
        except (duckdb.Error, RuntimeError, OSError) as error:
            if self.failures:
                raise self.failures[0] from error
            raise self._as_ours(error) from error

    def _as_ours(self, error: Exception) -> BaseException:
        duckdb = need("duckdb")
        text = re.sub(r"\n\s*\n", "\n", str(error)).strip()
        if isinstance(error, duckdb.InterruptException) or text.startswith("INTERRUPT Error"):
            return KeyboardInterrupt(text)
        if isinstance(error, duckdb.OutOfMemoryException) or text.startswith("Out of Memory Error"):
            return FullError(
                f"the query needs more than it may have: {text.splitlines()[0]}",
                where=self.where,
                hint="ask for less, or raise the setting query_memory_mb (RH_QUERY_MEMORY_MB)",
            )
        if isinstance(error, duckdb.PermissionException):
            return InvalidError(
                f"a query reads its tables and nothing else: {text}", where=self.where, hint=self._tables_here()
            )
        if isinstance(error, (duckdb.IOException, duckdb.ConnectionException)):
            return UnavailableError(text, where=self.where)
        if isinstance(error, (duckdb.InternalException, duckdb.FatalException)):
            return RhError(f"DuckDB failed: {text}", where=self.where)
        if _NO_TABLE.search(text):
            return NotFoundError(text, where=self.where, hint=self._tables_here())
        return InvalidError(text, where=self.where, hint=self._nearest(text))

    def _nearest(self, text: str) -> str | None:
        """What the query may have meant, from what there is."""
        if "Arrow Type for Decimal" in text:
            return "DuckDB has decimals of up to 38 digits: schema= can say decimal128 or string for such columns"
        missing = re.search(r'(?:column "|column named "|Referenced column ")([^"]+)"', text)
        if missing is None or not self.columns:
            return None
        known = sorted({column for columns in self.columns.values() for column in columns})
        near = config.did_you_mean(missing.group(1), tuple(known), least=0.5)
        return near.removeprefix("; ") or f"columns: {', '.join(known[:20])}"

    def _tables_here(self) -> str | None:
        return f"tables here: {', '.join(self.columns)}" if self.columns else None


def _check_durations(batch: pa.RecordBatch, where: str) -> None:
    """Raise `InvalidError` where DuckDB, whose intervals have microseconds, would cut off nanoseconds."""
    arrow = need("pyarrow")
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.type == arrow.duration("ns"):
            try:
                column.cast(arrow.duration("us"))
            except arrow.ArrowInvalid as error:
                raise InvalidError(
                    f"a query cannot have the nanoseconds of the durations in column {name!r}",
                    where=where,
                    hint="leave the column out of the query; fetch() and stream() have them",
                ) from error


@cache
def _watched() -> type[ds.Dataset]:
    """The class of a dataset that DuckDB scans as any other, and that remembers what went wrong while it was read.

    An error that crosses from Arrow to DuckDB becomes a line of text. And the reading is driven from Python: with
    Arrow's own reader below DuckDB, an error in it leaves both waiting for the interpreter's lock for ever.
    """
    arrow = need("pyarrow")
    base: Any = need("pyarrow.dataset").InMemoryDataset

    class Watched(base):  # type: ignore[misc]
        def __init__(self, system: System, snapshot: Snapshot, failures: list[RhError]) -> None:
            self.system, self.snapshot, self.failures = system, snapshot, failures
            self.files = access.dataset(system, snapshot)
            super().__init__(self.files.schema.empty_table())

        def scanner(self, columns: list[str] | None = None, filter: Any = None, **_options: Any) -> Any:  # noqa: A002
            return Scan(self, columns, filter)

    class Scan:
        def __init__(self, dataset: Watched, columns: list[str] | None, where: Any) -> None:
            self.dataset, self.columns, self.where = dataset, columns, where
            stored = set(dataset.files.schema.names) - set(dataset.snapshot.partition_cols)
            self.everything = stored <= set(columns or stored)  # `select *` names the columns it knows of
            whole = dataset.files.schema
            self.projected_schema = whole if columns is None else arrow.schema([whole.field(name) for name in columns])

        def to_reader(self) -> pa.RecordBatchReader:
            return arrow.RecordBatchReader.from_batches(self.projected_schema, self.batches())

        def batches(self) -> Iterator[pa.RecordBatch]:
            try:
                system, snapshot, files = self.dataset.system, self.dataset.snapshot, self.dataset.files
                names = None if self.everything else self.columns
                access.check_files(system, snapshot, files, self.where, names)
                with access.reading(system, snapshot, files.schema):
                    for batch in access.scanner(
                        system,
                        snapshot,
                        files,
                        columns=self.columns,
                        where=self.where,
                        strict=self.everything,
                        batch_size=ROWS,
                        batch_readahead=AHEAD,
                        fragment_readahead=AHEAD,
                    ).to_batches():
                        _check_durations(batch, system.url())
                        yield batch
            except RhError as error:
                self.dataset.failures.append(error)
                raise

    return Watched
