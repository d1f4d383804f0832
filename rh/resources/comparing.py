"""What differs between two versions of a resource, or between directories anywhere, as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from rh.versions.series import check_which

if TYPE_CHECKING:
    from rh.digest import Digest
    from rh.progress import Progress
    from rh.resources.blob import Blob
    from rh.resources.versioned import Versioned
    from rh.systems.base import System
    from rh.transfer import Options, Plan, Step
    from rh.types import Entry, Location
    from rh.versions.diff import Change, Diff

__all__ = ["diff_files", "diff_places", "diff_versions"]

_BATCH = 2_000


def diff_versions(resource: Versioned, old: str, new: str) -> Diff:
    """The files that differ from one version to another, by their digests: none is read.

    Raises:
        NotFoundError: there is no such version. InvalidError: no version can be named like that.
    """
    from rh.versions.diff import diff
    from rh.versions.store import Store

    for which in (old, new):
        check_which(which)
    series = resource.series_of()
    a, b = series.get(old), series.get(new)
    stores = Store.at(a.store), Store.at(b.store)
    return diff(stores[0].tree(a.digest), stores[1].tree(b.digest), *stores)


def diff_places(a: Location, b: Location, options: Options, progress: Progress | None = None) -> Diff:
    """The files that differ from one directory to another. Those of one size whose digests are not known are read.

    What patterns leave out is no difference, nor are empty directories and executable bits where one of the places does
    not tell them, like a bucket without a manifest.

    Raises:
        NotFoundError: there is nothing at `a`. ConflictError: a file changed meanwhile.
    """
    from rh import transfer
    from rh.progress import default
    from rh.resources import places
    from rh.versions.diff import Diff

    plan = transfer.compare_trees(a, b, replace(options, delete=True, on_existing="update"))
    found: dict[str, list[Change]] = {"added": [], "removed": [], "modified": []}
    progress = progress or default()
    progress.start(f"{places.url_of(a)} and {places.url_of(b)}")
    try:
        for change in _changes(plan, progress):
            found[change.what].append(change)
    finally:
        progress.finish()
    return Diff(places.url_of(a), places.url_of(b), **{what: tuple(changes) for what, changes in found.items()})


def diff_files(a: Blob, b: Blob) -> Change | None:
    """What is different about two files (links are followed): their bytes, or whether they can be executed."""
    from rh.versions.diff import Change

    old, new = map(_told, (a, b))
    bits = (old.executable, new.executable)
    same = old.etag == new.etag and (None in bits or bits[0] == bits[1])
    return None if same else Change("modified", old, new)


def _told(blob: Blob) -> Entry:
    """A file as an entry whose etag is the digest of its content."""
    from rh.transfer.plan import known_file

    system, key = blob.handle()
    known = known_file(system, key)
    digest = known.digest or _digests(system, [known.entry])[known.entry.key].text
    return known.entry._replace(etag=digest, executable=known.executable)


def _changes(plan: Plan, progress: Progress) -> Iterator[Change]:
    from rh.transfer import Action
    from rh.versions.diff import Change

    source, target = plan.source, plan.target
    unknown: list[Step] = []
    for step in plan.steps():
        same = step.action is Action.KEEP and not _other_bit(step)
        if same or step.action is Action.OTHER or (step.entry.kind == "dir" and not plan.tells_directories):
            continue
        if step.action is Action.CHECK:
            unknown.append(step)
            continue
        entry = _entry(step, step.digest)
        if step.action is Action.DELETE:
            yield Change("added", None, entry)
        elif step.old is None:
            yield Change("removed", entry, None)
        else:
            yield Change("modified", entry, _old_entry(step, step.old, step.old_digest))
    progress.total(len(unknown), sum(step.entry.size for step in unknown))
    steps = iter(unknown)
    while batch := list(islice(steps, _BATCH)):
        ours = _digests(source, [step.entry for step in batch if step.digest is None])
        theirs = _digests(target, [step.old for step in batch if step.old is not None and step.old_digest is None])
        for step in batch:
            assert step.old is not None
            digest = step.digest or ours[step.entry.key].text
            old_digest = step.old_digest or theirs[step.old.key].text
            if digest != old_digest or _other_bit(step):
                yield Change("modified", _entry(step, digest), _old_entry(step, step.old, old_digest))
            progress.advance(1, step.entry.size)


def _other_bit(step: Step) -> bool:
    """Whether one of both files is executable, as far as that is known: of a bucket by the manifest."""
    bits = (step.executable, step.old_executable)
    return None not in bits and bits[0] != bits[1]


def _entry(step: Step, digest: str | None) -> Entry:
    """What a step is about, for a change: by the key that both places have for it, with the digest of its content."""
    return step.entry._replace(key=step.key, etag=digest, executable=step.executable)


def _old_entry(step: Step, old: Entry, digest: str | None) -> Entry:
    return old._replace(key=step.key, etag=digest, executable=step.old_executable)


def _digests(system: System, entries: Sequence[Entry]) -> dict[str, Digest]:
    """The digests of what is there, which are remembered."""
    from rh.content.cache import DigestCache, settled
    from rh.content.tree import Row
    from rh.errors import RhError
    from rh.transfer.verify import digest_entries

    found: dict[str, Digest] = {}
    learned: list[Row] = []
    try:
        for entry, digest in digest_entries(system, entries):
            if isinstance(digest, RhError):
                raise digest
            found[entry.key] = digest
            if settled(entry.modified) and entry.etag is not None:
                learned.append(Row(entry.key, entry.size, "file", digest.text, entry.etag, None, digest.chunks))
    finally:
        DigestCache(system).remember(learned)
    return found
