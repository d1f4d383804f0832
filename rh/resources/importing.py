"""Properties of many files, from a table in a file: CSV, JSON lines, Parquet or Arrow."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rh.errors import InvalidError, NotFoundError
from rh.registry.base import for_a_change
from rh.resources import annotated
from rh.resources.base import Resource
from rh.resources.blob import Blob
from rh.resources.folder import Folder
from rh.resources.table import Table
from rh.tables.adoption import EXTENSIONS, format_of, plain
from rh.types import Location
from rh.versions import properties, sidecars

__all__ = ["import_properties"]


@for_a_change()
def import_properties(value: Resource, location: Location, source: str, *, directory: bool = False) -> int:
    """`annotate(rows)` with the rows of a table in a file; returns how many files there are in it.

    In CSV, a value has the type that its property has already, where it can: the words of one that is text stay as they
    are, and a word that is no number is refused by itself. An empty cell says nothing.

    Args:
        value: the folder.
        location: of the file.
        source: what errors call it.
        directory: whether it is a directory, whose files are the table.

    Raises:
        InvalidError: the name does not tell the format, or something in it cannot be taken; nothing was written.
        NotFoundError: there is no such file; nothing was written.
    """
    folder = annotated.folder_of(value)
    kind = _format(location.path, source) if not directory else plain(Table(location=location).opened_files()[1].format)
    if kind == "jsonl" and not directory:
        said, told = annotated.of_rows(_lines(location, source))
    elif kind == "csv":
        said, told = annotated.of_rows(annotated.numbered(_csv(folder, location, source), source))
    else:
        rows = _fetched(Table(location=location), source)
        said, told = annotated.of_rows(annotated.numbered(rows, source))
    annotated.in_folder(folder, said, told)
    return len(said)


def _format(path: str, source: str) -> str:
    kind = format_of(path) or ("jsonl" if path.lower().endswith(".json") else None)
    if kind is None:
        raise InvalidError(
            "the name does not tell the format", where=source, hint=f"names end with {', '.join(EXTENSIONS)}"
        )
    return plain(kind)


def _lines(location: Location, source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects in JSON lines, each with its place; each value is what its line says, whatever other lines have."""
    number = 0
    try:
        with Blob(location=location).open("rb") as file:
            packed = location.path.lower().endswith(".gz")
            lines: Iterable[bytes] = gzip.GzipFile(fileobj=file) if packed else file
            for number, line in enumerate(lines, 1):
                data = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if data.strip():
                    yield f"{source}, line {number}", sidecars.object_of_line(data, source, number)
    except (gzip.BadGzipFile, EOFError) as error:
        raise InvalidError(f"the file is damaged, or not what its name says: {error}", where=source) from error
    if not number:
        raise _empty(source)


def _csv(folder: Folder, location: Location, source: str) -> Iterator[Mapping[str, Any]]:
    names = _columns(Table(location=location), source)
    rows = _fetched(Table(location=location, options={"column_types": dict.fromkeys(names, "string")}), source)
    known = _known(folder)
    kinds = {
        name: known.get(name) or _kind([row[name] for row in rows]) for name in names if name not in ("file", "tags")
    }
    for row in rows:
        # It has no other way to say that there is no value.
        yield {column: _as_type(cell, kinds.get(column)) for column, cell in row.items() if cell not in ("", None)}


def _columns(table: Table, source: str) -> list[str]:
    with _told_of(table, source):
        return list(table.schema.names)


def _fetched(table: Table, source: str) -> list[Mapping[str, Any]]:
    with _told_of(table, source):
        return table.fetch(as_="arrow").to_pylist()  # type: ignore[no-any-return]


@contextmanager
def _told_of(table: Table, source: str) -> Iterator[None]:
    """Errors name the file as it was given."""
    try:
        yield
    except InvalidError as error:
        if all(not file.size for file in table.opened_files()[1].files):
            raise _empty(source) from error
        error.where = source
        raise


def _empty(source: str) -> InvalidError:
    return InvalidError("the file is empty", where=source, hint="its column `file` has the paths")


def _known(folder: Folder) -> Mapping[str, str]:
    """The types that the properties of the folder's files have by now."""
    try:
        series = folder.series_of()
    except NotFoundError:
        return {}
    return properties.Types.read(series.registry, properties.types_key(series.series)).known


def _kind(cells: Sequence[str | None]) -> str | None:
    """The type of a property that is new, from all its words: `01234` is no number, so postcodes are text."""
    kinds = {_read(cell)[1] for cell in cells if cell}
    return kinds.pop() if len(kinds) == 1 else None


def _as_type(cell: str, kind: str | None) -> Any:
    """A word as the number or truth value that it writes, where that is the type."""
    value, written = _read(cell)
    return value if kind == written else cell


def _read(cell: str) -> tuple[Any, str | None]:
    """What a word writes, and its type; `None` for text."""
    try:
        value = json.loads(cell.lower(), parse_constant=str)
    except ValueError:
        return cell, None
    if isinstance(value, bool):
        return value, "truth"
    return (value, "number") if isinstance(value, int | float) else (cell, None)
