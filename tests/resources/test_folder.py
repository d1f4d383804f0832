"""`Folder` on every system: what is in it, bytes in and out, removing, and what must never happen."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import get_type_hints

import pytest

import rh
from rh import config, errors, transfer
from rh.systems import open_system
from rh.types import Location

TREE = {
    "a.txt": b"one",
    "b.bin": bytes(range(256)),
    "empty": b"",
    ".dot": b"dotfile",
    "crlf.txt": b"a\r\nb\r\n",
    "sub/c.txt": b"three",
    "sub/deep/d.txt": b"four",
    "sub-x/e.txt": b"five",
    "names/with space, 'quotes' & $(x);%2F.txt": b"odd",
    "names/😀 é.txt": b"emoji",
}


def names(folder):
    return sorted(key for path, _, files in folder.walk() for key in (f"{path}/{file}".lstrip("/") for file in files))


def elsewhere(folder):
    """A path on the folder's system that nothing is at yet."""
    return folder.path if folder.system in ("file", "memory") else "copied"


def test_put_and_get(folder):
    folder.put(TREE)
    assert {name: folder.get(name) for name in TREE} == TREE
    assert names(folder) == sorted(TREE)
    assert folder.size() == sum(map(len, TREE.values()))
    assert folder.exists_in_system()


def test_ls(folder):
    folder.put(TREE)
    expected = [".dot", "a.txt", "b.bin", "crlf.txt", "empty", "names/", "sub-x/", "sub/"]
    assert folder.ls(full_paths=False) == expected
    whole = folder.ls()
    if folder.system == "file":
        assert whole == [f"{folder.path}/{name}" for name in expected]
    else:
        assert whole == [f"{folder.url}/{name}" for name in expected]
        assert rh.folder(path=whole[-1].rstrip("/")).ls(full_paths=False) == ["c.txt", "deep/"]


def test_walk(folder):
    folder.put(TREE)
    walked = list(folder.walk())
    assert [path for path, _, _ in walked] == ["", "names", "sub-x", "sub", "sub/deep"]
    assert walked[0] == ("", ["names", "sub-x", "sub"], [".dot", "a.txt", "b.bin", "crlf.txt", "empty"])
    seen = []
    for path, directories, _ in folder.walk():
        seen.append(path)
        directories[:] = [name for name in directories if name != "sub"]
    assert seen == ["", "names", "sub-x"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["a.txt", "crlf.txt"]),
        ("*", [".dot", "a.txt", "b.bin", "crlf.txt", "empty", "names/", "sub-x/", "sub/"]),
        ("sub*/", ["sub-x/", "sub/"]),
        ("sub/*", ["sub/c.txt", "sub/deep/"]),
        ("*/*.txt", ["names/with space, 'quotes' & $(x);%2F.txt", "names/😀 é.txt", "sub-x/e.txt", "sub/c.txt"]),
        ("**/[c-d].txt", ["sub/c.txt", "sub/deep/d.txt"]),
        ("**/?.txt", ["a.txt", "sub-x/e.txt", "sub/c.txt", "sub/deep/d.txt"]),
        ("sub/**", ["sub/c.txt", "sub/deep/", "sub/deep/d.txt"]),
        ("sub/**/d.txt", ["sub/deep/d.txt"]),
        ("**/deep", ["sub/deep/"]),
        ("a.txt", ["a.txt"]),
        ("sub", ["sub/"]),
        ("[!ab]*", [".dot", "crlf.txt", "empty", "names/", "sub-x/", "sub/"]),
        ("nothing/*", []),
        ("nothing", []),
    ],
)
def test_glob(here, pattern, expected):
    here.put(TREE)
    assert here.glob(pattern) == expected
    assert here.glob(pattern, full_paths=True) == [f"{here.path}/{key}" for key in expected]


def test_glob_elsewhere(folder):
    folder.put(TREE)
    assert folder.glob("**/*.txt") == sorted((key for key in TREE if key.endswith(".txt")), key=str.encode)
    assert folder.glob("sub/*") == ["sub/c.txt", "sub/deep/"]


def test_a_folder_in_a_folder(folder):
    folder.put(TREE)
    sub = folder / "sub"
    assert (sub.name, sub.path) == (None, folder.path + "/sub")
    assert (sub / "deep").get("d.txt") == b"four"
    assert folder / "sub/deep" == sub / "deep"
    for bad in ("..", "a/../..", "/etc", "", ".", "a\0b", ".rh-manifest"):
        with pytest.raises(errors.InvalidError):
            folder / bad


def test_what_is_not_there(folder):
    with pytest.raises(errors.NotFoundError):
        folder.get("nothing")
    with pytest.raises(FileNotFoundError):
        folder.open("nothing")
    nowhere = folder / "nowhere"
    assert not nowhere.exists_in_system()
    with pytest.raises(errors.NotFoundError):
        nowhere.to(path="memory://x/y")
    with pytest.raises(errors.NotFoundError):
        nowhere.rm(recursive=True)


# open


