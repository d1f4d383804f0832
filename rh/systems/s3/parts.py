"""Objects in parts: uploads, and copies too large for one request."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

from rh.errors import ConflictError, IntegrityError, InvalidError, NotFoundError, RhError
from rh.systems.base import Bytes
from rh.systems.objects.failures import Failure
from rh.systems.objects.parts import Limits, PartedUpload
from rh.systems.objects.root import conditions
from rh.systems.objects.spread import spread
from rh.systems.objects.wire import Answer, etag_of, fields, parse_xml
from rh.systems.s3.bucket import MD5, Bucket, source_of
from rh.systems.s3.sign import UNSIGNED
from rh.types import ANY, Condition, Entry

__all__ = ["LIMITS", "S3Upload", "abort", "copy_in_parts", "raise_inner"]

LIMITS = Limits("S3", 5 << 20, 5 << 30, 10_000)
COPY_PART = 512 << 20
_TOKEN = re.compile(r"(\d+)\.(\d+)\.(.+)", re.DOTALL)
_COMPOSITE = re.compile(r"[0-9a-f]{32}-\d+")


class S3Upload(PartedUpload):
    """One object arriving in parts. `token` is enough to go on elsewhere."""

    def __init__(self, bucket: Bucket, key: str, upload_id: str, size: int, part_size: int) -> None:
        super().__init__(key, size, part_size, bucket.url(key))
        self.upload_id = upload_id
        self.token = f"{part_size}.{size}.{upload_id}"
        self._bucket = bucket

    @classmethod
    def begin(
        cls, bucket: Bucket, key: str, size: int, part_size: int, headers: Mapping[str, str] | None = None
    ) -> S3Upload:
        """Start an upload, whose object is to have these headers beside those of all objects."""
        sent = {**bucket.place.stored, **(headers or {})}
        answer = bucket.ask("begin", "POST", key, query=[("uploads", "")], headers=sent)
        upload_id = fields(parse_xml(answer.data)).get("UploadId", "")
        if not upload_id:
            raise IntegrityError("the store began an upload and does not name it", where=bucket.url(key))
        return cls(bucket, key, upload_id, size, part_size)

    @classmethod
    def resume(cls, bucket: Bucket, key: str, token: str) -> S3Upload:
        """Go on with an upload; asks nothing of the store."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise InvalidError("this is no token of an upload to S3", where=bucket.url(key))
        return cls(bucket, key, match.group(3), int(match.group(2)), int(match.group(1)))

    def store(self, number: int, data: Bytes) -> str:
        """Store one part and hold the store's answer against what was sent; the part's tag."""
        bucket, place = self._bucket, self._bucket.place
        view = memoryview(data).cast("B") if isinstance(data, memoryview) else data
        # AWS checks the SHA-256 in the signature. Others may not: there MD5 is held against the store's answer, and
        # where the answer is no MD5, the signature covers the bytes again. It is not asked of the store as well, which
        # may compute it twice then: nobody sees a part before the upload is finished, so a wrong one does no harm.
        signed = place.aws or bucket.name in place.opaque
        md5 = "" if signed else hashlib.md5(view, usedforsecurity=False).hexdigest()
        query = [("partNumber", str(number + 1)), ("uploadId", self.upload_id)]
        digest = None if signed else UNSIGNED
        answer = bucket.ask("part", "PUT", self.key, query=query, body=view, digest=digest, payload=True)
        etag = answer.etag
        if not etag:
            raise IntegrityError("the store stored a part and does not name it", where=self.where)
        if md5 and etag != md5:
            if MD5.fullmatch(etag) and not answer.headers.get("x-amz-server-side-encryption"):
                raise IntegrityError(
                    "the store received other bytes than were sent",
                    where=self.where,
                    expected=f"md5:{md5}",
                    got=f"md5:{etag}",
                )
            place.opaque.add(bucket.name)
            return self.store(number, data)
        return etag

    def parts(self) -> dict[int, str]:
        found: dict[int, str] = {}
        marker = ""
        while True:
            query = [("uploadId", self.upload_id), ("max-parts", "1000")]
            if marker:
                query.append(("part-number-marker", marker))
            tree = parse_xml(self._bucket.ask("parts", "GET", self.key, query=query).data)
            for child in tree:
                if child.tag.rpartition("}")[2] != "Part":
                    continue
                told = fields(child)
                number = int(told["PartNumber"]) - 1
                if 0 <= number < self.count and int(told.get("Size") or -1) == self.length(number):
                    found[number] = told["ETag"].strip('"')
            top = fields(tree)
            fresh = top.get("NextPartNumberMarker", "")
            if top.get("IsTruncated", "").strip() != "true" or not fresh or fresh == marker:
                return found
            marker = fresh

    def finish(self, tags: Sequence[str], *, when: Condition = ANY) -> Entry:
        """Publish the object and hold what the store then has against the parts."""
        bucket, key = self._bucket, self.key
        if len(tags) != self.count:
            raise InvalidError(f"{self.count} parts need {self.count} tags, not {len(tags)}", where=self.where)
        bucket.demand(when, key)
        tags = [tag.strip('"') for tag in tags]
        expected = composite(tags)
        items = "".join(
            f"<Part><PartNumber>{n}</PartNumber><ETag>&quot;{tag}&quot;</ETag></Part>" for n, tag in enumerate(tags, 1)
        )
        body = (
            f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{items}</CompleteMultipartUpload>'
        ).encode()
        query = [("uploadId", self.upload_id)]
        try:
            answer = bucket.ask("finish", "POST", key, query=query, headers=conditions(when), body=body)
            raise_inner(bucket, key, answer)
        except NotFoundError:
            # Published already, by a request whose answer was lost?
            found = self._published(expected)
            if found is None:
                raise
            return found
        except ConflictError as error:
            raise bucket.broken(error, key, when) from None
        etag = fields(parse_xml(answer.data)).get("ETag", "").strip('"')
        entry = bucket.head(key)
        if entry.size != self.size or (
            expected and _COMPOSITE.fullmatch(etag) and etag != expected and not bucket.place.aws
        ):
            if entry.etag == etag:
                bucket.delete([key])
            raise IntegrityError(
                "the store put other bytes together than were sent",
                where=self.where,
                expected=f"{self.size} bytes, etag {expected}",
                got=f"{entry.size} bytes, etag {etag}",
            )
        return entry

    def _published(self, expected: str | None) -> Entry | None:
        try:
            entry = self._bucket.head(self.key)
        except NotFoundError:
            return None
        return entry if expected is not None and entry.etag == expected and entry.size == self.size else None

    def abort(self) -> None:
        abort(self._bucket, self.key, self.upload_id)


