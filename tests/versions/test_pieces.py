"""Large files in pieces that their contents decide."""

from __future__ import annotations

import random

import pytest

import rh
from rh import digest as digests
from rh import errors, observe
from rh.systems import open_system
from rh.versions import pieces
from rh.versions.commit import commit_tree
from rh.versions.gc import collect
from rh.versions.nodes import Child, Node, pieces_of
from rh.versions.store import Store
from rh.versions.verify import files_of, verify_version
from tests.versions.places import contents, forgotten, opened, place, store_at  # noqa: F401 - a fixture

MIB = 1 << 20
LARGE = random.Random(5).randbytes(64 * MIB)


@pytest.fixture(autouse=True)
def _cut(monkeypatch):
    monkeypatch.setenv("RH_CHUNK_FROM_MB", "64")


def one(store, tree):
    ((_, child),) = files_of(store, store.root(tree))
    return child


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "file", "s3", "ssh-a"])
def test_what_is_appended_is_what_moves(kind, world, tmp_path, monkeypatch):
    """One in a hundred bytes more, or some in the middle: at most three in a hundred move, from a new machine too."""
    store = store_at(kind, tmp_path)
    source = open_system(place("memory", tmp_path, "data"))
    source.write("big.bin", LARGE)
    first = commit_tree(source, store)
    assert one(store, first).where[0] == "c"
    appended = LARGE + random.Random(6).randbytes(len(LARGE) // 100)
    middle = appended[: 30 * MIB] + b"put in here" + appended[30 * MIB :]
    trees = [(first, LARGE)]
    for number, data in enumerate((appended, middle)):
        monkeypatch.setenv("RH_HOME", str(tmp_path / f"home-{number}"))
        store = store_at(kind, tmp_path)
        source.write("big.bin", data)
        with observe.counting() as counts:
            trees.append((commit_tree(source, store, base=trees[-1][0].digest), data))
        if kind != "memory":  # where the source is as well
            assert 0 < counts.sent[store.system.location.system] <= 0.03 * len(LARGE)
    for tree, data in trees:
        assert verify_version(store, tree.digest, "it").ok
        assert contents(store, tree)["big.bin"] == (data, False)
        system = opened(store, tree)
        with system.read("big.bin", (17 * MIB - 5, 33 * MIB + 7)) as body:
            assert body.read() == data[17 * MIB - 5 : 33 * MIB + 7]
        assert tree.digest != trees[0][0].digest or tree == trees[0][0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "ssh-a", "s3", "gs", "azure"])
