"""Hosts that are not who they were, refuse, fall silent or go away, on a real sshd."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rh import config, transfer
from rh.errors import (
    AccessError,
    ConflictError,
    DeadlineError,
    InvalidError,
    NotFoundError,
    RhError,
    TransferError,
    UnauthenticatedError,
    UnavailableError,
)
from rh.systems import locate
from rh.systems.abilities import Multipart
from rh.systems.ssh import SSHSystem, openssh
from rh.systems.ssh.by_paramiko import Paramiko
from rh.systems.ssh.openssh import OpenSSH
from rh.systems.wrap import wrap
from rh.testing import servers
from rh.testing.faults import Bandwidth, FaultProxy
from rh.types import Location, Match
from tests.systems.hosts import ROADS, TRANSPORTS, fresh, opened

# Who is on the other side


@TRANSPORTS
def test_unknown_host_key_is_refused(host: servers.SSHServer, tmp_path: Path, transport: str) -> None:
    """A host nobody has seen is refused, with the line that makes it known; accept_new is by choice, and stores it."""
    known = tmp_path / "known"
    known.write_text("")
    refused = opened(host, transport=transport, known_hosts_file=str(known))
    with pytest.raises(UnauthenticatedError) as caught:
        refused.head("x")
    assert f"ssh-keyscan -p {host.port} 127.0.0.1 >> {known}" in str(caught.value)
    assert known.read_text() == ""
    trusting = opened(host, transport=transport, known_hosts_file=str(known), accept_new="true")
    with pytest.raises(NotFoundError):
        trusting.head("x")
    assert host.public_key.split()[1] in known.read_text()
    trusting.close()
    with pytest.raises(NotFoundError):
        refused.head("x")
    refused.close()


@TRANSPORTS
@pytest.mark.parametrize("accept_new", [False, True])
def test_changed_host_key_is_refused(tmp_path: Path, transport: str, accept_new: bool) -> None:
    """A host with another key than it had is refused, always."""
    with servers.ssh() as server:
        system = opened(server, transport=transport, accept_new=accept_new)
        system.write("x", b"1")
        system.close()
        server.change_host_key()
        with pytest.raises(AccessError) as caught:
            system.read("x")
        assert not isinstance(caught.value, UnauthenticatedError)
        assert f"ssh-keygen -R '[127.0.0.1]:{server.port}' -f {server.known_hosts_file}" in str(caught.value)
        system.close()


@TRANSPORTS
def test_refused_login(host: servers.SSHServer, tmp_path: Path, transport: str) -> None:
    """A key the host does not know."""
    key = tmp_path / "other key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    system = opened(host, transport=transport, identity_file=str(key))
    with pytest.raises(UnauthenticatedError, match="refused our login"):
        system.head("x")
    system.close()


@TRANSPORTS
@ROADS
def test_nobody_there(host: servers.SSHServer, monkeypatch: pytest.MonkeyPatch, transport: str, far: str) -> None:
    """A port nobody listens on is told at the first try, with host and port; a name nobody has, too."""
    tries = []
    opened_once = {"openssh": OpenSSH, "paramiko": Paramiko}[transport].open
    for cls in (OpenSSH, Paramiko):
        monkeypatch.setattr(cls, "open", lambda self, *a, **k: tries.append(1) or opened_once(self, *a, **k))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        system = wrap(opened(host, transport=transport, far=far, port=port))
        with pytest.raises(UnavailableError, match="refused the connection") as caught:
            system.head("x")
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "sshd runs" in caught.value.hint
    assert len(tries) == 1
    system = wrap(opened(host, transport=transport, far=far, host="no-such-host.invalid"))
    with pytest.raises(UnavailableError, match=f"cannot be resolved.*no-such-host.invalid:{host.port}"):
        system.head("x")
    assert len(tries) == 2


@TRANSPORTS
def test_a_host_that_comes_back_is_waited_for(transport: str) -> None:
    """What refuses us now and let us in before may be starting again: that is tried again (promise 26)."""
    with servers.ssh() as server:
        system = opened(server, transport=transport)
        system.write("x", b"1")
        server.kill()
        for _ in range(2):  # the connections that were kept end first
            with pytest.raises((UnavailableError, DeadlineError)) as caught:
                system.read("x").read()
            assert caught.value.retryable
        system.close()


@TRANSPORTS
def test_silent_host(host: servers.SSHServer, transport: str) -> None:
    """A host that takes the connection and says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        system = opened(host, transport=transport, port=silent.getsockname()[1], timeout_s=2)
        begun = time.monotonic()
        with pytest.raises((DeadlineError, UnavailableError)):
            system.head("x")
        assert time.monotonic() - begun < 7
        system.close()


