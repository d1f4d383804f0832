"""The disks of this machine.

* `disk`: keys on a disk: which are possible, how to reach them below the root, how to publish a file.
* `draft`: writing under a temporary name, published in one step.
* `parts`: multipart uploads, and the removal of what crashes left behind.
* `source`: small files of one root, read whole.

Listing:

* `listing`: a directory tree in the order of its keys.
* `looks`: sizes and times of files, looked up in batches.
* `ahead`: directories read before a listing comes to them.

Many files at once:

* `bulk`: read, write, copy and digest many files.
* `pages`: many plain small files, gathered by directory.
* `plain`: the plain case in few steps; what is not plain goes back to the caller.
* `batch`: many small files written and published together.
* `copies`: large files hashed and copied by several threads.
* `helpers`: the helper processes that share this work.

A write goes to a temporary file beside its target and is published by one rename: write → fsync → rename →
fsync(directory). Reading checks that the file did not change meanwhile. Keys are paths below the root, as text
(`os.fsdecode`); links are listed as links, and none is followed across the root.

What a disk cannot do, and what is made of it:

* `Match` compares and replaces under a lock on the directory that every writer of `rh` on this machine takes. A program
  that is not `rh` can still slip in between the comparison and the rename (microseconds). Without locks (some network
  file systems) it is `UnsupportedError`.
* Deleting the last file of a directory leaves the directory, which then is an entry of its own.
* Devices, sockets and pipes are listed as files of size 0 without an etag, so that they are seen and can be excluded;
  reading or copying one is `UnsupportedError`, never nothing.
* Two keys that a case-insensitive or normalising file system takes for one are not told apart here;
  `rh.content.names` refuses them before a transfer.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from typing import ClassVar

from rh.digest import CHUNK
from rh.errors import (
    ConflictError,
    DeadlineError,
    ExistsError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    UnsupportedError,
)
from rh.observe import count
from rh.systems.abilities import WORKERS, Item, Upload, Watch
from rh.systems.base import Body, Bytes, Settings, System
from rh.systems.far.skip import Skip
from rh.systems.local import bulk, parts
from rh.systems.local.disk import (
    Folders,
    Root,
    changed,
    entry_of,
    failure,
    holds,
    readable,
    split,
    through_links,
    translated,
)
from rh.systems.local.draft import Draft, locked
from rh.systems.local.listing import walk
from rh.types import ABSENT, ANY, Condition, Entry, Link, Location, Match, Outcome, Span

__all__ = ["LocalBody", "LocalSystem"]

_PIECE = 1 << 20
_WHOLE = 1 << 30
_HOLE = 1 << 16
_ZEROS = bytes(_PIECE)


class LocalBody(Body):
    """The bytes of an open file, which must still be the same file when the last one was read."""

    def __init__(self, descriptor: int, entry: Entry, at: os.stat_result, span: Span, where: str) -> None:
        self._descriptor = descriptor
        self.entry = entry
        self._at = at
        self._here, self._stop = span
        self._where = where

    def __iter__(self) -> Iterator[Bytes]:
        return self._pieces(_PIECE)

    def read(self) -> bytes:
        pieces = list(self._pieces(_WHOLE))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto(self, buffer: memoryview) -> int:
        if not len(buffer) or (self._here == self._stop and self._descriptor < 0):
            return 0
        if self._descriptor < 0:
            raise InvalidError("this body was closed", where=self._where)
        try:
            count = os.preadv(self._descriptor, [buffer[: self._stop - self._here]], self._here)
        except OSError as error:
            self.close()
            raise failure(error, self._where) from error
        self._here += count
        if not count or self._here == self._stop:
            self._end()
        return count

    def _pieces(self, size: int) -> Iterator[bytes]:
        """What is left, in pieces of so many bytes."""
        if self._descriptor < 0:
            raise InvalidError("this body was read to its end or closed", where=self._where)
        while self._here < self._stop:
            try:
                piece = os.pread(self._descriptor, min(size, self._stop - self._here), self._here)
            except OSError as error:
                self.close()
                raise failure(error, self._where) from error
            if not piece:
                break
            self._here += len(piece)
            yield piece
        self._end()

    def _end(self) -> None:
        """Nothing more comes: that must be all there was."""
        whole = self._here == self._stop and not changed(self._at, os.fstat(self._descriptor))
        self.close()
        if not whole:
            raise ConflictError("the file changed while it was read", where=self._where)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class LocalSystem(System):
    """A directory of this machine."""

    kind: ClassVar[str] = "file"
    takes: ClassVar[frozenset[str] | None] = frozenset()
    keeps_links: ClassVar[bool] = True
    keeps_executable: ClassVar[bool] = True
    keeps_directories: ClassVar[bool] = True

    def __init__(self, location: Location, settings: Settings, *, fence: str | None = None) -> None:
        if not location.path.startswith("/"):
            raise InvalidError("a directory of this machine needs an absolute path", where=location.path)
        if "\0" in location.path:
            raise InvalidError("a path cannot hold a NUL character", where=ascii(location.path))
        self.location = location
        self.settings = settings
        path = location.path.rstrip("/")
        self.root = Root(
            path,
            path if fence is None else fence,
            self.url,
            timeout_s=float(settings.get("timeout_s") or 30.0),
        )
        self._name = location.system

    @classmethod
    def open(cls, location: Location, settings: Settings) -> LocalSystem:
        return cls(location, settings)

    def at(self, path: str) -> LocalSystem:
        path = path.strip("/")
        if not path:
            return self
        split(path, self.url)
        return LocalSystem(self.location / path, self.settings, fence=self.root.fence)

    def close(self) -> None:
        """Nothing is held between calls."""

    # Reading

    def list(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        count(self._name, "list")
        return chain.from_iterable(walk(self.root, prefix, after, depth))

    def list_following(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        """`list` through links, wherever they lead. The etags of what was reached so lead there again."""
        count(self._name, "list")
        return chain.from_iterable(walk(self.root, prefix, after, depth, follow=True))

    def list_pages(
        self, prefix: str = "", *, after: str = "", follow: bool = False, skip: Skip | None = None
    ) -> Iterator[Sequence[Entry]]:
        count(self._name, "list")
        return walk(self.root, prefix, after, None, follow=follow, skip=skip)

    def head(self, key: str) -> Entry:
        count(self._name, "head")
        root = self.root
        parent, name = split(key.removesuffix("/"), self.url)
        try:
            folder = root.folder(parent)
            try:
                at = os.stat(name, dir_fd=folder, follow_symlinks=False)
                target = os.readlink(name, dir_fd=folder) if stat.S_ISLNK(at.st_mode) else None
            finally:
                os.close(folder)
        except OSError as error:
            raise failure(error, self.url(key)) from error
        if key.endswith("/") != stat.S_ISDIR(at.st_mode):
            raise NotFoundError(
                "this is a directory" if key[-1] != "/" else "this is no directory", where=self.url(key)
            )
        return entry_of(key, at, target) if key[-1] != "/" else Entry(key, 0, "dir")

    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:
        parent, name = split(key, self.url)
        where = self.url(key)
        if span is not None and not 0 <= span[0] <= span[1]:
            raise InvalidError(f"not a byte range: {span}", where=where)
        follow = isinstance(when, Match) and through_links(when.etag)
        try:
            folder = self.root.folder(parent, follow=follow)
            try:
                descriptor = self.root.open(folder, name, key, follow=follow)
            finally:
                os.close(folder)
        except OSError as error:
            raise failure(error, where) from error
        try:
            at = os.fstat(descriptor)
            readable(at, where)
            if isinstance(when, Match) and not holds(when.etag, at):
                raise ConflictError("it has changed since it was listed", where=where)
        except BaseException:
            os.close(descriptor)
            raise
        size = at.st_size
        start, stop = (0, size) if span is None else (min(span[0], size), min(span[1], size))
        count(self._name, "read", received=stop - start)
        entry = entry_of(key, at)
        return LocalBody(
            descriptor, entry._replace(etag=when.etag) if isinstance(when, Match) else entry, at, (start, stop), where
        )

    # Writing

    def write(
        self,
        key: str,
        data: Bytes | Iterable[Bytes] | Link,
        *,
        size: int | None = None,
        executable: bool | None = None,
        when: Condition = ANY,
    ) -> Entry:
        where = self.url(key)
        link = data.target if isinstance(data, Link) else None
        sent = 0
        if key.endswith("/"):
            return self._make(key, data, when)
        split(key, self.url)
        with ExitStack() as stack:
            with translated(where):
                draft = stack.enter_context(Draft(self.root, key, executable=bool(executable), link=link))
            if not isinstance(data, Link):
                sent = fill(draft.descriptor, data, size, where)
            with translated(where):
                at = draft.publish(when)
        count(self._name, "write", sent=sent)
        return entry_of(key, at, link)

    def _make(self, key: str, data: Bytes | Iterable[Bytes] | Link, when: Condition) -> Entry:
        """An empty directory."""
        where = self.url(key)
        split(key[:-1], self.url)
        pieces = (data,) if isinstance(data, (bytes, bytearray, memoryview, Link)) else data
        if any(isinstance(piece, Link) or len(piece) for piece in pieces):
            raise InvalidError("a key that ends with / is a directory and has no bytes", where=where)
        if isinstance(when, Match):
            raise UnsupportedError("a directory has no etag to match", where=where)
        made: list[str] = []
        with translated(where):
            os.close(self.root.make(key[:-1], made))
        if when is ABSENT and key[:-1] not in made:
            raise ExistsError("there is a directory already", where=where)
        count(self._name, "write")
        return Entry(key, 0, "dir")

    def delete(self, keys: Sequence[str]) -> None:
        folders = Folders(lambda parent: self.root.folder(parent, lock=True))
        try:
            for key in keys:
                parent, name = split(key.removesuffix("/"), self.url)
                with translated(self.url(key)):
                    try:
                        self._delete(folders[parent], name, key)
                    except (FileNotFoundError, NotADirectoryError):
                        continue
        finally:
            folders.close()
        count(self._name, "delete", requests=len(keys))

    def _delete(self, folder: int, name: str, key: str) -> None:
        with locked(folder, alone=False, timeout_s=self.root.timeout_s, where=self.url(key)):
            if key.endswith("/"):
                try:
                    os.rmdir(name, dir_fd=folder)
                except OSError as error:
                    # A directory with something in it is no entry of its own, so there is nothing to delete.
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                return
            try:
                os.unlink(name, dir_fd=folder)
            except (IsADirectoryError, PermissionError):
                if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise

    # What else a disk can do

    largest: ClassVar[int] = CHUNK

    def read_many(
        self,
        entries: Iterable[Entry],
        *,
        workers: int = WORKERS,  # noqa: ARG002 - two threads make each other wait
    ) -> Iterator[tuple[Entry, bytes | Exception]]:
        return bulk.read_many(self.root, self._name, entries)

    def write_many(
        self,
        items: Iterable[Item],
        *,
        workers: int = WORKERS,  # noqa: ARG002 - two threads make each other wait
    ) -> Iterator[Outcome]:
        return bulk.write_many(self.root, self._name, items)

    def can_copy_from(self, source: System) -> bool:
        return isinstance(source, LocalSystem)

    def copy_many(
        self, source: System, pairs: Iterable[tuple[Entry, str]], *, watch: Watch | None = None
    ) -> Iterator[Outcome]:
        if not isinstance(source, LocalSystem):
            raise UnsupportedError("a disk copies from disks of the same machine only", where=source.url())
        return bulk.copy_many(source.root, self.root, self._name, pairs, watch)

    def digest_many(self, entries: Iterable[Entry]) -> Iterator[Outcome]:
        return bulk.digest_many(self.root, self._name, entries)

    def begin(self, key: str, size: int, *, part_size: int, executable: bool | None = None) -> parts.LocalUpload:
        split(key, self.url)
        return parts.begin(self.root, self._name, key, size, part_size, executable=bool(executable))

    def resume(self, key: str, token: str) -> parts.LocalUpload:
        split(key, self.url)
        return parts.resume(self.root, self._name, key, token)

    def put_stream(self, upload: Upload, number: int, pieces: Iterable[Bytes]) -> str:
        if not isinstance(upload, parts.LocalUpload):
            raise UnsupportedError("a disk takes parts of its own uploads only", where=self.url())
        return upload.put_stream(number, pieces)

    def real_path(self) -> str:
        return os.path.realpath(self.location.path)

    def sweep(self, *, older_than_s: float = 0.0) -> int:
        return parts.sweep(self.root, older_than_s)

    def run(
        self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float | None = None
    ) -> tuple[int, bytes, bytes]:
        """The command's status, output and errors; without `timeout_s` it may take as long as it takes."""
        return run(argv, self.location.path, stdin=stdin, timeout_s=timeout_s)


