"""Logs and replicas of registries on buckets that are damaged, lost or not there."""

import os
import shutil
import warnings
from pathlib import Path

import pytest

from rh import config, errors
from rh.registry import open_registry
from rh.registry.base import StaleWarning
from rh.registry.bucket import log_format
from rh.registry.bucket.log_format import Commit, Entry
from rh.testing.registry import finished, python
from rh.types import Match
from tests.registry.bucket.places import content, entries

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("warm", [True, False])
def test_a_damaged_entry_is_named(place, registry, another_home, warm):
    for n in range(3):
        registry.put("a", {"n": n})
    if not warm:
        another_home("bob")
    victim = entries(place)[2]
    data = bytearray(victim.read_bytes())
    data[-30] ^= 4
    victim.write_bytes(data)
    for call in (lambda: registry.get("a"), lambda: registry.put("a", {}), lambda: list(registry.list())):
        with pytest.raises(errors.IntegrityError) as caught:
            call()
        assert victim.name in caught.value.where
        assert caught.value.hint.startswith("put a copy of it back")
    assert len(entries(place)) == 3


def test_a_gap_is_named(place, registry, another_home):
    for n in range(4):
        registry.put("a", {"n": n})
    victim = entries(place)[1]
    victim.unlink()
    assert registry.get("a").document == {"n": 3}  # what was read stays read
    another_home("bob")
    with pytest.raises(errors.IntegrityError, match="lost an entry") as caught:
        open_registry(registry.url).get("a")
    assert victim.name in caught.value.where


def test_entries_that_do_not_follow_each_other_are_refused(place, registry, another_home):
    registry.put("a", {"n": 1})
    change = next(registry.changes())._replace(key="b", token="u")
    forged = Entry(2, "0" * 64, [Commit("u", "", [change])])
    (place / log_format.entry_key(2)).write_bytes(forged.encode())
    for _ in range(2):
        with pytest.raises(errors.IntegrityError, match="does not follow") as caught:
            registry.get("a")
        assert "rh registry export" in caught.value.hint
        another_home("bob") if config.home().name != "bob" else None


def test_a_log_that_was_cut_short_is_not_taken_for_true(place, registry):
    for n in range(3):
        registry.put("a", {"n": n})
    entries(place)[2].unlink()
    with pytest.raises(errors.IntegrityError, match="no longer has entry 3") as caught:
        registry.get("a")
    Path(caught.value.hint.rpartition("delete ")[2]).unlink()
    assert registry.get("a").document == {"n": 1}


def test_a_place_that_is_not_mounted_is_no_empty_registry(place, registry):
    registry.put("a", {"n": 1})
    place.rename(place.with_name("elsewhere"))
    with pytest.warns(StaleWarning, match="the registry that was here is gone"):
        assert registry.get("a").document == {"n": 1}
    with pytest.warns(StaleWarning):
        assert [record.key for record in registry.list()] == ["a"]
    for call in (lambda: registry.put("a", {}), lambda: registry.direct.get("a")):
        with pytest.raises(
            errors.UnavailableError, match="cannot be reached: the registry that was here is gone"
        ) as told:
            call()
        assert "mount it again" in told.value.hint
        assert "names in ~/" in told.value.hint
    assert not place.exists()
    place.with_name("elsewhere").rename(place)
    registry.put("b", {})  # whoever saves something finds out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.get("a").document == {"n": 1}


def test_another_registry_in_the_same_place_is_another_one(place, registry):
    registry.put("a", {"n": 1})
    shutil.rmtree(place)
    code = "import sys; from rh.registry import open_registry; open_registry(sys.argv[1]).put('b', {'n': 2})"
    before = os.environ["RH_HOME"]
    os.environ["RH_HOME"] = before + "-bob"
    try:
        finished(python(code, registry.url))
    finally:
        os.environ["RH_HOME"] = before
    assert [record.key for record in registry.list()] == ["b"]


def test_a_shared_directory_may_be_copied(place, registry):
    registry.put("a", {"n": 1})
    copy = place.with_name("copy")
    shutil.copytree(place, copy)
    shutil.rmtree(place)
    copy.rename(place)
    assert registry.get("a").document == {"n": 1}
    registry.put("a", {"n": 2}, when=Match("1"))


@pytest.mark.parametrize("damage", ["gone", "noise", "empty", "all gone", "pointer"])
def test_a_damaged_replica_is_made_anew(place, registry, damage):
    for n in range(3):
        registry.put("a", {"n": n})
    registry.put("big", {"x": "y" * 100_000})
    told = content(registry)
    folder = config.home() / "replicas"
    for path in folder.iterdir():
        if damage == "all gone" or (damage != "pointer" and path.name.endswith((".db", "-wal", "-shm"))):
            path.unlink()
        if damage in ("noise", "empty") and path.name.endswith(".db"):
            path.write_bytes(os.urandom(50_000) if damage == "noise" else b"")
        if damage == "pointer" and path.suffix == "":
            path.write_bytes(b"\xff\x00../../x")
    assert content(registry) == told
    registry.put("a", {"n": 9}, when=Match("3"))
    assert registry.get("a").revision == 4


def test_replicas_are_private(registry):
    registry.put("a", {"n": 1})
    assert (config.home() / "replicas").stat().st_mode & 0o077 == 0


def test_a_home_that_cannot_be_written_is_told(place, registry, tmp_path, monkeypatch):
    registry.put("a", {"n": 1})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RH_HOME", str(tmp_path / "file"))
    with pytest.raises(errors.AccessError, match="Not a directory") as caught:
        registry.get("a")
    assert "RH_HOME" in caught.value.hint
