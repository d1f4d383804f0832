"""The places: a server each (or none), how tools reach it, what is stored there, and how it is emptied."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from benchmarks.shapes import count, remove
from rh.testing import servers
from rh.testing.servers.process import program

FOREIGN = ("RH_", "AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_", "STORAGE_EMULATOR", "RCLONE_", "SSH_", "S3_", "PYTHON")
"""Variables of whoever runs this that must not reach a contestant."""


def clean_environment() -> dict[str, str]:
    """The variables every contestant starts with."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true", "RCLONE_CONFIG": "/dev/null"}


def remote(system: str) -> str:
    """What rclone calls a system: names that variables define have no dashes."""
    return system.replace("-", "_")


def rclone() -> str:
    """The rclone program."""
    return program("rclone", install='pip install "rh-data[playground]"')


class Place:
    """Where trees are moved to and from.

    Attributes:
        name: as the tables call it.
        system: the name of the system for `rh`, and of the remote for rclone.
        restart: whether the server is started afresh before every timed upload, which is the quickest way to empty it.
    """

    name: str
    system: str
    restart = False
    bucket = "data"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def start(self) -> None:
        """Start the server."""

    def stop(self) -> None:
        """Stop it; whatever it holds is gone."""

    def environment(self) -> dict[str, str]:
        """Variables that point the tools at it. Secret."""
        return {}

    def settings(self) -> dict[str, Any]:
        """What `rh` is told of it."""
        return {}

    def path(self, name: str) -> str:
        """The path, as `rh` and rclone have it after the system's name, of a tree of that name."""
        return f"{self.bucket}/{name}"

    def url(self, name: str) -> str:
        """What a user of `rh` writes for it."""
        return f"{self.system}://{self.path(name)}"

    def empty(self, name: str, *, new: bool) -> None:
        """Make sure that nothing is under `name`. `new`: a fresh server will do."""
        if new and self.restart:
            self.stop()
            self.start()
            return
        self._rclone("purge", name, check=False)

    def count(self, name: str) -> tuple[int, int]:
        """Files and bytes there, without those of `rh` itself."""
        done = self._rclone("size", name, "--json", "--fast-list", "--exclude", ".rh-*")
        found = json.loads(done.stdout)
        return found["count"], found["bytes"]

    def fill(self, name: str, source: Path) -> None:
        """Store a tree by rclone, untimed."""
        flags = ["--transfers", "16", "--no-traverse", "--s3-no-check-bucket", "--gcs-no-check-bucket"]
        subprocess.run(
            [rclone(), "copy", *flags, str(source), f"{remote(self.system)}:{self.path(name)}"],
            env={**clean_environment(), **self.environment()},
            check=True,
            capture_output=True,
        )

    def _rclone(self, verb: str, name: str, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [rclone(), verb, *more, f"{remote(self.system)}:{self.path(name)}"],
            env={**clean_environment(), **self.environment()},
            check=check,
            capture_output=True,
            text=True,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()


class _OnDisk(Place):
    """A place whose files are seen from here."""

    def path(self, name: str) -> str:
        return str(self.directory / self.name / name)

    def empty(self, name: str, *, new: bool) -> None:  # noqa: ARG002 - nothing to be saved here
        remove(Path(self.path(name)))

    def count(self, name: str) -> tuple[int, int]:
        return count(Path(self.path(name)))

    def fill(self, name: str, source: Path) -> None:
        Path(self.path(name)).mkdir(parents=True)
        subprocess.run(["cp", "-a", f"{source}/.", self.path(name)], check=True)


class Local(_OnDisk):
    """This machine, tmpfs to tmpfs."""

    name = system = "local"

    def url(self, name: str) -> str:
        return self.path(name)


class SSH(_OnDisk):
    """Debian's sshd on loopback, its default ciphers.

    `rh` finds the connection open that its run before left behind, as its users' next processes do for a minute
    (`persist_s`); rsync logs in each time, as it does for its users. `rh, new connection` and `rsync, connection kept`
    are the other way round.
    """

    name = "ssh"
    system = "ssh-a"

    def start(self) -> None:
        self.server = servers.ssh(alias="ssh-a").start()
        (self.directory / self.name).mkdir(exist_ok=True)

    def stop(self) -> None:
        self.server.stop()

    def url(self, name: str) -> str:
        return f"ssh-a:{self.path(name)}"

    def settings(self) -> dict[str, Any]:
        return self.server.settings()

    def environment(self) -> dict[str, str]:
        return {
            "BENCH_SSH_CONFIG": str(self.server.config_file),
            **_remote(
                "ssh-a",
                type="sftp",
                host=self.server.host,
                port=str(self.server.port),
                user=self.server.user,
                key_file=str(self.server.identity_file),
                known_hosts_file=str(self.server.known_hosts_file),
                shell_type="unix",
            ),
        }


class S3(Place):
    """`rclone serve s3` over its memory back-end."""

    name = system = "s3"
    restart = True

    def start(self) -> None:
        self.server = servers.s3(buckets=[self.bucket]).start()

    def stop(self) -> None:
        self.server.stop()

    def settings(self) -> dict[str, Any]:
        return self.server.settings()

    def environment(self) -> dict[str, str]:
        own = self.server.environment()
        keys = {"access_key_id": own["AWS_ACCESS_KEY_ID"], "secret_access_key": own["AWS_SECRET_ACCESS_KEY"]}
        remote = _remote("s3", type="s3", provider="Rclone", endpoint=self.server.endpoint, region="us-east-1", **keys)
        return {**own, "S3_ENDPOINT_URL": self.server.endpoint, **remote}


class GS(Place):
    """fake-gcs-server, in memory."""

    name = system = "gs"
    restart = True

    def start(self) -> None:
        self.server = servers.gcs(buckets=[self.bucket]).start()

    def stop(self) -> None:
        self.server.stop()

    def settings(self) -> dict[str, Any]:
        return self.server.settings()

    def environment(self) -> dict[str, str]:
        endpoint = f"{self.server.endpoint}/storage/v1/"
        return {
            **self.server.environment(),
            **_remote("gs", type="google cloud storage", anonymous="true", endpoint=endpoint),
        }


class Azure(Place):
    """azurite, in memory. It is emptied rather than started afresh: a JavaScript server is slow at first.

    It lets go of what was deleted after ten minutes only, and takes no more than half of the machine's memory. Once it
    is this full it is started afresh, and gets something to do before anything is timed.
    """

    name = system = "azure"
    full = 1 << 30
    """Bytes of resident memory."""

    def start(self) -> None:
        self.server = servers.azure(containers=[self.bucket]).start()

    def empty(self, name: str, *, new: bool) -> None:
        if not new or self._resident() < self.full:
            super().empty(name, new=new)
            return
        self.stop()
        self.start()
        warm = self.directory / "warm"
        warm.mkdir(exist_ok=True)
        for number in range(200):
            (warm / str(number)).write_bytes(bytes(1 << (number % 20)))
        self.fill("warm", warm)
        super().empty("warm", new=False)

    def _resident(self) -> int:
        return int(Path(f"/proc/{self.server.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        self.server.stop()

    def url(self, name: str) -> str:
        return f"az://{self.path(name)}"

    def settings(self) -> dict[str, Any]:
        return self.server.settings()

    def environment(self) -> dict[str, str]:
        own = {"account": self.server.account, "key": self.server.key, "endpoint": self.server.endpoint}
        return {**self.server.environment(), **_remote("azure", type="azureblob", **own)}


class Relay(S3):
    """A bucket and a host: the host holds the tree, the bucket gets it from there, or the other way round.

    A contestant that is told to run on the host runs here: it is the same machine.
    """

    name = "ssh→s3"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.host = SSH(directory)

    def __enter__(self) -> Self:
        self.host.start()
        return super().__enter__()

    def __exit__(self, *_exc: object) -> None:
        super().__exit__()
        self.host.stop()

    def environment(self) -> dict[str, str]:
        return {**self.host.environment(), **super().environment()}


PLACES: tuple[type[Place], ...] = (S3, GS, Azure, SSH, Local, Relay)


def _remote(name: str, **options: str) -> dict[str, str]:
    """An rclone remote, as variables."""
    stem = "RCLONE_CONFIG_" + remote(name).upper() + "_"
    return {stem + key.upper(): value for key, value in options.items()}


def write_settings(home: Path, places: Mapping[str, Mapping[str, Any]]) -> None:
    """The `config.toml` of `rh` for these systems."""
    home.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, settings in places.items():
        lines.append(f"[systems.{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    (home / "config.toml").write_text("\n".join(lines) + "\n")


def timed_environment(home: Path, place: Place) -> dict[str, str]:
    """Variables of a contestant at a place, with a home of its own for `rh`. Secret."""
    systems = {place.system: place.settings()} if place.settings() else {}
    if isinstance(place, Relay):
        systems["ssh-a"] = place.host.settings()
    write_settings(home, systems)
    return {**clean_environment(), **place.environment(), "RH_HOME": str(home)}
