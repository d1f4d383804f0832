"""Conditions on columns, each value as one of the column's own type: nothing is rounded, and no column is cast.

Arrow takes `pandas.Timestamp` for a `datetime` and drops the nanoseconds, and casts a column of `uint64` to `int64` to
compare it with a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from rh.plugins import need

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["fitted", "nanoseconds"]

_IN_UNIT = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
"""Nanoseconds."""


def fitted(where: Any, schema: pa.Schema) -> Any:
    """Lists of `(column, operator, value)`, or lists of such, with the values as Arrow compares them exactly.

    What is no such list, or is to be compared as Arrow does it, stays as it is.
    """
    if not isinstance(where, list | tuple):
        return where
    if len(where) == 3 and all(isinstance(part, str) for part in where[:2]):
        name, operator, value = where
        at = schema.get_field_index(name)
        return (name, operator, value) if at < 0 else (name, *_compared(operator, value, schema.field(at).type))
    return [fitted(one, schema) for one in where]


def _compared(operator: str, value: Any, kind: pa.DataType) -> tuple[str, Any]:
    """Operator and value that are true of the same values of a type as those given."""
    if operator in ("in", "not in"):
        return operator, _listed(value, kind)
    found = _floor(value, kind)
    if found is None:
        beyond = isinstance(value, int) and not -(1 << 63) <= value < 1 << 63
        return operator, Decimal(value) if beyond else value
    whole, exact = found
    low, high = _limits(kind)
    if not (exact and low <= whole <= high):  # it lies between two values of the type, or beyond them all
        if operator in ("=", "==") or (whole < low and operator in ("<", "<=")):
            operator, whole = "<", low
        elif operator == "!=" or (whole < low and operator in (">", ">=")):
            operator, whole = ">=", low
        else:
            operator, whole = {"<": "<=", ">=": ">"}.get(operator, operator), min(whole, high)
    return operator, need("pyarrow").scalar(whole, kind)


def _listed(values: Any, kind: pa.DataType) -> Any:
    """Values to look for; those that the type cannot have are left out."""
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | Mapping):
        return values
    if hasattr(values, "__arrow_c_array__") or hasattr(values, "__arrow_c_stream__"):
        return values
    values = sorted(values, key=repr) if isinstance(values, set | frozenset) else list(values)
    low, high = _limits(kind)
    found: list[int | None] = []
    for value in values:
        one = (None, True) if value is None else _floor(value, kind)
        if one is None:
            return values
        whole, exact = one
        if exact and (whole is None or low <= whole <= high):
            found.append(whole)
    return need("pyarrow").array(found, kind) if low < high else values


def _limits(kind: pa.DataType) -> tuple[int, int]:
    """The least and the largest of the whole numbers that values of a type are; equal where they are something else."""
    types = need("pyarrow").types
    if types.is_unsigned_integer(kind):
        return 0, (1 << kind.bit_width) - 1
    if types.is_integer(kind) or types.is_timestamp(kind) or types.is_duration(kind):
        return -(1 << kind.bit_width - 1), (1 << kind.bit_width - 1) - 1
    return 0, 0


def _floor(value: Any, kind: pa.DataType) -> tuple[int, bool] | None:
    """A value in whole units of a type, rounded down, and whether that is all of it; `None` where it has none."""
    pa = need("pyarrow")
    if pa.types.is_integer(kind):
        value = value.as_py() if isinstance(value, pa.Scalar) else value
        if isinstance(value, bool) or not isinstance(value, Real):
            return None
        number = int(value) if isinstance(value, Integral) else float(value)
        if isinstance(number, float) and not math.isfinite(number):
            return None
        whole = math.floor(number)
        return whole, whole == number
    if not (pa.types.is_timestamp(kind) or pa.types.is_duration(kind)):
        return None
    try:
        given = pa.scalar(value)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return None
    zoned = [getattr(one, "tz", None) is not None for one in (given.type, kind)]
    if given.type.id != kind.id or not given.is_valid or zoned[0] != zoned[1]:
        return None
    count = nanoseconds(value)
    whole, rest = divmod(given.value * _IN_UNIT[given.type.unit] if count is None else count, _IN_UNIT[kind.unit])
    return whole, not rest


def nanoseconds(value: Any) -> int | None:
    """All of a time of pandas that has more than microseconds, which are what Arrow and DuckDB see of it; else `None`.

    Since 1970, or for how long.
    """
    more = 0
    if isinstance(value, datetime):
        more = getattr(value, "nanosecond", 0)
    elif isinstance(value, timedelta):
        more = getattr(value, "nanoseconds", 0)
    return int(value.value) if more > 0 else None  # of "not a time" it is NaN
