"""Files of a folder that a condition on their properties holds for."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any, ClassVar, Self, Unpack

from rh import config
from rh.config import did_you_mean
from rh.content.tree import key_bytes
from rh.errors import InvalidError, NotFoundError
from rh.registry import filters
from rh.registry.filters import All, Exists, Filter
from rh.registry.lineage import recording
from rh.registry.names import Name
from rh.resources import annotated, places
from rh.resources.arguments import split_options
from rh.resources.base import Resource, load
from rh.resources.places import Place
from rh.systems.abilities import Bulk
from rh.systems.base import System
from rh.types import Entry
from rh.versions import properties

if TYPE_CHECKING:
    from rh.resources.folder import Folder
    from rh.transfer import Keywords, Receipt
    from rh.versions.lease import Lease
    from rh.versions.series import Series, Version
    from rh.versions.store import Store, Tree

__all__ = ["View", "query"]

_FEW = 32
_FEW_OF_VERSION = 2_000
"""So many files are asked for one by one; for more, the folder is listed."""
_GROUP = 256
_GROUP_BYTES = 16 << 20
_SHOWN = 20


@dataclass(frozen=True, kw_only=True, repr=False)
class View(Resource):
    """Files of a folder, or of a version of it, that a condition holds for: a list that never changes.

    `folder.query(…)` makes one, and looks the files up. A saved one holds the condition: `rh.load` looks them up anew.

    Attributes:
        folder_name: of the folder.
        version: `"v3"`, if it is about a version.
        where: the condition.
        receipt: what the `.to()` that made this value really moved.
    """

    kind: ClassVar[str] = "view"
    folder_name: str = ""
    version: str | None = None
    where: Filter = field(default_factory=lambda: All(()))
    found: Mapping[str, Mapping[str, Any]] | None = field(default=None, compare=False)
    """The files and what is said of each; `None` until they were looked up."""
    source: Folder | None = field(default=None, compare=False)
    """The folder they were looked up in."""

    __hash__ = Resource.__hash__

    # The value as plain data.

    def document(self) -> dict[str, Any]:
        return {"folder": self.folder_name, "version": self.version, "where": self.where.as_dict()}

    @classmethod
    def of_document(cls, document: dict[str, Any], *, local: bool) -> dict[str, Any]:
        folder = str(document.pop("folder"))
        if not local and Name(folder).is_local:
            raise InvalidError(f"it is about {folder}, which is a name of somebody's own machine")
        where = filters.of_dict(document.pop("where"))
        return {"folder_name": folder, "version": document.pop("version", None), "where": where}

    def ready(self) -> Self:
        if not self.is_local and Name(self.folder_name).is_local:
            raise InvalidError(
                f"{self.name} would be a view of {self.folder_name}, which only this machine knows",
                hint="save the folder under a name that others know, too",
            )
        return self

    def check_reachable(self) -> None:
        """Look the files up, as `rh.load` does with a saved view."""
        if self.found is None:
            object.__setattr__(self, "source", self.folder)
            object.__setattr__(self, "found", _looked_up(self.folder, self.where))

    # The files.

    @property
    def folder(self) -> Folder:
        """The folder, or the handle on the version, that the files are in."""
        if self.source is not None:
            return self.source
        from rh.resources.folder import Folder

        found = load(self.folder_name, kinds=("folder",))
        assert isinstance(found, Folder)
        return found if self.version is None else found.at(self.version)

    @property
    def files(self) -> list[str]:
        """The paths, in order."""
        return list(self._found())

    def _found(self) -> Mapping[str, Mapping[str, Any]]:
        if self.found is None:
            raise InvalidError("the files of this view were not looked up", hint="rh.load without dryrun=True does it")
        return self.found

    def __len__(self) -> int:
        return len(self._found())

    def __bool__(self) -> bool:
        return bool(self._found())

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __contains__(self, path: object) -> bool:
        return path in self._found()

    def properties(self, as_: str = "rows") -> Any:
        """What is said of the files: a row for each, with `file`, `tags`, and every property by its dotted name.

        Args:
            as_: `"rows"` (a list of dicts), or `"pandas"`, `"polars"`, `"arrow"` and what else `table.fetch` knows:
                there every row has all columns.
        """
        rows = [_row(path, document) for path, document in self._found().items()]
        if as_ == "rows":
            return rows
        from rh.tables.adapters import named

        target = named(as_)
        names = dict.fromkeys(["file", "tags", *(name for row in rows for name in row)])
        lists = {name for row in rows for name, value in row.items() if isinstance(value, list)}

        def column(name: str) -> list[Any]:
            values = [row.get(name) for row in rows]
            if name in lists:
                return [value if value is None or isinstance(value, list) else [value] for value in values]
            return values

        return target.of_arrow(named("dict").reader({name: column(name) for name in names}).read_all())

    def open(self, path: str, mode: str = "rb", **options: Any) -> IO[Any]:
        """A file of the view as a file object, to be read (see `Folder.open`).

        Raises:
            NotFoundError: it is not in the view; the nearest are named.
        """
        if not isinstance(mode, str) or mode.strip("bt") != "r":
            raise InvalidError(f"a view is only read, and mode={mode!r} writes", where=repr(self))
        self._check(path)
        return self.folder.open(path, mode, **options)

    def get(self, path: str) -> bytes:
        """The bytes of a file of the view."""
        self._check(path)
        return self.folder.get(path)

    def _check(self, path: str) -> None:
        files = self._found()
        if path not in files:
            near = did_you_mean(str(path), tuple(files)[:10_000])
            raise NotFoundError(f"{path!r} is not in the view{near}", where=repr(self))

    def stream(self) -> Iterator[tuple[str, bytes]]:
        """The files in order, path and bytes, each verified where its digest is known; the next ones are read ahead."""
        folder = self.folder
        recording.read(folder)
        system = folder.handle()
        bulk = None if self.version is None else system.ask(Bulk)  # of what is live, a file's digest is known to `get`
        groups = ([path] for path in self.files) if bulk is None else _groups(system, self.files)
        ahead = int(config.get("workers")) if bulk is None else 2

        def read(paths: Sequence[str]) -> list[tuple[str, bytes]]:
            if bulk is not None:
                return _read_group(bulk, paths)
            return [(path, folder.get(path)) for path in paths]

        waiting: deque[Future[list[tuple[str, bytes]]]] = deque()
        with ThreadPoolExecutor(ahead, thread_name_prefix="rh-view") as pool:
            try:
                for group in groups:
                    waiting.append(pool.submit(read, group))
                    if len(waiting) > ahead:
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    # Elsewhere.

    def to(
        self, system: Place = None, path: str | os.PathLike[str] | None = None, **options: Unpack[Keywords]
    ) -> Folder:
        """Copy the files of the view to another place, verified, and return the folder there (see `Folder.to`)."""
        from rh import transfer
        from rh.resources.folder import Folder

        chosen, watch = split_options({"ignore_file": False, **options})
        if chosen.keys is not None or chosen.include or chosen.exclude:
            raise InvalidError("the view says which files are copied", hint="folder.query(…) with a narrower condition")
        if chosen.dry_run:
            raise InvalidError("a dry run makes no copy to return", hint="len(view) says how many files there are")
        target = places.target(system, path, places.stem_of(self.name))
        if target is None:
            raise InvalidError("where to? This view has no name that a place could be called by", hint="give path=")
        folder = self.folder
        if target == folder.location:
            raise InvalidError("the files are there already", where=places.url_of(target))
        chosen = replace(chosen, keys=frozenset(self._found()))
        recording.read(folder)
        receipt: Receipt = transfer.copy_tree(folder.location, target, chosen, **watch)
        copy = Folder(name=self.name, location=target, host=places.portable(target), receipt=receipt)
        recording.wrote(copy)
        return copy

    def commit(
        self,
        name: str,
        message: str = "",
        *,
        aliases: Sequence[str] = (),
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> Version:
        """Make a version of another saved folder that holds the files of the view, and what is said of them.

        Of a view of a version nothing is read or written where both folders keep their versions in the same store. The
        live files of the other folder stay as they are.

        Args:
            name: of the other folder.
            message: as for `Folder.commit`.
            aliases: as for `Folder.commit`.
            tags: as for `Folder.commit`.
            metadata: as for `Folder.commit`.

        Raises:
            InvalidError: a property has another type in the other folder. Nothing was written.
        """
        from rh.resources.folder import Folder
        from rh.versions.edit import Edit
        from rh.versions.store import Store as Stored

        files = self._found()
        target = load(name, kinds=("folder",))
        assert isinstance(target, Folder)
        target.check_live()
        if target.name == self.folder_name:
            raise InvalidError(f"{target.name} is the folder that the view is of", hint="name another one")
        folder = self.folder
        recording.read(folder)
        version = None if self.version is None else folder.committed_version()
        annotated.check_carried(files.items(), target)

        def made(store: Store, _base: str | None, lease: Lease) -> Tree:
            with Edit(store, None, lease=lease) as edit:
                if version is None:
                    system = folder.handle()
                    for entry in _entries(system, files):
                        edit.add(entry.key, (system, entry))
                else:
                    source = Stored.at(version.store)
                    for path in files:
                        edit.copy_from(source, version.digest, path)
                return edit.finish()

        made_version = target.made(made, message or f"{self.where}", aliases=aliases, tags=tags, metadata=metadata)
        annotated.carry(files.items(), target)
        return made_version

    # Python.

    def __repr__(self) -> str:
        of = f"{self.folder_name}{f':{self.version}' if self.version else ''}"
        count = "" if self.found is None else f", {len(self.found):,} files"
        return f"<View {self.name + ' ' if self.name else ''}of {of} where {self.where}{count}>"

    def facts(self) -> Iterator[tuple[str, str]]:
        yield from super().facts()
        yield "folder", f"{self.folder_name}{f':{self.version}' if self.version else ''}"
        yield "where", str(self.where)
        if self.found is not None:
            yield "files", f"{len(self.found):,}"

    def _repr_html_(self) -> str:
        from html import escape

        if self.found is None:
            return super()._repr_html_()
        rows = [_row(path, self.found[path]) for path in list(self.found)[:_SHOWN]]
        names = list(dict.fromkeys(["file", "tags", *(name for row in rows for name in row)]))
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_shown(row.get(name)))}</td>" for name in names) + "</tr>" for row in rows
        )
        return f"<table><caption>{escape(repr(self)[1:-1])}</caption><tr>{head}</tr>{body}</table>"


def query(folder: Folder, where: Filter | str | Mapping[str, Any] | None) -> View:
    """`Folder.query`."""
    condition = properties.condition(where)
    if folder.name is None:
        raise InvalidError("this folder has no name, so nothing is said of its files", hint='.save("a-name") first')
    found = _looked_up(folder, condition)
    return View(folder_name=folder.name, version=folder.version, where=condition, found=found, source=folder)


def _looked_up(folder: Folder, where: Filter) -> dict[str, Mapping[str, Any]]:
    """The files that are there and that the condition holds for, in order, with what is said of each."""
    records: dict[str, Mapping[str, Any]] = {}
    try:
        series = folder.series_of()
    except NotFoundError:
        series = None
    if series is None:
        properties.check_fields(
            where, (), lambda _used: False, str(folder.name), lambda one: _of_others(folder, None, one)
        )
    else:
        registry, prefix = series.registry, properties.files_prefix(series.series)
        types = registry.find(properties.types_key(series.series))
        for record in registry.search(where, prefix):
            records[properties.path_of(record.key)] = record.document
        used = {name for document in records.values() for name, _ in filters.properties(document)}
        properties.check_fields(
            where,
            properties.names_in(types),
            lambda one: one.field in used or next(iter(registry.search(one, prefix)), None) is not None,
            str(folder.name),
            lambda one: _of_others(folder, series, one),
        )
        properties.check_kinds(where, [(types, str(folder.name))])
    if not where.holds({}):
        return {path: records[path] for path in _there(folder, list(records))}
    # It holds for files as well of which nothing is said.
    others = {path: document for path, document in _all_said(folder).items() if path not in records}
    return {path: records.get(path, {}) for path in _listed(folder) if path not in others}


def _of_others(folder: Folder, series: Series | None, one: Exists) -> InvalidError | None:
    """The error for a property that the folder or its versions have, and none of the files."""

    def is_used(prefix: str) -> bool:
        return series is not None and next(iter(series.registry.search(one, prefix)), None) is not None

    if series is not None and is_used(properties.files_prefix(series.series)):
        return None
    if series is not None and is_used(f"versions/{series.series}/"):
        what = "versions"
    elif one.matches({"metadata": folder.metadata}):
        what = "the folder itself"
    else:
        return None
    return InvalidError(
        f"{one.field!r} is a property of {what}, and of no file",
        where=str(folder.name),
        hint="rh.find(where=…) finds resources and versions by theirs",
    )


def _all_said(folder: Folder) -> dict[str, Mapping[str, Any]]:
    try:
        series = folder.series_of()
    except NotFoundError:
        return {}
    prefix = properties.files_prefix(series.series)
    return {properties.path_of(record.key): record.document for record in series.registry.list(prefix)}


def _there(folder: Folder, paths: list[str]) -> list[str]:
    """Those that are files of the folder, in order."""
    if len(paths) > (_FEW if folder.version is None else _FEW_OF_VERSION):
        wanted = set(paths)
        return [path for path in _listed(folder) if path in wanted]
    system = folder.handle()
    return [path for path in sorted(paths, key=key_bytes) if annotated.is_file(system, path)]


def _listed(folder: Folder) -> Iterator[str]:
    for entry in folder.handle().list():
        if entry.kind != "dir":
            yield entry.key


def _entries(system: System, files: Mapping[str, Any]) -> Iterator[Entry]:
    """The entries of files: of a few one by one, of more in one listing."""
    found: dict[str, Entry] = {}
    if len(files) > _FEW:
        found = {entry.key: entry for entry in system.list() if entry.key in files}
    for path in files:
        yield found[path] if path in found else system.head(path)


def _groups(system: System, files: Sequence[str]) -> Iterator[list[str]]:
    """Files that are read together."""
    group: list[str] = []
    size = 0
    for path in files:
        length = system.head(path).size
        if group and (len(group) >= _GROUP or size + length > _GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(path)
        size += length
    if group:
        yield group


def _read_group(bulk: Bulk, paths: Sequence[str]) -> list[tuple[str, bytes]]:
    found: dict[str, bytes] = {}
    for entry, data in bulk.read_many([Entry(path, 0) for path in paths]):
        if isinstance(data, Exception):
            raise data
        found[entry.key] = data
    return [(path, found[path]) for path in paths]


def _row(path: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of a file, by name; a list where there are several values."""
    row: dict[str, Any] = {"file": path, "tags": list(document.get("tags") or ())}
    for name, value in filters.properties({"metadata": document.get("metadata") or {}}):
        if name in row and name not in ("file", "tags"):
            row[name] = [*(row[name] if isinstance(row[name], list) else [row[name]]), value]
        elif name not in row:
            row[name] = value
    return row


def _shown(value: Any) -> str:
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
