"""Drafts with names: put together by several, finished by one, and nothing is lost that was added."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

import rh
from rh import errors
from rh.registry import local
from rh.versions.drafts import Drafts
from rh.versions.gc import collect
from rh.versions.store import Store, place_of


@pytest.fixture
def cats(folder):
    """A saved folder with a version of two files, on each system in turn."""
    folder.put({"a.txt": b"one", "sub/b.txt": b"two"})
    saved = folder.save("cats")
    saved.commit("begin")
    return saved


@pytest.fixture
def near(here):
    """The same, on this disk."""
    here.put({"a.txt": b"one", "sub/b.txt": b"two"})
    saved = here.save("cats")
    saved.commit("begin")
    return saved


def contents(name):
    found = rh.folder(name)
    return {key: found.get(key) for key in found.glob("**") if not key.endswith("/")}


def referred(folder):
    """The trees that the store keeps for a folder's versions and drafts."""
    series = folder.series_of().series
    return {ref.tree for ref in Store.at(place_of(folder.location)).refs() if ref.series.startswith(series)}


def test_a_draft_that_several_join_makes_one_version(cats):
    """Blocks and single calls add to it; nothing is a version before one of them commits."""
    with cats.draft("spring", message="together", tags=["x"]) as mine:
        mine.add(b"mine", path="mine.txt")
        mine.remove("a.txt")
        assert [one.name for one in rh.folder("cats").drafts()] == ["spring"]
        rh.folder("cats").draft("spring").add(b"theirs" * 1000, path="theirs.bin")
    rh.folder("cats").draft("spring").move("sub/", "moved/")
    assert [version.label for version in cats.versions()] == ["v1"]
    collect(Store.at(place_of(cats.location)), older_than_s=-60)
    joined = rh.folder("cats").draft("spring")
    assert [str(change) for change in joined.changes()] == [
        "put theirs.bin",
        "put mine.txt",
        "remove a.txt",
        "move sub/ → moved/",
    ]
    version = joined.commit("finished")
    assert (version.label, version.message, version.tags, version.parent) == ("v2", "finished", ("x",), 1)
    assert contents("cats:v2") == {"mine.txt": b"mine", "moved/b.txt": b"two", "theirs.bin": b"theirs" * 1000}
    assert cats.get("a.txt") == b"one", "the folder's own files are not touched"
    assert cats.drafts() == []
    assert referred(cats) == {one.digest for one in cats.versions()}
    with pytest.raises(errors.NotFoundError, match="no draft 'spring'"):
        joined.commit()


def test_a_block_is_added_as_a_whole_or_not_at_all(near):
    with pytest.raises(ZeroDivisionError), near.draft("d") as draft:  # noqa: PT012
        draft.add(b"kept", path="kept.txt")
        draft.save()
        draft.add(b"lost", path="lost.txt")
        1 / 0  # noqa: B018
    assert [change.path for change in near.draft("d").changes()] == ["kept.txt"]
    near.draft("d").discard()
    assert near.drafts() == []
    assert len(near.versions()) == 1
    assert referred(near) == {near.versions()[0].digest}


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (lambda d: d.add(b"1", path="x"), lambda d: d.add(b"2", path="x")),
        (lambda d: d.add(b"1", path="x"), lambda d: d.add(b"2", path="x/y")),
        (lambda d: d.add(b"1", path="sub/new"), lambda d: d.remove("sub/")),
        (lambda d: d.move("sub/", "other/"), lambda d: d.add(b"2", path="sub/b.txt", update=True)),
        (lambda d: d.remove("a.txt"), lambda d: d.remove("a.txt")),
        (lambda d: d.move("a.txt", "c"), lambda d: d.move("a.txt", "d")),
    ],
)
def test_what_two_do_to_one_path_clashes(near, mine, theirs):
    """The second one is told, and what the first one added stays as it is."""
    with pytest.raises(errors.ConflictError, match="meanwhile"), near.draft("d") as first:  # noqa: PT012
        mine(first)
        theirs(rh.folder("cats").draft("d"))
    before = contents("cats:v1")
    alone = near.draft("alone")
    theirs(alone)
    expected = alone.commit().digest
    assert contents("cats:v1") == before
    assert len(near.draft("d").changes()) == 1
    near.draft("d").discard()
    assert expected == near.versions()[-1].digest


def test_the_same_file_from_two_is_no_clash(near):
    with near.draft("d") as first:
        first.add(b"same", path="x")
        rh.folder("cats").draft("d").add(b"same", path="x")
        rh.folder("cats").draft("d").add(b"other", path="y")
    assert near.draft("d").commit().files == 4


def test_a_draft_is_over_for_all(near):
    for end in (lambda d: d.commit(), lambda d: d.discard()):
        with pytest.raises(errors.ConflictError, match="finished or discarded"), near.draft("d") as draft:  # noqa: PT012
            draft.add(os.urandom(8), path="late.txt")
            other = rh.folder("cats").draft("d")
            other.add(os.urandom(8), path="early.txt", update=True)
            end(other)
    assert not any("late.txt" in contents(f"cats:{version.label}") for version in near.versions())


