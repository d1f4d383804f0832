"""What a transfer does and refuses, on this machine's disk and memory."""

from __future__ import annotations

import os
import pickle
import random
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest

import rh
from rh import observe, transfer
from rh.content import manifest
from rh.errors import (
    ConflictError,
    ExistsError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    TransferError,
)
from rh.progress import Silent
from rh.systems import locate, open_system
from rh.systems.abilities import Item, Linked
from rh.systems.base import System
from rh.systems.local import LocalSystem
from rh.systems.memory import MemorySystem
from rh.systems.wrap import unwrap
from rh.transfer import Action, Options, run, verify
from rh.transfer.plan import plan_tree
from rh.types import Entry, Link, Location, Outcome
from tests.transfer import trees


def make(root: Path, **files: bytes | str) -> Location:
    for name, data in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return locate(str(root))


def keys(place: Location) -> list[str]:
    return [entry.key for entry in open_system(place).list()]


def memory(name: str, files: dict[str, bytes]) -> tuple[Location, System]:
    place = locate(f"memory://{name}/root")
    system = open_system(place)
    for key, data in files.items():
        system.write(key, data)
    return place, system


def test_a_tree_arrives_whole_and_a_repeat_moves_nothing(tmp_path: Path) -> None:
    files = trees.make(tmp_path / "a", large=True)
    source, target = locate(str(tmp_path / "a")), locate(str(tmp_path / "b"))
    receipt = transfer.copy_tree(source, target)
    assert (receipt.files, receipt.done, receipt.route) == (len(files), len(files), "COPY")
    assert trees.read(tmp_path / "b") == trees.read(tmp_path / "a")
    assert receipt.digest == transfer.digest_tree(source) == transfer.digest_tree(target)
    before = (tmp_path / "b" / manifest.NAME).stat()
    again = transfer.copy_tree(source, target)
    assert (again.done, again.skipped, again.bytes_moved, again.digest) == (0, len(files), 0, receipt.digest)
    assert (tmp_path / "b" / manifest.NAME).stat().st_ino == before.st_ino
    assert "unchanged" in str(again)
    assert pickle.loads(pickle.dumps(receipt)) == receipt


def test_only_what_differs_moves(tmp_path: Path) -> None:
    source = make(tmp_path / "a", a_txt="1", b_txt="2", c_txt="3")
    target = locate(str(tmp_path / "b"))
    transfer.copy_tree(source, target)
    (tmp_path / "a" / "b.txt").write_text("9")
    (tmp_path / "a" / "d.txt").write_text("4")
    receipt = transfer.copy_tree(source, target)
    assert (receipt.done, receipt.skipped, receipt.bytes_moved) == (2, 2, 2)
    assert (tmp_path / "b" / "b.txt").read_text() == "9"


def test_a_tree_that_other_tools_copied_is_recognised(tmp_path: Path) -> None:
    import shutil

    source = make(tmp_path / "a", a_txt="1" * 100, b_txt="2")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    receipt = transfer.copy_tree(source, locate(str(tmp_path / "b")))
    assert (receipt.done, receipt.skipped) == (0, 2)


def test_plan_changes_nothing_and_says_what_would_happen(tmp_path: Path) -> None:
    source = make(tmp_path / "a", new_txt="1", same_txt="2", other_txt="33")
    target = make(tmp_path / "b", same_txt="2", other_txt="4", extra_txt="5")
    plan = transfer.plan_tree(source, target, Options(delete=True))
    assert (plan.files, plan.counts[Action.DELETE]) == (3, 1)
    assert "extra.txt" in str(plan)
    assert "new.txt" in plan._repr_html_()
    assert plan.as_dict()["counts"] == {"copy": 2, "check": 1, "delete": 1}
    receipt = transfer.copy_tree(source, target, Options(delete=True, dry_run=True))
    assert receipt.dry_run
    assert receipt.deleted == 1
    assert keys(target) == ["extra.txt", "other.txt", "same.txt"]
    assert (tmp_path / "b" / "other.txt").read_text() == "4"


@pytest.mark.parametrize(("mode", "text", "done"), [("update", "new", 2), ("skip", "old", 1), ("replace", "new", 3)])
def test_on_existing(mode, text: str, done: int, tmp_path: Path) -> None:
    source = make(tmp_path / "a", x_txt="new", y_txt="y", same_txt="s")
    target = make(tmp_path / "b", x_txt="old", same_txt="s")
    receipt = transfer.copy_tree(source, target, Options(on_existing=mode))
    assert (tmp_path / "b" / "x.txt").read_text() == text
    assert receipt.done == done


def test_on_existing_error_refuses_before_anything_moves(tmp_path: Path) -> None:
    source = make(tmp_path / "a", a_txt="1", x_txt="longer")
    target = make(tmp_path / "b", x_txt="old")
    with pytest.raises(ExistsError, match=r"x\.txt"):
        transfer.copy_tree(source, target, Options(on_existing="error"))
    assert keys(target) == ["x.txt"]


def test_delete_only_when_asked_and_never_what_patterns_leave_out(tmp_path: Path) -> None:
    source = make(tmp_path / "a", a_txt="1")
    target = make(tmp_path / "b", gone_txt="x", keep_log="y")
    transfer.copy_tree(source, target)
    assert keys(target) == ["a.txt", "gone.txt", "keep.log"]
    receipt = transfer.copy_tree(source, target, Options(delete=True, exclude=["*.log"]))
    assert receipt.deleted == 1
    assert keys(target) == ["a.txt", "keep.log"]


