"""Manifests at a real store: damaged on their way, and brought up to date."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

import rh
from rh import config, observe, transfer
from rh.content import manifest
from rh.content.rows import paged
from rh.content.tree import Row
from rh.digest import of_bytes
from rh.errors import NotFoundError
from rh.systems import locate, open_system
from rh.systems.base import Body
from rh.testing.faults import FaultProxy, Truncate
from rh.transfer import Options
from rh.types import Location


def _cut(size: int, lost: int = 9) -> Truncate:
    """The manifest ends early, once, and looks whole."""
    return Truncate(
        direction="down",
        at=size - lost,
        times=1,
        match=lambda request: request.method == "GET" and request.path.endswith(manifest.NAME),
    )


@pytest.mark.parametrize("lost", [1, 8, 9, 50])
def test_a_manifest_that_is_damaged_on_its_way_is_read_again(lost: int, s3_server, tmp_path: Path) -> None:
    """What is stored is whole, so the copy goes on as if nothing had been; also where every row came before the end."""
    (tmp_path / "a").mkdir()
    for n in range(20):
        (tmp_path / "a" / f"f{n}").write_text(str(n))
    config.register("clean", s3_server.settings())
    place = locate("manifest-on-its-way", "clean")
    transfer.copy_tree(locate(str(tmp_path / "a")), place)
    size = open_system(place).head(manifest.NAME).size
    with FaultProxy(s3_server.port, [_cut(size, lost)], http=True) as proxy:
        config.register("bad", s3_server.settings(via=proxy.port))
        receipt = transfer.copy_tree(locate("manifest-on-its-way", "bad"), locate(str(tmp_path / "b")))
        assert proxy.counts.faults["Truncate"] == 1
    assert receipt.done == 20
    assert transfer.verify_tree(locate(str(tmp_path / "b"))).ok


def test_rows_that_arrive_a_few_bytes_at_a_time_are_used_when_all_are_there(s3_server) -> None:
    """However the wire splits a small manifest, what is damaged is read again before any row of it is used."""
    config.register("clean", s3_server.settings())
    system = open_system(locate("manifest-split", "clean"))
    manifest.write(system, paged(Row(f"{n:02}", n, "file", of_bytes(b"").text, "e") for n in range(50)))
    whole = system.read(manifest.NAME)

    class Split(Body):
        def __init__(self, data: bytes) -> None:
            self.entry, self._data = whole.entry, data

        def __iter__(self) -> Iterator[bytes]:
            return (self._data[at : at + 10] for at in range(0, len(self._data), 10))

    data = whole.read()
    for lost in (1, 8, 9, 100, len(data) // 2):
        reader = manifest.Reader(Split(data[:-lost]), "here", lambda: manifest.Reader(Split(data), "here"))
        assert [row.size for row in reader.each()] == list(range(50)), lost


def test_a_large_manifest_says_whether_it_is_stored_damaged(s3_server) -> None:
    """Of a large one rows are in use before its end is seen: the error says what is stored, and what to do."""
    config.register("clean", s3_server.settings())
    place = locate("manifest-large", "clean")
    clean = open_system(place)
    digest = of_bytes(b"").text
    manifest.write(clean, paged(Row(f"{n:06}", 0, "file", digest, "e") for n in range(9_000)))
    size = clean.head(manifest.NAME).size
    with FaultProxy(s3_server.port, [_cut(size)], http=True) as proxy:
        config.register("bad", s3_server.settings(via=proxy.port))
        with pytest.raises(manifest.DamagedManifestError, match="stored is whole") as caught:
            list(manifest.read(open_system(locate("manifest-large", "bad"))) or ())
        assert proxy.counts.faults["Truncate"] == 1
    assert caught.value.hint == "try again"
    with clean.read(manifest.NAME) as body:
        whole = body.read()
    clean.write(manifest.NAME, whole[:-9])
    with pytest.raises(manifest.DamagedManifestError, match="ends early") as caught:
        list(manifest.read(clean) or ())
    assert "try again; if it stays damaged, remove it" in str(caught.value)


@pytest.mark.parametrize("store", ["s3_server", "gcs_server", "azure_server"])
def test_another_executable_bit_is_known_after_one_copy(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Only the manifest keeps it, and the file has to be read to see that its bytes are the same."""
    config.register("there", request.getfixturevalue(store).settings())
    source, target, path = locate(str(tmp_path / "a")), locate(f"data/{uuid4().hex}", "there"), tmp_path / "a" / "f"
    path.parent.mkdir()
    path.write_text("1")
    (tmp_path / "a" / "g").write_text("2")
    transfer.copy_tree(source, target)
    for mode in (0o755, 0o644):
        path.chmod(mode)
        receipt = transfer.copy_tree(source, target)
        assert (receipt.done, receipt.digest) == (0, transfer.digest_tree(source))
        assert transfer.digest_tree(target) == receipt.digest
        transfer.copy_tree(target, locate(str(tmp_path / oct(mode))))
        assert bool((tmp_path / oct(mode) / "f").stat().st_mode & 0o100) == (mode == 0o755)


