"""Ways round the rights on a registry server that must not be."""

import threading

import pytest

from rh import errors
from rh.registry import open_registry
from rh.registry.base import Change, Delete, Put, Rename
from rh.registry.http import RemoteAccounts
from rh.registry.server.accounts import FRESH_S
from rh.registry.server.rights import Rights
from rh.versions.series import new_series


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
