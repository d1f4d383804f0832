"""What was read of a registry elsewhere can be read when it cannot be reached, and is told to be old."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import secrets
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Self

import pytest

import rh
from rh import config, errors
from rh.cli import main
from rh.observe import counting
from rh.registry import base, bucket, default, http, mirror, mirror_file, open_registry
from rh.registry.base import Put, StaleWarning
from rh.registry.filters import F
from rh.registry.http import HTTPRegistry
from rh.registry.mirror import Mirrored
from rh.registry.sql import postgres
from rh.testing import servers
from rh.testing.faults import Delay, FaultProxy, Status
from rh.testing.servers.registry import RegistryServer


@pytest.fixture
def server(monkeypatch):
    """A registry server of this test's own, which is the registry of `ada`; deadlines are short."""
    with RegistryServer() as server:
        for name, value in server.environment("ada").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("RH_TIMEOUT_S", "1")
        yield server


@pytest.fixture
def cats(server, tmp_path):
    """`/team/cats`, with two versions, saved and read."""
    folder = rh.folder(name="/team/cats", path=tmp_path / "cats").mkdir().save()
    folder.put({"1.txt": b"tabby"})
    folder.commit(aliases=["production"])
    folder.put({"2.txt": b"siamese"})
    folder.commit()
    assert rh.load("/team/cats:production").get("1.txt") == b"tabby"
    return folder


def files() -> list[Path]:
    return sorted((config.home() / "mirrors").glob("*.db"))


