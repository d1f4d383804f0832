"""A missing place tells what is beside it, and nothing is asked for that where all is well."""

from __future__ import annotations

import pytest

import rh
from rh.errors import NotFoundError, UnavailableError
from rh.resources import places
from rh.resources.nearest import hinted
from rh.systems.memory import MemorySystem
from rh.types import Location


@pytest.fixture
def folder(tmp_path):
    made = rh.folder(path=tmp_path / "data").mkdir()
    made.put({"run.sh": b"x", "labels.csv": b"y", "images/a.jpg": b"z"})
    return made


@pytest.mark.parametrize("ask", [
    lambda folder: folder.get("run"),
    lambda folder: folder.open("run", "r"),
    lambda folder: (folder / "run").ls(),
    lambda folder: folder.ls("run"),
    lambda folder: (folder / "run").to(path="/nowhere"),
    lambda folder: (folder / "run").digest(),
    lambda folder: rh.blob(path=folder.path + "/run").read(),
    lambda folder: rh.blob(path=folder.path + "/run").size(),
    lambda folder: folder.rm("run"),
])  # fmt: skip
def test_the_nearest_is_told(folder, ask):
    with pytest.raises(NotFoundError) as caught:
        ask(folder)
    assert caught.value.hint == "did you mean run.sh?"


def test_what_there_is_is_told_where_nothing_is_alike(folder):
    with pytest.raises(NotFoundError) as caught:
        folder.get("weights.bin")
    assert caught.value.hint == f"{folder.url} has images/, labels.csv, run.sh"
    with pytest.raises(NotFoundError) as caught:
        folder.get("LABELS")
    assert caught.value.hint == "did you mean labels.csv?"


def test_of_a_place_deep_in_what_is_not_there_either_it_is_told_what_is_above(folder):
    (folder / "empty").mkdir()
    for path, told in {
        "imagse/cats/1.jpg": "did you mean images/?",
        "a/b/c": f"{folder.url} has empty/, images/, labels.csv, …",
        "empty/b": f"nothing is in {folder.url}/empty either",
        "empty/b/c": f"nothing is in {folder.url}/empty either",
    }.items():
        with pytest.raises(NotFoundError) as caught:
            folder.get(path)
        assert caught.value.hint == told


@pytest.mark.parametrize("where", ["'nope' in the draft 'draft' of ~/cats", "ab.csv, row 2: images"])
def test_only_a_place_has_something_beside_it(where, tmp_path, monkeypatch):
    (tmp_path / "nope").touch()
    monkeypatch.chdir(tmp_path)
    error = NotFoundError("there is no such path", where=where)
    hinted(error)
    assert error.hint is None


def test_a_failure_of_the_look_hides_nothing(folder, monkeypatch):
    def fails(*_args, **_options):
        raise UnavailableError("the network is down")

    monkeypatch.setattr(places, "at", fails)
    error = NotFoundError("there is no such file", where=f"{folder.url}/run")
    hinted(error)
    assert (error.hint, error.message) == (None, "there is no such file")


def test_one_look_is_made_of_a_page_at_most_and_none_where_all_is_well(monkeypatch):
    place = rh.folder(path="memory://pages/many")
    place.put({f"{number:05}": b"" for number in range(3000)})
    seen = []
    listed = MemorySystem.list

    def counted(self, *args, **options):
        seen.append(self.location)
        for count, entry in enumerate(listed(self, *args, **options)):
            assert count <= 1001
            yield entry

    monkeypatch.setattr(MemorySystem, "list", counted)
    place.get("00001")
    assert seen == []
    with pytest.raises(NotFoundError, match="did you mean"):
        place.get("000012")
    assert seen.count(Location("memory", "pages/many")) <= 2  # whether it is a directory, and what is beside it