def test_no_more_is_deleted_than_is_allowed(tmp_path: Path) -> None:
    """An emptied source, or a disk that is not mounted, empties no mirror."""
    source, target = make(tmp_path / "a", a="1", b="2", c="3"), locate(str(tmp_path / "b"))
    transfer.copy_tree(source, target)
    for name in ("a", "b"):
        (tmp_path / "a" / name).unlink()
    (tmp_path / "a" / "d").write_text("4")
    with pytest.raises(InvalidError, match="2 files would be deleted, and max_delete is 1"):
        transfer.copy_tree(source, target, Options(delete=True, max_delete=1))
    assert keys(target) == ["a", "b", "c"]
    assert transfer.plan_tree(source, target, Options(delete=True, max_delete=1)).counts["delete"] == 2
    assert transfer.copy_tree(source, target, Options(delete=True, max_delete=2)).deleted == 2


def test_patterns_and_the_ignore_file(tmp_path: Path) -> None:
    source = make(tmp_path / "a", a_txt="1", b_py="2", d__c_txt="3", secret_key="4")
    (tmp_path / "a" / ".rhignore").write_text("*.key\n.rhignore\n")
    (tmp_path / "a" / ".gitignore").write_text("*.txt\n")
    transfer.copy_tree(source, locate(str(tmp_path / "b")))
    assert keys(locate(str(tmp_path / "b"))) == [".gitignore", "a.txt", "b.py", "d/c.txt"]
    transfer.copy_tree(source, locate(str(tmp_path / "c")), Options(include=["*.txt"], exclude=["/a.txt"]))
    assert keys(locate(str(tmp_path / "c"))) == ["d/c.txt"]
    transfer.copy_tree(source, locate(str(tmp_path / "d")), Options(ignore_file=False))
    assert "secret.key" in keys(locate(str(tmp_path / "d")))
    none = transfer.copy_tree(source, locate(str(tmp_path / "e")), Options(include=["*.nothing"]))
    assert "no file matched" in str(none)


@pytest.mark.parametrize("name", [b"plain", b"caf\xe9", "a\u2028b".encode(), b"a\x0cb"])
@pytest.mark.parametrize("lines", [b"%s/\n", b"%s/\r\n*.key", b"\xef\xbb\xbf%s/\n"])
def test_the_ignore_file_says_names_as_disks_have_them(tmp_path: Path, name: bytes, lines: bytes) -> None:
    """Those that are no UTF-8, or hold what Python takes for the end of a line; behind the mark of Windows' editors."""
    source = make(tmp_path / "a", a="1", b__f="2")
    (tmp_path / "a" / os.fsdecode(name)).mkdir()
    (tmp_path / "a" / os.fsdecode(name) / "secret").touch()
    (tmp_path / "a" / ".rhignore").write_bytes(lines % name)
    transfer.copy_tree(source, locate(str(tmp_path / "b")))
    assert keys(locate(str(tmp_path / "b"))) == [".rhignore", "a", "b/f"]


def test_an_ignore_file_that_would_ignore_nothing_is_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "a", secret="1")
    (tmp_path / "a" / ".rhignore").write_text("secret\n", "utf-16")
    with pytest.raises(InvalidError, match=r"UTF-8.*\.rhignore"):
        transfer.copy_tree(source, locate(str(tmp_path / "b")))
    assert not (tmp_path / "b").exists()


def test_links(tmp_path: Path) -> None:
    source = make(tmp_path / "a", real_txt="1", d__x_txt="2")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "o.txt").write_text("3")
    (tmp_path / "a" / "link.txt").symlink_to("real.txt")
    (tmp_path / "a" / "dir").symlink_to(tmp_path / "outside")
    transfer.copy_tree(source, locate(str(tmp_path / "follow")))
    assert (tmp_path / "follow" / "dir" / "o.txt").read_text() == "3"
    assert not (tmp_path / "follow" / "link.txt").is_symlink()
    transfer.copy_tree(source, locate(str(tmp_path / "keep")), Options(links="keep"))
    assert (tmp_path / "keep" / "link.txt").readlink() == Path("real.txt")
    again = transfer.copy_tree(source, locate(str(tmp_path / "keep")), Options(links="keep"))
    assert again.done == 0
    transfer.copy_tree(source, locate(str(tmp_path / "skip")), Options(links="skip"))
    assert keys(locate(str(tmp_path / "skip"))) == ["d/x.txt", "real.txt"]
    with pytest.raises(InvalidError, match="link"):
        transfer.copy_tree(source, locate(str(tmp_path / "error")), Options(links="error"))
    (tmp_path / "a" / "broken").symlink_to("nowhere")
    for copy, what in ((transfer.copy_tree, source), (transfer.copy_file, source / "broken")):
        with pytest.raises(NotFoundError, match="broken"):
            copy(what, locate(str(tmp_path / "never")))
    (tmp_path / "a" / "broken").unlink()
    (tmp_path / "a" / "d" / "loop").symlink_to("..")
    with pytest.raises(NotFoundError, match="loop"):
        transfer.copy_tree(source, locate(str(tmp_path / "never")))
    assert not (tmp_path / "never").exists()


