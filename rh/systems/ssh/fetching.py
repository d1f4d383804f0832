"""What a host is told to fetch: files that lie side by side in one object are asked for together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from rh.systems.far import wire
from rh.types import Entry, SignedRequest, Span

__all__ = ["Request", "items_of", "signed"]

Request: TypeAlias = tuple[Entry, str, SignedRequest | Sequence[tuple[Span, SignedRequest]]]
"""What `Fetching.fetch_many` takes: the source's entry, the key here, and a request or ranges of some."""

_GAP = 64 * 1024
"""So many bytes that nobody wants are read rather than making another request."""
_JOINED = 8 << 20
_FILES = 500
"""So many files of one request: their outcomes fit what may be open at once."""


def items_of(requests: Iterable[Request], name: Callable[[str], bytes]) -> Iterator[tuple[Sequence[str], Any]]:
    """The far program's items (`rh.systems.far.net.fetch`), each with the keys that it is about.

    Args:
        requests: what to fetch.
        name: the bytes of a key.
    """
    number = 0
    run: _Run | None = None
    for entry, key, wanted in requests:
        file = (name(key), _source(entry))
        if not isinstance(wanted, SignedRequest) and len(wanted) == 1:
            if run is not None and run.takes(entry, *wanted[0]):
                run.add(key, file, wanted[0][0])
                continue
            if run is not None:
                yield run.keys, [number, run.files, run.parts]
                number += len(run.keys)
            run = _Run(key, file, *wanted[0])
            continue
        if isinstance(wanted, SignedRequest):
            parts = [[-1, -1, signed(wanted)]]
        else:
            parts = [[*span, signed(request)] for span, request in wanted]
        yield (key,), [number, [[*file, 0]], parts]
        number += 1
    if run is not None:
        yield run.keys, [number, run.files, run.parts]


class _Run:
    """Files that one request brings."""

    def __init__(self, key: str, file: tuple[bytes, list[Any]], span: Span, request: SignedRequest) -> None:
        self._request = request
        self._start, self._stop = span
        self._last = span
        self.keys = [key]
        self.files = [[*file, span[0]]]

    @property
    def parts(self) -> list[Any]:
        """The one range."""
        return [[self._start, self._stop, signed(self._request)]]

    def takes(self, entry: Entry, span: Span, request: SignedRequest) -> bool:
        """Whether a file lies next to those that there are, or is the same bytes as the last one."""
        if request.url != self._request.url or len(self.keys) >= _FILES:
            return False
        if span == self._last:
            return entry.size <= wire.PIECE
        return 0 <= span[0] - self._stop <= _GAP and span[1] - self._start <= _JOINED

    def add(self, key: str, file: tuple[bytes, list[Any]], span: Span) -> None:
        """One file more."""
        self.keys.append(key)
        self.files.append([*file, span[0]])
        self._last, self._stop = span, span[1]


def signed(request: SignedRequest) -> list[Any]:
    """A request as the far program reads it."""
    return [request.method, request.url, [[name, value] for name, value in request.headers.items()]]


def _source(entry: Entry) -> list[Any]:
    return [entry.size, (entry.etag or "").encode(), bool(entry.executable), (entry.check or "").encode()]
