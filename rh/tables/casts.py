"""How a file's values become the types of a table, none of them changed but fractions that are rounded.

Arrow's casts refuse most values that do not fit. Of some pairs of types they make what they can, silently: infinity of
a number that is too large, a day of a moment. Such pairs are read as the file has them, and what was made is held
against that.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from rh.errors import InvalidError
from rh.plugins import need

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "cast_here",
    "check_text",
    "exactly",
    "has_never_null",
    "may_lose",
    "misfit",
    "null_within",
    "parsed_as",
    "readable",
    "shaped",
    "way_out",
]

_NO_ZONE_DAY = 0
"""The day of a time of day that has none: 1970-01-01."""


@lru_cache(1024)
def readable(form: str, kind: pa.DataType) -> bool:
    """Whether Arrow makes values of a type from text of a format; from Parquet and Arrow files it casts."""
    pa = need("pyarrow")
    if form not in ("csv", "jsonl"):
        return True
    asked = parsed_as(form, kind)
    try:
        if form == "csv":
            csv = need("pyarrow.csv")
            csv.read_csv(io.BytesIO(b"a\n"), convert_options=csv.ConvertOptions(column_types={"a": asked}))
        else:
            json, schema = need("pyarrow.json"), pa.schema([("a", asked)])
            json.read_json(io.BytesIO(b'{"a": null}\n'), parse_options=json.ParseOptions(explicit_schema=schema))
        pa.array([], asked).cast(kind)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False
    return True


def parsed_as(form: str, kind: pa.DataType) -> pa.DataType:
    """What Arrow's readers of text are asked for where they do not make a type, or lose values: that is then cast."""
    pa = need("pyarrow")
    types = pa.types
    if types.is_floating(kind):
        return pa.float64()
    if form != "jsonl":
        return kind
    if types.is_dictionary(kind):
        return parsed_as(form, kind.value_type)
    if types.is_date(kind):
        return pa.string()
    if types.is_duration(kind):
        return pa.int64()
    if types.is_list(kind):
        return pa.list_(parsed_as(form, kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, parsed_as(form, field.type)) for field in kind])
    return kind


def shaped(where: str, column: pa.Array, field: pa.Field, *, given: bool) -> pa.Array:
    """A file's column as the field of the table: its values as that type.

    Args:
        where: the file, for the message.
        column: as it is in the file.
        field: of the table.
        given: by the user, who may have said that there are no nulls.

    Raises:
        InvalidError: a value cannot become the type without being changed, or is null where it may not be.
    """
    pa = need("pyarrow")
    if given and (path := null_within(column, field)) is not None:
        raise InvalidError(
            f"column {path!r} has nulls in this file, and schema= says that it has none",
            where=where,
            hint="let the field be nullable, or leave the column out of schema=",
        )
    try:
        return exactly(column, field.type)
    except pa.ArrowException as error:
        why = str(error).splitlines()[0][:300]
        raise misfit(where, field.name, column.type, field.type, f": {why}", given=given) from error


