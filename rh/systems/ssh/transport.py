"""The seam under SSH: what a host is, what a channel to it is, and what its errors mean.

Two transports make channels: `openssh` runs the system's client, `by_paramiko` needs none. Both keep to
`~/.ssh/config`, the agent and strict host keys; neither forwards the agent.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rh.errors import (
    AccessError,
    DeadlineError,
    InvalidError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)

T = TypeVar("T")

__all__ = ["Channel", "Host", "Transport", "changed_key", "explain", "unknown_key"]


@dataclass(frozen=True, slots=True)
class Host:
    """A host to log in to, from the settings of a system. Hashable: equal ones share their connections.

    Settings: `host` (a name, an address, or an alias of ssh_config), `port`, `user`, `identity_file`,
    `known_hosts_file`, `config_file`, `accept_new` (store unknown host keys instead of refusing them), `transport`
    (`"auto"`, `"openssh"`, `"paramiko"`), `far` (`"auto"`, `"python"`, `"sftp"`), `python` (the interpreter there),
    `connections` (at most so many at once), `persist_s` (a connection of OpenSSH stays so many seconds after its last
    use, for processes to come; 0: not longer than the process), `prompt` (called with a question, returns the password;
    paramiko only), `timeout_s`.
    """

    host: str
    port: int | None = None
    user: str | None = None
    identity_file: str | None = None
    known_hosts_file: str | None = None
    config_file: str | None = None
    accept_new: bool = False
    transport: str = "auto"
    far: str = "auto"
    python: str = "python3"
    connections: int = 3
    persist_s: int = 60
    timeout_s: float = 30.0
    prompt: Callable[[str], str] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Host:
        """The host that settings mean."""
        name = str(settings.get("name") or settings.get("url") or "ssh")
        host = settings.get("host") or (None if "://" in name else name)
        if not host:
            raise InvalidError("no host is given", where=name, hint=f'add host = "…" to [systems.{name}]')
        host = str(host)
        if host.startswith("-") or re.search(r"[\s\0'\"\\$`]", host):
            raise InvalidError(f"not a host name: {host!r}", where=name)
        user = settings.get("user")
        if user is not None and (str(user).startswith("-") or "\0" in str(user)):
            raise InvalidError(f"not a user name: {user!r}", where=name)
        try:
            port = int(settings["port"]) if settings.get("port") is not None else None
            timeout_s = float(settings.get("timeout_s") or 30.0)
            connections = max(1, int(settings.get("connections") or 3))
            persist_s = int(settings.get("persist_s", 60))
        except ValueError as error:
            raise InvalidError(f"not a number: {error}", where=name) from error
        if persist_s < 0:
            raise InvalidError(f"persist_s is {persist_s}", where=name, hint="seconds; 0 keeps no connection open")
        for key, allowed in (("transport", ("auto", "openssh", "paramiko")), ("far", ("auto", "python", "sftp"))):
            if settings.get(key, "auto") not in allowed:
                raise InvalidError(f"{key} is {settings[key]!r}", where=name, hint=f"it is one of {', '.join(allowed)}")
        return cls(
            host,
            port,
            None if user is None else str(user),
            _identity(settings.get("identity_file"), name),
            _path(settings.get("known_hosts_file")),
            _path(settings.get("config_file")),
            _true(settings.get("accept_new", False)),
            settings.get("transport", "auto"),
            settings.get("far", "auto"),
            str(settings.get("python", "python3")),
            connections,
            persist_s,
            timeout_s,
            settings.get("prompt"),
        )

    def __str__(self) -> str:
        return (f"{self.user}@" if self.user else "") + self.host + (f":{self.port}" if self.port else "")


def _path(value: Any) -> str | None:
    import os

    return None if value is None else os.path.abspath(os.path.expanduser(str(value)))


def _identity(value: Any, name: str) -> str | None:
    """The path of a key, which must be there: OpenSSH passes over one that is not, and the host refuses the login."""
    import os

    text = None if value is None else os.path.expanduser(str(value))
    if text is None or text == "none" or "%" in text or "${" in text:
        return text  # OpenSSH fills these in
    path = os.path.abspath(text)
    # A public key alone stands for one that the agent has.
    found: OSError | None = None
    for one in (path, f"{path}.pub"):
        try:
            os.lstat(one)
        except OSError as error:
            found = found or error
        else:
            found = None
            break
    if found is not None:
        gone = isinstance(found, FileNotFoundError)
        raise InvalidError(
            "there is no such identity file" if gone else f"the identity file cannot be read: {found.strerror}",
            where=path,
            hint=f"correct systems.{name}.identity_file, or leave it out",
        )
    return path


def _true(value: Any) -> bool:
    return value.lower() in ("1", "true", "yes", "on") if isinstance(value, str) else bool(value)


class Channel(ABC):
    """Bytes both ways to one program over there. One thread at a time."""

    @abstractmethod
    def send(self, *parts: bytes | bytearray | memoryview) -> None:
        """Send all of `parts`. `UnavailableError` when the channel ends, `DeadlineError` when nothing moves."""

    @abstractmethod
    def readinto(self, view: memoryview) -> int:
        """Fill `view` as far as bytes are there, waiting for some; 0 at the end. `DeadlineError` when none come."""

    @abstractmethod
    def waiting(self) -> bool:
        """Whether bytes can be read without waiting."""

    @abstractmethod
    def alive(self) -> bool:
        """Whether the channel still seems to be open."""

    @abstractmethod
    def status(self) -> tuple[int | None, str]:
        """After the end: the exit status (`None`: the connection itself failed) and what came on standard error."""

    @abstractmethod
    def whole(self, stdin: bytes, timeout_s: float | None) -> tuple[int, bytes, bytes]:
        """Give all of the input, take all of the output: exit status, standard output, standard error."""

    @abstractmethod
    def close(self) -> None:
        """End the program over there and let go. May be called twice."""

    @abstractmethod
    def forget(self) -> None:
        """Let go in a forked child: the parent goes on using the channel."""


class Transport(ABC):
    """Makes channels to one host over as few connections as do. Safe for threads."""

    @abstractmethod
    def open(self, command: str, begin: Callable[[Channel], T], *, subsystem: bool = False) -> T:
        """Run a shell line over there, or a subsystem by its name, and `begin` on the channel to it."""

    @abstractmethod
    def address(self) -> tuple[str, int, str | None]:
        """Host name, port and user as ssh_config resolves them."""

    @abstractmethod
    def close(self) -> None:
        """End all connections."""

    @abstractmethod
    def forget(self) -> None:
        """Let go in a forked child."""


def unknown_key(host: Host, name: str, port: int, known_hosts: str | None) -> RhError:
    """The error for a host nobody has seen before."""
    place = known_hosts or "~/.ssh/known_hosts"
    scan = f"ssh-keyscan{'' if port == 22 else f' -p {port}'} {name} >> {place}"
    return UnauthenticatedError(
        "the host key is not known, so this may be another machine",
        where=str(host),
        hint=f"check the key's fingerprint with whoever runs the host, then: {scan}\n"
        "       or set accept_new = true for this system, to store the keys of new hosts unseen",
    )


def changed_key(host: Host, name: str, port: int, known_hosts: str | None) -> RhError:
    """The error for a host that shows another key than it used to."""
    place = known_hosts or "~/.ssh/known_hosts"
    entry = name if port == 22 else f"[{name}]:{port}"
    return AccessError(
        "the host key has changed: the machine was installed anew, or somebody is in between",
        where=str(host),
        hint=f"if the change is expected: ssh-keygen -R '{entry}' -f {place}",
    )


_SAYS: tuple[tuple[str, type[RhError], str, str | None], ...] = (
    (
        r"Permission denied|Too many authentication failures|No supported authentication|Authentication failed",
        UnauthenticatedError,
        "the host refused our login",
        "check user and identity_file, and that the agent has the key: ssh-add -l",
    ),
    (
        r"Could not resolve hostname|Name or service not known|nodename nor servname|getaddrinfo",
        UnavailableError,
        "the host name cannot be resolved",
        "check the name, and the network",
    ),
    (
        r"Connection refused",
        UnavailableError,
        "the host refused the connection",
        "check host and port, and that sshd runs there",
    ),
    (
        r"timed out|Timeout, server .* not responding|protocol banner",
        DeadlineError,
        "the host does not answer",
        "check address and firewall, or raise timeout_s",
    ),
    (
        r"No route to host|Network is unreachable",
        UnavailableError,
        "the host cannot be reached",
        "check the address, the network, and whether a VPN is needed",
    ),
    (
        r"Bad configuration option|terminating, \d+ bad configuration|Can't open user config",
        InvalidError,
        "the ssh configuration is not valid",
        None,
    ),
    (r"Unable to negotiate", UnsupportedError, "the host and this client have no algorithm in common", None),
    (
        r"UNPROTECTED PRIVATE KEY|bad permissions|invalid format|error in libcrypto|Load key",
        UnauthenticatedError,
        "the private key cannot be used",
        "chmod 600 the key file; keys with a passphrase go through the agent: ssh-add",
    ),
    (
        r"Connection (closed|reset)|Broken pipe|kex_exchange_identification|Connection to .* closed|disconnect|EOF",
        UnavailableError,
        "the connection was lost",
        None,
    ),
)


def explain(text: str, host: Host, address: Callable[[], tuple[str, int, str | None]]) -> RhError:
    """The error that a client's words mean."""
    if "HOST IDENTIFICATION HAS CHANGED" in text or "host key has changed" in text.lower():
        return changed_key(host, *address()[:2], host.known_hosts_file)
    if "Host key verification failed" in text or re.search(r"No .* host key is known", text):
        return unknown_key(host, *address()[:2], host.known_hosts_file)
    for pattern, kind, message, hint in _SAYS:
        if re.search(pattern, text, re.IGNORECASE):
            where, unreached = str(host), hint is not None and kind in (UnavailableError, DeadlineError)
            if unreached:
                name, port, _ = address()
                where += "" if where.endswith(f"{name}:{port}") else f" is {name}:{port}"
            error = kind(message + _last(text), where=where, hint=hint)
            if unreached and kind is UnavailableError:
                # Nobody is there. `Pool` knows where somebody was before.
                error.retryable = False  # type: ignore[misc]
            return error
    return UnavailableError("the connection was lost" + _last(text), where=str(host))


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else ""
