"""From edits of a version to the next one."""

from __future__ import annotations

import io
import itertools
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rh import observe, transfer
from rh.errors import ConflictError, ExistsError, InvalidError, NameClashError, NotFoundError, RhError
from rh.systems import locate, memory, open_system
from rh.types import Link, Location
from rh.versions.commit import commit_tree
from rh.versions.edit import Edit
from rh.versions.layout import tree_key
from rh.versions.levels import directory
from rh.versions.nodes import Child, Node
from rh.versions.store import Store
from tests.transfer import trees
from tests.versions.places import SYSTEMS, contents, forgotten, place, store_at  # noqa: F401 - a fixture


@pytest.mark.parametrize("kind", SYSTEMS)
def test_an_edit_on_every_system(kind: str, world: dict[str, str], tmp_path: Path) -> None:
    """Added from memory, from a stream, from another system; removed; moved; copied from another version."""
    store = store_at(kind, tmp_path)
    trees.make(tmp_path / "tree", large=True)
    large = (tmp_path / "tree" / "large.bin").read_bytes()
    here = open_system(locate(str(tmp_path / "tree")))
    with Edit(store, None) as edit:
        edit.add_tree(here, "all")
        base = edit.finish()
    assert contents(store, base) == {f"all/{key}": value for key, value in trees.read(tmp_path / "tree").items()}
    with Edit(store, base.digest) as edit:
        edit.add("small", b"1", executable=True)
        edit.add("stream", io.BytesIO(large))
        edit.add("all/a.txt", (here, here.head("mid.bin")))
        edit.add("link", Link("small"))
        edit.add("nothing/", b"")
        edit.move("all/a/", "moved/deep/")
        edit.remove("all/.git/")
        edit.remove("all/large.bin")
        edit.copy_from(store, base.digest, "all/a/c/", "copied/c/")
        tree = edit.finish()
    found = contents(store, tree)
    assert found["small"] == (b"1", True)
    assert found["stream"] == (large, False)
    assert found["all/a.txt"] == ((tmp_path / "tree" / "mid.bin").read_bytes(), False)
    assert found["link"] == (b"small", False)
    assert found["nothing/"] is None
    assert found["moved/deep/b"] == (b"and this after", True)
    assert found["moved/deep/nothing here/"] is None
    assert found["copied/c/deep/er/file"] == found["moved/deep/c/deep/er/file"] == (b"deep", False)
    assert not {"all/large.bin", "all/.git/config", "all/a/b"} & found.keys()
    assert contents(store, base).keys() >= {"all/large.bin", "all/.git/config", "all/a/b"}


def million(store: Store) -> str:
    """A version of 1,000 directories of 1,000 files each: its nodes alone, as if the files were in a pack."""
    pack, texts = "0" * 32, [f"sha256:{number:064x}" for number in range(2_000)]
    files = [
        Child("file", b"%06d.jpg" % number, 1_000, texts[number], executable=False, where=("p", pack, 1_000 * number))
        for number in range(1_000)
    ]
    with store.lease() as lease, store.writer(lease=lease) as writer:
        below = []
        for number in range(1_000):
            node = Node([files[0]._replace(digest=texts[1_000 + number]), *files[1:]])
            below.append(directory(b"%04d" % number, node.size, node.digest, writer.node(node)))
        tree = writer.finish(Node(below))
    assert tree.files == 1_000_000
    return tree.digest


