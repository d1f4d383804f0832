"""What is at a place, with what is known of its content: a listing beside the manifest and the digest cache."""

from __future__ import annotations

import codecs
import queue
import threading
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, compress, islice
from operator import itemgetter, lt
from typing import Any, NamedTuple, NoReturn

from rh.content import above, manifest, patterns
from rh.content.cache import Described, DigestCache
from rh.content.names import PATHS
from rh.content.patterns import Selector
from rh.content.rows import PAGE, Cursor, Rows, position
from rh.content.tree import Row, key_bytes
from rh.errors import (
    AccessError,
    ConflictError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnsupportedError,
)
from rh.systems import open_system
from rh.systems.abilities import Following, Paging
from rh.systems.base import LEAVE_OUT, System
from rh.systems.far.skip import Skip
from rh.transfer.options import Links, Options
from rh.types import Entry, Files, Location

__all__ = [
    "Ahead",
    "Known",
    "Page",
    "Survey",
    "asked",
    "by_policy",
    "check_file_way",
    "check_prefix",
    "check_way",
    "etags",
    "is_data",
    "only_data",
    "refused_link",
    "selected",
    "sizes",
]

_TELLING = PATHS | {"tree"}
"""Kinds whose listing itself tells an empty root from a missing one."""

_KEPT = 100
"""Pages of a manifest that are kept here once they were read."""

_key, _size, _kind, _etag = itemgetter(0), itemgetter(1), itemgetter(2), itemgetter(3)
_target = itemgetter(Entry._fields.index("target"))
_executable = itemgetter(Entry._fields.index("executable"))


class Known(NamedTuple):
    """An entry and what is known of it: the digest of its content, chunk digests, and the executable bit."""

    entry: Entry
    digest: str | None
    chunks: bytes
    executable: bool | None

    def row(self) -> Row:
        """The same for a manifest."""
        entry = self.entry
        return Row(
            entry.key, entry.size, entry.kind, self.digest, entry.etag, self.executable, self.chunks, entry.target
        )


class Page(NamedTuple):
    """`Known`s of neighbouring keys, column by column. `keys` are those of the entries, or what they are to become."""

    keys: list[str]
    entries: Sequence[Entry]
    digests: list[str | None]
    chunks: list[bytes]
    executables: list[bool | None]

    def each(self) -> Iterator[Known]:
        """One after the other."""
        return map(Known._make, zip(self.entries, self.digests, self.chunks, self.executables, strict=True))

    def cut(self, at: int) -> tuple[Page, Page]:
        """The first `at` ones, and the others."""
        return Page._make(column[:at] for column in self), Page._make(column[at:] for column in self)

    def where(self, meant: Sequence[bool]) -> Page:
        """Those that are meant."""
        return Page._make(list(compress(column, meant)) for column in self)

    def rows(self) -> Rows:
        """The same for a manifest, or the cache."""
        entries = self.entries
        return Rows(
            list(map(_key, entries)),
            self.sizes,
            list(map(_kind, entries)),
            self.digests,
            etags(entries),
            self.executables,
            self.chunks,
            list(map(_target, entries)),
        )

    @property
    def only_files(self) -> bool:
        """Whether there are no directories and no links."""
        return isinstance(self.entries, Files) or {*map(_kind, self.entries)} == {"file"}

    @property
    def sizes(self) -> list[int]:
        """Sizes in bytes."""
        return sizes(self.entries)


def sizes(entries: Sequence[Entry]) -> list[int]:
    """Sizes in bytes."""
    return entries.sizes if isinstance(entries, Files) else list(map(_size, entries))


def etags(entries: Sequence[Entry]) -> list[str | None]:
    """Their etags."""
    return [*entries.etags] if isinstance(entries, Files) else list(map(_etag, entries))


