"""A table's files decoded group by group: columns, types, partition values and the filter, as Arrow's batches."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, NamedTuple

from rh import digest as digests
from rh.errors import IntegrityError, InvalidError
from rh.forks import Lock
from rh.plugins import need
from rh.systems.base import System
from rh.tables import access, blocks, frames, lines
from rh.tables.base import Snapshot
from rh.tables.casts import check_text, has_never_null
from rh.tables.order import Group
from rh.tables.ranges import BLOCK, TAIL, Ranges, Source, check_footer, check_now, first_line, translated

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Scan", "one_batch", "pool"]

GAP = 1 << 20
"""Column chunks that lie no further apart are fetched by one request: more bytes cost less than more requests."""
LARGE = 8 << 20
"""Bytes in a batch from which on another allocator keeps less."""
FOOTERS = 64
"""Footers that are remembered."""


class _Footer(NamedTuple):
    metadata: Any
    tail: tuple[int, memoryview] | None
    """What was fetched of a file elsewhere to read the footer: position and bytes."""
    kept: frozenset[int] | None
    """Row groups in which the filter may find a row; `None`: all."""


class Scan:
    """How to read a snapshot's rows: with which columns, and which of them.

    Args:
        system: opened at the table's directory.
        snapshot: of the table.
        columns: in the order wanted; all by default.
        where: rows to keep, a filter as `access.expression` takes it.
        mixed: they are given in another order.

    Raises:
        InvalidError: a column of `columns` or `where` is not there.
    """

    def __init__(
        self,
        system: System,
        snapshot: Snapshot,
        columns: Sequence[str] | None = None,
        where: access.Where = None,
        *,
        mixed: bool = False,
    ) -> None:
        pa = need("pyarrow")
        self.system = system
        self.snapshot = snapshot
        self.whole = access.schema(system, snapshot)
        if mixed or where is not None or snapshot.partition_cols:
            self.whole = frames.without_range(self.whole)
        self.columns = access.check_columns(columns, self.whole)
        self._all = columns is None and not snapshot.owned and not snapshot.given
        self.where = access.expression(where, self.whole)
        self._free = {} if self.where is None else access.given_in(self.where, snapshot, self.whole)
        self.schema = pa.schema([self.whole.field(name) for name in self.columns], self.whole.metadata)
        more = [] if self.where is None else access.columns_of(self.where, self.whole)
        names = [*self.columns, *(name for name in more if name not in self.columns)]
        self._read = pa.schema([self.whole.field(name) for name in names], self.whole.metadata)
        self._never_null = snapshot.given and any(map(has_never_null, self._read))
        self._stored = [name for name in names if name not in snapshot.partition_cols]
        self._footers: OrderedDict[int, _Footer] = OrderedDict()
        self._lock = Lock()
        width = sum(_width(field.type) for field in self._read)
        self._width = max(1, width)

    # What is there

    def rows(self) -> list[int]:
        """How many rows each file has."""
        return access.rows_of_files(self.system, self.snapshot)

    def groups(self, number: int) -> list[Group]:
        """The row groups of a file. Those of a format without any are one, with as many rows as the snapshot knows."""
        file = self.snapshot.files[number]
        if self.snapshot.format != "parquet":
            blank = file.rows == 0 and self.snapshot.format in access.TEXT
            return [] if blank else [Group(number, 0, file.rows, file.size)]
        metadata = self.footer(number).metadata
        found = []
        for at in range(metadata.num_row_groups):
            group = metadata.row_group(at)
            found.append(Group(number, at, group.num_rows, max(group.total_byte_size, group.num_rows * self._width)))
        return found

    def footer(self, number: int) -> _Footer:
        """The footer of a Parquet file, checked against the table."""
        with self._lock:
            found = self._footers.get(number)
            if found is not None:
                self._footers.move_to_end(number)
                return found
        found = self._read_footer(number)
        with self._lock:
            self._footers[number] = found
            while len(self._footers) > FOOTERS:
                self._footers.popitem(last=False)
        return found

    def _read_footer(self, number: int) -> _Footer:
        pq = need("pyarrow.parquet")
        file = self.snapshot.files[number]
        where = self.system.url(file.key)
        with ExitStack() as stack:
            opened = stack.enter_context(closing(Source(self.system, file)))
            stack.enter_context(translated(where, opened.check))
            if file.digest is not None and file.size <= TAIL:
                got = digests.of_bytes(opened.file.read_at(file.size, 0)).text
                if got != file.digest:
                    opened.check()
                    raise IntegrityError("the file is damaged", where=where, expected=file.digest, got=got)
            check_footer(opened.file, file, where)
            metadata = pq.read_metadata(opened.file)
            tail = None if opened.ranges is None else opened.ranges.tail
        if file.rows is not None and metadata.num_rows != file.rows:
            raise IntegrityError(
                "the file has another number of rows than when it was written",
                where=where,
                expected=f"{file.rows}",
                got=f"{metadata.num_rows}",
            )
        with translated(where):
            found = metadata.schema.to_arrow_schema()
        try:
            self._check(where, found)
        except InvalidError as error:
            if not self.snapshot.owned:
                raise
            raise IntegrityError(f"the file is not as it was written: {error.message}", where=where) from error
        return _Footer(metadata, tail, self._keep(number, tail, found))

    def _check(self, where: str, found: pa.Schema) -> None:
        """Hold a file's columns against the table's."""
        access.check_file_schema(self.snapshot, where, found, self._read, columns=self._stored)
        if self._all:
            access.check_no_more(where, found, self.whole)

    def _keep(self, number: int, tail: tuple[int, memoryview] | None, found: pa.Schema) -> frozenset[int] | None:
        """The row groups of a file that its statistics and its directories do not exclude."""
        if self.where is None or not access.excludes(found, self._free):
            return None
        file = self.snapshot.files[number]
        where = self.system.url(file.key)
        with closing(Source(self.system, file)) as opened, translated(where):
            if opened.ranges is not None and tail is not None:
                opened.ranges.hold([tail])
            fragment = access.fragment(self.system, self.snapshot, file, self.whole, source=opened.file)
            return frozenset(group.id for group in fragment.subset(self.where, schema=self.whole).row_groups)

    def excluded(self, group: Group) -> bool:
        """Whether no row of a group can pass the filter."""
        if self.where is None or self.snapshot.format != "parquet":
            return False
        kept = self.footer(group.file).kept
        return kept is not None and group.number not in kept

    # Rows

    def batches(self, run: Sequence[Group], size: int) -> Generator[pa.RecordBatch, None, None]:
        """The wanted rows of groups that follow each other in one file, before the filter.

        Args:
            run: only its first group may begin, and only its last one end, somewhere in between.
            size: rows in a batch, at the most.
        """
        first, last = run[0], run[-1]
        skip = first.start
        left = None if last.rows is None and last.stop is None else sum(group.wanted for group in run)
        values = access.partition_scalars(self.system, self.snapshot, self.snapshot.files[first.file], self.whole)
        where = self.system.url(self.snapshot.files[first.file].key)
        trusted = self.snapshot.owned or self.snapshot.format in access.TEXT  # whose readers see to it
        read = {"parquet": self._parquet, "arrow": self._arrow}.get(self.snapshot.format, self._text)
        with ExitStack() as stack:
            found = read(run, size)
            stack.callback(found.close)
            for batch in found:
                rows = batch.num_rows
                if skip >= rows:
                    skip -= rows
                    continue
                if skip or (left is not None and rows - skip > left):
                    batch = batch.slice(skip, left)  # noqa: PLW2901
                    skip = 0
                if left is not None:
                    left -= batch.num_rows
                if batch.num_rows:
                    wanted = self._shaped(batch, values, where)
                    if not trusted:
                        check_text(where, wanted)
                    yield wanted
                if left == 0:
                    return
        if left:
            raise IntegrityError("the file has fewer rows than it says", where=where, got=f"{left} less")

    def filtered(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of a batch that pass the filter, with the wanted columns only."""
        if self.where is None:
            return batch
        pa, acero = need("pyarrow"), need("pyarrow.acero")
        plan = acero.Declaration.from_sequence(
            [
                acero.Declaration("table_source", acero.TableSourceNodeOptions(pa.Table.from_batches([batch]))),
                acero.Declaration("filter", acero.FilterNodeOptions(self.where)),
            ]
        )
        with translated(self.system.url()):
            try:
                found = plan.to_table(use_threads=False)  # threads of Arrow do not survive a fork
            except pa.ArrowInvalid as error:  # the rows are decoded already: only the filter is left to be wrong
                raise InvalidError(
                    f"the filter does not fit the table: {first_line(error)}",
                    where=self.system.url(),
                    hint='where=[("column", ">", 3)] compares each value as one of its column\'s type',
                ) from error
        return one_batch(found.select(self.columns).to_batches(), self.schema)

    def _shaped(self, batch: pa.RecordBatch, values: dict[str, pa.Scalar], where: str) -> pa.RecordBatch:
        """A batch of a file with the columns and types of the table."""
        wanted, given = self._read, self.snapshot.given
        if not values and not self._never_null and batch.schema.equals(wanted, check_metadata=True):
            return batch
        pa = need("pyarrow")
        columns, there = [], set(batch.schema.names)
        for field in wanted:
            if field.name in values:
                columns.append(access.repeated(values[field.name], batch.num_rows))
            elif given and field.name not in there:
                columns.append(pa.nulls(batch.num_rows, field.type))
            else:
                columns.append(access.shaped(where, batch.column(field.name), field, given=given))
        return pa.RecordBatch.from_arrays(columns, schema=wanted)

    def _leaves(self, metadata: Any) -> list[int]:
        """Numbers of the Parquet columns that the wanted columns are made of, in the order of the latter."""
        found: dict[str, list[int]] = {name: [] for name in self._stored}
        for number in range(metadata.num_columns):
            path = metadata.schema.column(number).path
            end = len(path)
            while end > 0:
                if path[:end] in found:
                    found[path[:end]].append(number)
                end = path.rfind(".", 0, end)
        return list(dict.fromkeys(number for numbers in found.values() for number in numbers))

    def _parquet(self, run: Sequence[Group], size: int) -> Generator[pa.RecordBatch, None, None]:
        footer = self.footer(run[0].file)
        file = self.snapshot.files[run[0].file]
        with ExitStack() as stack:
            opened = stack.enter_context(closing(Source(self.system, file)))
            stack.enter_context(translated(self.system.url(file.key), opened.check))
            leaves = self._leaves(footer.metadata)
            if not leaves:  # only partition columns are wanted, or such as this file does not have
                for group in run:
                    yield _rows_alone(group.rows or 0)
                return
            if opened.ranges is not None:
                self._fetch(opened.ranges, footer, run, leaves)
            rows = max(1, sum(group.rows or 0 for group in run))
            at_once = sum(group.size for group in run) * min(size, rows) // rows
            reader = need("pyarrow._parquet").ParquetReader(pool(at_once))  # ParquetFile has one, but takes no pool
            reader.open(
                opened.file,
                metadata=footer.metadata,
                pre_buffer=False,
                page_checksum_verification=True,
                arrow_extensions_enabled=True,
            )
            numbers = [group.number for group in run]
            for batch in reader.iter_batches(size, numbers, leaves, use_threads=False):
                opened.check()
                yield batch

    def _fetch(self, ranges: Ranges, footer: _Footer, run: Sequence[Group], leaves: Sequence[int]) -> None:
        """Get the wanted column chunks of row groups by as few requests as is sensible."""
        spans = []
        for group in run:
            metadata = footer.metadata.row_group(group.number)
            for number in leaves:
                chunk = metadata.column(number)
                begin = chunk.data_page_offset
                if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
                    begin = min(begin, chunk.dictionary_page_offset)
                spans.append((begin, begin + chunk.total_compressed_size))
        held = [] if footer.tail is None else [footer.tail]
        for start, stop in _coalesced(spans):
            if footer.tail is None or start < footer.tail[0]:
                held.append((start, ranges.fetch(start, stop)))
        ranges.hold(held)

    def _arrow(self, run: Sequence[Group], size: int) -> Generator[pa.RecordBatch, None, None]:
        pa = need("pyarrow")
        file = self.snapshot.files[run[0].file]
        with ExitStack() as stack:
            opened = stack.enter_context(closing(Source(self.system, file, block=BLOCK)))
            stack.enter_context(translated(self.system.url(file.key), opened.check))
            source = opened.file
            if access.has_footer(source):
                reader = pa.ipc.open_file(source)
                found = (reader.get_batch(number) for number in range(reader.num_record_batches))
            else:
                reader = found = pa.ipc.open_stream(source)
            self._check(self.system.url(file.key), reader.schema)
            names = [name for name in self._stored if name in reader.schema.names]
            for batch in found:
                opened.check()
                narrow = batch.select(names)
                for at in range(0, narrow.num_rows, size):
                    yield narrow.slice(at, size)

    def _text(self, run: Sequence[Group], size: int) -> Generator[pa.RecordBatch, None, None]:
        """CSV and JSON lines, parsed as they come."""
        file = self.snapshot.files[run[0].file]
        where = self.system.url(file.key)
        with access.reading_file(self.system, self.snapshot, file, self.whole, lambda: check_now(self.system, file)):
            fragment = access.fragment(self.system, self.snapshot, file, self.whole)
            if self._all and run[0].file:
                access.check_no_more(where, access.file_schema(self.system, self.snapshot, file), self.whole)
            if self.snapshot.given:
                access.check_fragment(self.system, self.snapshot, fragment, whole=self.whole, columns=self._stored)
            if not self._stored:
                yield _rows_alone(access.rows_of(self.system, self.snapshot, file))
                return
            wanted = need("pyarrow").schema(map(self.whole.field, self._stored))
            parsed = access.as_parsed(self.snapshot, wanted)

            def csv(snapshot: Snapshot) -> Iterator[pa.RecordBatch]:
                one = access.fragment(self.system, snapshot, file, self.whole)
                yield from one.to_batches(schema=parsed, batch_size=size, use_threads=not _forked, batch_readahead=4)

            for batch in (
                self._lines(run, wanted, size) if self.snapshot.format == "jsonl" else blocks.rows(self.snapshot, csv)
            ):
                check_now(self.system, file)
                yield batch

    def _lines(self, run: Sequence[Group], wanted: pa.Schema, size: int) -> Generator[pa.RecordBatch, None, None]:
        """JSON lines; a key that no column has is an error where all are wanted."""
        file = self.snapshot.files[run[0].file]
        threads = not _forked
        for batch in lines.batches(self.system, self.snapshot, file, wanted, strict=self._all, threads=threads):
            for at in range(0, batch.num_rows, size):
                yield batch.slice(at, size)


