"""How Arrow reads a table's files where they are: natively on this machine, elsewhere by ranges of bytes.

Every read is held against the snapshot: where a file has another etag or size now, or is gone, the table changed
(`ConflictError`), or is damaged (`IntegrityError`) if its index still names that very file. Parquet pages that carry a
checksum are checked (`rh` writes them). In files of other tools without checksums, in CSV and in JSON lines, a changed
byte that still decodes cannot be found.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rh.errors import IntegrityError, InvalidError, RhError
from rh.plugins import need
from rh.systems.base import System
from rh.tables import blocks, lines
from rh.tables.base import DataFile, Snapshot
from rh.tables.casts import cast_here, check_text, has_never_null, misfit, parsed_as, shaped
from rh.tables.conditions import fitted
from rh.tables.fragments import (
    TEXT,
    as_parsed,
    file_format,
    file_system,
    fragment,
    has_footer,
    has_preamble,
    partition_scalars,
    repeated,
    with_format,
    with_rows,
)
from rh.tables.given import given_types
from rh.tables.ranges import BLOCK, ENCODING, first_line, open_file, translated
from rh.tables.schemas import (
    AT_ONCE,
    check_columns,
    check_file_schema,
    check_files,
    check_fragment,
    check_no_more,
    columns_of,
    excludes,
    file_schema,
    given_in,
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
    "as_parsed",
    "check_columns",
    "check_file_schema",
    "check_files",
    "check_fragment",
    "check_no_more",
    "columns_of",
    "dataset",
    "excludes",
    "expression",
    "file_schema",
    "fragment",
    "given_in",
    "given_types",
    "has_footer",
    "names_in",
    "num_rows",
    "open_file",
    "partition_scalars",
    "reading",
    "reading_file",
    "repeated",
    "rows_of",
    "rows_of_files",
    "scanner",
    "schema",
    "shaped",
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
    made = partial(fragment, system, snapshot, whole=whole, form=form, files=files)
    if has_preamble(snapshot):  # each is looked into
        with ThreadPoolExecutor(AT_ONCE, "rh-columns") as threads:
            fragments = list(threads.map(made, with_rows(snapshot)))
    else:
        fragments = [made(file) for file in with_rows(snapshot)]
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
) -> ds.Scanner | _Blocks | _Passing | _Checked:
    """How rows are read from `files`, the `dataset` of a snapshot: as `pyarrow.dataset.Dataset.scanner` does.

    Where all columns are wanted (`strict`), a key of JSON lines that the schema does not have is an error. Where the
    schema was given, so is a null in a column that has none.
    """
    whole = files.schema
    if snapshot.format == "jsonl":
        read = need("pyarrow").schema([whole.field(name) for name in _looked_at(columns, where, whole)])
        lined = _line_batches(system, snapshot, whole, read, strict=strict and not snapshot.given)
        return _Passing(lined, whole, columns, where)
    free = given_types(snapshot)
    if free:
        names = _looked_at(columns, where, whole)
        typed = [whole.field(name) for name in names if name in free]
        held = snapshot.given and any(has_never_null(whole.field(name)) for name in names)
        filtered = where is not None and not _excludes(snapshot, files, where)
        if held or filtered or any(kinds for kinds, _ in _by_types(snapshot, files, where, typed)):

            def batches(blocked: Snapshot) -> Iterator[pa.RecordBatch]:
                some = files if blocked is snapshot else with_format(system, blocked, files)
                return _held(system, snapshot, some, _by_types(snapshot, some, where, typed), names, options)

            return _Passing(blocks.rows(snapshot, batches), whole, columns, where)
    if columns and not snapshot.owned:  # Arrow casts all columns of a file that has none of those wanted
        files = files.replace_schema(need("pyarrow").schema(map(whole.field, _looked_at(columns, where, whole))))
    if snapshot.format == "csv":
        return _Blocks(system, snapshot, files, columns=columns, filter=where, **options)
    found = files.scanner(columns=columns, filter=where, **options)
    return found if snapshot.owned else _Checked(system.url(), found)


class _Checked:
    """What a scanner of Arrow's gives of files of others, whose text may be anything."""

    def __init__(self, where: str, rows: ds.Scanner) -> None:
        self._where = where
        self._rows = rows

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, batch by batch."""
        for batch in self._rows.to_batches():
            check_text(self._where, batch)
            yield batch

    def to_table(self) -> pa.Table:
        """All rows."""
        found = self._rows.to_table()
        check_text(self._where, found)
        return found


class _Blocks:
    """What a scanner of Arrow's gives of CSV, in blocks that are as large as its rows need them."""

    def __init__(self, system: System, snapshot: Snapshot, files: ds.Dataset, **options: Any) -> None:
        self._system = system
        self._snapshot = snapshot
        self._files = files
        self._options = options

    def _scanner(self, snapshot: Snapshot) -> ds.Scanner:
        files = self._files if snapshot is self._snapshot else with_format(self._system, snapshot, self._files)
        return files.scanner(**self._options)

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, batch by batch."""
        return blocks.rows(self._snapshot, lambda snapshot: self._scanner(snapshot).to_batches())

    def to_table(self) -> pa.Table:
        """All rows."""
        return blocks.value(self._snapshot, lambda snapshot: self._scanner(snapshot).to_table())


_Group = tuple[dict[str, Any], list[Any]]
"""Files that follow each other, and the types as which some of their columns are read, to be cast and held then."""


def _by_types(snapshot: Snapshot, files: ds.Dataset, where: Any, fields: Sequence[pa.Field]) -> list[_Group]:
    """The files by the types of those of their columns in which Arrow's own casts may change values.

    What types they have is known: `check_files` has asked.
    """
    fields = [field for field in fields if field.name not in snapshot.partition_cols]

    def kinds_of(one: ds.Fragment) -> dict[str, Any]:
        if snapshot.format == "csv":
            found = {field.name: parsed_as("csv", field.type) for field in fields}
        else:
            known = one.physical_schema
            found = {field.name: known.field(field.name).type for field in fields if field.name in known.names}
        return {field.name: found[field.name] for field in fields if _is_held(found.get(field.name), field.type)}

    fragments = files.get_fragments(filter=where)
    return [(kinds, list(some)) for kinds, some in groupby(fragments, kinds_of)]


def _is_held(have: pa.DataType | None, want: pa.DataType) -> bool:
    return have is not None and cast_here(have, want)


def _held(
    system: System,
    snapshot: Snapshot,
    files: ds.Dataset,
    groups: Sequence[_Group],
    names: Sequence[str],
    options: Mapping[str, Any],
) -> Iterator[pa.RecordBatch]:
    """The batches of files with some columns as the files have them, which are cast and held here against the schema.

    So are nulls, where the schema that was given has none.
    """
    pa, ds = need("pyarrow"), need("pyarrow.dataset")
    wanted = pa.schema([files.schema.field(name) for name in names])
    for kinds, fragments in groups:
        read = pa.schema([field.with_type(kinds.get(field.name, field.type)) for field in wanted])
        some = ds.FileSystemDataset(fragments, read, files.format, files.filesystem)
        for batch in some.scanner(columns=list(names), **options).to_batches():
            columns = [
                shaped(system.url(), column, field, given=snapshot.given)
                for column, field in zip(batch.columns, wanted, strict=True)
            ]
            rows = pa.RecordBatch.from_arrays(columns, schema=wanted) if columns else batch
            check_text(system.url(), rows)
            yield rows


class _Passing:
    """What a scanner of Arrow's gives, of batches that Python brings: in the thread that asks for them.

    Arrow's own would take one of its few threads for as long as it waits for the next batch; where there are as many
    as it has, nothing is left by which any of them could go on.

    Args:
        rows: the batches, with all columns of `columns` and `where`.
        whole: the schema of the table.
        columns: those wanted; all by default.
        where: an expression that holds for the rows wanted.
    """

    def __init__(
        self, rows: Iterator[pa.RecordBatch], whole: pa.Schema, columns: Sequence[str] | None, where: Any
    ) -> None:
        pa = need("pyarrow")
        names = whole.names if columns is None else columns
        self.projected_schema = pa.schema([whole.field(name) for name in names])
        self._rows = rows
        self._where = where

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, batch by batch."""
        pa = need("pyarrow")
        for batch in self._rows:
            found = pa.Table.from_batches([batch])
            if self._where is not None:
                found = found.filter(self._where)
            yield from found.select(self.projected_schema.names).to_batches()

    def to_table(self) -> pa.Table:
        """All rows."""
        return need("pyarrow").Table.from_batches(self.to_batches(), self.projected_schema)


