"""Bytes in this process's memory: the contract at its plainest, for tests, scratch and very fast staging.

A location's path is `store/root`: the first component names a store that every handle of this process shares, the
rest is a prefix in it. The name space is flat and exact, as in an object store: `a` and `a/b` stand side by side,
`a//b` is itself. All preconditions are checked under the store's lock. A forked child goes on with its own copy.
"""

from __future__ import annotations

import itertools
import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from rh import digest
from rh.errors import ConflictError, ExistsError, IntegrityError, InvalidError, NameClashError, NotFoundError
from rh.forks import Lock
from rh.observe import count
from rh.systems.abilities import WORKERS, Item, Watch
from rh.systems.base import HIDDEN, Body, Bytes, Settings, System
from rh.types import ABSENT, ANY, Condition, Entry, Kind, Link, Location, Match, Outcome, Span

__all__ = ["MemorySystem", "forget"]

_numbers = itertools.count(1)
_PIECE = 1 << 20


class _Object:
    """What is under one key; never changed once it is stored."""

    __slots__ = ("data", "etag", "executable", "kind", "modified", "target")

    def __init__(self, data: bytes, kind: Kind, *, executable: bool | None, target: str | None) -> None:
        self.data = data
        self.kind: Kind = kind
        self.executable = executable
        self.target = target
        self.etag = f"{next(_numbers):x}"
        self.modified = time.time()

    def entry(self, key: str) -> Entry:
        return Entry(key, len(self.data), self.kind, self.etag, self.modified, None, self.executable, self.target)


