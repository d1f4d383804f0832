"""A plain web server for a directory: ranges, etags, conditional requests, listings; and what it was asked."""

from __future__ import annotations

import email.utils
import hashlib
import html
import mimetypes
import os
import re
import shutil
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote, unquote

from rh.errors import InvalidError
from rh.testing.servers.process import LOOPBACK, at

__all__ = ["HTTPServer", "Request", "WebServer"]

_PIECE = 1 << 18
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Request(NamedTuple):
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]


class WebServer:
    """A web server in threads of this process: `with` it, or `start` and `stop` it.

    Attributes:
        directory: its private directory, removed at the end.
        requests: what it was asked so far.
    """

    name = "http"

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.port = 0
        self._directory: Path | None = None
        self._server: ThreadingHTTPServer | None = None

    @property
    def directory(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix=f"rh-{self.name}-"))
        return self._directory

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def endpoint(self) -> str:
        return self.url

    @property
    def running(self) -> bool:
        return self._server is not None

    def start(self) -> Self:
        """Serve, on the port of the last time if there was one."""
        if self._server is not None:
            raise InvalidError(f"{self.name} is running already", where=self.url)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def handle_one(self) -> None:
                outer.requests.append(Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                try:
                    outer._answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client left, as clients may

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one  # noqa: N815 - the library's names

            def log_message(self, format: str, *_args: Any) -> None:  # noqa: A002 - the library's name
                pass

        class Threads(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that cuts its connection is no error of the server."""

        self._server = Threads((LOOPBACK, self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name=f"rh-{self.name}", daemon=True).start()
        return self

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        """Stop listening; data and port stay, `start` brings it back."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def stop(self) -> None:
        """End it and remove its directory. May be called twice."""
        self.kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {LOOPBACK}:{self.port or '-'}>"


class HTTPServer(WebServer):
    """Serves the files below `root`.

    Args:
        ranges: whether it knows ranges; without, it sends the whole file whatever is asked, as some sites do.
        listings: whether a directory answers with a page of links (otherwise 404).
    """

    def __init__(self, *, ranges: bool = True, listings: bool = True) -> None:
        super().__init__()
        self.ranges = ranges
        self.listings = listings

    @property
    def root(self) -> Path:
        """What it serves; put files there."""
        root = self.directory / "root"
        root.mkdir(exist_ok=True)
        return root

    def settings(self, *, root: str | None = None, via: int | None = None, **more: Any) -> dict[str, Any]:
        """Settings of a system on this server, through a proxy on port `via`."""
        return {"kind": "http", "endpoint_url": at(self.url, via), **({"root": root} if root else {}), **more}

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.command not in ("GET", "HEAD"):
            _plain(handler, 405, "read only", Allow="GET, HEAD")
            return
        relative = unquote(handler.path.partition("?")[0], errors="surrogateescape").lstrip("/")
        path = self.root / relative
        if ".." in Path(relative).parts or "\0" in relative:
            _plain(handler, 404, "not found")
        elif path.is_dir() and self.listings:
            if relative and not relative.endswith("/"):
                _plain(handler, 301, "below", Location=f"{quote('/' + relative)}/")
            else:
                _page(handler, path)
        elif path.is_file() and not relative.endswith("/"):
            try:
                self._file(handler, path)
            except PermissionError:
                _plain(handler, 403, "forbidden")
        else:
            _plain(handler, 404, "not found")

    def _file(self, handler: BaseHTTPRequestHandler, path: Path) -> None:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            mark = hashlib.sha256(f"{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:24]
            etag, modified = f'"{mark}"', email.utils.formatdate(stat.st_mtime, usegmt=True)
            common = {"ETag": etag, "Last-Modified": modified}
            if self.ranges:
                common["Accept-Ranges"] = "bytes"
            asked = handler.headers
            if "If-Match" in asked and etag not in asked["If-Match"] and asked["If-Match"] != "*":
                _plain(handler, 412, "changed", **common)
                return
            if "If-None-Match" in asked and (etag in asked["If-None-Match"] or asked["If-None-Match"] == "*"):
                _head(handler, 304, None, common)
                return
            span = self._span(asked.get("Range"), asked.get("If-Range"), stat.st_size, (etag, modified))
            if span is None:
                _plain(handler, 416, "no such range", **common, **{"Content-Range": f"bytes */{stat.st_size}"})
                return
            start, stop = span.start, span.stop
            common["Content-Type"] = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            status = 200
            if span.partial:
                status, common["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{stat.st_size}"
            _head(handler, status, stop - start, common)
            if handler.command == "HEAD":
                return
            file.seek(start)
            while start < stop:
                piece = file.read(min(_PIECE, stop - start))
                if not piece:
                    handler.close_connection = True  # it shrank; only cutting the line tells the client
                    return
                handler.wfile.write(piece)
                start += len(piece)

    def _span(self, asked: str | None, condition: str | None, size: int, current: tuple[str, str]) -> _Span | None:
        """The bytes to send, all of them where no (single) range is asked for; `None` where there are none such."""
        found = _RANGE.fullmatch(asked or "") if self.ranges else None
        if found is None or found[0] == "bytes=-" or condition not in (None, *current):
            return _Span(0, size, partial=False)
        first, last = found.groups()
        if not first:
            return _Span(max(0, size - int(last)), size, partial=True) if int(last) and size else None
        if int(first) >= size or (last and int(last) < int(first)):
            return None
        return _Span(int(first), min(int(last) + 1, size) if last else size, partial=True)


class _Span(NamedTuple):
    start: int
    stop: int
    partial: bool


def _head(handler: BaseHTTPRequestHandler, status: int, length: int | None, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for key, value in headers.items():
        handler.send_header(key, value)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()


def _plain(handler: BaseHTTPRequestHandler, status: int, text: str, **headers: str) -> None:
    body = text.encode() + b"\n"
    _head(handler, status, len(body), {"Content-Type": "text/plain", **headers})
    if handler.command != "HEAD":
        handler.wfile.write(body)


def _page(handler: BaseHTTPRequestHandler, path: Path) -> None:
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in os.scandir(path))
    links = (f'<li><a href="{quote(name, errors="surrogateescape")}">{html.escape(name)}</a></li>' for name in names)
    title = html.escape(handler.path)
    page = f"<!DOCTYPE html>\n<title>{title}</title>\n<ul>\n" + "\n".join(links) + "\n</ul>\n"
    body = page.encode("utf-8", "replace")
    _head(handler, 200, len(body), {"Content-Type": "text/html; charset=utf-8"})
    if handler.command != "HEAD":
        handler.wfile.write(body)
