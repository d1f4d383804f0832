"""`repair`: what the store has lost or damaged of a version is written again, from the live data or another copy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

from rh.errors import NotFoundError
from rh.resources import places
from rh.resources.base import Located, load
from rh.systems.base import System
from rh.types import Entry, Location

if TYPE_CHECKING:
    from rh.resources.versioned import Versioned
    from rh.transfer import Verification

__all__ = ["check_there", "repair"]


def repair(resource: Versioned, which: str, source: str | os.PathLike[str] | Located | None) -> Verification:
    """`Versioned.repair`."""
    from rh.versions.repair import mend_contents, mend_tree
    from rh.versions.store import Store
    from rh.versions.verify import verify_version

    version = resource.series_of().get(which)
    copy = live = _live(resource)
    if source is not None:
        location = places.resolve(source.url if isinstance(source, Located) else source, None)
        check_there(location)
        copy = type(live)(location=location)
    store = Store.at(version.store)
    url = f"{resource.name}:{version.label}"
    with store.lease() as lease:
        mend_tree(store, version.digest, lambda doubted: copy.committed(doubted, None, lease))
        found = verify_version(store, version.digest, url)
        bad = [*found.corrupt, *found.missing, *found.modified]
        if not bad:
            return found
        files = _files(copy.placed(), copy.host)
        mend_contents(store, version.digest, bad, chain(_made(live), files), lease)
    return verify_version(store, version.digest, url)


def _live(resource: Versioned) -> Versioned:
    """What has the name: a handle on a version is at the very place that is damaged."""
    if resource.version is None:
        return resource
    found = load(str(resource.name), kinds=(resource.kind,), dryrun=True)
    assert isinstance(found, type(resource))
    return found


def check_there(location: Location) -> None:
    """Raise `NotFoundError` unless there is a file or directory at a place."""
    if location.name:
        with suppress(NotFoundError):
            places.at(location.parent, None).head(location.name)
            return
    try:
        found = next(iter(places.at(location, None).list(depth=1)), None)
    except NotFoundError:
        found = None
    else:
        if found is not None or location.system == "file":
            return
    raise NotFoundError("there is nothing at this place", where=places.url_of(location))


def _made(resource: Versioned) -> Iterator[tuple[System, Entry]]:
    """What a commit makes itself, beside the files that lie there: the index of a table."""
    from rh.resources.table import Table

    if isinstance(resource, Table) and resource.written and not resource.is_file:
        from rh.tables import index
        from rh.versions.spooled import Spooled

        system, _ = resource.opened_files()
        with Spooled([index.without_etags(system)]) as file:
            yield file, file.entry


def _files(location: Location, host: Mapping[str, Any] | None) -> Iterator[tuple[System, Entry]]:
    """All files at a place, or the one that it is."""
    above = places.at(location.parent, host) if location.name else None
    try:
        if above is not None:
            entry = above.head(location.name)
            if entry.kind == "file":
                yield above, entry
                return
    except NotFoundError:
        pass
    system = places.at(location, host)
    try:
        for entry in system.list():
            yield system, entry
    except NotFoundError:
        return