class Survey:
    """A pass over a tree in key order. Iterate it once, or go through its `pages`.

    Args:
        system: the tree's root.
        follow: whether to look through symbolic links, where the place can; else they are links.
        skip: directories of whose content nothing is wanted.
        must_exist: whether nothing at all is an error, on places that cannot tell an empty root from a missing one.
        believe: whether to read manifests; without, the tree is one that other tools wrote. Where a place keeps no
            executable bits and the root has no manifest, the one of the tree that it is a part of is read.

    Attributes:
        exact: after the iteration, whether the manifest describes just what is there.
        found: how many entries there were.
        footer: after the iteration, the manifest's last line, if it has been read.
        tells_directories: after the iteration, whether empty directories were seen, or would have been.
    """

    def __init__(
        self,
        system: System,
        *,
        follow: bool = False,
        skip: Skip | None = None,
        must_exist: bool = True,
        believe: bool = True,
    ) -> None:
        self.system = system
        self.exact = False
        self.found = 0
        self.footer: manifest.Footer | None = None
        self.manifest_read = False
        self.tells_directories = False
        self._follow = follow
        self._skip = skip
        self._must_exist = must_exist
        self._believe = believe
        self._stale = False
        self._last = ""
        self._reader: manifest.Reader | None = None
        self._read: list[Rows] = []

    def __iter__(self) -> Iterator[Known]:
        for page in self.pages():
            yield from page.each()

    def pages(self) -> Generator[Page, None, None]:
        """All of it, a thousand entries or so at a time."""
        system = self.system
        cache = DigestCache(system)
        rows = self._manifest(cache)
        self.manifest_read = rows is not None
        cached = Cursor(cache.pages())
        listed = _pages(system, self._skip, follow=self._follow)
        part = None
        if rows is None and self._believe and not system.keeps_executable:
            first = next(listed, None)
            listed = chain([] if first is None else [first], listed)
            part = above.part_of(system) if first is not None or self._must_exist else None
        described = Cursor(rows if rows is not None else part.pages if part is not None else ())
        self.tells_directories = system.keeps_directories or self.manifest_read or part is not None
        for entries in listed:
            page = _unknown(entries)
            self._check_order(page.keys)
            self.found += len(entries)
            yield self._informed(page, described.until(page.keys[-1]), cached)
        left = [row for rows in described.rest() for row in rows.each()]
        if self._must_exist and not self.found and system.kind not in _TELLING:
            self._check_there(left, known=self.manifest_read or (part is not None and part.is_empty))
        page = self._with_directories(_unknown([]), left)
        if page.keys:
            yield page
        if self._reader is not None:
            self.footer = self._reader.footer
        self.exact = self.manifest_read and not self._stale
        if self.exact and self._read and self._reader is not None and self._reader.etag and self.footer is not None:
            cache.replace(self._read, Described(self._reader.etag, self.footer))

    def _check_there(self, described: list[Row], *, known: bool) -> None:
        """Refuse to take a place that shows nothing for an empty tree, unless its manifest says that it is one."""
        gone = sum(row.kind == "file" for row in described)
        where = self.system.url()
        if gone and self.manifest_read:
            message = f"none of the {gone:,} files that the manifest lists is there"
            raise NotFoundError(message, where=where, hint=f"if it is to be empty, remove {manifest.NAME} there")
        if gone or not (described or known):
            raise NotFoundError("there is nothing under this prefix", where=where)

    def _check_order(self, keys: list[str]) -> None:
        raw: list[Any] = keys if "".join(keys).isascii() else list(map(key_bytes, keys))
        inside = all(map(lt, raw, islice(raw, 1, None)))
        if not inside or (self.found and key_bytes(keys[0]) <= key_bytes(self._last)):
            raise IntegrityError("the listing is out of order", where=self.system.url(keys[0]))
        self._last = keys[-1]

    # What is known

    def _manifest(self, cache: DigestCache) -> Iterator[Rows] | None:
        """The rows of the manifest: as they are kept here, if it is still the same one, else from the place."""
        if not self._believe:
            return None
        kept = cache.described()
        if kept is not None and self._is_there(kept):
            self.footer = kept.footer
            return self._remembered(cache, kept)
        self._reader = manifest.read(self.system)
        return None if self._reader is None else self._noted(self._reader)

    def _noted(self, reader: manifest.Reader) -> Iterator[Rows]:
        """The rows of a manifest, noted to be kept unless they are very many."""
        for number, page in enumerate(reader):
            if number < _KEPT:
                self._read.append(page)
            else:
                self._read.clear()
            yield page

    def _remembered(self, cache: DigestCache, kept: Described) -> Iterator[Rows]:
        """The rows of the manifest from the cache; where that fails on the way, the others from the place."""
        last = yield from cache.pages(kept)
        if last is None:
            return
        self._reader = manifest.read(self.system)
        if self._reader is None:
            raise ConflictError("the tree changed while it was listed", where=self.system.url())
        for page in self._reader:
            rows = page.cut(position(page.keys, last))[1]
            if rows.keys:
                yield rows

    def _is_there(self, kept: Described) -> bool:
        try:
            return self.system.head(manifest.NAME).etag == kept.etag
        except (NotFoundError, UnsupportedError):
            return False

    def _informed(self, page: Page, described: Rows | None, cached: Cursor) -> Page:
        """The page with what the manifest knows of it, and where that knows nothing, the cache."""
        matched = _adopt(page, described, bits=True) if described is not None else 0
        if matched < len(page.keys):
            self._stale = True
            rows = cached.between(page.keys[0], page.keys[-1])
            if rows is not None:
                _adopt(page, rows, bits=False)
        if described is None or len(described.keys) == matched:
            return page
        there = set(page.keys)
        return self._with_directories(page, [row for row in described.each() if row.key not in there])

    def _with_directories(self, page: Page, rows: list[Row]) -> Page:
        """The page with the directories that only the manifest knows, of a place that keeps none."""
        if not rows:
            return page
        entries = list(page.entries)
        page = page._replace(entries=entries)
        for row in reversed(rows):
            at = position(page.keys, row.key)
            implied = at < len(page.keys) and page.keys[at].startswith(row.key)
            if row.kind != "dir" or self.system.keeps_directories or implied:
                self._stale = True
                continue
            self.found += 1
            page.keys.insert(at, row.key)
            entries.insert(at, Entry(row.key, 0, "dir"))
            page.digests.insert(at, None)
            page.chunks.insert(at, b"")
            page.executables.insert(at, None)
        return page


