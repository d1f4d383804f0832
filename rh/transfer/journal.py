"""What a transfer has done so far, on disk, so that the same call goes on after a crash.

One append-only file per (source, target), trees or single files, below `~/.rh/journal`: every finished file, every
upload begun and every part that arrived, each record with its checksum. It is a hint and nothing more: a record counts
only while the etags in it are still those of the store. Uploads and parts are written at once, finished files some
tenths of a second's worth at a time: what a crash takes with it is found at the target and compared. When the transfer
is complete the file is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import marshal
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rh import config
from rh.content.cache import DigestCache, place
from rh.content.tree import Row
from rh.observe import log
from rh.systems.base import System
from rh.types import Entry

__all__ = ["Journal", "OpenUpload"]

_HEAD = struct.Struct("<II")
_KEEP_S = 7 * 24 * 3600
_LATEST_S = 0.2
_MOST = 1 << 16


@dataclass(slots=True)
class OpenUpload:
    """An upload begun and not finished: of which source bytes, its token, and the digests of the parts that arrived."""

    key: str
    size: int
    source_etag: str | None
    token: str
    part_size: int
    parts: dict[int, bytes] = field(default_factory=dict)


class Journal:
    """The journal of one transfer. Opening it takes over what an earlier, interrupted run left.

    Args:
        source, target: the two ends.
        only: the key at the source and the one at the target, where a single file is what is copied.
    """

    def __init__(self, source: System, target: System, only: tuple[str, str] | None = None) -> None:
        self._source, self._target = source, target
        self._fd: int | None = None
        self._lock = threading.Lock()
        self._waiting = bytearray()
        self._written = 0.0
        self.uploads: dict[str, OpenUpload] = {}
        where = place(target)
        if where is None:
            return
        name = hashlib.sha256(
            repr((source.url(), where, *(only or ()))).encode("utf-8", "surrogateescape")
        ).hexdigest()[:32]
        directory = config.home() / "journal"
        self.path = directory / f"{name}.log"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.warning("no journal can be kept, so an interrupted transfer starts over: %s", error)
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # The same transfer runs elsewhere; it has the journal.
            os.close(fd)
            return
        self._fd = fd
        self._take_over()

    def _records(self) -> Iterator[tuple[Any, ...]]:
        assert self._fd is not None
        with open(os.dup(self._fd), "rb") as file:
            file.seek(0)
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                length, checksum = _HEAD.unpack(head)
                data = file.read(length)
                if len(data) < length or zlib.crc32(data) != checksum:
                    return  # the tail of a crash
                yield marshal.loads(data)  # noqa: S302 - our own file, 0600

    def _take_over(self) -> None:
        assert self._fd is not None
        if os.fstat(self._fd).st_size == 0:
            return
        source, target = DigestCache(self._source), DigestCache(self._target)
        ours: list[Row] = []
        theirs: list[Row] = []
        try:
            for kind, *record in self._records():
                if kind == "done":
                    key, etag, target_key, target_etag, size, digest, chunks = record
                    if etag is not None:
                        ours.append(Row(key, size, "file", digest, etag, None, chunks))
                    theirs.append(Row(target_key, size, "file", digest, target_etag, None, chunks))
                    self.uploads.pop(target_key, None)
                    if len(theirs) >= 10_000:
                        source.remember(ours)
                        target.remember(theirs)
                        ours.clear()
                        theirs.clear()
                elif kind == "begin":
                    self.uploads[record[0]] = OpenUpload(*record)
                elif kind == "part":
                    key, number, chunks = record
                    if key in self.uploads:
                        self.uploads[key].parts[number] = chunks
                elif kind == "drop":
                    self.uploads.pop(record[0], None)
        except (EOFError, IndexError, TypeError, ValueError) as error:
            log.warning("the rest of the journal is of another version of rh, and not gone on from: %s", error)
        source.remember(ours)
        target.remember(theirs)
        os.ftruncate(self._fd, 0)
        for upload in self.uploads.values():
            self.begin(upload)
            for number, chunks in upload.parts.items():
                self.part(upload.key, number, chunks)

    def _write(self, *record: Any, now: bool = True) -> None:
        if self._fd is None:
            return
        data = marshal.dumps(record)
        with self._lock:
            self._waiting += _HEAD.pack(len(data), zlib.crc32(data))
            self._waiting += data
            if now or len(self._waiting) > _MOST or time.monotonic() - self._written > _LATEST_S:
                self._flush()

    def _flush(self) -> None:
        """Write what waits; the lock is held."""
        if self._fd is not None and self._waiting:
            try:
                os.write(self._fd, self._waiting)
            except OSError as error:
                log.warning("the journal cannot be written: %s", error)
                os.close(self._fd)
                self._fd = None
        self._waiting.clear()
        self._written = time.monotonic()

    def done(self, source: Entry, target: Row, *, settled: bool) -> None:
        """A file has arrived. `settled`: whether the source's etag may be relied on later."""
        if target.digest is not None:
            etag = source.etag if settled else None
            record = (source.key, etag, target.key, target.etag, target.size, target.digest, target.chunks)
            self._write("done", *record, now=False)

    def begin(self, upload: OpenUpload) -> None:
        """An upload has begun."""
        self.uploads[upload.key] = upload
        self._write("begin", upload.key, upload.size, upload.source_etag, upload.token, upload.part_size)

    def part(self, key: str, number: int, chunks: bytes) -> None:
        """A part has arrived; `chunks` are the raw digests of its chunks."""
        self._write("part", key, number, chunks)

    def drop(self, key: str) -> None:
        """An upload was finished or given up."""
        if self.uploads.pop(key, None) is not None:
            self._write("drop", key)

    def close(self, *, complete: bool) -> None:
        """Let go of it, and remove it if all is done."""
        with self._lock:
            if complete:
                self._waiting.clear()
            self._flush()
            if self._fd is None:
                return
            if complete:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # closing would not do while a child forked meanwhile has it open
            os.close(self._fd)
            self._fd = None

    @staticmethod
    def sweep() -> int:
        """Remove journals nobody came back to for a week. Returns how many."""
        removed = 0
        for path in (config.home() / "journal").glob("*.log"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _KEEP_S:
                    path.unlink()
                    removed += 1
        return removed
