"""Teammates who share through the library."""

import pytest

import rh
from rh import errors
from rh.cli import main
from rh.registry.http import RemoteAccounts
from rh.versions.series import Series


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


def test_a_registry_with_users_and_without_a_server_cannot_share(tmp_path, monkeypatch):
    monkeypatch.setenv("RH_REGISTRY", f"sqlite:///{tmp_path}/team.db")
    monkeypatch.setenv("RH_USER", "ada")
    assert main(["registry", "user", "add", "bob"]) == 0
    mine = rh.folder(path=tmp_path).save("@/mine")
    with pytest.raises(errors.UnsupportedError, match="only a registry server can share, and this registry is none"):
        mine.share("bob")


def test_sharing_needs_a_server(tmp_path):
    here = rh.folder(path=tmp_path).save("mine")
    for verb in (lambda: here.share("bob"), lambda: here.revoke("bob")):
        with pytest.raises(errors.UnsupportedError, match="only this machine") as caught:
            verb()
        assert "rh registry serve" in caught.value.hint
    with pytest.raises(errors.InvalidError, match="has a name"):
        rh.folder(path=tmp_path).share("bob")


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


def test_who_may_do_what_by_prefixes_above(server, people, org, monkeypatch, tmp_path):
    """Who answers for a name is told of everybody who gets in, and by which prefix; who does not is told nothing."""
    for name, value in server.environment("ada").items():
        monkeypatch.setenv(name, value)
    ada, bob, eve = (RemoteAccounts(people(user)) for user in ("ada", "bob", "eve"))
    cats = rh.folder(name=f"/{org}/team/cats", path=tmp_path).save()
    assert cats.share().inherited == ()
    ada.put_share(org, {"bob": "write"})
    ada.put_share(f"{org}/team", public=True)
    ada.put_share(f"{org}/te", {"eve": "write"})
    told = cats.share("eve")
    assert told.roles == {"eve": "read"}
    assert [(one.path, one.public, one.roles) for one in told.inherited] == [
        (org, False, {"bob": "write"}),
        (f"{org}/team", True, {}),
    ]
    assert cats.share() == told
    assert [one.path for one in ada.shares(org)] == [org, f"{org}/te", f"{org}/team", f"{org}/team/cats"]
    assert [one.path for one in ada.shares(f"{org}/team")] == [org, f"{org}/team", f"{org}/team/cats"]
    assert {one.path for one in ada.shares()} >= {org, f"{org}/te", f"{org}/team", f"{org}/team/cats"}
    for accounts in (bob, eve):
        with pytest.raises(errors.AccessError, match="may not share"):
            accounts.share(f"{org}/team/cats")
        with pytest.raises(errors.AccessError, match="may not share"):
            accounts.shares(f"{org}/team/cats")
        assert not [one for one in accounts.shares() if one.path.startswith(org)]
    with pytest.raises(errors.NotFoundError, match="nothing is called"):
        eve.shares(org)
    ada.put_share(f"{org}/team/cats", {"eve": "admin"})
    assert [one.path for one in eve.share(f"{org}/team/cats").inherited] == [org, f"{org}/team"]
    assert [one.path for one in eve.shares() if one.path.startswith(org)] == [f"{org}/team/cats"]
    ada.put_share(org, {"bob": None})
    assert ada.shares(f"{org}/team/cats") == server.accounts.shares(f"{org}/team/cats")
    assert org not in [one.path for one in ada.shares(org)], "nothing is said of it any more"


def test_nobody_is_revoked_who_has_no_role(server, org, monkeypatch, tmp_path):
    for name, value in server.environment("ada").items():
        monkeypatch.setenv(name, value)
    cats = rh.folder(name=f"/{org}/cats", path=tmp_path).save()
    cats.share("bob")
    with pytest.raises(errors.NotFoundError, match=rf"bobb has no role on /{org}/cats; did you mean bob"):
        cats.revoke(["bob", "bobb"])
    assert cats.share().roles == {"bob": "read"}
    assert cats.revoke("bob").roles == {}


def test_what_is_public_is_read_without_a_token(server, org, monkeypatch, tmp_path, capsys):
    """Also where there is nothing to tell: no aliases, no such alias, no properties."""
    for name, value in server.environment("bob").items():
        monkeypatch.setenv(name, value)
    blob = rh.blob(b"open", name=f"/bob/{org}", path=tmp_path / "blob").save()
    blob.commit("first")
    hidden = rh.blob(b"closed", name=f"/bob/{org}-hidden", path=tmp_path / "hidden").save()
    hidden.commit("first")
    blob.share(visibility="public")
    monkeypatch.delenv("RH_REGISTRY_TOKEN")
    monkeypatch.delenv("RH_USER")
    for words in (
        ["info", f"rh:///bob/{org}"],
        ["cat", f"rh:///bob/{org}:v1"],
        ["version", "ls", f"/bob/{org}"],
        ["alias", "ls", f"/bob/{org}"],
        ["lineage", f"/bob/{org}"],
    ):
        assert main(words) == 0, (words, capsys.readouterr().err)
    assert rh.load(f"/bob/{org}:v1").fetch() == b"open"
    with pytest.raises(errors.NotFoundError):
        rh.load(f"/bob/{org}:best")
    with pytest.raises(errors.UnauthenticatedError, match="nothing here is public"):
        rh.load(f"/bob/{org}-hidden")
    with pytest.raises(errors.UnauthenticatedError, match="nothing here is public"):
        rh.resources("/eve")
