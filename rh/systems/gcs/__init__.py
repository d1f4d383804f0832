"""Google Cloud Storage: `gs://bucket/prefix`, over its JSON API.

Settings: `endpoint_url` (or `STORAGE_EMULATOR_HOST`), `anonymous`, `credentials_file`, `impersonate` (a service
account), `project`, `user_project` (who pays at requester-pays buckets), `composite` (large objects in parallel
parts), `timeout_s`.

Etags are generations. Names are exact, in the order of their UTF-8 bytes. The CRC-32C of every write travels with it
and is compared with what the store says it stored; a whole object is checked when it is read, a range cannot be.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

from rh import plugins
from rh.digest import contradict
from rh.errors import (
    ConflictError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
)
from rh.observe import count
from rh.systems.abilities import Multipart, Upload
from rh.systems.base import Body, Bytes, Settings, System
from rh.systems.gcs.errors import LOGIN, refusal
from rh.systems.gcs.json_api import Api, Target
from rh.systems.gcs.listing import listing
from rh.systems.gcs.parts import PART, ComposedUpload, remove
from rh.systems.gcs.payload import Writer, download
from rh.systems.objects.http import parse_endpoint
from rh.systems.objects.shared import flag, shared
from rh.systems.objects.system import StoreSystem, lasting
from rh.systems.objects.wire import ca_bundle, deadline_of, now_of
from rh.types import ABSENT, ANY, Condition, Entry, Link, Location, SignedRequest, Span

__all__ = ["GCSSystem"]

ENDPOINT = "https://storage.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
NAME_LIMIT = 1024

P = TypeVar("P")
T = TypeVar("T")


class _Identity:
    """Who we are: Google credentials, found when first needed, renewed before they expire. Never printed."""

    def __init__(self, credentials_file: str | None, impersonate: str | None, timeout_s: float) -> None:
        self.key = (credentials_file, impersonate, os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"))
        self.project: str | None = None
        self._timeout_s = timeout_s
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._credentials: Any = None
        self._narrow: dict[tuple[str, str, bool], Any] = {}

    def _locked(self) -> threading.RLock:
        if self._pid != os.getpid():
            # Another thread of the parent may have held it when the process forked.
            self._pid, self._lock = os.getpid(), threading.RLock()
        return self._lock

    def credentials(self) -> Any:
        """The credentials, as google-auth has them."""
        if self._credentials is None:
            with self._locked():
                if self._credentials is None:
                    self._credentials = self.asked(self._load)
        return self._credentials

    def _load(self) -> Any:
        path, impersonate, _ = self.key
        if path:
            found = self._from_file(os.path.expanduser(path))
        else:
            with self._request() as request:
                found, self.project = plugins.need("google.auth").default(scopes=[SCOPE], request=request)
        if impersonate:
            impersonated = plugins.need("google.auth.impersonated_credentials")
            found = impersonated.Credentials(found, target_principal=impersonate, target_scopes=[SCOPE])
        return found

    def _from_file(self, path: str) -> Any:
        """A key or a login. Other kinds of files may name programs to run: those are for Google's own variable only."""
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        kind = document.get("type") if isinstance(document, dict) else None
        if kind == "service_account":
            self.project = document.get("project_id")
            service_account = plugins.need("google.oauth2.service_account")
            return service_account.Credentials.from_service_account_info(document, scopes=[SCOPE])
        if kind == "authorized_user":
            login = plugins.need("google.oauth2.credentials")
            return login.Credentials.from_authorized_user_info(document, scopes=[SCOPE])
        raise InvalidError(
            "credentials_file is neither a service account's key nor a login of gcloud",
            where=path,
            hint="for other kinds of credentials set GOOGLE_APPLICATION_CREDENTIALS",
        )

    @contextmanager
    def _request(self) -> Iterator[Callable[..., Any]]:
        """google-auth's way to send a request; it tries again by itself, so nothing below it does."""
        transport = plugins.need("google.auth.transport.urllib3")
        with plugins.need("urllib3").PoolManager(retries=False) as pool:
            yield functools.partial(transport.Request(pool), timeout=self._timeout_s)

    def _refresh(self, credentials: Any) -> None:
        with self._request() as request:
            self.asked(lambda: credentials.refresh(request))

    def asked(self, work: Callable[[], T]) -> T:
        """Run what talks to Google's identity services, with errors of ours."""
        errors = plugins.need("google.auth.exceptions")
        try:
            return work()
        except errors.TransportError as error:
            raise UnavailableError(f"Google's identity service cannot be reached: {_short(error)}") from None
        except errors.RefreshError as error:
            if getattr(error, "retryable", False):
                raise UnavailableError(f"Google's identity service is failing: {_short(error)}") from None
            self._credentials, self._narrow = None, {}  # whoever logs in again goes on in this process
            raise UnauthenticatedError(
                f"Google refused our credentials: {_short(error)}", hint="run `gcloud auth application-default login`"
            ) from None
        except errors.GoogleAuthError as error:
            raise UnauthenticatedError(
                f"there are no usable Google credentials: {_short(error)}", where="gs", hint=LOGIN
            ) from None
        except RhError:
            raise
        except (FileNotFoundError, PermissionError, ValueError) as error:
            # What a malformed file holds does not belong into a message.
            what = type(error).__name__
            raise UnauthenticatedError(
                f"the credentials file cannot be read ({what})", where=self.key[0], hint=LOGIN
            ) from None
        except OSError as error:
            raise UnavailableError(f"Google's identity service cannot be reached: {type(error).__name__}") from None

    def token(self) -> str:
        """A bearer token that is good for minutes."""
        credentials = self.credentials()
        if not credentials.valid:
            with self._locked():
                if not credentials.valid:
                    self._refresh(credentials)
        token: str = credentials.token
        return token

    def narrow_token(self, bucket: str, prefix: str, *, write: bool) -> str:
        """A token for the objects below `bucket/prefix` only, for an hour at most."""
        slot = (bucket, prefix, write)
        with self._locked():
            narrow = self._narrow.get(slot)
            if narrow is None:
                narrow = self._narrow[slot] = self._narrowed(bucket, prefix, write=write)
            if not narrow.valid:
                self._refresh(narrow)
            token: str = narrow.token
        return token

    def _narrowed(self, bucket: str, prefix: str, *, write: bool) -> Any:
        downscoped = plugins.need("google.auth.downscoped")
        start = f"projects/_/buckets/{bucket}/objects/{prefix}".replace("\\", "\\\\").replace("'", "\\'")
        rule = downscoped.AccessBoundaryRule(
            available_resource=f"//storage.googleapis.com/projects/_/buckets/{bucket}",
            available_permissions=["inRole:roles/storage." + ("objectAdmin" if write else "objectViewer")],
            availability_condition=downscoped.AvailabilityCondition(f"resource.name.startsWith('{start}')"),
        )
        boundary = downscoped.CredentialAccessBoundary(rules=[rule])
        return downscoped.Credentials(self.credentials(), boundary)


