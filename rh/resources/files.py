"""Files of a folder as Python's file objects: reading by ranges with read-ahead, writing that publishes on close."""

from __future__ import annotations

import hashlib
import io
import queue
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, NamedTuple, cast

from rh import digest as digests
from rh.errors import IntegrityError, InvalidError, NotFoundError, UnsupportedError
from rh.systems.base import Bytes, System
from rh.types import ABSENT, ANY, Condition, Entry, Match

__all__ = ["Expected", "Reader", "Writer", "compare", "open_file", "reading"]

MIB = 1 << 20
FIRST_WINDOW = 128 * 1024
LAST_WINDOW = 8 * MIB
PART = 1 * MIB
IN_MEMORY = 8 * MIB
"""Up to so many bytes a file being written is held, and stored in one request."""


class Expected(NamedTuple):
    """What a file's bytes ought to be: its digest, and the raw chunk digests of a chunked one, if they are known."""

    digest: str
    chunks: bytes = b""


class Reader(io.RawIOBase):
    """A file, read by ranges. Reading on fetches ever larger windows, and the next one while this one is used.

    All ranges are of the content that was there when it was opened; `ConflictError` if it changes. Where the content's
    digest is known, reading from the start to the end (to the end of a chunk) checks it. With `verify=True` every byte
    is checked before it is given out; that reads whole chunks (16 MiB or more; the whole file if it is smaller).
    """

    def __init__(self, system: System, entry: Entry, expected: Expected | None, *, verify: bool | None = None) -> None:
        super().__init__()
        self._system = system
        self._entry = entry
        self._size = entry.size
        self._at = 0
        self._start = 0
        self._data: Bytes = b""
        self._window = FIRST_WINDOW
        self._ahead: tuple[int, queue.Queue[Bytes | Exception]] | None = None
        self._check = (
            None if verify is False or expected is None else _Check(expected, entry.size, system.url(entry.key))
        )
        self._strict = bool(verify)
        if verify and self._check is None:
            raise UnsupportedError(
                "no digest of this file is known, so its bytes cannot be checked",
                where=system.url(entry.key),
                hint="a folder that rh copied has digests; open it without verify=True",
            )

    # What a raw file has.

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}.get(whence)
        if base is None:
            raise ValueError(f"whence={whence!r} is not 0, 1 or 2")
        if base + offset < 0:
            raise ValueError(f"a position before the start of the file: {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._open()
        view = memoryview(buffer).cast("B")
        count = min(len(view), self._size - self._at)
        if count <= 0:
            return 0
        if not self._start <= self._at < self._start + len(self._data):
            self._fill(count)
        inner = self._at - self._start
        count = min(count, len(self._data) - inner)
        view[:count] = memoryview(self._data)[inner : inner + count]
        self._at += count
        return count

    def readall(self) -> bytes:
        self._open()
        pieces = []
        while self._at < self._size:
            if not self._start <= self._at < self._start + len(self._data):
                self._fill(min(self._size - self._at, LAST_WINDOW))
            piece = memoryview(self._data)[self._at - self._start :]
            pieces.append(piece)
            self._at += len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        self._data, self._ahead = b"", None
        super().close()

    @property
    def name(self) -> str:
        """The file's place."""
        return self._system.url(self._entry.key)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def _open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    # Windows.

    def _fill(self, wanted: int) -> None:
        """Have the byte at the position, and what is likely to be asked for next."""
        start, on = self._at, self._at == self._start + len(self._data)
        self._window = min(max(self._window * 2, wanted), LAST_WINDOW) if on else FIRST_WINDOW
        stop = min(self._size, start + max(self._window, min(wanted, LAST_WINDOW)))
        if self._strict and self._check is not None:
            start, stop = self._check.span(start)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == start:
            data = ahead[1].get()
            if isinstance(data, Exception):
                raise data
        else:
            data = self._fetch(start, stop)
        if self._check is not None:
            self._check.take(start, data)
        self._start, self._data = start, data
        end = start + len(data)
        if on and start and end < self._size and not self._strict:
            self._read_ahead(end, min(self._size, end + min(self._window * 2, LAST_WINDOW)))

    def _read_ahead(self, start: int, stop: int) -> None:
        box: queue.Queue[Bytes | Exception] = queue.Queue(1)

        def fetch() -> None:
            try:
                box.put(self._fetch(start, stop))
            except Exception as error:  # noqa: BLE001 - raised by the reader
                box.put(error)

        self._ahead = (start, box)
        threading.Thread(target=fetch, name="rh-read-ahead", daemon=True).start()

    def _fetch(self, start: int, stop: int) -> Bytes:
        entry = self._entry
        when: Condition = ANY if entry.etag is None else Match(entry.etag)
        with self._system.read(entry.key, (start, stop), when=when) as body:
            data = body.read()
        if len(data) != stop - start:
            raise IntegrityError(
                "fewer bytes than asked for",
                where=self.name,
                expected=f"{stop - start} bytes",
                got=f"{len(data)} bytes",
            )
        return data


class _Check:
    """Compares bytes with a digest as they come by in order."""

    def __init__(self, expected: Expected, size: int, where: str) -> None:
        self._digest, self._chunks, self._size, self._where = expected.digest, expected.chunks, size, where
        chunk = digests.parse(expected.digest)[1]
        self._chunk = chunk or max(size, 1)
        self._found: bytearray | None = bytearray() if chunk and not self._chunks else None
        count = -(-size // self._chunk)
        whole = digests.combine(self._chunks, chunk).text if self._chunks else self._digest
        if len(self._chunks) not in (0, 32 * count) or whole != self._digest:
            raise IntegrityError("the chunk digests are not those of the file's digest", where=where)
        self._here = 0
        self._state = hashlib.sha256()

    def span(self, at: int) -> tuple[int, int]:
        """The range to read so that the byte at `at` can be checked."""
        if self._found is not None:
            return 0, self._size
        start = at // self._chunk * self._chunk
        return start, min(start + self._chunk, self._size)

    def take(self, start: int, data: Bytes) -> None:
        if start != self._here:
            if start % self._chunk:
                self._here = -1
                return
            self._here, self._state = start, hashlib.sha256()
        view = memoryview(data)
        while view:
            step = min(len(view), self._chunk - self._here % self._chunk)
            self._state.update(view[:step])
            view = view[step:]
            self._here += step
            if self._here % self._chunk == 0 or self._here == self._size:
                self._compare()

    def _compare(self) -> None:
        number = (self._here - 1) // self._chunk
        if self._found is not None:
            self._gather(number)
            return
        if self._chunks:
            expected = self._chunks[32 * number : 32 * number + 32].hex()
        else:
            expected = digests.parse(self._digest)[2]
        got = self._state.hexdigest()
        self._state = hashlib.sha256()
        if got != expected:
            raise IntegrityError("the bytes are not what was stored", where=self._where, expected=expected, got=got)

    def _gather(self, number: int) -> None:
        """Without the digests of chunks, they are compared at the end, if all came by."""
        found = self._state.digest()
        self._state = hashlib.sha256()
        if self._found is None or len(self._found) != 32 * number:
            return
        self._found += found
        if self._here == self._size:
            got = digests.combine(bytes(self._found), self._chunk).text
            if got != self._digest:
                raise IntegrityError(
                    "the bytes are not what was stored", where=self._where, expected=self._digest, got=got
                )


class Writer(io.BufferedIOBase):
    """A file being written. It appears, whole, when it is closed; leaving `with` by an exception leaves nothing.

    A writer that is dropped without `close` stores nothing and warns.
    """

    def __init__(
        self,
        system: System,
        key: str,
        *,
        when: Condition = ANY,
        done: Callable[[Entry], None] | None = None,
    ) -> None:
        super().__init__()
        self._system, self._key, self._when, self._done = system, key, when, done
        self._buffer = bytearray()
        self._sent = 0
        self._pieces: queue.Queue[bytes | None] | None = None
        self._thread: threading.Thread | None = None
        self._result: Entry | Exception | None = None
        self._dropped = False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self._sent + len(self._buffer)

    @property
    def name(self) -> str:
        """The file's place."""
        return self._system.url(self._key)

    def write(self, data: Any) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        view = memoryview(data).cast("B")
        if self._dropped:
            return len(view)
        self._buffer += view
        if len(self._buffer) > IN_MEMORY or (self._thread is not None and len(self._buffer) >= PART):
            self._flow()
        return len(view)

    def flush(self) -> None:
        """Nothing is seen before `close`."""

    def close(self) -> None:
        if self.closed:
            return
        try:
            if not self._dropped:
                self._publish()
        finally:
            self._buffer = bytearray()
            super().close()

    def abort(self) -> None:
        """Forget what was written; nothing is stored. Later writes are ignored."""
        if self._dropped or self.closed:
            return
        self._dropped = True
        self._buffer = bytearray()
        if self._thread is not None and self._pieces is not None:
            while self._thread.is_alive():
                try:
                    self._pieces.put(None, timeout=0.1)
                    break
                except queue.Full:
                    continue
            self._thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_dropped", True) or self.closed:
            return
        self.abort()
        warnings.warn(f"{self.name} was not closed, so nothing was stored", RuntimeWarning, stacklevel=2)
        self.close()

    def _publish(self) -> None:
        if self._thread is None:
            entry = self._system.write(self._key, bytes(self._buffer), size=len(self._buffer), when=self._when)
        else:
            if self._buffer:
                self._flow()
            self._give(None)
            self._thread.join()
            if not isinstance(self._result, Entry):
                raise self._failed()
            entry = self._result
        if self._done is not None:
            self._done(entry)

    # A large file flows to the system from a thread of its own; `None` ends it, well unless it was dropped.

    def _flow(self) -> None:
        if self._thread is None:
            self._pieces = queue.Queue(4)
            self._thread = threading.Thread(target=self._store, name="rh-write", daemon=True)
            self._thread.start()
        data, self._buffer = bytes(self._buffer), bytearray()
        self._sent += len(data)
        for at in range(0, len(data), PART):
            self._give(data[at : at + PART])

    def _give(self, piece: bytes | None) -> None:
        while self._pieces is not None and self._thread is not None:
            if self._result is not None or not self._thread.is_alive():
                raise self._failed()
            try:
                self._pieces.put(piece, timeout=0.1)
                return
            except queue.Full:
                continue

    def _failed(self) -> Exception:
        self._dropped = True
        if isinstance(self._result, Exception):
            return self._result
        return IntegrityError("the file was stored before its end", where=self.name)

    def _store(self) -> None:
        try:
            self._result = self._system.write(self._key, self._stream(), when=self._when)
        except Exception as error:  # noqa: BLE001 - raised by the writer
            self._result = error

    def _stream(self) -> Iterator[Bytes]:
        if self._pieces is None:
            return
        while True:
            piece = self._pieces.get()
            if self._dropped:
                raise _DroppedError
            if piece is None:
                return
            yield piece


class _DroppedError(Exception):
    """Ends the stream of a writer that was aborted; nobody sees it."""


class _TextWriter(io.TextIOWrapper):
    """Text over a `Writer`, which learns of an exception in the `with` block."""

    def __init__(self, writer: Writer, **options: Any) -> None:
        super().__init__(writer, **options)
        self._writer = writer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._writer.abort()
        self.close()

    def __del__(self) -> None:
        if not self.closed:
            self._writer.__del__()


@contextmanager
def reading(system: System, key: str) -> Iterator[None]:
    """What is missing is told as people know it: there is no such file, or it is a directory.

    Raises:
        InvalidError: a directory is there. NotFoundError: nothing is, or not even a bucket.
    """
    try:
        yield
    except NotFoundError as error:
        from rh.versions.lost import GoneError

        if isinstance(error, GoneError):
            raise  # not the file alone
        where, below = system.url(key), key + "/"
        try:
            is_directory = next(iter(system.list(below, depth=1)), None) is not None
            if not is_directory and system.keeps_directories:
                is_directory = system.head(below).kind == "dir"
        except UnsupportedError:
            is_directory = False
        except NotFoundError as missing:
            if not system.keeps_directories:
                raise missing from error  # the bucket itself
            is_directory = False
        if is_directory:
            raise InvalidError(
                "this is a directory, not a file", where=where, hint=f"rh.folder(path={where!r})"
            ) from error
        raise NotFoundError("there is no such file", where=where) from error


def compare(data: Bytes, entry: Entry, where: str) -> None:
    """Raise `IntegrityError` if bytes are not those whose checksum the store told when they were read."""
    from rh.transfer.vouched import running

    told = running(entry.check)
    if told is not None:
        told.update(data)
        told.compare(where)


def open_file(
    system: System,
    key: str,
    mode: str,
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    verify: bool | None = None,
    expected: Callable[[Entry], Expected | None] | None = None,
    done: Callable[[Entry], None] | None = None,
) -> IO[Any]:
    """A file object on one key. `mode` is Python's: `r`, `w` or `x` for text, with `b` for bytes."""
    letters = set(mode)
    if len(letters) != len(mode) or not letters <= set("rwxbta+") or {"b", "t"} <= letters:
        raise InvalidError(f"not a mode: {mode!r}", hint="'rb', 'r', 'wb', 'w', 'xb' or 'x'")
    if letters & set("a+"):
        raise UnsupportedError(
            f"mode {mode!r} changes a file in place, which a store cannot do",
            where=system.url(key),
            hint="read it, then write it anew",
        )
    if len(letters & set("rwx")) != 1:
        raise InvalidError(f"not a mode: {mode!r}", hint="one of 'r', 'w' and 'x'")
    from rh.versions.system import immutable

    text = "b" not in letters
    if not text and (encoding or errors or newline is not None):
        raise InvalidError("encoding=, errors= and newline= are for text", hint=f"mode={mode.replace('b', '')!r}")
    if "r" in letters:
        with reading(system, key):
            entry = system.head(key)
            if entry.kind == "link" or (entry.etag is None and not entry.size):  # a pipe says so when it is read
                with system.read(key, (0, 0)) as body:
                    entry = body.entry
        known = expected(entry) if expected is not None and verify is not False else None
        buffered = io.BufferedReader(Reader(system, entry, known, verify=verify), FIRST_WINDOW)
        return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline) if text else buffered
    if system.kind == "tree":
        raise immutable(system.url(key))  # not only at the end, when all is written
    writer = Writer(system, key, when=ABSENT if "x" in letters else ANY, done=done)
    if text:
        return _TextWriter(writer, encoding=encoding or "utf-8", errors=errors, newline=newline)
    return cast("IO[Any]", writer)
