"""What one S3 endpoint is: who we are there, where it is, what it can do. Shared by all handles on it in a process."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from rh.errors import InvalidError, RhError, UnsupportedError
from rh.systems.base import Settings
from rh.systems.objects.root import StorePlace
from rh.systems.objects.shared import flag, shared
from rh.systems.objects.wire import ca_bundle
from rh.systems.s3.sign import Credentials
from rh.systems.s3.wire import Wire

__all__ = ["Place", "place_of", "unsupported"]

_REGION_IN_HOST = (
    re.compile(r"(?:^|\.)s3[.-](?:dualstack\.|fips\.)?([a-z]{2,}[a-z0-9-]*)\.(?!com$|amazonaws)"),
    re.compile(r"(?:^|\.)s3[.-](?:dualstack\.)?([a-z]{2}-[a-z0-9-]+-\d)\.amazonaws\."),
    re.compile(r"\.compat\.objectstorage\.([a-z0-9-]+)\."),
    re.compile(r"^([a-z]{3}\d)\.digitaloceanspaces\.com$"),
)
_AWS = re.compile(r"(?:^|\.)amazonaws\.(?:com(?:\.cn)?|eu)$")
_TRUSTED = re.compile(r"(?:^|\.)(?:amazonaws\.(?:com(?:\.cn)?|eu)|r2\.cloudflarestorage\.com)$")
_VIRTUAL_ONLY = re.compile(r"(?:^|\.)(?:amazonaws\.(?:com(?:\.cn)?|eu)|aliyuncs\.com|myhuaweicloud\.com)$")


Identity = Callable[[Settings], "tuple[Callable[[], Credentials | None], str | None, str | None]"]
"""From settings to: credentials at each moment (`None`: anonymous), the region, the endpoint of the environment."""


class Place(StorePlace):
    """One endpoint, what it is and what it can do."""

    wire: Wire

    def __init__(self, settings: Settings, identity: Identity) -> None:
        super().__init__(settings)
        self.profile = settings.get("profile") or os.environ.get("AWS_PROFILE")
        credentials, region, endpoint = identity(settings)
        self.credentials = credentials
        endpoint = settings.get("endpoint_url") or endpoint
        host = urlsplit(endpoint).hostname or "" if endpoint else ""
        self.region = str(settings.get("region") or region or _region_of(host))
        if not endpoint:
            suffix = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
            host = f"s3.{self.region}.{suffix}"
            endpoint = f"https://{host}"
        self.aws = _AWS.search(host) is not None
        self.trusted = _TRUSTED.search(host) is not None
        addressing = settings.get("addressing") or ("virtual" if _VIRTUAL_ONLY.search(host) else "path")
        if addressing not in ("path", "virtual"):
            raise InvalidError(f"addressing is path or virtual, not {addressing!r}", where=self.system)
        self.virtual = addressing == "virtual"
        payer = {"x-amz-request-payer": "requester"} if flag(settings.get("requester_pays")) else {}
        self.wire = Wire(
            str(endpoint),
            system=self.system,
            region=self.region,
            virtual=self.virtual,
            credentials=credentials,
            timeout_s=self.timeout_s,
            ca_bundle=ca_bundle(settings),
            headers=payer,
        )
        self.stored = stored_headers(settings)
        self.opaque: set[str] = set()
        """Buckets found to answer etags that look like an MD5 of the bytes and are none."""
        self.singly: set[str] = set()
        """Buckets found not to delete in batches."""
        self._honours: dict[str, dict[str, bool]] = {}
        """What each bucket was found to do; those in `_probed` were asked everything."""
        self._probed: set[str] = set()
        self._probing = threading.Lock()

    def honours(self, bucket: str, what: str, probe: Callable[[dict[str, bool]], None]) -> bool:
        """Whether the endpoint keeps a precondition: `"absent"`, `"match"` or `"copy"`. Found out once.

        `probe` is given what an earlier one that broke off had found out, and adds the rest.
        """
        told = flag(self.settings.get("conditional_writes"))
        if told is not None and what != "copy":
            return told
        if self.trusted:
            return True
        with self._probing:
            found = self._honours.setdefault(bucket, {})
            if bucket not in self._probed:
                probe(found)
                self._probed.add(bucket)
            return found[what]


def stored_headers(settings: Settings) -> dict[str, str]:
    """What every object we store is told to be: encrypted, of a storage class, with an access list."""
    headers = {}
    if sse := settings.get("sse"):
        headers["x-amz-server-side-encryption"] = str(sse)
    if key := settings.get("kms_key_id"):
        headers.setdefault("x-amz-server-side-encryption", "aws:kms")
        headers["x-amz-server-side-encryption-aws-kms-key-id"] = str(key)
    if storage_class := settings.get("storage_class"):
        headers["x-amz-storage-class"] = str(storage_class)
    if acl := settings.get("acl"):
        headers["x-amz-acl"] = str(acl)
    return headers


def _region_of(host: str) -> str:
    """The region a host name tells, or the one most endpoints take."""
    if host.endswith(".r2.cloudflarestorage.com"):
        return "auto"
    for pattern in _REGION_IN_HOST:
        if match := pattern.search(host):
            return match.group(1)
    return "us-east-1"


def place_of(settings: Settings, identity: Identity) -> Place:
    """The place these settings and the environment of this moment mean, one per process."""
    file = settings.get("credentials_file") or os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    files = (str(file), os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config")
    return shared(Place, settings, ("AWS_",), lambda: Place(settings, identity), files=files)


def unsupported(place: Place, where: str) -> RhError:
    """The answer to a precondition that the endpoint would accept and ignore."""
    return UnsupportedError(
        f"{place.wire.endpoint} does not check preconditions on writes",
        where=where,
        hint="use another place for what must be written once (versions, registries), or write without a condition",
    )
