"""Not to try for long to get through to a place, where something else can answer."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rh.errors import DeadlineError, RhError, UnavailableError
from rh.registry.bucket.log import UnreachableError
from rh.systems.base import System
from rh.systems.wrap.wrapper import Listing, Wrapper

__all__ = ["Hurried"]

T = TypeVar("T")

_NOBODY = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})


class Hurried(Wrapper):
    """A system, for one answer: where no connection comes about, `UnreachableError` says that it is not tried again.

    What is there, be it slow or failing, has all the time and tries that it has otherwise.

    Args:
        inner: the system.
        connect_s: for how many seconds to try to get through.
    """

    def __init__(self, inner: System, connect_s: float) -> None:
        super().__init__(inner)
        self._connect_s = connect_s
        self._since: float | None = None

    def call(self, verb: str, key: str, work: Callable[[], T]) -> T:  # noqa: ARG002 - as every wrapper's
        with self._trying():
            return work()

    def listing(self, verb: str, listing: Listing[T], prefix: str, after: str) -> Iterator[T]:  # noqa: ARG002 - the same
        with self._trying():  # requests are made as it is read
            yield from listing.work(prefix, after)

    @contextmanager
    def _trying(self) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        except DeadlineError as error:
            raise UnreachableError(error) from error  # what took so long is not waited for again
        except RhError as error:
            self._since = (self._since or begun) if _is_unconnected(error) else None
            if self._since is not None and time.monotonic() - self._since >= self._connect_s:
                raise UnreachableError(error) from error
            raise
        self._since = None


def _is_unconnected(error: RhError) -> bool:
    """Whether nobody was there to connect to."""
    if not isinstance(error, UnavailableError):
        return False
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, socket.gaierror) or (isinstance(cause, OSError) and cause.errno in _NOBODY):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
