"""The store of versions: one directory on a system, shared by all data there.

`docs/storage-format.md` writes the format out. Whatever is read is compared with its digest; whatever is written has a
name of its own and is never changed, and the marker of a tree is written last: a crash leaves only what `gc` finds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from rh import config
from rh.errors import IntegrityError, NotFoundError, UnsupportedError
from rh.forks import Lock
from rh.observe import log
from rh.progress import Progress
from rh.systems import locate, open_system, settings_of
from rh.systems.base import Body, System
from rh.types import Location, Span
from rh.versions import cache
from rh.versions.index import Index, identity
from rh.versions.layout import (
    FORMAT,
    NAME,
    REDIRECTED,
    hex_of,
    node_key,
    object_key,
    pack_key,
    place_of,
    quoted,
    ref_key,
    tree_key,
)
from rh.versions.lease import GC, Lease, create
from rh.versions.lost import LostError, no_marker
from rh.versions.moved import Redirects
from rh.versions.moving import twice
from rh.versions.nodes import Child, Node, Where, pieces_of

if TYPE_CHECKING:
    from rh.versions.packs import Writer

__all__ = [
    "FORMAT",
    "GC",
    "NAME",
    "Lease",
    "Ref",
    "Store",
    "Tree",
    "node_key",
    "object_key",
    "pack_key",
    "place_of",
    "tree_key",
]

NODE_PACK = 8 << 20
"""Packs of nodes up to so many bytes are fetched whole, and kept."""
_KEPT_CHILDREN = 100_000
_REF = re.compile(r"refs/([^/]+)/([0-9a-f]{64})")


class Tree(NamedTuple):
    """The marker of a tree: that it is there, whole, and where its root is.

    `size` is in bytes; `entries` what a listing shows: files, links and directories that hold nothing. `nodes` are the
    packs of nodes, with their sizes, that the commit which made it wrote.
    """

    digest: str
    files: int
    size: int
    entries: int
    root: Where
    nodes: tuple[tuple[str, int], ...] = ()
    references: bool = False
    """Whether some of its files may lie where somebody else can change them: nothing is made of them unasked."""

    def encode(self) -> bytes:
        """The marker as a document and, on a second line, the document's SHA-256."""
        document = {"rh-tree": FORMAT, "tree": self.digest} | {name: getattr(self, name) for name in self._fields[1:]}
        text = json.dumps(document, separators=(",", ":")).encode()
        return b"%s\n%s\n" % (text, hashlib.sha256(text).hexdigest().encode())

    @classmethod
    def decode(cls, data: bytes, digest: str, where: str) -> Tree:
        """The marker in these bytes.

        Raises:
            IntegrityError: they are damaged, or of another tree. UnsupportedError: a newer `rh` wrote them.
        """
        text, _, rest = data.partition(b"\n")
        got = hashlib.sha256(text).hexdigest()
        if rest != got.encode() + b"\n":
            told = ascii(rest[:64].decode("latin-1")) if rest else None
            raise IntegrityError("the marker of a version is damaged", where=where, expected=told, got=got)
        try:
            found = json.loads(text)
            if found["rh-tree"] > FORMAT:
                raise UnsupportedError(
                    f"the version was stored in format {found['rh-tree']}; this rh knows {FORMAT}",
                    where=where,
                    hint="upgrade rh-data",
                )
            nodes = tuple((str(name), int(size)) for name, size in found["nodes"])
            files, size, entries = (int(found[name]) for name in ("files", "size", "entries"))
            refers = found.get("references") is True
            tree = cls(found["tree"], files, size, entries, tuple(found["root"]), nodes, refers)
            if tree.root[0] != "n" or len(tree.root) != 6 or {*map(type, tree.root[2:])} != {int}:
                raise ValueError(f"the root is at {tree.root}")
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise IntegrityError(f"the marker of a version cannot be: {error!r}", where=where) from error
        if tree.digest != digest:
            raise IntegrityError("this is another version's marker", where=where, expected=digest, got=tree.digest)
        return tree


class Ref(NamedTuple):
    """That a series has a tree as one of its versions: `tree` is its digest."""

    series: str
    tree: str


