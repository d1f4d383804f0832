"""`rh registry …`, `rh login`, `rh share`: a team from nothing, by command."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rh import config, observe
from rh.registry.http import logins
from rh.testing.servers.registry import RegistryServer


@pytest.fixture
def server():
    with RegistryServer() as server:
        yield server


@pytest.fixture
def login(rh, server, monkeypatch):
    """Be a user of the server, who has logged in: `login("bob")`."""

    def be(user):
        monkeypatch.setenv("RH_HOME", str(Path(os.environ["HOME"]) / f"rh-of-{user}"))
        monkeypatch.setenv("RH_REGISTRY_TOKEN", server.token(user))
        rh("login", server.url)
        monkeypatch.delenv("RH_REGISTRY_TOKEN")

    return be


@pytest.mark.slow
def test_from_nothing(program, tmp_path, monkeypatch):
    """A registry, its admin, the server, a colleague; each with a home of their own."""

    def of(user, *words, **options):
        return program(*words, env={**os.environ, "RH_HOME": str(tmp_path / user)}, **options)

    monkeypatch.setenv("RH_HOME", str(tmp_path / "server"))
    database = f"sqlite://{tmp_path}/team.db"
    token = of("server", "registry", "user", "add", "ada", "--admin", "--registry", database).stdout.decode().strip()
    assert token.startswith("rh_")
    serving = subprocess.Popen(
        [
            Path(sys.executable).with_name("rh"),
            "registry",
            "serve",
            "--registry",
            database,
            "--port",
            "0",
            "--audit",
            str(tmp_path / "audit"),
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        url = serving.stderr.readline().split()[-1]
        of("ada", "login", url, input=f"{token}\n".encode())
        settings = tomllib.loads((tmp_path / "ada/config.toml").read_text())
        assert settings == {"registry": url, "user": "ada"}
        file = tmp_path / "ada/tokens.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert json.loads(file.read_text()) == {url: token}
        added = json.loads(of("ada", "registry", "user", "add", "bob", "--expires", "1d", "--json").stdout)
        of("bob", "login", url, input=added["token"].encode())
        (tmp_path / "data").write_text("tabby")
        of("ada", "save", "@/cats", "data")
        of("bob", "cat", "rh:///ada/cats", expect=3)
        of("ada", "share", "@/cats", "bob")
        assert of("bob", "cat", "rh:///ada/cats").stdout == b"tabby"
        of("bob", "logout")
        told = of("bob", "cat", "rh:///ada/cats", expect=5).stderr.decode()
        assert f"rh login {url}" in told
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(20) == 0
    finally:
        serving.kill()
        serving.wait()
        serving.stderr.close()


def test_share_and_revoke(rh, server, login, tmp_path):
    (tmp_path / "x").write_text("x")
    server.token("eve")
    login("bob")
    rh("save", "@/x", "x")
    assert rh("share", "rh://@/x").out == "/bob/x is shared with nobody\n"
    assert rh("share", "@/x", "eve", "--json").json == {
        "name": "/bob/x",
        "public": False,
        "roles": {"eve": "read"},
        "inherited": [],
    }
    assert rh("share", "@/x", "eve", "--access", "write", "--public").out.split() == [
        "everybody",
        "read",
        "eve",
        "write",
    ]
    login("eve")
    assert rh("resources").out == "/bob/x\n"
    error = rh("share", "/bob/x", "eve", "--json", expect=5).error
    assert error["kind"] == "access"
    login("bob")
    rh("share", "@/x", "--private")
    assert rh("revoke", "@/x", "eve", "--json").json["roles"] == {}
    assert "no user 'eva'; did you mean eve" in rh("share", "@/x", "eva", expect=3).err
    assert "access" in rh("share", "@/x", "eve", "--access", "admin", expect=2).err
    rh("save", "~/here", "x")
    assert "only this machine" in rh("share", "~/here", "eve", expect=1).err


def test_who_may_do_what(rh, server, login, tmp_path):
    """`rh share` tells the roles on a name and on what lies above it, `rh registry grant` those on a prefix."""
    (tmp_path / "x").write_text("x")
    for user in ("bob", "eve"):
        server.token(user)
    login("ada")
    rh("save", "/acme/cats", "x")
    rh("registry", "grant", "/acme", "bob", "write")
    assert rh("share", "/acme/cats").out == "bob  write  from /acme\n"
    assert rh("share", "/acme/cats", "eve", "--public").out.splitlines() == [
        "everybody  read",
        "eve        read",
        "bob        write  from /acme",
    ]
    told = rh("share", "/acme/cats", "--json").json
    assert told["inherited"] == [{"name": "/acme", "public": False, "roles": {"bob": "write"}}]
    assert "rh registry grant /acme lists them" in rh("share", "/acme", expect=2).err
    listed = ["/acme       bob        write", "/acme/cats  everybody  read", "/acme/cats  eve        read"]
    for words in ((), ("/acme",), ("rh:///acme/cats",), ("--registry", server.behind)):
        assert rh("registry", "grant", *words).out.splitlines() == listed
    assert rh("registry", "grant", "/acme", "--json").lines == [
        {"name": "/acme", "public": False, "roles": {"bob": "write"}},
        {"name": "/acme/cats", "public": True, "roles": {"eve": "read"}},
    ]
    assert rh("registry", "grant", "/none").out == "nobody has a role on /none\n"
    assert rh("registry", "grant", "/none", "--json").out == ""
    assert "say which role eve gets" in rh("registry", "grant", "/acme", "eve", expect=2).err
    assert "not a prefix of names" in rh("registry", "grant", "../acme", expect=2).err
    login("bob")
    assert rh("registry", "grant", "/acme", "--json", expect=5).error["kind"] == "access"
    assert rh("registry", "grant").out == "nobody has a role on what is yours to share\n"
    login("eve")
    assert rh("registry", "grant", "/acme", "--json", expect=3).error["kind"] == "not_found"


def test_a_rename_to_where_one_may_not_write(rh, login, tmp_path):
    (tmp_path / "x").write_text("x")
    login("ada")
    rh("save", "/other/there", "x")
    login("bob")
    rh("save", "@/mine", "x")
    for new in ("/other/there", "/other/new"):
        saving = rh("save", new, "x", "--json", expect=5).error
        assert saving["message"] == f"bob may not write {new}: that needs the role write on it or above it"
        assert rh("rename", "@/mine", new, "--json", expect=5).error == saving
        assert f"rh registry grant {new} bob write" in saving["hint"]
    assert rh("resources").out == "/bob/mine\n"


def test_people_and_tokens(rh, login):
    login("ada")
    assert rh("registry", "user", "ls", "--json").lines == [{"name": "ada", "admin": True}]
    token = rh("registry", "user", "add", "cy").out.strip()
    assert token.startswith("rh_")
    for options in ((), ("--admin",)):
        told = rh("registry", "user", "add", "ada", *options, "--json", expect=4).error
        assert told["kind"] == "exists"
        assert "rh registry token new ada" in told["hint"]
    assert rh("registry", "user", "ls").out.split() == ["ada", "admin", "cy"]
    assert rh("registry", "user", "set", "cy", "--admin", "--json").json == {"name": "cy", "admin": True}
    rh("registry", "user", "set", "cy", "--no-admin")
    assert "only admin" in rh("registry", "user", "set", "ada", "--no-admin", expect=4).err
    assert "did you mean cy" in rh("registry", "user", "set", "cyy", "--admin", expect=3).err
    rh("registry", "user", "set", "cy", expect=2)
    rh("registry", "grant", "/acme", "cy", "admin")
    assert rh("registry", "grant", "/acme", "cy", "none", "--json").json["roles"] == {}
    assert "read, write, admin, none" in rh("registry", "grant", "/acme", "cy", "boss", expect=2).err
    made = rh("registry", "token", "new", "cy", "--name", "ci", "--expires", "90d", "--json").json
    found = rh("registry", "token", "ls", "cy", "--json").lines
    assert [one["name"] for one in found] == ["first", "ci"]
    assert found[1]["expires"] > found[1]["created"]
    assert made["token"].split("_")[2] not in rh("registry", "token", "ls").out
    rh("registry", "token", "revoke", found[1]["id"])
    assert "revoked" in rh("registry", "token", "ls", "cy").out
    rh("registry", "user", "rm", "cy")
    assert rh("registry", "user", "ls").out.split() == ["ada", "admin"]
    assert "no user" in rh("registry", "user", "rm", "cy", expect=3).err
    login("bob")
    assert rh("registry", "user", "ls", "--json", expect=5).error["kind"] == "access"
    assert [one["user"] for one in rh("registry", "token", "ls", "--json").lines] == ["bob"]


def test_login_that_fails_changes_nothing(rh, server, monkeypatch):
    monkeypatch.setenv("RH_REGISTRY_TOKEN", f"rh_{'0' * 12}_{'c' * 48}")
    told = rh("login", server.url, "--json", expect=5)
    assert told.error["kind"] == "unauthenticated"
    assert "c" * 48 not in told.err + told.out
    assert not logins.path().exists()
    assert not (config.home() / "config.toml").exists()
    assert "needs no login" in rh("login", "sqlite:///tmp/x.db", expect=2).err
    assert "read the token" in rh("login", "http://registry.example.org", expect=2).err


def test_a_port_that_is_taken(program, server, tmp_path):
    serve = ("registry", "serve", "--registry", server.behind)
    assert b"choose another --port" in program(*serve, "--port", str(server.port), expect=7).stderr
    assert b"needs its key" in program(*serve, "--tls-cert", "x", expect=2).stderr


def test_a_login_says_what_wins_over_it(rh, server, monkeypatch, tmp_path):
    token = server.token("bob")
    assert "fix: rh login https://127.0.0.1:8443" in rh("login", "127.0.0.1:8443", expect=2).err
    monkeypatch.setenv("RH_REGISTRY_TOKEN", token)
    assert rh("login", server.url).err == ""
    monkeypatch.setenv("RH_REGISTRY", f"file://{tmp_path}/shared")
    monkeypatch.setenv("RH_USER", "cy")
    told = rh("login", server.url)
    assert "RH_REGISTRY is set to something else and wins" in told.err
    assert "RH_USER is set to something else and wins" in told.err
    monkeypatch.setenv("RH_REGISTRY_TOKEN", f"rh_{'0' * 12}_{'c' * 48}")
    error = rh("login", server.url, "--json", expect=5).error
    assert error["hint"].startswith("RH_REGISTRY_TOKEN is what was sent")
    monkeypatch.setenv("RH_REGISTRY", server.url)
    assert "RH_REGISTRY_TOKEN is what was sent" in rh("resources", "/bob", expect=5).err


def test_tokens_and_users_say_what_was_done(rh, login):
    login("ada")
    made = rh("registry", "token", "new", "--name", "ci", "--json").json
    assert made["user"] == "ada"
    assert made["id"] == made["token"].split("_")[1]
    assert rh("registry", "token", "revoke", made["id"]).out == f"the token {made['id']} is revoked\n"
    rh("registry", "user", "add", "cy")
    assert rh("registry", "user", "rm", "cy").out == "cy is removed; what they saved stays\n"


def test_only_a_name_that_is_there_is_shared(rh, server, login, tmp_path):
    (tmp_path / "x").write_text("x")
    server.token("eve")
    login("bob")
    rh("save", "@/cats", "x")
    for words in ((), ("eve",), ("--public",)):
        assert "nothing is called /bob/catz; did you mean /bob/cats?" in rh("share", "@/catz", *words, expect=3).err
    assert rh("share", "@/cats").out == "/bob/cats is shared with nobody\n"


def test_a_part_of_a_registry_is_not_exported_as_the_whole(rh, login, tmp_path):
    (tmp_path / "x").write_text("x")
    login("ada")
    rh("save", "@/x", "x")
    login("bob")
    rh("save", "@/x", "x")
    told = rh("registry", "export", "part.jsonl", expect=5).err
    assert "bob is no admin" in told
    assert "--partial writes what you may read" in told
    assert not (tmp_path / "part.jsonl").exists()
    part = rh("registry", "export", "part.jsonl", "--partial", "--json").json["changes"]
    login("ada")
    assert rh("registry", "export", "all.jsonl", "--json").json["changes"] > part


def test_moving_what_is_not_there(rh, tmp_path):
    error = rh(
        "registry", "migrate", f"sqlite://{tmp_path}/typo.db", f"sqlite://{tmp_path}/b.db", "--json", expect=3
    ).error
    assert error["kind"] == "not_found"
    assert error["where"].endswith("/typo.db")


def test_a_file_of_a_registry_that_is_none(rh, tmp_path):
    (tmp_path / "b").write_text("x")
    for file, code, kind in ((".", 2, "invalid"), ("b/below", 3, "not_found"), ("n" * 300, 4, "name_clash")):
        assert rh("registry", "import", file, "--json", expect=code).error["kind"] == kind


@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_what_nobody_would_get_in_to_is_not_served(rh, server, tmp_path, kind):
    """A misspelt URL looks like a new registry."""
    typo = f"{kind}://{tmp_path}/below/typo"
    serve = ("registry", "serve", "--registry", typo, "--port", str(server.port))
    error = rh(*serve, expect=3).err
    assert f"has no users, so nobody would get in [{typo}]" in error
    assert f"rh registry user add NAME --admin --registry '{typo}'" in error
    assert list(tmp_path.iterdir()) == []
    rh("registry", "user", "add", "ada", "--admin", "--registry", typo)
    assert "choose another --port" in rh(*serve, expect=7).err  # it would start


def test_a_server_is_not_served(rh, server, login):
    login("bob")
    for options in ((), ("--registry", server.url)):
        assert f"{server.url} is a server already" in rh("registry", "serve", *options, expect=2).err


def test_names_that_are_cut_off(rh, tmp_path):
    (tmp_path / "b").write_text("x")
    assert "not a version or alias: ''" in rh("ls", "rh:///acme/k:", expect=2).err
    assert "not a digest: 'sha256:12'" in rh("ls", "rh:///acme/k@sha256:12", expect=2).err
    assert "@/name is yours" in rh("save", "@", "b", expect=2).err


def test_a_directory_registry_has_a_directory_of_its_own(rh, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.png").write_bytes(b"x")
    monkeypatch.setenv("RH_REGISTRY", f"file://{data}")
    monkeypatch.setenv("RH_USER", "ada")
    told = rh("save", "@/cats", "data", expect=2).err
    assert "no registry is made among other things: there is 'a.png'" in told
    assert [path.name for path in data.iterdir()] == ["a.png"]
    monkeypatch.setenv("RH_REGISTRY", "file:///proc/registry")
    assert "right to write below" in rh("save", "@/cats", "data", expect=5).err


def test_a_server_that_does_not_start_leaves_the_log_as_it_was(rh, tmp_path):
    """Whoever calls `main` goes on with a log of his own."""
    before = list(observe.log.handlers)
    (tmp_path / "other.db").write_bytes(b"no database" * 100)
    rh("registry", "serve", "--registry", f"sqlite://{tmp_path}/other.db", expect=None)
    assert observe.log.handlers == before
