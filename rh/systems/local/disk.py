"""Keys on a disk: which are possible, how to reach them without leaving the root, how to publish a file.

Everything goes through descriptors of directories that were checked after they were opened, so a link that is
swapped in meanwhile changes nothing. Nothing here is held open between calls.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rh.digest import contradict
from rh.errors import (
    AccessError,
    FullError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnavailableError,
    UnsupportedError,
)
from rh.systems.base import HIDDEN, LEAVE_OUT
from rh.systems.local.plain import READ
from rh.types import Entry

__all__ = [
    "TEMP",
    "THROUGH",
    "Folders",
    "Root",
    "changed",
    "entry_now",
    "entry_of",
    "etag_of",
    "expect",
    "failure",
    "holds",
    "readable",
    "real_path",
    "split",
    "temp",
    "through_links",
    "translated",
]

TEMP = HIDDEN + "tmp-"
"""How the names of unfinished files begin."""

THROUGH = "~"
"""Before the etag of what was listed through a link."""

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


_PATH = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", 0)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PARTS = re.compile(r"(?:\A|/)\.{0,2}(?:/|\Z)|\0").search
_DOTS = frozenset({"", ".", ".."})


def _user() -> str:
    """Who this process is, as errors name it."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"the user {os.geteuid()}"


def failure(error: OSError, where: str) -> RhError:
    """The error of ours that an error of the operating system is."""
    if isinstance(error, RhError):
        return error
    code = error.errno
    text = error.strerror or str(error)
    if code in (errno.ENOENT, errno.ENOTDIR):
        return NotFoundError("nothing is there", where=where)
    if code in (errno.EACCES, errno.EPERM):
        return AccessError(f"not allowed: {text}", where=where, hint=f"{_user()} needs a right to it; or leave it out")
    if code == errno.EROFS:
        return AccessError("the file system is read-only", where=where)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return FullError(f"no room left: {text}", where=where, hint="make room there")
    if code in (errno.ENAMETOOLONG, errno.EILSEQ):
        return NameClashError(f"the disk cannot hold this name: {text}", where=where)
    if code == errno.ELOOP:
        return NameClashError("a link stands where a file or directory must be", where=where)
    if code in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
        return NameClashError("a directory stands under this key", where=where)
    if code in (errno.ENXIO, errno.ENODEV):
        return UnsupportedError("a socket or device is no data", where=where, hint=LEAVE_OUT)
    if code in (errno.EOPNOTSUPP, errno.EFBIG, errno.ENOSYS):
        return UnsupportedError(f"the disk cannot do this: {text}", where=where)
    if code in (
        errno.EIO,
        errno.ESTALE,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ETIMEDOUT,
    ):
        return UnavailableError(f"the disk did not answer: {text}", where=where)
    return RhError(text, where=where)


def split(key: str, where: Callable[[str], str]) -> tuple[str, str]:
    """Parent and name of a key that a disk can hold; else `NameClashError` (empty: `InvalidError`)."""
    if _PARTS(key):
        if not key:
            raise InvalidError("an empty key names nothing", where=where(""))
        if "\0" in key:
            raise NameClashError("a key cannot hold a NUL character on a disk", where=where(ascii(key)))
        raise NameClashError("a key with an empty, '.' or '..' component has no place on a disk", where=where(key))
    parent, _, name = key.rpartition("/")
    if not key.isascii():
        try:
            os.fsencode(key)
        except UnicodeEncodeError as error:
            raise NameClashError("a key must be text or bytes that os.fsdecode gave", where=ascii(key)) from error
    return parent, name


def etag_of(at: os.stat_result) -> str:
    """Size, both times and inode: when the bytes change, one of them does."""
    return "%x-%x-%x-%x" % (at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino)  # noqa: UP031  (twice as fast)


def through_links(etag: str | None) -> bool:
    """Whether an etag is of an entry that was listed through links, and so is to be read through them."""
    return etag is not None and etag.startswith(THROUGH)


def holds(etag: str, at: os.stat_result) -> bool:
    """Whether an etag is that of a file in this state."""
    return etag.removeprefix(THROUGH) == etag_of(at)