def test_a_receipt_counts_links_and_directories_that_were_made(tmp_path: Path) -> None:
    """They are no files, and yet not nothing."""
    source, target = make(tmp_path / "a", d__x="1", e__x="2"), locate(str(tmp_path / "b"))
    (tmp_path / "a" / "cur").symlink_to("d")
    (tmp_path / "a" / "empty").mkdir()
    keep = Options(links="keep")

    def told(receipt: transfer.Receipt) -> tuple[str, int, int, int, int]:
        assert receipt.done + receipt.skipped == receipt.files == 2
        assert not receipt.resumable
        return receipt.route, receipt.done, receipt.skipped, receipt.links_made, receipt.directories_made

    assert told(transfer.copy_tree(source, target, Options(links="keep", dry_run=True))) == ("COPY", 2, 0, 1, 1)
    assert told(transfer.copy_tree(source, target, keep)) == ("COPY", 2, 0, 1, 1)
    assert told(transfer.copy_tree(source, target, keep)) == ("NONE", 0, 2, 0, 0)
    (tmp_path / "b" / "cur").unlink()
    (tmp_path / "b" / "cur").symlink_to("e")
    receipt = transfer.copy_tree(source, target, keep)
    assert told(receipt) == ("COPY", 0, 2, 1, 0)
    assert "0 of 2 files, 0 B of 2 B; 2 unchanged; 1 link made\n" in str(receipt)
    assert receipt.digest == transfer.digest_tree(source, links="keep")
    for name in ("empty2", "empty3"):
        (tmp_path / "a" / name).mkdir()
    receipt = transfer.copy_tree(source, target, keep)
    assert told(receipt) == ("COPY", 0, 2, 0, 2)
    assert "[COPY]" in str(receipt)
    assert "; 2 directories made\n" in str(receipt)
    assert {"links_made": 0, "directories_made": 2}.items() <= receipt.as_dict().items()


def test_a_directory_that_nothing_keeps_is_not_made(tmp_path: Path) -> None:
    """A place without directories has them in the manifest, if there is one."""
    source, target = make(tmp_path / "a", x="1"), locate("memory://flat/x")
    (tmp_path / "a" / "empty").mkdir()

    class Flat(MemorySystem):
        keeps_directories = False

    def copied(*, described: bool) -> tuple[str, int]:
        flat = Flat.open(target, {"kind": "memory"})
        plan = plan_tree(open_system(source), flat, Options(manifest=described))
        receipt = run.run(plan, progress=Silent())
        return receipt.route, receipt.directories_made

    assert copied(described=False) == ("PUSH", 0)
    assert copied(described=False) == ("NONE", 0)
    assert copied(described=True) == ("PUSH", 1)
    assert copied(described=True) == ("NONE", 0)


def test_the_digest_is_that_of_a_copy_with_the_same_links(tmp_path: Path) -> None:
    source = make(tmp_path / "a", real_txt="1", d__x_txt="2")
    (tmp_path / "a" / "link.txt").symlink_to("real.txt")
    digests = {}
    for links in get_args(transfer.Links)[:3]:
        target = locate(str(tmp_path / links))
        receipt = transfer.copy_tree(source, target, Options(links=links))
        digests[links] = transfer.digest_tree(source, links=links)
        assert receipt.digest == digests[links] == transfer.digest_tree(target, links=links)
    assert len(set(digests.values())) == 3
    (tmp_path / "a" / "broken").symlink_to("nowhere")
    assert transfer.digest_tree(source, links="skip") == digests["skip"]
    assert transfer.digest_tree(source, links="keep") != digests["keep"]
    with pytest.raises(NotFoundError, match="nowhere"):
        transfer.digest_tree(source)
    with pytest.raises(InvalidError, match="symbolic link"):
        transfer.digest_tree(source, links="error")
    with pytest.raises(InvalidError, match="is not one of"):
        transfer.digest_tree(source, links="all")  # type: ignore[arg-type]


def test_links_that_are_left_out_need_not_lead_anywhere(tmp_path: Path) -> None:
    source = make(tmp_path / "a", a_txt="1", d__x_txt="2")
    for name, target in (("broken", "nowhere"), ("d/loop", ".."), ("round", "round")):
        (tmp_path / "a" / name).symlink_to(target)
    for number, chosen in enumerate(
        (
            Options(exclude=["broken", "d/loop", "round"]),
            Options(include=["*.txt"]),
            Options(keys=frozenset({"a.txt", "d/x.txt"})),
            Options(links="error", include=["*.txt"]),
        )
    ):
        target = locate(str(tmp_path / f"b{number}"))
        transfer.copy_tree(source, target, chosen)
        assert keys(target) == ["a.txt", "d/x.txt"]


def test_nothing_but_links_that_are_left_out(tmp_path: Path) -> None:
    target = make(tmp_path / "b", a_txt="1")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to("nowhere")
    transfer.copy_tree(locate(str(tmp_path / "a")), target, Options(links="skip"))
    assert keys(target) == ["a.txt"]
    transfer.copy_tree(locate(str(tmp_path / "a")), target, Options(links="skip", delete=True))
    assert keys(target) == []


def test_bad_places_are_refused_before_anything_changes(tmp_path: Path) -> None:
    here = make(tmp_path / "a", a_txt="1")
    with pytest.raises(NotFoundError):
        transfer.copy_tree(locate(str(tmp_path / "missing")), locate(str(tmp_path / "b")))
    assert not (tmp_path / "b").exists()
    with pytest.raises(NotFoundError, match="nothing"):
        transfer.copy_tree(locate("memory://nothing/here"), locate(str(tmp_path / "b")))
    assert not (tmp_path / "b").exists()
    with pytest.raises(InvalidError, match="same place"):
        transfer.copy_tree(here, here)
    with pytest.raises(InvalidError, match="within"):
        transfer.copy_tree(here, here / "sub")
    with pytest.raises(NotFoundError, match="file, not a directory"):
        transfer.copy_tree(here / "a.txt", locate(str(tmp_path / "b")))
    with pytest.raises(NotFoundError):
        transfer.copy_file(here / "none.txt", locate(str(tmp_path / "b.txt")))


