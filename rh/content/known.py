"""What the manifest of a tree says of one file, so that reading it can be checked.

A row holds exactly while the file's etag is the row's, so rows that were read once need no question asked again; a
manifest is read anew only for a file it did not describe.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from typing import NamedTuple

from rh.content import manifest
from rh.content.tree import Row
from rh.errors import IntegrityError, NotFoundError, RhError, UnsupportedError
from rh.forks import Lock
from rh.observe import log
from rh.systems.base import System
from rh.types import Entry

__all__ = ["row_of"]

MAX_MANIFEST = 8 << 20
"""Bytes of the largest manifest that is read for the sake of single files (100,000 and more of them)."""

_AGAIN_S = 5.0
_TREES = 8


class _Tree(NamedTuple):
    """What is known of a tree: when it was asked for, its rows, and the bytes of a manifest too large to be read."""

    asked_at: float
    rows: dict[str, Row]
    unread: int = 0


_UNKNOWN = _Tree(0.0, {})
_lock = Lock()
_trees: OrderedDict[str, _Tree] = OrderedDict()


os.register_at_fork(after_in_child=_trees.clear)


def row_of(system: System, key: str, entry: Entry, *, largest: int = MAX_MANIFEST) -> Row | None:
    """What the manifest of a tree says of the file `entry` under `key`, if it knows that very content.

    A manifest of more bytes than `largest` is not read.
    """
    if entry.etag is None:
        return None
    where = system.url()
    with _lock:
        tree = _trees.get(where, _UNKNOWN)
    row = tree.rows.get(key)
    if not _holds(row, entry) and (time.monotonic() - tree.asked_at > _AGAIN_S or 0 < tree.unread <= largest):
        tree = _read(system, largest)
        with _lock:
            _trees[where] = tree
            _trees.move_to_end(where)
            while len(_trees) > _TREES:
                _trees.popitem(last=False)
        row = tree.rows.get(key)
    return row if _holds(row, entry) else None


def _holds(row: Row | None, entry: Entry) -> bool:
    return row is not None and row.etag == entry.etag and row.size == entry.size


def _read(system: System, largest: int) -> _Tree:
    """All that the manifest says."""
    now, rows = time.monotonic(), {}
    try:
        size = system.head(manifest.NAME).size
        if size > largest:
            return _Tree(now, {}, size)
        reader = manifest.read(system)
        rows = {row.key: row for row in reader.each()} if reader is not None else {}
    except NotFoundError:
        pass
    except (IntegrityError, UnsupportedError) as error:
        log.warning("files of %s are read without their digests: %s", system.url(), error)
    except RhError as error:
        log.debug("no manifest of %s: %s", system.url(), error)
    return _Tree(now, rows)
