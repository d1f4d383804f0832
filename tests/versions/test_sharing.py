"""What this machine keeps of versions is given out by sharing its blocks, where the file system can (reflinks)."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rh
from rh import observe
from rh.systems.local import copies
from rh.versions import cache

MIB = 1 << 20

# Five copies of a file of 80 MiB, which is on this disk twice (as it was, and in the cache), are on one of 320 MiB.
GIVES_OUT = """
import os, sys
import rh
from rh.testing import servers
from rh import config, observe

top = sys.argv[1]
os.environ["RH_HOME"] = top + "/home"
server = {name: value for name, value in zip(sys.argv[2::2], sys.argv[3::2])}
if server:
    config.register("s3", {"kind": "s3", **server})
data = os.urandom(80 << 20)
os.makedirs(top + "/live/sub")
with open(top + "/live/sub/large.bin", "wb") as file:
    file.write(data)
live = rh.folder(path=top + "/live")
if server:
    live = live.to("s3", path="live")
live.save("cats").commit()
os.unlink(top + "/live/sub/large.bin")
pinned = rh.folder("cats:v1")
pinned.to(path=top + "/out/0")
with observe.counting() as counts:
    for number in range(1, 6):
        copy = pinned.to(path=f"{top}/out/{number}")
        assert copy.receipt.bytes_moved == len(data), copy.receipt
assert not counts.received["s3"], counts.received
with open(top + "/out/1/sub/large.bin", "r+b") as file:
    file.write(b"changed")
for number in (0, 2, 3, 4, 5):
    with open(f"{top}/out/{number}/sub/large.bin", "rb") as file:
        assert file.read() == data
from rh.versions import cache
assert cache.verify()[1] == []
assert pinned.verify().ok
print("shared")
"""


@pytest.fixture(params=["btrfs", "xfs"])
def disk(request, tmp_path):
    """A command's beginning that runs it with a fresh disk of 320 MiB that can share blocks, mounted for it alone."""
    image, top = tmp_path / "image", tmp_path / "disk"
    top.mkdir()
    with open(image, "wb") as file:
        file.truncate(320 * MIB)
    subprocess.run([f"/usr/sbin/mkfs.{request.param}", "-q", image], check=True, stderr=subprocess.DEVNULL)
    # The mount is in a name space of its own, which ends with the command.
    mounted = 'mount -o loop "$0" "$1" && shift && exec "$@"'
    return top, ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounted, str(image), str(top)]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["here", "s3"])
def test_copies_share_their_blocks(disk, where, request):
    """From the cache, and from a store on this machine: more copies than there is room for, each a file of its own."""
    top, command = disk
    told = []
    if where == "s3":
        server = request.getfixturevalue("s3_server")
        root = f"s3://{server.buckets[0]}/{top.parent.name}"
        told = [str(one) for pair in server.settings(root=root).items() if pair[0] != "kind" for one in pair]
    done = subprocess.run(
        [*command, sys.executable, "-c", GIVES_OUT, str(top), *told],
        stdout=subprocess.PIPE, text=True, env=os.environ, check=False, cwd="/",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "shared\n")


@pytest.fixture
def pinned(world, tmp_path, monkeypatch):
    """A version in a bucket whose large file is in the cache."""
    monkeypatch.setattr(copies, "_cannot_clone", set())
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "large").write_bytes(os.urandom(3 * MIB))
    (tmp_path / "live" / "run").write_bytes(b"#!" + os.urandom(2 * MIB))
    (tmp_path / "live" / "run").chmod(0o755)
    rh.folder(path=tmp_path / "live").to("s3", path="live").save("cats").commit()
    folder = rh.folder("cats:v1")
    folder.to(path=tmp_path / "first")
    return folder


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSPC, errno.EPERM])
def test_what_cannot_be_shared_is_copied(pinned, code, tmp_path, monkeypatch):
    """Whatever the file system says to the request to share, there is a copy; it is asked once per pair of disks."""
    asked = []

    def refuse(target, request, source):
        asked.append(request)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    with observe.counting() as counts:
        for number in range(2):
            copy = pinned.to(path=tmp_path / f"out{number}")
            assert copy.receipt.digest == pinned.digest()
            for name in ("large", "run"):
                out, live = tmp_path / f"out{number}" / name, tmp_path / "live" / name
                assert out.read_bytes() == live.read_bytes()
                assert out.stat().st_mode == live.stat().st_mode
    assert asked == [copies._FICLONE]
    assert not counts.received["s3"]


def test_a_copy_is_no_link(pinned, tmp_path):
    """Who changes a copy in its place changes neither the cache nor any other copy."""
    pinned.to(path=tmp_path / "one")
    with open(tmp_path / "one" / "large", "r+b") as file:
        file.write(b"changed")
    assert (tmp_path / "one" / "large").stat().st_nlink == 1
    assert cache.verify()[1] == []
    assert pinned.to(path=tmp_path / "two").receipt.digest == pinned.digest()


def test_what_is_damaged_in_the_cache_is_not_given_out(pinned, tmp_path):
    """It is dropped and fetched again, also where nothing but its bytes changed (promise 2)."""
    (kept,) = (one.path for one in cache.ls("objects") if one.size == 3 * MIB)
    at = kept.stat()
    with open(kept, "r+b") as file:
        file.seek(1000)
        file.write(b"damaged")
    assert pinned.to(path=tmp_path / "out").receipt.digest == pinned.digest()
    assert (tmp_path / "out" / "large").read_bytes() == (tmp_path / "live" / "large").read_bytes()
    with open(kept, "r+b") as file:
        file.seek(2000)
        file.write(b"damaged")
    os.utime(kept, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert pinned.to(path=tmp_path / "out2").receipt.digest == pinned.digest()
    assert (tmp_path / "out2" / "large").read_bytes() == (tmp_path / "live" / "large").read_bytes()


def test_what_is_damaged_in_a_store_here_is_not_given_out(tmp_path):
    """Of a store on this machine as well: the error names the object, and what was there before stays."""
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "large").write_bytes(os.urandom(3 * MIB))
    rh.folder(path=tmp_path / "live").save("dogs").commit()
    pinned = rh.folder("dogs:v1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "large").write_bytes(b"before")
    (kept,) = Path(os.environ["RH_HOME"], "store", "objects").glob("*/*/*")
    with open(kept, "r+b") as file:
        file.seek(1000)
        file.write(b"damaged")
    with pytest.raises(rh.errors.TransferError):
        pinned.to(path=tmp_path / "out")
    assert (tmp_path / "out" / "large").read_bytes() == b"before"
