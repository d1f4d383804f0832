"""A table's rows in batches: exact sizes, one order everywhere, shared by ranks, resumed at the row.

The rows come in the order of the files and of the rows in them. A seed puts files, the row groups of each file, and
the rows of each window in an order of its own; a window is as many whole row groups as `shuffle_buffer` rows hold, or a
part of a larger one. The rank's share is cut from the order of row groups, and windows begin where it begins.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from rh.errors import InvalidError
from rh.plugins import need
from rh.systems.base import System
from rh.systems.local import LocalSystem
from rh.tables import access, order
from rh.tables.ahead import Ahead
from rh.tables.base import Snapshot
from rh.tables.formats import BatchFormat, converter
from rh.tables.order import Group, Window
from rh.tables.pickling import Packed, packed
from rh.tables.scan import Scan, one_batch, pool

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Stream"]

STATE = 1
"""Of the form of a state, and of the order: another one means other rows at the same place."""
ROWS, SIZE = 1 << 17, 8 << 20
"""What is read as one, when not shuffled: small row groups together."""
FAR = 2
"""Elsewhere so many times as much: fewer requests."""
SHUFFLED_ROWS, SHUFFLED_SIZE = 1 << 18, 8 << 20
"""What is shuffled at once, by default: two windows in work and what waits stay within the bound on memory."""
STEP, STEP_SIZE = 1 << 16, 2 << 20
"""Rows, and about how many bytes, are decoded at once, at the most; larger batches are put together of several."""
UNKNOWN = 64
"""Bytes of a row where nothing tells."""
WAITING, SHUFFLED_WAITING = 8 << 20, 4 << 20
"""Bytes of decoded rows that may wait for the reader; of shuffled ones, beside the windows that they are taken from."""
BUDGET = 32 << 20
"""Bytes of row groups under way, where more than two are (or one, when shuffled)."""
LOOK = 4 << 20
GROWTH = 40 << 20
"""After each so many bytes it is looked at how much the process grew. If more, the allocator is told to give back what
it keeps: by itself it may keep a hundred MiB, and to tell it every time costs a tenth of the speed."""
PAGE = os.sysconf("SC_PAGE_SIZE")
AT_ONCE = 2
"""Windows read at the same time: what each further thread's allocator keeps would break the bound on memory."""


class _Chunk(NamedTuple):
    """Rows that follow each other in the share.

    Attributes:
        batch: those that passed the filter.
        taken: rows of the share, before the filter, that are done with when this chunk is.
        before: rows that were given out before this chunk since the place that `taken` counts from.
    """

    batch: pa.RecordBatch | None
    taken: int
    before: int


