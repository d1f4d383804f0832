"""A system that another package brings: installed as users do, found by its entry point, held to the contract."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "plugin_example"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example, built and installed into a directory of its own."""
    place = tmp_path_factory.mktemp("plugin")
    source, target = place / "source", place / "site"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", str(target), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def with_plugin(installed, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, check=False)


def test_it_is_found_by_its_entry_point_and_opens_by_url(installed, tmp_path):
    code = f"""
import rh.config, rh.plugins
from rh.systems import locate, open_system
assert rh.plugins.names("rh.systems") == ["sqlite"], rh.plugins.names("rh.systems")
rh.config.register("notes", {{"kind": "sqlite", "file": {str(tmp_path / "notes.db")!r}}})
with open_system(locate("notes://team/plans")) as system:
    system.write("a/b.txt", b"one")
with open_system(locate("notes://team")) as system:
    print([(e.key, e.size) for e in system.list()], system.read("plans/a/b.txt").read())
"""
    done = with_plugin(installed, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[('plans/a/b.txt', 3)] b'one'\n"


@pytest.mark.slow
def test_it_keeps_the_contract(installed):
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--override-ini=testpaths=.", "--rootdir", str(EXAMPLE)]
    done = with_plugin(installed, *words, "-c", os.devnull, str(EXAMPLE / "test_rh_sqlite.py"))
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.splitlines()[-1]
    assert " passed" in summary
    assert int(summary.split()[0]) > 90, summary


def test_without_it_the_error_names_what_is_there(tmp_path, python):
    code = """
import rh.config
from rh.errors import InvalidError
from rh.systems import locate, open_system
rh.config.register("notes", {"kind": "sqlite", "file": "x"})
try:
    open_system(locate("notes://x"))
except InvalidError as error:
    print(error)
"""
    assert "there is no kind of system called 'sqlite'" in python(code)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import nowhere_at_all", "cannot be loaded: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def (:", "cannot be loaded: SyntaxError"),
        ("", "cannot be loaded: AttributeError"),
        ("Thing = 5", "no subclass of System"),
        ("class Thing: pass", "no subclass of System"),
    ],
)
def test_a_broken_one_is_a_typed_error_of_who_uses_it(tmp_path, code, told):
    about = tmp_path / "broken-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[rh.systems]\nbroken = broken_module:Thing\n")
    (tmp_path / "broken_module.py").write_text(code + "\n")
    use = """
import rh
from rh.errors import UnsupportedError
rh.register_system("here2", kind="file")
try:
    rh.register_system("x", kind="broken")
    rh.folder(system="x", path="a").ls()
except UnsupportedError as error:
    print(error)
"""
    done = with_plugin(tmp_path, "-c", use)
    assert told in done.stdout, done.stdout + done.stderr
