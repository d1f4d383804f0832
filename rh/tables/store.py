"""Which files are a table's own, and how another set of them takes their place, all or nothing."""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from rh.errors import (
    AccessError,
    ConflictError,
    ExistsError,
    InvalidError,
    NotFoundError,
    RhError,
    UnavailableError,
    UnsupportedError,
)
from rh.observe import log, warn
from rh.systems.base import System
from rh.tables import access, adoption, frames, given, index
from rh.tables.base import FORMATS, INDEX, DataFile, LeftOutWarning, Mode, Snapshot
from rh.tables.promotion import fits
from rh.types import ABSENT, Entry, Match

__all__ = ["PART", "agreed", "debris", "disown", "exchange", "find", "look", "publish", "remove"]

PART = re.compile(r"part-([0-9a-f]{20})-\d{5}(?:-\d{5})?\.parquet")
"""The name of a file that `rh.tables.writing` wrote; the group is the write's id."""
WEEK_S = 7 * 86_400.0

_TRIES = 100
_FEW = 3
"""How many other files may lie beside each of a table's: descriptions, notes, logs."""


# Looking


def look(
    system: System,
    key: str | None = None,
    *,
    format: str | None = None,  # noqa: A002 - the word of `rh.table`
    options: Mapping[str, Any] | None = None,
    parts: bool = False,
    own: bool = False,
    schema: bytes | None = None,
) -> Snapshot:
    """Which files are the table at the root of `system`: one request where `rh` wrote it, else a listing.

    Args:
        system: opened at the table's directory.
        key: the table is this one file.
        format: of the files, where their names do not tell it, or files of other formats lie beside them.
        options: what the reader of the format needs to know.
        parts: adopt also files that are named as `rh` names its own. Without their index they may be half of a table:
            a write that is under way or was cut off, or a copy that left the index behind.
        own: `rh` wrote the table: without its index it is removed, and what else lies there is others'.
        schema: of files of others, as `rh.tables.given.encoded` has it; by default they say it themselves.

    Raises:
        NotFoundError: nothing is there, or not the table that `rh` wrote.
        InvalidError: there are no data files, or files of several formats; `rh` wrote the table, with another schema.
        IntegrityError: the index is garbled.
        UnsupportedError: a newer `rh` wrote it, or it is a table of Delta Lake or Iceberg.
    """
    if format is not None and format not in FORMATS:
        raise InvalidError(f"no format of tables is called {format!r}", hint=f"one of {', '.join(FORMATS)}")
    if key is not None:
        return given.applied(adoption.single(system, key, format, options), schema, system.url())
    found = _find(system, format, options, parts=parts, own=own)
    if isinstance(found, Snapshot):
        return given.applied(found, schema, system.url())
    if own:
        raise NotFoundError(
            f"the table was removed: its index {INDEX} is gone",
            where=system.url(),
            hint="write it again; rh.table(path=…) opens files of others that lie there",
        )
    entries, ours = found
    if ours:
        raise NotFoundError(
            f"there are parts of a table, such as {ours!r}, and no index {INDEX} that says which of them are whole:"
            " a first write is under way or was cut off, or they were copied without it",
            where=system.url(),
            hint='format="parquet" takes the files as they are; the copies that Table.to'
            " and rh table write make are whole",
        )
    if not entries:
        if not system.keeps_directories:
            raise NotFoundError("there are no files here, and so no table", where=system.url())
        raise NotFoundError(
            "the directory has no files: no table is here",
            where=system.url(),
            hint="rh.table(rows, path=…).write() makes one",
        )
    what = f"there are no data files, only others such as {entries[0]!r}"
    lines = all(key.lower().endswith(".json") for key in entries)
    hint = 'format="jsonl" takes .json files with one object a line' if lines else None
    raise InvalidError(
        f"{what}: no table is here",
        where=system.url(),
        hint=hint or f"names end with {', '.join(adoption.EXTENSIONS)}; format= takes files of any name",
    )


