"""Azure Blob Storage: a container, or a prefix in one.

A root is `container/prefix`. Settings (all optional): `account`, `endpoint_url`, `connection_string_file`,
`anonymous`, `ca_bundle`. Who we are comes from a connection string (that file, or `AZURE_STORAGE_CONNECTION_STRING`),
an account with a key or a signature (`AZURE_STORAGE_ACCOUNT` with `AZURE_STORAGE_KEY` or `AZURE_STORAGE_SAS_TOKEN`), or
azure-identity (`az login`, managed identities, service principals).

Every write carries its MD5, which the service checks and keeps. Directories that other tools left (empty blobs under
`name/`, or marked `hdi_isfolder`) are listed as empty directories; none is made here. A listing `after` a key is read
from its start, since the service cannot begin in the middle. Blocks of abandoned uploads are swept where no blob is
under their key; elsewhere Azure drops them within a week.
"""

from __future__ import annotations

import builtins
import heapq
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote

from rh import plugins
from rh.digest import contradict
from rh.errors import (
    ConflictError,
    DeadlineError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from rh.systems.abilities import Upload
from rh.systems.azure.container import Container, in_byte_order, place_of
from rh.systems.azure.parts import LIMITS, AzureUpload, checked, discard
from rh.systems.azure.wire import (
    VERSION,
    AzureIdentity,
    clean_sas,
    connection_string,
    error_of,
    quote_name,
)
from rh.systems.base import Body, Bytes, Settings, System
from rh.systems.objects.failures import NoBucketError, scrub
from rh.systems.objects.http import parse_endpoint
from rh.systems.objects.parts import whole_or_in_parts
from rh.systems.objects.shared import flag
from rh.systems.objects.spread import spread
from rh.systems.objects.system import BulkStore, hidden, lasting
from rh.systems.objects.wire import Answer, Asked, fields, parse_xml, seconds
from rh.types import ANY, Condition, Entry, Link, Location, SignedRequest, Span

__all__ = ["AzureSystem"]

SIGNED_LIMIT = 5000 << 20
"""Largest blob in bytes that Azure takes in one request."""
SCOPE = "https://storage.azure.com/.default"
_TOKEN_MARGIN_S = 300.0
_KEYLESS = "Azure without a key"
_PAGE = 1000


class AzureSystem(BulkStore):
    """A container, or a prefix in one."""

    kind: ClassVar[str] = "azure"
    takes: ClassVar[frozenset[str] | None] = frozenset(
        {"account", "endpoint_url", "connection_string_file", "anonymous", "ca_bundle"}
    )
    store: ClassVar[str] = "Azure"

    def __init__(self, location: Location, settings: Settings) -> None:
        super().__init__(location, settings)
        self.container = Container(location, settings, identify, self.url)

    @classmethod
    def buckets(cls, settings: Settings) -> Iterator[str]:
        """The account's containers."""
        place = place_of(settings, identify)
        where = f"{place.system}://"
        raised = partial(error_of, where=where, container="", system=place.system)
        marker: str | None = ""
        while marker is not None:
            query = [("comp", "list"), ("maxresults", str(_PAGE)), *([("marker", marker)] if marker else [])]
            answer = place.wire.request("buckets", "GET", "", None, where=where, error=raised, query=query)
            tree = parse_xml(answer.data)
            for name in tree.iterfind("Containers/Container/Name"):
                yield name.text or ""
            marker = tree.findtext("NextMarker") or None

    def close(self) -> None:
        self.container.close()

    # Verbs

    def _listing(self, prefix: str, after: str, depth: int | None) -> Iterator[Sequence[Entry]]:
        entries, size = self._in_order(prefix, after, depth), 1
        while page := builtins.list(islice(entries, size)):
            yield page
            # Who asks whether there is anything need not wait for a thousand.
            size = min(2 * size, _PAGE)

    def _in_order(self, prefix: str, after: str, depth: int | None) -> Iterator[Entry]:
        if prefix:
            self.container.path(prefix)
        entries: Iterable[Entry] = self.container.entries(prefix, delimiter=depth == 1)
        if self.container.is_tree():
            entries = sorted(entries, key=lambda entry: entry.key.encode())
        else:
            entries = in_byte_order(entries)
        floor = after.encode("utf-8", "surrogateescape")
        for entry in _directories_in_place(entries, prefix if depth == 1 else None):
            raw = entry.key.encode()
            if raw <= floor or not entry.key or hidden(entry.key):
                continue
            yield entry

    def head(self, key: str) -> Entry:
        return self.container.head(key)

    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:
        return self.container.read(key, span, when)

    def write(
        self,
        key: str,
        data: Bytes | Iterable[Bytes] | Link,
        *,
        size: int | None = None,
        executable: bool | None = None,  # noqa: ARG002 - Azure has no place for it
        when: Condition = ANY,
    ) -> Entry:
        self.container.path(key)
        return whole_or_in_parts(
            self._storable(key, data),
            size,
            when,
            LIMITS,
            self.url(key),
            whole=lambda whole: self._put(key, whole, when),
            begin=partial(AzureUpload.begin, self.container, key),
        )

    def _put(self, key: str, data: Bytes, when: Condition) -> Entry:
        """One blob in one request, checked by the MD5 it comes back with."""
        headers, md5 = _sealed(data)

        def send(extra: Mapping[str, str]) -> Answer:
            return self.container.ask("write", "PUT", key, headers={**headers, **extra}, body=data, payload=True)

        return self._stored(key, data, md5, self.container.conditionally(key, when, md5, send))

    def _stored(self, key: str, data: Bytes, md5: str, answer: Answer) -> Entry:
        """The entry of what was put, once the store's answer has been held against what was sent."""
        got = answer.headers.get("content-md5")
        if got is not None and got != md5:
            self._remove(key, {"if-match": answer.headers.get("etag", "*")})
            raise IntegrityError(
                "the store received other bytes than were sent", where=self.url(key), expected=md5, got=got
            )
        entry = self.container.entry(key, answer.headers, len(data))
        return entry if entry.check else self.head(key)

    def delete(self, keys: Sequence[str]) -> None:
        for error in spread(self._delete, dict.fromkeys(keys)):
            if error is not None:
                raise error

    def _delete(self, key: str) -> RhError | None:
        try:
            self._remove(key)
            if key.endswith("/") and key.strip("/"):
                bare = key.rstrip("/")
                answer = self.container.ask("head", "HEAD", bare, accept=(404,))
                if answer.status == 200 and self.container.is_directory(answer.headers):
                    self._remove(bare)
        except RhError as error:
            return error
        return None

    def _remove(self, key: str, headers: Mapping[str, str] | None = None) -> None:
        try:
            self.container.ask("delete", "DELETE", key, headers=headers)
        except NoBucketError:
            raise
        except NotFoundError:
            return

    # Bulk

    @property
    def root(self) -> Container:
        return self.container

    def _putting(self, key: str, data: Bytes) -> tuple[Asked, Callable[[Answer], Entry]]:
        headers, md5 = _sealed(data)
        asked = self.container.asked("write", "PUT", key, headers=headers, body=data)
        return asked, lambda answer: self._stored(key, data, md5, answer)

    # Multipart

    def begin(self, key: str, size: int, *, part_size: int, executable: bool | None = None) -> Upload:  # noqa: ARG002
        self.container.path(key)
        return AzureUpload.begin(self.container, key, size, LIMITS.fit(key, size, part_size, self.url(key)))

    def resume(self, key: str, token: str) -> Upload:
        return AzureUpload.resume(self.container, key, token)

    # ServerCopy

    def can_copy_from(self, source: System) -> bool:
        if not isinstance(source, AzureSystem):
            return False
        mine, other = self.container.place.identity, source.container.place.identity
        return (mine.account, mine.endpoint) == (other.account, other.endpoint)

    def _copy(self, source: AzureSystem, entry: Entry, key: str, watch: Callable[[int], None]) -> Entry:
        origin = source.container
        headers = {"x-ms-copy-source": origin.place.wire.source_url(origin.name, origin.path(entry.key))}
        if entry.etag is not None:
            headers["x-ms-source-if-match"] = f'"{entry.etag}"'
        try:
            answer = self.container.ask("copy", "PUT", key, headers=headers)
        except ConflictError as error:
            raise ConflictError("it has changed since it was listed", where=origin.url(entry.key)) from error
        except NotFoundError as error:
            raise NotFoundError(error.message, where=origin.url(entry.key), hint=error.hint) from error
        if answer.headers.get("x-ms-copy-status") == "pending":
            try:
                self._copied(key, watch)
            except BaseException:
                self._abort_copy(key, answer.headers.get("x-ms-copy-id", ""))
                raise
        made = self.head(key)
        if made.size != entry.size or contradict(entry.check, made.check):
            raise IntegrityError(
                "what is there is not the copy that was made",
                where=self.url(key),
                expected=entry.check or f"{entry.size} bytes",
                got=made.check or f"{made.size} bytes",
            )
        return made

    def _copied(self, key: str, watch: Callable[[int], None]) -> None:
        """Wait for a copy that the service makes in its own time: it may take hours, as long as it goes on."""
        pause, there, patience_s = 0.05, 0, self.container.place.timeout_s
        deadline = time.monotonic() + patience_s
        while True:
            told = self.container.ask("head", "HEAD", key).headers
            status = told.get("x-ms-copy-status")
            if status in (None, "success"):
                return
            if status != "pending":
                raise UnavailableError(f"the service gave the copy up: {status}", where=self.url(key))
            done = told.get("x-ms-copy-progress", "").partition("/")[0]
            if done.isdigit() and int(done) > there:
                there, deadline = int(done), time.monotonic() + patience_s
            elif time.monotonic() > deadline:
                raise DeadlineError("the service does not go on with the copy", where=self.url(key))
            watch(there)
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _abort_copy(self, key: str, copy_id: str) -> None:
        """Stop a copy. The service leaves an empty blob of it, which goes unless somebody has written there since."""
        query = [("comp", "copy"), ("copyid", copy_id)]
        with suppress(RhError):  # the copy may have come to its end
            self.container.ask("copy", "PUT", key, query=query, headers={"x-ms-copy-action": "abort"})
        with suppress(RhError):
            left = self.container.ask("head", "HEAD", key).headers
            if left.get("x-ms-copy-id") == copy_id and left.get("x-ms-copy-status") in ("aborted", "failed"):
                self._remove(key, {"if-match": left["etag"]})

    # Versioned

    def versions_of(self, entries: Sequence[Entry]) -> Mapping[str, str]:
        return self.container.versions_of(entries)

    def pinned(self, versions: Mapping[str, str]) -> AzureSystem:
        other = type(self)(self.location, self.settings)
        other.container.pins = versions
        return other

    # Signing

    def sign_read(self, key: str, *, expires_s: int = 3600) -> SignedRequest:
        return SignedRequest("GET", self._signed(key, "r", expires_s, self.container.pins.get(key)))

    def sign_write(self, key: str, size: int, *, expires_s: int = 3600) -> SignedRequest:
        if size > SIGNED_LIMIT:
            raise InvalidError("Azure takes at most 5,000 MiB in one request", where=self.url(key), hint="sign parts")
        headers = {"x-ms-blob-type": "BlockBlob", "content-type": "application/octet-stream", "x-ms-version": VERSION}
        return SignedRequest("PUT", self._signed(key, "cw", expires_s), headers)

    def sign_part(self, upload: Upload, number: int, size: int, *, expires_s: int = 3600) -> SignedRequest:  # noqa: ARG002
        if not isinstance(upload, AzureUpload):
            raise InvalidError("this upload is not one of Azure", where=self.url())
        block = quote_name(upload.block(number)).replace("/", "%2F")
        url = f"{self._signed(upload.key, 'cw', expires_s)}&comp=block&blockid={block}"
        headers = {"content-type": "application/octet-stream", "x-ms-version": VERSION}
        return SignedRequest("PUT", url, headers)

    def _signed(self, key: str, permission: str, expires_s: int, version: str | None = None) -> str:
        """A URL with a shared access signature for one blob, or for one version of it."""
        lasting(expires_s, self.url(key))
        container = self.container
        who, path = container.place.identity, container.path(key)
        sdk = plugins.need("azure.storage.blob", purpose="signed URLs of Azure")
        expiry = datetime.now(UTC) + timedelta(seconds=expires_s)
        if who.key is not None:
            secret: dict[str, Any] = {"account_key": who.key}
        elif who.token is not None:
            secret = {"user_delegation_key": self._delegation_key(sdk, expiry)}
        else:
            raise UnauthenticatedError(
                "a signature or anonymous access cannot sign",
                where=self.url(key),
                hint="use an account key or az login",
            )
        if version is not None:
            secret["version_id"] = version
        sas = sdk.generate_blob_sas(who.account, container.name, path, permission=permission, expiry=expiry, **secret)
        wire = container.place.wire
        which = "" if version is None else f"{container.version_query}={quote(version, safe='')}&"
        return f"{wire.scheme}://{wire.netloc}{wire.path(container.name, path)}?{which}{sas}"

    def _delegation_key(self, sdk: Any, expiry: datetime) -> Any:
        """The key that signs for a login without an account key; one lasts for many URLs."""
        place = self.container.place
        held = place.delegation
        if held is not None and held[0] >= expiry:
            return held[1]
        core = plugins.need("azure.core.exceptions")
        lasting = min(expiry + timedelta(hours=11), datetime.now(UTC) + timedelta(days=7))
        service = sdk.BlobServiceClient(
            place.wire.endpoint,
            credential=plugins.need("azure.identity").DefaultAzureCredential(),
            retry_total=0,
            connection_timeout=place.timeout_s,
            read_timeout=place.timeout_s,
        )
        try:
            key = service.get_user_delegation_key(datetime.now(UTC) - timedelta(minutes=5), lasting)
        except core.AzureError as error:
            raise UnauthenticatedError(
                f"Azure gives no key to sign with: {scrub(str(error))[:300]}",
                where=self.url(),
                hint="the role Storage Blob Delegator gives it",
            ) from None
        finally:
            service.close()
        place.delegation = (lasting, key)
        return key

    # Sweeping

    def sweep(self, *, older_than_s: float = 0.0) -> int:
        """Drop blocks that wait under names without a blob, and probes of ours that are so old."""
        swept, cut = 0, len(self.container.prefix)
        for item in self.container.pages("", include="uncommittedblobs"):
            name, properties = item.find("Name"), item.find("Properties")
            told = fields(properties) if properties is not None else {}
            # What was committed has an MD5, or bytes; a HEAD tells the rest.
            if name is None or not name.text or told.get("Content-MD5") or int(told.get("Content-Length") or 0):
                continue
            key = (unquote(name.text) if name.get("Encoded") == "true" else name.text)[cut:]
            begun = seconds(told.get("Last-Modified") or told.get("Creation-Time"))
            if begun is not None and begun > time.time() - older_than_s:
                continue
            if self.container.ask("head", "HEAD", key, accept=(404,)).status == 404:
                swept += discard(self.container, key)
        return swept


def _sealed(data: Bytes) -> tuple[dict[str, str], str]:
    """The headers of a blob that comes in one request, and the MD5 to hold against the store's answer."""
    headers, md5 = checked(data)
    return {**headers, "x-ms-blob-type": "BlockBlob", "content-type": "application/octet-stream"}, md5


def _directories_in_place(entries: Iterable[Entry], parent: str | None) -> Iterator[Entry]:
    """Entries in key order, once each: empty directories where their key belongs, none of those that have members.

    A marker named `a` is listed before `a-b`, the directory `a/` it stands for comes after. `parent` is the directory
    that is listed, if one is: all others are there because they have members.
    """
    waiting: builtins.list[bytes] = []
    directories: dict[bytes, Entry] = {}
    last = b""

    def due(before: bytes | None) -> Iterator[Entry]:
        nonlocal last
        while waiting and (before is None or waiting[0] <= before):
            raw = heapq.heappop(waiting)
            entry = directories.pop(raw)
            member = waiting[0] if waiting and (before is None or waiting[0] <= before) else before
            holds = member is not None and member.startswith(raw) and (parent is None or entry.key == parent)
            if not holds:
                last = raw
                yield entry

    for entry in entries:
        raw = entry.key.encode()
        if entry.kind == "dir":
            if raw not in directories and raw > last:
                directories[raw] = entry
                heapq.heappush(waiting, raw)
            continue
        yield from due(raw)
        if raw <= last:
            raise UnsupportedError("the store does not list in key order", where=entry.key)
        last = raw
        yield entry
    yield from due(None)


def identify(settings: Settings) -> AzureIdentity:
    """Who we are and where, from the settings, the environment, or azure-identity.

    Raises:
        UnauthenticatedError: no way to prove who we are was found; the hint says what there is.
        InvalidError: what was found is malformed, or no account is named.
        MissingExtraError: there is no account and no key, nor azure-identity.

    """
    name = str(settings.get("name") or "azure")
    account, endpoint = settings.get("account"), settings.get("endpoint_url")
    text, where = os.environ.get("AZURE_STORAGE_CONNECTION_STRING"), "AZURE_STORAGE_CONNECTION_STRING"
    if file := settings.get("connection_string_file"):
        where = str(Path(str(file)).expanduser())
        try:
            text = Path(where).read_text("utf-8")
        except OSError as error:
            raise InvalidError(
                f"the connection string cannot be read: {error.strerror}",
                where=where,
                hint=f"systems.{name}.connection_string_file",
            ) from error
    key = os.environ.get("AZURE_STORAGE_KEY") or os.environ.get("AZURE_STORAGE_ACCOUNT_KEY")
    sas = os.environ.get("AZURE_STORAGE_SAS_TOKEN")
    told_account = os.environ.get("AZURE_STORAGE_ACCOUNT") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if account and told_account and account != told_account:
        key = sas = None  # they are another account's
    if text and not (settings.get("account") and not file and _other_account(text, where, str(account))):
        parts = connection_string(text, where)
        told_account = parts.get("accountname") or told_account
        key, sas = parts.get("accountkey"), parts.get("sharedaccesssignature")
        scheme, suffix = parts.get("defaultendpointsprotocol", "https"), parts.get("endpointsuffix", "core.windows.net")
        endpoint = endpoint or parts.get("blobendpoint") or f"{scheme}://{told_account}.blob.{suffix}"
    account = str(account or told_account or _account_in(str(endpoint or "")))
    if not account:
        if not (key or sas or flag(settings.get("anonymous"))):
            plugins.need("azure.identity", purpose=_KEYLESS)  # whoever has nothing yet begins with that
        raise InvalidError(
            "no storage account is named", where=name, hint=f'systems.{name}.account = "…", or AZURE_STORAGE_ACCOUNT'
        )
    endpoint = str(endpoint or f"https://{account}.blob.core.windows.net").rstrip("/")
    if flag(settings.get("anonymous")):
        return AzureIdentity(account, endpoint)
    if key:
        return AzureIdentity(account, endpoint, key=key)
    place = parse_endpoint(endpoint)
    if place.scheme == "http" and not place.is_loopback:
        raise InvalidError(
            "credentials would travel in the clear", where=endpoint, hint="https:// in endpoint_url, or an account key"
        )
    if sas:
        return AzureIdentity(account, endpoint, sas=clean_sas(sas))
    return AzureIdentity(account, endpoint, token=_tokens(name))


def _other_account(text: str, where: str, account: str) -> bool:
    parts = connection_string(text, where)
    told = parts.get("accountname") or _account_in(parts.get("blobendpoint", ""))
    return bool(told) and told != account


def _account_in(endpoint: str) -> str:
    host = endpoint.partition("://")[2].partition("/")[0]
    return host.partition(".")[0] if ".blob." in host else ""


def _tokens(name: str) -> Callable[[], tuple[str, float]]:
    """Tokens from azure-identity, each used until shortly before it expires."""
    lock = threading.Lock()
    held: builtins.list[Any] = [None, ("", 0.0)]

    def current() -> tuple[str, float]:
        with lock:
            if held[1][1] - _TOKEN_MARGIN_S < time.time():
                problems = plugins.need("azure.core.exceptions")
                if held[0] is None:
                    held[0] = plugins.need("azure.identity", purpose=_KEYLESS).DefaultAzureCredential()
                try:
                    token = held[0].get_token(SCOPE)
                except problems.AzureError as error:
                    raise UnauthenticatedError(
                        f"no Azure credentials: {scrub(str(error)).splitlines()[0][:300]}",
                        where=name,
                        hint=f"az login, AZURE_STORAGE_CONNECTION_STRING, or systems.{name}.anonymous = true",
                    ) from None
                held[1] = (token.token, float(token.expires_on))
            found: tuple[str, float] = held[1]
            return found

    return current
