"""Promises about very many tries."""

from __future__ import annotations

import itertools
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from rh import config, transfer
from rh.content import manifest
from rh.errors import ConflictError, ExistsError, RhError, TransferError
from rh.registry.base import Put
from rh.registry.sql.sqlite import SQLiteRegistry
from rh.systems import locate, open_system
from rh.testing import servers
from rh.testing.faults import Duplicate, FaultProxy, Flip, Request, Truncate
from rh.types import ABSENT, Location, Match
from tests.sizes import sized

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

FAULTS = sized(240, full=10_000)
"""Faults over all pairs of systems (promise 1)."""
STORES = ("s3", "gs", "azure")
PLACES = ("file", "ssh", *STORES)
PAIRS = [pair for pair in itertools.product(PLACES, PLACES) if pair != ("file", "file")]


def served(request: pytest.FixtureRequest, place: str) -> servers.S3Server | servers.SSHServer:
    fixtures = {"s3": "s3_server", "gs": "gcs_server", "azure": "azure_server", "ssh": "ssh_a"}
    return request.getfixturevalue(fixtures[place])


def proxied(server: servers.S3Server, place: str, seed: int) -> FaultProxy:
    """A wire to a server that strikes nearly a third of all bodies; of a host's connections, each way, most."""
    web = place != "ssh"
    methods = {"up": ("PUT", "POST"), "down": ("GET",)}
    plan = [
        kind(
            direction=direction,
            probability=0.1 if web else 0.3,
            within=50_000,
            match=(lambda request, known=known: request.method in known and not _is_check(request)) if web else None,
            **({"size": 64} if kind is Duplicate else {}),
        )
        for direction, known in methods.items()
        for kind in (Flip, Truncate, Duplicate)
    ]
    return FaultProxy(server.port, plan, seed=seed, http=web)


