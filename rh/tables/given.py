"""The columns and types that a user gives for files of others: all of them (`schema=`), or some (`column_types`)."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rh.config import did_you_mean
from rh.errors import InvalidError
from rh.plugins import need
from rh.tables.base import Snapshot

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "applied",
    "check_place",
    "decoded",
    "encoded",
    "given_types",
    "misfit",
    "of_text",
    "parsed_as",
    "readable",
    "shaped",
    "text_of",
]

NAMES = (
    *("null", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "float", "double", "string", "large_string", "binary", "large_binary"),
    *("date32", "date64", "time32[s]", "time32[ms]", "time64[us]", "time64[ns]"),
    *(f"{word}[{unit}]" for word in ("timestamp", "duration") for unit in ("s", "ms", "us", "ns")),
    *("timestamp[us, tz=UTC]", "decimal128(38, 9)", "decimal256(76, 9)", "list<string>", "large_list<string>"),
)
"""Names of types that are offered; all of pyarrow's are taken."""
_ZONED = re.compile(r"timestamp\[(s|ms|us|ns),\s*tz=([^\]]+)\]")
_DECIMAL = re.compile(r"(decimal128|decimal256)\(\s*(\d+)\s*,\s*(-?\d+)\s*\)")
_LIST = re.compile(r"(list|large_list)<(?:item:\s*)?(.+)>")
_LIKE = 'schema={"column": "int64", "other": "timestamp[us]"}, or a pyarrow.Schema'


# What is given


def encoded(schema: Any) -> bytes:
    """`schema=` as a serialized `pyarrow.Schema`: plain data, the same on every machine.

    Args:
        schema: a `pyarrow.Schema`, or a dict of the columns' names and their types: pyarrow's, or their names.

    Raises:
        InvalidError: it is neither, has no column or one twice, or a type is none.
    """
    pa = need("pyarrow", extra="tables")
    if isinstance(schema, Mapping):
        for name in schema:
            if not isinstance(name, str):
                raise InvalidError(f"schema=: the name of a column is text, not {name!r}", hint=_LIKE)
        schema = pa.schema([(name, _kind(name, kind, "schema=", _LIKE)) for name, kind in schema.items()])
    if not isinstance(schema, pa.Schema):
        raise InvalidError(f"schema= is a dict of columns and types, not {schema!r}", hint=_LIKE)
    if not schema.names:
        raise InvalidError("schema= has no columns", hint=_LIKE)
    names = list(schema.names)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidError(f"schema= has two columns called {twice!r}", hint="a table has one of each name")
    return bytes(schema.serialize())


def decoded(schema: bytes) -> pa.Schema:
    """The `pyarrow.Schema` of what `encoded` gave.

    Raises:
        InvalidError: it is something else.
    """
    pa = need("pyarrow", extra="tables")
    try:
        return pa.ipc.read_schema(pa.py_buffer(schema))
    except pa.ArrowException as error:
        raise InvalidError(
            f"the schema that was saved of the table is garbled: {error}", hint="give schema="
        ) from error


def text_of(schema: bytes) -> str:
    """What `encoded` gave, as a record has it."""
    return base64.b64encode(schema).decode()


def of_text(text: Any) -> bytes | None:
    """What `text_of` had.

    Raises:
        InvalidError: it is something else.
    """
    try:
        return None if text is None else base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise InvalidError(
            f"the schema that was saved of the table is garbled: {error}", hint="give schema="
        ) from error


def check_place(options: Mapping[str, Any] | None, *, rows: bool, query: bool) -> None:
    """Raise `InvalidError` where no schema can be given: for rows, for a query, beside `column_types`."""
    if rows:
        raise InvalidError(
            "schema= says how files are read that are there already, and rows have the types that they have",
            hint="cast them first: pa.table(rows).cast(schema), or frame.astype(…)",
        )
    if query:
        raise InvalidError(
            "schema= says how files are read, and the database says the types of a query's result",
            hint="cast in the query: select cast(x as bigint) as x …",
        )
    if "column_types" in (options or {}):
        raise InvalidError(
            'schema= says the types of all columns, and options["column_types"] those of some', hint="give one"
        )


def _named(name: str) -> pa.DataType:
    """The type that a text names: `int64`, `timestamp[us, tz=UTC]`, `decimal128(10, 2)`, `list<string>`.

    Raises:
        ValueError: there is none.
    """
    pa = need("pyarrow", extra="tables")
    text = name.strip()
    if (match := _ZONED.fullmatch(text)) is not None:
        return pa.timestamp(match.group(1), match.group(2).strip())
    if (match := _DECIMAL.fullmatch(text)) is not None:
        return getattr(pa, match.group(1))(int(match.group(2)), int(match.group(3)))
    if (match := _LIST.fullmatch(text)) is not None:
        inner = _named(match.group(2))
        return pa.list_(inner) if match.group(1) == "list" else pa.large_list(inner)
    return pa.type_for_alias(text)


def _kind(column: str, kind: Any, argument: str, hint: str) -> pa.DataType:
    pa = need("pyarrow", extra="tables")
    if isinstance(kind, pa.DataType):
        return kind
    near = ""
    if isinstance(kind, str):
        try:
            return _named(kind)
        except ValueError:
            near = did_you_mean(kind, NAMES, least=0.5)
    raise InvalidError(f"{argument}: {kind!r} is no type for column {column!r}{near}", hint=hint)


