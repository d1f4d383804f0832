"""Mark and sweep: what no version needs any more is taken out of a store, while others go on committing.

What the references of the store need is marked first, with nothing locked. The sweep goes in short rounds. In each one
`gc.json` keeps new writers waiting; while anybody holds a lease nothing is deleted, as what has no reference yet may
just have been found by them; and references that came since are marked before anything goes. Markers of trees go
first, so that none is left whose contents are gone.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rh.errors import ConflictError, InvalidError, NotFoundError
from rh.observe import log
from rh.registry import lineage
from rh.registry.base import fresh
from rh.systems import open_system
from rh.systems.base import System
from rh.transfer.receipt import human
from rh.versions.layout import pack_key
from rh.versions.marks import KINDS, Marker, Marks
from rh.versions.repack import REPACK, Sparse, rewrite
from rh.versions.series import Series, Version
from rh.versions.store import Ref, Store
from rh.versions.sweep import PATIENCE_S, Sweep

__all__ = ["Collected", "Sparse", "collect", "drop", "prune", "unneeded"]

_DAY_S = 86_400.0
_KEYS = 1_000
_REST_S = 1.0
"""Between two rounds, so that those who waited get their turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collection took away, or would have taken.

    Attributes:
        dry_run: nothing was.
        trees, nodes, packs, objects: how many markers, packs of nodes, packs of files, and files of their own.
        size: their bytes.
        young, young_size: what nothing needs and is not old enough to go.
        rewritten: packs of which much was not needed, and that were written anew without that.
        sparse: such packs that stay as they are: they are too young or damaged, or somebody wrote to the store.
    """

    dry_run: bool = False
    trees: int = 0
    nodes: int = 0
    packs: int = 0
    objects: int = 0
    size: int = 0
    young: int = 0
    young_size: int = 0
    rewritten: tuple[Sparse, ...] = field(default=())
    sparse: tuple[Sparse, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        told = {name: getattr(self, name) for name in self.__slots__}
        return told | {name: [one._asdict() for one in getattr(self, name)] for name in ("rewritten", "sparse")}

    def __str__(self) -> str:
        verb = "would remove" if self.dry_run else "removed"
        text = (
            f"{verb} {human(self.size)}: {self.trees:,} trees, {self.nodes:,} packs of nodes, {self.packs:,} packs, "
            f"{self.objects:,} objects"
        )
        if self.young:
            text += f"; {self.young:,} more ({human(self.young_size)}) are too young"
        verb = "would rewrite" if self.dry_run else "rewrote"
        for told, packs in ((f"; {verb} {{}} packs ({{}} less)", self.rewritten), (_STAYS, self.sparse)):
            if packs:
                text += told.format(f"{len(packs):,}", human(sum(one.size - one.needed for one in packs)))
        return text


_STAYS = "; {} packs stay though {} of them are not needed"


def collect(
    store: Store,
    *,
    dry_run: bool = False,
    without: Collection[Ref] = (),
    older_than_s: float = _DAY_S,
    patience_s: float = PATIENCE_S,
    repack: float = REPACK,
) -> Collected:
    """Delete what no reference of a store needs, and write packs anew of which much is not needed.

    Args:
        store: where.
        dry_run: only say what would go.
        without: with `dry_run`, references that do not count, as if they had been taken back before.
        older_than_s: seconds; what was written later stays.
        patience_s: seconds to wait for those who write to the store.
        repack: packs of whose bytes more than this share (0 to 1) is not needed are written anew.

    Raises:
        ConflictError: somebody writes to the store, or sweeps it, and does not come to an end.
        NotFoundError, IntegrityError: a version that has a reference cannot be read; nothing is deleted.
        UnsupportedError: a newer `rh` made the store.
    """
    try:
        store.system.head("format.json")
    except NotFoundError:
        return Collected(dry_run=dry_run)  # no commit came to its end there
    store.check_format()
    with closing(Marks()) as marks:
        marker = Marker(store, marks, without if dry_run else ())
        marker.mark()
        for kind in KINDS:
            _weigh(store, marks, kind, time.time() - older_than_s)
        rounds = 0
        while not dry_run and marks.one("select 1 from found where young = 0 limit 1"):
            if rounds:
                time.sleep(_REST_S)
            rounds += 1
            marker.mark()  # what takes long, before anybody is kept waiting
            with Sweep(store.system, patience_s) as sweep:
                marker.mark()
                marks.run("delete from found where belongs in (select key from needed)")
                _delete(store.system, marks, sweep)
        sparse = [Sparse(pack_key(pack), *of) for pack, *of, young in marks.sparse(repack) if not young]
        done = sparse if dry_run else rewrite(store, marks, marker, sparse, patience_s)
        left = [Sparse(pack_key(pack), *of) for pack, *of, _ in marks.sparse(repack)]
        return _told(marks, done, [one for one in left if one not in done], dry_run=dry_run)


def _weigh(store: Store, marks: Marks, kind: str, before: float) -> None:
    """Note what nothing needs of one kind of thing."""
    try:
        entries = iter(store.system.list(f"{kind}/"))
        while batch := list(islice(entries, _KEYS)):
            marks.weigh(kind, [entry for entry in batch if entry.kind == "file"], before)
    except NotFoundError:
        return


def _delete(system: System, marks: Marks, sweep: Sweep) -> None:
    """Delete what was found, until the round is over."""
    while not sweep.is_over():
        keys = [key for (key,) in marks.all(
            "select key from found where young = 0 order by rank, key limit ?", _KEYS
        )]  # fmt: skip
        if not keys:
            return
        system.delete(keys)
        marks.gone(keys)


def _told(marks: Marks, rewritten: Iterable[Sparse], sparse: Iterable[Sparse], *, dry_run: bool) -> Collected:
    source = "(select kind, size from found where young = 0)" if dry_run else "gone"
    counts = {kind: (number, size) for kind, number, size in marks.all(
        f"select kind, count(*), sum(size) from {source} group by kind"  # noqa: S608 - one of our own
    )}  # fmt: skip
    ((young, young_size),) = marks.all("select count(*), coalesce(sum(size), 0) from found where young = 1")
    return Collected(
        dry_run=dry_run,
        **{kind: number for kind, (number, _) in counts.items() if kind != "moved"},
        size=sum(size for _, size in counts.values()),
        young=young,
        young_size=young_size,
        rewritten=tuple(rewritten),
        sparse=tuple(sparse),
    )


def drop(series: Series, store: Store, version: Version, *, patience_s: float = PATIENCE_S) -> None:
    """Drop one version of a series, which is in this store. The bytes go with the next `collect`.

    Raises:
        ConflictError: an alias stands on it, it is the newest, or somebody writes to the store and does not come to an
            end.
        UnavailableError: a registry that may have the version, too, cannot be reached.
    """
    with Sweep(store.system, patience_s):
        unneeded([version])  # every registry has to answer before anything is dropped
        series.drop(version)
        _let_go(store, [version])


def prune(
    series: Series,
    store: Store,
    *,
    keep: int | None = None,
    now: float | None = None,
    runs: bool = True,
    dry_run: bool = False,
    patience_s: float = PATIENCE_S,
) -> list[Version]:
    """Drop those versions of a series whose time is over, and those that are not among the newest. Returns them.

    The newest version stays, and so does every one that an alias stands on or a recorded run needs (`Series.kept_for`).
    The bytes go with the next `collect`.

    Args:
        series: whose.
        store: only versions that are in this store.
        keep: how many of the newest stay; `None` for all whose time is not over.
        now: seconds since the epoch, for what is over.
        runs: whether what runs need stays.
        dry_run: only say which would go.
        patience_s: seconds to wait for those who write to the store.

    Raises:
        ConflictError: somebody writes to the store, or sweeps it, and does not come to an end.
        UnavailableError: a registry that may have the versions, too, cannot be reached; none was dropped.
    """
    if keep is not None and keep < 1:
        raise InvalidError(f"keep={keep}: the newest version always stays", hint="keep=1 or more")
    now = time.time() if now is None else now
    found = _over(series, store, keep, now, runs=runs)
    if dry_run or not found:
        return found
    # Nobody commits meanwhile: a tree that is let go of here cannot become a version again in this moment.
    with Sweep(store.system, patience_s):
        found, dropped = _over(series, store, keep, now, runs=runs), []
        unneeded(found)  # every registry has to answer before anything is dropped
        for version in found:
            try:
                series.drop(version, runs=runs)
            except (ConflictError, NotFoundError) as error:
                log.debug("%s of %s stays: %s", version.label, series.name, error)
                continue
            dropped.append(version)
        _let_go(store, dropped)
    return dropped


def _over(series: Series, store: Store, keep: int | None, now: float, *, runs: bool) -> list[Version]:
    with fresh():
        every = series.all()
    newest = {version.number for version in (every if keep is None else every[-keep:])}
    found = [
        version
        for version in every
        if not version.aliases
        and (version.number not in newest or (version.expires is not None and version.expires <= now))
        and _is_in(store, version)
    ]
    needed = series.kept_for(found) if runs and found else {}
    return [version for version in found if version.number not in needed]


def unneeded(dropped: Iterable[Version]) -> set[Ref]:
    """The references of trees that no version in any registry known here has when these are dropped.

    A series that `rh registry migrate` took over is in two registries, and both may go on.

    Raises:
        UnavailableError: a registry cannot be reached, so nobody knows what it needs.
    """
    doomed = list(dropped)
    gone = {(version.registry, version.series, version.number) for version in doomed}
    needed: set[Ref] = set()
    with fresh():  # what somebody else has committed since would lose its tree
        for (url, series), name in {(version.registry, version.series): version.name for version in doomed}.items():
            for registry in lineage.registries(url):
                needed |= {
                    Ref(series, version.digest)
                    for version in Series(registry, series, name)
                    if (version.registry, series, version.number) not in gone
                }
    return {Ref(version.series, version.digest) for version in doomed} - needed


def _let_go(store: Store, dropped: list[Version]) -> None:
    """Take back the references of trees that no version has any more."""
    for ref in unneeded(dropped):
        store.unref(*ref)


def _is_in(store: Store, version: Version) -> bool:
    here, there = store.system.location, version.store
    return there == here or (there.system == here.system and open_system(there).location == here)
