"""What the exact roads to object stores share: pooled connections on which each request is sent once, and its answer.

`rh.systems.s3.wire` and `rh.systems.azure.wire` say what the requests are and who signs them.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from rh import observe, plugins
from rh.errors import DeadlineError, IntegrityError, InvalidError, RhError, UnavailableError
from rh.systems.base import Body, Bytes
from rh.systems.objects.engine import CHUNK, Failure
from rh.types import Entry

__all__ = ["Answer", "Raise", "StoreWire", "WireBody", "ca_bundle", "deadline_of", "fields", "parse_xml"]

_PIECE = 256 * 1024
_TAG = {name: re.compile(rf"<{name}>\s*([^<\n]{{1,300}})") for name in ("Code", "Message", "Region")}


def parse_xml(data: bytes) -> ET.Element:
    """The document the store answered, or `UnavailableError`."""
    try:
        return ET.fromstring(data)  # noqa: S314 - expat bounds entity expansion, and nothing external is fetched
    except ET.ParseError as error:
        raise UnavailableError(f"the store's answer is not the XML it should be: {error}") from error


def fields(element: ET.Element) -> dict[str, str]:
    """Text of the children by name, without namespaces."""
    return {child.tag.rpartition("}")[2]: child.text or "" for child in element}


class Answer(NamedTuple):
    """What the store answered: `headers` look up in any case; `data` is whole unless a stream was asked for."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    stream: Any = None

    @property
    def etag(self) -> str | None:
        etag = self.headers.get("etag")
        return etag.strip('"') if etag else None


Raise = Callable[[Failure], RhError]
"""Turns a failure into the error to raise."""


class StoreWire:
    """Connections to one endpoint. Nothing is retried, no redirect is followed, no wait outlasts `timeout_s`."""

    def __init__(
        self, endpoint: str, *, system: str, timeout_s: float, extra: str, ca_bundle: str | None = None
    ) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidError(
                "an endpoint is an http or https URL", where=endpoint.rpartition("@")[2].partition("?")[0]
            )
        if parts.username or parts.password or parts.query:
            raise InvalidError(
                "an endpoint holds no secret", where=parts.hostname, hint="use a profile, a file or the environment"
            )
        self.scheme, self.netloc, self.base = parts.scheme, parts.netloc, parts.path.rstrip("/")
        self.endpoint = f"{self.scheme}://{self.netloc}{self.base}"
        self.system = system
        self.timeout_s = timeout_s
        urllib3 = plugins.need("urllib3", extra=extra)
        self._errors = urllib3.exceptions
        timeout = urllib3.Timeout(connect=timeout_s, read=timeout_s)
        options: dict[str, Any] = {"maxsize": 64, "timeout": timeout, "retries": False, "block": False, "num_pools": 64}
        if ca_bundle:
            options["ca_certs"] = ca_bundle
        proxies = getproxies()
        proxy = None if proxy_bypass(self.netloc) else proxies.get(self.scheme) or proxies.get("all")
        self._through = bool(proxy) and self.scheme == "http"
        self._manager = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)

    def close(self) -> None:
        """Drop idle connections; requests under way go on."""
        self._manager.clear()

    def send(
        self,
        verb: str,
        method: str,
        base: str,
        target: str,
        headers: dict[str, str],
        body: Bytes,
        *,
        error: Raise,
        stream: bool = False,
        payload: bool = False,
        accept: tuple[int, ...] = (),
    ) -> Answer:
        """Send one signed request, once.

        Args:
            verb: what `observe.count` calls it.
            method: HTTP method.
            base: scheme and authority.
            target: path and query, encoded; sent as they are.
            headers: all of them, signed.
            body: bytes to send.
            error: turns a failure into the error to raise.
            stream: hand the open response over in `Answer.stream` when the request succeeds.
            payload: whether the body is the user's bytes, for the count.
            accept: statuses besides 2xx that are an answer, not a failure.

        """
        length = len(body)
        headers["user-agent"] = "rh"
        data: Any = None
        if length or method in ("PUT", "POST"):
            headers["content-length"] = str(length)
            # A socket's timeout holds for one call of sendall, so large bodies go out in pieces.
            data = _pieces(body) if length > _PIECE else bytes(body)
        observe.count(self.system, verb, sent=length if payload else 0)
        parts = urlsplit(base)
        try:
            pool = self._manager.connection_from_host(parts.hostname, parts.port, self.scheme)
            response = pool.urlopen(
                method,
                base + target if self._through else target,
                body=data,
                headers=headers,
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
            )
            ok = 200 <= response.status < 300
            if stream and ok:
                return Answer(response.status, response.headers, b"", response)
            content = response.read()
            response.release_conn()
        except (self._errors.HTTPError, OSError) as problem:
            raise error(self.failure(problem)) from None
        if not ok and response.status not in accept:
            raise error(_failure(response.status, content, response.headers))
        return Answer(response.status, response.headers, content)

    def failure(self, problem: Exception) -> Failure:
        """What a broken connection says, in plain values."""
        errors = self._errors
        # A refused connection is a kind of timeout to urllib3, so it is asked for first.
        if isinstance(problem, errors.NewConnectionError | errors.ProxyError):
            return Failure("connect", message=_reason(problem))
        if isinstance(problem, errors.TimeoutError | TimeoutError):
            return Failure("timeout")
        if isinstance(problem, errors.SSLError):
            return Failure("connect", message=f"TLS: {_reason(problem)} (ca_bundle names further certificates)")
        return Failure("interrupted", message=_reason(problem))


