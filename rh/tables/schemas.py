"""Which columns a table has: what its index says, or its files together; and what is wrong with one that differs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from rh.errors import IntegrityError, InvalidError, RhError
from rh.forks import Lock
from rh.observe import log
from rh.plugins import need
from rh.systems.base import System
from rh.tables import blocks, lines, promotion
from rh.tables.base import DataFile, Snapshot
from rh.tables.casts import misfit
from rh.tables.fragments import TEXT, fragment, has_footer, key_of, with_rows
from rh.tables.given import decoded, given_types
from rh.tables.layouts import roomy
from rh.tables.ranges import named_twice, open_file, translated

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

__all__ = [
    "AT_ONCE",
    "check_columns",
    "check_file_schema",
    "check_files",
    "check_fragment",
    "check_no_more",
    "columns_of",
    "excludes",
    "file_schema",
    "given_in",
    "has_footer",
    "names_in",
    "no_column",
    "schema",
]

AT_ONCE = 16
"""Files looked into at the same time."""
LOOKED_INTO = 512
"""Adopted files that are asked for their types, at the most; of more, so many evenly spread, the first and the last."""
KNOWN = 256
"""Schemas of adopted tables that are remembered."""


def schema(system: System, snapshot: Snapshot) -> pa.Schema:
    """The schema of the whole table: as recorded or given, else what its files say together, partition columns last.

    Of adopted files, the first says which columns there are, and each column has the type that holds the values of all
    files (`int32` and `int64` are `int64`); where there is none, that of the first. `options["column_types"]` overrides
    them. What was found is remembered as long as the files are the same. Types that were not given are `roomy`.

    Raises:
        InvalidError: no schema is recorded or given, and no file is there to tell it.
    """
    pa = need("pyarrow")
    if snapshot.schema is not None:
        recorded = decoded(snapshot.schema)
        return recorded if snapshot.given else roomy(recorded)
    if not snapshot.files:
        raise InvalidError("the table has no files, so nothing tells its columns", where=system.url())
    found = roomy(_together(system, snapshot))
    for number, name in enumerate(snapshot.partition_cols):
        if name in found.names:
            raise InvalidError(
                f"column {name!r} is in the files and in the names of their directories", where=system.url()
            )
        found = found.append(pa.field(name, _partition_type(snapshot, number)))
    for name, kind in given_types(snapshot).items():
        if name in found.names:
            at = found.get_field_index(name)
            found = found.set(at, found.field(at).with_type(kind))
        elif snapshot.format == "jsonl":
            found = found.insert(len(found) - len(snapshot.partition_cols), pa.field(name, kind))
        else:
            raise no_column(name, found)
    return found


_known: dict[tuple[Any, ...], Any] = {}
_known_lock = Lock()


def _together(system: System, snapshot: Snapshot) -> pa.Schema:
    """What the files say together, remembered as long as they are the same."""
    mark = None
    if len(snapshot.files) > 1 and None not in {file.etag for file in snapshot.files}:
        mark = (system.location, snapshot.fingerprint, repr(snapshot.options))
    with _known_lock:
        found = None if mark is None else _known.get(mark)
    if found is None:
        found = _asked(system, snapshot)
        with _known_lock:
            if mark is not None:
                _known[mark] = found
            while len(_known) > KNOWN:
                _known.pop(next(iter(_known)))
    return found


def _asked(system: System, snapshot: Snapshot) -> pa.Schema:
    """The schema of the first file, with types that hold the values of the others."""
    files = with_rows(snapshot)
    if not files:
        raise InvalidError("the files are empty, so nothing tells the table's columns", where=system.url())
    found = file_schema(system, snapshot, files[0])
    if snapshot.format == "csv" and len(found) == 1:
        _warn_of_delimiter(system.url(files[0].key), found.names[0])
    if len(files) > 1:
        step = max(1.0, (len(files) - 1) / LOOKED_INTO)
        others = [files[-1 - int(at * step)] for at in range(min(LOOKED_INTO, len(files) - 1))]
        with ThreadPoolExecutor(min(AT_ONCE, len(others)), "rh-columns") as threads:
            for other in threads.map(lambda file: _types_of(system, snapshot, file), others):
                found = _promoted(snapshot, found, other)
    return found


def _types_of(system: System, snapshot: Snapshot, file: DataFile) -> pa.Schema | None:
    """A file's schema; `None` if it cannot be read, which is told when its rows are wanted."""
    try:
        return file_schema(system, snapshot, file)
    except (IntegrityError, InvalidError):
        return None


