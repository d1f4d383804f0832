"""What travels to the workers of Dask and Ray: where a table is, how to reach it, and which share of it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from rh.errors import NotFoundError, RhError
from rh.observe import log
from rh.plugins import need
from rh.systems import open_system
from rh.tables import access, frames, reading, writing
from rh.tables.base import DataFile, Snapshot
from rh.tables.fragments import key_of
from rh.tables.pickling import Reach
from rh.types import Location

__all__ = ["Part", "Reach", "Source", "gathered", "store", "writes"]

_PART = 32 << 20
"""Bytes of a Parquet file that one share of it has, about. Decoded, they are several times as many."""


class Part(NamedTuple):
    """A share of one file: the `number`-th of `of` equal ones, by row groups."""

    file: DataFile
    number: int
    of: int


@dataclass(frozen=True, slots=True)
class Source:
    """What a worker is told of a table that it reads a share of. Plain data.

    Attributes:
        reach: where the table is.
        snapshot: its files, with the schema.
        columns: those wanted, `None` for all.
        where: a `pyarrow.compute.Expression` that holds for the rows wanted.
    """

    reach: Reach
    snapshot: Snapshot
    columns: list[str] | None
    where: Any

    @classmethod
    def of(
        cls,
        location: Location,
        snapshot: Snapshot,
        columns: list[str] | None,
        where: Any,
        *,
        beside: Callable[[Any], list[str]] = reading.nothing,
    ) -> Self:
        """The source, checked: at most one request, for the schema. Files that no row is wanted of are left out.

        Args:
            location: of the table.
            snapshot: its files.
            columns: as for `reading.table`.
            where: as for `reading.table`.
            beside: as for `reading.table`.

        Raises:
            InvalidError: there is no such column.
        """
        with open_system(location) as system:
            dataset = access.dataset(system, snapshot)
            wanted = access.expression(where, dataset.schema)
            if wanted is not None and snapshot.partition_cols:
                kept = {key_of(fragment.path) for fragment in dataset.get_fragments(filter=wanted)}
                snapshot = replace(snapshot, files=tuple(file for file in snapshot.files if file.key in kept))
        return cls(
            Reach.of(location),
            replace(snapshot, schema=frames.without_range(dataset.schema).serialize().to_pybytes()),
            reading.chosen(columns, dataset.schema, beside),
            wanted,
        )

    @property
    def schema(self) -> Any:
        """The `pyarrow.Schema` of what is wanted."""
        pa = need("pyarrow")
        schema = need("pyarrow.ipc").read_schema(pa.py_buffer(self.snapshot.schema))
        if self.columns is None:
            return schema
        return pa.schema([schema.field(name) for name in self.columns], schema.metadata)

    @property
    def parts(self) -> list[Part | None]:
        """Shares of the table for one task each, in the order of the rows. `None` stands for a table without files."""
        shares: list[Part | None] = []
        for file in access.with_rows(self.snapshot):
            of = max(1, round(file.size / _PART)) if self.snapshot.format == "parquet" else 1
            shares += [Part(file, number, of) for number in range(of)]
        return shares or [None]

    def rows(self, part: Part | None) -> int | None:
        """How many rows a share has, where that is known without reading."""
        if part is None:
            return 0
        return part.file.rows if part.of == 1 and self.where is None else None

    def read(self, part: Part | None) -> Any:
        """One share as a `pyarrow.Table`."""
        if part is None:
            return self.schema.empty_table()
        with open_system(self.reach.here()) as system:
            alone = replace(self.snapshot, files=(part.file,))
            dataset = access.dataset(system, alone)
            with access.reading_file(system, self.snapshot, part.file, dataset.schema):
                (fragment,) = dataset.get_fragments()
                if not self.snapshot.owned and (self.snapshot.given or part.file != self.snapshot.files[0]):
                    access.check_fragment(system, self.snapshot, fragment, whole=dataset.schema, columns=self.columns)
                if part.of > 1:
                    groups = fragment.num_row_groups
                    first, last = (groups * at // part.of for at in (part.number, part.number + 1))
                    fragment = fragment.subset(row_group_ids=list(range(first, last)))
                files = need("pyarrow.dataset").FileSystemDataset(
                    [fragment], dataset.schema, dataset.format, dataset.filesystem
                )
                strict = self.columns is None
                rows = access.scanner(system, alone, files, columns=self.columns, where=self.where, strict=strict)
                found = rows.to_table()
        return found.replace_schema_metadata(dataset.schema.metadata)


def store(
    reach: Reach, rows: Any, write_id: str, number: int, partition_cols: tuple[str, ...], schema: Any
) -> list[DataFile]:
    """On a worker: store a `pyarrow.Table` as the `number`-th part of a table; nothing if it is empty."""
    if not rows.num_rows:
        return []
    rows = reading.fitted(rows, schema)
    return writing.write_part(reach.here(), rows.to_reader(), write_id, number, partition_cols, schema=schema)


@contextmanager
def writes(location: Location, write_id: str) -> Iterator[None]:
    """What its workers stored is removed if the block fails."""
    try:
        yield
    except BaseException:
        try:
            with open_system(location) as system:
                writing.abandon(system, write_id)
        except NotFoundError:
            pass
        except RhError as error:  # what went wrong before is what has to be told
            log.warning("files of a failed write stay behind at %s: %s", location, error)
        raise


def gathered(
    location: Location,
    write_id: str,
    partition_cols: tuple[str, ...],
    schema: Any,
    results: Iterable[list[DataFile] | RhError],
) -> list[DataFile]:
    """The files that all tasks stored; one without rows if there is none.

    Raises:
        RhError: the first that a task met.
    """
    files: list[DataFile] = []
    for result in results:
        if isinstance(result, RhError):
            raise result
        files += result
    if files:
        return files
    return writing.write_part(location, schema.empty_table().to_reader(), write_id, 0, partition_cols, schema=schema)
