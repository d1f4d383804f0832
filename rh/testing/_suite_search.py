"""The part of the registry suite about search, changes and replay (promises 11 and 12 of `rh.registry.base`)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rh.errors import ConflictError
from rh.registry import open_registry
from rh.registry.base import Change, Delete, Put, Record, Registry, Rename
from rh.registry.filters import All, AnyOf, Compare, Exists, F, Filter, Not, Scalar

__all__ = ["SearchSuite", "some_document", "some_filter"]

NAMES = ("a", "b.c", "tags", "é", "n" * 300)
VALUES: tuple[Scalar, ...] = (
    *(0, 1, -1, 2, 0.5, -0.0, 1e300, -1e-300, 2.0**53, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), -(2**63) + 1, 2**64 - 1),
    *(2.0**64, True, False, "", "1", "true", "train", "trainer", "tra", "\0", "é", "\uffee", "𝄞", "%", "_", "'"),
    *("x" * 500, "x" * 500 + "y", "x" * 399, "x" * 400),
)


def some_document(chance: random.Random) -> dict[str, Any]:
    """A document with properties that are hard to index."""
    scalars = [value for value in VALUES if not isinstance(value, int) or value < 2**64]
    metadata: dict[str, Any] = {}
    for name in chance.sample([*NAMES, "none", "empty"], chance.randrange(5)):
        values = [chance.choice(scalars) for _ in range(chance.randrange(3))]
        found: Any = {"none": None, "empty": []}.get(name, values[0] if len(values) == 1 else values)
        if name == "b.c" and chance.random() < 0.5:
            metadata["b"] = {"c": found}
        else:
            metadata[name] = found
    return {"tags": chance.sample(["train", "gold", "é"], chance.randrange(3)), "metadata": metadata}


def some_filter(chance: random.Random, depth: int = 0) -> Filter:
    """A filter that may hold for such documents."""
    if depth < 3 and chance.random() < 0.5:
        parts = tuple(some_filter(chance, depth + 1) for _ in range(chance.randrange(4)))
        return chance.choice([All(parts), AnyOf(parts), Not(some_filter(chance, depth + 1))])
    field = chance.choice(NAMES)
    op = chance.choice([*Compare.OPERATORS, "exists"])
    if op == "exists":
        return Exists(field)
    if op in ("contains", "starts"):
        texts = [value for value in VALUES if isinstance(value, str)]
        return Compare(field, op, (chance.choice(texts)[: chance.choice([1, 2, 600])],))
    if op in ("==", "!="):
        return Compare(field, op, tuple(chance.choice(VALUES) for _ in range(chance.randrange(3))))
    return Compare(field, op, (chance.choice([value for value in VALUES if not isinstance(value, bool)]),))


def _told(registry: Registry) -> tuple[list[Record], dict[str, list[Change]]]:
    """All there is to know of a registry."""
    keys = {change.key for change in registry.changes()}
    return list(registry.list()), {key: list(registry.history(key)) for key in sorted(keys)}


class SearchSuite:
    """Filters find what they hold for; changes make another registry equal."""

    searches = 300

    @pytest.fixture
    def other(self, tmp_path: Path) -> Iterator[Registry]:
        """An empty registry to take changes over into."""
        with open_registry(f"sqlite://{tmp_path}/other/registry.db") as registry:
            yield registry

    def test_a_search_finds_what_the_filter_holds_for(self, registry: Registry) -> None:
        """Promise 11."""
        chance = random.Random(11)
        keys = [f"{top}/{n:03}" for top in ("r", "r2", "é") for n in range(60)]
        registry.commit([Put(key, some_document(chance)) for key in keys])
        registry.commit([Put(key, some_document(chance)) for key in keys[::3]])
        registry.commit([Delete(key) for key in keys[1::7]])
        registry.commit([Rename("r/000", "s/000"), Rename("r/003", "r/002", replace=True)])
        for _ in range(self.searches):
            where = some_filter(chance)
            prefix, after = chance.choice(["", "r", "r/", "nothing"]), chance.choice(["", "r/030", "z"])
            wanted = [one for one in registry.list(prefix, after=after) if where.matches(one.document)]
            assert list(registry.search(where, prefix, after=after)) == wanted, str(where)

    def test_a_search_gives_more_than_one_page(self, registry: Registry) -> None:
        """Promise 11."""
        documents = [{"metadata": {"n": n, "even": n % 2 == 0}} for n in range(2500)]
        registry.commit([Put(f"p/{n:04}", document) for n, document in enumerate(documents)])
        found = [record.key for record in registry.search(F.even == True, "p/")]  # noqa: E712 - a filter
        assert found == [f"p/{n:04}" for n in range(0, 2500, 2)]
        assert [record.key for record in registry.search((F.n >= 10) & (F.n < 12))] == ["p/0010", "p/0011"]
        assert [record.key for record in registry.search(~(F.n < 2498))] == ["p/2498", "p/2499"]

    def test_a_search_runs_while_others_write(self, registry: Registry) -> None:
        """Promises 6 and 11: what holds all the time is found, whatever else is changed about it."""
        registry.commit([Put(f"p/{n:04}", {"metadata": {"good": 1, "n": 0}}) for n in range(1500)])
        seen = []
        for record in registry.search(F.good == 1):
            if record.key == "p/0500":
                registry.commit([Put(f"p/{n:04}", {"metadata": {"good": 1, "n": 1}}) for n in range(1400, 1500)])
            seen.append(record.key)
        assert seen == [f"p/{n:04}" for n in range(1500)]

    def test_a_search_of_a_moment_that_was(self, registry: Registry) -> None:
        """Promise 11: by the times that the registry recorded."""
        registry.commit([Put(key, {"metadata": {"n": 1}}) for key in ("a", "b", "c")])
        registry.commit([Put("a", {"metadata": {"n": 2}}), Delete("b")])
        registry.put("b", {"metadata": {"n": 3}})
        registry.rename("c", "d")
        changes = list(registry.changes())
        for moment in {change.time for change in changes} | {0.0, changes[-1].time + 1}:
            last: dict[str, Change] = {}
            for change in changes:
                if change.time <= moment:
                    last[change.key] = change
            for prefix in ("", "b"):
                wanted = [key for key, change in sorted(last.items()) if change.document and key.startswith(prefix)]
                found = list(registry.search(F.n.exists(), prefix, as_of=moment))
                assert [record.key for record in found] == wanted
                assert all(record.document == last[record.key].document for record in found)

    def test_changes_make_another_registry_equal(self, registry: Registry, other: Registry) -> None:
        """Promise 12."""
        chance = random.Random(12)
        registry.put("a", {"n": 1}, by="ada", token="first")
        for n in range(40):
            registry.commit([Put(f"k/{m}", some_document(chance)) for m in chance.sample(range(20), 5)], by=f"u{n}")
        registry.commit([Rename("k/1", "moved"), Delete("a")])
        registry.put("a", {"n": 2})
        changes = list(registry.changes())
        tokens = [change.token for change in changes]
        together = [token for n, token in enumerate(tokens) if n == 0 or token != tokens[n - 1]]
        assert len(together) == len(set(tokens))  # those of one commit come together
        assert [change for change in changes if change.key.startswith("k/1")] == list(registry.changes("k/1"))
        assert other.replay(iter(changes)) == len(changes)
        assert _told(other) == _told(registry)
        assert other.replay(changes) == 0
        assert _told(other) == _told(registry)
        assert other.put("a", {"n": 1}, by="ada", token="first").revision == 1  # the token was used
        assert other.get("a").document == {"n": 2}
        where = F.a.exists() | (F.tags == "gold")
        assert list(other.search(where)) == list(registry.search(where))

    def test_changes_are_taken_over(self, registry: Registry, other: Registry) -> None:
        """Promise 12, the other way round, in two goes."""
        for n in range(30):
            other.commit([Put("a", {"n": n}), Put(f"b/{n}", {"metadata": {"n": n}})], token=f"t{n}")
        changes = list(other.changes())
        assert registry.replay(changes[:20]) == 20
        assert registry.replay(changes) == len(changes) - 20
        assert _told(registry) == _told(other)
        assert [record.key for record in registry.search(F.n == 7)] == ["b/7"]

    def test_what_does_not_follow_is_refused(self, registry: Registry, other: Registry) -> None:
        """Promise 12: it never changes what is there."""
        other.put("a", {"n": 1}, token="one")
        other.put("a", {"n": 2}, token="two")
        other.put("b", {"n": 3}, token="three")
        one, two, three = other.changes()
        with pytest.raises(ConflictError, match="'a' has no revision 1"):
            registry.replay([two])
        assert list(registry.list()) == []
        registry.replay([one])
        for changed in (
            one._replace(document={"n": 9}),
            one._replace(author="somebody"),
            one._replace(token="other"),
            one._replace(action="delete", document=None),
        ):
            with pytest.raises(ConflictError, match="another change as revision 1"):
                registry.replay([changed])
        with pytest.raises(ConflictError):
            registry.replay([one, two._replace(revision=3), three])
        assert list(registry.changes()) == [one]
        registry.replay([one, two, three])
        assert _told(registry) == _told(other)
