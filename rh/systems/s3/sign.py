"""Signature version 4: requests signed by header, and URLs that are signed themselves.

Source: AWS, "Signature Version 4 signing process" and "Authenticating Requests: Using Query Parameters".
Pure functions over exact keys: nothing is normalised, which is what S3 asks for.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

__all__ = ["UNSIGNED", "Credentials", "presign", "quote_key", "sign"]

UNSIGNED = "UNSIGNED-PAYLOAD"
_ALGORITHM = "AWS4-HMAC-SHA256"


class Credentials(NamedTuple):
    """What signs. Never logged: the text form shows none of it."""

    access_key: str
    secret_key: str
    token: str | None = None
    lasting: bool = True
    """Whether they stay the same for the life of the process."""

    def __repr__(self) -> str:
        return "<Credentials>"


def quote_key(key: str) -> str:
    """A key as it stands in a URL path: every byte but unreserved ones and `/` percent-encoded."""
    return quote(key, safe="/-._~")


def _query(pairs: Sequence[tuple[str, str]]) -> str:
    encoded = sorted((quote(name, safe="-._~"), quote(value, safe="-._~")) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


_query_again = lru_cache(maxsize=64)(_query)
"""Thousands of requests that are signed within a second differ in their paths alone."""


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


@lru_cache(maxsize=32)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    return _hmac(_hmac(_hmac(_hmac(f"AWS4{secret}".encode(), day), region), "s3"), "aws4_request")


def _signature(credentials: Credentials, region: str, stamp: str, canonical: str) -> tuple[str, str]:
    """The credential scope and the signature of a canonical request."""
    day = stamp[:8]
    scope = f"{day}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = _signing_key(credentials.secret_key, day, region)
    return scope, _hmac(key, f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}").hex()


def sign(
    method: str,
    host: str,
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
    *,
    payload: str,
    credentials: Credentials | None,
    region: str,
    now: float | None = None,
) -> tuple[str, dict[str, str]]:
    """The request target and the headers to send, signed; unsigned without credentials.

    Args:
        method: HTTP method.
        host: host and port as they go into the `Host` header.
        path: URL path, encoded by `quote_key`.
        query: query parameters, not encoded.
        headers: further headers to send; all are signed.
        payload: hex SHA-256 of the body, or `UNSIGNED`.
        credentials: who signs, if anybody.
        region: the region the signature is for.
        now: seconds since the epoch.

    """
    text = _query(query)
    target = f"{path}?{text}" if text else path
    sent = {name.lower(): value for name, value in headers.items()}
    if credentials is None:
        return target, sent
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    sent["x-amz-date"] = stamp
    sent["x-amz-content-sha256"] = payload
    if credentials.token:
        sent["x-amz-security-token"] = credentials.token
    signed = sorted({**sent, "host": host}.items())
    names = ";".join(name for name, _ in signed)
    lines = "".join(f"{name}:{' '.join(value.split())}\n" for name, value in signed)
    scope, signature = _signature(credentials, region, stamp, f"{method}\n{path}\n{text}\n{lines}\n{names}\n{payload}")
    sent["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return target, sent


def presign(
    method: str,
    base: str,
    host: str,
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
    *,
    credentials: Credentials,
    region: str,
    expires_s: int,
    now: float | None = None,
) -> str:
    """A URL that carries its signature, good for `expires_s` seconds. `headers` must be sent with it.

    Args:
        method: HTTP method the URL is good for.
        base: scheme and authority, without a trailing slash.
        host: host and port as they go into the `Host` header.
        path: URL path, encoded by `quote_key`.
        query: query parameters, not encoded.
        headers: headers that are signed too.
        credentials: who signs.
        region: the region the signature is for.
        expires_s: 1 to 604,800.
        now: seconds since the epoch.

    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    signed = sorted({"host": host, **{name.lower(): value for name, value in headers.items()}}.items())
    names = ";".join(name for name, _ in signed)
    pairs = (
        *query,
        ("X-Amz-Algorithm", _ALGORITHM),
        ("X-Amz-Credential", f"{credentials.access_key}/{stamp[:8]}/{region}/s3/aws4_request"),
        ("X-Amz-Date", stamp),
        ("X-Amz-Expires", str(expires_s)),
        ("X-Amz-SignedHeaders", names),
        *((("X-Amz-Security-Token", credentials.token),) if credentials.token else ()),
    )
    text = _query_again(pairs)
    lines = "".join(f"{name}:{' '.join(value.split())}\n" for name, value in signed)
    _, signature = _signature(credentials, region, stamp, f"{method}\n{path}\n{text}\n{lines}\n{names}\n{UNSIGNED}")
    return f"{base}{path}?{text}&X-Amz-Signature={signature}"
