"""Which keys a target can hold. The only place that turns the names of one system into those of another.

Keys are exact; a disk's names are not as free. What would escape the root, collide with another key or cannot be
written at all is refused before anything is moved, with the key in the error.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from rh.content.tree import key_bytes
from rh.errors import InvalidError, NameClashError
from rh.systems.objects.names import UNKEPT

__all__ = ["PATHS", "BelowError", "Checker", "Nesting", "Refused", "check_all", "decode", "encode"]

PATHS = frozenset({"file", "ssh"})
"""Kinds of systems that keep files in directories."""
_LIMITS = {"s3": 1024, "gs": 1024, "azure": 1024}
_ENCODED = re.compile(r"[%\x00-\x1f\\\ufffe\uffff\udc80-\udcff]+")


class BelowError(NameClashError):
    """A key lies below a file or a link.

    Attributes:
        held, key: the file, and the key below it.
        held_there, key_there: whether only the target has it.
    """

    def __init__(self, held: str, key: str, *, held_there: bool = False, key_there: bool = False) -> None:
        super().__init__(
            f"{held!r} is a file or a link, and {key!r} is below it: a disk cannot hold both",
            hint="exclude one of them",
        )
        self.held, self.key, self.held_there, self.key_there = held, key, held_there, key_there


class Refused:
    """Counts the keys that a target cannot hold, and knows the first few."""

    _SHOWN = 5

    def __init__(self) -> None:
        self._first: InvalidError | None = None
        self._more: list[str] = []
        self._count = 0

    def add(self, key: str, error: InvalidError) -> None:
        """A key, and why it has no place there."""
        self._count += 1
        if self._first is None:
            self._first = error
        elif self._count <= self._SHOWN:
            self._more.append(repr(key))

    def raise_if_any(self, where: str | None) -> None:
        """Raise the first error, with the number of keys and the place."""
        error = self._first
        if error is None:
            return
        error.where = error.where or where
        if self._more:
            shown = ", ".join(self._more) + (", …" if self._count > self._SHOWN else "")
            error.message = f"{self._count:,} names have no place here: {error.message}; and {shown}"
            error.args = (error.message,)
            error.hint = error.hint and error.hint.replace("exclude it", "exclude them")
        raise error


class Nesting:
    """Follows keys in key order, and sees when one lies below another that is a file: no disk holds both."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._there: set[str] = set()

    def there(self, key: str) -> bool:
        """Whether a file that the last key lies below is only at the target."""
        return key in self._there

    def above(self, key: str, *, there: bool = False) -> str | None:
        """Take the next key, which may be only at the target; the file that it lies below, if there is one."""
        plain = key.removesuffix("/")
        while self._open and not plain.startswith(self._open[-1]):
            self._there.discard(self._open.pop())
        directory = plain is not key
        for held in self._open:
            if plain.startswith(held + "/") or (directory and plain == held):
                return held
        if not directory:
            self._open.append(plain)
            if there:
                self._there.add(plain)
        return None

    def passed(self, keys: Sequence[str]) -> None:
        """Take the next keys, files that do not lie below each other."""
        # A file clashes with a later key only if all in between begin with its name: so does the last one here.
        last = keys[-1]
        there = set(keys)
        self._open = [one for one in self._open if last.startswith(one)]
        self._open += [last[:length] for length in range(1, len(last) + 1) if last[:length] in there]
        self._there.intersection_update(self._open)


class Checker:
    """Checks keys, given in key order, against what a kind of system can hold.

    Args:
        kind: the target system's kind.
        folds: whether the target takes names that differ in case or Unicode form for one.
    """

    def __init__(self, kind: str, *, folds: bool = False) -> None:
        self._paths = kind in PATHS
        self._unkept = UNKEPT.get(kind)
        self._limit = _LIMITS.get(kind)
        self._nesting = Nesting()
        self._folded: dict[str, str] | None = {} if folds else None

    def check(self, key: str, *, there: bool = False) -> None:
        """Raise `NameClashError` or `InvalidError` if the key has no place there; `there`: only the target has it."""
        if self._limit is not None:
            self._check_object(key)
        if not self._paths:
            return
        plain = key.removesuffix("/")
        for part in plain.split("/"):
            if part in ("", ".", ".."):
                raise NameClashError(
                    f"{key!r} cannot be a path: it has a component {part!r}",
                    hint="exclude it, or encode names (names='encode')",
                )
            if len(part) > 63 and len(key_bytes(part)) > 255:
                raise NameClashError(f"{key!r} has a component of more than 255 bytes", hint="exclude it")
        if "\0" in key:
            raise NameClashError(f"{key!r} holds a NUL character", hint="exclude it")
        held = self._nesting.above(key, there=there)
        if held is not None:
            raise BelowError(held, key, held_there=self._nesting.there(held), key_there=there)
        if self._folded is not None:
            folded = unicodedata.normalize("NFC", plain).casefold()
            other = self._folded.setdefault(folded, plain)
            if other != plain:
                raise NameClashError(f"{other!r} and {plain!r} are one name on this disk", hint="exclude one of them")

    def passed(self, keys: Sequence[str]) -> None:
        """Take the next keys, files that the target is known to hold side by side."""
        if self._folded is not None:
            for key in keys:
                self.check(key)
        elif self._paths:
            self._nesting.passed(keys)

    def _check_object(self, key: str) -> None:
        assert self._limit is not None
        if not key.isascii():
            try:
                key.encode("utf-8")
            except UnicodeEncodeError as error:
                raise NameClashError(
                    f"{key!r} is not valid Unicode; an object store cannot hold it",
                    hint="exclude it, or encode names (names='encode')",
                ) from error
        if self._unkept is not None and self._unkept.search(key.removesuffix("/")):
            raise NameClashError(
                f"{key!r} is a name that this store does not keep as it is",
                hint="exclude it, or encode names (names='encode')",
            )
        if len(key) > 255 and len(key_bytes(key)) > self._limit:
            raise InvalidError(f"{key[:80]!r}… is longer than {self._limit} bytes", hint="exclude it")


def check_all(keys: Iterable[str], kind: str, *, folds: bool = False, where: str | None = None) -> None:
    """Check keys in key order. The error names the place (`where`), the number of keys and the first few."""
    checker, refused = Checker(kind, folds=folds), Refused()
    for key in keys:
        try:
            checker.check(key)
        except InvalidError as error:
            refused.add(key, error)
    refused.raise_if_any(where)


def encode(key: str) -> str:
    """A key as any disk and store can hold it: what is not representable becomes `%XX`. `decode` gives it back."""
    directory = key.endswith("/") and len(key) > 1
    parts = (key[:-1] if directory else key).split("/")
    return "/".join(map(_encode_part, parts)) + ("/" if directory else "")


def _encode_part(part: str) -> str:
    if part in ("", ".", ".."):
        return "%" + "".join(f"{byte:02X}%" for byte in part.encode()).rstrip("%") if part else "%00empty"
    return _ENCODED.sub(lambda found: "".join(f"%{byte:02X}" for byte in key_bytes(found[0])), part)


def decode(path: str) -> str:
    """The inverse of `encode`."""
    return "/".join(_decode_part(part) for part in path.split("/"))


def _decode_part(part: str) -> str:
    if part == "%00empty":
        return ""
    if "%" not in part:
        return part
    from urllib.parse import unquote

    return unquote(part, errors="surrogateescape")
