"""The registry server: who may do what, what it refuses, what it tells."""

import http.client
import json
import os
import socket
import sys
import threading
import time
from contextlib import ExitStack, suppress
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rh
from rh import errors
from rh.registry import filters, open_registry
from rh.registry.accounts import ROLES, accounts_of, new_credential
from rh.registry.base import Change, Delete, Put, Rename
from rh.registry.http import HTTPRegistry, RemoteAccounts
from rh.registry.server.accounts import FRESH_S, Snapshot, StoredAccounts
from rh.registry.server.endpoints import ENDPOINTS, Call, Service
from rh.registry.server.limits import Buckets, Limits
from rh.registry.server.rights import Caller, Rights
from rh.registry.sql.sqlite import SQLiteRegistry
from rh.testing.servers.registry import RegistryServer
from rh.types import ABSENT
from rh.versions.series import Series, new_series

FUZZ_S = float(os.environ.get("RH_TEST_FUZZ_S", "20"))
"""How long the fuzzer goes on; promise 36 is about 600."""


@pytest.fixture(scope="module")
def server():
    with RegistryServer(options=["--rate", "100000"]) as server:
        for user in ("bob", "eve"):
            server.token(user)
        yield server


@pytest.fixture
def people(server, monkeypatch):
    """A registry as each user sees it. Names are in an organisation of this test's own."""

    class Client(HTTPRegistry):
        def __init__(self, user):
            super().__init__(server.url)
            self.mine = None if user is None else server.token(user)

        def _send(self, verb, method, path, query, body, token, left):
            return super()._send(verb, method, path, query, body, token or self.mine, left)

    monkeypatch.delenv("RH_REGISTRY_TOKEN", raising=False)
    return Client


@pytest.fixture
def org():
    return f"org{new_series()[:8]}"


