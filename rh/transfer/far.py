"""Bytes that do not pass through here.

Server copies, hosts that fetch or send by signed URL, hosts that talk to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import takewhile
from queue import Empty, Queue
from threading import Thread
from typing import NamedTuple, Self, TypeAlias

from rh import digest as digests
from rh.content.rows import PAGE
from rh.content.tree import key_bytes
from rh.digest import Digest
from rh.errors import DeadlineError, IntegrityError, RhError, UnavailableError, UnsupportedError
from rh.observe import log
from rh.systems.abilities import Composed, Direct, Fetching, Multipart, Paging, ServerCopy, Signing, Upload
from rh.systems.base import System
from rh.transfer.mover import Mover, as_rh
from rh.transfer.pieces import LINK_S, Leave, links, objects, told
from rh.transfer.plan import Step
from rh.transfer.route import Way
from rh.transfer.stream import arrived
from rh.transfer.verify import finish
from rh.types import Entry, Location, Outcome, SignedRequest, Span

__all__ = ["move"]

_LISTED = 1_000
_WORTH_LISTING = 50
_WHOLE = 4 * digests.CHUNK
"""Files up to so many bytes are sent to a signed URL in one request."""


def move(mover: Mover, steps: Iterable[Step], way: Way) -> list[Step]:
    """Move the files of these steps without their bytes passing through here.

    Returns:
        The steps that cannot go this way: what they are made of is in pieces that the target cannot copy, or is where
        nobody can be given a link to, or where a host never comes.
    """
    left: list[Step] = []
    steps = iter(steps)
    composed = mover.source.ask(Composed)
    if way is Way.SEND:
        if composed is None:
            _send(mover, mover.source, ((step, step.entry) for step in steps))
        else:
            _send_objects(mover, composed, steps, left.append)
        return left
    pending: dict[str, Step] = {}

    def taken() -> Iterator[Step]:
        for step in steps:
            if mover.stopped:
                return
            if composed is not None:
                step = step._replace(digest=step.entry.etag)  # noqa: PLW2901
            pending[step.key] = step
            yield step

    def leave(step: Step) -> None:
        left.append(pending.pop(step.key))

    try:
        for outcome in _begin(mover, way, composed, taken(), leave):
            arrived(mover, pending.pop(outcome.key), outcome, None)
    except Exception as error:  # noqa: BLE001 - every file in flight is told
        if composed is not None and isinstance(error, UnavailableError | DeadlineError) and not mover.bytes_moved:
            log.info("%s: %s", mover.target.url(), error)
            return [*left, *pending.values(), *steps]
        for step in pending.values():
            mover.failed(step, as_rh(error, mover.target.url(step.key)))
    return left


def _begin(mover: Mover, way: Way, composed: Composed | None, steps: Iterator[Step], leave: Leave) -> Iterator[Outcome]:
    if way is Way.FETCH:
        fetcher = mover.target.ask(Fetching)
        assert fetcher is not None
        return fetcher.fetch_many(links(mover, steps, leave))
    if composed is not None:
        return _objects(mover, way, composed, steps, leave)
    move_many = _mover_of(way, mover, mover.source)
    assert move_many is not None
    return move_many((told(step), step.key) for step in steps)


_Many: TypeAlias = Callable[[Iterable[tuple[Entry, str]]], Iterator[Outcome]]


def _mover_of(way: Way, mover: Mover, source: System) -> _Many | None:
    """What moves entries of a place to keys of the target; `None` if they cannot go this way."""
    target = mover.target
    if way is Way.SERVER:
        copier = target.ask(ServerCopy)
        if copier is None or not copier.can_copy_from(source):
            return None
        return partial(copier.copy_many, source, watch=mover.watch)
    if way is Way.DIRECT_SEND:
        sender = source.ask(Direct)
        return partial(sender.send_to, target) if sender is not None and sender.can_send_to(target) else None
    receiver = target.ask(Direct)
    return partial(receiver.receive_from, source) if receiver is not None and receiver.can_send_to(source) else None


def _objects(mover: Mover, way: Way, composed: Composed, steps: Iterator[Step], leave: Leave) -> Iterator[Outcome]:
    """Move those files that are whole objects of places from which they can go this way. The others are left."""
    for system, files in objects(composed, steps, leave):
        if system is None:
            for step, entry in files:
                yield Outcome(step.key, mover.target.write(step.key, b"", executable=entry.executable))
            continue
        move_many = _mover_of(way, mover, system)
        if move_many is None:
            for step, _ in files:
                leave(step)
            continue
        going = takewhile(lambda _: not mover.stopped, files)
        yield from move_many((entry, step.key) for step, entry in going)


def _send_objects(mover: Mover, composed: Composed, steps: Iterator[Step], leave: Leave) -> None:
    """The same to signed URLs; where a host reaches none of them, all is left."""
    known = (step._replace(digest=step.entry.etag) for step in takewhile(lambda _: not mover.stopped, steps))
    apart: set[Location] = set()
    for system, files in objects(composed, known, leave):
        if system is None:
            for step, entry in files:
                try:
                    made = mover.target.write(step.key, b"", executable=entry.executable)
                except RhError as error:
                    mover.failed(step, error)
                    continue
                arrived(mover, step, Outcome(step.key, made), None)
            continue
        while files and system.location not in apart and system.ask(Fetching) is not None:
            # Files of the same bytes are one object: what is said of it would be said of any of them.
            once = {one[1].key: one for one in files}
            if not _send(mover, system, once.values(), may_leave=True):
                apart.add(system.location)
                break
            files = [one for one in files if once[one[1].key] is not one]  # noqa: PLW2901
        for step, _ in files:
            leave(step)


def _send(mover: Mover, source: System, files: Iterable[tuple[Step, Entry]], *, may_leave: bool = False) -> bool:
    """A host puts its files, each once, to signed URLs of the target, large ones in parts.

    Returns:
        Whether the host reaches the target. If it does not, and they `may_leave`, nothing is said of the files.
    """
    sender, signer, multipart = source.ask(Fetching), mover.target.ask(Signing), mover.target.ask(Multipart)
    assert sender is not None
    assert signer is not None
    pending: dict[str, tuple[Step, Upload | None]] = {}

    def requests() -> Iterator[tuple[Entry, Sequence[tuple[Span, SignedRequest]]]]:
        for step, entry in files:
            if mover.stopped:
                return
            size = entry.size
            try:
                if size <= _WHOLE or multipart is None:
                    pending[entry.key] = (step, None)
                    yield entry, [((0, size), signer.sign_write(step.key, size, expires_s=LINK_S))]
                    continue
                upload = multipart.begin(step.key, size, part_size=digests.chunk_size(size), executable=step.executable)
                pending[entry.key] = (step, upload)
                spans = [(at, min(at + upload.part_size, size)) for at in range(0, size, upload.part_size)]
                parts = [
                    (span, signer.sign_part(upload, number, span[1] - span[0], expires_s=LINK_S))
                    for number, span in enumerate(spans)
                ]
                yield entry, parts
            except Exception as error:  # noqa: BLE001 - told per file
                pending.pop(entry.key, None)
                mover.failed(step, as_rh(error, mover.target.url(step.key)))

    reaches = True
    with _Answers(mover) as answers:
        try:
            for outcome in sender.send_many(requests()):
                answers.take(*pending.pop(outcome.key), outcome)
        except Exception as error:  # noqa: BLE001 - every file in flight is told
            reaches = bool(mover.bytes_moved) or not isinstance(error, UnavailableError | DeadlineError)
            for step, upload in pending.values():
                if upload is not None:
                    _abort(upload)
                if reaches or not may_leave:
                    mover.failed(step, as_rh(error, mover.target.url(step.key)))
            if not reaches:
                log.info("%s: %s", mover.target.url(), error)
    return reaches


def _abort(upload: Upload) -> None:
    """Forget an upload. What went wrong before is what has to be told; `rh sweep` removes what stays."""
    with suppress(RhError):
        upload.abort()


class _Answers:
    """What a host says it has sent, confirmed by the target itself.

    Many small files are confirmed by a listing, a page at a time, where that shows the checksum that was sent. Whatever
    a listing does not confirm is asked for by itself, many at a time. All is confirmed when the block is left; an
    error that leaves it ends the threads.
    """

    def __init__(self, mover: Mover) -> None:
        self._mover = mover
        self._whole: list[_Answer] = []
        self._queue: Queue[_Answer | None] = Queue(4 * mover.workers)
        self._threads = [Thread(target=self._work, name="rh-confirm", daemon=True) for _ in range(mover.workers)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        try:
            if kind is None:
                self._list()
        finally:
            while kind is not None and not self._queue.empty():
                with suppress(Empty):
                    self._queue.get_nowait()
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads if kind is None else ():
            thread.join()

    def take(self, step: Step, upload: Upload | None, outcome: Outcome) -> None:
        """One answer more."""
        answer = _Answer(step, upload, outcome)
        if upload is not None or outcome.entry is None or outcome.entry.check is None:
            self._queue.put(answer)
            return
        self._whole.append(answer)
        if len(self._whole) >= _LISTED:
            self._list()

    def _list(self) -> None:
        """Confirm by a listing what it shows just as it was sent; the others are asked for."""
        whole, self._whole = self._whole, []
        open_ = {answer.step.key: answer for answer in sorted(whole, key=lambda answer: key_bytes(answer.step.key))}
        paging = self._mover.target.ask(Paging)
        if paging is not None and len(whole) >= _WORTH_LISTING:
            first, last = next(iter(open_)), next(reversed(open_))
            seen = 0
            try:
                for page in paging.list_pages(after=first[:-1]):
                    for entry in page:
                        answer = open_.get(entry.key)
                        if answer is not None and answer.is_shown_by(entry):
                            del open_[entry.key]
                            _sent(self._mover, answer, entry)
                    seen += len(page)
                    if key_bytes(page[-1].key) >= key_bytes(last) or seen > 2 * len(whole) + PAGE:
                        break
            except RhError as error:
                log.debug("%s: a listing confirms nothing: %s", self._mover.target.url(), error)
        for answer in open_.values():
            self._queue.put(answer)

    def _work(self) -> None:
        while (answer := self._queue.get()) is not None:
            try:
                _sent(self._mover, answer)
            except Exception as error:  # noqa: BLE001 - told per file
                self._mover.failed(answer.step, as_rh(error, self._mover.target.url(answer.step.key)))


class _Answer(NamedTuple):
    """A file that was sent, in parts or whole, and what its host says of it."""

    step: Step
    upload: Upload | None
    outcome: Outcome

    def is_shown_by(self, entry: Entry) -> bool:
        """Whether an entry of the target is just what was sent, and no later version or another file."""
        sent = self.outcome.entry
        return sent is not None and entry.size == self.step.entry.size and entry.check == sent.check is not None


def _sent(mover: Mover, answer: _Answer, entry: Entry | None = None) -> None:
    """Enter an answer into the books; `entry` is what the target has, where that is known."""
    step, upload, outcome = answer
    where = mover.target.url(step.key)
    if outcome.error is not None or outcome.entry is None or outcome.digest is None:
        if upload is not None:
            _abort(upload)
        mover.failed(step, as_rh(outcome.error or UnsupportedError("no answer", where=where), where))
        return
    try:
        if step.digest is not None and step.digest != outcome.digest:
            raise IntegrityError(
                "the bytes sent are not those known", where=where, expected=step.digest, got=outcome.digest
            )
        if upload is not None:
            entry = finish(upload, (outcome.entry.etag or "").split("\n"), mover.target, step.key, outcome.digest)
        elif entry is None:
            entry = mover.target.head(step.key)
            sent = outcome.entry.check
            if digests.contradict(sent, entry.check):
                raise IntegrityError("what arrived is not what was sent", where=where, expected=sent, got=entry.check)
        if entry.size != step.entry.size:
            raise IntegrityError(
                "what arrived has another size", where=where, expected=str(step.entry.size), got=str(entry.size)
            )
    except Exception as error:  # noqa: BLE001 - told per file
        mover.failed(step, as_rh(error, where))
        if isinstance(error, IntegrityError):
            mover.target.delete([step.key])
        return
    mover.done(step, entry, Digest(outcome.digest, outcome.chunks or b""))
