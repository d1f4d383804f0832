"""A registry written to one file and taken over: whole, repeatable, and refused where the file is not as written."""

from __future__ import annotations

import hashlib
import os

import pytest

import rh
from rh.errors import (
    AccessError,
    ConflictError,
    ExistsError,
    IntegrityError,
    NameClashError,
    NotFoundError,
    RhError,
    UnsupportedError,
)
from rh.registry import open_registry
from rh.registry.archive import export, import_, migrate
from rh.registry.base import Put, Registry
from rh.registry.documents import encode


@pytest.fixture
def registry(tmp_path) -> Registry:
    registry = open_registry(f"sqlite://{tmp_path}/one.db")
    registry.put("a", {"n": 1, "é": "✓"}, by="ada", token="first")
    registry.put("b", {"deep": {"list": [1, None, "x\n"]}})
    registry.rename("a", "c")
    registry.delete("b")
    return registry


@pytest.fixture
def empty(tmp_path) -> Registry:
    return open_registry(f"sqlite://{tmp_path}/two.db")


def test_all_of_it_is_taken_over(registry, empty, tmp_path):
    assert export(registry, tmp_path / "all.jsonl") == 5
    assert import_(empty, tmp_path / "all.jsonl") == 5
    assert list(empty.changes()) == list(registry.changes())
    assert list(empty.list()) == list(registry.list())
    assert import_(empty, tmp_path / "all.jsonl") == 0
    assert empty.put("a", {"n": 1, "é": "✓"}, by="ada", token="first").revision == 1
    assert empty.find("a") is None


def test_one_registry_moves_into_another(registry, empty):
    assert migrate(registry, empty) == 5
    registry.put("d", {})
    assert migrate(registry, empty) == 1
    assert list(empty.changes()) == list(registry.changes())


def test_what_is_there_is_never_changed(registry, empty, tmp_path):
    empty.put("a", {"mine": True})
    with pytest.raises(ConflictError, match="'a'"):
        migrate(registry, empty)
    assert empty.get("a").document == {"mine": True}
    export(registry, tmp_path / "all.jsonl")
    with pytest.raises(ExistsError):
        export(registry, tmp_path / "all.jsonl")
    export(registry, tmp_path / "all.jsonl", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir() if "jsonl" in path.name) == ["all.jsonl"]
    with pytest.raises(NotFoundError):
        export(registry, tmp_path / "no" / "all.jsonl")
    with pytest.raises(NotFoundError):
        import_(registry, tmp_path / "no.jsonl")


