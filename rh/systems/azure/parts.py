"""Blobs in blocks: resumable uploads, and streams of unknown length with bounded memory."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from rh.errors import ConflictError, IntegrityError, InvalidError, NotFoundError, RhError
from rh.systems.azure.wire import NoContainerError
from rh.systems.base import Bytes
from rh.systems.objects.streams import pieces_of, same_length
from rh.systems.objects.wire import Answer, fields, parse_xml
from rh.types import ABSENT, ANY, Condition, Entry, Match

__all__ = ["MAX_BLOCKS", "AzureUpload", "Blobs", "checked", "conditions", "stream_in_blocks"]

MAX_BLOCKS = 50_000
MAX_BLOCK = 4000 << 20
STREAM_BLOCK = 8 << 20
_IN_FLIGHT = 2
_TOKEN = re.compile(r"(\d+)\.(\d+)\.([0-9a-f]{8})")


class Blobs(Protocol):
    """What uploads need of the container they go to."""

    def ask(self, verb: str, method: str, key: str, *, query: Sequence[tuple[str, str]] = (), **more: object) -> Answer:
        """One request about a blob."""

    def broken(self, error: RhError, key: str, when: Condition) -> RhError:
        """The error for a precondition that does not hold."""

    def entry(self, key: str, headers: Mapping[str, str], size: int | None = None) -> Entry:
        """The entry that the headers of an answer describe."""

    def url(self, key: str = "") -> str:
        """The place of a key."""

    def head(self, key: str) -> Entry:
        """The entry under a key."""


def conditions(when: Condition) -> dict[str, str]:
    """A precondition as headers."""
    if when is ABSENT:
        return {"if-none-match": "*"}
    return {"if-match": f'"{when.etag}"'} if isinstance(when, Match) else {}


def checked(data: Bytes) -> tuple[dict[str, str], str]:
    """The header by which the store checks what it receives, and the MD5 to hold against its answer."""
    md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    return {"content-md5": md5}, md5


def block_size_for(size: int, wanted: int) -> int:
    """The smallest multiple of `wanted` that Azure takes as the block size of a blob of `size` bytes."""
    if wanted <= 0:
        raise InvalidError(f"a part size is positive, not {wanted}")
    least = max(1, -(-size // MAX_BLOCKS))
    chosen = -(-least // wanted) * wanted
    if chosen > MAX_BLOCK:
        raise InvalidError(f"{size} bytes in parts of {wanted} are more than Azure holds in one blob")
    return chosen


class AzureUpload:
    """One blob arriving in blocks. `token` is enough to go on elsewhere; a part's tag is its block's name."""

    def __init__(self, blobs: Blobs, key: str, size: int, part_size: int, mark: str, *, fresh: bool) -> None:
        self.key = key
        self.size = size
        self.part_size = part_size
        self.token = f"{part_size}.{size}.{mark}"
        self._blobs = blobs
        self._mark = mark
        self._fresh = fresh

    @classmethod
    def begin(cls, blobs: Blobs, key: str, size: int, part_size: int) -> AzureUpload:
        """Start an upload; Azure need not know."""
        if size < 0:
            raise InvalidError("a size is not negative", where=blobs.url(key))
        if not key or key.endswith("/"):
            raise InvalidError("a key that ends with / is a directory and has no bytes", where=blobs.url(key))
        return cls(blobs, key, size, block_size_for(size, part_size), secrets.token_hex(4), fresh=True)

    @classmethod
    def resume(cls, blobs: Blobs, key: str, token: str) -> AzureUpload:
        """Go on with an upload; `NotFoundError` where none of its parts is left."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise InvalidError("this is no token of an upload to Azure", where=blobs.url(key))
        upload = cls(blobs, key, int(match.group(2)), int(match.group(1)), match.group(3), fresh=False)
        upload.parts()
        return upload

    @property
    def count(self) -> int:
        """How many parts there are; an empty blob is one empty part."""
        return max(1, -(-self.size // self.part_size))

    def length(self, number: int) -> int:
        """Bytes of a part."""
        if not 0 <= number < self.count:
            raise InvalidError(f"there is no part {number}", where=self._blobs.url(self.key))
        return min(self.part_size, self.size - number * self.part_size)

    def block(self, number: int) -> str:
        """The name of a part's block: all names of one blob are equally long."""
        return base64.b64encode(f"rh-{self._mark}-{number:05d}".encode()).decode()

    def put(self, number: int, data: Bytes) -> str:
        want = self.length(number)
        if len(data) != want:
            raise InvalidError(f"part {number} has {len(data)} bytes, not {want}", where=self._blobs.url(self.key))
        return self.store(number, data)

    def store(self, number: int, data: Bytes) -> str:
        """`put` without a look at the length: in a stream, nobody knows which part is the last."""
        name = self.block(number)
        if len(data):
            headers, md5 = checked(data)
            query = [("comp", "block"), ("blockid", name)]
            answer = self._blobs.ask("part", "PUT", self.key, query=query, headers=headers, body=data, payload=True)
            got = answer.headers.get("content-md5")
            if got and got != md5:
                raise IntegrityError(
                    "the store received other bytes than were sent",
                    where=self._blobs.url(self.key),
                    expected=md5,
                    got=got,
                )
        return name

    def _blocks(self) -> dict[str, int]:
        """Names and sizes of the blocks that wait to be committed, whoever sent them."""
        try:
            answer = self._blobs.ask(
                "parts", "GET", self.key, query=[("comp", "blocklist"), ("blocklisttype", "uncommitted")]
            )
        except NoContainerError:
            raise
        except NotFoundError:
            return {}
        return {
            told["Name"]: int(told["Size"])
            for told in map(fields, parse_xml(answer.data).iter("Block"))
            if "Name" in told
        }

    def parts(self) -> dict[int, str]:
        blocks = self._blocks()
        names = {self.block(number): number for number in range(self.count)}
        found = {
            names[name]: name for name, size in blocks.items() if name in names and size == self.length(names[name])
        }
        if not found and not self._fresh:
            raise NotFoundError("the upload is gone, or nothing of it ever arrived", where=self._blobs.url(self.key))
        return dict(sorted(found.items()))

    def finish(self, tags: Sequence[str], *, when: Condition = ANY) -> Entry:
        names = [self.block(number) for number in range(self.count)]
        # Blocks sent by others through signed URLs have no tag: their names are what counts.
        if len(tags) != self.count or any(tag != name for tag, name in zip(tags, names, strict=True) if tag):
            raise ConflictError("the parts named are not the parts of this upload", where=self._blobs.url(self.key))
        items = "".join(f"<Latest>{name}</Latest>" for name in names) if self.size else ""
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{items}</BlockList>'.encode()
        headers = {
            **conditions(when),
            **checked(body)[0],
            "content-type": "application/xml",
            "x-ms-meta-rh_upload": self._mark,
        }
        headers["x-ms-blob-content-type"] = "application/octet-stream"
        try:
            self._blobs.ask("finish", "PUT", self.key, query=[("comp", "blocklist")], headers=headers, body=body)
        except NotFoundError:
            # Committed already, by a request whose answer was lost?
            if not self._ours():
                raise
        except ConflictError as error:
            if not self._ours():
                raise self._blobs.broken(error, self.key, when) from None
        self._fresh = False
        entry = self._blobs.head(self.key)
        if entry.size != self.size:
            raise IntegrityError(
                "the store put other bytes together than were sent",
                where=self._blobs.url(self.key),
                expected=f"{self.size} bytes",
                got=f"{entry.size} bytes",
            )
        return entry

    def _ours(self) -> bool:
        try:
            headers = self._blobs.ask("head", "HEAD", self.key).headers
        except NotFoundError:
            return False
        return headers.get("x-ms-meta-rh_upload") == self._mark

    def abort(self) -> None:
        """Forget the upload. Blocks beside a blob that is there stay unseen, and Azure drops them within a week."""
        self._fresh = False
        blocks = self._blocks()
        prefix = base64.b64encode(f"rh-{self._mark}".encode())[:12].decode()
        if blocks and all(name.startswith(prefix) for name in blocks):
            discard(self._blobs, self.key)


def discard(blobs: Blobs, key: str) -> bool:
    """Drop the blocks that wait under a key where no blob is. Whether there was none.

    Azure has no request for it: a blob is made and removed again, marked as a directory so that nobody takes it for
    a file.
    """
    marker = {"x-ms-meta-hdi_isfolder": "true", "if-none-match": "*", "content-type": "application/xml"}
    body = b'<?xml version="1.0" encoding="utf-8"?><BlockList/>'
    try:
        made = blobs.ask("abort", "PUT", key, query=[("comp", "blocklist")], headers=marker, body=body)
        blobs.ask("abort", "DELETE", key, headers={"if-match": made.headers["etag"]})
    except (ConflictError, NotFoundError):
        return False
    return True


def stream_in_blocks(
    blobs: Blobs,
    key: str,
    data: Iterable[Bytes],
    size: int | None,
    when: Condition,
    put: Callable[[Bytes], Entry],
) -> Entry:
    """Store a stream with bounded memory: by `put` when it is short, else in blocks. Whatever fails leaves no blob."""
    block = block_size_for(size, STREAM_BLOCK) if size is not None else 2 * STREAM_BLOCK
    parts = pieces_of(data, block)
    first = next(parts)
    where = blobs.url(key)
    if len(first) < block:
        same_length(where, size, len(first))
        return put(first)
    upload = AzureUpload(blobs, key, (size or MAX_BLOCKS * block), block, secrets.token_hex(4), fresh=True)
    total, count, waiting = 0, 0, deque[Future[str]]()
    try:
        with ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="rh-blocks") as pool:
            try:
                piece: bytearray | None = first
                while piece:
                    total += len(piece)
                    if size is not None and total > size:
                        break
                    if count == MAX_BLOCKS:
                        raise InvalidError("the stream is too long to store without its size", where=where)
                    waiting.append(pool.submit(upload.store, count, piece))
                    count += 1
                    if len(waiting) >= _IN_FLIGHT:
                        waiting.popleft().result()
                    piece = next(parts, None)
                while waiting:
                    waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
        same_length(where, size, total)
        upload.size = total
        return upload.finish([upload.block(number) for number in range(count)], when=when)
    except BaseException:
        upload.abort()
        raise
