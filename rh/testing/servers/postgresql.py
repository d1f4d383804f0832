"""A PostgreSQL server: Debian's own, with a fresh cluster, a random password and no durability (it is thrown away)."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rh.errors import UnavailableError, UnsupportedError
from rh.testing.servers.process import LOOPBACK, Server, private_file, program, unguessable

__all__ = ["PostgresServer"]

INSTALL = "apt-get install postgresql"
_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")


class PostgresServer(Server):
    """`postgres` on a loopback port, reached as user `rh`, database `postgres`.

    As root it runs as the account `postgres`, which PostgreSQL's package makes: the server refuses to be root.
    """

    name = "postgres"
    start_timeout_s = 60.0

    def __init__(self) -> None:
        super().__init__()
        self.password = unguessable()

    @property
    def url(self) -> str:
        """Where it is, without the password."""
        return f"postgresql://rh@{LOOPBACK}:{self.port}/postgres"

    @property
    def endpoint(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def dsn(self) -> str:
        """What clients take. Secret."""
        return f"postgresql://rh:{self.password}@{LOOPBACK}:{self.port}/postgres"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def environment(self) -> dict[str, str]:
        """The standard variables that point libpq at this server. Secret."""
        return {
            "PGHOST": LOOPBACK,
            "PGPORT": str(self.port),
            "PGUSER": "rh",
            "PGPASSWORD": self.password,
            "PGDATABASE": "postgres",
        }

    def _prepare(self) -> None:
        if self.data.exists():
            return
        secret = private_file(self.directory / "password", self.password)
        self.data.mkdir(mode=0o700)
        account = _account()
        if account is not None:
            self.directory.chmod(0o711)
            for path in (secret, self.data):
                os.chown(path, account.pw_uid, account.pw_gid)
        words = [
            "--username=rh",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        ]
        done = subprocess.run(
            [*_as_account(), _binary("initdb"), "-D", str(self.data), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.data,
            check=False,
        )
        if done.returncode:
            shutil.rmtree(self.data, ignore_errors=True)
            raise UnavailableError(f"initdb failed: {done.stderr.strip()}", where=str(self.data))

    def _command(self) -> Sequence[str]:
        options = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "32MB",
        }
        words = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        return [*_as_account(), _binary("postgres"), "-D", str(self.data), *words]

    def _ready(self) -> bool:
        command = [_binary("pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port), "-U", "rh", "-d", "postgres"]
        return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=10, check=False).returncode == 0


def _account() -> pwd.struct_passwd | None:
    """Whom to run as instead of root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        raise UnsupportedError("there is no account postgres to run the server as", hint=INSTALL) from None


def _as_account() -> list[str]:
    account = _account()
    if account is None:
        return []
    setpriv = program("setpriv", install="apt-get install util-linux")
    return [setpriv, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--"]


def _binary(name: str) -> str:
    """A program of the newest PostgreSQL there is."""
    found = [str(path) for pattern in _PLACES for path in Path("/").glob(pattern[1:])]
    found.sort(key=lambda path: [int(digits) for digits in re.findall(r"\d+", path)], reverse=True)
    return program(name, install=INSTALL, places=found)
