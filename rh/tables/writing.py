"""How rows become files: Parquet of a sensible size, several encoded side by side while others are on their way.

Row groups have at most 128 Ki rows and 64 MiB, files about 256 MiB as they are in memory, the first ones less. Values
are compressed with zstd; pages carry a checksum and begin where the content says so (content-defined chunking), so that
a table that is written again with a few rows changed shares most of its bytes with the old one.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args
from urllib.parse import quote

from rh.errors import DeadlineError, ExistsError, InvalidError, NotFoundError, RhError, UnavailableError
from rh.observe import log
from rh.plugins import need
from rh.systems import open_system
from rh.systems.base import System
from rh.tables import access, adoption, frames, index, store
from rh.tables.base import DataFile, Mode, Snapshot
from rh.tables.casts import check_text
from rh.tables.encoding import EncodedFile, Room, size_of, stored_fields
from rh.tables.layouts import roomy
from rh.types import Location

__all__ = [
    "FILE_BYTES",
    "Begun",
    "abandon",
    "begin",
    "finish",
    "forget",
    "next_id",
    "settled",
    "store_files",
    "stored",
    "write",
    "write_part",
]

GROUP_ROWS = 128 << 10
GROUP_BYTES = 64 << 20
DICTIONARY_BYTES = 1 << 20
"""Of values in a dictionary, from which on those that no row has are left out."""
FIRST_BYTES = 64 << 20
"""Of rows in the first two files; each next two have twice as many, so that small tables are encoded side by side."""
FILE_BYTES = 256 << 20
HELD_BYTES = 128 << 20
"""Rows of partitioned writes that wait for company."""
OPEN_FILES = 8
"""Partitions that are being written at once; another one's next rows begin another file."""
_FILES = 100_000
WAITING_BYTES = GROUP_BYTES * min(max(os.cpu_count() or 2, 2), 4)
"""Bytes of rows that wait to be encoded, or are."""


# Before the first byte


class Begun(NamedTuple):
    """A write that was found possible.

    Attributes:
        base: the table that is there; `None` where none is.
        schema: `pyarrow.Schema` of the table when it is done, partition columns last.
        partition_cols: those of the table.
        write_id: begins the names of the write's files; sorts after those of `base`.
    """

    base: Snapshot | None
    schema: Any
    partition_cols: tuple[str, ...]
    write_id: str
    mode: Mode


def begin(
    system: System,
    schema: Any,
    *,
    mode: Mode = "error",
    partition_cols: Sequence[str] = (),
    format: str | None = None,  # noqa: A002 - the word of `rh.table`
    own: bool = False,
) -> Begun:
    """Check that rows with this `pyarrow.Schema` can be written, before anything is.

    Args:
        system: opened at the table's directory.
        schema: of the rows.
        mode: what to do where a table is already.
        partition_cols: columns whose values name directories.
        format: of the files of others that lie there, where their names do not tell it.
        own: `rh` wrote the table: where its index is gone it was removed, and what else lies there is others'.

    Raises:
        ExistsError: `error`, and there are data files. InvalidError: the schema, the columns or the mode.
    """
    if mode not in get_args(Mode):
        raise InvalidError(f"no mode is called {mode!r}", hint=f"one of {', '.join(get_args(Mode))}")
    schema = stored(schema, partition_cols)
    where = system.url()
    try:  # files that are overwritten are deleted: only those whose own names say that they are rows
        base = store.find(system, format=None if mode == "overwrite" else format, own=own)
    except InvalidError as error:
        if mode != "error":
            raise
        raise ExistsError("data files are here already", where=where, hint="choose an empty place") from error
    if base is not None and mode == "error":
        raise ExistsError("a table is here already", where=where, hint='mode="append" or mode="overwrite"')
    columns = tuple(partition_cols)
    if base is not None and mode == "append":
        if base.format != "parquet":
            raise InvalidError(
                f"rows are appended to tables of Parquet files, and this one is {base.format}",
                where=where,
                hint="write it to another place as a whole",
            )
        if columns not in ((), base.partition_cols):
            raise InvalidError(
                f"the table's partition columns are {list(base.partition_cols)}, not {list(columns)}", where=where
            )
        columns = base.partition_cols
        if not base.owned:  # as readers do: once the files are in an index, nobody tells what is left out of them
            access.check_files(system, base, access.dataset(system, base))
        schema = store.agreed(access.schema(system, base), schema, where)
    if columns:  # whose rows come back in another order
        schema = frames.without_range(schema)
    return Begun(base, schema, columns, next_id(base), mode)


