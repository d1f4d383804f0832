"""One Git repository at one ref: where it comes from, and the objects in it. The only file that imports dulwich.

Remote repositories are fetched shallowly (one commit, no history) into a bare cache below `rh.config.home()`, shared by
all processes of the user; local ones are read where they are. Every object is checked against its name when it is read.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import traceback
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from rh import config, plugins
from rh.errors import (
    AccessError,
    FullError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from rh.forks import Lock
from rh.observe import count
from rh.systems.base import Settings
from rh.systems.git import lfs
from rh.systems.web.client import Web, netrc_headers, public

__all__ = ["Member", "Repository", "error_of"]

_SHA = re.compile(r"[0-9a-f]{40}")
_SHORT = re.compile(r"[0-9a-f]{7,39}")
_TREES = 512


class Member(NamedTuple):
    """One name in a tree: its mode as Git writes it, and the object's name (hex)."""

    name: str
    mode: int
    sha: str

    @property
    def is_tree(self) -> bool:
        return self.mode == 0o040000


class Repository:
    """A repository pinned, at first use, to the commit its ref then names.

    Args:
        url: `https://…`, `http://…`, `ssh://…` or `file:///…`.
        ref: a branch, a tag, a full commit id, or `""` for the default branch.
        system: the name requests are counted under.
    """

    def __init__(self, url: str, ref: str, settings: Settings, system: str) -> None:
        self.url = url
        self.ref = ref
        self._settings = settings
        self._system = system
        self._timeout_s = float(settings["timeout_s"])
        self._scheme = urlsplit(url).scheme
        self._web = Web(timeout_s=self._timeout_s, secure=self._scheme == "https", headers={"User-Agent": "git/rh"})
        self._lock = Lock()
        self._pid = 0
        self._repo: Any = None
        self._commit: str | None = None
        self._tree = ""
        self.modified = 0.0
        self._trees: dict[str, list[Member]] = {}
        self._names: dict[str, dict[str, Member]] = {}
        self._sizes: dict[str, tuple[int, lfs.Pointer | None]] = {}

    # objects

    def root(self) -> str:
        """The tree of the commit (fetched now, if it is not here yet)."""
        with self._lock:
            self._ready()
            return self._tree

    def tree(self, sha: str) -> list[Member]:
        """The members of a tree, in Git's order, which is that of keys."""
        with self._lock:
            found = self._trees.get(sha)
            if found is None:
                found = list(_members(self._raw(sha, 2)))
                if len(self._trees) >= _TREES:
                    self._trees.clear()
                self._trees[sha] = found
            return found

    def child(self, sha: str, name: str) -> Member | None:
        """The member of a tree that has this name."""
        with self._lock:
            names = self._names.get(sha)
            if names is None:
                if len(self._names) >= _TREES:
                    self._names.clear()
                names = self._names[sha] = {member.name: member for member in self.tree(sha)}
            return names.get(name)

    def blob(self, sha: str) -> bytes:
        """The bytes of a blob."""
        with self._lock:
            return self._raw(sha, 3)

    def size(self, sha: str) -> tuple[int, lfs.Pointer | None]:
        """The size in bytes of the file a blob is, or stands for; and the LFS pointer in the latter case."""
        with self._lock:
            found = self._sizes.get(sha)
            if found is None:
                data = self._raw(sha, 3)
                pointer = lfs.parse(data)
                found = self._sizes[sha] = (pointer.size if pointer else len(data), pointer)
            return found

    def large_file(self, pointer: lfs.Pointer) -> str:
        """The path of the LFS file a pointer stands for, verified, fetched (again) if need be."""
        with self._lock:
            self._ready()
            path = lfs.path_of(self._repo.commondir(), pointer)
        try:
            whole = lfs.holds(path, pointer)
            if whole:
                return path
            if self._scheme not in ("http", "https"):
                raise lfs.unsupported(self.url) if whole is None else lfs.damaged(self.url, pointer)
            lfs.download(self._web, self.url, pointer, path, login=self._login, system=self._system)
        except OSError as error:
            raise error_of(error, self.url) from error
        return path

    def _raw(self, sha: str, kind: int) -> bytes:
        self._ready()
        try:
            found, data = self._repo.object_store.get_raw(sha.encode())
        except KeyError as error:
            raise NotFoundError(f"the repository lacks object {sha}", where=self.url) from error
        except Exception as error:
            _forget(error)
            raise error_of(error, self.url, reading=True) from error
        label = {1: b"commit", 2: b"tree", 3: b"blob", 4: b"tag"}.get(found, b"?")
        actual = hashlib.sha1(b"%s %d\0" % (label, len(data)) + data, usedforsecurity=False).hexdigest()
        if actual != sha or found != kind:
            hint = f"remove {self._repo.path} and try again" if self._scheme != "file" else "run git fsck"
            raise IntegrityError(
                "an object of the repository is damaged", where=self.url, hint=hint, expected=sha, got=actual
            )
        return bytes(data)

    # getting there

    def close(self) -> None:
        """Close files and connections; the next use opens them again."""
        with self._lock:
            if self._repo is not None and self._pid == os.getpid():
                _close(self._repo)
            self._repo = None
            self._web.close()

    def _ready(self) -> None:
        if self._repo is not None and self._pid == os.getpid():
            return
        # A forked child shares the offsets of its parent's open packs: it opens its own.
        dulwich = plugins.need("dulwich.repo", purpose="Git repositories")
        self._pid = os.getpid()
        repo = None
        try:
            repo = self._repo = (
                dulwich.Repo(self.url.removeprefix("file://")) if self._scheme == "file" else self._cache(dulwich)
            )
            if self._scheme == "file":
                self._commit = self._commit or self._peel(self._local_ref())
            elif self._commit is None or self._commit.encode() not in repo.object_store:
                with self._locked():
                    self._commit = self._peel(self._fetch())
            if repo.object_format.name != "sha1":
                raise UnsupportedError("a repository with SHA-256 names cannot be read yet", where=self.url)
            commit = repo[self._commit.encode()]
        except Exception as error:
            self._repo = None
            _forget(error)
            if repo is not None:
                _close(repo)
            raise error_of(error, self.url, reading=not isinstance(error, OSError)) from error
        weakref.finalize(self, _close, repo)
        self._tree, self.modified = commit.tree.decode(), float(commit.commit_time)

    def _cache(self, dulwich: Any) -> Any:
        name = hashlib.sha256(self.url.encode()).hexdigest()[:32]
        self._cached = str(config.home() / "cache" / "git" / name)
        with self._locked():
            if not os.path.exists(os.path.join(self._cached, "HEAD")):
                with suppress(FileNotFoundError):
                    shutil.rmtree(self._cached)  # of a process that was killed while it made one
                os.makedirs(self._cached)
                return dulwich.Repo.init_bare(self._cached)
            return dulwich.Repo(self._cached)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time fetches into a cache; the kernel lets go of the lock when one dies."""
        os.makedirs(os.path.dirname(self._cached), mode=0o700, exist_ok=True)
        handle = os.open(self._cached + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing would not do while a child forked meanwhile has it open
            os.close(handle)

    def _candidates(self) -> list[bytes]:
        """Full names a ref may mean, in Git's own order."""
        if not self.ref:
            return [b"HEAD"]
        ref = self.ref.encode("utf-8", "surrogateescape")
        return [ref] if ref.startswith(b"refs/") else [b"refs/tags/" + ref, b"refs/heads/" + ref]

    def _missing(self) -> RhError:
        if not self.ref:
            return NotFoundError("the repository is empty, or has no default branch", where=self.url)
        hint = "give all 40 digits of a commit id" if _SHORT.fullmatch(self.ref) else None
        return NotFoundError(f"the repository has no branch, tag or commit {self.ref!r}", where=self.url, hint=hint)

    def _local_ref(self) -> bytes:
        if _SHA.fullmatch(self.ref):
            if self.ref.encode() in self._repo.object_store:
                return self.ref.encode()
            raise self._missing()
        for name in self._candidates():
            try:
                return bytes(self._repo.refs[name])
            except KeyError:
                continue
        raise self._missing()

    def _peel(self, sha: bytes) -> str:
        """The commit an id leads to, through annotated tags."""
        for _ in range(16):
            try:
                found = self._repo[sha]
            except KeyError as error:
                raise self._missing() from error
            if found.type_name == b"commit":
                return sha.decode()
            if found.type_name != b"tag":
                break
            sha = found.object[1]
        raise InvalidError(f"{self.ref!r} is no commit", where=self.url)

    def _fetch(self) -> bytes:
        """Bring the ref's commit into the cache; its id. One round trip where it is here already.

        A cache that was removed is filled again with the commit that this handle stays on.
        """
        wanted = self._commit or self.ref
        exact = wanted.encode() if _SHA.fullmatch(wanted) else None
        if exact is not None and exact in self._repo.object_store:
            return exact
        chosen: list[bytes] = []

        def choose(refs: Mapping[bytes, bytes], *_: object, **__: object) -> list[bytes]:
            found = exact or next((refs[name] for name in self._candidates() if refs.get(name)), None)
            if found is None:
                raise self._missing()
            chosen.append(found)
            return [] if found in self._repo.object_store else [found]

        prefixes = [] if exact else self._candidates()
        try:
            self._run_fetch(choose, depth=1, prefixes=prefixes)
        except (NotFoundError, AccessError):
            raise
        except RhError:
            if exact is None:
                raise
            # Some servers give out commits by id only when a ref points at them: take the history then.
            self._run_fetch(lambda refs, *_, **__: [sha for name, sha in refs.items() if sha and b"^" not in name])
            if exact not in self._repo.object_store:
                raise self._missing() from None
        if not chosen:
            raise self._missing()
        return chosen[0]

    def _run_fetch(self, choose: Any, *, depth: int | None = None, prefixes: list[bytes] | None = None) -> None:
        before = self._packed()
        path = urlsplit(self.url).path
        with ExitStack() as stack:
            try:
                client = self._client(stack)
                client.fetch(path, self._repo, determine_wants=choose, depth=depth, ref_prefix=prefixes or None)
            except Exception as error:
                raise error_of(error, self.url) from error
            finally:
                asked = 0 if self._scheme.startswith("http") else 1
                count(self._system, "fetch", requests=asked, received=self._packed() - before)

    def _packed(self) -> int:
        folder = os.path.join(self._cached, "objects", "pack")
        return sum(entry.stat().st_size for entry in os.scandir(folder)) if os.path.isdir(folder) else 0

    def _client(self, stack: ExitStack) -> Any:
        client = plugins.need("dulwich.client", purpose="Git repositories")
        parts = urlsplit(self.url)
        if parts.scheme in ("http", "https"):
            return client.HttpGitClient(f"{parts.scheme}://{parts.netloc}", pool_manager=_Pool(self._web, self))
        vendor = _Ssh(client.SubprocessWrapper, self._settings, self._timeout_s)
        ssh = client.SSHGitClient(parts.hostname, port=parts.port, username=parts.username, vendor=vendor)
        connect = ssh._connect  # noqa: SLF001 - dulwich forgets to close a connection that fails early

        def connected(*arguments: Any, **options: Any) -> Any:
            found = connect(*arguments, **options)
            stack.callback(found[0].close)
            return found

        ssh._connect = connected  # noqa: SLF001
        stack.callback(vendor.close)
        return ssh

    def _login(self, url: str) -> Mapping[str, str] | None:
        """What a host may be told about us: GitHub the token of the environment, others what `~/.netrc` has."""
        parts = urlsplit(url)
        token = os.environ.get("GITHUB_TOKEN") or os.environ.get("GH_TOKEN")
        if token and parts.scheme == "https" and parts.hostname == "github.com":
            import base64

            return {"Authorization": "Basic " + base64.b64encode(f"x-access-token:{token}".encode()).decode()}
        return netrc_headers(url)

    def ask(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> Any:
        """One request of the Git protocol."""
        count(self._system, "fetch")
        answer = self._web.request(method, url, headers, body=body, login=self._login(url))
        if answer.status != 200:
            answer.close()  # the status says all; nobody reads the page that came with it
        return answer


class _Pool:
    """What dulwich takes for a connection pool: our client, with its rules."""

    headers: Mapping[str, str]

    def __init__(self, web: Web, repository: Repository) -> None:
        self.headers = web.headers
        self._repository = repository

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: Any = None, **_library: object
    ) -> Any:
        return self._repository.ask(method, url, headers, body)