def request(server, method, target, *, token=None, body=None, headers=()):
    """One plain request: status, headers, JSON or text."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        sent = dict(headers) | ({"Authorization": f"Bearer {token}"} if token else {})
        connection.request(method, target, body, sent)
        answer = connection.getresponse()
        text = answer.read()
        try:
            return answer.status, answer.headers, json.loads(text)
        except ValueError:
            return answer.status, answer.headers, text.decode()
    finally:
        connection.close()


# Who may do what.


def test_roles(server, people, org):
    """Every role on the name, above it, beside it: reading, writing, sharing."""
    ada, bob = people("ada"), people("bob")
    key = f"resources/{org}/team/x"
    ada.put(key, {"kind": "blob"})
    ada.put(f"resources/{org}/other", {"kind": "blob"})
    admin = RemoteAccounts(ada)
    for place in (org, f"{org}/team", f"{org}/team/x"):
        for role in (None, *ROLES):
            admin.put_share(place, {"bob": role})
            level = 0 if role is None else ROLES.index(role) + 1
            if level >= 1:
                assert bob.get(key).document == {"kind": "blob"}
                assert [one.key for one in bob.list(f"resources/{org}/team/")] == [key]
                assert [one.key for one in bob.changes(f"resources/{org}/team/")]
                assert list(bob.history(key))
            else:
                with pytest.raises(errors.NotFoundError):
                    bob.get(key)
                assert list(bob.list(f"resources/{org}")) == list(bob.history(key)) == list(bob.changes("resources/"))
            if level >= 2:
                assert bob.put(key, {"kind": "blob"}).author == "bob"
            else:
                with pytest.raises(errors.AccessError, match=f"bob may not write /{org}/team/x.*role write"):
                    bob.put(key, {"kind": "folder"})
                with pytest.raises(errors.AccessError if level else errors.NotFoundError):
                    bob.delete(key)
                with pytest.raises(errors.AccessError if level else errors.NotFoundError):
                    bob.rename(key, "resources/bob/stolen")
            if level >= 3:
                RemoteAccounts(bob).put_share(f"{org}/team/x", {"eve": "read"})
                RemoteAccounts(bob).put_share(f"{org}/team/x", {"eve": None})
            else:
                with pytest.raises(errors.AccessError if level else errors.NotFoundError):
                    RemoteAccounts(bob).put_share(f"{org}/team/x", {"eve": "read"})
            if place != org and level:
                assert bob.find(f"resources/{org}/other") is None
            admin.put_share(place, {"bob": None})


def test_a_role_covers_whole_components(people, org):
    """`/org/team` is not above `/org/team2`."""
    ada, bob = people("ada"), people("bob")
    ada.put(f"resources/{org}/team2/x", {})
    RemoteAccounts(ada).put_share(f"{org}/team", {"bob": "write"})
    assert bob.find(f"resources/{org}/team2/x") is None
    with pytest.raises(errors.AccessError):
        bob.put(f"resources/{org}/team2/x", {})


def test_users_own_what_is_below_their_name(people):
    bob, eve = people("bob"), people("eve")
    bob.put("resources/bob/x", {"n": 1}, by="ada")
    assert bob.get("resources/bob/x").author == "bob"
    assert eve.find("resources/bob/x") is None
    RemoteAccounts(bob).put_share("bob/x", {"eve": "read"})
    assert eve.get("resources/bob/x").document == {"n": 1}
    RemoteAccounts(bob).put_share("bob/x", {"eve": None})
    assert eve.find("resources/bob/x") is None


def test_an_unknown_and_a_forbidden_name_look_the_same(server, people, org):
    ada, bob = people("ada"), people("bob")
    ada.put(f"resources/{org}/there", {})

    def told(key, verb):
        with pytest.raises(errors.RhError) as caught:
            verb(key)
        return type(caught.value), str(caught.value).replace(key, "").replace(key.removeprefix("resources"), "")

    for verb in (
        bob.get,
        bob.delete,
        lambda key: bob.put(key, {}),
        lambda key: bob.put(key, {}, when=ABSENT),
        lambda key: bob.rename(key, "resources/bob/y"),
    ):
        assert told(f"resources/{org}/there", verb) == told(f"resources/{org}/notthere", verb)
    token = server.token("bob")
    answers = [
        request(server, "GET", f"/v1/record?key={quote(f'resources/{org}/{name}')}", token=token)
        for name in ("there", "gone")
    ]
    assert {status for status, _, _ in answers} == {404}


def test_public_names_need_no_token(server, people, org):
    ada, nobody = people("ada"), people(None)
    ada.put(f"resources/{org}/x", {"metadata": {"n": 1}})
    ada.put(f"resources/{org}/y", {"metadata": {"n": 1}})
    for verb in (
        lambda: nobody.get(f"resources/{org}/x"),
        lambda: nobody.get(f"resources/{org}/none"),
        lambda: list(nobody.list(f"resources/{org}/")),
        lambda: list(nobody.history(f"resources/{org}/x")),
        lambda: list(nobody.changes()),
        lambda: nobody.put(f"resources/{org}/x", {}),
        nobody.whoami,
    ):
        with pytest.raises(errors.UnauthenticatedError, match="token") as caught:
            verb()
        assert "rh login" in caught.value.hint
    RemoteAccounts(ada).put_share(f"{org}/x", public=True)
    assert nobody.get(f"resources/{org}/x").revision == 1
    assert [one.key for one in nobody.list(f"resources/{org}/")] == [f"resources/{org}/x"]
    assert [one.key for one in nobody.search(filters.F.n == 1, f"resources/{org}/")] == [f"resources/{org}/x"]
    assert people("eve").get(f"resources/{org}/x").revision == 1
    with pytest.raises(errors.AccessError):
        people("eve").put(f"resources/{org}/x", {})
    RemoteAccounts(ada).put_share(f"{org}/x", public=False)
    assert people("eve").find(f"resources/{org}/x") is None


def test_versions_go_with_their_name(people, org):
    """Whoever may read a name may read its versions, whatever it is called by now."""
    ada, bob, eve = people("ada"), people("bob"), people("eve")
    admin = RemoteAccounts(ada)
    admin.put_share(org, {"bob": "write"})
    series = new_series()
    bob.commit([
        Put(f"resources/{org}/x", {}),
        Put(f"series/{org}/x", {"series": series}, ABSENT),
        Put(f"versions/{series}/00000001", {"tree": "sha256:1"}, ABSENT),
        Put(f"heads/{series}", {"latest": 1}, ABSENT),
    ])  # fmt: skip
    keys = [f"versions/{series}/00000001", f"heads/{series}"]
    for key in keys:
        assert bob.get(key).revision == 1
        assert eve.find(key) is None
        with pytest.raises(errors.NotFoundError):
            eve.put(key, {})
    admin.put_share(f"{org}/x", {"eve": "read"})
    assert [eve.get(key).key for key in keys] == keys
    assert [one.key for one in eve.list(f"versions/{series}/")] == keys[:1]
    with pytest.raises(errors.AccessError):
        eve.put(f"aliases/{series}/production", {"version": 1})
    assert bob.put(f"aliases/{series}/production", {"version": 1}).revision == 1
    bob.commit([Rename(f"resources/{org}/x", f"resources/{org}/z"), Rename(f"series/{org}/x", f"series/{org}/z")])
    assert eve.find(keys[0]) is None, "the share was of the other name"
    assert bob.get(keys[0]).revision == 1
    admin.put_share(f"{org}/z", {"eve": "read"})
    assert eve.get(keys[0]).revision == 1
    bob.commit([Delete(f"series/{org}/z")])
    assert bob.find(keys[0]) is None
    assert ada.get(keys[0]).revision == 1


def test_versions_of_others_are_not_taken_over(people, org):
    """By writing down their id under a name of one's own."""
    ada, eve = people("ada"), people("eve")
    series = new_series()
    ada.commit([Put(f"series/{org}/x", {"series": series}), Put(f"versions/{series}/00000001", {})])
    for steps in (
        [Put("series/eve/x", {"series": series})],
        [Put("series/eve/x", {"series": series}), Put(f"versions/{series}/00000002", {})],
        [Put("resources/eve/tmp", {"series": series}), Rename(f"series/{org}/x", "series/eve/x")],
    ):
        with pytest.raises((errors.AccessError, errors.NotFoundError)):
            eve.commit(steps)
    eve.put("resources/eve/tmp", {"series": series})
    with pytest.raises(errors.InvalidError, match="of another kind"):
        eve.rename("resources/eve/tmp", "series/eve/x")
    ada.delete(f"series/{org}/x")
    with pytest.raises(errors.AccessError, match="those of another name"):
        eve.put("series/eve/x", {"series": series})
    for bad in ("", "x", "a/b/c/d/e/f", "../../../x", 5, None):
        with pytest.raises(errors.InvalidError, match="no proper id"):
            eve.put("series/eve/x", {"series": bad})
    assert eve.find(f"versions/{series}/00000001") is None


