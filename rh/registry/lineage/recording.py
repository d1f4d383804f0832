"""Where reads and writes tell the run they happen in; without a run they tell nobody, and it costs nothing.

A run holds for what its block calls, in this task or thread, and for threads and tasks that were given its context
(`contextvars.copy_context().run`). One that was begun in the main thread, outside a task, also holds for every thread
that has none of its own, so those of a pool need nothing.

A process that was started with the id of a run in `RH_RUN` is in that run, unless it begins one: children of a process
that is in a run, and whoever is given the variable.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from rh.forks import Lock

__all__ = [
    "VARIABLE",
    "Active",
    "Pin",
    "Recorder",
    "RunRef",
    "active",
    "committed",
    "inherit",
    "opened",
    "producer",
    "read",
    "told_as",
    "wrote",
]

VARIABLE = "RH_RUN"


class RunRef(NamedTuple):
    """Which run: its id, and the name it was given."""

    id: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} {self.id}"


class Pin(NamedTuple):
    """Which version a handle is on, and what was asked for when it was made: `"production"`, `"v3"`, a digest."""

    name: str
    series: str
    number: int
    digest: str
    asked: str
    drafted: bool = False
    """Whether a draft made it: the live data had no part in it."""


class Recorder(Protocol):
    """What is told of reads and writes."""

    ref: RunRef

    def read(self, resource: Any, pin: Pin | None) -> None:
        """The data of a resource were opened for reading."""

    def wrote(self, resource: Any) -> None:
        """The data of a resource were written, or are about to be."""

    def committed(self, pin: Pin, *, new: bool) -> None:
        """A version was made, or one that is equal was found."""


_context: contextvars.ContextVar[tuple[Recorder, ...]] = contextvars.ContextVar("rh_run", default=())
"""The runs that are open here, the innermost last. Those of generators end in any order."""
_instead: contextvars.ContextVar[Any] = contextvars.ContextVar("rh_told_as", default=None)


class _Process:
    runs: tuple[Recorder, ...] = ()
    given: str | None = os.environ.get(VARIABLE)
    """The run that this process was started in, until that is looked up. Later values are for its children."""
    attach: Callable[[str], Recorder | None] | None = None


_attaching = Lock()


def inherit(attach: Callable[[str], Recorder | None]) -> None:
    """Say what makes a recorder of the id of a run that another process began, or `None` where that cannot be."""
    _Process.attach = attach


def active() -> Recorder | None:
    """The run that this code is in."""
    runs = _context.get() or _Process.runs
    if not runs and _Process.given is not None:
        runs = _inherited()
    return runs[-1] if runs else None


def _inherited() -> tuple[Recorder, ...]:
    with _attaching:
        if _Process.attach is not None:
            given, _Process.given = _Process.given, None  # before it is looked up: that is no work of the run
            run = _Process.attach(given) if given else None
            if run is not None:
                _Process.runs = (run, *_Process.runs)
    return _Process.runs


class Active:
    """Makes a run the active one, as a block."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __enter__(self) -> None:
        self._for_all = threading.current_thread() is threading.main_thread() and not _in_task()
        _context.set((*_context.get(), self._recorder))
        if self._for_all:
            _Process.runs = (*_Process.runs, self._recorder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _context.set(self._without(_context.get()))
        if self._for_all:
            _Process.runs = self._without(_Process.runs)

    def _without(self, runs: tuple[Recorder, ...]) -> tuple[Recorder, ...]:
        return tuple(run for run in runs if run is not self._recorder)


def _in_task() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001


def read(resource: Any, pin: Pin | None = None) -> None:
    """Say that the data of `resource` (of the version `pin` of it) are read."""
    run = active()
    if run is not None:
        run.read(_meant(resource), pin)


def wrote(resource: Any) -> None:
    """Say that the data of `resource` are written."""
    run = active()
    if run is not None:
        run.wrote(_meant(resource))


def opened(resource: Any, mode: str) -> None:
    """Say that a file of `resource` is opened in this mode."""
    if "r" in mode:
        read(resource)
    else:
        wrote(resource)


@contextlib.contextmanager
def told_as(resource: Any) -> Iterator[None]:
    """Within the block, what is read and written is told as this: what was saved, not the place it is reached by."""
    before = _instead.set(resource)
    try:
        yield
    finally:
        _instead.reset(before)


def _meant(resource: Any) -> Any:
    instead = _instead.get()
    return resource if instead is None else instead


def producer() -> dict[str, str] | None:
    """What the record of a version made now says of who made it."""
    run = active()
    return None if run is None else {"run": run.ref.id, "name": run.ref.name}


def committed(pin: Pin, *, new: bool) -> None:
    """Say that a version was made (`new`), or that there was an equal one already."""
    run = active()
    if run is not None:
        run.committed(pin, new=new)
