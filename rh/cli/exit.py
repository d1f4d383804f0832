"""Exit codes. Programs may rely on them: they are only ever added to."""

from __future__ import annotations

__all__ = ["CODES", "INTERRUPTED", "KINDS", "PIPE", "code_of", "table"]

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
EXISTS = 4
ACCESS = 5
INTEGRITY = 6
UNAVAILABLE = 7
PARTIAL = 8
INTERRUPTED = 130
PIPE = 141

CODES = {
    OK: "success",
    FAILED: "failed for another reason",
    USAGE: "invalid argument, name, path or setting",
    NOT_FOUND: "not found",
    EXISTS: "already exists, or was changed by somebody else",
    ACCESS: "permission denied, or not logged in",
    INTEGRITY: "integrity error: data is not what it should be",
    UNAVAILABLE: "service or host unreachable, or timed out",
    PARTIAL: "partial transfer; run the same command again to resume",
    INTERRUPTED: "interrupted (Ctrl-C)",
    PIPE: "broken pipe: the output was closed",
}

KINDS = {
    "usage": USAGE,
    "invalid": USAGE,
    "not_found": NOT_FOUND,
    "exists": EXISTS,
    "conflict": EXISTS,
    "name_clash": EXISTS,
    "immutable_version": EXISTS,
    "access": ACCESS,
    "unauthenticated": ACCESS,
    "integrity": INTEGRITY,
    "unavailable": UNAVAILABLE,
    "deadline": UNAVAILABLE,
    "transfer": PARTIAL,
    "interrupted": INTERRUPTED,
}
"""Exit codes by the `kind` of an error; those not listed exit with 1."""


def code_of(error: BaseException) -> int:
    """The exit code of an error.

    A transfer of which nothing arrived, for one reason, ends with the code of that reason: one file that may not be
    read has the same code whichever command finds it.
    """
    receipt = getattr(error, "receipt", None)
    if receipt is not None and len(receipt.failed) == receipt.files:
        reasons = {code_of(failure.error) for failure in receipt.failed}
        if len(reasons) == 1:
            return reasons.pop()
    return KINDS.get(getattr(error, "kind", ""), FAILED)


def table() -> str:
    """The codes as text, for `rh --help`."""
    return "\n".join(f"{code:>5}  {meaning}" for code, meaning in CODES.items())
