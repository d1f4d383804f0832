"""Versions come back with the name that was forgotten, in every kind of registry that a team can share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import rh
from tests.registry.kinds import KINDS, Shared, opened


@pytest.fixture(params=KINDS)
def team(request, tmp_path, monkeypatch) -> Iterator[Shared]:
    with opened(request.param, request, tmp_path / "team") as shared:
        if shared.server is not None:
            shared.server.token("bob")
            shared.be("ada", monkeypatch)
            from rh.registry.http import HTTPRegistry
            from rh.registry.http.accounts import RemoteAccounts

            RemoteAccounts(HTTPRegistry(shared.url)).put_share("team", {"bob": "write"})
        shared.be("bob", monkeypatch)
        yield shared


def test_versions_come_back_with_the_name(team, tmp_path, monkeypatch):
    """Bob is no admin. What the admin renamed to where he may not look is not in his way."""
    cats = rh.folder("/team/cats", path=tmp_path / "cats").mkdir().save()
    cats.put({"1.txt": b"tabby"})
    cats.commit("first", aliases=["production"])
    cats.delete_configs()
    assert rh.folder("/team/cats", path=tmp_path / "cats").save().versions()[0].aliases == ("latest", "production")
    cats.put({"2.txt": b"siamese"})
    assert rh.load("/team/cats").commit().label == "v2"
    assert rh.load("/team/cats:production").get("1.txt") == b"tabby"
    team.be("ada", monkeypatch)
    rh.load("/team/cats").rename("/ada/cats")
    team.be("bob", monkeypatch)
    again = rh.folder("/team/cats", path=tmp_path / "cats").save()
    assert again.versions() == []
    assert again.commit().label == "v1"
