"""Tags and properties: said of a resource, of a version, or of files in a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, cast

from rh.config import did_you_mean
from rh.errors import ConflictError, ExistsError, InvalidError, NotFoundError
from rh.registry import holding
from rh.registry.base import for_a_change
from rh.registry.filters import Filter
from rh.registry.names import Name
from rh.systems.base import System
from rh.types import Match
from rh.versions import properties
from rh.versions.properties import Said

if TYPE_CHECKING:
    from rh.resources.base import Resource
    from rh.resources.folder import Folder
    from rh.resources.view import View

__all__ = ["Annotated", "Queried", "carry", "folder_of", "in_folder", "is_file", "numbered", "of_rows"]

_TRIES = 100
_FEW = 20
"""So many files are asked for one by one; for more, the folder is listed."""
_NEAREST_OF = 10_000


class Annotated:
    """What can have tags and properties."""

    @for_a_change()
    def annotate(
        self,
        files: Any = None,
        /,
        *,
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        untag: Sequence[str] = (),
        remove: Sequence[str] = (),
        **properties: Any,
    ) -> Self:
        """Say something of what is saved: of the resource, of the version this is a handle on, or of files in a folder.

        What was said before stays; a value replaces the one of that name, and `None` takes it away. A property has one
        type, a number, text or a truth value, from its first use. It is said of a file by its path, for all versions
        that have the path.

        Args:
            files: the path of a file; or `{path: {"label": "cat", "tags": ["gold"], …}}`; or a table of any library
                with a column `file`, and perhaps `tags`. By default the resource itself, or the version.
            tags: words to add.
            metadata: properties, as plain JSON; the same as keywords, for names that are none in Python.
            untag: words to take away.
            remove: names of properties to take away.
            properties: by name.

        Returns:
            The value, with its new tags and metadata.

        Raises:
            NotFoundError: it is not saved, there is no such file (the nearest are named), or what is to be taken away
                is not there. Nothing was written.
            InvalidError: a property has another type since its first use, or it is no JSON. Nothing was written.

        Example:
            >>> import rh, tempfile
            >>> folder = rh.folder(name="docs-said", path=tempfile.mkdtemp()).save()
            >>> folder.put({"1.png": b"..."})
            >>> folder.annotate("1.png", label="cat", score=0.9).annotations("1.png")
            {'tags': [], 'metadata': {'label': 'cat', 'score': 0.9}}
            >>> folder.annotate(tags=["gold"]).tags
            ('gold',)
        """
        value = cast("Resource", self)
        where = _where(value)
        both = {**(metadata or {}), **properties} if isinstance(metadata, Mapping | None) else metadata
        if files is None:
            return cast("Self", _said_of(value, Said.of(both, tags, untag, remove, where=where)))
        if isinstance(files, str):
            in_folder(folder_of(value), {files: Said.of(both, tags, untag, remove, where=f"{where}/{files}")})
            return self
        if both or tags or untag or remove:
            raise InvalidError("many files have their own properties each", hint='{"a.png": {"label": "cat"}, …}')
        folder = folder_of(value)
        if isinstance(files, Mapping):
            in_folder(folder, _of_mapping(files, where))
        else:
            in_folder(folder, *of_rows(numbered(_rows(files), where)))
        return self

    def annotations(self, file: str | None = None) -> dict[str, Any]:
        """What was said of the resource or version, as it is recorded now, or of a file.

        Args:
            file: the path of a file in a folder.

        Returns:
            `{"tags": […], "metadata": {…}}`.

        Raises:
            NotFoundError: it is not saved, or there is no such file.
        """
        value = cast("Resource", self)
        if file is not None:
            folder = folder_of(value)
            _check_files(folder, [file])
            series = folder.series_of()
            return properties.of_file(series.registry, series.series, file)
        version = _pinned(value)
        if version is not None:
            found = version.series_of().get(version.version)
            return {"tags": list(found.tags), "metadata": dict(found.metadata)}
        return properties.NOTHING.on(_record(value).document, _where(value))


class Queried:
    """What can be asked for its files by their properties."""

    def query(self, where: Filter | str | Mapping[str, Any] | None = None) -> View:
        """The files that a condition on their properties holds for.

        Args:
            where: `F.label == "cat"`, the same as text, or `{"label": "cat", "split": ["train", "test"]}`.

        Raises:
            InvalidError: it is no condition, or on a property that no file has; the nearest are named.

        Example:
            >>> import rh, tempfile
            >>> from rh import F
            >>> folder = rh.folder(name="docs-query", path=tempfile.mkdtemp()).save()
            >>> folder.put({"1.png": b"one", "2.png": b"two"})
            >>> folder = folder.annotate({"1.png": {"score": 0.9}, "2.png": {"score": 0.4}})
            >>> folder.query(F.score > 0.5).files
            ['1.png']
        """
        from rh.resources.view import query

        return query(cast("Folder", self), where)


def _where(value: Resource) -> str:
    version = getattr(value, "version", None)
    return f"{value.name or 'a ' + value.kind}{f':{version}' if version else ''}"


def _pinned(value: Resource) -> Any:
    """The value, if it is a handle on a version."""
    return value if getattr(value, "version", None) is not None else None


def folder_of(value: Resource) -> Folder:
    """The folder, or the refusal of what is none: only folders have files with properties."""
    from rh.resources.folder import Folder

    if not isinstance(value, Folder):
        raise InvalidError(
            f"a {value.kind} has no files that have properties", hint="annotate(label=…) is about itself"
        )
    return value


def _record(value: Resource) -> Any:
    from rh.resources import base

    if value.name is None:
        raise InvalidError(f"this {value.kind} has no name", hint='.save("a-name") first')
    name = Name(value.name)
    registry = holding(name)
    record = registry.find(name.key)
    if record is None:
        base.load(name)  # tells the nearest names
        raise NotFoundError(f"nothing is called {name}", where=registry.url)
    return record


def _said_of(value: Resource, said: Said) -> Resource:
    """Write what is said of a resource, or of a version."""
    pinned = _pinned(value)
    if pinned is not None:
        series = pinned.series_of()
        series.revise(series.get(pinned.version), said)
        return value
    for _ in range(_TRIES):
        record = _record(value)
        name = Name(str(value.name))
        registry = holding(name)
        now = said.on(record.document, name.path)
        document = {key: field for key, field in record.document.items() if key not in now}
        document |= {key: field for key, field in now.items() if field}
        properties.note_types(registry, properties.types_of_names(name.path), said.metadata, name.path)
        changed = replace(value, tags=tuple(now["tags"]), metadata=now["metadata"])
        if document == record.document:
            return changed
        try:
            after = registry.put(record.key, document, when=Match(record.etag))
        except (ConflictError, ExistsError):
            continue  # somebody saved in this moment; look again
        # What else somebody changed since this value was loaded is still to be seen as a conflict by `save`.
        return replace(changed, revision=after.revision) if value.revision == record.revision else changed
    raise ConflictError(f"{value.name} is being changed all the time", where=registry.url)


# Files.


def in_folder(folder: Folder, said: Mapping[str, Said], told: Mapping[str, str] | None = None) -> int:
    """Write what is said of files of a folder; nothing unless all of them are there.

    `told` has the places that errors name, by path.
    """
    where = _where(folder)
    if not said:
        return 0
    _check_files(folder, list(said), told)
    series = folder.begun()
    places = told or {}
    return properties.write(series.registry, series.series, said, lambda path: places.get(path, f"{where}/{path}"))


def carry(records: Iterable[tuple[str, Mapping[str, Any]]], folder: Folder) -> None:
    """Say of files of another folder what was said of them here."""
    said = _carried(records)
    if said:
        series = folder.begun()
        properties.write(series.registry, series.series, said, lambda path: f"{folder.name}/{path}")


def check_carried(records: Iterable[tuple[str, Mapping[str, Any]]], folder: Folder) -> None:
    """Raise what `carry` would raise about the types of properties; nothing is written."""
    try:
        series = folder.series_of()
    except NotFoundError:
        return
    types = properties.Types.read(series.registry, properties.types_key(series.series))
    for path, said in _carried(records).items():
        types.learn(said.metadata, f"{folder.name}/{path}")


def _carried(records: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Said]:
    return {
        path: Said(tuple(document.get("tags") or ()), document.get("metadata") or {})
        for path, document in records
        if document
    }


def _check_files(folder: Folder, paths: Sequence[str], told: Mapping[str, str] | None = None) -> None:
    """Raise `NotFoundError` unless each path is a file of the version, or of the live folder or its newest version."""
    if folder.name is None:
        raise InvalidError("this folder has no name", hint='.save("a-name") first')
    missing = _missing(folder, paths)
    if missing and folder.version is None:
        try:
            newest = folder.at()
        except NotFoundError:
            newest = None
        if newest is not None:
            missing = _missing(newest, missing)
    if missing:
        near = did_you_mean(missing[0], tuple(_some(folder)))
        others = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        row = (told or {}).get(missing[0])
        raise NotFoundError(
            f"there is no file {missing[0]!r}{others} in {_where(folder)}{near}",
            where=row or folder.url,
            hint=row and "the column `file` has the paths of its files",
        )


def _missing(folder: Folder, paths: Sequence[str]) -> list[str]:
    from rh.resources import places

    for path in paths:
        places.check_file(path)
    system = folder.handle()
    if len(paths) <= _FEW:
        return [path for path in paths if not is_file(system, path)]
    try:
        there = {entry.key for entry in system.list() if entry.kind != "dir"}
    except NotFoundError:
        there = set()
    return [path for path in paths if path not in there]


def is_file(system: System, path: str) -> bool:
    """Whether a file, or a link, is there."""
    try:
        return bool(system.head(path).kind != "dir")
    except NotFoundError:
        return False


def _some(folder: Folder) -> Iterator[str]:
    """Some of the files, for suggestions."""
    try:
        for number, entry in enumerate(folder.handle().list()):
            if number >= _NEAREST_OF:
                return
            if entry.kind != "dir":
                yield entry.key
    except NotFoundError:
        return


def _of_mapping(files: Mapping[Any, Any], where: str) -> dict[str, Said]:
    said = {}
    for path, found in files.items():
        if not isinstance(path, str) or not isinstance(found, Mapping):
            raise InvalidError(
                f"{path!r:.80} with {found!r:.80} is no file with its properties",
                where=where,
                hint='{"a.png": {"label": "cat", "tags": ["gold"]}, …}',
            )
        said[path] = _row(found, path, f"{where}/{path}")
    return said


def _row(found: Mapping[str, Any], path: str, where: str) -> Said:
    metadata = {name: value for name, value in found.items() if name not in ("tags", "file")}
    if "file" in found and found["file"] != path:
        raise InvalidError("no property of a file can be called 'file'", where=where)
    tags = found.get("tags")
    return Said.of(metadata, () if tags is None else tags, where=where)


def of_rows(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[dict[str, Said], dict[str, str]]:
    """Rows of a table, each with its place; the column `file` says of which file, no value that nothing is said.

    With what is said come the places, by path.
    """
    said: dict[str, Said] = {}
    told: dict[str, str] = {}
    for here, row in rows:
        path = row.get("file")
        if not isinstance(path, str):
            raise InvalidError("a row names no file", where=here, hint="the column `file` has the paths")
        if path in said:
            raise InvalidError(f"{path!r} has a row already", where=here)
        said[path] = _row({name: value for name, value in row.items() if value is not None}, path, f"{here}: {path}")
        told[path] = f"{here}: {path}"
    return said, told


def numbered(rows: Iterable[Mapping[str, Any]], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows with their places: their number, counted from 1."""
    return ((f"{where}, row {number}", row) for number, row in enumerate(rows, 1))


def _rows(rows: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows):
        yield from rows
        return
    from rh.resources.table import Table
    from rh.tables.adapters import owner_of

    if isinstance(rows, Table):
        rows = rows.fetch(as_="arrow")
    for batch in owner_of(rows).reader(rows):
        yield from batch.to_pylist()