def next_id(base: Snapshot | None) -> str:
    """An id that sorts after those of the base, whatever the clock says: key order is row order."""
    now = time.time_ns() // 1_000_000
    for file in base.files if base is not None else ():
        match = store.PART.fullmatch(file.key.rpartition("/")[2])
        if match is not None:
            now = max(now, int(match.group(1)[:12], 16) + 1)
    return f"{now:012x}{secrets.token_hex(4)}"


def stored(schema: Any, partition_cols: Sequence[str] = ()) -> Any:
    """The `pyarrow.Schema` as Parquet keeps it and `rh.tables.layouts.roomy` has it, partition columns last.

    Seconds become milliseconds, and dictionaries of other things than text plain columns; no value changes.

    Raises:
        InvalidError: there are no columns, two of one name, or one that cannot be stored; it is named.
    """
    pa = need("pyarrow")
    schema = roomy(schema)
    names = list(schema.names)
    if not names:
        raise InvalidError("a table needs a column")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidError(f"two columns are called {twice[0]!r}")
    for column in partition_cols:
        if column not in names:
            near = get_close_matches(str(column), names, 3) or names
            raise InvalidError(f"there is no column {column!r} to partition by", hint=f"near: {', '.join(near)}")
        _partitionable(schema.field(column))
    if len(set(partition_cols)) != len(partition_cols):
        raise InvalidError("a partition column is named twice")
    if len(partition_cols) == len(names):
        raise InvalidError("every column is a partition column, so nothing is left for the files")
    fields = stored_fields([field for field in schema if field.name not in partition_cols])
    fields += [schema.field(column) for column in partition_cols]
    return pa.schema(fields, schema.metadata)


def _partitionable(field: Any) -> None:
    types = need("pyarrow").types
    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    known = (
        types.is_boolean,
        types.is_integer,
        types.is_floating,
        types.is_decimal,
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_date,
        types.is_timestamp,
    )
    if not any(check(kind) for check in known):
        raise InvalidError(
            f"the column {field.name!r} is {field.type}, whose values cannot be names of directories",
            hint="partition by text, numbers, truth values, dates or timestamps",
        )


# Writing


def write(
    system: System,
    rows: Any,
    *,
    mode: Mode = "error",
    partition_cols: Sequence[str] = (),
    group_rows: int = GROUP_ROWS,
    file_bytes: int = FILE_BYTES,
    format: str | None = None,  # noqa: A002 - the word of `rh.table`
    own: bool = False,
) -> Snapshot:
    """Write rows as the table at the root of `system`, all or nothing, in their order.

    Memory is bounded. What is on its way to another machine lies in the temporary directory until it is stored, file by
    file, so that a request that failed can be made again.

    Args:
        system: opened at the table's directory.
        rows: a `pyarrow.RecordBatchReader`.
        mode: what to do where a table is already.
        partition_cols: columns whose values name directories (`year=2026/…`).
        group_rows: at most so many rows in a row group.
        file_bytes: of rows, as they are in memory, in a file at most; the first files have fewer. What is cut where
            goes by the rows alone: equal ones become equal files, on whichever machine.
        format: as for `begin`.
        own: as for `begin`.

    Raises:
        ExistsError: `error`, and there are data files. InvalidError: the schema, or what `begin` checks.
        ConflictError: somebody else changed the table meanwhile. Whatever `rows` raises.
        All before anything is visible, and the files are removed again. Only where it is unknown whether the index was
        replaced (the connection broke in that moment) they stay, for `rh.tables.store.debris` to find.
    """
    begun = begin(system, rows.schema, mode=mode, partition_cols=partition_cols, format=format, own=own)
    named = f"part-{begun.write_id}"
    writer = _Writer(system, named, begun.schema, begun.partition_cols, group_rows, file_bytes)
    return finish(system, begun, writer.run(rows, empty=begun.base is None or mode != "append"))