def _unknown(entries: Sequence[Entry]) -> Page:
    count = len(entries)
    if isinstance(entries, Files):
        return Page([*entries.keys], entries, [None] * count, [b""] * count, [*entries.executables])
    return Page(list(map(_key, entries)), entries, [None] * count, [b""] * count, list(map(_executable, entries)))


def _adopt(page: Page, rows: Rows, *, bits: bool) -> int:
    """Give a page the digests (and executable bits) of rows that are of the same bytes; how many are."""
    told = etags(page.entries)
    same = rows.keys == page.keys and rows.etags == told and None not in told
    if same and page.only_files and {*rows.kinds} == {"file"} and rows.sizes == page.sizes and None not in rows.digests:
        page.digests[:] = rows.digests
        page.chunks[:] = rows.chunks
        if bits and None in page.executables:
            both = zip(page.executables, rows.executables, strict=True)
            page.executables[:] = [theirs if ours is None else ours for ours, theirs in both]
        return len(page.keys)
    found = 0
    known = {row.key: row for row in rows.each()}
    for number, entry in enumerate(page.entries):
        row = known.get(entry.key)
        if row is None or row.kind != entry.kind:
            continue
        if entry.kind != "dir" and (entry.etag is None or row.etag != entry.etag or row.size != entry.size):
            continue
        found += 1
        if page.digests[number] is None:
            page.digests[number], page.chunks[number] = row.digest, row.chunks
        if bits and page.executables[number] is None:
            page.executables[number] = row.executable
    return found


def _pages(system: System, skip: Skip | None, *, follow: bool) -> Iterator[Sequence[Entry]]:
    """A listing in pages, as the place gives them or else put together here."""
    following = system.ask(Following) if follow else None
    paging = system.ask(Paging)
    if paging is not None:
        yield from paging.list_pages(follow=following is not None, skip=skip)
        return
    entries = system.list() if following is None else following.list_following()
    while page := list(islice(entries, PAGE)):
        yield page


def is_data(system: System, entry: Entry) -> bool:
    """Whether an entry can be read: disks list a pipe, socket or device as a file that has no etag."""
    return entry.etag is not None or entry.kind != "file" or system.kind not in PATHS


def only_data(pages: Iterator[Page], system: System) -> Iterator[Page]:
    """The pages, as long as all in them can be read.

    Raises:
        UnsupportedError: there is a pipe, a socket or a device.
    """
    for page in pages:
        if None in etags(page.entries):
            for entry in page.entries:
                if not is_data(system, entry):
                    where = system.url(entry.key)
                    raise UnsupportedError("a pipe, socket or device is no data", where=where, hint=LEAVE_OUT)
        yield page


def selected(source: System, options: Options) -> Selector | None:
    """Which keys are meant; `None` for all."""
    if options.keys is not None:
        return Selector(frozenset(options.keys).__contains__)
    return patterns.selector(options.include, options.exclude, _ignored(source) if options.ignore_file else ())


def _ignored(source: System) -> list[str]:
    """The lines of the ignore file, if there is one: names as keys have them, also those that are no text.

    Raises:
        InvalidError: it is UTF-16 or no text, so that it would ignore nothing.
    """
    try:
        with source.read(patterns.IGNORE_FILE) as body:
            told = body.read()
    except (NotFoundError, UnsupportedError):
        return []
    if b"\0" in told:
        where = source.url(patterns.IGNORE_FILE)
        raise InvalidError("the ignore file is no text in UTF-8", where=where, hint="save it as UTF-8")
    return [line.decode("utf-8", "surrogateescape") for line in told.removeprefix(codecs.BOM_UTF8).splitlines()]


