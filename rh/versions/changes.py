"""Changes of a version written down as plain JSON values, so that another process can make them.

    {"do": "hold", "path": …}       the digest of a tree that holds what follows
    {"do": "put", "path": …, "kind": "file", "size": …, "digest": …, "executable": …, "where": …}
    {"do": "remove", "path": …}
    {"do": "move", "path": …, "to": …}

Paths are percent-encoded; those of directories that are removed or moved end with `/`. `where` is the JSON text of a
place that `rh.versions.nodes` tells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from rh.errors import IntegrityError, InvalidError
from rh.versions.nodes import Child, Node

__all__ = ["Change"]

_SAFE = "/ !#$&'()*+,:;=?@[]{}|<>^`\"\\"


class Change(NamedTuple):
    """One change: `child` is what is put, `to` where something is moved to."""

    do: str
    path: str
    to: str = ""
    child: Child | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values. What is put must be in the store."""
        told: dict[str, Any] = {"do": self.do, "path": _quoted(self.path)}
        if self.do == "move":
            told["to"] = _quoted(self.to)
        if self.child is not None:
            kind, _, size, digest, executable, where = self.child
            told |= {"kind": kind, "size": size, "digest": digest, "executable": executable, "where": json.dumps(where)}
        return told

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Change:
        """The inverse of `as_dict`.

        Raises:
            InvalidError: it is no change.
        """
        try:
            do, path = str(told["do"]), unquote(told["path"], errors="surrogateescape")
            if do in ("remove", "hold"):
                return cls(do, path)
            if do == "move":
                return cls(do, path, unquote(told["to"], errors="surrogateescape"))
            if do != "put":
                raise ValueError(do)
            child = Child(
                told["kind"], b"x", int(told["size"]), str(told["digest"]), bool(told["executable"]),
                tuple(json.loads(told["where"])),
            )  # fmt: skip
            node = Node([child])
            Node.decode(node.encode(), node.digest, "")
            return cls(do, path, child=child)
        except (KeyError, TypeError, ValueError, IndexError, IntegrityError) as error:
            raise InvalidError(f"not a change of a version: {error!r}") from error


def _quoted(path: str) -> str:
    return quote(path, safe=_SAFE, errors="surrogateescape")
