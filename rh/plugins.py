"""How third parties add to `rh`: entry points, looked up late.

Groups: `rh.systems` (name → `System` subclass). A plug-in is loaded when its name is first asked for,
so an installed but broken one hurts nobody who does not use it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from rh.errors import InvalidError, MissingExtraError, UnsupportedError
from rh.forks import imports

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["EXTRAS", "load", "names", "need"]

DISTRIBUTION = "rh-data"

EXTRAS: Mapping[str, str] = {
    "boto3": "s3",
    "botocore": "s3",
    "google.cloud.storage": "gcs",
    "google.auth": "gcs",
    "google.oauth2": "gcs",
    "google.api_core": "gcs",
    "google_crc32c": "gcs",
    "azure.storage.blob": "azure",
    "azure.identity": "azure",
    "azure.core": "azure",
    "paramiko": "ssh",
    "dulwich": "git",
    "urllib3": "http",
    "fsspec": "fsspec",
    "numpy": "npy",
    "pyarrow": "tables",
    "pyfastcdc": "chunks",
    "safetensors": "safetensors",
    "pandas": "pandas",
    "polars": "polars",
    "dask": "dask",
    "distributed": "dask",
    "ray": "ray",
    "datasets": "hf",
    "torch": "torch",
    "duckdb": "sql",
    "psycopg": "pg",
    "starlette": "server",
    "uvicorn": "server",
    "anyio": "server",
    "adbc_driver_manager": "sql",
    "adbc_driver_postgresql": "sql",
    "adbc_driver_sqlite": "sql",
    "adbc_driver_snowflake": "snowflake",
    "adbc_driver_bigquery": "bigquery",
    "kubernetes": "k8s",
    "mfusepy": "mount",
}
"""Which extra brings which module."""


_loaded: dict[str, Any] = {}
"""What was imported whole. `need` stands on hot paths, and the import machinery costs microseconds."""


def need(module: str, *, extra: str | None = None, purpose: str | None = None) -> Any:
    """Import an optional package, or raise `MissingExtraError` with the line that installs it."""
    loaded = _loaded.get(module)
    if loaded is not None:
        return loaded
    try:
        with imports:  # a child forked halfway would wait for this import for ever
            loaded = _loaded[module] = importlib.import_module(module)
        return loaded
    except ImportError as error:
        what = f" for {purpose}" if purpose else ""
        missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        why = (
            "is not installed; it is" if missing else f"cannot be imported ({str(error).partition(chr(10))[0]}); it is"
        )
        raise MissingExtraError(
            f"{module} {why} needed{what}", hint=f'pip install "{DISTRIBUTION}[{extra or _extra(module)}]"'
        ) from error


def _extra(module: str) -> str:
    """The extra that brings a module, or a package that it is in."""
    above = module
    while above not in EXTRAS and "." in above:
        above = above.rpartition(".")[0]
    return EXTRAS.get(above, module)


@cache
def _points(group: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # takes 20 ms, and most programs use no plug-in

    return {point.name: point for point in entry_points(group=group)}


def names(group: str) -> list[str]:
    """Names registered under a group by installed distributions."""
    return sorted(_points(group))


def load(group: str, name: str) -> Any:
    """The object an entry point names.

    Raises:
        InvalidError: there is none of that name; with the names there are.
        UnsupportedError: it is there, and importing it fails.
    """
    point = _points(group).get(name)
    if point is None:
        raise InvalidError(
            f"no {group} plug-in is called {name!r}", hint=f"installed: {', '.join(names(group)) or 'none'}"
        )
    try:
        with imports:
            return point.load()
    except Exception as error:
        raise UnsupportedError(
            f"the plug-in {name!r} cannot be loaded: {type(error).__name__}: {error}",
            where=point.value,
            hint=f"update or remove the package {point.dist.name}" if point.dist else None,
        ) from error
