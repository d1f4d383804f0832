"""Processes that take part of the work on many small files, since threads of one interpreter make each other wait.

A helper is a bare interpreter that serves `plain.py` and ends with its standard input, so it outlives nobody. It only
ever does what is plain, and nothing depends on it: a job it did not answer is given back, to be done here.
"""

from __future__ import annotations

import marshal
import os
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, Self, TypeVar

from rh.observe import log
from rh.systems.local import plain

__all__ = ["Helpers", "cores"]

MOST = 4
"""So many helpers at most: more than that nobody can feed."""
_DEEP = 4
"""Jobs a helper has at once: enough to go on with while the caller is busy with outcomes."""
_HEAD = 4
_SERVE = "import sys; sys.path.append(sys.argv[1]); import plain; plain.serve(0, 1)"
"""Imported, since what runs as a script is compiled anew each time."""

Job = TypeVar("Job")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _command() -> list[str] | None:
    """How to start a helper; `None` where this program is no interpreter that others can be started from."""
    name = os.path.basename(sys.executable or "")
    if getattr(sys, "frozen", False) or not name.startswith(("python", "pypy")):
        return None
    return [sys.executable, "-I", "-S", "-c", _SERVE, os.path.dirname(plain.__file__)]


class _Helper(Generic[Job]):
    """One process, and the jobs it has in order."""

    def __init__(self, command: list[str]) -> None:
        self.jobs: deque[Job] = deque()
        self._unsent = b""
        self._got = bytearray()
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.into, self.out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self.into, False)
        os.set_blocking(self.out, False)

    def give(self, job: Job, pages: Any) -> None:
        """One more job. Errors show when it is not answered."""
        data = marshal.dumps(pages)
        self.jobs.append(job)
        self._unsent += len(data).to_bytes(_HEAD, "big") + data
        self.push()

    @property
    def pushing(self) -> bool:
        return bool(self._unsent)

    @property
    def has_room(self) -> bool:
        return len(self.jobs) < _DEEP and not self._unsent

    def push(self) -> None:
        """Send what is to be sent, as far as there is room. Neither side ever waits for the other to read."""
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self.into, self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._unsent = b""

    def take(self) -> Iterator[tuple[Job, Any]]:
        """Jobs whose answer has come. EOFError or ValueError if no more will."""
        while True:
            try:
                piece = os.read(self.out, 1 << 16)
            except BlockingIOError:
                break
            if not piece:
                raise EOFError
            self._got += piece
        while len(self._got) >= _HEAD:
            end = _HEAD + int.from_bytes(self._got[:_HEAD], "big")
            if len(self._got) < end:
                return
            answer = marshal.loads(self._got[_HEAD:end])  # noqa: S302 - from a process we started
            del self._got[:end]
            yield self.jobs.popleft(), answer

    def end(self) -> None:
        """End the process at once, and see it gone. In a forked child only let go of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if os.getpid() == self._owner:
            self._process.kill()
            self._process.wait()
        else:
            self._process.returncode = 0
        self._process.stdin.close()
        self._process.stdout.close()


class Helpers(Generic[Job]):
    """The helpers of one call, started one by one as the work turns out to be worth it.

    Args:
        timeout_s: a helper that leaves a job without an answer for so long is ended.
        after: so many files of work are worth the start of one more.
    """

    def __init__(self, timeout_s: float, *, after: int = 256) -> None:
        self._timeout_s = timeout_s
        self._after = after
        self._most = min(cores() - 1, MOST)
        self._command = _command() if self._most > 0 else None
        self._helpers: list[_Helper[Job]] = []
        self._lost: list[Job] = []
        self._files = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def have_room(self, files: int) -> bool:
        """Whether one of them is free to take a job of so many files. Starts one if there was enough work for it."""
        if self._command is None:
            return False
        self._files += files
        if len(self._helpers) < self._most and self._files >= self._after * (len(self._helpers) + 1):
            self._start(self._command)
        return any(helper.has_room for helper in self._helpers)

    def give(self, job: Job, pages: Any) -> None:
        """Have a job done by one that has room; `pages` are what `plain.serve` takes."""
        free = [helper for helper in self._helpers if helper.has_room]
        min(free, key=lambda helper: len(helper.jobs)).give(job, pages)

    def _start(self, command: list[str]) -> None:
        try:
            self._helpers.append(_Helper(command))
        except (OSError, ValueError) as error:
            log.debug("no helper process can be started (%s); everything is done here", error)
            self._command = None

    @property
    def busy(self) -> bool:
        """Whether there are jobs that were not given back yet."""
        return bool(self._lost) or any(helper.jobs for helper in self._helpers)

    def answers(self, *, wait: bool) -> Iterator[tuple[Job, Any]]:
        """Jobs with their answers, `None` for one that must be done here. With `wait`, at least one if any is out."""
        until = time.monotonic() + self._timeout_s
        while True:
            some = False
            for helper in list(self._helpers):
                helper.push()
                try:
                    for job, answer in helper.take():
                        some = True
                        yield job, answer
                except (EOFError, OSError, ValueError, TypeError, IndexError) as error:
                    log.debug("a helper process ended early (%s); its work is done here", error)
                    self._end(helper)
            while self._lost:
                some = True
                yield self._lost.pop(), None
            if some or not wait or not self.busy:
                return
            if not self._wait(until - time.monotonic()):
                for helper in [one for one in self._helpers if one.jobs]:
                    self._end(helper)

    def _wait(self, timeout_s: float) -> bool:
        poll = select.poll()
        for helper in self._helpers:
            if helper.jobs:
                poll.register(helper.out, select.POLLIN)
                if helper.pushing:
                    poll.register(helper.into, select.POLLOUT)
        return timeout_s > 0 and bool(poll.poll(timeout_s * 1000))

    def _end(self, helper: _Helper[Job]) -> None:
        """Give up on a helper, and on all further ones: what ended one may end the next."""
        self._command = None
        self._helpers.remove(helper)
        helper.end()
        self._lost.extend(helper.jobs)

    def close(self) -> None:
        """End every helper, whatever it is doing."""
        self._command = None
        self._lost.clear()
        while self._helpers:
            self._helpers.pop().end()
