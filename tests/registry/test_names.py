"""What a name is, and what it means here and now."""

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rh
from rh import errors
from rh.registry.names import Name, nearest, parse, parse_prefix


@pytest.fixture(autouse=True)
def _at_home():
    rh.unset_folder()
    yield
    rh.unset_folder()


@pytest.mark.parametrize(
    ("text", "path", "key", "stem"),
    [
        ("x", "~/x", "resources/~/x", "x"),
        ("team/x", "~/team/x", "resources/~/team/x", "team/x"),
        ("~/x", "~/x", "resources/~/x", "x"),
        ("@/x", "/ada/x", "resources/ada/x", "ada/x"),
        ("/org/team/x", "/org/team/x", "resources/org/team/x", "org/team/x"),
        ("/org/x", "/org/x", "resources/org/x", "org/x"),
        ("^x", "^x", "resources/^x", "x"),
        ("a.b-c_D9", "~/a.b-c_D9", "resources/~/a.b-c_D9", "a.b-c_D9"),
        ("a..b", "~/a..b", "resources/~/a..b", "a..b"),
    ],
)
def test_names(text, path, key, stem, monkeypatch):
    monkeypatch.setenv("RH_USER", "ada")
    name = parse(text)
    assert (name.path, name.key, name.stem, name.pinned) == (path, key, stem, None)
    assert parse(name.path) == name == parse(name)
    if not name.is_built_in:
        assert Name.of_key(name.key) == name
    assert name.is_local == path.startswith("~/")


@pytest.mark.parametrize(
    ("text", "path", "label", "digest"),
    [
        ("x:v3", "~/x", "v3", None),
        ("x:production", "~/x", "production", None),
        ("/org/x:latest", "/org/x", "latest", None),
        ("x@sha256:abcd", "~/x", None, "sha256:abcd"),
        ("@/x@sha256-16m:" + "0" * 64, "/ada/x", None, "sha256-16m:" + "0" * 64),
        ("@/x:v1", "/ada/x", "v1", None),
    ],
)
def test_versions_are_parsed(text, path, label, digest, monkeypatch):
    monkeypatch.setenv("RH_USER", "ada")
    name = parse(text)
    assert (name.path, name.label, name.digest) == (path, label, digest)
    assert parse(str(name)) == name


@pytest.mark.parametrize("text", ["x:v3", "x@sha256:abcd", "/org/x:latest"])
def test_a_version_is_of_a_name_that_is_saved(text):
    for call in (rh.load, rh.folder, lambda name: rh.blob(name=name)):
        with pytest.raises(errors.NotFoundError, match="nothing is called"):
            call(text)
    assert not rh.exists(text)
    with pytest.raises(errors.InvalidError, match="names a version"):
        rh.folder(text, path="/tmp")


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/key",
        "https://example.org/x",
        "file:///tmp/x",
        "./x",
        "../x",
        ".",
        "..",
        ".hidden",
        "/.hidden/x",
        "~",
        "~ada/x",
        "host:/abs",
        "host:~/x",
        "C:\\data",
        "a\\b",
        "*.txt",
        "my data/cats",
        "~/",
    ],
)
def test_what_looks_like_a_path_says_so(text):
    for call in (rh.folder, rh.load):
        with pytest.raises(errors.InvalidError, match=r"looks like a (path|URL)") as caught:
            call(text)
        assert "path=" in caught.value.hint


NO_NAMES = """a/../b /a/../b ~/../x @/../x a//b //a/b a/ /a/b/ -x a/-x _x é x: x:-v x@sha256: x@sha256:XY x@v3 @x ^
^a/../b a/./b x:v3:v4"""


@pytest.mark.parametrize("text", [*NO_NAMES.split(), "", "a\0b", "a" * 600, "a" * 200])
def test_names_that_escape_or_are_none(text, monkeypatch):
    monkeypatch.setenv("RH_USER", "ada")
    with pytest.raises(errors.InvalidError):
        parse(text)


@pytest.mark.parametrize("text", ["my cats", "x\n", "é", "_x", "-x"])
def test_what_is_plainly_a_name_is_not_told_of_paths(text):
    """`path=` is advised only where it may be what was meant."""
    with pytest.raises(errors.InvalidError, match="not allowed") as caught:
        parse(text)
    assert "path=" not in caught.value.hint


