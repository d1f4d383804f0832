"""Rows of text that are longer than the blocks in which Arrow reads: they are read again, in larger blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from rh.errors import InvalidError, RhError
from rh.plugins import need
from rh.tables.base import Snapshot

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["is_too_small", "rows", "value"]

FIRST = 1 << 20
"""Bytes of a block, by Arrow's default."""
MOST = 256 << 20
"""Bytes of the largest block that is tried where `options["block_size"]` says none that is larger."""
_STRADDLES = "straddl"
"""In what Arrow says where the end of a row is not in the block after that of its begin."""
_T = TypeVar("_T")


def is_too_small(error: Exception) -> bool:
    """Whether an error says that a row did not fit."""
    return _STRADDLES in str(error)


def value(snapshot: Snapshot, read: Callable[[Snapshot], _T]) -> _T:
    """What `read` gives for a snapshot, or for one with the options for larger blocks if a row did not fit.

    Raises:
        InvalidError: a row does not fit into the largest one.
    """
    pa = need("pyarrow")
    while True:
        try:
            return read(snapshot)
        except (RhError, pa.ArrowException) as error:
            snapshot = _larger(snapshot, error)


def rows(snapshot: Snapshot, read: Callable[[Snapshot], Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """The batches that `read` gives, as `value` does; rows that were given already are left out when it reads again."""
    pa = need("pyarrow")
    done = 0
    while True:
        skip = done
        try:
            for batch in read(snapshot):
                if skip and skip >= batch.num_rows:
                    skip -= batch.num_rows
                    continue
                done += batch.num_rows - skip
                yield batch.slice(skip) if skip else batch
                skip = 0
        except (RhError, pa.ArrowException) as error:
            snapshot = _larger(snapshot, error)
        else:
            return


def _larger(snapshot: Snapshot, error: Exception) -> Snapshot:
    """The snapshot with four times as large blocks.

    Raises:
        Exception: `error`, if it is about something else. InvalidError: they would be too large.
    """
    if not is_too_small(error):
        raise error
    options = snapshot.options or {}
    size = int(options.get("block_size", FIRST))
    if size >= MOST:
        raise InvalidError(
            f"a row is longer than {size >> 20} MiB",
            where=getattr(error, "where", None),
            hint=f'options={{"block_size": {4 * size}}} reads so many bytes at once',
        ) from error
    return replace(snapshot, options={**options, "block_size": min(MOST, 4 * size)})
