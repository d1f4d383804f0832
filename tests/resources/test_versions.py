"""Versions of folders, tables and blobs: committed, pinned, drafted, restored, on every kind of place."""

import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rh
from rh import config, errors, observe, progress
from rh.versions.gc import collect
from rh.versions.layout import tree_key
from rh.versions.store import Store, place_of

FILES = {"a.txt": b"one", "sub/b.txt": b"two" * 1000, "sub/c.bin": bytes(range(256)) * 5000, "empty": b""}


@pytest.fixture
def cats(folder):
    """A saved folder with four files, on each system in turn."""
    folder.put(FILES)
    return folder.save("cats")


def test_a_name_has_versions_of_the_place_that_it_means(here, tmp_path):
    here.put(FILES)
    here.save("here").commit()
    (tmp_path / "b").mkdir()
    other = rh.folder("here", path=tmp_path / "b")
    other.put({"x": b"x"})
    for change in (other.commit, lambda: other.upload(tmp_path / "b" / "x"), other.draft().__enter__):
        with pytest.raises(errors.ConflictError, match="~/here is at file://"):
            change()
    assert len(other.versions()) == 1
    assert other.save().commit().label == "v2"


def test_versions_of_this_machine_under_a_shared_name_are_told_of(here, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RH_REGISTRY", f"sqlite://{tmp_path}/team.db")
    here.put(FILES)
    here.save("mine").commit()
    assert not caplog.records
    here.save("/acme/cats").commit()
    assert "/acme/cats:v1 is kept on this machine only" in caplog.text


def test_a_time_to_live_is_a_number_or_a_span(here):
    cats = here.save("cats")
    for number, (ttl, seconds) in enumerate({60: 60.0, "90s": 90.0, "12h": 43_200.0, "30d": 2_592_000.0}.items()):
        cats.put({"n": b"%d" % number}, overwrite=True)
        version = cats.commit(ttl=ttl)
        assert version.expires is not None
        assert abs(version.expires - version.time - seconds) < 60


def test_a_message_that_is_not_kept_is_told_of(here, caplog):
    cats = here.save("cats")
    cats.put({"n": b"1"})
    with caplog.at_level("INFO", "rh"):
        cats.commit("first")
        assert "first" not in caplog.text
        assert cats.commit("second").message == "first"
    assert "nothing is new since ~/cats:v1, so 'second' is not kept" in caplog.text


def test_versions_are_members_of_sets(cats):
    first, again = cats.commit(metadata={"accuracy": [0.9]}), cats.versions()[0]
    assert {first, again} == {again}


def test_a_copy_of_a_version_may_be_of_nothing(here, tmp_path):
    """Since there is nothing in it, or nothing that is meant; a place that the version does not have is an error."""
    cats = here.save("cats")
    cats.commit()
    cats.put({"big/x": b"x", "big/y/z": b"z"})
    cats.commit()
    version = rh.load("cats:v2")
    assert version.to("file", path=tmp_path / "out", exclude=["big/"]).ls() == []
    assert rh.load("cats:v1").to("file", path=tmp_path / "empty").ls() == []
    with pytest.raises(errors.NotFoundError, match="no such directory"):
        (version / "none").to("file", path=tmp_path / "none", exclude=["big/"])


@pytest.mark.parametrize("make", [rh.folder, rh.table, rh.blob])
def test_a_part_of_a_version_is_compared_with_the_version(here, make):
    here.put({"part/a.csv": b"n\n1\n"})
    here.save("parts").commit()
    path = "rh://parts:v1/part/a.csv" if make is rh.blob else "rh://parts:v1/part"
    found = make(path=path).verify()
    assert found
    assert found.against == "version"
    assert "1 files read, all as the version says" in str(found)


def test_what_a_commit_is_doing_is_shown(here, monkeypatch):
    totals, shown = [], []

    class Told(progress.Silent):
        def total(self, files, size):
            totals.append((files, size))

        def advance(self, files, size):
            shown.append((files, size))

    monkeypatch.setattr("rh.versions.commit.default", Told)
    here.put({"a": b"one", "b": b"two" * 1000, "sub/same": b"one"})
    here.save("cats").commit()
    assert [sum(one) for one in zip(*shown, strict=True)] == list(totals[-1]) == [3, 3006]


def test_a_version_stays_what_it_was(cats, python):
    first = cats.commit("begin", aliases=["production"], tags=["x"], metadata={"k": 1})
    assert (first.label, first.message, first.tags, first.files) == ("v1", "begin", ("x",), 4)
    assert first.digest == cats.digest()
    assert cats.commit("again").label == "v1"
    cats.put({"a.txt": b"changed", "new.txt": b"new"}, overwrite=True)
    cats.rm("empty")
    second = cats.commit()
    assert (second.label, second.parent) == ("v2", 1)
    pinned = rh.folder("cats:v1")
    assert pinned.version == "v1"
    assert repr(pinned) == "<Folder ~/cats:v1>"
    assert {name: pinned.get(name) for name in FILES} == FILES
    assert pinned.glob("**") == ["a.txt", "empty", "sub/", "sub/b.txt", "sub/c.bin"]
    assert pinned.open("sub/c.bin").read() == FILES["sub/c.bin"]
    assert pinned.digest() == first.digest
    assert pinned.verify()
    assert rh.folder("cats:production") == rh.folder("cats", version="v1") == pinned
    assert rh.folder(f"cats@{first.digest[:20]}").get("a.txt") == b"one"
    assert rh.load("cats:latest").get("a.txt") == b"changed"
    assert [version.label for version in cats.versions()] == ["v1", "v2"]
    assert cats.log().splitlines()[0].startswith("v2 (latest)")
    assert pickle.loads(pickle.dumps(pinned)).get("a.txt") == b"one"
    if cats.system == "file":  # the others are registered in this process only
        assert python("import rh; print(rh.folder('cats:production').get('a.txt'))") == "b'one'\n"


def test_only_what_is_new_is_stored(cats):
    cats.commit()
    cats.put({"more.txt": b"more"})
    with observe.counting() as counts:
        cats.commit()
    moved = counts.sent[cats.system]
    assert moved < len(FILES["sub/c.bin"])


STOPPED = """
import os, signal, sys
import rh
from rh.versions import alive, lease, packs
alive._here = lambda: "another machine"
begin = lease.Lease.__init__
lease.Lease.__init__ = lambda self, system, ttl_s: begin(self, system, 1.0)
finish = packs.Writer.finish
def stopped(self, *of, **more):
    tree = finish(self, *of, **more)
    os.kill(os.getpid(), signal.SIGSTOP)
    return tree
packs.Writer.finish = stopped
cats = rh.load("cats")
if sys.argv[1] == "commit":
    cats.commit()
else:
    with cats.draft() as draft:
        draft.add(b"three", "new.txt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["commit", "draft"])
def test_who_slept_while_it_committed_makes_no_version_of_what_went(here, how):
    """Ctrl-Z when all is stored, until the lease is over and a collection took it (promise 16)."""
    here.put(FILES)
    cats = here.save("cats")
    cats.commit()
    here.put({"new.txt": b"3"})
    process = subprocess.Popen([sys.executable, "-c", STOPPED, how], stderr=subprocess.PIPE, text=True)
    try:
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        while not collect(Store.at(place_of(here.location)), older_than_s=-60).trees:
            pass
    finally:
        process.send_signal(signal.SIGCONT)
        _, told = process.communicate(timeout=60)
    assert process.returncode, "it made a version"
    assert "could not be told in time" in told
    assert [version.label for version in cats.versions()] == ["v1"]
    assert not collect(Store.at(place_of(here.location)), older_than_s=-60).trees
    assert cats.commit().label == "v2"
    assert rh.folder("cats:v2").verify()


def test_a_commit_at_another_place_needs_nothing_of_the_old_one(here):
    """Equal content is a version of its own in the store of the new place, and is there when the old store is gone."""
    here.put(FILES)
    first = here.save("cats").commit()
    moved = here.to(path=f"memory://{here.location.name}-moved/data").save("cats")
    second = moved.commit()
    assert (second.label, second.digest) == ("v2", first.digest)
    assert second.store != first.store
    assert moved.commit() == rh.folder("cats").commit() == second
    shutil.rmtree(Store.at(first.store).system.location.path)
    shutil.rmtree(config.home() / "cache")
    assert rh.folder("cats:latest").get("a.txt") == b"one"
    assert rh.folder("cats:v2").verify()


def test_a_version_is_copied_anywhere(cats, tmp_path):
    digest = cats.commit().digest
    out = rh.folder("cats:v1").to(path=tmp_path / "out")
    assert out.version is None
    assert out.digest() == digest
    assert out.verify()
    assert rh.folder("cats:v1").local().joinpath("a.txt").read_bytes() == b"one"


def test_a_version_is_never_changed(cats):
    cats.commit()
    pinned = rh.folder("cats:v1")
    for change in (
        lambda: pinned.put({"x": b""}),
        lambda: pinned.rm("a.txt"),
        lambda: pinned.rm(recursive=True),
        pinned.mkdir,
        pinned.commit,
        pinned.save,
        pinned.draft,
        lambda: (pinned / "sub").put({"x": b""}),
        lambda: pinned.open("a.txt", "wb").close(),
    ):
        with pytest.raises((errors.ImmutableVersionError, errors.UnsupportedError)):
            change()
    with pytest.raises((errors.ImmutableVersionError, errors.UnsupportedError)):
        cats.to(path=pinned.url)
    assert pinned.verify()


def test_restore_and_aliases(cats):
    cats.commit()
    cats.rm("sub/")
    cats.put({"a.txt": b"spoiled", "z": b"z"}, overwrite=True)
    cats.commit()
    restored = cats.restore("v1")
    assert {name: restored.get(name) for name in FILES} == FILES
    assert "z" not in restored.ls(full_paths=False)
    cats.alias("production", "v1", expect=None)
    with pytest.raises(errors.ConflictError, match="stands on v1"):
        cats.alias("production", "v2", expect="v2")
    assert cats.alias("production", expect="v1").label == "v2"
    assert cats.aliases() == {"production": "v2"}
    assert [move.version for move in cats.alias_history("production")] == [1, 2]
    cats.unalias("production")
    with pytest.raises(errors.NotFoundError, match="production"):
        rh.folder("cats:production")


def test_a_draft_is_one_version_or_none(cats, here, tmp_path):
    cats.commit()
    (tmp_path / "dir" / "deep").mkdir(parents=True)
    (tmp_path / "dir" / "deep" / "x.txt").write_bytes(b"x")
    (tmp_path / "dir" / "skip.tmp").write_bytes(b"no")
    run = tmp_path / "run.sh"
    run.write_bytes(b"#!/bin/sh\n")
    run.chmod(0o755)
    with cats.draft(message="edit", aliases=["staging"]) as draft:
        draft.add(b"bytes", path="d/bytes.bin")
        draft.add(io.BytesIO(b"stream"), path="d/stream.bin")
        draft.add(run)
        draft.add_dir(tmp_path / "dir", "more/", glob_exclude="*.tmp")
        draft.remove("empty")
        draft.move("sub/", "moved/")
    version = draft.version
    assert (version.label, version.message, version.parent) == ("v2", "edit", 1)
    pinned = rh.folder("cats:staging")
    found = [key for key in pinned.glob("**") if not key.endswith("/")]
    assert found == [
        "a.txt",
        "d/bytes.bin",
        "d/stream.bin",
        "more/deep/x.txt",
        "moved/b.txt",
        "moved/c.bin",
        "run.sh",
    ]
    assert pinned.get("d/stream.bin") == b"stream"
    assert cats.get("sub/b.txt") == FILES["sub/b.txt"], "the folder's own files are not touched"
    with pytest.raises(ZeroDivisionError), cats.draft() as failed:  # noqa: PT012
        failed.add(b"never", path="never")
        1 / 0  # noqa: B018
    assert len(cats.versions()) == 2
    with pytest.raises(errors.ConflictError, match="by now"), cats.draft() as late:  # noqa: PT012
        late.add(b"late", path="late")
        cats.upload(run, "first.sh")
    assert [one.label for one in cats.versions()] == ["v1", "v2", "v3"]


def test_membership_alone_stores_no_data(cats, here):
    cats.commit()
    other = here.save("dogs")
    with observe.counting() as counts, cats.draft() as draft:
        draft.remove("a.txt")
        draft.move("sub/c.bin", "c.bin")
    assert sum(counts.sent.values()) < 20_000
    other.put({"x": b"x"})
    other.commit()
    with other.draft() as joined:
        joined.copy_from("cats:v1", "sub/", "cats/")
    assert rh.folder("dogs:latest").get("cats/b.txt") == FILES["sub/b.txt"]


def test_upload_adds_to_the_newest_version(cats, tmp_path):
    file = tmp_path / "n.txt"
    file.write_bytes(b"n")
    assert cats.upload(file, "in/n.txt", message="first").label == "v1"
    with pytest.raises(errors.ExistsError):
        cats.upload(file, "in/n.txt")
    file.write_bytes(b"n2")
    assert cats.upload(file, "in/n.txt", update=True).label == "v2"
    assert rh.folder("cats:latest").get("in/n.txt") == b"n2"
    with pytest.raises(errors.NotFoundError):
        cats.upload(tmp_path / "missing")


def test_a_draft_that_cannot_begin_keeps_nobody_waiting(here):
    """The version that it begins with is lost: nothing says any more that somebody writes, whoever has the error."""
    here.put(FILES)
    cats = here.save("cats")
    version = cats.commit()
    store, draft = Store.at(version.store), cats.draft()
    store.system.delete([tree_key(version.digest)])
    shutil.rmtree(config.home() / "cache")
    with pytest.raises(errors.IntegrityError), draft:
        pass
    assert [entry.key for entry in store.system.list("leases/") if entry.kind == "file"] == []


def test_a_draft_takes_files_by_their_names(cats, tmp_path):
    """Of a path and of a blob alike: what a link leads to, also into a directory, as a program where that is said."""
    (tmp_path / "model").write_bytes(b"weights")
    (tmp_path / "newest").symlink_to("model")
    (tmp_path / "nothing").symlink_to("missing")
    (tmp_path / "sub").symlink_to(tmp_path)
    for number, named in enumerate((Path, lambda path: rh.blob(path=path))):
        with cats.draft() as draft:
            draft.add(named(tmp_path / "newest"), f"{number}/")
            draft.add(named(tmp_path / "model"), f"{number}/program", executable=True)
        (tmp_path / "model").chmod(0o755)
        with cats.draft() as draft:
            draft.add(named(tmp_path / "newest"), f"{number}/none", executable=False)
            draft.add(named(tmp_path / "newest"), f"{number}/one")
            for wrong in ("nothing", "sub"):
                with pytest.raises(errors.RhError, match=wrong):
                    draft.add(named(tmp_path / wrong), "wrong")
        (tmp_path / "model").chmod(0o644)
        found = {entry.key: entry.executable for entry in rh.folder("cats:latest").handle().list(f"{number}/")}
        programs = {"newest": False, "program": True, "none": False, "one": True}
        assert found == {f"{number}/{name}": program for name, program in programs.items()}
        assert {rh.folder("cats:latest").get(key) for key in found} == {b"weights"}
    cats.upload(tmp_path / "newest")
    assert rh.folder("cats:latest").get("newest") == b"weights"


@pytest.mark.parametrize(
    ("do", "error", "says"),
    [
        (lambda draft, _: draft.add(b"x"), errors.InvalidError, "path="),
        (lambda draft, _: draft.add(io.BytesIO(b"x")), errors.InvalidError, "path="),
        (lambda draft, _: draft.add(io.StringIO("x"), path="t"), errors.InvalidError, "text"),
        (lambda draft, place: draft.add(place), errors.InvalidError, "add_dir"),
        (lambda draft, _: draft.add(b"x", path="a.txt/b"), errors.NameClashError, "a.txt"),
        (lambda draft, _: draft.add(b"x", path="a.txt", update=False), errors.ExistsError, "a.txt"),
        (lambda draft, _: draft.add(b"x", path="../a"), errors.RhError, r"\.\."),
        (lambda draft, _: draft.remove("missing"), errors.NotFoundError, "missing"),
        (lambda draft, _: draft.move("missing", "b"), errors.NotFoundError, "missing"),
        (lambda draft, _: draft.copy_from("nothing:v1"), errors.NotFoundError, "nothing"),
        (lambda draft, _: draft.add(3, path="x"), errors.InvalidError, "no file"),
    ],
)
def test_what_a_draft_refuses(here, tmp_path, do, error, says):
    here.put(FILES)
    cats = here.save("cats")
    cats.commit()
    with pytest.raises(error, match=says), cats.draft() as draft:
        do(draft, tmp_path)
    assert len(cats.versions()) == 1


def test_a_table_and_a_blob_have_versions(folder):
    table = rh.table({"x": [1, 2, 3]}, name="rows", path=(folder / "rows").url).save()
    assert table.commit().files >= 1
    table.write({"x": [9]}, mode="overwrite")
    table.commit(aliases=["new"])
    pinned = rh.table(name="rows:v1")
    assert pinned.fetch() == {"x": [1, 2, 3]}
    assert [len(batch) for batch in pinned.stream(2)] == [2, 1]
    assert rh.table(name="rows:new").num_rows == 1
    with pytest.raises(errors.ImmutableVersionError):
        pinned.write({"x": [5]}, mode="append")
    with pytest.raises(errors.ImmutableVersionError):
        pinned.rm()
    assert pinned.to(path=(folder / "copy").url).fetch() == {"x": [1, 2, 3]}
    blob = rh.blob({"e": 1}, name="params", path=(folder / "params.json").url).save()
    blob.commit()
    rh.blob({"e": 2}, name="params", path=(folder / "params.json").url).save()
    assert rh.blob(name="params:v1").fetch() == {"e": 1}
    assert rh.blob(name="params").fetch() == {"e": 2}
    assert len(rh.load("params").versions()) == 1, "saving anew keeps the versions of the name"
    with pytest.raises(errors.ImmutableVersionError):
        rh.blob(name="params:v1").write({"e": 3})


def test_a_version_of_one_file_is_read_whatever_the_live_one_is_called(folder, here):
    place = folder / "files"
    blob = rh.blob(b"one", name="moved", path=(place / "a.bin").url).save()
    blob.commit()
    moved = blob.to(path=(place / "z.bin").url).save("moved")
    moved.write(b"two").save().commit()
    for which, data in (("v1", b"one"), ("v2", b"two"), ("v1", b"one")):
        pinned = rh.blob(name=f"moved:{which}")
        assert pinned.read() == b"".join(pinned.stream()) == pinned.open().read() == data
        assert (pinned.size(), pinned.digest(), pinned.exists_in_system()) == (3, rh.blob(data).digest(), True)
        assert pinned.verify()
        assert pinned.local().read_bytes() == data
        assert rh.blob(path=pinned.url).read() == data
        assert pinned.to(path=(here / f"copies/{which}").url).read() == data
        assert rh.load("moved").restore(which, on_existing="replace").read() == rh.blob(name="moved").read() == data
    assert rh.load("moved:v2").at("v1").read() == b"one"
    assert place.ls(full_paths=False) == ["a.bin", "z.bin"]


def test_an_imported_version_of_one_file_is_read(here):
    blob = rh.blob({"n": 1}, name="one", path=(here / "a.json").url).save()
    blob.commit()
    blob.export(here.path + "/one.rh")
    other = rh.blob({"n": 2}, name="other", path=(here / "b.json").url).save()
    other.import_(here.path + "/one.rh", aliases=["theirs"])
    assert rh.blob(name="other:theirs").fetch() == {"n": 1}
    assert other.restore("theirs").fetch() == rh.blob(name="other").fetch() == {"n": 1}


def test_a_version_of_a_table_is_read_whatever_it_is_by_now(here):
    """One file, one of another name, a directory of files, a table that `rh` wrote."""
    here.put({"a.csv": b"x\n1\n", "b.csv": b"x\n2\n", "c.json": b'{"x": 3}\n', "e.json": b"{}"})
    here.put({"d/1.csv": b"x\n4\n", "d/2.csv": b"x\n5\n"})
    for name in ("a.csv", "b.csv", "c.json", "d"):
        rh.table(path=(here / name).url).save("rows").commit()
    rh.table({"x": [6]}, path=(here / "own").url).write().save("rows").commit()
    rows = {"v1": [1], "v2": [2], "v3": [3], "v4": [4, 5], "v5": [6]}
    tried = {"b.csv": ("v1", "v2"), "e.json": ("v3",), "d": ("v5", "v1", "v4"), "own": ("v1", "v4", "v5", "v2")}
    for live, restored in tried.items():
        table = rh.table(path=(here / live).url).save("rows", overwrite=True)
        for which, values in rows.items():
            if which != "v3" or "." in live:  # a directory of .json may be about something else
                assert rh.table(name=f"rows:{which}").fetch("dict") == {"x": values}
        for which in restored:
            assert table.restore(which, workers=2).fetch("dict") == {"x": rows[which]}
            assert table.fetch("dict") == rh.table(name="rows").fetch("dict") == {"x": rows[which]}
    table = rh.table(path=(here / "a.csv").url).save("rows", overwrite=True)
    for which, says in (("v3", "ends with .csv"), ("v4", "directory"), ("v5", "directory")):
        with pytest.raises(errors.InvalidError, match=says):
            table.restore(which)
    assert table.fetch("dict") == {"x": [1]}


def test_what_has_no_versions_says_so(here):
    with pytest.raises(errors.InvalidError, match="no name"):
        here.commit()
    cats = here.save("cats")
    assert cats.versions() == []
    with pytest.raises(errors.NotFoundError, match="no versions"):
        rh.folder("cats:v1")
    cats.commit()
    with pytest.raises(errors.NotFoundError, match="newest is v1"):
        rh.folder("cats:v2")
    with pytest.raises(errors.InvalidError, match="alias"):
        cats.commit(aliases=["a:b"])
    with pytest.raises(errors.InvalidError, match="names a version"):
        rh.folder(name="cats:v1", path=here.path)
    with pytest.raises(errors.InvalidError, match="list"):
        cats.commit(tags="x")
    assert rh.exists("cats:v1")
    assert not rh.exists("cats:v9")


def test_renaming_keeps_the_versions(here):
    here.put(FILES)
    cats = here.save("cats")
    cats.commit()
    cats.rename("felines")
    assert rh.folder("felines:v1").get("a.txt") == b"one"


def test_a_version_travels_as_one_file(cats, tmp_path, here):
    first = cats.commit()
    assert cats.export(tmp_path / "cats.rh", "v1") > len(FILES["sub/c.bin"])
    with pytest.raises(errors.ExistsError):
        cats.export(tmp_path / "cats.rh")
    other = here.save("others")
    assert other.import_(tmp_path / "cats.rh", "from cats").digest == first.digest
    assert rh.folder("others:v1").get("sub/b.txt") == FILES["sub/b.txt"]
    damaged = bytearray((tmp_path / "cats.rh").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "cats.rh").write_bytes(damaged)
    with pytest.raises(errors.IntegrityError):
        other.import_(tmp_path / "cats.rh")
    assert len(other.versions()) == 1


def test_an_adopted_folder_is_not_copied_and_tells_when_it_drifts(folder):
    folder.put({**FILES, "unique": os.urandom(20)})  # a store that has all of it makes no reference
    with observe.counting() as counts:
        version = folder.adopt("adopted", "as it lies")
    assert counts.sent[folder.system] < len(FILES["sub/c.bin"])
    assert version.digest == folder.digest()
    pinned = rh.folder("adopted:v1")
    assert pinned.get("sub/b.txt") == FILES["sub/b.txt"]
    assert pinned.verify()
    folder.put({"a.txt": b"two"}, overwrite=True)
    found = pinned.verify()
    assert not found
    assert [*found.corrupt, *found.modified] == ["a.txt"]


def test_diff_names_what_changed(here):
    here.put(FILES)
    cats = here.save("cats")
    cats.commit()
    with cats.draft() as draft:
        draft.move("sub/b.txt", "b.txt")
        draft.add(b"new", path="new.txt")
        draft.remove("empty")
    found = cats.diff("v1")
    assert found
    assert {str(change).split()[0] for change in found} >= {"added", "removed", "renamed"} or found.as_dict()
    assert not cats.diff("v1", "v1")


def test_what_is_committed_is_kept_whatever_becomes_of_what_was_adopted(folder, here):
    """A version made by reference shares no file with one whose bytes were kept."""
    content = {"same.txt": b"the same content " * 10, "sub/more.txt": b"more"}
    adopted = folder / "adopted"
    adopted.put(content)
    adopted.adopt("by-reference")
    copied = (folder / "copied").save("copied")
    copied.put(content)
    digest = copied.commit().digest
    again = rh.load("by-reference")
    again.commit("kept now")
    adopted.put({"same.txt": b"other content"}, overwrite=True)
    copied.put({"same.txt": b"other content"}, overwrite=True)
    pinned = rh.folder("copied:v1")
    assert pinned.digest() == digest
    assert {name: pinned.get(name) for name in content} == content
    assert pinned.verify()
    grown = rh.load("by-reference")
    grown.put({"new.txt": b"new"})
    grown.commit()
    grown.put({"sub/more.txt": b"gone"}, overwrite=True)
    assert rh.folder("by-reference:latest").verify()


def test_a_version_of_another_kind_is_not_taken_over(here, tmp_path):
    """A folder takes no table, a table no files without rows, and neither gets a version by it."""
    table = rh.table({"x": [1]}, name="rows", path=tmp_path / "rows").save()
    table.commit()
    table.export(tmp_path / "rows.rh")
    here.put(FILES)
    cats = here.save("cats")
    cats.commit()
    cats.export(tmp_path / "cats.rh")
    blob = rh.blob(b"1", name="one", path=tmp_path / "one.bin").save()
    blob.commit()
    blob.export(tmp_path / "one.rh")
    with pytest.raises(errors.InvalidError, match="one of a table"):
        cats.import_(tmp_path / "rows.rh")
    with pytest.raises(errors.InvalidError, match="no files with rows"):
        table.import_(tmp_path / "one.rh")
    with pytest.raises(errors.InvalidError, match="is a blob"):
        blob.import_(tmp_path / "cats.rh")
    assert [len(one.versions()) for one in (table, cats, blob)] == [1, 1, 1]
    assert cats.import_(tmp_path / "one.rh").files == 1


def test_a_version_is_named_by_text_or_by_itself(here):
    here.put(FILES)
    cats = here.save("cats")
    first = cats.commit()
    cats.rm("a.txt")
    second = cats.commit()
    assert cats.at(first).get("a.txt") == b"one"
    assert [change.path for change in cats.diff(first, second)] == ["a.txt"]
    for wrong in (1, b"v1", object()):
        with pytest.raises(errors.InvalidError, match="named by text"):
            cats.at(wrong)
        with pytest.raises(errors.InvalidError, match="named by text"):
            cats.diff("v1", wrong)
    with pytest.raises(errors.NotFoundError, match="v1"):
        rh.folder("cats", version=1)


def test_the_place_of_a_version_is_readable(folder):
    """What people see is the store and the digest, and that is a place that can be read."""
    folder.put(FILES)
    cats = folder.save("cats")
    version = cats.commit()
    pinned = rh.folder("cats:v1")
    told = [pinned.url, (pinned / "sub").url, *pinned.ls(), repr(pinned / "sub"), str(pinned.plan(path="somewhere"))]
    with pytest.raises(errors.NotFoundError) as caught:
        pinned.get("nothing")
    assert not any("tree://" in text or "%" in text for text in [*told, str(caught.value)])
    assert pinned.url.endswith(f"@{version.digest}")
    assert rh.folder(path=pinned.url).get("a.txt") == b"one"
    assert rh.folder(path=(pinned / "sub").url).get("b.txt") == FILES["sub/b.txt"]
    with pytest.raises(errors.ImmutableVersionError):
        rh.folder(path=pinned.url).put({"x": b""})


def test_only_what_users_call_is_shown(here):
    """`dir` tells the API, not what modules ask of each other."""
    shown = {name for name in dir(here) if not name.startswith("_")}
    assert {"commit", "draft", "drafts", "upload", "repair", "diff", "to", "ls"} <= shown
    assert not shown & {"made", "begun", "check_live", "committed", "at_version", "series_of", "placed", "facts"}


def test_values_are_one_short_line_each_in_a_repl(tmp_path):
    """A list of them can be read, whatever they hold."""
    folder = rh.folder("cats", path=tmp_path / "data").save()
    folder.put({"a.csv": b"n,m\n1,2\n"})
    folder.commit(metadata={f"key {number}": "value" * 100 for number in range(10)})
    (version,) = folder.versions()
    profile = rh.table(path=tmp_path / "data").profile()
    for value in (version, version.upstream(), profile, *folder.history(), *rh.gc(dry_run=True)):
        assert repr(value).startswith(f"<{type(value).__name__} ")
        assert len(repr(value)) < 300
        assert "\n" not in repr(value)
    assert "v1" in repr(version)
    assert repr(profile) == "<Profile of 1 rows and 2 columns>"
