"""Nodes of directories: canonical, verified, and nothing in them leads anywhere else."""

from __future__ import annotations

import hashlib
import json
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rh import digest
from rh.content.tree import Row, key_text, tree_digest
from rh.errors import IntegrityError, NameClashError
from rh.versions.nodes import EMPTY, Child, Node, link_where

PACK = "0123456789abcdef" * 2
DIGEST = digest.of_bytes(b"x").text

NAMES = st.binary(min_size=1, max_size=12).filter(lambda b: b"/" not in b and b"\0" not in b and b not in (b".", b".."))


def file(name: bytes, size: int = 1, *, executable: bool = False) -> Child:
    return Child("file", name, size, DIGEST, executable, ("p", PACK, 7))


@given(names=st.lists(NAMES, unique=True, max_size=8), links=st.sets(NAMES, max_size=3), sizes=st.integers(0, 1 << 50))
def test_a_node_has_the_digest_of_the_tree(names, links, sizes):
    """A version's digest is the one that `Folder.digest()` tells, and a record gives back what went in."""
    children = [file(name, sizes, executable=number % 2 == 1) for number, name in enumerate(names)]
    targets = sorted(links - set(names))
    children += [
        Child("link", name, 4, digest.of_bytes(b"a/\xff.").text, executable=False, where=link_where(b"a/\xff."))
        for name in targets
    ]
    node = Node.of(children)
    rows = [
        Row(
            key_text(child.name),
            child.size,
            child.kind,
            child.digest,
            None,
            child.executable,
            b"",
            key_text(b"a/\xff."),
        )
        for child in node.children
    ]
    assert node.digest == tree_digest(rows)
    back = Node.decode(node.encode(), node.digest, "here")
    assert back.children == node.children
    assert (back.files, back.entries, back.size) == (len(names), len(children), node.size)
    for child in children:
        assert back.find(child.name) == child


def test_counts_of_what_is_below():
    """Files, bytes and entries are known without reading what is below."""
    below = Child("dir", b"d", 70, DIGEST, executable=False, where=("n", PACK, 0, 9, 5, 6))
    void = Child("dir", b"void", 0, EMPTY, executable=False, where=("n", PACK, 9, 9, 0, 0))
    node = Node.of([below, void, file(b"f", 30)])
    assert (node.files, node.size, node.entries) == (6, 100, 8)
    assert node.find(b"d", directory=True) == below
    assert node.find(b"d") is None


def test_every_flipped_bit_and_every_cut_is_found():
    """Promise 2: a damaged record is never a node."""
    node = Node.of([file(b"a"), file(b"b", executable=True)])
    record = node.encode()
    for at in range(len(record)):
        for bit in range(8):
            damaged = bytearray(record)
            damaged[at] ^= 1 << bit
            found = None
            with suppress(IntegrityError):
                found = Node.decode(bytes(damaged), node.digest, "the place")
            # zlib's header has bits that mean nothing.
            assert found is None or found.children == node.children
    for cut in range(len(record)):
        with pytest.raises(IntegrityError, match="the place"):
            Node.decode(record[:cut], node.digest, "the place")
    with pytest.raises(IntegrityError, match="the place"):
        Node.decode(record + b"\0", node.digest, "the place")


def line(kind: str, name: bytes, size: str = "1", of: str = DIGEST) -> bytes:
    return b"%s %s %s %d:%s\n" % (kind.encode(), size.encode(), of.encode(), len(name), name)


P = ["p", PACK, 0]
N = ["n", PACK, 0, 1, 1, 1]
HOSTILE = {
    "slash": (line("f", b"a/b"), [P]),
    "absolute": (line("f", b"/etc"), [P]),
    "up": (line("d", b".."), [N]),
    "here": (line("f", b"."), [P]),
    "nul": (line("f", b"a\0b"), [P]),
    "no name": (b"f 1 %s 0:\n" % DIGEST.encode(), [P]),
    "twice": (line("f", b"a") * 2, [P, P]),
    "out of order": (line("f", b"b") + line("f", b"a"), [P, P]),
    "directory out of order": (line("d", b"a") + line("f", b"a-"), [N, P]),
    "leading zero": (line("f", b"a", "01"), [P]),
    "negative": (line("f", b"a", "-1"), [P]),
    "no digest": (line("f", b"a", of="sha256:00"), [P]),
    "name too long": (b"f 1 %s 9:a\n" % DIGEST.encode(), [P]),
    "name too short": (b"f 1 %s 1:ab\n" % DIGEST.encode(), [P]),
    "rest": (line("f", b"a") + b"x", [P]),
    "child without a place": (line("f", b"a") + line("f", b"b"), [P]),
    "place without a child": (line("f", b"a"), [P, P]),
    "kind": (line("p", b"a"), [P]),
    "a directory in a pack of files": (line("d", b"a"), [P]),
    "a file in a pack of nodes": (line("f", b"a"), [N]),
    "a pack elsewhere": (line("f", b"a"), [["p", "../../../../etc/passwd", 0]]),
    "a node elsewhere": (line("d", b"a"), [["n", "x" * 32, 0, 1, 1, 1]]),
    "negative offset": (line("f", b"a"), [["p", PACK, -1]]),
    "truth for a number": (line("f", b"a"), [["p", PACK, True]]),
    "no form": (line("f", b"a"), [[]]),
    "no array": (line("f", b"a"), [7]),
    "empty with bytes": (line("f", b"a"), [["e"]]),
    "another link": (line("l", b"a", "3"), [["l", "YWJj"]]),
    "a link that is no base64": (line("l", b"a", "3"), [["l", "%%%"]]),
    "a reference of a number": (line("f", b"a"), [["r", "file", 7, None]]),
}


@pytest.mark.parametrize("which", HOSTILE)
def test_hostile_nodes(which):
    """Promise 32: what no honest writer makes is refused, though its digest is right."""
    text, places = HOSTILE[which]
    record = zlib.compress(b"%d\n%s%s" % (len(text), text, json.dumps(places).encode()))
    with pytest.raises(IntegrityError, match="the place"):
        Node.decode(record, "sha256:" + hashlib.sha256(text).hexdigest(), "the place")


@pytest.mark.parametrize("data", [b"", b"x", zlib.compress(b""), zlib.compress(b"9\nx"), zlib.compress(b"0\n{}")])
def test_what_is_no_record(data):
    with pytest.raises(IntegrityError, match="the place"):
        Node.decode(data, DIGEST, "the place")


def test_names_that_no_directory_can_hold():
    """They are refused before anything is written."""
    for names in ([b"a/b"], [b".."], [b""], [b"a", b"a"]):
        with pytest.raises(NameClashError):
            Node.of([file(name) for name in names])
