"""What is in a table: a profile of its columns, the difference of two tables, a sample of rows.

Rows are read once, in batches; memory is bounded, except that `diff` keeps eight bytes of each row of both tables (of
its key besides, where keys are given). Values are told apart by 64 bits of a hash: among ten million rows two different
ones look alike with a probability of three in a million.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rh.errors import InvalidError
from rh.plugins import need
from rh.systems.base import System
from rh.tables import access, frames, hashes
from rh.tables.base import Snapshot
from rh.tables.promotion import alike

__all__ = ["ColumnProfile", "Diff", "Profile", "diff", "profile", "sample"]

BATCH_ROWS = 64 << 10
COUNTED = 64 << 10
"""So many values of a column are counted one by one; with more of them, counts and `distinct` are approximate."""
COUNTED_BYTES = 32 << 20
SKETCH = 4096
"""Least hashes that are kept to estimate how many there are; the standard error is 1 / sqrt(SKETCH), 1.6 %."""
TOP = 5


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column.

    Attributes:
        type: Arrow's, as text.
        rows: how many, nulls among them.
        nulls: how many; `None` where nothing tells.
        distinct: how many different values, null not counted; `None` for columns of lists, structs and maps.
        min: the least, `None` if there is none; likewise `max`. NaN does not count.
        mean: of numbers, NaN not among them.
        top: the most frequent values and how often they come, null not among them.
        exact: whether `distinct` and the counts in `top` are exact. Else `distinct` is an estimate (1.6 % off, mostly),
            and a count is the least that it can be.
    """

    name: str
    type: str
    rows: int
    nulls: int | None = None
    distinct: int | None = None
    min: Any = None
    max: Any = None
    mean: float | None = None
    top: tuple[tuple[Any, int], ...] = ()
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Profile:
    """What the columns of a table hold. `str()` of it is a table for people."""

    rows: int
    columns: tuple[ColumnProfile, ...]

    def __getitem__(self, name: str) -> ColumnProfile:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts and lists, of Python's own values."""
        return asdict(self)

    def __str__(self) -> str:
        head = ("column", "type", "nulls", "distinct", "min", "max", "mean", "most frequent")
        lines = [head, *map(_cells, self.columns)]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([f"{self.rows:,} rows", *(line.rstrip() for line in text)])

    def __repr__(self) -> str:
        return f"<Profile of {self.rows:,} rows and {len(self.columns):,} columns>"


def _cells(column: ColumnProfile) -> tuple[str, ...]:
    about = "" if column.exact else "~"
    top = ", ".join(f"{_short(value)} ×{count:,}" for value, count in column.top[:3] if column.exact or count > 1)
    return (
        column.name,
        column.type,
        "" if column.nulls is None else f"{column.nulls:,}",
        "" if column.distinct is None else f"{about}{column.distinct:,}",
        _short(column.min),
        _short(column.max),
        "" if column.mean is None else f"{column.mean:.6g}",
        top,
    )


