"""A table's own files as one set: moved to another place, planned, verified. Siblings are never touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rh.errors import ExistsError, InvalidError, NotFoundError
from rh.registry.lineage import recording
from rh.resources import places
from rh.resources.arguments import split_options
from rh.resources.base import UNWRITTEN
from rh.resources.rows import Facts
from rh.systems.base import System
from rh.tables import adoption, index, store
from rh.tables.base import INDEX, ONE_FILE, DataFile, Snapshot
from rh.types import Location

if TYPE_CHECKING:
    from rh.resources.table import Table
    from rh.transfer import Options, Plan, Receipt, Verification

__all__ = ["here", "move", "plan", "restore", "verify"]

_FIXED = ("include", "exclude", "keys", "ignore_file", "delete", "max_delete", "names", "links", "dry_run", "manifest")
"""Options of a transfer that a table decides for itself."""


def move(table: Table, system: Any, path: Any, options: Mapping[str, Any]) -> Table:
    """`Table.to`."""
    from rh import transfer

    target = _target(table, system, path)
    if not table.written:
        recording.read(table)
        chosen, _ = _options(options, ())
        assert chosen.delete is False
        there = replace(table, location=target, host=places.portable(target), source=None, name=table.name)
        if not table.is_query:
            return there.write()
        assert table.source is not None
        return replace(there.write(table.source.reader()), native=table.native)
    if target == table.location:
        return table
    recording.read(table)
    place, snapshot = table.opened_files()
    single = place.location != table.placed()
    if not single:
        _check_directory(table, target)
    chosen, watch = _options(options, (file.key for file in snapshot.files))
    if single:
        target = _beside(target, table.placed().name)
        receipt = transfer.copy_file(table.placed(), target, replace(chosen, keys=None), **watch)
    else:
        counts = _counts(table, snapshot)
        before = _occupant(target, snapshot, counts)
        receipt = _copied(place, snapshot, target, before, chosen, watch, counts)
    copy = replace(
        table,
        location=target,
        host=places.portable(target),
        receipt=receipt,
        version=None,
        own=snapshot.owned,
        facts_known=Facts.of(snapshot),
    )
    recording.wrote(copy)
    return copy


def restore(table: Table, which: str, options: Mapping[str, Any]) -> Table:
    """`Table.restore`."""
    from rh import transfer

    version, target = table.at(which), table.placed()
    place, snapshot = version.opened_files()
    single = table.is_file
    live: Snapshot | None = None
    try:
        there, live = table.opened_files()
        single = there.location != target
    except (NotFoundError, InvalidError):
        pass  # removed, or no table by now
    recording.read(version)
    chosen, watch = _options(options, (file.key for file in snapshot.files))
    if single:
        source = _one_file(version, place, snapshot, target)
        receipt = transfer.copy_file(source, target, replace(chosen, keys=None), **watch)
    else:
        counts = _counts(version, snapshot)
        if not snapshot.owned:
            _check_others(places.at(target, table.host), snapshot, live, counts)
        receipt = _copied(place, snapshot, target, live, chosen, watch, counts)
        object.__setattr__(table, "own", snapshot.owned)  # else this very value would take it for removed
        if not snapshot.owned:
            table = _disowned(table)
    restored = replace(table, receipt=receipt, facts_known=Facts.of(snapshot))
    recording.wrote(restored)
    return restored


def _one_file(version: Table, place: System, snapshot: Snapshot, target: Location) -> Location:
    """The file of a version that becomes the one file at the target."""
    if snapshot.owned or len(snapshot.files) != 1:
        raise InvalidError(
            f"{version.name}:{version.version} is a directory of files, and the table is one file now",
            where=places.url_of(target),
            hint="copy that version to a directory: .at(…).to(path=…)",
        )
    (file,) = snapshot.files
    if ONE_FILE.search(target.path):
        _beside(target, file.key)  # raises where the endings differ
    return place.location / file.key


def _disowned(table: Table) -> Table:
    """The table, after the record of its name says no more that `rh` wrote what is at its place.

    By a record that does, it would be one that was removed: its index is gone.
    """
    from rh.resources.table_writing import recorded_as_own

    found = recorded_as_own(table, table.placed())
    if found is None:
        return table
    saved = replace(found, own=False, facts_known=None).save()
    return replace(table, revision=saved.revision) if table.revision == found.revision else table


def here(table: Table) -> Path:
    """`Table.local`."""
    from rh import transfer
    from rh.versions import copies

    if not table.written:
        raise InvalidError("the rows of this table are in no files", hint=".save() or .snapshot() writes them")
    recording.read(table)
    place, snapshot = table.opened_files()
    at = table.placed()
    if places.is_here(at):
        return Path(at.path)
    path = copies.taken("tables", table.url, at.name)
    target = Location("file", str(path))
    if place.location != at:
        receipt = transfer.copy_file(at, target)
    else:
        path.mkdir(exist_ok=True)
        there, keys = places.at(target), frozenset(file.key for file in snapshot.files)
        before = store.look(there) if snapshot.owned and store.find(there) is not None else None
        old = [entry.key for entry in there.list() if entry.kind != "dir" and entry.key not in keys]
        there.delete(old if snapshot.owned else [*old, INDEX])  # first, so that the manifest tells of none of them
        options = transfer.Options(keys=keys, ignore_file=False, links="follow")
        receipt = _copied(place, snapshot, target, before, options, {}, _counts(table, snapshot))
    copies.made(path, table.url, receipt.digest, receipt.bytes_moved)
    return path


def _copied(
    place: System,
    snapshot: Snapshot,
    target: Location,
    before: Snapshot | None,
    options: Options,
    watch: Mapping[str, Any],
    counts: Callable[[str], bool],
) -> Receipt:
    """Copy the files of a table to the target, where `before` is now, and make them the table that is there."""
    from rh import transfer

    receipt = transfer.copy_tree(place.location, target, options, **watch)
    there = places.at(target, places.portable(target))
    # Also where files of this very table were damaged or lost: those that take their place have other etags.
    if snapshot.owned and (before is None or before.fingerprint != snapshot.fingerprint or receipt.bytes_moved):
        from rh.tables import access

        store.publish(
            there,
            before,
            _arrived(there.list(), snapshot),
            mode="overwrite",
            schema=access.schema(place, snapshot),
            partition_cols=snapshot.partition_cols,
            sort=False,
        )
    elif not snapshot.owned and before is not None:
        ours = frozenset(file.key for file in snapshot.files)
        old = {file.key for file in before.files} - ours
        store.disown(there, before, filter(counts, old))
        rest = transfer.Options(keys=ours | old, delete=True, ignore_file=False, links="follow")
        transfer.copy_tree(place.location, target, rest)  # nothing is left to copy: the manifest goes by what stays
    return receipt


def plan(table: Table, system: Any, path: Any, options: Mapping[str, Any]) -> Plan:
    """`Table.plan`."""
    from rh import transfer

    if not table.written:
        raise InvalidError(
            "this table is not written yet, so there is nothing to move",
            hint=UNWRITTEN,
        )
    target = _target(table, system, path)
    place, snapshot = table.opened_files()
    chosen, _ = _options(options, (file.key for file in snapshot.files))
    if place.location != table.placed():
        return transfer.plan_file(table.placed(), _beside(target, table.placed().name), replace(chosen, keys=None))
    _check_directory(table, target)
    return transfer.plan_tree(table.placed(), target, chosen)


def verify(table: Table) -> Verification:
    """`Table.verify`: each file against the digest in the table's index, or the manifest for an adopted table."""
    from rh import transfer
    from rh.errors import ConflictError, IntegrityError

    place, snapshot = table.opened_files()
    if not snapshot.owned and place.location == table.placed():
        return transfer.verify_tree(table.placed())
    corrupt: list[str] = []
    modified: list[str] = []
    missing: list[str] = []
    size = 0
    for file in snapshot.files:
        try:
            entry = place.head(file.key)
            size += entry.size
            got = transfer.digest_file(place.location / file.key)
        except NotFoundError:
            missing.append(file.key)
            continue
        except (ConflictError, IntegrityError):
            modified.append(file.key)
            continue
        if file.digest is not None and got != file.digest:
            same = entry.etag == file.etag and entry.size == file.size
            (corrupt if same else modified).append(file.key)
    return transfer.Verification(
        table.url,
        "table" if snapshot.owned else "nothing",
        len(snapshot.files),
        size,
        corrupt=tuple(corrupt),
        modified=tuple(modified),
        missing=tuple(missing),
    )