def test_live_files_that_grow(kind, world, tmp_path):
    """The same machine commits a file again and again, live or by upload: what was appended is what is sent.

    What of the file comes here to be cut begins with the chunk of 16 MiB in front of the first that changed.
    """
    path = tmp_path / "live" if kind == "file" else "live"
    live = rh.folder(path=path, system=kind).save("cats")
    live.put({"big.bin": LARGE})
    live.commit()
    more = random.Random(6).randbytes(len(LARGE) // 100)
    live.put({"big.bin": LARGE + more}, overwrite=True)
    with observe.counting() as counts:
        live.commit()
    assert counts.sent[kind] <= 0.03 * len(LARGE)
    digesting = 0 if kind in ("file", "ssh-a") else len(LARGE + more)  # a bucket computes no digests
    assert counts.received[kind] <= digesting + 2 * 16 * MIB
    (tmp_path / "big.bin").write_bytes(LARGE + more + more)
    with observe.counting() as counts:
        live.upload(tmp_path / "big.bin", update=True)
    assert counts.sent[kind] <= 0.03 * len(LARGE)
    assert rh.folder("cats:v2").get("big.bin") == LARGE + more
    assert rh.folder("cats:v3").get("big.bin") == LARGE + more + more
    assert all(rh.folder(f"cats:v{number}").verify() for number in (1, 2, 3))


@pytest.mark.slow
def test_what_is_not_read_again_is_compared(tmp_path):
    """The end of a file is read, and must be that of its digest; a file that is cut short begins as it did, too."""
    source = open_system(place("memory", tmp_path, "data"))
    source.write("big.bin", LARGE)
    store = store_at("memory", tmp_path)
    was = one(store, commit_tree(source, store))
    chunks = digests.of_bytes(LARGE).chunks
    for data in (LARGE + b"more", LARGE[: 40 * MIB], LARGE[: 32 * MIB], LARGE[: 50 * MIB] + b"x" + LARGE[50 * MIB :]):
        now = digests.of_bytes(data)
        entry = source.write("big.bin", data)
        same = pieces.unchanged(was, chunks, now)
        start = sum(piece.size for piece in same)
        first = next((at for at in range(0, len(data), 16 * MIB) if data[at:][: 16 * MIB] != LARGE[at:][: 16 * MIB]), 0)
        assert data[:start] == LARGE[:start]
        assert first - MIB < start <= (first or 32 * MIB)
        with observe.counting() as counts:
            found = b"".join(piece for group in pieces.cut(source, entry, now, start) for _, piece in group)
        assert found == data[start:]
        assert counts.received["memory"] <= len(data) - start + 16 * MIB
        source.write("big.bin", data[:-1] + b"!")
        with pytest.raises(errors.ConflictError, match="changed"):
            list(pieces.cut(source, entry._replace(etag=None), now, start))
    assert pieces.unchanged(was, chunks, digests.of_bytes(b"small")) == []
    assert pieces.unchanged(was, None, digests.of_bytes(LARGE + b"more")) == []


def test_the_digest_is_that_of_the_file(tmp_path, monkeypatch):
    """In pieces or whole, a version has one digest; a store may hold both."""
    source = open_system(place("memory", tmp_path, "data"))
    source.write("big.bin", LARGE)
    cut = commit_tree(source, store_at("memory", tmp_path))
    monkeypatch.setenv("RH_CHUNK_FROM_MB", "0")
    whole = commit_tree(source, Store(open_system(place("memory", tmp_path, "other"))))
    assert cut.digest == whole.digest
    source.write("big.bin", LARGE[:-1])
    assert one(store_at("memory", tmp_path), commit_tree(source, store_at("memory", tmp_path))).where[0] == "o"


def test_sweeping_and_damage(tmp_path, monkeypatch):
    """What a version in pieces needs stays, its chunk digests too; what is damaged is found, and never given out."""
    store = store_at("file", tmp_path)
    source = open_system(place("memory", tmp_path, "data"))
    source.write("big.bin", LARGE)
    tree = commit_tree(source, store)
    store.ref("kept", tree.digest)
    before = [entry.key for entry in store.system.list("objects/")]
    collect(store, older_than_s=-60)
    assert [entry.key for entry in store.system.list("objects/")] == before
    assert any(key.endswith(".chunks") for key in before)
    assert contents(store, tree)["big.bin"] == (LARGE, False)
    piece = pieces_of(one(store, tree))[7]
    value = piece.digest.removeprefix("sha256:")
    key = f"objects/sha256/{value[:2]}/{value[2:]}"
    store.system.write(key, b"x" * piece.size)
    again = Store(store.system)
    assert verify_version(again, tree.digest, "it").corrupt == ("big.bin",)
    with pytest.raises(errors.IntegrityError):
        contents(again, tree)


def test_pieces_that_cannot_be_are_refused(tmp_path):
    """A record whose pieces are not as long as the file, or lie elsewhere, is no record."""
    digest, pack = "sha256:" + "0" * 64, "0" * 32
    good = [[digest, 5, ["p", pack, 0]], [digest, 5, ["o"]]]
    Node.decode(*_record(good), "")
    for bad in (
        good[:1],
        [[digest, 11, ["o"]], [digest, -1, ["o"]]],
        [[digest, 10, ["r", "file", "/etc/passwd", None]]],
        [[digest, 10, ["p", "../../x", 0]]],
        [["md5:0", 10, ["o"]]],
        [[digest, 10]],
        "no list",
    ):
        with pytest.raises(errors.IntegrityError):
            Node.decode(*_record(bad), "")


def _record(pieces):
    node = Node([Child("file", b"big", 10, "sha256:" + "1" * 64, executable=False, where=("c", pieces))])
    return node.encode(), node.digest


@pytest.mark.slow
def test_a_folder_in_pieces(tmp_path):
    """Copied, carried as one file, moved in a draft, mended."""
    live = rh.folder(path=tmp_path / "live").mkdir()
    live.put({"big.bin": LARGE, "small.txt": b"small"})
    cats = live.save("cats")
    version = cats.commit()
    assert rh.folder("cats:v1").to(path=tmp_path / "out").digest() == version.digest
    cats.export(tmp_path / "cats.rh")
    other = rh.folder(path=tmp_path / "other").mkdir().save("other")
    assert other.import_(tmp_path / "cats.rh").digest == version.digest
    with cats.draft() as draft:
        draft.move("big.bin", "deep/big.bin")
    assert rh.folder("cats:v2").get("deep/big.bin") == LARGE
    store = Store.at(version.store)
    store.system.delete([entry.key for entry in store.system.list("objects/") if not entry.key.endswith(".chunks")])
    assert not rh.folder("cats:v1").verify()
    assert cats.repair("v1")
    assert rh.folder("cats:v1").get("big.bin") == LARGE