def _short(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else str(value)
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= 24 else text[:23] + "…"


def profile(
    system: System, snapshot: Snapshot, *, columns: Sequence[str] | None = None, quick: bool = False
) -> Profile:
    """What each column holds.

    Args:
        system: opened at the table's root.
        snapshot: of the table.
        columns: only these.
        quick: say only what the footers of the Parquet files tell: nulls, `min` and `max`, each `None` where a footer
            does not tell it. No row is read.

    Raises:
        InvalidError: there is no such column; `quick`, and the files are not Parquet.
        ConflictError: the table changed meanwhile.
    """
    names = access.check_columns(columns, access.schema(system, snapshot))
    if quick:
        return _from_footers(system, snapshot, names)
    schema = access.schema(system, snapshot)
    tallies = [_Tally(schema.field(name)) for name in names]
    rows = 0
    for batch in _batches(system, snapshot, names):
        rows += batch.num_rows
        for tally, column in zip(tallies, batch.columns, strict=True):
            tally.add(column)
    return Profile(rows, tuple(tally.result() for tally in tallies))


def _batches(system: System, snapshot: Snapshot, columns: Sequence[str]) -> Iterator[Any]:
    """The rows in batches, read ahead no further than a row group."""
    dataset = access.dataset(system, snapshot)
    everything = set(columns) == set(dataset.schema.names)
    access.check_files(system, snapshot, dataset, None, None if everything else columns)
    with access.reading(system, snapshot, dataset.schema):
        yield from access.scanner(
            system,
            snapshot,
            dataset,
            columns=list(columns),
            strict=everything,
            batch_size=BATCH_ROWS,
            batch_readahead=2,
            fragment_readahead=1,
        ).to_batches()


def _from_footers(system: System, snapshot: Snapshot, names: Sequence[str]) -> Profile:
    if snapshot.format != "parquet":
        raise InvalidError(f"files of {snapshot.format} have no footers that tell", where=system.url())
    schema = access.schema(system, snapshot)
    bounds = {name: _Bounds() for name in names}
    rows = 0
    for file in snapshot.files:
        with access.translated(system.url(file.key)), access.open_file(system, file) as source:
            metadata = need("pyarrow.parquet").read_metadata(source)
        rows += metadata.num_rows
        values = access.partition_scalars(system, snapshot, file, schema)
        for name in bounds.keys() & values.keys():
            value = values[name].as_py()
            bounds[name].add(metadata.num_rows if value is None else 0, value, value, told=True)
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                name, stats = column.path_in_schema, column.statistics
                if name not in bounds or name in values:
                    continue
                if stats is None:
                    bounds[name].add(None, None, None, told=False)
                    continue
                nulls = stats.null_count if stats.has_null_count else None
                low, high = (stats.min, stats.max) if stats.has_min_max else (None, None)
                bounds[name].add(nulls, low, high, told=stats.has_min_max or nulls == column.num_values)
    return Profile(rows, tuple(bounds[name].result(schema.field(name), rows) for name in names))


class _Bounds:
    """What footers tell of one column."""

    def __init__(self) -> None:
        self._nulls: int | None = 0
        self._low: Any = None
        self._high: Any = None
        self._told = True

    def add(self, nulls: int | None, low: Any, high: Any, *, told: bool) -> None:
        self._nulls = None if nulls is None or self._nulls is None else self._nulls + nulls
        self._told = self._told and told
        if low is not None:
            self._low = low if self._low is None else min(low, self._low)
            self._high = high if self._high is None else max(high, self._high)

    def result(self, field: Any, rows: int) -> ColumnProfile:
        if need("pyarrow").types.is_nested(field.type):  # its leaves have other names
            return ColumnProfile(field.name, str(field.type), rows)
        told = self._told and not need("pyarrow").types.is_float16(field.type)  # bytes, to the footer
        low, high = (self._low, self._high) if told else (None, None)
        return ColumnProfile(field.name, str(field.type), rows, self._nulls, min=low, max=high)


class _Tally:
    """What is counted of one column while its batches pass."""

    def __init__(self, field: Any) -> None:
        types = need("pyarrow").types
        self._field = field
        self._kind = hashes.bare(field.type)
        self._flat = not (types.is_nested(self._kind) or types.is_interval(self._kind))
        self._number = types.is_integer(self._kind) or types.is_floating(self._kind) or types.is_decimal(self._kind)
        self._rows = self._nulls = self._numbers = 0
        self._sum = 0.0
        self._low: Any = None
        self._high: Any = None
        self._counts: Any = None
        self._sketch: _Sketch | None = None

    def add(self, column: Any) -> None:
        """Take a batch's column."""
        pc = need("pyarrow.compute")
        self._rows += len(column)
        self._nulls += column.null_count
        if not self._flat or column.null_count == len(column):
            return
        column = hashes.plain(column).drop_null()
        counts = _counts(column)
        values = counts.column("value")
        if self._number:
            numbers = column.cast("float64", safe=False)  # for a mean, of whatever whole numbers
            numbers = numbers.filter(pc.invert(pc.is_nan(numbers)))
            self._sum += pc.sum(numbers, min_count=0).as_py()
            self._numbers += len(numbers)
        known = values.filter(pc.invert(pc.is_nan(values))) if need("pyarrow").types.is_floating(self._kind) else values
        if len(known):
            low, high = _ends(known)
            self._low = low if self._low is None else min(low, self._low)
            self._high = high if self._high is None else max(high, self._high)
        if self._sketch is not None:
            self._sketch.add(hashes.of_column(values))
        self._count(counts)

    def _count(self, counts: Any) -> None:
        pa = need("pyarrow")
        if self._counts is not None:
            both = pa.concat_tables([self._counts, counts])
            counts = both.group_by("value", use_threads=False).aggregate([("count", "sum")])
            counts = counts.rename_columns(["value", "count"])
        if counts.num_rows > COUNTED or counts.nbytes > COUNTED_BYTES:
            if self._sketch is None:
                self._sketch = _Sketch()
                self._sketch.add(hashes.of_column(counts.column("value")))
            counts = _thinned(counts)
        self._counts = counts

    def result(self) -> ColumnProfile:
        """What was found."""
        top, distinct, exact = [], None, self._sketch is None
        if self._flat:
            distinct = 0
        if self._counts is not None:
            ordered = self._counts.sort_by([("count", "descending"), ("value", "ascending")]).slice(0, TOP)
            top = [(row["value"], row["count"]) for row in ordered.to_pylist() if row["count"] > 0]
            distinct = self._counts.num_rows if self._sketch is None else self._sketch.size()
        mean = self._sum / self._numbers if self._numbers else None
        return ColumnProfile(
            self._field.name,
            str(self._field.type),
            self._rows,
            self._nulls,
            distinct,
            self._low,
            self._high,
            mean,
            tuple(top),
            exact,
        )


def _ends(values: Any) -> tuple[Any, Any]:
    """The least and the greatest."""
    pa, pc = need("pyarrow"), need("pyarrow.compute")
    try:
        found = pc.min_max(values).as_py()
    except pa.ArrowNotImplementedError:  # durations
        order = pc.sort_indices(values)
        return values[order[0].as_py()].as_py(), values[order[-1].as_py()].as_py()
    return found["min"], found["max"]


def _counts(column: Any) -> Any:
    """A table of the different values of a column and how often each comes."""
    pa = need("pyarrow")
    counts = need("pyarrow.compute").value_counts(column)
    return pa.table({"value": counts.field("values"), "count": counts.field("counts")})


def _thinned(counts: Any) -> Any:
    """The more frequent half of what may be counted; from each count goes what the most frequent of the others has.

    So a count that is left is never too high, and a value that is frequent enough is never lost (Misra, Gries 1982).
    """
    pc = need("pyarrow.compute")
    rows = min(COUNTED, counts.num_rows, int(COUNTED_BYTES * counts.num_rows / max(counts.nbytes, 1))) // 2
    ordered = counts.sort_by([("count", "descending")])
    kept = ordered.slice(0, rows)
    if rows < ordered.num_rows:
        left = pc.subtract(kept.column("count"), ordered.column("count")[rows])
        kept = kept.set_column(1, "count", left).filter(pc.greater(left, 0))
    return kept.combine_chunks()


class _Sketch:
    """How many different hashes there are, from the least of them (Bar-Yossef and others, 2002)."""

    def __init__(self) -> None:
        self._least = need("numpy").empty(0, "uint64")

    def add(self, more: Any) -> None:
        np = need("numpy")
        if len(self._least) == SKETCH:
            more = more[more < self._least[-1]]
        self._least = np.unique(np.concatenate([self._least, more]))[:SKETCH]

    def size(self) -> int:
        if len(self._least) < SKETCH:
            return len(self._least)
        return round((SKETCH - 1) / (int(self._least[-1]) / 2**64))


# Two tables


@dataclass(frozen=True, slots=True)
class Diff:
    """What a newer table has that an older one has not, and the reverse. It is false where they are the same.

    Attributes:
        columns_added: in the newer table only; likewise `columns_removed`.
        columns_changed: name, type before, type after.
        added: rows only the newer table has; `removed`, only the older. A row that comes twice counts twice.
        changed: rows whose key is in both with other values; `None` where no keys were given.
        same: rows that are in both.
        keys: the columns that tell which rows are the same row.
    """

    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]
    columns_changed: tuple[tuple[str, str, str], ...]
    added: int
    removed: int
    changed: int | None
    same: int
    keys: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        columns = self.columns_added or self.columns_removed or self.columns_changed
        return bool(columns or self.added or self.removed or self.changed)

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"+ column {name}" for name in self.columns_added]
        lines += [f"- column {name}" for name in self.columns_removed]
        lines += [f"~ column {name}: {before} → {after}" for name, before, after in self.columns_changed]
        changed = "" if self.changed is None else f", ~{self.changed:,} changed"
        lines.append(f"+{self.added:,} rows, -{self.removed:,} rows{changed}, {self.same:,} the same")
        return "\n".join(lines)


