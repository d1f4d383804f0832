"""The plain case in few steps: a directory read, its files looked at, hashed, or hashed and copied into another.

The same code runs in this process and in helper processes beside it, bare interpreters that import nothing else of
`rh`, so it imports little, and what hashes only where something is hashed.
Nothing here decides what is an error: whatever is not a plain file in the state it was listed in comes back as `None`,
with nothing left of it, and the caller sees to it.
"""

from __future__ import annotations

import errno
import marshal
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, TypeAlias

    Wanted: TypeAlias = tuple[str | bytes, int, str]
    """Name, size and etag of a file as it was listed."""
    Copied: TypeAlias = tuple[int, int, str, float, bool, str]
    """Inode, size, etag, time of change and executable bit of a file that was written, and the digest of its bytes."""
    Seen: TypeAlias = tuple[int, str, float, bool]
    """Size, etag, time of change and executable bit of a file."""
    Listed: TypeAlias = tuple[list[str], bool, list[Seen]]
    """Sorted names in a directory, with a slash after those of directories, whether there are such, and its files."""
    Reached: TypeAlias = tuple[str, int, int]
    """Path, device and inode of a directory: who finds another there has not found it."""

__all__ = ["CREATE", "READ", "copies", "create", "digests", "folder", "in_order", "looks", "mode_for", "serve"]

READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = READ | os.O_NOFOLLOW
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_REACH = _LIST | getattr(os, "O_PATH", 0)
_ETAG = "%x-%x-%x-%x"
_TYPE, _FILE = 0o170000, stat.S_IFREG
_HEAD = 4


def mode_for(folder: int, name: str | bytes, *, executable: bool) -> int | None:
    """The permissions a new file takes over from the one it replaces; `None` if there is none."""
    try:
        at = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    if not stat.S_ISREG(at.st_mode):
        return None
    mode = at.st_mode & 0o666
    return mode | (mode & 0o444) >> 2 if executable else mode


def create(name: str | bytes, folder: int, mode: int | None, *, executable: bool) -> int:
    """Create a file that must not exist, for writing: with these permissions from the first, or the usual ones."""
    usual = 0o777 if executable else 0o666
    try:
        descriptor = os.open(name, CREATE, usual if mode is None else mode, dir_fd=folder)
    except FileNotFoundError:
        if not os.fstat(folder).st_nlink:
            raise  # the directory was removed meanwhile
        raise PermissionError(errno.EACCES, "no file can be made in this directory") from None  # so it is in /proc
    if mode is not None:
        os.fchmod(descriptor, mode)
    return descriptor


def _read(folder: int, name: str | bytes, size: int, etag: str) -> tuple[bytes, int] | None:
    """The bytes and mode of a file. The etag is older than the reading: if it still holds, nothing came in between."""
    try:
        file = os.open(name, _READ, dir_fd=folder)
    except OSError:
        return None
    try:
        data = os.read(file, size + 1)
        at = os.fstat(file)
    except OSError:
        return None
    finally:
        os.close(file)
    if len(data) != size or _ETAG % (at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino) != etag:
        return None
    return data, at.st_mode


def digests(folder: int, wanted: Sequence[Wanted]) -> list[str | None]:
    """The digest of each file of a directory, in text form."""
    from hashlib import sha256

    found: list[str | None] = []
    for name, size, etag in wanted:
        read = _read(folder, name, size, etag)
        found.append(None if read is None else "sha256:" + sha256(read[0]).hexdigest())
    return found


def copies(
    source: int, target: int, wanted: Sequence[Wanted], names: Sequence[str | bytes], taken: Sequence[str | bytes] = ()
) -> list[Copied | None]:
    """Copy each file of a directory to a new name in another; the digest is of the very bytes that were written.

    `taken` are names whose files will be replaced, and so give their permissions.
    """
    from hashlib import sha256

    done: list[Copied | None] = []
    for number, (name, size, etag) in enumerate(wanted):
        read = _read(source, name, size, etag)
        if read is None:
            done.append(None)
            continue
        data, mode = read
        executable = mode & 0o100 != 0
        try:
            kept = mode_for(target, taken[number], executable=executable) if taken else None
            file = create(names[number], target, kept, executable=executable)
        except OSError:
            done.append(None)
            continue
        whole = False
        try:
            whole = os.write(file, data) == size
            at = os.fstat(file)
        except OSError:
            whole = False
        finally:
            os.close(file)
            if not whole:
                os.unlink(names[number], dir_fd=target)
        if not whole:
            done.append(None)
            continue
        new = _ETAG % (at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino)
        text = "sha256:" + sha256(data).hexdigest()
        done.append((at.st_ino, size, new, at.st_mtime, at.st_mode & 0o100 != 0, text))
    return done