def test_another_version_meanwhile(near):
    """A draft made from v1 is no version after v2, unless it is put upon that."""
    near.draft("d").add(b"d", path="d.txt")
    near.draft("clash").add(b"clash", path="new.txt")
    near.put({"new.txt": b"new"})
    near.commit()
    with pytest.raises(errors.ConflictError, match="by now"):
        near.draft("d").commit()
    assert [one.name for one in near.drafts()] == ["clash", "d"], "nothing is lost by it"
    with pytest.raises(errors.ConflictError, match=r"both change new\.txt"):
        near.draft("clash").rebase()
    assert near.draft("d").rebase() == 2
    assert near.draft("d").commit().parent == 2
    assert contents("cats:v3") == {"a.txt": b"one", "sub/b.txt": b"two", "new.txt": b"new", "d.txt": b"d"}


def test_what_is_refused(near):
    for name in ("", "a/b", "a:b", "../x", "-x", 7):
        with pytest.raises(errors.InvalidError, match="name of a draft"):
            near.draft(name).add(b"x", path="x")
    near.draft("spring").add(b"x", path="x")
    with pytest.raises(errors.NotFoundError, match="did you mean spring"):
        near.draft("sprang").commit()
    with pytest.raises(errors.ConflictError, match="already"):
        near.draft("spring", base=None).add(b"y", path="y")
    with pytest.raises(errors.ImmutableVersionError):
        rh.folder("cats:v1").draft("d")
    with pytest.raises(errors.ExistsError):
        near.draft("spring").add(b"y", path="a.txt", update=False)
    for call in (
        lambda draft: draft.add(b"z", path=7),
        lambda draft: draft.add_dir(None),
        lambda draft: draft.add_dir(7),
        lambda draft: draft.add_reference(None),
        lambda draft: draft.copy_from("cats", 7),
        lambda draft: draft.move("x", 7),
        lambda draft: draft.remove(None),
    ):
        with pytest.raises(errors.InvalidError, match=r"is text|which file"):
            call(near.draft("spring"))
    assert [change.path for change in near.draft("spring").changes()] == ["x"]


