"""What handles on one endpoint share in a process, and forget when it forks."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from rh.errors import InvalidError
from rh.forks import Lock
from rh.systems.base import Settings

__all__ = ["Attempt", "Attempts", "flag", "shared"]

_REMEMBERED = 1024

Place = TypeVar("Place")
_places: dict[tuple[type, bytes], Any] = {}
_lock = Lock()


os.register_at_fork(after_in_child=_places.clear)


def shared(
    kind: type[Place],
    settings: Settings,
    variables: tuple[str, ...],
    make: Callable[[], Place],
    *,
    files: Sequence[str] = (),
) -> Place:
    """The one place of this process for these settings, and the environment and the files of this moment.

    Args:
        kind: the class of the place.
        settings: of the system.
        variables: prefixes of the environment variables that matter to it.
        make: makes it, without I/O.
        files: where credentials may be, which somebody may renew.

    """
    said = sorted((str(key), repr(value)) for key, value in settings.items())
    around = sorted((key, value) for key, value in os.environ.items() if key.startswith((*variables, "HOME")))
    written = [_written(file) for file in files]
    # A digest, since the environment may hold secrets.
    stamp = (kind, hashlib.sha256(repr((said, around, written)).encode("utf-8", "surrogateescape")).digest())
    found = _places.get(stamp)
    if found is None:
        made = make()
        with _lock:
            found = _places.setdefault(stamp, made)
    place: Place = found
    return place


def _written(file: str) -> tuple[int, ...] | None:
    """What differs when a file is written anew."""
    try:
        found = os.stat(os.path.expanduser(file))
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def flag(value: Any) -> bool | None:
    """A setting as yes or no (`RH_…` variables are text); `None` where there is none."""
    if value is None or isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off", ""):
        return False
    raise InvalidError(f"neither true nor false: {value!r}")


class Attempt(NamedTuple):
    """A conditional write whose answer was lost: its mark, and the MD5 of its bytes."""

    mark: str
    md5: str


Slot = tuple[str, str, str]
"""Bucket, full key, and condition."""


class Attempts:
    """Conditional writes that may have happened, so that a refused repetition can recognise its own object."""

    def __init__(self) -> None:
        self._unsure: OrderedDict[Slot, Attempt] = OrderedDict()
        self._lock = Lock()

    def begin(self, slot: Slot, md5: str) -> tuple[Attempt, bool]:
        """The mark for a conditional write, and whether an earlier try of the same write may have succeeded."""
        with self._lock:
            earlier = self._unsure.get(slot)
        if earlier is not None and earlier.md5 == md5:
            return earlier, True
        return Attempt(uuid.uuid4().hex, md5), False

    def settle(self, slot: Slot, attempt: Attempt | None = None) -> None:
        """Keep a mark whose write may or may not have happened; without one, forget it."""
        with self._lock:
            self._unsure.pop(slot, None)
            if attempt is not None:
                self._unsure[slot] = attempt
                while len(self._unsure) > _REMEMBERED:
                    self._unsure.popitem(last=False)
