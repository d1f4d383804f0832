"""Runs: what is read and written in them, recorded by itself, on every kind of place and in every kind of thread."""

import asyncio
import contextvars
import multiprocessing
import os
import sqlite3
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy
import pandas
import polars
import pytest

import rh
from rh import errors, observe
from rh.registry import default, lineage
from rh.registry.lineage import recording
from rh.resources.runs.running import UnrecordedWarning


def items(found):
    return [str(item) for item in found]


@pytest.fixture
def cats(folder):
    """A saved folder with two versions, on each system in turn; `production` stands on the first."""
    cats = folder.save("cats")
    cats.put({"a.txt": b"one"})
    cats.commit(aliases=["production"])
    cats.put({"b.txt": b"two"})
    cats.commit()
    return cats


@pytest.fixture
def dogs(here):
    """The same, on this disk only."""
    dogs = here.save("dogs")
    dogs.put({"a.txt": b"one", "sub/c.txt": b"three"})
    dogs.commit(aliases=["production"])
    dogs.put({"b.txt": b"two"})
    dogs.commit()
    return dogs


# What is recorded.


def test_parameters_that_hold_themselves_are_refused():
    params = {}
    params["params"] = params
    with pytest.raises(errors.InvalidError, match="holds itself"):
        rh.run("train", params=params)


def test_scalars_of_numpy_are_parameters(here):
    with rh.run("train", params={"rate": numpy.float64(0.1), "layers": [numpy.int64(3)]}) as r:
        pass
    assert rh.load_run(r.id).params == {"rate": 0.1, "layers": [3]}

    @rh.run
    def train(rate, layers):
        return rate * layers

    train(numpy.float32(0.5), numpy.int64(3))
    assert rh.runs()[0].params == {"rate": 0.5, "layers": 3}


def test_a_run_says_who_when_how_and_with_what(dogs):
    with rh.run("train", params={"rate": 0.1, "layers": [3, 5], "deep": {"x": True}}) as r:
        assert r.status == "running"
        assert rh.load_run(r.id).status == "running"
    found = rh.load_run(r.id)
    assert found == r
    assert (found.name, found.status, found.error, found.parent) == ("train", "done", None, None)
    assert found.params == {"rate": 0.1, "layers": [3, 5], "deep": {"x": True}}
    assert found.pid == os.getpid()
    assert found.started <= found.ended
    assert found.code["function"].endswith("test_a_run_says_who_when_how_and_with_what")
    assert found.code["digest"].startswith("sha256:")
    assert found.environment["python"].startswith("3.")
    assert found.environment["main"]["pyarrow"]
    assert found.as_dict()["inputs"] == []


def test_reads_on_every_system(cats, tmp_path):
    with rh.run("read") as r:
        rh.folder("cats:production").get("a.txt")
        rh.folder("cats:v2").to(path=tmp_path / "copy")
        rh.folder("cats").get("a.txt")
    assert items(r.inputs) == ["~/cats:v1 (as production)", "~/cats:v2", "~/cats (live)"]
    first = r.inputs[0]
    assert first.digest == cats.versions()[0].digest
    assert (first.version, first.asked, first.kind) == ("v1", "production", "folder")
    assert items(r.outputs) == [f"file://{tmp_path / 'copy'}"]
    assert cats.versions()[0].used_by() == [r.ref]


def test_making_a_handle_is_no_reading(dogs):
    with rh.run("look") as r:
        pinned = rh.folder("dogs:production")
        assert pinned.ls(full_paths=False) == ["a.txt", "sub/"]
        assert rh.folder("dogs").exists_in_system()
        assert pinned.versions()
        rh.blob(name="later", path="/nowhere")
    assert r.inputs == r.outputs == []


