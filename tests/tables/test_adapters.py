"""Each data-frame library's adapter, by the shipped suite, and what is particular to one of them."""

from __future__ import annotations

import datetime
import gc
import os
import pickle
import sqlite3

import datasets
import pandas as pd
import pandas.testing
import polars as pl
import polars.testing
import pyarrow as pa
import pyarrow.dataset
import pytest

import rh
from rh import observe
from rh.errors import ConflictError, InvalidError
from rh.tables import adapters
from rh.testing.tables import TYPES, AdapterSuite
from tests.tables.data import packages, sources
from tests.tables.test_stream import gone, ours

DAY = datetime.date(2026, 1, 1)
MOMENT = datetime.datetime(2026, 1, 1, 5, 6, 7)  # noqa: DTZ001 - without a zone


class TestArrow(AdapterSuite):
    name = "arrow"
    kind = "Table"

    def make(self, table):
        return table

    def same(self, one, other):
        assert one.schema == other.schema
        assert repr(one.to_pydict()) == repr(other.to_pydict())  # NaN is equal to no other

    def bad(self):
        return [(pl.Series("x", [1]), "Series"), (pa.table([[1], [2]], ["x", "x"]), "two columns are called 'x'")]


def endless():
    """A list that holds itself."""
    found: list[object] = []
    found.append(found)
    return found


class TestPandas(AdapterSuite):
    name = "pandas"
    kind = "DataFrame"

    def make(self, table):
        return table.to_pandas()

    def same(self, one, other):
        pandas.testing.assert_frame_equal(one, other)

    def bad(self):
        return [
            (pd.DataFrame({"x": [1, 2], "y": [1, "a"]}), "'y' mixes int, str"),
            (pd.DataFrame({"y": [object()]}), "column 'y'"),
            (pd.DataFrame({"y": ["a", b"b"]}), "'y' does not agree: row 0 has str"),
            (
                pd.DataFrame({"y": pd.Series([DAY, None, MOMENT], dtype=object)}),
                "'y' does not agree: .* row 2 has datetime",
            ),
            (pd.DataFrame({"y": pd.Series([MOMENT, MOMENT.astimezone()], dtype=object)}), "'y' does not agree"),
            (pd.DataFrame([[1, 2]]), "column is text, not int: 0"),
            (pd.DataFrame([[1, 2]], columns=["x", "x"]), "two columns are called 'x'"),
        ]


class TestPandasArrow(TestPandas):
    """Frames in pandas' own Arrow dtypes."""

    lacks = frozenset({"decimal"})

    def make(self, table):
        return table.to_pandas(types_mapper=pd.ArrowDtype)


class TestPandasNullable(TestPandas):
    """Frames in pandas' own nullable dtypes."""

    def make(self, table):
        return table.to_pandas().convert_dtypes()


class TestPolars(AdapterSuite):
    name = "polars"
    kind = "DataFrame"

    def make(self, table):
        return pl.from_arrow(table)

    def same(self, one, other):
        polars.testing.assert_frame_equal(one, other, check_exact=True)

    def bad(self):
        return [
            (pl.DataFrame({"x": [object()]}), "column 'x' holds Python objects"),
            (pl.DataFrame({"x": pl.Series([1], dtype=pl.Int128)}), "column 'x' is Int128"),
            (pl.LazyFrame({"x": ["a"]}).select("y"), "unable to find column"),
            (pl.LazyFrame({"x": ["a"]}).select(pl.col.x.cast(pl.Int64)), "column 'x' for 1 out of 1 values"),
        ]


class TestPolarsLazy(TestPolars):
    """Lazy frames; what comes back is computed."""

    def make(self, table):
        return pl.from_arrow(table).lazy()

    def same(self, one, other):
        super().same(one.lazy().collect(), other.lazy().collect())


class TestHuggingFace(AdapterSuite):
    name = "hf"
    kind = "Dataset"

    def make(self, table):
        return datasets.Dataset(table)

    def same(self, one, other):
        assert one.features == other.features
        assert repr(one.to_dict()) == repr(other.to_dict())

    def bad(self):
        one = datasets.Dataset.from_dict({"x": [1]})
        return [(datasets.DatasetDict({"train": one, "test": one}), "'train', 'test'")]