def test_runs_belong_to_who_made_them(people, org):
    ada, bob, eve = people("ada"), people("bob"), people("eve")
    run = new_series()
    assert bob.put(f"runs/{run}", {"status": "running"}).author == "bob"
    assert bob.put(f"runs/{run}", {"status": "done"}).revision == 2
    bob.put(f"outputs/{run}/1", {"name": f"/{org}/x", "url": "file:///x"})
    bob.put(f"inputs/{run}/1", {"name": f"/{org}/secret", "url": "file:///y"})
    with pytest.raises(errors.NotFoundError):
        eve.put(f"outputs/{run}/2", {"name": "/eve/x", "url": "file:///z"})
    assert eve.find(f"runs/{run}") is None
    with pytest.raises(errors.NotFoundError):
        eve.put(f"runs/{run}", {})
    RemoteAccounts(ada).put_share(f"{org}/x", {"eve": "read"})
    threading.Event().wait(FRESH_S)
    assert eve.get(f"runs/{run}").revision == 2
    assert [record.key for record in eve.list("outputs/")] == [f"outputs/{run}/1"]
    assert list(eve.list(f"inputs/{run}/")) == list(eve.history(f"inputs/{run}/1")) == []
    with pytest.raises(errors.AccessError):
        eve.put(f"runs/{run}", {})
    series = new_series()
    ada.put(f"series/{org}/x", {"series": series})
    assert eve.put(f"used/{series}/00000001/{new_series()}", {}).revision == 1
    with pytest.raises(errors.AccessError):
        eve.put(f"used/{series}/00000001/{run}", {})
    with pytest.raises(errors.AccessError):
        eve.put(f"made/{series}/00000001/{new_series()}", {})
    with pytest.raises(errors.NotFoundError):
        bob.put(f"used/{series}/00000001/{run}", {})


def test_other_keys_are_the_admins(people):
    ada, bob = people("ada"), people("bob")
    assert ada.put("anything", {"n": 1}).key == "anything"
    assert bob.find("anything") is None
    with pytest.raises(errors.NotFoundError):
        bob.put("anything", {})


def test_the_server_s_own_records_are_nobody_s(server, people):
    ada = people("ada")
    assert open_registry(server.behind).find("server/users/ada") is not None
    assert ada.find("server/users/ada") is None
    assert not [one for one in ada.list() if one.key.startswith("server/")]
    assert not [one for one in ada.changes() if one.key.startswith("server/")]
    assert list(ada.history("server/users/ada")) == []
    for steps in ([Put("server/users/eve", {"admin": True})], [Delete("server/users/bob")]):
        with pytest.raises(errors.AccessError, match="server's own"):
            ada.commit(steps)
    ada.put("decoy", {"admin": True})
    with pytest.raises(errors.AccessError, match="server's own"):
        ada.rename("decoy", "server/users/eve")
    change = next(iter(ada.changes("decoy")))
    with pytest.raises(errors.AccessError, match="server's own"):
        ada.replay([change._replace(key="server/users/eve")])


@pytest.mark.parametrize(
    "name", ["../ada/x", "bob/../ada/x", "bob//x", "/ada/x", "bob/./x", "bob", "", "~/x", "bob/a b", "bob/é", "bob/x\n"]
)
def test_names_that_try_to_lead_elsewhere(people, name):
    for space in ("resources", "series"):
        document = {"series": new_series()} if space == "series" else {}
        with pytest.raises(errors.InvalidError, match="is no name"):
            people("bob").put(f"{space}/{name}", document)


def test_a_rename_takes_its_shares_along(people, org):
    """And a new thing of the old name is not shared with whom the old one was."""
    bob, eve = people("bob"), people("eve")
    old, new = f"resources/bob/{org}", f"resources/bob/{org}-2"
    bob.put(old, {})
    RemoteAccounts(bob).put_share(f"bob/{org}", {"eve": "read"})
    bob.rename(old, new)
    assert eve.get(new).key == new
    bob.put(old, {})
    assert eve.find(old) is None
    bob.delete(new)
    bob.put(new, {})
    assert eve.find(new) is None


def test_replay_is_for_admins(people, tmp_path):
    ada, bob = people("ada"), people("bob")
    ada.put("resources/ada/replayed", {"n": 1}, token=new_series())
    other = open_registry(f"sqlite://{tmp_path}/other.db")
    other.put("elsewhere", {"n": 1}, by="cy", token="cy-1")
    other.put("elsewhere", {"n": 2}, by="dan")
    told = list(other.changes())
    with pytest.raises(errors.AccessError, match="for admins"):
        bob.replay(told)
    assert ada.replay(told) == 2
    assert ada.replay(told) == 0
    assert [change.author for change in ada.history("elsewhere")] == ["cy", "dan"]


# Tokens.


