"""A directory, wherever it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Self, Unpack, overload

from rh import digest as digests
from rh.errors import IntegrityError, InvalidError, NameClashError, NotFoundError, RhError, UnsupportedError
from rh.registry.lineage import recording
from rh.resources import places, places_saved
from rh.resources.annotated import Queried
from rh.resources.arguments import check_flag, load_only, place_for, split_options
from rh.resources.folder_versions import FolderVersions
from rh.resources.nearest import telling_nearest
from rh.resources.places import Place
from rh.resources.records import list_records
from rh.systems.base import System
from rh.types import BytesMode, Entry, Location, TextKeywords, TextMode

if TYPE_CHECKING:
    from rh.resources.cluster import Cluster
    from rh.resources.files import Expected
    from rh.transfer import Keywords, Links, Plan, Receipt, Verification
    from rh.versions.lease import Lease
    from rh.versions.series import Version
    from rh.versions.store import Store, Tree

__all__ = ["Folder"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Folder(Queried, FolderVersions):
    """A directory on some system: a frozen value that says which, and the verbs that work on it.

    Attributes:
        receipt: what the `.to()` that made this value really moved.
        tree: the folder whose manifest describes this one, if it is a part of another.

    Example:
        >>> import rh, tempfile
        >>> folder = rh.folder(path=tempfile.mkdtemp())
        >>> folder.put({"a.txt": b"one", "sub/b.txt": b"two"})
        >>> folder.ls(full_paths=False)
        ['a.txt', 'sub/']
        >>> (folder / "sub").get("b.txt")
        b'two'
    """

    kind: ClassVar[str] = "folder"
    location: Location = field(default=Location("", ""))
    receipt: Receipt | None = field(default=None, compare=False)
    tree: Location | None = field(default=None, compare=False)

    __hash__ = FolderVersions.__hash__

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.location, Location) or not self.location.system:
            raise InvalidError("a folder needs a location", hint="rh.folder(path=…)")

    def placed(self) -> Location:
        return self.location

    def adopt(self, name: str | None = None, message: str = "", *, aliases: Sequence[str] = ()) -> Version:
        """Make a version of what is there by reference: it is read once, for its digests, and nothing is copied.

        The version can be read as long as the files are what they are now; `verify` of it tells when they are not.

        Args:
            name: to save the folder under, if it has none.
            message: as for `commit`.
            aliases: as for `commit`.

        Raises:
            NotFoundError: there is no such folder; nothing is saved.
        """
        from rh.versions.commit import adopt_tree
        from rh.versions.told import Told

        self.check_live()
        Told.of(message, aliases, (), None, where=name or self.name or self.kind)
        if not self.exists_in_system():
            raise self.missing()
        saved = self if name is None else self.save(name)

        def adopted(store: Store, _base: str | None, lease: Lease) -> Tree:
            return adopt_tree(saved.handle(), store, lease=lease)

        return saved.made(adopted, message, aliases=aliases, tags=(), metadata=None)

    def restore(self, which: str, **options: Unpack[Keywords]) -> Folder:
        """Make the folder's own files what they were in a version; what came since is deleted. Versions stay.

        Args:
            which: `"v3"`, an alias, or a digest.
            options: as for `to`.
        """
        self.check_live()
        version = self.at(which)
        chosen: Keywords = {"delete": True, "ignore_file": False, "links": "keep", **options}
        if not self.handle().keeps_links:
            chosen["links"] = "follow"
        return replace(self, receipt=version.to(path=self.url, **chosen).receipt)

    def committed(self, store: Store, base: str | None, lease: Lease) -> Tree:
        from rh.versions.commit import commit_tree

        return commit_tree(self.handle(), store, base=base, lease=lease)

    def handle(self) -> System:
        """The system opened at this folder."""
        return places.at(self.location, self.host, self.pin)

    # What is in it.

    @telling_nearest()
    def ls(self, path: str = "", *, full_paths: bool = True) -> list[str]:
        """What lies directly in the folder, or in a directory in it, in order; directories end with `/`.

        Args:
            path: of a directory below the folder.
            full_paths: whole paths here, URLs elsewhere; else names in the directory.

        Raises:
            NotFoundError: there is no such directory.
        """
        if path:
            return (self / path).ls(full_paths=full_paths)
        names = [entry.key for entry in self._listed(self.handle().list(depth=1))]
        return [self._full(name) for name in names] if full_paths else names

    def _listed(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Entries of the whole folder; if there are none, the folder must exist all the same."""
        empty = True
        try:
            for entry in entries:
                empty = False
                yield entry
        except (NotFoundError, NameClashError) as error:
            if (file := self._is_a_file()) is not None:
                raise file from error
            raise
        if empty and not self.exists_in_system():
            raise self.missing()

    def _full(self, key: str) -> str:
        place = self.location / key
        return place.path if self.location.system == "file" else places.url_of(place, self.pin)

    def walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Like `os.walk`: for each directory its path below the folder (`""` first), its directories, its files.

        Removing names from the list of directories keeps the walk out of them.
        """
        system = self.handle()
        waiting = [""]
        while waiting:
            path = waiting.pop()
            directories: list[str] = []
            files: list[str] = []
            entries = system.list(path + "/" if path else "", depth=1)
            for entry in entries if path else self._listed(entries):
                name = entry.key[len(path) + 1 if path else 0 :]
                if entry.kind == "dir":
                    if name:
                        directories.append(name.rstrip("/"))
                else:
                    files.append(name)
            yield path, directories, files
            waiting += [f"{path}/{name}" if path else name for name in reversed(directories)]

    def glob(self, pattern: str, *, full_paths: bool = False) -> list[str]:
        """Paths that match, in order: `*`, `?` and `[…]` within a name, `**` for any number of directories.

        Names that begin with a dot are matched like others. Directories end with `/`.
        """
        from rh.resources.match import glob

        places.check_key(pattern)
        found = glob(self.handle(), pattern)
        return [self._full(key) for key in found] if full_paths else found

    def exists_in_system(self) -> bool:
        """Whether the folder is there; in a bucket, what holds nothing is if a manifest says so."""
        from rh.content import above, manifest

        system = self.handle()
        try:
            if next(iter(system.list(depth=1)), None) is not None:
                return True
        except (NotFoundError, NameClashError):
            return False
        parent, name = self.parent()
        if parent is None:
            return True
        # Where nothing marks an empty directory, an object of that name is a file (and what some stores answer for it).
        marked = [(parent, f"{name}/")] if parent.keeps_directories else []
        for place, key in ((system, manifest.NAME), *marked):
            try:
                place.head(key)
            except (NotFoundError, UnsupportedError):
                continue
            except InvalidError as error:
                error.where = self.url  # nobody has asked for a file of ours
                raise
            return True
        part = None if system.keeps_executable else above.part_of(system)
        return part is not None and part.is_of_directories()

    def missing(self) -> NotFoundError:
        """The error for a folder that is not there."""
        return self._is_a_file() or NotFoundError("there is no such folder", where=self.url)

    def _is_a_file(self) -> NotFoundError | None:
        """The error for a folder that is a file."""
        parent, name = self.parent()
        try:
            if parent is None or parent.head(name).kind != "file":
                return None
        except RhError:
            return None  # whatever it is, it is no folder
        hint = f"rh.blob(path={self.url!r}); of the rows in it, rh.table(path={self.url!r})"
        return NotFoundError("this is a file, not a folder", where=self.url, hint=hint)

    def parent(self) -> tuple[System | None, str]:
        """The system opened one level up, and this folder's name there; `None` for the root of a place."""
        path = self.location.path.rstrip("/")
        if "/" not in path or path == "~":
            return None, ""
        return places.at(self.location.parent, self.host), self.location.name

    @telling_nearest()
    def size(self) -> int:
        """Bytes of all files below the folder."""
        return sum(entry.size for entry in self._listed(self.handle().list()) if entry.kind == "file")

    def resources(self) -> list[str]:
        """Names of the saved resources whose data lie in this folder."""
        mine = self.location.path.rstrip("/")
        found = []
        for name, record in list_records("/"):
            at = record.document.get("location")
            if isinstance(at, dict) and at.get("system") == self.location.system:
                path = str(at.get("path", "")).rstrip("/")
                if path == mine or path.startswith(mine + "/"):
                    found.append(name.path)
        return found

    def __truediv__(self, path: str) -> Folder:
        """A folder in this folder, unnamed."""
        inner = path.rstrip("/") if isinstance(path, str) else path
        places.check_key(inner)
        return Folder(location=self.location / inner, host=self.host, tree=self.tree or self.location, pin=self.pin)

    # Bytes.

    @overload
    def open(self, path: str, mode: BytesMode = "rb", *, verify: bool | None = None) -> IO[bytes]: ...
    @overload
    def open(
        self, path: str, mode: TextMode, *, verify: bool | None = None, **text: Unpack[TextKeywords]
    ) -> IO[str]: ...
    @overload
    def open(self, path: str, mode: str, *, verify: bool | None = None, **text: Unpack[TextKeywords]) -> IO[Any]: ...
    @telling_nearest()
    def open(
        self,
        path: str,
        mode: str = "rb",
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        verify: bool | None = None,
    ) -> IO[Any]:
        r"""A file in the folder as a file object.

        Reading streams by ranges with read-ahead and can seek; writing (`"wb"`, `"w"`, `"xb"`, `"x"`) stores the whole
        file when it is closed, and nothing if the `with` block ends by an exception.

        Args:
            path: below the folder.
            mode: as Python's; without `b` it is text.
            encoding: of text; UTF-8 unless given.
            errors: as Python's, for text.
            newline: as Python's, for text.
            verify: where the folder's manifest knows the file, its bytes are checked as they are read from the start.
                `True` checks every byte before it is given out (reading whole chunks), `False` checks none.

        Example:
            >>> import rh, tempfile
            >>> folder = rh.folder(path=tempfile.mkdtemp())
            >>> with folder.open("notes.txt", "w") as file:
            ...     print("hello", file=file)
            >>> folder.open("notes.txt", "r").read()
            'hello\n'
        """
        from rh.resources.files import open_file

        places.check_file(path)
        if "r" not in mode:
            self.check_live()
        recording.opened(self, mode)
        return open_file(
            self.handle(),
            path,
            mode,
            encoding=encoding,
            errors=errors,
            newline=newline,
            verify=verify,
            expected=lambda entry: self._expected(path, entry),
        )

    def _expected(self, path: str, entry: Entry) -> Expected | None:
        """What the manifest that describes this folder says of a file in it, if it knows that very content."""
        from rh.content.known import row_of
        from rh.resources.files import Expected

        root, prefix = self.location, ""
        if self.tree is not None:
            root, prefix = self.tree, self.location.path[len(self.tree.path.rstrip("/")) + 1 :] + "/"
        row = row_of(places.at(root, self.host), prefix + path, entry)
        return Expected(row.digest, row.chunks) if row is not None and row.digest is not None else None

    @telling_nearest()
    def get(self, path: str) -> bytes:
        """The bytes of a file in the folder, in one request, checked where a digest is known or a checksum told."""
        from rh.resources.files import compare, reading

        places.check_file(path)
        recording.read(self)
        system = self.handle()
        with reading(system, path), system.read(path) as body:
            data = body.read()
            entry = body.entry
        known = self._expected(path, entry)
        where = places.url_of(self.location / path)
        if known is None:
            compare(data, entry, where)
        elif (got := digests.of_bytes(data).text) != known.digest:
            raise IntegrityError("the bytes are not what was stored", where=where, expected=known.digest, got=got)
        return data

    def put(self, contents: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Store files in the folder: `{path: bytes, file object, local path, folder or blob}`.

        All names are checked before the first byte is stored.

        Raises:
            ExistsError: something is there already and `overwrite` is false; nothing was changed.
            NameClashError: a file and a directory would have one name.
            InvalidError: a name leads out of the folder, or a value is none of these (text: `.encode()`, or a `Path`).
        """
        from rh.resources.putting import put

        check_flag("overwrite", overwrite)
        self.check_live()
        put(self, contents, overwrite=overwrite)
        recording.wrote(self)

    def mkdir(self) -> Self:
        """Make the folder if it is not there. A bucket has no directories; an empty manifest stands for one."""
        self.check_live()
        parent, name = self.parent()
        if parent is not None and parent.keeps_directories:
            parent.write(f"{name}/", b"")
        elif parent is not None and not self.exists_in_system():
            from rh.content import manifest

            manifest.write(self.handle(), [])
        return self

    @telling_nearest()
    def rm(self, *names: str, contents: Sequence[str] | None = None, recursive: bool = False) -> None:
        """Remove files (`rm("a.txt")`), directories (`rm("old/")`), or with `recursive=True` alone all there is.

        Only keys below the folder are removed, and only those named.

        Args:
            names: paths below the folder; a directory ends with `/`.
            contents: the same as a list.
            recursive: let a name without `/` be a directory too, and no names the whole folder.

        Raises:
            NotFoundError: something named is not there; nothing was removed.
            InvalidError: a directory is named without `/`, nothing at all is named, as by `rm(*found)` where nothing
                was found, or the folder is the root of a whole disk, home or bucket.
        """
        from rh.resources.removing import remove

        check_flag("recursive", recursive)
        self.check_live()
        recording.wrote(self)
        if isinstance(contents, str):
            raise InvalidError("contents= takes a list", hint=f"contents=[{contents!r}]")
        remove(self, [*names, *(contents or ())], whole=not names and contents is None, recursive=recursive)

    def sweep(self, *, older_than_s: float = 7 * 86_400.0) -> int:
        """Remove what crashed transfers left below the folder, unfinished uploads and hidden files; returns how many.

        Where the folder is a table, what killed writers of it left goes as well, but not of tables further down.
        What is complete is never touched. An interrupted transfer goes on from what it left, and one under way needs
        it, so only what is older than a week is removed by default.

        Args:
            older_than_s: age in seconds.

        Raises:
            UnsupportedError: this place keeps nothing unfinished, or does not tell.
            NotFoundError: there is no such directory; not in a bucket, where unfinished uploads are in none.
        """
        from rh.resources.removing import sweep

        return sweep(self, older_than_s)

    @telling_nearest()
    def local(self) -> Path:
        """A directory of this machine with the folder's files: itself if it is here, else a copy in the cache.

        The copy is brought up to date by each call, and is not to be written to. It stays at least as long as this
        process does; later it may go, as other things in the cache do.
        """
        recording.read(self)
        if places.is_here(self.location):
            if not self.exists_in_system():
                raise self.missing()
            return Path(self.location.path)
        from rh import transfer
        from rh.versions import copies

        self.check_reachable()
        path = copies.taken("folders", self.url, self.location.name)
        options = transfer.Options(delete=True, ignore_file=False)
        receipt = transfer.copy_tree(self.location, Location("file", str(path)), options)
        copies.made(path, self.url, receipt.digest, receipt.bytes_moved)
        return path

    def __fspath__(self) -> str:
        if self.location.system != "file":
            raise UnsupportedError(
                "this folder is not on this machine", where=repr(self), hint=".local() brings it here"
            )
        return self.location.path

    # Elsewhere.

    @telling_nearest()
    def to(
        self, system: Place = None, path: str | os.PathLike[str] | None = None, **options: Unpack[Keywords]
    ) -> Folder:
        """Copy the folder to another place, verified, and return the copy; this one stays as it is.

        Args:
            system: a system's name (`"s3"`, `"here"`), a URL, a cluster, a `Path` here. A URL is the very place; a name
                without `path` means `<root>/<name or digest>`.
            path: the place on that system, or a URL.
            options: those of `rh.transfer.Options` (`include=`, `exclude=`, `on_existing=`, `delete=`, `links=`,
                `workers=`, `bandwidth=`, …), and `progress=` and `cancel=`.

        Returns:
            A folder of the same name, not saved; `receipt` says what was moved.

        Raises:
            NotFoundError: there is nothing to copy.
            TransferError: some files did not arrive; the same call again goes on from there.
        """
        from rh import transfer

        chosen, watch = split_options(options)
        if chosen.dry_run:
            raise InvalidError("a dry run makes no copy to return", hint=".plan(…) says what would be moved")
        target = self._target(system, path)
        if target == self.location:
            return self
        recording.read(self)
        receipt = transfer.copy_tree(self.location, target, chosen, **watch)
        copy = replace(self, location=target, host=places.portable(target), receipt=receipt, tree=None, version=None)
        recording.wrote(copy)
        return copy

    @telling_nearest()
    def plan(
        self, system: Place = None, path: str | os.PathLike[str] | None = None, **options: Unpack[Keywords]
    ) -> Plan:
        """What `.to()` with the same arguments would move, by which route, and how many bytes. Print it."""
        from rh import transfer

        chosen, _ = split_options(options)
        return transfer.plan_tree(self.location, self._target(system, path), chosen)

    def _target(self, system: Place, path: str | os.PathLike[str] | None) -> Location:
        self.check_reachable()
        return places.target(system, path, places.stem_of(self.name) or (lambda: self.digest().replace(":", "-")))

    def from_cluster(self, cluster: Cluster) -> Folder:
        """The folder's path as a place on `cluster`.

        Raises:
            InvalidError: the folder is neither on this machine nor on the cluster, so its path says nothing there.
        """
        if self.location.system == cluster.system:
            return self
        if self.location.system != "file":
            raise InvalidError(
                "this folder is neither here nor on the cluster", where=repr(self), hint=".to(cluster) copies it"
            )
        location = Location(cluster.system, self.location.path)
        return replace(self, location=location, host=places.portable(location), receipt=None, tree=None)

    @telling_nearest()
    def digest(self, *, links: Links = "follow") -> str:
        """The digest of the whole tree: equal for equal names, bytes and executable bits.

        Args:
            links: `"follow"` takes what symbolic links lead to, `"keep"` the links themselves, `"skip"` neither;
                `"error"` refuses them. A receipt's digest is the one with the `links=` of its `to()`.

        """
        from rh import transfer

        self.check_reachable()
        return transfer.digest_tree(self.location, links=links)

    @telling_nearest()
    def verify(self) -> Verification:
        """Read every byte again and compare it with the manifest that the copy left.

        The result is true if all is well, and lists what is corrupt, modified, missing or added otherwise.
        """
        if self.location.in_version:
            return self.check_version()
        from rh import transfer

        self.check_reachable()
        return transfer.verify_tree(self.location)

    def ready(self) -> Self:
        """The folder, made if it was not there: a name must not point at nothing."""
        system = self.handle()
        if system.keeps_directories and not self.exists_in_system():
            self.mkdir()
        else:
            # Nothing under a prefix is an empty folder; a bucket or repository that is not there is an error.
            next(iter(system.list(depth=1)), None)
        return self

    def facts(self) -> Iterator[tuple[str, str]]:
        yield from super().facts()
        if self.receipt is not None:
            yield "receipt", str(self.receipt)


def folder(
    name: str | None = None,
    path: str | os.PathLike[str] | None = None,
    system: Place = None,
    version: str | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    dryrun: bool = False,
) -> Folder:
    """Return a folder: with a name alone the one saved under it, with `path=` or `system=` a new one at that place.

    No data is read or written; only the name is looked up.

    Args:
        name: `x`, `~/x`, `@/x` or `/org/team/x`. Never a path.
        path: a path or URL. Without a scheme it belongs to `system`; here it is relative to the working directory.
            `rh://name`, `rh://name:v3/sub` is what was saved, a version of it, or a directory in either.
        system: a system's name, a URL, a cluster. Without `path` the place is `<root>/<name>`.
        version: `"v3"`, an alias or a digest of the saved folder; the same as `name:v3`.
        metadata: plain JSON values to be saved with it.
        dryrun: give the saved record even if its system is not known here.

    Raises:
        NotFoundError: nothing of that name is saved; the nearest names are in the message.
        InvalidError: the name looks like a path or URL, or neither name nor place is given.

    Example:
        >>> import rh, tempfile
        >>> saved = rh.folder(name="docs-example", path=tempfile.mkdtemp()).save()
        >>> rh.folder("docs-example") == saved
        True
    """
    if version is not None:
        if path is not None or system is not None:
            raise InvalidError(
                "a version is of a saved name, without path= and system=", hint=f'rh.folder("name:{version}")'
            )
        name = f"{name}@{version}" if str(version).startswith("sha256:") else f"{name}:{version}"
    name, saved = places_saved.meant(name, path, system, dryrun=dryrun)
    if saved is not None:
        resource = saved.resource
        if not saved.is_directory:
            raise InvalidError(
                f"{resource.name} is a {resource.kind}, and no directory", hint=f"rh.{resource.kind}(name=…)"
            )
        if isinstance(resource, Folder) and name is None:
            resource = resource / saved.below if saved.below else resource
            return resource if metadata is None else replace(resource, metadata=metadata)
        return Folder(name=name, metadata=metadata or {}, **saved.fields())
    if path is None and system is None:
        found = load_only(name, Folder, dryrun=dryrun)
        return found if metadata is None else replace(found, metadata=metadata)
    place = place_for(name, path, system)
    if place is None:
        raise InvalidError("a folder needs a name or a path", hint="rh.folder(name=…, system=…) or rh.folder(path=…)")
    return Folder(name=name, location=place, host=places.portable(place), metadata=metadata or {})
