"""Conversations with the far program, and the pool of those at hand.

One session is one far process: it answers one request after the other. Requests that run side by side take several. The
pool belongs to this process and to one host; a forked child begins with none.
"""

from __future__ import annotations

import atexit
import errno
import os
import secrets
import shlex
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from rh.errors import (
    AccessError,
    ConflictError,
    DeadlineError,
    ExistsError,
    FullError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from rh.forks import Lock
from rh.systems.far import wire
from rh.systems.ssh.sftp import SFTP, StatusError, lost
from rh.systems.ssh.transport import Channel, Host, Transport, explain

__all__ = ["NoPython", "Pool", "Session", "pool_of", "problem"]

T = TypeVar("T")

_SESSIONS = 12
"""So many far processes at once; a request that finds all taken for a while starts another all the same."""
_PATIENCE_S = 1.0
_NOISE = 1 << 20
_MODULES = {
    "rh": None,
    "rh.digest": ("rh", "digest.py"),
    "rh.systems": None,
    "rh.systems.far": None,
    "rh.systems.far.wire": ("rh.systems.far", "wire.py"),
    "rh.systems.far.flush": ("rh.systems.far", "flush.py"),
    "rh.systems.far.skip": ("rh.systems.far", "skip.py"),
    "rh.systems.far.files": ("rh.systems.far", "files.py"),
    "rh.systems.far.writer": ("rh.systems.far", "writer.py"),
    "rh.systems.far.work": ("rh.systems.far", "work.py"),
    "rh.systems.far.checks": ("rh.systems.far", "checks.py"),
    "rh.systems.far.http1": ("rh.systems.far", "http1.py"),
    "rh.systems.far.net": ("rh.systems.far", "net.py"),
    "rh.systems.far.ranges": ("rh.systems.far", "ranges.py"),
    "rh.systems.far.peer": ("rh.systems.far", "peer.py"),
    "rh.systems.far.program": ("rh.systems.far", "program.py"),
}
_LOADER = """
from importlib.machinery import ModuleSpec
class Loader:
    def find_spec(self, name, path=None, target=None):
        if name in SOURCES:
            return ModuleSpec(name, self, is_package=not SOURCES[name])
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        exec(compile(SOURCES[module.__name__], module.__name__, "exec"), module.__dict__)
sys.meta_path.insert(0, Loader())
from rh.systems.far import program
program.main(a[1], float(a[2]), z)
"""

_KINDS: dict[str, type[RhError]] = {
    "not_found": NotFoundError,
    "exists": ExistsError,
    "conflict": ConflictError,
    "integrity": IntegrityError,
    "access": AccessError,
    "unauthenticated": UnauthenticatedError,
    "unavailable": UnavailableError,
    "deadline": DeadlineError,
    "invalid": InvalidError,
    "name_clash": NameClashError,
    "unsupported": UnsupportedError,
    "full": FullError,
}
_HINTS = {"full": "free some space there, or choose another place", "access": "check the owner and the mode over there"}


class NoPython(Exception):  # noqa: N818 - a finding, not an error
    """There is no Python 3.7 or newer on the host."""


@cache
def program() -> bytes:
    """The far program as it goes over the channel, compressed."""
    sources = {
        name: (files(place[0]) / place[1]).read_text("utf-8") if place else "" for name, place in _MODULES.items()
    }
    return zlib.compress(f"import sys\nSOURCES = {sources!r}{_LOADER}".encode())


def problem(told: bytes | memoryview, where: Callable[[str], str], asked: str = "") -> RhError:
    """The error the far side tells of. `where` makes the place of the key it names, or that was `asked` about."""
    kind, message, path = wire.loads(told)
    key = path.decode("utf-8", "surrogateescape") or asked
    if path.startswith(b"/"):
        key = ""  # the root itself, by its path
    if kind == "not_found" and message == os.strerror(errno.ENOENT):
        message = "nothing is there"
    return _KINDS.get(kind, UnavailableError)(message, where=where(key), hint=_HINTS.get(kind))


class Session:
    """One far process."""

    def __init__(self, channel: Channel, host: Host, address: Callable[[], tuple[str, int, str | None]]) -> None:
        self.channel, self.host, self._address = channel, host, address
        self.busy = False
        self.info: list[Any] = []
        self._buffer = bytearray(65536)
        self._payload = bytearray(0)
        self._from = self._to = 0

    def begin(self) -> None:
        """Stream the program, wait for its marker (whatever start-up files print before it), and its greeting."""
        marker = secrets.token_hex(16).encode()
        source = program()
        beat = min(5.0, self.host.timeout_s / 4)
        self.busy = True
        try:
            self.channel.send(b"%d %s %g\n" % (len(source), marker, beat), source)
        except UnavailableError as error:
            self._no_start(error)
        seen = b""
        view = memoryview(bytearray(65536))
        until = time.monotonic() + self.host.timeout_s
        while marker + b"\n" not in seen:
            count = self.channel.readinto(view)
            seen += view[:count]
            if not count:
                self._no_start(None)
            if len(seen) > _NOISE or time.monotonic() > until:
                raise UnavailableError("the host talks, but does not start our program", where=str(self.host))
        rest = seen.partition(marker + b"\n")[2]
        self._buffer[: len(rest)] = rest
        self._to = len(rest)
        self.info = self.answer()
        if self.info[0] != wire.PROTOCOL:
            raise UnavailableError("the far program speaks another protocol", where=str(self.host))

    def _no_start(self, error: Exception | None) -> None:
        """The channel ended before the program spoke: no login, or no Python."""
        status, text = self.channel.status()
        if status is None or status == 255:
            raise explain(text, self.host, self._address) from error
        raise NoPython(text) from error

    def send(self, kind: int, *parts: bytes | bytearray | memoryview) -> None:
        """One frame."""
        size = sum(map(len, parts))
        if size < 16384:
            self.channel.send(b"".join((wire.FRAME.pack(kind, size), *parts)))
        else:
            self.channel.send(wire.FRAME.pack(kind, size), *parts)

    def request(self, name: str, *args: Any) -> None:
        """Begin a conversation."""
        self.busy = True
        self.send(wire.REQ, wire.dumps([name, list(args)]))

    def recv(self, *, keep: bool = True, room: memoryview | None = None) -> tuple[int, memoryview]:
        """The next frame. Its payload is ours to keep, or (`keep=False`, cheaper) lives until the next one.

        Where it fits into `room`, it comes there.
        """
        while True:
            while self._to - self._from < wire.FRAME.size:
                if self._from:
                    self._buffer[: self._to - self._from] = self._buffer[self._from : self._to]
                    self._from, self._to = 0, self._to - self._from
                self._to += self._more(memoryview(self._buffer)[self._to :])
            kind, size = wire.FRAME.unpack_from(self._buffer, self._from)
            self._from += wire.FRAME.size
            if size > wire.LIMIT or not wire.REQ <= kind <= wire.ERR:
                raise IntegrityError("the answer is garbled", where=str(self.host))
            if room is not None and size <= len(room):
                view = room[:size]
            elif keep:
                view = memoryview(bytearray(size))
            else:
                if size > len(self._payload):
                    self._payload = bytearray(size)
                view = memoryview(self._payload)[:size]
            done = min(size, self._to - self._from)
            view[:done] = memoryview(self._buffer)[self._from : self._from + done]
            self._from += done
            while done < size:
                done += self._more(view[done:])
            if kind != wire.PING:
                return kind, view

    def _more(self, view: memoryview) -> int:
        count = self.channel.readinto(view)
        if not count:
            status, text = self.channel.status()
            if status is None or status == 255:
                raise explain(text, self.host, self._address)
            raise UnavailableError(f"the far program ended (status {status})", where=str(self.host))
        return count

    def waiting(self) -> bool:
        """Whether a frame that is more than a sign of life has come, or the end. Does not wait."""
        while True:
            while self._to - self._from >= wire.FRAME.size:
                if wire.FRAME.unpack_from(self._buffer, self._from) != (wire.PING, 0):
                    return True
                self._from += wire.FRAME.size
            if not self.channel.waiting():
                return False
            self._buffer[: self._to - self._from] = self._buffer[self._from : self._to]
            self._from, self._to = 0, self._to - self._from
            count = self.channel.readinto(memoryview(self._buffer)[self._to :])
            if not count:
                return True
            self._to += count

    def next(
        self, where: Callable[[str], str] = str, key: str = "", *, keep: bool = True, room: memoryview | None = None
    ) -> tuple[int, memoryview]:
        """The next frame of a conversation (about `key`). `OK` ends it, and `ERR` raises what the far side tells."""
        kind, payload = self.recv(keep=keep, room=room)
        if kind == wire.OK:
            self.busy = False
        elif kind == wire.ERR:
            self.busy = False
            raise problem(payload, where, key)
        return kind, payload

    def answer(self, where: Callable[[str], str] = str, key: str = "") -> Any:
        """The end of a conversation (about `key`) that has no data frames (any more)."""
        kind, payload = self.next(where, key)
        if kind != wire.OK:
            raise IntegrityError(f"an answer out of turn ({kind})", where=str(self.host))
        return wire.loads(payload)


class Pool:
    """The far processes of one host that this process has."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self.reaches: dict[Any, bool] = {}
        self._changed = threading.Condition()
        self._idle: list[Session] = []
        self._all: set[Session] = set()
        self._sftp: list[SFTP] = []
        self._transport: Transport | None = None
        self.python: bool | None = {"auto": None, "python": True, "sftp": False}[host.far]
        self._reached = False

    @property
    def transport(self) -> Transport:
        """The way there, made when first needed."""
        with self._changed:
            if self._transport is None:
                self._transport = _transport(self.host)
            return self._transport

    def has_python(self) -> bool:
        """Whether the far program runs there; logs in to find out, once."""
        if self.python is None:
            try:
                with self.session():
                    pass
            except NoPython:
                self.python = False
            else:
                self.python = True
        return self.python

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session for one conversation. One that was not brought to its end is closed."""
        session = self._take()
        try:
            yield session
        except (wire.Garbled, IndexError, ValueError, TypeError) as error:
            if isinstance(error, RhError) or not session.busy:
                raise
            raise IntegrityError(f"the answer is garbled: {error}", where=str(self.host)) from error
        finally:
            self._give(session)

    @contextmanager
    def sftp(self, where: Callable[[], str]) -> Iterator[SFTP]:
        """An SFTP session; its statuses become errors about `where`."""
        session = None
        while session is None and self._sftp:
            with self._changed:
                session = self._sftp.pop() if self._sftp else None
            if session is not None and not session.channel.alive():
                session.channel.close()
                session = None
        if session is None:
            told = lost(self.host, self.transport.address)
            session = self.opened("sftp", lambda channel: SFTP(channel, told, str(self.host)), subsystem=True)
        try:
            yield session
        except StatusError as error:
            raise error.typed(where()) from None
        finally:
            if session.broken or not session.channel.alive():
                session.channel.close()
            else:
                with self._changed:
                    self._sftp.append(session)

    def _take(self) -> Session:
        while True:
            with self._changed:
                if not self._idle and len(self._all) >= _SESSIONS:
                    self._changed.wait(_PATIENCE_S)
                session = self._idle.pop() if self._idle else None
            if session is None:
                return self._new()
            if session.channel.alive():
                return session
            self._drop(session)

    def _give(self, session: Session) -> None:
        if session.busy or not session.channel.alive():
            self._drop(session)
            return
        with self._changed:
            if session in self._all and len(self._idle) < _SESSIONS:
                self._idle.append(session)
                self._changed.notify()
                return
        self._drop(session)

    def _drop(self, session: Session) -> None:
        with self._changed:
            self._all.discard(session)
            self._changed.notify()
        session.channel.close()

    def opened(self, command: str, begin: Callable[[Channel], T], *, subsystem: bool = False) -> T:
        """What `begin` makes of a new channel (`Transport.open`).

        A host that was reached before may be starting again, so every failure is worth another try.
        """
        try:
            found = self.transport.open(command, begin, subsystem=subsystem)
        except UnavailableError as error:
            if self._reached:
                error.retryable = True  # type: ignore[misc]
            raise
        except DeadlineError as error:
            if self._reached or error.hint:
                raise
            raise explain(f"timed out: {error.message}", self.host, self.transport.address) from error
        self._reached = True
        return found

    def _new(self) -> Session:
        if self.python is False:
            raise NoPython

        def begin(channel: Channel) -> Session:
            session = Session(channel, self.host, self.transport.address)
            session.begin()
            return session

        try:
            session = self.opened(f"exec {shlex.quote(self.host.python)} -I -S -c '{wire.BOOTSTRAP}'", begin)
        except NoPython as error:
            self._reached = True
            if self.python is None:
                raise
            raise UnsupportedError(
                f"the host has no Python 3.7 or newer called {self.host.python!r}",
                where=str(self.host),
                hint='install python3 there, set python = "/its/path", or far = "sftp"',
            ) from error
        self.python = True
        with self._changed:
            self._all.add(session)
        return session

    def close(self) -> None:
        """End every session and connection. The pool may be used again."""
        with self._changed:
            sessions, self._idle = list(self._all), []
            self._all.clear()
            spare, self._sftp = self._sftp, []
            transport, self._transport = self._transport, None
            self.reaches.clear()
            self._changed.notify_all()
        for channel in (*(each.channel for each in sessions), *(each.channel for each in spare)):
            channel.close()
        if transport is not None:
            transport.close()

    def leave(self, user: object) -> None:
        """A handle needs the pool no more; the last one closes it."""
        self.users.discard(user)
        if not self.users:
            self.close()

    def forget(self) -> None:
        """Let go in a forked child."""
        for channel in (*(each.channel for each in self._all), *(each.channel for each in self._sftp)):
            channel.forget()
        if self._transport is not None:
            self._transport.forget()


def _transport(host: Host) -> Transport:
    from rh.systems.ssh import openssh

    if host.transport == "openssh" or (
        host.transport == "auto" and host.prompt is None and openssh.available() is not None
    ):
        return openssh.OpenSSH(host)
    from rh.systems.ssh.by_paramiko import Paramiko

    return Paramiko(host)


_pools: dict[Host, Pool] = {}
_lock = Lock()


def pool_of(host: Host) -> Pool:
    """The pool of a host in this process."""
    pool = _pools.get(host)
    if pool is None:
        with _lock:
            pool = _pools.setdefault(host, Pool(host))
    return pool


def _close_all() -> None:
    for pool in list(_pools.values()):
        pool.close()


def _after_fork() -> None:
    for pool in _pools.values():
        pool.forget()
    _pools.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork)
