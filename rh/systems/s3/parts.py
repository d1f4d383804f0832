"""Objects in parts: resumable uploads, streams of unknown length, and copies too large for one request."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from rh.errors import ConflictError, IntegrityError, InvalidError, NotFoundError, RhError
from rh.systems.base import Bytes
from rh.systems.objects.failures import Failure
from rh.systems.objects.spread import spread
from rh.systems.objects.streams import pieces_of, same_length
from rh.systems.objects.wire import Answer, fields, parse_xml
from rh.systems.s3.bucket import MD5, Bucket, source_of
from rh.systems.s3.sign import UNSIGNED
from rh.types import ABSENT, ANY, Condition, Entry, Match

__all__ = ["S3Upload", "copy_in_parts", "stream_in_parts"]

MIN_PART = 5 << 20
MAX_PARTS = 10_000
MAX_PART = 5 << 30
STREAM_PART = 8 << 20
"""Bytes of a part of a stream whose length is known (more where that makes too many parts)."""
BLIND_PART = 16 << 20
"""Bytes of a part of a stream whose length is not known: 160 GB in 10,000 parts of one size, which R2 asks for."""
COPY_PART = 512 << 20
_IN_FLIGHT = 2
_TOKEN = re.compile(r"(\d+)\.(\d+)\.(.+)", re.DOTALL)
_COMPOSITE = re.compile(r"[0-9a-f]{32}-\d+")


def part_size_for(size: int, wanted: int) -> int:
    """The smallest multiple of `wanted` that S3 takes as the part size of an object of `size` bytes."""
    if wanted <= 0:
        raise InvalidError(f"a part size is positive, not {wanted}")
    need = max(MIN_PART, -(-size // MAX_PARTS))
    chosen = -(-need // wanted) * wanted
    if chosen > MAX_PART:
        raise InvalidError(f"{size} bytes are more than S3 holds in one object")
    return chosen


class S3Upload:
    """One object arriving in parts. `token` is enough to go on elsewhere."""

    def __init__(self, bucket: Bucket, key: str, upload_id: str, size: int, part_size: int) -> None:
        self.key = key
        self.size = size
        self.part_size = part_size
        self.upload_id = upload_id
        self.token = f"{part_size}.{size}.{upload_id}"
        self._bucket = bucket
        self._path = bucket.path(key)

    @classmethod
    def begin(cls, bucket: Bucket, key: str, size: int, part_size: int) -> S3Upload:
        """Start an upload."""
        if size < 0:
            raise InvalidError("a size is not negative", where=bucket.url(key))
        if key.endswith("/"):
            raise InvalidError("a key that ends with / is a directory and has no bytes", where=bucket.url(key))
        chosen = part_size_for(size, part_size)
        return cls(bucket, key, _begin(bucket, key, {}), size, chosen)

    @classmethod
    def resume(cls, bucket: Bucket, key: str, token: str) -> S3Upload:
        """Go on with an upload; asks nothing of the store."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise InvalidError("this is no token of an upload to S3", where=bucket.url(key))
        return cls(bucket, key, match.group(3), int(match.group(2)), int(match.group(1)))

    @property
    def count(self) -> int:
        """How many parts there are; an empty object is one empty part."""
        return max(1, -(-self.size // self.part_size))

    def length(self, number: int) -> int:
        """Bytes of a part."""
        if not 0 <= number < self.count:
            raise InvalidError(f"there is no part {number}", where=self._bucket.url(self.key))
        return min(self.part_size, self.size - number * self.part_size)

    def put(self, number: int, data: Bytes) -> str:
        want = self.length(number)
        if len(data) != want:
            raise InvalidError(f"part {number} has {len(data)} bytes, not {want}", where=self._bucket.url(self.key))
        return put_part(self._bucket, self.key, self._path, self.upload_id, number, data)

    def parts(self) -> dict[int, str]:
        found: dict[int, str] = {}
        marker = ""
        while True:
            query = [("uploadId", self.upload_id), ("max-parts", "1000")]
            if marker:
                query.append(("part-number-marker", marker))
            tree = parse_xml(self._bucket.ask("parts", "GET", self.key, self._path, query=query).data)
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
        if len(tags) != self.count:
            raise InvalidError(
                f"{self.count} parts need {self.count} tags, not {len(tags)}", where=self._bucket.url(self.key)
            )
        return finish(self._bucket, self.key, self.upload_id, tags, self.size, when)

    def abort(self) -> None:
        abort(self._bucket, self.key, self.upload_id)


def _begin(bucket: Bucket, key: str, headers: Mapping[str, str]) -> str:
    sent = {**bucket.place.stored, **headers}
    answer = bucket.ask("begin", "POST", key, bucket.path(key), query=[("uploads", "")], headers=sent)
    upload_id = fields(parse_xml(answer.data)).get("UploadId", "")
    if not upload_id:
        raise IntegrityError("the store began an upload and does not name it", where=bucket.url(key))
    return upload_id


def put_part(bucket: Bucket, key: str, path: str, upload_id: str, number: int, data: Bytes) -> str:
    """Store one part and hold the store's answer against what was sent; the part's tag."""
    place = bucket.place
    view = memoryview(data).cast("B") if isinstance(data, memoryview) else data
    # AWS checks the SHA-256 in the signature. Others may not: there MD5 is held against the store's answer, and where
    # the answer is no MD5, the signature covers the bytes again. It is not asked of the store as well, which may
    # compute it twice then: nobody sees a part before the upload is finished, so a wrong one does no harm.
    signed = place.aws or bucket.name in place.opaque
    md5 = "" if signed else hashlib.md5(view, usedforsecurity=False).hexdigest()
    answer = bucket.ask(
        "part",
        "PUT",
        key,
        path,
        query=[("partNumber", str(number + 1)), ("uploadId", upload_id)],
        body=view,
        digest=None if signed else UNSIGNED,
        payload=True,
    )
    etag = answer.etag
    if not etag:
        raise IntegrityError("the store stored a part and does not name it", where=bucket.url(key))
    if md5 and etag != md5:
        if MD5.fullmatch(etag) and not answer.headers.get("x-amz-server-side-encryption"):
            raise IntegrityError(
                "the store received other bytes than were sent",
                where=bucket.url(key),
                expected=f"md5:{md5}",
                got=f"md5:{etag}",
            )
        place.opaque.add(bucket.name)
        return put_part(bucket, key, path, upload_id, number, data)
    return etag


def composite(tags: Sequence[str]) -> str | None:
    """The etag S3 gives an object of these parts; `None` when the tags are no MD5."""
    if not all(MD5.fullmatch(tag) for tag in tags):
        return None
    joined = b"".join(map(bytes.fromhex, tags))
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(tags)}"


def finish(bucket: Bucket, key: str, upload_id: str, tags: Sequence[str], size: int, when: Condition) -> Entry:
    """Publish the object and hold what the store then has against the parts."""
    bucket.demand(when, key)
    tags = [tag.strip('"') for tag in tags]
    expected = composite(tags)
    items = "".join(
        f"<Part><PartNumber>{n}</PartNumber><ETag>&quot;{tag}&quot;</ETag></Part>" for n, tag in enumerate(tags, 1)
    )
    body = f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{items}</CompleteMultipartUpload>'

    condition = {}
    if when is ABSENT:
        condition["if-none-match"] = "*"
    elif isinstance(when, Match):
        condition["if-match"] = f'"{when.etag}"'
    query = [("uploadId", upload_id)]
    try:
        answer = bucket.ask("finish", "POST", key, bucket.path(key), query=query, headers=condition, body=body.encode())
        raise_inner(bucket, key, answer)
    except NotFoundError:
        # Published already, by a request whose answer was lost?
        found = _published(bucket, key, expected, size)
        if found is None:
            raise
        return found
    except ConflictError as error:
        raise bucket.broken(error, key, when) from None
    etag = fields(parse_xml(answer.data)).get("ETag", "").strip('"')
    entry = bucket.entry(key, bucket.headers(key))
    if entry.size != size or (expected and _COMPOSITE.fullmatch(etag) and etag != expected and not bucket.place.aws):
        if entry.etag == etag:
            bucket.delete([key])
        raise IntegrityError(
            "the store put other bytes together than were sent",
            where=bucket.url(key),
            expected=f"{size} bytes, etag {expected}",
            got=f"{entry.size} bytes, etag {etag}",
        )
    return entry


def _published(bucket: Bucket, key: str, expected: str | None, size: int) -> Entry | None:
    try:
        entry = bucket.entry(key, bucket.headers(key))
    except NotFoundError:
        return None
    return entry if expected is not None and entry.etag == expected and entry.size == size else None


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
        bucket.ask("abort", "DELETE", key, bucket.path(key), query=[("uploadId", upload_id)])
    except NotFoundError:
        return


def stream_in_parts(
    bucket: Bucket,
    key: str,
    data: Iterable[Bytes],
    size: int | None,
    when: Condition,
    put: Callable[[Bytes], Entry],
) -> Entry:
    """Store a stream with bounded memory: by `put` when it is short, else in parts. Whatever fails leaves no part."""
    part = part_size_for(size, STREAM_PART) if size is not None else BLIND_PART
    parts = pieces_of(data, part)
    first = next(parts)
    if len(first) < part:
        same_length(bucket.url(key), size, len(first))
        return put(first)
    upload_id = _begin(bucket, key, {})
    path, total, tags = bucket.path(key), 0, deque[Future[str]]()
    done: list[str] = []
    try:
        with ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="rh-parts") as pool:
            try:
                piece: bytearray | None = first
                while piece:
                    number = len(done) + len(tags)
                    if number == MAX_PARTS:
                        raise InvalidError("the stream is too long to store without its size", where=bucket.url(key))
                    total += len(piece)
                    if size is not None and total > size:
                        break
                    tags.append(pool.submit(put_part, bucket, key, path, upload_id, number, piece))
                    if len(tags) >= _IN_FLIGHT:
                        done.append(tags.popleft().result())
                    piece = next(parts, None)
                while tags:
                    done.append(tags.popleft().result())
            finally:
                for future in tags:
                    future.cancel()
        same_length(bucket.url(key), size, total)
        return finish(bucket, key, upload_id, done, total, when)
    except BaseException:
        abort(bucket, key, upload_id)
        raise


