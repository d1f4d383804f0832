"""How Arrow reads a table's files where they are: natively on this machine, elsewhere by ranges of bytes.

Every read is held against the snapshot: a file whose etag or size is another one now, or that is gone, is a
`ConflictError`, since the table changed. Parquet pages that carry a checksum are checked (`rh` writes them). In
files of other tools without checksums, in CSV and in JSON lines, a changed byte that still decodes cannot be found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from rh.config import did_you_mean
from rh.errors import InvalidError
from rh.plugins import need
from rh.systems.base import System
from rh.tables.base import DataFile, Snapshot
from rh.tables.ranges import BLOCK, first_line, open_file, translated
from rh.types import Location

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

__all__ = [
    "Where",
    "check_columns",
    "check_file_schema",
    "check_files",
    "check_no_more",
    "dataset",
    "expression",
    "file_schema",
    "fragment",
    "has_footer",
    "num_rows",
    "open_file",
    "partition_scalars",
    "rows_of_files",
    "schema",
    "translated",
]

Where = Any
"""A `pyarrow.compute.Expression`, or pyarrow's lists: `[("a", ">", 3), …]`; or lists of such, any of which may hold."""

AT_ONCE = 16
"""Files looked into at the same time."""


# Schemas


def schema(system: System, snapshot: Snapshot) -> pa.Schema:
    """The schema of the whole table, partition columns last: as recorded, else that of the first file.

    Raises:
        InvalidError: no schema is recorded, and no file is there to tell it.
    """
    pa = need("pyarrow")
    if snapshot.schema is not None:
        return pa.ipc.read_schema(pa.py_buffer(snapshot.schema))
    if not snapshot.files:
        raise InvalidError("the table has no files, so nothing tells its columns", where=system.url())
    found = file_schema(system, snapshot, snapshot.files[0])
    for number, name in enumerate(snapshot.partition_cols):
        if name in found.names:
            raise InvalidError(
                f"column {name!r} is in the files and in the names of their directories", where=system.url()
            )
        found = found.append(pa.field(name, _partition_type(snapshot, number)))
    return found


def file_schema(system: System, snapshot: Snapshot, file: DataFile) -> pa.Schema:
    """The schema of one file, as far as its format tells it (of CSV and JSON lines, its first block)."""
    pa = need("pyarrow")
    where = system.url(file.key)
    with translated(where), open_file(system, file) as source:
        if snapshot.format == "parquet":
            found = need("pyarrow.parquet").read_schema(source)
        elif snapshot.format == "arrow":
            found = pa.ipc.open_file(source).schema if has_footer(source) else pa.ipc.open_stream(source).schema
        else:
            found = fragment(system, snapshot, file, None).physical_schema
    return found


def has_footer(source: pa.NativeFile) -> bool:
    """Whether an Arrow file has the form with a footer (else it is a stream of batches). It is at its begin again."""
    begin = source.read(6)
    source.seek(0)
    return bool(begin == b"ARROW1")


def _partition_type(snapshot: Snapshot, number: int) -> pa.DataType:
    """Whole numbers where all values are, else text."""
    pa = need("pyarrow")
    values = {file.values[number] for file in snapshot.files} - {None}
    whole = values and all(re.fullmatch(r"-?(0|[1-9]\d{0,17})", value or "") for value in values)
    return pa.int64() if whole else pa.string()


def partition_scalars(snapshot: Snapshot, file: DataFile, schema: pa.Schema) -> dict[str, pa.Scalar]:
    """The values that a file's directories give to its partition columns.

    Raises:
        InvalidError: a value is not of its column's type.
    """
    pa = need("pyarrow")
    found = {}
    for name, text in zip(snapshot.partition_cols, file.values, strict=True):
        kind = schema.field(name).type
        try:
            plain = pa.array([text], pa.string())
            found[name] = (plain if kind == pa.string() else plain.cast(_plain(kind)).cast(kind))[0]
        except pa.ArrowException as error:
            raise InvalidError(f"{text!r} is no {kind}, as partition column {name!r} is", where=file.key) from error
    return found


def _plain(kind: pa.DataType) -> pa.DataType:
    pa = need("pyarrow")
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def check_file_schema(where: str, found: pa.Schema, wanted: pa.Schema, *, columns: Sequence[str]) -> None:
    """Raise `InvalidError` unless a file's columns are those of the table, or narrower ones of the same kind."""
    pa = need("pyarrow")
    hint = 'the first file decides; for CSV, options={"column_types": {"column": "type"}} does'
    for name in columns:
        if name not in found.names:
            raise InvalidError(f"column {name!r} of the table is not in this file", where=where, hint=hint)
        have, want = found.field(name), wanted.field(name)
        if have.type == want.type:
            continue
        try:
            widest = pa.unify_schemas(
                [pa.schema([want.with_nullable(True)]), pa.schema([have.with_nullable(True)])],  # noqa: FBT003
                promote_options="permissive",
            )[0].type
        except pa.ArrowException:
            widest = None
        if widest != want.type and _plain(have.type) != want.type:
            raise InvalidError(
                f"column {name!r} is {have.type} in this file and {want.type} in the table", where=where, hint=hint
            )


