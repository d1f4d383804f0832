"""How Arrow reads a table's files where they are: natively on this machine, elsewhere by ranges of bytes.

Every read is held against the snapshot: where a file has another etag or size now, or is gone, the table changed
(`ConflictError`), or is damaged (`IntegrityError`) if its index still names that very file. Parquet pages that carry a
checksum are checked (`rh` writes them). In files of other tools without checksums, in CSV and in JSON lines, a changed
byte that still decodes cannot be found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rh.errors import IntegrityError, InvalidError
from rh.plugins import need
from rh.systems.base import System
from rh.tables import lines
from rh.tables.base import DataFile, Snapshot
from rh.tables.fragments import (
    TEXT,
    file_format,
    file_system,
    fragment,
    given_types,
    has_footer,
    partition_scalars,
    repeated,
    with_rows,
)
from rh.tables.ranges import BLOCK, first_line, open_file, translated
from rh.tables.schemas import (
    AT_ONCE,
    check_columns,
    check_file_schema,
    check_files,
    check_fragment,
    check_no_more,
    file_schema,
    misfit,
    names_in,
    no_column,
    schema,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

__all__ = [
    "TEXT",
    "Where",
    "check_columns",
    "check_file_schema",
    "check_files",
    "check_fragment",
    "check_no_more",
    "dataset",
    "expression",
    "file_schema",
    "fragment",
    "given_types",
    "has_footer",
    "names_in",
    "num_rows",
    "open_file",
    "partition_scalars",
    "reading",
    "reading_file",
    "repeated",
    "rows_of_files",
    "scanner",
    "schema",
    "translated",
    "with_rows",
]

Where = Any
"""A `pyarrow.compute.Expression`, or pyarrow's lists: `[("a", ">", 3), …]`; or lists of such, any of which may hold."""


def dataset(system: System, snapshot: Snapshot) -> ds.Dataset:
    """The table as a `pyarrow.dataset` over its files, wherever they are: filters skip files and row groups.

    It can be pickled and read on another machine that has the same systems. Arrow's own errors come out of it; read it
    inside `translated` where they are to be ours.
    """
    whole = schema(system, snapshot)
    files = file_system(system, snapshot)
    form = file_format(snapshot)
    fragments = [fragment(system, snapshot, file, whole, form=form, files=files) for file in with_rows(snapshot)]
    return need("pyarrow.dataset").FileSystemDataset(fragments, whole, form, files)


def scanner(
    system: System,
    snapshot: Snapshot,
    files: ds.Dataset,
    *,
    columns: Sequence[str] | None = None,
    where: Any = None,
    strict: bool = False,
    **options: Any,
) -> ds.Scanner:
    """How rows are read from `files`, the `dataset` of a snapshot: as `pyarrow.dataset.Dataset.scanner` does.

    Where all columns are wanted (`strict`), a key of JSON lines that the schema does not have is an error.
    """
    if snapshot.format != "jsonl":
        return files.scanner(columns=columns, filter=where, **options)
    rows = _line_batches(system, snapshot, files.schema, strict=strict)
    size = options.get("batch_size", 1 << 17)
    scanner = need("pyarrow.dataset").Scanner
    return scanner.from_batches(rows, schema=files.schema, columns=columns, filter=where, batch_size=size)


def _line_batches(system: System, snapshot: Snapshot, whole: pa.Schema, *, strict: bool) -> Iterator[pa.RecordBatch]:
    pa = need("pyarrow")
    inner = pa.schema([field for field in whole if field.name not in snapshot.partition_cols])
    for file in with_rows(snapshot):
        values = partition_scalars(snapshot, file, whole)
        for batch in lines.batches(system, snapshot, file, inner, strict=strict and not snapshot.owned):
            more = [repeated(value, batch.num_rows) for value in values.values()]
            yield pa.RecordBatch.from_arrays([*batch.columns, *more], schema=whole)


@contextmanager
def reading(system: System, snapshot: Snapshot, whole: pa.Schema) -> Iterator[None]:
    """`translated` while a table is read; what is wrong in one of its files of text is told with its name."""
    try:
        with translated(system.url()):
            yield
    except (InvalidError, IntegrityError) as error:
        if snapshot.format == "csv" and error.where == system.url():
            for file in with_rows(snapshot):
                with reading_file(system, snapshot, file, whole):
                    for _ in fragment(system, snapshot, file, whole).to_batches(schema=whole):
                        pass
        raise


