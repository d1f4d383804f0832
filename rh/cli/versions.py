"""`rh commit`, `rh version …`, `rh alias …`: versions of what is saved under a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rh.cli import exit as codes
from rh.cli import show
from rh.cli.complete import complete_name, complete_version
from rh.cli.names import told
from rh.cli.options import AsJson, PlaceArgument, SavedName, name_meant, span_of

if TYPE_CHECKING:
    from rh.resources.versioned import Versioned
    from rh.transfer import Verification
    from rh.versions.series import Version

__all__ = ["alias_app", "commit", "newest_of", "tell_made", "version_app", "versioned"]

version_app = typer.Typer(
    help="""List, compare, verify, export and forget versions.

    NAME is the newest version of a saved name; NAME:v3, NAME:production or NAME@sha256:… is another one. In ls, cat,
    cp and every other command that only reads, rh://NAME:v3/path is a path in a version.
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)
alias_app = typer.Typer(
    help="""Point labels such as 'production' at versions.

    The alias 'latest' moves automatically.
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)

VersionName = Annotated[
    str,
    typer.Argument(metavar="NAME[:VERSION]", autocompletion=complete_name, callback=name_meant, show_default=False),
]
Message = Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Message that says what changed.")]
Aliases = Annotated[
    list[str] | None, typer.Option("--alias", "-a", help="Point this alias at the version; repeatable.")
]
Tags = Annotated[list[str] | None, typer.Option("--tag", "-t", help="Tag to find the version by; repeatable.")]
Alias = Annotated[str, typer.Argument(metavar="ALIAS", show_default=False)]


def commit(
    name: SavedName,
    message: Message = "",
    alias: Aliases = None,
    tag: Tags = None,
    ttl: Annotated[
        str | None, typer.Option(metavar="SPAN", help="rh gc may delete it after this time, such as 30d.")
    ] = None,
    parent: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Only if this is currently the newest version.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Save the current data of a name as a new version.

    Only data that no version has yet is stored. If nothing changed, no version is made, and --alias and --tag apply to
    the newest one.
    """
    from rh.resources import base

    with told("commit", _bare(name)):
        resource = _of_versions(base.load(_bare(name)))
    newest = newest_of(resource)
    made = resource.commit(message, aliases=alias or (), tags=tag or (), parent=parent, ttl=span_of(ttl, "--ttl"))
    tell_made(resource, made, newest, message, json=json)
    if ttl is not None and made.number <= newest:
        show.tell(f"rh: --ttl is not kept: {made.label} stays as it is")


@version_app.command()
def ls(name: SavedName, json: AsJson = False) -> None:
    """List the versions of a name, newest first."""
    resource, _ = versioned(name, bare=True)
    found = resource.versions()[::-1]
    if json:
        for version in found:
            show.emit(_document(resource, version))
        return
    show.table(
        [
            [one.label, ",".join(one.aliases), show.when(one.time), one.author, f"{one.files:,}", show.human(one.size),
             one.message]
            for one in found
        ],
        right=(4, 5),
    )  # fmt: skip


@version_app.command("show")
def show_one(name: VersionName, json: AsJson = False) -> None:
    """Show everything known about a version."""
    resource, which = versioned(name)
    version = resource.series_of().get(which)
    document = _document(resource, version)
    if json:
        show.emit(document)
        return
    document |= {
        "time": show.when(version.time),
        "expires": None if version.expires is None else show.when(version.expires),
        "files": f"{version.files:,}",
        "size": f"{version.size:,} ({show.human(version.size)})",
        "aliases": ", ".join(version.aliases),
        "tags": ", ".join(version.tags),
    }
    show.table([key, str(value)] for key, value in document.items() if value not in (None, "", {}, []))


@version_app.command()
def diff(
    old: VersionName,
    new: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME[:VERSION]]",
            help="By default, the newest version of the same name.",
            autocompletion=complete_name,
            callback=name_meant,
            show_default=False,
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Show the changes between two versions.

    Lists what was added, removed, modified or renamed. No file is read. With --json, one document per change.
    """
    from rh.versions.diff import diff as compare
    from rh.versions.store import Store

    resource, which = versioned(old)
    other = (resource, None) if new is None else versioned(new)
    a, b = (one.series_of().get(which) for one, which in ((resource, which), other))
    stores = Store.at(a.store), Store.at(b.store)
    found = compare(stores[0].tree(a.digest), stores[1].tree(b.digest), *stores)
    if json:
        for change in found:
            show.emit(change.as_dict())
        return
    for change in found:
        show.line(str(change))
    show.line(found.summary())


@version_app.command()
def verify(name: VersionName, json: AsJson = False) -> None:
    """Read every byte of a version again, and verify it.

    Compares stored bytes with their digests. Exits with 6 if something is damaged or lost or, where the version only
    refers to a file, that has changed.
    """
    resource, which = versioned(name)
    _tell_verified(resource.at(which or "latest").check_version(), json=json)


@version_app.command()
def repair(
    name: VersionName,
    source: Annotated[
        str | None, typer.Option("--from", metavar="PLACE", help="Read the bytes from here, not from the live files.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Repair lost or damaged data of a version.

    Writes it to the store again from files that have the bytes, and verifies the version afterwards. Exits with 6 if
    something is still damaged or lost.
    """
    from rh.cli.place import place_of

    resource, which = versioned(name)
    found = resource.repair(which or "latest", None if source is None else place_of(source).url)
    if not (found.ok or json):
        has = "the live files have not all of its bytes" if source is None else f"{source} has not all of its bytes"
        show.tell(f"rh: {has}\n  fix: rh version repair {name} --from PLACE, where PLACE has another copy")
    _tell_verified(found, json=json)


@version_app.command("export")
def export_one(
    name: VersionName,
    place: PlaceArgument,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    json: AsJson = False,
) -> None:
    """Export a version, with all its files, to one file.

    PLACE is the file to write.
    """
    from rh.cli.place import place_of

    resource, which = versioned(name)
    version = resource.series_of().get(which)
    at = place_of(place)
    size = resource.export(at.url, version.label, overwrite=overwrite)
    if json:
        show.emit({"name": resource.name, "version": version.label, "place": at.url, "size": size})
    else:
        show.line(f"{resource.name}:{version.label} → {at.url}: {show.human(size)}")


@version_app.command("import")
def import_one(
    place: PlaceArgument,
    name: SavedName,
    message: Message = "",
    alias: Aliases = None,
    tag: Tags = None,
    json: AsJson = False,
) -> None:
    """Import an exported version as the newest of a name.

    PLACE is a file written by `rh version export`; it is verified as a whole first. The live files of the name are not
    changed.
    """
    from rh.cli.place import place_of

    resource, _ = versioned(name, bare=True)
    newest = newest_of(resource)
    made = resource.import_(place_of(place).url, message, aliases=alias or (), tags=tag or ())
    tell_made(resource, made, newest, message, json=json)


@version_app.command()
def rm(name: VersionName, json: AsJson = False) -> None:
    """Forget a version.

    Its number is not used again, and its bytes are deleted by the next rh gc. The newest version and versions that an
    alias points to are kept.
    """
    from rh.errors import InvalidError
    from rh.versions.gc import drop
    from rh.versions.store import Store

    resource, which = versioned(name)
    if which is None:
        raise InvalidError(f"{resource.name} names no version", hint=f"rh version rm {resource.name}:v1")
    series = resource.series_of()
    version = series.get(which)
    drop(series, Store.at(version.store), version)
    if json:
        show.emit({"name": resource.name, "forgotten": version.label})
    else:
        show.line(f"{resource.name}:{version.label} is forgotten")


@alias_app.command("set")
def set_one(
    name: SavedName,
    alias: Alias,
    version: Annotated[
        str,
        typer.Argument(metavar="[VERSION]", help="v3, another alias or a digest.", autocompletion=complete_version),
    ] = "latest",
    expect: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Only if the alias points there now ('none': nowhere).")
    ] = None,
    json: AsJson = False,
) -> None:
    """Point an alias at a version."""
    resource, _ = versioned(name, bare=True)
    wanted: Any = ... if expect is None else None if expect == "none" else expect
    _tell(resource, resource.alias(alias, version, expect=wanted), json=json)


