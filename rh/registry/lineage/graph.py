"""A graph of lineage as a value: versions, runs and other data, and who read and made what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = ["Edge", "Graph", "Node"]


class Node(NamedTuple):
    """One thing in the graph.

    Attributes:
        id: `version:<series>/<number>`, `run:<run>` or `external:…`.
        kind: `"version"`, `"run"`, or `"external"` for data that no version holds.
        label: what people call it.
        data: what is recorded of it: of a run its parameters, code and status; of a version its digest.
    """

    id: str
    kind: Literal["version", "run", "external"]
    label: str
    data: Mapping[str, Any]


class Edge(NamedTuple):
    """A run read a thing (`source` is the thing), or made it (`source` is the run).

    Attributes:
        source: id of a node.
        target: id of a node.
        asked: the aliases by which a version was asked for.
    """

    source: str
    target: str
    asked: str | None = None


@dataclass
class Graph:
    """What came from what. A notebook shows it drawn.

    Attributes:
        nodes: by id, in the order they were found.
        edges: each once.
        complete: false if it was cut because it is too large.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    complete: bool = True
    _linked: set[Edge] = field(init=False, repr=False, compare=False, default_factory=set)
    _to: dict[str, list[Edge]] = field(init=False, repr=False, compare=False, default_factory=dict)
    _from: dict[str, list[Edge]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        edges, self.edges = self.edges, []
        for edge in edges:
            self.link(edge)

    def add(self, node: Node) -> Node:
        """Put a node, unless it is there and its name is known; return the one that is there then."""
        known = self.nodes.get(node.id)
        if known is None or ("name" in node.data and "name" not in known.data and node.kind == "external"):
            self.nodes[node.id] = node
        return self.nodes[node.id]

    def link(self, edge: Edge) -> None:
        """Put an edge, unless it is there."""
        if edge not in self._linked:
            self._linked.add(edge)
            self.edges.append(edge)
            self._to.setdefault(edge.target, []).append(edge)
            self._from.setdefault(edge.source, []).append(edge)

    def common(self, other: Graph) -> Graph:
        """What both graphs have."""
        edges = [edge for edge in self.edges if edge in other._linked]
        nodes = {key: node for key, node in self.nodes.items() if key in other.nodes}
        return Graph(nodes, edges, self.complete and other.complete)

    def of_kind(self, kind: str) -> list[Node]:
        """The nodes of one kind."""
        return [node for node in self.nodes.values() if node.kind == kind]

    def sources(self, node: str) -> list[Edge]:
        """The edges that lead to a node."""
        return list(self._to.get(node, ()))

    def targets(self, node: str) -> list[Edge]:
        """The edges that lead away from a node."""
        return list(self._from.get(node, ()))

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    # As something else.

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: `nodes`, `edges`, `complete`."""
        return {
            "nodes": [{"id": n.id, "kind": n.kind, "label": n.label, "data": dict(n.data)} for n in self],
            "edges": [edge._asdict() for edge in self.edges],
            "complete": self.complete,
        }

    def dot(self) -> str:
        """The graph in Graphviz's language."""
        shapes = {"run": "box", "version": "ellipse", "external": "note"}
        lines = ["digraph lineage {", "  rankdir=LR;"]
        lines += [f"  {_quoted(n.id)} [label={_quoted(n.label)}, shape={shapes[n.kind]}];" for n in self]
        for edge in self.edges:
            label = f" [label={_quoted(edge.asked)}]" if edge.asked else ""
            lines.append(f"  {_quoted(edge.source)} -> {_quoted(edge.target)}{label};")
        return "\n".join([*lines, "}", ""])

    def openlineage(self) -> list[dict[str, Any]]:
        """One run event of the OpenLineage standard for each run."""
        from rh.registry.lineage.openlineage import events

        return events(self)

    def svg(self) -> str:
        """The graph drawn from left to right. Equal graphs give equal drawings; nothing but `rh` is needed.

        One that is too large to be looked at is not drawn: the picture says so.
        """
        from rh.registry.lineage.drawing import draw

        return draw(self)

    def _repr_svg_(self) -> str:
        return self.svg()

    def __str__(self) -> str:
        """Each run with what it read and made, in the order they began; then what stands alone."""
        lines = []
        for node in sorted(self.of_kind("run"), key=lambda node: node.id):
            state = node.data.get("status")
            lines.append(f"{node.label} {node.data.get('run')}" + (f" ({state})" if state else ""))
            for edge in self.sources(node.id):
                asked = f" (as {edge.asked})" if edge.asked else ""
                lines.append(f"  read  {self.nodes[edge.source].label}{asked}")
            lines += [f"  made  {self.nodes[edge.target].label}" for edge in self.targets(node.id)]
        linked = {end for edge in self.edges for end in (edge.source, edge.target)}
        lines += [node.label for node in self if node.id not in linked and node.kind != "run"]
        if not self.complete:
            lines.append("(there is more than is shown)")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Graph of {len(self.nodes):,} nodes and {len(self.edges):,} edges>"


def _quoted(text: str) -> str:
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
