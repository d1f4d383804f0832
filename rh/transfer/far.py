"""Bytes that do not pass through here.

Server copies, hosts that fetch or send by signed URL, hosts that talk to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Queue
from threading import Thread

from rh import digest as digests
from rh.digest import Digest
from rh.errors import IntegrityError, UnsupportedError
from rh.systems.abilities import Direct, Fetching, Multipart, ServerCopy, Signing, Upload
from rh.transfer.mover import Mover, as_rh
from rh.transfer.plan import Step
from rh.transfer.route import Way
from rh.transfer.stream import arrived
from rh.types import Entry, Outcome, SignedRequest, Span

__all__ = ["move"]

_WHOLE = 4 * digests.CHUNK
"""Files up to so many bytes are sent to a signed URL in one request."""


def move(mover: Mover, steps: Iterable[Step], way: Way) -> None:
    """Move the files of these steps without their bytes passing through here."""
    if way is Way.SEND:
        _send(mover, steps)
        return
    pending: dict[str, Step] = {}

    def taken() -> Iterator[Step]:
        for step in steps:
            if mover.stopped:
                return
            pending[step.key] = step
            yield step

    try:
        for outcome in _begin(mover, way)(taken()):
            arrived(mover, pending.pop(outcome.key), outcome, None)
    except Exception as error:  # noqa: BLE001 - every file in flight is told
        for step in pending.values():
            mover.failed(step, as_rh(error, mover.target.url(step.key)))


def _begin(mover: Mover, way: Way) -> Callable[[Iterator[Step]], Iterator[Outcome]]:
    source, target = mover.source, mover.target

    def pairs(steps: Iterator[Step]) -> Iterator[tuple[Entry, str]]:
        return ((_told(step), step.key) for step in steps)

    if way is Way.SERVER:
        copier = target.ask(ServerCopy)
        assert copier is not None
        return lambda steps: copier.copy_many(source, pairs(steps))
    if way is Way.DIRECT_SEND:
        sender = source.ask(Direct)
        assert sender is not None
        return lambda steps: sender.send_to(target, pairs(steps))
    if way is Way.DIRECT_RECEIVE:
        receiver = target.ask(Direct)
        assert receiver is not None
        return lambda steps: receiver.receive_from(source, pairs(steps))
    fetcher, signer = target.ask(Fetching), source.ask(Signing)
    assert fetcher is not None
    assert signer is not None

    def signed(steps: Iterator[Step]) -> Iterator[tuple[Entry, str, SignedRequest]]:
        return ((_told(step), step.key, signer.sign_read(step.entry.key)) for step in steps)

    return lambda steps: fetcher.fetch_many(signed(steps))


def _told(step: Step) -> Entry:
    """The source's entry, with the executable bit that perhaps only its manifest knows."""
    return step.entry if step.executable is None else step.entry._replace(executable=step.executable)


def _send(mover: Mover, steps: Iterable[Step]) -> None:
    """The source host puts its files to signed URLs of the target, large ones in parts."""
    sender, signer, multipart = mover.source.ask(Fetching), mover.target.ask(Signing), mover.target.ask(Multipart)
    assert sender is not None
    assert signer is not None
    pending: dict[str, tuple[Step, Upload | None]] = {}

    def requests() -> Iterator[tuple[Entry, Sequence[tuple[Span, SignedRequest]]]]:
        for step in steps:
            if mover.stopped:
                return
            size = step.entry.size
            try:
                if size <= _WHOLE or multipart is None:
                    pending[step.entry.key] = (step, None)
                    yield step.entry, [((0, size), signer.sign_write(step.key, size))]
                    continue
                upload = multipart.begin(step.key, size, part_size=digests.chunk_size(size), executable=step.executable)
                pending[step.entry.key] = (step, upload)
                spans = [(at, min(at + upload.part_size, size)) for at in range(0, size, upload.part_size)]
                yield (
                    step.entry,
                    [(span, signer.sign_part(upload, number, span[1] - span[0])) for number, span in enumerate(spans)],
                )
            except Exception as error:  # noqa: BLE001 - told per file
                pending.pop(step.entry.key, None)
                mover.failed(step, as_rh(error, mover.target.url(step.key)))

    answers: Queue[tuple[Step, Upload | None, Outcome] | None] = Queue(4 * mover.workers)
    confirming = _confirming(mover, answers)
    try:
        for outcome in sender.send_many(requests()):
            answers.put((*pending.pop(outcome.key), outcome))
    except Exception as error:  # noqa: BLE001 - every file in flight is told
        for step, upload in pending.values():
            if upload is not None:
                upload.abort()
            mover.failed(step, as_rh(error, mover.target.url(step.key)))
    for _ in confirming:
        answers.put(None)
    for thread in confirming:
        thread.join()


def _confirming(mover: Mover, answers: Queue[tuple[Step, Upload | None, Outcome] | None]) -> list[Thread]:
    """Threads that ask the target for what was sent: one question per file, many at a time. `None` ends one."""

    def confirm() -> None:
        while (answer := answers.get()) is not None:
            try:
                _sent(mover, *answer)
            except Exception as error:  # noqa: BLE001 - told per file
                mover.failed(answer[0], as_rh(error, mover.target.url(answer[0].key)))

    threads = [Thread(target=confirm, name="rh-confirm", daemon=True) for _ in range(mover.workers)]
    for thread in threads:
        thread.start()
    return threads


def _sent(mover: Mover, step: Step, upload: Upload | None, outcome: Outcome) -> None:
    where = mover.target.url(step.key)
    if outcome.error is not None or outcome.entry is None or outcome.digest is None:
        if upload is not None:
            upload.abort()
        mover.failed(step, as_rh(outcome.error or UnsupportedError("no answer", where=where), where))
        return
    try:
        if step.digest is not None and step.digest != outcome.digest:
            raise IntegrityError(
                "the bytes sent are not those known", where=where, expected=step.digest, got=outcome.digest
            )
        if upload is not None:
            entry = upload.finish((outcome.entry.etag or "").split("\n"))
        else:
            entry = mover.target.head(step.key)
            sent = outcome.entry.check
            if entry.check and sent and entry.check.partition(":")[0] == sent.partition(":")[0] and entry.check != sent:
                raise IntegrityError("what arrived is not what was sent", where=where, expected=sent, got=entry.check)
        if entry.size != step.entry.size:
            raise IntegrityError(
                "what arrived has another size", where=where, expected=str(step.entry.size), got=str(entry.size)
            )
    except Exception as error:  # noqa: BLE001 - told per file
        if isinstance(error, IntegrityError):
            mover.target.delete([step.key])
        mover.failed(step, as_rh(error, where))
        return
    mover.done(step, entry, Digest(outcome.digest, outcome.chunks or b""))