def copy_in_parts(bucket: Bucket, key: str, origin: Bucket, entry: Entry) -> Entry:
    """Copy an object of any size within the store, part by part, each only while the source is the one listed."""
    part = part_size_for(entry.size, COPY_PART)
    source = {"x-amz-copy-source": source_of(origin.name, origin.path(entry.key))}
    now = origin.headers(entry.key)
    if entry.etag is not None:
        source["x-amz-copy-source-if-match"] = f'"{entry.etag}"'
        if (now.get("etag") or "").strip('"') != entry.etag:
            raise ConflictError("it has changed since it was listed", where=origin.url(entry.key))
    kept = {
        name: value
        for name, value in now.items()
        if name.lower() in ("content-type", "cache-control") or name.lower().startswith("x-amz-meta-")
    }
    upload_id = _begin(bucket, key, kept)
    path = bucket.path(key)

    def one(number: int) -> str | RhError:
        start = number * part
        headers = {**source, "x-amz-copy-source-range": f"bytes={start}-{min(start + part, entry.size) - 1}"}
        query = [("partNumber", str(number + 1)), ("uploadId", upload_id)]
        try:
            answer = bucket.ask("copy", "PUT", key, path, query=query, headers=headers)
            raise_inner(bucket, key, answer)
        except RhError as error:
            return error
        return fields(parse_xml(answer.data)).get("ETag", "").strip('"')

    try:
        tags: list[str] = []
        for outcome in spread(one, range(-(-entry.size // part)), workers=8):
            if isinstance(outcome, RhError):
                raise outcome
            tags.append(outcome)
        return finish(bucket, key, upload_id, tags, entry.size, ANY)
    except ConflictError as error:
        abort(bucket, key, upload_id)
        raise ConflictError("it has changed since it was listed", where=origin.url(entry.key)) from error
    except BaseException:
        abort(bucket, key, upload_id)
        raise
