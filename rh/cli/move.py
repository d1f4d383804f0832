"""`rh cp`, `rh sync`, `rh plan`, `rh diff`, `rh verify`: from one place to another."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rh.cli import exit as codes
from rh.cli import show
from rh.cli.complete import complete_place, one_of
from rh.cli.options import AsJson, Exclude, HowLinks, Include, NoProgress, PlaceArgument, size_of

if TYPE_CHECKING:
    from rh.cli.place import Place
    from rh.resources.base import Located

__all__ = ["cp", "diff", "plan", "sync", "verify"]

Source = Annotated[str, typer.Argument(metavar="SOURCE", autocompletion=complete_place, show_default=False)]
Sources = Annotated[list[str], typer.Argument(metavar="SOURCE", autocompletion=complete_place, show_default=False)]
Target = Annotated[str, typer.Argument(metavar="TARGET", autocompletion=complete_place, show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Show what would be done, and do nothing.")]
Delete = Annotated[bool, typer.Option("--delete", help="Delete files from TARGET that are not in SOURCE.")]
IgnoreFile = Annotated[bool, typer.Option("--ignore-file/--no-ignore-file", help="Respect .rhignore in the source.")]
Given = dict[str, Any]


def _options(
    include: Include = None,
    exclude: Exclude = None,
    ignore_file: IgnoreFile = True,
    links: HowLinks = "follow",
    on_existing: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            autocompletion=one_of("update", "skip", "error", "replace"),
            help="update: copy what differs; skip what exists; error; replace everything.",
        ),
    ] = "update",
    names: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            autocompletion=one_of("refuse", "encode", "decode"),
            help="Names the target cannot store: refuse, encode (%XX), or decode.",
        ),
    ] = "refuse",
    manifest: Annotated[
        bool, typer.Option("--manifest/--no-manifest", help="Leave a manifest, which rh verify needs, in a directory.")
    ] = True,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Maximum number of concurrent requests.")] = None,
    bandwidth: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Maximum bytes per second, such as 10M.")
    ] = None,
) -> Given:
    """The options of every transfer, as `rh.transfer.Options` has them."""
    return {
        "include": tuple(include or ()),
        "exclude": tuple(exclude or ()),
        "ignore_file": ignore_file,
        "links": links,
        "on_existing": on_existing,
        "names": names,
        "manifest": manifest,
        "workers": workers,
        "bandwidth": size_of(bandwidth, "--bandwidth"),
    }


def _transferring(command: Callable[..., None]) -> Callable[..., None]:
    """A command that gets the options of `_options` in place of its parameter `given`."""
    shared = inspect.signature(_options, eval_str=True).parameters
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        parameters += shared.values() if parameter.name == "given" else [parameter]

    @functools.wraps(command)
    def run(**words: Any) -> None:
        given = _options(**{name: words.pop(name) for name in shared})
        command(given=given, **words)

    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@_transferring
def cp(
    source: Sources,
    target: Target,
    given: Given,
    dry_run: DryRun = False,
    no_progress: NoProgress = False,
    json: AsJson = False,
) -> None:
    """Copy a file or a directory; nothing is deleted.

    TARGET becomes the copy: the contents of a directory SOURCE go directly into TARGET, whether it existed or not. A
    file is copied into TARGET if that ends with a slash or is a directory.

    Several sources are copied into TARGET, which must be such a directory, each under its own name.
    """
    from rh.cli.place import place_of, target_of

    starts, end = [place_of(one) for one in source], target_of(target)
    _transfer(starts, end, given | {"dry_run": dry_run}, files=True, as_json=json, no_progress=no_progress)


@_transferring
def sync(
    source: Source,
    target: Target,
    given: Given,
    delete: Delete = False,
    max_delete: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Change nothing if more than N files would be deleted.")
    ] = None,
    dry_run: DryRun = False,
    no_progress: NoProgress = False,
    json: AsJson = False,
) -> None:
    """Bring a directory up to date with another.

    With --delete, files that are not in SOURCE are deleted from TARGET.
    """
    from rh.cli.place import place_of, target_of

    given |= {"delete": delete, "max_delete": max_delete, "dry_run": dry_run}
    start, end = place_of(source), target_of(target)
    _transfer([start], end, given, files=False, as_json=json, no_progress=no_progress)


@_transferring
def plan(
    source: Source,
    target: Target,
    given: Given,
    steps: Annotated[bool, typer.Option("--steps", help="Show every step.")] = False,
    delete: Delete = False,
    json: AsJson = False,
) -> None:
    """Show what a copy would transfer, and by which route.

    Changes nothing.
    """
    from rh.cli.place import place_of, target_of
    from rh.transfer import Options

    made, _, _ = _planned(place_of(source), target_of(target), Options.of(given | {"delete": delete}), files=True)
    _show_plan(made, steps=steps, as_json=json)


def diff(
    a: Source,
    b: Target,
    include: Include = None,
    exclude: Exclude = None,
    ignore_file: IgnoreFile = True,
    links: HowLinks = "follow",
    no_progress: NoProgress = False,
    json: AsJson = False,
) -> None:
    """Show how two directories or files differ.

    Files of the same size are compared by their digests, and read where a digest is not known. Exits with 1 if
    anything differs. With --json, one document per difference. For versions, see rh version diff.
    """
    from rh.cli.place import place_of
    from rh.errors import InvalidError
    from rh.progress import Silent
    from rh.resources.comparing import diff_files

    places = place_of(a), place_of(b)
    kinds = {place.kind() for place in places}
    if len(kinds) > 1:
        raise InvalidError("one is a file and the other a directory", where=f"{places[0].url} and {places[1].url}")
    if kinds == {"file"}:
        one = diff_files(places[0].blob(), places[1].blob())
        changes = [] if one is None else [one.as_dict()]
        told = "no differences" if one is None else str(one)
    else:
        words: dict[str, Any] = {"ignore_file": ignore_file, "links": links}
        words |= {"include": tuple(include or ()), "exclude": tuple(exclude or ())}
        words["progress"] = Silent() if no_progress else None
        found = places[0].folder().compare(places[1].folder(), **words)
        changes, told = [change.as_dict() for change in found], "\n".join([*map(str, found), found.summary()])
    for change in changes if json else ():
        show.emit(change)
    if not json:
        show.line(told)
    if changes:
        raise typer.Exit(codes.FAILED)


def _name(start: Place) -> str:
    """What a source is called in a directory that it is copied into."""
    from rh.resources.blob import Blob

    if start.name is None or start.whole is None or isinstance(start.whole, Blob):
        return start.location.name
    return start.name.rpartition("/")[2]


def _check_inside(starts: Sequence[Place], end: Place) -> None:
    """Refuse several sources that cannot lie in a directory side by side.

    Raises:
        InvalidError: the target is no directory, or a source has no name.
        NameClashError: two have one name.
    """
    from rh.content.names import check_all
    from rh.errors import InvalidError, NameClashError

    if not (end.tree or _is_directory(end)):
        raise InvalidError(
            "several sources are copied into a directory, and none is there",
            where=end.shown,
            hint=f"{end.text}/ as the target, and it becomes one",
        )
    names: set[str] = set()
    for start in starts:
        name = _name(start)
        if name in ("", "~"):
            raise InvalidError("what is copied beside others needs a name", where=start.shown, hint="copy it alone")
        if name in names:
            raise NameClashError(f"two sources are called {name!r}", where=end.shown, hint="copy one of them alone")
        names.add(name)
    system = end.system()
    check_all(sorted(names), system.kind, folds=getattr(system, "folds_case", False), where=end.shown)


def _planned(
    start: Place, end: Place, options: Any, *, files: bool, inside: bool = False
) -> tuple[Any, Located, Located]:
    """The plan, and what a run is told of that is read and written by it; `inside`: of a copy in the target."""
    from rh import transfer
    from rh.errors import InvalidError
    from rh.resources.blob import Blob

    if start.kind() == "file":
        if not files:
            raise InvalidError("that is a file, and sync is about directories", where=start.url, hint="rh cp")
        if options.include or options.exclude or options.delete:
            raise InvalidError("--include, --exclude and --delete are about directories", where=start.url)
        if inside or end.tree or _is_directory(end):
            end = end / _name(start)
        stored = start.whole.stored if isinstance(start.whole, Blob) else None
        return transfer.plan_file(start.location, end.location, options, stored=stored), start.told(), end.told()
    if inside:
        end = end / _name(start)
    made = transfer.plan_tree(start.location, end.location, options)
    return made, start.told(tree=True), end.told(tree=True)


def _is_directory(place: Any) -> bool:
    from rh.errors import NotFoundError

    try:
        return bool(place.kind() == "tree")
    except NotFoundError:
        return False


def _show_plan(made: Any, *, steps: bool, as_json: bool, kept: bool = True) -> None:
    from rh.transfer import Action

    hidden = (Action.OTHER,) if kept else (Action.OTHER, Action.KEEP)
    if as_json:
        show.emit(made.as_dict())
    else:
        show.line(made.summary if steps else str(made))
    if not steps:
        return
    for step in made.steps():
        if step.action in hidden:
            continue
        if as_json:
            show.emit({"action": str(step.action), "key": step.key, "size": step.entry.size, "kind": step.entry.kind})
        else:
            show.line(f"{step.action:<7} {step.entry.size:>14,}  {step.key}")


def _transfer(
    starts: Sequence[Place], end: Place, given: Given, *, files: bool, as_json: bool, no_progress: bool
) -> None:
    """Copy one source to a place, or several into it, once all are planned. One that fails ends no other."""
    from rh import transfer
    from rh.cli.run import cancel
    from rh.errors import RhError
    from rh.progress import Silent
    from rh.registry.lineage import recording

    options = transfer.Options.of(given)
    inside = len(starts) > 1
    if inside:
        _check_inside(starts, end)
    planned = [_planned(start, end, options, files=files, inside=inside) for start in starts]
    failed: list[int] = []
    for made, read, written in planned:
        if options.dry_run:
            _show_plan(made, steps=not as_json, as_json=as_json, kept=False)
            continue
        recording.read(read)
        try:
            receipt = transfer.execute(made, progress=Silent() if no_progress else None, cancel=cancel)
        except RhError as error:
            if len(planned) == 1 or cancel.is_set():
                raise
            show.fail(error, as_json=as_json)
            failed.append(codes.code_of(error))
            continue
        recording.wrote(written)
        if as_json:
            show.emit(receipt.as_dict())
        else:
            show.line(str(receipt))
    if failed:
        of_one_reason = len(failed) == len(planned) and len(set(failed)) == 1
        raise typer.Exit(failed[0] if of_one_reason else codes.PARTIAL)


_NO_MANIFEST = (
    "directories that rh cp and rh sync write have a manifest; rh adopt NAME PLACE notes the digests of what is there,"
    " for rh version verify NAME"
)
_NO_RECORD = (
    "a single file has no manifest: verify its directory, if rh cp or rh sync wrote that; rh diff FILE SOURCE compares"
    " it with another; a version has digests (rh save NAME FILE, rh commit NAME, rh verify rh://NAME:v1)"
)


def verify(place: PlaceArgument, no_progress: NoProgress = False, json: AsJson = False) -> None:
    """Read every byte again, and verify it.

    Compares it with the manifest of a directory that was copied, a version, or what is known of a saved blob or table.
    Exits with 6 if anything differs, and with 1 if there is nothing to compare with: a single file has no manifest.
    """
    from rh import transfer
    from rh.cli.place import place_of
    from rh.progress import Silent
    from rh.resources.blob import Blob
    from rh.resources.table import Table
    from rh.tables import index

    at, fix = place_of(place), _NO_MANIFEST
    version = at.version()
    if version is not None:
        found = version.check_version()
    elif at.location.in_version:
        found = replace(at.folder(), pin=getattr(at.resource, "pin", None)).check_version()
    elif isinstance(at.whole, Blob | Table):
        found, fix = at.whole.verify(), _NO_RECORD
    elif at.kind() == "file":
        found, fix = at.blob().verify(), _NO_RECORD
    elif at.whole is None and index.read(at.system()) is not None:
        found = Table(location=at.location).verify()
    else:
        found = transfer.verify_tree(at.location, progress=Silent() if no_progress else None)
    if json:
        show.emit(found.as_dict())
    else:
        show.line(str(found).rstrip())
        if found.against == "nothing":
            show.tell(f"  fix: {fix}")
    if not found.ok:
        raise typer.Exit(codes.INTEGRITY if found.against != "nothing" else codes.FAILED)
