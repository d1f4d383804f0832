"""What a registry's client and server say to each other: JSON for records, changes, steps and errors.

The number of the protocol is in every answer (the header `RH-Protocol`); it grows when an older client could be misled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rh import errors
from rh.errors import InvalidError, RhError
from rh.registry.accounts import Share
from rh.registry.base import Change, Delete, Put, Record, Rename, Step
from rh.types import ABSENT, ANY, Condition, Match

__all__ = [
    "PROTOCOL",
    "PROTOCOL_HEADER",
    "STATUS",
    "change_of",
    "encode",
    "error_of",
    "plain_step",
    "read_json",
    "record_of",
    "share_of",
    "step_of",
]

PROTOCOL = 1
PROTOCOL_HEADER = "rh-protocol"

STATUS: Mapping[str, int] = {
    "invalid": 400,
    "name_clash": 400,
    "immutable_version": 403,
    "unauthenticated": 401,
    "access": 403,
    "not_found": 404,
    "exists": 409,
    "conflict": 409,
    "unsupported": 501,
    "unavailable": 503,
    "deadline": 504,
    "full": 507,
}
"""The HTTP status of each kind of error; 500 for others."""

_CLASSES: Mapping[str, type[RhError]] = {
    found.kind: found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, RhError) and found.kind in STATUS
}


def encode(value: Any) -> bytes:
    """JSON. Named tuples go as objects."""
    return msgspec.json.encode(value)


def read_json(text: bytes) -> dict[str, Any]:
    """The JSON object in `text`. `ValueError` if it is none."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


_RECORD: dict[str, Any] = {"key": str, "revision": int, "document": dict, "author": str, "time": float | int}
_CHANGE: dict[str, Any] = _RECORD | {
    "document": dict | None,
    "action": str,
    "token": str,
    "moved": str | None,
}


def record_of(told: Any) -> Record:
    """The record that `Record._asdict` told.

    Raises:
        InvalidError: it is none.
    """
    _check(told, _RECORD, "record")
    return Record(*(told[field] for field in Record._fields))


def change_of(told: Any) -> Change:
    """The change that `Change._asdict` told.

    Raises:
        InvalidError: it is none.
    """
    _check(told, _CHANGE, "change")
    if told["action"] not in ("put", "delete") or (told["document"] is None) is (told["action"] == "put"):
        raise InvalidError("a change is a put with a document or a delete without")
    return Change(*(told[field] for field in Change._fields))


def share_of(told: Any) -> Share:
    """What a server told of a prefix.

    Raises:
        InvalidError: it told none.
    """
    _check(told, {"path": str, "public": bool, "roles": dict, "inherited": list | None}, "share")
    inherited = tuple(share_of(one) for one in told.get("inherited") or ())
    return Share(told["path"], told["public"], told["roles"], inherited)


def _check(told: Any, kinds: Mapping[str, Any], what: str) -> None:
    if not isinstance(told, Mapping) or any(not isinstance(told.get(name), kind) for name, kind in kinds.items()):
        raise InvalidError(f"not a {what} of a registry")


def plain_step(step: Step) -> dict[str, Any]:
    """A step of a commit as plain JSON."""
    when = {"match": step.when.etag} if isinstance(step.when, Match) else step.when.value
    told: dict[str, Any] = {"do": type(step).__name__.lower(), "key": step.key, "when": when}
    if isinstance(step, Put):
        told["document"] = step.document
    elif isinstance(step, Rename):
        told |= {"to": step.to, "replace": step.replace}
    return told


def step_of(told: Any) -> Step:
    """The inverse of `plain_step`.

    Raises:
        InvalidError: it is no step.
    """
    match told:
        case {"do": "put", "key": str(key), "document": dict(document), "when": when}:
            return Put(key, document, _condition(when))
        case {"do": "delete", "key": str(key), "when": when}:
            return Delete(key, _condition(when))
        case {"do": "rename", "key": str(key), "to": str(to), "replace": bool(replace), "when": when}:
            return Rename(key, to, _condition(when), replace)
    raise InvalidError("not a step of a commit", hint='{"do": "put", "key": …, "document": {…}, "when": "any"}')


def _condition(told: Any) -> Condition:
    match told:
        case "any":
            return ANY
        case "absent":
            return ABSENT
        case {"match": str(etag)}:
            return Match(etag)
    raise InvalidError("not a condition", hint='"any", "absent" or {"match": "3"}')


def error_of(told: Mapping[str, Any], status: int, where: str) -> RhError:
    """The error that a server told, as the class it was there."""
    kind = told.get("kind")
    found = _CLASSES.get(str(kind), RhError)
    hint = told.get("hint")
    return found(
        str(told.get("message") or f"the registry answered {status}"),
        where=where,
        hint=None if hint is None else str(hint),
    )
