"""The playground starts everything, names it in a profile, and goes away without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rh import config
from rh.errors import InvalidError, NotFoundError, UnsupportedError
from rh.testing import servers
from rh.testing.playground import SYSTEMS, Playground
from rh.testing.servers.guard import descendants

pytestmark = pytest.mark.servers

CODE = "from rh.testing.playground import Playground; Playground(tell=lambda line: print(line, flush=True)).run()"


def test_every_system_is_configured_inside_and_gone_afterwards() -> None:
    with Playground() as playground:
        assert not playground.missing
        assert os.environ["RH_PROFILE"] == "playground"
        for name in SYSTEMS:
            settings = config.system(name)
            assert settings["root"]
            assert {key: settings[key] for key in playground.settings(name)} == playground.settings(name)
        pids = [server.pid for server in playground.running.values()]
        text = playground.profile.read_text()
        for secret in ("secret_key", "key", "access_key"):
            assert not [s for s in playground.running.values() if getattr(s, secret, "(nothing)") in text]
    assert "RH_PROFILE" not in os.environ
    assert not playground.profile.exists()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_hosts_trust_each_other() -> None:
    with Playground(only=("ssh-a", "ssh-b")) as playground:
        a, b = playground.running["ssh-a"], playground.running["ssh-b"]
        assert isinstance(a, servers.SSHServer)
        assert isinstance(b, servers.SSHServer)
        for here, there in ((a, b), (b, a)):
            command = f"ssh -o BatchMode=yes -p {there.port} {there.user}@127.0.0.1 pwd"
            assert here.run(command) == (0, f"{there.home}\n".encode(), b"")


def test_a_second_one_has_a_profile_of_its_own() -> None:
    """Whichever is in use, as where a program makes its own in a terminal that uses the one of `rh playground`."""
    with Playground(only=("s3",)):
        endpoint = config.system("s3")["endpoint_url"]
        with Playground(only=("s3",)) as second:
            assert (os.environ["RH_PROFILE"], second.environment()["RH_PROFILE"]) == ("playground-2", "playground-2")
            assert "  export RH_PROFILE=playground-2" in second.instructions()
            assert config.system("s3")["endpoint_url"] not in (endpoint, None)
        assert not second.profile.exists()
        assert os.environ["RH_PROFILE"] == "playground"
        assert config.system("s3")["endpoint_url"] == endpoint
    with Playground(only=("s3",)) as again:
        assert again.name == "playground"


def test_what_cannot_be_started_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RH_AZURITE", str(tmp_path / "nothing here"))
    with Playground(only=("s3", "azure"), install=False) as playground:
        assert list(playground.running) == ["s3"]
        assert isinstance(playground.missing["azure"], UnsupportedError)
        assert any("azurite is not installed" in line and "fix:" in line for line in playground.instructions())
        assert "[systems.azure]" not in playground.profile.read_text()


def test_an_unknown_system_is_an_error() -> None:
    with pytest.raises(InvalidError, match="no 's4'"):
        Playground(only=("s4",))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_stays_until_a_signal(number: signal.Signals) -> None:
    runner = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    lines: list[str] = []
    for line in runner.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith("Ctrl-C"):
            break
    profile = config.home() / "profiles" / "playground.toml"
    assert profile.exists()
    assert "  export RH_PROFILE=playground" in lines
    begun = time.monotonic()
    runner.send_signal(number)
    _, errors = runner.communicate(timeout=20)
    assert runner.returncode == 0, errors
    assert errors == ""
    assert time.monotonic() - begun < 8
    assert not profile.exists()


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_server_that_dies_ends_it_with_an_error(more: tuple[str, ...]) -> None:
    command = [str(Path(sys.executable).with_name("rh")), "playground", "s3", *more]
    runner = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    lines = []
    for line in runner.stdout:
        lines.append(line)
        if line.startswith(("Ctrl-C", "{")):
            break
    assert more or "s3 keeps what it holds in memory: stay well below what is free.\n" in lines
    [rclone] = [pid for pid in descendants(runner.pid) if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes()][-1:]
    os.kill(rclone, signal.SIGKILL)
    _, errors = runner.communicate(timeout=20)
    assert runner.returncode == 7
    assert "s3 stopped (killed by signal 9), and what it held is gone" in errors
    assert not (config.home() / "profiles" / "playground.toml").exists()


def test_a_killed_one_leaves_no_server_and_does_not_stand_in_the_way() -> None:
    runner = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    for line in runner.stdout:
        if line.startswith("Ctrl-C"):
            break
    os.environ["RH_PROFILE"] = "playground"
    directory = Path(config.system("s3")["credentials_file"]).parent
    del os.environ["RH_PROFILE"]
    assert directory.exists()
    runner.kill()
    runner.communicate()
    deadline = time.monotonic() + 10
    while directory.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not directory.exists()
    with Playground(only=("s3",)) as again:
        assert again.running["s3"].running


def test_without_a_playground_there_is_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RH_PROFILE", "playground")
    with pytest.raises(NotFoundError, match="no profile 'playground'"):
        config.system("s3")
