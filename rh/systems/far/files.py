"""Files on the far side of an SSH link: a root that no key leaves.

Reading goes through links, wherever they lead. Writing and deleting walk every path below the root by descriptors, one
component at a time and never through a link, so none that is there, or put there meanwhile, leads them out of the root.

This module runs on the far side: standard library only, Python 3.7 or newer.
"""

from __future__ import annotations

import errno
import os
import stat

from rh.systems.far.wire import (
    DIR,
    EXEC,
    KINDS,
    LINK,
    NOEXEC,
    Failure,
    etag,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rh.systems.far.skip import Skip

HIDDEN = b".rh-"
TEMP = b".rh-tmp-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LINK = _DIRECTORY | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def flags_of(found: os.stat_result) -> int:
    """What a file is, as flags of a `STAT`."""
    mode = found.st_mode
    if not stat.S_ISREG(mode):
        return LINK if stat.S_ISLNK(mode) else DIR if stat.S_ISDIR(mode) else 0
    return EXEC if mode & 0o100 else NOEXEC


def clash(key: bytes, why: str) -> Failure:
    """The error for a key that cannot be stored as asked."""
    return Failure("name_clash", why, key)


def _told(error: OSError, key: bytes) -> Failure:
    return Failure(KINDS.get(error.errno or 0, "unavailable"), os.strerror(error.errno or 0), key)


class Root:
    """A directory and everything below it. Directories are opened once and kept while the root is open.

    `follow` is for reading: links are gone through.
    """

    def __init__(self, path: bytes, *, follow: bool = False) -> None:
        self.path = os.path.expanduser(path) if path.startswith(b"~") else path
        self.follow = follow
        self.mode = _DIRECTORY if follow else _NO_LINK
        self.fd = -1
        self.dirs: dict[bytes, int] = {}
        self.made: set[int] = set()
        self.fresh: set[bytes] = set()
        self.above: list[bytes] = []

    def open(self, *, create: bool = False) -> Root:
        """Open the root itself; it may be reached through links."""
        if self.fd < 0:
            if create:
                self._make()
            try:
                self.fd = os.open(self.path, _DIRECTORY)
            except NotADirectoryError:
                raise clash(self.path, "this is a file, not a directory") from None
            self.dirs[b""] = self.fd
        return self

    def _make(self) -> None:
        try:
            path = self.path
            missing = []
            while path and not os.path.isdir(path):
                missing.append(path)
                path = os.path.dirname(path)
            os.makedirs(self.path, exist_ok=True)
            self.above += missing
        except (FileExistsError, NotADirectoryError):
            raise clash(self.path, "there is a file where a directory must be") from None
        except FileNotFoundError:
            raise Failure("access", "no directory can be made here", self.path) from None

    def unmake(self) -> None:
        """Remove the directories that were made and hold nothing; whoever wanted them to be empty has kept them."""
        try:
            for key in sorted(self.fresh, reverse=True):
                self.remove(key + b"/")
            for path in self.above:
                os.rmdir(path)
        except (OSError, Failure):
            pass  # it holds something, or is gone

    def unmake_above(self, key: bytes, count: int) -> None:
        """Remove as many of the directories above `key` as hold nothing, the nearest first, the root's own at last."""
        steps, path = key.split(b"/")[:-1], self.path
        for _ in range(count):
            if steps:
                self.fresh.add(b"/".join(steps))
                steps.pop()
            else:
                self.above.append(path)
                path = os.path.dirname(path)
        self.unmake()

    def close(self) -> None:
        """Let go of every directory."""
        for fd in self.dirs.values():
            os.close(fd)
        self.dirs.clear()
        self.made.clear()
        self.fd = -1

    def trim(self) -> None:
        """Close all if there are many; not to be called while a descriptor of ours is in use."""
        if len(self.dirs) > 300:
            self.close()

    def parent(self, key: bytes, *, create: bool = False) -> tuple[int, bytes]:
        """The directory that holds `key`, as a descriptor, and the key's last component."""
        head, _, name = key.rpartition(b"/")
        fd = self.dirs.get(head)
        if fd is None:
            self.open(create=create)
            fd = self._enter(head, create=create)
        if name in (b"", b".", b".."):
            raise clash(key, "this is not a name")
        return fd, name

    def directory(self, head: bytes, *, create: bool = False) -> int:
        """The directory `head` (`b""`: the root) as a descriptor."""
        self.open(create=create)
        fd = self.dirs.get(head)
        return self._enter(head, create=create) if fd is None else fd

    def _enter(self, head: bytes, *, create: bool) -> int:
        fd, at = self.fd, b""
        for name in head.split(b"/") if head else ():
            at = at + b"/" + name if at else name
            known = self.dirs.get(at)
            if known is None:
                known = self.dirs[at] = self._step(fd, name, at, create=create)
            fd = known
        return fd

    def _step(self, fd: int, name: bytes, at: bytes, *, create: bool) -> int:
        if name in (b"", b".", b".."):
            raise clash(at, "this is not a name")
        try:
            return os.open(name, self.mode, dir_fd=fd)
        except FileNotFoundError:
            if not create:
                raise
            try:
                os.mkdir(name, dir_fd=fd)
                self.made.add(fd)
                self.fresh.add(at)
            except FileExistsError:
                pass  # somebody else made it just now
            except FileNotFoundError:
                if not os.fstat(fd).st_nlink:
                    raise  # what is above was removed meanwhile
                raise Failure("access", "no directory can be made here", at) from None  # so it is in /proc
            return os.open(name, _NO_LINK, dir_fd=fd)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            if not self.follow and stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                raise clash(at, "there is a link where a directory must be") from None
            if create:
                raise clash(at, "there is a file where a directory must be") from None
            raise FileNotFoundError(errno.ENOENT, "") from None

    def stat(self, key: bytes) -> os.stat_result:
        """What is under `key`, a link itself rather than its target."""
        fd, name = self.parent(key)
        return os.stat(name, dir_fd=fd, follow_symlinks=False)

    def target(self, key: bytes) -> bytes:
        """Where the link under `key` points to."""
        fd, name = self.parent(key)
        return os.readlink(name, dir_fd=fd)

    def read(self, key: bytes, want: bytes = b"") -> tuple[int, os.stat_result]:
        """Open a file to be read, if its etag is still `want` (or none is given)."""
        fd, name = self.parent(key)
        file = os.open(name, _READ, dir_fd=fd)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                if stat.S_ISDIR(found.st_mode):
                    raise FileNotFoundError(errno.ENOENT, "")
                raise Failure("unsupported", "this is neither a file, nor a directory, nor a link", key)
            if want and etag(found).encode() != want:
                raise Failure("conflict", "it has changed", key)
        except BaseException:
            os.close(file)
            raise
        return file, found

    def unchanged(self, file: int, before: os.stat_result, key: bytes) -> None:
        """`Failure` if the open file is not what it was."""
        now = os.fstat(file)
        if now.st_mtime_ns != before.st_mtime_ns or now.st_size != before.st_size:
            raise Failure("conflict", "it changed while it was read", key)

    def remove(self, key: bytes) -> None:
        """Remove a file, link or (key with a slash at its end) empty directory; what is not there is fine."""
        folder = key.endswith(b"/")
        try:
            fd, name = self.parent(key.rstrip(b"/"))
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode) != folder:
                return
            if folder:
                os.rmdir(name, dir_fd=fd)
            else:
                os.unlink(name, dir_fd=fd)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if folder and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return  # a directory that holds something is no entry of its own
            raise

    def walk(
        self, prefix: bytes, after: bytes, depth: int, skip: Skip | None = None, *, through: bool = False
    ) -> Iterator[tuple[bytes, os.stat_result, bytes]]:
        """Key, stat and link target of every entry in key order; see `System.list`. `depth` 0 means no limit.

        `through` shows what a link points to in its place; `skip` tells which directories are left out.
        """
        self.open()
        head, slash, start = prefix.rpartition(b"/")
        try:
            fd = os.dup(self.directory(head))
        except FileNotFoundError:
            return
        base = head + slash
        try:
            steps = head.split(b"/") if head else []
            way = (b"/".join(steps[:count]) for count in range(len(steps) + 1))
            above = [os.fstat(self.directory(one)) for one in way] if through else None
            tokens = [token for token in self.tokens(fd, base, above) if token.startswith(start)]
        except BaseException:
            os.close(fd)
            raise
        yield from self._walk(fd, tokens, base, after, depth, skip, above)

    def _walk(
        self,
        fd: int,
        tokens: list[bytes],
        base: bytes,
        after: bytes,
        depth: int,
        skip: Skip | None,
        above: list[os.stat_result] | None,
    ) -> Iterator[tuple[bytes, os.stat_result, bytes]]:
        """The entries under these names in a directory, which is closed at the end.

        `above` are it and those that the walk came through, where links are looked through.
        """
        look, link = os.stat, stat.S_ISLNK
        try:
            for token in tokens:
                key = base + token
                folder = token[-1] == 47
                if after and key <= after and not (folder and after.startswith(key)):
                    continue
                if folder and skip is not None and skip(key.decode("utf-8", "surrogateescape")):
                    continue
                try:
                    if not folder:
                        found = look(token, dir_fd=fd, follow_symlinks=False)
                        behind = _behind(fd, token) if above and link(found.st_mode) else None
                        if behind is None and link(found.st_mode):
                            yield key, found, os.readlink(token, dir_fd=fd)
                        else:
                            yield key, behind or found, b""
                        continue
                    inner = os.open(token[:-1], _NO_LINK if above is None else _DIRECTORY, dir_fd=fd)
                except FileNotFoundError:
                    continue  # it went away since the directory was read
                except OSError as error:
                    raise _told(error, key) from None
                try:
                    found = os.fstat(inner)
                    here = None if above is None else [*above, found]
                    below = [] if depth == 1 else self.tokens(inner, key, here)
                except BaseException:
                    os.close(inner)
                    raise
                if below:
                    deeper = depth - 1 if depth else 0
                    yield from self._walk(inner, below, key, after, deeper, skip, here)
                else:
                    os.close(inner)
                    if key > after:
                        yield key, found, b""
        finally:
            os.close(fd)

    def tokens(self, fd: int, base: bytes, above: list[os.stat_result] | None = None) -> list[bytes]:
        """The names in a directory that are not ours, directories with a slash at their end, in key order."""
        try:
            with os.scandir(fd) as found:
                names = [(os.fsencode(one.name), _is_dir(one, above)) for one in found]
        except OSError as error:
            raise _told(error, base) from None
        return sorted(name + b"/" if folder else name for name, folder in names if not name.startswith(HIDDEN))


def _is_dir(one: os.DirEntry[str], above: list[os.stat_result] | None) -> bool:
    """Whether it is a directory. A link that cannot be followed is none, nor one that leads back to where it lies."""
    if above is None or not one.is_symlink():
        return one.is_dir(follow_symlinks=False)
    try:
        return one.is_dir() and not any(os.path.samestat(one.stat(), other) for other in above)
    except OSError:
        return False


def _behind(fd: int, name: bytes) -> os.stat_result | None:
    """What a link leads to; `None` where it cannot be followed, or leads to a directory that it lies in."""
    try:
        found = os.stat(name, dir_fd=fd)
    except OSError:
        return None
    return None if stat.S_ISDIR(found.st_mode) else found
