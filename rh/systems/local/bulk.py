"""Many files at once on a disk: read, write, copy and digest.

Small files go through one thread, since two make each other wait in one interpreter, and through helper processes once
there are some hundred; what is larger than a mebibyte goes to as many threads as there are cores, and what is larger
than 64 MiB is cut into chunks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rh.errors import InvalidError, RhError
from rh.observe import count
from rh.systems.abilities import Item, Watch
from rh.systems.local.batch import Batch
from rh.systems.local.copies import Crew, copy_one, digest_one
from rh.systems.local.disk import Root, split
from rh.systems.local.pages import Copies, Digests
from rh.systems.local.source import SMALL, Source
from rh.types import Entry, Link, Outcome

__all__ = ["copy_many", "digest_many", "read_many", "write_many"]


def read_many(root: Root, system: str, entries: Iterable[Entry]) -> Iterator[tuple[Entry, bytes | Exception]]:
    """`Bulk.read_many`."""
    files = size = 0
    try:
        with Source(root) as source:
            for entry in entries:
                try:
                    data = source.read(entry)[0]
                except RhError as error:
                    yield entry, error
                    continue
                files += 1
                size += len(data)
                yield entry, data
    finally:
        count(system, "read", requests=files, received=size)


def write_many(root: Root, system: str, items: Iterable[Item]) -> Iterator[Outcome]:
    """`Bulk.write_many`."""
    with Batch(root, system) as batch:
        for key, data, executable in items:
            if batch.full or batch.stands_in_the_way(key):
                yield from batch.publish()
            try:
                if key.endswith("/"):
                    if isinstance(data, Link) or len(data):
                        raise InvalidError(
                            "a key that ends with / is a directory and has no bytes", where=root.where(key)
                        )
                    yield Outcome(key, batch.folder(key))
                else:
                    batch.add(key, data, executable=bool(executable), digest=None)
            except RhError as error:
                yield Outcome(key, error=error)
        yield from batch.publish()


def copy_many(
    source_root: Root, root: Root, system: str, pairs: Iterable[tuple[Entry, str]], watch: Watch | None
) -> Iterator[Outcome]:
    """`ServerCopy.copy_many`: digests are of the very bytes that were written."""
    with (
        Source(source_root) as source,
        Batch(root, system) as batch,
        Crew() as crew,
        Copies(source, batch, root) as plain,
    ):
        for entry, key in pairs:
            if batch.stands_in_the_way(key):
                yield from plain.rest()
                yield from batch.publish()
            if plain.take(entry, key):
                if plain.full:
                    yield from plain.go_on()
            elif entry.kind == "file" and entry.size > SMALL:
                try:
                    split(key, root.where)
                except RhError as error:
                    yield Outcome(key, error=error)
                    continue
                yield from crew.give(
                    copy_one, source_root, entry, root, key, system, batch.lost, watch, size=entry.size
                )
            else:
                yield from plain.one(entry, key)
            if batch.full:
                yield from plain.rest()
                yield from batch.publish()
        yield from plain.rest()
        yield from batch.publish()
        yield from crew.rest()


def digest_many(root: Root, system: str, entries: Iterable[Entry]) -> Iterator[Outcome]:
    """`Digesting.digest_many`."""
    files = 0
    with Source(root) as source, Crew() as crew, Digests(source, root) as plain:
        for entry in entries:
            files += 1
            if plain.take(entry, entry.key):
                if plain.full:
                    yield from plain.go_on()
            elif entry.kind == "file" and entry.size > SMALL:
                try:
                    split(entry.key, root.where)
                except RhError as error:
                    yield Outcome(entry.key, error=error)
                    continue
                yield from crew.give(digest_one, root, entry, size=entry.size)
            else:
                yield from plain.one(entry, entry.key)
        yield from plain.rest()
        yield from crew.rest()
    count(system, "digest", requests=files)