def test_tokens_expire_and_are_revoked(server, people):
    ada = RemoteAccounts(people("ada"))
    for spoiled in ("", "rh_", "x" * 3000, server.token("bob")[:-1] + "x", f"rh_{'0' * 12}_{'0' * 48}"):
        status, headers, told = request(server, "GET", "/v1/me", token=spoiled or "x")
        assert (status, told["error"]["kind"]) == (401, "unauthenticated")
        assert headers["WWW-Authenticate"]
    token, identity, sha256 = new_credential()
    ada.put_credential(identity, sha256, user="eve", name="short", ttl_s=0.4)
    assert request(server, "GET", "/v1/me", token=token)[2]["user"] == "eve"
    threading.Event().wait(0.5)
    assert "expired" in request(server, "GET", "/v1/me", token=token)[2]["error"]["message"]
    token, identity, sha256 = new_credential()
    ada.put_credential(identity, sha256, user="eve")
    assert request(server, "GET", "/v1/me", token=token)[0] == 200
    assert next(one for one in ada.credentials("eve") if one.id == identity).used
    ada.revoke_credential(identity)
    status, _, told = request(server, "GET", "/v1/me", token=token)
    assert (status, told["error"]["message"]) == (401, "the token was revoked")
    with pytest.raises(errors.ExistsError):
        ada.put_credential(identity, "0" * 64, user="eve")


def test_a_bad_token_is_refused_also_for_what_is_public(server, people, org):
    ada = people("ada")
    ada.put(f"resources/{org}/x", {})
    RemoteAccounts(ada).put_share(f"{org}/x", public=True)
    assert request(server, "GET", f"/v1/record?key=resources/{org}/x")[0] == 200
    assert request(server, "GET", f"/v1/record?key=resources/{org}/x", token="rh_wrong")[0] == 401


def test_only_the_hash_of_a_secret_is_kept(server):
    token = server.token("bob")
    secret = token.rpartition("_")[2].encode()
    for file in server.directory.iterdir():
        assert not file.is_file() or secret not in file.read_bytes()


def test_people_mind_their_own_tokens(server, people):
    ada, bob = RemoteAccounts(people("ada")), RemoteAccounts(people("bob"))
    token = bob.new_token(name="laptop")
    assert request(server, "GET", "/v1/me", token=token)[2]["user"] == "bob"
    assert {one.user for one in bob.credentials()} == {"bob"}
    theirs = ada.credentials("eve")[0].id
    for verb in (
        lambda: bob.credentials("eve"),
        lambda: bob.new_token(user="eve"),
        lambda: bob.revoke_credential(theirs),
        lambda: bob.put_user("mallory", admin=True),
        lambda: bob.put_user("bob", admin=True),
        lambda: bob.remove_user("ada"),
        bob.users,
    ):
        with pytest.raises((errors.AccessError, errors.NotFoundError)):
            verb()
    assert {user.name for user in ada.users()} >= {"ada", "bob", "eve"}


def test_a_user_who_is_removed(server, people):
    ada = RemoteAccounts(people("ada"))
    with pytest.raises(errors.ConflictError, match="only admin"):
        ada.remove_user("ada")
    ada.put_user("cy")
    token = ada.new_token(user="cy")
    ada.put_share("bob/of-cy", {"cy": "write"})
    ada.remove_user("cy")
    assert request(server, "GET", "/v1/me", token=token)[0] == 401
    assert ada.share("bob/of-cy").roles == {}
    ada.put_user("cy")
    assert request(server, "GET", "/v1/me", token=token)[0] == 401, "a new cy is somebody else"
    with pytest.raises(errors.NotFoundError, match="did you mean"):
        ada.put_share("bob/x", {"boob": "read"})
    for bad in ("", "a/b", "..", "~", "x" * 200):
        with pytest.raises((errors.InvalidError, errors.NotFoundError)):
            ada.put_user(bad)


def test_a_change_of_another_process_is_noticed(server, people):
    """`rh registry token revoke` beside the server."""
    beside = accounts_of(open_registry(server.behind))
    token = beside.new_token(user="bob")
    assert request(server, "GET", "/v1/me", token=token)[0] == 200
    beside.revoke_credential(token.split("_")[1])
    for _ in range(100):
        if request(server, "GET", "/v1/me", token=token)[0] == 401:
            return
        threading.Event().wait(0.1)
    pytest.fail("the token is still good")


# Limits.


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
    with RegistryServer(options=["--rate", "20"]) as server:
        token = server.token()
        answers = [request(server, "GET", "/v1/me", token=token) for _ in range(60)]
        refused = [headers for status, headers, _ in answers if status == 429]
        assert refused
        assert 0 < float(refused[0]["Retry-After"]) < 1

        class Client(HTTPRegistry):
            def _send(self, verb, method, path, query, body, given, left):
                return super()._send(verb, method, path, query, body, token, left)

        for n in range(60):
            Client(server.url).put("a", {"n": n})
        assert request(server, "GET", "/health")[0] == 200


def test_strangers_are_slowed_down():
    with RegistryServer() as server:
        statuses = [request(server, "GET", "/v1/me", token=f"rh_{'0' * 12}_{'0' * 48}")[0] for _ in range(120)]
        assert set(statuses) == {401, 429}
        assert request(server, "GET", "/v1/me", token=server.token())[0] == 200


