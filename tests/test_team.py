"""Two people, each with a home and processes of their own, and one registry: on every kind of registry.

What each of them does is told in one script per step. Names are below `/team`, where Ada decides.
"""

from __future__ import annotations

import json

import pytest

from tests.registry.kinds import KINDS, Shared, opened

pytestmark = pytest.mark.slow


@pytest.fixture(params=KINDS)
def team(request, tmp_path):
    with opened(request.param, request, tmp_path / "team") as shared:
        yield shared


START = """
import json, sys, warnings
warnings.simplefilter("error")
import rh
from rh import errors
data, shared = sys.argv[1], sys.argv[2] == "http"

def refused(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"not refused: {kind.__name__}")
"""

ADA_SAVES = """
cats = rh.folder(name="/team/cats", path=f"{data}/cats").mkdir().save()
cats.put({"1.txt": b"tabby", "2.txt": b"siamese"})
cats.commit("first", aliases=["production"], metadata={"quality": 0.9})
cats = cats.annotate(tags=["gold"], owner="ada").annotate({"1.txt": {"label": "tabby"}, "2.txt": {"label": "siamese"}})
rows = rh.table({"x": [1, 2, 3]}, name="/team/rows", path=f"{data}/rows").save()
rows.commit(aliases=["production"])
params = rh.blob({"rate": 0.1}, name="/team/params", path=f"{data}/params.json").save()
params.commit()

@rh.run
def prepare(factor):
    labels = rh.folder("/team/cats:production").get("1.txt").decode()
    rh.blob({"labels": [labels] * factor}, name="/team/labels", path=f"{data}/labels.json").save().commit()

prepare(2)
if shared:
    for one in ("cats", "rows", "params", "labels"):
        rh.load(f"/team/{one}").share("bob", "write")
"""

BOB_USES = """
assert rh.resources("/team") == ["/team/cats", "/team/labels", "/team/params", "/team/rows"]
cats = rh.load("/team/cats:production")
assert cats.version == "v1" and cats.get("2.txt") == b"siamese"
assert (cats.tags, dict(cats.metadata)) == (("gold",), {"owner": "ada"})
assert cats.check_version().ok
assert rh.table(name="/team/rows:production").fetch() == {"x": [1, 2, 3]}
assert rh.blob(name="/team/params:v1").fetch() == {"rate": 0.1}
assert [one.name for one in rh.find(tags="gold", prefix="/team")] == ["/team/cats"]
assert [(hit.handle.name, hit.label) for hit in rh.find(where=rh.F.quality > 0.5, prefix="/team").hits] == [
    ("/team/cats", "v1")]
assert rh.folder("/team/cats").query(rh.F.label == "tabby").files == ["1.txt"]
assert rh.folder("/team/cats").annotations("2.txt")["metadata"] == {"label": "siamese"}

with rh.run("train", params={"epochs": 3}):
    rh.blob(name="/team/labels:latest").fetch()
    rh.table(name="/team/rows:production").fetch()
    model = rh.blob(b"weights", name="/bob/model", path=f"{data}/model.bin").save()
    model.commit(aliases=["best"])

live = rh.folder("/team/cats")
live.put({"3.txt": b"persian"})
live.commit("more", parent="v1")
live.alias("production", "v2", expect="v1")
live.alias("reviewed", "v1")
live.annotate(tags=["checked"])
rh.table(name="/team/rows").write({"x": [4]}, mode="append")
rh.table(name="/team/rows").commit("one more")
rh.blob({"rate": 0.2}, name="/team/params", path=f"{data}/params.json").save(overwrite=True).commit()
if shared:
    new = rh.blob(b"", name="/team/new", path=f"{data}/new")
    assert "bob may not" in refused(errors.AccessError, new.save)
    assert "bob" in refused(errors.AccessError, lambda: live.share("eve"))
"""

ADA_LOOKS = """
cats = rh.load("/team/cats")
assert cats.aliases() == {"production": "v2", "reviewed": "v1"}
assert [(move.version, move.author) for move in cats.alias_history("production")] == [(1, "ada"), (2, "bob")]
assert [(v.label, v.author, v.message) for v in cats.versions()] == [("v1", "ada", "first"), ("v2", "bob", "more")]
assert rh.load("/team/cats:production").get("3.txt") == b"persian"
assert rh.load("/team/cats:reviewed").ls(full_paths=False) == ["1.txt", "2.txt"]
assert sorted(cats.tags) == ["checked", "gold"]
assert rh.table(name="/team/rows:v1").fetch() == {"x": [1, 2, 3]}
assert rh.table(name="/team/rows:v2").fetch() == {"x": [1, 2, 3, 4]}
assert rh.blob(name="/team/params:v1").fetch() == {"rate": 0.1}
assert rh.blob(name="/team/params:v2").fetch() == {"rate": 0.2}
assert rh.blob(name="/bob/model:best").fetch() == b"weights"
assert "v2" in refused(errors.ConflictError, lambda: cats.commit("from what was", parent="v1"))
assert "v2" in refused(errors.ConflictError, lambda: cats.alias("production", "v1", expect="v1"))
assert "bob" in str([v.author for v in rh.blob(name="/bob/model").versions()])

graph = rh.lineage("/bob/model:best")
names = {node.id: node.label.rpartition(".")[2] if node.kind == "run" else node.label for node in graph}
runs = {names[node.id]: node.data for node in graph.of_kind("run")}
assert {(names[e.source], names[e.target], e.asked) for e in graph.edges} == {
    ("/team/cats:v1", "prepare", "production"),
    ("prepare", "/team/labels:v1", None),
    ("/team/labels:v1", "train", "latest"),
    ("/team/rows:v1", "train", "production"),
    ("train", "/bob/model:v1", None),
}, graph
assert runs["prepare"]["metadata"] == {"factor": 2} and runs["train"]["metadata"] == {"epochs": 3}
assert runs["prepare"]["code"]["function"].endswith("prepare")
assert [(run.name.rpartition(".")[2], run.user) for run in rh.runs()] == [("train", "bob"), ("prepare", "ada")]
assert [ref.name.rpartition(".")[2] for ref in rh.folder("/team/cats:v1").used_by()] == ["prepare"]

cats.rename("/team/felines")
rh.load("/team/params").annotate(note="mine")
if shared:
    rh.load("/team/rows").revoke("bob")
"""

BOB_FOLLOWS = """
assert not rh.exists("/team/cats")
assert rh.load("/team/felines:production").get("1.txt") == b"tabby"
assert rh.load("/team/felines").versions()[1].author == "bob"
assert rh.find(prefix="/team", where="note == 'mine'")[0].name == "/team/params"
assert "felines" in refused(errors.NotFoundError, lambda: rh.load("/team/felnes"))
if shared:
    assert "rows" not in " ".join(rh.resources("/team"))
    refused(errors.NotFoundError, lambda: rh.load("/team/rows"))
"""


def test_two_people_share_what_they_have(team: Shared) -> None:
    """Saved, pinned, aliased, annotated, found, shared, traced and loaded again, by turns."""
    if team.server is not None:
        for user in ("bob", "eve"):
            team.server.token(user)
    for user, code in (("ada", ADA_SAVES), ("bob", BOB_USES), ("ada", ADA_LOOKS), ("bob", BOB_FOLLOWS)):
        team.python(user, START + code, team.data, team.kind)
    told = [json.loads(line) for line in team.rh("bob", "resources", "/team", "--json").stdout.splitlines()]
    names = {one["name"] for one in told}
    assert {"/team/felines", "/team/params", "/team/labels"} <= names
