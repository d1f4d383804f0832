"""Versions whose store was damaged: mended from the live data or another copy, and never believed to be whole."""

import os
import secrets
import shutil

import pytest

import rh
from rh import errors
from rh.versions import repair as mending
from rh.versions.layout import object_key, pack_key, tree_key
from rh.versions.repair import mend_tree
from rh.versions.store import Store, _shared, place_of
from rh.versions.verify import files_of

BIG = os.urandom(3_000_000)  # stores are shared by tests: what is damaged here must be nobody else's
FILES = {"a.txt": os.urandom(300), "sub/b.txt": os.urandom(300), "sub/big.bin": BIG, "same.bin": BIG}


@pytest.fixture
def cats(folder):
    """A saved folder with a version, on each system in turn, and an empty cache."""
    folder.put(FILES)
    saved = folder.save("cats")
    saved.commit("begin")
    return saved


def contents_of(resource):
    """Where the newest version's contents are in its store, as keys."""
    version = resource.versions()[-1]
    store = Store.at(version.store)
    found = set()
    for _, child in files_of(store, store.root(store.tree(version.digest))):
        found.add(object_key(child.digest) if child.where[0] == "o" else pack_key(child.where[1]))
    return store.system, found


def below(resource, kind):
    """All of a kind that is in the store."""
    system = Store.at(place_of(resource.location)).system
    return system, {entry.key for entry in system.list(f"{kind}/") if entry.kind == "file"}


