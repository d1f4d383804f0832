"""What runs read and made, as keys of a registry, and the graph that follows from them.

* `runs/<run>`: what a run is; written when it begins and when it ends,
* `inputs/<run>/<entry>`, `outputs/<run>/<entry>`: what it read and made; each written once,
* `used/<node>/<run>`, `made/<node>/<run>`: the same the other way round, so that every registry answers by a prefix.

A node is `<series>/<number, 8 digits>` for a version and `external/<SHA-256 of its URL>` for data that no version
holds: live data, files without a name, databases. Run ids begin with their time, so runs are in the order they began.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rh.errors import InvalidError, NotFoundError
from rh.registry.base import Delete, Put, Record, Registry, Step
from rh.registry.documents import encode
from rh.registry.lineage.graph import Edge, Graph, Node
from rh.registry.lineage.recording import RunRef

__all__ = [
    "Lineage",
    "check_depth",
    "entry_node",
    "external_node",
    "forget",
    "made_by",
    "needed",
    "new_run",
    "node_of",
    "registries",
    "run_key",
    "steps",
    "used_by",
    "version_entry",
    "version_node",
]

RUNS = "runs/"
MAX_NODES = 10_000
"""A graph of more is cut, and says so (`Graph.complete`)."""

Way = Literal["inputs", "outputs"]
_REVERSE: Mapping[Way, str] = {"inputs": "used", "outputs": "made"}


def new_run() -> str:
    """The id of a run that nobody else has; later ones are greater."""
    now = time.time()
    within = int(now % 1 * 16**4)
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{within:04x}{uuid.uuid4().hex[:8]}"


def run_key(run: str) -> str:
    """The key of a run's record."""
    return RUNS + run


def node_of(entry: Mapping[str, Any]) -> str:
    """The node that an entry of a run is about."""
    if entry.get("version") is not None:
        return version_node(str(entry["series"]), int(entry["version"]))
    return external_node(str(entry["url"]))


def version_node(series: str, number: int) -> str:
    """The node of a version."""
    return f"{series}/{number:08d}"


def external_node(url: str) -> str:
    """The node of data that no version holds."""
    return "external/" + hashlib.sha256(url.encode("utf-8", "backslashreplace")).hexdigest()


def steps(run: RunRef, entries: Iterable[tuple[Way, Mapping[str, Any]]]) -> list[Step]:
    """What records entries of a run. Recording one again changes nothing that matters."""
    found: dict[str, Step] = {}
    for way, entry in entries:
        identity = {key: value for key, value in entry.items() if key not in ("time", "newest")}
        key = f"{way}/{run.id}/{hashlib.sha256(encode(identity)).hexdigest()[:16]}"
        found[key] = Put(key, entry)
        back = f"{_REVERSE[way]}/{node_of(entry)}/{run.id}"
        found[back] = Put(back, {"run": run.id, "name": run.name, "time": entry["time"]})
    return list(found.values())


def used_by(registries: Iterable[Registry], node: str) -> list[RunRef]:
    """The runs that read a node, in the order they began."""
    return _runs(registries, f"used/{node}/")


def made_by(registries: Iterable[Registry], node: str) -> list[RunRef]:
    """The runs that made or wrote a node, in the order they began."""
    return _runs(registries, f"made/{node}/")


def _runs(registries: Iterable[Registry], prefix: str) -> list[RunRef]:
    found = {
        record.key[len(prefix) :]: str(record.document.get("name", ""))
        for registry in registries
        for record in registry.list(prefix)
    }
    return [RunRef(run, found[run]) for run in sorted(found)]


def needed(registries: Iterable[Registry], series: str) -> dict[int, tuple[bool, RunRef]]:
    """The versions of a series that runs are recorded for: whether one read it, and one of the runs."""
    found: dict[int, tuple[bool, RunRef]] = {}
    for registry in registries:
        for verb in ("made", "used"):
            prefix = f"{verb}/{series}/"
            for record in registry.list(prefix):
                number, _, run = record.key[len(prefix) :].partition("/")
                found[int(number)] = (verb == "used", RunRef(run, str(record.document.get("name", ""))))
    return found


def forget(registry: Registry, run: str) -> None:
    """Take a run's records away; histories stay.

    Raises:
        NotFoundError: there is no such run.
    """
    if registry.find(run_key(run)) is None:
        raise NotFoundError(f"there is no run {run}", where=registry.url, hint="rh.runs() lists those there are")
    doomed = [run_key(run)]
    for way, reverse in _REVERSE.items():
        for record in registry.list(f"{way}/{run}/"):
            doomed += [record.key, f"{reverse}/{node_of(record.document)}/{run}"]
    registry.commit([Delete(key) for key in dict.fromkeys(doomed)])


