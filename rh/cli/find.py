"""`rh find`: what is saved, by its tags and properties; or files at a place."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from rh.cli import listing, show
from rh.cli.complete import complete_name, complete_place, one_of
from rh.cli.options import AsJson, prefix_meant, size_of, span_of
from rh.errors import InvalidError, NotFoundError
from rh.types import Entry

__all__ = ["find"]

_WILD = re.compile(r"[*?\[]")
_OF_FILES = ("--type", "--larger", "--smaller", "--newer", "--null")


def find(
    place: Annotated[
        str | None, typer.Argument(metavar="[PLACE]", autocompletion=complete_place, show_default=False)
    ] = None,
    pattern: Annotated[
        str, typer.Argument(metavar="[PATTERN]", help="*, ? and [] match within one name, ** across directories.")
    ] = "**",
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help="Condition on properties: 'accuracy > 0.9 and stage == \"train\"'."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="WORD", help="Only with this tag; repeatable.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            autocompletion=one_of("folder", "table", "blob", "cluster", "view"),
            help="Only this kind: folder, table, blob, cluster or view; repeatable.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="PATTERN", help="Only names that match: '/org/*'.")] = None,
    prefix: Annotated[
        str,
        typer.Option(
            metavar="PREFIX",
            autocompletion=complete_name,
            callback=prefix_meant,
            help="Only names below ~, @ or /org/team.",
        ),
    ] = "/",
    produced_by: Annotated[str | None, typer.Option(metavar="RUN", help="Only versions produced by this run.")] = None,
    created_after: Annotated[
        str | None, typer.Option(metavar="DATE", help="Only what was saved after this date: 2026-11-21.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(metavar="DATE", help="Search the registry as it was at this time.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Of what is saved: so many at most.")] = None,
    entry_type: Annotated[
        str | None,
        typer.Option(
            "--type",
            "-t",
            metavar="f|d|l",
            autocompletion=one_of("f", "d", "l"),
            help="At PLACE: only f (files), d (directories) or l (links).",
        ),
    ] = None,
    larger: Annotated[str | None, typer.Option(metavar="SIZE", help="At PLACE: files of at least this size.")] = None,
    smaller: Annotated[str | None, typer.Option(metavar="SIZE", help="At PLACE: files of at most this size.")] = None,
    newer: Annotated[str | None, typer.Option(metavar="SPAN", help="At PLACE: changed in the last 2d, 3h, …")] = None,
    null: Annotated[bool, typer.Option("--null", "-0", help="End each name with NUL (for xargs -0).")] = False,
    json: AsJson = False,
) -> None:
    """Find saved data and versions, or files at a place.

    Without PLACE, finds saved resources and their versions by tags and properties, newest first. With PLACE, finds
    files there by name, size and age; names are relative to PLACE. With a saved PLACE (rh://NAME, rh://NAME:v3), also
    by tags and properties.
    """
    of_files = dict(zip(_OF_FILES, (entry_type, larger, smaller, newer, null or None), strict=True))
    of_saved = {
        "--kind": kind, "--name": name, "--produced-by": produced_by, "--created-after": created_after,
        "--as-of": as_of, "--limit": limit, "--prefix": None if prefix == "/" else prefix,
    }  # fmt: skip
    wrong = [option for option, value in (of_files if place is None else of_saved).items() if value is not None]
    if wrong:
        raise InvalidError(
            f"{wrong[0]} is about {'files at a place' if place is None else 'what is saved, without a place'}",
            hint="rh find PLACE …" if place is None else "rh find … without PLACE",
        )
    if place is None:
        _saved(
            kind=kind, name=name, tags=tag or (), where=where, produced_by=produced_by, created_after=created_after,
            as_of=as_of, prefix=prefix, limit=limit, json=json,
        )  # fmt: skip
    elif where is None and not tag:
        _listed(place, pattern, entry_type, larger=larger, smaller=smaller, newer=newer, null=null, json=json)
    else:
        wrong = [option for option, value in of_files.items() if value is not None and option != "--null"]
        if wrong or pattern != "**":
            raise InvalidError(f"{wrong[0] if wrong else pattern} does not go with --where and --tag")
        _files(place, where, tag or [], null=null, json=json)


def _saved(*, json: bool, **asked: object) -> None:
    import rh

    found = rh.find(**asked)  # type: ignore[arg-type]
    if json:
        for document in found.as_dicts():
            show.emit(document)
    else:
        show.table(found.rows())


def _files(place: str, where: str | None, tags: list[str], *, null: bool, json: bool) -> None:
    import sys

    from rh.cli.place import saved
    from rh.registry.filters import All, Compare
    from rh.resources.folder import Folder
    from rh.versions.properties import condition

    if not place.startswith("rh://"):
        raise InvalidError("--where and --tag are about files of what is saved", hint="rh find rh://NAME --where …")
    folder, rest = saved(place.removeprefix("rh://").rstrip("/"))
    if not isinstance(folder, Folder) or rest:
        raise InvalidError("--where and --tag need a saved folder, whole", hint="rh find rh://NAME --where …")
    wanted = (*(Compare("tags", "==", (tag,)) for tag in tags), *(() if where is None else (condition(where),)))
    view = folder.query(All(wanted))
    for row in view.properties():
        if json:
            show.emit(row)
        elif null:
            sys.stdout.write(row["file"] + "\0")
        else:
            show.line(row["file"])


def _listed(
    place: str,
    pattern: str,
    entry_type: str | None,
    *,
    larger: str | None,
    smaller: str | None,
    newer: str | None,
    null: bool,
    json: bool,
) -> None:
    """Tell what is at a place, by name, size and age."""
    import sys

    from rh.cli.place import place_of

    wanted = {None: None, "f": "file", "d": "dir", "l": "link"}
    if entry_type not in wanted:
        raise InvalidError(f"--type {entry_type!r} is not one of f, d, l")
    least, most, span = size_of(larger, "--larger"), size_of(smaller, "--smaller"), span_of(newer, "--newer")
    since = None if span is None else time.time() - span
    at = place_of(place)
    try:
        found = at.kind()
    except NotFoundError as error:
        if pattern == "**" and _WILD.search(place):
            error.hint = f"a PATTERN comes after the PLACE: rh find . '{_anywhere(place)}'"
        raise
    if found != "tree":
        raise NotFoundError("that is a file; nothing is in it", where=at.url)
    none = True
    # What is listed by itself are files and empty directories.
    for entry in _matching(at.folder(), "**/*" if pattern == "**" and entry_type == "d" else pattern):
        none = False
        sized = least is not None or most is not None
        if (
            (wanted[entry_type] is not None and entry.kind != wanted[entry_type])
            or (sized and entry.kind == "dir")
            or (least is not None and entry.size < least)
            or (most is not None and entry.size > most)
            or (since is not None and (entry.modified is None or entry.modified < since))
        ):
            continue
        if json:
            show.emit(listing.document(entry))
        elif null:
            sys.stdout.write(entry.key + "\0")
        else:
            show.line(entry.key)
    if none and "/" not in pattern and _WILD.search(pattern) and not json:
        show.tell(f"rh: {pattern} stays in one directory, and nothing there matches; '{_anywhere(pattern)}' goes below")


def _anywhere(pattern: str) -> str:
    return pattern if "/" in pattern else f"**/{pattern}"


def _matching(folder: Any, pattern: str) -> Iterator[Entry]:
    """Entries whose key matches, in key order."""
    if pattern == "**":
        yield from folder.handle().list()
        return
    keys = set(folder.glob(pattern))
    yielded: set[str] = set()
    for entry in folder.handle().list(_literal(pattern)):
        steps = entry.key.rstrip("/").split("/")
        for depth in range(1, len(steps)):
            directory = "/".join(steps[:depth]) + "/"
            if directory in keys and directory not in yielded:
                yielded.add(directory)
                yield Entry(directory, 0, "dir")
        if entry.key in keys and entry.key not in yielded:
            yielded.add(entry.key)
            yield entry


def _literal(pattern: str) -> str:
    """What every match begins with."""
    return _WILD.split(pattern, maxsplit=1)[0].rpartition("/")[0]
