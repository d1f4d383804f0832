"""Which process writes a document, so that another one on the same machine can tell that it is gone."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

__all__ = ["is_gone", "process"]


def _here() -> str:
    """What all processes share that see each other's numbers: the boot of a machine, and a space of process numbers."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except (OSError, ValueError):
        return ""  # not Linux: nobody can tell


def process() -> dict[str, Any]:
    """Who this process is, for `is_gone`; nothing where that could not be told."""
    here, state = _here(), _state(os.getpid())
    return {"here": here, "pid": os.getpid(), "born": state[1]} if here and state is not None else {}


def is_gone(told: Any) -> bool:
    """Whether that process was on this machine, and is there no longer. `False` wherever that is not certain."""
    if not isinstance(told, dict) or not told.get("here") or told["here"] != _here():
        return False
    pid = told.get("pid")
    if type(pid) is not int or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        pass
    state = _state(pid)
    return state is not None and (state[0] in "ZX" or state[1] != told.get("born"))


def _state(pid: int) -> tuple[str, int] | None:
    """The state of a process (`Z`: killed, and its parent has not looked), and when it began, in ticks since the boot.

    `None` where it is hidden, or still has threads though its first one has ended.
    """
    with suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        state = fields[0].decode()
        if state != "Z" or len(os.listdir(f"/proc/{pid}/task")) == 1:
            return state, int(fields[19])
    return None
