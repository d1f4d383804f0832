"""What differs between two versions, found from their nodes alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rh import observe
from rh.systems import locate
from rh.versions.diff import changes, diff
from rh.versions.store import Store
from tests.versions.made import again, commit, store_on


@pytest.fixture
def store(request, tmp_path):
    return store_on("memory", request, tmp_path)


def paths(some):
    return [change.path for change in some]


def test_each_sort_of_change(store):
    """Added, removed, modified and renamed, with their sizes, and the same as plain values."""
    a = commit(
        store,
        {"same": b"1", "old/name.txt": b"moved", "gone": b"xx", "edit": b"1", "run": b"r", "kind": b"k",
         "e/__init__": b""},
        links={"link": "a"},
        voids=("void/", "filled/", "stays/"),
    )  # fmt: skip
    b = commit(
        store,
        {"same": b"1", "new/name.txt": b"moved", "come": b"yyy", "edit": b"22", "run": b"r", "kind/x": b"k",
         "filled/f": b"?",
         "f/__init__": b"", "empty": b""},
        links={"link": "b"},
        voids=("stays/", "void2/"),
        executable=frozenset({"run"}),
    )  # fmt: skip
    found = diff(a, b, store)
    assert paths(found.added) == ["come", "empty", "filled/f", "void2/"]
    assert paths(found.removed) == ["gone", "void/"]
    assert paths(found.modified) == ["edit", "link", "run"]
    assert [(change.old_path, change.path) for change in found.renamed] == [
        ("e/__init__", "f/__init__"),
        ("kind", "kind/x"),
        ("old/name.txt", "new/name.txt"),
    ]
    edit = found.modified[0]
    assert (edit.old.size, edit.new.size) == (1, 2)
    assert found
    assert len(found) == len(list(found)) == 12
    plain = found.as_dict()
    assert (plain["a"], plain["b"], plain["added_size"], plain["removed_size"]) == (a.digest, b.digest, 4, 2)
    assert plain["modified"][0]["old_size"] == 1
    assert plain["renamed"][2]["old_path"] == "old/name.txt"
    assert "4 added" in repr(found)
    assert "renamed   old/name.txt → new/name.txt" in str(found)
    nothing = diff(a, a, store)
    assert not nothing
    assert str(nothing) == "no differences"


def test_equal_directories_are_not_opened(store, tmp_path, monkeypatch):
    """From a version of 100 directories to one with a file more in one of them: four nodes are read, and no file."""
    files = {f"d{n:02}/f{m}": b"%d %d" % (n, m) for n in range(100) for m in range(5)}
    a = commit(store, files)
    b = commit(store, files | {"d50/more": b"!"})
    monkeypatch.setenv("RH_HOME", str(tmp_path / "elsewhere"))
    asked = []
    fresh = again(store)
    node = fresh.node
    monkeypatch.setattr(fresh, "node", lambda digest, where: asked.append(digest) or node(digest, where))
    with observe.counting() as counted:
        assert paths(changes(a, b, fresh)) == ["d50/more"]
    assert len(asked) == 4
    assert counted.total() <= 4


def test_between_two_stores(store, tmp_path):
    """Versions in different stores are compared by what they hold."""
    other = Store.at(locate(tmp_path / "store"))
    a, b = commit(store, {"x/a": b"1", "b": b"2"}), commit(other, {"x/a": b"1", "b": b"3"})
    assert paths(diff(a, b, store, other)) == ["b"]


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
TREES = st.dictionaries(NAMES, st.sampled_from([b"", b"1", b"2"]), max_size=6).map(
    lambda tree: {key: data for key, data in tree.items() if not any(other.startswith(key + "/") for other in tree)}
)


@settings(max_examples=60, deadline=None)
@given(TREES, TREES)
def test_applied_to_one_it_gives_the_other(a, b):
    """What is renamed, removed, added and modified leads from any tree to any other; the lazy form tells the same."""
    store = Store.at(locate("memory://diff-property/.rh-store"))
    one, two = commit(store, a), commit(store, b)
    found = diff(one, two, store)
    made = {key: data for key, data in a.items() if key not in paths(found.removed)}
    for change in found.renamed:
        made.pop(change.old_path)
    made |= {change.path: a[change.old_path] for change in found.renamed}
    for change in (*found.added, *found.modified):
        made[change.path] = b[change.path]
    assert made == b
    assert bool(found) is (a != b)
    plain = [(change.what, change.path) for change in changes(one, two, store)]
    assert [path for what, path in plain if what != "removed"] == sorted(key for key in b if a.get(key) != b[key])
    assert {path for what, path in plain if what == "removed"} == set(a) - set(b)
