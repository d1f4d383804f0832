"""Run one command and say what it cost. Started as `python -I -S timed.py RESULT LIMIT_S COMMAND…`.

It is a small process of its own because a child begins with the peak memory of the process that started it. All
descendants count, also those that outlive the command (they become ours, are ended and waited for), for CPU seconds and
for memory: the peak is the largest sum of resident sets seen in samples 50 ms apart, or the largest single process if
that is more. Connections of ssh that stay in the background are left alone; what they cost meanwhile counts as well.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{task}/children") as file:
                    todo += map(int, file.read().split())
        except OSError:
            continue  # it ended while we looked
    return found


def _resident_kib(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm") as file:
                total += int(file.read().split()[1]) * _PAGE_KIB
        except (OSError, IndexError):
            continue
    return total


def _connections() -> dict[int, float]:
    """CPU seconds of each connection of ssh in the background."""
    found = {}
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and _stays(int(name)):
                with open(f"/proc/{name}/schedstat") as file:
                    found[int(name)] = int(file.read().split()[0]) / 1e9
        except (OSError, IndexError):
            continue
    return found


def _stays(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read()
    except OSError:
        return False
    return line.startswith(b"ssh: ") and b"[mux]" in line


def _left() -> list[int]:
    """What is left of the family and should not be."""
    return [pid for pid in _family(os.getpid())[1:] if not _stays(pid)]


def _end(how: int) -> None:
    """Tell all that is left of the family to end."""
    for pid in _left():
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            continue


def main(result: str, limit_s: float, command: list[str]) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)
    sampled, largest = 0, 0  # each written by one thread alone
    late, ended = False, threading.Event()
    cpu = [0.0]
    before = _connections()
    begun = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ, setsid=True)

    def watch() -> None:
        nonlocal sampled, late
        while not ended.wait(0.05):
            now = _resident_kib([*{*_family(os.getpid())[1:], *before}])
            if now > sampled:  # looked at again: a child that has not yet become another program shows its parent's
                time.sleep(0.005)
                sampled = max(sampled, min(now, _resident_kib([*{*_family(os.getpid())[1:], *before}])))
            if not late and time.perf_counter() - begun > limit_s:
                late = True
                os.killpg(child, signal.SIGKILL)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()

    def take(pid: int) -> int:
        nonlocal largest
        _, status, usage = os.wait4(pid, 0)
        cpu[0] += usage.ru_utime + usage.ru_stime
        largest = max(largest, usage.ru_maxrss)
        return status

    try:
        status = take(child)
    except BaseException:
        _end(signal.SIGKILL)  # it has a session of its own, so no interrupt reached it
        raise
    wall = time.perf_counter() - begun
    ended.set()
    watcher.join()
    _end(signal.SIGTERM)
    killer = threading.Timer(2.0, _end, [signal.SIGKILL])
    killer.start()
    while left := _left():
        try:
            take(left[0])
        except ChildProcessError:
            time.sleep(0.005)  # not ours yet: its parent is about to end
    killer.cancel()
    cpu[0] += sum(spent - before.get(pid, 0.0) for pid, spent in _connections().items())
    with open(result, "w") as file:
        json.dump(
            {
                "status": os.waitstatus_to_exitcode(status),
                "wall_s": wall,
                "cpu_s": cpu[0],
                "rss_mib": max(sampled, largest) / 1024,
                "late": late,
            },
            file,
        )


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
