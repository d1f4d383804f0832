"""`rh registry user|token|grant`, `rh login`, `rh logout`, `rh share`, `rh revoke`: who may use what."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rh.cli import show
from rh.cli.complete import complete_name, one_of
from rh.cli.options import AsJson, SavedName, span_of

if TYPE_CHECKING:
    from rh.registry.accounts import Accounts, Share

__all__ = ["OfRegistry", "bare", "grant", "login", "logout", "registry_of", "revoke", "share", "token_app", "user_app"]

user_app = typer.Typer(help="Manage the users of a registry.", no_args_is_help=True, rich_markup_mode=None)
token_app = typer.Typer(help="Manage the access tokens of users.", no_args_is_help=True, rich_markup_mode=None)

_ROLES = ("read", "write", "admin")
_ACCESS = _ROLES[:2]


def _complete_user(incomplete: str) -> list[str]:
    """Users of the registry that is configured; of a server, those that its admins may see."""
    from rh.errors import RhError

    try:
        return [user.name for user in _accounts(None).users() if user.name.startswith(incomplete)]
    except RhError:
        return []  # completion has nowhere to complain


OfRegistry = Annotated[
    str | None,
    typer.Option("--registry", metavar="URL", help="Registry to use; by default the configured one."),
]
UserName = Annotated[str, typer.Argument(metavar="USER", autocompletion=_complete_user, show_default=False)]
UserNames = Annotated[
    list[str] | None, typer.Argument(metavar="[USER]...", autocompletion=_complete_user, show_default=False)
]
Lifetime = Annotated[str | None, typer.Option("--expires", metavar="SPAN", help="Lifetime of the token: 12h, 90d, 4w.")]


def grant(
    prefix: Annotated[
        str | None,
        typer.Argument(
            metavar="PREFIX", autocompletion=complete_name, show_default=False, help="/org, /org/team, /org/name"
        ),
    ] = None,
    user: Annotated[
        str | None, typer.Argument(metavar="USER", autocompletion=_complete_user, show_default=False)
    ] = None,
    role: Annotated[
        str | None,
        typer.Argument(
            metavar="ROLE",
            autocompletion=one_of(*_ROLES, "none"),
            show_default=False,
            help="read, write, admin or none",
        ),
    ] = None,
    registry: OfRegistry = None,
    json: AsJson = False,
) -> None:
    """Grant a user a role on a prefix of names, or list roles.

    Without USER and ROLE, lists the roles on PREFIX, below it and above it; without PREFIX, those on all names that you
    may share. The role admin on /org allows granting roles there.
    """
    from rh.config import did_you_mean
    from rh.errors import InvalidError

    if prefix is None or user is None:
        _tell_shares(_accounts(registry).shares(prefix and bare(prefix)), prefix, json=json)
        return
    if role is None:
        raise InvalidError(f"say which role {user} gets", hint=f"rh registry grant {prefix} {user} read")
    roles = (*_ROLES, "none")
    if role not in roles:
        raise InvalidError(f"there is no role {role!r}" + did_you_mean(role.lower(), roles), hint=", ".join(roles))
    given: Any = None if role == "none" else role
    _tell_share(_accounts(registry).put_share(bare(prefix), {user: given}), json=json)


@user_app.command("add")
def _add(
    user: UserName,
    admin: Annotated[bool, typer.Option("--admin", help="Full access to every name.")] = False,
    expires: Lifetime = None,
    registry: OfRegistry = None,
    json: AsJson = False,
) -> None:
    """Add a user, and print a token for them.

    The token is not shown again.
    """
    from rh.errors import ExistsError

    accounts = _accounts(registry)
    ttl_s = span_of(expires, "--expires")
    if any(known.name == user for known in accounts.users()):
        raise ExistsError(
            f"{user} is a user already",
            hint=f"another token: rh registry token new {user}; an admin: rh registry user set {user} --admin",
        )
    made = accounts.put_user(user, admin=admin)
    _tell_token(accounts.new_token(user=made.name, name="first", ttl_s=ttl_s), made.name, json=json)


@user_app.command("set")
def _set(
    user: UserName,
    admin: Annotated[bool, typer.Option("--admin/--no-admin", help="Full access to every name.", show_default=False)],
    registry: OfRegistry = None,
    json: AsJson = False,
) -> None:
    """Make a user an admin, or revoke admin rights."""
    from rh.config import did_you_mean
    from rh.errors import NotFoundError

    accounts = _accounts(registry)
    known = [one.name for one in accounts.users()]
    if user not in known:
        raise NotFoundError(f"there is no user {user!r}" + did_you_mean(user, tuple(known)))
    made = accounts.put_user(user, admin=admin)
    if json:
        show.emit(made._asdict())


@user_app.command("rm")
def _remove(user: UserName, registry: OfRegistry = None, json: AsJson = False) -> None:
    """Remove a user; what they saved stays."""
    _accounts(registry).remove_user(user)
    if json:
        show.emit({"removed": user})
    else:
        show.line(f"{user} is removed; what they saved stays")


@user_app.command("ls")
def _users(registry: OfRegistry = None, json: AsJson = False) -> None:
    """List the users of a registry."""
    found = _accounts(registry).users()
    for user in found:
        if json:
            show.emit(user._asdict())
    if not json:
        show.table([[user.name, "admin" if user.admin else ""] for user in found])


@token_app.command("new")
def _new_token(
    user: Annotated[
        str | None,
        typer.Argument(
            metavar="[USER]",
            autocompletion=_complete_user,
            show_default=False,
            help="Owner of the token; by default you.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(metavar="TEXT", help="What the token is for.")] = "",
    expires: Lifetime = None,
    registry: OfRegistry = None,
    json: AsJson = False,
) -> None:
    """Create a token and print it.

    It is not shown again.
    """
    from rh.registry.accounts import new_credential

    accounts, ttl_s = _accounts(registry), span_of(expires, "--expires")
    token, identity, sha256 = new_credential()
    made = accounts.put_credential(identity, sha256, user=user, name=name, ttl_s=ttl_s)
    _tell_token(token, made.user, json=json)


@token_app.command("ls")
def _tokens(
    user: Annotated[
        str | None, typer.Argument(metavar="[USER]", autocompletion=_complete_user, show_default=False)
    ] = None,
    registry: OfRegistry = None,
    json: AsJson = False,
) -> None:
    """List tokens, with user, purpose, expiry and last use."""
    found = _accounts(registry).credentials(user)
    rows = []
    for one in found:
        if json:
            show.emit(one._asdict())
        state = "revoked" if one.revoked else "" if one.expires is None else f"until {show.when(one.expires)}"
        rows.append([one.id, one.user, one.name, show.when(one.created), show.when(one.used), state])
    if not json:
        show.table(rows)


@token_app.command("revoke")
def _revoke_token(
    identity: Annotated[
        str, typer.Argument(metavar="ID", show_default=False, help="As shown by `rh registry token ls`.")
    ],
    registry: OfRegistry = None,
    json: AsJson = False,
) -> None:
    """Revoke a token."""
    _accounts(registry).revoke_credential(identity)
    if json:
        show.emit({"revoked": identity})
    else:
        show.line(f"the token {identity} is revoked")


# Logging in.


def login(
    url: Annotated[str, typer.Argument(metavar="URL", show_default=False, help="https://registry.example.org")],
    json: AsJson = False,
) -> None:
    """Log in to a registry server, and use it from now on.

    The token is prompted for, read from standard input, or taken from RH_REGISTRY_TOKEN. It is stored in a private file
    of its own; the URL and your user name are written to the settings.
    """
    from rh.errors import InvalidError, UnauthenticatedError
    from rh.registry import open_registry
    from rh.registry.http import HTTPRegistry, logins

    if "://" not in url:
        raise InvalidError(f"not the URL of a server: {url!r}", hint=f"rh login https://{url}")
    registry = open_registry(url)
    if not isinstance(registry, HTTPRegistry):
        raise InvalidError(f"{registry.url} needs no login", hint="rh login https://host, or set RH_REGISTRY")
    token = given = os.environ.get(logins.VARIABLE, "").strip()
    if not token and sys.stdin.isatty():
        token = str(typer.prompt("Token", hide_input=True, err=True)).strip()
    elif not token:
        token = sys.stdin.readline(1000).strip()
    if not token:
        raise InvalidError("there is no token", hint=f"rh login {registry.url} < file-with-the-token")
    try:
        user = str(registry.whoami(token)["user"])
    except UnauthenticatedError as error:
        error.hint = (
            f"{logins.VARIABLE} is what was sent: give it another token, or unset it to be asked for one"
            if given
            else "ask an admin for a token: rh registry token new USER"
        )
        raise
    logins.remember(registry.url, token)
    file = logins.set_registry(registry.url, user)
    if json:
        show.emit({"registry": registry.url, "user": user, "settings": str(file)})
    else:
        show.line(f"{user} at {registry.url}; {file} says so")
    _warn_of_variables(registry.url, user)


def _warn_of_variables(url: str, user: str) -> None:
    """Say which variables win over what a login has written."""
    for variable, value in (("RH_REGISTRY", url), ("RH_USER", user)):
        standing = os.environ.get(variable, "")
        if standing and standing.rstrip("/") != value:
            show.tell(f"warning: {variable} is set to something else and wins: unset {variable}")


def logout(
    url: Annotated[
        str | None, typer.Argument(metavar="[URL]", show_default=False, help="By default the configured one.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Delete the stored token of a registry server.

    The token itself stays valid. To invalidate it, run `rh registry token revoke` first.
    """
    from rh.errors import InvalidError, NotFoundError
    from rh.registry import default, open_registry
    from rh.registry.http import logins

    registry = open_registry(url) if url else default()
    if not registry.url.startswith(("http://", "https://")):
        raise InvalidError(f"{registry.url} needs no login")
    if not logins.forget(registry.url):
        raise NotFoundError("there is no token for it here", where=registry.url)
    if json:
        show.emit({"registry": registry.url})
    else:
        show.line(f"the token for {registry.url} is forgotten")