def _reason(problem: Exception) -> str:
    cause = problem.__cause__ or problem.__context__ or problem
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(problem).rpartition(": ")[2][:200] or type(problem).__name__


def _pieces(body: Bytes) -> Iterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(view), _PIECE):
        yield view[start : start + _PIECE]


def _failure(status: int, content: bytes, headers: Mapping[str, str]) -> Failure:
    text = content[:8192].decode("utf-8", "replace")
    found = {name: match.group(1) if (match := tag.search(text)) else "" for name, tag in _TAG.items()}
    region = found["Region"] or headers.get("x-amz-bucket-region") or ""
    code = found["Code"] or headers.get("x-ms-error-code") or ""
    kind = {404: "missing", 412: "precondition", 416: "range"}.get(status, "status")
    return Failure(kind, status, code, found["Message"], region)


class WireBody(Body):
    """An open response on its way out: exact length, or `IntegrityError`."""

    def __init__(self, wire: StoreWire, response: Any, entry: Entry, want: int, *, error: Raise) -> None:
        self.entry = entry
        self._wire = wire
        self._response = response
        self._want = want
        self._error = error

    def __iter__(self) -> Iterator[Bytes]:
        response, got = self._response, 0
        if response is None:
            raise InvalidError("a body can be read once", where=self.entry.key)
        try:
            while got < self._want:
                try:
                    piece = response.read(min(CHUNK, self._want - got))
                except (self._wire._errors.HTTPError, OSError) as problem:  # noqa: SLF001 - same module
                    raise self._error(self._wire.failure(problem)) from None
                if not piece:
                    raise IntegrityError(
                        "the answer ended early",
                        where=self.entry.key,
                        expected=f"{self._want} bytes",
                        got=f"{got} bytes",
                    )
                got += len(piece)
                yield piece
            if self._response is not None:
                self._response = None
                response.read()
                response.release_conn()
        finally:
            observe.count(self._wire.system, "read", requests=0, received=got)
            self.close()

    def close(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()


def ca_bundle(settings: Mapping[str, Any]) -> str | None:
    """Where further certificates are, from the settings or the standard variables."""
    found = settings.get("ca_bundle") or os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE")
    return str(found) if found else None


def deadline_of(settings: Mapping[str, Any]) -> float:
    """Seconds any one wait may take."""
    try:
        value = float(settings.get("timeout_s") or 30.0)
    except (TypeError, ValueError) as error:
        raise InvalidError(f"timeout_s is not a number: {settings.get('timeout_s')!r}") from error
    if not value > 0:
        raise DeadlineError("timeout_s must be more than 0")
    return value
