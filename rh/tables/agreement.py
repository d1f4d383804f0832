"""Whether values of Python can be one column: Arrow takes some mixtures for one type, and changes values silently."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from rh.errors import InvalidError

__all__ = ["PLAIN", "agree", "said"]

# Arrow would make one type of these, and change values silently: text would become bytes, times of day be cut off.
_FAMILIES: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (int, "number"),
    (float, "number"),
    (str, "text"),
    (bytes, "bytes"),
    (datetime.datetime, "datetime"),
    (datetime.date, "date"),
)
PLAIN = {bool, str, bytes, datetime.date}


def agree(name: str, values: Any) -> None:
    """Refuse mixtures that Arrow would take for one type by changing some of the values, at any depth."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {list}:
        kinds = {type(inner) for value in values for inner in value or ()} - {type(None)}
    if kinds <= {int, float} or (len(kinds) == 1 and kinds <= PLAIN):
        return
    seen: dict[tuple[Any, ...], tuple[str, int, Any]] = {}
    for row, value in enumerate(values):
        for path, family, leaf in _leaves((), value):
            first = seen.setdefault(path, (family, row, leaf))
            if first[0] != family:
                place = "".join(f"[{step!r}]" for step in path)
                raise InvalidError(
                    f"column {name!r}{place} does not agree: row {first[1]} has {said(first[2])}, "
                    f"row {row} has {said(leaf)}"
                )


def _leaves(path: tuple[Any, ...], value: Any) -> Iterator[tuple[tuple[Any, ...], str, Any]]:
    """The values inside a value that have a family, each with the fields that lead to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves((*path, key), inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _leaves(path, inner)
    else:
        for kind, family in _FAMILIES:
            if isinstance(value, kind):
                zone = " with a zone" if family == "datetime" and getattr(value, "tzinfo", None) is not None else ""
                yield path, family + zone, value
                return


def said(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return f"{type(value).__qualname__} ({text if len(text) <= 60 else text[:60] + '…'})"