def silently(call):
    """What a call gives, which must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call()


def test_only_distant_registries_have_one(tmp_path, monkeypatch):
    for url in (f"sqlite://{tmp_path}/team.db", f"file://{tmp_path}/shared"):
        monkeypatch.setenv("RH_REGISTRY", url)
        assert not isinstance(default(), Mirrored)
    for url in ("https://registry.example.org", "postgresql://db.example.org/team"):
        monkeypatch.setenv("RH_REGISTRY", url)
        found = default()
        assert isinstance(found, Mirrored)
        assert type(found.direct) is type(open_registry(url))
        assert found.url == found.direct.url
    assert not (config.home() / "mirrors").exists()


def test_what_has_to_be_fresh_is_no_old_answer_whatever_other_threads_do_with_warnings(server, cats):
    """`rh gc` takes away what no registry names any more, so it is not to hear what one named before."""
    begun, over = threading.Event(), threading.Event()

    def other():
        with warnings.catch_warnings():
            begun.set()
            over.wait()

    server.kill()
    with ThreadPoolExecutor(1) as pool:
        thread = pool.submit(other)
        begun.wait()
        with base.fresh():
            over.set()
            thread.result()
            with pytest.raises(errors.UnavailableError, match="Changes since are not in it"):
                rh.load("/team/cats")
            with ThreadPoolExecutor(1) as another, pytest.warns(StaleWarning):
                assert another.submit(rh.load, "/team/cats").result().name == "/team/cats"


def test_a_name_that_was_read_before_is_read(server, cats):
    began = time.strftime("%Y-%m-%d")
    server.kill()
    with pytest.warns(StaleWarning) as told:
        found = rh.load("/team/cats:production")
    assert found.get("1.txt") == b"tabby"
    assert found.version == "v1"
    text = str(told[0].message)
    assert text.startswith(f"{server.url} cannot be reached (")
    assert re.search(r"the oldest at \d{4}-\d\d-\d\d \d\d:\d\d\.", text)
    assert began[:4] in text
    assert "nothing can be saved until it is back" in text
    with pytest.warns(StaleWarning):
        assert rh.exists("/team/cats")
    server.start()
    mirror._silent.clear()
    assert silently(lambda: rh.load("/team/cats:latest").get("2.txt")) == b"siamese"


def test_a_line_that_reads_what_is_old_is_warned_of_once(server, cats):
    server.kill()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        assert rh.load("/team/cats:production").get("1.txt") == b"tabby"
    assert {one.filename for one in told} == {__file__}
    assert len(told) == len({str(one.message) for one in told})


def test_what_was_never_read_is_said_to_be_out_of_reach(server, cats):
    server.kill()
    for call in (
        lambda: rh.load("/team/dogs"),
        lambda: rh.exists("/team/dogs"),
        lambda: default().get("resources/team/dogs"),
        lambda: list(default().list("other/")),
    ):
        with pytest.raises(errors.UnavailableError, match="nothing was read of") as caught:
            call()
        assert caught.value.where == server.url
        assert "~/" in caught.value.hint
    rh.blob(b"mine", name="~/mine").save()
    assert silently(lambda: rh.blob(name="~/mine").fetch()) == b"mine"


def test_the_past_is_not_in_it(server, cats, capsys):
    """One error, and no warning before it: histories and other moments are told by the registry alone."""
    moment = time.time()
    cats.at("v1").annotate(quality=0.5)
    assert len(rh.find(where=F.quality > 0, as_of=moment + 1000)) == 1
    server.kill()
    for call in (
        lambda: rh.find(as_of=moment),
        lambda: rh.find(where=F.quality > 0, as_of=moment, prefix="/team"),
        lambda: list(default().history("resources/team/cats")),
        lambda: list(default().changes()),
    ):
        with pytest.raises(errors.UnavailableError, match="told by the registry alone") as caught:
            silently(call)
        assert caught.value.where == server.url
    for words in (["find", "--as-of", "2026-01-01"], ["history", "/team/cats"]):
        assert main(words) == 7
        told = capsys.readouterr().err
        assert "told by the registry alone" in told
        assert "this is what was read" not in told


def changes_need_it(name: str) -> None:
    """That a change which has to read first what was never read says that it is one."""
    for call in (
        lambda: rh.load(name).alias("other", "v1"),
        lambda: rh.load(name).unalias("best"),
        lambda: rh.load(name).annotate(quality=0.9),
        lambda: rh.load(name).commit("again", aliases=["other"]),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StaleWarning)
            with pytest.raises(errors.UnavailableError, match="cannot be reached") as caught:
                call()
        assert "nothing was read" not in caught.value.message


def test_a_change_needs_the_registry(server, cats, tmp_path):
    rh.blob(b"x", name="/team/x", path=tmp_path / "x").save().commit(aliases=["best"])
    for path in files():
        path.unlink()
    rh.load("/team/x")
    server.kill()
    changes_need_it("/team/x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StaleWarning)
        with pytest.raises(errors.UnavailableError, match="and a change needs it") as caught:
            rh.load("/team/x").alias("best", "v1")
    assert caught.value.hint.startswith("names in ~/ are on this machine")
    assert pickle.loads(pickle.dumps(caught.value.__cause__)).reason


@pytest.mark.slow
def test_nothing_can_be_written_and_nothing_is_changed(server, cats, tmp_path):
    before = list(open_registry(server.behind).changes())
    server.kill()
    for call in (
        lambda: rh.blob(b"new", name="/team/new", path=tmp_path / "new").save(),
        lambda: cats.alias("production", "v2"),
        lambda: cats.annotate(tags=["gold"]),
        lambda: cats.commit("again", aliases=["mine"]),
        lambda: cats.rename("/team/felines"),
        lambda: default().put("resources/team/cats", {"kind": "blob"}),
        lambda: default().delete("resources/team/cats"),
        lambda: default().commit([Put("resources/team/dogs", {"kind": "blob"})]),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StaleWarning)
            with pytest.raises((errors.UnavailableError, errors.DeadlineError)):
                call()
    with pytest.raises((errors.UnavailableError, errors.DeadlineError)):
        list(default().history("resources/team/cats"))
    assert list(open_registry(server.behind).changes()) == before
    with pytest.warns(StaleWarning):
        found = rh.load("/team/cats")
    assert (found.tags, found.name) == ((), "/team/cats")


def test_a_short_silence_costs_one_wait(server, cats):
    """Who was told that the registry is out of reach is not kept waiting by every further read; a write finds out."""
    server.kill()
    with pytest.warns(StaleWarning):
        rh.load("/team/cats")
    with counting() as counts:
        for _ in range(3):
            with pytest.warns(StaleWarning):
                rh.load("/team/cats")
    assert not counts.requests
    server.start()
    with pytest.warns(StaleWarning):
        cats.alias("staging", "v1")
    assert silently(lambda: rh.load("/team/cats:staging")).version == "v1"


def test_a_change_based_on_what_is_old_looks_again(server, cats):
    """The registry is back, readers do not know yet, and somebody else was there meanwhile."""
    assert cats.aliases() == {"production": "v1"}
    server.kill()
    with pytest.warns(StaleWarning):
        rh.load("/team/cats:production")
    behind = open_registry(server.behind)
    (key,) = [record.key for record in behind.list("aliases/")]
    behind.put(key, {"version": 2}, by="bob")
    server.start()
    with pytest.warns(StaleWarning):
        cats.alias("production", "v2")
    assert silently(cats.aliases) == {"production": "v2"}


def test_names_deleted_meanwhile_vanish_with_the_next_listing(server, cats, tmp_path):
    rh.blob(b"x", name="/team/gone", path=tmp_path / "gone").save()
    assert rh.resources("/team") == ["/team/cats", "/team/gone"]
    open_registry(server.behind).delete("resources/team/gone")
    with pytest.raises(errors.NotFoundError):
        rh.load("/team/gone")
    rh.blob(b"x", name="/team/gone", path=tmp_path / "gone").save()
    assert rh.resources("/team") == ["/team/cats", "/team/gone"]
    open_registry(server.behind).delete("resources/team/gone")
    assert rh.resources("/team") == ["/team/cats"]
    server.kill()
    with pytest.warns(StaleWarning):
        assert rh.resources("/team") == ["/team/cats"]


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_was_wrong_brings_nothing_back(server, cats, tmp_path, monkeypatch, days):
    """Promise 38: what was read by a clock a day off vanishes all the same, and what is there stays."""
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + days * 86_400)
        rh.blob(b"x", name="/team/gone", path=tmp_path / "gone").save()
        assert rh.resources("/team") == ["/team/cats", "/team/gone"]
    open_registry(server.behind).delete("resources/team/gone")
    assert rh.resources("/team") == ["/team/cats"]
    server.kill()
    with pytest.warns(StaleWarning):
        assert rh.resources("/team") == ["/team/cats"]


def test_that_there_is_nothing_is_remembered(server, cats):
    registry = default()
    assert list(registry.list("aliases/none/")) == []
    assert list(registry.list("runs/")) == []
    assert list(registry.search(F.quality > 2, "resources/team/dogs/")) == []
    assert registry.find("heads/none") is None
    server.kill()
    with pytest.warns(StaleWarning):
        assert list(registry.list("aliases/none/")) == []
    with pytest.warns(StaleWarning):
        assert list(registry.list("runs/2026")) == []  # below what was listed
    with pytest.warns(StaleWarning):
        assert list(registry.search(F.quality > 2, "resources/team/dogs/")) == []
    with pytest.warns(StaleWarning):
        assert registry.find("heads/none") is None
    for never in (
        lambda: list(registry.list("inputs/")),
        lambda: list(registry.search(F.quality > 1, "resources/team/dogs/")),
        lambda: registry.find("heads/other"),
    ):
        with pytest.raises(errors.UnavailableError, match="nothing was read of"):
            never()


def test_what_a_search_found_is_remembered(server):
    open_registry(server.behind).put("resources/team/x", {"metadata": {"quality": 0.9}})
    open_registry(server.behind).put("resources/team/y", {"metadata": {"quality": 0.8}})
    registry = default()
    assert len(list(registry.search(F.quality > 0.5, "resources/"))) == 2
    assert next(iter(registry.search(F.quality > 0.85, "resources/"))).key == "resources/team/x"
    server.kill()
    with pytest.warns(StaleWarning):
        assert len(list(registry.search(F.quality > 0.5, "resources/"))) == 2
    with pytest.warns(StaleWarning):
        assert registry.get("resources/team/y").document == {"metadata": {"quality": 0.8}}


def test_what_is_remembered_as_nothing_is_bounded(server, monkeypatch):
    monkeypatch.setattr(mirror_file, "_ANSWERS", 20)
    registry = default()
    for n in range(50):
        assert registry.find(f"heads/{n}") is None
    (path,) = files()
    with closing(sqlite3.connect(path)) as db:
        assert 10 < db.execute("select count(*) from answers").fetchone()[0] <= 20
    server.kill()
    with pytest.warns(StaleWarning):
        assert registry.find("heads/49") is None
    with pytest.raises(errors.UnavailableError):
        registry.find("heads/0")


def lineage_and_search() -> list[str]:
    """What the library answers of runs and of searches."""
    return [
        str(rh.lineage("/team/out")),
        str([run.name for run in rh.runs("count")]),
        str([str(one) for one in rh.runs("count")[0].outputs]),
        str(rh.find(where=F.quality > 0.5, prefix="/team")),
        str(rh.find(where=F.quality > 0.95, prefix="/team")),
        str(rh.load("/team/out").upstream()),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["server", "postgres"])
def test_runs_and_searches_are_answered(kind, monkeypatch, tmp_path):
    """What was answered online is answered offline."""
    with servers.postgres() if kind == "postgres" else RegistryServer() as running:
        own = (
            {"RH_REGISTRY": running.url, "PGPASSWORD": running.password}
            if kind == "postgres"
            else running.environment()
        )
        for name, value in (own | {"RH_TIMEOUT_S": "3"}).items():
            monkeypatch.setenv(name, value)
        rh.blob(b"a", name="/team/in", path=tmp_path / "in").save().commit()
        with rh.run("count"):
            data = rh.blob(name="/team/in:v1").fetch()
            rh.blob(data, name="/team/out", path=tmp_path / "out").save().commit(metadata={"quality": 0.9})
        before = lineage_and_search()
        running.kill()
        postgres._connections.close()
        with pytest.warns(StaleWarning):
            assert lineage_and_search() == before
    postgres._connections.close()


def test_errors_say_names(server, cats):
    open_registry(server.behind).put("resources/team/dogs", {"kind": "blob"})
    (series,) = [record.document["series"] for record in default().list("series/")]
    server.kill()
    for key, words in {
        "resources/team/dogs": "/team/dogs",
        "resources/team/": None,
        "resources/other/": "the names below /other",
        f"versions/{series}/00000009": "v9 of /team/cats",
        f"aliases/{series}/best": "the alias best of /team/cats",
        f"made/{series}/": "the runs that made /team/cats",
        "runs/20260101-x": "the run 20260101-x",
    }.items():
        if words is not None:
            with pytest.raises(errors.UnavailableError, match=f"nothing was read of {words} before"):
                default().get(key)


def test_a_listing_that_breaks_off_goes_on_from_the_mirror(server, monkeypatch):
    registry = default()
    for n in range(6):
        registry.put(f"runs/{n}", {"n": n})
    assert len(list(registry.list("runs/"))) == 6
    listing = registry.list("runs/")
    real = HTTPRegistry.list

    def broken(self, prefix="", *, after=""):
        for number, record in enumerate(real(self, prefix, after=after)):
            if number == 3:
                raise errors.UnavailableError("gone", where=self.url)
            yield record

    monkeypatch.setattr(HTTPRegistry, "list", broken)
    with pytest.warns(StaleWarning):
        assert [record.key for record in listing] == [f"runs/{n}" for n in range(6)]


def test_searches_are_answered_of_what_was_read(server, cats):
    cats.annotate(tags=["gold"], quality=0.9)
    rh.load("/team/cats")
    server.kill()
    with pytest.warns(StaleWarning):
        found = [record.key for record in default().search(F.quality > 0.5, "resources/")]
    assert found == ["resources/team/cats"]
    with pytest.warns(StaleWarning):
        assert list(default().search(F.quality < 0.5, "resources/")) == []
    with pytest.raises((errors.UnavailableError, errors.DeadlineError)):
        list(default().search(F.quality > 0.5, "resources/", as_of=time.time()))


@pytest.mark.parametrize("damage", ["garbage", "cut", "empty", "columns", "record", "directory"])
def test_a_damaged_mirror_is_no_obstacle(server, cats, damage):
    (path,) = files()
    data = path.read_bytes()
    for beside in path.parent.glob(f"{path.name}-*"):
        beside.unlink()
    if damage == "directory":
        path.unlink()
        path.mkdir()
    elif damage in ("columns", "record"):
        change = "alter table records drop column read" if damage == "columns" else "update records set document = '{'"
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(change)
    else:
        path.write_bytes({"garbage": secrets.token_bytes(20_000), "cut": data[:5000], "empty": b""}[damage])
    assert silently(lambda: rh.load("/team/cats:production").get("1.txt")) == b"tabby"
    assert silently(lambda: rh.resources("/team")) == ["/team/cats"]
    cats.alias("staging", "v1")
    server.kill()
    if damage in ("columns", "directory"):
        with pytest.raises(errors.UnavailableError, match="nothing was read of"):
            rh.load("/team/cats")
    else:
        with pytest.warns(StaleWarning):
            assert rh.load("/team/cats:staging").get("1.txt") == b"tabby"


def test_a_home_that_cannot_be_written_is_no_obstacle(server, cats):
    for path in files():
        path.unlink()
    (config.home() / "mirrors").rename(config.home() / "old")
    (config.home() / "mirrors").write_text("in the way")
    assert silently(lambda: rh.load("/team/cats")).name == "/team/cats"
    server.kill()
    with pytest.raises((errors.UnavailableError, errors.DeadlineError)):
        rh.load("/team/cats")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reads_and_remembers(server, cats):
    """Promise 27."""
    registry = default()
    registry.get("resources/team/cats")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            registry.put("resources/team/child", {"kind": "blob"})
            status = 0 if registry.get("resources/team/cats").revision else 2
        finally:
            os._exit(status)
    for _ in range(20):
        registry.get("resources/team/cats")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    server.kill()
    with pytest.warns(StaleWarning):
        assert registry.get("resources/team/child").revision == 1


def test_nothing_secret_is_in_it(server, cats):
    """Promise 34."""
    secret = server.token().rpartition("_")[2].encode()
    found = [path for path in config.home().rglob("*") if path.is_file()]
    assert files()[0] in found
    assert not [path for path in found if secret in path.read_bytes()]
    assert files()[0].stat().st_mode & 0o077 == 0 or files()[0].parent.stat().st_mode & 0o077 == 0
    assert server.url.encode() not in files()[0].name.encode()
    assert secret not in pickle.dumps(default()) + repr(default()).encode() + str(vars(default())).encode()
    assert pickle.loads(pickle.dumps(default())).get("resources/team/cats").revision


def test_another_user_of_the_machine_reads_nothing_of_ours(server, cats, monkeypatch):
    """A token that ends, or somebody else's: the mirror does not answer for the server."""
    monkeypatch.setenv("RH_REGISTRY_TOKEN", f"rh_{'0' * 12}_{'c' * 48}")
    with pytest.raises(errors.UnauthenticatedError):
        rh.load("/team/cats")


