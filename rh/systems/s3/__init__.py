"""S3 and every store that speaks its API: AWS, MinIO, R2, OVH, Oracle, Ceph, … by `endpoint_url`.

A root is `bucket/prefix`. Settings (all optional): `endpoint_url`, `region`, `profile`, `credentials_file`,
`anonymous`, `addressing` (`path` | `virtual`), `requester_pays`, `sse`, `kms_key_id`, `storage_class`, `acl`,
`ca_bundle`, and `conditional_writes` (whether the endpoint keeps preconditions; found out by itself where it is not
said). Who we are comes from boto3: environment, profiles, SSO, roles, instance metadata.

Keys travel as given. What consoles leave as directories (empty objects under `name/`) is listed as an empty directory;
none is ever made here.
"""

from __future__ import annotations

import base64
import builtins
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import ClassVar, NamedTuple
from urllib.parse import unquote_plus

from rh.errors import (
    ConflictError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from rh.observe import log
from rh.systems.abilities import Upload
from rh.systems.base import Body, Bytes, Settings, System
from rh.systems.objects.pages import Pages
from rh.systems.objects.parts import whole_or_in_parts
from rh.systems.objects.system import BulkStore, hidden, lasting
from rh.systems.objects.wire import Answer, Asked, fields, now_of, parse_xml, seconds
from rh.systems.s3.bucket import BATCH, MD5, PROBE, Bucket, source_of
from rh.systems.s3.credentials import identity
from rh.systems.s3.parts import LIMITS, S3Upload, abort, copy_in_parts, raise_inner
from rh.systems.s3.place import place_of
from rh.systems.s3.sign import UNSIGNED
from rh.systems.s3.wire import error_of
from rh.types import ANY, Condition, Entry, Link, Location, SignedRequest, Span

__all__ = ["S3System"]

COPY_LIMIT = 5 << 30
"""Largest object in bytes that S3 copies, and takes from a signed URL, in one request."""
_PAST = "\U0010fffd"


class _Listed(NamedTuple):
    """A page: entries with the bytes of their keys, what it tells of itself, and how it was asked for."""

    found: Sequence[tuple[bytes, Entry]]
    told: Mapping[str, str]
    floor: bytes
    """Keys up to this one are not meant."""
    token: str


class S3System(BulkStore):
    """A bucket, or a prefix in one."""

    kind: ClassVar[str] = "s3"
    takes: ClassVar[frozenset[str] | None] = frozenset(
        {
            "endpoint_url",
            "region",
            "profile",
            "credentials_file",
            "anonymous",
            "addressing",
            "conditional_writes",
            "requester_pays",
            "sse",
            "kms_key_id",
            "storage_class",
            "acl",
            "ca_bundle",
        }
    )
    store: ClassVar[str] = "S3"

    def __init__(self, location: Location, settings: Settings) -> None:
        super().__init__(location, settings)
        self.bucket = Bucket(location, settings, identity, self.url)

    @classmethod
    def buckets(cls, settings: Settings) -> Iterator[str]:
        place = place_of(settings, identity)
        where = f"{place.system}://"
        raised = partial(error_of, where=where, bucket="", system=place.system, profile=place.profile)
        query: Sequence[tuple[str, str]] = ()
        while True:
            answer = place.wire.request("buckets", "GET", "", None, where=where, error=raised, query=query)
            tree = parse_xml(answer.data)
            for name in tree.iterfind("{*}Buckets/{*}Bucket/{*}Name"):
                yield name.text or ""
            token = tree.findtext("{*}ContinuationToken")
            if not token:
                return
            query = [("continuation-token", token)]

    def close(self) -> None:
        self.bucket.close()

    # Verbs

    def _listing(self, prefix: str, after: str, depth: int | None) -> Iterator[Sequence[Entry]]:
        """Pages of entries in key order, with those directories that hold nothing."""
        marker: Entry | None = None
        last = b""
        for found in self._pages(prefix, after, depth):
            page: builtins.list[Entry] = []
            for raw, entry in found:
                if raw <= last:
                    if raw == last:
                        continue
                    raise UnsupportedError("the store does not list in key order", where=self.url(prefix))
                last = raw
                if marker is not None:
                    if not entry.key.startswith(marker.key):
                        page.append(marker)
                    marker = None
                if entry.kind == "dir" and (depth is None or entry.key == prefix):
                    marker = entry
                else:
                    page.append(entry)
            if page:
                yield page
        if marker is not None:
            yield [marker]

    def _pages(self, prefix: str, after: str, depth: int | None) -> Iterator[Sequence[tuple[bytes, Entry]]]:
        """Entries with the bytes of their keys, page by page, with directory markers, without hidden names."""
        if prefix:
            self.bucket.path(prefix)
        base = [
            ("list-type", "2"),
            ("encoding-type", "url"),
            ("max-keys", str(BATCH)),
            ("prefix", self.bucket.prefix + prefix),
        ]
        if depth == 1:
            base.append(("delimiter", "/"))

        def asked(floor: bytes, start: str = "", token: str = "") -> _Listed:
            more = ("continuation-token", token) if token else ("start-after", start)
            return _Listed(*self._page([*base, more] if more[1] else base, prefix), floor, token)

        def ask(last: _Listed | None) -> _Listed | None:
            if last is None:
                return asked(after.encode("utf-8", "surrogateescape"), self.bucket.prefix + after if after else "")
            if last.told.get("IsTruncated", "").strip() != "true":
                return None
            token = last.told.get("NextContinuationToken", "")
            out_of_sight = hidden(last.found[-1][1].key) if last.found else ""
            beyond = f"{out_of_sight}{_PAST}" if out_of_sight else ""
            if beyond and beyond.encode() > last.floor:
                # What is hidden may be a whole store: go on behind it instead of through it.
                return asked(beyond.encode(), self.bucket.prefix + beyond)
            if not token or token == last.token:
                raise UnavailableError("the listing breaks off: no token for the next page", where=self.url(prefix))
            return asked(last.floor, token=token)

        for page in Pages(ask):
            yield [pair for pair in page.found if pair[0] > page.floor and not hidden(pair[1].key)]

    def _page(
        self, query: Sequence[tuple[str, str]], prefix: str
    ) -> tuple[Sequence[tuple[bytes, Entry]], dict[str, str]]:
        answer = self.bucket.ask("list", "GET", at=prefix, query=query)
        tree = parse_xml(answer.data)
        found: builtins.list[Entry] = []
        cut = len(self.bucket.prefix)
        top = fields(tree)
        decode = unquote_plus if top.get("EncodingType") == "url" else str
        for child in tree:
            tag = child.tag.rpartition("}")[2]
            if tag == "Contents":
                told = fields(child)
                key = decode(told["Key"])[cut:]
                size = int(told.get("Size") or 0)
                modified = seconds(told.get("LastModified", ""))
                etag = told.get("ETag", "").strip('"') or None
                if key.endswith("/") and not size:
                    found.append(Entry(key, 0, "dir", modified=modified))
                else:
                    found.append(Entry(key, size, etag=etag, modified=modified, check=self.bucket.check(etag)))
            elif tag == "CommonPrefixes":
                found.append(Entry(decode(fields(child)["Prefix"])[cut:], 0, "dir"))
        return sorted(((entry.key.encode(), entry) for entry in found), key=itemgetter(0)), top

    def head(self, key: str) -> Entry:
        return self.bucket.head(key)

    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:
        return self.bucket.read(key, span, when)

    def write(
        self,
        key: str,
        data: Bytes | Iterable[Bytes] | Link,
        *,
        size: int | None = None,
        executable: bool | None = None,  # noqa: ARG002 - S3 has no place for it
        when: Condition = ANY,
    ) -> Entry:
        self.bucket.path(key)
        given = self._storable(key, data)
        self.bucket.demand(when, key)
        return whole_or_in_parts(
            given,
            size,
            when,
            LIMITS,
            self.url(key),
            whole=lambda whole: self._put(key, whole, when),
            begin=partial(S3Upload.begin, self.bucket, key),
        )

    def _sealed(self, data: Bytes, when: Condition) -> tuple[dict[str, str], str | None, str | None]:
        """Headers by which the store checks what it receives, the body's digest for the signature, and its MD5.

        The MD5 is to be held against the etag that the store answers.
        """
        place = self.bucket.place
        md5, headers, digest = None, dict(place.stored), None
        if place.aws:
            raw = hashlib.sha256(data)
            digest, headers["x-amz-checksum-sha256"] = raw.hexdigest(), base64.b64encode(raw.digest()).decode()
        if not place.aws or when is not ANY:
            raw = hashlib.md5(data, usedforsecurity=False)
            md5, headers["content-md5"] = raw.hexdigest(), base64.b64encode(raw.digest()).decode()
            if digest is None and self.bucket.name not in place.opaque:
                # The signature covers the MD5, the store checks it, and so do we in its answer: no second hash.
                digest = UNSIGNED
        return headers, digest, md5

    def _put(self, key: str, data: Bytes, when: Condition) -> Entry:
        """One object in one request, checked by the etag it comes back with."""
        headers, digest, md5 = self._sealed(data, when)

        def send(extra: Mapping[str, str]) -> Answer:
            sent = {**headers, **extra}
            return self.bucket.ask("write", "PUT", key, headers=sent, body=data, payload=True, digest=digest)

        answer = self.bucket.conditionally(key, when, md5 or "", send)
        return self.bucket.stored(key, data, answer.etag, md5, answer.headers)

    def delete(self, keys: Sequence[str]) -> None:
        if keys:
            self.bucket.delete(keys)

    # Bulk

    @property
    def root(self) -> Bucket:
        return self.bucket

    def _putting(self, key: str, data: Bytes) -> tuple[Asked, Callable[[Answer], Entry]]:
        headers, digest, md5 = self._sealed(data, ANY)
        asked = self.bucket.asked("write", "PUT", key, headers=headers, body=data, digest=digest)
        return asked, lambda answer: self.bucket.stored(key, data, answer.etag, md5, answer.headers)

    # Multipart

    def begin(self, key: str, size: int, *, part_size: int, executable: bool | None = None) -> Upload:  # noqa: ARG002
        return S3Upload.begin(self.bucket, key, size, LIMITS.fit(key, size, part_size, self.url(key)))

    def resume(self, key: str, token: str) -> Upload:
        return S3Upload.resume(self.bucket, key, token)

    # ServerCopy

    def can_copy_from(self, source: System) -> bool:
        if not isinstance(source, S3System):
            return False
        mine, other = self.bucket.place, source.bucket.place
        if mine is other:
            return True
        return mine.wire.endpoint == other.wire.endpoint and mine.credentials() == other.credentials()

    def _copy(self, source: S3System, entry: Entry, key: str, watch: Callable[[int], None]) -> Entry:
        place, origin = self.bucket.place, source.bucket.path(entry.key)
        if entry.size > COPY_LIMIT:
            return copy_in_parts(self.bucket, key, source.bucket, entry, watch)
        headers = {**place.stored, "x-amz-copy-source": source_of(source.bucket.name, origin)}
        if entry.etag is not None:
            headers["x-amz-copy-source-if-match"] = f'"{entry.etag}"'
            if not place.honours(self.bucket.name, "copy", self.bucket.probe):
                now = source.head(entry.key)
                if now.etag != entry.etag:
                    raise ConflictError("it has changed since it was listed", where=source.url(entry.key))
        try:
            answer = self.bucket.ask("copy", "PUT", key, headers=headers)
        except ConflictError as error:
            raise ConflictError("it has changed since it was listed", where=source.url(entry.key)) from error
        except NotFoundError as error:
            raise NotFoundError(error.message, where=source.url(entry.key), hint=error.hint) from error
        raise_inner(self.bucket, key, answer)
        told = fields(parse_xml(answer.data))
        etag = told.get("ETag", "").strip('"') or None
        both_md5 = etag and entry.etag and MD5.fullmatch(etag) and MD5.fullmatch(entry.etag)
        if both_md5 and etag != entry.etag and not place.aws and self.bucket.name not in place.opaque:
            self.delete([key])
            raise IntegrityError("the copy has other bytes", where=self.url(key), expected=entry.etag, got=etag)
        modified = seconds(told.get("LastModified", ""))
        return Entry(key, entry.size, etag=etag, modified=modified, check=self.bucket.check(etag))

    # Vouching

    def vouch(self, entry: Entry) -> Entry:
        return self.bucket.vouch(entry)

    # Versioned

    def versions_of(self, entries: Sequence[Entry]) -> Mapping[str, str]:
        return self.bucket.versions_of(entries)

    def pinned(self, versions: Mapping[str, str]) -> S3System:
        other = type(self)(self.location, self.settings)
        other.bucket.pins = versions
        return other

    # Signing

    def sign_read(self, key: str, *, expires_s: int = 3600) -> SignedRequest:
        return self._sign("GET", key, expires_s, query=self.bucket.pin(key))

    def sign_write(self, key: str, size: int, *, expires_s: int = 3600) -> SignedRequest:
        if size > COPY_LIMIT:
            raise InvalidError("S3 takes at most 5 GiB in one request", where=self.url(key), hint="sign parts")
        return self._sign("PUT", key, expires_s, headers=self.bucket.place.stored)

    def sign_part(self, upload: Upload, number: int, size: int, *, expires_s: int = 3600) -> SignedRequest:  # noqa: ARG002
        if not isinstance(upload, S3Upload):
            raise InvalidError("this upload is not one of S3", where=self.url())
        query = [("partNumber", str(number + 1)), ("uploadId", upload.upload_id)]
        return self._sign("PUT", upload.key, expires_s, query=query)

    def _sign(
        self,
        method: str,
        key: str,
        expires_s: int,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> SignedRequest:
        lasting(expires_s, self.url(key))
        path, place = self.bucket.path(key), self.bucket.place
        credentials = place.credentials()
        if credentials is None:
            raise UnauthenticatedError("anonymous access cannot sign", where=self.url(key), hint="set a profile")
        signed = place.wire.presign(
            method, self.bucket.name, path, credentials=credentials, expires_s=expires_s, query=query, headers=headers
        )
        if method == "GET":
            return signed
        # Not signed, but sent: clients put a type of their own choice where there is none.
        return SignedRequest(method, signed.url, {**signed.headers, "content-type": "application/octet-stream"})

    # Sweeping

    def sweep(self, *, older_than_s: float = 0.0) -> int:
        """Abort uploads and remove probes of ours that began so long ago. Manifests stay."""
        swept, now, marker = 0, time.time(), [("key-marker", ""), ("upload-id-marker", "")]
        while True:
            query = [("uploads", ""), ("encoding-type", "url"), ("prefix", self.bucket.prefix)]
            try:
                answer = self.bucket.ask("list", "GET", query=[*query, *(pair for pair in marker if pair[1])])
            except NotFoundError as error:
                if "upload" not in error.message:
                    raise  # the bucket
                log.debug("%s: there was never an upload: %s", self.url(), error)  # as rclone says it
                break
            tree, now = parse_xml(answer.data), now_of(answer.headers)
            top = fields(tree)
            decode = unquote_plus if top.get("EncodingType") == "url" else str
            for child in tree:
                if child.tag.rpartition("}")[2] != "Upload":
                    continue
                told = fields(child)
                begun, path = seconds(told.get("Initiated", "")), decode(told["Key"])
                if begun is not None and begun <= now - older_than_s and path.startswith(self.bucket.prefix):
                    abort(self.bucket, path[len(self.bucket.prefix) :], told["UploadId"])
                    swept += 1
            if top.get("IsTruncated", "").strip() != "true":
                break
            marker = [
                ("key-marker", decode(top.get("NextKeyMarker", ""))),
                ("upload-id-marker", top.get("NextUploadIdMarker", "")),
            ]
        query = [("list-type", "2"), ("encoding-type", "url"), ("prefix", self.bucket.prefix + PROBE)]
        probes, _ = self._page(query, PROBE)
        old = [entry.key for _, entry in probes if entry.modified is not None and entry.modified <= now - older_than_s]
        self.delete(old)
        return swept + len(old)
