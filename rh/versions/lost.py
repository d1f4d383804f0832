"""What a store does not have any more: parts of a version that it lost, and versions that nobody keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rh.errors import IntegrityError, NotFoundError
from rh.versions.layout import REPAIR, tree_key

if TYPE_CHECKING:
    from rh.versions.store import Store

__all__ = ["GoneError", "LostError", "no_marker"]


class LostError(IntegrityError):
    """Part of a version is not where it should be: what it holds is known, and cannot be read."""

    retryable = False

    def __init__(
        self, message: str = "the store has lost part of a version", *, where: str, hint: str | None = REPAIR
    ) -> None:
        super().__init__(message, where=where, hint=hint)


class GoneError(NotFoundError):
    """A whole version is not in the store: it was dropped since, or was never there."""


def no_marker(store: Store, digest: str) -> LostError | GoneError:
    """The error of a version that is not whole: it was dropped if nothing says that the store should have it."""
    where = store.system.url(tree_key(digest))
    if not _has(store, "format.json"):
        return LostError(
            "the store has nothing in it: it has lost the version, or is not the one that had it", where=where
        )
    if not _has(store, tree_key(digest)) and all(ref.tree != digest for ref in store.refs()):
        return GoneError(
            f"there is no version {digest} in this store: it is no longer there, or never was",
            where=where,
            hint="rh version ls NAME lists those there are",
        )
    return LostError("the store has lost the marker of a version", where=where)


def _has(store: Store, key: str) -> bool:
    try:
        store.system.head(key)
    except NotFoundError:
        return False
    return True
