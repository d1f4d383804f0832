"""What is measured beside transfers, as tables and bars of the same report: the start, registries, and versions."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks import registry, registry_http, start, versions
from benchmarks.bars import Verdict
from rh.errors import RhError

__all__ = ["NAMES", "measured"]

Say = Callable[[str], None]

NAMES = ("start", "registry", "versions")
_ABOUT = {
    "start": "Medians of fresh processes, in turn with each other.",
    "registry": "Clients and servers share the machine. SQLite and the second PostgreSQL, as it comes (`fsync=on`), "
    "are on the disk of the directory that this was run in, and wait for it; the first one does not (`fsync=off`). The "
    "server is `rh registry serve` over SQLite. After each run of commits all of them are looked for.",
    "versions": "Each figure is the median; *times* is how many times as long the other one takes.",
}
_VERSIONS = {
    "add": "ten files more in a version, beside `dvc add`",
    "s3": "small files to S3, committed, beside a plain copy",
    "unchanged": "a commit of nothing new, beside a walk",
}


def measured(name: str, *, scale: float, rounds: int, say: Say, missing: list[str]) -> dict[str, Any]:
    """One suite, as plain values: `title`, `about`, `head` and `rows` of a table, and `bars`.

    Args:
        name: of `NAMES`.
        scale: numbers of commits, records and files, times this.
        rounds: of each measurement of versions.
        say: is told of each figure.
        missing: gets what could not be measured, and why.
    """
    with _environment():
        if name == "start":
            found = [_figure(figure, say) for figure in start.measure()]
            head, title = ("", "", "took"), "Start"
        elif name == "registry":
            found = _registries(scale, say, missing)
            head, title = ("", "", "reached"), "Registries"
        else:
            found = _versions(scale, rounds, say, missing)
            head, title = ("", "files", "ours", "the other", "times"), "Versions"
    rows, bars = [row for row, _ in found], [bar._asdict() for _, bar in found if bar is not None]
    return {"name": name, "title": title, "about": _ABOUT[name], "head": head, "rows": rows, "bars": bars}


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


_Found = list[tuple[Sequence[str], Verdict | None]]


def _registries(scale: float, say: Say, missing: list[str]) -> _Found:
    found: _Found = []
    for name in registry.NAMES:
        try:
            with registry.places([name]) as places:
                for figure in registry.measure(name, *places[name], scale):
                    found.append(_figure(figure, say))
        except (RhError, OSError, RuntimeError) as error:
            _left_out(f"registry {name}", error, say, missing)
    try:
        told = registry_http.measure(commits=max(int(200 * scale), 1))
    except (RhError, OSError, RuntimeError) as error:
        _left_out("registry server", error, say, missing)
    else:
        figure = registry.Figure("server", "commits of 8 processes", told["commits_per_s"], "/s", 300.0)
        found.append(_figure(figure, say))
        lost = registry.Figure("server", "commits that were answered and lost", told["lost"], "", None)
        found.append(_figure(lost, say))
    return found


def _left_out(what: str, error: BaseException, say: Say, missing: list[str]) -> None:
    """Tell why something is missing; the report names no paths of this machine."""
    say(f"{what} is left out: {error}")
    missing.append(f"{what} ({type(error).__name__})")


def _figure(figure: registry.Figure, say: Say) -> tuple[Sequence[str], Verdict | None]:
    say(f"{figure.registry}: {figure.what}: {figure.value:,.2f} {figure.unit}")
    value = f"{figure.value:,.0f}" if figure.unit in ("/s", "") else f"{figure.value:,.2f}"
    row = (figure.registry, figure.what, f"{value} {figure.unit}".strip())
    if figure.bar is None:
        return row, None
    text = f"{figure.registry}: {figure.what}, {figure.unit}"
    return row, Verdict(text, figure.value, figure.bar, figure.met)


def _versions(scale: float, rounds: int, say: Say, missing: list[str]) -> _Found:
    works = versions.works(scale=scale, rounds=rounds)
    found: _Found = []
    for name, work in works.items():
        try:
            one: Mapping[str, Any] = work()
        except (RhError, OSError, subprocess.CalledProcessError, SystemExit) as error:
            _left_out(f"versions {name}", error, say, missing)
            continue
        ours, other, medians = one["ours"], one["other"], one["median"]
        say(f"{_VERSIONS[name]}: {one['times']:.2f} times")
        row = (
            _VERSIONS[name],
            f"{one['files']:,}",
            f"{ours} {medians[ours]:.2f} s",
            f"{other} {medians[other]:.2f} s",
            f"{one['times']:.2f}",
        )
        bar = Verdict(
            f"Versions: {_VERSIONS[name]}, times",
            one["times"],
            versions.BARS[name],
            one["times"] >= versions.BARS[name],
        )
        found.append((row, bar))
    return found
