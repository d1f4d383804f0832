"""Who may use a registry server: users, their tokens, and what they may do where.

`StoredAccounts` (of the server) and `RemoteAccounts` (of its clients) keep this contract; `accounts_of` gives the one
for a registry. A token is `rh_<id>_<secret>`. It is made where it will be used, and only the SHA-256 of its secret is
told to anybody: 24 random bytes need no slow hash.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from rh.errors import InvalidError
from rh.registry.base import Registry

__all__ = [
    "ROLES",
    "Accounts",
    "Credential",
    "Role",
    "Share",
    "User",
    "accounts_of",
    "check_identity",
    "check_path",
    "check_user",
    "new_credential",
    "parse_token",
]

Role: TypeAlias = Literal["read", "write", "admin"]
ROLES: tuple[Role, ...] = ("read", "write", "admin")
"""From the least on; each may do what those before it may."""

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_IDENTITY = re.compile(r"[0-9a-f]{12}")
_TOKEN = re.compile(r"rh_([0-9a-f]{12})_([0-9a-f]{48})")


class User(NamedTuple):
    """Somebody the server knows. `/<name>/…` is theirs."""

    name: str
    admin: bool
    """May do everything, on every name."""


class Credential(NamedTuple):
    """What the server knows about a token. Not its secret."""

    id: str
    user: str
    name: str
    """What its owner calls it."""
    created: float
    expires: float | None
    """Seconds since the epoch."""
    used: float | None
    """When it was last used, to the hour."""
    revoked: bool


class Share(NamedTuple):
    """Who may do what below a prefix of names, beside its owner and admins."""

    path: str
    public: bool
    """Whether everybody may read, without a token."""
    roles: Mapping[str, Role]
    inherited: Sequence[Share] = ()
    """What is said of prefixes above, which holds here as well; the highest one first."""


class Accounts(ABC):
    """The people of one registry. Every change may be repeated without harm."""

    @abstractmethod
    def users(self) -> list[User]:
        """Everybody, by name."""

    @abstractmethod
    def put_user(self, name: str, *, admin: bool = False) -> User:
        """Let somebody in, or change whether they are an admin."""

    @abstractmethod
    def remove_user(self, name: str) -> None:
        """Take a user's tokens and roles away. What they saved stays."""

    @abstractmethod
    def credentials(self, user: str | None = None) -> list[Credential]:
        """Tokens of one user, or of all."""

    @abstractmethod
    def put_credential(
        self, identity: str, sha256: str, *, user: str | None = None, name: str = "", ttl_s: float | None = None
    ) -> Credential:
        """Accept a token from now on.

        Args:
            identity: its id.
            sha256: of its secret, in hex.
            user: whose it is; by default, of who asks.
            name: what it is for.
            ttl_s: for how many seconds; for ever if not given.
        """

    @abstractmethod
    def revoke_credential(self, identity: str) -> None:
        """Accept a token no more."""

    @abstractmethod
    def share(self, path: str) -> Share:
        """Who may do what below `path` (`org/team`, `ada/cats`), and by which prefix.

        All of it is told to the admins of `path`, roles on what lies above included: they answer for who gets in.
        """

    @abstractmethod
    def shares(self, prefix: str | None = None) -> list[Share]:
        """What is said of prefixes and names, by path; not those of which nothing is said.

        Args:
            prefix: only of this, of what lies below it, and of what lies above it. Without one, of all that is ours to
                share.
        """

    @abstractmethod
    def put_share(
        self, path: str, roles: Mapping[str, Role | None] | None = None, *, public: bool | None = None
    ) -> Share:
        """Change who may do what below `path`: users and their role there, `None` for none."""

    def new_token(self, *, user: str | None = None, name: str = "", ttl_s: float | None = None) -> str:
        """Make a token and return it. Nobody can tell it a second time."""
        token, identity, sha256 = new_credential()
        self.put_credential(identity, sha256, user=user, name=name, ttl_s=ttl_s)
        return token


def accounts_of(registry: Registry) -> Accounts:
    """The accounts of a registry: asked of its server, or kept in it."""
    from rh.registry.http import HTTPRegistry, RemoteAccounts

    registry = registry.direct
    if isinstance(registry, HTTPRegistry):
        return RemoteAccounts(registry)
    from rh.registry.base import author
    from rh.registry.server.accounts import StoredAccounts

    return StoredAccounts(registry, by=author())


def new_credential() -> tuple[str, str, str]:
    """A fresh token, its id, and what the server is told: the SHA-256 of its secret."""
    identity, secret = secrets.token_hex(6), secrets.token_hex(24)
    return f"rh_{identity}_{secret}", identity, hashlib.sha256(secret.encode()).hexdigest()


def parse_token(token: str) -> tuple[str, str] | None:
    """The id of a token and the SHA-256 of its secret; `None` for what is no token."""
    match = _TOKEN.fullmatch(token)
    return None if match is None else (match.group(1), hashlib.sha256(match.group(2).encode()).hexdigest())


def check_identity(identity: Any) -> str:
    """Refuse what cannot be the id of a token; one that may be a whole token is not repeated."""
    if not isinstance(identity, str) or not _IDENTITY.fullmatch(identity):
        raise InvalidError("not the id of a token", hint="12 letters and digits, as rh registry token ls tells")
    return identity


def check_user(name: Any) -> str:
    """Refuse what cannot be a user, whose name is the first part of names."""
    if not isinstance(name, str) or not _COMPONENT.fullmatch(name):
        raise InvalidError(f"not the name of a user: {name!r:.80}", hint="letters, digits, '.', '_', '-'")
    return name


def check_path(path: Any) -> str:
    """A prefix of names without its first slash. `InvalidError` for what is none."""
    if isinstance(path, str) and len(path) <= 512:
        bare = path.removeprefix("/").removesuffix("/")
        if all(_COMPONENT.fullmatch(part) for part in bare.split("/")):
            return bare
    raise InvalidError(f"not a prefix of names: {path!r:.80}", hint="/org, /org/team or /org/team/name")
