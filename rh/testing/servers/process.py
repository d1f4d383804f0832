"""A server program on a free loopback port: started, waited for, stopped, and never left behind."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from rh.errors import DeadlineError, InvalidError, UnavailableError, UnsupportedError

__all__ = ["LOOPBACK", "Port", "Server", "answers", "at", "private_file", "program", "unguessable"]

LOOPBACK = "127.0.0.1"
_GUARD = Path(__file__).with_name("guard.py")
_PORTS = range(20000, 32000)
"""Below the kernel's range for outgoing connections: none of those takes a port between our look and its use."""


class Port:
    """A loopback port nobody listens on, kept from other servers of ours until `release`."""

    def __init__(self) -> None:
        for _ in range(1000):
            self.number = _PORTS.start + secrets.randbelow(len(_PORTS))
            self._claim: socket.socket | None = _claim(self.number)
            if self._claim is not None:
                return
        raise UnavailableError("no free port on the loopback interface", where=LOOPBACK)

    def release(self) -> None:
        """Let others have it."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None


def _claim(number: int) -> socket.socket | None:
    """Hold a name that stands for the port in this machine's abstract namespace, if the port is free."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if sys.platform == "linux":
            claim.bind(f"\0rh-port-{number}")
        with socket.socket() as probe:
            probe.bind((LOOPBACK, number))
    except OSError:
        claim.close()
        return None
    return claim


def unguessable(length: int = 24) -> str:
    """A random secret of letters and digits."""
    return secrets.token_hex((length + 1) // 2)[:length]


def private_file(path: Path, text: str | bytes) -> Path:
    """Write a file only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode() if isinstance(text, str) else text)
    return path


def program(name: str, *, install: str, places: Sequence[str] = ()) -> str:
    """The path of a program, looked for beside this Python, on PATH and in `places`.

    Raises:
        UnsupportedError: it is not there; the hint is the line that installs it.
    """
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join(
        [beside, os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin", *places]
    )
    found = shutil.which(name, path=path)
    if found is None:
        raise UnsupportedError(f"the program {name} is not installed", where=name, hint=install)
    return found


def answers(port: int, *, timeout_s: float = 1.0) -> bool:
    """Whether something accepts connections on a loopback port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout_s):
            return True
    except OSError:
        return False


def at(url: str, via: int | None) -> str:
    """A URL (or text that holds one) of this machine with the port `via`, where there is one."""
    return url if via is None else re.sub(rf"({re.escape(LOOPBACK)}):\d+", rf"\1:{via}", url)


class Server(ABC):
    """One server program: `with` it, or `start` and `stop` it.

    Attributes:
        port: the loopback port it listens on, the same over restarts.
        directory: its private directory (logs, keys, data), removed at the end.
    """

    name: ClassVar[str]
    start_timeout_s: ClassVar[float] = 30.0
    grace_s: ClassVar[float] = 3.0
    """How long it may take to end by itself before it is killed."""

    def __init__(self) -> None:
        self._port: Port | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None
        self._lock = threading.RLock()
        self.pid = 0
        self.started_s = 0.0
        """How long the last start took, in seconds."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is, without a secret."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The command line. Nothing secret belongs in it."""

    def _environment(self) -> Mapping[str, str]:
        """Variables the program gets besides PATH; its HOME is its private directory."""
        return {}

    def _prepare(self) -> None:  # noqa: B027 - most have nothing to do
        """Write the files the program needs, before every start."""

    def _ready(self) -> bool:
        """Whether it serves."""
        return answers(self.port)

    def _furnish(self) -> None:  # noqa: B027 - most have nothing to do
        """Make buckets and the like, once it serves."""

    @property
    def port(self) -> int:
        if self._port is None:
            self._port = Port()
        return self._port.number

    @property
    def directory(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix=f"rh-{self.name}-"))
        return self._directory

    @property
    def log(self) -> str:
        """What the program printed so far."""
        try:
            return (self.directory / "log").read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    @property
    def ended(self) -> str | None:
        """How it ended by itself since it was started: `killed by signal 9`, `status 1`; `None` if it did not."""
        status = None if self._guard is None else self._guard.poll()
        if status is None:
            return None
        return f"killed by signal {status - 128}" if status > 128 else f"status {status}"

    def start(self) -> Self:
        """Start it and wait until it serves.

        Raises:
            UnsupportedError: the program is not installed.
            UnavailableError, DeadlineError: it did not start, with the end of its log.
        """
        with self._lock:
            if self.running:
                raise InvalidError(f"{self.name} is running already", where=f"{LOOPBACK}:{self.port}")
            begun = time.monotonic()
            first = self._port is None
            for attempt in range(3):
                try:
                    self._launch()
                    self._await()
                    self._furnish()
                    break
                except UnavailableError:
                    taken = "in use" in self.log.lower()
                    self._finish(b"k")
                    if not (taken and first and attempt < 2):
                        self.stop()
                        raise
                    self._forget_port()
                except BaseException:
                    self.stop()
                    raise
            self.started_s = time.monotonic() - begun
            return self

    def _forget_port(self) -> None:
        if self._port is not None:
            self._port.release()
            self._port = None

    def _launch(self) -> None:
        self._prepare()
        command = [str(part) for part in self._command()]
        keep = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
        with (self.directory / "log").open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), str(self.grace_s), str(self.directory), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**keep, "HOME": str(self.directory), **self._environment()},
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        line = self._guard.stdout.readline()
        self.pid = int(line) if line.strip().isdigit() else 0

    def _await(self) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        pause = 0.01
        while True:
            if not self.running:
                raise UnavailableError(f"{self.name} did not start:\n{self._tail()}", where=f"{LOOPBACK}:{self.port}")
            if self._ready() and self.running:
                return
            if time.monotonic() > deadline:
                raise DeadlineError(
                    f"{self.name} did not answer within {self.start_timeout_s:.0f} s:\n{self._tail()}",
                    where=f"{LOOPBACK}:{self.port}",
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)

    def _tail(self) -> str:
        return "\n".join(self.log.splitlines()[-20:]) or "(it printed nothing)"

    def _finish(self, order: bytes) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        assert guard.stdin is not None
        assert guard.stdout is not None
        try:
            if order:
                guard.stdin.write(order)
            guard.stdin.close()
        except BrokenPipeError:
            pass  # the program ended by itself, and its guard with it
        try:
            guard.wait(self.grace_s + 5)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()
        guard.stdout.close()

    def kill(self) -> None:
        """Kill it and everything it started, at once (SIGKILL). Data and port stay; `start` brings it back."""
        with self._lock:
            self._finish(b"k")

    def restart(self) -> Self:
        """Kill it and start it again on the same port."""
        with self._lock:
            self.kill()
            return self.start()

    def stop(self) -> None:
        """End it and remove its directory. May be called twice."""
        with self._lock:
            self._finish(b"")
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
                self._directory = None
            self._forget_port()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {LOOPBACK}:{self.port if self._port else '-'}>"
