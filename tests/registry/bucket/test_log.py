"""The log of a registry on a bucket prefix: whose URLs, what is written, segments, formats."""

import gzip
import json
import os
import pickle
import shutil

import pytest

from rh import config, errors, observe
from rh.registry import open_registry
from rh.registry.base import Put
from rh.registry.bucket import BucketRegistry, log_format
from rh.registry.bucket.log_format import SEGMENT, Entry
from rh.testing.registry import CANARY
from rh.types import ABSENT, Match
from tests.registry.bucket.places import content, entries

pytestmark = pytest.mark.servers


# Whose URLs.


@pytest.mark.parametrize("url", ["s3://b/registry", "gs://b/r", "az://c/r", "file:///mnt/team", "ssh://host/srv/r"])
def test_urls_of_systems_are_registries(url):
    registry = open_registry(url)
    assert isinstance(registry, BucketRegistry)
    assert open_registry(registry.url).url == registry.url
    assert pickle.loads(pickle.dumps(registry)).url == registry.url


def test_named_systems_hold_registries(place):
    config.register("minio", {"kind": "s3", "endpoint_url": "http://127.0.0.1:9"})
    assert open_registry("minio://bucket/team").url == "minio://bucket/team"
    config.register("box", {"kind": "ssh", "host": "127.0.0.1"})
    assert open_registry("box:/srv/team").url == "box:/srv/team"
    with pytest.raises(errors.UnsupportedError):
        open_registry("memory://x/y")
    with pytest.raises(errors.InvalidError):
        open_registry("s3://")


def test_a_handle_does_nothing_by_itself(place, registry):
    assert "shared" in repr(registry)
    assert not place.exists()
    assert not (config.home() / "replicas").exists()


def test_reading_creates_nothing_and_the_first_change_says_that_it_does(place, registry, caplog):
    assert list(registry.list()) == list(registry.changes()) == list(registry.history("a")) == []
    assert registry.find("a") is None
    with pytest.raises(errors.NotFoundError):
        registry.delete("a")
    assert not place.exists()
    assert not caplog.messages
    registry.put("a", {})
    registry.put("b", {})
    assert caplog.messages == [f"a new registry was begun at {registry.url}"]


# What is written.


def test_the_log_is_as_documented(place, registry):
    registry.put("a", {"n": 1}, by="ada", token="t1")
    registry.commit([Put("b", {"n": 2}), Put("c", {"é": None})], token="t2")
    header = json.loads((place / "registry.json").read_bytes())
    assert header["format"] == 1
    assert [path.relative_to(place).as_posix() for path in entries(place)] == [
        "log/00000000000000/0000000000000001.json",
        "log/00000000000000/0000000000000002.json",
    ]
    first, second = (json.loads(path.read_bytes())["entry"] for path in entries(place))
    assert first["commits"][0]["changes"][0]["document"] == {"n": 1}
    assert [commit["token"] for commit in second["commits"]] == ["t2"]
    assert second["previous"] == Entry.digest(entries(place)[0].read_bytes())
    assert first["previous"] == Entry.digest((place / "registry.json").read_bytes())


def test_a_commit_that_fails_writes_nothing(place, registry):
    registry.put("a", {"n": 1})
    for call in (
        lambda: registry.put("a", {}, when=ABSENT),
        lambda: registry.put("a", {}, when=Match("7")),
        lambda: registry.put("b", {"password": CANARY}),
        lambda: registry.delete("b"),
    ):
        with pytest.raises(errors.RhError):
            call()
    assert len(entries(place)) == 1


def test_nothing_secret_is_kept_anywhere(place, registry, capfd):
    registry.put("a", {"n": 1})
    with pytest.raises(errors.InvalidError):
        registry.put("a", {"options": {"token": CANARY}})
    for folder in (place, config.home()):
        for path in folder.rglob("*"):
            assert path.is_dir() or CANARY.encode() not in path.read_bytes()


# Segments.


