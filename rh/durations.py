"""Durations as people write them."""

from __future__ import annotations

import re

__all__ = ["seconds_of"]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def seconds_of(text: str) -> float | None:
    """Seconds from `90s`, `15m`, `2h`, `3d` or `1w`; `None` for all else."""
    match = _DURATION.fullmatch(text.strip())
    return None if match is None else float(match.group(1)) * _SECONDS[match.group(2)]
