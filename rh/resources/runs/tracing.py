"""`rh.lineage`: where data came from and what came of them, found by name, handle, URL or run."""

from __future__ import annotations

import re
from typing import Any

from rh.errors import InvalidError, NotFoundError
from rh.registry.lineage import Lineage, check_depth, entry_node, registries, version_entry
from rh.registry.lineage.graph import Graph, Node
from rh.registry.lineage.recording import RunRef
from rh.resources import places
from rh.resources.base import load
from rh.resources.runs import Run
from rh.resources.runs.recording import plain_url
from rh.resources.versioned import Versioned
from rh.versions.series import Version

__all__ = ["lineage", "nodes_of"]

_RUN = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{12}")


def lineage(a: Any, b: Any = None, *, up: int | None = None, down: int | None = None) -> Graph:
    """Where something came from and what came of it, as a graph; with `b`, what lies between the two.

    Args:
        a: a name (`"cats"`, `"cats:v3"`), a handle, a version, a run or its id, or the URL of data without a version.
            A name without a version is its newest version and its live data.
        b: the same.
        up: how many runs to go back; by default all.
        down: how many runs to go on; by default all.

    Raises:
        NotFoundError: there is nothing of that name, or no such version or run.
        InvalidError: a depth is below 0.
    """
    check_depth(up, down)
    found = Lineage(registries())
    starts = nodes_of(a, found)
    if b is None:
        graph = found.around(starts, up=up, down=down)
        linked = {end for edge in graph.edges for end in (edge.source, edge.target)}
        for node in starts[1:]:  # live data that no run touched say nothing beside their version
            if node.id not in linked:
                del graph.nodes[node.id]
        return graph
    if up is not None or down is not None:
        raise InvalidError("up= and down= are for one thing; between two there is all that connects them")
    ends = nodes_of(b, found)
    graph = Graph()
    for start in starts:
        for end in ends:
            between = found.between(start, end)
            if between.edges or not graph.nodes:
                for node in between:
                    graph.add(node)
                for edge in between.edges:
                    graph.link(edge)
    return graph


def nodes_of(what: Any, found: Lineage) -> list[Node]:
    """The nodes of the graph that something means."""
    if isinstance(what, Run | RunRef):
        return [found.run_node(what.id)]
    if isinstance(what, Version):
        return [entry_node(version_entry(what.name, what.series, what.number, what.digest))]
    if isinstance(what, Versioned):
        return _of_resource(what)
    if not isinstance(what, str):
        raise InvalidError(f"a {type(what).__name__} has no lineage", hint="a name, a handle, a version, a run, a URL")
    if _RUN.fullmatch(what):
        if found.run(what) is None:
            raise NotFoundError(f"there is no run {what}", hint="rh.runs() lists those there are")
        return [found.run_node(what)]
    if "://" in what and not what.startswith("rh://"):
        url = plain_url(places.url_of(places.resolve(what, None)))
        return [entry_node({"url": url})]
    resource = load(what.removeprefix("rh://"), dryrun=True)
    if not isinstance(resource, Versioned):
        raise InvalidError(f"{what} is a {resource.kind}, which has no lineage")
    return _of_resource(resource)


def _of_resource(resource: Versioned) -> list[Node]:
    """A pinned handle is its version; a live one is its newest version, if it has any, and its live data."""
    pin = resource.pin
    location = resource.location
    if pin is not None and location is not None and location.in_version:
        return [entry_node(version_entry(pin.name, pin.series, pin.number, pin.digest))]
    nodes: list[Node] = []
    if resource.name is not None:
        try:
            newest = resource.committed_version()
        except NotFoundError:
            pass
        else:
            nodes += [entry_node(version_entry(newest.name, newest.series, newest.number, newest.digest))]
    if location is not None:
        url = plain_url(places.url_of(getattr(resource, "tree", None) or location))
        nodes.append(entry_node({"url": url} | ({"name": resource.name} if resource.name else {})))
    elif getattr(resource, "source", None) is not None:
        nodes.append(entry_node({"url": plain_url(resource.source.system)}))  # type: ignore[attr-defined]
    return nodes
