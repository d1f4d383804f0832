"""`rh cache` with copies in it, and what is told of places in versions."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rh import folder
from rh.versions import cache


@pytest.fixture
def version(rh, tree):
    rh("save", "mine", "src")
    rh("commit", "mine")
    return folder("mine:v1")


def test_copies_are_listed_verified_and_removed(rh, version):
    command = [sys.executable, "-c", "import rh; print(rh.folder('mine:v1').local())"]
    path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (kept,) = rh("cache", "ls", "--json").lines
    assert (kept["kind"], kept["copy_of"], kept["in_use"]) == ("folders", version.url, False)
    assert kept["size"] == sum(one.size for one in cache.ls("folders")) > version.size()
    told = rh("cache", "ls").out
    assert f"copy of {version.url}\n" in told
    assert "1 entries" in told
    assert rh("cache", "verify", "--json").json == {"files": 1, "damaged": []}
    assert version.local() == folder("mine:v1").local()  # this process has it now
    assert f"{version.url}*" in rh("cache", "ls").out
    removed = rh("cache", "rm", version.url, "--json").json
    assert removed == {"removed": 0, "size": 0, "in_use": 1}
    assert "1 copies that living processes asked for" in rh("cache", "rm").err
    assert os.path.exists(path)


def test_what_is_missing_is_told_as_it_was_given(rh, version):
    for words in (("cat",), ("info",), ("ls",)):
        told = rh(*words, "rh://mine:v1/none", "--json", expect=3).error
        assert "rh://mine:v1/none" in (told["where"], told["where"].rstrip("/")), (words, told)
        assert "sha256" not in str(told), (words, told)
    told = rh("cat", "rh://mine:v1/sub", "--json", expect=2).error
    assert (told["where"], "directory" in told["message"]) == ("rh://mine:v1/sub", True)
    assert rh("cat", "none", "--json", expect=3).error["message"] == "nothing is there"


def test_a_version_is_not_removed_and_nobody_is_asked(rh, version):
    for words in (("rh://mine:v1/a.txt",), ("rh://mine:v1",), ("-r", "rh://mine:v1"), ("-y", "rh://mine:v1/a.txt")):
        told = rh("rm", *words, "--json", expect=4).error
        assert told["kind"] == "immutable_version"
        assert told["where"] == words[-1]


def test_gc_of_a_name_without_rh(rh, tree, monkeypatch, tmp_path):
    monkeypatch.setenv("RH_REGISTRY", f"sqlite:///{tmp_path}/registry.db")
    rh("save", "/acme/x", "src")
    rh("commit", "/acme/x")
    told = rh("gc", "/acme/x", "--json", expect=3).error
    assert told["hint"] == "rh gc rh:///acme/x"


def test_what_is_beside_a_missing_file_of_a_version_is_told(rh, version):
    assert rh("cat", "rh://mine:v1/a.tx", "--json", expect=3).error["hint"] == "did you mean a.txt?"
    assert rh("ls", "rh://mine:v1/none", "--json", expect=3).error["hint"].startswith("rh://mine:v1 has a.txt, ")
