"""Registries on buckets over the network: how many requests, places that cannot hold one, errors on the way."""

import shutil
import warnings
from uuid import uuid4

import pytest

import rh
from rh import config, errors, observe
from rh.registry import bucket as module
from rh.registry import open_registry
from rh.registry.base import StaleWarning
from rh.systems import locate, open_system
from rh.testing.faults import DropAnswer, FaultProxy, Status
from rh.types import ABSENT, Match
from tests.registry.bucket.places import configure

pytestmark = pytest.mark.servers


def test_a_bucket_that_is_not_there_is_not_an_empty_registry(moto_server):
    configure("s3", moto_server.settings())
    registry = open_registry("s3://no-such-bucket/registry")
    for call in (lambda: registry.find("a"), lambda: list(registry.list()), lambda: registry.put("a", {})):
        with pytest.raises(errors.NotFoundError, match="bucket"):
            call()


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
    with FaultProxy(moto_server.port, [Status(code=503, probability=0.2)], seed=5, http=True) as proxy:
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
        with pytest.warns(StaleWarning, match=r"cannot be reached .* held at \d{4}-\d\d-\d\d \d\d:\d\d"):
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
