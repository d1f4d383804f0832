"""`rh cp`, `rh sync`, `rh plan`, `rh verify`: from one place to another."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rh.cli import exit as codes
from rh.cli import show
from rh.cli.complete import complete_place
from rh.cli.options import AsJson, Exclude, Include, NoProgress, PlaceArgument, size_of

__all__ = ["cp", "plan", "sync", "verify"]

Source = Annotated[str, typer.Argument(metavar="SOURCE", autocompletion=complete_place, show_default=False)]
Target = Annotated[str, typer.Argument(metavar="TARGET", autocompletion=complete_place, show_default=False)]
Links = Annotated[
    str, typer.Option(metavar="HOW", help="follow: copy what links point to; keep: the links; skip; error.")
]
OnExisting = Annotated[
    str, typer.Option(metavar="HOW", help="update: move what differs; skip what exists; error; replace everything.")
]
IgnoreFile = Annotated[bool, typer.Option("--ignore-file/--no-ignore-file", help="Obey .rhignore in the source.")]
Names = Annotated[
    str, typer.Option(metavar="HOW", help="Keys the target cannot hold: refuse, encode (%XX), or decode.")
]
Workers = Annotated[int | None, typer.Option(metavar="N", help="Requests under way at once.")]
Bandwidth = Annotated[str | None, typer.Option(metavar="SIZE", help="Bytes per second at most, as 10M.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would be done, and do nothing.")]
Delete = Annotated[bool, typer.Option("--delete", help="Remove what TARGET has and SOURCE has not.")]


def cp(
    source: Source,
    target: Target,
    include: Include = None,
    exclude: Exclude = None,
    ignore_file: IgnoreFile = True,
    links: Links = "follow",
    on_existing: OnExisting = "update",
    names: Names = "refuse",
    dry_run: DryRun = False,
    workers: Workers = None,
    bandwidth: Bandwidth = None,
    no_progress: NoProgress = False,
    json: AsJson = False,
) -> None:
    """Copy a file or a directory; nothing is deleted.

    TARGET becomes the copy: what is in a directory SOURCE lies directly in TARGET afterwards, whether that existed or
    not. A file is copied into TARGET if that ends with a slash or is a directory.
    """
    _transfer(
        source, target, True, json, no_progress,
        include=include, exclude=exclude, ignore_file=ignore_file, links=links, on_existing=on_existing, names=names,
        dry_run=dry_run, workers=workers, bandwidth=bandwidth,
    )  # fmt: skip


def sync(
    source: Source,
    target: Target,
    delete: Delete = False,
    include: Include = None,
    exclude: Exclude = None,
    ignore_file: IgnoreFile = True,
    links: Links = "follow",
    on_existing: OnExisting = "update",
    names: Names = "refuse",
    dry_run: DryRun = False,
    workers: Workers = None,
    bandwidth: Bandwidth = None,
    no_progress: NoProgress = False,
    json: AsJson = False,
) -> None:
    """Bring a directory up to date with another.

    With --delete what SOURCE has not is removed from TARGET.
    """
    _transfer(
        source, target, False, json, no_progress,
        include=include, exclude=exclude, ignore_file=ignore_file, links=links, on_existing=on_existing, names=names,
        dry_run=dry_run, workers=workers, bandwidth=bandwidth, delete=delete,
    )  # fmt: skip


def plan(
    source: Source,
    target: Target,
    steps: Annotated[bool, typer.Option("--steps", help="Every step, one by one.")] = False,
    delete: Delete = False,
    include: Include = None,
    exclude: Exclude = None,
    ignore_file: IgnoreFile = True,
    links: Links = "follow",
    on_existing: OnExisting = "update",
    names: Names = "refuse",
    json: AsJson = False,
) -> None:
    """Say what a copy would move, and by which road.

    Nothing is changed.
    """
    options = _options(
        include=include, exclude=exclude, ignore_file=ignore_file, links=links, on_existing=on_existing, names=names,
        delete=delete,
    )  # fmt: skip
    made, _ = _planned(source, target, options, files=True)
    _show_plan(made, steps=steps, as_json=json)


def _options(**given: Any) -> Any:
    from rh.transfer import Options

    given["include"], given["exclude"] = tuple(given["include"] or ()), tuple(given["exclude"] or ())
    given["bandwidth"] = size_of(given.get("bandwidth"), "--bandwidth")
    return Options.of(given)


def _planned(source: str, target: str, options: Any, *, files: bool) -> tuple[Any, bool]:
    """The plan, and whether it is that of one file."""
    from rh import transfer
    from rh.cli.place import place_of
    from rh.errors import InvalidError

    start, end = place_of(source), place_of(target)
    if start.kind() == "file":
        if not files:
            raise InvalidError("that is a file, and sync is about directories", where=start.url, hint="rh cp")
        if options.include or options.exclude or options.delete:
            raise InvalidError("--include, --exclude and --delete are about directories", where=start.url)
        if end.tree or _is_directory(end):
            end = end / start.location.name
        return transfer.plan_file(start.location, end.location, options), True
    return transfer.plan_tree(start.location, end.location, options), False


def _is_directory(place: Any) -> bool:
    from rh.errors import NotFoundError

    try:
        return bool(place.kind() == "tree")
    except NotFoundError:
        return False


def _show_plan(made: Any, *, steps: bool, as_json: bool) -> None:
    from rh.transfer import Action

    if as_json:
        show.emit(made.as_dict())
    else:
        show.line(str(made))
    if not steps:
        return
    for step in made.steps():
        if step.action is Action.OTHER:
            continue
        if as_json:
            show.emit({"action": str(step.action), "key": step.key, "size": step.entry.size, "kind": step.entry.kind})
        else:
            show.line(f"{step.action:<7} {step.entry.size:>14,}  {step.key}")


def _transfer(source: str, target: str, files: bool, as_json: bool, no_progress: bool, **given: Any) -> None:
    from rh import transfer
    from rh.cli.run import cancel
    from rh.progress import Silent

    options = _options(**given)
    made, _ = _planned(source, target, options, files=files)
    if options.dry_run:
        _show_plan(made, steps=not as_json, as_json=as_json)
        return
    receipt = transfer.execute(made, progress=Silent() if no_progress else None, cancel=cancel)
    if as_json:
        show.emit(receipt.as_dict())
    else:
        show.line(str(receipt))


def verify(place: PlaceArgument, no_progress: NoProgress = False, json: AsJson = False) -> None:
    """Read every byte again and compare it.

    Exits with 6 if something is not as it was, with 1 if nothing is known to compare with.
    """
    from rh import transfer
    from rh.cli.place import place_of
    from rh.progress import Silent

    at = place_of(place)
    if at.kind() == "file":
        found = at.blob().verify()
    else:
        found = transfer.verify_tree(at.location, progress=Silent() if no_progress else None)
    if json:
        show.emit(found.as_dict())
    else:
        show.line(str(found).rstrip())
    if not found.ok:
        raise typer.Exit(codes.INTEGRITY if found.against != "nothing" else codes.FAILED)
