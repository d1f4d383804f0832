"""The check of histories finds what it is there for."""

import copy

import pytest

from rh.registry.base import Delete
from rh.registry.sql.sqlite import SQLiteRegistry
from rh.testing._suite_histories import check


@pytest.fixture
def told(tmp_path):
    """A registry, and what two clients that took turns wrote down."""
    lines, clock = [], iter(range(1000))

    def call(name, what, act, base=0):
        told = {"call": name, "key": "k", "what": what, "base": base}
        lines.append(told | {"begin": True, "at": next(clock)})
        lines.append(told | act() | {"outcome": "ok", "at": next(clock)})

    with SQLiteRegistry(tmp_path / "registry.db") as registry:
        for n in (1, 2, 3):
            call(f"w{n}", "put", lambda n=n: {"revision": registry.put("k", {"n": n}, token=f"w{n}").revision})
            call(f"r{n}", "get", lambda n=n: {"revision": n, "document": registry.get("k").document})
        call("d", "delete", lambda: {"revision": registry.commit([Delete("k")], token="d")[0].revision})
        call("r4", "get", lambda: {"revision": None, "document": None})
        yield registry, lines


def changed(lines, call, **values):
    found = copy.deepcopy(lines)
    for line in found:
        if line["call"] == call and not line.get("begin"):
            line.update(values)
    return found


def test_what_is_right_passes(told):
    registry, lines = told
    assert check(registry, lines) == 8
    assert check(registry, changed(lines, "w2", outcome="unknown")) == 7


@pytest.mark.parametrize(
    ("call", "values"),
    [
        ("r2", {"revision": 1, "document": {"n": 1}}),  # stale
        ("r2", {"revision": 3, "document": {"n": 3}}),  # of the future
        ("r2", {"document": {"n": 9}}),
        ("r2", {"revision": None, "document": None}),
        ("r4", {"revision": 3, "document": {"n": 3}}),
        ("w2", {"outcome": "refused"}),
        ("w2", {"revision": 3}),
    ],
)
def test_what_is_wrong_is_found(told, call, values):
    registry, lines = told
    with pytest.raises((AssertionError, ValueError)):
        check(registry, changed(lines, call, **values))


def test_a_lost_change_is_found(told):
    registry, lines = told
    extra = {"call": "x", "key": "k", "what": "put", "base": 0}
    lines += [extra | {"begin": True, "at": 900}, extra | {"revision": 5, "outcome": "ok", "at": 901}]
    with pytest.raises(AssertionError):
        check(registry, lines)


def test_a_change_of_nobody_is_found(told):
    registry, lines = told
    registry.put("k", {"n": 9}, token="nobody")
    with pytest.raises((AssertionError, KeyError)):
        check(registry, lines)
