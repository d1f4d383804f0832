"""Large files in pieces that their contents decide: what is put in, or put at the end, moves only the pieces it is in.

The pieces are those of FastCDC (2020), 512 KiB on average, so that the same contents are cut in the same places by any
implementation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rh import config, digest, plugins
from rh.digest import Digest, Hasher
from rh.errors import ConflictError
from rh.systems.base import System
from rh.types import ANY, Entry, Match

__all__ = ["cut", "least"]

_AVERAGE = 512 << 10
_LEAST = 128 << 10
_MOST = (1 << 20) - 1
"""Bytes of a piece: less than what becomes an object of its own."""
_TOGETHER = 8 << 20


def least() -> int | None:
    """Files of so many bytes and more are cut; `None` for none.

    Raises:
        MissingExtraError: files are to be cut, and there is nothing to do it with.
    """
    told = float(config.get("chunk_from_mb") or 0)
    if not told:
        return None
    plugins.need("pyfastcdc", purpose="the setting chunk_from_mb")
    return int(told * (1 << 20))


def cut(source: System, entry: Entry, expected: Digest) -> Iterator[list[tuple[Digest, bytes]]]:
    """The pieces of a file, in order, some MiB together.

    Raises:
        ConflictError: it is not the file that was listed, or not of the digest.
    """
    hasher = Hasher(entry.size)
    cutter = plugins.need("pyfastcdc").FastCDC(avg_size=_AVERAGE, min_size=_LEAST, max_size=_MOST)
    group: list[tuple[Digest, bytes]] = []
    size = 0
    with source.read(entry.key, when=ANY if entry.etag is None else Match(entry.etag)) as body:
        for piece in cutter.cut_stream(_Stream(iter(body), hasher)):
            data = bytes(piece.data)
            group.append((digest.of_bytes(data), data))
            size += len(data)
            if size >= _TOGETHER:
                yield group
                group, size = [], 0
    if group:
        yield group
    if hasher.finish().text != expected.text:
        raise ConflictError("the file changed while it was read", where=source.url(entry.key))


class _Stream:
    """Pieces as they come, for who reads so many bytes at a time; hashed on the way."""

    def __init__(self, pieces: Iterator[Any], hasher: Hasher) -> None:
        self._pieces = pieces
        self._hasher = hasher
        self._held = memoryview(b"")

    def readinto(self, view: memoryview) -> int:
        """Fill the beginning of a buffer, and say how much of it; 0 at the end."""
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._hasher.update(piece)
            self._held = memoryview(piece).cast("B")
        size = min(len(view), len(self._held))
        view[:size] = self._held[:size]
        self._held = self._held[size:]
        return size
