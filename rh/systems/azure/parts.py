"""Blobs in blocks."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Sequence

from rh.errors import ConflictError, IntegrityError, InvalidError, NotFoundError
from rh.systems.azure.container import PARTS, Container
from rh.systems.base import Bytes
from rh.systems.objects.failures import NoBucketError
from rh.systems.objects.parts import Limits, PartedUpload
from rh.systems.objects.root import conditions
from rh.systems.objects.wire import fields, parse_xml
from rh.types import ANY, Condition, Entry

__all__ = ["LIMITS", "AzureUpload", "checked", "discard"]

LIMITS = Limits("Azure", 1, 4000 << 20, 50_000)
_TOKEN = re.compile(r"(\d+)\.(\d+)\.([0-9a-f]{8})")


def checked(data: Bytes) -> tuple[dict[str, str], str]:
    """The header by which the store checks what it receives, and the MD5 to hold against its answer."""
    md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    return {"content-md5": md5}, md5


class AzureUpload(PartedUpload):
    """One blob arriving in blocks. `token` is enough to go on elsewhere; a part's tag is its block's name."""

    def __init__(self, blobs: Container, key: str, size: int, part_size: int, mark: str, *, fresh: bool) -> None:
        super().__init__(key, size, part_size, blobs.url(key))
        self.token = f"{part_size}.{size}.{mark}"
        self._blobs = blobs
        self._mark = mark
        self._fresh = fresh
        self._sums: dict[int, bytes] = {}
        """MD5s of the parts that went through here, for readers to compare: the store knows none of such a blob."""

    @classmethod
    def begin(cls, blobs: Container, key: str, size: int, part_size: int) -> AzureUpload:
        """Start an upload; Azure need not know."""
        return cls(blobs, key, size, part_size, secrets.token_hex(4), fresh=True)

    @classmethod
    def resume(cls, blobs: Container, key: str, token: str) -> AzureUpload:
        """Go on with an upload; `NotFoundError` where none of its parts is left."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise InvalidError("this is no token of an upload to Azure", where=blobs.url(key))
        upload = cls(blobs, key, int(match.group(2)), int(match.group(1)), match.group(3), fresh=False)
        upload.parts()
        return upload

    def block(self, number: int) -> str:
        """The name of a part's block: all names of one blob are equally long."""
        return base64.b64encode(f"rh-{self._mark}-{number:05d}".encode()).decode()

    def store(self, number: int, data: Bytes) -> str:
        name = self.block(number)
        if len(data):
            headers, md5 = checked(data)
            query = [("comp", "block"), ("blockid", name)]
            answer = self._blobs.ask("part", "PUT", self.key, query=query, headers=headers, body=data, payload=True)
            got = answer.headers.get("content-md5")
            if got and got != md5:
                raise IntegrityError(
                    "the store received other bytes than were sent", where=self.where, expected=md5, got=got
                )
            self._sums[number] = base64.b64decode(md5)
        return name

    def _blocks(self) -> dict[str, int]:
        """Names and sizes of the blocks that wait to be committed, whoever sent them."""
        try:
            answer = self._blobs.ask(
                "parts", "GET", self.key, query=[("comp", "blocklist"), ("blocklisttype", "uncommitted")]
            )
        except NoBucketError:
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
            raise NotFoundError("the upload is gone, or nothing of it ever arrived", where=self.where)
        return dict(sorted(found.items()))

    def finish(self, tags: Sequence[str], *, when: Condition = ANY) -> Entry:
        names = [self.block(number) for number in range(self.count)]
        # Blocks sent by others through signed URLs have no tag: their names are what counts.
        if len(tags) != self.count or any(tag != name for tag, name in zip(tags, names, strict=True) if tag):
            raise ConflictError("the parts named are not the parts of this upload", where=self.where)
        items = "".join(f"<Latest>{name}</Latest>" for name in names) if self.size else ""
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{items}</BlockList>'.encode()
        headers = {
            **conditions(when),
            **checked(body)[0],
            "content-type": "application/xml",
            "x-ms-meta-rh_upload": self._mark,
        }
        headers["x-ms-blob-content-type"] = "application/octet-stream"
        if len(self._sums) == self.count:
            sums = b"".join(self._sums[number] for number in range(self.count))
            headers[f"x-ms-meta-{PARTS}"] = f"{self.part_size}-{hashlib.md5(sums, usedforsecurity=False).hexdigest()}"
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
                where=self.where,
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


def discard(blobs: Container, key: str) -> bool:
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
