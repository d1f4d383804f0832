"""What the keys of a registry are about, in words: errors name what people have named, not how it is kept."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["spoken"]

_OF_SERIES = {
    "versions": "the versions",
    "heads": "the versions",
    "aliases": "the aliases",
    "drafts": "the drafts",
    "files": "the files",
    "meta": "the properties",
    "types": "the properties",
}
_OF_RUNS = {"used": "read", "made": "made"}


def spoken(key: str, name_of: Callable[[str], str | None]) -> str:
    """What a key, or a prefix of keys, is about.

    Args:
        key: of a registry.
        name_of: the name that has a series, by its id, as far as that is known.
    """
    space, _, rest = key.partition("/")
    head, _, tail = rest.partition("/")
    if space in ("resources", "series"):
        return _name(rest) if rest.rstrip("/") else "its names"
    if key.startswith("types/resources/"):
        return "the properties of its names"
    if space in ("runs", "inputs", "outputs"):
        return f"the run {head}" if head else "its runs"
    if space in _OF_RUNS:
        of = "this data" if head == "external" else name_of(head) or "this name"
        return f"the runs that {_OF_RUNS[space]} {of}"
    if space in _OF_SERIES:
        name = name_of(head) or "this name"
        if space == "aliases" and tail:
            return f"the alias {tail} of {name}"
        if space == "versions" and tail.isdigit():
            return f"v{int(tail)} of {name}"
        return f"{_OF_SERIES[space]} of {name}"
    return "this" if key else "its names"


def _name(path: str) -> str:
    """A name from what is left of its key, or names from what they begin with."""
    whole = path if path.startswith("~/") else f"/{path}"
    return f"the names below {whole.rstrip('/')}" if whole.endswith("/") else whole
