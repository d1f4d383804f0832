"""cp, sync, plan, verify."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

import rh as library


def test_diff(rh, tmp_path):
    """Exits with 1 where anything differs, also of the same size and time; versions and files, too."""
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "x").write_text("1")
        os.utime(tmp_path / name / "sub" / "x", (1, 1))
    assert rh("diff", "a", "b").out == "no differences\n"
    assert rh("diff", "a", "b", "--json").out == ""
    (tmp_path / "b" / "sub" / "x").write_text("2")
    os.utime(tmp_path / "b" / "sub" / "x", (1, 1))
    (tmp_path / "b" / "new.txt").write_text("3")
    assert rh("diff", "a", "b", expect=1).out.splitlines()[1:] == [
        "modified  sub/x (1 B → 1 B)",
        "1 added (1 B), 1 modified (1 B)",
    ]
    told = rh("diff", "a", "b", "--exclude", "*.txt", "--json", expect=1).json
    assert (told["change"], told["path"], told["digest"] != told["old_digest"]) == ("modified", "sub/x", True)
    assert rh("diff", "a/sub/x", "b/sub/x", expect=1).out == "modified  x (1 B → 1 B)\n"
    assert rh("diff", "a/sub/x", "a/sub/x").out == "no differences\n"
    (tmp_path / "b" / "link").symlink_to(tmp_path / "a" / "sub" / "x")
    assert rh("diff", "a/sub/x", "b/link").out == "no differences\n"
    (tmp_path / "b" / "link").unlink()
    rh("save", "kept", "a")
    rh("commit", "kept")
    assert rh("diff", "a", "rh://kept:v1").out == "no differences\n"
    assert "nothing is there" in rh("diff", "a", "none", expect=3).err
    assert "the other a directory" in rh("diff", "a", "b/new.txt", expect=2).err


@pytest.mark.parametrize("place", ["dst", "s3"])
def test_diff_tells_more_than_sizes(rh, tree, world, place):
    """What became executable, also in a bucket, where the manifest says so; what became a link."""
    target = f"{world['s3']}/{tree.parent.name}" if place == "s3" else place
    rh("cp", "src", target)
    (tree / "sub" / "run.sh").chmod(0o644)
    (tree / "a.txt").chmod(0o755)
    told = rh("diff", target, "src", expect=1).out.splitlines()
    assert told == [
        "modified  a.txt (executable now)",
        "modified  sub/run.sh (no longer executable)",
        told[-1],
    ]
    assert [one["executable"] for one in rh("diff", target, "src", "--json", expect=1).lines] == [True, False]
    assert rh("diff", "src", target, expect=1).out.count("executable") == 2
    assert rh("diff", f"{target}/sub", "src/sub", expect=1).out.startswith("modified  run.sh (no longer executable)")
    assert rh("diff", f"{target}/a.txt", "src/a.txt", expect=1).out == "modified  a.txt (executable now)\n"
    (tree / "empty").rmdir()
    assert "removed   empty/" in rh("diff", target, "src", expect=1).out
    assert "added     empty/" in rh("diff", "src", target, expect=1).out
    (tree / "empty").mkdir()
    if place == "dst":
        (tree / "sub" / "run.sh").unlink()
        (tree / "sub" / "run.sh").symlink_to("x")
        told = rh("diff", target, "src", "--links", "keep", expect=1).out.splitlines()
        assert told[1] == "modified  sub/run.sh (file → link)"


@pytest.mark.parametrize("place", ["dst", "memory://cli/dst", "s3"])
def test_a_tree_goes_and_comes_back(rh, tree, tmp_path, place, world):
    target = f"{world['s3']}/dst" if place == "s3" else place
    receipt = rh("cp", "src", target, "--json").json
    assert (receipt["files"], receipt["done"], receipt["skipped"], receipt["failed"]) == (3, 3, 0, [])
    assert receipt["digest"].startswith("sha256:")
    again = rh("cp", "src", target, "--json").json
    assert (again["done"], again["skipped"], again["bytes_moved"]) == (0, 3, 0)
    assert again["digest"] == receipt["digest"]
    rh("cp", target, "back")
    back = tmp_path / "back"
    assert (back / "a.txt").read_bytes() == b"hello\n"
    assert (back / "sub" / "run.sh").stat().st_mode & 0o111
    assert (back / "empty").is_dir()
    assert rh("verify", target, "--json").json["ok"] is True
    assert rh("info", target, "--digest", "--json").json["digest"] == receipt["digest"]
    listed = [one["key"] for one in rh("ls", "-r", "--json", "back").lines]
    assert listed == ["a.txt", "empty/", "sub/run.sh", "z.bin"]


def test_the_name_of_a_system_is_no_target(rh, tree, tmp_path, world):
    """`.to("s3")` is a habit; here it would make a directory of that name."""
    refused = rh("cp", "src", "s3", "--json", expect=2).error
    assert refused["message"] == "'s3' is a system, and a place on it is wanted"
    assert not (tmp_path / "s3").exists()
    rh("cp", "src", "./s3")
    rh("sync", "src", "s3")
    assert (tmp_path / "s3" / "a.txt").exists()


def test_a_file_goes_where_it_is_told(rh, tree, tmp_path):
    (tmp_path / "there").mkdir()
    assert "1 of 1 files" in rh("cp", "src/a.txt", "copy.txt").out
    rh("cp", "src/a.txt", "there")
    rh("cp", "src/a.txt", "new/")
    for path in ("copy.txt", "there/a.txt", "new/a.txt"):
        assert (tmp_path / path).read_bytes() == b"hello\n"
    assert rh("cp", "src/a.txt", "x", "--exclude", "b", expect=2).err.startswith("rh: --include")
    assert "rh cp" in rh("sync", "src/a.txt", "x", expect=2).err
    rh("cp", "src/none", "x", expect=3)


@pytest.mark.parametrize("place", ["there", "memory://cli/there", "s3"])
def test_several_sources_go_into_a_directory(rh, tree, tmp_path, place, world):
    """Each under its own name, whatever slash it ends with; they are planned first, and one receipt tells of each."""
    target = f"{world['s3']}/there" if place == "s3" else place
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.txt").write_bytes(b"b")
    rh("save", "cats", "src/sub")
    rh("commit", "cats")
    several = ("src/a.txt", "src/sub/", "more", "rh://cats:v1")
    dry = rh("cp", *several, f"{target}/", "--dry-run", "--json").lines
    assert [one["moves"] for one in dry] == [1, 1, 1, 1]
    receipts = rh("cp", *several, f"{target}/", "--json").lines
    assert [one["done"] for one in receipts] == [1, 1, 1, 1]
    assert rh("ls", target).out.split() == ["a.txt", "cats/", "more/", "sub/"]
    assert rh("find", target, "**/run.sh").out.split() == ["cats/run.sh", "sub/run.sh"]
    assert rh("cp", "src/z.bin", "more", target).out.count("of 1 files") == 2  # a directory without the slash, too


def test_several_sources_that_cannot_go_there(rh, tree, tmp_path):
    """All is refused before anything moves, but for what fails on its way: the others arrive."""
    (tmp_path / "more" / "sub").mkdir(parents=True)
    (tmp_path / "file").touch()
    error = rh("cp", "src/a.txt", "src/z.bin", "none", "--json", expect=2).error
    assert error["message"] == "several sources are copied into a directory, and none is there"
    assert error["hint"].startswith("none/ ")
    rh("cp", "src/a.txt", "src/z.bin", "file", expect=2)
    error = rh("cp", "src/a.txt", "src/sub", "more/sub", "there/", "--json", expect=4).error
    assert (error["kind"], error["message"]) == ("name_clash", "two sources are called 'sub'")
    assert rh("cp", "src/a.txt", "src/none", "there/", "--json", expect=3).error["kind"] == "not_found"
    assert rh("cp", "src/a.txt", "/", "there/", "--json", expect=2).error["kind"] == "invalid"
    assert not (tmp_path / "there").exists()
    (tmp_path / "more" / "a.txt").mkdir()
    assert rh("cp", "src/z.bin", "src/a.txt", "more", "--json", expect=4).error["kind"] == "name_clash"
    assert sorted(os.listdir(tmp_path / "more")) == ["a.txt", "sub"]


def test_one_of_several_sources_that_fails_ends_no_other(rh, tree, tmp_path, monkeypatch):
    monkeypatch.setenv("RH_RETRIES", "0")
    for name in ("one", "two"):
        blob = library.blob(b"hello\n", name=name, path=tmp_path / f"{name}.txt").save()
        replace(blob, stamp=replace(blob.stamp, digest=library.blob(b"other\n").digest())).save()  # as if damaged
    done = rh("cp", "rh://one", "src/a.txt", "there/", "--json", expect=8)
    assert (len(done.error["receipt"]["failed"]), done.json["done"]) == (1, 1)
    assert os.listdir(tmp_path / "there") == ["a.txt"]
    rh("cp", "rh://one", "rh://two", "there/", expect=6)
    rh("sync", "src", "src", "there", expect=2)


def test_patterns(rh, tree, tmp_path):
    rh("cp", "src", "one", "--include", "*.txt")
    assert [p.name for p in (tmp_path / "one").rglob("*") if p.is_file() and not p.name.startswith(".rh-")] == ["a.txt"]
    rh("cp", "src", "two", "--exclude", "sub/", "--exclude", "*.bin")
    assert not (tmp_path / "two" / "sub").exists()
    assert not (tmp_path / "two" / "z.bin").exists()


def test_sync_deletes_only_when_asked(rh, tree, tmp_path):
    rh("sync", "src", "dst")
    extra = tmp_path / "dst" / "extra"
    extra.write_bytes(b"mine")
    rh("sync", "src", "dst")
    assert extra.exists()
    dry = rh("sync", "src", "dst", "--delete", "--dry-run")
    assert "delete" in dry.out
    assert extra.exists()
    assert rh("sync", "src", "dst", "--delete", "--json").json["deleted"] == 1
    assert not extra.exists()


def test_existing_files(rh, tree, tmp_path):
    rh("cp", "src", "dst")
    (tmp_path / "dst" / "a.txt").write_bytes(b"other")
    assert rh("cp", "src", "dst", "--on-existing", "error", "--json", expect=4).error["kind"] == "exists"
    rh("cp", "src", "dst", "--on-existing", "skip")
    assert (tmp_path / "dst" / "a.txt").read_bytes() == b"other"
    rh("cp", "src", "dst")
    assert (tmp_path / "dst" / "a.txt").read_bytes() == b"hello\n"
    assert "one of" in rh("cp", "src", "dst", "--on-existing", "maybe", expect=2).err


def test_what_was_not_moved_is_told(rh, tree, tmp_path):
    """A repeat says that nothing moves; files that differ and are left are no unchanged ones."""
    rh("cp", "src", "dst")
    again = rh("cp", "src", "dst", "--json").json
    assert (again["route"], again["skipped"], again["left"]) == ("NONE", 3, 0)
    said = rh("cp", "src", "dst").out
    assert "[nothing to move]" in said
    assert "3 unchanged" in said
    (tmp_path / "dst" / "a.txt").write_bytes(b"other")
    said = rh("cp", "src", "dst", "--on-existing", "skip").out
    assert "3 exist and were left" in said
    assert "unchanged" not in said
    left = rh("cp", "src", "dst", "--on-existing", "skip", "--json").json
    assert (left["done"], left["skipped"], left["left"], left["failed"]) == (0, 3, 3, [])


def test_each_step_is_shown_once(rh, tree):
    for number in range(12):
        (tree / f"{number}.dat").touch()
    told = rh("cp", "src", "dst", "--dry-run").out
    assert [told.count(f" {number}.dat") for number in range(12)] == [1] * 12
    assert "…" not in told


def test_what_cannot_be_is_found_while_planning(rh, tree, tmp_path, monkeypatch):
    """A file where the target is to be, and what is no data: before anything is changed."""
    (tmp_path / "file").write_bytes(b"mine")
    for words in (("src", "file"), ("src", "file/below"), ("src/a.txt", "file/x"), ("src/a.txt", "file/")):
        for command in ("cp", "plan"):
            error = rh(command, *words, "--json", expect=4).error
            assert (error["kind"], error["where"]) == ("name_clash", f"file://{tmp_path}/file")
            assert "choose another" in error["hint"]
    assert (tmp_path / "file").read_bytes() == b"mine"
    os.mkfifo(tree / "pipe")
    for command in ("cp", "plan"):
        error = rh(command, "src", "dst", "--json", expect=1).error
        assert error["kind"] == "unsupported"
        assert "--exclude (exclude=) or a line in its .rhignore" in error["hint"]
        assert error["where"] == f"file://{tree}/pipe"
    rh("cp", "src/pipe", "copy", expect=1)
    assert "a line in its .rhignore" in rh("cat", "src/pipe", "--json", expect=1).error["hint"]
    rh("save", "live", "src")
    assert "a line in its .rhignore" in rh("commit", "live", "--json", expect=1).error["hint"]
    (tree / ".rhignore").write_text("pipe\n")
    rh("commit", "live")
    (tree / ".rhignore").unlink()
    assert not (tmp_path / "dst").exists()
    assert rh("cp", "src", "dst", "--exclude", "pipe", "--json").json["done"] == 3
    (tmp_path / "there").mkdir()
    os.mkfifo(tmp_path / "there" / "a.txt")
    assert rh("cp", "src", "there", "--exclude", "pipe", "--json", expect=4).error["where"].endswith("/there/a.txt")
    error = rh("cp", "src/a.txt", "there/a.txt", "--json", expect=4).error
    assert (error["kind"], error["hint"]) == ("name_clash", "choose another target")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"data")))
    for words in ((), ("--overwrite",)):
        assert rh("put", "there/a.txt", *words, "--json", expect=4).error["hint"] == "choose another target"


def test_a_part_is_verified_by_the_manifest_above(rh, tree, tmp_path):
    rh("cp", "src", "dst")
    assert f"the manifest of file://{tmp_path}/dst says" in rh("verify", "dst/sub").out
    (tmp_path / "dst" / "sub" / "run.sh").write_bytes(b"rotten")
    found = rh("verify", "dst/sub", "--json", expect=6).json
    assert found["modified"] == ["run.sh"]
    (tmp_path / "dst" / "new").mkdir()
    (tmp_path / "dst" / "new" / "x").write_bytes(b"")
    rh("verify", "dst/new", expect=1)


def test_where_nothing_can_be_written(rh, tree):
    """A place that takes no files says so, and one reason has one exit code, whichever command meets it."""
    assert "no directory can be made here" in rh("cp", "src", "/proc/x", expect=5).err
    assert "no file can be made" in rh("cp", "src/a.txt", "/proc/x", expect=5).err


def test_one_fix_is_told_once(rh, tree, world):
    """However many files it would mend."""
    (tree / "empty").rmdir()
    said = rh("cp", "src", "ssh-a:/proc/x", expect=5).err
    assert said.count("no directory can be made here") == 3
    assert said.count("check the owner") == said.count("fix:") == 1
    assert "then the same call again" in said


def test_one_file_without_permission(rh, monkeypatch):
    """The same exit code from every command: not allowed. Where others arrive, a part is missing."""
    place = Path(tempfile.mkdtemp())
    home = place / "home"
    (place / "src").mkdir()
    secret = place / "src" / "secret"
    secret.write_bytes(b"x")
    for path in (place, home):
        path.mkdir(exist_ok=True)
        path.chmod(0o777)
    monkeypatch.chdir(place)
    monkeypatch.setenv("RH_HOME", str(home))
    rh("cat", "src/secret")  # what is imported late is imported now, while that is allowed
    rh("cp", "src", "warm")
    rh("cp", "src/secret", "warm/it")
    shutil.rmtree(home)
    home.mkdir()
    home.chmod(0o777)
    secret.chmod(0)
    os.seteuid(65534)
    try:
        codes = [
            rh(*words, expect=None).code
            for words in (("cat", "src/secret"), ("cp", "src/secret", "a"), ("cp", "src", "b"))
        ]
    finally:
        os.seteuid(0)
    assert codes == [5, 5, 5]
    (place / "src" / "open").write_bytes(b"y")
    os.seteuid(65534)
    try:
        assert rh("cp", "src", "c", expect=8).err.startswith("rh: 1 of 2 files did not arrive")
    finally:
        os.seteuid(0)
        shutil.rmtree(place)


def test_links(rh, tree, tmp_path):
    (tree / "l").symlink_to("a.txt")
    rh("cp", "src", "followed")
    assert not (tmp_path / "followed" / "l").is_symlink()
    assert (tmp_path / "followed" / "l").read_bytes() == b"hello\n"
    rh("cp", "src", "kept", "--links", "keep")
    assert (tmp_path / "kept" / "l").is_symlink()
    rh("cp", "src", "without", "--links", "skip")
    assert not (tmp_path / "without" / "l").exists()
    assert rh("cp", "src", "none", "--links", "error", expect=None).code != 0


def test_a_plan_changes_nothing(rh, tree, tmp_path):
    text = rh("plan", "src", "dst").out
    assert "route" in text
    assert "3" in text
    summary, *steps = rh("plan", "src", "dst", "--steps", "--json").lines
    assert summary["moves"] == 3
    assert summary["bytes_to_move"] == 6 + 10 + 10240
    assert {step["key"]: step["action"] for step in steps} == {
        "a.txt": "copy",
        "empty/": "make",
        "sub/run.sh": "copy",
        "z.bin": "copy",
    }
    assert rh("cp", "src", "dst", "--dry-run", "--json").json["moves"] == 3
    assert not (tmp_path / "dst").exists()


def test_verify_finds_rot_and_says_when_nothing_is_known(rh, tree, tmp_path):
    assert "nothing is recorded" in rh("verify", "src", expect=1).out
    rh("cp", "src", "dst")
    rh("verify", "dst")
    (tmp_path / "dst" / "z.bin").write_bytes(b"rotten")
    found = rh("verify", "dst", "--json", expect=6).json
    assert found["ok"] is False
    assert "z.bin" in [*found["corrupt"], *found["modified"]]


@pytest.mark.slow
def test_a_saved_blob_is_compared_with_its_record(rh, tmp_path):
    """verify, cat and cp go by what was stored under the name, for as long as nobody wrote the file anew."""
    blob = library.blob(b"hello\n", name="one", path=tmp_path / "one.txt").save()
    assert rh("verify", "rh://one").out.startswith(f"file://{tmp_path}/one.txt: 1 files read, all as")
    assert rh("cat", "rh://one").out == "hello\n"
    rh("cp", "rh://one", "copy.txt")
    wrong = library.blob(b"other\n").digest()
    replace(blob, stamp=replace(blob.stamp, digest=wrong)).save()  # as if the file had been damaged
    assert rh("verify", "rh://one", "--json", expect=6).json["corrupt"] == ["one.txt"]
    assert rh("cat", "rh://one", "--json", expect=6).error["kind"] == "integrity"
    assert rh("cp", "rh://one", "again.txt", expect=6).out == ""
    assert not (tmp_path / "again.txt").exists()
    assert rh("cat", "one.txt").out == "hello\n"
    (tmp_path / "one.txt").write_bytes(b"changed\n")
    assert rh("verify", "rh://one", "--json", expect=6).json["modified"] == ["one.txt"]
    assert rh("cat", "rh://one").out == "changed\n"


def test_a_table_is_compared_with_its_index(rh, tmp_path):
    library.table({"x": [1, 2]}, name="rows", path=tmp_path / "rows").save()
    (part,) = (tmp_path / "rows").glob("*.parquet")
    for place in ("rh://rows", "rows", "rows/"):
        assert rh("verify", place, "--json").json["against"] == "table"
    data = bytearray(part.read_bytes())
    data[9] ^= 1
    part.write_bytes(data)
    for place in ("rh://rows", "rows", "rows/"):
        found = rh("verify", place, "--json", expect=6).json
        assert [*found["corrupt"], *found["modified"]] == [part.name]
    part.unlink()
    assert rh("verify", "rh://rows", "--json", expect=6).json["missing"] == [part.name]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a.csv").write_text("x\n1\n")
    rh("save", "theirs", "theirs")
    assert "nothing is recorded" in rh("verify", "theirs", expect=1).out


@pytest.mark.parametrize(("text", "code"), [("10M", 0), ("1.5GiB", 0), ("10MB/s", 0), ("fast", 2), ("-1", 2)])
def test_bandwidth(rh, tree, text, code):
    rh("cp", "src", "dst", f"--bandwidth={text}", expect=code)


def test_nothing_is_shown_of_a_missing_source(rh):
    found = rh("cp", "nowhere", "x", "--json", expect=3)
    assert found.out == ""
    assert found.error["kind"] == "not_found"
    assert found.error["where"].endswith("/nowhere")


def test_from_git_and_the_web(rh, git_server, http_server, tmp_path):
    """Places that are only read, by URL: odd names, a ref with a slash, a file and a tree."""
    name = f"cli/r{len(list(git_server.root.glob('cli/*')))}"
    url = git_server.make_repository(name)
    git_server.commit(name, {"data/a b.csv": b"1,2\n", "top": b"t"}, branch="feature/x", links={"data/l": "a b.csv"})
    rh("cp", f"git+{url}@feature%2Fx/data", "got")
    assert (tmp_path / "got" / "a b.csv").read_bytes() == b"1,2\n"
    assert (tmp_path / "got" / "l").read_bytes() == b"1,2\n"
    rh("cp", f"git+{url}@feature%2Fx/top", "top")
    assert (tmp_path / "top").read_bytes() == b"t"
    place = rh("info", f"git+{url}@feature%2Fx/data", "--json").json["place"]
    assert rh("ls", place).out == "a b.csv\nl\n"
    assert rh("put", f"git+{url}/x", "--json", expect=1).error["kind"] == "unsupported"

    (http_server.root / "web").mkdir(exist_ok=True)
    (http_server.root / "web" / "a b%.csv").write_bytes(b"3,4\n")
    rh("cp", f"{http_server.url}/web/", "page")
    assert (tmp_path / "page" / "a b%.csv").read_bytes() == b"3,4\n"
    rh("cp", f"{http_server.url}/web/a%20b%25.csv", "one.csv")
    assert (tmp_path / "one.csv").read_bytes() == b"3,4\n"
    place = rh("info", f"{http_server.url}/web/a%20b%25.csv", "--json").json["place"]
    assert rh("cat", place).out == "3,4\n"


def test_what_is_told_counts_files_and_speaks_as_options_are_typed(rh, tree):
    (tree / "l").symlink_to("a.txt")
    assert rh("cp", "src", "x", "--links", "error", "--json", expect=2).error["hint"] == (
        "--links follow, --links keep or --links skip"
    )
    (tree / "l").unlink()
    for option in ("--on-existing", "--links", "--names"):
        assert (
            rh("cp", "src", "x", option, "bogus", "--json", expect=2).error["message"].startswith(f"{option} 'bogus'")
        )
    rh("cp", "src", "x")
    for one in (*tree.rglob("*"), *(tree.parent / "x").rglob("*")):
        os.utime(one, (1_000_000_000, 1_000_000_000))  # what changed just now may change again unseen
    rh("sync", "src", "x")
    told = rh("plan", "src", "x").out
    same = re.search(r"^  same    (\d)$", told, re.MULTILINE)
    checked = re.search(r"of these (\d) to be compared", told)
    assert sum(int(one[1]) for one in (same, checked) if one) == 3, "directories are no files"
    assert "COPY (on this machine)" in rh("plan", "src", "y").out


def test_a_sync_that_moves_no_file_tells_what_it_made(rh, tree):
    rh("cp", "src", "x")
    (tree / "empty2").mkdir()
    told = rh("sync", "src", "x", "--json").json
    assert (told["route"], told["done"], told["links_made"], told["directories_made"]) == ("COPY", 0, 0, 1)
    (tree / "l").symlink_to("a.txt")
    assert "; 1 link made\n" in rh("sync", "src", "x", "--links", "keep").out
    again = rh("sync", "src", "x", "--links", "keep", "--json").json
    assert (again["route"], again["links_made"], again["directories_made"]) == ("NONE", 0, 0)
    (tree / "l").unlink()
    (tree / "sub" / "run.sh").unlink()
    emptied = rh("sync", "src", "x", "--delete").out
    assert "[nothing to move]" in emptied
    assert "made" not in emptied, "the directory was there"


def test_verify_without_a_manifest_says_what_would_have_one(rh, tree):
    assert "rh adopt NAME PLACE" in rh("verify", "src", expect=1).err
    rh("cp", "src", "x")
    assert rh("verify", "x").err == ""


@pytest.mark.parametrize("place", ["here", "s3", "ssh-a"])
def test_verify_of_a_single_file_says_that_it_has_no_manifest(rh, tree, tmp_path, place, world):
    there = {"here": "one.bin", "s3": "s3://data/one.bin", "ssh-a": "ssh-a:~/one.bin"}[place]
    rh("cp", "src/z.bin", there)
    told = rh("verify", there, expect=1).err
    assert "a single file has no manifest" in told
    assert "rh adopt" not in told, "which takes no files"
    rh("diff", there, "src/z.bin")
    rh("save", "one", there)
    assert "a single file has no manifest" in rh("verify", "rh://one", expect=1).err
    rh("commit", "one")
    rh("verify", "rh://one:v1")


def test_a_file_where_the_other_side_has_a_directory(rh, tree, tmp_path):
    """The error says which side has the file, where, and names no option that the command has not."""
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst" / "sub").write_bytes(b"a file")
    error = rh("cp", "src", "dst", "--json", expect=4).error
    assert error["where"] == f"file://{tmp_path}/dst/sub"
    assert error["message"].startswith("the target has a file or a link 'sub'")
    assert "rh sync --delete" in error["hint"]
    rh("sync", "src", "dst", "--delete")
    (tree / "sub" / "run.sh").unlink()
    (tree / "sub").rmdir()
    (tree / "sub").symlink_to("a.txt")
    for links in ("follow", "keep"):
        error = rh("cp", "src", "dst", "--links", links, "--json", expect=4).error
        assert error["where"] == f"file://{tree}/sub"
        assert error["message"].startswith("the source has a file or a link 'sub', and the target has 'sub/run.sh'")
    assert f"remove file://{tmp_path}/dst/sub/" in error["hint"]
    rh("cp", "src", "dst", "--exclude", "sub")


def test_names_that_a_target_cannot_keep_are_counted(rh, tree, world):
    (tree / "new\nline.txt").write_bytes(b"1")
    error = rh("cp", "src", "gs://data/names", "--json", expect=4).error
    assert error["message"] == r"'new\nline.txt' is a name that this store does not keep as it is"
    assert error["where"] == "gs://data/names"
    for number in range(7):
        (tree / f"re\r{number}").write_bytes(b"1")
    error = rh("cp", "src", "gs://data/names", "--json", expect=4).error
    assert error["message"].startswith("8 names have no place here: ")
    assert error["message"].count(r"'re\r") == 4
    assert error["message"].endswith(", …")
    assert error["where"] == "gs://data/names"
    assert error["hint"] == "exclude them, or encode names (--names encode)"
    rh("cp", "src", "gs://data/names", "--names", "encode")
