"""What has a name and a place: `Folder`, `Blob`, `Cluster`. Frozen values; the verbs on them do the work."""

from __future__ import annotations

import sys
from types import ModuleType

from rh.registry.lineage import recording
from rh.resources.base import KINDS, Resource, exists, load
from rh.resources.blob import Blob
from rh.resources.cluster import Cluster
from rh.resources.folder import Folder
from rh.resources.records import list_names

__all__ = ["KINDS", "Blob", "Cluster", "Folder", "Resource", "exists", "list_names", "load"]


def _attach(run: str) -> recording.Recorder | None:
    from rh.resources.runs.recording import attach

    return attach(run)


recording.inherit(_attach)


class _Callable(ModuleType):
    """Python makes this package an attribute of `rh`, where the function of the same name is public: so it is both."""

    def __call__(self, prefix: str | None = None) -> list[str]:
        """The whole names of what is saved in a folder of names, in order (`rh.api.resources`)."""
        return list_names(prefix)


sys.modules[__name__].__class__ = _Callable