def test_a_bucket_fills_by_its_rate():
    buckets = Buckets(rate=1e-3, burst=2)
    assert [buckets.take("a") == 0 for _ in range(3)] == [True, True, False]
    assert buckets.take("b") == 0
    assert 900 < buckets.take("a") <= 1000


# What it tells.


def test_nothing_without_a_token(server):
    for endpoint in ENDPOINTS:
        target = endpoint.path.replace("{user}", "ada").replace("{id}", "0" * 12)
        body = b"{}" if endpoint.method in ("POST", "PUT") else None
        if endpoint.name == "search":
            body = b'{"where": {"all": []}, "prefix": "none/"}'
        if endpoint.name == "list":
            target += "?prefix=none/"
        status, _, told = request(server, endpoint.method, target, body=body)
        assert (status, told["error"]["kind"]) == (401, "unauthenticated"), endpoint.name
    for path in ("/metrics", "/openapi.json"):
        assert request(server, "GET", path)[0] == 401
    for path in ("/health", "/ready"):
        assert request(server, "GET", path)[0] == 200


def test_metrics_and_description(server, people):
    people("ada").put("resources/ada/x", {})
    status, _, text = request(server, "GET", "/metrics", token=server.token())
    assert status == 200
    assert 'rh_requests_total{endpoint="commit",status="200"}' in text
    assert 'rh_request_seconds_bucket{endpoint="commit",le="+Inf"}' in text
    assert request(server, "GET", "/metrics", token=server.token("bob"))[0] == 403
    status, _, told = request(server, "GET", "/openapi.json", token=server.token("bob"))
    assert told["openapi"].startswith("3.1")
    for endpoint in ENDPOINTS:
        assert told["paths"][endpoint.path][endpoint.method.lower()]["operationId"] == endpoint.name


def test_every_answer_has_its_id_and_the_protocol(server):
    _, headers, told = request(server, "GET", "/nothing", headers={"X-Request-Id": "mine-1"})
    assert headers["RH-Protocol"] == "1"
    assert headers["X-Request-Id"] == told["error"]["request"] == "mine-1"
    _, headers, _ = request(server, "GET", "/health", headers={"X-Request-Id": "not\tan id"})
    assert len(headers["X-Request-Id"]) == 32
    assert request(server, "PATCH", "/v1/record")[0] == 405
    assert request(server, "HEAD", "/health")[0] == 200


def test_the_audit_log_tells_who_changed_what(server, people, org):
    ada, bob = people("ada"), people("bob")
    ada.put(f"resources/{org}/audited", {"metadata": {"canary": "document-canary"}})
    with pytest.raises(errors.AccessError):
        bob.put(f"resources/{org}/audited", {"n": 1})
    RemoteAccounts(ada).put_share(f"{org}/audited", {"bob": "read"})
    text = server.audit.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    mine = [(one["user"], one["action"], one["outcome"]) for one in lines if any(org in key for key in one["keys"])]
    assert mine == [("ada", "commit", "done"), ("bob", "commit", "refused"), ("ada", "put_share", "done")]
    assert all(one["request"] and one["client"] == "127.0.0.1" and one["time"] for one in lines)
    assert "document-canary" not in text
    assert server.token("ada").rpartition("_")[2] not in text
    assert server.audit.stat().st_mode & 0o777 == 0o600


def test_what_is_behind_the_server_is_not_told():
    with RegistryServer() as server:
        token = server.token()
        assert request(server, "GET", "/ready", token=token)[0] == 200
        server.kill()
        for suffix in ("-wal", "-shm"):
            (server.directory / f"registry.db{suffix}").unlink(missing_ok=True)
        (server.directory / "registry.db").write_bytes(b"this is no database" * 100)
        server.start()
        status, _, told = request(server, "GET", f"/v1/record?{urlencode({'key': 'a'})}", token=token)
        assert status >= 500
        assert str(server.directory) not in json.dumps(told)
        assert told["error"]["request"] in server.log
        assert request(server, "GET", "/health")[0] == 200


# Two people.


def test_teammates_share_through_the_library(server, monkeypatch, tmp_path, org):
    """`share` and `revoke` of a folder with versions."""

    def be(user):
        for name, value in server.environment(user).items():
            monkeypatch.setenv(name, value)

    be("bob")
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/a.txt").write_text("tabby")
    name = f"/bob/{org}"
    cats = rh.folder(path=tmp_path / "cats").save(name)
    cats.commit("first", aliases=["production"])
    assert cats.share("eve").roles == {"eve": "read"}
    be("eve")
    theirs = rh.load(f"{name}:production")
    assert theirs.open("a.txt").read() == b"tabby"
    (tmp_path / "cats/a.txt").write_text("siamese")
    with pytest.raises(errors.AccessError, match="eve may not write"):
        rh.load(name).commit("mine")
    with pytest.raises(errors.AccessError, match="role admin"):
        rh.load(name).share("eve", "write")
    be("bob")
    cats.share(["eve"], "write", visibility="public")
    be("eve")
    rh.load(name).alias("staging", "v1")
    assert isinstance(rh.load(name).series_of(), Series)
    be("bob")
    assert cats.revoke("eve").public
    assert cats.share(visibility="private").roles == {}
    be("eve")
    assert not rh.exists(name)
    with pytest.raises(errors.NotFoundError):
        rh.load(name)


