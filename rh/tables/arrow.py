"""Arrow's own values, and Python's: a dict of columns, a list of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from rh.errors import InvalidError
from rh.plugins import need
from rh.systems import open_system
from rh.tables import access, reading
from rh.tables.agreement import PLAIN, agree, said
from rh.tables.base import Snapshot
from rh.types import Location

__all__ = ["Arrow", "Columns", "Dataset", "Reader", "Rows"]

_OWN = {
    "Table": "pyarrow.lib",
    "RecordBatch": "pyarrow.lib",
    "RecordBatchReader": "pyarrow.lib",
    "Dataset": "pyarrow._dataset",
    "Scanner": "pyarrow._dataset",
}
_READ = 1 << 16
"""Rows of a batch that a reader gives."""
_INT64 = (1 << 63) - 1


def _is_one_of(value: Any, *names: str) -> bool:
    """Whether a value is of one of these classes of pyarrow's."""
    return any(kind.__name__ in names and _OWN[kind.__name__] == kind.__module__ for kind in type(value).__mro__)


class Arrow:
    """pyarrow's tables, batches and scanners; and whatever hands out an Arrow stream or array."""

    name: ClassVar[str] = "arrow"

    @staticmethod
    def owns(value: Any) -> bool:
        """Whether it is one of pyarrow's; what only speaks Arrow's protocol is taken when nobody else owns it."""
        return _is_one_of(value, "Table", "RecordBatch", "Scanner")

    @staticmethod
    def reader(value: Any) -> Any:
        """The value as a reader, without a copy. A reader is used up by it.

        Raises:
            InvalidError: it hands out Arrow data that is no table, such as one column.
        """
        pa = need("pyarrow")
        if isinstance(value, pa.RecordBatchReader):
            return value
        if isinstance(value, pa.Table):
            return value.to_reader()
        if isinstance(value, pa.RecordBatch):
            return pa.RecordBatchReader.from_batches(value.schema, [value])
        if _is_one_of(value, "Dataset", "Scanner"):
            scanner = value if hasattr(value, "to_reader") else value.scanner()
            return scanner.to_reader()
        try:
            if hasattr(value, "__arrow_c_stream__"):
                return pa.RecordBatchReader.from_stream(value)
            batch = pa.record_batch(value)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InvalidError(
                f"a {type(value).__qualname__} cannot be read as a table: {error}",
                hint="give it with its columns' names",
            ) from error
        return pa.RecordBatchReader.from_batches(batch.schema, [batch])

    @staticmethod
    def fetch(location: Location, snapshot: Snapshot, *, columns: list[str] | None = None, where: Any = None) -> Any:
        """The rows as a `pyarrow.Table`."""
        return reading.table(location, snapshot, columns=columns, where=where)

    @staticmethod
    def of_arrow(table: Any) -> Any:
        """The table itself."""
        return table


class Reader:
    """`pyarrow.RecordBatchReader`: rows that pass by once, batch by batch."""

    name: ClassVar[str] = "reader"

    @staticmethod
    def owns(value: Any) -> bool:
        """Whether it is a reader."""
        return _is_one_of(value, "RecordBatchReader")

    @staticmethod
    def reader(value: Any) -> Any:
        """The value itself."""
        return value

    @staticmethod
    def fetch(location: Location, snapshot: Snapshot, *, columns: list[str] | None = None, where: Any = None) -> Any:
        """The rows as a reader of what a `Stream` reads: two row groups and 64 MiB are in memory, at the most.

        Threads read ahead until it is dropped.
        """
        from rh.tables.stream import Stream

        rows = Stream(open_system(location), snapshot, _READ, columns=columns, where=where)
        return need("pyarrow").RecordBatchReader.from_batches(rows.schema, rows)

    @staticmethod
    def of_arrow(table: Any) -> Any:
        """A `pyarrow.Table` as a reader of it."""
        return table.to_reader()


class Dataset:
    """`pyarrow.dataset.Dataset`, whatever its rows lie in."""

    name: ClassVar[str] = "dataset"

    @staticmethod
    def owns(value: Any) -> bool:
        """Whether it is a dataset."""
        return _is_one_of(value, "Dataset")

    @staticmethod
    def reader(value: Any) -> Any:
        """The rows as a reader."""
        return Arrow.reader(value)

    @staticmethod
    def fetch(location: Location, snapshot: Snapshot, *, columns: list[str] | None = None, where: Any = None) -> Any:
        """A dataset over the files that `rh` wrote, wherever they are, which are read when it is; it can be pickled.

        What it meets then is told as pyarrow tells it. Files of others, which are held against the table's columns when
        they are read, and a part of the rows or columns, are read now, and are in memory; so are rows without files.
        """
        if snapshot.owned and columns is None and where is None and location.system != "memory":
            return access.dataset(open_system(location), snapshot)
        return Dataset.of_arrow(reading.table(location, snapshot, columns=columns, where=where))

    @staticmethod
    def of_arrow(table: Any) -> Any:
        """A `pyarrow.Table` as a dataset in memory."""
        return need("pyarrow.dataset").dataset(table)


