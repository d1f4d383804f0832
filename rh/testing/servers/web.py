"""Just enough HTTP to furnish a server: one request on one connection, and AWS's signature for it."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import http.client
from collections.abc import Mapping
from urllib.parse import quote

from rh.errors import UnavailableError
from rh.testing.servers.process import LOOPBACK

__all__ = ["ask", "signature_v4"]


def ask(
    port: int,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    expect: tuple[int, ...] = (),
    timeout_s: float = 10.0,
) -> tuple[int, bytes]:
    """Status and body of one request to a loopback port.

    Raises:
        UnavailableError: no HTTP answer, or one that is not in `expect` (empty: any will do).
    """
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout_s)
    where = f"http://{LOOPBACK}:{port}{path.partition('?')[0]}"
    try:
        connection.request(method, path, body=body or None, headers=dict(headers or {}))
        answer = connection.getresponse()
        status, data = answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"no answer to {method}: {error}", where=where) from error
    finally:
        connection.close()
    if expect and status not in expect:
        raise UnavailableError(f"{method} answered {status}: {data[:200]!r}", where=where)
    return status, data


def signature_v4(
    method: str,
    host: str,
    path: str,
    *,
    access_key: str,
    secret_key: str,
    query: Mapping[str, str] | None = None,
    body: bytes = b"",
    region: str = "us-east-1",
    service: str = "s3",
    now: datetime.datetime | None = None,
) -> dict[str, str]:
    """The headers that sign a request as AWS's "Signature Version 4" says (`path` unquoted, `query` apart)."""
    moment = (now or datetime.datetime.now(datetime.UTC)).strftime("%Y%m%dT%H%M%SZ")
    payload = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": payload, "x-amz-date": moment}
    names = ";".join(sorted(headers))
    canonical = "\n".join(
        [
            method,
            quote(path, safe="/-_.~"),
            "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted((query or {}).items())),
            "".join(f"{name}:{headers[name]}\n" for name in sorted(headers)),
            names,
            payload,
        ]
    )
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**headers, "Authorization": f"AWS4-HMAC-SHA256 {credential}"}
