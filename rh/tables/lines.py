"""JSON lines as Arrow batches, where a key that nobody knows of is an error, never left out silently.

Arrow's datasets leave out keys that the first block of a file does not have. Its reader, told to, stops at them.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from rh.errors import IntegrityError, InvalidError, RhError
from rh.plugins import need
from rh.systems.base import System
from rh.tables import blocks
from rh.tables.base import DataFile, Snapshot
from rh.tables.casts import NOT_UTF8, check_text, parsed_as, shaped
from rh.tables.ranges import BLOCK, open_file, translated

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["batches", "explain", "first_schema", "json_options", "opened"]

_CODECS = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4"}
_KINDS = {
    dict: "object",
    list: "array",
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
}
"""What JSON calls values."""
_LIKELY = {dict: "a struct", list: "a list", str: "string", int: "int64", float: "float64", bool: "bool"}
_AT_ONCE = 4096
"""Lines that are tried at once where one of them is looked for."""
_CHANGED = re.compile(r"Column\(/([^)]*)\) changed from (\w+) to (\w+)")
UNEXPECTED = "unexpected field"
"""What Arrow says of a key that is not in the schema; it does not say which."""
TWICE = "specified twice"


def json_options(options: Mapping[str, Any] | None, **more: Any) -> tuple[Any, Any]:
    """`ReadOptions` and `ParseOptions` of pyarrow.json of a table's options."""
    kinds = need("pyarrow.json").ReadOptions, need("pyarrow.json").ParseOptions
    given = {**(options or {}), **more}
    read, parse = ({name: value for name, value in given.items() if hasattr(kind, name)} for kind in kinds)
    return kinds[0](**read), kinds[1](**parse)


def batches(
    system: System, snapshot: Snapshot, file: DataFile, schema: pa.Schema, *, strict: bool, threads: bool = True
) -> Iterator[pa.RecordBatch]:
    """One file's rows with the columns of a schema; what a line does not have is null.

    Args:
        system: opened at the table's directory.
        snapshot: of the table.
        file: one of its files.
        schema: of the columns wanted.
        strict: refuse keys that the schema does not have; else they are left out.
        threads: let Arrow parse on all cores.

    Raises:
        InvalidError: a key or a type that the schema does not have. IntegrityError: these are no JSON lines.
    """
    pa = need("pyarrow")
    where = system.url(file.key)
    for batch in blocks.rows(snapshot, partial(_parsed, system, file, schema, strict=strict, threads=threads)):
        columns = [shaped(where, batch.column(field.name), field, given=snapshot.given) for field in schema]
        # without columns, a batch that is made of them would have no rows
        yield pa.RecordBatch.from_arrays(columns, schema=schema) if columns else batch.select([])


def _parsed(
    system: System, file: DataFile, schema: pa.Schema, snapshot: Snapshot, *, strict: bool, threads: bool
) -> Iterator[pa.RecordBatch]:
    """`batches`, of the types that Arrow makes of JSON."""
    read, parse = json_options(
        snapshot.options,
        use_threads=threads,
        explicit_schema=_asked(schema),
        unexpected_field_behavior="error" if strict else "ignore",
    )
    try:
        with translated(system.url(file.key)), opened(system, file) as source:
            for batch in need("pyarrow.json").open_json(source, read_options=read, parse_options=parse):
                check_text(system.url(file.key), batch)
                yield batch
    except (InvalidError, IntegrityError) as error:
        explain(system, snapshot, file, schema, error)
        raise


def first_schema(system: System, snapshot: Snapshot, file: DataFile, asked: pa.Schema) -> pa.Schema:
    """What Arrow makes of a file's first block where some columns have these types; its own error if they cannot."""
    read, parse = json_options(snapshot.options, explicit_schema=asked)
    with opened(system, file) as source:
        return need("pyarrow.json").open_json(source, read_options=read, parse_options=parse).schema


def _asked(fields: Iterable[pa.Field]) -> pa.Schema:
    return need("pyarrow").schema([(field.name, parsed_as("jsonl", field.type)) for field in fields])


def opened(system: System, file: DataFile) -> Any:
    """The text of a file, decompressed where its name says that it is compressed."""
    pa = need("pyarrow")
    source = open_file(system, file, block=BLOCK)
    codec = _CODECS.get(file.key.lower().rpartition(".")[2])
    return source if codec is None else pa.CompressedInputStream(source, codec)


def explain(system: System, snapshot: Snapshot, file: DataFile, schema: pa.Schema, error: RhError) -> None:
    """Raise what Arrow's words mean, where more can be said: which line and column, or that the file is one array.

    Raises:
        InvalidError: with `error` as its cause.
    """
    if blocks.is_too_small(error):
        return
    where = system.url(file.key)
    with translated(where), opened(system, file) as source:
        lines: _Lines = (
            (number, text) for number, text in enumerate(io.BufferedReader(source), 1) if not text.isspace()
        )
        first = next(lines, (1, b""))
        if first[1].lstrip().startswith(b"["):
            raise InvalidError(
                "this is one JSON array, and a table is JSON lines: one object a line",
                where=where,
                hint="rh.table(json.load(file)) takes its rows; jq -c '.[]' makes lines of it",
            ) from error
        if (snapshot.options or {}).get("newlines_in_values"):
            return
        lines = chain([first], lines)
        if UNEXPECTED in error.message:
            _explain_key(lines, where, schema, error)
        elif TWICE in error.message:
            _explain_twice(lines, where, error)
        elif NOT_UTF8 in error.message or isinstance(error.__cause__, UnicodeError):
            _explain_text(lines, where, error)
        else:
            bad = _first_bad(lines, _asked(schema))
            if bad is not None:
                _explain_line(*bad, where, schema, error, given=snapshot.given)
    told = _CHANGED.search(error.message)
    if told is not None:
        name = told.group(1).replace("/", ".")
        raise InvalidError(
            f"column {name!r} is {told.group(3)} in a line of this file and {told.group(2)} in those before it",
            where=where,
            hint="values of JSON are not converted: columns= or schema= can leave the column out",
        ) from error


