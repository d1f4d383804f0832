"""`rh gc`, `rh cache …`: what is kept of versions, in stores and on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from rh.cli import show
from rh.cli.complete import complete_place
from rh.cli.options import AsJson, span_of

__all__ = ["cache_app", "gc"]

cache_app = typer.Typer(
    help="Look at what this machine keeps of versions it has read, below the setting cache_mb.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def gc(
    what: Annotated[
        str | None, typer.Argument(metavar="[rh://NAME | PLACE]", autocompletion=complete_place, show_default=False)
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Drop versions that are not of the newest N of a name."),
    ] = None,
    older_than: Annotated[
        str, typer.Option(metavar="SPAN", help="What was stored in this time stays in any case.")
    ] = "1d",
    repack: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Write packs anew of which more than this share is not needed; 1 for none."),
    ] = 0.5,
    no_runs: Annotated[bool, typer.Option("--no-runs", help="Keep nothing for the sake of recorded runs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would go.")] = False,
    json: AsJson = False,
) -> None:
    """Drop versions whose time is over, and take away the bytes that no version needs.

    Of rh://NAME, or of all names whose versions are in the same store as those of PLACE (by default, of this machine).
    The newest version of a name stays, and every one that an alias stands on or a recorded run needs. With --dry-run,
    nothing is changed.
    """
    from rh.cli.place import place_of
    from rh.cli.versions import versioned
    from rh.errors import InvalidError
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
    told = sweep(name, path, keep=keep, runs=not no_runs, dry_run=dry_run, older_than_s=age, repack=repack)
    for swept in told:
        if json:
            show.emit(swept.as_dict())
        else:
            show.line(str(swept))


@cache_app.command()
def ls(json: AsJson = False) -> None:
    """List what is kept: bytes, last use, digest; the least used first."""
    from rh.versions import cache

    found = sorted(cache.ls("objects"), key=lambda one: one.used)
    if json:
        for one in found:
            show.emit({"digest": one.name, "size": one.size, "used": one.used})
        return
    for one in found:
        show.line(f"{show.human(one.size):>10}  {show.when(one.used)}  {one.name}")
    show.line(f"{show.human(sum(one.size for one in found)):>10}  {len(found):,} files")


@cache_app.command()
def rm(
    digests: Annotated[
        list[str] | None, typer.Argument(metavar="[DIGEST]...", help="Only these files.", show_default=False)
    ] = None,
    json: AsJson = False,
) -> None:
    """Remove what is kept: it is fetched again when it is needed."""
    from rh.errors import NotFoundError
    from rh.versions import cache

    count, size = cache.rm(*(digests or ()))
    if digests and not count:
        raise NotFoundError(f"the cache has nothing of {', '.join(digests)}", hint="rh cache ls lists what it has")
    if json:
        show.emit({"removed": count, "size": size})
    else:
        show.line(f"removed {count:,} files, {show.human(size)}")


@cache_app.command()
def verify(json: AsJson = False) -> None:
    """Read all files that are kept, and remove those that are damaged: they are fetched again when they are needed."""
    from rh.versions import cache

    count, damaged = cache.verify()
    if json:
        show.emit({"files": count, "damaged": damaged})
        return
    for digest in damaged:
        show.line(f"damaged, and removed: {digest}")
    show.line(f"{count:,} files, {len(damaged):,} damaged")
