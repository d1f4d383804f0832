"""One object for a folder, a table or a blob, wherever the data lives.

>>> import rh, tempfile
>>> folder = rh.folder(name="first-steps", path=tempfile.mkdtemp()).save()
>>> folder.put({"hello.txt": b"hello"})
>>> rh.folder("first-steps").ls(full_paths=False)
['hello.txt']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rh import config as config
    from rh import errors as errors
    from rh.api import (
        blob,
        cluster,
        create_dataset,
        current_folder,
        exists,
        find,
        folder,
        gc,
        lineage,
        load,
        load_run,
        register_system,
        resources,
        run,
        runs,
        set_folder,
        table,
        unset_folder,
    )
    from rh.registry.filters import F as F
    from rh.resources.blob import Blob
    from rh.resources.cluster import Cluster
    from rh.resources.folder import Folder
    from rh.resources.table import Table
    from rh.types import Location

    here: Cluster
    __version__: str

__all__ = [
    "Blob",
    "Cluster",
    "F",
    "Folder",
    "Location",
    "Table",
    "__version__",
    "blob",
    "cluster",
    "config",
    "create_dataset",
    "current_folder",
    "errors",
    "exists",
    "find",
    "folder",
    "gc",
    "here",
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

_WHERE = {
    "Blob": "rh.resources.blob",
    "Cluster": "rh.resources.cluster",
    "F": "rh.registry.filters",
    "Folder": "rh.resources.folder",
    "Location": "rh.types",
    "Table": "rh.resources.table",
}
_MODULES = ("config", "errors", "resources")


def __getattr__(name: str) -> Any:
    """What `rh` has is imported when it is first asked for, so that `import rh` costs nothing."""
    import importlib

    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("rh-data")
        except PackageNotFoundError:
            value = "0+unknown"
    elif name == "here":
        from rh.resources.cluster import here

        value = here()
    elif name in _MODULES:
        value = importlib.import_module(f"rh.{name}")
    elif name in __all__:
        value = getattr(importlib.import_module(_WHERE.get(name, "rh.api")), name)
    else:
        raise AttributeError(f"module 'rh' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
