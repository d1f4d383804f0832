"""The JSON API of Google Cloud Storage, thin: each method is one request, its answer checked, its error typed.

Source: the reference of the JSON API, version 1, and its pages on uploads, checksums and batches.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from rh.errors import (
    ConflictError,
    ExistsError,
    IntegrityError,
    NotFoundError,
    RhError,
    UnavailableError,
)
from rh.observe import count
from rh.systems.base import Bytes
from rh.systems.gcs.errors import is_of_bucket, refusal
from rh.systems.objects.failures import NoBucketError
from rh.systems.objects.http import Answer, Endpoint, Pool
from rh.systems.objects.wire import seconds
from rh.systems.retry_after import asked_to_wait
from rh.types import ABSENT, ANY, Condition, Entry, Match

__all__ = [
    "BATCH",
    "PAGE",
    "Api",
    "Crc",
    "Object",
    "Page",
    "Target",
    "content_type",
    "crc_of_header",
    "entry_of_headers",
    "guard",
    "precheck",
]

T = TypeVar("T")

PAGE = 1000
BATCH = 100
SMALL = 16 << 20
"""Answers that are not data are smaller than this."""
FIELDS = "name,size,generation,md5Hash,crc32c,updated,metadata"
STAMP = "rh-write"
"""Metadata of conditional writes: tells our own write from another's when its answer was lost."""
SAFE = ""


class Object(msgspec.Struct, rename="camel", gc=False):
    """An object's metadata, the part of it we ask for."""

    name: str
    size: int = 0
    generation: str = "0"
    md5_hash: str | None = None
    crc32c: str | None = None
    updated: datetime | None = None
    metadata: dict[str, str] | None = None

    def entry(self, key: str) -> Entry:
        """The entry of this object under `key`; a zero-byte object whose key ends with `/` is a directory."""
        check = None
        if self.md5_hash:
            check = f"md5:{_hex(self.md5_hash)}"
        elif self.crc32c:
            check = f"crc32c:{crc_of_text(self.crc32c):08x}"
        modified = self.updated.timestamp() if self.updated else None
        kind = "dir" if key.endswith("/") and not self.size else "file"
        if kind == "dir":
            return Entry(key, 0, "dir", self.generation, modified)
        return Entry(key, self.size, "file", self.generation, modified, check)

    def holds(self, size: int, crc: int) -> bool:
        """Whether the store says that it has these bytes. Every object has a CRC-32C: without one, it does not say."""
        return self.size == size and self.crc == crc

    @property
    def crc(self) -> int | None:
        """The CRC-32C the store computed."""
        return crc_of_text(self.crc32c) if self.crc32c else None


class Page(msgspec.Struct, rename="camel"):
    """One page of a listing."""

    items: list[Object] = []
    prefixes: list[str] = []
    next_page_token: str | None = None


class _Rewrite(msgspec.Struct, rename="camel"):
    done: bool = False
    total_bytes_rewritten: int = 0
    rewrite_token: str | None = None
    resource: Object | None = None


_object = msgspec.json.Decoder(Object, strict=False)
_page = msgspec.json.Decoder(Page, strict=False)
_rewrite = msgspec.json.Decoder(_Rewrite, strict=False)


def _parse(decode: Callable[[bytes], T], data: bytes, where: str) -> T:
    """An answer as the API describes it, or `IntegrityError`."""
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(f"the answer is not what the API promises: {error}", where=where) from None


def _refused(answer: Answer, data: bytes, where: str, when: Condition = ANY) -> RhError:
    """The error for an answer that is not a success, with what it says of when to come again."""
    return asked_to_wait(refusal(answer.status, data, where, when), answer.headers.get("retry-after"))


def _raw(text: str, length: int) -> bytes:
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raw = b""
    if len(raw) != length:
        raise IntegrityError("the store told a checksum that cannot be one", got=text[:40])
    return raw


def _hex(text: str) -> str:
    return _raw(text, 16).hex()


def crc_of_text(text: str) -> int:
    """A CRC-32C from its base64 form."""
    return int.from_bytes(_raw(text, 4), "big")


