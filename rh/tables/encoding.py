"""One data file of a table: Parquet, encoded in one thread while another digests and stores what is encoded already.

Files are encoded side by side, as far as there is `Room` for the rows that wait for it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from rh.digest import Hasher
from rh.errors import FullError, IntegrityError, InvalidError, RhError
from rh.plugins import need
from rh.systems.base import Bytes, System
from rh.systems.local import LocalSystem
from rh.tables.base import DataFile
from rh.types import Entry

__all__ = ["EncodedFile", "Room", "size_of", "stored_fields"]

PIPE_BYTES = 16 << 20
"""What is encoded may be so far ahead of what is stored on this machine's disk."""
_PIECE = 1 << 20
_TRIED = 4096

OPTIONS: Mapping[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "dictionary_pagesize_limit": 64 << 10,  # a column of many values is not worth one: it costs time and bytes
    "use_content_defined_chunking": True,
    "write_page_checksum": True,
}
"""What `pyarrow.parquet.ParquetWriter` is told beside the schema."""


def stored_fields(fields: Sequence[Any]) -> list[Any]:
    """These `pyarrow.Field`s as Parquet keeps them.

    Raises:
        InvalidError: one cannot be stored; it is named.
    """
    try:
        return _kept(fields)
    except InvalidError:
        for field in fields:  # one by one, to find out which it is
            _kept([field])
        raise


def _kept(fields: Sequence[Any]) -> list[Any]:
    pa, pq = need("pyarrow"), need("pyarrow.parquet")
    schema = pa.schema(fields)
    sink = pa.BufferOutputStream()
    try:
        with pq.ParquetWriter(sink, schema, **OPTIONS) as writer:
            writer.write_table(schema.empty_table())
        found = pq.read_schema(pa.BufferReader(sink.getvalue()))
    except (pa.ArrowException, NotImplementedError, OSError) as error:
        field = fields[0]
        raise InvalidError(
            f"the column {field.name!r} is {field.type}, which Parquet cannot hold: {error}", hint="cast it"
        ) from error
    return [
        field if kept.type.equals(field.type) else field.with_type(kept.type)
        for field, kept in zip(fields, found, strict=True)
    ]


def size_of(table: Any) -> int:
    """Bytes of a table's rows in memory, about: of a dictionary, which slices share, no more values than rows."""
    return sum(
        sum(map(_bytes, column.chunks)) if _has_dictionary(column.type) else column.nbytes for column in table.columns
    )


def _has_dictionary(kind: Any) -> bool:
    if need("pyarrow").types.is_dictionary(kind):
        return True
    return any(_has_dictionary(kind.field(at).type) for at in range(kind.num_fields))


