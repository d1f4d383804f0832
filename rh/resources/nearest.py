"""What a place that is not there may have meant: what lies beside it and is called alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from rh.errors import NotFoundError, RhError
from rh.observe import log
from rh.resources import places, places_saved
from rh.types import Location

__all__ = ["hinted", "telling_nearest"]

_LOOKED_AT = 1000
"""Entries that are looked at: a page of a bucket."""
_TOLD = 3


@contextmanager
def telling_nearest() -> Iterator[None]:
    """Missing places leave with a hint: what people call is decorated with it. Nothing is asked where all is well."""
    try:
        yield
    except NotFoundError as error:
        hinted(error)
        raise


def hinted(error: RhError) -> None:
    """Let the error of a place that is not there tell what is beside it, unless it has a fix of its own.

    The directory above is listed once, a page of it. If that fails, the error stays what it is.
    """
    if not isinstance(error, NotFoundError) or error.looked or error.hint or not error.where:
        return
    error.looked = True
    try:
        place = places.resolve(error.where, None)
        means = f"{error.where} means {places.url_of(place)}" if places_saved.is_saved(error.where) else None
        error.hint = "; ".join(filter(None, (means, _beside(place)))) or None
    except (RhError, OSError) as failure:
        log.debug("%s: what is beside it is not known: %s", error.where, failure)


def _beside(place: Location) -> str | None:
    path = place.path.rstrip("/")
    if "/" not in path or path == "~":
        return None  # the root of a place, a bucket: nothing is beside it
    above = places.url_of(place.parent)
    try:
        keys = [entry.key for entry in islice(places.at(place.parent).list(depth=1), _LOOKED_AT)]
    except NotFoundError:
        keys = []
    except RhError as failure:
        log.debug("%s cannot be listed: %s", above, failure)
        return None
    names = {key.rstrip("/"): key for key in keys}
    if place.name in names:
        return None  # it is there, and something else is missing
    if not names:
        return f"nothing is in {above} either"
    near = _alike(place.name, list(names))
    if near:
        return f"did you mean {' or '.join(names[name] for name in near)}?"
    more = ", …" if len(keys) > _TOLD else ""
    return f"{above} has {', '.join(keys[:_TOLD])}{more}"


def _alike(name: str, known: list[str]) -> list[str]:
    """Those of the known names that are like one, or go on as it begins; case does not matter."""
    lower = {one.lower(): one for one in reversed(known)}
    near = difflib.get_close_matches(name.lower(), lower, _TOLD)
    near += [one for one in sorted(lower) if one.startswith(name.lower()) and one not in near]
    return [lower[one] for one in near[:_TOLD]]
