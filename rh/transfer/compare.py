"""What is to be done about each key of the target: two listings in key order, merged and compared."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from rh.content import names
from rh.content.rows import Rows, position
from rh.content.tree import Row, key_bytes
from rh.errors import InvalidError, NameClashError, UnsupportedError
from rh.systems.base import System
from rh.transfer.options import Options
from rh.transfer.survey import Known, Page, etags, is_data, sizes
from rh.types import Entry

__all__ = ["Action", "Comparer", "Same", "Step", "aligned"]


class Action(enum.StrEnum):
    """What is to be done about a key of the target."""

    COPY = "copy"
    CHECK = "check"
    """Sizes agree and a digest is missing: it is computed where the bytes are, then it is a COPY or a KEEP."""
    MAKE = "make"
    """An empty directory or a link."""
    KEEP = "keep"
    """It is the same already."""
    SKIP = "skip"
    """It exists and is to be left alone (`on_existing="skip"`)."""
    DELETE = "delete"
    OTHER = "other"
    """The target's own, which the source has not: left alone."""

    def __repr__(self) -> str:
        return repr(self.value)


class Step(NamedTuple):
    """One key of the target.

    `entry` is the source's entry (the target's own for DELETE and OTHER), `old` what the target has under the key;
    `digest`, `chunks`, `executable` are the source's as far as they are known, `old_*` the target's.
    """

    action: Action
    key: str
    entry: Entry
    digest: str | None = None
    chunks: bytes = b""
    executable: bool | None = None
    old: Entry | None = None
    old_digest: str | None = None
    old_chunks: bytes = b""
    old_executable: bool | None = None
    reason: str = ""

    def row(self) -> Row:
        """What the target has under the key if this step needs nothing done."""
        entry = self.old if self.old is not None else self.entry
        return Row(
            self.key,
            entry.size,
            entry.kind,
            self.old_digest if self.old is not None else self.digest,
            entry.etag,
            self.executable if self.action is Action.KEEP and self.executable is not None else self.old_executable,
            self.old_chunks if self.old is not None else self.chunks,
            entry.target,
        )


class Same(NamedTuple):
    """Files that are the same already, column by column: the source's entries and the target's, and their digests."""

    keys: list[str]
    entries: Sequence[Entry]
    old: Sequence[Entry]
    digests: list[str | None]
    chunks: list[bytes]
    executables: list[bool | None]

    def steps(self) -> Iterator[Step]:
        """A step for each."""
        for key, entry, old, digest, chunks, executable in zip(*self, strict=True):
            known = (digest, chunks, executable)
            yield Step(Action.KEEP, key, entry, *known, old, *known)

    def rows(self) -> Rows:
        """What the target has under these keys."""
        count = len(self.keys)
        return Rows(
            self.keys,
            sizes(self.old),
            ["file"] * count,
            self.digests,
            etags(self.old),
            self.executables,
            self.chunks,
            [None] * count,
        )


def aligned(meant: Iterator[Page], existing: Iterator[Page]) -> Iterator[tuple[Page, Page]]:
    """Pages of both sides that cover the same keys; one of the two may be empty."""
    ours, theirs = next(meant, None), next(existing, None)
    while ours is not None and theirs is not None:
        left, right = key_bytes(ours.keys[-1]), key_bytes(theirs.keys[-1])
        if left == right:
            yield ours, theirs
            ours, theirs = next(meant, None), next(existing, None)
        elif left < right:
            first, theirs = theirs.cut(position(theirs.keys, ours.keys[-1]))
            yield ours, first
            ours = next(meant, None)
        else:
            first, ours = ours.cut(position(ours.keys, theirs.keys[-1]))
            yield first, theirs
            theirs = next(existing, None)
    nothing = Page([], [], [], [], [])
    while ours is not None:
        yield ours, nothing
        ours = next(meant, None)
    while theirs is not None:
        yield nothing, theirs
        theirs = next(existing, None)


def _merged(ours: Page, theirs: Page) -> Iterator[tuple[str, Known | None, Known | None]]:
    """What two pages have, in key order."""
    meant, existing = zip(ours.keys, ours.each(), strict=True), theirs.each()
    pair, old = next(meant, None), next(existing, None)
    while pair is not None or old is not None:
        left = key_bytes(pair[0]) if pair is not None else None
        right = key_bytes(old.entry.key) if old is not None else None
        if right is None or (left is not None and left < right):
            assert pair is not None
            yield pair[0], pair[1], None
            pair = next(meant, None)
        elif left is None or right < left:
            assert old is not None
            yield old.entry.key, None, old
            old = next(existing, None)
        else:
            assert pair is not None
            yield pair[0], pair[1], old
            pair, old = next(meant, None), next(existing, None)


