r"""Directory nodes of versions: what is in one directory, and where its bytes are.

A node's *text* is that of `rh.content.tree`, one line per child in key order, and its digest is the SHA-256 of the
text: so a version has the digest that `Folder.digest()` tells. Its *record*, as a store keeps it, is the zlib stream
of::

    <length of the text in decimal>\n
    <text>
    <JSON: an array with one array per child, in the same order, that says where the child is>

Where a child is has no part in the digest: what is found there is compared with the digest whenever it is read.

    ["o"]                                       a whole object, under its digest
    ["p", pack, offset]                         in a pack
    ["e"]                                       nothing to store: an empty file
    ["l", base64]                               a link's target
    ["n", pack, offset, length, files, entries] a directory's record in a node pack; files and entries below it
    ["r", system, path, etag]                   by reference, at a place that is not ours; where that keeps versions,
                                                the name of the one that is meant follows
    ["c", [[digest, size, where], …]]           pieces of a large file
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

from rh import digest as digests
from rh.content.tree import key_text
from rh.errors import IntegrityError, NameClashError
from rh.systems.base import LEAVE_OUT
from rh.versions.layout import REPAIR

__all__ = ["EMPTY", "Child", "Node", "Where", "is_pack", "link_target", "link_where", "pieces_of"]

Where: TypeAlias = tuple[Any, ...]
"""Where a child is: one of the forms above."""

EMPTY = digests.of_bytes(b"").text
"""The digest of a file without bytes."""

_LIMIT = 1 << 30
"""Bytes a record may unpack to: some ten million children."""
_LEVEL = 2
_LINE = re.compile(rb"([fxld]) (0|[1-9][0-9]{0,18}) (sha256(?:-[1-9][0-9]{1,6}m)?:[0-9a-f]{64}) ([1-9][0-9]{0,5}):")
_PACK = re.compile(r"[0-9a-f]{32}")
_KINDS: dict[bytes, tuple[Literal["file", "dir", "link"], bool]] = {
    b"f": ("file", False),
    b"x": ("file", True),
    b"d": ("dir", False),
    b"l": ("link", False),
}


class Child(NamedTuple):
    """One thing in a directory.

    `size` is in bytes, for a directory of all below it; `digest` that of the content, of the link's target, or of the
    directory's node; `where` one of the forms that the module tells.
    """

    kind: Literal["file", "dir", "link"]
    name: bytes
    size: int
    digest: str
    executable: bool
    where: Where

    @property
    def sort_key(self) -> bytes:
        """What children are ordered by: the name, a directory's as if it ended in a slash."""
        return self.name + b"/" if self.kind == "dir" else self.name


class Node:
    """A directory of a version. Its children are in order, and never change."""

    __slots__ = ("_amounts", "_digest", "_names", "children")

    def __init__(self, children: list[Child], *, digest: str | None = None) -> None:
        self.children = children
        self._digest = digest
        self._names: dict[bytes, Child] | None = None
        self._amounts: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, children: Iterable[Child]) -> Node:
        """A node of these children, in any order.

        Raises:
            NameClashError: two have one name, or a name is one that no directory can hold.
        """
        ordered = sorted(children, key=lambda child: child.sort_key)
        last = b""
        for child in ordered:
            name = child.sort_key
            if not _may_be(child.name):
                raise NameClashError(f"a version cannot hold the name {key_text(child.name)!r}", hint=LEAVE_OUT)
            if name == last:
                raise NameClashError(f"two things are called {key_text(child.name)!r}")
            last = name
        return cls(ordered)

    def text(self) -> bytes:
        """The canonical text, as `rh.content.tree` defines it."""
        return b"".join(
            b"%s %d %s %d:%s\n" % (_letter(child), child.size, child.digest.encode(), len(child.name), child.name)
            for child in self.children
        )

    @property
    def digest(self) -> str:
        """The digest of the text."""
        if self._digest is None:
            self._digest = "sha256:" + hashlib.sha256(self.text()).hexdigest()
        return self._digest

    @property
    def size(self) -> int:
        """Bytes below it: of files, and of the targets of links."""
        return self._amount()[0]

    @property
    def files(self) -> int:
        """How many files are below it."""
        return self._amount()[1]

    @property
    def entries(self) -> int:
        """How many entries a listing has: files, links and directories that hold nothing."""
        return self._amount()[2]

    def _amount(self) -> tuple[int, int, int]:
        if self._amounts is None:
            size = files = entries = 0
            for kind, _, length, _, _, where in self.children:
                size += length
                files += 1 if kind == "file" else where[4] if kind == "dir" else 0
                entries += max(1, where[5]) if kind == "dir" else 1
            self._amounts = size, files, entries
        return self._amounts

    def find(self, name: bytes, *, directory: bool = False) -> Child | None:
        """The child of that name: the directory, or what is none."""
        names = self._names
        if names is None:
            names = self._names = {child.sort_key: child for child in self.children}
        return names.get(name + b"/" if directory else name)

    def encode(self) -> bytes:
        """The record."""
        text = self.text()
        where = json.dumps([child.where for child in self.children], separators=(",", ":"), ensure_ascii=True)
        return zlib.compress(b"%d\n%s%s" % (len(text), text, where.encode()), _LEVEL)

    @classmethod
    def decode(cls, record: bytes, digest: str, where: str) -> Node:
        """The node in a record, which must be the node of that digest; `where` is the record's place, for errors.

        Raises:
            IntegrityError: it is not: the record is damaged, or what it says cannot be.
        """
        text, places = _unpacked(record, where)
        got = "sha256:" + hashlib.sha256(text).hexdigest()
        if got != digest:
            raise IntegrityError(
                "a directory of a version is damaged", where=where, hint=REPAIR, expected=digest, got=got
            )
        try:
            return cls(_children(text, places), digest=digest)
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise IntegrityError(f"a directory of a version cannot be: {error}", where=where, hint=REPAIR) from error


