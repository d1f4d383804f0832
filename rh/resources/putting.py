"""Storing several things in a folder at once: everything is checked before the first byte is stored."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rh import config
from rh.content.names import check_all
from rh.errors import ExistsError, InvalidError, NameClashError, NotFoundError, UnsupportedError
from rh.observe import log
from rh.registry.lineage import recording
from rh.resources import places
from rh.systems import locate, unwritable
from rh.systems.base import Bytes, System
from rh.types import ABSENT, ANY, Location

if TYPE_CHECKING:
    from rh.content.tree import Row
    from rh.resources.folder import Folder

__all__ = ["put"]

_PIECE = 1 << 20
_FEW = 64
"""Up to so many names, each is asked for; beyond, the directories they are in are listed."""

T = TypeVar("T")
R = TypeVar("R")


class _Item(NamedTuple):
    """One thing to store: bytes, a stream, or a copy of a file or tree that is somewhere."""

    key: str
    data: Bytes | io.IOBase | None = None
    source: Location | None = None
    tree: bool = False
    stored: Row | None = None


def put(folder: Folder, contents: Mapping[str, Any], *, overwrite: bool) -> None:
    """`Folder.put`."""
    if not isinstance(contents, Mapping):
        raise InvalidError(
            f"put takes a mapping of paths to contents, not {type(contents).__name__}", hint="{'a.txt': b'…'}"
        )
    items = [_item(key, value) for key, value in contents.items()]
    if not items:
        return
    system = folder.handle()
    if not system.writable:
        raise unwritable(system)
    keys = sorted((item.key for item in items), key=lambda key: key.encode("utf-8", "surrogateescape"))
    check_all(keys, "file", where=system.url())  # what a disk could not hold side by side is refused everywhere
    _check_existing(system, items, overwrite=overwrite)
    written: list[str] = []
    try:
        # Streams are read one after the other; the rest goes at once.
        for item in items:
            if isinstance(item.data, io.IOBase):
                _store(folder, system, item, overwrite=overwrite, written=written)
        rest = [item for item in items if not isinstance(item.data, io.IOBase)]
        _at_once(lambda item: _store(folder, system, item, overwrite=overwrite, written=written), rest)
    except BaseException:
        if written and not overwrite:
            # Nothing was there before, so what was stored is taken back.
            log.info("put did not complete; removing the %d files it stored in %s", len(written), folder.url)
            system.delete(written)
        raise


def _item(key: str, value: Any) -> _Item:
    from rh.resources.base import Located
    from rh.resources.blob import Blob
    from rh.resources.folder import Folder

    places.check_key(key)
    plain = key.rstrip("/")
    if isinstance(value, Folder):
        value.check_reachable()
        recording.read(value)
        return _Item(plain, source=value.location, tree=True)
    if isinstance(value, Blob) and value.location is None:
        value = value.read()
    if isinstance(value, Located):
        value.check_reachable()
        recording.read(value)
        item = _Item(plain, source=value.placed(), stored=value.stored if isinstance(value, Blob) else None)
    elif isinstance(value, bytes | bytearray | memoryview):
        item = _Item(plain, value)
    elif isinstance(value, os.PathLike):
        source = locate(value, "file")
        if os.path.isdir(source.path):
            return _Item(plain, source=source, tree=True)
        if not os.path.exists(source.path):
            raise NotFoundError("there is no such file to put", where=source.path)
        item = _Item(plain, source=source)
    elif isinstance(value, io.TextIOBase) or (hasattr(value, "read") and isinstance(value.read(0), str)):
        raise InvalidError(f"{key!r} is given as text", hint="open the file in binary mode ('rb')")
    elif hasattr(value, "read"):
        item = _Item(plain, value if isinstance(value, io.IOBase) else _Wrapped(value))
    elif isinstance(value, str):
        raise InvalidError(
            f"{key!r} is given as text, which could be contents or a path", hint="text.encode(), or Path(text)"
        )
    else:
        raise InvalidError(
            f"{key!r} is given as {type(value).__name__}",
            hint="bytes, a binary file object, a Path, a folder or a blob",
        )
    if key != plain:
        raise InvalidError(f"{key!r} ends like a directory, and its content is a file")
    return item


class _Wrapped(io.RawIOBase):
    """Anything with `read` as a file object."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self._inner = inner

    def read(self, size: int = -1, /) -> bytes:
        data: bytes = self._inner.read(size)
        return data


