"""What a refusal of an object store says, and the errors that mean the same on every store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape
from typing import NamedTuple

from rh.errors import (
    AccessError,
    ConflictError,
    FullError,
    InvalidError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)

__all__ = ["Failure", "NoBucketError", "failure_of", "generic_error", "is_plain", "scrub"]

_ODD = re.compile(r"[\x00-\x1f\x7f]|(?:^|/)\.{0,2}(?:/|$)")
_TAG = {name: re.compile(rf"<{name}>\s*([^<\n]{{1,300}})") for name in ("Code", "Message", "Region")}
_SECRET = re.compile(
    r"((?:^|[?&;\s])(?:sig|X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token|X-Goog-Signature|X-Goog-Credential)=)[^&\s\"')]+",
    re.IGNORECASE,
)


class NoBucketError(NotFoundError):
    """There is no such bucket or container: nothing to forgive, unlike a missing key."""


class Failure(NamedTuple):
    """A refused request, in plain values."""

    status: int
    code: str = ""
    message: str = ""
    region: str = ""


def failure_of(status: int, content: bytes, headers: Mapping[str, str]) -> Failure:
    """What an answer in XML says went wrong."""
    text = content[:8192].decode("utf-8", "replace")
    found = {name: unescape(match.group(1)) if (match := tag.search(text)) else "" for name, tag in _TAG.items()}
    region = found["Region"] or headers.get("x-amz-bucket-region") or ""
    code = found["Code"] or headers.get("x-ms-error-code") or ""
    return Failure(status, code, found["Message"], region)


def generic_error(failure: Failure, *, where: str) -> RhError:
    """The error for failures that mean the same on every store; a system maps its own codes first."""
    status = failure.status
    detail = ": ".join(part for part in (failure.code, failure.message) if part) or f"status {status}"
    if status == 404:
        return NotFoundError(f"nothing is there ({detail})", where=where)
    if status == 412:
        return ConflictError(f"a precondition failed: {detail}", where=where)
    if status == 401:
        return UnauthenticatedError(f"the credentials were refused: {detail}", where=where)
    if status == 403:
        return AccessError(f"access denied: {detail}", where=where)
    if status == 501:
        return UnsupportedError(f"the store cannot do that: {detail}", where=where)
    if status == 507:
        return FullError(f"the store is full: {detail}", where=where)
    if status in (408, 425, 429) or status >= 500:
        return UnavailableError(f"the store is failing for the moment: {status} {detail}", where=where)
    return InvalidError(f"the store refused the request: {status} {detail}", where=where)


def is_plain(key: str) -> bool:
    """Whether every store can hold this key: no empty, `.` or `..` component, no control character."""
    return _ODD.search(key) is None


def scrub(text: str) -> str:
    """The text without the values of signatures and credentials in URLs."""
    return _SECRET.sub(r"\1…", text)
