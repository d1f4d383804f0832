"""HTTP/1.1 over pooled connections, for one server and many threads: one request is one attempt.

For a request of 4 KiB the standard library's client spends 170 µs of processor time, urllib3 330 and obstore 150, and
the threads of one interpreter share one processor: that is the ceiling of small files. This one spends 100, by speaking
only what object stores need (`rh.systems.far.http1`). TLS, certificates and name resolution are the standard library's.
"""

from __future__ import annotations

import base64
import encodings.idna  # noqa: F401 - `getaddrinfo` imports it: a child forked halfway would wait for that for ever
import io
import os
import re
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from rh import plugins
from rh.errors import AccessError, DeadlineError, IntegrityError, InvalidError, RhError, UnavailableError
from rh.forks import Lock
from rh.systems.base import Bytes
from rh.systems.far.http1 import HEAD_LIMIT, Ended, Line, Malformed, Reply, request_of

__all__ = ["Answer", "Endpoint", "Pool", "gather", "parse_endpoint"]

KEEP = 64
"""Idle connections kept."""
IDLE_S = 15.0
"""How long they are kept: servers close them after some 20 seconds, and nobody would notice."""
ANSWER_LIMIT = 64 << 20
"""No answer that is read whole into memory without its length being known beforehand is larger than this."""
PER_ADDRESS_S = 10.0
"""How long one address of a name may take to connect before the next is tried."""


