"""A server, and the people who use it."""

import pytest

from rh.registry.http import HTTPRegistry
from rh.testing.servers.registry import RegistryServer
from rh.versions.series import new_series


@pytest.fixture(scope="module")
def server():
    with RegistryServer(options=["--rate", "100000"]) as server:
        for user in ("bob", "eve"):
            server.token(user)
        yield server


@pytest.fixture
def people(server, monkeypatch):
    """A registry as each user sees it. Names are in an organisation of this test's own."""

    class Client(HTTPRegistry):
        def __init__(self, user):
            super().__init__(server.url)
            self.mine = None if user is None else server.token(user)

        def _send(self, verb, method, path, query, body, token, left):
            return super()._send(verb, method, path, query, body, token or self.mine, left)

    monkeypatch.delenv("RH_REGISTRY_TOKEN", raising=False)
    return Client


@pytest.fixture
def org():
    return f"org{new_series()[:8]}"
