"""The fast road: the system's OpenSSH client, one process per channel, multiplexed over few connections.

A connection belongs to a client in the background, which stays for `persist_s` after its last channel, so that the next
process needs no login (OpenSSH's ControlPersist). When this process dies, however it dies, its pipes close, and the
programs over there end.

A connection that the user has open, where ssh_config has a `ControlPath`, is taken instead: it may have taken a second
factor to open.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import select
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import TypeVar

from rh.errors import DeadlineError, InvalidError, UnavailableError
from rh.systems.ssh.transport import Channel, Host, Transport, explain

__all__ = ["OpenSSH", "available"]

PER_CONNECTION = 8
"""sshd allows 10 sessions per connection unless it is told otherwise."""
_PATIENCE_S = 5.0
"""A connection that another process left has so long to answer, before it is taken for lost."""
_FITTING = re.compile(r"[\w/.,:+@-]{1,47}", re.ASCII)
"""Paths below which control sockets can be. A socket's path has 107 bytes at most: up to 43 are ours, 17 are added by
OpenSSH while it makes one. It takes blanks, quotes, `%` and `$` for more than themselves."""
FAST_CIPHER = "aes128-gcm@openssh.com"
_PIPE_BYTES = 1 << 20
_WATCH_S = 0.5
T = TypeVar("T")


def available() -> str | None:
    """The client's path, if there is one."""
    return shutil.which("ssh")


class Pipe(Channel):
    """A channel through one `ssh` process."""

    def __init__(self, argv: Sequence[str], host: Host, owner: OpenSSH) -> None:
        self._host, self._owner = host, owner
        self._timeout_ms = int(host.timeout_s * 1000)
        environment = {**os.environ, "LC_ALL": "C"}
        environment.pop("SSH_ASKPASS", None)
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            bufsize=0,
            start_new_session=True,
            cwd="/",  # a connection that stays keeps no disk busy
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr  # noqa: PT018
        self._in = self._process.stdin.fileno()
        self._out = self._process.stdout.fileno()
        self._err = self._process.stderr.fileno()
        for fd in (self._in, self._out):
            os.set_blocking(fd, False)
            try:
                fcntl.fcntl(fd, getattr(fcntl, "F_SETPIPE_SZ", 1031), _PIPE_BYTES)
            except OSError:
                continue  # a smaller pipe is only slower
        os.set_blocking(self._err, False)
        self._said = b""
        self._readable, self._writable, self._either = select.poll(), select.poll(), select.poll()
        self._readable.register(self._out, select.POLLIN)
        self._either.register(self._out, select.POLLIN)
        self._either.register(self._err, select.POLLIN)
        self._writable.register(self._in, select.POLLOUT)
        self.closed = False

    def send(self, *parts: bytes | bytearray | memoryview) -> None:
        left = [memoryview(part) for part in parts if len(part)]
        while left:
            try:
                done = os.writev(self._in, left[:512])
            except BlockingIOError:
                if not self._writable.poll(self._timeout_ms):
                    raise DeadlineError("the host does not take our bytes", where=str(self._host)) from None
                continue
            except OSError as error:
                raise self.lost() from error
            while left and done >= len(left[0]):
                done -= len(left.pop(0))
            if done:
                left[0] = left[0][done:]

    def readinto(self, view: memoryview) -> int:
        while True:
            try:
                return os.readv(self._out, [view])
            except BlockingIOError:
                self._wait()
            except OSError as error:
                raise self.lost() from error

    def _wait(self) -> None:
        """Until there is something to read, taking what comes on standard error meanwhile so that it blocks nobody."""
        while True:
            ready = self._either.poll(self._timeout_ms)
            if not ready:
                self._hear()
                raise DeadlineError(
                    f"no sign of life for {self._host.timeout_s:g} s{_told(self._text())}", where=str(self._host)
                )
            if any(fd == self._out for fd, _ in ready):
                return
            self._hear()
            if any(event & (select.POLLHUP | select.POLLERR) for _, event in ready):
                self._either.unregister(self._err)

    def waiting(self) -> bool:
        return bool(self._readable.poll(0))

    def alive(self) -> bool:
        return not self.closed and self._process.poll() is None and not self._readable.poll(0)

    def status(self) -> tuple[int | None, str]:
        self._hear()
        try:
            status = self._process.wait(2)
        except subprocess.TimeoutExpired:
            return None, self._text()
        self._hear()
        return (None if status in (255, -9, -15) else status), self._text()

    def lost(self) -> Exception:
        """The error for a channel that ended by itself."""
        return explain(self.status()[1], self._host, self._owner.address)

    @contextmanager
    def patience(self, seconds: float | None) -> Iterator[None]:
        """Wait for signs of life no longer than `seconds`, if that is less than usual."""
        usual = self._timeout_ms
        self._timeout_ms = usual if seconds is None else min(usual, int(seconds * 1000))
        try:
            yield
        finally:
            self._timeout_ms = usual

    def _hear(self) -> None:
        while True:
            try:
                more = os.read(self._err, 65536)
            except OSError:
                return
            if not more:
                return
            self._said = (self._said + more)[-16384:]

    def _text(self) -> str:
        return self._said.decode("utf-8", "replace")

    def whole(self, stdin: bytes, timeout_s: float | None) -> tuple[int, bytes, bytes]:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        given: bytes | None = stdin
        while True:
            left = _WATCH_S if until is None else min(_WATCH_S, until - time.monotonic())
            try:
                out, err = self._process.communicate(given, left)
            except subprocess.TimeoutExpired as error:
                given = None
                if self._process.poll() is not None:
                    # The connection of an older client (8.4 and before) goes on holding our standard error.
                    out, err = error.stdout or b"", error.stderr or b""
                elif until is None or time.monotonic() < until:
                    continue
                else:
                    raise DeadlineError("the command did not end in time", where=str(self._host)) from error
            break
        if self._process.returncode == 255:
            raise explain(err.decode("utf-8", "replace"), self._host, self._owner.address)
        return self._process.returncode, out, err

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for file in (self._process.stdin, self._process.stdout, self._process.stderr):
            file.close()  # type: ignore[union-attr]
        self._owner.left(self)

    def end(self) -> None:
        """End the process."""
        try:
            self._process.wait(0.05)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def forget(self) -> None:
        self.closed = True
        for file in (self._process.stdin, self._process.stdout, self._process.stderr):
            file.close()  # type: ignore[union-attr]
        self._process.returncode = 0  # not our child


