"""What every resource is: a small frozen value with a name, that can be saved, loaded, renamed and forgotten.

The record of a resource in the registry is its `config()` without the name: `kind`, `location`, `metadata` and what the
kind adds. Fields that this version does not know travel with the resource and are written back.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from rh.errors import (
    ConflictError,
    ExistsError,
    ImmutableVersionError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RhError,
    UnsupportedError,
    without_query,
)
from rh.observe import log
from rh.registry import holding, names
from rh.registry.base import Change, Record, Registry, Rename, Step, author
from rh.registry.documents import check_document
from rh.registry.names import Name
from rh.resources import places, records
from rh.resources.annotated import Annotated
from rh.resources.visible import visible
from rh.types import ABSENT, ANY, Condition, Location, Match
from rh.versions.properties import check_tags, note_types, plain, types_of_names

__all__ = ["KINDS", "UNWRITTEN", "Located", "Resource", "exists", "load"]

UNWRITTEN = "go on with what .write() or .save() returns: this handle stays as it is"
"""The fix for who asks data in memory for what only written data have."""

KINDS: dict[str, str] = {
    "folder": "rh.resources.folder",
    "blob": "rh.resources.blob",
    "table": "rh.resources.table",
    "cluster": "rh.resources.cluster",
    "view": "rh.resources.view",
}
"""Kinds of resources, and the module that registers each (`Resource.__init_subclass__`)."""

_classes: dict[str, type[Resource]] = {}


@dataclass(frozen=True, kw_only=True, repr=False)
class Resource(Annotated):
    """A value that says what and where. Holds no connection and no secret; making one does no I/O.

    Attributes:
        name: the whole name (`~/x`, `/org/team/x`), or `None`. A short one is completed when the resource is made.
        metadata: what its owner wants to say about it: plain JSON values, no secrets.
        tags: words to find it by.
    """

    kind: ClassVar[str] = ""
    name: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Fields of the record that this version of `rh` does not know."""
    revision: int | None = field(default=None, compare=False)
    """Which revision of its record this value was loaded from or saved as."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.kind:
            _classes[cls.kind] = cls

    def __post_init__(self) -> None:
        if self.name is not None:
            name = names.parse(self.name)
            if name.pinned:
                raise InvalidError(
                    f"{name} names a version, and a resource has the name without it",
                    hint=f"rh.load({str(name)!r}) is the version; .commit() makes a new one",
                )
            object.__setattr__(self, "name", name.path)
        if not isinstance(self.metadata, Mapping):
            raise InvalidError(f"metadata= is a mapping, not {type(self.metadata).__name__}")
        object.__setattr__(self, "metadata", plain(self.metadata))
        object.__setattr__(self, "tags", check_tags(self.tags))
        if self.metadata:
            check_document(self.metadata, where=f"metadata of {self.name or 'a ' + self.kind}")

    @property
    def is_local(self) -> bool:
        """Whether only this machine knows its name (or it has none). Where its data is, `system` says."""
        return self.name is None or Name(self.name).is_local

    # The value as plain data.

    def document(self) -> dict[str, Any]:
        """What goes into the record, beside `kind`, `metadata` and unknown fields."""
        raise NotImplementedError

    @classmethod
    def of_document(cls, document: dict[str, Any], *, local: bool) -> dict[str, Any]:
        """The fields of a value from a record; takes what it knows out of `document`.

        What a record that is not `local`, of this machine, says about files of this machine is not believed.
        """
        raise NotImplementedError

    def placed(self) -> Location:
        """Where the data is."""
        raise InvalidError(f"a {self.kind} has no place of its own")

    def config(self) -> dict[str, Any]:
        """The value as plain JSON data: `type(r).from_config(r.config()) == r`."""
        config: dict[str, Any] = {**self.extra, "kind": self.kind}
        if self.name is not None:
            config["name"] = self.name
        if self.metadata:
            config["metadata"] = dict(self.metadata)
        if self.tags:
            config["tags"] = list(self.tags)
        return config | self.document()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The value that `config()` described. `Resource.from_config` takes any kind.

        Raises:
            InvalidError: it describes another kind, or is incomplete.
            UnsupportedError: a newer `rh` wrote it.
        """
        return cls.described(config, local=True)

    @classmethod
    def described(cls, config: Mapping[str, Any], *, local: bool) -> Self:
        """`from_config`, for records: see `of_document` for `local`."""
        document = dict(config)
        kind = document.pop("kind", None)
        if not isinstance(kind, str):
            raise InvalidError("a configuration needs a kind", hint=f"one of {', '.join(KINDS)}")
        found = class_of(kind)
        if not issubclass(found, cls):
            raise InvalidError(f"this is a {kind}, not a {cls.kind}", hint=f"rh.load, or rh.{kind}")
        name, metadata = document.pop("name", None), document.pop("metadata", None) or {}
        tags = document.pop("tags", None) or ()
        try:
            fields = found.of_document(document, local=local)
            return found(name=name, metadata=metadata, tags=tags, extra=document, **fields)
        except RhError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidError(
                f"the configuration of a {kind} lacks or garbles {error}", where=str(name or kind)
            ) from error

    # The record.

    def save(self, name: str | None = None, *, overwrite: bool | None = None) -> Self:
        """Put the record into the registry, under `name` or the name it has.

        Data that is not written yet is written first: no name ever points at nothing.
        Saving what is recorded already changes nothing. Otherwise the record gets a new revision, and the old ones stay
        in `records.history()`. A name that was forgotten gets its versions back, if it was of the same kind.

        Args:
            name: a new name for the saved value.
            overwrite: `None` replaces a record of the same kind, but not one that somebody changed since this value
                was loaded, or, if it was not loaded, one that somebody else wrote and that means another place;
                `True` replaces whatever is there; `False` nothing.

        Returns:
            The saved value.

        Raises:
            InvalidError: it has no name.
            ExistsError: the name is taken by another kind, by somebody else's data, or by anything with
                `overwrite=False`.
            ConflictError: the record changed since this value was loaded, or was renamed or deleted.
        """
        value = self if name is None else replace(self, name=name, revision=None)
        if value.name is None:
            raise InvalidError(f"this {self.kind} has no name", hint='.save("a-name")')
        whole = Name(value.name)
        if whole.is_built_in:
            raise InvalidError(f"{whole} is built in and cannot be saved", hint='.save("another-name")')
        place: Location | None = getattr(value, "location", None)
        if place is not None and place.in_version:
            raise ImmutableVersionError(
                "what is in a version is not saved under a name of its own",
                where=whole.path,
                hint="save a copy: .to(…)",
            )
        if place is not None and "?" in place.system:
            raise InvalidError(
                "a URL with a query is not saved: the query may be a credential",
                where=whole.path,
                hint="save a copy of it",
            )
        if place is not None:
            check_document({"location": place.as_dict()}, where=whole.path)
        registry = holding(whole)
        current = registry.find(whole.key)
        if overwrite is False and current is not None:
            raise ExistsError(f"{whole} exists already", where=registry.url, hint="overwrite=True replaces its record")
        if current is None or value.revision in (None, current.revision):  # another revision may say the same
            value.condition(current, registry, overwrite=overwrite)  # what is refused leaves the data as they are
        value = value.ready()
        for _ in range(100):
            document = _merged(value, current)
            if current is not None and current.document == document:
                if overwrite is False:
                    raise ExistsError(f"{whole} exists already", where=registry.url)
                return replace(value, revision=current.revision)
            when = value.condition(current, registry, overwrite=overwrite)
            try:
                with records.named(registry, whole):
                    note_types(registry, types_of_names(whole.path), value.metadata, f"metadata of {whole}")
                    record = registry.put(whole.key, document, when=when)
            except (ConflictError, ExistsError):
                if overwrite is False or value.revision is not None:
                    raise
                current = registry.find(whole.key)  # somebody saved meanwhile
                continue
            if current is None:
                value.named_anew(registry)
            else:
                log.info("%s is at revision %d now", whole, record.revision)
            return replace(value, revision=record.revision)
        raise ConflictError(f"{whole} is being changed all the time", where=registry.url)

    def condition(self, current: Record | None, registry: Registry, *, overwrite: bool | None) -> Condition:
        """What must hold in the registry for this value to be saved over `current`."""
        whole = self.name
        if overwrite:
            return ANY
        if current is None:
            if self.revision is not None and overwrite is None:
                raise records.gone(Name(str(whole)), registry)
            return ABSENT
        if overwrite is False:
            return ABSENT
        kind = current.document.get("kind")
        if kind != self.kind:
            raise ExistsError(
                f"{whole} is a {kind}",
                where=registry.url,
                hint="choose another name, or overwrite=True to replace its record",
            )
        if self.revision is not None and self.revision != current.revision:
            raise ConflictError(
                f"{whole} was changed by {current.author} since:"
                f" it is at revision {current.revision}, this value at {self.revision}",
                where=registry.url,
                hint=f"rh.load({whole!r}), or overwrite=True",
            )
        if (
            self.revision is None
            and not self.is_local
            and _moves(self, current)
            and current.author != _author(registry)
        ):
            raise ExistsError(
                f"{whole} is {current.author}'s, and at another place than this",
                where=registry.url,
                hint="choose another name, or overwrite=True to make it mean this place",
            )
        return Match(current.etag)

    def check_reachable(self) -> None:
        """Raise unless what it takes to use this value is known here. No connection is made."""

    def ready(self) -> Self:
        """The value with its data in place: what `save` records must not point at nothing."""
        return self

    def named_anew(self, registry: Registry) -> None:
        """What follows when this value was saved under a name that nothing had."""

    def rename(self, name: str) -> Self:
        """Give the saved record another name, atomically. The data stays where it is; the history goes along.

        Raises:
            NotFoundError: it is not saved. ExistsError: the new name is taken.
        """
        self._check_whole()
        old, new = self._saved_name(), names.parse(name)
        if new.pinned or new.is_built_in:
            raise InvalidError(f"{new} cannot be given to a resource")
        if new == old:
            return self
        registry = holding(old)
        if holding(new).url != registry.url:
            raise UnsupportedError(
                f"{old} and {new} live in different registries",
                where=registry.url,
                hint=f"rh registry migrate {registry.url} {holding(new).url} --name {old}={new}, then rh forget {old}",
            )
        renamed = replace(self, name=new.path)
        with records.named(registry, old, new):
            if registry.find(old.key) is None:
                raise records.unknown(old, registry)
            when = ANY if self.revision is None else Match(str(self.revision))
            steps: list[Step] = [Rename(old.key, new.key, when)]
            if registry.find(records.series_key(old)) is not None:
                steps.append(Rename(records.series_key(old), records.series_key(new), replace=True))
            change = registry.commit(steps)[1]
        return replace(renamed, revision=change.revision)

    def delete_configs(self) -> None:
        """Remove the record. The data and the history stay; versions come back when the name is saved again.

        Raises:
            NotFoundError: it is not saved.
        """
        self._check_whole()
        records.forget(self._saved_name())

    def _check_whole(self) -> None:
        """Refuse to do to a whole name what was asked of one version."""

    def history(self) -> list[Change]:
        """Every change of the record, oldest first, through renames; also after it was deleted."""
        whole = self._saved_name()
        return list(records.history(holding(whole), whole.key))

    def _saved_name(self) -> Name:
        if self.name is None:
            hint = f'{self.kind} = {self.kind}.save("a-name") first: what that gives back has the name'
            raise InvalidError(f"this {self.kind} has no name", hint=hint)
        return Name(self.name)

    # Python.

    __dir__ = visible

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    def facts(self) -> Iterator[tuple[str, str]]:
        """What the notebook shows, as pairs of text. No I/O."""
        if self.name is not None:
            yield "name", self.name
        if self.tags:
            yield "tags", ", ".join(self.tags)
        for key, value in self.metadata.items():
            yield key, str(value)

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in self.facts())
        return f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>"