def _reach(there: Reached) -> int:
    """A descriptor of a directory, which is that very one, there, or OSError is raised."""
    path, device, inode = there
    descriptor = os.open(path, _REACH)
    at = os.fstat(descriptor)
    if (at.st_dev, at.st_ino) == (device, inode) and os.readlink(f"/proc/self/fd/{descriptor}") == path:
        return descriptor
    os.close(descriptor)
    raise FileNotFoundError(path)


def _seen(at: os.stat_result) -> Seen | None:
    """What a file is; `None` if it is anything else."""
    mode, size = at.st_mode, at.st_size
    if mode & _TYPE != _FILE:
        return None
    return size, _ETAG % (size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino), at.st_mtime, mode & 0o100 != 0


def looks(folder: int, names: Sequence[str | bytes]) -> list[Seen | None]:
    """What each file of a directory is."""
    found: list[Seen | None] = []
    for name in names:
        try:
            found.append(_seen(os.stat(name, dir_fd=folder, follow_symlinks=False)))
        except OSError:
            found.append(None)
    return found


def in_order(names: Iterable[str]) -> list[str]:
    """Names sorted by their UTF-8 bytes."""
    every = list(names)
    # Code points sort like them, except for the surrogates that stand for bytes that are no text.
    every.sort(key=None if "".join(every).isascii() else os.fsencode)
    return every


def folder(path: str | bytes, hidden: str, most: int) -> Listed | None:
    """What is in a directory, less what is hidden; `None` where that is more than files and directories, or `most`."""
    descriptor = os.open(path, _LIST)
    try:
        with os.scandir(descriptor) as found:
            members = [one for one, _ in zip(found, range(most + 1)) if not one.name.startswith(hidden)]  # noqa: B905
        if len(members) >= most:
            return None
        files = {one.name: one for one in members if one.is_file(follow_symlinks=False)}
        inner = []
        if len(files) < len(members):
            inner = [one.name + "/" for one in members if one.is_dir(follow_symlinks=False)]
            if len(files) + len(inner) < len(members):
                return None
        seen: list[Seen] = []
        for name in in_order(files):
            what = _seen(files[name].stat(follow_symlinks=False))
            if what is None:
                return None
            seen.append(what)
    finally:
        os.close(descriptor)
    return in_order([*files, *inner]), bool(inner), seen


def _list(path: bytes, hidden: str, most: int) -> tuple[bytes, bool, list[Seen]] | None:
    """The same for the listing, which also knows a directory by its path alone."""
    try:
        found = folder(path, hidden, most)
    except OSError:
        return None
    return None if found is None else (os.fsencode("\0".join(found[0])), *found[1:])


def _in(work: Callable[..., list[Any]], places: Sequence[Reached], wanted: Sequence[Any], *more: Any) -> list[Any]:
    """What is to be done with files in directories; `None` for each of them if such a directory is not there."""
    reached: list[int] = []
    try:
        reached.extend(map(_reach, places))
        return work(*reached, wanted, *more)
    except OSError:
        return [None] * len(wanted)
    finally:
        for descriptor in reached:
            os.close(descriptor)


_WORK: dict[str, Any] = {
    "list": _list,
    "look": lambda *page: _in(looks, *page),
    "digest": lambda *page: _in(digests, *page),
    "copy": lambda *page: _in(copies, *page),
}
"""What a page may ask for. Files that could not be dealt with are `None` in the answer; so is a whole directory."""


def _exactly(source: int, size: int) -> bytes:
    data = os.read(source, size)
    while 0 < len(data) < size:
        more = os.read(source, size - len(data))
        if not more:
            return b""
        data += more
    return data


def serve(source: int, sink: int) -> None:
    """Answer jobs, each a list of pages (what to do, and with what), until there are no more."""
    while head := _exactly(source, _HEAD):
        pages = marshal.loads(_exactly(source, int.from_bytes(head, "big")))  # noqa: S302 - from who started us
        answer = marshal.dumps([_WORK[work](*page) for work, *page in pages])
        data = memoryview(len(answer).to_bytes(_HEAD, "big") + answer)
        while data:
            data = data[os.write(sink, data) :]
