"""Bytes on their way into a store: whole in one request, or in parts, with bounded memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple

from rh.errors import IntegrityError, InvalidError, RhError
from rh.observe import log
from rh.systems.base import Bytes
from rh.types import ANY, Condition, Entry

__all__ = ["Limits", "PartedUpload", "same_length", "whole_or_in_parts"]

PUT_LIMIT = 64 << 20
"""Most bytes sent in one request; more go in parts."""
STREAM_PART = 8 << 20
"""Bytes of a part of a stream whose length is known (more where that makes too many parts)."""
BLIND_PART = 16 << 20
"""Bytes of a part of a stream whose length is not known: 160 GB in 10,000 parts of one size, which R2 asks for."""
_CHUNK = 1 << 20
_IN_FLIGHT = 2


class Limits(NamedTuple):
    """What a store takes as the parts of one object: bytes of the smallest and the largest, and how many."""

    store: str
    smallest: int
    largest: int
    parts: int

    def fit(self, key: str, size: int, wanted: int, where: str) -> int:
        """`part_size` for an upload to a key, if it can be one."""
        if size < 0:
            raise InvalidError("a size is not negative", where=where)
        if key.endswith("/"):
            raise InvalidError("a key that ends with / is a directory and has no bytes", where=where)
        return self.part_size(size, wanted)

    def part_size(self, size: int, wanted: int) -> int:
        """The smallest multiple of `wanted` that can be the part size of an object of `size` bytes."""
        if wanted <= 0:
            raise InvalidError(f"a part size is positive, not {wanted}")
        chosen = -(-max(self.smallest, -(-size // self.parts)) // wanted) * wanted
        if chosen > self.largest:
            raise InvalidError(f"{size} bytes in parts of {wanted} are more than {self.store} holds in one object")
        return chosen


class PartedUpload(ABC):
    """One object arriving in parts of one size, the last one shorter."""

    token: str

    def __init__(self, key: str, size: int, part_size: int, where: str) -> None:
        self.key = key
        self.size = size
        self.part_size = part_size
        self.where = where

    @property
    def count(self) -> int:
        """How many parts there are; an empty object is one empty part."""
        return max(1, -(-self.size // self.part_size))

    def length(self, number: int) -> int:
        """Bytes of a part."""
        if not 0 <= number < self.count:
            raise InvalidError(f"there is no part {number}", where=self.where)
        return min(self.part_size, self.size - number * self.part_size)

    def put(self, number: int, data: Bytes) -> str:
        """Store a part; its tag."""
        want = self.length(number)
        if len(data) != want:
            raise InvalidError(f"part {number} has {len(data)} bytes, not {want}", where=self.where)
        return self.store(number, data)

    @abstractmethod
    def store(self, number: int, data: Bytes) -> str:
        """`put` without a look at the length: in a stream, nobody knows which part is the last."""

    @abstractmethod
    def finish(self, tags: Sequence[str], *, when: Condition = ANY) -> Entry:
        """Publish the object."""

    @abstractmethod
    def abort(self) -> None:
        """Forget the upload."""

    def give_up(self) -> None:
        """`abort`, where something else went wrong: that is what has to be told. `sweep` removes what stays."""
        try:
            self.abort()
        except RhError as error:
            log.debug("%s: an upload was not aborted: %s", self.where, error)


def whole_or_in_parts(
    data: Bytes | Iterable[Bytes],
    size: int | None,
    when: Condition,
    limits: Limits,
    where: str,
    *,
    whole: Callable[[Bytes], Entry],
    begin: Callable[[int, int], PartedUpload],
) -> Entry:
    """Store bytes, or a stream of them: by `whole` when they are few, else in parts. Whatever fails leaves nothing.

    Args:
        data: the bytes.
        size: how many there are, where that is known; held against what comes.
        when: the precondition, for `PartedUpload.finish`.
        limits: what the store takes.
        where: the place, for errors.
        whole: sends all of it in one request.
        begin: starts an upload, given its size (at most) and the size of its parts.

    """
    if isinstance(data, bytes | bytearray | memoryview):
        view = memoryview(data).cast("B") if isinstance(data, memoryview) else data
        same_length(where, size, len(view))
        if len(view) <= PUT_LIMIT:
            return whole(view)
        size = len(view)
        data = (memoryview(view)[at : at + _CHUNK] for at in range(0, size, _CHUNK))
    part = limits.part_size(size, STREAM_PART) if size is not None else BLIND_PART
    pieces = _pieces(data, part)
    first = next(pieces)
    if len(first) < part:
        same_length(where, size, len(first))
        return whole(first)
    upload = begin(part * limits.parts if size is None else size, part)
    tags: list[str] = []
    waiting: deque[Future[str]] = deque()
    total = 0
    try:
        with ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="rh-parts") as pool:
            try:
                for piece in chain((first,), pieces):
                    total += len(piece)
                    if not piece or (size is not None and total > size):
                        break
                    number = len(tags) + len(waiting)
                    if number == limits.parts:
                        raise InvalidError("the stream is too long to store without its size", where=where)
                    waiting.append(pool.submit(upload.store, number, piece))
                    if len(waiting) >= _IN_FLIGHT:
                        tags.append(waiting.popleft().result())
                while waiting:
                    tags.append(waiting.popleft().result())
            finally:
                for future in waiting:
                    future.cancel()
        same_length(where, size, total)
        upload.size = total
        return upload.finish(tags, when=when)
    except BaseException:
        upload.give_up()
        raise


def _pieces(data: Iterable[Bytes], size: int) -> Iterator[bytearray]:
    """A stream cut into pieces of exactly `size` bytes, the last one shorter, perhaps empty."""
    held = bytearray()
    for piece in data:
        view = memoryview(piece).cast("B")
        at = 0
        while at < len(view):
            step = min(size - len(held), len(view) - at)
            held += view[at : at + step]
            at += step
            if len(held) == size:
                yield held
                held = bytearray()
    yield held


def same_length(where: str, told: int | None, size: int) -> None:
    """Raise `IntegrityError` where a stream is not as long as told."""
    if told is not None and told != size:
        raise IntegrityError(
            "the stream is not as long as it was said to be",
            where=where,
            expected=f"{told} bytes",
            got=f"{size} bytes" if size < told else "more",
        )
