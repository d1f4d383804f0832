"""Every ordered pair of systems, on real servers: what arrives is what was sent, by the road the receipt names."""

from __future__ import annotations

from pathlib import Path

import pytest

from rh import observe, transfer
from rh.errors import ConflictError, NotFoundError, UnsupportedError
from rh.progress import Silent
from rh.systems import locate, open_system
from rh.types import Link, Location
from tests.transfer import trees

SYSTEMS = ["file", "ssh-a", "ssh-b", "s3", "gs", "azure"]
BUCKETS = {"s3", "gs", "azure"}
HOSTS = {"ssh-a", "ssh-b"}

pytestmark = [pytest.mark.slow]


def root_of(system: str, tmp_path: Path, name: str) -> Location:
    return locate(str(tmp_path / name)) if system == "file" else locate(name, system)


def road(source: str, target: str) -> str:
    if source == target:
        return "COPY"
    if source == "file":
        return "PUSH"
    if target == "file":
        return "PULL"
    if source in HOSTS and target in BUCKETS:
        return "PUSH"
    if source in BUCKETS and target in HOSTS:
        return "PULL"
    return "RELAY"


@pytest.mark.parametrize("target", SYSTEMS)
@pytest.mark.parametrize("source", SYSTEMS)
def test_a_tree_goes_through_every_pair(source: str, target: str, world: dict[str, str], tmp_path: Path) -> None:
    """Promises 3, 4 and 19, and the route proven by counting."""
    files = trees.make(tmp_path / "tree")
    here = locate(str(tmp_path / "tree"))
    begin = root_of(source, tmp_path, "begin")
    first = transfer.copy_tree(here, begin)
    assert (first.done, first.skipped, first.failed) == (len(files), 0, ())

    end = root_of(target, tmp_path, "end/sub")
    with observe.counting() as counts:
        receipt = transfer.copy_tree(begin, end)
    assert (receipt.files, receipt.done, receipt.skipped) == (len(files), len(files), 0)
    assert receipt.digest == first.digest
    assert receipt.route == road(source, target)
    if receipt.route != "RELAY" and "file" not in (source, target):
        # Manifests pass through here, data does not.
        assert sum(counts.received.values()) + sum(counts.sent.values()) < receipt.bytes_moved / 4

    with observe.counting() as counts:
        again = transfer.copy_tree(begin, end)
    assert (again.done, again.bytes_moved, again.digest) == (0, 0, first.digest)
    assert not any(verb in ("write", "delete", "copy") for (_, verb), n in counts.requests.items() if n)

    back = tmp_path / "back"
    last = transfer.copy_tree(end, locate(str(back)))
    assert last.digest == first.digest
    assert trees.read(back) == trees.read(tmp_path / "tree")
    assert transfer.verify_tree(end).ok


@pytest.mark.parametrize("target", SYSTEMS)
@pytest.mark.parametrize("source", SYSTEMS)
def test_a_large_file_goes_through_every_pair(source: str, target: str, world: dict[str, str], tmp_path: Path) -> None:
    """Parts, a single file, another name."""
    import random

    data = random.Random(7).randbytes(35 * 1024 * 1024 + 11)
    (tmp_path / "f.bin").write_bytes(data)
    begin = root_of(source, tmp_path, "one") / "file one.bin"
    first = transfer.copy_file(locate(str(tmp_path / "f.bin")), begin)
    end = root_of(target, tmp_path, "two") / "file two.bin"
    with observe.counting() as counts:
        receipt = transfer.copy_file(begin, end)
    assert receipt.digest == first.digest
    assert receipt.digest is not None
    assert receipt.digest.startswith("sha256-16m:")
    assert receipt.bytes_moved == len(data)
    assert receipt.route == road(source, target)
    if receipt.route != "RELAY" and "file" not in (source, target):
        assert sum(counts.received.values()) + sum(counts.sent.values()) < len(data) / 4
    transfer.copy_file(end, locate(str(tmp_path / "back.bin")))
    assert (tmp_path / "back.bin").read_bytes() == data


