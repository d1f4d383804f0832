"""What a folder's versions have that those of tables and blobs have not: drafts, uploads, differences."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, overload

from rh.resources import places
from rh.resources.versioned import Versioned

if TYPE_CHECKING:
    from rh.progress import Progress
    from rh.resources.draft import Draft
    from rh.resources.folder import Folder
    from rh.resources.named_draft import NamedDraft
    from rh.transfer.options import Links
    from rh.versions.diff import Diff
    from rh.versions.drafts import OpenDraft
    from rh.versions.series import Version

__all__ = ["FolderVersions"]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class FolderVersions(Versioned):
    """The verbs of a folder that are about its versions."""

    @overload
    def draft(
        self,
        name: None = None,
        *,
        base: str | None = "latest",
        message: str = "",
        aliases: Sequence[str] = (),
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> Draft: ...

    @overload
    def draft(
        self,
        name: str,
        *,
        base: str | None = "latest",
        message: str = "",
        aliases: Sequence[str] = (),
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> NamedDraft: ...

    def draft(
        self,
        name: str | None = None,
        *,
        base: str | None = "latest",
        message: str = "",
        aliases: Sequence[str] = (),
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> Draft:
        """Put a version together piece by piece, in a `with` block; its end makes one version, or none if it fails.

        With a name, the end of the block keeps what was changed, and other processes and machines can join by the same
        name, until one of them calls `.commit()` or `.discard()`. The folder's own files are neither read nor changed.

        Args:
            name: of a draft that others can join.
            base: the version that is changed; `None` begins with nothing.
            message: as for `commit`.
            aliases: as for `commit`.
            tags: as for `commit`.
            metadata: as for `commit`.
        """
        from rh.resources.draft import Draft
        from rh.resources.named_draft import NamedDraft

        folder = cast("Folder", self)
        options: dict[str, Any] = {
            "base": base, "message": message, "aliases": aliases, "tags": tags, "metadata": metadata
        }  # fmt: skip
        return Draft(folder, **options) if name is None else NamedDraft(folder, name, **options)

    def drafts(self) -> list[OpenDraft]:
        """The drafts with names that are neither committed nor discarded."""
        from rh.resources.named_draft import open_drafts

        return open_drafts(cast("Folder", self))

    def upload(
        self,
        local: str | os.PathLike[str],
        path: str | None = None,
        *,
        message: str = "",
        update: bool = False,
        aliases: Sequence[str] = (),
        tags: Sequence[str] = (),
    ) -> Version:
        """Add a file or directory of this machine to the newest version, and return the new one.

        Args:
            local: the file or directory.
            path: where to; a file keeps its name by default, what is in a directory comes to the root.
            message: as for `commit`.
            update: whether files that are there may be replaced.
            aliases: as for `commit`.
            tags: as for `commit`.

        Raises:
            ExistsError: a file is there already, and `update` is false; no version is made.
        """
        from rh.resources.draft import upload

        return upload(cast("Folder", self), local, path, message=message, update=update, aliases=aliases, tags=tags)

    def diff(self, old: str, new: str = "latest") -> Diff:
        """What differs from one version to another: added, removed, modified, renamed. No file is read.

        Args:
            old: `"v1"`, an alias, or a digest.
            new: the same.
        """
        from rh.resources.comparing import diff_versions

        return diff_versions(self, old, new)

    def compare(
        self,
        other: str | os.PathLike[str] | Folder,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        ignore_file: bool = True,
        links: Links = "follow",
        progress: Progress | None = None,
    ) -> Diff:
        """What differs from this folder to another one, anywhere: true if anything does. Print it.

        Files of one size whose digests are not known are read, where possible by the places themselves.

        Args:
            other: a path here, a URL, or a folder.
            include: patterns of the files that are meant, as for `to`; also `exclude`, `ignore_file` and `links`.
            exclude: see there.
            ignore_file: see there.
            links: see there.
            progress: is told of the files that are read; by default a bar on a terminal.

        Raises:
            NotFoundError: one of them is not there. ConflictError: a file changed meanwhile.
        """
        from rh.resources.comparing import diff_places
        from rh.resources.folder import Folder
        from rh.transfer import Options

        here = cast("Folder", self)
        there = other if isinstance(other, Folder) else Folder(location=places.resolve(other, None))
        for one in (here, there):
            one.check_reachable()
            if not one.exists_in_system():
                raise one.missing()
        options = Options(include=include, exclude=exclude, ignore_file=ignore_file, links=links)
        return diff_places(here.location, there.location, options, progress)
