"""The bytes of a table's files for Arrow: natively on this machine, elsewhere by ranges.

Every read is held against the snapshot. Where a file has another etag or size now, or is gone, the index tells what
that means: if it still names that very file, the file is damaged or lost (`IntegrityError`), and to open the table
again is no help; else the table changed (`ConflictError`).
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rh.errors import ConflictError, IntegrityError, InvalidError, NotFoundError, RhError
from rh.forks import Lock
from rh.plugins import need
from rh.systems.base import System
from rh.systems.local import LocalSystem
from rh.systems.local.disk import failure, holds, split, through_links
from rh.tables import index
from rh.tables.base import DataFile
from rh.types import ANY, Match

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "BLOCK",
    "ENCODING",
    "TAIL",
    "Ranges",
    "Source",
    "check_footer",
    "check_now",
    "first_line",
    "named_twice",
    "open_file",
    "translated",
]

TAIL = 1 << 16
"""Bytes at the end of a file that are read first: footers are there, and seldom longer."""
BLOCK = 8 << 20
"""Bytes that are fetched at once of a file that is read from its begin to its end."""
ENCODING = 'options={"encoding": "latin-1"} reads CSV in that encoding, or in whichever it has'
"""The hint for text that is not UTF-8."""


def open_file(system: System, file: DataFile, *, block: int = 0) -> pa.NativeFile:
    """A table's file for Arrow to read at any position; nothing of it is read yet.

    On this machine Arrow reads the file itself, by `pread`: a memory map is no faster, and a file cut short beneath it
    ends the process. Elsewhere each read of Arrow is one ranged read that demands the etag of the snapshot.

    Args:
        system: opened at the table's directory.
        file: of a snapshot.
        block: bytes to fetch at once elsewhere where reads follow each other; 0: what is asked for.

    Raises:
        ConflictError: it is not the file of the snapshot any more (here: now; elsewhere: at the first read).
        IntegrityError: nor what the table's index still says of it.
        AccessError: it may not be read.
    """
    descriptor = _local_descriptor(system, file)
    if descriptor is None:
        opened = need("pyarrow").PythonFile(Ranges(system, file, block=block), mode="r")
    else:
        try:
            opened = _native(descriptor)
        finally:
            os.close(descriptor)
    check_footer(opened, file, system.url(file.key))
    return opened


def check_footer(opened: pa.NativeFile, file: DataFile, where: str) -> None:
    """Raise `IntegrityError` unless a Parquet file has the footer that was written, where that is known.

    Arrow believes what a footer says, and may end the process over one that was damaged.
    """
    if file.footer is None:
        return
    length, _, expected = file.footer.partition(":")
    size = int(length)
    got = hashlib.sha256(opened.read_at(size, max(0, file.size - size))).hexdigest()
    if got != expected:
        raise IntegrityError("the file's footer is damaged", where=where, expected=expected, got=got)


class Source:
    """A table's file opened for Arrow, and what tells whether it is still the file of the snapshot.

    Attributes:
        file: what Arrow reads.
        ranges: what it reads through elsewhere; `None` on this machine.
    """

    def __init__(self, system: System, file: DataFile, *, block: int = 0) -> None:
        self._known = file
        self._system = system
        self._descriptor = _local_descriptor(system, file)
        self.ranges: Ranges | None = None
        self.file: pa.NativeFile
        if self._descriptor is None:
            self.ranges = Ranges(system, file, block=block)
            self.file = need("pyarrow").PythonFile(self.ranges, mode="r")
        else:
            self.file = _native(self._descriptor)

    def check(self) -> None:
        """Raise what `open_file` does if the file changed since it was opened. Elsewhere every read does that."""
        if self._descriptor is not None:
            _unchanged(self._descriptor, self._system, self._known)

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
            self.file.close()
        elif self.ranges is not None:
            self.ranges.close()


def check_now(system: System, file: DataFile) -> None:
    """Raise what `open_file` does if a file of this machine is not that of the snapshot; elsewhere every read does."""
    descriptor = _local_descriptor(system, file)
    if descriptor is not None:
        os.close(descriptor)


def _native(descriptor: int) -> pa.NativeFile:
    """The very file that was looked at, wherever its path leads now."""
    return need("pyarrow").OSFile(f"/dev/fd/{descriptor}")


def _local_descriptor(system: System, file: DataFile) -> int | None:
    """An open descriptor of a file on this machine, which is still that of the snapshot; `None` if it is elsewhere."""
    local = system.ask(LocalSystem)
    if local is None:
        return None
    where = local.url(file.key)
    parent, name = split(file.key, local.url)
    follow = through_links(file.etag)
    try:
        folder = local.root.folder(parent, follow=follow)
        try:
            descriptor = local.root.open(folder, name, file.key, follow=follow)
        finally:
            os.close(folder)
    except OSError as error:
        raise _as_change(failure(error, where), system, file) from error
    try:
        _unchanged(descriptor, system, file)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _unchanged(descriptor: int, system: System, file: DataFile) -> None:
    """Raise what `open_file` does if an open file is not in the state that the snapshot knows."""
    at = os.fstat(descriptor)
    if at.st_size != file.size or (file.etag is not None and not holds(file.etag, at)):
        raise _changed(system, file)


def _changed(system: System, file: DataFile, *, gone: bool = False) -> ConflictError | IntegrityError:
    """What it means that a file of a snapshot is gone or another one now: the index, read again, tells."""
    where = system.url(file.key)
    if _is_named(system, file):
        what = "is lost" if gone else "is not as it was written"
        return IntegrityError(
            f"the table is damaged: this file {what}",
            where=where,
            hint='restore the table from a version (.restore("v1")), or write it again with mode="overwrite"',
        )
    what = "is gone" if gone else "is another one now"
    return ConflictError(f"the table changed: this file {what}", where=where, hint="open the table again")


def _is_named(system: System, file: DataFile) -> bool:
    """Whether the table's index, as it is now, names that very file. What others wrote has none."""
    try:
        now = index.read(system)
    except RhError:  # what is known of the file is to be told
        return False
    same = (file.size, file.etag, file.digest)
    return now is not None and any(
        one.key == file.key and (one.size, one.etag, one.digest) == same for one in now.snapshot.files
    )


