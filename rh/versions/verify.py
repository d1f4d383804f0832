"""Reading a version again, from where its bytes are kept: nothing that is cached counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rh import digest as digests
from rh.content.tree import key_text
from rh.digest import Hasher
from rh.errors import ConflictError, IntegrityError, NotFoundError, RhError
from rh.transfer import Verification
from rh.versions.layout import pack_key
from rh.versions.nodes import Child, Node, pieces_of
from rh.versions.reading import raw
from rh.versions.store import Store

__all__ = ["files_of", "verify_version"]


def verify_version(store: Store, digest: str, url: str) -> Verification:
    """Read every byte of a version, and compare it with its digest.

    Files that the version refers to (`adopt`, `add_reference`) and that are other ones now are `modified`, those that
    are gone are `missing`, as are objects that the store has lost.
    """
    tree = store.tree(digest)
    corrupt: list[str] = []
    modified: list[str] = []
    missing: list[str] = []
    unreadable: list[tuple[str, str]] = []
    packed: dict[str, list[tuple[str, Child]]] = defaultdict(list)
    files = size = 0
    for key, child in files_of(store, store.root(tree)):
        files += 1
        size += child.size
        if not child.size:
            continue
        if child.where[0] == "p":
            packed[child.where[1]].append((key, child))
            continue
        try:
            _compare(store, child)
        except IntegrityError:
            corrupt.append(key)
        except ConflictError:
            modified.append(key)
        except NotFoundError:
            missing.append(key)
        except RhError as error:
            unreadable.append((key, error.message))
    for pack, members in packed.items():
        try:
            with store.system.read(pack_key(pack)) as body:
                data = memoryview(body.read())
        except NotFoundError:
            missing += [key for key, _ in members]
            continue
        except RhError as error:
            unreadable += [(key, error.message) for key, _ in members]
            continue
        for key, child in members:
            start = child.where[2]
            if digests.of_bytes(data[start : start + child.size]).text != child.digest:
                corrupt.append(key)
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
        digest=tree.digest if sound else None,
    )


def files_of(store: Store, root: Node) -> Iterator[tuple[str, Child]]:
    """Every file below a directory, with its path."""
    waiting = [("", root)]
    while waiting:
        above, node = waiting.pop()
        for child in node.children:
            key = above + key_text(child.name)
            if child.kind == "dir":
                waiting.append((key + "/", store.below(child)))
            elif child.kind == "file":
                yield key, child


def _compare(store: Store, child: Child) -> None:
    whole = Hasher(child.size)
    for piece in pieces_of(child):
        with raw(store, piece, 0, piece.size) as body:
            for some in body:
                whole.update(some)
    if whole.finish().text != child.digest:
        raise IntegrityError("the bytes are not those of the version", expected=child.digest)
