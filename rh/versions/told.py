"""What a version is told when it is made: its message, aliases, tags, properties and time to live."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rh.durations import seconds_of
from rh.errors import InvalidError
from rh.registry.documents import check_document
from rh.versions.properties import Said

__all__ = ["ALIAS", "LATEST", "NUMBER", "Told", "check_alias", "check_message"]

LATEST = "latest"
"""The alias that moves by itself."""
NUMBER = re.compile(r"v([1-9][0-9]{0,7})")
_LIKE_NUMBER = re.compile(r"[vV][0-9]+")
ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Told(NamedTuple):
    """What the author of a version says about it. `of` makes it, before anything is stored."""

    message: str
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    ttl: float | None

    @classmethod
    def of(
        cls,
        message: object,
        aliases: object,
        tags: object,
        metadata: Mapping[str, Any] | None,
        ttl: object = None,
        *,
        where: str,
    ) -> Told:
        """What these arguments say.

        Raises:
            InvalidError: one of them is not what the record of a version can hold; `where` is named.
        """
        if isinstance(aliases, str) or not isinstance(aliases, Sequence | set | frozenset):
            hint = f"aliases=[{aliases!r}]" if isinstance(aliases, str) else None
            raise InvalidError("aliases= takes a list", hint=hint)
        for alias in aliases:
            check_alias(alias)
        said = Said.of(metadata, tags, where=f"metadata of {where}")
        seconds: Any = seconds_of(ttl) if isinstance(ttl, str) else ttl
        if ttl is not None and (
            isinstance(seconds, bool)
            or not isinstance(seconds, int | float)
            or not seconds > 0
            or not math.isfinite(seconds)
        ):
            raise InvalidError(f"ttl={ttl!r} is no time above 0", hint="a number of seconds, or '30d', '12h'")
        return cls(check_message(message, where), tuple(dict.fromkeys(aliases)), said.tags, said.metadata, seconds)


def check_message(message: object, where: str) -> str:
    """A message as text; `None` says nothing.

    Raises:
        InvalidError: it is no text, or none that can be recorded.
    """
    if message is None:
        return ""
    if not isinstance(message, str):
        raise InvalidError(f"message= is text, not {type(message).__name__}", where=where)
    check_document({"message": message}, where=where)
    return message


def check_alias(alias: object) -> None:
    """Refuse what cannot be an alias."""
    if not isinstance(alias, str) or not ALIAS.fullmatch(alias):
        raise InvalidError(
            f"not an alias: {alias!r}",
            hint="letters, digits, '.', '_', '-', a letter or digit first; no ':' and no '/'",
        )
    if alias == LATEST or _LIKE_NUMBER.fullmatch(alias):
        raise InvalidError(f"{alias!r} cannot be an alias: it reads as a version", hint="choose another word")