def _bytes(array: Any) -> int:
    types, kind = need("pyarrow").types, array.type
    if not _has_dictionary(kind):
        return int(array.nbytes)
    if types.is_dictionary(kind):
        values = array.dictionary
        return int(array.indices.nbytes + values.nbytes * min(len(array), len(values)) // max(1, len(values)))
    if types.is_struct(kind):
        return sum(_bytes(array.field(at)) for at in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return int(array.offsets.nbytes) + _bytes(array.values.slice(first, last - first))
    return int(array.nbytes)


def _repeating(table: Any) -> bool | list[str]:
    """For which columns a dictionary is worth trying: those whose first values repeat; all, if some are nested."""
    pa, pc = need("pyarrow"), need("pyarrow.compute")
    if any(pa.types.is_nested(field.type) for field in table.schema):
        return True
    first, found = table.slice(0, _TRIED), []
    for name in table.column_names:
        try:
            different = pc.count_distinct(first.column(name)).as_py()
        except pa.ArrowNotImplementedError:  # a dictionary already, or an extension
            different = 0
        if different <= first.num_rows // 2:
            found.append(name)
    return found


class _Pipe:
    """A file object to write to in one thread; another iterates over its bytes, once, `PIPE_BYTES` behind at most."""

    closed = False

    def __init__(self) -> None:
        self.size = 0
        self._changed = threading.Condition()
        self._pieces: deque[Bytes] = deque()
        self._held = 0
        self._ended = False
        self._unread = False
        self._error: BaseException | None = None
        self.kept: list[bytes] | None = None
        """What is written from now on, where it is a list."""

    def write(self, data: Any) -> int:
        """Take bytes; waits while there are too many. Once nobody reads them they fall on the floor."""
        piece = data if isinstance(data, bytes) else bytes(data)
        if self.kept is not None:
            self.kept.append(piece)
        with self._changed:
            self._changed.wait_for(lambda: self._unread or self._error is not None or self._has_room())
            self.size += len(piece)
            if not self._unread and self._error is None:
                self._keep(piece)
                self._changed.notify_all()
        return len(piece)

    def _has_room(self) -> bool:
        return self._held < PIPE_BYTES

    def _keep(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._held += len(piece)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The end is told by `end`."""

    def end(self) -> None:
        """No more bytes will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Let the reader fail."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def leave(self) -> None:
        """Nobody reads any more."""
        with self._changed:
            self._unread = True
            self._pieces.clear()
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self._ended or self._error is not None or ready())
        if self._error is not None:
            raise _CancelledError("the write was cancelled") from self._error

    def __iter__(self) -> Iterator[Bytes]:
        while True:
            with self._changed:
                self._wait(lambda: bool(self._pieces))
                if not self._pieces:
                    return
                piece = self._pieces.popleft()
            yield piece
            with self._changed:
                self._held -= len(piece)
                self._changed.notify_all()


class _Spool(_Pipe):
    """A pipe that can be read again from its begin: a request that failed in the middle is made again.

    What was written lies in a temporary file of this machine, unlinked, until the pipe is left.
    """

    def __init__(self) -> None:
        super().__init__()
        self._file = tempfile.TemporaryFile(prefix="rh-table-", buffering=0)  # noqa: SIM115 - closed by `leave`

    def _has_room(self) -> bool:
        return True

    def _keep(self, piece: bytes) -> None:
        left = memoryview(piece)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            where = tempfile.gettempdir()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise FullError("no room for a temporary file", where=where, hint="set TMPDIR") from error
            raise RhError(f"a temporary file cannot be written: {error}", where=where) from error

    def leave(self) -> None:
        super().leave()
        self._file.close()

    def __iter__(self) -> Iterator[Bytes]:
        at = 0
        while True:
            with self._changed:
                self._wait(lambda: self.size - at >= _PIECE)  # noqa: B023 - called before `at` moves
                stop = min(self.size, at + _PIECE)
            if stop == at:
                return
            while at < stop:
                piece = os.pread(self._file.fileno(), stop - at, at)
                at += len(piece)
                yield piece


def _footer(end: bytes) -> str:
    """Length and SHA-256 of a Parquet file's footer, given what was written last.

    The last eight bytes of a file are the length of the footer before them, in little-endian order, and `PAR1`:
    https://parquet.apache.org/docs/file-format/
    """
    size = int.from_bytes(end[-8:-4], "little") + 8
    return f"{size}:{hashlib.sha256(end[-size:]).hexdigest()}"


class _CancelledError(RhError):
    """Why the stream of a file that is given up ends."""


class Room:
    """How many bytes of rows may wait to be encoded, in all files of a write together."""

    def __init__(self, size: int) -> None:
        self._left = self._size = size
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait until there is so much room; of more than there is at all, until all of it is free."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= min(size, self._size))
            self._left -= size

    def give(self, size: int) -> None:
        """Let others have it."""
        with self._changed:
            self._left += size
            self._changed.notify_all()


class EncodedFile:
    """One data file on its way: `put` hands row groups to a thread that encodes them, a second one stores the bytes."""

    def __init__(self, system: System, key: str, schema: Any, values: tuple[str | None, ...], room: Room) -> None:
        self.key = key
        self.bytes = 0
        """Of its rows so far, as they are in memory."""
        self._system = system
        self._schema = schema
        self._values = values
        self._room = room
        self._rows = 0
        self._groups: SimpleQueue[Any] = SimpleQueue()
        self._again = system.ask(LocalSystem) is None
        self._pipe = _Spool() if self._again else _Pipe()
        self._hasher = Hasher()
        self._entry: Entry | None = None
        self._error: BaseException | None = None
        self._open = True
        self._footer: str | None = None
        self._threads = [
            threading.Thread(target=work, name="rh-table", daemon=True) for work in (self._encode, self._store)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, table: Any) -> None:
        """Have a row group encoded; waits for room."""
        self._check()
        size = size_of(table)
        self._room.take(size)
        self._groups.put((table, size))
        self.bytes += size
        self._rows += table.num_rows
        self._check()

    def end(self) -> None:
        """No more rows will come."""
        if self._open:
            self._open = False
            self._groups.put(None)

    def settle(self) -> None:
        """Wait until it is stored."""
        for thread in self._threads:
            thread.join()
        self._check()

    def give_up(self) -> None:
        """Leave it unfinished; `settle` raises."""
        self._failed(_CancelledError("the write was cancelled"))
        self.end()

    def wait(self) -> DataFile:
        """The file as it is stored."""
        self.settle()
        entry = self._entry
        assert entry is not None
        if not entry.size == self._hasher.size == self._pipe.size:
            raise IntegrityError(
                "the place stored another number of bytes than were sent",
                where=self._system.url(self.key),
                expected=f"{self._pipe.size} bytes",
                got=f"{entry.size} bytes",
            )
        digest = self._hasher.finish().text
        return DataFile(self.key, entry.size, self._rows, entry.etag, digest, self._values, self._footer)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _failed(self, error: BaseException) -> None:
        """The first error is what is told; whoever waits for bytes or rows goes on."""
        if self._error is None:
            self._error = error
        self._pipe.fail(error)

    def _encode(self) -> None:
        writer: Any = None
        while (group := self._groups.get()) is not None:
            table, size = group
            try:
                if self._error is None:
                    writer = self._encoded(writer, table)
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that asks
                self._failed(error)
            finally:
                del group, table
                self._room.give(size)
        try:
            if self._error is None and writer is not None:
                self._pipe.kept = []
                writer.close()
                self._footer = _footer(b"".join(self._pipe.kept))
            self._pipe.end()
        except BaseException as error:  # noqa: BLE001 - as above
            self._failed(error)

    def _encoded(self, writer: Any, table: Any) -> Any:
        """The writer of the file, which has encoded one more row group."""
        pa = need("pyarrow")
        if writer is None:
            sink = pa.PythonFile(self._pipe, mode="w")
            dictionaries = _repeating(table)
            writer = need("pyarrow.parquet").ParquetWriter(sink, self._schema, use_dictionary=dictionaries, **OPTIONS)
        try:
            writer.write_table(table, row_group_size=max(1, table.num_rows))
        except pa.ArrowException as error:
            raise InvalidError(f"the rows cannot be written: {error}", where=self._system.url(self.key)) from error
        return writer

    def _store(self) -> None:
        try:
            self._entry = self._system.write(self.key, self if self._again else iter(self))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asks
            if self._error is None:
                self._error = error
        finally:
            self._pipe.leave()

    def __iter__(self) -> Iterator[Bytes]:
        """The bytes, from the first one; they are digested as they pass."""
        self._hasher = Hasher()
        for piece in self._pipe:
            self._hasher.update(piece)
            yield piece
