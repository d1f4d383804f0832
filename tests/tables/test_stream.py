"""Batches of a table: exact, in one order, shared, resumed at the row; few requests, little memory, no threads left."""

from __future__ import annotations

import gc
import itertools
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rh import observe
from rh.errors import ConflictError, IntegrityError, InvalidError
from rh.systems import locate, open_system
from rh.systems.base import System
from rh.tables import store, writing
from rh.tables.base import DataFile, Snapshot, _told
from rh.tables.stream import Stream
from tests.tables.data import packages

EVERYWHERE = ["file", "memory", "s3", "gs", "azure", "ssh-a"]
MIB = 1 << 20
ORDER = [197, 729, 723, 709, 115, 167, 109, 705, 794, 727, 791, 771]


@pytest.fixture
def place(request, world, tmp_path) -> System:
    roots = {**world, "file": str(tmp_path / "t"), "memory": f"memory://{uuid4().hex}/t"}
    return open_system(locate(roots[request.param])).at("table")


@pytest.fixture
def here(tmp_path) -> System:
    return open_system(locate(str(tmp_path / "table")))


def numbers(stream) -> list[int]:
    return [n for batch in stream for n in batch.column("n").to_pylist()]


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rh-stream"]


def gone(deadline_s: float = 30.0) -> bool:
    """Whether no thread of a stream is left, within the deadline."""
    end = time.monotonic() + deadline_s
    while ours() and time.monotonic() < end:
        time.sleep(0.01)
    return not ours()


def written(system: System, count: int, *, group_rows: int = 100, files: int = 1) -> Snapshot:
    """A table of the numbers below `count` and a word for each, in row groups of so many rows."""
    for part in range(files):
        some = range(count * part // files, count * (part + 1) // files)
        table = pa.table({"n": pa.array(some, pa.int64()), "word": [f"w{n % 11}" for n in some]})
        snapshot = writing.write(system, table.to_reader(), mode="append" if part else "error", group_rows=group_rows)
    return snapshot


@pytest.mark.parametrize("place", EVERYWHERE, indirect=True)
def test_batches_have_exactly_the_size_asked_for(place) -> None:
    """Real rows, nested ones too, across files, on every system; the order is that of the table."""
    table = packages().slice(0, 2500)
    for part in range(3):
        rows = table.slice(part * 900, 900).to_reader()
        snapshot = writing.write(place, rows, mode="append" if part else "error", group_rows=400)
    for size in (1, 7, 333, 1000, 10_000):
        batches = list(Stream(place, snapshot, size))
        assert {batch.num_rows for batch in batches[:-1]} <= {size}
        assert 0 < batches[-1].num_rows <= size
        assert pa.Table.from_batches(batches) == table
    assert pa.Table.from_batches(list(Stream(place, snapshot, 100, columns=["size_bytes", "tags"]))) == table.select(
        ["size_bytes", "tags"]
    )


def test_the_first_batch_on_a_store_takes_three_requests(world) -> None:
    """Promise 21: the index, a footer and what is read as one, wherever the stream begins, shuffled or not."""
    place = open_system(locate(world["s3"])).at("t")
    written(place, 600_000, group_rows=20_000, files=2)
    for options in ({}, {"shuffle_seed": 1}, {"columns": ["word"]}, {"start": 450_000}, {"rank": 1, "world_size": 2}):
        with observe.counting() as counts:
            with Stream(place, store.look(place), 100, **options) as stream:
                assert next(stream).num_rows == 100
        assert counts.total() <= 3, (options, counts.requests)


def test_a_whole_stream_takes_two_requests_for_each_file(world) -> None:
    """The footer, and the row groups that are read as one."""
    place = open_system(locate(world["s3"])).at("t")
    snapshot = written(place, 60_000, group_rows=10_000, files=3)
    with observe.counting() as counts:
        assert numbers(Stream(place, snapshot, 1000)) == list(range(60_000))
    assert counts.total() <= 2 * len(snapshot.files)
    assert counts.received["s3"] <= 1.5 * sum(file.size for file in snapshot.files)


def test_resuming_reads_only_from_the_row_group_it_is_in() -> None:
    """What came before costs no data, and columns that nobody asked for cost none either."""
    place = open_system(locate(f"memory://{uuid4().hex}/t"))
    snapshot = written(place, 400_000, group_rows=20_000)
    stream = Stream(place, snapshot, 1000)
    before = [next(stream) for _ in range(385)]
    state = json.loads(json.dumps(stream.state_dict()))
    stream.close()
    again = Stream(place, snapshot, 1000)
    again.load_state_dict(state)
    with observe.counting() as counts:
        rest = numbers(again)
    assert rest == list(range(sum(batch.num_rows for batch in before), 400_000))
    assert counts.received["memory"] < snapshot.files[0].size / 8 + (1 << 16)
    with observe.counting() as counts:
        assert len(list(Stream(place, snapshot, 1000, where=[("n", "<", 15_000)]))) == 15
    assert counts.received["memory"] < snapshot.files[0].size / 8 + (1 << 16)


_plans = st.fixed_dictionaries(
    {},
    optional={
        "shuffle_seed": st.integers(0, 3),
        "where": st.sampled_from([[("n", ">", 300)], [("word", "in", ["w3", "w4"])]]),
        "drop_last": st.booleans(),
        "prefetch": st.sampled_from([0, 1, 3]),
    },
)


@pytest.fixture(scope="module", params=["owned", "csv"])
def mixed(request, tmp_path_factory) -> tuple[System, Snapshot]:
    """700 rows in files of several sizes: a table of ours, and CSV, whose files do not tell how many rows they have."""
    system = open_system(locate(str(tmp_path_factory.mktemp("mixed") / "t")))
    if request.param == "owned":
        return system, written(system, 700, group_rows=90, files=4)
    table = pa.table({"n": range(700), "word": [f"w{n % 11}" for n in range(700)]})
    os.makedirs(system.location.path)
    for name, start, size in (("a", 0, 500), ("b", 500, 1), ("c", 501, 199)):
        pyarrow.csv.write_csv(table.slice(start, size), f"{system.location.path}/{name}.csv")
    return system, store.look(system)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=_plans, world_size=st.integers(1, 5), size=st.integers(1, 200), buffer=st.sampled_from([None, 50, 300]))
