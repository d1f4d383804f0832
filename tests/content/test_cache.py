"""The digest cache against a dictionary: nested roots, blocks that are cut and merged, what a manifest covers."""

from __future__ import annotations

import random
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rh.content.cache import Described, DigestCache
from rh.content.manifest import Footer
from rh.content.rows import Cursor, Rows, paged
from rh.content.tree import Row, key_bytes
from rh.systems.local import LocalSystem
from rh.types import Location

FOOTER = Footer(1, 2, "sha256:00")
_names = st.sampled_from(["a", "a-", "b", "c0", "d", "é", "\udc80", "😀", "z"])
_keys = st.lists(_names, min_size=1, max_size=4).map("/".join)


def row(key: str, etag: str = "e") -> Row:
    return Row(key, 3, "file", f"sha256:{key.encode('utf-8', 'surrogateescape').hex()}:{etag}", etag)


def at(path: str) -> LocalSystem:
    return LocalSystem(Location("file", f"/data{path}"), {"timeout_s": 5})


def known(cache: DigestCache) -> dict[str, Row]:
    rows = [one for page in cache.pages() for one in page.each()]
    assert [key_bytes(one.key) for one in rows] == sorted(key_bytes(one.key) for one in rows)
    return {one.key: one for one in rows}


_steps = st.lists(
    st.tuples(
        st.sampled_from(["remember", "replace"]),
        st.sampled_from(["", "/a", "/a/b", "/é", "/d/😀"]),
        st.lists(_keys, max_size=8),
        st.sampled_from(["1", "2"]),
    ),
    max_size=6,
)


@pytest.mark.slow
@given(steps=_steps)
@settings(max_examples=60, deadline=None)
def test_it_knows_what_it_was_told_last(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("cache") / "digests.db"
    model: dict[str, Row] = {}
    for verb, root, keys, etag in steps:
        cache = DigestCache(at(root), path)
        rows = {key: row(key, etag) for key in keys}
        if verb == "replace":
            for key in [key for key in model if f"/{key}".startswith(f"{root}/")]:
                del model[key]
            cache.replace(paged(sorted(rows.values(), key=lambda one: key_bytes(one.key))))
        else:
            cache.remember(rows.values())
        model.update({f"{root}/{key}"[1:]: one._replace(key=f"{root}/{key}"[1:]) for key, one in rows.items()})
    for root in ("", "/a", "/a/b", "/é", "/d/😀", "/none"):
        below = {key[len(root) :]: one for key, one in model.items() if f"/{key}".startswith(f"{root}/")}
        expected = {key.removeprefix("/"): one.digest for key, one in below.items()}
        cache = DigestCache(at(root), path)
        assert {key: one.digest for key, one in known(cache).items()} == expected
        for key, one in below.items():
            found = cache.get(key.removeprefix("/"), one.etag)
            assert found is not None
            assert found.digest == one.digest
            assert cache.get(key.removeprefix("/"), "other") is None


def test_many_rows_go_into_few_blocks(tmp_path):
    path = tmp_path / "digests.db"
    keys = sorted(f"{number:05}" for number in range(5_500))
    cache = DigestCache(at(""), path)
    cache.replace(paged(map(row, keys)))
    several = random.Random(1).sample(keys, 40)
    cache.remember(row(key, "new") for key in several)
    cache.remember(row(f"{key}x") for key in several)
    found = known(cache)
    assert len(found) == 5_540
    assert {found[key].etag for key in several} == {"new"}
    with sqlite3.connect(path) as db:
        assert db.execute("select count(*) from blocks").fetchone()[0] <= 40


def test_a_described_root_is_no_longer_once_anything_is_learned_of_it(tmp_path):
    path = tmp_path / "digests.db"
    described = Described("etag", FOOTER)
    for other in ("", "/a", "/a/b"):
        DigestCache(at("/a"), path).replace(paged([row("b/x")]), described)
        assert DigestCache(at("/a"), path).described() == described
        DigestCache(at("/ab"), path).remember([row("x")])
        assert DigestCache(at("/a"), path).described() == described
        DigestCache(at(other), path).remember([row("y")])
        assert DigestCache(at("/a"), path).described() is None


def test_rows_without_digest_or_etag_are_not_kept(tmp_path):
    cache = DigestCache(at(""), tmp_path / "digests.db")
    cache.remember([Row("a", 1, "file", None, "e"), Row("b", 1, "file", "sha256:00", None)])
    assert known(cache) == {}


def test_a_damaged_cache_is_only_a_cache(tmp_path, caplog):
    path = tmp_path / "digests.db"
    path.write_bytes(b"no database" * 1000)
    cache = DigestCache(at(""), path)
    cache.remember([row("a")])
    assert known(cache) == {}
    assert cache.get("a", "e") is None
    assert "cannot be" in caplog.text


def test_a_block_of_something_else_is_passed_over(tmp_path, caplog):
    path = tmp_path / "digests.db"
    cache = DigestCache(at(""), path)
    cache.remember([row("a")])
    with sqlite3.connect(path) as db:
        db.execute("update blocks set data = ?", (b"\x00garbage",))
    assert known(cache) == {}
    cache.remember([row("a")])
    assert "cannot be" in caplog.text


@given(keys=st.sets(_keys, max_size=30), cuts=st.lists(_keys, max_size=6), size=st.integers(1, 7))
def test_a_cursor_gives_each_row_once(keys, cuts, size):
    rows = [row(key) for key in sorted(keys, key=key_bytes)]
    pages = [Rows.of(rows[at : at + size]) for at in range(0, len(rows), size)]
    cursor = Cursor(pages)
    given_back: list[Row] = []
    for cut in sorted(set(cuts), key=key_bytes):
        page = cursor.until(cut)
        new = list(page.each()) if page is not None else []
        assert all(key_bytes(one.key) <= key_bytes(cut) for one in new)
        given_back += new
        assert all(key_bytes(one.key) > key_bytes(cut) for one in rows[len(given_back) :])
    given_back += [one for page in cursor.rest() for one in page.each()]
    assert given_back == rows


def test_pages_of_rows_are_whole():
    rows = [row(f"{number:04}") for number in range(2_345)]
    pages = list(paged(rows))
    assert [len(page.keys) for page in pages] == [1_000, 1_000, 345]
    assert [one for page in pages for one in page.each()] == rows


@pytest.mark.parametrize("first", ["b", "a"])
def test_between_leaves_out_pages_that_end_before(first):
    pages = [Rows.of([row("a")]), Rows.of([row("b"), row("c")])]
    taken = Cursor(pages).between(first, "b")
    assert taken is not None
    assert taken.keys == (["b"] if first == "b" else ["a", "b"])
