"""Transfers over a wire that lies, breaks and falls silent, to real servers."""

from __future__ import annotations

import http.server
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from rh import config, transfer
from rh.content import manifest
from rh.digest import of_bytes
from rh.errors import AccessError, ConflictError, DeadlineError, IntegrityError, TransferError, UnavailableError
from rh.progress import Silent
from rh.systems import locate, open_system
from rh.systems.abilities import Direct, ServerCopy
from rh.systems.s3 import S3System
from rh.systems.s3 import parts as s3_parts
from rh.systems.s3.bucket import Bucket
from rh.systems.wrap import unwrap
from rh.testing import servers
from rh.testing.faults import Bandwidth, Cut, Delay, DropAnswer, Duplicate, FaultProxy, Flip, Status, Swallow, Truncate
from rh.transfer.journal import Journal, OpenUpload
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


def test_objects_of_aws_are_compared_without_a_manifest(s3_server: servers.S3Server, tmp_path: Path) -> None:
    """Promise 1: by their etags, if the answers do not say that those are no MD5."""
    config.register("clean", s3_server.settings())
    sizes = {"small": 5_000, "medium": 1 << 20, "tail": 6 << 20}
    clean = open_system(locate("aws", "clean"))
    for name, size in sizes.items():
        clean.write(name, bytes(size))
    for name, size in sizes.items():
        flip = Flip(
            direction="down",
            times=1,
            match=lambda request, name=name: request.method == "GET" and request.path.endswith(name),
        )
        with FaultProxy(s3_server.port, [flip], seed=3, http=True) as proxy:
            config.register("bad", s3_server.settings(via=proxy.port))
            bad = open_system(locate("aws", "bad"))
            inner = unwrap(bad)
            assert isinstance(inner, S3System)
            inner.bucket.place.aws = True  # as for an endpoint of Amazon's
            try:
                with suppress(TransferError):
                    transfer.copy_file(locate(f"aws/{name}", "bad"), locate(str(tmp_path / name)))
            finally:
                inner.bucket.place.aws = False
            assert proxy.counts.faults["Flip"] == 1
        assert not (tmp_path / name).exists() or (tmp_path / name).read_bytes() == bytes(size)