@pytest.mark.parametrize("target", SYSTEMS)
def test_links_are_kept_where_there_are_links(target: str, world: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "real").write_text("1")
    (tmp_path / "tree" / "link").symlink_to("real")
    end = root_of(target, tmp_path, "links")
    keep = transfer.Options(links="keep")
    if target in BUCKETS:
        with pytest.raises(UnsupportedError, match="links="):
            transfer.copy_tree(locate(str(tmp_path / "tree")), end, keep)
        return
    first = transfer.copy_tree(locate(str(tmp_path / "tree")), end, keep)
    transfer.copy_tree(end, locate(str(tmp_path / "back")), keep)
    assert (tmp_path / "back" / "link").readlink() == Path("real")
    assert transfer.copy_tree(locate(str(tmp_path / "tree")), end, keep).done == 0
    assert transfer.verify_tree(end).digest == first.digest


@pytest.mark.parametrize("target", SYSTEMS)
def test_other_links_and_executable_bits_are_found(target: str, world: dict[str, str], tmp_path: Path) -> None:
    """Promise 2, of what the place keeps."""
    (tmp_path / "tree").mkdir()
    for name in ("real", "run"):
        (tmp_path / "tree" / name).write_text(name)
    (tmp_path / "tree" / "run").chmod(0o755)
    here, end = locate(str(tmp_path / "tree")), root_of(target, tmp_path, "told")
    keep = transfer.Options(links="keep")
    if target not in BUCKETS:
        for name in ("link", "other", "same"):
            (tmp_path / "tree" / name).symlink_to("real")
    transfer.copy_tree(here, end, keep)
    assert transfer.verify_tree(end).ok
    system = open_system(end)
    system.write("run", b"run", executable=False)
    if target in BUCKETS:
        assert transfer.verify_tree(end).ok
        return
    system.delete(["link", "other"])
    system.write("link", Link("run"))
    system.write("other", b"real")
    found = transfer.verify_tree(end)
    assert (found.modified, found.corrupt, found.missing, found.added) == (("link", "other", "run"), (), (), ())
    transfer.copy_tree(here, end, keep)
    assert transfer.verify_tree(end).ok


@pytest.mark.parametrize("store", sorted(BUCKETS))
def test_a_bucket_that_is_not_there_is_one_refusal(store: str, world: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "f").write_text("1")
    scheme = world[store].partition("://")[0]
    with pytest.raises(NotFoundError, match="no-such"):
        transfer.copy_tree(locate(str(tmp_path)), locate(f"{scheme}://no-such-bucket-here/x"))
    with pytest.raises(NotFoundError):
        transfer.copy_tree(locate("never-written", store), locate(str(tmp_path / "never")))
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("target", ["s3", "gs", "azure"])
def test_what_a_host_sent_is_confirmed_by_the_page(target: str, world: dict[str, str], tmp_path: Path) -> None:
    """Hundreds of files cost a few listings; the one that somebody replaced meanwhile is asked for by itself."""
    for number in range(400):
        (tmp_path / f"{number:03}").write_bytes(b"%d" % number)
    there, end = locate("sent", "ssh-a"), locate("sent", target)
    transfer.copy_tree(locate(str(tmp_path)), there)
    with observe.counting() as counts:
        receipt = transfer.copy_tree(there, end)
    assert (receipt.route, receipt.done) == ("PUSH", 400)
    assert counts.total(target) < 40, counts.requests
    assert receipt.digest == transfer.digest_tree(end) == transfer.digest_tree(locate(str(tmp_path)))


class _Writing(Silent):
    """Somebody writes just when it is known what there is."""

    def __init__(self, place: Location) -> None:
        self._system = open_system(place)

    def total(self, files: int, size: int) -> None:
        self._system.write("b", b"written")


@pytest.mark.parametrize("target", SYSTEMS)
def test_what_is_written_while_a_tree_is_read_is_no_bit_rot(target: str, world: dict[str, str], tmp_path: Path) -> None:
    """Nor is its digest taken for that of what was listed, also where the place computes it itself."""
    (tmp_path / "tree").mkdir()
    for name in "abc":
        (tmp_path / "tree" / name).write_text(name)
    end = root_of(target, tmp_path, "written")
    transfer.copy_tree(locate(str(tmp_path / "tree")), end)
    found = transfer.verify_tree(end, progress=_Writing(end))
    assert (found.modified, found.corrupt, found.unreadable, found.digest) == (("b",), (), (), None)
    open_system(end).write("b", b"once more")
    with pytest.raises(ConflictError, match="changed"):
        transfer.digest_tree(end, progress=_Writing(end))
    assert transfer.digest_tree(end) == transfer.verify_tree(end).digest
