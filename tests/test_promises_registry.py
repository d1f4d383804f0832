"""Promises about registries, on every kind of them: races, crashes, repeated requests, secrets, formats, clocks."""

from __future__ import annotations

import itertools
import json
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import psycopg
import pytest

import rh
from rh import config, errors
from rh.registry import default, open_registry
from rh.registry.base import Put, Registry
from rh.registry.bucket import BucketRegistry
from rh.registry.http import HTTPRegistry, wire
from rh.registry.sql import postgres, sqlite
from rh.registry.sql.postgres import PostgresRegistry
from rh.registry.sql.sqlite import SQLiteRegistry
from rh.resources import records
from rh.resources.runs import recording
from rh.systems import locate, open_system
from rh.systems.base import System
from rh.testing.servers.registry import RegistryServer
from rh.types import ABSENT, Match
from rh.versions.store import Store
from tests.registry.kinds import KINDS, Shared, opened
from tests.sizes import sized
from tests.test_campaigns import race

pytestmark = pytest.mark.slow

SAMPLES = {"sqlite": 1500, "postgres": 1000, "bucket": 60, "directory": 300, "http": 500}
RACES = {kind: sized(sample, full=10_000) for kind, sample in SAMPLES.items()}
"""Races between two writers (promise 12): what fits into 20 s on two slow cores, or all."""
CRASHES = sized(3, full=100)
"""Rounds of two processes each that are killed (promise 16)."""


@pytest.fixture(params=KINDS)
def shared(request, tmp_path) -> Iterator[Shared]:
    """A registry of each kind; the bucket is one that keeps its conditions between two threads."""
    with opened(request.param, request, tmp_path / "team", conditional=True) as found:
        yield found


@pytest.fixture
def ada(shared, monkeypatch) -> Shared:
    """The registry, as Ada in this process uses it."""
    shared.be("ada", monkeypatch)
    return shared


def behind(shared: Shared) -> Registry:
    """The registry where its content is: that behind the server, if there is one."""
    return open_registry(shared.server.behind if shared.server else shared.url)


# Promise 12.


def test_one_of_two_writers_wins(ada):
    """Promise 12: one creates, one replaces what it has seen, and the loser learns the revision that won."""
    registries = [open_registry(ada.url), open_registry(ada.url)]
    names = ("ada", "ada") if ada.server else ("ada", "bob")
    revision = 0
    with ThreadPoolExecutor(2) as pool:
        for number in range(RACES[ada.kind]):
            when = Match(str(revision)) if revision else ABSENT
            calls = [
                partial(registry.commit, [Put("name", {"by": n, "round": number}, when)], by=who)
                for n, (registry, who) in enumerate(zip(registries, names, strict=True))
            ]
            results = race(*calls, pool)
            lost = [n for n, result in enumerate(results) if isinstance(result, errors.RhError)]
            assert len(lost) == 1, results
            revision += 1
            winner, error = 1 - lost[0], results[lost[0]]
            assert isinstance(error, errors.ConflictError if revision > 1 else errors.ExistsError)
            assert f"revision {revision} (by {names[winner]})" in error.message, error
            record = registries[lost[0]].get("name")
            assert (record.revision, record.document) == (revision, {"by": winner, "round": number})
    assert [change.revision for change in registries[0].history("name")] == list(range(1, revision + 1))


def test_one_of_two_who_move_an_alias_wins(ada):
    """Promise 12 for people: both saw v1, one moves the alias, the other is told where it stands."""
    cats = rh.folder(name="/team/cats", path=ada.base / "cats").mkdir().save()
    for n in range(3):
        cats.put({f"{n}": b"x"})
        cats.commit(aliases=["production"] if not n else [])
    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            results = race(*(partial(cats.alias, "production", f"v{n}", expect="v1") for n in (2, 3)), pool)
            (error,) = [result for result in results if isinstance(result, errors.RhError)]
            (won,) = [result for result in results if not isinstance(result, errors.RhError)]
            assert isinstance(error, errors.ConflictError)
            assert f"stands on {won.label} by now" in error.message
            cats.alias("production", "v1")


# Promise 13.


