"""Runs: what was done with which data, recorded by itself while it is done."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from rh.config import did_you_mean
from rh.errors import InvalidError, NotFoundError
from rh.registry import default, filters, lineage
from rh.registry.base import Record, Registry
from rh.registry.lineage.graph import Graph
from rh.registry.lineage.recording import RunRef
from rh.resources.runs.recording import Recording

if TYPE_CHECKING:
    from rh.resources.runs.again import Changed
    from rh.resources.versioned import Versioned

__all__ = ["Item", "Run", "load_run", "runs"]

STATES = ("running", "done", "failed", "cancelled")


class Item(NamedTuple):
    """Something that a run read or made.

    Attributes:
        name: of the resource; `None` for data that has none.
        version: `"v3"`; `None` for live data, which is what `url` held at that time.
        digest: of the version.
        asked: what was asked for: `"production"`, `"v3"`, a digest.
        url: of data that no version holds.
        kind: `"folder"`, `"table"`, `"blob"`.
        time: when it was first read or made, in seconds since the epoch.
    """

    name: str | None
    version: str | None
    digest: str | None
    asked: str | None
    url: str | None
    kind: str | None
    time: float

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Item:
        """The item that an entry of the registry tells of."""
        number = entry.get("version")
        return cls(
            entry.get("name"),
            None if number is None else f"v{number}",
            entry.get("digest"),
            entry.get("asked"),
            entry.get("url"),
            entry.get("kind"),
            float(entry.get("time") or 0.0),
        )

    def __str__(self) -> str:
        if self.version is None:
            return f"{self.name} (live)" if self.name else str(self.url)
        asked = f" (as {self.asked})" if self.asked not in (None, self.version) else ""
        return f"{self.name}:{self.version}{asked}"


class Run:
    """A run, as it is recorded.

    Attributes:
        id: later runs have greater ones.
        name: what it was called.
        params: its parameters.
        status: `"running"`, `"done"`, `"failed"` or `"cancelled"`. A process that was killed leaves `"running"`.
        user, host, pid: who, and which process on which machine.
        started, ended: seconds since the epoch.
        parent: id of the run that it was begun in.
        error: `{"type", "message"}` of what a failed run ended with.
        code: `function`, `file`, the `digest` of its source, and `git`: `commit`, and the digest of what differed.
        environment: `python`, `platform`, `rh`, a `digest` over all packages and the versions of the `main` ones.
    """

    def __init__(self, registry: Registry, record: Record, recording: Recording | None = None) -> None:
        self._registry = registry
        self._recording = recording
        self._take(record)

    def _take(self, record: Record) -> None:
        document = record.document
        self.id = record.key.removeprefix(lineage.RUNS)
        self.name = str(document.get("name", ""))
        self.params: dict[str, Any] = dict(document.get("metadata") or {})
        self.status = str(document.get("status", ""))
        self.user = str(document.get("user", ""))
        self.host = str(document.get("host", ""))
        self.pid: int | None = document.get("pid")
        self.started = float(document.get("started") or 0.0)
        self.ended: float | None = document.get("ended")
        self.parent: str | None = document.get("parent")
        self.error: dict[str, str] | None = document.get("error")
        self.code: dict[str, Any] = dict(document.get("code") or {})
        self.environment: dict[str, Any] = dict(document.get("environment") or {})

    @property
    def ref(self) -> RunRef:
        """Its id and name."""
        return RunRef(self.id, self.name)

    @property
    def seconds(self) -> float | None:
        """How long it took; `None` while it goes on."""
        return None if self.ended is None else self.ended - self.started

    @property
    def inputs(self) -> list[Item]:
        """What it read, in the order in which it did."""
        return [Item.of(entry) for entry in self.entries("inputs")]

    @property
    def outputs(self) -> list[Item]:
        """What it made, in the order in which it did."""
        return [Item.of(entry) for entry in self.entries("outputs")]

    def entries(self, way: lineage.Way) -> list[dict[str, Any]]:
        """Its inputs or outputs as they are recorded."""
        if self._recording is not None:
            self._recording.flush()
        return lineage.Lineage([self._registry]).entries(self.id, way)

    def rerun_inputs(self) -> dict[str, Versioned]:
        """Handles on the exact versions that it read, in order, by what it asked for (`"~/cats:production"`).

        Where it got several by the same words, as the alias was moved meanwhile, the first one is under those, and each
        further one under its number (`"~/cats:v2"`).

        Live data are not among them, as what they were is not kept; a warning names them (`changed_inputs` tells
        whether they were written to since).

        Raises:
            NotFoundError: a version was dropped since, or its name forgotten.
        """
        from rh.resources.runs.again import pinned_by_words, warn_of_live

        entries = self.entries("inputs")
        found = pinned_by_words(entries)
        warn_of_live([Item.of(entry) for entry in entries if entry.get("version") is None])
        return found

    def changed_inputs(self) -> list[Changed]:
        """Which of its inputs would be others by now: the alias moved, there is a newer version, live data changed.

        Live data are listed for this, and count as changed if a file was written since, by the clock of their system.
        """
        from rh.resources.runs.again import changed

        found = (changed(entry) for entry in self.entries("inputs"))
        return [one for one in found if one is not None]

    def upstream(self, depth: int | None = None) -> Graph:
        """What it read, and what that was made from, `depth` runs back (by default all)."""
        return self._around(up=depth, down=0)

    def downstream(self, depth: int | None = None) -> Graph:
        """What it made, and what was made from that, `depth` runs on (by default all)."""
        return self._around(up=0, down=depth)

    def _around(self, *, up: int | None, down: int | None) -> Graph:
        found = lineage.Lineage(lineage.registries(self._registry.url))
        return found.around([found.run_node(self.id)], up=up, down=down)

    def forget(self) -> None:
        """Take its record away. What it read and made stays, and is no longer kept for its sake (`rh gc`).

        Raises:
            NotFoundError: it is forgotten already.
        """
        lineage.forget(self._registry, self.id)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        told = {key: value for key, value in vars(self).items() if not key.startswith("_")}
        return told | {
            "inputs": [item._asdict() for item in self.inputs],
            "outputs": [item._asdict() for item in self.outputs],
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Run {self.name} {self.id}: {self.status}>"


# Looking back.


def load_run(run: str | RunRef) -> Run:
    """Load a run by its ID, or by a unique prefix of it.

    Raises:
        NotFoundError: there is no such run.
        InvalidError: several runs have that prefix, or it is not an ID.
    """
    wanted = run.id if isinstance(run, RunRef) else run
    if not isinstance(wanted, str) or not re.fullmatch(r"[0-9a-f-]{1,64}", wanted):
        raise InvalidError(f"not the id of a run: {wanted!r:.80}", hint="rh.runs() lists those there are")
    found: dict[str, tuple[Registry, Record]] = {}
    for registry in lineage.registries():
        exact = registry.find(lineage.run_key(wanted))
        if exact is not None:
            return Run(registry, exact)
        for record in registry.list(lineage.run_key(wanted)):
            found.setdefault(record.key, (registry, record))
            if len(found) > 1:
                raise InvalidError(f"several runs begin with {wanted}", hint="write more of the id")
    if not found:
        raise NotFoundError(f"there is no run {wanted}", where=default().url, hint="rh.runs() lists those there are")
    return Run(*next(iter(found.values())))


def runs(
    name: str | None = None,
    *,
    status: str | None = None,
    where: filters.Filter | str | None = None,
    limit: int | None = None,
) -> list[Run]:
    """List recorded runs, newest first.

    Args:
        name: only runs with this name.
        status: only runs with this status: `"running"`, `"done"`, `"failed"` or `"cancelled"`.
        where: a filter on parameters, such as `"rate > 0.1"`.
        limit: maximum number of runs.

    Raises:
        NotFoundError: no run has that name; the message suggests similar names.
        InvalidError: the filter is not valid, or no run has a parameter of that name.
    """
    if status is not None and status not in STATES:
        raise InvalidError(
            f"no run is {status!r}" + did_you_mean(status, STATES), hint=f"status= is one of {', '.join(STATES)}"
        )
    wanted = filters.parse(where) if isinstance(where, str) else where
    found: dict[str, Run] = {}
    for registry in lineage.registries():
        records = registry.list(lineage.RUNS) if wanted is None else registry.search(wanted, lineage.RUNS)
        for record in records:
            document = record.document
            if name in (None, document.get("name")) and status in (None, document.get("status")):
                found.setdefault(record.key, Run(registry, record))
    if not found:
        if name is not None:
            _check_name(name)
        if wanted is not None:
            _check_fields(wanted)
    newest = sorted(found.values(), key=lambda one: one.id, reverse=True)
    return newest if limit is None else newest[:limit]


def _check_name(name: str) -> None:
    known = {
        str(record.document.get("name")) for registry in lineage.registries() for record in registry.list(lineage.RUNS)
    }
    if name not in known:
        raise NotFoundError(
            f"no run is called {name!r:.80}" + did_you_mean(name, tuple(sorted(known))),
            where=default().url,
            hint="rh.runs() lists those there are",
        )


def _check_fields(wanted: filters.Filter) -> None:
    known = {
        field
        for registry in lineage.registries()
        for record in registry.list(lineage.RUNS)
        for field, _ in filters.properties(record.document)
    }
    for field in wanted.fields():
        if known and field not in known:
            raise InvalidError(
                f"no run has a parameter {field!r}" + did_you_mean(field, tuple(sorted(known))), where=default().url
            )
