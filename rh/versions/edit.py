"""From edits of a version to the next one: what is added, removed, moved and copied, and only the nodes on those paths.

An edit is refused as a whole or made as a whole, at the call. Nothing of it is seen before `finish`, and what it does
not touch is neither read nor written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Self

from rh.config import did_you_mean
from rh.content.tree import key_bytes, key_text
from rh.digest import Digest
from rh.errors import ConflictError, IntegrityError, InvalidError, NameClashError, NotFoundError
from rh.systems import open_system
from rh.systems.base import HIDDEN, System, check_not_ours
from rh.transfer.options import Options
from rh.transfer.survey import selected
from rh.types import Entry, Location
from rh.versions.changes import Change
from rh.versions.incoming import Data, Incoming
from rh.versions.index import identity
from rh.versions.layout import tree_key
from rh.versions.lease import Lease
from rh.versions.levels import Past, link
from rh.versions.nodes import Child, Node
from rh.versions.overlay import Overlay
from rh.versions.source import digested, is_path, references, surveyed
from rh.versions.store import Store, Tree

__all__ = ["Edit", "kept"]

_DEFAULT = Options()
_CHANGES = b"changes.json"
_OURS = key_bytes(HIDDEN)
_BESIDE = 10_000


class Edit:
    """Changes on their way to a version. For one thread.

    Args:
        store: where the version is to be.
        base: the digest of the tree that is changed; `None` for one that holds nothing.
        lease: one that the caller holds until the new tree has its reference; by default one of its own, from the first
            content that is stored until the edit is finished or closed.
        called: what errors call it; by default the version it began from and the store.

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

    def __init__(
        self, store: Store, base: str | None, *, lease: Lease | None = None, called: str | None = None
    ) -> None:
        self.store = store
        self._called = called
        self.held: Tree | None = None
        """A tree of what `changes` stored, which nobody lists: with a reference to it nothing of that is swept."""
        self._base = None if base is None else store.tree(base)
        self._references = self._base is not None and self._base.references
        past = Past.of(store, self._base)
        self._overlay = Overlay(store, past.child)
        self._incoming = Incoming(store, lease)
        self._done = False
        self._needs = set() if base is None else {base}
        """Trees of this store whose contents the new one shares: they must still be there when it is made."""
        self._log: list[Change] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the edit up, unless it is finished. Nothing of it is to be seen."""
        self._done = True
        self._incoming.close()

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
            self._put(path[:-1], self._incoming.empty())
            return
        self._check(path, update=update)
        was = self._overlay.find(_parts(path))
        self._put(path, self._incoming.child(data, executable=executable, was=was))

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
                was = self._overlay.find(_parts(path))
                self._put(path, self._incoming.later(source, entry, known, executable=executable, was=was))
            else:
                self._put_other(path, entry)

    def _put_other(self, path: str, entry: Entry) -> None:
        """Put a link, or an empty directory if there is none."""
        if entry.kind == "dir" and self._overlay.has_directory(_parts(path)):
            return
        self._put(
            path.removesuffix("/"), link(b"", entry.target or "") if entry.kind == "link" else self._incoming.empty()
        )

    def add_reference(self, location: Location, path: str, *, update: bool = True) -> None:
        """Put a file that stays where it is, or all that is in a directory. It is read once, for its digest.

        Args:
            location: of the file; of a directory, it ends with `/`.
            path: where it is to be.
            update: whether files may be replaced.

        Raises:
            NotFoundError: there is nothing at the location. Else as `add` does.
        """
        self._references = True
        source, entries = _found(location, path)
        for to, entry in entries.items():
            self._check_entry(to, entry, update=update)
        wanted = {entry.key: to for to, entry in entries.items() if entry.kind == "file"}
        found: dict[str, Child] = {}
        digests = dict(digested(source, self.store, [entries[to] for to in wanted.values()]))
        for entry, place in references(source, digests):
            where = place if entry.size else ("e",)
            digest = digests[entry].text
            found[wanted[entry.key]] = Child("file", b"", entry.size, digest, bool(entry.executable), where)
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
        self._check(new, update=None)
        self._log.append(Change("move", old, new))
        self._overlay.move(_parts(old), _parts(new), as_directory=old.endswith("/"))

    def copy_from(
        self, store: Store, tree: str, sub: str = "", to: str | None = None, *, called: str | None = None
    ) -> None:
        """Take over a file or a directory of another version; no bytes are read or written where that is in this store.

        All of a table's version is its files, without its index: that tells of just these files, in a directory of
        their own, and both may change here.

        Args:
            store: of the other version.
            tree: its digest.
            sub: the path of a file, or of a directory with a `/` at the end; `""` is all of it.
            to: where it is to be, by default the same path. What is in a directory comes to what is there already.
            called: what errors call the other version.

        Raises:
            NotFoundError: the version has no such thing. ExistsError: another file is there already.
            NameClashError: a file is in the way of a directory or the other way round.
        """
        to = sub if to is None else to
        if sub and to and sub.endswith("/") is not to.endswith("/"):
            raise InvalidError("the paths of two files, or of two directories that end with /", where=self._url(to))
        other = store.tree(tree)
        self._references |= other.references
        found: Child | None = Past.of(store, other).child
        for number, part in enumerate(_parts(sub) if sub else ()):
            last = number == sub.rstrip("/").count("/")
            found = Past(store, found).find(part, directory=not last or sub.endswith("/"))
            if found is None:
                if called is not None:
                    raise NotFoundError(f"{called} has no {sub!r}", where=f"rh://{called}")
                raise NotFoundError(f"the version {tree[:19]}… has no {sub!r}", where=store.url)
        assert found is not None
        puts = self._to_copy(store, found, to.rstrip("/"))
        if identity(store.system) != identity(self.store.system):
            puts = self._from_afar(store, tree, puts, _prefix(sub), _prefix(to))
        else:
            self._needs.add(tree)
        for path, child in puts:
            self._put(path, child)

    def _to_copy(self, store: Store, child: Child, to: str) -> list[tuple[str, Child]]:
        """What is to be put where, so that this is there besides what is there already."""
        puts: list[tuple[str, Child]] = []
        waiting = [(to, child)]
        members = store.below(child).children if child.kind == "dir" else ()
        if any(one.name.startswith(_OURS) for one in members):
            waiting = [(_join(to, one.name), one) for one in members if not one.name.startswith(_OURS)]
            if not waiting and to and not self._overlay.has_directory(_parts(to)):
                self._check(to + "/")
                puts.append((to, self._incoming.empty()))
        while waiting:
            path, child = waiting.pop()
            is_directory = child.kind == "dir"
            if is_directory and (not path or self._overlay.has_directory(_parts(path))):
                waiting += [(_join(path, one.name), one) for one in store.below(child).children]
                continue
            there = None if is_directory else self._overlay.find(_parts(path))
            if there is not None and (there.kind, there.digest) == (child.kind, child.digest):
                continue
            self._check(path + "/" if is_directory else path, update=None)
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
                    found.append((path, self._incoming.empty()))
            elif child.kind == "file" and child.size:
                entry = Entry(
                    sub.rstrip("/") if path == to.rstrip("/") else sub + path[len(to) :],
                    child.size,
                    "file",
                    child.digest,
                )
                plain = Digest(child.digest) if child.digest.startswith("sha256:") else None
                later = self._incoming.later(source, entry, plain, executable=child.executable)
                found.append((path, later._replace(digest=child.digest)))
            else:
                found.append((path, child))
        return found

    # What becomes of it

    @property
    def made(self) -> int:
        """How many changes were made."""
        return len(self._log)

    def changes(self) -> list[dict[str, Any]]:
        """All changes as plain JSON values, for `replay`.

        What they put is in the store afterwards, held by the tree `held`: who keeps the changes gives it a reference.
        """
        changes, put = self._settled(0)
        self.held = self._incoming.writer.finish(Node.of(put), references=self._references)
        return [Change("hold", self.held.digest).as_dict(), *(change.as_dict() for change in changes)]

    def keep(self, since: int = 0) -> Tree:
        """Store the changes as a tree that nobody lists, with all that they put; `kept` gives them back.

        With a reference to the tree nothing of that is swept.

        Args:
            since: only those after so many.
        """
        changes, put = self._settled(since)
        writer = self._incoming.writer
        entry, digest, where = writer.put(json.dumps([change.as_dict() for change in changes]).encode())
        put.append(Child("file", _CHANGES, entry.size, digest, executable=False, where=where))
        return writer.finish(Node.of(put), references=self._references)

    def _settled(self, since: int) -> tuple[list[Change], list[Child]]:
        """Changes whose contents are in the store, and those contents, named after their digests."""
        incoming, log = self._incoming, self._log[since:]
        incoming.store(change.child for change in log if change.child is not None)
        changes = [one if one.child is None else one._replace(child=incoming.settled(one.child)) for one in log]
        put = {one.child.digest: one.child for one in changes if one.child is not None and one.child.kind != "link"}
        return changes, [child._replace(name=key_bytes(digest)) for digest, child in put.items()]

    @classmethod
    def replay(
        cls,
        store: Store,
        base: str | None,
        changes: Iterable[Mapping[str, Any]],
        *,
        lease: Lease | None = None,
        called: str | None = None,
    ) -> Edit:
        """An edit with these changes made.

        Raises:
            InvalidError: one is no change. Else as `add`, `remove` and `move` do.
        """
        edit = cls(store, base, lease=lease, called=called)
        for told in changes:
            change = Change.of(told)
            if change.child is not None:
                edit._references |= change.child.where[0] in ("r", "n")  # a directory may have some
                as_directory = change.child.kind == "dir"
                edit._check(change.path + "/" if as_directory else change.path)
                edit._put(change.path, change.child)
            elif change.do == "hold":
                edit._needs.add(change.path)
            elif change.do == "move":
                edit.move(change.path, change.to)
            else:
                edit.remove(change.path)
        return edit

    def finish(self) -> Tree:
        """Store what is left to be stored, and then the tree.

        Raises:
            ConflictError: a file changed since it was added, or a version that this one shares contents with was swept
                meanwhile. Whatever it raises, nothing is to be seen.
        """
        self._check_open()
        incoming = self._incoming
        try:
            if not self._log and self._base is not None:
                return self._base
            writer = incoming.writer
            self._check_needs()  # under the lease: from now on nothing is swept
            incoming.store(self._overlay.files())
            root = self._overlay.root(incoming.settled, writer.node)
            if self._base is not None and root.digest == self._base.digest and not self._base.references:
                return self._base
            return writer.finish(root, references=self._references)
        finally:
            self.close()

    def _check_needs(self) -> None:
        for digest in sorted(self._needs):
            if not self.store.has_tree(digest):
                raise ConflictError(
                    f"the version {digest[:19]}… is gone, and this one shares contents with it",
                    where=self.store.url,
                    hint="begin again from another version",
                )

    # Paths

    def _check(self, path: str, *, update: bool | None = True) -> None:
        """Refuse a path that nothing can be put at; that of a directory ends with `/`."""
        self._check_open()
        if not is_path(path.removesuffix("/")):
            raise NameClashError(f"a version cannot hold the path {path!r}", where=self._called or self.store.url)
        check_not_ours(path)
        self._overlay.check(_parts(path), self._url(path), update=update, as_directory=path.endswith("/"))

    def _check_entry(self, path: str, entry: Entry, *, update: bool) -> None:
        """The same for what was found at a place: an empty directory may be there already."""
        if entry.kind != "dir" or not self._overlay.has_directory(_parts(path)):
            self._check(path, update=update)

    def _require(self, path: str) -> None:
        """Raise NotFoundError if there is nothing at a path."""
        self._check_open()
        parts = _parts(path)
        there = self._overlay.has_directory(parts) if path.endswith("/") else self._overlay.find(parts)
        if not there:
            if not path.endswith("/") and self._overlay.has_directory(parts):
                hint, near = f"the directory is {path}/", ""
            else:
                hint, near = None, did_you_mean(path, self._beside(parts))
            raise NotFoundError("the version has no such path" + near, where=self._url(path), hint=hint)

    def _beside(self, parts: list[bytes]) -> tuple[str, ...]:
        """The paths in the directory that a path is in."""
        above = _prefix(key_text(b"/".join(parts[:-1])))
        return tuple(above + name for name in self._overlay.names(parts[:-1])[:_BESIDE])

    def _check_open(self) -> None:
        if self._done:
            raise InvalidError("the edit is finished", where=self.store.url, hint="begin another one")

    def _put(self, path: str, child: Child) -> None:
        """Put something where it may be."""
        self._log.append(Change("put", path, child=child))
        self._overlay.put(_parts(path), child)

    def _url(self, path: str) -> str:
        if self._called is not None:
            return f"{path!r} in {self._called}"
        return (
            f"{path!r} in {'a new version' if self._base is None else self._base.digest[:19] + '…'}, {self.store.url}"
        )


def kept(store: Store, digest: str) -> list[dict[str, Any]]:
    """The changes that `Edit.keep` stored as the tree of this digest, for `Edit.replay`.

    Raises:
        NotFoundError: the store has no such tree. IntegrityError: it holds no changes.
    """
    for child in store.root(store.tree(digest)).children:
        if child.name == _CHANGES and child.kind == "file":
            with store.open(child) as body:
                return [Change("hold", digest).as_dict(), *json.loads(body.read())]
    raise IntegrityError("these are no changes of a version", where=store.system.url(tree_key(digest)))


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
