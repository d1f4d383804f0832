"""The graph that follows from runs: walked up and down, between two things, told and drawn."""

import json
import re
import xml.etree.ElementTree as ET

import jsonschema
import pytest

import rh
from rh import errors
from rh.registry import lineage
from rh.registry.lineage.graph import Edge, Graph, Node


def tree(graph):
    """The edges by label."""
    return {(graph.nodes[edge.source].label, graph.nodes[edge.target].label, edge.asked) for edge in graph.edges}


@pytest.fixture
def chain(here, tmp_path):
    """raw:production → clean → model; the model's run also reads a file without a name."""
    raw = here.save("raw")
    raw.put({"a.txt": b"1 2 3"})
    raw.commit("as delivered", aliases=["production"])
    raw.put({"b.txt": b"late"})
    raw.commit("more")
    (tmp_path / "notes.txt").write_bytes(b"notes")

    @rh.run
    def clean(factor):
        text = rh.folder("raw:production").get("a.txt")
        rh.blob(text * factor, name="clean").save().commit()

    @rh.run
    def train(rate):
        rh.blob(path=tmp_path / "notes.txt").read()
        rh.blob(rh.blob(name="clean:latest").fetch(), name="model").save().commit(aliases=["best"])

    clean(2)
    train(0.1)
    return tmp_path


EXPECTED = {
    ("~/raw:v1", "clean", "production"),
    ("clean", "~/clean:v1", None),
    ("~/clean:v1", "train", "latest"),
    ("train", "~/model:v1", None),
}


@pytest.fixture
def labels(chain):
    """The edges as they are called here."""
    names = {node.label: node.label.rpartition(".")[2] for node in rh.lineage("model")}
    return {(names[a], names[b], asked) for a, b, asked in tree(rh.lineage("model:best"))}


def test_chained_functions_give_the_whole_graph(chain, labels):
    """Alias asked for, version used, code, parameters; nothing was logged by hand."""
    assert labels == EXPECTED | {(f"file://{chain}/notes.txt".rpartition(".")[2], "train", None)}
    graph = rh.blob(name="model:v1").upstream()
    runs = {node.label.rpartition(".")[2]: node.data for node in graph.of_kind("run")}
    assert runs["clean"]["metadata"] == {"factor": 2}
    assert runs["train"]["metadata"] == {"rate": 0.1}
    assert runs["train"]["code"]["function"].endswith("train")
    assert runs["train"]["code"]["digest"].startswith("sha256:")
    (raw,) = [node for node in graph.of_kind("version") if node.label == "~/raw:v1"]
    assert raw.data["digest"] == rh.folder("raw").versions()[0].digest
    (external,) = graph.of_kind("external")
    assert external.data["url"] == f"file://{chain}/notes.txt"


def test_up_and_down_by_so_many_runs(chain):
    model, raw = rh.blob(name="model:v1"), rh.folder("raw:v1")
    assert {node.label for node in model.upstream(1).of_kind("version")} == {"~/model:v1", "~/clean:v1"}
    assert {node.label for node in model.upstream().of_kind("version")} == {"~/model:v1", "~/clean:v1", "~/raw:v1"}
    assert {node.label for node in raw.downstream(1).of_kind("version")} == {"~/raw:v1", "~/clean:v1"}
    assert {node.label for node in raw.downstream().of_kind("version")} == {"~/model:v1", "~/clean:v1", "~/raw:v1"}
    assert len(model.upstream(0)) == len(model.downstream()) == 1
    version = rh.blob(name="clean").versions()[0]
    assert tree(version.upstream()) | tree(version.downstream()) == tree(rh.lineage(version))
    assert [ref.name.rpartition(".")[2] for ref in raw.used_by()] == ["clean"]
    assert rh.folder("raw:v2").used_by() == []
    assert rh.folder("raw:v2").produced_by is None
    assert len(rh.lineage("raw:v2", up=0)) == 1


