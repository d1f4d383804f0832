"""The books of a running transfer: what arrived, what failed, progress, cancellation, the journal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rh import config
from rh import digest as digests
from rh.content.cache import settled
from rh.content.tree import Row
from rh.digest import Digest
from rh.errors import ConflictError, DeadlineError, IntegrityError, RhError, UnavailableError
from rh.progress import Progress
from rh.systems.base import Bytes, System
from rh.transfer.journal import Journal
from rh.transfer.options import Options
from rh.transfer.plan import Step
from rh.transfer.vouched import running
from rh.types import Entry

__all__ = ["Mover", "Shared", "crew"]

T = TypeVar("T")


class Shared(Generic[T]):
    """An iterator that several threads take from."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._lock:
            return next(self._items)


class _Throttle:
    """A token bucket of bytes per second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._ready = time.monotonic()

    def take(self, size: int, stop: threading.Event) -> None:
        with self._lock:
            now = time.monotonic()
            self._ready = max(self._ready, now - 0.25) + size / self._rate
            wait = self._ready - now
        if wait > 0:
            stop.wait(wait)


@dataclass(slots=True)
class Mover:
    """What every way of moving reports to. Safe for threads."""

    source: System
    target: System
    options: Options
    progress: Progress
    journal: Journal
    stop: threading.Event
    rows: dict[str, Row]
    learned: list[Row]
    failures: dict[str, Exception]
    workers: int
    memory: int
    patience_s: float
    bytes_moved: int = 0
    bytes_resumed: int = 0
    """Bytes of files done that had arrived in an earlier run, in parts."""
    done_files: int = 0
    watched: dict[str, int] = field(default_factory=dict)
    """Bytes by key that progress was told of already, of files that are on their way as a whole."""
    gone: Exception | None = None
    """Why an end is taken for gone: nothing but failures to reach it for as long as `patience_s`."""
    alive_at: float = 0.0
    _lock: Any = None
    _throttle: _Throttle | None = None

    @classmethod
    def new(
        cls,
        source: System,
        target: System,
        options: Options,
        progress: Progress,
        cancel: threading.Event | None,
        only: tuple[str, str] | None = None,
    ) -> Mover:
        """Books for one run; `only` are the key at the source and the one at the target, if it is of a single file."""
        mover = cls(
            source,
            target,
            options,
            progress,
            Journal(source, target, only),
            cancel or threading.Event(),
            {},
            [],
            {},
            options.workers or int(config.get("workers")),
            int(config.get("memory_mb")) << 20,
            max(float(end.settings.get("timeout_s") or 0) for end in (source, target)) or float("inf"),
            alive_at=time.monotonic(),
        )
        mover._lock = threading.Lock()
        mover._throttle = _Throttle(options.bandwidth) if options.bandwidth else None
        return mover

    @property
    def stopped(self) -> bool:
        """Whether no new work is to be begun."""
        return self.stop.is_set() or self.gone is not None

    def throttle(self, size: int) -> None:
        """Wait until so many bytes may pass."""
        if self._throttle is not None:
            self._throttle.take(size, self.stop)

    def done(self, step: Step, entry: Entry, digest: Digest | None, *, counted: bool = False) -> None:
        """A file has arrived and is verified. `counted`: its bytes were told to `part` already."""
        text = digest.text if digest is not None else step.digest
        chunks = digest.chunks if digest is not None else step.chunks
        executable = entry.executable if entry.executable is not None else step.executable
        row = Row(step.key, entry.size, "file", text, entry.etag, executable, chunks)
        calm = settled(step.entry.modified)
        self.journal.done(step.entry, row, settled=calm)
        with self._lock:
            self.rows[step.key] = row
            self.failures.pop(step.key, None)
            if text is not None and calm and step.digest is None and step.entry.etag is not None:
                self.learned.append(Row(step.entry.key, entry.size, "file", text, step.entry.etag, None, chunks))
            self.bytes_moved += entry.size
            self.done_files += 1
            self.alive_at = time.monotonic()
            told = entry.size if counted else self.watched.pop(step.key, 0)
            self.progress.advance(1, entry.size - told)

    def carry(self, step: Step, work: Callable[[], tuple[Entry, Digest]]) -> None:
        """Let a file be written and verified, and enter what became of it."""
        try:
            entry, digest = work()
        except Exception as error:  # noqa: BLE001 - told per file
            self.failed(step, as_rh(error, self.source.url(step.entry.key)))
        else:
            self.done(step, entry, digest)

    def made(self, step: Step, entry: Entry) -> None:
        """A directory or a link is there."""
        with self._lock:
            self.rows[step.key] = Row(
                step.key, entry.size, step.entry.kind, None, entry.etag, None, b"", step.entry.target
            )

    def part(self, size: int) -> None:
        """Part of a file has arrived."""
        with self._lock:
            self.alive_at = time.monotonic()
            self.progress.advance(0, size)

    def watch(self, key: str, there: int) -> None:
        """Of a file that is on its way as a whole, so many bytes are there. Raises if no more is wanted."""
        if self.stopped:
            raise RhError("stopped half way", where=self.target.url(key))
        with self._lock:
            more = there - self.watched.get(key, 0)
            if more > 0:
                self.watched[key] = there
                self.alive_at = time.monotonic()
                self.progress.advance(0, more)

    def resumed(self, size: int) -> None:
        """Part of a file had arrived in an earlier run."""
        with self._lock:
            self.bytes_resumed += size
            self.progress.advance(0, size)

    def failed(self, step: Step, error: Exception) -> None:
        """A file did not arrive (this time)."""
        _let_go(error)
        with self._lock:
            self.failures[step.key] = error
            if isinstance(error, UnavailableError | DeadlineError):
                if time.monotonic() - self.alive_at > self.patience_s:
                    self.gone = error
            else:
                self.alive_at = time.monotonic()


def _let_go(error: BaseException) -> None:
    """Let an error that is kept forget where it was raised: the frames there hold the bytes of the file."""
    known = {id(error): error}
    waiting = [error]
    while waiting:
        one = waiting.pop().with_traceback(None)
        for other in (one.__cause__, one.__context__):
            if other is not None and id(other) not in known:
                known[id(other)] = other
                waiting.append(other)


def verified(mover: Mover, step: Step, data: Bytes, digest: Digest | None = None) -> Digest:
    """The digest of a whole file in memory (computed, if it is not yet), compared with all that is known of it."""
    if len(data) != step.entry.size:
        raise IntegrityError(
            "the source gave another number of bytes than it said",
            where=mover.source.url(step.entry.key),
            expected=str(step.entry.size),
            got=str(len(data)),
        )
    digest = digest or digests.of_bytes(data)
    if step.digest is not None:
        if step.digest != digest.text:
            expect(step, digest.text, mover.source.url(step.entry.key))
    elif step.entry.check != digest.text and (told := running(step.entry.check)) is not None:
        told.update(data)
        told.compare(mover.source.url(step.entry.key))
    return digest


def expect(step: Step, got: str, where: str) -> None:
    """Compare the digest of what arrived with what is known of the source: by its manifest, or whoever stored it."""
    if step.digest is not None and step.digest != got:
        raise IntegrityError("the bytes are not what was stored", where=where, expected=step.digest, got=got)


def changed(where: str) -> ConflictError:
    """The error for a source that moved under us."""
    return ConflictError(
        "the source changed while it was read", where=where, hint="run it again when nobody writes there"
    )


def crew(count: int, work: Callable[[], None], stop: threading.Event) -> None:
    """Run `work` in `count` daemon threads until all return; an error of one stops the others and is raised here.

    Interruptible: the waiting thread wakes often, so Ctrl-C gets through, and the threads are left behind as daemons.
    """
    if count == 1:
        work()
        return
    errors: list[BaseException] = []
    finished = threading.Semaphore(0)

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the waiting thread
            errors.append(error)
            stop_here.set()
        finally:
            finished.release()

    stop_here = stop
    for _ in range(count):
        threading.Thread(target=run, name="rh-transfer", daemon=True).start()
    for _ in range(count):
        while not finished.acquire(timeout=0.5):
            pass
    if errors:
        raise errors[0]


def as_rh(error: Exception, where: str) -> RhError:
    """An error as one of ours."""
    if isinstance(error, RhError):
        return error
    wrapped = RhError(f"{type(error).__name__}: {error}", where=where)
    wrapped.__cause__ = error
    return wrapped
