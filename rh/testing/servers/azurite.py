"""An Azure Blob server: Microsoft's azurite, from npm, in memory, with a throw-away account and key."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rh.errors import UnavailableError, UnsupportedError
from rh.testing.servers.process import LOOPBACK, Server, at, private_file, program
from rh.testing.servers.web import ask

__all__ = ["VERSION", "AzureServer", "install", "installed"]

VERSION = "3.35.0"
ACCOUNT = "devstoreaccount1"
_API = "2021-12-02"
_ENTRY = Path("node_modules", "azurite", "dist", "src", "blob", "main.js")
_NODE = "apt-get install nodejs npm"


def home() -> Path:
    """Where azurite is installed: `$RH_AZURITE`, by default the user's cache directory, one folder per version."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("RH_AZURITE") or Path(base) / "rh" / "playground" / f"azurite-{VERSION}")


def installed() -> bool:
    """Whether azurite is there."""
    return (home() / _ENTRY).exists()


def install(*, timeout_s: float = 600.0) -> Path:
    """Install azurite by npm, unless it is there; the file to run.

    Raises:
        UnsupportedError: there is no npm.
        UnavailableError: npm failed, with the end of what it said.
    """
    place = home()
    if installed():
        return place / _ENTRY
    npm = program("npm", install=_NODE)
    place.parent.mkdir(parents=True, exist_ok=True)
    # Built aside and moved into place at once: an interrupted installation is never taken for a whole one.
    fresh = place.with_name(f"{place.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    command = [npm, "install", "--prefix", str(fresh), "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(
            [*command, f"azurite@{VERSION}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode or not (fresh / _ENTRY).exists():
            raise UnavailableError(
                f"npm could not install azurite:\n{(done.stderr or done.stdout)[-2000:]}", where=str(place)
            )
        try:
            fresh.rename(place)
        except OSError:
            if not (place / _ENTRY).exists():
                raise
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"npm did not finish within {timeout_s:.0f} s", where=str(place)) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return place / _ENTRY


class AzureServer(Server):
    """`azurite-blob` on a loopback port.

    Args:
        containers: made at the start; the first one is the root of `settings()`.
    """

    name = "azure"

    def __init__(self, *, containers: Sequence[str] = ("data",)) -> None:
        super().__init__()
        self.buckets = list(containers)
        self.account = ACCOUNT
        self.key = base64.b64encode(secrets.token_bytes(64)).decode()

    @property
    def endpoint(self) -> str:
        """The account's blob endpoint: its name is the first part of the path, as local servers have it."""
        return f"http://{LOOPBACK}:{self.port}/{self.account}"

    @property
    def url(self) -> str:
        return self.endpoint

    @property
    def connection_string(self) -> str:
        """What SDKs take. Secret."""
        parts = {
            "DefaultEndpointsProtocol": "http",
            "AccountName": self.account,
            "AccountKey": self.key,
            "BlobEndpoint": self.endpoint,
        }
        return "".join(f"{key}={value};" for key, value in parts.items())

    @property
    def connection_string_file(self) -> str:
        """A private file that holds the connection string."""
        return str(self.directory / "connection-string")

    def _file(self, via: int) -> str:
        """A connection string for clients that go through a proxy."""
        return str(private_file(self.directory / f"connection-string-{via}", at(self.connection_string, via)))

    def _prepare(self) -> None:
        private_file(self.directory / "connection-string", self.connection_string)

    def _command(self) -> Sequence[str]:
        entry = home() / _ENTRY
        if not installed():
            raise UnsupportedError(
                "azurite is not installed",
                where=str(home()),
                hint='python -c "from rh.testing.servers import azurite; azurite.install()"',
            )
        return [
            program("node", install=_NODE),
            str(entry),
            *("--blobHost", LOOPBACK, "--blobPort", str(self.port), "--inMemoryPersistence"),
            # The SDKs speak newer protocol versions than the pinned server knows by name.
            *("--skipApiVersionCheck", "--disableTelemetry", "--silent"),
        ]

    def _environment(self) -> Mapping[str, str]:
        return {"AZURITE_ACCOUNTS": f"{self.account}:{self.key}"}

    def _ready(self) -> bool:
        try:
            return ask(self.port, "GET", f"/{self.account}", timeout_s=1.0)[0] >= 400
        except UnavailableError:
            return False

    def _furnish(self) -> None:
        for container in self.buckets:
            self._make(container)

    def make_bucket(self, name: str) -> str:
        """Make one more container; its URL."""
        self._make(name)
        if name not in self.buckets:
            self.buckets.append(name)
        return f"az://{name}"

    def _make(self, name: str) -> None:
        moment = datetime.datetime.now(datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        headers = {"x-ms-date": moment, "x-ms-version": _API}
        path = f"/{self.account}/{name}"
        # "Authorize with Shared Key": eleven empty standard headers, ours, then the resource.
        ours = "".join(f"{key}:{headers[key]}\n" for key in sorted(headers))
        text = "PUT" + "\n" * 12 + ours + f"/{self.account}{path}\nrestype:container"
        mark = hmac.digest(base64.b64decode(self.key), text.encode(), hashlib.sha256)
        headers["Authorization"] = f"SharedKey {self.account}:{base64.b64encode(mark).decode()}"
        ask(self.port, "PUT", f"{path}?restype=container", headers=headers, expect=(201, 409))

    def settings(self, *, root: str | None = None, via: int | None = None, **more: Any) -> dict[str, Any]:
        """Settings of a system on this server: `root` instead of its first container, through a proxy on port `via`."""
        return {
            "kind": "azure",
            "account": self.account,
            "endpoint_url": at(self.endpoint, via),
            "connection_string_file": self.connection_string_file if via is None else self._file(via),
            "root": root or f"az://{self.buckets[0]}",
            **more,
        }

    def environment(self) -> dict[str, str]:
        """The standard variable that points Azure's own libraries at this server. Secret."""
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection_string}
