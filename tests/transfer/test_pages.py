"""Trees of more than one page: pages of two sides rarely end at the same key, and nothing may fall between them."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest

from rh import config, observe, transfer
from rh.content.names import Checker
from rh.errors import NameClashError
from rh.systems import locate, open_system
from rh.transfer import Action, Options
from rh.types import Location


def names(count: int) -> list[str]:
    return [f"d{number // 300:02}/{'x-' if number % 7 == 0 else ''}{number:05}" for number in range(count)]


def read(root: Path) -> dict[str, bytes]:
    return {
        os.path.relpath(os.path.join(top, name), root): (Path(top) / name).read_bytes()
        for top, _, files in os.walk(root)
        for name in files
        if not name.startswith(".rh-")
    }


def old(root: Path) -> None:
    """Make all as old as the digest cache wants it."""
    before = time.time() - 60
    for top, _, files in os.walk(root):
        for name in files:
            os.utime(os.path.join(top, name), (before, before))


def actions(source: Location, target: Location, **options: object) -> dict[Action, list[str]]:
    found: dict[Action, list[str]] = {}
    for step in transfer.plan_tree(source, target, Options.of(options)).steps():
        found.setdefault(step.action, []).append(step.key)
    return found


@pytest.mark.parametrize(("where", "seed"), [("file", 0), ("file", 1), ("s3", 2)])
def test_just_what_changed_is_moved(tmp_path: Path, world, where: str, seed: int) -> None:
    chance = random.Random(seed)
    root = tmp_path / "source"
    for number, name in enumerate(names(2_600)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    old(root)
    source = locate(str(root))
    target = locate(str(tmp_path / "target")) if where == "file" else locate(world["s3"])
    assert transfer.copy_tree(source, target).done == 2_600
    assert set(actions(source, target)) == {Action.KEEP}

    every = sorted(read(root))
    changed, gone = chance.sample(every, 9), chance.sample(every, 9)
    changed = [name for name in changed if name not in gone]
    # The S3 server keeps its objects on a disk, so there a file does not become a directory.
    endings = ["0", "-", ".", "/x"][: 4 if where == "file" else 3]
    added = [name + chance.choice(endings) for name in gone]
    for name in gone:
        (root / name).unlink()
    for name in [*changed, *added]:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"changed")
    if chance.random() < 0.5:
        shutil.rmtree(root / "d03")
    expected = read(root)
    wanted = {name for name in [*changed, *added] if name in expected}

    planned = actions(source, target, delete=True)
    assert set(planned[Action.COPY]) == wanted
    assert set(planned[Action.DELETE]) == set(every) - set(expected)
    assert len(planned[Action.KEEP]) == len(expected) - len(wanted)
    receipt = transfer.copy_tree(source, target, Options(delete=True))
    assert (receipt.files, receipt.done) == (len(expected), len(wanted))
    back = tmp_path / "back"
    transfer.copy_tree(target, locate(str(back)))
    assert read(back) == expected
    assert receipt.digest == transfer.digest_tree(source) == transfer.digest_tree(locate(str(back)))
    assert transfer.copy_tree(source, target).done == 0


def test_an_unchanged_tree_is_compared_without_its_manifest(tmp_path: Path, world) -> None:
    """What the manifest says is kept here; when another one is put there, it is read again."""
    root = tmp_path / "source"
    root.mkdir()
    for number in range(1_200):
        (root / f"{number:04}").write_bytes(b"%d" % number)
    old(root)
    source, target = locate(str(root)), locate(world["s3"])
    transfer.copy_tree(source, target)
    receipt = transfer.copy_tree(source, target)
    assert (receipt.done, receipt.bytes_moved) == (0, 0)
    manifest = open_system(target)
    with manifest.read(".rh-manifest") as body:
        kept = body.read()
    manifest.write(".rh-manifest", b"damaged")
    assert transfer.copy_tree(source, target).bytes_moved == 0
    with manifest.read(".rh-manifest") as body:
        assert body.read() == kept


def test_what_no_disk_can_hold_together_is_seen_across_pages(tmp_path: Path) -> None:
    """`a` is there already and the same; thousands lie between it and `a/b`, which is new."""
    source = locate("memory://across-pages/root")
    system = open_system(source)
    system.write("a", b"file")
    for number in range(2_500):
        system.write(f"a-{number:04}", b"")
    target = locate(str(tmp_path / "disk"))
    transfer.copy_tree(source, target)
    system.write("a/b", b"below")
    before = read(tmp_path / "disk")
    with pytest.raises(NameClashError, match="a disk cannot hold both"):
        transfer.copy_tree(source, target)
    assert read(tmp_path / "disk") == before


@pytest.mark.parametrize("size", [1, 2, 5])
def test_keys_that_were_passed_count_as_checked(size: int) -> None:
    keys = sorted(["a", "a-", "a-b", "a-b-/c", "ab", "b/c", "b/cd", "b/cd-/x"], key=str.encode)
    for new in ("a/x", "a-b/c/d", "ab/x", "b/c/x", "b/cd/x", "b/cd-/x/y", "b/d", "c"):
        alone, paged = Checker("file"), Checker("file")
        before = [key for key in keys if key < new]
        outcomes = []
        for checker in (alone, paged):
            try:
                if checker is alone:
                    for key in before:
                        checker.check(key)
                else:
                    for at in range(0, len(before), size):
                        checker.passed(before[at : at + size])
                checker.check(new)
                outcomes.append("fits")
            except NameClashError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1], new


@pytest.mark.slow
def test_a_plan_longer_than_memory_keeps_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are the same go to the spool by the page, between those that are not."""
    monkeypatch.setattr("rh.transfer.plan._IN_MEMORY", 700)
    root = tmp_path / "source"
    root.mkdir()
    for number in range(3_300):
        (root / f"{number:04}").write_bytes(b"%d" % number)
    old(root)
    source, target = locate(str(root)), locate(str(tmp_path / "target"))
    transfer.copy_tree(source, target)
    for number in (0, 1_500, 3_299):
        (root / f"{number:04}").write_bytes(b"other content")
    plan = transfer.plan_tree(source, target)
    assert (plan.counts[Action.KEEP], plan.counts[Action.COPY]) == (3_297, 3)
    steps = list(plan.steps())
    assert [step.key for step in steps] == [f"{number:04}" for number in range(3_300)]
    assert [step.key for step in steps if step.action is Action.COPY] == ["0000", "1500", "3299"]
    assert all(step.digest == step.old_digest for step in steps if step.action is Action.KEEP)
    assert steps == list(plan.steps())
    assert transfer.execute(plan).digest == transfer.digest_tree(source)


