"""Tables made from what this machine really has: the Debian package index, and the standard library's sources."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pyarrow as pa
from pyarrow import feather

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rh-tests"
"""Found when the module is imported, before tests get homes of their own."""

_CLAUSE = re.compile(r"([^\s:(]+)(?::\w+)?(?:\s*\(([<>=]+)\s*([^)]+)\))?")

_PACKAGES = pa.schema(
    [
        ("package", pa.string()),
        ("version", pa.string()),
        ("section", pa.string()),
        ("priority", pa.string()),
        ("architecture", pa.string()),
        ("maintainer", pa.string()),
        ("homepage", pa.string()),
        ("description", pa.string()),
        ("installed_size_kib", pa.int64()),
        ("size_bytes", pa.int64()),
        ("tags", pa.list_(pa.string())),
        (
            "depends",
            pa.list_(pa.struct([("name", pa.string()), ("relation", pa.string()), ("version", pa.string())])),
        ),
    ]
)


@cache
def packages() -> pa.Table:
    """One row per package that Debian offers (about 60,000), or that is installed where no index was fetched.

    Texts, numbers that may be missing, a list of tags and a list of dependencies, each a struct.
    """
    index = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=True).stdout
    if not index.strip():
        index = Path("/var/lib/dpkg/status").read_bytes()
    kept = _CACHE / f"packages-{hashlib.sha256(index + repr(_PACKAGES).encode()).hexdigest()[:16]}.arrow"
    if not kept.exists():
        table = pa.Table.from_pylist([_package(fields) for fields in _paragraphs(index.decode())], _PACKAGES)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as beside:  # others may be making the same at this moment
            made = Path(beside, kept.name)
            feather.write_feather(table, made, compression="uncompressed")
            made.rename(kept)
    return feather.read_table(kept)


@cache
def sources() -> pa.Table:
    """One row per file of the standard library: its path, its size in bytes and its text."""
    root = Path(sysconfig.get_paths()["stdlib"])
    rows = []
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.parts:
            data = path.read_bytes()
            rows.append(
                {"path": str(path.relative_to(root)), "size": len(data), "text": data.decode("utf-8", "replace")}
            )
    return pa.Table.from_pylist(rows, pa.schema([("path", pa.string()), ("size", pa.int64()), ("text", pa.string())]))


def _paragraphs(index: str) -> Iterator[dict[str, str]]:
    """The fields of each package, by name; continued lines are joined."""
    for paragraph in index.split("\n\n"):
        fields = dict(line.split(":", 1) for line in re.sub(r"\n[ \t]+", " ", paragraph).split("\n") if ":" in line)
        if "Package" in fields:
            yield {name: value.strip() for name, value in fields.items()}


def _package(fields: dict[str, str]) -> dict[str, object]:
    def number(name: str) -> int | None:
        return int(fields[name]) if name in fields else None

    return {
        "package": fields["Package"],
        "version": fields.get("Version"),
        "section": fields.get("Section"),
        "priority": fields.get("Priority"),
        "architecture": fields.get("Architecture"),
        "maintainer": fields.get("Maintainer"),
        "homepage": fields.get("Homepage"),
        "description": fields.get("Description"),
        "installed_size_kib": number("Installed-Size"),
        "size_bytes": number("Size"),
        "tags": fields["Tag"].split(", ") if "Tag" in fields else None,
        "depends": list(_dependencies(fields["Depends"])) if "Depends" in fields else [],
    }


def _dependencies(text: str) -> Iterator[dict[str, str | None]]:
    for clause in re.split(r"\s*[,|]\s*", text):
        match = _CLAUSE.match(clause)
        if match:
            name, relation, version = match.groups()
            yield {"name": name, "relation": relation, "version": version}
