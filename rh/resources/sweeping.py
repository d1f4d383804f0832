"""`rh.gc`: drop versions whose time is over, and take away the bytes that no version needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rh.errors import IntegrityError, InvalidError, NotFoundError, RhError, UnsupportedError
from rh.resources import base, places, records
from rh.resources.places import Place
from rh.resources.repairing import check_there
from rh.resources.versioned import Versioned

if TYPE_CHECKING:
    from rh.versions.gc import Collected
    from rh.versions.series import Version
    from rh.versions.store import Store

__all__ = ["Pruned", "Report", "Swept", "gc", "sweep"]

_SHOWN = 10


class Report(list["Swept"]):
    """What became of each store; as text, what `rh gc` prints."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))


class Pruned(NamedTuple):
    """What became of the versions of a name, or would become of them."""

    name: str
    kept: tuple[Version, ...]
    dropped: tuple[Version, ...]


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What became of a store, or would become of it.

    Attributes:
        store: its URL.
        names: of each name, the versions that stay and those that go.
        collected: the bytes that no version needs.
    """

    store: str
    names: tuple[Pruned, ...]
    collected: Collected

    @property
    def dropped(self) -> list[str]:
        """The versions that went, or would go: `["~/cats:v1"]`."""
        return [f"{one.name}:{version.label}" for one in self.names for version in one.dropped]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        told: dict[str, Any] = {"store": self.store}
        for key in ("dropped", "kept"):
            told[key] = [{"name": one.name, **version.as_dict()} for one in self.names for version in getattr(one, key)]
        return told | self.collected.as_dict()

    def __str__(self) -> str:
        drop, keep = ("would drop", "would keep") if self.collected.dry_run else ("dropped", "kept")
        lines = []
        for one in self.names:
            if one.dropped:
                lines += [f"{drop} {one.name}:{version}" for version in one.dropped]
                lines.append(f"{keep} {one.name}: {_labels(one.kept)}")
        return "\n".join([*lines, f"{self.store}: {self.collected}"])

    def __repr__(self) -> str:
        return f"<Swept {self.store}: {len(self.dropped):,} versions, {self.collected}>"


def _labels(versions: tuple[Version, ...]) -> str:
    shown = [
        version.label + (f" ({', '.join(version.aliases)})" if version.aliases else "")
        for version in versions[-_SHOWN:]
    ]
    older = len(versions) - len(shown)
    return ", ".join(reversed(shown)) + (f" and {older:,} older" if older else "")


def gc(
    name: str | None = None,
    path: str | os.PathLike[str] | None = None,
    system: Place = None,
    *,
    keep: int | None = None,
    runs: bool = True,
    dry_run: bool = False,
    older_than_s: float = 86_400.0,
    repack: float = 0.5,
) -> Report:
    """Delete expired versions, then the bytes that no remaining version needs.

    Kept are the newest version of each name, versions that an alias points to, those that a recorded run read (see
    `runs`) and, unless `keep` says otherwise, those committed without `ttl=`. Commits may go on meanwhile: nothing is
    deleted from a store while somebody writes to it.

    Args:
        name: only versions of this name are dropped, from all stores that have some.
        path: all names whose versions are in the store of this place; without name and place, in that of this machine.
        system: the place's system, if `path` is no URL.
        keep: also drop all but so many of the newest of each name, whether they have a `ttl=` or not.
        runs: whether versions that recorded runs read are kept; `rh run rm` forgets a run.
        dry_run: only report what would be deleted.
        older_than_s: in seconds; bytes stored more recently than this are kept.
        repack: packs of small files of whose bytes no version needs more than this share are written anew without
            them; 1 for none.

    Returns:
        A report for each store; print it.

    Raises:
        NotFoundError: the name is not saved, or has no versions; or the place on this machine is not there.
        IntegrityError: a version that is to be kept cannot be read: which, is in the message. Nothing was deleted.
        ConflictError: somebody writes to the store, or sweeps it, and does not come to an end; nothing was deleted.

    Example:
        >>> import rh
        >>> rh.gc(dry_run=True)[0].dropped
        []
    """
    if isinstance(older_than_s, bool) or not isinstance(older_than_s, int | float) or not older_than_s >= 0:
        raise InvalidError(f"older_than_s={older_than_s!r} is not a number of seconds", hint="0 or more")
    return sweep(name, path, system, keep=keep, runs=runs, dry_run=dry_run, older_than_s=older_than_s, repack=repack)


def sweep(
    name: str | None,
    path: str | os.PathLike[str] | None = None,
    system: Place = None,
    *,
    keep: int | None = None,
    runs: bool = True,
    dry_run: bool = False,
    older_than_s: float = 86_400.0,
    repack: float = 0.5,
) -> Report:
    """`gc`; with an age below 0, also of what was stored just now by a clock that is ahead of this one."""
    from rh.versions.gc import collect, prune, unneeded
    from rh.versions.store import NAME, Store, place_of

    if name is not None and (path is not None or system is not None):
        raise InvalidError("versions of a name, or of a place?", hint="rh.gc(name), or rh.gc(path=…)")
    if keep is not None and (type(keep) is not int or keep < 1):
        raise InvalidError(f"keep={keep!r}: the newest version always stays", hint="keep=1 or more")
    if isinstance(repack, bool) or not isinstance(repack, int | float) or not 0 < repack <= 1:
        raise InvalidError(f"repack={repack!r} is no share of a pack", hint="more than 0, at most 1")
    if name is not None:
        chosen = [_versioned(name)]
        stores = list(dict.fromkeys(version.store for version in chosen[0].series_of()))
    else:
        location = places.resolve("." if path is None and system is None else path, system)
        if path is not None and location.system == "file":  # in a bucket, a prefix is there as long as its files are
            check_there(location)
        stores, chosen = [location if location.name == NAME else place_of(location)], list(_all())
    found = Report()
    for store in map(Store.at, stores):
        names: list[Pruned] = []
        for resource in chosen:
            series = resource.series_of()
            every = {version.number: version for version in series.all()}
            dropped = tuple(prune(series, store, keep=keep, runs=runs, dry_run=dry_run))
            for version in dropped:
                every.pop(version.number, None)
            names.append(Pruned(str(resource.name), tuple(every.values()), dropped))
        without = unneeded(version for one in names for version in one.dropped) if dry_run else ()
        try:
            done = collect(store, dry_run=dry_run, without=without, older_than_s=older_than_s, repack=repack)
        except (IntegrityError, NotFoundError) as error:
            raise _damaged(store, error) from error
        found.append(Swept(store=store.url, names=tuple(names), collected=done))
    return found


def _damaged(store: Store, error: RhError) -> RhError:
    """The error of a store in which a version cannot be read, with the names of those versions and what mends them."""
    from rh.versions.store import Store
    from rh.versions.verify import Uncached, files_of

    asked = Uncached(store)
    bad: list[str] = []
    for resource in _all():
        for version in resource.versions():
            if Store.at(version.store).url != store.url:
                continue
            try:
                for _ in files_of(asked, asked.root(asked.tree(version.digest))):
                    pass
            except (IntegrityError, NotFoundError):
                bad.append(f"{resource.name}:{version.label}")
    if not bad:
        return error
    more = f" (and {len(bad) - _SHOWN:,} more)" if len(bad) > _SHOWN else ""
    return IntegrityError(
        f"nothing was deleted: what {', '.join(bad[:_SHOWN])}{more} is made of cannot be read: {error.message}",
        where=error.where,
        hint=f"rh version repair {bad[0]}",
    )


def _versioned(name: str) -> Versioned:
    found = base.load(name, dryrun=True)
    if not isinstance(found, Versioned):
        raise InvalidError(f"{found.name} is a {found.kind}, which has no versions")
    return found


def _all() -> Iterator[Versioned]:
    """Whatever is saved and has versions."""
    for name in records.list_names("/"):
        try:
            resource = _versioned(name)
            resource.series_of()
        except (NotFoundError, InvalidError, UnsupportedError):  # it has no versions, or goes away right now
            continue
        yield resource
