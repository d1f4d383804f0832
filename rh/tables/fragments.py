"""One file of a table for Arrow: how its format is read, and what its directories say of its rows."""

from __future__ import annotations

import codecs
import io
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes

from rh.config import did_you_mean
from rh.content.tree import key_bytes, key_text
from rh.errors import InvalidError
from rh.plugins import need
from rh.systems.base import System
from rh.tables import lines
from rh.tables.base import DataFile, Snapshot
from rh.tables.casts import parsed_as, readable
from rh.tables.given import given_types
from rh.tables.ranges import BLOCK, open_file, translated
from rh.types import Location

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

__all__ = [
    "TEXT",
    "as_parsed",
    "file_format",
    "file_system",
    "fragment",
    "has_footer",
    "has_preamble",
    "key_of",
    "partition_scalars",
    "path_of",
    "repeated",
    "with_format",
    "with_rows",
]

TEXT = ("csv", "jsonl")
"""Formats that have neither types nor numbers of rows."""
_NOT_OPTIONS = frozenset({"equals", "validate", "explicit_schema", "unexpected_field_behavior"})


def with_rows(snapshot: Snapshot) -> list[DataFile]:
    """The files that may have columns and rows: files of text without any text are none."""
    return [file for file in snapshot.files if file.rows != 0 or snapshot.format not in TEXT]


def partition_scalars(system: System, snapshot: Snapshot, file: DataFile, schema: pa.Schema) -> dict[str, pa.Scalar]:
    """The values that a file's directories give to its partition columns.

    Raises:
        InvalidError: a value is not of its column's type, or is null where the schema that was given has no nulls.
    """
    pa = need("pyarrow")
    found = {}
    for name, text in zip(snapshot.partition_cols, file.values, strict=True):
        kind = schema.field(name).type
        if text is None and snapshot.given and not schema.field(name).nullable:
            raise InvalidError(
                f"partition column {name!r} is null here, and schema= says that it has none",
                where=system.url(file.key),
                hint="let the field be nullable, or leave the column out of schema=",
            )
        try:
            plain = pa.array([text], pa.string())
            found[name] = (plain if kind == pa.string() else plain.cast(_plain(kind)).cast(kind))[0]
        except pa.ArrowException as error:
            raise InvalidError(
                f"{text!r} is no {kind}, as partition column {name!r} is",
                where=system.url(file.key),
                hint="schema= can say another type, such as string, or leave the column out",
            ) from error
    return found


def _plain(kind: pa.DataType) -> pa.DataType:
    pa = need("pyarrow")
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def repeated(value: pa.Scalar, count: int) -> pa.Array:
    """An array of one value."""
    pa = need("pyarrow")
    if pa.types.is_dictionary(value.type):
        return pa.repeat(value.cast(value.type.value_type), count).cast(value.type)
    return pa.repeat(value, count)


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
    files = files if files is not None else file_system(system, snapshot)
    known = None
    if whole is not None:
        field = need("pyarrow.compute").field
        for name, value in partition_scalars(system, snapshot, file, whole).items():
            one = field(name) == value if value.is_valid else field(name).is_null()
            known = one if known is None else known & one
    form = _headed(system, snapshot, file, form or file_format(snapshot))
    if source is not None:
        return form.make_fragment(source, partition_expression=known)
    return form.make_fragment(path_of(file.key), files, partition_expression=known)


_QUOTED = "//"


def path_of(key: str) -> str:
    """What Arrow calls the file of a key. It takes UTF-8 only: any other key is quoted, behind a mark of its own."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return _QUOTED + quote(key_bytes(key))
    return _QUOTED + quote(key) if key.startswith(_QUOTED) else key


def key_of(path: str) -> str:
    """The inverse of `path_of`."""
    return key_text(unquote_to_bytes(path.removeprefix(_QUOTED))) if path.startswith(_QUOTED) else path


def as_parsed(snapshot: Snapshot, schema: pa.Schema) -> pa.Schema:
    """A schema as Arrow is asked for it of CSV; `rh.tables.casts.shaped` makes the columns of the table of that."""
    stored = [field for field in schema if field.name not in snapshot.partition_cols]
    kinds = {field.name: parsed_as(snapshot.format, field.type) for field in stored}
    return need("pyarrow").schema([field.with_type(kinds.get(field.name, field.type)) for field in schema])


def file_format(snapshot: Snapshot) -> ds.FileFormat:
    """How Arrow reads the files of a table."""
    options: Mapping[str, Any] = snapshot.options or {}
    try:
        return _format_of(snapshot, options)
    except InvalidError:
        raise
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidError(f"options= cannot be: {error}", hint="those of pyarrow.csv or pyarrow.json") from error


def _format_of(snapshot: Snapshot, options: Mapping[str, Any]) -> ds.FileFormat:
    ds = need("pyarrow.dataset")
    if snapshot.format in ("parquet", "arrow") and set(options) - {"column_types"}:
        raise InvalidError(
            f"options= is for CSV and JSON lines, and these files are {snapshot.format}", hint="column_types alone"
        )
    for name, kind in given_types(snapshot).items():  # raises where pyarrow would say less
        if name not in snapshot.partition_cols and not readable(snapshot.format, kind):
            raise InvalidError(
                f"values of {snapshot.format} do not become {kind}, which column {name!r} was given",
                hint="read it as string, and cast it",
            )
    if snapshot.format == "parquet":
        scan = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        return ds.ParquetFileFormat(default_fragment_scan_options=scan)
    if snapshot.format == "arrow":
        return ds.IpcFileFormat()
    if snapshot.format == "csv":
        csv = need("pyarrow.csv")
        _check_options(options, csv.ParseOptions, csv.ConvertOptions, csv.ReadOptions)
        if "column_types" in options:  # which knows more names of types than Arrow
            options = {**options, "column_types": given_types(snapshot)}
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
    _check_options(options, json.ParseOptions, json.ReadOptions, more={"column_types"})
    read, parse = lines.json_options(options)
    return ds.JsonFileFormat(parse_options=parse, read_options=read)


def has_preamble(snapshot: Snapshot) -> bool:
    """Whether other lines come before the header of each file, which Arrow's datasets would parse as part of it."""
    options = snapshot.options or {}
    return snapshot.format == "csv" and bool(options.get("skip_rows")) and not options.get("column_names")