def _promoted(snapshot: Snapshot, found: pa.Schema, other: pa.Schema | None) -> pa.Schema:
    """A schema with the types that hold the values of another one's columns as well, where there are such."""
    pa = need("pyarrow")
    for at, field in enumerate(found):
        if other is None or other.get_field_index(field.name) < 0:
            continue
        more = other.field(field.name)
        kind = promotion.wider(field.type, more.type)
        both = {field.type, more.type}
        if kind is None and snapshot.format in TEXT and both == {pa.int64(), pa.uint64()}:
            kind = pa.uint64()  # a negative one is an error when it is read, where double would round the large ones
        elif kind is None and snapshot.format in TEXT and both <= {pa.int64(), pa.uint64(), pa.float64()}:
            kind = pa.float64()  # as in one file of text in which some numbers have a fraction
        if kind is not None:
            found = found.set(at, field.with_type(kind).with_nullable(field.nullable or more.nullable))
    return found


def file_schema(system: System, snapshot: Snapshot, file: DataFile) -> pa.Schema:
    """The schema of one file, as far as its format tells it (of CSV and JSON lines, its first block)."""
    pa = need("pyarrow")
    where = system.url(file.key)
    with translated(where), open_file(system, file) as source:
        if snapshot.format == "parquet":
            found = need("pyarrow.parquet").read_schema(source)
        elif snapshot.format == "arrow":
            found = pa.ipc.open_file(source).schema if has_footer(source) else pa.ipc.open_stream(source).schema
        else:
            found = _text_schema(system, snapshot, file)
    if not snapshot.given:
        _check_names(snapshot, where, found, found.names)
    return found


def _check_names(snapshot: Snapshot, where: str, found: pa.Schema, names: Iterable[str]) -> None:
    """Raise `InvalidError` if a file has two columns that are called by one of these names."""
    have = Counter(found.names)
    for name in names:
        if have[name] > 1:
            raise named_twice(name, where, text=snapshot.format in TEXT)


def _text_schema(system: System, snapshot: Snapshot, file: DataFile) -> pa.Schema:
    def found(snapshot: Snapshot) -> Any:
        with translated(system.url(file.key)):
            return _with_unsigned(system, snapshot, file)

    try:
        return blocks.value(snapshot, found)
    except (IntegrityError, InvalidError) as error:
        if snapshot.format == "jsonl":
            lines.explain(system, snapshot, file, need("pyarrow").schema([]), error)
        raise


def _with_unsigned(system: System, snapshot: Snapshot, file: DataFile) -> pa.Schema:
    """What Arrow makes of the first block of a file of text, but whole numbers of 64 bits unsigned, not rounded."""
    pa = need("pyarrow")
    one = fragment(system, snapshot, file, None)
    found, free = one.physical_schema, given_types(snapshot)
    names = [name for name in found.names if found.names.count(name) == 1 and name not in free]
    names = [name for name in names if found.field(name).type == pa.float64()]
    if names:
        first = next(one.to_batches(columns=names, batch_size=blocks.MOST, batch_readahead=0), None)
        names = [name for name in names if first is not None and _is_large(first.column(name))]
    for name in names:
        kinds = {**free, name: pa.uint64()}
        try:
            if snapshot.format == "jsonl":
                lines.first_schema(system, snapshot, file, pa.schema(list(kinds.items())))
            else:
                typed = replace(snapshot, options={**(snapshot.options or {}), "column_types": kinds})
                fragment(system, typed, file, None).physical_schema  # noqa: B018 - it parses the first block
        except pa.ArrowInvalid:  # some have a fraction, are negative, or larger still
            continue
        found = found.set(found.get_field_index(name), pa.field(name, pa.uint64()))
    return found


def _is_large(column: pa.Array) -> bool:
    """Whether values are whole numbers, some of which int64 does not hold."""
    pc = need("pyarrow.compute")
    most = pc.max(column).as_py()
    return most is not None and most >= 1 << 63 and bool(pc.all(pc.equal(pc.floor(column), column)).as_py())


def _partition_type(snapshot: Snapshot, number: int) -> pa.DataType:
    """Whole numbers where all values are, else text."""
    pa = need("pyarrow")
    values = {file.values[number] for file in snapshot.files} - {None}
    whole = values and all(re.fullmatch(r"-?(0|[1-9]\d{0,17})", value or "") for value in values)
    return pa.int64() if whole else pa.string()


