"""The benchmark itself: it runs, notices what goes wrong, and counts what there is to count."""

from __future__ import annotations

import json
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import bars, report, tables
from benchmarks.__main__ import main
from benchmarks.peers import OURS, Contestant, roster
from benchmarks.programs import PROGRAMS, Job
from benchmarks.run import Case, Entrant, FailedError, Run, Runner
from benchmarks.servers import PLACES, Local
from benchmarks.shapes import HASHED, SHAPES, Shape, count, make, same

pytestmark = pytest.mark.slow

TINY = Shape("small", 3, 4096)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path, rounds=2, limit_s=30, say=lambda _line: None)


def python(code: str) -> Contestant:
    """A contestant that is a piece of Python with the job's paths as `source` and `target`."""

    def command(job: Job) -> Sequence[str]:
        line = "import os, shutil, sys, time; source, target = sys.argv[1:]\n" + code
        return [sys.executable, "-c", line, job.source, job.target]

    return Contestant("python", command)


def run(runner: Runner, *contestants: Contestant, shape: Shape = TINY) -> Case:
    return runner.case(Local(runner.directory), shape, "copy", contestants)


@pytest.mark.slow
def test_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--only", "s3,local,digest", "--scale", "0.0008", "--rounds", "1", "--quiet"]
    status = main([*words, "--json", str(tmp_path / "all.json"), "--docs", str(tmp_path / "docs")])
    told = json.loads((tmp_path / "all.json").read_text())
    failed = [(row["name"], row["error"]) for case in told["cases"] for row in case["rows"] if row["error"]]
    assert failed == []
    assert status == 0
    ways = {(case["place"], case["shape"], case["direction"]) for case in told["cases"]}
    moved = {
        (place, s.name, way)
        for place, ways in (("s3", "up down"), ("local", "copy"))
        for s in SHAPES
        for way in ways.split()
    }
    assert ways == moved | {("digest", s.name, "read") for s in HASHED}
    for case in told["cases"]:
        names = [row["name"] for row in case["rows"]]
        assert names[0].startswith(OURS)
        assert len(names) > 1
        for row in case["rows"]:
            assert len(row["runs"]) == 1
            assert 0 < row["wall_s"]["min"] <= row["wall_s"]["median"] <= row["wall_s"]["max"] <= 30
            assert row["rss_mib"] > 1
            assert row["speed"] > 0
    assert {bar["value"] is not None for bar in told["bars"]} == {True}

    printed = capsys.readouterr().out
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    for case in told["cases"]:
        assert f"{case['title']}, {case['direction']}" in printed
        assert f"### {case['title']}, {case['direction']}\n" in page
    assert "python -m benchmarks --only s3,local,digest" in page
    assert "all.json" not in page
    assert "/dev/shm" not in page
    assert json.loads((tmp_path / "docs" / "assets" / "benchmarks.json").read_text()) == told
    drawn = ET.parse(tmp_path / "docs" / "assets" / "benchmarks.svg").getroot()
    assert drawn.tag.endswith("svg")

    assert main(["--add", str(tmp_path / "all.json"), "--json", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == told


def test_runs_are_told_together() -> None:
    def told(place: str, command: str, **more: object) -> dict[str, object]:
        case = {"place": place, "shape": "small", "direction": "up", "rows": [command]}
        common = {"schema": 1, "rounds": 5, "scale": 1.0, "machine": {}, "missing": [], "command": command}
        return {**common, "cases": [case], "bars": [{"text": place, "value": command}], **more}

    both = report.joined([told("s3", "one", missing=["x"]), told("gs", "two"), told("s3", "three")])
    assert both["command"] == "one\ntwo\nthree"
    assert both["missing"] == ["x"]
    assert [(case["place"], case["rows"]) for case in both["cases"]] == [("s3", ["three"]), ("gs", ["two"])]
    assert both["bars"] == [{"text": "s3", "value": "three"}, {"text": "gs", "value": "two"}]
    assert report.joined([told("s3", "one", rounds=9), told("gs", "two")])["rounds"] == 5
    with pytest.raises(SystemExit, match="scale"):
        report.joined([told("s3", "one"), told("gs", "two", scale=0.5)])


def test_every_contestant_can_be_called() -> None:
    for place in PLACES:
        entrants = roster(place.name)
        assert entrants[0].name == OURS
        assert len({one.name for one in entrants}) == len(entrants) > 1
        for one in entrants:
            assert one.note
            if isinstance(one.command, str):
                assert one.command in PROGRAMS
    known = {one.name for place in PLACES for one in roster(place.name)} | {bars.COLD, bars.WARM, bars.OPENSSL}
    known |= {name for entries in (*tables.ROSTER.values(), tables.WRITERS) for name, _, _ in entries}
    for bar in bars.BARS:
        assert {bar.ours, *bar.against} <= known


def test_trees_are_deterministic(tmp_path: Path) -> None:
    shape = Shape("odd", 205, 5000)
    one, two = make(tmp_path / "one", shape), make(tmp_path / "two", shape)
    assert same(one, two, shape)
    assert count(one) == (205, 205 * 5000)
    contents = {path.read_bytes() for path in one.rglob("*.bin")}
    assert len(contents) == 205
    large = make(tmp_path, Shape("large", 1, (9 << 20) + 1))
    assert count(large) == (1, (9 << 20) + 1)
    assert Shape("large", 1, 1 << 30).scaled(0.5).bytes == 1 << 29
    assert Shape("small", 5000, 4096).scaled(0.01).files == 50


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("sys.exit('no such luck')", "no such luck"),
        ("shutil.copytree(source, target); os.remove(target + '/d0000/f000001.bin')", "2 files"),
        (
            "shutil.copytree(source, target); open(target + '/d0000/f000001.bin', 'r+').write('X')",
            "not those of the source",
        ),
        ("pass", "0 files"),
    ],
)
def test_failures_are_noticed(runner: Runner, code: str, said: str) -> None:
    entrant = run(runner, python(code)).entrants[0]
    assert said in (entrant.error or "")
    assert entrant.runs == []


