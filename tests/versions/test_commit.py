"""From a live tree to a version."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rh import observe, transfer
from rh.errors import ConflictError, InvalidError, NameClashError, NotFoundError, RhError, TransferError
from rh.progress import Silent
from rh.systems import locate, open_system
from rh.testing import servers
from rh.transfer import Options
from rh.versions import levels
from rh.versions.commit import adopt_tree, commit_file, commit_tree
from rh.versions.store import Store
from tests.transfer import trees
from tests.versions.places import SYSTEMS, contents, forgotten, place, store_at  # noqa: F401 - a fixture

DATA = {"write", "copy", "part", "begin", "fetch"}


class Watch(Silent):
    """Does something when the first files are known, or when one is stored."""

    def __init__(self, known: Callable[[], object] = lambda: None, stored: Callable[[], object] = lambda: None) -> None:
        self.known, self.stored = known, stored

    def total(self, files: int, size: int) -> None:
        if files:
            self.known()
            self.known = lambda: None

    def advance(self, files: int, size: int) -> None:
        self.stored()


@pytest.mark.parametrize("kind", SYSTEMS)
def test_what_is_committed_is_what_was_there(kind: str, world: dict[str, str], tmp_path: Path) -> None:
    """On every system: contents, empty directories, executable bits; the digest is that of the folder."""
    trees.make(tmp_path / "tree", large=True)
    begin = place(kind, tmp_path, "begin")
    digest = transfer.copy_tree(locate(str(tmp_path / "tree")), begin).digest
    store = store_at(kind, tmp_path)
    with observe.counting() as counts:
        tree = commit_tree(open_system(begin), store)
    assert tree.digest == digest
    assert contents(store, tree) == trees.read(tmp_path / "tree")
    if kind == "ssh-a":
        assert sum(counts.sent.values()) + sum(counts.received.values()) < tree.size / 4
    with observe.counting() as counts:
        assert commit_tree(open_system(begin), store, base=tree.digest) == tree
        assert commit_tree(open_system(begin), store) == tree
    assert sum(counts.sent.values()) < 2_000  # leases


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("file", "s3"),
        ("file", "gs"),
        ("file", "azure"),
        ("file", "ssh-a"),
        ("ssh-a", "s3"),
        ("s3", "ssh-a"),
        ("gs", "file"),
    ],
)
def test_a_store_on_another_system(begin: str, end: str, world: dict[str, str], tmp_path: Path) -> None:
    """Large files go in parts to a bucket, and from a host without passing here."""
    trees.make(tmp_path / "tree", large=True)
    source = open_system(place(begin, tmp_path, "begin"))
    transfer.copy_tree(locate(str(tmp_path / "tree")), source.location)
    store = store_at(end, tmp_path)
    with observe.counting() as counts:
        tree = commit_tree(source, store)
    assert contents(store, tree) == trees.read(tmp_path / "tree")
    if begin == "file" and end in ("s3", "azure"):
        assert counts.requests[end, "part"] >= 3
    elif begin == "ssh-a":
        assert sum(counts.sent.values()) + sum(counts.received.values()) < tree.size / 4


@pytest.mark.parametrize("kind", SYSTEMS)
def test_only_what_changed_is_stored(kind: str, world: dict[str, str], tmp_path: Path) -> None:
    """Known digests are not computed again, and what the base has is not sent."""
    tree = tmp_path / "tree"
    for number in range(300):
        path = tree / f"d{number % 3}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(number).randbytes(2_000))
    begin = place(kind, tmp_path, "begin")
    transfer.copy_tree(locate(str(tree)), begin)
    store = store_at(kind, tmp_path)
    first = commit_tree(open_system(begin), store)
    source = open_system(begin)
    source.write("d1/new.bin", b"new" * 100)
    source.delete(["d2/2.bin"])
    with observe.counting() as counts:
        second = commit_tree(source, store, base=first.digest)
    expected = contents(store, first) | {"d1/new.bin": (b"new" * 100, False)}
    del expected["d2/2.bin"]
    assert contents(store, second) == expected
    assert sum(counts.sent.values()) < 60_000
    assert sum(n for (_, verb), n in counts.requests.items() if verb in DATA) <= 7


def test_links_are_kept_and_what_is_ignored_is_left_out(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / ".rhignore").write_text("*.tmp\n/skip/\n")
    (tree / "sub" / "a").write_text("1")
    (tree / "x.tmp").write_text("2")
    (tree / "skip").mkdir()
    (tree / "skip" / "b").write_text("3")
    (tree / "link").symlink_to("sub/a")
    (tree / "broken").symlink_to("../nowhere")
    store = store_at("memory", tmp_path)
    source = open_system(locate(str(tree)))
    ignore = ((tree / ".rhignore").read_bytes(), False)
    found = {".rhignore": ignore, "broken": (b"../nowhere", False), "link": (b"sub/a", False), "sub/a": (b"1", False)}
    assert contents(store, commit_tree(source, store)) == found
    everything = commit_tree(source, store, options=Options(ignore_file=False, exclude=["/s*"]))
    assert contents(store, everything).keys() == {".rhignore", "broken", "link", "x.tmp"}
    assert everything.size == sum(len(part[0]) for part in contents(store, everything).values() if part)


def test_keys_and_extra_files(tmp_path: Path) -> None:
    """`keys` are all that is meant, each must be there, and `extra` adds files or stands for them."""
    for name in ("a", "b", "c/d"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(name)
    store, source = store_at("memory", tmp_path), open_system(locate(str(tmp_path / "tree")))
    more = {".rh-table.json": b"{}", "b": b"other", "c/e": b"", "z/z": b"last"}
    tree = commit_tree(source, store, keys=frozenset({"a", "c/d"}), extra=more)
    assert (tree.files, tree.size) == (6, 1 + 3 + 2 + 5 + 4)
    assert tree.digest == commit_tree(source, store, extra=more).digest
    assert contents(store, tree)["b"] == (b"other", False)
    with pytest.raises(NotFoundError, match="nothing-here"):
        commit_tree(source, store, keys=frozenset({"a", "nothing-here"}))
    with pytest.raises(NameClashError, match=r"\.\./x"):
        commit_tree(source, store, extra={"../x": b""})


def test_a_tree_larger_than_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was listed goes to disk beyond some size, and comes back as it was."""
    trees.make(tmp_path / "tree")
    (tmp_path / "tree" / "link").symlink_to("a.txt")
    store, source = store_at("memory", tmp_path), open_system(locate(str(tmp_path / "tree")))
    whole = commit_tree(source, store)
    monkeypatch.setattr(levels, "_IN_MEMORY", 3)
    assert commit_tree(source, store_at("file", tmp_path)).digest == whole.digest
    # A directory that holds files on both sides of what is in it, and a file beside a directory of its name.
    odd = place("memory", tmp_path, "odd")
    for key in ("a", "a-", "a/b", "a/b/c", "a0", "\udcff/\n"):
        open_system(odd).write(key, key.encode("utf-8", "surrogateescape"))
    tree = commit_tree(open_system(odd), store)
    assert tree.digest == transfer.digest_tree(odd)
    assert tree.files == 6


