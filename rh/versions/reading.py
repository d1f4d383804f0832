"""The bytes of a file of a version: from the cache or from where it is, compared with its digest.

A file of up to 16 MiB is compared as a whole; of a larger one, a range is compared chunk by chunk, where its chunk
digests are known. Whole files that pass through are compared on their way, and the last bytes are held back until it is
known that they are right: who got all bytes got the right ones.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rh import digest as digests
from rh.digest import CHUNK, Digest, Hasher, parse
from rh.errors import AccessError, ConflictError, IntegrityError, InvalidError, NotFoundError, UnsupportedError
from rh.observe import log
from rh.systems import open_system, settings_of
from rh.systems.abilities import Piece, Versioned
from rh.systems.base import Body, Bytes, System
from rh.systems.memory import MemoryBody
from rh.types import ANY, Entry, Location, Match, Span
from rh.versions import cache
from rh.versions.joining import joined
from rh.versions.layout import REPAIR, chunks_key, object_key, pack_key
from rh.versions.lost import LostError
from rh.versions.moved import read_member
from rh.versions.moving import twice
from rh.versions.nodes import Child, Where, link_target, pieces_of

if TYPE_CHECKING:
    from rh.versions.store import Store

__all__ = [
    "chunks_of",
    "entry_of",
    "file_of",
    "is_replaced",
    "keep_chunks",
    "kept_whole",
    "opened",
    "place_of_file",
    "places_of",
    "raw",
    "referenced",
    "whole",
]

_PIECE = 1 << 20
_IN_MEMORY = 1 << 20
_GROUP = 8 << 20
_REFERENCE = f"{REPAIR}; or put back what was there"


def entry_of(child: Child, key: str) -> Entry:
    """What a listing tells of a child that is a file or a link."""
    if child.kind == "link":
        return Entry(key, child.size, "link", child.digest, target=os.fsdecode(link_target(child)))
    check = child.digest if child.digest.startswith("sha256:") else None
    return Entry(key, child.size, "file", child.digest, None, check, child.executable)


def opened(store: Store, child: Child, span: Span | None, key: str | None) -> Body:
    """The bytes of a file, or a range of them."""
    key = os.fsdecode(child.name) if key is None else key
    entry = entry_of(child, key)
    where = place_of_file(store, child)
    if child.kind != "file":
        raise InvalidError(f"a {child.kind} has no bytes to read", where=where)
    if span is not None and not 0 <= span[0] <= span[1]:
        raise InvalidError(f"not a byte range: {span}", where=where)
    start, stop = (0, child.size) if span is None else (min(span[0], child.size), min(span[1], child.size))
    if start == stop:
        return MemoryBody(entry, memoryview(b""))
    if child.size <= _IN_MEMORY:
        return MemoryBody(entry, memoryview(whole(store, child))[start:stop])
    path = store.contents.sound(child.digest, child.size)
    if path is not None:
        return _Pieces(entry, _from_file(path, start, stop))
    if (start, stop) == (0, child.size):
        return _Pieces(entry, _streamed(store, child))
    if child.size <= CHUNK and _here(store, child) is None:
        return MemoryBody(entry, memoryview(whole(store, child))[start:stop])
    return _Pieces(entry, _range(store, child, start, stop))


def whole(store: Store, child: Child) -> bytes:
    """All bytes of a file of up to 16 MiB."""
    data = kept_whole(store, child, cache.Stretches())
    if data is not None:
        return data
    data = twice(lambda: _fetched(store, child))
    store.contents.put(child.digest, data)
    return data


def kept_whole(store: Store, child: Child, stretches: cache.Stretches) -> bytes | None:
    """All bytes of a file, if they are here: by themselves, or in what is kept of their pack."""
    if not child.size:
        return b""
    data = store.contents.get(child.digest)
    if data is None and child.where[0] == "p":
        return stretches.get(child.where[1], child.where[2], child.size, child.digest)
    return data


def _fetched(store: Store, child: Child) -> bytes:
    with raw(store, child, 0, child.size) as body:
        data = body.read()
    check(data, child, store)
    return data


def check(data: Bytes, child: Child, store: Store) -> None:
    """Raise `IntegrityError` unless these are the bytes of a file."""
    got = digests.of_bytes(data).text
    if got != child.digest or len(data) != child.size:
        raise IntegrityError(
            "the store does not have the bytes of the version",
            where=place_of_file(store, child),
            expected=child.digest,
            got=got,
            hint=REPAIR,
        )


def place_of_file(store: Store, child: Child) -> str:
    """Where the bytes of a file are, for people."""
    where = child.where
    if where[0] == "p":
        pack, offset = store.redirects.place(where[1], where[2])
        return f"{store.system.url(pack_key(pack))} at {offset}"
    if where[0] == "r":
        system, key = referenced(where)
        return system.url(key)
    return store.system.url(object_key(child.digest))


class _Pieces(Body):
    """Bytes that come one piece after the other."""

    def __init__(self, entry: Entry, pieces: Iterator[Bytes]) -> None:
        self.entry = entry
        self._pieces = pieces

    def __iter__(self) -> Iterator[Bytes]:
        return self._pieces

    def close(self) -> None:
        closing = getattr(self._pieces, "close", None)
        if closing is not None:
            closing()


def raw(store: Store, child: Child, start: int, stop: int) -> Body:
    """The bytes from where they are, not compared with anything."""
    where: Where = child.where
    if where[0] == "c":
        return _Pieces(entry_of(child, ""), _chunked(store, child, start, stop))
    try:
        if where[0] == "p":
            return read_member(store, child, start, stop)
        if where[0] != "r":
            return store.system.read(object_key(child.digest), None if stop - start == child.size else (start, stop))
        return _by_reference(where, None if stop - start == child.size else (start, stop))
    except NotFoundError as error:
        place = place_of_file(store, child)
        if where[0] == "r":
            raise LostError("a file that a version refers to is gone", where=place, hint=_REFERENCE) from error
        raise LostError(where=place) from error
    except ConflictError as error:
        raise ConflictError(
            "a file that a version refers to has changed since", where=place_of_file(store, child), hint=_REFERENCE
        ) from error


def referenced(where: Where) -> tuple[System, str]:
    """The system of a file that is there by reference, and its key in that."""
    place = Location(where[1], where[2])
    kind = settings_of(place.system)["kind"]
    if kind in ("s3", "azure"):  # one root for a whole bucket, so that what is in it is copied by one stream
        bucket, _, key = place.path.partition("/")
        return open_system(Location(place.system, bucket)), key
    if kind == "ssh":
        top, _, key = place.path.partition("/")
        return open_system(Location(place.system, top or "/")), key
    return open_system(place.parent), place.name


def _by_reference(where: Where, span: Span | None) -> Body:
    """The bytes of a file that is elsewhere: of the version that is meant, or of what is there if that is still it."""
    system, key = referenced(where)
    versioned = system.ask(Versioned) if where[4:] else None
    if versioned is not None:
        try:
            return versioned.pinned({key: where[4]}).read(key, span)
        except (NotFoundError, AccessError, InvalidError, UnsupportedError) as error:
            log.debug("%s: not as version %s: %s", system.url(key), where[4], error)
    return system.read(key, span, when=ANY if where[3] is None else Match(where[3]))


def is_replaced(child: Child) -> bool:
    """Whether a file is one version of an object, and something else is there by now, or nothing."""
    where = child.where
    if where[0] != "r" or not where[4:]:
        return False
    system, key = referenced(where)
    try:
        return bool(system.head(key).etag != where[3])
    except NotFoundError:
        return True


def places_of(store: Store, child: Child) -> list[Piece]:
    """The objects, or ranges of some, that the bytes of a file are. Neighbours in a pack are one range."""
    found: list[Piece] = []
    for piece in pieces_of(child):
        where, size = piece.where, piece.size
        if where[0] == "r":
            found.append(Piece(*referenced(where), size, None, *where[3:]))
        elif where[0] == "o":
            found.append(Piece(store.system, object_key(piece.digest), size))
        elif where[0] == "p":
            pack, start = store.redirects.found(where[1], where[2])
            key = pack_key(pack)
            last = found[-1] if found else None
            if last is not None and last.start is not None and (last.key, last.start + last.size) == (key, start):
                found[-1] = last._replace(size=last.size + size)
            else:
                found.append(Piece(store.system, key, size, start))
    return found


# Large files


def _range(store: Store, child: Child, start: int, stop: int) -> Iterator[Bytes]:
    """A range of a file of several chunks: each is compared with its digest, and kept for who reads on."""
    size = parse(child.digest)[1] or child.size
    chunks = chunks_of(store, child) if size < child.size else bytes.fromhex(parse(child.digest)[2])
    if chunks is None:
        # Nothing proves a part of it: all of it is fetched once, and read from what is kept of it from then on.
        at = 0
        for piece in _streamed(store, child):
            low, high = max(start - at, 0), min(stop - at, len(piece))
            if low < high:
                yield memoryview(piece)[low:high]
            at += len(piece)
        return
    here = _here(store, child)
    for number in range(start // size, -(-stop // size)):
        begin, end = number * size, min((number + 1) * size, child.size)
        low, high = max(start - begin, 0), min(stop, end) - begin
        name = f"sha256:{chunks[32 * number : 32 * number + 32].hex()}"
        path = store.contents.sound(name, end - begin) if here is None else None
        if path is not None:
            yield from _from_file(path, low, high)
            continue
        if here is not None and cache.sound_part(here, name, begin, end):
            yield from _from_file(here, begin + low, begin + high)
            continue
        data = twice(partial(_chunk, store, child, name, (begin, end)))
        store.contents.put(name, data)
        yield memoryview(data)[low:high]


def file_of(store: Store, child: Child) -> Path | None:
    """The file on a disk of this machine that has the bytes of a file, compared with its digest."""
    path = store.contents.sound(child.digest, child.size)
    if path is None and store.system.kind != "file" and (chunks := _kept_chunks(child)) is not None:
        # A large file is read, and kept, chunk by chunk.
        if joined(store.contents, child.digest, child.size, chunks) is not None:
            path = store.contents.sound(child.digest, child.size)
    elif path is None:
        path = _here(store, child)
        if path is not None and not cache.sound_file(path, child.digest, child.size):
            return None
    return path


def _here(store: Store, child: Child) -> Path | None:
    """The file that an object is, where the store is on a disk of this machine."""
    if store.system.kind != "file" or child.where[0] != "o":
        return None
    path = Path(store.system.location.path, object_key(child.digest))
    return path if path.is_file() else None


def _chunk(store: Store, child: Child, digest: str, span: Span) -> bytes:
    with raw(store, child, *span) as body:
        data = body.read()
    got = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if got != digest:
        raise IntegrityError(
            f"the store does not have the bytes {span[0]} to {span[1]} of a file of the version",
            where=place_of_file(store, child),
            expected=digest,
            got=got,
            hint=REPAIR,
        )
    return data


def chunks_of(store: Store, child: Child) -> bytes | None:
    """The chunk digests of a file of many chunks, where they are known. They hash to its digest, which proves them."""
    _, chunk, value = parse(child.digest)
    if not chunk or child.where[0] not in ("o", "c"):
        return None
    data = _kept_chunks(child)
    if data is not None:
        return data
    data = _read_chunks(store, chunks_key(child.digest))
    if data is None or hashlib.sha256(data).hexdigest() != value:
        return None
    keep_chunks(Digest(child.digest, data))
    return data


def _kept_chunks(child: Child) -> bytes | None:
    """The chunk digests of a file of many chunks, where they are kept here."""
    _, chunk, value = parse(child.digest)
    data = cache.kept("nodes", f"{value}.chunks") if chunk else None
    return data if data is not None and hashlib.sha256(data).hexdigest() == value else None


def keep_chunks(digest: Digest) -> None:
    """Keep the chunk digests of a file here."""
    if digest.chunks:
        cache.keep("nodes", f"{parse(digest.text)[2]}.chunks", digest.chunks)


def _read_chunks(store: Store, key: str) -> bytes | None:
    try:
        with store.system.read(key) as body:
            return body.read()
    except NotFoundError:
        return None


def _streamed(store: Store, child: Child) -> Iterator[Bytes]:
    """A whole file as it comes, kept on the way. The last piece is given when the digest is known to be right."""
    hasher = Hasher(child.size)
    sink = store.contents.sink(child.size)
    held = b""
    try:
        with raw(store, child, 0, child.size) as body:
            for piece in body:
                if held:
                    yield held
                hasher.update(piece)
                if sink is not None:
                    sink.write(piece)
                held = bytes(piece)  # a body may use its buffer again
        found = hasher.finish()
        if found.text != child.digest:
            raise IntegrityError(
                "the store does not have the bytes of the version",
                where=place_of_file(store, child),
                expected=child.digest,
                got=found.text,
                hint=REPAIR,
            )
        keep_chunks(found)
        if sink is not None:
            sink.finish(child.digest)
    finally:
        if sink is not None:
            sink.abandon()
    if held:
        yield held


def _from_file(path: Path, start: int, stop: int) -> Iterator[Bytes]:
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while start < stop:
            piece = file.read(min(_PIECE, stop - start))
            if not piece:
                raise IntegrityError("a file of the cache is cut", where=str(path))
            start += len(piece)
            yield piece


def _chunked(store: Store, child: Child, start: int, stop: int) -> Iterator[Bytes]:
    """A file that is stored in pieces; neighbours in a pack are read together."""
    from rh.versions.bulk import read_children

    at, group, size = 0, list[tuple[Entry, Child]](), 0
    wanted: list[tuple[int, Child]] = []
    for piece in pieces_of(child):
        if at < stop and at + piece.size > start:
            wanted.append((at, piece))
        at += piece.size
    for number, (at, piece) in enumerate(wanted, 1):
        group.append((Entry(str(at), piece.size), piece))
        size += piece.size
        if size < _GROUP and number < len(wanted):
            continue
        found = {entry.key: data for entry, data in read_children(store, group)}
        for entry, one in group:
            data, begin = found[entry.key], int(entry.key)
            if isinstance(data, Exception):
                raise data
            yield memoryview(data)[max(start - begin, 0) : min(stop - begin, one.size)]
        group, size = [], 0
