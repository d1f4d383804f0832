"""Calls of the operating system that write, flush and lock, with what file systems refuse; and when to stop writing.

This module runs on the far side: standard library only, Python 3.7 or newer.
"""

from __future__ import annotations

import errno
import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rh.systems.far.wire import Buffer


_nobody: list[bool] = []


def nobody_listens() -> None:
    """Whoever asked is gone: from now on this process writes, publishes and sends nothing more."""
    _nobody.append(True)


def still_wanted() -> None:
    """Raise EOFError when nobody listens any more.

    What is done after that may undo what was done since, by somebody who was told that it did not happen.
    """
    if _nobody:
        raise EOFError("the other side is gone")


def write_all(file: int, data: Buffer) -> None:
    """Write all of `data`, unless nobody listens any more."""
    still_wanted()
    done = os.write(file, data)
    if done < len(data):
        view = memoryview(data)
        while done < len(data):
            done += os.write(file, view[done:])


def write_all_at(file: int, data: memoryview, at: int) -> None:
    """The same, at an offset in bytes."""
    still_wanted()
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], at + done)


def lock(fd: int) -> int:
    """Keep other writers of ours from publishing into a directory; -1 where the file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError:
        return -1
    return fd


def unlock(fd: int) -> None:
    """The end of `lock`."""
    if fd >= 0:
        fcntl.flock(fd, fcntl.LOCK_UN)


def sync(fd: int) -> None:
    """Flush a directory, where the file system can."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS, errno.EOPNOTSUPP):
            raise


_libc: Any = None


def sync_file_system(fd: int) -> bool:
    """Flush the file system a descriptor is on; False where there is no such call."""
    global _libc  # noqa: PLW0603 - loaded once, when first needed
    if _libc is None:
        try:
            import ctypes

            _libc = ctypes.CDLL(None, use_errno=True)
            _libc.syncfs  # noqa: B018 - does it exist?
        except (ImportError, OSError, AttributeError):
            _libc = False
    if not _libc:
        return False
    import ctypes

    if _libc.syncfs(fd) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code))
