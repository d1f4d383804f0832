"""Every error `rh` raises.

Each class is also the builtin exception a Python user would catch, carries a
stable `kind` (append-only: programs may switch on it), the place it happened
(`where`) and, where there is one, the fix (`hint`). All of them pickle.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

__all__ = [
    "AccessError",
    "ConflictError",
    "DeadlineError",
    "ExistsError",
    "FullError",
    "ImmutableVersionError",
    "IntegrityError",
    "InvalidError",
    "MissingExtraError",
    "NameClashError",
    "NotFoundError",
    "RemoteError",
    "RhError",
    "TransferError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
    "printable",
    "without_query",
]


_QUERY = re.compile(r"\A((?:[a-z]+\+)?https?://[^?#]*)\?.*", re.DOTALL)


def without_query(place: str) -> str:
    """A place to be shown: the query of a link may be what gives access to it."""
    return _QUERY.sub(r"\1?…", place)


def printable(name: str) -> str:
    """A name as one line that does nothing to a terminal: what is no character to be seen is written as an escape."""
    if name.isprintable():
        return name
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in name)


class RhError(Exception):
    """Base of all errors of `rh`.

    Args:
        message: what happened, in one sentence.
        where: the place, as a URL or path (never a secret).
        hint: the fix, as an instruction or a line to type.
    """

    kind: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    """Whether trying the same request again may succeed."""
    wait_s: float | None = None
    """Seconds that the other side asks to be left alone for, before that."""

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where and without_query(where)
        self.hint = hint

    def __str__(self) -> str:
        text = self.message
        if self.where and self.where not in text:
            text = f"{text} [{printable(self.where)}]"
        if self.hint:
            text = f"{text}\n  fix: {self.hint}"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.__dict__.copy()))

    def as_dict(self) -> dict[str, Any]:
        """The error as plain values, for `--json` and logs."""
        return {"kind": self.kind, "message": self.message, "where": self.where, "hint": self.hint}


def _rebuild(cls: type[RhError], state: dict[str, Any]) -> RhError:
    error = cls.__new__(cls)
    Exception.__init__(error, state.get("message", ""))
    error.__dict__.update(state)
    return error


class NotFoundError(RhError, FileNotFoundError):
    """Nothing is there: a key, a bucket, a name, an alias."""

    kind = "not_found"
    looked = False
    """Whether what lies beside it was looked at, for a hint."""


class ExistsError(RhError, FileExistsError):
    """Something is there already and may not be replaced."""

    kind = "exists"


class ConflictError(RhError):
    """Somebody else changed it: a precondition failed or a source moved under us."""

    kind = "conflict"


class IntegrityError(RhError):
    """Bytes are not what they should be."""

    kind = "integrity"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        expected: str | None = None,
        got: str | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.expected = expected
        self.got = got

    def __str__(self) -> str:
        text = super().__str__()
        if self.expected is not None or self.got is not None:
            text = f"{text} (expected {self.expected}, got {self.got})"
        return text


class AccessError(RhError, PermissionError):
    """We are known here, but not allowed to do this."""

    kind = "access"


class UnauthenticatedError(AccessError):
    """We are not known here: no credential, or one that was refused."""

    kind = "unauthenticated"


class UnavailableError(RhError, ConnectionError):
    """The other side cannot be reached or is failing for the moment."""

    kind = "unavailable"
    retryable = True


class DeadlineError(RhError, TimeoutError):
    """No answer within the time allowed."""

    kind = "deadline"
    retryable = True


class InvalidError(RhError, ValueError):
    """An argument, name, path or setting that cannot be right."""

    kind = "invalid"


class NameClashError(InvalidError):
    """A key that cannot be stored as asked: it escapes, or collides with another."""

    kind = "name_clash"


class ImmutableVersionError(RhError, PermissionError):
    """An attempt to change a version."""

    kind = "immutable_version"


class UnsupportedError(RhError, NotImplementedError):
    """The place cannot do that."""

    kind = "unsupported"


class MissingExtraError(UnsupportedError, ImportError):
    """An optional package is not installed; the hint is the install line."""

    kind = "missing_extra"


class FullError(RhError, OSError):
    """No space or quota left."""

    kind = "full"


class TransferError(RhError):
    """A transfer that did not complete. `receipt` says what was done, what failed and what is left."""

    kind = "transfer"

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        receipt: Any = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.receipt = receipt


class RemoteError(RhError):
    """Code that ran on a cluster failed there. The original exception is the cause."""

    kind = "remote"

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        traceback: str | None = None,
        exit_status: int | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.traceback = traceback
        self.exit_status = exit_status
