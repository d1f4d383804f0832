"""Streams of a table's batches: ours, pyarrow's own three ways over the same files, and what else people use.

`python -m benchmarks.tables PROGRAM ARGUMENTS RESULT` is one timed run, in a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

from benchmarks.peers import Contestant
from benchmarks.programs import Job
from benchmarks.programs import _ours as ours
from benchmarks.run import Case, Entrant, FailedError, Run, Runner
from benchmarks.servers import S3, SSH, Local, Place, timed_environment
from benchmarks.shapes import Shape

ROWS = 5_000_000
SIZES = (100, 1_000, 10_000, 100_000)
FEWER = 10
"""Peers that take very long stream one row of so many; their time is told as if they had streamed all."""
PLACES: tuple[type[Place], ...] = (Local, S3, SSH)
_ROW_BYTES = 8 + 8 + 16 + 8


@dataclass(frozen=True)
class Batches(Shape):
    """A table of `files` rows of `size` bytes (in memory, about), streamed in batches of `batch` rows."""

    batch: int = 1_000

    @property
    def title(self) -> str:
        return f"{self.files:,} rows, {self.batch:,} at a time"

    @property
    def unit(self) -> str:
        return "rows/s"


class Work(NamedTuple):
    """What one run has to do: `path` and `few` are as the place has them, `url` as `rh` writes it."""

    place: str
    url: str
    path: str
    few: str
    rows: int
    batch: int


Go = Callable[[], int]


@dataclass(frozen=True)
class Rows(Shape):
    """A table of `files` rows of `size` bytes (in memory, about), written, or read as far as its first batch."""

    @property
    def title(self) -> str:
        return f"{self.files:,} rows"

    @property
    def unit(self) -> str:
        return "rows/s"


def rows_of(rows: int) -> Any:
    """A `pyarrow.Table` of integers, floats, texts and times."""
    import numpy as np
    import pyarrow as pa

    draw = np.random.default_rng(7)
    names = np.char.add("user-", np.char.zfill((np.arange(rows) * 7919 % 1_000_003).astype(str), 7))
    begun = np.datetime64("2024-01-01", "us")
    return pa.table(
        {
            "id": np.arange(rows),
            "x": draw.standard_normal(rows),
            "name": pa.array(names.astype(object), pa.string()),
            "time": begun + draw.integers(0, 10**13, rows).astype("timedelta64[us]"),
        }
    )


def make(place: Place, rows: int) -> None:
    """Write, by `rh`, a table as `all`, and a tenth of it as `few`."""
    from rh import config
    from rh.systems import locate, open_system
    from rh.tables import writing

    if place.settings():
        config.register(place.system, place.settings())
    table = rows_of(rows)
    for name, some in (("all", table), ("few", table.slice(0, max(1, rows // FEWER)))):
        writing.write(open_system(locate(place.url(name))), some.to_reader())


# Programs


def rh(work: Work, **options: Any) -> Go:
    import msgspec  # noqa: F401 - imports are nobody's time
    import numpy as np  # noqa: F401
    import pyarrow.compute as pc  # noqa: F401
    import pyarrow.parquet as pq  # noqa: F401

    from rh.systems import locate, open_system
    from rh.tables import store
    from rh.tables.stream import Stream

    system = open_system(locate(work.url))
    if work.place != "local":
        ours(Job(system.location.system, work.path, work.url, "local", "", ""))

    def go() -> int:
        with Stream(system, store.look(system), work.batch, **options) as stream:
            return sum(batch.num_rows for batch in stream)

    return go


def rh_shuffled(work: Work) -> Go:
    return rh(work, shuffle_seed=7)


def rh_write(work: Work) -> Go:
    import pyarrow.parquet as pq  # noqa: F401

    import rh

    table = rows_of(work.rows)
    if work.place != "local":
        ours(Job(work.place, work.path, work.url, "local", "", ""))

    def go() -> int:
        return int(rh.table(table, path=work.url).write().num_rows)

    return go


def write_table(work: Work) -> Go:
    # The server takes no chunked bodies, in which newer clients send checksums.
    os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"
    import pyarrow.parquet as pq

    table = rows_of(work.rows)

    def go() -> int:
        files = _filesystem(work)
        if work.place == "local":
            files.create_dir(work.path, recursive=True)
        pq.write_table(table, f"{work.path}/part.parquet", filesystem=files)
        return int(table.num_rows)

    return go


def _filesystem(work: Work) -> Any:
    from pyarrow import fs

    if work.place != "s3":
        return fs.LocalFileSystem()
    endpoint = urlparse(os.environ["S3_ENDPOINT_URL"])
    return fs.S3FileSystem(
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=endpoint.netloc,
        scheme=endpoint.scheme,
        region="us-east-1",
    )


def _files(files: Any, path: str) -> list[str]:
    from pyarrow import fs

    found = files.get_file_info(fs.FileSelector(path, recursive=True))
    return sorted(one.path for one in found if one.path.endswith(".parquet"))


def scanner(work: Work) -> Go:
    import pyarrow.dataset as ds

    def go() -> int:
        files = _filesystem(work)
        data = ds.dataset(_files(files, work.path), filesystem=files, format="parquet")
        return sum(batch.num_rows for batch in data.to_batches(batch_size=work.batch))

    return go


def iter_batches(work: Work) -> Go:
    import pyarrow.parquet as pq

    def go() -> int:
        files, rows = _filesystem(work), 0
        for path in _files(files, work.path):
            with files.open_input_file(path) as source:
                rows += sum(b.num_rows for b in pq.ParquetFile(source, pre_buffer=True).iter_batches(work.batch))
        return rows

    return go


def row_groups(work: Work) -> Go:
    import pyarrow.parquet as pq

    def go() -> int:
        files, rows = _filesystem(work), 0
        for path in _files(files, work.path):
            with files.open_input_file(path) as source:
                reader = pq.ParquetFile(source, pre_buffer=True)
                for number in range(reader.num_row_groups):
                    group = reader.read_row_group(number)
                    rows += sum(batch.num_rows for batch in group.to_batches(max_chunksize=work.batch))
        return rows

    return go


def hugging_face(work: Work) -> Go:
    import datasets

    paths = _files(_filesystem(work), work.path)

    def go() -> int:
        rows = datasets.load_dataset("parquet", data_files=paths, streaming=True, split="train").with_format("arrow")
        return sum(batch.num_rows for batch in rows.iter(work.batch))

    return go


def ray_data(work: Work) -> Go:
    import ray

    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, object_store_memory=1 << 30)
    ray.data.DataContext.get_current().enable_progress_bars = False
    paths = _files(_filesystem(work), work.few)

    def go() -> int:
        rows = ray.data.read_parquet(paths)
        return sum(len(b) for b in rows.iter_batches(batch_size=work.batch, batch_format="pyarrow"))

    return go


def dask_partitions(work: Work) -> Go:
    import dask.dataframe as dd

    def go() -> int:
        rows = 0
        for part in dd.read_parquet(work.few, split_row_groups=1).partitions:
            frame = part.compute()
            for start in range(0, len(frame), work.batch):
                rows += len(frame.iloc[start : start + work.batch])
        return rows

    return go


def torch_rows(work: Work) -> Go:
    import pyarrow.parquet as pq
    from torch.utils.data import DataLoader, IterableDataset

    paths = _files(_filesystem(work), work.few)

    class Rows(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[dict[str, Any]]:
            for path in paths:
                for batch in pq.ParquetFile(path).iter_batches(columns=["id", "x", "name"]):
                    yield from batch.to_pylist()

    return lambda: sum(len(batch["id"]) for batch in DataLoader(Rows(), batch_size=work.batch))


def rsync_and_scan(work: Work) -> Go:
    import pyarrow.dataset as ds

    def go() -> int:
        target = tempfile.mkdtemp(dir="/dev/shm")
        try:
            ssh = f"ssh -F {os.environ['BENCH_SSH_CONFIG']}"
            subprocess.run(["rsync", "-a", "-e", ssh, f"ssh-a:{work.path}/", f"{target}/"], check=True)
            data = ds.dataset(target, format="parquet", exclude_invalid_files=True)
            return sum(batch.num_rows for batch in data.to_batches(batch_size=work.batch))
        finally:
            shutil.rmtree(target)

    return go


PROGRAMS = {
    function.__name__: function
    for function in (
        rh,
        rh_shuffled,
        scanner,
        iter_batches,
        row_groups,
        hugging_face,
        ray_data,
        dask_partitions,
        torch_rows,
        rsync_and_scan,
        rh_write,
        write_table,
    )
}
_ON_FEW = ("ray_data", "dask_partitions", "torch_rows")
_FEW_NOTE = f", on one row of {FEWER}, its time times {FEWER}"
ROSTER: dict[str, tuple[tuple[str, str, str], ...]] = {
    "local": (
        ("rh", "rh", "table.stream(batch)"),
        ("rh, shuffled", "rh_shuffled", "table.stream(batch, shuffle_seed=7)"),
        ("pyarrow scanner", "scanner", "pyarrow.dataset.dataset(…).to_batches(batch_size)"),
        ("pyarrow iter_batches", "iter_batches", "ParquetFile(…, pre_buffer=True).iter_batches(batch_size)"),
        ("pyarrow row groups", "row_groups", "read_row_group(n).to_batches(max_chunksize)"),
        ("Hugging Face", "hugging_face", 'load_dataset(…, streaming=True).with_format("arrow").iter(batch_size)'),
        ("Ray Data", "ray_data", 'read_parquet(…).iter_batches(batch_format="pyarrow")' + _FEW_NOTE),
        ("Dask", "dask_partitions", "read_parquet(…, split_row_groups=1), partition by partition" + _FEW_NOTE),
        ("torch, row by row", "torch_rows", "IterableDataset of rows under a DataLoader" + _FEW_NOTE),
    ),
    "ssh": (
        ("rh", "rh", "table.stream(batch) from the host"),
        ("rsync, then pyarrow", "rsync_and_scan", "rsync -a to tmpfs, then the dataset scanner"),
    ),
}
ROSTER["s3"] = ROSTER["local"][:5]
WRITERS = (
    ("rh", "rh_write", "rh.table(table, path=…).write(): zstd, statistics, content-defined chunks, digests"),
    ("pyarrow write_table", "write_table", "pyarrow.parquet.write_table with its defaults, one file"),
)
_READ_FIRST = """
import sys
import {module}
assert next(iter({opened}(sys.argv[1]).{batches})).num_rows == 1_000
"""
READERS = (
    (
        "rh",
        _READ_FIRST.format(module="rh", opened="(lambda path: rh.table(path=path))", batches="stream(1_000)"),
        "python -c 'import rh; …stream(1_000)'",
    ),
    (
        "pyarrow scanner",
        _READ_FIRST.format(
            module="pyarrow.dataset",
            opened="(lambda path: pyarrow.dataset.dataset(path, exclude_invalid_files=True))",
            batches="to_batches(batch_size=1_000)",
        ),
        "python -c 'import pyarrow.dataset; …to_batches(batch_size=1_000)'",
    ),
)


def cases(
    runner: Runner, scale: float, *, places: Sequence[str] = ("local", "s3", "ssh"), stems: tuple[str, ...] = ("",)
) -> Iterable[Case]:
    """Time the streams at each place and batch size, of contestants whose names begin with one of `stems`."""
    rows = max(1000, round(ROWS * scale))
    for kind in PLACES:
        if kind.name not in places:
            continue
        with kind(runner.directory) as place:
            make(place, rows)
            for size in (1_000,) if kind is SSH else SIZES:
                yield _case(runner, place, Batches(f"batches-{size}", rows, _ROW_BYTES, batch=size), stems)
            if kind is Local:
                yield _first(runner, place, Rows("first batch", rows, _ROW_BYTES), stems)
            if kind is not SSH:
                yield _written(runner, place, Rows("table", rows, _ROW_BYTES), stems)
            for name in ("all", "few"):
                place.empty(name, new=False)


def _case(runner: Runner, place: Place, shape: Batches, stems: tuple[str, ...]) -> Case:
    chosen = [one for one in ROSTER[place.name] if one[0].startswith(stems)]
    entrants = [Entrant(Contestant(name, program, note)) for name, program, note in chosen]
    found = Case(place.name, type(place).__doc__ or "", shape, "stream", entrants)
    runner.say(f"\n{found.title}")
    work = Work(place.name, place.url("all"), place.path("all"), place.path("few"), shape.files, shape.batch)

    def go(entrant: Entrant) -> Run:
        program = str(entrant.contestant.command)
        run, said = _ran(runner, place, entrant, work)
        few = program in _ON_FEW
        wanted = max(1, work.rows // FEWER) if few else work.rows
        if said.get("rows") != wanted:
            raise FailedError(f"gave {said.get('rows')} rows, not {wanted}")
        return run._replace(wall_s=run.wall_s * FEWER, cpu_s=run.cpu_s * FEWER) if few else run

    runner.rounds_of(entrants, go)
    return found


def _ran(runner: Runner, place: Place, entrant: Entrant, work: Work) -> tuple[Run, dict[str, Any]]:
    """One program on its work, in a process of its own."""
    result = runner.directory / "inner.json"
    program = str(entrant.contestant.command)
    line = [sys.executable, "-m", "benchmarks.tables", program, json.dumps(work), str(result)]
    job = Job(place.system, work.path, work.url, "local", "", "")
    environment = timed_environment(runner.home(entrant, keep=False), place)
    return runner.run(Contestant(entrant.contestant.name, lambda _job: line), job, environment)


def _first(runner: Runner, place: Place, shape: Rows, stems: tuple[str, ...]) -> Case:
    """The first batch of a process, whose start and imports are timed as well."""
    entrants = [Entrant(Contestant(*one)) for one in READERS if one[0].startswith(stems)]
    found = Case(place.name, type(place).__doc__ or "", shape, "first", entrants)
    runner.say(f"\n{found.title}")

    def go(entrant: Entrant) -> Run:
        line = [sys.executable, "-c", str(entrant.contestant.command), place.path("all")]
        job = Job(place.system, place.path("all"), place.url("all"), "local", "", "")
        environment = timed_environment(runner.home(entrant, keep=False), place)
        run, _ = runner.run(Contestant(entrant.contestant.name, lambda _job: line), job, environment)
        return run

    runner.rounds_of(entrants, go)
    return found


def _written(runner: Runner, place: Place, shape: Rows, stems: tuple[str, ...]) -> Case:
    """A table in memory, written."""
    entrants = [Entrant(Contestant(*one)) for one in WRITERS if one[0].startswith(stems)]
    found = Case(place.name, type(place).__doc__ or "", shape, "write", entrants)
    runner.say(f"\n{found.title}")

    def go(entrant: Entrant) -> Run:
        name = runner.new("written")
        work = Work(place.name, place.url(name), place.path(name), "", shape.files, 0)
        try:
            run, said = _ran(runner, place, entrant, work)
        finally:
            place.empty(name, new=False)
        if said.get("rows") != shape.files:
            raise FailedError(f"wrote {said.get('rows')} rows, not {shape.files}")
        return run

    runner.rounds_of(entrants, go)
    return found


def main(program: str, work: str, result: str) -> None:
    """Run one program; `result` gets its wall time, the CPU seconds spent before it, and how many rows it saw."""
    go = PROGRAMS[program](Work(*json.loads(work)))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.perf_counter()
    rows = go()
    wall = time.perf_counter() - begun
    Path(result).write_text(
        json.dumps({"wall_s": wall, "cpu_before_s": usage.ru_utime + usage.ru_stime, "rows": rows}), "utf-8"
    )
    if program == "hugging_face":
        os._exit(0)  # at the end of Python its threads may abort, after all was measured


if __name__ == "__main__":
    main(*sys.argv[1:])
