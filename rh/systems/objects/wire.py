"""What the roads to S3 and Azure share: pooled connections on which each request is sent once, and its answer.

`rh.systems.s3.wire` and `rh.systems.azure.wire` say what the requests are and who signs them.
"""

from __future__ import annotations

import os
import time
import xml.etree.ElementTree as ET
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from rh import observe
from rh.errors import DeadlineError, IntegrityError, InvalidError, RhError, UnavailableError
from rh.systems.base import Body, Bytes
from rh.systems.objects import http
from rh.systems.objects.failures import Failure, failure_of
from rh.systems.objects.together import Call, together
from rh.systems.retry_after import asked_to_wait
from rh.types import Entry

__all__ = [
    "Answer",
    "Asked",
    "Nothing",
    "Raise",
    "StoreWire",
    "WireBody",
    "ca_bundle",
    "deadline_of",
    "etag_of",
    "fields",
    "now_of",
    "parse_xml",
    "seconds",
]

T = TypeVar("T")

ANSWER_LIMIT = 64 << 20
"""Answers that are not data are smaller than this."""


def parse_xml(data: bytes) -> ET.Element:
    """The document the store answered, or `UnavailableError`."""
    try:
        return ET.fromstring(data)  # noqa: S314 - expat bounds entity expansion, and nothing external is fetched
    except ET.ParseError as error:
        raise UnavailableError(f"the store's answer is not the XML it should be: {error}") from error


def fields(element: ET.Element) -> dict[str, str]:
    """Text of the children by name, without namespaces."""
    return {child.tag.rpartition("}")[2]: child.text or "" for child in element}


@lru_cache(maxsize=256)
def seconds(text: str | None) -> float | None:
    """Whole seconds since the epoch from a time in a header (RFC 9110) or a listing (ISO 8601); `None` from neither."""
    if not text:
        return None
    try:
        when = datetime.fromisoformat(text) if text[0].isdigit() else parsedate_to_datetime(text)
        return float(int(when.timestamp()))
    except ValueError:
        return None


def now_of(headers: Mapping[str, str]) -> float:
    """The server's clock, if it tells it, else ours."""
    return seconds(headers.get("date")) or time.time()


def etag_of(headers: Mapping[str, str]) -> str | None:
    """The etag that headers tell, without its quotes."""
    return (headers.get("etag") or "").strip('"') or None