class _Ssh:
    """Runs the system's OpenSSH client: no question asked, no unknown host accepted, no endless silence."""

    def __init__(self, wrapper: Any, settings: Settings, timeout_s: float) -> None:
        self._wrapper = wrapper
        self._settings = settings
        self._timeout_s = max(1, round(timeout_s))
        self._processes: list[subprocess.Popen[bytes]] = []

    def run_command(
        self, host: str, command: bytes, username: str | None = None, port: int | None = None, **_library: object
    ) -> Any:
        if host.startswith("-") or (username or "").startswith("-"):
            raise InvalidError(f"not a host: {host!r}")
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": self._timeout_s,
            "ServerAliveInterval": max(1, self._timeout_s // 2),
            "ServerAliveCountMax": 2,
        }
        for key, option in (("identity_file", "IdentityFile"), ("known_hosts_file", "UserKnownHostsFile")):
            if self._settings.get(key):
                options[option] = self._settings[key]
        argv = ["ssh", "-x", "-T", *(f"-o{name}={value}" for name, value in options.items())]
        argv += ["-F", str(self._settings["config_file"])] if self._settings.get("config_file") else []
        argv += ["-p", str(port)] if port else []
        argv += ["-l", username] if username else []
        try:
            process = subprocess.Popen(
                [*argv, "--", host, command],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except FileNotFoundError as error:
            raise UnsupportedError(
                "the OpenSSH client is not installed", hint="apt-get install openssh-client"
            ) from error
        self._processes.append(process)
        return self._wrapper(process)

    def close(self) -> None:
        """End what is still running."""
        for process in self._processes:
            process.kill()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            process.wait()


def _forget(error: BaseException | None) -> None:
    """Drop what an error's frames hold: views of mapped packs, which could not be closed while they live."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _close(repo: Any) -> None:
    with suppress(BufferError):
        repo.close()


def _members(data: bytes) -> Iterator[Member]:
    at = 0
    while at < len(data):
        space, end = data.index(b" ", at), data.index(b"\0", at)
        name = data[space + 1 : end].decode("utf-8", "surrogateescape")
        yield Member(name, int(data[at:space], 8), data[end + 1 : end + 21].hex())
        at = end + 21


def error_of(error: Exception, where: str, *, reading: bool = False) -> RhError:
    """The error of ours for an exception of dulwich."""
    if isinstance(error, RhError):
        return error
    from dulwich import client, errors

    where = public(where) if where.startswith("http") else where
    login = "a private one needs a login: GITHUB_TOKEN for GitHub, ~/.netrc, or git+ssh://"
    if isinstance(error, client.HTTPUnauthorized):
        return UnauthenticatedError(
            "the server wants to know who we are, or there is no such repository", where=where, hint=login
        )
    if isinstance(error, errors.NotGitRepository):
        return NotFoundError("there is no such repository", where=where, hint=login)
    text = str(error).strip() or type(error).__name__
    if isinstance(error, errors.HangupException):
        lines = [line.decode("utf-8", "replace") for line in error.stderr_lines or ()]
        text = "; ".join(line.strip() for line in lines if line.strip()) or text
        if "Host key verification failed" in text:
            return AccessError(
                f"the host's key is unknown or has changed: {text}",
                where=where,
                hint="see ssh-keyscan and ~/.ssh/known_hosts",
            )
        if "Permission denied" in text:
            return UnauthenticatedError(
                f"the host refused the login: {text}", where=where, hint="check the key and the agent"
            )
        if "does not exist" in text or "not appear to be a git repository" in text or "not found" in text.lower():
            return NotFoundError(f"there is no such repository: {text}", where=where)
        return UnavailableError(f"the other side hung up: {text}", where=where)
    status = re.search(r"unexpected http resp (\d+)", text)
    if status and status.group(1) == "403":
        return AccessError("the server does not let us read this repository", where=where, hint=login)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FullError("no space is left for the copy of the repository", where=where)
    if isinstance(error, errors.ChecksumMismatch | errors.ObjectFormatException) or reading:
        return IntegrityError(f"the repository is damaged: {text}", where=where)
    if isinstance(error, PermissionError):
        return AccessError(f"the repository cannot be read: {text}", where=where)
    return UnavailableError(f"the repository could not be fetched: {text}", where=where)