def _is_check(request: Request) -> bool:
    """Whether GCS is asked for an object's checksum.

    The real store refuses damaged bytes; the fake one has to be asked, and that answer may not be damaged as well.
    """
    return request.method == "GET" and request.path.startswith("/storage/v1/") and "/o/" in request.path


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda place: place)
def test_no_fault_is_silent(source: str, target: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Promise 1: what is there afterwards is right, and what is not there is told.

    Every other round the source has no manifest, as if other tools had written it.
    """
    wanted = -(-FAULTS // len(PAIRS))
    truth = {f"d{n % 3}/f{n:02}": random.Random(n).randbytes(200 + 331 * n) for n in range(24)}
    for key, data in truth.items():
        path = tmp_path / "truth" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    struck: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for number in itertools.count():
        with ExitStack() as stack:
            clean: dict[str, Location] = {}
            bad: dict[str, Location] = {}
            proxies = []
            for side, place in (("from", source), ("to", target)):
                name = f"campaign-{source}-{target}-{side}-{number if side == 'to' else number % 2}"
                if place == "file":
                    clean[side] = bad[side] = locate(str(tmp_path / name))
                    continue
                server = served(request, place)
                proxy = stack.enter_context(proxied(server, place, number))
                proxies.append(proxy)
                config.register(f"clean-{side}", server.settings(timeout_s=20))
                config.register(f"bad-{side}", server.settings(via=proxy.port, timeout_s=5, retries=6))
                clean[side], bad[side] = locate(name, f"clean-{side}"), locate(name, f"bad-{side}")
            if number < 2:
                transfer.copy_tree(locate(str(tmp_path / "truth")), clean["from"])
            if number == 1:
                open_system(clean["from"]).delete([manifest.NAME])
            try:
                receipt = transfer.copy_tree(bad["from"], bad["to"])
                outcomes["all there"] += 1
                assert (receipt.done, receipt.failed) == (len(truth), ())
                missing: set[str] = set()
            except RhError as error:
                outcomes[type(error).__name__] += 1
                told = isinstance(error, TransferError) and error.receipt is not None
                missing = {failure.key for failure in error.receipt.failed} if told else set(truth)
            there = dict(contents(clean["to"]))
            wrong = {key for key in there if there[key] != truth.get(key)}
            # fake-gcs-server stores damaged bytes as if no checksum had come with them; no other store may have them.
            assert wrong <= (missing if target == "gs" else set()), f"wrong bytes in round {number}: {sorted(wrong)}"
            assert truth.keys() - missing <= there.keys(), f"told as done, and not there, in round {number}"
            for proxy in proxies:
                struck += proxy.counts.faults
        if target == "file":
            shutil.rmtree(clean["to"].path, ignore_errors=True)
        if struck.total() >= wanted and number:
            break
    assert outcomes["all there"] + outcomes["TransferError"] > 0
    print(f"{source} → {target}: {dict(struck)} in {number + 1} rounds: {dict(outcomes)}")


def contents(place: Location) -> Iterator[tuple[str, bytes]]:
    """Every file that is there, read past all that is under test but the clean road."""
    system = open_system(place)
    try:
        entries = list(system.list())
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.kind == "file":
            with system.read(entry.key) as body:
                yield entry.key, body.read()


def race(one: Callable[[], object], two: Callable[[], object], pool: ThreadPoolExecutor) -> list[object]:
    """What two calls made at the same moment give, or raise."""
    ready = threading.Barrier(2)

    def go(call: Callable[[], object]) -> object:
        ready.wait()
        try:
            return call()
        except RhError as error:
            return error

    return [future.result() for future in [pool.submit(go, one), pool.submit(go, two)]]


@pytest.mark.parametrize("place", ["memory", "file", "ssh", "gs", "azure"])
def test_one_of_two_writers_wins(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Promise 12 for keys: one creates, one replaces what it has seen, and never both.

    Not on S3: of the servers there are, rclone ignores preconditions, and moto checks and writes in two steps.
    """
    rounds = sized(30, full=5_000)  # of two races each
    if place == "file":
        where = locate(str(tmp_path / "races"))
    elif place == "memory":
        where = locate("memory://races")
    else:
        config.register("raced", served(request, place).settings())
        where = locate("races", "raced")
    writers = [open_system(where), open_system(where)]
    with ThreadPoolExecutor(2) as pool:
        for number in range(rounds):
            key, seen = f"k{number % 7}-{number}", None
            for _ in range(2):
                when = ABSENT if seen is None else Match(seen)
                calls = [
                    partial(writer.write, key, text, when=when)
                    for writer, text in zip(writers, (b"one", b"two"), strict=True)
                ]
                results = race(*calls, pool)
                lost = [n for n, result in enumerate(results) if isinstance(result, RhError)]
                assert len(lost) == 1, results
                assert isinstance(results[lost[0]], ExistsError if seen is None else ConflictError), results
                with writers[0].read(key) as body:
                    assert body.read() == (b"two", b"one")[lost[0]]
                seen = writers[0].head(key).etag


def test_one_of_two_names_wins(tmp_path: Path) -> None:
    """Promise 12: the loser learns the revision that won."""
    registries = [SQLiteRegistry(tmp_path / "registry.db"), SQLiteRegistry(tmp_path / "registry.db")]
    revision = registries[0].commit([Put("name", {"by": "nobody"})])[0].revision
    with ThreadPoolExecutor(2) as pool:
        for _ in range(sized(600, full=10_000)):
            calls = [
                partial(registry.commit, [Put("name", {"by": who}, when=Match(str(revision)))], by=who)
                for registry, who in zip(registries, ("ada", "bob"), strict=True)
            ]
            results = race(*calls, pool)
            lost = [n for n, result in enumerate(results) if isinstance(result, RhError)]
            assert len(lost) == 1, results
            winner = ("bob", "ada")[lost[0]]
            revision += 1
            error = results[lost[0]]
            assert isinstance(error, ConflictError)
            assert f"at revision {revision} (by {winner}), not {revision - 1}" in error.message
            record = registries[0].get("name")
            assert (record.revision, record.document) == (revision, {"by": winner})
    assert len(list(registries[0].history("name"))) == revision