class Comparer:
    """Decides what is to be done about the keys of a target, taken in key order."""

    def __init__(self, target: System, options: Options) -> None:
        self._target = target
        self._options = options
        self._checker = names.Checker(target.kind, folds=getattr(target, "folds_case", False))
        self._all = names.Nesting() if options.delete and target.kind in names.PATHS else None
        self.refused = names.Refused()
        """What the target cannot hold."""
        self.existing: list[str] = []
        """What is there and differs."""
        self.in_the_way: set[str] = set()
        """What lies where a file or a directory must be, and can only go."""
        self.learned = False
        """Whether something is known now that the target's manifest does not say."""

    def compare(self, ours: Page, theirs: Page, doomed: Callable[[str], bool]) -> Iterator[Step | Same | list[Step]]:
        """What to do about what both sides have between two keys; a list has only new files.

        `doomed` are the keys to delete if the source has them not.
        """
        if self._nothing_to_do(ours, theirs):
            self._checker.passed(ours.keys)
            if self._all is not None:
                self._all.passed(ours.keys)
            yield Same(ours.keys, ours.entries, theirs.entries, ours.digests, ours.chunks, ours.executables)
            return
        if not theirs.keys and ours.only_files:
            self._check(ours.keys)
            for key in ours.keys if self._all is not None else ():
                self._note(key)
            yield [
                Step(Action.COPY, key, entry, digest, chunks, executable, reason="new")
                for key, entry, digest, chunks, executable in zip(*ours, strict=True)
            ]
            return
        for key, known, old in _merged(ours, theirs):
            self._note(key)
            if known is not None:
                self._check((key,))
                yield self.step(key, known, old)
                continue
            assert old is not None
            facts = (old.entry, old.digest, old.chunks, old.executable)
            if doomed(key):
                yield Step(Action.DELETE, key, *facts, *facts)
            else:
                self._check((key,), there=True)
                yield Step(Action.OTHER, key, *facts, *facts)

    def _check(self, keys: Iterable[str], *, there: bool = False) -> None:
        """Remember which of them have no place at the target; a file with something below it is the end."""
        for key in keys:
            try:
                self._checker.check(key, there=there)
            except names.BelowError:
                raise
            except InvalidError as error:
                self.refused.add(key, error)

    def _note(self, key: str) -> None:
        """What lies below a file, or is a file that others lie below, can only be there if one of both is deleted."""
        above = self._all.above(key) if self._all is not None else None
        if above is not None:
            self.in_the_way.add(above)

    def _nothing_to_do(self, ours: Page, theirs: Page) -> bool:
        """Whether all of it is known to be the same, judged a column at a time."""
        return (
            self._options.on_existing in ("update", "error")
            and ours.keys == theirs.keys
            and None not in ours.digests
            and ours.digests == theirs.digests
            and ours.executables == theirs.executables
            and ours.sizes == theirs.sizes
            and ours.only_files
            and theirs.only_files
        )

    def step(self, key: str, known: Known, old: Known | None) -> Step:
        """What to do about one key that the source has."""
        entry = known.entry
        if entry.kind == "link" and not self._target.keeps_links:
            raise UnsupportedError(
                f"{entry.key!r} is a symbolic link, and {self._target.kind} has none",
                where=self._target.url(),
                hint='links="follow" or links="skip"',
            )
        if old is not None and not is_data(self._target, old.entry) and self._options.on_existing != "skip":
            raise NameClashError(
                "a pipe, socket or device stands where a file is to be",
                where=self._target.url(key),
                hint="choose another target",
            )
        base = (key, entry, known.digest, known.chunks, known.executable)
        if old is None:
            return Step(Action.COPY if entry.kind == "file" else Action.MAKE, *base, reason="new")
        full = (*base, old.entry, old.digest, old.chunks, old.executable)
        if entry.kind != "file" or old.entry.kind != "file":
            same = entry.kind == old.entry.kind and entry.target == old.entry.target
            if same:
                return Step(Action.KEEP, *full)
            self.existing.append(key)
            if self._options.on_existing == "skip":
                return Step(Action.SKIP, *full)
            return Step(Action.COPY if entry.kind == "file" else Action.MAKE, *full, reason=f"was a {old.entry.kind}")
        mode = self._options.on_existing
        if mode == "skip":
            return Step(Action.SKIP, *full)
        if mode == "replace":
            return Step(Action.COPY, *full, reason="replaced")
        same_content, reason = _same(known, old)
        if same_content and self._target.keeps_executable and _bit_differs(known, old):
            same_content, reason = False, "executable bit"
        if same_content:
            if old.digest is None and known.digest is not None:
                full = (*base, old.entry, known.digest, known.chunks, old.executable)
                self.learned = True
            elif known.executable is not None and known.executable != bool(old.executable):
                self.learned = True
            return Step(Action.KEEP, *full)
        if same_content is None:
            return Step(Action.CHECK, *full, reason=reason)
        self.existing.append(key)
        return Step(Action.COPY, *full, reason=reason)


def _bit_differs(known: Known, old: Known) -> bool:
    """Whether the executable bits are known and not the same."""
    return None not in (known.executable, old.executable) and known.executable != old.executable


def _same(known: Known, old: Known) -> tuple[bool | None, str]:
    """Whether two files have the same content; `None` while that is not known."""
    if known.entry.size != old.entry.size:
        return False, "size"
    if known.digest is not None and old.digest is not None:
        return known.digest == old.digest, "content"
    ours, theirs = known.entry.check, old.entry.check
    if ours and theirs and ours.partition(":")[0] == theirs.partition(":")[0]:
        return ours == theirs, "content"
    return None, "content not known"
