"""A host for a module's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rh.systems.ssh import SSHSystem
from rh.testing import servers
from tests.systems.hosts import opened


@pytest.fixture(scope="module")
def host() -> Iterator[servers.SSHServer]:
    with servers.ssh() as server:
        yield server


@pytest.fixture(scope="module")
def openssh(host: servers.SSHServer) -> Iterator[SSHSystem]:
    """The login's home, by the system's client; open as long as the module, so that connections are shared."""
    with opened(host, "~", transport="openssh") as system:
        yield system
