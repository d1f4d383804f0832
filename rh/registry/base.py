"""The contract every registry keeps.

A registry is a small key-value store of JSON documents with compare-and-set, in which nothing is ever lost: each change
is numbered per key and stays readable. It holds names, never data and never a secret. Keys are plain text in
`/`-separated components; what they mean is the caller's business (`rh.registry.names`: resources are under
`resources/`).

The promises (the suite in `rh.testing.registry` cites them by number):

1. `commit` is all or nothing and linearizable: each change is checked against the state that the one before left.
2. Preconditions are one argument, as for systems: `when=ANY | ABSENT | Match(etag)`, `etag` being the record's revision
   as text. One that does not hold is `ExistsError` (ABSENT) or `ConflictError` (Match), which name the revision that
   stands and its author.
3. A commit repeated with the same token has the effect of one, and gives the answer of the first. The same token with
   other changes is `InvalidError`.
4. Revisions of a key grow by one with every change, deletions included, and are never used twice.
5. Deleting keeps the history. `history` tells every change ever made under a key, oldest first.
6. `list` is complete and in key order (by UTF-8 bytes), or raises. It may run while others write.
7. Documents come back as they went in, fields unknown to this version of `rh` included.
8. Whatever could be a credential is refused with `InvalidError` before anything is written, and not repeated in the
   error.
9. A handle may be used from many threads and processes at once, and after `fork`.
10. A registry that a newer schema wrote is refused with `UnsupportedError` and left as it is.
11. `search` gives exactly those records of `list` for which the filter holds, in the same order. With `as_of`, those
    that stood at that moment, by the time that the registry recorded with each change.
12. `changes` tells every change ever made, in an order in which `replay` takes them, and `replay` into another registry
    makes its records, histories and used tokens equal. It never changes what is there: other changes under the same
    revision are `ConflictError`.
13. Every error is an `RhError` with place and cause. Every call returns or raises within the deadline.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeAlias

from rh import config
from rh.errors import ConflictError, InvalidError, NotFoundError, RhError, UnavailableError, UnsupportedError
from rh.observe import log, warn
from rh.registry.documents import Document, check_document, encode
from rh.registry.filters import Filter
from rh.types import ABSENT, ANY, Condition, Match

__all__ = [
    "CONNECT_S",
    "OUT_OF_REACH",
    "STILL",
    "Change",
    "Delete",
    "NewerError",
    "Put",
    "Record",
    "Registry",
    "Rename",
    "StaleWarning",
    "Step",
    "UnconnectedError",
    "UnreadError",
    "author",
    "begun",
    "check_steps",
    "for_a_change",
    "fresh",
    "new_token",
    "request_digest",
    "stale",
    "unreachable",
]


CONNECT_S = 2.0
"""How long a read tries to get through to a registry where something else can answer (`Registry.hurried`)."""

OUT_OF_REACH = "the registry cannot be reached"
STILL = "names in ~/ are on this machine and work without it, and so do local files"
"""What goes on when a registry cannot be reached."""


class UnconnectedError(UnavailableError):
    """Nobody answers where a registry should be, or its server says that of what is behind it."""


class UnreadError(UnavailableError):
    """A registry cannot be reached, for this reason, and what is asked of it was never read."""

    def __init__(self, reason: str, what: str, *, where: str) -> None:
        super().__init__(f"{OUT_OF_REACH} ({reason}), and {what}", where=where, hint=STILL)
        self.reason = reason


class NewerError(UnsupportedError):
    """A newer `rh` wrote the registry, and this one touches nothing of it."""


class StaleWarning(UserWarning):
    """A registry cannot be reached, and what was read of it before was given instead."""


def begun(url: str) -> None:
    """Say that a registry was made where none was: a misspelt place looks like a new one."""
    log.warning("a new registry was begun at %s", url)


def unreachable(error: RhError) -> RhError:
    """The same error, which says that it is the registry that cannot be reached, and what works without it."""
    if OUT_OF_REACH not in error.message:
        error.message = f"{OUT_OF_REACH}: {error.message}"
    if STILL not in (error.hint or ""):
        error.hint = f"{error.hint}; {STILL}" if error.hint else STILL
    return error


_fresh: ContextVar[bool] = ContextVar("rh_registry_fresh", default=False)


@contextmanager
def fresh() -> Iterator[None]:
    """In this block a registry that cannot be reached is an error, whatever was read of it before."""
    before = _fresh.set(True)
    try:
        yield
    finally:
        _fresh.reset(before)


def stale(message: str) -> None:
    """Say that what follows was read of a registry before.

    Raises:
        UnavailableError: it has to be `fresh`.
    """
    if _fresh.get():
        raise UnavailableError(message, hint=f"try again when it can be reached; {STILL}")
    warn(message, StaleWarning)


@contextmanager
def for_a_change() -> Iterator[None]:
    """What this block reads is for a change, which cannot be made now, whatever was read of the registry before."""
    try:
        yield
    except UnreadError as error:
        raise UnavailableError(
            f"{OUT_OF_REACH} ({error.reason}), and a change needs it", where=error.where, hint=error.hint
        ) from error


class Record(NamedTuple):
    """What is under a key now."""

    key: str
    revision: int
    document: dict[str, Any]
    author: str
    time: float
    """Seconds since the epoch, for people. Order is told by `revision` only."""

    @property
    def etag(self) -> str:
        """For `when=Match(record.etag)`."""
        return str(self.revision)


class Change(NamedTuple):
    """One step in the history of a key. `moved` is the other key of a rename."""

    key: str
    revision: int
    action: Literal["put", "delete"]
    document: dict[str, Any] | None
    author: str
    time: float
    token: str
    moved: str | None = None

    def __repr__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.time))
        moved = f" ({self.moved})" if self.moved is not None else ""
        return f"<Change {self.revision} {self.action} {self.key}{moved} {when} {self.author}>"


class Put(NamedTuple):
    """Store a document under a key."""

    key: str
    document: Document
    when: Condition = ANY


class Delete(NamedTuple):
    """Take a key away. A missing one is `NotFoundError` (`ConflictError` with `Match`)."""

    key: str
    when: Condition = ANY


class Rename(NamedTuple):
    """Put the document of one key under another.

    `when` is about the old key; the new one must not exist, unless `replace`.
    """

    key: str
    to: str
    when: Condition = ANY
    replace: bool = False


Step: TypeAlias = Put | Delete | Rename


class Registry(ABC):
    """One registry. What is abstract is required; the others are made of it."""

    url: str
    """What `open_registry` opened; holds no secret."""
    distant: ClassVar[bool] = False
    """Whether it may be out of reach and keeps nothing here: what is read of it is then mirrored on this machine."""
    connect_s: float | None = None
    """How long a read may take to get through to it, in seconds, if not until the deadline."""

    @property
    def direct(self) -> Registry:
        """The registry itself, which is an error when it cannot be reached: without a mirror, or a replica's word."""
        return self

    def hurried(self) -> Self:
        """The same, whose reads end with `UnconnectedError` where no connection comes about within `CONNECT_S`.

        Once there is one, a read has until the deadline as ever. Changes are not hurried.
        """
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.connect_s = CONNECT_S
        return twin

    @abstractmethod
    def get(self, key: str) -> Record:
        """What is under `key`, or `NotFoundError`."""

    @abstractmethod
    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Record]:
        """Records whose key starts with `prefix`, in key order, those after the key `after` only."""

    @abstractmethod
    def commit(self, steps: Sequence[Step], *, by: str | None = None, token: str | None = None) -> Sequence[Change]:
        """Make all these changes or none, and return them as recorded (a rename is two: the deletion, then the put).

        Args:
            steps: what to change; no key twice.
            by: who says so; by default `author()`.
            token: makes a repetition harmless (promise 3); by default a fresh one.
        """

    @abstractmethod
    def history(self, key: str, *, after: int = 0) -> Iterator[Change]:
        """Every change under `key`, oldest first, those after the revision `after`. Nothing for a key never used."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections. The handle may be used again afterwards."""

    @abstractmethod
    def changes(self, prefix: str = "") -> Iterator[Change]:
        """Every change ever made under keys with this prefix. Those of one commit come together."""

    @abstractmethod
    def replay(self, changes: Iterable[Change]) -> int:
        """Take over changes that `changes` of another registry told, as they are; return how many were new.

        Those that are here already are skipped, so that it can be repeated. Each commit is all or nothing.

        Raises:
            ConflictError: another change is here under that key and revision, or an earlier one is missing.
        """

    def search(
        self, where: Filter, prefix: str = "", *, after: str = "", as_of: float | None = None
    ) -> Iterator[Record]:
        """Records that a filter holds for, as `list` gives them. Back-ends that can keep an index of properties.

        Args:
            where: on the properties of the records (`rh.registry.filters`).
            prefix: of the keys.
            after: only keys after this one.
            as_of: seconds since the epoch: the records as they stood then.
        """
        records = self.list(prefix, after=after) if as_of is None else self._standing(prefix, after, as_of)
        return (record for record in records if where.matches(record.document))

    def _standing(self, prefix: str, after: str, as_of: float) -> Iterator[Record]:
        """The records of a moment, in key order."""
        last: dict[str, Change] = {}
        for change in self.changes(prefix):
            if change.time <= as_of and change.key > after:
                last[change.key] = change
        return (_record(last[key]) for key in sorted(last, key=lambda key: key.encode()) if last[key].action == "put")

    def find(self, key: str) -> Record | None:
        """What is under `key`, or `None`."""
        try:
            return self.get(key)
        except NotFoundError:
            return None

    def put(
        self, key: str, document: Document, *, when: Condition = ANY, by: str | None = None, token: str | None = None
    ) -> Record:
        """Store one document."""
        return _record(self.commit([Put(key, document, when)], by=by, token=token)[-1])

    def delete(self, key: str, *, when: Condition = ANY, by: str | None = None, token: str | None = None) -> None:
        """Take one key away."""
        self.commit([Delete(key, when)], by=by, token=token)

    def rename(
        self,
        key: str,
        to: str,
        *,
        when: Condition = ANY,
        replace: bool = False,
        by: str | None = None,
        token: str | None = None,
    ) -> Record:
        """Move one document to another key, atomically."""
        return _record(self.commit([Rename(key, to, when, replace)], by=by, token=token)[-1])

    def update(
        self,
        key: str,
        change: Callable[[dict[str, Any] | None], Document],
        *,
        by: str | None = None,
        attempts: int = 1000,
    ) -> Record:
        """Read, change, write; again from the start when somebody else was faster.

        `change` gets the document (`None` if there is none) and returns the new one. It may be called more than once.
        """
        for attempt in range(attempts):
            record = self.find(key)
            document = change(None if record is None else record.document)
            try:
                return self.put(key, document, when=ABSENT if record is None else Match(record.etag), by=by)
            except (ConflictError, FileExistsError):
                if attempt == attempts - 1:
                    raise
        raise InvalidError("attempts must be at least 1")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"


