"""Runs one program and ends it, with all that it started, when the process that asked for it ends.

Started by `rh.testing.servers.process` as a file of its own; standard library only, nothing of `rh`. Standard
input is the lifeline: `t` asks the program to end, `k` kills it, end of file (the owner closed it, or died) ends it and
removes its directory. The program's process id is the first line of standard output.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_the_guard() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, parents first (Linux; elsewhere none)."""
    children: dict[int, list[int]] = {}
    if sys.platform != "linux":
        return []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # it ended while we looked
            children.setdefault(parent, []).append(int(name))
    found = []
    queue = list(children.get(pid, ()))
    while queue:
        one = queue.pop(0)
        found.append(one)
        queue.extend(children.get(one, ()))
    return found


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # gone already, which is what was asked


def _end(program: subprocess.Popen[bytes], grace_s: float) -> None:
    """Ask, wait `grace_s` seconds, then kill whatever is left of the family."""
    if grace_s and program.poll() is None:
        _signal(program.pid, signal.SIGTERM)
        try:
            program.wait(grace_s)
        except subprocess.TimeoutExpired:
            pass
    for _ in range(100):
        family = [program.pid] if program.poll() is None else []
        family += descendants(os.getpid())
        if not family:
            return
        for pid in family:
            _signal(pid, signal.SIGKILL)
        _reap(program)
        time.sleep(0.01)


def _reap(program: subprocess.Popen[bytes]) -> None:
    """Collect orphans that were handed to us; the program itself is `Popen`'s to wait for."""
    program.poll()
    while program.returncode is not None:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def main(arguments: list[str]) -> int:
    grace_s, directory, argv = float(arguments[0]), arguments[1], arguments[2:]
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    program = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        stderr=sys.stderr,
        cwd=directory,
        preexec_fn=_die_with_the_guard,  # noqa: PLW1509 - this process has one thread
    )
    sys.stdout.write(f"{program.pid}\n")  # the line our owner reads
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, lambda *_: os.close(0))
    watched: list[int] = [0]
    if hasattr(os, "pidfd_open"):
        watched.append(os.pidfd_open(program.pid))
    while True:
        try:
            ready = select.select(watched, [], [], 0.5 if len(watched) > 1 else 0.05)[0]
            order = os.read(0, 1) if 0 in ready else None
        except OSError:
            order = b""
        if order == b"":
            _end(program, grace_s)
            shutil.rmtree(directory, ignore_errors=True)
            return 0
        if order is not None:
            _end(program, grace_s if order == b"t" else 0.0)
            return 0
        if program.poll() is not None:
            status = program.returncode
            _end(program, 0.0)
            return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