def scenario(place: Path) -> None:
    """Everything that changes a registry, once."""
    cats = rh.folder(name="/team/cats", path=place / "cats").mkdir().save()
    cats.put({"1.txt": b"tabby"})
    cats.commit("first", aliases=["production"], metadata={"quality": 0.5})
    cats = cats.annotate(tags=["gold"], owner="ada").annotate("1.txt", label="tabby")
    cats.put({"2.txt": b"siamese"})
    cats.commit("second")
    cats.alias("production", "v2", expect="v1")
    cats.alias("old", "v1")
    cats.unalias("old")
    with rh.run("train", params={"n": 1}):
        rh.folder("/team/cats:production").get("1.txt")
        rh.blob(b"weights", name="/team/model", path=place / "model").save().commit()
    rh.blob(b"x", name="/team/gone", path=place / "gone").save()
    records.forget("/team/gone")
    cats.rename("/team/felines")
    rh.load("/team/felines").annotate(untag=["gold"])


def shape(registry: Registry) -> list[tuple[object, ...]]:
    """The changes there are, without ids and times."""
    ids = re.compile(r"[0-9a-f]{32}|\d{8}-\d{6}-[0-9a-f]{12}|[0-9a-f]{64}|[0-9a-f]{16}")
    return sorted(
        (ids.sub("…", change.key), change.revision, change.action, change.author, ids.sub("…", change.moved or ""))
        for change in registry.changes()
        if not change.key.startswith("server/")
    )


def test_what_is_delivered_twice_has_the_effect_of_one(ada, monkeypatch, tmp_path):
    """Promise 13: every commit of the library arrives twice, and the answer to the first is lost."""
    monkeypatch.setattr(recording, "SOON_S", 60.0)  # else what is told at once and taken back depends on the time
    monkeypatch.setenv("RH_REGISTRY", f"sqlite://{tmp_path}/plain.db")
    scenario(tmp_path)
    expected = shape(default())
    monkeypatch.setenv("RH_REGISTRY", ada.url)
    twice = 0

    if ada.server is not None:
        send = HTTPRegistry._send

        def delivered(self, verb, method, *rest):
            nonlocal twice
            if method != "GET":
                twice += 1
                send(self, verb, method, *rest).read()
            return send(self, verb, method, *rest)

        monkeypatch.setattr(HTTPRegistry, "_send", delivered)
    else:
        kind = {"sqlite": SQLiteRegistry, "postgres": PostgresRegistry}.get(ada.kind, BucketRegistry)
        commit = kind.commit

        def committed(self, steps, *, by=None, token=None):
            nonlocal twice
            twice += self.url == default().url
            token = token or f"once-{random.getrandbits(64)}"
            first = commit(self, steps, by=by, token=token)
            again = commit(open_registry(self.url), steps, by=by, token=token)
            assert list(first) == list(again)
            return again

        monkeypatch.setattr(kind, "commit", committed)
    scenario(ada.base)
    assert twice > 15
    assert shape(behind(ada)) == expected


# Promise 16.

WORK = """
import random, sys, time
import rh
from rh import errors
from rh.resources import base
from rh.resources.runs import recording
from rh.versions import gc
from rh.versions.store import Store
place, name, seed = sys.argv[1:]
chance = random.Random(seed)
names = ["/team/cats", "/team/felines"]
gone = (errors.NotFoundError, errors.ConflictError, errors.ExistsError)
print("up", flush=True)
while True:
    what = chance.choice(("commit", "commit", "alias", "alias", "unalias", "rename", "drop", "gc"))
    try:
        here = next((one for one in names if rh.exists(one)), names[0])
        cats = rh.load(here) if rh.exists(here) else rh.folder(name=here, path=f"{place}/live").mkdir().save()
        series = cats.begun()
        if what == "commit":
            cats.put({f"{name}-{chance.randrange(3)}": chance.randbytes(100)}, overwrite=True)
            cats.commit(what, aliases=chance.choice(([], ["production"])))
        elif what == "alias":
            cats.alias(chance.choice(("production", "staging")), chance.choice(cats.versions()).label)
        elif what == "unalias":
            cats.unalias("staging")
        elif what == "rename":
            cats.rename(names[1 - names.index(here)])
        else:
            store = Store.at(cats.at().pinned(series.get("latest")).committed_version().store)
            if what == "drop":
                gc.drop(series, store, chance.choice(cats.versions()), patience_s=0.1)
            else:
                gc.prune(series, store, keep=3, patience_s=0.1)
                gc.collect(store, older_than_s=0.0, patience_s=0.1)
    except (*gone, IndexError, KeyError):
        pass
"""


