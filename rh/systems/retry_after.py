"""How long a server asks to be left alone: the header `Retry-After` (RFC 9110, 10.2.3)."""

from __future__ import annotations

import time
from typing import TypeVar

from rh.errors import RhError, UnavailableError

__all__ = ["asked_to_wait"]

E = TypeVar("E", bound=RhError)


def asked_to_wait(error: E, header: str | None) -> E:
    """The error, with what the header says if trying again is worth it. A header that makes no sense says nothing."""
    if not header or not isinstance(error, UnavailableError):
        return error
    from email.utils import parsedate_to_datetime  # seldom needed

    try:
        seconds = float(header) if header.isdecimal() else parsedate_to_datetime(header).timestamp() - time.time()
    except (ValueError, OverflowError):
        return error
    error.wait_s = max(0.0, seconds)
    error.hint = error.hint or f"the server asks to wait {error.wait_s:,.0f} s; a larger retry_s= waits for it"
    return error
