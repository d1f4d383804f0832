"""What is too much, too large or too slow for the registry server."""

import asyncio
import json
import socket
import sys
import time
from contextlib import ExitStack, suppress

import pytest

from rh import errors
from rh.registry import filters, open_registry
from rh.registry.accounts import new_credential
from rh.registry.base import Put
from rh.registry.http import HTTPRegistry
from rh.registry.server.accounts import FRESH_S, Snapshot, StoredAccounts
from rh.registry.server.app import App
from rh.registry.server.endpoints import ENDPOINTS, Call, Service
from rh.registry.server.limits import Buckets, Limits
from rh.registry.server.rights import Caller, Rights
from rh.registry.sql.sqlite import SQLiteRegistry
from rh.testing.servers.registry import RegistryServer
from rh.versions.series import new_series
from tests.registry.server.client import request


def test_a_request_that_is_too_large(server, people):
    bob = people("bob")
    steps = [Put(f"resources/bob/large/{n}", {"x": "y" * 900_000}) for n in range(6)]
    with pytest.raises(errors.InvalidError, match="larger than 4,194,304 bytes") as caught:
        bob.commit(steps)
    assert "smaller commits" in caught.value.hint
    assert bob.find("resources/bob/large/0") is None
    assert len(bob.commit(steps[:3])) == 3
    assert [one.key[-1] for one in bob.list("resources/bob/large/")] == ["0", "1", "2"]
    assert request(server, "POST", "/v1/commit", token=server.token("bob"), body=b" " * (5 << 20))[0] == 413
    assert request(server, "POST", "/v1/commit", body=b" " * 100)[0] == 401


def test_a_large_listing_comes_in_pages(people):
    bob = people("bob")
    for n in range(4):
        bob.commit([Put(f"resources/bob/pages/{n}{m}", {"x": "y" * 500_000}) for m in range(6)])
    assert len(list(bob.list("resources/bob/pages/"))) == 24
    assert len(list(bob.changes("resources/bob/pages/"))) == 24


def test_too_many_requests():
    """The client waits as long as it is told to, within its deadline."""
    with RegistryServer(options=["--rate", "5"]) as server:
        token = server.token()
        answers = [request(server, "GET", "/v1/me", token=token) for _ in range(60)]
        refused = [headers for status, headers, _ in answers if status == 429]
        assert refused
        assert 0 < float(refused[0]["Retry-After"]) < 1

        class Client(HTTPRegistry):
            def _send(self, verb, method, path, query, body, given, left):
                return super()._send(verb, method, path, query, body, token, left)

        for n in range(20):
            Client(server.url).put("a", {"n": n})
        assert request(server, "GET", "/health")[0] == 200


def test_strangers_are_slowed_down():
    with RegistryServer() as server:
        statuses = [request(server, "GET", "/v1/me", token=f"rh_{'0' * 12}_{'0' * 48}")[0] for _ in range(120)]
        assert set(statuses) == {401, 429}
        assert request(server, "GET", "/v1/me", token=server.token())[0] == 200


