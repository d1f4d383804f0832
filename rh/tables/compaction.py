"""Many small files of a table as few large ones: the same rows, in place of the files that held them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rh.errors import InvalidError, UnsupportedError
from rh.systems.base import System
from rh.tables import access, store, writing
from rh.tables.base import DataFile, Snapshot

__all__ = ["compact", "runs"]

FILE_BYTES = 128 << 20
"""In a file that small ones become, about: less than what two of those have that were written full."""


def compact(system: System, snapshot: Snapshot, *, file_bytes: int = FILE_BYTES) -> Snapshot:
    """Rewrite neighbouring files that are small as files of about `file_bytes`, all or nothing.

    Rows keep their order; of a table with partition columns, within each partition. Larger files stay as they are.
    Readers see the table as it was or as it is now; the old files are removed last. What others append meanwhile stays.

    Args:
        system: opened at the table's directory.
        snapshot: of the table, which `rh` wrote.
        file_bytes: about so many bytes in a file.

    Raises:
        ConflictError: somebody overwrote, removed or compacted the table meanwhile; it is as they left it.
        UnsupportedError: others wrote the files.
    """
    if isinstance(file_bytes, bool) or not isinstance(file_bytes, int) or file_bytes < 1:
        raise InvalidError(f"files of {file_bytes!r} bytes", hint="a whole number, 1 or more")
    if not snapshot.owned:
        raise UnsupportedError(
            "others wrote these files, and only a table that rh wrote is compacted",
            where=system.url(),
            hint="rh.table(path=…).write(table) writes its rows as one",
        )
    found = runs(snapshot.files, file_bytes)
    if not found:
        return snapshot
    write_id = writing.next_id(snapshot)
    pieces: list[tuple[Sequence[DataFile], list[DataFile]]] = []
    try:
        for number, files in enumerate(found):
            rows = _rows(system, replace(snapshot, files=tuple(files)))
            schema = access.schema(system, snapshot)
            named = f"part-{write_id}-{number:05d}"
            after = writing.store_files(system, rows, named, schema, snapshot.partition_cols)
            pieces.append((files, after))
    except BaseException:
        writing.forget(system, [file.key for _, after in pieces for file in after])
        raise
    return writing.settled(
        system, [file for _, after in pieces for file in after], lambda: store.exchange(system, pieces)
    )


def runs(files: Sequence[DataFile], file_bytes: int) -> list[list[DataFile]]:
    """Files that are to become one, in the order of the table; a large one ends a run, and is in none."""
    found: list[list[DataFile]] = []
    held: dict[tuple[str | None, ...], list[DataFile]] = {}
    for file in files:
        run = held.setdefault(file.values, [])
        if run and (file.size >= file_bytes or sum(one.size for one in run) + file.size > file_bytes):
            found.append(held.pop(file.values))
            run = held.setdefault(file.values, [])
        if file.size < file_bytes:
            run.append(file)
    found += held.values()
    place = {file.key: number for number, file in enumerate(files)}
    return sorted((run for run in found if len(run) > 1), key=lambda run: place[run[0].key])


def _rows(system: System, snapshot: Snapshot) -> Iterator[Any]:
    """The rows in batches, read ahead no further than a row group."""
    dataset = access.dataset(system, snapshot)
    with access.translated(system.url()):
        yield from dataset.scanner(batch_readahead=2, fragment_readahead=1).to_batches()
