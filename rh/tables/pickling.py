"""A table for another process: its place, or where that is this process's memory, its files' bytes as well."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import NamedTuple
from uuid import uuid4

from rh.systems import open_system
from rh.systems.base import System
from rh.systems.memory import forget
from rh.tables.base import Snapshot
from rh.types import Location

__all__ = ["Packed", "packed"]


class Packed(NamedTuple):
    """What is pickled of a table that is open.

    Attributes:
        location: its place.
        files: their bytes by key, of a table in memory, which nobody else can read; else `None`.
    """

    location: Location
    files: dict[str, bytes] | None

    def opened(self, snapshot: Snapshot) -> tuple[System, Snapshot]:
        """The table where this was unpickled; one in memory is a copy, and gone with the system that is returned."""
        if self.files is None:
            return open_system(self.location), snapshot
        store = f"rh-table-{uuid4().hex}"
        system = open_system(Location("memory", store))
        weakref.finalize(system, forget, store)
        etags = {key: system.write(key, data).etag for key, data in self.files.items()}
        files = tuple(file._replace(etag=etags[file.key]) for file in snapshot.files)
        return system, replace(snapshot, files=files)


def packed(system: System, snapshot: Snapshot) -> Packed:
    """A table to be pickled. Of one in memory, all of its files are read."""
    if system.location.system != "memory":
        return Packed(system.location, None)
    files = {}
    for file in snapshot.files:
        with system.read(file.key) as body:
            files[file.key] = bytes(body.read())
    return Packed(system.location, files)
