"""HTTP/1.1 over pooled connections, for one server and many threads: one request is one attempt.

For a request of 4 KiB the standard library's client spends 170 µs of processor time, urllib3 330 and obstore 150, and
the threads of one interpreter share one processor: that is the ceiling of small files. This one spends 100, by speaking
only what object stores need: requests of known length, answers of known length or chunked. TLS, certificates and name
resolution are the standard library's. Whatever is not plainly correct is an error, and its connection is dropped.

Framing follows RFC 9112.
"""

from __future__ import annotations

import base64
import encodings.idna  # noqa: F401 - `getaddrinfo` imports it: a child forked halfway would wait for that for ever
import io
import os
import select
import socket
import ssl
import struct
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

__all__ = ["Answer", "Endpoint", "Pool", "gather", "parse_endpoint"]

KEEP = 64
"""Idle connections kept."""
IDLE_S = 15.0
"""How long they are kept: servers close them after some 20 seconds, and nobody would notice."""
TOGETHER = 1 << 16
"""Requests up to this many bytes leave in one system call."""
PIECE = 1 << 18
"""Bytes asked of the socket at once, and yielded at most."""
HEAD_LIMIT = 1 << 16
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
    def authority(self) -> str:
        """Host, and port where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The endpoint as a URL without a trailing slash."""
        return f"{self.scheme}://{self.authority}{self.base}"


def parse_endpoint(text: str) -> Endpoint:
    """Read `https://host[:port][/base]`; without a scheme it is http, as emulators' variables are written."""
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port
    except ValueError as error:
        raise InvalidError("the endpoint has no valid port", where=parts.hostname or text) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidError("an endpoint is http(s)://host[:port]", where=parts.hostname or text)
    if parts.username or parts.password:
        raise InvalidError("an endpoint holds no user and password", where=parts.hostname)
    return Endpoint(
        parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/")
    )


class _MalformedError(Exception):
    """The answer is not HTTP as we know it."""


class _EndedError(Exception):
    """The other side closed the connection."""


