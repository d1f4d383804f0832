"""Checks of each configured system: endpoint, host key, login, root, far-side Python."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from rh import config
from rh.cli.checks import Finding
from rh.errors import NotFoundError, RhError
from rh.systems import BUCKETS, HOSTS, locate, open_system, settings_of
from rh.systems.abilities import Running
from rh.types import Location

__all__ = ["checks"]

_AT_ONCE = 8


def checks(names: Sequence[str] | None, *, timeout_s: float) -> Iterator[Iterator[Finding]]:
    """The checks of the named systems, or of all that somebody configured, in the order of their names."""
    if names is not None:
        chosen = dict.fromkeys(names, True)
    else:
        chosen = {}
        try:
            for value in config.show():
                if value.key.startswith("systems."):
                    name = value.key.split(".")[1]
                    chosen[name] = chosen.get(name, False) or value.origin != "default"
        except RhError:
            return  # the check of the settings has said so
    with ThreadPoolExecutor(_AT_ONCE, "rh-doctor") as pool:
        waiting = [pool.submit(_all, name, wanted, timeout_s) for name, wanted in chosen.items()]
        for one in waiting:
            yield iter(one.result())


def _all(name: str, wanted: bool, timeout_s: float) -> list[Finding]:
    try:
        settings = settings_of(name)
    except RhError as error:
        return [Finding("fail", name, error.message, error.hint or f"edit {error.where}")]
    kind = settings["kind"]
    if kind in ("file", "memory"):
        return []
    if not wanted:
        return [Finding("ok", name, "not configured")]
    findings: list[Finding] = []
    try:
        findings += _endpoint(name, settings, timeout_s)
        if kind in HOSTS and not _failed(findings):
            findings += _host_key(name, settings)  # what mends it asks the host
        if not _failed(findings):
            with config.override({"systems": {name: {"timeout_s": timeout_s, "retries": 0}}}):
                findings += _root(name, settings)
    except RhError as error:
        findings.append(Finding("fail", name, error.message, error.hint))
    except Exception as error:  # noqa: BLE001 - one system keeps no other from being looked at
        findings.append(Finding("fail", name, f"{type(error).__name__}: {error}"))
    return findings


def _failed(findings: Sequence[Finding]) -> bool:
    return any(finding.status == "fail" for finding in findings)


def _endpoint(name: str, settings: dict[str, Any], timeout_s: float) -> Iterator[Finding]:
    """Whether something listens, and for HTTP whether its clock agrees with ours."""
    url = str(settings.get("endpoint_url") or "")
    if settings["kind"] in HOSTS:
        host, port = _ssh_address(settings)
    elif url:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    else:
        return
    if not host or (settings["kind"] in HOSTS and (settings.get("proxy_jump") or _proxied(settings))):
        return
    what = f"{name} endpoint"
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            pass
    except socket.gaierror:
        yield Finding(
            "fail", what, f"{host} is not a known host name", f"check systems.{name} in the settings, and DNS"
        )
        return
    except OSError as error:
        yield Finding(
            "fail", what, f"{host}:{port}: {error.strerror or error}", "is it running, and does the firewall let us?"
        )
        return
    yield Finding("ok", what, f"{host}:{port} answers")
    if url:
        yield from _skew(name, url, timeout_s)


def _skew(name: str, url: str, timeout_s: float) -> Iterator[Finding]:
    """Signed requests are refused when clocks differ by more than 15 minutes."""
    import http.client

    parts = urlsplit(url)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.netloc.rpartition("@")[2], timeout=timeout_s)
    try:
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("Date")
        skew = parsedate_to_datetime(date).timestamp() - time.time() if date else 0.0
    except (OSError, http.client.HTTPException, ValueError) as error:
        if parts.scheme == "https":
            yield Finding("fail", f"{name} TLS", str(error), "set SSL_CERT_FILE to the authority's certificates")
        return
    finally:
        connection.close()
    if abs(skew) > 60:
        status: Any = "fail" if abs(skew) > 900 else "warn"
        yield Finding(status, f"{name} clock", f"it differs from ours by {skew:.0f} s", "timedatectl set-ntp true")


def _ssh_config(settings: dict[str, Any]) -> dict[str, str]:
    """What OpenSSH makes of the host: `ssh -G`."""
    program = shutil.which("ssh")
    host = str(settings.get("host") or settings["name"])
    if program is None or host.startswith("-"):
        return {}
    argv = [program, *(["-F", str(settings["config_file"])] if settings.get("config_file") else []), "-G", host]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    pairs = (line.partition(" ") for line in done.stdout.splitlines())
    return {key: value for key, _, value in pairs}


def _ssh_address(settings: dict[str, Any]) -> tuple[str, int]:
    found = _ssh_config(settings)
    host = found.get("hostname") or str(settings.get("host") or settings["name"])
    return host, int(settings.get("port") or found.get("port") or 22)


def _proxied(settings: dict[str, Any]) -> bool:
    found = _ssh_config(settings)
    return any(found.get(key, "none") != "none" for key in ("proxyjump", "proxycommand"))


def _host_key(name: str, settings: dict[str, Any]) -> list[Finding]:
    """Whether the host's key is in a file of known hosts."""
    program = shutil.which("ssh-keygen")
    if program is None:
        return []
    host, port = _ssh_address(settings)
    entry = host if port == 22 else f"[{host}]:{port}"
    own = settings.get("known_hosts_file")
    found = _ssh_config(settings)
    alias = found.get("hostkeyalias")
    files = [str(own)] if own else found.get("userknownhostsfile", "~/.ssh/known_hosts").split()
    files = [os.path.expanduser(file) for file in files]
    for file in [*files, *found.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts").split()]:
        for words in filter(None, (entry, alias)):
            done = subprocess.run([program, "-F", words, "-f", file], capture_output=True, timeout=10, check=False)
            if done.returncode == 0 and done.stdout:
                return [Finding("ok", f"{name} host key", f"{words} is in {file}")]
    where = f"-p {port} {host}" if port != 22 else host
    return [
        Finding(
            "fail",
            f"{name} host key",
            f"{entry} is in no file of known hosts",
            f"ssh-keyscan {where} >> {files[0]}, and compare the fingerprint with the host's owner",
        )
    ]


def _root(name: str, settings: dict[str, Any]) -> list[Finding]:
    """Whether we may list the root, and on a host whether Python is there."""
    kind, what = settings["kind"], f"{name} login"
    if kind in BUCKETS and not settings.get("root"):
        stem = name.upper().replace("-", "_").replace(".", "_")
        scheme = {"s3": "s3", "gs": "gs", "azure": "az"}[kind]
        return [
            Finding(
                "warn",
                what,
                "no root is configured, so nothing was tried",
                f"export RH_{stem}_ROOT={scheme}://my-bucket/data",
            )
        ]
    if kind == "git" and not (settings.get("url") or settings.get("root")):
        return []
    anew = {"systems": {name: {"persist_s": 0}}} if kind in HOSTS else {}  # a login, not a connection that stands
    try:
        location: Location = locate(None, name)
        with config.override(anew):
            system = open_system(location)
    except RhError as error:
        return [Finding("fail", what, error.message, error.hint)]
    with system:
        begun = time.monotonic()
        try:
            next(iter(system.list(depth=1)), None)
        except NotFoundError as error:
            if kind in BUCKETS and "bucket" in error.message:
                return [Finding("fail", what, str(error.message), error.hint)]
            found = [Finding("warn", what, f"logged in; {system.url()} is not there yet", "the first copy makes it")]
        except RhError as error:
            return [Finding("fail", what, f"{error.message} [{error.where}]", error.hint or _login(kind))]
        else:
            took = (time.monotonic() - begun) * 1000
            found = [Finding("ok", what, f"{system.url()} lists ({took:.0f} ms)")]
        if kind in HOSTS:
            found += _far_python(name, system.ask(Running))
    return found


def _far_python(name: str, running: Running | None) -> list[Finding]:
    what, slow = f"{name} python", "plain SFTP is used, which is slower"
    fix = "install python3 (3.7 or newer) on that host; nothing else is needed there"
    if running is None:
        return [Finding("warn", what, f"no command can be run; {slow}", fix)]
    try:
        status, out, _ = running.run(["python3", "-c", "import sys; print('.'.join(map(str, sys.version_info[:3])))"])
    except RhError as error:
        return [Finding("warn", what, f"{error.message}; {slow}", fix)]
    text = out.decode("utf-8", "replace").strip()
    if status or not text:
        return [Finding("warn", what, f"no python3 there; {slow}", fix)]
    if tuple(int(part) for part in text.split(".")[:2] if part.isdigit()) < (3, 7):
        return [Finding("warn", what, f"{text} is too old; {slow}", fix)]
    return [Finding("ok", what, text)]


def _login(kind: str) -> str | None:
    return {
        "s3": "aws configure (or aws sso login), or AWS_PROFILE, or profile = … for this system",
        "gs": "gcloud auth application-default login",
        "azure": "az login, or AZURE_STORAGE_CONNECTION_STRING",
        "ssh": "ssh to the host by hand; then check ~/.ssh/config, the key and the agent",
    }.get(kind)
