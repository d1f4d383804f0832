"""Files that the far program puts together from ranges of what is behind signed URLs.

Files that lie side by side in an object come with one request; a file in several pieces takes a request for each
stretch of them. Nothing is published whose digest is not the one that was told.

This module runs on the far side: standard library only, Python 3.7 or newer.
"""

from __future__ import annotations

import os
from itertools import takewhile

from rh.digest import Hasher, of_reader
from rh.systems.far.flush import write_all, write_all_at
from rh.systems.far.net import IN_PARTS, side_by_side
from rh.systems.far.wire import EXEC, NOEXEC, PIECE, Failure
from rh.systems.far.writer import digest_field, expect, plain_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from rh.systems.far.net import Web
    from rh.systems.far.writer import Writer

_BLOCK = 256 << 10


class _Range:
    """The bytes of an object from `start` to `stop`, read once and in order."""

    def __init__(self, web: Web, part: list[Any]) -> None:
        self.at, self.stop, signed = part
        self.web = web
        wanted = f"{self.at}-{self.stop - 1}"
        answer = web.ask(signed, {"Accept-Encoding": "identity", "Range": f"bytes={wanted}"})
        told = (answer.headers.get("content-range") or "").partition("/")[0]
        if answer.status == 200 and not told:
            answer.line.close()
            raise Failure("unsupported", f"{answer.where[1]} gives no ranges")
        if answer.status not in (200, 206):  # some servers say 200 of a range that ends where the object does
            raise web.refuse(answer)
        if told != f"bytes {wanted}":
            answer.line.close()
            raise Failure("conflict", f"the bytes {wanted} were asked for, and {told!r} came")
        self.answer = answer

    def blocks(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes; each block lives until the next."""
        buffer = memoryview(bytearray(min(_BLOCK, max(size, 1))))
        while size:
            count = self.answer.readinto(buffer[: min(size, len(buffer))])
            if not count:
                raise Failure("unavailable", f"the connection broke at byte {self.at}")
            self.at += count
            size -= count
            yield buffer[:count]

    def end(self, *, whole: bool) -> None:
        """Keep the connection if all was read, else close it."""
        if whole and self.at == self.stop:
            self.web.done(self.answer)
        else:
            self.answer.line.close()


def write_run(web: Web, writer: Writer, number: int, part: list[Any], files: list[Any]) -> None:
    """Write files that lie in one range of an object, in order: key, source, and where it begins.

    Equal ones may lie in the same place.
    """
    left = list(enumerate(files, number))
    found = None
    try:
        found = _Range(web, part)
        while left:
            start = left[0][1][2]
            same = list(takewhile(lambda one: one[1][2] == start, left))  # noqa: B023 - used up at once
            _write_next(found, writer, same)
            del left[: len(same)]
        found.end(whole=True)
    except (OSError, Failure) as error:
        if found is not None:
            found.end(whole=False)
        for told, (key, _, _) in left:
            writer.fail(told, error, key)


def _write_next(found: _Range, writer: Writer, same: list[Any]) -> None:
    """Write the file that comes next, and those that are the same bytes."""
    _, (key, (size, _, executable, check), start) = same[0]
    for _ in found.blocks(start - found.at):
        continue
    if size <= PIECE:
        data = b"".join(map(bytes, found.blocks(size)))
        for number, (name, (_, _, bit, _), _) in same:
            writer.put(number, name, EXEC if bit else NOEXEC, data, plain_digest(check))
        return
    ((number, _),) = same
    file = -1
    try:
        file = writer.create(key, EXEC if executable else NOEXEC)
        hasher = Hasher(size)
        for block in found.blocks(size):
            hasher.update(block)
            write_all(file, block)
        digest = hasher.finish()
        expect(check, digest.text, key)
        writer.add(number, key, file, digest_field(*digest), b"", size)
        file = -1
    except (OSError, Failure) as error:
        if isinstance(error, Failure) and error.kind == "unavailable":
            raise
        writer.fail(number, error, key)  # the others may go well
    finally:
        if file >= 0:
            writer.drop(file)


def write_joined(web: Web, writer: Writer, number: int, key: bytes, source: list[Any], parts: list[Any]) -> None:
    """Write a file that is ranges of objects, one after the other."""
    size, _, executable, check = source
    file = writer.create(key, EXEC if executable else NOEXEC)
    try:
        places, end = [], 0
        for part in parts:
            places.append((end, part))
            end += part[1] - part[0]
        if end != size:
            raise Failure("conflict", f"its pieces have {end} bytes, not {size}", key)

        def one(web: Web, place: Any) -> None:
            at, part = place
            found = _Range(web, part)
            try:
                for block in found.blocks(part[1] - part[0]):
                    write_all_at(file, block, at)
                    at += len(block)
            except BaseException:
                found.end(whole=False)
                raise
            found.end(whole=True)

        if size >= IN_PARTS:
            side_by_side(places, one, web.timeout_s)
        else:
            for place in places:
                one(web, place)
        text, chunks = of_reader(lambda start, stop: os.pread(file, stop - start, start), size)
        expect(check, text, key)
    except BaseException:
        writer.drop(file)
        raise
    writer.add(number, key, file, digest_field(text, chunks), b"", size)
