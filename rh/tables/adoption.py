"""Data files that others wrote, as a table: formats by name, partition columns by path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from rh.errors import InvalidError
from rh.systems.abilities import Following
from rh.systems.base import System
from rh.tables.base import FORMATS, DataFile, FileFormat, Snapshot
from rh.types import Entry

__all__ = ["EXTENSIONS", "adopted", "format_of", "hive_text", "listed", "plain", "single"]

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""The directory that stands for null."""

EXTENSIONS: Mapping[str, str] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json.gz": "jsonl",
    ".jsonl.gz": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}


def listed(system: System) -> Iterator[Entry]:
    """Every file, those that links point to among them: they are read through the links and removed as links."""
    following = system.ask(Following)
    return system.list() if following is None else following.list_following()


def format_of(key: str) -> str | None:
    """The format that a name tells (`tsv` besides those of `FORMATS`), if any."""
    name = key.rpartition("/")[2].lower()
    return next((kind for ending, kind in EXTENSIONS.items() if name.endswith(ending)), None)


def plain(kind: str) -> FileFormat:
    """The format of tables that files of a kind have."""
    return "csv" if kind == "tsv" else kind  # type: ignore[return-value]


def adopted(system: System, kind: str, entries: Sequence[Entry], options: Mapping[str, Any] | None) -> Snapshot:
    """Files of one kind as a table; `InvalidError` if their paths have different partition columns."""
    first, files = _hive(system, entries[0].key), []
    columns = tuple(column for column, _ in first)
    for entry in entries:
        pairs = _hive(system, entry.key)
        if tuple(column for column, _ in pairs) != columns:
            raise InvalidError(
                f"{entries[0].key!r} and {entry.key!r} have different partition columns in their paths",
                where=system.url(),
                hint="give the directory of one of them",
            )
        files.append(DataFile(entry.key, entry.size, etag=entry.etag, values=tuple(value for _, value in pairs)))
    return Snapshot(plain(kind), tuple(files), columns, options=_options(kind, options))


def _options(kind: str, options: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if kind == "tsv":
        return {"delimiter": "\t", **(options or {})}
    return dict(options) if options else None


def _hive(system: System, key: str) -> list[tuple[str, str | None]]:
    """The columns and values in a path: `year=2026/kind=a%2Fb/x.parquet`."""
    pairs: list[tuple[str, str | None]] = []
    for step in key.split("/")[:-1]:
        column, mark, value = step.partition("=")
        if mark:
            try:
                text = None if value == HIVE_NULL else unquote(value, errors="strict")
                pairs.append((unquote(column, errors="strict"), text))
            except UnicodeDecodeError as error:
                raise InvalidError(f"{step!r} is no text", where=system.url(key)) from error
    if len({column for column, _ in pairs}) < len(pairs):
        raise InvalidError("a partition column is in the path twice", where=system.url(key))
    return pairs


def hive_text(value: str | None) -> str:
    """A partition value as it stands in a path. A text that looks like null's name is told apart from it."""
    if value is None:
        return HIVE_NULL
    text = quote(value, safe="")
    return "%5F" + text[1:] if text == HIVE_NULL else text


def single(system: System, key: str, wanted: str | None, options: Mapping[str, Any] | None) -> Snapshot:
    """One file as a table, whatever lies beside it."""
    kind = format_of(key)
    if wanted is not None and (kind is None or plain(kind) != wanted):
        kind = wanted
    if kind is None:
        raise InvalidError(
            "the name does not tell the format", where=system.url(key), hint=f"format= one of {', '.join(FORMATS)}"
        )
    entry = system.head(key)
    return Snapshot(plain(kind), (DataFile(key, entry.size, etag=entry.etag),), options=_options(kind, options))
