"""Commits a second through a registry server, from many client processes: `measure` for `benchmarks.registry`.

`python -m benchmarks.registry_http` prints it. Server and clients share the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from rh.registry import open_registry
from rh.testing.servers.registry import RegistryServer

__all__ = ["measure"]

_CLIENT = """
import sys
from rh.registry import open_registry
registry = open_registry(sys.argv[1])
registry.find("a")
print("up", flush=True)
sys.stdin.readline()
for n in range(int(sys.argv[3])):
    registry.put(f"resources/ada/{sys.argv[2]}/{n % 50}", {"kind": "blob", "n": n})
"""


def measure(*, processes: int = 8, commits: int = 200, registry: str | None = None) -> dict[str, float]:
    """Commits of one record each.

    Args:
        processes: clients at the same time.
        commits: of each.
        registry: the URL of what the server serves; by default a SQLite file.

    Returns:
        `commits_per_s`, and `lost`: those that were answered and are not there.
    """
    with RegistryServer(registry, options=["--rate", "1000000"]) as server:
        environment = {**os.environ, **server.environment()}
        clients = [
            subprocess.Popen(
                [sys.executable, "-c", _CLIENT, server.url, str(number), str(commits)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                text=True,
            )
            for number in range(processes)
        ]
        for client in clients:
            assert client.stdout is not None
            client.stdout.readline()
        begun = time.perf_counter()
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("\n")
            client.stdin.flush()
        failed = sum(client.wait() != 0 for client in clients)
        seconds = time.perf_counter() - begun
        for client in clients:
            client.communicate()
        there = sum(1 for _ in open_registry(server.behind).changes("resources/ada/"))
    if failed:
        raise RuntimeError(f"{failed} of {processes} clients failed")
    return {"commits_per_s": processes * commits / seconds, "lost": processes * commits - there}


if __name__ == "__main__":
    print(json.dumps(measure()))
