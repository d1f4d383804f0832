"""`python -m benchmarks`: run the benchmark, print the tables, and with `--docs` write the page."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import hashing, report, suites, tables
from benchmarks.peers import OURS, roster
from benchmarks.run import Case, Runner, directory_name
from benchmarks.servers import PLACES, Local, Place, Relay
from benchmarks.shapes import HASHED, SHAPES, Shape, remove
from rh.errors import RhError

_PLACES = {("relay" if place is Relay else place.name): place for place in PLACES}
_NAMES = (*_PLACES, "digest", "tables", *suites.NAMES)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help=f"places, with commas between: {', '.join(_NAMES)}")
    parser.add_argument("--shapes", help=f"shapes: {', '.join(shape.name for shape in SHAPES)}, files")
    parser.add_argument("--directions", help="directions: up, down, copy, read")
    parser.add_argument("--peers", help="contestants whose name begins with one of these (rh among them)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contestant (default 5)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="numbers of files, and size of a single file, times this"
    )
    parser.add_argument("--limit", type=float, default=180.0, help="seconds after which a run has failed (default 180)")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument(
        "--add",
        type=Path,
        action="append",
        default=[],
        help="tell as well what is in this file that --json wrote; with it and without --only, nothing is run",
    )
    parser.add_argument("--docs", type=Path, help="write page, numbers and chart below this directory")
    parser.add_argument("--profile", type=Path, help="write stacks of our runs, by py-spy, to this directory")
    parser.add_argument("--quiet", action="store_true", help="print only the tables")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    return parser


def _words(text: str | None, known: Iterable[str], what: str) -> list[str]:
    names = list(known)
    if text is None:
        return names
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise SystemExit(f"no such {what}: {', '.join(unknown)}; there are {', '.join(names)}")
    return [name for name in names if name in wanted]


def directions(place: type[Place]) -> tuple[str, ...]:
    """The ways a tree can go at a place."""
    return ("copy",) if place is Local else ("up", "down")


def _stems(peers: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in peers.split(",")) if peers else ("",)


def _cases(arguments: argparse.Namespace, runner: Runner, missing: list[str]) -> Iterable[Case]:
    names = _words(arguments.only, _NAMES, "place")
    shapes = _words(arguments.shapes, dict.fromkeys([*(s.name for s in SHAPES), *(s.name for s in HASHED)]), "shape")
    ways = _words(arguments.directions, ("up", "down", "copy", "read"), "direction")
    for name in names:
        if name in suites.NAMES:
            continue
        if name == "tables":
            yield from tables.cases(runner, arguments.scale, stems=_stems(arguments.peers))
            continue
        if name == "digest":
            for shape in HASHED:
                if shape.name in shapes and "read" in ways:
                    yield hashing.case(runner, shape.scaled(arguments.scale))
            continue
        wanted = [shape.scaled(arguments.scale) for shape in SHAPES if shape.name in shapes]
        yield from _at(_PLACES[name], wanted, ways, arguments.peers, runner, missing)


def _at(
    kind: type[Place],
    shapes: Sequence[Shape],
    ways: Sequence[str],
    peers: str | None,
    runner: Runner,
    missing: list[str],
) -> Iterable[Case]:
    """All cases at one place."""
    contestants = [one for one in roster(kind.name) if one.name.startswith(_stems(peers))]
    missing += [f"{one.name} ({one.missing})" for one in contestants if one.missing]
    todo = [
        (shape, way)
        for shape in shapes
        for way in directions(kind)
        if way in ways and any(shape.name in one.shapes and not one.missing for one in contestants)
        # What stays where it is has no road: only copies are of interest between a host and a bucket.
        if not (kind is Relay and shape.again)
    ]
    if not todo:
        return
    place = kind(runner.directory)
    try:
        place.__enter__()
    except RhError as error:
        runner.say(f"\n{place.name} is left out: {error}")
        missing.append(f"{place.name} ({error.args[0] if error.args else error})")
        return
    try:
        for shape, way in todo:
            yield runner.case(place, shape, way, contestants)
    finally:
        place.__exit__()


def _command(given: Sequence[str]) -> str:
    """The command as the page tells it: without the file of this machine that the numbers went to as well."""
    words, kept = iter(given), []
    for word in words:
        if word == "--json":
            next(words, None)
        elif word != "--quiet" and not word.startswith("--json="):
            kept.append(word)
    return shlex.join(["python", "-m", "benchmarks", *kept])


def main(words: Sequence[str] | None = None) -> int:
    """Run what was asked for; 0 if nothing of ours failed (with `--strict`: and every bar is met)."""
    given = list(sys.argv[1:] if words is None else words)
    arguments = _parser().parse_args(given)
    directory, missing, cases, others = directory_name(), [], [], []
    say = (lambda _line: None) if arguments.quiet else lambda line: print(line, file=sys.stderr, flush=True)
    if arguments.profile:
        arguments.profile.mkdir(parents=True, exist_ok=True)
    runner = Runner(directory, rounds=arguments.rounds, limit_s=arguments.limit, say=say, profile=arguments.profile)
    try:
        for case in () if arguments.add and not arguments.only else _cases(arguments, runner, missing):
            cases.append(case)  # noqa: PERF402 - what was measured before an interruption is still told
        for name in () if arguments.add and not arguments.only else _words(arguments.only, _NAMES, "place"):
            if name in suites.NAMES:
                say(f"\n{name}")
                sizes = {"scale": arguments.scale, "rounds": arguments.rounds}
                others.append(suites.measured(name, **sizes, say=say, missing=missing))
    except KeyboardInterrupt:
        say("interrupted")
    finally:
        remove(directory)
    command = os.environ.get("BENCH_COMMAND") or _command(given)
    runs = [json.loads(path.read_text("utf-8")) for path in arguments.add]
    if cases or others or not runs:
        told = {"command": command, "rounds": arguments.rounds, "scale": arguments.scale, "missing": missing}
        runs.append(report.document(cases, others=others, **told))
    run = report.joined(runs)
    print(report.text(run))
    if arguments.json:
        arguments.json.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if arguments.docs:
        report.write(run, arguments.docs)
    failed = [one for case in cases for one in case.entrants if one.error and one.contestant.name.startswith(OURS)]
    return int(bool(failed) or (arguments.strict and not all(bar["met"] for bar in run["bars"])))


if __name__ == "__main__":
    sys.exit(main())