def one_batch(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    """Batches as one; copied only if there are several."""
    pa = need("pyarrow")
    if len(batches) == 1:
        return batches[0]
    if not batches:
        return pa.RecordBatch.from_pylist([], schema=schema)
    return pa.concat_batches(batches, pool(sum(batch.nbytes for batch in batches)))


def pool(size: int) -> pa.MemoryPool:
    """What batches of about so many bytes are decoded into.

    jemalloc gives back by itself what is not used; Arrow's default, mimalloc, may keep a hundred MiB where one thread
    decodes what another one drops. With arrays of many MiB it is the other way round.
    """
    pa = need("pyarrow")
    try:
        return pa.default_memory_pool() if size > LARGE else pa.jemalloc_memory_pool()
    except NotImplementedError:  # not in this build of Arrow
        return pa.default_memory_pool()


def _rows_alone(count: int) -> pa.RecordBatch:
    """So many rows without any column but one that nobody asked for."""
    pa = need("pyarrow")
    return pa.RecordBatch.from_arrays([pa.nulls(count)], names=[""])


def _coalesced(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that are near each other as one."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if found and start - found[-1][1] <= GAP:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found


def _width(kind: pa.DataType) -> int:
    """Bytes of a value in memory, at least."""
    try:
        return int(-(-kind.bit_width // 8))
    except ValueError:
        return 16


_forked = False


def _after_fork() -> None:
    global _forked  # noqa: PLW0603
    _forked = True


os.register_at_fork(after_in_child=_after_fork)
