"""Listing a directory tree in the order of the UTF-8 bytes of its keys.

A directory sorts as its name and a slash, so a walk that sorts each directory is in the order of the whole keys. Memory
is that of the names of the directories on the way down to where the listing is. Entries come in pages, since handing
them on one by one costs as much as finding them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from rh.errors import NotFoundError
from rh.systems.base import HIDDEN
from rh.systems.far.skip import Skip
from rh.systems.local.ahead import Ahead
from rh.systems.local.disk import Root, failure, split
from rh.systems.local.helpers import Helpers
from rh.systems.local.looks import Folder, Job, Run, joined, look_at
from rh.systems.local.plain import in_order
from rh.types import Entry

__all__ = ["walk"]

PAGE = 1_000
_AFTER = 500
"""Files that are worth starting a helper."""


def walk(
    root: Root, prefix: str, after: str, depth: int | None, *, follow: bool = False, skip: Skip | None = None
) -> Iterator[Sequence[Entry]]:
    """Entries as `System.list` promises them, or `Following.list_following`, in pages. Typed errors.

    `skip` tells of a directory that nobody wants to know what is in it.
    """
    base = prefix[: prefix.rfind("/") + 1]
    stem = prefix[len(base) :]
    if base:
        split(base[:-1], root.where)
    top = _top(root, base, follow=follow)
    if top is None:
        return
    if not top.names and base and not stem:
        if os.fsencode(base) > os.fsencode(after):
            yield [Entry(base, 0, "dir")]
        return
    if stem:
        top = top._replace(names=[name for name in top.names if name.startswith(stem)])
    waiting: list[Sequence[Entry]] = []
    count = 0
    with Helpers[Job](root.timeout_s, after=_AFTER) as helpers:
        runs = _runs(root, base, top, os.fsencode(after), depth, Ahead(root, helpers), skip, follow=follow)
        for entries in look_at(root, runs, helpers, follow=follow):
            waiting.append(entries)
            count += len(entries)
            if count >= PAGE:
                yield joined(waiting)
                waiting, count = [], 0
    if count:
        yield joined(waiting)


def _runs(
    root: Root,
    base: str,
    top: Folder,
    after: bytes,
    depth: int | None,
    ahead: Ahead,
    skip: Skip | None,
    *,
    follow: bool,
) -> Iterator[Run | Entry]:
    """What there is, in key order: files by the run, and directories that appear."""
    stack = [_Level(base, top)]
    ahead.enter(_below(base, top, depth, 1, skip, after=after))
    while stack:
        level = stack[-1]
        prefix, folder = level.prefix, level.folder
        flat = depth is not None and len(stack) >= depth
        run: list[str] = []
        if not (after or folder.inner):
            yield from level.rest()
        for name in level.names:
            inner = name[-1] == "/"
            if after:
                raw = os.fsencode(prefix + name)
                if raw > after:
                    after = b""  # what follows is greater still
                elif not inner or flat or not after.startswith(raw):
                    continue
            if not inner:
                run.append(name)
                if len(run) >= PAGE:
                    yield level.run(run)
                    run = []
                continue
            key = prefix + name
            if skip is not None and skip(key):
                continue
            if run:
                yield level.run(run)
                run = []
            if flat:
                yield Entry(key, 0, "dir")
                continue
            odd = folder.through or name in folder.linked
            below = None if after or odd else ahead.take(key)
            if below is None:
                below = _names(root, key, follow=follow, through=odd)
            if below is not None and below.names:
                stack.append(_Level(key, below))
                ahead.enter(_below(key, below, depth, len(stack), skip, after=after))
                break
            if below is not None and not after:
                yield Entry(key, 0, "dir")
        else:
            if run:
                yield level.run(run)
            stack.pop()
            ahead.leave()


class _Level:
    """A directory that the listing is in, and how far it has come there."""

    __slots__ = ("_seen", "folder", "names", "prefix")

    def __init__(self, prefix: str, folder: Folder) -> None:
        self.prefix, self.folder = prefix, folder
        self.names = iter(folder.names)
        self._seen = None if folder.seen is None else iter(folder.seen)

    def run(self, names: list[str]) -> Run:
        """The next files."""
        return Run(
            self.prefix, names, self.folder, None if self._seen is None else list(islice(self._seen, len(names)))
        )

    def rest(self) -> Iterator[Run]:
        """All there is, where that is only files."""
        while names := list(islice(self.names, PAGE)):
            yield self.run(names)


def _below(
    prefix: str, folder: Folder, depth: int | None, level: int, skip: Skip | None, *, after: bytes
) -> Iterable[str]:
    """The plain directories in one that the listing is going into, and will go into as well."""
    if after or folder.through or not folder.inner or (depth is not None and level >= depth):
        return ()
    keys = (prefix + name for name in folder.names if name[-1] == "/" and name not in folder.linked)
    return keys if skip is None else (key for key in keys if not skip(key))


def _top(root: Root, base: str, *, follow: bool) -> Folder | None:
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


def _names(root: Root, base: str, *, follow: bool, through: bool, root_must_exist: bool = False) -> Folder | None:
    """What is in a directory; `None` if it is not there (any more)."""
    linked: set[str] = set()
    try:
        with os.scandir(f"{root.path}/{base}") as found:
            members = list(found)
        names = [one.name for one in members if one.is_file(follow_symlinks=False)]
        inner = False
        for one in members if len(names) < len(members) else ():
            if one.is_file(follow_symlinks=False):
                continue
            name = one.name
            link = follow and one.is_symlink()
            if _is_dir(one, follow=follow) and not (link and _leads_up(root, base, one)):
                name += "/"
                inner = True
            names.append(name)
            if link:
                linked.add(name)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not root_must_exist:
            return None
        is_file = isinstance(error, NotADirectoryError)
        raise NotFoundError(
            "this is a file, not a directory" if is_file else "there is no such directory", where=root.where("")
        ) from error
    except OSError as error:
        raise failure(error, root.where(base)) from error
    names = in_order(name for name in names if not name.startswith(HIDDEN))
    return Folder(names, linked, through, inner)


def _is_dir(one: os.DirEntry[str], *, follow: bool) -> bool:
    """Whether it is a directory. A link that cannot be followed is none."""
    try:
        return one.is_dir(follow_symlinks=follow)
    except OSError:
        if not one.is_symlink():
            raise
        return False


def _leads_up(root: Root, base: str, link: os.DirEntry[str]) -> bool:
    """Whether a link leads to a directory that it lies in, by the way that the listing came."""
    path = root.path or "/"
    try:
        found = link.stat()
        for step in ("", *base.split("/")):
            path = f"{path}/{step}" if step else path
            if os.path.samestat(os.stat(path), found):
                return True
    except OSError:
        return False  # something has gone since, as whoever goes there will find
    return False
