"""The registry on a bucket prefix, or in a shared directory: a team with no server.

An append-only log of commits is all there is (`docs/registry-format.md`): each entry is written create-only under the
next number, so of two who commit at once one wins, and the other reads what happened and tries again. State is the
replay of the log, which each machine keeps in a replica (`rh.registry.bucket.replica`) and brings up to date before
every answer: one listing, which mostly tells that nothing is new.
"""

from __future__ import annotations

import builtins
import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from rh.errors import (
    ConflictError,
    DeadlineError,
    ExistsError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RhError,
    UnavailableError,
)
from rh.observe import log as logger
from rh.registry.base import (
    CONNECT_S,
    Change,
    Record,
    Registry,
    Step,
    author,
    begun,
    check_steps,
    new_token,
    request_digest,
    stale,
    unreachable,
)
from rh.registry.bucket.hurry import Hurried
from rh.registry.bucket.log import Log, Position, Stored, UnreachableError
from rh.registry.bucket.log_format import SEGMENT, Commit, Entry, entry_key
from rh.registry.bucket.replica import DamagedError, Replica, Replicas
from rh.registry.bucket.steps import applied
from rh.registry.filters import Filter
from rh.systems import locate, open_system
from rh.systems.wrap import Retrying, unwrap

__all__ = ["BucketRegistry"]

T = TypeVar("T")
R = TypeVar("R", Record, Change)

_REPLAYED = 500
_PAUSE_S = 30.0
"""How long readers do not try again to reach a place that did not answer."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.002, 1.0

_silent: dict[str, tuple[float, str]] = {}
"""Registries that did not answer: until when (monotonic) readers take the replica's word, and what was wrong."""


class _State(NamedTuple):
    """A registry as it is now. One without entries has no replica."""

    replica: Replica | None
    position: Position


