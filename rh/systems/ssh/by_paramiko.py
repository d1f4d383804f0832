"""The road without a client: paramiko, in this process. Also where a password must be asked for."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from rh import plugins
from rh.errors import DeadlineError, InvalidError, RhError, UnauthenticatedError, UnavailableError
from rh.systems.ssh.transport import Channel, Host, Transport, changed_key, explain, unknown_key

__all__ = ["Paramiko"]

PER_CONNECTION = 8
_WINDOW = 8 << 20
_PACKET = 1 << 16
T = TypeVar("T")


class ParamikoChannel(Channel):
    """A channel of a paramiko connection."""

    def __init__(self, channel: Any, host: Host, line: _Line) -> None:
        self._channel, self._host, self._line = channel, host, line
        self.closed = False
        channel.settimeout(host.timeout_s)

    def send(self, *parts: bytes | bytearray | memoryview) -> None:
        try:
            for part in parts:
                self._channel.sendall(part)
        except TimeoutError as error:
            raise DeadlineError("the host does not take our bytes", where=str(self._host)) from error
        except (OSError, EOFError) as error:
            raise UnavailableError("the connection was lost", where=str(self._host)) from error

    def readinto(self, view: memoryview) -> int:
        try:
            data = self._channel.recv(len(view))
        except TimeoutError as error:
            raise DeadlineError(f"no sign of life for {self._host.timeout_s:g} s", where=str(self._host)) from error
        except (OSError, EOFError) as error:
            raise UnavailableError("the connection was lost", where=str(self._host)) from error
        view[: len(data)] = data
        return len(data)

    def waiting(self) -> bool:
        return bool(self._channel.recv_ready() or self._channel.eof_received or self._channel.closed)

    def alive(self) -> bool:
        return not self.closed and self._line.alive() and not self.waiting()

    def status(self) -> tuple[int | None, str]:
        channel = self._channel
        until = time.monotonic() + 2
        while not channel.exit_status_ready() and time.monotonic() < until and self._line.alive():
            time.sleep(0.01)
        said = b""
        while channel.recv_stderr_ready():
            said += channel.recv_stderr(65536)
        status = channel.recv_exit_status() if channel.exit_status_ready() and self._line.alive() else None
        return (None if status == -1 else status), said[-16384:].decode("utf-8", "replace")

    def whole(self, stdin: bytes, timeout_s: float | None) -> tuple[int, bytes, bytes]:
        channel = self._channel
        until = None if timeout_s is None else time.monotonic() + timeout_s
        channel.settimeout(0.1)
        out, err, left = bytearray(), bytearray(), memoryview(stdin)
        while True:
            if until is not None and time.monotonic() > until:
                raise DeadlineError("the command did not end in time", where=str(self._host))
            if not self._line.alive():
                raise UnavailableError("the connection was lost", where=str(self._host))
            try:
                if left is not None and channel.send_ready():
                    left = left[channel.send(left) :] if left else left
                    if not len(left):
                        channel.shutdown_write()
                        left = None  # type: ignore[assignment]
                if channel.recv_stderr_ready():
                    err += channel.recv_stderr(65536)
                    continue
                data = channel.recv(65536)
            except TimeoutError:
                continue
            except OSError as error:
                raise UnavailableError("the connection was lost", where=str(self._host)) from error
            out += data
            if not data and channel.exit_status_ready():
                while more := channel.recv_stderr(65536):
                    err += more
                return int(channel.recv_exit_status()), bytes(out), bytes(err)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            try:
                self._channel.close()
            except (OSError, EOFError):
                pass  # the connection is gone, and the channel with it
            self._line.left()

    def forget(self) -> None:
        self.closed = True
        self._line.forget()


class _Line:
    """One connection."""

    def __init__(self, client: Any, jumps: list[Any]) -> None:
        self.client, self.jumps = client, jumps
        self.channels = 0
        self.room = PER_CONNECTION
        self._lock = threading.Lock()

    def alive(self) -> bool:
        transport = self.client.get_transport()
        return transport is not None and transport.is_active()

    def taken(self) -> None:
        with self._lock:
            self.channels += 1

    def left(self) -> None:
        with self._lock:
            self.channels -= 1

    def close(self) -> None:
        for client in (self.client, *reversed(self.jumps)):
            client.close()

    def forget(self) -> None:
        for client in (self.client, *self.jumps):
            transport = client.get_transport()
            if transport is not None:
                transport.sock.close()


class Paramiko(Transport):
    """Channels to one host through paramiko."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._paramiko = plugins.need("paramiko", purpose="SSH without an ssh client")
        # What goes wrong is raised; its tracebacks are for who asks for them.
        logging.getLogger("paramiko").addHandler(logging.NullHandler())
        self._lock = threading.Lock()
        self._lines: list[_Line] = []
        self._password: str | None = None

    def open(self, command: str, begin: Callable[[Channel], T], *, subsystem: bool = False) -> T:
        while True:
            line, fresh = self._line()
            try:
                transport = line.client.get_transport()
                raw = transport.open_session(window_size=_WINDOW, max_packet_size=_PACKET, timeout=self.host.timeout_s)
                (raw.invoke_subsystem if subsystem else raw.exec_command)(os.fsencode(command))
                break
            except (self._paramiko.SSHException, EOFError, OSError) as error:
                line.left()
                if fresh:
                    raise self._typed(error) from error
                # Nothing was asked yet, so take another connection: the server allows no more channels on this one,
                # or it had ended without our knowing.
                line.room = 0
                if not isinstance(error, self._paramiko.ChannelException):
                    line.close()
        channel = ParamikoChannel(raw, self.host, line)
        try:
            return begin(channel)
        except BaseException:
            channel.close()
            raise

    def _line(self) -> tuple[_Line, bool]:
        """A connection with room, and whether it is a new one."""
        with self._lock:
            self._lines = [line for line in self._lines if line.alive()]
            free = [line for line in self._lines if line.channels < line.room]
            line = min(free, key=lambda line: line.channels, default=None)
            fresh = line is None or (line.channels >= 2 and len(self._lines) < self.host.connections)
            if line is None or fresh:
                line = self._connect()
                self._lines.append(line)
            line.taken()
            return line, fresh

    def _config(self, name: str) -> dict[str, Any]:
        path = self.host.config_file or os.path.expanduser("~/.ssh/config")
        if not os.path.exists(path):
            return {"hostname": name}
        try:
            return dict(self._paramiko.SSHConfig.from_path(path).lookup(name))
        except (self._paramiko.SSHException, ValueError) as error:
            raise InvalidError(f"the ssh configuration is not valid: {error}", where=path) from error

    def address(self) -> tuple[str, int, str | None]:
        found = self._config(self.host.host)
        user = self.host.user or found.get("user") or os.environ.get("USER")
        return found.get("hostname", self.host.host), self.host.port or int(found.get("port", 22)), user

    def _connect(self) -> _Line:
        found = self._config(self.host.host)
        name, port, user = self.address()
        jumps: list[Any] = []
        through: Any = None
        try:
            words = found.get("proxyjump") or "none"
            hops = [] if words == "none" else [self._hop(word) for word in words.split(",")]
            for number, (hop, hop_port, login, its) in enumerate(hops):
                jumps.append(self._login(hop, hop_port, login, its, through, {}))
                target = hops[number + 1][:2] if number + 1 < len(hops) else (name, port)
                through = jumps[-1].get_transport().open_channel("direct-tcpip", target, ("", 0))
            if through is None and found.get("proxycommand") not in (None, "none"):
                through = self._paramiko.ProxyCommand(found["proxycommand"])
            own = {"key_filename": [self.host.identity_file]} if self.host.identity_file else {}
            return _Line(self._login(name, port, user, found, through, own), jumps)
        except BaseException as error:
            for client in jumps:
                client.close()
            if isinstance(error, RhError) or not isinstance(error, Exception):
                raise
            raise self._typed(error) from error

    def _hop(self, word: str) -> tuple[str, int, str | None, dict[str, Any]]:
        """A host on the way: name, port, user, and what ssh_config says of it."""
        login, _, place = word.strip().removeprefix("ssh://").rpartition("@")
        alias, _, port = place.partition(":")
        its = self._config(alias)
        return its.get("hostname", alias), int(port or its.get("port", 22)), login or its.get("user"), its

    def _login(
        self, name: str, port: int, user: str | None, found: dict[str, Any], sock: Any, own: dict[str, Any]
    ) -> Any:
        client = self._paramiko.SSHClient()
        for path in self._known(found):
            if os.path.exists(path):
                client.load_system_host_keys(path)
        store = self._known(found)[0]
        client.set_missing_host_key_policy(_policy(self._paramiko, self.host, name, port, store))
        keys = {"key_filename": found.get("identityfile") or None, **own}
        options = {
            "port": port,
            "username": user,
            "timeout": self.host.timeout_s,
            "banner_timeout": self.host.timeout_s,
            "auth_timeout": self.host.timeout_s,
            "allow_agent": not own and found.get("identitiesonly") != "yes",
            "look_for_keys": not own and not keys["key_filename"],
            "transport_factory": self._transport,
            **keys,
        }
        try:
            try:
                client.connect(name, sock=sock, **options)
            except (self._paramiko.AuthenticationException, self._paramiko.SSHException) as error:
                refused = isinstance(error, self._paramiko.AuthenticationException) or "No authentication" in str(error)
                if not refused or self.host.prompt is None or sock is not None:
                    raise
                if self._password is None:
                    self._password = self.host.prompt(f"Password for {user}@{name}: ")
                client.connect(name, password=self._password, **options)
        except BaseException as error:
            client.close()
            if isinstance(error, self._paramiko.AuthenticationException):
                self._password = None
            if isinstance(error, self._paramiko.BadHostKeyException):
                raise changed_key(self.host, name, port, self.host.known_hosts_file) from error
            raise
        client.get_transport().set_keepalive(max(1, int(self.host.timeout_s / 3)))
        return client

    def _transport(self, sock: Any, **options: Any) -> Any:
        options |= {"default_window_size": _WINDOW, "default_max_packet_size": _PACKET}
        transport = self._paramiko.Transport(sock, **options)
        security = transport.get_security_options()
        fast = "aes128-gcm@openssh.com"
        if fast in security.ciphers:
            security.ciphers = (fast, *(cipher for cipher in security.ciphers if cipher != fast))
        return transport

    def _known(self, found: dict[str, Any]) -> list[str]:
        if self.host.known_hosts_file:
            return [self.host.known_hosts_file]
        own = found.get("userknownhostsfile", "~/.ssh/known_hosts").split()
        everyones = found.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts").split()
        return [os.path.expanduser(path) for path in (*own, *everyones)]

    def _typed(self, error: Exception) -> RhError:
        paramiko = self._paramiko
        if isinstance(error, paramiko.PasswordRequiredException):
            return UnauthenticatedError(
                "the private key has a passphrase", where=str(self.host), hint="ssh-add it to the agent"
            )
        if isinstance(error, paramiko.AuthenticationException) or "No authentication methods" in str(error):
            return explain("Permission denied", self.host, self.address)
        if isinstance(error, TimeoutError | socket.timeout) or "timeout" in str(error).lower():
            return explain("timed out", self.host, self.address)
        if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
            error = next(iter(error.errors.values()))
        return explain(str(error), self.host, self.address)

    def close(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        for line in lines:
            line.close()

    def forget(self) -> None:
        for line in self._lines:
            line.forget()
        self._lines = []


def _policy(paramiko: Any, host: Host, name: str, port: int, store: str) -> Any:
    """What to do about a host nobody has seen: refuse it, or (only when asked to) store its key."""

    class Policy(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
        def missing_host_key(self, _client: Any, hostname: str, key: Any) -> None:
            if not host.accept_new:
                raise unknown_key(host, name, port, host.known_hosts_file)
            os.makedirs(os.path.dirname(store) or ".", mode=0o700, exist_ok=True)
            with open(store, "a", encoding="utf-8") as file:
                file.write(f"{hostname} {key.get_name()} {key.get_base64()}\n")

    return Policy()
