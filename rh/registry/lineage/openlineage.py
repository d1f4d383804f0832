"""A graph as run events of the OpenLineage standard (openlineage.io), for the tools that collect them."""

from __future__ import annotations

import datetime
import socket
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from rh.registry.lineage.graph import Graph, Node

__all__ = ["events"]

_SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets/"
_PRODUCER = "https://pypi.org/project/rh-data/"
_STATES = {"done": "COMPLETE", "failed": "FAIL", "cancelled": "ABORT", "running": "START"}


def events(graph: Graph) -> list[dict[str, Any]]:
    """One event for each run, in the order in which they began: complete, failed, aborted or started."""
    return [_event(graph, node) for node in sorted(graph.of_kind("run"), key=lambda node: node.id)]


def _event(graph: Graph, node: Node) -> dict[str, Any]:
    data = node.data
    moment = data.get("ended") or data.get("started") or 0.0
    facets: dict[str, Any] = {"rh_run": _facet("rh", run=data["run"], parameters=data.get("metadata") or {})}
    parent = data.get("parent")
    if parent:
        name = str((graph.nodes[f"run:{parent}"].label) if f"run:{parent}" in graph.nodes else parent)
        facets["parent"] = _facet(
            "1-1-0/ParentRunFacet.json#/$defs/ParentRunFacet",
            run={"runId": _uuid(str(parent))},
            job={"namespace": _namespace(data), "name": name},
        )
    if data.get("error"):
        facets["errorMessage"] = _facet(
            "1-0-1/ErrorMessageRunFacet.json#/$defs/ErrorMessageRunFacet",
            message=f"{data['error'].get('type')}: {data['error'].get('message')}",
            programmingLanguage="Python",
        )
    code = data.get("code") or {}
    return {
        "eventType": _STATES.get(str(data.get("status")), "OTHER"),
        "eventTime": _time(moment),
        "run": {"runId": _uuid(str(data["run"])), "facets": facets},
        "job": {
            "namespace": _namespace(data),
            "name": node.label,
            "facets": {"rh_code": _facet("rh", **code)} if code else {},
        },
        "inputs": [_dataset(graph.nodes[edge.source]) for edge in graph.sources(node.id)],
        "outputs": [_dataset(graph.nodes[edge.target]) for edge in graph.targets(node.id)],
        "producer": _PRODUCER,
        "schemaURL": _SPEC,
    }


def _dataset(node: Node) -> dict[str, Any]:
    if node.kind == "version":
        namespace, name = "rh", str(node.data.get("name"))
        version = _facet(
            "1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet",
            datasetVersion=f"v{node.data['version']}",
        )
        return {
            "namespace": namespace,
            "name": name,
            "facets": {"version": version, "rh_version": _facet("rh", digest=node.data.get("digest"))},
        }
    url = str(node.data.get("url", node.label))
    scheme, mark, rest = url.partition("://")
    place, _, path = rest.partition("/")
    namespace = f"{scheme}://{place}" if mark else "rh"
    return {"namespace": namespace, "name": (path if mark else url) or "/", "facets": {}}


def _facet(schema: str, **fields: Any) -> dict[str, Any]:
    url = _PRODUCER if schema == "rh" else _FACETS + schema
    return {"_producer": _PRODUCER, "_schemaURL": url, **fields}


def _namespace(data: Mapping[str, Any]) -> str:
    return f"rh://{quote(str(data.get('host') or socket.gethostname()), safe='.-_')}"


def _uuid(run: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"rh:run:{run}"))


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()