class _Wire:
    """One connection and what was read from it beyond the last answer."""

    __slots__ = ("rest", "sock", "used", "whole")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        # The kernel may gather a piece; TLS gives records as they come.
        self.whole = 0 if isinstance(sock, ssl.SSLSocket) else socket.MSG_WAITALL
        self.rest = b""
        self.used = time.monotonic()

    def send(self, head: bytes, body: Sequence[Bytes], length: int) -> None:
        if len(head) + length <= TOGETHER:
            self.sock.sendall(b"".join((head, *body)))
            return
        self.sock.sendall(head)
        for part in body:
            # One `sendall` would have to be over within one timeout, however large the part is.
            view = memoryview(part).cast("B")
            at = 0
            while at < len(view):
                at += self.sock.send(view[at : at + (1 << 20)])

    def more(self, limit: int = PIECE) -> bytes:
        data = self.sock.recv(limit)
        if not data:
            raise _EndedError
        return data

    def head(self) -> tuple[int, dict[str, str], bool]:
        """Status, headers (lower case, repeated ones joined by commas) and whether the connection stays open."""
        while True:
            raw = self.rest or self.more()
            end = raw.find(b"\r\n\r\n")
            while end < 0:
                if len(raw) > HEAD_LIMIT:
                    raise _MalformedError("the head is too long")
                raw += self.more()
                end = raw.find(b"\r\n\r\n")
            self.rest = raw[end + 4 :]
            self._orderly(raw[:end])
            lines = raw[:end].decode("latin-1").split("\r\n")
            first = lines[0]
            code = first[9:12]
            if (
                not first.startswith("HTTP/1.")
                or not (code.isascii() and code.isdigit())
                or first[12:13] not in ("", " ")
            ):
                raise _MalformedError("no status line")
            headers: dict[str, str] = {}
            for line in lines[1:]:
                name, colon, value = line.partition(":")
                if not colon or not name:
                    raise _MalformedError("a header is malformed")
                name = name.lower()
                value = value.strip(" \t")
                headers[name] = f"{headers[name]},{value}" if name in headers else value
            if code[0] != "1":
                stays = headers.get("connection", "").lower() != "close" and first[7] == "1"
                return int(code), headers, stays

    @staticmethod
    def _orderly(head: bytes) -> None:
        """Raise where a line ends in an unusual way or goes on in the next."""
        ends = head.count(b"\r\n")
        if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\n " in head or b"\n\t" in head:
            raise _MalformedError("a header is malformed")

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes, small ones (chunk ends)."""
        while len(self.rest) < count:
            self.rest += self.more()
        data, self.rest = self.rest[:count], self.rest[count:]
        return data

    def line(self) -> bytes:
        while b"\r\n" not in self.rest:
            if len(self.rest) > HEAD_LIMIT:
                raise _MalformedError("a chunk's line is too long")
            self.rest += self.more()
        line, _, self.rest = self.rest.partition(b"\r\n")
        return line

    def body(self, length: int) -> Iterator[bytes]:
        if self.rest and length:
            data, self.rest = self.rest[:length], self.rest[length:]
            length -= len(data)
            yield data
        while length:
            data = self.sock.recv(min(PIECE, length), self.whole)
            if not data:
                raise _EndedError
            length -= len(data)
            yield data

    def into(self, buffer: memoryview) -> int:
        if self.rest:
            count = min(len(self.rest), len(buffer))
            buffer[:count], self.rest = self.rest[:count], self.rest[count:]
            return count
        count = self.sock.recv_into(buffer, len(buffer), self.whole)
        if not count:
            raise _EndedError
        return count

    def chunked(self) -> Iterator[bytes]:
        while True:
            size = self.line().partition(b";")[0].strip()
            if not size or len(size) > 15 or size.strip(b"0123456789abcdefABCDEF"):
                raise _MalformedError("a chunk has no size")
            length = int(size, 16)
            if not length:
                while self.line():
                    pass
                return
            yield from self.body(length)
            if self.take(2) != b"\r\n":
                raise _MalformedError("a chunk has no end")

    def unbounded(self) -> Iterator[bytes]:
        if self.rest:
            yield self.rest
        while data := self.sock.recv(PIECE):
            yield data

    def dropped(self) -> bool:
        """Whether an idle connection has been closed by the other side (or talks out of turn)."""
        if self.rest:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        try:
            self.sock.close()
        except OSError:
            # The connection is being thrown away; there is nobody to tell.
            return

    def __del__(self) -> None:
        self.close()


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

    __slots__ = ("_left", "_pool", "_stays", "_where", "_wire", "headers", "length", "status")

    def __init__(self, pool: Pool, wire: _Wire, where: str, *, method: str) -> None:
        self._pool: Pool = pool
        self._wire: _Wire | None = wire
        self._where = where
        self.status, self.headers, self._stays = wire.head()
        if self.status == 416:
            # Servers that mean to send a reason, and may not, end the connection here without saying so.
            self._stays = False
        self.length: int | None = None
        """Bytes of the body; `None` where only the end will tell."""
        if method == "HEAD" or self.status in (204, 304):
            self.length = 0
        elif self.headers.get("transfer-encoding", "identity").lower() != "identity":
            if self.headers["transfer-encoding"].lower() != "chunked":
                raise _MalformedError("an unknown transfer encoding")
        elif (text := self.headers.get("content-length")) is not None:
            if not (text.isascii() and text.isdigit()) or len(text) > 18:
                raise _MalformedError("the length is not a number")
            self.length = int(text)
        else:
            self._stays = False
        self._left = self.length or 0
        if self.length == 0:
            self._done()

    def __iter__(self) -> Iterator[bytes]:
        wire = self._wire
        if wire is None:
            return
        if self.length is not None:
            pieces = wire.body(self.length)
        elif "transfer-encoding" in self.headers:
            pieces = wire.chunked()
        else:
            pieces = wire.unbounded()
        try:
            yield from pieces
        except (OSError, _MalformedError, _EndedError) as error:
            self.close()
            raise self._pool.failure(error, self._where, begun=True) from None
        self._done()

    def read(self, limit: int | None = None) -> bytes:
        """The whole body; of at most `limit` bytes if given (for answers that are meant to be small)."""
        limit = limit if limit is not None or self.length is not None else ANSWER_LIMIT
        return gather(self._limited(limit) if limit is not None else self)

    def readinto(self, buffer: memoryview) -> int:
        """Some of a body whose length is known, into a buffer: how many bytes; 0 at the end."""
        wire = self._wire
        if wire is None:
            return 0
        try:
            count = wire.into(buffer[: self._left])
        except (OSError, _EndedError) as error:
            self.close()
            raise self._pool.failure(error, self._where, begun=True) from None
        self._left -= count
        if not self._left:
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
        wire, self._wire = self._wire, None
        if wire is not None:
            if self._stays and not wire.rest:
                self._pool.give(wire)
            else:
                wire.close()

    def close(self) -> None:
        """Drop the connection if the body was not read to its end."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()


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
        self._idle: deque[_Wire] = deque()
        with _lock:
            _pools.add(self)
        # Unlike a `__del__`, it runs before the sockets of a cycle complain that nobody closed them.
        weakref.finalize(self, _drop, self._idle).atexit = False
        self._pid = os.getpid()
        self._tls: ssl.SSLContext | None = None
        proxies = {} if proxy_bypass(endpoint.host) else getproxies()
        proxy = proxies.get(endpoint.scheme) or proxies.get("all")
        self._proxy = _Proxy.read(proxy) if proxy else None
        # To a proxy, a request without TLS names the whole URL.
        through = self._proxy is not None and endpoint.scheme == "http"
        self._target = endpoint.url if through else endpoint.base
        self._lines = f"Host: {endpoint.authority}\r\n" + (self._proxy.login if self._proxy and through else "")

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
        lines = [f"{method} {self._target}{target} HTTP/1.1\r\n{self._lines}"]
        lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
        if body or method in ("POST", "PUT"):
            lines.append(f"Content-Length: {length}\r\n")
        lines.append("\r\n")
        head = "".join(lines).encode("latin-1")
        wire: _Wire | None = None
        begun = False
        try:
            wire = self._take() or self._connect()
            begun = True
            try:
                wire.send(head, body, length)
            except (BrokenPipeError, ConnectionResetError) as error:
                # A refusal may stand in the buffer already: it says more than the broken pipe.
                try:
                    return Answer(self, wire, where, method=method)
                except (OSError, _MalformedError, _EndedError):
                    raise error from None
            return Answer(self, wire, where, method=method)
        except (OSError, _MalformedError, _EndedError) as error:
            if wire is not None:
                wire.close()
            raise self.failure(error, where, begun=begun) from None

    def give(self, wire: _Wire) -> None:
        """Take a connection back."""
        if self._pid != os.getpid() or len(self._idle) >= KEEP:
            wire.close()
            return
        wire.used = time.monotonic()
        self._idle.append(wire)

    def close(self) -> None:
        """Close idle connections; new ones are made when needed."""
        _drop(self._idle)

    def _take(self) -> _Wire | None:
        if self._pid != os.getpid():
            self._pid, self._tls = os.getpid(), None
            self.close()
        while True:
            try:
                wire = self._idle.pop()
            except IndexError:
                return None
            if not wire.dropped():
                return wire
            wire.close()

    def prune(self) -> None:
        """Close connections that were idle for long; the longest idle one comes first."""
        oldest = time.monotonic() - IDLE_S
        try:
            while self._idle[0].used < oldest:
                self._idle.popleft().close()
        except IndexError:
            return

    def _connect(self) -> _Wire:
        with _lock:
            pools = list(_pools)
        for pool in pools:
            pool.prune()
        end, proxy = self.endpoint, self._proxy
        if end.scheme == "http":
            sock = self._dial(end.host, end.port) if proxy is None else self._dial(proxy.host, proxy.port)
            # Let the kernel watch the clock: with a timeout of its own, Python asks it before every call.
            limit = struct.pack("ll", int(self.timeout_s), int(self.timeout_s % 1 * 1e6))
            sock.settimeout(None)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            return _Wire(sock)
        if self._tls is None:
            self._tls = _context(self._ca_bundle)
        sock = self._dial(end.host, end.port) if proxy is None else self._tunnel(proxy)
        try:
            sock = self._tls.wrap_socket(sock, server_hostname=end.host)
        except OSError:
            sock.close()
            raise
        return _Wire(sock)

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
        target = f"{self.endpoint.host}:{self.endpoint.port}"
        wire = _Wire(sock)
        try:
            wire.sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{proxy.login}\r\n".encode("latin-1"))
            status = wire.head()[0]
        except (OSError, _MalformedError, _EndedError):
            sock.close()
            raise
        if status // 100 != 2:
            sock.close()
            raise OSError(f"the proxy {proxy.host} answered {status}")
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
        if isinstance(error, ConnectionRefusedError):
            return UnavailableError(
                f"nothing answers at {server}", where=where, hint="check endpoint_url and that the server runs"
            )
        if isinstance(error, socket.gaierror):
            return UnavailableError(f"the host name {self.endpoint.host!r} cannot be resolved", where=where)
        if isinstance(error, _MalformedError):
            return IntegrityError(f"{server} did not answer in HTTP: {error}", where=where)
        if isinstance(error, _EndedError):
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


def _drop(idle: deque[_Wire]) -> None:
    while True:
        try:
            wire = idle.pop()
        except IndexError:
            return
        wire.close()


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
