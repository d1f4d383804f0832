"""What manifests further up say of a directory: a part of a copied tree has none of its own."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import chain, compress
from typing import NamedTuple

from rh.content import manifest
from rh.content.manifest import DamagedManifestError
from rh.content.rows import Rows
from rh.content.tree import key_bytes
from rh.errors import RhError
from rh.observe import log
from rh.systems import open_system
from rh.systems.base import System
from rh.systems.objects.spread import spread

__all__ = ["Part", "directories", "forget_directories", "part_of"]


class Part(NamedTuple):
    """What the manifest of a tree says of a directory in it.

    Attributes:
        tree: the tree's root.
        is_empty: whether the directory is known as an empty one.
        pages: rows whose keys are those below the directory, in key order; read once, to the end.
    """

    tree: System
    is_empty: bool
    pages: Iterator[Rows]

    def is_of_directories(self) -> bool:
        """Whether it is an empty directory, or holds nothing but such: a bucket shows nothing. Reads the pages."""
        kinds = {kind for rows in self.pages for kind in rows.kinds}
        return kinds == {"dir"} or (self.is_empty and not kinds)


def directories(system: System) -> Iterator[tuple[System, str]]:
    """The directories above a place, nearest first, each with what comes before the place's keys there."""
    path, location = system.location.path.rstrip("/"), system.location
    while location.parent.path not in ("", location.path):
        location = location.parent
        yield open_system(location), path[len(location.path.rstrip("/")) + 1 :] + "/"


def part_of(system: System) -> Part | None:
    """What the nearest manifest above that knows of this directory says of it; `None` where none does.

    All directories above are asked at once. One that cannot be looked into tells nothing, like one
    whose manifest is damaged.
    """
    for tree, prefix in [found for found in spread(_described, directories(system)) if found is not None]:
        try:
            reader = manifest.read(tree)
            part = None if reader is None else _cut(tree, prefix, reader)
        except DamagedManifestError as error:
            log.warning("%s; %s is treated as one that other tools wrote", error, system.url())
            continue
        except RhError as error:
            log.debug("no manifest of %s: %s", tree.url(), error)
            continue
        if part is not None:
            return part
    return None


def forget_directories(system: System) -> None:
    """Take what is removed, the directory and empty ones below it, out of the manifest above that has them.

    Files stay in it: that they are missing is what `verify` is to tell.
    """
    for tree, prefix in [found for found in spread(_described, directories(system)) if found is not None]:
        if any(len(kept.keys) < len(rows.keys) for rows, kept in _without(tree, prefix)):
            manifest.write(tree, (kept for _, kept in _without(tree, prefix)))
            return


def _without(tree: System, prefix: str) -> Iterator[tuple[Rows, Rows]]:
    """The pages of a manifest, each with what is left of it without the directories that begin with a prefix."""
    for rows in manifest.read(tree) or ():
        stay = [kind != "dir" or not key.startswith(prefix) for key, kind in zip(rows.keys, rows.kinds, strict=True)]
        yield rows, Rows._make(list(compress(column, stay)) for column in rows)


def _described(directory: tuple[System, str]) -> tuple[System, str] | None:
    """The directory, if it has a manifest."""
    system, _ = directory
    try:
        system.head(manifest.NAME)
    except RhError as error:
        log.debug("no manifest of %s: %s", system.url(), error)
        return None
    return directory


def _cut(tree: System, prefix: str, reader: manifest.Reader) -> Part | None:
    """The rows below a prefix; `None` if there is not even one of the directory itself."""
    pages = (rows for rows in (_below(prefix, rows) for rows in reader) if rows.keys)
    first = next(pages, None)
    if first is None:
        return None
    is_empty = not first.keys[0]
    rest = first.cut(1)[1] if is_empty else first
    return Part(tree, is_empty, chain((rest,) if rest.keys else (), pages))


def _below(prefix: str, rows: Rows) -> Rows:
    """Those of these rows whose keys begin with a prefix, which ends with a slash, and without it."""
    start, end = (bisect_left(rows.keys, key_bytes(key), key=key_bytes) for key in (prefix, prefix[:-1] + "0"))
    keys = [key.removeprefix(prefix) for key in rows.keys[start:end]]
    return Rows._make(column[start:end] for column in rows)._replace(keys=keys)
