"""JSON lines as Arrow batches, where a key that nobody knows of is an error, never left out silently.

Arrow's datasets leave out keys that the first block of a file does not have. Its reader, told to, stops at them.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rh.errors import IntegrityError, InvalidError, RhError
from rh.plugins import need
from rh.systems.base import System
from rh.tables.base import DataFile, Snapshot
from rh.tables.given import parsed_as, shaped
from rh.tables.ranges import BLOCK, open_file, translated

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["batches", "explain", "json_options"]

_CODECS = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4"}
_TEXTS = ("string", "large_string", "string_view", "binary", "timestamp", "date", "dictionary")
_NUMBERS = ("integer", "floating", "decimal", "time", "duration")
_CHANGED = re.compile(r"Column\(/([^)]*)\) changed from (\w+) to (\w+)")
UNEXPECTED = "unexpected field"
"""What Arrow says of a key that is not in the schema; it does not say which."""


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
    read, parse = json_options(
        snapshot.options,
        use_threads=threads,
        explicit_schema=pa.schema([(field.name, parsed_as(field.type)) for field in schema]),
        unexpected_field_behavior="error" if strict else "ignore",
    )
    try:
        with translated(where), _opened(system, file) as source:
            for batch in need("pyarrow.json").open_json(source, read_options=read, parse_options=parse):
                columns = [shaped(where, batch.column(field.name), field, given=snapshot.given) for field in schema]
                # without columns, a batch that is made of them would have no rows
                yield pa.RecordBatch.from_arrays(columns, schema=schema) if columns else batch.select([])
    except (InvalidError, IntegrityError) as error:
        explain(system, file, schema, error)
        raise


def _opened(system: System, file: DataFile) -> Any:
    pa = need("pyarrow")
    opened = open_file(system, file, block=BLOCK)
    codec = _CODECS.get(file.key.lower().rpartition(".")[2])
    return opened if codec is None else pa.CompressedInputStream(opened, codec)


def explain(system: System, file: DataFile, schema: pa.Schema, error: RhError) -> None:
    """Raise what Arrow's words mean, where more can be said: which key it did not expect, that the file is one array.

    Raises:
        InvalidError: with `error` as its cause.
    """
    where = system.url(file.key)
    first = True
    with translated(where), _opened(system, file) as source:
        for text in filter(None, map(bytes.strip, io.BufferedReader(source))):
            if first and text.startswith(b"["):
                raise InvalidError(
                    "this is one JSON array, and a table is JSON lines: one object a line",
                    where=where,
                    hint="rh.table(json.load(file)) takes its rows; jq -c '.[]' makes lines of it",
                ) from error
            first = False
            if UNEXPECTED not in error.message:
                break
            try:
                found = _unknown(json.loads(text), schema)
            except ValueError:
                return
            if found is not None:
                raise _unknown_key(found, where, schema.names) from error
    told = _CHANGED.search(error.message)
    if told is not None:
        name = told.group(1).replace("/", ".")
        have, want = sorted(told.groups()[1:], key=lambda kind: kind == _kind_in(schema, told.group(1)))
        kind = f" ({schema.field(name).type})" if name in schema.names else ""
        raise InvalidError(
            f"column {name!r} is {have} in a line of this file and {want}{kind} in the table",
            where=where,
            hint="values of JSON are not converted: columns= or schema= can leave the column out",
        ) from error


def _kind_in(schema: pa.Schema, path: str) -> str:
    """What JSON calls the values of a column, roughly."""
    types = need("pyarrow").types
    if path not in schema.names:
        return ""
    kind = schema.field(path).type
    words = {"string": _TEXTS, "number": _NUMBERS, "array": ("list",), "object": ("struct",)}
    return next(
        (word for word, tests in words.items() if any(getattr(types, f"is_{t}")(kind) for t in tests)), "boolean"
    )


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
    hint = f'options={{"column_types": {{"{name}": "string"}}}} or schema= makes it a column of that type'
    return InvalidError(
        f"column {name!r} is in this file and not in the first lines, which say what columns there are",
        where=where,
        hint=(hint if "." not in name else 'options={"block_size": …} lets more lines say it')
        + f"; columns={list(names)!r} leaves it out",
    )
