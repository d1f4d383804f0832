"""One registry of every kind that a team can share, and the homes of the people who share it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rh.testing.servers.registry import RegistryServer

KINDS = ("sqlite", "postgres", "bucket", "directory", "http")


@dataclass
class Shared:
    """A registry that several people use.

    Attributes:
        url: of it, without a secret.
        base: a directory that the people of this test can use.
        variables: what clients need beside the URL. Secret.
        settings: what is in everybody's `config.toml`.
        data: the URL below which they keep their data.
        server: the registry server, if it is one.
    """

    kind: str
    url: str
    base: Path
    data: str
    variables: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""
    server: RegistryServer | None = None

    def home(self, user: str) -> Path:
        """Somebody's home, with the settings in it."""
        home = self.base / "homes" / user / ".rh"
        home.mkdir(parents=True, exist_ok=True)
        if self.settings:
            (home / "config.toml").write_text(self.settings)
        return home

    def environment(self, user: str) -> dict[str, str]:
        """What makes a process that of a user. Secret."""
        home = self.home(user)
        own = self.server.environment(user) if self.server else {"RH_REGISTRY": self.url, "RH_USER": user}
        return {"HOME": str(home.parent), "RH_HOME": str(home), **self.variables, **own}

    def be(self, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """From here on, this process is that of a user."""
        for name, value in self.environment(user).items():
            monkeypatch.setenv(name, value)

    def process(self, user: str, code: str, *words: str, **variables: str) -> subprocess.Popen[str]:
        """A fresh interpreter of a user's, which runs `code`."""
        return subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environment(user), **variables},
        )

    def python(self, user: str, code: str, *words: str, **variables: str) -> str:
        """What a user's Python code prints, in a process of its own."""
        process = self.process(user, code, *words, **variables)
        out, err = process.communicate(timeout=90)
        assert process.returncode == 0, err
        return out

    def rh(self, user: str, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """What a user's `rh …` answers, in a process of its own."""
        code = "import sys; from rh.cli import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **self.environment(user)},
            timeout=90,
            check=False,
        )
        assert done.returncode == expect, done
        return done


def toml(name: str, settings: Mapping[str, Any]) -> str:
    """The settings of a system as they are in `config.toml`."""
    lines = (f"{key} = {json.dumps(value)}" for key, value in settings.items())
    return "\n".join((f"[systems.{name}]", *lines, ""))


@contextmanager
def opened(kind: str, request: pytest.FixtureRequest, base: Path, *, conditional: bool = False) -> Iterator[Shared]:
    """An empty registry of a kind, for one test.

    Args:
        kind: of `KINDS`.
        request: for the servers.
        base: a directory of this test's own.
        conditional: the bucket has to keep its conditions also between two threads, which moto does not.
    """
    base.mkdir(parents=True, exist_ok=True)
    (base / "data").mkdir()
    fresh, data = "t" + secrets.token_hex(6), f"file://{base}/data"
    match kind:
        case "sqlite":
            yield Shared(kind, f"sqlite://{base}/team.db", base, data)
        case "directory":
            yield Shared(kind, f"file://{base}/registry", base, data)
        case "bucket":
            scheme, fixture = ("gs", "gcs_server") if conditional else ("s3", "moto_server")
            server = request.getfixturevalue(fixture)
            place = server.make_bucket(fresh)  # all data of a bucket are in one store, which nobody else is to sweep
            settings = toml(scheme, server.settings(timeout_s=60))
            yield Shared(kind, f"{place}/registry", base, f"{place}/data", settings=settings)
        case "postgres":
            from rh.registry.sql import postgres

            server = request.getfixturevalue("postgres_server")
            variables = {"PGPASSWORD": server.password}
            yield Shared(kind, f"{server.url}?schema={fresh}", base, data, variables=variables)
            postgres._connections.close()
            import psycopg

            with closing(psycopg.connect(server.dsn, autocommit=True)) as db:
                db.execute(f"drop schema if exists {fresh} cascade")
        case "http":
            with RegistryServer(options=["--rate", "100000"]) as running:
                yield Shared(kind, running.url, base, data, server=running)
        case _:
            raise ValueError(kind)