def test_the_program_tells_it_on_standard_error(server, cats, tmp_path):
    def program(*words):
        code = "import sys; from rh.cli import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )

    program("resources", "/team", "--json")
    server.kill()
    done = program("resources", "/team", "--json")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == ["/team/cats"]
    assert f"{server.url} cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
    done = program("cat", "rh:///team/cats:production/1.txt")
    assert (done.returncode, done.stdout) == (0, "tabby")
    assert "cannot be reached" in done.stderr
    done = program("alias", "set", "/team/cats", "production", "v2", "--json")
    assert done.returncode != 0
    told = json.loads(done.stderr.splitlines()[-1])
    assert told["kind"] in ("unavailable", "deadline")


def test_postgresql_has_one_too(monkeypatch, tmp_path):
    with servers.postgres() as server:
        for name, value in (("RH_REGISTRY", server.url), ("PGPASSWORD", server.password), ("RH_TIMEOUT_S", "2")):
            monkeypatch.setenv(name, value)
        rh.blob(b"x", name="/team/x", path=tmp_path / "x").save().commit(aliases=["best"])
        rh.load("/team/x:best")
        server.kill()
        postgres._connections.close()
        with pytest.warns(StaleWarning, match="cannot be reached"):
            assert rh.load("/team/x:best").fetch() == b"x"
        with pytest.raises((errors.UnavailableError, errors.DeadlineError)):
            rh.load("/team/y")
        with pytest.raises(errors.UnavailableError, match="told by the registry alone"):
            rh.find(as_of="2026-01-01", prefix="/team")
        changes_need_it("/team/x")
        told = b"".join(path.read_bytes() for path in config.home().rglob("*") if path.is_file())
        assert server.password.encode() not in told
    postgres._connections.close()


