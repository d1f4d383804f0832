"""ls, du, find, cat, put, rm, info."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from pathlib import Path

import pytest

from rh.cli import show
from rh.cli.options import size_of
from rh.errors import InvalidError, NotFoundError, UnavailableError
from rh.resources import nearest
from rh.systems import locate, open_system
from rh.systems.abilities import Multipart


def test_ls(rh, tree):
    assert rh("ls", "src").out == "a.txt\nempty/\nsub/\nz.bin\n"
    assert rh("ls", "src", "-r").out == "a.txt\nempty/\nsub/run.sh\nz.bin\n"
    assert rh("ls", "src/a.txt").out == "a.txt\n"
    assert rh("ls").out == "src/\n"
    long = rh("ls", "-l", "src/sub").out.split()
    assert long[0] == "10"
    assert long[-1] == "run.sh*"
    first = rh("ls", "src", "--json").lines[0]
    assert (first["key"], first["size"], first["kind"]) == ("a.txt", 6, "file")
    assert rh("ls", "src/empty").out == ""
    rh("ls", "src/none", expect=3)
    assert rh("ls", "src/a.txt/", expect=None).code in (2, 3)


def test_a_bucket_and_what_is_in_it(rh, tree, world):
    rh("cp", "src", f"{world['s3']}/t")
    assert rh("ls", f"{world['s3']}/t").out == "a.txt\nsub/\nz.bin\n"
    bucket = world["s3"].rsplit("/", 1)[0]
    assert world["s3"].rsplit("/", 1)[1] + "/" in rh("ls", bucket).out.splitlines()
    assert rh("cat", f"{world['s3']}/t/a.txt").out == "hello\n"
    assert rh("ls", f"{world['s3']}/none", "--json", expect=3).error["kind"] == "not_found"
    assert rh("info", f"{world['s3']}/t/z.bin", "--json").json["size"] == 10240
    rh("rm", "-r", "--yes", f"{world['s3']}/t")
    rh("ls", f"{world['s3']}/t", expect=3)


@pytest.mark.parametrize("place", ["s3", "gs", "azure"])
def test_buckets(rh, world, place):
    scheme = {"azure": "az"}.get(place, place)
    bucket = world[place].split("/")[2] + "/"
    assert bucket in rh("ls", f"{scheme}://").out.splitlines()
    assert {"key": bucket, "size": None, "kind": "dir"} in rh("ls", f"{scheme}://", "--json").lines
    assert bucket in rh("ls", "-l", f"{scheme}://").out
    error = rh("ls", "-r", f"{scheme}://", "--json", expect=2).error
    assert error["hint"] == f"name one: {scheme}://BUCKET"
    for words in (("du",), ("cat",), ("rm", "-r", "--yes")):
        assert f"rh ls {scheme}://" in rh(*words, f"{scheme}://", "--json", expect=2).error["hint"]


@pytest.mark.parametrize("place", ["s3", "gs", "azure"])
def test_a_bucket_that_is_not_there_is_told(rh, world, place):
    scheme = {"azure": "az"}.get(place, place)
    for words in (("ls",), ("du",), ("find",), ("info",), ("verify",), ("cat",), ("rm", "-r", "--yes")):
        error = rh(*words, f"{scheme}://no-such-bucket/x", "--json", expect=3).error
        assert error["kind"] == "not_found"
        assert "'no-such-bucket'" in error["message"]
    assert "bucket" not in rh("ls", f"{world[place]}/none", expect=3).err.replace(world[place], "")


@pytest.mark.parametrize("place", ["s3", "gs", "azure"])
def test_the_nearest_bucket_is_told(rh, world, place, monkeypatch):
    scheme, bucket = world[place].split("/")[0], world[place].split("/")[2]
    for name in (f"{bucket}a/x", f"{bucket[:-1]}/x"):
        hint = rh("ls", f"{scheme}//{name}", "--json", expect=3).error["hint"]
        assert hint.startswith("check ")
        assert f"://{bucket}" in hint.partition("; did you mean ")[2]

    def failing(system):
        raise UnavailableError("not now", where=system)

    monkeypatch.setattr(nearest, "buckets", failing)
    assert "did you mean" not in rh("ls", f"{scheme}//{bucket}a", "--json", expect=3).error["hint"]


def test_one_more_slash_before_the_bucket(rh, world):
    assert rh("ls", "s3:///no-such-bucket/b", "--json", expect=3).error["where"] == "s3://no-such-bucket/b"
    rest = world["s3"].removeprefix("s3://")
    Path("x").write_bytes(b"1")
    rh("cp", "x", f"s3:///{rest}/x")
    assert rh("cat", f"s3://{rest}/x").out == "1"


@pytest.mark.parametrize("path", ["../x", "x/../../y", "a/./../../b"])
def test_a_path_that_leaves_its_bucket_is_refused(rh, world, path):
    for words in (("ls", f"s3://data/{path}"), ("cp", f"s3://data/{path}", "here")):
        error = rh(*words, "--json", expect=2).error
        assert error["message"] == "'..' leads out of the bucket"
        assert error["where"] == f"s3://data/{path}"
    with pytest.raises(InvalidError, match="out of the configured root"):
        locate(path, "s3")


def test_sweep(rh, tree, world, tmp_path):
    """Promise 9: what a crash left goes, what is complete stays, and so does what may still be taken up."""
    for place in (str(tmp_path / "copy"), f"{world['gs']}/copy", f"{world['ssh-a']}/copy"):
        rh("cp", "src", place)
        upload = open_system(locate(place)).ask(Multipart).begin("big", 20 << 20, part_size=8 << 20)
        upload.put(0, bytes(8 << 20))
        assert rh("sweep", place, "--json").json["swept"] == 0
        assert upload.parts().keys() == {0}
        assert rh("sweep", place, "--older-than", "0s", "--json").json["swept"] > 0
        with pytest.raises(NotFoundError):
            upload.parts()
        assert "0 removed" in rh("sweep", place, "--older-than", "0s").out
        assert rh("verify", place, "--json").json["ok"] is True
    assert rh("sweep", "src/a.txt", "--json", expect=2).error["kind"] == "invalid"
    assert rh("sweep", "src", "--older-than", "soon", "--json", expect=2).error["kind"] == "invalid"


def test_what_cannot_be_swept(rh, http_server, world):
    for place in ("nothing", "nothing/below", f"{world['ssh-a']}/nothing"):
        assert rh("sweep", place, "--json", expect=3).error["kind"] == "not_found"
    assert rh("sweep", f"{world['s3']}/nothing", "--json").json["swept"] == 0
    assert rh("sweep", f"{http_server.url}/x/", "--json", expect=1).error["kind"] == "unsupported"


@pytest.mark.slow
def test_names_are_exact_bytes(program, tmp_path):
    name = os.fsdecode(b"odd \xff\nname")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(b"x")
    assert program("ls", "d").stdout == b"odd \xff\nname\n"
    assert program("find", "d", "-0").stdout == b"odd \xff\nname\0"
    assert b"\\udcff\\nname" in program("ls", "d", "--json").stdout
    assert program("cat", b"d/odd \xff\nname").stdout == b"x"


def test_du(rh, tree):
    *parts, whole = rh("du", "src", "--json").lines
    assert parts == [{"key": "empty/", "files": 0, "size": 0}, {"key": "sub/", "files": 1, "size": 10}]
    assert (whole["files"], whole["size"]) == (3, 6 + 10 + 10240)
    assert "10,256" in rh("du", "-b", "src").out


def test_find(rh, tree):
    os.utime(tree / "z.bin", (time.time() - 10 * 86400,) * 2)
    assert rh("find", "src", "*.txt").out == "a.txt\n"
    assert rh("find", "src", "**/*.sh").out == "sub/run.sh\n"
    assert rh("find", "src", "*", "-t", "d").out == "empty/\nsub/\n"
    assert rh("find", "src", "-t", "d").out == rh("find", "src", "**/", "-t", "d").out == "empty/\nsub/\n"
    assert rh("find", "src", "--larger", "1K").out == "z.bin\n"
    assert rh("find", "src", "--smaller", "6").out == "a.txt\n"
    assert rh("find", "src", "--type", "f", "--newer", "2d").out == "a.txt\nsub/run.sh\n"
    rh("find", "src", "--type", "x", expect=2)
    rh("find", "src", "--newer", "soon", expect=2)
    rh("find", "src/a.txt", expect=3)


def test_cat(rh, tree, program):
    assert rh("cat", "src/a.txt", "src/sub/run.sh").out == "hello\n#!/bin/sh\n"
    assert program("cat", "src/z.bin").stdout == bytes(range(256)) * 40
    assert program("cat", "src/z.bin", "--offset", "250", "--length", "10").stdout == bytes(
        [*range(250, 256), *range(4)]
    )
    assert rh("cat", "src/a.txt", "--json").json["text"] == "hello\n"
    assert rh("cat", "src/z.bin", "--json", "--length", "3").json["text"] == "\0\x01\x02"
    assert rh("cat", "src/z.bin", "--json", "--offset", "255", "--length", "1").json["base64"] == "/w=="
    assert "rh ls" in rh("cat", "src", expect=2).err
    rh("cat", "src/none", expect=3)


@pytest.mark.slow
def test_put(program, tmp_path):
    data = bytes(range(256)) * 10_000
    program("put", "new/x.bin", input=data)
    assert (tmp_path / "new" / "x.bin").read_bytes() == data
    refused = program("put", "new/x.bin", "--json", input=b"other", expect=4)
    assert b'"kind": "exists"' in refused.stderr
    assert (tmp_path / "new" / "x.bin").read_bytes() == data
    program("put", "new/x.bin", "--overwrite", input=b"other")
    assert (tmp_path / "new" / "x.bin").read_bytes() == b"other"
    program("put", "new/", input=b"", expect=2)


@pytest.mark.slow
def test_rm_asks(program, tree):
    refused = program("rm", "src/a.txt", expect=2)
    assert b"--yes" in refused.stderr
    assert (tree / "a.txt").exists()
    assert b"--recursive" in program("rm", "-y", "src", expect=2).stderr
    program("rm", "-y", "src/a.txt", "src/none", expect=3)
    program("rm", "-f", "src/none")
    (tree / "b.txt").touch()
    program("rm", "-fy", "src/none", "src/b.txt")
    assert not (tree / "b.txt").exists()
    assert (tree / "a.txt").exists(), "nothing is removed if something is not there"
    program("rm", "-y", "src/a.txt")
    assert not (tree / "a.txt").exists()
    assert (tree / "z.bin").exists()
    program("rm", "-ry", "src")
    assert not tree.exists()


def test_rm_at_a_terminal(tree, tmp_path):
    """The question is asked on a terminal; only yes removes."""
    import pty
    import sys
    from pathlib import Path

    for answer, code, there in ((b"n\n", 1, True), (b"y\n", 0, False)):
        main, side = pty.openpty()
        argv = [str(Path(sys.executable).with_name("rh")), "rm", "src/a.txt"]
        with subprocess.Popen(argv, stdin=side, stdout=side, stderr=side, cwd=tmp_path) as process:
            os.close(side)
            os.write(main, answer)
            assert process.wait(30) == code
        text = os.read(main, 10_000)
        os.close(main)
        assert b"src/a.txt" in text
        assert b"Remove?" in text
        assert (tree / "a.txt").exists() is there


def test_info(rh, tree):
    facts = rh("info", "src/a.txt", "--digest", "--json").json
    (tree / "gone").symlink_to("nowhere")
    assert "--links keep" in rh("info", "src", "--digest", expect=3).err
    kept = rh("info", "src", "--digest", "--links", "keep", "--json").json["digest"]
    assert kept == rh("cp", "src", "kept", "--links", "keep", "--json").lines[-1]["digest"]
    (tree / "gone").unlink()
    assert facts["digest"] == "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    assert facts["size"] == 6
    assert "3" in rh("info", "src").out
    rh("info", "nothing", expect=3)


def test_info_counts_what_the_digest_is_of(rh, tree):
    (tree / "l").symlink_to("sub")
    below = [one.stat().st_size for one in (tree / "sub").rglob("*") if one.is_file()]
    told = {}
    for links in ("follow", "keep", "skip"):
        facts = rh("info", "src", "--digest", "--links", links, "--json").json
        told[links] = (facts["files"], facts["size"])
    files, size = told["skip"]
    copied = rh("cp", "src", "skipped", "--links", "skip", "--json").lines[-1]
    assert (files, size) == (copied["files"], copied["bytes_total"])
    assert told["keep"] == (files + 1, size + len("sub"))
    assert told["follow"] == (files + len(below), size + sum(below))
    plain = rh("info", "src", "--json").json
    assert (plain["files"], plain["size"]) == told["keep"]


@pytest.mark.slow
def test_output_that_nobody_reads_is_quiet(tmp_path):
    import sys
    from pathlib import Path

    (tmp_path / "many").mkdir()
    for number in range(3000):
        (tmp_path / "many" / f"{number:0200d}").touch()
    for words in (["ls", "many"], ["ls", "-l", "many"], ["find", "many"]):
        argv = [str(Path(sys.executable).with_name("rh")), *words]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(30) == 141


@pytest.mark.parametrize("name", ["with\x1b[31mred", "with\x07bell"])
def test_a_terminal_gets_no_control_characters_from_names(tmp_path, name):
    import pty
    import sys
    from pathlib import Path

    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).touch()
    main, side = pty.openpty()
    argv = [str(Path(sys.executable).with_name("rh")), "ls", "d"]
    subprocess.run(argv, stdin=side, stdout=side, stderr=side, cwd=tmp_path, check=True, timeout=30)
    os.close(side)
    text = os.read(main, 10_000)
    os.close(main)
    assert b"\x1b" not in text
    assert b"\x07" not in text
    assert b"with\\x" in text


def test_a_step_up_in_a_bucket_is_told(rh, world):
    """`..` is no step in a bucket: what was meant is in the fix, and nothing is stored under a name with dots."""
    error = rh("ls", f"{world['s3']}/a/../b", "--json", expect=2).error
    assert (error["kind"], error["hint"]) == ("invalid", f"write {world['s3']}/b")
    assert rh("ls", "ssh-a:~/../x", "--json", expect=2).error["hint"] == "write the absolute path"


def test_sweeping_where_nothing_was_ever_uploaded_in_parts(rh, world, s3_server):
    """Some servers call that an upload that is missing."""
    s3_server.make_bucket(name := f"never-{secrets.token_hex(4)}")
    assert rh("sweep", f"s3://{name}/x", "--json").json["swept"] == 0
    system = open_system(locate(f"s3://{name}/x"))
    system.ask(Multipart).begin("large", 40 << 20, part_size=16 << 20)
    assert rh("sweep", f"s3://{name}/x", "--json", "--older-than", "0s").json["swept"] == 1
    assert rh("sweep", f"s3://{name}/x", "--json", "--older-than", "0s").json["swept"] == 0


def test_a_missing_place_has_a_fix(rh, tree):
    """Every command tells what is beside a place that is not there, and what a saved name means."""
    assert "did you mean src/?" in rh("cp", "scr", "copy", expect=3).err
    near = "did you mean run.sh?"
    for words in (("ls", "src/sub/run"), ("verify", "src/sub/run"), ("cat", "src/sub/run"), ("du", "src/sub/run"),
                  ("cp", "src/sub/run", "x"), ("plan", "src/sub/run", "x"), ("rm", "-y", "src/sub/run")):  # fmt: skip
        assert rh(*words, "--json", expect=3).error["hint"] == near, words
    rh("save", "mine", "src/sub")
    assert rh("cat", "rh://mine/run", "--json", expect=3).error["hint"].endswith(f"src/sub/run; {near}")
    (tree / "sub").rename(tree / "subs")
    error = rh("ls", "rh://mine", "--json", expect=3).error
    assert error["where"] == "rh://mine"
    assert error["hint"] == f"rh://mine means file://{tree}/sub; did you mean subs/?"


def test_a_pattern_that_finds_nothing_tells_how_to_look_below(rh, tree):
    told = rh("find", "src", "*.sh")
    assert (told.out, "'**/*.sh' goes below" in told.err) == ("", True)
    assert rh("find", "src", "*.txt").err == rh("find", "src", "**/*.none").err == ""
    assert rh("find", "src", "*.sh", "--json").err == ""
    assert rh("find", "*.txt", "--json", expect=3).error["hint"] == (
        "a PATTERN comes after the PLACE: rh find . '**/*.txt'"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cp", "src", "dst", "--bandwidth", "9" * 400], "more than any file has"),
        (["cat", "src/a.txt", "--offset", "8192P"], "more than any file has"),
        (["find", "src", "--newer", "9" * 400 + "w"], "longer than a thousand years"),
        (["sweep", "src", "--older-than", "999999w"], "longer than a thousand years"),
    ],
)
def test_amounts_that_nothing_has(rh, tree, words, told):
    assert told in rh(*words, expect=2).err


def test_sizes_are_exact():
    """Also those that no floating-point number is equal to."""
    assert size_of(str((1 << 53) + 1), "--offset") == (1 << 53) + 1
    assert size_of("1.5K", "--offset") == 1536


def test_a_time_that_no_calendar_has():
    """As a file system may tell, and an expiry that Python was given."""
    assert show.when(1e17) == "@100000000000000000"
    assert show.when(-1e300).startswith("@-")
