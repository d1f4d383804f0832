"""Streams on their way into a store: cut to the store's parts, held against the length that was told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rh.errors import IntegrityError
from rh.systems.base import Bytes

__all__ = ["pieces_of", "same_length"]


def pieces_of(data: Iterable[Bytes], size: int) -> Iterator[bytearray]:
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
    """Raise `IntegrityError` where a stream was not as long as told."""
    if told is not None and told != size:
        raise IntegrityError(
            "the stream is not as long as it was said to be",
            where=where,
            expected=f"{told} bytes",
            got=f"{size} bytes" if size < told else "more",
        )
