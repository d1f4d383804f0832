"""Digests of files where they lie: ours, cold and with a warm stat cache, against OpenSSL itself."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from benchmarks.bars import COLD, OPENSSL, WARM
from benchmarks.peers import Contestant
from benchmarks.programs import Job
from benchmarks.run import Case, Entrant, FailedError, Run, Runner
from benchmarks.servers import Local, timed_environment
from benchmarks.shapes import Shape
from rh.testing.servers.process import program

_CORES = os.cpu_count() or 1
_BLOCK = 1 << 20


def _openssl(_job: Job) -> Sequence[str]:
    seconds = ["-seconds", "1", "-bytes", str(_BLOCK), "-mr"]
    return [
        program("openssl", install="apt-get install openssl"),
        "speed",
        "-elapsed",
        "-multi",
        str(_CORES),
        *seconds,
        "-evp",
        "sha256",
    ]


def _sha256sum(job: Job) -> Sequence[str]:
    line = f'find "$0" -type f -print0 | xargs -0 -n 500 -P {_CORES} sha256sum >/dev/null'
    return ["sh", "-c", line, job.source]


CONTESTANTS = (
    Contestant(COLD, "rh_digest", "rh.transfer.digest_tree, nothing known"),
    Contestant(WARM, "rh_digest", "the same again in a new process", warm=True),
    Contestant("sha256sum", _sha256sum, f"find -print0 | xargs -0 -P {_CORES} sha256sum"),
    Contestant(
        OPENSSL,
        _openssl,
        f"openssl speed -elapsed -multi {_CORES} -evp sha256 -bytes {_BLOCK}: what this many bytes take at that rate",
    ),
)


def case(runner: Runner, shape: Shape) -> Case:
    """Time the digests of one tree."""
    place = Local(runner.directory)
    data = str(runner.data(shape))
    job = Job("local", data, data, "local", "", "")
    entrants = [Entrant(one) for one in CONTESTANTS]
    found = Case("digest", "files on tmpfs", shape, "read", entrants)
    runner.say(f"\n{found.title}")
    digests: set[str] = set()

    def go(entrant: Entrant) -> Run:
        home = runner.home(entrant, keep=entrant.contestant.warm)
        run, said = runner.run(entrant.contestant, job, timed_environment(home, place))
        if "digest" in said:
            digests.add(said["digest"])
            if len(digests) != 1:
                raise FailedError("two digests of one tree differ")
        if entrant.contestant.name == OPENSSL:
            seconds = shape.bytes / _rate((runner.directory / "output").read_text())
            run = Run(seconds, seconds, seconds * _CORES, run.rss_mib)
        return run

    for entrant in entrants:
        if entrant.contestant.warm:
            try:
                go(entrant)
            except FailedError as error:
                entrant.error = str(error)
                runner.say(f"  {entrant.contestant.name}: FAILED: {error}")
    runner.rounds_of([one for one in entrants if one.error is None], go)
    return found


def _rate(output: str) -> float:
    """Bytes per second of all processes together, from what `openssl speed -mr` prints."""
    found = re.findall(r"^\+F:\d+:[^:]+:([0-9.]+)\s*$", output, re.MULTILINE)
    if not found:
        raise FailedError(f"openssl speed says nothing of a rate: {output[-500:]}")
    return float(found[-1])
