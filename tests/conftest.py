"""What every test gets: settings of its own, real servers on first use, and no way to be skipped."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import hypothesis
import pytest

from rh import config
from rh.testing import servers
from rh.testing.servers import azurite
from tests import sizes

faulthandler.enable()
hypothesis.settings.register_profile("rh", deadline=None)  # a timing is no test
hypothesis.settings.load_profile("rh")

_FOREIGN = (
    "RH_",
    "AWS_",
    "AZURE_",
    "GOOGLE_",
    "CLOUDSDK_",
    "GCLOUD_",
    "STORAGE_EMULATOR",
    "SSH_",
    "GIT_",
    "PG",
    "RCLONE_",
)
_KEPT = ("RH_AZURITE",)
_REMOTE = frozenset({"s3", "moto", "gs", "azure", "ssh-a", "ssh-b", "postgres", "bucket", "http"})
"""Parameters of tests that stand for a place behind a server."""
_STARTED = frozenset({"servers", "RegistryServer", "Playground"})
"""What tests and fixtures that start a server themselves name."""


def pytest_configure(config: pytest.Config) -> None:
    """Fix what depends on HOME before tests get homes of their own, and give tests of full size their time."""
    os.environ["RH_AZURITE"] = str(azurite.home())
    if sizes.FULL and config.option.timeout is None:
        config.option.timeout = sizes.LIMIT_S


def pytest_report_header() -> str:
    return f"sizes: {'those of the promises' if sizes.FULL else 'samples; RH_TEST_FULL=1 makes all tries'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a server to be started are marked as such: `make check` leaves them out."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if (
            any(name in ("world", "host") or "server" in name for name in fixtures)
            or any(isinstance(value, str) and value in _REMOTE for value in values)
            or any(_STARTED.intersection(code.co_names) for code in _codes(item))
        ):
            item.add_marker(pytest.mark.servers)


def _codes(item: pytest.Item) -> Iterator[CodeType]:
    """The code of a test and of its fixtures."""
    fixtures = getattr(item, "_fixtureinfo", None)
    made = [one.func for several in fixtures.name2fixturedefs.values() for one in several] if fixtures else []
    for function in (getattr(item, "function", None), *made):
        code = getattr(function, "__code__", None)
        if code is not None:
            yield code


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A test that is skipped or expected to fail has failed: it shows nothing."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.__dict__.pop("wasxfail", None)
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{item.nodeid}: no test may be skipped or expected to fail\n{reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    report = yield
    if report.outcome == "skipped":
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{collector.nodeid}: no test may be skipped\n{reason}"
    return report


@pytest.fixture(autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting, credential or state of whoever runs the tests, or of another test, reaches this one."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN) and name not in _KEPT:
            monkeypatch.delenv(name)
    place = tmp_path_factory.mktemp("home", numbered=True)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / ".cache"))
    monkeypatch.setenv("RH_HOME", str(place / ".rh"))
    # Without these the SDKs ask the cloud's metadata service who we are.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    registered, overrides = dict(config._registered), list(config._overrides)
    yield
    with config._lock:
        config._registered.clear()
        config._registered.update(registered)
    config._overrides[:] = overrides


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_running() -> Iterator[None]:
    """A module whose tests leave threads that would keep Python from ending, or child processes, fails."""
    threads, children = set(threading.enumerate()), set(_children())
    yield
    hosts = sys.modules.get("rh.systems.ssh.session")
    if hosts is not None:
        hosts._close_all()  # connections to hosts are kept for the next transfer, until Python ends
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = [t for t in threading.enumerate() if t not in threads and _holds_up_the_end(t)]
        alive = {pid: line for pid, line in _children().items() if pid not in children}
        if not left and not alive:
            return
        multiprocessing.active_children()  # collects those that have ended
        time.sleep(0.05)
    pytest.fail(f"left running: threads {[t.name for t in left]}, processes {alive}", pytrace=False)


def _holds_up_the_end(thread: threading.Thread) -> bool:
    """Whether Python would wait for a thread (other than the one that watches over this test's time)."""
    return thread.is_alive() and not thread.daemon and not thread.name.startswith("pytest_timeout")


def _children() -> dict[int, str]:
    """Processes this one started, other than the guards of servers and Python's own helpers."""
    found = {}
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            pids = task.read_text().split()
        except OSError:
            continue  # the thread ended while we looked
        for pid in pids:
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if not any(known in line for known in ("guard.py", "resource_tracker", "forkserver")):
                found[int(pid)] = line.strip() or "(ended, not waited for)"
    return found


# Servers, one of each per test process, started by the first test that asks.


@pytest.fixture(scope="session")
def s3_server() -> Iterator[servers.S3Server]:
    """rclone's S3 server: fast; preconditions are ignored and odd keys refused."""
    with servers.s3() as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[servers.MotoServer]:
    """moto's S3 server: preconditions and odd keys; slow."""
    with servers.moto() as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[servers.GCSServer]:
    """fake-gcs-server."""
    with servers.gcs() as server:
        yield server


@pytest.fixture(scope="session")
def azure_server() -> Iterator[servers.AzureServer]:
    """azurite."""
    with servers.azure() as server:
        yield server


@pytest.fixture(scope="session")
def azure_versions_server(azure_server: servers.AzureServer) -> Iterator[servers.AzureVersions]:
    """An account that keeps versions, before azurite."""
    with servers.azure_versions(azure_server) as server:
        yield server


@pytest.fixture(scope="session")
def ssh_a() -> Iterator[servers.SSHServer]:
    """A host. Tests that kill it or change it start one of their own."""
    with servers.ssh(alias="ssh-a") as server:
        yield server


@pytest.fixture(scope="session")
def ssh_b() -> Iterator[servers.SSHServer]:
    """A second host, which the first one cannot log in to."""
    with servers.ssh(alias="ssh-b") as server:
        yield server


@pytest.fixture(scope="session")
def http_server() -> Iterator[servers.HTTPServer]:
    """A web server over a directory."""
    with servers.http() as server:
        yield server


@pytest.fixture(scope="session")
def git_server() -> Iterator[servers.GitServer]:
    """A Git server."""
    with servers.git() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.PostgresServer]:
    """PostgreSQL."""
    with servers.postgres() as server:
        yield server


@pytest.fixture
def world(
    s3_server: servers.S3Server,
    gcs_server: servers.GCSServer,
    azure_server: servers.AzureServer,
    ssh_a: servers.SSHServer,
    ssh_b: servers.SSHServer,
) -> dict[str, str]:
    """`s3`, `gs`, `azure`, `ssh-a` and `ssh-b` are configured, each with an empty root of this test's own.

    The value says where: name → URL of the root.
    """
    fresh = "t" + secrets.token_hex(6)
    roots = {
        "s3": f"s3://{s3_server.buckets[0]}/{fresh}",
        "gs": f"gs://{gcs_server.buckets[0]}/{fresh}",
        "azure": f"az://{azure_server.buckets[0]}/{fresh}",
    }
    for name, bucketed in (("s3", s3_server), ("gs", gcs_server), ("azure", azure_server)):
        config.register(name, bucketed.settings(root=roots[name]))
    for name, host in (("ssh-a", ssh_a), ("ssh-b", ssh_b)):
        (host.home / fresh).mkdir()
        config.register(name, host.settings(root=str(host.home / fresh)))
        roots[name] = f"{name}:{host.home / fresh}"
    return roots


@pytest.fixture
def python() -> Any:
    """Run Python code in a process of its own, with this test's settings: `python("print(1)")` → its output."""

    def run(code: str, *arguments: str, timeout_s: float = 60.0, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            env={**os.environ, **environment},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
