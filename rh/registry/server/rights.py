"""Who may read and write which keys.

`resources/<name>` and `series/<name>` go by the name. What is kept under the id of a series goes by the name whose
`series/<name>` record holds that id, so that a renamed resource keeps its versions and who may read it may read them.
`runs/<id>`, and its `inputs/<id>/…` and `outputs/<id>/…`, belong to whoever wrote the first; those who may read what
came out of it may read it, and of its inputs and outputs those that they may read themselves. Other keys are the
admins', and `server/` is nobody's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from rh.errors import AccessError, InvalidError, NotFoundError
from rh.forks import Lock
from rh.registry.base import Change, Delete, Put, Record, Registry, Rename, Step
from rh.registry.forgotten import forgotten
from rh.registry.server.accounts import FRESH_S, RESERVED, Snapshot

__all__ = ["ADMIN", "NOTHING", "READ", "WRITE", "Caller", "Rights"]

NOTHING, READ, WRITE, ADMIN = range(4)

_BY_NAME = frozenset({"resources", "series"})
_BY_SERIES = frozenset({"versions", "heads", "aliases", "files", "meta", "types", "drafts"})
_BY_RUN = frozenset({"runs", "inputs", "outputs"})
_EDGES = frozenset({"used", "made"})
"""`used/<series>/<number>/<run>` and `made/…`: which run read and wrote a version."""
_SERIES = re.compile(r"[0-9a-f]{32}")
_TYPES_OF_NAMES = "types/resources/"
"""`types/resources/<owner>`: goes by the owner's name."""
_NAME = re.compile(r"(?:~|[A-Za-z0-9][A-Za-z0-9._-]*)(?:/[A-Za-z0-9][A-Za-z0-9._-]*)+")
_KNOWN_RUNS = 100_000

Told = TypeVar("Told", Record, Change)


class Caller(NamedTuple):
    """Who asks, as of when. `user` is `None` for those without a token."""

    user: str | None
    snapshot: Snapshot
    asked: float
    """What was seen of the names of series since then (monotonic) is new enough for this request."""

    @property
    def is_admin(self) -> bool:
        return self.user is not None and self.snapshot.admins.get(self.user, False)


