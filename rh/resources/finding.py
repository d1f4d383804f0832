"""Find saved resources, and versions of them, by what is said of them."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, overload

from rh.config import did_you_mean
from rh.errors import InvalidError, NotFoundError, RhError
from rh.observe import log
from rh.registry import default, filters, lineage, local, names
from rh.registry.base import Record, Registry
from rh.registry.filters import All, Compare, Exists, Filter
from rh.registry.names import Name
from rh.resources.base import KINDS, Resource
from rh.resources.records import SERIES
from rh.versions import properties
from rh.versions.series import Series, Version

__all__ = ["Found", "find"]

_WHOLE = ("/", "~/", "@/", "*", "?", "[")
_WILD = re.compile(r"[*?\[]")
_FEW_SERIES = 20
_VERSIONS = "versions/"
_FILES = "files/"
_TYPES = "types/"


class Hit(NamedTuple):
    """What was found: the handle, what is said of it, and when and by whom it was recorded."""

    handle: Resource
    label: str | None
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    author: str
    time: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "name": self.handle.name,
            "kind": self.handle.kind,
            "version": self.label,
            "tags": list(self.tags),
            "metadata": dict(self.metadata),
            "author": self.author,
            "time": self.time,
        }


class Found(Sequence[Resource]):
    """What was found, newest first: live resources, and handles on versions. Shown as a table.

    Attributes:
        hits: the same with what is said of each.
    """

    def __init__(self, hits: Sequence[Hit]) -> None:
        self.hits = tuple(hits)

    @overload
    def __getitem__(self, at: int) -> Resource: ...

    @overload
    def __getitem__(self, at: slice) -> Found: ...

    def __getitem__(self, at: int | slice) -> Resource | Found:
        return Found(self.hits[at]) if isinstance(at, slice) else self.hits[at].handle

    def __len__(self) -> int:
        return len(self.hits)

    def as_dicts(self) -> list[dict[str, Any]]:
        """Plain values, for `--json`."""
        return [hit.as_dict() for hit in self.hits]

    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Name (with its version), kind, time, tags and properties as text."""
        for hit in self.hits:
            named = f"{hit.handle.name}{f':{hit.label}' if hit.label else ''}"
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(hit.time))
            said = ", ".join(f"{name}={value}" for name, value in filters.properties({"metadata": hit.metadata}))
            yield named, hit.handle.kind, when, ", ".join(hit.tags), said

    def __repr__(self) -> str:
        rows = list(self.rows())
        if not rows:
            return "<nothing found>"
        widths = [max(len(row[n]) for row in rows) for n in range(4)]
        return "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip()
            for row in rows
        )

    def _repr_html_(self) -> str:
        from html import escape

        head = "".join(f"<th>{name}</th>" for name in ("name", "kind", "time", "tags", "properties"))
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows())
        return f"<table><caption>{len(self)} found</caption><tr>{head}</tr>{body}</table>"


@dataclass(frozen=True)
class _Asked:
    """What is looked for."""

    kinds: tuple[str, ...]
    pattern: str | None
    condition: Filter
    run: str | None
    after: float | None
    as_of: float | None

    def is_meant(self, name: Name, kind: object) -> bool:
        """Whether a name and a kind are those asked for."""
        return (not self.kinds or kind in self.kinds) and (self.pattern is None or fnmatchcase(name.path, self.pattern))


