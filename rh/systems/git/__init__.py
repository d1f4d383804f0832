"""Git repositories, read only: any branch, tag or commit, and any directory in it.

`git+https://host/x/r.git@v1/sub`, `github://owner/repo@main/sub`, `git+ssh://git@host/r.git`,
`git+file:///srv/r.git`; or, of a configured system with an `endpoint_url` (GitHub is one), the path
`owner/repo@ref/sub`. A handle stays on the commit that its ref named at its first use. Git LFS files are fetched; a
submodule is an error, not a gap.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

from rh.errors import ConflictError, IntegrityError, InvalidError, NameClashError, NotFoundError, UnsupportedError
from rh.observe import count
from rh.systems.base import HIDDEN, Body, Bytes, Settings, System
from rh.systems.git.repository import Member, Repository
from rh.systems.web.client import split
from rh.types import ABSENT, ANY, Condition, Entry, Location, Match, Span

__all__ = ["GitSystem"]

_TREE, _LINK, _MODULE = 0o040000, 0o120000, 0o160000
_HOPS = 40
_PIECE = 1024 * 1024
_HUB = re.compile(r"/*([^/@]+/[^/@]+?)(?:\.git)?(?:@([^/]+))?(?:/+(.*))?", re.DOTALL)


class GitSystem(System):
    """A directory of a repository at a commit. Writing and deleting raise `UnsupportedError`."""

    kind: ClassVar[str] = "git"
    takes: ClassVar[frozenset[str] | None] = frozenset(
        {"url", "endpoint_url", "ref", "submodules", "identity_file", "known_hosts_file", "config_file"}
    )
    keeps_links: ClassVar[bool] = True
    keeps_executable: ClassVar[bool] = True
    writable: ClassVar[bool] = False

    def __init__(self, location: Location, settings: Settings, repository: Repository, root: str) -> None:
        self.location = location
        self.settings = settings
        self._repository = repository
        self._root = root.strip("/")
        if any(part in (".", "..", "") for part in self._root.split("/")) and self._root:
            raise NameClashError(f"no path in a repository is {root!r}", where=repository.url)

    @classmethod
    def open(cls, location: Location, settings: Settings) -> GitSystem:
        """A handle on a repository.

        Settings: `url` (with `@ref` or `ref`), or `endpoint_url` below which `owner/repo` are; `submodules="skip"`
        leaves submodules out instead of raising; `config_file`, `identity_file` and `known_hosts_file` for SSH.
        """
        url, ref, root = _address(location, settings)
        parts = split(url)
        if parts.password or (parts.username and parts.scheme != "ssh"):
            raise InvalidError(
                "a password in a URL is not accepted",
                where=f"{parts.scheme}://{parts.hostname}{parts.path}",
                hint="put it into ~/.netrc, or use GITHUB_TOKEN or git+ssh://",
            )
        return cls(location, settings, Repository(url, ref, settings, location.system), root)

    def at(self, path: str) -> GitSystem:
        """The same commit further down."""
        if not path:
            return self
        return GitSystem(self.location / path, self.settings, self._repository, f"{self._root}/{path}")

    def close(self) -> None:
        """Close files and connections."""
        self._repository.close()

    # reading

    def head(self, key: str) -> Entry:
        """The file or link under `key`."""
        return self._entry(key, self._find(key, through=False))

    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:
        """The bytes of a file, checked against the id Git knows them by."""
        if when is ABSENT or (span and not 0 <= span[0] <= span[1]):
            raise InvalidError(f"cannot read {span} when {when}", where=self.url(key))
        member = self._find(key, through=True)
        entry = self._entry(key, member)
        if isinstance(when, Match) and when.etag != entry.etag:
            raise ConflictError("it has changed in the meantime", where=self.url(key))
        start, stop = span or (0, entry.size)
        start, stop = min(start, entry.size), min(stop, entry.size)
        count(self.location.system, "read", requests=0, received=stop - start)
        _, pointer = self._repository.size(member.sha)
        if pointer is not None:
            return _FileBody(entry, self._repository.large_file(pointer), start, stop)
        return _BlobBody(entry, memoryview(self._repository.blob(member.sha))[start:stop])

    def _find(self, key: str, *, through: bool) -> Member:
        """What is under a key; `through` looks through a link in the last place, too."""
        if key.startswith("/") or any(part in (".", "..") for part in key.split("/")):
            raise NameClashError(f"no key of a repository is {key!r}", where=self.url())
        found = self._resolve(f"{self._root}/{key}", through=through) if key and not key.endswith("/") else None
        if found is None or found[1].is_tree:
            raise NotFoundError("that is a directory, not a file" if found else "nothing is there", where=self.url(key))
        self._refuse_module(found[1], key)
        return found[1]

    def _resolve(self, path: str, *, through: bool) -> tuple[str, Member] | None:
        """The real path of `path` in the repository and what is there; `None` for nothing, or what is outside."""
        todo = deque(path.split("/"))
        done: list[tuple[str, Member]] = []
        root = Member("", _TREE, self._repository.root())
        hops = 0
        while todo:
            part = todo.popleft()
            parent = done[-1][1] if done else root
            if part == "..":
                if not done:
                    return None
                done.pop()
            elif part not in ("", "."):
                found = self._repository.child(parent.sha, part) if parent.is_tree else None
                if found is None:
                    return None
                if found.mode != _LINK or not (through or todo):
                    done.append((part, found))
                    continue
                hops += 1
                target = self._repository.blob(found.sha).decode("utf-8", "surrogateescape")
                if hops > _HOPS or target.startswith("/"):
                    return None
                todo.extendleft(reversed(target.split("/")))
        return "/".join(name for name, _ in done), done[-1][1] if done else root

    def _refuse_module(self, member: Member, key: str) -> None:
        if member.mode == _MODULE:
            raise UnsupportedError(
                "a submodule is another repository",
                where=self.url(key),
                hint=f'open that repository at @{member.sha}, or set submodules = "skip" for this system',
            )

    def _entry(self, key: str, member: Member) -> Entry:
        modified = self._repository.modified
        if member.mode == _LINK:
            target = self._repository.blob(member.sha)
            text = target.decode("utf-8", "surrogateescape")
            return Entry(key, len(target), "link", member.sha, modified, target=text)
        size, pointer = self._repository.size(member.sha)
        check = f"sha256:{pointer.oid}" if pointer else None
        return Entry(key, size, "file", member.sha, modified, check, bool(member.mode & 0o100))

    # listing

    def list(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        """The files and links of the commit below the root."""
        return self._walk(*self._top(), "", _View(prefix, after, depth, follow=False), ())

    def list_following(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        """The same, with what links point to (in the repository) in their place."""
        return self._walk(*self._top(), "", _View(prefix, after, depth, follow=True), ())

    def _top(self) -> tuple[str, Member]:
        found = self._resolve(self._root, through=True)
        if found is None or not found[1].is_tree:
            raise NotFoundError("that is a file, not a directory" if found else "nothing is there", where=self.url())
        return found

    def _walk(self, at: str, tree: Member, top: str, view: _View, above: tuple[str, ...]) -> Iterator[Entry]:
        above = (*above, at)
        for name, path, member in self._members(at, tree, top, above if view.follow else ()):
            key = top + name
            if name.startswith(HIDDEN) or not (key.startswith(view.prefix) or view.prefix.startswith(key)):
                continue
            if not member.is_tree:
                if not key.startswith(view.prefix) or _order(key) <= _order(view.after):
                    continue
                if member.mode == _MODULE and self.settings.get("submodules") == "skip":
                    continue
                self._refuse_module(member, key)
                yield self._entry(key, member)
            elif view.depth == 1 and key.startswith(view.prefix) and key != view.prefix:
                if _order(key) > _order(view.after):
                    yield Entry(key, 0, "dir")
            elif _order(key) > _order(view.after) or view.after.startswith(key):
                yield from self._walk(path, member, key, view, above)

    def _members(self, at: str, tree: Member, top: str, above: tuple[str, ...]) -> Sequence[tuple[str, str, Member]]:
        """Name as shown (directories with `/`), real path and member of everything in a directory, in key order.

        Links are looked through where `above` names the directories that the walk came through, unless they lead to one
        of those, or to nothing.
        """
        shown, moved = [], False
        for member in self._repository.tree(tree.sha):
            if "/" in member.name or member.name in ("", ".", ".."):
                raise NameClashError(f"the repository holds the impossible name {member.name!r}", where=self.url(top))
            path = f"{at}/{member.name}" if at else member.name
            found = self._resolve(path, through=True) if above and member.mode == _LINK else None
            if found is not None and found[0] not in above:
                path, there = found
                member = Member(member.name, there.mode, there.sha)  # noqa: PLW2901 - shown under the link's name
                moved = moved or there.is_tree
            shown.append((member.name + ("/" if member.is_tree else ""), path, member))
        return sorted(shown, key=lambda one: _order(one[0])) if moved else shown

    # what a repository does not do

    def write(self, key: str, *_data: object, **_options: object) -> Entry:
        """`UnsupportedError`: repositories are read."""
        raise UnsupportedError(
            "a Git repository cannot be written", where=self.url(key), hint="commit and push with git"
        )

    def delete(self, keys: Sequence[str]) -> None:
        """`UnsupportedError`: repositories are read."""
        where = self.url(keys[0] if keys else "")
        raise UnsupportedError(
            "nothing can be deleted in a Git repository", where=where, hint="commit and push with git"
        )


class _View(NamedTuple):
    prefix: str
    after: str
    depth: int | None
    follow: bool


def _order(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _address(location: Location, settings: Settings) -> tuple[str, str, str]:
    """URL of the repository, ref, and the path in it."""
    text = str(settings.get("url") or "")
    if not text or text.startswith("github://"):
        base = str(settings.get("endpoint_url") or "https://github.com").rstrip("/")
        inner = f"{text.removeprefix('github://')}" if text else location.path
        match = _HUB.fullmatch(inner)
        if text:
            owner, _, ref = inner.removesuffix("/").partition("@")
            return f"{base}/{owner.removesuffix('.git')}.git", _ref(ref), location.path
        if match is None:
            raise InvalidError(
                "a repository is owner/repo, owner/repo@ref or owner/repo@ref/path", where=f"{base}/{inner}"
            )
        return f"{base}/{match.group(1)}.git", _ref(match.group(2) or settings.get("ref")), match.group(3) or ""
    url = text.removeprefix("git+")
    match = re.fullmatch(r"(.+?\.git)/*(?:@(.+))?", url) or re.fullmatch(r"(.*/[^/@]*[^/@])(?:@(.+))?", url)
    if match is None or not url.startswith(("https://", "http://", "ssh://", "file:///")):
        raise InvalidError(
            "not a repository's URL", where=text, hint="git+https://, git+ssh://, git+file:/// or github://owner/repo"
        )
    return match.group(1), _ref(match.group(2) or settings.get("ref")), location.path


def _ref(text: str | None) -> str:
    """A ref as a URL writes it: its slashes are `%2F`."""
    return (text or "").replace("%2F", "/").replace("%2f", "/")


class _BlobBody(Body):
    def __init__(self, entry: Entry, data: memoryview) -> None:
        self.entry = entry
        self._data = data

    def __iter__(self) -> Iterator[Bytes]:
        for at in range(0, len(self._data), _PIECE):
            yield self._data[at : at + _PIECE]


class _FileBody(Body):
    """A range of a verified file in the LFS store."""

    def __init__(self, entry: Entry, path: str, start: int, stop: int) -> None:
        self.entry = entry
        self._file = open(path, "rb")  # noqa: SIM115
        self._file.seek(start)
        self._left = stop - start

    def __iter__(self) -> Iterator[Bytes]:
        while self._left and (piece := self._file.read(min(_PIECE, self._left))):
            self._left -= len(piece)
            yield piece
        if self._left:
            raise IntegrityError(f"the file ended {self._left} bytes early", where=self._file.name)
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
