"""Many requests at once, for verbs that take many keys."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

from rh.systems.abilities import WORKERS

__all__ = ["spread"]

Given = TypeVar("Given")
Made = TypeVar("Made")


def spread(
    work: Callable[[Given], Made], items: Iterable[Given], *, workers: int = WORKERS
) -> Generator[Made, None, None]:
    """The results of `work` on each item, in order, several at a time; items are taken as room is."""
    taken = iter(items)
    first = list(islice(taken, 2))
    if len(first) < 2:
        yield from map(work, first)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="rh-spread") as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for item in chain(first, taken):
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
