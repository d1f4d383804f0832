"""From edits of a version to the next one: what is added, removed, moved and copied, and only the nodes on those paths.

An edit is refused as a whole or made as a whole, at the call. Nothing of it is seen before `finish`, and what it does
not touch is neither read nor written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import IO, Any, Self, TypeAlias

from rh.content.tree import key_bytes, key_text
from rh.digest import Digest
from rh.errors import ConflictError, InvalidError, NameClashError, NotFoundError, UnsupportedError
from rh.systems import open_system
from rh.systems.base import Bytes, System
from rh.transfer.options import Options
from rh.transfer.survey import is_data
from rh.types import Entry, Link, Location
from rh.versions.changes import Change
from rh.versions.index import identity
from rh.versions.lease import Lease
from rh.versions.levels import Past, directory, link
from rh.versions.nodes import EMPTY, Child, Node, Where
from rh.versions.overlay import Overlay
from rh.versions.packs import LARGE, Writer
from rh.versions.source import digested, gone, is_path, reference, selected, surveyed
from rh.versions.store import Store, Tree

__all__ = ["Edit"]

Data: TypeAlias = "Bytes | Link | IO[bytes] | tuple[System, Entry]"

_WHOLE = 8 << 20
"""A file object is read into memory up to so many bytes."""
_DEFAULT = Options()


class Edit:
    """Changes on their way to a version. For one thread.

    Args:
        store: where the version is to be.
        base: the digest of the tree that is changed; `None` for one that holds nothing.
        lease: one that the caller holds until the new tree has its reference; by default one of its own, from the first
            content that is stored until the edit is finished or closed.

    Example:
        >>> from rh.systems import open_system
        >>> from rh.types import Location
        >>> from rh.versions.store import Store
        >>> store = Store(open_system(Location("memory", "example/.rh-store")))
        >>> with Edit(store, None) as edit:
        ...     edit.add("a/b.txt", b"one")
        ...     edit.move("a/", "c/")
        ...     edit.finish().files
        1
    """

    def __init__(self, store: Store, base: str | None, *, lease: Lease | None = None) -> None:
        self.store = store
        self.held: Tree | None = None
        """A tree of what `changes` stored, which nobody lists: with a reference to it nothing of that is swept."""
        self._base = None if base is None else store.tree(base)
        past = Past.of(store, self._base)
        self._overlay = Overlay(store, past.child)
        self._lease = lease
        self._stack = ExitStack()
        self._opened: Writer | None = None
        self._sources: list[tuple[System, Entry, Digest | None]] = []
        """Files that are still to be stored: a child at `("?", number)` is one of them."""
        self._stored: dict[int, tuple[str, Where]] = {}
        self._log: list[Change] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the edit up, unless it is finished. Nothing of it is to be seen."""
        self._opened = None
        self._stack.close()

    # What can be done

    def add(self, path: str, data: Data, *, executable: bool = False, update: bool = True) -> None:
        """Put a file, a link, or (with a path that ends in `/`, and no bytes) an empty directory.

        Args:
            path: below the root.
            data: its bytes, a file object that gives them, or a system and an entry of it: that file is read when the
                edit is finished, and must still be what it was.
            executable: whether the file is a program; an entry says so itself.
            update: whether a file of that path may be replaced.

        Raises:
            ExistsError: there is one, and it may not. NameClashError: a file is in the way of a directory or the other
            way round, or no version can hold the path. ConflictError (in `finish`): a file changed meanwhile.
        """
        if path.endswith("/"):
            if not isinstance(data, bytes) or data:
                raise InvalidError("a path that ends with / is a directory and has no bytes", where=self._url(path))
            self._check(path)
            self._put(path[:-1], self._empty())
            return
        self._check(path, update=update)
        self._put(path, self._child(data, executable=executable))

    def add_tree(self, source: System, to: str = "", *, options: Options = _DEFAULT, update: bool = True) -> None:
        """Put all that is below a root into a directory, as it is when the edit is finished; links are kept as links.

        Args:
            source: the root. Its `.rhignore` is obeyed.
            to: the directory; the root of the version by default.
            options: `include`, `exclude` and `ignore_file` are obeyed.
            update: whether files may be replaced.

        Raises:
            As `add` does.
        """
        prefix = _prefix(to)
        found: list[tuple[str, Entry, Digest | None, bool]] = []
        for page in surveyed(source, selected(source, options)):
            for entry, digest, chunks, executable in page.each():
                path = prefix + entry.key
                self._check_entry(path, entry, update=update)
                found.append((path, entry, Digest(digest, chunks) if digest else None, bool(executable)))
        for path, entry, known, executable in found:
            if entry.kind == "file":
                self._put(path, self._later(source, entry, known, executable=executable))
            else:
                self._put_other(path, entry)

    def _put_other(self, path: str, entry: Entry) -> None:
        """Put a link, or an empty directory if there is none."""
        if entry.kind == "dir" and self._overlay.has_directory(_parts(path)):
            return
        self._put(path.removesuffix("/"), link(b"", entry.target or "") if entry.kind == "link" else self._empty())

    def add_reference(self, location: Location, path: str) -> None:
        """Put a file that stays where it is, or all that is in a directory. It is read once, for its digest.

        Raises:
            NotFoundError: there is nothing at the location. Else as `add` does.
        """
        source, entries = _found(location, path)
        for to, entry in entries.items():
            self._check_entry(to, entry, update=True)
        wanted = {entry.key: to for to, entry in entries.items() if entry.kind == "file"}
        found: dict[str, Child] = {}
        for entry, digest in digested(source, self.store, [entries[to] for to in wanted.values()]):
            where = reference(source, entry) if entry.size else ("e",)
            found[wanted[entry.key]] = Child("file", b"", entry.size, digest.text, bool(entry.executable), where)
        for to, entry in entries.items():
            if entry.kind == "file":
                self._put(to, found[to])
            else:
                self._put_other(to, entry)

    def remove(self, path: str) -> None:
        """Take away a file or link, or (with a `/` at the end) a directory with all in it.

        A directory that holds nothing any more goes as well.

        Raises:
            NotFoundError: there is none.
        """
        self._require(path)
        self._log.append(Change("remove", path))
        self._overlay.remove(_parts(path), as_directory=path.endswith("/"))

    def move(self, old: str, new: str) -> None:
        """Give a file, or a directory (both end with `/`), another path.

        Raises:
            NotFoundError: there is none. ExistsError, NameClashError: something is where it is to be.
            InvalidError: a directory into itself.
        """
        self._require(old)
        if old.endswith("/") is not new.endswith("/"):
            raise InvalidError(
                "the paths of two files, or of two directories that end with /", where=self._url(f"{old} → {new}")
            )
        if old.endswith("/") and new.startswith(old) and new != old:
            raise InvalidError("a directory cannot be moved into itself", where=self._url(f"{old} → {new}"))
        self._check(new, update=False)
        self._log.append(Change("move", old, new))
        self._overlay.move(_parts(old), _parts(new), as_directory=old.endswith("/"))

    def copy_from(self, store: Store, tree: str, sub: str = "", to: str | None = None) -> None:
        """Take over a file or a directory of another version; no bytes are read or written where that is in this store.

        Args:
            store: of the other version.
            tree: its digest.
            sub: the path of a file, or of a directory with a `/` at the end; `""` is all of it.
            to: where it is to be, by default the same path. What is in a directory comes to what is there already.

        Raises:
            NotFoundError: the version has no such thing. ExistsError: another file is there already.
            NameClashError: a file is in the way of a directory or the other way round.
        """
        to = sub if to is None else to
        if sub and to and sub.endswith("/") is not to.endswith("/"):
            raise InvalidError("the paths of two files, or of two directories that end with /", where=self._url(to))
        found: Child | None = Past.of(store, store.tree(tree)).child
        for number, part in enumerate(_parts(sub) if sub else ()):
            last = number == sub.rstrip("/").count("/")
            found = Past(store, found).find(part, directory=not last or sub.endswith("/"))
            if found is None:
                raise NotFoundError(f"the version {tree[:19]}… has no {sub!r}", where=store.url)
        assert found is not None
        puts = self._to_copy(store, found, to.rstrip("/"))
        if identity(store.system) != identity(self.store.system):
            puts = self._from_afar(store, tree, puts, _prefix(sub), _prefix(to))
        for path, child in puts:
            self._put(path, child)

    def _to_copy(self, store: Store, child: Child, to: str) -> list[tuple[str, Child]]:
        """What is to be put where, so that this is there besides what is there already."""
        puts: list[tuple[str, Child]] = []
        waiting = [(to, child)]
        while waiting:
            path, child = waiting.pop()
            is_directory = child.kind == "dir"
            if is_directory and (not path or self._overlay.has_directory(_parts(path))):
                waiting += [(_join(path, one.name), one) for one in store.below(child).children]
                continue
            there = None if is_directory else self._overlay.find(_parts(path))
            if there is not None and (there.kind, there.digest) == (child.kind, child.digest):
                continue
            self._check(path + "/" if is_directory else path, update=False)
            puts.append((path, child))
        return puts

    def _from_afar(
        self, store: Store, tree: str, puts: list[tuple[str, Child]], sub: str, to: str
    ) -> list[tuple[str, Child]]:
        """The same of another store: file by file, to be stored here."""
        from rh.versions.system import TreeSystem, location_of

        source = TreeSystem(location_of(store.system.location, tree), {}, store)
        waiting, found = list(puts), []
        while waiting:
            path, child = waiting.pop()
            if child.kind == "dir":
                below = store.below(child).children
                waiting += [(_join(path, one.name), one) for one in below]
                if not below:
                    found.append((path, self._empty()))
            elif child.kind == "file" and child.size:
                entry = Entry(
                    sub.rstrip("/") if path == to.rstrip("/") else sub + path[len(to) :],
                    child.size,
                    "file",
                    child.digest,
                )
                plain = Digest(child.digest) if child.digest.startswith("sha256:") else None
                later = self._later(source, entry, plain, executable=child.executable)
                found.append((path, later._replace(digest=child.digest)))
            else:
                found.append((path, child))
        return found

    # What becomes of it

    def changes(self) -> list[dict[str, Any]]:
        """All changes as plain JSON values, for `replay`. What they put is in the store afterwards, held by `held`."""
        writer = self._writer()
        self._flush()
        changes = [one if one.child is None else one._replace(child=self._settled(one.child)) for one in self._log]
        put = {one.child.digest: one.child for one in changes if one.child is not None and one.child.kind != "link"}
        self.held = writer.finish(Node.of(child._replace(name=key_bytes(digest)) for digest, child in put.items()))
        return [change.as_dict() for change in changes]

    @classmethod
    def replay(
        cls, store: Store, base: str | None, changes: Iterable[Mapping[str, Any]], *, lease: Lease | None = None
    ) -> Edit:
        """An edit with these changes made.

        Raises:
            InvalidError: one is no change. Else as `add`, `remove` and `move` do.
        """
        edit = cls(store, base, lease=lease)
        for told in changes:
            change = Change.of(told)
            if change.child is not None:
                as_directory = change.child.kind == "dir"
                edit._check(change.path + "/" if as_directory else change.path)
                edit._put(change.path, change.child)
            elif change.do == "move":
                edit.move(change.path, change.to)
            else:
                edit.remove(change.path)
        return edit

    def finish(self) -> Tree:
        """Store what is left to be stored, and then the tree.

        Raises:
            ConflictError: a file changed since it was added. Whatever it raises, nothing is to be seen.
        """
        try:
            if not self._log and self._base is not None:
                return self._base
            writer = self._writer()
            self._flush()
            root = self._overlay.root(self._settled, writer.node)
            if self._base is not None and root.digest == self._base.digest:
                return self._base
            return writer.finish(root)
        finally:
            self.close()

    # Contents

    def _writer(self) -> Writer:
        if self._opened is None:
            lease = self._lease or self._stack.enter_context(self.store.lease())
            self._opened = self._stack.enter_context(Writer(self.store, lease))
        return self._opened

    def _empty(self) -> Child:
        """A directory that holds nothing."""
        node = Node([])
        return directory(b"", 0, node.digest, self._writer().node(node))

    def _child(self, data: Data, *, executable: bool) -> Child:
        """What is to be put, from what was given."""
        if isinstance(data, Link):
            return link(b"", data.target)
        if isinstance(data, tuple):
            source, entry = data
            if entry.kind == "link":
                return link(b"", entry.target or "")
            if entry.kind != "file" or not is_data(source, entry):
                raise UnsupportedError("this is no file with bytes in it", where=source.url(entry.key))
            return self._later(source, entry, None, executable=bool(entry.executable) or executable)
        if not isinstance(data, bytes | bytearray | memoryview):
            whole = _bytes(data, _WHOLE + 1)
            if len(whole) > _WHOLE:
                return self._spooled(whole, data, executable=executable)
            data = whole
        _, digest, where = self._writer().put(data)
        return Child("file", b"", len(data), digest, executable, where)

    def _spooled(self, head: bytes, rest: IO[bytes], *, executable: bool) -> Child:
        """A large file from a file object, by way of a file here."""
        with tempfile.TemporaryDirectory(prefix="rh-edit-") as folder:
            with open(os.path.join(folder, "data"), "xb") as file:
                file.write(head)
                while piece := _bytes(rest, _WHOLE):
                    file.write(piece)
            source = open_system(Location("file", folder))
            entry, digest, where = next(iter(self._writer().add(source, [(source.head("data"), None)])))
        return Child("file", b"", entry.size, digest, executable, where)

    def _later(self, source: System, entry: Entry, digest: Digest | None, *, executable: bool) -> Child:
        """A file that is stored when all are known."""
        if not entry.size:
            return Child("file", b"", 0, EMPTY, executable, ("e",))
        self._sources.append((source, entry, digest))
        text = digest.text if digest is not None else ""
        return Child("file", b"", entry.size, text, executable, ("?", len(self._sources) - 1))

    def _flush(self) -> None:
        """Store the files that were left for later."""
        waiting: dict[int, tuple[System, dict[str, list[int]]]] = {}
        for number, (source, entry, _) in enumerate(self._sources):
            if number not in self._stored:
                numbers = waiting.setdefault(id(source), (source, {}))[1].setdefault(entry.key, [])
                numbers.append(number)
                if self._sources[numbers[0]][1].etag != entry.etag:
                    raise ConflictError("the file changed after it was added", where=source.url(entry.key))
        for source, keys in waiting.values():
            files = {key: self._sources[numbers[0]][1:] for key, numbers in keys.items()}
            unknown = [entry for entry, digest in files.values() if digest is None and not self._is_read(entry)]
            for entry, found in digested(source, self.store, unknown):
                files[entry.key] = entry, found
            try:
                for entry, digest, where in self._writer().add(source, files.values()):
                    self._stored.update(dict.fromkeys(keys[entry.key], (digest, where)))
            except NotFoundError as error:
                raise gone(error, source, self.store) from error

    def _is_read(self, entry: Entry) -> bool:
        """Whether a file is read here in any case, so that nobody need compute its digest before."""
        return self.store.packs_files and entry.size < LARGE

    def _settled(self, child: Child) -> Child:
        """A child with its digest and its place."""
        if child.where[0] != "?":
            return child
        digest, where = self._stored[child.where[1]]
        return child._replace(digest=digest, where=where)

    # Paths

    def _check(self, path: str, *, update: bool = True) -> None:
        """Refuse a path that nothing can be put at; that of a directory ends with `/`."""
        if not is_path(path.removesuffix("/")):
            raise NameClashError(f"a version cannot hold the path {path!r}", where=self.store.url)
        self._overlay.check(_parts(path), self._url(path), update=update, as_directory=path.endswith("/"))

    def _check_entry(self, path: str, entry: Entry, *, update: bool) -> None:
        """The same for what was found at a place: an empty directory may be there already."""
        if entry.kind != "dir" or not self._overlay.has_directory(_parts(path)):
            self._check(path, update=update)

    def _require(self, path: str) -> None:
        """Raise NotFoundError if there is nothing at a path."""
        parts = _parts(path)
        there = self._overlay.has_directory(parts) if path.endswith("/") else self._overlay.find(parts)
        if not there:
            hint = None if path.endswith("/") or not self._overlay.has_directory(parts) else f"the directory is {path}/"
            raise NotFoundError("the version has no such path", where=self._url(path), hint=hint)

    def _put(self, path: str, child: Child) -> None:
        """Put something where it may be."""
        self._log.append(Change("put", path, child=child))
        self._overlay.put(_parts(path), child)

    def _url(self, path: str) -> str:
        return (
            f"{path!r} in {'a new version' if self._base is None else self._base.digest[:19] + '…'}, {self.store.url}"
        )


