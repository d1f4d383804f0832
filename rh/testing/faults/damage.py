"""What can go wrong on a wire, as values, and what that does to a stream of bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

__all__ = [
    "Bandwidth",
    "Cut",
    "CutNow",
    "Damage",
    "Delay",
    "Direction",
    "DropAnswer",
    "Duplicate",
    "Fault",
    "Flip",
    "Refuse",
    "Repeat",
    "Request",
    "Status",
    "Strike",
    "Swallow",
    "SwallowNow",
    "Truncate",
    "strike",
]

Direction: TypeAlias = Literal["up", "down"]
"""`"up"` is from the client to the server, `"down"` is back."""

MUTATING = frozenset({"PUT", "POST", "DELETE", "PATCH"})


class Request(NamedTuple):
    """A request as the proxy sees it. `nth` counts requests with this method and path, from 0."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    nth: int


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        probability: how often it happens, of the requests (HTTP) or connections it could happen to.
        times: at most so often in the life of the proxy; `None`: without end.
        match: which requests it may happen to (HTTP only); `None`: all.
    """

    probability: float = 1.0
    times: int | None = None
    match: Callable[[Request], bool] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Strike(Fault):
    """A fault at one byte.

    Attributes:
        direction: of the bytes it hits.
        at: which byte, from 0; negative: from the end of an HTTP body of known length; `None`: drawn from the whole of
            such a body, elsewhere from the first `within` bytes. Nothing happens where there is no such byte.
        within: see `at`.
    """

    direction: Direction = "down"
    at: int | None = None
    within: int = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Flip(Strike):
    """One bit is inverted: bit number `bit` (0 to 7), or a drawn one."""

    bit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Truncate(Strike):
    """The stream ends before byte `at`, and looks whole: closed in order, an HTTP length made to fit."""


@dataclass(frozen=True, kw_only=True)
class Duplicate(Strike):
    """`size` bytes from `at` on come twice.

    The second time they take the place of the bytes that follow, so that the length stays the same;
    with `inserted`, these come afterwards.
    """

    size: int = 4096
    inserted: bool = False


@dataclass(frozen=True, kw_only=True)
class Cut(Strike):
    """The connection is reset before byte `at`."""


@dataclass(frozen=True, kw_only=True)
class Swallow(Strike):
    """From byte `at` on nothing more passes in either direction; the connection stays open."""


@dataclass(frozen=True, kw_only=True)
class Refuse(Fault):
    """The connection is reset as soon as it is made."""


@dataclass(frozen=True, kw_only=True)
class Delay(Fault):
    """Everything takes `each_way_s` seconds longer in each direction, and making a connection twice that."""

    each_way_s: float


@dataclass(frozen=True, kw_only=True)
class Bandwidth(Fault):
    """All connections together pass at most so many bytes per second in one direction."""

    bytes_per_s: float
    direction: Direction = "down"


@dataclass(frozen=True, kw_only=True)
class Status(Fault):
    """The request is answered with an error and does not reach the server (HTTP only)."""

    code: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class DropAnswer(Fault):
    """The server does what it is asked and succeeds; the connection is reset instead of its answer (HTTP only)."""


@dataclass(frozen=True, kw_only=True)
class Repeat(Fault):
    """A request that changes something reaches the server twice (HTTP only).

    The second time is after the first was answered. The client gets the `answer` to the first or to the second one.
    """

    answer: Literal["first", "second"] = "first"


class CutNow(Exception):  # noqa: N818 - a signal between here and the proxy
    """The connection is to be reset."""


class SwallowNow(Exception):  # noqa: N818 - a signal between here and the proxy
    """Nothing more is to pass."""


class Due(NamedTuple):
    """A fault that strikes at a byte, with everything drawn."""

    at: int
    fault: Strike
    bit: int
    size: int


def strike(fault: Strike, rng: random.Random, length: int | None) -> Due | None:
    """Where a fault strikes a stream of `length` bytes, if it does."""
    at = fault.at
    if at is None:
        limit = fault.within if length is None else length
        if limit < 1:
            return None
        at = rng.randrange(limit)
    elif at < 0:
        if length is None:
            return None
        at += length
    if at < 0 or (length is not None and at >= length):
        return None
    bit, size = rng.randrange(8), 0
    if isinstance(fault, Flip) and fault.bit is not None:
        bit = fault.bit
    if isinstance(fault, Duplicate):
        size = fault.size
        if length is not None:
            size = min(size, length - at if fault.inserted else (length - at) // 2)
        if size < 1:
            return None
    return Due(at, fault, bit, size)


class Damage:
    """Applies faults to one stream of bytes: feed it pieces, pass on what it gives.

    Args:
        due: the faults of this stream.
        happens: called when one strikes, with the byte's position; returns whether it may.
    """

    def __init__(self, due: Sequence[Due], happens: Callable[[Fault, int], bool]) -> None:
        self._due = sorted(due, key=lambda one: one.at)
        self._happens = happens
        self._offset = 0
        self._skip = 0
        self._again = bytearray()
        self._wanted = 0
        self._inserted = False
        self.ended = False
        """Whether the stream was truncated: the rest is swallowed."""

    def feed(self, data: bytes) -> Iterator[bytes | memoryview]:
        """What arrives in place of `data`.

        Raises:
            CutNow, SwallowNow: after what still arrives.
        """
        if not self._due and not self._wanted and not self._skip and not self.ended:
            self._offset += len(data)
            yield data
            return
        view = memoryview(data)
        while view:
            if self.ended:
                return
            if self._skip:
                step = min(self._skip, len(view))
                self._skip -= step
                self._offset += step
                view = view[step:]
                continue
            step = len(view)
            if self._wanted:
                step = min(step, self._wanted)
            if self._due:
                step = min(step, self._due[0].at - self._offset)
            if step > 0:
                yield from self._pass(view[:step])
                view = view[step:]
                continue
            due = self._due.pop(0)
            if not self._happens(due.fault, self._offset):
                continue
            if isinstance(due.fault, Flip):
                yield from self._pass(memoryview(bytes([view[0] ^ (1 << due.bit)])))
                view = view[1:]
            else:
                self._strike(due)

    def _pass(self, piece: memoryview) -> Iterator[bytes | memoryview]:
        self._offset += len(piece)
        yield piece
        if self._wanted:
            self._again += piece
            self._wanted -= len(piece)
            if not self._wanted:
                yield bytes(self._again)
                self._skip = 0 if self._inserted else len(self._again)
                self._again = bytearray()

    def _strike(self, due: Due) -> None:
        if isinstance(due.fault, Duplicate):
            self._wanted, self._inserted = due.size, due.fault.inserted
        elif isinstance(due.fault, Truncate):
            self.ended = True
        elif isinstance(due.fault, Cut):
            raise CutNow
        elif isinstance(due.fault, Swallow):
            raise SwallowNow

    def length(self, length: int) -> int:
        """How long a stream of `length` bytes will be, faults not yet struck included."""
        for due in self._due:
            if isinstance(due.fault, Truncate):
                return min(due.at, length)
            if isinstance(due.fault, Duplicate) and due.fault.inserted:
                length += due.size
        return length