@pytest.mark.parametrize(
    ("mode", "there", "pattern"), [("encode", "100%25.log", "*%.log"), ("decode", "100%.log", "*%25.log")]
)
def test_what_patterns_leave_out_stays_where_it_has_another_name(mode, there, pattern, tmp_path: Path) -> None:
    here = make(tmp_path / "a", a_txt="1")
    target = make(tmp_path / "b", **{there: "2", "gone": "2"})
    options = Options(delete=True, names=mode, exclude=[pattern])
    assert transfer.copy_tree(here, target, options).deleted == 1
    assert (tmp_path / "b" / there).read_text() == "2"


def test_a_target_within_the_source_is_refused_by_whatever_path(tmp_path: Path) -> None:
    """Else a mirror of the source deletes of it what the mirror has not."""
    here = make(tmp_path / "a", a_txt="1")
    (tmp_path / "a" / "sub").mkdir()
    (tmp_path / "a" / "sub" / "only").write_text("here")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for source, target in [(here, "link/sub"), (locate(str(tmp_path / "link/sub")), "a")]:
        with pytest.raises(InvalidError, match="within"):
            transfer.copy_tree(source, locate(str(tmp_path / target)), Options(delete=True))
    with pytest.raises(InvalidError, match="same place"):
        transfer.copy_tree(here, locate(str(tmp_path / "link")), Options(delete=True))
    assert (tmp_path / "a" / "sub" / "only").read_text() == "here"


def test_a_target_within_the_source_is_refused_by_whatever_name(ssh_a, tmp_path: Path) -> None:
    """A host, and a place in it, may be known by several."""
    top = f"/{tmp_path.name}"
    for name in ("ssh-a", "same-host"):
        rh.register_system(name, **ssh_a.settings())
    source = locate(f"ssh-a:~{top}/a")
    open_system(source).write("sub/only", b"here")
    open_system(locate(f"ssh-a:~{top}")).write("link", Link("a"))
    home = open_system(locate("ssh-a:~")).ask(Linked).real_path()
    for target in (f"ssh-a:{home}{top}/a/sub", f"ssh-a:~{top}/link/sub", f"same-host:~{top}/a/sub"):
        with pytest.raises(InvalidError, match="within"):
            transfer.copy_tree(source, locate(target), Options(delete=True))
    one, other = locate("memory://twice/a"), Location("memory-again", "twice/a/sub")
    rh.register_system("memory-again", kind="memory")
    open_system(one).write("sub/only", b"here")
    with pytest.raises(InvalidError, match="within"):
        transfer.copy_tree(one, other, Options(delete=True))


@pytest.mark.parametrize(
    "bad",
    [
        {"links": "x"},
        {"on_existing": "maybe"},
        {"workers": 0},
        {"bandwidth": -1},
        {"bandwidth": "10M"},
        {"bandwidth": True},
        {"workers": True},
        {"include": "*.txt"},
        {"include": [5]},
        {"include": [""]},
        {"exclude": [Path("x")]},
        {"keys": "labels.csv"},
        {"keys": [b"a"]},
        {"delete": "no"},
        {"max_delete": -1},
        {"max_delete": True},
        {"dry_run": 1},
        {"manifest": "no"},
        {"what": 1},
    ],
)
def test_bad_options_are_named(bad) -> None:
    with pytest.raises(InvalidError, match=next(iter(bad))):
        Options.of(bad)


def test_keys_and_patterns_may_be_a_column_of_a_frame(tmp_path: Path) -> None:
    here, there = make(tmp_path / "a", a_txt="1", b_txt="2", c_txt="3"), locate(str(tmp_path / "b"))
    for names in (["a.txt"], ["a.txt", "b.txt"]):
        transfer.copy_tree(here, there, Options(keys=pd.Series(names)))
    assert keys(there) == ["a.txt", "b.txt"]
    transfer.copy_tree(here, there, Options(exclude=pd.Series(["a.*"])))
    assert keys(there) == ["a.txt", "b.txt", "c.txt"]


def test_keys_that_are_asked_for_have_to_be_there(tmp_path: Path) -> None:
    here, there = make(tmp_path / "a", a_txt="1", b_txt="2", c_txt="3"), tmp_path / "b"
    for keys in (["a.txt", "lables.txt"], {"a.txt/"}):
        with pytest.raises(NotFoundError, match=r"1 of the files are not there: (lables|a)\.txt"):
            transfer.copy_tree(here, locate(str(there)), Options(keys=keys))
        assert not there.exists()
    transfer.copy_tree(here, locate(str(there)), Options(keys=["a.txt", "b.txt"]))
    (tmp_path / "a" / "b.txt").unlink()
    transfer.copy_tree(here, locate(str(there)), Options(keys=["b.txt", "c.txt"], delete=True))
    assert sorted(path.name for path in there.glob("*.txt")) == ["a.txt", "c.txt"]


@pytest.mark.parametrize("key", ["../escape", "/absolute", "a//b", "x/../../y"])
def test_hostile_keys_reach_nothing_outside(key: str, tmp_path: Path) -> None:
    """Promise 32."""
    source, _ = memory("hostile" + key.replace("/", "_"), {"fine": b"1", key: b"evil"})
    (tmp_path / "in").mkdir()
    with pytest.raises(NameClashError):
        transfer.copy_tree(source, locate(str(tmp_path / "in" / "b")))
    assert list((tmp_path / "in").iterdir()) == []
    transfer.copy_tree(source, locate(str(tmp_path / "in" / "b")), Options(names="encode"))
    back, system = memory("hostile-back" + key.replace("/", "_"), {})
    transfer.copy_tree(locate(str(tmp_path / "in" / "b")), back, Options(names="decode"))
    assert {entry.key for entry in system.list()} == {"fine", key}
    assert system.read(key).read() == b"evil"
    assert (tmp_path / "in" / "b" / "fine").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["b"]


