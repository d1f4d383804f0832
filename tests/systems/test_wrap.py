"""Wrappers: what is tried again and what is not, what they cost, and that abilities go through them."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import time
import uuid

import pytest
import stamina

from rh.digest import of_bytes
from rh.errors import (
    AccessError,
    ConflictError,
    DeadlineError,
    ExistsError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from rh.systems import open_system
from rh.systems.abilities import Bulk, Digesting, Item, Multipart, Running, ServerCopy, Signing, Sweeping
from rh.systems.base import Body
from rh.systems.memory import MemorySystem, MemoryUpload, forget
from rh.systems.wrap import Bucket, Counting, Faulty, Limited, Logged, Retrying, unwrap, wrap
from rh.testing.systems import SystemSuite, noise
from rh.transfer.verify import finish
from rh.types import ABSENT, ANY, Entry, Link, Location, Match, Outcome

SETTINGS = {"kind": "memory", "timeout_s": 10.0, "retries": 9}


@pytest.fixture
def memory():
    store = uuid.uuid4().hex
    yield MemorySystem.open(Location("memory", f"{store}/root"), SETTINGS)
    forget(store)


def quick(system, **options):
    """Retry that waits next to nothing."""
    return Retrying(system, wait_s=0.0005, **options)


class _Wrapped(SystemSuite):
    keeps = frozenset({"links", "executable", "directories"})
    abilities = frozenset({Bulk, ServerCopy, Digesting, Multipart, Sweeping})

    def again(self, system):
        return MemorySystem.open(system.location, system.settings)


class TestRetryingKeepsTheContract(_Wrapped):
    @pytest.fixture
    def system(self, memory):
        return wrap(memory)


class TestAllWrappersKeepTheContract(_Wrapped):
    @pytest.fixture
    def system(self, memory):
        return Logged(Counting(Limited(Retrying(Faulty(memory)), requests=4, bytes_per_s=1e12)))


class TestFaultyIsHealedByRetrying(_Wrapped):
    """The whole contract with every third request failing, before or after it was done (promises 13 and 14)."""

    @pytest.fixture
    def system(self, memory):
        return quick(Faulty(memory, seed=7, errors=0.2, lost=0.1, verbs=HEALED), retries=25)


HEALED = (
    "list",
    "head",
    "read",
    "delete",
    "parts",
    "part",
    "resume",
    "read_many",
    "digest_many",
    "copy_many",
    "abort",
)


class Broken:
    """Makes one verb of a system fail as told: with errors in a row, then as it is."""

    def __init__(self, system, verb, *errors, after=False):
        self.system, self.errors, self.calls = system, list(errors), 0
        inner = getattr(system, verb)

        def verb_(*args, **kwargs):
            self.calls += 1
            done = inner(*args, **kwargs) if after else None
            if self.errors:
                raise self.errors.pop(0)
            return done if after else inner(*args, **kwargs)

        setattr(system, verb, verb_)


def test_wrap_and_unwrap(memory):
    system = wrap(memory)
    assert isinstance(system, Retrying)
    assert wrap(system) is system
    assert unwrap(Logged(Counting(system))) is memory
    assert unwrap(memory) is memory
    below = Counting(system).at("x")
    assert isinstance(below, Counting)
    assert unwrap(below).location.path == memory.location.path + "/x"
    opened = open_system(Location("memory", "somewhere/x"))
    assert isinstance(opened, Retrying)
    assert opened.kind == "memory"
    assert opened.keeps_links


def test_no_ability_is_made_up(memory):
    system = Logged(wrap(memory))
    assert system.ask(Signing) is None
    assert system.ask(Running) is None
    assert not isinstance(system, Bulk)


def test_permanent_errors_cost_one_request(memory):
    """Promise 14."""
    for error in (AccessError("no"), NotFoundError("no"), InvalidError("no"), ConflictError("no")):
        broken = Broken(memory, "head", error)
        with pytest.raises(type(error)):
            quick(memory).head("x")
        assert broken.calls == 1


def test_passing_errors_are_tried_again(memory):
    memory.write("x", b"1")
    broken = Broken(memory, "head", *[UnavailableError("busy") for _ in range(9)])
    assert quick(memory).head("x").size == 1
    assert broken.calls == 10


def test_it_gives_up_and_names_the_last_cause(memory):
    """Promise 14."""
    broken = Broken(memory, "head", *[UnavailableError(f"busy {n}") for n in range(100)])
    with pytest.raises(UnavailableError, match="busy 9") as caught:
        quick(memory).head("x")
    assert broken.calls == 10
    assert "given up after 10 tries" in caught.value.__notes__[0]


def test_the_budget_ends_it(memory):
    broken = Broken(memory, "head", *[UnavailableError("busy") for _ in range(1000)])
    begun = time.monotonic()
    with pytest.raises(UnavailableError):
        Retrying(memory, retries=1000, budget_s=0.4).head("x")
    assert time.monotonic() - begun < 2
    assert 2 <= broken.calls < 20


def test_one_deadline_is_not_waited_for_twice(memory):
    """A peer that swallows packets costs one deadline, not one for each try (promise 25)."""
    calls = []

    def head(key):
        calls.append(key)
        time.sleep(0.3)
        raise DeadlineError("no answer")

    memory.head = head
    memory.list = lambda *a, **k: head("list")
    for verb in (lambda s: s.head("x"), lambda s: list(s.list())):
        begun = time.monotonic()
        with pytest.raises(DeadlineError):
            verb(Retrying(memory, retries=20, budget_s=0.35))
        assert time.monotonic() - begun < 0.6
    assert calls[0] == "x"


def test_thirty_percent_faults_everywhere(memory):
    """Promise 14: with 30 % transient errors every call still succeeds."""
    faulty = Faulty(memory, seed=3, errors=0.3)
    system = quick(faulty, retries=30)
    for number in range(300):
        key = f"k{number:03d}"
        system.write(key, b"%d" % number)
        assert system.head(key).size == len(b"%d" % number)
        assert system.read(key).read() == b"%d" % number
    assert len(list(system.list())) == 300
    bulk = system.ask(Bulk)
    outcomes = list(bulk.write_many(Item(f"b{n:04d}", b"%d" % n) for n in range(2000)))
    assert {outcome.error for outcome in outcomes} == {None}
    assert sorted(outcome.key for outcome in outcomes) == [f"b{n:04d}" for n in range(2000)]
    got = {entry.key: data for entry, data in bulk.read_many(list(system.list("b")))}
    assert got == {f"b{n:04d}": b"%d" % n for n in range(2000)}
    system.delete([f"b{n:04d}" for n in range(2000)])
    assert list(memory.list("b")) == []
    assert faulty.injected["error"] > 1000


def test_a_dead_place_ends_a_stream_within_its_budget(memory):
    """Promise 14: with 100 % it fails within its budget and names the last cause."""
    system = Retrying(Faulty(memory, errors=1.0), retries=3, budget_s=1.0)
    begun = time.monotonic()
    outcomes = []
    stream = system.ask(Bulk).write_many(Item(str(n), b"") for n in range(5_000))
    with pytest.raises(UnavailableError, match="injected"):
        outcomes.extend(stream)
    assert time.monotonic() - begun < 10
    assert all(isinstance(outcome.error, UnavailableError) for outcome in outcomes)


def test_an_error_of_the_items_is_not_tried_again(memory):
    """Where the items come from is not our stream to repeat: its error comes through, once."""
    pulls = []

    def items():
        yield Item("a", b"1")
        pulls.append(1)
        raise UnavailableError("the source broke")

    with pytest.raises(UnavailableError, match="the source broke"):
        list(quick(memory).ask(Bulk).write_many(items()))
    assert pulls == [1]


def test_a_stream_that_breaks_as_a_whole_goes_on(memory):
    """What was not answered when the connection broke is asked again; what was answered is not."""
    inner = memory.write_many
    seen = []

    def write_many(items, **more):
        for number, outcome in enumerate(inner(items, **more)):
            seen.append(outcome.key)
            if number == 3:
                raise UnavailableError("connection reset")
            yield outcome

    memory.write_many = write_many
    outcomes = list(quick(memory, retries=20).ask(Bulk).write_many(Item(str(n), b"") for n in range(20)))
    assert sorted(int(outcome.key) for outcome in outcomes) == list(range(20))
    assert len(seen) < 35


def test_what_fails_together_is_waited_for_together(memory):
    """Sixteen refusals of one moment are one reason to wait, not twelve: a busy store is asked again and again."""
    inner, waits = memory.write_many, []

    def write_many(items, **more):
        """A store that is busy until somebody has waited five times; sixteen requests are under way at a time."""
        items = iter(items)
        while wave := list(itertools.islice(items, 16)):
            if len(waits) < 5:
                yield from [Outcome(item.key, error=UnavailableError("busy")) for item in wave]
            else:
                yield from inner(wave, **more)

    memory.write_many = write_many
    system = quick(memory, retries=10)
    again = system.again
    system.again = lambda *args, **more: (waits.append(1), again(*args, **more))[1]
    outcomes = list(system.ask(Bulk).write_many(Item(str(n), b"") for n in range(64)))
    assert sorted(int(outcome.key) for outcome in outcomes) == list(range(64))
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert len(waits) == 5


def test_a_system_that_forgets_an_item_is_found_out(memory):
    inner = memory.write_many
    memory.write_many = lambda items, **_: (outcome for outcome in inner(items) if outcome.key != "3")
    outcomes = {one.key: one for one in quick(memory).ask(Bulk).write_many(Item(str(n), b"") for n in range(5))}
    assert len(outcomes) == 5
    assert "without an answer" in str(outcomes["3"].error)


@pytest.mark.slow
def test_listing_resumes_after_the_last_key(memory):
    for number in range(2000):
        memory.write(f"{number:04d}", b"")
    faulty = Faulty(memory, seed=1, errors=0.5, verbs=["list"])
    assert [entry.key for entry in quick(faulty, retries=40).list()] == [f"{n:04d}" for n in range(2000)]
    assert faulty.injected["error"] > 5


# Bodies


class Dropping:
    """Bodies that break after so many bytes, each time."""

    def __init__(self, system, step, error):
        self.spans = []
        inner = system.read

        def read(key, span=None, *, when=None):
            from rh.types import ANY

            body = inner(key, span, when=when or ANY)
            self.spans.append((span, when))
            return Dropped(body, step, error)

        system.read = read


class Dropped(Body):
    def __init__(self, body, step, error):
        self.entry, self._body, self._step, self._error = body.entry, body, step, error

    def __iter__(self):
        data = self._body.read()
        yield data[: self._step]
        if len(data) > self._step:
            raise self._error

    def read(self):
        return b"".join(self)

    def close(self):
        pass


def test_a_broken_body_goes_on_by_range(memory):
    data = noise(100_000)
    etag = memory.write("f", data).etag
    dropping = Dropping(memory, 30_000, UnavailableError("connection reset"))
    assert b"".join(quick(memory).read("f")) == data
    assert dropping.spans[1:] == [((at, 100_000), Match(etag)) for at in (30_000, 60_000, 90_000)]
    dropping.spans.clear()
    assert b"".join(quick(memory).read("f", (10, 50_010))) == data[10:50_010]
    assert [span for span, _ in dropping.spans] == [(10, 50_010), (30_010, 50_010)]


def test_a_body_is_never_glued_from_two_contents(memory):
    """Promise 10."""
    memory.write("f", bytes(100_000))
    Dropping(memory, 30_000, UnavailableError("connection reset"))
    body = iter(quick(memory).read("f"))
    next(body)
    memory.write("f", b"x" * 100_000)
    with pytest.raises(ConflictError):
        list(body)


def test_wrong_bytes_are_not_resumed(memory):
    """After an `IntegrityError` no byte that was handed out counts as good."""
    memory.write("f", bytes(1000))
    dropping = Dropping(memory, 500, IntegrityError("checksum mismatch"))
    with pytest.raises(IntegrityError):
        list(quick(memory).read("f"))
    assert len(dropping.spans) == 1


def test_reading_as_a_whole_repairs_wrong_bytes(memory):
    """Promise 1: `read()` has given nothing away yet, so it may try all of it again."""
    data = noise(1000)
    memory.write("f", data)
    broken = []
    inner = memory.read

    def read(key, span=None, *, when=None):
        body = inner(key)
        if len(broken) < 2:
            broken.append(1)
            return Dropped(body, 500, IntegrityError("checksum mismatch"))
        return body

    memory.read = read
    assert quick(memory).read("f").read() == data
    assert len(broken) == 2


def test_a_body_that_never_gets_on_gives_up(memory):
    memory.write("f", bytes(1000))
    dropping = Dropping(memory, 0, UnavailableError("connection reset"))
    with pytest.raises(UnavailableError):
        list(quick(memory).read("f"))
    assert len(dropping.spans) == 10


# Writes


def test_a_stream_is_sent_again_only_if_it_is_whole(memory):
    broken = Broken(memory, "write", UnavailableError("busy"))
    assert quick(memory).write("f", iter([b"a", b"b"])).size == 2
    assert broken.calls == 2

    def half(key, data, **_):
        next(iter(data))
        raise UnavailableError("connection reset")

    memory.write = half
    with pytest.raises(UnavailableError) as caught:
        quick(memory).write("f", iter([b"a", b"b"]))
    assert "cannot be read twice" in caught.value.__notes__[0]


def test_a_list_of_pieces_is_sent_again(memory):
    Broken(memory, "write", UnavailableError("lost"), after=True)
    assert quick(memory).write("f", [b"a", b"b"]).size == 2
    assert memory.read("f").read() == b"ab"


@pytest.mark.parametrize("data", [b"mine", [b"mi", b"ne"], Link("there"), b""], ids=["bytes", "list", "link", "empty"])
@pytest.mark.parametrize("how", ["absent", "match"])
def test_the_lost_answer_to_our_own_write_is_no_conflict(memory, data, how):
    """Promise 11."""
    when = ABSENT if how == "absent" else Match(memory.write("f", b"before").etag)
    Broken(memory, "write", UnavailableError("answer lost"), after=True)
    entry = quick(memory).write("f", data, when=when)
    assert entry == memory.head("f")


@pytest.mark.parametrize("how", ["absent", "match"])
def test_a_lost_race_is_a_conflict_all_the_same(memory, how):
    """Promise 11: no false success either."""
    when = ABSENT if how == "absent" else Match(memory.write("f", b"before").etag)
    inner = memory.write

    def write(key, data, **kwargs):
        memory.write = inner
        inner(key, b"theirs")
        raise UnavailableError("never arrived")

    memory.write = write
    with pytest.raises(ExistsError if how == "absent" else ConflictError):
        quick(memory).write("f", b"mine", when=when)
    assert memory.read("f").read() == b"theirs"


def test_a_refusal_without_doubt_costs_one_request(memory):
    memory.write("f", b"same")
    counting = Counting(memory)
    with pytest.raises(ExistsError):
        Retrying(counting).write("f", b"same", when=ABSENT)
    assert counting.calls == {"write": 1}


@pytest.mark.slow
def test_races_with_lost_answers(memory):
    """Promises 11 and 12: 0 false conflicts, 0 false successes."""
    faulty = Faulty(memory, seed=5, errors=0.15, lost=0.3)
    for number in range(200):
        gate = threading.Barrier(2)
        won = []

        def create(who, number=number, gate=gate, won=won):
            gate.wait(10)
            try:
                quick(faulty, retries=40).write(f"k{number}", who.encode(), when=ABSENT)
            except ExistsError:
                return
            won.append(who)

        threads = [threading.Thread(target=create, args=(who,)) for who in ("ada", "bob")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [memory.read(f"k{number}").read().decode()]
    assert faulty.injected["lost"] > 50


def test_an_upload_finished_twice_is_finished_once(memory):
    """Promise 13."""
    data = noise(300)
    system = quick(Faulty(memory, seed=2, lost=1.0, verbs=["finish"], limit=1))
    upload = system.ask(Multipart).begin("f", 300, part_size=100)
    tags = [upload.put(n, data[n * 100 : n * 100 + 100]) for n in range(3)]
    assert finish(upload, tags, system, "f", of_bytes(data).text) == memory.head("f")
    assert memory.read("f").read() == data


def test_an_upload_that_is_gone_is_not_taken_for_finished(memory, monkeypatch):
    """What was under its key before is not what was sent, although it is as long."""
    memory.write("f", noise(300, seed=2))
    system = quick(memory)
    upload = system.ask(Multipart).begin("f", 300, part_size=100)
    tags = [upload.put(n, noise(100)) for n in range(3)]
    real = MemoryUpload.finish

    def refused(self, tags, *, when=ANY):
        monkeypatch.setattr(MemoryUpload, "finish", real)
        self.abort()  # by somebody else, before the request that meets an error is made again
        raise UnavailableError("later")

    monkeypatch.setattr(MemoryUpload, "finish", refused)
    with pytest.raises(NotFoundError):
        finish(upload, tags, system, "f", of_bytes(noise(100) * 3).text)
    assert memory.read("f").read() == noise(300, seed=2)


def test_commands_are_not_run_twice(tmp_path):
    from rh.systems.local import LocalSystem

    local = LocalSystem.open(Location("file", str(tmp_path)), {"kind": "file"})
    system = Retrying(Faulty(local, lost=1.0, verbs=["run"]))
    with pytest.raises(UnavailableError):
        system.ask(Running).run(["sh", "-c", "echo x >> log"])
    assert (tmp_path / "log").read_text() == "x\n"


def test_copies_see_the_system_inside(memory):
    """`can_copy_from` and `copy_many` must recognise a source that is wrapped too."""
    source, target = wrap(memory.at("a")), Logged(wrap(memory.at("b")))
    source.write("x", b"1")
    copier = target.ask(ServerCopy)
    assert copier.can_copy_from(source)
    outcomes = list(copier.copy_many(source, [(source.head("x"), "y")]))
    assert outcomes[0].entry == memory.head("b/y")._replace(key="y")


# What it costs


def test_retrying_costs_few_calls(memory):
    """Where nothing fails it is a few calls of Python more, so less than two microseconds."""
    memory.write("x", b"1")

    def calls(system):
        made = []
        system.head("x")
        sys.setprofile(lambda _frame, event, _arg: made.append(event))
        system.head("x")
        sys.setprofile(None)
        return sum(event in ("call", "c_call") for event in made)

    assert calls(wrap(memory)) - calls(memory) <= 4


# The others


def test_limited_requests(memory):
    running, most = [], []

    class Slow(MemorySystem):
        def head(self, key):
            running.append(1)
            most.append(len(running))
            time.sleep(0.01)
            running.pop()
            return super().head(key)

    memory.write("x", b"")
    slow = Slow(memory.location, memory.settings)
    system = Limited(slow, requests=3)
    threads = [threading.Thread(target=system.head, args=("x",)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 3


@pytest.mark.slow
def test_limited_bandwidth(memory):
    system = Limited(memory, bytes_per_s=1_000_000)
    begun = time.monotonic()
    system.write("x", bytes(1_000_000))
    assert system.read("x").read() == bytes(1_000_000)
    list(system.ask(Bulk).write_many(Item(str(n), bytes(10_000)) for n in range(20)))
    assert 1.0 < time.monotonic() - begun < 3.0
    with pytest.raises(InvalidError):
        Bucket(0)


def test_logged_says_what_was_asked(memory, caplog):
    system = Logged(memory)
    with caplog.at_level(logging.DEBUG, "rh"):
        system.write("a/b", b"123")
        with pytest.raises(NotFoundError):
            system.head("no")
        list(system.ask(Bulk).read_many([system.head("a/b"), Entry("gone", 1)]))
    text = caplog.text
    assert f"write {system.url('a/b')}" in text
    assert "3 bytes" in text
    assert "not_found" in text
    assert "read_many" in text
    assert "2 items, 1 failed" in text


def test_counting_counts(memory):
    system = Counting(memory)
    system.write("a", b"123")
    system.write("b", iter([b"12", b"3"]))
    assert system.at("").read("a").read() == b"123"
    list(system.ask(Bulk).write_many([Item("c", b"1"), Item("d", b"22")]))
    list(system.ask(Bulk).read_many([system.head("d")]))
    assert system.calls == {"write": 2, "read": 1, "write_many": 2, "head": 1, "read_many": 1}
    assert (system.sent, system.received) == (9, 5)


def test_faulty_damages_silently_and_the_same_way(memory):
    data = noise(10_000)
    memory.write("f", data)
    for fault in ("flips", "truncations", "duplicates"):
        first, second = (Faulty(memory, seed=4, **{fault: 1.0}).read("f").read() for _ in range(2))
        assert first == second != data
        Faulty(memory, seed=4, **{fault: 1.0}).write("g", data)
        assert memory.read("g").read() != data
        ((_, bulk),) = Faulty(memory, seed=4, **{fault: 1.0}).ask(Bulk).read_many([memory.head("f")])
        assert bulk != data
    flipped = Faulty(memory, seed=9, flips=1.0).read("f").read()
    assert sum((a ^ b).bit_count() for a, b in zip(data, flipped, strict=True)) == 1


def test_faulty_limits_itself(memory):
    memory.write("f", b"1")
    faulty = Faulty(memory, errors=1.0, limit=2, verbs=["head"])
    for _ in range(2):
        with pytest.raises(UnavailableError):
            faulty.head("f")
    assert faulty.head("f").size == 1
    assert faulty.read("f").read() == b"1"
    assert faulty.injected == {"error": 2}


def test_stamina_keeps_the_time(memory):
    """The policy is stamina's, so switching that off switches retry off."""
    Broken(memory, "head", UnavailableError("busy"))
    stamina.set_active(False)
    try:
        with pytest.raises(UnavailableError):
            quick(memory).head("x")
    finally:
        stamina.set_active(True)
