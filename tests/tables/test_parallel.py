"""Dask and Ray: the shipped suite, and that their workers write and read by themselves."""

from __future__ import annotations

import datetime
import os
import secrets
import shutil
import tempfile
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

import dask
import dask.dataframe as dd
import distributed
import pandas as pd
import pandas.testing
import pyarrow as pa
import pytest
import ray
import ray.data

import rh
from rh import config
from rh.errors import InvalidError, RemoteError, UnsupportedError
from rh.observe import Counts, counting
from rh.tables.workers import Part, Reach, Source
from rh.testing.tables import AdapterSuite
from tests.tables.data import packages

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`use_.*deprecated:DeprecationWarning:ray.data.context"),
]

ROOT = Path(__file__).resolve().parents[2]


# Dask


class TestDask(AdapterSuite):
    """With Dask's threads, in this process."""

    name = "dask"
    kind = "DataFrame"

    def make(self, table):
        return dd.from_pandas(table.to_pandas(types_mapper=pd.ArrowDtype), npartitions=2, sort=False)

    def same(self, one, other):
        assert one.dtypes.equals(other.dtypes)
        pandas.testing.assert_frame_equal(one.compute().reset_index(drop=True), other.compute().reset_index(drop=True))

    def bad(self):
        frame = pd.DataFrame([[1, 2]])
        return [
            (dd.from_pandas(frame, npartitions=1), "column is text, not int: 0"),
            (dd.from_pandas(frame.set_axis(["x", "x"], axis=1), npartitions=1), "two columns are called 'x'"),
        ]


@pytest.fixture(autouse=True, scope="module")
def _pool():
    """The threads of Dask's default scheduler end with the module."""
    yield
    pool, dask.threaded.default_pool = dask.threaded.default_pool, None
    if pool is not None:
        pool.shutdown()


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Two Dask workers, each a process of its own with settings of its own."""
    home = str(tmp_path_factory.mktemp("worker"))
    cluster = distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",  # a port of its own: another cluster may have the usual one
        local_directory=home,
        env={"HOME": home, "RH_HOME": f"{home}/.rh", "AWS_EC2_METADATA_DISABLED": "true"},
    )
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def lake(s3_server):
    """A bucket that only this process has a name for: the URL of a place of this test's own in it."""
    config.register("lake", s3_server.settings(root=f"s3://{s3_server.buckets[0]}/t{secrets.token_hex(6)}"))
    return "lake"


def rows_of(number: int) -> pd.DataFrame:
    """A partition of 100,000 rows that is made where it is computed, and says in which process."""
    values = pd.RangeIndex(number * 100_000, (number + 1) * 100_000).to_series(index=pd.RangeIndex(100_000))
    return pd.DataFrame({"x": values, "y": (values * 2654435761) % 2**32, "process": os.getpid()})


_counts = Counts()
_blocks = []


def begin_counting() -> None:
    """On a worker: count from now on."""
    block = counting()
    globals()["_counts"] = block.__enter__()
    _blocks.append(block)


def counted() -> tuple[int, int]:
    """On a worker: bytes it has sent and received since."""
    return sum(_counts.sent.values()), sum(_counts.received.values())


def test_dask_workers_move_the_rows(workers, lake):
    """The workers store and read the rows themselves, in a place that only the caller knew; none passes it."""
    frame = dd.from_map(rows_of, range(6), meta=rows_of(0).iloc[:0])
    table = rh.table(frame, path="table", system=lake)
    workers.run(begin_counting)
    with workers.as_current(), counting() as mine:
        table = table.write()
        processes = set(workers.run(os.getpid).values())
        size = table.size()
        whole = table.to_dask()
        found = whole.groupby("process").x.agg(["sum", "count"]).compute()
    sent, received = (sum(values) for values in zip(*workers.run(counted).values(), strict=True))
    assert set(found.index) <= processes
    assert found["count"].sum() == 600_000
    assert found["sum"].sum() == sum(range(600_000))
    assert size > 2_000_000
    assert sent == size
    assert size / 10 < received < size * 2 / 3  # of the column that is not asked for, nothing
    assert sum(mine.sent.values()) < 20_000
    assert sum(mine.received.values()) < 40_000


def test_dask_order_and_schema(workers, lake):
    """The order of the partitions is the order of the rows, for every reader."""
    frame = dd.from_map(rows_of, range(3), meta=rows_of(0).iloc[:0])
    with workers.as_current():
        table = rh.table(frame, path="table", system=lake).write()
    assert table.to_arrow(columns=["x"])["x"].to_pylist() == list(range(300_000))
    assert [len(batch) for batch in table.stream(130_000)] == [130_000, 130_000, 40_000]


def fails_on_two(number: int) -> pd.DataFrame:
    if number == 2:
        raise ZeroDivisionError("the second")
    return rows_of(number)


def test_dask_failure(workers, lake):
    """A partition that cannot be computed is an error with its cause; no file of the write stays, and no table."""
    frame = dd.from_map(fails_on_two, range(4), meta=rows_of(0).iloc[:0])
    for where in (workers.as_current(), nullcontext()):  # processes, and this one's threads
        with where, pytest.raises(RemoteError, match="ZeroDivisionError: the second") as caught:
            rh.table(frame, path="table", system=lake).write()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert list(rh.folder(path="table", system=lake).handle().list()) == []


def test_dask_misfit(tmp_path):
    """A partition whose values are of another type than the first's is refused, by column; nothing stays."""
    with dask.config.set({"dataframe.convert-string": False}):
        parts = [pd.DataFrame({"x": [1], "y": [["a"]]}), pd.DataFrame({"x": [2], "y": [5]})]
        frame = dd.from_map(lambda part: part, parts, meta=parts[0].iloc[:0])
        with pytest.raises(InvalidError, match="column 'y'"):
            rh.table(frame, path=tmp_path / "t").write()
    assert [path for path in (tmp_path / "t").rglob("*") if path.is_file()] == []


def test_dask_objects(tmp_path):
    """Columns of Python objects have the type that the first value tells, in whichever partition it is."""
    with dask.config.set({"dataframe.convert-string": False}):
        parts = [pd.DataFrame({"y": [None, None]}, dtype=object), pd.DataFrame({"y": [[1, 2], None]}, dtype=object)]
        frame = dd.from_map(lambda part: part, parts, meta=parts[0].iloc[:0])
        table = rh.table(frame, path=tmp_path / "t").write()
    assert table.to_arrow().to_pydict() == {"y": [None, None, [1, 2], None]}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, 1.5),
        (datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1, 5)),  # noqa: DTZ001 - without a zone
        (datetime.datetime(2026, 1, 1), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)),  # noqa: DTZ001
        ("a", b"b"),
    ],
)
def test_dask_objects_of_several_types(tmp_path, first, second):
    """Those of the second partition are not made values of the first one's type."""
    with dask.config.set({"dataframe.convert-string": False}):
        parts = [pd.DataFrame({"y": [value, None]}, dtype=object) for value in (first, second)]
        frame = dd.from_map(lambda part: part, parts, meta=parts[0].iloc[:0])
        with pytest.raises(InvalidError, match="column 'y' is object and cannot be"):
            rh.table(frame, path=tmp_path / "t").write()


def test_dask_values_that_pandas_holds_as_objects(tmp_path):
    """Dask makes text of objects, and NumPy rounds whole numbers beside nulls."""
    tensor = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int8(), (2,)), pa.array([[1, 2], None], pa.list_(pa.int8(), 2))
    )
    rows = pa.table(
        {
            "known": [True, None],
            "id": pa.array([b"0123456789abcdef", None], pa.uuid()),
            "tensor": tensor,
            "n": [(1 << 53) + 1, None],
        }
    )
    table = rh.table(rows, path=tmp_path / "t").write()
    again = rh.table(table.to_dask(), path=tmp_path / "again").write()
    assert again.to_arrow().to_pydict() == rows.to_pydict()


def test_dask_index(tmp_path):
    """An index with a name, or of other than whole numbers, comes back; one that counts rows is not kept."""
    frame = packages().slice(0, 1_000).select(["package", "version"]).to_pandas()
    indexed = dd.from_pandas(frame.set_index("package"), npartitions=3)
    named = rh.table(indexed, path=tmp_path / "named").write()
    pandas.testing.assert_frame_equal(named.fetch().compute(), indexed.compute())
    days = frame.set_index(pd.date_range("2026-01-01", periods=1_000))
    dated = rh.table(dd.from_pandas(days, npartitions=3), path=tmp_path / "dated").write()
    pandas.testing.assert_frame_equal(dated.fetch().compute(), days, check_freq=False, check_dtype=False)
    plain = rh.table(dd.from_pandas(frame, npartitions=3), path=tmp_path / "plain").write()
    assert plain.schema.names == ["package", "version"]


def test_dask_categories(tmp_path):
    """Categories of all partitions come back, known when they are read."""
    kinds = pd.DataFrame({"kind": pd.Categorical(["a", "b"] * 500 + ["c", "d"] * 500)})
    table = rh.table(dd.from_pandas(kinds, npartitions=4), path=tmp_path / "t").write()
    assert table.fetch().compute()["kind"].astype(str).tolist() == kinds["kind"].astype(str).tolist()


def test_dask_partitions(tmp_path):
    """Partition columns lay the files of every worker, and a filter skips those that cannot match."""
    frame = dd.from_pandas(packages().select(["package", "section"]).to_pandas(), npartitions=3)
    table = rh.table(frame, path=tmp_path / "t", partition_cols=["section"]).write()
    some = table.to_dask(where=[("section", "==", "python")])
    assert some.npartitions == len([file for file in table.opened_files()[1].files if file.values == ("python",)])
    expected = packages().to_pandas().query("section == 'python'").package
    assert sorted(some.compute().package) == sorted(expected)


def test_memory_of_another_process(workers):
    """Rows in this process's memory cannot be read by workers elsewhere, and the error says so."""
    table = rh.table({"x": [1]}, path=f"memory://{secrets.token_hex(4)}/t").write()
    with workers.as_current(), pytest.raises(UnsupportedError, match="memory of another process"):
        table.to_dask().compute()


# What both are told


def test_shares_of_a_file(tmp_path):
    """Tasks that share a file have each of its row groups once, in their order, filtered alike."""
    rows = pa.table({"x": range(300_000)})
    system, snapshot = rh.table(rows, path=tmp_path / "t").write().opened_files()
    (file,) = snapshot.files
    source = Source.of(system.location, snapshot, ["x"], [("x", ">=", 150_000)])
    shares = [source.read(Part(file, number, 4))["x"].to_pylist() for number in range(4)]
    assert list(chain(*shares)) == list(range(150_000, 300_000))
    assert len([share for share in shares if share]) == 2


def test_settings_travel(tmp_path):
    """A worker that knows another system by the same name keeps it; what was sent gets a name beside it."""
    config.register("lake", {"kind": "s3", "endpoint_url": "http://one.example"})
    reach = Reach.of(rh.types.Location("lake", "bucket/t"))
    assert reach.here() == reach.location
    config.register("lake", {"kind": "s3", "endpoint_url": "http://two.example"})
    found = reach.here()
    assert found.system != "lake"
    assert config.system(found.system)["endpoint_url"] == "http://one.example"
    assert config.system("lake")["endpoint_url"] == "http://two.example"
    assert reach.here() == found
    assert "one.example" not in repr(reach)


# Ray


@pytest.fixture(scope="module")
def cluster():
    """A Ray of two CPUs that ends with this module."""
    home = tempfile.mkdtemp(prefix="rh-ray-")  # names of its sockets have to be short
    before = dict(os.environ)
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "HOME": home, "RH_HOME": f"{home}/.rh"}
    try:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=200 << 20,
            _temp_dir=home,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "AWS_EC2_METADATA_DISABLED": "true"}},
        )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        yield
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ |= before
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.usefixtures("cluster")
class TestRay(AdapterSuite):
    name = "ray"
    kind = "Dataset"

    def make(self, table):
        half = table.num_rows // 2
        return ray.data.from_arrow([table.slice(0, half), table.slice(half)] if half else table)

    def same(self, one, other):
        one, other = self.table(one), self.table(other)
        assert one.schema.equals(other.schema)
        assert repr(one.to_pydict()) == repr(other.to_pydict())

    @staticmethod
    def table(dataset):
        blocks = list(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
        return pa.concat_tables(blocks) if blocks else dataset.schema().base_schema.empty_table()

    def bad(self):
        return [(ray.data.from_items([]), "no columns")]


def rows_of_block(batch):
    """Rows that are made in Ray's task, and say in which process."""
    (number,) = batch["id"]
    return {"x": rows_of(int(number))["x"].to_numpy(), "process": [os.getpid()] * 100_000}


def test_ray_tasks_move_the_rows(cluster, lake):
    """Ray's tasks store and read the rows themselves, in a place that only the caller knew; none passes it."""
    made = ray.data.range(4, override_num_blocks=4).map_batches(rows_of_block, batch_size=1)
    with counting() as mine:
        table = rh.table(made, path="table", system=lake).write()
        size = table.size()
        found = table.to_ray()
        assert found.count() == 400_000
        sums = found.map_batches(lambda batch: {"sum": [batch["x"].sum()]}, batch_size=None).take_all()
        assert sum(int(row["sum"]) for row in sums) == sum(range(400_000))
    assert size > 400_000
    assert sum(mine.sent.values()) < 20_000
    assert sum(mine.received.values()) < 40_000
    processes = set(table.to_arrow(columns=["process"])["process"].to_pylist())
    assert os.getpid() not in processes


def fails(batch):
    raise ZeroDivisionError("in a task")


def test_ray_failure(cluster, lake):
    """A task that fails is an error with its cause; no file of the write stays, and no table."""
    made = ray.data.range(4, override_num_blocks=4).map_batches(fails)
    with pytest.raises(RemoteError, match="ZeroDivisionError"):
        rh.table(made, path="table", system=lake).write()
    assert list(rh.folder(path="table", system=lake).handle().list()) == []


def test_ray_packages(cluster, tmp_path):
    """A real table with nested columns goes through Ray's tasks unchanged, laid by a column."""
    rows = packages().slice(0, 4_000)
    table = rh.table(ray.data.from_arrow(rows), path=tmp_path / "t", partition_cols=["section"]).write()
    found = TestRay.table(table.to_ray()).sort_by("package")
    assert found.select(rows.column_names).to_pylist() == rows.sort_by("package").to_pylist()