@pytest.mark.parametrize("where", ["memory", "file", "ssh-a"])
def test_a_file_becomes_a_directory_and_a_directory_a_file(tmp_path: Path, world, where: str) -> None:
    root = tmp_path / "source"
    target = {"memory": locate("memory://turn-pages/root"), "file": locate(str(tmp_path / "target"))}.get(where)
    target = target or locate(world[where])
    for key in ("turns/a", "turns/deep/b", "turned", "kept", "turned.txt", "into-empty", "from-empty/gone"):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(key.encode())
    transfer.copy_tree(locate(str(root)), target)
    (root / "from-empty/gone").unlink()
    transfer.copy_tree(locate(str(root)), target, Options(delete=True))
    shutil.rmtree(root / "turns")
    (root / "from-empty").rmdir()
    for name in ("turned", "into-empty"):
        (root / name).unlink()
    (root / "turns").write_bytes(b"now a file")
    (root / "from-empty").write_bytes(b"now a file, too")
    (root / "turned/deep").mkdir(parents=True)
    (root / "turned/deep/c").write_bytes(b"now below")
    (root / "into-empty").mkdir()
    if where != "memory":
        with pytest.raises(NameClashError):
            transfer.copy_tree(locate(str(root)), target)
    receipt = transfer.copy_tree(locate(str(root)), target, Options(delete=True))
    assert receipt.deleted == 5
    assert receipt.digest == transfer.digest_tree(locate(str(root)))
    back = tmp_path / "back"
    transfer.copy_tree(target, locate(str(back)))
    assert read(back) == read(root)
    assert (back / "into-empty").is_dir()
    assert transfer.copy_tree(locate(str(root)), target, Options(delete=True)).done == 0


@pytest.mark.parametrize("where", ["file", "ssh-a"])
def test_directories_go_with_the_last_file_in_them(tmp_path: Path, world, where: str) -> None:
    root = tmp_path / "source"
    target = locate(str(tmp_path / "target")) if where == "file" else locate(world[where])
    for key in ("gone/deep/er/a", "gone/b", "emptied/c", "half/d", "half/e", "excluded/f", "excluded/g.keep"):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(key.encode())
    transfer.copy_tree(locate(str(root)), target)
    shutil.rmtree(root / "gone")
    for key in ("emptied/c", "half/e", "excluded/f", "excluded/g.keep"):
        (root / key).unlink()
    receipt = transfer.copy_tree(locate(str(root)), target, Options(delete=True, exclude=["*.keep"]))
    assert receipt.deleted == 5
    back = tmp_path / "back"
    transfer.copy_tree(target, locate(str(back)))
    found = sorted(os.path.relpath(os.path.join(top, ""), back) for top, _, _ in os.walk(back))
    assert found == [".", "emptied", "excluded", "half"]
    assert set(read(back)) == {"half/d", "excluded/g.keep"}


@pytest.mark.slow
def test_a_million_entries_are_planned_in_bounded_memory(python) -> None:
    """Promise 18, with half of the tree at the target already."""
    grown = python(
        """
import resource
from rh import config, observe, transfer
from rh.systems import locate, open_system

source, target = locate("memory://million/source"), locate("memory://million/target")
ours, theirs = open_system(source), open_system(target)
for number in range(1_000_000):
    ours.write(f"d{number // 1000:04}/{number % 1000:04}", b"x")
    if number % 2:
        theirs.write(f"d{number // 1000:04}/{number % 1000:04}", b"y")
next(ours.list()), next(theirs.list())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
plan = transfer.plan_tree(source, target)
assert plan.files == plan.moves == sum(1 for _ in plan.steps()) == 1_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
""",
        timeout_s=300,
    )
    assert int(grown) < 150 * 1024


def test_a_manifest_is_read_once(tmp_path: Path, world) -> None:
    """Also that of a source which somebody else has written."""
    (tmp_path / "source").mkdir()
    for number in range(50):
        (tmp_path / "source" / f"{number:02}").write_bytes(b"%d" % number)
    there = locate(world["s3"])
    transfer.copy_tree(locate(str(tmp_path / "source")), there)
    (config.home() / "cache" / "digests.db").unlink()
    transfer.copy_tree(there, locate(str(tmp_path / "back")))
    with observe.counting() as counts:
        receipt = transfer.copy_tree(there, locate(str(tmp_path / "back")))
    assert (receipt.files, receipt.done) == (50, 0)
    assert counts.received["s3"] == 0
    assert counts.total("s3") <= 4
