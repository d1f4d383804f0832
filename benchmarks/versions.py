"""Versions: ten files more in a large one, beside DVC; many small files to S3, beside a plain copy; nothing new, beside
a bare walk. `python -m benchmarks.versions` prints a table.

DVC is installed into an environment of its own the first time (`--dvc` names another one).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.shapes import memory_directory

__all__ = ["BARS", "main", "works"]

BARS = {"add": 50.0, "s3": 1.5, "unchanged": 0.5}
"""How many times as fast as the other one each has to be."""
_DIRECTORY = 100
_BYTES = 1_000


def _tree(place: Path, files: int, seed: int) -> Path:
    """So many files of 1,000 bytes, a hundred in each directory."""
    draw = random.Random(seed)
    for number in range(files):
        if number % _DIRECTORY == 0:
            folder = place / f"{number // _DIRECTORY:05}"
            folder.mkdir(parents=True)
        (folder / f"{number:07}.bin").write_bytes(draw.randbytes(_BYTES))
    return place


@contextmanager
def _work(where: Path | None = None) -> Iterator[Path]:
    """A directory for one measurement, below `where`, or else on tmpfs."""
    folder = Path(tempfile.mkdtemp(prefix="rh-bench-", dir=where or memory_directory()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(words: Sequence[str | Path], where: Path, **environment: str) -> float:
    """Seconds that a command takes, its start included."""
    begun = time.perf_counter()
    done = subprocess.run(
        list(map(str, words)), cwd=where, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{words} failed:\n{done.stderr[-2000:]}")
    return wall


def _dvc(told: Path | None) -> Path:
    """The program `dvc`."""
    home = told or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rh-benchmarks" / "dvc"
    program = home / "bin" / "dvc"
    if not program.exists():
        venv.create(home, with_pip=True)
        subprocess.run([home / "bin" / "pip", "install", "--quiet", "dvc"], check=True)
    return program


def _more(where: Path, number: int) -> Path:
    """Ten files that nobody has."""
    folder = where / f"more-{number}"
    folder.mkdir()
    for one in range(10):
        (folder / f"new-{number}-{one}.bin").write_bytes(os.urandom(_BYTES))
    return folder


def add(files: int, rounds: int, dvc: Path | None, where: Path | None = None) -> dict[str, object]:
    """Ten files more in a version of so many, each in a new process."""
    program, rh = _dvc(dvc), Path(sys.executable).with_name("rh")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    with _work(where) as work:
        data = _tree(work / "repo" / "data", files, 1)
        repo = work / "repo"
        quiet = {"DVC_NO_ANALYTICS": "1", "HOME": str(work)}
        _run(["git", "init", "-q"], repo, **quiet)
        _run([program, "init", "-q"], repo, **quiet)
        first = {"dvc": _run([program, "add", "-q", "data"], repo, **quiet)}
        ours = {"RH_HOME": str(work / "rh")}
        _run([rh, "save", "data", data], work, **ours)
        first["rh"] = _run([rh, "commit", "data"], work, **ours)
        took: dict[str, list[float]] = {"dvc": [], "rh": []}
        for number in range(rounds):
            more = _more(work, number)
            took["rh"].append(_run([rh, "upload", "data", more, f"more-{number}"], work, **ours))
            shutil.move(more, data / f"more-{number}")
            took["dvc"].append(_run([program, "add", "-q", "data"], repo, **quiet))
    return {"files": files, "dvc": version, "first": first} | _told(took, "rh", "dvc")


def s3(files: int, rounds: int) -> dict[str, object]:
    """So many small files to S3: committed, and copied."""
    import rh
    from rh import config
    from rh.testing import servers

    took: dict[str, list[float]] = {"commit": [], "copy": []}
    with _work() as work, servers.s3() as server:
        os.environ["RH_HOME"] = str(work / "rh")
        config.register("bench", server.settings())
        for number in range(rounds):
            data = rh.folder(path=_tree(work / f"data-{number}", files, number))
            # Each way has a tree of its own that nobody has hashed.
            took["copy"].append(_timed(lambda data=data, number=number: data.to("bench", path=f"copy-{number}")))
            other = _tree(work / f"other-{number}", files, 1_000 + number)
            config.register(f"here{number}", {"kind": "file", "store": f"bench://data/store-{number}"})
            saved = rh.folder(f"data{number}", path=other, system=f"here{number}").save()
            took["commit"].append(_timed(saved.commit))
    return {"files": files} | _told(took, "commit", "copy")


def unchanged(files: int, rounds: int) -> dict[str, object]:
    """A commit of nothing new in so many files, and a walk that asks the system about each."""
    import rh

    took: dict[str, list[float]] = {"commit": [], "walk": []}
    with _work() as work:
        os.environ["RH_HOME"] = str(work / "rh")
        data = _tree(work / "data", files, 1)
        saved = rh.folder("data", path=data).save()
        time.sleep(0.1)  # files that were written a moment ago are not believed
        saved.commit()
        saved.commit()
        for _ in range(rounds):
            took["walk"].append(_timed(lambda: _walk(str(data))))
            took["commit"].append(_timed(saved.commit))
    return {"files": files} | _told(took, "commit", "walk")


def _walk(place: str) -> int:
    waiting, found = [place], 0
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    entry.stat(follow_symlinks=False)
                    found += 1
    return found


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _told(took: dict[str, list[float]], ours: str, other: str) -> dict[str, object]:
    medians = {name: statistics.median(some) for name, some in took.items()}
    return {"seconds": took, "median": medians, "ours": ours, "other": other, "times": medians[other] / medians[ours]}


def works(
    *, scale: float, rounds: int, files: int = 400_000, dvc: Path | None = None, where: Path | None = None
) -> dict[str, Callable[[], dict[str, object]]]:
    """All measurements, by name.

    Args:
        scale: numbers of files times this.
        rounds: of each.
        files: of the version that ten files are added to.
        dvc: an environment that has DVC.
        where: the directory that ten files are added below, for more files than tmpfs has room for.
    """

    def scaled(files: int) -> int:
        return max(1, int(files * scale))

    return {
        "add": lambda: add(scaled(files), rounds, dvc, where),
        "s3": lambda: s3(scaled(10_000), rounds),
        "unchanged": lambda: unchanged(scaled(100_000), rounds),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table; 1 if a bar was missed and `--strict` is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versions", description=__doc__)
    parser.add_argument("--only", help=f"of {', '.join(BARS)}, with commas between")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=400_000, help="of the version that ten files are added to")
    parser.add_argument("--scale", type=float, default=1.0, help="numbers of files times this")
    parser.add_argument("--dvc", type=Path, help="an environment that has DVC")
    parser.add_argument(
        "--where", type=Path, help="do that on this disk, not on tmpfs (1,000,000 files need 2,200,000 inodes)"
    )
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    told = parser.parse_args(arguments)
    only = told.only.split(",") if told.only else list(BARS)
    if unknown := set(only) - set(BARS):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}; there are {', '.join(BARS)}")

    measurements = works(scale=told.scale, rounds=told.rounds, files=told.files, dvc=told.dvc, where=told.where)
    found = {}
    print("| | files | ours | the other | times | bar |\n| --- | --- | --- | --- | --- | --- |")
    for name in only:
        one = found[name] = measurements[name]()
        medians, times = one["median"], one["times"]
        assert isinstance(medians, dict)
        assert isinstance(times, float)
        print(
            f"| {name} | {one['files']:,} | {one['ours']} {medians[one['ours']]:.2f} s "
            f"| {one['other']} {medians[one['other']]:.2f} s | {times:.2f} | {BARS[name]} |",
            flush=True,
        )
    if told.json:
        told.json.write_text(json.dumps(found, indent=1), "utf-8")
    return int(told.strict and any(float(str(found[name]["times"])) < BARS[name] for name in found))


if __name__ == "__main__":
    sys.exit(main())