def _record(change: Change) -> Record:
    return Record(change.key, change.revision, change.document or {}, change.author, change.time)


def author() -> str:
    """Who we are, for histories: the setting `user`, else the login's name."""
    user = config.get("user")
    if user:
        return str(user)
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"


def new_token() -> str:
    """A token nobody else has."""
    return uuid.uuid4().hex


def check_steps(steps: Sequence[Step], where: str) -> None:
    """Refuse, before anything is written, steps no registry takes: bad keys, bad documents, one key twice."""
    seen: set[str] = set()
    if not steps:
        raise InvalidError("a commit needs at least one change", where=where)
    for step in steps:
        for key in (step.key, step.to) if isinstance(step, Rename) else (step.key,):
            if not key or "\0" in key or len(key) > 1024 or not _encodable(key):
                raise InvalidError(f"not a key: {key[:80]!r}", where=where)
            if key in seen:
                raise InvalidError(f"one commit changes {key!r} twice", where=where)
            seen.add(key)
        if step.when is ABSENT and not isinstance(step, Put):
            raise InvalidError("what is absent cannot be deleted or renamed", where=where)
        if isinstance(step, Put):
            check_document(step.document, where=f"{where} {step.key}")


def _encodable(key: str) -> bool:
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def request_digest(steps: Sequence[Step]) -> str:
    """What a token stands for: equal for equal steps."""
    import hashlib

    plain: list[Any] = []
    for step in steps:
        condition = step.when.etag if isinstance(step.when, Match) else step.when.value
        line: list[Any] = [type(step).__name__, step.key, type(step.when).__name__, condition]
        if isinstance(step, Put):
            line.append(dict(step.document))
        elif isinstance(step, Rename):
            line += [step.to, step.replace]
        plain.append(line)
    return hashlib.sha256(encode({"steps": plain})).hexdigest()