@pytest.mark.parametrize(
    "read",
    [
        lambda f: f.get("a.txt"),
        lambda f: f.open("a.txt").read(),
        lambda f: (f / "sub").get("c.txt"),
        lambda f: f.local(),
        lambda f: rh.folder(path="memory://runs/into").put({"x": f}, overwrite=True),
    ],
)
def test_folders_are_read(dogs, read):
    with rh.run("read") as r:
        read(rh.folder("dogs:production"))
        read(rh.folder("dogs"))
    assert items(r.inputs[:1]) == ["~/dogs:v1 (as production)"]
    assert [item.url for item in r.inputs[1:]] == [dogs.url]


def test_blobs_are_read_and_written():
    rh.blob({"epochs": 3}, name="params").save().commit(aliases=["production"])
    with rh.run("tune") as r:
        assert rh.blob(name="params:production").data == {"epochs": 3}
        assert rh.blob(name="params").open().read() == b'{"epochs":3}'
        held = rh.blob({"epochs": 4}, name="tuned")
        held.read()
        version = held.save().commit()
        assert rh.blob(name="tuned").data == {"epochs": 4}
    assert items(r.inputs) == ["~/params:v1 (as production)", "~/params (live)"]
    assert items(r.outputs) == ["~/tuned:v1"]
    assert version.produced_by == r.ref


@pytest.mark.parametrize(
    "read",
    [
        lambda t: t.fetch(),
        lambda t: t.data,
        lambda t: list(t.stream(2)),
        lambda t: t.to_reader().read_all(),
        lambda t: t.to_pandas(),
        lambda t: t.head(1),
        lambda t: t.sample(1),
        lambda t: t.profile(),
        lambda t: t.sql("select x from t"),
        lambda t: t.to_torch(2),
        lambda t: t.to(path="memory://runs/copied"),
        lambda t: rh.table({"x": [9]}).sql("select * from other", other=t),
    ],
)
def test_tables_are_read(read):
    rh.table({"x": [1, 2, 3]}, name="points").save().commit(aliases=["production"])
    with rh.run("read") as r:
        table = rh.table(name="points:production")
        assert table.num_rows == 3
        assert r.inputs == []
        read(table)
        read(rh.table(name="points"))
    assert items(r.inputs) == ["~/points:v1 (as production)", "~/points (live)"]


def test_tables_are_written():
    with rh.run("write") as r:
        rh.table({"x": [1]}, path="memory://runs/loose").write()
        table = rh.table({"x": [1]}, name="kept").save()
        assert items(r.outputs) == ["memory://runs/loose", "~/kept (live)"]
        table.commit()
    assert items(r.outputs) == ["memory://runs/loose", "~/kept:v1"]
    assert rh.table(name="kept").produced_by == r.ref


def test_queries_of_databases_are_external(postgres_server):
    table = rh.table(query="select 1 as one", system=postgres_server.dsn)
    with rh.run("query") as r:
        table.fetch()
    (read,) = r.inputs
    assert read.url.startswith("postgresql://")
    assert postgres_server.dsn not in str(r.as_dict())
    assert r.changed_inputs() == []
    with rh.run("keep") as kept:
        table.snapshot("ones").commit()
    assert [item.url for item in kept.inputs] == [read.url]
    assert items(kept.outputs) == ["~/ones:v1"]


def test_drafts_and_uploads(dogs, tmp_path):
    (tmp_path / "new.txt").write_bytes(b"new")
    with rh.run("edit") as r:
        version = dogs.upload(tmp_path / "new.txt")
        with dogs.draft(base="v1") as draft:
            draft.copy_from("dogs:production", "sub/", "again/")
    assert items(r.inputs) == ["~/dogs:v2 (as latest)", "~/dogs:v1", "~/dogs:v1 (as production)"]
    assert items(r.outputs) == ["~/dogs:v3", "~/dogs:v4"]
    assert version.produced_by == r.ref
    with rh.run("export") as exported:
        dogs.export(tmp_path / "dogs.rh", "production")
    assert items(exported.inputs) == ["~/dogs:v1 (as production)"]


