"""Registries on bucket prefixes and in shared directories: the shipped suite, and what is their own."""

import gzip
import json
import os
import pickle
import random
import shutil
import time
import warnings
from pathlib import Path
from uuid import uuid4

import pytest

import rh
from rh import config, errors, observe
from rh.registry import bucket as module
from rh.registry import open_registry
from rh.registry.base import Put, StaleWarning
from rh.registry.bucket import BucketRegistry, log_format
from rh.registry.bucket.log_format import SEGMENT, Commit, Entry
from rh.registry.filters import F
from rh.systems import locate, open_system
from rh.testing.faults import DropAnswer, FaultProxy, Status
from rh.testing.registry import _ADD, CANARY, RegistrySuite, finished, python
from rh.types import ABSENT, Match

pytestmark = pytest.mark.servers


def configure(name, settings):
    """Settings of a system that other processes see as well."""
    lines = [f"[systems.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    config.home().mkdir(parents=True, exist_ok=True)
    (config.home() / "config.toml").write_text("\n".join(lines) + "\n")


class BucketSuite(RegistrySuite):
    """Servers for tests are slow: fewer rounds, and the totals must come out all the same."""

    processes = 4
    increments = 10


class TestOnS3(BucketSuite):
    @pytest.fixture
    def url(self, moto_server):
        configure("s3", moto_server.settings(timeout_s=90))
        return f"s3://{moto_server.buckets[0]}/{uuid4().hex}/registry"


class TestOnGCS(BucketSuite):
    @pytest.fixture
    def url(self, gcs_server):
        configure("gs", gcs_server.settings(timeout_s=90))
        return f"gs://{gcs_server.buckets[0]}/{uuid4().hex}/registry"


class TestOnAzure(BucketSuite):
    @pytest.fixture
    def url(self, azure_server):
        configure("azure", azure_server.settings(timeout_s=90))
        return f"azure://{azure_server.buckets[0]}/{uuid4().hex}/registry"


class TestInADirectory(BucketSuite):
    processes = 8

    @pytest.fixture
    def url(self, tmp_path):
        return f"file://{tmp_path}/shared/registry"


@pytest.fixture
def place(tmp_path):
    return tmp_path / "shared"


@pytest.fixture
def registry(place):
    return open_registry(f"file://{place}")


@pytest.fixture
def on_s3(moto_server):
    configure("s3", moto_server.settings())
    return open_registry(f"s3://{moto_server.buckets[0]}/{uuid4().hex}")


@pytest.fixture
def another_home(tmp_path, monkeypatch):
    """From here on, another person's home, who has the same settings."""

    def move(name):
        home = tmp_path / name
        home.mkdir()
        if (config.home() / "config.toml").exists():
            shutil.copy(config.home() / "config.toml", home)
        monkeypatch.setenv("RH_HOME", str(home))

    return move


def entries(place):
    return sorted(place.glob("log/*/*.json"))


def content(registry):
    return list(registry.list()), list(registry.changes())


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


def test_reading_creates_nothing(place, registry):
    assert list(registry.list()) == list(registry.changes()) == list(registry.history("a")) == []
    assert registry.find("a") is None
    with pytest.raises(errors.NotFoundError):
        registry.delete("a")
    assert not place.exists()


def test_a_bucket_that_is_not_there_is_not_an_empty_registry(moto_server):
    configure("s3", moto_server.settings())
    registry = open_registry("s3://no-such-bucket/registry")
    for call in (lambda: registry.find("a"), lambda: list(registry.list()), lambda: registry.put("a", {})):
        with pytest.raises(errors.NotFoundError, match="bucket"):
            call()


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


# Requests.


def test_a_read_is_one_request_and_a_commit_three_at_the_most(on_s3):
    on_s3.put("a", {"n": 0})
    with observe.counting() as counts:
        fresh = open_registry(on_s3.url)
        assert fresh.get("a").document == {"n": 0}
    assert counts.total("s3") == 1, counts.requests
    with observe.counting() as counts:
        on_s3.put("a", {"n": 1}, when=Match("1"))
    assert counts.total("s3") <= 3, counts.requests
    with observe.counting() as counts:
        assert [record.revision for record in on_s3.list()] == [2]
        assert on_s3.find("b") is None
    assert counts.total("s3") == 2, counts.requests


def test_loading_a_name_is_one_request(on_s3, tmp_path, monkeypatch):
    monkeypatch.setenv("RH_REGISTRY", on_s3.url)
    monkeypatch.setenv("RH_USER", "ada")
    (tmp_path / "cats").mkdir()
    rh.folder(path=tmp_path / "cats").save("/team/cats")
    with observe.counting() as counts:
        assert rh.load("/team/cats").path == str(tmp_path / "cats")
    assert counts.total() == 1, counts.requests


def test_what_others_did_is_read_by_one_request_each(on_s3, another_home):
    on_s3.put("a", {"n": 0})
    another_home("bob")
    assert open_registry(on_s3.url).get("a").document == {"n": 0}
    for n in range(5):
        open_registry(on_s3.url).put("a", {"n": n})
    another_home("cy")
    mine = open_registry(on_s3.url)
    with observe.counting() as counts:
        assert mine.get("a").document == {"n": 4}
    assert counts.total("s3") <= 3 + 6, counts.requests


# Several machines.


def test_two_homes_see_each_other(place, registry, another_home):
    registry.put("a", {"n": 1}, by="ada")
    another_home("bob")
    other = open_registry(registry.url)
    seen = other.get("a")
    assert (seen.author, seen.document) == ("ada", {"n": 1})
    other.put("a", {"n": 2}, when=Match(seen.etag), by="bob")
    told = content(other)
    another_home("cy")
    assert content(open_registry(registry.url)) == told
    with pytest.raises(errors.ConflictError, match=r"revision 2 \(by bob\), not 1"):
        registry.put("a", {"n": 3}, when=Match(seen.etag))


def test_two_homes_write_at_once(place, registry, tmp_path):
    code = (
        "import sys\nfrom rh.registry import open_registry\nregistry = open_registry(sys.argv[1])\n"
        "for n in range(40): registry.update('counter', lambda d: {'n': (d or {'n': 0})['n'] + 1})\n"
    )
    before, running = os.environ["RH_HOME"], []
    try:
        for name in ("ada", "bob", "cy"):
            os.environ["RH_HOME"] = str(tmp_path / name)
            running.append(python(code, registry.url))
    finally:
        os.environ["RH_HOME"] = before
    for process in running:
        finished(process)
    assert registry.get("counter").document == {"n": 120}
    assert [change.revision for change in registry.history("counter")] == list(range(1, 121))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_eight_hundred_increments_are_all_there(registry):
    for process in [python(_ADD, registry.url, "100") for _ in range(8)]:
        finished(process, 500)
    assert registry.get("counter").document == {"n": 800}
    assert [change.revision for change in registry.history("counter")] == list(range(1, 801))


def test_killed_writers_leave_a_log_that_reads(place, registry, another_home):
    code = (
        "import sys, itertools\nfrom rh.registry import open_registry\nfrom rh.registry.base import Put\n"
        "registry = open_registry(sys.argv[1])\nprint('up', flush=True)\n"
        "for n in itertools.count():\n    registry.commit([Put('left', {'n': n}), Put('right', {'n': n})])\n"
    )
    chance = random.Random(7)
    for _ in range(8):
        process = python(code, registry.url)
        assert process.stdout.readline() == "up\n"
        time.sleep(chance.uniform(0.0, 0.4))
        process.kill()
        process.communicate()
    told = content(registry)
    left, right = registry.get("left"), registry.get("right")
    assert (left.revision, left.document) == (right.revision, right.document)
    assert left.revision == len(entries(place))
    another_home("fresh")
    assert content(open_registry(registry.url)) == told
    registry.put("left", {"n": -1})


def test_the_clock_decides_nothing(place, registry, monkeypatch, another_home):
    real = time.time
    for shift in (0.0, -86_400.0, 86_400.0):
        monkeypatch.setattr(time, "time", lambda shift=shift: real() + shift)
        registry.update("a", lambda document: {"n": (document or {"n": 0})["n"] + 1})
    monkeypatch.undo()
    another_home("bob")
    assert [change.revision for change in registry.history("a")] == [1, 2, 3]
    assert registry.get("a").document == {"n": 3}


def test_what_others_wrote_is_searched(place, registry, another_home):
    for n in range(20):
        registry.put(f"resources/r{n:02}", {"tags": ["gold"] if n % 2 else [], "metadata": {"accuracy": n / 20}})
    moment = registry.get("resources/r19").time
    registry.put("resources/r19", {"tags": []})
    another_home("bob")
    other, where = open_registry(registry.url), (F.tags == "gold") & (F.accuracy > 0.8)
    assert [record.key for record in other.search(where)] == ["resources/r17"]
    assert [record.key for record in other.search(where, as_of=moment)] == ["resources/r17", "resources/r19"]
    assert [record.key for record in other.search(where, after="resources/r17")] == []


def test_a_host_holds_a_registry(world, another_home):
    url = f"{world['ssh-a']}/registry"
    registry = open_registry(url)
    registry.put("a", {"n": 1}, when=ABSENT)
    another_home("bob")
    other = open_registry(url)
    other.put("a", {"n": 2}, when=Match("1"))
    assert [change.document for change in registry.history("a")] == [{"n": 1}, {"n": 2}]


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


# Damage.


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
        with pytest.raises(errors.IntegrityError, match="does not follow"):
            registry.get("a")
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
    for call in (lambda: registry.get("a"), lambda: registry.put("a", {}), lambda: list(registry.list())):
        with pytest.raises(errors.NotFoundError, match="is gone"):
            call()
    place.with_name("elsewhere").rename(place)
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
        with pytest.raises(errors.IntegrityError, match=r"registry\.json"):
            call()
    assert [path.name for path in place.rglob("*")] == ["registry.json"]


# Places that cannot.


def test_a_place_that_ignores_conditions_is_refused(s3_server):
    """rclone's server accepts every condition and keeps none."""
    configure("s3", s3_server.settings())
    url = f"s3://{s3_server.buckets[0]}/{uuid4().hex}"
    with pytest.raises(errors.UnsupportedError, match="overwrite each other") as caught:
        open_registry(url).put("a", {"n": 1})
    assert caught.value.where == url
    assert "conditional writes" in caught.value.hint
    assert list(open_system(locate(url)).list()) == []


def test_a_place_that_only_says_it_keeps_conditions_is_found_out(s3_server):
    configure("s3", s3_server.settings(conditional_writes=True))
    url = f"s3://{s3_server.buckets[0]}/{uuid4().hex}"
    with pytest.raises(errors.UnsupportedError, match="ignores the condition"):
        open_registry(url).put("a", {"n": 1})
    assert list(open_system(locate(url)).list()) == []


# Bad networks.


def test_a_commit_whose_answer_was_lost_is_ours(moto_server):
    fault = DropAnswer(probability=0.4, match=lambda request: request.method == "PUT")
    with FaultProxy(moto_server.port, [fault], seed=3, http=True) as proxy:
        configure("s3", moto_server.settings(via=proxy.port))
        registry = open_registry(f"s3://{moto_server.buckets[0]}/{uuid4().hex}")
        for n in range(15):
            registry.put("a", {"n": n}, when=Match(str(n)) if n else ABSENT)
        assert proxy.counts.faults["DropAnswer"] > 2
        assert [change.document for change in registry.history("a")] == [{"n": n} for n in range(15)]


def test_a_registry_whose_making_is_tried_again_is_not_taken_for_unfit(moto_server):
    def second(request):
        return request.method == "PUT" and request.path.endswith("registry.json") and request.nth == 1

    with FaultProxy(moto_server.port, [Status(match=second)], http=True) as proxy:
        configure("s3", moto_server.settings(via=proxy.port))
        registry = open_registry(f"s3://{moto_server.buckets[0]}/{uuid4().hex}")
        registry.put("a", {"n": 1})
        assert registry.get("a").document == {"n": 1}
        assert proxy.counts.faults["Status"] == 1


def test_errors_that_pass_are_tried_again(moto_server):
    with FaultProxy(moto_server.port, [Status(code=503, probability=0.3)], seed=5, http=True) as proxy:
        configure("s3", moto_server.settings(via=proxy.port))
        registry = open_registry(f"s3://{moto_server.buckets[0]}/{uuid4().hex}")
        for n in range(10):
            registry.put("a", {"n": n})
            assert registry.get("a").document == {"n": n}


def test_offline_reads_are_answered_from_the_replica_and_say_so(moto_server, monkeypatch):
    with FaultProxy(moto_server.port, http=True) as proxy:
        configure("s3", moto_server.settings(via=proxy.port, timeout_s=1.0, retries=1))
        registry = open_registry(f"s3://{moto_server.buckets[0]}/{uuid4().hex}")
        registry.put("a", {"n": 1})
        registry.put("a", {"n": 2})
    for call in (
        lambda: registry.get("a").document == {"n": 2},
        lambda: [record.key for record in registry.list()] == ["a"],
        lambda: [change.revision for change in registry.history("a")] == [1, 2],
    ):
        with pytest.warns(StaleWarning, match=r"cannot be reached .* s ago"):
            assert call()
    with pytest.raises((errors.UnavailableError, errors.DeadlineError)):
        registry.put("a", {"n": 3})
    shutil.rmtree(config.home() / "replicas")
    with pytest.raises((errors.UnavailableError, errors.DeadlineError)):
        registry.get("a")
    configure("s3", moto_server.settings())
    monkeypatch.setattr(module, "_silent", {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = open_registry(registry.url)
        back.put("a", {"n": 3}, when=Match("2"))
        assert back.get("a").document == {"n": 3}


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


# How long it takes.


def test_a_local_read_finds_its_entry_among_many(place, registry):
    """No listing of everything: the directory of the last entries only."""
    for n in range(SEGMENT + 5):
        registry.put("a", {"n": n})
    assert {path.parent.name for path in entries(place)} == {"00000000000000", "00000000000001"}
    shutil.rmtree(place / "log" / "00000000000000")
    assert registry.get("a").document == {"n": SEGMENT + 4}
