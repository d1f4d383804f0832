"""Registries: commits of many processes, properties written, searches. `python -m benchmarks.registry [--json FILE]`.

Figures with a bar have it beside them: commits of eight processes at once, all of them found afterwards; 100,000
properties written; searches over 1,000,000 properties. SQLite writes to the disk of the directory this is run in, and
waits for it, and so does PostgreSQL as it comes; the one of `rh.testing.servers` runs without `fsync`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from rh.registry import open_registry
from rh.registry.base import Put, Registry
from rh.registry.filters import F, Filter
from rh.testing import servers
from rh.testing.servers.postgresql import PostgresServer

NAMES = ("sqlite", "postgres", "postgres, fsync")

_CLIENT = """
import sys
from rh.registry import open_registry
registry, me = open_registry(sys.argv[1]), sys.argv[2]
registry.put(f"warm/{me}", {})
print("up", flush=True)
sys.stdin.readline()
for n in range(int(sys.argv[3])):
    registry.put(f"k/{me}/{n % 50}", {"kind": "folder", "metadata": {"n": n}})
"""
SEARCHES: dict[str, Filter] = {
    "one value": F.name == "name-77777",
    "a narrow range": F.accuracy > 0.9999,
    "narrow and broad": (F.accuracy > 0.9999) & (F.stage == "train"),
    "either of two": (F.name == "name-5") | (F.accuracy > 0.9999),
    "narrow and not": (F.accuracy > 0.9999) & ~(F.stage == "train"),
    "two broad": (F.stage == "test") & (F.epoch == 7) & (F.accuracy < 0.001),
}


class Figure(NamedTuple):
    """What was measured: `value` is to be at least the bar, or at most where `unit` is a time."""

    registry: str
    what: str
    value: float
    unit: str
    bar: float | None

    @property
    def met(self) -> bool:
        if self.bar is None:
            return True
        return self.value <= self.bar if self.unit in ("s", "ms") else self.value >= self.bar


def commits(url: str, processes: int, each: int) -> float:
    """Commits a second of so many processes; all are there afterwards."""
    command = [sys.executable, "-c", _CLIENT, url]
    crew = [
        subprocess.Popen([*command, str(n), str(each)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(processes)
    ]
    for one in crew:
        assert one.stdout is not None
        if one.stdout.readline() != "up\n":
            raise RuntimeError("a client did not start")
    begun = time.perf_counter()
    for one in crew:
        one.communicate("\n")
    wall = time.perf_counter() - begun
    with open_registry(url) as registry:
        found = sum(record.revision for record in registry.list("k/"))
        registry.commit([Put("k", {})])
    if any(one.returncode for one in crew) or found != processes * each:
        raise RuntimeError(f"{processes * each - found} commits were lost")
    return processes * each / wall


def document(n: int) -> dict[str, object]:
    """A record with five properties."""
    return {
        "kind": "folder",
        "metadata": {
            "name": f"name-{n}",
            "accuracy": n * 7919 % 1_000_003 / 1_000_003,
            "stage": ("train", "test", "probe")[n % 3],
            "epoch": n % 100,
            "done": n % 2 == 0,
        },
    }


def write(registry: Registry, records: int, first: int = 0) -> float:
    """Seconds to write records of five properties, in commits of 5,000."""
    begun = time.perf_counter()
    for start in range(first, first + records, 5000):
        end = min(start + 5000, first + records)
        registry.commit([Put(f"p/{n:07}", document(n)) for n in range(start, end)])
    return time.perf_counter() - begun


def median_ms(call: Callable[[], object], rounds: int) -> float:
    """The median of some calls, after one that is not counted."""
    call()
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        found.append((time.perf_counter() - begun) * 1000)
    return statistics.median(found)


class _Durable(PostgresServer):
    """PostgreSQL with its own defaults for what is on disk when, in the directory that this is run in."""

    @property
    def directory(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="rh-postgres-", dir=Path.cwd()))
        return self._directory

    def _command(self) -> Sequence[str]:
        return [
            re.sub("^(fsync|synchronous_commit|full_page_writes)=off$", r"\1=on", word) for word in super()._command()
        ]


@contextmanager
def places(names: list[str]) -> Iterator[dict[str, tuple[str, float]]]:
    """URL and bar in commits a second of each registry."""
    with ExitStack() as stack:
        found = {}
        if "sqlite" in names:
            directory = stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd()))  # on a disk
            found["sqlite"] = (f"sqlite://{directory}/registry.db", 1000.0)
        if "postgres" in names:
            found["postgres"] = (stack.enter_context(servers.postgres()).dsn, 300.0)
        if "postgres, fsync" in names:
            found["postgres, fsync"] = (stack.enter_context(_Durable()).dsn, 300.0)
        yield found


def measure(name: str, url: str, bar: float, scale: float) -> Iterator[Figure]:
    """All figures of one registry, one by one."""
    each = max(int(500 * scale), 1)
    yield Figure(name, "commits of 1 process", commits(url + _apart(url, "one"), 1, each * 4), "/s", None)
    yield Figure(name, "commits of 8 processes", commits(url + _apart(url, "eight"), 8, each), "/s", bar)
    with open_registry(url) as registry:
        some, all_ = max(int(20_000 * scale), 10), max(int(200_000 * scale), 20)
        yield Figure(name, f"{5 * some:,} properties written", write(registry, some), "s", 2.0)
        write(registry, all_ - some, some)
        yield Figure(name, "get", median_ms(lambda: registry.get(f"p/{some:07}"), 200), "ms", None)
        for what, where in SEARCHES.items():
            value = median_ms(lambda where=where: list(registry.search(where)), 9)  # type: ignore[misc]
            yield Figure(name, f"search of {5 * all_:,} properties: {what}", value, "ms", 50.0)


def _apart(url: str, word: str) -> str:
    return f"-{word}" if url.startswith("sqlite:") else f"?schema={word}"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.registry", description=__doc__)
    parser.add_argument("--only", default="sqlite,postgres,fsync", help="sqlite, postgres, fsync, with commas between")
    parser.add_argument("--scale", type=float, default=1.0, help="numbers of commits and records, times this")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args(words)
    figures = []
    only = [{"fsync": NAMES[-1]}.get(word, word) for word in arguments.only.split(",")]
    if unknown := set(only) - set(NAMES):
        parser.error(f"no such registry: {', '.join(sorted(unknown))}")
    with places(only) as found:
        for name, (url, bar) in found.items():
            for figure in measure(name, url, bar, arguments.scale):
                figures.append(figure)
                mark = "" if figure.bar is None else f"   bar {figure.bar:,.0f}{'' if figure.met else ': MISSED'}"
                print(f"{name:16} {figure.what:58} {figure.value:10,.2f} {figure.unit}{mark}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([one._asdict() | {"met": one.met} for one in figures], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
