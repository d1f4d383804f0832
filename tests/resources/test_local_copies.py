"""Copies that `.local()` makes: part of the cache and its bound, and there as long as a process that asked for them."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

import rh
from rh import config, errors
from rh.versions import cache, copies

MIB = 1 << 20

HOLD = """
import os, sys, rh
print(rh.folder(sys.argv[1]).local(), flush=True)
if sys.argv[2] == "fork" and os.fork():
    os._exit(0)
sys.stdin.read()
"""


@pytest.fixture
def far(world):
    """A folder in a bucket, of 2 MiB."""
    folder = rh.folder(path=f"{world['s3']}/far")
    folder.put({"a.bin": os.urandom(MIB), "b/c.bin": os.urandom(MIB)})
    return folder


@pytest.fixture
def version(tmp_path):
    """A version of 2 MiB, in the store of this machine."""
    folder = rh.folder(name="near", path=tmp_path / "near").save()
    folder.put({"a.bin": os.urandom(MIB), "b/c.bin": os.urandom(MIB)})
    folder.commit()
    return rh.folder("near:v1")


@contextmanager
def held(how):
    """Another process (or the child that it forked before it left) has asked for the version's copy, and lives."""
    command = [sys.executable, "-c", HOLD, "near:v1", how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()
        process.stdout.read()  # ends with the last of them


def forgotten():
    """What this process asked for is forgotten, as if it had ended."""
    for descriptor, _ in copies._mine.values():
        os.close(descriptor)
    copies._mine.clear()


def test_a_copy_stays_while_who_asked_for_it_lives(version):
    with held("stay") as path:
        (copy,) = copies.ls("folders")
        assert (copy.url, copy.in_use) == (version.url, True)
        assert copy.size > 2 * MIB
        assert cache.rm(version.url) == (0, 0)
        cache.Contents(MIB).shrink()
        assert os.listdir(f"{path}/b") == ["c.bin"]
    (copy,) = cache.ls("folders")
    assert not copy.in_use
    assert cache.rm(version.url) == (1, copy.size)
    assert not os.path.exists(path)
    assert list(cache.ls("folders")) == []


def test_the_child_of_who_asked_has_it_too(version):
    with held("fork") as path:
        cache.rm()
        assert os.path.exists(path)
    assert cache.rm()[0] == 1
    assert not os.path.exists(path)


def test_what_others_left_over_the_bound_goes(version, monkeypatch, world):
    """A process that has ended needed more than the bound: the first `.local()` of the next one makes room."""
    monkeypatch.setenv("RH_CACHE_MB", "1")
    with held("stay") as path:
        pass
    assert os.path.exists(path)
    small = rh.folder(path=f"{world['s3']}/small")
    small.put({"a": b"1"})
    assert small.local().exists()
    assert not os.path.exists(path)


def test_copies_count_and_go_last_used_first(far, monkeypatch, world):
    """With a bound of 5 MiB, of three copies of 2 MiB the one goes that was not asked for longest."""
    paths = [far.local()]
    for name in ("two", "three"):
        paths.append(far.to(path=f"{world['s3']}/{name}").local())
    for number, path in enumerate(paths):
        os.utime(path.parent, (number, number))
    monkeypatch.setenv("RH_CACHE_MB", "5")
    cache.grown(8 * MIB)
    assert all(map(os.path.exists, paths))  # this process asked for all of them
    forgotten()
    assert rh.folder(path=f"{world['s3']}/two").local() == paths[1]
    cache.grown(8 * MIB)
    assert [os.path.exists(path) for path in paths] == [False, True, True]
    assert sum(one.size for one in cache.ls()) <= 5 * MIB
    assert far.local() == paths[0]
    assert (paths[0] / "b" / "c.bin").stat().st_size == MIB


def test_no_cache(far, monkeypatch):
    """With `cache_mb = 0` nothing is kept of contents, and a copy as long as it is needed."""
    monkeypatch.setenv("RH_CACHE_MB", "0")
    far.save("far").commit()
    assert len(rh.folder("far:v1").get("a.bin")) == MIB
    path = rh.folder("far:v1").local()
    assert sorted(os.listdir(path))[1:] == ["a.bin", "b"]
    assert list(cache.ls("objects", "packs")) == []
    forgotten()
    other = rh.folder(path=f"{far.url}/b").local()
    assert not path.exists()
    assert other.exists()
    monkeypatch.setenv("RH_CACHE_MB", "-1")
    with pytest.raises(errors.InvalidError, match="at least 0"):
        far.local()


def test_a_damaged_copy_is_found(far):
    path = far.local()
    blob = rh.blob(path=f"{far.url}/a.bin")
    single = blob.local()
    assert cache.verify() == (2, [])
    for file in (path / "a.bin", single):
        at = file.stat()
        file.write_bytes(b"?" * MIB)
        os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert cache.verify() == (2, [far.url, blob.url])
    forgotten()
    assert cache.verify() == (2, [far.url, blob.url])
    assert list(cache.ls()) == []
    assert blob.local().read_bytes() == far.get("a.bin")


def test_no_credential_is_noted(tmp_path):
    copies.made(copies.taken("blobs", "https://x.org/a?sig=secret", "a"), "https://x.org/a?sig=secret", None, 1)
    assert "secret" not in next((config.home() / "cache" / "blobs").rglob(".rh-copy")).read_text()


def test_a_cache_that_was_removed(far):
    """Who removes the directory of the cache takes the copies away, and nothing else breaks."""
    import shutil

    first = far.local()
    shutil.rmtree(config.home() / "cache")
    assert far.local() == first
    assert [one.in_use for one in copies.ls()] == [True]


def test_a_table(world):
    """Its own files come, as a table; what it lost goes; siblings are left alone."""
    table = rh.table({"n": [1, 2]}, name="t", path=f"{world['s3']}/t").save()
    rh.folder(path=table.url).put({"sibling.txt": b"s"})
    table.commit()
    path = table.local()
    assert rh.table(path=path).fetch().to_pydict() == {"n": [1, 2]}
    assert not (path / "sibling.txt").exists()
    table.write({"n": [3]}, mode="append")
    assert table.local() == path
    assert rh.table(path=path).fetch().to_pydict() == {"n": [1, 2, 3]}
    table.write({"n": [4]}, mode="overwrite")
    assert rh.table(path=table.local()).fetch().to_pydict() == {"n": [4]}
    assert len([one for one in os.listdir(path) if one.endswith(".parquet")]) == 1
    pinned = rh.table(name="t:v1").local()
    assert rh.table(path=pinned).fetch().to_pydict() == {"n": [1, 2]}
    assert rh.table(path=path).local() == path
    assert cache.verify() == (4, [])
    with pytest.raises(errors.InvalidError, match="in no files"):
        rh.table({"n": [1]}).local()


def test_a_table_of_others(world):
    """Adopted files, and one file."""
    folder = rh.folder(path=f"{world['s3']}/csv")
    folder.put({"a.csv": b"n\n1\n", "b.csv": b"n\n2\n"})
    table = rh.table(path=folder.url)
    path = table.local()
    assert sorted(one for one in os.listdir(path) if not one.startswith(".")) == ["a.csv", "b.csv"]
    folder.rm("a.csv")
    assert sorted(one for one in os.listdir(table.local()) if not one.startswith(".")) == ["b.csv"]
    assert rh.table(path=f"{folder.url}/b.csv").local().read_bytes() == b"n\n2\n"


def test_streams_and_differences(far):
    """Blobs come piece by piece; two versions of a blob or a table are compared by their names."""
    blob = rh.blob(b"abcde", name="b").save()
    blob.commit()
    assert list(blob.stream(2)) == [b"ab", b"cd", b"e"]
    assert list(rh.blob(name="b:v1").stream()) == [b"abcde"]
    assert list(rh.blob(b"held").stream()) == [b"held"]
    with pytest.raises(errors.InvalidError, match="size=0"):
        blob.stream(0)
    blob.write(b"other").commit()
    assert len(blob.diff("v1").modified) == len(blob.diff("v1", "v2").modified) == 1
    table = rh.table({"n": [1, 2]}, name="t").save()
    table.commit()
    table.write({"n": [2, 3]}, mode="overwrite").commit()
    for one in (table, rh.table(name="t:v1")):
        told = one.diff("v1", "v2")
        assert (told.added, told.removed) == (1, 1)
        assert str(one.diff("v1")) == str(told)
    assert table.at("v1").diff(table).added == 1
    assert table.diff("v1", keys=["n"]).added == 1
    with pytest.raises(errors.NotFoundError, match="v7"):
        table.diff("v7")
    with pytest.raises(errors.InvalidError, match="another version"):
        table.diff({"n": [1]}, "v1")