def _looked_at(columns: Sequence[str] | None, where: Any, whole: pa.Schema) -> list[str]:
    """The columns to read for those wanted and for a filter; others may be unlike what they are taken for."""
    if columns is None:
        return list(whole.names)
    return list(dict.fromkeys([*columns, *(() if where is None else columns_of(where, whole))]))


def _excludes(snapshot: Snapshot, files: ds.Dataset, where: Any) -> bool:
    """Whether Arrow may hold the filter against what each of the files says of its columns."""
    free = given_in(where, snapshot, files.schema) if snapshot.format == "parquet" else {}
    return not free or all(excludes(one.physical_schema, free) for one in files.get_fragments(filter=where))


def _line_batches(
    system: System, snapshot: Snapshot, whole: pa.Schema, wanted: pa.Schema, *, strict: bool
) -> Iterator[pa.RecordBatch]:
    pa = need("pyarrow")
    inner = pa.schema([field for field in wanted if field.name not in snapshot.partition_cols])
    for file in with_rows(snapshot):
        values = partition_scalars(system, snapshot, file, whole)
        for batch in lines.batches(system, snapshot, file, inner, strict=strict and not snapshot.owned):
            found = {name: repeated(value, batch.num_rows) for name, value in values.items()}
            found |= dict(zip(inner.names, batch.columns, strict=True))
            columns = [found[name] for name in wanted.names]
            yield pa.RecordBatch.from_arrays(columns, schema=wanted) if columns else batch


