"""The functions of `import rh`: make resources, load them by name, choose where short names are, name systems."""

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
    """The resource of any kind that was saved under a name: `x`, `/org/x:v3`, or either as a URL, `rh:///org/x:v3`.

    Raises:
        NotFoundError: nothing has that name; the nearest names are in the message.

    Example:
        >>> import rh
        >>> saved = rh.blob(b"x", name="docs-any").save()
        >>> type(rh.load("docs-any")).__name__
        'Blob'
    """
    return base.load(name, dryrun=dryrun)


def exists(name: str) -> bool:
    """Whether something is saved under a name. Says nothing about its data (`exists_in_system` does)."""
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
    """Saved resources, and versions of them, of which all this holds; newest first.

    Resources come as they are live, versions as handles on them. Versions are looked at where `tags`, `where`,
    `produced_by` or `created_after` is given.

    Args:
        kind: `"folder"`, `"table"`, `"blob"`, `"cluster"`, `"view"`, or several.
        name: a pattern of whole names: `"/org/*"`; a short one is meant in the current folder.
        tags: all of them.
        where: a condition on the metadata: `F.accuracy > 0.9`, the same as text, or `{"stage": "train"}`.
        produced_by: a run, its id or its name.
        created_after: an ISO date, a datetime, or seconds since the epoch.
        as_of: the same: find what was recorded at that moment.
        prefix: names in this folder of names only (`"~"`, `"@"`, `"/org/team"`); `None` is the current one.
        limit: so many at most.

    Raises:
        InvalidError: `where` is no condition, or on a property that nothing has; the nearest are named.

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
    """The whole names of what is saved in a folder of names, in order.

    Args:
        prefix: `"~"`, `"@"`, `"/org/team"`, a folder below the current one, or `"/"` for all; by default the current
            folder.
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
    """Give a system a name for this process; `~/.rh/config.toml` does it for all.

    Args:
        name: what `system=` and `name://…` shall mean.
        kind: a kind of system (`"s3"`, `"ssh"`, …) or the name of a plug-in.
        fsspec: a protocol of fsspec instead: any file system that has a package for it.
        options: what fsspec's file system takes.
        settings: of that kind: `root`, `endpoint_url`, `profile`, `host`, …

    Raises:
        InvalidError: neither kind nor protocol is given, that kind does not exist or takes no such setting, or a
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