def asked(pages: Iterator[Page], source: System, keys: Collection[str]) -> Iterator[Page]:
    """The pages, which must have all these keys.

    Raises:
        NotFoundError: some are not there.
    """
    left = set(keys)
    for page in pages:
        left.difference_update(page.keys)
        yield page
    if left:
        shown = ", ".join(sorted(left)[:5]) + (", …" if len(left) > 5 else "")
        raise NotFoundError(f"{len(left):,} of the files are not there: {shown}", where=source.url())


def by_policy(pages: Iterator[Page], system: System, links: Links) -> Iterator[Page]:
    """The pages of a survey as a policy of links wants them: with links (`keep`), or without.

    Raises:
        InvalidError: there is a link (`error`).
        NotFoundError: one cannot be followed (`follow`).
        UnsupportedError: the place cannot look through them.
    """
    for page in pages:
        if links == "keep" or page.only_files or "link" not in map(_kind, page.entries):
            yield page
            continue
        for entry in page.entries if links != "skip" else ():
            if entry.kind == "link":
                raise refused_link(entry, system, links)
        others = page.where([entry.kind != "link" for entry in page.entries])
        if others.keys:
            yield others


def refused_link(link: Entry, system: System, links: Links = "follow") -> RhError:
    """Why a policy refuses a link."""
    where, hint = system.url(link.key), 'exclude it, or links="keep" or links="skip"'
    if links == "error":
        return InvalidError(
            "the source has a symbolic link", where=where, hint='links="follow", links="keep" or links="skip"'
        )
    if system.ask(Following) is None:
        return UnsupportedError("links cannot be followed here", where=where, hint=hint)
    return NotFoundError(
        f"a link that leads to nothing, to a directory it lies in, or to where nobody may look: {link.target}",
        where=where,
        hint=hint,
    )


def check_way(location: Location) -> None:
    """Refuse a place on a disk that cannot become a directory, since it or something above it is a file.

    Raises:
        NameClashError: which file is in the way.
    """
    while location.name not in ("", "~"):
        above = open_system(location.parent)
        if above.kind not in PATHS or _is_there(above, location.name + "/"):
            return
        if _is_there(above, location.name):
            _refuse_file(above, location.name)
        location = location.parent


def check_prefix(location: Location) -> None:
    """Refuse a prefix of a bucket that is an object: most stores would hold both, and no disk could take a copy.

    Raises:
        NameClashError: it is one.
    """
    if "/" in location.path.rstrip("/"):
        above = open_system(location.parent)
        try:
            there = _is_there(above, location.name)
        except AccessError:
            return  # who may only write cannot ask
        if there:
            _refuse_file(above, location.name)


def _refuse_file(system: System, key: str) -> NoReturn:
    raise NameClashError(
        "a file stands where a directory is to be",
        where=system.url(key),
        hint="choose another target, or remove that file",
    )


def check_file_way(system: System, key: str) -> None:
    """Refuse a key of a disk that cannot become a file, since it is a directory or lies below a file.

    Raises:
        NameClashError: what is in the way.
    """
    if system.kind not in PATHS:
        return
    if _is_there(system, key + "/"):
        raise NameClashError(
            "a directory stands where a file is to be",
            where=system.url(key),
            hint=f"name a file in it: {system.url(key)}/…",
        )
    folder = key.rpartition("/")[0]
    location = system.location
    check_way(Location(location.system, f"{location.path.rstrip('/')}/{folder}") if folder else location)


def _is_there(system: System, key: str) -> bool:
    try:
        system.head(key)
    except (NotFoundError, NameClashError):
        return False
    return True


class Ahead(Iterator[Page]):
    """Pages that a thread fetches from now on, up to `count` of them before they are asked for."""

    def __init__(self, pages: Generator[Page, None, None], count: int = 16) -> None:
        self._ready: queue.Queue[Page | BaseException | None] = queue.Queue(count)
        self._abandoned = threading.Event()
        self._over = False
        work = partial(_fetch, pages, self._ready, self._abandoned)
        threading.Thread(target=work, name="rh-listing", daemon=True).start()

    def __next__(self) -> Page:
        item = None if self._over else self._ready.get()
        if isinstance(item, Page):
            return item
        self._over = True
        if item is None:
            raise StopIteration
        raise item

    def close(self) -> None:
        """Ask for no more."""
        self._abandoned.set()

    __del__ = close


def _fetch(
    pages: Generator[Page, None, None], ready: queue.Queue[Page | BaseException | None], abandoned: threading.Event
) -> None:
    def put(item: Page | BaseException | None) -> bool:
        while not abandoned.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    try:
        with closing(pages):  # here, since what it holds belongs to this thread
            for page in pages:
                if not put(page):
                    return
    except BaseException as error:  # noqa: BLE001 - raised where the pages are taken
        put(error)
        return
    put(None)
