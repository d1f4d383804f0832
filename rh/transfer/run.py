"""Carrying out a plan: compare what needs comparing, move, delete, publish the manifest last."""

from __future__ import annotations

import copy
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeAlias

from rh.content import manifest
from rh.content.cache import Described, DigestCache, settled
from rh.content.rows import PAGE, Rows
from rh.content.tree import Row, without_implied
from rh.errors import (
    ConflictError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RhError,
    TransferError,
    UnsupportedError,
    printable,
)
from rh.observe import log
from rh.progress import Progress
from rh.systems.abilities import Composed, Digesting, Multipart
from rh.systems.base import DESCRIBING, System
from rh.transfer import far, stream
from rh.transfer.mover import Mover, as_rh
from rh.transfer.plan import Action, Plan, Same, Step, existing
from rh.transfer.receipt import Failure, Receipt, human
from rh.transfer.route import Route, Way, is_here
from rh.types import ANY, Entry, Link, Match

__all__ = ["run"]

_Digests: TypeAlias = dict[str, tuple[str, bytes]]
"""Digest and chunk digests by key."""
_Roads: TypeAlias = dict[Route, tuple[int, int]]
"""Files and bytes that went by each road."""
_BATCH = 5_000


def run(plan: Plan, *, progress: Progress, cancel: threading.Event | None = None) -> Receipt:
    """Carry out a plan.

    Raises:
        InvalidError: more than `max_delete` files would be deleted; nothing is changed.
        TransferError: some files did not arrive; the receipt is in it, and the same call again goes on from there.
        KeyboardInterrupt: as ever; what was begun can be resumed.
    """
    began = time.monotonic() - plan.seconds
    if plan.options.dry_run:
        return _receipt(plan, began, dry_run=True)
    most = plan.options.max_delete
    if most is not None and plan.counts[Action.DELETE] > most:
        raise InvalidError(
            f"{plan.counts[Action.DELETE]:,} files would be deleted, and max_delete is {most:,}",
            where=plan.target.url(),
            hint="look whether the source is what it should be; a plan or dry run shows what would go",
        )
    only = None if plan.file is None else (plan.source_key, plan.file)
    mover = Mover.new(plan.source, plan.target, plan.options, progress, cancel, only)
    complete = False
    progress.start(plan.title)
    progress.total(plan.moves, plan.bytes_to_move)
    kept: dict[str, Step] = {}
    try:
        if plan.options.on_existing == "error" and plan.counts[Action.CHECK]:
            _refuse_existing(plan, mover)
        deleted = _delete(plan, in_the_way=True)
        if plan.counts[Action.MAKE]:
            _make(mover, (step for step in plan.steps() if step.action is Action.MAKE))
        work = _to_move(plan, mover, kept)
        roads = _move(plan, mover, work)
        _again(plan, mover)
        if mover.stop.is_set():
            raise _failure(plan, mover, kept, began, "the transfer was cancelled")
        told = len(mover.rows) + len(mover.failures) + len(kept)
        if mover.failures or mover.gone is not None or told < plan.moves + plan.counts[Action.MAKE]:
            silent = RhError("nothing was heard of it", where=plan.target.url())
            _give_up(plan, mover, kept, mover.gone or next(reversed(mover.failures.values()), silent))
        if mover.failures:
            raise _failure(plan, mover, kept, began, None)
        deleted += _delete(plan, in_the_way=False)
        digest = _publish(plan, mover, kept, deleted=deleted)
        complete = True
        _abandon(mover)
        return _receipt(plan, began, mover=mover, kept=kept, deleted=deleted, digest=digest, roads=roads)
    except KeyboardInterrupt as stop:
        mover.stop.set()
        stop.add_note(f"{mover.done_files:,} of {plan.moves:,} files arrived; the same call again goes on from here")
        raise
    finally:
        mover.journal.close(complete=complete)
        if mover.learned:
            DigestCache(plan.source).remember(mover.learned)
        if mover.rows and not (complete and plan.described):
            DigestCache(plan.target).remember(row for row in mover.rows.values() if row.kind == "file")
        progress.finish()


