"""Large files on their way into a store are put by on a disk of this machine, and nothing of them stays there."""

from __future__ import annotations

import errno
import io
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rh.errors import FullError, NotFoundError, UnsupportedError
from rh.systems import locate
from rh.versions.edit import Edit
from rh.versions.export import write_file
from rh.versions.spooled import Spooled
from rh.versions.store import Store
from tests.versions.made import commit

MIB = 1 << 20
BIG = random.Random(2).randbytes(17 * MIB + 3)

DYING = """
import io, os, signal, sys
from rh.systems import locate
from rh.versions.edit import Edit
from rh.versions.export import read_file
from rh.versions.packs import Writer
from rh.versions.store import Store
Writer.add = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
store = Store.at(locate(sys.argv[1]))
if sys.argv[2:]:
    read_file(sys.argv[2], store)
with Edit(store, None) as edit:
    edit.add("large", io.BytesIO(bytes(17 << 20)))
"""


@pytest.mark.parametrize("what", ["a file object", "a version's file"])
def test_a_killed_process_leaves_nothing(what: str, tmp_path: Path) -> None:
    """`kill -9` when all of a large file is put by."""
    there = Store.at(locate(tmp_path / "there"))
    write_file(commit(there, {"large": BIG}), there, tmp_path / "v1.rh")
    scratch, home = tmp_path / "scratch", tmp_path / "home"
    scratch.mkdir()
    arguments = [str(tmp_path / "store"), *([str(tmp_path / "v1.rh")] if what == "a version's file" else [])]
    environment = {**os.environ, "TMPDIR": str(scratch), "RH_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", DYING, *arguments], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(scratch.iterdir()) == []
    assert not [path for path in home.rglob("*") if path.is_file() and path.stat().st_size > MIB]


def test_a_disk_that_is_full_is_told(tmp_path: Path) -> None:
    """The error names the directory, and is not one of a file object that cannot be read."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Edit(Store.at(locate("memory://spooled/.rh-store")), None) as edit:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MIB, before[1]))
            with pytest.raises(FullError, match="put by"):
                edit.add("large", io.BytesIO(BIG))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        edit.add("large", io.BytesIO(BIG))

    def broken() -> None:
        raise OSError(errno.EIO, "the file object's own")

    with pytest.raises(OSError, match="the file object's own"):
        Spooled(iter(broken, b""), tmp_path)


def test_the_one_file(tmp_path: Path) -> None:
    """It is a system to read from, as others are, and to nothing else."""
    with Spooled([BIG[:MIB], BIG[MIB:]], tmp_path) as spooled:
        assert list(spooled.list()) == [spooled.head("data")] == [spooled.entry]
        assert list(spooled.list("other")) == list(spooled.list(after="data")) == []
        assert spooled.read("data").read() == BIG
        assert spooled.read("data", (5, 2 * MIB)).read() == BIG[5 : 2 * MIB]
        assert spooled.read("data", (17 * MIB, 99 * MIB)).read() == BIG[17 * MIB :]
        with pytest.raises(NotFoundError):
            spooled.read("other")
        for refused in (lambda: spooled.write("data", b""), lambda: spooled.delete(["data"]), lambda: spooled.at("x")):
            with pytest.raises(UnsupportedError):
                refused()
    assert list(tmp_path.iterdir()) == []