def _short(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())[:300]


_identities: dict[tuple[Any, ...], _Identity] = {}


def _identity(credentials_file: str | None, impersonate: str | None, timeout_s: float) -> _Identity:
    """One identity for all handles with the same settings: a token is fetched once."""
    fresh = _Identity(credentials_file, impersonate, timeout_s)
    return _identities.setdefault((*fresh.key, timeout_s), fresh)


class _Place:
    """What all handles on one account of one endpoint share."""

    def __init__(self, settings: Settings, system: str) -> None:
        endpoint, emulator = settings.get("endpoint_url"), os.environ.get("STORAGE_EMULATOR_HOST")
        self.endpoint = parse_endpoint(str(endpoint or emulator or ENDPOINT))
        timeout_s = deadline_of(settings)
        file, impersonate = settings.get("credentials_file"), settings.get("impersonate")
        named = bool(file or impersonate)
        anonymous = flag(settings.get("anonymous"))
        if anonymous is None:
            anonymous = bool(emulator) and not endpoint and not named
        if self.endpoint.scheme == "http" and not anonymous:
            if named and not self.endpoint.is_loopback:
                raise InvalidError(
                    "credentials would travel in the clear",
                    where=self.endpoint.url,
                    hint="use https, or anonymous = true",
                )
            anonymous = not named
        self.identity = None if anonymous else _identity(file, impersonate, timeout_s)
        self.user_project: str | None = settings.get("user_project") or None
        self.api = Api(
            self.endpoint,
            timeout_s=timeout_s,
            ca_bundle=ca_bundle(settings),
            token=self.identity.token if self.identity else None,
            user_project=self.user_project,
            system=system,
            extend=_crc32c,
        )
        self.writer = Writer(self.api)

    def project(self, settings: Settings) -> str | None:
        """The project whose buckets are meant, where settings, the environment or the credentials tell one."""
        who = self.identity
        if who is not None:
            who.credentials()  # which may name it
        return settings.get("project") or os.environ.get("GOOGLE_CLOUD_PROJECT") or (who.project if who else None)