def test_between_two(chain):
    graph = rh.lineage("raw:v1", "model")
    assert {node.label.rpartition(".")[2] for node in graph} == {node for edge in EXPECTED for node in edge[:2]}
    assert tree(rh.lineage("model", "raw:v1")) == tree(graph)
    apart = rh.lineage("raw:v2", "model")
    assert not apart.edges
    with pytest.raises(errors.InvalidError, match="up="):
        rh.lineage("raw", "model", up=1)


def test_what_lineage_takes(chain):
    run = rh.runs()[0]
    whole = tree(rh.lineage("model"))
    for what in ("rh://model", rh.blob(name="model"), rh.blob(name="model:best"), run, run.id, run.ref):
        assert tree(rh.lineage(what)) == whole
    assert tree(rh.lineage(f"file://{chain}/notes.txt")) < whole
    assert tree(run.upstream()) | tree(run.downstream()) == whole
    assert tree(rh.lineage(rh.blob(path=chain / "notes.txt"))) < whole
    for wrong, error in (
        ("modl", errors.NotFoundError),
        ("model:v9", errors.NotFoundError),
        ("20000101-000000-000000000000", errors.NotFoundError),
        (3, errors.InvalidError),
        (rh.here, errors.InvalidError),
    ):
        with pytest.raises(error):
            rh.lineage(wrong)


def test_live_data_connect_runs(here):
    shared = here.save("shared")
    with rh.run("writer"):
        shared.put({"sub/x": b"1"})
    with rh.run("reader"):
        (shared / "sub").get("x")
        rh.blob(b"out", name="out").save().commit()
    graph = rh.blob(name="out").upstream()
    assert {node.label for node in graph} == {"~/out:v1", "reader", "~/shared", "writer"}
    assert tree(rh.lineage("shared")) == tree(rh.lineage("out"))


def test_circles_end(here):
    """A run that reads and writes the same live data."""
    shared = here.save("shared")
    shared.put({"x": b"0"})
    for _ in range(3):
        with rh.run("step"):
            shared.put({"x": shared.get("x") + b"1"}, overwrite=True)
    graph = rh.lineage("shared")
    assert len(graph.of_kind("run")) == 3
    assert len(graph.edges) == 6
    ET.fromstring(graph.svg())


def test_a_graph_that_is_too_large_says_so(here, monkeypatch):
    monkeypatch.setattr(lineage, "MAX_NODES", 5)
    shared = here.save("shared")
    for number in range(4):
        with rh.run("step"):
            rh.blob(name=f"b{number - 1}:v1").fetch() if number else shared.put({"x": b"0"})
            rh.blob(number, name=f"b{number}").save().commit()
    graph = rh.lineage("b3")
    assert not graph.complete
    assert 4 < len(graph) < 9
    assert str(graph).endswith("(there is more than is shown)")


def test_a_forgotten_run_leaves_the_version_that_names_it(chain):
    model = rh.blob(name="model:v1")
    run = rh.load_run(model.produced_by)
    run.forget()
    graph = model.upstream()
    assert [(node.kind, node.data) for node in graph if node.kind == "run"] == [("run", {"run": run.id})]
    assert len(graph) == 2
    ET.fromstring(graph.svg())


def test_teammates_see_each_others_runs(tmp_path, monkeypatch, python):
    """Runs and what they used are in the shared registry; what is local to a machine stays findable there."""
    monkeypatch.setenv("RH_REGISTRY", f"sqlite://{tmp_path}/team.db")
    data = rh.folder(name="/team/data", path=tmp_path / "data").mkdir().save()
    data.put({"x": b"1"})
    data.commit()
    mine = rh.blob(b"mine", name="~/mine").save()
    mine.commit()
    with rh.run("mine") as r:
        data.at().get("x")
        mine.at().read()
    assert mine.used_by() == [r.ref]
    out = python("import rh; print(rh.folder('/team/data:v1').used_by()[0].name, rh.runs()[0].name)",
                 RH_HOME=str(tmp_path / "other"))  # fmt: skip
    assert out == "mine mine\n"


