"""What a place that is not there may have meant: what lies beside it and is called alike."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from threading import Thread

from rh.errors import NotFoundError, RhError
from rh.observe import log
from rh.resources import places, places_saved
from rh.systems import buckets, system_of_buckets
from rh.systems.objects.failures import NoBucketError

__all__ = ["hinted", "telling_nearest"]

_PLACE = re.compile(r"[/~]|[\w.+~@/-]+:[/~]")
"""How a path or URL begins. Other texts say where something is in words: a row of a file, a path in a draft."""
_LOOKED_AT = 1000
"""Entries that are looked at: a page of a bucket."""
_TOLD = 3
_PATIENCE_S = 3.0
"""How long a store may take to tell its buckets."""


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

    The directory above is listed once, a page of it, or the nearest one above that has something in it. If that fails,
    the error stays what it is.
    """
    of_bucket = isinstance(error, NoBucketError)
    if not isinstance(error, NotFoundError) or error.looked or not error.where or (error.hint and not of_bucket):
        return
    error.looked = True
    try:
        told = (error.hint, _bucket(error.where)) if of_bucket else (_hint(error.where),)
        error.hint = "; ".join(filter(None, told)) or None
    except (RhError, OSError) as failure:
        log.debug("%s: what is beside it is not known: %s", error.where, failure)


def _bucket(where: str) -> str | None:
    """The buckets that are named nearly like one that is not there, if the store tells them soon."""
    scheme, _, rest = where.partition("://")
    system, name = system_of_buckets(f"{scheme}://"), rest.partition("/")[0]
    if system is None or not name:
        return None
    known: list[str] = []

    def ask() -> None:
        try:
            known.extend(islice(buckets(system), _LOOKED_AT))
        except (RhError, OSError) as failure:
            log.debug("the buckets of %s are not known: %s", system, failure)

    asking = Thread(target=ask, name="rh-buckets", daemon=True)
    asking.start()
    asking.join(_PATIENCE_S)
    near = [] if asking.is_alive() else _alike(name, known)
    return f"did you mean {' or '.join(f'{scheme}://{one}' for one in near)}?" if near else None


def _hint(where: str) -> str | None:
    if not _PLACE.match(where):
        return None
    means = None
    if places_saved.is_saved(where):
        place = places_saved.find(where).location
        # What is in a version is told by the version's name, and nowhere else.
        means = None if place.in_version else f"{where} means {places.url_of(place)}"
    return "; ".join(filter(None, (means, _beside(where)))) or None


def _beside(where: str) -> str | None:
    saved = places_saved.find(where) if places_saved.is_saved(where) else None
    place = saved.location if saved else places.resolve(where, None)
    above = where.rstrip("/").rpartition("/")[0] if saved and saved.below else places.url_of(place.parent)
    path = place.path.rstrip("/")
    if "/" not in path or path == "~":
        return None  # the root of a place, a bucket: nothing is beside it
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
        return _beside(above) or f"nothing is in {above} either"
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
