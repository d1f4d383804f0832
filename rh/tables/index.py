"""The index of a table: which files are its own, with what is known of them.

The index of a table that `rh` wrote, `.rh-table.json` below its root, is one JSON object:

* `format`: 1, the number of this schema. A reader that meets a higher one refuses, and writes nothing.
* `files`: in the order of the rows, each with `key` (`key_b64`, base64 of its bytes, where they are not UTF-8), `size`,
  and what is known of `rows`, `etag`, `digest`, `values`, `footer`: the fields of `rh.tables.base.DataFile`.
* `place`: where the index was written, what is not UTF-8 in it escaped. Etags mean something there only.
* `partition_cols`, and `schema`, base64 of the serialized Arrow schema of the whole table.
* `rows`, `bytes`: of all files (`rows` is null where a file's are not known). `written`: when, for people.
* `write_id`: of this index, another at each change.
* `check`: the last field, the digest of the text without it.

Fields that this version does not know are written back as they were.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rh.content.tree import key_bytes, key_text
from rh.errors import ConflictError, IntegrityError, NotFoundError, UnsupportedError
from rh.systems.base import System
from rh.tables.base import INDEX, DataFile, Snapshot
from rh.types import Entry

__all__ = ["CONTENT", "Index", "document_of", "encoded", "etag_of", "ordered", "read", "snapshot_of", "without_etags"]

FORMAT = 1
CONTENT = "content:"
"""Prefix of what stands for an index's etag where the place has none: a digest of its bytes."""


class Index(NamedTuple):
    """An index as it was read: as JSON, with fields that are not known here, and what it says."""

    document: dict[str, Any]
    etag: str
    snapshot: Snapshot

    @property
    def keys(self) -> set[str]:
        """Of the table's files."""
        return {file.key for file in self.snapshot.files}


def encoded(document: Mapping[str, Any]) -> bytes:
    """An index as it is stored, with its check."""
    import msgspec

    text = msgspec.json.encode({key: value for key, value in document.items() if key != "check"})
    return text[:-1] + b',"check":"sha256:' + hashlib.sha256(text).hexdigest().encode() + b'"}'


def etag_of(entry: Entry, data: bytes) -> str:
    """What tells this index from any other in its place."""
    return entry.etag if entry.etag is not None else CONTENT + hashlib.sha256(data).hexdigest()


def read(system: System) -> Index | None:
    """The index as it is now; `None` where there is none."""
    where = system.url(INDEX)
    try:
        with system.read(INDEX) as body:
            data = body.read()
            etag = etag_of(body.entry, data)
    except NotFoundError:
        return None
    document = _decoded(data, where)
    return Index(document, etag, snapshot_of(document, etag, where))


def _decoded(data: bytes, where: str) -> dict[str, Any]:
    import msgspec

    try:
        document = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError) as error:
        raise _garbled(where, str(error)) from error
    number = document.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise UnsupportedError(
            f"a newer rh wrote this table: its index has format {number}, this rh knows {FORMAT}",
            where=where,
            hint="upgrade rh-data",
        )
    head, mark, check = data.rpartition(b',"check":"sha256:')
    if not mark or check != hashlib.sha256(head + b"}").hexdigest().encode() + b'"}':
        raise _garbled(where, "its check does not agree with its text")
    return document


def _garbled(where: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"the table's index is garbled: {why}",
        where=where,
        hint="write the table again from its source, or restore the index from a copy",
    )


def snapshot_of(document: Mapping[str, Any], etag: str, where: str) -> Snapshot:
    """What an index says; `IntegrityError` if it says nothing sensible."""
    try:
        # Etags are those of one place: a table that was copied by other means has others, and the same bytes.
        here = document.get("place") in (None, _place(where))
        return Snapshot(
            "parquet",
            tuple(map(_file, document["files"] if here else map(_anywhere, document["files"]))),
            tuple(map(str, document["partition_cols"])),
            base64.b64decode(document["schema"], validate=True),
            etag,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _garbled(where, f"{type(error).__name__}: {error}") from error


def _file(line: Mapping[str, Any]) -> DataFile:
    key = line["key"] if "key" in line else key_text(base64.b64decode(line["key_b64"], validate=True))
    values = tuple(None if value is None else str(value) for value in line.get("values") or ())
    return DataFile(
        str(key),
        int(line["size"]),
        line.get("rows"),
        line.get("etag"),
        line.get("digest"),
        values,
        None if line.get("footer") is None else str(line["footer"]),
    )


def _line(file: DataFile) -> dict[str, Any]:
    raw = key_bytes(file.key)
    try:
        line: dict[str, Any] = {"key": raw.decode("utf-8")}
    except UnicodeDecodeError:
        line = {"key_b64": base64.b64encode(raw).decode()}
    line["size"] = file.size
    known = {
        "rows": file.rows,
        "etag": file.etag,
        "digest": file.digest,
        "values": list(file.values) or None,
        "footer": file.footer,
    }
    return line | {name: value for name, value in known.items() if value is not None}


def _kept(line: Mapping[str, Any]) -> dict[str, Any]:
    """What an index says of a file that is not known here."""
    return {name: value for name, value in line.items() if name not in (*DataFile._fields, "key_b64")}


def _place(where: str) -> str:
    return where.encode("utf-8", "backslashreplace").decode()


def without_etags(system: System) -> bytes:
    """The index as it is to lie in a version: of equal content the same, whoever wrote it where, when and how often."""
    found = read(system)
    if found is None:
        raise ConflictError("somebody removed the table", where=system.url(INDEX))
    content = {key: value for key, value in found.document.items() if key not in ("place", "written", "write_id")}
    return encoded({**content, "files": list(map(_anywhere, found.document["files"]))})


def _anywhere(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "etag"}


def ordered(files: Iterable[DataFile]) -> list[DataFile]:
    """In the order of their keys."""
    return sorted(files, key=lambda file: key_bytes(file.key))


def document_of(
    old: Index | None, files: Iterable[DataFile], partition_cols: Sequence[str], schema: bytes, where: str
) -> dict[str, Any]:
    """The index that is to replace `old`, at the place `where`: what is not known here stays."""
    files = list(files)
    before: dict[str, Any] = {} if old is None else {_file(line).key: line for line in old.document["files"]}
    if old is not None and old.document.get("place") not in (None, _place(where)):
        before = {key: _anywhere(line) for key, line in before.items()}
    rows = [file.rows for file in files]
    return {
        **({} if old is None else old.document),
        "format": FORMAT,
        "files": [_kept(before.get(file.key, {})) | _line(file) for file in files],
        "place": _place(where),
        "partition_cols": list(partition_cols),
        "schema": base64.b64encode(schema).decode(),
        "rows": None if None in rows else sum(row for row in rows if row is not None),
        "bytes": sum(file.size for file in files),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "write_id": secrets.token_hex(8),
    }
