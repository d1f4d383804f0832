"""A version as a system: the contract, whatever can be asked of a place that is only read."""

from __future__ import annotations

import secrets

import pytest

import rh
from rh.errors import ImmutableVersionError, NameClashError, NotFoundError
from rh.systems import locate
from rh.systems.abilities import Bulk, Composed, Digesting, Following, Held, Item, Paging
from rh.testing.systems import SystemSuite
from rh.versions.store import Store
from rh.versions.system import TreeSystem, location_of
from tests.versions.made import commit


class TestTree(SystemSuite):
    """The promises of the contract, as far as something that never changes keeps them."""

    keeps = frozenset({"links", "executable", "directories"})
    abilities = frozenset({Bulk, Composed, Digesting, Following, Held, Paging})
    flat = False
    writable = False

    @pytest.fixture(params=["memory", "file"])
    def system(self, request, tmp_path):
        place = f"memory://{secrets.token_hex(6)}/.rh-store" if request.param == "memory" else tmp_path / "store"
        self.files, self.links = {}, {}
        store = Store.at(locate(place))
        with TreeSystem.open(location_of(store.system.location, commit(store, {}).digest), {"kind": "tree"}) as system:
            yield system

    def put(self, system, tree):
        """The handle is put on another version: that of what is there, with more."""
        self.files |= tree
        made = commit(system.store, self.files, links=self.links)
        system.__init__(location_of(system.store.system.location, made.digest), system.settings, system.store)
        system.__dict__.pop("tree", None)

    def link(self, system, links):
        self.links |= links
        self.put(system, {})

    def refuses_to_write(self, system):
        with pytest.raises(ImmutableVersionError):
            system.write("x", b"1")
        with pytest.raises(ImmutableVersionError):
            system.delete(["x"])

    def test_bulk_write(self, system):
        """Nothing is written in bulk either."""
        assert isinstance(next(system.write_many([Item("x", b"1")])).error, ImmutableVersionError)

    def test_a_directory_is_there_also_if_it_is_empty(self, system, tmp_path):
        """By its key with a slash, as on disks; a file is not there so."""
        (tmp_path / "tree" / "sub" / "empty").mkdir(parents=True)
        (tmp_path / "tree" / "file").write_bytes(b"1")
        saved = rh.folder(name="with-empty", path=tmp_path / "tree").save()
        saved.commit()
        version = rh.folder("with-empty:v1").handle()
        assert [version.head(key).kind for key in ("sub/", "sub/empty/", "file")] == ["dir", "dir", "file"]
        for key in ("file/", "none/", "sub//", "sub/../sub/"):
            with pytest.raises((NotFoundError, NameClashError)):
                version.head(key)
        assert rh.folder(path="rh://with-empty:v1/sub/empty").ls() == []
        assert rh.folder(path="rh://with-empty:v1/sub/empty").to(path=tmp_path / "copy").ls() == []
