"""upload and draft: new versions without the live files."""

from __future__ import annotations

import pytest


@pytest.fixture
def mine(rh, tree):
    rh("save", "mine", "src")
    rh("commit", "mine", "-m", "first")
    return tree


def test_upload(rh, mine, tmp_path):
    """A file or directory comes to the newest version; what is there is replaced only with --update."""
    (tmp_path / "n.txt").write_bytes(b"new\n")
    shown = rh("upload", "mine", "n.txt", "in/n.txt", "-m", "one more", "-v").out.splitlines()
    assert shown[0].split()[:2] == ["added", "in/n.txt"]
    assert shown[1].startswith("~/mine:v2 (latest)")
    assert shown[1].endswith("one more")
    assert rh("upload", "mine", "n.txt", "in/n.txt", "--json", expect=4).error["kind"] == "exists"
    (tmp_path / "n.txt").write_bytes(b"newer\n")
    made = rh("upload", "mine", "n.txt", "in/n.txt", "--update", "--json", "-a", "good", "-t", "x").json
    assert (made["version"], made["tags"]) == ("v3", ["x"])
    assert rh("cat", "rh://mine:good/in/n.txt").out == "newer\n"
    assert rh("upload", "mine", "src", "all", "--json").json["files"] == 7
    assert rh("upload", "mine", "nothing", "--json", expect=3).error["kind"] == "not_found"
    refused = rh("upload", "mine", "n.txt", "in/n.txt", expect=4).err
    assert "--update" in refused
    assert "update=" not in refused


def test_an_upload_of_what_is_there(rh, mine, tmp_path):
    """It is said that nothing is new, and which version has it."""
    again = rh("upload", "mine", "src", "--update", "-m", "again")
    assert again.out.startswith("nothing new: it is ~/mine:v1 (latest)")
    assert "the message is not kept" in again.err
    assert rh("upload", "mine", "src", "--update", "--json").json["new"] is False
    assert rh("upload", "mine", "src", "more", "--json").json["new"] is True
    rh("draft", "mine", "add", "src/a.txt", "--update")
    assert rh("draft", "mine", "commit").out.startswith("nothing new: it is ~/mine:v2")


def test_fixes_are_those_of_the_command(rh, mine, tmp_path):
    """What refuses names options as they are typed, and leaves no draft."""
    assert "fix: the first change begins one: rh draft NAME add FILE" in rh("draft", "mine", expect=3).err
    assert "begin with is --base\n" in rh("draft", "mine", "-d", "a/b", expect=2).err
    assert "begins with it: --base v3\n" in rh("draft", "mine", "-d", "v3", expect=2).err
    for missing in ("w/none", "memory://nowhere/none"):
        assert rh("draft", "mine", "add", missing, "--json", expect=3).error["kind"] == "not_found"
        assert rh("draft", "mine", expect=3).err
    refused = rh("draft", "mine", "mv", "a.txt", "z.bin", expect=4).err
    assert "fix: remove it first\n" in refused
    assert rh("draft", "mine", expect=3).err


def test_a_draft(rh, mine, tmp_path):
    """Added to, listed, changed, committed: one version."""
    (tmp_path / "n.txt").write_bytes(b"new\n")
    rh("draft", "mine", "add", "n.txt")
    rh("draft", "mine", "add", "src", "copy", "--exclude", "z.*")
    rh("draft", "mine", "rm", "z.bin")
    assert rh("draft", "mine", "mv", "sub/", "moved/", "--json").json["draft"] == "draft"
    listed = rh("draft", "mine", "ls").out.splitlines()
    assert listed[0].startswith("put n.txt")
    assert listed[-1].startswith("move sub/ → moved/")
    assert rh("draft", "mine").out.splitlines() == listed
    assert rh("draft", "mine", "ls", "--json").lines[0]["path"] == "n.txt"
    assert [one["version"] for one in rh("version", "ls", "mine", "--json").lines] == ["v1"]
    made = rh("draft", "mine", "commit", "-m", "all of it", "--json").json
    assert (made["version"], made["message"]) == ("v2", "all of it")
    assert rh("ls", "rh://mine:v2").out == "a.txt\ncopy/\nempty/\nmoved/\nn.txt\n"
    assert rh("draft", "mine", "commit", "--json", expect=3).error["kind"] == "not_found"


def test_several_drafts(rh, mine, tmp_path):
    """Each with a name of its own; one that is behind is put upon the newest version."""
    (tmp_path / "n.txt").write_bytes(b"new\n")
    rh("draft", "-d", "one", "mine", "add", "n.txt", "one.txt")
    rh("draft", "--draft", "two", "mine", "add", "n.txt", "two.txt")
    rh("draft", "-d", "none", "--base", "none", "mine", "add", "n.txt", "none.txt")
    rh("draft", "-d", "two", "mine", "commit")
    behind = rh("draft", "-d", "one", "mine", "commit", expect=4).err
    assert "rh draft NAME rebase" in behind
    rh("draft", "-d", "one", "mine", "rebase")
    rh("draft", "-d", "one", "mine", "commit")
    assert rh("version", "show", "mine", "--json").json["version"] == "v3"
    assert "discarded" in rh("draft", "-d", "none", "mine", "discard").out
    assert rh("draft", "-d", "none", "mine", "ls", "--json", expect=3).error["kind"] == "not_found"


def test_what_is_refused(rh, mine, tmp_path):
    for name in ("nothing", "n" * 300, "a\0b", "src/a.txt/below"):
        assert rh("draft", "mine", "add", name, "--json", expect=3).error["kind"] == "not_found"
    assert rh("draft", "mine", "rm", "nothing", "--json", expect=3).error["kind"] == "not_found"
    assert rh("draft", "nobody", "ls", "--json", expect=3).error["kind"] == "not_found"
    assert rh("draft", "mine:v1", "ls", "--json", expect=2).error["kind"] == "invalid"
    assert rh("draft", "-d", "a/b", "mine", "add", "src", "--json", expect=2).error["kind"] == "invalid"


def test_options_after_the_name(rh, mine, tmp_path):
    """As with every other command; `--json` alone lists."""
    (tmp_path / "n.txt").write_bytes(b"new\n")
    rh("draft", "mine", "-d", "two", "add", "n.txt", "sub/")
    rh("draft", "mine", "--draft=one", "--base", "none", "add", "n.txt", "one.txt")
    assert [one["path"] for one in rh("draft", "mine", "-d", "two", "--json").lines] == ["sub/n.txt"]
    assert rh("draft", "mine", "--json", "-d", "two", "rm", "a.txt").json["changes"] == 2
    assert rh("draft", "-d", "one", "mine", "--json").json["path"] == "one.txt"
    assert rh("draft", "mine", "-d", "two", "commit", "-m", "both", "--json").json["message"] == "both"
    assert rh("draft", "mine", "--nothing", "ls", "--json", expect=2).error["kind"] == "usage"


def test_a_directory_to_come_to(rh, mine, tmp_path):
    (tmp_path / "n.txt").write_bytes(b"new\n")
    rh("upload", "mine", "n.txt", "sub/")
    assert rh("cat", "rh://mine:v2/sub/n.txt").out == "new\n"


def test_a_draft_is_not_called_like_a_version(rh, mine):
    for name in ("v3", "latest"):
        error = rh("draft", "-d", name, "mine", "add", "src", "--json", expect=2).error
        assert f"{name!r} is a version" in error["message"]
