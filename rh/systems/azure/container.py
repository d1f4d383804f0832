"""One container of Azure: the names it can keep, and its listings, whose order is its own."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from rh.errors import NameClashError, RhError, UnavailableError
from rh.systems.azure.wire import AzureIdentity, AzureWire, error_of
from rh.systems.base import Settings
from rh.systems.objects.failures import Failure
from rh.systems.objects.names import UNKEPT
from rh.systems.objects.pages import Pages
from rh.systems.objects.root import Root, StorePlace
from rh.systems.objects.shared import flag, shared
from rh.systems.objects.wire import ca_bundle, fields, parse_xml, seconds
from rh.types import Entry, Location

__all__ = ["PARTS", "AzurePlace", "Container", "in_byte_order", "place_of"]

PAGE = 5000
_SURE = 100
"""Who has come this far wants the next page as well."""
_SAMPLE = 8
"""How many blobs are asked whether they are versions, before all are."""
PARTS = "rh_parts_md5"
"""The metadata of a blob that came in blocks of one size: that size in bytes, and the MD5 of their MD5s."""
_PARTS = re.compile(r"(\d{1,12})-([0-9a-f]{32})")
_HIGH = re.compile("[\ue000-\U0010ffff]")

Identify = Callable[[Settings], AzureIdentity]


class AzurePlace(StorePlace):
    """One account with one identity."""

    wire: AzureWire

    def __init__(self, settings: Settings, identify: Identify) -> None:
        super().__init__(settings)
        self.identity = identify(settings)
        self.wire = AzureWire(
            self.identity, system=self.system, timeout_s=self.timeout_s, ca_bundle=ca_bundle(settings)
        )
        self.delegation: tuple[datetime, Any] | None = None
        """The key that signs URLs for a login, and until when."""
        self.hierarchical: bool | None = None
        """Whether the account keeps a tree, once that is known: it lists in the order of a tree then."""


def place_of(settings: Settings, identify: Identify) -> AzurePlace:
    """The place these settings and the environment of this moment mean, one per process."""
    return shared(AzurePlace, settings, ("AZURE_",), lambda: AzurePlace(settings, identify))


class Container(Root[AzurePlace]):
    """A container and a prefix in it, on the connections of its place."""

    noun = "container"
    example = "az://container/key"
    mark = "x-ms-meta-rh_write"
    range_header = "x-ms-range"
    version_query = "versionid"
    version_header = "x-ms-version-id"

    def __init__(self, location: Location, settings: Settings, identify: Identify, url: Callable[[str], str]) -> None:
        super().__init__(location, settings, url, lambda named: place_of(named, identify))

    def path(self, key: str) -> str:
        path = super().path(key)
        if UNKEPT["azure"].search(path):
            raise NameClashError("Azure cannot keep this name as it is", where=self.url(key))
        return path

    def _error(self, failure: Failure, where: str) -> RhError:
        return error_of(failure, where=where, container=self.name, system=self.place.system)

    def _check(self, headers: Mapping[str, str]) -> str | None:
        md5 = headers.get("x-ms-blob-content-md5" if "content-range" in headers else "content-md5")
        return _check(md5, headers.get(f"x-ms-meta-{PARTS}"))

    def is_directory(self, headers: Mapping[str, str]) -> bool:
        return bool(flag(headers.get("x-ms-meta-hdi_isfolder")))

    def versions_of(self, entries: Sequence[Entry]) -> Mapping[str, str]:
        """`Versioned.versions_of`: a request for each entry, unless none of some is a version.

        Whether an account keeps versions, its blobs alone tell.
        """
        some = entries[:: len(entries) // _SAMPLE + 1]
        found = self.versions(some)
        if not found or len(some) == len(entries):
            return found
        return {**found, **self.versions(entry for entry in entries if entry not in some)}

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

        def ask(last: Element | None) -> Element | None:
            marker = last.findtext("NextMarker") if last is not None else None
            if last is not None and not marker:
                return None
            tree = parse_xml(self.ask("list", "GET", query=[*query, ("marker", marker)] if marker else query).data)
            if marker and tree.findtext("NextMarker") == marker:
                raise UnavailableError("the listing does not go on", where=self.url(prefix))
            return tree

        pages = Pages(ask)
        for tree in pages:
            for number, item in enumerate(tree.iterfind("./Blobs/*")):
                if number == _SURE:
                    pages.go_on()
                yield item

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
                yield Entry(
                    key, size, etag=etag, modified=modified, check=_check(told.get("Content-MD5"), marked.get(PARTS))
                )


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


def _check(md5: str | None, parts: str | None) -> str | None:
    """The checksum that the store tells of a blob, or else the one that was stored with its blocks."""
    if md5:
        return f"md5:{base64.b64decode(md5).hex()}"
    found = _PARTS.fullmatch(parts or "")
    return f"md5-{found.group(1)}:{found.group(2)}" if found else None