def diff(old: tuple[System, Snapshot], new: tuple[System, Snapshot], *, keys: Sequence[str] = ()) -> Diff:
    """The differences of two tables, wherever each is; the order of rows and of columns does not count.

    Rows are compared by the columns that both tables have. Whole numbers are equal whatever their width, and so are
    fractional ones; a whole number is no fractional one, and nothing else equals a value of another type.

    Args:
        old: a table, as the system opened at its root and its snapshot.
        new: the other.
        keys: columns whose values are unique in each table; then rows with the same key are the same row.

    Raises:
        InvalidError: there is no such column, or two rows have one key.
    """
    np = need("numpy")
    before, after = access.schema(*old), access.schema(*new)
    both = [name for name in before.names if name in after.names]
    for schema in (before, after):
        if keys:
            access.check_columns(list(keys), schema)
    rest = [name for name in both if name not in keys]
    types = [(name, before.field(name).type, after.field(name).type) for name in both]
    changes = [(name, str(one), str(other)) for name, one, other in types if not alike(one, other)]
    schemas = (
        tuple(name for name in after.names if name not in both),
        tuple(name for name in before.names if name not in both),
        tuple(changes),
    )
    if not both:
        return Diff(*schemas, access.num_rows(*new), access.num_rows(*old), None, 0)
    if not keys:
        left, left_counts = np.unique(_rows(*old, both), return_counts=True)
        right, right_counts = np.unique(_rows(*new, both), return_counts=True)
        _, ours, theirs = np.intersect1d(left, right, assume_unique=True, return_indices=True)
        same = int(np.minimum(left_counts[ours], right_counts[theirs]).sum())
        return Diff(*schemas, int(right_counts.sum()) - same, int(left_counts.sum()) - same, None, same)
    left, left_rows = _keyed(*old, keys, rest)
    right, right_rows = _keyed(*new, keys, rest)
    _, ours, theirs = np.intersect1d(left, right, assume_unique=True, return_indices=True)
    changed = int((left_rows[ours] != right_rows[theirs]).sum())
    found = len(ours)
    return Diff(*schemas, len(right) - found, len(left) - found, changed, found - changed, tuple(keys))