class Endpoint(NamedTuple):
    """Where an API is served; `base` is a path in front of the API's own."""

    scheme: str
    host: str
    port: int
    base: str

    @property
    def address(self) -> str:
        """Host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """Host, and port where it is not the scheme's own."""
        return self.address.removesuffix(":443" if self.scheme == "https" else ":80")

    @property
    def url(self) -> str:
        """The endpoint as a URL without a trailing slash."""
        return f"{self.scheme}://{self.authority}{self.base}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine, so that nobody on the way can read what is sent."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def parse_endpoint(text: str) -> Endpoint:
    """Read `https://host[:port][/base]`; without a scheme it is http, as emulators' variables are written."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
        (parts.hostname or "").encode("idna")  # as connecting does
    except ValueError as error:
        raise InvalidError(f"the endpoint is no address: {error}", where=text.rpartition("@")[2]) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidError("an endpoint is http(s)://host[:port]", where=parts.hostname or text)
    if parts.username or parts.password:
        raise InvalidError("an endpoint holds no user and password", where=parts.hostname)
    return Endpoint(
        parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/")
    )


class _Proxy(NamedTuple):
    """Who connects for us; `login` is a header line or nothing."""

    host: str
    port: int
    login: str

    def __repr__(self) -> str:
        return f"<proxy {self.host}:{self.port}>"

    @classmethod
    def read(cls, text: str) -> _Proxy:
        """What `http_proxy` and its like say."""
        parts = urlsplit(text if "://" in text else f"http://{text}")
        if parts.scheme != "http" or not parts.hostname:
            raise InvalidError(f"a proxy of the kind {parts.scheme}:// cannot be used", where=parts.hostname)
        login = ""
        if parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            login = f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}\r\n"
        return cls(parts.hostname, parts.port or 80, login)


class Answer:
    """What came back: status and headers now, the body once, by `read()`, by iterating, or into buffers."""

    __slots__ = ("_pool", "_reply", "_where", "headers", "length", "status")

    def __init__(self, pool: Pool, line: Line, where: str, *, method: str) -> None:
        self._pool: Pool = pool
        self._where = where
        reply = Reply(line, method)
        self._reply: Reply | None = reply
        self.status, self.headers, self.length = reply.status, reply.headers, reply.length
        if self.length == 0:
            self._done()

    def __iter__(self) -> Iterator[bytes]:
        if self._reply is None:
            return
        try:
            yield from self._reply.pieces
        except (OSError, Malformed, Ended) as error:
            self.close()
            raise self._pool.failure(error, self._where, begun=True) from None
        self._done()

    def read(self, limit: int | None = None) -> bytes:
        """The whole body; of at most `limit` bytes if given (for answers that are meant to be small)."""
        limit = limit if limit is not None or self.length is not None else ANSWER_LIMIT
        return gather(self._limited(limit) if limit is not None else self)

    def readinto(self, buffer: memoryview) -> int:
        """Some of the body, into a buffer: how many bytes; 0 at the end."""
        reply = self._reply
        if reply is None or not len(buffer):
            return 0
        try:
            count = reply.readinto(buffer)
        except (OSError, Malformed, Ended) as error:
            self.close()
            raise self._pool.failure(error, self._where, begun=True) from None
        if not count or reply.left == 0:
            self._done()
        return count

    def _limited(self, limit: int) -> Iterator[bytes]:
        got = 0
        for piece in self:
            got += len(piece)
            if got > limit:
                self.close()
                raise IntegrityError("the answer is longer than any should be", where=self._where)
            yield piece

    def _done(self) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            if reply.stays and not reply.line.rest:
                self._pool.give(reply.line)
            else:
                reply.line.close()

    def close(self) -> None:
        """Drop the connection if the body was not read to its end."""
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.line.close()


_lock = Lock()
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """Connections to one server. Safe for threads; a forked child starts with none.

    Args:
        timeout_s: how long connecting, and each wait for the other side, may take.
        ca_bundle: a file of certificates to trust beside the system's own.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float, *, ca_bundle: str | None = None) -> None:
        self.endpoint = endpoint
        self._ca_bundle = ca_bundle
        self.timeout_s = timeout_s
        self._idle: deque[Line] = deque()
        with _lock:
            _pools.add(self)
        # Unlike a `__del__`, it runs before the sockets of a cycle complain that nobody closed them.
        weakref.finalize(self, _drop, self._idle).atexit = False
        self._pid = os.getpid()
        self._tls: ssl.SSLContext | None = None
        proxies = {} if proxy_bypass(f"{endpoint.host}:{endpoint.port}") else getproxies()
        proxy = proxies.get(endpoint.scheme) or proxies.get("all")
        self._proxy = _Proxy.read(proxy) if proxy else None
        # To a proxy, a request without TLS names the whole URL.
        through = self._proxy is not None and endpoint.scheme == "http"
        self._target = endpoint.url if through else endpoint.base
        self._lines = f"Host: {endpoint.authority}\r\nUser-Agent: rh\r\n" + (
            self._proxy.login if self._proxy and through else ""
        )

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: Sequence[Bytes] = (),
        *,
        where: str,
    ) -> Answer:
        """Send one request and read the head of its answer. `target` begins with `/` and is quoted already."""
        length = sum([memoryview(part).nbytes for part in body]) if body else 0
        head = self.head(method, target, headers, length)
        line: Line | None = None
        begun = False
        try:
            line = self.take() or self.connect()
            begun = True
            try:
                line.send(head, body, length)
            except (BrokenPipeError, ConnectionResetError) as error:
                # A refusal may stand in the buffer already: it says more than the broken pipe.
                try:
                    return Answer(self, line, where, method=method)
                except (OSError, Malformed, Ended):
                    raise error from None
            return Answer(self, line, where, method=method)
        except (OSError, Malformed, Ended) as error:
            if line is not None:
                line.close()
            raise self.failure(error, where, begun=begun) from None

    def head(self, method: str, target: str, headers: Mapping[str, str], length: int) -> bytes:
        """The head of a request whose body has so many bytes."""
        told = length if length or method in ("POST", "PUT") else None
        return request_of(method, self._target + target, self._lines, headers, told)

    def give(self, line: Line) -> None:
        """Take a connection back."""
        if self._pid != os.getpid() or len(self._idle) >= KEEP:
            line.close()
            return
        line.used = time.monotonic()
        self._idle.append(line)

    def close(self) -> None:
        """Close idle connections; new ones are made when needed."""
        _drop(self._idle)

    def take(self) -> Line | None:
        """A connection that is there, if there is one; whoever takes it gives it back, or closes it."""
        if self._pid != os.getpid():
            self._pid, self._tls = os.getpid(), None
            self.close()
        while True:
            try:
                line = self._idle.pop()
            except IndexError:
                return None
            if not line.dropped():
                return line
            line.close()

    def prune(self) -> None:
        """Close connections that were idle for long; the longest idle one comes first."""
        oldest = time.monotonic() - IDLE_S
        try:
            while self._idle[0].used < oldest:
                self._idle.popleft().close()
        except IndexError:
            return

    def connect(self) -> Line:
        """A new connection."""
        with _lock:
            pools = list(_pools)
        for pool in pools:
            pool.prune()
        end, proxy = self.endpoint, self._proxy
        if end.scheme == "http":
            sock = self._dial(end.host, end.port) if proxy is None else self._dial(proxy.host, proxy.port)
            return Line(sock, self.timeout_s)
        if self._tls is None:
            self._tls = _context(self._ca_bundle)
        sock = self._dial(end.host, end.port) if proxy is None else self._tunnel(proxy)
        try:
            sock = self._tls.wrap_socket(sock, server_hostname=end.host)
        except OSError:
            sock.close()
            raise
        return Line(sock, self.timeout_s)

    def _dial(self, host: str, port: int) -> socket.socket:
        until = time.monotonic() + self.timeout_s
        problem: OSError | None = None
        for family, kind, proto, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            left = until - time.monotonic()
            if left <= 0:
                break
            sock = socket.socket(family, kind, proto)
            try:
                sock.settimeout(min(left, PER_ADDRESS_S))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(self.timeout_s)
                return sock
            except OSError as error:
                sock.close()
                problem = error
        raise problem or TimeoutError("connecting took too long")

    def _tunnel(self, proxy: _Proxy) -> socket.socket:
        sock = self._dial(proxy.host, proxy.port)
        target = self.endpoint.address
        try:
            sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{proxy.login}\r\n".encode("latin-1"))
            told = b""
            while b"\r\n\r\n" not in told and len(told) < HEAD_LIMIT:
                told += sock.recv(4096) or b"\r\n\r\n"
            if not re.match(rb"HTTP/1\.[01] 2\d\d", told):
                first = told.partition(b"\r\n")[0][:100].decode("ascii", "replace")
                raise OSError(f"the proxy {proxy.host} answered {first!r}")
        except OSError:
            sock.close()
            raise
        return sock

    def failure(self, error: Exception, where: str, *, begun: bool) -> RhError:
        """Our error for what happened to a connection; `begun` says that a request may have arrived."""
        server = self.endpoint.url
        if isinstance(error, TimeoutError | BlockingIOError):
            return DeadlineError(
                f"no answer from {server} within {self.timeout_s:g} s",
                where=where,
                hint="raise timeout_s, or try again later",
            )
        if isinstance(error, ssl.SSLCertVerificationError):
            return AccessError(
                f"the certificate of {server} was refused: {error.verify_message}",
                where=where,
                hint="name the authority's certificates in ca_bundle or SSL_CERT_FILE",
            )
        if isinstance(error, ConnectionRefusedError | socket.gaierror) and self._proxy is not None and not begun:
            return UnavailableError(
                f"the proxy {self._proxy.host}:{self._proxy.port} cannot be reached: {error}",
                where=where,
                hint="see HTTP_PROXY, HTTPS_PROXY and NO_PROXY",
            )
        if isinstance(error, ConnectionRefusedError):
            return UnavailableError(
                f"nothing answers at {server}", where=where, hint="check endpoint_url and that the server runs"
            )
        if isinstance(error, socket.gaierror):
            return UnavailableError(f"the host name {self.endpoint.host!r} cannot be resolved", where=where)
        if isinstance(error, Malformed):
            return IntegrityError(f"{server} did not answer in HTTP: {error}", where=where)
        if isinstance(error, Ended):
            return UnavailableError(f"{server} closed the connection before the answer was complete", where=where)
        verb = "broke" if begun else "could not be made"
        return UnavailableError(f"the connection to {server} {verb}: {error}", where=where)


def gather(pieces: Iterable[Bytes]) -> bytes:
    """The pieces as one. A buffer that grows holds the bytes once where joining them holds them twice."""
    source = iter(pieces)
    first = next(source, b"")
    second = next(source, None)
    if second is None:
        return bytes(first)
    buffer = io.BytesIO()
    buffer.write(first)
    buffer.write(second)
    for piece in source:
        buffer.write(piece)
    return buffer.getvalue()


def _drop(idle: deque[Line]) -> None:
    while True:
        try:
            line = idle.pop()
        except IndexError:
            return
        line.close()


def _context(ca_bundle: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_bundle:
        try:
            context.load_verify_locations(ca_bundle)
        except OSError as error:
            raise InvalidError(f"the certificates cannot be read: {error}", where=ca_bundle) from error
    elif not context.get_ca_certs() and not ssl.get_default_verify_paths().capath and find_spec("certifi"):
        context.load_verify_locations(plugins.need("certifi").where())
    return context
