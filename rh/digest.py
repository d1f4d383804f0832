"""The digest of content: SHA-256, chunked above 16 MiB.

Up to 16 MiB it is the plain SHA-256 of the bytes, written `sha256:<hex>`. Larger content is hashed in
chunks of 16 MiB (doubled until there are at most 8,192) and the digest is the SHA-256 of the concatenated raw
chunk digests, written `sha256-16m:<hex>` (`-32m`, …): the construction of S3's composite checksum for
parts of that size. It is computed on all cores, and the chunk digests verify ranges without the whole.

This module runs on the far side of an SSH link too: standard library only, Python 3.7 or newer, nothing of `rh`.
"""

from __future__ import annotations

import hashlib
from os import cpu_count
from typing import Callable, NamedTuple  # noqa: UP035

__all__ = ["CHUNK", "MAX_CHUNKS", "Digest", "Hasher", "chunk_size", "combine", "of_bytes", "of_reader", "parse"]

CHUNK = 16 * 1024 * 1024
MAX_CHUNKS = 8192
_RAW = 32


class Digest(NamedTuple):
    """A digest in text form, and the raw chunk digests (32 bytes each, concatenated; empty if not chunked)."""

    text: str
    chunks: bytes = b""


def contradict(told: str | None, got: str | None) -> bool:
    """Whether two checksums in text form are of one kind and differ, so that they cannot be of the same bytes."""
    return bool(told and got) and told != got and str(told).partition(":")[0] == str(got).partition(":")[0]


def chunk_size(size: int) -> int:
    """The chunk size in bytes for content of `size` bytes; 0 when it is hashed whole."""
    if size <= CHUNK:
        return 0
    chunk = CHUNK
    while -(-size // chunk) > MAX_CHUNKS:
        chunk *= 2
    return chunk


def combine(chunks: bytes, chunk: int) -> Digest:
    """The digest from raw chunk digests of chunks of `chunk` bytes."""
    return Digest(f"sha256-{chunk >> 20}m:{hashlib.sha256(chunks).hexdigest()}", chunks)


def parse(text: str) -> tuple[str, int, str]:
    """Split `sha256-16m:<hex>` into algorithm, chunk size in bytes (0: whole) and hex. ValueError if malformed."""
    tag, _, value = text.partition(":")
    algorithm, _, chunk = tag.partition("-")
    if algorithm != "sha256" or len(value) != 2 * _RAW or value.strip("0123456789abcdef"):
        raise ValueError(f"not a digest: {text[:80]!r}")
    if not chunk:
        return algorithm, 0, value
    if not chunk.endswith("m") or not chunk[:-1].isdigit() or int(chunk[:-1]) < 16:
        raise ValueError(f"not a digest: {text[:80]!r}")
    return algorithm, int(chunk[:-1]) << 20, value


def of_bytes(data: bytes | bytearray | memoryview) -> Digest:
    """The digest of bytes in memory."""
    size = len(data)
    if size <= CHUNK:
        return Digest("sha256:" + hashlib.sha256(data).hexdigest())
    view = memoryview(data)
    return of_reader(lambda start, stop: view[start:stop], size)


def of_reader(
    read: Callable[[int, int], bytes | bytearray | memoryview], size: int, workers: int | None = None
) -> Digest:
    """The digest of `size` bytes that `read(start, stop)` gives (thread-safe, exact), on all cores."""
    chunk = chunk_size(size)
    if not chunk:
        return Digest("sha256:" + hashlib.sha256(read(0, size)).hexdigest())
    workers = workers or cpu_count() or 1
    piece = 1 << 20

    def one(start: int) -> bytes:
        stop = min(start + chunk, size)
        state = hashlib.sha256()
        for at in range(start, stop, piece):
            state.update(read(at, min(at + piece, stop)))
        return state.digest()

    starts = range(0, size, chunk)
    if workers == 1:
        return combine(b"".join(map(one, starts)), chunk)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers) as pool:
        return combine(b"".join(pool.map(one, starts)), chunk)


class Hasher:
    """The digest of a stream. `size` is the stream's length in bytes where it is known.

    Without it, content of more than 128 GiB cannot be chunked after the fact and `update` raises ValueError.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = 0
        self._chunk = (chunk_size(size) or CHUNK) if size is not None else CHUNK
        self._state = hashlib.sha256()
        self._room = self._chunk
        self._done: list[bytes] = []

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take more bytes."""
        length = len(data)
        self.size += length
        if length <= self._room:
            self._state.update(data)
            self._room -= length
            return
        view = memoryview(data)
        at = 0
        while at < length:
            if not self._room:
                self._close()
            step = min(self._room, length - at)
            self._state.update(view[at : at + step])
            self._room -= step
            at += step

    def _close(self) -> None:
        if len(self._done) + 1 >= MAX_CHUNKS and self._chunk == CHUNK:
            raise ValueError("a stream of more than 128 GiB needs its size beforehand")
        self._done.append(self._state.digest())
        self._state = hashlib.sha256()
        self._room = self._chunk

    def raw(self) -> bytes:
        """The raw digests of the chunks taken, the last of which may be shorter."""
        return b"".join(self._done) + self._state.digest()

    def finish(self) -> Digest:
        """The digest of all bytes taken."""
        if not self._done and self.size <= CHUNK:
            return Digest("sha256:" + self._state.hexdigest())
        return combine(self.raw(), self._chunk)
