"""Versions by reference: what a commit, a repair and another adoption make of files that a store only refers to."""

from __future__ import annotations

import os

import pytest

import rh
from rh import errors, observe


def read(name: str) -> dict[str, bytes]:
    version = rh.folder(name)
    assert version.verify(), version.verify()
    return {key: version.get(key) for key in version.glob("**/*") if not key.endswith("/")}


@pytest.fixture
def content() -> dict[str, bytes]:
    """Bytes that no store has seen."""
    return {"a.bin": os.urandom(64), "sub/b.txt": os.urandom(200), "sub/large": os.urandom(2 << 20), "empty": b""}


@pytest.fixture
def adopted(folder, content):
    """A folder whose version has no copy of its files."""
    place = folder / "adopted"
    place.put(content)
    place.adopt("adopted")
    return place


def spoil(place: rh.Folder) -> None:
    place.put({"a.bin": b"changed"}, overwrite=True)
    place.rm("sub/b.txt")


def test_a_commit_copies_what_was_only_referred_to(adopted, folder, content):
    """Though the store has a version of this very content: whoever changes his files, all of it is kept."""
    same = adopted.to(path=(folder / "copy").url).save("copy")
    version = same.commit()
    assert version.digest == rh.folder("adopted").at("v1").digest()
    spoil(adopted)
    spoil(same)
    assert read("copy:v1") == content
    assert read("adopted:v1") == content


def test_a_commit_of_what_was_adopted_copies_it(adopted, content):
    """No new version, and the old one has its bytes from then on."""
    version = rh.load("adopted").commit("to stay")
    assert version.number == 1
    with observe.counting() as counts:
        assert rh.load("adopted").commit().number == 1
    assert sum(counts.sent.values()) < 5_000
    spoil(adopted)
    assert read("adopted:v1") == content


def test_a_version_that_comes_back_to_what_was_adopted_has_its_bytes(adopted, content):
    rh.load("adopted").put({"more.txt": b"more"})
    assert rh.load("adopted").commit().number == 2
    adopted.rm("more.txt")
    assert rh.load("adopted").commit().number == 3
    spoil(adopted)
    assert read("adopted:v3") == content
    assert read("adopted:v1") == content


def test_what_is_adopted_elsewhere_is_read_there_if_the_first_place_has_changed(adopted, folder, content):
    """As long as the first one has it, that is referred to; else a version would be damaged from the beginning."""
    other = adopted.to(path=(folder / "other").url)
    other.adopt("beside")
    other.put({"a.bin": b"changed"}, overwrite=True)
    assert read("adopted:v1") == content
    other.put({"a.bin": content["a.bin"]}, overwrite=True)
    spoil(adopted)
    assert not rh.folder("adopted:v1").verify()
    other.adopt("other")
    assert read("other:v1") == content
    assert read("adopted:v1") == content


def test_a_draft_refers_to_what_is_there(adopted, folder, content):
    files = [key for key in content if key != "empty"]
    other = adopted.to(path=(folder / "other").url)
    spoil(adopted)
    drafted = (folder / "drafted").save("drafted")
    with drafted.draft() as draft:
        for key in files:
            draft.add_reference(f"{other.url}/{key}", path=key)
        with pytest.raises(errors.ExistsError, match="there already"):
            draft.add_reference(f"{other.url}/a.bin", path="a.bin")
        draft.add_reference(f"{other.url}/a.bin", path="a.bin", update=True)
        draft.add(b"", path="empty")
    assert read("drafted:v1") == content


def test_what_was_adopted_twice_takes_no_more_than_a_look(adopted):
    with observe.counting() as counts:
        assert rh.load("adopted").adopt("adopted").number == 1
    assert not {key: n for key, n in counts.requests.items() if key[1] == "read_many"}
    assert sum(counts.sent.values()) < 5_000


@pytest.mark.parametrize("source", ["elsewhere", "live"])
def test_repair_takes_copies_of_what_is_gone(adopted, folder, here, source, content):
    """Files that a version refers to, and that are others now or none, are mended from wherever their bytes are."""
    other = adopted.to(path=(here / "kept").url)
    spoil(adopted)
    damaged = rh.folder("adopted:v1")
    assert {*damaged.verify().modified, *damaged.verify().corrupt} == {"a.bin"}
    with pytest.raises((errors.ConflictError, errors.IntegrityError)) as caught:
        damaged.get("sub/b.txt")
    assert "rh version repair" in caught.value.hint
    if source == "elsewhere":
        assert rh.load("adopted").repair("v1", source=other)
    else:
        renamed = {"renamed.bin": content["a.bin"], "b.txt": content["sub/b.txt"]}
        adopted.put(renamed)
        assert rh.load("adopted").repair("v1")
        adopted.rm(*renamed)
    other.rm(recursive=True)
    assert read("adopted:v1") == content
    assert damaged.get("sub/b.txt") == content["sub/b.txt"]
    adopted.rm("sub/large")  # it was sound, so the version still refers to it
    assert rh.folder("adopted:v1").verify().missing == ("sub/large",)


def test_a_repair_that_finds_only_some_keeps_the_others(adopted, here, content):
    spoil(adopted)
    (here / "kept").put({"x": content["a.bin"]})
    found = rh.load("adopted").repair("v1", source=(here / "kept").url)
    assert found.missing == ("sub/b.txt",)
    assert not found.modified
    adopted.put({"sub/b.txt": content["sub/b.txt"]})
    assert rh.load("adopted").repair("v1")
    assert read("adopted:v1") == content


def test_draft_that_adds_what_was_referred_to_has_a_copy(adopted, content):
    spoil(adopted)
    with rh.load("adopted").draft(base="v1") as draft:
        draft.add(content["a.bin"], path="a.bin", update=True)
        draft.add(content["sub/b.txt"], path="sub/b.txt", update=True)
    assert read("adopted:v1") == content