def fill(descriptor: int, data: Bytes | Iterable[Bytes], size: int | None, where: str) -> int:
    """Write bytes or a stream of them, leaving holes for long runs of zeros. What the stream raises passes as it is."""
    pieces: Iterable[Bytes] = (data,) if isinstance(data, (bytes, bytearray, memoryview)) else data
    sent, hole = 0, False
    for piece in pieces:
        view = memoryview(piece).cast("B")
        sent += len(view)
        if size is not None and sent > size:
            break
        with translated(where):
            while len(view):
                step = view[:_PIECE]
                hole = len(step) >= _HOLE and not step[0] and not step[-1] and bytes(step) == _ZEROS[: len(step)]
                if hole:
                    os.lseek(descriptor, len(step), os.SEEK_CUR)
                    view = view[len(step) :]
                else:
                    view = view[os.write(descriptor, view if len(view) < _HOLE else step) :]
    if size is not None and sent != size:
        raise IntegrityError(
            "the stream is not as long as it was said to be",
            where=where,
            expected=f"{size} bytes",
            got=f"{sent} bytes" + (" or more" if sent > size else ""),
        )
    if hole:
        with translated(where):
            os.ftruncate(descriptor, sent)
    return sent


def run(argv: Sequence[str], folder: str, *, stdin: bytes | None, timeout_s: float | None) -> tuple[int, bytes, bytes]:
    """Run a program in a directory, in a process group of its own that does not outlive the call."""
    if isinstance(argv, (str, bytes)) or not argv:
        raise InvalidError("a command is a list of words, never a line", where=folder)
    words = [os.fspath(word) for word in argv]
    try:
        process = subprocess.Popen(
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        missing = folder if not os.path.isdir(folder) else words[0]
        raise NotFoundError(
            f"there is no {missing!r} to run" if missing != folder else "no such directory", where=folder
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            raise failure(error, f"{folder}: {words[0]}") from error
        raise InvalidError(f"not a command: {error}", where=folder) from error
    with process:
        try:
            out, err = process.communicate(stdin, timeout=timeout_s)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise DeadlineError(f"{words[0]!r} took longer than {timeout_s:g} s", where=folder) from None
            raise
    return process.returncode, out, err