# How soon it is said, where nobody answers. Deadlines are long here, so that who waits for one is noticed.


class Mute:
    """Something at a port whose connections never come about: its queue of them is full."""

    def __init__(self, port: int) -> None:
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen(0)
        self.waiting = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(("127.0.0.1", port))
            self.waiting.append(one)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        for one in (*self.waiting, self.listener):
            one.close()


@pytest.fixture
def hasty(monkeypatch):
    """Little time to get through, and much for everything else."""
    monkeypatch.setenv("RH_TIMEOUT_S", "300")
    monkeypatch.setattr(base, "CONNECT_S", 0.3)


@pytest.mark.parametrize("how", ["refused", "mute"])
def test_where_nobody_answers_the_mirror_does_soon(server, cats, hasty, how):
    server.kill()
    with Mute(server.port) if how == "mute" else contextlib.nullcontext():
        begun = time.monotonic()
        with pytest.warns(StaleWarning, match="cannot be reached"):
            assert rh.load("/team/cats:production").get("1.txt") == b"tabby"
        mirror._silent.clear()
        with pytest.warns(StaleWarning):
            assert rh.resources("/team") == ["/team/cats"]
        mirror._silent.clear()
        with pytest.warns(StaleWarning):
            assert [record.key for record in default().search(F.kind == "none", "resources/")] == []
        assert time.monotonic() - begun < 60