@contextmanager
def reading(system: System, snapshot: Snapshot, whole: pa.Schema) -> Iterator[None]:
    """`translated` while a table is read; what is wrong in one of its files is told with its name."""
    try:
        with translated(system.url()):
            yield
    except (InvalidError, IntegrityError) as error:
        if error.where == system.url():
            for file in with_rows(snapshot):
                _explain(system, snapshot, file, whole, error)
        raise


@contextmanager
def reading_file(
    system: System, snapshot: Snapshot, file: DataFile, whole: pa.Schema, unchanged: Callable[[], None] | None = None
) -> Iterator[None]:
    """`translated` while one file is read; a value that does not fit is told with its column and both types."""
    where = system.url(file.key)
    try:
        with translated(where, unchanged):
            yield
    except (InvalidError, IntegrityError) as error:
        if error.where in (where, system.url()):
            _explain(system, snapshot, file, whole, error)
        raise


def _explain(system: System, snapshot: Snapshot, file: DataFile, whole: pa.Schema, error: RhError) -> None:
    """Raise which value of a file does not become the type of its column, if that is what `error` is about."""
    where = system.url(file.key)
    told = _VALUE.search(error.message)
    if told is None or error.where != where:
        told = None
        try:
            with translated(where):
                _hold(system, snapshot, file, whole)
        except InvalidError as found:
            told = _VALUE.search(found.message)
            if told is None:
                raise found from error
    if told is None:
        return
    field = file_schema(system, snapshot, file).field(int(told.group(1)))
    want = whole.field(field.name).type
    if "invalid UTF8" in told.group(2):
        raise InvalidError(
            f"column {field.name!r} has text that is not UTF-8: {told.group(2)}", where=where, hint=ENCODING
        ) from error
    if field.type != want or snapshot.given:
        raise misfit(where, field.name, field.type, want, f": {told.group(2)}", given=snapshot.given) from error
    raise InvalidError(
        f"a value of column {field.name!r} is no {want}, as those before it are: {told.group(2)}",
        where=where,
        hint=f'options={{"column_types": {{"{field.name}": "string"}}}} reads it as text',
    ) from error


def _hold(system: System, snapshot: Snapshot, file: DataFile, whole: pa.Schema) -> None:
    """Read a file again, and hold its values against the types of the table."""
    where = system.url(file.key)
    one = fragment(system, snapshot, file, whole)
    if snapshot.format == "csv":
        read = as_parsed(snapshot, whole)
        for batch in blocks.rows(snapshot, lambda some: fragment(system, some, file, whole).to_batches(schema=read)):
            for field, column in zip(whole, batch.columns, strict=True):
                shaped(where, column, field, given=snapshot.given)
    elif snapshot.format in ("parquet", "arrow") and not snapshot.owned:
        found = one.physical_schema
        for field in whole:
            if found.names.count(field.name) == 1 and field.name not in snapshot.partition_cols:
                for batch in one.to_batches(schema=found, columns=[field.name]):
                    column = shaped(where, batch.column(0), field, given=snapshot.given)
                    check_text(where, need("pyarrow").record_batch([column], [field.name]))


