"""Progress of long work: a protocol anybody can implement, and a bar for terminals.

The bar appears when the work has taken two seconds and standard error is a terminal; otherwise nothing is printed.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

__all__ = ["Bar", "Progress", "Silent", "default"]


class Progress(Protocol):
    """What a transfer tells while it runs. Called from one thread at a time; must return quickly and not raise."""

    def start(self, title: str) -> None:
        """Work begins."""

    def total(self, files: int, size: int) -> None:
        """How many files and bytes there are to do, once that is known; perhaps told again when it changes."""

    def advance(self, files: int, size: int) -> None:
        """So many more files and bytes are done."""

    def finish(self) -> None:
        """Work has ended, well or not."""


class Silent:
    """Progress nobody watches."""

    def start(self, title: str) -> None: ...

    def total(self, files: int, size: int) -> None: ...

    def advance(self, files: int, size: int) -> None: ...

    def finish(self) -> None: ...


class Bar:
    """A bar with rate and time left on standard error, drawn by rich, from the second second on."""

    def __init__(self, *, delay_s: float = 2.0) -> None:
        self._delay = delay_s
        self._rich: Any = None
        self._task: Any = None
        self._files = 0
        self._size = 0
        self._total_files: int | None = None
        self._total: int | None = None

    def start(self, title: str) -> None:
        self._begun = time.monotonic()
        self._title = title

    def total(self, files: int, size: int) -> None:
        self._total_files, self._total = files, size
        if self._rich is not None:
            self._rich.update(self._task, total=size)

    def advance(self, files: int, size: int) -> None:
        self._files += files
        self._size += size
        if self._rich is None and time.monotonic() - self._begun >= self._delay:
            self._open()
        if self._rich is not None:
            of = "" if self._total_files is None else f"/{self._total_files:,}"
            self._rich.update(self._task, completed=self._size, files=f"{self._files:,}{of} files")

    def finish(self) -> None:
        if self._rich is not None:
            self._rich.stop()
            self._rich = None

    def _open(self) -> None:
        try:
            from rich import progress
            from rich.console import Console
        except ModuleNotFoundError:
            self._delay = float("inf")
            return
        self._rich = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(binary_units=True),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[files]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._rich.add_task(self._title, total=self._total, files="")
        self._rich.start()


def default() -> Progress:
    """A bar on a terminal, silence elsewhere."""
    return Bar() if sys.stderr is not None and sys.stderr.isatty() else Silent()
