"""Each extra brings all that its modules import: others that happen to be installed are out of sight here."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import rh.systems
from rh import plugins
from rh.errors import MissingExtraError
from rh.plugins import DISTRIBUTION

pytestmark = [pytest.mark.slow]

PLACES = {
    "s3": ["s3", "objects"],
    "gcs": ["gcs", "objects"],
    "azure": ["azure", "objects"],
    "ssh": ["ssh", "far"],
    "git": ["git"],
    "http": ["http", "web"],
    "fsspec": ["fsspec"],
}
"""Packages below `rh.systems` that an extra is for."""

_AT_WILL = {"certifi"}
"""What is used where it happens to be there."""

_ALONE = """
import importlib, json, sys

hidden, packages, modules = json.loads(sys.argv[1])

class Hiding:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hiding())
from rh import plugins
for name in packages:
    importlib.import_module(name)
for name in modules:
    plugins.need(name)
"""


def _brought(extra: str) -> set[str]:
    """Normalised names of all distributions that `rh` with this extra requires."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [(DISTRIBUTION, ""), (DISTRIBUTION, extra)]
    while waiting:
        name, some = one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        found.add(_normal(name))
        for line in requires:
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": some}):
                waiting += [(wanted.name, more) for more in ("", *wanted.extras)]
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _needed(path: Path) -> set[str]:
    """What a module asks of `rh.plugins.need`."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    return {
        str(call.args[0].value)
        for call in calls
        if "need" in (getattr(call.func, "id", None), getattr(call.func, "attr", None))
        and call.args
        and isinstance(call.args[0], ast.Constant)
    }


@pytest.mark.parametrize("extra", PLACES)
def test_an_extra_brings_all_that_its_places_import(extra: str, python) -> None:
    root = Path(rh.systems.__file__).parent
    files = [
        file
        for name in PLACES[extra]
        for file in (sorted((root / name).glob("*.py")) if (root / name).is_dir() else [root / f"{name}.py"])
    ]
    brought = _brought(extra)
    hidden = [
        package for package, owners in packages_distributions().items() if not brought & set(map(_normal, owners))
    ]
    packages = [f"rh.systems.{name}" for name in PLACES[extra]]
    modules = sorted(set().union(*map(_needed, files)) - _AT_WILL)
    assert modules
    python(_ALONE, json.dumps([hidden, packages, modules]))


def test_the_install_line_names_an_extra_that_brings_the_module() -> None:
    """Whatever part of the library asks for it."""
    files = sorted(Path(rh.__file__).parent.rglob("*.py"))
    owners = packages_distributions()
    for module in sorted(set().union(*map(_needed, files)) - _AT_WILL):
        with pytest.raises(MissingExtraError) as caught:
            plugins.need(f"{module}.not_there")
        extra = re.fullmatch(rf'pip install "{DISTRIBUTION}\[(\w+)\]"', caught.value.hint or "")
        assert extra, module
        assert _brought(extra[1]) & set(map(_normal, owners[module.partition(".")[0]])), module


def test_extras_are_those_of_the_project_and_all_brings_all() -> None:
    """`rh doctor` and the install lines name extras that exist; `all` leaves out the servers of the playground only."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(plugins.EXTRAS.values()) <= set(extras)
    (everything,) = extras["all"]
    assert set(Requirement(everything).extras) == set(extras) - {"all", "playground"}
