"""Names that stores do not keep as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["UNKEPT"]

UNKEPT: Mapping[str, re.Pattern[str]] = {
    "gs": re.compile(r"[\r\n]"),
    # It resolves dots as URLs do, turns backslashes round, and cannot list control characters.
    "azure": re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\\]|(?:^|/)\.{1,2}(?:/|$)"),
}
"""By kind of system: found in a name that it does not keep."""
