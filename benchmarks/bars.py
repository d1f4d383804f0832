"""What `rh` has to reach, all in one table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from benchmarks.peers import OURS
from benchmarks.run import Case, Entrant

RSS_MIB = 150.0
_BOTO3 = ("boto3, 16 threads", "boto3, plain loop")
_UP_DOWN = ("up", "down")
_MOVED = ("small", "medium", "large")
_ALL = (*_MOVED, "unchanged")
_OF_TABLES = ("stream", "first", "write")
_BATCHES = tuple(f"batches-{size}" for size in (100, 1_000, 10_000, 100_000))
_PYARROW = ("pyarrow scanner", "pyarrow iter_batches", "pyarrow row groups")
_SLOW = ("Ray Data", "Dask", "torch, row by row")
COLD, WARM, OPENSSL = "rh, cold", "rh, warm", "openssl speed, all cores"
SHUFFLED = "rh, shuffled"


class Bar(NamedTuple):
    """Ours against the best of `against` (all peers if empty), as a ratio of medians; else files/s or seconds."""

    place: str
    shapes: tuple[str, ...]
    directions: tuple[str, ...]
    measure: Literal["wall", "cpu", "files/s", "seconds"]
    at_least: float
    against: tuple[str, ...] = ()
    ours: str = OURS


BARS = (
    Bar("s3", ("small",), _UP_DOWN, "wall", 1.3, ("s5cmd", "rclone")),
    Bar("s3", ("small",), _UP_DOWN, "wall", 8.0, _BOTO3),
    Bar("s3", ("small",), _UP_DOWN, "cpu", 10.0, _BOTO3),
    Bar("s3", ("medium", "large"), _UP_DOWN, "wall", 1.0),
    Bar("gs", _ALL, _UP_DOWN, "wall", 1.0),
    Bar("azure", _ALL, _UP_DOWN, "wall", 1.0),
    Bar("ssh", _MOVED, _UP_DOWN, "wall", 1.2, ("rsync",)),
    Bar("ssh", ("unchanged",), _UP_DOWN, "wall", 1.0, ("rsync",)),
    Bar("local", _ALL, ("copy",), "wall", 1.0, ("rsync",)),
    Bar("ssh→s3", _MOVED, ("up",), "wall", 0.9, ("rclone on the host",)),
    Bar("local", _BATCHES, ("stream",), "wall", 1.0, _PYARROW),
    Bar("local", _BATCHES, ("stream",), "wall", 0.5, (OURS,), ours=SHUFFLED),
    Bar("local", _BATCHES, ("stream",), "wall", 1.0, ("Hugging Face",)),
    Bar("local", _BATCHES, ("stream",), "wall", 5.0, _SLOW),
    Bar("s3", _BATCHES, ("stream",), "wall", 1.0, _PYARROW),
    Bar("s3", _BATCHES, ("stream",), "wall", 0.5, (OURS,), ours=SHUFFLED),
    Bar("ssh", _BATCHES, ("stream",), "wall", 1.0, ("rsync, then pyarrow",)),
    Bar("local", ("first batch",), ("first",), "seconds", 0.3),
    Bar("local", ("table",), ("write",), "wall", 0.95, ("pyarrow write_table",)),
    Bar("s3", ("table",), ("write",), "wall", 0.95, ("pyarrow write_table",)),
    Bar("digest", ("files",), ("read",), "files/s", 100_000.0, ours=COLD),
    Bar("digest", ("files",), ("read",), "files/s", 300_000.0, ours=WARM),
    Bar("digest", ("large",), ("read",), "wall", 0.9, (OPENSSL,), ours=COLD),
)


class Verdict(NamedTuple):
    """A bar in one case. `value` is `None` if it could not be measured: ours or every peer failed or was absent."""

    text: str
    value: float | None
    wanted: float
    met: bool


def verdicts(case: Case) -> Iterator[Verdict]:
    """All bars that apply to a case, with what was reached."""
    for bar in BARS:
        if bar.place == case.place and case.shape.name in bar.shapes and case.direction in bar.directions:
            names = {entrant.contestant.name for entrant in case.entrants}
            failed = any(entrant.error for entrant in case.entrants)
            if failed or not bar.against or names & set(bar.against):  # else the peers were left out on purpose
                yield _verdict(bar, case)
    if case.direction in _OF_TABLES:
        return  # their memory is bounded by row groups, and tests hold it
    for entrant in case.entrants:
        if entrant.contestant.name.partition(",")[0] == OURS and entrant.runs:
            peak = max(run.rss_mib for run in entrant.runs)
            text = f"{case.title}: peak memory of {entrant.contestant.name} ≤ {RSS_MIB:.0f} MiB"
            yield Verdict(text, peak, RSS_MIB, peak <= RSS_MIB)


def _verdict(bar: Bar, case: Case) -> Verdict:
    ours = next((one for one in case.entrants if one.contestant.name == bar.ours), None)
    if bar.measure == "files/s":
        text = f"{case.title}: {bar.ours} ≥ {bar.at_least:,.0f} files/s"
        if ours is None or not ours.runs or ours.error:
            return Verdict(text, None, bar.at_least, met=False)
        speed = case.shape.files / ours.median("wall_s")
        return Verdict(text, speed, bar.at_least, speed >= bar.at_least)
    if bar.measure == "seconds":
        text = f"{case.title}: {bar.ours} ≤ {bar.at_least:g} s"
        if ours is None or not ours.runs or ours.error:
            return Verdict(text, None, bar.at_least, met=False)
        took = ours.median("wall_s")
        return Verdict(text, took, bar.at_least, took <= bar.at_least)
    peers = [one for one in case.entrants if _is_peer(one, bar)]
    whom = " and ".join(bar.against) if bar.against else "every peer"
    what = "less client CPU than" if bar.measure == "cpu" else "the speed of"
    text = f"{case.title}: {'' if bar.ours == OURS else bar.ours + ' '}≥ {bar.at_least:g} × {what} {whom}"
    if ours is None or not ours.runs or ours.error or not peers:
        return Verdict(text, None, bar.at_least, met=False)
    name = "cpu_s" if bar.measure == "cpu" else "wall_s"
    value = min(peer.median(name) for peer in peers) / max(ours.median(name), 1e-9)
    return Verdict(text, value, bar.at_least, value >= bar.at_least)


def _is_peer(entrant: Entrant, bar: Bar) -> bool:
    name = entrant.contestant.name
    if not entrant.runs or entrant.error or name == bar.ours:
        return False
    return name in bar.against if bar.against else name.partition(",")[0] != OURS