class TestDict(AdapterSuite):
    name = "dict"
    kind = "dict"
    # Python has one kind of each: what came as another Arrow type comes back as the widest.

    def make(self, table):
        return table.to_pydict()

    def same(self, one, other):
        assert repr(one) == repr(other)

    def bad(self):
        aware = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        naive = aware.replace(tzinfo=None)
        return [
            ({}, "without columns"),
            ({1: [1]}, "not int: 1"),
            ({"x": [1], "y": [1, 2]}, "'x' has 1 rows and 'y' has 2"),
            ({"x": "text"}, "'x' is a str"),
            ({"x": [1, None, "a"]}, "'x' does not agree: row 0 has int .1., row 2 has str .'a'."),
            ({"x": [1, datetime.time()]}, "'x' does not agree: row 1 is time .*, and the rows before it are int64"),
            ({"x": ["a", b"b"]}, "'x' does not agree: row 0 has str .'a'., row 1 has bytes"),
            ({"x": [1, True]}, "'x' does not agree"),
            ({"x": [naive, aware]}, "'x' does not agree"),
            ({"x": [naive.date(), naive]}, "'x' does not agree: row 0 has date"),
            ({"x": [endless()]}, "'x' is nested too deeply, or holds itself"),
            ({"x": [[{"y": 1}], [{"y": "a"}]]}, r"'x'\['y'\] does not agree: row 0 has int .1., row 1 has str"),
            ({"x": [object()]}, "'x', row 0: object"),
            ({"x": [2**64]}, "'x', row 0: int"),
            ({"x": ["\ud800"]}, "'x', row 0: str"),
        ]


class TestReader(AdapterSuite):
    name = "reader"
    kind = "RecordBatchReader"

    def make(self, table):
        return table.to_reader()

    def same(self, one, other):
        TestArrow().same(one.read_all(), other.read_all())

    def test_not_written(self):
        """It gives its rows once, to whoever asks first."""
        value = self.make(pa.table({"n": range(1_000)}))
        table = rh.table(value)
        assert table.fetch() is value
        with pytest.raises(InvalidError, match="gives its rows only once"):
            table.fetch("reader")
        with rh.table(self.make(pa.table({"n": range(1_000)}))).stream(300) as stream:
            assert [number for batch in stream for number in batch["n"].to_pylist()] == list(range(1_000))
        kept = rh.table(self.make(pa.table({"n": range(10)})))
        assert [kept.fetch(kind)["n"].to_pylist() for kind in ("arrow", "arrow")] == [list(range(10))] * 2
        assert [kept.fetch(kind).read_all().num_rows for kind in (None, "reader")] == [10, 10]
        assert rh.table({"n": [1]}).fetch("reader").read_all().to_pydict() == {"n": [1]}


class TestDataset(AdapterSuite):
    name = "dataset"
    kind = "FileSystemDataset"

    def make(self, table):
        return pyarrow.dataset.dataset(table)

    def same(self, one, other):
        assert isinstance(one, pyarrow.dataset.Dataset)
        TestArrow().same(one.to_table(), other.to_table())


class TestRows(AdapterSuite):
    name = "rows"
    kind = "list"

    def make(self, table):
        return table.to_pylist()

    def same(self, one, other):
        assert repr(one) == repr(other)

    def test_no_rows(self, place):
        """A list without rows has no columns to tell of, and is refused."""
        with pytest.raises(InvalidError, match="says nothing of its columns"):
            rh.table([], path=place).write()

    def bad(self):
        return [
            ([1], "row 0 is a int, not a dict"),
            ([{}], "without columns"),
            ([{"x": 1}, {2: 1}], "not int: 2"),
            ([{"x": 1}, {"y": 1}, {"x": "a"}], "'x' does not agree: row 0 has int .1., row 2 has str"),
        ]


@pytest.mark.slow
def test_packages(tmp_path):
    """A real table (the Debian package index) goes through every library, and from each to the next, unchanged."""
    rows = packages().slice(0, 5_000)
    for name in adapters.names():
        if name in ("dask", "ray"):
            continue  # these have tests of their own, with workers
        table = rh.table(rows, path=tmp_path / name).write()
        again = rh.table(table.fetch(name), path=tmp_path / f"{name}-again").write()
        assert again.native == name
        found = again.to_arrow().cast(rows.schema)
        assert found.to_pylist() == rows.to_pylist()


