"""Checks of this machine: Python, packages, settings, registry, clock, programs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rh import config, plugins
from rh.cli.checks import Finding
from rh.errors import RhError

__all__ = ["checks"]

_SKEW_S = 5.0


def checks(*, verbose: bool = False) -> Iterator[Iterator[Finding]]:
    """Every check of the machine; with `verbose`, of every extra that nobody asked for."""
    yield _python()
    yield _extras(verbose=verbose)
    yield _settings()
    yield _registry()
    yield _clock()
    yield _openssh()
    yield _fuse()


def _python() -> Iterator[Finding]:
    import rh

    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "python", f"{version} ({sys.executable})")
    yield Finding("ok", "rh", f"{rh.__version__} ({Path(rh.__file__).parent})")


def _extras(*, verbose: bool) -> Iterator[Finding]:
    missing: dict[str, list[str]] = {}
    present: list[str] = []
    for module, extra in plugins.EXTRAS.items():
        if _installed(module):
            present.append(extra)
        else:
            missing.setdefault(extra, []).append(module)
    whole = sorted(set(present) - set(missing))
    wanted = _wanted_extras()
    idle = [] if verbose else sorted(set(missing) - set(wanted))
    told = [", ".join(whole) if whole else "none installed", *([f"not installed: {', '.join(idle)}"] if idle else [])]
    yield Finding("ok", "extras", "; ".join(told))
    for extra, modules in sorted(missing.items()):
        needed = extra in wanted
        if not needed and not verbose:
            continue
        yield Finding(
            "fail" if needed else "ok",
            f"extra {extra}",
            f"{', '.join(modules)} not installed" + (f"; needed for {wanted[extra]}" if needed else ""),
            f'pip install "{plugins.DISTRIBUTION}[{extra}]"',
        )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _wanted_extras() -> dict[str, str]:
    """Extras that a system somebody configured needs, and which."""
    by_kind = {"s3": "s3", "gs": "gcs", "azure": "azure", "git": "git", "http": "http", "fsspec": "fsspec"}
    wanted: dict[str, str] = {}
    try:
        for value in config.show():
            if value.key.startswith("systems.") and value.origin != "default":
                name = value.key.split(".")[1]
                extra = by_kind.get(str(config.system(name)["kind"]))
                if extra:
                    wanted.setdefault(extra, f"the system {name}")
    except RhError:
        return {}  # the check of the settings says what is wrong with them
    return wanted


def _settings() -> Iterator[Finding]:
    try:
        file = config.home() / "config.toml"
        config.show()
    except RhError as error:
        yield Finding("fail", "settings", error.message, error.hint or f"edit {error.where}")
        return
    yield Finding("ok", "settings", str(file) if file.exists() else f"defaults ({file} is not there)")
    profile = os.environ.get("RH_PROFILE")
    if profile:
        yield Finding("ok", "profile", f"{profile} ({config.home() / 'profiles' / f'{profile}.toml'})")


def _registry() -> Iterator[Finding]:
    from rh.registry import default
    from rh.registry.names import SPACE
    from rh.registry.sql.sqlite import NETWORK_DISK, SHARED, on_network

    try:
        config.show()
    except RhError:
        return  # without settings nobody knows which registry; the check of the settings has said so
    try:
        registry = default().direct.hurried()  # not what a mirror or a replica remembers
        number = sum(1 for _ in registry.list(SPACE))
    except RhError as error:
        yield Finding("fail", "registry", f"{error.message} [{error.where}]", error.hint)
        return
    if not registry.url.startswith("sqlite://"):
        yield Finding("ok", "registry", f"{registry.url}, {number:,} names")
        return
    path = Path(registry.url.removeprefix("sqlite://"))
    place = path if path.exists() else path.parent
    while not place.exists():
        place = place.parent
    if os.access(place, os.W_OK) and os.access(path.parent if path.parent.exists() else place, os.W_OK):
        if on_network(path):
            is_local = path == config.home() / "registry.db"
            fix = "set RH_HOME to a directory on a disk of this machine" if is_local else SHARED
            yield Finding("warn", "registry", f"{path} is on {NETWORK_DISK}", fix)
        yield Finding("ok", "registry", f"{path}, {number:,} names, writable")
    else:
        yield Finding(
            "fail",
            "registry",
            f"{place} is not writable",
            f"chown or chmod {place}, or set RH_HOME to a directory of yours",
        )


def _clock() -> Iterator[Finding]:
    """Time decides nothing in `rh`, but signatures and TLS depend on it, and times are shown."""
    now = time.time()
    if now < 1_735_689_600:  # 2025: before this program was written
        yield Finding("fail", "clock", f"it says {time.ctime(now)}", "timedatectl set-ntp true")
        return
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b".")
            file.flush()
            skew = os.fstat(file.fileno()).st_mtime - time.time()
    except OSError as error:
        yield Finding("fail", "temporary files", f"{tempfile.gettempdir()}: {error.strerror}", "set TMPDIR")
        return
    if abs(skew) > _SKEW_S:
        yield Finding("warn", "clock", f"the disk's clock differs by {skew:.0f} s", "timedatectl set-ntp true")
    else:
        yield Finding("ok", "clock", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def _openssh() -> Iterator[Finding]:
    program = shutil.which("ssh")
    if program is None:
        yield Finding(
            "warn",
            "openssh",
            "no ssh client; paramiko is used instead, which is slower",
            "apt-get install openssh-client",
        )
        return
    done = subprocess.run([program, "-V"], capture_output=True, text=True, timeout=10, check=False)
    yield Finding("ok", "openssh", f"{done.stderr.strip() or done.stdout.strip()} ({program})")
    if os.environ.get("SSH_AUTH_SOCK") and not os.path.exists(os.environ["SSH_AUTH_SOCK"]):
        yield Finding("warn", "ssh agent", "SSH_AUTH_SOCK points to nothing", 'eval "$(ssh-agent)"; ssh-add')


def _fuse() -> Iterator[Finding]:
    """Whether file systems can be mounted by users: no warning, since nothing of this release mounts any."""
    device = os.access("/dev/fuse", os.R_OK | os.W_OK)
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if device and program:
        yield Finding("ok", "fuse", f"/dev/fuse, {program}")
    elif not device:
        yield Finding("ok", "fuse", "/dev/fuse cannot be used here; nothing in this release needs it", "modprobe fuse")
    else:
        yield Finding("ok", "fuse", "no fusermount3; nothing in this release needs it", "apt-get install fuse3")