def check_no_more(where: str, found: pa.Schema, whole: pa.Schema) -> None:
    """Raise `InvalidError` if a file that was adopted has a column that the first one has not."""
    for name in found.names:
        if name not in whole.names:
            raise InvalidError(
                f"column {name!r} is in this file and not in the first one, whose columns are those of the table",
                where=where,
                hint="name the columns that are wanted, or make a table of their own of such files",
            )


def check_files(system: System, snapshot: Snapshot, files: ds.Dataset, where: Any = None) -> None:
    """Before all columns of adopted files are read: see that none of the files has more of them.

    Of a table that `rh` wrote nothing is looked at. What is learnt of Parquet files is kept by the dataset, which
    would ask for it anyway.

    Args:
        system: opened at the table's directory.
        snapshot: of the table.
        files: `dataset` of both.
        where: the filter; files that it excludes are not looked at.

    Raises:
        InvalidError: a file has a column that the first one has not.
    """
    if snapshot.owned or len(snapshot.files) < 2:
        return

    def check(one: ds.Fragment) -> None:
        at = system.url(one.path)
        with translated(at):
            found = one.physical_schema
        check_no_more(at, found, files.schema)

    with ThreadPoolExecutor(AT_ONCE, "rh-columns") as threads:
        for _ in threads.map(check, files.get_fragments(filter=where)):
            pass


# Datasets


def dataset(system: System, snapshot: Snapshot) -> ds.Dataset:
    """The table as a `pyarrow.dataset` over its files, wherever they are: filters skip files and row groups.

    It can be pickled and read on another machine that has the same systems. Arrow's own errors come out of it; read it
    inside `translated` where they are to be ours.
    """
    whole = schema(system, snapshot)
    files = need("pyarrow.fs").PyFileSystem(_handler()(system, snapshot))
    form = _format(snapshot)
    fragments = [fragment(system, snapshot, file, whole, form=form, files=files) for file in snapshot.files]
    return need("pyarrow.dataset").FileSystemDataset(fragments, whole, form, files)


def fragment(
    system: System,
    snapshot: Snapshot,
    file: DataFile,
    whole: pa.Schema | None,
    *,
    form: ds.FileFormat | None = None,
    files: Any = None,
    source: pa.NativeFile | None = None,
) -> ds.Fragment:
    """One file for a dataset, with what its directories say of its rows; of `source` if the file is open already."""
    files = files if files is not None else need("pyarrow.fs").PyFileSystem(_handler()(system, snapshot))
    known = None
    if whole is not None:
        field = need("pyarrow.compute").field
        for name, value in partition_scalars(snapshot, file, whole).items():
            one = field(name) == value if value.is_valid else field(name).is_null()
            known = one if known is None else known & one
    form = form or _format(snapshot)
    if source is not None:
        return form.make_fragment(source, partition_expression=known)
    return form.make_fragment(file.key, files, partition_expression=known)


def _format(snapshot: Snapshot) -> ds.FileFormat:
    """How Arrow reads the files of a table."""
    options: Mapping[str, Any] = snapshot.options or {}
    try:
        return _format_of(snapshot, options)
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidError(f"options= cannot be: {error}", hint="those of pyarrow.csv or pyarrow.json") from error


def _format_of(snapshot: Snapshot, options: Mapping[str, Any]) -> ds.FileFormat:
    ds = need("pyarrow.dataset")
    if snapshot.format in ("parquet", "arrow") and options:
        raise InvalidError(f"options= is for CSV and JSON lines, and these files are {snapshot.format}")
    if snapshot.format == "parquet":
        scan = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        return ds.ParquetFileFormat(default_fragment_scan_options=scan)
    if snapshot.format == "arrow":
        return ds.IpcFileFormat()
    if snapshot.format == "csv":
        csv = need("pyarrow.csv")
        _known(options, csv.ParseOptions, csv.ConvertOptions, csv.ReadOptions)
        first = snapshot.files[0].key if snapshot.files else ""
        parse = {"delimiter": "\t"} if ".tsv" in first.lower().rpartition("/")[2] else {}
        parse |= _only(options, csv.ParseOptions)
        return ds.CsvFileFormat(
            parse_options=csv.ParseOptions(**parse),
            default_fragment_scan_options=ds.CsvFragmentScanOptions(
                convert_options=csv.ConvertOptions(**_only(options, csv.ConvertOptions)),
                read_options=csv.ReadOptions(**_only(options, csv.ReadOptions)),
            ),
        )
    json = need("pyarrow.json")
    _known(options, json.ParseOptions, json.ReadOptions)
    return ds.JsonFileFormat(
        parse_options=json.ParseOptions(**_only(options, json.ParseOptions)),
        read_options=json.ReadOptions(**_only(options, json.ReadOptions)),
    )


