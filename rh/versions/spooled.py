"""A file on its way into a store, put by on a disk of this machine: of one that is killed, nothing is left there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from rh.errors import FullError, NotFoundError, UnsupportedError
from rh.systems.base import Body, Bytes, Settings, System
from rh.types import ANY, Condition, Entry, Location, Span

__all__ = ["Spooled"]

_PIECE = 1 << 20


class Spooled(System):
    """A place that holds one file, whose bytes are in a file without a name until it is closed.

    Args:
        pieces: its bytes.
        folder: on whose disk they are to be; by default that of temporary files.

    Attributes:
        entry: the file.

    Raises:
        FullError: that disk does not take them.
    """

    kind: ClassVar[str] = "memory"
    writable: ClassVar[bool] = False

    def __init__(self, pieces: Iterable[Bytes], folder: str | os.PathLike[str] | None = None) -> None:
        folder = folder or tempfile.gettempdir()
        self.location = Location("memory", "spooled")  # the same for all, so that they share a journal
        self.settings: Settings = {"kind": self.kind}
        self._file = tempfile.TemporaryFile(prefix="rh-", dir=folder)  # noqa: SIM115 - see `close`
        size = 0
        try:
            for piece in pieces:
                self._put(piece, folder)
                size += len(piece)
        except BaseException:
            self.close()
            raise
        self.entry = Entry("data", size, "file")

    def _put(self, piece: Bytes, folder: str | os.PathLike[str]) -> None:
        try:
            self._file.write(piece)
            self._file.flush()
        except OSError as error:
            raise FullError(f"a large file cannot be put by here: {error}", where=os.fspath(folder)) from error

    @classmethod
    def open(cls, location: Location, settings: Settings) -> Spooled:  # noqa: ARG003 - nothing is opened
        """`UnsupportedError`: nothing is there before it is made."""
        raise UnsupportedError("this is not opened, but made of bytes", where=location.path)

    def list(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:  # noqa: ARG002
        """The one file."""
        return iter([self.entry] if self.entry.key.startswith(prefix) and after < self.entry.key else [])

    def head(self, key: str) -> Entry:
        """The one file."""
        if key != self.entry.key:
            raise NotFoundError("nothing is there", where=self.url(key))
        return self.entry

    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:  # noqa: ARG002 - never changes
        """The bytes of the file, or a range of them."""
        start, stop = (0, self.head(key).size) if span is None else span
        return _Body(self.entry, self._file.fileno(), start, min(stop, self.entry.size))

    def write(self, key: str, *_data: object, **_options: object) -> Entry:
        """`UnsupportedError`."""
        raise UnsupportedError("nothing more can be written here", where=self.url(key))

    def delete(self, keys: Sequence[str]) -> None:
        """`UnsupportedError`."""
        raise UnsupportedError("nothing can be deleted here", where=self.url(keys[0] if keys else ""))

    def at(self, path: str) -> Spooled:
        """`UnsupportedError`."""
        raise UnsupportedError("there are no directories here", where=self.url(path))

    def close(self) -> None:
        """Let go of the bytes."""
        self._file.close()


class _Body(Body):
    """A range of an open file."""

    def __init__(self, entry: Entry, descriptor: int, start: int, stop: int) -> None:
        self.entry = entry
        self._descriptor, self._start, self._stop = descriptor, start, stop

    def __iter__(self) -> Iterator[Bytes]:
        for at in range(self._start, self._stop, _PIECE):
            yield os.pread(self._descriptor, min(_PIECE, self._stop - at), at)