def composite(tags: Sequence[str]) -> str | None:
    """The etag S3 gives an object of these parts; `None` when the tags are no MD5."""
    if not all(MD5.fullmatch(tag) for tag in tags):
        return None
    joined = b"".join(map(bytes.fromhex, tags))
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(tags)}"


def raise_inner(bucket: Bucket, key: str, answer: Answer) -> None:
    """S3 reports some failures after it has begun to answer 200."""
    tree = parse_xml(answer.data)
    if tree.tag.rpartition("}")[2] == "Error":
        told = fields(tree)
        code = told.get("Code", "")
        status = 412 if code == "PreconditionFailed" else 500
        raise bucket.failed(Failure(status, code, told.get("Message", "")), key)


def abort(bucket: Bucket, key: str, upload_id: str) -> None:
    """Forget an upload; one that is gone already is fine."""
    try:
        bucket.ask("abort", "DELETE", key, query=[("uploadId", upload_id)])
    except NotFoundError:
        return


def copy_in_parts(bucket: Bucket, key: str, origin: Bucket, entry: Entry, watch: Callable[[int], None]) -> Entry:
    """Copy an object of any size within the store, part by part, each only while the source is the one listed."""
    part = LIMITS.part_size(entry.size, COPY_PART)
    source = {"x-amz-copy-source": source_of(origin.name, origin.path(entry.key))}
    now = origin.ask("head", "HEAD", entry.key).headers
    if entry.etag is not None:
        source["x-amz-copy-source-if-match"] = f'"{entry.etag}"'
        if etag_of(now) != entry.etag:
            raise ConflictError("it has changed since it was listed", where=origin.url(entry.key))
    kept = {
        name: value
        for name, value in now.items()
        if name in ("content-type", "cache-control") or name.startswith("x-amz-meta-")
    }
    upload = S3Upload.begin(bucket, key, entry.size, part, kept)

    def one(number: int) -> str | RhError:
        start = number * part
        headers = {**source, "x-amz-copy-source-range": f"bytes={start}-{start + upload.length(number) - 1}"}
        query = [("partNumber", str(number + 1)), ("uploadId", upload.upload_id)]
        try:
            answer = bucket.ask("copy", "PUT", key, query=query, headers=headers)
            raise_inner(bucket, key, answer)
        except RhError as error:
            return error
        return fields(parse_xml(answer.data)).get("ETag", "").strip('"')

    try:
        tags: list[str] = []
        with closing(spread(one, range(upload.count), workers=8)) as outcomes:  # before the upload is forgotten
            for outcome in outcomes:
                if isinstance(outcome, RhError):
                    raise outcome
                tags.append(outcome)
                watch(min(len(tags) * part, entry.size))
        return upload.finish(tags)
    except ConflictError as error:
        upload.give_up()
        raise ConflictError("it has changed since it was listed", where=origin.url(entry.key)) from error
    except BaseException:
        upload.give_up()
        raise