def _as_change(error: RhError, system: System, file: DataFile) -> RhError:
    """What a failed read of a file of a snapshot means: one that is gone is a table that changed, or damage."""
    if isinstance(error, NotFoundError):
        return _changed(system, file, gone=True)
    return _changed(system, file) if isinstance(error, ConflictError) else error


class _Ending:
    """Lets Arrow's own threads come to rest before the interpreter ends: one that calls Python then ends the process.

    Arrow reads ahead, also for a reader that was left in the middle. When the program ends, reads under way are
    awaited, and new ones are errors, at which Arrow gives up.
    """

    QUIET_S, PATIENCE_S = 0.05, 10.0

    def __init__(self) -> None:
        self._lock = Lock()
        self._reading = 0
        self._last = 0.0
        self._over = False
        atexit.register(self.wait)
        os.register_at_fork(after_in_child=self._none)

    def _none(self) -> None:
        self._reading = 0

    def __enter__(self) -> None:
        with self._lock:
            self._last = time.monotonic()
            if self._over:
                raise RhError("the program is ending")
            self._reading += 1

    def __exit__(self, *_exc: object) -> None:
        with self._lock:
            self._reading -= 1
            self._last = time.monotonic()

    def wait(self) -> None:
        """Refuse new reads, and wait until there are none."""
        self._over = True
        until = time.monotonic() + self.PATIENCE_S
        while self._last and time.monotonic() < until:
            with self._lock:
                if not self._reading and time.monotonic() - self._last > self.QUIET_S:
                    return
            time.sleep(self.QUIET_S / 5)


_ending = _Ending()


