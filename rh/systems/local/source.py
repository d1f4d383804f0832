"""Small files of one root, read whole, whatever they are."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Self

from rh.digest import CHUNK, of_bytes
from rh.errors import ConflictError
from rh.systems.local.disk import (
    Folders,
    Root,
    changed,
    etag_of,
    failure,
    holds,
    readable,
    real_path,
    split,
    through_links,
    translated,
)
from rh.types import Entry

if TYPE_CHECKING:
    from rh.systems.local.plain import Reached

__all__ = ["SMALL", "Source", "digest_of"]

SMALL = 1 << 20
"""Files of so many bytes are read whole."""


class Source:
    """Small files of one root, read whole through descriptors of their directories."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._folders = Folders(root.folder)
        self._followed = Folders(lambda parent: root.folder(parent, follow=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._folders.close()
        self._followed.close()

    def where(self, key: str) -> str:
        """A file as errors name it."""
        return self._root.where(key)

    def folder(self, parent: str) -> int:
        """The descriptor of a directory. OSError, NameClashError."""
        return self._folders[parent]

    def reached(self, parent: str) -> Reached:
        """How another process finds a directory. OSError, NameClashError."""
        descriptor = self._folders[parent]
        at = os.fstat(descriptor)
        return real_path(descriptor, self._root.at(parent)), at.st_dev, at.st_ino

    def read(self, entry: Entry) -> tuple[bytes, os.stat_result]:
        """The bytes of an entry and the state of its file after they were read. Typed errors.

        The etag was taken before, so when it still holds after the reading, nothing happened in between.
        """
        key = entry.key
        follow = through_links(entry.etag)
        try:
            folder, name = (self._followed if follow else self._folders).locate(key, self._root.where)
            descriptor = self._root.open(folder, name, key, follow=follow)
            try:
                before = None
                if entry.etag is None:
                    before = os.fstat(descriptor)
                    readable(before, self._root.where(key))
                data, at = os.read(descriptor, entry.size + 1), os.fstat(descriptor)
                if len(data) != entry.size and (before is not None or holds(entry.etag or "", at)):
                    # Not one that grew, which may be of any size by now; some in /proc tell no size.
                    data, at = _whole(descriptor, data), os.fstat(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            if isinstance(error, IsADirectoryError):
                readable(os.stat(self._root.at(key)), self._root.where(key))
            raise failure(error, self._root.where(key)) from error
        if entry.etag is not None:
            if etag_of(at) != entry.etag and not holds(entry.etag, at):
                raise ConflictError("it has changed since it was listed", where=self._root.where(key))
        elif before is None or changed(before, at):
            raise ConflictError("the file changed while it was read", where=self._root.where(key))
        return data, at

    def target(self, entry: Entry) -> str:
        """Where a link points to."""
        parent, name = split(entry.key, self._root.where)
        with translated(self._root.where(entry.key)):
            folder = self._folders[parent]
            if entry.etag is not None and etag_of(os.stat(name, dir_fd=folder, follow_symlinks=False)) != entry.etag:
                raise ConflictError("it has changed since it was listed", where=self._root.where(entry.key))
            return os.readlink(name, dir_fd=folder)


def _whole(descriptor: int, head: bytes) -> bytes:
    """Everything in a file that begins so."""
    pieces = [head]
    while pieces[-1]:
        pieces.append(os.read(descriptor, SMALL))
    return b"".join(pieces)


def digest_of(data: bytes) -> tuple[str, bytes]:
    """The digest of a file's bytes, and its chunks; a small file has grown since it was listed if there are any."""
    if len(data) <= CHUNK:
        return f"sha256:{hashlib.sha256(data).hexdigest()}", b""
    found = of_bytes(data)
    return found.text, found.chunks