def damage(system, keys, *, lose=False):
    """Flip a byte of each, or delete it."""
    assert keys
    for key in keys:
        if lose:
            system.delete([key])
        else:
            data = bytearray(system.read(key).read())
            data[len(data) // 3] ^= 1
            system.write(key, bytes(data))


@pytest.mark.parametrize("lose", [False, True])
def test_contents_are_mended_by_the_live_files(cats, lose, monkeypatch, tmp_path):
    damage(*contents_of(cats), lose=lose)
    assert not rh.folder("cats:v1").verify()
    assert cats.commit().label == "v1"
    assert cats.repair()
    found = rh.folder("cats:v1")
    assert found.verify()
    assert {name: found.get(name) for name in FILES} == FILES
    assert cats.repair("v1"), "a second time there is nothing to do"


def test_what_no_copy_has_stays_damaged(here, tmp_path):
    here.put(FILES)
    cats = here.save("cats")
    cats.commit()
    damage(*contents_of(cats))
    cats.put({"a.txt": b"another"}, overwrite=True)
    cats.rm("sub/")
    found = cats.repair("v1")
    assert not found
    assert [*found.corrupt, *found.missing] == ["a.txt", "sub/b.txt"]
    other = rh.folder(path=tmp_path / "other").mkdir()
    other.put({"x": FILES["a.txt"], "deep/y": FILES["sub/b.txt"]})
    assert cats.repair("v1", source=other.path)
    assert rh.folder("cats:v1").get("a.txt") == FILES["a.txt"]


@pytest.mark.parametrize("kind", ["trees", "nodes"])
@pytest.mark.parametrize("lose", [False, True])
def test_directories_are_mended_by_the_same_data(here, kind, lose, monkeypatch, tmp_path):
    here.put(FILES)
    cats = here.save("cats")
    version = cats.commit()
    damage(*below(cats, kind), lose=lose)
    cache = rh.config.home() / "cache"
    cache.rename(tmp_path / "cache-gone")
    cats.put({"more.txt": b"more"})
    with pytest.raises(errors.IntegrityError, match="not that of the version"):
        cats.repair()
    cats.rm("more.txt")
    assert cats.repair()
    assert cats.versions()[-1].digest == version.digest
    assert rh.folder("cats:v1").get("sub/big.bin") == BIG


@pytest.mark.parametrize("live", ["changed", "gone"])
def test_directories_are_mended_by_another_copy(here, live, tmp_path):
    """Whatever the live files are by then; a copy that is not whole says so."""
    here.put(FILES)
    cats = here.save("cats")
    cats.commit()
    whole, part = (rh.folder(path=tmp_path / "copies" / name) for name in ("whole", "part"))
    whole.put(FILES)
    part.put({"a.txt": FILES["a.txt"]})
    damage(*below(cats, "trees"), lose=True)
    shutil.rmtree(rh.config.home() / "cache")
    if live == "gone":
        shutil.rmtree(here.path)
    else:
        cats.put({"more.txt": b"more"})
    with pytest.raises(errors.IntegrityError, match="not that of the version"):
        cats.repair(source=part)
    assert cats.repair(source=whole.path)
    assert rh.folder("cats:v1").get("a.txt") == FILES["a.txt"]


@pytest.mark.parametrize("kind", ["trees", "nodes"])
def test_what_the_store_has_counts_not_the_cache(here, kind):
    """The directories of a version are looked at where it is stored, although this machine keeps a copy of them."""
    here.put(FILES)
    cats = here.save("cats")
    cats.commit()
    system, keys = below(cats, kind)
    for key in keys:
        system.write(key, b"")
    with pytest.raises(errors.IntegrityError, match="cannot be read") as failed:
        rh.folder("cats:v1").verify()
    assert failed.value.hint == "rh version repair ~/cats:v1"
    if kind == "trees":
        with pytest.raises(errors.IntegrityError, match="what ~/cats:v1 is made of") as failed:
            rh.gc(older_than_s=0)
        assert failed.value.hint == "rh version repair ~/cats:v1"
    assert cats.repair()
    assert rh.folder("cats:v1").verify()


def test_a_place_that_is_not_there(here):
    here.put(FILES)
    cats = here.save("cats")
    cats.commit()
    nowhere = here.path + "-nowhere"
    with pytest.raises(errors.NotFoundError, match="nothing at this place"):
        cats.repair(source=nowhere)
    with pytest.raises(errors.NotFoundError, match="nothing at this place"):
        rh.gc(path=nowhere, dry_run=True)
    assert rh.gc(path=here.path, dry_run=True)[0].dropped == []


def test_a_damaged_file_says_what_mends_it(here, tmp_path):
    here.put({"a": os.urandom(300)})
    cats = here.save("cats")
    cats.commit()
    damage(*contents_of(cats))
    with pytest.raises(errors.IntegrityError) as failed:
        rh.folder("cats:v1").get("a")
    assert "rh version repair ~/cats:v1 " in failed.value.hint
    with pytest.raises(errors.TransferError) as failed:
        rh.folder("cats:v1").to(path=tmp_path / "out")
    assert "rh version repair ~/cats:v1 " in failed.value.hint


@pytest.mark.parametrize("kind", ["contents", "trees", "nodes"])
def test_a_handle_on_a_version_is_mended_by_the_live_files(cats, kind, tmp_path):
    damage(*(contents_of(cats) if kind == "contents" else below(cats, kind)))
    (rh.config.home() / "cache").rename(tmp_path / "cache-gone")
    assert cats.at("v1").repair()
    assert {name: rh.folder("cats:v1").get(name) for name in FILES} == FILES


@pytest.mark.parametrize("lose", [False, True])
def test_who_keeps_the_old_marker_finds_what_was_repaired(cats, lose, tmp_path):
    """A handle that was open before, and another machine, look for the marker again when they meet damage."""
    pinned = rh.folder("cats:v1")
    assert pinned.get("a.txt") == FILES["a.txt"]
    cache = rh.config.home() / "cache"
    shutil.copytree(cache / "trees", tmp_path / "trees")
    damage(*below(cats, "nodes"), lose=lose)
    shutil.rmtree(cache)
    assert cats.repair()
    for handle, name in ((pinned, "sub/b.txt"), (rh.folder("cats:v1"), "sub/b.txt"), (pinned / "sub", "b.txt")):
        shutil.rmtree(cache)
        shutil.copytree(tmp_path / "trees", cache / "trees")
        _shared.clear()
        assert handle.get(name) == FILES["sub/b.txt"]
        assert handle.verify()


def test_a_part_of_a_version_is_verified_by_its_digests(cats):
    part, file = rh.folder("cats:v1") / "sub", rh.blob(path="rh://cats:v1/sub/b.txt")
    for found, count in ((part.verify(), 2), (file.verify(), 1), (rh.folder(path="rh://cats:v1/sub").verify(), 2)):
        assert (found.ok, found.against, found.files) == (True, "version", count)
    with pytest.raises(errors.NotFoundError, match="nothing at this place"):
        (rh.folder("cats:v1") / "none").verify()
    damage(*contents_of(cats), lose=True)
    assert sorted(part.verify().missing) == ["b.txt", "big.bin"]
    assert file.verify().missing == ("b.txt",)


def test_a_blob_and_a_table(folder):
    blob = rh.blob(os.urandom(800), name="one", path=(folder / "one.bin").url).save()
    blob.commit()
    table = rh.table({"x": [1, 2, 3], "y": [os.urandom(4).hex()] * 3}, name="rows", path=(folder / "rows").url).save()
    table.commit()
    for resource in (blob, table):
        damage(*contents_of(resource), lose=True)
        assert resource.repair()
    assert rh.table(name="rows:v1").fetch()["x"] == [1, 2, 3]


def test_an_interrupted_repair_leaves_a_sound_marker(here):
    """Whenever it ends, the marker of the version is there: the directories may be all that was damaged."""
    here.put(FILES)
    cats = here.save("cats")
    version = cats.commit()
    damage(*below(cats, "nodes"))
    (rh.config.home() / "cache").rename(rh.config.home() / "cache-gone")
    store = Store.at(version.store)
    marker = store.system.read(tree_key(version.digest)).read()

    def killed(_store):
        assert store.system.read(tree_key(version.digest)).read() == marker
        raise SystemExit

    with pytest.raises(SystemExit):
        mend_tree(store, version.digest, killed)
    assert store.system.read(tree_key(version.digest)).read() == marker
    assert cats.repair()
    assert rh.folder("cats:v1").get("sub/big.bin") == BIG


def test_packed_contents_are_mended_within_bounds(tmp_path, monkeypatch):
    cats = rh.folder(path=f"memory://{secrets.token_hex(4)}/cats").mkdir()
    files = {f"{number}.bin": os.urandom(1_000) for number in range(20)}
    cats.put(files)
    cats = cats.save("cats")
    cats.commit()
    damage(*contents_of(cats), lose=True)
    patch, sizes = mending._patch, []

    def counted(store, pack, members):
        sizes.append(sum(len(data) for _, data in members))
        patch(store, pack, members)

    monkeypatch.setattr(mending, "_patch", counted)
    monkeypatch.setattr(Store, "group_size", 3_000)
    assert cats.repair()
    assert max(sizes) <= 4_000
    assert {name: rh.folder("cats:v1").get(name) for name in files} == files
