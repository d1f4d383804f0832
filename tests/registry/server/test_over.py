"""A server over every kind of registry that can be behind one, and what its clients hear when that is out of reach."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import rh
from rh import config, errors
from rh.observe import counting
from rh.registry import default, mirror, open_registry
from rh.registry.accounts import accounts_of
from rh.registry.base import Put, StaleWarning
from rh.registry.filters import F
from rh.registry.sql import postgres
from rh.testing import servers
from rh.testing.faults import FaultProxy
from rh.testing.servers.registry import RegistryServer
from rh.types import ABSENT, Match
from tests.registry.kinds import opened, toml

KINDS = ("sqlite", "postgres", "bucket", "directory")


@pytest.fixture(autouse=True)
def _nothing_known_to_be_silent() -> Iterator[None]:
    mirror._silent.clear()
    yield
    mirror._silent.clear()


def a_home(base: Path, settings: str) -> str:
    """The home of a server, with the settings by which it finds its registry."""
    home = base / "server-home"
    home.mkdir()
    (home / "config.toml").write_text(settings)
    return str(home)


def use(server: RegistryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it the registry of its admin `ada`, who is us."""
    for name, value in server.environment("ada").items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=KINDS)
def server(request, tmp_path, monkeypatch) -> Iterator[RegistryServer]:
    """A server over an empty registry of each kind."""
    with opened(request.param, request, tmp_path / "behind", conditional=True) as behind:
        behind.be("ada", monkeypatch)
        variables = {**behind.variables, "RH_HOME": a_home(tmp_path, behind.settings)}
        with RegistryServer(behind.url, options=["--rate", "100000"], variables=variables) as server:
            use(server, monkeypatch)
            yield server