def test_one_that_takes_too_long_is_ended(runner: Runner) -> None:
    runner.limit_s = 0.5
    began = time.monotonic()
    entrant = run(runner, python("time.sleep(60)")).entrants[0]
    assert "did not finish" in (entrant.error or "")
    assert time.monotonic() - began < 20


def test_cost_counts_all_processes(runner: Runner) -> None:
    spin = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass"
    held = "import time\nheld = bytes(range(256)) * (1 << 18)\ntime.sleep(0.5)"
    code = (
        "import subprocess\nshutil.copytree(source, target)\n"
        f"orphan = [sys.executable, '-c', {spin!r}]\n"
        "subprocess.Popen(['sh', '-c', '\"$0\" -c \"$1\" & exit 0', *orphan[0::2]]).wait()\n"
        f"two = [subprocess.Popen([sys.executable, '-c', {held!r}]) for _ in range(2)]\n"
        "[one.wait() for one in two]\n"
    )
    entrant = run(runner, python(code)).entrants[0]
    assert entrant.error is None
    for one in entrant.runs:
        assert one.cpu_s > 0.4
        assert one.rss_mib > 128  # two that hold 64 MiB each at the same time
        assert 0.5 < one.wall_s <= one.process_s < 30


def test_python_libraries_are_timed_without_imports(runner: Runner) -> None:
    entrant = run(runner, Contestant("copytree", "copytree")).entrants[0]
    assert entrant.error is None
    for one in entrant.runs:
        assert one.wall_s < one.process_s
        assert one.cpu_s < one.process_s


def test_turns_are_interleaved(runner: Runner) -> None:
    ran = []

    def go(entrant: Entrant) -> Run:
        ran.append(entrant.contestant.name)
        if entrant.contestant.name == "c":
            raise FailedError("out")
        return Run(1, 1, 1, 1)

    runner.rounds = 3
    entrants = [Entrant(Contestant(name, "rh")) for name in "abc"]
    runner.rounds_of(entrants, go)
    assert "".join(ran) == "abc" + "ba" + "ab"
    assert [len(entrant.runs) for entrant in entrants] == [3, 3, 0]


def _entrant(name: str, *walls: float, cpu: float = 1.0, rss: float = 10.0) -> Entrant:
    return Entrant(Contestant(name, "rh"), [Run(wall, wall, cpu, rss) for wall in walls])


def test_bars() -> None:
    shape = SHAPES[0]
    entrants = [
        _entrant(OURS, 0.9, 1.0, 9.0, cpu=1.0, rss=151.0),
        _entrant("s5cmd", 1.4),
        _entrant("rclone", 1.2),
        _entrant("boto3, 16 threads", 8.0, cpu=12.0),
        _entrant("boto3, plain loop", 20.0, cpu=11.0),
    ]
    told = list(bars.verdicts(Case("s3", "", shape, "up", entrants)))
    assert [(round(bar.value or 0, 3), bar.wanted, bar.met) for bar in told] == [
        (1.2, 1.3, False),
        (8.0, 8.0, True),
        (11.0, 10.0, True),
        (151.0, 150.0, False),
    ]
    entrants[0].error = "broke in the third round"
    assert not any(bar.met for bar in bars.verdicts(Case("s3", "", shape, "up", entrants)))
    files = HASHED[0]
    told = list(
        bars.verdicts(Case("digest", "", files, "read", [_entrant(bars.COLD, 0.25), _entrant(bars.WARM, 0.25)]))
    )
    assert [(bar.value, bar.met) for bar in told[:2]] == [(200_000.0, True), (200_000.0, False)]


def test_our_failure_is_the_status_and_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = python("sys.exit('ours broke')")
    broken = Contestant(OURS, broken.command, "as ever")
    monkeypatch.setattr(
        "benchmarks.__main__.roster", lambda _place: [broken, python("shutil.copytree(source, target)")]
    )
    words = ["--only", "local", "--shapes", "small", "--scale", "0.001", "--rounds", "1", "--quiet"]
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert "ours broke" in printed
    assert "not measured" in printed


def test_strict_is_about_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    slow = python("time.sleep(0.5); shutil.copytree(source, target)")
    peer = Contestant("rsync", python("shutil.copytree(source, target)").command, "not really")
    monkeypatch.setattr("benchmarks.__main__.roster", lambda _place: [Contestant(OURS, slow.command, "slow"), peer])
    words = ["--only", "local", "--shapes", "small", "--scale", "0.001", "--rounds", "1", "--quiet"]
    assert main(words) == 0
    assert main([*words, "--strict"]) == 1
    assert "MISSED" in capsys.readouterr().out


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SystemExit, match="no such place: s4; there are s3"):
        main(["--only", "s4"])


def test_nothing_names_the_machine() -> None:
    told = json.dumps(report.machine())
    assert "/" not in told.replace("AMD/", "")
    assert set(report.machine()) == {"cores", "cpu", "memory_gib", "kernel", "python"}
