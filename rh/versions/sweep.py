"""Who sweeps a store: one at a time, and only while nobody writes."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from types import TracebackType
from typing import Any, Self

from rh.errors import ConflictError, IntegrityError, NotFoundError, UnsupportedError
from rh.systems.base import System
from rh.types import Match
from rh.versions.lease import GC, create, valid

__all__ = ["PATIENCE_S", "Sweep"]

PATIENCE_S = 30.0
"""How long is waited for those who write."""
_ROUND_S = 45.0
"""How long writers are kept waiting by one round; they wait for two minutes."""
_VALID_S = 300.0
"""How long `gc.json` holds if it is not taken away: longer than a round, so that clocks may differ."""
_DAY_S = 86_400.0


class Sweep:
    """One round: while it lasts, `gc.json` is ours and nobody writes to the store.

    Raises:
        ConflictError: somebody else sweeps, or somebody writes and does not come to an end in time.
    """

    def __init__(self, system: System, patience_s: float) -> None:
        self._system = system
        self._patience_s = patience_s
        self._by = f"{socket.gethostname()}:{os.getpid()}"
        self._token = secrets.token_hex(8)
        self._began = self._until = 0.0

    def __enter__(self) -> Self:
        self._take()
        try:
            self._wait_for_writers()
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def is_over(self) -> bool:
        """Whether writers were kept waiting long enough."""
        return time.monotonic() - self._began > _ROUND_S or time.time() > self._until - _VALID_S / 2

    def _document(self) -> bytes:
        self._began, self._until = time.monotonic(), time.time() + _VALID_S
        told = {"until": self._until, "ttl": _VALID_S, "by": self._by, "token": self._token}
        return json.dumps(told).encode()

    def _take(self) -> None:
        if not create(self._system, GC, self._document()):
            found, etag = self._read()
            if found is not None and valid(self._system, GC) is not None:
                raise self._taken(found)
            try:
                if etag is None:
                    create(self._system, GC, self._document())
                else:
                    self._system.write(GC, self._document(), when=Match(etag))
            except UnsupportedError:
                self._system.write(GC, self._document())
            except (ConflictError, NotFoundError):
                raise self._taken(self._read()[0]) from None
        found, _ = self._read()
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
                    hint="try again later: a process that died writing is forgotten after an hour",
                )  # fmt: skip
            time.sleep(min(0.2, self._patience_s))
            if time.time() > self._until - _VALID_S / 2:
                self._system.write(GC, self._document())
        self._system.write(GC, self._document())  # the time of waiting does not count

    def _leases(self) -> dict[str, dict[str, Any]]:
        """Whatever leases there are; those that ran out long ago are taken away."""
        try:
            found = [entry for entry in self._system.list("leases/") if entry.kind == "file"]
        except NotFoundError:
            return {}
        old = [entry.key for entry in found if entry.modified is not None and entry.modified < time.time() - _DAY_S]
        self._system.delete([key for key in old if valid(self._system, key, beside=GC) is None])
        return {entry.key: {} for entry in found}
