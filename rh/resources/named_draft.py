"""Drafts with names: several processes and machines put one version together, and one of them finishes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from rh.errors import ConflictError, InvalidError, NotFoundError, RhError
from rh.observe import log
from rh.resources import annotated
from rh.resources.draft import Draft

if TYPE_CHECKING:
    from rh.resources.carried import Went
    from rh.resources.folder import Folder
    from rh.versions.drafts import Addition, Drafts, OpenDraft
    from rh.versions.edit import Edit
    from rh.versions.series import Series, Version

__all__ = ["DraftChange", "NamedDraft", "open_drafts"]

_TRIES = 100
_COPIED = 1_000
"""So many copies the record of an addition can tell of."""


class DraftChange(NamedTuple):
    """One change of a draft: `do` is `put`, `remove` or `move`; `size` in bytes; `time` in seconds since the epoch."""

    do: str
    path: str
    to: str
    size: int
    author: str
    time: float

    def __str__(self) -> str:
        return f"{self.do} {self.path}" + (f" → {self.to}" if self.to else "")


class NamedDraft(Draft):
    """Changes on their way to one version of a folder, kept until `commit` or `discard`, by whoever joins.

    What is changed in a `with` block is added to the draft at its end, all of it or nothing; outside of a block, each
    call by itself. What was added is kept whatever becomes of the process. Nothing of it is a version before `commit`.

    Two who change the same path, in blocks at the same time, clash: the second one gets a `ConflictError`, and what
    they changed in the block is not added.

    Example:
        >>> import rh, tempfile
        >>> folder = rh.folder(name="docs-named-draft", path=tempfile.mkdtemp()).save()
        >>> folder.draft("spring").add(b"one", path="a.txt")
        >>> with rh.folder("docs-named-draft").draft("spring") as draft:
        ...     draft.add(b"two", path="b.txt")
        >>> folder.draft("spring").commit("both").files
        2
    """

    def __init__(self, folder: Folder, name: str, **options: Any) -> None:
        from rh.versions.drafts import check_name

        check_name(name)
        super().__init__(folder, **options)
        self.name = name
        self._drafts: Drafts | None = None
        self._draft: OpenDraft | None = None
        self._fresh: OpenDraft | None = None
        """The draft, if this block began it."""
        self._mark = 0
        """How many of the edit's changes are in the draft already."""

    def __repr__(self) -> str:
        return f"<draft {self.name} of {self.folder.name}>"

    # The block.

    def __enter__(self) -> Self:
        if self._edit is not None:
            raise InvalidError("the block of this draft has begun already")
        from rh.versions.drafts import Drafts

        self.folder.check_reachable()
        if self._drafts is None:
            self._series = self.folder.begun()
            self._drafts = Drafts(self._series)
        drafts = self._drafts
        draft = drafts.find(self.name)
        self._fresh = None
        if draft is None:
            draft = self._fresh = self._begin(drafts)
        elif self._base != "latest":
            wanted = None if self._base is None else self._series_of().get(self._base).number
            if wanted != draft.base:
                raise ConflictError(f"there is a draft {draft} already", hint="join it without base=, or discard it")
        from rh.versions.store import Store

        self._lease = self._stack.enter_context(Store.at(draft.store).lease())
        try:
            self._load(draft)
        except BaseException:
            self._withdraw()
            self._over()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        try:
            if kind is None:
                self.save()
        finally:
            self._over()

    @contextmanager
    def _changing(self) -> Iterator[Edit]:
        if self._edit is not None:
            yield self._edit
        else:
            with self:
                try:
                    yield self._begun()
                except BaseException:
                    self._withdraw()
                    raise

    def _withdraw(self) -> None:
        """Take away a draft that was begun for a change that was refused: nobody has added to it."""
        draft, self._fresh = self._fresh, None
        if draft is not None:
            with suppress(RhError):  # somebody joined it in this moment: it is theirs
                self._of().discard(draft)

    def _over(self) -> None:
        if self._edit is not None:
            self._edit.close()
        self._edit = self._draft = self._lease = None
        self._went.clear()
        self._stack.close()

    def _series_of(self) -> Series:
        self._of()
        assert self._series is not None
        return self._series

    def _of(self) -> Drafts:
        """The drafts of the folder. Looking at them writes nothing: a folder without versions may have none."""
        from rh.versions.drafts import Drafts

        if self._drafts is None:
            try:
                self._series = self.folder.series_of()
            except NotFoundError as error:
                from rh.versions.drafts import NONE

                raise NotFoundError(
                    f"{self.folder.name} has no draft {self.name!r}, nor any other", where=error.where, hint=NONE
                ) from error
            self._drafts = Drafts(self._series)
        return self._drafts

    def _begin(self, drafts: Drafts) -> OpenDraft:
        """A draft that nobody has begun."""
        from rh.versions.store import place_of

        series, location = self._series_of(), place_of(self.folder.placed())
        base = None
        if self._base is not None and (self._base != "latest" or series.latest() is not None):
            base = series.get(self._base)
        return drafts.begin(
            self.name,
            base=None if base is None else base.number,
            tree=base.digest if base is not None and base.store == location else None,
            store=location,
            follows=base is not None and self._base == "latest",
            said={key: list(value) if isinstance(value, tuple) else value for key, value in self._said.items()},
        )

    def _load(self, draft: OpenDraft) -> None:
        """Make what all have added."""
        from rh.versions.edit import Edit, kept
        from rh.versions.store import Store

        store = Store.at(draft.store)
        added = [change for one in self._of().additions(draft) for change in kept(store, one.tree)]
        called = f"the draft {self.name!r} of {self.folder.name}"
        edit = Edit.replay(store, draft.tree, added, lease=self._lease, called=called)
        self._mark = edit.made
        try:
            if draft.base is not None and draft.tree is None and not draft.additions:
                base = self._series_of().get(f"v{draft.base}")
                edit.copy_from(Store.at(base.store), base.digest)  # the folder is at another place by now
        except BaseException:
            edit.close()
            raise
        if self._edit is not None:
            self._edit.close()
        self._edit, self._draft = edit, draft

    # What becomes of it.

    def save(self) -> None:
        """Add to the draft what was changed in the block so far. The end of the block does it as well.

        Raises:
            ConflictError: somebody else changed the same paths meanwhile, or finished the draft.
        """
        if self._edit is None or self._draft is None or self._edit.made == self._mark:
            return
        drafts, edit, seen = self._of(), self._edit, self._draft
        tree = edit.keep(self._mark).digest
        drafts.hold(seen, tree)
        try:
            now = self._recorded(seen, tree, self._copied())
        except ConflictError:
            drafts.free_if_over(seen)
            raise
        if now.additions == seen.additions + 1:
            self._draft, self._mark = now, edit.made
        else:
            self._load(now)
        self._went.clear()

    def _copied(self) -> list[list[Any]]:
        """What was copied in the block, for the record of the addition; the moves are among its changes."""
        found = [[one.at - self._mark, *one[1:5]] for one in self._went if not one.moved]
        if len(found) > _COPIED:
            log.warning("%s files and directories were copied at once: what is said of them stays behind", len(found))
            return []
        return found

    def _recorded(self, seen: OpenDraft, tree: str, copied: list[list[Any]]) -> OpenDraft:
        """The draft with an addition, put after those of others."""
        drafts, now = self._of(), seen
        for _ in range(_TRIES):
            try:
                return drafts.add(now, tree, copied)
            except (ConflictError, NotFoundError):
                before, now = now, drafts.again(seen)
                if before.etag == now.etag:
                    raise
            self._check(seen, now, tree)
        raise ConflictError(f"the draft {self.name!r} is being changed all the time")

    def _check(self, seen: OpenDraft, now: OpenDraft, tree: str) -> None:
        """Refuse changes that do not go with those that others made since."""
        from rh.errors import ExistsError, NameClashError
        from rh.versions.changes import Change
        from rh.versions.drafts import clashes
        from rh.versions.edit import Edit, kept
        from rh.versions.store import Store

        store, drafts = Store.at(now.store), self._of()
        mine = kept(store, tree)
        every = drafts.additions(now)
        for one in every[seen.additions :]:
            found = clashes(map(Change.of, mine), map(Change.of, kept(store, one.tree)))
            if found:
                raise self._clash(found[0], one, len(found))
        changes = [change for one in every for change in kept(store, one.tree)]
        try:
            Edit.replay(store, now.tree, [*changes, *mine], lease=self._lease).close()
        except (ExistsError, NameClashError, NotFoundError) as error:
            raise self._clash(error.message, every[-1], 1) from error

    def _clash(self, what: str, one: Addition, number: int) -> ConflictError:
        more = f" and {number - 1:,} more" if number > 1 else ""
        return ConflictError(
            f"{one.author} changed the draft {self.name!r} meanwhile, and this does not go with it: {what}{more}",
            where=self.folder.url,
            hint="what was changed in this block was not added; look at the draft and change it again",
        )

    def commit(self, message: str | None = None) -> Version:
        """Make one version of all that was added, and return it; the draft is over.

        Args:
            message: of the version; by default the one that was given when the draft was begun.

        Raises:
            ConflictError: another version than the one it began with is the newest by now (`rebase`), or somebody
                finished the draft.
        """
        if message is not None:
            message = self._message(message)
        if self._edit is None:
            self._of().get(self.name)
            with self:
                return self.commit(message)
        from rh.versions import sidecars

        self.save()
        drafts, series = self._of(), self._series_of()
        for _ in range(_TRIES):
            edit, draft = self._begun(), self._draft
            assert draft is not None
            carried = self._carried(series, self._all_went(draft))
            tree = edit.finish()
            self._keep(series, tree)
            said = {**draft.said, **{key: value for key, value in self._said.items() if value}}
            if message is not None:
                said["message"] = message
            if not draft.follows or draft.base == series.latest():
                told = sidecars.taken(series, edit.store, tree, draft.tree)
                said["aliases"] = [*said.get("aliases", ()), *told]
            try:
                self.version, _ = series.add(
                    tree.digest,
                    draft.store,
                    files=tree.files,
                    size=tree.size,
                    parent=draft.base if draft.follows else series.latest(),
                    drafted=True,
                    also=drafts.ending(draft),
                    **said,
                )
            except (ConflictError, NotFoundError) as error:
                now = drafts.again(draft)
                if now.etag == draft.etag:
                    if draft.follows and series.latest() != draft.base:
                        error.hint = ".rebase() lets the draft begin with the newest version"
                    raise
                self._load(now)
                continue
            drafts.free(draft)
            self._over()
            annotated.carry(carried.items(), self.folder)
            return self.version
        raise ConflictError(f"the draft {self.name!r} is being changed all the time", where=self.folder.url)

    def _all_went(self, draft: OpenDraft) -> list[Went]:
        """What everybody moved and copied."""
        from rh.resources.carried import Went, went_in
        from rh.versions.changes import Change
        from rh.versions.edit import kept
        from rh.versions.store import Store

        store = Store.at(draft.store)
        found: list[Went] = []
        for one in self._of().additions(draft):
            changes = map(Change.of, kept(store, one.tree))
            found += went_in(self._series_of(), changes, [Went(*told) for told in one.copied])
        return found

    def rebase(self) -> int:
        """Let the draft begin with the newest version, and return its number.

        Raises:
            ConflictError: that version and the draft change the same paths; nothing was changed.
        """
        from rh.versions.changes import Change
        from rh.versions.diff import diff
        from rh.versions.drafts import clashes
        from rh.versions.edit import Edit, kept
        from rh.versions.store import Store

        drafts, series = self._of(), self._series_of()
        draft, newest = drafts.get(self.name), series.get("latest")
        if draft.base == newest.number:
            return newest.number
        if draft.tree is None or newest.store != draft.store:
            raise InvalidError("the draft and the newest version are in different stores", hint="commit another draft")
        store = Store.at(draft.store)
        changes = [change for one in drafts.additions(draft) for change in kept(store, one.tree)]
        since = [
            Change("remove", path)
            for one in diff(store.tree(draft.tree), store.tree(newest.digest), store, store)
            for path in (one.path, one.old_path)
            if path
        ]
        found = clashes(map(Change.of, changes), since)
        if found:
            raise ConflictError(
                f"v{newest.number} and the draft {self.name!r} both change {found[0]}", where=self.folder.url,
                hint="discard the draft, and make the change again",
            )  # fmt: skip
        Edit.replay(store, newest.digest, changes).close()
        drafts.rebased(draft, newest.number, newest.digest)
        return newest.number

    def discard(self) -> None:
        """Give the draft up, with all that everybody added.

        Raises:
            NotFoundError: there is no such draft.
        """
        drafts = self._of()
        draft = drafts.get(self.name)
        self._over()
        for _ in range(_TRIES):
            try:
                return drafts.discard(draft)
            except (ConflictError, NotFoundError):
                draft = drafts.again(draft)
        raise ConflictError(f"the draft {self.name!r} is being changed all the time", where=self.folder.url)

    def changes(self) -> list[DraftChange]:
        """What was added so far, by everybody, oldest first."""
        from rh.versions.changes import Change
        from rh.versions.edit import kept
        from rh.versions.store import Store

        drafts = self._of()
        draft = drafts.get(self.name)
        store, found = Store.at(draft.store), []
        for one in drafts.additions(draft):
            for change in map(Change.of, kept(store, one.tree)):
                if change.do != "hold":
                    child = change.child
                    size, end = (0, "") if child is None else (child.size, "/" if child.kind == "dir" else "")
                    found.append(DraftChange(change.do, change.path + end, change.to, size, one.author, one.time))
        return found


def open_drafts(folder: Folder) -> list[OpenDraft]:
    """`Folder.drafts`."""
    from rh.versions.drafts import Drafts

    try:
        series = folder.series_of()
    except NotFoundError:
        return []
    return Drafts(series).all()