def test_text(folder):
    with folder.open("t.txt", "w") as file:
        print("grüß", file=file)
        print("line two", file=file)
    assert folder.get("t.txt") == "grüß\nline two\n".encode()
    with folder.open("t.txt", "r") as file:
        assert list(file) == ["grüß\n", "line two\n"]
    with folder.open("l.txt", "w", encoding="latin-1", newline="\r\n") as file:
        file.write("é\n")
    assert folder.get("l.txt") == b"\xe9\r\n"
    assert folder.open("l.txt", "r", encoding="latin-1", newline="").read() == "é\r\n"


def test_reading_by_ranges(folder):
    data = os.urandom(1 << 20)
    folder.put({"x": data})
    with folder.open("x") as file:
        assert file.seekable()
        assert file.read(10) == data[:10]
        assert file.seek(-5, io.SEEK_END) == len(data) - 5
        assert file.read() == data[-5:]
        assert file.read(3) == b""
        file.seek(500_000)
        assert file.read(100) == data[500_000:500_100]
        assert file.tell() == 500_100
        file.seek(0)
        assert file.read() == data


def test_zip_files_can_be_written_and_read_in_place(folder):
    with folder.open("z.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("in/a.txt", "hello")
        archive.writestr("in/b.txt", "world" * 10_000)
    with folder.open("z.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.read("in/b.txt") == b"world" * 10_000


def test_parquet_can_be_written_and_read_in_place(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"n": list(range(10_000)), "s": [str(n) for n in range(10_000)]})
    with folder.open("t.parquet", "wb") as file:
        pq.write_table(table, file)
    with folder.open("t.parquet") as file:
        assert pq.read_table(file, columns=["s"]) == table.select(["s"])


def test_a_large_file_flows_through(folder):
    block = os.urandom(1 << 20)
    with folder.open("big", "wb") as file:
        for _ in range(20):
            file.write(block)
    with folder.open("big") as file:
        for _ in range(20):
            assert file.read(1 << 20) == block
        assert file.read() == b""


@pytest.mark.parametrize("size", [10, 12 << 20])
def test_an_exception_leaves_nothing(folder, size):
    folder.put({"old": b"old"})
    for mode, key in (("wb", "new"), ("wb", "old"), ("w", "text")):
        with pytest.raises(RuntimeError, match="boom"), folder.open(key, mode) as file:  # noqa: PT012
            file.write("x" * size if mode == "w" else b"x" * size)
            raise RuntimeError("boom")
    assert folder.ls(full_paths=False) == ["old"]
    assert folder.get("old") == b"old"


def test_nothing_is_seen_before_close(folder):
    file = folder.open("x", "wb")
    file.write(b"one")
    file.flush()
    with pytest.raises(errors.NotFoundError):
        folder.get("x")
    file.close()
    file.close()
    assert folder.get("x") == b"one"
    with pytest.raises(ValueError, match="closed"):
        file.write(b"two")


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_writer_that_is_dropped_stores_nothing_and_says_so(here, mode):
    file = here.open("x", mode)
    file.write("x" if mode == "w" else b"x")
    with pytest.warns(RuntimeWarning, match="not closed, so nothing was stored"):
        del file
    assert here.ls() == []


def test_exclusive_creation(here):
    with here.open("x", "xb") as file:
        file.write(b"one")
    with pytest.raises(errors.ExistsError), here.open("x", "x") as file:
        file.write("two")
    assert here.get("x") == b"one"


@pytest.mark.parametrize("mode", ["a", "ab", "r+", "w+b"])
def test_modes_that_a_store_has_not(here, mode):
    with pytest.raises(errors.UnsupportedError, match="in place"):
        here.open("x", mode)


@pytest.mark.parametrize("mode", ["", "q", "rw", "rbt", "rr", "b"])
def test_modes_that_are_none(here, mode):
    with pytest.raises(errors.InvalidError, match="not a mode"):
        here.open("x", mode)
    with pytest.raises(errors.InvalidError, match="for text"):
        here.open("x", "rb", encoding="utf-8")


def test_a_file_that_changes_while_it_is_read(folder):
    folder.put({"x": b"a" * (1 << 20)})
    with folder.open("x") as file:
        assert file.read(1) == b"a"
        folder.put({"x": b"b" * (1 << 20)}, overwrite=True)
        file.seek(900_000)
        with pytest.raises(errors.ConflictError):
            file.read()


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", "", ".", "a\0b", ".rh-manifest", "sub/.rh-x"])
def test_paths_stay_below_the_folder(folder, key):
    for call in (folder.get, folder.open, folder.rm, lambda k: folder.open(k, "wb"), lambda k: folder.put({k: b""})):
        with pytest.raises(errors.InvalidError):
            call(key)


# put


def test_put_refuses_before_the_first_byte(folder):
    folder.put({"b": b"old"})
    with pytest.raises(errors.ExistsError, match=r"1 of 3 exist already: b") as caught:
        folder.put({"a": b"new", "b": b"new", "c": b"new"})
    assert "overwrite=True" in caught.value.hint
    assert folder.ls(full_paths=False) == ["b"]
    for call in (lambda: folder.put({"b": b"new"}, overwrite="no"), lambda: folder.rm("b", recursive="no")):
        with pytest.raises(errors.InvalidError, match="neither True nor False"):
            call()
    assert folder.get("b") == b"old"
    folder.put({"a": b"new", "b": b"new"}, overwrite=True)
    assert folder.get("b") == b"new"


def test_put_refuses_many_before_the_first_byte(folder):
    folder.put({f"d/{n}": b"old" for n in range(70)})
    with pytest.raises(errors.ExistsError, match="1 of 101"):
        folder.put({**{f"d/{n}": b"new" for n in range(100, 200)}, "d/69": b"new"})
    assert len((folder / "d").ls()) == 70


@pytest.mark.parametrize(
    "contents",
    [
        {"a": b"", "a/b": b""},
        {"file/below": b""},
        {"tree": b""},
        {"../x": b""},
        {"/x": b""},
        {"a//b": b""},
        {"x/": b""},
    ],
)
def test_put_refuses_names_that_clash(folder, contents):
    folder.put({"file": b"1", "tree/inner": b"2"})
    for overwrite in (False, True):
        with pytest.raises(errors.InvalidError):
            folder.put({"fine": b"", **contents}, overwrite=overwrite)
    assert names(folder) == ["file", "tree/inner"]


def test_put_takes_files_paths_and_resources(folder, tmp_path):
    (tmp_path / "f.bin").write_bytes(b"\x00\r\n\xff")
    (tmp_path / "f.bin").chmod(0o755)
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "x").write_bytes(b"x")
    other = rh.folder(path="memory://other/tree")
    other.put({"in/y": b"y"})
    with (tmp_path / "f.bin").open("rb") as file:
        folder.put(
            {
                "bytes": bytearray(b"1"),
                "view": memoryview(b"2"),
                "file": file,
                "io": io.BytesIO(b"3"),
                "path": tmp_path / "f.bin",
                "tree": tmp_path / "d",
                "folder": other,
                "blob": rh.blob({"a": 1}),
                "written": rh.blob(b"w", path="memory://other/w").write(),
            }
        )
    expected = {
        "bytes": b"1", "view": b"2", "file": b"\x00\r\n\xff", "io": b"3", "path": b"\x00\r\n\xff",
        "tree/e/x": b"x", "folder/in/y": b"y", "blob": b'{"a":1}', "written": b"w",
    }  # fmt: skip
    assert {name: folder.get(name) for name in names(folder)} == expected


