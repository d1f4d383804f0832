"""Rows that pass by once, in batches: the result of a query, as the database gives it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from rh.errors import InvalidError, UnsupportedError
from rh.plugins import need
from rh.tables import access
from rh.tables.formats import BatchFormat, converter

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Passing"]

_HINT = '.snapshot("name") writes the result as a table, whose streams can'


class Passing:
    """The batches of a reader, of exactly `batch_size` rows; the last one may be shorter.

    It looks like a `Stream`, and cannot go back: it has no seed, no shares and no state.

    Args:
        rows: a `pyarrow.RecordBatchReader`. It is closed at the end.
        batch_size: rows in a batch.
        format: of a batch, as for `Stream`.
        columns: only these.
        where: only rows for which this holds.
        drop_last: leave out a last batch that would be shorter.
    """

    def __init__(
        self,
        rows: pa.RecordBatchReader,
        batch_size: int,
        *,
        format: BatchFormat = "arrow",  # noqa: A002 - the public name
        columns: list[str] | None = None,
        where: Any = None,
        drop_last: bool = False,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InvalidError(f"batch_size is {batch_size!r}", hint="a whole number, 1 or more")
        if columns is not None:
            access.check_columns(columns, rows.schema)
        pa = need("pyarrow")
        self.schema = rows.schema if columns is None else pa.schema([rows.schema.field(name) for name in columns])
        self.batch_size = batch_size
        self._rows = rows
        self._columns = columns
        self._where = None if where is None else access.expression(where, rows.schema)
        self._drop_last = drop_last
        self._convert = converter(format)
        self._batches = self._sized()

    def _sized(self) -> Iterator[pa.RecordBatch]:
        pa = need("pyarrow")
        held: list[Any] = []
        count = 0
        for batch in self._rows:
            kept = batch if self._where is None else batch.filter(self._where)
            kept = kept if self._columns is None else kept.select(self._columns)
            at = 0
            while at < kept.num_rows:
                part = kept.slice(at, self.batch_size - count)
                held.append(part)
                count += part.num_rows
                at += part.num_rows
                if count == self.batch_size:
                    yield held[0] if len(held) == 1 else pa.concat_batches(held)
                    held, count = [], 0
        if held and not self._drop_last:
            yield pa.concat_batches(held)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        batch = next(self._batches)
        return batch if self._convert is None else self._convert(batch)

    def close(self) -> None:
        """End the query; there are no more batches then. May be called twice."""
        self._batches = iter(())
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Refused: a database gives its rows in no fixed order."""
        raise UnsupportedError("the result of a query cannot be resumed", hint=_HINT)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: ARG002 - as a Stream has it
        """Refused, as `state_dict` is."""
        self.state_dict()

    def __repr__(self) -> str:
        return f"<Stream of a query, {self.batch_size} rows at a time>"
