"""A registry server (`rh registry serve`) with an admin, `ada`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rh.registry import open_registry
from rh.registry.accounts import new_credential
from rh.registry.server.accounts import StoredAccounts
from rh.testing.servers.process import LOOPBACK, Server, answers

__all__ = ["RegistryServer"]


class RegistryServer(Server):
    """Serves a registry, by default a SQLite file of its own.

    Args:
        registry: the URL of another one.
        options: of `rh registry serve`, beside those of where.
        tls: the files of a certificate and its key.
        variables: of its environment: what it needs to reach that other registry.
    """

    name = "registry"
    grace_s = 10.0

    def __init__(
        self,
        registry: str | None = None,
        *,
        options: Sequence[str] = (),
        tls: tuple[Path, Path] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._variables = dict(variables or {})
        self._registry = registry
        self._options = [*options]
        self._tls = tls
        self._tokens: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{LOOPBACK}:{self.port}"

    @property
    def behind(self) -> str:
        """The URL of the registry it serves."""
        return self._registry or f"sqlite://{self.directory}/registry.db"

    @property
    def accounts(self) -> StoredAccounts:
        """Its users, changed directly in the registry it serves."""
        return StoredAccounts(open_registry(self.behind), by="ada")

    @property
    def audit(self) -> Path:
        """The file of its audit log."""
        return self.directory / "audit.jsonl"

    def token(self, user: str = "ada") -> str:
        """A token of a user, who is let in if not known yet. Secret."""
        if user not in self._tokens:
            token, identity, sha256 = new_credential()
            accounts = self.accounts
            accounts.put_user(user, admin=user == "ada")
            accounts.put_credential(identity, sha256, user=user)
            self._tokens[user] = token
        return self._tokens[user]

    def environment(self, user: str = "ada") -> dict[str, str]:
        """Variables that make it the registry of a user. Secret."""
        return {"RH_REGISTRY": self.url, "RH_REGISTRY_TOKEN": self.token(user), "RH_USER": user}

    def _environment(self) -> dict[str, str]:
        return {"RH_HOME": str(self.directory / "home"), **self._variables}

    def _prepare(self) -> None:
        self.token()

    def _command(self) -> Sequence[str]:
        tls = () if self._tls is None else ("--tls-cert", str(self._tls[0]), "--tls-key", str(self._tls[1]))
        where = ("--registry", self.behind, "--host", LOOPBACK, "--port", str(self.port), "--audit", str(self.audit))
        code = "import sys; from rh.cli import main; sys.exit(main())"
        return [sys.executable, "-c", code, "registry", "serve", *where, *tls, *self._options]

    def _ready(self) -> bool:
        return answers(self.port)