def text_of_crc(crc: int) -> str:
    """The base64 form of a CRC-32C."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def crc_of_header(header: str | None) -> int | None:
    """The CRC-32C that `x-goog-hash: crc32c=…,md5=…` tells."""
    found = re.search(r"crc32c=([A-Za-z0-9+/]{6}==)", header or "")
    return crc_of_text(found.group(1)) if found else None


def entry_of_headers(key: str, size: int, headers: Mapping[str, str]) -> Entry:
    """The entry that the headers of a download tell."""
    hashes = headers.get("x-goog-hash", "")
    check = None
    if found := re.search(r"md5=([A-Za-z0-9+/]{22}==)", hashes):
        check = f"md5:{_hex(found.group(1))}"
    elif found := re.search(r"crc32c=([A-Za-z0-9+/]{6}==)", hashes):
        check = f"crc32c:{crc_of_text(found.group(1)):08x}"
    return Entry(key, size, "file", headers.get("x-goog-generation"), seconds(headers.get("last-modified")), check)


class Crc:
    """A running CRC-32C over any bytes-like pieces (`google-crc32c`, in C)."""

    __slots__ = ("_extend", "value")

    def __init__(self, extend: Callable[[int, bytes], int]) -> None:
        self._extend = extend
        self.value = 0

    def update(self, data: Bytes) -> None:
        """Take more bytes."""
        if isinstance(data, bytes):
            self.value = self._extend(self.value, data)
            return
        view = memoryview(data).cast("B")
        for at in range(0, len(view), 1 << 20):
            self.value = self._extend(self.value, bytes(view[at : at + (1 << 20)]))


def guard(when: Condition, where: str) -> str:
    """A precondition as a query parameter. An etag of another place can never match: `ConflictError`."""
    if when is ANY:
        return ""
    if isinstance(when, Match):
        if not (when.etag.isascii() and when.etag.isdigit()) or int(when.etag) == 0:
            raise ConflictError("it is not the object that was listed", where=where)
        return f"&ifGenerationMatch={when.etag}"
    return "&ifGenerationMatch=0"


def content_type(name: str) -> str:
    """The media type a browser of the bucket should see, by the name's ending."""
    if not mimetypes.inited:
        mimetypes.init()
    return mimetypes.types_map.get(os.path.splitext(name)[1].lower(), "application/octet-stream")


class Target(NamedTuple):
    """One object: its bucket and full name, and its place for errors."""

    bucket: str
    name: str
    where: str
    generation: str = ""
    """The state of it that is read, where that need not be the one that is there."""

    @property
    def pin(self) -> str:
        """The generation as a query parameter."""
        return f"&generation={self.generation}" if self.generation else ""

    @property
    def path(self) -> str:
        """`b/<bucket>/o/<name>`, quoted."""
        return f"b/{quote(self.bucket, safe=SAFE)}/o/{quote(self.name, safe=SAFE)}"


