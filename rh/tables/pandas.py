"""pandas: the index and the dtypes travel in the Arrow schema's metadata, as pandas and pyarrow keep them there."""

from __future__ import annotations

from typing import Any, ClassVar

from rh.tables import frames, reading
from rh.tables.base import Snapshot
from rh.types import Location

__all__ = ["Pandas"]


class Pandas:
    """`pandas.DataFrame`. Arrow decimals come back as `Decimal` objects: the metadata does not tell them apart."""

    name: ClassVar[str] = "pandas"

    @staticmethod
    def owns(value: Any) -> bool:
        """Whether it is a DataFrame of pandas, or of a subclass."""
        return reading.comes_from(value, ("pandas",), ("DataFrame",))

    @staticmethod
    def reader(value: Any) -> Any:
        """The frame as a reader: a `RangeIndex` as metadata, any other index as columns.

        Missing values become nulls, as pandas means them: in a column of NumPy floats that is every NaN.

        Raises:
            InvalidError: a column's name is not text or comes twice, or its values do not agree.
        """
        frames.check_names(value.columns)
        return frames.table(value).to_reader()

    @staticmethod
    def fetch(location: Location, snapshot: Snapshot, *, columns: list[str] | None = None, where: Any = None) -> Any:
        """The rows as a DataFrame, with its index and dtypes. The index comes along whatever `columns` says."""
        return frames.frame(
            reading.table(location, snapshot, columns=columns, where=where, beside=frames.index_columns)
        )

    @staticmethod
    def of_arrow(table: Any) -> Any:
        """Some rows of a table, in any order, as a DataFrame: a `RangeIndex` counts them anew."""
        return frames.frame(table.replace_schema_metadata(frames.without_range(table.schema).metadata))
