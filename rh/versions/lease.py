"""Leases: who writes to a store and who sweeps it know of each other."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from typing import Any, NamedTuple

from rh.errors import ConflictError, ExistsError, IntegrityError, NotFoundError, RhError, UnsupportedError
from rh.observe import log
from rh.systems.base import System
from rh.types import ABSENT, ANY, Match
from rh.versions.alive import is_gone, process

__all__ = ["GC", "Lease", "create", "valid"]

GC = "gc.json"
"""While this is valid, somebody sweeps, and nobody may begin to write."""
_GC_PATIENCE_S = 120.0
_GRACE_S = 5.0


def create(system: System, key: str, data: bytes) -> bool:
    """Write what is to be written once; `False` where it is there already."""
    try:
        system.write(key, data, when=ABSENT)
    except ExistsError:
        return False
    except UnsupportedError:
        # The place cannot tell; two who write at the same moment write what is equally good.
        try:
            system.head(key)
        except NotFoundError:
            system.write(key, data)
            return True
        return False
    return True


class Lease:
    """That somebody writes to a store, who may rely on things there that no tree needs yet.

    Who writes makes a lease, then looks whether somebody sweeps (`gc.json`); who sweeps makes `gc.json`, then looks for
    leases. So one of them sees the other, whoever comes first.
    """

    def __init__(self, system: System, ttl_s: float) -> None:
        self.key = f"leases/{secrets.token_hex(16)}"
        self.ttl_s = ttl_s
        self._system = system
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._told = 0.0, 0.0
        """When it was last written: seconds of a clock that only goes on, and since the epoch."""

    def begin(self) -> None:
        """Make it known."""
        self._write(_clocks())
        try:
            self._wait_for_sweeper()
        except BaseException:
            self.end()
            raise
        self._thread = threading.Thread(target=self._renew, name="rh-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise `ConflictError` if it was ever not renewed in time: what was relied on may be gone."""
        if not self._holds(_clocks()):
            raise ConflictError(
                "the store could not be told in time that somebody writes", where=self._system.url(self.key),
                hint="run it again",
            )  # fmt: skip

    def end(self) -> None:
        """Take it back."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self._system.delete([self.key])
        except RhError as error:
            log.debug("a lease is left behind until it ends by itself: %s", error)

    def _holds(self, now: tuple[float, float]) -> bool:
        """Whether nobody can have taken it for over since it was written. One clock stops while a machine sleeps."""
        return max(now[0] - self._told[0], now[1] - self._told[1]) < self.ttl_s

    def _write(self, now: tuple[float, float]) -> None:
        by = f"{socket.gethostname()}:{os.getpid()}"
        document = {"until": time.time() + self.ttl_s, "ttl": self.ttl_s, "by": by, "process": process()}
        self._system.write(self.key, json.dumps(document).encode())
        self._told = now

    def _renew(self) -> None:
        while not self._stop.wait(self.ttl_s / 3) and self._holds(now := _clocks()):
            try:
                self._write(now)
            except RhError as error:
                log.warning("a lease could not be renewed: %s", error)

    def _wait_for_sweeper(self) -> None:
        began = time.monotonic()
        gone_since: float | None = None
        while (found := _look(self._system, GC, self.key)) is not None:
            now = time.monotonic()
            if found.gone and found.told.get("ttl"):
                gone_since = now if gone_since is None else gone_since
            calm = gone_since is not None and now - gone_since >= self._grace_s
            if (calm or not found.valid) and self._broken(found):
                return
            if now - began > _GC_PATIENCE_S:
                raise ConflictError(
                    f"the store is being swept by {found.told.get('by', 'somebody')}", where=self._system.url(GC),
                    hint="try again later",
                )  # fmt: skip
            self._system.delete([self.key])  # else the two would wait for each other
            self._stop.wait(0.5)
            self._write(_clocks())

    @property
    def _grace_s(self) -> float:
        """How long a process may still delete after its end: what it asked another machine for may be on its way."""
        return 0.0 if self._system.kind == "file" else _GRACE_S

    def _broken(self, found: _Told) -> bool:
        """Say that nobody sweeps any more, as nothing was heard of who did; `False` if something was by now."""
        if not found.told.get("ttl"):
            return True  # somebody else said so
        log.warning("%s does not sweep the store any more, and did not say so", found.told.get("by", "somebody"))
        told = {"until": 0, "ttl": 0, "by": found.told.get("by")}
        try:
            self._system.write(GC, json.dumps(told).encode(), when=ANY if found.etag is None else Match(found.etag))
        except (ConflictError, NotFoundError):
            return False
        except UnsupportedError:
            pass  # its time is over all the same
        return True


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.time()


class _Told(NamedTuple):
    """A lease, or `gc.json`: what it says, and whether it holds. `gone`: whose process was here, and is no more."""

    told: dict[str, Any]
    etag: str | None
    valid: bool
    gone: bool


def valid(system: System, key: str, *, beside: str | None = None) -> dict[str, Any] | None:
    """A lease, or `gc.json`, unless it is not there or has run out, or its process was on this machine and is gone.

    Args:
        system: the store's.
        key: of the document, which tells its `ttl` in seconds and `until` when it holds by the clock of who wrote it.
        beside: what we wrote just now. When both were written is told by the store, so that no other clock counts.

    Raises:
        IntegrityError: it is no such document.
    """
    found = _look(system, key, beside)
    return None if found is None or found.gone or not found.valid else found.told


def _look(system: System, key: str, beside: str | None) -> _Told | None:
    try:
        with system.read(key) as body:
            written, etag = body.entry.modified, body.entry.etag
            found = json.loads(body.read())
        ttl, until = float(found.get("ttl", 0)), float(found["until"])
    except NotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            "nobody can tell who uses this store", where=system.url(key), hint="if nobody does, delete it"
        ) from error
    now = system.head(beside).modified if beside is not None and ttl else None
    holds = now - written < ttl if now is not None and written is not None else until > time.time()
    return _Told(found, etag, holds, is_gone(found.get("process")))