@pytest.mark.parametrize("kind", [*SYSTEMS, "moto"])
@pytest.mark.parametrize("size", [100, 2 << 20])
def test_a_file_that_changes_meanwhile_is_a_conflict(
    kind: str, size: int, world: dict[str, str], moto_server: servers.MotoServer, tmp_path: Path
) -> None:
    """Promise 10: changed, or gone, between the look and the storing; nothing of the commit is to be seen."""
    if kind == "moto":
        from rh import config

        config.register("moto", moto_server.settings(root=f"s3://{moto_server.buckets[0]}/{tmp_path.name}"))
    root = place(kind, tmp_path, "begin")
    source, store = open_system(root), store_at(kind, tmp_path)
    source.write("a", b"same")
    source.write("b", b"1" * size)
    changes: list[Callable[[], object]] = [lambda: source.delete(["b"])]
    if kind != "s3":  # rclone's server compares no etags: the bytes are stored as they are then
        changes.append(lambda: source.write("b", b"2" * size))
    for change in reversed(changes):
        with pytest.raises(ConflictError):
            commit_tree(source, store, progress=Watch(known=change))
        assert list(store.trees()) == []
    source.write("b", b"3" * size)
    tree = commit_tree(source, store)
    assert contents(store, tree) == {"a": (b"same", False), "b": (b"3" * size, False)}


def test_ten_thousand_small_files_are_few_requests(world: dict[str, str], tmp_path: Path) -> None:
    """Small files travel together: to a bucket, and from it to a place of the same bucket."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(2_000):
        (tree / f"{number}").write_bytes(b"%d" % number)
    store = store_at("s3", tmp_path)
    with observe.counting() as counts:
        found = commit_tree(open_system(locate(str(tree))), store)
    assert found.files == 2_000
    assert counts.total("s3") < 20


def test_a_cancelled_commit_leaves_nothing_to_be_seen(tmp_path: Path) -> None:
    """And the next one need not send what arrived."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(12):
        (tree / f"{number}.bin").write_bytes(random.Random(number).randbytes(1 << 20))
    store, source = store_at("file", tmp_path), open_system(locate(str(tree)))
    cancel = threading.Event()
    count = iter(range(100))

    def stored() -> None:
        if next(count) == 5:
            cancel.set()

    with pytest.raises(TransferError, match="cancelled"):
        commit_tree(source, store, progress=Watch(stored=stored), cancel=cancel)
    assert list(store.trees()) == []
    with observe.counting() as counts:
        done = commit_tree(source, store)
    assert done.files == 12
    assert counts.sent["file"] < 12 << 20
    assert contents(store, done) == trees.read(tree)


