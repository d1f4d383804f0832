"""The suite every registry back-end must pass. Subclass it and say how to get an empty registry by URL::

    class TestMine(RegistrySuite):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mine:///{tmp_path}/registry"

Each test cites the promise of `rh.registry.base` that it shows. Other processes are real ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rh.errors import ConflictError, ExistsError, InvalidError, NotFoundError, RhError
from rh.registry import open_registry
from rh.registry.base import Delete, Put, Registry, Rename
from rh.testing._suite_histories import HistorySuite
from rh.testing._suite_search import SearchSuite
from rh.types import ABSENT, Match

__all__ = ["RegistrySuite"]

CANARY = "hunter2-canary"

_ADD = """
import sys
from rh.errors import ConflictError, ExistsError
from rh.registry import open_registry
from rh.types import ABSENT, Match
registry = open_registry(sys.argv[1])
won = 0
while won < int(sys.argv[2]):
    record = registry.find("counter")
    n = record.document["n"] if record else 0
    try:
        registry.put("counter", {"n": n + 1}, when=Match(record.etag) if record else ABSENT)
        won += 1
    except (ConflictError, ExistsError):
        pass
"""

_PUT = """
import sys
from rh.registry import open_registry
open_registry(sys.argv[1]).put("shared", {"a": 1}, token=sys.argv[2])
"""


def python(code: str, *argv: str) -> subprocess.Popen[str]:
    """A fresh interpreter that runs `code`."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process: subprocess.Popen[str], timeout_s: float = 90) -> str:
    """What it wrote, once it has ended well."""
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err
    return out