def changed(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether a file that is open was written to in between.

    A file that is replaced keeps its bytes and loses a name, which moves its ctime too: that is no change. The two do
    not move at the same moment, so the ctime of a file without a name says nothing.
    """
    return (
        before.st_size != after.st_size
        or before.st_mtime_ns != after.st_mtime_ns
        or (before.st_ctime_ns != after.st_ctime_ns and before.st_nlink == after.st_nlink != 0)
    )


def entry_of(key: str, at: os.stat_result, target: str | None = None) -> Entry:
    """What a listing tells of a file or link."""
    if target is not None:
        return Entry(key, at.st_size, "link", etag_of(at), at.st_mtime, None, None, target)
    if not stat.S_ISREG(at.st_mode):
        return Entry(key, 0, "file", None, at.st_mtime, executable=False)
    return Entry(key, at.st_size, "file", etag_of(at), at.st_mtime, None, at.st_mode & 0o100 != 0)


def expect(entry: Entry, text: str, where: str) -> None:
    """Raise `IntegrityError` for bytes of another digest than their entry tells, if it tells one of that kind."""
    if contradict(entry.check, text):
        raise IntegrityError("the bytes are not what was stored", where=where, expected=entry.check, got=text)


def entry_now(entry: Entry, at: os.stat_result) -> Entry:
    """The entry of a file that was listed, as it is now."""
    now = entry_of(entry.key, at)
    return now._replace(etag=f"{THROUGH}{now.etag}") if through_links(entry.etag) else now


class Root:
    """A directory that keys are relative to, and the fence around it that no link may lead across.

    Args:
        path: absolute, no trailing slash (`"/"` is kept as `""`).
        fence: the directory that everything must stay in: `path`, or one above it (`System.at`).
        where: the place of a key, for errors.
        timeout_s: how long to wait for a lock.
    """

    def __init__(self, path: str, fence: str, where: Callable[[str], str], *, timeout_s: float) -> None:
        self.path = path
        self.fence = fence
        self.where = where
        self.timeout_s = timeout_s

    def at(self, key: str) -> str:
        """The path of a key, unchecked."""
        return f"{self.path}/{key}" if key else self.path or "/"

    def folder(self, parent: str, *, lock: bool = False, follow: bool = False) -> int:
        """A descriptor of a directory, good for reaching what is in it, and for its lock. OSError, NameClashError.

        With `follow` the way there may lead through links that leave the root.
        """
        path = self.at(parent)
        descriptor = os.open(path, _DIRECTORY if lock else _PATH)
        return descriptor if follow else self._fenced(descriptor, path, parent)

    def make(self, parent: str, made: list[str] | None = None, *, durable: bool = True) -> int:
        """A descriptor of a directory to write in, which is created if need be; `made` takes what was created."""
        path = self.at(parent)
        try:
            descriptor = os.open(path, _DIRECTORY)
        except FileNotFoundError:
            pass
        except NotADirectoryError:
            raise self._blocked(parent) from None
        else:
            return self._fenced(descriptor, path, parent)
        if not self.path or not os.path.isdir(self.path):
            self._make_root()
        descriptor = self._fenced(os.open(self.at(""), _DIRECTORY), self.at(""), "")
        done = ""
        for step in parent.split("/") if parent else ():
            done = f"{done}/{step}" if done else step
            below = self._step(descriptor, step, done, made, durable=durable)
            os.close(descriptor)
            descriptor = self._fenced(below, self.at(done), done)
        return descriptor

    def make_hidden(self, parent: str, hidden: dict[str, str], fresh: list[str]) -> tuple[int, str]:
        """A descriptor of a directory to write in, and its path. OSError, NameClashError.

        If it does not exist, the topmost one missing is created under a name of ours, which `hidden` takes and tells;
        what is missing below it is created in there. `fresh` takes the keys of what was created.
        """
        try:
            return self.folder(parent, lock=True), self.at(parent)
        except FileNotFoundError:
            pass
        except NotADirectoryError:
            raise self._blocked(parent) from None
        if not self.path or not os.path.isdir(self.path):
            self._make_root()
        path, done, inside = self.at(""), "", False
        descriptor = self._fenced(os.open(path, _DIRECTORY), path, "")
        for step in parent.split("/") if parent else ():
            done = f"{done}/{step}" if done else step
            name = step
            if not inside:
                inside = done in hidden or not _is_there(descriptor, step)
                name = hidden.setdefault(done, temp()) if inside else step
            below = self._step(descriptor, name, done, fresh, durable=False)
            os.close(descriptor)
            path = f"{path.rstrip('/')}/{name}"
            descriptor = self._fenced(below, path, done)
        return descriptor, path

    def _make_root(self) -> None:
        missing, path = [], self.path or "/"
        while path != "/" and not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for path in reversed(missing):
            try:
                os.mkdir(path)
            except FileExistsError:
                if not os.path.isdir(path):
                    raise NameClashError("there is a file where the root must be", where=path) from None
            except FileNotFoundError as error:
                if not os.path.isdir(os.path.dirname(path)):
                    raise  # it was removed meanwhile
                raise AccessError("no directory can be made here", where=self.where("")) from error  # so it is in /proc
            above = os.open(os.path.dirname(path), _DIRECTORY)
            try:
                os.fsync(above)
            finally:
                os.close(above)

    def _step(self, above: int, step: str, key: str, made: list[str] | None, *, durable: bool) -> int:
        try:
            try:
                return os.open(step, _DIRECTORY, dir_fd=above)
            except FileNotFoundError:
                pass
            try:
                os.mkdir(step, dir_fd=above)
            except FileExistsError:
                pass
            except FileNotFoundError as error:
                if not os.fstat(above).st_nlink:
                    raise  # what is above was removed meanwhile
                raise AccessError("no directory can be made here", where=self.where(key)) from error
            else:
                if made is not None:
                    made.append(key)
                if durable:
                    os.fsync(above)
            return os.open(step, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        except NotADirectoryError:
            os.close(above)
            raise self._blocked(key) from None
        except OSError:
            os.close(above)
            raise

    def _blocked(self, parent: str) -> RhError:
        done = ""
        for step in parent.split("/"):
            done = f"{done}/{step}" if done else step
            try:
                at = os.lstat(self.at(done))
            except OSError:
                break
            if stat.S_ISLNK(at.st_mode) and not os.path.isdir(self.at(done)):
                return NameClashError(
                    "a link that leads to no directory stands where one must be", where=self.where(done)
                )
            if not stat.S_ISDIR(at.st_mode) and not stat.S_ISLNK(at.st_mode):
                return NameClashError("a file stands where a directory must be", where=self.where(done))
        return NameClashError("there is no directory to write in", where=self.where(parent))

    def _fenced(self, descriptor: int, path: str, key: str) -> int:
        """The descriptor, if what it refers to lies inside the fence; else it is closed and NameClashError raised."""
        try:
            real = real_path(descriptor, path)
            if real == path and (path.startswith(self.fence + "/") or path == self.fence):
                return descriptor
            fence = os.path.realpath(self.fence or "/").rstrip("/")
            if real == fence or real.startswith(fence + "/"):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        steps = key.split("/")
        links = ("/".join(steps[: n + 1]) for n in range(len(steps)))
        link = next((one for one in links if os.path.islink(self.at(one))), key)
        raise NameClashError(f"{link!r} is a link that leads out of the root", where=self.where(key))

    def open(self, parent: int, name: str, key: str, *, follow: bool = False) -> int:
        """A descriptor to read a file with. A link is followed as long as it stays inside the fence, or anywhere."""
        if follow:
            return os.open(name, READ, dir_fd=parent)
        try:
            return os.open(name, READ | os.O_NOFOLLOW, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EMLINK):
                raise
        path = self.at(key)
        if hasattr(os, "O_PATH") and os.path.isdir("/proc/self/fd"):
            # Where the link leads is looked at before anything there is opened for reading.
            there = self._fenced(os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=parent), path, key)
            try:
                return os.open(f"/proc/self/fd/{there}", READ)
            finally:
                os.close(there)
        return self._fenced(os.open(name, READ, dir_fd=parent), path, key)


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def real_path(descriptor: int, path: str) -> str:
    """Where an open descriptor really is, as the kernel knows it; where it does not say, where the path leads now."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        pass
    get_path = getattr(fcntl, "F_GETPATH", None)
    if get_path is not None:
        return os.fsdecode(fcntl.fcntl(descriptor, get_path, bytes(1024)).rstrip(b"\0"))
    return os.path.realpath(path)


class Folders:
    """Descriptors of the directories that a run of keys is in, a few at a time."""

    def __init__(self, opener: Callable[[str], int], *, most: int = 32) -> None:
        self._open = opener
        self._most = most
        self._known: dict[str, int] = {}
        self._last: str | None = None

    def __getitem__(self, parent: str) -> int:
        found = self._known.get(parent)
        if found is None:
            if len(self._known) >= self._most:
                os.close(self._known.pop(next(iter(self._known))))
            found = self._known[parent] = self._open(parent)
        return found

    def locate(self, key: str, where: Callable[[str], str]) -> tuple[int, str]:
        """The descriptor of a key's directory, and its name there. Checked as `split` does; neighbours are quicker."""
        parent, _, name = key.rpartition("/")
        if parent != self._last or name in _DOTS or "\0" in name or not name.isascii():
            parent, name = split(key, where)
            found = self[parent]
            self._last = parent
            return found, name
        return self[parent], name

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, parent: str) -> bool:
        return parent in self._known

    def items(self) -> Iterator[tuple[str, int]]:
        return iter(self._known.items())

    def drop(self, parent: str) -> None:
        found = self._known.pop(parent, None)
        if found is not None:
            os.close(found)

    def close(self) -> None:
        while self._known:
            os.close(self._known.popitem()[1])


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Errors of the operating system as ours."""
    try:
        yield
    except OSError as error:
        if isinstance(error, RhError):
            raise
        raise failure(error, where) from error


def readable(at: os.stat_result, where: str) -> None:
    """Raise unless it is a file with bytes in it."""
    kind = stat.S_IFMT(at.st_mode)
    if kind == stat.S_IFREG:
        return
    if kind == stat.S_IFDIR:
        raise NotFoundError("this is a directory", where=where)
    what = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    raise UnsupportedError(f"a {what.get(kind, 'special file')} is no data", where=where, hint=LEAVE_OUT)