@TRANSPORTS
def test_host_falls_silent(transport: str) -> None:
    """A host that stops in mid-session: the call raises within the deadline and 5 s; when it is back, so are we."""
    with servers.ssh() as server:
        system = opened(server, transport=transport, timeout_s=2)
        system.write("x", b"1")
        server.freeze()
        begun = time.monotonic()
        try:
            with pytest.raises((DeadlineError, UnavailableError)):
                system.read("x").read()
            assert time.monotonic() - begun < 7
        finally:
            server.thaw()
        assert system.read("x").read() == b"1"
        system.close()


def test_ssh_config_alias(host: servers.SSHServer) -> None:
    """An alias of ssh_config is enough, on both transports."""
    for transport in ("openssh", "paramiko"):
        settings = {"host": host.alias, "config_file": str(host.config_file), "transport": transport, "timeout_s": 20}
        with SSHSystem.open(Location("x", "~/alias"), settings) as system:
            assert system.write("k", transport.encode()).size == len(transport)


@TRANSPORTS
def test_proxy_jump(host: servers.SSHServer, tmp_path: Path, transport: str) -> None:
    """A host behind another is reached through it."""
    with servers.ssh(alias="inner") as inner:
        config = tmp_path / "config"
        config.write_text(
            host.config_file.read_text() + inner.config_file.read_text() + f"Host inner\n    ProxyJump {host.alias}\n"
        )
        settings = {"host": "inner", "config_file": str(config), "transport": transport, "timeout_s": 20}
        before = host.log.count("Accepted publickey")
        with SSHSystem.open(Location("x", "~/d"), settings) as system:
            system.write("k", b"through")
        assert (inner.home / "d/k").read_bytes() == b"through"
        assert host.log.count("Accepted publickey") > before


def test_settings_that_cannot_be(host: servers.SSHServer) -> None:
    for wrong in (
        {"host": "-oProxyCommand=touch x"},
        {"host": "a b"},
        {"port": "many"},
        {"transport": "pigeon"},
        {"user": "-x"},
    ):
        with pytest.raises(InvalidError):
            opened(host, **wrong)
    for path in ("relative", "~other/x", "/nul\0"):
        with pytest.raises(InvalidError):
            opened(host, path)