@pytest.mark.parametrize("value", ["text", io.StringIO("text"), 3, None, ["x"], Path("/no/such/file")])
def test_put_refuses_what_has_no_bytes(folder, value):
    with pytest.raises((errors.InvalidError, errors.NotFoundError)):
        folder.put({"fine": b"", "x": value})
    assert names(folder) == []


def test_a_put_that_fails_half_way_is_taken_back(folder):
    class Broken(io.RawIOBase):
        def read(self, size=-1):
            raise RuntimeError("the source broke")

    folder.put({"old": b"old"})
    with pytest.raises(RuntimeError, match="the source broke"):
        folder.put({"a": io.BytesIO(b"1"), "b": Broken(), "c": b"3"})
    assert names(folder) == ["old"]


# rm


def test_rm_removes_only_what_is_named(folder):
    folder.put({**TREE, "sub2": b"stays", "a.txt.bak": b"stays"})
    beside = folder.location.parent / "folder-2"
    rh.folder(path=str(beside.path), system=beside.system) if folder.system == "file" else None
    folder.rm("a.txt", "sub/")
    left = sorted({*TREE, "sub2", "a.txt.bak"} - {"a.txt", "sub/c.txt", "sub/deep/d.txt"})
    assert names(folder) == left
    folder.rm(contents=["b.bin"])
    folder.rm("names", recursive=True)
    assert "names/" not in folder.ls(full_paths=False)
    assert "b.bin" not in folder.ls(full_paths=False)


def test_rm_of_the_folder_spares_its_siblings(folder):
    parent = rh.folder(path=folder.location.parent.path, system=folder.system) if folder.system == "file" else None
    sibling = Location(folder.system, folder.location.path + "-2")
    beside = type(folder)(location=sibling, host=folder.host).mkdir()
    beside.put({"x": b"stays"})
    folder.put(TREE)
    folder.rm(recursive=True)
    assert not folder.exists_in_system()
    assert beside.get("x") == b"stays"
    if parent is not None:
        assert [os.path.basename(path.rstrip("/")) for path in parent.ls()] == ["folder-2"]


def test_rm_of_nothing_removes_nothing(folder):
    """A list of what to remove may be empty."""
    folder.put(TREE)
    with pytest.raises(errors.InvalidError, match="whole folder") as caught:
        folder.rm(*folder.glob("*.none"))
    assert "recursive=True" in str(caught.value.hint)
    folder.rm(contents=[])
    assert folder.get("a.txt") == TREE["a.txt"]


def test_rm_of_a_copy_leaves_no_manifest(folder, here):
    here.put(TREE)
    copy = here.to(folder.system, elsewhere(folder))
    assert copy.verify()
    copy.rm(recursive=True)
    assert not copy.exists_in_system()
    with pytest.raises(errors.NotFoundError):
        copy.handle().head(".rh-manifest")


