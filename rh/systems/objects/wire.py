"""What the roads to S3 and Azure share: pooled connections on which each request is sent once, and its answer.

`rh.systems.s3.wire` and `rh.systems.azure.wire` say what the requests are and who signs them.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from rh import observe
from rh.errors import DeadlineError, IntegrityError, InvalidError, RhError, UnavailableError
from rh.systems.base import Body, Bytes
from rh.systems.objects import http
from rh.systems.objects.failures import Failure, failure_of
from rh.types import Entry

__all__ = ["Answer", "Nothing", "Raise", "StoreWire", "WireBody", "ca_bundle", "deadline_of", "fields", "parse_xml"]

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


class Answer(NamedTuple):
    """What the store answered: names of `headers` in lower case; `data` is whole unless a stream was asked for."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    stream: http.Answer | None = None

    @property
    def etag(self) -> str | None:
        etag = self.headers.get("etag")
        return etag.strip('"') if etag else None


Raise = Callable[[Failure], RhError]
"""Turns a refusal into the error to raise."""


class StoreWire:
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
        self.scheme, self.netloc, self.base = parts.scheme, parts.netloc, parts.path.rstrip("/")
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

    def send(
        self,
        verb: str,
        method: str,
        base: str,
        target: str,
        headers: dict[str, str],
        body: Bytes,
        *,
        where: str,
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
            headers: all of them but the host and the length, signed.
            body: bytes to send.
            where: the place, for errors of the connection.
            error: turns a refusal into the error to raise.
            stream: hand the open response over in `Answer.stream` when the request succeeds.
            payload: whether the body is the user's bytes, for the count.
            accept: statuses besides 2xx that are an answer, not a failure.

        """
        length = len(body)
        headers["user-agent"] = "rh"
        observe.count(self.system, verb, sent=length if payload else 0)
        answer = self._pool(base).request(method, target, headers, (body,) if length else (), where=where)
        status = answer.status
        ok = 200 <= status < 300
        if stream and ok:
            return Answer(status, answer.headers, b"", answer)
        content = answer.read(ANSWER_LIMIT)
        if not ok and status not in accept:
            raise error(failure_of(status, content, answer.headers))
        return Answer(status, answer.headers, content)


class WireBody(Body):
    """An open response on its way out: exact length, or an error."""

    def __init__(self, system: str, answer: http.Answer, entry: Entry, want: int, where: str) -> None:
        self.entry = entry
        self._system = system
        self._answer: http.Answer | None = answer
        self._want = want
        self._where = where

    def __iter__(self) -> Iterator[Bytes]:
        answer, got = self._answer, 0
        if answer is None:
            raise InvalidError("a body can be read once", where=self._where)
        try:
            for piece in answer:
                got += len(piece)
                if got > self._want:
                    break
                yield piece
        finally:
            observe.count(self._system, "read", requests=0, received=got)
            self.close()
        if got != self._want:
            raise IntegrityError(
                "the answer has the wrong length",
                where=self._where,
                expected=f"{self._want} bytes",
                got=f"{got} bytes" if got < self._want else "more",
            )

    def read(self) -> bytes:
        return http.gather(self)

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
