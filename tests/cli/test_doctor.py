"""doctor and playground."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from rh import config


def configure(**systems):
    """Write these systems into the settings file of the test."""
    lines = []
    for name, settings in systems.items():
        lines += [f"[systems.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    config.home().mkdir(parents=True, exist_ok=True)
    (config.home() / "config.toml").write_text("\n".join(lines) + "\n")


def findings(result):
    return {one["what"]: one for one in result.lines}


def test_a_fresh_machine_has_nothing_that_fails(rh):
    found = findings(rh("doctor", "--json"))
    assert {"python", "rh", "extras", "settings", "registry", "clock", "openssh", "fuse"} <= set(found)
    assert found["s3"]["detail"] == "not configured"
    assert "FAIL" not in rh("doctor").out
    assert not config.home().exists(), "looking changes nothing"


def test_extras_that_nobody_asked_for_are_one_line(rh, monkeypatch):
    from rh.cli.checks import machine

    monkeypatch.setattr(machine, "_installed", lambda module: module not in ("ray", "dask", "azure.storage.blob"))
    found = findings(rh("doctor", "--json"))
    assert found["extras"]["detail"].endswith("; not installed: azure, dask, ray")
    assert not [one for one in found if one.startswith("extra ")]
    more = findings(rh("doctor", "-v", "--json"))
    assert (more["extra dask"]["status"], "pip install" in more["extra dask"]["fix"]) == ("ok", True)
    configure(mine={"kind": "azure"})
    found = findings(rh("doctor", "--json", expect=1))
    assert (found["extra azure"]["status"], found["extras"]["detail"][-26:]) == ("fail", "; not installed: dask, ray")


def test_working_systems(rh, s3_server, ssh_a):
    configure(s3=s3_server.settings(), host=ssh_a.settings(root=str(ssh_a.home)))
    found = findings(rh("doctor", "--json"))
    for what in ("s3 endpoint", "s3 login", "host endpoint", "host host key", "host login", "host python"):
        assert found[what]["status"] == "ok", found[what]
    assert "host login" not in findings(rh("doctor", "s3", "--json"))


@pytest.mark.parametrize(
    "what", ["gone", "host gone", "bucket", "key", "host key", "no such system", "settings", "setting", "registry"]
)
def test_each_trouble_fails_and_says_how_to_fix_it(rh, s3_server, ssh_a, what, tmp_path, monkeypatch):
    s3, host = s3_server.settings(), ssh_a.settings()
    if what == "gone":
        configure(x={**s3, "endpoint_url": "http://127.0.0.1:9"})
    elif what == "host gone":
        configure(x={**host, "port": 9, "known_hosts_file": str(tmp_path / "known")})  # so nobody gives a host key
    elif what == "bucket":
        configure(x={**s3, "root": "s3://there-is-none/x"})
    elif what == "key":
        (tmp_path / "key").write_text("none")
        (tmp_path / "key").chmod(0o600)
        configure(x={**host, "identity_file": str(tmp_path / "key")})
    elif what == "host key":
        configure(x={**host, "known_hosts_file": str(tmp_path / "known")})
    elif what == "settings":
        config.home().mkdir(parents=True)
        (config.home() / "config.toml").write_text("[systems.x\n")
    elif what == "setting":
        configure(x={"kind": "ssh", "hots": "127.0.0.1"})
    elif what == "registry":
        config.home().mkdir(parents=True)
        (config.home() / "registry.db").write_text("this is no database, and longer than a header" * 10)
    words = ["doctor", "x"] if what == "no such system" else ["doctor"]
    result = rh(*words, "--json", expect=1)
    failed = [one for one in result.lines if one["status"] == "fail"]
    assert len(failed) == 1, failed
    assert failed[0]["detail"]
    assert what != "setting" or "did you mean host?" in failed[0]["detail"]
    if what != "registry":
        assert failed[0]["fix"]
    assert "FAIL" in rh(*words, expect=1).out


def test_settings_that_cannot_be_read_fail_for_a_system_that_is_named(rh):
    """Nothing was looked at, which is no good news."""
    config.home().mkdir(parents=True)
    (config.home() / "config.toml").write_text("[systems.x\n")
    [found] = rh("doctor", "x", "--json", expect=1).lines
    assert (found["status"], found["fix"]) == ("fail", f"edit {config.home() / 'config.toml'}")
    assert "valid TOML" in found["detail"]


def test_a_connection_that_stands_proves_no_login(rh):
    """What another process left open is not what is looked at."""
    from rh.testing import servers

    with servers.ssh() as host:
        configure(host=host.settings(root=str(host.home)))
        rh("ls", "host:~/")
        (host.directory / "authorized_keys").write_text("")
        rh("ls", "host:~/")
        found = findings(rh("doctor", "host", "--json", expect=1))
        assert found["host login"]["status"] == "fail"


def test_a_host_without_python_is_a_warning(rh):
    from rh.testing import servers

    with servers.ssh(python=False) as host:
        configure(host=host.settings(root=str(host.home)))
        found = findings(rh("doctor", "host", "--json"))
    assert found["host login"]["status"] == "ok"
    assert found["host python"]["status"] == "warn"
    assert "python3" in found["host python"]["fix"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_the_playground_runs_until_ctrl_c_and_goes_without_a_trace(tmp_path, number):
    program = str(Path(sys.executable).with_name("rh"))
    argv = [program, "playground", "s3", "ssh-a", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        told = json.loads(process.stdout.readline())
        assert set(told["systems"]) == {"s3", "ssh-a"}
        assert told["missing"] == {}
        environment = {**os.environ, **told["environment"]}
        (tmp_path / "f").write_bytes(b"hello")
        for words in (["cp", "f", "s3://data/f"], ["cp", "s3://data/f", "ssh-a:~/g"], ["cat", "ssh-a:~/g"]):
            done = subprocess.run([program, *words], env=environment, capture_output=True, cwd=tmp_path, check=False)
            assert done.returncode == 0, done.stderr
        assert done.stdout == b"hello"
        process.send_signal(number)
        assert process.wait(20) == 0
    assert not list((config.home() / "profiles").glob("*.toml"))
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(told["systems"]["s3"]["endpoint_url"], timeout=5)


def test_a_file_that_cannot_be_read_is_named_and_hides_no_other_finding(rh, s3_server, ssh_a, tmp_path):
    (tmp_path / "file").touch()
    configure(
        one={**s3_server.settings(), "credentials_file": str(tmp_path)},
        two={**ssh_a.settings(), "identity_file": str(tmp_path / "file" / "key")},
        three=s3_server.settings(),
    )
    found = findings(rh("doctor", "--json", expect=1))
    told = {name: one["detail"] for name, one in found.items() if one["status"] == "fail"}
    assert any("credentials file cannot be read: Is a directory" in detail for detail in told.values()), told
    assert any("identity file cannot be read: Not a directory" in detail for detail in told.values()), told
    assert found["three login"]["status"] == "ok"
