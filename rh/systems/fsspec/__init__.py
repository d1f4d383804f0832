"""Whatever fsspec speaks: `{"kind": "fsspec", "protocol": "…", "options": {…}}`.

Keys are exact: one that the file system would rewrite is refused. Entries come from the file system's own `info`,
and their etags from what it knows of versions (ETag, checksum, or times and inode). fsspec has no preconditions, so
a write that asks for one raises `UnsupportedError`; a read that names an etag compares it before and after. How long
a call may take is up to the file system's own options.
"""

from __future__ import annotations

import io
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, ClassVar

from rh.errors import (
    ConflictError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    UnsupportedError,
)
from rh.observe import count
from rh.systems.base import HIDDEN, Body, Bytes, Settings, System
from rh.systems.fsspec.driver import Driver, Pieces, guarded
from rh.types import ABSENT, ANY, Condition, Entry, Link, Location, Match, Span

__all__ = ["FsspecSystem"]

_PIECE = 1024 * 1024
_VERSIONS = (
    "ETag",
    "etag",
    "e_tag",
    "md5",
    "md5Hash",
    "checksum",
    "generation",
    "version_id",
    "VersionId",
    "hash",
    "sha",
)
_TIMES = (
    "mtime",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "modified",
    "updated",
    "date_time",
    "created",
    "ctime",
)


