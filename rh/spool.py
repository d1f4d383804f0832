"""Plain values put by on disk, so that memory does not grow with a tree."""

from __future__ import annotations

import marshal
import os
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any

__all__ = ["Spool"]

_HEAD = 4


class Spool:
    """Values that `marshal` knows, in a file that has no name and goes with this object.

    Each comes back as it was written. Many small ones are written together, as one list: that costs less.
    """

    def __init__(self, prefix: str) -> None:
        self._file = tempfile.TemporaryFile(prefix=prefix)  # noqa: SIM115 - lives as long as the spool
        self.close = weakref.finalize(self, self._file.close)

    def write(self, value: Any) -> None:
        """Put one value behind the others. Not in mid-iteration."""
        data = marshal.dumps(value)
        self._file.seek(0, os.SEEK_END)
        self._file.write(len(data).to_bytes(_HEAD, "big") + data)

    def __iter__(self) -> Iterator[Any]:
        """All of them in order. One iteration at a time."""
        self._file.seek(0)
        # Not `marshal.load`, which asks the file for a few bytes at a time.
        while head := self._file.read(_HEAD):
            yield marshal.loads(self._file.read(int.from_bytes(head, "big")))  # noqa: S302 - our own unnamed file
