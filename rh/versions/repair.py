"""Mending a version: what the store has lost or damaged is written again, from any files that have the bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from rh import digest as digests
from rh.content.tree import key_bytes
from rh.digest import Digest, Hasher
from rh.errors import ConflictError, IntegrityError, NotFoundError, RhError
from rh.observe import log
from rh.progress import Silent
from rh.systems.base import System
from rh.transfer.compare import Action, Step
from rh.types import Entry
from rh.versions.layout import chunks_key, hex_of, moved_key, object_key, pack_key, tree_key
from rh.versions.lease import Lease
from rh.versions.levels import Past
from rh.versions.moving import move
from rh.versions.nodes import Child, Node, Where, pieces_of
from rh.versions.overlay import Overlay
from rh.versions.packs import LARGE, Writer
from rh.versions.reading import raw
from rh.versions.store import Store, Tree
from rh.versions.verify import Uncached, files_of

__all__ = ["mend_contents", "mend_tree"]


class _Doubted(Store):
    """A store whose marker of one tree is not believed, and stays until it is written again.

    Args:
        store: which.
        digest: of the tree.
    """

    def __init__(self, store: Store, digest: str) -> None:
        super().__init__(store.system)
        self._digest = digest

    def has_tree(self, digest: str) -> bool:
        return digest != self._digest and super().has_tree(digest)

    def publish(self, tree: Tree) -> Tree:
        if tree.digest == self._digest:
            key = tree_key(tree.digest)
            self.system.write(key, tree.encode())
            return self._fetch_tree(tree.digest, key, self._mark[:16] + hex_of(tree.digest))
        return super().publish(tree)


def mend_tree(store: Store, digest: str, commit: Callable[[Store], Tree]) -> None:
    """Have the marker and the directories of a version written again, if they cannot be read.

    Args:
        store: where.
        digest: of the tree.
        commit: makes a version of the data that there is, in the store that it is given, under a lease.

    Raises:
        IntegrityError: they cannot be read, and the data is not that of the version. Nothing was changed.
    """
    try:
        asked = Uncached(store)
        for _ in files_of(asked, asked.root(asked.tree(digest))):
            pass
        return
    except (IntegrityError, NotFoundError) as error:
        log.info("%s is written again: %s", digest, error)
        broken = error
    key = tree_key(digest)
    made = commit(_Doubted(store, digest)).digest
    if made != digest:
        raise IntegrityError(
            "the directories of the version are lost, and the data it is repaired from is not that of the version",
            where=store.system.url(key),
            hint="restore the data to what it was then, or name a whole copy (--from PLACE), and repair it again",
            expected=digest,
            got=made,
        ) from broken


def mend_contents(
    store: Store, digest: str, bad: Iterable[str], there: Iterable[tuple[System, Entry]], lease: Lease
) -> set[str]:
    """Write contents again; what was there by reference is a copy then. Returns the paths whose bytes were found.

    Args:
        store: where.
        digest: of the tree.
        bad: paths of files whose contents are damaged or lost, or are not what was referred to.
        there: files that may have the bytes.
        lease: one that is held.
    """
    wanted: dict[str, Child] = {}
    paths: dict[str, list[str]] = defaultdict(list)
    referred: dict[str, list[str]] = defaultdict(list)
    names = set(bad)
    sizes: set[int] = set()
    references = held = 0
    store = Uncached(store)
    for key, child in files_of(store, store.root(store.tree(digest))):
        references += child.where[0] == "r"
        if key not in names:
            continue
        sizes.add(child.size)
        if child.where[0] == "r":
            referred[child.digest].append(key)
        else:
            wanted[child.digest] = child
            paths[child.digest].append(key)
    packed: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
    copied: dict[str, Where] = {}
    with Writer(_Doubted(store, digest), lease) as writer:
        for system, entry in there:
            if len(copied) == len(referred) and not wanted:
                break
            if entry.kind != "file" or entry.size not in sizes:
                continue
            try:
                found = _digest(system, entry)
            except RhError as error:
                log.debug("%s cannot be read: %s", system.url(entry.key), error)
                continue
            if found.text in referred and found.text not in copied:
                copied.update((stored.digest, stored.where) for stored in writer.add(system, [(entry, found)]))
            if found.text not in wanted:
                continue
            child = wanted.pop(found.text)
            if child.where[0] == "c":
                _write_pieces(store, child, system, entry)
            elif child.where[0] == "p":
                with system.read(entry.key) as body:
                    data = body.read()
                if digests.of_bytes(data).text != child.digest:
                    raise ConflictError("the file changed while it was read", where=system.url(entry.key))
                pack, offset = _where_now(store, child)
                packed[pack].append((offset, data))
                held += len(data)
                if held > store.group_size:
                    _patch_all(store, packed)
                    held = 0
            else:
                _write(store, child, system, entry, found)
        _patch_all(store, packed)
        if copied:
            places = {key: where for one, where in copied.items() for key in referred[one]}
            writer.finish(_with_places(writer, digest, places), references=references > len(places))
    left = {key for one in wanted for key in paths[one]}
    return names - left - {key for one in referred.keys() - copied for key in referred[one]}


def _with_places(writer: Writer, digest: str, places: Mapping[str, Where]) -> Node:
    """The root of a tree of which some files, by their paths, are at other places now."""
    store = writer.store
    overlay = Overlay(store, Past.of(store, store.tree(digest)).child)
    for key, where in places.items():
        parts = key_bytes(key).split(b"/")
        child = overlay.find(parts)
        assert child is not None
        overlay.put(parts, child._replace(where=where))
    return overlay.root(lambda child: child, writer.node)


def _digest(system: System, entry: Entry) -> Digest:
    hasher = Hasher(entry.size)
    with system.read(entry.key) as body:
        for piece in body:
            hasher.update(piece)
    return hasher.finish()


def _write(store: Store, child: Child, system: System, entry: Entry, digest: Digest) -> None:
    """An object in the place of what is there."""
    key = object_key(child.digest)
    if digest.chunks:
        store.system.write(chunks_key(child.digest), digest.chunks)
    if child.size < LARGE:
        with system.read(entry.key) as body:
            data = body.read()
        if digests.of_bytes(data).text != child.digest:
            raise ConflictError("the file changed while it was read", where=system.url(entry.key))
        store.system.write(key, data, size=len(data))
        return
    store.system.delete([key])  # what is there has the size and the name that a transfer would believe
    step = Step(Action.COPY, key, entry, digest.text, digest.chunks, executable=False)
    move(system, store.system, [step], Silent())


def _write_pieces(store: Store, child: Child, system: System, entry: Entry) -> None:
    """The pieces of a file that the store has not."""
    at = 0
    for piece in pieces_of(child):
        try:
            with raw(store, piece, 0, piece.size) as body:
                sound = digests.of_bytes(body.read()).text == piece.digest
        except (IntegrityError, NotFoundError):
            sound = False
        if not sound:
            with system.read(entry.key, (at, at + piece.size)) as body:
                data = body.read()
            if digests.of_bytes(data).text != piece.digest:
                raise ConflictError("the file changed while it was read", where=system.url(entry.key))
            if piece.where[0] == "p":
                pack, offset = _where_now(store, piece)
                _patch(store, pack, [(offset, data)])
            else:
                store.system.write(object_key(piece.digest), data, size=len(data))
        at += piece.size


def _where_now(store: Store, child: Child) -> tuple[str, int]:
    """The pack that a file belongs into by now, and where in it."""
    pack, offset = child.where[1:]
    if store.redirects.place(pack, offset) == (pack, offset) and not store.has_pack(pack):
        try:
            store.redirects.ask(pack)
        except IntegrityError as error:
            log.warning("the pack %s is written again where it was: %s", pack, error)
            store.system.delete([moved_key(pack)])
    return store.redirects.place(pack, offset)


def _patch_all(store: Store, packed: dict[str, list[tuple[int, bytes]]]) -> None:
    while packed:
        _patch(store, *packed.popitem())


def _patch(store: Store, pack: str, members: list[tuple[int, bytes]]) -> None:
    """Put members where they belong in a pack; the rest of it stays, or is empty where the pack is lost."""
    data = bytearray()
    with suppress(NotFoundError), store.system.read(pack_key(pack)) as body:
        data += body.read()
    for offset, member in members:
        end = offset + len(member)
        if len(data) < end:
            data += bytes(end - len(data))
        data[offset:end] = member
    store.system.write(pack_key(pack), data, size=len(data))