class FsspecSystem(System):
    """A directory of a file system of fsspec."""

    kind: ClassVar[str] = "fsspec"
    keeps_directories: ClassVar[bool] = True

    def __init__(self, location: Location, settings: Settings, driver: Driver) -> None:
        self.location = location
        self.settings = settings
        self._driver = driver
        self._key_root = location.path.rstrip("/")

    @classmethod
    def open(cls, location: Location, settings: Settings) -> FsspecSystem:
        """A handle on a file system; `protocol` names it and `options` are its arguments."""
        driver = Driver(location, settings)
        if not driver.writable:
            return FsspecReader(location, settings, driver)
        return (cls if driver.has_directories else FsspecStore)(location, settings, driver)

    def at(self, path: str) -> FsspecSystem:
        """The same file system further down."""
        return type(self)(self.location / path if path else self.location, self.settings, self._driver)

    def close(self) -> None:
        """Forget the file system object; the next use makes a new one."""
        self._driver.close()

    # names

    def _path(self, key: str) -> str:
        """The file system's name of a key, checked to be exactly that."""
        parts = key.split("/")
        if key.startswith("/") or any(part in (".", "..") for part in parts):
            raise NameClashError(f"{key!r} would lead out of the root", where=self.url())
        if key and "" in (parts[:-1] if key.endswith("/") else parts):
            raise NameClashError(f"{key!r} holds an empty name", where=self.url())
        path = self._driver.full(f"{self._key_root}/{key.rstrip('/')}" if key else self._key_root, self.url(key))
        self._driver.fence(path, self._driver.full(self._key_root, self.url()), self.url(key))
        return path

    # reading

    def head(self, key: str) -> Entry:
        """The file under `key`."""
        if not key or key.endswith("/"):
            raise NotFoundError("a directory is not a file", where=self.url(key))
        return self._entry(key, self._info(key))

    def _info(self, key: str) -> Mapping[str, Any]:
        path = self._path(key)
        count(self.location.system, "head")
        with self._driver.turn(self.url(key)) as fs:
            fs.invalidate_cache(fs._parent(path))  # noqa: SLF001 - how fsspec itself names a directory
            info: Mapping[str, Any] = fs.info(path)
        if info["type"] != "file" or str(info["name"]).strip("/") != path.strip("/"):
            raise NotFoundError(
                "that is not a file" if info["type"] != "file" else "nothing is there", where=self.url(key)
            )
        return info

    def _entry(self, key: str, info: Mapping[str, Any]) -> Entry:
        size = info.get("size")
        if size is None:
            raise UnsupportedError("the file system does not tell the size", where=self.url(key))
        return Entry(key, int(size), etag=_etag(info), modified=_modified(info))

    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:
        """The bytes of a file, or a range."""
        if when is ABSENT or (span and not 0 <= span[0] <= span[1]):
            raise InvalidError(f"cannot read {span} when {when}", where=self.url(key))
        entry = self.head(key)
        if isinstance(when, Match):
            if entry.etag is None:
                raise UnsupportedError("this file system tells no versions apart", where=self.url(key))
            if entry.etag != when.etag:
                raise ConflictError("it has changed in the meantime", where=self.url(key))
        start, stop = span or (0, entry.size)
        path = self._path(key)
        count(self.location.system, "read")
        with self._driver.turn(self.url(key)) as fs:
            # Reading ahead would fetch more than was asked for; the pieces are large enough without.
            file = fs.open(path, "rb", **({} if span is None else {"cache_type": "none"}))
        return _FsspecBody(self, self._driver, entry, file, min(start, entry.size), min(stop, entry.size))

    def list(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        """Files, directory by directory, and empty directories."""
        top = prefix[: prefix.rfind("/") + 1]
        with suppress(NameClashError):
            self._path(top)
            names = self._members(top)
            if names is not None:
                return self._walk(top, names, prefix, after, depth)
        if self._members("") is None:
            raise NotFoundError("nothing is there", where=self.url())
        return iter(())

    def _walk(
        self, top: str, names: Sequence[tuple[str, Mapping[str, Any]]], prefix: str, after: str, depth: int | None
    ) -> Iterator[Entry]:
        for name, info in names:
            key = top + name
            if name.startswith(HIDDEN) or not (key.startswith(prefix) or prefix.startswith(key)):
                continue
            if not name.endswith("/"):
                if _order(key) > _order(after) and key.startswith(prefix):
                    yield self.head(key) if info.get("islink") else self._entry(key, info)
            elif depth == 1 and key != prefix:
                if _order(key) > _order(after):
                    yield Entry(key, 0, "dir")
            elif _order(key) > _order(after) or after.startswith(key):
                below = self._members(key)
                if below is None:
                    raise ConflictError("a directory went away while it was listed", where=self.url(key))
                if below:
                    yield from self._walk(key, below, prefix, after, depth)
                elif self.keeps_directories and _order(key) > _order(after):
                    yield Entry(key, 0, "dir")

    def _members(self, top: str) -> Sequence[tuple[str, Mapping[str, Any]]] | None:
        """Names and infos in a directory, in key order; `None` if there is none."""
        path = self._path(top)
        count(self.location.system, "list")
        found: dict[str, Mapping[str, Any]] = {}
        with self._driver.turn(self.url(top)) as fs:
            fs.invalidate_cache(path)
            try:
                infos = fs.ls(path, detail=True)
                if not infos and not fs.isdir(path):
                    # Stores without directories have nothing to say about an empty root.
                    return None if fs.root_marker == "/" and path.strip("/") else ()
            except (FileNotFoundError, NotADirectoryError):
                return None
        for info in infos:
            whole = str(info["name"]).strip("/")
            name = posixpath.basename(whole)
            if whole == path.strip("/"):
                if info["type"] == "file" and whole:
                    return None
                continue
            if name in (".", ".."):
                hint = f'path="{self.url(top)}." is what lies below it' if name == "." else None
                raise NameClashError(f"no key can say the name {info['name']!r}", where=self.url(top), hint=hint)
            if info["type"] not in ("file", "directory") and not (info.get("islink") and os.path.isfile(info["name"])):
                raise UnsupportedError(
                    f"{name!r} is neither a file nor a directory that can be listed",
                    where=self.url(top),
                    hint="exclude it, or remove it",
                )
            found[name + ("/" if info["type"] == "directory" else "")] = info
        return sorted(found.items(), key=lambda item: _order(item[0]))

    # writing

    def write(
        self,
        key: str,
        data: Bytes | Iterable[Bytes] | Link,
        *,
        size: int | None = None,
        executable: bool | None = None,  # noqa: ARG002 - fsspec knows no such bit
        when: Condition = ANY,
    ) -> Entry:
        """Write beside the key and rename, or, where the file system publishes on close, write and commit."""
        where = self.url(key)
        if isinstance(data, Link):
            raise UnsupportedError("fsspec has no links", where=where)
        if when is not ANY:
            raise UnsupportedError("fsspec has no preconditions", where=where)
        if not key:
            raise InvalidError("an empty key names nothing", where=where)
        path = self._path(key)
        self._clash(key, path)
        if key.endswith("/"):
            return self._make_directory(key, path, data)
        count(self.location.system, "write")
        sent = Pieces(data)
        with self._driver.turn(where) as fs:
            fs.makedirs(posixpath.dirname(path), exist_ok=True)
        with guarded(where, sent):
            self._driver.publish(path, sent, size, where)
        count(self.location.system, "write", requests=0, sent=sent.total)
        entry = self.head(key)
        if entry.size != sent.total:
            raise IntegrityError(
                "the file system kept another size", where=where, expected=str(sent.total), got=str(entry.size)
            )
        return entry

    def _clash(self, key: str, path: str) -> None:
        """Refuse a file where a directory is, and anything below a file."""
        with self._driver.turn(self.url(key)) as fs:
            fs.invalidate_cache()
            if not key.endswith("/") and fs.isdir(path):
                raise NameClashError("a directory of that name is there", where=self.url(key))
            above = posixpath.dirname(key.rstrip("/"))
            while above:
                if fs.isfile(self._path(above)):
                    raise NameClashError(f"{above!r} is a file", where=self.url(key))
                above = posixpath.dirname(above)

    def _make_directory(self, key: str, path: str, data: Bytes | Iterable[Bytes]) -> Entry:
        if not self.keeps_directories:
            raise UnsupportedError("this file system has no empty directories", where=self.url(key))
        if any(Pieces(data)):
            raise InvalidError("a directory holds no bytes", where=self.url(key))
        count(self.location.system, "write")
        with self._driver.turn(self.url(key)) as fs:
            if fs.isfile(path):
                raise NameClashError("a file of that name is there", where=self.url(key))
            fs.makedirs(path, exist_ok=True)
        return Entry(key, 0, "dir")

    def delete(self, keys: Sequence[str]) -> None:
        """Remove files one by one, and directories that are empty."""
        for key in keys:
            if not key:
                raise InvalidError("an empty key names nothing", where=self.url())
            path = self._path(key)
            count(self.location.system, "delete")
            with self._driver.turn(self.url(key)) as fs, suppress(FileNotFoundError, NotADirectoryError):
                fs.invalidate_cache()
                kind = fs.info(path)["type"]
                if key.endswith("/"):
                    if kind == "directory" and not fs.ls(path, detail=False):
                        fs.rmdir(path)
                elif kind != "directory":
                    fs.rm_file(path)


class FsspecStore(FsspecSystem):
    """A store, whose directories are there only while something is in them."""

    keeps_directories: ClassVar[bool] = False


class FsspecReader(FsspecSystem):
    """An archive, or what is configured as `writable = false`."""

    writable: ClassVar[bool] = False

    def write(self, key: str, *_data: object, **_options: object) -> Entry:
        """`UnsupportedError`: it is read."""
        raise UnsupportedError("this file system is only read", where=self.url(key))

    def delete(self, keys: Sequence[str]) -> None:
        """`UnsupportedError`: it is read."""
        raise UnsupportedError("this file system is only read", where=self.url(keys[0] if keys else ""))


def _order(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _time(value: Any) -> float | None:
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, tuple) and len(value) == 6:  # zip's own
        return datetime(*value).timestamp()  # noqa: DTZ001 - zip files do not say which zone
    if isinstance(value, str):
        with suppress(ValueError):
            return datetime.fromisoformat(value).timestamp()
    return None


def _etag(info: Mapping[str, Any]) -> str | None:
    """What tells this content from another: the place's own version or checksum, else all its times and the inode."""
    for name in _VERSIONS:
        if info.get(name):
            return f"{name}:{info[name]}"
    if info.get("CRC") is not None:
        return f"crc32:{info['CRC']:08x}:{info.get('size')}"
    times = [f"{name}={_time(info[name])!r}" for name in _TIMES if _time(info.get(name)) is not None]
    if not times:
        return None
    return f"size={info.get('size')};ino={info.get('ino')};" + ";".join(times)


def _modified(info: Mapping[str, Any]) -> float | None:
    return next((time for name in _TIMES if (time := _time(info.get(name))) is not None), None)


class _FsspecBody(Body):
    """A range of an open file; compared with its entry again at the end, since fsspec does not pin a version."""

    def __init__(self, system: FsspecSystem, driver: Driver, entry: Entry, file: Any, start: int, stop: int) -> None:
        self.entry = entry
        self._system = system
        self._driver = driver
        # The memory file system hands out the stored object itself, with one position for everybody.
        self._file = io.BytesIO(file.getvalue()) if isinstance(file, io.BytesIO) else file
        self._start = start
        self._left = max(0, stop - start)

    def __iter__(self) -> Iterator[Bytes]:
        where = self._system.url(self.entry.key)
        try:
            if self._start and self._left:
                with self._driver.turn(where):
                    self._file.seek(self._start)
            while self._left:
                with self._driver.turn(where):
                    piece = self._file.read(min(_PIECE, self._left))
                if not piece:
                    self._settle(where)
                    raise IntegrityError(
                        "the file ended early", where=where, expected=f"{self._left} bytes more", got="0"
                    )
                self._left -= len(piece)
                count(self._system.location.system, "read", requests=0, received=len(piece))
                if not self._left:
                    self._settle(where)
                yield piece
        finally:
            self.close()

    def _settle(self, where: str) -> None:
        now = self._system.head(self.entry.key)
        if (now.etag, now.size) != (self.entry.etag, self.entry.size):
            raise ConflictError("it changed while it was read", where=where)

    def close(self) -> None:
        """Close the file."""
        with suppress(Exception), self._driver.turns:
            self._file.close()
