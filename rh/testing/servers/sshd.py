"""SSH hosts: Debian's own sshd on loopback, run as the current user, with throw-away keys and a private home.

One logs in as the user who started it; nothing is added to the system. The home directory is nevertheless the host's
own: sshd sets `HOME`, a forced command goes there before it runs what was asked, SFTP starts there, and the host's
`ssh` looks for keys and known hosts there only. Tilde paths, relative paths and tools see a machine of its own.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rh.errors import InvalidError, UnavailableError, UnsupportedError
from rh.testing.servers.guard import descendants
from rh.testing.servers.process import LOOPBACK, Server, private_file, program

__all__ = ["INSTALL", "SSHServer"]

INSTALL = "apt-get install openssh-server openssh-client"
_SFTP = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class SSHServer(Server):
    """A host to log in to.

    Args:
        alias: its name in `config_file`; also the comment of its keys.
        ciphers: sshd's `Ciphers`, where other than its default is wanted (`"aes128-gcm@openssh.com"`).
        python: whether `python3` is on the host's PATH.
        options: more sshd_config lines, as a mapping (`{"MaxSessions": "1"}`).
    """

    name = "ssh"

    def __init__(
        self,
        *,
        alias: str = "ssh-a",
        ciphers: str | None = None,
        python: bool = True,
        options: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.alias = alias
        self.user = getpass.getuser()
        self.ciphers = ciphers
        self.python = python
        self.options = dict(options or {})
        self._known: dict[str, str] = {}

    # What a client needs.

    @property
    def host(self) -> str:
        return LOOPBACK

    @property
    def url(self) -> str:
        return f"ssh://{self.user}@{LOOPBACK}:{self.port}"

    @property
    def endpoint(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def home(self) -> Path:
        """The home directory of whoever logs in, as seen from here."""
        return self.directory / "home"

    @property
    def identity_file(self) -> Path:
        """The private key that is let in."""
        return self.directory / "client_key"

    @property
    def known_hosts_file(self) -> Path:
        """Names the host with the key it had when it first started; a changed key is not written here."""
        return self.directory / "known_hosts"

    @property
    def config_file(self) -> Path:
        """An ssh_config in which the host is called by its alias."""
        return self.directory / "ssh_config"

    @property
    def public_key(self) -> str:
        """The host key as `known_hosts` has it (type and base64)."""
        return " ".join((self.directory / "host_key.pub").read_text().split()[:2])

    def settings(self, *, root: str | None = None, via: int | None = None, **more: Any) -> dict[str, Any]:
        """Settings of a system on this host, through a proxy on port `via`.

        Without `root`, relative paths are below the login's home.
        """
        if via is not None:
            known = self.known_hosts_file.read_text()
            name, key = f"[{LOOPBACK}]:{via}", known.splitlines()[0].partition(" ")[2]
            if name not in known:
                private_file(self.known_hosts_file, f"{known}{name} {key}\n")
        return {
            "kind": "ssh",
            "host": LOOPBACK,
            "port": via or self.port,
            "user": self.user,
            "identity_file": str(self.identity_file),
            "known_hosts_file": str(self.known_hosts_file),
            "config_file": str(self.config_file),
            **({"root": root} if root else {}),
            **more,
        }

    def ssh(self, *words: str) -> list[str]:
        """A command line of the OpenSSH client that runs `words` there (as shell text, as ssh does)."""
        return [program("ssh", install=INSTALL), "-F", str(self.config_file), self.alias, *words]

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 30.0) -> tuple[int, bytes, bytes]:
        """Status, output and errors of a shell line run there by the OpenSSH client."""
        done = subprocess.run(self.ssh(command), input=stdin, capture_output=True, timeout=timeout_s, check=False)
        return done.returncode, done.stdout, done.stderr

    # What may be done to it.

    def trust(self, other: SSHServer, *, known: bool = True) -> None:
        """Let this host log in to `other` with a key of its own; `known`: and know its host key."""
        key = self.home / ".ssh" / "id_ed25519"
        if not key.exists():
            _keygen(key, self.alias)
        keys = other.directory / "authorized_keys"
        private_file(keys, keys.read_text() + key.with_name(key.name + ".pub").read_text())
        if known:
            self._known[f"[{LOOPBACK}]:{other.port}"] = other.public_key
            self._write_own_ssh()

    def distrust(self) -> None:
        """Take away what `trust` gave this host: its key and the hosts it knows."""
        for name in ("id_ed25519", "id_ed25519.pub"):
            (self.home / ".ssh" / name).unlink(missing_ok=True)
        self._known.clear()
        self._write_own_ssh()

    def change_host_key(self) -> None:
        """Restart with another host key, as an impersonated machine has; `known_hosts_file` keeps the old one."""
        self.kill()
        for name in ("host_key", "host_key.pub"):
            (self.directory / name).unlink(missing_ok=True)
        self.start()

    def drop_connections(self) -> int:
        """Kill every session, as a lost link does; the server goes on. Returns how many processes died."""
        return self._signal(signal.SIGKILL, server=False)

    def freeze(self) -> None:
        """Stop answering without closing anything (SIGSTOP); `thaw` ends it."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals, *, server: bool = True) -> int:
        """Signal every session, and the server before them unless told otherwise."""
        family = [self.pid] * server + descendants(self.pid)
        for pid in family:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue  # it went by itself, or with its parent
        return len(family)

    def noisy(self, text: str = "Welcome to this machine!") -> None:
        """Make the shell's start-up files print `text` to both streams (`""`: quiet again)."""
        line = shlex.quote(text)
        script = f"echo {line}\necho {line} >&2\n" if text else ""
        for name in (".bashrc", ".profile", ".bash_profile", ".zshenv"):
            (self.home / name).write_text(script)

    # How it is made.

    def _command(self) -> Sequence[str]:
        # sshd runs itself again for each connection and insists on an absolute path.
        return [program("sshd", install=INSTALL), "-D", "-e", "-f", str(self.directory / "sshd_config")]

    def _prepare(self) -> None:
        self.home.mkdir(mode=0o700, exist_ok=True)
        (self.home / ".ssh").mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            # Where sshd of the distribution keeps its unprivileged half; a host without init has not made it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for name in ("client_key", "host_key"):
            if not (self.directory / name).exists():
                _keygen(self.directory / name, f"{self.alias}-{name}")
        if not (self.directory / "authorized_keys").exists():
            private_file(self.directory / "authorized_keys", (self.directory / "client_key.pub").read_text())
        if not self.known_hosts_file.exists():
            private_file(self.known_hosts_file, f"[{LOOPBACK}]:{self.port} {self.public_key}\n")
        private_file(
            self.config_file,
            f"Host {self.alias}\n"
            f"    HostName {LOOPBACK}\n    Port {self.port}\n    User {self.user}\n"
            f"    IdentityFile {_quoted(self.identity_file)}\n    IdentitiesOnly yes\n"
            f"    UserKnownHostsFile {_quoted(self.known_hosts_file)}\n    GlobalKnownHostsFile /dev/null\n"
            f"    StrictHostKeyChecking yes\n    BatchMode yes\n",
        )
        self._write_path()
        self._write_own_ssh()
        self._write_login()
        private_file(self.directory / "sshd_config", self._sshd_config())

    def _sshd_config(self) -> str:
        environment = {"HOME": str(self.home), "PATH": self._path()}
        lines = {
            "ListenAddress": LOOPBACK,
            "Port": str(self.port),
            "HostKey": _quoted(self.directory / "host_key"),
            "AuthorizedKeysFile": _quoted(self.directory / "authorized_keys"),
            "PidFile": "none",
            "UsePAM": "yes" if _is_locked(self.user) else "no",
            # Temporary directories are below a world-writable one, which strict modes refuse.
            "StrictModes": "no",
            "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "UseDNS": "no",
            "PrintMotd": "no",
            "PrintLastLog": "no",
            "LogLevel": "VERBOSE",
            "SetEnv": " ".join(_quoted(f"{key}={value}") for key, value in environment.items()),
            "ForceCommand": _quoted(self.directory / "login"),
            "Subsystem": f"sftp {_sftp_server()}",
        }
        if self.ciphers:
            lines["Ciphers"] = self.ciphers
        if _openssh_version() >= (9, 8):
            # It would lock out this machine's own address after a test has been refused a few times.
            lines["PerSourcePenalties"] = "no"
        lines.update(self.options)
        return "".join(f"{key} {value}\n" for key, value in lines.items())

    def _write_login(self) -> None:
        """What every login runs: go to the host's home, then do as asked."""
        home, sftp = shlex.quote(str(self.home)), shlex.quote(_sftp_server())
        script = (
            "#!/bin/sh\n"
            f"cd {home} || exit 1\n"
            "asked=$SSH_ORIGINAL_COMMAND\nunset SSH_ORIGINAL_COMMAND OLDPWD\n"
            'case "$asked" in\n'
            # A second level of shell is not a login: its start-up files were read once already.
            '"") exec "${SHELL:-/bin/sh}" -l ;;\n'
            f"{sftp}) exec {sftp} -d {home} ;;\n"
            '*) SHLVL=2 exec "${SHELL:-/bin/sh}" -c "$asked" ;;\n'
            "esac\n"
        )
        path = private_file(self.directory / "login", script)
        path.chmod(0o700)

    def _path(self) -> str:
        return str(self.directory / "bin") + ("" if not self.python else f":{_PATH}")

    def _write_path(self) -> None:
        """The directory that comes first (and without python: alone) on the host's PATH."""
        place = self.directory / "bin"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if self.python:
            if shutil.which("python3", path=_PATH) is None:
                import sys

                (place / "python3").symlink_to(Path(sys.executable).resolve())
        else:
            for source in map(Path, _PATH.split(":")):
                for file in source.iterdir() if source.is_dir() else ():
                    link = place / file.name
                    if not re.match(r"python|pypy|py3", file.name) and not link.is_symlink() and file.name != "ssh":
                        link.symlink_to(file)

    def _write_own_ssh(self) -> None:
        """The host's own client: OpenSSH looks for keys in the account's home, which is not this host's."""
        folder = self.home / ".ssh"
        private_file(folder / "known_hosts", "".join(f"{name} {key}\n" for name, key in self._known.items()))
        private_file(
            folder / "config",
            f"IdentityFile {_quoted(folder / 'id_ed25519')}\nIdentitiesOnly yes\nIdentityAgent none\n"
            f"UserKnownHostsFile {_quoted(folder / 'known_hosts')}\nGlobalKnownHostsFile /dev/null\n"
            "StrictHostKeyChecking yes\n",
        )
        real = shlex.quote(program("ssh", install=INSTALL))
        wrapper = private_file(
            self.directory / "bin" / "ssh", f'#!/bin/sh\nexec {real} -F {shlex.quote(str(folder / "config"))} "$@"\n'
        )
        wrapper.chmod(0o700)


def _quoted(value: object) -> str:
    text = str(value)
    if any(character in text for character in '"\n\\'):
        raise InvalidError(
            "sshd cannot be told of a path like this", where=text, hint="set TMPDIR to a plain directory"
        )
    return f'"{text}"'


def _keygen(path: Path, comment: str) -> None:
    keygen = program("ssh-keygen", install=INSTALL)
    command = [keygen, "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise UnavailableError(f"ssh-keygen failed: {done.stderr.strip()}", where=str(path))


def _sftp_server() -> str:
    for place in _SFTP:
        if os.access(place, os.X_OK):
            return place
    raise UnsupportedError("the program sftp-server is not installed", where="sftp-server", hint=INSTALL)


def _openssh_version() -> tuple[int, int]:
    said = subprocess.run(
        [program("ssh", install=INSTALL), "-V"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    ).stderr
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _is_locked(user: str) -> bool:
    """Whether the account's password is locked: sshd without PAM then refuses keys too."""
    if os.geteuid() != 0:
        return False
    try:
        for line in Path("/etc/shadow").read_text("utf-8", "replace").splitlines():
            name, _, rest = line.partition(":")
            if name == user:
                return rest.startswith("!")
    except OSError:
        return False
    return False
