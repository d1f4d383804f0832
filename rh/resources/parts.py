"""What the parts of the library ask of each other, and users need not see."""

from __future__ import annotations

__all__ = ["visible"]

_BETWEEN_PARTS = frozenset(
    {
        "at_version", "begun", "check_live", "check_reachable", "check_version", "committed", "committed_version",
        "condition", "described", "document", "extra", "facts", "files", "handle", "made", "of_document", "parent",
        "pinned", "placed", "ready", "series_of", "snapshot", "stamp",
        "stored",
    }
)  # fmt: skip
"""Methods and fields that are public among the modules of the library, and no part of the API."""


def visible(value: object) -> list[str]:
    """What a user may call: `__dir__` of resources."""
    return sorted(set(object.__dir__(value)) - _BETWEEN_PARTS)