def test_two_keys_that_would_become_one_are_refused() -> None:
    source, _ = memory("same-decoded", {"a%2Fb": b"1", "a/b": b"2"})
    target, system = memory("same-decoded-target", {})
    with pytest.raises(NameClashError, match="two keys become"):
        transfer.copy_tree(source, target, Options(names="decode"))
    assert list(system.list()) == []


def test_a_file_and_a_directory_of_one_name_clash(tmp_path: Path) -> None:
    source, _ = memory("clash", {"a": b"1", "a/b": b"2"})
    with pytest.raises(NameClashError, match="'a'"):
        transfer.copy_tree(source, locate(str(tmp_path / "b")))
    only, _ = memory("clash-2", {"a/b": b"2"})
    target = make(tmp_path / "c", a="a file")
    with pytest.raises(NameClashError):
        transfer.copy_tree(only, target)
    assert (tmp_path / "c" / "a").read_text() == "a file"


def test_links_in_the_target_lead_nowhere(tmp_path: Path) -> None:
    """Promise 32."""
    source = make(tmp_path / "a", d__x_txt="evil")
    (tmp_path / "outside").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "d").symlink_to(tmp_path / "outside")
    with pytest.raises((TransferError, NameClashError)):
        transfer.copy_tree(source, locate(str(tmp_path / "b")))
    assert list((tmp_path / "outside").iterdir()) == []


def test_bits_flipped_at_rest_are_found(tmp_path: Path) -> None:
    """Promise 2."""
    source = make(tmp_path / "a", a_txt="1" * 5000, b_txt="2")
    target = locate(str(tmp_path / "b"))
    transfer.copy_tree(source, target)
    assert transfer.verify_tree(target).ok
    path = tmp_path / "b" / "a.txt"
    data = bytearray(path.read_bytes())
    data[77] ^= 4
    path.write_bytes(data)
    found = transfer.verify_tree(target)
    assert not found
    assert found.modified + found.corrupt == ("a.txt",)
    with pytest.raises(IntegrityError, match=r"a\.txt"):
        found.raise_for_status()


def test_bits_flipped_where_the_store_shows_no_change_are_corruption(tmp_path: Path) -> None:
    """Promises 1 and 2: the manifest catches what the store does not see."""
    source = make(tmp_path / "a", a_txt="1" * 5000, b_txt="2")
    place = locate("memory://rot/x")
    transfer.copy_tree(source, place)
    system = unwrap(open_system(place))
    rot(system, "a.txt")
    assert transfer.verify_tree(place).corrupt == ("a.txt",)
    with pytest.raises(TransferError) as caught:
        transfer.copy_tree(place, locate(str(tmp_path / "c")))
    assert [failure.key for failure in caught.value.receipt.failed] == ["a.txt"]
    assert isinstance(caught.value.receipt.failed[0].error, IntegrityError)
    assert not (tmp_path / "c" / "a.txt").exists()
    assert not (tmp_path / "c" / manifest.NAME).exists()


@pytest.mark.parametrize("broken", [None, "garbled", "silent"])
def test_small_files_are_verified_many_at_once(tmp_path: Path, broken: str | None) -> None:
    """One by one only where that breaks."""
    asked: list[str] = []

    class Store(MemorySystem):
        """One that computes no digests by itself."""

        digest_many = None  # type: ignore[assignment]
        largest = 2

        def read_many(self, entries: Iterable[Entry], **more: Any) -> Iterator[Any]:
            for number, (entry, data) in enumerate(super().read_many(entries, **more)):
                if number == 5 and broken:
                    if broken == "garbled":
                        raise IntegrityError("it was garbled")
                    return
                asked.append(entry.key)
                yield entry, data

    place = locate(f"memory://together-{broken}/x")
    transfer.copy_tree(make(tmp_path / "a", large="large", **{f"f{n:02}": f"{n:02}" for n in range(20)}), place)
    rot(unwrap(open_system(place)), "f07")
    found = verify.verify_tree(Store.open(place, {"kind": "memory"}))
    assert (found.files, found.corrupt, found.unreadable) == (21, ("f07",), ())
    assert "large" not in asked
    assert len(asked) == (20 if broken is None else 5)