# Sharing.


def share(
    name: SavedName,
    users: UserNames = None,
    access: Annotated[
        str, typer.Option(metavar="read|write", autocompletion=one_of(*_ACCESS), help="Access to grant.")
    ] = "read",
    public: Annotated[
        bool | None, typer.Option("--public/--private", help="Whether everybody can read it.", show_default=False)
    ] = None,
    json: AsJson = False,
) -> None:
    """Grant users access to a name.

    The name must be on a registry server. Without USER, shows who has which access; roles inherited from a prefix are
    shown with that prefix. `rh registry grant` lists the roles on a prefix.
    """
    from rh.config import did_you_mean
    from rh.errors import InvalidError
    from rh.resources import sharing

    if access not in _ACCESS:
        more = "; more is given on a prefix of names: rh registry grant" if access in (*_ROLES, "none") else ""
        raise InvalidError(
            f"there is no access {access!r}" + did_you_mean(access.lower(), _ACCESS),
            hint=f"{' or '.join(_ACCESS)}{more}",
        )
    visibility = None if public is None else "public" if public else "private"
    try:
        told = sharing.share(bare(name), users or [], access, visibility=visibility)
    except InvalidError as error:
        if "is not a whole name" in error.message:
            error.hint = f"roles on a prefix of names: rh registry grant {bare(name)} lists them, and gives them"
        raise
    _tell_share(told, json=json)