class _Store:
    """One flat name space. `keys` is the sorted list of its keys, brought up to date when it is asked for."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.objects: dict[str, _Object] = {}
        self.uploads: dict[str, MemoryUpload] = {}
        self._sorted: list[str] = []
        self._stale = False
        self._plain = True

    def put(self, key: str, thing: _Object, when: Condition, where: str) -> None:
        with self.lock:
            if when is not ANY:
                self._check(self.objects.get(key), when, where)
            if key not in self.objects:
                self._stale = True
                self._plain = self._plain and key.isascii()
            self.objects[key] = thing

    @staticmethod
    def _check(there: _Object | None, when: Condition, where: str) -> None:
        if when is ABSENT and there is not None:
            raise ExistsError("there is something already", where=where)
        if isinstance(when, Match) and (there is None or there.etag != when.etag):
            raise ConflictError("it has changed since" if there else "it is gone", where=where)

    def remove(self, keys: Iterable[str]) -> None:
        with self.lock:
            for key in keys:
                if self.objects.pop(key, None) is not None:
                    self._stale = True

    def keys(self) -> list[str]:
        """Every key in the order of its UTF-8 bytes: a list that is never changed again."""
        with self.lock:
            if self._stale:
                # The old order is a prefix of what is sorted, and sorting what is nearly in order is cheap.
                known = [key for key in self._sorted if key in self.objects]
                fresh = self.objects.keys() - set(known) if len(known) != len(self.objects) else ()
                known.extend(sorted(fresh))
                # Code points and UTF-8 bytes sort alike, except for the surrogates that stand for odd bytes.
                known.sort(key=None if self._plain else os.fsencode)
                self._sorted, self._stale = known, False
            return self._sorted

    def find(self, keys: list[str], key: str, *, beyond: bool = False) -> int:
        """Where `key` is, or would be, in sorted keys; or the place after it."""
        bisect = bisect_right if beyond else bisect_left
        return bisect(keys, key) if self._plain and key.isascii() else bisect(keys, os.fsencode(key), key=os.fsencode)


_stores: dict[str, _Store] = {}
_stores_lock = Lock()


def forget(store: str) -> None:
    """Empty a store of this process and let go of its memory."""
    with _stores_lock:
        _stores.pop(store, None)


class MemoryBody(Body):
    """A view of bytes that are in memory already."""

    def __init__(self, entry: Entry, view: memoryview) -> None:
        self.entry = entry
        self._view = view

    def __iter__(self) -> Iterator[Bytes]:
        for at in range(0, len(self._view), _PIECE):
            yield self._view[at : at + _PIECE]

    def read(self) -> bytes:
        whole = self._view.obj
        return whole if isinstance(whole, bytes) and len(whole) == len(self._view) else bytes(self._view)


class MemorySystem(System):
    """A store of this process, opened at a prefix."""

    kind: ClassVar[str] = "memory"
    takes: ClassVar[frozenset[str] | None] = frozenset()
    keeps_links: ClassVar[bool] = True
    keeps_executable: ClassVar[bool] = True
    keeps_directories: ClassVar[bool] = True

    def __init__(self, location: Location, settings: Settings) -> None:
        self.location = location
        self.settings = settings
        self._name, _, root = location.path.partition("/")
        self._root = root.rstrip("/") + "/" if root.strip("/") else ""

    @classmethod
    def open(cls, location: Location, settings: Settings) -> MemorySystem:
        return cls(location, settings)

    @property
    def store(self) -> _Store:
        store = _stores.get(self._name)
        if store is None:
            with _stores_lock:
                store = _stores.setdefault(self._name, _Store())
        return store

    def full(self, key: str) -> str:
        if not key:
            raise InvalidError("an empty key names nothing", where=self.url())
        if not key.isascii():
            try:
                os.fsencode(key)
            except UnicodeEncodeError as error:
                raise NameClashError(
                    "a key must be text or bytes that os.fsdecode gave", where=self.location.path
                ) from error
        return self._root + key

    def list(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        count(self.location.system, "list")
        store, cut = self.store, len(self._root)
        keys, objects = store.keys(), store.objects
        low = store.find(keys, self._root + prefix)
        if after:
            low = max(low, store.find(keys, self._root + after, beyond=True))
        full_prefix, floor = self._root + prefix, os.fsencode(after)
        hidden = "/" + HIDDEN
        last = ""
        for at in range(low, len(keys)):
            full = keys[at]
            if not full.startswith(full_prefix):
                break
            key = full[cut:]
            if not key or (HIDDEN in key and hidden in "/" + key):
                continue
            if depth is not None:
                steps = key[len(prefix) :].split("/", depth)
                if len(steps) > depth:
                    shown = key[: len(key) - len(steps[-1])]
                    if shown != last and os.fsencode(shown) > floor:
                        yield Entry(shown, 0, "dir")
                    last = shown
                    continue
            thing = objects.get(full)
            if thing is None:
                continue
            if thing.kind == "dir" and at + 1 < len(keys) and keys[at + 1].startswith(full):
                continue
            yield thing.entry(key)

    def head(self, key: str) -> Entry:
        count(self.location.system, "head")
        return self.get(key).entry(key)

    def get(self, key: str, when: Condition = ANY) -> _Object:
        thing = self.store.objects.get(self.full(key))
        if thing is None:
            raise NotFoundError("there is nothing under this key", where=self.url(key))
        if isinstance(when, Match) and thing.etag != when.etag:
            raise ConflictError("it has changed since it was listed", where=self.url(key))
        return thing

    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:
        if span is not None and not 0 <= span[0] <= span[1]:
            raise InvalidError(f"not a byte range: {span}", where=self.url(key))
        thing = self.get(key, when)
        if thing.kind != "file":
            raise InvalidError(f"a {thing.kind} has no bytes to read", where=self.url(key))
        view = memoryview(thing.data)
        if span is not None:
            view = view[span[0] : span[1]]
        count(self.location.system, "read", received=len(view))
        return MemoryBody(thing.entry(key), view)

    def write(
        self,
        key: str,
        data: Bytes | Iterable[Bytes] | Link,
        *,
        size: int | None = None,
        executable: bool | None = None,
        when: Condition = ANY,
    ) -> Entry:
        full = self.full(key)
        kind: Kind = "file"
        target = None
        if isinstance(data, Link):
            kind, target, executable = "link", data.target, None
            whole = os.fsencode(data.target)
        else:
            whole = bytes(data) if isinstance(data, (bytes, bytearray, memoryview)) else b"".join(map(bytes, data))
            if size is not None and len(whole) != size:
                raise IntegrityError(
                    "the stream is not as long as it was said to be",
                    where=self.url(key),
                    expected=f"{size} bytes",
                    got=f"{len(whole)} bytes",
                )
        if key.endswith("/"):
            if whole or target is not None:
                raise InvalidError("a key that ends with / is a directory and has no bytes", where=self.url(key))
            kind, executable = "dir", None
        elif kind == "file":
            executable = bool(executable)
        thing = _Object(whole, kind, executable=executable, target=target)
        self.store.put(full, thing, when, self.url(key))
        count(self.location.system, "write", sent=len(whole))
        return thing.entry(key)

    def delete(self, keys: Sequence[str]) -> None:
        count(self.location.system, "delete")
        self.store.remove([self.full(key) for key in keys])

    def close(self) -> None:
        """Nothing is held."""

    def at(self, path: str) -> MemorySystem:
        path = path.strip("/")
        return MemorySystem(self.location / path, self.settings) if path else self

    # Bulk

    largest: ClassVar[int] = digest.CHUNK

    def read_many(
        self,
        entries: Iterable[Entry],
        *,
        workers: int = WORKERS,  # noqa: ARG002 - there is nothing to wait for
    ) -> Iterator[tuple[Entry, bytes | Exception]]:
        for entry in entries:
            try:
                when = ANY if entry.etag is None else Match(entry.etag)
                yield entry, self.read(entry.key, when=when).read()
            except (NotFoundError, ConflictError, InvalidError) as error:
                yield entry, error

    def write_many(
        self,
        items: Iterable[Item],
        *,
        workers: int = WORKERS,  # noqa: ARG002 - there is nothing to wait for
    ) -> Iterator[Outcome]:
        for item in items:
            try:
                outcome = Outcome(item.key, self.write(item.key, item.data, executable=item.executable))
            except InvalidError as error:
                outcome = Outcome(item.key, error=error)
            yield outcome

    # ServerCopy, Digesting

    def can_copy_from(self, source: System) -> bool:
        return isinstance(source, MemorySystem)

    def copy_many(
        self,
        source: System,
        pairs: Iterable[tuple[Entry, str]],
        *,
        watch: Watch | None = None,  # noqa: ARG002 - nothing takes long
    ) -> Iterator[Outcome]:
        if not isinstance(source, MemorySystem):
            raise InvalidError("memory copies from memory only", where=source.url())
        for entry, key in pairs:
            try:
                thing = source.get(entry.key, ANY if entry.etag is None else Match(entry.etag))
                copy = _Object(thing.data, thing.kind, executable=thing.executable, target=thing.target)
                self.store.put(self.full(key), copy, ANY, self.url(key))
                count(self.location.system, "copy")
                found = digest.of_bytes(copy.data) if copy.kind == "file" else None
                yield Outcome(key, copy.entry(key), None, found and found.text, found and found.chunks)
            except (NotFoundError, ConflictError, InvalidError) as error:
                yield Outcome(key, error=error)

    def digest_many(self, entries: Iterable[Entry]) -> Iterator[Outcome]:
        for entry in entries:
            try:
                thing = self.get(entry.key)
                found = digest.of_bytes(thing.data)
                yield Outcome(entry.key, thing.entry(entry.key), None, found.text, found.chunks)
            except (NotFoundError, InvalidError) as error:
                yield Outcome(entry.key, error=error)

    # Multipart, Sweeping

    def begin(self, key: str, size: int, *, part_size: int, executable: bool | None = None) -> MemoryUpload:
        self.full(key)
        upload = MemoryUpload(self, key, size, part_size, executable=executable)
        self.store.uploads[upload.token] = upload
        count(self.location.system, "begin")
        return upload

    def resume(self, key: str, token: str) -> MemoryUpload:
        upload = self.store.uploads.get(token)
        if upload is None or upload.full != self.full(key):
            raise NotFoundError("there is no such upload", where=self.url(key))
        return upload

    def sweep(self, *, older_than_s: float = 0.0) -> int:
        begun = time.monotonic() - older_than_s
        store = self.store
        old = [
            token
            for token, upload in list(store.uploads.items())
            if upload.begun <= begun and upload.full.startswith(self._root)
        ]
        return sum(store.uploads.pop(token, None) is not None for token in old)


class MemoryUpload:
    """An object arriving in parts."""

    def __init__(self, system: MemorySystem, key: str, size: int, part_size: int, *, executable: bool | None) -> None:
        if part_size <= 0 or size < 0:
            raise InvalidError("an upload needs a size and a positive part size", where=system.url(key))
        self.token = f"upload-{next(_numbers):x}"
        self.part_size = part_size
        self.full = system.full(key)
        self.begun = time.monotonic()
        self._system, self._key, self._size, self._executable = system, key, size, executable
        self._parts: dict[int, tuple[str, bytes]] = {}

    def put(self, number: int, data: Bytes) -> str:
        self._system.resume(self._key, self.token)
        want = min(self.part_size, self._size - number * self.part_size)
        if number < 0 or len(data) != max(want, 0):
            raise InvalidError(f"part {number} has {len(data)} bytes, not {want}", where=self._system.url(self._key))
        tag = f"{next(_numbers):x}"
        self._parts[number] = (tag, bytes(data))
        count(self._system.location.system, "part", sent=len(data))
        return tag

    def parts(self) -> dict[int, str]:
        self._system.resume(self._key, self.token)
        return {number: tag for number, (tag, _) in sorted(self._parts.items())}

    def finish(self, tags: Sequence[str], *, when: Condition = ANY) -> Entry:
        self._system.resume(self._key, self.token)
        have = self.parts()
        if list(tags) != [have.get(number) for number in range(max(1, -(-self._size // self.part_size)))]:
            raise ConflictError("the parts that arrived are not the ones named", where=self._system.url(self._key))
        whole = b"".join(self._parts[number][1] for number in range(len(tags)))
        entry = self._system.write(self._key, whole, size=self._size, executable=self._executable, when=when)
        self.abort()
        return entry

    def abort(self) -> None:
        self._system.store.uploads.pop(self.token, None)