def rot(system: System, key: str) -> None:
    """Flip a bit of an object under an unchanged etag."""
    entry = system.head(key)
    data = bytearray(system.read(key).read())
    data[len(data) // 2] ^= 1
    system.get(key).data = bytes(data)  # type: ignore[attr-defined]
    assert system.head(key).etag == entry.etag


def test_missing_and_added_files_are_found(tmp_path: Path) -> None:
    source = make(tmp_path / "a", a_txt="1", b_txt="2")
    target = locate(str(tmp_path / "b"))
    transfer.copy_tree(source, target)
    (tmp_path / "b" / "a.txt").unlink()
    (tmp_path / "b" / "new.txt").write_text("3")
    found = transfer.verify_tree(target)
    assert (found.missing, found.added) == (("a.txt",), ("new.txt",))
    assert not transfer.verify_tree(source)
    assert transfer.verify_tree(source).against == "nothing"


def test_other_links_and_executable_bits_are_found(tmp_path: Path) -> None:
    """Promise 2."""
    source = make(tmp_path / "a", d__x="1", e__x="2", file="3", run="4")
    (tmp_path / "a" / "run").chmod(0o755)
    for name in ("cur", "other", "same"):
        (tmp_path / "a" / name).symlink_to("d")
    target, there = locate(str(tmp_path / "b")), tmp_path / "b"
    receipt = transfer.copy_tree(source, target, Options(links="keep"))
    assert transfer.verify_tree(target).digest == receipt.digest
    for name in ("cur", "other", "file"):
        (there / name).unlink()
    (there / "cur").symlink_to("e")
    (there / "other").write_text("d")
    (there / "file").symlink_to("run")
    (there / "run").chmod(0o644)
    (there / "e" / "x").chmod(0o755)
    found = transfer.verify_tree(target)
    assert found.modified == ("cur", "e/x", "file", "other", "run")
    assert (found.corrupt, found.missing, found.added, found.unreadable) == ((), (), (), ())
    part = transfer.verify_tree(target / "e")
    assert (part.modified, part.above) == (("x",), f"file://{there}")
    transfer.copy_tree(source, target, Options(links="keep"))
    assert transfer.verify_tree(target).digest == receipt.digest


def test_links_are_not_compared_where_the_place_shows_none(tmp_path: Path) -> None:
    source = make(tmp_path / "a", real="1")
    (tmp_path / "a" / "link").symlink_to("real")
    (tmp_path / "a" / "real").chmod(0o755)
    target = locate(str(tmp_path / "b"))
    transfer.copy_tree(source, target, Options(links="keep"))
    (tmp_path / "b" / "link").unlink()
    (tmp_path / "b" / "link").write_text("1")
    (tmp_path / "b" / "real").chmod(0o644)

    class Shared(LocalSystem):
        """As a share of the disk is, which shows what links lead to."""

        keeps_links = False
        keeps_executable = False

    assert verify.verify_tree(Shared.open(target, {"kind": "file"})).ok
    assert transfer.verify_tree(target).modified == ("link", "real")


def test_a_damaged_manifest_is_an_error_at_the_source_and_replaced_at_the_target(tmp_path: Path) -> None:
    source = make(tmp_path / "a", a_txt="1", b_txt="2")
    target = locate(str(tmp_path / "b"))
    transfer.copy_tree(source, target)
    path = tmp_path / "b" / manifest.NAME
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(IntegrityError, match="manifest is damaged"):
        transfer.copy_tree(target, locate(str(tmp_path / "c")))
    receipt = transfer.copy_tree(source, target)
    assert receipt.done == 0
    assert transfer.verify_tree(target).ok


def test_a_source_that_changes_meanwhile_is_an_error_or_a_snapshot(tmp_path: Path) -> None:
    """Promise 10."""
    size = 40 * 1024 * 1024
    path = tmp_path / "a" / "big"
    path.parent.mkdir()
    path.write_bytes(bytes(size))
    stop = threading.Event()

    def scribble() -> None:
        fd = os.open(path, os.O_WRONLY)
        value = 0
        while not stop.is_set():
            value = (value + 1) % 256
            os.pwrite(fd, bytes([value]) * 4096, random.randrange(size - 4096))
        os.close(fd)

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for target in (locate(str(tmp_path / "b")), locate("memory://moving/x")):
            with pytest.raises((TransferError, ConflictError)) as caught:
                transfer.copy_tree(locate(str(tmp_path / "a")), target)
            assert "changed" in str(caught.value)
            assert "big" not in list_or_none(target)
    finally:
        stop.set()
        thread.join()


def list_or_none(place: Location) -> list[str]:
    try:
        return keys(place)
    except NotFoundError:
        return []


def test_one_bad_file_stops_no_other_and_every_failure_is_listed(tmp_path: Path) -> None:
    """Promise 3."""
    files = {f"f{n:02}": bytes([n]) * 100 for n in range(30)}
    place, _ = memory("some-bad", files)
    transfer.copy_tree(place, locate("memory://some-bad-2/x"))
    bad = locate("memory://some-bad-2/x")
    for key in ("f03", "f17"):
        rot(unwrap(open_system(bad)), key)
    with pytest.raises(TransferError) as caught:
        transfer.copy_tree(bad, locate(str(tmp_path / "c")), Options(workers=4))
    receipt = caught.value.receipt
    assert receipt.files == 30 == receipt.done + receipt.skipped + len(receipt.failed)
    assert [failure.key for failure in receipt.failed] == ["f03", "f17"]
    assert "f17" in str(caught.value)
    assert receipt.resumable
    assert receipt.as_dict()["failed"][0]["kind"] == "integrity"
    assert pickle.loads(pickle.dumps(caught.value)).receipt.done == 28
    for key in ("f03", "f17"):
        open_system(bad).write(key, files[key])
    again = transfer.copy_tree(bad, locate(str(tmp_path / "c")))
    assert (again.done, again.skipped) == (2, 28)


@pytest.mark.parametrize("end", ["read_many", "write_many"])
def test_a_stream_of_medium_files_that_breaks_fails_each_of_them(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 3, while a thread reads ahead of what is being written."""
    files = {f"f{n:02}": os.urandom(2 << 20) for n in range(20)}
    source, _ = memory(f"breaking-{end}", files)
    target = locate(str(tmp_path / "b"))
    owner = MemorySystem if end == "read_many" else LocalSystem
    usual = getattr(owner, end)

    def breaking(system: System, items: Iterable[Any], **more: Any) -> Iterator[Any]:
        for number, outcome in enumerate(usual(system, items, **more)):
            if number == 5:
                raise RhError("it broke")
            yield outcome

    threads = threading.active_count()
    with monkeypatch.context() as patch:
        patch.setattr(owner, end, breaking)
        with pytest.raises(TransferError, match="it broke") as caught:
            transfer.copy_tree(source, target)
    receipt = caught.value.receipt
    assert receipt.files == 20 == receipt.done + len(receipt.failed)
    assert receipt.failed
    until = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() == threads
    again = transfer.copy_tree(source, target)
    assert again.done + again.skipped == 20
    assert {entry.key: open_system(target).read(entry.key).read() for entry in open_system(target).list()} == files


@pytest.mark.parametrize("end", ["read_many", "write_many"])
@pytest.mark.parametrize("size", [100, 2 << 20])
def test_a_stream_that_breaks_once_takes_no_file_along(
    size: int, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 3: what was neither done nor failed when it broke is moved, or told of; never just not there."""
    files = {f"f{n:02}": os.urandom(size) for n in range(20)}
    source, _ = memory(f"broken-{end}-{size}", files)
    target = locate(str(tmp_path / "b"))
    owner = MemorySystem if end == "read_many" else LocalSystem
    usual = getattr(owner, end)
    broken: list[int] = []

    def breaking(system: System, items: Iterable[Any], **more: Any) -> Iterator[Any]:
        for number, outcome in enumerate(usual(system, items, **more)):
            if number == 5 and not broken:
                broken.append(number)
                raise IntegrityError("it was garbled")
            yield outcome

    monkeypatch.setattr(owner, end, breaking)
    try:
        receipt = transfer.copy_tree(source, target)
    except TransferError as error:
        receipt = error.receipt
    assert broken
    assert receipt.files == 20 == receipt.done + len(receipt.failed)
    if not receipt.failed:
        assert transfer.verify_tree(target).ok
    again = transfer.copy_tree(source, target)
    assert again.done + again.skipped == 20
    assert {entry.key: open_system(target).read(entry.key).read() for entry in open_system(target).list()} == files


def test_medium_files_are_read_a_few_mebibytes_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a transfer holds does not depend on how much faster the source is than the target."""
    source, _ = memory("ahead", {f"f{n:02}": os.urandom(2 << 20) for n in range(20)})
    read: list[int] = []
    ahead: list[int] = []
    reading, writing = MemorySystem.read_many, LocalSystem.write_many

    def counted(system: MemorySystem, entries: Iterable[Entry], **more: Any) -> Iterator[Any]:
        for found in reading(system, entries, **more):
            read.append(len(found[1]))
            yield found

    def slow(system: LocalSystem, items: Iterable[Item], **more: Any) -> Iterator[Outcome]:
        def taken() -> Iterator[Item]:
            for number, item in enumerate(items):
                time.sleep(0.02)
                ahead.append(sum(read) - number * (2 << 20))
                yield item

        return writing(system, taken(), **more)

    monkeypatch.setattr(MemorySystem, "read_many", counted)
    monkeypatch.setattr(LocalSystem, "write_many", slow)
    assert transfer.copy_tree(source, locate(str(tmp_path / "b"))).done == 20
    assert 4 << 20 <= max(ahead) <= 14 << 20


@pytest.mark.parametrize("end", ["read_many", "write_many"])
def test_as_many_workers_as_were_asked_for(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`workers=` also bounds what a store is asked at once from one thread."""
    make(tmp_path / "a", f="1", g="2")
    asked: list[int] = []
    usual = getattr(MemorySystem, end)

    def noted(system: MemorySystem, items: Iterable[Any], *, workers: int) -> Iterator[Any]:
        asked.append(workers)
        return usual(system, items, workers=workers)

    monkeypatch.setattr(MemorySystem, end, noted)
    middle = Location("memory", f"workers-{end}")
    for source, target in ((locate(str(tmp_path / "a")), middle), (middle, locate(str(tmp_path / "b")))):
        transfer.copy_tree(source, target, Options(workers=3))
    assert asked == [3]


def test_cancelling_leaves_what_can_be_resumed(tmp_path: Path) -> None:
    """Promise 28."""
    for n in range(40):
        make(tmp_path / "a", **{f"f{n}": os.urandom(100_000)})
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    source, target = locate(str(tmp_path / "a")), locate("memory://cancelled/x")
    began = time.monotonic()
    with pytest.raises(TransferError, match="cancelled") as caught:
        transfer.copy_tree(source, target, Options(bandwidth=1_000_000, workers=2), cancel=cancel)
    assert time.monotonic() - began < 3
    assert 0 < caught.value.receipt.done < 40
    assert manifest.NAME not in list_or_none(target)
    receipt = transfer.copy_tree(source, target)
    assert receipt.done + receipt.skipped == 40
    assert transfer.verify_tree(target).ok


@pytest.mark.parametrize("stopped", [False, True])
def test_one_large_file_that_the_disk_copies(tmp_path: Path, *, stopped: bool) -> None:
    """It is told of while it goes on, and stops within."""
    size = 200 << 20
    make(tmp_path / "a", f=os.urandom(1 << 20) * 200)
    cancel = threading.Event()
    told: list[tuple[int, int]] = []

    class Watch(Silent):
        def advance(self, files: int, size: int) -> None:
            told.append((files, size))
            if stopped:
                cancel.set()

    source, target = locate(str(tmp_path / "a")), locate(str(tmp_path / "b"))
    if stopped:
        with pytest.raises(TransferError, match="cancelled") as caught:
            transfer.copy_tree(source, target, progress=Watch(), cancel=cancel)
        assert caught.value.hint == "the same call again goes on from here"
        assert len(told) == 1
        assert [path for path in (tmp_path / "b").rglob("*") if path.is_file()] == []
        cancel.clear()
        transfer.copy_tree(source, target)
        assert transfer.verify_tree(target).ok
    else:
        transfer.copy_tree(source, target, progress=Watch())
        assert sum(size for _, size in told) == size
        assert len(told) > 10
        assert [files for files, _ in told if files] == [1]


def test_progress_is_told_everything(tmp_path: Path) -> None:
    class Told:
        def __init__(self) -> None:
            self.files = self.size = 0
            self.totals: list[tuple[int, int]] = []
            self.ended = False

        def start(self, title: str) -> None:
            assert "→" in title

        def total(self, files: int, size: int) -> None:
            self.totals.append((files, size))

        def advance(self, files: int, size: int) -> None:
            self.files += files
            self.size += size

        def finish(self) -> None:
            self.ended = True

    trees.make(tmp_path / "a", large=True)
    for target in (locate(str(tmp_path / "b")), locate("memory://told/x")):
        told = Told()
        receipt = transfer.copy_tree(locate(str(tmp_path / "a")), target, progress=told)
        assert (told.files, told.size) == (receipt.files, receipt.bytes_total) == told.totals[-1]
        assert told.ended


@pytest.mark.slow
def test_a_million_files_are_planned_in_bounded_memory() -> None:
    """Promise 18, at a tenth of the size; the whole is in the benchmark."""
    import resource

    place, system = memory("many", {})
    for n in range(100_000):
        system.write(f"dir{n // 1000:04}/file{n:07}", b"x")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = transfer.plan_tree(place, locate("memory://many-2/x"))
    assert plan.files == 100_000
    assert sum(1 for _ in plan.steps()) == 100_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_a_copy_within_a_store_asks_for_few_things(tmp_path: Path) -> None:
    """Promise 19, counted."""
    source = make(tmp_path / "a", **{f"f{n}": str(n) for n in range(200)})
    target = locate("memory://counted/x")
    transfer.copy_tree(source, target)
    with observe.counting() as counts:
        transfer.copy_tree(source, target)
    assert counts.total("memory") <= 4


def test_a_directory_left_empty_by_a_crash_is_no_obstacle(tmp_path: Path) -> None:
    source = make(tmp_path / "a", d__x_txt="1", e__y_txt="2")
    (tmp_path / "b" / "d").mkdir(parents=True)
    receipt = transfer.copy_tree(source, locate(str(tmp_path / "b")), Options(delete=True))
    assert (receipt.done, receipt.deleted) == (2, 0)
    assert transfer.verify_tree(locate(str(tmp_path / "b"))).ok
    (tmp_path / "c" / "d").mkdir(parents=True)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "d").write_text("a file")
    with pytest.raises(NameClashError, match="'d'"):
        transfer.copy_tree(locate(str(tmp_path / "f")), locate(str(tmp_path / "c")))


def test_on_existing_error_sees_what_only_differs_in_content(tmp_path: Path) -> None:
    source = make(tmp_path / "a", a_txt="12", same_txt="s")
    target = locate(str(tmp_path / "b"))
    transfer.copy_tree(source, target)
    (tmp_path / "a" / "a.txt").write_text("34")
    (tmp_path / "a" / "new.txt").write_text("5")
    with pytest.raises(ExistsError, match=r"a\.txt"):
        transfer.copy_tree(source, target, Options(on_existing="error"))
    assert (tmp_path / "b" / "a.txt").read_text() == "12"
    assert not (tmp_path / "b" / "new.txt").exists()
    with pytest.raises(ExistsError):
        transfer.copy_file(source / "a.txt", target / "a.txt", Options(on_existing="error"))
    assert (tmp_path / "b" / "a.txt").read_text() == "12"
    same = transfer.copy_file(source / "same.txt", target / "same.txt", Options(on_existing="error"))
    assert (same.done, same.skipped) == (0, 1)
    assert same.source_url.endswith("same.txt")


def test_what_only_looks_like_a_url_is_refused() -> None:
    with pytest.raises(InvalidError, match="s3://data/x"):
        locate("s3:data/x")
    assert locate("./s3:data").path.endswith("/s3:data")


@pytest.mark.slow
def test_what_an_interrupted_run_began_goes_when_another_road_is_taken(tmp_path: Path) -> None:
    """With a limit the bytes come in parts, without one the kernel copies: nobody goes on with the parts."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "large").write_bytes(random.Random(3).randbytes(160 << 20))
    source, target = locate(str(tmp_path / "a")), locate(str(tmp_path / "b"))
    cancel = threading.Event()
    threading.Timer(1.0, cancel.set).start()
    with pytest.raises(TransferError):
        transfer.copy_tree(source, target, Options(bandwidth=40e6, workers=2), cancel=cancel)
    assert [name for name in os.listdir(tmp_path / "b") if name.startswith(".rh-tmp")]
    receipt = transfer.copy_tree(source, target)
    assert receipt.route == "COPY"
    assert sorted(os.listdir(tmp_path / "b")) == [".rh-manifest", "large"]


def test_a_link_to_itself_is_named(tmp_path: Path) -> None:
    source = make(tmp_path / "a", sub__f="1")
    (tmp_path / "a" / "sub" / "self").symlink_to("self")
    with pytest.raises(NotFoundError, match=r"leads to nothing.*a/sub/self") as caught:
        transfer.copy_tree(source, locate(str(tmp_path / "b")))
    assert "links=" in (caught.value.hint or "")
    assert not (tmp_path / "b").exists()
    transfer.copy_tree(source, locate(str(tmp_path / "b")), Options(links="skip"))
    assert keys(locate(str(tmp_path / "b"))) == ["sub/f"]


@pytest.mark.parametrize("wrong", [{"progress": 3}, {"cancel": 3}])
def test_who_watches_is_checked_before_anything_is_done(tmp_path: Path, wrong: dict[str, int]) -> None:
    make(tmp_path / "a", f="1")
    with pytest.raises(InvalidError, match="=3 is no "):
        rh.folder(path=tmp_path / "a").to(path=tmp_path / "b", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "b").exists()