def revoke(
    name: SavedName,
    users: Annotated[list[str], typer.Argument(metavar="USER...", autocompletion=_complete_user, show_default=False)],
    json: AsJson = False,
) -> None:
    """Revoke users' access to a name."""
    from rh.resources import sharing

    _tell_share(sharing.revoke(bare(name), users), json=json)


def bare(name: str) -> str:
    """A name without the `rh://` it may be given with."""
    return name.removeprefix("rh://")


def registry_of(url: str | None) -> Any:
    """The registry that `--registry` names, or the one that is configured."""
    from rh.registry import default, open_registry

    return open_registry(url) if url else default()


def _accounts(url: str | None) -> Accounts:
    from rh.registry.accounts import accounts_of

    return accounts_of(registry_of(url))


def _tell_token(token: str, user: str, *, json: bool) -> None:
    from rh.registry.accounts import parse_token

    if json:
        known = parse_token(token)
        show.emit({"user": user, "id": known and known[0], "token": token})
    else:
        show.line(token)
        show.tell("keep it: it is not shown again")


def _tell_share(told: Share, *, json: bool) -> None:
    if json:
        show.emit(_plain(told) | {"inherited": [_plain(above) for above in told.inherited]})
        return
    rows = [[*who, ""] for who in _roles(told)]
    rows += [[*who, f"from /{above.path}"] for above in reversed(told.inherited) for who in _roles(above)]
    if rows:
        show.table(rows)
    else:
        show.line(f"/{told.path} is shared with nobody")


def _tell_shares(told: list[Share], prefix: str | None, *, json: bool) -> None:
    if json:
        for share in told:
            show.emit(_plain(share))
        return
    show.table([[f"/{share.path}", *who] for share in told for who in _roles(share)])
    if not told:
        show.line(f"nobody has a role on {'what is yours to share' if prefix is None else prefix}")


def _roles(told: Share) -> list[tuple[str, str]]:
    return [("everybody", "read")] * told.public + list(told.roles.items())


def _plain(told: Share) -> dict[str, Any]:
    return {"name": f"/{told.path}", "public": told.public, "roles": dict(told.roles)}
