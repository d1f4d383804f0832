"""The part of the registry suite that checks histories: what many clients saw has to fit one order of events.

Eight processes work on a few keys and write down each call before it is made and its answer afterwards. Meanwhile some
are stopped, one is killed, and the server, where there is one, is restarted. Since every answer names a revision, and
the registry tells who made which, linearizability comes down to the rules in `check`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rh.registry.base import Registry

__all__ = ["HistorySuite", "check"]

_CLIENT = """
import json, os, random, sys, time
from rh.errors import ConflictError, DeadlineError, ExistsError, NotFoundError, UnavailableError
from rh.registry import open_registry
from rh.registry.base import Delete
from rh.types import ABSENT, Match
url, path, name, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
chance, registry, seen = random.Random(name), open_registry(url), {}
log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def say(**told):
    os.write(log, (json.dumps(told | {"at": time.monotonic_ns()}) + "\\n").encode())
def now(key):
    while True:
        try:
            return registry.find(key)
        except (UnavailableError, DeadlineError):
            time.sleep(0.05)  # the server is being restarted
for n in range(count):
    key, call = f"k/{chance.randrange(5)}", f"{name}-{n}"
    what = chance.choice(("get", "get", "put", "match", "match", "match", "delete"))
    told = {"call": call, "key": key, "what": what, "base": seen.get(key, 0)}
    say(begin=True, **told)
    try:
        if what == "get":
            record = registry.find(key)
            revision = record.revision if record else None
            told["document"] = record.document if record else None
        elif what == "delete":
            revision = registry.commit([Delete(key)], token=call)[0].revision
        elif what == "put":
            revision = registry.put(key, {"call": call}, token=call).revision
        else:
            when = Match(str(seen[key])) if seen.get(key) else ABSENT
            revision = registry.put(key, {"call": call}, token=call, when=when).revision
        seen[key] = revision if what != "delete" else None
        say(revision=revision, outcome="ok", **told)
    except (ConflictError, ExistsError, NotFoundError) as error:
        say(outcome="refused", **told)
        record = now(key)
        seen[key] = record.revision if record else None
    except (UnavailableError, DeadlineError):
        say(outcome="unknown", **told)
        time.sleep(0.05)
"""


def check(registry: Registry, lines: list[dict[str, Any]]) -> int:
    """Hold what clients saw against the histories; return how many calls were answered.

    1. A change that was answered is in the history once, with that revision; one that was refused is not; one whose
       answer was lost is there at most once.
    2. An answer tells no revision older than any that was answered before the call, and none whose making began after.
    3. What was read is what the history tells.
    4. A precondition is refused only if something else was under way or there.
    """
    begun = {line["call"]: line for line in lines if line.get("begin")}
    ended = {line["call"]: line for line in lines if not line.get("begin")}
    histories = {key: list(registry.history(key)) for key in {line["key"] for line in lines}}
    made = defaultdict(list)
    for key, history in histories.items():
        assert [change.revision for change in history] == list(range(1, len(history) + 1)), key
        for change in history:
            made[change.token].append(change)
    for call, line in begun.items():
        outcome = ended.get(call, {}).get("outcome", "unknown")
        changes = made.pop(call, [])
        if line["what"] == "get" or outcome == "refused":
            assert not changes, line
        elif outcome == "ok":
            assert [change.revision for change in changes] == [ended[call]["revision"]], line
        assert len(changes) <= 1, line
    assert not made, "changes that nobody asked for"

    for key, history in histories.items():
        calls = sorted(
            (line for line in ended.values() if line["key"] == key), key=lambda line: begun[line["call"]]["at"]
        )
        answers = sorted((line for line in calls if line["outcome"] == "ok"), key=lambda line: line["at"])
        newest, n = 0, 0
        for line in calls:
            start = begun[line["call"]]["at"]
            while n < len(answers) and answers[n]["at"] < start:
                newest, n = max(newest, answers[n]["revision"] or 0), n + 1
            if line["outcome"] == "unknown":
                continue
            # What may stand while the call runs: from the newest that was answered to the last begun before its end.
            possible = [change for change in history[max(newest - 1, 0) :] if begun[change.token]["at"] < line["at"]]
            if line["what"] == "get":
                if line["revision"] is None:
                    assert newest == 0 or any(change.action == "delete" for change in possible), line
                else:
                    (change,) = [change for change in possible if change.revision == line["revision"]]
                    assert change.document == line["document"], line
            elif line["outcome"] == "ok":
                assert line["revision"] > newest, line
                if line["what"] == "match" and line["base"]:
                    assert line["revision"] == line["base"] + 1, line
            elif line["what"] == "match":
                assert any(change.revision != line["base"] for change in possible) or not possible, line
            elif line["what"] == "delete":
                assert newest == 0 or any(change.action == "delete" for change in possible), line
    return sum(line["outcome"] != "unknown" for line in ended.values())


def _lines(paths: list[Path]) -> list[dict[str, Any]]:
    whole = [line for path in paths for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    return [json.loads(line) for line in whole]


class HistorySuite:
    """What many clients see at once."""

    clients = 8
    operations = 200
    patience_s = 90.0
    """How long processes that work at once may take, before they count as hung."""

    @pytest.fixture
    def restart(self) -> Callable[[], object] | None:
        """Kills the server and starts it again; `None` where there is none."""
        return None

    @pytest.mark.slow
    def test_what_clients_saw_fits_one_order_of_events(
        self, registry: Registry, url: str, tmp_path: Path, restart: Callable[[], object] | None
    ) -> None:
        """Promise 1, with clients stopped and killed and the server restarted."""
        crew: list[subprocess.Popen[bytes]] = []
        paths: list[Path] = []

        def client(name: str, count: int) -> subprocess.Popen[bytes]:
            paths.append(tmp_path / f"{name}.jsonl")
            paths[-1].touch()
            command = [sys.executable, "-c", _CLIENT, url, str(paths[-1]), name, str(count)]
            crew.append(subprocess.Popen(command, stderr=subprocess.PIPE))
            return crew[-1]

        def until(share: float, limit_s: float = 30) -> None:
            wanted = 2 * self.clients * self.operations * share
            deadline = time.monotonic() + limit_s
            while sum(path.read_bytes().count(b"\n") for path in paths) < wanted and time.monotonic() < deadline:
                if all(one.poll() is not None for one in crew):
                    break
                time.sleep(0.01)

        try:
            for n in range(self.clients):
                client(f"c{n}", self.operations)
            stopped, killed = crew[0], crew[1]
            until(0.15)
            os.kill(stopped.pid, signal.SIGSTOP)
            killed.kill()
            client("late", self.operations)
            until(0.4, limit_s=3)  # it may have been stopped with a lock that all others wait for
            os.kill(stopped.pid, signal.SIGCONT)
            until(0.6)
            if restart is not None:
                restart()
            for one in crew:
                _, err = one.communicate(timeout=self.patience_s)
                assert one is killed or one.returncode == 0, err.decode()
        finally:
            for one in crew:
                one.kill()
                one.communicate()
        lines = _lines(paths)
        answered = check(registry, lines)
        assert answered >= 0.9 * (self.clients - 1) * self.operations
        assert {line["outcome"] for line in lines if "outcome" in line} >= {"ok", "refused"}
