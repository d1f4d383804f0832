"""What versions refuse, and how they say what is wrong: before anything is stored, and with what mends it."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rh
from rh import errors
from rh.cli.exit import code_of
from rh.observe import counting
from rh.resources import places
from rh.resources.folder import Folder
from rh.resources.sweeping import sweep
from rh.tables.base import INDEX
from rh.versions import cache, export
from rh.versions import store as store_module
from rh.versions.export import read_file, write_file
from rh.versions.store import Store, place_of
from tests.versions.made import commit

OURS = (".rh-manifest", "sub/.rh-x", ".rh-store/evil", "x/.rh-store/y/z")


@pytest.fixture(params=["memory", "file"])
def cats(request: pytest.FixtureRequest, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A saved folder of small and large files; in memory they are packed, and here they are objects."""
    monkeypatch.setenv("RH_HOME", str(tmp_path / "home"))
    place = f"memory://{secrets.token_hex(6)}/live" if request.param == "memory" else tmp_path / "live"
    folder = rh.folder(path=place)
    folder.put({"a.txt": b"one", "d/b.txt": b"two" * 100, "d/big.bin": secrets.token_bytes(3 << 20)})
    return folder.save("cats")


def store_of(folder: Folder) -> Store:
    return Store.at(place_of(folder.location))


def held(folder: Folder) -> list[str]:
    """What the folder's store has, but for who writes right now."""
    try:
        return [entry.key for entry in store_of(folder).system.list() if not entry.key.startswith("leases")]
    except errors.NotFoundError:
        return []


def lose(folder: Folder, kind: str) -> None:
    """Take away all of a kind from the store, and what this machine keeps."""
    store = store_of(folder)
    store.system.delete([entry.key for entry in store.system.list(f"{kind}/")])
    forget()


def forget() -> None:
    """Let go of all that this machine and this process keep of versions."""
    cache.rm()
    for kind in ("nodes", "trees"):
        for path in (rh.config.home() / "cache" / kind).glob("**/*"):
            if path.is_file():
                path.unlink()
    places.close()  # handles remember directories, too
    store_module._shared.clear()


# Names that are ours


@pytest.mark.parametrize("path", OURS)
@pytest.mark.parametrize(
    "change",
    [
        lambda draft, path: draft.add(b"evil", path=path),
        lambda draft, path: draft.move("a.txt", path),
        lambda draft, path: draft.move("d/", f"{path}/"),
        lambda draft, path: draft.copy_from("cats:v1", "a.txt", path),
        lambda draft, path: draft.copy_from("cats:v1", "d/", f"{path}/"),
    ],
)
def test_no_draft_takes_a_name_of_ours(cats: Folder, path: str, change: Callable[[Any, str], None]) -> None:
    """As little as a live folder does, and nothing is stored."""
    cats.commit("begin")
    before = held(cats)
    with pytest.raises(errors.InvalidError, match="a name that rh keeps for itself"):
        cats.put({path: b"evil"})
    with pytest.raises(errors.InvalidError, match="a name that rh keeps for itself"), cats.draft() as draft:
        change(draft, path)
    assert held(cats) == before
    assert [version.label for version in cats.versions()] == ["v1"]


def test_no_upload_and_no_directory_has_such_a_name(cats: Folder, tmp_path: Any) -> None:
    cats.commit("begin")
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "file").write_bytes(b"1")
    for local in (tmp_path / "up", tmp_path / "up" / "file"):
        with pytest.raises(errors.InvalidError, match="keeps for itself"):
            cats.upload(local, ".rh-manifest")
    with pytest.raises(errors.InvalidError, match="keeps for itself"), cats.draft() as draft:
        draft.add_reference(tmp_path / "up" / "file", ".rh-x/file")
    assert len(cats.versions()) == 1


def test_what_an_older_rh_took_can_be_taken_away(cats: Folder) -> None:
    """A version with such a name lets a draft remove or rename it."""
    store = store_of(cats)
    tree = commit(store, {".rh-manifest": b"evil", "x/.rh-y": b"evil", "a": b"1"})
    cats.made(lambda *_: tree, "old", aliases=(), tags=(), metadata=None)
    with cats.draft() as draft:
        draft.remove(".rh-manifest")
        draft.move("x/.rh-y", "y")
    assert cats.at().to(path="memory://" + secrets.token_hex(6)).ls(full_paths=False) == ["a", "y"]


