"""The contract every system keeps.

A *system* holds bytes under keys. A `System` object is one such place opened at a root:
keys are relative to it, `/`-separated, exact, and never normalised. Six verbs and `close`
are required; everything else a place may be able to do is a protocol in `rh.systems.abilities`,
asked for with `system.ask(Protocol)`.

The promises (the conformance suite in `rh.testing.systems` cites them by number):

1. A write is all or nothing: a reader sees the old bytes or the new ones, whole.
2. A failed write leaves nothing under the key that was not there before, and no debris behind.
3. Preconditions are one argument: `when=ANY | ABSENT | Match(etag)`. One that does not hold is
   `ExistsError` (ABSENT) or `ConflictError` (Match), and nothing is changed. A place that cannot
   check one itself, atomically, raises `UnsupportedError` rather than pretending.
4. A listing is complete and in key order (by UTF-8 bytes of the whole key), or raises. A root that
   does not exist lists as `NotFoundError` where the place can tell; an empty one lists as nothing.
5. Deleting a missing key succeeds. Only the keys given are deleted, never a sibling or a subtree.
6. Every error is an `RhError` with place and cause; no SDK's exception escapes.
7. A handle may be used from many threads at once, and is rebuilt after `fork`.
8. No retry inside: retry, limits, logging, counting and faults are wrappers (`rh.systems.wrap`).
9. `write` returns the entry as stored, and has checked, as far as the place lets it, that the place
   received the bytes that were given (`IntegrityError` otherwise, and promise 2 holds).
10. No key leads outside the root: what would (`..`, an absolute key, a link out of it) is
    `NameClashError`. Names beginning with `.rh-` are ours: never listed, readable by exact key.
11. Every call returns or raises within the deadline of the system's settings (`timeout_s`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeAlias, TypeVar

from rh.errors import NameClashError
from rh.types import ANY, Condition, Entry, Link, Location, Span

__all__ = [
    "DESCRIBING",
    "HIDDEN",
    "LEAVE_OUT",
    "Body",
    "Bytes",
    "Settings",
    "System",
    "check_not_ours",
]

Bytes: TypeAlias = bytes | bytearray | memoryview
Settings: TypeAlias = Mapping[str, Any]
"""The resolved settings of one system: `kind`, `root`, `endpoint_url`, `timeout_s`, … (no secrets in logs)."""

HIDDEN = ".rh-"
"""Prefix of the last component of keys that are ours: manifests and unfinished files."""

DESCRIBING = (".rh-manifest", ".rh-table.json")
"""Names of ours that describe the directory they lie in (`rh.content.manifest`, `rh.tables.index`): they go with it."""
LEAVE_OUT = "of a directory, --exclude (exclude=) or a line in its .rhignore leaves it out"
"""The fix where something is no data. A commit takes no patterns, and obeys `.rhignore` as transfers do."""


def check_not_ours(key: str) -> None:
    """Refuse a key for data of which a component is a name that `rh` keeps for itself: it would never be listed.

    Raises:
        NameClashError: which is an `InvalidError`.
    """
    if f"/{HIDDEN}" in f"/{key}":
        raise NameClashError(
            f"{key!r} is a name that rh keeps for itself", hint=f"choose one that does not begin with {HIDDEN}"
        )


P = TypeVar("P")


class Body(ABC):
    """Bytes on their way out of a system: iterate it, `read()` it or `readinto()` it, once; then `close`.

    `entry` is the entry as it was when the read began. A body that ends early raises
    (`IntegrityError`), it never just stops.
    """

    entry: Entry
    undivided: bool = False
    """Whether it compares what it gives with a checksum of the whole: nobody may go on in the middle then."""
    _coming: Iterator[Bytes] | None = None
    _unread: Bytes = b""

    @abstractmethod
    def __iter__(self) -> Iterator[Bytes]: ...

    def read(self) -> bytes:
        """All the bytes."""
        return b"".join(self)

    def readinto(self, buffer: memoryview) -> int:
        """Some of the bytes, into a buffer: how many; 0 only at the end, which has to be reached."""
        if self._coming is None:
            self._coming = iter(self)
        while not len(self._unread):
            piece = next(self._coming, None)
            if piece is None:
                return 0
            self._unread = piece
        count = min(len(self._unread), len(buffer))
        unread = memoryview(self._unread)
        buffer[:count], self._unread = unread[:count], unread[count:]
        return count

    def close(self) -> None:  # noqa: B027 - many bodies hold nothing
        """Let go of the connection; may be called at any time and twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class System(ABC):
    """One place opened at a root."""

    kind: ClassVar[str]
    """The entry point's name: `"s3"`, `"ssh"`, …"""
    keeps_links: ClassVar[bool] = False
    keeps_executable: ClassVar[bool] = False
    keeps_directories: ClassVar[bool] = False
    """Whether links, the executable bit and empty directories are stored by the place itself.
    What it does not keep, the manifest of a transfer does."""
    writable: ClassVar[bool] = True
    takes: ClassVar[frozenset[str] | None] = None
    """The settings it takes beside the general ones (`root`, `timeout_s`, …): others are refused. `None`: any."""
    location: Location
    """Where the root is."""
    settings: Settings

    @classmethod
    @abstractmethod
    def open(cls, location: Location, settings: Settings) -> System:
        """A handle on the root `location`. No I/O: the first verb connects."""

    @abstractmethod
    def list(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        """Entries whose key starts with `prefix`, in key order, those after the key `after` only.

        `depth=1` stops at the first `/` beyond the prefix: a directory then appears as one entry of
        kind `"dir"` whose key ends with `/`. Without it, only empty directories appear, likewise.
        """

    @abstractmethod
    def head(self, key: str) -> Entry:
        """The entry under `key` (a file or a link), or `NotFoundError`."""

    @abstractmethod
    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:
        """The bytes under `key`, or a range of them. A span beyond the end is cut to it."""

    @abstractmethod
    def write(
        self,
        key: str,
        data: Bytes | Iterable[Bytes] | Link,
        *,
        size: int | None = None,
        executable: bool | None = None,
        when: Condition = ANY,
    ) -> Entry:
        """Store `data` under `key`: bytes, a stream of them (`size` if known), or a link.

        The entry returned is the one stored; `modified` is `None` where the place's answer does not tell it.
        A key that ends with `/` and no data is an empty directory, where the place has such
        things; elsewhere that, and a `Link`, is `UnsupportedError`.
        """

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """Remove these keys; missing ones are fine. A key ending in `/` is an empty directory."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections this handle owns. The handle may be used again afterwards."""

    @abstractmethod
    def at(self, path: str) -> System:
        """The same place with a root further down, on the same connections."""

    def ask(self, protocol: type[P]) -> P | None:
        """The system as `protocol`, or `None` if it cannot do that."""
        return self if isinstance(self, protocol) else None

    def url(self, key: str = "") -> str:
        """The place of a key, for people and errors."""
        base = self.location
        text = base.path + ("/" if key and base.path and not base.path.endswith("/") else "") + key
        if base.system == "file":
            return f"file://{text}"
        if "://" in base.system:
            return base.system + text if text.startswith("/") else f"{base.system}/{text}"
        return f"{base.system}:{text}" if text.startswith(("/", "~")) else f"{base.system}://{text}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url()}>"
