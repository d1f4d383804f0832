"""The log of a registry on a bucket prefix: what is written under which key (`docs/registry-format.md`).

Nothing here does I/O.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from rh.errors import IntegrityError
from rh.registry.base import Change, NewerError
from rh.registry.documents import decode, encode

__all__ = [
    "FORMAT",
    "HEADER",
    "SEGMENT",
    "Commit",
    "Entry",
    "directory_of",
    "entry_key",
    "identity_of",
    "new_header",
    "numbers_of",
    "pack",
    "segment_key",
    "segment_of",
    "sequence_of",
    "unpack",
]

FORMAT = 1
HEADER = "registry.json"
SEGMENT = 100
"""Entries of one directory of the log, which also are those of one segment."""
REPAIR = (
    "put a copy of it back; or make a new registry of what a machine that can still read this one exports "
    "(rh registry export, rh registry import)"
)
"""What helps where an entry of the log is not what it was."""

_BEGIN, _MIDDLE, _END = b'{"sha256":"', b'","entry":', b"}"
_START = len(_BEGIN) + 64 + len(_MIDDLE)
_ENTRY_KEY = re.compile(r"log/\d{14}/(\d{16})\.json")
_SEGMENT_KEY = re.compile(r"segments/(\d{14})\.jsonl\.gz")


class Commit(NamedTuple):
    """The changes of one token. `request` tells what was asked for (`request_digest`), empty where nobody knows."""

    token: str
    request: str
    changes: Sequence[Change]


class Entry(NamedTuple):
    """One entry of the log: commits that happened together. `previous` is the digest of the entry before."""

    sequence: int
    previous: str
    commits: Sequence[Commit]

    def encode(self) -> bytes:
        """The entry as it is stored: JSON that begins with its own SHA-256."""
        text = encode(
            {
                "format": FORMAT,
                "sequence": self.sequence,
                "previous": self.previous,
                "commits": [
                    {"token": token, "request": request, "changes": [_told(change) for change in changes]}
                    for token, request, changes in self.commits
                ],
            }
        )
        return _BEGIN + hashlib.sha256(text).hexdigest().encode() + _MIDDLE + text + _END

    @classmethod
    def decode(cls, data: bytes, sequence: int, where: str) -> Entry:
        """The entry in these bytes, which must be the one with this number.

        Raises:
            IntegrityError: they are damaged, or another entry's. UnsupportedError: a newer `rh` wrote them.
        """
        text = data[_START : -len(_END)]
        told, got = data[len(_BEGIN) : len(_BEGIN) + 64], hashlib.sha256(text).hexdigest()
        if told != got.encode() or data != _BEGIN + told + _MIDDLE + text + _END:
            raise IntegrityError(
                "an entry of the registry's log is damaged",
                where=where,
                expected=ascii(told.decode("latin-1")),
                got=got,
                hint=REPAIR,
            )
        try:
            found = decode(text)
            _check_format(found["format"], where)
            if not found["commits"]:
                raise ValueError("an entry without a commit")
            entry = cls(int(found["sequence"]), str(found["previous"]), [_commit(one) for one in found["commits"]])
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"an entry of the registry's log cannot be: {error!r}", where=where, hint=REPAIR
            ) from error
        if entry.sequence != sequence:
            raise IntegrityError(
                "this is another entry of the log",
                where=where,
                expected=str(sequence),
                got=str(entry.sequence),
                hint=REPAIR,
            )
        return entry

    @staticmethod
    def digest(data: bytes) -> str:
        """What the next entry calls this one, whose bytes these are."""
        return hashlib.sha256(data).hexdigest()


def _told(change: Change) -> dict[str, Any]:
    told = change._asdict()
    del told["token"]
    return {name: value for name, value in told.items() if value is not None}


def _commit(found: dict[str, Any]) -> Commit:
    token = str(found["token"])
    changes = [
        Change(
            str(one["key"]),
            int(one["revision"]),
            one["action"],
            one.get("document"),
            str(one["author"]),
            float(one["time"]),
            token,
            one.get("moved"),
        )
        for one in found["changes"]
    ]
    if not changes:
        raise ValueError("a commit without a change")
    for change in changes:
        if change.action not in ("put", "delete") or isinstance(change.document, dict) != (change.action == "put"):
            raise ValueError(f"{change.key!r} has a change that is neither a put nor a delete")
    return Commit(token, str(found["request"]), changes)


def _check_format(number: Any, where: str) -> None:
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"format {number!r}")
    if number > FORMAT:
        raise NewerError(
            f"the registry has format {number}; this version of rh knows formats up to {FORMAT}",
            where=where,
            hint="upgrade rh-data",
        )


# Keys.


def directory_of(sequence: int) -> str:
    """The prefix of the entries that lie beside this one."""
    return f"log/{sequence // SEGMENT:014}/"


def entry_key(sequence: int) -> str:
    """Where an entry is."""
    return f"{directory_of(sequence)}{sequence:016}.json"


def sequence_of(key: str) -> int | None:
    """The number of the entry under a key; `None` for what is none."""
    match = _ENTRY_KEY.fullmatch(key)
    return int(match.group(1)) if match and entry_key(int(match.group(1))) == key else None


def segment_key(number: int) -> str:
    """Where the segment of the entries `number` · `SEGMENT` and following is."""
    return f"segments/{number:014}.jsonl.gz"


def segment_of(key: str) -> int | None:
    """The number of the segment under a key; `None` for what is none."""
    match = _SEGMENT_KEY.fullmatch(key)
    return int(match.group(1)) if match else None


def numbers_of(segment: int) -> range:
    """The entries of a segment. The first one has one less, since entries are counted from 1."""
    return range(max(1, segment * SEGMENT), (segment + 1) * SEGMENT)


# Segments and the header.


def pack(entries: Sequence[bytes]) -> bytes:
    """A segment: the entries as stored, one a line."""
    return gzip.compress(b"".join(data + b"\n" for data in entries), mtime=0)


def unpack(data: bytes, where: str) -> list[bytes]:
    """The entries in a segment, not looked at yet.

    Raises:
        IntegrityError: it is damaged.
    """
    try:
        return gzip.decompress(data).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise IntegrityError(
            f"a segment of the registry's log is damaged: {error}", where=where, hint="delete it: the log has all of it"
        ) from error


def new_header(identity: str) -> bytes:
    """`registry.json` of a new registry."""
    return encode({"format": FORMAT, "id": identity})


def identity_of(header: bytes, where: str) -> str:
    """The `id` in `registry.json`.

    Raises:
        IntegrityError: it is damaged. UnsupportedError: a newer `rh` made it.
    """
    try:
        found = decode(header)
        _check_format(found["format"], where)
        return str(found["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{HEADER} is not that of a registry: {error!r}",
            where=where,
            hint=f"put a copy of it back, or name a place for the registry where no other {HEADER} is",
        ) from error
