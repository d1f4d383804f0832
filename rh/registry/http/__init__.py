"""A registry behind a server (`rh registry serve`), over HTTP.

One set of connections per server and process, whatever the number of handles; a forked child makes its own. Everything
that is asked may be asked twice (commits carry a token), so what fails for the moment is asked again until the
deadline. The token is looked up for each request and goes to that server only: redirects are not followed.
"""

from __future__ import annotations

import ipaddress
import itertools
import math
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlencode

from rh import config
from rh.errors import (
    AccessError,
    DeadlineError,
    IntegrityError,
    InvalidError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from rh.forks import Lock
from rh.observe import count, log
from rh.registry.base import (
    OUT_OF_REACH,
    Change,
    Record,
    Registry,
    Rename,
    Step,
    UnconnectedError,
    check_steps,
    new_token,
    unreachable,
)
from rh.registry.filters import Filter
from rh.registry.http import logins
from rh.registry.http.accounts import RemoteAccounts
from rh.registry.http.wire import (
    PROTOCOL,
    PROTOCOL_HEADER,
    change_of,
    encode,
    error_of,
    plain_step,
    read_json,
    record_of,
)
from rh.systems.objects.http import Answer, Endpoint, Pool, parse_endpoint

__all__ = ["ALLOW_HTTP", "HTTPRegistry", "RemoteAccounts"]

T = TypeVar("T")

ALLOW_HTTP = "RH_REGISTRY_ALLOW_HTTP"
CA_BUNDLE = "RH_CA_BUNDLE"
_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0
_REFUSED_S = 5.0
"""How long a read is tried again where nothing listens: a server that restarts is back by then."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NOT_YET, _EXPIRED, _OTHER_NAME = 9, 10, (62, 64)
"""What OpenSSL says against a certificate (X509_V_ERR_…): its time, or that it is for another host or address."""
_BATCH = 2 << 20
"""Bytes of one request of `replay`, unless one commit has more."""

_lock = Lock()
_pools: dict[tuple[str, float, str | None], Pool] = {}
_connect_s: ContextVar[float | None] = ContextVar("rh_registry_connect_s", default=None)
"""How long the request of this moment may wait for its connection, if that is less than the deadline."""


class _TooLateError(OSError):
    """No connection came about in the time there was for it."""


class _Direct(Pool):
    """To this machine itself no proxy leads, and connecting may have less time than answering."""

    def __init__(self, endpoint: Endpoint, timeout_s: float, *, ca_bundle: str | None = None) -> None:
        super().__init__(endpoint, timeout_s, ca_bundle=ca_bundle)
        if _is_loopback(endpoint.host):
            self._proxy, self._target = None, endpoint.base
            self._lines = f"Host: {endpoint.authority}\r\n"

    def _dial(self, host: str, port: int) -> socket.socket:
        within = _connect_s.get()
        if within is None or within >= self.timeout_s:
            return super()._dial(host, port)
        try:
            sock = socket.create_connection((host, port), within)
        except TimeoutError:
            raise _TooLateError(f"nothing answers within {within:g} s") from None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(self.timeout_s)
        return sock


class HTTPRegistry(Registry):
    """The registry at `url`, as far as our token goes there.

    Args:
        url: `https://host[:port][/base]`; `http://` for this machine itself.
        timeout_s: deadline of every call, in seconds; by default the setting.

    Raises:
        InvalidError: it is no such URL, or plain HTTP to another machine.
    """

    distant: ClassVar[bool] = True

    def __init__(self, url: str, *, timeout_s: float | None = None) -> None:
        self._endpoint = parse_endpoint(url)
        self.url = self._endpoint.url
        self._timeout_s = timeout_s
        if (
            self._endpoint.scheme == "http"
            and not _is_loopback(self._endpoint.host)
            and os.environ.get(ALLOW_HTTP, "").lower() not in ("1", "true", "yes")
        ):
            raise InvalidError(
                "over plain http everybody on the way can read the token",
                where=self.url,
                hint=f"https://{self._endpoint.authority}; in a network you trust: export {ALLOW_HTTP}=1",
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url,)

    # The contract.

    def get(self, key: str) -> Record:
        return self.understood(partial(_record, key), self.ask("get", "GET", "/v1/record", {"key": key}))

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Record]:
        while True:
            page = self.ask("list", "GET", "/v1/records", {"prefix": prefix, "after": after})
            records, more = self.understood(partial(_page, prefix, after), page)
            yield from records
            if more is None:
                return
            after = more

    def search(
        self, where: Filter, prefix: str = "", *, after: str = "", as_of: float | None = None
    ) -> Iterator[Record]:
        asked: dict[str, Any] = {"where": where.as_dict(), "prefix": prefix, "as_of": as_of}
        while True:
            page = self.ask("search", "POST", "/v1/search", body=asked | {"after": after})
            records, more = self.understood(partial(_page, prefix, after), page)
            yield from records
            if more is None:
                return
            after = more

    def history(self, key: str, *, after: int = 0) -> Iterator[Change]:
        while True:
            page = self.ask("history", "GET", "/v1/history", {"key": key, "after": str(after)})
            changes = self.understood(partial(_history, key, after), page)
            yield from changes
            if not page.get("more"):
                return
            if not changes:
                raise self._odd()
            after = changes[-1].revision

    def commit(
        self,
        steps: Sequence[Step],
        *,
        by: str | None = None,  # noqa: ARG002 - as in the contract
        token: str | None = None,
    ) -> Sequence[Change]:
        """As in the contract; but the author is whose token we have, whatever `by` says."""
        check_steps(steps, self.url)
        body = {"steps": [plain_step(step) for step in steps], "token": token or new_token()}
        changes = self.understood(_changes, self.ask("commit", "POST", "/v1/commit", body=body))
        keys = [key for step in steps for key in ((step.key, step.to) if isinstance(step, Rename) else (step.key,))]
        if [change.key for change in changes] != keys:
            raise self._odd()
        return changes

    def changes(self, prefix: str = "") -> Iterator[Change]:
        for number, line in enumerate(self._lines("changes", "/v1/changes", {"prefix": prefix})):
            told = self._json(line)
            if "end" in told:
                if told["end"] == number:
                    return
                break
            if "error" in told:
                raise self.understood(lambda told: error_of(told["error"], 500, self.url), told)
            yield self.understood(change_of, told)
        raise IntegrityError("the answer of the registry is not whole", where=self.url)

    def replay(self, changes: Iterable[Change]) -> int:
        new, size = 0, 0
        batch: list[bytes] = []
        token: str | None = None
        for change in changes:
            if size >= _BATCH and change.token != token:
                new += self._replay(batch)
                batch, size = [], 0
            batch.append(encode(change._asdict()))
            size += len(batch[-1])
            token = change.token
        return new + (self._replay(batch) if batch else 0)

    def _replay(self, batch: Sequence[bytes]) -> int:
        body = b'{"changes":[' + b",".join(batch) + b"]}"
        return self.understood(lambda told: int(told["new"]), self.ask("replay", "POST", "/v1/replay", body=body))

    def close(self) -> None:
        with _lock:
            pools = [pool for (url, _, _), pool in _pools.items() if url == self.url]
        for pool in pools:
            pool.close()

    # Requests.

    def whoami(self, token: str | None = None) -> dict[str, Any]:
        """`user` and `admin` of a token; by default of ours."""
        told = self.ask("me", "GET", "/v1/me", token=token)
        if not isinstance(told.get("user"), str) or not isinstance(told.get("admin"), bool):
            raise self._odd()
        return told

    def understood(self, read: Callable[[dict[str, Any]], T], told: dict[str, Any]) -> T:
        """What `read` makes of an answer.

        Raises:
            IntegrityError: the answer is not one to what was asked.
        """
        try:
            return read(told)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # `InvalidError` is a `ValueError`
            raise self._odd() from error

    def _odd(self) -> IntegrityError:
        return IntegrityError(
            "the registry answered something else than what it was asked",
            where=self.url,
            hint="check the URL, and what stands between here and the server",
        )

    def ask(
        self,
        verb: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Any = None,
        token: str | None = None,
    ) -> dict[str, Any]:
        """The JSON that one endpoint answers.

        Args:
            verb: what is asked, for counts.
            method: of the endpoint.
            path: of the endpoint.
            query: its parameters.
            body: JSON to send, or its bytes.
            token: to use instead of the one we have.
        """
        sent = b"" if body is None else body if isinstance(body, bytes) else encode(body)
        timeout_s = self._deadline_s()
        until = time.monotonic() + timeout_s

        def once(left: float) -> dict[str, Any]:
            answer = self._send(verb, method, path, query, sent, token, left)
            text = bytearray()
            for piece in answer:
                text += piece
                if time.monotonic() > until:
                    answer.close()
                    raise DeadlineError(f"no whole answer within {timeout_s:g} s", where=self.url)
            return self._json(bytes(text))

        return self._persist(once, until, patient=method != "GET" and verb != "search")

    def _lines(self, verb: str, path: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """The lines of a long answer. It may take longer than the deadline, each wait for more of it may not."""
        until = time.monotonic() + self._deadline_s()
        answer = self._persist(lambda left: self._send(verb, "GET", path, query, b"", None, left), until)
        rest = b""
        try:
            for piece in answer:
                *lines, rest = (rest + piece).split(b"\n")
                yield from lines
        finally:
            answer.close()
        if rest:
            yield rest

    def _persist(self, once: Callable[[float], T], until: float, *, patient: bool = False) -> T:
        """Ask until there is an answer, or an error that stays, or no time.

        Args:
            once: asks once, given the seconds that are left.
            until: when to give up (monotonic).
            patient: until then also where nobody answers, or the server says so of what is behind it; else `_REFUSED_S`
                is enough of that, or `connect_s`.
        """
        wait, refused = _WAIT_S, 0.0
        enough = _REFUSED_S if self.connect_s is None else min(self.connect_s, _REFUSED_S)
        while True:
            begun = time.monotonic()
            limit = _connect_s.set(None if patient else self.connect_s)
            try:
                return once(max(until - begun, 0.1))
            except RhError as error:
                left = until - time.monotonic()
                if not isinstance(error, UnconnectedError):
                    refused = 0.0
                elif not patient:
                    refused = refused or begun
                    left = min(left, refused + enough - time.monotonic())
                pause = max(error.wait_s or 0.0, wait * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
                if not error.retryable or isinstance(error, DeadlineError) or pause >= left:
                    if isinstance(error, UnavailableError | DeadlineError):
                        unreachable(error)
                    raise
                log.debug("%s: %s; trying again", self.url, error.message)
            finally:
                _connect_s.reset(limit)
            time.sleep(pause)
            wait = min(wait * 2, _LONGEST_WAIT_S)

    def _send(
        self,
        verb: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes,
        token: str | None,
        left: float,
    ) -> Answer:
        """One request; its answer if that is a good one."""
        if query:
            try:
                path = f"{path}?{urlencode({key: value for key, value in query.items() if value})}"
            except UnicodeEncodeError as error:
                raise InvalidError("a key is valid Unicode", where=self.url) from error
        headers = {"User-Agent": "rh", "Accept": "application/json"}
        if body:
            headers["Content-Type"] = "application/json"
        token = token or logins.token_of(self.url)
        if token is not None:
            if not token.isascii() or not token.isprintable() or " " in token:
                raise UnauthenticatedError("what is stored as the token is none", where=self.url, hint=self._login())
            headers["Authorization"] = f"Bearer {token}"
        count("registry", verb, sent=len(body))
        try:
            answer = self._pool(left).request(method, path, headers, [body] if body else (), where=self.url)
        except AccessError as error:  # the certificate
            error.hint = self._certified(error.__context__)
            raise
        except UnavailableError as error:
            nobody = isinstance(error.__context__, ConnectionRefusedError | _TooLateError)
            raise (UnconnectedError if nobody else UnavailableError)(
                f"{OUT_OF_REACH}: {error.message}", where=self.url, hint="check that its server runs"
            ) from None
        self._check(answer)
        return answer

    def _certified(self, refusal: BaseException | None) -> str:
        """What makes a certificate that was refused a good one."""
        code = getattr(refusal, "verify_code", 0)
        if code in _OTHER_NAME:
            return (
                f"use the name that the certificate is for: rh login https://NAME; or whoever runs the server gets one"
                f" for {self._endpoint.host}"
            )
        if code == _EXPIRED:
            return "whoever runs the server renews the certificate and starts it again; or the clock here is wrong"
        if code == _NOT_YET:
            return "set the clock of this machine; if that is right, whoever runs the server has a wrong certificate"
        return f"name the authority's certificates in {CA_BUNDLE} or SSL_CERT_FILE"

    def _check(self, answer: Answer) -> None:
        """Raise the error that an answer tells."""
        protocol = answer.headers.get(PROTOCOL_HEADER, "")
        if 300 <= answer.status < 400:
            answer.close()
            raise InvalidError(
                "the registry is elsewhere now, and tokens do not follow redirects",
                where=self.url,
                hint="ask who runs it for its new URL, then: rh login URL",
            )
        if not protocol.isascii() or not protocol.isdigit() or len(protocol) > 9:
            answer.close()
            if answer.status >= 500:
                raise UnavailableError(f"the registry answered {answer.status}", where=self.url)
            raise InvalidError(
                f"what answers ({answer.status}) is no registry of rh", where=self.url, hint="check the URL"
            )
        if int(protocol) > PROTOCOL:
            answer.close()
            raise UnsupportedError(
                f"the registry speaks protocol {protocol}; this version of rh knows those up to {PROTOCOL}",
                where=self.url,
                hint="upgrade rh-data",
            )
        if answer.status < 300:
            return
        found = self._json(answer.read(1 << 20)).get("error")
        told = found if isinstance(found, dict) else {}
        error = error_of(told, answer.status, self.url)
        if told.get("behind") and isinstance(error, UnavailableError):
            error = UnconnectedError(error.message, where=error.where, hint=error.hint)
        if isinstance(error, UnauthenticatedError):
            error.hint = self._login()
        request = answer.headers.get("x-request-id", "")
        if _REQUEST_ID.fullmatch(request):
            error.add_note(f"request {request}, in the logs of {self.url}")
        with suppress(ValueError):
            wait_s = float(answer.headers.get("retry-after", "0"))
            error.wait_s = wait_s if math.isfinite(wait_s) else 0.0
        raise error

    def _login(self) -> str:
        given = bool(os.environ.get(logins.VARIABLE))
        if given and logins.is_configured(self.url):
            return f"{logins.VARIABLE} is what was sent: give it another token, or unset it to use that of `rh login`"
        if given:
            return f"rh login {self.url}; {logins.VARIABLE} goes only to the registry that RH_REGISTRY names"
        return f"rh login {self.url}"

    def _json(self, text: bytes) -> dict[str, Any]:
        try:
            return read_json(text)
        except ValueError as error:
            raise IntegrityError(f"the answer of the registry is damaged: {error}", where=self.url) from error

    def _deadline_s(self) -> float:
        return self._timeout_s if self._timeout_s is not None else float(config.get("timeout_s"))

    def _pool(self, left: float) -> Pool:
        bundle = os.environ.get(CA_BUNDLE) or None
        timeout_s = self._deadline_s()
        if left < timeout_s * 0.9:  # a last try must not take longer than there is time
            return _Direct(self._endpoint, left, ca_bundle=bundle)
        key = (self.url, timeout_s, bundle)
        with _lock:
            pool = _pools.get(key)
            if pool is None:
                pool = _pools[key] = _Direct(self._endpoint, timeout_s, ca_bundle=bundle)
        return pool


# What a proxy kept of another question looks like an answer to this one.


def _record(key: str, told: Mapping[str, Any]) -> Record:
    """The record under a key."""
    record = record_of(told)
    if record.key != key:
        raise InvalidError("the record of another key")
    return record


def _page(prefix: str, after: str, told: Mapping[str, Any]) -> tuple[list[Record], str | None]:
    """The records of one page, and the key after which the next one goes on."""
    records, more = [record_of(one) for one in _many(told["records"])], told["next"]
    keys = [after, *(record.key for record in records)]
    if not _ascending(keys) or not all(key.startswith(prefix) for key in keys[1:]):
        raise InvalidError("other records, or not in order")
    if more is not None and not (isinstance(more, str) and more > after):
        raise InvalidError("the next page is not a later one")
    return records, more


def _history(key: str, after: int, told: Mapping[str, Any]) -> list[Change]:
    """The changes of one key after a revision."""
    changes = _changes(told)
    if not _ascending([after, *(change.revision for change in changes)]) or any(one.key != key for one in changes):
        raise InvalidError("changes of another key, or not in order")
    return changes


def _ascending(values: Sequence[Any]) -> bool:
    return all(one < other for one, other in itertools.pairwise(values))


def _changes(told: Mapping[str, Any]) -> list[Change]:
    return [change_of(one) for one in _many(told["changes"])]


def _many(told: Any) -> list[Any]:
    if not isinstance(told, list):
        raise InvalidError("not an array")
    return told


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
