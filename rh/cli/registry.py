"""`rh registry serve|show|export|import|migrate|grant|user|token`: a registry as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rh.cli import accounts, show
from rh.cli.accounts import OfRegistry, bare, registry_of
from rh.cli.complete import complete_name
from rh.cli.options import AsJson

if TYPE_CHECKING:
    from rh.registry.base import Registry

__all__ = ["registry_app"]

registry_app = typer.Typer(
    help="Serve, inspect and copy registries, and manage access.", no_args_is_help=True, rich_markup_mode=None
)
registry_app.add_typer(accounts.user_app, name="user")
registry_app.add_typer(accounts.token_app, name="token")
registry_app.command("grant")(accounts.grant)

_COUNTED = {"names": "resources", "versions": "versions", "runs": "runs"}


FileName = Annotated[str, typer.Argument(metavar="FILE", show_default=False, help="A JSON lines file.")]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        metavar="NAME[=NEW]",
        autocompletion=complete_name,
        help="Only this name, with its versions, aliases and properties, as NEW if given; repeatable.",
    ),
]
Prefixes = Annotated[
    list[str] | None,
    typer.Option(
        "--prefix",
        metavar="PREFIX[=NEW]",
        autocompletion=complete_name,
        help="Only names below this prefix; repeatable.",
    ),
]
Partial = Annotated[bool, typer.Option("--partial", help="From a server, take what you may read, if that is not all.")]


@registry_app.command("serve")
def _serve(
    registry: OfRegistry = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8080,
    tls_cert: Annotated[
        str | None, typer.Option("--tls-cert", metavar="FILE", help="PEM file with the certificate and its chain.")
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option("--tls-key", metavar="FILE", help="PEM file with the private key.")
    ] = None,
    public_url: Annotated[
        str | None, typer.Option("--public-url", metavar="URL", help="URL that clients use, if behind a proxy.")
    ] = None,
    audit: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Log of changes and refusals; by default standard output."),
    ] = None,
    rate: Annotated[float, typer.Option(metavar="N", min=1, help="Maximum requests per second of one token.")] = 1000.0,
    body_mb: Annotated[int, typer.Option("--body-mb", metavar="MIB", min=1, help="Maximum size of a request.")] = 4,
) -> None:
    """Serve a registry over HTTP until Ctrl-C or SIGTERM.

    Logging in needs a token: first create an admin with `rh registry user add NAME --admin` on the same registry.
    """
    import logging

    from rh.observe import log
    from rh.registry.server.audit import Audit
    from rh.registry.server.limits import Limits
    from rh.registry.server.run import serve

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(logging.WARNING)
    served = registry_of(registry)
    limits = Limits(body_bytes=body_mb << 20, rate=rate, burst=2 * rate)

    def ready(url: str) -> None:
        show.tell(f"serving {served.url} at {url}")

    log.addHandler(handler)
    try:
        _check_served(served, registry)
        serve(
            served,
            host=host,
            port=port,
            tls_cert=tls_cert,
            tls_key=tls_key,
            public_url=public_url,
            audit=Audit(audit),
            limits=limits,
            ready=ready,
        )
    finally:
        log.removeHandler(handler)


def _check_served(served: Registry, given: str | None) -> None:
    """Refuse to serve another server, what cannot be read, and what nobody could get in to: its URL may be misspelt.

    One that does not answer is no reason not to start: after a power cut everything starts at once, and this server
    waits for its registry as it does when it loses it later. Until then its users are told so, and /ready.
    """
    from rh.errors import DeadlineError, InvalidError, NotFoundError, UnavailableError
    from rh.registry.accounts import accounts_of

    if served.url.startswith(("http://", "https://")):
        whose = "" if given else ", which is what is configured here"
        raise InvalidError(
            f"{served.url} is a server already{whose}",
            hint="name the registry to serve: --registry sqlite:///abs/path.db (or postgresql://…, s3://…)",
        )
    try:
        users = accounts_of(served).users()
    except (UnavailableError, DeadlineError) as error:
        show.tell(f"warning: {error}")
        return
    if not users:
        adding = f"rh registry user add NAME --admin --registry '{served.url}'"
        raise NotFoundError(
            "there is no registry, or it has no users, so nobody would get in",
            where=served.url,
            hint=f"check the URL; a new one is made with its first admin: {adding}",
        )


# The registry as a whole.


@registry_app.command("show")
def _show(registry: OfRegistry = None, json: AsJson = False) -> None:
    """Show the registry in use, and how much it holds.

    Counts names, versions and runs.
    """
    from rh.registry.base import author

    used = registry_of(registry)
    counts: dict[str, int] = {}
    for record in used.list():
        space = record.key.partition("/")[0]
        counts[space] = counts.get(space, 0) + 1
    told = {"registry": used.url, "user": author()}
    told |= {what: counts.get(space, 0) for what, space in _COUNTED.items()}
    if json:
        show.emit(told)
    else:
        show.table([[what, f"{value:,}" if isinstance(value, int) else value] for what, value in told.items()])


@registry_app.command("export")
def _export(
    file: FileName,
    names: Names = None,
    prefixes: Prefixes = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    partial: Partial = False,
    registry: OfRegistry = None,
    json: AsJson = False,
) -> None:
    """Export a registry, or some names, to one file.

    The history is included.
    """
    from rh.registry.archive import export

    source = registry_of(registry)
    with _told_here():
        changes = export(
            source,
            file,
            names=_called(names, "--name"),
            prefixes=_called(prefixes, "--prefix"),
            overwrite=overwrite,
            partial=partial,
        )
    _moved("written", changes, json=json, source=source)


@registry_app.command("import")
def _import(file: FileName, registry: OfRegistry = None, json: AsJson = False) -> None:
    """Import a file written by `rh registry export`.

    Imports all of it. Existing entries stay, so it can be repeated.
    """
    from rh.registry.archive import import_

    _moved("taken over", import_(registry_of(registry).direct, file), json=json)


@registry_app.command("migrate")
def _migrate(
    source: Annotated[str, typer.Argument(metavar="FROM", show_default=False, help="sqlite:///…, postgresql://…, …")],
    target: Annotated[str, typer.Argument(metavar="TO", show_default=False, help="Another registry, of any kind.")],
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also names in ~/, which belong to one machine, and a server's users and tokens."),
    ] = False,
    names: Names = None,
    prefixes: Prefixes = None,
    partial: Partial = False,
    json: AsJson = False,
) -> None:
    """Copy a registry, or some names, into another.

    The first one stays unchanged. Repeat it until nothing is new. Where both have changed a name, nothing is copied.
    """
    from rh.registry.archive import migrate

    one = registry_of(source)
    with _told_here():
        changes = migrate(
            one,
            registry_of(target),
            names=_called(names, "--name"),
            prefixes=_called(prefixes, "--prefix"),
            everything=everything,
            partial=partial,
        )
    _moved("taken over", changes, json=json, source=one)


def _called(chosen: list[str] | None, option: str) -> dict[str, str]:
    """What `NAME` and `NAME=NEW` say, as names and what they are called afterwards."""
    from rh.errors import InvalidError

    found: dict[str, str] = {}
    for text in chosen or ():
        name, equals, new = text.partition("=")
        if not name or (equals and not new):
            raise InvalidError(f"{option} {text!r} names nothing", hint=f"{option} /org/name, or ~/name=/org/name")
        found[bare(name)] = bare(new or name)
    return found


@contextmanager
def _told_here() -> Iterator[None]:
    """Errors whose fix is an argument in Python, with the option that it is here."""
    from rh.errors import RhError

    try:
        yield
    except RhError as error:
        if error.hint:
            error.hint = error.hint.replace("partial=True", "--partial").partition(", names=")[0]
        raise


def _moved(what: str, changes: int, *, json: bool, source: Registry | None = None) -> None:
    from rh.registry.archive import limited_to

    user = None if source is None else limited_to(source)
    told: dict[str, Any] = {"changes": changes}
    if user is not None and source is not None:
        told |= {"partial": True, "user": user}
        show.tell(
            f"warning: {user} is no admin of {source.url}: what {user} may not read there, and its users and runs of"
            f" others, are not among what was {what}"
        )
    if json:
        show.emit(told)
    else:
        show.line(f"{changes:,} {'change' if changes == 1 else 'changes'} {what}")


# Users and tokens.
