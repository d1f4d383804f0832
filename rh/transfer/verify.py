"""Reading a tree again and comparing it with what its manifest says."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal

from rh import config
from rh import digest as digests
from rh.content import above, manifest
from rh.content.cache import DigestCache, settled
from rh.content.rows import PAGE, Rows
from rh.content.tree import Row, TreeHasher, tree_digest, without_implied
from rh.digest import Digest
from rh.errors import ConflictError, IntegrityError, NotFoundError, RhError
from rh.observe import log
from rh.progress import Progress, Silent
from rh.systems.abilities import Bulk, Digesting, Upload
from rh.systems.base import System
from rh.transfer.mover import Shared, as_rh, crew
from rh.transfer.options import Links
from rh.transfer.survey import Page, Survey, by_policy
from rh.types import ANY, Entry, Match, Outcome

__all__ = ["Verification", "digest_entries", "digest_file", "digest_tree", "finish", "verify_tree"]

_BATCH = 2_000

_SOURCES = {
    "manifest": "the manifest",
    "record": "the saved record",
    "table": "the index of the table",
    "version": "the version",
}


@dataclass(frozen=True, slots=True, repr=False)
class Verification:
    """What reading a tree again has shown.

    Attributes:
        url: the tree.
        against: what it was compared with: the tree's `"manifest"`, a saved blob's `"record"`, a table's index
            (`"table"`), a `"version"`; `"nothing"` where nothing is recorded.
        above: the directory above whose manifest that is, where the tree has none of its own.
        files, size: what was read.
        corrupt: keys whose bytes are not what was written, although the store shows no change: bit rot.
        modified: keys that somebody wrote since, or just now; also links that lead elsewhere by now or are files, files
            that are links, and those whose executable bit is another.
        missing: keys that the manifest has and the place has not.
        added: keys that the manifest has not.
        unreadable: keys that could not be read, with the error.
        replaced: keys of a version that refers to versions of objects, where something else is by now, or nothing. They
            are read all the same, as they were: nothing is wrong with them.
        digest: the digest of the tree as it is now, `None` if something could not be read, or changed meanwhile.
    """

    url: str
    against: Literal["manifest", "record", "table", "version", "nothing"]
    files: int
    size: int
    corrupt: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    digest: str | None = None
    above: str | None = None
    replaced: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the tree is just what the manifest says."""
        return self.against != "nothing" and not (
            self.corrupt or self.modified or self.missing or self.added or self.unreadable
        )

    def __bool__(self) -> bool:
        return self.ok

    def raise_for_status(self) -> Verification:
        """Raise `IntegrityError` unless all is well; returns itself."""
        if not self.ok:
            raise IntegrityError(str(self), where=self.url)
        return self

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {"ok": self.ok} | {name: getattr(self, name) for name in self.__slots__}

    def __repr__(self) -> str:
        found = {name: getattr(self, name) for name in ("corrupt", "modified", "missing", "added", "unreadable")}
        wrong = ", ".join(f"{len(keys):,} {name}" for name, keys in found.items() if keys)
        told = "nothing to compare with" if self.against == "nothing" else wrong or "ok"
        return f"<Verification {self.url}: {self.files:,} files, {told}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"

    def __str__(self) -> str:
        if self.against == "nothing":
            told = "nothing is recorded to compare with"
        else:
            source = _SOURCES[self.against] + (f" of {self.above}" if self.above else "")
            told = f"{'' if self.ok else 'not '}all as {source} says"
        lines = [f"{self.url}: {self.files:,} files read, {told}"]
        for name in ("corrupt", "modified", "missing", "added", "replaced"):
            keys = getattr(self, name)
            if keys:
                lines.append(f"  {name}: {len(keys):,} ({', '.join(keys[:5])}{', …' if len(keys) > 5 else ''})")
        lines += [f"  unreadable: {key}: {why}" for key, why in self.unreadable[:10]]
        return "\n".join(lines)


def digest_entries(system: System, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Digest | RhError]]:
    """The digest of each entry's content, computed at the place itself where it can, in any order.

    What changed since it was listed has a `ConflictError`, what cannot be read another one.
    """
    listed: dict[str, Entry] = {}

    def taken() -> Iterator[Entry]:
        for entry in entries:
            listed[entry.key] = entry
            yield entry

    for outcome in _digested(system, taken()):
        entry = listed.pop(outcome.key)
        yield entry, _problem(system, entry, outcome) or Digest(outcome.digest or "", outcome.chunks or b"")


