"""The index of properties in SQL: how values are written so that their bytes are in order, and filters as conditions.

A row of the table `properties` says that the record which a change made (`sequence`) has a value under a name. Values
are bytes that compare as the values do: a first byte for the type, then UTF-8 for text (whose order is that of code
points), or for a number the float that is not greater, and what is missing to it. So `2**53 + 1 > 2.0**53` is as exact
here as in Python, in every database.

Indexes take short entries only. A long name stands as its digest, and of a long value there is the beginning; what is
decided by more than the beginning is asked of the record itself (`Condition.exact`).
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rh.registry.filters import All, AnyOf, Compare, Exists, Filter, Not, Scalar, properties

__all__ = ["Condition", "Leaf", "TooLargeError", "anchors", "condition", "rows"]

NAME = 200
"""Bytes of a name in the index."""
VALUE = 400
"""Bytes of a value in the index. PostgreSQL takes entries of up to 2,704 bytes."""
MAX_LEAVES = 200
MAX_LISTED = 1000

# No byte of UTF-8 is among these, so a search inside a text never matches the type.
_TRUTH, _NUMBER, _TEXT = b"\xfb", b"\xfc", b"\xfd"


class TooLargeError(Exception):
    """A filter that no statement is made of; the records are to be looked at one by one."""


class Leaf(NamedTuple):
    """A condition on one row of `properties`, called `p`."""

    sql: str
    values: tuple[Any, ...]


class Condition(NamedTuple):
    """A condition on a record's change, called `c`. One that is not exact holds for too many records, never too few."""

    sql: str
    values: tuple[Any, ...]
    exact: bool = True


_NONE = Condition("1 = 0", ())
_EVERY = Condition("1 = 1", ())


def rows(document: Mapping[str, Any]) -> set[tuple[bytes, bytes]]:
    """The index entries of a record: names and values."""
    return {(_name(name), _value(value)[:VALUE]) for name, value in properties(document)}


def condition(where: Filter, contains: str) -> Condition:
    """A filter as a condition.

    Args:
        where: the filter.
        contains: how the database says that the bytes `p.value` hold those of the placeholder.

    Raises:
        TooLargeError: databases would refuse so large a statement.
    """
    if _size(where, 0) > MAX_LEAVES:
        raise TooLargeError
    return _condition(where, contains)


def anchors(where: Filter, contains: str) -> Sequence[Sequence[Leaf]]:
    """Ways to come by all records that a filter may hold for: rows of any of a way's leaves lead to them."""
    match where:
        case Compare(field=field, op="!=") | Exists(field=field):
            return [[_there(field)]]
        case Compare():
            return [[leaf for leaf, _ in [_leaf(where, contains)] if leaf is not None]]
        case All(parts=parts):
            return [way for part in parts for way in anchors(part, contains)]
        case AnyOf(parts=parts):
            ways = [anchors(part, contains) for part in parts]
            return [[leaf for way in ways for leaf in way[0]]] if all(ways) else []
    return []


def _size(where: Filter, depth: int) -> int:
    if depth > 40:
        raise TooLargeError
    match where:
        case Compare() | Exists():
            return 1
        case All(parts=parts) | AnyOf(parts=parts):
            return 1 + sum(_size(part, depth + 1) for part in parts)
        case Not(part=part):
            return _size(part, depth + 1)
    raise TooLargeError  # a filter of somebody else's making


def _condition(where: Filter, contains: str) -> Condition:
    match where:
        case Exists(field=field):
            return _exists(_there(field))
        case Compare(field=field, op="!="):
            equal = _condition(Compare(field, "==", where.values), contains)
            there = _exists(_there(field))
            if not equal.exact:
                return there._replace(exact=False)
            return Condition(f"{there.sql} and not ({equal.sql})", (*there.values, *equal.values))
        case Compare():
            leaf, exact = _leaf(where, contains)
            return _NONE if leaf is None else _exists(leaf, exact=exact)
        case Not(part=part):
            inner = _condition(part, contains)
            if not inner.exact:  # it holds too often, so its opposite would hold too rarely
                return _EVERY._replace(exact=False)
            return inner._replace(sql=f"not ({inner.sql})")
        case All(parts=parts):
            return _joined([_condition(part, contains) for part in parts], "and", _EVERY)
        case AnyOf(parts=parts):
            return _joined([_condition(part, contains) for part in parts], "or", _NONE)
    raise TooLargeError


