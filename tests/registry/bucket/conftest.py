"""A registry in a shared directory, one on S3, and people who use them from homes of their own."""

import shutil
from uuid import uuid4

import pytest

from rh import config
from rh.registry import open_registry
from tests.registry.bucket.places import configure


@pytest.fixture
def place(tmp_path):
    return tmp_path / "shared"


@pytest.fixture
def registry(place):
    return open_registry(f"file://{place}")


@pytest.fixture
def on_s3(moto_server):
    configure("s3", moto_server.settings())
    return open_registry(f"s3://{moto_server.buckets[0]}/{uuid4().hex}")


@pytest.fixture
def another_home(tmp_path, monkeypatch):
    """From here on, another person's home, who has the same settings."""

    def move(name):
        home = tmp_path / name
        home.mkdir()
        if (config.home() / "config.toml").exists():
            shutil.copy(config.home() / "config.toml", home)
        monkeypatch.setenv("RH_HOME", str(home))

    return move
