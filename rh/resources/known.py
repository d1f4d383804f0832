"""What the manifest of a tree says of one file, so that reading it can be checked.

A row holds exactly while the file's etag is the row's, so rows that were read once need no question asked again; a
manifest is read anew only for a file it did not describe.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict

from rh.content import manifest
from rh.content.tree import Row
from rh.errors import IntegrityError, NotFoundError, RhError, UnsupportedError
from rh.forks import Lock
from rh.observe import log
from rh.resources.files import Expected
from rh.systems.base import System
from rh.types import Entry

__all__ = ["expected"]

MAX_MANIFEST = 8 << 20
"""Bytes of the largest manifest that is read for the sake of single files (100,000 and more of them)."""

_AGAIN_S = 5.0
_TREES = 8
_lock = Lock()
_trees: OrderedDict[str, tuple[float, dict[str, Row]]] = OrderedDict()


os.register_at_fork(after_in_child=_trees.clear)


def expected(system: System, key: str, entry: Entry) -> Expected | None:
    """The digest of the file `entry` under `key` of a tree, if its manifest knows that very content."""
    if entry.etag is None:
        return None
    where = system.url()
    with _lock:
        read_at, rows = _trees.get(where, (0.0, {}))
    row = rows.get(key)
    if not _holds(row, entry) and time.monotonic() - read_at > _AGAIN_S:
        rows = _read(system)
        with _lock:
            _trees[where] = (time.monotonic(), rows)
            _trees.move_to_end(where)
            while len(_trees) > _TREES:
                _trees.popitem(last=False)
        row = rows.get(key)
    if row is None or row.digest is None or not _holds(row, entry):
        return None
    return Expected(row.digest, row.chunks)


def _holds(row: Row | None, entry: Entry) -> bool:
    return row is not None and row.etag == entry.etag and row.size == entry.size


def _read(system: System) -> dict[str, Row]:
    try:
        if system.head(manifest.NAME).size > MAX_MANIFEST:
            return {}
        reader = manifest.read(system)
        return {row.key: row for row in reader.each()} if reader is not None else {}
    except NotFoundError:
        return {}
    except (IntegrityError, UnsupportedError) as error:
        log.warning("files of %s are read without their digests: %s", system.url(), error)
        return {}
    except RhError as error:
        log.debug("no manifest of %s: %s", system.url(), error)
        return {}
