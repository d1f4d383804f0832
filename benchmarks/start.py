"""How long it takes until something can begin: `import rh`, `rh --help`, a first command."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.registry import Figure

__all__ = ["measure"]

_RH = str(Path(sys.executable).with_name("rh"))
_RUNS = 15


def measure() -> Iterator[Figure]:
    """Medians of fresh processes, in turn with an empty Python program, in milliseconds."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "file").touch()
        took = _in_turn(
            [sys.executable, "-c", "pass"],
            [sys.executable, "-c", "import rh"],
            [_RH, "--help"],
            [_RH, "ls", directory],
        )
    empty, imported, helped, listed = took
    yield Figure("start", "an empty Python program", empty, "ms", None)
    yield Figure("start", "import rh, beside that", max(imported - empty, 0.0), "ms", 100.0)
    yield Figure("start", "rh --help", helped, "ms", 250.0)
    yield Figure("start", "rh ls of a directory", listed, "ms", None)


def _in_turn(*commands: Sequence[str]) -> list[float]:
    found: list[list[float]] = [[] for _ in commands]
    for number in range(_RUNS + 1):
        for command, times in zip(commands, found, strict=True):
            begun = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if number:  # the first one compiles, and reads from the disk
                times.append((time.perf_counter() - begun) * 1000)
    return [statistics.median(times) for times in found]