@contextmanager
def reading_file(
    system: System, snapshot: Snapshot, file: DataFile, whole: pa.Schema, unchanged: Callable[[], None] | None = None
) -> Iterator[None]:
    """`translated` while one file of text is read; a value that does not fit is told with its column and both types."""
    where = system.url(file.key)
    try:
        with translated(where, unchanged):
            yield
    except InvalidError as error:
        told = _VALUE.search(error.message)
        if told is None:
            raise
        field = file_schema(system, snapshot, file).field(int(told.group(1)))
        want = whole.field(field.name).type
        if field.type != want:
            raise misfit(where, field.name, field.type, want, f": {told.group(2)}") from error
        raise InvalidError(
            f"a value of column {field.name!r} is no {want}, as those before it are: {told.group(2)}",
            where=where,
            hint=f'options={{"column_types": {{"{field.name}": "string"}}}} reads it as text',
        ) from error


_VALUE = re.compile(r"In CSV column #(\d+): ((?:Row #\d+: )?CSV conversion error to .*)", re.DOTALL)


def num_rows(system: System, snapshot: Snapshot) -> int:
    """How many rows the table has: from the index, else from the files' footers; CSV and JSON lines are read for it."""
    return sum(rows_of_files(system, snapshot))


def rows_of_files(system: System, snapshot: Snapshot) -> list[int]:
    """How many rows each file has, known as for `num_rows`."""
    missing = [file for file in snapshot.files if file.rows is None]

    def count(file: DataFile) -> int:
        return _file_rows(system, snapshot, file)

    if not missing or snapshot.format in ("csv", "jsonl"):
        return [count(file) for file in snapshot.files]  # each is parsed on all cores as it is
    with ThreadPoolExecutor(min(AT_ONCE, len(missing)), "rh-rows") as pool:
        return list(pool.map(count, snapshot.files))


def _file_rows(system: System, snapshot: Snapshot, file: DataFile) -> int:
    """How many rows one file has."""
    if file.rows is not None:
        return file.rows
    try:
        with translated(system.url(file.key)):
            if snapshot.format == "parquet":
                with open_file(system, file) as source:
                    return int(need("pyarrow.parquet").read_metadata(source).num_rows)
            if snapshot.format == "arrow":
                with open_file(system, file, block=BLOCK) as source:
                    if not has_footer(source):
                        return sum(batch.num_rows for batch in need("pyarrow").ipc.open_stream(source))
            return int(fragment(system, snapshot, file, None).count_rows())
    except (IntegrityError, InvalidError) as error:
        if snapshot.format == "jsonl":
            lines.explain(system, file, need("pyarrow").schema([]), error)
        raise


def expression(where: Where, schema: pa.Schema) -> Any:
    """A filter as a `pyarrow.compute.Expression` that fits the schema; `None` stays `None`.

    Raises:
        InvalidError: a column it names is not there or cannot be compared so, or it is no filter.
    """
    if where is None:
        return None
    pa, pc, ds = need("pyarrow"), need("pyarrow.compute"), need("pyarrow.dataset")
    found = where
    if not isinstance(where, pc.Expression):
        if not isinstance(where, (list, tuple)):
            raise InvalidError(f"a filter is an expression or a list of (column, operator, value), not {where!r}")
        if len(where) == 3 and all(isinstance(part, str) for part in where[:2]):
            where = [tuple(where)]  # one condition without its list
        try:
            found = need("pyarrow.parquet").filters_to_expression(where)
        except (ValueError, TypeError, LookupError, pa.ArrowException) as error:
            raise InvalidError(f"not a filter: {error}", hint='[("column", ">", 3), …]') from error
    try:
        ds.dataset(schema.empty_table()).head(1, filter=found)
    except (pa.ArrowException, TypeError) as error:
        missing = re.search(r"No match for FieldRef\.Name\((.*?)\) in ", str(error))
        if missing:
            raise no_column(missing.group(1), schema) from error
        raise InvalidError(f"the filter does not fit the table: {first_line(error)}") from error
    return found
