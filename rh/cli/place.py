"""What an argument means: a path, a URL, a path on a host, or `rh://` and a saved name."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rh import config
from rh.cli.options import saved_below_home
from rh.errors import InvalidError, NotFoundError, RhError
from rh.resources import base, places, places_saved, records
from rh.resources.blob import Blob
from rh.resources.folder import Folder
from rh.systems import HOSTS
from rh.systems.base import System
from rh.types import Entry, Location
from rh.versions.lost import GoneError

if TYPE_CHECKING:
    from rh.resources.versioned import Versioned

__all__ = ["Place", "place_of", "saved", "target_of"]


@dataclass(frozen=True)
class Place:
    """A location, and what the text said about it.

    Attributes:
        text: the argument as it was given.
        tree: whether it ended with a slash: a directory is meant.
        name: the saved name it began with, if any; `root` the place saved under it, `resource` what was saved.
    """

    text: str
    location: Location
    tree: bool
    name: str | None = None
    root: Location | None = None
    resource: base.Located | None = None

    @property
    def url(self) -> str:
        """The place as one text that every command takes."""
        pin = getattr(self.resource, "pin", None)
        if pin is None or self.root is None:
            return places.url_of(self.location)
        return f"{places.SAVED}{pin.name}:v{pin.number}{self.location.path[len(self.root.path) :]}"

    @property
    def shown(self) -> str:
        """The place for people, in errors: as it was given, where it began with a saved name."""
        return self.url if self.name is None else self.text

    def system(self) -> System:
        """The place opened as a directory."""
        return places.at(self.location)

    def above(self) -> tuple[System, str] | None:
        """The directory that holds the place, opened, and the place's key there; `None` for a root."""
        path = self.location.path.rstrip("/")
        if path in ("", "~"):
            return None
        if "/" not in path and (self._in_a_bucket() or self.location.in_version):
            return None  # a path of one word is a thing in other places, and the bucket or the version here
        return places.at(self.location.parent), self.location.name

    def _in_a_bucket(self) -> bool:
        from rh.systems import BUCKETS, settings_of

        return settings_of(self.location.system)["kind"] in BUCKETS

    def entry(self) -> Entry | None:
        """The file (or link) that is here, or `None`.

        Raises:
            GoneError: the version that it would be in is no longer there.
        """
        above = None if self.tree else self.above()
        if above is None:
            return None
        system, key = above
        try:
            return system.head(key)
        except GoneError:
            raise
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
        in_a_version = self.tree and self.location.in_version
        if self._in_a_bucket() or self.above() is None or in_a_version:
            next(iter(self.system().list(depth=1)), None)  # raises if there is not even a bucket, or such a version
            if self.above() is None:
                return "tree"
        raise NotFoundError("nothing is there", where=self.shown, hint=_hint(self))

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

    @property
    def whole(self) -> base.Located | None:
        """What was saved, where the place is all of it (`rh://x`, `rh://x:v3`) and not something in it."""
        return self.resource if self.location == self.root else None

    def version(self) -> Versioned | None:
        """The handle, where the place is a whole version (`rh://x:v3`)."""
        from rh.resources.versioned import Versioned

        found = self.whole
        return found if isinstance(found, Versioned) and found.version is not None else None

    def told(self, *, tree: bool = False) -> base.Located:
        """What a run is told of when this is read or written: what was saved, else the file (or directory) itself."""
        if self.resource is not None:
            return self.resource
        return self.folder() if tree else self.blob()

    def __truediv__(self, name: str) -> Place:
        return replace(self, text=f"{self.text.rstrip('/')}/{name}", location=self.location / name, tree=False)


def target_of(text: str) -> Place:
    """The place that an argument means to which something goes.

    Raises:
        InvalidError: it is the name of a system, which `.to()` takes for its default place, and would be a path here.
    """
    if not os.path.lexists(text) and text in config.system_names():
        raise InvalidError(
            f"{text!r} is a system, and a place on it is wanted",
            hint=f"{text}://… (of a host, {text}:PATH); or ./{text}, a path here",
        )
    return place_of(text)


def place_of(text: str) -> Place:
    """The place that an argument means."""
    if not text:
        raise InvalidError("an empty argument names no place", hint=". is the working directory")
    if text == "-":
        raise InvalidError(
            "- names no place", hint="rh cat PLACE writes to stdout, and rh put PLACE reads from stdin; ./- is a file"
        )
    if not places_saved.is_saved(text):
        return Place(text, places.resolve(text, None), tree=text.endswith("/"))
    found = places_saved.find(text)
    tree = text.endswith("/") or (found.is_directory and not found.below)
    there = found.resource
    return Place(text, found.location, tree=tree, name=there.name, root=there.placed(), resource=there)


def saved(words: str) -> tuple[base.Resource, str]:
    """The resource with the longest saved name that `words` begin with, and what follows."""
    return places_saved.longest(words)


def _hint(place: Place) -> str | None:
    """What a word may have meant that names no file here: something saved, or a system."""
    text = place.text
    try:
        if (typed := saved_below_home(text)) is not None:
            return f"the shell made a path of {typed}; what is saved under that name is rh://{typed}"
        if "://" in text or place.name is not None:
            return None
        if base.exists(text):
            return f"a {'version' if ':' in text else 'resource'} has that name: rh://{text}"
        if "/" in text:
            return None
        name = config.ALIASES.get(text, text)
        if name in config.system_names() and name != "file":
            host = config.system(name)["kind"] in HOSTS
            return f"{name} is a system; a place on it is {name}:~/…" if host else f"{name} is a system: {name}://…"
        saved = (f"rh://{one.removeprefix('~/')}" for one in records.list_names("/"))
        near = config.did_you_mean(text, (*config.system_names(), *saved))
    except RhError:
        return None
    return near.removeprefix("; ") or None
