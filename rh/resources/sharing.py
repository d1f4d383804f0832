"""Letting others at a name: on a registry server, where there are users to tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rh.config import did_you_mean
from rh.errors import InvalidError, NotFoundError, UnsupportedError
from rh.registry import holding, names
from rh.registry.accounts import Accounts, Role, Share
from rh.registry.names import Name
from rh.resources import records

__all__ = ["Shared", "accounts_for", "revoke", "share"]


class Shared:
    """The verbs of a resource that others may be let at. A mix-in of resources with a name."""

    name: str | None

    def share(
        self,
        users: str | list[str] | tuple[str, ...] = (),
        access: Literal["read", "write"] = "read",
        *,
        visibility: Literal["public", "private"] | None = None,
    ) -> Share:
        """Let others read or change this name, its versions and what is said about them. The data is not touched.

        Who may read the bytes is the business of the system they are on: see to it that they may there as well.

        Args:
            users: one or several users of the registry server.
            access: `"read"`, or `"write"`, which is to save, commit, move aliases, rename and forget.
            visibility: `"public"` lets everybody read, also without a token; `"private"` ends that.

        Returns:
            Who may do what now.

        Raises:
            UnsupportedError: the name is not on a registry server.
            AccessError: the name is not ours to share. NotFoundError: there is no such name or user.
        """
        return share(self._shared_name(), users, access, visibility=visibility)

    def revoke(self, users: str | list[str] | tuple[str, ...]) -> Share:
        """Let users at this name no more. Roles on what lies above it stay.

        Raises:
            UnsupportedError, AccessError: as for `share`. NotFoundError: one of them has no role on this name.
        """
        return revoke(self._shared_name(), users)

    def _shared_name(self) -> Name:
        if self.name is None:
            raise InvalidError("only what has a name can be shared", hint='.save("/org/name") first')
        return Name(self.name, label=getattr(self, "version", None))


def share(
    name: str | Name,
    users: str | list[str] | tuple[str, ...] = (),
    access: str = "read",
    *,
    visibility: str | None = None,
) -> Share:
    """`Shared.share` of a name. Without users and visibility it only tells who may do what."""
    whole, accounts = accounts_for(name)
    if access not in ("read", "write"):
        raise InvalidError(f"there is no access {access!r}", hint='"read" or "write"')
    if visibility not in (None, "public", "private"):
        raise InvalidError(f"there is no visibility {visibility!r}", hint='"public" or "private"')
    registry = holding(whole).direct
    if registry.find(whole.key) is None:
        error = records.unknown(whole, registry)
        error.hint = "rh resources lists the names there are; rh registry grant gives a role on a prefix of names"
        raise error
    roles: dict[str, Role | None] = dict.fromkeys(_users(users), "write" if access == "write" else "read")
    if not roles and visibility is None:
        return accounts.share(whole.path)
    public = None if visibility is None else visibility == "public"
    return accounts.put_share(whole.path, roles, public=public)


def revoke(name: str | Name, users: str | list[str] | tuple[str, ...]) -> Share:
    """`Shared.revoke` of a name."""
    whole, accounts = accounts_for(name)
    gone: Mapping[str, Role | None] = dict.fromkeys(_users(users))
    if not gone:
        raise InvalidError("say whom", hint='.revoke("eve")')
    standing = accounts.share(whole.path)
    for user in gone:
        if user not in standing.roles:
            raise NotFoundError(
                f"{user} has no role on /{standing.path}" + did_you_mean(user, tuple(standing.roles)),
                where=str(whole),
                hint="a role on what lies above it is taken away there: rh registry grant PREFIX USER none",
            )
    return accounts.put_share(whole.path, gone)


def accounts_for(name: str | Name) -> tuple[Name, Accounts]:
    """A whole name, and the accounts of the server that has it.

    Raises:
        UnsupportedError: its registry is none behind a server.
    """
    from rh.registry.http import HTTPRegistry, RemoteAccounts

    whole = names.parse(name)
    if whole.pinned or whole.is_built_in:
        raise InvalidError(f"{whole} is not shared by itself", hint=f"share {whole.path}")
    registry = holding(whole).direct
    if not isinstance(registry, HTTPRegistry):
        only = (
            "only this machine knows it"
            if whole.is_local
            else "only a registry server can share, and this registry is none"
        )
        raise UnsupportedError(
            f"{whole} cannot be shared: {only}",
            where=registry.url,
            hint="rh registry serve makes a server of a registry, rh login uses one; names there are /org/name",
        )
    return whole, RemoteAccounts(registry)


def _users(users: str | list[str] | tuple[str, ...]) -> list[str]:
    found = [users] if isinstance(users, str) else list(users)
    for user in found:
        if not isinstance(user, str) or not user:
            raise InvalidError(f"not a user: {user!r:.80}")
    return found
