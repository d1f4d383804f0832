"""The servers come up, do what is said of them, and leave nothing behind, whoever dies."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from rh.errors import DeadlineError, InvalidError, UnavailableError, UnsupportedError
from rh.testing import servers
from rh.testing.servers.process import LOOPBACK, Port, Server, answers, program
from rh.testing.servers.web import ask

pytestmark = pytest.mark.servers

ALL = [servers.s3, servers.moto, servers.gcs, servers.azure, servers.ssh, servers.postgres]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(check: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("make", ALL)
def test_starts_answers_and_leaves_nothing(make: type[Server]) -> None:
    with make() as server:
        pid, port, directory = server.pid, server.port, server.directory
        assert server.running
        assert alive(pid)
        assert answers(port)
        assert stat.S_IMODE(directory.stat().st_mode) & 0o066 == 0
        assert str(port) in server.url
    assert not alive(pid)
    assert not answers(port)
    assert not directory.exists()
    server.stop()


@pytest.mark.parametrize("make", [servers.s3, servers.azure, servers.ssh, servers.postgres])
def test_no_secret_is_in_a_command_line_or_open_to_others(make: type[Server]) -> None:
    with make() as server:
        secrets = [v for k, v in vars(server).items() if k in ("secret_key", "key", "password", "access_key")]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_bytes().decode(errors="replace")
                except OSError:
                    continue
                assert not [one for one in secrets if one in line]
        for path in server.directory.rglob("*"):
            if path.is_file() and any(one.encode() in path.read_bytes() for one in secrets):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize("make", [servers.s3, servers.ssh])
def test_ends_when_its_owner_is_killed(make: type[Server]) -> None:
    code = (
        "import sys, time; from rh.testing import servers; "
        f"s = servers.{make.name}().start(); print(s.pid, s.port, s.directory, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        pid, port, directory = owner.stdout.readline().split()
    assert answers(int(port))
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert until(lambda: not alive(int(pid)))
    assert until(lambda: not Path(directory).exists())
    assert not answers(int(port))


def test_kill_and_start_keep_port_and_data() -> None:
    with servers.s3(backend="disk") as server:
        server.request("PUT", "/data/kept", body=b"bytes", expect=(200,))
        port, pid = server.port, server.pid
        server.kill()
        assert not answers(port)
        assert not alive(pid)
        server.start()
        assert server.port == port
        assert server.request("GET", "/data/kept") == (200, b"bytes")


def test_starting_twice_is_an_error(s3_server: servers.S3Server) -> None:
    with pytest.raises(InvalidError, match="running already"):
        s3_server.start()
    assert s3_server.running


class Failing(Server):
    """A program that says something and ends, or hangs."""

    name = "failing"
    start_timeout_s = 0.5

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code

    @property
    def url(self) -> str:
        return f"tcp://{LOOPBACK}:{self.port}"

    def _command(self) -> list[str]:
        return [sys.executable, "-c", self.code.replace("PORT", str(self.port))]


def test_a_failed_start_shows_the_log() -> None:
    server = Failing("import sys; sys.exit('the disk is on fire')")
    with pytest.raises(UnavailableError, match="the disk is on fire"):
        server.start()
    assert not server.running


def test_a_start_that_hangs_ends_by_its_deadline() -> None:
    server = Failing("print('waiting', flush=True); import time; time.sleep(600)")
    with pytest.raises(DeadlineError, match="waiting"):
        server.start()
    assert not alive(server.pid)


def test_a_port_taken_meanwhile_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        number = taken.getsockname()[1]

        class Taken(servers.S3Server):
            tried: ClassVar[list[int]] = []

            def _prepare(self) -> None:
                if not self.tried:
                    assert self.port != number
                    assert self._port is not None
                    self._port.number = number
                self.tried.append(self.port)
                super()._prepare()

            def _ready(self) -> bool:
                # What listens on the taken port is not ours: only a live process of ours may count.
                return self.port != number and super()._ready()

        with Taken() as server:
            assert server.tried[0] == number
            assert server.port != number
            assert server.request("GET", "/data")[0] == 200


def test_two_claims_never_get_one_port() -> None:
    ports = [Port() for _ in range(200)]
    assert len({one.number for one in ports}) == 200
    for one in ports:
        one.release()


def test_a_missing_program_names_the_line_that_installs_it() -> None:
    with pytest.raises(UnsupportedError, match="apt-get install nothing"):
        program("rh-no-such-program", install="apt-get install nothing")


# Bucket servers.


def test_s3_checks_signatures(s3_server: servers.S3Server) -> None:
    assert ask(s3_server.port, "GET", "/data")[0] in (400, 403)
    right, s3_server.secret_key = s3_server.secret_key, "x" * 32
    try:
        assert s3_server.request("GET", "/data")[0] == 403
    finally:
        s3_server.secret_key = right
    assert s3_server.request("GET", "/data")[0] == 200


@pytest.mark.parametrize("fixture", ["s3_server", "moto_server", "gcs_server", "azure_server"])
def test_more_buckets(fixture: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(fixture)
    url = server.make_bucket("another-one")
    assert url.partition("://")[2] == "another-one"
    assert server.settings(root=url)["root"] == url
    assert server.settings(timeout_s=3)["timeout_s"] == 3


@pytest.mark.parametrize("fixture", ["s3_server", "azure_server", "ssh_a", "gcs_server"])
def test_settings_hold_no_secret(fixture: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(fixture)
    text = repr(server.settings()) + repr(server)
    for name in ("secret_key", "key", "access_key", "connection_string"):
        assert getattr(server, name, "(nothing)") not in text


# What the servers cannot do, as `rh.testing.servers` says. When one learns it, this fails and that text is changed.


def test_canary_s3_ignores_preconditions_and_payload_hashes(s3_server: servers.S3Server) -> None:
    from rh.testing.servers.web import signature_v4

    keys = {"access_key": s3_server.access_key, "secret_key": s3_server.secret_key}
    headers = signature_v4("PUT", f"{LOOPBACK}:{s3_server.port}", "/data/canary", body=b"signed", **keys)
    for sent in (b"first!", b"other!"):
        condition = {**headers, "If-None-Match": "*"}
        assert ask(s3_server.port, "PUT", "/data/canary", body=sent, headers=condition)[0] == 200
        assert s3_server.request("GET", "/data/canary") == (200, sent)


def test_canary_moto_knows_preconditions_and_odd_keys(moto_server: servers.MotoServer) -> None:
    from rh.testing.servers.web import signature_v4

    keys = {"access_key": moto_server.access_key, "secret_key": moto_server.secret_key}
    for path, expected in (("/data/canary", (200, 412)), ("/data/a//b", (200, 412))):
        headers = signature_v4("PUT", f"{LOOPBACK}:{moto_server.port}", path, **keys) | {"If-None-Match": "*"}
        found = tuple(ask(moto_server.port, "PUT", path, body=b"x", headers=headers)[0] for _ in range(2))
        assert found == expected


def test_canary_gcs_ignores_preconditions_on_delete(gcs_server: servers.GCSServer) -> None:
    ask(gcs_server.port, "POST", "/upload/storage/v1/b/data/o?uploadType=media&name=canary", body=b"x", expect=(200,))
    target = "/storage/v1/b/data/o/canary"
    assert ask(gcs_server.port, "DELETE", f"{target}?ifGenerationMatch=1")[0] in (200, 204)
    assert ask(gcs_server.port, "GET", target)[0] == 404


# SSH hosts.


def test_a_host_has_a_home_of_its_own(ssh_a: servers.SSHServer) -> None:
    home = str(ssh_a.home)
    script = 'pwd; echo "$HOME"; echo ~; python3 -c "import os; print(os.path.expanduser(chr(126)))"'
    assert ssh_a.run(script) == (0, f"{home}\n".encode() * 4, b"")


def test_sftp_starts_in_the_home(ssh_a: servers.SSHServer) -> None:
    command = [program("sftp", install=""), "-q", "-b", "-", "-F", str(ssh_a.config_file), ssh_a.alias]
    done = subprocess.run(command, input=b"pwd\n", capture_output=True, timeout=20, check=True)
    assert f"Remote working directory: {ssh_a.home}".encode() in done.stdout


def test_bytes_pass_a_command_unchanged(ssh_a: servers.SSHServer) -> None:
    data = bytes(range(256)) * 5000
    assert ssh_a.run("cat", stdin=data) == (0, data, b"")


def test_a_noisy_host(ssh_a: servers.SSHServer) -> None:
    ssh_a.noisy("hello there")
    try:
        assert ssh_a.run("echo done") == (0, b"hello there\ndone\n", b"hello there\n")
    finally:
        ssh_a.noisy("")
    assert ssh_a.run("echo done") == (0, b"done\n", b"")


def test_a_host_without_python() -> None:
    with servers.ssh(python=False) as host:
        assert host.run("command -v python3 python")[0] != 0
        assert host.run("command -v ls cat")[0] == 0


def test_a_host_logs_in_to_another_only_when_trusted(ssh_a: servers.SSHServer) -> None:
    with servers.ssh(alias="ssh-c") as other:
        command = f"ssh -o BatchMode=yes -p {other.port} {other.user}@{LOOPBACK} pwd"
        assert ssh_a.run(command)[0] == 255
        ssh_a.trust(other)
        assert ssh_a.run(command) == (0, f"{other.home}\n".encode(), b"")
        ssh_a.distrust()
        assert ssh_a.run(command)[0] == 255
        ssh_a.trust(other, known=False)
        status, _, errors = ssh_a.run(command)
        assert status == 255
        assert b"Host key verification failed" in errors
        ssh_a.distrust()


def test_an_unknown_and_a_changed_host_key_are_refused_by_ssh() -> None:
    with servers.ssh() as host:
        assert host.run("true")[0] == 0
        host.change_host_key()
        status, _, errors = host.run("true")
        assert status == 255
        assert b"REMOTE HOST IDENTIFICATION HAS CHANGED" in errors
        host.known_hosts_file.write_text("")
        status, _, errors = host.run("true")
        assert status == 255
        assert b"No ED25519 host key is known" in errors


def test_killing_a_host_ends_its_sessions() -> None:
    with servers.ssh() as host:
        session = subprocess.Popen(host.ssh("sleep 600"), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert until(lambda: b"sleep 600" in _family(host.pid))
        host.kill()
        assert session.wait(10) == 255
        assert session.stderr is not None
        session.stderr.close()
        host.start()
        assert host.run("echo back")[1] == b"back\n"


def test_dropping_connections_leaves_the_host() -> None:
    with servers.ssh() as host:
        session = subprocess.Popen(host.ssh("sleep 600"), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert until(lambda: b"sleep 600" in _family(host.pid))
        assert host.drop_connections() >= 1
        assert session.wait(10) == 255
        assert host.run("echo still here")[1] == b"still here\n"


def test_a_frozen_host_does_not_answer_until_thawed() -> None:
    with servers.ssh() as host:
        host.freeze()
        with pytest.raises(subprocess.TimeoutExpired):
            host.run("true", timeout_s=1)
        host.thaw()
        assert host.run("echo thawed")[1] == b"thawed\n"


def test_ciphers_are_the_host_s_choice() -> None:
    with servers.ssh(ciphers="aes128-gcm@openssh.com") as host:
        refused = [*host.ssh()[:3], "-c", "chacha20-poly1305@openssh.com", host.alias, "true"]
        assert b"no matching cipher" in subprocess.run(refused, capture_output=True, timeout=20, check=False).stderr
        assert host.run("echo ok")[1] == b"ok\n"


def _family(pid: int) -> bytes:
    from rh.testing.servers.guard import descendants

    lines = b""
    for one in descendants(pid):
        try:
            lines += Path(f"/proc/{one}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
    return lines


# Web and Git.


def fetch(url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(url, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def test_web_ranges_and_conditions(http_server: servers.HTTPServer) -> None:
    (http_server.root / "a b").write_bytes(b"0123456789")
    url = f"{http_server.url}/a%20b"
    status, body, headers = fetch(url)
    assert (status, body, headers["Accept-Ranges"]) == (200, b"0123456789", "bytes")
    etag = headers["ETag"]
    for asked, expected in {
        "bytes=2-4": (206, b"234"),
        "bytes=7-": (206, b"789"),
        "bytes=-3": (206, b"789"),
        "bytes=5-100": (206, b"56789"),
        "bytes=0-": (206, b"0123456789"),
        "bytes=1-2,4-5": (200, b"0123456789"),
    }.items():
        assert fetch(url, Range=asked)[:2] == expected, asked
    assert fetch(url, Range="bytes=10-")[0] == 416
    assert fetch(url, Range="bytes=2-4", If_Range=etag)[:2] == (206, b"234")
    assert fetch(url, Range="bytes=2-4", If_Range='"old"')[:2] == (200, b"0123456789")
    assert fetch(url, If_Match='"old"')[0] == 412
    assert fetch(url, If_None_Match=etag)[0] == 304
    (http_server.root / "a b").write_bytes(b"9876543210!")
    assert fetch(url)[2]["ETag"] != etag


def test_web_lists_and_stays_below_its_root(http_server: servers.HTTPServer) -> None:
    (http_server.root / "d").mkdir(exist_ok=True)
    (http_server.root / "d" / "x&y").write_bytes(b"")
    status, page, _ = fetch(f"{http_server.url}/d")
    assert status == 200
    assert re.findall(rb'href="([^"]*)"', page) == [b"x%26y"]
    assert ask(http_server.port, "GET", "/../../etc/passwd")[0] == 404
    assert ask(http_server.port, "GET", "/%2e%2e/secret")[0] == 404
    assert ask(http_server.port, "PUT", "/d/x", body=b"1")[0] == 405
    assert [one.path for one in http_server.requests[-3:]] == ["/../../etc/passwd", "/%2e%2e/secret", "/d/x"]


def test_web_without_ranges() -> None:
    with servers.http(ranges=False) as server:
        (server.root / "f").write_bytes(b"0123456789")
        assert fetch(f"{server.url}/f", Range="bytes=2-4")[:2] == (200, b"0123456789")


def test_git_clone_is_exact(git_server: servers.GitServer, tmp_path: Path) -> None:
    url = git_server.make_repository("owner/exact")
    files = {"a b": b"x\r\n\0", 'q"\\é': b"", "run": b"#!/bin/sh\n", "d/e/f": os.urandom(1000)}
    first = git_server.commit("owner/exact", files, executable=frozenset({"run"}), links={"l": "a b"}, tag="v1")
    second = git_server.commit("owner/exact", {"new": b"1"}, removed=frozenset({"run"}))
    assert first != second
    git = program("git", install="")
    for source, place in ((url, "whole"), (f"{git_server.url}/owner/exact", "short")):
        subprocess.run([git, "clone", "-q", source, str(tmp_path / place)], check=True, timeout=30)
    there = tmp_path / "whole"
    assert {key: (there / key).read_bytes() for key in files if key != "run"} == {
        key: data for key, data in files.items() if key != "run"
    }
    assert not (there / "run").exists()
    assert (there / "l").readlink() == Path("a b")
    subprocess.run([git, "-C", str(there), "checkout", "-q", "v1"], check=True, timeout=30)
    assert os.access(there / "run", os.X_OK)


def test_postgres_takes_only_the_password(postgres_server: servers.PostgresServer) -> None:
    psql = program("psql", install="")

    def ask_it(**more: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], **postgres_server.environment(), **more}
        command = [psql, "-At", "-c", "select 6 * 7"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)

    assert ask_it().stdout == "42\n"
    assert ask_it(PGPASSWORD="wrong").returncode != 0
