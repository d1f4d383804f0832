r"""A version as one file, out of a store and into another one.

The file is a POSIX tar archive (mode 0644, no times, no owners) with these members, and no others, in this order:

* `rh-version.json`: `{"rh-version-file": 1, "tree": "sha256:…", "files": …, "size": …, "entries": …}`,
* `nodes/<sha256>`: every directory once, each before those in it, as `rh.versions.nodes` tells a record, but not
  compressed and without a store's places: `["o"]` for a file, `["e"]` for an empty one, `["l", base64]` for a link,
  `["n", 32 zeros, 0, 0, files, entries]` for a directory,
* `contents/<algorithm>/<digest>`: the bytes of every file once, in the order in which the nodes name them.

So the archive of a tree is the same wherever it is made, each member says what must come next, and a file that was
changed anywhere is found out.
"""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, NamedTuple

from rh import config
from rh.content.tree import key_text
from rh.digest import Hasher
from rh.errors import ExistsError, FullError, IntegrityError, NotFoundError, RhError, UnsupportedError
from rh.systems import locate, open_system
from rh.systems.base import Body, Bytes, check_not_ours
from rh.types import ABSENT, Entry, Location
from rh.versions.bulk import read_children
from rh.versions.layout import hex_of
from rh.versions.lease import Lease
from rh.versions.nodes import Child, Node, Where
from rh.versions.packs import LARGE, Writer
from rh.versions.spooled import Spooled
from rh.versions.store import Store, Tree

__all__ = ["read_file", "write_file"]

_FORMAT = 1
_MARKER = "rh-version.json"
_INDEX = b".rh-table.json"
"""The index of a table (`rh.tables.base.INDEX`): of the names that are ours, the one that versions hold."""
_NOWHERE = "0" * 32
_BLOCK = tarfile.BLOCKSIZE
_MOST = 1 << 30
"""Bytes of a node at most."""
_IN_MEMORY = 16 << 20
_GROUP = 1_000


# Out


def write_file(tree: Tree, store: Store, path: str | os.PathLike[str] | Location, *, overwrite: bool = False) -> int:
    """Write a version, with all its files, as one file. Returns its bytes. Equal trees give equal files.

    Args:
        tree: the version.
        store: where it is.
        path: of the file: a path here, a URL, or a place.
        overwrite: whether a file that is there may be replaced.

    Raises:
        ExistsError: there is one. NotFoundError, IntegrityError: the store has lost a part of the version.
    """
    location = path if isinstance(path, Location) else locate(path)
    system, key = open_system(location.parent), location.name
    if overwrite:
        return system.write(key, _archive(tree, store)).size
    try:
        system.head(key)
    except NotFoundError:
        try:
            return system.write(key, _archive(tree, store), when=ABSENT).size
        except UnsupportedError:
            return system.write(key, _archive(tree, store)).size
    raise ExistsError("there is a file already", where=system.url(key), hint="overwrite=True replaces it")


def _archive(tree: Tree, store: Store) -> Iterator[Bytes]:
    """The bytes of the file."""
    written = 0
    for piece in _members(tree, store):
        written += len(piece)
        yield piece
    yield bytes(_end(written) - written)


def _members(tree: Tree, store: Store) -> Iterator[Bytes]:
    marker = _marker(hex_of(tree.digest), tree.files, tree.size, tree.entries)
    yield from (_header(_MARKER, len(marker)), marker, _padding(len(marker)))
    for node in _nodes(store, tree):
        record = _record(node)
        yield from (_header(_node_name(node.digest), len(record)), record, _padding(len(record)))
    group: list[tuple[Entry, Child]] = []
    size = 0
    for child in _contents(_nodes(store, tree)):
        if child.size < LARGE:
            group.append((Entry(child.digest, child.size), child))
            size += child.size
        if child.size >= LARGE or size >= store.group_size or len(group) >= _GROUP:
            yield from _small(store, group)
            group, size = [], 0
        if child.size >= LARGE:
            yield _header(_content_name(child.digest), child.size)
            with store.open(child) as body:
                yield from body
            yield _padding(child.size)
    yield from _small(store, group)


def _small(store: Store, group: list[tuple[Entry, Child]]) -> Iterator[Bytes]:
    """Small files, read together."""
    found: dict[str, bytes] = {}
    for entry, data in read_children(store, group):
        if isinstance(data, Exception):
            raise data
        found[entry.key] = data
    for _, child in group:
        yield from (_header(_content_name(child.digest), child.size), found[child.digest], _padding(child.size))


def _nodes(store: Store, tree: Tree) -> Iterator[Node]:
    """Every directory once, each before those in it."""
    seen = {tree.digest}
    yield (top := store.root(tree))
    waiting = [iter(top.children)]
    while waiting:
        child = next(waiting[-1], None)
        if child is None:
            waiting.pop()
        elif child.kind == "dir" and child.digest not in seen:
            seen.add(child.digest)
            yield (node := store.below(child))
            waiting.append(iter(node.children))


def _contents(nodes: Iterable[Node]) -> Iterator[Child]:
    """A file of each content, in the order in which the nodes name them; empty ones have none."""
    seen: set[str] = set()
    for node in nodes:
        for child in node.children:
            if child.kind == "file" and child.size and child.digest not in seen:
                seen.add(child.digest)
                yield child


def _marker(value: str, files: int, size: int, entries: int) -> bytes:
    told = {"rh-version-file": _FORMAT, "tree": f"sha256:{value}", "files": files, "size": size, "entries": entries}
    return json.dumps(told).encode() + b"\n"


def _record(node: Node) -> bytes:
    text = node.text()
    where = json.dumps([_portable(child) for child in node.children], separators=(",", ":"))
    return b"%d\n%s%s" % (len(text), text, where.encode())


def _portable(child: Child) -> Where:
    """Where a child is, without a store's places."""
    if child.kind == "dir":
        return ("n", _NOWHERE, 0, 0, *child.where[4:])
    if child.kind == "link":
        return child.where
    return ("o",) if child.size else ("e",)


def _node_name(digest: str) -> str:
    return f"nodes/{digest.removeprefix('sha256:')}"


def _content_name(digest: str) -> str:
    return f"contents/{digest.replace(':', '/')}"


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _end(written: int) -> int:
    """The length of an archive with so many bytes of members: two empty blocks, then up to a whole record."""
    return -(-(written + 2 * _BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


# In


def read_file(path: str | os.PathLike[str] | Location, store: Store, *, lease: Lease | None = None) -> Tree:
    """Store the version that is in a file. All of the file is verified before the version is to be seen.

    Args:
        path: of the file: a path here, a URL, or a place.
        store: where to.
        lease: one that the caller holds until the tree has its reference; by default one for the time of the call.

    Raises:
        NotFoundError: there is no such file. IntegrityError: it is not a version's, or is not as it was written.
        UnsupportedError: a newer `rh` wrote it.
    """
    location = path if isinstance(path, Location) else locate(path)
    system, key = open_system(location.parent), location.name
    with ExitStack() as stack:
        source = _Source(stack.enter_context(system.read(key)), system.url(key))
        spool = stack.enter_context(_spool())
        listed = _Listed.of(source, spool)
        held = stack.enter_context(store.lease() if lease is None else nullcontext(lease))
        writer = stack.enter_context(Writer(store, held))
        places = _store_contents(source, listed, writer)
        source.finish()
        return writer.finish(_store_nodes(listed, places, writer))


class _Source:
    """The file as it comes, from the beginning to the end."""

    def __init__(self, body: Body, where: str) -> None:
        self.where = where
        self._pieces = iter(body)
        self._held = memoryview(b"")
        self._at = 0

    def pieces(self, size: int) -> Iterator[Bytes]:
        """So many bytes."""
        while size:
            if not self._held:
                found = next(self._pieces, None)
                if found is None:
                    raise IntegrityError("the version's file is cut", where=self.where)
                self._held = memoryview(bytes(found))
            piece, self._held = self._held[:size], self._held[size:]
            size -= len(piece)
            self._at += len(piece)
            yield piece

    def take(self, size: int) -> bytes:
        """So many bytes at once."""
        return b"".join(self.pieces(size))

    def header(self, name: str) -> int:
        """The header of a small member of this name, which must come now. Returns the size it tells."""
        block = self.take(_BLOCK)
        found = _told(block)
        if found is None or found.name != name or not 0 <= found.size <= _MOST or _header(name, found.size) != block:
            raise self.other(name, found)
        return found.size

    def expect(self, name: str, size: int) -> None:
        """The header of a member of this name and size, which must come now."""
        wanted = _header(name, size)
        block = self.take(_BLOCK)
        if block != wanted[:_BLOCK] or self.take(len(wanted) - _BLOCK) != wanted[_BLOCK:]:
            raise self.other(name, _told(block))

    def other(self, name: str, found: tarfile.TarInfo | None) -> IntegrityError:
        """The error that something else comes."""
        got = "something damaged" if found is None else f"{found.name!r} of {found.size} bytes"
        return IntegrityError("not the file of a version, or damaged", where=self.where, expected=name, got=got)

    def padding(self, size: int) -> None:
        """What fills the last block of a member of so many bytes."""
        if any(self.take(-size % _BLOCK)):
            raise IntegrityError("the version's file is damaged", where=self.where)

    def finish(self) -> None:
        """Nothing but the end may come now."""
        if any(self.take(_end(self._at) - self._at)) or self._held or next(self._pieces, None) is not None:
            raise IntegrityError("the version's file holds more than the version", where=self.where)


def _told(block: bytes) -> tarfile.TarInfo | None:
    """What a header tells, if it is one."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except tarfile.TarError:
        return None


class _Amounts(NamedTuple):
    """What is below a directory, as its node or the one above tells."""

    size: int
    files: int
    entries: int


class _Listed:
    """The nodes of the file, whose text is kept on disk, and the contents that must follow."""

    def __init__(self, root: str, spool: IO[bytes], where: str) -> None:
        self.root = root
        self.contents: dict[str, int] = {}
        self._spool = spool
        self._where = where
        self._nodes: dict[str, tuple[int, int]] = {}

    @classmethod
    def of(cls, source: _Source, spool: IO[bytes]) -> _Listed:
        """Read the marker and all nodes, and compare them with each other."""
        told = _read_marker(source)
        listed = cls(str(told["tree"]), spool, source.where)
        amounts: dict[str, _Amounts] = {}
        claims = [(listed.root, _Amounts(told["size"], told["files"], told["entries"]))]
        waiting: list[Iterator[str]] = [iter([listed.root])]
        while waiting:
            digest = next(waiting[-1], None)
            if digest is None:
                waiting.pop()
            elif digest not in amounts:
                node = listed._read(source, digest)
                amounts[digest] = _Amounts(node.size, node.files, node.entries)
                below = [child for child in node.children if child.kind == "dir"]
                claims += [(child.digest, _Amounts(child.size, *child.where[4:])) for child in below]
                waiting.append(iter([child.digest for child in below]))
        for digest, claim in claims:
            if amounts[digest] != claim:
                raise IntegrityError(
                    f"the directory {digest} is not as large as is said", where=source.where,
                    expected=str(tuple(claim)), got=str(tuple(amounts[digest])),
                )  # fmt: skip
        return listed

    def _read(self, source: _Source, digest: str) -> Node:
        size = source.header(_node_name(digest))
        data = source.take(size)
        source.padding(size)
        node = self._decoded(data, digest)
        for child in node.children:
            if child.name != _INDEX:
                check_not_ours(key_text(child.name))
        if data != _record(node):
            raise IntegrityError("a directory is not as it was written", where=f"{self._where}: {_node_name(digest)}")
        with _room():
            self._nodes[digest] = self._spool.seek(0, os.SEEK_END), size
            self._spool.write(data)
        for child in node.children:
            if child.kind == "file" and child.size and self.contents.setdefault(child.digest, child.size) != child.size:
                raise IntegrityError(f"the content {child.digest} is said to have two sizes", where=self._where)
        return node

    def _decoded(self, data: bytes, digest: str) -> Node:
        return Node.decode(zlib.compress(data, 0), digest, f"{self._where}: {_node_name(digest)}")

    def node(self, digest: str) -> Node:
        """A node that was read."""
        at, size = self._nodes[digest]
        self._spool.seek(at)
        return self._decoded(self._spool.read(size), digest)


def _read_marker(source: _Source) -> Mapping[str, Any]:
    size = source.header(_MARKER)
    data = source.take(min(size, 4096))
    try:
        told: dict[str, Any] = json.loads(data)
        if told["rh-version-file"] > _FORMAT:
            raise UnsupportedError(
                f"the file has format {told['rh-version-file']}; this rh knows {_FORMAT}",
                where=source.where,
                hint="upgrade rh-data",
            )
        amounts = [told[name] for name in ("files", "size", "entries")]
        if {*map(type, amounts)} != {int} or _marker(hex_of(told["tree"]), *amounts) != data:
            raise ValueError("it is not as it was written")
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"the marker of the version is damaged: {error!r}", where=source.where) from error
    source.padding(size)
    return told


def _store_contents(source: _Source, listed: _Listed, writer: Writer) -> dict[str, Where]:
    """Store the contents, which come now; where they are."""
    places: dict[str, Where] = {}
    for digest, size in listed.contents.items():
        source.expect(_content_name(digest), size)
        where = f"{source.where}: {_content_name(digest)}"
        if size <= _IN_MEMORY:
            try:
                places[digest] = writer.put(source.take(size), digest).where
            except IntegrityError as error:
                raise IntegrityError("a file is damaged", where=where, expected=digest, got=error.got) from None
        else:
            places[digest] = _store_large(source, digest, size, writer, where)
        source.padding(size)
    return places


def _store_large(source: _Source, digest: str, size: int, writer: Writer, where: str) -> Where:
    """A large file goes by way of the disk, so that it moves as large files do."""
    hasher = Hasher(size)

    def hashed() -> Iterator[Bytes]:
        for piece in source.pieces(size):
            hasher.update(piece)
            yield piece

    with Spooled(hashed(), _home()) as file:
        found = hasher.finish()
        if found.text != digest:
            raise IntegrityError("a file is damaged", where=where, expected=digest, got=found.text)
        return next(iter([stored.where for stored in writer.add(file, [(file.entry, found)])]))


def _store_nodes(listed: _Listed, places: Mapping[str, Where], writer: Writer) -> Node:
    """Store the nodes, those below first. Returns the root."""
    done: dict[str, Where] = {}
    waiting = [listed.root]
    while True:
        node = listed.node(waiting[-1])
        missing = {child.digest for child in node.children if child.kind == "dir"} - done.keys()
        if missing:
            waiting += missing
            continue
        node = Node([_placed(child, places, done) for child in node.children], digest=node.digest)
        if node.digest == listed.root:
            return node
        done[node.digest] = writer.node(node)
        while waiting[-1] in done:
            waiting.pop()


def _placed(child: Child, places: Mapping[str, Where], nodes: Mapping[str, Where]) -> Child:
    if child.kind == "dir":
        return child._replace(where=nodes[child.digest])
    return child._replace(where=places[child.digest]) if child.where[0] == "o" else child


def _home() -> Path:
    home = config.home()
    home.mkdir(parents=True, exist_ok=True)
    return home


def _spool() -> IO[bytes]:
    return tempfile.TemporaryFile(prefix="import-", dir=_home())


@contextmanager
def _room() -> Iterator[None]:
    """What the disk of this machine refuses, as an error of ours."""
    try:
        yield
    except RhError:
        raise
    except OSError as error:
        raise FullError(f"the version cannot be unpacked here: {error}", where=str(config.home())) from error
