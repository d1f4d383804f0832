"""What a transfer holds in memory, and what its journal keeps."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rh import config, transfer
from rh.content.cache import DigestCache
from rh.content.tree import Row
from rh.digest import CHUNK
from rh.systems import locate, open_system
from rh.systems.base import Bytes
from rh.systems.s3.parts import S3Upload
from rh.testing import servers
from rh.transfer.buffered import Buffers
from rh.transfer.journal import Journal
from rh.types import Entry

MIB = 1 << 20


def test_buffers_are_used_again_and_stay_within_their_bounds() -> None:
    """However many threads borrow, no more is lent at once than there is, and what was lent is lent again."""
    buffers, lock = Buffers(8 * MIB), threading.Lock()
    lent, peak, places = 0, 0, set()

    def borrow(size: int) -> None:
        nonlocal lent, peak
        for _ in range(20):
            with buffers.lend(size) as view:
                assert len(view) == size
                with lock:
                    lent += size
                    peak = max(peak, lent)
                    places.add(id(view.obj))
                time.sleep(0.0005)
                with lock:
                    lent -= size

    threads = [threading.Thread(target=borrow, args=(size,)) for size in (3 * MIB, 3 * MIB - 1, 2 * MIB, MIB, 5, 0) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert 3 * MIB <= peak <= 8 * MIB
    assert len(places) < 120
    with buffers.lend(20 * MIB) as view:  # larger than all there is: alone
        assert len(view) == 20 * MIB


def test_no_part_waits_for_a_later_one(
    s3_server: servers.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that puts parts together as they come holds on to later ones, up to a limit, and then lets all wait."""
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 12 * CHUNK)
    (tmp_path / "medium").write_bytes(bytes(CHUNK // 2))  # so that there are more threads than find room for a part
    begun: list[int] = []
    usual = S3Upload.store

    def store(upload: S3Upload, number: int, data: Bytes) -> str:
        begun.append(number)
        return usual(upload, number, data)

    monkeypatch.setattr(S3Upload, "store", store)
    config.register("there", s3_server.settings())
    with config.override({"memory_mb": 2 * CHUNK // MIB}):
        receipt = transfer.copy_tree(locate(str(tmp_path)), locate("in-order", "there"))
    assert receipt.files == 2
    assert sorted(begun) == [*range(12)]
    assert max(abs(at - number) for at, number in enumerate(begun)) < 4


CHILD = """
import json, sys
from rh import config, transfer
from rh.systems import locate, open_system
def peak_kib():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
source, target, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
config.register("there", settings)
with config.override({"memory_mb": 16}):
    up = locate("memory-bound", "there")
    transfer.copy_tree(locate(source + "/warm"), up)  # what the SDKs hold is not ours
    transfer.copy_tree(up, locate(target + "/warm"))
    open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far, our parent's among it
    before = peak_kib()
    transfer.copy_tree(locate(source + "/tree"), up / "tree")
    transfer.copy_tree(up / "tree", locate(target + "/tree"))
    print(peak_kib() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("store", ["s3_server", "gcs_server", "azure_server"])
def test_memory_is_bounded_whatever_the_sizes(
    store: str, tmp_path: Path, request: pytest.FixtureRequest, python: Any
) -> None:
    """Sixteen workers over 230 MiB of tiny, medium and large files hold a few buffers, not a file each."""
    server = request.getfixturevalue(store)
    (tmp_path / "a" / "warm").mkdir(parents=True)
    (tmp_path / "a" / "warm" / "f").write_bytes(b"warm")
    (tmp_path / "a" / "tree").mkdir()
    for number, size in enumerate([MIB] * 60 + [5 * MIB] * 20 + [35 * MIB] * 2):
        (tmp_path / "a" / "tree" / f"f{number:02}").write_bytes(os.urandom(size))
    grown = int(python(CHILD, str(tmp_path / "a"), str(tmp_path / "b"), json.dumps(dict(server.settings())))) / 1024
    assert grown <= 16 + 64, f"{grown:.0f} MiB: the buffers, and what the allocator keeps for each thread"
    there, back = tmp_path / "a" / "tree", tmp_path / "b" / "tree"
    assert all((back / path.name).read_bytes() == path.read_bytes() for path in there.iterdir())


def test_a_journal_keeps_what_was_done(tmp_path: Path) -> None:
    """Finished files are written some at a time, what matters for uploads at once; closing loses nothing."""
    source, target = open_system(locate(str(tmp_path / "a"))), open_system(locate(str(tmp_path / "b")))
    digest = "sha256:" + "0" * 64

    def done(journal: Journal, number: int) -> None:
        row = Row(f"k{number}", 1, "file", digest, f"t{number}")
        journal.done(Entry(f"k{number}", 1, etag=f"s{number}"), row, settled=True)

    journal = Journal(source, target)
    for number in range(50):
        done(journal, number)
    size = journal.path.stat().st_size
    assert size > 0
    journal.part("big", 0, b"raw")
    assert journal.path.stat().st_size > size
    whole = journal.path.stat().st_size
    done(journal, 50)
    journal.close(complete=False)
    assert journal.path.stat().st_size > whole
    again = Journal(source, target)
    try:
        assert again.path == journal.path
        assert again.uploads == {}
        known = DigestCache(target)
        for number in range(51):
            row = known.get(f"k{number}", f"t{number}")
            assert row is not None
            assert row.digest == digest
    finally:
        again.close(complete=True)
    assert not journal.path.exists()
