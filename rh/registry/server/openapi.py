"""The description of the API (OpenAPI 3.1), made of the table of endpoints."""

from __future__ import annotations

import re
from typing import Any

from rh.registry.http.wire import PROTOCOL
from rh.registry.server.endpoints import ENDPOINTS, Endpoint

__all__ = ["describe"]


def describe(url: str | None) -> dict[str, Any]:
    """The document. `url` is where the server is to be reached."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    for path, what in (("/health", "The server is up."), ("/ready", "The registry behind it answers.")):
        paths[path] = {"get": {"summary": what, "security": [], "responses": {"200": {"description": "it is"}}}}
    paths["/metrics"] = {"get": {"summary": "Counts, as Prometheus reads them.", "responses": _responses()}}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "rh registry", "version": str(PROTOCOL)},
        "security": [{"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": {
                    "type": "object",
                    "properties": {
                        "error": {
                            "type": "object",
                            "properties": {
                                **{name: {"type": "string"} for name in ("kind", "message", "hint", "request")},
                                "behind": {"type": "boolean"},
                            },
                        }
                    },
                }
            },
        },
        "paths": paths,
    }
    if url:
        document["servers"] = [{"url": url}]
    return document


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "responses": _responses(),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", endpoint.path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": what, "schema": {"type": "string"}}
        for name, what in (endpoint.query or {}).items()
    ]
    if parameters:
        told["parameters"] = parameters
    if endpoint.body:
        told["requestBody"] = {
            "content": {"application/json": {"schema": {"type": "object", "properties": _fields(endpoint)}}}
        }
    if endpoint.access == "public":
        told["security"] = [{}, {"token": []}]
    return told


def _fields(endpoint: Endpoint) -> dict[str, Any]:
    fields = {}
    for name, what in (endpoint.body or {}).items():
        kind, _, description = what.partition(": ")
        fields[name] = {"type": kind} | ({"description": description} if description else {})
    return fields


def _responses() -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "200": {"description": "done", "content": {"application/json": {}}},
        "4XX": {"description": "refused", "content": error},
        "5XX": {"description": "failed", "content": error},
    }
