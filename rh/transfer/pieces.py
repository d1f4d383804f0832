"""What files are made of where their bytes are, for roads that do not pass through here.

A live file is one object of its source. A file of a version (`rh.systems.abilities.Composed`) is an object, part of a
pack, or several of these, on a system that the version only knows of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

from rh.errors import RhError, UnsupportedError
from rh.observe import log
from rh.systems.abilities import Composed, Piece, Signing, Versioned, Vouching
from rh.systems.base import System
from rh.transfer.mover import Mover
from rh.transfer.plan import Step
from rh.types import Entry, Location, SignedRequest, Span

__all__ = ["LINK_S", "Leave", "links", "objects", "told"]

Leave: TypeAlias = Callable[[Step], None]
"""Takes a step that cannot go this way."""

LINK_S = 12 * 3600
"""A link lives so long, in seconds: thousands are made ahead, and wait for the bytes of those before them."""
_WINDOW = 2_000
"""So many files are put in the order of their places before they are asked for."""
_GOOD_FOR_S = 600.0
"""A link to a pack is used so long for further members of it, in seconds: well before it expires."""


def told(step: Step) -> Entry:
    """The source's entry, with what perhaps only its manifest knows: the executable bit, and what its bytes must be."""
    entry = step.entry if step.executable is None else step.entry._replace(executable=step.executable)
    return entry._replace(check=step.digest) if entry.check is None and step.digest is not None else entry


def _placed(mover: Mover, steps: Iterator[Step], leave: Leave) -> Iterator[tuple[Step, Sequence[Piece]]]:
    """Steps with what they are made of, neighbours in a pack one after the other."""
    composed = mover.source.ask(Composed)
    if composed is None:
        for step in steps:
            yield step, [Piece(mover.source, step.entry.key, step.entry.size, etag=step.entry.etag)]
        return
    while window := list(islice(steps, _WINDOW)):
        found = [(step, pieces) for step in window if (pieces := _pieces(composed, step, leave)) is not None]
        found.sort(key=_order)
        yield from found


def _pieces(composed: Composed, step: Step, leave: Leave) -> Sequence[Piece] | None:
    """What a file is made of; one of which that is not known is left, and fails for its reason when it is read."""
    try:
        return composed.pieces_of(step.entry)
    except RhError as error:
        log.debug("%s: %s", step.entry.key, error)
        leave(step)
        return None


def _order(placed: tuple[Step, Sequence[Piece]]) -> tuple[str, int]:
    _, pieces = placed
    return (pieces[0].key, pieces[0].start or 0) if len(pieces) == 1 else ("", 0)


def links(
    mover: Mover, steps: Iterator[Step], leave: Leave
) -> Iterator[tuple[Entry, str, SignedRequest | Sequence[tuple[Span, SignedRequest]]]]:
    """What the target has to fetch. Files to which no link can be made are left."""
    signed = _Links()
    composed = mover.source.ask(Composed) is not None
    voucher = mover.source.ask(Vouching)
    for step, pieces in _placed(mover, steps, leave):
        if mover.stopped:
            return
        entry = told(step)
        try:
            if composed:
                entry = entry._replace(etag=pieces[0].etag if len(pieces) == 1 else None, check=step.entry.etag)
            elif step.digest is not None:
                entry = entry._replace(check=step.digest)  # which the target computes anyway
            elif voucher is not None and entry.check is None:
                entry = voucher.vouch(entry)  # only the store can tell the target what is right
            if len(pieces) == 1 and pieces[0].start is None:
                request: SignedRequest | Sequence[tuple[Span, SignedRequest]] = signed.to(pieces[0])
            else:
                request = [(_span(piece), signed.to(piece)) for piece in pieces]
        except RhError as error:
            log.info("%s: no link can be made: %s", mover.source.url(step.entry.key), error)
            leave(step)
            continue
        yield entry, step.key, request


def _span(piece: Piece) -> Span:
    start = piece.start or 0
    return start, start + piece.size


class _Links:
    """Signed requests; those to packs are used again for their neighbours."""

    def __init__(self) -> None:
        self._last: tuple[Location, str, float, SignedRequest] | None = None

    def to(self, piece: Piece) -> SignedRequest:
        """A request for the object that a piece is, or is in. RhError: there can be none."""
        place = piece.system.location
        last = self._last
        if last is not None and last[:2] == (place, piece.key) and time.monotonic() - last[2] < _GOOD_FOR_S:
            return last[3]
        versioned = piece.system.ask(Versioned) if piece.version is not None else None
        system = piece.system if versioned is None else versioned.pinned({piece.key: piece.version or ""})
        signer = system.ask(Signing)
        if signer is None:
            raise UnsupportedError("this place signs no links", where=piece.system.url(piece.key))
        request = signer.sign_read(piece.key, expires_s=LINK_S)
        if piece.start is not None:
            self._last = (place, piece.key, time.monotonic(), request)
        return request


def objects(
    composed: Composed, steps: Iterator[Step], leave: Leave
) -> Iterator[tuple[System | None, list[tuple[Step, Entry]]]]:
    """The files that are whole objects, by the places they are at, with the entries they have there.

    Those of no place are empty. Files that are parts of something, or in several parts, are left.
    """
    while window := list(islice(steps, _WINDOW)):
        places: dict[Location | None, tuple[System | None, list[tuple[Step, Entry]]]] = {}
        for step in window:
            pieces = _pieces(composed, step, leave)
            if pieces is None:
                continue
            if len(pieces) > 1 or (pieces and pieces[0].start is not None):
                leave(step)
            elif pieces:
                system = pieces[0].system
                places.setdefault(system.location, (system, []))[1].append((step, _object(step, pieces[0])))
            else:
                places.setdefault(None, (None, []))[1].append((step, told(step)))
        yield from places.values()


def _object(step: Step, piece: Piece) -> Entry:
    return Entry(piece.key, piece.size, etag=piece.etag, executable=told(step).executable)
