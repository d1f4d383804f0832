"""The inputs of a run once more: as they were, and whether they are still what one gets by asking for the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rh.errors import NotFoundError, RhError
from rh.observe import warn
from rh.registry import holding
from rh.registry.lineage import registries
from rh.registry.names import SPACE, Name, parse
from rh.resources import places
from rh.resources.base import load
from rh.resources.records import SERIES, series_key
from rh.resources.versioned import Versioned
from rh.versions.series import LATEST

if TYPE_CHECKING:
    from rh.resources.runs import Item

__all__ = ["Changed", "changed", "pinned", "pinned_by_words", "warn_of_live"]

_FEW = 5


class Changed(NamedTuple):
    """An input that would be another by now.

    Attributes:
        input: what was read.
        why: `"alias"` stands elsewhere, there is a `"newer"` version, live data were `"written"` to, it is `"gone"`, or
            `"unknown"`: its place cannot be asked.
        now: the version one gets by now, or what is wrong.
    """

    input: Item
    why: str
    now: str | None = None

    def __str__(self) -> str:
        return f"{self.input}: {self.why}" + (f" ({self.now})" if self.now else "")


def name_of(entry: Mapping[str, Any]) -> Name:
    """The name that the series of a version has now: it may have been renamed.

    Raises:
        NotFoundError: none.
    """
    name = parse(str(entry["name"]))
    record = holding(name).find(series_key(name))
    if record is not None and record.document.get("series") == entry["series"]:
        return name
    for registry in registries():
        for record in registry.list(SERIES):
            if record.document.get("series") == entry["series"]:
                return Name.of_key(SPACE + record.key.removeprefix(SERIES))
    raise NotFoundError(f"nothing is called {name} any more", hint="its versions are still in their store")


def pinned(entry: Mapping[str, Any]) -> Versioned:
    """A handle on the version that an entry tells of."""
    found = load(name_of(entry), dryrun=True)
    assert isinstance(found, Versioned)
    return found.at(f"v{entry['version']}")


def pinned_by_words(entries: Iterable[Mapping[str, Any]]) -> dict[str, Versioned]:
    """Handles on all versions among the entries, by the words they were asked for with.

    Words that stand for another version already give way to its number, and that to its digest: a number is only that
    of one series, and a name may have had several.
    """
    versions: dict[str, tuple[Any, Any]] = {}
    found: dict[str, Versioned] = {}
    for entry in entries:
        if entry.get("version") is None:
            continue
        version, name, exact = (entry.get("series"), entry["version"]), entry["name"], f"v{entry['version']}"
        for words in (f"{name}:{entry.get('asked') or exact}", f"{name}:{exact}", f"{name}@{entry.get('digest')}"):
            if versions.setdefault(words, version) == version:
                if words not in found:
                    found[words] = pinned(entry)
                break
    return found


def warn_of_live(items: Sequence[Item]) -> None:
    """Warn that these inputs were no versions and cannot be had as they were."""
    if items:
        some = ", ".join(str(item) for item in items[:_FEW]) + (", …" if len(items) > _FEW else "")
        warn(
            f"the run read {some}, which no version holds: what was there then is not kept, so it is not among these;"
            " changed_inputs() tells whether it was written to since",
            UserWarning,
        )


def changed(entry: Mapping[str, Any]) -> Changed | None:
    """What is different with an input of a run now; `None` if nothing is known to be."""
    from rh.resources.runs import Item

    item = Item.of(entry)
    try:
        found = _version_now(entry) if item.version is not None else _live_now(entry, item)
    except NotFoundError as error:
        found = ("gone", error.message)
    except RhError as error:
        found = ("unknown", error.message)
    return None if found is None else Changed(item, *found)


def _version_now(entry: Mapping[str, Any]) -> tuple[str, str | None] | None:
    resource = load(name_of(entry), dryrun=True)
    assert isinstance(resource, Versioned)
    series = resource.series_of()
    series.get(f"v{entry['version']}")
    asked = str(entry.get("asked") or LATEST)
    by_number = asked == f"v{entry['version']}" or ":" in asked
    now = series.get(LATEST if by_number else asked)
    if now.number == entry["version"]:
        return None
    return "newer" if by_number or asked == LATEST else "alias", now.label


def _live_now(entry: Mapping[str, Any], item: Item) -> tuple[str, str | None] | None:
    from rh.resources.blob import Blob
    from rh.resources.table import Table

    if entry.get("query") is not None:
        return None  # databases do not tell
    if entry.get("series") is not None:
        record = holding(parse(str(entry["name"]))).find(f"heads/{entry['series']}")
        latest = None if record is None else record.document.get("latest")
        if latest is not None and latest != entry.get("newest"):
            return "newer", f"v{latest}"
    place = places.resolve(str(entry["url"]), None)
    if entry.get("kind") == "blob":
        system, key = Blob(location=place).handle()
        times = [system.head(key).modified]
    elif entry.get("kind") == "table" and Table(location=place).is_file:
        times = [places.at(place.parent).head(place.name).modified]
    else:
        listed = list(places.at(place).list())
        if not listed:
            raise NotFoundError("nothing is there any more", where=item.url)
        times = [one.modified for one in listed if one.kind == "file"]
    last = max((moment for moment in times if moment is not None), default=None)
    return ("written", None) if last is not None and last > item.time else None
