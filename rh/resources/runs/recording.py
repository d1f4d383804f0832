"""The record of a run while it goes on: what it reads and writes, told to the registry soon after it happens."""

from __future__ import annotations

import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from rh.errors import AccessError, InvalidError, RhError
from rh.forks import Lock
from rh.observe import log
from rh.registry import holding
from rh.registry.base import Delete, Record, Registry, Step
from rh.registry.documents import check_document
from rh.registry.lineage import Lineage, Way, external_node, node_of, registries, run_key, steps, version_entry
from rh.registry.lineage.recording import VARIABLE, Pin, RunRef
from rh.registry.names import Name
from rh.resources import places
from rh.resources.base import load
from rh.resources.blob import NOTHING
from rh.resources.records import series_key
from rh.types import Location

if TYPE_CHECKING:
    from rh.resources.versioned import Versioned

__all__ = ["Recording", "attach", "plain_url"]

SOON_S = 0.25
"""What happens within this time is told in one commit. A process that is killed loses no more than that."""
_COMMIT = 200
RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{12}")


class Recording:
    """Takes what `rh.registry.lineage.recording` is told, each thing once.

    Used from any number of threads. A child process tells what it does at once, as nobody knows how it ends, and only
    as long as the run goes on.

    Args:
        registry: where.
        ref: of which run.
        begun_here: whether this process has begun the run.
    """

    def __init__(self, registry: Registry, ref: RunRef, *, begun_here: bool = True) -> None:
        self.registry = registry
        self.ref = ref
        self._process = os.getpid()
        self._pid = self._process if begun_here else None
        self._lock = Lock()
        self._flushing = Lock()
        self._seen: set[tuple[Any, ...]] = set()
        self._written: dict[str, dict[str, Any]] = {}
        """Live outputs by their nodes, until a version holds them."""
        self._own: set[str] = set()
        """What it wrote and made: reading that again is no input."""
        self._waiting: list[tuple[Way, dict[str, Any]]] = []
        self._taken_back: list[dict[str, Any]] = []
        self._timer: threading.Timer | None = None

    # What is told.

    def read(self, resource: Versioned, pin: Pin | None) -> None:
        """The data of a resource were opened for reading."""
        pin = pin or _pin(resource)
        if self._known("inputs", resource, pin):
            return
        if pin is not None:
            entry = version_entry(pin.name, pin.series, pin.number, pin.digest)
            entry |= {"asked": pin.asked, "kind": resource.kind}
        else:
            live = _live(resource)
            if live is None:
                return
            entry = live | _newest(live.get("name"))
        self._note("inputs", entry)

    def wrote(self, resource: Versioned) -> None:
        """The data of a resource were written, or are about to be."""
        if self._known("outputs", resource, None):
            return
        entry = _live(resource)
        if entry is not None:
            self._note("outputs", entry)

    def committed(self, pin: Pin, *, new: bool) -> None:
        """A version was made. It holds what was written to the live data, which is no output of its own then.

        One that was there before is what another run made, or none; what this one wrote is the live data.
        """
        if not new:
            return
        entry = version_entry(pin.name, pin.series, pin.number, pin.digest)
        try:
            there = load(pin.name, dryrun=True)
            entry["kind"] = there.kind
            url: str | None = plain_url(places.url_of(there.placed()))
        except RhError as error:
            log.debug("what %s is was not recorded: %s", pin.name, error)
            url = None
        with self._lock:
            self._here()
            if url is not None:
                self._own.add(external_node(url))
            written = None if url is None else self._written.pop(external_node(url), None)
            if written is not None:
                self._taken_back.append(written)
            self._waiting = [(way, one) for way, one in self._waiting if way == "inputs" or one not in self._taken_back]
            self._seen = {key for key in self._seen if key[0] == "inputs"}
        self._note("outputs", entry)

    def _known(self, way: Way, resource: Versioned, pin: Pin | None) -> bool:
        """Whether that was told before."""
        at = getattr(resource, "tree", None) or resource.location
        source = getattr(resource, "source", None) if at is None else None
        key = (way, at, pin, None if source is None else (source.system, source.query))
        if key in self._seen:
            return True
        with self._lock:
            self._seen.add(key)
        return False

    def _note(self, way: Way, entry: dict[str, Any]) -> None:
        if not _is_fit(entry, self.ref):
            return
        entry["time"] = time.time()
        node = node_of(entry)
        with self._lock:
            self._here()
            if way == "outputs":
                self._own.add(node)
            elif node in self._own:
                return
            if way == "outputs" and entry.get("version") is None:
                self._written[node] = entry
            self._waiting.append((way, entry))
            child = not self.is_ours
            if not child and self._timer is None:
                self._timer = threading.Timer(SOON_S, self._soon)
                self._timer.daemon = True
                self._timer.name = "rh-run"
                self._timer.start()
        if child:
            self._soon()

    def _here(self) -> None:
        """After a fork: what the parent has still to tell is the parent's."""
        if os.getpid() != self._process:
            self._process = os.getpid()
            self._timer = None
            self._waiting.clear()
            self._taken_back.clear()

    # Telling the registry.

    @property
    def is_ours(self) -> bool:
        """Whether this is the process that began the run, and not a child of it."""
        return os.getpid() == self._pid

    def _soon(self) -> None:
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 - a thread of our own; `flush` at the end raises what lasts
            log.warning("run %s: what it reads and writes is not recorded yet: %s", self.ref, error)

    def flush(self) -> None:
        """Tell the registry what it has not been told.

        Raises:
            RhError: it cannot be told; the next call tries again.
        """
        with self._flushing:
            with self._lock:
                self._here()
                timer, self._timer = self._timer, None
                waiting, self._waiting = self._waiting, []
                taken, self._taken_back = self._taken_back, []
            if timer is not None:
                timer.cancel()
            try:
                if taken:
                    self._take_back(taken)
                while waiting:
                    self._tell(waiting[:_COMMIT])
                    del waiting[:_COMMIT]
            except BaseException:
                with self._lock:
                    self._waiting[:0] = waiting
                    self._taken_back[:0] = taken
                raise

    def _tell(self, entries: list[tuple[Way, dict[str, Any]]]) -> None:
        """Have entries recorded; what the registry refuses is left out, and the rest is not lost with it."""
        if not self.is_ours and not _goes_on(self.registry.find(run_key(self.ref.id))):
            log.info("run %s is over: what a child of it does is not recorded", self.ref)
            return
        try:
            self.registry.commit(steps(self.ref, entries))
        except (AccessError, InvalidError) as error:
            if len(entries) == 1:
                way, entry = entries[0]
                what = entry.get("name") or entry.get("url")
                log.warning("run %s: that %s is among its %s is not recorded: %s", self.ref, what, way, error)
                return
            for one in entries:
                self._tell([one])

    def _take_back(self, entries: list[dict[str, Any]]) -> None:
        doomed: list[Step] = [
            Delete(step.key)
            for step in steps(self.ref, (("outputs", entry) for entry in entries))
            if self.registry.find(step.key) is not None
        ]
        if doomed:
            self.registry.commit(doomed)


