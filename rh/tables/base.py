"""The words of tables, and the contract of an adapter: what a data-frame library must be able to do.

A *snapshot* says which files are a table's rows at one moment. A table that `rh` wrote has one hidden index file,
`.rh-table.json`, written last: it is the commit marker, so a reader sees the old table or the new one, whole. A
directory or file that others wrote is *adopted*: its data files, as they are listed, are the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from rh.plugins import need
from rh.systems.base import DESCRIBING
from rh.types import Location

__all__ = [
    "ADAPTERS",
    "FORMATS",
    "INDEX",
    "ONE_FILE",
    "Adapter",
    "DataFile",
    "FileFormat",
    "LeftOutWarning",
    "Mode",
    "Parallel",
    "Snapshot",
]

INDEX = DESCRIBING[1]
"""Key of the index below the table's root."""

FileFormat = Literal["parquet", "csv", "jsonl", "arrow"]
FORMATS: tuple[str, ...] = get_args(FileFormat)

ONE_FILE = re.compile(
    r"\.(parquet|pq|arrows?|feather|ipc|(csv|tsv|jsonl|ndjson|json)(\.(gz|bz2|zst|lz4))?)$", re.IGNORECASE
)
"""What ends the name of a table that is one file."""

Mode = Literal["error", "append", "overwrite"]


class LeftOutWarning(UserWarning):
    """A directory is read as a table of few of the files that are there: perhaps it is about something else."""


class DataFile(NamedTuple):
    """One file of a table.

    Attributes:
        key: below the table's root, exact.
        size: bytes.
        rows: how many, where the file's metadata or the writer said so.
        etag: the store's, as it was when the file was listed or written; reads hold it against what they find.
        digest: of the bytes (`rh.digest` text form), where `rh` wrote it.
        values: the file's values of the partition columns, as text, in their order; `None` stands for null.
        footer: length and SHA-256 of the footer of a Parquet file that `rh` wrote, `"<bytes>:<hex>"`: Arrow trusts what
            it says, so it is compared before Arrow sees it.
    """

    key: str
    size: int
    rows: int | None = None
    etag: str | None = None
    digest: str | None = None
    values: tuple[str | None, ...] = ()
    footer: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A table's files at one moment: plain data, picklable, the same on every machine.

    Attributes:
        format: of all its files.
        files: in the order of the rows: that of the writes, and of the keys (by UTF-8 bytes) within one; all in that
            of the keys where others wrote them.
        partition_cols: columns whose values are in the directories' names (`year=2026/…`), not in the files.
        schema: of the whole table, partition columns last, as a serialized Arrow schema (`pyarrow.Schema.serialize`);
            `None` until it was read from the files.
        etag: of the index file; `None` for an adopted table.
        options: what the reader of the format needs to know (CSV: `{"delimiter": ";", …}`).
        given: the user gave the schema: the table has these columns in this order, whatever is in its files.
    """

    format: FileFormat
    files: tuple[DataFile, ...]
    partition_cols: tuple[str, ...] = ()
    schema: bytes | None = None
    etag: str | None = None
    options: Mapping[str, Any] | None = None
    given: bool = False

    @property
    def owned(self) -> bool:
        """Whether `rh` wrote the table; else it is adopted."""
        return self.etag is not None

    @property
    def fingerprint(self) -> str:
        """Equal for the same files in the same place, read the same: what a stream's state is held against."""
        import hashlib

        mark = hashlib.sha256(self.format.encode())
        if self.given:  # as text: another release of Arrow may serialize the same schema to other bytes
            pa = need("pyarrow")
            for field in pa.ipc.read_schema(pa.py_buffer(self.schema)):
                mark.update(repr((field.name, str(field.type), field.nullable)).encode())
        if self.options:
            from rh.tables.given import given_types

            kinds = {} if self.given else {name: str(kind) for name, kind in given_types(self).items()}
            told = {name: _told(value) for name, value in self.options.items() if name != "column_types"}
            mark.update(repr((sorted(kinds.items()), sorted(told.items()))).encode())
        for file in self.files:
            mark.update(repr((file.key, file.size, file.digest or file.etag)).encode())
        return mark.hexdigest()[:32]


def _told(value: Any) -> str:
    """An option as text that is the same in every process; what has no such text, as functions, by its name."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_told, value))}]"
    kind: Any = type(value)
    if callable(value) or kind.__repr__ is object.__repr__:
        return str(getattr(value, "__qualname__", kind.__qualname__))
    return repr(value)


class Adapter(Protocol):
    """A data-frame library: one module, which alone imports it, and that late.

    A module `rh.tables.<name>` has one class with these methods, registered in `ADAPTERS`.
    """

    name: ClassVar[str]
    """As in `fetch(as_=name)`, `to_<name>()` and the record's `native`."""

    @staticmethod
    def owns(value: Any) -> bool:
        """Whether `value` is one of the library's tables. Imports nothing: it looks at the type's module and name."""

    @staticmethod
    def reader(value: Any) -> Any:
        """`value` as a `pyarrow.RecordBatchReader`, batch by batch where the library can.

        Raises:
            InvalidError: it cannot be a table, with the column that is the cause.
        """

    @staticmethod
    def of_arrow(rows: Any) -> Any:
        """A `pyarrow.Table` as the library's own."""

    @staticmethod
    def fetch(location: Location, snapshot: Snapshot, *, columns: list[str] | None = None, where: Any = None) -> Any:
        """The rows as the library's own table: lazily, from its own workers, where it works that way."""


@runtime_checkable
class Parallel(Protocol):
    """An adapter whose workers write by themselves: no row passes the caller."""

    @staticmethod
    def schema(value: Any) -> Any:
        """The `pyarrow.Schema` that `write` will store."""

    @staticmethod
    def write(
        value: Any, location: Location, write_id: str, partition_cols: tuple[str, ...] = (), *, schema: Any = None
    ) -> list[DataFile]:
        """Store the parts of `value` from the library's workers (`rh.tables.writing.write_part`); nothing is published.

        Args:
            value: the library's table.
            location: of the table.
            write_id: from `rh.tables.writing.begin`; in the names of all files.
            partition_cols: columns that become directories.
            schema: the types to store, where they are not those of `schema(value)`.
        """


ADAPTERS: dict[str, str] = {
    "arrow": "rh.tables.arrow",
    "pandas": "rh.tables.pandas",
    "polars": "rh.tables.polars",
    "dask": "rh.tables.dask",
    "ray": "rh.tables.ray",
    "hf": "rh.tables.huggingface",
    "dict": "rh.tables.arrow",
    "rows": "rh.tables.arrow",
    "reader": "rh.tables.arrow",
    "dataset": "rh.tables.arrow",
}
"""Adapters by name, and their modules. Order matters: the first that owns a value has it."""
