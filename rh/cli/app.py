"""The program's face: its commands, and the help that opens it."""

from __future__ import annotations

from typing import Annotated

import typer

from rh.cli import (
    accounts,
    doctor,
    draft,
    files,
    find,
    keeping,
    lineage,
    listing,
    live,
    meta,
    move,
    names,
    playground,
    registry,
    runs,
    settings,
    table,
    versions,
)
from rh.cli import exit as codes
from rh.cli.complete import open_ends

__all__ = ["app"]

HELP = """Move data between this machine, SSH hosts, S3, GCS, Azure, Git and the web, verified on arrival.

\b
A place is one of
  a path                a local path, relative to the working directory
  s3://bucket/key       a URL: s3 gs az ssh file http(s) git+https github …
  name:/path            a path on a configured host or cluster (name:~/x is below its home)
  name://path           a place on any configured system
  rh://name/path        a saved name, and a path in it (rh://~/x, rh:///org/x)
  rh://name:v3/path     a version of it (rh://name:production, rh://name@sha256:…)
A trailing slash means a directory.
"""

EPILOG = f"""\b
With --json, every command prints JSON (lists: one document per line), and errors as JSON on standard error, with
"kind".

\b
Exit codes:
{codes.table()}
"""

app = typer.Typer(
    help=HELP,
    epilog=EPILOG,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import rh

        typer.echo(f"rh {rh.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


open_ends()

for command in (
    listing.ls,
    move.cp,
    move.sync,
    files.cat,
    files.put,
    files.rm,
    files.sweep,
    listing.du,
    find.find,
    move.plan,
    move.diff,
    move.verify,
    files.info,
    names.save,
    names.rename,
    names.forget,
    names.history,
    names.resources,
    versions.commit,
    draft.upload,
    live.restore,
    live.adopt,
    live.create_dataset,
    lineage.lineage,
    keeping.gc,
    accounts.login,
    accounts.logout,
    accounts.share,
    accounts.revoke,
):
    app.command()(command)
app.add_typer(settings.app, name="config")
app.add_typer(table.app, name="table")
app.add_typer(versions.version_app, name="version")
app.add_typer(versions.alias_app, name="alias")
app.add_typer(draft.app, name="draft")
app.add_typer(meta.app, name="meta")
app.add_typer(runs.app, name="run")
app.add_typer(keeping.cache_app, name="cache")
app.add_typer(registry.registry_app, name="registry")
app.command()(doctor.doctor)
app.command()(playground.playground)