def find(
    *,
    kind: str | Sequence[str] | None = None,
    name: str | None = None,
    tags: str | Sequence[str] = (),
    where: Filter | str | Mapping[str, Any] | None = None,
    produced_by: Any = None,
    created_after: Any = None,
    as_of: Any = None,
    prefix: str | None = "/",
    limit: int | None = None,
) -> Found:
    """`rh.find`."""
    kinds = (kind,) if isinstance(kind, str) else tuple(kind or ())
    for one in kinds:
        if one not in KINDS:
            raise InvalidError(
                f"nothing is a {one!r:.80}" + did_you_mean(str(one), tuple(KINDS)), hint=f"kinds are {', '.join(KINDS)}"
            )
    asked = _Asked(
        kinds,
        None if name is None else _pattern(name),
        _condition(tags, where),
        None if produced_by is None else str(getattr(produced_by, "id", produced_by)),
        _moment(created_after, "created_after"),
        _moment(as_of, "as_of"),
    )
    if asked.as_of is not None and asked.as_of < 0:
        raise InvalidError(f"as_of={as_of!r} is before 1970, when nothing was recorded", hint='as_of="2026-11-21"')
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise InvalidError(f"limit={limit!r} is not a number of at least 1")
    hits: list[Hit] = []
    spaces = list(_spaces(prefix, asked.pattern))
    if asked.as_of is None:  # what stood at another moment may fail alone, since nothing but the registry tells it
        _check_fields(asked, [registry for registry, _, _ in spaces])
    for registry, top, skip in spaces:
        hits += _resources(registry, top, asked, skip=skip)
        if not (asked.condition == All(()) and asked.run is None and asked.after is None):
            hits += _versions(registry, top, asked, skip=skip)
    if asked.as_of is not None:
        _check_fields(asked, [registry for registry, _, _ in spaces])
    if not hits and asked.run is not None:
        _check_run(asked.run)
    if not hits:
        types = ((record, registry.url) for registry, _, _ in spaces for record in registry.list(_TYPES))
        properties.check_kinds(asked.condition, types)
    hits.sort(key=lambda hit: (-hit.time, str(hit.handle.name), hit.label is None, _negative(hit.label)))
    return Found(hits if limit is None else hits[:limit])


def _negative(label: str | None) -> int:
    return 0 if label is None else -int(label[1:])


def _condition(tags: str | Sequence[str], where: Filter | str | Mapping[str, Any] | None) -> Filter:
    words = properties.check_tags([tags] if isinstance(tags, str) else tags)
    condition = properties.condition(where)
    if not words:
        return condition
    parts = tuple(Compare("tags", "==", (word,)) for word in words)
    return All(parts if condition == All(()) else (*parts, condition))


def _pattern(name: str) -> str:
    """A pattern of whole names; one of short names is meant in the current folder."""
    if not isinstance(name, str) or not name:
        raise InvalidError(f"name= is a pattern of names, not {name!r}", hint='name="/org/*"')
    if name.startswith("@/"):
        return f"{names.parse_prefix('@')}/{name[2:]}"
    return name if name.startswith(_WHOLE) else f"{names.current_folder()}/{name}"