def test_ranks_have_disjoint_shares_that_cover_everything(mixed, plan, world_size, size, buffer) -> None:
    """Shares differ by one row at the most; with `drop_last` all ranks give equally many batches."""
    if buffer and "shuffle_seed" in plan:
        plan = {**plan, "shuffle_buffer": buffer}
    shares = [list(Stream(*mixed, size, rank=rank, world_size=world_size, **plan)) for rank in range(world_size)]
    rows = [[n for batch in share for n in batch.column("n").to_pylist()] for share in shares]
    wanted = {
        n for n in range(700) if "where" not in plan or (n > 300 if plan["where"][0][0] == "n" else n % 11 in (3, 4))
    }
    together = [n for share in rows for n in share]
    assert len(together) == len(set(together))
    assert set(together) <= wanted
    if not plan.get("drop_last"):
        assert set(together) == wanted
        if "where" not in plan:
            assert max(map(len, rows)) - min(map(len, rows)) <= 1
        if "shuffle_seed" not in plan:
            assert together == sorted(together)
    else:
        assert {batch.num_rows for share in shares for batch in share} <= {size}
        if "where" not in plan:
            assert {len(share) for share in shares} == {700 // world_size // size}


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=_plans, taken=st.integers(0, 30), size=st.integers(1, 90), other=st.integers(1, 90), rank=st.integers(0, 1))
def test_a_state_resumes_at_the_exact_row(mixed, plan, taken, size, other, rank) -> None:
    """In another process, with other batches, from any place, whatever the order and the filter."""
    plan = {**{name: value for name, value in plan.items() if name != "drop_last"}, "rank": rank, "world_size": 2}
    whole = numbers(Stream(*mixed, 100, **plan))
    stream = Stream(*mixed, size, **plan)
    before = numbers(itertools.islice(stream, taken))
    state = json.loads(json.dumps(stream.state_dict()))
    stream.close()
    assert stream.state_dict() == state
    resumed = Stream(*mixed, other, **plan)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert before + numbers(resumed) == whole
    if "where" not in plan:
        assert numbers(Stream(*mixed, other, start=len(before), **plan)) == whole[len(before) :]


