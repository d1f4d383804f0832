"""A table on every system, by the shipped suite."""

from __future__ import annotations

import secrets

import pytest

import rh
from rh import config
from rh.systems import memory
from rh.testing.tables import TableSuite

pytestmark = pytest.mark.servers


class TestFile(TableSuite):
    @pytest.fixture
    def place(self, tmp_path):
        return str(tmp_path / "table")


class TestMemory(TableSuite):
    @pytest.fixture
    def place(self):
        name = f"t{secrets.token_hex(6)}"
        yield f"memory://{name}/table"
        memory.forget(name)


class TestS3(TableSuite):
    """rclone's server, which ignores conditions."""

    @pytest.fixture
    def place(self, world):
        return f"{world['s3']}/table"


@pytest.mark.slow
class TestMoto(TableSuite):
    """moto's S3 server, which checks conditions."""

    @pytest.fixture
    def place(self, moto_server):
        config.register("moto", moto_server.settings())
        return f"moto://{moto_server.buckets[0]}/t{secrets.token_hex(6)}"


@pytest.mark.slow
class TestGCS(TableSuite):
    @pytest.fixture
    def place(self, world):
        return f"{world['gs']}/table"


@pytest.mark.slow
class TestAzure(TableSuite):
    @pytest.fixture
    def place(self, world):
        return f"{world['azure']}/table"


class TestSSH(TableSuite):
    @pytest.fixture
    def place(self, world):
        return f"{world['ssh-a']}/table"


def test_everybody_meets_the_same_table(world, tmp_path):
    """A table goes round all systems, from each to the next, and is the same at the end."""
    first = rh.table(TableSuite().rows(), path=tmp_path / "first").write()
    table = first
    for name in ("s3", "gs", "azure", "ssh-a"):
        table = table.to(path=f"{world[name]}/table")
    assert table.to(path=tmp_path / "last").fetch().equals(first.fetch())
