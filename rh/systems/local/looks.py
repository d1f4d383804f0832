"""Looking at files by the run, in order: here, and for large trees by a helper process as well."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rh.errors import InvalidError, NotFoundError
from rh.systems.local.disk import THROUGH, Root, entry_of, etag_of, failure, real_path
from rh.systems.local.helpers import Helpers
from rh.types import Entry

__all__ = ["Folder", "Run", "look_at"]

_TOGETHER = 256
_AFTER = 500
"""Files that are worth starting a helper."""
_WAITING = 8
"""Groups that may be ahead of one that a helper has."""
_TYPE, _FILE = 0o170000, stat.S_IFREG
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Folder(NamedTuple):
    """Sorted names in a directory, with a slash after those of directories.

    `linked` are those of links, where links are followed; `through` says that a link led to the directory itself;
    `inner` says whether there are directories.
    """

    names: list[str]
    linked: frozenset[str] | set[str]
    through: bool
    inner: bool


class Run(NamedTuple):
    """Neighbours in one directory that are no directories; `prefix` is the directory's key with its slash."""

    prefix: str
    names: list[str]
    folder: Folder


@dataclass(slots=True, eq=False)
class _Group:
    """What is looked at together, in order; `entries` when that is done."""

    runs: list[Run | Entry] = field(default_factory=list)
    files: int = 0
    entries: list[Entry] | None = None

    def take(self, run: Run | Entry) -> None:
        self.runs.append(run)
        self.files += len(run.names) if isinstance(run, Run) else 1


def look_at(root: Root, runs: Iterable[Run | Entry], *, follow: bool) -> Iterator[list[Entry]]:
    """The entries of runs, in order. What was deleted meanwhile is passed over. Typed errors."""
    group = _Group()
    waiting: deque[_Group] = deque()
    with Helpers[_Group](root.timeout_s, after=_AFTER) as helpers:
        for run in runs:
            group.take(run)
            if group.files < _TOGETHER:
                continue
            waiting.append(group)
            told = _told(root, group) if helpers.have_room(group.files) else None
            if told is None:
                group.entries = _here(root, group, follow=follow)
            else:
                helpers.give(group, told)
            group = _Group()
            for answered, answer in helpers.answers(wait=False):
                if answered.entries is None and answer is not None:
                    answered.entries = _taken(root, answered, answer, follow=follow)
            while waiting and (waiting[0].entries is not None or len(waiting) > _WAITING):
                yield _entries(root, waiting.popleft(), follow=follow)
        waiting.append(group)
        while waiting:
            yield _entries(root, waiting.popleft(), follow=follow)


def _entries(root: Root, group: _Group, *, follow: bool) -> list[Entry]:
    """What is at a group's place in the order. Rather than wait for a helper that is late, its work is done again."""
    if group.entries is None:
        group.entries = _here(root, group, follow=follow)
    return group.entries


def _told(root: Root, group: _Group) -> list[Any] | None:
    """A group as helpers take it; `None` if it is not plain enough."""
    pages = []
    for run in group.runs:
        if isinstance(run, Entry):
            continue
        if run.folder.through or run.folder.linked:
            return None
        path = f"{root.path}/{run.prefix}"
        try:
            descriptor = os.open(path, _DIRECTORY)
        except OSError:
            return None
        try:
            at = os.fstat(descriptor)
            reached = real_path(descriptor, path), at.st_dev, at.st_ino
        finally:
            os.close(descriptor)
        pages.append((reached, os.fsencode("\0".join(run.names)), None, (), ()))
    return pages


def _taken(root: Root, group: _Group, answer: Sequence[Any], *, follow: bool) -> list[Entry]:
    """The entries of a group a helper has looked at; what was not plain there is looked at here."""
    new = tuple.__new__  # an `Entry` at half the price: it is made once for every file there is
    found: list[Entry] = []
    answers = iter(answer)
    for run in group.runs:
        if isinstance(run, Entry):
            found.append(run)
            continue
        prefix, names, folder = run
        every = next(answers)
        if None not in every:
            found += [
                new(Entry, (prefix + name, size, "file", etag, modified, None, executable, None))
                for name, (size, etag, modified, executable) in zip(names, every, strict=True)
            ]
            continue
        for name, seen in zip(names, every, strict=True):
            if seen is None:
                found += _looked_at(root, Run(prefix, [name], folder), follow=follow)
            else:
                size, etag, modified, executable = seen
                found.append(new(Entry, (prefix + name, size, "file", etag, modified, None, executable, None)))
    return found


def _here(root: Root, group: _Group, *, follow: bool) -> list[Entry]:
    found: list[Entry] = []
    for run in group.runs:
        if isinstance(run, Entry):
            found.append(run)
        else:
            found += _looked_at(root, run, follow=follow)
    return found


def _looked_at(root: Root, run: Run, *, follow: bool) -> list[Entry]:
    prefix, names, folder = run
    new = tuple.__new__
    odd = folder.through or folder.linked
    look = os.stat
    found: list[Entry] = []
    try:
        descriptor = os.open(f"{root.path}/{prefix}", _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        raise failure(error, root.where(prefix)) from error
    try:
        for name in names:
            try:
                at = look(name, dir_fd=descriptor, follow_symlinks=follow)
            except OSError as error:
                _vanished(root, prefix + name, error, follow=follow)
                continue
            mode = at.st_mode
            if mode & _TYPE == _FILE:
                etag = etag_of(at)
                if odd and (folder.through or name in folder.linked):
                    etag = THROUGH + etag
                executable = mode & 0o100 != 0
                found.append(new(Entry, (prefix + name, at.st_size, "file", etag, at.st_mtime, None, executable, None)))
            elif stat.S_ISLNK(mode):
                with suppress(FileNotFoundError):
                    found.append(entry_of(prefix + name, at, os.readlink(name, dir_fd=descriptor)))
            else:
                found.append(entry_of(prefix + name, at))
    finally:
        os.close(descriptor)
    return found


def _vanished(root: Root, key: str, error: OSError, *, follow: bool) -> None:
    """Pass over what was deleted since its directory was read; raise what is anything else."""
    hint = 'exclude it, or links="keep" or links="skip"'
    if follow and error.errno == errno.ELOOP:
        raise InvalidError("a link that leads back to itself", where=root.where(key), hint=hint) from error
    if not isinstance(error, FileNotFoundError):
        raise failure(error, root.where(key)) from error
    if follow and os.path.islink(root.at(key)):
        raise NotFoundError("a link that leads to nothing", where=root.where(key), hint=hint) from error