_Lines = Iterator[tuple[int, bytes]]


def _explain_key(lines: _Lines, where: str, schema: pa.Schema, error: RhError) -> None:
    for _, text in lines:
        try:
            found = _unknown(json.loads(text), schema)
        except ValueError:
            return
        if found is not None:
            raise _unknown_key(found, where, schema.names) from error


def _explain_twice(lines: _Lines, where: str, error: RhError) -> None:
    for number, text in lines:
        twice: list[str] = []

        def seen(pairs: list[tuple[str, Any]], twice: list[str] = twice) -> None:
            names = [name for name, _ in pairs]
            twice += [name for at, name in enumerate(names) if name in names[:at]]

        try:
            json.loads(text, object_pairs_hook=seen)
        except ValueError:
            return
        if twice:
            raise InvalidError(
                f"column {twice[0]!r} is twice in line {number} of this file",
                where=where,
                hint="an object of a table has each key once; columns= or schema= can leave the column out",
            ) from error


def _explain_text(lines: _Lines, where: str, error: RhError) -> None:
    for number, text in lines:
        try:
            text.decode()
        except UnicodeDecodeError as wrong:
            raise InvalidError(
                f"line {number} of this file is {NOT_UTF8}: {wrong}",
                where=where,
                hint="JSON is, and iconv -f latin1 -t utf-8 makes it so"
                + (f"; {error.hint}" if isinstance(error, InvalidError) else ""),
            ) from error


def _explain_line(number: int, text: bytes, where: str, schema: pa.Schema, error: RhError, *, given: bool) -> None:
    """Raise what is wrong with a line that Arrow does not take."""
    try:
        values = json.loads(text)
    except ValueError as wrong:
        raise IntegrityError(f"line {number} of this file is no JSON: {wrong}", where=where) from error
    if not isinstance(values, dict):
        raise InvalidError(
            f"line {number} of this file is no object, as each line of a table is, but {_KINDS[type(values)]}",
            where=where,
            hint='{"column": value, …} is a row',
        ) from error
    for field in schema:
        if field.name in values and not _fits([text], _asked([field])):
            value = values[field.name]
            said = json.dumps(value, ensure_ascii=False)
            raise InvalidError(
                f"column {field.name!r} is {_KINDS[type(value)]} in line {number} of this file and {field.type} in the "
                f"table: {said if len(said) <= 60 else said[:60] + '…'}",
                where=where,
                hint=_way_out(field, value, given=given),
            ) from error


def _way_out(field: pa.Field, value: Any, *, given: bool) -> str:
    types, likely = need("pyarrow").types, _LIKELY.get(type(value), "string")
    if given:
        return f"schema= can say another type, such as {likely}; it or columns= can leave the column out"
    if likely == "int64" and types.is_uint64(field.type):
        likely = "decimal128(20, 0)"  # of negative and of large ones
    if likely in ("int64", "float64", "decimal128(20, 0)") and (
        types.is_integer(field.type) or types.is_floating(field.type)
    ):
        column = f'{{"{field.name}": "{likely}"}}'
        return f'options={{"column_types": {column}}} reads it so from all files; columns= can leave it out'
    return "values of JSON are not converted: columns= or schema= can leave the column out"


def _first_bad(lines: _Lines, asked: pa.Schema) -> tuple[int, bytes] | None:
    """The first line that Arrow does not take, and its number."""
    while some := list(islice(lines, _AT_ONCE)):
        if _fits([text for _, text in some], asked):
            continue
        while len(some) > 1:
            half = some[: len(some) // 2]
            some = some[len(half) :] if _fits([text for _, text in half], asked) else half
        return some[0]
    return None


def _fits(texts: Sequence[bytes], asked: pa.Schema) -> bool:
    """Whether Arrow takes lines as such columns."""
    pa, reader = need("pyarrow"), need("pyarrow.json")
    data = b"".join(texts)
    read = reader.ReadOptions(use_threads=False, block_size=len(data) + 1)
    parse = reader.ParseOptions(explicit_schema=asked, unexpected_field_behavior="ignore")
    try:
        reader.read_json(io.BytesIO(data), read_options=read, parse_options=parse)
    except pa.ArrowException:
        return False
    return True


def _unknown(value: Any, fields: Any) -> str | None:
    """The first key in a value, at any depth, that is not among these fields."""
    known = {field.name: field.type for field in fields}
    for name, inner in value.items() if isinstance(value, dict) else ():
        if name not in known:
            return str(name)
        found = _unknown_within(inner, known[name])
        if found is not None:
            return f"{name}.{found}"
    return None


def _unknown_within(value: Any, kind: Any) -> str | None:
    types = need("pyarrow").types
    if types.is_list(kind) and isinstance(value, list):
        return next((found for one in value if (found := _unknown_within(one, kind.value_type)) is not None), None)
    return _unknown(value, kind) if types.is_struct(kind) else None


def _unknown_key(name: str, where: str, names: Sequence[str]) -> InvalidError:
    outer, _, inner = name.partition(".")
    kind = "pyarrow.struct([…])" if inner else '"string"'
    return InvalidError(
        f"column {name!r} is in this file and not in the first lines, which say what columns there are",
        where=where,
        hint=f'options={{"column_types": {{"{outer}": {kind}}}}} or schema= says what type it has; '
        f"columns={list(names)!r} leaves it out",
    )