# As something else.


def test_as_plain_values(chain):
    graph = rh.lineage("model")
    told = json.loads(json.dumps(graph.as_dict()))
    assert told["complete"] is True
    assert {edge["asked"] for edge in told["edges"]} == {"production", "latest", None}
    assert {node["kind"] for node in told["nodes"]} == {"version", "run", "external"}
    text = str(graph)
    assert "  read  ~/raw:v1 (as production)\n" in text
    assert text.index("clean ") < text.index("train ")


FACETS = {"type": "object", "additionalProperties": {"type": "object", "required": ["_producer", "_schemaURL"]}}
DATASETS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["namespace", "name"],
        "properties": {"namespace": {"type": "string"}, "name": {"type": "string", "minLength": 1}, "facets": FACETS},
    },
}
RUN_EVENT = {
    "type": "object",
    "required": ["eventTime", "producer", "schemaURL", "run", "job", "eventType"],
    "properties": {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "eventTime": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"},
        "producer": {"type": "string", "pattern": "^https://"},
        "schemaURL": {"type": "string", "pattern": r"^https://openlineage\.io/spec/"},
        "run": {
            "type": "object",
            "required": ["runId"],
            "properties": {
                "runId": {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
                "facets": FACETS,
            },
        },
        "job": {
            "type": "object",
            "required": ["namespace", "name"],
            "properties": {"namespace": {"type": "string"}, "name": {"type": "string"}, "facets": FACETS},
        },
        "inputs": DATASETS,
        "outputs": DATASETS,
    },
}
"""The run event of the OpenLineage standard, in our words."""


def test_openlineage(chain):
    def outer():
        with rh.run("inner"):
            rh.blob(name="model:best").fetch()
        rh.blob(name="model:best").fetch()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        rh.run("outer")(outer)()
    events = rh.lineage("model").openlineage()
    for event in events:
        jsonschema.validate(event, RUN_EVENT)
    jobs = [event["job"]["name"].rpartition(".")[2] for event in events]
    assert jobs == ["clean", "train", "outer", "inner"]
    assert [event["eventType"] for event in events] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    clean, _, outer, inner = events
    assert clean["inputs"][0]["name"] == "~/raw"
    assert clean["inputs"][0]["facets"]["version"]["datasetVersion"] == "v1"
    assert clean["run"]["facets"]["rh_run"]["parameters"] == {"factor": 2}
    assert outer["run"]["facets"]["errorMessage"]["message"] == "ValueError: no"
    assert inner["run"]["facets"]["parent"]["run"]["runId"] == outer["run"]["runId"]
    assert inner["run"]["facets"]["parent"]["job"]["name"] == "outer"


def test_dot(chain):
    dot = rh.lineage("model").dot()
    assert dot.startswith("digraph lineage {")
    assert '[label="production"]' in dot
    assert dot.count(" -> ") == 5


# The drawing.


def boxes(svg):
    """Where each label's box is: left, top, right, bottom."""
    found = {}
    for group in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}g"):
        rect = group.find("{http://www.w3.org/2000/svg}rect").attrib
        x, y = float(rect["x"]), float(rect["y"])
        title = group.find("{http://www.w3.org/2000/svg}title").text.splitlines()[0]
        found[title] = (x, y, x + float(rect["width"]), y + float(rect["height"]))
    return found


def test_the_drawing_goes_from_left_to_right(chain):
    graph = rh.lineage("model")
    svg = graph.svg()
    assert svg == rh.lineage("model").svg() == graph._repr_svg_()
    place = boxes(svg)
    assert len(place) == len(graph)
    for edge in graph.edges:
        assert place[graph.nodes[edge.source].label][2] < place[graph.nodes[edge.target].label][0]
    assert svg.count("marker-end") == len(graph.edges)
    assert ">production</text>" in svg
    assert "factor=2" in svg
    size = [float(number) for number in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()]
    assert all(min(x0, y0) >= 0 and x1 <= size[0] and y1 <= size[1] for x0, y0, x1, y1 in place.values())