def status_of(server: RegistryServer, path: str, token: str | None = None) -> tuple[int, dict]:
    """What a plain request is answered."""
    asked = urllib.request.Request(server.url + path, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as answer:
        return answer.code, json.loads(answer.read())


def test_users_roles_changes_search_and_history(server, monkeypatch, tmp_path):
    """The same as over a file: who may do what, compare-and-set, search also of the past, history, sharing."""
    ada, bob = server.token("ada"), server.token("bob")
    registry = open_registry(server.url)
    cats = rh.folder(name="/team/cats", path=tmp_path / "cats").mkdir().save()
    cats.put({"1.txt": b"tabby"})
    cats.commit("first", aliases=["production"], metadata={"quality": 0.9})
    cats = cats.annotate(tags=["gold"])
    before = registry.get("resources/team/cats")
    between = time.time()
    cats.annotate(tags=["silver"], untag=["gold"])
    assert registry.get("resources/team/cats").revision == before.revision + 1

    monkeypatch.setenv("RH_REGISTRY_TOKEN", bob)
    monkeypatch.setenv("RH_USER", "bob")
    with pytest.raises(errors.NotFoundError):
        rh.load("/team/cats")
    assert list(registry.list()) == list(registry.search(F.tags == "silver")) == []
    monkeypatch.setenv("RH_REGISTRY_TOKEN", ada)
    assert cats.share("bob").roles == {"bob": "read"}
    monkeypatch.setenv("RH_REGISTRY_TOKEN", bob)
    assert rh.load("/team/cats:production").get("1.txt") == b"tabby"
    with pytest.raises(errors.AccessError, match="bob may not write"):
        registry.put("resources/team/cats", {"kind": "blob"})
    with pytest.raises(errors.AccessError):
        accounts_of(registry).users()
    registry.put("resources/bob/x", {"n": 1, "metadata": {"n": 1}}, when=ABSENT, token="once")
    assert registry.put("resources/bob/x", {"n": 1, "metadata": {"n": 1}}, when=ABSENT, token="once").revision == 1
    with pytest.raises(errors.ExistsError):
        registry.put("resources/bob/x", {"n": 2}, when=ABSENT)
    with pytest.raises(errors.ConflictError):
        registry.put("resources/bob/x", {"n": 2}, when=Match("7"))
    with pytest.raises(errors.NotFoundError, match="nothing is registered as 'resources/bob/none'"):
        registry.delete("resources/bob/none")
    with pytest.raises(errors.ExistsError):
        registry.commit([Put("resources/bob/y", {}), Put("resources/bob/x", {}, ABSENT)])
    assert registry.find("resources/bob/y") is None
    assert [change.author for change in registry.history("resources/bob/x")] == ["bob"]

    found = registry.search(F.tags == "silver", "resources/")
    assert [record.key for record in found] == ["resources/team/cats"]
    assert list(registry.search(F.tags == "gold", "resources/")) == []
    then = registry.search(F.tags == "gold", "resources/", as_of=between)
    assert [record.revision for record in then] == [before.revision]
    history = [change.revision for change in registry.history("resources/team/cats")]
    assert history == list(range(1, before.revision + 2))

    monkeypatch.setenv("RH_REGISTRY_TOKEN", ada)
    accounts_of(registry).remove_user("bob")
    monkeypatch.setenv("RH_REGISTRY_TOKEN", bob)
    with pytest.raises(errors.UnauthenticatedError):
        registry.get("resources/bob/x")
    assert server.token("ada").rpartition("_")[2] not in server.log + server.audit.read_text()


def test_two_servers_over_one_registry(server, monkeypatch):
    """What one takes, the other tells; a token that one revoked is refused by the other within two seconds."""
    with RegistryServer(server.behind, variables=server._variables) as other:
        other._tokens = server._tokens
        open_registry(server.url).put("resources/team/x", {"n": 1})
        monkeypatch.setenv("RH_REGISTRY", other.url)
        assert default().get("resources/team/x").document == {"n": 1}
        default().put("resources/team/x", {"n": 2}, when=Match("1"))
        monkeypatch.setenv("RH_REGISTRY", server.url)
        with pytest.raises(errors.ConflictError):
            open_registry(server.url).put("resources/team/x", {"n": 3}, when=Match("1"))
        bob = server.token("bob")
        assert status_of(other, "/v1/me", bob)[0] == 200
        server.accounts.remove_user("bob")
        time.sleep(2.1)
        assert status_of(other, "/v1/me", bob)[0] == 401


@pytest.fixture
def fragile(moto_server, tmp_path, monkeypatch) -> Iterator[tuple[RegistryServer, FaultProxy]]:
    """A server over a bucket that is reached by a proxy, and that proxy."""
    bucket = moto_server.make_bucket(f"t{os.urandom(6).hex()}")
    with FaultProxy(moto_server.port, http=True) as proxy:
        settings = toml("s3", moto_server.settings(via=proxy.port))
        config.home().mkdir(parents=True, exist_ok=True)
        (config.home() / "config.toml").write_text(settings)
        with RegistryServer(f"{bucket}/registry", variables={"RH_HOME": a_home(tmp_path, settings)}) as server:
            use(server, monkeypatch)
            yield server, proxy


def test_a_bucket_that_is_out_of_reach(fragile, tmp_path):
    """The server says so and gives no old answers of its own: rights may have changed. The client's mirror does."""
    server, proxy = fragile
    cats = rh.folder(name="/team/cats", path=tmp_path / "cats").mkdir().save()
    cats.put({"1.txt": b"tabby"})
    cats.commit(aliases=["production"])
    rh.load("/team/cats:production")
    rh.load("/team/cats")
    proxy.stop()
    while status_of(server, "/ready")[0] == 200:  # who may do what is known for two seconds
        time.sleep(0.1)
    for path in ("/ready", "/v1/record?key=resources/team/cats", "/v1/me"):
        status, told = status_of(server, path, server.token())
        assert (status, told["error"]["kind"], told["error"]["behind"]) == (503, "unavailable", True), path
        assert told["error"]["message"] == "the registry behind the server cannot be reached"
    assert status_of(server, "/health")[0] == 200
    registry = open_registry(server.url)
    for read in (
        lambda: registry.get("resources/team/cats"),
        lambda: registry.find("resources/team/none"),
        lambda: list(registry.list()),
        lambda: list(registry.search(F.n == 1)),
        lambda: list(registry.history("resources/team/cats")),
        lambda: list(registry.changes()),
    ):
        with pytest.raises(errors.UnavailableError, match="the registry behind the server cannot be reached") as caught:
            read()
        assert caught.value.where == server.url
        assert "~/" in caught.value.hint
        assert str(proxy.port) not in str(caught.value)
    with pytest.warns(StaleWarning, match="the registry behind the server cannot be reached"):
        assert rh.load("/team/cats:production").get("1.txt") == b"tabby"
    with counting() as counts, pytest.warns(StaleWarning):
        rh.load("/team/cats:production")
    assert not counts.total("registry")
    assert f"127.0.0.1:{proxy.port}" in server.log, "who runs the server is told where it was looked for"
    proxy.start()
    mirror._silent.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.put("resources/team/x", {"n": 1}).revision == 1
        assert rh.load("/team/cats").name == "/team/cats"


def test_a_database_that_is_out_of_reach(monkeypatch):
    """One that is not there, and one that does not let the server in: neither is the fault of the client's token."""
    with servers.postgres() as database:
        monkeypatch.setenv("PGPASSWORD", database.password)
        with RegistryServer(database.url, variables={"PGPASSWORD": database.password}) as server:
            use(server, monkeypatch)
            default().put("resources/team/x", {"n": 1})
            default().get("resources/team/x")
            database.kill()
            postgres._connections.close()
            with pytest.raises(errors.UnavailableError, match="behind the server cannot be reached"):
                open_registry(server.url).get("resources/team/x")
            with pytest.warns(StaleWarning, match="behind the server cannot be reached"):
                assert default().get("resources/team/x").document == {"n": 1}
            database.start()
            assert open_registry(server.url).get("resources/team/x").document == {"n": 1}
            import psycopg

            with psycopg.connect(database.dsn, autocommit=True) as db:
                db.execute("alter role rh password 'another'")
                db.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
            with pytest.raises(errors.UnavailableError, match="does not let the server in"):
                open_registry(server.url).get("resources/team/x")
            assert database.password not in server.log
    postgres._connections.close()


def test_a_directory_that_is_gone(tmp_path, monkeypatch):
    """A disk that is no longer mounted does not make names look as if there were none."""
    with RegistryServer(f"file://{tmp_path}/registry") as server:
        use(server, monkeypatch)
        default().put("resources/team/x", {"n": 1})
        default().get("resources/team/x")
        (tmp_path / "registry").rename(tmp_path / "unmounted")
        registry = open_registry(server.url)
        for read in (lambda: registry.find("resources/team/x"), lambda: list(registry.list())):
            with pytest.raises(errors.UnavailableError, match="the registry behind the server cannot be reached"):
                read()
        with pytest.warns(StaleWarning):
            assert default().get("resources/team/x").document == {"n": 1}
        (tmp_path / "unmounted").rename(tmp_path / "registry")
        assert registry.get("resources/team/x").document == {"n": 1}


@pytest.mark.slow
def test_a_database_that_says_nothing(monkeypatch):
    """The server answers before its clients give up, so that they hear what it is that does not answer."""
    with servers.postgres() as database:
        monkeypatch.setenv("PGPASSWORD", database.password)
        variables = {"PGPASSWORD": database.password, "RH_TIMEOUT_S": "3"}
        with RegistryServer(database.url, variables=variables) as server:
            use(server, monkeypatch)
            default().put("resources/team/x", {"n": 1})
            postgres._connections.close()
            children = Path(f"/proc/{database.pid}/task/{database.pid}/children").read_text().split()
            stopped = [database.pid, *map(int, children)]
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises((errors.DeadlineError, errors.UnavailableError), match="behind the server"):
                    open_registry(server.url).get("resources/team/x")
            finally:
                for pid in stopped:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
    postgres._connections.close()