class Answer(NamedTuple):
    """What the store answered: names of `headers` in lower case; `data` is whole unless a stream was asked for."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    stream: http.Answer | None = None
    whole: bool = True
    """Whether `data` is; nothing was read of what is longer than it should be."""

    @property
    def etag(self) -> str | None:
        return etag_of(self.headers)


Raise = Callable[[Failure], RhError]
"""Turns a refusal into the error to raise."""


class Asked(NamedTuple):
    """One of many requests to a bucket: the arguments of `StoreWire.request`.

    `limit`: a longer answer is not read.
    """

    verb: str
    method: str
    key: str
    where: str
    error: Raise
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = {}
    body: Bytes = b""
    digest: str | None = None
    limit: int = ANSWER_LIMIT


class StoreWire(ABC):
    """Connections to one endpoint. Nothing is retried, no redirect is followed, no wait outlasts `timeout_s`."""

    def __init__(self, endpoint: str, *, system: str, timeout_s: float, ca_bundle: str | None = None) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidError(
                "an endpoint is an http or https URL", where=endpoint.rpartition("@")[2].partition("?")[0]
            )
        if parts.username or parts.password or parts.query:
            raise InvalidError(
                "an endpoint holds no secret", where=parts.hostname, hint="use a profile, a file or the environment"
            )
        # In lower case, as the host is sent: signatures cover it.
        self.scheme, self.netloc, self.base = parts.scheme, parts.netloc.lower(), parts.path.rstrip("/")
        self.endpoint = f"{self.scheme}://{self.netloc}{self.base}"
        self.system = system
        self.timeout_s = timeout_s
        self._ca_bundle = ca_bundle
        self._pools: dict[str, http.Pool] = {}

    def close(self) -> None:
        """Drop idle connections; requests under way go on."""
        for pool in list(self._pools.values()):
            pool.close()

    def _pool(self, base: str) -> http.Pool:
        pool = self._pools.get(base)
        if pool is None:
            made = http.Pool(http.parse_endpoint(base), self.timeout_s, ca_bundle=self._ca_bundle)
            pool = self._pools.setdefault(base, made)
        return pool

    def origin(self, bucket: str) -> str:  # noqa: ARG002 - S3 has buckets with a host of their own
        """Scheme and authority of the requests to a bucket."""
        return f"{self.scheme}://{self.netloc}"

    @abstractmethod
    def _signed(
        self,
        method: str,
        bucket: str,
        key: str | None,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        body: Bytes,
        digest: str | None,
    ) -> tuple[str, str, dict[str, str]]:
        """Scheme and authority, path and query as they are sent, and all headers but the host and the length."""

    def request(
        self,
        verb: str,
        method: str,
        bucket: str,
        key: str | None,
        *,
        where: str,
        error: Raise,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: Bytes = b"",
        digest: str | None = None,
        stream: bool = False,
        payload: bool = False,
        accept: tuple[int, ...] = (),
    ) -> Answer:
        """Send one request, once.

        Args:
            verb: what `observe.count` calls it.
            method: HTTP method.
            bucket: whose.
            key: full key, or `None` for the bucket itself.
            where: the place, for errors of the connection.
            error: turns a refusal into the error to raise.
            query: query parameters, not encoded.
            headers: further headers.
            body: bytes to send.
            digest: their SHA-256 as the signature wants it, where it is known and wanted.
            stream: hand the open response over in `Answer.stream` when the request succeeds.
            payload: whether the body is the user's bytes, for the count.
            accept: statuses besides 2xx that are an answer, not a failure.

        """
        base, target, sent = self._signed(method, bucket, key, query, headers or {}, body, digest)
        length = len(body)
        observe.count(self.system, verb, sent=length if payload else 0)
        answer = self._pool(base).request(method, target, sent, (body,) if length else (), where=where)
        status = answer.status
        ok = 200 <= status < 300
        if stream and ok:
            return Answer(status, answer.headers, b"", answer)
        content = answer.read(ANSWER_LIMIT)
        if not ok and status not in accept:
            raise asked_to_wait(error(failure_of(status, content, answer.headers)), answer.headers.get("retry-after"))
        return Answer(status, answer.headers, content)

    def request_many(
        self, bucket: str, requests: Iterator[tuple[T, Asked | RhError]], *, workers: int
    ) -> Iterator[tuple[T, Answer | RhError]]:
        """Send each of these once, so many at a time, from one thread; what they are, with their answers or errors.

        An answer that is longer than its limit has no `data`, and is not `whole`.
        """

        def call(asked: Asked) -> Call:
            verb, method, key, where, _, query, headers, body, digest, limit = asked
            _, target, sent = self._signed(method, bucket, key, query, headers, body, digest)
            observe.count(self.system, verb, sent=len(body))
            return Call(method, target, sent, body, where, limit)

        def calls() -> Iterator[tuple[tuple[T, Raise | None], Call | RhError]]:
            for tag, asked in requests:
                if isinstance(asked, RhError):
                    yield (tag, None), asked
                    continue
                try:
                    made: Call | RhError = call(asked)
                except RhError as error:
                    made = error
                yield (tag, asked.error), made

        for (tag, error), response in together(self._pool(self.origin(bucket)), calls(), workers=workers):
            if isinstance(response, RhError):
                yield tag, response
                continue
            status, told, data = response
            if 200 <= status < 300 or error is None:
                yield tag, Answer(status, told, data or b"", whole=data is not None)
            else:
                yield tag, asked_to_wait(error(failure_of(status, data or b"", told)), told.get("retry-after"))


class WireBody(Body):
    """An open response on its way out: of just the length that is wanted, where that is known, or an error."""

    def __init__(self, system: str, answer: http.Answer, entry: Entry, want: int | None, where: str) -> None:
        self.entry = entry
        self._system = system
        self._answer: http.Answer | None = answer
        self._want = want
        self._where = where
        self._taken = 0

    def __iter__(self) -> Iterator[Bytes]:
        answer, got = self._answer, 0
        if answer is None:
            raise InvalidError("a body can be read once", where=self._where)
        try:
            for piece in answer:
                got += len(piece)
                if self._want is not None and got > self._want:
                    break
                yield piece
        finally:
            observe.count(self._system, "read", requests=0, received=got)
            self.close()
        self._check(got)

    def _check(self, got: int) -> None:
        if self._want not in (None, got):
            raise IntegrityError(
                "the answer has the wrong length",
                where=self._where,
                expected=f"{self._want} bytes",
                got=f"{got} bytes",
            )

    def read(self) -> bytes:
        return http.gather(self)

    def readinto(self, buffer: memoryview) -> int:
        if self._answer is None:
            raise InvalidError("a body can be read once", where=self._where)
        count = self._answer.readinto(buffer)
        self._taken += count
        observe.count(self._system, "read", requests=0, received=count)
        if (not count and len(buffer)) or (self._want is not None and self._taken > self._want):
            self._check(self._taken)
        return count

    def close(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()


class Nothing(Body):
    """A body of no bytes."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    def __iter__(self) -> Iterator[Bytes]:
        return iter(())


def ca_bundle(settings: Mapping[str, Any]) -> str | None:
    """Where further certificates are, from the settings or the standard variables."""
    found = settings.get("ca_bundle") or os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE")
    return os.path.expanduser(str(found)) if found else None


def deadline_of(settings: Mapping[str, Any]) -> float:
    """Seconds any one wait may take."""
    try:
        value = float(settings.get("timeout_s") or 30.0)
    except (TypeError, ValueError) as error:
        raise InvalidError(f"timeout_s is not a number: {settings.get('timeout_s')!r}") from error
    if not value > 0:
        raise DeadlineError("timeout_s must be more than 0")
    return value