class Rights:
    """What callers may do in one registry. Safe for threads."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._lock = Lock()
        self._names: dict[str, tuple[str, float]] = {}
        """Series → its name, and when that was last seen to be so."""
        self._series: dict[str, str] = {}
        """The same the other way round."""
        self._scanned = 0.0
        self._makers: dict[str, str] = {}
        self._made: dict[str, tuple[Sequence[Mapping[str, Any]], float]] = {}
        """Run → what came out of it, and when that was read."""

    # Judging.

    def level(
        self,
        caller: Caller,
        key: str,
        document: Mapping[str, Any] | None = None,
        begun: Mapping[str, str] | None = None,
    ) -> int:
        """What `caller` may do with a key.

        Args:
            caller: who asks.
            key: of the registry.
            document: what is under it, where that is known: an input or output of a run.
            begun: series → name, of series that the same commit begins.
        """
        space, _, rest = key.partition("/")
        if key.startswith(RESERVED):
            return NOTHING
        if caller.is_admin:
            return ADMIN
        if space in _BY_NAME:
            return caller.snapshot.role(caller.user, rest)
        if key.startswith(_TYPES_OF_NAMES):
            return caller.snapshot.role(caller.user, key.removeprefix(_TYPES_OF_NAMES))
        series, _, tail = rest.partition("/")
        if space in _BY_RUN:
            return self._run_level(caller, series, {} if space == "runs" else document or {})
        if space in _EDGES:
            if series == "external":  # data that no version holds: only the run says whose business they are
                return self._run_level(caller, tail.rpartition("/")[2], {})
            below = self._series_level(caller, series, begun)
            if below < (READ if space == "used" else WRITE):
                return min(below, READ)
            return WRITE if self._is_own(caller, tail.rpartition("/")[2]) else READ
        if space in _BY_SERIES:
            return self._series_level(caller, series, begun)
        return NOTHING

    def reaches(self, caller: Caller, prefix: str) -> bool:
        """Whether the caller may read what is below a prefix of keys, or the names of a share that is below it.

        Which runs read or wrote data that no version holds anybody may ask, and is told of those that they may read.
        """
        if self.level(caller, prefix) >= READ or prefix.startswith(tuple(f"{edge}/external/" for edge in _EDGES)):
            return True
        public = [path for path in caller.snapshot.shares if caller.snapshot.role(caller.user, path) >= READ]
        spaces = (*(f"{space}/" for space in _BY_NAME), _TYPES_OF_NAMES)
        return any(f"{space}{path}/".startswith(prefix) for space in spaces for path in public)

    def _series_level(self, caller: Caller, series: str, begun: Mapping[str, str] | None) -> int:
        name = (begun or {}).get(series) or self.name_of(series, caller.asked)
        return NOTHING if name is None else caller.snapshot.role(caller.user, name)

    def _run_level(self, caller: Caller, run: str, entry: Mapping[str, Any]) -> int:
        """What a caller may do with a run; `entry` is one of its inputs or outputs, if it is about that."""
        if self._is_own(caller, run):
            return WRITE
        came_out = any(self._is_readable(caller, output) for output in self._outputs(run))
        return READ if came_out and self._is_readable(caller, entry) else NOTHING

    def _is_readable(self, caller: Caller, entry: Mapping[str, Any]) -> bool:
        """Whether a caller may know of the name that an entry of a run is about. Data without one are no secret."""
        if entry.get("series") is not None:
            return self._series_level(caller, str(entry["series"]), None) >= READ
        name = entry.get("name")
        return name is None or caller.snapshot.role(caller.user, str(name).removeprefix("/")) >= READ

    def _outputs(self, run: str) -> Sequence[Mapping[str, Any]]:
        """What came out of a run and has a name, as of `FRESH_S` ago."""
        known = self._made.get(run)
        if known is None or time.monotonic() - known[1] >= FRESH_S:
            entries = [record.document for record in self.registry.list(f"outputs/{run}/")]
            named = [entry for entry in entries if entry.get("name") is not None or entry.get("series") is not None]
            if len(self._made) >= _KNOWN_RUNS:
                self._made.clear()
            known = self._made[run] = (named, time.monotonic())
        return known[0]

    def _is_own(self, caller: Caller, run: str) -> bool:
        """Whether the caller made a run, or nobody did."""
        if caller.user is None or not run:
            return False
        maker = self._makers.get(run)
        if maker is None:
            first = next(iter(self.registry.history(f"runs/{run}")), None)
            if first is None:
                return True
            if len(self._makers) >= _KNOWN_RUNS:
                self._makers.clear()
            maker = self._makers[run] = first.author
        return maker == caller.user

    def visible(self, caller: Caller, found: Iterable[Told]) -> Iterator[Told]:
        """Those that the caller may read. Of a rename, the other name is told only to those who may read it as well."""
        for one in found:
            now = time.monotonic()
            if now - caller.asked >= 2 * FRESH_S:  # a long answer
                caller = caller._replace(asked=now - FRESH_S)
            if self.level(caller, one.key, one.document) >= READ:
                if isinstance(one, Change) and one.moved is not None and self.level(caller, one.moved) < READ:
                    yield one._replace(moved=None)
                else:
                    yield one

    def check(self, caller: Caller, steps: Sequence[Step]) -> None:
        """Refuse a commit with a step that the caller may not make.

        Who may not read a key is told of it what is told of one that is not there: of the place where something is to
        go, that they may not write it.
        """
        begun = self._begun(caller, steps)
        for step in steps:
            self._check_key(caller, step, step.key, begun)
            if isinstance(step, Rename):
                self._check_key(caller, step, step.to, begun)
                if not caller.is_admin and step.key.partition("/")[0] != step.to.partition("/")[0]:
                    raise InvalidError(f"{step.key!r:.200} cannot become {step.to!r:.200}: it is of another kind")

    def _check_key(self, caller: Caller, step: Step, key: str, begun: Mapping[str, str]) -> None:
        space, _, rest = key.partition("/")
        if key.startswith(RESERVED):
            raise AccessError(f"keys in {RESERVED} are the server's own")
        if space in _BY_NAME and (not _NAME.fullmatch(rest) or (rest.startswith("~/") and not caller.is_admin)):
            raise InvalidError(f"{rest!r:.200} is no name on a registry server", hint="/org/team/name")
        level = self.level(caller, key, None, begun)
        if level >= WRITE:
            return
        goes_there = isinstance(step, Put) or (isinstance(step, Rename) and key == step.to)
        if level < READ and (space not in _BY_NAME or not goes_there):
            raise NotFoundError(f"nothing is registered as {key!r}")
        series = rest.partition("/")[0] if space in _BY_SERIES else ""
        name = rest if space in _BY_NAME else self.name_of(series, caller.asked)
        who = caller.user or "nobody"
        if name is None:
            raise AccessError(f"{who} may not write {key!r:.200}")
        raise AccessError(
            f"{who} may not write /{name}: that needs the role write on it or above it",
            hint=f"an admin of /{name.partition('/')[0]} can say: rh registry grant /{name} {who} write",
        )

    def _begun(self, caller: Caller, steps: Sequence[Step]) -> dict[str, str]:
        """The series that a commit begins, by id.

        Nobody takes over the versions of another name by writing down its id: an id is of the name that has it, or had
        it when it was forgotten, or new.
        """
        begun: dict[str, str] = {}
        for step in steps:
            if not isinstance(step, Put) or not step.key.startswith("series/"):
                continue
            name, series = step.key.removeprefix("series/"), step.document.get("series")
            if not isinstance(series, str) or not _SERIES.fullmatch(series):
                raise InvalidError(f"the series of /{name} has no proper id", hint="rh.versions.series.new_series")
            if caller.is_admin:
                begun[series] = name
                continue
            holder = self.name_of(series, caller.asked)
            if holder == name or (holder is None and series not in begun and self._is_free(series, name)):
                begun[series] = name
            elif caller.snapshot.role(caller.user, name) >= WRITE:
                raise AccessError(f"the versions that /{name} would get are those of another name")
        return begun

    def _is_free(self, series: str, name: str) -> bool:
        """Whether a name may have a series that none has: a new one, or one that went when the name was forgotten."""
        in_use = self.registry.find(f"heads/{series}") is not None or any(
            next(iter(self.registry.list(f"{space}/{series}/")), None) is not None for space in _BY_SERIES
        )
        return not in_use or series in forgotten(self.registry, name)

    # Which name a series has.

    def name_of(self, series: str, asked: float) -> str | None:
        """The name that has a series, or `None`.

        Args:
            series: its id.
            asked: all names are looked through for one that is not known, unless somebody did since then (monotonic).
        """
        if not _SERIES.fullmatch(series):
            return None
        now = time.monotonic()
        known = self._names.get(series)
        if known is not None:
            if now - known[1] < FRESH_S:
                return known[0]
            record = self.registry.find(f"series/{known[0]}")
            if record is not None and record.document.get("series") == series:
                self._names[series] = (known[0], now)
                return known[0]
            asked = now  # it moved
        with self._lock:
            if self._scanned < asked:
                self._scan()
            known = self._names.get(series)
        return None if known is None else known[0]

    def _scan(self) -> None:
        now = time.monotonic()
        self._series = {
            record.key.removeprefix("series/"): str(record.document.get("series"))
            for record in self.registry.list("series/")
        }
        self._names = {series: (name, now) for name, series in self._series.items()}
        self._scanned = now

    def learn(self, changes: Sequence[Change]) -> None:
        """Note what a commit of this server changed."""
        begun = [change for change in changes if change.key.startswith("series/")]
        if not begun:
            return
        with self._lock:
            for change in begun:
                name = change.key.removeprefix("series/")
                before = self._series.pop(name, None)
                if before is not None and self._names.get(before, ("",))[0] == name:
                    del self._names[before]
                if change.document is not None:
                    series = self._series[name] = str(change.document.get("series"))
                    self._names[series] = (name, time.monotonic())

    @staticmethod
    def renames(steps: Sequence[Step]) -> Iterator[tuple[str, str | None]]:
        """The names that a commit takes away, and what they are called afterwards."""
        for step in steps:
            if step.key.startswith("resources/") and isinstance(step, Delete | Rename):
                to = step.to.removeprefix("resources/") if isinstance(step, Rename) else None
                yield step.key.removeprefix("resources/"), to