@pytest.mark.slow
@TRANSPORTS
def test_a_slow_line_takes_large_files(transport: str) -> None:
    """A host says that it is alive while a part, or a file, is on its way: that is no answer yet."""
    data = os.urandom(20 << 20)
    with servers.ssh() as host, FaultProxy(host.port, [Bandwidth(bytes_per_s=12e6, direction="up")]) as proxy:
        more = {"via": proxy.port, "timeout_s": 2.0, "transport": transport}
        with wrap(SSHSystem.open(Location("far", str(host.home)), host.settings(**more))) as system:
            system.write("whole", data)
            multipart = system.ask(Multipart)
            assert multipart is not None
            upload = multipart.begin("parts", len(data), part_size=16 << 20)
            step = upload.part_size
            upload.finish([upload.put(at // step, data[at : at + step]) for at in range(0, len(data), step)])
            for key in ("whole", "parts"):
                with system.read(key) as body:
                    assert body.read() == data


@TRANSPORTS
@ROADS
def test_a_command_that_is_not_there(host: servers.SSHServer, transport: str, far: str) -> None:
    """Which one, on which host, and the status a shell gives it; what a shell says of its own is its output."""
    with opened(host, "~", transport=transport, far=far) as system:
        for command in ("no-such-command", "/no/such/command"):
            with pytest.raises(NotFoundError, match=f"'{command}' to run .exit status 127.*ssh-a:~"):
                system.run([command])
        assert system.run(["sh", "-c", "no-such-command"])[0] == 127
        assert system.run(["sh", "-c", "echo sh: not found >&2; exit 3"])[0] == 3


@ROADS
def test_a_pipe_is_listed_and_is_no_data(host: servers.SSHServer, far: str) -> None:
    """Nothing is left out of a listing in silence."""
    name = uuid.uuid4().hex
    (host.home / name).mkdir()
    os.mkfifo(host.home / name / "pipe")
    with opened(host, f"~/{name}", far=far) as system:
        (entry,) = system.list()
        assert entry == system.head("pipe")
        assert (entry.key, entry.kind, entry.size, entry.etag) == ("pipe", "file", 0, None)
        with pytest.raises(RhError):
            system.read("pipe")


# When things break


@TRANSPORTS
@ROADS
def test_lost_connection(transport: str, far: str) -> None:
    """Killed sessions: the call in flight raises what may be tried again, the next one connects anew."""
    with servers.ssh() as server, opened(server, transport=transport, far=far) as system:
        system.write("x", bytes(20 << 20))
        body = system.read("x")
        pieces = iter(body)
        next(pieces)
        server.drop_connections()
        with pytest.raises(RhError) as caught:
            for _ in pieces:
                pass
        assert caught.value.retryable
        assert system.read("x").read() == bytes(20 << 20)

        def stream() -> Iterator[bytes]:
            for number in range(64):
                if number == 3:
                    server.drop_connections()
                yield bytes(1 << 20)

        with pytest.raises(RhError) as caught:
            system.write("y", stream())
        assert caught.value.retryable
        with pytest.raises(NotFoundError):
            system.head("y")
        server.restart()
        assert system.head("x").size == 20 << 20


def test_far_program_goes_and_cleans_up(host: servers.SSHServer) -> None:
    """When the link is cut in the middle of a write, the far side removes its unfinished file and its new directory."""
    with servers.ssh() as server, opened(server) as system:
        root = server.home / system.location.name

        def stream() -> Iterator[bytes]:
            yield bytes(1 << 20)
            until = time.monotonic() + 10
            while not (root.is_dir() and any(root.iterdir())) and time.monotonic() < until:
                time.sleep(0.05)
            for pid in masters(server.port):  # as a lost client
                os.kill(pid, signal.SIGKILL)
            assert ended(lambda: masters(server.port))
            yield bytes(1 << 20)

        with pytest.raises(UnavailableError):
            system.write("x", stream())
        until = time.monotonic() + 10
        while root.exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert not root.exists()


def test_changed_while_read(host: servers.SSHServer) -> None:
    """A file that changes under a read is an error; one that is replaced is read as it was."""
    with opened(host) as system:
        entry = system.write("x", bytes(12 << 20))
        body = system.read("x", when=Match(entry.etag or ""))
        pieces = iter(body)
        got = [bytes(next(pieces))]
        system.write("x", b"new")
        got += [bytes(piece) for piece in pieces]
        assert b"".join(got) == bytes(12 << 20)
        entry = system.write("x", bytes(12 << 20))
        body = system.read("x")
        pieces = iter(body)
        next(pieces)
        with open(host.home / system.location.name / "x", "r+b") as file:
            file.write(b"in place")
        with pytest.raises(ConflictError):
            list(pieces)


def test_early_close_keeps_the_session(openssh: SSHSystem) -> None:
    """A read or listing that nobody wants to the end does not cost a new session."""
    system = fresh(openssh)
    system.write("x", bytes(64 << 20))
    before = {session.info[1] for session in system.pool._all}
    for _ in range(5):
        with system.read("x") as body:
            next(iter(body))
        next(system.list())
    assert {session.info[1] for session in system.pool._all} == before
    assert system.read("x", (5, 8)).read() == bytes(3)


def test_children(openssh: SSHSystem) -> None:
    """Forked workers and the parent use the host side by side."""
    system = fresh(openssh)
    system.write("x", bytes(100_000))
    children = []
    for number in range(3):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                if system.read("x").read() == bytes(100_000):
                    system.write(f"from-{number}", b"1")
                    status = 0
            finally:
                os._exit(status)
        children.append(pid)
    for _ in range(10):
        assert system.read("x").read() == bytes(100_000)
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [entry.key for entry in system.list("from")] == ["from-0", "from-1", "from-2"]


def elsewhere(settings: dict[str, Any], then: str = "") -> subprocess.Popen[str]:
    """Another process that writes to the host, tells who does it there and here, and goes on to do something else."""
    script = (
        "import time\nfrom rh.systems.ssh import SSHSystem\nfrom rh.types import Location\n"
        f"s = SSHSystem.open(Location('x', '~/{uuid.uuid4().hex}'), {settings!r})\n"
        "s.write('x', b'1')\nfor n in s.pool._all: print(n.info[1], n.channel._process.pid)\n"
        f"print('end', flush=True)\n{then}"
    )
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def masters(port: int) -> list[int]:
    """Processes that hold a connection to that port open in the background."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = place.read_bytes().replace(b"\0", b" ")
            if line.startswith(b"ssh: ") and b"[mux]" in line:
                fds = [os.readlink(fd) for fd in (place.parent / "fd").iterdir()]
                if port in _ports(place.parent, fds):
                    found.append(int(place.parent.name))
    return found


def _ports(process: Path, fds: list[str]) -> Iterator[int]:
    inodes = {fd[8:-1] for fd in fds if fd.startswith("socket:[")}
    for line in (process / "net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes:
            yield int(fields[2].rpartition(":")[2], 16)


def ended(found: Callable[[], object]) -> bool:
    """Whether there is nothing to be found within ten seconds."""
    until = time.monotonic() + 10
    while found() and time.monotonic() < until:
        time.sleep(0.05)
    return not found()


@pytest.mark.parametrize("persist_s", [0, 60])
def test_who_is_killed_leaves_no_program_behind(persist_s: int) -> None:
    """Neither the far one nor a client; a connection stays if that is wanted, and its socket is the user's alone."""
    with servers.ssh() as host:
        port = host.port
        child = elsewhere(host.settings(timeout_s=20, persist_s=persist_s), "time.sleep(60)")
        assert child.stdout is not None
        with child.stdout as said:
            pids = [int(word) for line in iter(said.readline, "end\n") for word in line.split()]
        assert len(pids) == 2
        assert len(masters(port)) == 1
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert ended(lambda: [pid for pid in pids if Path(f"/proc/{pid}").exists()])
        assert len(masters(port)) == 1 if persist_s else ended(lambda: masters(port))
        with opened(host) as system:
            system.write("x", b"1")
            assert os.stat(os.path.dirname(system.pool.transport._sockets())).st_mode & 0o777 == 0o700
    assert ended(lambda: masters(port))


def stopped(source: str, target: str, systems: dict[str, dict[str, Any]], begun: Callable[[], object]) -> None:
    """Another process that copies a file, and is killed when that has begun."""
    script = (
        "from rh import config, transfer\nfrom rh.systems import locate\n"
        f"for name, settings in {systems!r}.items(): config.register(name, settings)\n"
        f"transfer.copy_file(locate({source!r}), locate({target!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as child:
        until = time.monotonic() + 20
        while not begun() and time.monotonic() < until:
            time.sleep(0.02)
        assert child.poll() is None
        child.kill()


@pytest.mark.parametrize("size", [6 << 20, 40 << 20])
def test_what_a_host_fetches_does_not_arrive_once_who_asked_is_gone(
    host: servers.SSHServer, s3_server: servers.S3Server, size: int
) -> None:
    """Somebody may have put another file there since: it would be lost."""
    name = uuid.uuid4().hex
    s3_server.request("PUT", f"/{s3_server.buckets[0]}/{name}", body=os.urandom(size))
    there = host.home / name
    there.mkdir()
    with FaultProxy(s3_server.port, [Bandwidth(bytes_per_s=size / 3)], http=True) as proxy:
        systems = {"host": host.settings(), "s3": s3_server.settings(via=proxy.port)}
        source, target = f"s3://{s3_server.buckets[0]}/{name}", f"host:~/{name}/x"
        stopped(source, target, systems, lambda: any(there.iterdir()) and proxy.counts.received > size // 8)
        (there / "x").write_text("newer")
        assert ended(lambda: len(list(there.iterdir())) > 1)
    assert (there / "x").read_text() == "newer"


def test_what_a_host_sends_does_not_arrive_once_who_asked_is_gone(
    host: servers.SSHServer, s3_server: servers.S3Server
) -> None:
    key = uuid.uuid4().hex
    (host.home / key).write_bytes(os.urandom(15 << 20))  # more than sockets hold
    with FaultProxy(s3_server.port, [Bandwidth(bytes_per_s=4 << 20, direction="up")], http=True) as proxy:
        systems = {"host": host.settings(), "s3": s3_server.settings(via=proxy.port)}
        stopped(f"host:~/{key}", f"s3://{s3_server.buckets[0]}/{key}", systems, lambda: proxy.counts.sent > 1 << 20)
        time.sleep(5)
    assert s3_server.request("HEAD", f"/{s3_server.buckets[0]}/{key}")[0] == 404


@pytest.mark.parametrize(("persist_s", "logins"), [(0, 3), (60, 1)])
def test_a_connection_stays_for_processes_to_come(persist_s: int, logins: int, host: servers.SSHServer) -> None:
    """They need no login; unless they log in otherwise, or trust another key by now."""
    before = host.log.count("Accepted publickey")
    settings = host.settings(persist_s=persist_s, timeout_s=19)
    for _ in range(3):
        assert elsewhere(settings).communicate()[0].endswith("end\n")
    assert host.log.count("Accepted publickey") - before == logins


def test_a_connection_that_stays_trusts_nobody_anew(tmp_path: Path) -> None:
    """Who strikes a host off the list of those known is asked at once, although a connection stands."""
    with servers.ssh() as server:
        known = tmp_path / "known"
        known.write_bytes(server.known_hosts_file.read_bytes())
        with opened(server, known_hosts_file=str(known)) as system:
            system.write("x", b"1")
        assert len(masters(server.port)) == 1
        known.write_text("")
        with pytest.raises(UnauthenticatedError, match="not known"):
            opened(server, known_hosts_file=str(known)).head("x")


def test_a_connection_that_stays_and_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left for a new one, before the patience for a living one ends."""
    monkeypatch.setattr(openssh, "_PATIENCE_S", 0.5)
    with servers.ssh() as server:
        with opened(server, timeout_s=600) as system:
            system.write("x", b"1")
        server._signal(signal.SIGSTOP, server=False)
        before = server.log.count("Accepted publickey")
        with opened(server, str(system.location.path), timeout_s=600) as again:
            assert again.read("x").read() == b"1"
            assert again.pool.transport._lines[0].proved
        assert server.log.count("Accepted publickey") - before == 1
        for pid in masters(server.port):
            os.kill(pid, signal.SIGSTOP)  # as if it hung
        server.thaw()
        with opened(server, str(system.location.path), timeout_s=600) as again:
            assert again.read("x").read() == b"1"
        assert server.log.count("Accepted publickey") - before == 2
        for pid in masters(server.port):
            os.kill(pid, signal.SIGKILL)
        with opened(server, str(system.location.path), timeout_s=600) as again:
            assert again.read("x").read() == b"1"  # a socket that nobody listens on
        assert server.log.count("Accepted publickey") - before == 3


def test_sockets_of_killed_clients_go(host: servers.SSHServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next process removes them; those of living ones serve on."""
    settings = host.settings(timeout_s=17)
    with tempfile.TemporaryDirectory() as runtime, socket.socket(socket.AF_UNIX) as dead:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        assert elsewhere(settings).communicate()[0].endswith("end\n")
        (place,) = Path(runtime).iterdir()
        (living,) = place.iterdir()
        dead.bind(str(place / "m0-0"))
        assert elsewhere(settings).communicate()[0].endswith("end\n")
        assert list(place.iterdir()) == [living]


def test_a_configuration_that_is_no_utf_8(host: servers.SSHServer, tmp_path: Path) -> None:
    """It is bytes to OpenSSH."""
    config = tmp_path / "config"
    config.write_bytes(host.config_file.read_bytes() + b"\nHost *\n  SetEnv X=caf\xe9\n")
    with SSHSystem.open(
        Location("x", "~/latin"), {**host.settings(timeout_s=17), "config_file": str(config)}
    ) as system:
        assert system.write("x", b"1").size == 1


@pytest.mark.parametrize("name", ["long".ljust(59, "x"), "a blank", "100%d"])
@pytest.mark.parametrize("where", ["XDG_RUNTIME_DIR", "TMPDIR"])
def test_directories_that_hold_no_sockets(
    host: servers.SSHServer, where: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSH cannot make sockets there, or takes their paths for others."""
    settings = host.settings(timeout_s=17)
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        base = os.path.join(place, name)[:59]
        os.mkdir(base)
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/1")  # where nobody may make a directory, as in another user's
        monkeypatch.setenv(where, base)
        out, _ = elsewhere(settings).communicate()
    assert out.endswith("end\n")


def test_commands_end_where_a_client_holds_our_pipes(
    host: servers.SSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As clients before 8.5 do whose connection stays."""
    program = tmp_path / "ssh"
    holder = '[ "$1" = -G ] || sleep 60 </dev/null >/dev/null &'
    program.write_text(f'#!/bin/sh\n{holder}\nexec {shutil.which("ssh")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with opened(host, far="sftp", timeout_s=18) as system:
        system.write("x", b"1")
        began = time.monotonic()
        assert system.run(["echo", "hello"]) == (0, b"hello\n", b"")
        assert time.monotonic() - began < 30


@ROADS
def test_what_did_not_come_leaves_no_directory(host: servers.SSHServer, far: str) -> None:
    """A directory that was made for a file alone goes with it; what was there, or holds something, stays."""

    def cut() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise ConflictError("it changed while it was read")

    with opened(host, far=far) as system:
        home = host.home / system.location.path[2:]
        with pytest.raises(ConflictError):
            system.write("a/b/c", cut())
        assert not home.exists()
        system.write("kept/", b"")
        system.write("full/x", b"1")
        for key in ("kept/new/c", "full/c"):
            with pytest.raises(ConflictError):
                system.write(key, cut())
        assert [entry.key for entry in system.list()] == ["full/x", "kept/"]


@ROADS
@pytest.mark.parametrize("size", [2_000_000, 20_000_000])
def test_a_source_that_changed_leaves_no_target(host: servers.SSHServer, far: str, size: int, tmp_path: Path) -> None:
    """Also not the directory that was to be the target."""
    path = tmp_path / "a" / "f"
    path.parent.mkdir()
    path.write_bytes(b"1" * size)
    config.register("host", host.settings(far=far))
    target = locate(f"~/{uuid.uuid4().hex}/b", "host")
    plan = transfer.plan_tree(locate(str(path.parent)), target)
    path.write_bytes(b"2" * size)
    with pytest.raises(TransferError, match="changed"):
        transfer.execute(plan)
    assert not (host.home / target.path[2:]).parent.exists()


def test_an_upload_that_is_given_up_takes_its_directories_along(host: servers.SSHServer) -> None:
    with opened(host) as system:
        home = host.home / system.location.path[2:]
        for known in (False, True):
            if known:
                home.mkdir()
            upload = system.begin("a/b/c", 100, part_size=50)
            upload.put(0, b"x" * 50)
            assert (home / "a" / "b").exists()
            upload.abort()
            assert not (home / "a").exists()
            assert home.exists() is known


@TRANSPORTS
def test_no_such_identity_file(host: servers.SSHServer, tmp_path: Path, transport: str) -> None:
    """It is said before anybody is asked; a public key alone stands for one that the agent has."""
    with pytest.raises(InvalidError, match=r"no such identity file.*gone") as caught:
        opened(host, transport=transport, identity_file=str(tmp_path / "gone"))
    assert "identity_file" in (caught.value.hint or "")
    (tmp_path / "gone.pub").write_bytes(Path(f"{host.identity_file}.pub").read_bytes())
    opened(host, transport=transport, identity_file=str(tmp_path / "gone")).close()
