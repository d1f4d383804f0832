"""Hugging Face datasets: the features travel in the Arrow schema's metadata, as that library keeps them there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, ClassVar

from rh.errors import InvalidError
from rh.plugins import need
from rh.tables import reading
from rh.tables.base import Snapshot
from rh.types import Location

__all__ = ["HuggingFace"]

_BATCH = 10_000
"""Rows read at a time."""
_MANY = ("DatasetDict", "IterableDatasetDict")


class HuggingFace:
    """`datasets.Dataset` and `datasets.IterableDataset`. What comes back is a Dataset."""

    name: ClassVar[str] = "hf"

    @staticmethod
    def owns(value: Any) -> bool:
        """Whether it is one of the library's datasets, or its dict of several."""
        return reading.comes_from(value, ("datasets",), ("Dataset", "IterableDataset", *_MANY))

    @staticmethod
    def reader(value: Any) -> Any:
        """The dataset as a reader, batch by batch; selections and shuffles of it are kept.

        Raises:
            InvalidError: it is several datasets, one per split, or has no column.
        """
        pa = need("pyarrow")
        if any(kind.__name__ in _MANY for kind in type(value).__mro__):
            raise InvalidError(
                f"a {type(value).__name__} is several tables, one for each of {', '.join(map(repr, value))}",
                hint=f"choose one: data[{next(iter(value), 'train')!r}]",
            )
        tables = _tables(value)
        if value.features:
            schema = value.features.arrow_schema
        else:
            first = next(tables, None)
            if first is None:
                raise InvalidError("the dataset has no rows and no features, so no columns either")
            tables, schema = chain([first], tables), first.schema
        if not len(schema):
            raise InvalidError("a dataset without columns is no table")
        return pa.RecordBatchReader.from_batches(schema, _batches(tables, schema))

    @staticmethod
    def fetch(location: Location, snapshot: Snapshot, *, columns: list[str] | None = None, where: Any = None) -> Any:
        """The rows as a `datasets.Dataset` in memory, with its features."""
        return HuggingFace.of_arrow(reading.table(location, snapshot, columns=columns, where=where))

    @staticmethod
    def of_arrow(table: Any) -> Any:
        """A `pyarrow.Table` as a `datasets.Dataset`.

        Raises:
            InvalidError: the library has no type for a column.
        """
        library = need("datasets", purpose="a table as a Dataset")
        try:
            return library.Dataset(table)
        except (ValueError, TypeError) as error:
            raise InvalidError(f"this cannot be a Dataset: {error}", hint="columns= leaves columns out") from error


def _tables(value: Any) -> Iterator[Any]:
    try:
        yield from value.with_format("arrow").iter(batch_size=_BATCH)
    except need("pyarrow").ArrowException as error:
        raise InvalidError(
            f"the rows do not agree on the types of their columns: {error}", hint="data.cast(features) says which"
        ) from error


def _batches(tables: Iterator[Any], schema: Any) -> Iterator[Any]:
    for table in tables:
        yield from reading.fitted(table, schema).to_batches()