def test_what_describes_a_directory_goes_with_it(folder, here):
    """A copy's manifest and a table's index: a mirror has just what it mirrors, and a repeat has nothing to do."""
    here.put({"a": b"1", "kept/b": b"2"})
    for name in ("gone/deep", "kept", "spared"):
        (here / "kept").to(path=(folder / name).url)
    folder.put({"spared/c.keep": b"3"})
    rh.table({"n": [1]}, path=(folder / "table").url).write()
    options = {"delete": True, "exclude": ["*.keep"]}
    mirror = here.to(path=folder.url, **options)
    assert (mirror.receipt.deleted, sorted(names(mirror))) == (3, ["a", "kept/b", "spared/c.keep"])
    for path in ("gone/deep/.rh-manifest", "table/.rh-table.json"):
        with pytest.raises(errors.NotFoundError):
            mirror.handle().head(path)
    assert mirror.handle().head("kept/.rh-manifest")
    assert not [name for name in mirror.ls(full_paths=False) if name.startswith(("gone", "table"))]
    assert here.to(path=folder.url, **options).receipt.deleted == 0
    assert here.to(path=folder.url, delete=True).receipt.deleted == 1
    assert mirror.verify()
    assert mirror.digest() == here.digest()
    rh.table({"n": [1]}, path=(folder / "table").url).write()
    mirror.rm("table", recursive=True)
    assert mirror.ls(full_paths=False) == ["a", "kept/"]


def test_compare(folder, here):
    """By content, whoever wrote the files; nothing is changed, and what was read is remembered."""
    here.put({"same": b"1" * 100, "other": b"a", "longer": b"12", "only/here": b"", "left.tmp": b"x", "was.link": b"5"})
    folder.put({"same": b"1" * 100, "other": b"b", "longer": b"1", "only/there": b"", "was.link": b"5"})
    found = here.compare(folder, exclude=["*.tmp"])
    assert found
    assert [(change.what, change.path) for change in found] == [
        ("modified", "longer"),
        ("removed", "only/here"),
        ("added", "only/there"),
        ("modified", "other"),
    ]
    assert (found.a, found.b) == (here.url, folder.url)
    assert not here.compare(folder.url, include=["same", "was.link"])
    assert {change.path for change in here.compare(folder)} >= {"left.tmp"}
    with pytest.raises(errors.NotFoundError):
        here.compare(folder / "none")
    copy = here.to(folder.system, elsewhere(folder), delete=True)
    assert not here.compare(copy)
    assert not copy.compare(here)


