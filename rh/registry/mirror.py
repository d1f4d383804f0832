"""What was read of a registry elsewhere, kept here, so that names can still be read when it cannot be reached.

A mirror is a convenience, never the truth: it is asked only after the registry itself did not answer, every answer out
of it comes with a `StaleWarning`, and nothing is written to it that was not read. It holds what this user has read, in
one SQLite file per registry below `~/.rh/mirrors`; where that cannot be opened, everything works without it.
"""

from __future__ import annotations

import builtins
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rh import config
from rh.errors import DeadlineError, NotFoundError, RhError, UnavailableError
from rh.registry.base import (
    OUT_OF_REACH,
    STILL,
    Change,
    Record,
    Registry,
    Step,
    UnconnectedError,
    UnreadError,
    stale,
)
from rh.registry.documents import encode
from rh.registry.filters import Filter
from rh.registry.mirror_file import Known, MirrorFile, listed
from rh.registry.spoken import spoken

__all__ = ["Mirrored"]

T = TypeVar("T")

_FORMAT = 1
"""Of the file, and in its name."""
_PAGE = 1000
_PAUSE_S = 30.0
"""How long readers take the mirror's word before they try again to reach a registry that did not answer."""

_silent: dict[str, tuple[float, str]] = {}
"""Registries that did not answer: until when (monotonic), and what was wrong."""


