"""Chunks that are kept one by one become the whole file, without taking more room, where blocks can be shared."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from rh.digest import parse
from rh.observe import log
from rh.versions import cache

__all__ = ["joined"]

_FICLONERANGE = 0x4020940D
_RANGE = struct.Struct("qQQQ")
_cannot: set[int] = set()


def joined(contents: cache.Contents, digest: str, size: int, chunks: bytes) -> Path | None:
    """The file that holds a content of which all chunks are kept, not compared yet; `None` if that cannot be made.

    Args:
        contents: what is kept.
        digest: of the content.
        size: its bytes.
        chunks: its chunk digests, raw.
    """
    step = parse(digest)[1]
    parts = [f"sha256:{chunks[at : at + 32].hex()}" for at in range(0, len(chunks), 32)]
    paths = [cache.path_of(part) for part in parts]
    try:
        if paths[0].stat().st_dev in _cannot or not all(path.is_file() for path in paths):
            return None
        sink = contents.sink(size)
        if sink is None:
            return None
    except OSError:
        return None
    try:
        for number, path in enumerate(paths):
            with open(path, "rb", buffering=0) as part:
                # 0 bytes are all there are; chunks begin where blocks do.
                told = _RANGE.pack(part.fileno(), 0, 0, number * step)
                fcntl.ioctl(sink.descriptor, _FICLONERANGE, told)
        sink.finish(digest)
    except FileNotFoundError:  # somebody made room in this moment
        return None
    except OSError as error:
        log.debug("chunks are not put together: %s", error)
        _cannot.add(os.fstat(sink.descriptor).st_dev)
        return None
    finally:
        sink.abandon()
    for one in dict.fromkeys(parts):
        contents.drop(one)
    return cache.path_of(digest)