def test_a_single_component_is_not_a_whole_name():
    with pytest.raises(errors.InvalidError, match="owner") as caught:
        parse("/tmp")
    assert "path='/tmp'" in caught.value.hint


def test_a_path_object_is_not_a_name(tmp_path):
    with pytest.raises(errors.InvalidError, match="looks like a path"):
        rh.folder(tmp_path)
    with pytest.raises(errors.InvalidError, match="text"):
        rh.folder(3)


def test_whose_is_it_when_nobody_is_known(monkeypatch, tmp_path):
    for call in (rh.load, rh.folder, rh.exists, lambda n: rh.folder(n, path=tmp_path), lambda n: rh.set_folder("@")):
        with pytest.raises(errors.InvalidError, match="who are you") as caught:
            call("@/x")
        assert "RH_USER" in caught.value.hint
    monkeypatch.setenv("RH_USER", "../root")
    with pytest.raises(errors.InvalidError, match="user"):
        parse("@/x")


@given(st.text(max_size=30))
def test_no_name_leads_anywhere_else(text):
    """Whatever text is given: a clean whole name, or `InvalidError`."""
    try:
        name = parse(text)
    except errors.InvalidError:
        return
    parts = name.path.removeprefix("~/").lstrip("/^").split("/")
    assert all(part[0].isascii() and part[0].isalnum() for part in parts)
    assert all(part not in ("", ".", "..") for part in parts)
    assert not name.stem.startswith(("/", "-", "."))
    assert parse(str(name)) == name


def test_the_current_folder():
    assert rh.current_folder() == "~"
    rh.set_folder("~/project")
    assert (rh.current_folder(), parse("x").path) == ("~/project", "~/project/x")
    rh.set_folder("deeper")
    assert parse("x").path == "~/project/deeper/x"
    rh.set_folder("/org")
    assert parse("x").path == "/org/x"
    rh.unset_folder()
    assert rh.current_folder() == "~"


def test_the_current_folder_of_a_block(monkeypatch):
    monkeypatch.setenv("RH_USER", "ada")
    with rh.set_folder("/org/team") as folder:
        assert folder == rh.current_folder() == "/org/team"
        with rh.set_folder("@"):
            assert parse("x").path == "/ada/x"
        assert parse("x").path == "/org/team/x"
    assert rh.current_folder() == "~"
    with pytest.raises(RuntimeError), rh.set_folder("/org"):
        raise RuntimeError
    assert rh.current_folder() == "~"


@pytest.mark.parametrize("folder", ["/", "", "^x", "x:v3", "../x", "s3://b", "x/../y"])
def test_what_is_no_folder_of_names(folder):
    with pytest.raises(errors.InvalidError):
        rh.set_folder(folder)
    assert rh.current_folder() == "~"


def test_threads_share_the_process_s_folder_and_keep_their_own():
    rh.set_folder("/org/team")
    seen = {}

    def work():
        seen["before"] = rh.current_folder()
        rh.set_folder("/mine")
        seen["after"] = rh.current_folder()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == {"before": "/org/team", "after": "/mine"}
    assert rh.current_folder() == "/org/team"


def test_tasks_keep_their_own_folder():
    async def task(folder):
        rh.set_folder(folder)
        await asyncio.sleep(0.01)
        return rh.current_folder()

    async def main():
        return await asyncio.gather(*(task(f"/org/t{n}") for n in range(5)))

    assert asyncio.run(main()) == [f"/org/t{n}" for n in range(5)]
    assert rh.current_folder() == "~"


def test_folders_of_names(monkeypatch):
    monkeypatch.setenv("RH_USER", "ada")
    assert parse_prefix(None) == "~"
    assert parse_prefix("/") == ""
    assert parse_prefix("@") == "/ada"
    assert parse_prefix("~/a/") == "~/a"
    assert parse_prefix("/org") == "/org"
    assert parse_prefix("sub") == "~/sub"


def test_nearest():
    known = ["~/train", "~/test", "/org/train", "/org/models/bert"]
    assert nearest(parse("trian"), known)[0] == "~/train"
    assert "/org/models/bert" in nearest(parse("bert"), known)
    assert nearest(parse("zzz"), known) == []