class Columns:
    """A dict of columns: each a list, an array, or anything Arrow can make one of."""

    name: ClassVar[str] = "dict"

    @staticmethod
    def owns(value: Any) -> bool:
        """Whether it is a mapping."""
        return isinstance(value, Mapping)

    @staticmethod
    def reader(value: Any) -> Any:
        """The columns as a reader.

        Raises:
            InvalidError: a name is not text, a value is no column, lengths differ, or a column mixes types.
        """
        pa = need("pyarrow")
        if not value:
            raise InvalidError("a dict without columns is no table")
        arrays = {_name(name): _column(name, values) for name, values in value.items()}
        first, length = next((name, len(array)) for name, array in arrays.items())
        for name, array in arrays.items():
            if len(array) != length:
                raise InvalidError(
                    f"columns differ in length: {first!r} has {length} rows and {name!r} has {len(array)}"
                )
        return pa.table(arrays).to_reader()

    @staticmethod
    def fetch(location: Location, snapshot: Snapshot, *, columns: list[str] | None = None, where: Any = None) -> Any:
        """The rows as a dict of lists."""
        return Columns.of_arrow(reading.table(location, snapshot, columns=columns, where=where))

    @staticmethod
    def of_arrow(table: Any) -> Any:
        """A `pyarrow.Table` as a dict of lists."""
        return table.to_pydict()


class Rows:
    """A list of rows, each a dict. The columns are those of all rows together; what a row does not have is null."""

    name: ClassVar[str] = "rows"

    @staticmethod
    def owns(value: Any) -> bool:
        """Whether it is a list."""
        return isinstance(value, list)

    @staticmethod
    def reader(value: Any) -> Any:
        """The rows as a reader.

        Raises:
            InvalidError: there is no row, one is not a dict, a name is not text, or values of one column do not agree.
        """
        pa = need("pyarrow")
        names: dict[str, None] = {}
        for number, row in enumerate(value):
            if not isinstance(row, Mapping):
                raise InvalidError(f"row {number} is a {type(row).__qualname__}, not a dict")
            names.update(dict.fromkeys(row))
        if not names:
            raise InvalidError(
                "a list without rows says nothing of its columns" if not value else "rows without columns are no table",
                hint="give a pyarrow.Table, whose schema says what they are",
            )
        return pa.table({_name(name): _array(name, [row.get(name) for row in value]) for name in names}).to_reader()

    @staticmethod
    def fetch(location: Location, snapshot: Snapshot, *, columns: list[str] | None = None, where: Any = None) -> Any:
        """The rows as a list of dicts."""
        return Rows.of_arrow(reading.table(location, snapshot, columns=columns, where=where))

    @staticmethod
    def of_arrow(table: Any) -> Any:
        """A `pyarrow.Table` as a list of dicts."""
        return table.to_pylist()


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise InvalidError(f"the name of a column is text, not {type(name).__qualname__}: {name!r}")
    return name


def _column(name: str, values: Any) -> Any:
    """One column of a dict as an array."""
    pa = need("pyarrow")
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, list | tuple):
        return _array(name, values)
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidError(f"column {name!r} is a {type(values).__qualname__}, not a list of values")
    try:
        if hasattr(values, "__arrow_c_stream__"):
            return pa.chunked_array(values)
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidError(f"column {name!r} cannot be an Arrow array: {error}") from error


def _array(name: str, values: Any) -> Any:
    """Python values as an array whose type all of them agree on, found out without changing any."""
    pa = need("pyarrow")
    try:
        agree(name, values)
    except RecursionError:
        raise InvalidError(f"column {name!r} is nested too deeply, or holds itself") from None
    try:
        return pa.array(values, _finer(values))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        row = _first_bad(values)
        before = pa.array(values[:row]).type
        raise InvalidError(
            f"column {name!r} does not agree: row {row} is {said(values[row])}, and the rows before it are {before}"
            if not pa.types.is_null(before)
            else f"column {name!r}, row {row}: {said(values[row])} cannot be an Arrow value: {error}"
        ) from error


def _finer(values: Any) -> Any:
    """A type that Arrow would not infer: nanoseconds (of pandas' Timestamp), numbers of 64 bits; else `None`."""
    pa = need("pyarrow")
    kinds = {type(value) for value in values}
    if kinds <= {int, type(None)} and any(value is not None and value > _INT64 for value in values):
        return pa.uint64()
    if not kinds & PLAIN and any(
        getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0) for value in values
    ):
        kind = pa.array(values).type
        return pa.timestamp("ns", kind.tz) if pa.types.is_timestamp(kind) else pa.duration("ns")
    return None


def _first_bad(values: Any) -> int:
    """The first row with which the rows up to it can no longer be one array."""
    pa = need("pyarrow")
    good, bad = 0, len(values)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            pa.array(values[:middle])
            good = middle
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            bad = middle
    return bad - 1
