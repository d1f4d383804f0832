"""What `rh doctor` looks at: the machine, and each system. A check yields findings and raises nothing."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Finding"]


class Finding(NamedTuple):
    """One line of the doctor's report."""

    status: Literal["ok", "warn", "fail"]
    what: str
    detail: str
    fix: str | None = None
