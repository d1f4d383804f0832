"""Many files at once on a disk: read, write, copy and digest.

Small files go through one thread, since two make each other wait in one interpreter; what is larger than a mebibyte
goes to as many threads as there are cores, and what is larger than 64 MiB is cut into chunks for them. Writes
are published in batches: all bytes are written, then made durable at once, then every file gets its name, then the
directories are made durable. At once means `syncfs(2)`, which waits for what others wrote to that file system as well;
it takes the time of a few single `fsync(2)`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple, Self

from rh.digest import CHUNK, of_bytes
from rh.errors import ConflictError, InvalidError, RhError
from rh.observe import count
from rh.systems.abilities import Item
from rh.systems.base import Bytes
from rh.systems.local.copies import Crew, copy_one, digest_one
from rh.systems.local.disk import (
    Folders,
    Root,
    changed,
    entry_now,
    entry_of,
    etag_of,
    failure,
    holds,
    readable,
    split,
    through_links,
    translated,
)
from rh.systems.local.draft import TRIES, create, locked, mode_for, remove, temp
from rh.types import Entry, Link, Outcome

__all__ = ["copy_many", "digest_many", "read_many", "write_many"]

_SMALL = 1 << 20
_FILES = 1000
_FOLDERS = 64
_BYTES = 1 << 26
_FEW = 8
_sha256 = hashlib.sha256


class Source:
    """Small files of one root, read whole through descriptors of their directories."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._folders = Folders(root.folder)
        self._followed = Folders(lambda parent: root.folder(parent, follow=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._folders.close()
        self._followed.close()

    def read(self, entry: Entry) -> tuple[bytes, os.stat_result]:
        """The bytes of an entry and the state of its file after they were read. Typed errors.

        The etag was taken before, so when it still holds after the reading, nothing happened in between.
        """
        key = entry.key
        follow = through_links(entry.etag)
        try:
            folder, name = (self._followed if follow else self._folders).locate(key, self._root.where)
            descriptor = self._root.open(folder, name, key, follow=follow)
            try:
                before = None
                if entry.etag is None:
                    before = os.fstat(descriptor)
                    readable(before, self._root.where(key))
                data = _whole(descriptor, entry.size)
                at = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            if isinstance(error, IsADirectoryError):
                readable(os.stat(self._root.at(key)), self._root.where(key))
            raise failure(error, self._root.where(key)) from error
        if entry.etag is not None:
            if etag_of(at) != entry.etag and not holds(entry.etag, at):
                raise ConflictError("it has changed since it was listed", where=self._root.where(key))
        elif before is None or changed(before, at):
            raise ConflictError("the file changed while it was read", where=self._root.where(key))
        return data, at

    def target(self, entry: Entry) -> str:
        """Where a link points to."""
        parent, name = split(entry.key, self._root.where)
        with translated(self._root.where(entry.key)):
            folder = self._folders[parent]
            if entry.etag is not None and etag_of(os.stat(name, dir_fd=folder, follow_symlinks=False)) != entry.etag:
                raise ConflictError("it has changed since it was listed", where=self._root.where(entry.key))
            return os.readlink(name, dir_fd=folder)


def _whole(descriptor: int, size: int) -> bytes:
    """Everything in a file that should have `size` bytes."""
    data = os.read(descriptor, size + 1)
    if len(data) == size:
        return data  # a regular file gives less than it is asked for only at its end
    pieces = [data]
    while pieces[-1]:
        pieces.append(os.read(descriptor, _SMALL))
    return b"".join(pieces)


class _Staged(NamedTuple):
    key: str
    temp: str
    inode: int
    target: str | None
    digest: str | None
    size: int


class Batch:
    """Files that are written under temporary names, to be published together."""

    def __init__(self, root: Root, system: str) -> None:
        self._root = root
        self._system = system
        self._made: list[str] = []
        self._kept: set[str] = set()
        self._new: set[str] = set()
        self._folders = Folders(lambda parent: root.make(parent, self._made, durable=False), most=1 << 30)
        self._staged: dict[str, list[_Staged]] = {}
        self._keys: set[str] = set()
        self._bytes = 0
        self._lost: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            for parent, staged in self._staged.items():
                remove(self._folders[parent], [one.temp for one in staged])
                self._lost.add(parent)
        finally:
            self._folders.close()
            made = {one for parent in self._lost for one in _above(parent)} & (self._new - self._kept)
            for key in sorted(made, reverse=True):
                with suppress(OSError):
                    os.rmdir(self._root.at(key))

    def lost(self, key: str, made: Iterable[str] = ()) -> None:
        """Remember that nothing came of a key, so that no directory stays that was made for it alone."""
        self._new.update(made)
        self._lost.add(key.rpartition("/")[0])

    @property
    def full(self) -> bool:
        return len(self._keys) >= _FILES or self._bytes >= _BYTES or len(self._folders) >= _FOLDERS

    def stands_in_the_way(self, key: str) -> bool:
        """Whether a file that waits for its name is in the path of this key, or is the same; then publish first."""
        if key in self._keys:
            return True
        parent = key.rpartition("/")[0]
        return bool(parent) and parent not in self._folders and any(one in self._keys for one in _above(parent))

    def folder(self, key: str) -> Entry:
        """Make a directory. Typed errors."""
        path = key.removesuffix("/")
        split(path, self._root.where)
        with translated(self._root.where(key)):
            made: list[str] = []
            os.close(self._root.make(path, made, durable=False))
        self._made += made
        self._new.update(made)
        self._kept.update(_above(path))
        return Entry(key, 0, "dir")

    def add(self, key: str, data: Bytes | Link, *, executable: bool, digest: str | None) -> None:
        """Write under a temporary name. Typed errors; then nothing is left of this one."""
        parent, name = split(key, self._root.where)
        try:
            for attempt in range(TRIES):
                try:
                    staged = self._write(parent, name, key, data, digest, executable=executable)
                    break
                except FileNotFoundError:
                    # A writer that failed may take away the directory it had made between our opening and using it.
                    if attempt == TRIES - 1:
                        raise
                    self._folders.drop(parent)
        except OSError as error:
            self.lost(key)
            raise failure(error, self._root.where(key)) from error
        self._staged.setdefault(parent, []).append(staged)
        self._keys.add(key)
        self._bytes += staged.size

    def _write(
        self, parent: str, name: str, key: str, data: Bytes | Link, digest: str | None, *, executable: bool
    ) -> _Staged:
        made = len(self._made)
        folder = self._folders[parent]
        self._new.update(self._made[made:])
        unfinished = temp()
        if isinstance(data, Link):
            os.symlink(data.target, unfinished, dir_fd=folder)
            return _Staged(key, unfinished, 0, data.target, None, len(os.fsencode(data.target)))
        mode = None if parent in self._new else mode_for(folder, name, executable=executable)
        descriptor = create(unfinished, folder, mode, executable=executable)
        try:
            done = os.write(descriptor, data)
            while done < len(data):
                done += os.write(descriptor, memoryview(data).cast("B")[done:])
            inode = os.fstat(descriptor).st_ino
        except BaseException:
            remove(folder, [unfinished])
            raise
        finally:
            os.close(descriptor)
        return _Staged(key, unfinished, inode, None, digest, len(data))

    def publish(self) -> Iterator[Outcome]:
        """Make all of it durable, give each file its name, make that durable. One outcome each."""
        if not self._staged:
            return
        outcomes: list[Outcome] = []
        try:
            self._sync_files()
            for parent, staged in self._staged.items():
                outcomes.extend(self._name(self._folders[parent], staged))
            self._sync_folders()
        except (OSError, RhError) as error:
            typed = failure(error, self._root.where("")) if isinstance(error, OSError) else error
            outcomes = [Outcome(one.key, error=typed) for staged in self._staged.values() for one in staged]
        count(self._system, "write", requests=len(self._keys), sent=self._bytes)
        failed = {outcome.key for outcome in outcomes if outcome.error}
        for parent, staged in self._staged.items() if failed else ():
            remove(self._folders[parent], [one.temp for one in staged if one.key in failed])
            self._lost.add(parent)
        self._staged.clear()
        self._keys.clear()
        self._made.clear()
        self._bytes = 0
        self._folders.close()
        yield from outcomes

    def _sync_files(self) -> None:
        sync = _syncfs()
        if sync is not None and len(self._keys) > _FEW:
            # One commit for all instead of one for each; any directory may be on a disk of its own.
            for folder in {os.fstat(folder).st_dev: folder for _, folder in self._folders.items()}.values():
                sync(folder)
            return
        for parent, staged in self._staged.items():
            for one in staged:
                if one.target is None:
                    _fsync(one.temp, os.O_RDONLY | os.O_NOFOLLOW, self._folders[parent])
        for above in {key.rpartition("/")[0] for key in self._made}:
            _fsync(self._root.at(above), os.O_RDONLY | os.O_DIRECTORY)

    def _sync_folders(self) -> None:
        sync = _syncfs()
        if sync is not None and len(self._staged) > _FEW:
            for folder in {os.fstat(folder).st_dev: folder for _, folder in self._folders.items()}.values():
                sync(folder)
            return
        for parent in self._staged:
            os.fsync(self._folders[parent])

    def _name(self, folder: int, staged: list[_Staged]) -> Iterator[Outcome]:
        where = self._root.where
        with locked(folder, alone=False, timeout_s=self._root.timeout_s, where=where(staged[0].key)):
            for one in staged:
                name = one.key.rpartition("/")[2]
                try:
                    os.rename(one.temp, name, src_dir_fd=folder, dst_dir_fd=folder)
                    at = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except OSError as error:
                    yield Outcome(one.key, error=failure(error, where(one.key)))
                    continue
                if at.st_ino == one.inode or one.target is not None:
                    yield Outcome(one.key, entry_of(one.key, at, one.target), None, one.digest)
                else:
                    # Somebody has replaced it already: ours was published, and its etag is not known any more.
                    yield Outcome(one.key, Entry(one.key, one.size), None, one.digest)


def _above(key: str) -> list[str]:
    """The key and every directory above it."""
    steps = key.split("/")
    return ["/".join(steps[: n + 1]) for n in range(len(steps))]


def _fsync(path: str, flags: int, folder: int | None = None) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(descriptor)
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


def digest_of(data: bytes) -> tuple[str, bytes]:
    """The digest of a file's bytes, and its chunks; a small file has grown since it was listed if there are any."""
    if len(data) <= CHUNK:
        return f"sha256:{_sha256(data).hexdigest()}", b""
    found = of_bytes(data)
    return found.text, found.chunks


def read_many(root: Root, system: str, entries: Iterable[Entry]) -> Iterator[tuple[Entry, bytes | Exception]]:
    """`Bulk.read_many`."""
    files = size = 0
    try:
        with Source(root) as source:
            for entry in entries:
                try:
                    data = source.read(entry)[0]
                except RhError as error:
                    yield entry, error
                    continue
                files += 1
                size += len(data)
                yield entry, data
    finally:
        count(system, "read", requests=files, received=size)


def write_many(root: Root, system: str, items: Iterable[Item]) -> Iterator[Outcome]:
    """`Bulk.write_many`."""
    with Batch(root, system) as batch:
        for key, data, executable in items:
            if batch.full or batch.stands_in_the_way(key):
                yield from batch.publish()
            try:
                if key.endswith("/"):
                    if isinstance(data, Link) or len(data):
                        raise InvalidError(
                            "a key that ends with / is a directory and has no bytes", where=root.where(key)
                        )
                    yield Outcome(key, batch.folder(key))
                else:
                    batch.add(key, data, executable=bool(executable), digest=None)
            except RhError as error:
                yield Outcome(key, error=error)
        yield from batch.publish()


def copy_many(source_root: Root, root: Root, system: str, pairs: Iterable[tuple[Entry, str]]) -> Iterator[Outcome]:
    """`ServerCopy.copy_many`: digests are of the very bytes that were written."""
    with Source(source_root) as source, Batch(root, system) as batch, Crew() as crew:
        for entry, key in pairs:
            if batch.full or batch.stands_in_the_way(key):
                yield from batch.publish()
            try:
                if entry.kind == "dir":
                    yield Outcome(key, batch.folder(key))
                elif entry.kind == "link":
                    batch.add(key, Link(source.target(entry)), executable=False, digest=None)
                elif entry.size > _SMALL:
                    split(key, root.where)
                    yield from crew.give(copy_one, source_root, entry, root, key, system, batch.lost, size=entry.size)
                else:
                    data, at = source.read(entry)
                    batch.add(key, data, executable=at.st_mode & 0o100 != 0, digest=digest_of(data)[0])
            except RhError as error:
                yield Outcome(key, error=error)
        yield from batch.publish()
        yield from crew.rest()


def digest_many(root: Root, system: str, entries: Iterable[Entry]) -> Iterator[Outcome]:
    """`Digesting.digest_many`."""
    files = 0
    with Source(root) as source, Crew() as crew:
        for entry in entries:
            files += 1
            key = entry.key
            try:
                if entry.kind != "file":
                    raise InvalidError(f"a {entry.kind} has no bytes", where=root.where(key))
                if entry.size > _SMALL:
                    split(key, root.where)
                    yield from crew.give(digest_one, root, entry, size=entry.size)
                    continue
                try:
                    data, at = source.read(entry)
                    now = entry if entry.etag is not None else entry_of(key, at)
                except ConflictError:
                    data, at = source.read(entry._replace(etag=None))
                    now = entry_now(entry, at)
                found, chunks = digest_of(data)
                yield Outcome(key, now, None, found, chunks)
            except RhError as error:
                yield Outcome(key, error=error)
        yield from crew.rest()
    count(system, "digest", requests=files)
