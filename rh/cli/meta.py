"""`rh meta …`: tags and properties of resources, versions and files."""

from __future__ import annotations

import json as json_
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rh.cli import show
from rh.cli.options import AsJson, PlaceArgument
from rh.cli.versions import VersionName

if TYPE_CHECKING:
    from rh.resources.base import Resource

__all__ = ["app"]

app = typer.Typer(
    help="""Set tags and properties of resources, versions, files.

    NAME is the resource itself, NAME:v3 a version, NAME PATH a file in it. A property is a number, text, or true or
    false; its first use sets its type. Search by them with rh find.
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)

Path = Annotated[str | None, typer.Argument(metavar="[PATH]", help="A file in the folder.", show_default=False)]
Tags = Annotated[list[str] | None, typer.Option("--tag", "-t", metavar="WORD", help="A tag; repeatable.")]


@app.command()
def get(name: VersionName, path: Path = None, json: AsJson = False) -> None:
    """Show tags and properties."""
    resource = _loaded(name)
    found = resource.annotations(path)
    if json:
        show.emit({"name": resource.name, "version": _version(resource), "file": path, **found})
        return
    _show(found)


@app.command("set")
def set_some(
    name: VersionName,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH] PROPERTY=VALUE…", help="A value is read as JSON, else as text.", show_default=False
        ),
    ] = None,
    tag: Tags = None,
    json: AsJson = False,
) -> None:
    """Set properties and add tags.

    rh meta set cats stage=train; rh meta set cats img/1.png label=cat score=0.9 --tag gold
    """
    from rh.errors import InvalidError

    path, pairs = _split(words or [])
    if not pairs and not tag:
        raise InvalidError("nothing to set", hint="PROPERTY=VALUE, or --tag WORD")
    metadata = dict(_pair(word) for word in pairs)
    _told(_loaded(name).annotate(path, metadata=metadata, tags=tag or ()), path, json=json)


@app.command()
def rm(
    name: VersionName,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="PROPERTY…", help="Names of properties to remove.", show_default=False)
    ] = None,
    file: Annotated[str | None, typer.Option(metavar="PATH", help="A file in the folder.")] = None,
    tag: Tags = None,
    json: AsJson = False,
) -> None:
    """Remove properties and tags."""
    from rh.errors import InvalidError

    if not words and not tag:
        raise InvalidError("nothing to take away", hint="PROPERTY, or --tag WORD")
    _told(_loaded(name).annotate(file, remove=words or (), untag=tag or ()), file, json=json)


@app.command("import")
def import_all(name: VersionName, place: PlaceArgument, json: AsJson = False) -> None:
    """Set properties of many files from a table.

    The table at PLACE is CSV, JSON lines, Parquet or Arrow. Its column `file` has the paths, and the optional column
    `tags` lists of words. Empty cells set nothing.
    """
    from rh.cli.place import place_of
    from rh.resources.importing import import_properties

    resource, at = _loaded(name), place_of(place)
    directory = at.kind() == "tree"  # raises if nothing is there
    files = import_properties(resource, at.location, place, directory=directory)
    if json:
        show.emit({"name": resource.name, "files": files})
    else:
        show.line(f"{resource.name}: {files:,} files")


def _loaded(name: str) -> Resource:
    from rh.errors import NotFoundError
    from rh.resources import base

    try:
        return base.load(name.removeprefix("rh://"), dryrun=True)
    except NotFoundError as error:
        if "path=" in (error.hint or ""):
            error.hint = "rh resources lists the names there are"
        raise


def _version(resource: Resource) -> str | None:
    version: str | None = getattr(resource, "version", None)
    return version if resource.kind != "view" else None


def _split(words: list[str]) -> tuple[str | None, list[str]]:
    """The path, if the first word is one, and the other words."""
    if words and "=" not in words[0]:
        return words[0], words[1:]
    return None, words


def _pair(word: str) -> tuple[str, Any]:
    from rh.errors import InvalidError

    name, sign, text = word.partition("=")
    if not sign or not name:
        raise InvalidError(f"{word!r} sets nothing", hint="PROPERTY=VALUE")
    try:
        value = json_.loads(text)
    except ValueError:
        return name, text
    return name, text if value is None else value


def _told(resource: Resource, path: str | None, *, json: bool) -> None:
    found = resource.annotations(path)
    if json:
        show.emit({"name": resource.name, "version": _version(resource), "file": path, **found})
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    rows = [["tags", ", ".join(found["tags"])]] if found["tags"] else []
    rows += [
        [name, value if isinstance(value, str) else json_.dumps(value)] for name, value in found["metadata"].items()
    ]
    show.table(rows)
