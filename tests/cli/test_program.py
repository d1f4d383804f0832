"""The program as a whole: start, help, exit codes, interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rh import config, errors
from rh.cli import exit as codes

COMMANDS = (
    *("ls", "cp", "sync", "cat", "put", "rm", "sweep", "du", "find", "plan", "verify", "info"),
    *("save", "rename", "forget", "history", "resources", "doctor", "playground"),
)
PROGRAM = str(Path(sys.executable).with_name("rh"))


def test_help_names_every_command_and_exit_code():
    done = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True)
    for code, meaning in codes.CODES.items():
        assert f"{code}  {meaning}" in done.stdout
    for command in (*COMMANDS, "config"):
        assert f"\n  {command} " in done.stdout


def test_it_is_a_module_too():
    done = subprocess.run([sys.executable, "-m", "rh", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("rh ")


def test_help_loads_no_sdk(python):
    code = """
import sys, contextlib, io
from rh.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main(["--help"]) == 0
heavy = {"boto3", "paramiko", "google", "azure", "rich", "msgspec", "dulwich", "urllib3", "fsspec"}
print(sorted(heavy & set(sys.modules)), len(sys.modules))
"""
    told = python(code).split()
    assert told[0] == "[]"
    assert int(told[1]) <= 220, (
        "what is imported is what it takes: promise 23 gives it 250 ms (`benchmarks --only start`)"
    )


@pytest.mark.parametrize("command", [*COMMANDS, "config show", "config get", "config path"])
def test_every_command_has_help_and_json(rh, command):
    text = rh(*command.split(), "--help").out
    assert "--json" in text
    assert "Usage: rh " + command in text


def test_every_kind_of_error_has_its_code():
    kinds = {cls.kind for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.RhError)}
    assert set(codes.KINDS) - {"usage", "interrupted"} <= kinds
    assert set(codes.KINDS.values()) <= set(codes.CODES)
    assert codes.code_of(errors.TransferError("x")) == 8
    assert codes.code_of(errors.FullError("x")) == 1


def test_every_summary_is_one_short_sentence():
    """So no list of commands cuts one off, also where it is 80 columns wide."""
    import typer

    from rh.cli.app import app

    def below(command, words):
        if words:
            first, *rest = (command.help or "").strip().split("\n")
            assert 0 < len(first) <= 60, f"{' '.join(words)}: {first}"
            assert first.find(".") == len(first) - 1, f"{' '.join(words)}: {first}"
            assert not rest or not rest[0].strip(), f"{' '.join(words)}: {first} {rest[0]}"
            assert not command.get_short_help_str(60).endswith("..."), " ".join(words)
        for name, one in getattr(command, "commands", {}).items():
            below(one, (*words, name))

    below(typer.main.get_command(app), ())


@pytest.mark.parametrize(
    "words", [["frob"], ["ls", "--frob"], ["cp", "only-one"], ["rm"], ["cp", "a", "b", "--workers", "x"]]
)
def test_usage_errors(rh, words):
    found = rh(*words, expect=2)
    assert found.err.startswith("rh: ")
    assert "--help" in found.err
    assert rh(*words, "--json", expect=2).error["kind"] == "usage"


@pytest.mark.parametrize(
    ("words", "missing"),
    [(("cp",), "SOURCE"), (("cp", "x"), "TARGET"), (("cp", "-n", "x"), "TARGET"), (("sync", "x"), "TARGET")],
)
def test_the_argument_that_is_missing_is_named(rh, words, missing):
    assert rh(*words, "--json", expect=2).error["message"] == f"Missing argument {missing!r}."


def test_version(rh):
    import rh as package

    assert rh("--version").out == f"rh {package.__version__}\n"


def test_no_traceback_for_what_may_go_wrong(program, tmp_path):
    config.home().mkdir(parents=True, exist_ok=True)
    (config.home() / "config.toml").write_text(
        '[systems.gone]\nkind = "s3"\nendpoint_url = "http://127.0.0.1:9"\nretries = 0\ntimeout_s = 2.0\n'
    )
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "s3cret"}
    done = program("ls", "gone://b/x", expect=7, env=environment)
    assert b"Traceback" not in done.stderr
    assert b"s3cret" not in done.stderr


def interrupted(argv, tmp_path, ready):
    """Start, wait until `ready`, send Ctrl-C; the exit code, what was said, and how long it took."""
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, text=True
    ) as process:
        deadline = time.monotonic() + 20
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert ready()
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(20)
        finally:
            process.kill()
        took = time.monotonic() - begun
        err = process.stderr.read()
    return code, err, took


def test_ctrl_c_ends_a_transfer_within_two_seconds(tmp_path, program, ssh_a):
    """Nothing half-done is to be seen, and the same command goes on (promise 28)."""
    config.home().mkdir(parents=True, exist_ok=True)
    lines = [f"{key} = {json.dumps(value)}" for key, value in ssh_a.settings().items()]
    (config.home() / "config.toml").write_text("\n".join(["[systems.host]", *lines]) + "\n")
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.mkdir()
    for number in range(40):
        (src / f"{number:02}.bin").write_bytes(os.urandom(1 << 20))

    def arrived():
        return {path for path in dst.rglob("*.bin") if not path.name.startswith(".rh-")} if dst.exists() else set()

    argv = [PROGRAM, "cp", "src", f"host:{dst}", "--bandwidth", "4M"]
    code, err, took = interrupted(argv, tmp_path, arrived)
    assert code == 130
    assert "of 40 files arrived; the same call again goes on" in err
    assert "Traceback" not in err
    assert took < 2.5
    some = arrived()
    assert 0 < len(some) < 40
    for path in some:
        assert path.read_bytes() == (src / path.name).read_bytes()
    receipt = json.loads(program("cp", "src", f"host:{dst}", "--json").stdout)
    assert receipt["done"] + receipt["skipped"] == 40
    assert receipt["skipped"] > 0, "what had arrived is not sent again"
    assert {path.name for path in arrived()} == {path.name for path in src.iterdir()}


@pytest.mark.parametrize("json_", [False, True])
@pytest.mark.slow
def test_ctrl_c_while_reading_input(tmp_path, json_):
    """Nothing is stored; with --json what is said of it is JSON, with its kind."""
    begun = time.monotonic()
    argv = [PROGRAM, "put", "x", *(["--json"] if json_ else [])]
    code, err, took = interrupted(argv, tmp_path, lambda: time.monotonic() - begun > 1.5)
    assert (code, took < 2) == (130, True)
    assert err == "rh: interrupted\n" if not json_ else json.loads(err)["kind"] == "interrupted"
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_ctrl_c_while_the_system_is_asked_for_something(tmp_path):
    """No handler of Python's is run before that returns, as where a host's name is looked up and nobody answers."""
    code = """
