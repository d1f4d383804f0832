"""Rows and columns, wherever they are: written all or nothing, streamed in batches, fetched as what they were."""

from __future__ import annotations

import base64
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack
from uuid import uuid4

from rh.errors import ExistsError, InvalidError, NameClashError, NotFoundError
from rh.plugins import need
from rh.registry.lineage import recording
from rh.resources import places, places_saved
from rh.resources.arguments import load_only, place_for
from rh.resources.base import UNWRITTEN, Located
from rh.resources.blob import NOTHING
from rh.resources.nearest import telling_nearest
from rh.resources.places import Place
from rh.resources.rows import Facts, Rows
from rh.systems.base import System
from rh.tables import given
from rh.tables.base import FORMATS, INDEX, ONE_FILE, Mode, Snapshot
from rh.types import Location

if TYPE_CHECKING:
    from rh.tables.look import Diff
    from rh.transfer import Plan, Receipt, Verification, WholeKeywords
    from rh.versions.lease import Lease
    from rh.versions.store import Store, Tree

__all__ = ["Facts", "Table"]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Table(Rows):
    """A table: a frozen value that says where its rows are, or holds rows that are still to be written.

    Attributes:
        location: the directory of its files, or one file; `None` until it has a place.
        partition_cols: columns by whose values the files lie in directories (`year=2026/…`).
        format: of an adopted table, where the names of its files do not say it. It is adopted as it is then, also where
            the files look like those of a table without its index.
        options: how to read the files of an adopted table (CSV: `{"delimiter": ";"}`).
        schema_given: the columns of an adopted table, whatever its files say: a serialized `pyarrow.Schema`.
        taken: when this snapshot of a query's result was begun (ISO 8601).
        own: `rh` wrote it, as far as this value knows: its files are those that its index names. Once that is gone the
            table is removed, and what else lies in its place is never taken for it.
        receipt: what the `.to()` that made this value really moved.

    Example:
        >>> import rh
        >>> table = rh.table({"x": [1, 2, 3], "y": ["a", "b", "c"]}, name="docs-table").save()
        >>> table.num_rows
        3
        >>> sum(len(batch) for batch in table.stream(2))
        3
        >>> rh.table(name="docs-table").fetch()
        {'x': [1, 2, 3], 'y': ['a', 'b', 'c']}
    """

    kind: ClassVar[str] = "table"
    partition_cols: tuple[str, ...] = ()
    format: str | None = None
    options: Mapping[str, Any] | None = None
    schema_given: bytes | None = None
    taken: str | None = None
    own: bool = field(default=False, compare=False)
    receipt: Receipt | None = field(default=None, compare=False)
    mkdir: bool = field(default=True, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "partition_cols", tuple(self.partition_cols))
        if self.format is not None and self.format not in FORMATS:
            raise InvalidError(f"format={self.format!r} is not one of {', '.join(FORMATS)}")
        if self.schema_given is not None:
            given.check_place(self.options, rows=self.value is not NOTHING, query=self.is_query)
        if self.native is not None:
            from rh.tables import adapters

            adapters.named(self.native)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table):
            return NotImplemented
        if self.value is not other.value:
            return False
        mine, theirs = (
            (t.name, t.location, t.native, t.partition_cols, t.format, t.options, t.source, t.tags, dict(t.metadata))
            for t in (self, other)
        )
        return mine == theirs and self.schema_given == other.schema_given

    __hash__ = Located.__hash__

    # The value as plain data.

    def document(self) -> dict[str, Any]:
        if self.value is not NOTHING:
            raise InvalidError(
                "this table is not written yet, so there is nothing to describe", hint=".write() or .save()"
            )
        document: dict[str, Any] = {} if self.is_query else super().document()
        if self.source is not None:
            document["source"] = self.source.as_dict() | ({} if self.taken is None else {"taken": self.taken})
        for name in ("native", "format"):
            if getattr(self, name) is not None:
                document[name] = getattr(self, name)
        if self.partition_cols:
            document["partition_cols"] = list(self.partition_cols)
        if self.options:
            document["options"] = dict(self.options)
        if self.schema_given is not None:
            document["schema"] = given.text_of(self.schema_given)
        if self.own:
            document["own"] = True
        if self.facts_known is not None:
            known = self.facts_known
            document["facts"] = {
                "rows": known.rows,
                "size": known.size,
                "schema": base64.b64encode(known.schema).decode(),
            }
        return document

    @classmethod
    def of_document(cls, document: dict[str, Any], *, local: bool) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        source, facts = document.pop("source", None), document.pop("facts", None)
        if source is not None:
            from rh.tables.database import Source

            fields |= {"source": Source.of_dict(source, local=local), "taken": source.get("taken")}
        if source is None or "location" in document:
            fields |= super().of_document(document, local=local)
        if facts is not None:
            fields["facts_known"] = Facts(int(facts["rows"]), int(facts["size"]), base64.b64decode(facts["schema"]))
        for name in ("native", "format", "options"):
            fields[name] = document.pop(name, None)
        fields["schema_given"] = given.of_text(document.pop("schema", None))
        fields["own"] = bool(document.pop("own", facts is not None))  # facts are known of what rh wrote only
        return fields | {"partition_cols": tuple(document.pop("partition_cols", ()))}

    def committed(self, store: Store, base: str | None, lease: Lease) -> Tree:
        from rh.tables import index
        from rh.versions.commit import commit_file, commit_tree
        from rh.versions.source import Written

        if not self.written:
            raise InvalidError("this table is not written yet", hint=UNWRITTEN)
        system, snapshot = self.opened_files()
        if system.location != self.placed():
            return commit_file(system, self.placed().name, store, base=base, lease=lease)
        keys = frozenset(file.key for file in snapshot.files)
        extra = {INDEX: index.without_etags(system)} if snapshot.owned else {}
        written = {file.key: Written(file.digest, file.etag) for file in snapshot.files if file.digest is not None}
        return commit_tree(system, store, base=base, keys=keys, extra=extra, written=written, lease=lease)

    def at_version(self, location: Location) -> dict[str, Any]:
        live = Located.placed(self)
        place = location / live.name if ONE_FILE.search(live.path) else location
        return {"location": place, "value": NOTHING, "receipt": None, "own": False, "facts_known": None}

    @property
    def written(self) -> bool:
        """Whether the rows are in files; those given to `rh.table` are not until `write`, `save` or `to`."""
        return self.value is NOTHING and not self.is_query

    # Where the rows are.

    def handle(self) -> System:
        """The system opened at the table's directory; for a table that is one file, at the directory it lies in."""
        location = self.placed()
        return places.at(location.parent if self.is_file else location, self.host, self.pin)

    @property
    def is_file(self) -> bool:
        """Whether its place is named as one file is, not as a directory."""
        return self.location is not None and ONE_FILE.search(self.placed().path) is not None

    @telling_nearest()
    def opened_files(self) -> tuple[System, Snapshot]:
        """The files whose rows are the table now, and the system opened at their root."""
        return self._looked_at()

    def _looked_at(self) -> tuple[System, Snapshot]:
        """The same; what is beside a table that is not there is left alone."""
        from rh.tables import store

        if self.is_query:
            raise InvalidError("the result of a query is no files", hint='.snapshot("name") writes it as a table')
        if self.value is not NOTHING:
            return self._staged()
        self.check_reachable()
        location = self.placed()
        if self.is_file:
            system = places.at(location.parent, self.host, self.pin)
            try:
                return system, store.look(system, location.name, **self._read_as())
            except NotFoundError:
                pass  # some tools give directories such names
        system = places.at(location, self.host, self.pin)
        parts = self.format is not None
        try:
            snapshot = store.look(system, parts=parts, own=self.own, **self._read_as())
        except (NotFoundError, NameClashError):
            file = None if self.own else self._odd_file(location)
            if file is None:
                raise
            return file
        if snapshot.owned and self.version is None:
            object.__setattr__(self, "own", True)  # seen once, it is known for good
        return system, snapshot

    def _read_as(self) -> dict[str, Any]:
        """What is known of how files of others are to be read."""
        return {"format": self.format, "options": self.options, "schema": self.schema_given}

    def _odd_file(self, location: Location) -> tuple[System, Snapshot] | None:
        """The one file that the place is, whose name does not say that it is a table."""
        from rh.tables import store

        try:
            beside = places.at(location.parent, self.host, self.pin)
        except InvalidError:
            return None  # it is a bucket, or a login's home
        try:
            return beside, store.look(beside, location.name, **self._read_as())
        except NotFoundError:
            return None

    def _staged(self) -> tuple[System, Snapshot]:
        """Rows that are not written yet, as files in this process's memory."""
        from rh.systems import open_system
        from rh.systems.memory import forget
        from rh.tables import writing

        staged: tuple[System, Snapshot] | None = self.__dict__.get("_in_memory")
        if staged is None:
            store = f"rh-table-{uuid4().hex}"
            system = open_system(Location("memory", store))
            staged = system, writing.write(system, self.to_reader())
            self.__dict__["_in_memory"] = staged  # not a field: it is no part of the value
            weakref.finalize(system, forget, store)  # streams hold the system, and may outlive the table
        return staged

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_in_memory", "_used_up", "_kept")}

    def exists_in_system(self) -> bool:
        """Whether there is a table at its place."""
        from rh.tables import store

        if self.location is None or self.value is not NOTHING:
            return False
        try:
            self._looked_at()
        except NotFoundError:
            return False
        except InvalidError:
            if self.is_file or store.find(self.handle(), own=self.own) is not None:
                raise
            return False  # a directory, and no table in it
        return True

    # Putting.

    def write(self, data: Any = None, *, mode: Mode = "error", partition_cols: Sequence[str] | None = None) -> Table:
        """Store rows (by default those given to `rh.table`) as Parquet files and return the table that has them.

        All or nothing: readers see the table as it was, or as it is now. Only the table's own files are touched.

        Args:
            data: what to store instead; any type that `rh.table` takes.
            mode: `"error"` if there is a table already, `"append"` to it, or `"overwrite"` it.
            partition_cols: lay files by the values of these columns.

        Raises:
            ExistsError: `mode="error"`, and there are data in its place.
            InvalidError: there is nothing to write, or the columns do not fit those that are there; the table has a
                given schema, which says how files of others are read.
            ConflictError: somebody else wrote the table meanwhile.
        """
        from rh.resources import table_writing

        return table_writing.write(self, data, mode, partition_cols)

    def snapshot(
        self,
        name: str,
        *,
        system: Place = None,
        path: str | os.PathLike[str] | None = None,
        mode: Mode = "error",
    ) -> Table:
        """Run the query and save its result under `name` as a table of its own, with query, parameters and time.

        Args:
            name: of the new table.
            system: where to; by default here.
            path: the place on that system.
            mode: as for `write`: `"overwrite"` takes the snapshot again.
        """
        from datetime import UTC, datetime

        if self.source is None:
            raise InvalidError("this table is not the result of a query", hint=".to() copies it")
        place = place_for(name, path, system if system is not None or path is not None else "here")
        recording.read(self)
        target = Table(name=name, location=place, metadata=self.metadata, native=self.native)
        began = datetime.now(UTC).isoformat(timespec="seconds")
        written = target.write(self.source.reader(), mode=mode)
        return replace(written, native=self.native, source=self.source, taken=began).save()

    def to(
        self, system: Place = None, path: str | os.PathLike[str] | None = None, **options: Unpack[WholeKeywords]
    ) -> Table:
        """Copy the table's files, and nothing else, to another place, verified; rows not written yet are written there.

        Args:
            system: as for `Folder.to`.
            path: as for `Folder.to`.
            options: as for `Folder.to`, without patterns.

        Raises:
            ExistsError: there are other data in that place.
        """
        from rh.resources import table_files

        return table_files.move(self, system, path, options)

    def plan(
        self, system: Place = None, path: str | os.PathLike[str] | None = None, **options: Unpack[WholeKeywords]
    ) -> Plan:
        """What `.to()` with the same arguments would move."""
        from rh.resources import table_files

        return table_files.plan(self, system, path, options)

    def restore(self, which: str, **options: Unpack[WholeKeywords]) -> Table:
        """As for folders; what lies beside the table's files stays, and is an `ExistsError` if it would become rows."""
        from rh.resources import table_files

        self.check_live()
        return table_files.restore(self, which, options)

    def local(self) -> Path:
        """The directory of the table's files on this machine, or the file that it is: its own, or copies in the cache.

        As for `Folder.local`, copies are brought up to date by each call, are not to be written to, and stay at least
        as long as this process does. Another library may read them as they are: `polars.scan_parquet(path)`.

        Raises:
            InvalidError: the rows are not in files: they are not written yet, or come from a query.
        """
        from rh.resources import table_files

        return table_files.here(self)

    def diff(self, other: Any, new: str | None = None, *, keys: Sequence[str] = ()) -> Diff:
        """What rows `other` has that this table has not, and the reverse; or in what rows two versions differ.

        `table.diff("v1", "v2")` is from one version to another, and `table.diff("v1")` from that one to the latest, as
        `Folder.diff` takes them: `table.at("v1").diff(table.at("v2"))`. What is live is in neither: compare it with
        `table.at("v1").diff(table)`.

        Args:
            other: the newer one: a table, or rows as `rh.table` takes them; or a version to begin with, as text.
            new: the version to compare that with.
            keys: columns that tell which rows are the same row; then changed rows are told as changed.

        Raises:
            InvalidError: there is no such column, two rows have one key, or `other` cannot be a table.
            NotFoundError: there is no such version.

        Example:
            >>> import rh
            >>> table = rh.table({"x": [1, 2]}, name="docs-differ").save()
            >>> versions = [table.commit(), table.write({"x": [3]}, mode="append").commit()]
            >>> table.diff("v1", "v2").added
            1
        """
        if isinstance(other, str):
            return self.at(other)._compared(self.at(new or "latest"), keys=keys)  # noqa: SLF001 - the same class
        if new is not None:
            raise InvalidError(
                "new= is a version, and goes with another version",
                hint='table.diff("v1", "v2"), or table.at("v1").diff(other)',
            )
        return self._compared(other, keys=keys)

    def _compared(self, other: Any, *, keys: Sequence[str]) -> Diff:
        return super().diff(other, keys=keys)

    def ready(self) -> Self:
        """The table with its rows in their place."""
        if self.is_query:
            return self
        if self.value is not NOTHING:
            try:
                written = self.write()
            except ExistsError as error:
                error.hint = '.write(mode="overwrite") or .write(mode="append") first, then .save()'
                raise
            names = ("location", "value", "native", "partition_cols", "facts_known", "host", "format", "options", "own")
            return replace(self, **{name: getattr(written, name) for name in names})
        self.opened_files()
        return self

    def compact(self, target_mb: int = 128) -> Table:
        """Rewrite neighbouring small files as files of about `target_mb` MiB, and return the table that has them.

        All or nothing, and the rows keep their order (of a table with partition columns, within each partition).
        The old files are removed then: streams of the old table that are under way end with `ConflictError`.

        Args:
            target_mb: MiB in a file, about; files that are larger stay as they are.

        Raises:
            ConflictError: somebody overwrote or removed the table meanwhile. What others append meanwhile stays.
            UnsupportedError: the files are others' (an adopted table).

        Example:
            >>> import rh
            >>> table = rh.table({"x": [1]}, name="docs-compact").save()
            >>> table.write({"x": [2]}, mode="append").compact().fetch()
            {'x': [1, 2]}
        """
        from rh.tables import compaction

        self.check_live()
        if isinstance(target_mb, bool) or not isinstance(target_mb, int) or target_mb < 1:
            raise InvalidError(f"target_mb is {target_mb!r}", hint="a whole number of MiB, 1 or more")
        if not self.written:
            raise InvalidError(
                "this table is not written yet, so there is nothing to compact",
                hint=UNWRITTEN,
            )
        snapshot = compaction.compact(*self.opened_files(), file_bytes=target_mb << 20)
        return replace(self, facts_known=Facts.of(snapshot), own=True, receipt=None)

    def rm(self) -> None:
        """Remove the table's own files, and nothing beside them. The record stays (`delete_configs`).

        Of an adopted table, those are the files that are its rows.

        Raises:
            NotFoundError: there is no table, or what `rh` wrote is removed already.
        """
        from rh.tables import store

        self.check_live()
        recording.wrote(self)
        store.remove(*self.opened_files())

    def verify(self) -> Verification:
        """Read every byte again and compare it with what was written."""
        if self.version is not None or (self.location is not None and self.placed().in_version):
            return self.check_version()
        from rh.resources import table_files

        return table_files.verify(self)

    def facts(self) -> Iterator[tuple[str, str]]:
        yield from super().facts()
        if self.source is not None:
            yield "database", self.source.system
            yield "query", self.source.query
        if self.taken is not None:
            yield "taken", self.taken
        if self.native is not None:
            yield "type", self.native
        if self.value is not NOTHING:
            yield "holds", f"a {type(self.value).__name__}, not written yet"
        if self.partition_cols:
            yield "partitioned by", ", ".join(self.partition_cols)
        schema = self.schema_given
        if self.facts_known is not None:
            known = self.facts_known
            yield "rows", f"{known.rows:,}"
            yield "size", f"{known.size:,} bytes"
            schema = known.schema
        if schema is not None:
            for column in need("pyarrow.ipc").read_schema(need("pyarrow").py_buffer(schema)):
                yield column.name, str(column.type)
        if self.receipt is not None:
            yield "receipt", str(self.receipt)

    def __repr__(self) -> str:
        if self.is_query:
            assert self.source is not None
            return f"<Table {self.name + ' ' if self.name else ''}of a query on {self.source.system}>"
        return super().__repr__()