def _abandon(mover: Mover) -> None:
    """Forget uploads that an earlier run began and this one had no use for."""
    multipart = mover.target.ask(Multipart)
    for upload in list(mover.journal.uploads.values()):
        if multipart is None:
            return
        try:
            multipart.resume(upload.key, upload.token).abort()
        except RhError as error:
            log.debug("%s: nothing to abort: %s", mover.target.url(upload.key), error)


def _refuse_existing(plan: Plan, mover: Mover) -> None:
    """Decide all that is to be checked before anything moves: `on_existing="error"` means that nothing is replaced."""
    checks = (step for step in plan.steps() if step.action is Action.CHECK)
    differ: list[str] = []
    while batch := list(islice(checks, _BATCH)):
        differ += [step.key for step in _checked(mover, batch) if step.action is Action.COPY]
    if differ:
        raise existing(plan, differ)


def _make(mover: Mover, steps: Iterator[Step]) -> None:
    """Empty directories and links. A place that keeps no directories has them in the manifest."""
    target = mover.target
    for step in steps:
        if step.entry.kind == "dir" and not target.keeps_directories:
            mover.made(step, Entry(step.key, 0, "dir"))
            continue
        if step.old is not None:
            target.delete([step.key])
        data: bytes | Link = Link(step.entry.target or "") if step.entry.kind == "link" else b""
        mover.made(step, target.write(step.key, data))


def _to_move(plan: Plan, mover: Mover, kept: dict[str, Step]) -> Iterator[Step]:
    """The steps that move a file. Those to be checked are resolved, a batch at a time; the same ones go to `kept`."""
    if not plan.moves:
        return
    steps = (step for step in plan.steps() if step.action in (Action.COPY, Action.CHECK))
    if not plan.counts[Action.CHECK]:
        yield from steps
        return
    while batch := list(islice(steps, _BATCH)):
        unknown = {step.key: step.old_digest is None for step in batch if step.action is Action.CHECK}
        for step in _checked(mover, batch):
            if step.action is Action.KEEP:
                kept[step.key] = step
                bit_is_news = step.executable is not None and step.executable != bool(step.old_executable)
                plan.stale = plan.stale or bit_is_news or unknown.get(step.key, False)
                mover.progress.advance(1, step.entry.size)
            else:
                yield step


def _checked(mover: Mover, steps: list[Step]) -> Iterator[Step]:
    """Steps with CHECK decided."""
    checks = [step for step in steps if step.action is Action.CHECK]
    source, target = mover.source, mover.target
    ours = _digests(source, [step.entry for step in checks if step.digest is None])
    theirs = _digests(target, [step.old for step in checks if step.old is not None and step.old_digest is None])
    learned: list[Row] = []
    for step in steps:
        if step.action is Action.CHECK:
            decided = _decided(source, target, _informed(step, ours, theirs))
            if step.digest is None and decided.digest is not None and settled(step.entry.modified):
                learned.append(
                    Row(step.entry.key, step.entry.size, "file", decided.digest, step.entry.etag, None, decided.chunks)
                )
            yield decided
        else:
            yield step
    DigestCache(source).remember(learned)


def _informed(step: Step, ours: _Digests, theirs: _Digests) -> Step:
    """A step with the digests that were computed."""
    if step.digest is None and step.entry.key in ours:
        digest, chunks = ours[step.entry.key]
        step = step._replace(digest=digest, chunks=chunks)
    if step.old is not None and step.old_digest is None and step.old.key in theirs:
        digest, chunks = theirs[step.old.key]
        step = step._replace(old_digest=digest, old_chunks=chunks)
    return step