def test_a_version_that_was_there_before_is_no_output(dogs):
    """It stays that of the run that made it; what was written to the live data is told as that."""
    with rh.run("first") as r:
        dogs.put({"c.txt": b"3"})
        made = dogs.commit()
        assert dogs.commit() == made
    with rh.run("again") as again:
        assert dogs.commit() == made
    with rh.run("written") as written:
        dogs.put({"c.txt": b"3"}, overwrite=True)
        assert dogs.commit() == made
    assert [items(run.outputs) for run in (r, again, written)] == [["~/dogs:v3"], [], ["~/dogs (live)"]]
    assert dogs.produced_by == r.ref
    assert {node.label for node in made.upstream().of_kind("run")} == {"first"}


def test_each_thing_once(dogs):
    pinned = rh.folder("dogs:v1")
    with rh.run("often") as r:
        for _ in range(50):
            pinned.get("a.txt")
    assert len(r.inputs) == 1
    changes = list(default().changes(f"inputs/{r.id}/"))
    assert len(changes) == 1


def test_nothing_is_recorded_without_a_run(dogs):
    with rh.run("over"):
        pass
    before = len(list(default().changes()))
    rh.folder("dogs:v1").get("a.txt")
    dogs.put({"x": b""})
    assert len(list(default().changes())) == before
    assert recording.active() is None


# How it ends.


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("no such layer"), "failed", "no such layer"),
        (ValueError("login with password=hunter2 failed"), "failed", "login with password=… failed"),
        (ValueError("s3://key:hunter2@host/x"), "failed", "(not recorded: it holds what looks like a credential)"),
        (ValueError("\udcff"), "failed", "\\udcff"),
        (KeyboardInterrupt(), "cancelled", ""),
        (SystemExit(3), "failed", "3"),
    ],
)
def test_a_run_that_fails(error, status, message):
    with pytest.raises(type(error)), rh.run("fail") as r:
        raise error
    found = rh.load_run(r.id)
    assert found.status == status
    assert found.error == {"type": type(error).__name__, "message": message}
    assert recording.active() is None


def test_leaving_with_zero_is_no_failure():
    with pytest.raises(SystemExit), rh.run("exit") as r:
        raise SystemExit(0)
    assert r.status == "done"


@pytest.mark.slow
def test_a_killed_process_leaves_what_it_did(dogs, python):
    code = (
        "import rh, os, time\n"
        "with rh.run('doomed', params={'k': 1}) as r:\n"
        "    rh.folder('dogs:production').get('a.txt')\n"
        "    made = rh.blob(b'x', name='made').save().commit()\n"
        "    time.sleep(1.5)\n"
        "    print(r.id, flush=True)\n"
        "    os._exit(0)\n"
    )
    found = rh.load_run(python(code).strip())
    assert (found.status, found.ended, found.params) == ("running", None, {"k": 1})
    assert found.pid
    assert items(found.inputs) == ["~/dogs:v1 (as production)"]
    assert items(found.outputs) == ["~/made:v1"]
    assert rh.blob(name="made").produced_by == found.ref


def test_a_process_killed_at_once_is_still_found_by_its_version(python):
    code = "import rh, os\nwith rh.run('doomed'):\n    rh.blob(b'x', name='made').save().commit()\n    os._exit(0)\n"
    python(code)
    made = rh.blob(name="made:v1")
    assert made.produced_by.name == "doomed"
    assert [node.label for node in made.upstream().of_kind("run")] == ["doomed"]


# Threads, tasks, processes.


def test_runs_in_runs(dogs):
    with rh.run("outer") as outer:
        rh.folder("dogs:v1").get("a.txt")
        with rh.run("inner") as inner:
            rh.folder("dogs:v2").get("a.txt")
        rh.folder("dogs").get("a.txt")
    assert inner.parent == outer.id
    assert items(inner.inputs) == ["~/dogs:v2"]
    assert items(outer.inputs) == ["~/dogs:v1", "~/dogs (live)"]


