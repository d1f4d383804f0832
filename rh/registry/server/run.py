"""Serving: uvicorn over one listening socket, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import errno
import ipaddress
import os
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from rh import plugins
from rh.errors import InvalidError, UnavailableError
from rh.observe import log
from rh.registry.base import Registry
from rh.registry.server.app import App
from rh.registry.server.audit import Audit
from rh.registry.server.limits import Limits

__all__ = ["serve"]

BACKLOG = 1024
_HOST = "--host is an address of this machine: 127.0.0.1 for itself only, 0.0.0.0 for all it has"
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
    uvicorn = plugins.need("uvicorn", purpose="rh registry serve")
    limits = limits or Limits()
    if (tls_cert is None) is not (tls_key is None):
        raise InvalidError("a certificate needs its key, and the key its certificate", hint="--tls-cert and --tls-key")
    if tls_cert is not None and tls_key is not None:
        _check_certificate(os.fspath(tls_cert), os.fspath(tls_key))
    if audit is not None:
        audit.check()
    # Clients are not told out of a mirror or replica of ours, since rights may have changed where we cannot look; and
    # they hear soon that there is nothing to be had.
    registry = registry.direct.hurried()
    app = App(registry, limits=limits, audit=audit, public_url=public_url)
    config = uvicorn.Config(
        app,
        http="h11",  # httptools, which uvicorn would take where it is installed, keeps heads of any size
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
    config.load()
    config.http_protocol_class = _patient(config.http_protocol_class, limits)
    server = uvicorn.Server(config)
    with _listening(host, port, limits.unread_s) as listener, _signals(server):
        address, bound = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        if tls_cert is None and not (public_url or "").startswith("https://"):
            _warn_of_plain_http(address, f"{shown}:{bound}")
        ready(public_url or f"{'https' if tls_cert else 'http'}://{shown}:{bound}")
        server.run(sockets=[listener])
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


def _check_certificate(cert: str, key: str) -> None:
    """Refuse a certificate and a key that a server cannot use, and ask nobody for a passphrase."""
    for file in (cert, key):
        try:
            with open(file, "rb"):
                pass
        except OSError as error:
            raise InvalidError(f"it cannot be read: {error.strerror}", where=file) from error

    def passphrase() -> str:
        # A server starts where nobody can be asked, and one that lies beside the key would protect nothing.
        raise InvalidError(
            "the key has a passphrase",
            where=key,
            hint=f"take it off, in a file that only the server may read: (umask 077; openssl pkey -in {key} -out FILE)",
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, passphrase)
    except OSError as error:  # `ssl.SSLError` is one
        raise InvalidError(
            f"the certificate {cert} or its key cannot be used: {error}",
            where=key,
            hint="both are PEM files, and the key is that of the certificate: --tls-cert and --tls-key",
        ) from error


def _warn_of_plain_http(address: str, shown: str) -> None:
    if not ipaddress.ip_address(address).is_loopback:
        log.warning(
            "tokens would travel in the clear: other machines reach %s, and it is plain HTTP\n"
            "  fix: --tls-cert and --tls-key, or a proxy in front that ends TLS and --public-url https://…",
            shown,
        )


def _listening(host: str, port: int, unread_s: float) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # With the protocol said, asyncio sends small answers at once (TCP_NODELAY).
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise UnavailableError(f"nobody can listen at {host}: {error}", where=f"{host}:{port}", hint=_HOST) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Connections have it from here: who reads no further would hold a request and its answer for ever.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(unread_s * 1000))
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UnavailableError(
            f"nobody can listen at {host}:{port}: {error.strerror}",
            where=f"{host}:{port}",
            hint=_HOST if error.errno == errno.EADDRNOTAVAIL else "choose another --port",
        ) from error
    return listener


class _signals:  # noqa: N801 - reads as a verb
    """A signal to stop that comes before uvicorn listens to signals stops it as well.

    uvicorn sends itself again the signal that stopped it; here it has done its work by then.
    """

    def __init__(self, server: Any) -> None:
        self.server = server

    def __enter__(self) -> None:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._stop)

    def _stop(self, *_: object) -> None:
        self.server.should_exit = True

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
