"""Writing on a disk: under a temporary name first, published in one step.

The order is always the same: write → fsync → rename → fsync(directory). What may be replaced is decided at the rename.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from rh.errors import ConflictError, DeadlineError, ExistsError, NameClashError, UnsupportedError
from rh.systems.local.disk import Root, etag_of, temp
from rh.systems.local.plain import create, mode_for
from rh.types import ABSENT, Condition, Match

__all__ = ["TRIES", "Draft", "locked", "publish", "remove", "rename_folder"]

TRIES = 20
"""How often to make a directory that others remove."""


@contextmanager
def locked(folder: int, *, alone: bool, timeout_s: float, where: str) -> Iterator[None]:
    """Hold the directory's lock: shared by those who publish whatever is there, alone by who compares first."""
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    until = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(folder, kind | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > until:
                raise DeadlineError(f"the directory is locked by somebody for {timeout_s:g} s", where=where) from None
            time.sleep(0.0005)
        except OSError as error:
            if alone:
                raise UnsupportedError(
                    f"a file system without locks cannot compare and replace in one step: {error.strerror}",
                    where=where,
                ) from error
            yield
            return
    try:
        yield
    finally:
        # Closing is not enough: a child forked meanwhile holds the same open file, and with it the lock.
        fcntl.flock(folder, fcntl.LOCK_UN)


_NOREPLACE = 1


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function


def _rename_new(folder: int, old: str, new: str, where: str) -> None:
    """Give a file its name unless the name is taken (FileExistsError), in one step."""
    call = _renameat2()
    if call is not None:
        if call(folder, os.fsencode(old), folder, os.fsencode(new), _NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code))
    try:
        os.link(old, new, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise UnsupportedError("this file system cannot create a file only if it is absent", where=where) from error
        raise
    os.unlink(old, dir_fd=folder)


def rename_folder(above: int, old: str, new: str) -> None:
    """Give a directory its name, unless that is taken (FileExistsError, or another OSError where it cannot be told)."""
    call = _renameat2()
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(above, os.fsencode(old), above, os.fsencode(new), _NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def publish(root: Root, folder: int, old: str, key: str, when: Condition) -> None:
    """Give a finished temporary file its name, that of no pipe, socket or device.

    OSError, NameClashError or the precondition's error; then nothing has changed.
    """
    where = root.where(key)
    with locked(folder, alone=isinstance(when, Match), timeout_s=root.timeout_s, where=where):
        try:
            _publish(folder, old, key.rpartition("/")[2], when, where)
        except FileNotFoundError:
            raise ConflictError("somebody removed the unfinished file before it was published", where=where) from None


def _publish(folder: int, old: str, name: str, when: Condition, where: str) -> None:
    if when is ABSENT:
        try:
            return _rename_new(folder, old, name, where)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise
            raise ExistsError("there is something already", where=where) from None
    if isinstance(when, Match):
        try:
            at = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            raise ConflictError("it is gone", where=where) from None
        if etag_of(at) != when.etag:
            raise ConflictError("it has changed since", where=where)
    elif _is_special(name, folder):
        raise NameClashError(
            "a pipe, socket or device stands where a file is to be",
            where=where,
            hint="choose another target",
        )
    return os.rename(old, name, src_dir_fd=folder, dst_dir_fd=folder)


def _is_special(name: str, folder: int) -> bool:
    """Whether it is a pipe, socket or device, whose users would write to a file that took its place."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    return stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


class Draft:
    """A file (or link) that is being written under a temporary name beside its target.

    Leaving the block without `publish` removes it, and the directories that were made for it or names them in `made`.
    OSError, NameClashError.
    """

    def __init__(
        self,
        root: Root,
        key: str,
        *,
        executable: bool = False,
        link: str | None = None,
        made: list[str] | None = None,
    ) -> None:
        self._root = root
        self._key = key
        self._made: list[str] = []
        self._tell = made
        self.descriptor = -1
        self.temp = temp()
        self.published = False
        parent = key.rpartition("/")[0]
        for attempt in range(TRIES):
            self.folder = -1
            try:
                self.folder = root.make(parent, self._made)
                if link is None:
                    name = key.rpartition("/")[2]
                    mode = mode_for(self.folder, name, executable=executable)
                    self.descriptor = create(self.temp, self.folder, mode, executable=executable)
                else:
                    os.symlink(link, self.temp, dir_fd=self.folder)
                return
            except BaseException as error:
                if self.folder >= 0:
                    with suppress(OSError):  # there is none, unless we were interrupted
                        remove(self.folder, [self.temp])
                    os.close(self.folder)
                # A writer that failed may take away the directory it had made between our opening and using it.
                if not isinstance(error, FileNotFoundError) or attempt == TRIES - 1:
                    self._unmake()
                    raise

    def publish(self, when: Condition) -> os.stat_result:
        """Make it durable, give it its name, make that durable."""
        name = self._key.rpartition("/")[2]
        if self.descriptor >= 0:
            os.fsync(self.descriptor)
        publish(self._root, self.folder, self.temp, self._key, when)
        self.published = True
        os.fsync(self.folder)
        if self.descriptor >= 0:
            return os.fstat(self.descriptor)
        return os.stat(name, dir_fd=self.folder, follow_symlinks=False)

    def _unmake(self) -> None:
        if self._tell is not None:
            self._tell.extend(self._made)
            return
        for key in reversed(self._made):
            try:
                os.rmdir(self._root.at(key))
            except OSError:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            if not self.published:
                with suppress(OSError):  # what went wrong before is what has to be told
                    remove(self.folder, [self.temp])
                self._unmake()
        finally:
            os.close(self.folder)
            if self.descriptor >= 0:
                os.close(self.descriptor)


def remove(folder: int, names: Iterable[str]) -> None:
    """Unlink names; missing ones are fine."""
    for name in names:
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass
