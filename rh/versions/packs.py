"""Writing to a store: small files put together in packs, large ones whole, nodes in packs of their own.

Names of packs are random, so a member's place is known when it is put in; what holds it together is the digest of each
member, which every read is compared with. Nothing refers to what was written before the marker of the tree does.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Self

from rh import config
from rh import digest as digests
from rh.digest import Digest
from rh.errors import ConflictError, IntegrityError, NotFoundError, RhError
from rh.forks import Lock
from rh.progress import Progress, Silent
from rh.systems.abilities import Bulk, Item
from rh.systems.base import Bytes, System
from rh.transfer.compare import Action, Step
from rh.transfer.mover import as_rh
from rh.transfer.verify import digest_entries
from rh.types import Entry
from rh.versions import cache, pieces
from rh.versions.layout import chunks_key, node_key, object_key, pack_key
from rh.versions.lease import Lease
from rh.versions.moved import Redirect
from rh.versions.moving import each, move, read_small
from rh.versions.nodes import EMPTY, Child, Node, Where, pieces_of
from rh.versions.reading import chunks_of, keep_chunks
from rh.versions.store import Store, Tree

__all__ = ["LARGE", "Pack", "Stored", "Writer", "existing", "pack_limit"]

LARGE = 1 << 20
"""Files of so many bytes and more are objects of their own."""
PACK = 64 << 20
"""Bytes of a pack, at most; less where the setting `memory_mb` allows less."""
_NODES = 4 << 20
_BATCH = 4_000
_AHEAD = 8 << 20
_ITEMS = 1_000


def pack_limit() -> int:
    """Bytes of a pack of files, as the setting `memory_mb` allows."""
    return min(PACK, max(int(config.get("memory_mb")) << 19, LARGE))


class Stored(NamedTuple):
    """A file that the store has, or will have when the writer is done: what it was, its digest, and where it is."""

    entry: Entry
    digest: str
    where: Where


def existing(
    store: Store,
    wanted: Iterable[str],
    known: Mapping[str, Where] | None = None,
    packs: dict[str, Redirect | bool] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Where]:
    """Which of these contents the store has, and where: as `known` says, or as objects of their own.

    What is cut is not there: it is going to be stored again.

    Args:
        store: where.
        wanted: digests.
        known: where they are thought to be; else the index is asked.
        packs: remembers the packs that were asked for, and where their members went.
        sizes: of contents, in bytes, as far as they are known.
    """
    wanted = list(dict.fromkeys(wanted))
    known = store.known(wanted) if known is None else known
    packs = {} if packs is None else packs
    sizes = {} if sizes is None else sizes

    def pack_of(name: str) -> Redirect | bool:
        return store.has_pack(name) or store.redirects.ask(name) or False

    def in_pack(where: Where) -> bool:
        pack = packs[where[1]]
        return pack if isinstance(pack, bool) else pack.place(where[2]) is not None

    def whole_one(digest: str) -> bool:
        try:
            return store.system.head(object_key(digest)).size == sizes.get(digest, -1) or digest not in sizes
        except NotFoundError:
            return False

    ask = [name for name in dict.fromkeys(where[1] for where in known.values() if where[0] == "p") if name not in packs]
    packs.update(zip(ask, each(pack_of, ask), strict=True))
    found = {digest: where for digest, where in known.items() if where[0] == "p" and in_pack(where)}
    whole = [digest for digest in wanted if digest not in found]
    on_disk = store.system.kind == "file"  # where workers would only wait for each other
    has = (map if on_disk else each)(whole_one, whole)
    found |= {digest: ("o",) for digest, yes in zip(whole, has, strict=True) if yes}
    store.index.forget(digest for digest in known if digest not in found)
    return found


class Pack:
    """Bytes put together until they are enough; then they are written while the next ones are put together.

    Args:
        system: where to.
        key: of a pack's name.
        limit: bytes of a pack, at most; what is larger is one of its own.
        done: told of each pack that is written, and of its bytes.
    """

    def __init__(
        self, system: System, key: Callable[[str], str], limit: int, done: Callable[[str, bytearray], None]
    ) -> None:
        self._system, self._key, self._limit, self._done = system, key, limit, done
        self._name, self._buffer = secrets.token_hex(16), bytearray()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def add(self, data: Bytes) -> tuple[str, int]:
        """The pack and the offset where these bytes are to be."""
        if self._buffer and len(self._buffer) + len(data) > self._limit:
            self.flush()
        offset = len(self._buffer)
        self._buffer += data
        return self._name, offset

    def flush(self) -> None:
        """Begin to write what there is; an error of the one before is raised."""
        self.wait()
        if not self._buffer:
            return
        name, data = self._name, self._buffer
        self._name, self._buffer = secrets.token_hex(16), bytearray()
        self._thread = threading.Thread(target=self._write, args=(name, data), name="rh-pack", daemon=True)
        self._thread.start()

    def _write(self, name: str, data: bytearray) -> None:
        try:
            self._system.write(self._key(name), data, size=len(data))
            self._done(name, data)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that writes the tree
            self._error = error

    def wait(self) -> None:
        """Wait until what was begun is written."""
        if self._thread is not None:
            while self._thread.is_alive():
                self._thread.join(0.5)  # in steps, so that Ctrl-C gets through
            self._thread = None
        if self._error is not None:
            raise self._error


class Writer:
    """Stores contents and nodes, each once, and at the end the marker of a tree. Safe for threads.

    Args:
        store: where.
        lease: one that is held until the tree is finished, and has its reference.
        progress: told of every file.
    """

    def __init__(self, store: Store, lease: Lease, progress: Progress | None = None) -> None:
        self.store = store
        self.progress = progress or Silent()
        self._lease = lease
        self._system = store.system
        self._lock = Lock()
        self._pack = Pack(self._system, pack_key, pack_limit(), self._packed)
        self._node_pack = Pack(self._system, node_key, _NODES, self._nodes_packed)
        self._cut_from = pieces.least()
        self._placed: dict[str, Where] = {EMPTY: ("e",)}
        self._in_packs: dict[str, dict[str, Where]] = {}
        self._packs: dict[str, Redirect | bool] = {}
        self._nodes: dict[str, Where] = {}
        self._node_packs: list[tuple[str, int]] = []
        self._items: list[Item] = []
        self._objects: dict[str, Where] = {}
        self._waiting = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        for pack in (self._pack, self._node_pack):
            try:
                pack.wait()
            except RhError:  # it was raised before, or another error is on its way
                continue

    # Contents

    def put(self, data: Bytes, digest: str | None = None) -> Stored:
        """Store bytes that are in memory.

        Raises:
            IntegrityError: they are not of the digest.
        """
        found = digests.of_bytes(data)
        if digest is not None and digest != found.text:
            raise IntegrityError("these are other bytes", expected=digest, got=found.text)
        entry = Entry("", len(data), "file")
        with self._lock:
            where = self._placed.get(found.text) or self._known({found.text: len(data)}).get(found.text)
            if where is None:
                where = self._store(found, data)
            return Stored(entry, found.text, where)

    def add(
        self,
        source: System,
        files: Iterable[tuple[Entry, Digest | None]],
        past: Mapping[str, Child] | None = None,
    ) -> Iterator[Stored]:
        """Store files of a system, given their digests where those are known; in any order, each once.

        What the store has is neither read nor sent. Large files move by the transfer engine's means: copied by the
        place itself, fetched by the far side, in parts that an interrupted run need not send again.

        Args:
            source: the system.
            files: which.
            past: what files were, by key, in a version that the store is sure to have. It may grow with `files`.

        Raises:
            ConflictError: a file is not the one that was listed. IntegrityError: its bytes are not of the digest.
        """
        left = iter(files)
        while batch := list(islice(left, _BATCH)):
            with self._lock:
                yield from list(self._add(source, batch, past or {}))

    def _add(
        self, source: System, batch: Sequence[tuple[Entry, Digest | None]], past: Mapping[str, Child]
    ) -> Iterator[Stored]:
        told = {entry.key: digest for entry, digest in batch if digest is not None}
        entries = {entry.key: entry for entry, _ in batch}
        unknown = [entry for key, entry in entries.items() if key not in told]
        for entry, digest in digest_entries(source, [entry for entry in unknown if not self._is_small(entry)]):
            if isinstance(digest, Exception):
                raise digest
            told[entry.key] = digest
        have = self._known({digest.text: entries[key].size for key, digest in told.items()})
        to_read: list[Entry] = []
        to_move: list[tuple[Entry, Digest]] = []
        to_cut: list[tuple[Entry, Digest]] = []
        for key, entry in entries.items():
            found = told.get(key)
            where = have.get(found.text) if found is not None else None
            if found is not None and where is not None:
                self.progress.advance(1, entry.size)
                yield Stored(entry, found.text, where)
            elif found is None or self._is_small(entry):
                to_read.append(entry)
            elif self._cut_from is not None and entry.size >= self._cut_from:
                to_cut.append((entry, found))
            else:
                to_move.append((entry, found))
        yield from self._read(source, to_read, told)
        yield from self._move(source, to_move)
        for entry, found in to_cut:
            yield Stored(entry, found.text, self._cut(source, entry, found, past.get(entry.key)))

    def _is_small(self, entry: Entry) -> bool:
        """Whether a file goes into a pack."""
        return self.store.packs_files and entry.size < LARGE

    def _known(self, wanted: Mapping[str, int], hints: Mapping[str, Where] | None = None) -> dict[str, Where]:
        """Where these contents (digests and sizes in bytes) are already: by this writer, or for sure in the store.

        `hints` say where some may be, beside what the index says.
        """
        found = {digest: self._placed[digest] for digest in wanted if digest in self._placed}
        new = [digest for digest in wanted if digest not in found]
        known = self.store.known(new) if new else {}
        known |= {digest: hints[digest] for digest in new if digest in hints} if hints else {}
        # To ask costs a request, which only a large file is worth, or a file that probably is there.
        ask = [digest for digest in new if digest in known or wanted[digest] >= LARGE or self._system.kind == "file"]
        more = existing(self.store, ask, known, self._packs, wanted) if ask else {}
        self._placed.update(more)
        return found | more

    def _read(self, source: System, entries: Sequence[Entry], told: dict[str, Digest]) -> Iterator[Stored]:
        """Small files: read, and put into a pack."""
        left = iter(entries)
        while group := _some(left, _AHEAD):
            read = [(entry, data, digests.of_bytes(data)) for entry, data in read_small(source, group)]
            for entry, data, found in read:
                expected = told.get(entry.key)
                if len(data) != entry.size or (expected is not None and expected.text != found.text):
                    raise ConflictError("the file changed while it was read", where=source.url(entry.key))
            have = self._known({found.text: entry.size for entry, _, found in read if entry.key not in told})
            for entry, data, found in read:
                where = have.get(found.text) or self._placed.get(found.text) or self._store(found, data)
                self.progress.advance(1, entry.size)
                yield Stored(entry, found.text, where)

    def _move(self, source: System, files: Sequence[tuple[Entry, Digest]]) -> Iterator[Stored]:
        """Files that are objects of their own."""
        steps: dict[str, Step] = {}
        for entry, digest in files:
            key = object_key(digest.text)
            if key in steps or digest.text in self._placed:
                self.progress.advance(1, entry.size)
                continue
            self._write_chunks(digest)
            steps[key] = Step(Action.COPY, key, entry, digest.text, digest.chunks, executable=False)
        self._write_items()
        if steps:
            move(source, self._system, list(steps.values()), self.progress)
        places: dict[str, Where] = {digest.text: ("o",) for _, digest in files}
        self._placed.update(places)
        self.store.index.add(places)
        for entry, digest in files:
            yield Stored(entry, digest.text, self._placed[digest.text])

    def _cut(self, source: System, entry: Entry, digest: Digest, was: Child | None) -> Where:
        """A large file in pieces, of which those are stored that the store has not.

        From the beginning on, as long as it is what it `was`, it is not even read.
        """
        where = self._placed.get(digest.text)
        if where is None:
            before = pieces_of(was) if was is not None and was.where[0] == "c" else []
            hints = {piece.digest: piece.where for piece in before}
            same = pieces.unchanged(was, chunks_of(self.store, was), digest) if was is not None and before else []
            places: list[list[Any]] = [[piece.digest, piece.size, list(piece.where)] for piece in same]
            self._write_chunks(digest)
            for group in pieces.cut(source, entry, digest, sum(piece.size for piece in same)):
                have = self._known({piece.text: len(data) for piece, data in group}, hints)
                for piece, data in group:
                    place = have.get(piece.text) or self._placed.get(piece.text) or self._store(piece, data)
                    places.append([piece.text, len(data), list(place)])
            where = self._placed[digest.text] = ("c", places)
        self.progress.advance(1, entry.size)
        return where

    def _store(self, digest: Digest, data: Bytes) -> Where:
        """Bytes that the store has not."""
        if not len(data):
            return ("e",)
        if self.store.packs_files and len(data) < LARGE:
            name, offset = self._pack.add(data)
            where: Where = ("p", name, offset)
            self._in_packs.setdefault(name, {})[digest.text] = where
        else:
            self._write_chunks(digest)
            if len(data) > _AHEAD:
                self._system.write(object_key(digest.text), data, size=len(data))
            else:
                self._write_later(Item(object_key(digest.text), bytes(data)), digest.text)
            where = ("o",)
        self._placed[digest.text] = where
        return where

    def _packed(self, name: str, _data: bytearray) -> None:
        self.store.index.add(self._in_packs.pop(name, {}))

    def _write_chunks(self, digest: Digest) -> None:
        """Chunk digests go before their object: where that is, ranges of it can be proven."""
        if digest.chunks:
            self._write_later(Item(chunks_key(digest.text), digest.chunks))
            keep_chunks(digest)

    def _write_later(self, item: Item, digest: str | None = None) -> None:
        """Write this soon; what is the whole content of a digest is told to the index then."""
        self._items.append(item)
        if digest is not None:
            self._objects[digest] = ("o",)
        self._waiting += len(item.data)
        if len(self._items) >= _ITEMS or self._waiting > _AHEAD:
            self._write_items()

    def _write_items(self) -> None:
        """Write what was left for later, in few round trips."""
        items, self._items, self._waiting = self._items, [], 0
        objects, self._objects = self._objects, {}
        bulk = self._system.ask(Bulk)
        small = -1 if bulk is None or len(items) < 2 else bulk.largest
        singly = [item for item in items if len(item.data) > small]
        list(each(lambda item: self._system.write(item.key, item.data, executable=item.executable), singly))
        if bulk is not None and len(singly) < len(items):
            packed = (item for item in items if len(item.data) <= small)
            for outcome in bulk.write_many(packed, workers=int(config.get("workers"))):
                if outcome.error is not None:
                    raise as_rh(outcome.error, self._system.url(outcome.key))
        if self._system.kind != "file":  # there it is cheap to look
            self.store.index.add(objects)

    # Nodes

    def node(self, node: Node) -> Where:
        """Store a directory, and say where it is. Those below it come first; equal ones are stored once."""
        with self._lock:
            where = self._nodes.get(node.digest)
            if where is None:
                record = node.encode()
                name, offset = self._node_pack.add(record)
                where = self._nodes[node.digest] = ("n", name, offset, len(record), node.files, node.entries)
            return where

    def _nodes_packed(self, name: str, data: bytearray) -> None:
        self._node_packs.append((name, len(data)))
        cache.keep("nodes", name, data)

    def finish(self, root: Node, *, references: bool = False) -> Tree:
        """Write what is left, and then the marker of the tree. Returns the marker that the store has.

        Args:
            root: its root's node.
            references: whether files of it may be there by reference.

        Raises:
            ConflictError: the lease was lost meanwhile.
        """
        with self._lock:
            where = self.node(root)
            self._write_items()
            for pack in (self._pack, self._node_pack):
                pack.flush()
            for pack in (self._pack, self._node_pack):
                pack.wait()
            self.store.check_format()
            self._lease.check()
            packs = tuple(self._node_packs)
            tree = Tree(root.digest, root.files, root.size, root.entries, where, packs, references)
            return self.store.publish(tree)


def _some(entries: Iterator[Entry], size: int) -> list[Entry]:
    """The next entries, of at most so many bytes together (or one)."""
    found: list[Entry] = []
    for entry in entries:
        found.append(entry)
        size -= max(entry.size, 1)
        if size <= 0:
            break
    return found
