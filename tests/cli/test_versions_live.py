"""restore, adopt and create-dataset: live data from a version, and versions of data that is there."""

from __future__ import annotations

import shutil

import pytest

from rh import config
from rh.cli.complete import complete_name, complete_place
from rh.systems import locate, open_system


def test_restore(rh, mine):
    """Live files become what they were; what came since goes; no version is made."""
    planned = rh("restore", "mine:v1", "--dry-run", "--json").json
    assert (planned["counts"]["copy"], planned["counts"]["delete"]) == (1, 1)
    assert "delete" in rh("restore", "mine:v1", "-n").out
    assert (mine / "b.txt").exists()
    told = rh("restore", "--yes", "mine:v1", "--json").json
    assert (told["name"], told["version"]) == ("~/mine", "v1")
    assert (mine / "a.txt").read_bytes() == b"hello\n"
    assert not (mine / "b.txt").exists()
    assert (mine / "sub" / "run.sh").stat().st_mode & 0o100
    assert (mine / "empty").is_dir()
    assert [one["version"] for one in rh("version", "ls", "mine", "--json").lines] == ["v2", "v1"]
    assert rh("restore", "--yes", "rh://mine").out.startswith("~/mine:v2 → file:///")
    assert (mine / "b.txt").read_bytes() == b"new\n"
    rh("commit", "mine", "--parent", "v2")


def test_restore_asks_before_anything_is_lost(rh, mine):
    """Where nobody can answer it is refused; where nothing is, there is nothing to ask."""
    refused = rh("restore", "mine:v1", "--json", expect=2).error
    assert refused["hint"] == "--yes goes on without asking"
    assert (mine / "b.txt").exists()
    shutil.rmtree(mine)
    rh("restore", "mine")
    assert (mine / "b.txt").read_bytes() == b"new\n"


def test_restore_of_a_part(rh, mine):
    """Patterns say which files are meant, and --no-delete leaves what came since."""
    rh("restore", "--yes", "mine:v1", "--include", "z.bin", "--no-progress")
    assert (mine / "a.txt").read_bytes() == b"changed\n"
    rh("restore", "--yes", "mine:v1", "--exclude", "b.txt")
    assert (mine / "a.txt").read_bytes() == b"hello\n"
    assert (mine / "b.txt").exists()
    rh("restore", "--yes", "mine:production")
    (mine / "c.txt").write_bytes(b"c")
    rh("restore", "--yes", "mine:v1", "--no-delete", "--workers", "2", "--bandwidth", "10M")
    assert (mine / "c.txt").exists()
    assert (mine / "b.txt").exists()
    assert rh("restore", "--yes", "mine:v2", "--on-existing", "error", "--json", expect=4).error["kind"] == "exists"


def test_restore_that_cannot_be(rh, mine, tmp_path):
    """What is refused changes nothing."""
    before = sorted(path.name for path in mine.iterdir())
    assert rh("restore", "mine:v9", "--json", expect=3).error["kind"] == "not_found"
    assert "did you mean production" in rh("restore", "mine:producton", "--json", expect=3).error["message"]
    assert rh("restore", "mina", "--json", expect=3).error["hint"] == "rh resources lists the names there are"
    assert rh("restore", "--yes", "mine:v1", "--links", "maybe", "--json", expect=2).error["kind"] == "invalid"
    assert rh("restore", "--yes", "mine:v1", "--bandwidth", "much", "--json", expect=2).error["kind"] == "invalid"
    assert rh("restore", expect=2)
    rh("save", "fresh", "src/sub")
    assert "no versions" in rh("restore", "fresh", "--json", expect=3).error["message"]
    assert sorted(path.name for path in mine.iterdir()) == before


def test_restore_of_a_blob_and_a_table(rh, tree, tmp_path):
    """They are restored as a whole: options of folders are refused."""
    rh("save", "one", "src/a.txt")
    rh("commit", "one")
    (tree / "a.txt").write_bytes(b"changed\n")
    assert "only with" not in rh("restore", "one:v1", "-n").out
    assert (tree / "a.txt").read_bytes() == b"changed\n"
    refused = rh("restore", "--yes", "one:v1", "--no-delete", "--workers", "2", "--json", expect=2).error
    assert ": --no-delete is of folders" in refused["message"]
    assert rh("restore", "--yes", "one:v1", "--json").json["version"] == "v1"
    assert (tree / "a.txt").read_bytes() == b"hello\n"
    import rh as library

    table = library.table([{"n": 1}], path=tmp_path / "rows").write().save("rows")
    table.commit()
    table.write([{"n": 2}], mode="append")
    assert rh("restore", "rows:v1", "-n", "--json", expect=2).error["kind"] == "invalid"
    rh("restore", "--yes", "rows:v1")
    assert library.table(name="rows").num_rows == 1


def test_adopt(rh, tree, tmp_path):
    """A directory becomes a version without a copy, under a new name or the one it has."""
    made = rh("adopt", "outside", "src", "-m", "as found", "--alias", "first", "--json").json
    assert (made["name"], made["version"], made["aliases"], made["new"]) == (
        "~/outside", "v1", ["latest", "first"], True,
    )  # fmt: skip
    assert not [entry for entry in _store().list("") if entry.key.startswith(("objects/", "packs/"))]
    assert rh("cat", "rh://outside:first/a.txt").out == "hello\n"
    assert rh("adopt", "rh://outside").out.startswith("nothing new: it is ~/outside:v1")
    assert rh("adopt", "outside", "src", "--json").json["new"] is False
    (tree / "a.txt").write_bytes(b"changed\n")
    assert rh("version", "verify", "outside:v1", expect=6).out
    assert rh("adopt", "outside", "-m", "again", "--json").json["version"] == "v2"
    assert complete_name("~/out") == ["~/outside"]
    assert complete_place("sr") == ["src/"]