def test_no_alias_points_at_what_cannot_be_read(ada):
    """Promise 16: killed at any time while they commit, move aliases, rename, drop and collect."""
    chance = random.Random(16)
    trees = 0
    for number in range(CRASHES):
        crew = [ada.process("ada", WORK, ada.data, f"w{n}", f"{number}-{n}") for n in range(2)]
        for one in crew:
            line = one.stdout.readline()
            assert line == "up\n", one.communicate()
        for one in crew:
            time.sleep(chance.uniform(0.3, 1.5))
            assert one.poll() is None, one.communicate()[1]
            one.kill()
            one.communicate()
        for record in list(default().list("series/")):
            name = "/" + record.key.removeprefix("series/")
            cats = rh.load(name)
            for which in (*cats.aliases(), "latest"):
                if cats.versions():
                    pinned = cats.at(which)
                    assert pinned.check_version().ok, (name, which)
                    trees += 1
                    tidy(Store.at(pinned.committed_version().store).system)
        heads = list(default().list("heads/"))
        assert heads
    assert trees > CRASHES


def tidy(system: System) -> None:
    """Take away what killed processes left of their announcements, which would run out in a few minutes."""
    system.delete([entry.key for entry in system.list("leases/") if entry.kind == "file"])
    system.delete(["gc.json"])


# Promise 34.

CANARY = "c4n4ry" + "0123456789abcdef" * 2

TALK = """
import faulthandler, logging, pickle, sys
faulthandler.dump_traceback_later(60, exit=True)  # where it hangs, if it does
logging.basicConfig(level=logging.DEBUG)
import rh
from rh import errors
from rh.registry import default
registry = default()
things = [registry, registry.direct]
blob = rh.blob(b"x", name="/team/x", path=sys.argv[1]).save()
version = blob.commit(aliases=["best"])
with rh.run("train") as run:
    rh.blob(name="/team/x:best").fetch()
things += [blob, version, run, rh.load("/team/x:best"), rh.find(prefix="/team"), rh.lineage("/team/x")]
for call in (lambda: rh.load("/team/y"), lambda: registry.get("nothing"), lambda: registry.delete("nothing")):
    try:
        call()
    except errors.RhError as error:
        things.append(error)
for thing in things:
    print(repr(thing), str(thing))
    try:
        print(pickle.dumps(thing))
    except (TypeError, AttributeError):
        pass
print(open("/proc/self/cmdline").read())
"""


def test_a_credential_is_nowhere(shared, request, monkeypatch):
    """Promise 34: in the URL, in the environment, in files: in no repr, pickle, log, record, mirror, replica, argv."""
    secrets, variables = [], {}
    if shared.kind == "postgres":
        server = request.getfixturevalue("postgres_server")
        secrets.append(server.password)
        variables = {"RH_REGISTRY": shared.url.replace("rh@", f"rh:{server.password}@"), "PGPASSWORD": ""}
    elif shared.server is not None:
        secrets.append(shared.server.token().rpartition("_")[2])
    elif shared.kind == "bucket":
        secrets.append(CANARY)
        monkeypatch.setenv("GOOGLE_OAUTH_ACCESS_TOKEN", CANARY)
    else:
        monkeypatch.setenv("RH_REGISTRY_TOKEN", CANARY)
        monkeypatch.setenv("PGPASSWORD", CANARY)
        secrets.append(CANARY)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    process = shared.process("ada", TALK, f"{shared.data}/x", **variables)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    told = out + err
    words = [("registry", "show"), ("registry", "show", "--json"), ("resources", "/team"), ("info", "rh:///team/x")]
    words += [("doctor",), ("run", "ls", "--json"), ("config", "show"), ("config", "get", "registry", "--json")]
    code = "import sys; from rh.cli import main; sys.exit(main())"
    for line in words:
        shell = shared.process("ada", code, *line, **variables)
        told += "".join(shell.communicate(timeout=90))
    shared.be("ada", monkeypatch)
    told += json.dumps([change._asdict() for change in behind(shared).changes()])
    kept = b"".join(path.read_bytes() for path in shared.base.rglob("*") if path.is_file())
    assert len(kept) > 1000
    for secret in secrets:
        assert secret not in told, re.findall(f".{{60}}{secret}", told)
        assert secret.encode() not in kept