def _place_of(settings: Settings, system: str) -> _Place:
    """The place these settings and the environment of this moment mean, one per process."""
    variables = ("GOOGLE_", "STORAGE_EMULATOR", "CLOUDSDK_")
    return shared(_Place, {**settings, "system": system}, variables, lambda: _Place(settings, system))


def _crc32c(crc: int, data: bytes) -> int:
    """CRC-32C in C, which releases the interpreter's lock for large pieces."""
    value: int = _google_crc32c()(crc, data)
    return value


@functools.cache
def _google_crc32c() -> Callable[[int, bytes], int]:
    extend: Callable[[int, bytes], int] = plugins.need("google_crc32c").extend
    return extend


class GCSSystem(StoreSystem):
    """A bucket of Google Cloud Storage, or a prefix in one."""

    kind: ClassVar[str] = "gs"
    store: ClassVar[str] = "Google Cloud Storage"
    takes: ClassVar[frozenset[str] | None] = frozenset(
        {
            "endpoint_url",
            "credentials_file",
            "impersonate",
            "anonymous",
            "user_project",
            "project",
            "composite",
            "ca_bundle",
        }
    )

    def __init__(self, location: Location, settings: Settings, place: _Place | None = None) -> None:
        super().__init__(location, settings)
        self._bucket, _, prefix = location.path.partition("/")
        if not self._bucket:
            raise InvalidError(
                "a place on Google Cloud Storage needs a bucket", where=self.url(), hint="gs://bucket/prefix"
            )
        self._root = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
        self._composite = flag(settings.get("composite")) is not False
        self._place = place or _place_of(settings, location.system)
        self._api = self._place.api
        self._pins: Mapping[str, str] = {}

    @classmethod
    def buckets(cls, settings: Settings) -> Iterator[str]:
        """The project's buckets."""
        system = settings["name"]
        place = _place_of(settings, system)
        project = place.project(settings)
        if project is None and place.identity is not None:
            raise InvalidError(
                "buckets belong to projects, and none is named",
                where=f"{system}://",
                hint=f'[systems.{system}] project = "…", or export GOOGLE_CLOUD_PROJECT=…',
            )
        token = None
        while True:
            page = place.api.buckets(project or "-", token=token, where=f"{system}://")
            for bucket in page.items:
                yield bucket.name
            token = page.next_page_token
            if not token:
                return

    def at(self, path: str) -> GCSSystem:
        if not path:
            return self
        below = Location(self.location.system, f"{self._bucket}/{self._root}{path}")
        return GCSSystem(below, self.settings, self._place)

    def close(self) -> None:
        self._api.pool.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (GCSSystem, (self.location, dict(self.settings)))

    def ask(self, protocol: type[P]) -> P | None:
        # Parts cost early-deletion and soft-delete fees in some buckets; without them large objects go as one stream.
        if protocol is Multipart and not self._composite:
            return None
        return super().ask(protocol)

    def _target(self, key: str) -> Target:
        """The object of a key; names that Google Cloud Storage cannot hold are refused before any request."""
        where = self.url(key)
        if not key:
            raise InvalidError("an empty key names nothing", where=where)
        name = self._root + key
        try:
            length = len(name) if name.isascii() else len(name.encode())
        except UnicodeEncodeError as error:
            raise NameClashError("a name here must be valid Unicode", where=ascii(where)) from error
        if length > NAME_LIMIT:
            raise NameClashError(f"a name here has at most {NAME_LIMIT} bytes, this one {length}", where=where)
        if "\n" in name or "\r" in name or name in (".", "..") or name.startswith(".well-known/acme-challenge/"):
            raise NameClashError("Google Cloud Storage has no such name", where=where)
        return Target(self._bucket, name, where, self._pins.get(key, ""))

    # The six verbs

    def list(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        if depth is not None and depth < 1:
            raise InvalidError(f"depth counts from 1, not {depth}", where=self.url(prefix))
        return chain.from_iterable(self._listing(prefix, after, depth))

    def _listing(self, prefix: str, after: str, depth: int | None) -> Iterator[Sequence[Entry]]:
        if prefix:
            self._target(prefix)
        root = Target(self._bucket, self._root, self.url(prefix))
        return listing(self._api, root, prefix, after, depth)

    def head(self, key: str) -> Entry:
        return self._api.get(self._target(key)).entry(key)

    def read(self, key: str, span: Span | None = None, *, when: Condition = ANY) -> Body:
        what = self._target(key)
        if when is ABSENT:
            raise InvalidError("nothing can be read from where nothing is", where=what.where)
        if span is not None and not 0 <= span[0] <= span[1]:
            raise InvalidError(f"not a byte range: {span}", where=what.where)
        return download(self._api, key, what, span, when)

    def write(
        self,
        key: str,
        data: Bytes | Iterable[Bytes] | Link,
        *,
        size: int | None = None,
        executable: bool | None = None,  # noqa: ARG002  (the manifest of a transfer keeps it)
        when: Condition = ANY,
    ) -> Entry:
        what = self._target(key)
        return self._place.writer.write(key, what, self._storable(key, data), size, when)

    def delete(self, keys: Sequence[str]) -> None:
        targets = [self._target(key) for key in keys]
        if len(targets) == 1:
            self._api.delete(targets[0])
            return
        errors = remove(self._api, targets)
        if errors:
            raise errors[0]

    # Multipart, Sweeping

    def begin(self, key: str, size: int, *, part_size: int, executable: bool | None = None) -> Upload:  # noqa: ARG002
        """Start an upload in parts. The parts are hidden objects beside the target until `finish`."""
        return ComposedUpload.begin(self._api, self._target(key), key, size, part_size)

    def resume(self, key: str, token: str) -> Upload:
        """Go on with an upload; `NotFoundError` when no part of it is there."""
        upload = ComposedUpload(self._api, self._target(key), key, token)
        upload.parts()
        return upload

    def sweep(self, *, older_than_s: float = 0.0) -> int:
        """Remove parts that no upload came back for. Looks at every name below the root: one request for 1,000."""
        token, found = None, []
        while True:
            page, headers = self._api.page(
                self._bucket, self._root, start="", delimiter="", token=token, where=self.url()
            )
            now = now_of(headers) + 1.0  # the clock that ages are measured by, to the next second
            for thing in page.items:
                age = now - thing.updated.timestamp() if thing.updated else 0.0
                if thing.name.rpartition("/")[2].startswith(PART) and age >= older_than_s:
                    found.append(Target(self._bucket, thing.name, self.url(thing.name[len(self._root) :])))
            token = page.next_page_token
            if not token:
                break
        errors = remove(self._api, found)
        if errors:
            raise errors[0]
        return len(found)

    # ServerCopy

    def can_copy_from(self, source: System) -> bool:
        if not isinstance(source, GCSSystem):
            return False
        mine, its = self._place, source._place  # noqa: SLF001  (of this class)
        same = (mine.identity and mine.identity.key) == (its.identity and its.identity.key)
        return same and mine.endpoint == its.endpoint and mine.user_project == its.user_project

    def _copy(self, source: GCSSystem, entry: Entry, key: str, watch: Callable[[int], None]) -> Entry:
        origin, what = source._target(entry.key), self._target(key)
        try:
            made = self._api.rewrite(origin, what, entry.etag, watch)
        except (NotFoundError, ConflictError):
            there = self._api.get(origin)
            if entry.etag is not None and there.generation != entry.etag:
                raise ConflictError("it has changed since it was listed", where=origin.where) from None
            raise
        copied = made.entry(key)
        if copied.size != entry.size or contradict(entry.check, copied.check):
            self._api.delete(what, made.generation)
            raise IntegrityError("the copy is not its source", where=what.where, expected=entry.check, got=copied.check)
        return copied

    # Versioned

    def versions_of(self, entries: Sequence[Entry]) -> Mapping[str, str]:
        """Generations, which are etags as well; the bucket keeps them if object versioning is on."""
        return {entry.key: entry.etag for entry in entries if entry.etag is not None}

    def pinned(self, versions: Mapping[str, str]) -> GCSSystem:
        other = GCSSystem(self.location, self.settings, self._place)
        other._pins = {key: name for key, name in versions.items() if name.isascii() and name.isdigit()}
        return other

    # Signing

    def sign_read(self, key: str, *, expires_s: int = 3600) -> SignedRequest:
        """A GET of the stored bytes, ranges too."""
        return self._signed(self._target(key), "GET", {"Accept-Encoding": "gzip"}, expires_s)

    def sign_write(self, key: str, size: int, *, expires_s: int = 3600) -> SignedRequest:
        """One request that stores `size` bytes under the key."""
        return self._signed(self._target(key), "PUT", _uploading(size), expires_s)

    def sign_part(self, upload: Upload, number: int, size: int, *, expires_s: int = 3600) -> SignedRequest:
        """One request that stores a part of an upload."""
        if not isinstance(upload, ComposedUpload):
            raise InvalidError("not an upload to Google Cloud Storage", where=self.url())
        return self._signed(upload.target(number, size), "PUT", _uploading(size), expires_s)

    def _signed(self, what: Target, method: str, headers: dict[str, str], expires_s: int) -> SignedRequest:
        """A V4 signature where we hold a key or may use one; else a token for the root's objects only; else nothing."""
        lasting(expires_s, what.where)
        identity = self._place.identity
        if identity is not None:
            signing = plugins.need("google.auth.credentials").Signing
            if isinstance(identity.credentials(), signing):
                return self._signed_v4(what, method, headers, expires_s, identity)
            token = identity.narrow_token(self._bucket, self._root, write=method != "GET")
            headers["Authorization"] = f"Bearer {token}"
        if self._place.user_project:
            headers["X-Goog-User-Project"] = self._place.user_project
        base = self._place.endpoint.url
        if method == "GET":
            return SignedRequest("GET", f"{base}/download/storage/v1/{what.path}?alt=media{what.pin}", headers)
        headers.pop("x-goog-content-length-range", None)
        bucket, name = quote(what.bucket, safe=""), quote(what.name, safe="")
        return SignedRequest("POST", f"{base}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}", headers)

    def _signed_v4(
        self, what: Target, method: str, headers: dict[str, str], expires_s: int, identity: _Identity
    ) -> SignedRequest:
        blob = self._client().bucket(what.bucket).blob(what.name)
        query = {"userProject": self._place.user_project} if self._place.user_project else None
        bound = {name: value for name, value in headers.items() if name != "Accept-Encoding"}
        url = identity.asked(
            lambda: blob.generate_signed_url(
                version="v4",
                expiration=expires_s,
                method=method,
                headers=bound or None,
                query_parameters=query,
                generation=what.generation or None,
                credentials=identity.credentials(),
                api_access_endpoint=self._place.endpoint.url,
            )
        )
        return SignedRequest(method, url, headers)

    # Buckets

    def _client(self) -> Any:
        """Google's own client, for what is not bytes."""
        storage = plugins.need("google.cloud.storage")
        identity = self._place.identity
        if identity is None:
            credentials = plugins.need("google.auth.credentials").AnonymousCredentials()
        else:
            credentials = identity.credentials()
        return storage.Client(
            project=self._place.project(self.settings) or "-",
            credentials=credentials,
            client_options={"api_endpoint": self._place.endpoint.url},
        )

    def make_bucket(self, *, region: str | None = None, storage_class: str | None = None) -> bool:
        """Make the bucket of this place if it is not there. Returns whether it was made.

        Args:
            region: where its bytes lie, `"EU"` or `"europe-west4"`; Google's default without.
            storage_class: `"STANDARD"`, `"NEARLINE"`, …
        """
        errors = plugins.need("google.api_core.exceptions")
        client = self._client()
        bucket = client.bucket(self._bucket)
        bucket.storage_class = storage_class or "STANDARD"
        count(self.location.system, "make_bucket")
        try:
            client.create_bucket(bucket, location=region, timeout=self._api.pool.timeout_s, retry=None)
        except errors.Conflict:
            return False
        except errors.GoogleAPICallError as error:
            raise refusal(int(error.code or 500), str(error.message).encode(), self.url()) from None
        finally:
            client.close()
        return True


def _uploading(size: int) -> dict[str, str]:
    return {"Content-Type": "application/octet-stream", "x-goog-content-length-range": f"{size},{size}"}
