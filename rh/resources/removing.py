"""Removing what a folder holds: only keys below it, and only those named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from rh.content import above
from rh.errors import InvalidError, NotFoundError, RhError, UnsupportedError
from rh.observe import log
from rh.resources import places
from rh.systems import open_system
from rh.systems.abilities import Sweeping
from rh.systems.base import DESCRIBING, System

if TYPE_CHECKING:
    from rh.resources.folder import Folder

__all__ = ["remove", "sweep"]

_BATCH = 1000


def remove(folder: Folder, names: Sequence[str], *, whole: bool, recursive: bool) -> None:
    """`Folder.rm`: the whole folder, or the files and directories named."""
    if whole and not recursive:
        raise InvalidError(
            "rm() without names would remove the whole folder",
            where=folder.url,
            hint="rm(recursive=True), if that is meant",
        )
    system = folder.handle()
    if whole:
        _remove_whole(folder, system)
        _forget(system)
        return
    for name in names:
        places.check_key(name)
    files, trees = _sorted_out(system, names, recursive=recursive)
    system.delete(files)
    for tree in trees:
        _remove_tree(system, tree)
        _forget(open_system(system.location / tree.rstrip("/")))


def _forget(system: System) -> None:
    """Let no manifest above keep directories of what is removed, where nothing else does."""
    if system.keeps_directories:
        return
    try:
        above.forget_directories(system)
    except RhError as error:
        # What was asked for is done; all that stays is what a copy of the tree makes as empty directories.
        log.warning("the manifest above %s still has its empty directories: %s", system.url(), error)


def _sorted_out(system: System, names: Iterable[str], *, recursive: bool) -> tuple[list[str], list[str]]:
    """Which names are files and which are directories. Raises before anything is removed."""
    files, trees = [], []
    for name in names:
        is_tree = name.endswith("/")
        if not is_tree:
            try:
                system.head(name)
                files.append(name)
                if not recursive:
                    continue
                is_tree = _holds_something(system, name + "/")
            except NotFoundError as error:
                if not _holds_something(system, name + "/"):
                    raise NotFoundError("there is no such file", where=system.url(name)) from error
                if not recursive:
                    raise InvalidError(
                        f"{name!r} is a directory",
                        where=system.url(name),
                        hint=f"rm({name + '/'!r}), or recursive=True",
                    ) from None
                is_tree = True
            if is_tree:
                trees.append(name + "/")
        elif _holds_something(system, name):
            trees.append(name)
        else:
            raise NotFoundError("there is no such directory", where=system.url(name))
    return files, trees


def _holds_something(system: System, prefix: str) -> bool:
    return next(iter(system.list(prefix, depth=1)), None) is not None


def _remove_whole(folder: Folder, system: System) -> None:
    path = folder.location.path.rstrip("/")
    parent, name = folder.parent()
    if parent is None or path in ("", "~"):
        raise InvalidError(
            "this is the root of a disk, a home or a bucket, which rm() does not remove",
            where=folder.url,
            hint="name the files and directories that are to go",
        )
    if not folder.exists_in_system():
        raise folder.missing()
    _remove_tree(system, "")
    sweeping = system.ask(Sweeping)
    if sweeping is not None:
        try:
            sweeping.sweep()
        except UnsupportedError as error:
            log.debug("%s: %s", folder.url, error.message)  # nobody will ever know of any there
        except RhError as error:
            # What was asked for is done; unfinished uploads are invisible and can be swept at any time.
            log.warning("unfinished uploads below %s could not be swept: %s", folder.url, error)
    if parent.keeps_directories:
        parent.delete([f"{name}/"])


def _remove_tree(system: System, prefix: str) -> None:
    """Remove what lies below `prefix` and what we wrote there to describe it, then the directories, deepest first."""
    directories = {prefix} if prefix else set()
    for keys in _batches(entry.key for entry in system.list(prefix)):
        for key in keys:
            at = key.rfind("/", 0, len(key) - 1)
            while at >= len(prefix) and key[: at + 1] not in directories:
                directories.add(key[: at + 1])
                at = key.rfind("/", 0, at)
            if key.endswith("/"):
                directories.add(key)
        system.delete(keys)
    for keys in _batches(directory + name for directory in {*directories, prefix} for name in DESCRIBING):
        system.delete(keys)
    if system.keeps_directories:
        for keys in _batches(sorted(directories, key=lambda key: (-key.count("/"), key))):
            system.delete(keys)


def _batches(keys: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(keys)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def sweep(folder: Folder, older_than_s: float) -> int:
    """`Folder.sweep`."""
    from rh.tables import store
    from rh.transfer.journal import Journal

    system = folder.handle()
    sweeping = system.ask(Sweeping)
    if sweeping is None:
        if folder.version is not None:
            from rh.versions.system import immutable

            raise immutable(folder.url)
        raise UnsupportedError("this place cannot be swept", where=folder.url)
    if system.keeps_directories and not folder.exists_in_system():  # in a bucket, parts of uploads are in no directory
        raise folder.missing()
    count = sweeping.sweep(older_than_s=older_than_s)
    left = [entry.key for entry in store.debris(system, older_than_s=older_than_s)]
    system.delete(left)
    count += len(left)
    Journal.sweep()
    return count
