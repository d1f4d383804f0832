"""save, history, resources, rh://, config, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rh import config
from rh.cli.complete import complete_name, complete_place

PROGRAM = Path(sys.executable).with_name("rh")


def test_a_name_means_its_place(rh, tree):
    assert "revision 1" in rh("save", "mine", "src").out
    assert rh("ls", "rh://mine").out == "a.txt\nempty/\nsub/\nz.bin\n"
    assert rh("ls", "rh://~/mine/sub").out == "run.sh\n"
    assert rh("cat", "rh://mine/sub/run.sh").out == "#!/bin/sh\n"
    rh("cp", "rh://mine/sub", "copy")
    assert rh("ls", "copy").out == "run.sh\n"
    facts = rh("info", "rh://mine", "--json").json
    assert (facts["name"], facts["resource"], facts["revision"]) == ("~/mine", "folder", 1)
    assert rh("resources").out == "~/mine\n"
    assert rh("resources", "--json").json["place"].endswith("/src")
    rh("cat", "rh://mine/../a.txt", expect=None)


def test_the_names_themselves_are_listed(rh, tree):
    """`rh ls rh://` is `rh resources`."""
    rh("save", "mine", "src")
    rh("save", "other", "src/a.txt")
    for more in ((), ("-l",), ("--json",)):
        assert rh("ls", "rh://", *more).out == rh("resources", *more).out != ""
    assert "rh resources" in rh("du", "rh://", "--json", expect=2).error["hint"]


def test_what_the_shell_makes_of_a_tilde_is_taken_back(rh, tree, monkeypatch, tmp_path):
    """`~/mine` arrives as `/home/ada/mine`, which is a name only if one is saved so."""
    home = tmp_path / "home" / "ada"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("RH_HOME", str(tmp_path / "rh-home"))
    assert rh("save", home / "team/mine", "src", "--json").json["name"] == "~/team/mine"
    rh("commit", home / "team/mine", "--alias", "good")
    assert rh("version", "ls", home / "team/mine", "--json").json["version"] == "v1"
    assert rh("version", "show", f"{home}/team/mine:good", "--json").json["version"] == "v1"
    assert rh("rename", home / "team/mine", home / "mine", "--json").json["name"] == "~/mine"
    assert len(rh("history", home / "mine", "--json").lines) == 2
    rh("restore", "--yes", f"{home}/mine:v1")
    rh("meta", "set", home / "mine", "stage=raw")
    assert "stage" in rh("meta", "get", f"{home}/mine").out
    assert rh("resources", home).out == rh("resources", "~").out == "~/mine\n"
    assert rh("find", "--prefix", home, "--json").lines
    assert rh("lineage", home / "mine").out
    for command in ("info", "ls"):
        assert "rh://~/mine" in rh(command, home / "mine", "--json", expect=3).error["hint"]
    assert "called ~/mina; did you mean ~/mine" in rh("commit", home / "mina", "--json", expect=3).error["message"]
    assert rh("forget", home / "mine", "--json").json["forgotten"] == "~/mine"


def test_a_whole_name_that_begins_like_the_home_directory_stays_one(rh, tree, monkeypatch):
    rh("save", "/org/mine", "src")
    rh("save", "mine", "src/sub")
    monkeypatch.setenv("HOME", "/org")
    assert rh("rename", "/org/mine", "/org/theirs", "--json").json["name"] == "/org/theirs"
    assert rh("resources", "/org").out == "/org/theirs\n"


def test_the_longest_name_wins(rh, tree):
    rh("save", "data", "src")
    rh("save", "data/sub", "src/empty")
    assert rh("ls", "rh://data/sub").out == ""
    assert rh("ls", "rh://data").out.startswith("a.txt")


def test_a_file_can_be_saved(rh, tree):
    rh("save", "greeting", "src/a.txt")
    assert rh("cat", "rh://greeting").out == "hello\n"
    assert rh("resources", "-l").out.split()[:2] == ["~/greeting", "blob"]
    assert rh("verify", "rh://greeting", expect=None).code in (0, 1)
    rh("ls", "rh://greeting/x", expect=2)


def test_names_are_kept_apart_from_paths(rh, tree):
    rh("save", "mine", "src")
    assert "rh://mine" in rh("ls", "mine", expect=3).err
    near = rh("ls", "rh://mina", "--json", expect=3).error
    assert "~/mine" in near["message"]
    assert "rh resources" in near["hint"]
    rh("save", "mine", "src/a.txt", expect=4)
    rh("save", "mine", "src/a.txt", "--overwrite")
    rh("save", "./mine", "src", expect=2)
    rh("save", "other", "nowhere", expect=3)


def test_history(rh, tree):
    rh("save", "mine", "src")
    refused = rh("save", "mine", "src/sub", "--json", expect=4).error
    assert (refused["kind"], "--overwrite" in refused["hint"]) == ("exists", True)
    assert "revision 1" in rh("save", "mine", "src").out
    rh("save", "mine", "src/sub", "--overwrite")
    changes = rh("history", "mine", "--json").lines
    assert [change["revision"] for change in changes] == [1, 2]
    assert rh("history", "rh://mine").out.splitlines()[1].endswith("/src/sub")
    rh("history", "nobody", expect=3)


def test_config(rh, monkeypatch, tmp_path):
    home = config.home()
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text('[systems.ovh]\nkind = "s3"\nroot = "s3://b/x"\n')
    monkeypatch.setenv("RH_WORKERS", "7")
    shown = {one["key"]: one for one in rh("config", "show", "--json").lines}
    assert shown["workers"] == {"key": "workers", "value": 7, "origin": "RH_WORKERS"}
    assert shown["systems.ovh.root"]["origin"] == str(home / "config.toml")
    assert shown["retries"]["origin"] == "default"
    assert rh("config", "get", "systems.ovh.root").out == "s3://b/x\n"
    assert "did you mean workers" in rh("config", "get", "worker", expect=3).err
    assert rh("config", "path").out == f"{home / 'config.toml'}\n"
    (home / "config.toml").write_text("nonsense")
    assert "not valid TOML" in rh("config", "show", expect=2).err


def test_completion(rh, tree, program, monkeypatch):
    rh("save", "mine", "src")
    config.register("lab", {"kind": "ssh", "host": "h"})
    assert complete_place("sr") == ["src/"]
    assert complete_place("src/") == ["src/a.txt", "src/empty/", "src/sub/", "src/z.bin"]
    assert complete_place("la") == ["lab:/"]
    assert complete_place("s3") == ["s3://"]
    assert complete_place("rh://") == complete_place("rh://m") == complete_place("rh") == ["rh://mine"]
    assert complete_place("rh://~/m") == ["rh://~/mine"]
    assert complete_place("mi") == ["rh://mine"]
    assert complete_name("~/m") == ["~/mine"]
    assert complete_name("mi") == complete_name("") == ["mine"]
    assert complete_name("@/") == []
    monkeypatch.setenv("RH_USER", "ada")
    rh("save", "@/animals", "src")
    rh("save", "/team/animals", "src")
    rh("commit", "@/animals")
    assert complete_name("@") == complete_name("@/an") == ["@/animals"]
    assert complete_name("@/animals:") == ["@/animals:v1"]
    assert complete_name("/te") == ["/team/animals"]
    assert complete_place("@/") == complete_place("rh://@/") == ["rh://@/animals"]
    assert complete_place("/team/") == complete_place("rh:///te") == ["rh:///team/animals"]
    words = {**os.environ, "_RH_COMPLETE": "complete_bash", "COMP_WORDS": "rh ls sr", "COMP_CWORD": "2"}
    assert program(env=words, expect=None).stdout.decode().split() == ["src/"]
    words = {**os.environ, "_RH_COMPLETE": "complete_bash", "COMP_WORDS": "rh res", "COMP_CWORD": "1"}
    assert "resources" in program(env=words, expect=None).stdout.decode()


@pytest.mark.slow
def test_bash_completes_words_that_it_takes_apart(rh, tree):
    """As its `COMP_WORDS` hold them: parted at colons, and only what follows the last one is put in their place."""
    rh("save", "mine", "src")
    rh("commit", "mine")
    rh("alias", "set", "mine", "stable", "v1")
    expected = {
        "ls rh : //m": "//mine",
        "info rh : //mine :": "v1 stable",
        "ls mi : n": "",
        "ls -- s3 :": "//",
        "cp rh : ": "src/",
        "alias set rh : //mine stable ": "v1 stable",
    }
    script = """
        eval "$(_RH_COMPLETE=source_bash rh)"
        while IFS=' ' read -r -d '' -a COMP_WORDS; do
            [ "${COMP_WORDS[-1]}" != . ] || COMP_WORDS[-1]=""
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            COMPREPLY=() && _rh_completion rh && echo "${COMPREPLY[*]}"
        done
    """
    typed = [f"rh {words}." if words.endswith(" ") else f"rh {words}" for words in expected]
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"},
        input="".join(f"{line}\0" for line in typed).encode(),
        capture_output=True,
        check=True,
    )
    assert dict(zip(expected, done.stdout.decode().splitlines(), strict=True)) == expected, done.stderr


@pytest.mark.slow
def test_bash_puts_no_space_behind_a_word_that_goes_on(rh, tree, tmp_path):
    """On a terminal, as readline does it: what is typed next belongs to the same word."""
    rh("save", "mine", "src")
    typed = ["rh ls sr\tz", "rh ls src/em\tx", "rh cat src/z\tx", "rh ls s3:\tb", "rh info rh://mi\tx"]
    words = ["rh ls src/z", "rh ls src/empty/x", "rh cat src/z.bin x", "rh ls s3://b", "rh info rh://mine x"]
    (tmp_path / "rc").write_text(
        "PS1=\nbind 'set bell-style none'\nbind 'set enable-bracketed-paste off'\n"
        'eval "$(rh --show-completion)"\n'
        'rh() { echo "rh $*" >> told; }\n'
    )
    terminal, other = os.openpty()
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", tmp_path / "rc", "-i"],
        env={**os.environ, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"},
        stdin=other,
        stdout=subprocess.DEVNULL,
        stderr=other,
        start_new_session=True,
    )
    os.close(other)
    for line in (*typed, "exit"):
        os.write(terminal, f"{line}\n".encode())
    shell.wait()
    os.close(terminal)
    assert (tmp_path / "told").read_text().splitlines() == words


@pytest.mark.parametrize(
    ("word", "completed"),
    [
        ("src/t", r"src/two\ words"),
        ("src/$", r"src/\$\(touch\ it\)"),
        ('"src/t', "src/two words"),
        ('"src/$', r"src/\$(touch it)"),
        ("'src/$", "src/$(touch it)"),
        ("src/it", r"src/it\'s"),
        ("'src/it", r"src/it'\''s"),
    ],
)
def test_what_bash_completes_is_one_word_and_no_command(tree, program, word, completed):
    for name in ("two words", "$(touch it)", "it's"):
        (tree / name).touch()
    words = {**os.environ, "_RH_COMPLETE": "complete_bash", "COMP_WORDS": f"rh\nrm\n{word}", "COMP_CWORD": "2"}
    assert program(env=words).stdout.decode() == f"{completed}\n"


@pytest.mark.parametrize("text", ["", "rh://mine:v3", "nosuch://x", "file://x", "ssh://ada:pw@h/x"])
def test_bad_places_are_errors_with_a_place(rh, text):
    found = rh("ls", text, "--json", expect=None)
    assert found.code in (1, 2, 3)
    assert found.error["kind"] in ("invalid", "not_found", "unsupported")
    assert ":pw@" not in found.err


def test_rename_and_forget(rh, tree):
    """The record moves or goes, the data stays, nobody is asked."""
    rh("save", "old", "src")
    assert rh("rename", "old", "rh://team/new", "--json").json == {
        "name": "~/team/new",
        "kind": "folder",
        "revision": 1,
    }
    assert rh("resources").out == "~/team/new\n"
    rh("save", "other", "src")
    assert "exists" in rh("rename", "other", "team/new", "--json", expect=4).error["kind"]
    assert rh("forget", "rh://~/team/new", "--json").json == {"forgotten": "~/team/new", "versions": 0}
    assert "still" not in rh("forget", "other").out
    assert rh("resources").out == ""
    assert (tree / "a.txt").exists()
    assert len(rh("history", "other", "--json").lines) == 2
    for words in (("forget", "other"), ("rename", "other", "x"), ("history", "none")):
        error = rh(*words, "--json", expect=3).error
        assert "rh resources" in error["hint"]
    assert "rh save NAME PLACE" in rh("save", "./src", "src", "--json", expect=2).error["hint"]


def test_forgotten_versions_come_back(rh, mine):
    assert "2 versions are out of reach until it is saved again: rh save ~/mine PLACE" in rh("forget", "mine").out
    rh("version", "ls", "mine", expect=3)
    rh("save", "mine", "src")
    assert [one["version"] for one in rh("version", "ls", "mine", "--json").lines] == ["v2", "v1"]
    assert rh("cat", "rh://mine:production/b.txt").out == "new\n"
    assert rh("forget", "mine", "--json").json == {"forgotten": "~/mine", "versions": 2}


def test_a_name_on_a_system_nobody_knows(rh, world):
    """The name is there: what is missing is its system."""
    rh("save", "far", world["ssh-a"])
    config.register("ssh-a", None)
    error = rh("ls", "rh://far", "--json", expect=3).error
    assert "no system called 'ssh-a'" in error["message"]
    assert "[systems.ssh-a]" in error["hint"]
    assert "rh resources" in rh("ls", "rh://fra", "--json", expect=3).error["hint"]


@pytest.mark.parametrize("name", ["small", "animals/small", "@/small", "/org/small"])
def test_a_name_is_no_place(rh, tree, monkeypatch, name):
    """What is saved under it is in the fix, in whatever namespace it is."""
    monkeypatch.setenv("RH_USER", "ada")
    rh("save", name, "src")
    rh("commit", name)
    for command in ("info", "ls", "du"):
        assert rh(command, name, "--json", expect=3).error["hint"] == f"a resource has that name: rh://{name}"
    assert rh("info", f"rh://{name}:v1", "--json").json["version"] == "v1"


def test_a_system_s_name_is_no_place(rh, world):
    """What was probably meant is in the fix."""
    assert "ssh-a:~/" in rh("info", "ssh-a", "--json", expect=3).error["hint"]
    assert "s3://" in rh("ls", "s3", "--json", expect=3).error["hint"]
    assert "did you mean ssh-" in rh("info", "ssh-c", "--json", expect=3).error["hint"]


def test_history_tells_of_a_rename(rh, tree):
    rh("save", "old", "src")
    rh("rename", "old", "new")
    first, second = rh("history", "new").out.splitlines()
    assert " put " in first
    assert " renamed from ~/old " in second
    assert "renamed to ~/new" in rh("history", "old").out