def test_sharing_needs_a_server(tmp_path):
    here = rh.folder(path=tmp_path).save("mine")
    for verb in (lambda: here.share("bob"), lambda: here.revoke("bob")):
        with pytest.raises(errors.UnsupportedError, match="only this machine") as caught:
            verb()
        assert "rh registry serve" in caught.value.hint
    with pytest.raises(errors.InvalidError, match="has a name"):
        rh.folder(path=tmp_path).share("bob")


# What must not be got round.


def test_a_series_cannot_be_called_like_other_keys(people):
    """`types/resources/…`, `made/external/…`: what is there goes by no name of a series."""
    bob, eve = people("bob"), people("eve")
    for series in ("resources", "external", "a" * 31, "A" * 32):
        with pytest.raises(errors.InvalidError, match="no proper id"):
            eve.put("series/eve/taken", {"series": series})
    with pytest.raises(errors.NotFoundError):
        eve.put("types/resources/bob", {"text": ["score"]})
    assert bob.put("types/resources/bob", {"number": ["score"]}).key == "types/resources/bob"
    assert eve.find("types/resources/bob") is None


def test_a_series_that_took_over_other_keys_before(server, people):
    """Its record may be there from before that was refused."""
    open_registry(server.behind).put("series/eve/old", {"series": "resources"})
    threading.Event().wait(FRESH_S)
    eve = people("eve")
    with pytest.raises(errors.NotFoundError):
        eve.put("types/resources/ada", {"text": ["score"]})
    eve.delete("series/eve/old")


def test_data_that_no_version_holds_go_by_their_run(people):
    bob, eve = people("bob"), people("eve")
    run, node = new_series(), f"external/{'0' * 64}"
    bob.put(f"runs/{run}", {"status": "running"})
    for verb in ("used", "made"):
        assert bob.put(f"{verb}/{node}/{run}", {"run": run, "name": "secret"}).revision == 1
        assert eve.find(f"{verb}/{node}/{run}") is None
        assert list(eve.list(f"{verb}/{node}/")) == list(eve.history(f"{verb}/{node}/{run}")) == []
        with pytest.raises(errors.NotFoundError):
            eve.put(f"{verb}/{node}/{run}", {})
    bob.put(f"outputs/{run}/1", {"name": "/bob/outcome", "url": "file:///x"})
    RemoteAccounts(bob).put_share("bob/outcome", {"eve": "read"})
    threading.Event().wait(FRESH_S)
    assert [record.key for record in eve.list(f"made/{node}/")] == [f"made/{node}/{run}"]
    with pytest.raises(errors.AccessError):
        eve.put(f"made/{node}/{run}", {})


def test_a_run_of_anybody_records_what_it_writes(server, monkeypatch, tmp_path):
    for name, value in server.environment("bob").items():
        monkeypatch.setenv(name, value)
    with rh.run("live") as run:
        rh.folder(name="/bob/live-out", path=tmp_path / "out").save().put({"b": b"1"})
    assert run.status == "done"
    assert [output.name for output in run.outputs] == ["/bob/live-out"]


def test_properties_of_one_name_among_others(server, people, org, monkeypatch, tmp_path):
    """Who may write one name of an owner, and knows of no other, gives it properties, new ones as well."""

    def be(user):
        for name, value in server.environment(user).items():
            monkeypatch.setenv(name, value)

    be("ada")
    cats = rh.folder(name=f"/{org}/cats", path=tmp_path).save()
    cats.share("bob", "write")
    be("bob")
    assert rh.load(f"/{org}/cats").annotate(label="tabby").metadata == {"label": "tabby"}


def test_a_token_of_a_commit_is_its_author_s(server, people, org):
    """An imported commit, of which nobody knows what was asked for, tells nobody what it did."""
    ada, bob, eve = people("ada"), people("bob"), people("eve")
    token, imported = new_series(), new_series()
    ada.replay([
        Change(f"resources/{org}/secret", 1, "put", {"deal": "acme"}, "ada", 1.0, imported),
        Change(f"resources/{org}/x", 1, "put", {}, "ada", 1.0, imported),
    ])  # fmt: skip
    for user in (eve, ada):
        for steps in (
            [Put("resources/eve/y", {})],
            [Put("resources/eve/secret", {}), Put("resources/eve/x", {})],
        ):
            with pytest.raises(errors.InvalidError, match="used for other changes"):
                user.commit(steps, token=imported)
    with pytest.raises(errors.InvalidError, match="used for other changes"):
        ada.commit([Put(f"resources/{org}/secret", {"deal": "other"}), Put(f"resources/{org}/x", {})], token=imported)
    same = [Put(f"resources/{org}/secret", {"deal": "acme"}), Put(f"resources/{org}/x", {})]
    assert [change.revision for change in ada.commit(same, token=imported)] == [1, 1]
    RemoteAccounts(ada).put_share(org, {"bob": "write", "eve": "write"})
    bob.put(f"resources/{org}/z", {}, token=token)
    with pytest.raises(errors.InvalidError, match="used for other changes"):
        eve.put(f"resources/{org}/z", {}, token=token)
    assert eve.find("resources/eve/y") is None


