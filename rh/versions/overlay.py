"""The directories of a version that are being changed, over those that are not: only what is touched is ever read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rh.content.tree import key_text
from rh.errors import ExistsError, NameClashError
from rh.versions.levels import directory
from rh.versions.nodes import Child, Node, Where
from rh.versions.store import Store

__all__ = ["Overlay"]

_NOTHING = Node([]).digest


class _Open:
    """A directory that was looked into: `was` is what it was before, if it was."""

    __slots__ = ("before", "directories", "files", "was")

    def __init__(self, was: Child | None, node: Node | None) -> None:
        self.was = was
        self.before = [] if node is None else node.children
        self.files: dict[bytes, Child] = {}
        self.directories: dict[bytes, Child | _Open] = {}
        for child in self.before:
            (self.directories if child.kind == "dir" else self.files)[child.name] = child


class Overlay:
    """A tree to be changed. Paths are given as their parts; those of a directory as well.

    Args:
        store: of the version that is changed.
        root: its root; `None` for nothing.
    """

    def __init__(self, store: Store, root: Child | None) -> None:
        self._store = store
        self._root = self._opened(root)

    def _opened(self, child: Child | None) -> _Open:
        # An empty directory may be one that is not written yet.
        return _Open(child, None if child is None or child.digest == _NOTHING else self._store.below(child))

    def _enter(self, parts: Sequence[bytes]) -> tuple[_Open, int]:
        """The deepest directory on a way that is there, and how far it is."""
        here = self._root
        for number, part in enumerate(parts):
            there = here.directories.get(part)
            if there is None:
                return here, number
            if isinstance(there, Child):
                there = here.directories[part] = self._opened(there)
            here = there
        return here, len(parts)

    def names(self, parts: Sequence[bytes]) -> list[str]:
        """Of what is in a directory; those of directories end with `/`. None where there is no such directory."""
        here, depth = self._enter(parts)
        if depth < len(parts):
            return []
        return [*map(key_text, here.files), *(key_text(name) + "/" for name in here.directories)]

    def find(self, parts: Sequence[bytes]) -> Child | None:
        """The file or link of a path."""
        here, far = self._enter(parts[:-1])
        return here.files.get(parts[-1]) if far == len(parts) - 1 else None

    def has_directory(self, parts: Sequence[bytes]) -> bool:
        """Whether there is a directory of that path."""
        here, far = self._enter(parts[:-1])
        return far == len(parts) - 1 and parts[-1] in here.directories

    def check(self, parts: Sequence[bytes], where: str, *, update: bool | None, as_directory: bool) -> None:
        """Refuse to put something where it cannot be.

        Args:
            parts: the path.
            where: the place, for people.
            update: whether a file may be replaced; `None`: that is no question here, it never is.
            as_directory: whether it is a directory that is to be put.

        Raises:
            NameClashError: a file is in the way of a directory, or the other way round.
            ExistsError: it is there, and it is not to be replaced, or it is a directory.
        """
        here, far = self._enter(parts[:-1])
        if far < len(parts) - 1:
            if parts[far] in here.files:
                way = key_text(b"/".join(parts[: far + 1]))
                raise NameClashError(
                    f"{way!r} is a file, and nothing can be below it", where=where, hint="remove it first"
                )
            return
        same, other = (here.directories, here.files) if as_directory else (here.files, here.directories)
        if parts[-1] in same:
            if as_directory or not update:
                more = ", or replace it: update=True" if update is False and not as_directory else ""
                raise ExistsError("it is there already", where=where, hint=f"remove it first{more}")
        elif parts[-1] in other:
            what = "a file" if as_directory else "a directory"
            raise NameClashError(f"{what} of that name is there already", where=where, hint="remove it first")

    def put(self, parts: Sequence[bytes], child: Child) -> None:
        """Put something where `check` allowed it, in place of what is there."""
        here, far = self._enter(parts[:-1])
        for part in parts[far:-1]:
            above, here = here, _Open(None, None)
            above.directories[part] = here
        (here.directories if child.kind == "dir" else here.files)[parts[-1]] = child._replace(name=parts[-1])

    def remove(self, parts: Sequence[bytes], *, as_directory: bool) -> Child | _Open:
        """Take away what is there, and directories that are empty then."""
        way = [self._enter(parts[:number])[0] for number in range(len(parts))]
        here = way[-1]
        taken = here.directories.pop(parts[-1]) if as_directory else here.files.pop(parts[-1])
        for number in range(len(way) - 1, 0, -1):
            if way[number].files or way[number].directories:
                break
            del way[number - 1].directories[parts[number - 1]]
        return taken

    def move(self, old: Sequence[bytes], new: Sequence[bytes], *, as_directory: bool) -> None:
        """Put what is at one path at another one, where `check` allowed it."""
        here, _ = self._enter(old[:-1])
        moved = here.directories[old[-1]] if as_directory else here.files[old[-1]]
        # First put, then removed: else a directory that both lie in might be empty in between.
        if isinstance(moved, Child):
            self.put(new, moved)
        else:
            self.put(new, directory(b"", 0, "", ()))
            self._enter(new[:-1])[0].directories[new[-1]] = moved
        self.remove(old, as_directory=as_directory)

    def files(self) -> Iterator[Child]:
        """The files and links in all directories that were looked into."""
        for one in self._open_ones():
            yield from one.files.values()

    def root(self, settled: Callable[[Child], Child], stored: Callable[[Node], Where]) -> Node:
        """The root of what there is now.

        Args:
            settled: gives a file with its digest and its place.
            stored: stores the node of a directory that is another one than before, and tells where.
        """
        nodes: dict[int, Node] = {}
        made: dict[int, Child] = {}
        for one in reversed(list(self._open_ones())):
            children = [settled(child) for child in one.files.values()]
            for name, below in one.directories.items():
                children.append((below if isinstance(below, Child) else made[id(below)])._replace(name=name))
            node = nodes[id(one)] = Node.of(children)
            if one is self._root:
                break
            same = one.was is not None and one.before == node.children
            made[id(one)] = one.was if same and one.was else directory(b"", node.size, node.digest, stored(node))
        return nodes[id(self._root)]

    def _open_ones(self) -> Iterator[_Open]:
        """The directories that were looked into, each before those in it."""
        waiting = [self._root]
        while waiting:
            one = waiting.pop()
            yield one
            waiting += [below for below in one.directories.values() if isinstance(below, _Open)]