def _moment(value: Any, what: str) -> float | None:
    """Seconds since the epoch from those, a date, or its text (ISO 8601, local time unless it says otherwise)."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError as error:
            raise InvalidError(f"{what}={value!r} is no date", hint=f'{what}="2026-11-21", or with a time') from error
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime.combine(value, datetime.time())
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidError(f"{what}={value!r} is no moment", hint=f'{what}="2026-11-21", a datetime, or seconds')
    return filters.moment(value, what)


def _spaces(prefix: str | None, pattern: str | None) -> Iterator[tuple[Registry, str, bool]]:
    """The registries to look into, how names begin there, and whether those of this machine are to be left out."""
    folder = names.parse_prefix(prefix)
    if not folder and pattern is not None:  # what every name that matches begins with
        fixed = pattern[: match.start()] if (match := _WILD.search(pattern)) else pattern
        folder = fixed.rpartition("/")[0]
    here, all_others = local(), default()
    if folder in ("", names.HOME) or folder.startswith(names.HOME + "/"):
        yield here, f"{folder or names.HOME}/", False
    if not folder.startswith(names.HOME):
        yield all_others, f"{folder.removeprefix('/')}/" if folder else "", True


def _check_fields(asked: _Asked, registries: Sequence[Registry]) -> None:
    def known() -> Iterator[str]:
        for registry in registries:
            for record in registry.list(_TYPES):
                yield from properties.names_in(record)

    def is_used(name: str) -> bool:
        return any(
            next(iter(registry.search(Exists(name), space, as_of=moment)), None) is not None
            for moment in dict.fromkeys((None, asked.as_of))
            for registry in registries
            for space in (names.SPACE, _VERSIONS)
        )

    def of_files(one: Exists) -> InvalidError | None:
        for registry in registries:
            record = next(iter(registry.search(one, _FILES)), None)
            if record is not None:
                return None if is_used(one.field) else _about_files(one.field, registry, record)
        return None

    # Registries find one record by a property at once; all names there are, they have to list.
    condition = asked.condition
    used = {name for name in dict.fromkeys(condition.fields()) if name == "tags" or is_used(name)}
    if not used.issuperset(condition.fields()):
        properties.check_fields(condition, known(), lambda one: one.field in used, registries[-1].url, of_files)


def _about_files(name: str, registry: Registry, record: Record) -> InvalidError:
    """The error for a property that files have, of which this is the record of one, and no resource or version."""
    series = record.key.split("/")[1]
    holders = (one.key.removeprefix(SERIES) for one in registry.list(SERIES) if one.document.get("series") == series)
    folder = next((repr(Name.of_key(names.SPACE + path).path) for path in holders), "…")
    return InvalidError(
        f"{name!r} is a property of files, and of no resource or version",
        where=registry.url,
        hint=f"rh.folder({folder}).query(…) finds files by theirs",
    )


def _resources(registry: Registry, top: str, asked: _Asked, *, skip: bool) -> Iterator[Hit]:
    if asked.run is not None:
        return  # runs produce versions
    for record in registry.search(asked.condition, names.SPACE + top, as_of=asked.as_of):
        name = Name.of_key(record.key)
        if (skip and name.is_local) or not asked.is_meant(name, record.document.get("kind")):
            continue
        if asked.after is not None and not _made_after(registry, record, asked.after):
            continue
        handle = _handle(record, name)
        if handle is not None:
            yield Hit(handle, None, handle.tags, handle.metadata, record.author, record.time)


def _made_after(registry: Registry, record: Record, after: float) -> bool:
    if record.time <= after:
        return False
    first = record if record.revision == 1 else next(iter(registry.history(record.key)), record)
    return first.time > after


def _handle(record: Record, name: Name) -> Resource | None:
    try:
        found = Resource.described({**record.document, "name": name.path}, local=name.is_local)
    except RhError as error:
        log.warning("%s cannot be read, and is left out: %s", name, error.message)
        return None
    return replace(found, revision=record.revision)


def _versions(registry: Registry, top: str, asked: _Asked, *, skip: bool) -> Iterator[Hit]:
    from rh.resources.versioned import Versioned

    of: dict[str, Name] = {}
    for record in _standing(registry, SERIES + top, asked.as_of):
        name = Name.of_key(names.SPACE + record.key.removeprefix(SERIES))
        if not (skip and name.is_local) and (asked.pattern is None or fnmatchcase(name.path, asked.pattern)):
            of[str(record.document["series"])] = name
    prefixes = [f"{_VERSIONS}{series}/" for series in sorted(of)] if len(of) <= _FEW_SERIES else [_VERSIONS]
    handles: dict[str, Resource | None] = {}
    for prefix in prefixes:
        for record in registry.search(asked.condition, prefix, as_of=asked.as_of):
            series = record.key.split("/")[1]
            if series not in of or not _is_by(record.document, asked.run):
                continue
            version = Series(registry, series, str(of[series])).of_record(record)
            if asked.after is not None and not version.time > asked.after:
                continue
            if series not in handles:
                handles[series] = _named(registry, of[series], asked.as_of)
            handle = handles[series]
            if isinstance(handle, Versioned) and asked.is_meant(of[series], handle.kind):
                yield _hit(handle.pinned(version), version)


def _hit(handle: Resource, version: Version) -> Hit:
    return Hit(handle, version.label, version.tags, version.metadata, version.author, version.time)


def _is_by(document: Mapping[str, Any], run: str | None) -> bool:
    if run is None:
        return True
    made = document.get("produced_by")
    return isinstance(made, Mapping) and run in (made.get("run"), made.get("name"))


def _check_run(run: str) -> None:
    """Refuse the id or name of a run that no run and no version knows."""
    known: dict[str, None] = {}
    for registry in lineage.registries():
        for record in registry.list(lineage.RUNS):
            known |= dict.fromkeys((str(record.document.get("name")), record.key.removeprefix(lineage.RUNS)))
        for record in registry.list(_VERSIONS) if run not in known else ():  # those of runs that were forgotten
            made = record.document.get("produced_by")
            known |= dict.fromkeys((str(made.get("name")), str(made.get("run"))) if isinstance(made, Mapping) else ())
    if run not in known:
        raise NotFoundError(
            f"no run has the id or the name {run!r:.80}" + did_you_mean(run, tuple(known)),
            where=default().url,
            hint="rh.runs() lists those there are",
        )


def _named(registry: Registry, name: Name, as_of: float | None) -> Resource | None:
    if as_of is None:
        record = registry.find(name.key)
    else:
        record = next((one for one in _standing(registry, name.key, as_of) if one.key == name.key), None)
    return None if record is None else _handle(record, name)


def _standing(registry: Registry, prefix: str, as_of: float | None) -> Iterator[Record]:
    return registry.list(prefix) if as_of is None else registry.search(All(()), prefix, as_of=as_of)