@pytest.mark.slow
def test_texts(tmp_path):
    """Long texts (the sources of the standard library) come back to the byte."""
    rows = sources()
    table = rh.table(pl.from_arrow(rows), path=tmp_path / "sources").write()
    assert table.fetch().to_arrow().cast(rows.schema).equals(rows)


def test_pandas_index(tmp_path):
    """The index comes back, whatever its kind, also beside the columns that were asked for."""
    frame = packages().slice(0, 100).select(["package", "section", "version", "size_bytes"]).to_pandas()
    for number, indexed in enumerate(
        (
            frame.set_index("package"),
            frame.set_index(["section", "package"]),
            frame.set_index(pd.date_range("2026-01-01", periods=100, tz="Europe/Paris")),
            frame.set_index(pd.RangeIndex(10, 210, 2)),
        )
    ):
        table = rh.table(indexed, path=tmp_path / str(number)).write()
        pandas.testing.assert_frame_equal(table.fetch(), indexed, check_freq=False)
        some = table.fetch(columns=["version"])
        pandas.testing.assert_frame_equal(some, indexed[["version"]], check_freq=False)
    frame.set_index("package").to_parquet(tmp_path / "theirs.parquet")
    theirs = rh.table(path=tmp_path / "theirs.parquet").to_pandas(columns=["version"])
    pandas.testing.assert_frame_equal(theirs, frame.set_index("package")[["version"]])


def test_pandas_range_index_elsewhere(tmp_path):
    """A `RangeIndex` is never put on other rows than its own: those of a filter, a sample, a stream, a partition."""
    frame = pd.DataFrame({"g": list("abab"), "v": [100, 101, 102, 103]}, index=pd.RangeIndex(10, 14))
    table = rh.table(frame, path=tmp_path / "whole").write()
    for mixed in (
        table.sample(4, seed=2),
        next(table.stream(4, format="pandas", shuffle_seed=3)),
        next(table.stream(4, shuffle_seed=3)).to_pandas(),
        table.to_pandas(where=("v", ">", 0)),
        table.to_arrow(where=("v", ">", 0)).to_pandas(),
        table.to_dask().compute(scheduler="synchronous"),
    ):
        assert list(mixed.index) == [0, 1, 2, 3]
    pandas.testing.assert_frame_equal(table.fetch(), frame)

    late = rh.table(path=tmp_path / "appended").write(frame.iloc[2:]).write(frame.iloc[:2], mode="append")
    assert list(late.fetch().index) == [0, 1, 2, 3]
    assert "range" not in late.schema.metadata[b"pandas"].decode()
    for early in (late.fetch(where=("v", "<", 102)), late.head(2), next(late.stream(2, format="pandas"))):
        assert list(early.index) == [0, 1]


def test_pandas_range_index_partitioned(tmp_path):
    """Rows that partitions bring into another order keep the labels that say more than the order."""
    frame = pd.DataFrame({"g": list("abab"), "v": [100, 101, 102, 103]})
    table = rh.table(frame.iloc[1:], path=tmp_path / "t").write(partition_cols=["g"])
    table = table.write(frame.iloc[:1], mode="append")
    found = table.fetch().sort_index()
    pandas.testing.assert_frame_equal(found[["g", "v"]], frame, check_index_type=False)

    counted = rh.table(frame, path=tmp_path / "counted").write(partition_cols=["g"])
    assert counted.schema.names == ["v", "g"]
    assert counted.write(frame.iloc[1:], mode="append").fetch()["v"].to_list() == [100, 102, 101, 103, 102, 101, 103]


def test_pandas_appended(tmp_path):
    """Appended rows go on in the index; rows that are filtered out leave none."""
    table = rh.table(pd.DataFrame({"x": [1, 2]}), path=tmp_path / "t").write()
    table = table.write(pd.DataFrame({"x": [3]}), mode="append")
    pandas.testing.assert_frame_equal(table.fetch(), pd.DataFrame({"x": [1, 2, 3]}))
    pandas.testing.assert_frame_equal(table.fetch(where=[("x", ">", 1)]), pd.DataFrame({"x": [2, 3]}))


