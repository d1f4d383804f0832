"""The fast road to object stores: obstore moves the bytes of ordinary keys, without a retry of its own.

obstore normalises some keys and cannot be used in a process forked from one that used it already.
`is_plain` and `usable` say when the road is open; a system takes its SDK's road otherwise.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

from rh import observe, plugins
from rh.errors import (
    AccessError,
    ConflictError,
    DeadlineError,
    FullError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from rh.systems.base import Body, Bytes, Settings
from rh.types import Entry, Span

__all__ = [
    "CHUNK",
    "MAX_PUT",
    "Failure",
    "LaxRangeError",
    "Nothing",
    "StoreBody",
    "failure_of",
    "generic_error",
    "is_plain",
    "open_store",
    "put",
    "read",
    "scrub",
    "spread",
    "usable",
]

CHUNK = 1 << 20
"""Least size in bytes of the pieces a body is handed out in."""
MAX_PUT = 4 << 20
"""Largest object in bytes put this way: obstore's deadline covers a whole upload, so bodies stay short."""

_ODD = re.compile(r"[\x00-\x1f\x7f]|(?:^|/)\.{0,2}(?:/|$)")
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*([A-Za-z0-9.]+)\s*</Code>")
_MESSAGE = re.compile(r"<Message>\s*([^<]{1,300})")
_REGION = re.compile(r"<Region>\s*([a-z0-9-]+)")
_KIND = re.compile(r"kind: (Timeout|Connect|Interrupted|Decode|Request)\b")
_CAUSE = re.compile(r'"((?:dns error|failed to lookup|invalid peer certificate|[^"]*certificate)[^"]{0,160})')
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(?:Other\(\s*OtherError\(\s*)?(\w+)")
_OS = re.compile(r'message: "([^"]{1,120})"')
_SECRET = re.compile(
    r"((?:^|[?&;\s])(?:sig|X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token|X-Goog-Signature|X-Goog-Credential)=)[^&\s\"')]+",
    re.IGNORECASE,
)

_lock = threading.Lock()
_owner: int | None = None


def is_plain(key: str) -> bool:
    """Whether obstore puts exactly this key on the wire: no empty, `.` or `..` component, no control character."""
    return _ODD.search(key) is None


def usable() -> bool:
    """Whether obstore works in this process: its runtime does not survive a fork."""
    return _owner is None or _owner == os.getpid()


def scrub(text: str) -> str:
    """The text without the values of signatures and credentials in URLs."""
    return _SECRET.sub(r"\1…", text)


def open_store(
    cls: str,
    bucket: str,
    *,
    settings: Settings,
    http: bool = False,
    ca_pem: bytes | None = None,
    **config: Any,
) -> Any:
    """An obstore store that never retries and never outwaits the deadline.

    Args:
        cls: `"S3Store"`, `"AzureStore"` or `"GCSStore"`.
        bucket: the bucket or container.
        settings: `timeout_s` bounds the wait for a connection, an answer, and each read of a body.
        http: allow an endpoint without TLS.
        ca_pem: certificates to trust besides the system's.
        config: passed to the store.

    """
    global _owner  # noqa: PLW0603
    extra = {"AzureStore": "azure", "GCSStore": "gcs"}.get(cls, "s3")
    store = plugins.need("obstore.store", extra=extra)
    timeout = timedelta(seconds=float(settings.get("timeout_s") or 30.0))
    options: dict[str, Any] = {
        "allow_http": http,
        # A total would cut long downloads off; the read timeout bounds every wait instead.
        "timeout": timedelta(days=30),
        "connect_timeout": timeout,
        "read_timeout": timeout,
        "pool_max_idle_per_host": "64",
        "user_agent": "rh",
    }
    if ca_pem:
        options["root_certificate"] = ca_pem
    with _lock:
        _owner = _owner or os.getpid()
    try:
        return getattr(store, cls)(bucket, client_options=options, retry_config={"max_retries": 0}, **config)
    except (*_errors(), TypeError) as error:  # type: ignore[misc]
        text = _first(scrub(str(error)))
        raise InvalidError(f"the settings of this system cannot be right: {text}", where=bucket) from None


def _errors() -> tuple[type[Exception], ...]:
    """What obstore raises."""
    return (plugins.need("obstore.exceptions").BaseError, OSError, ValueError)


class LaxRangeError(UnsupportedError):
    """The store sends the range asked for as if it were the whole object, which obstore does not accept."""


class Failure(NamedTuple):
    """What an exception of obstore says, in plain values.

    `kind` is one of `missing`, `exists`, `precondition`, `timeout`, `connect`, `interrupted`, `range`, `status`
    and `other`.
    """

    kind: str
    status: int = 0
    code: str = ""
    message: str = ""
    region: str = ""


def _first(text: str) -> str:
    return text.split("\n", 1)[0][:300]


def failure_of(error: BaseException) -> Failure:
    """What went wrong, read from an exception of obstore (its classes alone do not tell)."""
    text = scrub(str(error))
    status_match = _STATUS.search(text)
    code_match, message_match, region_match = _CODE.search(text), _MESSAGE.search(text), _REGION.search(text)
    status = int(status_match.group(1)) if status_match else 0
    code = code_match.group(1) if code_match else ""
    message = message_match.group(1).strip() if message_match else ""
    region = region_match.group(1) if region_match else ""
    name = type(error).__name__
    if status == 416 or "Wanted range starting at" in text:
        kind, status = "range", 416
    elif status == 404 or isinstance(error, FileNotFoundError):
        kind, status = "missing", status or 404
    elif status == 412 or name in ("PreconditionError", "NotModifiedError"):
        kind, status = "precondition", status or 412
    elif name == "AlreadyExistsError":
        kind, status = "exists", status or 409
    elif status:
        kind = "status"
    elif "redirect without LOCATION" in text:
        kind, status, code = "status", 301, code or "PermanentRedirect"
    elif "NotPartial" in text or "UnexpectedRange" in text:
        kind = "range"
    else:
        found = _KIND.search(text)
        kind = {"Timeout": "timeout", "Connect": "connect"}.get(found.group(1), "interrupted") if found else "other"
        if "TimedOut" in text:
            kind = "timeout"
        detail = _CAUSE.search(text) or _OS.search(text)
        message = detail.group(1) if detail else _first(text).rpartition(": ")[2]
        if certificate := _CERTIFICATE.search(text):
            message = f"TLS: the certificate is not accepted ({certificate.group(1)}); ca_bundle names further ones"
    return Failure(kind, status, code, message, region)


def generic_error(failure: Failure, *, where: str, timeout_s: float) -> RhError:
    """The error for failures that mean the same on every store; a system maps its own codes first."""
    detail = ": ".join(part for part in (failure.code, failure.message) if part) or f"status {failure.status}"
    if failure.kind == "missing":
        return NotFoundError(f"nothing is there ({detail})", where=where)
    if failure.kind == "timeout":
        return DeadlineError(f"no answer within {timeout_s:g} s", where=where)
    if failure.kind == "connect":
        return UnavailableError(
            f"cannot connect: {failure.message}", where=where, hint="check the endpoint and the network"
        )
    if failure.kind == "interrupted":
        return UnavailableError(f"the connection broke: {failure.message}", where=where)
    if failure.kind == "precondition":
        return ConflictError(f"a precondition failed: {detail}", where=where)
    if failure.status == 401:
        return UnauthenticatedError(f"the credentials were refused: {detail}", where=where)
    if failure.status == 403:
        return AccessError(f"access denied: {detail}", where=where)
    if failure.status in (408, 425, 429) or failure.status >= 500:
        if failure.status == 501:
            return UnsupportedError(f"the store cannot do that: {detail}", where=where)
        if failure.status == 507:
            return FullError(f"the store is full: {detail}", where=where)
        return UnavailableError(f"the store is failing for the moment: {failure.status} {detail}", where=where)
    if failure.status:
        return InvalidError(f"the store refused the request: {failure.status} {detail}", where=where)
    return UnavailableError(f"the request failed: {detail}", where=where)


ErrorMap = Callable[[Failure, str], RhError]
"""Turns a failure at a key into the system's error."""


def entry_of(meta: Mapping[str, Any], key: str, check: Callable[[str | None], str | None] | None = None) -> Entry:
    """The entry of a key, from obstore's metadata. `check` derives a checksum from the etag."""
    etag = meta.get("e_tag")
    etag = etag.strip('"') if etag else None
    modified = meta.get("last_modified")
    return Entry(
        key,
        int(meta["size"]),
        etag=etag,
        modified=modified.timestamp() if modified else None,
        check=check(etag) if check else None,
    )


class StoreBody(Body):
    """An answer of obstore on its way out: exact length, or `IntegrityError`."""

    def __init__(self, result: Any, entry: Entry, want: int, *, system: str, error: ErrorMap) -> None:
        self.entry = entry
        self._result = result
        self._want = want
        self._system = system
        self._error = error

    def _take(self) -> Any:
        result, self._result = self._result, None
        if result is None:
            raise InvalidError("a body can be read once", where=self.entry.key)
        return result

    def _full(self, got: int) -> None:
        observe.count(self._system, "read", requests=0, received=got)
        if got != self._want:
            raise IntegrityError(
                "the answer has the wrong length",
                where=self.entry.key,
                expected=f"{self._want} bytes",
                got=f"{got} bytes",
            )

    def read(self) -> bytes:
        result = self._take()
        try:
            data: bytes = result.bytes().to_bytes()
        except _errors() as error:
            raise self._mapped(error) from None
        self._full(len(data))
        return data

    def __iter__(self) -> Iterator[Bytes]:
        stream = iter(self._take().stream(CHUNK))
        got = 0
        while True:
            try:
                piece = next(stream, None)
            except _errors() as error:
                raise self._mapped(error) from None
            if piece is None:
                break
            view = memoryview(piece)
            got += len(view)
            if got > self._want:
                break
            yield view
        self._full(got)

    def _mapped(self, error: Exception) -> RhError:
        return self._error(failure_of(error), self.entry.key)

    def close(self) -> None:
        self._result = None


def read(
    store: Any,
    path: str,
    key: str,
    span: Span | None,
    *,
    system: str,
    error: ErrorMap,
    check: Callable[[str | None], str | None] | None = None,
) -> StoreBody | None:
    """Begin to read the object at `path` (a plain, full key), known to the caller as `key`.

    `span` must not be empty. `None` when it begins at or beyond the end.
    """
    obstore = plugins.need("obstore")
    observe.count(system, "read")
    try:
        result = obstore.get(store, path) if span is None else obstore.get(store, path, options={"range": span})
    except _errors() as problem:
        failure = failure_of(problem)
        if failure.kind == "range" and failure.status == 416:
            return None
        if failure.kind == "range":
            raise LaxRangeError("the store does not mark its answer as a range", where=key) from None
        raise error(failure, key) from None
    entry = entry_of(result.meta, key, check)
    start, stop = result.range
    want = (0, entry.size) if span is None else (span[0], min(span[1], entry.size))
    if (start, stop) != want:
        raise IntegrityError("the store answered another range", where=key, expected=str(want), got=str((start, stop)))
    return StoreBody(result, entry, stop - start, system=system, error=error)


def put(
    store: Any,
    path: str,
    key: str,
    data: Bytes,
    *,
    system: str,
    error: ErrorMap,
    mode: str = "overwrite",
    attributes: Mapping[str, str] | None = None,
) -> str | None:
    """Put bytes at `path` in one request and return the etag the store answers, without quotes.

    `mode="create"` refuses to overwrite.
    """
    obstore = plugins.need("obstore")
    observe.count(system, "write", sent=len(data))
    try:
        extra = dict(attributes) if attributes else None
        answer = obstore.put(store, path, data, mode=mode, use_multipart=False, attributes=extra)
    except _errors() as problem:
        raise error(failure_of(problem), key) from None
    etag: str | None = answer["e_tag"]
    return etag.strip('"') if etag else None


Given = TypeVar("Given")
Made = TypeVar("Made")


def spread(work: Callable[[Given], Made], items: Iterable[Given], *, workers: int = 16) -> Iterator[Made]:
    """The results of `work` on each item, in order, several at a time; items are taken as room is."""
    taken = iter(items)
    first = list(islice(taken, 2))
    if len(first) < 2:
        yield from map(work, first)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="rh-spread") as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for item in chain(first, taken):
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Nothing(Body):
    """A body of no bytes."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    def __iter__(self) -> Iterator[Bytes]:
        return iter(())
