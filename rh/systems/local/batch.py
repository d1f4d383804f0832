"""Many small files written on a disk and published together.

All bytes are written, then made durable at once, then every file gets its name, then the directories are made durable.
At once means `syncfs(2)`, which waits for what others wrote to that file system as well; it takes the time of a few
single `fsync(2)`. A directory that does not exist yet is made under a name of ours, with everything in it under its own
name, and appears whole by one rename; where somebody else made it meanwhile, the files are moved there one by one.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

from rh.errors import RhError
from rh.observe import count
from rh.systems.base import Bytes
from rh.systems.local.disk import Root, entry_of, failure, real_path, split, temp, translated
from rh.systems.local.draft import TRIES, locked, remove, rename_folder
from rh.systems.local.plain import create, mode_for
from rh.types import Entry, Link, Outcome

if TYPE_CHECKING:
    from rh.systems.local.plain import Copied, Reached

__all__ = ["Batch", "Place"]

_FILES = 4000
_FOLDERS = 256
_BYTES = 1 << 26
_FEW = 8


class _Staged(NamedTuple):
    """A file that is written. `name` is what it is called until it is published."""

    key: str
    name: str
    inode: int
    digest: str | None
    entry: Entry


@dataclass(slots=True, eq=False)
class Place:
    """A directory that is written in.

    Attributes:
        top: the directory with a name of ours that it is in, or is, if it did not exist.
        staged: what is written.
        expected: names of what somebody is writing just now.
    """

    parent: str
    descriptor: int
    path: str
    top: str | None
    staged: list[_Staged] = field(default_factory=list)
    expected: list[Sequence[str]] = field(default_factory=list)

    def reached(self) -> Reached:
        """How another process finds it."""
        at = os.fstat(self.descriptor)
        return real_path(self.descriptor, self.path), at.st_dev, at.st_ino

    def stage(self, key: str, name: str, copied: Copied) -> None:
        """Note a file that `plain.copies` wrote."""
        inode, size, etag, modified, executable, digest = copied
        entry = Entry(key, size, "file", etag, modified, None, executable)
        self.staged.append(_Staged(key, name, inode, digest, entry))


class Batch:
    """Files that are written, to be published together."""

    def __init__(self, root: Root, system: str) -> None:
        self._root = root
        self._system = system
        self._places: dict[str, Place] = {}
        self._hidden: dict[str, str] = {}
        self._fresh: list[str] = []
        self._keys: set[str] = set()
        self._bytes = 0
        self._made: set[str] = set()
        self._kept: set[str] = set()
        self._lost: set[str] = set()
        self._named: set[str] = set()
        self._writing: tuple[str, ...] = ()
        """A temporary name that may be there by now; an interruption comes when it likes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            for top in self._hidden:
                shutil.rmtree(self._at(top, top), ignore_errors=True)
            for place in self._places.values():
                if place.top is None:
                    self._discard(place, [one.name for one in place.staged])
                    self._discard(place, self._writing)
                    for names in place.expected:
                        self._discard(place, names)
        finally:
            self._leave()
            made = {one for parent in self._lost for one in _above(parent)} & (self._made - self._kept)
            for key in sorted(made, reverse=True):
                with suppress(OSError):
                    os.rmdir(self._root.at(key))

    def _discard(self, place: Place, names: Iterable[str]) -> None:
        with suppress(OSError):
            remove(place.descriptor, names)

    def _leave(self) -> None:
        """Let go of the places, and remove the directories that have names of ours."""
        while self._places:
            os.close(self._places.popitem()[1].descriptor)
        self._prune()
        self._hidden.clear()
        self._fresh.clear()
        self._named.clear()
        self._keys.clear()
        self._bytes = 0

    def _prune(self) -> None:
        """Remove the directories with names of ours that are empty."""
        for key in reversed(self._fresh):
            top = self._top(key)
            if top is not None:
                with suppress(OSError):
                    os.rmdir(self._at(key, top))

    def lost(self, key: str, made: Iterable[str] = ()) -> None:
        """Remember that nothing came of a key, so that no directory stays that was made for it alone."""
        self._made.update(made)
        self._lost.add(key.rpartition("/")[0])

    @property
    def full(self) -> bool:
        return len(self._keys) >= _FILES or self._bytes >= _BYTES or len(self._places) >= _FOLDERS

    def stands_in_the_way(self, key: str) -> bool:
        """Whether a file that waits for its name is in the path of this key, or is the same; then publish first."""
        if key in self._keys:
            return True
        parent = key.rpartition("/")[0]
        return bool(parent) and parent not in self._places and any(one in self._keys for one in _above(parent))

    def _top(self, key: str) -> str | None:
        return next((one for one in _above(key) if one in self._hidden), None)

    def _at(self, key: str, top: str) -> str:
        """The path of a directory that is, or lies in, one with a name of ours."""
        return self._root.at("/".join((*top.split("/")[:-1], self._hidden[top]))) + key[len(top) :]

    def place(self, parent: str) -> Place:
        """The directory that keys with this parent go to. OSError, NameClashError."""
        found = self._places.get(parent)
        if found is None:
            descriptor, path = self._root.make_hidden(parent, self._hidden, self._fresh)
            top = None if path == self._root.at(parent) else self._top(parent)
            found = self._places[parent] = Place(parent, descriptor, path, top)
        return found

    def folder(self, key: str) -> Entry:
        """Make a directory. Typed errors."""
        path = key.removesuffix("/")
        split(path, self._root.where)
        made: list[str] = []
        with translated(self._root.where(key)):
            os.close(self._root.make(path, made, durable=False))
        self._named.update(one.rpartition("/")[0] for one in made)
        self._made.update(made)
        self._kept.update(_above(path))
        return Entry(key, 0, "dir")

    def claim(self, key: str, size: int) -> None:
        """Say that a key is being written."""
        self._keys.add(key)
        self._bytes += size

    def add(self, key: str, data: Bytes | Link, *, executable: bool, digest: str | None) -> None:
        """Write one file or link. Typed errors; then nothing is left of this one."""
        parent, name = split(key, self._root.where)
        try:
            for attempt in range(TRIES):
                try:
                    place = self.place(parent)
                    staged = self._write(place, name, key, data, digest, executable=executable)
                    break
                except FileNotFoundError:
                    # A writer that failed may take away the directory it had made between our opening and using it.
                    if attempt == TRIES - 1:
                        raise
                    self._again(parent)
        except OSError as error:
            self._lost.add(parent)
            raise failure(error, self._root.where(key)) from error
        place.staged.append(staged)
        if key not in self._keys:
            self.claim(key, staged.entry.size)

    def _again(self, parent: str) -> None:
        """Make a directory anew that somebody took away under us."""
        place = self._places.get(parent)
        if place is not None and place.top is None:
            made: list[str] = []
            descriptor = self._root.make(parent, made, durable=False)
            os.close(place.descriptor)
            place.descriptor = descriptor
            self._made.update(made)
            self._named.update(one.rpartition("/")[0] for one in made)

    def _write(
        self, place: Place, name: str, key: str, data: Bytes | Link, digest: str | None, *, executable: bool
    ) -> _Staged:
        folder = place.descriptor
        unfinished = temp() if place.top is None else name
        self._writing = (unfinished,)
        if isinstance(data, Link):
            os.symlink(data.target, unfinished, dir_fd=folder)
            at = os.stat(unfinished, dir_fd=folder, follow_symlinks=False)
            return _Staged(key, unfinished, at.st_ino, None, entry_of(key, at, data.target))
        mode = mode_for(folder, name, executable=executable) if place.top is None else None
        descriptor = create(unfinished, folder, mode, executable=executable)
        try:
            done = os.write(descriptor, data)
            while done < len(data):
                done += os.write(descriptor, memoryview(data).cast("B")[done:])
            at = os.fstat(descriptor)
        except BaseException:
            remove(folder, [unfinished])
            raise
        finally:
            os.close(descriptor)
        return _Staged(key, unfinished, at.st_ino, digest, entry_of(key, at))

    def publish(self) -> Iterator[Outcome]:
        """Make all of it durable, give each file its name, make that durable. One outcome each; nothing is expected."""
        staged = [one for place in self._places.values() for one in place.staged]
        if not staged and not self._named:
            return
        try:
            self._prune()
            self._sync_files(len(staged))
            outcomes = list(self._name_all())
            self._sync_folders()
        except (OSError, RhError) as error:
            typed = failure(error, self._root.where("")) if isinstance(error, OSError) else error
            outcomes = [Outcome(one.key, error=typed) for one in staged]
        if staged:
            count(self._system, "write", requests=len(staged), sent=sum(one.entry.size for one in staged))
        failed = {outcome.key for outcome in outcomes if outcome.error}
        for place in self._places.values() if failed else ():
            self._discard(place, [one.name for one in place.staged if one.key in failed])
        self._lost.update(key.rpartition("/")[0] for key in failed)
        self._leave()
        yield from outcomes

    def _sync_files(self, files: int) -> None:
        sync = _syncfs()
        if sync is not None and files > _FEW:
            # One commit for all instead of one for each; any directory may be on a disk of its own.
            disks = {os.fstat(place.descriptor).st_dev: place.descriptor for place in self._places.values()}
            for descriptor in disks.values():
                sync(descriptor)
            return
        for place in self._places.values():
            for one in place.staged:
                if one.entry.kind == "file":
                    _fsync(one.name, os.O_RDONLY | os.O_NOFOLLOW, place.descriptor)
        for key in self._fresh:
            top = self._top(key)
            if top is not None:
                with suppress(FileNotFoundError):  # removed, because nothing came into it
                    _fsync(self._at(key, top), os.O_RDONLY | os.O_DIRECTORY)

    def _sync_folders(self) -> None:
        sync = _syncfs()
        paths = [self._root.at(parent) for parent in sorted(self._named)]
        if sync is not None and len(paths) > _FEW:
            paths = list({os.stat(path).st_dev: path for path in paths}.values())
        for path in paths:
            _fsync(path, os.O_RDONLY | os.O_DIRECTORY, flush=sync if len(self._named) > _FEW else None)

    def _name_all(self) -> Iterator[Outcome]:
        """Let all of it appear: new directories whole, before anything that may want to stand in their place."""
        appeared = {top for top in self._hidden if self._appear(top)}
        for place in self._places.values():
            if place.top is None:
                self._named.add(place.parent)
                yield from self._name(place.descriptor, place.descriptor, place.staged)
            elif place.top in appeared:
                yield from (Outcome(one.key, one.entry, None, one.digest) for one in place.staged)
            else:
                yield from self._move(place)
        for top in appeared:
            del self._hidden[top]

    def _appear(self, top: str) -> bool:
        """Give a directory its name, unless something has it."""
        parent, _, name = top.rpartition("/")
        try:
            above = self._root.folder(parent)
            try:
                rename_folder(above, self._hidden[top], name)
            finally:
                os.close(above)
        except (OSError, RhError):
            return False  # each file will say why, unless it can be moved there
        self._named.add(parent)
        return True

    def _move(self, place: Place) -> Iterator[Outcome]:
        """Give the files of a directory with a name of ours their names in the one that somebody else made."""
        made: list[str] = []
        try:
            there = self._root.make(place.parent, made, durable=False)
        except (OSError, RhError) as error:
            typed = failure(error, self._root.where(place.parent)) if isinstance(error, OSError) else error
            yield from (Outcome(one.key, error=typed) for one in place.staged)
            return
        self._named.update((place.parent, *(one.rpartition("/")[0] for one in made)))
        self._made.update(made)
        try:
            yield from self._name(place.descriptor, there, place.staged)
        finally:
            os.close(there)

    def _name(self, source: int, target: int, staged: list[_Staged]) -> Iterator[Outcome]:
        if not staged:
            return
        where = self._root.where
        with locked(target, alone=False, timeout_s=self._root.timeout_s, where=where(staged[0].key)):
            for one in staged:
                name = one.key.rpartition("/")[2]
                try:
                    os.rename(one.name, name, src_dir_fd=source, dst_dir_fd=target)
                    at = os.stat(name, dir_fd=target, follow_symlinks=False)
                except OSError as error:
                    yield Outcome(one.key, error=failure(error, where(one.key)))
                    continue
                if at.st_ino == one.inode:
                    yield Outcome(one.key, entry_of(one.key, at, one.entry.target), None, one.digest)
                else:
                    # Somebody has replaced it already: ours was published, and its etag is not known any more.
                    yield Outcome(one.key, Entry(one.key, one.entry.size), None, one.digest)


def _above(key: str) -> list[str]:
    """The key and every directory above it."""
    steps = key.split("/")
    return ["/".join(steps[: n + 1]) for n in range(len(steps))]


def _fsync(path: str, flags: int, folder: int | None = None, *, flush: Callable[[int], None] | None = None) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC, dir_fd=folder)
    try:
        (flush or os.fsync)(descriptor)
    finally:
        os.close(descriptor)


@functools.cache
def _syncfs() -> Callable[[int], None] | None:
    """`syncfs(2)`, raising OSError; `None` where there is none."""
    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None

    def sync(descriptor: int) -> None:
        if function(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return sync
