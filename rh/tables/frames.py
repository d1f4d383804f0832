"""pandas' frames and Arrow's tables, for the adapters whose frames or partitions are pandas'."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from rh.errors import InvalidError
from rh.plugins import need
from rh.tables.agreement import agree
from rh.tables.casts import exactly

__all__ = ["check_names", "frame", "index_columns", "labelled", "rounds", "table", "without_range"]

_PANDAS = b"pandas"
"""Where pandas has its own in the metadata of a schema."""
_CATEGORIES = b"rh.categories"
_NULLABLE = re.compile("U?Int|boolean")
"""How pandas calls dtypes of its own that have nulls."""
_EXACT = 1 << 53
"""Up to which a fraction of 64 bits holds all whole numbers."""
_MOST = 10_000
"""Categories of a column that are noted; beyond, it has those of its rows."""


def check_names(names: Iterable[Any]) -> None:
    """Raise `InvalidError` unless all names are text, and no two the same."""
    seen = set()
    for name in names:
        if not isinstance(name, str):
            raise InvalidError(
                f"the name of a column is text, not {type(name).__qualname__}: {name!r}",
                hint="df.columns = [str(name) for name in df.columns]",
            )
        if name in seen:
            raise InvalidError(f"two columns are called {name!r}", hint="give each a name of its own")
        seen.add(name)


def table(frame: Any, schema: Any = None, *, index: bool | None = None) -> Any:
    """A `pandas.DataFrame` as a `pyarrow.Table`.

    Args:
        frame: the frame.
        schema: the `pyarrow.Schema` it has to have; by default its values say.
        index: keep the index as columns; by default unless it is a `RangeIndex`, which goes into the metadata.

    Raises:
        InvalidError: the values of a column do not agree, or are not of its type; it is named.
    """
    pa = need("pyarrow")
    try:
        made = pa.Table.from_pandas(frame, schema=schema, preserve_index=index)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, NotImplementedError) as error:
        for position, name in enumerate(frame.columns):
            _check(frame.iloc[:, position], name, None if schema is None else schema.field(name).type)
        raise InvalidError(f"the frame cannot be an Arrow table: {error}") from error
    for position, name in enumerate(frame.columns):
        column = frame.iloc[:, position]
        if column.dtype == object:  # of which Arrow takes some that it changes
            agree(name, column.where(column.notna(), None).tolist())
            if schema is not None:
                _check(column, name, schema.field(name).type)
    return made if schema is not None else _with_categories(made)


def _check(column: Any, name: str, kind: Any) -> None:
    """Raise `InvalidError` if a column, alone, cannot be an Arrow array, or not one of a type without other values."""
    pa = need("pyarrow")
    try:
        found = pa.array(column, from_pandas=True)
        if kind is not None:
            _check_kind(found.type, kind)
            exactly(found, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, NotImplementedError) as error:
        kinds = sorted({type(value).__qualname__ for value in column.dropna()}) if column.dtype.kind == "O" else []
        what = f"mixes {', '.join(kinds)}" if len(kinds) > 1 else f"is {column.dtype}"
        raise InvalidError(
            f"column {name!r} {what} and cannot be an Arrow array{'' if kind is None else f' of {kind}'}: {error}",
            hint=f"df[{name!r}].astype(…) makes it one type",
        ) from error


def _check_kind(have: Any, want: Any) -> None:
    """Raise `ValueError` if one type is of moments and the other of times without a zone, or bytes would be text."""
    types = need("pyarrow").types
    if types.is_timestamp(have) and types.is_timestamp(want):
        alike = (have.tz is None) == (want.tz is None)
    else:
        alike = not (types.is_binary(have) and types.is_string(want))
    if not alike:
        raise ValueError(f"these are {have}")


def _with_categories(made: Any) -> Any:
    """The table with its categories noted: of dictionaries, Parquet keeps those of text only, and what rows have."""
    pa = need("pyarrow")
    kept = {}
    for name, column in zip(made.column_names, made.columns, strict=True):
        if pa.types.is_dictionary(column.type) and column.num_chunks and len(column.chunk(0).dictionary) <= _MOST:
            values = column.chunk(0).dictionary
            kept[name] = pa.ListArray.from_arrays([0, len(values)], values)
    if not kept:
        return made
    noted = pa.table(kept)
    sink = pa.BufferOutputStream()
    with need("pyarrow.ipc").new_stream(sink, noted.schema) as writer:
        writer.write_table(noted)
    return made.replace_schema_metadata({**made.schema.metadata, _CATEGORIES: sink.getvalue().to_pybytes()})


def _categorical(column: Any, values: Any, *, ordered: bool) -> Any:
    """An Arrow column as a `pandas.Categorical` of these categories, and of new ones that were appended later."""
    pa, pc = need("pyarrow"), need("pyarrow.compute")
    plain = column.cast(values.type)
    codes = pc.index_in(plain, values)
    new = plain.filter(pc.and_(pc.is_null(codes), pc.is_valid(plain))).unique()
    if len(new):
        values = pa.concat_arrays([values, new])
        codes = pc.index_in(plain, values)
    codes = codes.fill_null(-1).to_numpy()
    return need("pandas").Categorical.from_codes(codes, values.to_pandas(), ordered=ordered)


def frame(table: Any, *, objects: bool = True) -> Any:
    """A `pyarrow.Table` as a `pandas.DataFrame`, with the index and dtypes that its metadata tells.

    Whole numbers beside nulls are fractions, as pyarrow has it, but in pandas' Arrow dtypes where that would round one.

    Args:
        table: the rows.
        objects: have values that NumPy does not know (bytes, dates, decimals, lists, truth values beside nulls, …) as
            Python objects; else they stay in pandas' Arrow dtypes.
    """
    pd = need("pandas", purpose="a table as a DataFrame")
    noted = _noted(table.schema)
    index = {name for name in noted["index_columns"] if isinstance(name, str)}
    columns = {
        column["field_name"]: column
        for column in noted["columns"]
        if column["field_name"] in set(table.column_names) - index
    }
    arrow = {name for name, column in columns.items() if column["numpy_type"].endswith("[pyarrow]")}
    nullable = {name for name, column in columns.items() if _NULLABLE.match(column["numpy_type"])}
    others = set(table.column_names) - index - nullable
    if not objects:
        arrow |= {name for name in others if _needs_objects(table[name])}
    categories = {
        name: values
        for name, values in _categories(table.schema).items()
        if name in columns and columns[name]["pandas_type"] == "categorical" and name not in arrow
    }
    arrow |= {name for name in others - set(categories) if rounds(table[name])}
    found = _without(table, arrow | set(categories), noted).to_pandas()
    for name in arrow:
        found[name] = pd.Series(pd.arrays.ArrowExtensionArray(table[name]), index=found.index)
    for name, values in categories.items():
        found[name] = _categorical(table[name], values, ordered=columns[name]["metadata"]["ordered"])
    for name, column in columns.items():
        dtype = column["numpy_type"]
        if dtype.endswith("64[s]") and found[name].dtype.kind in "mM":  # Parquet has no seconds
            found[name] = found[name].dt.as_unit("s")
        elif (dtype, column["pandas_type"]) == ("object", "unicode") and noted["pandas_version"] >= "3":
            found[name] = pd.Series(table[name].to_numpy(), index=found.index, dtype=object)
    return found


def _without(table: Any, names: set[str], noted: dict[str, Any]) -> Any:
    """The table with nothing in these columns, for pandas to make a frame of the rest.

    It finds no dtype by a name such as `list<item: int64>[pyarrow]`, so such columns are put in afterwards.
    """
    if not names:
        return table
    pa = need("pyarrow")
    rest, blank = table, pa.nulls(table.num_rows, pa.float32())
    for name in names:
        rest = rest.set_column(rest.column_names.index(name), name, blank)
    if _PANDAS not in (table.schema.metadata or {}):
        return rest
    noted = {**noted, "columns": [column for column in noted["columns"] if column["field_name"] not in names]}
    return rest.replace_schema_metadata({**table.schema.metadata, _PANDAS: json.dumps(noted).encode()})


def index_columns(schema: Any) -> list[str]:
    """The columns of a `pyarrow.Schema` that hold the index of the frames that were written."""
    return [name for name in _noted(schema)["index_columns"] if isinstance(name, str) and name in schema.names]


def without_range(schema: Any) -> Any:
    """A `pyarrow.Schema` without the `RangeIndex` of the frame it is of: for rows that are others, or elsewhere.

    It is no column but two numbers and a step, which pandas and pyarrow put on any rows that are as many.
    """
    noted = _noted(schema)
    kept = [name for name in noted["index_columns"] if isinstance(name, str)]
    if len(kept) == len(noted["index_columns"]):
        return schema
    return schema.with_metadata({**schema.metadata, _PANDAS: json.dumps({**noted, "index_columns": kept}).encode()})


def labelled(frame: Any, *, always: bool = False) -> Any:
    """A frame whose `RangeIndex` is to be kept where its rows change places, with an index that becomes a column.

    Args:
        frame: the frame.
        always: also if the index only counts the rows from 0.
    """
    pd, index = need("pandas"), frame.index
    if not isinstance(index, pd.RangeIndex):
        return frame
    if not always and index.name is None and index.equals(pd.RangeIndex(len(index))):
        return frame
    return frame.set_axis(pd.Index(index.to_numpy(), name=index.name))


def _noted(schema: Any) -> dict[str, Any]:
    """What pandas wrote into a schema's metadata, by pyarrow's hand: columns with their dtypes, and the index."""
    text = (schema.metadata or {}).get(_PANDAS)
    return {"columns": [], "index_columns": [], "pandas_version": "", **(json.loads(text) if text else {})}


def _categories(schema: Any) -> dict[str, Any]:
    """Column → its categories as an Arrow array, as `_with_categories` noted them."""
    noted = (schema.metadata or {}).get(_CATEGORIES)
    if noted is None:
        return {}
    table = need("pyarrow.ipc").open_stream(noted).read_all()
    return {name: table[name][0].values for name in table.column_names}


def rounds(column: Any) -> bool:
    """Whether whole numbers beside nulls, of which pandas and NumPy make fractions, would be others."""
    pa, pc = need("pyarrow"), need("pyarrow.compute")
    if not column.null_count or not pa.types.is_integer(column.type) or column.type.bit_width < 64:
        return False
    ends = pc.min_max(column)
    return any(end.is_valid and abs(end.as_py()) > _EXACT for end in (ends["min"], ends["max"]))


def _needs_objects(column: Any) -> bool:
    """Whether pandas would hold the values of an Arrow column as Python objects."""
    pa = need("pyarrow")
    types, kind = pa.types, column.type
    if isinstance(kind, pa.BaseExtensionType):
        try:
            return kind.to_pandas_dtype() is None
        except NotImplementedError:
            return True
    return bool(
        types.is_nested(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_date(kind)
        or types.is_time(kind)
        or types.is_decimal(kind)
        or types.is_null(kind)
        or (types.is_boolean(kind) and column.null_count)
    )
