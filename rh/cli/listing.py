"""`rh ls`, `rh du`, `rh find`: what is there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from rh.cli import show
from rh.cli.complete import complete_place, one_of
from rh.cli.options import AsJson, PlaceArgument, size_of, span_of
from rh.errors import InvalidError, NotFoundError
from rh.types import Entry

__all__ = ["document", "du", "find", "ls"]

Here = Annotated[str, typer.Argument(metavar="PLACE", autocompletion=complete_place)]


def document(entry: Entry) -> dict[str, Any]:
    """An entry as plain values: what is known of it."""
    values = {"key": entry.key, **{name: value for name, value in entry._asdict().items() if value is not None}}
    return values | ({} if entry.kind != "dir" else {"size": None})


def ls(
    place: Here = ".",
    long: Annotated[bool, typer.Option("--long", "-l", help="Size, time and kind of each.")] = False,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Everything below, not only this level.")
    ] = False,
    json: AsJson = False,
) -> None:
    """List a directory, or show a file. Directories end with a slash."""
    from rh.cli.place import place_of

    at = place_of(place)
    entry = at.entry()
    entries = iter([entry]) if entry is not None else _below(at, recursive=recursive)
    rows = []
    for entry in entries:
        if json:
            show.emit(document(entry))
        elif long:
            size = "-" if entry.kind == "dir" else f"{entry.size:,}"
            arrow = f" -> {entry.target}" if entry.target is not None else ""
            mark = "*" if entry.executable else ""
            rows.append([size, show.when(entry.modified), f"{entry.key}{mark}{arrow}"])
            if len(rows) == 1000:  # as wide as these; a long listing must not wait for its end
                show.table(rows, right=[0])
                rows.clear()
        else:
            show.line(entry.key)
    show.table(rows, right=[0])


def _below(at: Any, *, recursive: bool) -> Iterator[Entry]:
    try:
        entries = at.system().list(depth=None if recursive else 1)
        first = next(iter(entries), None)
    except NotFoundError:
        first = None
    if first is None:
        at.kind()  # says so if nothing is there at all
        return
    yield first
    yield from entries


def du(
    place: Here = ".",
    exact: Annotated[bool, typer.Option("--bytes", "-b", help="Sizes in bytes.")] = False,
    json: AsJson = False,
) -> None:
    """Add up files and bytes, directory by directory."""
    from rh.cli.place import place_of

    at = place_of(place)
    sums: dict[str, list[int]] = {}
    entry = at.entry()
    for found in iter([entry]) if entry is not None else _below(at, recursive=True):
        name, slash, _ = found.key.partition("/")
        total = sums.setdefault(name + slash, [0, 0])
        if found.kind != "dir":
            total[0] += 1
            total[1] += found.size
    whole: dict[str, Any] = {
        "key": "",
        "files": sum(n for n, _ in sums.values()),
        "size": sum(size for _, size in sums.values()),
    }
    documents: list[dict[str, Any]] = [
        {"key": key, "files": n, "size": size} for key, (n, size) in sums.items() if key.endswith("/")
    ]
    documents.append(whole | {"place": at.url})
    if json:
        for one in documents:
            show.emit(one)
        return
    show.table(
        [
            [f"{one['size']:,}" if exact else show.human(one["size"]), f"{one['files']:,} files", one["key"] or at.url]
            for one in documents
        ],
        right=[0, 1],
    )


def find(
    place: PlaceArgument,
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="*, ? and [] stay in one name, ** goes through directories.")
    ] = "**",
    kind: Annotated[
        str | None,
        typer.Option(
            "--type",
            "-t",
            metavar="f|d|l",
            autocompletion=one_of("f", "d", "l"),
            help="Only these: f (files), d (directories), l (links).",
        ),
    ] = None,
    larger: Annotated[str | None, typer.Option(metavar="SIZE", help="Only files of at least this size: 10M.")] = None,
    smaller: Annotated[str | None, typer.Option(metavar="SIZE", help="Only files of at most this size.")] = None,
    newer: Annotated[str | None, typer.Option(metavar="SPAN", help="Only what changed in the last 2d, 3h, …")] = None,
    null: Annotated[bool, typer.Option("--null", "-0", help="End each name with NUL (for xargs -0).")] = False,
    json: AsJson = False,
) -> None:
    """Find files by name, size and age.

    Names are below PLACE.
    """
    import sys

    from rh.cli.place import place_of

    wanted = {None: None, "f": "file", "d": "dir", "l": "link"}
    if kind not in wanted:
        raise InvalidError(f"--type {kind!r} is not one of f, d, l")
    least, most, span = size_of(larger, "--larger"), size_of(smaller, "--smaller"), span_of(newer, "--newer")
    since = None if span is None else time.time() - span
    at = place_of(place)
    if at.kind() != "tree":
        raise NotFoundError("that is a file; nothing is in it", where=at.url)
    for entry in _matching(at.folder(), pattern):
        sized = least is not None or most is not None
        if (
            (wanted[kind] is not None and entry.kind != wanted[kind])
            or (sized and entry.kind == "dir")
            or (least is not None and entry.size < least)
            or (most is not None and entry.size > most)
            or (since is not None and (entry.modified is None or entry.modified < since))
        ):
            continue
        if json:
            show.emit(document(entry))
        elif null:
            sys.stdout.write(entry.key + "\0")
        else:
            show.line(entry.key)


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
    import re

    return re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]
