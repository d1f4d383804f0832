"""What the tests of SSH hosts share: handles on a host, and the roads there."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from rh.systems.ssh import SSHSystem
from rh.testing import servers
from rh.types import Location

TRANSPORTS = pytest.mark.parametrize("transport", ["openssh", "paramiko"])
ROADS = pytest.mark.parametrize("far", ["python", "sftp"])


def opened(server: servers.SSHServer, path: str | None = None, **more: Any) -> SSHSystem:
    """A directory of its own on a host, or `path`."""
    settings = server.settings(**{"timeout_s": 20, **more})
    return SSHSystem.open(Location("ssh-a", path or f"~/{uuid.uuid4().hex}"), settings)


def fresh(top: SSHSystem) -> SSHSystem:
    """An empty root that exists."""
    name = uuid.uuid4().hex
    top.write(f"{name}/", b"")
    return top.at(name)
