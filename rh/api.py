"""The functions of `import rh`: create, load and find resources, resolve short names, register systems."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rh import config
from rh.errors import InvalidError
from rh.registry.documents import is_secret_field
from rh.registry.filters import Filter
from rh.registry.names import current_folder, set_folder, unset_folder
from rh.resources import base, records
from rh.resources.base import Resource
from rh.resources.blob import blob
from rh.resources.cluster import cluster
from rh.resources.datasets import create_dataset
from rh.resources.finding import Found
from rh.resources.folder import folder
from rh.resources.runs import load_run, runs
from rh.resources.runs.running import run
from rh.resources.runs.tracing import lineage
from rh.resources.sweeping import gc
from rh.resources.table import table
from rh.systems import BUILT_IN, HOSTS, check_settings

__all__ = [
    "blob",
    "cluster",
    "create_dataset",
    "current_folder",
    "exists",
    "find",
    "folder",
    "gc",
    "lineage",
    "load",
    "load_run",
    "register_system",
    "resources",
    "run",
    "runs",
    "set_folder",
    "table",
    "unset_folder",
]


def load(name: str, *, dryrun: bool = False) -> Resource:
    """Load a saved resource of any kind by its name: `x`, `/org/x:v3`, or either as a URL, `rh:///org/x:v3`.

    Args:
        name: the name, with or without a version.
        dryrun: return the saved resource even if its system is not known here.

    Raises:
        NotFoundError: nothing is saved under that name; the message suggests similar names.

    Example:
        >>> import rh
        >>> saved = rh.blob(b"x", name="docs-any").save()
        >>> type(rh.load("docs-any")).__name__
        'Blob'
    """
    return base.load(name, dryrun=dryrun)


def exists(name: str) -> bool:
    """Whether something is saved under a name. Does not check that its data exists (`exists_in_system` does)."""
    return base.exists(name)


def find(
    *,
    kind: str | Sequence[str] | None = None,
    name: str | None = None,
    tags: str | Sequence[str] = (),
    where: Filter | str | Mapping[str, Any] | None = None,
    produced_by: Any = None,
    created_after: Any = None,
    as_of: Any = None,
    prefix: str | None = "/",
    limit: int | None = None,
) -> Found:
    """Find saved resources and versions that match all conditions, newest first.

    Resources are returned as live handles, versions as handles on that version. Versions are searched only if `tags`,
    `where`, `produced_by` or `created_after` is given.

    Args:
        kind: `"folder"`, `"table"`, `"blob"`, `"cluster"`, `"view"`, or several.
        name: a pattern for full names, such as `"/org/*"`; a short one is relative to the current folder.
        tags: tags that it must have, all of them.
        where: a condition on metadata: `F.accuracy > 0.9`, the same as text, or `{"stage": "train"}`.
        produced_by: the run that produced the version, or its ID or name.
        created_after: only what was created after this time: an ISO date, a datetime, or seconds since the epoch.
        as_of: search the registry as it was at this time, given in the same way.
        prefix: only names below this prefix (`"~"`, `"@"`, `"/org/team"`); `None` is the current folder.
        limit: maximum number of results.

    Raises:
        InvalidError: `where` is not a valid condition, or names a property that nothing has; the message suggests
            similar ones.

    Example:
        >>> import rh, tempfile
        >>> model = rh.folder(name="docs-model", path=tempfile.mkdtemp()).save()
        >>> model.put({"weights": b"..."})
        >>> version = model.commit(metadata={"accuracy": 0.93}, tags=["nightly"])
        >>> rh.find(where=rh.F.accuracy > 0.9, tags=["nightly"])[0]
        <Folder ~/docs-model:v1>
    """
    from rh.resources import finding

    return finding.find(
        kind=kind, name=name, tags=tags, where=where, produced_by=produced_by, created_after=created_after, as_of=as_of,
        prefix=prefix, limit=limit,
    )  # fmt: skip


def resources(prefix: str | None = None) -> list[str]:
    """Full names of the resources saved below a prefix, sorted.

    Args:
        prefix: `"~"`, `"@"`, `"/org/team"`, a prefix relative to the current folder, or `"/"` for all; by default the
            current folder.
    """
    return records.list_names(prefix)


def register_system(
    name: str,
    *,
    kind: str | None = None,
    fsspec: str | None = None,
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> None:
    """Register a system under a name, for this process. To do so for all processes, use `~/.rh/config.toml`.

    Args:
        name: the name to use in `system=` and `name://…`.
        kind: the kind of system (`"s3"`, `"ssh"`, …), or the name of a plug-in.
        fsspec: an fsspec protocol, instead of `kind`; the package that implements it must be installed.
        options: options of the fsspec file system.
        settings: settings of that kind: `root`, `endpoint_url`, `profile`, `host`, …

    Raises:
        InvalidError: `kind` and `fsspec` are both missing or both given, the kind or a setting does not exist, or a
            setting is a secret; credentials stay where each platform keeps them.

    Example:
        >>> import rh
        >>> rh.register_system("scratch", fsspec="memory")
        >>> rh.folder(path="scratch://bucket/x").url
        'scratch://bucket/x'
    """
    if (
        not isinstance(name, str)
        or not name
        or not name.replace("-", "").replace("_", "").isalnum()
        or not name.isascii()
    ):
        raise InvalidError(f"not a name of a system: {name!r}", hint="letters, digits, '-' and '_'")
    if name in config.ALIASES or name == "file":
        raise InvalidError(f"{name!r} is this machine, or another word for a system that has its own name")
    if (kind is None) == (fsspec is None):
        raise InvalidError(
            "a system needs kind= or fsspec=", hint=f"kinds: {', '.join(sorted(BUILT_IN))}; or a plug-in's name"
        )
    for key in settings:
        if is_secret_field(key):
            raise InvalidError(
                f"{key!r} looks like a secret, and settings hold none",
                hint="credentials stay where the platform keeps them",
            )
    settings = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in settings.items()}
    if fsspec is not None:
        config.register(name, {"kind": "fsspec", "protocol": fsspec, "options": dict(options or {}), **settings})
    elif options:
        raise InvalidError("options= is for fsspec=", hint="give settings as keyword arguments")
    else:
        check_settings(name, {"kind": kind, **settings})
        # By that name what is on a host is looked for again, also when the host has another address by then.
        config.register(name, {"kind": kind, **settings, "cluster": name if kind in HOSTS else None})
