"""Serving: uvicorn over one listening socket, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from rh import plugins
from rh.errors import InvalidError, UnavailableError
from rh.registry.base import Registry
from rh.registry.server.app import App
from rh.registry.server.audit import Audit
from rh.registry.server.limits import Limits

__all__ = ["serve"]

BACKLOG = 1024
_OTHER_FILES = 100
"""What a server opens beside connections."""


def serve(
    registry: Registry,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    public_url: str | None = None,
    audit: Audit | None = None,
    limits: Limits | None = None,
    ready: Callable[[str], None] = lambda _url: None,
) -> None:
    """Serve a registry until the process is told to stop; what is under way then ends first.

    Args:
        registry: any back-end.
        host: where to listen.
        port: where to listen; 0 takes a free one.
        tls_cert: PEM file of the certificate and its chain. Without it, it is plain HTTP.
        tls_key: PEM file of its key.
        public_url: where clients reach it, if that is not where it listens.
        audit: where changes are told.
        limits: what it bears.
        ready: called with its URL once it listens.

    Raises:
        UnavailableError: nobody can listen there.
        InvalidError: the certificate or key cannot be used, or the audit log cannot be written.
    """
    uvicorn = plugins.need("uvicorn", extra="server", purpose="rh registry serve")
    limits = limits or Limits()
    if (tls_cert is None) is not (tls_key is None):
        raise InvalidError("a certificate needs its key, and the key its certificate", hint="--tls-cert and --tls-key")
    if audit is not None:
        audit.check()
    # Clients are not told out of a mirror or replica of ours, since rights may have changed where we cannot look; and
    # they hear soon that there is nothing to be had.
    registry = registry.direct.hurried()
    app = App(registry, limits=limits, audit=audit, public_url=public_url)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        backlog=BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(limits.stop_s),
        h11_max_incomplete_event_size=1 << 16,
        ssl_certfile=None if tls_cert is None else os.fspath(tls_cert),
        ssl_keyfile=None if tls_key is None else os.fspath(tls_key),
    )
    try:
        config.load()
    except OSError as error:  # `ssl.SSLError` is one
        raise InvalidError(f"the certificate or its key cannot be used: {error}", where=str(tls_cert)) from error
    config.http_protocol_class = _patient(config.http_protocol_class, limits)
    with _listening(host, port) as listener, _signals():
        bound = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        ready(public_url or f"{'https' if tls_cert else 'http'}://{shown}:{bound}")
        uvicorn.Server(config).run(sockets=[listener])
    registry.close()


def _patient(protocol: Any, limits: Limits) -> Any:
    """Uvicorn's protocol, for connections that are not too many, and whose callers send the heads of requests in time.

    uvicorn itself waits for the head of a first request for ever.
    """
    most = max(16, min(limits.connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES))

    class Patient(protocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._check: Any = None
            if len(self.connections) > most:
                transport.close()
            else:
                self._check = self.loop.call_later(limits.header_s, self._checked, self.cycle)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._check is not None:
                self._check.cancel()
            super().connection_lost(exc)

        def _checked(self, cycle: Any) -> None:
            """Close it if no request has come whole since the last time, and none is under way."""
            if self.cycle is cycle and (cycle is None or cycle.response_complete):
                self.transport.close()
            else:
                self._check = self.loop.call_later(limits.header_s, self._checked, self.cycle)

    return Patient


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # With the protocol said, asyncio sends small answers at once (TCP_NODELAY).
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise UnavailableError(f"nobody can listen at {host}: {error}", where=f"{host}:{port}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UnavailableError(
            f"nobody can listen at {host}:{port}: {error.strerror}",
            where=f"{host}:{port}",
            hint="choose another --port",
        ) from error
    return listener


class _signals:  # noqa: N801 - reads as a verb
    """uvicorn sends itself again the signal that stopped it; here it has done its work by then."""

    def __enter__(self) -> None:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, lambda *_: None)

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
