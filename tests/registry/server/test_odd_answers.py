"""What is a registry by its headers, and answers something else than what it was asked."""

import json
import socket

import pytest

from rh import errors
from rh.registry.base import Change, Put
from rh.registry.filters import F
from rh.registry.http import HTTPRegistry, RemoteAccounts
from rh.registry.http.wire import PROTOCOL
from rh.testing.servers.httpd import WebServer

RECORD = {"key": "a", "revision": 1, "document": {}, "author": "ada", "time": 0.0}
CHANGE = RECORD | {"action": "put", "token": "t", "moved": None}


class Odd(WebServer):
    """Answers everything the same."""

    body = b"{}"
    protocol = str(PROTOCOL)

    def _answer(self, handler):
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        handler.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handler.send_response(200)
        handler.send_header("RH-Protocol", self.protocol)
        handler.send_header("Content-Length", str(len(self.body)))
        handler.end_headers()
        handler.wfile.write(self.body)


ANSWERS = (
    {},
    {"hello": "world"},
    RECORD | {"revision": "1"},
    RECORD | {"document": None},
    {"records": None, "next": None},
    {"records": [{}], "next": None},
    {"records": [[]], "next": None},
    {"records": [], "next": ""},
    {"records": [], "next": 5},
    {"changes": {}, "more": True},
    {"changes": [], "more": True},
    {"changes": [RECORD], "more": False},
    {"changes": [CHANGE | {"revision": 0}] * 2, "more": True},
    {"error": None},
    {"error": []},
    {"end": "x"},
    {"new": None},
    {"user": 5, "admin": True},
    {"users": [{"name": "ada"}]},
    {"users": 7},
    {"credentials": [{"id": 1}]},
    {"path": "a", "public": "no", "roles": {}},
    {"path": "a", "public": True, "roles": {}, "inherited": [{}]},
    {"shares": [None]},
)


def test_an_answer_to_something_else():
    """A typed error that names the place, whatever was asked; and no loop over pages that do not go on."""
    with Odd() as server:
        registry = HTTPRegistry(server.url, timeout_s=5)
        accounts = RemoteAccounts(registry)
        asked = {
            "get": lambda: registry.get("a"),
            "list": lambda: list(registry.list()),
            "search": lambda: list(registry.search(F.x == 1)),
            "history": lambda: list(registry.history("a")),
            "changes": lambda: list(registry.changes()),
            "commit": lambda: registry.commit([Put("a", {})]),
            "replay": lambda: registry.replay([Change(**CHANGE)]),
            "whoami": registry.whoami,
            "users": accounts.users,
            "put_user": lambda: accounts.put_user("ada"),
            "credentials": accounts.credentials,
            "new_token": accounts.new_token,
            "share": lambda: accounts.share("a"),
            "put_share": lambda: accounts.put_share("a", {}),
            "shares": accounts.shares,
        }
        for told in ANSWERS:
            server.body = json.dumps(told).encode()
            for verb, ask in asked.items():
                with pytest.raises(errors.IntegrityError) as caught:
                    pytest.fail(f"{verb} takes {told} for an answer: {ask()!r:.200}")
                assert caught.value.where == server.url


def test_an_answer_about_another_key():
    """As of a proxy that keeps answers, and does not look at all of what was asked."""
    other = CHANGE | {"key": "b"}
    with Odd() as server:
        registry = HTTPRegistry(server.url, timeout_s=5)
        for told, ask in (
            (RECORD | {"key": "b"}, lambda: registry.get("a")),
            ({"records": [RECORD], "next": None}, lambda: list(registry.list("b"))),
            ({"records": [RECORD], "next": None}, lambda: list(registry.list(after="a"))),
            ({"records": [RECORD | {"key": "b"}, RECORD], "next": None}, lambda: list(registry.list())),
            ({"records": [RECORD], "next": None}, lambda: list(registry.search(F.x == 1, "b"))),
            ({"changes": [other], "more": False}, lambda: list(registry.history("a"))),
            ({"changes": [CHANGE], "more": False}, lambda: list(registry.history("a", after=1))),
            ({"changes": [other]}, lambda: registry.commit([Put("a", {})])),
        ):
            server.body = json.dumps(told).encode()
            with pytest.raises(errors.IntegrityError, match="something else than what it was asked"):
                pytest.fail(f"{told} is taken for an answer: {ask()!r:.200}")


class Unavailable(Odd):
    def _answer(self, handler):
        handler.send_response(503)
        handler.send_header("RH-Protocol", self.protocol)
        handler.send_header("Retry-After", "nan")
        body = b'{"error": {"kind": "unavailable"}}'
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


def test_to_wait_for_no_number_of_seconds():
    with Unavailable() as server, pytest.raises(errors.UnavailableError):
        HTTPRegistry(server.url, timeout_s=1).get("a")


def test_a_number_of_the_protocol_that_is_none(monkeypatch):
    with Odd() as server:
        for number in ("9" * 5000, "x", ""):
            monkeypatch.setattr(server, "protocol", number)
            with pytest.raises(errors.InvalidError, match="no registry of rh"):
                HTTPRegistry(server.url, timeout_s=5).get("a")
