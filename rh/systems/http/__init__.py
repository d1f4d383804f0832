"""Web sites, read only: files by URL, directories where the server shows an index page.

A location's path is the decoded path of the URL; what follows `?` in the URL (a signature, a version) belongs to the
location's `system` and is sent with every request, but shown to nobody. A directory lists what the server's page
shows: most servers leave out names that begin with a dot. Sources: RFC 9110 (ranges, validators), RFC 9530 (digests).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote, urlsplit

from rh.errors import (
    ConflictError,
    FullError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnsupportedError,
)
from rh.observe import count
from rh.systems.base import HIDDEN, Body, Settings, System
from rh.systems.http.index import members
from rh.systems.objects.spread import spread
from rh.systems.web.answers import RANGE, AnswerBody, EmptyBody, SpooledBody, entry_of, stream, total_of
from rh.systems.web.client import Web, origin_of, public, refusal
from rh.types import ABSENT, ANY, Condition, Entry, Location, Match, Span

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

__all__ = ["HTTPSystem"]

_FIRST_BYTE = {"Range": "bytes=0-0"}
_PAGE = 64 * 1024 * 1024
_DEPTH = 64
_ASKERS = 16


class HTTPSystem(System):
    """A site below a URL. Writing and deleting raise `UnsupportedError`."""

    kind: ClassVar[str] = "http"
    takes: ClassVar[frozenset[str] | None] = frozenset({"url", "endpoint_url"})
    keeps_directories: ClassVar[bool] = True
    writable: ClassVar[bool] = False

    def __init__(self, location: Location, settings: Settings, web: Web) -> None:
        self.location = location
        self.settings = settings
        self._web = web
        base, _, query = _address(location, settings).partition("?")
        self._base = base.rstrip("/") + quote(
            location.path if location.path.startswith("/") else "/" + location.path, errors="surrogateescape"
        )
        self._query = f"?{query}" if query else ""

    @classmethod
    def open(cls, location: Location, settings: Settings) -> HTTPSystem:
        """A handle on a site: that of the location's URL, or `endpoint_url` of the settings."""
        url = _address(location, settings)
        origin = origin_of(url)
        if "@" in urlsplit(url).netloc:
            raise InvalidError("a password in a URL is not accepted", where=public(url), hint="put it into ~/.netrc")
        return cls(location, settings, Web(timeout_s=float(settings["timeout_s"]), secure=origin[0] == "https"))

    def at(self, path: str) -> HTTPSystem:
        """The same site further down."""
        return HTTPSystem(self.location / path if path else self.location, self.settings, self._web)

    def url(self, key: str = "") -> str:
        """The URL of a key, without the query it is asked with."""
        return self._url(key, check=False)

    def _url(self, key: str, *, check: bool = True) -> str:
        if check and (key.startswith("/") or any(part in (".", "..") for part in key.split("/"))):
            raise NameClashError(f"no URL below the root can say {key!r}", where=self._base)
        if not key:
            return self._base
        return self._base.removesuffix("/") + "/" + quote(key, errors="surrogateescape")

    def close(self) -> None:
        """Drop idle connections."""
        self._web.close()

    # reading

    def head(self, key: str) -> Entry:
        """The file at the key's URL. One request, or a second one where the server does not tell the size."""
        url = self._file_url(key)
        with self._ask("HEAD", url, "head") as answer:
            if answer.status in (405, 501) or (answer.status == 403 and self._query):
                # Not allowed, or signed for GET only: the first byte tells as much.
                return self._by_get(url, key, _FIRST_BYTE)
            self._accept(answer, url, key)
            entry = entry_of(key, answer)
        if entry is None:
            return self._by_get(url, key, _FIRST_BYTE)
        # Servers that make a file as they send it may have none to measure for HEAD, and say 0.
        return entry if entry.size else self._by_get(url, key, {})

    def _by_get(self, url: str, key: str, headers: Mapping[str, str]) -> Entry:
        with self._ask("GET", url, "head", headers) as answer:
            if answer.status == 416 and (total := total_of(answer)) is not None:
                return entry_of(key, answer, total) or Entry(key, total)
            self._accept(answer, url, key)
            total = total_of(answer) if answer.status == 206 else None
            entry = entry_of(key, answer, total)
            if entry is None:
                # Neither tells the size: it is counted.
                size = sum(map(len, stream(answer, url)))
                count(self.location.system, "head", requests=0, received=size)
                entry = entry_of(key, answer, size) or Entry(key, size)
            return entry

    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:
        """The bytes; a range is asked for as one, and cut out here where the server sends everything."""
        if when is ABSENT or (span and not 0 <= span[0] <= span[1]):
            raise InvalidError(f"cannot read {span} when {when}", where=self.url(key))
        url = self._file_url(key)
        if span is not None and span[0] == span[1]:
            return EmptyBody(self._matching(self.head(key), when, url))
        headers = {"Want-Repr-Digest": "sha-256=3"}
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        if isinstance(when, Match) and when.etag.startswith('"'):
            headers["If-Match"] = when.etag
        answer = self._ask("GET", url, "read", headers)
        try:
            return self._body(answer, url, key, span, when)
        except BaseException:
            answer.close()
            raise

    def _body(self, answer: BaseHTTPResponse, url: str, key: str, span: Span | None, when: Condition) -> Body:
        if answer.status == 416 and span is not None:
            answer.close()
            now = self.head(key)  # a refusal of a range carries no validators
            if now.size > span[0]:
                raise IntegrityError("the server refused a range that is there", where=url)
            return EmptyBody(self._matching(now, when, url))
        self._accept(answer, url, key)
        whole: Span | None = None
        total, skip, stop = None, 0, None
        if answer.status == 206:
            match = RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if match is None or match.group(1) is None or span is None:
                raise IntegrityError("the server sent a range without saying which", where=url)
            whole = int(match.group(1)), int(match.group(2)) + 1
            total = total_of(answer)
            total = total if total is not None else self.head(key).size
            if whole != (span[0], min(span[1], total)):
                raise IntegrityError("the server sent another range", where=url, expected=str(span), got=str(whole))
        elif span is not None:
            skip, stop = span
        entry = entry_of(key, answer, total)
        if entry is None:
            return self._spooled(answer, url, key, span, when)
        self._matching(entry, when, url)
        length = (whole[1] - whole[0]) if whole else entry.size
        return AnswerBody(entry, answer, url, self.location.system, length=length, skip=skip, stop=stop)

    def _spooled(self, answer: BaseHTTPResponse, url: str, key: str, span: Span | None, when: Condition) -> Body:
        """A body whose size the server does not tell: it is taken in first, so that the entry is true."""
        spool = tempfile.SpooledTemporaryFile(max_size=8 * 1024 * 1024)  # noqa: SIM115
        try:
            for piece in stream(answer, url):
                count(self.location.system, "read", requests=0, received=len(piece))
                try:
                    spool.write(piece)
                except OSError as error:
                    raise FullError("no room for a temporary file", where=url, hint="set TMPDIR") from error
            entry = entry_of(key, answer, spool.tell()) or Entry(key, spool.tell())
            self._matching(entry, when, url)
            start, stop = span or (0, entry.size)
            spool.seek(min(start, entry.size))
            return SpooledBody(entry, spool, max(0, min(stop, entry.size) - start))
        except BaseException:
            spool.close()
            raise
        finally:
            answer.close()

    def _matching(self, entry: Entry, when: Condition, url: str) -> Entry:
        if isinstance(when, Match) and entry.etag != when.etag:
            raise ConflictError("it has changed in the meantime", where=url)
        return entry

    def _file_url(self, key: str) -> str:
        url = self._url(key)
        if not key or key.endswith("/"):
            raise NotFoundError("a directory is not a file", where=url)
        return url

    def _ask(self, method: str, url: str, verb: str, headers: Mapping[str, str] | None = None) -> BaseHTTPResponse:
        count(self.location.system, verb)
        return self._web.request(method, url + self._query, headers)

    def _accept(self, answer: BaseHTTPResponse, url: str, key: str) -> None:
        """Raise unless the answer is the file that was asked for."""
        if answer.status >= 400:
            raise refusal(answer.status, url, reason=answer.reason or "", retry_after=answer.headers.get("Retry-After"))
        if answer.status not in (200, 206):
            raise refusal(502, url, reason=f"(unexpected status {answer.status})")
        if key and urlsplit(answer.url or url).path == urlsplit(url).path + "/":
            raise NotFoundError("that is a directory, not a file", where=url)

    # listing

    def list(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        """What the server's index pages show, each file with the answer to its own HEAD."""
        self._url(prefix)
        top = prefix[: prefix.rfind("/") + 1]
        names = self._page(top)
        if names is None:
            if top and self._page("") is None:
                raise NotFoundError("nothing is there", where=self._base)
            if not top:
                raise NotFoundError("nothing is there", where=self._base)
            return iter(())
        return self._described(self._walk(top, names, prefix, after, depth, 0))

    def _walk(
        self, top: str, names: Sequence[str], prefix: str, after: str, depth: int | None, level: int
    ) -> Iterator[str | Entry]:
        if level > _DEPTH:
            raise UnsupportedError(
                f"more than {_DEPTH} directories deep; the server may have a link that leads back", where=self.url(top)
            )
        for name in names:
            key = top + name
            if name.startswith(HIDDEN) or not (key.startswith(prefix) or prefix.startswith(key)):
                continue
            if not name.endswith("/"):
                if _order(key) > _order(after) and key.startswith(prefix):
                    yield key
            elif depth == 1:
                if _order(key) > _order(after):
                    yield Entry(key, 0, "dir")
            elif _order(key) > _order(after) or after.startswith(key):
                below = self._page(key)
                if below:
                    yield from self._walk(key, below, prefix, after, depth, level + 1)
                elif below is None:
                    raise ConflictError("a directory went away while it was listed", where=self.url(key))
                elif _order(key) > _order(after):
                    yield Entry(key, 0, "dir")

    def _described(self, keys: Iterator[str | Entry]) -> Iterator[Entry]:
        """Each file's entry, asked for by several threads, in the order of the keys."""
        failed: list[RhError] = []

        def described(key: str | Entry) -> Entry:
            if isinstance(key, Entry):
                return key
            if failed:
                raise failed[0]  # the listing ends with it: to ask now would take as long again
            try:
                return self.head(key)
            except RhError as error:
                failed.append(error)
                raise

        return spread(described, keys, workers=_ASKERS)

    def _page(self, top: str) -> Sequence[str] | None:
        """Names in a directory, or `None` if it is not there."""
        url = self._url(top).removesuffix("/") + "/"
        with self._ask("GET", url, "list") as answer:
            if answer.status in (404, 410):
                return None
            self._accept(answer, url, "")
            page = bytearray()
            for piece in stream(answer, url):
                page += piece
                if len(page) > _PAGE:
                    raise UnsupportedError(f"a directory page of more than {_PAGE >> 20} MiB", where=url)
            count(self.location.system, "list", requests=0, received=len(page))
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            final = answer.url or url
            framed = bool(answer.headers.get("Content-Length") or answer.headers.get("Transfer-Encoding"))
        names = None
        if kind == "text/html" and urlsplit(final).path.endswith("/"):
            names = members(page.decode("utf-8", "surrogateescape"), public(final), framed=framed)
        if names is None:
            raise UnsupportedError(
                "this server shows no directory listing here",
                where=url,
                hint="give the URL of a file, or turn on its index pages",
            )
        return names

    # what a site does not do

    def write(self, key: str, *_data: object, **_options: object) -> Entry:
        """`UnsupportedError`: sites are read."""
        raise UnsupportedError("a web site cannot be written", where=self.url(key), hint="copy it somewhere else first")

    def delete(self, keys: Sequence[str]) -> None:
        """`UnsupportedError`: sites are read."""
        raise UnsupportedError("nothing can be deleted on a web site", where=self.url(keys[0] if keys else ""))


def _order(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _address(location: Location, settings: Settings) -> str:
    return str(settings.get("url") or settings.get("endpoint_url") or location.system)
