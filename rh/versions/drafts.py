"""Drafts with names: changes on their way to a version, put together by several processes.

Their records are

* `drafts/<series>/<name>`: what the draft begins with, what its version is to be called, and how many additions it has,
* `drafts/<series>/<name>/<number, 8 digits>`: `{"changes": digest, "copied": […]}`, one addition.

The changes themselves are in the store, as trees that `Edit.keep` made, and a reference for each of them keeps it from
being swept until the draft is over: whether an addition was recorded is not always known to who made it. Every
addition moves the first record in the same commit: so nobody adds to a draft that is not any more what they saw, and
none is left out of the version.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rh.config import did_you_mean
from rh.errors import ConflictError, ExistsError, IntegrityError, InvalidError, NotFoundError, RhError
from rh.observe import log
from rh.registry.base import Delete, Put, Record, Step
from rh.types import ABSENT, Location, Match
from rh.versions.changes import Change
from rh.versions.series import Series
from rh.versions.store import Store

__all__ = ["NONE", "Addition", "Drafts", "OpenDraft", "check_name", "clashes"]

_VERSION = re.compile(r"v[0-9]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
NONE = "the first change begins one: .draft(…).add(…)"
"""The fix where there is no draft at all."""


class Addition(NamedTuple):
    """What one participant added at once: the changes are in the tree of this digest.

    `copied` tells of each copy from another version: after how many of the changes, the URL of the registry, the
    series, the path there, and the path here.
    """

    number: int
    tree: str
    author: str
    time: float
    copied: tuple[tuple[Any, ...], ...] = ()


class OpenDraft(NamedTuple):
    """A draft that is not finished.

    `base` is the number of the version that it changes (`None`: nothing), `tree` the digest of that where the draft's
    store has it, `additions` how many there are, `author` and `time` (seconds since the epoch) of the newest one.
    """

    name: str
    base: int | None
    tree: str | None
    store: Location
    follows: bool
    """Whether it is a conflict if `base` is not the newest version at the end."""
    additions: int
    said: Mapping[str, Any]
    author: str
    time: float
    id: str
    etag: str

    def __str__(self) -> str:
        of = "from nothing" if self.base is None else f"from v{self.base}"
        return f"{self.name} ({of}, {self.additions:,} additions, last by {self.author})"


def check_name(name: str) -> None:
    """Refuse what no draft can be called."""
    if isinstance(name, str) and (name == "latest" or _VERSION.fullmatch(name)):
        raise InvalidError(
            f"{name!r} is a version, and no draft can be called so",
            hint=f"a draft that begins with it: base={name!r}",
        )
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidError(
            f"not a name of a draft: {name!r}",
            hint="letters, digits, '.', '_', '-', a letter or digit first; a version to begin with is base=",
        )


class Drafts:
    """The drafts of a series that are not finished."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._registry = series.registry
        self._prefix = f"drafts/{series.series}/"

    def all(self) -> list[OpenDraft]:
        """All of them, by name."""
        found = self._registry.list(self._prefix)
        return [self._opened(one) for one in found if "/" not in one.key[len(self._prefix) :]]

    def find(self, name: str) -> OpenDraft | None:
        """The one of a name, if there is one."""
        record = self._registry.find(self._key(name))
        return None if record is None else self._opened(record)

    def get(self, name: str) -> OpenDraft:
        """The one of a name.

        Raises:
            NotFoundError: there is none; the nearest names are in the message.
        """
        found = self.find(name)
        if found is None:
            known = tuple(one.name for one in self.all())
            others = did_you_mean(name, known) if known else ", nor any other"
            raise NotFoundError(
                f"{self._series.name} has no draft {name!r}{others}",
                where=self._registry.url,
                hint=f"drafts: {', '.join(known)}" if known else NONE,
            )
        return found

    def begin(
        self, name: str, *, base: int | None, tree: str | None, store: Location, follows: bool, said: Mapping[str, Any]
    ) -> OpenDraft:
        """Make one, or join that which somebody made in this moment."""
        ours = uuid.uuid4().hex
        document = {
            "id": ours,
            "base": base,
            "tree": tree,
            "store": store.as_dict(),
            "follows": follows,
            "additions": 0,
            "said": dict(said),
        }
        if tree is not None:
            Store.at(store).ref(self._refs(ours), tree)
        try:
            return self._opened(self._registry.put(self._key(name), document, when=ABSENT))
        except ExistsError:
            if tree is not None:
                Store.at(store).unref(self._refs(ours), tree)
            return self.get(name)

    def additions(self, draft: OpenDraft, after: int = 0) -> list[Addition]:
        """The additions of a draft, those after a number only."""
        start = self._key(draft.name) + "/"
        try:
            return [
                Addition(
                    int(one.key[len(start) :]),
                    str(one.document["changes"]),
                    one.author,
                    one.time,
                    tuple(map(tuple, one.document.get("copied") or ())),
                )
                for one in self._registry.list(start, after=f"{start}{after:08d}")
            ][: draft.additions - after]
        except (KeyError, ValueError) as error:
            raise IntegrityError(
                f"the records of the draft {draft.name!r} cannot be read: {error}", where=self._registry.url
            ) from error

    def hold(self, draft: OpenDraft, tree: str) -> None:
        """Keep the changes of an addition from being swept, before it is recorded, and until the draft is over."""
        Store.at(draft.store).ref(self._refs(draft.id), tree)

    def free(self, draft: OpenDraft) -> None:
        """Let all that was held for a draft be swept. It must be over."""
        refs, store = self._refs(draft.id), Store.at(draft.store)
        try:
            for ref in list(store.refs(refs)):
                store.unref(refs, ref.tree)
        except RhError as error:  # what the draft became stands; only space is lost
            log.warning("what was stored for the draft %s may stay in %s: %s", draft.name, store.url, error)

    def free_if_over(self, draft: OpenDraft) -> None:
        """The same after an addition that was refused: nobody else frees what was held after the draft's end."""
        try:
            now = self.find(draft.name)
        except RhError as error:
            log.warning("what was stored for the draft %s may stay: %s", draft.name, error)
            return
        if now is None or now.id != draft.id:
            self.free(draft)

    def add(self, draft: OpenDraft, tree: str, copied: Sequence[Sequence[Any]] = ()) -> OpenDraft:
        """Record an addition, and what it copied from other versions.

        Raises:
            ConflictError: the draft is not what it was: somebody added to it, or it is over.
        """
        number = draft.additions + 1
        document = self._document(draft) | {"additions": number}
        steps: list[Step] = [
            Put(
                f"{self._key(draft.name)}/{number:08d}",
                {"changes": tree, "copied": [list(one) for one in copied]},
                ABSENT,
            ),
            Put(self._key(draft.name), document, Match(draft.etag)),
        ]
        try:
            self._registry.commit(steps)
        except ExistsError as error:
            raise ConflictError(error.message, where=error.where) from error
        return self.again(draft)

    def rebased(self, draft: OpenDraft, base: int, tree: str) -> OpenDraft:
        """Let a draft begin with another version, which the draft's store has."""
        store, refs = Store.at(draft.store), self._refs(draft.id)
        store.ref(refs, tree)
        document = self._document(draft) | {"base": base, "tree": tree}
        self._registry.put(self._key(draft.name), document, when=Match(draft.etag))
        now = self.again(draft)
        if draft.tree is not None and draft.tree != now.tree:
            store.unref(refs, draft.tree)
        return now

    def again(self, draft: OpenDraft) -> OpenDraft:
        """The draft as it is now.

        Raises:
            ConflictError: it is over.
        """
        now = self.find(draft.name)
        if now is None or now.id != draft.id:
            last = next(iter(reversed(list(self._registry.history(self._key(draft.name))))), None)
            raise ConflictError(
                f"the draft {draft.name!r} of {self._series.name} was finished or discarded meanwhile"
                + (f" by {last.author}" if last is not None else ""),
                where=self._registry.url,
                hint="make the change again in another draft",
            )
        return now

    def ending(self, draft: OpenDraft) -> Sequence[Step]:
        """What takes a draft away, unless it changed."""
        key = self._key(draft.name)
        parts = [Delete(f"{key}/{one.number:08d}") for one in self.additions(draft)]
        return [*parts, Delete(key, Match(draft.etag))]

    def discard(self, draft: OpenDraft) -> None:
        """Give a draft up."""
        self._registry.commit(self.ending(draft))
        self.free(draft)

    def _key(self, name: str) -> str:
        check_name(name)
        return self._prefix + name

    def _refs(self, draft: str) -> str:
        """The references of the draft with an id: another one of the same name has others."""
        return f"{self._series.series}+{draft}"

    def _document(self, draft: OpenDraft) -> dict[str, Any]:
        return dict(self._registry.get(self._key(draft.name)).document)

    def _opened(self, record: Record) -> OpenDraft:
        document, name = record.document, record.key[len(self._prefix) :]
        try:
            base, tree = document["base"], document["tree"]
            return OpenDraft(
                name,
                None if base is None else int(base),
                None if tree is None else str(tree),
                Location(str(document["store"]["system"]), str(document["store"]["path"])),
                bool(document["follows"]),
                int(document["additions"]),
                dict(document["said"]),
                record.author,
                record.time,
                str(document["id"]),
                record.etag,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"the record of the draft {name!r} cannot be read: {error}", where=self._registry.url
            ) from error


def clashes(mine: Iterable[Change], others: Iterable[Change]) -> list[str]:
    """The paths that two lots of changes are both about, other than by putting the same there."""
    a, b = _touched(mine), _touched(others)
    both = {path for path in a.keys() & b.keys() if a[path] is None or a[path] != b[path]}
    # Who changes a directory as a whole changes all in it.
    both |= {path for path in a for above in _above(path) if above in b}
    both |= {path for path in b for above in _above(path) if above in a}
    return sorted(both)


def _touched(changes: Iterable[Change]) -> dict[str, tuple[str, str, bool] | None]:
    """The paths that changes are about (directories end with `/`), and what comes to be there, if something does."""
    found: dict[str, tuple[str, str, bool] | None] = {}
    for change in changes:
        if change.child is not None:
            child = change.child
            path = change.path + "/" if child.kind == "dir" else change.path
            found[path] = None if child.kind == "dir" else (child.kind, child.digest, child.executable)
        elif change.do != "hold":
            found[change.path] = None
            if change.to:
                found[change.to] = None
    return found


def _above(path: str) -> Iterable[str]:
    """The directories that a path lies in."""
    return (path[: at + 1] for at in range(len(path) - 1) if path[at] == "/")
