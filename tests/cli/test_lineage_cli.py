"""rh run …, rh lineage: what runs recorded, as text, JSON and drawings."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

import rh as library
from rh.cli.complete import complete_run, complete_run_name


@pytest.fixture
def work(rh, tree):
    """`mine`, and two runs: one read its first version as `production` and made `model`, the other failed."""
    rh("save", "mine", "src")
    rh("commit", "mine", "--alias", "production")
    with library.run("train", params={"rate": 0.1}) as done:
        library.folder("mine:production").get("a.txt")
        library.blob(b"weights", name="model").save().commit()
    with pytest.raises(ValueError, match="bad"), library.run("test", params={"rate": 0.5}) as failed:
        raise ValueError("bad")
    return done, failed


def test_run_ls(rh, work):
    done, failed = work
    lines = rh("run", "ls").out.splitlines()
    assert [line.split()[:3] for line in lines] == [[failed.id, "test", "failed"], [done.id, "train", "done"]]
    assert lines[1].endswith("rate=0.1")
    assert [run["id"] for run in rh("run", "ls", "--json").lines] == [failed.id, done.id]
    assert [run["id"] for run in rh("run", "ls", "train", "--json").lines] == [done.id]
    assert [run["id"] for run in rh("run", "ls", "--where", "rate > 0.3", "--json").lines] == [failed.id]
    assert [run["id"] for run in rh("run", "ls", "--status", "done", "-n", "1", "--json").lines] == [done.id]
    assert "did you mean rate" in rh("run", "ls", "--where", "rat > 0", "--json", expect=2).error["message"]
    assert rh("run", "ls", "--where", "rate >", "--json", expect=2).error["kind"] == "invalid"
    assert rh("run", expect=2).err.startswith("Usage: rh run [OPTIONS] COMMAND")
    assert "did you mean failed" in rh("run", "ls", "--status", "faild", "--json", expect=2).error["message"]


def test_run_show(rh, work):
    done, failed = work
    out = rh("run", "show", done.id).out
    assert "read        ~/mine:v1 (as production)\n" in out
    assert "made        ~/model:v1\n" in out
    assert "parameters  rate=0.1\n" in out
    assert "error       ValueError: bad\n" in rh("run", "show", failed.id).out
    told = rh("run", "show", done.id[:-1], "--json").json
    assert told["inputs"][0]["asked"] == "production"
    assert told["code"]["digest"].startswith("sha256:")
    assert rh("run", "show", "20000101", "--json", expect=3).error["kind"] == "not_found"
    assert rh("run", "show", "../x", "--json", expect=3).error["kind"] == "not_found"
    assert rh("run", "show", done.id[:4], "--json", expect=2).error["kind"] == "invalid"


def test_a_run_by_its_name(rh, work):
    """The newest one of it."""
    done, _ = work
    assert rh("run", "show", "train", "--json").json["id"] == done.id
    with library.run("train"):
        pass
    newest = rh("run", "show", "train", "--json").json["id"]
    assert newest != done.id
    assert rh("run", "changed", "train").out == ""
    assert complete_run("tr") == ["train"]
    assert complete_run(done.id) == [done.id]
    assert complete_run_name("te") == ["test"]
    assert rh("run", "rm", "train").out == f"run train {newest} is forgotten\n"
    assert rh("run", "show", "train", "--json").json["id"] == done.id
    for words in (("run", "show", "trian"), ("run", "ls", "trian")):
        error = rh(*words, "--json", expect=3).error
        assert "did you mean train" in error["message"]
        assert error["hint"] == "rh run ls lists those there are"


def test_run_changed_and_rm(rh, work, tree):
    done, _ = work
    assert rh("run", "changed", done.id).out == ""
    (tree / "a.txt").write_bytes(b"changed\n")
    rh("commit", "mine", "--alias", "production")
    assert rh("run", "changed", done.id).out == "~/mine:v1 (as production): alias (v2)\n"
    assert rh("run", "changed", done.id, "--json").json["why"] == "alias"
    error = rh("version", "rm", "mine:v1", "--json", expect=4).error
    assert error["kind"] == "conflict"
    assert error["hint"] == f"rh run rm {done.id} forgets the run"
    (tree / "a.txt").write_bytes(b"again\n")
    rh("commit", "mine")
    assert rh("gc", "rh://mine", "--keep", "1", "-n", "--json").json["dropped"] == []
    dropped = rh("gc", "rh://mine", "--keep", "1", "-n", "--no-runs", "--json").json["dropped"]
    assert [one["version"] for one in dropped] == ["v1"]
    assert rh("run", "rm", done.id).out == f"run train {done.id} is forgotten\n"
    rh("version", "rm", "mine:v1")
    assert rh("run", "rm", done.id, "--json", expect=3).error["kind"] == "not_found"


def test_lineage(rh, work, tmp_path):
    done, _ = work
    text = rh("lineage", "model").out
    assert text == f"train {done.id} (done)\n  read  ~/mine:v1 (as production)\n  made  ~/model:v1\n"
    assert rh("lineage", "mine:production").out == text
    assert rh("lineage", "mine:v1", "model").out == text
    assert rh("lineage", done.id, "--up", "1", "--down", "1").out == text
    assert rh("lineage", "model", "--up", "0").out == "~/model:v1\n"
    told = rh("lineage", "model", "--json").json
    assert told == rh("lineage", "model", "--format", "json").json
    assert len(told["edges"]) == 2
    assert rh("lineage", "model", "-f", "dot").out.startswith("digraph")
    (event,) = rh("lineage", "model", "-f", "openlineage").lines
    assert event["eventType"] == "COMPLETE"
    assert "no format 'dto'; did you mean dot?" in rh("lineage", "model", "-f", "dto", "--json", expect=2).err
    rh("lineage", "model", "-f", "svg", "-o", tmp_path / "graph.svg")
    assert ET.parse(tmp_path / "graph.svg").getroot().tag.endswith("svg")
    error = rh("lineage", "model", "-o", tmp_path / "graph.svg", "--json", expect=4).error
    assert (error["kind"], error["hint"]) == ("exists", "--overwrite")
    rh("lineage", "model", "-o", tmp_path / "graph.svg", "--overwrite")
    assert (tmp_path / "graph.svg").read_text() == text.rstrip("\n")
    assert rh("lineage", "model", "-o", tmp_path / "no" / "graph", "--json", expect=2).error["kind"] == "invalid"
    json.dumps(told)


def recorded(run):
    return [str(item) for item in run.inputs], [str(item) for item in run.outputs]


@pytest.fixture
def saved(rh, tree, tmp_path):
    """`mine`, a folder, `note`, a blob, and `points`, a table of one file; each live, and `v1` as `production`."""
    (tmp_path / "p.csv").write_text("x\n1\n")
    library.table(path=str(tmp_path / "p.csv"), name="points").save()
    rh("save", "mine", "src")
    rh("save", "note", "src/a.txt")
    for name in ("mine", "note", "points"):
        rh("commit", name, "--alias", "production")
    return tree


@pytest.mark.parametrize(
    ("words", "read", "written"),
    [
        (("cat", "rh://mine:production/a.txt"), "~/mine:v1 (as production)", None),
        (("cat", "rh://mine:v1/sub/run.sh", "rh://mine:v1/a.txt", "--json"), "~/mine:v1", None),
        (("cat", "rh://mine/a.txt"), "~/mine (live)", None),
        (("cat", "rh://note:production"), "~/note:v1 (as production)", None),
        (("cat", "rh://note"), "~/note (live)", None),
        (("cat", "rh://points:v1"), "~/points:v1", None),
        (("cat", "src/sub/run.sh"), "file://{here}/src/sub/run.sh", None),
        (("cp", "rh://mine:production/", "out/"), "~/mine:v1 (as production)", "file://{here}/out"),
        (("cp", "rh://mine:v1/sub/run.sh", "out/"), "~/mine:v1", "file://{here}/out/run.sh"),
        (("cp", "rh://mine/", "out"), "~/mine (live)", "file://{here}/out"),
        (("cp", "src/a.txt", "rh://mine/b.txt"), "file://{here}/src/a.txt", "~/mine (live)"),
        (("sync", "rh://mine:v1/sub/", "out/"), "~/mine:v1", "file://{here}/out"),
        (("rm", "rh://mine/a.txt", "--yes"), None, "~/mine (live)"),
        (("rm", "rh://mine/sub", "--yes", "--recursive"), None, "~/mine (live)"),
        (("rm", "src/a.txt", "--yes"), None, "file://{here}/src/a.txt"),
        (("ls", "rh://mine:v1"), None, None),
        (("plan", "rh://mine:v1/", "out/"), None, None),
        (("cp", "rh://mine:v1/", "out/", "--dry-run"), None, None),
        (("verify", "rh://mine:v1"), None, None),
    ],
)
def test_what_commands_read_and_write(rh, saved, tmp_path, words, read, written):
    """The same as the resources of the library: a version as it was asked for, live data by its name."""
    with library.run("shell") as run:
        rh(*words)
    assert recorded(run) == tuple([] if one is None else [one.format(here=tmp_path)] for one in (read, written))


@pytest.mark.slow
def test_commands_of_their_own_processes(saved, program):
    with library.run("shell") as run:
        assert program("cat", "rh://mine:production/a.txt").stdout == b"hello\n"
        program("cp", "rh://mine:v1/", "rh://mine/copy/")
        program("put", "rh://mine/new.txt", input=b"new")
        program("cat", "rh://mine/new.txt")
    assert recorded(run) == (["~/mine:v1 (as production)", "~/mine:v1"], ["~/mine (live)"])


def test_a_path_is_given_as_a_url(rh, work, tmp_path):
    there = tmp_path / "src" / "a.txt"
    of_two = (["model", "/acme/modl"], "file:///…")
    for words, url in ((["./src/a.txt"], there.as_uri()), (["/acme/modl"], "file:///acme/modl"), of_two):
        hint = rh("lineage", *words, "--json", expect=None).error["hint"]
        assert hint == f"rh resources lists the names there are; for a path give its URL: {url}"
    rh("lineage", there.as_uri())
    for words in (("history", "/acme/modl"), ("ls", "rh:///acme/modl"), ("rename", "./x", "y"), ("resources", "/")):
        assert "path=" not in rh(*words, expect=None).err


def test_lineage_of_what_is_not_there(rh, work):
    library.table({"x": [1]}, name="points").save()
    error = rh("lineage", "modle", "--json", expect=3).error
    assert "did you mean ~/model" in error["message"]
    assert error["hint"] == "rh resources lists the names there are"
    alone = rh("lineage", "mine", "points")
    assert alone.out == "~/mine:v1\n~/points\n"
    assert alone.err == "no recorded run leads from one of mine and points to the other\n"
    assert rh("find", "--produced-by", "train", "--json").json["name"] == "~/model"
    error = rh("find", "--produced-by", "trian", "--json", expect=3).error
    assert "did you mean train?" in error["message"]
    assert error["hint"] == "rh run ls lists those there are"
    assert rh("lineage", "model:v7", "--json", expect=3).error["kind"] == "not_found"
    assert "did you mean svg" in rh("lineage", "model", "-f", "svgg", expect=2).err
    assert rh("lineage", "model", "mine", "--up", "1", "--json", expect=2).error["kind"] == "invalid"
