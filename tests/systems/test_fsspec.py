"""File systems of fsspec: memory, disk, a directory view, and a zip archive, each the real one."""

from __future__ import annotations

import io
import os
import secrets
import tarfile
import zipfile

import pytest

from rh import config
from rh.errors import (
    ConflictError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    UnsupportedError,
)
from rh.systems.fsspec import FsspecSystem
from rh.testing.systems import SystemSuite
from rh.types import ABSENT, Location, Match


def opened(path: str, **settings: object) -> FsspecSystem:
    return FsspecSystem.open(
        Location("my_fs", path), {"kind": "fsspec", "name": "my_fs", "timeout_s": 10.0, **settings}
    )


class Disklike(SystemSuite):
    keeps = frozenset({"directories"})
    conditions = frozenset()
    flat = False


class TestMemory(Disklike):
    @pytest.fixture
    def system(self):
        root = f"/t{secrets.token_hex(6)}"
        with opened(root, protocol="memory") as system:
            system._driver.fs().makedirs(root)
            yield system
            system._driver.fs().rm(root, recursive=True)


class TestLocalFile(Disklike):
    @pytest.fixture
    def system(self, tmp_path):
        (tmp_path / "root").mkdir()
        with opened(str(tmp_path / "root"), protocol="file") as system:
            yield system


class TestDirectoryView(SystemSuite):
    """`dir` wraps another file system; its root marker is a store's, and it keeps no empty directory."""

    keeps = frozenset()
    conditions = frozenset()
    flat = False

    @pytest.fixture
    def system(self, tmp_path):
        (tmp_path / "base" / "root").mkdir(parents=True)
        options = {"path": str(tmp_path / "base"), "target_protocol": "file"}
        with opened("root", protocol="dir", options=options) as system:
            yield system


