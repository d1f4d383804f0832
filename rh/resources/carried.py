"""What is said of files goes along where a draft moves them, or copies them from another version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rh.registry import open_registry
from rh.versions import properties
from rh.versions.changes import Change
from rh.versions.series import Series

__all__ = ["Went", "said_of", "went_in"]

_FEW = 20


class Went(NamedTuple):
    """A file, or a directory (both paths end with `/`, or are empty), that came to be at `to`.

    It was at `path` of a version of the series. `at` is how many changes the draft had until then; `moved` tells a move
    from a copy.
    """

    at: int
    registry: str
    series: str
    path: str
    to: str
    moved: bool = False


def went_in(series: Series, changes: Iterable[Change], copied: Sequence[Went]) -> Iterator[Went]:
    """What moved by these changes of a draft of the series, and what was copied among them, in order."""
    left = list(copied)
    number = 0
    for change in changes:
        if change.do == "hold":
            continue
        while left and left[0].at <= number:
            yield left.pop(0)
        number += 1
        if change.do == "move":
            yield Went(number, series.registry.url, series.series, change.path, change.to, moved=True)
    yield from left


def said_of(series: Series, went: Sequence[Went]) -> dict[str, Mapping[str, Any]]:
    """What is to be said of the files of a series that went there, by their new paths."""
    here = (series.registry.url, series.series)
    wanted: dict[tuple[str, str], dict[str, None]] = {}
    for one in went:
        wanted.setdefault((one.registry, one.series), {})[one.path] = None
    there = {source: dict(_read(*source, list(paths))) for source, paths in wanted.items()}
    found: dict[str, Mapping[str, Any]] = {}
    for one in went:
        source = (one.registry, one.series)
        layers = [there[source], found] if source == here else [there[source]]
        for layer in layers:
            if one.path and not one.path.endswith("/"):
                moved = {one.to: layer[one.path]} if one.path in layer else {}
            else:
                moved = {one.to + path[len(one.path) :]: layer[path] for path in layer if path.startswith(one.path)}
            found |= moved
    return found


def _read(registry: str, series: str, paths: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What is said of files at these paths and below; of more files than that where they are many."""
    opened = open_registry(registry)
    if len(paths) > _FEW:
        paths = [""]
    for path in paths:
        if path and not path.endswith("/"):
            record = opened.find(properties.file_key(series, path))
            if record is not None:
                yield path, record.document
        else:
            prefix = properties.file_key(series, path) if path else properties.files_prefix(series)
            for record in opened.list(prefix):
                yield properties.path_of(record.key), record.document