class BucketRegistry(Registry):
    """A registry below a URL of any system that has create-only writes. Making the handle does no I/O.

    Args:
        url: `s3://bucket/prefix`, `gs://…`, `az://…`, `file:///shared/directory`, or a place on a named system.
    """

    _offline = True
    """Whether the replica has its say where the place cannot be reached."""

    def __init__(self, url: str) -> None:
        self.system = open_system(locate(url))
        self.url = self.system.url()
        settings = self.system.settings
        self._timeout_s = float(settings.get("timeout_s") or 30.0)
        self._identity = f"{self.system.kind}|{settings.get('endpoint_url') or ''}|{self.url}"
        self._log = Log(self.system)
        self._replicas = Replicas(self._identity)

    def __reduce__(self) -> tuple[Any, ...]:
        return (BucketRegistry, (self.url,))

    @property
    def direct(self) -> BucketRegistry:
        found = BucketRegistry(self.url)
        found._offline, found.connect_s = False, self.connect_s
        return found

    # Reading.

    def get(self, key: str) -> Record:
        found = self.find(key)
        if found is None:
            raise NotFoundError(f"nothing is registered as {key!r}", where=self.url)
        return found

    def find(self, key: str) -> Record | None:
        replica = self._fresh()
        try:
            return None if replica is None else replica.records.find(key)
        except IntegrityError as error:
            replica = self._mended(error, replica)
            return None if replica is None else replica.records.find(key)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Record]:
        return self._told(lambda records, last, _: records.list(prefix, after=last.key if last else after))

    def search(
        self, where: Filter, prefix: str = "", *, after: str = "", as_of: float | None = None
    ) -> Iterator[Record]:
        return self._told(
            lambda records, last, _: records.search(where, prefix, after=last.key if last else after, as_of=as_of)
        )

    def history(self, key: str, *, after: int = 0) -> Iterator[Change]:
        return self._told(lambda records, last, _: records.history(key, after=last.revision if last else after))

    def changes(self, prefix: str = "") -> Iterator[Change]:
        # Every replica tells them in the order of the log.
        return self._told(lambda records, _, told: itertools.islice(records.changes(prefix), told, None))

    def close(self) -> None:
        self.system.close()

    def _told(self, ask: Callable[[Registry, R | None, int], Iterator[R]]) -> Iterator[R]:
        """What the replica tells; where it is damaged, a new one goes on after the last that was told.

        Args:
            ask: asks a replica for what comes after the last one told, or after so many.
        """
        last: R | None = None
        told = 0
        replica, mended = self._fresh(), False
        while replica is not None:
            try:
                for one in ask(replica.records, last, told):
                    last, told = one, told + 1
                    yield one
                return
            except IntegrityError as error:
                if mended:
                    raise
                replica, mended = self._mended(error, replica), True

    def _fresh(self) -> Replica | None:
        """The replica, up to date; where the place cannot be reached, as it is, with a warning. Else an error."""
        replica = self._replicas.current()
        if not self._offline:
            try:
                state = self._state(hurried=self.connect_s is not None)
            except UnreachableError as problem:
                raise unreachable(problem.cause) from problem
            return None if state is None else state.replica
        until, reason = _silent.get(self._identity, (0.0, ""))
        if replica is not None and time.monotonic() < until and _usable(replica):
            self._warn(reason)
            return replica
        try:
            state = self._state(hurried=True)
        except UnreachableError as problem:
            replica = self._replicas.current()
            if replica is None or not _usable(replica):
                raise unreachable(problem.cause) from problem
            _silent[self._identity] = (time.monotonic() + _PAUSE_S, problem.cause.message)
            self._warn(problem.cause.message)
            return replica
        return None if state is None else state.replica

    def _warn(self, reason: str) -> None:
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(self._replicas.touched()))
        stale(
            f"{self.url} cannot be reached ({reason}): this is what it held at {at}."
            " Changes since are not in it, and nothing can be saved until it is back"
        )

    # The state.

    def _state(self, *, hurried: bool = False) -> _State | None:
        """The registry as it is now; `None` where there is none. A replica that is damaged is made anew.

        With `hurried`, and where there is a replica, it is not tried for long to get through to the place.
        """
        replica, position = self._replicas.current(), None
        if replica is not None:
            try:
                position = replica.position()
                log = Log(Retrying(Hurried(unwrap(self.system), CONNECT_S))) if hurried else self._log
                now = None if position is None else self._caught_up(replica, position, log)
            except DamagedError as error:
                logger.warning("a replica is made anew: %s", error)
                position = now = None
            if now is not None:
                _silent.pop(self._identity, None)
                self._replicas.touch()
                return _State(replica, now)
        state = self._rebuilt(position)
        _silent.pop(self._identity, None)
        return state

    def _caught_up(self, replica: Replica, position: Position, log: Log) -> Position | None:
        """Take over what is new; `None` if the log does not go on from where the replica ends."""
        there = log.listed(position.sequence)
        if position.sequence not in there.etags:
            return None
        etag = there.etags[position.sequence]
        if etag is None or etag != position.etag:
            stored = log.entry(position.sequence, etag)
            if Entry.digest(stored.data) != position.digest:
                return None
            replica.retag(position, stored.etag)
        for entries in log.after(position.sequence, position.digest, there):
            replica.go_on(position.id, entries)
            position = entries[-1].position(position.id)
        return position

    def _rebuilt(self, known: Position | None) -> _State | None:
        """The registry, from the log alone; `known` is where a replica ends that the log does not go on from."""
        header = self._log.header()
        if header is None and known is not None:
            # A disk that is not mounted looks like this; names that were there are not taken for new ones.
            gone = UnavailableError(
                "the registry that was here is gone: either its place is not mounted, or it was removed on purpose, "
                f"and then {self._replicas.pointer} is to be deleted",
                where=self.url,
                hint="mount it again",
            )
            raise UnreachableError(gone)
        if header is None:
            return None
        identity, digest = header
        if known is not None and known.id == identity:
            raise IntegrityError(
                f"the registry's log no longer has entry {known.sequence} as it was",
                where=self.system.url(entry_key(known.sequence)),
                hint=f"was an older copy put back? To take what is there now for true, delete {self._replicas.pointer}",
            )
        position = Position(identity, 0, digest)
        replica: Replica | None = None
        try:
            for entries in self._log.after(0, digest, self._log.listed(0, far=True)):
                if replica is None:
                    replica = self._replicas.new()
                    replica.begin(identity, entries)
                else:
                    replica.go_on(identity, entries)
                position = entries[-1].position(identity)
        except BaseException:
            if replica is not None:
                self._replicas.drop(replica)
            raise
        if replica is not None:
            self._replicas.publish(replica)
        return _State(replica, position)

    def _mended(self, error: IntegrityError, damaged: Replica | None) -> Replica | None:
        """Another replica in the place of a damaged one."""
        current = self._replicas.current()
        if current is not None and damaged is not None and current.path != damaged.path:
            return current  # somebody else has made it
        logger.warning("a replica is made anew: %s", error)
        try:
            state = self._rebuilt(None)
        except UnreachableError as problem:
            raise unreachable(problem.cause) from error
        return None if state is None else state.replica

    # Writing.

    def commit(self, steps: Sequence[Step], *, by: str | None = None, token: str | None = None) -> Sequence[Change]:
        check_steps(steps, self.url)
        by, token, request = by or author(), token or new_token(), request_digest(steps)

        def make(replica: Replica | None) -> tuple[Sequence[Commit], Sequence[Change]]:
            done = None if replica is None else replica.token(token)
            if done is not None:
                if done[0] not in (request, ""):  # none is known of what was taken over
                    raise InvalidError("this token was used for other changes", where=self.url)
                commits = self._log.entry(done[1]).entry.commits
                return [], [change for commit in commits if commit.token == token for change in commit.changes]
            changes = applied(
                steps,
                (lambda _: None) if replica is None else replica.records.find,
                (lambda _: 0) if replica is None else replica.newest,
                stamp=(by, time.time(), token),
                where=self.url,
            )
            return [Commit(token, request, changes)], changes

        return self._commit(make)

    def replay(self, changes: Iterable[Change]) -> int:
        groups = itertools.groupby(changes, key=lambda change: change.token)
        commits = (Commit(token, "", builtins.list(made)) for token, made in groups)
        new = 0
        while batch := builtins.list(itertools.islice(commits, _REPLAYED)):

            def make(replica: Replica | None, batch: Sequence[Commit] = batch) -> tuple[Sequence[Commit], int]:
                missing = self._missing(replica, batch)
                return missing, sum(len(commit.changes) for commit in missing)

            new += self._commit(make)
        return new

    def _missing(self, replica: Replica | None, batch: Sequence[Commit]) -> Sequence[Commit]:
        """What of these commits is not here yet."""
        newest: dict[str, int] = {}

        def is_new(change: Change) -> bool:
            key, revision = change.key, change.revision
            last = newest.get(key)
            if last is None:
                told = () if replica is None else replica.records.history(key, after=max(revision - 2, 0))
                near = builtins.list(itertools.islice(told, 2))
                there = next((one for one in near if one.revision == revision), None)
                if there == change:
                    return False
                if there is not None:
                    raise ConflictError(
                        f"{key!r} has another change as revision {revision}, by {there.author}", where=self.url
                    )
                last = near[-1].revision if near else 0
            if last != revision - 1:
                raise ConflictError(f"{key!r} has no revision {revision - 1}", where=self.url)
            newest[key] = revision
            return True

        found = [commit._replace(changes=[one for one in commit.changes if is_new(one)]) for commit in batch]
        return [commit for commit in found if commit.changes]

    def _commit(self, make: Callable[[Replica | None], tuple[Sequence[Commit], T]]) -> T:
        """Write what `make` makes of the state as the next entry; from the start when somebody else was faster."""
        deadline = time.monotonic() + self._timeout_s
        longest = _FIRST_WAIT_S
        while True:
            try:
                state = self._state()
                replica = None if state is None else state.replica
                try:
                    commits, answer = make(replica)
                except IntegrityError as error:
                    commits, answer = make(self._mended(error, replica))
            except UnreachableError as problem:
                raise unreachable(problem.cause) from problem
            if not commits:
                return answer
            if state is None:
                self._log.create()
                begun(self.url)
                continue
            position = state.position
            try:
                stored = self._log.append(Entry(position.sequence + 1, position.digest, commits))
            except ExistsError as error:
                if time.monotonic() > deadline:
                    raise DeadlineError(
                        f"others were faster for {self._timeout_s:g} s", where=self.url, hint="try again"
                    ) from error
                # Who is often too late waits longer, so that many do not get in each other's way for ever.
                time.sleep(random.uniform(0, longest))  # noqa: S311 - no secret
                longest = min(2 * longest, _LONGEST_WAIT_S)
                continue
            self._written(replica, position.id, stored)
            return answer

    def _written(self, replica: Replica | None, identity: str, stored: Stored) -> None:
        """Take over our own entry. The log has it already, so nothing that goes wrong here is an error."""
        sequence = stored.entry.sequence
        try:
            if replica is None:
                replica = self._replicas.new()
                replica.begin(identity, [stored])
                self._replicas.publish(replica)
            else:
                replica.go_on(identity, [stored])
                self._replicas.touch()
            if sequence % SEGMENT == SEGMENT - 1:
                entries = replica.segment(sequence // SEGMENT)
                if entries:
                    self._log.seal(sequence // SEGMENT, entries)
        except (RhError, OSError) as error:
            logger.debug("%s: entry %d is in the log, but: %s", self.url, sequence, error)


def _usable(replica: Replica) -> bool:
    try:
        return replica.position() is not None
    except DamagedError:
        return False