def _rows(system: System, snapshot: Snapshot, columns: Sequence[str]) -> Any:
    """A hash of each row over these columns, in their order."""
    np = need("numpy")
    parts = [hashes.of_rows(batch.columns, batch.num_rows) for batch in _batches(system, snapshot, columns)]
    return np.concatenate([np.empty(0, np.uint64), *parts])


def _keyed(system: System, snapshot: Snapshot, keys: Sequence[str], rest: Sequence[str]) -> tuple[Any, Any]:
    """The hashes of the keys in their order, and of what else is in their rows."""
    np = need("numpy")
    names, values = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for batch in _batches(system, snapshot, [*keys, *rest]):
        names.append(hashes.of_rows(batch.columns[: len(keys)], batch.num_rows))
        values.append(hashes.of_rows(batch.columns[len(keys) :], batch.num_rows))
    name, value = np.concatenate(names), np.concatenate(values)
    order = np.argsort(name, kind="stable")
    name, value = name[order], value[order]
    twice = int((name[1:] == name[:-1]).sum())
    if twice:
        raise InvalidError(
            f"{', '.join(keys)} is no key: {twice:,} rows have that of another row",
            where=system.url(),
            hint="give more columns, or none to compare whole rows",
        )
    return name, value


# A few rows


def sample(system: System, snapshot: Snapshot, n: int, seed: int = 0, *, columns: Sequence[str] | None = None) -> Any:
    """`n` rows of the whole table, all equally likely, as a `pyarrow.Table` in the table's order.

    The same seed picks the same rows of the same files everywhere. Of Parquet files only the row groups are read in
    which a picked row lies; other formats are read until the last of them.

    Args:
        system: opened at the table's root.
        snapshot: of the table.
        n: rows; where there are fewer, all of them.
        seed: picks them.
        columns: only these.

    Raises:
        InvalidError: `n` is negative, or there is no such column.
        ConflictError: the table changed meanwhile.
    """
    pa = need("pyarrow")
    for what, value, least in (("a sample has 0 rows or more", n, 0), ("a seed is a whole number", seed, None)):
        if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
            raise InvalidError(f"{what}, not {value!r}")
    schema = access.schema(system, snapshot)
    names = access.check_columns(columns, schema)
    wanted = frames.without_range(pa.schema([schema.field(name) for name in names], schema.metadata))
    total = access.num_rows(system, snapshot)
    # Picking is Python's, and stays the same from version to version.
    picked = sorted(random.Random(seed).sample(range(total), min(n, total)))  # noqa: S311 - no secret
    if not picked:
        return wanted.empty_table()
    parts: list[Any] = []
    with access.reading(system, snapshot, schema):
        for start, size, read in _pieces(system, snapshot, schema, names, picked):
            mine = picked[bisect_left(picked, start) : bisect_left(picked, start + size)]
            if mine:
                parts.append(read().take([row - start for row in mine]))
    return pa.concat_tables(parts).cast(wanted)