def test_a_seed_shuffles_files_row_groups_and_rows(here) -> None:
    """It alone does; each row comes once; another seed is another order; rows leave their row group's neighbourhood."""
    snapshot = written(here, 3000, group_rows=100, files=3)
    plain = list(range(3000))
    one, same, two = (numbers(Stream(here, snapshot, 64, shuffle_seed=seed)) for seed in (1, 1, 2))
    assert one == same != two
    assert sorted(one) == sorted(two) == plain != one
    assert sum(a == b + 1 for a, b in zip(one[1:], one, strict=False)) < 100
    small = numbers(Stream(here, snapshot, 64, shuffle_seed=1, shuffle_buffer=100))
    assert small != one
    assert all(max(small[at : at + 100]) - min(small[at : at + 100]) < 100 for at in range(0, 3000, 100))


def test_the_order_of_a_seed_is_this_one_on_every_machine(here) -> None:
    """A change of these numbers makes states of earlier releases mean other rows: `STATE` must change with them."""
    snapshot = written(here, 1000, group_rows=100)
    assert numbers(Stream(here, snapshot, 1000, shuffle_seed=42, shuffle_buffer=200))[:12] == ORDER


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": -5}, "batch_size is -5"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"rank": 2, "world_size": 2}, "rank 2 is none of 2"),
        ({"world_size": 0}, "world_size is 0"),
        ({"start": -1}, "start is -1"),
        ({"shuffle_buffer": 10}, "without a seed"),
        ({"shuffle_seed": "x"}, "shuffle_seed is 'x'"),
        ({"shuffle_seed": 1, "shuffle_buffer": 0}, "shuffle_buffer is 0"),
        ({"prefetch": -1}, "prefetch is -1"),
        ({"format": "numpi"}, "no batch format 'numpi'"),
        ({"columns": ["m"]}, "no column 'm'"),
        ({"where": [("m", "=", 1)]}, "no column 'm'"),
        ({"where": [("n", "=", 1)], "shuffle_seed": 1, "start": 3}, "no numbers to start at"),
    ],
)
def test_arguments_are_checked_before_anything_is_read(here, arguments, said) -> None:
    snapshot = written(here, 10)
    here.delete([file.key for file in snapshot.files])
    with pytest.raises(InvalidError, match=said):
        Stream(here, snapshot, **{"batch_size": 5, **arguments})


def test_a_state_of_another_stream_is_refused_and_says_what_differs(here) -> None:
    snapshot = written(here, 100)
    state = Stream(here, snapshot, 7, shuffle_seed=3).state_dict()
    other = writing.write(here, pa.table({"n": [1], "word": ["x"]}).to_reader(), mode="append")
    for stream, said in (
        (Stream(here, other, 7, shuffle_seed=3), "another table"),
        (Stream(here, snapshot, 7), "another shuffle_seed"),
        (Stream(here, snapshot, 7, shuffle_seed=3, shuffle_buffer=50), "another shuffle_buffer"),
        (Stream(here, snapshot, 7, shuffle_seed=3, rank=1, world_size=2), "another rank|another world_size"),
        (Stream(here, snapshot, 7, shuffle_seed=3, where=[("n", ">", 3)]), "another where"),
        (Stream(here, snapshot, 7, shuffle_seed=3, start=3), "another start"),
    ):
        with pytest.raises(InvalidError, match=said):
            stream.load_state_dict(state)
    behind = [{**state, "rows": 10**9}, {**state, "rows": 0, "given": 10**9}, {**state, "start": "x"}]
    part = Stream(here, snapshot, 7, shuffle_seed=3, rank=1, world_size=2).state_dict()
    with pytest.raises(InvalidError, match="behind the end"):
        Stream(here, snapshot, 7, shuffle_seed=3, rank=1, world_size=2).load_state_dict(
            {**part, "rows": sum(file.rows for file in snapshot.files)}
        )
    wrong_ones = ({}, {"rows": 3}, None, {**state, "format": 99}, {**state, "rows": -1}, {**state, "rows": "3"})
    for wrong in (*wrong_ones, *behind, {**state, "rows": 1, "start": "x"}):
        with pytest.raises(InvalidError):
            Stream(here, snapshot, 7, shuffle_seed=3).load_state_dict(wrong)