class Api:
    """The methods of the API on one endpoint, for one identity.

    Args:
        timeout_s, ca_bundle: as of `Pool`.
        token: gives the bearer token, or `None` to stay anonymous.
        system: whose requests `observe` counts.
        extend: CRC-32C of some bytes, going on from that of the bytes before.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout_s: float,
        ca_bundle: str | None,
        token: Callable[[], str] | None,
        user_project: str | None,
        system: str,
        extend: Callable[[int, bytes], int],
    ) -> None:
        self.extend = extend
        self.pool = Pool(endpoint, timeout_s, ca_bundle=ca_bundle)
        self.system = system
        self._token = token
        self._fixed = {"User-Agent": "rh"}
        if user_project:
            self._fixed["X-Goog-User-Project"] = user_project

    def headers(self) -> dict[str, str]:
        """Headers every request carries; secret where there is an identity."""
        headers = dict(self._fixed)
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token()}"
        return headers

    def send(
        self,
        verb: str,
        method: str,
        target: str,
        *,
        where: str,
        more: Mapping[str, str] | None = None,
        body: Sequence[Bytes] = (),
        payload: int = 0,
    ) -> Answer:
        """One request; `payload` bytes of its body are data."""
        headers = self.headers()
        if more:
            headers.update(more)
        count(self.system, verb, sent=payload)
        return self.pool.request(method, target, headers, body, where=where)

    def call(
        self,
        verb: str,
        method: str,
        target: str,
        *,
        where: str,
        when: Condition = ANY,
        document: Any = None,
    ) -> bytes:
        """One request about metadata; the answer's body, or the error."""
        body = () if document is None else (msgspec.json.encode(document),)
        more = {"Content-Type": "application/json"} if body else None
        answer = self.send(verb, method, target, where=where, more=more, body=body)
        data = answer.read(SMALL)
        if answer.status // 100 != 2:
            raise _refused(answer, data, where, when)
        return data

    # Objects

    def get(self, what: Target) -> Object:
        """An object's metadata."""
        data = self.call("head", "GET", f"/storage/v1/{what.path}?fields={FIELDS}{what.pin}", where=what.where)
        return self._decode(data, what)

    def insert(
        self,
        what: Target,
        body: Sequence[Bytes],
        size: int,
        crc: int,
        *,
        when: Condition = ANY,
        stamp: str | None = None,
    ) -> Object:
        """Store bytes in one request; the store checks the CRC-32C before anybody sees them."""
        document: dict[str, Any] = {"contentType": content_type(what.name), "crc32c": text_of_crc(crc)}
        if stamp:
            document["metadata"] = {STAMP: stamp}
        boundary = secrets.token_hex(16)
        front = (
            f"--{boundary}\r\nContent-Type: application/json\r\n\r\n".encode()
            + msgspec.json.encode(document)
            + f"\r\n--{boundary}\r\nContent-Type: {document['contentType']}\r\n\r\n".encode()
        )
        answer = self.send(
            "write",
            "POST",
            f"/upload/storage/v1/b/{quote(what.bucket, safe=SAFE)}/o?uploadType=multipart"
            f"&name={quote(what.name, safe=SAFE)}{guard(when, what.where)}&fields={FIELDS}",
            where=what.where,
            more={"Content-Type": f"multipart/related; boundary={boundary}"},
            body=(front, *body, f"\r\n--{boundary}--\r\n".encode()),
            payload=size,
        )
        data = answer.read(SMALL)
        if answer.status // 100 != 2:
            raise _refused(answer, data, what.where, when)
        return self._decode(data, what)

    def begin(self, what: Target, *, size: int | None, when: Condition, stamp: str | None) -> str:
        """Open a resumable session. Returns its address on this server: a secret while it lives."""
        document: dict[str, Any] = {"contentType": content_type(what.name)}
        if stamp:
            document["metadata"] = {STAMP: stamp}
        more = {"Content-Type": "application/json", "X-Upload-Content-Type": document["contentType"]}
        if size is not None:
            more["X-Upload-Content-Length"] = str(size)
        answer = self.send(
            "write",
            "POST",
            f"/upload/storage/v1/b/{quote(what.bucket, safe=SAFE)}/o?uploadType=resumable"
            f"&name={quote(what.name, safe=SAFE)}{guard(when, what.where)}&fields={FIELDS}",
            where=what.where,
            more=more,
            body=(msgspec.json.encode(document),),
        )
        data = answer.read(SMALL)
        if answer.status // 100 != 2:
            raise _refused(answer, data, what.where, when)
        # Only path and query are taken: the session's requests, and our token, go to no other server than this.
        parts = urlsplit(answer.headers.get("location", ""))
        base = self.pool.endpoint.base
        if not parts.query or not parts.path.startswith(f"{base}/"):
            raise UnavailableError("the upload session has no address", where=what.where)
        return f"{parts.path.removeprefix(base)}?{parts.query}"

    def append(
        self,
        what: Target,
        session: str,
        body: Sequence[Bytes],
        start: int,
        length: int,
        *,
        crc: int,
        last: bool,
        when: Condition,
    ) -> Object | None:
        """Send the next block of a session; the last one publishes the object if `crc`, of all bytes, is right."""
        end = str(start + length) if last else "*"
        more = {"Content-Range": f"bytes {start}-{start + length - 1}/{end}" if length else f"bytes */{end}"}
        if last:
            more["X-Goog-Hash"] = f"crc32c={text_of_crc(crc)}"
        answer = self.send("write", "PUT", session, where=what.where, more=more, body=body, payload=length)
        data = answer.read(SMALL)
        if not last and answer.status == 308:
            if answer.headers.get("range") != f"bytes=0-{start + length - 1}":
                raise UnavailableError("the store did not keep the whole block", where=what.where)
            return None
        if not last or answer.status // 100 != 2:
            raise _refused(answer, data, what.where, when)
        return self._decode(data, what)

    def cancel(self, what: Target, session: str) -> None:
        """Give a resumable session up; the store forgets its bytes."""
        self.send("write", "DELETE", session, where=what.where).read(SMALL)

    def open(self, what: Target, span: tuple[int, int] | None, when: Condition) -> Answer:
        """Begin a download; status 200, 206 or 416. Stored bytes come as they are, compressed ones too."""
        more = {"Accept-Encoding": "gzip"}
        if span is not None:
            more["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        answer = self.send(
            "read",
            "GET",
            f"/download/storage/v1/{what.path}?alt=media{what.pin}{guard(when, what.where)}",
            where=what.where,
            more=more,
        )
        if answer.status == (200 if span is None else 206) or (answer.status == 416 and span is not None):
            return answer
        if answer.status // 100 == 2:
            answer.close()
            raise UnavailableError(f"the store answered {answer.status} to a range", where=what.where)
        raise _refused(answer, answer.read(SMALL), what.where, when)

    def page(
        self, bucket: str, prefix: str, *, start: str, delimiter: str, token: str | None, where: str
    ) -> tuple[Page, Mapping[str, str]]:
        """One page of a listing, and the answer's headers."""
        query = f"maxResults={PAGE}&fields=nextPageToken,prefixes,items({FIELDS.replace(',metadata', '')})"
        for name, value in (("prefix", prefix), ("startOffset", start), ("delimiter", delimiter), ("pageToken", token)):
            if value:
                query += f"&{name}={quote(value, safe=SAFE)}"
        answer = self.send("list", "GET", f"/storage/v1/b/{quote(bucket, safe=SAFE)}/o?{query}", where=where)
        data = answer.read(SMALL)
        if answer.status == 404:  # a bucket that is there lists, if only nothing
            raise NoBucketError(f"there is no bucket {bucket!r}", where=where, hint="check the bucket's name")
        if answer.status // 100 != 2:
            raise _refused(answer, data, where)
        return _parse(_page.decode, data, where), answer.headers

    def buckets(self, project: str, *, token: str | None, where: str) -> Page:
        """One page of a project's buckets, as `items` that have but a name."""
        query = f"project={quote(project, safe=SAFE)}&maxResults={PAGE}&fields=nextPageToken,items(name)"
        if token:
            query += f"&pageToken={quote(token, safe=SAFE)}"
        return _parse(_page.decode, self.call("buckets", "GET", f"/storage/v1/b?{query}", where=where), where)

    def delete(self, what: Target, generation: str | None = None) -> None:
        """Remove an object (that generation of it); a missing one is fine."""
        guarded = f"?ifGenerationMatch={generation}" if generation else ""
        answer = self.send("delete", "DELETE", f"/storage/v1/{what.path}{guarded}", where=what.where)
        data = answer.read(SMALL)
        if answer.status // 100 != 2 and answer.status != 404:
            raise _refused(answer, data, what.where)
        if answer.status == 404 and is_of_bucket(data.decode("utf-8", "replace")):
            raise refusal(404, data, what.where)

    def delete_batch(self, things: Sequence[Target]) -> list[RhError]:
        """Remove up to `BATCH` objects in one request; the errors of those that could not be."""
        where = things[0].where
        boundary = secrets.token_hex(16)
        base = self.pool.endpoint.base
        parts = [
            f"--{boundary}\r\nContent-Type: application/http\r\nContent-ID: <{number}>\r\n\r\n"
            f"DELETE {base}/storage/v1/{thing.path} HTTP/1.1\r\n\r\n\r\n"
            for number, thing in enumerate(things)
        ]
        body = ("".join(parts) + f"--{boundary}--\r\n").encode()
        answer = self.send(
            "delete",
            "POST",
            "/batch/storage/v1",
            where=where,
            more={"Content-Type": f"multipart/mixed; boundary={boundary}"},
            body=(body,),
        )
        data = answer.read(SMALL)
        if answer.status // 100 != 2:
            raise _refused(answer, data, where)
        told = {
            int(found.group(1)): (int(found.group(2)), found.end())
            for found in re.finditer(
                rb"Content-ID:[ \t]*<?response-(\d{1,3})>?.*?\r\n\r\nHTTP/1\.\d (\d{3})",
                data,
                re.IGNORECASE | re.DOTALL,
            )
        }
        if set(told) != set(range(len(things))):
            raise UnavailableError("the answer to a batch is not complete", where=where)
        errors = []
        for number, thing in enumerate(things):
            status, at = told[number]
            if status // 100 == 2:
                continue
            detail = data[at:].partition(b"\r\n\r\n")[2].partition(b"\r\n--")[0]
            if status != 404 or is_of_bucket(detail.decode("utf-8", "replace")):
                errors.append(refusal(status, detail, thing.where))
        return errors

    def rewrite(self, source: Target, target: Target, generation: str | None, watch: Callable[[int], None]) -> Object:
        """Copy on the store's side; large ones across locations take several requests, and `watch` is told of each."""
        pinned = f"&sourceGeneration={generation}&ifSourceGenerationMatch={generation}" if generation else ""
        token = ""
        while True:
            data = self.call(
                "copy",
                "POST",
                f"/storage/v1/{source.path}/rewriteTo/{target.path}?fields=done,totalBytesRewritten,rewriteToken,resource({FIELDS})"
                f"{pinned}{token}",
                where=target.where,
                document={},
            )
            step = _parse(_rewrite.decode, data, target.where)
            if step.done and step.resource is not None:
                return step.resource
            if not step.rewrite_token:
                raise UnavailableError("the copy stopped half way", where=target.where)
            watch(step.total_bytes_rewritten)
            token = f"&rewriteToken={quote(step.rewrite_token, safe=SAFE)}"

    def compose(
        self, what: Target, sources: Sequence[tuple[str, str]], *, when: Condition = ANY, stamp: str | None = None
    ) -> Object:
        """Concatenate up to 32 objects of the bucket, given as (name, generation), into one."""
        document: dict[str, Any] = {
            "kind": "storage#composeRequest",
            "destination": {"contentType": content_type(what.name)},
            "sourceObjects": [
                {"name": name, "generation": generation, "objectPreconditions": {"ifGenerationMatch": generation}}
                for name, generation in sources
            ],
        }
        if stamp:
            document["destination"]["metadata"] = {STAMP: stamp}
        data = self.call(
            "write",
            "POST",
            f"/storage/v1/{what.path}/compose?fields={FIELDS}{guard(when, what.where)}",
            where=what.where,
            when=when,
            document=document,
        )
        return self._decode(data, what)

    def _decode(self, data: bytes, what: Target) -> Object:
        found = _parse(_object.decode, data, what.where)
        if found.name != what.name:
            raise IntegrityError(
                "the answer is about another object", where=what.where, expected=what.name, got=found.name
            )
        return found


def precheck(api: Api, what: Target, when: Condition) -> None:
    """Refuse what cannot succeed before its bytes are sent; the request that publishes checks again, atomically."""
    if when is ANY:
        return
    try:
        there: Object | None = api.get(what)
    except NotFoundError:
        there = None
    if when is ABSENT and there is not None:
        raise ExistsError("there is something already", where=what.where)
    if isinstance(when, Match) and (there is None or there.generation != when.etag):
        raise ConflictError("it has changed since" if there else "it is gone", where=what.where)
