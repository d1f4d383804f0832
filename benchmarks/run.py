"""Running the contestants of one case in turn, several rounds, each run in a fresh process and from an empty target."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count as numbers
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers import OURS, Contestant
from benchmarks.programs import Job
from benchmarks.servers import Local, Place, Relay, timed_environment
from benchmarks.shapes import Shape, make, memory_directory, remove, same
from rh.testing.servers.process import program

_TIMED = str(Path(__file__).with_name("timed.py"))
_RACY_S = 2.1
"""Tools that go by times do not trust files younger than this."""
_ROOT = str(Path(__file__).resolve().parent.parent)


class Run(NamedTuple):
    """What one run cost.

    Attributes:
        wall_s: of the whole process for programs, without interpreter start and imports for Python libraries.
        process_s: of the whole process.
        cpu_s: user and system seconds of the process and all it started, over what `wall_s` covers and its end.
        rss_mib: peak resident memory of the process and all it started.
    """

    wall_s: float
    process_s: float
    cpu_s: float
    rss_mib: float


class FailedError(Exception):
    """A contestant did not do its job."""


@dataclass
class Entrant:
    """A contestant in one case, and its runs so far."""

    contestant: Contestant
    runs: list[Run] = field(default_factory=list)
    error: str | None = None
    home: Path | None = None
    target: str | None = None

    def median(self, name: str) -> float:
        return statistics.median(getattr(run, name) for run in self.runs)


@dataclass
class Case:
    """One place, shape and direction, and what came of it."""

    place: str
    server: str
    shape: Shape
    direction: str
    entrants: list[Entrant]

    @property
    def title(self) -> str:
        return f"{self.place}, {self.shape.title}, {self.direction}"


class Runner:
    """Runs cases in a directory of its own on tmpfs.

    Args:
        rounds: how often each contestant runs.
        limit_s: after so many seconds a run has failed.
        say: told what happens, in lines for people.
        profile: py-spy writes the stacks of our runs (collapsed, as flame graph tools take them) to this directory.
    """

    def __init__(
        self,
        directory: Path,
        *,
        rounds: int,
        limit_s: float,
        say: Callable[[str], None],
        profile: Path | None = None,
    ) -> None:
        self.directory = directory
        self.profile = profile
        self.rounds = rounds
        self.limit_s = limit_s
        self.say = say
        self._numbers = numbers()

    def new(self, what: str) -> str:
        """A name nobody had before."""
        return f"{what}-{next(self._numbers)}"

    def data(self, shape: Shape) -> Path:
        """The tree of a shape, as old as tools want it that go by times."""
        place = make(self.directory / "data", shape)
        time.sleep(max(0.0, place.stat().st_mtime + _RACY_S - time.time()))
        return place

    def run(
        self, contestant: Contestant, job: Job, environment: dict[str, str], *, log: str | None = None
    ) -> tuple[Run, dict[str, Any]]:
        """Let one contestant do one job; what it cost, and what it says of itself.

        Raises:
            FailedError: it failed or took too long.
        """
        result, inner = self.directory / "result.json", self.directory / "inner.json"
        output = Path(log) if log else self.directory / "output"
        inner.unlink(missing_ok=True)
        if isinstance(contestant.command, str):
            command = [sys.executable, "-m", "benchmarks.programs", contestant.command, json.dumps(job), str(inner)]
        else:
            command = list(contestant.command(job))
        if self.profile is not None and contestant.name.startswith(OURS):
            stacks = self.profile / f"{self.new(job.source_system + '-' + job.target_system)}.txt"
            spy = program("py-spy", install="pip install py-spy")
            command = [spy, "record", "--rate", "500", "--format", "raw", "--output", str(stacks), "--", *command]
        with output.open("wb") as file:
            subprocess.run(
                [sys.executable, "-I", "-S", _TIMED, str(result), str(self.limit_s), *command],
                env={**environment, "PYTHONPATH": _ROOT},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=True,
            )
        cost = json.loads(result.read_text())
        if cost["late"]:
            raise FailedError(f"did not finish within {self.limit_s:.0f} s")
        if cost["status"]:
            raise FailedError(self._last_words(output) or f"exit status {cost['status']}")
        said: dict[str, Any] = json.loads(inner.read_text()) if inner.exists() else {}
        wall = said.get("wall_s", cost["wall_s"])
        cpu = cost["cpu_s"] - said.get("cpu_before_s", 0.0)
        return Run(wall, cost["wall_s"], cpu, cost["rss_mib"]), said

    def _last_words(self, output: Path) -> str:
        """What a contestant said last, short, and without paths that mean nothing elsewhere."""
        said = output.read_text("utf-8", "replace").strip()
        _, mark, exception = said.rpartition('\n  File "')  # a traceback: its last line of code, then what was raised
        lines = exception.splitlines()[1:] if mark else said.splitlines()
        lines = [line for line in lines if line.strip() and set(line.strip()) != {"^"}]
        shown = lines[1:7] if mark and len(lines) > 1 else lines[-6:]
        return "\n".join(shown).replace(str(self.directory), "…").replace(_ROOT, "…")[:1000]

    def case(self, place: Place, shape: Shape, direction: str, contestants: Sequence[Contestant]) -> Case:
        """Run one case: contestants in turn, as many rounds as wanted, in an order that shifts from round to round."""
        entrants = [Entrant(one) for one in contestants if shape.name in one.shapes and one.missing is None]
        case = Case(place.name, type(place).__doc__ or "", shape, direction, entrants)
        self.say(f"\n{case.title}")
        _Course(self, place, shape, direction).run(entrants)
        return case

    def rounds_of(self, entrants: list[Entrant], go: Callable[[Entrant], Run]) -> None:
        """Let all take turns; one that fails is out."""
        for number in range(self.rounds):
            shift = number % len(entrants)
            for entrant in entrants[shift:] + entrants[:shift]:
                if entrant.error is None:
                    self._turn(entrant, go)

    def _turn(self, entrant: Entrant, go: Callable[[Entrant], Run]) -> None:
        try:
            run = go(entrant)
        except FailedError as error:
            entrant.error = str(error)
            self.say(f"  {entrant.contestant.name}: FAILED: {error}")
            return
        entrant.runs.append(run)
        self.say(
            f"  {entrant.contestant.name}: {run.wall_s:.3f} s (process {run.process_s:.3f}), "
            f"CPU {run.cpu_s:.2f} s, {run.rss_mib:.0f} MiB"
        )

    def home(self, entrant: Entrant, *, keep: bool) -> Path:
        """The home of `rh` for a run: a new one, or the one this entrant had before."""
        if entrant.home is None or not keep:
            if entrant.home is not None:
                remove(entrant.home)
            entrant.home = self.directory / self.new("home")
        return entrant.home


class _Course:
    """One case on its way: where its source is, where targets go, and how each is checked and emptied."""

    def __init__(self, runner: Runner, place: Place, shape: Shape, direction: str) -> None:
        self.runner, self.place, self.shape = runner, place, shape
        self.data = runner.data(shape)
        here = Local(runner.directory)
        if isinstance(place, Relay):
            self.source_place: Place = place.host if direction == "up" else place
            self.target_place: Place = place if direction == "up" else place.host
        else:
            self.source_place = place if direction == "down" else here
            self.target_place = here if direction == "down" else place
        self.staged: str | None = None

    def run(self, entrants: list[Entrant]) -> None:
        """All rounds."""
        self.place.empty("nothing", new=True)
        if not isinstance(self.source_place, Local):
            self._stage(entrants)
        try:
            if self.shape.again:
                for entrant in entrants:
                    self._first_copy(entrant)
                time.sleep(_RACY_S)
            self.runner.rounds_of([one for one in entrants if one.error is None], self._once)
        finally:
            self._clear(entrants)

    def _stage(self, entrants: Iterable[Entrant]) -> None:
        """Store the source: by `rh` where it takes part, so that it has a manifest to check against; else by rclone."""
        self.staged = self.runner.new("stage")
        ours = next((one for one in entrants if one.contestant.name == OURS), None)
        if ours is not None and self.source_place is self.place:
            try:
                home = self.runner.home(Entrant(ours.contestant), keep=False)
                self.runner.run(
                    ours.contestant,
                    self._job(Local(self.runner.directory), str(self.data), str(self.data), self.place, self.staged),
                    timed_environment(home, self.place),
                )
                self._check(self.place, self.staged)
                return
            except FailedError as error:
                self.runner.say(f"  rh cannot store the tree, rclone does: {error}")
                self.place.empty(self.staged, new=True)
        self.source_place.fill(self.staged, self.data)

    def _job(self, source: Place, path: str, url: str, target: Place, name: str, *, again: bool = False) -> Job:
        config = self.place.environment().get("BENCH_SSH_CONFIG", "")
        return Job(
            source.system, path, url, target.system, target.path(name), target.url(name), again=again, ssh_config=config
        )

    def _copy(self, entrant: Entrant, target: str, *, again: bool, keep: bool) -> Run:
        if self.staged is None:
            path = url = str(self.data)
        else:
            path, url = self.source_place.path(self.staged), self.source_place.url(self.staged)
        job = self._job(self.source_place, path, url, self.target_place, target, again=again)
        home = self.runner.home(entrant, keep=keep)
        if isinstance(self.target_place, Local):
            Path(job.target).parent.mkdir(exist_ok=True)
        run, _ = self.runner.run(entrant.contestant, job, timed_environment(home, self.place))
        self._check(self.target_place, target)
        return run

    def _check(self, place: Place, name: str) -> None:
        expected, found = (self.shape.files, self.shape.bytes), place.count(name)
        if found != expected:
            raise FailedError(
                f"{found[0]} files and {found[1]} bytes arrived instead of {expected[0]} and {expected[1]}"
            )

    def _first_copy(self, entrant: Entrant) -> None:
        entrant.target = self.runner.new("again")
        try:
            self._copy(entrant, entrant.target, again=False, keep=True)
        except FailedError as error:
            entrant.error = str(error)
            self.runner.say(f"  {entrant.contestant.name}: FAILED: {error}")

    def _once(self, entrant: Entrant) -> Run:
        if self.shape.again:
            assert entrant.target is not None
            return self._copy(entrant, entrant.target, again=True, keep=True)
        target = self.runner.new("run")
        if self.target_place is self.place:
            self.place.empty("nothing", new=True)
        try:
            run = self._copy(entrant, target, again=False, keep=False)
            path = Path(self.target_place.path(target))
            if not entrant.runs and path.is_absolute() and not same(self.data, path, self.shape):
                raise FailedError("the bytes that arrived are not those of the source")
            return run
        finally:
            if not (self.target_place is self.place and self.place.restart):
                self.target_place.empty(target, new=False)

    def _clear(self, entrants: Iterable[Entrant]) -> None:
        for entrant in entrants:
            if entrant.target is not None:
                self.target_place.empty(entrant.target, new=False)
            if entrant.home is not None:
                remove(entrant.home)
        if self.staged is not None:
            self.source_place.empty(self.staged, new=False)


def directory_name() -> Path:
    """A new directory on tmpfs."""
    import tempfile

    return Path(tempfile.mkdtemp(prefix="rh-bench-", dir=memory_directory()))