@dataclass(frozen=True, kw_only=True, repr=False)
class Located(Resource):
    """A resource whose data is at a place.

    Attributes:
        location: where the data is.
        host: what another process needs to find a host that only this process knows (a cluster).
    """

    location: Location | None = None
    host: Mapping[str, Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.location is not None and not isinstance(self.location, Location):
            raise InvalidError(f"location= is a Location, not {type(self.location).__name__}", hint="rh.folder(path=…)")

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = {"location": self.placed().as_dict()}
        if self.host:
            document["host"] = dict(self.host) if self.is_local else places.for_others(self.host)
        return document

    @classmethod
    def of_document(cls, document: dict[str, Any], *, local: bool) -> dict[str, Any]:
        at, host = document.pop("location"), document.pop("host", None)
        if host is not None and not local:
            host = places.for_others(host)
        return {"location": Location(str(at["system"]), str(at["path"])), "host": host}

    def placed(self) -> Location:
        if self.location is None:
            raise InvalidError(f"this {self.kind} has no place yet", hint=".write(), .save() or .to() gives it one")
        return self.location

    @property
    def system(self) -> str:
        """The name of the system the data is on."""
        return self.placed().system

    @property
    def path(self) -> str:
        """The path on that system."""
        return self.placed().path

    @property
    def url(self) -> str:
        """The place as one text, which `path=` takes back."""
        return places.url_of(self.placed())

    def check_reachable(self) -> None:
        """Raise `NotFoundError` unless the system is known here. Nothing is connected to."""
        if self.location is not None:
            places.settle(self.location, self.host)

    def facts(self) -> Iterator[tuple[str, str]]:
        yield from super().facts()
        if self.location is not None:
            yield "place", without_query(places.url_of(self.location))

    def __hash__(self) -> int:
        return hash((type(self), self.name, self.location))

    def __repr__(self) -> str:
        place = "not written yet" if self.location is None else without_query(places.url_of(self.location))
        return f"<{type(self).__name__} {self.name + ' at ' if self.name else ''}{place}>"


def class_of(kind: str) -> type[Resource]:
    """The class of a kind."""
    if kind in KINDS:
        import importlib

        importlib.import_module(KINDS[kind])
    found = _classes.get(kind)
    if found is None:
        raise UnsupportedError(f"this version of rh knows no {kind!r}", hint="upgrade rh-data")
    return found


def _merged(value: Resource, current: Record | None) -> dict[str, Any]:
    """The record to write: what the value says, and what an unknown newer `rh` wrote there."""
    document = value.config()
    document.pop("name", None)
    if current is not None and current.document.get("kind") == value.kind:
        rest = dict(current.document)
        for known in ("kind", "metadata", "tags"):
            rest.pop(known, None)
        try:
            type(value).of_document(rest, local=True)
        except (KeyError, TypeError, AttributeError, InvalidError):
            return document
        document = rest | document
    return document


def _moves(value: Resource, current: Record) -> bool:
    """Whether the name would mean another place."""
    place: Location | None = getattr(value, "location", None)
    return (None if place is None else place.as_dict()) != current.document.get("location")


def _author(registry: Registry) -> str:
    """Who a registry takes us for: a server knows it by the token, whatever the setting `user` says."""
    whoami = getattr(registry, "whoami", None)
    return author() if whoami is None else str(whoami()["user"])


def load(
    name: str | os.PathLike[str] | Name, *, kinds: tuple[str, ...] | None = None, dryrun: bool = False
) -> Resource:
    """The resource saved under a name.

    Args:
        name: as in `rh.registry.names`, with or without `rh://` before it.
        kinds: kinds that will do; anything else is `InvalidError`.
        dryrun: give the record as it is, without asking whether its system is known here.

    Raises:
        NotFoundError: nothing has that name; the nearest names are in the message.
    """
    whole = names.parse(_bare(name))
    if whole.is_built_in:
        found: Resource = _built_in(whole)
    else:
        registry = holding(whole)
        record = registry.find(whole.key)
        if record is None:
            raise records.unknown(whole, registry)
        try:
            found = replace(
                Resource.described({**record.document, "name": whole.path}, local=whole.is_local),
                revision=record.revision,
            )
        except InvalidError as error:
            raise IntegrityError(
                f"the record of {whole} cannot be read: {error.message}", where=registry.url
            ) from error
    if kinds and found.kind not in kinds:
        raise InvalidError(f"{whole} is a {found.kind}, not a {' or '.join(kinds)}", hint=f"rh.load({str(whole)!r})")
    if whole.pinned:
        from rh.resources.versioned import Versioned

        if not isinstance(found, Versioned):
            raise InvalidError(f"{whole.path} is a {found.kind}, which has no versions")
        found = found.at(whole.pinned)
    if not dryrun:
        found.check_reachable()
    return found


def _built_in(name: Name) -> Resource:
    from rh.resources.cluster import BUILT_IN, built_in

    found = built_in(name.path)
    if found is None:
        near = difflib.get_close_matches(name.path, BUILT_IN, 3)
        raise NotFoundError(
            f"nothing built in is called {name}" + (f"; did you mean {' or '.join(near)}?" if near else ""),
            hint=f"built in: {', '.join(BUILT_IN)}",
        )
    return found


def _bare(name: str | os.PathLike[str] | Name) -> str | os.PathLike[str] | Name:
    """A name without `rh://`. `InvalidError` for the URL of what is below a saved name."""
    if not isinstance(name, str) or not name.startswith(places.SAVED):
        return name
    bare = name.removeprefix(places.SAVED)
    try:
        names.parse(bare)
    except InvalidError as error:
        raise InvalidError(
            "this is no saved name; what is below one is a place",
            where=name,
            hint=f"rh.folder(path={name!r}), rh.blob(path=…) or rh.table(path=…)",
        ) from error
    return bare


def exists(name: str) -> bool:
    """Whether a resource is saved under this name."""
    whole = names.parse(_bare(name))
    if whole.is_built_in:
        try:
            _built_in(whole)
        except NotFoundError:
            return False
        return True
    if whole.pinned:
        try:
            load(whole, dryrun=True)
        except (NotFoundError, InvalidError):
            return False
        return True
    return holding(whole).find(whole.key) is not None
