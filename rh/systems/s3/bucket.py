"""One bucket of S3: checksums and preconditions as far as its endpoint keeps them, and deletion in batches.

`rh.systems.s3` builds the verbs of a system from it, `rh.systems.s3.parts` uploads and large copies.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from xml.sax.saxutils import escape

from rh import observe
from rh.errors import (
    AccessError,
    ConflictError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RhError,
    UnsupportedError,
)
from rh.systems.base import HIDDEN, Bytes, Settings
from rh.systems.objects.failures import Failure, NoBucketError
from rh.systems.objects.root import Root
from rh.systems.objects.spread import spread
from rh.systems.objects.wire import etag_of, fields, parse_xml, seconds
from rh.systems.s3.place import Identity, Place, place_of, unsupported
from rh.systems.s3.sign import quote_key
from rh.systems.s3.wire import error_of
from rh.types import ABSENT, ANY, Condition, Entry, Location

__all__ = ["BATCH", "MD5", "PROBE", "Bucket", "source_of"]

BATCH = 1000
"""Keys deleted in one request, and listed in one page."""
PROBE = f"{HIDDEN}probe-"
MD5 = re.compile(r"[0-9a-f]{32}")
_COMPOSITE = re.compile(r"([0-9a-f]{32})-([1-9]\d{0,4})")
_SMALL = 5 << 20
"""Objects of more bytes than this may have arrived in several parts, and are worth a request that tells a checksum."""
_NO_PARTS = (400, 404, 405, 416, 501)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\ufffe\uffff]")
_WRONG = '"00000000000000000000000000000000"'


def source_of(bucket: str, path: str) -> str:
    """The value of `x-amz-copy-source` for an object."""
    return f"/{quote_key(bucket)}/{quote_key(path)}"


class Bucket(Root[Place]):
    """A bucket and a prefix in it, on the connections of its place."""

    example = "s3://bucket/key"
    mark = "x-amz-meta-rh-write"
    version_query = "versionId"
    version_header = "x-amz-version-id"
    older = "null"

    def __init__(self, location: Location, settings: Settings, identity: Identity, url: Callable[[str], str]) -> None:
        super().__init__(location, settings, url, lambda named: place_of(named, identity))
        self._token = uuid.uuid4().hex
        if self.name.endswith("--x-s3"):
            raise UnsupportedError(
                "directory buckets (S3 Express) speak another protocol", where=f"{location.system}://"
            )

    def _error(self, failure: Failure, where: str) -> RhError:
        return error_of(failure, where=where, bucket=self.name, system=self.location.system, profile=self.place.profile)

    def versions_of(self, entries: Sequence[Entry]) -> Mapping[str, str]:
        """`Versioned.versions_of`: of a bucket that keeps versions, a request for each entry."""
        try:
            told = fields(parse_xml(self.ask("head", "GET", query=[("versioning", "")]).data))
        except (AccessError, NotFoundError, InvalidError, UnsupportedError) as error:
            observe.log.debug("%s: whether versions are kept is not told: %s", self.url(""), error)
            return {}
        if told.get("Status") != "Enabled":
            return {}
        return self.versions(entries)

    def check(self, etag: str | None) -> str | None:
        """The checksum an etag is, where it can be trusted to be one (never with AWS: KMS shows in no listing)."""
        place = self.place
        if etag and not place.aws and self.name not in place.opaque and MD5.fullmatch(etag):
            return f"md5:{etag}"
        return None

    def _check(self, headers: Mapping[str, str]) -> str | None:
        etag = etag_of(headers)
        plain = self.place.aws and etag is not None and MD5.fullmatch(etag) and not opaque(headers)
        return f"md5:{etag}" if plain else self.check(etag)

    def vouch(self, entry: Entry) -> Entry:
        """`Vouching.vouch`: by the checksum of the whole object, or by the etag of one that arrived in parts."""
        etag = entry.etag or ""
        plain, parts = MD5.fullmatch(etag), _COMPOSITE.fullmatch(etag)
        if entry.check is not None or not entry.size:
            return entry
        if entry.size <= _SMALL and parts is None:
            # Without a request; whether the object is encrypted, the answer to its reader says.
            return entry._replace(check=f"etag:{etag}") if plain and self.place.aws else entry
        headers = self.ask("head", "HEAD", entry.key, headers={"x-amz-checksum-mode": "ENABLED"}).headers
        if etag_of(headers) != entry.etag:
            return entry
        etags = self.name not in self.place.opaque and not opaque(headers)
        check = f"md5:{etag}" if plain and etags else _checksum(headers, ("sha256",))
        if check is None and parts is not None and etags:
            part = self._part_size(entry, int(parts.group(2)))
            check = f"md5-{part}:{parts.group(1)}" if part else None
        return entry._replace(check=check or _checksum(headers, ("crc32c", "crc64nvme")))

    def _part_size(self, entry: Entry, count: int) -> int | None:
        """Bytes of each part but the last of an object that arrived in so many; `None` where they differ."""
        if count == 1:
            return entry.size
        sizes = []
        for number in (1, count):
            query = [("partNumber", str(number))]
            answer = self.ask("head", "HEAD", entry.key, query=query, accept=_NO_PARTS)
            length = answer.headers.get("content-length", "")
            told = answer.headers.get("x-amz-mp-parts-count") == str(count)
            if not told or not length.isdigit():
                return None
            sizes.append(int(length))
        first, last = sizes
        return first if first * (count - 1) + last == entry.size and last <= first else None

    def stored(self, key: str, data: Bytes, etag: str | None, md5: str | None, headers: Mapping[str, str]) -> Entry:
        """The entry of what was put, once the store's answer has been held against what was sent.

        `md5` is `None` where the store itself has checked the bytes.
        """
        place = self.place
        if md5 is None:
            pass
        elif etag is not None and etag != md5 and MD5.fullmatch(etag) and self.name not in place.opaque:
            if "x-amz-server-side-encryption" not in headers:
                headers = self.ask("head", "HEAD", key).headers
            if not opaque(headers):
                if etag_of(headers) == etag:
                    self.delete([key])
                raise IntegrityError(
                    "the store received other bytes than were sent",
                    where=self.url(key),
                    expected=f"md5:{md5}",
                    got=f"md5:{etag}",
                )
            place.opaque.add(self.name)
        elif etag is not None and not MD5.fullmatch(etag):
            place.opaque.add(self.name)
        return Entry(key, len(data), etag=etag, modified=seconds(headers.get("last-modified")), check=self.check(etag))

    def delete(self, keys: Sequence[str]) -> None:
        """Remove these keys: a thousand by one request, singly what XML cannot hold."""
        paths = {self.path(key): key for key in keys}
        single = [path for path in paths if _CONTROL.search(path)]
        many = [path for path in paths if not _CONTROL.search(path)]
        if len(many) == 1 or self.name in self.place.singly:
            single, many = [*single, *many], []
        for start in range(0, len(many), BATCH):
            batch = many[start : start + BATCH]
            try:
                self._delete_batch(batch, paths)
            except UnsupportedError:
                self.place.singly.add(self.name)
                single.extend(batch)
        for error in spread(self._delete_one, map(paths.__getitem__, single)):
            if error is not None:
                raise error

    def _delete_one(self, key: str) -> RhError | None:
        try:
            self.ask("delete", "DELETE", key)
        except RhError as error:
            return error if isinstance(error, NoBucketError) or not isinstance(error, NotFoundError) else None
        return None

    def _delete_batch(self, batch: Sequence[str], paths: Mapping[str, str]) -> None:
        items = "".join(f"<Object><Key>{escape(path)}</Key></Object>" for path in batch)
        body = f'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>true</Quiet>{items}</Delete>'.encode()
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        headers = {"content-md5": md5, "content-type": "application/xml"}
        answer = self.ask("delete", "POST", query=[("delete", "")], headers=headers, body=body)
        failed: list[RhError] = []
        for child in parse_xml(answer.data):
            if child.tag.rpartition("}")[2] == "Error":
                told = fields(child)
                if told.get("Code") in ("NoSuchKey", "NoSuchVersion"):
                    continue
                status = 403 if told.get("Code") == "AccessDenied" else 500
                key = paths.get(told.get("Key", ""), told.get("Key", ""))
                failed.append(self.failed(Failure(status, told.get("Code", ""), told.get("Message", "")), key))
        if failed:
            if len(failed) > 1:
                first = failed[0].message
                failed[0].message = f"{len(failed)} of {len(batch)} keys were not deleted; the first: {first}"
            raise failed[0]

    def demand(self, when: Condition, key: str) -> None:
        """Raise `UnsupportedError` where the endpoint would ignore this condition."""
        if when is ANY:
            return
        name = "absent" if when is ABSENT else "match"
        if not self.place.honours(self.name, name, self.probe):
            raise unsupported(self.place, self.url(key))

    def probe(self, found: dict[str, bool]) -> None:
        """Try which preconditions the endpoint keeps, on a hidden object that goes again.

        Args:
            found: what is known. Filled step by step, so that a try after a failure goes on where the last one broke.
        """
        key = f"{PROBE}{self._token}-{os.getpid()}"
        source = {"x-amz-copy-source": source_of(self.name, self.path(key)), "x-amz-copy-source-if-match": _WRONG}
        steps: dict[str, tuple[str, Mapping[str, str], bytes]] = {
            "absent": (key, {"if-none-match": "*"}, b"probe"),
            "match": (key, {"if-match": _WRONG}, b"probe"),
            "copy": (f"{key}-copy", source, b""),
        }
        missing = [name for name in steps if name not in found]
        try:
            if missing:
                self.ask("probe", "PUT", key, body=b"probe")
            for name in missing:
                found[name] = self._keeps(*steps[name])
        except BaseException as error:
            if not (isinstance(error, RhError) and error.retryable):
                self._clear(key)
            raise
        self._clear(key)

    def _clear(self, key: str) -> None:
        try:
            self.delete([key, f"{key}-copy"])
        except AccessError as error:
            observe.log.warning("%s stays behind: %s", self.url(key), error)

    def _keeps(self, key: str, headers: Mapping[str, str], body: bytes) -> bool:
        try:
            self.ask("probe", "PUT", key, headers=headers, body=body)
        except ConflictError:
            return True
        except (UnsupportedError, InvalidError):
            return False
        return False


def _checksum(headers: Mapping[str, str], names: Sequence[str]) -> str | None:
    """The checksum of a whole object that the headers tell, of the first of these kinds that they do."""
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    for name in names:
        told = headers.get(f"x-amz-checksum-{name}", "")
        if told and "-" not in told:
            return f"{name}:{base64.b64decode(told).hex()}"
    return None


def opaque(headers: Mapping[str, str]) -> bool:
    """Whether an object is encrypted in a way that makes its etag no MD5 of its bytes."""
    sse = headers.get("x-amz-server-side-encryption") or ""
    return sse.startswith("aws:kms") or bool(headers.get("x-amz-server-side-encryption-customer-algorithm"))
