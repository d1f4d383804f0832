"""The records of saved resources in the registries, by name: their history, their lists, and forgetting them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rh.errors import AccessError, ConflictError, ExistsError, InvalidError, NotFoundError
from rh.observe import log
from rh.registry import default, holding, local, names
from rh.registry.base import Change, Delete, Record, Registry, Step
from rh.registry.forgotten import forgotten
from rh.registry.names import Name
from rh.types import ABSENT

__all__ = [
    "SERIES",
    "count_versions",
    "forget",
    "gone",
    "history",
    "list_names",
    "list_records",
    "named",
    "not_saved",
    "series_key",
    "take_back",
    "unknown",
    "without_series",
]

SERIES = "series/"
"""The keys that say which versions a name has begin with this."""

_NEAREST_OF = 10_000


@contextmanager
def named(registry: Registry, *called: Name) -> Iterator[None]:
    """Errors of the registry speak of keys; out of here, they speak of names."""
    try:
        yield
    except NotFoundError as error:
        raise unknown(called[0], registry) from error
    except (ConflictError, ExistsError) as error:
        for name in called:
            error.message = error.message.replace(repr(name.key), name.path)
        raise


def history(registry: Registry, key: str) -> Iterator[Change]:
    """Changes under `key`, each rename preceded by what happened under the older name. None is told twice."""
    return _history(registry, key, None, {}, set())


def _history(
    registry: Registry, key: str, until: str | None, told: dict[str, int], renamed: set[tuple[str, str]]
) -> Iterator[Change]:
    """Changes under `key` that were not told yet.

    Args:
        registry: that has them.
        key: of a name.
        until: the commit to stop before.
        told: the last revision of each key that was told.
        renamed: the renames that were told under the older name: its key, and the commit.
    """
    for change in registry.history(key, after=told.get(key, 0)):
        if until is not None and change.token == until:
            return
        if change.revision <= told.get(key, 0):
            continue
        told[key] = change.revision
        if change.moved is not None and change.action == "delete":
            renamed.add((key, change.token))
        elif change.moved is not None and (change.moved, change.token) not in renamed:
            yield from _history(registry, change.moved, change.token, told, renamed)
        yield change


def series_key(name: Name) -> str:
    """The key under which the registry says which versions are those of a name."""
    return SERIES + name.key.removeprefix(names.SPACE)


def without_series(registry: Registry, name: Name) -> list[Step]:
    """What takes a name's versions away from it."""
    return [Delete(series_key(name))] if registry.find(series_key(name)) is not None else []


def take_back(registry: Registry, name: Name, kind: str) -> Record | None:
    """Give a name without versions those again that it had when something of this kind was forgotten under it.

    Returns:
        What says which versions it has now; `None` if it had none.
    """
    for series, had in reversed(forgotten(registry, name.key.removeprefix(names.SPACE)).items()):
        if had == kind:
            try:
                record = registry.put(series_key(name), {"series": series}, when=ABSENT)
            except ExistsError:
                return registry.find(series_key(name))
            except AccessError:  # it was renamed, to where we may not look
                continue
            log.info("%s has the versions again that it had before it was forgotten", name)
            return record
    return None


def count_versions(name: Name) -> int:
    """How many versions a name has, whatever it is."""
    registry = holding(name)
    record = registry.find(series_key(name))
    return 0 if record is None else sum(1 for _ in registry.list(f"versions/{record.document.get('series')}/"))


def gone(name: Name, registry: Registry) -> ConflictError:
    """The refusal to bring back a name that somebody took away."""
    last = next(iter(reversed(list(registry.history(name.key)))), None)
    by = f" by {last.author}" if last is not None else ""
    if last is not None and last.moved is not None:
        new = Name.of_key(last.moved).path
        return ConflictError(
            f"{name} was renamed to {new}{by} since this value was loaded",
            where=registry.url,
            hint=f"rh.load({new!r}), or overwrite=True makes {name} anew",
        )
    return ConflictError(
        f"{name} was deleted{by} since this value was loaded",
        where=registry.url,
        hint=f"overwrite=True makes {name} anew",
    )


def not_saved(name: Name, registry: Registry) -> NotFoundError | None:
    """The error of a name that was saved once and is not now, with where it went; `None` of any other."""
    if registry.find(name.key) is not None:
        return None
    last = next(iter(reversed(list(registry.history(name.key)))), None)
    if last is None:
        return None
    message = f"nothing is saved as {name} any more"
    if last.moved is None:
        hint = ".save() names it again, and brings its versions back"
        return NotFoundError(f"{message}: {last.author} deleted it", where=registry.url, hint=hint)
    new = Name.of_key(last.moved).path
    return NotFoundError(f"{message}: {last.author} renamed it to {new}", where=registry.url, hint=f"rh.load({new!r})")


def unknown(name: Name, registry: Registry) -> NotFoundError:
    known = []
    for record in registry.list(names.SPACE):
        known.append(Name.of_key(record.key).path)
        if len(known) >= _NEAREST_OF:
            break
    near = names.nearest(name, known)
    if near:
        message = f"nothing is called {name}; did you mean {' or '.join(near)}?"
    else:
        message = f"nothing is called {name}"
    hint = "rh.resources('/') lists the names there are; to make a new one give path= or system="
    if os.path.lexists(name.stem):
        hint += f"; if it is a path, write path={name.stem!r}"
    elif "/" in name.stem:
        hint += "; if it is a path, write path=" + ("…" if name.is_local else repr(name.path))
    return NotFoundError(message, where=registry.url, hint=hint)


def forget(name: str | Name) -> Name:
    """Remove the record under a name, whatever it says; its history stays, and its versions for `take_back`.

    Raises:
        NotFoundError: nothing has that name. InvalidError: it is built in.
    """
    whole = names.parse(name)
    if whole.is_built_in:
        raise InvalidError(f"{whole} is built in and cannot be forgotten")
    if whole.pinned:
        raise InvalidError(
            f"{whole} names a version; the name is {whole.path}",
            hint=f"rh version rm {whole} forgets the version, rh forget {whole.path} the name",
        )
    registry = holding(whole)
    with named(registry, whole):
        registry.commit([Delete(whole.key), *without_series(registry, whole)])
    return whole


def list_records(prefix: str | None = None) -> Iterator[tuple[Name, Record]]:
    """Saved resources whose name lies in a folder of names: by default the current one; `"/"` is everything."""
    folder = names.parse_prefix(prefix)
    registries = []
    if folder in ("", names.HOME) or folder.startswith(names.HOME + "/"):
        registries.append((local(), folder or names.HOME))
    if not folder.startswith(names.HOME):
        registries.append((default(), folder))
    for registry, top in registries:
        start = names.SPACE + (top.removeprefix("/") + "/" if top else "")
        for record in registry.list(start):
            if not top and record.key.startswith(f"{names.SPACE}{names.HOME}/"):
                continue
            yield Name.of_key(record.key), record


def list_names(prefix: str | None = None) -> list[str]:
    """The whole names of the resources in a folder of names, in order."""
    return [name.path for name, _ in list_records(prefix)]
