"""Writing on a disk: under a temporary name first, published in one step.

The order is always the same: write → fsync → rename → fsync(directory). What may be replaced is decided at the rename.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import itertools
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Self

from rh.errors import ConflictError, DeadlineError, ExistsError, UnsupportedError
from rh.systems.local.disk import TEMP, Root, etag_of
from rh.types import ABSENT, Condition, Match

__all__ = ["TRIES", "Draft", "create", "locked", "mode_for", "publish", "remove", "temp"]

TRIES = 20
"""How often to make a directory that others remove."""

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ids = itertools.count()


def _salt() -> str:
    return f"{TEMP}{os.getpid():x}-{os.urandom(4).hex()}-"


_prefix = _salt()


def _after_fork() -> None:
    global _prefix  # noqa: PLW0603  (the counter goes on in both processes, so the names must differ otherwise)
    _prefix = _salt()


os.register_at_fork(after_in_child=_after_fork)


def temp() -> str:
    """A name nobody else uses, in this process, a forked one, or on another machine of a shared disk."""
    return f"{_prefix}{next(_ids):x}"


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


def publish(root: Root, folder: int, old: str, key: str, when: Condition) -> None:
    """Give a finished temporary file its name. OSError, or the precondition's error; then nothing has changed."""
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
    return os.rename(old, name, src_dir_fd=folder, dst_dir_fd=folder)


def mode_for(folder: int, name: str, *, executable: bool) -> int | None:
    """The permissions a new file takes over from the one it replaces; `None` if there is none."""
    try:
        at = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    if not stat.S_ISREG(at.st_mode):
        return None
    mode = at.st_mode & 0o666
    return mode | (mode & 0o444) >> 2 if executable else mode


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


def create(name: str, folder: int, mode: int | None, *, executable: bool) -> int:
    """Create a file that must not exist, for writing: with these permissions from the first, or the usual ones."""
    if mode is None:
        return os.open(name, _CREATE, 0o777 if executable else 0o666, dir_fd=folder)
    descriptor = os.open(name, _CREATE, mode, dir_fd=folder)
    os.fchmod(descriptor, mode)
    return descriptor


def remove(folder: int, names: Sequence[str]) -> None:
    """Unlink names; missing ones are fine."""
    for name in names:
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass
