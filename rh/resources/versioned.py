"""Versions of resources: commit what is there now, and come back to it by number, alias or digest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Self

from rh.errors import (
    ConflictError,
    ExistsError,
    ImmutableVersionError,
    IntegrityError,
    InvalidError,
    NotFoundError,
)
from rh.observe import log
from rh.registry import holding
from rh.registry.base import Registry, for_a_change
from rh.registry.lineage import recording
from rh.registry.lineage.recording import Pin, RunRef
from rh.registry.names import Name
from rh.resources import places, records
from rh.resources.base import Located
from rh.resources.records import series_key
from rh.resources.sharing import Shared
from rh.types import ABSENT, Location

if TYPE_CHECKING:
    from rh.registry.lineage.graph import Graph
    from rh.transfer import Verification
    from rh.versions.lease import Lease
    from rh.versions.series import AliasMove, Series, Version
    from rh.versions.store import Store, Tree

__all__ = ["DRAFTED", "Versioned"]

DRAFTED = "from a draft: the live data had no part in it"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Versioned(Shared, Located):
    """A resource whose data can be committed.

    Attributes:
        version: `"v3"`: this is that version, for ever the same; reading is verified and writing refused. `None`: it is
            live, and anybody may change it.
        pin: which version that is, and what was asked for.
    """

    version: str | None = None
    pin: Pin | None = field(default=None, compare=False)

    # What each kind has to say.

    def committed(self, store: Store, base: str | None, lease: Lease) -> Tree:
        """Put what is there now into the store, where `base` is the digest of the newest version."""
        raise NotImplementedError

    def at_version(self, location: Location) -> dict[str, Any]:
        """The fields of a handle on a version whose tree is at `location`."""
        return {"location": location}

    def placed(self) -> Location:
        """Where the data is. In a version, one file has the name that it had then, which the version tells."""
        location = super().placed()
        return location if self.version is None or "/" not in location.path else _in_version(location, self.host)

    # Making versions.

    def commit(
        self,
        message: str = "",
        *,
        aliases: Sequence[str] = (),
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        parent: str | None = None,
        ttl: float | str | None = None,
    ) -> Version:
        """Keep what is there now as a version, and return it.

        Only what no version has yet is stored. Content equal to that of the newest version makes no new one,
        unless that is in the store of another place, where this was before.

        Args:
            message: what changed, for people; not kept where no new one is made.
            aliases: to be moved onto the version.
            tags: words to find it by.
            metadata: plain JSON values.
            parent: the version this was made from (`"v3"`): if another one is the newest by now, it is a conflict.
            ttl: seconds, or `"90s"`, `"12h"`, `"30d"`, after which `rh gc` may drop it, unless an alias stands on it.

        Raises:
            InvalidError: it has no name.
            ConflictError: `parent` is not the newest version, the name means another place, or a file changed while it
                was committed.
            NotFoundError: there is nothing to commit.
        """
        return self.made(self.committed, message, aliases=aliases, tags=tags, metadata=metadata, parent=parent, ttl=ttl)

    def import_(
        self,
        path: str | os.PathLike[str],
        message: str = "",
        *,
        aliases: Sequence[str] = (),
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> Version:
        """Make the version that is in a file (see `export`) the newest one. What is live is not changed.

        Args:
            path: of the file: a path here, or a URL.
            message: as for `commit`.
            aliases: as for `commit`.
            tags: as for `commit`.
            metadata: as for `commit`.

        Raises:
            IntegrityError: it is not a version's file, or is damaged; no version is made.
        """
        from rh.versions.export import read_file

        location = places.resolve(path, None)

        def read(store: Store, _base: str | None, lease: Lease) -> Tree:
            tree = read_file(location, store, lease=lease)
            self._check_kind(store, tree)
            return tree

        return self.made(read, message, aliases=aliases, tags=tags, metadata=metadata)

    def _check_kind(self, store: Store, tree: Tree) -> None:
        """Refuse what is no version of a resource of this kind."""
        from rh.content.tree import key_text
        from rh.tables.adoption import format_of
        from rh.tables.base import INDEX

        if self.kind == "blob" and (tree.entries != 1 or tree.files != 1):
            raise InvalidError(f"{self.name} is a blob, and the version has {tree.entries:,} files")
        children = store.root(tree).children
        names = {key_text(child.name) for child in children}
        if self.kind == "folder" and INDEX in names:
            raise InvalidError(
                f"{self.name} is a folder, and the version is one of a table", hint="import it to a saved table"
            )
        rows = INDEX in names or any(child.kind == "dir" or format_of(key_text(child.name)) for child in children)
        if self.kind == "table" and not rows:
            raise InvalidError(
                f"{self.name} is a table, and the version has no files with rows", hint="import it to a saved folder"
            )

    @for_a_change()
    def made(
        self,
        make: Callable[[Store, str | None, Lease], Tree],
        message: str,
        *,
        aliases: Sequence[str],
        tags: Sequence[str],
        metadata: Mapping[str, Any] | None,
        parent: str | None = None,
        ttl: float | str | None = None,
    ) -> Version:
        """Have a tree made in the store, and record it as the newest version."""
        from rh.versions import sidecars
        from rh.versions.properties import Said
        from rh.versions.store import Store, place_of
        from rh.versions.told import Told

        self.check_live()
        message, aliases, tags, metadata, expires_s = Told.of(
            message, aliases, tags, metadata, ttl, where=self.name or self.kind
        )
        series = self.begun()
        made_from = None if parent is None else series.get(parent).number
        newest = series.latest()
        base = None if newest is None else series.get(f"v{newest}")
        self.check_reachable()
        location = place_of(self.placed())
        store = Store.at(location)
        known = base.digest if base is not None and base.store == location else None
        with store.lease() as lease:
            tree = make(store, known, lease)
            if self.kind == "folder" and made_from in (None, newest):
                aliases = [*aliases, *sidecars.taken(series, store, tree, known)]
            lease.check()  # else it may be gone by now, and a reference to it would keep every collection from its work
            store.ref(series.series, tree.digest)
            version, is_new = series.add(
                tree.digest,
                location,
                files=tree.files,
                size=tree.size,
                message=message,
                tags=tags,
                metadata=metadata,
                parent=made_from,
                aliases=aliases,
                expires=None if expires_s is None else time.time() + expires_s,
            )
        if is_new and not self.is_local and store.is_of_machine:
            log.warning(
                "%s:%s is kept on this machine only, in %s: others find the name, and cannot read the version",
                self.name, version.label, store.url,
            )  # fmt: skip
        if not is_new and message:
            log.info("nothing is new since %s:%s, so %r is not kept", self.name, version.label, message)
        if not is_new and (tags or metadata):
            return series.revise(version, Said.of(metadata, tags, where=f"{self.name}:{version.label}"))
        return version

    def begun(self) -> Series:
        """The series of this resource; the record gets the id of one if it has none.

        Raises:
            ConflictError: the name means another place than this value.
        """
        from rh.versions.series import Series, new_series

        name = self._saved_name()
        registry = holding(name)
        saved = registry.find(name.key)
        if saved is None:
            self.save()
        elif self.version is None and self.location is not None:
            self._check_place(saved.document)
        key = series_key(name)
        record = registry.find(key) or records.take_back(registry, name, self.kind)
        if record is None:
            try:
                record = registry.put(key, {"series": new_series()}, when=ABSENT)
            except ExistsError:
                record = registry.get(key)
        return Series(registry, str(record.document["series"]), str(name))

    def named_anew(self, registry: Registry) -> None:
        """A name that was forgotten gets its versions back."""
        records.take_back(registry, self._saved_name(), self.kind)

    def _check_place(self, document: Mapping[str, Any]) -> None:
        """Refuse to make versions under a name, of data that the name does not mean."""
        at = document.get("location")
        if not isinstance(at, Mapping) or self.location == Location(str(at["system"]), str(at["path"])):
            return
        there = places.url_of(Location(str(at["system"]), str(at["path"])))
        raise ConflictError(
            f"{self.name} is at {there}, and this is {self.url}",
            where=self.url,
            hint=f".save() first makes {self.name} mean this place; .save('another-name') keeps both",
        )

    def check_live(self) -> None:
        """Raise `ImmutableVersionError` for a handle on a version."""
        if self.version is not None:
            raise ImmutableVersionError(
                "a version never changes",
                where=f"{self.name}:{self.version}",
                hint=f"change {self.name} itself, and .commit() makes a new version; .to(…) copies this one",
            )

    # Looking at versions.

    def series_of(self) -> Series:
        """Its versions in the registry. `NotFoundError` before the first commit."""
        from rh.versions.series import Series

        name = self._saved_name()
        registry = holding(name)
        record = registry.find(series_key(name))
        if record is None:
            gone = records.not_saved(name, registry)
            if gone is not None:
                raise gone
            raise NotFoundError(f"{name} has no versions", where=registry.url, hint=".commit() makes one")
        return Series(registry, str(record.document["series"]), str(name))

    def versions(self) -> list[Version]:
        """Every version, oldest first; none before the first commit."""
        try:
            return self.series_of().all()
        except NotFoundError:
            return []

    def log(self) -> str:
        """The versions as text, newest first: number, aliases, digest, time, author, files, message."""
        return "\n".join(map(str, reversed(self.versions())))

    def at(self, which: str = "latest") -> Self:
        """A handle on a version: `"v3"`, an alias, `"latest"`, `"sha256:…"`. It can be read and copied, not written.

        Raises:
            NotFoundError: there is no such version; the nearest are in the message.
            InvalidError: no version can be named like that.
        """
        from rh.versions.series import check_which

        check_which(which)
        return self.pinned(self.series_of().get(which), which)

    def pinned(self, version: Version, asked: str | None = None) -> Self:
        """A handle on a version of this resource. Nothing is asked."""
        from rh.versions.system import known_as, location_of

        location = location_of(version.store, version.digest)
        known_as(location, f"{places.SAVED}{version.name}:{version.label}")
        asked = asked or version.label
        pin = Pin(version.name, version.series, version.number, version.digest, asked, version.drafted)
        host = places.portable(version.store)
        return replace(self, version=version.label, pin=pin, host=host, **self.at_version(location))

    def committed_version(self) -> Version:
        """The version this is a handle on; the newest one of a live resource."""
        return self.series_of().get(self.version or "latest")

    def check_version(self) -> Verification:
        """Read every byte of this version (or part of one) again, from its store, and compare it with its digest.

        Raises:
            IntegrityError: the store has lost or damaged the version's directories, so that its files are not known.
        """
        from rh.versions.lost import GoneError
        from rh.versions.store import Store
        from rh.versions.verify import verify_part, verify_version

        verify: Callable[[], Verification]

        if self.version is None and self.placed().in_version:
            self.check_reachable()
            url = whole = places.url_of(self.placed(), self.pin)
            if self.pin is not None:
                whole = f"{self.pin.name}:v{self.pin.number}"
            verify = partial(verify_part, self.placed(), url)
        else:
            version = self.committed_version()
            url = whole = f"{self.name}:{version.label}"
            verify = partial(verify_version, Store.at(version.store), version.digest, url)
        try:
            return verify()
        except (IntegrityError, NotFoundError) as error:
            if isinstance(error, NotFoundError) and self.version is None and not isinstance(error, GoneError):
                raise
            raise IntegrityError(
                f"what {url} is made of cannot be read: {error.message}", where=error.where,
                hint=f"rh version repair {whole}",
            ) from error  # fmt: skip

    def repair(self, which: str = "latest", source: str | os.PathLike[str] | Located | None = None) -> Verification:
        """Write again what the store has lost or damaged of a version, and say what is sound then.

        The bytes come from files that have them: those of the live data, or of any other copy. Files that the version
        only refers to (`adopt`), and that have changed or gone, are copies then.

        Args:
            which: `"v3"`, an alias, or a digest.
            source: a directory or file to take the bytes from, or a resource; by default the live data.

        Raises:
            IntegrityError: the version's directories are lost, and those data are not, as a whole, what it holds.
            NotFoundError: there is nothing at `source`.
        """
        from rh.resources.repairing import repair
        from rh.versions.series import check_which

        check_which(which)
        return repair(self, self.version or which, source)

    def export(self, path: str | os.PathLike[str], which: str = "latest", *, overwrite: bool = False) -> int:
        """Write a version, with all its files, as one file that `import_` reads, and return its bytes.

        Args:
            path: of the file: a path here, or a URL.
            which: `"v3"`, an alias, or a digest; a handle on a version writes that one.
            overwrite: whether a file that is there may be replaced.
        """
        from rh.versions.export import write_file
        from rh.versions.series import check_which
        from rh.versions.store import Store

        check_which(which)
        version = self.series_of().get(self.version or which)
        recording.read(self.pinned(version, which if self.version is None else None))
        store = Store.at(version.store)
        return write_file(store.tree(version.digest), store, places.resolve(path, None), overwrite=overwrite)

    # Where it came from.

    @property
    def produced_by(self) -> RunRef | None:
        """The run that made this version (the newest one, if it is live); `None` if no run did."""
        return self.committed_version().produced_by

    def used_by(self) -> list[RunRef]:
        """The runs that read this version (the newest one, if it is live), in the order they began."""
        return self.committed_version().used_by()

    def upstream(self, depth: int | None = None) -> Graph:
        """What it was made from, `depth` runs back (by default all). A live one is its newest version and its data."""
        from rh.resources.runs.tracing import lineage

        return lineage(self, up=depth, down=0)

    def downstream(self, depth: int | None = None) -> Graph:
        """What was made from it, `depth` runs on (by default all). A live one is its newest version and its data."""
        from rh.resources.runs.tracing import lineage

        return lineage(self, up=0, down=depth)

    # Aliases.

    @for_a_change()
    def alias(self, alias: str, version: str | None = None, *, expect: str | EllipsisType | None = ...) -> Version:
        """Move an alias onto a version, and return the version.

        Args:
            alias: `"production"`.
            version: `"v3"`, another alias, `"latest"` or a digest; by default the one that this is a handle on, and of
                what is live the newest.
            expect: the version it must stand on now (`None`: on none), or it is a conflict; by default wherever it is.
        """
        series = self.series_of()
        target = series.get((self.version or "latest") if version is None else version)
        wanted = series.get(expect).number if isinstance(expect, str) else expect
        series.alias(alias, target, expect=wanted)
        return series.get(target.label)

    @for_a_change()
    def unalias(self, alias: str) -> None:
        """Take an alias away, whichever version it stands on. The version stays."""
        self.series_of().unalias(alias)

    def aliases(self) -> dict[str, str]:
        """Aliases, and the versions they stand on."""
        return {alias: f"v{number}" for alias, number in self.series_of().aliases().items()}

    def alias_history(self, alias: str) -> list[AliasMove]:
        """Every move of an alias, oldest first, also of one that was taken away.

        Raises:
            NotFoundError: there never was one of that name.
        """
        return self.series_of().alias_history(alias)

    # The record.

    def _check_whole(self) -> None:
        if self.version is not None:
            raise InvalidError(
                f"{self.name}:{self.version} names a version; the name is {self.name}", hint=f"rh.load({self.name!r})"
            )

    def document(self) -> dict[str, Any]:
        if self.version is not None:
            raise ImmutableVersionError(
                "a handle on a version is not saved: the name has it already",
                where=f"{self.name}:{self.version}",
                hint=f'rh.load("{self.name}:{self.version}")',
            )
        return super().document()

    def __repr__(self) -> str:
        if self.version is None:
            return super().__repr__()
        how = ", from a draft" if self.pin is not None and self.pin.drafted else ""
        return f"<{type(self).__name__} {Name(self.name or '?')}:{self.version}{how}>"

    def facts(self) -> Iterator[tuple[str, str]]:
        yield from super().facts()
        if self.version is not None:
            yield "version", self.version + (f", {DRAFTED}" if self.pin is not None and self.pin.drafted else "")


def _in_version(location: Location, host: Mapping[str, Any] | None) -> Location:
    """Where a version has what is one file by the live name `location`: its own only file, else it is a directory."""
    from rh.tables.base import INDEX

    root = location.parent
    tree = places.at(root, host)
    try:
        found = list(islice(tree.list(depth=1), 2))
        if len(found) != 1 or found[0].kind == "dir":
            return root
    except (NotFoundError, IntegrityError):
        return location  # reading it tells what the store has lost
    try:
        tree.head(INDEX)
    except NotFoundError:
        return root / found[0].key
    return root
