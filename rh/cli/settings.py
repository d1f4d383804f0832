"""`rh config`: settings, and where each comes from."""

from __future__ import annotations

from typing import Annotated

import typer

from rh.cli import show
from rh.cli.complete import complete_setting
from rh.cli.options import AsJson

__all__ = ["app"]

app = typer.Typer(
    help="Show settings, and where each comes from.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


@app.command("show")
def _show(
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="PREFIX", autocompletion=complete_setting, help="Only settings that start with this: systems.s3"
        ),
    ] = "",
    json: AsJson = False,
) -> None:
    """Print every setting, its value and its origin."""
    from rh import config
    from rh.errors import NotFoundError

    found = [value for value in config.show() if value.key.startswith(prefix)]
    if not found:
        raise NotFoundError(f"no setting begins with {prefix!r}", hint="rh config show")
    if json:
        for value in found:
            show.emit(value._asdict())
    else:
        show.table([[value.key, "" if value.value is None else str(value.value), value.origin] for value in found])


@app.command("get")
def _get(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY",
            autocompletion=complete_setting,
            help="A setting's dotted name: systems.s3.root",
            show_default=False,
        ),
    ],
    json: AsJson = False,
) -> None:
    """Print the value of one setting."""
    import difflib

    from rh import config
    from rh.errors import NotFoundError

    known = {value.key: value for value in config.show()}
    if key not in known:
        near = difflib.get_close_matches(key, known, 3)
        raise NotFoundError(
            f"no setting is called {key!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""),
            hint="rh config show",
        )
    if json:
        show.emit(known[key]._asdict())
    elif known[key].value is not None:
        show.line(str(known[key].value))


@app.command("path")
def _path(json: AsJson = False) -> None:
    """Print the paths of the settings files.

    The last one has the highest precedence.
    """
    import os

    from rh import config

    files = [config.home() / "config.toml"]
    if os.environ.get("RH_PROFILE"):
        files.append(config.home() / "profiles" / f"{os.environ['RH_PROFILE']}.toml")
    for file in files:
        if json:
            show.emit({"path": str(file), "exists": file.exists()})
        else:
            show.line(str(file) + ("" if file.exists() else "  (not there)"))
