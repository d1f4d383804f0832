"""`Table.write`: which rows go to which place, and what the value knows of the table then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from rh.errors import InvalidError, NotFoundError
from rh.registry.lineage import recording
from rh.resources import places
from rh.resources.arguments import load_only
from rh.resources.blob import NOTHING
from rh.resources.folder import Folder
from rh.resources.rows import Facts
from rh.systems.base import System
from rh.tables import access, adapters, frames, store, writing
from rh.tables.base import ONE_FILE, Mode, Parallel
from rh.types import Location

if TYPE_CHECKING:
    from rh.resources.table import Table

__all__ = ["recorded_as_own", "write"]


def write(table: Table, data: Any, mode: Mode, partition_cols: Sequence[str] | None) -> Table:
    """`Table.write`."""
    from rh.resources.table import Table

    table.check_live()
    if table.schema_given is not None:
        raise InvalidError(
            "schema= says how files of others are read; what is written has the types of its rows",
            where=table.url,
            hint="cast the rows, and write them without it: rh.table(path=…).write(rows)",
        )
    partitions = table.partition_cols
    if partition_cols is not None:
        partitions = tuple(access.names_in("partition_cols", partition_cols))
    value = table.value if data is None else data
    own_type: str | None = None
    if isinstance(value, Table):
        own_type = value.native or "arrow"
        value = value.to_reader() if value.written or value.is_query else value.handed_out()
    if value is NOTHING and not table.is_query:
        raise InvalidError("there is nothing to write", hint=".write(data)")
    location = table.location or places.default_place("file", _stem(table))
    if ONE_FILE.search(location.path):
        raise InvalidError(
            "a table is written as a directory of files, and this path names one file",
            where=places.url_of(location),
            hint="leave out the ending",
        )
    if not table.mkdir and not Folder(location=location, host=table.host).exists_in_system():
        raise NotFoundError("there is no such directory", where=places.url_of(location), hint="mkdir=True makes it")
    host = table.host or places.portable(location)
    system = places.at(location, host)
    own = table.own or (mode != "error" and recorded_as_own(table, location) is not None)
    base: dict[str, Any] = {"format": table.format, "own": own}
    if value is NOTHING:
        native = table.native
        snapshot = writing.write(system, table.to_reader(), mode=mode, partition_cols=partitions, **base)
    else:
        adapter = adapters.owner_of(value)
        native = own_type or adapter.name
        if mode == "append" and data is not None and table.native:
            native = table.native
        if issubclass(adapter, Parallel):
            begun = writing.begin(system, adapter.schema(value), mode=mode, partition_cols=partitions, **base)
            files = adapter.write(value, location, begun.write_id, begun.partition_cols, schema=begun.schema)
            snapshot = writing.finish(system, begun, files)
        else:
            if partitions and adapter.name == "pandas":
                value = _labelled(value, system, mode, base)
            rows = table.to_reader() if value is table.value else adapter.reader(value)
            snapshot = writing.write(system, rows, mode=mode, partition_cols=partitions, **base)
    written = replace(
        table,
        location=location,
        host=host,
        native=native,
        partition_cols=snapshot.partition_cols,
        facts_known=Facts.of(snapshot),
        format=None,
        options=None,
        own=True,
        receipt=None,
        value=NOTHING,
    )
    recording.wrote(written)
    return written


def _labelled(frame: Any, system: System, mode: Mode, base: Mapping[str, Any]) -> Any:
    """A pandas frame to be partitioned; a `RangeIndex` that says more than the order of the rows is to be a column."""
    if mode != "append":
        return frames.labelled(frame)
    found = store.find(system, **base)
    if found is None or not frames.index_columns(access.schema(system, found)):
        return frame
    return frames.labelled(frame, always=True)


def recorded_as_own(table: Table, location: Location) -> Table | None:
    """The table that is saved under the name, if that is one that `rh` wrote to this place."""
    from rh.resources.table import Table

    if table.name is None:
        return None
    try:
        found = load_only(table.name, Table, dryrun=True)
    except (NotFoundError, InvalidError):
        return None
    return found if found.own and found.location == location else None


def _stem(table: Table) -> str:
    return places.stem_of(table.name) or f"table-{uuid4().hex}"
