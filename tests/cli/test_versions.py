"""commit, version, alias, gc, cache, and rh://NAME:VERSION in the commands that read and write."""

from __future__ import annotations

import json
import os

import pytest

from rh import config
from rh.cli import show
from rh.errors import NotFoundError
from rh.versions import cache


def test_commit(rh, mine):
    """A commit is told, and one of nothing new makes no version."""
    again = rh("commit", "mine", "--json").json
    assert (again["name"], again["version"], again["message"], again["tags"]) == ("~/mine", "v2", "second", ["good"])
    assert again["new"] is False
    assert "--ttl is not kept: v2" in rh("commit", "mine", "--ttl", "1d").err
    told = rh("commit", "mine", "-m", "lost")
    assert told.out.startswith("nothing new: it is ~/mine:v2 (latest, production)")
    assert "the message is not kept" in told.err
    (mine / "c").write_bytes(b"c")
    assert rh("commit", "mine", "-m", "third", "--ttl", "30d").out.startswith("~/mine:v3 (latest) sha256:")
    shown = rh("version", "show", "mine", "--json").json
    assert 29 < (shown["expires"] - shown["time"]) / 86400 < 31
    (mine / "d").write_bytes(b"d")
    assert rh("commit", "mine", "--parent", "v1", "--json", expect=4).error["kind"] == "conflict"
    assert rh("commit", "mine:v1", "--json", expect=4).error["kind"] == "immutable_version"
    assert rh("commit", "mine", "--alias", "a/b", "--json", expect=2).error["kind"] == "invalid"
    assert "~/mine" in rh("commit", "mina", "--json", expect=3).error["message"]


def test_ls_and_show(rh, mine):
    """Versions are listed newest first, and shown with all that is known."""
    assert [line.split()[:2] for line in rh("version", "ls", "mine").out.splitlines()] == [
        ["v2", "latest,production"],
        ["v1", rh("version", "show", "mine:v1").out.split("time")[1].split()[0]],
    ]
    listed = rh("version", "ls", "mine", "--json").lines
    assert [(one["version"], one["message"], one["files"]) for one in listed] == [
        ("v2", "second", 4),
        ("v1", "first", 3),
    ]
    digest = listed[1]["digest"]
    assert rh("version", "show", f"mine@{digest}", "--json").json["version"] == "v1"
    assert "production" in rh("version", "show", "mine:production").out
    assert "newest is v2" in rh("version", "show", "mine:v9", "--json", expect=3).error["hint"]
    assert "did you mean production" in rh("version", "show", "mine:producton", "--json", expect=3).error["message"]
    assert rh("version", "ls", "mine:v1", "--json", expect=2).error["kind"] == "invalid"


def test_diff(rh, mine):
    """What differs, one line each; one document each for programs."""
    lines = rh("version", "diff", "mine:v1", "mine").out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["modified", "a.txt"], ["added", "b.txt"]]
    assert lines[2] == "1 added (4 B), 1 modified (8 B)"
    changes = rh("version", "diff", "mine:v2", "mine:v1", "--json").lines
    assert [(one["change"], one["path"]) for one in changes] == [("modified", "a.txt"), ("removed", "b.txt")]
    assert rh("version", "diff", "mine", "mine:v2").out == "no differences\n"
    assert rh("version", "diff", "mine:v1").out.splitlines() == lines


def test_aliases(rh, mine):
    """An alias moves only from where it is expected, and tells where it stood."""
    assert rh("alias", "ls", "mine", "--json").lines == [{"alias": "production", "version": "v2"}]
    assert rh("alias", "set", "mine", "staging", "v1", "--expect", "none", "--json").json["version"] == "v1"
    assert (
        "stands on v1" in rh("alias", "set", "mine", "staging", "--expect", "v2", "--json", expect=4).error["message"]
    )
    rh("alias", "set", "mine", "staging", "production", "--expect", "v1")
    rh("alias", "rm", "mine", "staging")
    assert [one["version"] for one in rh("alias", "history", "mine", "staging", "--json").lines] == ["v1", "v2", None]
    assert rh("alias", "history", "mine", "staging").out.splitlines()[2].startswith("- ")
    assert rh("alias", "rm", "mine", "staging", "--json", expect=3).error["kind"] == "not_found"
    error = rh("alias", "history", "mine", "prodution", "--json", expect=3).error
    assert "did you mean production" in error["message"]
    assert error["hint"] == "rh alias ls ~/mine"
    assert len(rh("alias", "history", "mine", "latest", "--json").lines) == 2
    assert rh("alias", "set", "mine", "a:b", "--json", expect=2).error["kind"] == "invalid"


