"""`rh playground`: local servers to try everything with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from rh.cli import show
from rh.cli.complete import one_of
from rh.cli.options import AsJson

__all__ = ["playground"]


def playground(
    only: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SYSTEM",
            autocompletion=one_of("s3", "gs", "azure", "ssh-a", "ssh-b"),
            help="s3, gs, azure, ssh-a, ssh-b; by default all.",
        ),
    ] = None,
    no_install: Annotated[bool, typer.Option("--no-install", help="Do not install what is missing.")] = False,
    json: AsJson = False,
) -> None:
    """Run local S3, GCS, Azure and SSH servers to try rh.

    Runs S3, GCS, Azure and two SSH hosts on this machine until Ctrl-C. Meanwhile, RH_PROFILE=playground (for a second
    one, playground-2) makes system="s3", "gs", "azure", "ssh-a" and "ssh-b" refer to them. The buckets are in memory:
    they are limited by free memory, and their contents are lost at the end. If a server dies, all are stopped, with
    exit code 7.
    """
    from rh.testing.playground import SYSTEMS, Playground

    def tell(line: str) -> None:
        show.tell(line) if json else _flushed(show.line, line)

    def ready() -> None:
        systems = {name: ground.settings(name) for name in ground.running}
        missing = {name: error.as_dict() for name, error in ground.missing.items()}
        _flushed(show.emit, {"environment": ground.environment(), "systems": systems, "missing": missing})

    ground = Playground(tuple(only) if only else SYSTEMS, install=not no_install, tell=tell)
    ground.run(ready if json else None)


def _flushed(write: Callable[[Any], None], what: object) -> None:
    import sys

    write(what)
    sys.stdout.flush()