def test_threads_of_a_pool_are_in_the_run_of_the_main_thread(dogs):
    with ThreadPoolExecutor(4) as pool, rh.run("pool") as r:
        list(pool.map(lambda n: rh.folder(f"dogs:v{n}").get("a.txt"), [1, 2]))
    assert sorted(items(r.inputs)) == ["~/dogs:v1", "~/dogs:v2"]


def test_each_thread_has_its_own_run(dogs):
    barrier = threading.Barrier(2, timeout=20)

    def work(number):
        with rh.run(f"thread-{number}") as r:
            barrier.wait()
            rh.folder(f"dogs:v{number}").get("a.txt")
            barrier.wait()
            context = contextvars.copy_context()
            other = threading.Thread(target=context.run, args=(rh.folder("dogs").get, "a.txt"))
            other.start()
            other.join()
        return items(r.inputs)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, [1, 2])) == [["~/dogs:v1", "~/dogs (live)"], ["~/dogs:v2", "~/dogs (live)"]]
    assert recording.active() is None


def test_each_task_has_its_own_run(dogs):
    async def work(number):
        with rh.run(f"task-{number}") as r:
            await asyncio.sleep(0)
            await asyncio.to_thread(rh.folder(f"dogs:v{number}").get, "a.txt")
        return items(r.inputs)

    async def both():
        return await asyncio.gather(work(1), work(2))

    assert asyncio.run(both()) == [["~/dogs:v1"], ["~/dogs:v2"]]


def test_a_cancelled_task_is_a_cancelled_run():
    async def main():
        async def work():
            with rh.run("slow"):
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert rh.runs()[0].status == "cancelled"


def _read_in_child(name):
    return rh.folder(name).get("a.txt")


def test_forked_children_are_in_the_run(dogs):
    with rh.run("forks") as r:
        rh.folder("dogs:v1").get("a.txt")
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.map(_read_in_child, ["dogs:v2", "dogs:production", "dogs:v2"])
            pool.close()
            pool.join()
        assert rh.load_run(r.id).status == "running"
    assert sorted(items(r.inputs)) == ["~/dogs:v1", "~/dogs:v1 (as production)", "~/dogs:v2"]
    assert r.status == "done"


# As a decorator.


@rh.run
def double(factor, source="dogs:v1", password=None):
    """Doubles."""
    return rh.folder(source).get("a.txt") * factor


def test_a_decorated_function(dogs):
    assert double(2, password="hunter2") == b"oneone"
    assert double.__doc__ == "Doubles."
    (r,) = rh.runs("double")
    assert r.params == {"factor": 2, "source": "dogs:v1"}
    assert r.code["function"] == "tests.resources.test_runs.double"
    assert items(r.inputs) == ["~/dogs:v1"]
    with pytest.raises(TypeError, match="factor"):
        double()
    assert [one.status for one in rh.runs("double")] == ["failed", "done"]


def test_decorated_with_a_name_and_parameters(dogs):
    @rh.run("named", params={"extra": 1})
    def call(data, array):
        return data.get("a.txt")

    pinned = rh.folder("dogs:production")
    assert call(pinned, {1, 2}) == call(pinned, ()) == b"one"
    runs = rh.runs("named")
    assert [r.params for r in runs] == [
        {"data": "~/dogs:v1", "array": [], "extra": 1},
        {"data": "~/dogs:v1", "extra": 1},
    ]


def test_decorated_coroutines_and_generators(dogs):
    @rh.run("later")
    async def later():
        await asyncio.sleep(0)
        return rh.folder("dogs:v1").get("a.txt")

    assert asyncio.run(later()) == b"one"
    assert items(rh.runs("later")[0].inputs) == ["~/dogs:v1"]
    with pytest.raises(errors.InvalidError, match="generator"):

        @rh.run
        def pieces():
            yield 1


# Looking back.


