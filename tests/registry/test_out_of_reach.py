"""What is said of a registry that cannot be reached, of whatever kind it is."""

from __future__ import annotations

import warnings

import pytest

import rh
from rh import config, errors
from rh.cli import main
from rh.registry import default, open_registry
from rh.registry.base import StaleWarning
from rh.testing.servers.process import Port
from rh.testing.servers.registry import RegistryServer


@pytest.fixture
def port():
    """At which nobody listens."""
    port = Port()
    yield port
    port.release()


@pytest.mark.parametrize("kind", ["http", "postgresql", "s3"])
def test_all_kinds_say_what_goes_on(kind, port, monkeypatch, tmp_path):
    place = f"127.0.0.1:{port.number}"
    url = {"http": f"http://{place}", "postgresql": f"postgresql://rh@{place}/db", "s3": "s3://bucket/registry"}[kind]
    config.register("s3", {"endpoint_url": f"http://{place}", "anonymous": True, "retries": 0})
    monkeypatch.setenv("RH_REGISTRY", url)
    monkeypatch.setenv("RH_TIMEOUT_S", "1")
    calls = (
        lambda: default().get("resources/team/x"),
        lambda: list(default().list("resources/")),
        lambda: default().put("resources/team/x", {}),
        lambda: rh.load("/team/x"),
        lambda: rh.run("r").__enter__(),
    )
    for call in calls:
        with pytest.raises(errors.UnavailableError, match="the registry cannot be reached") as caught:
            call()
        assert caught.value.hint.endswith("names in ~/ are on this machine and work without it, and so do local files")
        assert caught.value.hint.count("names in ~/") == 1


def test_the_doctor_asks_the_registry_itself(monkeypatch, tmp_path, capsys):
    with RegistryServer() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("RH_TIMEOUT_S", "1")
        for name in ("x", "y"):
            rh.blob(b"x", name=f"/team/{name}", path=tmp_path / name).save().commit()
        main(["doctor"])
        assert f"ok    registry: {server.url}, 2 names" in capsys.readouterr().out
        server.kill()
        assert main(["doctor"]) != 0
        told = capsys.readouterr()
        assert "FAIL  registry: the registry cannot be reached" in told.out
        assert server.url in told.out
        assert "2 names" not in told.out


def test_a_disk_that_is_not_mounted(monkeypatch, tmp_path, capsys):
    """Names are read from the replica, nothing is saved, and nothing new is begun in its place."""
    monkeypatch.setenv("RH_REGISTRY", f"file://{tmp_path}/registry")
    rh.blob(b"x", name="/team/x", path=tmp_path / "x").save().commit()
    (tmp_path / "registry").rename(tmp_path / "away")
    with warnings.catch_warnings():
        warnings.simplefilter("always", StaleWarning)
        assert main(["info", "rh:///team/x"]) == 0
        assert (
            "cannot be reached (the registry that was here is gone: either its place is not mounted"
            in capsys.readouterr().err
        )
        assert main(["alias", "set", "/team/x", "best", "v1"]) == 7
        told = capsys.readouterr().err
    assert "the registry that was here is gone" in told
    assert "names in ~/ are on this machine" in told
    assert not (tmp_path / "registry").exists()
    (tmp_path / "away").rename(tmp_path / "registry")
    open_registry(f"file://{tmp_path}/registry").put("other", {})
    assert main(["alias", "set", "/team/x", "best", "v1"]) == 0
