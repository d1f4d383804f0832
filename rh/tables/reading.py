"""What several adapters do the same way: read a whole table, and bring parts of one to one schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rh.errors import InvalidError
from rh.plugins import need
from rh.systems import open_system
from rh.tables import access, frames
from rh.tables.base import Snapshot
from rh.tables.casts import exactly
from rh.types import Location

__all__ = ["chosen", "comes_from", "fitted", "nothing", "table"]


def comes_from(value: Any, packages: tuple[str, ...], names: tuple[str, ...]) -> bool:
    """Whether a value, or what it is a kind of, is one of these classes of a package. Imports nothing."""
    return any(kind.__name__ in names and kind.__module__.partition(".")[0] in packages for kind in type(value).__mro__)


def nothing(_schema: Any) -> list[str]:
    """No further columns."""
    return []


def chosen(columns: list[str] | None, schema: Any, beside: Callable[[Any], list[str]]) -> list[str] | None:
    """The columns to read, `None` for all.

    Raises:
        InvalidError: there is no such column.
    """
    if columns is None:
        return None
    found = access.check_columns(columns, schema)
    return found + [name for name in beside(schema) if name not in found]


def table(
    location: Location,
    snapshot: Snapshot,
    *,
    columns: list[str] | None = None,
    where: Any = None,
    beside: Callable[[Any], list[str]] = nothing,
) -> Any:
    """The rows as a `pyarrow.Table`, with the schema's metadata (of a `RangeIndex` only if they are all, in order).

    Args:
        location: of the table.
        snapshot: its files.
        columns: those wanted; all by default.
        where: a filter, as `rh.tables.access.expression` takes it.
        beside: says which columns of a `pyarrow.Schema` come along whatever `columns` says.

    Raises:
        InvalidError: there is no such column.
    """
    with open_system(location) as system:
        dataset = access.dataset(system, snapshot)
        names = chosen(columns, dataset.schema, beside)
        wanted = access.expression(where, dataset.schema)
        access.check_files(system, snapshot, dataset, wanted, None if columns is None else names)
        with access.reading(system, snapshot, dataset.schema):
            rows = access.scanner(system, snapshot, dataset, columns=names, where=wanted, strict=columns is None)
            found = rows.to_table()
    whole = wanted is None and not snapshot.partition_cols
    schema = dataset.schema if whole else frames.without_range(dataset.schema)
    return found.replace_schema_metadata(schema.metadata)


def fitted(rows: Any, schema: Any) -> Any:
    """A `pyarrow.Table` in the order and types of a schema.

    Raises:
        InvalidError: a column is missing, or a value of it does not fit.
    """
    pa = need("pyarrow")
    columns = []
    for name, kind in zip(schema.names, schema.types, strict=True):
        if name not in rows.column_names:
            raise InvalidError(f"a part of the table has no column {name!r}")
        column = rows.column(name)
        try:
            columns.append(pa.chunked_array([exactly(chunk, kind) for chunk in column.chunks], kind))
        except (pa.ArrowException, ValueError) as error:
            raise InvalidError(
                f"column {name!r} is {column.type} in one part of the table and {kind} in another: {error}"
            ) from error
    return pa.table(columns, schema=schema)
