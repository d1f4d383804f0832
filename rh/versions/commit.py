"""From what lies at a place to a version: a tree that is committed, a single file, or a tree that is only referred to.

What is known is not looked at again: files whose digests the manifest or the digest cache tells are not read, and what
the version before or the store has is not sent. What is hashed is what is stored: a file that changes in between is a
`ConflictError`. The marker of the tree comes last, so that a commit that fails leaves nothing to be seen; what arrived
until then is found the next time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from itertools import islice

from rh.content import patterns
from rh.content.cache import DigestCache, settled
from rh.content.patterns import Selector
from rh.content.tree import Row, TreeHasher
from rh.digest import Digest
from rh.errors import InvalidError, NameClashError, NotFoundError, TransferError, UnsupportedError
from rh.observe import log
from rh.progress import Progress, default
from rh.systems import BUCKETS
from rh.systems.base import HIDDEN, System
from rh.transfer.options import Options
from rh.transfer.survey import Page, asked, is_data, selected
from rh.types import Entry
from rh.versions.lease import Lease
from rh.versions.levels import UNSETTLED, Missing, Pages, Past, levels
from rh.versions.nodes import Child, Where
from rh.versions.packs import LARGE, Writer
from rh.versions.source import (
    Written,
    digested,
    followed,
    gone,
    is_path,
    references,
    surveyed,
    tell,
    with_extra,
    with_written,
)
from rh.versions.store import Store, Tree
from rh.versions.verify import files_of

__all__ = ["adopt_tree", "commit_file", "commit_tree"]

_BATCH = 5_000
_DEFAULT = Options()


def commit_tree(
    source: System,
    store: Store,
    *,
    base: str | None = None,
    keys: frozenset[str] | None = None,
    extra: Mapping[str, bytes] | None = None,
    written: Mapping[str, Written] | None = None,
    options: Options = _DEFAULT,
    lease: Lease | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Tree:
    """Store all that is below a root. Links are kept as links; `.rhignore` is obeyed.

    Args:
        source: the root.
        store: where to.
        base: the digest of a tree of this store that much of it is thought to be in; one that is gone does no harm.
        keys: the very keys that are meant, instead of all.
        extra: further small files, by key; they replace those of the source, and may have names that are ours.
        written: what is known of files that `rh` wrote, by key; a digest holds while the etag does.
        options: `include`, `exclude` and `ignore_file` are obeyed.
        lease: one that the caller holds until the tree has its reference; by default one for the time of the call.
        progress: told of every file whose bytes are not known to be in the store; by default a bar on a terminal.
        cancel: stops it soon after it is set.

    Raises:
        NotFoundError: there is nothing at the source, or not one of `keys`.
        ConflictError: a file changed meanwhile.
        NameClashError: a key that no version can hold.
        InvalidError: the store lies in what is to be committed.
        UnsupportedError: there is a pipe, a socket or a device.
        TransferError: it was cancelled.
    """
    more = {} if extra is None else extra
    for key in more:
        if not is_path(key):
            raise NameClashError(f"a version cannot hold the key {key!r}", where=source.url())
    meant = Selector(keys.__contains__) if keys is not None else selected(source, options)
    _refuse_store(source, store, meant)
    found = surveyed(source, meant)
    if written:
        found = (with_written(page, written) for page in found)
    commit = _Commit(source, store, base, more, progress or default(), cancel or threading.Event())
    return commit.run(asked(found, source, keys) if keys is not None else found, lease)


def commit_file(
    source: System,
    key: str,
    store: Store,
    *,
    name: str | None = None,
    base: str | None = None,
    written: Written | None = None,
    lease: Lease | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Tree:
    """Store one file (a link is followed) as a tree of one file, called `name` or what it is called at the source.

    What it is `written` as is believed while the etag holds.
    """
    entry = followed(source, key)
    if entry.kind != "file" or not is_data(source, entry):
        raise UnsupportedError("this is no file with bytes in it", where=source.url(key))
    row = DigestCache(source).get(key, entry.etag)
    name = key.rpartition("/")[2] if name is None else name
    if not is_path(name):
        raise NameClashError(f"a version cannot hold the key {name!r}", where=source.url(key))
    page = Page([name], [entry], [row.digest if row else None], [row.chunks if row else b""], [bool(entry.executable)])
    if written is not None:
        page = with_written(page, {name: written})
    commit = _Commit(source, store, base, {}, progress or default(), cancel or threading.Event())
    return commit.run(iter((page,)), lease)


def adopt_tree(
    source: System,
    store: Store,
    *,
    options: Options = _DEFAULT,
    lease: Lease | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Tree:
    """Make a version of what is below a root by reference: digests are computed, and no file is copied.

    It can be read as long as the files are what they are now: each read compares the bytes with their digests.

    Raises:
        As `commit_tree` does.
    """
    meant = selected(source, options)
    _refuse_store(source, store, meant)
    commit = _Commit(source, store, None, {}, progress or default(), cancel or threading.Event(), refer=True)
    return commit.run(surveyed(source, meant), lease)


def _refuse_store(source: System, store: Store, meant: Selector | None) -> None:
    """A store cannot hold itself."""
    here, there = source.location, store.system.location
    top = here.path.rstrip("/") + "/"
    if here.system != there.system or not there.path.startswith(top):
        return
    below = there.path[len(top) :].rstrip("/")
    if not f"/{below}".count(f"/{HIDDEN}") and (meant is None or meant.means(f"{below}/format.json")):
        raise InvalidError(
            "the store of versions lies in what is to be committed",
            where=store.url,
            hint=f"write /{below}/ into {patterns.IGNORE_FILE}",
        )


class _Commit:
    """One commit: what is to be stored, what of that is missing, and the nodes of it all."""

    def __init__(
        self,
        source: System,
        store: Store,
        base: str | None,
        extra: Mapping[str, bytes],
        progress: Progress,
        cancel: threading.Event,
        *,
        refer: bool = False,
    ) -> None:
        self.source = source
        self.store = store
        self.progress = progress
        self._base = base
        self._extra = extra
        self._cancel = cancel
        self._refer = refer
        self._settled: dict[str, tuple[str, Where]] = {}
        """Digest and place of what was missing, by the source's keys."""
        self._learned: list[Row] = []
        self._were: dict[str, Child] = {}
        """What large files that are cut were in the base, by the source's keys."""

    def run(self, found: Iterator[Page], lease: Lease | None) -> Tree:
        """Do it."""
        self.progress.start(f"{self.source.url()} → {self.store.url}")
        with closing(Pages()) as pages:
            try:
                digest = self._look(found, pages)
                with self.store.lease() if lease is None else nullcontext(lease) as held:
                    if digest is not None and self.store.has_tree(digest):
                        tree = self.store.tree(digest)
                        if not tree.references or (self._refer and self._is_referred_to(tree, pages)):
                            return tree
                    return self._store(pages, held)
            finally:
                DigestCache(self.source).remember(self._learned)
                self.progress.finish()

    def _look(self, found: Iterator[Page], pages: Pages) -> str | None:
        """Take all pages; the digest of the tree, if that of every file is known."""
        hasher: TreeHasher | None = TreeHasher()
        for page in with_extra(found, self._extra):
            self._check()
            tell(self.source, page)
            pages.add(page)
            if hasher is None:
                continue
            if page.only_files:
                if None in page.digests:
                    hasher = None
                else:
                    hasher.add_files(page.keys, page.sizes, page.digests, page.executables)
                continue
            for key, (entry, digest, _, executable) in zip(page.keys, page.each(), strict=True):
                if entry.kind == "file" and digest is None:
                    hasher = None
                    break
                hasher.add(Row(key, entry.size, entry.kind, digest, None, executable, b"", entry.target))
        return hasher.finish() if hasher is not None else None

    def _is_referred_to(self, tree: Tree, pages: Pages) -> bool:
        """Whether what a tree of the same content refers to are the very files that are there now."""
        top = self.source.location
        entries = (entry for page in pages for entry in page.entries if entry.kind == "file")
        for (_, child), entry in zip(files_of(self.store, self.store.root(tree)), entries, strict=True):
            place = top / entry.key
            if child.where[0] == "r" and child.where[1:4] != (place.system, place.path, entry.etag):
                return False
        return True

    def _store(self, pages: Pages, lease: Lease) -> Tree:
        past = Past.of(self.store, self._past())
        with Writer(self.store, lease, self.progress) as writer:
            for key, data in self._extra.items():
                stored = writer.put(data)
                self._settled[key] = stored.digest, stored.where
            missing = self._with_digests(self._missing(pages, past))
            if self._refer:
                self._settle_by_reference(missing)
            else:
                self._settle(writer, missing)
            for level, above in levels(pages, past, self._settled):
                self._check()
                if above is None:
                    break
                if level.is_past() and level.past.child is not None:
                    above.take(level, level.past.child.where)
                else:
                    above.take(level, writer.node(level.settled()))
            if level.is_past() and past.child is not None and self._base is not None:
                return self.store.tree(self._base)
            return writer.finish(level.settled(), references=self._refer)

    def _past(self) -> Tree | None:
        """The base, if the store still has it."""
        if self._base is None:
            return None
        if not self.store.has_tree(self._base):
            log.warning("%s has no version %s to begin from; all is looked for anew", self.store.url, self._base)
            return None
        tree = self.store.tree(self._base)
        return None if tree.references else tree  # what may change is not what was committed

    def _missing(self, pages: Pages, past: Past) -> Iterator[Missing]:
        """The files that are not known to be what they were in the base."""
        files = size = 0
        for level, above in levels(pages, past, self._settled):
            self._check()
            for one in level.missing():
                files += 1
                size += one.entry.size
                yield one
            self.progress.total(files, size)
            if above is not None:
                above.take(level, UNSETTLED)

    def _with_digests(self, missing: Iterator[Missing]) -> Iterator[tuple[Entry, Digest | None]]:
        """Those that are to be stored, with the digests of all that are not read here in any case."""
        read_here = self.store.packs_files and not self._refer
        while batch := list(islice(missing, _BATCH)):
            unknown = (one.entry for one in batch if one.digest is None and not (read_here and one.entry.size < LARGE))
            found: dict[str, Digest] = {}
            for entry, digest in digested(self.source, self.store, unknown):
                self._check()
                found[entry.key] = digest
                self._learn(entry, digest)
            for entry, told, was in batch:
                known = told or found.get(entry.key)
                if known is not None and was is not None and was.digest == known.text and not self._refer:
                    self._settled[entry.key] = known.text, was.where
                    self.progress.advance(1, entry.size)
                else:
                    if was is not None and was.where[0] == "c":
                        self._were[entry.key] = was
                    yield entry, known

    def _settle(self, writer: Writer, missing: Iterable[tuple[Entry, Digest | None]]) -> None:
        """Store what is missing."""
        unknown: set[str] = set()

        def files() -> Iterator[tuple[Entry, Digest | None]]:
            for entry, digest in missing:
                if digest is None:
                    unknown.add(entry.key)
                yield entry, digest

        try:
            for entry, digest, where in writer.add(self.source, files(), self._were):
                self._check()
                self._settled[entry.key] = digest, where
                if entry.key in unknown:
                    self._learn(entry, Digest(digest))
        except NotFoundError as error:
            raise gone(error, self.source, self.store) from error

    def _settle_by_reference(self, missing: Iterable[tuple[Entry, Digest | None]]) -> None:
        """Say where what is missing is."""
        digests = {entry: digest.text for entry, digest in missing if digest is not None}
        for entry, where in references(self.source, digests):
            self._settled[entry.key] = digests[entry], where
            self.progress.advance(1, entry.size)

    def _learn(self, entry: Entry, digest: Digest) -> None:
        """Note a digest to be remembered; a bucket's etag is another one after each change, however soon."""
        if entry.etag is not None and (self.source.kind in BUCKETS or settled(entry.modified)):
            row = Row(entry.key, entry.size, "file", digest.text, entry.etag, None, digest.chunks)
            self._learned.append(row)

    def _check(self) -> None:
        if self._cancel.is_set():
            raise TransferError(
                "the commit was cancelled", where=self.source.url(), hint="the same call again goes on from here"
            )