def test_ten_files_more_in_a_million(world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 22: at most 10 data objects and 20 small ones are written, and no data is read; nor from a cold cache.

    Removing, moving and copying write no data object at all.
    """
    store = store_at("s3", tmp_path)
    base = million(store)
    for cold in (False, True):
        if cold:
            monkeypatch.setenv("RH_HOME", str(tmp_path / "cold"))
            store = store_at("s3", tmp_path)
        with observe.counting() as counts:
            edit = Edit(store, base)
            for number in range(10):
                edit.add(f"{100 * number:04}/new-{cold}.jpg", random.Random(f"{cold}{number}").randbytes(1_000))
            tree = edit.finish()
        assert tree.files == 1_000_010
        written = sum(n for (_, verb), n in counts.requests.items() if verb in ("write", "part", "copy"))
        assert written <= 5  # a pack, a pack of nodes, the marker, the lease; and the packs of nodes that the base has:
        assert sum(n for (_, verb), n in counts.requests.items() if verb in ("read", "head")) <= (16 if cold else 4)
        with observe.counting() as counts:
            edit = Edit(store, tree.digest)
            edit.remove("0001/")
            edit.remove("0002/000007.jpg")
            edit.move("0003/", f"moved-{cold}/here/")
            edit.copy_from(store, base, "0005/", f"again-{cold}/")
            after = edit.finish()
        assert after.files == 1_000_010 - 1_000 - 1 + 1_000
        assert sum(n for (_, verb), n in counts.requests.items() if verb in ("write", "part", "copy")) <= 3
        assert counts.sent["s3"] < 200_000


def test_what_cannot_be_is_refused_at_the_call(tmp_path: Path) -> None:
    """Typed errors, and the edit goes on as if the call had not been made."""
    store = store_at("memory", tmp_path)
    source = open_system(place("memory", tmp_path, "begin"))
    for key in ("a/b", "a/c/d", "e"):
        source.write(key, key.encode())
    base = commit_tree(source, store)
    edit = Edit(store, base.digest)
    escaping = ("", "/x", "../x", "x/../y", "x//y", "./x", "x\0")
    refused: list[tuple[type[RhError], Any]] = [
        (NameClashError, lambda: edit.add("a", b"1")),
        (NameClashError, lambda: edit.add("e/f", b"1")),
        (NameClashError, lambda: edit.add("e/f/g", b"1")),
        (NameClashError, lambda: edit.add("e/", b"")),
        (ExistsError, lambda: edit.add("e", b"1", update=False)),
        (ExistsError, lambda: edit.add("a/", b"")),
        (InvalidError, lambda: edit.add("x/", b"1")),
        (InvalidError, lambda: edit.add("x", io.StringIO("text"))),  # type: ignore[arg-type]
        (InvalidError, lambda: edit.add("x", 7)),  # type: ignore[arg-type]
        *((NameClashError, lambda path=path: edit.add(path, b"1")) for path in escaping),
        (NotFoundError, lambda: edit.remove("nothing")),
        (NotFoundError, lambda: edit.remove("nothing/")),
        (NotFoundError, lambda: edit.remove("e/")),
        (NotFoundError, lambda: edit.remove("a")),
        (NotFoundError, lambda: edit.move("nothing", "x")),
        (ExistsError, lambda: edit.move("e", "a/b")),
        (NameClashError, lambda: edit.move("e", "e/x")),
        (NameClashError, lambda: edit.move("e", "a")),
        (ExistsError, lambda: edit.move("a/c/", "a/")),
        (InvalidError, lambda: edit.move("a/", "a/c/x/")),
        (InvalidError, lambda: edit.move("e", "x/")),
        (NotFoundError, lambda: edit.copy_from(store, base.digest, "nothing/", "x/")),
        (NotFoundError, lambda: edit.copy_from(store, "sha256:" + "0" * 64, "")),
        (ExistsError, lambda: edit.copy_from(store, base.digest, "e", "a/b")),
        (NameClashError, lambda: edit.copy_from(store, base.digest, "a/", "e/")),
        (NotFoundError, lambda: edit.add("x", (source, source.head("gone")))),
        (NotFoundError, lambda: edit.add_reference(source.location / "gone", "x")),
        (NameClashError, lambda: edit.add_tree(source, "e")),
        (ExistsError, lambda: edit.add_tree(source, update=False)),
    ]  # fmt: skip
    for error, call in refused:
        with pytest.raises(error):
            call()
    assert edit.finish() == base
    with pytest.raises(InvalidError, match="finished"):
        edit.add("x", b"1")


def test_a_file_that_changes_after_it_was_added_is_a_conflict(tmp_path: Path) -> None:
    """Changed, or gone: nothing of the edit is to be seen."""
    (tmp_path / "file").write_bytes(b"1" * 100)
    source, store = open_system(locate(str(tmp_path))), store_at("memory", tmp_path)
    for change in (lambda: (tmp_path / "file").write_bytes(b"2" * 100), (tmp_path / "file").unlink):
        edit = Edit(store, None)
        edit.add("x", b"kept")
        edit.add("y", (source, source.head("file")))
        change()
        with pytest.raises(ConflictError):
            edit.finish()
        assert list(store.trees()) == []
    assert [entry.key for entry in store.system.list("leases/")] == []
    (tmp_path / "file").write_bytes(b"3")
    with store.lease() as lease:
        edit = Edit(store, None, lease=lease)
        edit.add("x", (source, source.head("file")))
        edit.add("y", b"kept")
        (tmp_path / "file").unlink()
        edit.remove("x")  # what is not put after all need not be there
        store.ref("series", edit.finish().digest)
        assert len(list(store.system.list("leases/"))) == 1


def test_references_stay_where_they_are(tmp_path: Path) -> None:
    """A file, and all that is in a directory: in the version, not in the store."""
    trees.make(tmp_path / "tree")
    here = locate(str(tmp_path / "tree"))
    store = store_at("memory", tmp_path)
    with observe.counting() as counts:
        edit = Edit(store, None)
        edit.add_reference(here / "photo.jpg", "one.jpg")
        edit.add_reference(here, "all")
        tree = edit.finish()
    assert counts.sent["memory"] < 5_000
    expected = {f"all/{key}": value for key, value in trees.read(tmp_path / "tree").items()}
    assert contents(store, tree) == expected | {"one.jpg": (trees.JPEG, False)}
    with pytest.raises(NotFoundError):
        Edit(store, None).add_reference(here / "nothing", "x")


def test_another_process_finishes_an_edit(tmp_path: Path, python: Any) -> None:
    """Changes are plain JSON; what they put is in the store, and held by a tree that can be given a reference."""
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "file \udcff").write_bytes(b"odd name")
    source, store = open_system(locate(str(tmp_path / "tree"))), store_at("file", tmp_path)
    base = commit_tree(source, store)
    edit = Edit(store, base.digest)
    edit.add("a/b", b"one")
    edit.add("large", io.BytesIO(bytes(9 << 20)))
    edit.add("file", (source, source.head("sub/file \udcff")))
    edit.add("empty/", b"")
    edit.move("sub/", "other/")
    edit.copy_from(store, base.digest, "sub/", "copy/")
    edit.remove("file")
    changes = json.dumps(edit.changes())
    assert edit.held is not None
    assert edit.held.files == 4
    expected = edit.finish()
    told = python(
        "import json, sys\n"
        "from rh.systems import locate, open_system\n"
        "from rh.versions.edit import Edit\n"
        "from rh.versions.store import Store\n"
        "store = Store(open_system(locate(sys.argv[1])))\n"
        "print(Edit.replay(store, sys.argv[2], json.loads(sys.argv[3])).finish().digest)",
        store.system.location.path, base.digest, changes,
    )  # fmt: skip
    assert told.strip() == expected.digest
    assert contents(store, expected)["copy/file \udcff"] == (b"odd name", False)
    for broken in ({}, {"do": "put", "path": "x"}, {"do": "put", **json.loads(changes)[1], "where": '["o", 1]'}):
        with pytest.raises(InvalidError, match="change"):
            Edit.replay(store, base.digest, [broken])


def test_what_an_edit_builds_on_may_not_be_swept_away_unnoticed(tmp_path: Path) -> None:
    """The base, a version that was copied from, and what another process put: each must be there in the end."""
    store = store_at("memory", tmp_path)
    tree, other = Edit(store, None), Edit(store, None)
    tree.add("a", b"1")
    other.add("d/b", b"2")
    base, more = tree.finish(), other.finish()
    put = Edit(store, None)
    put.add("c", b"3")
    changes = put.changes()
    put.close()
    assert put.held is not None
    for gone in (base, more, put.held):
        edit = Edit.replay(store, base.digest, changes)
        edit.copy_from(store, more.digest, "d/")
        with store.system.read(tree_key(gone.digest)) as body:
            marker = body.read()
        store.system.delete([tree_key(gone.digest)])
        with pytest.raises(ConflictError, match=gone.digest[:19]):
            edit.finish()
        store.system.write(tree_key(gone.digest), marker)
    source = open_system(locate(str(tmp_path)))
    store.system.delete([tree_key(base.digest)])
    assert commit_tree(source, store, base=base.digest).files == 0


def test_a_version_of_another_store(tmp_path: Path) -> None:
    """Its files come into this one; hidden names, links, empty directories and large files as well."""
    trees.make(tmp_path / "tree", large=True)
    (tmp_path / "tree" / "link").symlink_to("a.txt")
    other, store = store_at("file", tmp_path), store_at("memory", tmp_path)
    theirs = commit_tree(open_system(locate(str(tmp_path / "tree"))), other, extra={"a/.rh-table.json": b"{}"})
    edit = Edit(store, None)
    edit.copy_from(other, theirs.digest)
    edit.copy_from(other, theirs.digest)
    assert edit.finish().digest == theirs.digest
    edit = Edit(store, None)
    edit.copy_from(other, theirs.digest, "a/", "x/y/")
    edit.copy_from(other, theirs.digest, "photo.jpg", "p.jpg")
    found = edit.finish()
    assert contents(store, found)["p.jpg"] == (trees.JPEG, False)
    assert contents(store, found)["x/y/b"] == (b"and this after", True)


NAMES = st.sampled_from(["a", "b", "c", "a-", "a0", "\xe9", "\udcff"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
DATA = st.binary(max_size=3)
_numbers = itertools.count()


def directories(files: Iterable[str], empty: Iterable[str]) -> set[str]:
    """The directories of a tree, given its files and those directories that are empty."""
    paths = [*files, *(f"{one}/x" for one in empty)]
    return {path[:at] for path in paths for at in range(len(path)) if path[at] == "/"}


class Edits(RuleBasedStateMachine):
    """An edit beside a plain model of it: the tree has the digest of the directory that results."""

    @initialize()
    def begin(self) -> None:
        self.name = f"edits-{next(_numbers)}"
        self.store = Store(open_system(Location("memory", f"{self.name}/.rh-store")))
        self.files: dict[str, tuple[bytes, bool]] = {}
        self.folders: set[str] = set()
        self.base: str | None = None
        self.edit = Edit(self.store, None)

    def teardown(self) -> None:
        self.edit.close()
        memory.forget(self.name)
        memory.forget(f"{self.name}-live")

    def all_folders(self) -> set[str]:
        """Every directory: those that hold something, and empty ones."""
        return directories(self.files, self.folders)

    def clashes(self, path: str) -> bool:
        """Whether a file is above a path."""
        return any(path[:at] in self.files for at in range(len(path)) if path[at] == "/")

    def settle(self) -> None:
        """A directory that was empty is not any more, and so goes with what was in it."""
        holds = {path[:at] for path in [*self.files, *self.folders] for at in range(len(path)) if path[at] == "/"}
        self.folders -= holds

    @rule(path=PATHS, data=DATA, executable=st.booleans())
    def add(self, path: str, data: bytes, executable: bool) -> None:
        if self.clashes(path) or path in self.all_folders():
            with pytest.raises(NameClashError):
                self.edit.add(path, data, executable=executable)
            return
        self.edit.add(path, data, executable=executable)
        self.files[path] = data, executable
        self.settle()

    @rule(path=PATHS)
    def make(self, path: str) -> None:
        if self.clashes(path) or path in self.files or path in self.all_folders():
            with pytest.raises((NameClashError, ExistsError)):
                self.edit.add(f"{path}/", b"")
            return
        self.edit.add(f"{path}/", b"")
        self.folders.add(path)
        self.settle()

    @rule(path=PATHS)
    def remove(self, path: str) -> None:
        if path in self.files:
            self.edit.remove(path)
            del self.files[path]
        elif path in self.all_folders():
            self.edit.remove(f"{path}/")
            self.files = {key: value for key, value in self.files.items() if not key.startswith(f"{path}/")}
            self.folders = {one for one in self.folders if one != path and not one.startswith(f"{path}/")}
        else:
            with pytest.raises(NotFoundError):
                self.edit.remove(path)

    @rule(old=PATHS, new=PATHS)
    def move(self, old: str, new: str) -> None:
        folders = self.all_folders()
        end = "" if old in self.files else "/"
        known = old in self.files or old in folders
        taken = new in self.files or new in folders or self.clashes(new)
        if not known or taken or (end and new.startswith(f"{old}/")) or (not end and new.startswith(f"{old}/")):
            with pytest.raises((NotFoundError, ExistsError, NameClashError, InvalidError)):
                self.edit.move(old + end, new + end)
            return
        self.edit.move(old + end, new + end)

        def moved(path: str) -> str:
            return new + path[len(old) :] if path == old or path.startswith(f"{old}/") else path

        self.files = {moved(path): value for path, value in self.files.items()}
        self.folders = {moved(path) for path in self.folders}
        self.settle()

    @precondition(lambda self: self.base is not None)
    @rule(sub=PATHS, to=PATHS)
    def copy(self, sub: str, to: str) -> None:
        """A file or directory of the version before."""
        files, folders = self.before
        there = {
            path[:at]
            for path in [*files, *(f"{one}/x" for one in folders)]
            for at in range(len(path))
            if path[at] == "/"
        }
        end = "" if sub in files else "/"
        if sub not in files and sub not in there:
            with pytest.raises(NotFoundError):
                self.edit.copy_from(self.store, self.base, sub + end, to + end)
            return
        if to in self.files or to in self.all_folders() or self.clashes(to):
            return
        self.edit.copy_from(self.store, self.base, sub + end, to + end)
        self.files |= {to + key[len(sub) :]: value for key, value in files.items() if f"{key}/".startswith(f"{sub}/")}
        self.folders |= {to + one[len(sub) :] for one in folders if f"{one}/".startswith(f"{sub}/")}
        self.settle()

    @rule(again=st.booleans())
    def finish(self, again: bool) -> None:
        """What results is what a commit of it would be; the edit written down and made again is the same."""
        if again:
            self.edit = Edit.replay(self.store, self.base, json.loads(json.dumps(self.edit.changes())))
        tree = self.edit.finish()
        live = open_system(Location("memory", f"{self.name}-live/tree"))
        memory.forget(f"{self.name}-live")
        for key, (data, executable) in self.files.items():
            live.write(key, data, executable=executable)
        for folder in self.folders:
            live.write(f"{folder}/", b"")
        if self.files or self.folders:
            assert tree.digest == transfer.digest_tree(live.location)
            assert commit_tree(live, self.store).digest == tree.digest
        assert (tree.files, tree.size) == (len(self.files), sum(len(data) for data, _ in self.files.values()))
        self.base, self.before = tree.digest, (dict(self.files), set(self.folders))
        self.edit = Edit(self.store, tree.digest)

    @invariant()
    def nothing_is_seen_before(self) -> None:
        if self.base is None and not self.edit.held:
            assert all(tree == Node([]).digest for tree in self.store.trees())


TestEdits = Edits.TestCase
TestEdits.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
