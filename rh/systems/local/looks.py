"""Looking at files by the run, in order: here, and for large directories by a helper process as well."""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from rh.systems.local import plain
from rh.systems.local.disk import THROUGH, Root, entry_of, etag_of, failure, real_path
from rh.systems.local.helpers import Helpers
from rh.types import Entry, Files

if TYPE_CHECKING:
    from rh.systems.local.plain import Seen

__all__ = ["TOGETHER", "Folder", "Job", "Run", "joined", "look_at"]

TOGETHER = 256
"""Files that are looked at by one job."""
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
    seen: list[Seen] | None = None
    """What its files are, in order, where they were looked at already."""


class Run(NamedTuple):
    """Neighbours in one directory that are no directories; `prefix` is the directory's key with its slash."""

    prefix: str
    names: list[str]
    folder: Folder
    seen: list[Seen] | None = None
    """What they are, where they were looked at already."""


class Job(ABC):
    """What a helper may be given by a listing."""

    @abstractmethod
    def take(self, answer: Sequence[Any] | None) -> None:
        """Make use of the answer; `None` if there is none."""


@dataclass(slots=True, eq=False)
class _Group(Job):
    """What is looked at together, in order; `entries` when that is done."""

    root: Root
    follow: bool
    runs: list[Run | Entry] = field(default_factory=list)
    files: int = 0
    unseen: int = 0
    entries: Sequence[Entry] | None = None

    def add(self, run: Run | Entry) -> None:
        self.runs.append(run)
        if isinstance(run, Entry):
            self.files += 1
            return
        self.files += len(run.names)
        if run.seen is None:
            self.unseen += len(run.names)

    def take(self, answer: Sequence[Any] | None) -> None:
        if self.entries is None and answer is not None:
            self.entries = _entries(self.root, self.runs, answer, follow=self.follow)

    def done(self) -> Sequence[Entry]:
        """What is at its place in the order. Rather than wait for a helper that is late, its work is done again."""
        if self.entries is None:
            self.entries = _entries(self.root, self.runs, (), follow=self.follow)
        return self.entries


def look_at(
    root: Root, runs: Iterable[Run | Entry], helpers: Helpers[Job], *, follow: bool
) -> Iterator[Sequence[Entry]]:
    """The entries of runs, in order. What was deleted meanwhile is passed over. Typed errors."""
    group = _Group(root, follow)
    waiting: deque[_Group] = deque()
    for run in runs:
        group.add(run)
        if group.files < TOGETHER:
            continue
        waiting.append(group)
        asked = _asked(root, group.runs) if group.unseen and helpers.have_room(group.unseen) else None
        if asked is None:
            group.done()
        else:
            helpers.give(group, asked)
        group = _Group(root, follow)
        for job, answer in helpers.answers(wait=False):
            job.take(answer)
        while waiting and (waiting[0].entries is not None or len(waiting) > _WAITING):
            yield waiting.popleft().done()
    waiting.append(group)
    while waiting:
        yield waiting.popleft().done()


def _asked(root: Root, runs: Iterable[Run | Entry]) -> list[Any] | None:
    """What helpers are asked of runs that were not seen; `None` if those are not plain enough."""
    pages = []
    for run in runs:
        if isinstance(run, Entry) or run.seen is not None:
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
        pages.append(("look", [reached], list(map(os.fsencode, run.names))))
    return pages


def _entries(root: Root, runs: Iterable[Run | Entry], answer: Iterable[Any], *, follow: bool) -> Sequence[Entry]:
    """The entries of runs. Those that were not seen are told by the answer, and if they are not, looked at here."""
    found: list[Sequence[Entry]] = []
    answers = iter(answer)
    for run in runs:
        if isinstance(run, Entry):
            found.append((run,))
            continue
        prefix, names, folder, seen = run
        told: Sequence[Any] | None = seen or next(answers, None) or _plainly(root, run)
        if told is None:
            found.append(_looked_at(root, run, follow=follow))
        elif None not in told:
            found.append(_files(prefix, names, told))
        else:
            for name, one in zip(names, told, strict=True):
                if one is None:
                    found.append(_looked_at(root, Run(prefix, [name], folder), follow=follow))
                else:
                    found.append(_files(prefix, [name], [one]))
    return joined(found)


def _plainly(root: Root, run: Run) -> list[Seen | None] | None:
    """What files are, as a helper would tell it; `None` where links are followed, or the directory is gone."""
    if run.folder.through or run.folder.linked:
        return None
    try:
        descriptor = os.open(f"{root.path}/{run.prefix}", _DIRECTORY)
    except OSError:
        return None
    try:
        return plain.looks(descriptor, run.names)
    finally:
        os.close(descriptor)


def _files(prefix: str, names: Sequence[str], seen: Sequence[Seen]) -> Files:
    sizes, etags, modified, executables = map(list, zip(*seen, strict=True))
    return Files([prefix + name for name in names], sizes, etags, modified, executables)


def joined(parts: Sequence[Sequence[Entry]]) -> Sequence[Entry]:
    """All of them, by column if all are."""
    some = [part for part in parts if part]
    if len(some) == 1:
        return some[0]
    files = [part for part in some if isinstance(part, Files)]
    return Files.of(files) if files and len(files) == len(some) else list(chain.from_iterable(some))


def _looked_at(root: Root, run: Run, *, follow: bool) -> list[Entry]:
    prefix, names, folder, _ = run
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
                if stat.S_ISDIR(at.st_mode):  # a link to a directory that it lies in is not followed
                    at = look(name, dir_fd=descriptor, follow_symlinks=False)
            except OSError as error:
                found += _not_followed(root, prefix + name, error, follow=follow)
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


def _not_followed(root: Root, key: str, error: OSError, *, follow: bool) -> list[Entry]:
    """A link that cannot be followed, as the link that it is; nothing of what was deleted since."""
    with suppress(FileNotFoundError):
        path = root.at(key)
        at = os.lstat(path)
        if follow and stat.S_ISLNK(at.st_mode):
            return [entry_of(key, at, os.readlink(path))]
        if error.errno != errno.ENOENT:
            raise failure(error, root.where(key)) from error
    return []
