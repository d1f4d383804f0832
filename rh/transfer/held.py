"""Files that lie on a disk of this machine already: a copy of them shares their blocks where the file system can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from rh.digest import Digest
from rh.errors import RhError
from rh.observe import log
from rh.systems.abilities import Held, ServerCopy
from rh.systems.base import System
from rh.transfer.mover import Mover
from rh.transfer.plan import Step
from rh.types import Entry, Location, Outcome

__all__ = ["taken"]

_LEAST = 1 << 20
"""Smaller files are written from memory sooner than they are copied."""
_WINDOW = 200


def taken(mover: Mover, steps: Iterable[Step]) -> Iterator[Step]:
    """Copy those files that the source holds on this machine, and yield the others.

    Each was compared with its digest before, and its copy is once more. One that cannot be copied is among the others.
    """
    held, copier = mover.source.ask(Held), mover.target.ask(ServerCopy)
    if held is None or copier is None or mover.options.bandwidth:
        yield from steps
        return
    left = iter(steps)
    while not mover.stopped and (window := list(islice(left, _WINDOW))):
        places: dict[Location, tuple[System, dict[str, tuple[Step, Entry]]]] = {}
        for step in window:
            # A program's copy has to be one, too: what is held is none.
            found = held.held(step.entry) if step.entry.size > _LEAST and not step.executable else None
            if found is None or not copier.can_copy_from(found[0]):
                yield step
            else:
                places.setdefault(found[0].location, (found[0], {}))[1][step.key] = step, found[1]
        for system, files in places.values():
            pairs = [(entry, key) for key, (_, entry) in files.items()]
            try:
                for outcome in copier.copy_many(system, pairs, watch=mover.watch):
                    if _arrived(mover, files[outcome.key][0], outcome):
                        del files[outcome.key]
            except RhError as error:
                log.debug("%s: what is held here is not copied: %s", mover.target.url(), error)
            yield from (step for step, _ in files.values())


def _arrived(mover: Mover, step: Step, outcome: Outcome) -> bool:
    """Enter a copy into the books, if it is right."""
    if outcome.error is not None or outcome.entry is None or outcome.digest is None:
        log.debug("%s: what is held here is not copied: %s", mover.target.url(step.key), outcome.error)
        return False
    if outcome.digest != (step.digest or step.entry.etag):
        return False  # it changed in this moment; the bytes come from where they are in its place
    mover.done(step, outcome.entry, Digest(outcome.digest, outcome.chunks or b""))
    return True
