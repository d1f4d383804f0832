"""What a registry takes as a document: plain JSON without secrets, and how it is written."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from rh.errors import InvalidError

__all__ = ["Document", "check_document", "decode", "encode", "is_secret_field"]

Document: TypeAlias = Mapping[str, Any]
"""A JSON object: text keys; text, finite numbers, booleans, null, lists and objects as values."""

MAX_DOCUMENT = 1 << 20
"""Bytes of one document. A registry holds what and where; large things are data."""

# Words of a field's name that say its value is a credential. `token` alone is one; `pad_token`, `max_tokens` are not.
_SECRET_WORDS = frozenset(
    {
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "secrets",
        "credential",
        "credentials",
        "apikey",
        "authorization",
    }
)
_SECRET_PAIRS = frozenset(
    {
        "secret key", "api key", "account key", "private key", "shared key", "access token", "auth token", "api token",
        "session token", "bearer token", "refresh token", "security token", "sas token", "id token", "hf token",
        "github token", "connection string",
    }
)  # fmt: skip
_WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_SECRET_VALUES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|://[^/@\s:]*:[^/@\s]+@"
    r"|[?&](?:X-Amz-Signature|X-Amz-Security-Token|X-Goog-Signature|sig|access_token)="
    r"|\b(?:AccountKey|SharedAccessSignature)="
)


@functools.lru_cache(4096)
def is_secret_field(name: str) -> bool:
    """Whether a field of that name would hold a credential: `password`, `aws_secret_access_key`; not `pad_token`."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if words[-1:] == ["file"]:
        return False  # where a credential lies is no credential
    if not _SECRET_WORDS.isdisjoint(words) or words == ["token"]:
        return True
    return any(f"{a} {b}" in _SECRET_PAIRS for a, b in itertools.pairwise(words))


def check_document(document: Document, *, where: str) -> None:
    """Refuse what a registry does not hold: secrets, values that JSON would change, and documents of more than 1 MiB.

    Raises:
        InvalidError: names the field, and never repeats the value of one that looks like a secret.
    """
    if not isinstance(document, Mapping):
        raise InvalidError(f"a record is a mapping, not {type(document).__name__}", where=where)
    _check(document, "", where, 0)
    size = len(encode(document))
    if size > MAX_DOCUMENT:
        raise InvalidError(
            f"the record has {size:,} bytes, more than {MAX_DOCUMENT:,}",
            where=where,
            hint="store large things as data (rh.blob)",
        )


def _check(value: Any, field: str, where: str, depth: int) -> None:
    if depth > 64:
        raise InvalidError("the record is nested too deeply", where=where)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InvalidError(f"the field {field or '(top)'} has a key that is not text: {key!r}", where=where)
            name = f"{field}.{key}" if field else key
            if is_secret_field(key) and not (inner is None or (isinstance(inner, str) and not inner)):
                raise InvalidError(
                    f"the field {name!r} looks like a secret, and records hold none",
                    where=where,
                    hint="leave it out; credentials stay where the platform keeps them (profiles, agents, environment)",
                )
            _check(inner, name, where, depth + 1)
    elif isinstance(value, list | tuple):
        if isinstance(value, tuple):
            raise InvalidError(
                f"the field {field!r} is a tuple, which would come back as a list", where=where, hint="use a list"
            )
        for inner in value:
            _check(inner, field, where, depth + 1)
    elif isinstance(value, str):
        if _SECRET_VALUES.search(value):
            raise InvalidError(
                f"the field {field!r} holds what looks like a credential (a password in a URL, a key, a signature)",
                where=where,
                hint="leave it out; credentials stay where the platform keeps them",
            )
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise InvalidError(
                    f"the field {field!r} is not valid Unicode, so it cannot be recorded", where=where
                ) from error
    elif value is None or isinstance(value, bool):
        pass
    elif isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 64:
            raise InvalidError(
                f"the field {field!r} is a number of more than 64 bits", where=where, hint="write it as text"
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidError(f"the field {field!r} is {value}, which JSON does not have", where=where)
    else:
        raise InvalidError(
            f"the field {field!r} is a {type(value).__name__}; a record holds only what JSON has",
            where=where,
        )


def encode(document: Document) -> bytes:
    """A document as JSON, the same bytes for equal documents."""
    import msgspec

    return msgspec.json.encode(document, order="deterministic")


def decode(text: str | bytes) -> dict[str, Any]:
    """The document in JSON text. `ValueError` if it is none."""
    import msgspec

    return msgspec.json.decode(text, type=dict[str, Any])
