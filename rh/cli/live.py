"""`rh restore`, `rh adopt`, `rh create-dataset`: live data from a version, and versions of data that is there."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rh.cli import show
from rh.cli.complete import complete_place, complete_system, one_of
from rh.cli.options import AsJson, Exclude, Include, NoProgress, PlaceArgument, SavedName, Yes, ask, name_meant, size_of
from rh.cli.versions import Aliases, Message, VersionName, newest_of, tell_made, versioned

if TYPE_CHECKING:
    from rh.resources.folder import Folder
    from rh.resources.versioned import Versioned
    from rh.transfer.plan import Plan

__all__ = ["adopt", "create_dataset", "restore"]

_TYPED = (
    (r"rh\.folder\('([^']*)'\)\.upload\(…\)", r"rh upload \1 LOCAL"),
    (r"\.save\(\) that as it is", "rh save NAME PLACE names it as it is"),
    (r"\b(org|path|private|system)=(?:True|…)?", r"--\1"),
)
"""Fixes that `rh.create_dataset` tells, as they are typed here."""


def restore(
    name: VersionName,
    include: Include = None,
    exclude: Exclude = None,
    no_delete: Annotated[bool, typer.Option("--no-delete", help="Keep files that were added since.")] = False,
    links: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            autocompletion=one_of("follow", "keep", "skip", "error"),
            help="As for rh cp; by default keep, where links are supported.",
        ),
    ] = None,
    on_existing: Annotated[
        str | None,
        typer.Option(metavar="HOW", autocompletion=one_of("update", "skip", "error", "replace"), help="As for rh cp."),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(metavar="HOW", autocompletion=one_of("refuse", "encode", "decode"), help="As for rh cp."),
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Maximum number of concurrent requests.")] = None,
    bandwidth: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Maximum bytes per second, such as 10M.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show what would be done, and do nothing.")] = False,
    yes: Yes = False,
    no_progress: NoProgress = False,
    json: AsJson = False,
) -> None:
    """Restore the live files of a name from a version.

    By default, from the newest version. Changes since then are lost, and files added since are deleted: run rh commit
    first to keep them. Asks for confirmation if files are there. Versions stay, and no new one is made.
    """
    from rh.errors import InvalidError
    from rh.resources.folder import Folder
    from rh.resources.table import Table

    resource, which = versioned(name)
    which = which or "latest"
    told = {"links": links, "on_existing": on_existing, "names": names, "workers": workers}
    given: dict[str, Any] = {key: value for key, value in told.items() if value is not None}
    given |= {key: tuple(value) for key, value in (("include", include), ("exclude", exclude)) if value}
    given |= {"delete": False} if no_delete else {}
    given |= {"bandwidth": size_of(bandwidth, "--bandwidth")} if bandwidth is not None else {}
    of_folders = [key for key in given if key not in ("on_existing", "workers", "bandwidth")]
    if of_folders and not isinstance(resource, Folder):
        words = ", ".join("--no-delete" if key == "delete" else f"--{key.replace('_', '-')}" for key in of_folders)
        raise InvalidError(f"{resource.name} is a {resource.kind}, which is restored as a whole: {words} is of folders")
    if dry_run and isinstance(resource, Table):
        raise InvalidError(f"{resource.name} is a table, which is restored as a whole: --dry-run is of files")
    if dry_run:
        _tell_plan(resource, which, given, json=json)
        return
    version = resource.series_of().get(which)
    if not yes:
        _ask(resource, version.label, given)
    from rh.cli.run import cancel
    from rh.progress import Silent

    given |= {"progress": Silent()} if no_progress else {}
    live: Any = resource
    done = live.restore(version.label, **given, cancel=cancel)
    if json:
        show.emit({"name": resource.name, "version": version.label, **done.receipt.as_dict()})
    else:
        show.line(f"{resource.name}:{version.label} → {resource.url}\n{done.receipt}")


def _plan(resource: Versioned, which: str, given: dict[str, Any]) -> Plan:
    """What `restore` would do."""
    from rh.resources.folder import Folder

    version: Any = resource.at(which)
    if isinstance(resource, Folder):
        links = "keep" if resource.handle().keeps_links else "follow"
        given = {"delete": True, "ignore_file": False, "links": links, **given}
    made: Plan = version.plan(path=resource.url, **given)
    return made


def _ask(resource: Versioned, which: str, given: dict[str, Any]) -> None:
    """Ask, if `restore` may delete or replace anything."""
    from rh.resources.table import Table
    from rh.transfer.plan import Action

    if isinstance(resource, Table):
        ask([f"replace {resource.url}"], "Restore?")
        return
    plan = _plan(resource, which, given)
    doomed, replaced = [], 0
    for step in plan.steps():
        if step.action is Action.DELETE:
            doomed.append(f"delete {resource.url.rstrip('/')}/{step.key}")
        elif step.action in (Action.COPY, Action.CHECK) and step.old is not None:
            replaced += 1
    if replaced:
        doomed.append(f"replace what differs of {replaced:,} files in {resource.url}")
    if doomed:
        ask(doomed, "Restore?")


def _tell_plan(resource: Versioned, which: str, given: dict[str, Any], *, json: bool) -> None:
    made = _plan(resource, which, given)
    if json:
        show.emit(made.as_dict())
    else:
        show.line(str(made))


def adopt(
    name: SavedName,
    place: Annotated[
        str | None,
        typer.Argument(
            metavar="[PLACE]",
            help="The directory, if NAME is not saved yet.",
            autocompletion=complete_place,
            show_default=False,
        ),
    ] = None,
    message: Message = "",
    alias: Aliases = None,
    json: AsJson = False,
) -> None:
    """Make a version of a directory without copying its files.

    The version refers to the files where they are; they are read once, for their digests. It can be read as long as the
    files do not change, or their bucket keeps their earlier contents; rh version verify reports files that have
    changed.
    """
    folder = _to_adopt(name.removeprefix("rh://"), place)
    newest = newest_of(folder)
    made = folder.adopt(message=message, aliases=alias or ())
    tell_made(folder, made, newest, message, json=json)


def _to_adopt(name: str, place: str | None) -> Folder:
    """The folder that is meant: the one that is saved, or the one at a place, with the name.

    Raises:
        ExistsError: the name means another place.
    """
    from rh.cli.names import told
    from rh.cli.place import place_of
    from rh.errors import ExistsError, InvalidError, NotFoundError
    from rh.registry import holding, names
    from rh.resources.folder import Folder

    with told():
        whole = names.parse(name)
    if whole.pinned:
        raise InvalidError(f"{whole} names a version; the name is {whole.path}")
    taken = not whole.is_built_in and holding(whole).find(whole.key) is not None
    if place is None and not taken:
        raise NotFoundError(f"nothing is saved as {whole}", hint=f"rh adopt {name} PLACE")
    saved = versioned(name)[0] if taken else None
    if saved is not None and not isinstance(saved, Folder):
        raise InvalidError(f"{saved.name} is a {saved.kind}; what is adopted is a folder")
    if place is None and saved is not None:
        return saved
    at = place_of(place or "")
    if at.kind() == "file":
        raise InvalidError("that is a file; what is adopted is a directory", where=at.shown)
    found = at.folder()
    if saved is None:
        return replace(found, name=whole.path)
    if saved.location != found.location:
        raise ExistsError(
            f"{whole} is a folder at {saved.url}",
            where=holding(whole).url,
            hint=f"choose another name, or first: rh save --overwrite {name} {place}",
        )
    return saved


def create_dataset(
    name: Annotated[str, typer.Argument(metavar="NAME", callback=name_meant, show_default=False)],
    directory: PlaceArgument,
    exclude: Exclude = None,
    org: Annotated[str | None, typer.Option(metavar="ORG", help="Organization of the name: /ORG/NAME.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Save the name for this machine only: ~/NAME.")] = False,
    system: Annotated[
        str | None,
        typer.Option(
            metavar="SYSTEM", autocompletion=complete_system, help="System to copy to; by default this machine."
        ),
    ] = None,
    path: Annotated[
        str | None, typer.Option(metavar="PATH", help="Path on that system; by default NAME below its root.")
    ] = None,
    message: Message = "",
    json: AsJson = False,
) -> None:
    """Copy a directory into a new, versioned dataset.

    Copies the directory to a place of its own, saves that under a new name, and makes its first version.
    """
    import rh
    from rh.cli.place import place_of
    from rh.errors import RhError

    at = place_of(directory)
    try:
        made = rh.create_dataset(
            name.removeprefix("rh://"),
            replace(at.folder(), pin=getattr(at.resource, "pin", None)),
            glob_exclude=exclude or (),
            org=org,
            private=private,
            system=system,
            path=path,
            message=message,
        )
    except RhError as error:
        for python, words in _TYPED:
            error.hint = re.sub(python, words, error.hint) if error.hint else None
        raise
    tell_made(made, made.committed_version(), 0, message, json=json)
