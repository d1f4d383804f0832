"""What the steps of a commit do to what there is, for registries that have no database to do it in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rh.errors import ConflictError, ExistsError, NotFoundError
from rh.registry.base import Change, Delete, Put, Record, Rename, Step
from rh.types import ABSENT, ANY, Condition, Match

__all__ = ["applied"]


def applied(
    steps: Sequence[Step],
    find: Callable[[str], Record | None],
    newest: Callable[[str], int],
    *,
    stamp: tuple[str, float, str],
    where: str,
) -> list[Change]:
    """The changes that these steps make, each checked against what `find` tells.

    Args:
        steps: that `check_steps` took, so no key comes twice and none sees what another one left.
        find: what is under a key.
        newest: the last revision of a key that nothing is under; 0 for one never used.
        stamp: author, time and token of the changes.
        where: the registry, for errors.

    Raises:
        ExistsError, ConflictError, NotFoundError: a precondition does not hold.
    """

    def change(key: str, there: Record | None, **what: Any) -> Change:
        revision = there.revision if there is not None else newest(key)
        author, time, token = stamp
        return Change(key=key, revision=revision + 1, author=author, time=time, token=token, **what)

    def made(step: Step) -> Iterator[Change]:
        there = find(step.key)
        _check(step.key, there, step.when, where, needed=not isinstance(step, Put))
        if isinstance(step, Put):
            yield change(step.key, there, action="put", document=dict(step.document))
        elif isinstance(step, Delete):
            yield change(step.key, there, action="delete", document=None)
        elif isinstance(step, Rename) and there is not None:
            other = find(step.to)
            if not step.replace:
                _check(step.to, other, ABSENT, where, needed=False)
            yield change(step.key, there, action="delete", document=None, moved=step.to)
            yield change(step.to, other, action="put", document=there.document, moved=step.key)

    return [one for step in steps for one in made(step)]


def _check(key: str, there: Record | None, when: Condition, where: str, *, needed: bool) -> None:
    if isinstance(when, Match):
        if there is None:
            raise ConflictError(f"{key!r} is gone; it was at revision {when.etag}", where=where)
        if there.etag != when.etag:
            raise ConflictError(
                f"{key!r} is at revision {there.revision} (by {there.author}), not {when.etag}", where=where
            )
    elif when is ABSENT and there is not None:
        raise ExistsError(f"{key!r} is there already, at revision {there.revision} (by {there.author})", where=where)
    elif when is ANY and needed and there is None:
        raise NotFoundError(f"nothing is registered as {key!r}", where=where)
