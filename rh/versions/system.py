"""A version as a system to read: listed from its nodes, and every byte compared with its digest.

The location is `tree://<the store's URL, quoted>` and `<the tree's SHA-256>/path/below`. What a version holds is all
that there is: links lead to what is in it, or nowhere.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from itertools import chain
from typing import ClassVar, NamedTuple, TypeVar
from urllib.parse import quote, unquote

from rh.content.tree import key_bytes
from rh.digest import CHUNK
from rh.errors import (
    ConflictError,
    ImmutableVersionError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
)
from rh.forks import Lock
from rh.systems import open_system, settings_of
from rh.systems.abilities import WORKERS, Item, Piece
from rh.systems.base import HIDDEN, Body, Bytes, Settings, System
from rh.systems.far.skip import Skip
from rh.systems.memory import MemoryBody
from rh.types import ABSENT, ANY, Condition, Entry, Location, Match, Outcome, Span
from rh.versions.bulk import read_children
from rh.versions.layout import REPAIR
from rh.versions.lost import GoneError, LostError, no_marker
from rh.versions.nodes import EMPTY, Child, Node
from rh.versions.reading import chunks_of, entry_of, file_of, places_of
from rh.versions.store import Store, Tree

__all__ = ["TreeSystem", "immutable", "known_as", "location_of", "opened_as"]

T = TypeVar("T")

_HOPS = 40
_PAGE = 2_000
_GROUP = 1_000
_HIDDEN = HIDDEN.encode()
_KNOWN = 1_000
_lock = Lock()
_known: dict[Location, str] = {}


def location_of(store: Location, digest: str) -> Location:
    """Where a tree is, as a place: `open_system` of it gives a `TreeSystem`.

    Args:
        store: the store's place.
        digest: the tree's.
    """
    system, path = store.system, store.path
    if system == "file":
        url = f"file://{path}"
    elif "://" in system:
        url = system + path if path.startswith("/") else f"{system}/{path}"
    else:
        url = f"{system}:{path}" if path.startswith(("/", "~")) else f"{system}://{path}"
    return Location(f"tree://{quote(url, safe='', errors='surrogateescape')}", digest.removeprefix("sha256:"))


def known_as(location: Location, called: str) -> None:
    """Note what a version was asked for as: `open_system` of it tells errors and plans by that name.

    Of names that mean the same version of one store, it is the one asked for last.
    """
    with _lock:
        _known.pop(location, None)
        _known[location] = called
        while len(_known) > _KNOWN:
            del _known[next(iter(_known))]


def opened_as(location: Location, called: str) -> System:
    """`open_system` of a version or a directory in it, where errors tell what the version is `called`."""
    from rh.systems.wrap import wrap

    tree = TreeSystem.open(location, settings_of(location.system))
    tree.called = called
    return wrap(tree)


class TreeSystem(System):
    """A directory of a version. Writing and deleting raise `ImmutableVersionError`."""

    kind: ClassVar[str] = "tree"
    keeps_links: ClassVar[bool] = True
    keeps_executable: ClassVar[bool] = True
    keeps_directories: ClassVar[bool] = True
    writable: ClassVar[bool] = False

    def __init__(self, location: Location, settings: Settings, store: Store) -> None:
        self.location = location
        self.settings = settings
        self.store = store
        value, _, self._root = location.path.strip("/").partition("/")
        self.digest = f"sha256:{value}"
        self.called: str | None = _known.get(Location(location.system, value))
        """What the version was asked for as (`rh://~/cats:v1`): what people know it by, and errors tell."""
        self._linked: dict[str, Node] = {}
        """Directories that links led to while it was listed through them."""
        if len(value) != 64 or value.strip("0123456789abcdef"):
            raise InvalidError(f"no version has the digest {value[:80]!r}", where=self.url())

    @classmethod
    def open(cls, location: Location, settings: Settings) -> TreeSystem:
        """A handle on a version, or on a directory of it."""
        url = unquote(location.system.removeprefix("tree://"), errors="surrogateescape")
        # Whatever passes, the store's own handle tries again; what is damaged there stays so.
        return cls(location, {**settings, "retries": 0}, Store.shared(url))

    def url(self, key: str = "") -> str:
        """The store, the version's digest and the key, for people and errors; `locate` takes it back.

        Where the version is `called` something, that and the path in it, which `rh://` is resolved by.
        """
        path = "/".join(part for part in (self._root, key) if part)
        return (self.called or f"{self.store.url}@{self.digest}") + (f"/{path}" if path else "")

    def at(self, path: str) -> TreeSystem:
        """The same version further down."""
        path = path.strip("/")
        if not path:
            return self
        below = TreeSystem(self.location / path, self.settings, self.store)
        below.called = self.called
        return below

    def close(self) -> None:
        """Let go of the store's connections."""
        self.store.close()

    @cached_property
    def tree(self) -> Tree:
        """The marker of the version."""
        return self.store.tree(self.digest)

    # What is where

    def _resolve(self, path: str, *, through: bool) -> tuple[tuple[bytes, ...], Child | Node] | None:
        """The real path below the version's root and what is there; `None` for nothing, or what is outside.

        A link in the last place is looked through if `through`.
        """
        todo = deque(key_bytes(path).split(b"/"))
        done: list[tuple[bytes, Node]] = []
        top = self.store.root(self.tree)
        hops = 0
        while todo:
            part = todo.popleft()
            if part == b"..":
                if not done:
                    return None
                done.pop()
                continue
            if part in (b"", b"."):
                continue
            above = done[-1][1] if done else top
            child = above.find(part, directory=True) if todo else None
            child = child or above.find(part) or above.find(part, directory=True)
            if child is None:
                return None
            if child.kind == "dir":
                done.append((part, self.store.below(child)))
            elif child.kind == "link" and (through or todo):
                hops += 1
                target = os.fsencode(entry_of(child, "").target or "")
                if hops > _HOPS or target.startswith(b"/"):
                    return None
                todo.extendleft(reversed(target.split(b"/")))
            elif todo:
                return None
            else:
                return (*(name for name, _ in done), part), child
        return tuple(name for name, _ in done), done[-1][1] if done else top

    def _looked_up(self, path: str, *, through: bool) -> tuple[tuple[bytes, ...], Child | Node] | None:
        """`_resolve`, where the marker has not been written again since."""
        return self._again(lambda: self._resolve(path, through=through))

    def _again(self, work: Callable[[], T]) -> T:
        """What the work gives; done once more where it meets damage, and somebody has repaired the version since."""
        with self._whole():
            try:
                return work()
            except (IntegrityError, ConflictError):
                if not self._is_renewed():
                    raise
                return work()

    def _top(self) -> tuple[tuple[bytes, ...], Node]:
        """The directory that this handle is on."""
        found = self._looked_up(f"{self._root}/", through=True)
        if found is None or isinstance(found[1], Child):
            raise NotFoundError("the version has no such directory", where=self.url())
        return found[0], found[1]

    def part(self) -> Node | Child:
        """What this handle is on: a directory, or a file.

        Raises:
            NotFoundError: nothing is there.
        """
        found = self._looked_up(self._root, through=True)
        if found is None:
            raise NotFoundError("there is nothing at this place", where=self.url())
        return found[1]

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What is missing of a version that was dropped is not lost: the version is no longer there."""
        try:
            yield
        except LostError as error:
            raise self._told(error) from error
        except GoneError as error:
            self._with_name(error)
            raise
        except (IntegrityError, ConflictError) as error:
            self._is_renewed()  # so that the next call finds what is there by then
            self._with_name(error)
            raise

    def _with_name(self, error: RhError) -> RhError:
        """The error, whose fix names the version where its name is known."""
        if self.called is not None and error.hint is not None:
            name = self.called.removeprefix("rh://")
            if isinstance(error, GoneError):
                error.hint = error.hint.replace("NAME", name.rpartition(":")[0], 1)
            elif error.hint.startswith(REPAIR):
                error.hint = error.hint.replace("NAME", name, 1)
        return error

    def _is_renewed(self) -> bool:
        """Whether the marker names other directories than it did: somebody has repaired the version since."""
        try:
            now = self.store.tree(self.digest, fresh=True)
        except RhError:
            return False
        before, self.tree = self.tree, now
        return now.root != before.root

    def _told(self, error: LostError) -> RhError:
        self._is_renewed()  # so that the next call finds what is there by then
        found = no_marker(self.store, self.digest)
        return self._with_name(found if isinstance(found, GoneError) else error)

    def _find(self, key: str, *, through: bool) -> Child:
        """The file or link under a key."""
        parts = key.split("/")
        if ".." in parts or "." in parts or key.startswith("/"):
            raise NameClashError(f"no key of a version is {key!r}", where=self.url())
        if not key:
            raise InvalidError("an empty key names nothing", where=self.url())
        found = None
        if "" not in parts:
            found = self._looked_up(f"{self._root}/{key}", through=through)
        if found is None or isinstance(found[1], Node):
            told = "that is a directory, not a file" if found else "the version has nothing under this key"
            raise NotFoundError(told, where=self.url(key))
        return found[1]

    # Verbs

    def head(self, key: str) -> Entry:
        """The file or link under `key`, or the directory, if that ends with a slash."""
        parts = key.split("/")
        if len(parts) > 1 and not parts.pop() and not {"", ".", ".."}.intersection(parts):
            found = self._looked_up(f"{self._root}/{key}", through=False)
            if found is not None and isinstance(found[1], Node):
                return Entry(key, 0, "dir")
        return entry_of(self._find(key, through=False), key)

    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:
        """The bytes of a file, compared with its digest; links are looked through."""
        if when is ABSENT or (span is not None and not 0 <= span[0] <= span[1]):
            raise InvalidError(f"cannot read {span} when {when}", where=self.url(key))
        etag = when.etag if isinstance(when, Match) else None
        body = self._again(lambda: self.store.open(self._wanted(key, etag), span, key=key))
        return body if isinstance(body, MemoryBody) else _Told(body, self._whole)

    def _wanted(self, key: str, etag: str | None) -> Child:
        child = self._find(key, through=True)
        if etag is not None and child.digest != etag:
            raise ConflictError("the version has other bytes there", where=self.url(key))
        return child

    def write(self, key: str, *_data: object, **_options: object) -> Entry:
        """`ImmutableVersionError`."""
        raise immutable(self.url(key))

    def delete(self, keys: Sequence[str]) -> None:
        """`ImmutableVersionError`."""
        raise immutable(self.url(keys[0] if keys else ""))

    def list(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        """The files, links and empty directories of the version."""
        return chain.from_iterable(self._pages(_View(prefix, after, depth, follow=False)))

    def list_following(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        """The same, with what links point to (in the version) in their place."""
        return chain.from_iterable(self._pages(_View(prefix, after, depth, follow=True)))

    def list_pages(
        self, prefix: str = "", *, after: str = "", follow: bool = False, skip: Skip | None = None
    ) -> Iterator[Sequence[Entry]]:
        """`list`, or `list_following`, in pages."""
        return self._pages(_View(prefix, after, None, follow=follow, skip=skip))

    # Listing

    def _pages(self, view: _View) -> Iterator[Sequence[Entry]]:
        path, node = self._top()
        page: list[Entry] = []
        with self._whole():
            for some in self._walk(path, node, "", view, ()):
                page += some
                if len(page) >= _PAGE:
                    for at in range(0, len(page), _PAGE):
                        yield page[at : at + _PAGE]
                    page = []
        if page:
            yield page

    def _walk(
        self, path: tuple[bytes, ...], node: Node, top: str, view: _View, above: tuple[tuple[bytes, ...], ...]
    ) -> Iterator[Sequence[Entry]]:
        """The entries below a directory at a real path, which is shown at `top`, in order, some at a time."""
        some: list[Entry] = []
        above = (*above, path)
        members = (
            self._members(path, node, above) if view.follow else ((child.name, path, child) for child in node.children)
        )
        all_meant = view.all_below(top)
        for name, real, child in members:
            kind, _, size, digest, executable, _ = child
            if name.startswith(_HIDDEN):
                continue
            key = top + name.decode("utf-8", "surrogateescape")
            if kind == "file":
                if all_meant or view.means(key):
                    check = digest if digest[6] == ":" else None
                    some.append(Entry(key, size, "file", digest, None, check, executable))
            elif kind == "link":
                if all_meant or view.means(key):
                    some.append(entry_of(child, key))
            else:
                key += "/"
                if digest == EMPTY or (view.depth == 1 and key.startswith(view.prefix) and key != view.prefix):
                    if all_meant or view.means(key):
                        some.append(Entry(key, 0, "dir"))
                elif (all_meant or view.reaches(key)) and not (view.skip and view.skip(key)):
                    yield some
                    some = []
                    below = self.store.below(child) if child.where[1] else self._linked[digest]
                    yield from self._walk(real, below, key, view, above)
        yield some

    def _members(
        self, path: tuple[bytes, ...], node: Node, above: tuple[tuple[bytes, ...], ...]
    ) -> Iterable[tuple[bytes, tuple[bytes, ...], Child]]:
        """What is in a directory as it is shown: name, real path and child, in order.

        Links are looked through, but for those that lead to nothing, or to one of the directories `above`.
        """
        members = []
        moved = False
        for child in node.children:
            name = child.name
            if child.kind != "link":
                members.append((name, (*path, name) if child.kind == "dir" else path, child))
                continue
            where = "/".join(part.decode("utf-8", "surrogateescape") for part in (*path, name))
            found = self._resolve(where, through=True)
            if found is None or found[0] in above:
                members.append((name, path, child))
                continue
            real, there = found
            if isinstance(there, Node):
                moved = True
                place = ("n", "", 0, 0, there.files, there.entries)
                self._linked[there.digest] = there
                there = Child("dir", name, there.size, there.digest, executable=False, where=place)
            members.append((name, real, there))
        if moved:
            members.sort(key=lambda one: one[0] + b"/" if one[2].kind == "dir" else one[0])
        return members

    # What else can be done

    largest: ClassVar[int] = CHUNK

    def read_many(
        self,
        entries: Iterable[Entry],
        *,
        workers: int = WORKERS,  # noqa: ARG002 - what one request reads is many files
    ) -> Iterator[tuple[Entry, bytes | Exception]]:
        """The bytes of each entry, with few requests: neighbours in a pack are read together."""
        left = iter(entries)
        most = self.store.group_size
        told: RhError | None = None
        renewed: bool | None = None
        while True:
            group: list[tuple[Entry, Child]] = []
            size = 0
            for entry in left:
                try:
                    child = self._wanted(entry.key, entry.etag)
                    if child.kind != "file":
                        raise InvalidError(f"a {child.kind} has no bytes to read", where=self.url(entry.key))
                except RhError as error:
                    yield entry, error
                    continue
                group.append((entry, child))
                size += child.size
                if len(group) >= _GROUP or size >= most:
                    break
            if not group:
                return
            for entry, found in read_children(self.store, group):
                if isinstance(found, IntegrityError | ConflictError):
                    renewed = self._is_renewed() if renewed is None else renewed  # asked once
                    if renewed:
                        yield entry, self._whole_one(entry)
                        continue
                if isinstance(found, LostError) and told is None:
                    told = self._told(found)  # asked once
                if isinstance(found, RhError):
                    self._with_name(found)
                yield entry, told if isinstance(found, LostError) and isinstance(told, GoneError) else found

    def _whole_one(self, entry: Entry) -> bytes | RhError:
        try:
            with self.read(entry.key) as body:
                return body.read()
        except RhError as error:
            return error

    def write_many(
        self,
        items: Iterable[Item],
        *,
        workers: int = WORKERS,  # noqa: ARG002 - what one request reads is many files
    ) -> Iterator[Outcome]:
        """`ImmutableVersionError` for each."""
        for item in items:
            yield Outcome(item.key, error=immutable(self.url(item.key)))

    def digest_many(self, entries: Iterable[Entry]) -> Iterator[Outcome]:
        """The digest of each entry: it is what the version is made of."""
        for entry in entries:
            try:
                child = self._wanted(entry.key, entry.etag)
                chunks = chunks_of(self.store, child)
                yield Outcome(entry.key, entry_of(child, entry.key), None, child.digest, chunks)
            except RhError as error:
                yield Outcome(entry.key, error=error)

    def held(self, entry: Entry) -> tuple[System, Entry] | None:
        """The file that this machine keeps of a file's bytes, or that its store has as an object."""
        try:
            path = file_of(self.store, self._wanted(entry.key, entry.etag))
            if path is None:
                return None
            system = open_system(Location("file", str(path.parent)))
            return system, system.head(path.name)
        except RhError:
            return None  # reading it tells what is wrong

    def origins(self) -> Sequence[System]:
        """The store; before it, where files are by reference, the place of the first of them."""
        if not self.tree.references:
            return (self.store.system,)
        waiting = [self._top()[1]]
        while waiting:
            node = waiting.pop()
            for child in node.children:
                if child.where[0] == "r":
                    return (places_of(self.store, child)[0].system, self.store.system)
            waiting += (self.store.below(child) for child in reversed(node.children) if child.kind == "dir")
        return (self.store.system,)

    def pieces_of(self, entry: Entry) -> Sequence[Piece]:
        """Where the bytes of a file are: an object, part of a pack, several of these, or where a reference says."""
        return places_of(self.store, self._wanted(entry.key, entry.etag))


