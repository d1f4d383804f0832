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
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

from rh.content.rows import Rows
from rh.content.tree import Row, TreeHasher, key_bytes, key_text
from rh.errors import AccessError, IntegrityError, InvalidError, NotFoundError, UnsupportedError
from rh.systems.base import DESCRIBING, Body, Bytes, System

__all__ = ["NAME", "DamagedManifestError", "Footer", "Reader", "digest_of", "encode", "read", "write"]

NAME = DESCRIBING[0]
FORMAT = 1
_TEXT = 1 << 18
"""Text is unpacked in pieces of about this many bytes; what is smaller is seen whole before any of it is used."""
_HEAD = 8 * 1024 * 1024


class Footer(NamedTuple):
    """The last line: what the tree amounts to."""

    files: int
    size: int
    tree: str | None


def _line(row: Row) -> dict[str, object]:
    line: dict[str, object] = {}
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


def _plain(rows: Rows) -> bool:
    """Whether all rows are of small files with plain names, of which all is known: nearly all pages are like that."""
    return (
        not any(rows.chunks)
        and not any(rows.executables)
        and None not in rows.digests
        and None not in rows.etags
        and {*rows.kinds} == {"file"}
        and "".join(rows.keys).isascii()
    )


def encode(pages: Iterable[Rows]) -> Generator[bytes, None, Footer]:
    """A manifest of rows in key order, in blocks; returns the footer it ends with."""
    import msgspec

    encoder = msgspec.json.Encoder()
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    hasher = _Hasher()
    files = size = 0
    yield packer.compress(b'{"rh-manifest":%d}\n' % FORMAT)
    for rows in pages:
        hasher.add(rows)
        if _plain(rows):
            files += len(rows.keys)
            size += sum(rows.sizes)
            columns = zip(rows.keys, rows.sizes, rows.digests, rows.etags, strict=True)
            lines: list[dict[str, Any]] = [
                {"k": key, "s": length, "d": digest, "e": etag} for key, length, digest, etag in columns
            ]
        else:
            for row in rows.each():
                if row.kind == "file":
                    files += 1
                    size += row.size
            lines = list(map(_line, rows.each()))
        yield packer.compress(encoder.encode_lines(lines))
    tree = hasher.finish()
    yield packer.compress(encoder.encode({"files": files, "size": size, "tree": tree}) + b"\n") + packer.flush()
    return Footer(files, size, tree)


class _Hasher:
    """The digest of a tree from pages of rows, as long as all digests are known."""

    def __init__(self) -> None:
        self._hasher: TreeHasher | None = TreeHasher()

    def add(self, rows: Rows) -> None:
        if self._hasher is None:
            return
        if {*rows.kinds} == {"file"} and None not in rows.digests:
            self._hasher.add_files(rows.keys, rows.sizes, rows.digests, rows.executables)
            return
        for row in rows.each():
            if row.kind == "file" and row.digest is None:
                self._hasher = None
                return
            self._hasher.add(row)

    def finish(self) -> str | None:
        return self._hasher.finish() if self._hasher is not None else None


def digest_of(pages: Iterable[Rows]) -> str | None:
    """The digest of the tree that these rows (in key order) are; `None` if that of a file is not known."""
    hasher = _Hasher()
    for rows in pages:
        hasher.add(rows)
    return hasher.finish()


def write(system: System, pages: Iterable[Rows]) -> tuple[Footer, str | None]:
    """Publish the manifest of the tree at the root of `system`; its last line, and its etag."""
    footer: Footer | None = None

    def data() -> Iterator[bytes]:
        nonlocal footer
        footer = yield from encode(pages)

    head = bytearray()
    stream = data()
    for block in stream:
        head += block
        if len(head) > _HEAD:
            entry = system.write(NAME, itertools.chain((bytes(head),), stream))
            break
    else:
        entry = system.write(NAME, bytes(head))
    assert footer is not None
    return footer, entry.etag


class DamagedManifestError(IntegrityError):
    """The manifest itself is cut off or corrupt."""


def _damaged(where: str, why: str) -> DamagedManifestError:
    return DamagedManifestError(
        f"the manifest is damaged: {why}",
        where=where,
        hint="try again; if it stays damaged, remove it to treat the tree as one that other tools wrote",
    )


