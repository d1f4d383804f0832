"""Hosts reached by SSH: every host that lets us log in, with nothing installed there.

With Python 3.7 or newer on the host, a small program is streamed to it and works next to the files; without, plain SFTP
does, slower. Links, the executable bit and empty directories are kept. An etag is size, both times and inode, so it
changes whenever a file does; over SFTP there is only size and modification time, in seconds. `Match` is checked under a
lock that all our writers take; over SFTP it is `UnsupportedError`. Reading goes through links, wherever they lead;
writing and deleting never do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from rh.digest import CHUNK
from rh.errors import InvalidError, NameClashError
from rh.systems import abilities
from rh.systems.abilities import WORKERS, Item, Upload
from rh.systems.base import Body, Bytes, P, Settings, System
from rh.systems.far.skip import Skip
from rh.systems.ssh.fetching import Request
from rh.systems.ssh.road import FarRoad
from rh.systems.ssh.session import Pool, pool_of
from rh.systems.ssh.transport import Host
from rh.types import ABSENT, ANY, Condition, Entry, Link, Location, Outcome, SignedRequest, Span

__all__ = ["SSHSystem"]

_NO_NAME = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|\0")
_BY_PROGRAM = (
    abilities.Digesting,
    abilities.Direct,
    abilities.Fetching,
    abilities.Multipart,
    abilities.ServerCopy,
)
"""What only the far program can do."""


class SSHSystem(System):
    """A directory on a host."""

    kind = "ssh"
    takes: ClassVar[frozenset[str] | None] = frozenset(
        {
            "host",
            "port",
            "user",
            "identity_file",
            "known_hosts_file",
            "config_file",
            "accept_new",
            "transport",
            "far",
            "python",
            "connections",
            "persist_s",
            "fsync",
            "prompt",
        }
    )
    keeps_links: ClassVar[bool] = True
    keeps_executable: ClassVar[bool] = True
    keeps_directories: ClassVar[bool] = True

    def __init__(self, location: Location, settings: Settings, host: Host, *, owner: bool = True) -> None:
        self.location, self.settings = location, settings
        self.host, self._owner = host, owner

    @classmethod
    def open(cls, location: Location, settings: Settings) -> SSHSystem:
        """A handle on a directory: absolute, or `~/…` below the login's home."""
        if not location.path.startswith(("/", "~")) or "\0" in location.path:
            raise InvalidError(
                "a path on a host is absolute or begins with ~/", where=f"{location.system}:{location.path}"
            )
        if location.path.startswith("~") and location.path[1:2] not in ("", "/"):
            raise InvalidError("only ~/ is known, not another user's home", where=f"{location.system}:{location.path}")
        return cls(location, settings, Host.of(settings))

    @property
    def pool(self) -> Pool:
        """The connections to the host that this process has."""
        pool = pool_of(self.host)
        if self._owner:
            pool.users.add(self)
        return pool

    @property
    def road(self) -> Any:
        """The verbs by way of what the host has: a `FarRoad` or an `SftpRoad`. Logs in to find out, once."""
        pool = self.pool
        root = self.location.path.encode("utf-8", "surrogateescape")
        flush = bool(self.settings.get("fsync", True))
        if pool.has_python():
            return FarRoad(pool, root, self.location.system, self.url, self._name, flush=flush)
        from rh.systems.ssh.sftp_road import SftpRoad

        return SftpRoad(pool, root, self.location.system, self.url, self._name)

    def _name(self, key: str) -> bytes:
        """A key as the bytes of its name, if it is one that disks can hold."""
        if _NO_NAME.search(key.removesuffix("/")):
            if not key:
                raise InvalidError("a key cannot be empty", where=self.url())
            raise NameClashError("a disk cannot hold this key as it is", where=self.url(key))
        try:
            return key.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise NameClashError("this key is not text", where=ascii(key)) from error

    def list(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        found: Iterator[Entry] = self.road.list(prefix, after, depth)
        return found

    def list_pages(
        self, prefix: str = "", *, after: str = "", follow: bool = False, skip: Skip | None = None
    ) -> Iterator[Sequence[Entry]]:
        """`list`, many entries at a time."""
        found: Iterator[Sequence[Entry]] = self.road.list_pages(prefix, after, None, follow=follow, skip=skip)
        return found

    def list_following(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        """`list`, with what links point to in their place."""
        found: Iterator[Entry] = self.road.list(prefix, after, depth, follow=True)
        return found

    def head(self, key: str) -> Entry:
        entry: Entry = self.road.head(key)
        return entry

    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:
        if span is not None and not 0 <= span[0] <= span[1]:
            raise InvalidError(f"not a span: {span}", where=self.url(key))
        if when is ABSENT:
            raise InvalidError("what is absent cannot be read", where=self.url(key))
        body: Body = self.road.read(key, span, when)
        return body

    def write(
        self,
        key: str,
        data: Bytes | Iterable[Bytes] | Link,
        *,
        size: int | None = None,
        executable: bool | None = None,
        when: Condition = ANY,
    ) -> Entry:
        if isinstance(data, bytes | bytearray | memoryview):
            if size is not None and size != len(data):
                raise InvalidError(f"{len(data)} bytes were given and {size} announced", where=self.url(key))
            size, data = len(data), (data,)
        if key.endswith("/") and not isinstance(data, Link) and any(len(piece) for piece in data):
            raise InvalidError("a directory holds no bytes", where=self.url(key))
        entry: Entry = self.road.write(key, data, size=size, executable=executable, when=when)
        return entry

    def delete(self, keys: Sequence[str]) -> None:
        if keys:
            self.road.delete(keys)

    def close(self) -> None:
        # Handles made by `at` live on the connections of the handle they were made from.
        pool_of(self.host).leave(self)

    def at(self, path: str) -> SSHSystem:
        """The same host, further down."""
        below = self.location
        for name in path.strip("/").split("/") if path.strip("/") else ():
            if name in ("", ".", ".."):
                raise NameClashError("this is not below", where=self.url(path))
            below = below / name
        return SSHSystem(below, self.settings, self.host, owner=False)

    def ask(self, protocol: type[P]) -> P | None:
        if protocol in _BY_PROGRAM and not self.pool.has_python():
            return None
        return super().ask(protocol)

    # Bulk

    largest: ClassVar[int] = CHUNK

    def read_many(
        self,
        entries: Iterable[Entry],
        *,
        workers: int = WORKERS,  # noqa: ARG002 - one stream carries all
    ) -> Iterator[tuple[Entry, bytes | Exception]]:
        """The bytes of many files. An entry comes back with `check`, the digest computed over there."""
        found: Iterator[tuple[Entry, bytes | Exception]] = self.road.read_many(entries)
        return found

    def write_many(
        self,
        items: Iterable[Item],
        *,
        workers: int = WORKERS,  # noqa: ARG002 - one stream carries all
    ) -> Iterator[Outcome]:
        """Write many files; outcomes carry the digest computed over there."""
        found: Iterator[Outcome] = self.road.write_many(items)
        return found

    # Multipart

    def begin(self, key: str, size: int, *, part_size: int, executable: bool | None = None) -> Upload:
        """Start a file of `size` bytes in parts. The tag of a part is the SHA-256 of its chunks, in hex."""
        upload: Upload = self.road.begin(key, size, part_size, executable=executable)
        return upload

    def resume(self, key: str, token: str) -> Upload:
        """Go on with an upload."""
        upload: Upload = self.road.resume(key, token)
        return upload

    # What the host does by itself

    def can_copy_from(self, source: System) -> bool:
        """Whether `source` is on the same host, by the same login."""
        other = source.ask(SSHSystem)
        if other is None or other.ask(abilities.ServerCopy) is None:
            return False
        return other.host == self.host or other.pool.transport.address() == self.pool.transport.address()

    def copy_many(
        self,
        source: System,
        pairs: Iterable[tuple[Entry, str]],
        *,
        watch: abilities.Watch | None = None,  # noqa: ARG002 - the host says what is done only
    ) -> Iterator[Outcome]:
        """Copy on the host; digests of what was copied are in the outcomes."""
        found: Iterator[Outcome] = self.road.copy_many(_ssh(source).road, pairs)
        return found

    def digest_many(self, entries: Iterable[Entry]) -> Iterator[Outcome]:
        """Digests computed on the host's cores."""
        found: Iterator[Outcome] = self.road.digest_many(entries)
        return found

    def fetch_many(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """The host gets each URL, or ranges of URLs."""
        found: Iterator[Outcome] = self.road.fetch_many(requests)
        return found

    def send_many(self, requests: Iterable[tuple[Entry, Sequence[tuple[Span, SignedRequest]]]]) -> Iterator[Outcome]:
        """The host puts each file to its URLs."""
        found: Iterator[Outcome] = self.road.send_many(requests)
        return found

    def can_send_to(self, other: System) -> bool:
        """Whether this host logs in to `other` with its own keys and known hosts."""
        peer = other.ask(SSHSystem)
        if peer is None or peer.ask(abilities.Direct) is None:
            return False
        return bool(self.road.reaches(peer.road))

    def send_to(self, other: System, pairs: Iterable[tuple[Entry, str]]) -> Iterator[Outcome]:
        """Send files to another host, from here to there."""
        found: Iterator[Outcome] = self.road.direct(_ssh(other).road, pairs, away=True)
        return found

    def receive_from(self, other: System, pairs: Iterable[tuple[Entry, str]]) -> Iterator[Outcome]:
        """Get files from another host."""
        found: Iterator[Outcome] = self.road.direct(_ssh(other).road, pairs, away=False)
        return found

    def run(
        self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float | None = None
    ) -> tuple[int, bytes, bytes]:
        """Run a command in the root; no shell sees its words."""
        if not argv:
            raise InvalidError("there is no command", where=self.url())
        done: tuple[int, bytes, bytes] = self.road.run(argv, stdin, timeout_s)
        return done

    def real_path(self) -> str:
        """The root as the host resolves it: absolute, where it begins with `~`, too."""
        return str(self.road.real_path().decode("utf-8", "surrogateescape"))

    def sweep(self, *, older_than_s: float = 0.0) -> int:
        """Remove unfinished files of ours below the root."""
        count: int = self.road.sweep(older_than_s)
        return count


def _ssh(system: System) -> SSHSystem:
    found = system.ask(SSHSystem)
    if found is None:
        raise InvalidError("this is not a host", where=system.url())
    return found
