"""Folders on every kind of place: this disk, memory, and real servers."""

import secrets

import pytest

import rh
from rh.resources import places
from rh.systems import memory

PLACES = ("file", "memory", "s3", "gs", "azure", "ssh-a")


@pytest.fixture(params=PLACES)
def folder(request, tmp_path):
    """An empty folder of this test's own, on each system in turn. On a disk it exists."""
    if request.param == "file":
        place = tmp_path / "folder"
        place.mkdir()
        return rh.folder(path=place)
    if request.param == "memory":
        return rh.folder(path=f"memory://{secrets.token_hex(4)}/folder").mkdir()
    request.getfixturevalue("world")
    return rh.folder(path="folder", system=request.param).mkdir()


@pytest.fixture
def here(tmp_path):
    """An empty folder of this test's own, on this disk."""
    place = tmp_path / "here"
    place.mkdir()
    return rh.folder(path=place)


@pytest.fixture(autouse=True)
def _empty_memory():
    """Stores in memory last as long as the process; here, as long as the test."""
    yield
    for store in list(memory._stores):
        memory.forget(store)


@pytest.fixture(autouse=True, scope="module")
def _connections_closed():
    """The connections that resources keep end with the module."""
    yield
    places.close()
