"""`rh save`, `rh rename`, `rh forget`, `rh history`, `rh resources`: names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rh.cli import show
from rh.cli.options import AsJson, NamePrefix, PlaceArgument, SavedName, name_meant
from rh.errors import ExistsError, InvalidError, NotFoundError

if TYPE_CHECKING:
    from rh.registry.base import Change
    from rh.resources.base import Resource

__all__ = ["forget", "history", "rename", "resources", "save", "told"]

NewName = Annotated[str, typer.Argument(metavar="NEW", callback=name_meant, show_default=False)]


def save(
    name: SavedName,
    place: PlaceArgument,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what a name in use refers to.")] = False,
    json: AsJson = False,
) -> None:
    """Save a place under a name.

    Afterwards, rh://NAME refers to it in commands, and rh.load("NAME") returns it in Python. A name that refers to
    another place is refused without --overwrite.
    """
    from rh.cli.place import place_of

    at = place_of(place)
    try:
        resource = at.blob() if at.kind() == "file" else at.folder()
    except NotFoundError as error:
        if "://" in name or os.path.lexists(name):
            error.hint = f"the name comes first: rh save {place} {name}"
        raise
    with told():
        if not overwrite:
            _check_free(_bare(name), resource)
        saved = resource.save(_bare(name), overwrite=overwrite or None)
    if json:
        show.emit({"name": saved.name, "kind": saved.kind, "place": at.url, "revision": saved.revision})
    else:
        show.line(f"{saved.name} (revision {saved.revision}): {saved.kind} {at.url}")


def _check_free(name: str, resource: Resource) -> None:
    """Refuse a name that means another place: whoever uses it would get other data."""
    from rh.registry import holding, names

    whole = names.parse(name)
    record = None if whole.is_built_in or whole.pinned else holding(whole).find(whole.key)
    if record is None:
        return
    at, kind = record.document.get("location"), record.document.get("kind")
    if kind == resource.kind and at == resource.document().get("location"):
        return
    raise ExistsError(
        f"{whole} is a {kind}" + (f" at {_where(record.document)}" if at else ""),
        where=holding(whole).url,
        hint="choose another name, or --overwrite to make it mean this place",
    )


def history(name: SavedName, json: AsJson = False) -> None:
    """List all changes of a saved name, oldest first."""
    from rh.registry import holding, names
    from rh.resources import base, records

    with told():
        whole = names.parse(_bare(name))
        changes = list(records.history(holding(whole), whole.key))  # also of a name that was deleted
        if not changes:
            base.load(whole)  # says that there is no such name, and which are near
    for change in changes:
        if json:
            show.emit(change._asdict())
    if not json:
        show.table(
            [[str(c.revision), show.when(c.time), c.author, _what(c), _where(c.document)] for c in changes], right=[0]
        )


def _what(change: Change) -> str:
    from rh.registry.names import Name

    if change.moved is None:
        return change.action
    return f"renamed {'from' if change.action == 'put' else 'to'} {Name.of_key(change.moved).path}"


def resources(
    prefix: NamePrefix = None,
    long: Annotated[bool, typer.Option("--long", "-l", help="Show kind and place of each name.")] = False,
    json: AsJson = False,
) -> None:
    """List saved names.

    Lists the names below PREFIX (~, @, /org/team), by default all.
    """
    from rh.resources import records

    rows = []
    for name, record in records.list_records("/" if prefix is None else _bare(prefix)):
        kind, where = str(record.document.get("kind")), _where(record.document)
        if json:
            show.emit({"name": name.path, "kind": kind, "place": where, "revision": record.revision})
        elif long:
            rows.append([name.path, kind, where])
        else:
            show.line(name.path)
    show.table(rows)


def rename(old: SavedName, new: NewName, json: AsJson = False) -> None:
    """Rename saved data.

    The data stays where it is; the history moves to the new name.
    """
    from rh.registry import names
    from rh.resources import base

    with told():
        whole = names.parse(_bare(old))
        if whole.pinned:
            hint = f"rh rename {whole.path} {new}"
            raise InvalidError(f"{whole} names a version; the name is {whole.path}", hint=hint)
        renamed = base.load(whole, dryrun=True).rename(_bare(new))
    if json:
        show.emit({"name": renamed.name, "kind": renamed.kind, "revision": renamed.revision})
    else:
        show.line(f"{renamed.name} (revision {renamed.revision})")


def forget(name: SavedName, json: AsJson = False) -> None:
    """Forget a name; its data stays where it is.

    The history stays, too. Versions are kept, and come back when the name is saved again.
    """
    from rh.registry import names
    from rh.resources import records

    with told():
        whole = names.parse(_bare(name))
        versions = records.count_versions(whole)
        records.forget(whole)
    if json:
        show.emit({"forgotten": whole.path, "versions": versions})
        return
    show.line(f"{whole} is forgotten; its data is where it was")
    if versions:
        show.line(f"{versions:,} versions are out of reach until it is saved again: rh save {whole} PLACE")


@contextmanager
def told(then: str | None = None, name: str = "NAME") -> Iterator[None]:
    """Errors about names, with the fix as it is typed here.

    Args:
        then: the command that is for a place as well, once that has a name.
        name: what the command was given.
    """
    fix = f"rh save {{}} {{}} names a place, then rh {then} {{}}"
    try:
        yield
    except NotFoundError as error:
        if "path=" in (error.hint or ""):  # of a name; of the registry itself it has its own
            is_path = then is not None and os.path.lexists(name)
            error.hint = fix.format(name, f"./{name}", name) if is_path else show.NAMES
        raise
    except InvalidError as error:
        if "path=" in (error.hint or ""):
            error.message = error.message.partition(", and the first argument")[0]
            error.hint = "NAME is x, ~/x, @/x or /org/team/x; " + (
                fix.format("NAME", name, "NAME") if then else "a place comes after it: rh save NAME PLACE"
            )
        raise


def _bare(name: str) -> str:
    return name.removeprefix("rh://")


def _where(document: dict[str, Any] | None) -> str:
    from rh.resources import places
    from rh.types import Location

    at = (document or {}).get("location")
    return places.url_of(Location(str(at["system"]), str(at["path"]))) if isinstance(at, dict) else ""