def test_a_commit_that_arrives_again_after_its_share_moved(people, org):
    """The right to it came from what it took along."""
    ada, bob, eve = people("ada"), people("bob"), people("eve")
    for name in ("gone", "away", "kept"):
        ada.put(f"resources/{org}/{name}", {"n": 1})
        RemoteAccounts(ada).put_share(f"{org}/{name}", {"bob": "write", "eve": "read"})
    for steps in (
        [Delete(f"resources/{org}/gone")],
        [Rename(f"resources/{org}/away", f"resources/bob/{org}"), Put(f"resources/bob/{org}-2", {})],
    ):
        token = new_series()
        first = bob.commit(steps, token=token)
        assert bob.commit(steps, token=token) == first
        assert not [change for change in first if change.key.startswith("server/")]
        with pytest.raises(errors.RhError):
            eve.commit(steps, token=token)
        with pytest.raises(errors.NotFoundError):
            bob.commit(steps, token=new_series())
    token = new_series()
    steps = [Rename(f"resources/{org}/kept", f"resources/{org}/kept-2")]
    first = ada.commit(steps, token=token)
    assert ada.commit(steps, token=token) == first
    with pytest.raises(errors.InvalidError, match="used for other changes"):
        ada.commit([Put(f"resources/{org}/kept", {})], token=token)
    assert RemoteAccounts(ada).share(f"{org}/kept").roles == {}
    assert RemoteAccounts(ada).share(f"{org}/kept-2").roles == {"bob": "write", "eve": "read"}


def test_a_share_moves_in_the_commit_that_moves_its_name(server, people, org):
    ada = people("ada")
    ada.put(f"resources/{org}/x", {})
    RemoteAccounts(ada).put_share(f"{org}/x", {"bob": "read"})
    ada.rename(f"resources/{org}/x", f"resources/{org}/y", token=f"move-{org}")
    told = [change for change in open_registry(server.behind).changes() if change.token == f"move-{org}"]
    spaces = sorted(change.key for change in told)
    assert spaces == sorted(f"{space}/{org}/{name}" for space in ("resources", "server/shares") for name in "xy")


