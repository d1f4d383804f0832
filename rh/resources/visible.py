"""Which methods and fields of a resource are its API, and which only the modules of the library ask for."""

from __future__ import annotations

__all__ = ["INTERNAL", "visible"]

INTERNAL = frozenset(
    {
        "at_version", "begun", "check_live", "check_reachable", "check_version", "committed", "committed_version",
        "condition", "described", "document", "extra", "facts", "facts_known", "found", "handed_out", "handle",
        "is_file", "made", "missing", "named_anew", "of_document", "opened_files", "own", "parent", "pin", "pinned",
        "placed", "ready", "series_of", "stamp", "stored", "taken",
    }
)  # fmt: skip
"""Public among the modules of the library, and no part of the API: not completed, and not in the reference."""


def visible(value: object) -> list[str]:
    """What a user may call: `__dir__` of resources."""
    return sorted(set(object.__dir__(value)) - INTERNAL)
