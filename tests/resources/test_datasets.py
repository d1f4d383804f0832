"""Datasets in one call, DagsHub's spellings, and sweeping from Python."""

import io
import os

import pytest

import rh
from rh import errors
from rh.interop import dagshub
from rh.resources.sweeping import sweep


@pytest.fixture
def work(tmp_path):
    """A directory with three files."""
    place = tmp_path / "work"
    (place / "sub").mkdir(parents=True)
    (place / "a.txt").write_bytes(b"one")
    (place / "sub" / "b.txt").write_bytes(b"two")
    (place / "skip.tmp").write_bytes(b"no")
    return place


def contents(folder):
    return {key: folder.get(key) for key in folder.glob("**") if not key.endswith("/")}


def test_a_dataset_in_one_call(work, folder):
    made = rh.create_dataset("cats", work, glob_exclude="*.tmp", path=folder.url + "/cats", message="as delivered")
    assert (made.name, made.versions()[0].message) == ("~/cats", "as delivered")
    assert contents(made) == contents(rh.folder("cats:v1")) == {"a.txt": b"one", "sub/b.txt": b"two"}
    assert made.system == folder.system
    assert made.commit().label == "v1"


def test_what_a_dataset_refuses(work, tmp_path):
    rh.create_dataset("cats", work)
    with pytest.raises(errors.ExistsError, match="exists already"):
        rh.create_dataset("cats", work)
    with pytest.raises(errors.NotFoundError):
        rh.create_dataset("dogs", tmp_path / "nothing")
    with pytest.raises(errors.ExistsError, match="already"):
        rh.create_dataset("dogs", work, path=work)
    with pytest.raises(errors.InvalidError):
        rh.create_dataset("dogs", work, org="zoo", private=True)
    with pytest.raises(errors.InvalidError):
        rh.create_dataset("x/dogs", work, org="zoo")
    assert rh.resources("/") == ["~/cats"]
    assert rh.create_dataset("dogs", work, org="zoo").name == "/zoo/dogs"
    assert rh.create_dataset("mice", work, private=True).name == "~/mice"


def test_the_spellings_of_dagshub(work, tmp_path):
    """A repository, a directory of it, files that are added, one commit."""
    repo = dagshub.create_dataset("cats", work, "*.tmp", org="zoo")
    images = repo.directory("images/")
    images.add(file=work / "a.txt")
    images.add(file=io.BytesIO(b"stream"), path="deep/s.bin")
    images.add_dir(work / "sub", "more", glob_exclude="")
    version = images.commit("three more", versioning="dvc")
    assert (version.label, version.message) == ("v2", "three more")
    assert contents(rh.folder("/zoo/cats:v2")) == {
        "a.txt": b"one",
        "sub/b.txt": b"two",
        "images/a.txt": b"one",
        "images/deep/s.bin": b"stream",
        "images/more/b.txt": b"two",
    }
    assert images.commit("nothing new").label == "v2"
    assert dagshub.Repo("zoo", "cats").upload(work / "skip.tmp", "one", "x/y.tmp").label == "v3"
    assert dagshub.upload_files("zoo/cats", str(work), remote_path="all").label == "v4"
    with pytest.raises(errors.ExistsError):
        repo.upload(work / "a.txt", force=False)
    with pytest.raises(errors.InvalidError, match="path="):
        images.add(io.BytesIO(b"x"))
    with pytest.raises(errors.InvalidError, match="add_dir"):
        images.add(work)
    with pytest.raises(errors.NotFoundError):
        images.add(work / "nothing")
    with pytest.raises(errors.InvalidError, match="dvc"):
        images.commit(versioning="svn")
    with pytest.raises(errors.NotFoundError):
        dagshub.Repo("zoo", "nobody")


def test_a_commit_of_dagshub_that_failed_is_tried_again(work, tmp_path):
    """File objects are read again from where they stood, also those that can be read once only."""
    dagshub.create_dataset("cats", work, "*.tmp", org="zoo")
    images = dagshub.Repo("zoo", "cats").directory("images")
    stream = io.BytesIO(b"head precious")
    stream.seek(5)
    images.add(stream, "p.bin")
    reading, writing = os.pipe()
    os.write(writing, b"once")
    os.close(writing)
    with open(reading, "rb") as pipe:
        images.add(pipe, "pipe.bin")
    with pytest.raises(errors.InvalidError, match="as text"):
        images.add(io.StringIO("text"), "t.txt")
    late = tmp_path / "late.txt"
    late.write_bytes(b"late")
    images.add(late)
    late.rename(tmp_path / "away.txt")
    with pytest.raises(errors.NotFoundError):
        images.commit("one is lost")
    (tmp_path / "away.txt").rename(late)
    assert images.commit("all").label == "v2"
    found = contents(rh.folder("/zoo/cats:v2"))
    assert {name: found[f"images/{name}"] for name in ("p.bin", "pipe.bin", "late.txt")} == {
        "p.bin": b"precious",
        "pipe.bin": b"once",
        "late.txt": b"late",
    }


def test_sweeping(folder):
    """What would go is what goes, and versions with an alias stay."""
    cats = folder.save("cats")
    for number in range(4):
        cats.put({"a.bin": bytes([number]) * 2_000_000}, overwrite=True)
        cats.commit(str(number))
    cats.alias("production", "v2")
    (told,) = sweep("cats", keep=1, dry_run=True, older_than_s=-60)
    assert len(cats.versions()) == 4
    assert told.dropped == ["~/cats:v1", "~/cats:v3"]
    assert told.collected.size > 4_000_000
    text = str(told)
    assert "would keep ~/cats: v4 (latest), v2 (production)" in text
    assert "would drop ~/cats:v3" in text
    (done,) = sweep("cats", keep=1, older_than_s=-60)
    assert done.as_dict() | {"dry_run": True} == told.as_dict()
    assert [version.label for version in cats.versions()] == ["v2", "v4"]
    assert rh.folder("cats:production").get("a.bin") == b"\1" * 2_000_000
    assert sweep(None, cats.url, older_than_s=-60)[0].dropped == []


def test_what_sweeping_refuses(here):
    with pytest.raises(errors.NotFoundError):
        rh.gc("nobody")
    here.save("cats")
    with pytest.raises(errors.NotFoundError, match="no versions"):
        rh.gc("cats")
    with pytest.raises(errors.InvalidError, match="or of a place"):
        rh.gc("cats", path=here.path)
    for keep in (0, True, "3", 1.5):
        with pytest.raises(errors.InvalidError, match="newest"):
            rh.gc(keep=keep)