def test_what_the_mirror_does_not_know_is_waited_for(server, cats, hasty, monkeypatch):
    """A server that restarts, or is far away, is not out of reach for who has nothing else to ask."""
    monkeypatch.setattr(http, "_REFUSED_S", 200.0)
    open_registry(server.behind).put("resources/team/dogs", {"kind": "blob"})
    server.kill()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(default().get, "resources/team/dogs")
        server.start()
        assert silently(answer.result).document == {"kind": "blob"}


def test_slow_is_not_out_of_reach(server, cats, hasty, monkeypatch):
    """Answers take longer than a connection may."""
    with FaultProxy(server.port, [Delay(each_way_s=0.4)]) as proxy:
        monkeypatch.setenv("RH_REGISTRY", proxy.url)
        assert silently(lambda: rh.load("/team/cats:production")).version == "v1"
        mirrored = default()
        assert isinstance(mirrored, Mirrored)
        assert silently(lambda: mirrored.get("resources/team/cats")).revision == 1
        assert [record.key for record in silently(lambda: list(mirrored.list("resources/")))] == ["resources/team/cats"]


@pytest.mark.parametrize("how", ["refused", "mute"])
def test_postgresql_that_does_not_answer(monkeypatch, hasty, how):
    monkeypatch.setattr(base, "CONNECT_S", 2.0)  # libpq's least
    with servers.postgres() as server:
        monkeypatch.setenv("RH_REGISTRY", server.url)
        monkeypatch.setenv("PGPASSWORD", server.password)
        registry = default()
        registry.put("resources/team/x", {"n": 1})
        server.kill()  # the connection that is kept breaks, and another one does not come about
        with Mute(server.port) if how == "mute" else contextlib.nullcontext():
            begun = time.monotonic()
            with pytest.warns(StaleWarning, match="cannot be reached"):
                assert registry.get("resources/team/x").document == {"n": 1}
            assert time.monotonic() - begun < 60
        server.start()
        mirror._silent.clear()
        assert silently(lambda: registry.get("resources/team/x")).revision == 1
    postgres._connections.close()