def check_file_schema(
    snapshot: Snapshot, where: str, found: pa.Schema, wanted: pa.Schema, *, columns: Sequence[str]
) -> None:
    """Raise `InvalidError` unless a file's columns are those of the table, or narrower ones of the same kind.

    Where a column's type was given, the values may be of any that can be cast; where the whole schema was, a column may
    be missing, and is null then.
    """
    free = given_types(snapshot)
    _check_names(snapshot, where, found, columns)
    for name in columns:
        if name not in found.names:
            if snapshot.given and wanted.field(name).nullable:
                _warn_of_near(where.rpartition("/")[0], name, tuple(set(found.names) - set(wanted.names)))
                continue
            raise InvalidError(
                f"column {name!r} of the table is not in this file"
                + (", and schema= says that it is never null" if snapshot.given else ""),
                where=where,
                hint="let the field be nullable, and it is null in the rows of such files"
                if snapshot.given
                else "the first file says which columns there are; columns= names those that all files have,"
                " and with schema= a column is null in the rows of the others",
            )
        have, want = found.field(name).type, wanted.field(name).type
        if not (_casts(have, want) if name in free else _becomes(have, want)):
            raise misfit(where, name, have, want, given=snapshot.given)


@lru_cache(256)
def _warn_of_delimiter(where: str, name: str) -> None:
    """Tell once of a column that looks like several."""
    if (found := next((one for one in ";\t|" if one in name), None)) is not None:
        log.warning("%s has one column, called %r; options=%r makes several of it", where, name, {"delimiter": found})


@lru_cache(256)
def _warn_of_near(folder: str, name: str, others: tuple[str, ...]) -> None:
    """Tell once of a column that is null where files have one that is called almost so, and is not read."""
    near = next((one for one in others if one.casefold() == name.casefold() or _one_letter(one, name)), None)
    if near is not None:
        log.warning("schema= says column %r, which files in %s lack; they have %r", name, folder, near)


def _one_letter(one: str, other: str) -> bool:
    """Whether two names of some length differ by one letter that is another, or more."""
    short, long = sorted((one, other), key=len)
    if len(short) < 3 or len(long) - len(short) > 1:
        return False
    at = next((at for at in range(len(short)) if short[at] != long[at]), len(short))
    return long[at + 1 :] in (short[at:], short[at + 1 :])


def _casts(have: pa.DataType, want: pa.DataType) -> bool:
    """Whether Arrow makes values of one type of those of another; whether it can of each is seen when it does."""
    pa = need("pyarrow")
    try:
        pa.array([], have).cast(want)
    except pa.ArrowException:
        return False
    return True


def _becomes(have: pa.DataType, want: pa.DataType) -> bool:
    """Whether values of one type are read as another: of a wider one always, else if each of them fits."""
    pa = need("pyarrow")
    if have == want or promotion.fits(have, want):
        return True
    try:
        both = pa.unify_schemas([pa.schema([("", want)]), pa.schema([("", have)])], promote_options="permissive")
    except pa.ArrowException:
        return False
    return bool(both[0].type == want)


def check_no_more(where: str, found: pa.Schema, whole: pa.Schema) -> None:
    """Raise `InvalidError` if a file that was adopted has a column that the first one has not."""
    for name in found.names:
        if name not in whole.names:
            raise InvalidError(
                f"column {name!r} is in this file and not in the first one, whose columns are those of the table",
                where=where,
                hint="schema= says all columns, null in rows of files that lack them; columns= those that are wanted",
            )


def check_files(
    system: System, snapshot: Snapshot, files: ds.Dataset, where: Any = None, columns: Sequence[str] | None = None
) -> None:
    """Before adopted files are read: see that none has other types, or columns that the first one has not.

    Where the schema was given, only the types count, and columns that may not be null.

    Of a table that `rh` wrote nothing is looked at. What is learnt of Parquet files is kept by the dataset, which
    would ask for it anyway.

    Args:
        system: opened at the table's directory.
        snapshot: of the table.
        files: `dataset` of both.
        where: the filter; files that it excludes are not looked at.
        columns: those that are to be read; `None`: all, and then a file must not have more of them.

    Raises:
        InvalidError: a file has a column that the first one has not, or one of another type.
    """
    if snapshot.owned or (len(snapshot.files) < 2 and not given_types(snapshot)):
        return
    if columns is not None and where is not None:
        columns = list(dict.fromkeys([*columns, *columns_of(where, files.schema)]))
    check = partial(check_fragment, system, snapshot, whole=files.schema, columns=columns)
    with ThreadPoolExecutor(AT_ONCE, "rh-columns") as threads:
        for _ in threads.map(check, files.get_fragments(filter=where)):
            pass


