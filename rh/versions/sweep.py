"""Who sweeps a store: one at a time, and only while nobody writes."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from types import TracebackType
from typing import Any, Self

from rh.errors import ConflictError, IntegrityError, NotFoundError, RhError, UnsupportedError
from rh.observe import log
from rh.systems.base import System
from rh.types import Match
from rh.versions.alive import process
from rh.versions.lease import GC, create, valid

__all__ = ["PATIENCE_S", "Sweep"]

PATIENCE_S = 30.0
"""How long is waited for those who write."""
_ROUND_S = 45.0
"""How long writers are kept waiting by one round; they wait for two minutes."""
_BEAT_S = 5.0
_BEATS = 12
"""After so many beats that did not come, others take it that nobody sweeps any more."""
_OWN_BEATS = 4
"""After so many beats that could not be told, who sweeps begins nothing more: much sooner than others go on."""
_DAY_S = 86_400.0
_TRIES = 3


class Sweep:
    """One round: while it lasts, `gc.json` is ours and nobody writes to the store.

    It is written again every few seconds, so that others know soon when the process is no more.

    Args:
        system: the store's.
        patience_s: seconds to wait for those who write.
        beat_s: seconds between two times that it is written.

    Raises:
        ConflictError: somebody else sweeps, or somebody writes and does not come to an end in time.
    """

    def __init__(self, system: System, patience_s: float, *, beat_s: float = _BEAT_S) -> None:
        self._system = system
        self._patience_s = patience_s
        self._beat_s = beat_s
        self._by = f"{socket.gethostname()}:{os.getpid()}"
        self._token = secrets.token_hex(8)
        self._began = 0.0
        self._told: tuple[float, float] = 0.0, 0.0
        """When the last beat began that was told: seconds of a clock that only goes on, and since the epoch."""
        self._etag: str | None = None
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="rh-sweep", daemon=True)

    def __enter__(self) -> Self:
        self._take()
        try:
            self._thread.start()
            self._wait_for_writers()
        except BaseException:
            self._give_back()
            raise
        self._began = time.monotonic()  # the time of waiting does not count
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def is_over(self) -> bool:
        """Whether writers were kept waiting long enough, or may go on by now as they heard nothing of us."""
        return time.monotonic() - self._began > _ROUND_S or not self._holds()

    def _holds(self) -> bool:
        ages = time.monotonic() - self._told[0], time.time() - self._told[1]
        return not self._lost and max(ages) < _OWN_BEATS * self._beat_s

    def _document(self) -> bytes:
        ttl = _BEATS * self._beat_s
        told = {"until": time.time() + ttl, "ttl": ttl, "by": self._by, "token": self._token, "process": process()}
        return json.dumps(told).encode()

    def _go_on(self) -> None:
        while not self._stop.wait(self._beat_s):
            began = time.monotonic(), time.time()
            try:
                self._beat()
            except (ConflictError, NotFoundError) as error:
                log.warning("the store is not ours to sweep any more: %s", error)
                self._lost = True
                return
            except RhError as error:
                log.warning("nobody could be told that the store is still being swept: %s", error)
            else:
                self._told = began

    def _beat(self) -> None:
        """Write it again, unless somebody else has done so."""
        if self._etag is not None:
            try:
                self._etag = self._system.write(GC, self._document(), when=Match(self._etag)).etag
                return
            except UnsupportedError:
                self._etag = None
        found, _ = self._read()
        if found is None or found.get("token") != self._token:
            raise self._taken(found)
        self._system.write(GC, self._document())

    def _take(self) -> None:
        self._told = time.monotonic(), time.time()
        for left in reversed(range(_TRIES)):
            if create(self._system, GC, self._document()):
                break
            found, etag = self._read()
            if found is not None and valid(self._system, GC) is not None:
                raise self._taken(found)
            try:
                if etag is not None:
                    self._system.write(GC, self._document(), when=Match(etag))
                    break
            except UnsupportedError:
                self._system.write(GC, self._document())
                break
            except (ConflictError, NotFoundError):  # somebody else takes it, or says that nobody has it
                if not left:
                    raise self._taken(self._read()[0]) from None
        found, self._etag = self._read()
        if found is None or found.get("token") != self._token:
            raise self._taken(found)

    def _taken(self, found: dict[str, Any] | None) -> ConflictError:
        who = "somebody else" if found is None else found.get("by", "somebody")
        return ConflictError(f"the store is being swept by {who}", where=self._system.url(GC), hint="try again later")

    def _read(self) -> tuple[dict[str, Any] | None, str | None]:
        try:
            with self._system.read(GC) as body:
                etag, found = body.entry.etag, json.loads(body.read())
            return {**found}, etag
        except NotFoundError:
            return None, None
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                "nobody can tell who sweeps this store", where=self._system.url(GC), hint="if nobody does, delete it"
            ) from error

    def _give_back(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        found, _ = self._read()
        if found is not None and found.get("token") == self._token:
            self._system.delete([GC])

    def _wait_for_writers(self) -> None:
        """Wait for those who wrote when `gc.json` came: who comes later sees it, and waits for us."""
        began = time.monotonic()
        writers = self._leases()
        while writers := {key: held for key in writers if (held := valid(self._system, key, beside=GC)) is not None}:
            if time.monotonic() - began >= self._patience_s:
                who = next(iter(writers.values())).get("by", "somebody")
                raise ConflictError(
                    f"{who} writes to the store; nothing was deleted", where=self._system.url(),
                    hint="try again later: one that died writing on another machine is forgotten after an hour",
                )  # fmt: skip
            if not self._holds():
                raise self._taken(self._read()[0])
            time.sleep(min(0.2, self._patience_s))

    def _leases(self) -> dict[str, dict[str, Any]]:
        """Whatever leases there are; those that ran out long ago are taken away."""
        try:
            found = [entry for entry in self._system.list("leases/") if entry.kind == "file"]
        except NotFoundError:
            return {}
        old = [entry.key for entry in found if entry.modified is not None and entry.modified < time.time() - _DAY_S]
        self._system.delete([key for key in old if valid(self._system, key, beside=GC) is None])
        return {entry.key: {} for entry in found}