def test_no_archive_brings_such_a_name(cats: Folder, tmp_path: Any) -> None:
    """But for the index of a table, which a version of one has."""
    store = store_of(cats)
    for number, name in enumerate((".rh-manifest", "sub/.rh-store")):
        write_file(commit(store, {name: b"evil", "a": b"1"}), store, tmp_path / f"{number}.rh")
        before = held(cats)
        with pytest.raises(errors.InvalidError, match="keeps for itself"):
            cats.import_(tmp_path / f"{number}.rh")
        assert held(cats) == before
    assert cats.versions() == []
    tree = commit(store, {INDEX: b"{}", "a": b"1"})
    write_file(tree, store, tmp_path / "table.rh")
    assert read_file(tmp_path / "table.rh", store).digest == tree.digest
    assert export._INDEX.decode() == INDEX


# What a store has lost


READS: dict[str, Callable[[Folder], Any]] = {
    "ls": lambda pinned: pinned.ls(),
    "glob": lambda pinned: pinned.glob("**"),
    "exists": lambda pinned: pinned.exists_in_system(),
    "get": lambda pinned: pinned.get("d/b.txt"),
    "large": lambda pinned: pinned.get("d/big.bin"),
    "open": lambda pinned: pinned.open("d/b.txt").read(),
    "range": lambda pinned: pinned.open("d/big.bin").read(10),
    "local": lambda pinned: pinned.local(),
    "to": lambda pinned: pinned.to(path="memory://" + secrets.token_hex(6)),
    "verify": lambda pinned: pinned.check_version(),
    "export": lambda pinned: pinned.export("memory://" + secrets.token_hex(6) + "/v"),
    "blob": lambda pinned: rh.blob(path=f"{pinned.url}/d/b.txt").fetch(),
}


@pytest.mark.parametrize("kind", ["nodes", "trees"])
@pytest.mark.parametrize("read", READS)
def test_a_version_whose_directories_are_lost(cats: Folder, kind: str, read: str) -> None:
    """Each way to read it says that the store has lost it, and what mends it; never that there is no such file."""
    cats.commit("begin")
    pinned = cats.at("v1")
    lose(cats, kind)
    with pytest.raises(errors.IntegrityError, match="has lost") as caught:
        READS[read](pinned)
    assert code_of(caught.value) == 6
    assert "rh version repair" in str(caught.value.hint)
    cats.repair("v1")
    forget()
    READS[read](cats.at("v1"))


@pytest.mark.parametrize("read", ["get", "large", "open", "range", "blob", "export", "to", "local"])
def test_a_version_whose_files_are_lost(cats: Folder, read: str) -> None:
    cats.commit("begin")
    pinned = cats.at("v1")
    for kind in ("packs", "objects"):
        lose(cats, kind) if any(key.startswith(kind) for key in held(cats)) else None
    with pytest.raises(errors.RhError, match="has lost") as caught:
        READS[read](pinned)
    assert isinstance(caught.value, errors.IntegrityError) or read in ("to", "local")  # of which nothing arrived
    assert code_of(caught.value) == 6
    assert "rh version repair" in str(caught.value)
    assert pinned.check_version().missing == ("a.txt", "d/b.txt", "d/big.bin")
    assert cats.repair("v1").ok


def test_a_store_that_is_gone_as_a_whole(cats: Folder) -> None:
    cats.commit("begin")
    pinned = cats.at("v1")
    store_of(cats).system.delete(held(cats))
    forget()
    with pytest.raises(errors.IntegrityError, match="has lost the version"):
        pinned.get("a.txt")


def test_a_reference_that_is_gone_or_another_one(cats: Folder) -> None:
    cats.adopt()
    pinned = cats.at("v1")
    cats.rm("a.txt")
    cats.put({"d/b.txt": b"another"}, overwrite=True)
    forget()
    for read in (lambda: pinned.get("a.txt"), lambda: pinned.open("a.txt").read()):
        with pytest.raises(errors.IntegrityError, match="a file that a version refers to is gone"):
            read()
    with pytest.raises(errors.ConflictError, match="a file that a version refers to has changed since"):
        pinned.get("d/b.txt")
    found = pinned.check_version()
    assert (found.missing, found.modified) == (("a.txt",), ("d/b.txt",))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("read", READS)