# Promise 17.


def make_newer(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Make the registry one of a newer `rh`, and give what tells whether it was changed."""
    if shared.kind == "postgres":
        schema = shared.url.rpartition("=")[2]

        dsn = shared.url.partition("?")[0].replace("rh@", f"rh:{shared.variables['PGPASSWORD']}@")

        def rows():
            with closing(psycopg.connect(dsn, autocommit=True)) as db:
                return db.execute(
                    f"select (select count(*) from {schema}.changes), schema from {schema}.about"
                ).fetchall()

        with closing(psycopg.connect(dsn, autocommit=True)) as db:
            db.execute(f"update {schema}.about set schema = {len(postgres.MIGRATIONS) + 1}")
        return rows
    if shared.kind == "sqlite":
        with closing(sqlite3.connect(shared.base / "team.db")) as db:
            db.execute(f"pragma user_version = {len(sqlite.MIGRATIONS) + 1}")
        return lambda: list(sqlite3.connect(shared.base / "team.db").iterdump())
    if shared.kind == "http":
        monkeypatch.setattr(wire, "PROTOCOL", 0)
        monkeypatch.setattr("rh.registry.http.PROTOCOL", 0)
        return lambda: list(behind(shared).changes())
    system = open_system(locate(shared.url))
    with system.read("registry.json") as body:
        header = json.loads(body.read())
    system.write("registry.json", json.dumps({**header, "format": 2}).encode())
    return lambda: [(entry.key, entry.etag) for entry in system.list()]


def test_a_newer_registry_is_refused_and_left_alone(ada, monkeypatch):
    """Promise 17, by the verbs that people use; what the mirror or the replica holds is no way round it."""
    cats = rh.folder(name="/team/cats", path=ada.base / "cats").mkdir().save()
    cats.put({"1.txt": b"tabby"})
    cats.commit(aliases=["production"])
    rh.load("/team/cats:production")
    taken = list(default().changes("resources/"))
    unchanged = make_newer(ada, monkeypatch)
    before = unchanged()
    for path in config.home().glob("replicas"):
        path.rename(path.with_name("old"))
    for call in (
        lambda: rh.load("/team/cats"),
        lambda: rh.resources("/team"),
        lambda: rh.find(tags="gold", prefix="/team"),
        lambda: rh.blob(b"x", name="/team/x", path=ada.base / "x").save(),
        lambda: cats.commit("again"),
        lambda: cats.alias("production", "v1"),
        lambda: records.forget("/team/cats"),
        lambda: open_registry(ada.url).replay(taken),
    ):
        with pytest.raises(errors.UnsupportedError) as caught:
            call()
        assert caught.value.hint == "upgrade rh-data"
    assert unchanged() == before


def test_a_server_over_a_newer_registry_says_so(tmp_path, monkeypatch):
    with RegistryServer() as server:
        for name, value in server.environment("ada").items():
            monkeypatch.setenv(name, value)
        rh.blob(b"x", name="/team/x", path=tmp_path / "x").save()
        with closing(sqlite3.connect(server.directory / "registry.db")) as db:
            db.execute(f"pragma user_version = {len(sqlite.MIGRATIONS) + 1}")
        for call in (lambda: rh.load("/team/x"), lambda: rh.blob(b"y", name="/team/y", path=tmp_path / "y").save()):
            with pytest.raises(errors.UnsupportedError):
                call()


def test_two_bring_up_one_registry_at_once(ada):
    """Promise 17: many first users at the same moment make one registry."""
    code = "import sys; from rh.registry import default; default().put(sys.argv[1], {'n': 1}); print('ok')"
    crew = [ada.process("ada", code, f"resources/team/r{n}") for n in range(4)]
    told = [one.communicate(timeout=90) for one in crew]
    assert [out for out, _ in told] == ["ok\n"] * 4, told
    assert [record.key for record in default().list("resources/")] == [f"resources/team/r{n}" for n in range(4)]
    assert [change.revision for change in default().changes("resources/")] == [1] * 4


# Promise 38.


def test_clocks_decide_nothing(ada, monkeypatch):
    """Promise 38: three people, of whom two are a day off, take turns; a moved clock is no later version."""
    real = time.time
    shifts = itertools.cycle((0.0, 86_400.0, -86_400.0))
    cats = rh.folder(name="/team/cats", path=ada.base / "cats").mkdir().save()
    for n in range(6):
        shift = next(shifts)
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda shift=shift: real() + shift)
            cats.put({f"{n}.txt": b"x" * (n + 1)})
            made = cats.commit(f"number {n}", aliases=["newest"])
            assert made.label == f"v{n + 1}"
            assert rh.load("/team/cats:latest").version == rh.load("/team/cats:newest").version == made.label
            cats = cats.annotate(n=n)
            assert rh.load("/team/cats").metadata["n"] == n
            cats.alias("other", f"v{max(n, 1)}")
            with pytest.raises(errors.ConflictError):
                default().put("resources/team/cats", {"kind": "folder"}, when=Match("1"))
    assert [version.message for version in cats.versions()] == [f"number {n}" for n in range(6)]
    assert [move.version for move in cats.alias_history("newest")] == [1, 2, 3, 4, 5, 6]
    assert [change.revision for change in default().history("resources/team/cats")] == list(range(1, 8))
    for n in range(6):
        assert cats.at(f"v{n + 1}").check_version().ok


# Lineage.


def test_two_functions_give_the_whole_graph(ada):
    """Alias asked for, version used, code and parameters, with nothing logged by hand; drawn as SVG."""
    raw = rh.folder(name="/team/raw", path=ada.base / "raw").mkdir().save()
    raw.put({"a.txt": b"1 2 3"})
    raw.commit("as delivered", aliases=["production"])
    raw.put({"b.txt": b"late"})
    raw.commit("more")
    (ada.base / "notes.txt").write_bytes(b"notes")

    @rh.run
    def clean(factor):
        text = rh.folder("/team/raw:production").get("a.txt")
        rh.blob(text * factor, name="/team/clean", path=ada.base / "clean").save().commit()

    @rh.run
    def train(rate):
        rh.blob(path=ada.base / "notes.txt").read()
        text = rh.blob(name="/team/clean:latest").fetch()
        rh.blob(text, name="/team/model", path=ada.base / "model").save().commit(aliases=["best"])

    clean(2)
    train(0.1)
    graph = rh.lineage("/team/model:best")
    names = {node.id: node.label.rpartition(".")[2] if node.kind == "run" else node.label for node in graph}
    notes = f"file://{ada.base}/notes.txt"
    assert {(names[edge.source], names[edge.target], edge.asked) for edge in graph.edges} == {
        ("/team/raw:v1", "clean", "production"),
        ("clean", "/team/clean:v1", None),
        ("/team/clean:v1", "train", "latest"),
        (notes, "train", None),
        ("train", "/team/model:v1", None),
    }
    runs = {names[node.id]: node.data for node in graph.of_kind("run")}
    assert runs["clean"]["metadata"] == {"factor": 2}
    assert runs["train"]["metadata"] == {"rate": 0.1}
    assert runs["train"]["code"]["digest"].startswith("sha256:")
    assert runs["train"]["code"]["function"].endswith("train")
    (version,) = [node for node in graph.of_kind("version") if node.label == "/team/raw:v1"]
    assert version.data["digest"] == raw.versions()[0].digest
    assert len(rh.blob(name="/team/model:v1").upstream(1).of_kind("run")) == 1
    assert {node.label for node in rh.folder("/team/raw:v1").downstream().of_kind("version")} == {
        "/team/raw:v1", "/team/clean:v1", "/team/model:v1",
    }  # fmt: skip
    assert len(rh.lineage("/team/raw:v1", "/team/model").edges) == 4
    assert rh.load_run(rh.runs()[0].id).changed_inputs() == []
    assert [run.name.rpartition(".")[2] for run in rh.runs()] == ["train", "clean"]
    assert graph.svg().count("marker-end") == 5
