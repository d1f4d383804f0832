"""Uploads in parts on a disk, and the collection of what crashes left behind.

The parts go to their places in a temporary file beside the target; a second file, one line for each part that is
safely on the disk, tells another process how far it came.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence

from rh.errors import ConflictError, FullError, IntegrityError, InvalidError, NotFoundError
from rh.observe import count
from rh.systems.base import Bytes
from rh.systems.local.disk import TEMP, Root, entry_of, failure, translated
from rh.systems.local.draft import Draft, publish, remove
from rh.systems.local.plain import create, mode_for
from rh.types import ANY, Condition, Entry

__all__ = ["LocalUpload", "begin", "resume", "sweep"]

_TOKEN = re.compile(r"(\.rh-tmp-[0-9a-f-]+) ([0-9]+) ([0-9]+) ([01])")
_LOG = ".parts"
_WRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalUpload:
    """A file arriving in parts. Holds nothing open between calls."""

    def __init__(self, root: Root, system: str, key: str, token: str) -> None:
        match = _TOKEN.fullmatch(token)
        self._where = root.where(key)
        if match is None:
            raise InvalidError("not a token of an upload", where=self._where)
        self.token = token
        self._temp = match.group(1)
        self._size, self.part_size, self._executable = int(match.group(2)), int(match.group(3)), match.group(4) == "1"
        self._root, self._system, self._key = root, system, key

    def _open(self, suffix: str = "", flags: int = _WRITE) -> int:
        try:
            folder = self._root.folder(self._key.rpartition("/")[0])
            try:
                return os.open(self._temp + suffix, flags, dir_fd=folder)
            finally:
                os.close(folder)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError("this upload is gone", where=self._where) from None
        except OSError as error:
            raise failure(error, self._where) from error

    def put(self, number: int, data: Bytes) -> str:
        want = self._length(number)
        if len(data) != want:
            raise InvalidError(f"part {number} has {len(data)} bytes, not {want}", where=self._where)
        return self.put_stream(number, (data,))

    def put_stream(self, number: int, pieces: Iterable[Bytes]) -> str:
        """`Streaming.put_stream`."""
        want, start = self._length(number), number * self.part_size
        tag = os.urandom(8).hex()
        descriptor, at = self._open(), start
        try:
            for piece in pieces:
                view = memoryview(piece).cast("B")
                if at + len(view) > start + want:
                    at += len(view)
                    break
                with translated(self._where):
                    while len(view):
                        done = os.pwrite(descriptor, view, at)
                        view, at = view[done:], at + done
            if at != start + want:
                raise IntegrityError(
                    f"part {number} is not as long as it has to be",
                    where=self._where,
                    expected=f"{want} bytes",
                    got=f"{at - start} bytes",
                )
            with translated(self._where):
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        log = self._open(_LOG, _WRITE | os.O_APPEND)
        try:
            with translated(self._where):
                os.write(log, f"{number} {tag}\n".encode())
        finally:
            os.close(log)
        count(self._system, "part", sent=want)
        return tag

    def _length(self, number: int) -> int:
        """Bytes of a part."""
        if not 0 <= number < max(1, -(-self._size // self.part_size)):
            raise InvalidError(f"there is no part {number}", where=self._where)
        return min(self.part_size, self._size - number * self.part_size)

    def check(self) -> None:
        """Raise `NotFoundError` unless it can go on. One that was just finished may have left its log."""
        try:
            os.close(self._open())
        except NotFoundError:
            self.abort()
            raise
        os.close(self._open(_LOG))

    def parts(self) -> dict[int, str]:
        descriptor = self._open(_LOG, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, encoding="ascii") as log:
            lines = [line.split() for line in log if line.endswith("\n")]
        return {int(number): tag for number, tag in sorted(lines, key=lambda line: int(line[0]))}

    def finish(self, tags: Sequence[str], *, when: Condition = ANY) -> Entry:
        have = self.parts()
        if list(tags) != [have.get(number) for number in range(max(1, -(-self._size // self.part_size)))]:
            raise ConflictError("the parts that arrived are not the ones named", where=self._where)
        descriptor = self._open()
        try:
            with translated(self._where):
                folder = self._root.make(self._key.rpartition("/")[0])
                try:
                    mode = mode_for(folder, self._key.rpartition("/")[2], executable=self._executable)
                    if mode is not None:
                        os.fchmod(descriptor, mode)
                    os.fsync(descriptor)
                    publish(self._root, folder, self._temp, self._key, when)
                    remove(folder, [self._temp + _LOG])
                    os.fsync(folder)
                    entry = entry_of(self._key, os.fstat(descriptor))
                finally:
                    os.close(folder)
        finally:
            os.close(descriptor)
        count(self._system, "finish")
        return entry

    def abort(self) -> None:
        with translated(self._where):
            try:
                folder = self._root.folder(self._key.rpartition("/")[0])
            except (FileNotFoundError, NotADirectoryError):
                return
            try:
                remove(folder, [self._temp, self._temp + _LOG])
            finally:
                os.close(folder)


def begin(root: Root, system: str, key: str, size: int, part_size: int, *, executable: bool) -> LocalUpload:
    """Start an upload: a file of the whole size, with nothing in it, and an empty log."""
    where = root.where(key)
    if part_size <= 0 or size < 0:
        raise InvalidError("an upload needs a size and a positive part size", where=where)
    with translated(where), Draft(root, key, executable=executable) as draft:
        space = os.fstatvfs(draft.folder)
        if (free := space.f_bavail * space.f_frsize) < size:
            raise FullError(f"{size:,} bytes are needed, and {free:,} are free", where=where, hint="make room there")
        os.ftruncate(draft.descriptor, size)
        os.close(create(draft.temp + _LOG, draft.folder, None, executable=False))
        draft.published = True  # from here on it belongs to the upload
    count(system, "begin")
    return LocalUpload(root, system, key, f"{draft.temp} {size} {part_size} {int(executable)}")


def resume(root: Root, system: str, key: str, token: str) -> LocalUpload:
    """Go on with an upload."""
    upload = LocalUpload(root, system, key, token)
    upload.check()
    return upload


def sweep(root: Root, older_than_s: float) -> int:
    """Remove files and directories with names of ours that nobody touched for so long. Links are not followed."""
    oldest = time.time() - older_than_s if older_than_s > 0 else None
    swept = 0
    folders = [root.path or "/"]
    while folders:
        path = folders.pop()
        try:
            with os.scandir(path) as found:
                mine = []
                for one in found:
                    if one.name.startswith(TEMP):
                        mine.append(one)
                    elif one.is_dir(follow_symlinks=False):
                        folders.append(one.path)
            swept += sum(_sweep(one, oldest) for one in mine)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise failure(error, path) from error
    return swept


def _sweep(one: os.DirEntry[str], oldest: float | None) -> bool:
    """Remove something unfinished; whether it was that, and not just the log of one."""
    try:
        if oldest is not None and one.stat(follow_symlinks=False).st_mtime >= oldest:
            return False
        if one.is_dir(follow_symlinks=False):
            shutil.rmtree(one.path)
        else:
            os.unlink(one.path)
    except FileNotFoundError:
        return False
    return not one.name.endswith(_LOG)
