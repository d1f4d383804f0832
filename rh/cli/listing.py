"""`rh ls`, `rh du`: what is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from rh.cli import show
from rh.cli.complete import complete_place
from rh.cli.options import AsJson
from rh.errors import InvalidError, NotFoundError
from rh.types import Entry

__all__ = ["document", "du", "ls"]

Here = Annotated[str, typer.Argument(metavar="PLACE", autocompletion=complete_place)]


def document(entry: Entry) -> dict[str, Any]:
    """An entry as plain values: what is known of it."""
    values = {"key": entry.key, **{name: value for name, value in entry._asdict().items() if value is not None}}
    return values | ({} if entry.kind != "dir" else {"size": None})


def ls(
    place: Here = ".",
    long: Annotated[bool, typer.Option("--long", "-l", help="Show size, time and kind of each entry.")] = False,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="List everything below, not only this level.")
    ] = False,
    json: AsJson = False,
) -> None:
    """List a directory, or show a file.

    Directories end with a slash. rh ls s3:// lists the buckets, and rh ls rh:// the saved names, as rh resources does.
    """
    from rh.cli.place import place_of

    if place in ("rh://", "rh:///"):
        from rh.cli.names import resources

        resources(None, long=long, json=json)
        return
    entries = _buckets(place, recursive=recursive)
    if entries is None:
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


def _buckets(place: str, *, recursive: bool) -> Iterator[Entry] | None:
    """The buckets that are meant by `s3://` and the like; `None` for any other place."""
    from rh.systems import buckets, system_of_buckets

    system = system_of_buckets(place)
    if system is None:
        return None
    if recursive:
        raise InvalidError("everything of all buckets is too much", where=place, hint=f"name one: {place}BUCKET")
    return (Entry(f"{name}/", 0, "dir") for name in buckets(system))


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
    exact: Annotated[bool, typer.Option("--bytes", "-b", help="Show sizes in bytes.")] = False,
    json: AsJson = False,
) -> None:
    """Show the number and size of files for each directory."""
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
