"""`import rh`: what it has, what it costs, and the calls of Runhouse's documents as they are written there."""

import doctest
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rh
from rh import errors
from rh.resources import places


@pytest.fixture(autouse=True, scope="module")
def _connections_closed():
    """The connections that resources keep end with the module."""
    yield
    places.close()


MODULES = [
    "rh",
    "rh.api",
    "rh.registry.names",
    "rh.resources.base",
    "rh.resources.blob",
    "rh.resources.cluster",
    "rh.resources.folder",
]


def test_what_import_rh_has():
    assert len(rh.__all__) <= 45
    assert sorted(rh.__all__) == sorted(set(rh.__all__))
    for name in rh.__all__:
        value = getattr(rh, name)
        assert value is getattr(rh, name)
        assert name in dir(rh)
        assert value.__doc__ or name == "__version__"
    with pytest.raises(AttributeError, match="no attribute 'tabel'"):
        rh.tabel  # noqa: B018
    for later in ("function", "data"):
        assert not hasattr(rh, later), "a later issue brings it; it is absent, not a stub"


def test_every_public_thing_says_what_it_promises():
    for cls in (rh.Folder, rh.Table, rh.Blob, rh.Cluster):
        for name, member in inspect.getmembers(cls):
            if not name.startswith("_") and (callable(member) or isinstance(member, property)):
                assert inspect.getdoc(member), f"{cls.__name__}.{name}"