def _options(options: Mapping[str, Any], keys: Any) -> tuple[Options, dict[str, Any]]:
    for name in _FIXED:
        if name in options:
            raise InvalidError(
                f"{name}= is not for tables: all of a table's files are moved, and nothing else",
                hint="rh.folder(path=…).to(…) copies a directory by patterns",
            )
    chosen, watch = split_options(options)
    return replace(chosen, keys=frozenset(keys), ignore_file=False, links="follow"), watch


def _target(table: Table, system: Any, path: Any) -> Location:
    table.check_reachable()
    stem = places.stem_of(table.name) or (table.placed().name if table.location is not None else None)
    target = places.target(system, path, stem)
    if target is None:
        raise InvalidError("no target is given", hint="give path=, or the table a name")
    return target


def _beside(target: Location, name: str) -> Location:
    """The file that a table of one file becomes: the target itself if its name says so, else one in that directory.

    Raises:
        InvalidError: the target's name is that of a file of another format.
    """
    named, own = ONE_FILE.search(target.path), ONE_FILE.search(name)
    if named is None:
        return target / name
    if own is not None and own.group(0).lower() != named.group(0).lower():
        raise InvalidError(
            f"the path names a file that ends with {named.group(0)}, and what is copied is {name!r}",
            where=places.url_of(target),
            hint="give a directory, or the same ending; rh.table(path=directory).write(table) writes it as Parquet",
        )
    return target