def test_runs_are_found(dogs):
    for number in range(3):
        with rh.run("train", params={"rate": number / 10, "model": {"kind": "cnn"}}):
            pass
    with pytest.raises(ZeroDivisionError), rh.run("test"):
        1 / 0  # noqa: B018
    assert [r.name for r in rh.runs()] == ["test", "train", "train", "train"]
    assert [r.params["rate"] for r in rh.runs("train")] == [0.2, 0.1, 0.0]
    assert [r.params["rate"] for r in rh.runs(where="rate > 0.05", limit=1)] == [0.2]
    assert len(rh.runs(where='model.kind == "cnn"', status="done")) == 3
    assert [r.name for r in rh.runs(status="failed")] == ["test"]
    with pytest.raises(errors.InvalidError, match="did you mean rate"):
        rh.runs(where="rat > 1")
    with pytest.raises(errors.InvalidError, match="did you mean done"):
        rh.runs(status="dnoe")
    with pytest.raises(errors.NotFoundError, match="no run is called 'trian'; did you mean train"):
        rh.runs("trian")
    assert rh.runs("train", status="failed") == []
    assert rh.runs("test", where="rate > 0") == []
    r = rh.runs()[0]
    assert rh.load_run(r.ref) == rh.load_run(r.id[:-2]) == r
    with pytest.raises(errors.InvalidError, match="several"):
        rh.load_run(r.id[:4])
    with pytest.raises(errors.NotFoundError, match="no run"):
        rh.load_run("20000101-000000-000000000000")


def test_inputs_again(dogs):
    with rh.run("train") as r:
        rh.folder("dogs:production").get("a.txt")
        rh.folder("dogs:latest").get("a.txt")
        rh.folder("dogs").get("a.txt")
    assert r.changed_inputs() == []
    dogs.alias("production", "v2")
    dogs.put({"a.txt": b"changed"}, overwrite=True)
    dogs.commit()
    dogs.rename("hounds")
    again = rh.load_run(r.id)
    with pytest.warns(UserWarning, match=r"the run read ~/dogs \(live\), which no version holds") as warned:
        exact = again.rerun_inputs()
    assert warned[0].filename == __file__
    assert {asked: handle.version for asked, handle in exact.items()} == {
        "~/dogs:production": "v1",
        "~/dogs:latest": "v2",
    }
    assert exact["~/dogs:production"].get("a.txt") == b"one"
    assert [(str(one.input), one.why, one.now) for one in again.changed_inputs()] == [
        ("~/dogs:v1 (as production)", "alias", "v2"),
        ("~/dogs:v2 (as latest)", "newer", "v3"),
        ("~/dogs (live)", "newer", "v3"),
    ]
    rh.folder("hounds").delete_configs()
    assert [one.why for one in again.changed_inputs()][:2] == ["gone", "gone"]


def test_an_alias_that_was_moved_within_a_run(dogs):
    """Both versions are there: the further one by its number, and that of a series of the same name by its digest."""
    with rh.run("train") as r:
        assert rh.folder("dogs:production").get("a.txt") == b"one"
        dogs.alias("production", "v2")
        rh.folder("dogs:production").get("a.txt")
        rh.folder("dogs:v2").get("a.txt")
        dogs.alias("production", "v1")
        rh.folder("dogs:production").get("a.txt")
    assert [item.version for item in r.inputs] == ["v1", "v2", "v2"]
    exact = r.rerun_inputs()
    assert {asked: handle.version for asked, handle in exact.items()} == {"~/dogs:production": "v1", "~/dogs:v2": "v2"}
    assert exact["~/dogs:production"].get("a.txt") == b"one"


def test_versions_of_two_series_that_had_one_name(dogs, tmp_path):
    other = rh.folder(name="other", path=tmp_path / "other").mkdir().save()
    other.put({"a.txt": b"other"})
    digest = other.commit(aliases=["production"]).digest
    with rh.run("train") as r:
        rh.folder("dogs:production").get("a.txt")
        rh.folder("dogs:v1").get("a.txt")
        dogs.rename("hounds")
        other.rename("dogs")
        rh.folder("dogs:production").get("a.txt")
    exact = r.rerun_inputs()
    assert [(asked, handle.name, handle.version) for asked, handle in exact.items()] == [
        ("~/dogs:production", "~/hounds", "v1"),
        ("~/dogs:v1", "~/hounds", "v1"),
        (f"~/dogs@{digest}", "~/dogs", "v1"),
    ]


