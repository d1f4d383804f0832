"""What differs between two versions: found from their nodes alone, and what is equal is not opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rh.content.tree import key_bytes, key_text
from rh.transfer.receipt import human
from rh.types import Entry
from rh.versions.nodes import EMPTY, Child, Node
from rh.versions.reading import entry_of
from rh.versions.store import Store, Tree

__all__ = ["Change", "Diff", "changes", "diff"]

_LINES = 20
_VOID = Node([])


class Change(NamedTuple):
    """One path that differs: `old` and `new` are what was and what is there, `None` where nothing was or is.

    The etag of an entry is the digest of its content. A directory appears where it holds nothing.
    """

    what: Literal["added", "removed", "modified", "renamed"]
    old: Entry | None
    new: Entry | None

    @property
    def path(self) -> str:
        """Where it is; where it was, if it is removed."""
        found = self.new or self.old
        assert found is not None
        return found.key

    @property
    def old_path(self) -> str | None:
        """Where it was before it was renamed."""
        return self.old.key if self.what == "renamed" and self.old is not None else None

    @property
    def size(self) -> int:
        """Bytes that are there; those that were, if it is removed."""
        return (self.new or self.old or Entry("", 0)).size

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        told: dict[str, Any] = {"change": self.what, "path": self.path}
        if self.old_path is not None:
            told["old_path"] = self.old_path
        for prefix, entry in (("old_", self.old), ("", self.new)):
            if entry is not None and entry.kind != "dir":
                told |= {f"{prefix}size": entry.size, f"{prefix}digest": entry.etag}
                told |= {f"{prefix}kind": entry.kind, f"{prefix}executable": bool(entry.executable)}
        return told

    def __str__(self) -> str:
        if self.what == "renamed":
            return f"renamed   {self.old_path} → {self.path}"
        return f"{self.what:<9} {self.path} ({', '.join(self._how()) or human(self.size)})"

    def _how(self) -> Iterator[str]:
        """What is different about a path that is in both trees."""
        if self.old is None or self.new is None:
            return
        if self.old.kind != self.new.kind:
            yield f"{self.old.kind} → {self.new.kind}"
        elif self.new.kind == "link" and None not in (self.old.target, self.new.target):
            yield f"{self.old.target} → {self.new.target}"
        elif self.old.etag != self.new.etag or not self.new.etag:
            yield f"{human(self.old.size)} → {human(self.new.size)}"
        if self.old.kind == self.new.kind and bool(self.old.executable) != bool(self.new.executable):
            yield "executable now" if self.new.executable else "no longer executable"


@dataclass(frozen=True, slots=True)
class Diff:
    """What differs between two trees. True if anything does; iterating it gives every change in the order of paths.

    Attributes:
        a, b: the digests of the trees.
        added, removed, modified: paths that only `b` has, only `a` has, and both have with other content, another kind
            or another executable bit.
        renamed: what `b` has under another path than `a`: same content, same executable bit.
    """

    a: str
    b: str
    added: tuple[Change, ...] = ()
    removed: tuple[Change, ...] = ()
    modified: tuple[Change, ...] = ()
    renamed: tuple[Change, ...] = ()

    def __iter__(self) -> Iterator[Change]:
        found = (*self.added, *self.removed, *self.modified, *self.renamed)
        return iter(sorted(found, key=lambda change: key_bytes(change.path)))

    def __len__(self) -> int:
        return len(self.added) + len(self.removed) + len(self.modified) + len(self.renamed)

    def _parts(self) -> dict[str, Sequence[Change]]:
        return {"added": self.added, "removed": self.removed, "modified": self.modified, "renamed": self.renamed}

    def as_dict(self) -> dict[str, Any]:
        """Plain values: the changes of each sort, and how many bytes they are."""
        found = self._parts()
        told: dict[str, Any] = {"a": self.a, "b": self.b}
        told |= {name: [change.as_dict() for change in some] for name, some in found.items()}
        return told | {f"{name}_size": sum(change.size for change in some) for name, some in found.items()}

    def summary(self) -> str:
        """One line: how many changes of each sort, and how large they are."""
        some = [
            f"{len(found):,} {name} ({human(sum(change.size for change in found))})"
            for name, found in self._parts().items()
            if found
        ]
        return ", ".join(some) or "no differences"

    def __repr__(self) -> str:
        return f"<Diff {self.a[:19]}… {self.b[:19]}…: {self.summary()}>"

    def __str__(self) -> str:
        lines = [str(change) for change in self]
        more = [f"… and {len(lines) - _LINES:,} more"] if len(lines) > _LINES else []
        return "\n".join([*lines[:_LINES], *more, self.summary()])


def diff(a: Tree, b: Tree, store_a: Store, store_b: Store | None = None) -> Diff:
    """What differs from `a` to `b`. No file is read.

    Args:
        a: the tree before.
        b: the tree after.
        store_a: the store of `a`.
        store_b: that of `b`, if it is another one.

    Raises:
        NotFoundError, IntegrityError: a store has lost a part of its tree.
    """
    found = list(changes(a, b, store_a, store_b))
    added = [change for change in found if change.what == "added"]
    removed = [change for change in found if change.what == "removed"]
    renamed = _renamed(removed, added)
    gone = {change.old_path for change in renamed}
    come = {change.path for change in renamed}
    return Diff(
        a.digest,
        b.digest,
        tuple(change for change in added if change.path not in come),
        tuple(change for change in removed if change.path not in gone),
        tuple(change for change in found if change.what == "modified"),
        tuple(renamed),
    )


def changes(a: Tree, b: Tree, store_a: Store, store_b: Store | None = None) -> Iterator[Change]:
    """The same one by one while they are found, in the order of paths; what is renamed is removed and added here."""
    store_b = store_a if store_b is None else store_b
    if a.digest == b.digest:
        return
    waiting = [("", _pairs(store_a.root(a), store_b.root(b)))]
    while waiting:
        top, pairs = waiting[-1]
        pair = next(pairs, None)
        if pair is None:
            waiting.pop()
            continue
        old, new = pair
        child = new or old
        assert child is not None
        path = top + key_text(child.name)
        if child.kind != "dir":
            yield _change(path, old, new)
        elif child.digest == EMPTY and (old is None or new is None):
            void = Entry(f"{path}/", 0, "dir")
            yield Change("removed", void, None) if new is None else Change("added", None, void)
        else:
            before = _VOID if old is None else store_a.below(old)
            waiting.append((f"{path}/", _pairs(before, _VOID if new is None else store_b.below(new))))


def _pairs(a: Node, b: Node) -> Iterator[tuple[Child | None, Child | None]]:
    """The children that differ, in order: what was and what is under a name."""
    old, new = iter(a.children), iter(b.children)
    left, right = next(old, None), next(new, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left.sort_key < right.sort_key):
            yield left, None
            left = next(old, None)
        elif left is None or right.sort_key < left.sort_key:
            yield None, right
            right = next(new, None)
        else:
            if (left.kind, left.digest, left.executable) != (right.kind, right.digest, right.executable):
                yield left, right
            left, right = next(old, None), next(new, None)


def _change(path: str, old: Child | None, new: Child | None) -> Change:
    before = None if old is None else entry_of(old, path)
    after = None if new is None else entry_of(new, path)
    return Change("added" if before is None else "removed" if after is None else "modified", before, after)


def _renamed(removed: Sequence[Change], added: Sequence[Change]) -> list[Change]:
    """What was removed at one path and added at another, first where it kept its name.

    Files without bytes are all alike: of them only those that kept their name.
    """
    found: list[Change] = []
    left = list(added)
    gone: set[str] = set()
    for by_name in (True, False):
        known: dict[tuple[object, ...], list[Entry]] = {}
        for change in reversed(removed):
            if change.old is not None and change.old.key not in gone and _may_be_known(change.old, by_name=by_name):
                known.setdefault(_identity(change.old, by_name=by_name), []).append(change.old)
        rest = []
        for change in left:
            new = change.new
            some = None if new is None else known.get(_identity(new, by_name=by_name))
            if some and new is not None:
                old = some.pop()
                gone.add(old.key)
                found.append(Change("renamed", old, new))
            else:
                rest.append(change)
        left = rest
    return sorted(found, key=lambda change: key_bytes(change.path))


def _may_be_known(entry: Entry, *, by_name: bool) -> bool:
    return entry.kind != "dir" and (by_name or entry.size > 0)


def _identity(entry: Entry, *, by_name: bool) -> tuple[object, ...]:
    name = entry.key.rpartition("/")[2] if by_name else None
    return entry.kind, entry.etag, bool(entry.executable), name
