"""Packs of which much is not needed are written anew, without that: while others read, and between others' commits.

What is needed goes into new packs first, under a lease. Then, in a sweep, when nobody writes and what came since is
marked: a redirect says where the members of the old pack are (`rh.versions.moved`), and the old pack goes. A crash
leaves the old pack as it was, and a redirect beside it does not count as long as it is there. What nothing names by
then goes with the next collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from rh import digest as digests
from rh.errors import ConflictError, IntegrityError, NotFoundError, RhError
from rh.observe import log
from rh.versions.layout import moved_key, pack_key
from rh.versions.marks import Marker, Marks, name_of
from rh.versions.moved import Redirect, Stretch
from rh.versions.moving import each
from rh.versions.packs import Pack, pack_limit
from rh.versions.store import Store
from rh.versions.sweep import Sweep

__all__ = ["REPACK", "Sparse", "rewrite"]

REPACK = 0.5
"""Packs of whose bytes more than this share is not needed are written anew."""
_GAP = 1 << 20
"""So many bytes that nobody needs are read rather than making another request."""

_Place: TypeAlias = tuple[str, int]
"""A pack, and an offset in it."""


class Sparse(NamedTuple):
    """A pack of which much is not needed: its key, its bytes, and how many of them are needed."""

    key: str
    size: int
    needed: int


class _Member(NamedTuple):
    """What nodes call `named` and `start`, and where it is: the offset `at` in the pack that is asked about."""

    named: str
    start: int
    size: int
    digest: str
    at: int


def rewrite(store: Store, marks: Marks, marker: Marker, sparse: Sequence[Sparse], patience_s: float) -> list[Sparse]:
    """Write packs anew, and return those that were. What somebody needs by then that was not copied keeps its pack.

    Args:
        store: where.
        marks: what is needed, as far as it is marked.
        marker: which marks.
        sparse: the packs.
        patience_s: seconds to wait for those who write to the store.
    """
    done: list[Sparse] = []
    for group in _groups(sparse):
        written: dict[str, int] = {}
        begun = False
        try:
            copies = _copied(store, marks, group, written)
            if copies:
                marker.mark()  # what takes long, before anybody is kept waiting
                with Sweep(store.system, patience_s) as sweep:
                    marker.mark()
                    begun = True
                    done += _replaced(store, marks, sweep, group, copies, written)
                    begun = False
        except ConflictError as error:
            log.info("no more packs are written anew: %s", error)
            break
        finally:
            if not begun:  # else what failed may have come to pass all the same: nobody knows what is named by now
                store.system.delete([pack_key(name) for name in written if not _is_used(marks, name)])
    return done


def _groups(sparse: Iterable[Sparse]) -> Iterator[list[Sparse]]:
    """Packs that become one new pack, or a little more."""
    group: list[Sparse] = []
    for one in sparse:
        group.append(one)
        if sum(each.needed for each in group) >= pack_limit():
            yield group
            group = []
    if group:
        yield group


def _members(marks: Marks, pack: str) -> list[_Member]:
    """What is in a pack."""
    found = marks.all("select named, start, size, digest, at from placed where pack = ? order by at", pack)
    return [_Member(*row) for row in found]


def _is_used(marks: Marks, pack: str) -> bool:
    return marks.one("select 1 from moved where target = ? limit 1", pack)


def _copied(store: Store, marks: Marks, group: Iterable[Sparse], written: dict[str, int]) -> dict[_Place, _Place]:
    """Where what is needed of these packs is copied to; of one that is damaged nothing is. `written`: new packs."""
    copies: dict[_Place, _Place] = {}
    again: dict[str, _Place] = {}
    with store.lease() as lease:
        new = Pack(store.system, pack_key, pack_limit(), lambda name, data: written.update({name: len(data)}))
        try:
            for one in group:
                pack = name_of(one.key)
                members = _members(marks, pack)
                try:
                    found = _read(store, pack, members)
                except RhError as error:
                    log.warning("%s is not written anew: %s", store.system.url(one.key), error)
                    continue
                for member in members:
                    place = again.get(member.digest)
                    if place is None:
                        place = again[member.digest] = new.add(found[member.at])
                    copies[pack, member.at] = place
            new.flush()
        finally:
            new.wait()
        lease.check()
    return copies


def _read(store: Store, pack: str, members: Sequence[_Member]) -> dict[int, memoryview]:
    """What is needed of a pack, by offset, compared with its digest.

    Raises:
        RhError: it cannot be read, or is damaged.
    """
    runs: list[list[_Member]] = []
    for member in members:
        last = runs[-1][-1] if runs else None
        if last is not None and member.at - (last.at + last.size) <= _GAP:
            runs[-1].append(member)
        else:
            runs.append([member])

    def read(run: list[_Member]) -> dict[int, memoryview]:
        start, stop = run[0].at, max(one.at + one.size for one in run)
        with store.system.read(pack_key(pack), (start, stop)) as body:
            data = memoryview(body.read())
        found = {one.at: data[one.at - start : one.at - start + one.size] for one in run}
        for one in run:
            if digests.of_bytes(found[one.at]).text != one.digest:
                raise IntegrityError("a member of a pack is not what versions say", where=f"{pack} at {one.at}")
        return found

    return {at: data for found in each(read, runs) for at, data in found.items()}


def _replaced(
    store: Store,
    marks: Marks,
    sweep: Sweep,
    group: Iterable[Sparse],
    copies: dict[_Place, _Place],
    written: dict[str, int],
) -> list[Sparse]:
    """Let redirects and the new packs take the place of old ones, while nobody writes."""
    for name, size in written.items():
        try:
            if store.system.head(pack_key(name)).size == size:
                continue
        except NotFoundError:  # another collection took it for something that a crash left behind
            pass
        return []
    store.allow_redirects()
    done = []
    for one in group:
        pack = name_of(one.key)
        members = _members(marks, pack)
        if not members or any((pack, member.at) not in copies for member in members):
            continue  # it is damaged, or somebody needs more of it by now
        if sweep.is_over():
            break
        for named in dict.fromkeys(member.named for member in members):
            redirect = _redirect(marks, named, copies)
            etag = store.system.write(moved_key(named), redirect.encode(named)).etag
            marks.moves(named, etag, redirect)
        if sweep.is_over():
            break
        store.system.delete([one.key])
        marks.run("delete from packs where pack = ?", pack)
        done.append(one)
    marks.need_packs()
    return done


def _redirect(marks: Marks, named: str, copies: dict[_Place, _Place]) -> Redirect:
    """Where everything is that nodes look for in a pack, and that is somewhere else when the copies count."""
    found = marks.all("select start, size, pack, at from placed where named = ?", named)
    placed = [Stretch(start, size, *copies.get((pack, at), (pack, at))) for start, size, pack, at in found]
    return Redirect(one for one in placed if one.pack != named)
