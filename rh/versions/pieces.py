"""Large files in pieces that their contents decide: what is put in, or put at the end, moves only the pieces it is in.

The pieces are those of FastCDC (2020), 512 KiB on average, so that the same contents are cut in the same places by any
implementation.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from rh import config, digest, plugins
from rh.digest import Digest, Hasher
from rh.errors import ConflictError
from rh.systems.base import System
from rh.types import ANY, Entry, Match
from rh.versions.nodes import Child, pieces_of

__all__ = ["cut", "least", "unchanged"]

_AVERAGE = 512 << 10
_LEAST = 128 << 10
_MOST = (1 << 20) - 1
"""Bytes of a piece: less than what becomes an object of its own."""
_TOGETHER = 8 << 20
_RAW = 32
"""Bytes of a chunk digest."""


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


def unchanged(was: Child, chunks: bytes | None, now: Digest) -> list[Child]:
    """The first pieces of a file as it was that it still has, as far as its chunk digests tell.

    The last piece is not among them: it ends where the file ended, not where its contents say.

    Args:
        was: the file in an earlier version.
        chunks: its chunk digests there, if they are known.
        now: the digest it has by now.
    """
    length = digest.parse(now.text)[1]
    if not (length and chunks and now.chunks and digest.parse(was.digest)[1] == length):
        return []
    pairs = zip(_raw(chunks), _raw(now.chunks), strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) * length
    found: list[Child] = []
    end = 0
    for piece in pieces_of(was)[:-1]:
        end += piece.size
        if end > same:
            break
        found.append(piece)
    return found


def _raw(chunks: bytes) -> list[bytes]:
    """Chunk digests one by one."""
    return [chunks[at : at + _RAW] for at in range(0, len(chunks), _RAW)]


def cut(source: System, entry: Entry, expected: Digest, start: int = 0) -> Iterator[list[tuple[Digest, bytes]]]:
    """The pieces of a file, in order, some MiB together.

    Args:
        source: where it is.
        entry: the file.
        expected: its digest.
        start: how many bytes of it, up to the end of a piece, are in pieces that `unchanged` told. It is read from the
            chunk on that they end in, so that what is read can be compared.

    Raises:
        ConflictError: it is not the file that was listed, or not of the digest.
    """
    length = digest.parse(expected.text)[1]
    before = start // length if start else 0
    begin = before * length
    hasher = Hasher(entry.size)
    cutter = plugins.need("pyfastcdc").FastCDC(avg_size=_AVERAGE, min_size=_LEAST, max_size=_MOST)
    group: list[tuple[Digest, bytes]] = []
    size = 0
    span = (begin, entry.size) if begin else None
    with source.read(entry.key, span, when=ANY if entry.etag is None else Match(entry.etag)) as body:
        for piece in cutter.cut_stream(_Stream(iter(body), hasher, start - begin)):
            data = bytes(piece.data)
            group.append((digest.of_bytes(data), data))
            size += len(data)
            if size >= _TOGETHER:
                yield group
                group, size = [], 0
    if group:
        yield group
    found = hasher.finish()
    if before:
        rest = found.chunks or bytes.fromhex(digest.parse(found.text)[2])
        found = digest.combine(expected.chunks[: before * _RAW] + rest, length)
    if found.text != expected.text:
        raise ConflictError("the file changed while it was read", where=source.url(entry.key))


class _Stream:
    """Pieces as they come, for who reads so many bytes at a time; hashed on the way.

    The first `skip` bytes are only hashed.
    """

    def __init__(self, pieces: Iterator[Any], hasher: Hasher, skip: int) -> None:
        self._pieces = pieces
        self._hasher = hasher
        self._skip = skip
        self._held = memoryview(b"")

    def readinto(self, view: memoryview) -> int:
        """Fill the beginning of a buffer, and say how much of it; 0 at the end."""
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._hasher.update(piece)
            held = memoryview(piece).cast("B")
            self._held = held[self._skip :]
            self._skip -= len(held) - len(self._held)
        size = min(len(view), len(self._held))
        view[:size] = self._held[:size]
        self._held = self._held[size:]
        return size