def test_a_handle_on_a_version_that_was_dropped(cats: Folder, read: str, *, kept: bool) -> None:
    """It says that the version is not there any more, whatever this machine still knows of it."""
    if read == "verify":
        return  # asks the registry, which knows
    cats.commit("begin")
    pinned = cats.at("v1")
    if kept:
        pinned.ls(), pinned.glob("**")
    cats.put({"a.txt": b"1", "d/b.txt": b"2", "d/big.bin": b"3"}, overwrite=True)
    cats.commit("other")
    sweep("cats", keep=1, older_than_s=-60)
    if not kept:
        forget()
    if kept and read in ("ls", "glob", "exists"):
        return  # what is known needs no store
    if read in ("exists", "export"):
        assert read == "export" or not pinned.exists_in_system()
        return
    with pytest.raises(errors.RhError, match=r"no longer there") as caught:
        READS[read](pinned)
    assert code_of(caught.value) == 3


def test_the_command_says_what_is_gone(cats: Folder, tmp_path: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """What reads a version that is no longer there, or a part of it, tells that and where to look, and exits with 3."""
    from rh.cli import main

    one = rh.blob(b"1", name="one", path=f"{cats.url}/one.bin").save()
    assert {cats.commit().store, one.commit().store} == {place_of(cats.location)}
    for kind in ("trees", "refs"):
        lose(cats, kind)
    for words in (
        *((verb, place) for verb in ("ls", "du", "info", "cp") for place in ("cats:v1", "cats:v1/d/", "cats:v1/a.txt")),
        *((verb, "one:v1") for verb in ("cat", "ls", "info", "cp")),
        ("cat", "cats:v1/a.txt"),
        ("cat", "cats:v1/d/b.txt"),
    ):
        target = [str(tmp_path / "copy")] if words[0] == "cp" else []
        assert main([words[0], f"rh://{words[1]}", *target]) == 3, words
        told = capfd.readouterr().err
        assert "no longer there" in told, words
        assert f"fix: rh version ls ~/{words[1].partition(':')[0]} lists" in told, words


def test_the_command_says_what_is_lost(cats: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    """`ls`, `cat`, `du`, `find` and `cp` of a lost version exit with 6; of a file that never was, with 3."""
    from rh.cli import main

    def run(*words: str) -> tuple[int, str]:
        return main(list(words)), capfd.readouterr().err

    cats.commit("begin")
    assert run("cat", "rh://cats:v1/d/never.txt")[0] == 3
    lose(cats, "nodes")
    for words in (
        ("ls", "rh://cats:v1"),
        ("ls", "rh://cats:v1/d/"),
        ("cat", "rh://cats:v1/d/b.txt"),
        ("du", "rh://cats:v1"),
        ("find", "rh://cats:v1"),
        ("cp", "rh://cats:v1", "memory://" + secrets.token_hex(6)),
        ("version", "verify", "cats:v1"),
    ):
        code, told = run(*words)
        assert (code, "has lost" in told, "rh version repair" in told) == (6, True, True), (words, told)


# Arguments


BAD: list[dict[str, Any]] = [
    {"aliases": ("a/b",)},
    {"aliases": "prod"},
    {"aliases": 5},
    {"aliases": ("latest",)},
    {"tags": "abc"},
    {"tags": (3,)},
    {"tags": ("a b\n",)},
    {"metadata": {"a": {1, 2}}},
    {"metadata": [1]},
    {"metadata": {"a": float("nan")}},
    {"metadata": {"a": object()}},
    {"message": 5},
    {"message": b"bytes"},
]
BAD_TTL: list[Any] = [-1, 0, "0s", "30 days", "30", datetime.timedelta(days=1), float("inf"), float("nan"), True]


@pytest.fixture
def nothing_sent(cats: Folder) -> Iterator[Folder]:
    """A folder to whose system nothing is written in the test."""
    cats.put({"new.bin": secrets.token_bytes(1000)})
    before = held(cats)
    with counting() as counts:
        yield cats
    assert counts.requests[cats.system, "write"] == 0
    assert held(cats) == before
    assert cats.versions() == []
    assert cats.drafts() == []


@pytest.mark.parametrize(
    "bad", BAD, ids=lambda bad: " ".join(f"{key}={type(value).__name__}" for key, value in bad.items())
)
def test_what_is_told_is_checked_first(nothing_sent: Folder, tmp_path: Any, bad: dict[str, Any]) -> None:
    """By a commit, a draft, one with a name, an upload and an import alike: nothing is stored, nor recorded."""
    cats, local = nothing_sent, tmp_path / "local"
    local.write_bytes(b"1" * 1000)
    with pytest.raises(errors.InvalidError):
        cats.commit(**bad)
    for name in (None, "spring"):
        with pytest.raises(errors.InvalidError), cats.draft(name, **bad) as draft:  # type: ignore[call-overload]
            draft.add(b"1" * 1000, path="x")
    with pytest.raises(errors.InvalidError):
        cats.import_(local, **bad)
    if "metadata" not in bad:
        with pytest.raises(errors.InvalidError):
            cats.upload(local, **bad)
        if "tags" not in bad:
            with pytest.raises(errors.InvalidError):
                cats.adopt(**bad)


@pytest.mark.parametrize("ttl", BAD_TTL, ids=str)
def test_a_time_that_is_none(nothing_sent: Folder, ttl: Any) -> None:
    with pytest.raises(errors.InvalidError, match="ttl="):
        nothing_sent.commit("x", ttl=ttl)


def test_no_message_is_an_empty_one(cats: Folder) -> None:
    none: Any = None
    assert cats.commit(none).message == ""
    cats.draft("spring", message="by spring").add(b"1", path="x")
    with pytest.raises(errors.InvalidError, match="message= is text, not int"):
        cats.draft("spring").commit(5)  # type: ignore[arg-type]
    assert cats.draft("spring").commit(None).message == "by spring"
    with cats.draft(message="of the draft") as draft:
        draft.add(b"2", path="y")
        with pytest.raises(errors.InvalidError, match="message= is text"):
            draft.commit(5)  # type: ignore[arg-type]
        assert draft.commit().message == "of the draft"


def test_only_what_is_there_is_adopted(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is not there is no version of no files; an empty one may be."""
    monkeypatch.setenv("RH_HOME", str(tmp_path / "home"))
    with pytest.raises(errors.NotFoundError, match="no such folder"):
        rh.folder(path=tmp_path / "typo").adopt("x")
    assert not rh.exists("x")
    assert not (tmp_path / "typo").exists()
    (tmp_path / "empty").mkdir()
    assert rh.folder(path=tmp_path / "empty").adopt("x").files == 0


def test_a_handle_on_a_version_gets_the_alias(cats: Folder) -> None:
    """`rh.folder("cats:v1").alias("prod")` is about v1, not about the newest one."""
    cats.commit("1")
    cats.put({"new": b"2"})
    cats.commit("2")
    assert rh.folder("cats:v1").alias("prod").label == "v1"
    assert cats.aliases() == {"prod": "v1"}
    assert rh.folder("cats:v1").alias("next", "latest").label == "v2"
    assert cats.alias("prod").label == "v2"
    assert rh.folder("cats:prod").alias("same").label == "v2"
    rh.folder("cats:v1").unalias("prod")
    assert cats.aliases() == {"next": "v2", "same": "v2"}


def test_the_age_of_what_is_swept(cats: Folder) -> None:
    cats.commit("begin")
    for age in (-5, float("nan"), "1d", None, True):
        with pytest.raises(errors.InvalidError, match="older_than_s="):
            rh.gc("cats", older_than_s=age)  # type: ignore[arg-type]


def test_what_was_swept_is_printed(cats: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    cats.commit("begin")
    done = rh.gc("cats", dry_run=True)
    print(done)
    assert capsys.readouterr().out == f"{store_of(cats).url}: {done[0].collected}\n"
    assert list(done) == done[:]


# Fixes


def test_fixes_can_be_done(cats: Folder) -> None:
    """What a message tells to do is there."""
    cats.commit("begin")
    with pytest.raises(errors.ExistsError) as caught, cats.draft() as draft:
        draft.move("a.txt", "d/b.txt")
    assert caught.value.hint == "remove it first"
    with pytest.raises(errors.ExistsError) as caught, cats.draft() as draft:
        draft.add(b"1", "a.txt", update=False)
    assert caught.value.hint == "remove it first, or replace it: update=True"
    with pytest.raises(errors.NotFoundError, match="nor any other") as caught:
        cats.draft("spring").commit()
    assert caught.value.hint == "the first change begins one: .draft(…).add(…)"


def test_a_change_that_is_refused_leaves_no_draft(cats: Folder, tmp_path: Any) -> None:
    cats.commit("begin")
    for refused in (
        lambda: cats.draft("spring").add(tmp_path / "none"),
        lambda: cats.draft("spring").add_dir(tmp_path / "none"),
        lambda: cats.draft("spring").remove("none"),
    ):
        with pytest.raises(errors.NotFoundError):
            refused()
        assert cats.drafts() == []
    lose(cats, "nodes")
    with pytest.raises(errors.IntegrityError, match="has lost"), cats.draft("spring"):
        pass
    assert cats.drafts() == []
    cats.repair()
    forget()
    cats.draft("spring").remove("a.txt")
    with pytest.raises(errors.NotFoundError):
        cats.draft("spring").remove("a.txt")
    assert [one.additions for one in cats.drafts()] == [1]
