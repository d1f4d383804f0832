"""Drafts: changes of a version put together piece by piece, and committed as one."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any, Self

from rh.errors import InvalidError, NotFoundError, RhError, UnsupportedError
from rh.observe import log
from rh.registry.lineage import recording
from rh.resources import annotated, places
from rh.resources.base import load
from rh.systems import locate
from rh.types import Location

if TYPE_CHECKING:
    from rh.resources.carried import Went
    from rh.resources.folder import Folder
    from rh.versions.edit import Edit
    from rh.versions.lease import Lease
    from rh.versions.series import Series, Version
    from rh.versions.store import Tree

__all__ = ["Draft", "upload"]


class Draft:
    """Changes on their way to one version of a folder; nothing of them is seen before that, or if the block fails.

    Only what no version has yet is stored: removing, moving and copying between versions store no data.

    Args:
        folder: a saved folder.
        base: the version that is changed; `None` begins with nothing.
        message: of the version.
        aliases: to be moved onto it.
        tags: words to find it by.
        metadata: plain JSON values.

    Attributes:
        version: the version that was made, after the block.

    Example:
        >>> import rh, tempfile
        >>> folder = rh.folder(name="docs-draft", path=tempfile.mkdtemp()).save()
        >>> with folder.draft(message="two files") as draft:
        ...     draft.add(b"one", path="a.txt")
        ...     draft.add(b"two", path="b/c.txt")
        >>> draft.version.label, rh.folder("docs-draft:v1").glob("**")
        ('v1', ['a.txt', 'b/', 'b/c.txt'])
    """

    def __init__(
        self,
        folder: Folder,
        *,
        base: str | None = "latest",
        message: str = "",
        aliases: Sequence[str] = (),
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        from rh.versions.told import Told

        folder.check_live()
        told = Told.of(message, aliases, tags, metadata, where=folder.name or folder.kind)._asdict()
        del told["ttl"]
        self.folder = folder
        self.version: Version | None = None
        self._base = base
        self._said: dict[str, Any] = told
        self._stack = ExitStack()
        self._edit: Edit | None = None
        self._lease: Lease | None = None
        self._series: Series | None = None
        self._from: Version | None = None
        self._went: list[Went] = []
        """What was moved and copied: what is said of it goes along."""

    # The block.

    def __enter__(self) -> Self:
        from rh.versions.edit import Edit
        from rh.versions.store import Store, place_of

        if self._edit is not None or self.version is not None:
            raise InvalidError("a draft is begun once", hint=".draft() makes another one")
        self.folder.check_reachable()
        self._series = self.folder.begun()
        location = place_of(self.folder.placed())
        store = Store.at(location)
        if self._base is not None and (self._base != "latest" or self._series.latest() is not None):
            self._from = self._series.get(self._base)
            recording.read(self.folder.pinned(self._from, self._base))
        elsewhere = self._from is not None and self._from.store != location
        digest = None if self._from is None or elsewhere else self._from.digest
        called = f"a draft of {self.folder.name}"
        with ExitStack() as stack:
            lease = stack.enter_context(store.lease())
            edit = stack.enter_context(Edit(store, digest, lease=lease, called=called))
            if elsewhere and self._from is not None:
                edit.copy_from(Store.at(self._from.store), self._from.digest)
            self._edit, self._lease, self._stack = edit, lease, stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        try:
            if kind is None and self.version is None:
                self.commit()
        finally:
            self._edit = None
            self._stack.close()

    def commit(self, message: str | None = None) -> Version:
        """Make the version, and return it. The end of the block does it where nobody did before.

        Raises:
            ConflictError: another version was committed meanwhile, or a file changed since it was added.
        """
        from rh.versions import sidecars

        edit, series = self._begun(), self._series
        assert series is not None
        if message is not None:
            message = self._message(message)
        carried = self._carried(series, self._went)
        tree = edit.finish()
        store = edit.store
        self._keep(series, tree)
        latest = series.latest()
        on_newest = self._base == "latest" and self._from is not None
        said = self._said if message is None else {**self._said, "message": message}
        if not on_newest or self._from is None or self._from.number == latest:
            known = self._from.digest if self._from is not None and store.has_tree(self._from.digest) else None
            said = {**said, "aliases": [*said["aliases"], *sidecars.taken(series, store, tree, known)]}
        self.version, _ = series.add(
            tree.digest,
            store.system.location,
            files=tree.files,
            size=tree.size,
            parent=self._from.number if on_newest and self._from is not None else latest,
            drafted=True,
            **said,
        )
        annotated.carry(carried.items(), self.folder)
        return self.version

    def _keep(self, series: Series, tree: Tree) -> None:
        """Keep what is going to be a version from being swept, unless that may have happened."""
        assert self._lease is not None
        self._lease.check()
        self._begun().store.ref(series.series, tree.digest)

    def _message(self, message: str) -> str:
        from rh.versions.told import check_message

        return check_message(message, self.folder.name or self.folder.kind)

    def _carried(self, series: Series, went: Sequence[Went]) -> dict[str, Mapping[str, Any]]:
        """What goes along with files, by their new paths."""
        if not went:
            return {}
        from rh.resources.carried import said_of

        try:
            found = said_of(series, went)
            annotated.check_carried(found.items(), self.folder)
        except RhError as error:  # since `copy_from` looked: a type that was new then, a registry of another machine
            log.warning("what is said of the files that were moved and copied stays behind: %s", error)
            return {}
        return found

    def _begun(self) -> Edit:
        if self._edit is None:
            raise InvalidError("the draft is not begun, or over", hint="with folder.draft() as draft: …")
        return self._edit

    @contextmanager
    def _changing(self) -> Iterator[Edit]:
        """What one call changes."""
        yield self._begun()

    # Changes.

    def add(self, file: Any, path: str | None = None, *, update: bool = False, executable: bool | None = None) -> None:
        """Put a file: bytes, a file object, a path here (what a link leads to), or a blob.

        Args:
            file: what to put.
            path: where; by default the name of a file that has one, also in a directory (`sub/`).
            update: whether a file there may be replaced.
            executable: whether it is a program; by default as the file is.

        Raises:
            InvalidError: a file object or bytes without `path=`, or a directory (`add_dir`).
            ExistsError: there is one, and it may not be replaced.
        """
        _check_text(path or "")
        with self._changing() as edit:
            _add(edit, file, path, update=update, executable=executable)

    def add_dir(
        self,
        directory: str | os.PathLike[str] | Folder,
        path: str = "",
        *,
        glob_exclude: str | Sequence[str] = (),
        update: bool = False,
    ) -> None:
        """Put all that is in a directory here or in a folder anywhere, as it is when the draft is committed.

        Args:
            directory: which.
            path: the directory in the draft; by default its root.
            glob_exclude: patterns (those of `.gitignore`) of what to leave out.
            update: whether files may be replaced.
        """
        from rh import transfer
        from rh.resources.folder import Folder

        if isinstance(directory, Folder):
            recording.read(directory)
        _check_text(path)
        source = directory.handle() if isinstance(directory, Folder) else places.at(_local(directory))
        exclude = [glob_exclude] if isinstance(glob_exclude, str) else list(glob_exclude)
        to = path if not path or path.endswith("/") else f"{path}/"
        with self._changing() as edit:
            edit.add_tree(source, to, options=transfer.Options(exclude=exclude), update=update)

    def add_reference(self, url: str | os.PathLike[str], path: str | None = None, *, update: bool = False) -> None:
        """Put a file, or a directory (both end with `/`), that stays where it is: nothing is copied.

        It can be read as long as it is what it is now; `verify` tells when it is not.

        Args:
            url: where it is.
            path: where it is to be; by default its name.
            update: whether files there may be replaced.
        """
        _check_text(path or "")
        if url is None:
            raise InvalidError("which file?", hint="its path or URL")
        place = places.resolve(url, None)
        with self._changing() as edit:
            edit.add_reference(place, _needed(path, url) if path is not None else place.name, update=update)

    def remove(self, path: str) -> None:
        """Take away a file, or a directory with all in it (`old/`)."""
        _check_text(path)
        with self._changing() as edit:
            edit.remove(path)

    def move(self, old: str, new: str) -> None:
        """Give a file, or a directory (both end with `/`), another path. What is said of it goes along."""
        from rh.resources.carried import Went

        _check_text(old, new)
        with self._changing() as edit:
            edit.move(old, new)
            series = self._series
            assert series is not None
            self._went.append(Went(edit.made, series.registry.url, series.series, old, new, moved=True))

    def copy_from(self, name: str, sub: str = "", to: str | None = None) -> None:
        """Take over a file or a directory of another version; where that is in the same store, nothing is read.

        What is said of the files goes along. All of a table's version is its files, to be read with `format=`.

        Args:
            name: `"other:v4"`.
            sub: a file, or a directory (ends with `/`); all of it by default.
            to: where it is to be; by default the same path.

        Raises:
            InvalidError: what is said of one of the files has another type here.
        """
        from rh.resources.carried import Went, said_of
        from rh.resources.versioned import Versioned
        from rh.versions.store import Store

        _check_text(sub, to or "")
        found = load(name)
        if not isinstance(found, Versioned):
            raise InvalidError(f"{name} is a {found.kind}, which has no versions")
        version, series = found.committed_version(), found.series_of()
        target = sub if to is None else to
        if target and not sub and not target.endswith("/"):
            target += "/"
        went = Went(0, series.registry.url, series.series, sub, target)
        annotated.check_carried(said_of(series, [went]).items(), self.folder)
        recording.read(found.pinned(version, found.pin and found.pin.asked))
        with self._changing() as edit:
            called = f"{found.name}:{version.label}"
            edit.copy_from(Store.at(version.store), version.digest, sub, to, called=called)
            self._went.append(went._replace(at=edit.made))


def _add(edit: Edit, file: Any, path: str | None, *, update: bool, executable: bool | None) -> None:
    from rh.resources.blob import Blob
    from rh.versions.source import followed

    if isinstance(file, Blob) and file.written:
        recording.read(file)
        system, name = file.handle()
    elif isinstance(file, str | os.PathLike):
        place = locate(os.fspath(file))
        if place.system == "file" and os.path.isdir(place.path):
            raise InvalidError("that is a directory", where=place.path, hint=".add_dir(…)")
        system, name = places.at(place.parent), place.name
    else:
        data = file.read() if isinstance(file, Blob) else _data(file)
        edit.add(_needed(path, file), data, executable=bool(executable), update=update)
        return
    entry = followed(system, name)
    if entry.kind == "link":
        raise UnsupportedError("the link leads to no file", where=system.url(name))
    if executable is not None:
        entry = entry._replace(executable=executable)
    edit.add(f"{path or ''}{name}" if not path or path.endswith("/") else path, (system, entry), update=update)


def _needed(path: str | None, what: object) -> str:
    if not path:
        raise InvalidError(f"a {type(what).__name__} has no name of its own", hint='path="where/to.bin"')
    return path


def _check_text(*paths: str) -> None:
    for path in paths:
        if not isinstance(path, str):
            raise InvalidError(f"a path in a version is text, not {type(path).__name__}")


def _local(path: str | os.PathLike[str] | None) -> Location:
    """A file or directory of this machine, or of where its URL says."""
    if path is None:
        raise InvalidError("which file or directory?", hint="its path")
    return locate(path)


def _data(file: Any) -> bytes | IO[bytes]:
    """Bytes, or what they can be read from."""
    if isinstance(file, bytes | bytearray | memoryview):
        return bytes(file)
    if not hasattr(file, "read"):
        raise InvalidError(f"a {type(file).__name__} is no file", hint="bytes, a file object, a path, or a blob")
    if isinstance(file, io.TextIOBase):
        raise InvalidError("the file is opened as text", hint='open(…, "rb")')
    found: IO[bytes] = file
    return found


def upload(
    folder: Folder,
    local: str | os.PathLike[str],
    path: str | None = None,
    *,
    message: str = "",
    update: bool = False,
    aliases: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> Version:
    """`Folder.upload`."""
    place = _local(local)
    if place.system == "file" and not os.path.exists(place.path):
        raise NotFoundError("there is no such file or directory", where=place.path)
    with Draft(folder, message=message or f"upload {place.name}", aliases=aliases, tags=tags) as draft:
        if place.system == "file" and os.path.isdir(place.path):
            draft.add_dir(place.path, path or "", update=update)
        else:
            draft.add(local, path, update=update)
    assert draft.version is not None
    return draft.version