def given_types(snapshot: Snapshot) -> dict[str, pa.DataType]:
    """The types that were given, by column: all of those of `schema=`, or what `options["column_types"]` says.

    Raises:
        InvalidError: `column_types` is no dict of columns and types.
    """
    pa = need("pyarrow", extra="tables")
    if snapshot.given:
        assert snapshot.schema is not None
        whole = decoded(snapshot.schema)
        return dict(zip(whole.names, whole.types, strict=True))
    given = (snapshot.options or {}).get("column_types") or {}
    if isinstance(given, pa.Schema):
        given = dict(zip(given.names, given.types, strict=True))
    hint = 'options={"column_types": {"column": "int64"}}, or a pyarrow type'
    if not isinstance(given, Mapping):
        raise InvalidError(f"column_types is a dict of columns and types, not {given!r}", hint=hint)
    return {name: _kind(name, kind, "column_types", hint) for name, kind in given.items()}


def applied(snapshot: Snapshot, schema: bytes | None, where: str) -> Snapshot:
    """A snapshot whose table has the schema that was given, as `encoded` gives it.

    A table that `rh` wrote has the one that its index says, and the same must have been given.

    Raises:
        InvalidError: `rh` wrote the table, with another schema; the column is named, and both types.
    """
    if schema is None:
        return snapshot
    whole = decoded(schema)
    if snapshot.owned:
        assert snapshot.schema is not None
        _check_same(decoded(snapshot.schema), whole, where)
        return snapshot
    kept = [at for at, name in enumerate(snapshot.partition_cols) if name in whole.names]
    files = tuple(file._replace(values=tuple(file.values[at] for at in kept)) for file in snapshot.files)
    columns = tuple(snapshot.partition_cols[at] for at in kept)
    return replace(snapshot, files=files, partition_cols=columns, schema=schema, given=True)


def _check_same(have: pa.Schema, given: pa.Schema, where: str) -> None:
    hint = "leave schema= out: the table's index says what its columns are"
    for field in given:
        if field.name not in have.names:
            raise InvalidError(f"rh wrote this table, and it has no column {field.name!r}", where=where, hint=hint)
        known = have.field(field.name)
        if known.type != field.type or (known.nullable and not field.nullable):
            types = [f"{one.type}{'' if one.nullable else ' not null'}" for one in (known, field)]
            raise InvalidError(
                f"rh wrote this table: its column {field.name!r} is {types[0]}, and schema= says {types[1]}",
                where=where,
                hint=hint,
            )
    if have.names != given.names:
        raise InvalidError(
            f"rh wrote this table: its columns are {', '.join(have.names)}, and schema= has {', '.join(given.names)}",
            where=where,
            hint=f"{hint}; columns= chooses some of them",
        )


# What is read


@lru_cache(1024)
def readable(form: str, kind: pa.DataType) -> bool:
    """Whether Arrow makes values of a type from text of a format; from Parquet and Arrow files it casts."""
    pa = need("pyarrow", extra="tables")
    try:
        if form == "csv":
            csv = need("pyarrow.csv")
            csv.read_csv(io.BytesIO(b"a\n"), convert_options=csv.ConvertOptions(column_types={"a": kind}))
        elif form == "jsonl":
            json, schema = need("pyarrow.json"), pa.schema([("a", parsed_as(kind))])
            json.read_json(io.BytesIO(b'{"a": null}\n'), parse_options=json.ParseOptions(explicit_schema=schema))
    except pa.ArrowNotImplementedError:
        return False
    return True


def parsed_as(kind: pa.DataType) -> pa.DataType:
    """What `pyarrow.json` is asked for where it does not make a type of text: that is then cast."""
    pa = need("pyarrow", extra="tables")
    if pa.types.is_dictionary(kind):
        return parsed_as(kind.value_type)
    if pa.types.is_date(kind):
        return pa.string()
    return pa.int64() if pa.types.is_duration(kind) else kind


def shaped(where: str, column: pa.Array, field: pa.Field, *, given: bool) -> pa.Array:
    """A file's column as the field of the table: its values as that type.

    Args:
        where: the file, for the message.
        column: as it is in the file.
        field: of the table.
        given: by the user, who may have said that there are no nulls.

    Raises:
        InvalidError: a value cannot become the type, or is null where it may not be.
    """
    pa = need("pyarrow", extra="tables")
    if column.type != field.type:
        try:
            column = column.cast(field.type)
        except pa.ArrowException as error:
            why = str(error).splitlines()[0][:300]
            raise misfit(where, field.name, column.type, field.type, f": {why}", given=given) from error
    if given and not field.nullable and column.null_count:
        raise InvalidError(
            f"column {field.name!r} has nulls in this file, and schema= says that it has none",
            where=where,
            hint="let the field be nullable, or leave the column out of schema=",
        )
    return column


def misfit(
    where: str, name: str, have: pa.DataType, want: pa.DataType, why: str = "", *, given: bool = False
) -> InvalidError:
    """What to say of a column that has one type in a file and another in the table.

    Args:
        where: the file.
        name: of the column.
        have: its type in the file.
        want: that of the table.
        why: what Arrow says of a value.
        given: whether the table's schema was given, so that it is to be given another way.
    """
    kind = _likely(have, want)
    if given:
        hint = f"schema= can say another type, such as {kind}; it or columns= can leave the column out"
    else:
        hint = (
            f'options={{"column_types": {{"{name}": "{kind}"}}}} reads it so from all files; columns= can leave it out'
        )
    return InvalidError(f"column {name!r} is {have} in this file and {want} in the table{why}", where=where, hint=hint)


def _likely(have: pa.DataType, want: pa.DataType) -> pa.DataType:
    """A type that may suit values of both, and is another than the one that did not."""
    pa = need("pyarrow", extra="tables")
    numbers = {str(kind) for kind in (have, want)} <= {"int64", "double", "float", "uint64", "int32"}
    return pa.float64() if numbers and want != pa.float64() else pa.string()