def test_import_loads_nothing_of_others():
    """Promise 23, and little of the standard library: `benchmarks --only start` tells how quick it is."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "import rh\n"
        "assert len(set(sys.modules) - before) <= 10\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)), sorted(m for m in sys.modules if m.startswith('rh.')))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "['rh'] []\n"


def test_making_a_value_loads_no_sdk(tmp_path):
    code = (
        "import sys, rh\n"
        "f = rh.folder(path=sys.argv[1]); repr(f); f.put({'a': b'1'}); f.ls(); rh.blob(b'x', name='b').save()\n"
        "heavy = {'numpy', 'pyarrow', 'boto3', 'google', 'azure', 'paramiko', 'fsspec', 'rich', 'typer'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))\n"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"


def test_the_calls_of_runhouse_s_documents(world, tmp_path, monkeypatch, capsys):
    """Literally as in its documents, with our servers behind them."""
    monkeypatch.chdir(tmp_path)

    local_folder = rh.folder(name="my-folder", path=Path.cwd() / "folder_tmp").save()
    local_folder.put({f"sample_file_{i}.txt": f"file{i}".encode() for i in range(3)})
    c = rh.cluster("^rh-cpu").up_if_not()  # a built-in cluster  # fmt: skip
    cluster_folder = local_folder.to(system=c).from_cluster(c)
    print(cluster_folder.ls(full_paths=False))
    s3_folder = rh.folder(name="my-folder").to(system="s3")

    assert capsys.readouterr().out == "['sample_file_0.txt', 'sample_file_1.txt', 'sample_file_2.txt']\n"
    assert sorted(os.listdir(tmp_path / "folder_tmp")) == cluster_folder.ls(full_paths=False)
    assert s3_folder.url == world["s3"] + "/my-folder"
    assert s3_folder.get("sample_file_1.txt") == b"file1"
    assert s3_folder.receipt.done == 3
    assert rh.folder(name="my-folder") == local_folder, "nothing is saved until .save()"
    assert s3_folder.save() == rh.folder(name="my-folder")


def test_the_same_calls_on_a_host(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local_folder = rh.folder(name="my-folder", path=Path.cwd() / "folder_tmp").save()
    local_folder.put({f"sample_file_{i}.txt": f"file{i}".encode() for i in range(3)})
    c = rh.cluster("ssh-a").up_if_not()
    cluster_folder = local_folder.to(system=c).from_cluster(c)
    assert cluster_folder.ls(full_paths=False) == ["sample_file_0.txt", "sample_file_1.txt", "sample_file_2.txt"]
    s3_folder = cluster_folder.to(system="s3")
    assert s3_folder.digest() == local_folder.digest()


def test_what_went_wrong_there_does_not_here(world, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("x")
    folder = rh.folder(name="mine", path=tmp_path / "mine").save()
    folder.put({"a": b"1", "sub/b": b"2"})
    # A key of a bucket never becomes a path below the working directory.
    with pytest.raises(errors.InvalidError, match="path="):
        rh.folder("data/../bucket/key")
    assert rh.folder(path="data/train", system="s3").url == world["s3"] + "/data/train"
    # A copy of a missing folder is an error, never an empty handle.
    with pytest.raises(errors.NotFoundError):
        rh.folder(path=tmp_path / "missing").to("s3", "missing")
    assert not rh.folder(path="missing", system="s3").exists_in_system()
    # Removing touches nothing beside it; git-ignored files are data; nothing is deleted without being asked.
    (tmp_path / "mine" / ".gitignore").write_text("a\n")
    copy = folder.to("s3", "copy")
    assert copy.glob("**/*") == [".gitignore", "a", "sub/", "sub/b"]
    copy.put({"extra": b""})
    assert "extra" in folder.to("s3", "copy").ls(full_paths=False)
    folder.rm(recursive=True)
    assert (tmp_path / "other" / "precious").exists()


def test_register_system(tmp_path):
    rh.register_system("scratch", kind="memory", root="scratch/area")
    assert rh.folder(path="x", system="scratch").url == "scratch://scratch/area/x"
    rh.register_system("my_fs", fsspec="file", options={"auto_mkdir": True})
    folder = rh.folder(path=f"my_fs://{tmp_path}/x")
    folder.put({"a.txt": b"through fsspec"})
    assert (tmp_path / "x" / "a.txt").read_bytes() == b"through fsspec"
    assert folder.ls(full_paths=False) == ["a.txt"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "x"},
        {"name": "x", "kind": "s3", "fsspec": "ftp"},
        {"name": "here", "kind": "s3"},
        {"name": "file", "kind": "s3"},
        {"name": "a.b", "kind": "s3"},
        {"name": "", "kind": "s3"},
        {"name": "x", "kind": "s3", "secret_access_key": "hunter2"},
        {"name": "x", "kind": "s3", "options": {"a": 1}},
    ],
)
def test_what_is_no_system(arguments):
    with pytest.raises(errors.InvalidError) as caught:
        rh.register_system(**arguments)
    assert "hunter2" not in str(caught.value)
    assert "x" not in rh.config.system_names()


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_docstrings_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = importlib.import_module(module)
    results = doctest.testmod(found, optionflags=doctest.ELLIPSIS, raise_on_error=False)
    assert results.failed == 0
    if module not in ("rh.registry.names", "rh.resources.base"):
        assert results.attempted > 0


@pytest.mark.slow
def test_type_checkers_see_everything(tmp_path):
    code = tmp_path / "use.py"
    code.write_text(
        "from typing import IO, assert_type\nimport rh\n"
        "folder: rh.Folder = rh.folder('x')\n"
        "blob: rh.Blob = rh.blob(b'x')\n"
        "names: list[str] = rh.resources('~')\n"
        "here: rh.Cluster = rh.here\n"
        "version: str = rh.__version__\n"
        "with rh.set_folder('/org') as name:\n    name.upper()\n"
        "try:\n    rh.load('x')\nexcept rh.errors.NotFoundError as error:\n    error.hint\n"
        "data: bytes = folder.open('a').read() + blob.open('rb').read()\n"
        "text: str = folder.open('a', 'r', encoding='latin-1').read() + blob.open('rt').read()\n"
        "assert_type(folder.open('a', 'wb'), IO[bytes])\n"
        "assert_type(blob.open('w'), IO[str])\n"
        "rh.folder(3)\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--cache-dir",
            str(tmp_path / "cache"),
            "--output",
            "json",
            str(code),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(rh.__file__).parent.parent,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(error["line"], error["code"]) for error in found if error["file"].endswith("use.py")] == [
        (18, "arg-type")
    ], done.stdout
