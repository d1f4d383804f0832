"""The plain values every layer speaks: what is stored, where, and under which condition.

Nothing here does I/O or imports another part of `rh`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypedDict, overload

__all__ = [
    "ABSENT",
    "ANY",
    "BytesMode",
    "Condition",
    "Entry",
    "Files",
    "Kind",
    "Link",
    "Location",
    "Match",
    "Outcome",
    "SignedRequest",
    "Span",
    "TextKeywords",
    "TextMode",
]

Kind: TypeAlias = Literal["file", "dir", "link"]
BytesMode: TypeAlias = Literal["rb", "wb", "xb", "br", "bw", "bx"]
TextMode: TypeAlias = Literal["r", "w", "x", "rt", "wt", "xt", "tr", "tw", "tx"]
"""How a file is opened."""


class TextKeywords(TypedDict, total=False):
    """How text lies in a file, as Python's `open` takes it. For type checkers."""

    encoding: str | None
    errors: str | None
    newline: str | None


Span: TypeAlias = tuple[int, int]
"""Half-open byte range `(start, stop)`."""


class Entry(NamedTuple):
    """One thing a system holds, as its listing or its answer to a write tells it.

    Attributes:
        key: exact key below the root of the system that listed it; never normalised.
        size: bytes. 0 for directories, length of the target for links.
        kind: `"dir"` only for directories that hold nothing (others are implied by their members).
        etag: opaque; equal etags of one key mean equal bytes. `None` where the store has none.
        modified: seconds since the epoch, for people. Never used to decide equality.
        check: a checksum the store itself vouches for, `"sha256:<hex>"`, `"md5:<hex>"`,
            `"crc32c:<hex>"`; `None` where it has none. `"md5-<bytes>:<hex>"` is the MD5 of the MD5s of parts of so
            many bytes.
        executable: the owner's executable bit, `None` where the store does not keep it.
        target: where a link points to, else `None`.
    """

    key: str
    size: int
    kind: Kind = "file"
    etag: str | None = None
    modified: float | None = None
    check: str | None = None
    executable: bool | None = None
    target: str | None = None


class Files(Sequence[Entry]):
    """Entries of plain files, by column: trees of a million files are compared without making any of them.

    Attributes:
        keys, sizes, etags, modified, executables: as in `Entry`, none of them `None`. Nobody changes them.
    """

    __slots__ = ("etags", "executables", "keys", "modified", "sizes")

    def __init__(
        self, keys: list[str], sizes: list[int], etags: list[str], modified: list[float], executables: list[bool]
    ) -> None:
        self.keys, self.sizes, self.etags = keys, sizes, etags
        self.modified, self.executables = modified, executables

    @classmethod
    def of(cls, parts: Iterable[Files]) -> Files:
        """All of these, one after the other."""
        columns = zip(*(part.columns() for part in parts), strict=True)
        return cls(*(list(chain.from_iterable(column)) for column in columns))

    def columns(self) -> tuple[list[Any], ...]:
        """All of them."""
        return self.keys, self.sizes, self.etags, self.modified, self.executables

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Entry]:
        new = tuple.__new__  # at half the price
        for key, size, etag, modified, executable in zip(*self.columns(), strict=True):
            yield new(Entry, (key, size, "file", etag, modified, None, executable, None))

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> Files: ...
    def __getitem__(self, at: int | slice) -> Entry | Files:
        if isinstance(at, slice):
            return Files(*(column[at] for column in self.columns()))
        etag, modified, executable = self.etags[at], self.modified[at], self.executables[at]
        return Entry(self.keys[at], self.sizes[at], "file", etag, modified, None, executable)

    def __repr__(self) -> str:
        return f"<Files: {len(self):,}>"


class _Any(enum.Enum):
    ANY = "any"


class _Absent(enum.Enum):
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Match:
    """Go ahead only if the entry still has this etag."""

    etag: str


ANY: Final = _Any.ANY
"""No precondition."""
ABSENT: Final = _Absent.ABSENT
"""Go ahead only if nothing is under the key."""

Condition: TypeAlias = _Any | _Absent | Match


class Outcome(NamedTuple):
    """What became of one item of a bulk operation: an entry, or the error.

    `digest` is set where the far side computed the digest of the bytes it moved
    (text form of `rh.content.digest`), `chunks` are the raw chunk digests of a
    chunked one, concatenated.
    """

    key: str
    entry: Entry | None = None
    error: Exception | None = None
    digest: str | None = None
    chunks: bytes | None = None


class Link(NamedTuple):
    """A symbolic link to be written: its target, as text."""

    target: str


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request anybody may send until it expires. `headers` must be sent with it. Secret while it lives."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, repr=False)
class Location:
    """A place: a system by name and a path on it. Holds no secret and no connection.

    Attributes:
        system: a configured or registered name (`"file"`, `"s3"`, `"ssh-a"`), or the
            scheme and authority of a URL (`"ssh://me@host:2222"`, `"https://example.org"`).
        path: absolute path on disks and hosts (`~/x` on a host is below the login's home),
            `bucket/key` on object stores, the path below the repository for Git.
    """

    system: str
    path: str

    def __repr__(self) -> str:
        site, mark, _ = self.system.partition("?")  # the query of a signed URL is a secret
        return f"Location({site + mark + '…' if mark else site!r}, {self.path!r})"

    def __truediv__(self, name: str) -> Location:
        return Location(self.system, f"{self.path.rstrip('/')}/{name}" if self.path else name)

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def parent(self) -> Location:
        """The place one level up."""
        head = self.path.rstrip("/").rpartition("/")[0]
        return Location(self.system, head or ("/" if self.path.startswith("/") else ""))

    @property
    def in_version(self) -> bool:
        """Whether it is in a version, which a store of versions keeps."""
        return self.system.startswith("tree://")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for records and `--json`."""
        return {"system": self.system, "path": self.path}