def _texts(blocks: Iterable[Bytes], where: str) -> Iterator[bytes]:
    """The text of a manifest in pieces of whole lines: large ones, however the blocks arrive."""
    unpacker = zlib.decompressobj(31)
    text = b""
    try:
        for block in blocks:
            data = block
            while data:
                text += unpacker.decompress(data, _TEXT)
                data = unpacker.unconsumed_tail
                end = text.rfind(b"\n") + 1 if len(text) >= _TEXT else 0
                if end:
                    yield text[:end]
                    text = text[end:]
        text += unpacker.flush()
    except zlib.error as error:
        raise _damaged(where, str(error)) from error
    if not unpacker.eof or (text and not text.endswith(b"\n")):
        raise _damaged(where, "it ends early")
    if text:
        yield text


class Reader:
    """The rows of a manifest, in pages; iterate it once.

    What comes damaged is read a second time, with `again`, before it is believed to be stored so. A small manifest is
    known to be whole before anything of it is handed out, so its rows are then those of the second reading.

    Attributes:
        etag: that of the manifest itself.
        footer: its last line, after the iteration.

    Raises (while it is iterated, perhaps only at the end):
        IntegrityError: it is cut off or damaged. UnsupportedError: a newer `rh` wrote it.
    """

    def __init__(self, body: Body, where: str, again: Callable[[], Reader | None] | None = None) -> None:
        self.etag = body.entry.etag
        self.footer: Footer | None = None
        self._body = body
        self._where = where
        self._again = again

    def __iter__(self) -> Iterator[Rows]:
        damage: DamagedManifestError | None = None
        begun, waiting = False, None  # the sum at the end is checked before the last page is handed out
        try:
            for rows in self._pages():
                if waiting is not None:
                    yield waiting
                    begun = True
                waiting = rows
        except DamagedManifestError as error:
            damage = error
        if damage is None:
            if waiting is not None:
                yield waiting
            return
        second = self._again() if self._again is not None else None
        if second is None:
            raise damage
        if begun:
            for _ in second:
                pass
            raise DamagedManifestError(
                "the manifest was damaged on its way here; what is stored is whole", where=self._where, hint="try again"
            ) from damage
        self.etag = second.etag
        yield from second
        self.footer = second.footer

    def _pages(self) -> Iterator[Rows]:
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
        headed = False
        with self._body as body:
            try:
                for piece in _texts(body, self._where):
                    text = piece
                    if not headed:
                        head, _, text = piece.partition(b"\n")
                        self._check(msgspec.json.decode(head, type=dict[str, object]))
                        headed = True
                    lines = decoder.decode_lines(text)
                    if self.footer is not None and lines:
                        raise _damaged(self._where, "lines follow its end")
                    if lines and lines[-1].files is not None:
                        last = lines.pop()
                        self.footer = Footer(last.files or 0, last.size or 0, last.tree)
                    if lines:
                        yield self._rows(lines)
            except (msgspec.DecodeError, ValueError) as error:
                if isinstance(error, IntegrityError):
                    raise
                raise _damaged(self._where, str(error)) from error
        if self.footer is None:
            raise _damaged(self._where, "its last line is missing")

    def each(self) -> Iterator[Row]:
        """Row by row."""
        for rows in self:
            yield from rows.each()

    def _check(self, head: dict[str, object]) -> None:
        if head.get("rh-manifest") != FORMAT:
            raise UnsupportedError("the manifest's format is not known here", where=self._where, hint="upgrade rh-data")

    def _rows(self, lines: list[Any]) -> Rows:
        unb64 = base64.b64decode
        if any(line.files is not None for line in lines):
            raise _damaged(self._where, "lines follow its end")
        keys = [line.k if line.k is not None else self._odd_key(line.kb) for line in lines]
        return Rows(
            keys,
            [line.s for line in lines],
            [line.t for line in lines],  # an unknown kind is handed on as it is
            [line.d for line in lines],
            [line.e for line in lines],
            [bool(line.x) for line in lines],
            [unb64(line.c) if line.c else b"" for line in lines],
            [key_text(unb64(line.l)) if line.l is not None else None for line in lines],
        )

    def _odd_key(self, encoded: str | None) -> str:
        if encoded is None:
            raise _damaged(self._where, "a line names no key")
        return key_text(base64.b64decode(encoded))


def read(system: System) -> Reader | None:
    """The manifest at the root of `system`; `None` where there is none."""

    def opened(again: Callable[[], Reader | None] | None) -> Reader | None:
        try:
            return Reader(system.read(NAME), system.url(NAME), again)
        except (NotFoundError, UnsupportedError):
            return None
        except (AccessError, InvalidError) as error:
            error.where = system.url()  # nobody has asked for a file of ours
            raise

    return opened(lambda: opened(None))