class Mirrored(Registry):
    """A registry whose records can still be read when it cannot be reached.

    What was answered before is answered again, also that there is nothing.

    Args:
        inner: the registry itself. Whatever writes, and histories, are its own business.
    """

    def __init__(self, inner: Registry) -> None:
        self.inner = inner
        self._hurried = inner.hurried()
        self.url = inner.url
        name = f"{hashlib.sha256(inner.url.encode()).hexdigest()[:32]}-{_FORMAT}.db"
        self._file = MirrorFile(config.home() / "mirrors" / name, inner.url)

    def __reduce__(self) -> tuple[type[Mirrored], tuple[Registry]]:
        return Mirrored, (self.inner,)

    @property
    def direct(self) -> Registry:
        return self.inner

    # Read, and remembered.

    def get(self, key: str) -> Record:
        silent = self._silence()
        known = self._file.known(key) if silent else None
        if silent is None or known is None:
            try:
                with self._answering():
                    record = self._got(key)
            except NotFoundError:
                self._file.forget([key])
                raise
            except (UnavailableError, DeadlineError) as error:
                silent, known = error, self._file.known(key)
                if known is None:
                    raise self._unknown(error, key) from error
            else:
                self._file.remember([record])
                return record
        self._warn(silent, known)
        if not known.records:
            raise NotFoundError(f"nothing is registered as {key!r}", where=self.url)
        return known.records[0]

    def _got(self, key: str) -> Record:
        try:
            return self._hurried.get(key)
        except UnconnectedError:
            if self._file.known(key) is not None:
                raise
        return self.inner.get(key)  # nothing else can tell: it may be slow to answer, or about to be back

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Record]:
        since = self._file.turn()

        def whole(records: Sequence[Record]) -> None:
            self._file.remember_all(records, prefix, after, since)

        return self._told(
            lambda registry, last: registry.list(prefix, after=last), prefix, after, listed(prefix, after), whole
        )

    def search(
        self, where: Filter, prefix: str = "", *, after: str = "", as_of: float | None = None
    ) -> Iterator[Record]:
        if as_of is not None:
            return self._past(self.inner.search(where, prefix, after=after, as_of=as_of))
        asked = hashlib.sha256(encode(where.as_dict())).hexdigest()
        question = f"search {prefix}\0{after}\0{asked}"
        return self._told(
            lambda registry, last: registry.search(where, prefix, after=last),
            prefix,
            after,
            question,
            lambda records: self._file.remember(records, question),
            where,
        )

    def _told(
        self,
        ask: Callable[[Registry, str], Iterator[Record]],
        prefix: str,
        after: str,
        question: str,
        whole: Callable[[Sequence[Record]], None],
        where: Filter | None = None,
    ) -> Iterator[Record]:
        """What the registry tells, and the mirror remembers; or else what the mirror knows.

        Args:
            ask: asks a registry for the records after a key.
            prefix: of the keys.
            after: the key that the first ones come after.
            question: what is asked, for the mirror.
            whole: remembers the last records, and that these were all.
            where: which of the records that the mirror knows are meant; all, if not given.
        """
        silent, last = self._silence(), after
        known = self._file.below(prefix, after, question) if silent else None
        if silent is None or known is None:
            seen: builtins.list[Record] = []
            try:
                for record in self._asked(ask, prefix, after, question):
                    seen.append(record)
                    last = record.key
                    if len(seen) >= _PAGE:
                        self._file.remember(seen)
                        seen.clear()
                    yield record
            except GeneratorExit:  # more of it is not wanted
                self._file.remember(seen)
                raise
            except (UnavailableError, DeadlineError) as error:
                self._file.remember(seen)
                silent, known = error, self._file.below(prefix, last, question)
                if known is None:
                    raise self._unknown(error, prefix) from error
            else:
                whole(seen)
                return
        self._warn(silent, known)
        yield from (record for record in known.records if where is None or where.matches(record.document))

    def _asked(
        self, ask: Callable[[Registry, str], Iterator[Record]], prefix: str, last: str, question: str
    ) -> Iterator[Record]:
        """What the registry tells; in no hurry where the mirror knows nothing of it."""
        try:
            for record in ask(self._hurried, last):
                last = record.key
                yield record
            return
        except UnconnectedError:
            if self._file.below(prefix, last, question) is not None:
                raise
        yield from ask(self.inner, last)

    # Not mirrored.

    def commit(self, steps: Sequence[Step], *, by: str | None = None, token: str | None = None) -> Sequence[Change]:
        with self._answering():
            changes = self.inner.commit(steps, by=by, token=token)
        self._file.remember(
            Record(change.key, change.revision, change.document, change.author, change.time)
            for change in changes
            if change.document is not None
        )
        self._file.forget([change.key for change in changes if change.document is None])
        return changes

    def history(self, key: str, *, after: int = 0) -> Iterator[Change]:
        return self._past(self.inner.history(key, after=after))

    def changes(self, prefix: str = "") -> Iterator[Change]:
        return self._past(self.inner.changes(prefix))

    def replay(self, changes: Iterable[Change]) -> int:
        with self._answering():
            return self.inner.replay(changes)

    def close(self) -> None:
        self.inner.close()

    # Out of reach.

    def _past(self, told: Iterator[T]) -> Iterator[T]:
        """What only the registry itself can tell."""
        try:
            yield from told
        except (UnavailableError, DeadlineError) as error:
            raise UnavailableError(
                f"{OUT_OF_REACH} ({_reason(error)}), and what was before is not kept on this machine: histories and"
                " past moments are told by the registry alone",
                where=self.url,
                hint=STILL,
            ) from error

    def _unknown(self, error: RhError, key: str) -> RhError:
        what = spoken(key, self._file.name_of)
        return UnreadError(_reason(error), f"nothing was read of {what} before", where=self.url)

    def _silence(self) -> RhError | None:
        """What was wrong a moment ago, while readers are not to try again what the mirror can tell."""
        until, reason = _silent.get(self.url, (0.0, ""))
        return UnavailableError(reason, where=self.url) if time.monotonic() < until else None

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """What is asked of the registry itself. Once it answers, be it with an error, readers ask it again."""
        try:
            yield
        except (UnavailableError, DeadlineError):
            raise
        except RhError:
            _silent.pop(self.url, None)
            raise
        _silent.pop(self.url, None)

    def _warn(self, error: RhError, known: Known) -> None:
        if self.url not in _silent or time.monotonic() >= _silent[self.url][0]:
            _silent[self.url] = (time.monotonic() + _PAUSE_S, error.message)
        oldest = time.strftime("%Y-%m-%d %H:%M", time.localtime(known.oldest))
        stale(
            f"{self.url} cannot be reached ({_reason(error)}): this is what was read of it, the oldest at {oldest}."
            " Changes since are not in it, and nothing can be saved until it is back"
        )


def _reason(error: RhError) -> str:
    return error.message.removeprefix(f"{OUT_OF_REACH}: ")
