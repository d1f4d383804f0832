"""The buckets of a system, on every server that has some."""

from __future__ import annotations

import secrets

import pytest

import rh
from rh import config
from rh.errors import AccessError, UnavailableError, UnsupportedError
from rh.systems import azure, buckets, system_of_buckets

SERVERS = ["s3_server", "moto_server", "gcs_server", "azure_server"]


@pytest.fixture(params=SERVERS)
def server(request):
    return request.getfixturevalue(request.param)


def test_every_bucket_is_named(server):
    made = {f"b{secrets.token_hex(5)}" for _ in range(3)}
    for name in made:
        server.make_bucket(name)
    config.register("mine", server.settings())
    found = list(buckets("mine"))
    assert made <= set(found)
    assert len(found) == len(set(found))
    assert system_of_buckets("mine://") == system_of_buckets("mine:///") == "mine"


def test_page_by_page(azure_server, monkeypatch):
    made = {azure_server.make_bucket(f"b{secrets.token_hex(5)}").removeprefix("az://") for _ in range(3)}
    config.register("mine", azure_server.settings())
    monkeypatch.setattr(azure, "_PAGE", 2)
    with rh.observe.counting() as counted:
        found = list(buckets("mine"))
    assert made <= set(found)
    assert len(found) == len(set(found))
    assert counted.requests["mine", "buckets"] == -(-len(found) // 2)


def test_what_has_none():
    for url in ("file:///", "ssh-a://", "memory://", "https://", "rh://", "none://", "s3://b", "s3:", "x", ""):
        assert system_of_buckets(url) is None, url
    with pytest.raises(UnsupportedError, match="file has no buckets"):
        list(buckets("file"))


def test_aliases():
    assert [system_of_buckets(url) for url in ("az://", "gcs://", "S3://")] == ["azure", "gs", "s3"]


def test_who_may_not_list_them(azure_server):
    config.register(
        "nobody",
        {"anonymous": True, "kind": "azure", "account": azure_server.account, "endpoint_url": azure_server.endpoint},
    )
    with pytest.raises(AccessError):
        list(buckets("nobody"))


def test_nobody_answers(server):
    config.register("gone", {**server.settings(via=1), "timeout_s": 2})
    with pytest.raises(UnavailableError):
        list(buckets("gone"))
