"""What the tests of commits and edits share: a root and a store on each kind of system, and what a version holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rh.systems import locate, memory, open_system
from rh.systems.base import System
from rh.types import Location
from rh.versions.store import NAME, Store, Tree
from rh.versions.system import TreeSystem, location_of

SYSTEMS = ["memory", "file", "ssh-a", "s3", "gs", "azure"]


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path) -> Iterator[None]:
    """What a test leaves in memory is let go of."""
    yield
    memory.forget(_memory(tmp_path))


def _memory(tmp_path: Path) -> str:
    return f"{tmp_path.parent.name}-{tmp_path.name}"


def place(kind: str, tmp_path: Path, name: str) -> Location:
    """A place of this test's own on a system."""
    if kind == "memory":
        return Location("memory", f"{_memory(tmp_path)}/{name}")
    return locate(str(tmp_path / name)) if kind == "file" else locate(name, kind)


def store_at(kind: str, tmp_path: Path) -> Store:
    return Store(open_system(place(kind, tmp_path, NAME)))


def opened(store: Store, tree: Tree | str) -> System:
    """A version as a system."""
    digest = tree if isinstance(tree, str) else tree.digest
    return TreeSystem(location_of(store.system.location, digest), {}, store)


def contents(store: Store, tree: Tree | str) -> dict[str, tuple[bytes, bool] | None]:
    """What a version holds, as `tests.transfer.trees.read` tells it; a link as the bytes of its target."""
    system = opened(store, tree)
    found: dict[str, tuple[bytes, bool] | None] = {}
    for entry in system.list():
        if entry.kind == "file":
            with system.read(entry.key) as body:
                found[entry.key] = body.read(), bool(entry.executable)
        else:
            found[entry.key] = ((entry.target or "").encode(), False) if entry.kind == "link" else None
    return found