def test_a_site_without_etags_gives_no_mix_of_two_states(tmp_path: Path) -> None:
    """Promise 10: where nothing tells two states apart, a file is read in one go."""
    size, state, ranges = 40 << 20, [b"A"], []

    class Site(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args: object) -> None: ...

        def do_HEAD(self) -> None:
            self.do_GET(body=False)

        def do_GET(self, *, body: bool = True) -> None:
            asked = self.headers.get("Range")
            start, stop = 0, size - 1
            if asked is not None:
                ranges.append(asked)
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start, stop = int(first), int(last or stop)
            self.send_response(200 if asked is None else 206)
            if asked is not None:
                self.send_header("Content-Range", f"bytes {start}-{stop}/{size}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(stop - start + 1))
            self.end_headers()
            if body:
                found = state[0]
                if stop - start > 1 << 20:
                    state[0] = b"B"  # replaced, by something as long
                with suppress(OSError):
                    self.wfile.write(found * (stop - start + 1))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            config.register("site", {"kind": "http", "endpoint_url": f"http://127.0.0.1:{server.server_port}"})
            transfer.copy_file(Location("site", "/big"), locate(str(tmp_path / "big")))
        finally:
            server.shutdown()
            thread.join()
    assert set((tmp_path / "big").read_bytes()) == {ord("A")}
    assert not [one for one in ranges if one != "bytes=0-0"]


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No upload can be aborted, as where policies do not allow it."""

    def abort(bucket: Bucket, key: str, _upload_id: str) -> None:
        raise AccessError("access denied", where=bucket.url(key))

    monkeypatch.setattr(s3_parts, "abort", abort)


@pytest.mark.usefixtures("refusing")
def test_uploads_that_cannot_be_aborted_hold_up_nothing(
    s3_server: servers.S3Server, ssh_a: servers.SSHServer, tmp_path: Path
) -> None:
    """Promise 25: each file that failed is told, by one confirming thread as well."""
    config.register("s3-there", s3_server.settings())
    config.register("host", ssh_a.settings(root=str(tmp_path)))
    for n in range(3):
        (tmp_path / f"large{n}").touch()
        os.truncate(tmp_path / f"large{n}", 65 << 20)
    for n in range(20):
        (tmp_path / f"small{n}").write_bytes(b"1")
    plan = transfer.plan_tree(locate(str(tmp_path), "host"), locate("refused", "s3-there"), transfer.Options(workers=1))
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(TransferError) as caught:
        transfer.execute(plan)
    assert len(caught.value.receipt.failed) == 23
    assert not [one.name for one in threading.enumerate() if one.name == "rh-confirm"]


def test_parts_that_arrived_damaged_are_not_gone_on_from_where_they_cannot_be_aborted(
    s3_server: servers.S3Server, moto_server: servers.MotoServer, tmp_path: Path
) -> None:
    """Promise 1: a role may write and not abort, and the next run must not publish what this one found to be wrong."""
    data = random.Random(2).randbytes(40 << 20)
    config.register("clean", s3_server.settings())
    open_system(locate("unabortable", "clean")).write("big", data)
    flip = Flip(direction="down", times=1, match=lambda request: request.path.endswith("big"))
    denied = Status(code=403, match=lambda request: request.method == "DELETE" and "uploadId" in request.query)
    with (
        FaultProxy(s3_server.port, [flip], http=True) as damaging,
        FaultProxy(moto_server.port, [denied], http=True) as refusing,
    ):
        config.register("from", s3_server.settings(via=damaging.port))
        config.register("there", moto_server.settings(via=refusing.port))
        for _ in range(2):
            with suppress(TransferError):
                transfer.copy_tree(locate("unabortable", "from"), locate("unabortable", "there"))
            assert (damaging.counts.faults["Flip"], refusing.counts.faults["Status"]) == (1, 1)
        with open_system(locate("unabortable", "there")).read("big") as body:
            assert body.read() == data


@pytest.mark.parametrize("store", STORES, indirect=True)
@pytest.mark.parametrize("change", [False, True], ids=["same", "changed"])
def test_an_upload_that_may_not_be_gone_on_with_is_begun_anew(store, tmp_path: Path, *, change: bool) -> None:
    """Promise 6: a role that may write, and neither list parts nor abort uploads, is held up by no interrupted run."""
    name = f"begun-anew-{change}".lower()
    large = tmp_path / "a" / "large"
    large.parent.mkdir()
    large.write_bytes(random.Random(3).randbytes(100 << 20))

    def parts(request) -> bool:
        query = request.query
        return "partNumber=" in query or "comp=block&" in query or ".rh-part-" in query

    def denied(request) -> bool:
        query = request.query
        looks = request.method == "GET" and ("uploadId" in query or "comp=blocklist" in query or "rh-part" in query)
        return looks or request.method == "DELETE" or request.path.startswith("/batch")

    sent: list[str] = []
    with FaultProxy(store.port, http=True) as proxy:
        proxy.plan = [
            Status(code=403, match=lambda one: one.method != "GET" and parts(one) and bool(sent.append("") or sent[2:]))
        ]
        config.register("there", store.settings(via=proxy.port))
        with pytest.raises(TransferError):
            transfer.copy_tree(locate(str(tmp_path / "a")), locate(name, "there"), transfer.Options(workers=1))
        if change:
            large.write_bytes(random.Random(4).randbytes(90 << 20))
        proxy.plan = [Status(code=403, match=denied)]
        transfer.copy_tree(locate(str(tmp_path / "a")), locate(name, "there"))
        proxy.plan = []
        with open_system(locate(name, "there")).read("large") as body:
            assert body.read() == large.read_bytes()


def test_an_interrupted_push_leaves_no_threads(
    s3_server: servers.S3Server, ssh_a: servers.SSHServer, tmp_path: Path
) -> None:
    config.register("s3-there", s3_server.settings())
    config.register("host", ssh_a.settings(root=str(tmp_path)))
    for n in range(100):
        (tmp_path / f"small{n}").write_bytes(b"1")

    class Interrupting(Silent):
        def advance(self, files: int, size: int) -> None:
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer.copy_tree(locate(str(tmp_path), "host"), locate("stopped", "s3-there"), progress=Interrupting())
    until = time.monotonic() + 10
    while left := [one.name for one in threading.enumerate() if one.name == "rh-confirm"]:
        assert time.monotonic() < until, left
        time.sleep(0.01)


@pytest.mark.parametrize("road", ["same host", "direct"])
@pytest.mark.parametrize("size", [100, 3 << 20])
def test_rotten_bytes_of_a_host_replace_nothing(road: str, size: int, ssh_a: servers.SSHServer, tmp_path: Path) -> None:
    """What does not have the digest that is known is not published in place of what was there."""
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "from" / "f").write_bytes(bytes(size))
    (tmp_path / "to" / "f").write_bytes(b"\1" * size)
    config.register("host", ssh_a.settings(root=str(tmp_path)))
    source = open_system(locate("from", "host"))
    entry = source.head("f")._replace(check=of_bytes(b"\1" * size).text)
    if road == "same host":
        target = open_system(locate("to", "host"))
        copier = target.ask(ServerCopy)
        assert copier is not None
        (outcome,) = copier.copy_many(source, [(entry, "f")])
    else:
        with servers.ssh(alias="here") as here, servers.ssh(alias="there") as there:
            here.trust(there)
            config.register("sender", here.settings(root=str(tmp_path)))
            config.register("taker", there.settings(root=str(tmp_path)))
            target = open_system(locate("to", "taker"))
            sender = open_system(locate("from", "sender")).ask(Direct)
            assert sender is not None
            assert sender.can_send_to(target)
            (outcome,) = sender.send_to(target, [(entry, "f")])
    assert isinstance(outcome.error, IntegrityError)
    assert (tmp_path / "to" / "f").read_bytes() == b"\1" * size


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_what_went_wrong_is_told_where_an_upload_cannot_be_aborted(store) -> None:
    """Promise 28: not that the upload of what was interrupted may not be aborted."""

    def stopped() -> Iterator[bytes]:
        for _ in range(20):
            yield bytes(1 << 20)
        raise KeyboardInterrupt

    denied = Status(code=403, match=lambda request: request.method == "DELETE")
    with FaultProxy(store.port, [denied], http=True) as proxy:
        config.register("there", store.settings(via=proxy.port))
        system = open_system(locate("unabortable", "there"))
        with pytest.raises(KeyboardInterrupt):
            system.write("stopped", stopped(), size=100 << 20)
        with pytest.raises(IntegrityError, match="not as long"):
            system.write("short", (bytes(1 << 20) for _ in range(20)), size=100 << 20)
        assert proxy.counts.faults["Status"] > 0


def test_a_journal_of_another_version_holds_up_nothing(s3_server: servers.S3Server, tmp_path: Path) -> None:
    """It is a hint and nothing more: neither its records nor the tokens in it have to be ours."""
    config.register("there", s3_server.settings())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "large").write_bytes(bytes(20 << 20))
    source, target = locate(str(tmp_path / "a")), locate("journal-of-another", "there")
    journal = Journal(open_system(source), open_system(target))
    journal.begin(OpenUpload("large", 20 << 20, None, "a token of another version", 16 << 20))
    journal._write("begin", "large", 20 << 20)
    journal.close(complete=False)
    assert transfer.copy_tree(source, target).done == 1
    assert transfer.verify_tree(target).ok
    assert not journal.path.exists()


def test_links_outlive_long_transfers(s3_server: servers.S3Server, ssh_a: servers.SSHServer, tmp_path: Path) -> None:
    """Links to thousands of files, and to all parts of a large one, are made before the first bytes have moved."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "small").write_bytes(b"1")
    (tmp_path / "a" / "large").touch()
    os.truncate(tmp_path / "a" / "large", 65 << 20)
    config.register("host", ssh_a.settings(root=str(tmp_path)))
    with FaultProxy(s3_server.port, http=True) as proxy:
        config.register("there", s3_server.settings(via=proxy.port))
        assert transfer.copy_tree(locate("a", "host"), locate("links", "there")).route == "PUSH"
        assert transfer.copy_tree(locate("links", "there"), locate("b", "host")).route == "PULL"
        lives = [
            (one.method, int(parse_qs(one.query)["X-Amz-Expires"][0]))
            for one in proxy.requests
            if "X-Amz-Expires" in one.query
        ]
    assert {method for method, _ in lives} == {"PUT", "GET"}
    assert min(life for _, life in lives) >= 12 * 3600


def test_failures_hold_no_bytes(s3_server: servers.S3Server, tmp_path: Path) -> None:
    """A receipt of many failures must not keep the bytes of each file, which the frames of its error have."""
    config.register("clean", s3_server.settings())
    place = locate("failures", "clean")
    for n in range(3):
        (tmp_path / "a" / f"f{n}").parent.mkdir(exist_ok=True)
        (tmp_path / "a" / f"f{n}").write_bytes(bytes(1 << 20))
    transfer.copy_tree(locate(str(tmp_path / "a")), place)
    match = {"match": lambda request: request.method == "GET" and request.path[-3:-1] == "/f"}
    with FaultProxy(s3_server.port, [Flip(direction="down", **match)], http=True) as proxy:
        config.register("bad", s3_server.settings(via=proxy.port))
        with pytest.raises(TransferError) as caught:
            transfer.copy_tree(locate("failures", "bad"), locate(str(tmp_path / "b")))
    errors: list[BaseException] = [failure.error for failure in caught.value.receipt.failed]
    assert len(errors) == 3
    while errors:
        error = errors.pop()
        assert error.__traceback__ is None
        assert not any("not tried again" in note for note in getattr(error, "__notes__", ()))  # since it was
        errors += [one for one in (error.__cause__, error.__context__) if one is not None]


def test_files_of_one_directory_are_resumed_each_by_itself(s3_server: servers.S3Server, tmp_path: Path) -> None:
    """A copy of another file, before or at the same time, does not take what arrived of the first one."""
    config.register("store", s3_server.settings())
    for name in "ab":
        with (tmp_path / name).open("wb") as file:
            for n in range(4):
                file.write(bytes([n]) * (16 << 20))

    def copy(name: str, stop_after: int = 1 << 40) -> transfer.Receipt | None:
        cancel = threading.Event()

        class Stopping(Silent):
            got = 0

            def advance(self, files: int, size: int) -> None:
                self.got += size
                if self.got >= stop_after:
                    cancel.set()

        with suppress(TransferError):
            return transfer.copy_file(
                locate(str(tmp_path / name)),
                locate(f"each/{name}", "store"),
                transfer.Options(workers=1),
                progress=Stopping(),
                cancel=cancel,
            )
        return None

    assert copy("a", 32 << 20) is None
    assert copy("b") is not None
    again = copy("a")
    assert again is not None
    assert again.bytes_moved <= 32 << 20
