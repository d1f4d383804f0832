"""Whether two registries have gone on in different ways, which is to be known before one takes over the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from rh.errors import ConflictError
from rh.registry.base import Change
from rh.registry.documents import encode

__all__ = ["check"]

_NAMED = ("resources", "series")


def check(source: Iterable[Change], target: Iterable[Change], *, where: str) -> None:
    """Refuse a source that says otherwise than the target, or goes on with what the target went on with as well.

    What belongs together is a name with its series: versions, aliases and properties. Either side may be ahead there,
    but not both.

    Args:
        source: every change that is to be taken over.
        target: every change that is there.
        where: the target, for the error.

    Raises:
        ConflictError: names what both have changed.
    """
    together = _Together()
    theirs = {(change.key, change.revision): _digest(change) for change in source if together.learn(change)}
    ours: set[int] = set()
    named: dict[str, None] = {}
    shared: set[tuple[str, int]] = set()
    for change in target:
        together.learn(change)
        if change.key.startswith("series/"):
            named[change.key] = None
        at = (change.key, change.revision)
        digest = theirs.get(at)
        if digest is None:
            ours.add(together.number(change.key))
        elif digest != _digest(change):
            raise _conflict(together, change.key, where)
        else:
            shared.add(at)
    ahead = {together.root(number) for number in ours}
    for key, revision in theirs:
        if (key, revision) not in shared and together.root(together.number(key)) in ahead:
            root = together.root(together.number(key))
            there = next((one for one in reversed(named) if together.root(together.number(one)) == root), None)
            if there is not None and there not in {one for one, _ in theirs}:
                raise _elsewhere(together.name(key), together.name(there), where)
            raise _conflict(together, key, where)


class _Together:
    """Which keys are about the same name: sets of numbers, each of which leads to that of the set."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._up: list[int] = []
        self._names: dict[int, str] = {}

    def learn(self, change: Change) -> bool:
        """Note what a change says of names and series. Always true."""
        number = self.number(change.key)
        if change.moved is not None:
            self._join(number, self.number(change.moved))
        if change.key.startswith("series/") and change.document is not None:
            self._join(number, self._number(str(change.document.get("series"))))
        return True

    def number(self, key: str) -> int:
        space, _, rest = key.partition("/")
        if space not in _NAMED:
            return self._number(rest.partition("/")[0] if "/" in key and space != "server" else key)
        number = self._number(f"{_NAMED[0]}/{rest}")
        self._names[number] = rest if rest.startswith("~/") else f"/{rest}"
        return number

    def name(self, key: str) -> str:
        """The name that a key is about, or else the key."""
        root = self.root(self.number(key))
        own = self._names.get(self.number(key))
        return own or next((name for number, name in self._names.items() if self.root(number) == root), repr(key))

    def root(self, number: int) -> int:
        while self._up[number] != number:
            self._up[number] = number = self._up[self._up[number]]
        return number

    def _number(self, text: str) -> int:
        number = self._numbers.setdefault(text, len(self._up))
        if number == len(self._up):
            self._up.append(number)
        return number

    def _join(self, one: int, other: int) -> None:
        self._up[self.root(one)] = self.root(other)


def _digest(change: Change) -> bytes:
    return hashlib.blake2b(encode(change._asdict()), digest_size=16).digest()


def _elsewhere(name: str, there: str, where: str) -> ConflictError:
    return ConflictError(
        f"the versions that {name} would have are those of {there} there; nothing was taken over",
        where=where,
        hint=f"what has been taken over under one name does not get another: call it {there} again, or rename it there",
    )


def _conflict(together: _Together, key: str, where: str) -> ConflictError:
    name = together.name(key)
    told = "" if name == repr(key) else f" ({key!r})"
    return ConflictError(
        f"both registries have changed {name}{told}; nothing was taken over",
        where=where,
        hint="two histories of a name are not merged: take this one over into an empty registry, and save there what "
        "only the other one has",
    )