@alias_app.command("rm")
def remove_one(name: SavedName, alias: Alias, json: AsJson = False) -> None:
    """Remove an alias; the version stays."""
    resource, _ = versioned(name, bare=True)
    resource.unalias(alias)
    if json:
        show.emit({"name": resource.name, "alias": alias, "version": None})
    else:
        show.line(f"{resource.name} has no alias {alias} any more")


@alias_app.command("ls")
def list_all(name: SavedName, json: AsJson = False) -> None:
    """List the aliases of a name and their versions."""
    resource, _ = versioned(name, bare=True)
    found = resource.aliases()
    if json:
        for alias, version in found.items():
            show.emit({"alias": alias, "version": version})
    else:
        show.table([alias, version] for alias, version in found.items())


@alias_app.command()
def history(name: SavedName, alias: Alias, json: AsJson = False) -> None:
    """List all moves of an alias, oldest first."""
    resource, _ = versioned(name, bare=True)
    for move in resource.alias_history(alias):
        label = None if move.version is None else f"v{move.version}"
        if json:
            show.emit({"alias": alias, "version": label, "author": move.author, "time": move.time})
        else:
            show.line(f"{label or '-':<6}  {show.when(move.time)}  {move.author}")


def versioned(name: str, *, bare: bool = False) -> tuple[Versioned, str | None]:
    """The resource that a name means, and the version; with `bare`, a name that names a version is refused."""
    from rh.errors import InvalidError
    from rh.registry import names
    from rh.resources import base

    with told():
        whole = names.parse(_bare(name))
        if bare and whole.pinned:
            raise InvalidError(f"{whole} names a version; the name is {whole.path}")
        return _of_versions(base.load(whole.path, dryrun=True)), whole.pinned


