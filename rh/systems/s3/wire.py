"""The road to S3: requests as the S3 API describes them, over pooled connections, each sent once, each key as it is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence

from rh.errors import (
    AccessError,
    ConflictError,
    FullError,
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
from rh.systems.s3.sign import Credentials, presign, quote_key, sign
from rh.types import SignedRequest

__all__ = ["Wire", "error_of"]

_EMPTY = hashlib.sha256(b"").hexdigest()
_VIRTUAL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")

_REFUSED = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "InvalidSecurity",
        "NotSignedUp",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_BUSY = frozenset({"SlowDown", "RequestTimeout", "OperationAborted", "ConditionalRequestConflict", "Throttling"})
_DAMAGED = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"}
)
_FULL = frozenset({"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "StorageQuotaExceeded"})
_BAD_NAME = frozenset({"KeyTooLongError", "KeyTooLong", "InvalidURI", "XMinioInvalidObjectName", "InvalidObjectName"})


def error_of(failure: Failure, *, where: str, bucket: str, system: str, profile: str | None) -> RhError:
    """The error a failure on S3 means: place, cause, and the fix where there is one."""
    code, detail = failure.code, ": ".join(part for part in (failure.code, failure.message) if part)
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return NoBucketError(f"there is no bucket {bucket!r}", where=where, hint="check its name and the endpoint")
    if code == "NoSuchUpload":
        return NotFoundError("the upload is gone", where=where)
    if code in _REFUSED or (failure.status == 401 and not code):
        with_profile = f" --profile {profile}" if profile else ""
        hint = {
            "RequestTimeTooSkewed": "set this machine's clock",
            "ExpiredToken": f"aws sso login{with_profile}, or renew the credentials",
            "SignatureDoesNotMatch": "the secret key does not belong to the access key, or a proxy changes requests",
        }.get(code, f"check `aws configure list{with_profile}` and systems.{system}.profile")
        return UnauthenticatedError(f"the credentials were refused: {detail or failure.status}", where=where, hint=hint)
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException") or (
        failure.status in (301, 307, 308)
    ):
        region = failure.region or "the bucket's region"
        return InvalidError(
            f"the bucket {bucket!r} is in another region{f' ({failure.region})' if failure.region else ''}",
            where=where,
            hint=f'[systems.{system}] region = "{region}", or export AWS_REGION={region}',
        )
    if code in _BUSY:
        return UnavailableError(f"the store asks to try later: {detail}", where=where)
    if code in _DAMAGED:
        return IntegrityError(f"the store did not receive the bytes that were sent: {detail}", where=where)
    if code in _FULL:
        return FullError(f"no room is left: {detail}", where=where)
    if code in _BAD_NAME or (code == "InvalidArgument" and "bject name" in failure.message):
        return NameClashError(f"the store refuses this name: {detail}", where=where)
    if code == "InvalidObjectState":
        return AccessError("the object is archived", where=where, hint="restore it first")
    if failure.status == 412 or code == "PreconditionFailed":
        return ConflictError(f"a precondition failed: {detail}", where=where)
    if failure.status in (400, 403) and not code:
        # The answer to a HEAD has no body that would say why: expired credentials and another region are 400 on AWS.
        kind = AccessError if failure.status == 403 else InvalidError
        return kind(
            f"the request was refused: the store gives no reason (status {failure.status})",
            where=where,
            hint="ask for the permission on this bucket and key, renew the credentials, or check profile and region",
        )
    if failure.status == 403:
        return AccessError(
            f"access denied: {detail}",
            where=where,
            hint="ask for the permission on this bucket and key, or choose another profile",
        )
    if failure.status == 405:
        return UnsupportedError(f"the store does not allow that here: {detail}", where=where)
    return generic_error(failure, where=where)


class Wire(StoreWire):
    """Connections to one endpoint. `credentials` is asked before each request and may be `None` for anonymous."""

    def __init__(
        self,
        endpoint: str,
        *,
        system: str,
        region: str,
        virtual: bool,
        credentials: Callable[[], Credentials | None],
        timeout_s: float,
        ca_bundle: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(endpoint, system=system, timeout_s=timeout_s, ca_bundle=ca_bundle)
        self.region = region
        self._virtual = virtual
        self._credentials = credentials
        self._extra = dict(headers or {})

    def origin(self, bucket: str) -> str:
        return self.place(bucket, None)[0]

    def place(self, bucket: str, key: str | None) -> tuple[str, str, str]:
        """Scheme and authority, the `Host` header, and the path for a key (or the bucket)."""
        virtual = self._virtual and _VIRTUAL.fullmatch(bucket) is not None
        host = f"{bucket}.{self.netloc}" if virtual else self.netloc
        path = self.base if virtual else f"{self.base}/{quote_key(bucket)}"
        if key is not None:
            path = f"{path}/{quote_key(key)}"
        default = {"http": ":80", "https": ":443"}[self.scheme]
        return f"{self.scheme}://{host}", host.removesuffix(default), path or "/"

    def _signed(
        self,
        method: str,
        bucket: str,
        key: str | None,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        body: Bytes,
        digest: str | None,
    ) -> tuple[str, str, dict[str, str]]:
        """`UNSIGNED` as the digest leaves the body out of the signature."""
        base, host, path = self.place(bucket, key)
        if digest is None:
            digest = hashlib.sha256(body).hexdigest() if len(body) else _EMPTY
        target, sent = sign(
            method,
            host,
            path,
            query,
            {**self._extra, **headers},
            payload=digest,
            credentials=self._credentials(),
            region=self.region,
        )
        return base, target, sent

    def presign(
        self,
        method: str,
        bucket: str,
        key: str,
        *,
        credentials: Credentials,
        expires_s: int,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> SignedRequest:
        """The request that anybody may send until it expires."""
        base, host, path = self.place(bucket, key)
        signed = {**self._extra, **(headers or {})}
        url = presign(
            method,
            base,
            host,
            path,
            query,
            signed,
            credentials=credentials,
            region=self.region,
            expires_s=expires_s,
        )
        return SignedRequest(method, url, signed)