def test_a_place_is_saved_before_it_is_committed(rh, tree):
    for place in ("s3://data/cats", "./src"):
        error = rh("commit", place, "--json", expect=2).error
        assert f"rh save NAME {place} names a place, then rh commit NAME" in error["hint"]
    assert (
        rh("commit", "src", "--json", expect=3).error["hint"] == "rh save src ./src names a place, then rh commit src"
    )
    assert rh("commit", "crs", "--json", expect=3).error["hint"] == "rh resources lists the names there are"


@pytest.mark.parametrize(
    ("words", "values"),
    [("mine production ", "v2 v1 production"), ("mine production v1", "v1"), ("nobody production ", "")],
)
def test_versions_are_completed(rh, mine, program, words, values):
    """After a name and an alias come the versions of that name."""
    words = f"rh alias set {words}"
    environment = {"_RH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert sorted(program(env={**os.environ, **environment}).stdout.decode().split()) == sorted(values.split())


def test_a_version_that_only_this_machine_has_is_told_once(rh, tree, monkeypatch, tmp_path):
    """A line on standard error, in the words of the log."""
    monkeypatch.setenv("RH_REGISTRY", f"file://{tmp_path}/registry")
    monkeypatch.setenv("RH_USER", "ada")
    rh("save", "/team/mine", "src")
    told = rh("commit", "/team/mine").err.splitlines()
    assert len(told) == 1, told
    assert told[0].startswith("warning: /team/mine:v1 is kept on this machine only, in file://")
    assert rh("commit", "/team/mine").err == ""
    rh("save", "mine", "src")
    assert rh("commit", "mine").err == ""


def test_warnings_are_json_where_the_rest_is(rh, tree, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("RH_REGISTRY", f"file://{tmp_path}/registry")
    told = json.loads(rh("save", "/team/mine", "src", "--json").err)
    assert told["warning"].startswith("a new registry was begun at file://")
    with show.warnings_told(as_json=True):
        show.warn("mind the gap")
        show.fail(NotFoundError("nothing is there"), as_json=True)
    told = json.loads(capfd.readouterr().err)
    assert (told["kind"], told["warnings"]) == ("not_found", ["mind the gap"])


def test_reading_a_version(rh, mine):
    """ls, cat, cp, du, find, info and verify take rh://NAME:VERSION/path."""
    assert rh("ls", "rh://mine:v1").out == "a.txt\nempty/\nsub/\nz.bin\n"
    assert rh("ls", "rh://mine:production/sub").out == "run.sh\n"
    assert rh("cat", "rh://mine:v1/a.txt").out == "hello\n"
    assert rh("cat", "rh://mine:latest/a.txt").out == "changed\n"
    rh("cp", "rh://mine:v1", "old")
    assert rh("cat", "old/a.txt").out == "hello\n"
    rh("cp", "rh://mine:v1/a.txt", "one.txt")
    assert rh("cat", "one.txt").out == "hello\n"
    for place in ("rh://mine:v1", "rh://mine:v1/a.txt", "rh://mine:v1/sub/", "rh://mine:v1/sub"):
        told = rh("info", place, "--json").json
        assert (told["version"], "latest" in told, told["drafted"]) == ("v1", False, False)
        assert (told["name"], told["resource"], told["revision"]) == ("~/mine", "folder", 1)
    assert rh("info", "rh://mine/a.txt", "--json").json["latest"] == "v2"
    assert rh("verify", "rh://mine:v1", "--json", expect=None).json["files"] == 3
    digest = rh("version", "show", "mine:v1", "--json").json["digest"]
    assert rh("ls", f"rh://mine@{digest[:20]}").out.startswith("a.txt")
    assert rh("ls", "rh://mine:v9", "--json", expect=3).error["kind"] == "not_found"


def test_a_version_of_one_file_whose_name_is_another_now(rh, tree):
    """ls, cat, cp, verify and restore go by the file that the version has."""
    rh("save", "one", "src/a.txt")
    rh("commit", "one")
    rh("cp", "src/sub/run.sh", "other.sh")
    rh("save", "one", "other.sh", "--overwrite")
    assert rh("cat", "rh://one:v1").out == "hello\n"
    assert rh("ls", "rh://one:v1").out.endswith("a.txt\n")
    assert rh("info", "rh://one:v1", "--json").json["size"] == 6
    assert "v1: 1 files read" in rh("verify", "rh://one:v1").out
    rh("cp", "rh://one:v1", "copy/")
    assert rh("cat", "copy/a.txt").out == "hello\n"
    rh("restore", "--yes", "one:v1")
    assert rh("cat", "other.sh").out == "hello\n"


@pytest.mark.parametrize(
    "words",
    [
        ("put", "rh://mine:v1/new"),
        ("rm", "--yes", "rh://mine:v1/a.txt"),
        ("rm", "--yes", "--recursive", "rh://mine:v1/sub"),
        ("cp", "src", "rh://mine:v1/more"),
        ("cp", "src/a.txt", "rh://mine:v1/a.txt"),
        ("sync", "src", "rh://mine:v1"),
    ],
)
def test_a_version_is_not_written(rh, mine, words):
    """Whatever would change a version is refused, says where, and changes nothing."""
    before = rh("ls", "rh://mine:v1", "--json").out
    refused = rh(*words, "--json", expect=None)
    assert refused.code not in (0, 130)
    assert refused.error["kind"] in ("immutable_version", "unsupported")
    assert refused.error["where"]
    assert rh("ls", "rh://mine:v1", "--json").out == before
    rh("version", "verify", "mine:v1")


def test_verify(rh, mine):
    """A version is read again from its store, and what is damaged there is named."""
    assert rh("version", "verify", "mine:v1", "--json").json["ok"]
    path = next(path for path in (config.home() / "store" / "objects").rglob("*") if path.is_file())
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    found = [rh("version", "verify", f"mine:{one}", "--json", expect=None) for one in ("v1", "v2")]
    assert [one for one in found if one.code == 6 and len(one.json["corrupt"]) == 1]


def test_export_and_import(rh, mine, tmp_path):
    """A version goes through a file to another name, with its digest; what is damaged makes no version."""
    digest = rh("version", "show", "mine:v1", "--json").json["digest"]
    rh("version", "export", "mine:v1", "v1.rh")
    assert rh("version", "export", "mine:v1", "v1.rh", "--json", expect=4).error["kind"] == "exists"
    rh("version", "export", "mine:v1", "v1.rh", "--overwrite")
    (tmp_path / "other").mkdir()
    rh("save", "other", "other")
    made = rh("version", "import", "v1.rh", "other", "-m", "from afar", "--alias", "theirs", "--json").json
    assert (made["version"], made["digest"], made["message"]) == ("v1", digest, "from afar")
    assert rh("cat", "rh://other:theirs/a.txt").out == "hello\n"
    data = bytearray((tmp_path / "v1.rh").read_bytes())
    data[-9000] ^= 1
    (tmp_path / "bad.rh").write_bytes(data)
    assert rh("version", "import", "bad.rh", "other", "--json", expect=6).error["kind"] == "integrity"
    assert rh("version", "import", "src/a.txt", "other", "--json", expect=6).error["kind"] == "integrity"
    assert len(rh("version", "ls", "other", "--json").lines) == 1


def test_rm_and_gc(rh, mine, tmp_path):
    """A version that is forgotten leaves its bytes to gc; the newest and those with an alias stay."""
    rh("alias", "set", "mine", "kept", "v1")
    assert "kept" in rh("version", "rm", "mine:v1", "--json", expect=4).error["message"]
    rh("alias", "rm", "mine", "kept")
    assert rh("version", "rm", "mine", "--json", expect=2).error["kind"] == "invalid"
    assert rh("version", "rm", "mine:v2", "--json", expect=4).error["kind"] == "conflict"
    assert rh("version", "rm", "mine:v1", "--json").json == {"name": "~/mine", "forgotten": "v1"}
    assert rh("gc", "--json").json["size"] == 0  # too young
    told = rh("gc", "--dry-run", "--older-than", "0s", "--json").json
    assert (told["dry_run"], told["trees"], told["objects"]) == (True, 1, 1)
    assert "removed" in rh("gc", "rh://mine", "--older-than", "0s").out
    assert rh("cat", "rh://mine:v2/a.txt").out == "changed\n"
    rh("ls", "rh://mine:v1", expect=3)


def test_gc_drops_versions(rh, mine, tmp_path):
    """Those beyond the newest N of a name go, and those whose time is over."""
    (mine / "c").write_bytes(b"c")
    rh("commit", "mine", "-m", "third")
    told = rh("gc", "rh://mine", "--keep", "1", "--dry-run").out.splitlines()
    assert told[0].startswith("would drop ~/mine:v1")
    assert told[1] == "would keep ~/mine: v3 (latest), v2 (production)"
    assert told[2].startswith("file://")
    assert ": would remove" in told[2]
    gone = rh("gc", "rh://mine", "--keep", "1", "--older-than", "0s", "--json").json
    assert [one["version"] for one in gone["dropped"]] == ["v1"]  # v2 is in production
    assert [one["version"] for one in rh("version", "ls", "mine", "--json").lines] == ["v3", "v2"]
    assert "would keep" not in rh("gc", "src", "--keep", "2", "-n").out
    (mine / "d").write_bytes(b"d")
    rh("commit", "mine", "--ttl", "0.001s")
    (mine / "d").write_bytes(b"e")
    rh("commit", "mine")
    assert [one["version"] for one in rh("gc", "src", "--json").json["dropped"]] == ["v4"]
    rh("gc", "rh://nobody", expect=3)


def test_cache(rh, mine, world):
    """What is kept of versions is listed, verified and removed."""
    rh("cp", "src", world["s3"])
    rh("save", "far", world["s3"])
    rh("commit", "far")
    rh("cp", "rh://far:v1", "back")
    kept = rh("cache", "ls", "--json").lines
    assert f"{len(kept)} entries" in rh("cache", "ls").out
    assert rh("cache", "verify", "--json").json == {"files": len(kept), "damaged": []}
    kept = [one for one in kept if one["kind"] == "objects"]
    assert len(kept) >= 3
    next(one for one in cache.ls("objects") if one.name == kept[0]["digest"]).path.write_bytes(b"damage")
    assert kept[0]["digest"] in rh("cache", "verify").out
    assert rh("cache", "rm", kept[1]["digest"], "--json").json["removed"] == 1
    assert rh("cache", "rm", kept[1]["digest"], "--json", expect=3).error["kind"] == "not_found"
    assert rh("cache", "rm", "--json").json["removed"] > 0
    assert rh("cache", "ls", "--json").lines == []
    assert rh("cat", "rh://far:v1/b.txt").out == "new\n"


def test_repair(rh, mine, tmp_path):
    """What the store lost is written again from the live files, or from another copy."""
    rh("cp", "src", "copy")
    objects = [path for path in (config.home() / "store" / "objects").rglob("*") if path.is_file()]
    for path in objects:
        path.unlink()
    found = rh("version", "repair", "mine:v1", "--json", expect=6).json
    assert (found["ok"], found["missing"]) == (False, ["a.txt"]), "v1 has an older one"
    assert rh("version", "repair", "mine", "--from", "copy", "--json").json["ok"]
    assert rh("cat", "rh://mine:v2/b.txt").out == "new\n"
    (mine / "a.txt").write_bytes(b"hello\n")
    assert rh("version", "repair", "mine:v1", "--json").json["ok"]
    assert rh("cat", "rh://mine:v1/a.txt").out == "hello\n"
