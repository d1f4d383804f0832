"""The program, in this process for breadth and as a process of its own where that matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main

from rh.cli import main

PROGRAM = Path(sys.executable).with_name("rh")


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self):
        return json.loads(self.err)


@pytest.fixture(scope="session", autouse=True)
def _built_once():
    """The commands are built once, as in a process of its own: again for each call takes longer than most calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture
def rh(capfd, monkeypatch, tmp_path):
    """Run `rh` in this process, in a directory of its own: `rh("ls", "x")`."""
    monkeypatch.chdir(tmp_path)

    def run(*words, expect=0):
        capfd.readouterr()
        code = main([str(word) for word in words])
        sys.stdout.flush()
        sys.stderr.flush()
        result = Result(code, *capfd.readouterr())
        assert expect is None or code == expect, result
        return result

    return run


@pytest.fixture
def program(tmp_path):
    """Run the real program: `program("cat", "x", input=b"")`, bytes in and out."""

    def run(*words, expect=0, **options):
        options.setdefault("stdin", subprocess.DEVNULL) if "input" not in options else None
        done = subprocess.run(
            [str(PROGRAM), *map(os.fspath, words)],
            capture_output=True,
            cwd=tmp_path,
            timeout=60,
            check=False,
            **options,
        )
        assert expect is None or done.returncode == expect, done
        return done

    return run


@pytest.fixture
def tree(tmp_path):
    """`src`: three files, an executable bit, an empty directory, a link."""
    src = tmp_path / "src"
    (src / "sub").mkdir(parents=True)
    (src / "empty").mkdir()
    (src / "a.txt").write_bytes(b"hello\n")
    (src / "sub" / "run.sh").write_bytes(b"#!/bin/sh\n")
    (src / "sub" / "run.sh").chmod(0o755)
    (src / "z.bin").write_bytes(bytes(range(256)) * 40)
    return src


@pytest.fixture
def mine(rh, tree):
    """`mine` with two versions: in the second one `a.txt` is another and `b.txt` is new."""
    rh("save", "mine", "src")
    rh("commit", "mine", "-m", "first")
    (tree / "a.txt").write_bytes(b"changed\n")
    (tree / "b.txt").write_bytes(b"new\n")
    rh("commit", "rh://mine", "-m", "second", "--alias", "production", "--tag", "good")
    return tree
