"""What `fork` asks of us: locks that a child finds open, and work that a fork waits for.

A forked child has the memory of all threads and only one of them. A lock that another thread held at that moment stays
shut in the child for ever; ours are opened there (`Lock`). What C libraries and the import system hold at that moment
cannot be mended, so a fork waits until no thread is at such work (`with imports:`, `with databases:`).
"""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType

__all__ = ["Lock", "Work", "databases", "imports"]

PATIENCE_S = 10.0
"""How long a fork waits at the most: what lasts longer may itself be waiting for the thread that forks."""

_changed = threading.Condition()
_forking = False


class Lock:
    """A reentrant lock that nobody holds in a forked child."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


class Work:
    """A kind of work that no fork happens in the middle of, as a block.

    Attributes:
        torn: whether this process was forked in the middle of such work after all.
    """

    def __init__(self) -> None:
        self.torn = False
        self._inside: dict[int, int] = {}

    def __enter__(self) -> None:
        me = threading.get_ident()
        with _changed:
            while _forking and not self._inside.get(me):  # else threads that come and go would keep a fork waiting
                _changed.wait(PATIENCE_S)
            self._inside[me] = self._inside.get(me, 0) + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        me = threading.get_ident()
        with _changed:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
                _changed.notify_all()

    def others(self) -> bool:
        """Whether another thread is at it."""
        return bool(self._inside.keys() - {threading.get_ident()})

    def forked(self) -> None:
        """Forget threads that are no more."""
        self.torn = self.torn or bool(self._inside)
        for other in self._inside.keys() - {threading.get_ident()}:
            del self._inside[other]


imports = Work()
"""A module half imported stays so."""
databases = Work()
"""SQLite has locks of the whole process, and a child that inherits an open connection damages the file."""


def _before() -> None:
    global _forking  # noqa: PLW0603
    _changed.acquire()  # and kept: at the moment of the fork it is the forker's
    _forking = True
    _changed.wait_for(lambda: not imports.others() and not databases.others(), PATIENCE_S)


def _after_in_parent() -> None:
    global _forking  # noqa: PLW0603
    _forking = False
    _changed.notify_all()
    _changed.release()


def _after_in_child() -> None:
    global _changed, _forking  # noqa: PLW0603
    _forking = False
    _changed.release()
    _changed = threading.Condition()  # threads that are no more may have waited for it
    imports.forked()
    databases.forked()
    for lock in _locks:
        lock._lock = threading.RLock()  # noqa: SLF001 - same module


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
