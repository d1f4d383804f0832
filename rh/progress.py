"""Progress of long work: a protocol anybody can implement, and a bar for terminals.

The bar appears when the work has taken two seconds and standard error is a terminal; otherwise nothing is printed.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from typing import IO, Any, Protocol, cast

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
    """One line with rate and time left on standard error, drawn by rich, from the second second on.

    Args:
        delay_s: how long nothing is drawn.
        console: where to, if not to standard error (a `rich.console.Console`).
    """

    def __init__(self, *, delay_s: float = 2.0, console: Any = None) -> None:
        self._delay = delay_s
        self._console = console
        self._live: Any = None

    def start(self, title: str) -> None:
        self._begun = time.monotonic()
        self._title = title
        self._files = 0
        self._size = 0
        self._total_files: int | None = None
        self._total: int | None = None
        self._seen: deque[tuple[float, int]] = deque([(self._begun, 0)])

    def total(self, files: int, size: int) -> None:
        self._total_files, self._total = files, size

    def advance(self, files: int, size: int) -> None:
        self._files += files
        self._size += size
        now = time.monotonic()
        if now - self._seen[-1][0] >= _STEP_S:
            self._seen.append((now, self._size))
            while now - self._seen[1][0] >= _WINDOW_S:
                self._seen.popleft()
        if self._live is None and now - self._begun >= self._delay:
            self._open()

    def finish(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def line(self, width: int) -> Any:
        """What is drawn on a terminal of so many cells: the places shortened first, then the least telling left out."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        facts = self._facts()
        while len(facts) > 1 and sum(len(fact) + 1 for fact in facts) + _PLACES > width:
            facts.pop()
        room = width - sum(len(fact) + 1 for fact in facts)
        bar = min(_BAR, room - _PLACES - 1) if self._total else 0
        if bar < _BAR // 2:
            bar = 0
        title = _shortened(self._title, room - (bar + 1 if bar else 0))
        row: list[Any] = [Text(title, no_wrap=True, overflow="ellipsis")]
        if bar:
            row.append(ProgressBar(self._total or 0, self._size, width=bar))
        row += [Text(fact, no_wrap=True) for fact in facts]
        grid = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
        grid.add_row(*row)
        return grid

    def _facts(self) -> list[str]:
        """What is known, the most telling first."""
        facts = [_amount(self._size, self._total)]
        now = time.monotonic()
        since, size = self._seen[0]
        if now - self._begun >= 1 and self._size > size:
            rate = (self._size - size) / (now - since)
            facts.append(f"{_amount(rate)}/s")
            if self._total is not None:
                left = round(max(self._total - self._size, 0) / rate)
                facts.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}")
        of = "" if self._total_files is None else f"/{self._total_files:,}"
        if self._total_files != 1:
            facts.append(f"{self._files:,}{of} files")
        return facts

    def _open(self) -> None:
        try:
            from rich.console import Console
            from rich.live import Live
        except ModuleNotFoundError:
            self._delay = float("inf")
            return
        console = self._console or Console(file=cast("IO[str]", _Leaving(sys.stderr)))
        self._live = Live(
            get_renderable=lambda: self.line(console.width), console=console, transient=True, refresh_per_second=8
        )
        self._live.start()


class _Leaving:
    """A terminal that may go away while the work goes on, as a lost login's does: that is no failure of the work.

    A program may close it (`ValueError`), too.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_BAR = 20
"""Cells of the bar itself, where there is room."""
_PLACES = 32
"""Cells that the places get at least."""
_STEP_S, _WINDOW_S = 0.25, 10.0
"""How often the amount is noted, and the time that the rate is of."""


def _amount(size: float, of: float | None = None) -> str:
    """Bytes for people, in the binary units of receipts: `1.5 MiB`, `1.5/3.0 GiB`."""
    largest = size if of is None else of
    power = 0
    while largest >= 1024 ** (power + 1) and power < 4:
        power += 1
    texts = [f"{value / 1024**power:,.{1 if power else 0}f}" for value in (size, *(() if of is None else (of,)))]
    return f"{'/'.join(texts)} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _shortened(title: str, room: int) -> str:
    """A title in so many cells: of each place the end says more than the beginning, and of both the middle least."""
    title = "".join(c if c.isprintable() else "?" for c in title)
    if len(title) <= room:
        return title
    source, arrow, target = title.partition(_ARROW)
    if not arrow:
        return _cut(title, room)
    each = (room - len(arrow)) // 2
    first = max(each, room - len(arrow) - len(target))
    source = _cut(source, first)
    return source + arrow + _cut(target, room - len(arrow) - len(source))


def _cut(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    front = max(room - 1, 0) // 3
    return text[:front] + "…" + text[len(text) - max(room - 1 - front, 0) :]


_ARROW = " → "


def default() -> Progress:
    """A bar on a terminal, silence elsewhere."""
    try:
        return Bar() if sys.stderr.isatty() else Silent()
    except (AttributeError, ValueError):  # none, one of a program's own, or a closed one
        return Silent()