@pytest.mark.parametrize("after", [0, 1, 30, 60])
def test_a_killed_commit_leaves_nothing_to_be_seen(after: int, tmp_path: Path) -> None:
    """Promise 6: `kill -9` in the middle; the next commit is whole."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(60):
        (tree / f"{number}").write_bytes(random.Random(number).randbytes(1_000 if number % 2 else 1 << 20))
    code = """
import os, signal, sys
from rh.progress import Silent
from rh.systems import locate, open_system
from rh.versions.commit import commit_tree
from rh.versions.store import Store
class Watch(Silent):
    left = int(sys.argv[3])
    def advance(self, files, size):
        Watch.left -= files
        if Watch.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    def finish(self):
        os.kill(os.getpid(), signal.SIGKILL)
commit_tree(open_system(locate(sys.argv[1])), Store(open_system(locate(sys.argv[2]))), progress=Watch())
"""
    store = store_at("file", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tree), store.system.location.path, str(after)], check=False, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    source = open_system(locate(str(tree)))
    found = list(store.trees())
    assert found == ([transfer.digest_tree(source.location)] if after == 60 else [])
    assert contents(store, commit_tree(source, store)) == trees.read(tree)


@pytest.mark.parametrize("kind", SYSTEMS)
def test_a_single_file(kind: str, world: dict[str, str], tmp_path: Path) -> None:
    source, store = open_system(place(kind, tmp_path, "begin")), store_at(kind, tmp_path)
    data = random.Random(1).randbytes(17 << 20)
    source.write("sub/large.bin", data, executable=True if source.keeps_executable else None)
    with observe.counting() as counts:
        tree = commit_file(source, "sub/large.bin", store)
    if kind not in ("memory", "file"):
        assert sum(counts.sent.values()) < 10_000  # the place copies it by itself
    assert contents(store, tree) == {"large.bin": (data, source.keeps_executable)}
    renamed = commit_file(source, "sub/large.bin", store, name="data")
    assert contents(store, renamed).keys() == {"data"}
    with pytest.raises(NotFoundError):
        commit_file(source, "sub/nothing", store)
    with pytest.raises(NameClashError):
        commit_file(source, "sub/large.bin", store, name="../x")


@pytest.mark.parametrize("kind", SYSTEMS)
def test_adoption_copies_nothing(kind: str, world: dict[str, str], tmp_path: Path) -> None:
    """A version by reference: read from where the files are, as long as they are what they were."""
    files = trees.make(tmp_path / "tree")
    begin = place(kind, tmp_path, "begin")
    digest = transfer.copy_tree(locate(str(tmp_path / "tree")), begin).digest
    source, store = open_system(begin), store_at(kind, tmp_path)
    with observe.counting() as counts:
        tree = adopt_tree(source, store)
    assert tree.digest == digest
    assert sum(counts.sent.values()) < 15_000
    assert contents(store, tree) == trees.read(tmp_path / "tree")
    source.write("photo.jpg", files["photo.jpg"][::-1])
    fresh = store_at(kind, tmp_path)
    for kept in fresh_cache():
        kept.unlink()
    with pytest.raises(RhError, match="photo"):
        contents(fresh, tree)


def fresh_cache() -> list[Path]:
    from rh.versions import cache

    return [kept.path for kept in cache.ls("objects")]


def test_what_no_version_can_hold_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    source, store = open_system(place("memory", tmp_path, "begin")), store_at("memory", tmp_path)
    with pytest.raises(NotFoundError):
        commit_tree(source, store)
    for key in ("a//b", "/a", "a/../b", "./a", "a/."):
        source.write(key, b"1")
        with pytest.raises(NameClashError, match="exclude"):
            commit_tree(source, store)
        source.delete([key])
    tree = tmp_path / "tree"
    tree.mkdir()
    inside = Store(open_system(locate(str(tree / "store"))))
    with pytest.raises(InvalidError, match=r"/store/ into \.rhignore"):
        commit_tree(open_system(locate(str(tree))), inside)
    (tree / ".rhignore").write_text("/store/\n")
    assert commit_tree(open_system(locate(str(tree))), inside).files == 1
    assert commit_tree(open_system(locate(str(tree))), Store(open_system(locate(str(tree / ".rh-store"))))).files == 1
    assert list(store.system.list()) == []
