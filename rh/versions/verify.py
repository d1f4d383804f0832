"""Reading a version again, from where its bytes are kept: nothing that is cached counts."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

from rh import digest as digests
from rh.content.tree import key_text
from rh.digest import Hasher
from rh.errors import ConflictError, IntegrityError, NotFoundError, RhError
from rh.observe import log
from rh.systems import settings_of
from rh.transfer import Verification
from rh.types import Location
from rh.versions.layout import hex_of, node_key, pack_key, tree_key
from rh.versions.lost import LostError
from rh.versions.moving import each, twice
from rh.versions.nodes import Child, Node, Where, pieces_of
from rh.versions.reading import is_replaced, raw
from rh.versions.store import NODE_PACK, Store, Tree
from rh.versions.system import TreeSystem

__all__ = ["Uncached", "files_of", "refers_still", "verify_part", "verify_version"]

_PACKS = 4
_SOME = 1_000


class Uncached(Store):
    """A store of which nothing is believed that this machine keeps: markers and directories are read from it again.

    Args:
        store: which.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store.system)
        self._packs: OrderedDict[str, bytes] = OrderedDict()
        """Packs of directories that were read just now: neighbours are asked for one after the other."""

    def tree(self, digest: str, *, fresh: bool = True) -> Tree:  # noqa: ARG002 - always
        return twice(lambda: self._fetch_tree(digest, tree_key(digest), self._mark[:16] + hex_of(digest)))

    def _cached_node(self, digest: str, where: Where, place: str) -> Node | None:  # noqa: ARG002 - the same call
        return None

    def _fetch_node(self, where: Where, place: str) -> bytes:
        _, name, offset, length, *_ = where
        if offset + length > NODE_PACK:
            return super()._fetch_node(where, place)
        pack = self._packs.get(name)
        if pack is None or len(pack) < offset + length:
            try:
                with self.system.read(node_key(name), (0, NODE_PACK)) as body:
                    pack = self._packs[name] = body.read()
            except NotFoundError as error:
                raise LostError(where=place) from error
            while len(self._packs) > _PACKS:
                self._packs.popitem(last=False)
        return pack[offset : offset + length]


def verify_version(store: Store, digest: str, url: str) -> Verification:
    """Read every byte of a version, and compare it with its digest.

    Files that the version refers to (`adopt`, `add_reference`) and that are other ones now are `modified`, those that
    are gone are `missing`, as are objects that the store has lost. Where the version is of versions of objects that are
    still kept, that is no fault: those are `replaced`.

    Raises:
        NotFoundError, IntegrityError: the store has lost the version's marker or directories, or they are damaged.
    """
    store = Uncached(store)
    tree = store.tree(digest)
    return _verified(store, files_of(store, store.root(tree)), tree.digest, url)


def _verified(store: Store, members: Iterable[tuple[str, Child]], digest: str, url: str) -> Verification:
    """Every byte of these files, compared; `digest` is of them all."""
    corrupt: list[str] = []
    modified: list[str] = []
    missing: list[str] = []
    unreadable: list[tuple[str, str]] = []
    replaced: list[str] = []
    packed: dict[str, list[tuple[str, Child]]] = defaultdict(list)
    files = size = 0
    for key, child in members:
        files += 1
        size += child.size
        if not child.size:
            continue
        if child.where[0] == "p":
            packed[child.where[1]].append((key, child))
            continue
        try:
            _compare(store, child)
            if is_replaced(child):
                replaced.append(key)
        except LostError:
            missing.append(key)
        except IntegrityError:
            corrupt.append(key)
        except ConflictError:
            modified.append(key)
        except RhError as error:
            unreadable.append((key, error.message))
    for pack, group in packed.items():
        for key, found in _in_pack(store, pack, group):
            if isinstance(found, NotFoundError):
                missing.append(key)
            elif isinstance(found, IntegrityError):
                corrupt.append(key)
            elif found is not None:
                unreadable.append((key, found.message))
    sound = not (corrupt or modified or missing or unreadable)
    return Verification(
        url,
        "version",
        files,
        size,
        corrupt=tuple(sorted(corrupt)),
        modified=tuple(sorted(modified)),
        missing=tuple(sorted(missing)),
        unreadable=tuple(sorted(unreadable)),
        replaced=tuple(sorted(replaced)),
        digest=digest if sound else None,
    )


def verify_part(location: Location, url: str) -> Verification:
    """`verify_version` of a directory in a version, or of one file.

    Args:
        location: of the part.
        url: what it is called in the result.

    Raises:
        NotFoundError: the version has no such part.
    """
    system = TreeSystem.open(location, settings_of(location.system))
    store = system.store = Uncached(system.store)
    part = system.part()
    members = files_of(store, part) if isinstance(part, Node) else iter([(location.name, part)])
    return _verified(store, members, part.digest, url)


def files_of(store: Store, root: Node) -> Iterator[tuple[str, Child]]:
    """Every file below a directory, with its path, in the order of paths."""
    open_ones = [("", iter(root.children))]
    while open_ones:
        above, children = open_ones[-1]
        for child in children:
            key = above + key_text(child.name)
            if child.kind == "dir":
                open_ones.append((key + "/", iter(store.below(child).children)))
                break
            if child.kind == "file":
                yield key, child
        else:
            open_ones.pop()


def refers_still(store: Store, tree: Tree, other: Tree) -> bool:
    """Whether the files that a tree refers to are what they were.

    Args:
        store: of both.
        tree: the one in question.
        other: of the same content; what this one refers to as well is not asked about.
    """
    pairs = zip(files_of(store, store.root(tree)), files_of(store, store.root(other)), strict=True)
    places = (one for (_, one), (_, another) in pairs if one.where[0] == "r" and one.where != another.where)
    while some := list(islice(places, _SOME)):
        if not all(each(partial(_is_there, store), some)):
            return False
    return True


def _is_there(store: Store, child: Child) -> bool:
    try:
        with raw(store, child, 0, 1) as body:
            body.read()
    except RhError as error:
        log.debug("a reference leads nowhere: %s", error)
        return False
    return True


def _in_pack(store: Store, pack: str, members: Sequence[tuple[str, Child]]) -> Iterator[tuple[str, RhError | None]]:
    """What is wrong with each member of a pack, which is read as a whole; also where it was written anew."""
    placed: dict[str, list[tuple[str, Child]]] = {pack: [*members]}
    done: set[str] = set()
    while placed:
        name, group = placed.popitem()
        done.add(name)
        try:
            with store.system.read(pack_key(name)) as body:
                data = memoryview(body.read())
        except NotFoundError as error:
            try:
                store.redirects.ask(pack)
            except RhError as damage:
                yield from ((key, damage) for key, _ in group)
                continue
            for key, child in group:
                now = store.redirects.place(*child.where[1:])[0]
                if now in done:
                    yield key, error
                else:
                    placed.setdefault(now, []).append((key, child))
        except RhError as error:
            yield from ((key, error) for key, _ in group)
        else:
            for key, child in group:
                at = store.redirects.place(*child.where[1:])[1] if name != pack else child.where[2]
                right = digests.of_bytes(data[at : at + child.size]).text == child.digest
                yield key, None if right else IntegrityError("the bytes are not those of the version")


def _compare(store: Store, child: Child) -> None:
    whole = Hasher(child.size)
    for piece in pieces_of(child):
        with raw(store, piece, 0, piece.size) as body:
            for some in body:
                whole.update(some)
    if whole.finish().text != child.digest:
        raise IntegrityError("the bytes are not those of the version", expected=child.digest)
