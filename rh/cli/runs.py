"""`rh run …`: what was done with which data, as runs recorded it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rh.cli import show
from rh.cli.complete import complete_run, complete_run_name, one_of
from rh.cli.options import AsJson

if TYPE_CHECKING:
    from rh.resources.runs import Run

__all__ = ["app"]

app = typer.Typer(
    help="""List, inspect and forget recorded runs.

    Python code in `with rh.run(…)` records what it reads and makes.
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)

RunId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="A run ID or a unique prefix of one, or a name for its newest run.",
        autocompletion=complete_run,
        show_default=False,
    ),
]


@app.command()
def ls(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Only runs with this name.", autocompletion=complete_run_name)
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            metavar="STATUS",
            help="Only runs that are running, done, failed or cancelled.",
            autocompletion=one_of("running", "done", "failed", "cancelled"),
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="FILTER", help="Only runs whose parameters match: 'rate > 0.1'.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", metavar="N", min=1, help="Maximum number of runs.")
    ] = None,
    json: AsJson = False,
) -> None:
    """List runs, newest first."""
    from rh.resources.runs import runs

    found = runs(name, status=status, where=where, limit=limit)
    if json:
        for run in found:
            show.emit(run.as_dict())
        return
    show.table(
        [
            [run.id, run.name, run.status, show.when(run.started), _seconds(run.seconds), run.user, _params(run.params)]
            for run in found
        ],
        right=(4,),
    )


@app.command("show")
def show_one(run: RunId, json: AsJson = False) -> None:
    """Show everything known about a run.

    Shows its code, its parameters, what it read and what it made.
    """
    found = _run(run)
    if json:
        show.emit(found.as_dict())
        return
    git: dict[str, Any] = found.code.get("git") or {}
    rows: list[tuple[str, str | None]] = [
        ("run", found.id),
        ("name", found.name),
        ("status", found.status),
        ("error", None if found.error is None else f"{found.error['type']}: {found.error['message']}"),
        ("parameters", _params(found.params)),
        ("who", f"{found.user} on {found.host}, process {found.pid}"),
        ("started", show.when(found.started)),
        ("took", _seconds(found.seconds)),
        ("inside", found.parent),
        ("code", found.code.get("function")),
        ("file", found.code.get("file")),
        ("source", found.code.get("digest")),
        ("commit", git.get("commit")),
        ("changed", git.get("dirty")),
        ("python", f"{found.environment.get('python')}, rh {found.environment.get('rh')}"),
        ("packages", found.environment.get("digest")),
        *(("read", str(item)) for item in found.inputs),
        *(("made", str(item)) for item in found.outputs),
    ]
    show.table([key, value] for key, value in rows if value)


@app.command()
def changed(run: RunId, json: AsJson = False) -> None:
    """Show which inputs of a run have changed since."""
    for one in _run(run).changed_inputs():
        if json:
            show.emit({"input": one.input._asdict(), "why": one.why, "now": one.now})
        else:
            show.line(str(one))


@app.command()
def rm(run: RunId, json: AsJson = False) -> None:
    """Forget a run.

    What it read and made stays, and rh gc no longer keeps it for this run.
    """
    found = _run(run)
    found.forget()
    if json:
        show.emit({"run": found.id, "forgotten": True})
    else:
        show.line(f"run {found.ref} is forgotten")


def _run(word: str) -> Run:
    """The run with an id, else the newest one of a name."""
    from rh.errors import InvalidError, NotFoundError
    from rh.resources.runs import load_run, runs

    try:
        return load_run(word)
    except (InvalidError, NotFoundError) as error:
        try:
            return runs(word, limit=1)[0]
        except NotFoundError as unknown:
            if isinstance(error, InvalidError) and word[:1].isdigit():
                raise error from None  # several ids begin so
            unknown.message = unknown.message.replace("no run is called", "there is no run", 1)
            raise


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:,.1f} s"


def _params(params: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in params.items())