def _decided(source: System, target: System, step: Step) -> Step:
    """A step that copies or keeps, from all that is known by now."""
    entry, old = step.entry, step.old
    if old is None:
        return step._replace(action=Action.COPY)
    if step.digest is not None and step.old_digest is not None:
        same = step.digest == step.old_digest
    elif step.digest is not None:
        same = is_here(source) and _has_check(source, entry, old.check)
        if same:
            step = step._replace(old_digest=step.digest, old_chunks=step.chunks)
    elif step.old_digest is not None:
        same = is_here(target) and _has_check(target, old, entry.check)
        if same:
            step = step._replace(digest=step.old_digest, chunks=step.old_chunks)
    else:
        same = False
    if same and target.keeps_executable and None not in (step.executable, step.old_executable):
        same = step.executable == step.old_executable
    return step._replace(action=Action.KEEP if same else Action.COPY)


def _digests(system: System, entries: list[Entry]) -> _Digests:
    """The digests that a place can compute by itself."""
    digesting = system.ask(Digesting)
    if digesting is None or not entries:
        return {}
    found = {}
    for outcome in digesting.digest_many(entries):
        if outcome.error is None and outcome.digest is not None:
            found[outcome.key] = (outcome.digest, outcome.chunks or b"")
        elif isinstance(outcome.error, ConflictError):
            raise outcome.error
    return found


def _has_check(system: System, entry: Entry, check: str | None) -> bool:
    """Whether a file of this machine has the checksum another store vouches for."""
    name, _, value = (check or "").partition(":")
    if name not in ("md5", "sha256"):
        return False
    state = hashlib.new(name, usedforsecurity=False)
    with system.read(entry.key, when=Match(entry.etag) if entry.etag is not None else ANY) as body:
        for block in body:
            state.update(block)
    return state.hexdigest() == value


def _move(plan: Plan, mover: Mover, steps: Iterable[Step]) -> _Roads:
    if plan.way in (Way.STREAM, Way.NONE):
        stream.move(mover, steps)
        return {plan.route: (mover.done_files, mover.bytes_moved)}
    left = {step.key for step in far.move(mover, steps, plan.way)}
    closed = {key: error for key, error in mover.failures.items() if _is_closed(plan, error)}
    roads = {plan.route: (mover.done_files, mover.bytes_moved)}
    left.update(closed)
    if not left or mover.stopped:
        return roads
    # The shorter road is closed to these (a bucket that cannot sign, a file in a pack that only one request can read):
    # through here, and the receipt says so. What fails on the way from a version fails there for a reason with a fix.
    for error in list(closed.values())[:1]:
        log.info("%s: %s; the bytes go through here", plan.target.url(), error)
    files, size = roads[plan.route]
    stream.move(mover, (step for step in plan.steps() if step.key in left))
    by_here = Route.PUSH if is_here(plan.source) else Route.PULL if is_here(plan.target) else Route.RELAY
    return roads | {by_here: (mover.done_files - files, mover.bytes_moved - size)}


def _is_closed(plan: Plan, error: Exception) -> bool:
    """Whether a file that failed on a shorter road may arrive by way of here."""
    if plan.source.ask(Composed) is None:
        return isinstance(error, UnsupportedError)
    return isinstance(error, UnsupportedError | NotFoundError | ConflictError | IntegrityError)


def _again(plan: Plan, mover: Mover) -> None:
    """Move once more what arrived wrong; whatever else may pass was tried again by the systems' own wrappers."""
    again = {key for key, error in mover.failures.items() if isinstance(error, IntegrityError)}
    if again and not mover.stopped:
        log.info("%d files are moved again: %s", len(again), mover.failures[next(iter(again))])
        steps = (step for step in plan.steps() if step.key in again)
        by_here = plan.way in (Way.STREAM, Way.NONE) or plan.source.ask(Composed) is not None
        if by_here:
            stream.move(mover, steps)
        else:
            far.move(mover, steps, plan.way)


def _give_up(plan: Plan, mover: Mover, kept: dict[str, Step], error: Exception) -> None:
    """Enter what was not even tried as failed, so that every file is accounted for."""
    for step in plan.steps():
        if step.action in (Action.COPY, Action.CHECK) and step.key not in mover.rows and step.key not in kept:
            mover.failures.setdefault(step.key, error)


