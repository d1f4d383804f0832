"""Users and tokens of the registry server."""

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rh import errors
from rh.registry import open_registry
from rh.registry.accounts import accounts_of, new_credential
from rh.registry.base import Put
from rh.registry.http import RemoteAccounts
from tests.registry.server.client import request


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


def test_a_token_ends_however_many_were_made_of_it(tmp_path):
    """Each with the one before: whoever found a token cannot keep others from revoking it."""
    registry = open_registry(f"sqlite://{tmp_path}/registry.db")
    accounts = accounts_of(registry)
    accounts.put_user("ada", admin=True)
    accounts.put_user("eve")
    ids = [new_credential()[1] for _ in range(1500)]
    accounts.put_credential(ids[0], "0" * 64, user="eve")
    told = registry.get(f"server/credentials/{ids[0]}").document
    registry.commit([Put(f"server/credentials/{new}", {**told, "parent": old}) for old, new in itertools.pairwise(ids)])
    accounts.revoke_credential(ids[700])
    assert [one.id for one in accounts.credentials("eve") if not one.revoked] == sorted(
        ids[:700], key=[one.id for one in accounts.credentials()].index
    )
    accounts.remove_user("eve")
    assert all(one.revoked for one in accounts.credentials())


def test_tokens_that_are_made_while_the_first_is_revoked(server, people):
    found = people("eve").mine
    first, identity, sha256 = new_credential()
    body = json.dumps({"sha256": sha256}).encode()
    assert request(server, "PUT", f"/v1/tokens/{identity}", token=found, body=body)[0] == 200
    made: list[str] = []
    some = threading.Event()

    def make():
        while True:
            new, child, sha256 = new_credential()
            body = json.dumps({"sha256": sha256}).encode()
            if request(server, "PUT", f"/v1/tokens/{child}", token=first, body=body)[0] != 200:
                return
            made.append(new)
            if len(made) == 30:
                some.set()

    with ThreadPoolExecutor(4) as pool:
        makers = [pool.submit(make) for _ in range(4)]
        assert some.wait(60)
        assert request(server, "DELETE", f"/v1/tokens/{identity}", token=found)[0] == 200
        for maker in makers:
            maker.result()
    ids = {one.split("_")[1] for one in (first, *made)}
    assert [one.id for one in server.accounts.credentials("eve") if one.id in ids and not one.revoked] == []
    assert request(server, "GET", "/v1/me", token=found)[0] == 200


def test_what_is_no_id_of_a_token_is_refused(server, people):
    """Before anything is sent; a whole token is not repeated."""
    for accounts in (RemoteAccounts(people("ada")), server.accounts):
        for wrong in ("../users/bob", "", "x/y", server.token("bob")):
            with pytest.raises(errors.InvalidError, match="not the id of a token") as caught:
                accounts.revoke_credential(wrong)
            assert "rh registry token ls" in caught.value.hint
            assert server.token("bob") not in str(caught.value)
