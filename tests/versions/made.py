"""Stores on every system, and trees made by hand, for the tests of the store."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from rh import config, digest
from rh.systems import locate, open_system
from rh.systems.abilities import Item
from rh.systems.memory import MemorySystem
from rh.types import Location
from rh.versions.nodes import Child, Node, link_where
from rh.versions.packs import Writer
from rh.versions.store import Store, Tree, place_of

KINDS = ("memory", "file", "s3", "moto", "gs", "azure", "ssh-a")


def store_on(kind: str, request: Any, tmp_path: Any) -> Store:
    """A fresh store on a system of this kind."""
    if kind == "memory":
        return Store.at(locate(f"memory://{secrets.token_hex(6)}/.rh-store"))
    if kind == "file":
        return Store.at(locate(tmp_path / "store"))
    if kind == "moto":
        server = request.getfixturevalue("moto_server")
        config.register("moto", server.settings(root=f"s3://{server.buckets[0]}/{secrets.token_hex(6)}"))
        return Store.at(place_of(locate("data", "moto")))
    world = request.getfixturevalue("world")
    if kind == "ssh-a":
        return Store.at(locate(f"{world[kind]}/store"))
    return Store.at(place_of(locate(f"{world[kind]}/data")))


def source_of(files: Mapping[str, bytes]) -> MemorySystem:
    """Files in memory, as a place to store from."""
    system = MemorySystem.open(Location("memory", f"{secrets.token_hex(6)}/src"), {"kind": "memory"})
    assert not [outcome for outcome in system.write_many(Item(*item) for item in files.items()) if outcome.error]
    return system


def build(
    writer: Writer,
    files: Mapping[str, bytes],
    links: Mapping[str, str] | None = None,
    voids: tuple[str, ...] = (),
    executable: frozenset[str] = frozenset(),
) -> Node:
    """The root node of a tree of these files, whose contents and other nodes are stored."""
    source = source_of(files)
    where = {one.entry.key: one for one in writer.add(source, ((entry, None) for entry in source.list()))}
    where |= {key: writer.put(data) for key, data in files.items() if key not in where}  # hidden ones are not listed
    top: dict[str, Any] = {}

    def folder(parts: list[str]) -> dict[str, Any]:
        at = top
        for part in parts:
            at = at.setdefault(part + "/", {})
        return at

    def put(key: str, child: Child) -> None:
        *above, name = key.split("/")
        folder(above)[name] = child

    for key, data in files.items():
        name = key.rpartition("/")[2].encode("utf-8", "surrogateescape")
        put(key, Child("file", name, len(data), where[key].digest, key in executable, where[key].where))
    for key, target in (links or {}).items():
        raw = target.encode()
        name = key.rpartition("/")[2].encode()
        put(key, Child("link", name, len(raw), digest.of_bytes(raw).text, executable=False, where=link_where(raw)))
    for key in voids:
        folder(key.rstrip("/").split("/"))

    def node(members: dict[str, Any]) -> Node:
        children = []
        for name, member in members.items():
            if isinstance(member, Child):
                children.append(member)
            else:
                below = node(member)
                place = writer.node(below)
                raw = name[:-1].encode("utf-8", "surrogateescape")
                children.append(Child("dir", raw, below.size, below.digest, executable=False, where=place))
        return Node.of(children)

    return node(top)


def commit(store: Store, files: Mapping[str, bytes], **more: Any) -> Tree:
    """A tree of these files in the store."""
    with store.lease() as lease, store.writer(lease=lease) as writer:
        return writer.finish(build(writer, files, **more))


def again(store: Store) -> Store:
    """The same store as another process would open it."""
    return Store(open_system(store.system.location))
