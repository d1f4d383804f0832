"""Blob versioning of Azure before azurite, which has none: an account that keeps what is overwritten or deleted.

Azure calls it "blob versioning". Every write gives the blob a version that answers name in `x-ms-version-id`, and reads
with `versionid=` give that version, also when the blob was overwritten or deleted since. Requests go through to azurite
as they came, which checks who asks; a copy of each version is kept there in a container of its own. What listings with
`include=versions`, tiers and `undelete` do in Azure is not here.

Source: Microsoft, "Blob versioning", and the reference of Put Blob, Get Blob and "Create a service SAS".
"""

from __future__ import annotations

import http.client
import secrets
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from rh import plugins
from rh.testing.servers.azurite import AzureServer
from rh.testing.servers.httpd import WebServer
from rh.testing.servers.process import LOOPBACK

__all__ = ["AzureVersions"]

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "host", "date", "server"})
_MISSING = b"<?xml version='1.0'?><Error><Code>BlobNotFound</Code><Message>no such version</Message></Error>"


class _Version(NamedTuple):
    name: str
    copy: str
    """The blob with its bytes, in the container of copies."""
    etag: str
    modified: str


class _Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    data: bytes


class AzureVersions(WebServer):
    """`behind` with blob versioning on, on a port of its own.

    Args:
        behind: a running azurite.
    """

    name = "azure-versions"

    def __init__(self, behind: AzureServer) -> None:
        super().__init__()
        self.behind = behind
        self._copies = f"versions-{secrets.token_hex(4)}"
        self._versions: dict[tuple[str, str], list[_Version]] = {}
        self._writing = threading.Lock()

    def start(self) -> Self:
        self.behind.make_bucket(self._copies)
        return super().start()

    def settings(self, *, root: str | None = None, **more: Any) -> dict[str, Any]:
        """Settings of a system on this server."""
        return self.behind.settings(root=root, via=self.port, **more)

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        parts = urlsplit(handler.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        container, _, blob = unquote(parts.path).removeprefix(f"/{self.behind.account}/").partition("/")
        if blob and "versionid" in query:
            answer = self._version(handler, container, blob, query)
        elif blob and handler.command == "PUT" and query.get("comp") in (None, "blocklist"):
            with self._writing:
                answer = self._through(handler, body)
                if answer.status == 201:
                    answer.headers["x-ms-version-id"] = self._keep(container, blob).name
        else:
            answer = self._through(handler, body)
            kept = self._versions.get((container, blob))
            if kept and handler.command in ("GET", "HEAD") and answer.status in (200, 206):
                answer.headers.update({"x-ms-version-id": kept[-1].name, "x-ms-is-current-version": "true"})
        _send(handler, answer)

    def _through(self, handler: BaseHTTPRequestHandler, body: bytes = b"") -> _Answer:
        """The answer of azurite to the request as it came."""
        headers = {name: value for name, value in handler.headers.items() if name.lower() not in _HOP}
        return self._asked(handler.command, handler.path, headers, body)

    def _asked(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> _Answer:
        connection = http.client.HTTPConnection(LOOPBACK, self.behind.port, timeout=60)
        try:
            connection.request(method, target, body or None, dict(headers))
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders() if name.lower() not in _HOP}
            return _Answer(answer.status, told, answer.read())
        finally:
            connection.close()

    def _keep(self, container: str, blob: str) -> _Version:
        """Copy what a blob is now, as its newest version."""
        kept = self._versions.setdefault((container, blob), [])
        moment = datetime.now(UTC)
        name = f"{moment:%Y-%m-%dT%H:%M:%S.%f}{len(kept) % 10}Z"
        now = self._asked("HEAD", self._signed(container, blob, "r"), {})
        source = f"http://{LOOPBACK}:{self.behind.port}{self._signed(container, blob, 'r')}"
        copy = f"{name}/{container}/{blob}"
        made = self._asked("PUT", self._signed(self._copies, copy, "cw"), {"x-ms-copy-source": source})
        if now.status != 200 or made.status != 202:
            raise RuntimeError(f"azurite kept no copy of {container}/{blob}: {now.status}, {made.status}")
        kept.append(_Version(name, copy, now.headers["etag"], now.headers["last-modified"]))
        return kept[-1]

    def _version(self, handler: BaseHTTPRequestHandler, container: str, blob: str, query: Mapping[str, str]) -> _Answer:
        """The answer to a read of one version, for who may read it."""
        if query.get("sr") == "bv":
            if not self._is_signed(container, blob, query):
                return _Answer(403, {"x-ms-error-code": "AuthenticationFailed"}, b"")
        elif (asked := self._through(handler)).status in (401, 403):
            return asked
        kept = self._versions.get((container, blob), [])
        found = next((version for version in kept if version.name == query["versionid"]), None)
        if found is None or handler.command not in ("GET", "HEAD"):
            return _Answer(404, {"x-ms-error-code": "BlobNotFound", "content-type": "application/xml"}, _MISSING)
        wanted = {name: value for name in ("range", "x-ms-range") if (value := handler.headers.get(name))}
        answer = self._asked(handler.command, self._signed(self._copies, found.copy, "r"), wanted)
        answer.headers.update({"etag": found.etag, "last-modified": found.modified, "x-ms-version-id": found.name})
        return answer

    def _is_signed(self, container: str, blob: str, query: Mapping[str, str]) -> bool:
        """Whether a signature for one version is ours, for this one, and still good."""
        expiry = datetime.fromisoformat(query["se"])
        ours = dict(parse_qsl(self._sas(container, blob, query["sp"], expiry, version_id=query["versionid"])))
        return ours["sig"] == query.get("sig") and "r" in query["sp"] and expiry > datetime.now(UTC)

    def _signed(self, container: str, blob: str, permission: str) -> str:
        """The target of a request to azurite, signed."""
        sas = self._sas(container, blob, permission, datetime.now(UTC) + timedelta(minutes=10))
        return f"/{self.behind.account}/{container}/{quote(blob, safe='/')}?{sas}"

    def _sas(self, container: str, blob: str, permission: str, expiry: datetime, **more: str) -> str:
        sdk = plugins.need("azure.storage.blob")
        given = {"account_key": self.behind.key, "permission": permission, "expiry": expiry, **more}
        return str(sdk.generate_blob_sas(self.behind.account, container, blob, **given))


def _send(handler: BaseHTTPRequestHandler, answer: _Answer) -> None:
    handler.send_response(answer.status)
    for name, value in answer.headers.items():
        if name != "content-length":
            handler.send_header(name, value)
    length = answer.headers.get("content-length") if handler.command == "HEAD" else None
    handler.send_header("Content-Length", length or str(len(answer.data)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(answer.data)