def test_live_data_that_were_written_to(tmp_path):
    (tmp_path / "d").mkdir()
    for name in ("x.txt", "y.txt", "z.txt"):
        (tmp_path / "d" / name).write_text("1")
        os.utime(tmp_path / "d" / name, (1, 1))
    folder, blob = rh.folder(path=tmp_path / "d"), rh.blob(path=tmp_path / "d" / "x.txt")
    with rh.run("read") as r:
        folder.get("y.txt")
        blob.read()
    assert r.changed_inputs() == []
    future = r.ended + 1000
    os.utime(tmp_path / "d" / "x.txt", (future, future))
    assert [one.why for one in r.changed_inputs()] == ["written", "written"]
    (tmp_path / "d" / "x.txt").unlink()
    assert [one.why for one in r.changed_inputs()] == ["gone"]


# Code.


def test_the_commit_is_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}

    def git(*words):
        command = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.com", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    git("init", "-q")
    code = "import rh\ndef work():\n    with rh.run('committed') as r:\n        pass\n    return r\n"
    (tmp_path / "work.py").write_text(code)
    git("add", "work.py")
    git("commit", "-q", "-m", "first")
    # What a repository configures is not run.
    (tmp_path / "evil.sh").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "evil.sh").chmod(0o755)
    git("config", "diff.external", str(tmp_path / "evil.sh"))
    git("config", "core.fsmonitor", str(tmp_path / "evil.sh"))
    monkeypatch.syspath_prepend(tmp_path)
    import work

    first = work.work().code
    assert first["function"] == "work.work"
    assert first["git"] == {"commit": git("rev-parse", "HEAD"), "dirty": None}
    (tmp_path / "work.py").write_text(code + "# changed\n")
    second = work.work().code
    assert second["git"]["commit"] == first["git"]["commit"]
    assert second["git"]["dirty"].startswith("sha256:")
    (tmp_path / "ran").unlink(missing_ok=True)  # git itself may have run it above
    work.work()
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv("PATH", "/nowhere")
    third = work.work().code
    assert "git" not in third
    assert third["digest"]


# Bad input.


@pytest.mark.parametrize(
    ("name", "params", "match"),
    [
        ("", None, "not the name"),
        (3, None, "not the name"),
        ("x" * 201, None, "not the name"),
        ("x", {"password": "hunter2"}, "looks like a secret"),
        ("x", {"url": "s3://key:hunter2@host"}, "credential"),
        ("x", {"rate": float("nan")}, "JSON"),
        ("x", {"model": object()}, "only what JSON has"),
        ("x", {1: 2}, "not text"),
        ("x", {"": 2}, "needs a name"),
        ("x", {"a.b": 1, "a": {"b": 2}}, "two properties are called 'a.b'"),
        ("x", [1], "mapping"),
        ("x", {"big": "x" * (1 << 20)}, "more than"),
    ],
)
def test_what_is_refused(name, params, match):
    with pytest.raises(errors.InvalidError, match=match) as caught:
        rh.run(name, params=params)
    assert "hunter2" not in str(caught.value)
    assert rh.runs() == []


def test_runs_that_end_in_any_order_are_over_when_they_have_ended(dogs):
    def work(name):
        with rh.run(name) as r:
            yield r
            rh.folder("dogs:v1").get("a.txt")

    generators = [work("one"), work("two")]
    first, second = map(next, generators)
    for one in generators:
        assert list(one) == []
    assert recording.active() is None
    rh.folder("dogs:v2").get("a.txt")
    assert (items(first.inputs), items(second.inputs)) == ([], ["~/dogs:v1"])  # the one that began last was innermost


def test_a_block_is_begun_once():
    block = rh.run("once")
    with block:
        pass
    with pytest.raises(errors.InvalidError, match="begun once"), block:
        pass


