"""One container, seen from a prefix: exact names, single requests, and what the answers mean."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import groupby
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from rh.errors import (
    ConflictError,
    DeadlineError,
    ExistsError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnavailableError,
)
from rh.systems.azure.parts import conditions
from rh.systems.azure.wire import AzureIdentity, AzureWire, NoContainerError, error_of
from rh.systems.base import Body, Settings
from rh.systems.objects.failures import Failure, is_plain
from rh.systems.objects.shared import Attempt, Attempts, flag, shared
from rh.systems.objects.wire import Answer, WireBody, ca_bundle, deadline_of, fields, parse_xml
from rh.types import ABSENT, ANY, Condition, Entry, Location, Match, Span

__all__ = ["AzurePlace", "Container", "in_byte_order", "is_directory", "seconds"]

PAGE = 5000
_HIGH = re.compile("[\ue000-\U0010ffff]")

_UNKEPT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\\]|(?:^|/)\.{1,2}(?:/|$)")

Identify = Callable[[Settings], AzureIdentity]


class AzurePlace:
    """One account with one identity."""

    def __init__(self, settings: Settings, identify: Identify) -> None:
        self.settings = settings
        self.pid = os.getpid()
        self.system = str(settings.get("name") or "azure")
        self.timeout_s = deadline_of(settings)
        self.identity = identify(settings)
        self.wire = AzureWire(
            self.identity, system=self.system, timeout_s=self.timeout_s, ca_bundle=ca_bundle(settings)
        )
        self.attempts = Attempts()
        self.delegation: tuple[datetime, Any] | None = None
        """The key that signs URLs for a login, and until when."""
        self.hierarchical: bool | None = None
        """Whether the account keeps a tree, once that is known: it lists in the order of a tree then."""

    def close(self) -> None:
        """Drop idle connections."""
        self.wire.close()


class Container:
    """A container and a prefix in it, on the connections of its place."""

    def __init__(self, location: Location, settings: Settings, identify: Identify, url: Callable[[str], str]) -> None:
        self.location = location
        self.settings = settings
        self._url = url
        self.name, _, prefix = location.path.strip("/").partition("/")
        if not self.name:
            raise InvalidError("a container is needed", where=f"{location.system}://", hint="az://container/key")
        self.prefix = f"{prefix}/" if prefix else ""
        self._identify = identify
        self._kept: AzurePlace | None = None

    def url(self, key: str = "") -> str:
        """The place of a key."""
        return self._url(key)

    @property
    def place(self) -> AzurePlace:
        """The account; in a forked process a fresh one."""
        place = self._kept
        if place is None or place.pid != os.getpid():
            settings = {**self.settings, "name": self.location.system}
            place = self._kept = shared(AzurePlace, settings, ("AZURE_",), lambda: AzurePlace(settings, self._identify))
        return place

    def close(self) -> None:
        """Drop idle connections."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def path(self, key: str) -> str:
        """The full name of a key, or why it cannot be one."""
        if not key:
            raise InvalidError("an empty key names nothing", where=self.url())
        path = self.prefix + key
        if not path.isascii():
            try:
                path.encode()
            except UnicodeEncodeError as error:
                raise NameClashError("blob names are text; this one is not valid UTF-8", where=ascii(key)) from error
        if _UNKEPT.search(path):
            # The service resolves dots as URLs do, turns backslashes round, and cannot list control characters.
            raise NameClashError("Azure cannot keep this name as it is", where=self.url(key))
        return path

    def failed(self, failure: Failure, key: str) -> RhError:
        """The error for a failure at a key."""
        place = self.place
        if failure.status == 400 and not failure.code and key and not is_plain(self.prefix + key):
            return NameClashError("the store refuses this name", where=self.url(key))
        return error_of(failure, where=self.url(key), container=self.name, system=place.system)

    def ask(
        self, verb: str, method: str, key: str = "", *, query: Sequence[tuple[str, str]] = (), **more: Any
    ) -> Answer:
        """One request about a blob, or without a key about the container."""
        return self.place.wire.request(
            verb,
            method,
            self.name,
            self.path(key) if key else None,
            query=query,
            where=self.url(key),
            error=lambda failure: self.failed(failure, key),
            **more,
        )

    def entry(self, key: str, headers: Mapping[str, str], size: int | None = None) -> Entry:
        """The entry that the headers of an answer describe."""
        length = headers.get("content-length")
        md5 = headers.get("content-md5")
        ranged = headers.get("content-range")
        if ranged:
            length, md5 = ranged.rpartition("/")[2], headers.get("x-ms-blob-content-md5")
        if size is None:
            if length is None or not length.isdigit():
                raise UnavailableError("the store tells no size", where=self.url(key))
            size = int(length)
        etag = (headers.get("etag") or "").strip('"') or None
        return Entry(key, size, etag=etag, modified=seconds(headers.get("last-modified")), check=_check(md5))

    def head(self, key: str) -> Entry:
        """The entry under a key; directories of other tools are none."""
        headers = self.ask("head", "HEAD", key).headers
        entry = self.entry(key, headers)
        if is_directory(headers) or (key.endswith("/") and not entry.size):
            raise NotFoundError("this is an empty directory, not a file", where=self.url(key))
        return entry

    def read(self, key: str, span: Span | None) -> Body | None:
        """Begin to read a blob or a span of it that is not empty; `None` when it begins beyond the end."""
        headers = {} if span is None else {"x-ms-range": f"bytes={span[0]}-{span[1] - 1}"}
        answer = self.ask("read", "GET", key, headers=headers, stream=True, accept=(416,))
        if answer.status == 416:
            return None
        assert answer.stream is not None
        entry = self.entry(key, answer.headers)
        want = (0, entry.size) if span is None else (span[0], min(span[1], entry.size))
        if span is not None and answer.headers.get("content-range") != f"bytes {want[0]}-{want[1] - 1}/{entry.size}":
            answer.stream.close()
            raise IntegrityError("the store answered another range", where=self.url(key), expected=str(want))
        return WireBody(self.place.system, answer.stream, entry, want[1] - want[0], self.url(key))

    def conditionally(self, key: str, when: Condition, md5: str, send: Callable[[Mapping[str, str]], Answer]) -> Answer:
        """Send a write under its condition; a success whose answer was lost earlier is recognised by its mark."""
        if when is ANY:
            return send({})
        slot = (self.name, self.path(key), when.etag if isinstance(when, Match) else "absent")
        attempts = self.place.attempts
        attempt, again = attempts.begin(slot, md5)
        try:
            answer = send({**conditions(when), "x-ms-meta-rh_write": attempt.mark})
        except (UnavailableError, DeadlineError):
            attempts.settle(slot, attempt)
            raise
        except (ConflictError, NotFoundError) as error:
            attempts.settle(slot)
            ours = self._ours(key, attempt) if again else None
            if ours is not None:
                return ours
            raise self.broken(error, key, when) from None
        attempts.settle(slot)
        return answer

    def _ours(self, key: str, attempt: Attempt) -> Answer | None:
        try:
            answer = self.ask("head", "HEAD", key)
        except NotFoundError:
            return None
        return answer if answer.headers.get("x-ms-meta-rh_write") == attempt.mark else None

    def broken(self, error: RhError, key: str, when: Condition) -> RhError:
        """The error for a precondition that does not hold."""
        if when is ANY or isinstance(error, NoContainerError) or (isinstance(error, NotFoundError) and when is ABSENT):
            return error
        if when is ABSENT:
            return ExistsError("there is something already", where=self.url(key))
        return ConflictError("it has changed since", where=self.url(key))

    # Listing

    def is_tree(self) -> bool:
        """Whether the account has a hierarchical name space (asked once, where accounts may have one)."""
        place = self.place
        if place.hierarchical is None:
            place.hierarchical = False
            if place.wire.netloc.endswith((".core.windows.net", ".core.chinacloudapi.cn", ".core.usgovcloudapi.net")):
                try:
                    answer = self.ask("list", "GET", query=[("restype", "account"), ("comp", "properties")])
                except RhError as error:
                    if error.retryable:
                        place.hierarchical = None
                        raise
                else:
                    place.hierarchical = bool(flag(answer.headers.get("x-ms-is-hns-enabled")))
        return bool(place.hierarchical)

    def pages(self, prefix: str, *, delimiter: bool = False, include: str = "metadata") -> Iterator[Element]:
        """The items of a listing as the service gives them: `Blob` and `BlobPrefix` elements."""
        query = [
            ("restype", "container"),
            ("comp", "list"),
            ("prefix", self.prefix + prefix),
            ("maxresults", str(PAGE)),
            ("include", include),
        ]
        if delimiter:
            query.append(("delimiter", "/"))
        marker = ""
        while True:
            more = [("marker", marker)] if marker else []
            tree = parse_xml(self.ask("list", "GET", query=[*query, *more]).data)
            yield from tree.find("Blobs") or ()
            fresh = tree.findtext("NextMarker") or ""
            if not fresh:
                return
            if fresh == marker:
                raise UnavailableError("the listing does not go on", where=self.url(prefix))
            marker = fresh

    def entries(self, prefix: str, *, delimiter: bool) -> Iterator[Entry]:
        """Entries as the service orders them; keys of directories end with a slash."""
        cut = len(self.prefix)
        for item in self.pages(prefix, delimiter=delimiter):
            name = item.find("Name")
            if name is None or name.text is None:
                continue
            text = unquote(name.text) if (name.get("Encoded") or "").lower() == "true" else name.text
            key = text[cut:]
            if item.tag == "BlobPrefix":
                yield Entry(key, 0, "dir")
                continue
            properties, metadata = item.find("Properties"), item.find("Metadata")
            told = fields(properties) if properties is not None else {}
            size = int(told.get("Content-Length") or 0)
            modified = seconds(told.get("Last-Modified"))
            marked = {k.lower(): v for k, v in fields(metadata).items()} if metadata is not None else {}
            if flag(marked.get("hdi_isfolder")) or told.get("ResourceType") == "directory":
                yield Entry(key.rstrip("/") + "/" if key else "", 0, "dir", modified=modified)
            elif key.endswith("/") and not size:
                yield Entry(key, 0, "dir", modified=modified)
            else:
                etag = told.get("Etag", "").strip('"') or None
                yield Entry(key, size, etag=etag, modified=modified, check=_check(told.get("Content-MD5")))


def in_byte_order(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Entries in the order of their keys' UTF-8 bytes, from the service's.

    The service may order by UTF-16 units. The two orders differ only between keys that have a character from U+E000 on
    where they first differ, and such keys stand together: each run of them is sorted.
    """

    def run(entry: Entry) -> tuple[str, bool]:
        match = _HIGH.search(entry.key)
        return (entry.key[: match.start()], True) if match else (entry.key, False)

    for (_, high), group in groupby(entries, key=run):
        if high:
            yield from sorted(group, key=lambda entry: entry.key.encode())
        else:
            yield from group


def is_directory(headers: Mapping[str, str]) -> bool:
    """Whether a blob stands for a directory."""
    return bool(flag(headers.get("x-ms-meta-hdi_isfolder")))


def seconds(text: str | None) -> float | None:
    """Seconds since the epoch from an HTTP date."""
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except ValueError:
        return None


def _check(md5: str | None) -> str | None:
    return f"md5:{base64.b64decode(md5).hex()}" if md5 else None