def _pieces(
    system: System, snapshot: Snapshot, schema: Any, names: Sequence[str], picked: Sequence[int]
) -> Iterator[tuple[int, int, Callable[[], Any]]]:
    """The table piece by piece: its first row's number, how many rows it has, and how to read them.

    Files in which no picked row lies are left out, and so is what comes after the last one.
    """
    dataset, start = access.dataset(system, snapshot), 0
    everything = set(names) == set(schema.names)
    access.check_files(system, snapshot, dataset, None, None if everything else names)
    if snapshot.format != "parquet":
        table = need("pyarrow").Table
        rows = access.scanner(
            system,
            snapshot,
            dataset,
            columns=list(names),
            strict=everything,
            batch_size=BATCH_ROWS,
            fragment_readahead=1,
        )
        for batch in rows.to_batches():
            yield start, batch.num_rows, partial(table.from_batches, [batch])
            start += batch.num_rows
            if start > picked[-1]:
                return
        return
    for file, fragment in zip(snapshot.files, dataset.get_fragments(), strict=True):
        rows = fragment.count_rows() if file.rows is None else file.rows
        if bisect_left(picked, start) == bisect_left(picked, start + rows):
            start += rows
            continue
        for group in fragment.row_groups:
            one = [fragment.subset(row_group_ids=[group.id])]
            alone = need("pyarrow.dataset").FileSystemDataset(one, schema, dataset.format, dataset.filesystem)
            yield start, group.num_rows, access.scanner(system, snapshot, alone, columns=list(names)).to_table
            start += group.num_rows
