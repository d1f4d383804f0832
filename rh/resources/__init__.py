"""What has a name and a place: `Folder`, `Table`, `Blob`, `Cluster`. Frozen values; the verbs on them do the work.

The values:

* `base`: what every resource is: a named value that can be saved, loaded, renamed and forgotten.
* `folder`: `Folder`, a directory anywhere.
* `blob`: `Blob`, the bytes of one object or file.
* `table`: `Table`, rows and columns anywhere.
* `cluster`: `Cluster`, this machine or a host reached by SSH.
* `view`: `View`, the files of a folder that match a condition.
* `visible`: which methods and fields of a resource are public.
* `arguments`: what factories and verbs have in common: names, places, options.

Names and places:

* `places`: what `system=` and `path=` mean, default places, handles on systems.
* `places_saved`: `rh://name/path` as a place.
* `records`: records of saved resources in the registries.
* `finding`: `rh.find`.
* `nearest`: suggestions for a place that does not exist.
* `annotated`: tags and properties of resources, versions and files.
* `importing`: properties of many files, from a table.
* `sharing`: `share` and `revoke`, on a registry server.

Files of a folder:

* `files`: Python file objects for reading and writing.
* `match`: patterns of `Folder.glob`.
* `putting`: storing several things at once.
* `removing`: removing keys below a folder.

Blobs and tables:

* `codecs`: serializers of blobs.
* `rows`: what a table can be read as: batches, data frames, query results, a description.
* `table_files`: the files of a table as one set: copied, planned, verified.
* `table_writing`: `Table.write`.

Versions:

* `versioned`: commits, numbers, aliases and digests of any resource.
* `folder_versions`: what only folders have: drafts, uploads, differences.
* `comparing`: differences between two versions, as files.
* `draft`: drafts: changes of a version, committed as one.
* `named_draft`: drafts that several processes and machines share.
* `carried`: tags and properties that follow files in a draft.
* `datasets`: `rh.create_dataset`.
* `repairing`: `repair` of a version.
* `sweeping`: `rh.gc`.

Lineage:

* `runs`: `rh.run`, `rh.runs`, `rh.lineage`: recorded runs, their inputs and outputs.
"""

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
        """Full names of the resources saved below a prefix, sorted (`rh.api.resources`)."""
        return list_names(prefix)


sys.modules[__name__].__class__ = _Callable