def attach(run: str) -> Recording | None:
    """The recording of a run that another process began; `None`, and a warning, where there is none such."""
    try:
        for registry in registries() if RUN_ID.fullmatch(run) else ():
            record = registry.find(run_key(run))
            if record is None:
                continue
            if not _goes_on(record):
                return None
            recording = Recording(registry, RunRef(run, str(record.document.get("name", ""))), begun_here=False)
            recording._own.update(map(node_of, Lineage([registry]).entries(run, "outputs")))  # noqa: SLF001 - ours
            return recording
        why = "no registry here has it"
    except RhError as error:
        why = error.message
    log.warning("what this process reads and writes is not recorded in the run of %s=%.80s: %s", VARIABLE, run, why)
    return None


def _goes_on(record: Record | None) -> bool:
    return record is not None and record.document.get("status") == "running"


def _is_fit(entry: dict[str, Any], run: RunRef) -> bool:
    """Whether an entry can be recorded. A query that cannot, as a login is in it, is left out of it first."""
    for name in list(entry):
        try:
            check_document({name: entry[name]}, where=f"run {run}")
        except InvalidError as error:
            log.warning("run %s: not recorded: %s", run, error)
            if name != "query":
                return False
            entry[name] = "(not recorded: it holds what looks like a credential)"
    return True


def _pin(resource: Versioned) -> Pin | None:
    """The version that a handle, or a part of one, is on."""
    location = resource.location
    if location is None or not location.in_version:
        return None
    return resource.pin


def _live(resource: Versioned) -> dict[str, Any] | None:
    """Data that no version holds, as an entry; `None` for what is not anywhere yet."""
    entry: dict[str, Any] = {"kind": resource.kind}
    source = getattr(resource, "source", None)
    if resource.location is None:
        if source is None:
            return None
        return entry | {"url": plain_url(source.system), "query": _plain(source.query)[:10_000]}
    if getattr(resource, "value", NOTHING) is not NOTHING:
        return None
    if resource.location.in_version:
        return None  # a version, and nobody knows whose
    part = getattr(resource, "tree", None)
    if resource.name is not None and _is_at(resource.name, resource.location):
        entry["name"] = resource.name
    return entry | {"url": plain_url(places.url_of(part or resource.location))}


def _is_at(name: str, location: Location) -> bool:
    """Whether a place is that of a name, and not that of a copy."""
    try:
        record = holding(Name(name)).find(Name(name).key)
    except RhError as error:
        log.debug("whether %s is at this place was not recorded: %s", name, error)
        return False
    return record is None or record.document.get("location") == location.as_dict()


def _newest(of: str | None) -> dict[str, Any]:
    """The newest version of a live resource, for `changed_inputs`: that the data are still it, nobody knows."""
    if of is None:
        return {}
    name = Name(of)
    try:
        registry = holding(name)
        record = registry.find(series_key(name))
        if record is None:
            return {}
        series = str(record.document["series"])
        head = registry.find(f"heads/{series}")
        return {"series": series, "newest": None if head is None else head.document.get("latest")}
    except RhError as error:
        log.debug("the newest version of %s was not recorded: %s", name, error)
        return {}


def plain_url(url: str) -> str:
    """A URL as it is recorded: without a query or a login, which may be credentials, and as text that JSON has."""
    url = url.partition("?")[0] if url.startswith(("http://", "https://")) else url
    scheme, mark, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    user, at, place = host.rpartition("@")
    if mark and at and ":" in user:
        url = f"{scheme}://{user.partition(':')[0]}@{place}{slash}{path}"
    return _plain(url)


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