@pytest.mark.slow
def test_pandas_categories(tmp_path):
    """Categories keep their order, also those that no row has, of any type, over row groups; new ones are added."""
    kind = pd.CategoricalDtype(["low", "middle", "high", "never"], ordered=True)
    numbers = pd.CategoricalDtype([2**60 + 1, 7, 5])
    frame = pd.DataFrame(
        {
            "level": pd.Series(["high", "low"] * 100_000 + ["middle"], dtype=kind),
            "number": pd.Series([7, None] * 100_000 + [2**60 + 1], dtype=numbers),
        }
    )
    table = rh.table(frame, path=tmp_path / "t").write()
    pandas.testing.assert_frame_equal(table.fetch(), frame)
    table = table.write(frame.iloc[:1].assign(number=pd.Categorical([8])), mode="append")
    assert table.fetch()["number"].iloc[-1] == 8
    assert table.fetch()["number"].cat.categories.tolist() == [2**60 + 1, 7, 5, 8]


def test_pandas_dtypes(tmp_path):
    """Dtypes that Arrow or Parquet do not tell apart come back: text as objects, seconds, periods, intervals."""
    frame = pd.DataFrame(
        {
            "object": pd.Series(["x", None, "y"], dtype=object),
            "text": pd.Series(["x", None, "y"]),
            "seconds": pd.Series(pd.date_range("2026-01-01", periods=3)).dt.as_unit("s"),
            "zone": pd.Series(pd.date_range("2026-01-01", periods=3, tz="Europe/Paris")).dt.as_unit("s"),
            "period": pd.period_range("2026-01", periods=3, freq="M"),
            "interval": pd.interval_range(0, 3),
            "list": [[1, 2], [], None],
        }
    )
    frame.attrs = {"source": "test"}
    fetched = rh.table(frame, path=tmp_path / "t").write().fetch()
    pandas.testing.assert_frame_equal(fetched, frame)
    assert fetched["object"].tolist() == ["x", None, "y"]
    assert fetched.attrs == frame.attrs


@pytest.mark.parametrize("numbers", [[(1 << 53) + 1, None], [None, -(1 << 62) - 1], [1, None]])
def test_whole_numbers_beside_nulls(tmp_path, numbers):
    """As fractions, where those hold them; none is rounded."""
    table = rh.table({"n": numbers}, path=tmp_path / "t").write()
    for frame in (table.to_pandas(), next(table.stream(2, format="pandas"))):
        assert (frame["n"].dtype == "float64") == (numbers == [1, None])
        assert [None if pd.isna(one) else int(one) for one in frame["n"]] == numbers
    (batch,) = table.stream(2, format="numpy")
    assert [None if pd.isna(one) else int(one) for one in batch["n"]] == numbers


def test_polars_types(tmp_path):
    """What only polars has comes back: Categorical, Enum, fixed arrays, unsigned numbers, durations."""
    frame = pl.DataFrame(
        {
            "categorical": pl.Series(["a", None, "b"], dtype=pl.Categorical),
            "enum": pl.Series(["y", "x", None], dtype=pl.Enum(["x", "y", "z"])),
            "array": pl.Series([[1, 2], None, [3, 4]], dtype=pl.Array(pl.UInt16, 2)),
            "duration": pl.Series([1, None, 3], dtype=pl.Duration("ms")),
            "time": pl.Series([datetime.time(1), None, datetime.time(23, 59)]),
        }
    )
    table = rh.table(frame, path=tmp_path / "t").write()
    polars.testing.assert_frame_equal(table.fetch(), frame)
    assert table.fetch().schema == frame.schema


def test_polars_lazy(tmp_path):
    """A query of polars is computed as it is written, and its rows are in order."""
    frame = pl.from_arrow(packages()).lazy().filter(pl.col.section == "python").select("package", "tags")
    table = rh.table(frame, path=tmp_path / "t").write()
    polars.testing.assert_frame_equal(table.fetch(), frame.collect())


def test_features(tmp_path):
    """Features of Hugging Face survive: labels with names, arrays, sequences; selections are what was selected."""
    features = datasets.Features(
        {
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "text": datasets.Value("string"),
            "array": datasets.Array2D((2, 2), "float32"),
            "tokens": datasets.List(datasets.Value("int32")),
        }
    )
    array = [[1.0, 2.0], [3.0, 4.0]]
    data = {"label": [0, 1, 1], "text": ["a", None, "c"], "array": [array] * 3, "tokens": [[1], [], [2, 3]]}
    whole = datasets.Dataset.from_dict(data, features=features)
    fetched = rh.table(whole, path=tmp_path / "t").write().fetch()
    assert fetched.features == features
    assert fetched.to_list() == whole.to_list()
    chosen = rh.table(whole.select([2, 0]), path=tmp_path / "chosen").write()
    assert chosen.fetch()["text"][:] == ["c", "a"]
    assert chosen.fetch(columns=["label"]).features == {"label": features["label"]}


