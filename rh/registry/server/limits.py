"""How much one caller may ask: token buckets."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import NamedTuple

__all__ = ["Buckets", "Limits"]

_KEPT = 10_000


class Limits(NamedTuple):
    """What a server bears."""

    body_bytes: int = 4 << 20
    """Of one request; `replay`, which is for admins, takes 16 times as much."""
    page_bytes: int = 4 << 20
    """About how much one page of an answer holds."""
    rate: float = 1000.0
    """Requests a second of one token, on average."""
    burst: float = 2000.0
    """Requests of one token at once."""
    refused_rate: float = 10.0
    """Requests a second without a token, or with one that is refused, of one address."""
    refused_burst: float = 50.0
    concurrent: int = 256
    """Requests under way at once."""
    threads: int = 16
    """Of them, how many are at the registry."""
    stranger_threads: int = 4
    """Of those, how many work for callers without a token."""
    strangers: int = 32
    """Requests without a token that wait for such a thread."""
    connections: int = 2000
    """Open at once; fewer where the process may not open as many files."""
    page_s: float = 5.0
    """About how long one page of an answer takes."""
    answer_s: float = 25.0
    """How long an answer may take. Callers wait a little longer, so they hear whose fault it was."""
    header_s: float = 30.0
    """How long a caller may take to send the head of a request."""
    body_s: float = 30.0
    """How long a caller may take to send a request."""
    unread_s: float = 120.0
    """How long a caller may read nothing of an answer."""
    stop_s: float = 30.0
    """How long requests under way get to end when the server stops."""


class Buckets:
    """A bucket per caller: it holds up to `burst` and fills by `rate` a second."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str) -> float:
        """Take one out. 0.0 if there was one, else the seconds until there is."""
        now = time.monotonic()
        held, at = self._buckets.pop(who, (self.burst, now))
        held = min(self.burst, held + (now - at) * self.rate)
        enough = held >= 1
        self._buckets[who] = (held - 1 if enough else held, now)
        if len(self._buckets) > _KEPT:
            self._buckets.popitem(last=False)  # the one unused for longest is full by now
        return 0.0 if enough else (1 - held) / self.rate