def check_fragment(
    system: System, snapshot: Snapshot, one: ds.Fragment, *, whole: pa.Schema, columns: Sequence[str] | None
) -> None:
    """`check_files` for one adopted file. Text is read as the types that are wanted, and told if it is none of them."""
    text = snapshot.format in TEXT
    if text and (columns is not None or snapshot.given):
        headed = snapshot.given and snapshot.format == "csv"  # only its header tells more than reading does
        if not headed or all(field.nullable for field in whole):
            return
    key = key_of(one.path)
    where = system.url(key)
    try:
        with translated(where):
            found = one.physical_schema
    except RhError as error:
        if not blocks.is_too_small(error):
            raise
        found = _text_schema(system, snapshot, next(file for file in snapshot.files if file.key == key))
    if columns is None and not snapshot.given:
        check_no_more(where, found, whole)
    asked = whole.names if columns is None else columns
    names = [name for name in asked if name not in snapshot.partition_cols]
    if text:
        names = [name for name in names if snapshot.given and name not in found.names]
    check_file_schema(snapshot, where, found, whole, columns=names)


def names_in(argument: str, value: Any) -> list[str]:
    """An argument that is a list of columns' names, as one.

    Raises:
        InvalidError: it is anything else, such as one name.
    """
    if isinstance(value, str):
        raise InvalidError(f"{argument} is a list of names, not {value!r}", hint=f"{argument}=[{value!r}]")
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidError(f"{argument} is a list of names, not {value!r}", hint=f'{argument}=["name"]')
    found = list(value)
    wrong = next((name for name in found if not isinstance(name, str)), None)
    if any(not isinstance(name, str) for name in found):
        raise InvalidError(f"the name of a column is text, not {wrong!r}", hint=f'{argument}=["name"]')
    return found


def check_columns(columns: Sequence[str] | None, schema: pa.Schema) -> list[str]:
    """The names of columns, all of them if `None`.

    Raises:
        InvalidError: one is not in the schema, or is asked for twice, or none is asked for.
    """
    if columns is None:
        return list(schema.names)
    wanted = names_in("columns", columns)
    if not wanted:
        raise InvalidError("no column is asked for", hint="leave columns= out for all of them")
    for name in wanted:
        if name not in schema.names:
            raise no_column(name, schema)
        if wanted.count(name) > 1:
            raise InvalidError(f"column {name!r} is asked for twice")
    return wanted


def columns_of(where: Any, schema: pa.Schema) -> list[str]:
    """The columns that a filter looks at; all where it does not say so plainly."""
    pa, ds = need("pyarrow"), need("pyarrow.dataset")
    found: list[str] = []
    while len(found) < len(schema):
        try:
            ds.dataset(pa.schema([schema.field(name) for name in found]).empty_table()).head(1, filter=where)
        except pa.ArrowException as error:
            missing = re.search(r"No match for FieldRef\.Name\((.*?)\) in ", str(error))
            if missing is None or missing.group(1) in found or missing.group(1) not in schema.names:
                return list(schema.names)
            found.append(missing.group(1))
        else:
            return found
    return found


def given_in(where: Any, snapshot: Snapshot, whole: pa.Schema) -> dict[str, pa.DataType]:
    """The columns of a filter whose types were given, and these types."""
    free = given_types(snapshot)
    return {name: free[name] for name in (columns_of(where, whole) if free else ()) if name in free}


def excludes(found: pa.Schema, free: Mapping[str, pa.DataType]) -> bool:
    """Whether what a Parquet file says of its columns can tell that a filter leaves none of its rows.

    Not where a column of the filter was given a type (`free`) that does not hold all values of the file's: `"9"` is
    more than `"10"`.
    """
    return all(promotion.fits(found.field(name).type, kind) for name, kind in free.items() if name in found.names)


def no_column(name: Any, schema: pa.Schema) -> InvalidError:
    """What to say of a column that is not there: the nearest ones."""
    near = get_close_matches(str(name), schema.names, n=3)
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?"
        if near
        else f"there is {', '.join(map(repr, schema.names[:10]))}"
    )
    return InvalidError(f"there is no column {name!r}", hint=hint)
