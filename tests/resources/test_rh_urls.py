"""`rh://` in Python: what the command line takes as a place is one for `rh.folder`, `rh.blob`, `rh.table` and `.to`."""

from __future__ import annotations

import pickle

import pytest

import rh
from rh import errors
from rh.resources import places
from rh.types import Location
from rh.versions.layout import place_of
from rh.versions.system import location_of


@pytest.fixture
def saved(tmp_path):
    """`/acme/c` with one version, changed since; `/acme/t` is a table, `~/b` a blob."""
    folder = rh.folder(name="/acme/c", path=tmp_path / "c").save()
    folder.put({"a.txt": b"old", "d0/x.txt": b"x", "d0/e/y.txt": b"y"})
    folder.commit()
    folder.put({"a.txt": b"new"}, overwrite=True)
    rh.table({"n": [1, 2]}, name="/acme/t", path=f"{tmp_path}/t").save().commit()
    rh.blob({"n": 1}, name="b", path=f"{tmp_path}/b.json").save().commit()
    return folder


@pytest.fixture(autouse=True)
def _registry(monkeypatch, tmp_path):
    monkeypatch.setenv("RH_REGISTRY", f"sqlite:///{tmp_path}/registry.db")


def test_a_folder(saved):
    pinned = rh.folder(path="rh:///acme/c:v1")
    assert (pinned, pinned.version) == (rh.folder("/acme/c:v1"), "v1")
    assert rh.folder("rh:///acme/c:v1") == rh.load("rh:///acme/c:v1") == pinned
    assert pinned.get("a.txt") == b"old"
    assert rh.folder(path="rh:///acme/c") == saved
    below = rh.folder(path="rh:///acme/c:v1/d0")
    assert below.ls(full_paths=False) == ["e/", "x.txt"]
    assert below.pin == pinned.pin
    assert pickle.loads(pickle.dumps(below)).get("e/y.txt") == b"y"
    assert rh.folder(path="rh:///acme/c/d0").url == saved.url + "/d0"
    assert rh.folder("rh:///acme/c", version="v1") == pinned
    assert rh.folder(system="rh:///acme/c:v1", path="d0").get("x.txt") == b"x"
    assert rh.exists("rh:///acme/c:v1")
    assert not rh.exists("rh:///acme/c:v2")


def test_what_is_in_a_version_is_not_written(saved):
    below = rh.folder(path="rh:///acme/c:v1/d0")
    for write in (
        lambda: below.put({"z": b""}),
        lambda: below.rm("x.txt"),
        lambda: rh.blob(b"z", path="rh:///acme/c:v1/d0/z").write(),
        lambda: saved.to(path="rh:///acme/c:v1/d0"),
        lambda: rh.table({"n": [1]}, path="rh:///acme/c:v1/d0/t").write(),
        lambda: below.save("other"),
    ):
        with pytest.raises(errors.ImmutableVersionError):
            write()
    copy = below.to(path="rh:///acme/c/copied")
    assert copy.get("x.txt") == saved.get("copied/x.txt") == b"x"


def test_a_blob_and_a_table(saved):
    assert rh.blob(path="rh:///acme/c:v1/a.txt").read() == b"old"
    assert rh.blob(path="rh:///acme/c/a.txt").read() == b"new"
    assert rh.blob(path="rh://b:v1").fetch() == rh.blob(name="rh://b").fetch() == {"n": 1}
    table = rh.table(path="rh:///acme/t:v1")
    assert (table.version, table.fetch()) == ("v1", {"n": [1, 2]})
    assert rh.table(name="rh:///acme/t") == rh.table(name="/acme/t")
    saved.put({"rows.csv": b"n\n7\n"})
    saved.commit()
    assert rh.table(path="rh:///acme/c:v2/rows.csv").fetch().to_pydict() == {"n": [7]}
    rh.blob(b"live", path="rh:///acme/c/d0/live").write()
    assert saved.get("d0/live") == b"live"


def test_what_makes_no_sense_is_told(saved):
    with pytest.raises(errors.NotFoundError, match="no such"):
        rh.folder(path="rh:///acme/c:v1/d9").ls()
    with pytest.raises(errors.NotFoundError, match="v9"):
        rh.folder(path="rh:///acme/c:v9/d0")
    with pytest.raises(errors.NotFoundError, match="nothing"):
        rh.folder(path="rh:///acme/other/d0")
    for wrong, told in (
        (lambda: rh.folder(path="rh://b"), "b is a blob"),
        (lambda: rh.blob(path="rh:///acme/c"), "c is a folder"),
        (lambda: rh.folder(path="rh://b/x"), "nothing is in it"),
        (lambda: rh.folder(path="rh://"), "needs a name"),
        (lambda: rh.folder(path="rh:///acme/c", system="memory"), "both say where"),
        (lambda: rh.folder(path="rh:///acme/c:v1/../d0"), "does not stay below"),
        (lambda: rh.load("rh:///acme/c:v1/d0"), "below one is a place"),
        (lambda: rh.systems.locate("rh:///acme/c"), "a place itself"),
        (lambda: rh.folder(path="rh://^here"), "has no place"),
    ):
        with pytest.raises(errors.InvalidError, match=told):
            wrong()


def test_places_are_told_as_urls(saved, tmp_path):
    """Where a version refers to files, and where a place cannot keep versions."""
    files = rh.folder(name="adopted", path=tmp_path / "files").save()
    files.put({"x": b"1"})
    files.adopt()
    files.put({"x": b"22"}, overwrite=True)
    with pytest.raises(errors.ConflictError) as caught:
        rh.folder("adopted:v1").get("x")
    assert caught.value.where == f"file://{tmp_path}/files/x"
    with pytest.raises(errors.UnsupportedError) as caught:
        place_of(Location("https://example.org?sig=secret", "/a"))
    assert caught.value.where == "https://example.org/a"


def test_a_version_on_a_host_travels(saved):
    """What another process needs to find the store of a version that is on a host only this one knows."""
    location = location_of(Location("gpu", "/srv/store"), "sha256:" + "0" * 64)
    with pytest.raises(errors.NotFoundError, match="gpu"):
        places.settle(location, None)
    rh.config.register("gpu", {"kind": "ssh", "host": "gpu.example.org"})
    host = places.portable(location)
    assert (host["kind"], host["host"]) == ("ssh", "gpu.example.org")
    rh.config.register("gpu", None)
    places.settle(location, host)
    assert rh.config.system("gpu")["host"] == "gpu.example.org"
    places.settle(location_of(Location("ssh://me@host:2222", "/srv/store"), "sha256:" + "0" * 64), None)