def test_compare_looks_through_links_on_both_sides(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(content)
        (tmp_path / name / "link").symlink_to("x")
    a, b, c = (rh.folder(path=tmp_path / name) for name in "abc")
    assert not a.compare(b)
    assert not a.compare(b, links="keep")
    assert [change.path for change in a.compare(c)] == ["link", "x"]
    assert [change.path for change in a.compare(c, links="keep")] == ["x"]
    copied = a.to(path=tmp_path / "copied")
    assert not a.compare(copied)
    assert not copied.compare(a)


def test_rm_refuses_before_it_removes(folder):
    folder.put(TREE)
    for names_ in (("a.txt", "typo"), ("a.txt", "typo/")):
        with pytest.raises(errors.NotFoundError):
            folder.rm(*names_)
    with pytest.raises(errors.InvalidError, match="is a directory") as caught:
        folder.rm("a.txt", "sub")
    assert "rm('sub/')" in caught.value.hint
    assert names(folder) == sorted(TREE)
    folder.rm(contents=[])
    assert names(folder) == sorted(TREE)
    with pytest.raises(errors.InvalidError, match="list"):
        folder.rm(contents="a.txt")


@pytest.mark.parametrize("place", ["file:///", "memory://store", "memory://"])
def test_rm_refuses_the_root_of_everything(place):
    with pytest.raises(errors.InvalidError, match="root"):
        rh.folder(path=place).rm(recursive=True)


def test_rm_does_not_follow_links(here, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    here.put({"x": b"1"})
    os.symlink(outside, Path(here) / "link")
    here.rm(recursive=True)
    assert (outside / "precious").read_text() == "x"
    assert not Path(here).exists()


def test_mkdir(here):
    deep = (here / "a" / "b").mkdir()
    assert Path(deep).is_dir()
    assert deep.exists_in_system()
    assert deep.ls() == []
    deep.mkdir()
    here.put({"file": b""})
    with pytest.raises(errors.RhError):
        (here / "file").mkdir()


# The value


def test_it_is_a_value(here):
    same = rh.folder(path=here.path)
    assert (same == here, hash(same) == hash(here), same is here) == (True, True, False)
    assert here != here / "sub"
    with pytest.raises(AttributeError):
        here.location = None
    assert pickle.loads(pickle.dumps(here)) == here
    assert rh.Folder.from_config(here.config()) == here
    assert json.loads(json.dumps(here.config())) == here.config()
    named = rh.folder("n", path=here.path, metadata={"owner": "ada", "tags": ["x"]})
    assert rh.Folder.from_config(named.config()) == named != here
    assert pickle.loads(pickle.dumps(named)) == named


def test_nothing_touches_the_disk_before_it_is_asked_to(python):
    """Making, printing, comparing, pickling: no file is opened or listed, no connection made."""
    out = python(
        "import os, pickle, sys\n"
        "from rh.resources import Blob, Cluster, Folder\n"
        "from rh.types import Location\n"
        "def use(n):\n"
        "    for value in (Folder(name=f'~/x{n}', location=Location('file', '/no/such'), metadata={'a': n}),\n"
        "                  Folder(name=f'/o/x{n}', location=Location('s3', 'bucket/key')),\n"
        "                  Blob(name=f'~/b{n}', location=Location('ssh-a', '~/b')), Blob(value={'a': 1}),\n"
        "                  Cluster(name=f'~/gpu{n}', settings={'host': 'no.such.host.invalid'})):\n"
        "        repr(value), str(value), value._repr_html_(), hash(value), value == value, bool(value)\n"
        "        pickle.loads(pickle.dumps(value))\n"
        "        getattr(value, 'written', True) and value.config()\n"
        "    os.fspath(Folder(location=Location('file', '/no/such')))\n"
        "use(1)  # imports what it needs\n"
        "seen = []\n"
        "watched = ('open', 'os.listdir', 'os.scandir', 'socket.connect', 'sqlite3.connect', 'subprocess.Popen')\n"
        "sys.addaudithook(lambda event, args: seen.append((event, args)) if event in watched else None)\n"
        "use(2)\n"
        "print(seen)\n"
        "open(os.devnull).close()\n"
        "assert seen\n"
    )
    assert out == "[]\n"


def test_len_and_iteration_are_not_there(here):
    with pytest.raises(TypeError):
        len(here)
    with pytest.raises(TypeError):
        iter(here)


def test_notebooks_show_it_escaped():
    folder = rh.folder("n", path="/tmp/<script>", metadata={"<b>": "&"})
    html = folder._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "~/n" in html
    assert repr(folder) == "<Folder ~/n at file:///tmp/<script>>"


def test_as_a_path(here):
    here.put({"a": b"1"})
    assert os.listdir(here) == ["a"]
    assert Path(here) == Path(here.path) == here.local()
    with pytest.raises(errors.UnsupportedError, match="not on this machine") as caught:
        os.fspath(rh.folder(path="memory://x/y"))
    assert ".local()" in caught.value.hint


def test_a_url_comes_back(folder):
    assert rh.folder(path=folder.url).location == folder.location
    assert (folder.system, folder.path) == (folder.location.system, folder.location.path)


# Elsewhere


def test_to_and_back(folder, here):
    here.put(TREE)
    copy = here.to(folder.system, elsewhere(folder))
    assert copy != here
    assert copy.receipt.files == len(TREE)
    assert copy.receipt.digest == copy.digest() == here.digest()
    assert {name: copy.get(name) for name in TREE} == TREE
    assert copy.verify()
    back = copy.to("here", Path(here.path).parent / "back")
    assert back.digest() == here.digest()
    again = here.to(folder.system, elsewhere(folder))
    assert (again.receipt.done, again.receipt.bytes_moved, again.receipt.skipped) == (0, 0, len(TREE))
    assert again == copy


def test_local_brings_it_here(folder):
    folder.put(TREE)
    path = folder.local()
    assert {name: (path / name).read_bytes() for name in TREE} == TREE
    folder.rm("a.txt")
    folder.put({"b.bin": b"changed"}, overwrite=True)
    path = folder.local()
    assert not (path / "a.txt").exists()
    assert (path / "b.bin").read_bytes() == b"changed"


def test_plan_moves_nothing(folder, here):
    here.put(TREE)
    plan = here.plan(folder.system, elsewhere(folder))
    assert (plan.files, plan.moves) == (len(TREE), len(TREE))
    assert "10 files" in str(plan) or "10" in str(plan)
    if folder.system == "file":
        assert folder.ls() == []


def test_options(here, tmp_path):
    here.put(TREE)
    copy = here.to(path=tmp_path / "only", include=["*.txt"], exclude=["/sub/"])
    assert names(copy) == sorted(key for key in TREE if key.endswith(".txt") and not key.startswith("sub/"))
    with pytest.raises(errors.InvalidError, match="no such option: includes"):
        here.to(path=tmp_path / "x", includes=["*.txt"])
    with pytest.raises(errors.InvalidError, match=r"\.plan"):
        here.to(path=tmp_path / "x", dry_run=True)
    (tmp_path / "only" / "extra").write_text("x")
    kept = here.to(path=tmp_path / "only")
    assert "extra" in kept.ls(full_paths=False)
    mirror = here.to(path=tmp_path / "only", delete=True)
    assert names(mirror) == sorted(TREE)


class Watch:
    def __init__(self):
        self.files = 0

    def start(self, title, *sums): ...
    def total(self, *sums): ...
    def advance(self, files, size):
        self.files += files

    def finish(self): ...


def test_progress(here, tmp_path):
    here.put(TREE)
    watch = Watch()
    here.to(path=tmp_path / "x", progress=watch)
    assert watch.files == len(TREE)


def test_the_place_without_a_path(here, monkeypatch, tmp_path):
    home = Path(os.environ["RH_HOME"])
    here.put({"a": b"1"})
    named = rh.folder("n", path=here.path)
    assert named.to("here").path == str(home / "data" / "n")
    monkeypatch.setenv("RH_USER", "ada")
    assert rh.folder("@/n", path=here.path).to(rh.here).path == str(home / "data" / "ada" / "n")
    assert here.to("here").path == str(home / "data" / here.digest().replace(":", "-"))
    monkeypatch.setenv("RH_FILE_ROOT", str(tmp_path / "root"))
    assert named.to("file").path == str(tmp_path / "root" / "n")
    monkeypatch.setenv("RH_MEMORY_ROOT", "store/data")
    assert named.to("memory").url == "memory://store/data/n"


def test_the_root_of_a_registered_disk_is_where_its_paths_begin(tmp_path):
    rh.register_system("nas", kind="file", root=tmp_path / "nas")
    assert rh.folder(path="a", system="nas").path == str(tmp_path / "nas" / "a")
    assert rh.folder(path="/abs", system="nas").path == "/abs"
    with pytest.raises(errors.InvalidError, match="root is text, not int"):
        rh.register_system("nas", kind="file", root=7)


def test_what_is_a_host_elsewhere_is_no_name_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, meant in (
        ("gpubox:data", "ssh://gpubox/~/data"),
        ("me@gpu:x", "ssh://me@gpu/~/x"),
        ("s3:b/x", "s3://b/x"),
    ):
        with pytest.raises(errors.InvalidError, match="neither a URL nor clearly a path") as caught:
            rh.folder(path=path)
        assert meant in caught.value.hint
        assert f"./{path}" in caught.value.hint
    (tmp_path / "gpubox:data").mkdir()
    for path in ("gpubox:data", "./new:data", "10:30", "a b:c"):
        assert rh.folder(path=path).path == str(tmp_path / path.removeprefix("./"))


def test_a_name_that_is_a_directory_here_may_be_meant_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.NotFoundError, match="nothing is called") as caught:
        rh.folder("src")
    assert "write path=" not in caught.value.hint
    (tmp_path / "src").mkdir()
    with pytest.raises(errors.NotFoundError, match="nothing is called") as caught:
        rh.folder("src")
    assert caught.value.hint.endswith("if it is a path, write path='src'")


def test_what_is_a_place_elsewhere_is_no_system(here):
    rh.register_system("box", kind="ssh", host="box.example")
    here.put({"a": b"1"})
    for system, meant in (
        ("box:data", "box:~/data or box:/data"),
        ("s3:b/x", "s3://b/x"),
        ("gpubox:data", "ssh://gpubox/~/data"),
    ):
        with pytest.raises(errors.InvalidError, match="neither a system's name nor a URL") as caught:
            here.to(system)
        assert caught.value.where == system
        assert caught.value.hint.startswith(meant)
        assert f"path='./{system}'" in caught.value.hint
    with pytest.raises(errors.NotFoundError, match="no system called"):
        here.to("boxx")


def test_no_root_configured_shows_the_line_to_add(here):
    here.put({"a": b"1"})
    with pytest.raises(errors.InvalidError, match="no root is configured") as caught:
        rh.folder("n", path=here.path).to("s3")
    assert "RH_S3_ROOT" in caught.value.hint
    assert "[systems.s3]" in caught.value.hint


@pytest.mark.parametrize(("scheme", "kind"), [("s3", "s3"), ("gs", "gs"), ("az", "azure")])
def test_what_no_store_can_be_asked_for_is_refused(here, monkeypatch, scheme, kind):
    here.put({"a": b"1"})
    monkeypatch.setenv(f"RH_{kind.upper()}_ANONYMOUS", "true")
    monkeypatch.setenv("RH_AZURE_ACCOUNT", "acc")
    for place in ("b\udce9", "b/x\udce9"):
        folder = rh.folder(path=f"{scheme}://{place}")
        for call in (folder.ls, lambda f=folder: here.to(f), folder.exists_in_system):
            with pytest.raises(errors.NameClashError, match="not valid Unicode"):
                call()
    with pytest.raises(errors.NameClashError, match=r"valid (Unicode|UTF-8)"):
        list(open_system(Location(kind, "b")).list("x\udce9"))
    with pytest.raises(errors.InvalidError, match=r"os\.fsdecode"):
        rh.folder(path=f"{scheme}://b/\ud800")


def test_to_takes_urls_paths_and_folders(here, tmp_path):
    here.put({"a": b"1"})
    assert here.to("memory://u/x").url == "memory://u/x"
    assert here.to("memory://u", "y").url == "memory://u/y"
    assert here.to(tmp_path / "p").path == str(tmp_path / "p")
    assert here.to(path="memory://u/z").url == "memory://u/z"
    assert here.to(rh.folder(path="memory://u/f")).url == "memory://u/f"
    assert here.to(rh.folder(path="memory://u/f"), "g").url == "memory://u/f/g"
    assert here.to(here.location) is here
    with pytest.raises(errors.InvalidError, match="no target is given"):
        here.to()
    with pytest.raises(errors.NotFoundError, match="memroy"):
        here.to("memroy")
    with pytest.raises(errors.InvalidError):
        here.to("memory", "s3://b/k")
    with pytest.raises(errors.InvalidError):
        here.to(here.location, "..")


def test_a_password_in_a_url_is_refused_and_not_repeated():
    for url in ("ssh://me:hunter2@host/x", "https://me:hunter2@host/x"):
        for call in (lambda u=url: rh.folder(path=u), lambda u=url: rh.folder(path="x", system=u)):
            with pytest.raises(errors.InvalidError) as caught:
                call()
            assert "hunter2" not in str(caught.value)


def test_relative_paths_are_fixed_when_they_are_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = rh.folder(path="data")
    monkeypatch.chdir("/")
    assert folder.path == str(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert rh.folder(path="~/x").path == os.path.expanduser("~/x")


def test_a_damaged_file_is_noticed_when_it_is_read(here, tmp_path):
    """Promise 2: bits that rot under an unchanged etag."""
    data = os.urandom(3 << 20)
    here.put({"x": data, "sub/y": data})
    copy = here.to(path="memory://rot/tree")
    store = copy.handle()._store if hasattr(copy.handle(), "_store") else None
    assert copy.get("x") == data
    from rh.systems import memory

    store = memory._stores["rot"]
    for key in ("tree/x", "tree/sub/y"):
        rotten = bytearray(data)
        rotten[2_000_000] ^= 1
        store.objects[key].data = bytes(rotten)
    for folder, key in ((copy, "x"), (copy / "sub", "y")):
        with pytest.raises(errors.IntegrityError, match="not what was stored"):
            folder.get(key)
        with pytest.raises(errors.IntegrityError), folder.open(key) as file:  # noqa: PT012
            while file.read(100_000):
                pass
        with folder.open(key, verify=True) as file, pytest.raises(errors.IntegrityError):
            file.read(1)
        with folder.open(key, verify=False) as file:
            assert len(file.read()) == len(data)
    assert copy.verify().corrupt == ("sub/y", "x")


def test_a_range_of_a_large_file_can_be_checked(here):
    data = os.urandom(40 << 20)
    here.put({"x": data})
    copy = here.to(path="memory://rot2/tree")
    from rh.systems import memory

    rotten = bytearray(data)
    rotten[-5] ^= 1
    memory._stores["rot2"].objects["tree/x"].data = bytes(rotten)
    with copy.open("x", verify=True) as file:
        file.seek(17 << 20)
        assert file.read(1000) == data[17 << 20 : (17 << 20) + 1000]
        file.seek(-1000, io.SEEK_END)
        with pytest.raises(errors.IntegrityError):
            file.read(10)
    with pytest.raises(errors.IntegrityError):
        copy.get("x")
    with pytest.raises(errors.UnsupportedError, match="no digest"):
        here.open("x", verify=True)


def test_it_is_read_in_few_requests(here):
    from rh.observe import counting

    data = os.urandom(30 << 20)
    here.put({"x": data})
    folder = here.to(path="memory://few/tree", manifest=False)
    with counting() as counts, folder.open("x") as file:
        file.read(10)
    assert counts.received["memory"] <= 256 * 1024
    with counting() as counts, folder.open("x") as file:
        while file.read(1 << 16):
            pass
    assert counts.received["memory"] <= len(data) * 1.01
    assert counts.requests["memory", "read"] <= 14
    with counting() as counts, folder.open("x") as file:
        assert file.read() == data
    assert counts.requests["memory", "read"] <= 14


def test_a_forked_child_reads_and_writes(folder):
    """Promise 27."""
    folder.put({"a": b"1"})
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if folder.get("a") == b"1":
                folder.put({"b": b"2"})
                status = 0
        finally:
            os._exit(status)
    assert folder.get("a") == b"1"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    if folder.system != "memory":
        assert folder.get("b") == b"2"


def test_a_spawned_child_gets_the_value(here):
    here.put({"a": b"1"})
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).get('a'))"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(here), capture_output=True, check=True)
    assert done.stdout == b"b'1'\n"


