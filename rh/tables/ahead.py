"""Work done ahead of who needs it: several threads, results in order, a bound on what waits."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["Ahead"]

T = TypeVar("T")
C = TypeVar("C")

_PATIENCE_S = 10.0
"""How long the end of Python waits for a thread that is inside a request."""


class _Lane(Generic[C]):
    """What came of one task and was not taken yet."""

    __slots__ = ("done", "error", "results")

    def __init__(self) -> None:
        self.results: deque[tuple[C, int]] = deque()
        self.error: BaseException | None = None
        self.done = False


class _Shared(Generic[T, C]):
    """What the threads and the one who waits have in common; it knows nothing of the latter, who may be dropped."""

    def __init__(
        self,
        tasks: Iterator[T],
        work: Callable[[T], Iterator[tuple[C, int]]],
        cost: Callable[[T], int],
        most: int,
        budget: int,
        least: int,
    ) -> None:
        self.pid = os.getpid()
        self.tasks = tasks
        self.work = work
        self.cost = cost
        self.most = most
        self.budget = budget
        self.least = least
        self.costs = 0
        self.busy = 0
        self.waiting = 0
        self.lanes: deque[_Lane[C]] = deque()
        self.begun = False
        self.ended = False
        self.stopped = False
        self.planning = threading.Lock()
        self.changed = threading.Condition()
        self.threads: list[threading.Thread] = []

    def run(self) -> None:
        """Take tasks until there are no more; what each thread does."""
        while (taken := self._take()) is not None:
            task, lane, cost = taken
            results = self.work(task)
            try:
                for result, size in results:
                    if not self._put(lane, result, size):
                        return
            except BaseException as error:  # noqa: BLE001 - it is raised again where the results are taken
                lane.error = error
            finally:
                del task, results
                with self.changed:
                    lane.done = True
                    self.busy -= 1
                    self.costs -= cost
                    self.changed.notify_all()

    def _take(self) -> tuple[T, _Lane[C], int] | None:
        with self.planning:  # finding the next task may itself take a request
            with self.changed:
                while self.lanes and not self.begun and not self.stopped:
                    self.changed.wait()
            if self.ended or self.stopped:
                return None
            lane: _Lane[C] = _Lane()
            task = None
            try:
                task = next(self.tasks, None)
            except BaseException as error:  # noqa: BLE001 - as above
                lane.error, lane.done = error, True
            cost = 0 if task is None else self.cost(task)
            with self.changed:
                self.ended = task is None
                while self.busy >= self.least and self.costs + cost > self.budget and not self.stopped:
                    self.changed.wait()
                if task is not None:
                    self.busy += 1
                    self.costs += cost
                if task is not None or lane.error is not None:
                    self.lanes.append(lane)
                self.changed.notify_all()
        return None if task is None else (task, lane, cost)

    def _put(self, lane: _Lane[C], result: C, size: int) -> bool:
        """Add a result when there is room for it. The lane that is next always has room for one."""
        with self.changed:
            while self.waiting >= self.most and not (lane is self.lanes[0] and not lane.results):
                if self.stopped:
                    return False
                self.changed.wait()
            if self.stopped:
                return False
            lane.results.append((result, size))
            self.waiting += size
            if lane is self.lanes[0]:
                self.changed.notify_all()
        return True

    def next(self) -> C | None:
        """The next result, `None` behind the last one."""
        with self.changed:
            while True:
                if self.lanes:
                    lane = self.lanes[0]
                    if lane.results:
                        result, size = lane.results.popleft()
                        full = self.waiting >= self.most
                        self.waiting -= size
                        if full:
                            self.changed.notify_all()
                        return result
                    if lane.error is not None:
                        raise lane.error
                    if lane.done:
                        self.lanes.popleft()
                        self.changed.notify_all()
                        continue
                elif self.ended:
                    return None
                self.changed.wait()

    def begin(self) -> None:
        """Let the first thread go on to a second task."""
        with self.changed:
            self.begun = True
            self.changed.notify_all()

    def stop(self) -> None:
        """Let threads end at their next step, and forget what waits."""
        if self.pid != os.getpid():
            return  # the threads are the parent's, and so is the lock
        with self.changed:
            self.stopped = True
            self.lanes.clear()
            self.waiting = 0
            self.changed.notify_all()


class Ahead(Generic[T, C]):
    """The results of tasks, in the order of the tasks, computed by threads that are started when they are needed.

    The first result costs one task alone: all else begins when a second one is asked for. When this object is
    dropped or closed, the threads end at their next step.

    Args:
        tasks: taken one at a time, as threads are free.
        work: what one task gives, each with its size in bytes.
        cost: bytes that a task takes while it is under way, roughly.
        threads: how many; 0: all is done in the caller's thread, when asked for.
        most: bytes of results that may wait. One is added as long as there are fewer.
        budget: bytes that tasks under way may cost together, where there are more than `least`.
        least: tasks that may be under way whatever they cost.
    """

    def __init__(
        self,
        tasks: Iterator[T],
        work: Callable[[T], Iterator[tuple[C, int]]],
        cost: Callable[[T], int],
        *,
        threads: int,
        most: int,
        budget: int,
        least: int,
    ) -> None:
        self._shared: _Shared[T, C] = _Shared(tasks, work, cost, most, budget, least)
        self._threads = threads
        self._error: Exception | None = None
        self._own = (result for task in tasks for result, _ in work(task)) if not threads else None
        weakref.finalize(self, self._shared.stop).atexit = False

    def next(self) -> C | None:
        """The next result, `None` behind the last one; what a task raised is raised here, in its place."""
        if self._error is not None:
            raise self._error
        try:
            if self._own is not None:
                return next(self._own, None)
            self._start()
            return self._shared.next()
        except Exception as error:
            # The error's traceback holds who waits, and so would every thread that still waits for something to do.
            self._error = error
            self._shared.stop()
            raise

    def _start(self) -> None:
        """Start the first thread, or let it go on and start the others."""
        running = self._shared.threads
        if running and not self._shared.begun:
            self._shared.begin()
        if len(running) < self._threads:
            for _ in range(1 if not running else self._threads - len(running)):
                thread = threading.Thread(target=self._shared.run, name="rh-stream", daemon=True)
                running.append(thread)
                _running.add(thread)
                _of[thread] = self._shared
                thread.start()

    def close(self) -> None:
        """End the threads, at once or when a request under way has its answer. They are not waited for."""
        if self._own is not None:
            self._own.close()
        self._shared.stop()


_running: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_of: weakref.WeakKeyDictionary[threading.Thread, _Shared[Any, Any]] = weakref.WeakKeyDictionary()


@atexit.register
def _end() -> None:
    """Python must not end under threads that are in Arrow's code."""
    threads = list(_running)
    for thread in threads:
        shared = _of.get(thread)
        if shared is not None:
            shared.stop()
    for thread in threads:
        if thread.is_alive():  # one that an interrupt kept from starting finds nothing to do if it ever does
            thread.join(_PATIENCE_S)
