"""A Git server: Git's own smart HTTP back-end behind a small bridge. Anybody may read it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from rh.errors import InvalidError, UnavailableError
from rh.testing.servers.httpd import WebServer
from rh.testing.servers.process import LOOPBACK, at, program

__all__ = ["GitServer"]

_INSTALL = "apt-get install git"


class GitServer(WebServer):
    """`git http-backend` on a loopback port: `<url>/owner/repo.git` and, as on GitHub, `<url>/owner/repo`."""

    name = "git"

    @property
    def root(self) -> Path:
        """Where the bare repositories are."""
        root = self.directory / "root"
        root.mkdir(exist_ok=True)
        return root

    def settings(self, *, root: str | None = None, via: int | None = None, **more: Any) -> dict[str, Any]:
        """Settings of a system on this server, through a proxy on port `via`; owner/repo are below its endpoint."""
        return {"kind": "git", "endpoint_url": at(self.url, via), **({"root": root} if root else {}), **more}

    def make_repository(self, name: str, *, branch: str = "main") -> str:
        """Make an empty repository `owner/repo`; its URL."""
        path = self._path(name)
        if path.exists():
            raise InvalidError("there is such a repository already", where=str(path))
        path.mkdir(parents=True)
        self._git(path, "init", "--quiet", "--bare", f"--initial-branch={branch}")
        for key in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
            self._git(path, "config", key, "true")
        return f"{self.url}/{name}.git"

    def commit(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        branch: str = "main",
        tag: str | None = None,
        message: str = "more data",
        executable: frozenset[str] = frozenset(),
        links: Mapping[str, str] | None = None,
        removed: frozenset[str] = frozenset(),
    ) -> str:
        """Commit files, links (path → target) and removals on top of a branch; the commit's id.

        Written with `git fast-import`: no working tree, exact bytes, a date that never changes.
        """
        path = self._path(name)
        lines: list[bytes] = [
            b"commit refs/heads/%s" % branch.encode(),
            b"committer Rh <rh@localhost> 1700000000 +0000",
            b"data %d\n%s" % (len(message.encode()), message.encode()),
        ]
        if self._git(path, "for-each-ref", f"refs/heads/{branch}").strip():
            lines.append(b"from refs/heads/%s^0" % branch.encode())
        lines += [b"D " + _quoted(key) for key in sorted(removed)]
        for key, data in files.items():
            mode = b"100755" if key in executable else b"100644"
            lines.append(b"M %s inline %s\ndata %d\n%s" % (mode, _quoted(key), len(data), data))
        for key, target in (links or {}).items():
            lines.append(
                b"M 120000 inline %s\ndata %d\n%s" % (_quoted(key), len(os.fsencode(target)), os.fsencode(target))
            )
        self._git(path, "fast-import", "--quiet", stdin=b"\n".join(lines) + b"\n")
        revision = self._git(path, "rev-parse", f"refs/heads/{branch}").decode().strip()
        if tag is not None:
            self._git(path, "tag", "-a", "-m", tag, tag, revision)
        return revision

    def _path(self, name: str) -> Path:
        return self.root / f"{name.removesuffix('.git')}.git"

    def _environment(self) -> dict[str, str]:
        """Git as if nobody had configured it."""
        person = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in _PERSON.items()}
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.directory),
            "GIT_CONFIG_NOSYSTEM": "1",
            **person,
        }

    def _git(self, path: Path, *words: str, stdin: bytes = b"") -> bytes:
        command = [program("git", install=_INSTALL), "-C", str(path), *words]
        done = subprocess.run(
            command, input=stdin, capture_output=True, env=self._environment(), timeout=120, check=False
        )
        if done.returncode:
            raise UnavailableError(
                f"git {words[0]} failed: {done.stderr.decode(errors='replace').strip()}", where=str(path)
            )
        return done.stdout

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path, _, query = handler.path.partition("?")
        body = _body(handler)
        owner, _, rest = path.lstrip("/").partition("/")
        repository, _, rest = rest.partition("/")
        environment = {
            **self._environment(),
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": handler.command,
            "PATH_INFO": f"/{owner}/{repository.removesuffix('.git')}.git/{rest}",
            "QUERY_STRING": query,
            "CONTENT_TYPE": handler.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_ADDR": LOOPBACK,
            "SERVER_PROTOCOL": "HTTP/1.1",
        }
        for header, variable in (("Content-Encoding", "HTTP_CONTENT_ENCODING"), ("Git-Protocol", "GIT_PROTOCOL")):
            if header in handler.headers:
                environment[variable] = handler.headers[header]
        command = [program("git", install=_INSTALL), "http-backend"]
        done = subprocess.run(command, input=body, capture_output=True, env=environment, timeout=300, check=False)
        head, _, data = done.stdout.partition(b"\r\n\r\n")
        fields = [line.partition(": ") for line in head.decode("latin-1").split("\r\n") if line]
        status = next(
            (int(value.split()[0]) for key, _, value in fields if key.lower() == "status"), 200 if fields else 500
        )
        handler.send_response(status)
        for key, _, value in fields:
            if key.lower() not in ("status", "content-length"):
                handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data)


_PERSON = {"NAME": "Rh", "EMAIL": "rh@localhost", "DATE": "1700000000 +0000"}


def _quoted(key: str) -> bytes:
    """A path as fast-import takes it, whatever is in it."""
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in os.fsencode(key)
    )
    return f'"{escaped}"'.encode("ascii")


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    pieces = []
    while size := int(handler.rfile.readline().partition(b";")[0], 16):
        pieces.append(handler.rfile.read(size))
        handler.rfile.readline()
    while handler.rfile.readline().strip():
        pass  # trailers
    return b"".join(pieces)
