"""Listing a directory tree in the order of the UTF-8 bytes of its keys.

A directory sorts as its name and a slash, so a walk that sorts each directory is in the order of the whole keys. Memory
is that of the names of the directories on the way down to where the listing is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from rh.errors import InvalidError, NotFoundError
from rh.systems.base import HIDDEN
from rh.systems.local.disk import THROUGH, Root, entry_of, etag_of, failure, split
from rh.types import Entry

__all__ = ["walk"]


def walk(root: Root, prefix: str, after: str, depth: int | None, *, follow: bool = False) -> Iterator[Entry]:
    """Entries as `System.list` promises them, or `Following.list_following`. Typed errors."""
    base = prefix[: prefix.rfind("/") + 1]
    stem = prefix[len(base) :]
    if base:
        split(base[:-1], root.where)
    top = _top(root, base, follow=follow)
    if top is None:
        return
    if not top.names and base and not stem:
        if os.fsencode(base) > os.fsencode(after):
            yield Entry(base, 0, "dir")
        return
    if stem:
        top = top._replace(names=[name for name in top.names if name.startswith(stem)])
    yield from _walk(root, base, top, os.fsencode(after), depth, follow=follow)


class _Folder(NamedTuple):
    """Sorted names in a directory, with a slash after those of directories.

    `linked` are those of links, where links are followed; `through` says that a link led to the directory itself.
    """

    names: list[str]
    linked: frozenset[str] | set[str]
    through: bool


def _walk(root: Root, base: str, top: _Folder, after: bytes, depth: int | None, *, follow: bool) -> Iterator[Entry]:
    look = os.stat if follow else os.lstat
    above = _identities(root, base) if follow else []
    stack = [(base, top, iter(top.names))]
    while stack:
        prefix, folder, names = stack[-1]
        here = f"{root.path}/{prefix}"
        flat = depth is not None and len(stack) >= depth
        for name in names:
            key = prefix + name
            inner = name[-1] == "/"
            if after:
                raw = os.fsencode(key)
                if raw > after:
                    after = b""  # what follows is greater still
                elif not inner or flat or not after.startswith(raw):
                    continue
            if not inner:
                try:
                    at = look(here + name)
                except OSError as error:
                    _vanished(root, key, error, follow=follow)
                    continue
                mode = at.st_mode
                if stat.S_ISREG(mode):
                    etag = THROUGH + etag_of(at) if folder.through or name in folder.linked else etag_of(at)
                    yield Entry(key, at.st_size, "file", etag, at.st_mtime, None, mode & 0o100 != 0)
                elif stat.S_ISLNK(mode):
                    try:
                        yield entry_of(key, at, os.readlink(here + name))
                    except FileNotFoundError:
                        continue
                else:
                    yield entry_of(key, at)
            elif flat:
                yield Entry(key, 0, "dir")
            else:
                below = _names(root, key, follow=follow, through=folder.through or name in folder.linked)
                if below is not None and follow:
                    above.append(_identity(root, key, above))
                if below is not None and below.names:
                    stack.append((key, below, iter(below.names)))
                    break
                if below is not None and not after:
                    yield Entry(key, 0, "dir")
                if below is not None and follow:
                    above.pop()
        else:
            stack.pop()
            if above:
                above.pop()


def _vanished(root: Root, key: str, error: OSError, *, follow: bool) -> None:
    """Pass over what was deleted since its directory was read; raise what is anything else."""
    if not isinstance(error, FileNotFoundError):
        raise failure(error, root.where(key)) from error
    if follow and os.path.islink(root.at(key)):
        raise NotFoundError("a link that leads to nothing", where=root.where(key)) from error


def _top(root: Root, base: str, *, follow: bool) -> _Folder | None:
    """What is in the directory `base`, or `None` if no listing of the root would go there. The root must exist."""
    top = _names(root, "", follow=follow, through=False, root_must_exist=True)
    if not base:
        return top
    path, through = root.path, False
    for step in base[:-1].split("/"):
        path = f"{path}/{step}"
        through = through or os.path.islink(path)
        if step.startswith(HIDDEN) or (through and not follow):
            return None
    return _names(root, base, follow=follow, through=through)


def _names(root: Root, base: str, *, follow: bool, through: bool, root_must_exist: bool = False) -> _Folder | None:
    """What is in a directory; `None` if it is not there (any more)."""
    linked: set[str] = set()
    try:
        with os.scandir(f"{root.path}/{base}") as found:
            if follow:
                names = []
                for one in found:
                    if not one.name.startswith(HIDDEN):
                        names.append(one.name + "/" if one.is_dir() else one.name)
                        if one.is_symlink():
                            linked.add(names[-1])
            else:
                names = [
                    one.name + "/" if one.is_dir(follow_symlinks=False) else one.name
                    for one in found
                    if not one.name.startswith(HIDDEN)
                ]
    except (FileNotFoundError, NotADirectoryError) as error:
        if not root_must_exist:
            return None
        is_file = isinstance(error, NotADirectoryError)
        raise NotFoundError(
            "this is a file, not a directory" if is_file else "there is no such directory", where=root.where("")
        ) from error
    except OSError as error:
        raise failure(error, root.where(base)) from error
    # Code points and UTF-8 bytes sort alike, except for the surrogates that stand for bytes that are no text.
    names.sort(key=None if "".join(names).isascii() else os.fsencode)
    return _Folder(names, linked, through)


def _identity(root: Root, key: str, above: list[tuple[int, int]]) -> tuple[int, int]:
    try:
        at = os.stat(root.at(key))
    except OSError as error:
        raise failure(error, root.where(key)) from error
    if (at.st_dev, at.st_ino) in above:
        raise InvalidError(
            "a link that leads back to a directory above it, so following it never ends",
            where=root.where(key.rstrip("/")),
            hint="exclude it, or keep links as links",
        )
    return at.st_dev, at.st_ino


def _identities(root: Root, base: str) -> list[tuple[int, int]]:
    """Identities of the root and every directory down to `base`."""
    found: list[tuple[int, int]] = []
    steps = base.split("/")
    for n in range(len(steps)):
        found.append(_identity(root, "/".join(steps[:n]), found))
    return found
