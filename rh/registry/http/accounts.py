"""The people of a registry server, asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from rh.registry.accounts import Accounts, Credential, Role, Share, User, check_identity, check_path, check_user
from rh.registry.http.wire import share_of

if TYPE_CHECKING:
    from rh.registry.http import HTTPRegistry

__all__ = ["RemoteAccounts"]


class RemoteAccounts(Accounts):
    """The accounts of a server, as far as our token goes there."""

    def __init__(self, registry: HTTPRegistry) -> None:
        self.registry = registry

    def users(self) -> list[User]:
        told = self.registry.ask("users", "GET", "/v1/users")
        return self.registry.understood(lambda told: [User(**one) for one in told["users"]], told)

    def put_user(self, name: str, *, admin: bool = False) -> User:
        told = self.registry.ask("put_user", "PUT", _path("users", check_user(name)), body={"admin": admin})
        return self.registry.understood(lambda told: User(**told), told)

    def remove_user(self, name: str) -> None:
        self.registry.ask("remove_user", "DELETE", _path("users", check_user(name)))

    def credentials(self, user: str | None = None) -> list[Credential]:
        told = self.registry.ask("tokens", "GET", "/v1/tokens", {"user": user} if user else None)
        return self.registry.understood(lambda told: [Credential(**one) for one in told["credentials"]], told)

    def put_credential(
        self, identity: str, sha256: str, *, user: str | None = None, name: str = "", ttl_s: float | None = None
    ) -> Credential:
        body = {"sha256": sha256, "user": user, "name": name, "ttl_s": ttl_s}
        told = self.registry.ask("put_token", "PUT", _path("tokens", check_identity(identity)), body=body)
        return self.registry.understood(lambda told: Credential(**told), told)

    def revoke_credential(self, identity: str) -> None:
        self.registry.ask("revoke_token", "DELETE", _path("tokens", check_identity(identity)))

    def share(self, path: str) -> Share:
        return self.registry.understood(share_of, self.registry.ask("share", "GET", "/v1/shares", {"path": path}))

    def shares(self, prefix: str | None = None) -> list[Share]:
        query = None if prefix is None else {"prefix": check_path(prefix)}
        told = self.registry.ask("shares", "GET", "/v1/grants", query)
        return self.registry.understood(lambda told: [share_of(one) for one in told["shares"]], told)

    def put_share(
        self, path: str, roles: Mapping[str, Role | None] | None = None, *, public: bool | None = None
    ) -> Share:
        body = {"path": path, "roles": dict(roles or {}), "public": public}
        return self.registry.understood(share_of, self.registry.ask("put_share", "PUT", "/v1/shares", body=body))


def _path(*parts: str) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)
