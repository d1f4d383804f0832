"""Which keys a target can hold, and which patterns mean which keys."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rh.content import names
from rh.content.patterns import selector
from rh.content.tree import key_bytes
from rh.errors import InvalidError, NameClashError
from rh.systems.far.skip import Skip

HOSTILE = ["../x", "a/../../x", "/etc/passwd", "a//b", ".", "..", "a/./b", "x/" + "n" * 256, "a\0b", ""]


@pytest.mark.parametrize("key", HOSTILE)
@pytest.mark.parametrize("kind", ["file", "ssh"])
def test_keys_that_are_no_paths_are_refused(key: str, kind: str) -> None:
    """Promise 32."""
    with pytest.raises(NameClashError):
        names.check_all([key], kind)


def test_a_file_and_something_below_it_clash_on_disks_only() -> None:
    keys = sorted(["a", "a-b", "a.b", "a/b", "a0"], key=key_bytes)
    with pytest.raises(NameClashError, match="'a' is a file or a link, and 'a/b'"):
        names.check_all(keys, "file")
    names.check_all(keys, "s3")
    names.check_all(sorted(["a-b", "a.b/c", "a/b", "a0"], key=key_bytes), "file")


def test_names_that_differ_in_case_or_form_clash_where_the_disk_folds() -> None:
    with pytest.raises(NameClashError, match="one name"):
        names.check_all(["A.txt", "a.txt"], "file", folds=True)
    with pytest.raises(NameClashError, match="one name"):
        names.check_all(["e\u0301", "\u00e9"], "file", folds=True)
    names.check_all(["A.txt", "a.txt"], "file")


def test_what_an_object_store_cannot_hold_is_refused() -> None:
    with pytest.raises(NameClashError, match="Unicode"):
        names.check_all(["\udcff"], "s3")
    with pytest.raises(InvalidError, match="1024"):
        names.check_all(["é" * 513], "s3")
    names.check_all(["é" * 512, "/lead", "a//b", ".."][:1], "s3")


@pytest.mark.parametrize(
    ("kind", "key"),
    [("gs", "new\nline"), ("gs", "re\rturn"), ("gs", "caf\udce9")]
    + [("azure", key) for key in ("back\\slash", "bell\x07", "\uffff", "./a", "a/..", "caf\udce9")],
)
def test_encoding_helps_where_a_store_has_no_such_name(kind: str, key: str) -> None:
    with pytest.raises(NameClashError, match="encode"):
        names.check_all([key], kind)
    names.check_all([names.encode(key)], kind)
    assert names.decode(names.encode(key)) == key


def test_all_that_has_no_place_is_told_at_once() -> None:
    with pytest.raises(InvalidError) as caught:
        names.check_all(["fine", "a" * 1_100, *(f"\udcff{number}" for number in range(9))], "s3", where="s3://data/x")
    assert caught.value.message.startswith("10 names have no place here: 'aaa")
    assert caught.value.message.endswith("'\\udcff3', …")
    assert caught.value.where == "s3://data/x"
    assert caught.value.hint == "exclude them"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_key_can_be_encoded_and_decoded(key: str) -> None:
    encoded = names.encode(key)
    assert names.decode(encoded) == key
    parts = encoded.rstrip("/").split("/") if len(encoded) > 1 else [encoded]
    assert all(part not in ("", ".", "..") for part in parts) or key == "/"
    assert not set("\0\r\n") & set(encoded)


@pytest.mark.parametrize(
    ("include", "exclude", "ignore", "meant", "others"),
    [
        (["*.txt"], [], [], ["a.txt", "d/e.txt"], ["a.py"]),
        (["/a.txt"], [], [], ["a.txt"], ["d/a.txt"]),
        ([], ["build/"], [], ["a", "builder/x"], ["build/x", "d/build/y"]),
        ([], ["*.log", "!keep.log"], [], ["keep.log", "x"], ["a.log"]),
        ([], [], ["# note", "", "d/**/z"], ["d/y"], ["d/z", "d/e/f/z"]),
        (["data/"], ["*.tmp"], ["secret"], ["data/a"], ["data/a.tmp", "data/secret", "other"]),
        (["[[]x", "a[&&]b"], [], [], ["[x", "a&b"], ["x", "ab"]),
    ],
)
def test_patterns(include, exclude, ignore, meant, others) -> None:
    select = selector(include, exclude, ignore)
    assert [key for key in meant + others if select.means(key)] == meant


_steps = st.sampled_from(["a", "b", "ab", "a.x", "*", "**", "?", "[!a]", "[!a]*", "*[!a]", "a*", "*.x", "\n", "!a"])
_patterns = st.builds(
    lambda steps, first, last: first + "/".join(steps) + last,
    st.lists(_steps, min_size=1, max_size=3),
    st.sampled_from(["", "/"]),
    st.sampled_from(["", "/"]),
)


@given(
    st.lists(_patterns, min_size=1, max_size=3), st.lists(st.sampled_from(["a", "b", "ab", "a.x", "c\n"]), min_size=2)
)
def test_nothing_that_is_meant_lies_in_a_directory_that_is_skipped(exclude: list[str], steps: list[str]) -> None:
    select = selector(exclude=exclude)
    assert select is not None
    assert select.skip is not None
    if select.means("/".join(steps)):
        assert not any(select.skip("/".join(steps[:n]) + "/") for n in range(1, len(steps)))


@pytest.mark.parametrize(
    ("exclude", "skipped"),
    [
        ("d", True),
        ("d/", True),
        ("/d/**", True),
        ("d/*", False),
        ("x", False),
        ("/d/x", False),
        ("*[!d]", False),  # d/d is meant
        ("[d[]", True),
        ("[[d]", True),
    ],
)
def test_directories_that_are_left_out_are_skipped(exclude: str, skipped: bool) -> None:
    for how in ({"exclude": [exclude]}, {"ignore": [exclude]}):
        re.purge()  # as on a host, where nothing has compiled them before
        assert Skip(selector(**how).skip.patterns)("d/") == skipped  # type: ignore[arg-type, union-attr]
        assert selector(**how).skip("d/") == skipped  # type: ignore[arg-type, union-attr]
        assert not selector(**{key: [exclude, "!keep"] for key in how}).skip("d/")  # type: ignore[arg-type, union-attr]


def test_no_pattern_means_all_and_a_string_is_refused() -> None:
    assert selector() is None
    with pytest.raises(InvalidError, match="list"):
        selector("*.txt")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "key", "meant"),
    [
        ("*.log", "a\nb/x.log", True),
        ("*.log", "a/\n.log", True),
        ("*.log", "x.log\n", False),
        ("a\nb/", "a\nb/x", True),
        ("/a\n*", "a\nb", True),
        ("**/c", "a\n/b\n/c", True),
    ],
)
def test_a_line_break_is_a_character_like_any_other(pattern: str, key: str, meant: bool) -> None:
    included, excluded = selector(include=[pattern]), selector(exclude=[pattern])
    assert included is not None
    assert excluded is not None
    assert (included.means(key), excluded.means(key)) == (meant, not meant)
