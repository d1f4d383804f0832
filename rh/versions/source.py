"""What is to become a version: what lies at a place and is meant, page by page, and what is known of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from rh import digest as digests
from rh.content.patterns import Selector
from rh.content.rows import position
from rh.content.tree import key_bytes
from rh.digest import Digest
from rh.errors import ConflictError, NameClashError, NotFoundError
from rh.systems.abilities import Following, Versioned
from rh.systems.base import LEAVE_OUT, System
from rh.transfer.survey import Page, Survey, only_data
from rh.transfer.verify import digest_entries
from rh.types import Entry
from rh.versions.nodes import EMPTY, Where
from rh.versions.store import Store

__all__ = [
    "Written",
    "digested",
    "followed",
    "gone",
    "is_path",
    "references",
    "surveyed",
    "tell",
    "with_extra",
    "with_written",
]


class Written(NamedTuple):
    """A file as `rh` wrote it: the digest of the bytes, and the etag that the place gave it."""

    digest: str
    etag: str | None


_SOME = 1_000
_ODD = re.compile(r"[/\0]\.{0,2}[/\0]").search


def surveyed(source: System, meant: Selector | None) -> Iterator[Page]:
    """What is below a root and meant, page by page, with what is known of it.

    Raises:
        NotFoundError: there is nothing. NameClashError: a key that no version can hold.
    """
    means, skip = meant or (None, None)
    pages: Iterator[Page] = Survey(source, skip=skip).pages()
    if means is not None:
        pages = (page.where(list(map(means, page.keys))) for page in pages)
    for page in only_data(pages, source):
        if page.keys:
            _check_names(source, page)
            yield page


def _check_names(source: System, page: Page) -> None:
    """Refuse keys that are no way through directories."""
    if _ODD("\0" + "\0".join(page.keys) + "\0") is None:
        return
    for key, entry in zip(page.keys, page.entries, strict=True):
        if not is_path(key.removesuffix("/") if entry.kind == "dir" else key):
            raise NameClashError("a version cannot hold this key", where=source.url(key), hint=LEAVE_OUT)


def is_path(key: str) -> bool:
    """Whether a key is a way through directories: no component is empty, `.` or `..`, and none has a NUL in it."""
    return "\0" not in key and not {"", ".", ".."}.intersection(key.split("/"))


def digested(source: System, store: Store, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Digest]]:
    """The digest of each entry, in any order, computed at the place itself where it can.

    Raises:
        ConflictError: one is not what was listed, or is gone.
    """
    try:
        for entry, digest in digest_entries(source, entries):
            if isinstance(digest, Exception):
                raise digest
            yield entry, digest
    except NotFoundError as error:
        raise gone(error, source, store) from error


def followed(source: System, key: str) -> Entry:
    """The file that is asked for by its name: what a link leads to, and the link itself where that is nothing."""
    entry = source.head(key)
    if entry.kind == "link":
        following = source.ask(Following)
        found = following.list_following(key) if following is not None else iter(())
        entry = next((other for other in found if other.key == key), entry)
    return entry


def gone(error: Exception, source: System, store: Store) -> Exception:
    """An error; where it is that a listed file of the source is not there any more, that the source changed."""
    where = getattr(error, "where", None) or ""
    if isinstance(error, NotFoundError) and where.startswith(source.url()) and not where.startswith(store.url):
        return ConflictError("the file is gone since it was listed", where=where, hint="again when nobody writes there")
    return error


def references(source: System, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Where]]:
    """The places of files that stay where they are, with the versions that they are where the place keeps these."""
    versioned = source.ask(Versioned)
    left = iter(entries)
    while some := list(islice(left, _SOME)):
        names = versioned.versions_of(some) if versioned is not None else {}
        for entry in some:
            location = source.location / entry.key
            name = names.get(entry.key)
            yield entry, ("r", location.system, location.path, entry.etag, *(() if name is None else (name,)))


def tell(source: System, page: Page) -> None:
    """Give a page the digests that nobody need compute: those of empty files, and of small ones of a version."""
    if None in page.digests:
        for number, entry in enumerate(page.entries):
            if page.digests[number] is None and entry.kind == "file":
                if not entry.size:
                    page.digests[number] = EMPTY
                elif source.kind == "tree" and entry.etag is not None and entry.etag.startswith("sha256:"):
                    page.digests[number] = entry.etag


def with_written(page: Page, written: Mapping[str, Written]) -> Page:
    """The page, with digests of files that are still what was written.

    Those of large files are left out: their chunk digests are not known, by which ranges of them are compared.
    """
    for number, (key, entry) in enumerate(zip(page.keys, page.entries, strict=True)):
        was = written.get(key)
        if was is None or page.digests[number] is not None or entry.kind != "file" or entry.etag is None:
            continue
        if was.etag == entry.etag and was.digest.startswith("sha256:"):
            page.digests[number] = was.digest
    return page


def with_extra(pages: Iterator[Page], extra: Mapping[str, bytes]) -> Iterator[Page]:
    """The pages with further files among theirs, in the place of any of the same key."""
    waiting = sorted(extra, key=key_bytes, reverse=True)
    for page in pages:
        if waiting and key_bytes(waiting[-1]) <= key_bytes(page.keys[-1]):
            page = Page._make(list(column) for column in page)  # noqa: PLW2901 - its entries may be a listing's own, by column
        while waiting and key_bytes(waiting[-1]) <= key_bytes(page.keys[-1]):
            key = waiting.pop()
            at = position(page.keys, key)
            there = at > 0 and page.keys[at - 1] == key
            data = extra[key]
            new = (key, Entry(key, len(data)), digests.of_bytes(data).text, b"", False)
            for column, value in zip(page, new, strict=True):
                column[at - there : at] = [value]  # type: ignore[index]
        yield page
    if waiting:
        keys = waiting[::-1]
        found = [extra[key] for key in keys]
        entries = [Entry(key, len(data)) for key, data in zip(keys, found, strict=True)]
        count = len(keys)
        yield Page(keys, entries, [digests.of_bytes(data).text for data in found], [b""] * count, [False] * count)
