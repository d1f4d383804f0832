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

from rh import config
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
    assert rh("share", "@/x", "eve", "--json").json == {"name": "/bob/x", "public": False, "roles": {"eve": "read"}}
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
    done = program("registry", "serve", "--port", str(server.port), expect=7)
    assert b"choose another --port" in done.stderr
    assert b"needs its key" in program("registry", "serve", "--tls-cert", "x", expect=2).stderr