def _of_versions(resource: Any) -> Versioned:
    from rh.errors import InvalidError
    from rh.resources.versioned import Versioned

    if not isinstance(resource, Versioned):
        raise InvalidError(f"{resource.name} is a {resource.kind}, which has no versions")
    return resource


def _document(resource: Versioned, version: Version) -> dict[str, Any]:
    return {"name": resource.name, **version.as_dict()}


def _tell(resource: Versioned, version: Version, *, json: bool) -> None:
    if json:
        show.emit(_document(resource, version))
    else:
        show.line(f"{resource.name}:{version}")


def newest_of(resource: Versioned) -> int:
    """The number of the newest version; 0 where there is none."""
    from rh.errors import NotFoundError

    try:
        return resource.series_of().latest() or 0
    except NotFoundError:
        return 0


def tell_made(resource: Versioned, version: Version, newest: int, message: str, *, json: bool) -> None:
    """The version that is the newest now, and whether it was made: before, `newest` was."""
    is_new = version.number > newest
    if json:
        show.emit({**_document(resource, version), "new": is_new})
        return
    show.line(("" if is_new else "nothing new: it is ") + f"{resource.name}:{version}")
    if message and not is_new:
        show.tell(f"rh: the message is not kept: {version.label} has its own")


def _tell_verified(found: Verification, *, json: bool) -> None:
    if json:
        show.emit(found.as_dict())
    else:
        show.line(str(found).rstrip())
    if not found.ok:
        raise typer.Exit(codes.INTEGRITY)


def _bare(name: str) -> str:
    return name.removeprefix("rh://")