import ctypes
from rh.cli.run import _interruptible
libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(lock)
with _interruptible(as_json=False):
    open("ready", "w").close()
    libc.pthread_mutex_lock(lock)
"""
    code, err, _ = interrupted([sys.executable, "-c", code], tmp_path, (tmp_path / "ready").exists)
    assert (code, err) == (130, "rh: interrupted\n")


def test_ctrl_c_while_the_program_is_loaded(python):
    code = """
import sys
from rh.cli import main

class Press:
    def find_spec(self, name, *_):
        if name == "rh.cli.show":
            sys.meta_path.remove(self)
            raise KeyboardInterrupt

sys.meta_path.insert(0, Press())
sys.stderr = sys.stdout
print(main(["ls", "--json"]))
"""
    told, exit_code = python(code).splitlines()
    assert (json.loads(told)["kind"], exit_code) == ("interrupted", "130")


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("rh cp --links ", "follow keep skip error"),
        ("rh cp --on-existing s", "skip"),
        ("rh sync --names ", "refuse encode decode"),
        ("rh find . --type ", "f d l"),
        ("rh table head x --format p", "parquet"),
        ("rh table write a b --mode ", "error append overwrite"),
        ("rh playground ssh", "ssh-a ssh-b"),
        ("rh config get systems.s3.", "systems.s3.kind"),
    ],
)
def test_values_are_completed(program, words, values):
    count = len(words.split(" ")) - 1
    environment = {"_RH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    assert program(env={**os.environ, **environment}).stdout.decode().split() == values.split()


def test_a_fix_is_told_as_it_is_typed(rh, tree):
    """Not as an argument of Python's."""
    (tree / "l").symlink_to("nowhere")
    error = rh("cp", "src", "dst", "--json", expect=3).error
    assert error["hint"] == "exclude it, or --links keep or --links skip"
    (tree / "l").unlink()
    rh("cp", "src", "dst")
    (tree / "a.txt").write_bytes(b"other")
    error = rh("cp", "src", "dst", "--on-existing", "error", "--json", expect=4).error
    assert error["hint"] == "--on-existing update, skip or replace"
    error = rh("find", "--as-of", "yesterday", "--json", expect=2).error
    assert (error["message"], error["hint"]) == (
        "--as-of 'yesterday' is no date",
        "--as-of 2026-11-21, or with a time",
    )
    error = rh("find", "--created-after", "yesterday", "--json", expect=2).error
    assert error["hint"] == "--created-after 2026-11-21, or with a time"
    assert "--limit 0 is not" in rh("find", "--limit", "0", expect=2).err
    assert "fix: rh cp --help" in rh("cp", "a", "b", "--include", expect=2).err


@pytest.mark.parametrize("words", [["ls"], ["cp", "memory://cli/x", "x"], ["cat", "x"], ["gc", "--dry-run", "./"]])
def test_a_working_directory_that_is_gone(rh, tmp_path, monkeypatch, words):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    error = rh(*words, "--json", expect=3).error
    assert (error["kind"], error["message"]) == ("not_found", "the working directory is gone")
    assert "cd " in error["hint"]