def _joined(parts: Sequence[Condition], word: str, empty: Condition) -> Condition:
    if not parts:
        return empty
    return Condition(
        f" {word} ".join(f"({part.sql})" for part in parts),
        tuple(value for part in parts for value in part.values),
        all(part.exact for part in parts),
    )


def _exists(leaf: Leaf, *, exact: bool = True) -> Condition:
    # `offset 0` keeps PostgreSQL from joining: the few records at hand are looked up one by one.
    return Condition(
        f"exists (select 1 from @properties p where p.sequence = c.sequence and {leaf.sql} limit 1 offset 0)",
        leaf.values,
        exact,
    )


def _there(field: str) -> Leaf:
    return Leaf("p.name = ?", (_name(field),))


def _leaf(where: Compare, contains: str) -> tuple[Leaf | None, bool]:
    """The condition on a row, and whether it is exact; `None` if no row can meet it."""
    name = _name(where.field)
    wanted = [_value(value) for value in where.values]
    exact = all(len(value) < VALUE for value in wanted)
    heads = [value[:VALUE] for value in wanted]
    if where.op == "==":
        if not heads:
            return None, True
        if len(heads) > MAX_LISTED:
            return _there(where.field), False
        return Leaf(f"p.name = ? and p.value in ({', '.join('?' * len(heads))})", (name, *heads)), exact
    head, kind = heads[0], heads[0][:1]
    end = bytes([kind[0] + 1])
    between = "p.name = ? and p.value >= ? and p.value < ?"
    match where.op:
        case "contains":
            # Of long values only the beginning is here.
            leaf = Leaf(f"{between} and ({contains} or length(p.value) = {VALUE})", (name, _TEXT, end, head[1:]))
            return (leaf, False) if head[1:] else (Leaf(between, (name, _TEXT, end)), True)
        case "starts":
            return Leaf(between, (name, head, head[:-1] + bytes([head[-1] + 1]))), exact
        case "<" if exact:
            return Leaf(between, (name, kind, head)), exact
        case "<" | "<=":
            return Leaf("p.name = ? and p.value >= ? and p.value <= ?", (name, kind, head)), exact
        case ">" if exact:
            return Leaf("p.name = ? and p.value > ? and p.value < ?", (name, head, end)), exact
    return Leaf(between, (name, head, end)), exact  # `>=`


def _name(name: str) -> bytes:
    found = name.encode("utf-8", "surrogatepass")
    if len(found) < NAME:
        return found
    return found[: NAME - 32] + hashlib.sha256(found).digest()


def _value(value: Scalar) -> bytes:
    if isinstance(value, str):
        return _TEXT + value.encode("utf-8", "surrogatepass")
    if isinstance(value, bool):
        return _TRUTH + bytes([value])
    return _NUMBER + _number(value)


def _number(value: float) -> bytes:
    """Bytes in the order of numbers: the greatest float that is not more, and how much more the number is."""
    try:
        floor = float(value)
    except OverflowError:  # only in filters; no record holds such a number
        floor = math.inf if value > 0 else -math.inf
    more = b""
    if isinstance(value, int) and not -(1 << 53) <= value <= 1 << 53 and math.isfinite(floor):
        if int(floor) > value:
            floor = math.nextafter(floor, -math.inf)
        # Integers in records have 64 bits, which leaves up to 11; others only need to be more than the float.
        rest = min(value - int(floor), 0xFFFF)
        more = rest.to_bytes(2, "big") if rest else b""
    (bits,) = struct.unpack(">Q", struct.pack(">d", floor + 0.0))  # + 0.0: there is one zero
    bits ^= 0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else 1 << 63
    return struct.pack(">Q", bits) + more