def _store():
    return open_system(locate(str(config.home() / "store")))


def test_adopt_that_cannot_be(rh, tree, tmp_path):
    """A name that means something else, no directory, a version: nothing is saved."""
    assert "rh adopt outside PLACE" in rh("adopt", "outside", "--json", expect=3).error["hint"]
    assert rh("adopt", "outside", "nowhere", "--json", expect=3).error["kind"] == "not_found"
    assert rh("adopt", "outside", "src/a.txt", "--json", expect=2).error["kind"] == "invalid"
    assert rh("adopt", "outside", "src", "-a", "a/b", "--json", expect=2).error["kind"] == "invalid"
    assert rh("adopt", "outside:v1", "src", "--json", expect=2).error["kind"] == "invalid"
    assert rh("resources").out == ""
    rh("save", "outside", "src/sub")
    refused = rh("adopt", "outside", "src", "--json", expect=4).error
    assert refused["kind"] == "exists"
    assert "rh save --overwrite outside src" in refused["hint"]
    rh("save", "one", "src/a.txt")
    assert "is a blob" in rh("adopt", "one", "--json", expect=2).error["message"]


@pytest.mark.parametrize("kind", ["s3", "ssh-a"])
def test_adopt_elsewhere(kind, rh, tree, world):
    """What lies in a bucket or on a host is adopted there."""
    place = f"{world[kind]}/found"
    rh("cp", "src", place, "--links", "skip")
    assert rh("adopt", "outside", place, "--json").json["files"] == 3
    assert rh("cat", "rh://outside:v1/a.txt").out == "hello\n"


def test_create_dataset(rh, tree, tmp_path):
    """A copy of its own, a name and a version in one command."""
    (tree / "b.tmp").write_bytes(b"x")
    made = rh("create-dataset", "set", "src", "--exclude", "*.tmp", "--path", "place", "-m", "as got", "--json").json
    assert (made["name"], made["version"], made["message"], made["files"]) == ("~/set", "v1", "as got", 3)
    (tree / "a.txt").write_bytes(b"changed\n")
    assert rh("cat", "rh://set/a.txt").out == "hello\n"
    assert (tmp_path / "place" / "a.txt").exists()
    refused = rh("create-dataset", "set", "src", "--json", expect=4).error
    assert refused["kind"] == "exists"
    assert refused["hint"] == "rh upload ~/set LOCAL adds to it"
    refused = rh("create-dataset", "other", "src", "--path", "place", "--json", expect=4).error
    assert refused["hint"] == "another --path, or rh save NAME PLACE names it as it is"
    assert rh("create-dataset", "other", "nowhere", "--json", expect=3).error["kind"] == "not_found"
    assert rh("create-dataset", "o", "src", "--org", "zoo", "--private", "--json", expect=2).error["kind"] == "invalid"
    assert rh("create-dataset", "a/o", "src", "--private", "--json", expect=2).error["kind"] == "invalid"
    assert rh("create-dataset", "other", "src", "--system", "nosuch", "--json", expect=3).error
    assert [one["name"] for one in rh("resources", "--json").lines] == ["~/set"]


def test_create_dataset_elsewhere(rh, tree, world):
    """From a version, in a bucket."""
    rh("save", "mine", "src")
    rh("commit", "mine")
    told = rh("create-dataset", "rh://set", "rh://mine:v1", "--system", "s3").out
    assert told.startswith("~/set:v1 (latest) sha256:")
    assert rh("cat", f"{world['s3']}/set/a.txt").out == "hello\n"


def test_a_version_in_other_commands(rh, mine):
    """Verified in part, told by its name, and never taken for the whole name."""
    assert rh("verify", "rh://mine:v1/sub").out.startswith("rh://~/mine:v1/sub: ")
    assert rh("verify", "rh://mine:v1/a.txt", "--json").json["against"] == "version"
    assert rh("info", "rh://mine:v1", "--json").json["place"] == "rh://~/mine:v1"
    assert "; rh://mine:v1 of what is saved;" in rh("info", "mine:v1", "--json", expect=2).error["hint"]
    for command in (("cp", "src/a.txt", "rh://mine:v1/y"), ("sync", "src", "rh://mine:v1")):
        assert rh(*command, "--json", expect=4).error["where"].startswith("rh://~/mine:v1")
    refused = rh("rename", "mine:v1", "other", "--json", expect=2).error
    assert (refused["message"], refused["hint"]) == (
        "~/mine:v1 names a version; the name is ~/mine",
        "rh rename ~/mine other",
    )
    assert rh("forget", "mine:v1", "--json", expect=2).error["hint"] == (
        "rh version rm ~/mine:v1 forgets the version, rh forget ~/mine the name"
    )
    assert rh("create-dataset", "made", "rh://mine:v1", "--json").json["message"] == "~/mine:v1, as it was"
    refused = rh("create-dataset", "more", "src/a.txt", "--json", expect=3).error
    assert refused["message"] == "this is a file, not a directory"
    assert "path=" not in rh("adopt", "bad/na me", "src", "--json", expect=2).error["hint"]
