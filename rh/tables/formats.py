"""What a batch is given out as: Arrow's own, a data frame, arrays, tensors, or plain lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from rh.errors import InvalidError
from rh.plugins import need
from rh.tables import adapters
from rh.tables.frames import rounds

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["BATCH_FORMATS", "BatchFormat", "Converter", "array", "converter"]

BatchFormat: TypeAlias = Literal["arrow", "pandas", "polars", "numpy", "torch", "dict"]
"""`pyarrow.RecordBatch`, `pandas.DataFrame`, `polars.DataFrame`; a dict of numpy arrays, of torch tensors (what has no
tensor stays a list), of lists."""
BATCH_FORMATS: tuple[str, ...] = get_args(BatchFormat)
Converter: TypeAlias = Callable[[Any], Any]


def converter(name: str) -> Converter | None:
    """What makes batches of a format from those of Arrow; `None` where nothing is to be done.

    Raises:
        InvalidError: there is no such format.
        MissingExtraError: its library is not installed.
    """
    if name not in BATCH_FORMATS:
        raise InvalidError(f"there is no batch format {name!r}", hint=f"one of {', '.join(BATCH_FORMATS)}")
    if name == "arrow":
        return None
    if name == "numpy":
        need("numpy")
        return to_numpy
    if name == "dict":
        return to_dict
    if name == "torch":
        from rh.tables import torch

        found: Converter = torch.converter()
        return found
    need(name, purpose=f"batches as {name}")
    of_arrow: Converter = getattr(adapters.named(name), "of_arrow")  # noqa: B009 - data frames have it, not all adapters
    table = need("pyarrow").Table.from_batches
    return lambda batch: of_arrow(table([batch]))


def to_numpy(batch: pa.RecordBatch) -> dict[str, np.ndarray[Any, Any]]:
    """A dict of arrays, one per column, as `array` makes them."""
    return {name: array(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}


def to_dict(batch: pa.RecordBatch) -> dict[str, list[Any]]:
    """A dict of lists of Python values, one per column."""
    return {name: column.to_pylist() for name, column in zip(batch.schema.names, batch.columns, strict=True)}


def array(column: pa.Array) -> np.ndarray[Any, Any]:
    """A column as a numpy array that is not to be written to.

    Lists of one length become a second dimension. Whole numbers with nulls are `float64` with NaN, as pyarrow has it,
    and objects where that would round one; what numpy has no type for is an array of objects.
    """
    pa = need("pyarrow")
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return array(column.storage)
    if pa.types.is_fixed_size_list(kind) and not column.null_count and pa.types.is_primitive(kind.value_type):
        return array(column.flatten()).reshape(len(column), kind.list_size)
    if pa.types.is_dictionary(kind):
        return array(column.dictionary_decode())
    if rounds(column):
        return need("numpy").array(column.to_pylist(), dtype=object)  # type: ignore[no-any-return]
    found: np.ndarray[Any, Any] = column.to_numpy(zero_copy_only=False)
    return found
