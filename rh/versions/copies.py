"""Copies that `.local()` makes of what is elsewhere: whole files and directories below `$RH_HOME/cache`.

==========================  ============================================================================
`<kind>/<mark>/<name>`      the copy; `kind` is `folders`, `blobs` or `tables`, `mark` stands for its URL
`<kind>/<mark>/.rh-copy`    what it is a copy of, for people and `rh cache verify`
`users/<random>`            one file of each process: the copies it asked for, one in a line
==========================  ============================================================================

Who asked for a copy has nothing but its path, and nobody can tell when it is done with that. So a copy belongs to the
processes that asked for it for as long as they live: each holds a lock on its file in `users`, which the kernel lets go
of when the process ends, however it does, and its forked children too. A copy that is in no such file may be removed.
Whoever asks, and whoever removes, does so under one more lock: a copy that was asked for is not removed any more.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from rh import config
from rh import digest as digests
from rh.errors import RhError
from rh.forks import Lock
from rh.observe import log
from rh.types import Location

__all__ = ["KINDS", "Copy", "Removing", "in_use", "is_sound", "ls", "made", "taken"]

KINDS = ("folders", "blobs", "tables")
_NOTE = ".rh-copy"
_lock = Lock()
_mine: dict[str, tuple[int, set[str]]] = {}
"""For each cache: this process's file in it, held open and locked, and what it says."""


class Copy(NamedTuple):
    """A copy: what it is of (a URL), its bytes, when it was last asked for, its directory, and who needs it.

    `digest` is that of the file or tree; `None` where it is not known. `used` is in seconds since the epoch.
    """

    kind: str
    url: str
    size: int
    used: float
    path: Path
    digest: str | None
    in_use: bool


def taken(kind: str, url: str, name: str) -> Path:
    """Where the copy of a place is, or is to be made. It is this process's from now on.

    The first time in a process, what those that have ended left over the bound of the cache is removed.
    """
    from rh.versions.cache import Contents

    mark = f"{kind}/{hashlib.sha256(url.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"
    folder = _root() / mark
    try:
        _root().mkdir(parents=True, exist_ok=True)
        with _locked():
            ended = _note_use(mark)
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)
        if ended:
            Contents().shrink()
    except OSError as error:  # a disk without locks, say: nothing is removed there, either
        log.debug("%s: %s", folder, error)
    return folder / (name or "root")


def made(path: Path, url: str, digest: str | None, size: int) -> None:
    """Note what the copy at `path` is of, and that so many bytes were added to the cache, which may make room for them.

    The query of a URL of the web may be a credential, and is not noted.
    """
    from rh.versions.cache import grown

    if url.startswith(("http://", "https://")):
        url = url.partition("?")[0]
    temp = path.parent / f"{_NOTE}-{secrets.token_hex(4)}"
    try:
        temp.write_text(json.dumps({"url": url, "digest": digest}), "utf-8")
        os.replace(temp, path.parent / _NOTE)
    except OSError as error:
        log.debug("%s: %s", path, error)
    grown(size)


def ls(*kinds: str) -> Iterator[Copy]:
    """The copies there are; of all kinds unless some are named."""
    used = in_use()
    for kind in kinds or KINDS:
        for folder in _directories(_root() / kind):
            with suppress(OSError):
                if not any(folder.iterdir()):
                    continue  # asked for in this moment, or never made
                note = _note(folder)
                yield Copy(
                    kind,
                    str(note.get("url") or folder),
                    sum(one.stat(follow_symlinks=False).st_size for one in _files(folder)),
                    folder.stat().st_mtime,
                    folder,
                    note.get("digest"),
                    used is None or f"{kind}/{folder.name}" in used,
                )


def is_sound(copy: Copy) -> bool:
    """Whether a copy is what was copied. All of it is read."""
    from rh import transfer

    try:
        for path in copy.path.iterdir():
            if path.name.startswith(_NOTE):
                continue
            if copy.kind == "folders" or path.is_dir():
                return bool(transfer.verify_tree(Location("file", str(path))))
            return copy.digest is None or _digest_of(path) == copy.digest
    except (OSError, RhError) as error:
        log.debug("%s: %s", copy.path, error)
        return False
    return True


def in_use() -> frozenset[str] | None:
    """The copies (`folders/<mark>`) that living processes asked for; `None` if nobody can tell."""
    try:
        with _locked():
            return _asked_for()
    except FileNotFoundError:
        return frozenset()  # there is no cache
    except OSError as error:
        log.debug("nobody can tell which copies are in use: %s", error)
        return None


class Removing:
    """`with Removing() as removing:` copies are removed in the block, and nobody can ask for one meanwhile."""

    def __enter__(self) -> Self:
        self._trash = _root() / "trash" / secrets.token_hex(8)
        self._lock = _locked()
        self._used: frozenset[str] | None = None
        self._entered = False
        with suppress(OSError):
            self._lock.__enter__()
            self._entered = True
            self._used = _asked_for()
        return self

    def remove(self, kind: str, path: Path) -> bool:
        """Remove a copy unless somebody needs it. Whether it is gone."""
        if self._used is None or f"{kind}/{path.name}" in self._used:
            return False
        try:
            self._trash.mkdir(parents=True, exist_ok=True)
            path.rename(self._trash / f"{kind}-{path.name}")  # it takes time only when nobody waits any more
        except OSError as error:
            log.debug("%s stays in the cache: %s", path, error)
            return False
        return True

    def __exit__(self, *_: object) -> None:
        if self._entered:
            self._lock.__exit__(None, None, None)
        shutil.rmtree(self._trash.parent, ignore_errors=True)  # and what a killed process left there


def _root() -> Path:
    return config.home() / "cache"


@contextmanager
def _locked() -> Iterator[None]:
    """The lock under which copies are asked for and removed. `OSError` where there can be none."""
    with _lock:
        descriptor = os.open(_root() / "copies.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            with suppress(OSError):  # closing would not do while a child forked meanwhile has it open
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _note_use(mark: str) -> bool:
    """Write down that this process needs a copy. Whether others were found to have ended. The lock is held."""
    root = str(_root())
    ended = False
    held = _mine.get(root)
    if held is None or not os.fstat(held[0]).st_nlink:  # somebody removed the whole cache
        if held is not None:
            os.close(held[0])
            del _mine[root]
        folder = _root() / "users"
        folder.mkdir(exist_ok=True)
        before = len(os.listdir(folder))
        _asked_for()
        ended = len(os.listdir(folder)) < before
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(folder / secrets.token_hex(8), flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = _mine[root] = descriptor, set()
    if mark not in held[1]:
        os.write(held[0], f"{mark}\n".encode())
        held[1].add(mark)
    return ended


def _asked_for() -> frozenset[str]:
    """What the files of living processes say; those of others are taken away. The lock is held."""
    found: set[str] = set()
    with suppress(FileNotFoundError):
        for path in (_root() / "users").iterdir():
            with open(path, "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    found.update(file.read().decode().split())
                else:
                    path.unlink(missing_ok=True)
    return frozenset(found)


def _digest_of(path: Path) -> str:
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        return digests.of_reader(lambda start, stop: os.pread(file.fileno(), stop - start, start), size).text


def _directories(path: Path) -> list[Path]:
    try:
        return [one for one in path.iterdir() if one.is_dir() and not one.is_symlink()]
    except OSError:
        return []


def _files(path: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(path) as found:
        for one in found:
            if one.is_dir(follow_symlinks=False):
                yield from _files(Path(one.path))
            else:
                yield one


def _note(folder: Path) -> dict[str, Any]:
    try:
        note = json.loads((folder / _NOTE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
