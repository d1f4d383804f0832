"""Processes that are started in a run record what they do in the same run, on every kind of registry."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import rh
from rh.registry import default
from rh.registry.lineage import recording
from rh.resources.runs.recording import attach
from tests.registry.kinds import KINDS, Shared, opened

WORK = """
import multiprocessing, os, subprocess, sys
import rh

def work(read, made):
    rh.folder(read).get("x")
    rh.blob(made, name=f"/team/{made}").save().commit()

def begin(way, *words):
    if way == "subprocess":
        subprocess.run([sys.executable, __file__, *words], check=True)
        return
    child = multiprocessing.get_context(way).Process(target=work, args=words)
    child.start()
    child.join()
    assert child.exitcode == 0

if __name__ == "__main__" and len(sys.argv) == 3:
    work(*sys.argv[1:])
elif __name__ == "__main__":
    cats = rh.folder(name="/team/cats", path=os.environ["DATA"]).save()
    for number in range(3):
        cats.put({"x": b"%d" % number}, overwrite=True)
        cats.commit()
    with rh.run("children") as r:
        for number, way in enumerate(("fork", "spawn", "subprocess"), 1):
            begin(way, f"/team/cats:v{number}", way)
    assert "RH_RUN" not in os.environ
    begin("subprocess", "/team/cats:v1", "afterwards")
    print(r.id)
"""


@pytest.fixture(params=KINDS)
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shared]:
    with opened(request.param, request, tmp_path) as found:
        yield found


def items(run: rh.Run) -> tuple[list[str], list[str]]:
    return sorted(map(str, run.inputs)), sorted(map(str, run.outputs))


@pytest.mark.slow
def test_children_are_in_the_run(shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By fork, by spawn, and as a program of its own; and not once the run is over."""
    (tmp_path / "work.py").write_text(WORK)
    environment = {**os.environ, **shared.environment("ada"), "DATA": f"{shared.data}/cats"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "work.py")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    shared.be("ada", monkeypatch)
    run = rh.load_run(done.stdout.strip())
    assert run.status == "done"
    assert items(run) == (
        [f"/team/cats:v{number}" for number in (1, 2, 3)],
        ["/team/fork:v1", "/team/spawn:v1", "/team/subprocess:v1"],
    )
    assert rh.blob(name="/team/spawn:v1").produced_by == run.ref
    assert rh.blob(name="/team/afterwards:v1").produced_by is None
    assert [one.id for one in rh.runs()] == [run.id]


CHILD = "import rh; rh.folder('cats:v1').get('x')"


@pytest.fixture
def cats(here: rh.Folder) -> rh.Folder:
    cats = here.save("cats")
    cats.put({"x": b"1"})
    cats.commit()
    return cats


def test_a_child_that_outlives_its_run_leaves_it_as_it_is(cats: rh.Folder, python, tmp_path: Path) -> None:
    """It goes on with its work, in no run, also when it had begun before the run was over."""
    code = (
        "import rh, sys; rh.folder('cats:v1').get('x'); print('read', flush=True); sys.stdin.readline()\n"
        "rh.blob(1, name='late').save().commit(); print(rh.blob(name='late:v1').fetch())"
    )
    with rh.run("short") as r:
        child = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1, text=True)
        assert child.stdout.readline() == "read\n"
    before = r.as_dict()
    assert items(r) == (["~/cats:v1"], [])
    out, err = child.communicate("\n", timeout=60)
    assert (child.returncode, out, err) == (0, "1\n", "")
    assert python(CHILD, RH_RUN=r.id) == ""
    assert rh.load_run(r.id).as_dict() == before
    r.forget()
    assert python(CHILD, RH_RUN=r.id) == ""
    assert default().find(f"inputs/{r.id}/") is None
    assert rh.runs() == []


def test_a_run_in_a_child_has_its_parent(cats: rh.Folder, python) -> None:
    with rh.run("outer") as outer:
        code = f"import rh\nwith rh.run('inner') as r: {CHILD.partition('; ')[2]}\nprint(r.id, r.parent)"
        inner, parent = python(code).split()
    assert parent == outer.id
    assert items(rh.load_run(inner)) == (["~/cats:v1"], [])
    assert items(outer) == ([], [])


def test_what_another_process_made_is_no_input(cats: rh.Folder, python) -> None:
    with rh.run("both") as r:
        rh.blob(1, name="made").save().commit()
        r.outputs  # noqa: B018 - tells the registry now
        python("import rh; print(rh.blob(name='made:v1').fetch())")
    assert items(r) == ([], ["~/made:v1"])


def test_runs_side_by_side_are_told_to_no_child(cats: rh.Folder) -> None:
    """The environment is that of the whole process: a child would be in a run that is not its parent's."""
    first, inner, second = rh.run("first"), rh.run("inner"), rh.run("second")
    with first as a:
        assert os.environ["RH_RUN"] == a.id
        with inner as b:
            assert os.environ["RH_RUN"] == b.id
        assert os.environ["RH_RUN"] == a.id
        seen: list[str | None] = []

        def other() -> None:
            with second:
                seen.append(os.environ.get("RH_RUN"))

        recording._Process.runs = ()  # as if the first had been begun in a thread of its own
        thread = threading.Thread(target=contextvars.Context().run, args=(other,))
        thread.start()
        thread.join()
        assert seen == [None]
        assert os.environ["RH_RUN"] == a.id
    assert "RH_RUN" not in os.environ


@pytest.mark.parametrize("said", ["nonsense", "20200101-000000-000000000000", "../../x", ""])
def test_a_run_that_nobody_knows(said: str, cats: rh.Folder, python, caplog: pytest.LogCaptureFixture) -> None:
    """The work is done; a warning says that it is in no run."""
    assert python(f"{CHILD}; print('done')", RH_RUN=said) == "done\n"
    if said:
        assert attach(said) is None
        assert "no registry here has it" in caplog.text