def _headed(system: System, snapshot: Snapshot, file: DataFile, form: ds.FileFormat) -> ds.FileFormat:
    """How Arrow reads one file: with the names in its header, where it would not find it.

    Raises:
        InvalidError: the file ends before its header.
    """
    if not has_preamble(snapshot):
        return form
    csv = need("pyarrow.csv")
    options = {**(snapshot.options or {})}
    read = csv.ReadOptions(**_only(options, csv.ReadOptions))
    where = system.url(file.key)
    encoding = "utf-8-sig" if codecs.lookup(read.encoding).name == "utf-8" else read.encoding
    with (
        translated(where),
        lines.opened(system, file) as source,
        io.TextIOWrapper(source, encoding, "surrogateescape") as text,
    ):
        skipped = sum(1 for _ in islice(text, read.skip_rows))
        line = next(text, "")
        while line == "\n" and form.parse_options.ignore_empty_lines:
            skipped, line = skipped + 1, next(text, "")
        if not line:
            raise InvalidError(f"the file has no header behind skip_rows={read.skip_rows}", where=where)
        header = csv.read_csv(
            io.BytesIO(line.encode("utf-8", "surrogateescape")),
            read_options=csv.ReadOptions(autogenerate_column_names=read.autogenerate_column_names),
            parse_options=form.parse_options,
        )
    options["column_names"] = header.column_names
    options["skip_rows"] = skipped + (not options.pop("autogenerate_column_names", False))
    return file_format(replace(snapshot, options=options))


def with_format(system: System, snapshot: Snapshot, files: ds.Dataset) -> ds.Dataset:
    """The files of a dataset, read with the options of a snapshot."""
    form = file_format(snapshot)
    known = {file.key: file for file in snapshot.files}
    fragments = [
        _headed(system, snapshot, known[key_of(one.path)], form).make_fragment(
            one.path, files.filesystem, partition_expression=one.partition_expression
        )
        for one in files.get_fragments()
    ]
    return need("pyarrow.dataset").FileSystemDataset(fragments, files.schema, form, files.filesystem)


_CHARACTERS = ("delimiter", "quote_char", "escape_char", "decimal_point")


def _check_options(options: Mapping[str, Any], *kinds: type, more: Collection[str] = ()) -> None:
    """Raise `InvalidError` for an option that none of pyarrow's classes of options has."""
    names = {name for kind in kinds for name in dir(kind) if name.islower() and name[0] != "_"}
    known = sorted({*names, *more} - _NOT_OPTIONS)
    for name in options:
        if name in ("include_columns", "include_missing_columns"):
            raise InvalidError(
                f"the option {name!r} is not for tables",
                hint="columns= says what is read; schema= which columns there are, null where a file lacks them",
            )
        if name not in known:
            raise InvalidError(
                f"there is no option {name!r}{did_you_mean(name, tuple(known))}", hint=f"options: {', '.join(known)}"
            )
        if name in _CHARACTERS and isinstance(options[name], str) and len(options[name]) != 1:
            raise InvalidError(f"{name} is one character, not {options[name]!r}", hint="'\\t' is a tab")


def _only(options: Mapping[str, Any], kind: type) -> dict[str, Any]:
    return {name: value for name, value in options.items() if hasattr(kind, name)}


def file_system(system: System, snapshot: Snapshot) -> Any:
    """The files of a snapshot, and nothing else of the system, as a `pyarrow.fs.FileSystem`."""
    return need("pyarrow.fs").PyFileSystem(_handler()(system, snapshot))


def has_footer(source: pa.NativeFile) -> bool:
    """Whether an Arrow file has the form with a footer (else it is a stream of batches). It is at its begin again."""
    begin = source.read(6)
    source.seek(0)
    return bool(begin == b"ARROW1")


def _with_footer(source: pa.NativeFile) -> pa.NativeFile:
    """An Arrow file in the form that datasets read; a stream of batches is made one in memory."""
    pa = need("pyarrow")
    if has_footer(source):
        return source
    sink = pa.BufferOutputStream()
    with pa.ipc.open_stream(source) as stream, pa.ipc.new_file(sink, stream.schema) as whole:
        for batch in stream:
            whole.write_batch(batch)
    return pa.BufferReader(sink.getvalue())


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
            self.files = {path_of(file.key): file for file in snapshot.files}

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
            form = self.snapshot.format
            opened = open_file(self.system, self.files[path], block=0 if form == "parquet" else BLOCK)
            return _with_footer(opened) if form == "arrow" else opened

        open_input_stream = open_input_file

        def _refuse(self, *_arguments: Any, **_more: Any) -> Any:
            raise NotImplementedError("a snapshot of a table is read only")

        create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
        delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse

    return Files