class Ranges:
    """A file elsewhere, as Python's files are read; what was fetched ahead is taken from memory.

    One thread reads it at a time (Arrow sees to that); `fetch` may be called from others.
    """

    def __init__(self, system: System, file: DataFile, *, block: int = 0) -> None:
        self.closed = False
        self.tail: tuple[int, memoryview] | None = None
        self._block = block
        self._system = system
        self._file = file
        self._when = ANY if file.etag is None else Match(file.etag)
        self._held: list[tuple[int, memoryview]] = []
        self._at = 0

    def fetch(self, start: int, stop: int) -> memoryview:
        """Bytes of the file, by one request.

        Raises:
            ConflictError: the file is gone, or another one now.
            IntegrityError: it is so, and the table's index still names what it was.
        """
        try:
            with self._system.read(self._file.key, (start, stop), when=self._when) as body:
                data = body.read()
        except RhError as error:
            change = _as_change(error, self._system, self._file)
            if change is error:
                raise
            raise change from error
        if len(data) != stop - start:
            raise _changed(self._system, self._file)
        return memoryview(data)

    def hold(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        """Answer reads within these pieces (position, bytes) from memory, and forget those held before."""
        self._held = list(pieces)

    def read(self, size: int = -1) -> memoryview | bytes:
        with _ending:
            return self._read(size)

    def _read(self, size: int) -> memoryview | bytes:
        start = self._at
        stop = self._file.size if size is None or size < 0 else min(start + size, self._file.size)
        self._at = max(start, stop)
        if stop <= start:
            return b""
        for begin, view in self._held:
            if begin <= start and stop <= begin + len(view):
                return view[start - begin : stop - begin]
        if stop == self._file.size:  # the end is where a reader begins, and it comes back to it
            begin = min(start, max(0, stop - TAIL))
            view = self.fetch(begin, stop)
            self.tail = (begin, view)
            self._held.append(self.tail)
            return view[start - begin :]
        if self._block > stop - start and any(begin + len(view) == start for begin, view in self._held):
            view = self.fetch(start, min(start + self._block, self._file.size))
            self._held = [(start, view)]
            return view[: stop - start]
        view = self.fetch(start, stop)
        if self._block:
            self._held = [(start, view)]
        return view

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        self._at = base + position
        return self._at

    def tell(self) -> int:
        return self._at

    def size(self) -> int:
        return self._file.size

    def close(self) -> None:
        self.closed = True
        self._held = []


@contextmanager
def translated(where: str, unchanged: Callable[[], None] | None = None) -> Iterator[None]:
    """Arrow's errors of reading as ours: what cannot be decoded is `IntegrityError`.

    Args:
        where: the place that is read, for the message.
        unchanged: called first; raises if what was read is not what it was, which explains more.
    """
    pa = need("pyarrow")
    handled = sys.exc_info()[1]
    try:
        yield
    except RhError:
        raise
    except (pa.ArrowException, OSError, EOFError, UnicodeError) as error:
        if isinstance(error, pa.ArrowCancelled):
            raise KeyboardInterrupt from error
        cause = _cause(error, handled)
        if cause is not None:
            raise cause from error
        if unchanged is not None:
            unchanged()
        if isinstance(error, (pa.ArrowMemoryError, pa.ArrowNotImplementedError)):
            raise RhError(f"Arrow cannot read this: {first_line(error)}", where=where) from error
        text = first_line(error)
        if (twice := _TWICE.search(text)) is not None:
            raise named_twice(twice.group(1), where, text="CSV" in text) from error
        decoding = isinstance(error, UnicodeError)
        if not decoding and _MISFIT.search(text):
            raise InvalidError(
                f"a value does not fit its column: {text}",
                where=where,
                hint='options={"column_types": {"column": "string"}} or schema= says which type a column has',
            ) from error
        raise IntegrityError(
            f"the file is damaged, or not what its name says: {text}",
            where=where,
            hint=_FORM if decoding or "CSV" in text else None,
        ) from error


_FORM = 'options={"delimiter": ";"} or options={"encoding": "utf-16"}, whichever it has, reads CSV of another form'
"""What may help with text that Arrow does not take for CSV in UTF-8 with commas."""


_MISFIT = re.compile(
    "In CSV column #|conversion error|JSON parse error: Column|not in range|outside of the range|lose data|truncated:"
    "|was truncated|Failed to parse string|Failed to convert JSON"
    "|The string '.*' (cannot be|is not a valid)|specified twice"
)
"""What Arrow says of a value that cannot become the type of its column; the bytes are as they should be."""


_TWICE = re.compile(r"(?:multiple columns named |Multiple matches for FieldRef\.Name\()([^)]*)")


def named_twice(name: str, where: str, *, text: bool) -> InvalidError:
    """What to say of a file that has two columns of one name; in `text`, they cannot be told apart."""
    return InvalidError(
        f"two columns of this file are called {name!r}",
        where=where,
        hint='options={"column_names": […], "skip_rows": 1} gives all columns other names'
        if text
        else "schema= can name the columns that are wanted without this one",
    )


def _cause(error: BaseException | None, handled: BaseException | None) -> RhError | None:
    """An error of ours that Arrow wrapped on its way; not one that is being explained (`handled`)."""
    while error is not None and error is not handled:
        if isinstance(error, RhError):
            return error
        error = error.__cause__ or error.__context__
    return None


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
