"""Many small files of a version at once: neighbours in a pack are read with one request, equal ones once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import NamedTuple

from rh import config
from rh.errors import IntegrityError, NotFoundError, RhError
from rh.systems.abilities import Bulk
from rh.types import Entry
from rh.versions.cache import Stretches
from rh.versions.layout import pack_key
from rh.versions.lost import LostError
from rh.versions.moving import each
from rh.versions.nodes import Child
from rh.versions.reading import check, kept_whole, place_of_file, whole
from rh.versions.store import Store, object_key

__all__ = ["read_children"]

_GAP = 64 * 1024
"""So many bytes that nobody wants are read rather than making another request."""
_JOINED = 8 << 20
_MANY = 8
"""So many members that were read together are kept together: a file for each would cost more than reading it does."""


_TRIES = 3
"""How often members are looked for whose packs move again and again while they are."""


class _Run(NamedTuple):
    """Members of one pack that are read together, each with where it begins there."""

    pack: str
    start: int
    stop: int
    children: list[tuple[Child, int]]


def read_children(store: Store, group: Sequence[tuple[Entry, Child]]) -> Iterator[tuple[Entry, bytes | Exception]]:
    """The bytes of each file, compared with its digest, or its own error, in any order."""
    wanted: dict[str, list[Entry]] = {}
    children: dict[str, Child] = {}
    for entry, child in group:
        wanted.setdefault(child.digest, []).append(entry)
        children[child.digest] = child
    left: list[Child] = []
    stretches = Stretches()
    for digest, child in children.items():
        data = kept_whole(store, child, stretches)
        if data is None:
            left.append(child)
        else:
            yield from ((entry, data) for entry in wanted[digest])
    packed = [child for child in left if child.where[0] == "p"]
    others = [child for child in left if child.where[0] != "p"]
    for found in (_packed(store, packed), _others(store, others)):
        for child, data_or in found:
            yield from ((entry, data_or) for entry in wanted[child.digest])


def _packed(store: Store, children: Sequence[Child]) -> Iterator[tuple[Child, bytes | Exception]]:
    """Members of packs."""
    for results in each(lambda run: _read_run(store, run), _runs(store, children)):
        yield from results


def _runs(store: Store, children: Sequence[Child]) -> list[_Run]:
    runs: list[_Run] = []
    placed = [(store.redirects.place(child.where[1], child.where[2]), child) for child in children]
    for (pack, start), child in sorted(placed, key=lambda one: one[0]):
        stop = start + child.size
        last = runs[-1] if runs else None
        if last is not None and last.pack == pack and start - last.stop <= _GAP and stop - last.start <= _JOINED:
            last.children.append((child, start))
            runs[-1] = last._replace(stop=max(stop, last.stop))
        else:
            runs.append(_Run(pack, start, stop, [(child, start)]))
    return runs


def _read_run(store: Store, run: _Run, tries: int = _TRIES) -> list[tuple[Child, bytes | Exception]]:
    try:
        with store.system.read(pack_key(run.pack), (run.start, run.stop)) as body:
            data = memoryview(body.read())
    except NotFoundError as error:
        return _elsewhere(store, run, tries, error)
    except RhError as error:
        return [(child, error) for child, _ in run.children]
    # A stretch is kept under the name that nodes have for its pack: of one that was written anew, each member is kept.
    many = len(run.children) >= _MANY and all(child.where[1:] == (run.pack, at) for child, at in run.children)

    def member(child: Child, at: int) -> bytes:
        return bytes(data[at - run.start : at - run.start + child.size])

    found = [(child, _checked(store, child, member(child, at), keep=not many)) for child, at in run.children]
    if many and all(isinstance(one, bytes) for _, one in found):
        store.contents.put_stretch(run.pack, run.start, data)
    return found


def _elsewhere(store: Store, run: _Run, tries: int, error: NotFoundError) -> list[tuple[Child, bytes | Exception]]:
    """Members of a pack that is not there: where they are by now, if they were written anew."""
    children = [child for child, _ in run.children]
    try:
        for pack in dict.fromkeys(child.where[1] for child in children):
            store.redirects.ask(pack)
    except RhError as damage:
        return [(child, damage) for child in children]
    lost = LostError(where=store.system.url(pack_key(run.pack)))
    lost.__cause__ = error
    found: list[tuple[Child, bytes | Exception]] = []
    for again in _runs(store, children):
        if again.pack == run.pack or not tries:
            found += [(child, lost) for child, _ in again.children]
        else:
            found += _read_run(store, again, tries - 1)
    return found


def _checked(store: Store, child: Child, data: bytes, *, keep: bool) -> bytes | Exception:
    try:
        check(data, child, store)
    except IntegrityError:
        return _whole(store, child)  # once more: it may be right where it is
    if keep:
        store.contents.put(child.digest, data)
    return data


def _others(store: Store, children: Sequence[Child]) -> Iterator[tuple[Child, bytes | Exception]]:
    """Files that are objects of their own, or elsewhere."""
    bulk = store.system.ask(Bulk)
    if bulk is not None:
        small = [child.where[0] == "o" and child.size <= bulk.largest for child in children]
        by_key = {object_key(child.digest): child for child in compress(children, small)}
        wanted = [Entry(key, child.size) for key, child in by_key.items()]
        for entry, data in bulk.read_many(wanted, workers=int(config.get("workers"))):
            child = by_key[entry.key]
            if isinstance(data, NotFoundError):
                yield child, LostError(where=place_of_file(store, child))
            elif isinstance(data, Exception):
                yield child, data
            else:
                yield child, _checked(store, child, data, keep=True)
        children = [child for child, done in zip(children, small, strict=True) if not done]
    yield from each(lambda child: (child, _whole(store, child)), children)


def _whole(store: Store, child: Child) -> bytes | Exception:
    try:
        if child.size <= store.group_size:
            return whole(store, child)
        with store.open(child) as body:
            return body.read()
    except RhError as error:
        return error
