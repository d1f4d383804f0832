"""Where a store is, and the keys of what is in it."""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from rh import config
from rh.digest import parse
from rh.errors import InvalidError, UnsupportedError
from rh.systems import BUCKETS, HOSTS, locate, open_system, settings_of
from rh.types import Location

__all__ = [
    "FORMAT",
    "NAME",
    "REDIRECTED",
    "REPAIR",
    "chunks_key",
    "hex_of",
    "moved_key",
    "node_key",
    "object_key",
    "pack_key",
    "place_of",
    "quoted",
    "ref_key",
    "tree_key",
]

FORMAT = 1
REDIRECTED = 2
"""The format of a store in which packs were written anew: who knows format 1 only would not find what was in them."""
NAME = ".rh-store"
_ELSEWHERE = re.compile(r"[^/:]+:[/~]")
"""How a URL begins, or a path on a named host."""
REPAIR = "rh version repair NAME writes it again, from the live files or another copy (--from PLACE)"
"""The fix of what the store has lost or damaged."""


def object_key(digest: str) -> str:
    """The key of a whole object. ValueError if that is no digest."""
    parse(digest)
    tag, _, value = digest.partition(":")
    return f"objects/{tag}/{value[:2]}/{value[2:]}"


def chunks_key(digest: str) -> str:
    """The key of the chunk digests of a chunked digest: their SHA-256 is its value, so they prove themselves."""
    return object_key(digest) + ".chunks"


def pack_key(name: str) -> str:
    """The key of a pack of files."""
    return f"packs/{name[:2]}/{name[2:]}"


def moved_key(name: str) -> str:
    """The key of what says where the members of a pack went."""
    return f"moved/{name[:2]}/{name[2:]}"


def node_key(name: str) -> str:
    """The key of a pack of nodes."""
    return f"nodes/{name[:2]}/{name[2:]}"


def tree_key(digest: str) -> str:
    """The key of the marker of a tree."""
    value = hex_of(digest)
    return f"trees/{value[:2]}/{value[2:]}"


def hex_of(digest: str) -> str:
    """The SHA-256 of a tree in hexadecimal. InvalidError if no tree has this digest."""
    try:
        _, chunk, value = parse(digest)
    except ValueError as error:
        raise InvalidError(str(error)) from None
    if chunk:
        raise InvalidError(f"no tree has the digest {digest!r}")
    return value


def place_of(location: Location) -> Location:
    """Where the store for data at `location` is. The data's system decides, and the setting `systems.<name>.store`.

    Raises:
        UnsupportedError: nothing can be written on that system.
    """
    settings = settings_of(location.system)
    kind, told = settings["kind"], settings.get("store")
    if told:
        return locate(str(told), None if _ELSEWHERE.match(str(told)) else location.system)
    if kind == "file":
        return Location(location.system, os.path.abspath(config.home() / "store"))
    if kind in HOSTS:
        return Location(location.system, "~/.rh/store")
    if kind in ("http", "git", "tree"):
        raise UnsupportedError(
            "versions cannot be stored on a system that is only read",
            where=open_system(location).url(),
            hint="copy the data somewhere else first: .to(…)",
        )
    first = location.path.lstrip("/").partition("/")[0]
    if kind in BUCKETS and settings.get("root"):
        root = locate(None, location.system).path
        if f"{location.path}/".startswith(f"{root}/"):
            return Location(location.system, root) / NAME
    return Location(location.system, f"{first}/{NAME}")


def quoted(series: str) -> str:
    """A series as one component of a key."""
    name = quote(series, safe="", errors="surrogateescape")
    if not name or name.startswith(".") or len(name) > 250:
        raise InvalidError(f"no series is called {series!r}")
    return name


def ref_key(series: str, tree: str) -> str:
    """The key that keeps a tree for a series."""
    return f"refs/{quoted(series)}/{hex_of(tree)}"