def _known(options: Mapping[str, Any], *kinds: type) -> None:
    """Raise `InvalidError` for an option that none of pyarrow's classes of options has."""
    known = sorted({name for kind in kinds for name in dir(kind) if name.islower() and name[0] != "_"} - _NOT_OPTIONS)
    for name in options:
        if name not in known:
            raise InvalidError(
                f"there is no option {name!r}{did_you_mean(name, tuple(known))}", hint=f"options: {', '.join(known)}"
            )


def _only(options: Mapping[str, Any], kind: type) -> dict[str, Any]:
    return {name: value for name, value in options.items() if hasattr(kind, name)}


_NOT_OPTIONS = frozenset({"equals", "validate"})
_handlers: list[type] = []


def _handler() -> type:
    """The class by which Arrow opens the files of a snapshot; made when Arrow is there."""
    if not _handlers:
        _handlers.append(_make_handler())
    return _handlers[0]


def _opened(location: Location, snapshot: Snapshot) -> Any:
    from rh.systems import open_system

    return _handler()(open_system(location), snapshot)


def _make_handler() -> type:
    fs = need("pyarrow.fs")
    base: Any = fs.FileSystemHandler

    class Files(base):  # type: ignore[misc]
        """The files of one snapshot, and nothing else of the system."""

        def __init__(self, system: System, snapshot: Snapshot) -> None:
            self.system = system
            self.snapshot = snapshot
            self.files = {file.key: file for file in snapshot.files}

        def __reduce__(self) -> tuple[Any, ...]:
            return _opened, (self.system.location, self.snapshot)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Files) and (self.system.location, self.snapshot.files) == (
                other.system.location,
                other.snapshot.files,
            )

        def __hash__(self) -> int:
            return hash((self.system.location, self.snapshot.files))

        def get_type_name(self) -> str:
            return "rh"

        def normalize_path(self, path: str) -> str:
            return path

        def get_file_info(self, paths: list[str]) -> list[Any]:
            return [self._info(path) for path in paths]

        def _info(self, path: str) -> Any:
            file = self.files.get(path)
            if file is None:
                return fs.FileInfo(path, fs.FileType.NotFound)
            return fs.FileInfo(path, fs.FileType.File, size=file.size)

        def get_file_info_selector(self, selector: Any) -> list[Any]:
            return [self._info(path) for path in self.files if path.startswith(selector.base_dir)]

        def open_input_file(self, path: str) -> Any:
            return open_file(self.system, self.files[path], block=0 if self.snapshot.format == "parquet" else BLOCK)

        open_input_stream = open_input_file

        def _refuse(self, *_arguments: Any, **_more: Any) -> Any:
            raise NotImplementedError("a snapshot of a table is read only")

        create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
        delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse

    return Files


# Rows and columns


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
    where = system.url(file.key)
    with translated(where):
        if snapshot.format == "parquet":
            with open_file(system, file) as source:
                return int(need("pyarrow.parquet").read_metadata(source).num_rows)
        return int(fragment(system, snapshot, file, None).count_rows())


def check_columns(columns: Sequence[str] | None, schema: pa.Schema) -> list[str]:
    """The names of columns, all of them if `None`.

    Raises:
        InvalidError: one is not in the schema, or is asked for twice, or none is asked for.
    """
    if columns is None:
        return list(schema.names)
    if isinstance(columns, str):
        raise InvalidError(f"columns are a list of names, not {columns!r}", hint=f"columns=[{columns!r}]")
    wanted = list(columns)
    if not wanted:
        raise InvalidError("no column is asked for", hint="leave columns= out for all of them")
    for name in wanted:
        if name not in schema.names:
            raise _no_column(name, schema)
        if wanted.count(name) > 1:
            raise InvalidError(f"column {name!r} is asked for twice")
    return wanted


def _no_column(name: Any, schema: pa.Schema) -> InvalidError:
    near = get_close_matches(str(name), schema.names, n=3, cutoff=0.5) or schema.names[:10]
    return InvalidError(f"there is no column {name!r}", hint=f"there is {', '.join(map(repr, near))}")


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
        try:
            found = need("pyarrow.parquet").filters_to_expression(where)
        except (ValueError, TypeError) as error:
            raise InvalidError(f"not a filter: {error}", hint='[("column", ">", 3), …]') from error
    try:
        ds.dataset(schema.empty_table()).head(1, filter=found)
    except (pa.ArrowException, TypeError) as error:
        missing = re.search(r"No match for FieldRef\.Name\((.*?)\) in ", str(error))
        if missing:
            raise _no_column(missing.group(1), schema) from error
        raise InvalidError(f"the filter does not fit the table: {first_line(error)}") from error
    return found
