"""What differs between two versions of a resource, as files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rh.versions.series import check_which

if TYPE_CHECKING:
    from rh.resources.versioned import Versioned
    from rh.versions.diff import Diff

__all__ = ["diff_versions"]


def diff_versions(resource: Versioned, old: str, new: str) -> Diff:
    """The files that differ from one version to another, by their digests: none is read.

    Raises:
        NotFoundError: there is no such version. InvalidError: no version can be named like that.
    """
    from rh.versions.diff import diff
    from rh.versions.store import Store

    for which in (old, new):
        check_which(which)
    series = resource.series_of()
    a, b = series.get(old), series.get(new)
    stores = Store.at(a.store), Store.at(b.store)
    return diff(stores[0].tree(a.digest), stores[1].tree(b.digest), *stores)