def _check_directory(table: Table, target: Location) -> None:
    """Raise `InvalidError` if a table of several files is to become what looks like one file."""
    if ONE_FILE.search(target.path) and not ONE_FILE.search(table.placed().path):
        raise InvalidError(
            "a table is copied as a directory of files, and this path names one file",
            where=places.url_of(target),
            hint="leave out the ending",
        )


def _occupant(target: Location, snapshot: Snapshot, counts: Callable[[str], bool]) -> Snapshot | None:
    """The table that `rh` wrote at the target before; anything else there must be a part of what comes.

    Raises:
        ExistsError: other data are there.
    """
    system = places.at(target, places.portable(target))
    current = index.read(system)
    before = None if current is None else current.snapshot
    if before is None or not snapshot.owned:
        _check_others(system, snapshot, before, counts)
    return before


def _check_others(system: System, snapshot: Snapshot, before: Snapshot | None, counts: Callable[[str], bool]) -> None:
    """Raise `ExistsError` if rows would be there beside those that come, when `before` has given way."""
    known = {file.key for one in (snapshot, before) if one is not None for file in one.files}
    try:
        strange = next((e.key for e in adoption.listed(system) if e.key not in known and counts(e.key)), None)
    except NotFoundError:
        return
    if strange is not None:
        raise ExistsError(
            "other data are in that place",
            where=system.url(strange),
            hint="choose another path= for the table, or move them away",
        )


def _counts(table: Table, snapshot: Snapshot) -> Callable[[str], bool]:
    """What tells of a key whether `store.look` takes it for rows, beside these files and without an index."""
    odd = any(adoption.format_of(file.key) is None for file in snapshot.files)

    def counts(key: str) -> bool:
        steps = key.split("/")
        if key.endswith("/") or any(step[:1] in ("_", ".") for step in steps):
            return False
        if store.PART.fullmatch(steps[-1]):
            return table.format is not None
        return odd or adoption.format_of(key) is not None

    return counts


def _arrived(entries: Any, snapshot: Snapshot) -> list[DataFile]:
    """The files as the target holds them, with its etags."""
    found = {entry.key: entry for entry in entries}
    return [file._replace(etag=found[file.key].etag, size=found[file.key].size) for file in snapshot.files]