@pytest.mark.parametrize("path", ["", 5, b"x"])
def test_what_is_no_path_is_refused_before_it_means_the_working_directory(path, tmp_path, monkeypatch):
    """An unset variable, above all: `rh.folder(path="").rm(recursive=True)` must not be the working directory's end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").write_bytes(b"1")
    for attempt in (
        lambda: rh.folder(path=path).rm(recursive=True),
        lambda: rh.blob(path=path).rm(),
        lambda: rh.folder(path="kept").to("here", path=path),
    ):
        with pytest.raises(errors.InvalidError):
            attempt()
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]


def test_what_is_no_file_is_told_plainly(folder):
    """A directory is told to be one, and what is missing to be missing, on every place."""
    folder.put({"deep/a.txt": b"1"})
    for read in (
        folder.get,
        lambda path: folder.open(path).read(),
        lambda path: rh.blob(path=(folder / path).url).read(),
    ):
        with pytest.raises(errors.InvalidError, match="this is a directory, not a file") as caught:
            read("deep")
        assert caught.value.where.endswith("folder/deep")
        with pytest.raises(errors.NotFoundError, match="there is no such file") as caught:
            read("nothing")
        assert caught.value.where.endswith("folder/nothing")
    with pytest.raises(errors.InvalidError, match="names a directory"):
        folder.get("deep/")


def test_a_file_is_no_folder_and_it_is_told_what_it_is(folder):
    folder.put({"t.csv": b"n\n1\n"})
    file = folder / "t.csv"
    for look in (file.ls, lambda: list(file.walk()), file.size):
        with pytest.raises(errors.NotFoundError, match="this is a file, not a folder") as caught:
            look()
        assert caught.value.hint == f"rh.blob(path={file.url!r}); of the rows in it, rh.table(path={file.url!r})"


def test_a_directory_in_it_is_listed(folder):
    folder.put({"a": b"", "sub/b": b"", "sub/c/d": b""})
    assert folder.ls("sub", full_paths=False) == ["b", "c/"] == folder.ls("sub/", full_paths=False)
    assert folder.ls("sub") == [folder.ls()[1] + name for name in ("b", "c/")]
    assert folder.ls("sub/c", full_paths=False) == ["d"]
    with pytest.raises(errors.NotFoundError):
        folder.ls("none")


@pytest.mark.parametrize("path", ["..", "../x", "a/../../x", ".", "/x"])
def test_a_path_that_leads_out_is_invalid(here, path):
    for call in (here.get, here.ls, here.open, here.rm, here.glob, lambda p: here / p, lambda p: here.put({p: b""})):
        with pytest.raises(errors.InvalidError, match="does not stay below") as caught:
            call(path)
        assert caught.value.kind == "invalid"
        assert "without" in caught.value.hint


def test_a_part_of_a_copy_is_verified(folder, tmp_path):
    """By the manifest of the whole, which has its keys."""
    (tmp_path / "src" / "sub").mkdir(parents=True)
    (tmp_path / "src" / "sub" / "a").write_bytes(b"1")
    (tmp_path / "src" / "b").write_bytes(b"2")
    copy = rh.folder(path=tmp_path / "src").to(path=folder.url + "/copy")
    part = copy / "sub"
    assert part.verify().ok
    assert part.verify().above.endswith("/copy")
    part.put({"a": b"x"}, overwrite=True)
    assert part.verify().modified == ("a",)
    assert (copy / "sub").verify().as_dict()["ok"] is False


def test_what_comes_back_is_readable(here, tmp_path):
    """In a terminal and in a notebook: counts and places."""
    here.put({"a<b": b"1"})
    plan = here.plan(path=tmp_path / "copy")
    assert "'copy': 1" in repr(plan.counts)
    assert repr(plan.route) in ("'PUSH'", "'COPY'")
    receipt = here.to(path=tmp_path / "copy").receipt
    assert repr(receipt) == f"<Receipt {here.url} → file://{tmp_path}/copy: moved 1 of 1 files, 1 B of 1 B>"
    (tmp_path / "copy" / "x").write_bytes(b"")
    found = rh.folder(path=tmp_path / "copy").verify()
    assert repr(found) == f"<Verification file://{tmp_path}/copy: 2 files, 1 added>"
    assert found._repr_html_().startswith("<pre>")
    assert receipt._repr_html_().startswith("<pre>")


def test_the_options_that_editors_know_are_the_options():
    """`Keywords` is `Options`, and who watches."""
    known = get_type_hints(transfer.Keywords)
    assert {name: known[name] for name in transfer.Options.names_of()} == get_type_hints(transfer.Options)
    assert set(known) - transfer.Options.names_of() == {"progress", "cancel"}


def test_a_file_is_no_folder(folder, tmp_path):
    """Neither to look into, nor to remove, nor to copy a tree onto; and the file stays."""
    folder.put({"f": b"precious"})
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_bytes(b"a")
    as_folder = rh.folder(path=f"{folder.url}/f")
    assert not as_folder.exists_in_system()
    for read in (as_folder.ls, as_folder.size, lambda: as_folder.rm(recursive=True)):
        with pytest.raises((errors.NotFoundError, errors.NameClashError)) as caught:
            read()
        assert "file" in caught.value.message
    with pytest.raises(errors.NameClashError, match="file"):
        rh.folder(path=tmp_path / "tree").to(path=as_folder.url)
    assert folder.get("f") == b"precious"
    assert folder.ls(full_paths=False) == ["f"]


def test_a_system_of_one_letter():
    """It is named like any other; a drive of another operating system is none."""
    config.register("x", {"kind": "memory"})
    rh.folder(path="x:/one-letter").put({"f": b"1"})
    assert rh.folder(path="/one-letter", system="x").get("f") == b"1"
    with pytest.raises(errors.NotFoundError, match="no system called 'C'"):
        rh.folder(path="C:/data").ls()


@pytest.mark.parametrize("path", ["./x", "../x", "x/y", "/abs", "~/x"])
def test_a_path_where_a_system_is_wanted_is_told_so(folder, path):
    with pytest.raises(errors.NotFoundError) as caught:
        folder.to(path)
    assert caught.value.hint == f"if it is a path, write path={path!r}"
    with pytest.raises(errors.InvalidError, match="name of a system cannot be empty"):
        folder.to("")


def test_the_query_of_a_link_is_in_no_repr_and_no_error():
    """Promise 34: it may be what gives access to the place."""
    folder = rh.folder(path="http://127.0.0.1:9/x?sig=CANARY")
    seen = [repr(folder), folder._repr_html_()]
    for attempt in (folder.ls, lambda: folder.get("a")):
        with config.override({"retries": 0}), pytest.raises(errors.RhError) as caught:
            attempt()
        seen += [str(caught.value), str(caught.value.as_dict())]
    assert not [text for text in seen if "CANARY" in text]
