"""In which order rows come: shares of ranks, and what a seed makes of files, row groups and rows. Pure; no I/O.

Everything is computed from SHA-2 and whole numbers, never from a library's random numbers, so a seed gives the same
order on every machine and with every release of Python and numpy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from rh.errors import InvalidError
from rh.plugins import need

__all__ = ["Group", "Window", "between", "check_rank", "permutation", "scatter", "share", "windows"]

FEW = 256
ROUNDS = 6
"""More than are needed to make an order that tests of chance cannot tell from a drawn one."""


def check_rank(rank: int, world_size: int) -> None:
    """Raise `InvalidError` unless `rank` is one of `world_size`."""
    if not isinstance(world_size, int) or world_size < 1:
        raise InvalidError(f"world_size is {world_size!r}", hint="it is the number of processes: 1 or more")
    if not isinstance(rank, int) or not 0 <= rank < world_size:
        raise InvalidError(f"rank {rank!r} is none of {world_size}", hint=f"ranks go from 0 to {world_size - 1}")


def share(total: int, rank: int, world_size: int) -> tuple[int, int]:
    """The part `[start, stop)` of `total` rows that a rank has.

    The parts of all ranks follow each other, cover everything, and differ in size by one row at the most.
    """
    return total * rank // world_size, total * (rank + 1) // world_size


def permutation(count: int, seed: int, *path: object) -> list[int]:
    """The numbers below `count` in an order that depends on the seed and on what is permuted (`path`) alone."""
    stem = "/".join(map(repr, (seed, *path)))
    return sorted(range(count), key=lambda number: hashlib.sha256(f"{stem}/{number}".encode()).digest())


def scatter(count: int, seed: int, first: int) -> Any:
    """Places `0 … count - 1` in an order that depends on the seed and on `first` alone, as 32 bit integers.

    The numbers below the next power of two go through rounds that no two leave as one: add a key, multiply by an odd
    one, fold the upper half of the bits into the lower (the steps of the finalizers of MurmurHash3 and SplitMix64, cut
    to so many bits). Those that come out below `count` are the places; there is nothing to sort, and ten times less to
    do. The keys are SHA-512 of seed and `first`. A few places are permuted as files are: rounds mix few bits badly.
    """
    np = need("numpy")
    if count >= 1 << 32:
        raise InvalidError(f"{count:,} rows are too many to shuffle at once", hint="give a smaller shuffle_buffer=")
    if count <= FEW:
        return np.array(permutation(count, seed, "rows", first), np.uint32)
    bits = (count - 1).bit_length()
    keys = np.frombuffer(hashlib.sha512(f"rows/{seed!r}/{first}".encode()).digest(), "<u4").astype(np.uint32)
    mask, half = np.uint32((1 << bits) - 1), np.uint32((bits + 1) // 2)
    found = np.arange(1 << bits, dtype=np.uint32)
    for add, factor in zip(keys[:ROUNDS], keys[-ROUNDS:], strict=True):
        found += add
        found *= factor | np.uint32(1)
        found &= mask
        found ^= found >> half
    return found if count == 1 << bits else found[found < count]


class Group(NamedTuple):
    """Rows of one file that are read together: a row group, or a whole file of a format that has none.

    Attributes:
        file: number of the file in the snapshot.
        number: of the row group in the file.
        rows: how many it has; `None` where only reading tells.
        size: bytes it has when decoded, roughly.
        start: rows at its begin that are not wanted.
        stop: the row behind the last one wanted; `None`: to the end.
    """

    file: int
    number: int
    rows: int | None
    size: int = 0
    start: int = 0
    stop: int | None = None

    @property
    def wanted(self) -> int:
        """How many rows are wanted; 0 where that is not known."""
        stop = self.rows if self.stop is None else self.stop
        return 0 if stop is None else stop - self.start


class Window(NamedTuple):
    """Groups that follow each other and are read as one; when shuffled, their rows change places among each other."""

    groups: tuple[Group, ...]
    start: int
    """Place of the first row in the share."""


def windows(files: Iterable[Iterable[Group]], start: int, *, rows: int, size: int, across: bool) -> Iterator[Window]:
    """Gather groups while they have at most so many rows and bytes together; a larger one is a window by itself.

    Groups count whole, also where only a part of them is wanted: so the windows are the same when begun at any of them.
    The next file is not looked into before the window that ends with this one is given.

    Args:
        files: groups of each file, in order.
        start: place of the first row in the share.
        rows: how many at the most.
        size: bytes at the most.
        across: let a window have groups of several files.
    """
    held: list[Group] = []
    many = large = 0
    for groups in files:
        for group in groups:
            if held and (group.rows is None or many + group.rows > rows or large + group.size > size):
                yield Window(tuple(held), start)
                start += sum(one.wanted for one in held)
                held, many, large = [], 0, 0
            held.append(group)
            many += rows if group.rows is None else group.rows
            large += group.size
        if held and (not across or many >= rows or large >= size):
            yield Window(tuple(held), start)
            start += sum(one.wanted for one in held)
            held, many, large = [], 0, 0
    if held:
        yield Window(tuple(held), start)


def between(files: Iterable[Iterable[Group]], start: int, stop: int | None) -> Iterator[list[Group]]:
    """What is left of the groups of files when only the rows `[start, stop)` of all of them are wanted."""
    at = 0
    for groups in files:
        if stop is not None and at >= stop:
            return
        found = []
        for group in groups:
            if group.rows is None:  # nothing behind it has a place, so it is wanted from its first row on
                found.append(group)
                continue
            low, high = max(start - at, 0), group.rows if stop is None else min(stop - at, group.rows)
            if low < high:
                found.append(group._replace(start=low, stop=high))
            at += group.rows
        if found:
            yield found