def test_a_type_that_hugging_face_has_not(tmp_path):
    table = rh.table(
        pa.table({"n": [1], "id": pa.array([b"0123456789abcdef"], pa.uuid())}), path=tmp_path / "t"
    ).write()
    with pytest.raises(InvalidError, match=r"cannot be a Dataset: .*uuid"):
        table.to_hf()
    assert table.to_hf(columns=["n"])["n"][:] == [1]


@pytest.mark.slow
def test_iterable_dataset(tmp_path):
    """A dataset of Hugging Face that can only be iterated over is taken; what comes back is a Dataset."""
    made = datasets.IterableDataset.from_generator(lambda: ({"x": n, "y": str(n)} for n in range(12_000)))
    fetched = rh.table(made, path=tmp_path / "t").write().fetch()
    assert isinstance(fetched, datasets.Dataset)
    assert fetched["x"][:] == list(range(12_000))
    mixed = datasets.IterableDataset.from_generator(lambda: ({"x": n if n < 11_000 else "n"} for n in range(12_000)))
    with pytest.raises(InvalidError, match="do not agree"):
        rh.table(mixed, path=tmp_path / "mixed").write()
    assert not rh.table(path=tmp_path / "mixed").exists_in_system()


def test_arrow_kinds(tmp_path):
    """Everything of pyarrow's that has rows is taken, and so is anything that hands out an Arrow stream or array."""

    class Stream:
        def __arrow_c_stream__(self, requested_schema=None):
            return rows.__arrow_c_stream__(requested_schema)

    class Array:
        def __arrow_c_array__(self, requested_schema=None):
            return rows.to_batches()[0].__arrow_c_array__(requested_schema)

    rows = packages().slice(0, 100).combine_chunks()
    scanner = pyarrow.dataset.dataset(rows).scanner(columns=rows.column_names)
    for number, value in enumerate((rows.to_batches()[0], scanner, Stream(), Array())):
        table = rh.table(value, path=tmp_path / str(number)).write()
        assert table.native == "arrow"
        assert table.fetch().equals(rows)


