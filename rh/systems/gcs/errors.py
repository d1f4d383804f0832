"""What Google Cloud Storage means by an answer that is not a success."""

from __future__ import annotations

import msgspec

from rh.errors import (
    AccessError,
    ConflictError,
    ExistsError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
)
from rh.systems.objects.failures import NoBucketError
from rh.types import ABSENT, ANY, Condition

__all__ = ["LOGIN", "refusal"]


class _Refusal(msgspec.Struct):
    class Details(msgspec.Struct):
        class Item(msgspec.Struct):
            reason: str = ""

        message: str = ""
        errors: list[Item] = []

    error: Details | str = ""


_BUSY = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded", "dailyLimitExceeded"})
LOGIN = (
    "run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS to a service account's file, "
    "or set anonymous = true for public data"
)


def is_of_bucket(answer: str) -> bool:
    """Whether a 404 is about the bucket: answers about an object quote its name, and that of the bucket."""
    low = answer.lower()
    return "bucket" in low and "no such object" not in low


def refusal(status: int, body: bytes, where: str, when: Condition = ANY) -> RhError:
    """The error for an answer that is not a success."""
    message, reason = "", ""
    try:
        details = msgspec.json.decode(body, type=_Refusal).error
        if not isinstance(details, str):
            message = details.message
            reason = details.errors[0].reason if details.errors else ""
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = body[:300].decode("utf-8", "replace").strip() if not body.lstrip().startswith(b"<") else ""
    message = " ".join(message.split())[:500] or f"status {status}"
    low = message.lower()
    if status == 412 or (status == 304 and when is not ANY):
        if when is ABSENT:
            return ExistsError("there is something already", where=where)
        return ConflictError("it has changed since", where=where)
    if status == 404:
        if is_of_bucket(message):
            return NoBucketError(f"there is no such bucket: {message}", where=where, hint="check the bucket's name")
        return NotFoundError("there is nothing under this name", where=where)
    if status == 401:
        return UnauthenticatedError(f"Google Cloud Storage does not know us: {message}", where=where, hint=LOGIN)
    if status == 403:
        if reason in _BUSY or "rate limit" in low or "quota exceeded" in low:
            return UnavailableError(f"Google Cloud Storage is limiting us: {message}", where=where)
        hint = "grant roles/storage.objectUser on the bucket (objectViewer to read only)"
        if "billing" in low or reason in ("accountDisabled", "billingDisabled"):
            hint = "enable billing for the bucket's project"
        elif "user project" in low or "userproject" in low or "serviceusage" in low:
            hint = "set user_project to a project you may bill"
        elif "retention" in low or "hold" in low:
            hint = "the object is protected by a retention policy or a hold"
        return AccessError(f"not allowed: {message}", where=where, hint=hint)
    if status == 400:
        if "match" in low and ("crc32c" in low or "md5" in low or "hash" in low):
            return IntegrityError(f"the bytes were damaged on the way: {message}", where=where)
        if "requester pays" in low or "user project" in low:
            return InvalidError(
                f"somebody has to pay for this request: {message}", where=where, hint="set user_project to your project"
            )
        return InvalidError(f"the request was refused: {message}", where=where)
    if status in (408, 429) or status >= 500:
        return UnavailableError(f"Google Cloud Storage is failing for the moment ({status}): {message}", where=where)
    if status in (409, 410):
        return ConflictError(f"somebody else is changing it: {message}", where=where)
    if 300 <= status < 400:
        return InvalidError(f"the endpoint redirects ({status})", where=where, hint="check endpoint_url")
    return InvalidError(f"the request was refused ({status}): {message}", where=where)