def test_segments_spare_new_readers_requests(on_s3, another_home):
    for n in range(SEGMENT + 10):
        on_s3.put(f"k{n % 7}", {"n": n}, token=f"t{n}")
    told = content(on_s3)
    another_home("bob")
    fresh = open_registry(on_s3.url)
    with observe.counting() as counts:
        assert content(fresh) == told
    assert counts.total("s3") < 25, counts.requests
    assert fresh.put("k0", {"n": 0}, token="t0").revision == 1
    with pytest.raises(errors.InvalidError, match="token"):
        fresh.put("k0", {"n": 9}, token="t0")


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_segment_is_made_up_for_by_the_log(place, registry, another_home, damage):
    for n in range(SEGMENT + 1):
        registry.put("a", {"n": n})
    told = content(registry)
    (segment,) = place.glob("segments/*")
    data = bytearray(segment.read_bytes())
    assert len(gzip.decompress(data).splitlines()) == SEGMENT - 1
    segment.unlink()
    if damage != "gone":
        data[len(data) // 2] ^= 1
        segment.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    another_home("bob")
    assert content(open_registry(registry.url)) == told


def test_who_is_far_behind_uses_segments(place, registry, another_home):
    registry.put("a", {"n": 0})
    mine = config.home()
    another_home("bob")
    other = open_registry(registry.url)
    for n in range(3 * SEGMENT):
        other.put("a", {"n": n})
    told = content(other)
    os.environ["RH_HOME"] = str(mine)  # put back by the fixture
    assert content(registry) == told


# Formats.


def test_a_newer_format_is_refused_and_left_alone(place, registry, another_home):
    registry.put("a", {"n": 1})
    header = place / "registry.json"
    header.write_text(json.dumps({**json.loads(header.read_text()), "format": 2}))
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    another_home("bob")
    other = open_registry(registry.url)
    for call in (lambda: other.get("a"), lambda: other.put("a", {}), lambda: list(other.changes())):
        with pytest.raises(errors.UnsupportedError, match=r"format 2; .*up to 1") as caught:
            call()
        assert caught.value.hint == "upgrade rh-data"
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_newer_entry_stops_who_knows_the_older_ones(place, registry, monkeypatch):
    registry.put("a", {"n": 1})
    monkeypatch.setattr(log_format, "FORMAT", 2)
    registry.put("a", {"n": 2})
    shutil.rmtree(config.home() / "replicas")
    monkeypatch.undo()
    for call in (lambda: registry.get("a"), lambda: registry.put("a", {})):
        with pytest.raises(errors.UnsupportedError, match="format 2"):
            call()
    assert len(entries(place)) == 2


@pytest.mark.parametrize("header", [b"", b"[]", b'{"id": "x"}', b'{"format": "one", "id": "x"}', b'{"format": 1}'])
def test_a_header_that_is_none_is_an_integrity_error(place, registry, header):
    place.mkdir()
    (place / "registry.json").write_bytes(header)
    for call in (lambda: registry.get("a"), lambda: registry.put("a", {})):
        with pytest.raises(errors.IntegrityError, match=r"registry\.json") as caught:
            call()
        assert caught.value.hint.startswith("put a copy of it back")
    assert [path.name for path in place.rglob("*")] == ["registry.json"]


# Taking over.


def test_what_is_taken_over_is_written_together(place, registry, tmp_path):
    source = open_registry(f"sqlite://{tmp_path}/source.db")
    for n in range(50):
        source.put(f"k{n % 5}", {"n": n}, token=f"t{n}")
    source.delete("k0")
    assert registry.replay(source.changes()) == 51
    assert len(entries(place)) == 1
    assert content(registry) == content(source)
    assert registry.replay(source.changes()) == 0
    assert len(entries(place)) == 1
    assert registry.put("k1", {"n": 1}, token="t1").revision == 1  # the token was used
    source.put("k1", {"n": 100})
    registry.put("k1", {"n": 101})
    with pytest.raises(errors.ConflictError, match="another change"):
        registry.replay(source.changes())
    with pytest.raises(errors.ConflictError, match="no revision"):
        registry.replay([next(source.changes())._replace(key="k9", revision=2, token="x")])


def test_a_local_read_finds_its_entry_among_many(place, registry):
    """No listing of everything: the directory of the last entries only."""
    for n in range(SEGMENT + 5):
        registry.put("a", {"n": n})
    assert {path.parent.name for path in entries(place)} == {"00000000000000", "00000000000001"}
    shutil.rmtree(place / "log" / "00000000000000")
    assert registry.get("a").document == {"n": SEGMENT + 4}