class _Plan:
    """What a stream reads, in which order. It knows nothing of the stream, which may be dropped while threads read."""

    def __init__(
        self,
        scan: Scan,
        batch_size: int,
        seed: int | None,
        buffer: int | None,
        rank: int,
        world_size: int,
        *,
        drop_last: bool,
    ) -> None:
        self.scan = scan
        self.seed = seed
        far = 1 if scan.system.ask(LocalSystem) is not None else FAR
        self.rows = buffer or (ROWS * far if seed is None else SHUFFLED_ROWS)
        self.size = (1 << 62) if buffer else (SIZE * far if seed is None else SHUFFLED_SIZE)
        self._counts: list[int] | None = None
        self._batch_size, self._rank, self._world_size, self._drop_last = batch_size, rank, world_size, drop_last
        self._share: tuple[int, int | None] | None = None
        self._unseen = 0
        self._most = _resident() + GROWTH

    def _trim(self) -> None:
        """Give back memory that nothing uses, if the process grew."""
        if _resident() > self._most:
            for one in (pool(0), need("pyarrow").default_memory_pool()):
                one.release_unused()
            self._most = max(self._most, _resident() + LOOK)  # what is in use is not in vain asked for again

    def share(self) -> tuple[int, int | None]:
        """The rows of all that are ours, in the order of row groups; to the end where nobody else has any."""
        if self._share is None:
            if self._world_size == 1:
                self._share = 0, None
            else:
                total = sum(self.counts())
                start, stop = order.share(total, self._rank, self._world_size)
                if self._drop_last and self.scan.where is None:  # all ranks give equally many batches
                    stop = start + total // self._world_size // self._batch_size * self._batch_size
                self._share = start, stop
        return self._share

    def counts(self) -> list[int]:
        """How many rows each file has. Footers tell it; CSV and JSON lines are counted."""
        if self._counts is None:
            self._counts = self.scan.rows()
        return self._counts

    def windows(self, at: int) -> Iterator[Window]:
        """What to read from a place of the share on."""
        start, stop = self.share()
        if self.scan.snapshot.format != "parquet" and (at or self.seed is not None):
            self.counts()
        groups = order.between(self._groups(start + at), start + at, stop)
        return order.windows(groups, at, rows=self.rows, size=self.size, across=self.seed is not None)

    def _groups(self, start: int) -> Iterator[list[Group]]:
        """The row groups of each file, in order; a file that ends before `start` is shown as one."""
        files = self.scan.snapshot.files
        at = 0
        numbers = range(len(files)) if self.seed is None else order.permutation(len(files), self.seed, "files")
        for number in numbers:
            rows = files[number].rows if self._counts is None else self._counts[number]
            if rows is not None and at + rows <= start:
                yield [Group(number, 0, rows)]
                at += rows
                continue
            groups = self.scan.groups(number)
            if rows is not None and len(groups) == 1:
                groups = [groups[0]._replace(rows=rows)]
            if self.seed is not None:
                groups = [groups[place] for place in order.permutation(len(groups), self.seed, "groups", number)]
            at += sum(group.rows or 0 for group in groups)
            yield groups

    def origin(self, start: int) -> int:
        """Where the shuffled window begins that has the row `start` of the share."""
        found = 0
        for window in self.windows(0):
            if window.start > start:
                break
            found = window.start
        return found + (start - found) // self.rows * self.rows

    def cost(self, window: Window) -> int:
        """Bytes that a window takes, about."""
        return sum(group.size for group in window.groups)

    def work(self, window: Window) -> Iterator[tuple[_Chunk, int]]:
        """The rows of a window."""
        width = self._width(window)
        for chunk in self._plain(window) if self.seed is None else self._shuffled(window, self.seed):
            size = 0 if chunk.batch is None else chunk.batch.num_rows * width
            self._unseen += size
            if self._unseen >= LOOK:
                self._unseen = 0
                self._trim()
            yield chunk, size

    def _width(self, window: Window) -> int:
        """Bytes of a row, about."""
        rows = sum(group.rows or 0 for group in window.groups)
        return max(1, self.cost(window) // rows if rows else UNKNOWN)

    def _step(self, window: Window) -> int:
        """How many rows to decode at once."""
        return max(1, min(STEP, STEP_SIZE // self._width(window)))

    def _read(self, window: Window, size: int) -> Iterator[tuple[pa.RecordBatch | None, int]]:
        """A window's rows before the filter, and how many; only the number of those that cannot pass it."""
        runs: list[list[Group]] = []
        for group in window.groups:
            if self.scan.excluded(group):
                runs.append([group])
            elif runs and runs[-1][-1].file == group.file and not self.scan.excluded(runs[-1][-1]):
                runs[-1].append(group)
            else:
                runs.append([group])
        for run in runs:
            if self.scan.excluded(run[0]):
                yield None, run[0].wanted
            else:
                for batch in self.scan.batches(run, size):
                    yield batch, batch.num_rows

    def _plain(self, window: Window) -> Iterator[_Chunk]:
        for batch, rows in self._read(window, self._step(window)):
            yield _Chunk(None if batch is None else self.scan.filtered(batch), rows, 0)

    def _shuffled(self, window: Window, seed: int) -> Iterator[_Chunk]:
        step = self._step(window)
        size = step if self.scan.where is not None or self.scan.snapshot.format != "parquet" else self.rows
        held: list[pa.RecordBatch] = []
        rows, first = 0, self.share()[0] + window.start
        for batch, count in self._read(window, size):
            at = 0
            while at < count:
                part = min(count - at, self.rows - rows)
                if batch is not None:
                    held.append(self.scan.filtered(batch.slice(at, part)))
                at += part
                rows += part
                if rows == self.rows:
                    yield from self._scattered(held, seed, first, rows, step)
                    first += rows
                    held, rows = [], 0
        if rows:
            yield from self._scattered(held, seed, first, rows, step)

    def _scattered(self, held: list[pa.RecordBatch], seed: int, first: int, rows: int, step: int) -> Iterator[_Chunk]:
        """Rows in the order of the seed."""
        whole = one_batch(held, self.scan.schema)
        held.clear()
        count = whole.num_rows
        if not count:
            yield _Chunk(None, rows, 0)
            return
        pa, pc = need("pyarrow"), need("pyarrow.compute")
        found = order.scatter(count, seed, first)
        places = pa.Array.from_buffers(pa.uint32(), count, [None, pa.py_buffer(found)])  # pa.array imports pandas
        for at in range(0, count, step):
            batch = pc.take(whole, places.slice(at, step), boundscheck=False, memory_pool=pool(STEP_SIZE))
            yield _Chunk(batch, rows if at + step >= count else 0, at)


class Stream:
    """The rows of a table, in batches of exactly `batch_size` rows; the last one may be shorter.

    It is an iterator that goes through the rows once. Row groups are read ahead by threads of its own, at most two and
    64 MiB at a time. `close` it, leave its block or drop it to end them. A stream that has not begun can be pickled.

    Args:
        system: opened at the table's directory.
        snapshot: of the table. A file that is not the one it knows is a `ConflictError`, or an `IntegrityError` where
            the table's index still names it.
        batch_size: rows in a batch.
        format: `"arrow"`, `"pandas"`, `"polars"`, `"numpy"`, `"torch"` or `"dict"`.
        columns: names, in the order wanted; all by default. Others are not read.
        where: keep rows for which this holds: a `pyarrow.compute.Expression`, or `[("column", ">", 3), …]`. Row groups
            that cannot have any are not read. It is applied to what each rank has, so ranks may then give different
            numbers of rows.
        shuffle_seed: any whole number; the same one gives the same order on every machine.
        shuffle_buffer: rows that are shuffled among each other, at least those of a row group if they are fewer; by
            default 262,144, or what fits in 8 MiB.
        drop_last: leave out a last batch that would be shorter. All ranks then give equally many (without `where`).
        prefetch: row groups to read at the same time, by default two; more take more memory. 0 reads in the caller's
            thread, when a batch is asked for.
        rank: which share of the rows to give.
        world_size: how many equal shares there are: they follow each other in the order, and cover it.
        start: begin at this row of the share.

    Raises:
        InvalidError: an argument cannot be right; the message says which and why.
    """

    def __init__(
        self,
        system: System,
        snapshot: Snapshot,
        batch_size: int,
        *,
        format: BatchFormat = "arrow",  # noqa: A002 - the public name
        columns: list[str] | None = None,
        where: access.Where = None,
        shuffle_seed: int | None = None,
        shuffle_buffer: int | None = None,
        drop_last: bool = False,
        prefetch: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> None:
        _whole("batch_size", batch_size, 1)
        _whole("start", start, 0)
        for name, value, least in (
            ("shuffle_seed", shuffle_seed, None),
            ("shuffle_buffer", shuffle_buffer, 1),
            ("prefetch", prefetch, 0),
        ):
            if value is not None:
                _whole(name, value, least)
        order.check_rank(rank, world_size)
        if shuffle_buffer is not None and shuffle_seed is None:
            raise InvalidError("shuffle_buffer= shuffles nothing without a seed", hint="give shuffle_seed=")
        if start and where is not None and shuffle_seed is not None:
            raise InvalidError(
                "rows that are shuffled and filtered have no numbers to start at", hint="resume with load_state_dict()"
            )
        self.system = system
        self.snapshot = snapshot
        self.batch_size = batch_size
        self.format = format
        self._columns, self._where = columns, where
        self._seed, self._buffer = shuffle_seed, shuffle_buffer
        self._drop_last, self._prefetch = drop_last, prefetch
        self._rank, self._world_size, self._start = rank, world_size, start
        self._convert = converter(format)
        self._plan: _Plan | None = None
        if snapshot.schema is not None:
            self._planned()
        self._reset(None)

    def _reset(self, position: tuple[int, int] | None) -> None:
        """Go to a place: rows of the share that are done with, and how many were given out behind them."""
        self._position = position
        self._ahead: Ahead[Window, _Chunk] | None = None
        self._pid = 0
        self._ended = self._moved = False
        self._pending: list[pa.RecordBatch] = []
        self._held = 0
        self._mark = (0, 0)
        self._skip = 0
        self._chunk: Any = None
        self._at = self._rows = 0
        self._origin = self._before = self._taken = 0

    # Batches

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        at = self._at
        stop = at + self.batch_size
        if stop <= self._rows and not self._held:
            self._at = stop
            batch = self._chunk.slice(at, self.batch_size)
        else:
            batch = self._across()
        return batch if self._convert is None else self._convert(batch)

    def _across(self) -> pa.RecordBatch:
        """A batch from more than one chunk, or the last one."""
        if self._ended:
            raise StopIteration
        ahead = self._running()
        while True:
            rows = min(self._rows - self._at, self.batch_size - self._held)
            if rows:
                if not self._held:
                    self._mark = self._here()
                self._pending.append(self._chunk.slice(self._at, rows))
                self._at += rows
                self._held += rows
            if self._held == self.batch_size:
                break
            chunk = ahead.next()
            if chunk is None:
                if self._held and not self._drop_last:
                    break
                self.close()
                raise StopIteration
            self._origin += self._taken
            self._chunk, self._taken, self._before = chunk
            self._rows = 0 if self._chunk is None else self._chunk.num_rows
            self._at = min(self._skip, self._rows)
            self._skip -= self._at
        batch = one_batch(self._pending, self._planned().scan.schema)
        self._pending, self._held, self._moved = [], 0, True
        return batch

    def _running(self) -> Ahead[Window, _Chunk]:
        """What reads ahead; begun where we are if it is not, or is the parent's."""
        if self._ahead is not None and self._pid == os.getpid():
            return self._ahead
        plan = self._planned()
        position = self.position
        if position is None:
            origin = self._start if self._seed is None else plan.origin(self._start) if self._start else 0
            position = (origin, self._start - origin)
        self._reset(position)
        self._origin, self._skip = position
        self._pid = os.getpid()
        self._ahead = Ahead(
            plan.windows(self._origin),
            plan.work,
            plan.cost,
            threads=self._threads(),
            most=WAITING if self._seed is None else SHUFFLED_WAITING,
            budget=BUDGET,
            least=2 if self._seed is None else 1,  # a window to be shuffled is decoded whole
        )
        return self._ahead

    def _threads(self) -> int:
        return AT_ONCE if self._prefetch is None else self._prefetch

    def _planned(self) -> _Plan:
        if self._plan is None:
            scan = Scan(self.system, self.snapshot, self._columns, self._where, mixed=self._seed is not None)
            self._plan = _Plan(
                scan,
                self.batch_size,
                self._seed,
                self._buffer,
                self._rank,
                self._world_size,
                drop_last=self._drop_last,
            )
        return self._plan

    @property
    def schema(self) -> pa.Schema:
        """Of the batches."""
        return self._planned().scan.schema

    def close(self) -> None:
        """End the threads; there are no more batches then. May be called twice."""
        self._position, self._moved = self.position, False
        self._ended = True
        ahead, self._ahead = self._ahead, None
        self._chunk, self._pending, self._at, self._rows, self._held = None, [], 0, 0, 0
        if ahead is not None and self._pid == os.getpid():
            ahead.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # Where it is

    def _here(self) -> tuple[int, int]:
        """The place of the next row of the chunk."""
        given = self._before + self._at
        return (self._origin + given, 0) if self._seed is None and self._where is None else (self._origin, given)

    def _here_or_before(self) -> tuple[int, int]:
        """The place of the first row that was not given out."""
        return self._mark if self._held else self._here()

    @property
    def position(self) -> tuple[int, int] | None:
        """Rows of the share that are done with, and how many were given out behind them; `None` before the begin."""
        return self._here_or_before() if self._moved else self._position

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, as plain JSON values: behind the last batch it gave out."""
        rows, given = self.position or (None, 0)
        return {"format": STATE, "rows": rows, "given": given, "start": self._start, **self._same()}

    def _same(self) -> dict[str, Any]:
        """What must be equal for a place to mean the same row."""
        return {
            "fingerprint": self.snapshot.fingerprint,
            "shuffle_seed": self._seed,
            "shuffle_buffer": self._buffer,
            "rank": self._rank,
            "world_size": self._world_size,
            "where": None if self._where is None else _exactly(self._planned().scan.where),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind the batch after which `state_dict` was called, here or in another process or on another machine.

        What came before is not read: only the row group of that row, and when shuffled its window, and what follows.
        The size and the format of batches, and their columns, may be others than before.

        Raises:
            InvalidError: the state is of another table, or of a stream with other arguments; the message says which.
        """
        if not isinstance(state, Mapping) or state.get("format") != STATE:
            raise InvalidError("this is not the state of a stream of this release", hint="give what state_dict() gave")
        for name, value in self._same().items():
            if name not in state or state[name] != value:
                if name == "fingerprint":
                    raise InvalidError(
                        "the state is of another table, or the table has changed since", where=self.system.url()
                    )
                raise InvalidError(
                    f"the state is of a stream with another {name}: {state.get(name)!r}, not {value!r}",
                    where=self.system.url(),
                )
        rows, given, start = state.get("rows"), state.get("given", 0), state.get("start", 0)
        _whole("start of the state", start, 0)
        if rows is None:
            position = None
            if start != self._start:
                raise InvalidError(f"the state is of a stream with another start: {state.get('start')!r}")
        else:
            _whole("rows of the state", rows, 0)
            _whole("given of the state", given, 0)
            self._check_place(rows, given)
            position = (rows, given)
        if self._ahead is not None:
            self.close()
        self._reset(position)

    def _check_place(self, rows: int, given: int) -> None:
        """Raise `InvalidError` for a place behind the last row, where the number of rows is known without reading."""
        known = [file.rows for file in self.snapshot.files]
        if None in known:
            return
        start, stop = order.share(sum(count or 0 for count in known), self._rank, self._world_size)
        if rows + given > max(stop - start, self._start):
            raise InvalidError(
                f"the state is behind the end: row {rows + given:,} of {stop - start:,}",
                where=self.system.url(),
                hint="give what state_dict() gave, unchanged",
            )

    def __getstate__(self) -> dict[str, Any]:
        if self._ahead is not None:
            raise InvalidError(
                "a stream that has begun cannot be pickled", hint="send its state_dict(), and the table, instead"
            )
        kept = {name: value for name, value in vars(self).items() if name not in ("system", "_plan", "_convert")}
        return {**kept, "system": packed(self.system, self.snapshot)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        table: Packed = state.pop("system")
        self.__dict__.update(state)
        self.system, self.snapshot = table.opened(self.snapshot)
        self._convert = converter(self.format)
        self._plan = None

    def __repr__(self) -> str:
        return f"<Stream of {self.system.url()}, {self.batch_size} rows at a time>"


def _exactly(where: pa.compute.Expression) -> str:
    """A filter as text, and by a digest: the text leaves out most of many values."""
    _, (serialized,) = where.__reduce__()
    return f"{where} {hashlib.sha256(serialized).hexdigest()[:32]}"


def _resident() -> int:
    """Bytes of this process that are in memory; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * PAGE
    except OSError:
        return 0


def _whole(name: str, value: Any, least: int | None) -> None:
    """Raise `InvalidError` unless it is a whole number that is not too small."""
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        raise InvalidError(
            f"{name} is {value!r}", hint="a whole number" + ("" if least is None else f", {least} or more")
        )