def find(system: System, *, format: str | None = None, own: bool = False) -> Snapshot | None:  # noqa: A002
    """`look` for writers: `None` where no table is yet, or not the one that `rh` wrote (`own`).

    With `format`, files of any name count, as they do for who reads the table with that format.
    """
    try:
        found = _find(system, format, None, parts=format is not None, own=own)
    except NotFoundError:
        if _holds_something(system):
            raise  # a link to nothing
        return None
    return found if isinstance(found, Snapshot) else None


def _holds_something(system: System) -> bool:
    try:
        return next(iter(system.list()), None) is not None
    except NotFoundError:
        return False


def _find(
    system: System, wanted: str | None, options: Mapping[str, Any] | None, *, parts: bool = False, own: bool = False
) -> Snapshot | tuple[list[str], str | None]:
    """The table; or else keys of other files, and one of a part without an index."""
    current = index.read(system)
    if current is not None:
        if wanted not in (None, "parquet"):
            raise InvalidError(f"rh wrote this table as parquet, not {wanted}", where=system.url())
        return current.snapshot
    if own:
        return [], None
    found: dict[str, list[Entry]] = defaultdict(list)
    others: list[Entry] = []
    left_out = 0
    ours: str | None = None
    for entry in adoption.listed(system):
        if wanted is None and (owner := adoption.lake(entry.key)) is not None:
            raise UnsupportedError(
                f"this is a table of {owner}, whose log says which of its files count; rh does not read it",
                where=system.url(entry.key),
                hint=f"read it with {owner}'s library and give what it reads as Arrow to rh.table(data);"
                ' format="parquet" takes every file, removed rows among them',
            )
        if entry.kind != "file" or any(step[:1] in ("_", ".") for step in entry.key.split("/")):
            continue
        if not parts and PART.fullmatch(entry.key.rpartition("/")[2]):
            ours = entry.key
            continue
        kind = adoption.format_of(entry.key)
        if kind is not None:
            found[kind].append(entry)
        else:
            left_out += 1
            if wanted is not None or not others:
                others.append(entry)
    if wanted is not None:
        if not found and others:
            return adoption.adopted(system, wanted, others, options)
        found = {kind: entries for kind, entries in found.items() if adoption.plain(kind) == wanted}
    if len(found) > 1:
        examples = ", ".join(f"{kind} ({entries[0].key!r})" for kind, entries in sorted(found.items()))
        raise InvalidError(
            f"there are files of several formats: {examples}", where=system.url(), hint="say which with format="
        )
    if not found:
        return [entry.key for entry in others], ours
    ((kind, entries),) = found.items()
    if wanted is None and left_out > _FEW * len(entries):
        warn(
            f"{system.url()} is read as a table of {len(entries):,} of the {len(entries) + left_out:,} files there:"
            f" {entries[0].key!r}{', …' if len(entries) > 1 else ''}. Who means that says the format,"
            f" {adoption.plain(kind)}",
            LeftOutWarning,
        )
    return adoption.adopted(system, kind, entries, options)


# Schemas


def agreed(table: Any, rows: Any, where: str) -> Any:
    """The schema of a table after rows with another `pyarrow.Schema` were added: the table's, with more nulls perhaps.

    The order of columns may differ, and types whose values are all among those of the table's type: narrower numbers,
    null, dictionaries of text, other widths of offsets (`string`, `large_string`).

    Raises:
        InvalidError: a column is missing, is new, or has another type; it names the column and both types.
    """
    for one, other, what in ((table, rows, "the rows lack"), (rows, table, "the table lacks")):
        missing = [name for name in one.names if name not in other.names]
        if missing:
            raise InvalidError(
                f"{what} the column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}",
                where=where,
                hint=f"the table's columns are {', '.join(table.names)}",
            )
    for at, field in enumerate(table):
        added = rows.field(field.name)
        if not fits(added.type, field.type):
            raise InvalidError(
                f"the column {field.name!r} is {field.type} in the table and {added.type} in the rows",
                where=where,
                hint="cast the rows, or write them to another table",
            )
        table = table.set(at, field.with_nullable(field.nullable or added.nullable))
    return table


# Changing


