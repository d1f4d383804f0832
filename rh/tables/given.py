"""The columns and types that a user gives for files of others: all of them (`schema=`), or some (`column_types`)."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

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
    "of_text",
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
_DECIMAL = re.compile(r"(decimal|decimal128|decimal256)\(\s*(\d+)\s*,\s*(-?\d+)\s*\)")
_LIST = re.compile(r"(list|large_list)<(?:(?:item|element):\s*)?(.+)>")
_OFFSET = re.compile(r"[+-]\d{2}:?\d{2}")
_MADE = re.compile(r"\s*(struct|map|dictionary)\s*<")
_LIKE = 'schema={"column": "int64", "other": "timestamp[us]"}, or a pyarrow.Schema'


# What is given


def encoded(schema: Any) -> bytes:
    """`schema=` as a serialized `pyarrow.Schema`: plain data, the same on every machine.

    Args:
        schema: a `pyarrow.Schema`, or a dict of the columns' names and their types: pyarrow's, or their names.

    Raises:
        InvalidError: it is neither, has no column or one twice, or a type is none.
    """
    pa = need("pyarrow")
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
    pa = need("pyarrow")
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
    pa = need("pyarrow")
    text = name.strip()
    if (match := _ZONED.fullmatch(text)) is not None:
        return pa.timestamp(match.group(1), _zone(match.group(2).strip()))
    if (match := _DECIMAL.fullmatch(text)) is not None:
        make = pa.decimal256 if match.group(1) == "decimal256" else pa.decimal128
        return make(int(match.group(2)), int(match.group(3)))
    if (match := _LIST.fullmatch(text)) is not None:
        inner = _named(match.group(2))
        return pa.list_(inner) if match.group(1) == "list" else pa.large_list(inner)
    return pa.type_for_alias(text)


def _zone(name: str) -> str:
    """The name of a time zone, or its distance from UTC (`+02:00`).

    Raises:
        ValueError: there is no such zone.
    """
    if name != "UTC" and _OFFSET.fullmatch(name) is None:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, OSError) as error:
            raise ValueError(f"there is no time zone {name!r}") from error
    return name


def _kind(column: str, kind: Any, argument: str, hint: str) -> pa.DataType:
    pa = need("pyarrow")
    if isinstance(kind, pa.DataType):
        return kind
    near = ""
    if isinstance(kind, str):
        try:
            return _named(kind)
        except ValueError:
            if (made := _MADE.match(kind)) is not None:
                maker = {"map": "map_"}.get(made.group(1), made.group(1))
                raise InvalidError(
                    f"{argument}: {kind!r}, for column {column!r}, cannot be said by name",
                    hint=f'a type of pyarrow can: {{"{column}": pyarrow.{maker}(…)}}',
                ) from None
            near = did_you_mean(kind, NAMES, least=0.5)
    raise InvalidError(f"{argument}: {kind!r} is no type for column {column!r}{near}", hint=hint)


def given_types(snapshot: Snapshot) -> dict[str, pa.DataType]:
    """The types that were given, by column: all of those of `schema=`, or what `options["column_types"]` says.

    Raises:
        InvalidError: `column_types` is no dict of columns and types.
    """
    pa = need("pyarrow")
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