def _check_existing(system: System, items: list[_Item], *, overwrite: bool) -> None:
    """Refuse what is there already, and files where directories are or the other way round."""
    ancestors = sorted({key[:at] for key in (item.key for item in items) for at in _slashes(key)})
    files, directories = _looked_up(system, [item.key for item in items], ancestors)
    for ancestor in ancestors:
        if ancestor in files:
            raise NameClashError("this is a file, so nothing can lie below it", where=system.url(ancestor))
    taken = []
    for item in items:
        there = directories if item.tree else files
        other = files if item.tree else directories
        if item.key in other:
            what, not_what = ("file", "directory") if item.tree else ("directory", "file")
            raise NameClashError(f"this is a {what}, and a {not_what} is to be stored here", where=system.url(item.key))
        if item.key in there:
            taken.append(item.key)
    if taken and not overwrite:
        shown = ", ".join(taken[:5]) + (", …" if len(taken) > 5 else "")
        raise ExistsError(
            f"{len(taken)} of {len(items)} exist already: {shown}",
            where=system.url(),
            hint="overwrite=True replaces them",
        )


def _slashes(key: str) -> Iterator[int]:
    at = key.find("/")
    while at >= 0:
        yield at
        at = key.find("/", at + 1)


def _looked_up(system: System, keys: list[str], ancestors: list[str]) -> tuple[set[str], set[str]]:
    """Which of the paths are files, and which of `keys` are directories."""
    if len(keys) <= _FEW:
        found = set(_at_once(lambda key: key if _is_file(system, key) else "", [*keys, *ancestors]))
        below = set(_at_once(lambda key: key if _is_directory(system, key) else "", keys))
        return found, below
    files: set[str] = set()
    directories: set[str] = set()
    for parent in sorted({key.rpartition("/")[0] for key in [*keys, *ancestors]}):
        try:
            for entry in system.list(parent + "/" if parent else "", depth=1):
                (directories if entry.kind == "dir" else files).add(entry.key.rstrip("/"))
        except NotFoundError:
            continue
    return files, directories


def _is_file(system: System, key: str) -> bool:
    try:
        system.head(key)
    except NotFoundError:
        return False
    return True


def _is_directory(system: System, key: str) -> bool:
    try:
        return next(iter(system.list(key + "/", depth=1)), None) is not None
    except NotFoundError:
        return False


def _at_once(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The results of `work`, in order; the first error is raised when all that began has ended."""
    items = list(items)
    if len(items) <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(len(items), int(config.get("workers"))), thread_name_prefix="rh-put") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


def _store(folder: Folder, system: System, item: _Item, *, overwrite: bool, written: list[str]) -> None:
    if item.source is not None:
        from rh import transfer

        options = transfer.Options(on_existing="update" if overwrite else "error", ignore_file=False)
        target = folder.location / item.key
        if item.tree:
            transfer.copy_tree(item.source, target, options)
        else:
            transfer.copy_file(item.source, target, options, stored=item.stored)
            written.append(item.key)
        return
    stream = item.data if isinstance(item.data, bytes | bytearray | memoryview) else _pieces(item.data)
    if overwrite:
        system.write(item.key, stream, when=ANY)
        return
    try:
        system.write(item.key, stream, when=ABSENT)
    except UnsupportedError:
        # The store cannot check this itself and has read nothing; we checked a moment ago.
        system.write(item.key, stream, when=ANY)
    written.append(item.key)


def _pieces(file: Any) -> Iterator[Bytes]:
    while piece := file.read(_PIECE):
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise InvalidError("the file object gives no bytes", hint="open it in binary mode ('rb')")
        yield piece