def _partitions(columns: Sequence[str] | None) -> tuple[str, ...]:
    from rh.tables import access

    return () if columns is None else tuple(access.names_in("partition_cols", columns))


def table(
    data: Any = None,
    name: str | None = None,
    path: str | os.PathLike[str] | None = None,
    system: Place = None,
    partition_cols: Sequence[str] | None = None,
    mkdir: bool = True,  # noqa: FBT001, FBT002 - Runhouse's signature
    dryrun: bool = False,  # noqa: FBT001, FBT002
    *,
    query: str | None = None,
    parameters: Any = None,
    format: str | None = None,  # noqa: A002
    options: Mapping[str, Any] | None = None,
    schema: Any = None,
    metadata: Mapping[str, Any] | None = None,
) -> Table:
    """Return a table: of rows to write, of existing files, of a query, or with a name alone the one saved under it.

    Nothing is read or written yet; `write`, `save`, `to`, `fetch` and `stream` do that.

    Args:
        data: a pyarrow Table, RecordBatchReader or Dataset, a pandas, polars or Dask DataFrame, a Ray or Hugging Face
            Dataset, anything with `__arrow_c_stream__`, a dict of columns, a list of dicts.
        name: `x`, `~/x`, `@/x` or `/org/team/x`.
        path: the directory of its files, or one file (Parquet, CSV, JSON lines, Arrow IPC), as a path or URL;
            `rh://name:v3/sub` is one in what was saved. Without it the place is `<root>/<name>`.
        system: a system's name, a URL, a cluster; with `query=` the URL of a database (`postgresql://user@host/db`).
        partition_cols: lay files by the values of these columns.
        mkdir: make the directory when rows are written.
        dryrun: give the saved record even if its system is not known here.
        query: SQL whose result is the table.
        parameters: what the query's placeholders stand for.
        format: of existing files whose names do not say it.
        options: how to read existing files: for CSV `{"delimiter": ";"}`.
        schema: the columns and types of existing files: a `pyarrow.Schema`, or a dict of names and types
            (`{"n": "int64", "at": "timestamp[us]"}`). The table has these, in this order; other columns are not read,
            and those that a file lacks are null. By default the files say their columns.
        metadata: plain JSON values to be saved with it.

    Raises:
        NotFoundError: nothing of that name is saved.
        InvalidError: the data cannot be a table, or arguments contradict each other.

    Example:
        >>> import rh
        >>> rh.table([{"x": 1}, {"x": 2}]).write().num_rows
        2
    """
    kept: dict[str, Any] = {"metadata": metadata or {}, "partition_cols": _partitions(partition_cols), "mkdir": mkdir}
    if schema is not None:
        kept["schema_given"] = given.encoded(schema)
    if options is not None and not isinstance(options, Mapping):
        raise InvalidError(f"options= is a dict, not {options!r}", hint='options={"delimiter": ";"}')
    if query is not None:
        if data is not None or path is not None:
            raise InvalidError("query= makes a table of a database, without data= or path=", hint="system= is its URL")
        if not isinstance(system, str):
            raise InvalidError("query= needs system=", hint='system="postgresql://user@host/database"')
        from rh.tables.database import Source

        return Table(name=name, source=Source(system, query, () if parameters is None else parameters), **kept)
    if parameters is not None:
        raise InvalidError("parameters= is for query=")
    name, saved = places_saved.meant(name, path, system, dryrun=dryrun)
    whole = name is None and data is None and format is None and options is None and schema is None
    if saved is not None and whole and not saved.below and isinstance(saved.resource, Table):
        return saved.resource if metadata is None else replace(saved.resource, metadata=metadata)
    if saved is None and data is None and path is None and system is None:
        found = load_only(name, Table, dryrun=dryrun)
        if schema is not None:
            found = replace(found, schema_given=kept["schema_given"])
        return found if metadata is None else replace(found, metadata=metadata)
    if isinstance(data, str | os.PathLike):
        raise InvalidError(
            f"the first argument is the rows, not {type(data).__name__}",
            hint="name= for a saved table, path= for files",
        )
    native = None
    if data is not None:
        from rh.tables import adapters

        native = data.native if isinstance(data, Table) else adapters.owner_of(data).name
    if saved is not None:
        kept |= saved.fields()
    else:
        place = None
        if path is not None or system is not None:
            place = place_for(name, path, system) or places.target(system, path, f"table-{uuid4().hex}")
        elif name is not None:
            place = place_for(name, None, "here")
        kept |= {"location": place, "host": None if place is None else places.portable(place)}
    return Table(
        name=name,
        native=native,
        format=format,
        options=options,
        value=NOTHING if data is None else data,
        **kept,
    )