def write_part(
    location: Location,
    rows: Any,
    write_id: str,
    part: int,
    partition_cols: Sequence[str] = (),
    *,
    schema: Any = None,
) -> list[DataFile]:
    """Store the files of part `part` of a write, from whichever process; `finish` publishes them.

    Args:
        location: the table's directory.
        rows: a `pyarrow.RecordBatchReader`.
        write_id: from `begin`, which was called once for all parts.
        part: from 0; the order of the rows is that of the parts.
        partition_cols: those of the table (`Begun.partition_cols`).
        schema: `Begun.schema`, which the rows are brought to; without it they keep their own.
    """
    if not 0 <= part < _FILES:
        raise InvalidError(f"a part's number is from 0 to {_FILES - 1}, not {part}")
    with open_system(location) as system:
        if schema is None:
            schema = stored(rows.schema, partition_cols)
        writer = _Writer(system, f"part-{write_id}-{part:05d}", schema, partition_cols, GROUP_ROWS, FILE_BYTES)
        return writer.run(rows, empty=part == 0)


def finish(system: System, begun: Begun, files: Sequence[DataFile]) -> Snapshot:
    """Publish files that were stored; what certainly was not published is removed."""
    return settled(
        system,
        files,
        lambda: store.publish(
            system, begun.base, files, mode=begun.mode, schema=begun.schema, partition_cols=begun.partition_cols
        ),
    )


def settled(system: System, files: Sequence[DataFile], publish: Callable[[], Snapshot]) -> Snapshot:
    """What `publish` returns; if it fails, these files are removed, unless they may have been published."""
    try:
        return publish()
    except (DeadlineError, UnavailableError):
        raise
    except Exception as error:
        if isinstance(error, RhError) or not _published(system, files):
            forget(system, [file.key for file in files])
        raise


def _published(system: System, files: Sequence[DataFile]) -> bool:
    """Whether the table has some of these files, or nobody can tell."""
    try:
        now = index.read(system)
    except RhError:
        return True
    return now is not None and any(file.key in now.keys for file in files)


def store_files(
    system: System,
    rows: Iterable[Any],
    named: str,
    schema: Any,
    partition_cols: Sequence[str],
) -> list[DataFile]:
    """Store batches as one file, or one for each partition, whose names begin with `named`; nothing is published."""
    return _Writer(system, named, schema, partition_cols, GROUP_ROWS, None).run(rows, empty=True)


def abandon(system: System, write_id: str) -> None:
    """Remove the files of a write that was begun and is not to be finished."""
    name = re.compile(rf"(?:.*/)?part-{re.escape(write_id)}-[^/]*", re.DOTALL)
    with suppress(NotFoundError):
        store.delete(system, [entry.key for entry in system.list() if name.fullmatch(entry.key)])


def forget(system: System, keys: Sequence[str]) -> None:
    """Remove files of a write that failed; if that fails as well, it is logged."""
    try:
        store.delete(system, keys)
    except RhError as error:  # what went wrong before is what has to be told
        log.warning("files of a failed write stay behind at %s: %s", system.url(), error)


