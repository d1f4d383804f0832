"""What ran, and in which surroundings: the code of a run, its commit, Python and the packages there are."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import platform
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

__all__ = ["code_in", "code_of", "environment"]

GIT_S = 5.0
"""How long Git may take for one answer; without it the run is recorded without a commit."""
_PIECE = 1 << 20

_MAIN = (
    "numpy", "pandas", "polars", "pyarrow", "duckdb", "dask", "ray", "datasets", "torch", "tensorflow", "jax",
    "transformers", "lightning", "scikit-learn", "xgboost", "lightgbm", "scipy", "boto3", "google-cloud-storage",
)  # fmt: skip
"""Packages whose versions are told by name; all others are in the digest."""


def code_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The code of a function: its qualified name, file, the digest of its source, and the commit."""
    plain = inspect.unwrap(function)
    code = getattr(plain, "__code__", None)
    name = f"{getattr(plain, '__module__', '?')}.{getattr(plain, '__qualname__', type(plain).__name__)}"
    return _described(name, code if isinstance(code, CodeType) else None)


def code_in(module: str, code: CodeType) -> dict[str, Any]:
    """The code of a function in a module, or of the module as a whole."""
    inner = code.co_qualname
    return _described(module if inner == "<module>" else f"{module}.{inner}", code)


def _described(name: str, code: CodeType | None) -> dict[str, Any]:
    found: dict[str, Any] = {"function": name}
    if code is None:
        return found
    try:
        source = inspect.getsource(code)
    except (OSError, TypeError, SyntaxError, IndexError):
        source = None  # typed in, or the file is gone
    if source is not None:
        found["digest"] = "sha256:" + hashlib.sha256(source.encode("utf-8", "backslashreplace")).hexdigest()
    path = Path(code.co_filename)
    there = path.is_file()
    if there:
        found["file"] = os.fsencode(path.absolute()).decode("utf-8", "backslashreplace")
    commit = git(path.absolute().parent if there else Path.cwd())
    if commit is not None:
        found["git"] = commit
    return found


# Git.


def git(folder: Path) -> dict[str, Any] | None:
    """The commit that a directory is at, and the digest of what differs from it; `None` outside a repository.

    Nothing that the repository configures is run, and nothing in it is changed. Files that Git does not know do not
    count as a difference.
    """
    if not any((above / ".git").exists() for above in (folder, *folder.parents)):
        return None
    commit = _git(folder, "rev-parse", "--verify", "HEAD", whole=True)
    if commit is None:
        return None
    changes = _git(folder, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "--binary", "HEAD", "--", ":/")
    if changes is None:
        return {"commit": commit, "dirty": "unknown"}
    return {"commit": commit, "dirty": changes or None}


def _git(folder: Path, *words: str, whole: bool = False) -> str | None:
    """What Git says: the `whole` text, or its digest (`""` for nothing); `None` if it fails or takes too long."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C", str(folder), *words]
    digest, size, text = hashlib.sha256(), 0, b""
    try:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        ) as running:
            watchdog = threading.Timer(GIT_S, running.kill)
            watchdog.daemon = True
            watchdog.start()
            try:
                assert running.stdout is not None
                while piece := running.stdout.read(_PIECE):
                    digest.update(piece)
                    size += len(piece)
                    text = text or piece
                code = running.wait()
            finally:
                watchdog.cancel()
    except OSError:
        return None  # there is no Git here
    if code != 0:
        return None
    if whole:
        return text.decode("ascii", "replace").strip()
    return f"sha256:{digest.hexdigest()}" if size else ""


# The surroundings.


@functools.cache
def environment() -> dict[str, Any]:
    """Python, the machine, and what is installed. Looked up once per process."""
    from importlib.metadata import distributions

    installed: dict[str, str] = {}
    for one in distributions():
        name = one.metadata["Name"]
        if name:
            installed.setdefault(str(name).lower().replace("_", "-"), str(one.version))
    lines = "".join(f"{name}=={version}\n" for name, version in sorted(installed.items()))
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "rh": installed.get("rh-data", "0+unknown"),
        "packages": len(installed),
        "digest": "sha256:" + hashlib.sha256(lines.encode()).hexdigest(),
        "main": {name: installed[name] for name in _MAIN if name in installed},
    }
