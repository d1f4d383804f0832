"""What happened, for people and tests: the logger, warnings, and counts of requests and bytes per system.

Counting is how routes are proven: `with counting() as c:` sees every request this process makes.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rh.forks import Lock

__all__ = ["Counts", "count", "counting", "log", "warn"]

log = logging.getLogger("rh")
log.addHandler(logging.NullHandler())


def warn(message: str, category: type[Warning]) -> None:
    """Warn of the line outside `rh` that led here, so that Python shows it once for each such line."""
    level, frame = 2, sys._getframe(1)  # noqa: SLF001 - `skip_file_prefixes` needs Python 3.12
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "rh":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


class Counts:
    """Requests and bytes by system name.

    `requests["s3", "write"]` counts calls of a verb on the wire, `sent["s3"]` and `received["s3"]` the bytes
    that this process moved to and from a system (payload, not protocol).
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()

    def add(self, system: str, verb: str, requests: int, sent: int, received: int) -> None:
        with self._lock:
            if requests:
                self.requests[system, verb] += requests
            if sent:
                self.sent[system] += sent
            if received:
                self.received[system] += received

    def total(self, system: str | None = None) -> int:
        """Requests to one system, or to all."""
        return sum(n for (name, _), n in self.requests.items() if system in (None, name))


_active: list[Counts] = []


def count(system: str, verb: str, *, requests: int = 1, sent: int = 0, received: int = 0) -> None:
    """Note requests to a system (called by the systems themselves, once per request on the wire)."""
    for counts in _active:
        counts.add(system, verb, requests, sent, received)


@contextmanager
def counting() -> Iterator[Counts]:
    """Count what this process does from here to the end of the block, in all threads."""
    counts = Counts()
    _active.append(counts)
    try:
        yield counts
    finally:
        _active.remove(counts)
