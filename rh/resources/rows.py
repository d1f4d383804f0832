"""What every table can be read as: batches, data frames, the result of a query, a description."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rh.errors import InvalidError
from rh.plugins import need
from rh.registry.lineage import recording
from rh.resources.blob import NOTHING
from rh.resources.versioned import Versioned
from rh.systems.base import System
from rh.tables.base import Snapshot

if TYPE_CHECKING:
    import pyarrow

    from rh.tables.database import Source
    from rh.tables.formats import BatchFormat
    from rh.tables.look import Diff, Profile
    from rh.tables.passing import Passing
    from rh.tables.stream import Stream
    from rh.tables.torch import TorchRows

__all__ = ["Facts", "Rows"]

_ROWS = 10_000
"""Rows of a batch where the caller does not say."""
_READ = 1 << 16
"""Rows of a batch of what `fetch("reader")` gives."""
_WHOLE = {"arrow": "Table", "polars": "DataFrame", "hf": "Dataset"}
"""What adapters make of rows, where they take other types as well."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was known of a table when it was last written or saved. Others may have changed it since."""

    rows: int
    size: int
    schema: bytes
    """A serialized `pyarrow.Schema`."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> Facts | None:
        """What a snapshot tells; `None` where it does not tell all of it, as that of an adopted table."""
        rows = [file.rows for file in snapshot.files]
        if snapshot.schema is None or None in rows:
            return None
        return cls(sum(row or 0 for row in rows), sum(file.size for file in snapshot.files), snapshot.schema)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Rows(Versioned):
    """Rows that lie in files, are held here and not written yet, or come from a database's query.

    Attributes:
        native: whose type `fetch()` gives back: `arrow`, `reader`, `dataset`, `pandas`, `polars`, `dask`, `ray`, `hf`,
            `dict`, `rows`.
        source: the database query whose result this is, for a table made with `query=`.
        facts_known: rows, bytes and schema, as they were when it was written or saved.
        value: rows that are still to be written.
    """

    native: str | None = None
    source: Source | None = None
    facts_known: Facts | None = field(default=None, compare=False)
    value: Any = NOTHING

    @property
    def is_query(self) -> bool:
        """Whether this is what a database answers to a query, each time it is read."""
        return self.source is not None and self.location is None

    def opened_files(self) -> tuple[System, Snapshot]:
        """The files whose rows are the table now, and the system opened at their root."""
        raise NotImplementedError

    def to_reader(self) -> pyarrow.RecordBatchReader:
        """All rows as a `pyarrow.RecordBatchReader`: batch by batch, never all at once."""
        from rh.tables import access, adapters

        recording.read(self)
        if self.is_query:
            assert self.source is not None
            return self.source.reader()
        if self.value is not NOTHING and "_in_memory" not in self.__dict__:
            given = self.handed_out()
            return adapters.owner_of(given).reader(given)
        system, snapshot = self.opened_files()
        dataset = access.dataset(system, snapshot)
        access.check_files(system, snapshot, dataset)

        def batches() -> Iterator[pyarrow.RecordBatch]:
            with access.reading(system, snapshot, dataset.schema):
                yield from access.scanner(system, snapshot, dataset, strict=True).to_batches()

        return need("pyarrow").RecordBatchReader.from_batches(dataset.schema, batches())

    def handed_out(self) -> Any:
        """The rows as they were given; of a reader, which gives them once, what is kept of them.

        Raises:
            InvalidError: a reader was handed out before, and nobody knows how far it was read.
        """
        if type(self.value).__name__ != "RecordBatchReader":
            return self.value
        if "_kept" in self.__dict__:
            return self.__dict__["_kept"].to_reader()
        if "_in_memory" in self.__dict__:
            return self.to_reader()
        if self.__dict__.get("_used_up"):
            raise InvalidError("this reader has been read, and gives its rows only once", hint="make it anew")
        self.__dict__["_used_up"] = True
        return self.value

    def _held(self, as_: str) -> Any:
        """Rows that are not written yet, as what their own adapter makes of rows."""
        from rh.tables import adapters

        if as_ not in _WHOLE or any(kind.__name__ == _WHOLE[as_] for kind in type(self.value).__mro__):
            return self.value
        rows = self.__dict__.get("_kept")
        if rows is None:
            rows = self.to_reader().read_all()
            if self.__dict__.get("_used_up"):
                self.__dict__["_kept"] = rows  # no field: it is no part of the value
        return adapters.named(as_).of_arrow(rows)

    # What is in it.

    @property
    def schema(self) -> pyarrow.Schema:
        """Columns and types, from the files' metadata (at most two requests)."""
        from rh.tables import access

        if self.is_query:
            assert self.source is not None
            return self.source.schema()
        return access.schema(*self.opened_files())

    @property
    def num_rows(self) -> int:
        """How many rows there are now, from the files' metadata. CSV and JSON lines have none and are read through."""
        from rh.tables import access

        if self.is_query:
            assert self.source is not None
            return self.source.count()
        return access.num_rows(*self.opened_files())

    def __len__(self) -> int:
        """Rows, as far as they are known without asking the place: when the table was written, saved or loaded.

        Raises:
            TypeError: they are not known; `num_rows` asks.
        """
        if self.facts_known is None:
            raise TypeError("how many rows this table has is not known without asking its place; .num_rows asks")
        return self.facts_known.rows

    def __bool__(self) -> bool:
        return True

    def size(self) -> int:
        """Bytes of the table's files."""
        return sum(file.size for file in self.opened_files()[1].files)

    def head(self, n: int = 5, *, columns: Sequence[str] | None = None) -> Any:
        """The first `n` rows, as the table's own type."""
        pa = need("pyarrow")
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise InvalidError(f"head({n!r}): the number of rows is 0 or more")
        with self.stream(n or 1, columns=columns) as stream:
            batch = next(iter(stream), None) if n else None
            return self._as_native(pa.Table.from_batches([] if batch is None else [batch], schema=stream.schema))

    def sample(self, n: int, *, seed: int = 0, columns: Sequence[str] | None = None) -> Any:
        """`n` rows picked by `seed` from the whole table (all if there are fewer), as the table's own type."""
        from rh.tables import look

        return self._as_native(look.sample(*_opened(self), n, seed, columns=_names(columns)))

    def _as_native(self, rows: pyarrow.Table) -> Any:
        from rh.tables import adapters

        name = self.native if self.native in ("pandas", "polars", "dict", "rows", "hf") else "arrow"
        return adapters.named(name).of_arrow(rows)

    def profile(self) -> Profile:
        """What each column holds: type, nulls, distinct values, least, greatest, mean, the most frequent values."""
        from rh.tables import look

        return look.profile(*_opened(self))

    def diff(self, other: Any, *, keys: Sequence[str] = ()) -> Diff:
        """What `other` has that this table has not, and the reverse.

        Args:
            other: the newer one: a table, or rows as `rh.table` takes them.
            keys: columns that tell which rows are the same row; then changed rows are told as changed.

        Raises:
            InvalidError: there is no such column, two rows have one key, or `other` cannot be a table.
        """
        from rh.resources.table import Table
        from rh.tables import access, adapters, look

        if not isinstance(other, Rows):
            other = Table(value=other, native=adapters.owner_of(other).name)
        return look.diff(_opened(self), _opened(other), keys=tuple(access.names_in("keys", keys)))

    # Getting.

    def fetch(self, as_: str | None = None, *, columns: Sequence[str] | None = None, where: Any = None) -> Any:
        """All rows, as the type that was given to `rh.table`, or as another library's.

        Args:
            as_: `arrow`, `pandas`, `polars`, `dask`, `ray`, `hf`, `dict`, `rows`; `reader` for a
                `pyarrow.RecordBatchReader`, which reads on as batches are asked for, until it is dropped; `dataset` for
                a `pyarrow.dataset.Dataset` over the files that `rh` wrote (else, and of a part, it is in memory). By
                default the type that went in, and before it is written the very value. What goes in as a RecordBatch
                or Scanner comes back from files as a `pyarrow.Table`, a LazyFrame as a `polars.DataFrame`.
            columns: only these.
            where: only rows for which this holds (see `stream`).

        Raises:
            NotFoundError: there is no table.
            IntegrityError: a file is damaged.
            InvalidError: a RecordBatchReader that is not written yet was handed out already.
        """
        from rh.tables import adapters

        if self.value is not NOTHING and columns is None and where is None:
            if as_ is None:
                return self.handed_out()
            if as_ == "reader":
                return self.to_reader()
            if as_ == self.native or (as_ == "arrow" and self.native in ("reader", "dataset")):
                return self._held(as_)
        adapter = adapters.named(as_ or self.native or "arrow")
        if adapter.name == "reader":  # of the stream, which keeps alive what it reads from
            batches = self.stream(_READ, columns=columns, where=where)
            return need("pyarrow").RecordBatchReader.from_batches(batches.schema, batches)
        chosen = _names(columns)
        if self.is_query:
            return adapter.of_arrow(_chosen(self.to_reader().read_all(), chosen, where))
        system, snapshot = _opened(self)
        return adapter.fetch(system.location, snapshot, columns=chosen, where=where)

    @property
    def data(self) -> Any:
        """The rows: those that were given, or else `fetch()`."""
        return self.fetch()

    def to_arrow(self, *, columns: Sequence[str] | None = None, where: Any = None) -> pyarrow.Table:
        """All rows as a `pyarrow.Table`."""
        return self.fetch("arrow", columns=columns, where=where)

    def to_pandas(self, *, columns: Sequence[str] | None = None, where: Any = None) -> Any:
        """All rows as a `pandas.DataFrame`."""
        return self.fetch("pandas", columns=columns, where=where)

    def to_polars(self, *, columns: Sequence[str] | None = None, where: Any = None) -> Any:
        """All rows as a `polars.DataFrame`."""
        return self.fetch("polars", columns=columns, where=where)

    def to_dask(self, *, columns: Sequence[str] | None = None, where: Any = None) -> Any:
        """A Dask `DataFrame` whose workers read the files themselves."""
        return self.fetch("dask", columns=columns, where=where)

    def to_ray(self, *, columns: Sequence[str] | None = None, where: Any = None) -> Any:
        """A `ray.data.Dataset` whose tasks read the files themselves."""
        return self.fetch("ray", columns=columns, where=where)

    def to_hf(self, *, columns: Sequence[str] | None = None, where: Any = None) -> Any:
        """A `datasets.Dataset`."""
        return self.fetch("hf", columns=columns, where=where)

    def to_torch(self, batch_size: int = _ROWS, **options: Any) -> TorchRows:
        """A `torch.utils.data.IterableDataset` of batches; see `stream` for the options.

        It shares the rows among DataLoader workers and ranks, survives fork and spawn, and resumes (`state_dict`).
        """
        from rh.tables.torch import TorchRows

        return TorchRows(*_opened(self), batch_size, **options)

    def stream(
        self,
        batch_size: int = _ROWS,
        *,
        format: BatchFormat = "arrow",  # noqa: A002 - the word of the field
        columns: Sequence[str] | None = None,
        where: Any = None,
        shuffle_seed: int | None = None,
        shuffle_buffer: int | None = None,
        drop_last: bool = False,
        prefetch: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> Stream | Passing:
        """The rows in batches of exactly `batch_size` (the last may be smaller), across files, in the table's order.

        The stream is an iterator. `state_dict()` says where it is, and `load_state_dict()` goes on at that very row
        without reading what came before.

        Args:
            batch_size: rows.
            format: of a batch: `arrow` (RecordBatch), `pandas`, `polars`, `numpy` and `torch` (a dict of arrays or
                tensors by column), `dict` (of lists).
            columns: only these are read.
            where: only rows for which this holds: a `pyarrow.compute.Expression`, or `[("x", ">", 3), …]`, all of
                which must hold, or a list of such lists, one of which must. Row groups that cannot have any are not
                read.
            shuffle_seed: mix the rows. The same seed gives the same order on every machine.
            shuffle_buffer: rows mixed with each other at a time, at least; by default 262,144, or what fits in 8 MiB.
            drop_last: leave out a last batch that is smaller, so that all ranks get equally many.
            prefetch: row groups read at the same time; by default two, and more take more memory. 0 reads when a batch
                is asked for.
            rank: which of `world_size` equal, disjoint shares.
            world_size: number of shares; together they are all rows.
            start: begin at this row of the share.

        Raises:
            InvalidError: an argument is out of its range, or a column does not exist.
            ConflictError: the table was changed while it was streamed.
            IntegrityError: a file is damaged, or lost, and the table did not change.
        """
        from rh.tables.passing import Passing
        from rh.tables.stream import Stream

        chosen = _names(columns)
        if self.is_query:
            if shuffle_seed is not None or world_size != 1 or rank or start:
                raise InvalidError(
                    "the result of a query passes by once: it cannot be mixed, shared or begun in the middle",
                    hint='.snapshot("name") writes it as a table, which can',
                )
            assert self.source is not None
            recording.read(self)
            rows = self.source.reader(batch_size)
            return Passing(rows, batch_size, format=format, columns=chosen, where=where, drop_last=drop_last)
        return Stream(
            *_opened(self),
            batch_size,
            format=format,
            columns=chosen,
            where=where,
            shuffle_seed=shuffle_seed,
            shuffle_buffer=shuffle_buffer,
            drop_last=drop_last,
            prefetch=prefetch,
            rank=rank,
            world_size=world_size,
            start=start,
        )

    def __iter__(self) -> Iterator[pyarrow.RecordBatch]:
        return iter(self.stream())

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The rows for any library that speaks the Arrow C stream interface, batch by batch."""
        return self.to_reader().__arrow_c_stream__(requested_schema)

    def sql(self, query: str, *, parameters: Any = None, **tables: Any) -> pyarrow.Table:
        """The result of a query in DuckDB's SQL over the table's files; the table is `t`.

        Args:
            query: reads only; columns and filters reach the files.
            parameters: for the query's `?` or `$name`.
            tables: more tables by name: `rh` tables, or data frames.

        Example:
            >>> import rh
            >>> rh.table({"x": [1, 2, 3]}).sql("select max(x) as most from t").to_pylist()
            [{'most': 3}]
        """
        from rh.tables import query as queries

        others = {name: _opened(other) if isinstance(other, Rows) else other for name, other in tables.items()}
        return queries.sql(*_opened(self), query, parameters=parameters, tables=others)


def _names(columns: Sequence[str] | None) -> list[str] | None:
    from rh.tables import access

    return None if columns is None else access.names_in("columns", columns)


def _opened(table: Rows) -> tuple[System, Snapshot]:
    """The files of a table whose rows are read now."""
    recording.read(table)
    return table.opened_files()


def _chosen(rows: pyarrow.Table, columns: list[str] | None, where: Any) -> pyarrow.Table:
    from rh.tables import access

    if where is not None:
        rows = rows.filter(access.expression(where, rows.schema))
    if columns is not None:
        access.check_columns(columns, rows.schema)
        rows = rows.select(columns)
    return rows