def _letter(child: Child) -> bytes:
    return (b"x" if child.executable else b"f") if child.kind == "file" else b"d" if child.kind == "dir" else b"l"


def _may_be(name: bytes) -> bool:
    return bool(name) and b"/" not in name and b"\0" not in name and name not in (b".", b"..")


def _unpacked(record: bytes, where: str) -> tuple[bytes, list[Any]]:
    """The text and the places in a record."""
    try:
        stream = zlib.decompressobj()
        data = stream.decompress(record, _LIMIT)
        if not stream.eof or stream.unused_data:
            raise ValueError("it is cut, or longer than it can be")
        length, mark, rest = data.partition(b"\n")
        if not mark or not length.isdigit() or len(length) > 12 or int(length) > len(rest):
            raise ValueError("it tells no length")
        places = json.loads(rest[int(length) :])
        if not isinstance(places, list):
            raise TypeError("it tells no places")
    except (zlib.error, ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(f"a directory of a version is damaged: {error}", where=where, hint=REPAIR) from error
    return rest[: int(length)], places


def _children(text: bytes, places: list[Any]) -> list[Child]:
    """The children that a text and places tell. ValueError if there can be no such ones."""
    children = []
    at, last = 0, b""
    match = _LINE.match
    packs: set[str] = set()
    for place in places:
        line = match(text, at)
        if line is None:
            raise ValueError(f"not a line of a node: {text[at : at + 80]!r}")
        letter, size, digest, length = line.groups()
        start = line.end()
        stop = start + int(length)
        name = text[start:stop]
        if text[stop : stop + 1] != b"\n" or not _may_be(name):
            raise ValueError(f"the name {name!r}")
        at = stop + 1
        kind, executable = _KINDS[letter]
        order = name + b"/" if kind == "dir" else name
        if order <= last:
            raise ValueError(f"{name!r} after {last!r}")
        last = order
        child = Child(kind, name, int(size), digest.decode(), executable, tuple(place))
        _check(child, packs)
        children.append(child)
    if at != len(text):
        raise ValueError("more children than places")
    return children


def _check(child: Child, packs: set[str]) -> None:
    """ValueError if a child cannot be where it is said to be."""
    form, where, size = child.where[0], child.where, child.size
    if child.kind == "dir":
        right = form == "n" and len(where) == 6 and all(type(one) is int and one >= 0 for one in where[2:])
    elif child.kind == "link":
        right = form == "l" and len(where) == 2 and type(where[1]) is str
        target = link_target(child) if right else b""
        right = right and len(target) == size and digests.of_bytes(target).text == child.digest
    elif form == "p":
        right = len(where) == 3 and type(where[2]) is int and where[2] >= 0
    elif form == "r":
        right = len(where) in (4, 5) and type(where[1]) is type(where[2]) is str and type(where[3]) in (str, type(None))
        right = right and all(type(one) is str and one for one in where[4:])
    elif form == "c":
        right = len(where) == 2 and type(where[1]) is list and sum(_piece(one, packs) for one in where[1]) == size
    elif form == "e":
        right = len(where) == 1 and not size and child.digest == EMPTY
    else:
        right = form == "o" and len(where) == 1
    if not right:
        raise ValueError(f"{child.name!r} is said to be at {where!r}")
    if form in ("n", "p") and where[1] not in packs:
        if not is_pack(where[1]):
            raise ValueError(f"no pack is called {where[1]!r}")
        packs.add(where[1])


def _piece(told: list[Any], packs: set[str]) -> int:
    """The bytes of a piece of a file. ValueError if it cannot be where it is said to be."""
    digest, size, where = told
    if type(size) is not int or size <= 0 or where[0] not in ("o", "p"):
        raise ValueError(f"a piece of {size} bytes at {where!r}")
    digests.parse(digest)
    _check(Child("file", b"piece", size, digest, executable=False, where=tuple(where)), packs)
    return size


def pieces_of(child: Child) -> list[Child]:
    """What a file is stored as: itself, or its pieces in order."""
    if child.where[0] != "c":
        return [child]
    return [
        Child("file", child.name, size, digest, executable=False, where=tuple(where))
        for digest, size, where in child.where[1]
    ]


def is_pack(name: object) -> bool:
    """Whether a pack may be called this."""
    return type(name) is str and _PACK.fullmatch(name) is not None


def link_where(target: bytes) -> Where:
    """Where a link's target is: in the node itself."""
    return ("l", b64encode(target).decode())


def link_target(child: Child) -> bytes:
    """The target of a link."""
    try:
        return b64decode(child.where[1], validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
