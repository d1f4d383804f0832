"""Directories that are read before a listing comes to them: by a helper process, and here while that one is busy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rh.systems.base import HIDDEN
from rh.systems.local import plain
from rh.systems.local.disk import Root
from rh.systems.local.helpers import Helpers
from rh.systems.local.looks import TOGETHER, Folder, Job

__all__ = ["Ahead"]

_LARGE = 2 * TOGETHER
"""Directories with so many names or more are left to the listing, which looks at them by the run."""
_ASKED = 2_500
"""Files, about, that helpers are busy with: enough to go on with, and little to wait for in the end."""
_HELD = 8_000
"""Files, about, that may be known before the listing comes to them."""


class Ahead:
    """What is in the directories that a listing will come to, in the order in which it will.

    Only what is plain is told here: no links, nothing but files and directories, and nothing that is an error.
    """

    def __init__(self, root: Root, helpers: Helpers[Job]) -> None:
        self._root = root
        self._helpers = helpers
        self._levels: list[Iterator[str]] = []
        self._asked: set[str] = set()
        self._ready: dict[str, Folder | None] = {}
        self._folders = self._files = self._new = 0

    def enter(self, keys: Iterable[str]) -> None:
        """The listing goes into a directory, and will come to these in it."""
        self._levels.append(iter(keys))

    def leave(self) -> None:
        """It comes out again."""
        self._levels.pop()

    def take(self, key: str) -> Folder | None:
        """What is in the directory that the listing has come to; `None` if it is not plain."""
        self._ask()
        self._hear()
        while key in self._asked:
            other = self._next()
            if other is None:  # rather than wait for a helper that is late, its work is done again
                self._asked.discard(key)
                return self._read(key)
            self._ready[other] = self._read(other)
            self._ask()
            self._hear()
        if key in self._ready:
            return self._ready.pop(key)
        # Nobody took it, so it is the next of its level. (Or a helper was lost with it: then that is another one, which
        # is not read ahead.)
        next(self._levels[-1], None)
        return self._read(key)

    def _next(self) -> str | None:
        """The next directory that nobody reads yet, unless so many were read that the listing comes first."""
        if len(self._asked) + len(self._ready) < max(2, _HELD // self._usual()):
            for level in reversed(self._levels):
                for key in level:
                    return key
        return None

    def _usual(self) -> int:
        """So many files directories had."""
        return max(1, self._files // max(1, self._folders))

    def _ask(self) -> None:
        """Have a helper read on, if there is one and it has room."""
        while self._helpers.have_room(self._new) and len(self._asked) * self._usual() < _ASKED:
            self._new = 0
            keys: list[str] = []
            while len(keys) * self._usual() < TOGETHER and (key := self._next()) is not None:
                keys.append(key)
                self._asked.add(key)
            if not keys:
                return
            paths = (os.fsencode(f"{self._root.path}/{key}") for key in keys)
            self._helpers.give(_Asked(self, keys), [("list", path, HIDDEN, _LARGE) for path in paths])
        self._new = 0

    def _hear(self) -> None:
        for job, answer in self._helpers.answers(wait=False):
            job.take(answer)

    def heard(self, keys: Sequence[str], answer: Sequence[Any] | None) -> None:
        """Note what a helper says of directories; without an answer they will be read here."""
        for key, told in zip(keys, answer or (), strict=False):
            if key in self._asked:  # else it was late
                if told is not None:
                    names, *others = told
                    told = (os.fsdecode(names).split("\0") if names else [], *others)  # noqa: PLW2901
                self._ready[key] = self._noted(told)
        self._asked.difference_update(keys)

    def _read(self, key: str) -> Folder | None:
        try:
            found = plain.folder(f"{self._root.path}/{key}", HIDDEN, _LARGE)
        except OSError:
            found = None
        self._new += len(found[2]) if found is not None else 0
        return self._noted(found)

    def _noted(self, found: plain.Listed | None) -> Folder | None:
        self._folders += 1
        if found is None:
            self._files += TOGETHER  # it may be large, and so may be the next one
            return None
        names, inner, seen = found
        self._files += len(seen)
        return Folder(names, frozenset(), through=False, inner=inner, seen=seen)


class _Asked(Job):
    """Directories that a helper was given."""

    def __init__(self, ahead: Ahead, keys: Sequence[str]) -> None:
        self._ahead, self._keys = ahead, keys

    def take(self, answer: Sequence[Any] | None) -> None:
        self._ahead.heard(self._keys, answer)