def test_names_are_learnt_while_others_are(tmp_path):
    """Threads that rename at once."""
    rights = Rights(open_registry(f"sqlite://{tmp_path}/r.db"))
    ids = [new_series() for _ in range(3000)]
    rights.learn([Change(f"series/o/{n}", 1, "put", {"series": one}, "", 0.0, "") for n, one in enumerate(ids)])
    failed = []

    def learn(part):
        try:
            for n in range(part, 3000, 4):
                new = Change(f"series/o/{n}-2", 1, "put", {"series": ids[n]}, "", 0.0, "")
                rights.learn([Change(f"series/o/{n}", 2, "delete", None, "", 0.0, ""), new])
        except RuntimeError as error:
            failed.append(error)

    threads = [threading.Thread(target=learn, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert [rights.name_of(one, 0.0) for one in ids] == [f"o/{n}-2" for n in range(3000)]


def test_a_user_is_not_called_like_what_others_have(server, people, org):
    ada = people("ada")
    admin = RemoteAccounts(ada)
    ada.put(f"resources/{org}/x", {})
    admin.put_share(f"{org}b/team", {"bob": "admin"})
    open_registry(server.behind).put(f"resources/{org}c/x", {}, by=f"{org}c")
    for name in (org, f"{org}b"):
        with pytest.raises(errors.ExistsError, match="belongs to a team"):
            admin.put_user(name)
    assert admin.put_user(f"{org}c").name == f"{org}c", "its names were made by somebody of that name"
    admin.remove_user(f"{org}c")


def test_the_last_admin_stays_one(server, people):
    admin = RemoteAccounts(people("ada"))
    with pytest.raises(errors.ConflictError, match="only admin"):
        admin.put_user("ada")
    admin.put_user("cy", admin=True)
    admin.put_user("cy")
    assert [user.name for user in admin.users() if user.admin] == ["ada"]
    admin.remove_user("cy")


def test_a_token_outlives_none_that_made_it(server, people):
    """And ends with it, except the one that is to take its place."""

    def made_with(token, **options):
        new, identity, sha256 = new_credential()
        body = json.dumps({"sha256": sha256, **options}).encode()
        status, _, told = request(server, "PUT", f"/v1/tokens/{identity}", token=token, body=body)
        assert status == 200
        return new, told

    def is_good(token):
        return request(server, "GET", "/v1/me", token=token)[0] == 200

    def revoke(token, by):
        status = request(server, "DELETE", f"/v1/tokens/{token.split('_')[1]}", token=by)[0]
        assert status == 200

    short, told = made_with(server.token("eve"), ttl_s=1000)
    children = [made_with(short), made_with(short, ttl_s=5000), made_with(short, ttl_s=10)]
    ends = [child["expires"] for _, child in children]
    assert ends[0] == ends[1] == told["expires"] > ends[2]
    grandchild, _ = made_with(children[0][0])
    revoke(short, server.token("eve"))
    assert not any(is_good(one) for one in (short, grandchild, *(child for child, _ in children)))
    assert is_good(server.token("eve"))
    old, _ = made_with(server.token("eve"))
    new, _ = made_with(old)
    other, _ = made_with(old)
    revoke(old, new)
    assert [is_good(one) for one in (old, new, other)] == [False, True, False]
    revoke(new, server.token("eve"))
    assert not is_good(new)


def test_a_moment_that_is_none(server, people):
    for as_of in ("1e999", "1" + "0" * 30, "1" + "0" * 400, "-1" + "0" * 400):
        body = f'{{"where": {{"all": []}}, "prefix": "none/", "as_of": {as_of}}}'.encode()
        status, _, told = request(server, "POST", "/v1/search", token=server.token(), body=body)
        assert status in (200, 400), told
    with pytest.raises(errors.InvalidError, match="not a moment"):
        next(open_registry(server.behind).search(filters.All(()), as_of=10**400), None)
    assert next(open_registry(server.behind).search(filters.All(()), "none/", as_of=10**30), None) is None


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
serve(open_registry(sys.argv[1]), port=int(sys.argv[2]), limits=Limits(header_s=0.5, connections=20))
"""


class Impatient(RegistryServer):
    """A server that waits half a second for the head of a request, and has up to 20 connections."""

    def _command(self):
        return [sys.executable, "-c", SERVING, self.behind, str(self.port)]


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


def test_the_audit_log_tells_both_names_of_a_rename(server, people, org):
    ada = people("ada")
    ada.put(f"resources/{org}/x", {})
    ada.rename(f"resources/{org}/x", f"resources/{org}/y")
    lines = [json.loads(line) for line in server.audit.read_text().splitlines()]
    assert lines[-1]["keys"] == [f"resources/{org}/x", f"resources/{org}/y"]


def test_nobody_is_revoked_who_has_no_role(server, org, monkeypatch, tmp_path):
    for name, value in server.environment("ada").items():
        monkeypatch.setenv(name, value)
    cats = rh.folder(name=f"/{org}/cats", path=tmp_path).save()
    cats.share("bob")
    with pytest.raises(errors.NotFoundError, match=rf"bobb has no role on /{org}/cats; did you mean bob"):
        cats.revoke(["bob", "bobb"])
    assert cats.share().roles == {"bob": "read"}
    assert cats.revoke("bob").roles == {}


# Anything.


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
STEPS = st.fixed_dictionaries(
    {
        "do": st.sampled_from(["put", "delete", "rename", "x"]),
        "key": st.text(max_size=30)
        | st.sampled_from(["resources/bob/x", "series/bob/x", "server/users/bob", "runs/x"]),
    },
    optional={
        "document": st.dictionaries(st.text(max_size=9), ANY_JSON, max_size=3),
        "when": st.sampled_from(["any", "absent", {"match": "1"}]) | ANY_JSON,
        "to": st.text(max_size=20),
        "replace": st.booleans(),
    },
)
FIELDS = sorted({name for endpoint in ENDPOINTS for name in (endpoint.body or {})})
BODIES = (
    st.binary(max_size=200)
    | ANY_JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(FIELDS), ANY_JSON, max_size=4).map(lambda value: json.dumps(value).encode())
    | st.lists(STEPS, max_size=3).map(lambda steps: json.dumps({"steps": steps}).encode())
)
TARGETS = st.sampled_from([endpoint.path for endpoint in ENDPOINTS] + ["/", "/v1", "/health", "/metrics"])


@pytest.mark.slow
@pytest.mark.timeout(FUZZ_S + 120)
def test_anything_at_all_is_answered(server):
    """Promise 36: no 5xx, whatever comes. `RH_TEST_FUZZ_S=600` is the whole campaign."""
    until = time.monotonic() + FUZZ_S
    tokens = [server.token("ada"), server.token("bob")]
    seen = set()

    @settings(max_examples=1000, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD"]),
        TARGETS,
        st.text(max_size=20),
        st.dictionaries(
            st.sampled_from(["key", "prefix", "after", "limit", "user", "path"]), st.text(max_size=20), max_size=3
        ),
        BODIES,
        st.sampled_from(tokens),
    )
    def anything(method, target, part, query, body, token):
        if time.monotonic() > until:
            return
        target = target.replace("{user}", quote(part or "x", safe="")).replace("{id}", quote(part or "x", safe=""))
        if (method, target) in (("DELETE", "/v1/users/ada"), ("PUT", "/v1/users/ada"), ("PUT", "/v1/users/bob")):
            return
        asked = f"{target}?{urlencode(query)}"
        status, _, told = request(server, method, asked, token=token, body=body)
        seen.add(status)
        assert status < 500, (method, asked, body, told)

    while time.monotonic() < until:
        anything()
    assert {200, 400, 404} <= seen
    assert request(server, "GET", "/ready")[0] == 200


@pytest.mark.slow
def test_bytes_that_are_no_http_are_answered_or_cut(server):
    import random

    source = random.Random(1)
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", server.port), 10) as raw:
            raw.sendall(
                source.choice([b"", b"GET / HTTP/1.1\r\n", b"POST /v1/commit HTTP/1.1\r\n"]) + source.randbytes(60)
            )
            raw.shutdown(socket.SHUT_WR)
            answer = raw.recv(100)
            assert answer[:10] in (b"", b"HTTP/1.1 4"[:10])
    assert request(server, "GET", "/health")[0] == 200