def publish(
    system: System,
    base: Snapshot | None,
    new: Sequence[DataFile],
    *,
    mode: Mode,
    schema: Any,
    partition_cols: Sequence[str] = (),
    sort: bool = True,
) -> Snapshot:
    """Make `new` the table (`error`, `overwrite`) or a part of it (`append`), in one step: the index is written last.

    Where the place checks conditions, of two who overwrite at once one gets `ConflictError`, and of two who append both
    land. Where it cannot (an S3 server that ignores them, SFTP), the index is read again right before and after it is
    written: two who write it between the same two requests may still not see each other, and the later one counts.

    Args:
        system: opened at the table's directory.
        base: the table as it was when the writer began; `None` if there was none. Append to an adopted table takes its
            files into the index.
        new: files that are stored already.
        mode: what becomes of the base.
        schema: `pyarrow.Schema` of the whole table, partition columns last.
        partition_cols: those of the table.
        sort: put `new` in the order of the keys; else they are in that of the rows already.

    Raises:
        ExistsError: `error`, and there is a table now.
        ConflictError: `overwrite`, and the table is not `base` any more; `append`, and it was removed.
        InvalidError: `append`, and the table has another schema now.
    """
    new = index.ordered(new) if sort else list(new)
    snapshot = _replaced(system, new, lambda current: _next(system, base, current, new, mode, schema, partition_cols))
    if mode == "overwrite" and base is not None:
        _clean(system, {file.key for file in base.files} - {file.key for file in snapshot.files})
    return snapshot


def exchange(system: System, pieces: Sequence[tuple[Sequence[DataFile], Sequence[DataFile]]]) -> Snapshot:
    """Let files that hold the same rows take the place of others, in one step; the others are removed after it.

    What somebody appended meanwhile stays.

    Args:
        system: opened at the table's directory.
        pieces: files of the table, and those that take the place of the first of them.

    Raises:
        ConflictError: one of the files is not in the table any more.
    """
    where = system.url(INDEX)
    old = {file.key for before, _ in pieces for file in before}

    def following(current: index.Index | None) -> dict[str, Any]:
        if current is None or not old <= current.keys:
            raise ConflictError("somebody changed the table while it was rewritten", where=where, hint="do it again")
        first = {before[0].key: after for before, after in pieces}
        files: list[DataFile] = []
        for file in current.snapshot.files:
            files += first.get(file.key, ()) if file.key in old else [file]
        assert current.snapshot.schema is not None
        return index.document_of(current, files, current.snapshot.partition_cols, current.snapshot.schema, where)

    snapshot = _replaced(system, [file for _, after in pieces for file in after], following)
    _clean(system, old - {file.key for file in snapshot.files})
    return snapshot


def _replaced(
    system: System, new: Sequence[DataFile], following: Callable[[index.Index | None], dict[str, Any]]
) -> Snapshot:
    """The index that `following` makes of the one that is there, put in its place; again if another came before it."""
    where = system.url(INDEX)
    current = index.read(system)
    for _ in range(_TRIES):
        document = following(current)
        data = index.encoded(document)
        try:
            entry = _put(system, data, current)
        except (ConflictError, ExistsError) as error:
            now = index.read(system)
            if now is not None and _landed(now, document, new):
                return now.snapshot  # the answer to our own success was lost, or others came after it
            if (now and now.etag) == (current and current.etag):
                raise ConflictError("the index cannot be replaced", where=where) from error
            current = now
            continue
        return index.snapshot_of(document, index.etag_of(entry, data), where)
    raise ConflictError("the table is being changed all the time", where=where)


def _next(
    system: System,
    base: Snapshot | None,
    current: index.Index | None,
    new: Sequence[DataFile],
    mode: Mode,
    schema: Any,
    partition_cols: Sequence[str],
) -> dict[str, Any]:
    """The index that is to replace `current`, if the mode allows it."""
    where = system.url(INDEX)
    if mode == "error" and (base is not None or current is not None):
        raise ExistsError("a table is here already", where=where, hint='mode="append" or mode="overwrite"')
    if mode == "overwrite" and (current and current.etag) != (base and base.etag):
        raise ConflictError("somebody changed the table while it was written", where=where, hint="write it again")
    if mode != "append" or (base is None and current is None):
        return index.document_of(current, new, partition_cols, schema.serialize().to_pybytes(), where)
    if current is None:
        assert base is not None
        if base.owned:
            raise ConflictError("somebody removed the table while it was written", where=where)
        files, columns, before = base.files, base.partition_cols, schema
    else:
        files, columns = current.snapshot.files, current.snapshot.partition_cols
        before = access.schema(system, current.snapshot)
    if tuple(columns) != tuple(partition_cols):
        raise InvalidError(
            f"the table's partition columns are {list(columns)}, not {list(partition_cols)}", where=where
        )
    after = agreed(frames.without_range(before), schema, where)
    if after.names != schema.names or after.types != schema.types:
        raise InvalidError("somebody changed the table's schema while it was written", where=where, hint="append again")
    return index.document_of(current, [*files, *new], columns, after.serialize().to_pybytes(), where)