def test_credentials_in_urls_are_not_recorded(http_server):
    (http_server.root / "data.txt").write_bytes(b"data")
    with rh.run("fetch") as r:
        rh.blob(path=f"{http_server.url}/data.txt?X-Amz-Signature=hunter2").read()
    assert [item.url for item in r.inputs] == [f"{http_server.url}/data.txt"]
    assert not any("hunter2" in str(change) for change in default().changes())


def test_what_cannot_be_recorded_is_left_out_and_the_rest_is_told(tmp_path, dogs, caplog):
    """A login in a query; an entry that the registry does not take: the work is done, and so is the run."""
    with sqlite3.connect(tmp_path / "db.sqlite") as database:
        database.executescript("create table x(a); insert into x values (1);")
    database.close()
    with rh.run("train") as r:
        where = "a from x where 'postgres://u:hunter2@h/d' <> ''"
        assert len(rh.table(query=f"select {where}", system=f"sqlite:///{tmp_path}/db.sqlite").fetch()["a"]) == 1
        rh.folder("dogs:v1").get("a.txt")
    assert rh.load_run(r.id).status == "done"
    assert [item.name for item in r.inputs if item.name] == ["~/dogs"]
    assert len(r.inputs) == 2
    assert "hunter2" not in "".join(map(str, default().changes())) + caplog.text


def test_an_entry_that_the_registry_refuses(tmp_path, dogs, monkeypatch, caplog):
    (tmp_path / "x.txt").write_bytes(b"one")
    commit = type(default()).commit

    def refused(self, steps, **options):
        if any("external/" in step.key for step in steps):
            raise errors.AccessError("not for you")
        return commit(self, steps, **options)

    with rh.run("train") as r:
        monkeypatch.setattr(type(default()), "commit", refused)
        rh.blob(path=tmp_path / "x.txt").read()
        rh.folder("dogs:v1").get("a.txt")
    assert r.status == rh.load_run(r.id).status == "done"
    assert items(r.inputs) == ["~/dogs:v1"]
    assert "x.txt is among its inputs is not recorded" in caplog.text


class Word(str):
    __slots__ = ()


class Shop:
    def item(self, key):
        return key


class Odd:
    def __getattr__(self, name):
        raise RuntimeError(name)


