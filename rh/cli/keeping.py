"""`rh gc`, `rh cache …`: what is kept of versions, in stores and on this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from rh.cli import show
from rh.cli.complete import complete_place
from rh.cli.options import AsJson, span_of

if TYPE_CHECKING:
    from rh.versions.cache import Kept

__all__ = ["cache_app", "gc"]

cache_app = typer.Typer(
    help="""Inspect, verify and clear the local cache.

    It keeps what this machine has read from elsewhere, up to the size set by cache_mb.
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)


def gc(
    what: Annotated[
        str | None, typer.Argument(metavar="[rh://NAME | PLACE]", autocompletion=complete_place, show_default=False)
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Keep only the newest N versions of each name."),
    ] = None,
    older_than: Annotated[str, typer.Option(metavar="SPAN", help="Never delete data stored within this time.")] = "1d",
    repack: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Repack packs of which more than this share is unused; 1 for none."),
    ] = 0.5,
    no_runs: Annotated[bool, typer.Option("--no-runs", help="Do not keep versions for recorded runs.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show what would be deleted, and delete nothing.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Delete expired versions and data no version uses.

    Applies to rh://NAME, or to all names whose versions are in the same store as those of PLACE (by default, of this
    machine). The newest version of a name is always kept, and so is every version that an alias points to or a recorded
    run needs. With --dry-run, nothing is changed.
    """
    from rh.cli.place import place_of
    from rh.cli.versions import versioned
    from rh.errors import InvalidError, NotFoundError
    from rh.resources import base
    from rh.resources.sweeping import gc as sweep

    age = span_of(older_than, "--older-than") or 0.0
    name = path = None
    if what is not None and what.startswith("rh://"):
        name = versioned(what, bare=True)[0].name
    elif what is not None and ":" not in what and "/" not in what and base.exists(what):
        raise InvalidError(f"{what!r} is a path here, and a saved name", hint=f"rh gc rh://{what}, or rh gc ./{what}")
    elif what is not None:
        path = place_of(what).url
        if what.startswith("/") and not os.path.lexists(what) and _is_name(what):
            raise NotFoundError(
                "nothing is there, and a saved name is called like that", where=what, hint=f"rh gc rh://{what}"
            )
    told = sweep(name, path, keep=keep, runs=not no_runs, dry_run=dry_run, older_than_s=age, repack=repack)
    for swept in told:
        if json:
            show.emit(swept.as_dict())
        else:
            show.line(str(swept))


def _is_name(text: str) -> bool:
    from rh.errors import RhError
    from rh.resources import base

    try:
        return base.exists(text)
    except RhError:
        return False  # it can be none, or the registry does not answer


@cache_app.command()
def ls(json: AsJson = False) -> None:
    """List cached data, least recently used first.

    Shows size, last use, and the digest or the place it is a copy of. A copy made by .local() is marked with * while a
    process that asked for it is alive.
    """
    from rh.versions import cache

    kept = sorted(cache.ls(), key=lambda one: one.used)
    found = [one for one in kept if one.kind in cache.READ]
    if json:
        for one in found:
            document = {"kind": one.kind, _called(one): one.name, "size": one.size, "used": one.used}
            show.emit(document | ({"in_use": one.in_use} if _called(one) == "copy_of" else {}))
        return
    for one in found:
        mark = "*" if one.in_use else ""
        show.line(f"{show.human(one.size):>10}  {show.when(one.used)}  {_shown(one)}{mark}")
    rest = sum(one.size for one in kept) - sum(one.size for one in found)
    show.line(f"{show.human(sum(one.size for one in found)):>10}  {len(found):,} entries")
    if rest:
        show.line(f"{show.human(rest):>10}  directories of versions")


def _called(one: Kept) -> str:
    """What the name of an entry is."""
    return {"objects": "digest", "packs": "stretch"}.get(one.kind, "copy_of")


def _shown(one: Kept) -> str:
    return {"digest": "", "stretch": "pack ", "copy_of": "copy of "}[_called(one)] + one.name


@cache_app.command()
def rm(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DIGEST | PLACE]...", help="Only these entries, as shown by ls.", show_default=False),
    ] = None,
    json: AsJson = False,
) -> None:
    """Remove cached data; it is fetched again when needed.

    Copies made by .local() stay while a process that asked for them is alive.
    """
    from rh.errors import NotFoundError
    from rh.versions import cache, copies

    count, size = cache.rm(*(names or ()))
    left = [one for one in copies.ls() if one.in_use and (not names or one.url in names)]
    if names and not count and not left:
        raise NotFoundError(f"the cache has nothing of {', '.join(names)}", hint="rh cache ls lists what it has")
    if json:
        show.emit({"removed": count, "size": size, "in_use": len(left)})
        return
    show.line(f"removed {count:,} entries, {show.human(size)}")
    if left:
        size = sum(one.size for one in left)
        show.tell(f"{show.human(size)} stay: {len(left):,} copies that living processes asked for")


@cache_app.command()
def verify(json: AsJson = False) -> None:
    """Read all cached data again, and remove what is damaged.

    What is removed is fetched again when needed.
    """
    from rh.versions import cache

    count, damaged = cache.verify()
    if json:
        show.emit({"files": count, "damaged": damaged})
        return
    for name in damaged:
        show.line(f"damaged, and removed: {name}")
    show.line(f"{count:,} entries, {len(damaged):,} damaged")
