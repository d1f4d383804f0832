"""The exact road to Azure Blob Storage: its REST requests, signed by key, token or shared access signature.

Source: Microsoft, "Authorize with Shared Key" and the Blob service REST API, version 2023-11-03.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from typing import NamedTuple
from urllib.parse import parse_qsl, quote

from rh.errors import (
    AccessError,
    ConflictError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from rh.systems.base import Bytes
from rh.systems.objects.failures import Failure, NoBucketError, generic_error
from rh.systems.objects.wire import StoreWire

__all__ = ["VERSION", "AzureIdentity", "AzureWire", "error_of", "quote_name"]

VERSION = "2023-11-03"
_SIGNED = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
_REFUSED = frozenset(
    {"AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation", "AccountIsDisabled"}
)
_FORBIDDEN = frozenset(
    {
        "AuthorizationFailure",
        "AuthorizationPermissionMismatch",
        "AuthorizationProtocolMismatch",
        "AuthorizationResourceTypeMismatch",
        "AuthorizationServiceMismatch",
        "AuthorizationSourceIPMismatch",
        "BlobArchived",
        "BlobImmutableDueToPolicy",
        "InsufficientAccountPermissions",
        "PublicAccessNotPermitted",
    }
)
_BUSY = frozenset({"InternalError", "OperationTimedOut", "PendingCopyOperation", "ServerBusy"})
_BAD_NAME = frozenset({"InvalidResourceName", "InvalidUri", "OutOfRangeInput", "InvalidBlobName"})
_UNMET = frozenset(
    {
        "BlobAlreadyExists",
        "ConditionNotMet",
        "SourceConditionNotMet",
        "TargetConditionNotMet",
        "LeaseIdMissing",
        "LeaseIdMismatchWithBlobOperation",
        "UnauthorizedBlobOverwrite",
    }
)


class AzureIdentity(NamedTuple):
    """Who asks: an account key, a shared access signature, a source of tokens, or nobody. Shows none of it."""

    account: str
    endpoint: str
    key: str | None = None
    sas: str | None = None
    token: Callable[[], tuple[str, float]] | None = None

    def __repr__(self) -> str:
        return f"<AzureIdentity {self.account}>"


def quote_name(name: str) -> str:
    """A blob's name as it stands in a URL path."""
    return quote(name, safe="/-._~")


def error_of(failure: Failure, *, where: str, container: str, system: str) -> RhError:
    """The error a failure on Azure means: place, cause, and the fix where there is one."""
    code, detail = failure.code, ": ".join(part for part in (failure.code, failure.message) if part)
    if code in ("ContainerNotFound", "ContainerBeingDeleted"):
        return NoBucketError(f"there is no container {container!r}", where=where, hint="check its name and the account")
    if code in _REFUSED or failure.status == 401:
        return UnauthenticatedError(
            f"the credentials were refused: {detail or failure.status}",
            where=where,
            hint=f"az login, renew the key or signature, or check systems.{system}.account and this machine's clock",
        )
    if code in _FORBIDDEN or failure.status == 403:
        return AccessError(
            f"access denied: {detail or 'the store gives no reason'}",
            where=where,
            hint="the role Storage Blob Data Contributor (or Reader) on the container gives access",
        )
    if code in _UNMET or failure.status == 412:
        return ConflictError(f"a precondition failed: {detail}", where=where)
    if code in _BUSY:
        return UnavailableError(f"the store asks to try later: {detail}", where=where)
    if code in ("Md5Mismatch", "Crc64Mismatch", "InvalidMd5") or "contentMD5" in failure.message:
        return IntegrityError(f"the store did not receive the bytes that were sent: {detail}", where=where)
    if code in ("InvalidBlockList", "InvalidBlobOrBlock"):
        return NotFoundError(f"the upload is gone: {detail}", where=where)
    if code in _BAD_NAME:
        return NameClashError(f"the store refuses this name: {detail}", where=where)
    if code in ("InvalidBlobType", "FeatureVersionMismatch"):
        return UnsupportedError(f"this blob is not a block blob: {detail}", where=where)
    return generic_error(failure, where=where)


class AzureWire(StoreWire):
    """Connections to one account."""

    def __init__(self, identity: AzureIdentity, *, system: str, timeout_s: float, ca_bundle: str | None = None) -> None:
        super().__init__(identity.endpoint, system=system, timeout_s=timeout_s, ca_bundle=ca_bundle)
        self.identity = identity

    def path(self, container: str, name: str | None) -> str:
        """The URL path of a blob, or of the container."""
        path = f"{self.base}/{quote_name(container)}"
        return path if name is None else f"{path}/{quote_name(name)}"

    def _signed(
        self,
        method: str,
        bucket: str,
        key: str | None,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        body: Bytes,
        digest: str | None,  # noqa: ARG002 - nothing here signs the body
    ) -> tuple[str, str, dict[str, str]]:
        path = self.path(bucket, key)
        sent = {"x-ms-version": VERSION, "x-ms-date": formatdate(time.time(), usegmt=True)}
        sent |= {name.lower(): value for name, value in headers.items()}
        pairs = [f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query]
        who = self.identity
        if who.key is not None:
            sent["authorization"] = f"SharedKey {who.account}:{self._signature(method, path, query, sent, len(body))}"
        elif who.token is not None:
            sent["authorization"] = f"Bearer {who.token()[0]}"
        elif who.sas is not None:
            pairs.append(who.sas)
        return f"{self.scheme}://{self.netloc}", f"{path}?{'&'.join(pairs)}" if pairs else path, sent

    def _signature(
        self, method: str, path: str, query: Sequence[tuple[str, str]], headers: Mapping[str, str], length: int
    ) -> str:
        """The Shared Key signature of a request."""
        values = {**headers, "content-length": str(length) if length else ""}
        lines = [method, *(values.get(name, "") for name in _SIGNED)]
        ours = sorted((name, " ".join(value.split())) for name, value in headers.items() if name.startswith("x-ms-"))
        lines += [f"{name}:{value}" for name, value in ours]
        lines.append(f"/{self.identity.account}{path}")
        lines += sorted(f"{key.lower()}:{value}" for key, value in query)
        key = base64.b64decode(self.identity.key or "")
        return base64.b64encode(hmac.digest(key, "\n".join(lines).encode(), hashlib.sha256)).decode()

    def source_url(self, container: str, name: str) -> str:
        """The URL by which the service itself reads a blob of this account. Secret when a signature is in it."""
        url = f"{self.scheme}://{self.netloc}{self.path(container, name)}"
        return f"{url}?{self.identity.sas}" if self.identity.sas else url


def connection_string(text: str, where: str) -> dict[str, str]:
    """The parts of a connection string by name, in lower case."""
    parts = {}
    for item in text.strip().strip(";").split(";"):
        name, equals, value = item.partition("=")
        if not equals:
            raise InvalidError("this is no connection string of Azure Storage", where=where)
        parts[name.strip().lower()] = value.strip()
    return parts


def clean_sas(text: str) -> str:
    """A shared access signature as it is appended to a query."""
    text = text.strip().lstrip("?")
    if not re.search(r"(?:^|&)sig=", text) or not parse_qsl(text):
        raise InvalidError("this is no shared access signature: it has no sig=")
    return text