@pytest.mark.parametrize("system", ["s3", "ssh-a"])
def test_what_is_read_as_it_is_asked_for(world, tmp_path, system):
    """A reader and a dataset come back as such, by the saved name too, and are over the files, not in memory."""
    rows = pa.table({"n": range(400_000), "k": [n // 50_000 for n in range(400_000)]})
    given = {"reader": rows.to_reader(), "dataset": pyarrow.dataset.dataset(rows)}
    for kind, value in given.items():
        path = f"{world[system]}/{kind}"
        rh.table(value, name=f"{system}-{kind}", path=path, partition_cols=["k"]).save()
        table = rh.table(name=f"{system}-{kind}")
        assert len(table.opened_files()[1].files) == 8
        with observe.counting() as counts:
            found = table.fetch()
        assert counts.requests[table.system, "read"] == 1  # the index
        if kind == "reader":
            with observe.counting() as counts:
                assert found.read_next_batch().num_rows == 1 << 16
            assert 0 < counts.requests[table.system, "read"] <= 10  # of about twenty, for eight files
            assert found.read_all().num_rows == 400_000 - (1 << 16)
            assert table.fetch(columns=["n"], where=[("k", "==", 3)]).read_all()["n"].to_pylist() == list(
                range(150_000, 200_000)
            )
        else:
            with observe.counting() as counts:
                assert found.to_table(filter=pyarrow.dataset.field("k") == 3, columns=["n"]).num_rows == 50_000
            assert 0 < counts.requests[table.system, "read"] <= 5
            assert pickle.loads(pickle.dumps(found)).count_rows() == found.to_table().num_rows == 400_000
            part = table.fetch(columns=["n"], where=[("k", "==", 3)])
            assert part.to_table()["n"].to_pylist() == list(range(150_000, 200_000))
        assert table.to("here", path=tmp_path / kind).native == kind
        assert isinstance(table.head(2), pa.Table)


def test_a_reader_that_is_left(tmp_path):
    """Nothing is left behind it: no thread, no file; what changed meanwhile is told as ever."""
    table = rh.table(pa.table({"n": range(1_000_000)}).to_reader(), path=tmp_path / "t").write()
    open_before = len(os.listdir("/proc/self/fd"))
    with table.fetch() as reader:
        assert reader.schema == table.schema
        next(reader)
        assert ours()
    del reader
    gc.collect()
    assert gone()
    assert len(os.listdir("/proc/self/fd")) <= open_before
    reader = table.fetch()
    table.write(pa.table({"n": [1]}), mode="overwrite")
    with pytest.raises(ConflictError):
        reader.read_all()


def test_whose_rows_are_handed_on(tmp_path):
    """A table written as another one is of the same type; what a query gives is a table, or a reader where asked."""
    table = rh.table(pd.DataFrame({"n": [1, 2]}), path=tmp_path / "one").write()
    assert rh.table(path=tmp_path / "two").write(table).native == "pandas"
    assert rh.table(table, path=tmp_path / "three").write().native == "pandas"
    assert rh.table(path=tmp_path / "four").write(rh.table(path=tmp_path / "one")).native == "arrow"
    with sqlite3.connect(tmp_path / "x.db") as db:
        db.execute("create table t as select 1 as n union all select 2")
    db.close()
    query = rh.table(query="select n from t", system=f"sqlite:///{tmp_path}/x.db")
    assert query.to(path=tmp_path / "five").fetch().to_pydict() == {"n": [1, 2]}
    with query.fetch("reader", where=[("n", ">", 1)]) as reader:
        assert reader.read_all().to_pydict() == {"n": [2]}
    assert query.fetch("dataset").to_table().to_pydict() == {"n": [1, 2]}


def test_a_dataset_of_files_of_others_is_held_against_the_table(tmp_path):
    """It is read at once: what pyarrow alone would pass over is an error."""
    (tmp_path / "1.jsonl").write_text('{"n": 1}\n')
    (tmp_path / "2.jsonl").write_text('{"n": 2, "m": 1}\n')
    with pytest.raises(InvalidError, match="column 'm'"):
        rh.table(path=tmp_path).fetch("dataset")
    assert rh.table(path=tmp_path).fetch("dataset", columns=["n"]).to_table().to_pydict() == {"n": [1, 2]}
    assert rh.table({"n": [1]}).fetch("dataset").to_table().to_pydict() == {"n": [1]}


def test_python_values(tmp_path):
    """Rows may have different columns; numbers and moments lose nothing."""
    fetched = rh.table([{"a": 1}, {"b": "x", "a": 2.5}, {}], path=tmp_path / "rows").write().fetch()
    assert fetched == [{"a": 1.0, "b": None}, {"a": 2.5, "b": "x"}, {"a": None, "b": None}]
    moments = {"ns": [pd.Timestamp(1), None], "big": [2**64 - 1, 0], "delta": [pd.Timedelta(1), None]}
    table = rh.table(moments, path=tmp_path / "moments").write()
    assert [field.type for field in table.schema] == [pa.timestamp("ns"), pa.uint64(), pa.duration("ns")]
    assert table.fetch() == moments


def test_not_a_table():
    """What no library owns is refused with its type and what is taken; so is a name that there is not."""
    with pytest.raises(InvalidError, match=r"builtins\.int is not a table[^$]*pandas"):
        adapters.owner_of(5)
    with pytest.raises(InvalidError, match=r"'panda'; did you mean 'pandas'"):
        adapters.named("panda")


def test_nothing_is_imported(python):
    """To find the owner of a value loads no data-frame library."""
    code = (
        "import sys; from rh.tables.adapters import owner_of; assert owner_of({'x': [1]}).name == 'dict'; "
        "print(sorted({'pandas', 'polars', 'dask', 'ray', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    assert python(code) == "[]\n"


def test_every_type_is_tried():
    """The suite's table of types has a column for every adapter's declared gap."""
    for suite in (TestPandas, TestPandasArrow, TestPolars, TestHuggingFace, TestDict):
        assert suite.lacks | suite.lacks_when_empty <= set(TYPES)
