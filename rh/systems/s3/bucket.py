"""One bucket, seen from a prefix: exact keys, single requests, and what the answers mean.

`rh.systems.s3` builds the verbs of a system from it, `rh.systems.s3.parts` uploads and large copies.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from rh import observe
from rh.errors import (
    AccessError,
    ConflictError,
    DeadlineError,
    ExistsError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnavailableError,
    UnsupportedError,
)
from rh.systems.base import HIDDEN, Body, Bytes, Settings
from rh.systems.objects.failures import Failure, is_plain
from rh.systems.objects.shared import Attempt
from rh.systems.objects.spread import spread
from rh.systems.objects.wire import Answer, WireBody, fields, parse_xml
from rh.systems.s3.place import Identity, Place, place_of, seconds, unsupported
from rh.systems.s3.sign import quote_key
from rh.systems.s3.wire import NoBucketError, error_of
from rh.types import ABSENT, ANY, Condition, Entry, Location, Match, Span

__all__ = ["BATCH", "MD5", "PROBE", "Bucket", "source_of"]

BATCH = 1000
"""Keys deleted in one request, and listed in one page."""
PROBE = f"{HIDDEN}probe-"
MD5 = re.compile(r"[0-9a-f]{32}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\ufffe\uffff]")
_WRONG = '"00000000000000000000000000000000"'


def source_of(bucket: str, path: str) -> str:
    """The value of `x-amz-copy-source` for an object."""
    return f"/{quote_key(bucket)}/{quote_key(path)}"


class Bucket:
    """A bucket and a prefix in it, on the connections of its place."""

    def __init__(self, location: Location, settings: Settings, identity: Identity, url: Callable[[str], str]) -> None:
        self.location = location
        self.settings = settings
        self.url = url
        self.name, _, prefix = location.path.strip("/").partition("/")
        if not self.name:
            raise InvalidError("a bucket is needed", where=f"{location.system}://", hint="s3://bucket/key")
        if self.name.endswith("--x-s3"):
            raise UnsupportedError(
                "directory buckets (S3 Express) speak another protocol", where=f"{location.system}://"
            )
        self.prefix = f"{prefix}/" if prefix else ""
        self._identity = identity
        self._kept: Place | None = None

    @property
    def place(self) -> Place:
        """The endpoint; in a forked process a fresh one."""
        place = self._kept
        if place is None or place.pid != os.getpid():
            place = self._kept = place_of({**self.settings, "name": self.location.system}, self._identity)
        return place

    def close(self) -> None:
        """Drop idle connections."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def path(self, key: str) -> str:
        """The full key of a key, or why it cannot be one."""
        if not key:
            raise InvalidError("an empty key names nothing", where=self.url(""))
        path = self.prefix + key
        if not path.isascii():
            try:
                path.encode()
            except UnicodeEncodeError as error:
                raise NameClashError("S3 keys are text; this name is not valid UTF-8", where=ascii(key)) from error
        return path

    def failed(self, failure: Failure, key: str) -> RhError:
        """The error for a failure at a key."""
        if failure.status == 400 and not failure.code and key and not is_plain(self.prefix + key):
            # The answer to a HEAD has no body that would say so.
            return NameClashError("the store refuses this name", where=self.url(key))
        place = self.place
        return error_of(
            failure,
            where=self.url(key),
            bucket=self.name,
            system=self.location.system,
            profile=place.profile,
        )

    def raiser(self, key: str) -> Callable[[Failure], RhError]:
        """`failed` for one key."""
        return lambda failure: self.failed(failure, key)

    def ask(self, verb: str, method: str, key: str = "", path: str | None = None, **more: Any) -> Answer:
        """One request about the object at `path`, or about the bucket; errors name `key`."""
        return self.place.wire.request(
            verb, method, self.name, path, where=self.url(key), error=self.raiser(key), **more
        )

    def check(self, etag: str | None) -> str | None:
        """The checksum an etag is, where it can be trusted to be one (never with AWS: KMS shows in no listing)."""
        place = self.place
        if etag and not place.aws and self.name not in place.opaque and MD5.fullmatch(etag):
            return f"md5:{etag}"
        return None

    def entry(self, key: str, headers: Mapping[str, str]) -> Entry:
        """The entry that the headers of an answer describe."""
        etag = (headers.get("etag") or "").strip('"') or None
        size = headers.get("content-length")
        ranged = headers.get("content-range")
        if ranged:
            size = ranged.rpartition("/")[2]
        if size is None or not size.isdigit():
            raise UnavailableError("the store tells no size", where=self.url(key))
        modified = seconds(headers.get("last-modified") or "")
        return Entry(key, int(size), etag=etag, modified=modified, check=self.check(etag))

    def headers(self, key: str) -> Mapping[str, str]:
        """What the store tells about an object."""
        return self.ask("head", "HEAD", key, self.path(key)).headers

    def read(self, key: str, path: str, span: Span | None) -> Body | None:
        """Begin to read an object or a span of it that is not empty; `None` when it begins beyond the end."""
        headers = {} if span is None else {"range": f"bytes={span[0]}-{span[1] - 1}"}
        answer = self.ask("read", "GET", key, path, headers=headers, stream=True, accept=(416,))
        if answer.status == 416:
            return None
        assert answer.stream is not None
        entry = self.entry(key, answer.headers)
        want = (0, entry.size) if span is None else (span[0], min(span[1], entry.size))
        if span is not None and answer.headers.get("content-range") != f"bytes {want[0]}-{want[1] - 1}/{entry.size}":
            answer.stream.close()
            raise IntegrityError("the store answered another range", where=self.url(key), expected=str(want))
        return WireBody(self.place.system, answer.stream, entry, want[1] - want[0], self.url(key))

    def conditionally(
        self, key: str, path: str, when: Condition, md5: str, send: Callable[[Mapping[str, str]], Answer]
    ) -> Answer:
        """Send a write under its condition; a success whose answer was lost earlier is recognised by its mark."""
        if when is ANY:
            return send({})
        place, name = self.place, when.etag if isinstance(when, Match) else "absent"
        slot = (self.name, path, name)
        attempt, again = place.attempts.begin(slot, md5)
        condition = {"if-none-match": "*"} if when is ABSENT else {"if-match": f'"{name}"'}
        try:
            answer = send({**condition, "x-amz-meta-rh-write": attempt.mark})
        except (UnavailableError, DeadlineError):
            place.attempts.settle(slot, attempt)
            raise
        except (ConflictError, NotFoundError) as error:
            place.attempts.settle(slot)
            ours = self._ours(key, attempt) if again else None
            if ours is not None:
                return ours
            raise self.broken(error, key, when) from None
        place.attempts.settle(slot)
        return answer

    def _ours(self, key: str, attempt: Attempt) -> Answer | None:
        """The object as it is, if it is the one that a lost answer was about."""
        try:
            headers = self.headers(key)
        except NotFoundError:
            return None
        return Answer(200, headers, b"") if headers.get("x-amz-meta-rh-write") == attempt.mark else None

    def broken(self, error: RhError, key: str, when: Condition) -> RhError:
        """The error for a precondition that does not hold."""
        if isinstance(error, NoBucketError) or (isinstance(error, NotFoundError) and when is ABSENT):
            return error
        if when is ABSENT:
            return ExistsError("there is something already", where=self.url(key))
        return ConflictError("it has changed since", where=self.url(key))

    def stored(self, key: str, data: Bytes, etag: str | None, md5: str | None, headers: Mapping[str, str]) -> Entry:
        """The entry of what was put, once the store's answer has been held against what was sent.

        `md5` is `None` where the store itself has checked the bytes.
        """
        place = self.place
        if md5 is None:
            pass
        elif etag is not None and etag != md5 and MD5.fullmatch(etag) and self.name not in place.opaque:
            if "x-amz-server-side-encryption" not in headers:
                headers = self.headers(key)
            current = (headers.get("etag") or "").strip('"')
            if not opaque(headers):
                if current == etag:
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
        modified = seconds(headers.get("last-modified") or "")
        return Entry(key, len(data), etag=etag, modified=modified, check=self.check(etag))

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
        for error in spread(lambda path: self._delete_one(path, paths[path]), single):
            if error is not None:
                raise error

    def _delete_one(self, path: str, key: str) -> RhError | None:
        try:
            self.ask("delete", "DELETE", key, path)
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

    def probe(self) -> dict[str, bool]:
        """Try which preconditions the endpoint keeps, on a hidden object that goes again."""
        key = PROBE + uuid.uuid4().hex
        path = self.path(key)
        source = {"x-amz-copy-source": source_of(self.name, path), "x-amz-copy-source-if-match": _WRONG}
        self.ask("probe", "PUT", key, path, body=b"probe")
        try:
            return {
                "absent": self._keeps(key, path, {"if-none-match": "*"}, b"probe"),
                "match": self._keeps(key, path, {"if-match": _WRONG}, b"probe"),
                "copy": self._keeps(f"{key}-copy", f"{path}-copy", source, b""),
            }
        finally:
            try:
                self.delete([key, f"{key}-copy"])
            except AccessError as error:
                observe.log.warning("%s stays behind: %s", self.url(key), error)

    def _keeps(self, key: str, path: str, headers: Mapping[str, str], body: bytes) -> bool:
        try:
            self.ask("probe", "PUT", key, path, headers=headers, body=body)
        except ConflictError:
            return True
        except (UnsupportedError, InvalidError):
            return False
        return False


def opaque(headers: Mapping[str, str]) -> bool:
    """Whether an object is encrypted in a way that makes its etag no MD5 of its bytes."""
    sse = headers.get("x-amz-server-side-encryption") or ""
    return sse.startswith("aws:kms") or bool(headers.get("x-amz-server-side-encryption-customer-algorithm"))