def _delete(plan: Plan, *, in_the_way: bool) -> int:
    """Delete what is to go, and the directories that it leaves empty, with what describes them; how many keys.

    First, before anything moves, what stands where something else is to be (a file for a directory, or a directory for
    a file); the others when all has arrived.
    """
    places = plan.in_the_way
    if not plan.counts[Action.DELETE] or (in_the_way and not places):
        return 0
    doomed = (step.key for step in plan.steps() if step.action is Action.DELETE)
    chosen = (key for key in doomed if _concerns(key, places) is in_the_way)
    count = 0
    folders: set[str] = set()
    while batch := list(islice(chosen, 1000)):
        plan.target.delete(batch)
        count += len(batch)
        folders.update(folder for key in batch for folder in _folders(key))
    for step in plan.steps() if folders else ():
        if step.action is not Action.DELETE:
            folders.difference_update(_folders(step.key))
    emptied = sorted(folders, reverse=True)
    ours = [folder + name for folder in emptied for name in DESCRIBING]
    left = iter(ours + emptied if plan.target.keeps_directories else ours)
    while batch := list(islice(left, 1000)):
        plan.target.delete(batch)
    return count


def _folders(key: str) -> Iterator[str]:
    """The directories a key lies in; one is in itself."""
    at = key.find("/")
    while at >= 0:
        yield key[: at + 1]
        at = key.find("/", at + 1)


def _concerns(key: str, places: set[str]) -> bool:
    """Whether a key is one of these places or lies below one."""
    return bool(places) and (key.removesuffix("/") in places or any(folder[:-1] in places for folder in _folders(key)))


def _rows(plan: Plan, mover: Mover, kept: dict[str, Step], *, others: bool) -> Iterator[Rows]:
    """What the target has now, in key order and in pages, with or without what the source has not."""
    loose: list[Row] = []
    for step in plan.runs():
        if isinstance(step, Same):
            if loose:
                yield Rows.of(without_implied(loose))
                loose = []
            yield step.rows()
            continue
        row = mover.rows.get(step.key)
        if row is not None:
            loose.append(row)
        elif step.key in kept:
            loose.append(kept[step.key]._replace(action=Action.KEEP).row())
        elif step.action is not Action.DELETE and (others or step.action is not Action.OTHER):
            loose.append(step.row())
        if len(loose) >= PAGE and loose[-1].kind == "file":
            yield Rows.of(without_implied(loose))
            loose = []
    if loose:
        yield Rows.of(without_implied(loose))


def _publish(plan: Plan, mover: Mover, kept: dict[str, Step], *, deleted: int) -> str | None:
    """The manifest, last; returns the digest of the copy."""
    if plan.file is not None:
        return next(_rows(plan, mover, kept, others=False)).digests[0]
    is_news = bool(plan.stale or deleted or mover.rows)
    if plan.described and is_news:
        footer, etag = manifest.write(plan.target, _rows(plan, mover, kept, others=True))
        rows = _rows(plan, mover, kept, others=True)
        DigestCache(plan.target).replace(rows, Described(etag, footer) if etag is not None else None)
        if not plan.counts[Action.OTHER]:
            return footer.tree
    elif plan.digest is not None and not is_news and not plan.counts[Action.OTHER]:
        return plan.digest
    return manifest.digest_of(_rows(plan, mover, kept, others=False))


def _may_pass(error: Exception) -> bool:
    """Whether trying again may do."""
    return bool(getattr(error, "retryable", True))


def _failure(plan: Plan, mover: Mover, kept: dict[str, Step], began: float, why: str | None) -> TransferError:
    receipt = _receipt(plan, began, mover=mover, kept=kept)
    fixes = {getattr(failure.error, "hint", None) for failure in receipt.failed}
    fix = fixes.pop() if len(fixes) == 1 else None  # what mends all of them is told once
    if why is None:
        told = [str(failure.error).removesuffix(f"\n  fix: {fix}") for failure in receipt.failed[:10]]
        first = told[0]
        names = [printable(failure.key) for failure in receipt.failed[:10]]
        shown = "".join(f"\n    {name}: {text}" for name, text in zip(names, told, strict=True))
        more = f"\n    … and {len(receipt.failed) - 10:,} more" if len(receipt.failed) > 10 else ""
        why = f"{len(receipt.failed):,} of {receipt.files:,} files did not arrive:{shown}{more}"
        if receipt.files == 1:
            why = f"the file did not arrive: {first}"
    hint = "the same call again goes on from here"
    if fix is not None:
        hint = f"{fix}; then {hint}"
    elif receipt.failed and not mover.stop.is_set() and not any(_may_pass(one.error) for one in receipt.failed):
        hint = f"when that is mended, {hint}"
    error = TransferError(why, where=plan.target.url(), hint=hint, receipt=receipt)
    if receipt.failed:
        error.__cause__ = receipt.failed[0].error
    return error