def test_made_up_tokens_are_looked_up_no_more_often_than_strangers_may_ask(tmp_path):
    class Counting(SQLiteRegistry):
        found = 0

        def find(self, key):
            self.found += 1
            return super().find(key)

    registry = Counting(tmp_path / "r.db")
    accounts = StoredAccounts(registry, by="ada")
    accounts.put_user("ada", admin=True)
    app = App(registry, limits=Limits(refused_rate=1e-3, refused_burst=5))

    async def status(token):
        async def receive():
            return {"type": "http.request"}

        async def send(message):
            told.append(message)

        told = []
        headers = [(b"authorization", f"Bearer {token}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/v1/me", "query_string": b"", "headers": headers}
        await app(scope, receive, send)
        return told[0]["status"]

    async def ask():
        return [await status(new_credential()[0]) for _ in range(20)], await status("rh_odd"), await status(known)

    known = accounts.new_token()
    registry.found = 0
    assert asyncio.run(ask()) == ([401] * 5 + [429] * 15, 429, 200)
    assert registry.found == 5


def test_a_bucket_fills_by_its_rate():
    buckets = Buckets(rate=1e-3, burst=2)
    assert [buckets.take("a") == 0 for _ in range(3)] == [True, True, False]
    assert buckets.take("b") == 0
    assert 900 < buckets.take("a") <= 1000


def test_a_filter_that_is_too_much(server, people):
    ada = people("ada")
    many = filters.AnyOf(tuple(filters.F[f"f{n}"] == n for n in range(2000)))
    with pytest.raises(errors.InvalidError, match=r"up to 1,000 conditions, not 2,001"):
        list(ada.search(many))
    values = filters.AnyOf(tuple(filters.F.x.is_in(list(range(1000))) for _ in range(11)))
    with pytest.raises(errors.InvalidError, match=r"up to 10,000 values, not 11,000"):
        list(ada.search(values))
    for n in range(3):
        ada.put(f"resources/ada/many/{n}", {"metadata": {f"f{n}": n}})
    some = filters.AnyOf(many.parts[:900])
    assert [one.key[-1] for one in ada.search(some, "resources/ada/many/")] == ["0", "1", "2"]


def test_strangers_are_told_at_once_where_nothing_is_public():
    with RegistryServer() as server:
        big = json.dumps({"where": {"any": [{"exists": f"f{n}"} for n in range(900)]}}).encode()
        for method, target, body in (
            ("POST", "/v1/search", big),
            ("POST", "/v1/search", b"no json"),
            ("GET", "/v1/records?prefix=versions/", None),
            ("GET", "/v1/history?key=a", None),
            ("GET", "/v1/record?key=a", None),
        ):
            assert request(server, method, target, body=body)[2]["error"]["message"] == "this needs a token"


# What takes long.


def test_a_listing_looks_through_all_names_once(tmp_path):
    """Also where it tells of many series that no name has; and strangers have it done every two seconds at most."""

    class Counting(SQLiteRegistry):
        scans = 0

        def list(self, prefix="", *, after=""):
            self.scans += prefix == "series/"
            return super().list(prefix, after=after)

    registry = Counting(tmp_path / "r.db")
    registry.commit([Put(f"versions/{new_series()}/00000001", {}) for _ in range(50)])
    rights = Rights(registry)
    orphans = list(registry.list("versions/"))
    snapshot = Snapshot(admins={"bob": False})
    for n in range(1, 4):
        caller = Caller("bob", snapshot, time.monotonic())
        assert list(rights.visible(caller, orphans)) == []
        assert registry.scans == n
    for _ in range(3):
        stranger = Caller(None, snapshot, time.monotonic() - FRESH_S)
        assert list(rights.visible(stranger, orphans)) == []
    assert registry.scans == 3


def test_a_page_ends_when_it_took_long_enough(tmp_path):
    """What is not for the caller costs time as well; the client goes on where it ended."""
    registry = open_registry(f"sqlite://{tmp_path}/r.db")
    accounts = StoredAccounts(registry, by="ada")
    for user in ("ada", "bob"):
        accounts.put_user(user, admin=user == "ada")
    registry.commit([Put(f"resources/{who}/{n}", {}) for who in ("ada", "bob") for n in range(5)])
    service = Service(registry, accounts, Rights(registry), Limits(page_s=0.0))
    caller = Caller("bob", accounts.now(at_once=True), time.monotonic())
    found, pages, after = [], 0, ""
    while after is not None:
        call = Call(service, caller, None, {}, {"prefix": "resources/", "after": after}, {})
        (work,) = (endpoint.work for endpoint in ENDPOINTS if endpoint.name == "list")
        page = json.loads(work(call))
        found += [one["key"] for one in page["records"]]
        after, pages = page["next"], pages + 1
    assert found == [f"resources/bob/{n}" for n in range(5)]
    assert pages == 10


SERVING = """
import sys
from rh.registry import open_registry
from rh.registry.server.limits import Limits
from rh.registry.server.run import serve
limits = Limits(header_s=0.5, unread_s=0.5, concurrent=3, connections=20)
serve(open_registry(sys.argv[1]), port=int(sys.argv[2]), limits=limits)
"""


class Impatient(RegistryServer):
    """A server that waits half a second for callers, and has up to 20 connections and 3 requests under way."""

    def _command(self):
        return [sys.executable, "-c", SERVING, self.behind, str(self.port)]


@pytest.mark.servers
def test_connections_that_send_no_request_are_closed():
    with Impatient() as server, ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 20)) for _ in range(3)]
        opened[1].sendall(b"GET /v1/me HTTP/1.1\r\nHost: x\r\n")
        opened[2].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /health HT")
        assert opened[2].recv(1000).startswith(b"HTTP/1.1 200")
        for one in opened:
            while one.recv(1000):
                pass
        crowd = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 20)) for _ in range(30)]
        closed = 0
        for one in crowd[20:]:
            one.settimeout(0.4)
            with suppress(TimeoutError):
                closed += one.recv(1) == b""
        assert closed
        for one in crowd:
            one.close()
        assert request(server, "GET", "/health")[0] == 200


@pytest.mark.servers
def test_callers_who_read_nothing_make_room_for_others(monkeypatch):
    with Impatient() as server, ExitStack() as stack:
        open_registry(server.behind).commit([Put(f"resources/org/{n}", {"x": "y" * 900_000}) for n in range(20)])
        monkeypatch.setenv("RH_REGISTRY", server.url)
        monkeypatch.setenv("RH_REGISTRY_TOKEN", server.token())
        head = f"Host: x\r\nAuthorization: Bearer {server.token()}\r\n\r\n"
        for _ in range(3):
            caller = stack.enter_context(socket.socket())
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.connect(("127.0.0.1", server.port))
            caller.sendall(f"GET /v1/changes HTTP/1.1\r\n{head}".encode())
            assert caller.recv(100)
        assert request(server, "GET", "/health")[0] == 503
        assert HTTPRegistry(server.url, timeout_s=20).whoami()["user"] == "ada"


@pytest.mark.parametrize("line", [b"a" * 4096, b"X-A: b\r\n" * 512], ids=["one line", "many lines"])
def test_a_head_without_end(server, line):
    """Also where httptools is installed, which has no limit."""
    with socket.create_connection(("127.0.0.1", server.port), 20) as caller:
        caller.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: b\r\nX-B: ")
        with pytest.raises(ConnectionError):
            caller.sendall(line * 16_000)