def _put(system: System, data: bytes, current: index.Index | None) -> Entry:
    """Replace the index that was read as `current`."""
    if current is None or not current.etag.startswith(index.CONTENT):
        when = ABSENT if current is None else Match(current.etag)
        try:
            return system.write(INDEX, data, size=len(data), when=when)
        except UnsupportedError:
            pass
    now = index.read(system)
    if (now and now.etag) != (current and current.etag):
        raise ConflictError("somebody changed the table", where=system.url(INDEX))
    entry = system.write(INDEX, data, size=len(data))
    with suppress(NotFoundError, UnavailableError, AccessError), system.read(INDEX) as body:
        if body.read() != data:
            raise ConflictError("somebody changed the table", where=system.url(INDEX))
    return entry


def _landed(now: index.Index, document: Mapping[str, Any], new: Sequence[DataFile]) -> bool:
    same = now.document.get("write_id") == document["write_id"]
    return same or (bool(new) and {file.key for file in new} <= now.keys)


def _clean(system: System, keys: Iterable[str]) -> None:
    """Remove files that no index names any more. The table is whole without it, so a failure is no error."""
    try:
        delete(system, keys)
    except RhError as error:
        log.warning("files that are no longer of the table %s stay behind: %s", system.url(), error)


def delete(system: System, keys: Iterable[str]) -> None:
    """Remove exactly these files, and directories that hold nothing else."""
    gone = sorted(keys)
    if not gone:
        return
    system.delete(gone)
    if system.keeps_directories:
        above = {key[: at + 1] for key in gone for at, letter in enumerate(key) if letter == "/"}
        if above:
            system.delete(sorted(above, key=len, reverse=True))


def remove(system: System, snapshot: Snapshot) -> None:
    """Remove the table: the index first, so that nobody sees half of it, then exactly its own files.

    Raises:
        ConflictError: it is not this snapshot any more; nothing was removed.
    """
    disown(system, snapshot)
    delete(system, [file.key for file in snapshot.files])


def disown(system: System, snapshot: Snapshot, mistaken: Iterable[str] = ()) -> None:
    """Remove the index: whatever data files lie there are the table then. Of a table of others there is none.

    Args:
        system: opened at the table's directory.
        snapshot: the table.
        mistaken: files of it that would be taken for rows then. They go before the index: until that is gone, too, the
            table reads as damaged, and never as other rows.

    Raises:
        ConflictError: it is not this snapshot any more; nothing was removed.
    """
    current = index.read(system) if snapshot.owned else None
    if current is None:
        return
    if current.etag != snapshot.etag:
        raise ConflictError("somebody changed the table since", where=system.url(INDEX), hint="look again")
    delete(system, mistaken)
    system.delete([INDEX])


def debris(system: System, *, older_than_s: float = WEEK_S) -> list[Entry]:
    """Files that writers of a table left behind when they were killed, and that are older than `older_than_s`.

    They are named as ours, where the table keeps its files, and not in its index. Where there is no index they may be
    all that is left of a table, and a file whose age the place does not tell may be of a writer at work.
    """
    current = index.read(system)
    if current is None:
        return []
    columns = list(current.snapshot.partition_cols)
    before = time.time() - older_than_s
    return [
        entry
        for entry in system.list()
        if entry.kind == "file"
        and entry.key not in current.keys
        and PART.fullmatch(os.path.basename(entry.key))
        and [unquote(step.partition("=")[0]) for step in entry.key.split("/")[:-1]] == columns
        and entry.modified is not None
        and entry.modified < before
    ]