@pytest.mark.parametrize("words", [["--help"], ["find", ".", "--json"], ["ls", "--json", "."], ["cat", "f"]])
def test_a_full_disk_under_the_output_is_an_error_like_others(words, tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 100_000)
    with open("/dev/full", "wb") as full:
        done = subprocess.run([PROGRAM, *words], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    assert done.returncode == codes.code_of(errors.FullError(""))
    told = done.stderr.decode()
    assert "Traceback" not in told
    if "--json" in words:
        assert json.loads(told)["kind"] == "full"
    else:
        assert "standard input or output" in told


@pytest.mark.parametrize(
    ("words", "closed", "code", "told"),
    [
        ("ls .", ">&-", 1, "standard input or output"),
        ("--help", ">&-", 1, "standard input or output"),
        ("cat f", ">&-", 1, "standard input or output"),
        ("put x", "<&-", 1, "standard input or output"),
        ("rm f", "<&-", codes.USAGE, "nobody to ask"),
        ("cat f", "<&-", 0, ""),
        ("ls .", "2>&-", 0, ""),
        ("ls nope", "2>&-", codes.NOT_FOUND, ""),
        ("ls nope --json", "2>/dev/full", codes.NOT_FOUND, ""),
        ("ls nope", "2>/dev/full", codes.NOT_FOUND, ""),
        ("ls .", ">&- 2>&- <&-", 1, ""),
    ],
)
def test_streams_that_cannot_be_used(words, closed, code, told, tmp_path):
    """The exit code tells in any case, and what could not be read is not stored as nothing."""
    (tmp_path / "f").write_bytes(b"here\n")
    argv = ["sh", "-c", f'exec "$0" {words} {closed}', PROGRAM]
    done = subprocess.run(argv, capture_output=True, cwd=tmp_path, text=True, check=False)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    assert told in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    """Else what is told would be written into it."""
    code = (
        "import os, rh.cli.run as run\n"
        "run._prepare_streams()\n"
        f"assert os.open({str(tmp_path / 'f')!r}, os.O_CREAT | os.O_RDWR) > 2\n"
    )
    subprocess.run(["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code], check=True)


def test_an_encoding_that_has_not_all_letters(tmp_path):
    """What it has not is escaped, and names that are no text go out as they are."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "ü→").touch()
    (tmp_path / os.fsdecode(b"d/\xff")).touch()
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([PROGRAM, "ls", "d"], capture_output=True, cwd=tmp_path, env=environment, check=True)
    assert done.stdout == b"\xfc\\u2192\n\xff\n"
    done = subprocess.run([PROGRAM, "cp", "d", "e"], capture_output=True, cwd=tmp_path, env=environment, check=True)
    assert b"moved 2 of 2 files" in done.stdout


def test_a_forgotten_profile_is_told_of(rh, tree, monkeypatch):
    """The playground is one: without it, its systems are unknown, or those of the cloud."""
    monkeypatch.setenv("AWS_CONFIG_FILE", "none")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    profile = config.home() / "profiles" / "there.toml"
    profile.parent.mkdir(parents=True)
    profile.write_text(
        '[systems.ssh-x]\nkind = "ssh"\nhost = "127.0.0.1"\nport = 1\n[systems.s3]\nroot = "s3://data"\n'
    )
    assert rh("ls", "ssh-x:~/a", expect=3).err.count("RH_PROFILE=there has it") == 1
    assert (
        "(the profile there has settings for this place: export RH_PROFILE=there)" in rh("ls", "s3://d", expect=5).err
    )
    assert "RH_PROFILE" not in rh("ls", "azure://d", expect=None).err
    monkeypatch.setenv("RH_PROFILE", "there")
    assert "RH_PROFILE" not in rh("ls", "s3://d", expect=5).err
    assert "RH_PROFILE" not in rh("ls", "none", expect=3).err


def test_what_was_meant_is_told(rh, tree, monkeypatch):
    """Where words are in another order, or of another program."""
    monkeypatch.setenv("RH_RETRIES", "0")
    assert "fix: rh cat PLACE writes to stdout, and rh put PLACE reads" in rh("cp", "src/a.txt", "-", expect=2).err
    assert "fix: rh cat src/a.txt" in rh("cat", "src/a.txt/", expect=2).err
    assert "fix: rh ls src/" in rh("cat", "src/", expect=2).err
    assert "fix: rh put src/NAME" in rh("put", "src/", expect=2).err
    assert "fix: the name comes first: rh save mine src" in rh("save", "src", "mine", expect=3).err
    assert "check the URL" in rh("ls", "https://127.0.0.1:1/x", expect=7).err
    rh("cp", "src", "dst")
    (tree.parent / "dst" / "more").touch()
    assert "left    1 that only the target has" in rh("plan", "src", "dst").out
