"""What the manifest of a tree says of one file, so that reading it can be checked.

The digest in a row holds exactly while the file's etag is the row's, so rows that were read once need no question asked
again; a manifest is read anew only for a file it did not describe. The executable bit is that of the manifest that is
there now.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple, TypeGuard

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
    """What is known of a tree: when it was asked for, its rows, the manifest's etag, its bytes if it was too large."""

    asked_at: float = 0.0
    rows: Mapping[str, Row] = {}
    etag: str | None = None
    unread: int = 0


_UNKNOWN = _Tree()
_lock = Lock()
_trees: OrderedDict[str, _Tree] = OrderedDict()


os.register_at_fork(after_in_child=_trees.clear)


def row_of(system: System, key: str, entry: Entry, *, largest: int = MAX_MANIFEST, fresh: bool = False) -> Row | None:
    """What the manifest of a tree says of the file `entry` under `key`, if it knows that very content.

    Args:
        system: the tree's root.
        key: of the file there.
        entry: what is under the key.
        largest: a manifest of more bytes is not read.
        fresh: whether to ask if the manifest that was read is still the one that is there.

    """
    if entry.etag is None:
        return None
    where = system.url()
    with _lock:
        tree = _trees.get(where, _UNKNOWN)
    is_due = time.monotonic() - tree.asked_at > _AGAIN_S or 0 < tree.unread <= largest
    if fresh or (is_due and not _holds(tree.rows.get(key), entry)):
        tree = _read(system, largest, tree)
        with _lock:
            _trees[where] = tree
            _trees.move_to_end(where)
            while len(_trees) > _TREES:
                _trees.popitem(last=False)
    row = tree.rows.get(key)
    return row if _holds(row, entry) else None


def _holds(row: Row | None, entry: Entry) -> TypeGuard[Row]:
    return row is not None and row.etag == entry.etag and row.size == entry.size


def _read(system: System, largest: int, before: _Tree) -> _Tree:
    """All that the manifest says."""
    now = time.monotonic()
    try:
        there = system.head(manifest.NAME)
        if before.rows and there.etag is not None and there.etag == before.etag:
            return before._replace(asked_at=now)
        if there.size > largest:
            return _Tree(now, unread=there.size)
        reader = manifest.read(system)
        if reader is not None:
            rows = {row.key: row for row in reader.each()}
            return _Tree(now, rows, reader.etag)
    except NotFoundError:
        pass
    except (IntegrityError, UnsupportedError) as error:
        log.warning("files of %s are read without their digests: %s", system.url(), error)
    except RhError as error:
        log.debug("no manifest of %s: %s", system.url(), error)
    return _Tree(now)