def _receipt(
    plan: Plan,
    began: float,
    *,
    mover: Mover | None = None,
    kept: dict[str, Step] | None = None,
    deleted: int = 0,
    digest: str | None = None,
    roads: _Roads | None = None,
    dry_run: bool = False,
) -> Receipt:
    failed: tuple[Failure, ...] = ()
    done, moved = plan.moves, plan.bytes_to_move
    skipped = plan.files - plan.moves
    notes = []
    if mover is not None:
        failed = tuple(_failures(plan, mover))
        done, moved = mover.done_files, mover.bytes_moved - mover.bytes_resumed
        skipped += len(kept or ())
    if plan.files == 0 and (plan.options.include or plan.options.exclude):
        notes.append("no file matched the patterns")
    if mover is not None and mover.bytes_resumed:
        notes.append(f"{human(mover.bytes_resumed)} had arrived in an earlier run")
    taken = {road: amount for road, amount in (roads or {}).items() if amount[1]} or {plan.route: (done, moved)}
    made = _made(plan, mover, complete=roads is not None)
    if not (done or failed or any(made)):
        taken = {Route.NONE: (0, 0)}  # what was compared turned out to be the same
    if len(taken) > 1:
        notes += [f"{road}: {files:,} files, {human(size)}" for road, (files, size) in taken.items()]
    elif Route.RELAY in taken and moved:
        notes.append(f"{human(moved)} passed through this machine: neither end could do it")
    return Receipt(
        plan.source.location,
        plan.target.location,
        plan.source.url(plan.source_key),
        plan.target.url(plan.file or ""),
        "+".join(taken),
        plan.files,
        done,
        skipped,
        failed,
        plan.bytes_total,
        moved,
        deleted if not dry_run else plan.counts[Action.DELETE],
        digest,
        time.monotonic() - began,
        dry_run,
        tuple(notes),
        min(plan.counts[Action.SKIP], skipped),
        *made,
    )


def _failures(plan: Plan, mover: Mover) -> Iterator[Failure]:
    """What did not arrive, in order. What ended with another file, or was not even tried, says so."""
    keys = {place.url(key): key for key in mover.failures for place in (plan.source, plan.target)}
    with_another: dict[int, RhError] = {}
    for key, problem in sorted(mover.failures.items()):
        error = as_rh(problem, plan.target.url(key))
        if keys.get(error.where or "", key) != key:
            told = with_another.get(id(problem))
            if told is None:
                told = with_another[id(problem)] = copy.copy(error)
                told.message = f"given up with another file: {error.message}"
            error = told
        yield Failure(key, error)


def _made(plan: Plan, mover: Mover | None, *, complete: bool) -> tuple[int, int]:
    """Links and empty directories that were made, or, without a mover, are to be.

    Where a place keeps no directories, they are made once a manifest has them.
    """
    if not plan.counts[Action.MAKE]:
        return 0, 0
    made: Counter[str] = Counter()
    last: Step | None = None
    for step in plan.steps():
        if step.action is Action.MAKE and (mover is None or step.key in mover.rows):
            made[step.entry.kind] += 1
            last = step if step.entry.kind == "dir" else None
            continue
        if last is not None and step.key.startswith(last.key):
            made["dir"] -= 1  # it was there, and is only emptied
        last = None
    stored = plan.target.keeps_directories or (plan.described and (mover is None or complete))
    return made["link"], made["dir"] if stored else 0
