"""Transfers over a wire that lies, breaks and falls silent, to real servers."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from rh import config, transfer
from rh.content import manifest
from rh.errors import ConflictError, DeadlineError, IntegrityError, TransferError, UnavailableError
from rh.systems import locate, open_system
from rh.testing import servers
from rh.testing.faults import Bandwidth, Cut, Delay, DropAnswer, Duplicate, FaultProxy, Flip, Status, Swallow, Truncate
from rh.types import Location
from tests.transfer import trees

pytestmark = [pytest.mark.slow]

STORES = ["s3", "gs", "azure"]


def tree(root: Path, *, files: int = 60, size: int = 3_000) -> Location:
    rng = random.Random(files)
    for n in range(files):
        path = root / f"d{n % 7}" / f"f{n:03}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(size))
    return locate(str(root))


def content(root: Path) -> dict[str, bytes]:
    return {key: value[0] for key, value in trees.read(root).items() if value is not None}


@pytest.fixture
def store(request: pytest.FixtureRequest):
    return request.getfixturevalue({"s3": "s3_server", "gs": "gcs_server", "azure": "azure_server"}[request.param])


@pytest.mark.parametrize("store", STORES, indirect=True)
@pytest.mark.parametrize("fault", [Flip, Truncate, Duplicate], ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_no_damage_on_the_wire_goes_unnoticed(store, fault, direction: str, tmp_path: Path) -> None:
    """Promise 1: what arrives is right, or an error says it is not."""
    source = tree(tmp_path / "a")
    truth = content(tmp_path / "a")
    name = f"wire-damage-{fault.__name__}-{direction}".lower()
    config.register("clean", store.settings(timeout_s=5))
    if direction == "down":
        transfer.copy_tree(source, locate(name, "clean"))
    methods = {"up": ("PUT", "POST"), "down": ("GET",)}[direction]
    more = {"size": 64} if fault is Duplicate else {}
    plan = [fault(direction=direction, probability=0.15, match=lambda request: request.method in methods, **more)]
    with FaultProxy(store.port, plan, seed=11, http=True) as proxy:
        config.register("bad", store.settings(via=proxy.port, timeout_s=5))
        bad = locate(name, "bad")
        try:
            if direction == "up":
                transfer.copy_tree(source, bad)
            else:
                transfer.copy_tree(bad, locate(str(tmp_path / "b")))
        except (TransferError, IntegrityError, UnavailableError, DeadlineError) as error:
            failed = {failure.key for failure in error.receipt.failed} if isinstance(error, TransferError) else None
        else:
            failed = set()
        assert proxy.counts.faults[fault.__name__] > 0
    if direction == "up":
        for entry in open_system(locate(name, "clean")).list():
            with open_system(locate(name, "clean")).read(entry.key) as body:
                assert body.read() == truth[entry.key]
        if failed == set():
            assert transfer.verify_tree(locate(name, "clean")).ok
    elif (tmp_path / "b").exists():
        arrived = content(tmp_path / "b")
        assert all(truth[key] == data for key, data in arrived.items())
        if failed is not None:
            assert set(truth) - failed == set(arrived)


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_errors_that_pass_are_overcome(store, tmp_path: Path) -> None:
    """Promise 14: nearly a third of all requests fail, and everything arrives."""
    source = tree(tmp_path / "a", files=40)
    faults = [Status(code=503, probability=0.2), Cut(probability=0.1, at=0)]
    with FaultProxy(store.port, faults, seed=5, http=True) as proxy:
        config.register("bad", store.settings(via=proxy.port, retries=20, timeout_s=10))
        receipt = transfer.copy_tree(source, locate("wire-flaky", "bad"))
        back = transfer.copy_tree(locate("wire-flaky", "bad"), locate(str(tmp_path / "b")))
        assert proxy.counts.faults["Status"] > 5
    assert receipt.done == back.done == 40
    assert content(tmp_path / "b") == content(tmp_path / "a")


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_lost_answers_are_no_failures(store, tmp_path: Path) -> None:
    """Promise 11, for the writes of a transfer."""
    source = tree(tmp_path / "a", files=30)
    # Which requests are struck depends on the threads: with 6 retries one file in 80,000 would be struck each time.
    lost = [DropAnswer(probability=0.2, match=lambda request: request.method in ("PUT", "POST"))]
    with FaultProxy(store.port, lost, seed=3, http=True) as proxy:
        config.register("bad", store.settings(via=proxy.port, retries=20, timeout_s=10))
        receipt = transfer.copy_tree(source, locate("wire-lost", "bad"))
        assert proxy.counts.faults["DropAnswer"] > 0
    assert (receipt.done, receipt.failed) == (30, ())
    config.register("clean", store.settings())
    assert transfer.verify_tree(locate("wire-lost", "clean")).ok


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_a_peer_that_falls_silent_is_given_up_within_the_deadline(store, tmp_path: Path) -> None:
    """Promise 25."""
    source = tree(tmp_path / "a", files=20)
    with FaultProxy(store.port, [Swallow(at=0)], http=True) as proxy:
        config.register("mute", store.settings(via=proxy.port, timeout_s=3))
        began = time.monotonic()
        with pytest.raises((TransferError, DeadlineError, UnavailableError)):
            transfer.copy_tree(source, locate("wire-mute", "mute"))
        assert time.monotonic() - began < 3 + 5


def test_a_silent_host_is_given_up_within_the_deadline(tmp_path: Path) -> None:
    """Promise 25."""
    source = tree(tmp_path / "a", files=20)
    with servers.ssh() as host:
        config.register("frozen", host.settings(timeout_s=3))
        transfer.copy_tree(source, locate("wire-first", "frozen"))
        host.freeze()
        try:
            began = time.monotonic()
            with pytest.raises((TransferError, DeadlineError, UnavailableError)):
                transfer.copy_tree(source, locate("wire-second", "frozen"))
            assert time.monotonic() - began < 3 + 5
        finally:
            host.thaw()


def test_latency_is_hidden(s3_server: servers.S3Server, tmp_path: Path) -> None:
    """Promise 20, counted in round trips: 16 workers need a sixteenth of the trips one after another."""
    source = tree(tmp_path / "a", files=320, size=200)
    with FaultProxy(s3_server.port, [Delay(each_way_s=0.05)]) as proxy:
        config.register("far", s3_server.settings(via=proxy.port))
        receipt = transfer.copy_tree(source, locate("wire-latency", "far"))
    # One after another they would take 320 × 0.1 s = 32 s in waiting alone.
    assert receipt.seconds < 16


def test_a_host_restarted_in_the_middle_is_no_failure(tmp_path: Path) -> None:
    """Promise 26."""
    source = tree(tmp_path / "a", files=100, size=400_000)
    with servers.ssh() as host, FaultProxy(host.port, [Bandwidth(bytes_per_s=20e6, direction="up")]) as proxy:
        config.register("host", host.settings(via=proxy.port, timeout_s=20))

        def restart() -> None:
            time.sleep(0.8)
            host.kill()
            time.sleep(0.5)
            host.start()

        thread = threading.Thread(target=restart)
        thread.start()
        receipt = transfer.copy_tree(source, locate("wire-restarted", "host"))
        thread.join()
        assert receipt.done == 100
        assert transfer.verify_tree(locate("wire-restarted", "host")).ok
        transfer.copy_tree(locate("wire-restarted", "host"), locate(str(tmp_path / "b")))
    assert content(tmp_path / "b") == content(tmp_path / "a")


CRASH = """
import os, signal, sys, threading, time
from rh import config, transfer
from rh.systems import locate
config.register("there", eval(sys.argv[3]))
def die():
    time.sleep(float(sys.argv[4]))
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=die, daemon=True).start()
transfer.copy_tree(locate(sys.argv[1]), locate(sys.argv[2], "there"), transfer.Options(workers=2))
print("finished")
"""


@pytest.mark.parametrize("where", ["s3", "gs", "azure", "ssh"])
def test_killed_in_the_middle_and_run_again(where: str, tmp_path: Path, request: pytest.FixtureRequest, python) -> None:
    """Promise 6: no manifest for part of a tree; the next run sends again at most a part per worker."""
    import subprocess
    import sys

    source = tree(tmp_path / "a", files=120, size=100_000)
    (tmp_path / "a" / "large").write_bytes(random.Random(1).randbytes(50 << 20))
    total = 120 * 100_000 + (50 << 20)
    server = request.getfixturevalue(
        {"s3": "s3_server", "gs": "gcs_server", "azure": "azure_server", "ssh": "ssh_a"}[where]
    )
    done = 0
    with FaultProxy(server.port, [Bandwidth(bytes_per_s=30e6, direction="up")]) as proxy:
        settings = server.settings(via=proxy.port)
        config.register("there", settings)
        place = locate(f"wire-killed-{where}", "there")
        for _ in range(3):
            sent = proxy.counts.sent
            process = subprocess.run(
                [sys.executable, "-c", CRASH, str(tmp_path / "a"), f"wire-killed-{where}", repr(settings), "1.2"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if process.returncode == 0:
                break
            assert process.returncode == -9, process.stderr
            with pytest.raises((FileNotFoundError, TransferError)):
                open_system(place).head(manifest.NAME)
            done += proxy.counts.sent - sent
        assert done > 0
        sent = proxy.counts.sent
        receipt = transfer.copy_tree(source, place)
        again = proxy.counts.sent - sent
        assert transfer.verify_tree(place).ok
    assert receipt.done + receipt.skipped == 121
    # Two workers lost at most a part of 16 MiB each per crash; requests and encryption add a little.
    assert again + done < total + 3 * 2 * (16 << 20) + (4 << 20)


@pytest.mark.parametrize("where", ["file", "ssh", "moto", "gs", "azure"])
def test_a_reader_sees_old_or_new(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Promise 5. rclone's server is left out: it cuts the body of an object that is being replaced, whoever asks."""
    if where == "file":
        place = locate(str(tmp_path))
    else:
        fixture = {"ssh": "ssh_a", "moto": "moto_server", "gs": "gcs_server", "azure": "azure_server"}[where]
        config.register("there", request.getfixturevalue(fixture).settings())
        place = locate("wire-polled", "there")
    old, new = b"o" * 300_000, b"n" * 300_000
    system = open_system(place)
    system.write("file", old)
    stop = threading.Event()
    seen: list[bytes] = []

    def poll() -> None:
        while not stop.is_set():
            with system.read("file") as body:
                seen.append(body.read())

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        for n in range(1000 if where == "file" else 100):
            system.write("file", (old, new)[n % 2])
    finally:
        stop.set()
        reader.join()
    assert set(seen) <= {old, new}
    assert seen


def test_somebody_who_changes_the_source_is_noticed_on_stores(s3_server: servers.S3Server, tmp_path: Path) -> None:
    """Promise 10: the plan's etag is what is read, or an error."""
    config.register("s3", s3_server.settings())
    source = tree(tmp_path / "a", files=3)
    place = locate("wire-moving", "s3")
    transfer.copy_tree(source, place)
    plan = transfer.plan_tree(place, locate(str(tmp_path / "b")))
    open_system(place).write("d1/f001", b"somebody else's")
    with pytest.raises(TransferError) as caught:
        transfer.execute(plan)
    assert isinstance(caught.value.receipt.failed[0].error, ConflictError)
    assert not (tmp_path / "b" / "d1" / "f001").exists()