class _Writer:
    """One write of one process: its files, in their order."""

    def __init__(
        self,
        system: System,
        named: str,
        schema: Any,
        partition_cols: Sequence[str],
        group_rows: int,
        file_bytes: int | None,
    ) -> None:
        pa = need("pyarrow")
        self._system = system
        self._named = named
        self._schema = schema
        self._columns = tuple(partition_cols)
        kept = [field for field in schema if field.name not in self._columns]
        self._inner = pa.schema(kept, schema.metadata)
        self._group_rows = group_rows
        self._file_bytes = file_bytes
        self._room = Room(WAITING_BYTES)
        self._files: list[EncodedFile] = []
        self._numbers: Counter[tuple[str | None, ...]] = Counter()
        self._open: OrderedDict[tuple[str | None, ...], EncodedFile] = OrderedDict()
        self._ending: deque[EncodedFile] = deque()

    def run(self, rows: Any, *, empty: bool) -> list[DataFile]:
        """Store all rows; nothing stays if that fails. `empty`: a file also if there are no rows."""
        try:
            groups = self._partitioned(rows) if self._columns else self._whole(rows)
            for values, table in groups:
                self._put(values, table)
            if empty and not self._files:
                self._put((None,) * len(self._columns), self._inner.empty_table())
            for file in self._files:
                file.end()
            return [file.wait() for file in self._files]
        except BaseException:
            for file in self._files:
                file.give_up()
            for file in self._files:
                with suppress(Exception):
                    file.wait()
            forget(self._system, [file.key for file in self._files])
            raise

    def _put(self, values: tuple[str | None, ...], table: Any) -> None:
        """One row group, into the file that is open for these partition values or another one."""
        file = self._open.get(values)
        if file is None:
            while len(self._open) >= OPEN_FILES:
                self._end(next(iter(self._open)))
            number = len(self._files)
            if number >= _FILES:
                raise InvalidError(
                    f"this write would have more than {_FILES:,} files",
                    where=self._system.url(),
                    hint="partition by columns with fewer values",
                )
            steps = [
                f"{quote(column, safe='')}={adoption.hive_text(value)}/"
                for column, value in zip(self._columns, values, strict=True)
            ]
            key = f"{''.join(steps)}{self._named}-{number:05d}.parquet"
            file = EncodedFile(self._system, key, self._inner, values, self._room)
            self._files.append(file)
            self._open[values] = file
        self._open.move_to_end(values)
        file.put(table)
        if self._file_bytes is not None and file.bytes >= min(
            self._file_bytes, FIRST_BYTES << min(self._numbers[values] // 2, 32)
        ):
            self._numbers[values] += 1
            self._end(values)

    def _end(self, values: tuple[str | None, ...]) -> None:
        """Close a file; so many at most are still on their way."""
        file = self._open.pop(values)
        file.end()
        self._ending.append(file)
        if len(self._ending) > OPEN_FILES:
            self._ending.popleft().settle()

    def _whole(self, rows: Any) -> Iterator[tuple[tuple[str | None, ...], Any]]:
        held = _Held(self._group_rows)
        for batch in self._conformed(rows):
            for table in held.add(batch):
                yield (), table
        yield from (((), table) for table in held.rest())

    def _partitioned(self, rows: Any) -> Iterator[tuple[tuple[str | None, ...], Any]]:
        waiting: dict[tuple[str | None, ...], _Held] = {}
        total = 0
        for batch in self._conformed(rows):
            for values, table in self._split(batch):
                held = waiting.get(values)
                if held is None:
                    held = waiting[values] = _Held(self._group_rows)
                total -= held.size
                for group in held.add(table):
                    yield values, group
                total += held.size
            while total > HELD_BYTES:
                values = max(waiting, key=lambda one: waiting[one].size)
                held = waiting.pop(values)
                total -= held.size
                yield from ((values, group) for group in held.rest())
        # The open files first: closing one to write another and coming back to it would make two of it.
        for values in sorted(waiting, key=lambda one: one not in self._open):
            yield from ((values, group) for group in waiting[values].rest())

    def _conformed(self, rows: Any) -> Iterator[Any]:
        """The rows' batches as tables of the schema that is written."""
        pa = need("pyarrow")
        for batch in rows:
            table = pa.Table.from_batches([batch])
            check_text(self._system.url(), table, "a column of bytes is binary: .view(pyarrow.binary()) makes it so")
            if table.schema.equals(self._schema, check_metadata=True):
                yield table
                continue
            columns = []
            for field in self._schema:
                column = table.column(field.name)
                try:
                    columns.append(column if column.type.equals(field.type) else column.cast(field.type))
                except pa.ArrowException as error:
                    raise InvalidError(
                        f"the column {field.name!r} cannot become {field.type}: {error}", where=self._system.url()
                    ) from error
            yield pa.Table.from_arrays(columns, schema=self._schema)

    def _split(self, table: Any) -> Iterator[tuple[tuple[str | None, ...], Any]]:
        """The rows by their partition values, without those columns; their order among themselves is kept."""
        pa, pc = need("pyarrow"), need("pyarrow.compute")
        codes: Any = None
        texts: list[list[str | None]] = []
        names: list[tuple[str | None, ...]] = []
        for column in self._columns:
            coded = _plain(table.column(column)).combine_chunks().dictionary_encode(null_encoding="encode")
            texts.append(_texts(coded.dictionary, column, self._system.url()))
            place = coded.indices.cast(pa.int64())
            if codes is not None:
                place = pc.add(pc.multiply(codes, max(1, len(texts[-1]))), place)
            coded = place.dictionary_encode()  # dense again, so that many columns do not overflow
            codes, combined = coded.indices.cast(pa.int64()), coded.dictionary.to_pylist()
            if len(texts) == 1:
                names = [(texts[0][code],) for code in combined]
            else:
                width = max(1, len(texts[-1]))
                names = [(*names[code // width], texts[-1][code % width]) for code in combined]
        inner = table.select(self._inner.names)
        if len(names) == 1:
            yield names[0], inner
            return
        order = pc.sort_indices(codes)  # a stable sort
        runs = pc.run_end_encode(codes.take(order))
        inner, start = inner.take(order), 0
        for stop, code in zip(runs.run_ends.to_pylist(), runs.values.to_pylist(), strict=True):
            yield names[code], inner.slice(start, stop - start)
            start = stop


def _plain(column: Any) -> Any:
    pa = need("pyarrow")
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _texts(values: Any, column: str, where: str) -> list[str | None]:
    """Partition values as text, from which a cast makes the same values again."""
    pa, pc = need("pyarrow"), need("pyarrow.compute")
    try:
        zoned = pa.types.is_timestamp(values.type) and values.type.tz is not None
        plain = values.cast(pa.timestamp(values.type.unit, "UTC")) if zoned else values
        texts = plain.cast(pa.string())
        back = texts.cast(values.type)
        same = pa.types.is_floating(values.type) or pc.all(pc.equal(back, values), min_count=0).as_py()
    except pa.ArrowException as error:
        raise InvalidError(f"the column {column!r} cannot name directories: {error}", where=where) from error
    if not same:
        raise InvalidError(
            f"the values of the column {column!r} are lost in names of directories", where=where, hint="round them"
        )
    found: list[str | None] = texts.to_pylist()
    return found


def _used(table: Any) -> Any:
    """Rows with the values of their own only in large dictionaries, which each row group would have whole otherwise.

    Not in ordered ones: their values would have one order in one row group and another in the next.
    """
    pa, pc = need("pyarrow"), need("pyarrow.compute")
    for at, field in enumerate(table.schema):
        if not pa.types.is_dictionary(field.type) or field.type.ordered:
            continue
        chunks = table.column(at).chunks
        if not any(
            len(chunk.dictionary) > len(chunk) and chunk.dictionary.nbytes > DICTIONARY_BYTES for chunk in chunks
        ):
            continue
        found = []
        for chunk in chunks:
            used = pc.unique(chunk.indices).drop_null().sort()
            codes = pc.index_in(chunk.indices, used).cast(field.type.index_type)
            found.append(pa.DictionaryArray.from_arrays(codes, chunk.dictionary.take(used)))
        table = table.set_column(at, field, pa.chunked_array(found, field.type))
    return table


class _Held:
    """Rows that are gathered to row groups of at most `rows` rows and `GROUP_BYTES` bytes."""

    def __init__(self, rows: int) -> None:
        self._most = rows
        self._tables: list[Any] = []
        self._rows = 0
        self.size = 0

    def add(self, table: Any) -> Iterator[Any]:
        """Take rows; gives the groups that are complete."""
        while table.num_rows:
            rows = min(self._most - self._rows, table.num_rows)
            while rows and size_of(table.slice(0, rows)) > GROUP_BYTES - self.size:
                rows //= 2
            rows = rows or (0 if self._tables else 1)
            if rows:
                piece = _used(table.slice(0, rows))
                self._tables.append(piece)
                self._rows += rows
                self.size += size_of(piece)
                table = table.slice(rows)
            if self._rows == self._most or table.num_rows:
                yield from self.rest()

    def rest(self) -> Iterator[Any]:
        """What is held, as one group."""
        if self._tables:
            pa = need("pyarrow")
            # Parquet's writer keeps the first dictionary of a row group only.
            group = pa.concat_tables(self._tables).unify_dictionaries()
            self._tables, self._rows, self.size = [], 0, 0
            yield group