def _parts(path: str) -> list[bytes]:
    return key_bytes(path.removesuffix("/")).split(b"/")


def _prefix(path: str) -> str:
    """A directory's path as what the paths in it begin with."""
    return path.rstrip("/") + "/" if path else ""


def _join(path: str, name: bytes) -> str:
    return f"{path}/{key_text(name)}" if path else key_text(name)


def _found(location: Location, path: str) -> tuple[System, dict[str, Entry]]:
    """What lies at a place, a file or all in a directory, and the paths that it is to have."""
    if not location.path.endswith("/"):
        above = open_system(location.parent)
        try:
            return above, {path: above.head(location.name)}
        except NotFoundError:
            pass
    source, prefix = open_system(location), _prefix(path)
    return source, {prefix + entry.key: entry for page in surveyed(source, None) for entry in page.entries}


def _bytes(file: IO[bytes], size: int) -> bytes:
    """The next bytes of a file object, as many unless it ends."""
    if not hasattr(file, "read"):
        raise InvalidError(f"bytes, a file object, or a system and an entry are wanted, not {type(file).__name__}")
    found = b""
    while len(found) < size and (piece := file.read(size - len(found))):
        if not isinstance(piece, bytes | bytearray):
            raise InvalidError("the file object gives text", hint='open the file in binary mode: "rb"')
        found += piece
    return found