def exactly(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column as a type, none of its values changed but fractions that are rounded.

    Raises:
        pyarrow.ArrowException: one would be, or cannot become the type.
    """
    if column.type == kind:
        return column
    made = _made(column, kind)
    if may_lose(column.type, kind) and (lost := _lost(column, made)) is not None:
        raise need("pyarrow").ArrowInvalid(lost)
    return made


def misfit(
    where: str, name: str, have: pa.DataType, want: pa.DataType, why: str = "", *, given: bool = False
) -> InvalidError:
    """What to say of a column that has one type in a file and another in the table.

    Args:
        where: the file.
        name: of the column.
        have: its type in the file.
        want: that of the table.
        why: what is wrong with a value.
        given: whether the table's schema was given, so that it is to be given another way.
    """
    return InvalidError(
        f"column {name!r} is {have} in this file and {want} in the table{why}",
        where=where,
        hint=way_out(name, have, want, given=given),
    )


def way_out(name: str, have: pa.DataType, want: pa.DataType, *, given: bool) -> str:
    """The hint of `misfit`: a type that may suit the values, and how to leave the column out."""
    kind = _likely(have, want)
    if given:
        return f"schema= can say another type, such as {kind}; it or columns= can leave the column out"
    return f'options={{"column_types": {{"{name}": "{kind}"}}}} reads it so from all files; columns= can leave it out'


def _likely(have: pa.DataType, want: pa.DataType) -> pa.DataType:
    """A type that may suit values of both, and is another than the one that did not."""
    pa = need("pyarrow")
    if may_lose(have, want):
        return have
    if {have, want} == {pa.int64(), pa.uint64()}:  # of which no value is to be rounded
        return pa.decimal128(20, 0)
    numbers = {str(kind) for kind in (have, want)} <= {"int64", "double", "float", "uint64", "int32"}
    return pa.float64() if numbers and want != pa.float64() else pa.string()


# What a cast would lose


def cast_here(have: pa.DataType, want: pa.DataType) -> bool:
    """Whether `shaped` is to make one type of another, since Arrow alone may change values, or refuse good ones."""
    return may_lose(have, want) or (have != want and _is_strict(want))


@lru_cache(4096)
def may_lose(have: pa.DataType, want: pa.DataType) -> bool:
    """Whether Arrow's cast from one type to another may change a value silently, other than by rounding a fraction."""
    types = need("pyarrow").types
    have, want = _plain(have), _plain(want)
    if have == want:
        return False
    if (inner := _inner(have, want)) is not None:
        return any(may_lose(one, other) for one, other in inner)
    if types.is_boolean(want):
        return bool(_is_number(have))
    if types.is_floating(want):
        narrower = types.is_floating(have) and have.bit_width > want.bit_width
        whole = types.is_integer(have) and types.is_float16(want)
        large = types.is_decimal256(have) and want.bit_width < 64
        return bool(narrower or whole or large or _is_text(have))
    if types.is_decimal(want):
        return bool(types.is_floating(have))
    return bool(types.is_timestamp(have) and (types.is_date(want) or types.is_time(want)))


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type without its dictionary; a map is a list of its entries."""
    pa = need("pyarrow")
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_map(kind):
        return pa.list_(pa.struct([("key", kind.key_type), kind.item_field.with_name("value")]))
    return kind


def _inner(have: pa.DataType, want: pa.DataType) -> list[tuple[pa.DataType, pa.DataType]] | None:
    """The types within two types that are made of each other; `None` if they have no inner types."""
    types = need("pyarrow").types
    if _is_list(have) and _is_list(want):
        return [(have.value_type, want.value_type)]
    if types.is_struct(have) and types.is_struct(want):
        both = [field for field in want if have.get_field_index(field.name) >= 0]
        return [(have.field(field.name).type, field.type) for field in both]
    return None


def _is_list(kind: pa.DataType) -> bool:
    types = need("pyarrow").types
    return any(
        is_one(kind)
        for is_one in (
            *(types.is_list, types.is_large_list, types.is_fixed_size_list),
            *(types.is_list_view, types.is_large_list_view),
        )
    )


def _is_number(kind: pa.DataType) -> bool:
    types = need("pyarrow").types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    types = need("pyarrow").types
    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    return any(is_one(kind) for is_one in texts)


def _opened(column: pa.Array) -> pa.Array:
    """An array as `_plain` has its type."""
    types = need("pyarrow").types
    if types.is_dictionary(column.type):
        return _opened(column.dictionary_decode())
    return column.cast(_plain(column.type)) if types.is_map(column.type) else column


def _lost(have: pa.Array, made: pa.Array) -> str | None:
    """The first value that is not what it was, and what became of it; `None` if all are."""
    pa, pc = need("pyarrow"), need("pyarrow.compute")
    have, made = _opened(have), _opened(made)
    if not may_lose(have.type, made.type):
        return None
    if _is_list(have.type):
        return _lost(have.flatten(), made.flatten())
    if pa.types.is_struct(have.type):
        before, after = have.flatten(), made.flatten()
        for at, field in enumerate(made.type):
            old = have.type.get_field_index(field.name)
            if old >= 0 and (found := _lost(before[old], after[at])) is not None:
                return found
        return None
    for row in pc.indices_nonzero(pc.fill_null(_differ(have, made), False)).to_pylist():  # noqa: FBT003 - Arrow's
        if not _same(have[row], made[row]):
            return f"{_said(have[row])} would be {_said(made[row])}"
    return None


def _differ(have: pa.Array, made: pa.Array) -> pa.Array:
    """Which values, of types that may lose some, are not what they were: all of those, and perhaps some more."""
    pa, pc = need("pyarrow"), need("pyarrow.compute")
    types = pa.types
    if types.is_timestamp(have.type):
        clock = have if have.type.tz is None else pc.local_timestamp(have)
        if types.is_date(made.type):
            return pc.not_equal(made.cast(clock.type), clock)
        return pc.not_equal(clock.cast(pa.date32()).cast(pa.int32()), _NO_ZONE_DAY)
    if types.is_floating(made.type):
        if types.is_integer(have.type):
            return pc.not_equal(made.cast(pa.float64()), have.cast(pa.float64(), safe=False))
        if _is_text(have.type):
            finite = pc.invert(pc.match_substring(have.cast(pa.large_string()), "inf", ignore_case=True))
        else:
            finite = pc.is_finite(have)
        return pc.and_(pc.is_inf(made), finite)
    return pc.not_equal(made.cast(have.type), have)


def _same(have: pa.Scalar, made: pa.Scalar) -> bool:
    """Whether a decimal is the fraction that it was made of: Arrow's way back may be off by one bit."""
    pa = need("pyarrow")
    if not (pa.types.is_decimal(made.type) and pa.types.is_floating(have.type)):
        return False
    return bool(pa.scalar(float(made.as_py())).cast(have.type) == have)


def _said(value: pa.Scalar) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


# Text

NOT_UTF8 = "not UTF-8"
"""What `check_text` says of text."""
AS_BYTES = 'options={{"column_types": {{"{name}": "{kind}"}}}} or schema= reads its bytes; columns= can leave it out'
"""A hint of `check_text`, about files."""


def check_text(where: str, rows: pa.RecordBatch | pa.Table, hint: str = AS_BYTES) -> None:
    """See that text is UTF-8, which Arrow and all who are handed its text take for granted; only its CSV reader looks.

    Args:
        where: the place that the rows are from, for the message.
        rows: some gigabytes of text are looked at in a second.
        hint: what to do about the column `{name}`; `{kind}` is its type with bytes in place of text.

    Raises:
        InvalidError: some is not; the column is named.
    """
    pa = need("pyarrow")
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else (column,):
            try:
                for text in _texts(chunk):
                    text.validate(full=True)
            except pa.ArrowInvalid as error:
                kind = str(column.type).replace("string", "binary")
                raise InvalidError(
                    f"column {name!r} has text that is {NOT_UTF8}", where=where, hint=hint.format(name=name, kind=kind)
                ) from error


def _texts(column: pa.Array) -> Iterator[pa.Array]:
    """The arrays of text that a column is made of."""
    pa = need("pyarrow")
    types, kind = pa.types, column.type
    if isinstance(kind, pa.BaseExtensionType):
        yield from _texts(column.storage)
    elif types.is_dictionary(kind):
        yield from _texts(column.dictionary)
    elif types.is_map(kind):
        yield from _texts(_opened(column))
    elif _is_list(kind):
        yield from _texts(column.flatten())
    elif types.is_struct(kind):
        for inner in column.flatten():
            yield from _texts(inner)
    elif types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        yield column


# Nulls


def _is_strict(kind: pa.DataType) -> bool:
    """Whether a field within a type must not be null."""
    return any(map(has_never_null, _fields(kind)))


def _made(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column, in which `null_within` found none, as another type.

    Arrow's cast to a type with fields that must not be null refuses nulls that lie within other nulls as well.
    """
    if not _is_strict(kind):
        return column.cast(kind)
    return need("pyarrow").array(_Taken(column.cast(_loose(kind)), kind))


class _Taken:
    """An array taken for another type of the same layout, by Arrow's protocol."""

    def __init__(self, column: pa.Array, kind: pa.DataType) -> None:
        self._column = column
        self._kind = kind

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        return self._kind.__arrow_c_schema__(), self._column.__arrow_c_array__()[1]


def _loose(kind: pa.DataType) -> pa.DataType:
    """A type all of whose fields may be null."""
    pa = need("pyarrow")
    types = pa.types
    if types.is_map(kind):
        return pa.map_(kind.key_type, _loose(kind.item_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, _loose(field.type)) for field in kind])
    if types.is_fixed_size_list(kind):
        return pa.list_(_loose(kind.value_type), kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind):
        return (pa.list_ if types.is_list(kind) else pa.large_list)(_loose(kind.value_type))
    return kind


@lru_cache(1024)
def has_never_null(field: pa.Field) -> bool:
    """Whether a field, or one within it, must not be null."""
    return not field.nullable or _is_strict(field.type)


def _fields(kind: pa.DataType) -> list[pa.Field]:
    """The fields within a type."""
    kind = _plain(kind)
    if _is_list(kind):
        return [kind.value_field]
    return list(kind) if need("pyarrow").types.is_struct(kind) else []


def null_within(column: pa.Array, field: pa.Field) -> str | None:
    """The path of the first field that is null in a column although it must not be: `a`, `a.b`, `a[]`."""
    if not has_never_null(field):
        return None
    if not field.nullable and column.null_count:
        return str(field.name)
    types = need("pyarrow").types
    column = _opened(column.drop_null() if column.null_count else column)
    kind = _plain(field.type)
    if _is_list(kind) and _is_list(column.type):
        return null_within(column.flatten(), kind.value_field.with_name(f"{field.name}[]"))
    names = [one.name for one in column.type] if types.is_struct(kind) and types.is_struct(column.type) else []
    for one, name in zip(column.flatten() if names else (), names, strict=True):
        if (at := kind.get_field_index(name)) >= 0:
            found = null_within(one, kind.field(at).with_name(f"{field.name}.{name}"))
            if found is not None:
                return found
    return None
