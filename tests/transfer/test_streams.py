"""Large files that are written as they come."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rh import transfer
from rh.digest import of_bytes
from rh.errors import IntegrityError, TransferError
from rh.progress import Silent
from rh.systems import locate, open_system
from rh.systems.base import Body, Bytes
from rh.systems.memory import MemorySystem
from rh.transfer import Options
from rh.types import Location, Span

MIB = 1 << 20
PART = 16 * MIB
DATA = bytes(range(256)) * 1000 + b"end of a line\n"
WHOLE = (DATA * (5 * PART // len(DATA) + 1))[: 5 * PART - 100]


class _Passed(Body):
    """A body whose pieces pass by a function, which is told where they begin."""

    def __init__(self, body: Body, start: int, see: Callable[[int, bytes], bytes]) -> None:
        self.entry, self._body, self._at, self._see = body.entry, body, start, see

    def __iter__(self) -> Iterator[Bytes]:
        for piece in self._body:
            yield self._see(self._at, bytes(piece))
            self._at += len(piece)


@pytest.fixture
def source(request: pytest.FixtureRequest) -> Location:
    """Nearly five parts, in memory."""
    place = locate(f"memory://streams-{request.node.name}/root")
    open_system(place).write("large", WHOLE)
    return place


def watched(
    monkeypatch: pytest.MonkeyPatch, see: Callable[[int, bytes], bytes] = lambda _at, piece: piece
) -> list[Span | None]:
    """The ranges of the file that are asked for from now on; its pieces pass by `see`."""
    spans: list[Span | None] = []
    usual = MemorySystem.read

    def read(system: MemorySystem, key: str, span: Span | None = None, **more: Any) -> Body:
        body = usual(system, key, span, **more)
        if key != "large":
            return body
        spans.append(span)
        return _Passed(body, span[0] if span else 0, see)

    monkeypatch.setattr(MemorySystem, "read", read)
    return spans


def parts(*bounds: tuple[int, int]) -> list[Span]:
    return [(start * PART, min(stop * PART, len(WHOLE))) for start, stop in bounds]


@pytest.mark.parametrize(
    ("workers", "asked"),
    [(1, parts((0, 4), (4, 5))), (2, parts((0, 2), (2, 4), (4, 5))), (16, parts(*((n, n + 1) for n in range(5))))],
)
def test_parts_that_lie_side_by_side_are_one_request(
    workers: int, asked: list[Span], source: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four at most, and no fewer requests than there are workers."""
    spans = watched(monkeypatch)
    receipt = transfer.copy_tree(source, locate(str(tmp_path)), Options(workers=workers))
    assert sorted(span for span in spans if span) == asked
    assert (tmp_path / "large").read_bytes() == WHOLE
    assert (receipt.done, receipt.bytes_moved) == (1, len(WHOLE))
    assert transfer.verify_tree(locate(str(tmp_path))).ok


def test_what_arrives_damaged_is_read_again_from_the_part_on(
    source: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that were right before it are kept."""
    transfer.copy_tree(source, source.parent / "noted")  # with a manifest, which knows each part
    struck: list[int] = []

    def flip(at: int, piece: bytes) -> bytes:
        if not struck and at <= 2 * PART + MIB < at + len(piece):
            struck.append(at)
            where = 2 * PART + MIB - at
            return piece[:where] + bytes([piece[where] ^ 1]) + piece[where + 1 :]
        return piece

    spans = watched(monkeypatch, flip)
    moved: list[int] = []

    class Adding(Silent):
        def advance(self, files: int, size: int) -> None:
            moved.append(size)

    receipt = transfer.copy_tree(source.parent / "noted", locate(str(tmp_path)), Options(workers=1), progress=Adding())
    assert struck
    assert spans == parts((0, 4), (2, 4), (4, 5))
    assert (tmp_path / "large").read_bytes() == WHOLE
    assert receipt.bytes_moved == sum(moved) == len(WHOLE)


def test_what_stays_damaged_replaces_nothing(source: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file stays, and nothing unfinished lies beside it."""
    noted = source.parent / "noted"
    transfer.copy_tree(source, noted)
    (tmp_path / "large").write_bytes(b"old")
    watched(monkeypatch, lambda at, piece: piece if at else b"?" + piece[1:])
    with pytest.raises(TransferError) as caught:
        transfer.copy_tree(noted, locate(str(tmp_path)), Options(workers=1))
    (failure,) = caught.value.receipt.failed
    assert isinstance(failure.error, IntegrityError)
    assert "not those of the manifest" in str(failure.error)
    assert (tmp_path / "large").read_bytes() == b"old"


def test_cancelled_between_two_parts_and_gone_on_with(
    source: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promises 6 and 28: parts of one request count each by itself."""
    cancel = threading.Event()

    class Stopping(Silent):
        got = 0

        def advance(self, files: int, size: int) -> None:
            self.got += size
            if self.got >= 2 * PART:
                cancel.set()

    spans = watched(monkeypatch)
    target = locate(str(tmp_path / "to"))
    with pytest.raises(TransferError, match="cancelled"):
        transfer.copy_tree(source, target, Options(workers=1), progress=Stopping(), cancel=cancel)
    assert spans == parts((0, 4))
    assert not (tmp_path / "to" / "large").exists()
    spans.clear()
    transfer.copy_tree(source, target, Options(workers=1))
    assert spans == parts((2, 5))
    assert (tmp_path / "to" / "large").read_bytes() == WHOLE
    assert [name for name in os.listdir(tmp_path / "to") if name.startswith(".rh-tmp")] == []


def test_a_part_takes_no_more_memory_than_a_piece(
    source: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes to a disk is in memory by the mebibyte, not by the part."""
    lent: list[int] = []
    usual = transfer.buffered.Buffers.lend

    def lend(buffers: Any, size: int) -> Any:
        lent.append(size)
        return usual(buffers, size)

    monkeypatch.setattr(transfer.buffered.Buffers, "lend", lend)
    transfer.copy_tree(source, locate(str(tmp_path)))
    assert set(lent) == {MIB}
    assert transfer.verify_tree(locate(str(tmp_path))).ok
    assert of_bytes((tmp_path / "large").read_bytes()) == of_bytes(WHOLE)
