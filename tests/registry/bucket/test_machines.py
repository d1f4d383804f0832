"""Several machines that share a registry on a bucket."""

import os
import random
import time

import pytest

from rh import errors
from rh.registry import open_registry
from rh.registry.filters import F
from rh.testing.registry import finished, python
from rh.types import ABSENT, Match
from tests.registry.bucket.places import content, entries

pytestmark = pytest.mark.servers


def test_two_homes_see_each_other(place, registry, another_home):
    registry.put("a", {"n": 1}, by="ada")
    another_home("bob")
    other = open_registry(registry.url)
    seen = other.get("a")
    assert (seen.author, seen.document) == ("ada", {"n": 1})
    other.put("a", {"n": 2}, when=Match(seen.etag), by="bob")
    told = content(other)
    another_home("cy")
    assert content(open_registry(registry.url)) == told
    with pytest.raises(errors.ConflictError, match=r"revision 2 \(by bob\), not 1"):
        registry.put("a", {"n": 3}, when=Match(seen.etag))


def test_two_homes_write_at_once(place, registry, tmp_path):
    code = (
        "import sys\nfrom rh.registry import open_registry\nregistry = open_registry(sys.argv[1])\n"
        "for n in range(40): registry.update('counter', lambda d: {'n': (d or {'n': 0})['n'] + 1})\n"
    )
    before, running = os.environ["RH_HOME"], []
    try:
        for name in ("ada", "bob", "cy"):
            os.environ["RH_HOME"] = str(tmp_path / name)
            running.append(python(code, registry.url))
    finally:
        os.environ["RH_HOME"] = before
    for process in running:
        finished(process)
    assert registry.get("counter").document == {"n": 120}
    assert [change.revision for change in registry.history("counter")] == list(range(1, 121))


def test_killed_writers_leave_a_log_that_reads(place, registry, another_home):
    code = (
        "import sys, itertools\nfrom rh.registry import open_registry\nfrom rh.registry.base import Put\n"
        "registry = open_registry(sys.argv[1])\nprint('up', flush=True)\n"
        "for n in itertools.count():\n    registry.commit([Put('left', {'n': n}), Put('right', {'n': n})])\n"
    )
    chance = random.Random(7)
    for _ in range(8):
        process = python(code, registry.url)
        assert process.stdout.readline() == "up\n"
        time.sleep(chance.uniform(0.0, 0.4))
        process.kill()
        process.communicate()
    told = content(registry)
    left, right = registry.get("left"), registry.get("right")
    assert (left.revision, left.document) == (right.revision, right.document)
    assert left.revision == len(entries(place))
    another_home("fresh")
    assert content(open_registry(registry.url)) == told
    registry.put("left", {"n": -1})


def test_the_clock_decides_nothing(place, registry, monkeypatch, another_home):
    real = time.time
    for shift in (0.0, -86_400.0, 86_400.0):
        monkeypatch.setattr(time, "time", lambda shift=shift: real() + shift)
        registry.update("a", lambda document: {"n": (document or {"n": 0})["n"] + 1})
    monkeypatch.undo()
    another_home("bob")
    assert [change.revision for change in registry.history("a")] == [1, 2, 3]
    assert registry.get("a").document == {"n": 3}


def test_what_others_wrote_is_searched(place, registry, another_home):
    for n in range(20):
        registry.put(f"resources/r{n:02}", {"tags": ["gold"] if n % 2 else [], "metadata": {"accuracy": n / 20}})
    moment = registry.get("resources/r19").time
    registry.put("resources/r19", {"tags": []})
    another_home("bob")
    other, where = open_registry(registry.url), (F.tags == "gold") & (F.accuracy > 0.8)
    assert [record.key for record in other.search(where)] == ["resources/r17"]
    assert [record.key for record in other.search(where, as_of=moment)] == ["resources/r17", "resources/r19"]
    assert [record.key for record in other.search(where, after="resources/r17")] == []


def test_a_host_holds_a_registry(world, another_home):
    url = f"{world['ssh-a']}/registry"
    registry = open_registry(url)
    registry.put("a", {"n": 1}, when=ABSENT)
    another_home("bob")
    other = open_registry(url)
    other.put("a", {"n": 2}, when=Match("1"))
    assert [change.document for change in registry.history("a")] == [{"n": 1}, {"n": 2}]
