"""Hashes of values and of rows: 64 bits each, the same on every machine, by whole columns of Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from rh.plugins import need

__all__ = ["bare", "of_column", "of_rows", "plain"]

_NULL = 0x9E3779B97F4A7C15
"""The hash of null."""
_LONG = 256
"""Texts of more bytes are digested one by one."""


def of_rows(columns: Sequence[Any], rows: int) -> Any:
    """A hash of each row of these columns, which are as long as `rows` says."""
    np = need("numpy")
    row = np.zeros(rows, np.uint64)
    for column in columns:
        row = _mixed(row * np.uint64(31) + of_column(column))  # so the place of a value counts
    return row


def bare(kind: Any) -> Any:
    """A type without dictionary and extension."""
    pa = need("pyarrow")
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind):
            kind = kind.value_type
        else:
            return kind


def plain(column: Any) -> Any:
    """A column without dictionary and extension, in a layout that every function of Arrow takes; nulls stay."""
    pa = need("pyarrow")
    types = pa.types
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    while True:
        kind = column.type
        if isinstance(kind, pa.BaseExtensionType):
            column = column.storage
        elif types.is_dictionary(kind):
            column = column.dictionary_decode()
        elif types.is_string_view(kind) or types.is_binary_view(kind):
            column = column.cast(pa.large_string() if types.is_string_view(kind) else pa.large_binary())
        elif types.is_float16(kind):
            column = column.cast(pa.float32())
        else:
            return column


def of_column(column: Any) -> Any:
    """A 64-bit hash of each value, as a numpy array: the same on every machine, and for equal numbers of any width."""
    pa, pc, np = need("pyarrow"), need("pyarrow.compute"), need("numpy")
    column = plain(column)
    types, kind = pa.types, column.type
    if types.is_boolean(kind) or types.is_integer(kind) or (types.is_temporal(kind) and not types.is_interval(kind)):
        bits = _integers(column)
    elif types.is_floating(kind):
        numbers = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False) + 0.0  # no minus zero
        bits = np.where(np.isnan(numbers), np.nan, numbers).view(np.uint64)
    elif types.is_nested(kind) or types.is_interval(kind) or types.is_null(kind):
        bits = np.fromiter(map(_digest, column.to_pylist()), np.uint64, len(column))
    else:
        bits = _texts(column.cast(pa.string()) if types.is_decimal(kind) else column)
    mixed = _mixed(bits)
    if column.null_count:
        mixed[pc.is_null(column).to_numpy(zero_copy_only=False)] = _NULL
    return mixed


def _integers(column: Any) -> Any:
    """Whole numbers, truth values and times as 64 bits each."""
    pa, np = need("pyarrow"), need("numpy")
    types, kind = pa.types, column.type
    if types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif types.is_temporal(kind):
        column = column.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    wide = np.uint64 if types.is_uint64(column.type) else np.int64
    return column.fill_null(0).to_numpy(zero_copy_only=False).astype(wide).view(np.uint64)


def _texts(column: Any) -> Any:
    """Texts and bytes, eight bytes of each at a time; of long ones a digest."""
    pa, np = need("pyarrow"), need("numpy")
    column = column.cast(pa.large_binary())
    _, ends, data = column.buffers()
    ends = np.frombuffer(ends, np.int64, len(column) + 1, 8 * column.offset)
    first, last = int(ends[0]), int(ends[-1])
    held = np.zeros(last - first + 8, np.uint8)
    if last > first:
        held[:-8] = np.frombuffer(data, np.uint8, last - first, first)
    words = np.ndarray((len(held) - 7,), "<u8", held, strides=(1,))
    starts, sizes = ends[:-1] - first, np.diff(ends)
    bits = sizes.astype(np.uint64)
    for row in np.flatnonzero(sizes > _LONG):
        bits[row] = _digest(held[starts[row] : starts[row] + sizes[row]])
    rows, at = np.flatnonzero((sizes > 0) & (sizes <= _LONG)), 0
    while len(rows):
        left = sizes[rows] - at
        beyond = (8 - np.minimum(left, 8)).astype(np.uint64) * np.uint64(8)
        bits[rows] = _mixed(bits[rows] ^ (words[starts[rows] + at] << beyond))
        rows, at = rows[left > 8], at + 8
    return bits


def _digest(value: Any) -> int:
    """Of bytes, or of the text of another value."""
    data = value if isinstance(value, memoryview) or hasattr(value, "dtype") else repr(value).encode()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def _mixed(bits: Any) -> Any:
    """Spread what differs in a few bits over all of them (the end of SplitMix64)."""
    np = need("numpy")
    bits = bits.astype("uint64", copy=True)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits ^= bits >> np.uint64(shift)
        bits *= np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return bits