@pytest.mark.parametrize(
    ("name", "importing", "exporting"),
    [
        (".", "invalid", "exists"),
        ("file/below", "not_found", "not_found"),
        ("n" * 300, "name_clash", "name_clash"),
        ("", "invalid", "invalid"),
        ("a\0b", "invalid", "invalid"),
        ("s3://bucket/all.jsonl", "invalid", "invalid"),
    ],
)
def test_what_is_no_file_here(name, importing, exporting, registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    for do, kind in ((import_, importing), (export, exporting)):
        with pytest.raises(RhError) as caught:
            do(registry, name)
        assert caught.value.kind == kind
    with pytest.raises(NameClashError):
        export(registry, tmp_path, overwrite=True)
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*")), "nothing half written stays"


def test_a_file_that_may_not_be_read(registry, tmp_path):
    path = tmp_path / "all.jsonl"
    export(registry, path)
    path.chmod(0)
    was = os.geteuid()
    if was == 0:  # whom nothing is closed to
        os.seteuid(65534)
    try:
        with pytest.raises(AccessError):
            import_(registry, path)
    finally:
        os.seteuid(was)


@pytest.mark.parametrize("damage", ["cut", "short", "flipped", "empty", "other", "garbage"])
def test_a_damaged_file_changes_nothing(damage, registry, empty, tmp_path):
    path = tmp_path / "all.jsonl"
    export(registry, path)
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    path.write_bytes(
        {
            "cut": data[:-20],
            "short": b"".join(lines[:-1]),
            "flipped": data.replace(b'"n":1', b'"n":2', 1),
            "empty": b"",
            "other": b'{"a": 1}\n',
            "garbage": b"\xff\xfe\n",
        }[damage]
    )
    with pytest.raises(IntegrityError):
        import_(empty, path)
    assert list(empty.changes()) == []


@pytest.mark.parametrize(
    "wrong", [{"revision": "1"}, {"document": [1]}, {"document": None}, {"time": "now"}, {"action": "x"}, {"key": 5}]
)
def test_a_line_that_is_no_change(wrong, empty, tmp_path):
    change = {"key": "a", "revision": 1, "action": "put", "document": {}, "author": "ada", "time": 1.0, "token": "t"}
    lines = [encode(told) + b"\n" for told in ({"format": "rh-registry", "version": 1}, change | wrong)]
    end = {"changes": 1, "sha256": hashlib.sha256(b"".join(lines)).hexdigest()}
    (tmp_path / "made.jsonl").write_bytes(b"".join(lines) + encode(end) + b"\n")
    with pytest.raises(IntegrityError, match="line 2 is no change"):
        import_(empty, tmp_path / "made.jsonl")
    assert list(empty.changes()) == []


def test_a_newer_format_is_refused(registry, empty, tmp_path):
    path = tmp_path / "all.jsonl"
    path.write_text('{"format":"rh-registry","version":2}\n{}\n')
    with pytest.raises(UnsupportedError, match="upgrade"):
        import_(empty, path)


def test_what_is_of_one_machine_or_one_server_stays_there(registry, empty):
    for key, document in {
        "resources/~/mine": {"kind": "folder"},
        "series/~/mine": {"series": "1" * 32},
        "versions/" + "1" * 32 + "/00000001": {"tree": "x"},
        "resources/org/ours": {"kind": "folder"},
        "series/org/ours": {"series": "2" * 32},
        "versions/" + "2" * 32 + "/00000001": {"tree": "y"},
        "server/users/ada": {"admin": True},
    }.items():
        registry.put(key, document)
    migrate(registry, empty)
    assert [record.key for record in empty.list()] == [
        "c",
        "resources/org/ours",
        "series/org/ours",
        "versions/" + "2" * 32 + "/00000001",
    ]
    migrate(registry, empty, everything=True)
    assert list(empty.list()) == list(registry.list())


def test_what_both_sides_changed_is_refused_whole(tmp_path, monkeypatch):
    """A record that went on here and a version that was made there are of one name."""
    for side in ("one", "two"):
        monkeypatch.setenv("RH_REGISTRY", f"sqlite://{tmp_path}/{side}.db")
        if side == "one":
            cats = rh.folder(name="/acme/n", path=tmp_path / "a").mkdir().save()
            cats.put({"1.txt": b"tabby"})
            cats.commit("first")
            one = open_registry(f"sqlite://{tmp_path}/one.db")
            two = open_registry(f"sqlite://{tmp_path}/two.db")
            migrate(one, two)
            rh.blob(b"x", name="/acme/b", path=tmp_path / "b").save()
            rh.folder(name="/acme/n", path=tmp_path / "c").save(overwrite=True)
        else:
            cats = rh.folder("/acme/n")
            cats.put({"2.txt": b"siamese"})
            cats.commit("second")
    before = list(two.changes())
    for run in (lambda: migrate(one, two), lambda: migrate(two, one)):
        with pytest.raises(ConflictError, match="both registries have changed /acme/n "):
            run()
    assert list(two.changes()) == before
    export(one, tmp_path / "one.jsonl")
    with pytest.raises(ConflictError, match="/acme/n "):
        import_(two, tmp_path / "one.jsonl")
    assert list(two.changes()) == before


def test_one_side_may_be_ahead_of_each_name(registry, empty):
    """What is new there under other names stays, and neither side loses anything."""
    migrate(registry, empty)
    registry.put("resources/acme/here", {})
    empty.put("resources/acme/there", {})
    assert migrate(registry, empty) == 1
    assert migrate(empty, registry) == 1
    assert migrate(registry, empty) == 0


def test_a_source_that_is_not_there(empty, tmp_path):
    with pytest.raises(NotFoundError, match="no registry"):
        migrate(open_registry(f"sqlite://{tmp_path}/typo.db"), empty)
    with pytest.raises(NotFoundError, match="no registry"):
        migrate(open_registry(f"file://{tmp_path}/typo"), empty)
    backup = tmp_path / "backup.jsonl"
    backup.write_text("good")
    with pytest.raises(NotFoundError, match="no registry"):
        export(open_registry(f"sqlite://{tmp_path}/typo.db"), backup, overwrite=True)
    assert backup.read_text() == "good"
    assert not (tmp_path / "typo").exists()
    assert not (tmp_path / "typo.db").exists()


def test_versions_that_are_there_under_another_name(tmp_path):
    source, target = (open_registry(f"sqlite://{tmp_path}/{name}.db") for name in ("source", "target"))
    source.commit([Put("resources/acme/cats", {}), Put("series/acme/cats", {"series": "a" * 32})])
    source.put(f"versions/{'a' * 32}/00000001", {"n": 1})
    assert migrate(source, target, names={"/acme/cats": "/zoo/cats"}) == 3
    with pytest.raises(ConflictError, match="versions that /zoo2/cats would have are those of /zoo/cats") as caught:
        migrate(source, target, prefixes={"/acme": "/zoo2"})
    assert "call it /zoo/cats again" in caught.value.hint
    assert target.find("resources/zoo2/cats") is None
    assert migrate(source, target, names={"/acme/cats": "/zoo/cats"}) == 0
