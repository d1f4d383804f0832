"""Counts of a server, in the text format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rh.registry.server.audit import Audit

__all__ = ["Metrics"]

_BUCKETS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)


class Metrics:
    """What was asked, how it ended, how long it took. Used from the event loop only."""

    def __init__(self) -> None:
        self.under_way = 0
        self._requests: Counter[tuple[str, int]] = Counter()
        self._within: Counter[tuple[str, float]] = Counter()
        self._seconds: dict[str, float] = {}
        self._refused: Counter[str] = Counter()

    def add(self, endpoint: str, status: int, seconds: float) -> None:
        """One request has ended."""
        self._requests[endpoint, status] += 1
        self._seconds[endpoint] = self._seconds.get(endpoint, 0.0) + seconds
        for bucket in _BUCKETS:
            if seconds <= bucket:
                self._within[endpoint, bucket] += 1

    def refuse(self, reason: str) -> None:
        """One request was turned away: `rate`, `body`, `busy`, `token`."""
        self._refused[reason] += 1

    def text(self, audit: Audit | None = None) -> str:
        """All of it, and of the audit log whether it can be written."""
        lines = [*self._lines()]
        if audit is not None:
            lines += [
                "# HELP rh_audit_failures_total Lines that the audit log lacks.",
                "# TYPE rh_audit_failures_total counter",
                f"rh_audit_failures_total {audit.failures}",
                "# HELP rh_audit_failing Whether the last line could not be written.",
                "# TYPE rh_audit_failing gauge",
                f"rh_audit_failing {int(audit.failing)}",
            ]
        return "\n".join(lines) + "\n"

    def _lines(self) -> Iterator[str]:
        yield "# HELP rh_requests_total Requests by endpoint and status."
        yield "# TYPE rh_requests_total counter"
        for (endpoint, status), count in sorted(self._requests.items()):
            yield f'rh_requests_total{{endpoint="{endpoint}",status="{status}"}} {count}'
        yield "# HELP rh_request_seconds How long requests took."
        yield "# TYPE rh_request_seconds histogram"
        for endpoint, seconds in sorted(self._seconds.items()):
            total = sum(count for (name, _), count in self._requests.items() if name == endpoint)
            for bucket in _BUCKETS:
                within = self._within[endpoint, bucket]
                yield f'rh_request_seconds_bucket{{endpoint="{endpoint}",le="{bucket}"}} {within}'
            yield f'rh_request_seconds_bucket{{endpoint="{endpoint}",le="+Inf"}} {total}'
            yield f'rh_request_seconds_sum{{endpoint="{endpoint}"}} {seconds:.6f}'
            yield f'rh_request_seconds_count{{endpoint="{endpoint}"}} {total}'
        yield "# HELP rh_refused_total Requests turned away, by reason."
        yield "# TYPE rh_refused_total counter"
        for reason, count in sorted(self._refused.items()):
            yield f'rh_refused_total{{reason="{reason}"}} {count}'
        yield "# HELP rh_requests_under_way Requests under way."
        yield "# TYPE rh_requests_under_way gauge"
        yield f"rh_requests_under_way {self.under_way}"
