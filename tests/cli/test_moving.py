"""cp, sync, plan, verify."""

from __future__ import annotations

import pytest


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
    assert "no manifest" in rh("verify", "src", expect=1).out
    rh("cp", "src", "dst")
    rh("verify", "dst")
    (tmp_path / "dst" / "z.bin").write_bytes(b"rotten")
    found = rh("verify", "dst", "--json", expect=6).json
    assert found["ok"] is False
    assert "z.bin" in [*found["corrupt"], *found["modified"]]


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