ADD = """
import os, signal, sys
import rh
draft = rh.folder("cats").draft("d")
for number in range(int(sys.argv[2])):
    draft.add(os.urandom(2000), path=f"{sys.argv[1]}/{number}.bin")
    print(number, flush=True)
with draft:
    draft.add(b"never said", path=f"{sys.argv[1]}/never.bin")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_participant_that_is_killed_loses_nothing_that_was_added(near):
    """Three processes add at once and are killed; a fourth one finishes what they said was added."""
    running = [
        subprocess.Popen([sys.executable, "-c", ADD, name, "4"], stdout=subprocess.PIPE, text=True)
        for name in ("p", "q", "r")
    ]
    said = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [-signal.SIGKILL] * 3
    assert said == [["0", "1", "2", "3"]] * 3
    near.draft("d").commit()
    paths = {f"{name}/{number}.bin" for name in "pqr" for number in range(4)}
    assert set(contents("cats:latest")) == {"a.txt", "sub/b.txt", *paths}
    assert rh.folder("cats:latest").verify()


def test_many_at_once(near):
    """Threads that add and one that commits in between: each addition is in a version, or its block was refused."""
    lost, kept = [], []

    def add(number):
        try:
            with rh.folder("cats").draft("d") as draft:
                draft.add(json.dumps(number).encode(), path=f"n/{number}")
            kept.append(number)
        except errors.ConflictError:
            lost.append(number)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    near.draft("d").add(b"", path="begin")
    near.draft("d").commit()
    for thread in threads:
        thread.join()
    for one in near.drafts():
        near.draft(one.name).rebase()
        near.draft(one.name).commit()
    assert {key for key in contents("cats:latest") if key.startswith("n/")} == {f"n/{number}" for number in kept}
    assert len(kept) + len(lost) == 8


# What is kept in the store for a draft.


def of_draft(folder):
    """The trees that are kept for drafts alone."""
    series = folder.series_of().series
    return {ref.tree for ref in Store.at(place_of(folder.location)).refs() if ref.series.startswith(f"{series}+")}


def test_an_addition_that_was_recorded_is_kept_whatever_fails_after_it(near, monkeypatch):
    """Its author is told of the failure, cannot know whether it is recorded, and loses nothing."""
    near.draft("d").add(b"first", path="0.txt")

    def lost(self, draft):
        raise errors.UnavailableError("the network went away")

    with monkeypatch.context() as patch, pytest.raises(errors.UnavailableError), near.draft("d") as draft:  # noqa: PT012
        draft.add(b"precious", path="keep.txt")
        patch.setattr(Drafts, "again", lost)
    assert [change.path for change in near.draft("d").changes()] == ["0.txt", "keep.txt"]
    collect(Store.at(place_of(near.location)), older_than_s=-60)
    near.draft("d").commit()
    assert contents("cats:v2")["keep.txt"] == b"precious"
    assert of_draft(near) == set()


def test_who_is_refused_takes_nothing_from_who_added_the_same(near):
    near.draft("d").add(b"zero", path="zero.txt")
    first, second = near.draft("d"), rh.folder("cats").draft("d")
    with pytest.raises(errors.ConflictError), first:  # noqa: PT012
        first.add(b"same", path="x/keep.txt", update=False)
        with second:
            second.add(b"same", path="x/keep.txt", update=False)
            second.remove("a.txt")
        first.remove("a.txt")
    collect(Store.at(place_of(near.location)), older_than_s=-60)
    near.draft("d").commit()
    assert contents("cats:v2")["x/keep.txt"] == b"same"
    assert of_draft(near) == set()


def test_who_comes_after_the_end_leaves_nothing_in_the_store(near):
    with pytest.raises(errors.ConflictError, match="finished or discarded"), near.draft("d") as draft:  # noqa: PT012
        draft.add(b"late", path="late.txt")
        rh.folder("cats").draft("d").discard()
    assert of_draft(near) == set()


def test_a_rebase_lets_go_of_what_the_draft_began_with(near):
    near.draft("d").add(b"d", path="d.txt")
    old = near.versions()[0].digest
    assert old in of_draft(near)
    near.put({"new.txt": b"new"})
    newest = near.commit().digest
    near.draft("d").rebase()
    assert newest in of_draft(near)
    assert old not in of_draft(near)
    near.draft("d").commit()
    assert of_draft(near) == set()


def test_two_who_begin_a_draft_at_once_leave_one(near, monkeypatch):
    near.draft("d").add(b"d", path="d.txt")
    near.put({"new.txt": b"new"})
    near.commit()
    find, seen = Drafts.find, []

    def late(self, name):
        seen.append(name)
        return None if len(seen) == 1 else find(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Drafts, "find", late)
        rh.folder("cats").draft("d").add(b"e", path="e.txt")
    near.draft("d").rebase()
    near.draft("d").commit()
    assert {"d.txt", "e.txt"} <= set(contents("cats:latest"))
    assert of_draft(near) == set()


def test_looking_at_drafts_writes_nothing(here):
    saved = here.save("new")
    for look in (
        lambda d: d.changes(),
        lambda d: d.commit(),
        lambda d: d.discard(),
        lambda d: d.rebase(),
    ):
        with pytest.raises(errors.NotFoundError, match="no draft 'd'"):
            look(saved.draft("d"))
    with pytest.raises(errors.InvalidError, match="name of a draft"):
        saved.draft("a/b").add(b"x", path="x")
    assert [record.key for record in local().list("series/")] == []


# What is said of files.


@pytest.mark.parametrize("name", [None, "d"])
def test_what_is_said_of_files_goes_along(near, tmp_path, name):
    other = rh.folder(name="dogs", path=tmp_path / "dogs").save()
    other.put({"d/1.png": b"dog", "2.png": b"another"})
    other.commit()
    other.annotate({"d/1.png": {"label": "dog"}, "2.png": {"label": "wolf", "tags": ["rare"]}})
    near.annotate({"a.txt": {"label": "cat"}, "sub/b.txt": {"label": "lion"}})
    with near.draft(name) if name else near.draft() as draft:
        draft.move("a.txt", "step.txt")
        draft.move("step.txt", "z.txt")
        draft.copy_from("dogs:v1", "d/", "sub/")
        draft.move("sub/", "moved/")
        draft.copy_from("dogs:v1", "2.png")
        draft.move("2.png", "wolf.png")
        draft.copy_from("cats:v1", "a.txt", "again.txt")
    if name:
        near.draft(name).commit()
    found = rh.folder("cats:v2")
    assert {path: found.annotations(path)["metadata"].get("label") for path in contents("cats:v2")} == {
        "z.txt": "cat",
        "again.txt": "cat",
        "moved/b.txt": "lion",
        "moved/1.png": "dog",
        "wolf.png": "wolf",
    }
    assert found.annotations("wolf.png")["tags"] == ["rare"]
    assert rh.folder("cats:v1").annotations("a.txt")["metadata"] == {"label": "cat"}, "older versions have it still"


def test_a_copy_with_a_property_of_another_type_is_refused(near, tmp_path):
    other = rh.folder(name="dogs", path=tmp_path / "dogs").save()
    other.put({"1.png": b"dog"})
    other.commit()
    other.annotate("1.png", label=1)
    near.annotate("a.txt", label="cat")
    with near.draft() as draft, pytest.raises(errors.InvalidError, match="'label' is a number here"):
        draft.copy_from("dogs:v1", "1.png")
    assert [version.label for version in near.versions()] == ["v1"]


def test_a_named_draft_says_what_it_is(here):
    assert repr(here.save("cats").draft("spring")) == "<draft spring of ~/cats>"
