"""Data files that others wrote, as a table: formats by name, partition columns by path."""

from __future__ import annotations

import codecs
import gzip
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote

from rh.errors import InvalidError, NotFoundError
from rh.systems.abilities import Following
from rh.systems.base import System
from rh.tables.base import FORMATS, DataFile, FileFormat, Snapshot
from rh.types import Entry

__all__ = ["EXTENSIONS", "adopted", "format_of", "hive_text", "lake", "listed", "plain", "single"]

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""The directory that stands for null."""

BLANK = 64
"""Bytes up to which a file of text may be nothing but an empty line, or a compressed one nothing at all."""

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
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}


def listed(system: System) -> Iterator[Entry]:
    """Every file, those that links point to among them: they are read through the links and removed as links.

    Raises:
        NotFoundError: a link cannot be followed.
    """
    following = system.ask(Following)
    if following is None:
        yield from system.list()
        return
    for entry in following.list_following():
        if entry.kind == "link":
            raise NotFoundError(
                f"a link that cannot be followed: {entry.target}",
                where=system.url(entry.key),
                hint="remove the link, or bring back what it leads to",
            )
        yield entry


def lake(key: str) -> str | None:
    """The table format to whose log a file belongs, if any: data files that it names no more still lie beside it."""
    if key.startswith("_delta_log/"):
        return "Delta Lake"
    return "Iceberg" if key.startswith("metadata/") and key.endswith(".metadata.json") else None


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
        values = tuple(value for _, value in pairs)
        files.append(DataFile(entry.key, entry.size, _none_at_all(system, kind, entry), entry.etag, values=values))
    return Snapshot(plain(kind), tuple(files), columns, options=_options(kind, options))


def _none_at_all(system: System, kind: str, entry: Entry) -> int | None:
    """0 for a file of text without any, not even a header: it has no rows. A small one is read to see that."""
    if plain(kind) not in ("csv", "jsonl") or entry.size > BLANK:
        return None
    if not entry.size:
        return 0
    with system.read(entry.key) as body:
        data = body.read()
    with suppress(OSError, EOFError):
        data = gzip.decompress(data) if entry.key.lower().endswith(".gz") else data
    return None if data.removeprefix(codecs.BOM_UTF8).strip() else 0


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
    entry = system.head(key)
    kind = format_of(key) or ("jsonl" if key.lower().endswith(".json") else None)
    if wanted is not None and (kind is None or plain(kind) != wanted):
        kind = wanted
    if kind is None:
        raise InvalidError(
            "the name does not tell the format", where=system.url(key), hint=f"format= one of {', '.join(FORMATS)}"
        )
    file = DataFile(key, entry.size, _none_at_all(system, kind, entry), entry.etag)
    return Snapshot(plain(kind), (file,), options=_options(kind, options))
