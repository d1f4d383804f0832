"""Versions of objects that a bucket keeps by itself: a reference means one of them, whatever is there now."""

from __future__ import annotations

import json
import secrets
import urllib.request
from collections.abc import Iterator

import pytest

import rh
from rh import config, errors
from rh import digest as digests
from rh.resources import places
from rh.systems import locate, open_system
from rh.testing import servers
from rh.versions.nodes import Child, Node
from rh.versions.store import Store, place_of
from rh.versions.verify import files_of

FILES = {"a.txt": b"one", "sub/b.bin": b"two" * 1000, "sub/c d.bin": bytes(range(256)), "kept": b"kept", "empty": b""}


@pytest.fixture(autouse=True, scope="module")
def _connections_closed() -> Iterator[None]:
    """The connections that resources keep end with the module."""
    yield
    places.close()


_ON = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"


def _ask(url: str, method: str, data: bytes, kind: str) -> None:
    request = urllib.request.Request(url, data, {"Content-Type": kind}, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


@pytest.fixture(params=["s3", "gs", "azure"])
def keeping(request: pytest.FixtureRequest) -> str:
    """A system whose bucket keeps what is overwritten or deleted."""
    name = f"keeping-{secrets.token_hex(4)}"
    if request.param == "s3":
        moto = request.getfixturevalue("moto_server")
        url = moto.make_bucket(name)
        _ask(f"{moto.endpoint}/{name}?versioning", "PUT", _ON, "application/xml")
        config.register("keeping", moto.settings(root=url))
    elif request.param == "azure":
        versions = request.getfixturevalue("azure_versions_server")
        versions.behind.make_bucket(name)
        config.register("keeping", versions.settings(root=f"az://{name}"))
    else:
        gcs = request.getfixturevalue("gcs_server")
        document = {"name": name, "versioning": {"enabled": True}}
        _ask(f"{gcs.endpoint}/storage/v1/b?project=p", "POST", json.dumps(document).encode(), "application/json")
        config.register("keeping", gcs.settings(root=f"gs://{name}"))
    return "keeping"


def changed(live: rh.Folder) -> None:
    """Overwrite one file and delete another."""
    live.put({"a.txt": b"something else"}, overwrite=True)
    live.rm("sub/c d.bin")


def test_what_was_adopted_is_read_as_it_was(keeping: str) -> None:
    live = rh.folder(path="live", system=keeping)
    live.put(FILES)
    made = live.adopt("cats")
    version = rh.folder("cats:v1")
    assert version.verify().replaced == ()
    changed(live)
    config.home().joinpath("cache").rename(config.home() / "gone")
    assert {name: version.get(name) for name in FILES} == FILES
    assert version.open("sub/b.bin").read() == FILES["sub/b.bin"]
    found = version.verify()
    assert found.ok
    assert (found.replaced, found.digest) == (("a.txt", "sub/c d.bin"), made.digest)
    assert "replaced: 2" in str(found)


def test_a_reference_in_a_draft_is_one_of_those(keeping: str, tmp_path) -> None:
    outside = rh.folder(path="outside", system=keeping)
    outside.put(FILES)
    (tmp_path / "here").mkdir()
    folder = rh.folder(path=tmp_path / "here").save("mixed")
    with folder.draft() as draft:
        draft.add_reference(outside.url, path="all")
        draft.add_reference(f"{outside.url}/a.txt", path="one")
    changed(outside)
    version = rh.folder("mixed:v1")
    assert version.get("one") == FILES["a.txt"]
    assert {name: version.get(f"all/{name}") for name in FILES} == FILES


def test_a_host_fetches_just_that_version(keeping: str, ssh_a: servers.SSHServer, tmp_path) -> None:
    live = rh.folder(path="live", system=keeping)
    live.put(FILES)
    made = live.adopt("cats")
    changed(live)
    config.register("ssh-a", ssh_a.settings(root=str(tmp_path)))
    there = rh.folder("cats:v1").to(system="ssh-a", path="there")
    assert there.receipt is not None
    assert there.receipt.route == "PULL"
    assert there.digest() == made.digest
    copy = rh.folder("cats:v1").to(system=keeping, path="copy")
    assert copy.digest() == made.digest
    assert copy.receipt is not None
    assert copy.receipt.route in ("COPY", "COPY+RELAY")  # S3 is asked to copy only what is still there


def test_what_the_bucket_gave_up_is_drift(keeping: str) -> None:
    """A version that is not kept any more, or is not that of the record, is not taken for what was meant."""
    live = rh.folder(path="live", system=keeping)
    live.put(FILES)
    made = live.adopt("cats")
    store = Store(open_system(place_of(locate("live", keeping))))
    tree = dict(files_of(store, store.root(store.tree(made.digest))))
    where = tree["a.txt"].where
    assert len(where) == 5
    lost = tree["a.txt"]._replace(where=(*where[:4], "1"))
    with store.open(lost, key="a.txt") as body:
        assert body.read() == FILES["a.txt"]
    live.put({"a.txt": b"something else"}, overwrite=True)
    config.home().joinpath("cache").rename(config.home() / "gone")
    with pytest.raises(errors.ConflictError, match="has changed since"):
        store.open(lost, key="a.txt").read()


def test_objects_that_are_older_than_the_versioning_of_their_bucket(moto_server: servers.MotoServer) -> None:
    name = f"late-{secrets.token_hex(4)}"
    config.register("late", moto_server.settings(root=moto_server.make_bucket(name)))
    live = rh.folder(path="live", system="late")
    live.put(FILES)
    _ask(f"{moto_server.endpoint}/{name}?versioning", "PUT", _ON, "application/xml")
    live.put({"new": b"of a version"})
    live.adopt("cats")
    changed(live)
    live.put({"new": b"changed"}, overwrite=True)
    config.home().joinpath("cache").rename(config.home() / "gone")
    version = rh.folder("cats:v1")
    assert {key: version.get(key) for key in FILES} == FILES
    assert version.get("new") == b"of a version"
    assert version.verify().replaced == ("a.txt", "new", "sub/c d.bin")


@pytest.mark.parametrize("kind", ["moto", "azure"])
def test_buckets_that_keep_nothing_have_plain_references(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(f"{kind}_server")
    scheme = "s3" if kind == "moto" else "az"
    config.register("plain", server.settings(root=f"{scheme}://{server.buckets[0]}/plain-{secrets.token_hex(4)}"))
    live = rh.folder(path="live", system="plain")
    live.put(FILES)
    made = live.adopt("cats")
    store = Store(open_system(place_of(locate("live", "plain"))))
    places_ = {key: child.where for key, child in files_of(store, store.root(store.tree(made.digest)))}
    assert {len(where) for where in places_.values() if where[0] == "r"} == {4}
    changed(live)
    with pytest.raises(errors.ConflictError, match="has changed since"):
        rh.folder("cats:v1").get("a.txt")
    with pytest.raises(errors.IntegrityError, match="a file that a version refers to is gone"):
        rh.folder("cats:v1").get("sub/c d.bin")


def test_records_with_and_without_a_version_are_read() -> None:
    """A record that was written before there were versions in references is what it was."""
    digest = digests.of_bytes(b"abc").text
    for where in (("r", "s3", "b/k", "etag"), ("r", "s3", "b/k", None), ("r", "s3", "b/k", "etag", "v1")):
        node = Node.of([Child("file", b"k", 3, digest, executable=False, where=where)])
        assert Node.decode(node.encode(), node.digest, "here").children[0].where == where
    for where in (("r", "s3", "b/k"), ("r", "s3", "b/k", "etag", ""), ("r", "s3", "b/k", "etag", 7)):
        node = Node.of([Child("file", b"k", 3, digest, executable=False, where=where)])
        with pytest.raises(errors.IntegrityError, match="cannot be"):
            Node.decode(node.encode(), node.digest, "here")