def endless():
    found = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    "value",
    [
        pandas.DataFrame({"a": [1, 2]}),
        polars.DataFrame({"a": [1, 2]}),
        polars.LazyFrame({"a": [1, 2]}),
        polars.Series([1, 2]),
        {"rows": pandas.DataFrame({"a": [1]})},
        Shop(),
        Odd(),
        endless(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_function_is_called_whatever_its_arguments_are(value):
    @rh.run
    def work(rows, word):
        return rows

    assert work(value, Word("x")) is value
    (r,) = rh.runs()
    assert (r.status, r.params) == ("done", {"word": "x"})


def test_values_of_types_of_ones_own_are_parameters():
    with rh.run("train", params={"word": Word("x"), "deep": {Word("y"): [Word("z")]}}) as r:
        pass
    assert r.params == rh.load_run(r.id).params == {"word": "x", "deep": {"y": ["z"]}}
    with pytest.raises(errors.InvalidError, match="is a DataFrame"):
        rh.run("train", params={"rows": pandas.DataFrame({"a": [1]})})


def test_large_arguments_are_no_parameters():
    """Each of a few KiB, and 64 KiB together, so that the record of the run is never too large."""

    @rh.run
    def work(text, other, numbers, small, *rest):
        return len(text) + len(other)

    assert work("a" * 700_000, "b" * 700_000, list(range(9_000)), 7, *["c" * 3_000] * 100) == 1_400_000
    (r,) = rh.runs()
    assert r.params == {"small": 7}

    @rh.run
    def many(**options):
        return len(options)

    assert many(**{f"o{number}": number for number in range(2_000)}) == 2_000


def test_a_registry_that_is_lost_while_the_run_goes_on(monkeypatch, tmp_path):
    """The work goes on, and nothing of it is lost; a warning says that its end could not be recorded."""
    shared, away = tmp_path / "shared", tmp_path / "away"
    monkeypatch.setenv("RH_REGISTRY", f"sqlite://{shared}/team.db")
    (tmp_path / "x.txt").write_bytes(b"one")
    block = rh.run("lost")
    r = block.__enter__()
    shared.rename(away)
    shared.write_text("in the way")
    assert rh.blob(path=tmp_path / "x.txt").read() == b"one"
    with pytest.warns(UnrecordedWarning, match=f"run lost {r.id} is over, and stays `running`") as told:
        block.__exit__(None, None, None)
    assert [one.filename for one in told] == [__file__]
    assert recording.active() is None
    shared.unlink()
    away.rename(shared)
    assert rh.load_run(r.id).status == "running"


@pytest.mark.parametrize("failure", [errors.UnavailableError, errors.AccessError, errors.ConflictError, OSError])
def test_what_a_function_gives_back_is_not_lost_with_its_record(monkeypatch, caplog, failure):
    def refused(*_arguments, **_options):
        raise failure("not now")

    @rh.run
    def train():
        monkeypatch.setattr(type(default()), "commit", refused)
        return 42

    @rh.run
    async def train_later():
        monkeypatch.setattr(type(default()), "commit", refused)
        return 43

    with pytest.warns(UnrecordedWarning, match="not now"):
        assert train() == 42
    assert "not now" in caplog.text
    monkeypatch.undo()
    with pytest.warns(UnrecordedWarning, match="not now"):
        assert asyncio.run(train_later()) == 43


# What runs keep.


def test_versions_that_runs_need_are_kept(here):
    dogs = here.save("dogs")
    for number in range(6):
        dogs.put({"n": b"%d" % number}, overwrite=True)
        if number == 1:
            with rh.run("make"):
                dogs.commit()
        elif number == 2:
            with rh.run("make-for-now"):
                dogs.commit(ttl=1e-6)
        else:
            dogs.commit()
    with rh.run("use") as use:
        rh.folder("dogs:v4").get("n")
    with pytest.raises(errors.ConflictError, match=f"needed by the run use {use.id}"):
        dogs.series_of().drop(dogs.versions()[3])
    (swept,) = rh.gc("dogs", keep=1, dry_run=True)
    assert swept.dropped == ["~/dogs:v1", "~/dogs:v3", "~/dogs:v5"]
    rh.gc("dogs", keep=1)
    assert [version.label for version in dogs.versions()] == ["v2", "v4", "v6"]
    use.forget()
    assert use not in rh.runs()
    assert dogs.versions()[1].used_by() == []
    with pytest.raises(errors.NotFoundError):
        use.forget()
    rh.gc("dogs", keep=1)
    assert [version.label for version in dogs.versions()] == ["v2", "v6"]
    rh.gc("dogs", keep=1, runs=False)
    assert [version.label for version in dogs.versions()] == ["v6"]


def test_no_request_to_the_data_is_made_for_the_record(cats):
    """Recording asks the registry only."""
    pinned = rh.folder("cats:v1")
    pinned.get("a.txt")
    with observe.counting() as without:
        pinned.get("a.txt")
    with observe.counting() as counts, rh.run("read"):
        pinned.get("a.txt")
    assert counts.requests == without.requests


def test_keys_are_as_documented(dogs):
    with rh.run("train") as r:
        rh.folder("dogs:v1").get("a.txt")
        rh.blob(b"x", name="made").save().commit()
        rh.folder("dogs").get("a.txt")
    keys = [record.key for record in default().list() if r.id in record.key]
    series = dogs.series_of().series
    assert f"used/{series}/00000001/{r.id}" in keys
    assert f"runs/{r.id}" in keys
    assert f"used/{lineage.external_node(dogs.url)}/{r.id}" in keys
    assert sum(key.startswith("made/") for key in keys) == sum(key.startswith("outputs/") for key in keys) == 1
