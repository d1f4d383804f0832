"""Versions on their way: from where their bytes are, not through here, and compared with what they are versions of."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import rh
from rh import config, observe, transfer
from rh.errors import IntegrityError, TransferError
from rh.resources import places
from rh.systems import locate, open_system
from rh.testing import servers
from rh.versions.gc import collect
from rh.versions.layout import object_key, pack_key
from rh.versions.store import Store, place_of
from rh.versions.system import location_of
from rh.versions.verify import files_of
from tests.versions.made import commit

BUCKETS = ["s3", "gs", "azure"]
HOSTS = ["ssh-a", "plain", "fenced"]
SMALL = 300
LARGE = 2

pytestmark = [pytest.mark.slow]


@pytest.fixture(autouse=True, scope="module")
def _connections_closed() -> Iterator[None]:
    """The connections that resources keep end with the module."""
    yield
    places.close()


def tree(top: Path) -> dict[str, bytes]:
    """Small files that go into a pack, equal ones among them, larger ones, an executable, and what is empty."""
    chance = random.Random(5)
    files = {f"sub {n % 7}/{n:03}.bin": chance.randbytes(2_000 + n) for n in range(SMALL)}
    files |= {f"twin/{n}": b"the same" * 100 for n in range(5)}
    files |= {f"large/{n}.bin": chance.randbytes((2 << 20) + n) for n in range(LARGE)}
    files |= {"huge.bin": chance.randbytes((17 << 20) + 1), "empty": b"", "run.sh": b"#!/bin/sh\n"}
    for key, data in files.items():
        path = top / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (top / "run.sh").chmod(0o755)
    (top / "void").mkdir()
    return files


def version_on(system: str, tmp_path: Path, name: str = "cats") -> tuple[rh.Folder, dict[str, bytes]]:
    """A version whose store is on a system, and what is in it."""
    files = tree(tmp_path / "made")
    live = rh.folder(path=tmp_path / "made").to(system=system, path="live").save(name)
    live.commit()
    return rh.folder(f"{name}:v1"), files


def same(found: rh.Folder, files: dict[str, bytes], digest: str | None) -> None:
    assert found.receipt is not None
    assert (found.receipt.files, found.receipt.done, found.receipt.failed) == (len(files), len(files), ())
    assert found.receipt.digest == digest == found.digest()
    assert found.verify()
    assert all(found.get(key) == data for key, data in files.items())
    assert found.location.system not in HOSTS or "void/" in found.ls(full_paths=False)


def passed(counts: observe.Counts) -> int:
    """Bytes that went through here."""
    return sum(counts.sent.values()) + sum(counts.received.values())


def fence(host: servers.SSHServer) -> None:
    """Configure a host that no bucket can be reached from, `fenced`."""
    python = host.home / "fenced-python"
    python.write_text('#!/bin/sh\nhttp_proxy=http://127.0.0.1:9 exec python3 "$@"\n')
    python.chmod(0o755)
    config.register("fenced", {**config.system("ssh-a"), "python": str(python), "retry_s": 1})


def flip(system: str, digest: str, key: str) -> None:
    """Damage a packed file in its store."""
    store = Store(open_system(place_of(locate("live", system))))
    child = dict(files_of(store, store.root(store.tree(digest))))[key]
    _, pack, offset = child.where
    with store.system.read(pack_key(pack)) as body:
        data = bytearray(body.read())
    data[offset] ^= 1
    store.system.write(pack_key(pack), bytes(data))


@pytest.mark.parametrize("store", BUCKETS)
def test_a_host_fetches_a_version_from_a_bucket(store: str, world: dict[str, str], tmp_path: Path) -> None:
    """Packed files by few ranges, others whole; nothing of it passes here."""
    version, files = version_on(store, tmp_path)
    digest = version.digest()
    shutil.rmtree(config.home() / "cache")
    with observe.counting() as counts:
        there = version.to(system="ssh-a", path="fetched")
    assert there.receipt is not None
    assert there.receipt.route == "PULL", there.receipt
    # The directories of the version come here, once, and the manifest of the copy goes there.
    assert passed(counts) < 80_000
    same(there, files, digest)
    assert [entry.key for entry in open_system(there.location).list() if entry.executable] == ["run.sh"]
    again = version.to(system="ssh-a", path="fetched")
    assert again.receipt is not None
    assert (again.receipt.done, again.receipt.bytes_moved, again.receipt.route) == (0, 0, "NONE")


def test_pieces_of_large_files_are_put_together_on_the_host(world: dict[str, str], tmp_path: Path) -> None:
    with config.override({"chunk_from_mb": 1}):
        version, files = version_on("s3", tmp_path)
    digest = version.digest()
    with observe.counting() as counts:
        there = version.to(system="ssh-a", path="fetched")
    assert there.receipt is not None
    assert there.receipt.route == "PULL", there.receipt
    assert passed(counts) < 100_000
    same(there, files, digest)


def test_what_a_sweep_has_put_elsewhere_is_fetched_from_there(world: dict[str, str]) -> None:
    store = Store.at(place_of(locate("live", "s3")))
    chance = random.Random(3)
    kept = {f"kept/{n}": chance.randbytes(2_000) for n in range(12)}
    commit(store, dict(sorted((kept | {f"spare/{n}": chance.randbytes(8_000) for n in range(12)}).items())))
    tree = commit(store, kept)
    store.ref("kept", tree.digest)
    assert len(collect(store, older_than_s=-60).rewritten) == 1
    with observe.counting() as counts:
        receipt = transfer.copy_tree(location_of(store.system.location, tree.digest), locate("fetched", "ssh-a"))
    assert (receipt.route, receipt.done, receipt.digest) == ("PULL", 12, tree.digest)
    assert passed(counts) < 12 * 2_000


def test_what_is_damaged_in_the_store_never_arrives(world: dict[str, str], tmp_path: Path) -> None:
    """The host compares before it publishes, and the error tells where the store is damaged."""
    version, files = version_on("s3", tmp_path)
    shutil.rmtree(config.home() / "cache")
    flip("s3", version.digest(), "sub 3/010.bin")
    with pytest.raises(TransferError, match="does not have the bytes of the version") as caught:
        version.to(system="ssh-a", path="damaged")
    receipt = caught.value.receipt
    assert [(failure.key, type(failure.error)) for failure in receipt.failed] == [("sub 3/010.bin", IntegrityError)]
    assert receipt.done == len(files) - 1
    there = open_system(locate("damaged", "ssh-a"))
    assert "sub 3/010.bin" not in [entry.key for entry in there.list()]


def test_without_python_or_links_the_bytes_pass_here(
    world: dict[str, str], ssh_a: servers.SSHServer, s3_server: servers.S3Server, tmp_path: Path
) -> None:
    version, files = version_on("s3", tmp_path)
    digest = version.digest()
    config.register("plain", {**config.system("ssh-a"), "far": "sftp"})
    there = version.to(system="plain", path="plain")
    assert there.receipt is not None
    assert there.receipt.route == "RELAY"
    assert "passed through this machine" in str(there.receipt)
    same(there, files, digest)
    open_server = {**s3_server.settings(), "anonymous": True}
    config.register("s3", {**config.system("s3"), **open_server})
    there = version.to(system="ssh-a", path="relayed")
    assert there.receipt is not None
    assert there.receipt.route == "RELAY"
    same(there, files, digest)


def test_a_host_that_does_not_reach_the_bucket_gets_it_from_here(
    world: dict[str, str], ssh_a: servers.SSHServer, tmp_path: Path
) -> None:
    version, files = version_on("s3", tmp_path)
    fence(ssh_a)
    there = version.to(system="fenced", path="fenced")
    assert there.receipt is not None
    assert there.receipt.route == "RELAY"
    same(there, files, version.digest())


def test_a_version_is_copied_on_its_host(world: dict[str, str], tmp_path: Path) -> None:
    version, files = version_on("ssh-a", tmp_path)
    digest = version.digest()
    with observe.counting() as counts:
        there = version.to(system="ssh-a", path="copied")
    assert there.receipt is not None
    assert there.receipt.route == "COPY"
    assert passed(counts) < 80_000
    same(there, files, digest)
    assert [entry.key for entry in open_system(there.location).list() if entry.executable] == ["run.sh"]


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_host_sends_a_version_to_a_bucket(bucket: str, world: dict[str, str], tmp_path: Path) -> None:
    version, files = version_on("ssh-a", tmp_path)
    digest = version.digest()
    with observe.counting() as counts:
        there = version.to(system=bucket, path="sent")
    assert there.receipt is not None
    assert there.receipt.route == "PUSH", there.receipt
    assert passed(counts) < 400_000  # a signature, and an answer, for each file
    same(there, files, digest)
    again = version.to(system=bucket, path="sent")
    assert again.receipt is not None
    assert (again.receipt.done, again.receipt.bytes_moved, again.receipt.route) == (0, 0, "NONE")


def test_a_version_goes_from_host_to_host(world: dict[str, str], ssh_a: servers.SSHServer, tmp_path: Path) -> None:
    version, files = version_on("ssh-a", tmp_path)
    digest = version.digest()
    with servers.ssh(alias="ssh-c") as other:
        (other.home / "root").mkdir()
        config.register("ssh-c", other.settings(root=str(other.home / "root")))
        ssh_a.trust(other)
        try:
            with observe.counting() as counts:
                there = version.to(system="ssh-c", path="sent")
            assert there.receipt is not None
            assert there.receipt.route == "PUSH"
            assert passed(counts) < 100_000
            same(there, files, digest)
            assert [entry.key for entry in open_system(there.location).list() if entry.executable] == ["run.sh"]
        finally:
            ssh_a.distrust()
            places.close()


def test_a_host_that_does_not_reach_a_bucket_sends_by_way_of_here(
    world: dict[str, str], ssh_a: servers.SSHServer, tmp_path: Path
) -> None:
    fence(ssh_a)
    version, files = version_on("fenced", tmp_path)
    there = version.to(system="s3", path="sent")
    assert there.receipt is not None
    assert there.receipt.route == "RELAY"
    same(there, files, version.digest())


@pytest.mark.parametrize("way", ["send", "fetch"])
def test_a_road_that_ends_leaves_no_file_unaccounted_for(
    way: str, world: dict[str, str], ssh_a: servers.SSHServer
) -> None:
    """Promise 3: of live files, which have no other road, also those are failed that were not even tried."""
    fence(ssh_a)
    source, target = ("fenced", "s3") if way == "send" else ("s3", "fenced")
    live = rh.folder(path="live", system=source).mkdir()
    live.put({f"{number:04}": b"%d" % number for number in range(5_000)})
    with pytest.raises(TransferError, match="5,000 of 5,000 files did not arrive") as caught:
        live.to(target, path="there")
    receipt = caught.value.receipt
    assert (receipt.files, receipt.done, receipt.skipped) == (5_000, 0, 0)
    assert len(receipt.failed) == 5_000
    others = [one for one in receipt.failed if str(one.error).startswith("given up with another file: ")]
    own = [one for one in receipt.failed if one not in others]
    assert others
    assert all(one.error.where in (receipt.source_url, receipt.target_url, f"{receipt.target_url}/{one.key}",
                                   f"{receipt.source_url}/{one.key}") for one in own)  # fmt: skip


def test_what_is_damaged_on_a_host_never_arrives(world: dict[str, str], tmp_path: Path) -> None:
    version, files = version_on("ssh-a", tmp_path)
    store = Store(open_system(place_of(locate("live", "ssh-a"))))
    child = dict(files_of(store, store.root(store.tree(str(version.digest())))))["huge.bin"]
    assert child.where == ("o",)
    sound = store.system.read(object_key(child.digest)).read()
    store.system.write(object_key(child.digest), sound[:5] + bytes([sound[5] ^ 1]) + sound[6:])
    try:
        with pytest.raises(TransferError, match="the store does not have the bytes") as caught:
            version.to(system="s3", path="damaged")
    finally:
        store.system.write(object_key(child.digest), sound)  # other tests have the same file in this store
    assert [failure.key for failure in caught.value.receipt.failed] == ["huge.bin"]
    assert caught.value.receipt.done == len(files) - 1
    assert "huge.bin" not in [entry.key for entry in open_system(locate("damaged", "s3")).list()]


@pytest.mark.parametrize("store", BUCKETS)
def test_a_bucket_copies_what_it_can_and_the_rest_is_relayed(store: str, world: dict[str, str], tmp_path: Path) -> None:
    version, files = version_on(store, tmp_path)
    digest = version.digest()
    shutil.rmtree(config.home() / "cache")
    with observe.counting() as counts:
        there = version.to(system=store, path="copied")
    assert there.receipt is not None
    assert there.receipt.route == "COPY+RELAY"
    copied = {key for key, data in files.items() if not data or len(data) >= 1 << 20}
    relayed = sum(len(data) for key, data in files.items() if key not in copied)
    assert any(note.startswith(f"COPY: {len(copied)} files") for note in there.receipt.notes), there.receipt.notes
    assert any(note.startswith("RELAY: ") for note in there.receipt.notes)
    assert passed(counts) < 3 * relayed
    same(there, files, digest)


@pytest.mark.parametrize("store", BUCKETS)
def test_what_a_version_refers_to_goes_the_same_roads(store: str, world: dict[str, str], tmp_path: Path) -> None:
    files = tree(tmp_path / "made")
    live = rh.folder(path=tmp_path / "made").to(system=store, path="live")
    made = live.adopt("cats")
    version = rh.folder("cats:v1")
    total = sum(map(len, files.values()))
    for target, route in (("ssh-a", "PULL"), (store, "COPY")):
        with observe.counting() as counts:
            there = version.to(system=target, path="there")
        assert there.receipt is not None
        assert there.receipt.route == route, there.receipt
        assert passed(counts) < total / 50
        same(there, files, made.digest)
    live.put({"large/0.bin": files["large/1.bin"], "twin/1": b"THE SAME" * 100}, overwrite=True)
    for target in ("ssh-a", store):
        with pytest.raises(TransferError, match="a file that a version refers to has changed since") as caught:
            version.to(system=target, path="drifted")
        assert [failure.key for failure in caught.value.receipt.failed] == ["large/0.bin", "twin/1"]
        keys = [entry.key for entry in open_system(locate("drifted", target)).list()]
        assert "twin/1" not in keys
        assert "twin/2" in keys


def test_what_a_version_refers_to_on_a_host_is_copied_there(world: dict[str, str], tmp_path: Path) -> None:
    files = tree(tmp_path / "made")
    made = rh.folder(path=tmp_path / "made").to(system="ssh-a", path="live").adopt("cats")
    there = rh.folder("cats:v1").to(system="ssh-a", path="copied")
    assert there.receipt is not None
    assert there.receipt.route == "COPY"
    same(there, files, made.digest)


def test_a_version_here_is_pushed(world: dict[str, str], tmp_path: Path) -> None:
    """What is stored on this machine goes up from here, and nobody calls that a relay."""
    files = tree(tmp_path / "made")
    rh.folder(path=tmp_path / "made").save("cats").commit()
    version = rh.folder("cats:v1")
    there = version.to(system="s3", path="pushed")
    assert there.receipt is not None
    assert there.receipt.route == "PUSH"
    same(there, files, version.digest())