class _Line:
    """One connection: its control socket, and our channels on it."""

    def __init__(self, path: str, *, ours: bool = True) -> None:
        self.path, self.ours = path, ours
        self.proved = False  # whether it has carried a channel of ours
        self.pipes: set[Pipe] = set()


class OpenSSH(Transport):
    """Channels to one host through `ssh`."""

    def __init__(self, host: Host) -> None:
        program = available()
        if program is None:
            raise UnavailableError("no ssh client is installed", where=str(host), hint='set transport = "paramiko"')
        self._program = program
        self.host = host
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._lines: list[_Line] = []
        self._users: _Line | None = None
        self._stem: str | None = None
        self._resolved: dict[str, str] | None = None

    def open(self, command: str, begin: Callable[[Channel], T], *, subsystem: bool = False) -> T:
        words = ["-s", "--", self.host.host, command] if subsystem else ["--", self.host.host, command]
        with self._opening:
            line = self._theirs() or self._pick()
            if not line.proved:
                # Nobody can share a connection before it stands.
                return self._proved(line, words, begin)
        return _begun(self._start(line, words), begin)

    def _proved(self, line: _Line, words: Sequence[str], begin: Callable[[Channel], T]) -> T:
        """The first channel of ours on a connection. One that another process left may lead nowhere by now."""
        if line.ours and os.path.exists(line.path):
            try:
                found = _begun(self._start(line, words), begin, within_s=_PATIENCE_S)
            except (UnavailableError, DeadlineError):
                self._leave(line)
            else:
                line.proved = True
                return found
        found = _begun(self._start(line, words), begin)
        line.proved = True
        return found

    def _leave(self, line: _Line) -> None:
        """No more channels begin on this connection; whoever has some on it keeps them."""
        with suppress(DeadlineError):
            self._ask("-O", "stop", "-S", line.path, within_s=_PATIENCE_S)
        with suppress(OSError):
            os.unlink(line.path)

    def _theirs(self) -> _Line | None:
        """The connection that the user has open, if there is one with room."""
        path = self._resolve().get("controlpath", "none")
        line = self._users
        if line is None and os.path.exists(path) and not self._ask("-O", "check", "-S", path).returncode:
            line = self._users = _Line(path, ours=False)
        if line is None or len(line.pipes) >= PER_CONNECTION or not os.path.exists(path):
            return None
        return line

    def _pick(self) -> _Line:
        """A connection with room, or one that is to be made."""
        with self._lock:
            self._lines = [line for line in self._lines if line.pipes or os.path.exists(line.path)]
            line = min(self._lines, key=lambda line: len(line.pipes), default=None)
            room = 2 if len(self._lines) < self.host.connections else PER_CONNECTION
            if line is None or len(line.pipes) >= room:
                taken = {line.path for line in self._lines}
                stem = self._sockets()
                path = next(path for number in count() if (path := f"{stem}-{number}") not in taken)
                line = _Line(path)
                self._lines.append(line)
            return line

    def _sockets(self) -> str:
        """What the paths of our control sockets begin with: those of this process, or of all who log in just so."""
        if self._stem is None:
            directory = _control_directory()
            mark = f"m{self._mark()}" if self.host.persist_s else f"{os.getpid()}-{secrets.token_hex(4)}"
            self._stem = os.path.join(directory, mark)
        return self._stem

    def _mark(self) -> str:
        """Stands for all that decides who logs in where, and whom we trust there. What changes it begins anew."""
        from hashlib import sha256

        told = self._resolve()
        known = (*told.get("userknownhostsfile", "").split(), *told.get("globalknownhostsfile", "").split())
        files = [self.host.config_file, "~/.ssh/config", "/etc/ssh/ssh_config", self.host.known_hosts_file, *known]
        files += [self.host.identity_file, told.get("identityfile"), told.get("certificatefile")]
        stats = [_stat(os.path.expanduser(name)) for name in files if name]
        environment = [os.environ.get(name) for name in ("HOME", "SSH_AUTH_SOCK")]
        said = repr((self._program, self._options(), self.host.host, sorted(told.items()), stats, environment))
        return sha256(said.encode("utf-8", "surrogateescape")).hexdigest()[:20]

    def _start(self, line: _Line, words: Sequence[str]) -> Pipe:
        share = ["-o", f"ControlPath={line.path}", "-o", f"ControlMaster={'auto' if line.ours else 'no'}"]
        if line.ours:
            share += ["-o", f"ControlPersist={self.host.persist_s or 1}"]
        pipe = Pipe([self._program, *self._options(), *share, *words], self.host, self)
        with self._lock:
            line.pipes.add(pipe)
        return pipe

    def left(self, pipe: Pipe) -> None:
        """A channel has been closed."""
        with self._lock:
            for line in self._all():
                line.pipes.discard(pipe)
        pipe.end()

    def _plain(self) -> list[str]:
        host = self.host
        options = ["-F", host.config_file] if host.config_file else []
        if host.port:
            options += ["-p", str(host.port)]
        if host.user:
            options += ["-l", host.user]
        return options

    def _options(self) -> list[str]:
        host = self.host
        wait = max(1, int(host.timeout_s))
        alive = max(1, int(host.timeout_s / 3))
        options = self._plain()
        for option in (
            "BatchMode=yes",
            "LogLevel=ERROR",
            "ForwardAgent=no",
            "ForwardX11=no",
            "ClearAllForwardings=yes",
            "PermitLocalCommand=no",
            "RequestTTY=no",
            "RemoteCommand=none",
            "StrictHostKeyChecking=" + ("accept-new" if host.accept_new else "yes"),
            "UpdateHostKeys=no",
            f"ConnectTimeout={wait}",
            "ConnectionAttempts=1",
            f"ServerAliveInterval={alive}",
            "ServerAliveCountMax=3",
        ):
            options += ["-o", option]
        if host.known_hosts_file:
            options += [
                "-o",
                f"UserKnownHostsFile={_quote(host.known_hosts_file)}",
                "-o",
                "GlobalKnownHostsFile=/dev/null",
            ]
        if host.identity_file:
            options += ["-i", host.identity_file, "-o", "IdentitiesOnly=yes"]
        ciphers = self._resolve().get("ciphers", "").split(",")
        if FAST_CIPHER in ciphers:
            ciphers.remove(FAST_CIPHER)
            options += ["-c", ",".join([FAST_CIPHER, *ciphers])]
        return options

    def _resolve(self) -> dict[str, str]:
        """What ssh_config says of the host; asked once."""
        if self._resolved is None:
            done = self._ask("-G")
            if done.returncode:
                raise InvalidError(
                    f"the ssh configuration is not valid: {done.stderr.strip()[-300:]}",
                    where=self.host.config_file or str(self.host),
                )
            pairs = (line.partition(" ") for line in done.stdout.splitlines())
            self._resolved = {key: value for key, _, value in reversed(list(pairs))}
        return self._resolved

    def _ask(self, *options: str, within_s: float | None = None) -> subprocess.CompletedProcess[str]:
        """Run the client for what it tells by itself, without a connection."""
        try:
            return subprocess.run(
                [self._program, *options, *self._plain(), "--", self.host.host],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",  # what is in a configuration need not be text
                timeout=within_s or self.host.timeout_s,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired as error:
            raise DeadlineError("the ssh client took too long to answer", where=str(self.host)) from error

    def address(self) -> tuple[str, int, str | None]:
        found = self._resolve()
        return found.get("hostname", self.host.host), int(found.get("port", 22)), found.get("user")

    def _all(self) -> list[_Line]:
        return [*self._lines, self._users] if self._users else self._lines

    def close(self) -> None:
        with self._lock:
            pipes = [pipe for line in self._all() for pipe in line.pipes]
        for pipe in pipes:
            pipe.close()

    def forget(self) -> None:
        for line in self._all():
            for pipe in line.pipes:
                if not pipe.closed:
                    pipe.forget()
        self._lines, self._users = [], None


def _control_directory() -> str:
    """The user's own directory of control sockets. Masters remove theirs; those of killed ones are removed here."""
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    base = base if _FITTING.fullmatch(base) else "/tmp"  # noqa: S108 - checked below
    path = os.path.join(base, f"rh-ssh-{os.getuid()}")
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass  # ours from before, or a trap: see below
    except OSError:
        return _fresh_directory()
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        return _fresh_directory()
    for name in os.listdir(path):
        if "." not in name and _is_dead(os.path.join(path, name)):  # with a dot: one that is being made
            with suppress(OSError):  # another process was faster
                os.unlink(os.path.join(path, name))
    return path


def _fresh_directory() -> str:
    """A new directory of our own, where the usual one cannot be had."""
    base = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="rh-", dir=base if _FITTING.fullmatch(base) else "/tmp")  # noqa: S108 - new


def _is_dead(path: str) -> bool:
    """Whether nobody listens on a socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False


def _begun(pipe: Pipe, begin: Callable[[Channel], T], *, within_s: float | None = None) -> T:
    try:
        with pipe.patience(within_s):
            return begin(pipe)
    except BaseException:
        pipe.close()
        raise


def _stat(path: str) -> tuple[str, int, int, int] | None:
    """Differs when a file is another, or was changed."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return path, found.st_ino, found.st_size, found.st_mtime_ns


def _told(text: str) -> str:
    lines = text.strip().splitlines()
    return f" ({lines[-1][:200]})" if lines else ""


def _quote(path: str) -> str:
    return f'"{path}"' if " " in path else path
