"""The shape of the library: layers, one file per SDK, and an `import rh` that costs nothing."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rh"

HOMES = {
    "adbc_driver_manager": ("tables/drivers.py", "tables/database.py"),
    "adlfs": (),
    "azure": ("systems/azure/__init__.py", "testing/servers/azure_versions.py"),
    "boto3": ("systems/s3/credentials.py",),
    "botocore": ("systems/s3/credentials.py",),
    "cloudpickle": (),
    "dask": ("tables/dask.py",),
    "datasets": ("tables/huggingface.py",),
    "duckdb": ("tables/query.py",),
    "dulwich": ("systems/git/repository.py",),
    "fsspec": ("systems/fsspec/driver.py",),
    "gcsfs": (),
    "google": ("systems/gcs/__init__.py",),
    "httpx": (),
    "kubernetes": (),
    "numpy": ("resources/codecs.py", "tables/"),
    "pandas": ("tables/frames.py",),
    "paramiko": ("systems/ssh/by_paramiko.py",),
    "pathspec": ("content/patterns.py",),
    "polars": ("tables/polars.py",),
    "psycopg": ("registry/sql/postgres.py",),
    "pyarrow": (
        "resources/codecs.py",
        "resources/rows.py",
        "resources/table.py",
        "tables/",
        "cli/table.py",
        "testing/",
    ),
    "pyfastcdc": ("versions/pieces.py",),
    "ray": ("tables/ray.py",),
    "requests": (),
    "s3fs": (),
    "safetensors": ("resources/codecs.py",),
    "stamina": ("systems/wrap/retry.py",),
    "torch": ("tables/torch.py",),
}
"""Where each package may be imported: in files, or below directories (`tables/` speaks Arrow throughout). Packages not
named here are held by review: small ones, used as a language."""

IMPORTERS = frozenset({"need", "import_module", "__import__", "find_spec"})


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, at its top or late, by statement or by name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in IMPORTERS and isinstance(node.args[0].value, str):
                yield node.args[0].value


@cache
def everything() -> dict[str, set[str]]:
    """File → the top-level names of what it imports."""
    return {
        path.relative_to(PACKAGE).as_posix(): {name.partition(".")[0] for name in imports(path)}
        for path in PACKAGE.rglob("*.py")
    }


def test_layers(tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("lint-imports")),
        "--config",
        "setup.cfg",
        "--cache-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_contributors_are_shown_the_layers() -> None:
    """The tree in CONTRIBUTING.md is the contract in setup.cfg: each layer there is, from the top to the bottom."""
    contract = configparser.ConfigParser()
    contract.read(ROOT / "setup.cfg", "utf-8")
    layers = contract["importlinter:contract:layers"]["layers"].strip().splitlines()
    held = [[name.strip(" ()") for name in layer.split("|")] for layer in layers]
    there = [[name for name in layer if any(PACKAGE.glob(f"{name}.py")) or (PACKAGE / name).is_dir()] for layer in held]

    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## Where a line belongs")[2]
    lines = section.split("```")[1].strip().splitlines()
    shown = [re.match(r"\w+(?: · \w+)*", line).group().split(" · ") for line in lines]  # type: ignore[union-attr]
    assert shown == [layer for layer in there if layer]


@pytest.mark.parametrize("package", HOMES)
def test_each_sdk_is_imported_in_its_own_file(package: str) -> None:
    found = {name for name, imported in everything().items() if package in imported}
    homes = HOMES[package]
    missing = [home for home in homes if not (PACKAGE / home).exists()]
    assert not missing, f"{package} has homes that do not exist: {missing}"
    assert {name for name in found if not name.startswith(tuple(home for home in homes if home[-1] == "/"))} <= {*homes}


@pytest.mark.parametrize("package", ["versions", "resources", "systems/local"])
def test_the_docstring_of_a_package_names_each_module(package: str) -> None:
    folder = PACKAGE / package
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
    shown = re.findall(r"^\* `(\w+)`: ", docstring, re.MULTILINE)
    there = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    there += [path.parent.name for path in folder.glob("*/__init__.py")]
    assert sorted(shown) == sorted(there)


def test_declared_dependencies_are_all_used() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    used = set().union(*everything().values())
    for requirement in project["dependencies"]:
        name = requirement.partition(">")[0].partition("[")[0].strip().replace("-", "_")
        assert name in used, f"{requirement} is a dependency of everybody and nothing imports it"


def test_import_is_light(python) -> None:
    """No module of another distribution, and so few of our own and the standard library's that it takes no time."""
    code = (
        "import sys; before = set(sys.modules); import rh; new = set(sys.modules) - before; "
        "print(*sorted(new), sep='\\n')"
    )
    loaded = python(code).split()
    foreign = [name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names | {"rh"}]
    assert not foreign
    assert len(loaded) <= 120, loaded


def test_far_side_files_run_alone() -> None:
    """What is sent to a host runs on its bare Python: standard library, and each other."""
    for name in ("digest.py", *(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("systems/far/*.py"))):
        foreign = everything()[name] - sys.stdlib_module_names - {"rh", ""}
        assert not foreign, f"{name} imports {foreign}"