def test_a_bucket_that_does_not_answer(moto_server, hasty, monkeypatch):
    """The replica answers soon where nobody does; a store that fails, or is slow, is asked until the deadline."""
    monkeypatch.setattr(bucket, "CONNECT_S", 0.3)
    monkeypatch.setattr(bucket, "_silent", {})
    place = moto_server.make_bucket(f"t{secrets.token_hex(6)}")
    with FaultProxy(moto_server.port, http=True) as proxy:
        config.register("s3", moto_server.settings(via=proxy.port, timeout_s=300, retries=1000))
        registry = open_registry(f"{place}/registry")
        registry.put("a", {"n": 1})
        proxy.plan = [Delay(each_way_s=0.4)]
        assert silently(lambda: registry.get("a")).document == {"n": 1}
        proxy.plan = [Status(code=503, match=lambda request: request.nth < 4)]
        assert silently(lambda: registry.get("a")).document == {"n": 1}
        proxy.plan = []
        proxy.stop()
        begun = time.monotonic()
        with pytest.warns(StaleWarning, match="cannot be reached"):
            assert registry.get("a").document == {"n": 1}
        with counting() as counts, pytest.warns(StaleWarning):
            registry.get("a")
        assert not counts.total()
        with pytest.raises((errors.UnavailableError, errors.DeadlineError)):
            registry.direct.hurried().get("a")
        assert time.monotonic() - begun < 60
