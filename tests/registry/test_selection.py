"""Some names go to another registry, with what belongs to them, and nothing that is there is overwritten."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import rh
from rh import config, errors
from rh.registry import local, open_registry
from rh.registry.archive import export, import_, limited_to, migrate
from rh.registry.base import Registry
from rh.testing.servers.registry import RegistryServer
from tests.registry.kinds import KINDS, Shared, opened


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Registry:
    """The registry of this machine: two folders with versions, one of which was called otherwise before, and a blob."""
    monkeypatch.setenv("RH_USER", "ada")
    cats = rh.folder(name="~/kittens", path=tmp_path / "cats").mkdir().save()
    cats.put({"1.txt": b"tabby"})
    cats.commit("first", aliases=["production"], metadata={"quality": 0.9})
    cats = rh.load("~/kittens").annotate(tags=["gold"]).rename("~/cats")
    cats.annotate("1.txt", label="tabby")
    cats.put({"2.txt": b"siamese"})
    cats.commit("second", aliases=["staging"])
    cats.alias("production", "v2")
    dogs = rh.folder(name="~/dogs", path=tmp_path / "dogs").mkdir().save()
    dogs.put({"1.txt": b"collie"})
    dogs.commit()
    with rh.run("train"):
        rh.load("~/cats:production").get("1.txt")
        rh.blob(b"x", name="~/work/model", path=tmp_path / "model").save().commit()
    return local()


@pytest.fixture(params=KINDS)
def there(request, tmp_path, monkeypatch) -> Iterator[Shared]:
    with opened(request.param, request, tmp_path / "there") as shared:
        for name, value in shared.variables.items():
            monkeypatch.setenv(name, value)
        if shared.settings:
            config.home().mkdir(parents=True, exist_ok=True)
            (config.home() / "config.toml").write_text(shared.settings)
        if shared.server is not None:
            monkeypatch.setenv("RH_REGISTRY_TOKEN", shared.server.token())
        monkeypatch.setenv("RH_REGISTRY", shared.url)
        yield shared


def test_what_the_team_took_over_is_not_swept(mine, there, tmp_path):
    """Both names have the versions: `rh gc` takes away what neither needs, and says so before."""
    migrate(mine, open_registry(there.url), names={"~/dogs": "/team/dogs"})
    rh.load("/team/dogs").alias("production", "v1")
    dogs = rh.load("~/dogs")
    dogs.put({"1.txt": b"poodle"}, overwrite=True)
    dogs.commit()
    (told,) = rh.gc("~/dogs", keep=1, older_than_s=0, dry_run=True)
    (done,) = rh.gc("~/dogs", keep=1, older_than_s=0)
    assert told.dropped == done.dropped == ["~/dogs:v1"]
    assert told.collected.trees == done.collected.trees == 0
    assert rh.load("/team/dogs:production").verify().ok
    dogs = rh.load("/team/dogs")
    dogs.commit()
    dogs.unalias("production")
    dogs.put({"1.txt": b"beagle"}, overwrite=True)
    dogs.commit()
    rh.load("~/dogs").commit()
    place = tmp_path / "dogs"
    told = rh.gc(path=place, keep=1, older_than_s=0, dry_run=True)[0]
    done = rh.gc(path=place, keep=1, older_than_s=0)[0]
    assert {"~/dogs:v2", "/team/dogs:v1", "/team/dogs:v2"} <= {*told.dropped} == {*done.dropped}
    assert told.collected.trees == done.collected.trees > 0
    assert rh.load("~/dogs:latest").get("1.txt") == rh.load("/team/dogs:latest").get("1.txt") == b"beagle"


def test_a_name_of_this_machine_becomes_one_of_the_team(mine, there):
    before = list(mine.changes())
    team = open_registry(there.url)
    count = migrate(mine, team, names={"~/cats": "/team/cats"})
    assert count > 10
    cats = rh.load("/team/cats:production")
    assert cats.get("2.txt") == b"siamese"
    assert rh.load("/team/cats:v1").get("1.txt") == b"tabby"
    assert rh.load("/team/cats").tags == ("gold",)
    assert rh.folder("/team/cats").aliases() == {"production": "v2", "staging": "v2"}
    assert [version.message for version in rh.folder("/team/cats").versions()][:2] in (
        ["first", "second"],
        ["second", "first"],
    )
    told = [(change.action, change.author) for change in rh.load("/team/cats").history()]
    assert told == [(change.action, change.author) for change in rh.load("~/cats").history()]
    assert [hit.name for hit in rh.find(tags="gold", prefix="/team")] == ["/team/cats"]
    assert rh.resources("/team") == ["/team/cats"]
    keys = {record.key.partition("/")[0] for record in team.list()} - {"server"}
    assert keys.isdisjoint({"runs", "inputs", "outputs", "used", "made"})
    assert migrate(mine, team, names={"~/cats": "/team/cats"}) == 0
    rh.load("~/cats").annotate(tags=["silver"])
    assert migrate(mine, team, names={"~/cats": "/team/cats"}) > 0
    assert rh.load("/team/cats").tags == ("gold", "silver")
    assert list(mine.changes())[: len(before)] == before


def test_what_would_overwrite_is_refused_whole(mine, there, tmp_path):
    team = open_registry(there.url)
    rh.blob(b"other", name="/team/dogs", path=tmp_path / "other").save()
    before = [record for record in team.list() if not record.key.startswith("server/")]
    names = {"~/cats": "/team/cats", "~/dogs": "/team/dogs"}
    with pytest.raises(errors.ConflictError, match="both registries have changed /team/dogs"):
        migrate(mine, team, names=names)
    assert [record for record in team.list() if not record.key.startswith("server/")] == before
    export(mine, tmp_path / "some.jsonl", names=names)
    with pytest.raises(errors.ConflictError, match="/team/dogs"):
        import_(team, tmp_path / "some.jsonl")
    assert [record for record in team.list() if not record.key.startswith("server/")] == before


def test_a_file_of_some_names(mine, tmp_path):
    """What a selection took over is no obstacle to the rest."""
    other = open_registry(f"sqlite://{tmp_path}/other.db")
    export(mine, tmp_path / "cats.jsonl", names=["~/cats"])
    assert import_(other, tmp_path / "cats.jsonl") > 0
    assert [record.key for record in other.list("resources/")] == ["resources/~/cats"]
    assert import_(other, tmp_path / "cats.jsonl") == 0
    migrate(mine, other, everything=True)
    assert list(other.list()) == list(mine.list())


def test_folders_of_names(mine, tmp_path):
    other = open_registry(f"sqlite://{tmp_path}/other.db")
    migrate(mine, other, prefixes={"~/work": "/team/models"}, names=["~/dogs"])
    assert [record.key for record in other.list("resources/")] == ["resources/team/models/model", "resources/~/dogs"]
    everything = open_registry(f"sqlite://{tmp_path}/everything.db")
    migrate(mine, everything, prefixes=["~"])
    assert [one.key for one in everything.list("resources/")] == [one.key for one in mine.list("resources/")]


@pytest.mark.parametrize(
    ("chosen", "error", "says"),
    [
        ({"names": ["~/cat"]}, errors.NotFoundError, "nothing is called ~/cat; did you mean ~/cats"),
        ({"prefixes": ["/none"]}, errors.NotFoundError, "no name below /none"),
        ({"names": ["~/cats:v1"]}, errors.InvalidError, "goes elsewhere by itself"),
        ({"names": "~/cats"}, errors.InvalidError, "a list of names"),
        ({"names": {"~/cats": "/team/x", "~/dogs": "/team/x"}}, errors.InvalidError, "would be called 'team/x'"),
        ({"names": {"~/cats": "/../x"}}, errors.InvalidError, "looks like a path"),
        ({"names": ["~/cats"]}, errors.InvalidError, "nobody would find ~/cats there"),
    ],
)
def test_what_cannot_be_meant(mine, tmp_path, chosen, error, says):
    team = open_registry(f"file://{tmp_path}/registry")
    with pytest.raises(error, match=says):
        migrate(mine, team, **chosen)
    assert not (tmp_path / "registry").exists()


def test_a_rename_to_another_registry_says_how(mine, tmp_path, monkeypatch):
    monkeypatch.setenv("RH_REGISTRY", f"sqlite://{tmp_path}/team.db")
    with pytest.raises(errors.UnsupportedError, match="different registries") as caught:
        rh.load("~/cats").rename("/team/cats")
    command = caught.value.hint.partition(", then")[0].split()
    assert command[:3] == ["rh", "registry", "migrate"]
    from rh.cli import main

    assert main(command[1:]) == 0
    assert rh.load("/team/cats:production").get("2.txt") == b"siamese"


def test_who_may_not_read_all_of_a_server(tmp_path, monkeypatch, capsys):
    """It is said, in words and in JSON, and never just less."""
    from rh.cli import main

    with RegistryServer() as server:
        for name, value in server.environment("ada").items():
            monkeypatch.setenv(name, value)
        rh.blob(b"x", name="/team/secret", path=tmp_path / "secret").save()
        rh.blob(b"x", name="/team/open", path=tmp_path / "open").save().commit()
        server.token("bob")
        rh.blob(name="/team/open").share("bob")
        monkeypatch.setenv("RH_REGISTRY_TOKEN", server.token("bob"))
        source, target = open_registry(server.url), open_registry(f"sqlite://{tmp_path}/target.db")
        assert limited_to(source) == "bob"
        with pytest.raises(errors.AccessError, match="bob is no admin") as caught:
            migrate(source, target)
        assert "partial=True takes over what you may read" in caught.value.hint
        assert not (tmp_path / "target.db").exists()
        assert main(["registry", "migrate", server.url, target.url]) != 0
        assert "--partial takes over what you may read" in capsys.readouterr().err
        assert main(["registry", "migrate", server.url, target.url, "--partial", "--json"]) == 0
        told = capsys.readouterr()
        assert json.loads(told.out) == {"changes": 4, "partial": True, "user": "bob"} | {
            "changes": json.loads(told.out)["changes"]
        }
        assert f"warning: bob is no admin of {server.url}" in told.err
        assert [one.key for one in target.list("resources/")] == ["resources/team/open"]
        file = str(tmp_path / "open.jsonl")
        assert main(["registry", "export", file, "--name", "/team/open", "--registry", server.url]) == 0
        assert "warning: bob is no admin" in capsys.readouterr().err
        assert main(["registry", "import", file, "--registry", target.url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"changes": 0}
        with pytest.raises(errors.NotFoundError):
            migrate(source, target, names=["/team/secret"])
        monkeypatch.setenv("RH_REGISTRY_TOKEN", server.token("ada"))
        assert limited_to(source) is None