def _problem(system: System, listed: Entry, outcome: Outcome) -> RhError | None:
    """What is wrong with a digest: the place tells that of what is there now, which may not be what was listed."""
    if outcome.error is not None:
        return as_rh(outcome.error, system.url(listed.key))
    now = outcome.entry.etag if outcome.entry is not None else None
    if now is None or listed.etag is None or now == listed.etag:
        return None
    return ConflictError(
        "the file changed since it was listed", where=system.url(listed.key), hint="again when nobody writes"
    )


def _digested(system: System, entries: Iterable[Entry]) -> Iterator[Outcome]:
    """The same as outcomes, each with a digest or an error."""
    digesting = system.ask(Digesting)
    if digesting is not None:
        for outcome in digesting.digest_many(entries):
            if outcome.error is None and outcome.digest is None:
                yield outcome._replace(error=IntegrityError("no digest", where=system.url(outcome.key)))
            else:
                yield outcome
        return
    batches = iter(entries)
    workers = int(config.get("workers"))
    bulk = system.ask(Bulk)
    while batch := list(islice(batches, _BATCH)):
        left = {entry.key: entry for entry in batch}
        if bulk is not None:
            yield from _digested_together(system, bulk, left, workers)
        results: list[Outcome] = []
        shared = Shared(left.values())

        def work(shared: Shared[Entry] = shared, results: list[Outcome] = results) -> None:
            for entry in shared:
                try:
                    digest = _read_digest(system, entry)
                    results.append(Outcome(entry.key, entry, None, digest.text, digest.chunks))
                except Exception as error:  # noqa: BLE001 - told per file
                    results.append(Outcome(entry.key, error=as_rh(error, system.url(entry.key))))

        crew(min(workers, len(left)), work, threading.Event())
        yield from results


def _digested_together(system: System, bulk: Bulk, left: dict[str, Entry], workers: int) -> Iterator[Outcome]:
    """Those that are small, read many at once and taken from `left`; nothing more where that fails."""
    small = [entry for entry in left.values() if entry.size <= bulk.largest]
    try:
        for entry, data in bulk.read_many(small, workers=workers):
            del left[entry.key]
            if isinstance(data, Exception):
                yield Outcome(entry.key, error=as_rh(data, system.url(entry.key)))
            else:
                digest = digests.of_bytes(data)
                yield Outcome(entry.key, entry, None, digest.text, digest.chunks)
    except RhError as error:
        log.debug("%s: the small files are read one by one: %s", system.url(), error)


def _read_digest(system: System, entry: Entry) -> Digest:
    hasher = digests.Hasher(entry.size)
    with system.read(entry.key, when=Match(entry.etag) if entry.etag is not None else ANY) as body:
        for block in body:
            hasher.update(block)
    return hasher.finish()


def digest_file(system: System, key: str) -> Digest:
    """The digest of one file."""
    for _, digest in digest_entries(system, [system.head(key)]):
        if isinstance(digest, Exception):
            raise digest
        return digest
    raise AssertionError


def finish(upload: Upload, tags: Sequence[str], system: System, key: str, digest: str) -> Entry:
    """Finish an upload of bytes with this digest to a key.

    One that is gone may have been finished by a request whose answer was lost: what is under the key then tells.

    Raises:
        NotFoundError: it is gone, and was not finished.
    """
    try:
        return upload.finish(tags)
    except NotFoundError:
        with suppress(NotFoundError):
            for entry, found in digest_entries(system, [system.head(key)]):
                if isinstance(found, Digest) and found.text == digest:
                    return entry
        raise


def digest_tree(system: System, *, links: Links = "follow", progress: Progress | None = None) -> str:
    """The digest of a tree as it is now. Content whose digest is known is not read again.

    Raises:
        NotFoundError: there is nothing there, or a link leads nowhere. ConflictError: something changed meanwhile.
        InvalidError: there is a link (`"error"`).
    """
    progress = progress or Silent()
    progress.start(f"digest of {system.url()}")
    waiting: deque[Page] = deque()
    unknown: dict[str, tuple[Page, int]] = {}
    hasher = TreeHasher()
    rows: list[Rows] = []
    files = 0

    def go_on() -> None:
        """Hash what is known: now rather than in the end, when helpers have nothing to do any more."""
        while waiting and (not unknown or None not in waiting[0].digests):
            page = waiting.popleft()
            _hash(hasher, page)
            rows.append(_worth_remembering(page))

    def missing() -> Iterator[Entry]:
        """What has to be read, while the listing goes on."""
        nonlocal files
        size = 0
        for page in by_policy(Survey(system, follow=links == "follow").pages(), system, links):
            some = [
                (number, entry)
                for number, (entry, digest) in enumerate(zip(page.entries, page.digests, strict=True))
                if digest is None and entry.kind == "file"
            ]
            unknown.update((entry.key, (page, number)) for number, entry in some)
            waiting.append(page)
            go_on()
            if some:
                files += len(some)
                size += sum(entry.size for _, entry in some)
                progress.total(files, size)
            for _, entry in some:
                yield entry

    try:
        try:
            for number, outcome in enumerate(_digested(system, missing()), 1):
                page, at = unknown.pop(outcome.key)
                entry = page.entries[at]
                if outcome.entry is not entry and (error := _problem(system, entry, outcome)) is not None:
                    raise error
                page.digests[at], page.chunks[at] = outcome.digest, outcome.chunks or b""
                progress.advance(1, entry.size)
                if not number % PAGE:
                    go_on()
        except BaseException:
            known = chain(rows, map(_worth_remembering, waiting))
            DigestCache(system).remember(row for page in known for row in page.each())
            raise
        unknown.clear()
        go_on()
        if files:
            DigestCache(system).replace(rows)
        return hasher.finish()
    finally:
        progress.finish()


