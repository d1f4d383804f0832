"""`rh://` and a saved name: the resource that has the name, and the place below it that is meant."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple, TypeGuard

from rh.errors import InvalidError, NotFoundError, RhError, UnsupportedError
from rh.resources import base, places
from rh.types import Location

__all__ = ["Saved", "find", "is_saved", "longest", "meant"]


class Saved(NamedTuple):
    """What a `rh://` URL means: a saved resource or a version of one, and a path below it (`""`: all of it)."""

    resource: base.Located
    below: str

    @property
    def location(self) -> Location:
        """The place that is meant."""
        root = self.resource.placed()
        return root / self.below if self.below else root

    @property
    def is_directory(self) -> bool:
        """Whether the resource is a directory, so that something can be in it."""
        return self.resource.kind == "folder" or getattr(self.resource, "is_file", True) is False

    def fields(self) -> dict[str, Any]:
        """The fields of a new value for that place; what is in a version says which version it is read of."""
        host = self.resource.host or places.portable(self.location)
        return {"location": self.location, "host": host, "pin": getattr(self.resource, "pin", None)}


def is_saved(text: object) -> TypeGuard[str]:
    """Whether an argument is a `rh://` URL."""
    return isinstance(text, str) and text.startswith(places.SAVED)


def find(url: str, *, dryrun: bool = False) -> Saved:
    """What a `rh://` URL means: the longest saved name that it begins with, and what follows.

    Args:
        url: `rh://x`, `rh://~/x:v3/path`, `rh:///org/x@sha256:…/path`.
        dryrun: as for `rh.load`.

    Raises:
        NotFoundError: nothing has that name, or no such version.
        InvalidError: what has the name has no place, or nothing can be in it.
    """
    words = url.removeprefix(places.SAVED).rstrip("/")
    if not words:
        raise InvalidError("rh:// needs a name after it", where=url, hint="rh resources lists the names there are")
    resource, rest = longest(words, dryrun=dryrun)
    if not isinstance(resource, base.Located):
        raise InvalidError(f"{resource.name} is a {resource.kind}, and has no place", where=url)
    found = Saved(resource, rest)
    if rest:
        if not found.is_directory:
            raise InvalidError(f"{resource.name} is a {resource.kind}; nothing is in it", where=url)
        places.check_key(rest)
    return found


def longest(words: str, *, dryrun: bool = False) -> tuple[base.Resource, str]:
    """The resource with the longest saved name that `words` begin with, and what follows."""
    steps = words.split("/")
    first: RhError | None = None
    for end in range(len(steps), 0, -1):
        name = "/".join(steps[:end])
        try:
            return base.load(name, dryrun=dryrun), "/".join(steps[end:])
        except (NotFoundError, InvalidError, UnsupportedError) as error:
            if isinstance(error, NotFoundError) and base.exists(_bare(name)):
                raise  # the name is known; the version is not, or the system it lies on
            if first is None or (isinstance(first, InvalidError) and not isinstance(error, InvalidError)):
                first = error
    if isinstance(first, NotFoundError):
        named = "path=" in (first.hint or "")  # of the registry itself it has its own fix
        hint = "rh resources lists the names there are" if named else first.hint
        raise NotFoundError(first.message, where=first.where, hint=hint)
    raise first or NotFoundError(f"nothing is called {words!r}")


def meant(
    name: str | None, path: str | os.PathLike[str] | None, system: places.Place, *, dryrun: bool = False
) -> tuple[str | None, Saved | None]:
    """The name that a factory was given, and what the `rh://` URL means that came as its name or path, if one did."""
    url = name if is_saved(name) and path is None else path
    if not is_saved(url):
        return name, None
    if system is not None:
        raise InvalidError("system= and a rh:// URL both say where", where=url, hint="give one of them")
    return (None if url is name else name), find(url, dryrun=dryrun)


def _bare(name: str) -> str:
    """A name without its version."""
    return name[:1] + re.split("[:@]", name[1:], maxsplit=1)[0]  # `@/x` begins with one that means something else
