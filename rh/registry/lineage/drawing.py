"""A graph drawn as SVG from left to right: layers by distance, few crossings, the same picture for the same graph.

The steps are those of Sugiyama's method: edges that would close a circle are turned round, each node gets the layer
after the last of those before it, edges that pass layers get a bend in each, and the order within the layers is
improved by the mean of the neighbours, back and forth.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right, insort
from collections import deque
from html import escape
from typing import NamedTuple

from rh.registry.lineage.graph import Edge, Graph, Node

__all__ = ["draw"]

_WIDTH, _HEIGHT = 200, 44
_GAP_X, _GAP_Y = 88, 26
_BEND = 14
"""Height that an edge takes which only passes a layer."""
_MARGIN = 16
_LETTERS = 27
_SWEEPS = 8
_MOST = 4_000
"""Things in a picture, bends among them. More takes minutes to draw, and nobody can look at it."""

_STYLE = (
    "text{font:12px ui-sans-serif,system-ui,sans-serif;fill:#1b1f24}"
    ".small{font-size:10px;fill:#57606a}.asked{font-size:10px;fill:#0550ae;stroke:#fff;stroke-width:3px;paint-order:stroke}"
    ".edge{fill:none;stroke:#8c959f;stroke-width:1.3}"
    ".version{fill:#ddf4ff;stroke:#54aeff}.run{fill:#fff8c5;stroke:#bf8700}.failed{fill:#ffebe9;stroke:#cf222e}"
    ".external{fill:#f6f8fa;stroke:#8c959f;stroke-dasharray:4 3}"
)


class _Spot(NamedTuple):
    """Where something is drawn: its left end and its middle."""

    x: float
    y: float


def draw(graph: Graph) -> str:
    """The graph as an SVG document."""
    ids = list(graph.nodes)
    edges = [edge for edge in graph.edges if edge.source in graph.nodes and edge.target in graph.nodes]
    ways = _paths(ids, edges) if len(ids) + len(edges) <= _MOST else None
    if ways is None:
        return _refusal(f"{len(ids):,} nodes and {len(edges):,} edges are too many to be drawn")
    layers = _ordered(_layers(ids, ways), ways)
    spots, width, height = _placed(layers, graph)
    body = [
        _arrow(edge, [spots[at] for at in way.stops], turned=way.turned) for edge, way in zip(edges, ways, strict=True)
    ]
    body += [_box(graph.nodes[key], spots[key]) for key in ids]
    title = f"lineage: {len(ids)} nodes, {len(edges)} edges"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' role="img"><title>{title}</title><style>{_STYLE}</style>'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#8c959f"/></marker></defs>'
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>' + "".join(body) + "</svg>\n"
    )


# Layers.


class _Way(NamedTuple):
    """An edge as it is drawn: the things it passes, from left to right, and whether that is against its arrow."""

    stops: list[str]
    turned: bool


def _refusal(text: str) -> str:
    """The picture of a graph that is not drawn."""
    hint = "depth= asks for less; print(graph), graph.dot() and graph.as_dict() have all of it"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 64" width="640" height="64" role="img">'
        f'<title>{text}</title><style>{_STYLE}</style><rect width="640" height="64" rx="6" fill="#ffffff"/>'
        f'<text x="{_MARGIN}" y="28">{text}</text><text class="small" x="{_MARGIN}" y="46">{hint}</text></svg>\n'
    )


def _paths(ids: list[str], edges: list[Edge]) -> list[_Way] | None:
    """Each edge with its bends in the layers that it passes; `None` if that is too much."""
    after: dict[str, list[str]] = {key: [] for key in ids}
    for edge in edges:
        after[edge.source].append(edge.target)
    back = _closing(ids, after)
    plain = [(e.target, e.source) if (e.source, e.target) in back else (e.source, e.target) for e in edges]
    depth = _depths(ids, plain)
    if len(ids) + sum(max(depth[right] - depth[left], 1) for left, right in plain) > _MOST:
        return None
    ways = []
    for number, ((left, right), edge) in enumerate(zip(plain, edges, strict=True)):
        bends = [f"\0{number}/{layer}" for layer in range(depth[left] + 1, depth[right])]
        ways.append(_Way([left, *bends, right], (edge.source, edge.target) in back))
    return ways


def _closing(ids: list[str], after: dict[str, list[str]]) -> set[tuple[str, str]]:
    """The edges that close a circle when one walks from each node in turn."""
    closing: set[tuple[str, str]] = set()
    state: dict[str, int] = {}
    for first in ids:
        if first in state:
            continue
        state[first] = 1
        stack = [(first, iter(after[first]))]
        while stack:
            key, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                state[key] = 2
                stack.pop()
            elif state.get(following) == 1:
                closing.add((key, following))
            elif following not in state:
                state[following] = 1
                stack.append((following, iter(after[following])))
    return closing


def _depths(ids: list[str], edges: list[tuple[str, str]]) -> dict[str, int]:
    """The layer of each node: after the last of those before it; where there are none, right before what is after."""
    after: dict[str, list[str]] = {key: [] for key in ids}
    waiting = dict.fromkeys(ids, 0)
    for left, right in edges:
        if left != right:
            after[left].append(right)
            waiting[right] += 1
    depth = dict.fromkeys(ids, 0)
    ready = deque(key for key in ids if not waiting[key])
    order = []
    while ready:
        key = ready.popleft()
        order.append(key)
        for right in after[key]:
            depth[right] = max(depth[right], depth[key] + 1)
            waiting[right] -= 1
            if not waiting[right]:
                ready.append(right)
    begins = set(ids) - {right for _, right in edges}
    for key in order:
        if key in begins and after[key]:
            depth[key] = min(depth[right] for right in after[key]) - 1
    return depth


def _layers(ids: list[str], ways: list[_Way]) -> list[list[str]]:
    depth = dict.fromkeys(ids, 0)
    edges = [(way.stops[n], way.stops[n + 1]) for way in ways for n in range(len(way.stops) - 1)]
    everything = [*ids, *(stop for way in ways for stop in way.stops[1:-1])]
    depth = _depths(everything, edges)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for key in everything:
        layers[depth[key]].append(key)
    return layers


def _ordered(layers: list[list[str]], ways: list[_Way]) -> list[list[str]]:
    """The layers with fewer crossings."""
    before: dict[str, list[str]] = {key: [] for layer in layers for key in layer}
    after: dict[str, list[str]] = {key: [] for layer in layers for key in layer}
    for way in ways:
        for n in range(len(way.stops) - 1):
            after[way.stops[n]].append(way.stops[n + 1])
            before[way.stops[n + 1]].append(way.stops[n])
    best, fewest = [list(layer) for layer in layers], _crossings(layers, after)
    now = [list(layer) for layer in layers]
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        forth = sweep % 2 == 0
        for n in range(1, len(now)) if forth else range(len(now) - 2, -1, -1):
            place = {key: at for at, key in enumerate(now[n - 1 if forth else n + 1])}
            beside = before if forth else after
            here = {key: at for at, key in enumerate(now[n])}
            now[n].sort(key=lambda key: _mean([place[other] for other in beside[key] if other in place], here[key]))
        found = _crossings(now, after)
        if found < fewest:
            best, fewest = [list(layer) for layer in now], found
    return best


def _mean(places: list[int], otherwise: float) -> float:
    return sum(places) / len(places) if places else otherwise


def _crossings(layers: list[list[str]], after: dict[str, list[str]]) -> int:
    """How many pairs of edges cross."""
    total = 0
    for left, right in itertools.pairwise(layers):
        place = {key: at for at, key in enumerate(right)}
        ends: list[int] = []
        for key in left:
            mine = sorted(place[other] for other in after[key] if other in place)
            total += sum(len(ends) - bisect_right(ends, at) for at in mine)
            for at in mine:
                insort(ends, at)
    return total


# Places.


def _placed(layers: list[list[str]], graph: Graph) -> tuple[dict[str, _Spot], int, int]:
    """Where everything is, and the size of the picture. Layers are centred on each other."""
    heights = [
        sum(_BEND if key[0] == "\0" else _HEIGHT for key in layer) + _GAP_Y * (len(layer) - 1) for layer in layers
    ]
    tallest = max(heights, default=0)
    spots: dict[str, _Spot] = {}
    for n, (layer, height) in enumerate(zip(layers, heights, strict=True)):
        y = _MARGIN + (tallest - height) / 2
        for key in layer:
            own = _HEIGHT if key in graph.nodes else _BEND
            spots[key] = _Spot(_MARGIN + n * (_WIDTH + _GAP_X), round(y + own / 2, 1))
            y += own + _GAP_Y
    width = 2 * _MARGIN + len(layers) * _WIDTH + max(len(layers) - 1, 0) * _GAP_X
    return spots, max(width, 2 * _MARGIN), int(tallest + 2 * _MARGIN)


# Shapes.


def _arrow(edge: Edge, stops: list[_Spot], *, turned: bool) -> str:
    points: list[tuple[float, float]] = []
    for n, stop in enumerate(stops):
        if n:
            points.append((stop.x, stop.y))
        if n < len(stops) - 1:
            points.append((stop.x + _WIDTH, stop.y))
    if turned:
        points.reverse()
    bow = (-_GAP_X if turned else _GAP_X) / 2
    path = f"M{_n(points[0][0])},{_n(points[0][1])}"
    for n in range(1, len(points)):
        (x0, y0), (x1, y1) = points[n - 1], points[n]
        path += (
            f" C{_n(x0 + bow)},{_n(y0)} {_n(x1 - bow)},{_n(y1)} {_n(x1)},{_n(y1)}" if n % 2 else f" L{_n(x1)},{_n(y1)}"
        )
    shape = f'<path class="edge" d="{path}" marker-end="url(#arrow)"/>'
    if edge.asked:
        (x0, y0), (x1, y1) = points[0], points[1]
        shape += (
            f'<text class="asked" x="{_n((x0 + x1) / 2)}" y="{_n((y0 + y1) / 2 - 5)}" text-anchor="middle">'
            f"{_text(edge.asked, 16)}</text>"
        )
    return shape


def _box(node: Node, spot: _Spot) -> str:
    top = spot.y - _HEIGHT / 2
    shape: str = node.kind
    if node.kind == "run" and node.data.get("status") in ("failed", "cancelled"):
        shape = "run failed"
    radius = {"run": 3, "version": 14, "external": 3}[node.kind]
    small = _below(node)
    return (
        f"<g><title>{_text(_told(node), 2_000)}</title>"
        f'<rect class="{shape}" x="{_n(spot.x)}" y="{_n(top)}" width="{_WIDTH}" height="{_HEIGHT}" rx="{radius}"/>'
        f'<text x="{_n(spot.x + 12)}" y="{_n(top + (18 if small else 26))}">{_text(node.label, _LETTERS)}</text>'
        + (f'<text class="small" x="{_n(spot.x + 12)}" y="{_n(top + 34)}">{_text(small, 34)}</text>' if small else "")
        + "</g>"
    )


def _below(node: Node) -> str:
    """The second line of a box."""
    data = node.data
    if node.kind == "run":
        said = ", ".join(f"{key}={value}" for key, value in (data.get("metadata") or {}).items())
        return said or str((data.get("code") or {}).get("function") or data.get("run") or "")
    if node.kind == "version":
        return str(data.get("digest") or "")[:26]
    return str(data.get("url") or "") if data.get("name") else "not a version"


def _told(node: Node) -> str:
    """What is shown when one points at a box."""
    data, lines = node.data, [node.label]
    if node.kind == "run":
        code = data.get("code") or {}
        commit = (code.get("git") or {}).get("commit")
        lines += [f"{data.get('run')}: {data.get('status', 'forgotten')}"]
        lines += [f"code: {code['function']}"] if code.get("function") else []
        lines += [f"commit: {commit}"] if commit else []
        lines += [f"{key} = {value}" for key, value in (data.get("metadata") or {}).items()]
    else:
        lines += [str(data[key]) for key in ("digest", "url") if data.get(key)]
    return "\n".join(lines)


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _text(text: str, most: int) -> str:
    """Text as XML takes it: shortened in the middle, control characters shown, the rest escaped."""
    if len(text) > most:
        text = text[: most // 2 - 1] + "…" + text[len(text) - (most - most // 2) :]
    plain = "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
    return escape(plain.encode("utf-8", "replace").decode())
