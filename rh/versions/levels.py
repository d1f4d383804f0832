"""Trees from rows in key order: directory after directory, the deepest first, each beside what it was before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from rh import digest as digests
from rh.content.tree import key_bytes, key_text
from rh.digest import Digest
from rh.errors import ConflictError
from rh.spool import Spool
from rh.transfer.survey import Page
from rh.types import Entry
from rh.versions.nodes import Child, Node, Where, link_where
from rh.versions.store import Store, Tree

__all__ = ["UNSETTLED", "Level", "Missing", "Pages", "Past", "directory", "levels", "link"]

UNSETTLED: Where = ("n", "", 0, 0, 0, 0)
"""Where a directory is of which only the digest is asked for."""
_IN_MEMORY = 200_000


class Pages:
    """Pages that are gone through more than once.

    Beyond some hundred thousand rows they are on disk, in a file without a name, so that memory does not grow with the
    tree.
    """

    def __init__(self) -> None:
        self._pages: list[Page] = []
        self._held = 0
        self._spool: Spool | None = None

    def add(self, page: Page) -> None:
        """Take the next page."""
        self._pages.append(page)
        self._held += len(page.keys)
        if self._held > _IN_MEMORY:
            if self._spool is None:
                self._spool = Spool("rh-commit-")
            for one in self._pages:
                keys, entries, *more = one
                self._spool.write((keys, list(map(tuple, entries)), *more))
            self._pages.clear()
            self._held = 0

    def __iter__(self) -> Iterator[Page]:
        """All pages in order. One iteration at a time."""
        for keys, entries, *more in self._spool or ():
            yield Page(keys, list(map(Entry._make, entries)), *more)
        yield from self._pages

    def close(self) -> None:
        """Let go of the file."""
        if self._spool is not None:
            self._spool.close()


class Past:
    """A directory as it was in an earlier version, or nothing. Its node is read when it is asked what it holds."""

    __slots__ = ("_node", "_store", "child")

    def __init__(self, store: Store, child: Child | None) -> None:
        self.child = child
        self._store = store
        self._node: Node | None = None

    @classmethod
    def of(cls, store: Store, tree: Tree | None) -> Past:
        """The root of a version; nothing if there is none."""
        return cls(store, None if tree is None else directory(b"", tree.size, tree.digest, tree.root))

    def find(self, name: bytes, *, directory: bool = False) -> Child | None:
        """What was there under a name."""
        if self.child is None:
            return None
        if self._node is None:
            self._node = self._store.below(self.child)
        return self._node.find(name, directory=directory)

    def below(self, name: bytes) -> Past:
        """A directory in it."""
        return Past(self._store, self.find(name, directory=True))

    def file(self, name: bytes) -> Child | None:
        """The file that was there under a name."""
        found = self.find(name)
        return found if found is not None and found.kind == "file" else None


class Missing(NamedTuple):
    """A file to be stored, with its digest if that is known; `was` is what was there in the earlier version."""

    entry: Entry
    digest: Digest | None
    was: Child | None


class Level:
    """A directory all of whose members are known.

    Attributes:
        children: in order. A file's digest may be `""`, unknown, and its place `()`, not settled.
        sources: for each child the entry it comes from and its chunk digests; `None` for what is no file.
        past: the same directory in the earlier version.
        unsure: whether the digest of something below it is unknown.
    """

    __slots__ = ("_node", "children", "name", "past", "sources", "unsure")

    def __init__(self, name: bytes, past: Past) -> None:
        self.name = name
        self.past = past
        self.children: list[Child] = []
        self.sources: list[tuple[Entry, bytes] | None] = []
        self.unsure = False
        self._node: Node | None = None

    def is_past(self) -> bool:
        """Whether it is just what it was."""
        return not self.unsure and self.past.child is not None and self.past.child.digest == self.node().digest

    def node(self) -> Node:
        """Its node, when all is in it."""
        if self._node is None:
            self._node = Node(self.children)
        return self._node

    def settled(self) -> Node:
        """Its node with the places of all that is in it: those that are told, else those in the earlier version."""
        children = []
        for child in self.children:
            was = None if child.where else self.past.file(child.name)
            where = was.where if was is not None and was.digest == child.digest else child.where
            if not where or not child.digest:
                raise ConflictError(f"nobody knows where {key_text(child.name)!r} is stored", hint="commit again")
            children.append(child._replace(where=where))
        return Node(children, digest=self.node().digest)

    def missing(self) -> Iterator[Missing]:
        """The files in it whose bytes are not known to be those that were there under their names."""
        if self.is_past():
            return
        for child, source in zip(self.children, self.sources, strict=True):
            if source is None or child.where:
                continue
            was = self.past.file(child.name)
            if was is None or was.digest != child.digest:
                entry, chunks = source
                yield Missing(entry, Digest(child.digest, chunks) if child.digest else None, was)

    def take(self, level: Level, where: Where) -> None:
        """Take a directory in it, with its place if that is settled."""
        if level.unsure:
            self.unsure = True
        node = level.node()
        size, digest = (0, "") if level.unsure else (node.size, node.digest)
        self.children.append(directory(level.name, size, digest, where))
        self.sources.append(None)

    def add(self, child: Child, entry: Entry, chunks: bytes) -> None:
        """Take a file or a link."""
        self.unsure = self.unsure or not child.digest
        self.children.append(child)
        self.sources.append((entry, chunks) if child.kind == "file" else None)


def directory(name: bytes, size: int, digest: str, where: Where) -> Child:
    """A directory as a child."""
    return Child("dir", name, size, digest, executable=False, where=where)


def link(name: bytes, target: str) -> Child:
    """A link as a child."""
    raw = key_bytes(target)
    return Child("link", name, len(raw), digests.of_bytes(raw).text, executable=False, where=link_where(raw))


def levels(
    pages: Iterable[Page], past: Past, settled: dict[str, tuple[str, Where]]
) -> Iterator[tuple[Level, Level | None]]:
    """The directories of a tree as soon as all their members are known, the root last, each with the one above it.

    Who takes them hands each to the one above (`Level.take`).

    Args:
        pages: of the tree, in key order.
        past: the root of the version it is compared with.
        settled: digest and place of files that are known by now, by the keys of their entries.
    """
    stack = [Level(b"", past)]
    path: list[str] = []
    here = ""
    for key, entry, digest, chunks, executable in chain.from_iterable(zip(*page, strict=True) for page in pages):
        head, _, name = key.rpartition("/")
        if head != here:
            parts = head.split("/")
            same = 0
            for ours, theirs in zip(path, parts, strict=False):
                if ours != theirs:
                    break
                same += 1
            while len(path) > same:
                path.pop()
                yield stack.pop(), stack[-1]
            for part in parts[same:] if head else ():
                raw = key_bytes(part)
                path.append(part)
                stack.append(Level(raw, stack[-1].past.below(raw)))
            here = head
        if name:
            raw = key_bytes(name)
            if entry.kind == "link":
                child = link(raw, entry.target or "")
            else:
                told, where = settled.get(entry.key) or (digest or "", () if entry.size else ("e",))
                child = Child("file", raw, entry.size, told, bool(executable), where)
            stack[-1].add(child, entry, chunks)
    while len(stack) > 1:
        yield stack.pop(), stack[-1]
    yield stack[0], None