def test_a_state_goes_by_every_value_of_a_filter(here) -> None:
    """Arrow's text of a filter leaves out most of many values."""
    snapshot = written(here, 1000)
    many, others = [*range(1000)], [*range(20), *range(30, 1000)]
    for one, other in (
        (pc.field("n").isin(many), pc.field("n").isin(others)),
        ([("n", "in", many)], [("n", "in", others)]),
    ):
        state = json.loads(json.dumps(Stream(here, snapshot, 7, where=one).state_dict()))
        Stream(here, snapshot, 7, where=one).load_state_dict(state)
        with pytest.raises(InvalidError, match="another where"):
            Stream(here, snapshot, 7, where=other).load_state_dict(state)


@pytest.mark.slow
def test_a_state_of_a_filter_by_a_set_fits_in_another_process(here) -> None:
    words = {f"w{n}" for n in range(11)}
    code = (
        "import json, sys; from rh.systems import locate, open_system; from rh.tables import store;"
        "from rh.tables.stream import Stream; system = open_system(locate(sys.argv[1]));"
        "where = [('word', 'in', {f'w{n}' for n in range(11)})];"
        "print(json.dumps(Stream(system, store.find(system), 7, where=where).state_dict()))"
    )
    snapshot = written(here, 100)
    for seed in "12":
        told = subprocess.run(
            [sys.executable, "-c", code, str(here.location.path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        )
        Stream(here, snapshot, 7, where=[("word", "in", words)]).load_state_dict(json.loads(told.stdout))


def test_a_state_goes_by_the_options_that_the_files_are_read_with(here) -> None:
    """Of the same files, other options make other rows."""
    entry = here.write("a.csv", b"n\n" + b"".join(b"%d\n" % n for n in range(10)))

    def opened(**options) -> Stream:
        files = Snapshot("csv", (DataFile("a.csv", entry.size, None, entry.etag),), options=options or None)
        return Stream(here, files, 2)

    rows = {"skip_rows": 5, "column_names": ["n"]}
    with opened(**rows) as stream:
        assert numbers([next(stream)]) == [4, 5]
        state = stream.state_dict()
    with pytest.raises(InvalidError, match="another table"):
        opened().load_state_dict(state)
    with opened(**dict(reversed(rows.items()))) as stream:
        stream.load_state_dict(state)
        assert numbers(stream) == [6, 7, 8, 9]
    typed = opened(column_types={"n": "double"})
    typed.load_state_dict(opened(column_types=pa.schema([("n", pa.float64())])).state_dict())
    plain = Snapshot("csv", (DataFile("a.csv", 21, None, "etag"),))
    assert plain.fingerprint == replace(plain, options={}).fingerprint == "450f4590c726cb3c55714d34bde80fd9"
    timed = replace(plain, options={"timestamp_parsers": [pa.csv.ISO8601, "%d.%m.%Y"], "invalid_row_handler": numbers})
    assert " at 0x" not in _told([*timed.options.values()]), "the same in every process"
    assert timed.fingerprint != plain.fingerprint


@pytest.mark.parametrize("place", EVERYWHERE, indirect=True)
def test_a_table_that_changes_under_a_stream_is_a_conflict(place) -> None:
    """Never mixed rows: what was given out before is of the old table, and then it stops."""
    snapshot = written(place, 600_000, group_rows=5000)
    given = []
    with Stream(place, snapshot, 100, columns=["n"]) as stream:
        given += next(stream).column("n").to_pylist()
        writing.write(place, pa.table({"n": [-1], "word": ["new"]}).to_reader(), mode="overwrite")
        with pytest.raises(ConflictError, match="the table changed"):
            given.extend(n for batch in stream for n in batch.column("n").to_pylist())
        with pytest.raises(ConflictError):
            next(stream)
    assert given == list(range(len(given)))


def test_a_file_written_over_in_place_is_damaged(here) -> None:
    """Another program that writes into the open file itself, as `rh` never does: the index knows nothing of it."""
    snapshot = written(here, 600_000, group_rows=5000)
    with Stream(here, snapshot, 100) as stream:
        next(stream)
        with open(f"{here.location.path}/{snapshot.files[0].key}", "r+b") as file:
            file.seek(snapshot.files[0].size // 2)
            file.write(bytes(1000))
        with pytest.raises(IntegrityError, match="the table is damaged"):
            list(stream)


@pytest.mark.parametrize("prefetch", [0, None])
def test_a_failed_read_reaches_the_reader_in_its_place(world, prefetch) -> None:
    """Batches before it come; the error comes again if asked again."""
    place = open_system(locate(world["s3"])).at("t")
    snapshot = written(place, 3000, files=3)
    broken = snapshot.files[2]._replace(key="missing")
    stream = Stream(place, replace(snapshot, files=(*snapshot.files[:2], broken)), 100, prefetch=prefetch)
    for start in range(0, 2000, 100):
        assert next(stream).column("n")[0].as_py() == start
    for _ in range(2):
        with pytest.raises(ConflictError, match=r"gone.*missing"):
            next(stream)
    assert gone()


@pytest.mark.parametrize("how", ["close", "drop", "block", "end"])
def test_no_thread_and_no_descriptor_is_left(here, how: str) -> None:
    """Closed, dropped, left, or read to its end."""
    snapshot = written(here, 300_000, group_rows=1000)
    open_before = len(os.listdir("/proc/self/fd"))
    stream = Stream(here, snapshot, 100)
    next(stream), next(stream)
    assert ours()
    if how == "close":
        stream.close()
        stream.close()
        assert list(stream) == []
    elif how == "block":
        with stream:
            next(stream)
    elif how == "end":
        assert sum(batch.num_rows for batch in stream) == 299_800
    del stream
    gc.collect()
    assert gone()
    assert len(os.listdir("/proc/self/fd")) <= open_before


def test_a_stream_that_has_not_begun_can_be_sent(here) -> None:
    snapshot = written(here, 500)
    stream = Stream(here, snapshot, 64, shuffle_seed=1, where=[("n", ">", 100)], format="dict")
    copy = pickle.loads(pickle.dumps(stream))
    first = next(stream)
    assert next(copy) == first
    with pytest.raises(InvalidError, match="has begun"):
        pickle.dumps(stream)
    stream.close(), copy.close()


def _child(stream, answer) -> None:
    answer.put(numbers(stream))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("options", [{}, {"shuffle_seed": 1}, {"where": [("n", ">=", 0)]}])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_children_stream_while_the_parent_does(here, method: str, options) -> None:
    """Promise 27: forked in the middle of the parent's stream, and spawned. Arrow's own threads survive no fork."""
    snapshot = written(here, 50_000, group_rows=1000)
    wanted = numbers(Stream(here, snapshot, 100, **options))
    mine = Stream(here, snapshot, 100, **options)
    next(mine)
    context = multiprocessing.get_context(method)
    answer = context.SimpleQueue()
    child = context.Process(target=_child, args=(Stream(here, snapshot, 100, **options), answer))
    child.start()
    assert numbers(mine) == wanted[100:]
    assert answer.get() == wanted
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_stream_that_has_begun_goes_on_in_a_forked_child(here) -> None:
    """From the same row, on its own, by threads of its own."""
    stream = Stream(here, written(here, 50_000, group_rows=1000), 100)
    head = next(stream).num_rows
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=_child, args=(stream, answer))
    child.start()
    rest = list(range(head, 50_000))
    assert answer.get() == rest
    assert numbers(stream) == rest
    child.join(60)
    assert child.exitcode == 0


INTERRUPTED = """
import sys
from rh.systems import locate, open_system
from rh.tables import store
from rh.tables.stream import Stream
system = open_system(locate(sys.argv[1]))
snapshot = store.look(system)
try:
    while True:
        for batch in Stream(system, snapshot, 100):
            if sys.argv:
                sys.argv.clear()
                sys.stdout.write("going\\n")
                sys.stdout.flush()
except KeyboardInterrupt:
    sys.stdout.write("stopped\\n")
"""


def test_an_interrupt_stops_it(here) -> None:
    """Promise 28; Python then ends at once, although a thread is in the middle of a row group."""
    written(here, 300_000, group_rows=1000)
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, here.location.path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "going\n"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (out, err, child.returncode) == ("stopped\n", "", 0)


UNFINISHED = """
import sys
from rh.systems import locate, open_system
from rh.tables import store
from rh.tables.stream import Stream
system = open_system(locate(sys.argv[1]))
stream = Stream(system, store.look(system), 100)
print(next(stream).num_rows, next(stream).num_rows)
print(sorted(name for name in ("pyarrow.dataset", "pandas", "torch", "polars") if name in sys.modules))
"""


@pytest.mark.slow
def test_python_ends_cleanly_under_a_stream_and_little_was_imported(here, python) -> None:
    """Threads are ended before Python is; a plain stream needs neither Arrow's datasets nor any data frame."""
    written(here, 300_000, group_rows=1000)
    for _ in range(3):
        assert python(UNFINISHED, here.location.path) == "100 100\n[]\n"


MEMORY = """
import sys
from rh.systems import locate, open_system
from rh.tables import store
from rh.tables.stream import Stream
def status(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])
system = open_system(locate(sys.argv[1]))
snapshot = store.look(system)
options = {"shuffle_seed": 1} if sys.argv[2] == "shuffled" else {}
next(Stream(system, snapshot, 100, **options))  # libraries
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
rows = sum(batch.num_rows for batch in Stream(system, snapshot, 1000, **options))
print(rows, status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", ["plain", "shuffled"])
@pytest.mark.parametrize("group_rows", [16_384, 262_144])
def test_memory_is_bounded_whatever_the_size_of_the_table(here, python, order: str, group_rows: int) -> None:
    """Promise 21: two row groups, as they are in memory, and 64 MiB; the table is 600 MiB."""
    width = 200
    some = pa.table({"n": range(1 << 19), "text": [f"{n:0{width}d}" for n in range(1 << 19)]})
    batches = (batch for _ in range(6) for batch in some.to_batches(max_chunksize=1 << 15))
    rows = pa.RecordBatchReader.from_batches(some.schema, batches)
    writing.write(here, rows, group_rows=group_rows)
    read, peak_kib = map(int, python(MEMORY, here.location.path, order, timeout_s=110).split())
    assert read == 6 << 19
    assert peak_kib << 10 <= 2 * group_rows * (width + 12) + 64 * MIB


@pytest.mark.parametrize("name", ["pandas", "polars", "numpy", "torch", "dict"])
def test_batches_come_in_the_format_asked_for(here, name: str) -> None:
    """Each has the library's own type, the same values, and the columns in their order."""
    table = pa.table(
        {
            "n": pa.array([1, 2, 3], pa.int32()),
            "x": [0.5, None, 2.5],
            "word": ["a", None, "c"],
            "pair": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int64(), 2)),
            "day": pa.array([0, 1, 2], pa.timestamp("ms")),
        }
    )
    snapshot = writing.write(here, table.to_reader())
    first, last = Stream(here, snapshot, 2, format=name)
    if name == "pandas":
        assert type(first).__module__.startswith("pandas")
        assert list(first.columns) == table.schema.names
        assert first["n"].tolist() == [1, 2]
        assert len(last) == 1
    elif name == "polars":
        assert first.to_dict(as_series=False)["word"] == ["a", None]
        assert last.height == 1
    elif name == "dict":
        assert first == table.slice(0, 2).to_pydict()
        assert last == table.slice(2).to_pydict()
    else:
        assert list(first) == table.schema.names
        assert first["n"].tolist() == [1, 2]
        assert first["x"][0] == 0.5
        assert first["x"][1] != first["x"][1]  # NaN
        assert tuple(first["pair"].shape) == (2, 2)
        assert list(first["word"]) == ["a", None]
        assert last["n"].tolist() == [3]
        if name == "torch":
            assert first["day"].tolist() == [0, 1]
            first["n"][0] = 9  # tensors have memory of their own
            assert next(Stream(here, snapshot, 2, format=name))["n"].tolist() == [1, 2]


def test_a_null_that_has_no_tensor_names_its_column(here) -> None:
    snapshot = writing.write(here, pa.table({"n": [1, None]}).to_reader())
    with pytest.raises(InvalidError, match="'n' is int64 and has a null"):
        list(Stream(here, snapshot, 2, format="torch"))


def test_an_empty_table_has_no_batches(here) -> None:
    """It still has a schema."""
    schema = pa.schema([("n", pa.int64())])
    snapshot = writing.write(here, schema.empty_table().to_reader())
    for options in ({}, {"shuffle_seed": 1}, {"rank": 1, "world_size": 3}, {"drop_last": True}):
        stream = Stream(here, snapshot, 10, **options)
        assert list(stream) == []
        assert stream.schema == schema
