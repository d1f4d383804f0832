"""What an HTTP answer says and holds: its entry, its digests, its bytes, all checked.

Sources: RFC 9110 (ranges, validators), RFC 9530 and RFC 3230 (digests), RFC 1864 (`Content-MD5`).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from rh.errors import IntegrityError, UnavailableError
from rh.observe import count
from rh.systems.base import Body, Bytes
from rh.systems.web.client import failure
from rh.types import Entry

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

__all__ = ["RANGE", "AnswerBody", "EmptyBody", "SpooledBody", "entry_of", "stream", "total_of"]

PIECE = 256 * 1024
_SIZE = re.compile(r"\d{1,18}", re.ASCII)
RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", re.ASCII)


def stream(answer: BaseHTTPResponse, where: str) -> Iterator[bytes]:
    try:
        yield from answer.stream(PIECE, decode_content=False)
    except GeneratorExit:
        raise
    except Exception as error:
        raise failure(error, where) from error


def total_of(answer: BaseHTTPResponse) -> int | None:
    match = RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    return int(match.group(3)) if match and match.group(3) != "*" else None


def entry_of(key: str, answer: BaseHTTPResponse, size: int | None = None) -> Entry | None:
    """The entry that the headers describe; `None` if they do not tell its size."""
    headers = answer.headers
    if size is None:
        length = headers.get("Content-Length", "")
        if not _SIZE.fullmatch(length):
            return None
        size = int(length)
    modified = _date(headers.get("Last-Modified"))
    etag: str | None = headers.get("ETag") or None
    if etag is None or etag.startswith("W/"):
        # A weak tag or a date says "much the same". A date is a validator once a second has passed (RFC 9110, 8.8.2.2).
        now = _date(headers.get("Date"))
        settled = modified is not None and now is not None and now - modified >= 1
        etag = f"{etag or ''};{modified:.0f};{size}" if settled else None
    digests = _digests(headers)
    check = next((f"{name}:{digests[name].hex()}" for name in ("sha256", "md5") if name in digests), None)
    return Entry(key, size, etag=etag, modified=modified, check=check)


def _date(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except ValueError:
        return None


_ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512", "md5": "md5"}


def _digests(headers: Mapping[str, str]) -> dict[str, bytes]:
    """Digests of the whole file that the server states: `Repr-Digest`, its forerunner `Digest`, `Content-MD5`."""
    found: dict[str, bytes] = {}
    for field in (headers.get("Repr-Digest", ""), headers.get("Digest", "")):
        for item in field.split(","):
            name, _, value = item.strip().partition("=")
            algorithm = _ALGORITHMS.get(name.strip().lower())
            if algorithm and value:
                try:
                    found.setdefault(algorithm, base64.b64decode(value.strip().strip(":"), validate=True))
                except ValueError:
                    continue
    md5 = headers.get("Content-MD5")
    if md5 and "Content-Range" not in headers:
        try:
            found.setdefault("md5", base64.b64decode(md5, validate=True))
        except ValueError:
            pass
    return {
        name: value
        for name, value in found.items()
        if len(value) == hashlib.new(name, usedforsecurity=False).digest_size
    }


class AnswerBody(Body):
    """An answer's body, its length and the digests its headers state checked."""

    def __init__(
        self, entry: Entry, answer: BaseHTTPResponse, url: str, system: str, *, length: int, skip: int, stop: int | None
    ) -> None:
        self.entry = entry
        self._answer = answer
        self._url = url
        self._system = system
        self._length = length
        self._skip = skip
        self._stop = stop
        whole = stop is None and length == entry.size and answer.status == 200
        self._stated = _digests(answer.headers) if whole else {}
        self.undivided = bool(self._stated)

    def __iter__(self) -> Iterator[Bytes]:
        stated = self._stated
        states = {name: hashlib.new(name, usedforsecurity=False) for name in stated}
        at = 0
        for piece in self._pieces():
            count(self._system, "read", requests=0, received=len(piece))
            for state in states.values():
                state.update(piece)
            start, at = at, at + len(piece)
            if at > self._length:
                raise IntegrityError("the answer is too long", where=self._url, expected=str(self._length), got=str(at))
            stop = at if self._stop is None else min(at, self._stop)
            if stop > max(start, self._skip):
                yield memoryview(piece)[max(0, self._skip - start) : stop - start]
            if self._stop is not None and at >= self._stop:
                break
        if at < self._length and (self._stop is None or at < self._stop):
            raise IntegrityError("the answer ended early", where=self._url, expected=str(self._length), got=str(at))
        for name, state in states.items():
            if state.digest() != stated[name]:
                raise IntegrityError(
                    f"the bytes are not the ones the server states ({name})",
                    where=self._url,
                    expected=stated[name].hex(),
                    got=state.hexdigest(),
                )
        self.close()

    def _pieces(self) -> Iterator[bytes]:
        try:
            yield from stream(self._answer, self._url)
        except UnavailableError as error:
            if not self.undivided:
                raise
            raise IntegrityError(f"the answer ended early: {error.message}", where=self._url) from None

    def close(self) -> None:
        """Give the connection back, or cut it if bytes are still coming."""
        if self._answer.closed:
            self._answer.release_conn()
        else:
            self._answer.close()


class EmptyBody(Body):
    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    def __iter__(self) -> Iterator[Bytes]:
        return iter(())


class SpooledBody(Body):
    def __init__(self, entry: Entry, file: Any, length: int) -> None:
        self.entry = entry
        self._file = file
        self._left = length

    def __iter__(self) -> Iterator[Bytes]:
        while self._left and (piece := self._file.read(min(PIECE, self._left))):
            self._left -= len(piece)
            yield piece
        self.close()

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()