class TestZip(SystemSuite):
    """An archive, read only."""

    keeps = frozenset({"directories"})
    flat = False
    writable = False

    @pytest.fixture
    def system(self, tmp_path):
        self.archive = tmp_path / "a.zip"
        with zipfile.ZipFile(self.archive, "w") as archive:
            archive.mkdir("root")
        with opened("root", protocol="zip", options={"fo": str(self.archive)}) as system:
            yield system

    def put(self, system, tree):
        with zipfile.ZipFile(self.archive) as archive:
            held = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
        held |= {f"root/{key}": data for key, data in tree.items()}
        with zipfile.ZipFile(self.archive, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in held.items():
                archive.writestr(name, data)
        system.close()


class TestTar(TestZip):
    """An archive whose files are all read from one file object, with one position."""

    @pytest.fixture
    def system(self, tmp_path):
        self.archive = tmp_path / "a.tar"
        with tarfile.open(self.archive, "w") as archive:
            archive.addfile(directory("root"))
        with opened("root", protocol="tar", options={"fo": str(self.archive)}) as system:
            yield system

    def put(self, system, tree):
        with tarfile.open(self.archive, "a") as archive:
            for key, data in tree.items():
                member = tarfile.TarInfo(f"root/{key}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        system.close()


def test_names_in_an_archive_that_no_key_can_say_are_refused(tmp_path):
    """fsspec shows absolute ones (`tar -P`) as empty directories; those of `tar -C directory .` have a way in."""
    for name in ("/abs/f", "../f", "./f"):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            archive.addfile(tarfile.TarInfo("plain"))
            archive.addfile(tarfile.TarInfo(name))
        with opened("", protocol="tar", options={"fo": str(tmp_path / "a.tar")}) as system:
            with pytest.raises(NameClashError, match="no key can say") as refused:
                list(system.list())
            if name == "/abs/f":
                with pytest.raises(NameClashError, match="absolute"):
                    list(system.at("abs").list())
            assert ('path="my_fs://."' in str(refused.value)) == (name == "./f")
    with opened(".", protocol="tar", options={"fo": str(tmp_path / "a.tar")}) as system:
        assert [entry.key for entry in system.list()] == ["f"]


@pytest.mark.parametrize("protocol", ["zip", "tar"])
def test_a_damaged_archive_is_an_integrity_error(tmp_path, protocol):
    (tmp_path / "a").write_bytes(b"neither one nor the other" * 1000)
    with opened("", protocol=protocol, options={"fo": str(tmp_path / "a")}) as system:
        with pytest.raises(IntegrityError, match="damaged, or not of this format"):
            list(system.list())


def directory(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member


def test_it_is_registered_by_name(tmp_path):
    """The options of a configured system are a table; nested ones too."""
    config.register(
        "my_fs", {"kind": "fsspec", "protocol": "dir", "options": {"path": str(tmp_path), "target_protocol": "file"}}
    )
    system = FsspecSystem.open(Location("my_fs", "x"), config.system("my_fs"))
    system.write("a/b", b"1")
    assert (tmp_path / "x" / "a" / "b").read_bytes() == b"1"
    config.register("odd", {"kind": "fsspec", "protocol": "memory", "options": {"a": {"b": {"c": 1}}}})
    assert FsspecSystem.open(Location("odd", "x"), config.system("odd"))._driver._options == {"a": {"b": {"c": 1}}}


def test_bad_configurations_say_what_to_do():
    with pytest.raises(InvalidError, match="protocol"):
        opened("/x")
    with pytest.raises(InvalidError, match="no protocol 'nonsense'"):
        opened("/x", protocol="nonsense")
    with pytest.raises(UnsupportedError, match="another package"):
        opened("/x", protocol="oci")


def test_a_missing_root_is_not_found(tmp_path):
    with pytest.raises(NotFoundError):
        list(opened(str(tmp_path / "none"), protocol="file").list())
    with pytest.raises(NotFoundError):
        list(opened("/none-such", protocol="memory").list())


def test_links_of_the_disk_do_not_lead_out(tmp_path):
    (tmp_path / "secret").write_bytes(b"s")
    root = tmp_path / "root"
    root.mkdir()
    (root / "f").write_bytes(b"inside")
    (root / "in").symlink_to("f")
    with opened(str(root), protocol="file") as system:
        assert {e.key: e.size for e in system.list()} == {"f": 6, "in": 6}
        assert system.read("in").read() == b"inside"
        (root / "out").symlink_to("../secret")
        (root / "up").symlink_to("..")
        for key in ("out", "up/secret"):
            with pytest.raises(NameClashError, match="out of the root"):
                system.read(key)
            with pytest.raises(NameClashError, match="out of the root"):
                system.write(key, b"evil")
        with pytest.raises((NameClashError, UnsupportedError)):
            list(system.list())
    assert (tmp_path / "secret").read_bytes() == b"s"


def test_a_change_while_reading_is_a_conflict(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 3_000_000)
    with opened(str(tmp_path), protocol="file") as system:
        pieces = iter(system.read("f"))
        next(pieces)
        (tmp_path / "new").write_bytes(b"y" * 3_000_000)
        os.replace(tmp_path / "new", tmp_path / "f")
        with pytest.raises(ConflictError, match="while it was read"):
            list(pieces)


def test_a_write_is_published_by_rename(tmp_path):
    with opened(str(tmp_path), protocol="file") as system:

        def stream():
            yield b"1" * 100_000
            assert [e.key for e in system.list()] == []
            assert [name[:4] for name in os.listdir(tmp_path)] == [".rh-"]
            yield b"2"

        system.write("f", stream())
        assert os.listdir(tmp_path) == ["f"]


def test_preconditions_are_refused_not_pretended(tmp_path):
    with opened(str(tmp_path), protocol="file") as system:
        for when in (ABSENT, Match("x")):
            with pytest.raises(UnsupportedError, match="preconditions"):
                system.write("f", b"", when=when)


def test_names_the_file_system_would_rewrite_are_refused():
    with opened("/here", protocol="memory") as system:
        for key in ("a//b", "/a", "../a", "a/./b"):
            with pytest.raises(NameClashError):
                system.write(key, b"")
