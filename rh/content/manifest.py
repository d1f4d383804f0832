"""The manifest: one hidden object per tree, written last, that says what the tree is.

`.rh-manifest` at the root of a tree is gzip over lines of JSON. The first line is `{"rh-manifest": 1}`. Then follows
one line per key in key order, with the fields

* `k` the key (`kb`, base64 of its bytes, where they are not UTF-8), `s` size in bytes, `d` digest,
* `e` the etag the store answered when it was written, `x` true for an executable file,
* `c` base64 of the raw chunk digests of a chunked digest, `t` `"dir"` or `"link"` (absent: a file), `l` a link's
  target.

The last line is `{"files": n, "size": bytes, "tree": digest}` (`tree` is null if some digest is not known); a
manifest without it is cut off and an error to read. Fields a reader does not know are to be ignored. A row holds for
the object under its key exactly while the object's etag is `e`; whatever else lies below the root is simply not
described. Nothing needs a manifest to be read.
"""

from __future__ import annotations

import base64
import itertools
import zlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

from rh.content.tree import Row, TreeHasher, key_bytes, key_text
from rh.errors import IntegrityError, NotFoundError, UnsupportedError
from rh.systems.base import Bytes, System

__all__ = ["NAME", "DamagedManifestError", "Footer", "encode", "read", "read_footer", "write"]

NAME = ".rh-manifest"
FORMAT = 1
_BLOCK = 1 << 16


class Footer(NamedTuple):
    """The last line: what the tree amounts to."""

    files: int
    size: int
    tree: str | None


def _line(row: Row) -> dict[str, object]:
    line: dict[str, object] = {}
    if row.key.isascii():
        line["k"] = row.key
    else:
        raw = key_bytes(row.key)
        try:
            line["k"] = raw.decode("utf-8")
        except UnicodeDecodeError:
            line["kb"] = base64.b64encode(raw).decode()
    line["s"] = row.size
    if row.digest:
        line["d"] = row.digest
    if row.etag is not None:
        line["e"] = row.etag
    if row.executable:
        line["x"] = True
    if row.chunks:
        line["c"] = base64.b64encode(row.chunks).decode()
    if row.kind != "file":
        line["t"] = row.kind
    if row.target is not None:
        line["l"] = base64.b64encode(key_bytes(row.target)).decode()
    return line


def encode(rows: Iterable[Row]) -> Generator[bytes, None, Footer]:
    """A manifest of rows in key order, in blocks; returns the footer it ends with."""
    import msgspec

    encoder = msgspec.json.Encoder()
    packer = zlib.compressobj(3, zlib.DEFLATED, 31)
    hasher: TreeHasher | None = TreeHasher()
    files = size = 0
    lines = bytearray(b'{"rh-manifest":%d}\n' % FORMAT)
    for row in rows:
        if row.kind == "file":
            files += 1
            size += row.size
            if row.digest is None:
                hasher = None
        if hasher is not None:
            hasher.add(row)
        lines += encoder.encode(_line(row))
        lines += b"\n"
        if len(lines) >= _BLOCK:
            yield packer.compress(bytes(lines))
            lines.clear()
    tree = hasher.finish() if hasher is not None else None
    lines += encoder.encode({"files": files, "size": size, "tree": tree}) + b"\n"
    yield packer.compress(bytes(lines)) + packer.flush()
    return Footer(files, size, tree)


def write(system: System, rows: Iterable[Row]) -> Footer:
    """Publish the manifest of the tree at the root of `system`."""
    blocks = encode(rows)
    footer: Footer | None = None

    def data() -> Iterator[bytes]:
        nonlocal footer
        footer = yield from blocks

    head = bytearray()
    stream = data()
    for block in stream:
        head += block
        if len(head) > 8 * 1024 * 1024:
            system.write(NAME, itertools.chain((bytes(head),), stream))
            break
    else:
        system.write(NAME, bytes(head))
    assert footer is not None
    return footer


def _lines(blocks: Iterable[Bytes], where: str) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(31)
    rest = b""
    try:
        for block in blocks:
            data = block
            while data:
                lines = (rest + unpacker.decompress(data, _BLOCK * 4)).split(b"\n")
                rest = lines.pop()
                yield from lines
                data = unpacker.unconsumed_tail
        lines = (rest + unpacker.flush()).split(b"\n")
    except zlib.error as error:
        raise _damaged(where, str(error)) from error
    yield from lines[:-1]
    if not unpacker.eof or lines[-1]:
        raise _damaged(where, "it ends early")


class DamagedManifestError(IntegrityError):
    """The manifest itself is cut off or corrupt."""


def _damaged(where: str, why: str) -> DamagedManifestError:
    return DamagedManifestError(
        f"the manifest is damaged: {why}", where=where, hint="remove it to treat the tree as one that other tools wrote"
    )


def read(system: System) -> Iterator[Row | Footer] | None:
    """The rows of the manifest at the root of `system`, then its footer; `None` where there is no manifest.

    Raises:
        IntegrityError: it is cut off or damaged (perhaps only at the end of the iteration).
        UnsupportedError: a newer `rh` wrote it.
    """
    where = system.url(NAME)
    try:
        body = system.read(NAME)
    except NotFoundError:
        return None
    except UnsupportedError:
        return None

    def rows() -> Iterator[Row | Footer]:
        import msgspec

        class Line(msgspec.Struct):
            k: str | None = None
            kb: str | None = None
            s: int = 0
            d: str | None = None
            e: str | None = None
            x: bool | None = None
            c: str | None = None
            t: str = "file"
            l: str | None = None  # noqa: E741
            files: int | None = None
            size: int | None = None
            tree: str | None = None

        decoder = msgspec.json.Decoder(Line)
        unb64 = base64.b64decode
        with body:
            lines = _lines(body, where)
            footer = None
            try:
                head = msgspec.json.decode(next(lines, b""), type=dict[str, object])
                if head.get("rh-manifest") != FORMAT:
                    raise UnsupportedError(
                        "the manifest's format is not known here", where=where, hint="upgrade rh-data"
                    )
                for text in lines:
                    line = decoder.decode(text)
                    if footer is not None:
                        raise _damaged(where, "lines follow its end")
                    if line.files is not None:
                        footer = Footer(line.files, line.size or 0, line.tree)
                        continue
                    if line.kb is not None:
                        key = key_text(unb64(line.kb))
                    elif line.k is not None:
                        key = line.k
                    else:
                        raise _damaged(where, "a line names no key")
                    yield Row(
                        key,
                        line.s,
                        line.t,  # type: ignore[arg-type]  # an unknown kind is handed on as it is
                        line.d,
                        line.e,
                        bool(line.x),
                        unb64(line.c) if line.c else b"",
                        key_text(unb64(line.l)) if line.l is not None else None,
                    )
            except (msgspec.DecodeError, ValueError) as error:
                if isinstance(error, IntegrityError):
                    raise
                raise _damaged(where, str(error)) from error
            if footer is None:
                raise _damaged(where, "its last line is missing")
            yield footer

    return rows()


def read_footer(system: System) -> Footer | None:
    """What the manifest says the whole tree is, or `None` without one."""
    rows = read(system)
    if rows is None:
        return None
    last = deque(rows, maxlen=1)
    return last[0] if last and isinstance(last[0], Footer) else None
