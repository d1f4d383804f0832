"""Checksums that a source tells, computed of what arrives from it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

from rh.errors import IntegrityError, RhError
from rh.observe import log
from rh.systems.abilities import Vouching
from rh.systems.base import Bytes, System
from rh.systems.far.checks import Crc
from rh.types import Entry

__all__ = ["InOrder", "Running", "running", "vouched"]


class Running:
    """A checksum of bytes that come one after the other: `update` it, then `compare`."""

    def __init__(self, told: str, make: Callable[[], Any], part: int = 0) -> None:
        self._told, self._make, self._part = told, make, part
        self._state, self._left = make(), part
        self._ended = b""

    def update(self, data: Bytes) -> None:
        """Go on with these bytes."""
        view = memoryview(data)
        while self._part and len(view) >= self._left:
            self._state.update(view[: self._left])
            view = view[self._left :]
            self._next_part()
        if len(view):
            self._state.update(view)
            self._left -= len(view)

    def _next_part(self) -> None:
        self._ended += self._state.digest()
        self._state, self._left = self._make(), self._part

    def compare(self, where: str) -> None:
        """Raise `IntegrityError` if the source told another checksum."""
        if self._part:
            if self._left < self._part:
                self._next_part()
            got = hashlib.md5(self._ended, usedforsecurity=False).hexdigest()
        else:
            got = self._state.hexdigest()
        name, _, value = self._told.partition(":")
        if got != value:
            raise IntegrityError(
                "the bytes are not those the store vouches for", where=where, expected=self._told, got=f"{name}:{got}"
            )


def running(told: str | None) -> Running | None:
    """What computes the checksum of an entry; `None` for none, and for kinds that are slow to compute here."""
    if told is None:
        return None
    kind, _, part = told.partition(":")[0].partition("-")
    if kind == "md5" and (not part or (part.isdigit() and int(part))):
        return Running(told, lambda: hashlib.md5(usedforsecurity=False), int(part or 0))
    if kind == "sha256" and not part:
        return Running(told, hashlib.sha256)
    if kind == "crc32c":
        return Running(told, lambda: Crc("crc32c"))
    return None


def vouched(source: System, entry: Entry) -> Entry:
    """The entry with a checksum, if the source can tell one that it did not list."""
    voucher = source.ask(Vouching) if entry.check is None else None
    if voucher is None:
        return entry
    try:
        return voucher.vouch(entry)
    except RhError as error:
        log.debug("%s: no checksum is told: %s", source.url(entry.key), error)
        return entry


class InOrder:
    """A running checksum of a file whose parts arrive side by side: a part waits until those before it were added."""

    def __init__(self, running: Running, over: Callable[[], bool]) -> None:
        self._running, self._over = running, over
        self._next = 0
        self._changed = threading.Condition()

    def add(self, number: int, data: Bytes) -> None:
        """Take the part with this number, or nothing at all once it is `over`."""
        with self._changed:
            while self._next != number:
                if self._over():
                    return
                self._changed.wait(0.2)
        self._running.update(data)  # nobody else does before the number goes on
        with self._changed:
            self._next += 1
            self._changed.notify_all()

    def compare(self, where: str) -> None:
        """Raise `IntegrityError` if the source told another checksum."""
        self._running.compare(where)