class RegistrySuite(SearchSuite, HistorySuite):
    """The promises of `rh.registry.base`, one by one."""

    processes = 8
    increments = 100

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError("say which registry")

    @pytest.fixture
    def registry(self, url: str) -> Iterator[Registry]:
        with open_registry(url) as registry:
            yield registry

    def test_what_was_put_is_got(self, registry: Registry) -> None:
        document = {"kind": "folder", "n": 1, "f": 0.5, "yes": True, "no": None, "list": [1, "two"], "deep": {"é": "✓"}}
        record = registry.put("resources/~/a", document, by="ada")
        assert (record.key, record.revision, record.document, record.author) == ("resources/~/a", 1, document, "ada")
        assert registry.get("resources/~/a") == record
        assert registry.find("resources/~/b") is None
        with pytest.raises(NotFoundError, match="resources/~/b"):
            registry.get("resources/~/b")

    def test_nothing_is_there_at_first(self, registry: Registry) -> None:
        assert list(registry.list()) == []
        assert list(registry.history("a")) == []
        with pytest.raises(NotFoundError):
            registry.delete("a")
        with pytest.raises(NotFoundError):
            registry.rename("a", "b")

    def test_a_commit_is_all_or_nothing(self, registry: Registry) -> None:
        """Promise 1."""
        registry.put("taken", {"n": 0})
        for bad in (
            Put("taken", {}, ABSENT),
            Delete("missing"),
            Put("taken", {}, Match("9")),
            Rename("taken", "taken2", Match("9")),
        ):
            with pytest.raises((ExistsError, NotFoundError, ConflictError)):
                registry.commit([Put("first", {"n": 1}), bad, Put("last", {"n": 2})])
            assert [record.key for record in registry.list()] == ["taken"]
            assert list(registry.history("first")) == []
        changes = registry.commit([Put("first", {"n": 1}), Delete("taken"), Put("last", {"n": 2})], token="t")
        assert [(change.key, change.action) for change in changes] == [
            ("first", "put"),
            ("taken", "delete"),
            ("last", "put"),
        ]
        assert {change.token for change in changes} == {"t"}

    def test_a_step_sees_what_the_one_before_left(self, registry: Registry) -> None:
        """Promise 1."""
        registry.put("a", {"n": 1})
        registry.commit([Rename("a", "b"), Put("c", {"n": 2}, ABSENT)])
        assert [record.key for record in registry.list()] == ["b", "c"]
        with pytest.raises(InvalidError, match="twice"):
            registry.commit([Put("d", {}), Delete("d")])
        with pytest.raises(InvalidError, match="at least one"):
            registry.commit([])

    def test_preconditions(self, registry: Registry) -> None:
        """Promise 2."""
        first = registry.put("a", {"n": 1}, when=ABSENT)
        with pytest.raises(ExistsError, match=r"'a' .*revision 1 \(by ada\)|'a' .*revision 1"):
            registry.put("a", {"n": 2}, when=ABSENT)
        second = registry.put("a", {"n": 2}, when=Match(first.etag), by="bob")
        with pytest.raises(ConflictError, match=r"revision 2 \(by bob\), not 1"):
            registry.put("a", {"n": 3}, when=Match(first.etag))
        with pytest.raises(ConflictError):
            registry.delete("a", when=Match(first.etag))
        assert registry.get("a").document == {"n": 2}
        registry.delete("a", when=Match(second.etag))
        with pytest.raises(ConflictError, match="gone"):
            registry.put("a", {"n": 3}, when=Match(second.etag))
        with pytest.raises(InvalidError):
            registry.delete("a", when=ABSENT)

    def test_a_token_makes_two_one(self, registry: Registry) -> None:
        """Promise 3."""
        first = registry.put("a", {"n": 1}, when=ABSENT, token="once")
        again = registry.put("a", {"n": 1}, when=ABSENT, token="once")
        assert first == again
        assert len(list(registry.history("a"))) == 1
        with pytest.raises(InvalidError, match="token"):
            registry.put("a", {"n": 2}, token="once")
        with pytest.raises(InvalidError, match="token"):
            registry.put("a", {"n": 1}, token="once")
        registry.delete("a", token="gone")
        registry.delete("a", token="gone")
        registry.put("a", {"n": 2})
        assert registry.put("a", {"n": 1}, when=ABSENT, token="once") == first
        assert registry.get("a").document == {"n": 2}
        moved = registry.rename("a", "b", token="move")
        assert registry.rename("a", "b", token="move") == moved

    def test_a_token_makes_two_one_in_a_race(self, registry: Registry, url: str) -> None:
        """Promise 3, from several processes."""
        for process in [python(_PUT, url, "same") for _ in range(4)]:
            finished(process)
        assert [change.revision for change in registry.history("shared")] == [1]

    def test_revisions_are_never_used_twice(self, registry: Registry) -> None:
        """Promises 4 and 5."""
        registry.put("a", {"n": 1}, by="ada")
        registry.put("a", {"n": 2}, by="bob")
        registry.delete("a", by="cy")
        assert registry.put("a", {"n": 3}, when=ABSENT).revision == 4
        history = list(registry.history("a"))
        assert [(c.revision, c.action, c.document) for c in history] == [
            (1, "put", {"n": 1}),
            (2, "put", {"n": 2}),
            (3, "delete", None),
            (4, "put", {"n": 3}),
        ]
        assert [c.author for c in history[:3]] == ["ada", "bob", "cy"]
        assert all(c.token and c.time > 0 for c in history)
        assert [c.revision for c in registry.history("a", after=2)] == [3, 4]

    def test_a_rename_is_atomic_and_told_on_both_sides(self, registry: Registry) -> None:
        """Promises 1 and 5."""
        registry.put("a", {"n": 1})
        registry.put("there", {"n": 9})
        with pytest.raises(ExistsError, match="there"):
            registry.rename("a", "there")
        assert registry.get("a").document == {"n": 1}
        record = registry.rename("a", "b")
        assert (record.key, record.revision, record.document) == ("b", 1, {"n": 1})
        assert registry.find("a") is None
        (_, left), (came,) = registry.history("a"), registry.history("b")
        assert (left.action, left.moved, came.moved, left.token) == ("delete", "b", "a", came.token)
        assert registry.rename("b", "there", replace=True).revision == 2

    def test_a_listing_is_complete_and_in_order(self, registry: Registry) -> None:
        """Promise 6."""
        keys = [f"r/{i:04}" for i in range(1200)] + ["r", "q/z", "s/é", "s/𝄞", "s/\uffee", "r0"]
        for at in range(0, len(keys), 100):
            registry.commit([Put(key, {"k": key}) for key in keys[at : at + 100]])
        ordered = sorted(keys, key=str.encode)
        assert [record.key for record in registry.list()] == ordered
        assert [record.key for record in registry.list("r/")] == [key for key in ordered if key.startswith("r/")]
        assert [record.key for record in registry.list("r/", after="r/1190")] == [
            f"r/{i:04}" for i in range(1191, 1200)
        ]
        assert [record.key for record in registry.list("s/")] == ["s/é", "s/\uffee", "s/𝄞"]
        assert list(registry.list("nothing")) == []

    def test_a_listing_runs_while_others_write(self, registry: Registry) -> None:
        """Promise 6."""
        registry.commit([Put(f"a/{i:04}", {}) for i in range(1500)])
        seen = []
        for record in registry.list("a/"):
            if record.key == "a/0500":
                registry.commit([Delete("a/0400"), Delete("a/1400"), Put("a/9999", {})])
            seen.append(record.key)
        assert set(seen) >= {f"a/{i:04}" for i in range(1500)} - {"a/1400"}
        assert seen == sorted(seen)

    def test_fields_nobody_knows_are_kept(self, registry: Registry) -> None:
        """Promise 7."""
        registry.put("a", {"kind": "folder", "from_the_future": {"x": [1, {"y": None}]}})
        registry.update("a", lambda document: {**(document or {}), "kind": "blob"})
        assert registry.get("a").document == {"kind": "blob", "from_the_future": {"x": [1, {"y": None}]}}

    @pytest.mark.parametrize(
        "document",
        [
            {"options": {"password": CANARY}},
            {"secret": CANARY},
            {"options": {"token": CANARY}},
            {"a": [{"aws_secret_access_key": CANARY}]},
            {"awsSessionToken": CANARY},
            {"AccountKey": CANARY},
            {"url": f"https://me:{CANARY}@host/x"},
            {"x": f"AccountName=a;AccountKey={CANARY}"},
            {"x": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}"},
            {"x": f"https://b.s3.amazonaws.com/k?X-Amz-Signature={CANARY}"},
        ],
    )
    def test_secrets_are_refused(self, registry: Registry, document: dict[str, Any]) -> None:
        """Promise 8."""
        with pytest.raises(InvalidError, match=r"secret|credential") as caught:
            registry.put("a", document)
        assert CANARY not in str(caught.value) + repr(caught.value)
        assert registry.find("a") is None

    def test_what_only_sounds_like_a_secret_is_taken(self, registry: Registry) -> None:
        """Promise 8 has its limits."""
        document = {"tokenizer": "bpe", "max_tokens": 5, "pad_token": "<pad>", "key": "k", "identity_file": "~/.ssh/id"}
        assert registry.put("a", document).document == document

    @pytest.mark.parametrize(
        "document",
        [
            {"a": (1, 2)},
            {"a": float("nan")},
            {"a": b"x"},
            {1: "x"},
            {"a": {"b": object()}},
            {"a": 1 << 70},
            {"a": "\udcff"},
            ["a"],
        ],
        ids=["tuple", "nan", "bytes", "number as key", "object", "huge", "surrogate", "list"],
    )
    def test_what_would_come_back_changed_is_refused(self, registry: Registry, document: Any) -> None:
        """Promise 7."""
        with pytest.raises(InvalidError):
            registry.put("a", document)
        assert registry.find("a") is None

    def test_a_record_is_small(self, registry: Registry) -> None:
        with pytest.raises(InvalidError, match="bytes"):
            registry.put("a", {"x": "y" * (1 << 20)})

    @pytest.mark.parametrize("key", ["", "a\0b", "k" * 2000, "\udcff"])
    def test_bad_keys_are_refused(self, registry: Registry, key: str) -> None:
        with pytest.raises(InvalidError, match="not a key"):
            registry.put(key, {})

    @pytest.mark.parametrize("key", ["'; drop table records; --", "%", "_", "a\nb", "../x", "x" * 1000])
    def test_odd_keys_are_just_keys(self, registry: Registry, key: str) -> None:
        registry.put(key, {"n": 1})
        registry.put("other", {"n": 2})
        assert registry.get(key).document == {"n": 1}
        assert [record.key for record in registry.list(key)] == [key]

    @pytest.mark.slow
    def test_increments_from_many_processes_are_all_there(self, registry: Registry, url: str) -> None:
        """Promises 1, 2 and 9: no increment is lost, and each had its own revision."""
        for process in [python(_ADD, url, str(self.increments)) for _ in range(self.processes)]:
            finished(process, self.patience_s)
        total = self.processes * self.increments
        assert registry.get("counter").document == {"n": total}
        assert [change.revision for change in registry.history("counter")] == list(range(1, total + 1))

    def test_increments_from_many_threads_are_all_there(self, registry: Registry) -> None:
        """Promise 9."""

        def work(_: int) -> None:
            for _ in range(20):
                registry.update("counter", lambda document: {"n": (document or {"n": 0})["n"] + 1})

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
        assert registry.get("counter").document == {"n": 120}

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_handle_survives_fork(self, registry: Registry) -> None:
        """Promise 9."""
        registry.put("a", {"n": 1})
        child = os.fork()
        if child == 0:
            status = 1
            try:
                registry.put("child", registry.get("a").document)
                registry.close()
                status = 0
            finally:
                os._exit(status)
        registry.put("parent", {"n": 2})
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [record.key for record in registry.list()] == ["a", "child", "parent"]

    def test_a_writer_that_is_killed_leaves_all_or_nothing(self, registry: Registry, url: str) -> None:
        """Promise 1: whatever a killed process was doing, the pair it writes stays a pair."""
        code = (
            "import sys, itertools\nfrom rh.registry import open_registry\nfrom rh.registry.base import Put\n"
            "registry = open_registry(sys.argv[1])\nprint('up', flush=True)\n"
            "for n in itertools.count():\n    registry.commit([Put('left', {'n': n}), Put('right', {'n': n})])\n"
        )
        for delay in (0.0, 0.02, 0.05):
            process = python(code, url)
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            threading.Event().wait(delay)
            process.kill()
            process.communicate()
            left, right = registry.find("left"), registry.find("right")
            assert (left and left.document) == (right and right.document)
            registry.put("after", {"delay": delay})

    def test_it_goes_on_after_close(self, registry: Registry) -> None:
        registry.put("a", {"n": 1})
        registry.close()
        registry.close()
        assert registry.get("a").document == {"n": 1}

    def test_every_error_names_the_place(self, registry: Registry) -> None:
        """Promise 13."""
        with pytest.raises(RhError) as caught:
            registry.get("nobody")
        assert caught.value.where == registry.url