def _tree(root: Path) -> Path:
    for key in ("sub/run", "sub/deep/er/run", "sub/text", "sub.txt", "sub0/x", "a"):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_text(key)
        if key.endswith("run"):
            (root / key).chmod(0o755)
    (root / "sub/deep/nothing").mkdir()
    return root


@pytest.mark.parametrize("store", ["s3_server", "gcs_server", "azure_server"])
def test_a_part_of_a_tree_is_known_by_the_manifest_above(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Its digests, executable bits and empty directories, however far up the tree begins; of a single file, too."""
    config.register("there", request.getfixturevalue(store).settings())
    source, target = locate(str(_tree(tmp_path / "a"))), locate(f"data/{uuid4().hex}", "there")
    transfer.copy_tree(source, target)
    for key in ("sub", "sub/deep", "sub/deep/nothing", "sub/deep/er", "sub0"):
        with observe.counting() as counts:
            digest = transfer.digest_tree(target / key)
        assert digest == transfer.digest_tree(source / key)
        assert counts.requests["there", "read"] == 2  # the manifest that is not there, and the one above
        receipt = transfer.copy_tree(target / key, locate(str(tmp_path / "part" / key)))
        assert receipt.digest == digest == transfer.digest_tree(receipt.target)
        assert transfer.verify_tree(target / key)
    for key, executable in (("sub/run", True), ("sub/text", False), ("sub/deep/er/run", True), ("a", False)):
        receipt = transfer.copy_file(target / key, locate(str(tmp_path / "file" / key)))
        assert bool((tmp_path / "file" / key).stat().st_mode & 0o100) == executable


def test_what_a_manifest_above_says_holds_for_the_very_bytes(s3_server, tmp_path: Path) -> None:
    """Other tools may have written since; and the nearest manifest is the one to go by."""
    config.register("s3", s3_server.settings())
    source, target = locate(str(_tree(tmp_path / "a"))), locate(f"data/{uuid4().hex}", "s3")
    transfer.copy_tree(source, target)
    open_system(target).write("sub/run", b"another")
    open_system(target).write("sub/new", b"new")
    receipt = transfer.copy_tree(target / "sub", locate(str(tmp_path / "b")))
    assert (tmp_path / "b" / "run").read_bytes() == b"another"
    assert not (tmp_path / "b" / "run").stat().st_mode & 0o100
    assert receipt.digest == transfer.digest_tree(target / "sub")
    (tmp_path / "a" / "sub" / "text").chmod(0o755)
    transfer.copy_tree(source / "sub", target / "sub")
    transfer.copy_tree(target / "sub", locate(str(tmp_path / "c")))
    assert (tmp_path / "c" / "text").stat().st_mode & 0o100
    transfer.copy_file(target / "sub" / "deep" / "er" / "run", locate(str(tmp_path / "run")))
    assert (tmp_path / "run").stat().st_mode & 0o100


def test_the_executable_bit_of_a_file_is_that_of_the_manifest_there_now(s3_server, tmp_path: Path) -> None:
    """Whatever this process knew of the same bytes a moment ago, or did not know."""
    config.register("s3", s3_server.settings())
    source, target = locate(str(_tree(tmp_path / "a"))), locate(f"data/{uuid4().hex}", "s3")
    bits = []
    transfer.copy_tree(source, target, Options(manifest=False))
    for number, mode in enumerate((None, 0o755, 0o644, 0o755)):
        if mode is not None:
            (tmp_path / "a" / "sub" / "run").chmod(mode)
            transfer.copy_tree(source, target)
        copy = tmp_path / f"copy{number}"
        transfer.copy_file(target / "sub" / "run", locate(str(copy)))
        bits.append(bool(copy.stat().st_mode & 0o100))
    assert bits == [False, True, False, True]


def test_what_is_gone_is_not_there_whatever_a_manifest_above_says(s3_server, tmp_path: Path) -> None:
    """Empty directories are, which nothing else tells of."""
    config.register("s3", s3_server.settings())
    source, target = locate(str(_tree(tmp_path / "a"))), locate(f"data/{uuid4().hex}", "s3")
    transfer.copy_tree(source, target)
    open_system(target).delete(["sub0/x"])
    with pytest.raises(NotFoundError, match="nothing under this prefix"):
        transfer.copy_tree(target / "sub0", locate(str(tmp_path / "b")))
    open_system(target).delete(["sub/deep/er/run"])
    with pytest.raises(NotFoundError, match="nothing under this prefix"):
        transfer.copy_tree(target / "sub/deep", locate(str(tmp_path / "b")), Options(delete=True))
    tree = rh.folder(path=open_system(target).url())
    there = {key: (tree / key).exists_in_system() for key in ("sub", "sub/deep", "sub/deep/nothing", "sub0")}
    assert there == {"sub": True, "sub/deep": False, "sub/deep/nothing": True, "sub0": False}
    assert (tree / "sub/deep/nothing").to(path=tmp_path / "c").ls() == []


def test_a_tree_whose_files_are_all_gone_is_no_empty_tree(s3_server, tmp_path: Path) -> None:
    """To mirror it would delete all there is. To verify it tells what is missing."""
    config.register("s3", s3_server.settings())
    source, target = locate(str(_tree(tmp_path / "a"))), locate(f"data/{uuid4().hex}", "s3")
    transfer.copy_tree(source, target)
    system = open_system(target)
    system.delete([entry.key for entry in system.list() if entry.kind == "file"])
    with pytest.raises(NotFoundError, match="none of the 6 files that the manifest lists is there"):
        transfer.copy_tree(target, source, Options(delete=True))
    assert len(transfer.verify_tree(target).missing) == 6
    (tmp_path / "none" / "void").mkdir(parents=True)
    transfer.copy_tree(locate(str(tmp_path / "none")), target, Options(delete=True))
    transfer.copy_tree(target, locate(str(tmp_path / "b")))
    assert [path.name for path in (tmp_path / "b").iterdir() if path.is_dir()] == ["void"]


def test_directories_that_are_removed_are_in_no_manifest_above(s3_server, tmp_path: Path) -> None:
    """So that a copy of the tree does not make them again; what files were there is still known."""
    config.register("s3", s3_server.settings())
    source, target = locate(str(_tree(tmp_path / "a"))), locate(f"data/{uuid4().hex}", "s3")
    (tmp_path / "a" / "void").mkdir()
    transfer.copy_tree(source, target)
    tree = rh.folder(path=open_system(target).url())
    assert tree.digest() == transfer.digest_tree(source)
    (tree / "void").rm(recursive=True)
    assert not (tree / "void").exists_in_system()
    (tmp_path / "a" / "void").rmdir()
    assert tree.digest() == transfer.digest_tree(source)
    assert tree.verify().ok
    tree.rm("sub/")
    receipt = transfer.copy_tree(target, locate(str(tmp_path / "b")))
    assert (receipt.files, receipt.directories_made) == (3, 0)
    assert tree.verify().missing == ("sub/deep/er/run", "sub/run", "sub/text")


@pytest.mark.parametrize("store", ["disk", "s3_server"])
def test_without_a_manifest_the_digest_is_that_of_what_came(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Not what an older manifest at the target says."""
    target = locate(str(tmp_path / "b"))
    if store != "disk":
        config.register("s3", request.getfixturevalue(store).settings())
        target = locate(f"data/{uuid4().hex}", "s3")
    source = locate(str(_tree(tmp_path / "a")))
    transfer.copy_tree(source, target)
    (tmp_path / "a" / "sub" / "text").write_text("other")
    for _ in range(2):
        assert transfer.copy_tree(source, target, Options(manifest=False)).digest == transfer.digest_tree(source)


def test_a_damaged_manifest_above_is_in_nobodys_way(
    s3_server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a site answers its own page for whatever it has not."""
    config.register("s3", s3_server.settings())
    source, target = locate(str(_tree(tmp_path / "a"))), locate(f"data/{uuid4().hex}", "s3")
    transfer.copy_tree(source, target)
    open_system(target).write(manifest.NAME, b"<html>")
    assert transfer.copy_tree(target / "sub", locate(str(tmp_path / "b"))).done == 3
    assert "the manifest is damaged" in caplog.text
    assert transfer.copy_file(target / "a", locate(str(tmp_path / "c"))).done == 1


def test_manifests_above_are_asked_for_only_where_they_may_tell_something(s3_server, tmp_path: Path) -> None:
    """Not for what has one of its own, not for a new place, and not on disks, which keep all there is."""
    config.register("s3", s3_server.settings())
    source, target = locate(str(_tree(tmp_path / "a"))), locate(f"data/one/two/{uuid4().hex}", "s3")

    def asked(start: Location, end: Location) -> int:
        with observe.counting() as counts:
            transfer.plan_tree(start, end)
        return counts.requests["s3", "head"]

    assert asked(source, target) == 1  # whether a file is in the way
    transfer.copy_tree(source, target, Options(manifest=False))
    assert asked(target, locate(str(tmp_path / "b"))) == target.path.count("/")
    transfer.copy_tree(source, target)
    assert asked(target, locate(str(tmp_path / "b"))) == 1  # whether the manifest is the one that is known here


def test_a_large_manifest_is_not_read_for_one_small_file(
    s3_server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.register("s3", s3_server.settings())
    source, target = locate(str(_tree(tmp_path / "a"))), locate(f"data/{uuid4().hex}", "s3")
    transfer.copy_tree(source, target)
    monkeypatch.setattr("rh.transfer.plan._SMALL_MANIFEST", 100)
    for key, known in (("sub/run", False), ("sub/run", True)):
        with observe.counting() as counts:
            transfer.copy_file(target / key, locate(str(tmp_path / "run")), Options(on_existing="replace"))
        assert (counts.requests["s3", "read"] == 2) == known
        assert bool((tmp_path / "run").stat().st_mode & 0o100) == known
        monkeypatch.undo()
