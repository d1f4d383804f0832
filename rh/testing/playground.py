"""A world to try everything in: S3, GCS and Azure servers and two SSH hosts, under a profile of its own.

::

    with Playground():
        rh.folder(path="data").to("s3")
        rh.folder(path="data").to("ssh-a")

Nobody needs an account for it, nothing outside loopback is touched, and it goes away without a trace.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import IO, Any, Self

from rh import config
from rh.errors import InvalidError, RhError, UnavailableError
from rh.testing import servers
from rh.testing.servers import azurite

__all__ = ["PROFILE", "Playground"]

PROFILE = "playground"
_LOOK_S = 0.5
"""How often the servers are looked at."""
SYSTEMS = ("s3", "gs", "azure", "ssh-a", "ssh-b")


class Playground:
    """The servers, and a profile that names them: `with` it (this process and its children then use the profile).

    Args:
        only: which of `s3`, `gs`, `azure`, `ssh-a`, `ssh-b` to start; by default all.
        install: whether azurite may be installed by npm where it is missing (once, into the user's cache).
        tell: called with each line a person should see.

    Attributes:
        running: the servers by name of their system.
        missing: what could not be started, and why; the error's hint says how to mend it.
        name: of its profile: `playground`, or `playground-2` and so on where others run already.
    """

    def __init__(
        self,
        only: tuple[str, ...] = SYSTEMS,
        *,
        install: bool = True,
        tell: Callable[[str], None] = lambda _line: None,
    ) -> None:
        unknown = sorted(set(only) - set(SYSTEMS))
        if unknown:
            raise InvalidError(f"the playground has no {unknown[0]!r}", hint=f"it has {', '.join(SYSTEMS)}")
        self.only = only
        self.name = PROFILE
        self.running: dict[str, servers.Server] = {}
        self.missing: dict[str, RhError] = {}
        self._install = install
        self._tell = tell
        self._lock: IO[str] | None = None
        self._profile_before: str | None = None
        self._over = threading.Event()

    @property
    def profile(self) -> Path:
        """The file that names the servers while they run."""
        return config.home() / "profiles" / f"{self.name}.toml"

    def start(self) -> Self:
        """Start what can be started and write the profile."""
        self._claim()
        try:
            self._start()
            self._write()
        except BaseException:
            self.stop()
            raise
        return self

    def _claim(self) -> None:
        """Take the first name that no other one holds the lock of. The kernel lets go of it however its holder ends."""
        import fcntl

        self.profile.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            self.name = PROFILE if number == 1 else f"{PROFILE}-{number}"
            lock = self.profile.with_suffix(".lock").open("a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
            else:
                self._lock = lock
                return

    def _start(self) -> None:
        with ThreadPoolExecutor(len(SYSTEMS)) as pool:
            begun = {name: pool.submit(self._one, name) for name in self.only}
            for name, one in begun.items():
                try:
                    self.running[name] = one.result()
                except RhError as error:
                    self.missing[name] = error
        hosts = [server for server in self.running.values() if isinstance(server, servers.SSHServer)]
        for host in hosts:
            for other in hosts:
                if other is not host:
                    host.trust(other)

    def _one(self, name: str) -> servers.Server:
        if name == "azure" and self._install and not azurite.installed():
            self._tell("installing azurite (once) …")
            azurite.install()
        made: servers.Server
        if name == "s3":
            made = servers.s3()
        elif name == "gs":
            made = servers.gcs()
        elif name == "azure":
            made = servers.azure()
        else:
            made = servers.ssh(alias=name)
        return made.start()

    def settings(self, name: str) -> dict[str, Any]:
        """The settings of one system of the playground."""
        server = self.running[name]
        if isinstance(server, servers.SSHServer):
            place = server.home / "data"
            place.mkdir(exist_ok=True)
            return server.settings(root=str(place))
        if isinstance(server, servers.S3Server | servers.GCSServer | servers.AzureServer):
            return server.settings()
        raise InvalidError(f"not a server of the playground: {name}")

    def _write(self) -> None:
        lines = ["# Written by `rh playground`, and removed when it stops."]
        for name in self.running:
            lines += ["", f"[systems.{name}]"]
            lines += [f"{key} = {_toml(value)}" for key, value in self.settings(name).items()]
        fresh = self.profile.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n", "utf-8")
        fresh.replace(self.profile)

    def stop(self) -> None:
        """Stop every server and remove the profile. May be called twice."""
        self._over.set()
        if self._lock is not None:
            self.profile.unlink(missing_ok=True)
        running, self.running = self.running, {}
        if running:
            with ThreadPoolExecutor(len(running)) as pool:
                list(pool.map(lambda server: server.stop(), running.values()))
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def environment(self) -> dict[str, str]:
        """Variables under which `rh` uses the playground."""
        return {"RH_PROFILE": self.name, "RH_HOME": str(config.home())}

    def instructions(self) -> list[str]:
        """What a person can do now, line by line."""
        lines = [f"{'system':8} {'root':40} server"]
        for name, server in self.running.items():
            lines.append(f"{name:8} {self.settings(name)['root']:40} {server.url}")
        for name, error in self.missing.items():
            lines.append(f"{name:8} not started: {error}")
        if not self.running:
            return lines
        first = next(iter(self.running))
        lines += ["", "In another terminal:", f"  export RH_PROFILE={self.name}"]
        if os.environ.get("RH_HOME"):
            lines.append(f"  export RH_HOME={os.environ['RH_HOME']}")
        in_memory = [name for name in ("s3", "gs", "azure") if name in self.running]
        keep = "keeps what it holds" if len(in_memory) == 1 else "keep what they hold"
        memory = "memory (gs several times over)" if "gs" in in_memory else "memory"
        lines += [
            f'  python -c \'import rh; print(rh.folder(path=".").to("{first}"))\'',
            f"  rh ls {self.url(first)}",
            "",
            *([f"{', '.join(in_memory)} {keep} in {memory}: stay well below what is free."] if in_memory else []),
            "Ctrl-C stops everything, and what it held is gone.",
        ]
        return lines

    def url(self, name: str) -> str:
        """The root of a system as the command line takes it."""
        root = str(self.settings(name)["root"])
        return root if "://" in root else f"{name}:{root}"

    def run(self, ready: Callable[[], None] | None = None) -> None:
        """Start, tell what to type, and stay until Ctrl-C, SIGTERM or `stop` from another thread.

        Args:
            ready: called once everything runs, in place of telling what to type.

        Raises:
            UnavailableError: a server stopped by itself; so did the others then.
        """
        self._over.clear()
        before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                before[number] = signal.signal(number, self._asked_to_stop)
        try:
            self.start()
            if ready is not None:
                ready()
            else:
                for line in self.instructions():
                    self._tell(line)
            self.wait()
        finally:
            self.stop()
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait(self) -> None:
        """Wait until it is stopped.

        Raises:
            UnavailableError: a server stopped by itself, and with it what it held.
        """
        while not self._over.wait(_LOOK_S):
            for name, server in self.running.items():
                if server.ended is not None:
                    raise UnavailableError(
                        f"{name} stopped ({server.ended}), and what it held is gone",
                        where=server.url,
                        hint="start it again with less data, if it was short of memory",
                    )

    def _asked_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._over.set()

    def __enter__(self) -> Self:
        self.start()
        self._profile_before = os.environ.get("RH_PROFILE")
        os.environ["RH_PROFILE"] = self.name
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._profile_before is None:
            os.environ.pop("RH_PROFILE", None)
        else:
            os.environ["RH_PROFILE"] = self._profile_before
        self.stop()


def _toml(value: object) -> str:
    """A plain value as TOML writes it (JSON's strings, numbers and booleans are TOML's)."""
    return json.dumps(value, ensure_ascii=False)