def _hash(hasher: TreeHasher, page: Page) -> None:
    if page.only_files:
        hasher.add_files(page.keys, page.sizes, page.digests, page.executables)
        return
    for known in page.each():
        hasher.add(known.row())


def _worth_remembering(page: Page) -> Rows:
    """Rows of the files whose digests will hold as long as their etags do."""
    rows = page.rows()
    if None not in rows.digests and None not in rows.etags:
        latest = max((entry.modified or 0.0 for entry in page.entries), default=0.0)
        if latest <= time.time() and settled(latest):
            return rows
    worth = [
        digest is not None and entry.etag is not None and settled(entry.modified)
        for entry, digest in zip(page.entries, page.digests, strict=True)
    ]
    return page.where(worth).rows()


def _described(system: System) -> tuple[dict[str, Row] | None, str | None]:
    """The rows of the manifest of a tree, or those of a directory above that are about it, and which that is."""
    reader = manifest.read(system)
    if reader is not None:
        return {row.key: row for row in reader.each()}, None
    part = above.part_of(system)
    if part is None:
        return None, None
    return {row.key: row for rows in part.pages for row in rows.each()}, part.tree.url()


def _is_other(system: System, entry: Entry, said: Row) -> bool:
    """Whether an entry is not what its row says, beside its bytes: in kind, as a link, or in its executable bit.

    What the place does not keep is not compared.
    """
    if said.kind not in ("file", "link"):
        return False
    if entry.kind != said.kind:
        return system.keeps_links
    if entry.kind == "link":
        return entry.target != said.target
    bit = entry.executable if system.keeps_executable else None
    return bit is not None and bit != bool(said.executable)


def verify_tree(system: System, *, progress: Progress | None = None) -> Verification:
    """Read every byte of a tree and compare it with its manifest, or with what that of a directory above says of it.

    Raises:
        NotFoundError: there is nothing there. IntegrityError: the manifest itself is damaged.
    """
    progress = progress or Silent()
    progress.start(f"verifying {system.url()}")
    try:
        manifested, of = _described(system)
        described = manifested or {}
        found = {known.entry.key: known for known in Survey(system, must_exist=manifested is None)}
        files = [known.entry for known in found.values() if known.entry.kind == "file"]
        progress.total(len(files), sum(entry.size for entry in files))
        rows: dict[str, Row] = {}
        corrupt: list[str] = []
        modified: list[str] = []
        unreadable: list[tuple[str, str]] = []
        for entry, digest in digest_entries(system, files):
            progress.advance(1, entry.size)
            if isinstance(digest, ConflictError):
                modified.append(entry.key)
                continue
            if isinstance(digest, Exception):
                unreadable.append((entry.key, str(digest)))
                continue
            rows[entry.key] = found[entry.key].row()._replace(digest=digest.text, chunks=digest.chunks)
            said = described.get(entry.key)
            if said is not None and said.digest is not None and said.digest != digest.text:
                (corrupt if said.etag == entry.etag else modified).append(entry.key)
        told = {*corrupt, *modified, *(key for key, _ in unreadable)}
        modified += (
            key
            for key, known in found.items()
            if key in described and key not in told and _is_other(system, known.entry, described[key])
        )
        now = (rows.get(key, known.row()) for key, known in found.items())
        return Verification(
            system.url(),
            "manifest" if manifested is not None else "nothing",
            len(files),
            sum(entry.size for entry in files),
            tuple(sorted(corrupt)),
            tuple(sorted(modified)),
            tuple(sorted(key for key in described if key not in found)),
            tuple(sorted(key for key in found if key not in described)) if manifested is not None else (),
            tuple(sorted(unreadable)),
            tree_digest(without_implied(now)) if len(rows) == len(files) else None,
            of,
        )
    finally:
        progress.finish()
