"""Versions of tables, taken over by the draft of a folder."""

from __future__ import annotations

import pyarrow as pa
import pytest

import rh
from rh import errors
from rh.versions.store import Store
from rh.versions.verify import files_of


@pytest.fixture
def mixed(tmp_path) -> rh.Folder:
    """A folder with a file, and a table `rows` of two versions beside it."""
    table = rh.table([{"n": 1}, {"n": 2}], path=tmp_path / "rows").write().save("rows")
    table.commit()
    table.write([{"n": 3}], mode="append")
    table.commit()
    live = rh.folder(path=tmp_path / "mixed").mkdir()
    live.put({"a.txt": b"one"})
    live = live.save("mixed")
    live.commit()
    return live


def held(version) -> list[str]:
    """All paths of a version, also those that no listing shows."""
    store = Store.at(version.store)
    return [key for key, _ in files_of(store, store.root(store.tree(version.digest)))]


@pytest.mark.parametrize("to", ["tables/", "", "deep/er/"])
def test_a_table_is_its_files(mixed, to):
    """The index stays behind: it tells of a table's own directory. A copy of the version is the version."""
    with mixed.draft() as draft:
        draft.copy_from("rows:v2", to=to)
    parts = [path for path in held(draft.version) if path.endswith(".parquet")]
    assert held(draft.version) == sorted(["a.txt", *parts])
    assert len(parts) == draft.version.files - 1 == 2
    assert all(path.startswith(to) for path in parts)
    if to:
        rows = rh.table(path=f"rh://mixed:latest/{to}", format="parquet")
        assert rows.num_rows == 3
    with mixed.draft() as draft:
        draft.remove(parts[0])
    assert rh.table(path=f"rh://mixed:latest/{parts[1]}").num_rows in (1, 2)
    mixed.restore("v2")
    assert mixed.digest() == mixed.at("v2").digest()


def test_a_table_in_a_draft_with_a_name(mixed):
    """What is taken over can be moved and taken over again; single files of a table come as any others do."""
    with mixed.draft("kept") as draft:
        draft.copy_from("rows:v1", to="tables/")
        draft.move("tables/", "moved/")
        draft.copy_from("rows:v1", to="tables/")
    version = mixed.draft("kept").commit()
    assert len(held(version)) == 3
    part = next(path for path in held(version) if path.startswith("moved/"))
    with mixed.draft() as again:
        again.copy_from("rows:v1", part.removeprefix("moved/"), "one.parquet")
    assert rh.table(path="rh://mixed:latest/one.parquet").num_rows == 2
    with mixed.draft() as again, pytest.raises(errors.NameClashError):
        again.copy_from("rows:v1", ".rh-table.json")


def test_a_table_without_files(mixed, tmp_path):
    """It is an empty directory, also where one is."""
    rh.table(pa.table({"n": pa.array([], pa.int64())}), path=tmp_path / "none").write().save("none").commit()
    with mixed.draft() as draft:
        for _ in range(2):
            draft.copy_from("none:v1", to="empty/")
    assert "empty/" in rh.folder("mixed:latest").glob("**")
    assert not [path for path in held(draft.version) if path.endswith(".json")]


def test_from_another_store(mixed, tmp_path, monkeypatch):
    """The same, where the bytes are copied."""
    monkeypatch.setenv("RH_FILE_STORE", str(tmp_path / "another-store"))
    with mixed.draft() as draft:
        draft.copy_from("rows:v2", to="tables/")
    assert len(held(draft.version)) == 3
    assert rh.table(path="rh://mixed:latest/tables", format="parquet").num_rows == 3
