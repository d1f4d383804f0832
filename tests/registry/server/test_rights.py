"""Who may do what through the registry server."""

import threading
from urllib.parse import quote

import pytest

from rh import errors
from rh.registry import filters, open_registry
from rh.registry.accounts import ROLES
from rh.registry.base import Delete, Put, Rename
from rh.registry.http import RemoteAccounts
from rh.registry.server.accounts import FRESH_S
from rh.types import ABSENT
from rh.versions.series import new_series
from tests.registry.server.client import request


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
    bob.put("resources/bob/mine", {})

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
        lambda key: bob.rename("resources/bob/mine", key),
        lambda key: bob.commit([Rename("resources/bob/mine", key, replace=True)]),
    ):
        assert told(f"resources/{org}/there", verb) == told(f"resources/{org}/notthere", verb)
    token = server.token("bob")
    answers = [
        request(server, "GET", f"/v1/record?key={quote(f'resources/{org}/{name}')}", token=token)
        for name in ("there", "gone")
    ]
    assert {status for status, _, _ in answers} == {404}


def test_a_rename_to_where_one_may_not_write(people, org):
    """What is refused is the new name, as for a name that is saved there, and not the old one."""
    bob, series = people("bob"), new_series()
    bob.commit([Put("resources/bob/old", {}), Put("series/bob/old", {"series": series})])
    fix = f"rh registry grant /{org}/new bob write"
    for steps in (
        [Put(f"resources/{org}/new", {})],
        [Rename("resources/bob/old", f"resources/{org}/new")],
        [Rename("series/bob/old", f"series/{org}/new", replace=True)],
    ):
        with pytest.raises(errors.AccessError, match=f"bob may not write /{org}/new") as caught:
            bob.commit(steps)
        assert fix in caught.value.hint
    with pytest.raises(errors.NotFoundError, match="nothing is registered as 'resources/bob/none'"):
        bob.rename("resources/bob/none", "resources/bob/new")
    assert bob.get("resources/bob/old").revision == 1
    RemoteAccounts(people("ada")).put_share(f"{org}/new", {"bob": "write"})
    assert bob.rename("resources/bob/old", f"resources/{org}/new").key == f"resources/{org}/new"


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


def test_a_name_that_was_forgotten_gets_its_versions_back(people, org):
    """From whoever may write it, and only its own: not those that it gave away when it was renamed."""
    ada, bob, eve = people("ada"), people("bob"), people("eve")
    RemoteAccounts(ada).put_share(org, {"bob": "write"})
    name, series = f"series/{org}/x", new_series()
    bob.commit([Put(name, {"series": series}, ABSENT), Put(f"heads/{series}", {"latest": 1}, ABSENT)])
    bob.delete(name)
    for other, key in ((bob, f"series/{org}/y"), (eve, "series/eve/x")):
        with pytest.raises(errors.AccessError, match="those of another name"):
            other.put(key, {"series": series}, when=ABSENT)
    with pytest.raises(errors.AccessError, match="may not write"):
        eve.put(name, {"series": series}, when=ABSENT)
    bob.put(name, {"series": series}, when=ABSENT)
    assert bob.get(f"heads/{series}").document == {"latest": 1}
    ada.rename(name, "series/ada/secret")
    for _ in range(2):
        with pytest.raises(errors.AccessError, match="those of another name"):
            bob.put(name, {"series": series}, when=ABSENT)
        if ada.find("series/ada/secret") is not None:
            ada.delete("series/ada/secret")


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