class _Told(Body):
    """The bytes of a large file; what is missing on the way is told as that of a version."""

    def __init__(self, body: Body, whole: Callable[[], AbstractContextManager[None]]) -> None:
        self.entry = body.entry
        self._body = body
        self._whole = whole

    def __iter__(self) -> Iterator[Bytes]:
        with self._whole():
            yield from self._body

    def close(self) -> None:
        self._body.close()


class _View(NamedTuple):
    """What of a listing is asked for."""

    prefix: str
    after: str
    depth: int | None
    follow: bool
    skip: Skip | None = None

    def means(self, key: str) -> bool:
        """Whether a key is one of those."""
        return key.startswith(self.prefix) and (not self.after or key_bytes(key) > key_bytes(self.after))

    def reaches(self, folder: str) -> bool:
        """Whether some of those can be below a directory."""
        return (folder.startswith(self.prefix) or self.prefix.startswith(folder)) and (
            not self.after or key_bytes(folder) > key_bytes(self.after) or self.after.startswith(folder)
        )

    def all_below(self, folder: str) -> bool:
        """Whether all keys below a directory are among those."""
        if not folder.startswith(self.prefix):
            return False
        return not self.after or (key_bytes(folder) > key_bytes(self.after) and not self.after.startswith(folder))


def immutable(where: str) -> ImmutableVersionError:
    """The refusal to change what is in a version."""
    return ImmutableVersionError(
        "a version never changes", where=where, hint="make a draft of it, or copy it somewhere and change the copy"
    )
