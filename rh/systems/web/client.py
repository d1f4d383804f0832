"""The HTTP client of the systems that speak it: pooled, strict about redirects, honest about errors.

One request is one attempt. A redirect is followed at most five times, never from https to http, and credentials
go only to the origin they belong to. Credentials come from `~/.netrc` (or `$NETRC`), proxies from the environment.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from rh import plugins
from rh.errors import (
    AccessError,
    ConflictError,
    DeadlineError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
)
from rh.forks import Lock
from rh.systems.retry_after import asked_to_wait

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

__all__ = ["Origin", "Web", "failure", "origin_of", "public", "refusal", "split"]

REDIRECTS = 5
_MOVED = frozenset({301, 302, 303, 307, 308})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

Origin = tuple[str, str, int]


def origin_of(url: str) -> Origin:
    """Scheme, host and port of a URL; `InvalidError` if it has none."""
    parts = split(url)
    try:
        port = parts.port
    except ValueError as error:
        raise InvalidError("a URL needs a numeric port", where=public(url)) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidError("not an http or https URL", where=public(url))
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)


def public(url: str) -> str:
    """A URL without what may be secret in it: user information, query and fragment."""
    parts = split(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def split(url: str) -> SplitResult:
    """What `urlsplit` says; `InvalidError` where it cannot."""
    try:
        return urlsplit(url)
    except ValueError:  # whose message may quote a password
        raise InvalidError("not a URL", where=f"{url.partition(':')[0]}://…") from None


def failure(error: Exception, where: str) -> RhError:
    """The error of ours for an exception of the HTTP library."""
    if isinstance(error, RhError):
        return error  # perhaps that the HTTP library is not there
    from urllib3 import exceptions as http

    text = str(error)
    if isinstance(error, http.ProxyError):
        return UnavailableError(
            f"the proxy cannot be used: {error}", where=where, hint="see HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
        )
    if isinstance(error, http.NameResolutionError):
        return UnavailableError("the host name cannot be resolved", where=where, hint="check the URL and the network")
    if isinstance(error, http.NewConnectionError):
        why = text.rpartition("connection: ")[2]
        hint = "check the URL, and that the server runs"
        return UnavailableError(f"the connection could not be made: {why}", where=where, hint=hint)
    if isinstance(error, http.ReadTimeoutError | http.ConnectTimeoutError | TimeoutError):
        return DeadlineError(
            "no answer within the time allowed", where=where, hint="raise timeout_s, or try again later"
        )
    if isinstance(error, http.SSLError) or "CERTIFICATE_VERIFY_FAILED" in text:
        return AccessError(
            f"the server's certificate was refused: {text}",
            where=where,
            hint="set SSL_CERT_FILE to the authority's certificates",
        )
    if isinstance(error, http.IncompleteRead) or "IncompleteRead" in text:
        return IntegrityError(f"the answer ended early: {text}", where=where)
    if isinstance(error, http.LocationParseError):
        return InvalidError(f"not a URL: {text}", where=where)
    return UnavailableError(f"the connection failed: {text}", where=where)


def refusal(status: int, where: str, *, reason: str = "", retry_after: str | None = None) -> RhError:
    """The error of ours for a status of 400 and above."""
    text = f"the server answered {status} {reason}".rstrip()
    if status == 401:
        return UnauthenticatedError(text, where=where, hint="add the host to ~/.netrc")
    if status in (403, 407):
        return AccessError(text, where=where)
    if status in (404, 410):
        return NotFoundError("nothing is there", where=where)
    if status == 412:
        return ConflictError("it has changed in the meantime", where=where)
    if status in (408, 504):
        return DeadlineError(text, where=where)
    if status in (425, 429) or status >= 500:
        return asked_to_wait(UnavailableError(text, where=where), retry_after)
    return InvalidError(text, where=where)


class Web:
    """Connections of one handle, shared by its threads and rebuilt after `fork`.

    Args:
        timeout_s: longest silence of the other side, in seconds.
        secure: refuse every URL that is not https (set when the place itself is https).
        headers: sent with every request, to whatever host.
    """

    def __init__(self, *, timeout_s: float, secure: bool, headers: Mapping[str, str] | None = None) -> None:
        self.timeout_s = timeout_s
        self.secure = secure
        self.headers: dict[str, str] = {"User-Agent": "rh", "Accept-Encoding": "identity", **(headers or {})}
        self._lock = Lock()
        self._pid = 0
        self._managers: dict[str | None, PoolManager] = {}

    def _manager(self, url: str) -> PoolManager:
        import urllib.request

        scheme, host, port = origin_of(url)
        proxy = urllib.request.getproxies().get(scheme)
        if proxy and urllib.request.proxy_bypass(f"{host}:{port}"):
            proxy = None
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._managers = os.getpid(), {}
            manager = self._managers.get(proxy)
            if manager is None:
                urllib3 = plugins.need("urllib3", purpose="http and https")
                logging.getLogger("urllib3.connectionpool").addFilter(_without_queries)
                options: dict[str, Any] = {
                    "num_pools": 16,
                    "maxsize": 32,
                    "block": False,
                    "retries": False,
                    "timeout": urllib3.Timeout(connect=self.timeout_s, read=self.timeout_s),
                }
                if proxy:
                    parts = split(proxy if "://" in proxy else f"http://{proxy}")
                    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
                    name, password = unquote(parts.username or ""), unquote(parts.password or "")
                    sent = {"Proxy-Authorization": _basic(name, password)} if name else None
                    manager = urllib3.ProxyManager(address, proxy_headers=sent, **options)
                else:
                    manager = urllib3.PoolManager(**options)
                self._managers[proxy] = manager
            return manager

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        body: Any = None,
        login: Mapping[str, str] | None = None,
        **_library: Any,
    ) -> BaseHTTPResponse:
        """Send one request, follow redirects, and return the answer with its body unread, whatever its status.

        `login` holds headers for the first URL's origin only; without it `~/.netrc` is asked. The answer's `url` is
        where it came from in the end.
        """
        first = origin_of(url)
        where = public(url)
        private = dict(login) if login is not None else netrc_headers(url)
        for _ in range(REDIRECTS + 1):
            origin = origin_of(url)
            if self.secure and origin[0] != "https":
                raise AccessError("refused to follow a redirect from https to http", where=where)
            sent = {**self.headers, **(headers or {}), **(private if origin == first else {})}
            if origin != first:
                for name in [name for name in sent if name.lower() in ("authorization", "cookie")]:
                    del sent[name]
            try:
                answer: BaseHTTPResponse = self._manager(url).request(
                    method, url, body=body, headers=sent, preload_content=False, redirect=False, decode_content=False
                )
            except RhError:
                raise
            except Exception as error:
                raise failure(error, where) from error
            target = answer.headers.get("Location")
            if answer.status not in _MOVED or not target:
                answer.url = url
                return answer
            answer.close()
            try:
                url = urljoin(url, target)
            except ValueError:
                raise InvalidError("the server redirects to what is no URL", where=where) from None
            if answer.status == 303 and method != "HEAD":
                method, body = "GET", None
        raise UnavailableError(f"more than {REDIRECTS} redirects", where=where)

    def close(self) -> None:
        """Drop idle connections."""
        with self._lock:
            managers, self._managers = self._managers, {}
        if self._pid == os.getpid():
            for manager in managers.values():
                manager.clear()


def _without_queries(record: logging.LogRecord) -> bool:
    """Cut the queries off the URLs that urllib3 logs at DEBUG: there are signatures in them."""
    if isinstance(record.args, tuple):
        record.args = tuple(one.partition("?")[0] if isinstance(one, str) else one for one in record.args)
    return True


def netrc_headers(url: str) -> dict[str, str]:
    """The `Authorization` header that `~/.netrc` (or `$NETRC`) has for exactly this host; only over TLS or loopback."""
    import netrc

    scheme, host, _ = origin_of(url)
    if scheme != "https" and host not in _LOOPBACK:
        return {}
    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        found = netrc.netrc(path).hosts.get(host)
    except FileNotFoundError:
        return {}
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError) as error:
        # The parser's message may quote the line, and with it the password.
        raise InvalidError(f"the netrc file cannot be read ({type(error).__name__})", where=path) from None
    if not found:
        return {}
    return {"Authorization": _basic(found[0], found[2])}


def _basic(name: str, password: str | None) -> str:
    import base64

    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode("ascii")
