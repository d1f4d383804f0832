"""The layout in which columns are kept and read, where Arrow can do less with another one that means the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rh.plugins import need

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["roomy"]

_INDEX_BITS = 32


def roomy(schema: pa.Schema) -> pa.Schema:
    """A schema whose columns can be filtered, and put together from any batches: views of text and bytes become large.

    The indices of dictionaries get 32 bits: each batch has a dictionary of its own, and all values that those have
    together are to be counted. Lists of no values by their type become lists, since Parquet keeps those.
    """
    return need("pyarrow").schema([field.with_type(_roomy(field.type)) for field in schema], schema.metadata)


def _roomy(kind: Any) -> Any:
    pa = need("pyarrow")
    types = pa.types
    if types.is_string_view(kind):
        return pa.large_string()
    if types.is_binary_view(kind):
        return pa.large_binary()
    if types.is_dictionary(kind) and kind.index_type.bit_width < _INDEX_BITS:
        return pa.dictionary(pa.int32(), kind.value_type, ordered=kind.ordered)
    if not types.is_nested(kind) or types.is_union(kind):
        return kind
    inner = [kind.field(at) for at in range(kind.num_fields)]
    before = [field.type for field in inner]
    after = [_roomy(one) for one in before]
    empty = types.is_fixed_size_list(kind) and not kind.list_size
    if all(new is old for new, old in zip(after, before, strict=True)) and not empty:
        return kind
    inner = [field.with_type(one) for field, one in zip(inner, after, strict=True)]
    if types.is_struct(kind):
        return pa.struct(inner)
    if types.is_map(kind):
        key, item = inner[0].type
        return pa.map_(key, item, kind.keys_sorted)
    if types.is_fixed_size_list(kind) and not empty:
        return pa.list_(inner[0], kind.list_size)
    if types.is_list(kind) or empty:
        return pa.list_(inner[0])
    if types.is_large_list(kind):
        return pa.large_list(inner[0])
    if types.is_list_view(kind):
        return pa.list_view(inner[0])
    return pa.large_list_view(inner[0]) if types.is_large_list_view(kind) else kind
