"""What was read of versions, kept on this machine: contents by digest, packs of nodes, markers of trees.

Files below `$RH_HOME/cache`, shared by processes: written under another name, then renamed, so that a reader sees whole
ones. Nothing here is believed: contents are compared with their digest when they are read, and what does not match is
dropped and fetched again. All is bounded (the setting `cache_mb`): what was not used for longest goes first. Copies
that `.local()` makes (`rh.versions.copies`) count, and go likewise, unless a living process asked for them. The cache
is a convenience: where it cannot be written, everything works without it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from rh import config
from rh import digest as digests
from rh.observe import log
from rh.versions import copies

__all__ = [
    "READ",
    "Contents",
    "Kept",
    "Sink",
    "Stretches",
    "grown",
    "keep",
    "kept",
    "kept_span",
    "ls",
    "path_of",
    "rm",
    "sound_file",
    "sound_part",
    "verify",
]

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_GRAIN = 64 * 1024
"""Growth is noted in steps of so many bytes."""
_FRESH_S = 3600.0
"""A time of use is brought up to date at most so often."""
_STALE_S = 24 * 3600.0
_REMEMBERED = 10_000
_sound: dict[str, tuple[int, int, int]] = {}
"""Files that were compared with their digests, and their state then: inode, size, time of change."""
_PARTS = ("objects", "packs", "nodes", "trees")
READ = ("objects", "packs", *copies.KINDS)
"""The kinds that hold bytes of files: what `verify` reads."""


class Kept(NamedTuple):
    """One thing in the cache: its digest (or other name), size in bytes, and when it was last used.

    A copy that `.local()` made has the URL of what it is a copy of as its name, and a directory as its path.
    """

    name: str
    size: int
    used: float
    path: Path
    kind: str
    in_use: bool = False


def _root() -> str:
    return _root_of(os.environ.get("RH_HOME"), os.environ.get("HOME"))


@cache
def _root_of(*_environment: str | None) -> str:
    return str(config.home() / "cache")


def _path_of(kind: str, name: str) -> str:
    return f"{_root()}/{kind}/{name[:2]}/{name[2:]}"


def kept(kind: str, name: str) -> bytes | None:
    """What is kept under a name, unverified; `None` if nothing is."""
    try:
        with open(_path_of(kind, name), "rb", buffering=0) as file:
            return file.readall()
    except OSError:
        return None


def kept_span(kind: str, name: str, offset: int, length: int) -> bytes | None:
    """Some bytes of what is kept under a name, unverified; `None` if they are not there."""
    try:
        with open(_path_of(kind, name), "rb", buffering=0) as file:
            found = os.pread(file.fileno(), length, offset)
    except OSError:
        return None
    return found if len(found) == length else None


def keep(kind: str, name: str, data: bytes | bytearray | memoryview) -> None:
    """Keep something under a name."""
    path = _path_of(kind, name)
    folder = os.path.dirname(path)
    temp = f"{folder}/.{secrets.token_hex(8)}"
    try:
        try:
            descriptor = os.open(temp, _NEW, 0o600)
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)
            descriptor = os.open(temp, _NEW, 0o600)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(data)
        os.replace(temp, path)
    except OSError as error:
        log.debug("not kept in the cache: %s: %s", path, error)
        with suppress(OSError):
            os.unlink(temp)


class Contents:
    """Contents of files by digest."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit

    @property
    def limit(self) -> int:
        """Bytes that may be kept; 0 keeps no contents."""
        if self._limit is None:
            self._limit = int(config.get("cache_mb")) << 20
        return self._limit

    def get(self, digest: str) -> bytes | None:
        """The whole content, compared with the digest; `None` if it is not here. At most some MiB."""
        data = kept("objects", _name(digest))
        if data is None:
            return None
        if digests.of_bytes(data).text != digest:
            self.drop(digest)
            return None
        _touch(_path_of("objects", _name(digest)))
        return data

    def sound(self, digest: str, size: int) -> Path | None:
        """The file that holds a content; `None` if it is not here.

        It is compared with the digest once for each state of the file that its times show.
        """
        path = path_of(digest)
        try:
            if not sound_file(path, digest, size):
                log.warning("the cache is damaged, and %s is fetched again", path)
                self.drop(digest)
                return None
        except OSError:
            return None
        _touch(str(path))
        return path

    def put(self, digest: str, data: bytes | bytearray | memoryview) -> None:
        """Keep a content that was compared with its digest."""
        if 0 < len(data) <= self.limit // 8:
            keep("objects", _name(digest), data)
            self._grown(len(data))

    def sink(self, size: int) -> Sink | None:
        """Where a content of so many bytes may be written while it is read; `None` if it is not to be kept."""
        if size > self.limit // 8:
            return None
        try:
            return Sink(self)
        except OSError as error:
            log.debug("nothing can be kept in the cache: %s", error)
            return None

    def put_stretch(self, pack: str, start: int, data: bytes | bytearray | memoryview) -> None:
        """Keep a stretch of a pack whose members were compared with their digests."""
        if len(data) <= self.limit // 8:
            sha = digests.of_bytes(data).text.partition(":")[2]
            keep("packs", f"{pack}/{start}-{start + len(data)}-{sha}", data)
            self._grown(len(data))

    def drop(self, digest: str) -> None:
        """Forget a content."""
        with suppress(OSError):
            path_of(digest).unlink()

    def _grown(self, size: int) -> None:
        """Note that so many bytes were added, and make room when there are too many.

        A file whose length stands for what was added since the contents were last counted: appending to it is one
        step that needs no lock.
        """
        steps, rest = divmod(size, _GRAIN)
        steps += secrets.randbelow(_GRAIN) < rest  # small ones are noted by chance, in proportion
        if not steps:
            return
        path = Path(_root(), "objects", "grown")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab", buffering=0) as file:
                file.write(b"." * steps)
                if file.tell() * _GRAIN > self.limit:
                    self.shrink()
        except OSError as error:
            log.debug("%s: %s", path, error)

    def shrink(self) -> int:
        """Remove what was not used for longest until a tenth of the room is free. Returns the bytes removed.

        Copies that living processes asked for stay, and then more may be kept than the limit says.
        """
        found = sorted(ls(), key=lambda one: one.used)
        total = sum(one.size for one in found)
        goal = self.limit - self.limit // 10
        removed = _removed(found, total - goal)[1] if total > self.limit else 0
        with suppress(OSError), open(Path(_root(), "objects", "grown"), "wb") as file:
            file.truncate(min(total - removed, goal) // _GRAIN)  # where all is in use, each step would look again
        return removed


class Stretches:
    """The stretches of packs that are kept, as they are when each pack is first asked for."""

    def __init__(self) -> None:
        self._packs: dict[str, list[tuple[int, int, str]]] = {}

    def get(self, pack: str, offset: int, size: int, digest: str) -> bytes | None:
        """A member of a pack, compared with its digest; `None` if it is not here."""
        for start, stop, path in self._of(pack):
            if start <= offset and offset + size <= stop:
                try:
                    with open(path, "rb", buffering=0) as file:
                        data = os.pread(file.fileno(), size, offset - start)
                except OSError:
                    continue
                if digests.of_bytes(data).text == digest:
                    return data
                log.warning("the cache is damaged, and %s is fetched again", path)
                with suppress(OSError):
                    os.unlink(path)
        return None

    def _of(self, pack: str) -> list[tuple[int, int, str]]:
        found = self._packs.get(pack)
        if found is None:
            found = self._packs[pack] = []
            for one in _scan(Path(_path_of("packs", pack))):
                start, _, rest = one.name.partition("-")
                stop = rest.partition("-")[0]
                if start.isdigit() and stop.isdigit():
                    found.append((int(start), int(stop), one.path))
                    _touch(one.path)
        return found


class Sink:
    """A content on its way into the cache: `write` its bytes, then `finish` or `abandon`."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._size = 0
        folder = Path(_root(), "objects")
        folder.mkdir(parents=True, exist_ok=True)
        self._temp = folder / f".{secrets.token_hex(8)}"
        self._file = open(self._temp, "xb", buffering=0)  # noqa: SIM115 - closed by finish or abandon

    @property
    def descriptor(self) -> int:
        """Of the file that is being written."""
        return self._file.fileno()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take more bytes. A full disk only means that nothing is kept."""
        if self._file.closed:
            return
        try:
            self._file.write(data)
            self._size += len(data)
        except OSError as error:
            log.debug("not kept in the cache: %s", error)
            self.abandon()

    def finish(self, digest: str) -> None:
        """Keep it: the bytes were compared with this digest."""
        if self._file.closed:
            return
        self._file.close()
        path = path_of(digest)
        try:
            path.parent.mkdir(exist_ok=True)
            os.replace(self._temp, path)
        except OSError as error:
            log.debug("not kept in the cache: %s", error)
            self.abandon()
            return
        self._contents._grown(self._size)  # noqa: SLF001 - same module

    def abandon(self) -> None:
        """Forget it; may be called at any time and twice."""
        self._file.close()
        with suppress(OSError):
            self._temp.unlink()


def _touch(path: str) -> None:
    """Note that a file was used."""
    with suppress(OSError):
        at, now = os.stat(path), time.time()
        if now - at.st_atime > _FRESH_S:
            os.utime(path, (now, at.st_mtime))


def _name(digest: str) -> str:
    tag, _, value = digest.partition(":")
    return value if tag == "sha256" else f"{value}.{tag}"


def path_of(digest: str) -> Path:
    """Where a content is kept, if it is."""
    return Path(_path_of("objects", _name(digest)))


def _digest(name: str) -> str:
    value, _, tag = name.partition(".")
    return f"{tag or 'sha256'}:{value}"


def _digest_of(path: Path, size: int) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return digests.of_reader(lambda start, stop: os.pread(descriptor, stop - start, start), size).text
    finally:
        os.close(descriptor)


def ls(*kinds: str) -> Iterator[Kept]:
    """What is kept; of all kinds unless some are named.

    Args:
        kinds: `"objects"`, `"packs"`, `"nodes"`, `"trees"`, or copies: `"folders"`, `"blobs"`, `"tables"`.
    """
    for kind in kinds or _PARTS:
        if kind in copies.KINDS:
            continue
        for name, file in _files(Path(_root(), kind), ""):
            with suppress(OSError):
                at = file.stat(follow_symlinks=False)
                named = _digest(name) if kind == "objects" else name
                yield Kept(named, at.st_size, max(at.st_atime, at.st_mtime), Path(file.path), kind)
    wanted = [kind for kind in kinds or copies.KINDS if kind in copies.KINDS]
    for copy in copies.ls(*wanted) if wanted else ():
        yield Kept(copy.url, copy.size, copy.used, copy.path, copy.kind, copy.in_use)


def _removed(found: Iterable[Kept], wanted: int | None = None) -> tuple[int, int]:
    """Remove these, in this order, until so many bytes are free; no copies in use. Returns how many, and bytes."""
    count = size = 0
    with copies.Removing() as removing:
        for one in found:
            if wanted is not None and size >= wanted:
                break
            if one.kind in copies.KINDS:
                gone = removing.remove(one.kind, one.path)
            else:
                try:
                    one.path.unlink()
                    gone = True
                except OSError:
                    gone = False
            count, size = count + gone, size + one.size * gone
    return count, size


def _files(folder: Path, name: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files below a directory, less those that are being written."""
    for one in _scan(folder):
        if one.is_dir(follow_symlinks=False):
            yield from _files(Path(one.path), f"{name}{one.name}" if not name else f"{name}{one.name}/")
        elif not one.name.startswith("."):
            if name:  # what lies at the top is not content
                yield f"{name}{one.name}", one
        elif _old(one):
            with suppress(OSError):
                os.unlink(one.path)


def _scan(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return list(found)
    except OSError:
        return []


def _old(entry: os.DirEntry[str]) -> bool:
    """Whether a file was begun so long ago that nobody will finish it."""
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE_S
    except OSError:
        return False


def sound_file(path: Path, digest: str, size: int) -> bool:
    """Whether a file has this digest. Compared once for each state of the file that its times show. OSError."""
    at = path.stat()
    stamp = (at.st_ino, at.st_size, at.st_mtime_ns)
    if _sound.get(str(path)) != stamp:
        if at.st_size != size or _digest_of(path, size) != digest:
            return False
        _note(str(path), stamp)
    return True


def sound_part(path: Path, digest: str, start: int, stop: int) -> bool:
    """Whether these bytes of a file have a plain digest.

    Compared once for each state of the file that its times show.
    """
    at = path.stat()
    stamp = (at.st_ino, at.st_size, at.st_mtime_ns)
    name = f"{path}:{start}:{digest}"
    if _sound.get(name) == stamp:
        return True
    with open(path, "rb", buffering=0) as file:
        if digests.of_bytes(os.pread(file.fileno(), stop - start, start)).text != digest:
            return False
    _note(name, stamp)
    return True


def _note(name: str, stamp: tuple[int, int, int]) -> None:
    if len(_sound) > _REMEMBERED:
        _sound.clear()
    _sound[name] = stamp


def rm(*names: str) -> tuple[int, int]:
    """Forget these contents or copies, or all that is kept; not copies that living processes asked for.

    Args:
        names: digests of contents, and URLs of what copies are of.

    Returns:
        How many things, and their bytes.
    """
    found = [one for one in ls(*(("objects", *copies.KINDS) if names else ())) if not names or one.name in names]
    count, size = _removed(found)
    if not names:
        with suppress(OSError):
            (Path(_root(), "objects", "grown")).unlink()
    return count, size


def verify() -> tuple[int, list[str]]:
    """Read all bytes of files that are kept, and drop what is damaged. Returns how many things there were, and those.

    A copy that is damaged stays if it is in use; the next `.local()` writes what is damaged in it again.
    """
    count, damaged = 0, []
    for one in ls("objects", "packs"):
        count += 1
        with suppress(FileNotFoundError):
            expected = one.name if ":" in one.name else f"sha256:{one.name.rpartition('-')[2]}"
            if _digest_of(one.path, one.size) != expected:
                damaged.append(one.name)
                one.path.unlink()
    unsound = []
    for copy in list(copies.ls()):
        count += 1
        if not copies.is_sound(copy):
            damaged.append(copy.url)
            unsound.append(copy)
    with copies.Removing() as removing:
        for copy in unsound:
            removing.remove(copy.kind, copy.path)
    return count, damaged


def grown(size: int) -> None:
    """Note that so many bytes of copies were added, and make room when there are too many."""
    Contents()._grown(size)  # noqa: SLF001 - same module
