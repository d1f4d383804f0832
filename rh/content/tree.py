r"""The digest of a tree: a Merkle tree of canonical directory nodes.

A node is the concatenation of one line per child, in the order of the child's name bytes, a directory's name counting
as if it ended in `/`::

    <kind> <size> <digest> <length>:<name>\n

`kind` is `f` (file), `x` (executable file), `l` (link) or `d` (directory); `size` the bytes below it in decimal;
`digest` the content's digest, for a link that of its target's bytes, for a directory `sha256:<hex>` of its node;
`length` the bytes of the name. The digest of a tree is that of its root node. Times, owners and other mode bits are
no part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import lt
from typing import NamedTuple

from rh import digest as digests
from rh.errors import IntegrityError
from rh.types import Kind

__all__ = ["Row", "TreeHasher", "key_bytes", "key_text", "tree_digest"]


class Row(NamedTuple):
    """What is known of one key: its entry's facts and the digest of its content.

    `digest` is `None` while unknown; `etag` is the one the digest belongs to; `chunks` are raw chunk digests.
    """

    key: str
    size: int
    kind: Kind = "file"
    digest: str | None = None
    etag: str | None = None
    executable: bool | None = None
    chunks: bytes = b""
    target: str | None = None


def key_bytes(key: str) -> bytes:
    """A key as the bytes it stands for: what orders listings and what file systems store."""
    return key.encode("utf-8", "surrogateescape")


def key_text(key: bytes) -> str:
    """The inverse of `key_bytes`."""
    return key.decode("utf-8", "surrogateescape")


class TreeHasher:
    """The digest of a tree from its rows in key order, in memory that grows with the depth only."""

    def __init__(self) -> None:
        self.files = 0
        self.size = 0
        self._path: list[bytes] = []
        self._nodes: list[tuple[hashlib._Hash, int]] = [(hashlib.sha256(), 0)]
        self._last = b""

    def add(self, row: Row) -> None:
        """Take the next row. Its digest must be known, unless it is a directory or a link."""
        key = key_bytes(row.key)
        if key <= self._last:
            raise IntegrityError(f"keys are out of order: {row.key!r} after {key_text(self._last)!r}")
        self._last = key
        parts = key.split(b"/")
        name = parts.pop()
        self._enter(parts)
        if row.kind == "dir":
            return
        if row.kind == "link":
            target = key_bytes(row.target or "")
            self._line(b"l", len(target), digests.of_bytes(target).text, name)
            return
        if row.digest is None:
            raise IntegrityError(f"the digest of {row.key!r} is not known")
        self.files += 1
        self.size += row.size
        self._line(b"x" if row.executable else b"f", row.size, row.digest, name)

    def add_files(
        self,
        keys: Sequence[str],
        sizes: Sequence[int],
        digests: Sequence[str | None],
        executables: Sequence[bool | None],
    ) -> None:
        """Take many rows, all of files, column by column: the same as `add` of each, in a third of the time."""
        ordered = all(map(lt, keys, islice(keys, 1, None))) and key_bytes(keys[0]) > self._last
        if not ordered or None in digests or not "".join(keys).isascii():
            for key, size, digest, executable in zip(keys, sizes, digests, executables, strict=True):
                self.add(Row(key, size, "file", digest, None, executable))
            return
        here: str | None = None
        lines: list[str] = []
        below = 0
        for key, size, digest, executable in zip(keys, sizes, digests, executables, strict=True):
            head, _, name = key.rpartition("/")
            if head != here:
                self._lines(lines, below)
                self._enter(head.encode().split(b"/") if head else [])
                here, lines, below = head, [], 0
            lines.append(f"{'x' if executable else 'f'} {size} {digest} {len(name)}:{name}\n")
            below += size
        self._lines(lines, below)
        self._last = key_bytes(keys[-1])
        self.files += len(keys)
        self.size += sum(sizes)

    def _lines(self, lines: list[str], below: int) -> None:
        node, total = self._nodes[-1]
        node.update("".join(lines).encode())
        self._nodes[-1] = (node, total + below)

    def finish(self) -> str:
        """The digest of all rows taken."""
        self._enter([])
        return "sha256:" + self._nodes[0][0].hexdigest()

    def _enter(self, parts: list[bytes]) -> None:
        same = 0
        for ours, theirs in zip(self._path, parts, strict=False):
            if ours != theirs:
                break
            same += 1
        while len(self._path) > same:
            name = self._path.pop()
            node, size = self._nodes.pop()
            self._line(b"d", size, "sha256:" + node.hexdigest(), name)
        for name in parts[same:]:
            self._path.append(name)
            self._nodes.append((hashlib.sha256(), 0))

    def _line(self, kind: bytes, size: int, digest: str, name: bytes) -> None:
        node, total = self._nodes[-1]
        node.update(b"%s %d %s %d:%s\n" % (kind, size, digest.encode(), len(name), name))
        self._nodes[-1] = (node, total + size)


def tree_digest(rows: Iterable[Row]) -> str:
    """The digest of the tree these rows (in key order) describe."""
    hasher = TreeHasher()
    for row in rows:
        hasher.add(row)
    return hasher.finish()


def without_implied(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows in key order, less the directories that members imply."""
    held: Row | None = None
    for row in rows:
        if held is not None and not row.key.startswith(held.key):
            yield held
        held = None
        if row.kind == "dir":
            held = row
        else:
            yield row
    if held is not None:
        yield held