_VALUE = re.compile(r"In CSV column #(\d+): (.*)", re.DOTALL)
"""What Arrow says of a value of CSV that does not become the type of its column."""


def num_rows(system: System, snapshot: Snapshot) -> int:
    """How many rows the table has: from the index, else from the files' footers; CSV and JSON lines are read for it."""
    return sum(rows_of_files(system, snapshot))


def rows_of_files(system: System, snapshot: Snapshot) -> list[int]:
    """How many rows each file has, known as for `num_rows`."""
    missing = [file for file in snapshot.files if file.rows is None]

    def count(file: DataFile) -> int:
        return rows_of(system, snapshot, file)

    if not missing or snapshot.format in ("csv", "jsonl"):
        return [count(file) for file in snapshot.files]  # each is parsed on all cores as it is
    with ThreadPoolExecutor(min(AT_ONCE, len(missing)), "rh-rows") as pool:
        return list(pool.map(count, snapshot.files))


def rows_of(system: System, snapshot: Snapshot, file: DataFile) -> int:
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
            if snapshot.format == "jsonl" and snapshot.given:  # a key that is not read may have any values
                none = need("pyarrow").schema([])
                return sum(batch.num_rows for batch in lines.batches(system, snapshot, file, none, strict=False))
            return blocks.value(snapshot, lambda some: _counted(some, fragment(system, some, file, None)))
    except (IntegrityError, InvalidError) as error:
        if snapshot.format == "jsonl":
            lines.explain(system, snapshot, file, need("pyarrow").schema([]), error)
        raise


def _counted(snapshot: Snapshot, one: ds.Fragment) -> int:
    if (snapshot.options or {}).get("skip_rows_after_names"):  # Arrow counts those that it leaves out when it reads
        return sum(batch.num_rows for batch in one.to_batches(columns=[]))
    return int(one.count_rows())


def _misfit(where: Any, schema: pa.Schema) -> InvalidError | None:
    """Which condition compares a column with a value of another type, if one alone does."""
    pa, ds, filters = need("pyarrow"), need("pyarrow.dataset"), need("pyarrow.parquet").filters_to_expression
    if not isinstance(where, list | tuple):
        return None
    for one in where:
        if not (isinstance(one, list | tuple) and len(one) == 3 and isinstance(one[0], str)):
            if (found := _misfit(one, schema)) is not None:
                return found
            continue
        name, operator, value = one
        try:
            ds.dataset(schema.empty_table()).head(1, filter=filters(fitted([tuple(one)], schema)))
        except (pa.ArrowException, TypeError):
            kind = schema.field(name).type
            listed = operator in ("in", "not in") and isinstance(value, list | tuple | set | frozenset)
            kinds = sorted({type(each).__name__ for each in value}) if listed else [type(value).__name__]
            return InvalidError(
                f"the filter does not fit the table: the column {name!r} is {kind}, and {reprlib.repr(value)}"
                f" is {'of ' if listed else ''}{' and '.join(kinds)}",
                hint=f"a value that is {kind}, or a column of another type",
            )
    return None


_FILTER = 'where=[("column", ">", 3), …]'


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
            raise InvalidError(
                f"a filter is a pyarrow.compute.Expression or a list of (column, operator, value), not {where!r}",
                hint=_FILTER,
            )
        if len(where) == 3 and all(isinstance(part, str) for part in where[:2]):
            where = [tuple(where)]  # one condition without its list
        try:
            found = need("pyarrow.parquet").filters_to_expression(fitted(where, schema))
        except (ValueError, TypeError, LookupError, OverflowError, pa.ArrowException) as error:
            raise InvalidError(f"not a filter: {error}", hint=_FILTER) from error
    try:
        ds.dataset(schema.empty_table()).head(1, filter=found)
    except (pa.ArrowException, TypeError) as error:
        missing = re.search(r"No match for FieldRef\.Name\((.*?)\) in ", str(error))
        if missing:
            raise no_column(missing.group(1), schema) from error
        raise _misfit(where, schema) or InvalidError(
            f"the filter does not fit the table: {first_line(error)}"
        ) from error
    return found
