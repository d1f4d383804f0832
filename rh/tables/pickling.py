"""A table for another process: how its place is reached, or where that is memory of this process, its files' bytes."""

from __future__ import annotations

import hashlib
import os
import weakref
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self
from uuid import uuid4

from rh import config
from rh.errors import NotFoundError, UnsupportedError
from rh.systems import open_system, settings_of
from rh.systems.base import System
from rh.systems.memory import forget
from rh.tables.base import Snapshot
from rh.types import Location

__all__ = ["Packed", "Reach", "packed"]


@dataclass(frozen=True, slots=True)
class Reach:
    """A place, and what another process has to know to reach it: the settings of its system, which hold no secret.

    There, the worker's own credentials are used, and paths are paths of the worker's machine: a table in `file` needs a
    disk that all of them share.
    """

    location: Location
    settings: dict[str, Any] = field(repr=False)
    process: int

    @classmethod
    def of(cls, location: Location) -> Self:
        """How this process reaches a place."""
        return cls(location, settings_of(location.system), os.getpid())

    def here(self) -> Location:
        """The place as this process names it. A system that is not configured the same here gets a name beside its own.

        Raises:
            UnsupportedError: the place is the memory of another process.
        """
        name = self.location.system
        if self.settings["kind"] == "memory" and self.process != os.getpid():
            raise UnsupportedError(
                "the table is in the memory of another process, which its workers cannot reach",
                where=f"memory://{self.location.path}",
                hint="keep it on a disk or in a bucket that all of them see",
            )
        try:
            if "://" in name or settings_of(name) == self.settings:
                return self.location
        except NotFoundError:
            pass
        mark = hashlib.sha256(repr(sorted(self.settings.items())).encode()).hexdigest()[:12]
        beside = f"{name}-{mark}"
        if beside not in config.system_names():
            config.register(beside, {key: value for key, value in self.settings.items() if key != "name"})
        return replace(self.location, system=beside)


class Packed(NamedTuple):
    """What is pickled of a table that is open.

    Attributes:
        reach: its place.
        files: their bytes by key, of a table in memory, which nobody else can read; else `None`.
    """

    reach: Reach
    files: dict[str, bytes] | None

    def opened(self, snapshot: Snapshot) -> tuple[System, Snapshot]:
        """The table where this was unpickled; one in memory is a copy, and gone with the system that is returned."""
        if self.files is None:
            return open_system(self.reach.here()), snapshot
        store = f"rh-table-{uuid4().hex}"
        system = open_system(Location("memory", store))
        weakref.finalize(system, forget, store)
        etags = {key: system.write(key, data).etag for key, data in self.files.items()}
        files = tuple(file._replace(etag=etags[file.key]) for file in snapshot.files)
        return system, replace(snapshot, files=files)


def packed(system: System, snapshot: Snapshot) -> Packed:
    """A table to be pickled. Of one in memory, all of its files are read."""
    if system.location.system != "memory":
        return Packed(Reach.of(system.location), None)
    files = {}
    for file in snapshot.files:
        with system.read(file.key) as body:
            files[file.key] = bytes(body.read())
    return Packed(Reach.of(system.location), files)
