"""`rh lineage`: where data came from, and what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rh.cli import show
from rh.cli.complete import complete_name, one_of
from rh.cli.options import saved_below_home

__all__ = ["lineage"]

FORMATS = ("text", "json", "dot", "svg", "openlineage")


def lineage(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME[:VERSION]",
            help="A saved name, a run ID, or the URL of unversioned data.",
            autocompletion=complete_name,
            show_default=False,
        ),
    ],
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="Show only the path between the two.", show_default=False)
    ] = None,
    up: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Follow at most N runs upstream; by default all.")
    ] = None,
    down: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Follow at most N runs downstream; by default all.")
    ] = None,
    format: Annotated[  # noqa: A002 - the word of the field
        str,
        typer.Option("--format", "-f", metavar="FORMAT", help=", ".join(FORMATS), autocompletion=one_of(*FORMATS)),
    ] = "text",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
) -> None:
    """Show where data came from, and what was made from it.

    Shows the runs that made it, their inputs, and the runs that used it. The format svg is a drawing; openlineage
    prints one OpenLineage run event per line.
    """
    import json as codec

    from rh.config import did_you_mean
    from rh.errors import ExistsError, InvalidError, NotFoundError
    from rh.resources.runs.tracing import lineage as trace

    name, other = saved_below_home(name) or name, other and (saved_below_home(other) or other)
    if format not in FORMATS:
        raise InvalidError(
            f"there is no format {format!r}" + did_you_mean(format, FORMATS), hint=f"--format {'|'.join(FORMATS)}"
        )
    wanted = "json" if json else format
    try:
        graph = trace(name, other, up=up, down=down)
    except (NotFoundError, InvalidError) as error:
        if "write path=" in (error.hint or ""):
            url = Path(name).absolute().as_uri() if other is None else "file:///…"
            error.hint = f"{show.NAMES}; for a path give its URL: {url}"
        raise
    if other is not None and wanted == "text" and not graph.edges:
        show.tell(f"no recorded run leads from one of {name} and {other} to the other")
    if wanted == "json":
        text = codec.dumps(graph.as_dict()) + "\n"
    elif wanted == "openlineage":
        text = "".join(codec.dumps(event) + "\n" for event in graph.openlineage())
    else:
        text = {"dot": graph.dot, "svg": graph.svg, "text": graph.__str__}[wanted]()
    if output is not None:
        try:
            with output.open("w" if overwrite else "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            raise ExistsError("a file is there already", where=str(output), hint="--overwrite") from error
        except OSError as error:
            raise InvalidError(f"it cannot be written: {error.strerror}", where=str(output)) from error
    else:
        show.line(text.rstrip("\n"))
