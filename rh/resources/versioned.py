"""Versions of resources: commit what is there now, and come back to it by number, alias or digest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Self

from rh.errors import ExistsError, ImmutableVersionError, InvalidError, NotFoundError
from rh.registry import holding
from rh.registry.names import Name
from rh.resources import places
from rh.resources.base import Located, series_key
from rh.types import ABSENT, Location

if TYPE_CHECKING:
    from rh.transfer import Verification
    from rh.versions.lease import Lease
    from rh.versions.series import AliasMove, Series, Version
    from rh.versions.store import Store, Tree

__all__ = ["Versioned"]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Versioned(Located):
    """A resource whose data can be committed.

    Attributes:
        version: `"v3"`: this is that version, for ever the same; reading is verified and writing refused. `None`: it is
            live, and anybody may change it.
    """

    version: str | None = None

    # What each kind has to say.

    def committed(self, store: Store, base: str | None, lease: Lease) -> Tree:
        """Put what is there now into the store, where `base` is the digest of the newest version."""
        raise NotImplementedError

    def at_version(self, location: Location) -> dict[str, Any]:
        """The fields of a handle on a version whose tree is at `location`."""
        return {"location": location}

    # Making versions.

    def commit(
        self,
        message: str = "",
        *,
        aliases: Sequence[str] = (),
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        parent: str | None = None,
        ttl: float | None = None,
    ) -> Version:
        """Keep what is there now as a version, and return it.

        Only what no version has yet is stored. Content equal to that of the newest version makes no new one.

        Args:
            message: what changed, for people.
            aliases: to be moved onto the version.
            tags: words to find it by.
            metadata: plain JSON values.
            parent: the version this was made from (`"v3"`): if another one is the newest by now, it is a conflict.
            ttl: seconds after which `rh gc` may drop it, unless an alias stands on it.

        Raises:
            InvalidError: it has no name.
            ConflictError: `parent` is not the newest version, or a file changed while it was committed.
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
            if self.kind == "blob" and tree.entries != 1:
                raise InvalidError(f"{self.name} is a blob, and the version has {tree.entries:,} files")
            return tree

        return self.made(read, message, aliases=aliases, tags=tags, metadata=metadata)

    def made(
        self,
        make: Callable[[Store, str | None, Lease], Tree],
        message: str,
        *,
        aliases: Sequence[str],
        tags: Sequence[str],
        metadata: Mapping[str, Any] | None,
        parent: str | None = None,
        ttl: float | None = None,
    ) -> Version:
        """Have a tree made in the store, and record it as the newest version."""
        from rh.versions.series import check_alias
        from rh.versions.store import Store, place_of

        self.check_live()
        for alias in aliases:
            check_alias(alias)
        for name, value in (("aliases", aliases), ("tags", tags)):
            if isinstance(value, str):
                raise InvalidError(f"{name}= takes a list", hint=f"{name}=[{value!r}]")
        if ttl is not None and (not isinstance(ttl, int | float) or not ttl > 0):
            raise InvalidError(f"ttl={ttl!r} is not a number of seconds above 0")
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
            store.ref(series.series, tree.digest)
            version, _ = series.add(
                tree.digest,
                location,
                files=tree.files,
                size=tree.size,
                message=message,
                tags=tags,
                metadata=metadata,
                parent=made_from,
                aliases=aliases,
                expires=None if ttl is None else time.time() + ttl,
            )
        return version

    def begun(self) -> Series:
        """The series of this resource; the record gets the id of one if it has none."""
        from rh.versions.series import Series, new_series

        name = self._saved_name()
        registry = holding(name)
        if registry.find(name.key) is None:
            self.save()
        key = series_key(name)
        record = registry.find(key)
        if record is None:
            try:
                record = registry.put(key, {"series": new_series()}, when=ABSENT)
            except ExistsError:
                record = registry.get(key)
        return Series(registry, str(record.document["series"]), str(name))

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
        """
        from rh.versions.system import location_of

        version = self.series_of().get(which)
        location = location_of(version.store, version.digest)
        return replace(self, version=version.label, host=places.portable(version.store), **self.at_version(location))

    def committed_version(self) -> Version:
        """The version this is a handle on; the newest one of a live resource."""
        return self.series_of().get(self.version or "latest")

    def check_version(self) -> Verification:
        """Read every byte of this version again, from its store, and compare it with its digest."""
        from rh.versions.store import Store
        from rh.versions.verify import verify_version

        version = self.committed_version()
        return verify_version(Store.at(version.store), version.digest, f"{self.name}:{version.label}")

    def restore(self, which: str) -> Self:
        """Make what is live what it was in a version. Versions stay.

        Args:
            which: `"v3"`, an alias, or a digest.
        """
        self.check_live()
        restored = self.at(which).to(path=self.url)  # type: ignore[attr-defined]
        return replace(self, receipt=restored.receipt)  # type: ignore[call-arg]

    def export(self, path: str | os.PathLike[str], which: str = "latest", *, overwrite: bool = False) -> int:
        """Write a version, with all its files, as one file that `import_` reads, and return its bytes.

        Args:
            path: of the file: a path here, or a URL.
            which: `"v3"`, an alias, or a digest; a handle on a version writes that one.
            overwrite: whether a file that is there may be replaced.
        """
        from rh.versions.export import write_file
        from rh.versions.store import Store

        version = self.series_of().get(self.version or which)
        store = Store.at(version.store)
        return write_file(store.tree(version.digest), store, places.resolve(path, None), overwrite=overwrite)

    # Aliases.

    def alias(self, alias: str, version: str = "latest", *, expect: str | EllipsisType | None = ...) -> Version:
        """Move an alias onto a version, and return the version.

        Args:
            alias: `"production"`.
            version: `"v3"`, another alias, `"latest"` or a digest.
            expect: the version it must stand on now (`None`: on none), or it is a conflict; by default wherever it is.
        """
        series = self.series_of()
        target = series.get(version)
        wanted = series.get(expect).number if isinstance(expect, str) else expect
        series.alias(alias, target, expect=wanted)
        return series.get(target.label)

    def unalias(self, alias: str) -> None:
        """Take an alias away. The version stays."""
        self.series_of().unalias(alias)

    def aliases(self) -> dict[str, str]:
        """Aliases, and the versions they stand on."""
        return {alias: f"v{number}" for alias, number in self.series_of().aliases().items()}

    def alias_history(self, alias: str) -> list[AliasMove]:
        """Every move of an alias, oldest first."""
        return self.series_of().alias_history(alias)

    # The record.

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
        return f"<{type(self).__name__} {Name(self.name or '?')}:{self.version}>"
