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
    OK: "all went well",
    FAILED: "it failed for another reason",
    USAGE: "an argument, name, path or setting that cannot be right",
    NOT_FOUND: "nothing is there",
    EXISTS: "something is there already, or somebody else changed it",
    ACCESS: "not allowed, or not logged in",
    INTEGRITY: "bytes are not what they should be",
    UNAVAILABLE: "the other side cannot be reached, or did not answer in time",
    PARTIAL: "only a part of it arrived; the same command again goes on from there",
    INTERRUPTED: "interrupted (Ctrl-C)",
    PIPE: "nobody reads the output any more",
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
