"""Where the members of packs are that `gc` wrote anew: nodes go on naming the old pack, and a *redirect* says the rest.

`moved/<2>/<30>`, named as the old pack is, has two lines: a JSON object and, in hexadecimal, the SHA-256 of it. It
comes before the old pack goes, so that a member is always found in one of the two. Who looks for a pack that is gone
looks for its redirect; one that is remembered may be old, and is read again when what it names is gone, too.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from rh.errors import IntegrityError, NotFoundError
from rh.forks import Lock
from rh.systems.base import Body, System
from rh.versions.layout import REPAIR, moved_key, pack_key
from rh.versions.nodes import Child, is_pack

if TYPE_CHECKING:
    from rh.versions.store import Store

__all__ = ["Redirect", "Redirects", "Stretch", "read_member"]

_VERSION = 1
_KEPT = 256
_TRIES = 4
"""How often a member is looked for that moves again and again while it is."""


class Stretch(NamedTuple):
    """So many bytes of the old pack from `start` on are in `pack`, from `at` on."""

    start: int
    length: int
    pack: str
    at: int


class Redirect:
    """Where the members of one pack are now; those that nobody needed are nowhere.

    Args:
        stretches: in any order; neighbours that stayed neighbours become one.
    """

    def __init__(self, stretches: Iterable[Stretch]) -> None:
        self.stretches: list[Stretch] = []
        for one in sorted(stretches):
            last = self.stretches[-1] if self.stretches else None
            if last is not None and last.start + last.length == one.start and _goes_on(last, one):
                self.stretches[-1] = last._replace(length=last.length + one.length)
            else:
                self.stretches.append(one)
        self._starts = [one.start for one in self.stretches]

    def place(self, offset: int) -> tuple[str, int] | None:
        """The pack and the offset of what was at this offset; `None` where nobody needed it."""
        number = bisect_right(self._starts, offset) - 1
        if number < 0 or offset >= self._starts[number] + self.stretches[number].length:
            return None
        start, _, pack, at = self.stretches[number]
        return pack, at + offset - start

    def encode(self, pack: str) -> bytes:
        """The document."""
        told = {"rh-moved": _VERSION, "pack": pack, "stretches": self.stretches}
        text = json.dumps(told, separators=(",", ":")).encode()
        return b"%s\n%s\n" % (text, hashlib.sha256(text).hexdigest().encode())

    @classmethod
    def decode(cls, data: bytes, pack: str, where: str) -> Redirect:
        """The redirect in a document.

        Raises:
            IntegrityError: it is damaged, or that of another pack.
        """
        text, _, rest = data.partition(b"\n")
        if rest != hashlib.sha256(text).hexdigest().encode() + b"\n":
            raise IntegrityError("what says where a pack went is damaged", where=where, hint=REPAIR)
        try:
            told = json.loads(text)
            stretches = [Stretch(*one) for one in told["stretches"]]
            if told["pack"] != pack or told["rh-moved"] != _VERSION:
                raise ValueError(f"it is of {told['pack']!r}, in format {told['rh-moved']!r}")
            for one in stretches:
                numbers = one.start, one.length, one.at
                if {*map(type, numbers)} != {int} or min(numbers) < 0 or not is_pack(one.pack):
                    raise ValueError(f"{one}")
        except (ValueError, TypeError, KeyError) as error:
            raise IntegrityError(f"what says where a pack went cannot be: {error}", where=where) from error
        return cls(stretches)


def _goes_on(last: Stretch, one: Stretch) -> bool:
    return (last.pack, last.at + last.length) == (one.pack, one.at)


class Redirects:
    """The redirects of a store, as far as somebody had to look. Safe for threads.

    Args:
        system: the store's.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._lock = Lock()
        self._known: OrderedDict[str, Redirect] = OrderedDict()
        self._seen: set[str] = set()

    def ask(self, pack: str) -> Redirect | None:
        """Where the members of a pack are by now; `None` if it was never written anew. Asks the store.

        Raises:
            IntegrityError: the redirect is damaged.
        """
        from rh.versions.moving import twice

        key = moved_key(pack)

        def fetch() -> Redirect:
            with self._system.read(key) as body:
                return Redirect.decode(body.read(), pack, self._system.url(key))

        try:
            found = twice(fetch)
        except NotFoundError:
            with self._lock:
                self._known.pop(pack, None)
            return None
        with self._lock:
            self._known[pack] = found
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return found

    def place(self, pack: str, offset: int) -> tuple[str, int]:
        """The pack and the offset where this is, as far as is known. Asks nobody."""
        with self._lock:
            known = self._known.get(pack)
        return (known.place(offset) if known is not None else None) or (pack, offset)

    def found(self, pack: str, offset: int) -> tuple[str, int]:
        """The same, for who hands the place on to others: of each pack, it is asked once whether it is still there."""
        if pack not in self._seen:
            try:
                self._system.head(pack_key(self.place(pack, offset)[0]))
            except NotFoundError:
                self.ask(pack)
            self._seen.add(pack)
        return self.place(pack, offset)


def read_member(store: Store, child: Child, start: int, stop: int) -> Body:
    """The bytes of a file that is in a pack, or was, not compared with anything.

    Raises:
        NotFoundError: the store has lost it.
    """
    _, pack, offset = child.where
    for _ in range(_TRIES):
        name, at = store.redirects.place(pack, offset)
        try:
            return store.system.read(pack_key(name), (at + start, at + stop))
        except NotFoundError:
            store.redirects.ask(pack)
            if store.redirects.place(pack, offset) == (name, at):
                raise
    return store.system.read(pack_key(name), (at + start, at + stop))