class Lineage:
    """The graph around versions, runs and other data, read as it is asked for.

    Args:
        registries: where to look: runs may be recorded in another one than the versions they read.
    """

    def __init__(self, registries: Iterable[Registry]) -> None:
        self.registries = list(registries)
        self._known: dict[str, Record | None] = {}
        self._entries: dict[tuple[Way, str], list[dict[str, Any]]] = {}
        self._words: dict[str, dict[str, dict[str, None]]] = {}

    def run(self, run: str) -> Record | None:
        """The record of a run; `None` if it was forgotten."""
        if run not in self._known:
            found = (registry.find(run_key(run)) for registry in self.registries)
            self._known[run] = next((record for record in found if record is not None), None)
        return self._known[run]

    def entries(self, run: str, way: Way) -> list[dict[str, Any]]:
        """What a run read or made, in the order in which it did."""
        if (way, run) not in self._entries:
            found = [record.document for registry in self.registries for record in registry.list(f"{way}/{run}/")]
            self._entries[way, run] = sorted(found, key=lambda entry: (entry.get("time") or 0.0, node_of(entry)))
        return self._entries[way, run]

    def around(self, starts: Iterable[Node], *, up: int | None = None, down: int | None = None) -> Graph:
        """What the nodes come from and what came of them.

        Args:
            starts: versions, runs, other data.
            up: how many runs to go back; `None` for all there are.
            down: how many runs to go on.
        """
        check_depth(up, down)
        graph = Graph()
        firsts = list(starts)
        for node in firsts:
            graph.add(node)
        self._walk(graph, firsts, "outputs", up)
        self._walk(graph, firsts, "inputs", down)
        return graph

    def between(self, a: Node, b: Node) -> Graph:
        """What lies on the ways from one node to another, whichever came first; both alone if there is none."""
        for first, last in ((a, b), (b, a)):
            ahead = self.around([first], up=0)
            if last.id in ahead.nodes:
                return ahead.common(self.around([last], down=0))
        graph = Graph()
        graph.add(a)
        graph.add(b)
        return graph

    def _walk(self, graph: Graph, starts: list[Node], way: Way, depth: int | None) -> None:
        """Go from nodes to the runs that have them among their `way`, and on to what is at the runs' other end."""
        front = [node for node in starts if node.kind != "run"]
        passed = {node.id for node in front}
        runs = [node.id.removeprefix("run:") for node in starts if node.kind == "run"]
        done: set[str] = set()
        left = depth
        while (front or runs) and (left is None or left > 0):
            found = dict.fromkeys(runs)
            for node in front:
                for run in self._neighbours(node, way):
                    found[run] = None
                    told = [entry for entry in self.entries(run, way) if entry_node(entry).id == node.id]
                    self._link(graph, run, way, told or [dict(node.data)])
            onward: list[Node] = []
            for run in found:
                if run in done:
                    continue
                done.add(run)
                other: Way = "inputs" if way == "outputs" else "outputs"
                for node in self._link(graph, run, other, self.entries(run, other)):
                    if node.id not in passed:
                        passed.add(node.id)
                        onward.append(node)
            front, runs = onward, []
            left = None if left is None else left - 1
            if len(graph.nodes) > MAX_NODES:
                graph.complete = False
                return

    def _neighbours(self, node: Node, way: Way) -> Iterator[str]:
        path = node.id.partition(":")[2]
        found = [ref.id for ref in (made_by if way == "outputs" else used_by)(self.registries, path)]
        if way == "outputs" and node.kind == "version":
            # The version itself says it, too; so does that of a run that was killed before it could say more.
            for registry in self.registries:
                record = registry.find(f"versions/{path}")
                made = None if record is None else record.document.get("produced_by")
                if isinstance(made, Mapping) and str(made.get("run")) not in found:
                    found.append(str(made["run"]))
        yield from found

    def _link(self, graph: Graph, run: str, way: Way, entries: Iterable[Mapping[str, Any]]) -> list[Node]:
        """Edges between a run and some of its entries; the nodes of those."""
        here = graph.add(self.run_node(run))
        found = []
        for entry in entries:
            node = graph.add(entry_node(entry))
            found.append(node)
            if way == "inputs":
                graph.link(Edge(node.id, here.id, self._asked(run, node.id)))
            else:
                graph.link(Edge(here.id, node.id))
        return found

    def _asked(self, run: str, node: str) -> str | None:
        """What the run asked for when it got this version: its aliases, rather than its number."""
        words = self._words.get(run)
        if words is None:
            words = self._words[run] = {}
            for entry in self.entries(run, "inputs"):
                if entry.get("asked") and entry["asked"] != f"v{entry['version']}":
                    words.setdefault(entry_node(entry).id, {})[str(entry["asked"])] = None
        return ", ".join(words.get(node, ())) or None

    def run_node(self, run: str) -> Node:
        """The node of a run."""
        record = self.run(run)
        document = {} if record is None else dict(record.document)
        return Node(f"run:{run}", "run", str(document.get("name") or run), {"run": run, **document})


def check_depth(*depths: int | None) -> None:
    """Refuse what is no number of runs to go back, or on.

    Raises:
        InvalidError: one is neither `None` nor a whole number of at least 0.
    """
    for depth in depths:
        if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 0):
            raise InvalidError(
                f"{depth!r:.80} is no number of runs to go back or on", hint="0 or more; None is all there are"
            )


def entry_node(entry: Mapping[str, Any]) -> Node:
    """The node of what a run read or made."""
    told = {key: value for key, value in entry.items() if key not in ("asked", "new", "time", "newest")}
    if entry.get("version") is not None:
        return Node(f"version:{node_of(entry)}", "version", f"{entry['name']}:v{entry['version']}", told)
    return Node(f"external:{node_of(entry)}", "external", str(entry.get("name") or entry["url"]), told)


def version_entry(name: str, series: str, number: int, digest: str) -> dict[str, Any]:
    """A version, as the entries of runs have it."""
    return {"name": name, "series": series, "version": number, "digest": digest}


def registries(first: str | None = None) -> list[Registry]:
    """Where runs and what they used may be recorded: a registry, the default one, that of this machine.

    Args:
        first: the URL of the one that is asked first.
    """
    from rh.registry import default, local, open_registry

    found = [default(), local()] if first is None else [open_registry(first), default(), local()]
    return list({registry.url: registry for registry in found}.values())
