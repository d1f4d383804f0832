"""Which Arrow type holds all values of two others, none of them changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rh.plugins import need

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["alike", "fits", "wider"]

_EXACT = {"halffloat": 11, "float": 24, "double": 53}
"""Bits of the whole numbers that a type of fractions holds, all of them (IEEE 754)."""
_UNITS = ("s", "ms", "us", "ns")


def alike(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether two types mean the same, and differ in their layout at most (`string`, `large_string`, `string_view`)."""
    return bool(one.equals(other)) or bool(_plain(one).equals(_plain(other)))


def fits(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether every value of `given` is one of `wanted` as well, dictionaries taken for what is in them."""
    if need("pyarrow").types.is_dictionary(wanted):
        wanted = wanted.value_type
    found = wider(given, wanted)
    return found is not None and alike(found, wanted)


def wider(one: pa.DataType, other: pa.DataType) -> Any:
    """The type that holds the values of both, `one` where they are alike; `None` if there is none.

    Null becomes any type; whole numbers wider ones, or fractions that hold all of them; fractions and decimals wider
    ones; times finer ones; a dictionary what is in it; lists and structs likewise by what is in them.
    """
    pa = need("pyarrow")
    types = pa.types
    if alike(one, other):
        return one
    if types.is_null(one) or types.is_null(other):
        return other if types.is_null(one) else one
    if types.is_dictionary(one) or types.is_dictionary(other):
        return wider(*(kind.value_type if types.is_dictionary(kind) else kind for kind in (one, other)))
    for applies, promoted in _RULES:
        if applies(one) and applies(other):
            return promoted(one, other)
    return None


def _number(kind: pa.DataType) -> bool:
    types = need("pyarrow").types
    return bool(types.is_integer(kind) or types.is_floating(kind))


def _numbers(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    pa = need("pyarrow")
    types = pa.types
    if types.is_integer(one) and types.is_integer(other):
        if types.is_signed_integer(one) == types.is_signed_integer(other):
            return max(one, other, key=lambda kind: kind.bit_width)
        unsigned = one if types.is_unsigned_integer(one) else other
        signed = other if unsigned is one else one
        bits = max(signed.bit_width, 2 * unsigned.bit_width)
        return None if bits > 64 else {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[bits]
    if types.is_floating(one) and types.is_floating(other):
        return max(one, other, key=lambda kind: kind.bit_width)
    whole, fraction = (one, other) if types.is_integer(one) else (other, one)
    bits = whole.bit_width - int(types.is_signed_integer(whole))
    for kind in (fraction, pa.float64()):
        if bits <= _EXACT[str(kind)]:
            return kind
    return None


def _decimals(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    pa = need("pyarrow")
    scale = max(one.scale, other.scale)
    digits = max(one.precision - one.scale, other.precision - other.scale) + scale
    if digits > 76:
        return None
    return pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)


def _timestamps(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    return need("pyarrow").timestamp(_finer(one, other), one.tz) if one.tz == other.tz else None


def _durations(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    return need("pyarrow").duration(_finer(one, other))


def _times(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    pa, unit = need("pyarrow"), _finer(one, other)
    return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)


def _finer(one: pa.DataType, other: pa.DataType) -> str:
    return str(max(one.unit, other.unit, key=_UNITS.index))


def _lists(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    pa = need("pyarrow")
    inner = wider(one.value_type, other.value_type)
    if inner is None:
        return None
    large = any(pa.types.is_large_list(kind) for kind in (one, other))
    return pa.large_list(inner) if large else pa.list_(inner)


def _structs(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    pa = need("pyarrow")
    if [field.name for field in one] != [field.name for field in other]:
        return None
    kinds = [wider(left.type, right.type) for left, right in zip(one, other, strict=True)]
    if None in kinds:
        return None
    return pa.struct([(field.name, kind) for field, kind in zip(one, kinds, strict=True)])


def _of(*names: str) -> Callable[[Any], bool]:
    return lambda kind: any(getattr(need("pyarrow").types, f"is_{name}")(kind) for name in names)


_RULES: tuple[tuple[Callable[[Any], bool], Callable[[Any, Any], Any]], ...] = (
    (_number, _numbers),
    (_of("decimal"), _decimals),
    (_of("timestamp"), _timestamps),
    (_of("duration"), _durations),
    (_of("time"), _times),
    (_of("date"), lambda *_both: need("pyarrow").date64()),
    (_of("list", "large_list"), _lists),
    (_of("struct"), _structs),
)


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type with the plainest of the layouts that mean the same."""
    pa = need("pyarrow")
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_list(kind) or types.is_large_list(kind) or types.is_list_view(kind) or types.is_large_list_view(kind):
        return pa.list_(_plain(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, _plain(field.type)) for field in kind])
    if types.is_dictionary(kind):
        return pa.dictionary(pa.int32(), _plain(kind.value_type), ordered=kind.ordered)
    return kind
