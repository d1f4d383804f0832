"""polars: eager frames in slices, lazy ones as they are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from rh.errors import InvalidError
from rh.plugins import need
from rh.tables import reading
from rh.tables.base import Snapshot
from rh.types import Location

__all__ = ["Polars"]

_SLICE = 1 << 17
"""Rows handed over at a time: about what a row group holds."""


class Polars:
    """`polars.DataFrame` and `polars.LazyFrame`. What comes back is a DataFrame."""

    name: ClassVar[str] = "polars"

    @staticmethod
    def owns(value: Any) -> bool:
        """Whether it is a frame of polars."""
        return reading.comes_from(value, ("polars",), ("DataFrame", "LazyFrame"))

    @staticmethod
    def reader(value: Any) -> Any:
        """The frame as a reader. A lazy frame is computed as it is read, never held whole where polars can stream it.

        Raises:
            InvalidError: Arrow does not have the type of a column, or the lazy frame cannot be computed.
        """
        pl, pa = need("polars"), need("pyarrow")
        lazy = isinstance(value, pl.LazyFrame)
        with _failing():
            columns = value.collect_schema() if lazy else value.schema
        schema = pa.schema([_field(name, dtype) for name, dtype in columns.items()])
        frames = _computed(value) if lazy else value.iter_slices(_SLICE)
        batches = (batch for frame in frames for batch in _arrow(frame).cast(schema).to_batches())
        return pa.RecordBatchReader.from_batches(schema, batches)

    @staticmethod
    def fetch(location: Location, snapshot: Snapshot, *, columns: list[str] | None = None, where: Any = None) -> Any:
        """The rows as a `polars.DataFrame`."""
        return Polars.of_arrow(reading.table(location, snapshot, columns=columns, where=where))

    @staticmethod
    def of_arrow(table: Any) -> Any:
        """A `pyarrow.Table` as a `polars.DataFrame`."""
        return need("polars", purpose="a table as a polars.DataFrame").from_arrow(table)


def _arrow(frame: Any) -> Any:
    """A frame as an Arrow table in the types that every reader of Arrow knows."""
    return frame.to_arrow(compat_level=need("polars").CompatLevel.oldest())


def _field(name: str, dtype: Any) -> Any:
    """A column's field in Arrow."""
    pl, pa = need("polars"), need("pyarrow")
    if dtype == pl.Object:
        raise InvalidError(f"column {name!r} holds Python objects", hint="cast it to a type that polars has")
    try:
        return _arrow(pl.DataFrame(schema={name: dtype})).schema.field(0)
    except (pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise InvalidError(f"column {name!r} is {dtype}, which Arrow does not have", hint="cast it") from error


def _computed(lazy: Any) -> Iterator[Any]:
    with _failing():
        if hasattr(lazy, "collect_batches"):
            yield from lazy.collect_batches(chunk_size=_SLICE)
        else:
            yield from lazy.collect(engine="streaming").iter_slices(_SLICE)


@contextmanager
def _failing() -> Iterator[None]:
    """What polars finds wrong with a lazy frame, when it is computed at last, as ours."""
    try:
        yield
    except need("polars").exceptions.PolarsError as error:
        raise InvalidError(f"polars cannot compute the lazy frame: {error}") from error
