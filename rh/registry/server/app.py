"""The server as an ASGI application: HTTP on the outside, the functions of `endpoints` in threads inside.

Every answer carries the number of the protocol and the id of its request. Errors are told as kind, message and fix;
what went wrong behind the server is in its log, under the id of the request, and nowhere else.
"""

from __future__ import annotations

import asyncio
import functools
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rh import plugins
from rh.errors import (
    AccessError,
    DeadlineError,
    FullError,
    InvalidError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
)
from rh.observe import log
from rh.registry.accounts import Credential
from rh.registry.base import NewerError, Registry
from rh.registry.http.wire import PROTOCOL, PROTOCOL_HEADER, STATUS, encode, read_json
from rh.registry.server.accounts import FRESH_S, StoredAccounts
from rh.registry.server.audit import Audit
from rh.registry.server.endpoints import ENDPOINTS, Call, Endpoint, Raw, Service
from rh.registry.server.limits import Buckets, Limits
from rh.registry.server.metrics import Metrics
from rh.registry.server.openapi import describe
from rh.registry.server.rights import Caller, Rights

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["App"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_TOLD = frozenset(
    {"invalid", "name_clash", "unauthenticated", "access", "not_found", "exists", "conflict", "immutable_version"}
)
"""Kinds of errors that are about what was asked, not about what is behind the server."""
_INNER: Mapping[type[RhError], str] = {
    UnavailableError: "the registry behind the server cannot be reached",
    DeadlineError: "the registry behind the server did not answer in time",
    AccessError: "the registry behind the server does not let the server in",
    NotFoundError: "the registry behind the server is gone",
    FullError: "the registry behind the server is full",
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LINES = 1 << 16


@dataclass(slots=True)
class _State:
    """What is known of a request under way."""

    request: str
    client: str
    begun: float = field(default_factory=time.monotonic)
    endpoint: str = "other"
    user: str | None = None
    credential: str | None = None
    keys: tuple[str, ...] = ()
    audited: bool = False
    status: int = 0


class _TooLargeError(InvalidError):
    """The body of a request is over the limit."""


class _RateError(UnavailableError):
    """Somebody asks too much."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message, hint="wait as long as Retry-After says")
        self.wait_s = wait_s


class App:
    """An ASGI application over `registry`.

    Args:
        registry: any back-end.
        limits: what the server bears.
        audit: where changes are told.
        public_url: where clients reach it, for the description of the API.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        limits: Limits | None = None,
        audit: Audit | None = None,
        public_url: str | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.metrics = Metrics()
        self.audit = audit
        self.public_url = public_url
        accounts = StoredAccounts(registry, by="server")
        self.service = Service(registry, accounts, Rights(registry), self.limits)
        self._rate = Buckets(self.limits.rate, self.limits.burst)
        self._strangers = Buckets(self.limits.refused_rate, self.limits.refused_burst)
        self._threads: Any = None
        self._stranger_threads: Any = None
        starlette = plugins.need("starlette.applications", purpose="rh registry serve")
        routing = plugins.need("starlette.routing")
        routes = [
            routing.Route(endpoint.path, functools.partial(self._serve, endpoint), methods=[endpoint.method])
            for endpoint in ENDPOINTS
        ]
        routes += [
            routing.Route("/health", self._health),
            routing.Route("/ready", self._ready),
            routing.Route("/metrics", self._metrics),
            routing.Route("/openapi.json", self._openapi),
        ]
        exceptions = plugins.need("starlette.exceptions")
        self._app = starlette.Starlette(routes=routes, exception_handlers={exceptions.HTTPException: self._no_route})
        self._app.router.redirect_slashes = False

    # Around every request.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, with its id, its limits and its line in the metrics."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        asked = headers.get(b"x-request-id", b"").decode("latin-1")
        client = scope.get("client")
        state = _State(asked if _REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex, client[0] if client else "")
        scope["state"] = {**scope.get("state", {}), "rh": state}

        async def told(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                state.status = message["status"]
                self._note(state)  # before anybody hears of it
                message["headers"] = [
                    *message.get("headers", ()),
                    (PROTOCOL_HEADER.encode(), str(PROTOCOL).encode()),
                    (b"x-request-id", state.request.encode()),
                    (b"cache-control", b"no-store"),
                ]
            await send(message)

        self.metrics.under_way += 1
        try:
            if self.metrics.under_way > self.limits.concurrent:
                self.metrics.refuse("busy")
                await self._error(state, _RateError("the server is busy", 1.0), 503)(scope, receive, told)
            else:
                await self._app(scope, receive, told)
        finally:
            self.metrics.under_way -= 1
            self.metrics.add(state.endpoint, state.status, time.monotonic() - state.begun)
            if not state.status:
                self._note(state)  # whoever asked has gone

    def _note(self, state: _State) -> None:
        if self.audit is not None and (state.audited or state.status in (401, 403)):
            self.audit.write(
                request=state.request,
                user=state.user,
                credential=state.credential,
                client=state.client,
                action=state.endpoint,
                status=state.status,
                keys=state.keys,
            )

    # One endpoint.

    async def _serve(self, endpoint: Endpoint, request: Request) -> Response:
        state: _State = request.state.rh
        state.endpoint, state.audited = endpoint.name, endpoint.audited
        try:
            caller = await self._caller(request, state)
            if caller.user is None and not (endpoint.access == "public" and caller.snapshot.has_public):
                raise UnauthenticatedError("this needs a token")
            if endpoint.access == "admin" and not caller.is_admin:
                raise AccessError(f"{caller.user} is no admin of this registry, and this is for admins")
            body = await self._body(request, endpoint) if endpoint.method in ("POST", "PUT") else b""
            call = Call(self.service, caller, state.credential, request.path_params, dict(request.query_params), {})
            answer: Response = await self._thread(
                functools.partial(self._work, endpoint, call, body, state), stranger=caller.user is None
            )
            return answer
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer and the log the rest
            return self._failed(state, error)

    def _work(self, endpoint: Endpoint, call: Call, body: bytes, state: _State) -> Response:
        """In a thread."""
        if body:
            try:
                call.body = read_json(body)
            except ValueError as error:
                raise InvalidError(f"the body is not a JSON object: {error}") from None
        try:
            answer = endpoint.work(call)
            if endpoint.changes_people:
                self.service.accounts.now(at_once=True)  # from now on requests are judged by it
        finally:
            state.keys = call.keys
        if isinstance(answer, Iterator):
            streaming = plugins.need("starlette.responses").StreamingResponse
            streamed: Response = streaming(self._lines(answer, state), media_type="application/x-ndjson")
            return streamed
        return _response(answer if isinstance(answer, Raw) else encode(answer))

    async def _lines(self, lines: Iterator[bytes], state: _State) -> AsyncIterator[bytes]:
        """Lines as they come, many at once. An error in the middle is the last line."""

        def some() -> tuple[bytes, bool]:
            block = bytearray()
            try:
                for line in lines:
                    block += line + b"\n"
                    if len(block) >= _LINES:
                        return bytes(block), True
            except Exception as error:  # noqa: BLE001 - the status is sent already: the last line tells
                block += encode(self._told(state, error)[0]) + b"\n"
            return bytes(block), False

        more = True
        while more:
            block, more = await self._thread(some)
            yield block

    async def _thread(self, work: Callable[[], Any], *, stranger: bool = False) -> Any:
        """What `work` returns. Callers without a token get few threads, so that they keep nobody from theirs."""
        to_thread = plugins.need("anyio.to_thread")
        if self._threads is None:
            limiter = plugins.need("anyio").CapacityLimiter
            self._threads, self._stranger_threads = limiter(self.limits.threads), limiter(self.limits.stranger_threads)
        if stranger and self._stranger_threads.statistics().tasks_waiting >= self.limits.strangers:
            self.metrics.refuse("busy")
            raise _RateError("too many requests without a token", 1.0)
        limiter = self._stranger_threads if stranger else self._threads
        try:
            async with asyncio.timeout(self.limits.answer_s):
                return await to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)
        except TimeoutError as error:
            if isinstance(error, RhError):
                raise
            where = self.service.registry.url
            raise DeadlineError(f"no answer within {self.limits.answer_s:g} s", where=where) from None

    async def _caller(self, request: Request, state: _State) -> Caller:
        """Who asks. A token that is given must be good, also for what is public."""
        accounts = self.service.accounts
        asked = time.monotonic()
        header = request.headers.get("authorization")
        if header is None:
            self._limit(self._strangers, f"at {state.client}", "rate")
            snapshot = accounts.now() if accounts.fresh() else await self._thread(accounts.now)
            return Caller(None, snapshot, asked - FRESH_S)  # nothing is looked up anew because a stranger asks
        scheme, _, token = header.partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        snapshot = accounts.now() if accounts.fresh() else await self._thread(accounts.now)
        known = accounts.knows(token, snapshot)
        if not known:  # it may be a moment old; but the registry is not asked about all that somebody makes up
            self._limit(self._strangers, f"at {state.client}", "rate")
        check = functools.partial(accounts.check_token, token)
        try:
            found: Credential = check() if known and accounts.fresh() else await self._thread(check)
        except UnauthenticatedError:
            self.metrics.refuse("token")
            if known:
                self._limit(self._strangers, f"at {state.client}", "rate")
            raise
        state.user, state.credential = found.user, found.id
        self._limit(self._rate, found.id, "rate")
        if accounts.wants_note(found):
            await self._thread(functools.partial(accounts.note_use, found))
        snapshot = accounts.now() if accounts.fresh() else await self._thread(accounts.now)
        return Caller(found.user, snapshot, asked)

    def _limit(self, buckets: Buckets, who: str, reason: str) -> None:
        wait_s = buckets.take(who)
        if wait_s:
            self.metrics.refuse(reason)
            raise _RateError("too many requests", wait_s)

    async def _body(self, request: Request, endpoint: Endpoint) -> bytes:
        limit = self.limits.body_bytes * (16 if endpoint.access == "admin" else 1)
        body, size = bytearray(), 0
        try:
            async with asyncio.timeout(self.limits.body_s):
                async for piece in request.stream():
                    size += len(piece)
                    if size <= limit:
                        body += piece
                    elif size > 16 * limit:
                        break  # a client that is still sending cannot hear that it is too much; there is an end to it
        except TimeoutError:
            raise InvalidError(f"the request did not arrive within {self.limits.body_s:g} s") from None
        if size > limit:
            self.metrics.refuse("body")
            raise _TooLargeError(f"the request is larger than {limit:,} bytes", hint="make it several smaller commits")
        return bytes(body)

    # Answers.

    def _failed(self, state: _State, error: Exception) -> Response:
        status = 413 if isinstance(error, _TooLargeError) else 429 if isinstance(error, _RateError) else None
        return self._error(state, error, status)

    def _error(self, state: _State, error: Exception, status: int | None = None) -> Response:
        told, usual = self._told(state, error)
        headers = {}
        if isinstance(error, _RateError):
            headers["retry-after"] = f"{error.wait_s:.3f}"
        elif usual == 401:
            headers["www-authenticate"] = 'Bearer realm="rh"'
        return _response(encode(told), status or usual, headers)

    def _told(self, state: _State, error: Exception) -> tuple[dict[str, Any], int]:
        """What a caller is told of an error, and its status.

        `behind` says that nothing can be had of the registry behind the server for the moment, and that it was tried.
        """
        kind = error.kind if isinstance(error, RhError) else "error"
        behind = False
        if isinstance(error, RhError) and not _is_of_the_registry(state, error):
            message, hint = error.message, error.hint
        else:
            # Names of hosts, files and accounts behind the server are nobody's business.
            log.error("request %s (%s): %s", state.request, state.endpoint, error, exc_info=error)
            inner = (text for found, text in _INNER.items() if isinstance(error, found))
            message = next(inner, "the registry behind the server failed")
            hint = f"its log tells more of request {state.request}"
            behind = isinstance(error, UnavailableError | DeadlineError | AccessError | NotFoundError)
            if isinstance(error, NewerError):
                message = "the registry behind the server is of a newer rh than the server"
                hint = "whoever runs the server upgrades rh-data there and starts it again"
            if isinstance(error, AccessError | NotFoundError):
                kind = UnavailableError.kind  # it is not the caller who has no right, or the name that is not there
        told = {"kind": kind, "message": message, "hint": hint, "request": state.request, "behind": behind}
        return {"error": told}, STATUS.get(kind, 500)

    async def _no_route(self, request: Request, error: Any) -> Response:
        state: _State = request.state.rh
        if error.status_code == 405:
            return self._error(state, InvalidError("that is not done here with this method"), 405)
        return self._error(state, NotFoundError("there is nothing at this path", hint="/openapi.json"), 404)

    async def _health(self, request: Request) -> Response:
        request.state.rh.endpoint = "health"
        return _response(b'{"healthy":true}')

    async def _ready(self, request: Request) -> Response:
        state: _State = request.state.rh
        state.endpoint = "ready"
        try:
            await self._thread(self.service.accounts.now)
        except Exception as error:  # noqa: BLE001 - that is the answer
            return self._error(state, error, 503)
        if self.audit is not None and self.audit.failing:  # it serves all the same; those who watch it are told
            return _response(b'{"ready":true,"audit":"cannot be written"}')
        return _response(b'{"ready":true}')

    async def _metrics(self, request: Request) -> Response:
        return await self._told_to(
            request, "metrics", lambda: self.metrics.text(self.audit).encode(), "text/plain", admin=True
        )

    async def _openapi(self, request: Request) -> Response:
        return await self._told_to(
            request, "openapi", lambda: encode(describe(self.public_url)), "application/json", admin=False
        )

    async def _told_to(
        self, request: Request, name: str, made: Callable[[], bytes], media: str, *, admin: bool
    ) -> Response:
        state: _State = request.state.rh
        state.endpoint = name
        try:
            caller = await self._caller(request, state)
            if caller.user is None:
                raise UnauthenticatedError("this needs a token")
            if admin and not caller.is_admin:
                raise AccessError("this is for admins")
        except Exception as error:  # noqa: BLE001 - as in `_serve`
            return self._failed(state, error)
        return _response(made(), media=media)


def _is_of_the_registry(state: _State, error: RhError) -> bool:
    """Whether an error is about the registry behind the server, and not about what was asked."""
    if error.kind not in _TOLD:
        return not isinstance(error, _RateError)
    # What is made here has no place. A registry names the key that is not there, or says that it is gone itself.
    if isinstance(error, NotFoundError):
        return error.where is not None and not any(repr(key) in error.message for key in state.keys)
    return error.where is not None and isinstance(error, AccessError)


def _response(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None, *, media: str = "application/json"
) -> Response:
    made: Response = plugins.need("starlette.responses").Response(body, status, headers, media_type=media)
    return made
