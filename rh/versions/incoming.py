"""The contents of an edit on their way into a store: at once, or when all are known."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import chain
from typing import IO, TypeAlias

from rh.digest import Digest
from rh.errors import ConflictError, InvalidError, NotFoundError, UnsupportedError
from rh.systems.base import Bytes, System
from rh.transfer.survey import is_data
from rh.types import Entry, Link
from rh.versions.lease import Lease
from rh.versions.levels import directory, link
from rh.versions.nodes import EMPTY, Child, Node, Where
from rh.versions.packs import LARGE, Writer
from rh.versions.source import digested, gone
from rh.versions.spooled import Spooled
from rh.versions.store import Store

__all__ = ["Data", "Incoming"]

Data: TypeAlias = Bytes | Link | IO[bytes] | tuple[System, Entry]
"""What may be put: bytes, a link, an open file, or an entry of a system."""

_WHOLE = 8 << 20
"""A file object is read into memory up to so many bytes."""


class Incoming:
    """Files on their way into a store. One that is stored later is a child at `("?", number)` until `settled`.

    Args:
        store: where to.
        lease: one that the caller holds; by default one of its own, from the first content to `close`.
    """

    def __init__(self, store: Store, lease: Lease | None) -> None:
        self._store = store
        self._lease = lease
        self._stack = ExitStack()
        self._writer: Writer | None = None
        self._sources: list[tuple[System, Entry, Digest | None]] = []
        self._stored: dict[int, tuple[str, Where]] = {}
        self._were: dict[int, Child] = {}
        """What large files that are cut were before."""

    @property
    def writer(self) -> Writer:
        """What writes to the store."""
        if self._writer is None:
            lease = self._lease or self._stack.enter_context(self._store.lease())
            self._writer = self._stack.enter_context(Writer(self._store, lease))
        return self._writer

    def close(self) -> None:
        """Write no more, and end a lease of its own."""
        self._writer = None
        self._stack.close()

    def empty(self) -> Child:
        """A directory that holds nothing."""
        node = Node([])
        return directory(b"", 0, node.digest, self.writer.node(node))

    def child(self, data: Data, *, executable: bool, was: Child | None = None) -> Child:
        """What is to be put, from what was given, in place of what was there."""
        if isinstance(data, Link):
            return link(b"", data.target)
        if isinstance(data, tuple):
            source, entry = data
            if entry.kind == "link":
                return link(b"", entry.target or "")
            if entry.kind != "file" or not is_data(source, entry):
                raise UnsupportedError("this is no file with bytes in it", where=source.url(entry.key))
            return self.later(source, entry, None, executable=bool(entry.executable) or executable, was=was)
        if not isinstance(data, bytes | bytearray | memoryview):
            whole = _bytes(data, _WHOLE + 1)
            if len(whole) > _WHOLE:
                return self._spooled(whole, data, executable=executable)
            data = whole
        entry, digest, where = self.writer.put(data)
        return Child("file", b"", entry.size, digest, executable, where)

    def _spooled(self, head: bytes, rest: IO[bytes], *, executable: bool) -> Child:
        """A large file from a file object, by way of a file here."""
        with Spooled(chain([head], iter(lambda: _bytes(rest, _WHOLE), b""))) as source:
            entry, digest, where = next(iter(self.writer.add(source, [(source.entry, None)])))
        return Child("file", b"", entry.size, digest, executable, where)

    def later(
        self, source: System, entry: Entry, digest: Digest | None, *, executable: bool, was: Child | None = None
    ) -> Child:
        """A file that is stored when all are known, in place of what was there."""
        if not entry.size:
            return Child("file", b"", 0, EMPTY, executable, ("e",))
        self._sources.append((source, entry, digest))
        if was is not None and was.where[0] == "c":
            self._were[len(self._sources) - 1] = was
        text = digest.text if digest is not None else ""
        return Child("file", b"", entry.size, text, executable, ("?", len(self._sources) - 1))

    def store(self, children: Iterable[Child]) -> None:
        """Store those of these that were left for later.

        Raises:
            ConflictError: one is not what it was when it was put.
        """
        waiting: dict[int, tuple[System, dict[str, list[int]]]] = {}
        for child in children:
            number = child.where[1] if child.where[0] == "?" else None
            if number is None or number in self._stored:
                continue
            source, entry, _ = self._sources[number]
            numbers = waiting.setdefault(id(source), (source, {}))[1].setdefault(entry.key, [])
            numbers.append(number)
            if self._sources[numbers[0]][1].etag != entry.etag:
                raise ConflictError("the file changed after it was added", where=source.url(entry.key))
        for source, keys in waiting.values():
            files = {key: self._sources[numbers[0]][1:] for key, numbers in keys.items()}
            unknown = [entry for entry, digest in files.values() if digest is None and not self._is_read(entry)]
            for entry, found in digested(source, self._store, unknown):
                files[entry.key] = entry, found
            past = {key: self._were[number] for key, (*_, number) in keys.items() if number in self._were}
            try:
                for entry, text, where in self.writer.add(source, files.values(), past):
                    self._stored.update(dict.fromkeys(keys[entry.key], (text, where)))
            except NotFoundError as error:
                raise gone(error, source, self._store) from error

    def _is_read(self, entry: Entry) -> bool:
        """Whether a file is read here in any case, so that nobody need compute its digest before."""
        return self._store.packs_files and entry.size < LARGE

    def settled(self, child: Child) -> Child:
        """A child with its digest and its place, once it is stored."""
        if child.where[0] != "?":
            return child
        digest, where = self._stored[child.where[1]]
        return child._replace(digest=digest, where=where)


def _bytes(file: IO[bytes], size: int) -> bytes:
    """The next bytes of a file object, as many unless it ends."""
    if not hasattr(file, "read"):
        raise InvalidError(f"bytes, a file object, or a system and an entry are wanted, not {type(file).__name__}")
    found = bytearray()
    while len(found) < size and (piece := file.read(size - len(found))):
        if not isinstance(piece, bytes | bytearray):
            raise InvalidError("the file object gives text", hint='open the file in binary mode: "rb"')
        found += piece
    return bytes(found)