def test_names_are_escaped():
    graph = Graph()
    name = "</text><script>alert('x')</script>&\"\x1b[31m\udcff"
    graph.add(Node("run:1", "run", name, {"run": "1", "metadata": {"a": "<b>"}}))
    graph.add(Node("external:2", "external", "]]>" + "x" * 5000, {"url": name}))
    graph.link(Edge("external:2", "run:1", name))
    svg = graph.svg()
    root = ET.fromstring(svg)
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {
        "svg", "title", "style", "defs", "marker", "path", "rect", "text", "g",
    }  # fmt: skip
    assert "\x1b" not in svg
    assert len(svg) < 6_000
    svg.encode()
    graph.dot().encode()
    assert graph.dot().count("\n") == 6


def test_nothing_and_circles_are_drawn():
    assert ET.fromstring(Graph().svg()) is not None
    graph = Graph()
    for key in "abc":
        graph.add(Node(key, "run", key, {"run": key}))
    for a, b in ("ab", "bc", "ca", "aa"):
        graph.link(Edge(a, b))
    assert len(boxes(graph.svg())) == 3


def test_no_boxes_overlap():
    """A wide graph with edges over several layers."""
    graph = Graph()
    for number in range(60):
        graph.add(Node(f"n{number}", "version" if number % 2 else "run", f"n{number}", {"run": str(number)}))
    for number in range(60):
        for step in (1, 7, 13):
            if number + step < 60 and (number * step) % 3:
                graph.link(Edge(f"n{number}", f"n{number + step}"))
    place = list(boxes(graph.svg()).values())
    assert len(place) == 60
    for n, (x0, y0, x1, y1) in enumerate(place):
        for a0, b0, a1, b1 in place[:n]:
            assert x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0


def chained(number):
    """A chain of so many runs, each of which also read the first version."""
    graph = Graph()
    for n in range(number):
        graph.add(Node(f"run:{n:06}", "run", f"r{n}", {"run": str(n)}))
        graph.add(Node(f"version:s/{n}", "version", f"v{n}", {"name": "n", "version": n}))
        graph.link(Edge(f"run:{n:06}", f"version:s/{n}"))
        graph.link(Edge("version:s/0", f"run:{n:06}"))
        if n:
            graph.link(Edge(f"version:s/{n - 1}", f"run:{n:06}"))
    return graph


@pytest.mark.slow
def test_a_large_graph_is_told_and_not_drawn():
    assert len(boxes(chained(30).svg())) == 60
    for number in (200, 20_000):
        graph = chained(number)
        svg = graph.svg()
        assert boxes(svg) == {}
        assert f"{2 * number:,} nodes" in svg
        assert "too many to be drawn" in svg
    assert len(graph.openlineage()) == 20_000
    assert str(graph).count("  made  ") == 20_000
    assert graph.sources("run:000007") == [edge for edge in graph.edges if edge.target == "run:000007"]
    assert graph.targets("version:s/0") == [edge for edge in graph.edges if edge.source == "version:s/0"]


@pytest.mark.parametrize("depth", [-1, True, 1.5, "1"])
def test_a_depth_that_is_none(tmp_path, depth):
    folder = rh.folder(name="counted", path=tmp_path / "counted").mkdir().save()
    folder.put({"a": b"1"})
    with rh.run("make") as run:
        version = folder.commit()
    for what in (folder, version, run):
        for way in (what.upstream, what.downstream):
            with pytest.raises(errors.InvalidError, match="no number of runs"):
                way(depth)
    with pytest.raises(errors.InvalidError, match="no number of runs"):
        rh.lineage("no-such-name", up=depth)
    assert len(run.upstream(0)) == 1
