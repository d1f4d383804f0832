"""Promises that hold over everything at once."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import rh
from rh import config, transfer
from rh.content import manifest
from rh.systems import locate, open_system
from rh.testing import servers
from rh.testing.faults import Bandwidth, FaultProxy
from tests.transfer import trees

pytestmark = [pytest.mark.slow]


def secrets_of(world_servers: dict[str, object]) -> list[bytes]:
    """Every credential that these servers take."""
    found = []
    s3, azure, host = world_servers["s3"], world_servers["azure"], world_servers["ssh"]
    found += re.findall(rb"aws_secret_access_key *= *(\S+)", Path(s3.settings()["credentials_file"]).read_bytes())
    found += re.findall(rb"AccountKey=([^;\s]+)", Path(azure.settings()["connection_string_file"]).read_bytes())
    found += Path(host.identity_file).read_bytes().splitlines()[2:4]
    assert len(found) >= 4
    assert all(len(secret) > 12 for secret in found)
    return found


def test_no_credential_is_left_anywhere(
    world: dict[str, str],
    s3_server: servers.S3Server,
    azure_server: servers.AzureServer,
    ssh_a: servers.SSHServer,
    postgres_server: servers.PostgresServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Promise 34: logs at DEBUG, reprs, pickles, records, manifests, journals, caches, process lists, hosts."""
    secrets = secrets_of({"s3": s3_server, "azure": azure_server, "ssh": ssh_a})
    secrets.append(unquote(urlsplit(postgres_server.dsn).password or "").encode())
    assert len(secrets[-1]) > 12
    caplog.set_level(logging.DEBUG)
    commands: set[bytes] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    commands.add(path.read_bytes())
                except OSError:
                    continue
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    seen: list[bytes] = []
    try:
        trees.make(tmp_path / "tree", large=True)
        folder = rh.folder(path=tmp_path / "tree")
        for system in ("s3", "azure", "ssh-a", "s3"):
            before = folder
            folder = folder.to(system, path=f"secrets-{system}-{len(seen)}")
            saved = folder.save("secrets-" + system)
            handle = open_system(folder.location)
            for thing in (folder, saved, folder.receipt, before.plan(system, path="other"), handle, folder.config()):
                seen += [repr(thing).encode(), str(thing).encode()]
            seen += [pickle.dumps(folder), pickle.dumps(folder.receipt)]
        asked = rh.table(query="select 1 as n", system=postgres_server.dsn)
        for table in (asked, asked.snapshot("secrets-query")):
            seen += [repr(table).encode(), pickle.dumps(table), str(table.config()).encode()]
            seen.append(table._repr_html_().encode())
        config.register("wrong", s3_server.settings(root="s3://no-such-bucket"))
        with pytest.raises(rh.errors.RhError) as caught:
            rh.folder(path="x", system="wrong").to(rh.here, path=tmp_path / "never")
        seen.append(repr(caught.value).encode() + str(caught.value).encode() + pickle.dumps(caught.value))
    finally:
        done.set()
        watcher.join()
    places = [config.home(), tmp_path, ssh_a.home]
    for place in places:
        for path in place.rglob("*"):
            if path.is_file() and ".ssh" not in path.parts:
                seen.append(path.read_bytes())
    for entry in open_system(locate("secrets-s3-0", "s3")).list():
        seen.append(entry.key.encode())
    with open_system(locate("secrets-s3-0", "s3")).read(manifest.NAME) as body:
        seen.append(b"".join(bytes(block) for block in body))
    servers_own = (b"rclone", b"azurite")
    told = b"\0".join(seen) + caplog.text.encode()
    told += b"\0".join(line for line in commands if not any(own in line for own in servers_own))
    for secret in secrets:
        assert secret not in told


def test_an_interrupt_ends_it_and_leaves_what_can_be_resumed(s3_server: servers.S3Server, tmp_path: Path) -> None:
    """Promise 28: Ctrl-C returns within two seconds, nothing is visible, the same call goes on."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "large").write_bytes(bytes(range(256)) * 4 * 1024 * 60)
    code = (
        "import sys; from rh import config, transfer; from rh.systems import locate\n"
        "config.register('there', eval(sys.argv[1]))\n"
        "print('ready', flush=True)\n"
        "transfer.copy_tree(locate(sys.argv[2]), locate('interrupted', 'there'))\n"
    )
    with FaultProxy(s3_server.port, [Bandwidth(bytes_per_s=15e6, direction="up")]) as proxy:
        settings = s3_server.settings(via=proxy.port)
        process = subprocess.Popen(
            [sys.executable, "-c", code, repr(settings), str(tmp_path / "a")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        while proxy.counts.sent < 52 << 20:  # the parts that three workers began are through
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, errors = process.communicate(timeout=20)
        assert time.monotonic() - began < 2
        assert b"KeyboardInterrupt" in errors
        config.register("there", settings)
        place = locate("interrupted", "there")
        assert list(open_system(place).list()) == []
        sent = proxy.counts.sent
        proxy.plan = []
        receipt = transfer.copy_tree(locate(str(tmp_path / "a")), place)
        assert receipt.done == 1
        assert proxy.counts.sent - sent < 40 << 20
        assert transfer.verify_tree(place).ok


def _child(source: str, target: str, settings: dict[str, object], name: str, answers: object) -> None:
    faulthandler.dump_traceback_later(50, exit=True)  # where it hangs, if it does
    config.register(name, settings)
    receipt = transfer.copy_tree(locate(source), locate(target, name))
    back = transfer.verify_tree(locate(target, name))
    answers.put((receipt.done, back.ok))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("where", ["s3", "gs", "azure", "ssh"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_children_work_while_the_parent_transfers(
    method: str, where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Promise 27."""
    server = request.getfixturevalue(
        {"s3": "s3_server", "gs": "gcs_server", "azure": "azure_server", "ssh": "ssh_a"}[where]
    )
    config.register("parent", server.settings())
    files = trees.make(tmp_path / "a")
    source, name = str(tmp_path / "a"), f"family-{method}-{where}"
    transfer.copy_tree(locate(source), locate(f"{name}-first", "parent"))
    stop = threading.Event()
    rounds: list[int] = []

    def go_on() -> None:
        while not stop.is_set():
            receipt = transfer.copy_tree(
                locate(source), locate(f"{name}-parent", "parent"), transfer.Options(on_existing="replace")
            )
            rounds.append(receipt.done)

    context = multiprocessing.get_context(method)
    answers = context.Queue()
    children = [
        context.Process(target=_child, args=(source, f"{name}-{n}", server.settings(), "child", answers), daemon=True)
        for n in range(2)
    ]
    parent = threading.Thread(target=go_on)
    parent.start()
    try:
        for child in children:
            child.start()
        results = [answers.get(timeout=60) for _ in children]
        for child in children:
            child.join(timeout=30)
            assert child.exitcode == 0
    finally:
        for child in children:
            if child.is_alive():
                child.kill()
                child.join()
        stop.set()
        parent.join()
        answers.close()
        answers.join_thread()
    assert results == [(len(files), True)] * 2
    assert set(rounds) == {len(files)}
