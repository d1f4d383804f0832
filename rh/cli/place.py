"""What an argument means: a path, a URL, a path on a host, or `rh://` and a saved name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rh import config
from rh.errors import InvalidError, NotFoundError, RhError, UnsupportedError
from rh.resources import base, places, records
from rh.resources.blob import Blob
from rh.resources.folder import Folder
from rh.systems import HOSTS
from rh.systems.base import System
from rh.types import Entry, Location

if TYPE_CHECKING:
    from rh.resources.versioned import Versioned

__all__ = ["Place", "place_of", "saved"]

_SAVED = re.compile(r"rh://(.*)", re.DOTALL)


@dataclass(frozen=True)
class Place:
    """A location, and what the text said about it.

    Attributes:
        text: the argument as it was given.
        tree: whether it ended with a slash: a directory is meant.
        name: the saved name it began with, if any; `root` the place saved under it.
    """

    text: str
    location: Location
    tree: bool
    name: str | None = None
    root: Location | None = None

    @property
    def url(self) -> str:
        """The place as one text that every command takes."""
        return places.url_of(self.location)

    def system(self) -> System:
        """The place opened as a directory."""
        return places.at(self.location)

    def above(self) -> tuple[System, str] | None:
        """The directory that holds the place, opened, and the place's key there; `None` for a root."""
        path = self.location.path.rstrip("/")
        if path in ("", "~"):
            return None
        if "/" not in path and self._in_a_bucket():
            return None  # a path of one word is a thing in other places, and the bucket here
        return places.at(self.location.parent), self.location.name

    def _in_a_bucket(self) -> bool:
        from rh.systems import BUCKETS, settings_of

        return settings_of(self.location.system)["kind"] in BUCKETS

    def entry(self) -> Entry | None:
        """The file (or link) that is here, or `None`."""
        above = None if self.tree else self.above()
        if above is None:
            return None
        system, key = above
        try:
            return system.head(key)
        except NotFoundError:
            return None
        except InvalidError:
            return None  # a key that no file can have; a directory may

    def kind(self) -> Literal["file", "tree"]:
        """Whether a file or a directory is here. `NotFoundError` if neither is."""
        if self.entry() is not None:
            return "file"
        folder = self.folder()
        if folder.exists_in_system():
            return "tree"
        if self._in_a_bucket() or self.above() is None:
            next(iter(self.system().list(depth=1)), None)  # raises if there is not even a bucket
            if self.above() is None:
                return "tree"
        raise NotFoundError("nothing is there", where=self.url, hint=_hint(self))

    def folder(self) -> Folder:
        """The place as a folder."""
        return Folder(location=self.location)

    def folder_above(self) -> Folder:
        """The directory that holds the place, as a folder."""
        # What was saved may have a manifest at its root, by which the bytes of its files are checked.
        inside = self.root is not None and self.root != self.location
        return Folder(location=self.location.parent, tree=self.root if inside else None)

    def blob(self) -> Blob:
        """The place as a blob."""
        return Blob(location=self.location)

    def version(self) -> Versioned | None:
        """The handle, where the place is a whole version (`rh://x:v3`)."""
        from rh.resources.versioned import Versioned

        if self.location != self.root or not self.location.system.startswith("tree://"):
            return None
        found, _ = saved(self.text.removeprefix("rh://").rstrip("/"))
        return found if isinstance(found, Versioned) else None

    def __truediv__(self, name: str) -> Place:
        return Place(
            f"{self.text.rstrip('/')}/{name}", self.location / name, tree=False, name=self.name, root=self.root
        )


def place_of(text: str) -> Place:
    """The place that an argument means."""
    if not text:
        raise InvalidError("an empty argument names no place", hint=". is the working directory")
    match = _SAVED.fullmatch(text)
    if match is None:
        return Place(text, places.resolve(text, None), tree=text.endswith("/"))
    words = match.group(1).rstrip("/")
    if not words:
        raise InvalidError("rh:// needs a name after it", hint="rh resources lists the names there are")
    from rh.resources.table import Table

    resource, rest = saved(words)
    if not isinstance(resource, base.Located):
        raise InvalidError(f"{resource.name} is a {resource.kind}, and has no place", where=text)
    directory = resource.kind == "folder" or (isinstance(resource, Table) and not resource.is_file)
    if rest and not directory:
        raise InvalidError(f"{resource.name} is a {resource.kind}; nothing is in it", where=text)
    if rest:
        places.check_key(rest)
    location = resource.placed() / rest if rest else resource.placed()
    tree = text.endswith("/") or (directory and not rest)
    return Place(text, location, tree=tree, name=resource.name, root=resource.placed())


def saved(words: str) -> tuple[base.Resource, str]:
    """The resource with the longest saved name that `words` begin with, and what follows."""
    steps = words.split("/")
    first: RhError | None = None
    for end in range(len(steps), 0, -1):
        name = "/".join(steps[:end])
        try:
            return base.load(name), "/".join(steps[end:])
        except (NotFoundError, InvalidError, UnsupportedError) as error:
            if isinstance(error, NotFoundError) and base.exists(_bare(name)):
                raise  # the name is known; the version is not, or the system it lies on
            if first is None or (isinstance(first, InvalidError) and not isinstance(error, InvalidError)):
                first = error
    if isinstance(first, NotFoundError):
        raise NotFoundError(first.message, where=first.where, hint="rh resources lists the names there are")
    raise first or NotFoundError(f"nothing is called {words!r}")


def _bare(name: str) -> str:
    """A name without its version."""
    return name[:1] + re.split("[:@]", name[1:], maxsplit=1)[0]  # `@/x` begins with one that means something else


def _hint(place: Place) -> str | None:
    """What a word may have meant that names no file here: something saved, or a system."""
    text = place.text
    if ":" in text or "/" in text or place.name is not None:
        return None
    try:
        if base.exists(text):
            return f"a resource has that name: rh://{text}"
        name = config.ALIASES.get(text, text)
        if name in config.system_names() and name != "file":
            host = config.system(name)["kind"] in HOSTS
            return f"{name} is a system; a place on it is {name}:~/…" if host else f"{name} is a system: {name}://…"
        saved = (f"rh://{one.removeprefix('~/')}" for one in records.list_names("/"))
        near = config.did_you_mean(text, (*config.system_names(), *saved))
    except RhError:
        return None
    return near.removeprefix("; ") or None