class Store:
    """One store on one system. Making it does no I/O; it may be used from many threads, and after a fork.

    Args:
        system: the system, opened at the store's root.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.contents = cache.Contents(0 if system.kind == "file" else None)  # what is on this machine is near already
        self._identity = identity(system)
        self._mark = hashlib.sha256(self._identity.encode()).hexdigest()
        self.index = Index(self._identity)
        self.redirects = Redirects(system)
        self._lock = Lock()
        self._nodes: OrderedDict[str, Node] = OrderedDict()
        self._held = 0

    @classmethod
    def at(cls, location: Location) -> Store:
        """The store at a place (`place_of` tells which that is)."""
        return cls(open_system(location))

    @classmethod
    def shared(cls, url: str) -> Store:
        """The store at a URL: one for all who ask, as long as the settings of its system stay as they are."""
        with _shared_lock:
            known = _shared.get(url)
            location = known[0] if known is not None else locate(url)
            settings = settings_of(location.system)
            if known is None or known[1] != settings:
                known = _shared[url] = location, settings, cls.at(location)
                while len(_shared) > _SHARED:
                    _shared.popitem(last=False)
            return known[2]

    @property
    def packs_files(self) -> bool:
        """Whether small files are put together: on object stores, where each request costs."""
        return self.system.kind not in ("file", "ssh")

    @property
    def is_of_machine(self) -> bool:
        """Whether it is the one below `RH_HOME`, which no other machine sees."""
        location = self.system.location
        return location.system == "file" and location.path == os.path.abspath(config.home() / "store")

    @property
    def group_size(self) -> int:
        """Bytes of small files that are read together."""
        return int(config.get("memory_mb")) << 19

    @property
    def url(self) -> str:
        """The place, for people."""
        return self.system.url()

    def __repr__(self) -> str:
        return f"<Store {self.url}>"

    # Trees

    def tree(self, digest: str, *, fresh: bool = False) -> Tree:
        """The marker of a tree.

        Args:
            digest: of the tree.
            fresh: ask the store, whatever is kept here.

        Raises:
            NotFoundError: the store has no such tree. IntegrityError: the marker is damaged, or lost.
        """
        key, name = tree_key(digest), self._mark[:16] + hex_of(digest)
        data = None if fresh else cache.kept("trees", name)
        if data is not None:
            try:
                return Tree.decode(data, digest, self.system.url(key))
            except IntegrityError as error:
                log.debug("the cache is damaged: %s", error)
        return twice(lambda: self._fetch_tree(digest, key, name))

    def _fetch_tree(self, digest: str, key: str, name: str) -> Tree:
        try:
            with self.system.read(key) as body:
                data = body.read()
        except NotFoundError as error:
            raise no_marker(self, digest) from error
        tree = Tree.decode(data, digest, self.system.url(key))
        if not tree.references:  # another one, with the bytes, may take its place
            cache.keep("trees", name, data)
        return tree

    def publish(self, tree: Tree) -> Tree:
        """Write the marker of a tree whose nodes and contents are all there. Returns the one that the store has.

        Who comes second finds that of the first, which is as good; unless that has files by reference only, and this
        one has their bytes, or those files are not what they were.
        """
        key, data = tree_key(tree.digest), tree.encode()
        name = self._mark[:16] + hex_of(tree.digest)
        if not create(self.system, key, data):
            from rh.versions.verify import refers_still

            try:
                there = self._fetch_tree(tree.digest, key, name)
                if not there.references or (tree.references and refers_still(self, there, tree)):
                    return there
                self.system.write(key, data)
            except IntegrityError as error:
                log.warning("a damaged marker is written again: %s", error)
                self.system.write(key, data)
        if not tree.references:
            cache.keep("trees", name, data)
        return tree

    def has_tree(self, digest: str) -> bool:
        """Whether the store itself, not the cache, has the marker of a tree."""
        try:
            self.system.head(tree_key(digest))
        except NotFoundError:
            return False
        return True

    def trees(self) -> Iterator[str]:
        """The digests of all trees, in order."""
        for entry in self._below("trees/"):
            yield "sha256:" + entry.removeprefix("trees/").replace("/", "")

    def _below(self, prefix: str) -> Iterator[str]:
        try:
            for entry in self.system.list(prefix):
                if entry.kind == "file":
                    yield entry.key
        except NotFoundError:
            return

    # Nodes

    def root(self, tree: Tree) -> Node:
        """The root of a tree, which must amount to what the marker says."""
        node = self.node(tree.digest, tree.root)
        if (node.files, node.size, node.entries) != (tree.files, tree.size, tree.entries):
            raise IntegrityError("a version is not as large as its marker says", where=self._place(tree.root))
        return node

    def below(self, child: Child) -> Node:
        """The node of a directory, which must amount to what its parent says."""
        node = self.node(child.digest, child.where)
        if (node.size, node.files, node.entries) != (child.size, child.where[4], child.where[5]):
            raise IntegrityError("a directory is not as large as the one above says", where=self._place(child.where))
        return node

    def node(self, digest: str, where: Where) -> Node:
        """The node of a digest, compared with it: from memory, from the cache, or with one request.

        Raises:
            IntegrityError: the store has lost it, or has another one there.
        """
        # Two records of one node may name different packs, of which one is swept: each is a node of its own here.
        key = f"{digest} {where[1]} {where[2]}"
        with self._lock:
            node = self._nodes.get(key)
            if node is not None:
                self._nodes.move_to_end(key)
                return node
        place = self._place(where)
        node = self._cached_node(digest, where, place)
        if node is None:
            node = twice(lambda: Node.decode(self._fetch_node(where, place), digest, place))
            files = (piece for child in node.children if child.kind == "file" for piece in pieces_of(child))
            self.index.add({piece.digest: piece.where for piece in files})
        with self._lock:
            if key not in self._nodes:
                self._nodes[key] = node
                self._held += len(node.children) + 1
                while self._held > _KEPT_CHILDREN and len(self._nodes) > 1:
                    self._held -= len(self._nodes.popitem(last=False)[1].children) + 1
        return node

    def _place(self, where: Where) -> str:
        return f"{self.system.url(node_key(where[1]))} at {where[2]}"

    def _cached_node(self, digest: str, where: Where, place: str) -> Node | None:
        _, name, offset, length, *_ = where
        pack = cache.kept_span("nodes", name, offset, length)
        record = pack if pack is not None else cache.kept_span("nodes", f"{name}-{offset}", 0, length)
        if record is None:
            return None
        try:
            return Node.decode(record, digest, place)
        except IntegrityError as error:
            log.debug("the cache is damaged: %s", error)
            return None

    def _fetch_node(self, where: Where, place: str) -> bytes:
        """A record; the pack it is in is kept, unless it is large."""
        _, name, offset, length, *_ = where
        key = node_key(name)
        try:
            if offset + length <= NODE_PACK:
                with self.system.read(key, (0, NODE_PACK)) as body:
                    if body.entry.size <= NODE_PACK:
                        pack = body.read()
                        cache.keep("nodes", name, pack)
                        return pack[offset : offset + length]
            with self.system.read(key, (offset, offset + length)) as body:
                record = body.read()
        except NotFoundError as error:
            raise LostError(where=place) from error
        cache.keep("nodes", f"{name}-{offset}", record)
        return record

    # Contents

    def open(self, child: Child, span: Span | None = None, *, key: str | None = None) -> Body:
        """The bytes of a file, or a range of them, compared with its digest; `key` is what the body's entry is called.

        Raises:
            IntegrityError: as soon as the bytes are found not to be those of the digest.
        """
        from rh.versions.reading import opened

        return opened(self, child, span, key)

    def writer(self, *, lease: Lease, progress: Progress | None = None) -> Writer:
        """What stores contents and nodes while the lease is held, and a tree at the end."""
        from rh.versions.packs import Writer

        return Writer(self, lease, progress)

    def known(self, digests: Iterable[str]) -> dict[str, Where]:
        """Where contents are in the store, as far as this machine has seen. A hint: `exists` says whether it holds."""
        return self.index.known(digests)

    def exists(self, digests: Iterable[str]) -> dict[str, Where]:
        """Those contents that the store has, of all places that are known or tried, and where; asks the store."""
        from rh.versions.packs import existing

        return existing(self, digests)

    def has_pack(self, name: str) -> bool:
        """Whether there is a pack of files of this name."""
        try:
            self.system.head(pack_key(name))
        except NotFoundError:
            return False
        return True

    # Who writes, and what is meant to stay

    @contextmanager
    def lease(self, ttl_s: float = 3600.0) -> Iterator[Lease]:
        """A time in which nothing is swept: renewed by a thread until the block ends.

        Raises:
            ConflictError: somebody sweeps the store, and does not come to an end.
        """
        lease = Lease(self.system, ttl_s)
        lease.begin()
        try:
            yield lease
        finally:
            lease.end()

    def ref(self, series: str, tree: str) -> None:
        """Keep a tree from being swept: a series is going to have it as a version."""
        document = {"series": series, "tree": tree, "time": round(time.time(), 3)}
        self.system.write(ref_key(series, tree), json.dumps(document).encode())

    def unref(self, series: str, tree: str) -> None:
        """A series has a tree no longer."""
        self.system.delete([ref_key(series, tree)])

    def refs(self, series: str | None = None) -> Iterator[Ref]:
        """What is to be kept, by series.

        Raises:
            IntegrityError: something is among them that is none.
        """
        for key in self._below("refs/" if series is None else f"refs/{quoted(series)}/"):
            found = _REF.fullmatch(key)
            if found is None:
                raise IntegrityError(
                    "nobody can tell what this keeps of the store", where=self.system.url(key),
                    hint="if it is none of rh's, such as .DS_Store, delete it",
                )  # fmt: skip
            yield Ref(unquote(found[1], errors="surrogateescape"), f"sha256:{found[2]}")

    # The format

    def check_format(self) -> None:
        """Raise `UnsupportedError` if a newer `rh` made this store; a new one is given its format."""
        where = self.system.url("format.json")
        try:
            with self.system.read("format.json") as body:
                found = json.loads(body.read())["rh-store"]
        except NotFoundError:
            create(self.system, "format.json", json.dumps({"rh-store": FORMAT}).encode())
            return
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError("the store's format is not told", where=where) from error
        if found not in (FORMAT, REDIRECTED):
            raise UnsupportedError(
                f"the store has format {found}; this rh knows {FORMAT} and {REDIRECTED}",
                where=where,
                hint="upgrade rh-data",
            )

    def allow_redirects(self) -> None:
        """Make it a store of the second format: an `rh` that does not know that one writes nothing to it any more."""
        with self.system.read("format.json") as body:
            if json.loads(body.read())["rh-store"] == FORMAT:
                self.system.write("format.json", json.dumps({"rh-store": REDIRECTED}).encode())

    def close(self) -> None:
        """Let go of connections."""
        self.system.close()


_SHARED = 32
_shared_lock = Lock()
_shared: OrderedDict[str, tuple[Location, dict[str, Any], Store]] = OrderedDict()
