"""`Table`: a value that says where rows are, written all or nothing, moved with nothing but its own files."""

import copy
import gzip
import io
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

import rh
from rh import errors, observe
from rh.systems import locate, open_system
from rh.tables.base import INDEX, LeftOutWarning

ROWS = {"x": [1, 2, 3, 4], "y": ["a", "b", None, "ü"]}


@pytest.fixture
def table(folder):
    """Rows on each system in turn."""
    return rh.table(ROWS, path=(folder / "rows").url).write()


def test_a_written_table_is_read_everywhere(table, folder):
    assert table.fetch() == ROWS
    assert table.num_rows == len(table) == 4
    assert table.schema == pa.schema({"x": pa.int64(), "y": pa.string()})
    assert table.to_arrow(columns=["y"], where=[("x", ">", 2)]).to_pydict() == {"y": [None, "ü"]}
    assert table.head(2) == {"x": [1, 2], "y": ["a", "b"]}
    assert set(table.sample(3, seed=1)["x"]) < {1, 2, 3, 4}
    assert [batch.num_rows for batch in table.stream(3)] == [3, 1]
    assert pa.table(table).to_pydict() == ROWS
    assert table.exists_in_system()
    assert table.size() == sum(file.size for file in table.opened_files()[1].files)
    assert rh.table(path=table.url) == rh.table(path=(folder / "rows").url)
    assert rh.table(path=table.url).to_arrow().to_pydict() == ROWS


def test_what_is_no_table_says_what_to_do(world, tmp_path):
    (tmp_path / "near").mkdir()
    missing = rh.table(path=tmp_path / "nearr")
    for look in (missing.to_pandas, lambda: missing.num_rows, lambda: missing.schema):
        with pytest.raises(errors.NotFoundError, match="no such directory") as caught:
            look()
        assert caught.value.hint == "did you mean near/?"
    with pytest.raises(errors.NotFoundError, match="has no files: no table") as caught:
        rh.table(path=tmp_path / "near").to_pandas()
    assert "write() makes one" in caught.value.hint
    (tmp_path / "near" / "x.parquet").symlink_to("nowhere.parquet")
    with pytest.raises(errors.NotFoundError, match="cannot be followed") as caught:
        rh.table(path=tmp_path / "near").to_pandas()
    assert "remove the link" in caught.value.hint
    rh.table(ROWS, path=world["s3"] + "/rows").write()
    with pytest.raises(errors.NotFoundError, match="no files here, and so no table") as caught:
        rh.table(path=world["s3"] + "/rowss").to_pandas()
    assert caught.value.hint == "did you mean rows/?"
    assert not missing.exists_in_system()


def test_modes(table):
    with pytest.raises(errors.ExistsError, match="already"):
        table.write(ROWS)
    with pytest.raises(errors.InvalidError, match="nothing to write"):
        table.write()
    more = table.write({"x": [5], "y": ["e"]}, mode="append")
    assert more.num_rows == len(more) == 5
    other = table.write({"z": [1.5]}, mode="overwrite")
    assert other.fetch() == {"z": [1.5]}
    with pytest.raises(errors.InvalidError, match="mode"):
        table.write({"z": [1.5]}, mode="replace")


def test_what_lies_beside_survives_everything(table):
    place = rh.folder(path=table.url)
    place.put({"README.md": b"mine", "deep/other.bin": b"\0"})
    table.write({"z": [1]}, mode="overwrite")
    table.write({"z": [2]}, mode="append").rm()
    assert not table.exists_in_system()
    assert place.get("README.md") == b"mine"
    assert place.get("deep/other.bin") == b"\0"
    with pytest.raises(errors.RhError) as caught:
        table.fetch()
    assert isinstance(caught.value, errors.NotFoundError | errors.InvalidError)


@pytest.mark.parametrize("system", ["s3", "ssh-a", "gs", "azure"])
def test_just_its_own_files_are_moved(world, here, system):
    table = rh.table(ROWS | {"k": [1, 1, 2, 2]}, path=here.path + "/t/rows", partition_cols=["k"]).write()
    rh.folder(path=table.path).put({"notes.txt": b"not the table's", ".hidden": b"neither"})
    plan = table.plan(system, path="moved")
    assert plan.files == 2
    moved = table.to(system, path="moved")
    assert moved.receipt.done == 2
    assert moved.to_arrow().equals(table.to_arrow())
    assert moved.verify()
    assert "notes.txt" not in rh.folder(path=moved.url).ls(full_paths=False)
    with observe.counting() as counts:
        again = table.to(system, path="moved")
    assert again.receipt.done == 0
    assert not any(verb == "write" for _, verb in counts.requests if (_, verb) != ("file", "write"))
    back = moved.to("here", path=here.path + "/back")
    assert back.to_arrow().equals(table.to_arrow())
    grown = table.write({"x": [9], "y": ["n"], "k": [3]}, mode="append")
    assert grown.to(system, path="moved").num_rows == 5
    smaller = table.write({"x": [9], "y": ["n"], "k": [3]}, mode="overwrite")
    assert smaller.to(system, path="moved").fetch() == {"x": [9], "y": ["n"], "k": [3]}
    assert [key for key in rh.folder(path=moved.url).glob("**") if key.endswith(".parquet")] == [
        file.key for file in smaller.opened_files()[1].files
    ]


def test_a_removed_table_is_never_taken_for_what_others_put_beside_it(folder):
    theirs = pa.table({"theirs": [7]})
    place = folder / "shared"
    written = rh.table(ROWS, path=place.url).write().save("shared")
    sink = io.BytesIO()
    pq.write_table(theirs, sink)
    place.put({"theirs.parquet": sink.getvalue()})
    opened = rh.table(path=place.url)
    assert opened.num_rows == 4
    handles = [written, opened, rh.table(name="shared"), pickle.loads(pickle.dumps(written))]
    written.rm()
    for handle in handles:
        for work in (handle.rm, handle.fetch, lambda handle=handle: handle.stream(2), handle.compact):
            with pytest.raises(errors.NotFoundError, match="removed"):
                work()
        assert not handle.exists_in_system()
    fresh = rh.table(ROWS, name="shared", path=place.url)  # it knows nothing; what is saved under its name does
    for handle, mode in [*((one, mode) for one in handles for mode in ("error", "append")), (fresh, "overwrite")]:
        assert place.ls(full_paths=False) == ["theirs.parquet"]
        again = handle.write({"x": [5]}, mode=mode)
        assert again.fetch("dict") == {"x": [5]}
        assert again.write({"x": [6]}, mode="overwrite").fetch("dict") == {"x": [6]}
        again.rm()
    assert rh.table(path=place.url).to_arrow() == theirs


def test_a_place_without_a_table_is_not_found(folder):
    written = rh.table(ROWS, path=(folder / "alone").url).write()
    written.rm()
    for handle in (written, rh.table(path=written.url)):
        for work in (handle.rm, handle.fetch, handle.verify):
            with pytest.raises(errors.NotFoundError):
                work()


def test_files_of_others_are_removed_where_they_were_adopted(here):
    pq.write_table(pa.table({"q": [1]}), os.fspath(here.mkdir().path + "/theirs.parquet"))
    adopted = rh.table(path=here.path, name="theirs").save()
    adopted.rm()
    assert here.ls() == []
    pq.write_table(pa.table({"q": [2]}), os.fspath(here.path + "/more.parquet"))
    assert rh.table(name="theirs").to_arrow().to_pydict() == {"q": [2]}
    appended = rh.table(name="theirs").write({"q": [3]}, mode="append")
    assert appended.to_arrow().to_pydict() == {"q": [2, 3]}
    assert not rh.table(name="theirs").own
    assert appended.save().own
    assert rh.table(name="theirs").own


def test_other_data_in_the_way_are_left_alone(here):
    pq.write_table(pa.table({"q": [1]}), os.fspath(here.mkdir().path + "/theirs.parquet"))
    table = rh.table(ROWS, path=here.path + "/mine").write()
    with pytest.raises(errors.ExistsError, match="other data"):
        table.to(path=here.path)
    with pytest.raises(errors.ExistsError):
        rh.table(ROWS, path=here.path).write()
    assert here.ls(full_paths=False) == ["mine/", "theirs.parquet"]
    with pytest.raises(errors.InvalidError, match="for tables"):
        table.to(path=here.path + "/elsewhere", include=["*.parquet"])


def test_one_file_is_a_table_too(here, world):
    place = here.path + "/x.parquet"
    pq.write_table(pa.table(ROWS), place)
    here.put({"y.csv": b"a;b\n1;2\n", "z.jsonl": b'{"a": 1}\n{"a": 2}\n'})
    table = rh.table(path=place)
    assert table.to_arrow().to_pydict() == ROWS
    assert table.to(path="s3://data/one/").url.endswith("one/x.parquet")
    assert table.to(path="s3://data/renamed.parquet").to_arrow().to_pydict() == ROWS
    assert rh.table(path=here.path + "/y.csv", options={"delimiter": ";"}).to_arrow().to_pydict() == {
        "a": [1],
        "b": [2],
    }
    assert rh.table(path=here.path + "/z.jsonl").num_rows == 2
    with pytest.raises(errors.InvalidError, match="several formats"):
        rh.table(path=here.path).fetch()
    assert rh.table(path=here.path, format="csv", options={"delimiter": ";"}).num_rows == 1
    with pytest.raises(errors.InvalidError, match="one file"):
        rh.table(ROWS, path=here.path + "/new.parquet").write()
    copy = table.to(path=here.path + "/deep/copy.parquet")
    assert os.path.isfile(here.path + "/deep/copy.parquet")
    assert copy.to_arrow().to_pydict() == ROWS
    with pytest.raises(errors.InvalidError, match=r"names a file that ends with \.csv"):
        table.to(path=here.path + "/deep/copy.csv")
    shutil.rmtree(here.path + "/deep")
    table.rm()
    assert here.ls(full_paths=False) == ["y.csv", "z.jsonl"]


def test_rows_that_are_not_written_yet(here):
    table = rh.table(ROWS)
    assert not table.written
    assert table.fetch() is ROWS
    assert table.num_rows == 4
    assert table.head(1) == {"x": [1], "y": ["a"]}
    assert [len(batch) for batch in table.stream(3)] == [3, 1]
    assert sum(len(batch) for batch in table) == 4
    assert table.to_arrow().to_pydict() == ROWS
    assert pickle.loads(pickle.dumps(table)).head(1) == {"x": [1], "y": ["a"]}
    with pytest.raises(errors.InvalidError, match="not written yet"):
        table.config()
    with pytest.raises(errors.InvalidError, match="not written yet"):
        table.plan(path=here.path + "/a")
    assert table.to(path=here.path + "/a").fetch() == ROWS
    assert table.write().path != table.write().path
    stream = rh.table(ROWS).stream(2)  # the table itself is gone at once
    assert [batch["x"].to_pylist() for batch in stream] == [[1, 2], [3, 4]]


def test_a_reader_gives_its_rows_once(here):
    table = rh.table(pa.table(ROWS).to_reader(), path=here.path + "/a")
    assert table.head(1).to_pydict() == {"x": [1], "y": ["a"]}
    assert table.write().num_rows == 4
    once = rh.table(pa.table(ROWS).to_reader(), path=here.path + "/b")
    assert once.write().num_rows == 4
    with pytest.raises(errors.InvalidError, match="only once"):
        once.write(mode="append")


def test_a_reader_that_was_handed_out_is_never_an_empty_table(here):
    def made():
        return rh.table(pa.table(ROWS).to_reader(), path=here.path + "/c")

    for take in (lambda table: table.fetch().read_all(), lambda table: rh.table(table).write()):
        table = made()
        take(table)
        for work in ("fetch", "write", "to_arrow", "stream", "size"):
            with pytest.raises(errors.InvalidError, match="only once"):
                getattr(table, work)()
    table = made()
    assert table.to_arrow() == table.to_arrow() == table.fetch().read_all() == pa.table(ROWS)
    assert table.num_rows == table.write().num_rows == 4
    counted = made()
    assert counted.num_rows == 4
    assert counted.fetch().read_all() == counted.fetch().read_all() == counted.to_arrow() == pa.table(ROWS)
    assert counted.write(mode="overwrite").fetch().read_all() == pa.table(ROWS)


def test_what_is_not_written_is_what_the_method_says(here):
    whole = pa.table(ROWS)
    frame = pl.from_arrow(whole)
    dataset = pa.dataset.dataset(whole)
    for value in (
        whole,
        whole.to_batches()[0],
        whole.to_reader(),
        dataset,
        dataset.scanner(),
        frame.lazy(),
        frame,
        ROWS,
    ):
        table = rh.table(value)
        found = table.to_arrow()
        assert type(found) is pa.Table
        assert found.to_pydict() == ROWS
        assert type(table.to_polars()) is pl.DataFrame
        assert table.to_polars().equals(frame)
    lazy = frame.lazy()
    assert rh.table(whole).to_arrow() is whole
    assert rh.table(lazy).fetch() is lazy
    assert rh.table(lazy, path=here.path + "/lazy").write().fetch().equals(frame)


def test_it_is_saved_by_name_and_found_elsewhere(python):
    saved = rh.table(ROWS, name="rows", metadata={"owner": "ada"}).save()
    assert saved.path.endswith("data/rows")
    assert rh.load("rows") == rh.table(name="rows") == saved
    assert len(rh.table(name="rows")) == 4
    assert type(saved).from_config(saved.config()) == saved
    assert python("import rh; t = rh.table(name='rows', dryrun=True); print(t.fetch()['x'], len(t), t.native)") == (
        "[1, 2, 3, 4] 4 dict\n"
    )
    html = saved._repr_html_()
    assert all(text in html for text in ("rows", "int64", "ada", "4"))
    assert repr(saved) == f"<Table ~/rows at {saved.url}>"
    with pytest.raises(errors.ExistsError, match="overwrite"):
        rh.table(ROWS, name="rows").save()
    with pytest.raises(errors.InvalidError, match="is a table"):
        rh.folder("rows")


def test_what_is_known_without_asking(here):
    table = rh.table(path=here.path + "/never looked at")
    assert table
    assert "never looked at" in repr(table)
    assert table._repr_html_()
    with pytest.raises(TypeError, match="num_rows asks"):
        len(table)
    with pytest.raises(errors.NotFoundError):
        table.num_rows  # noqa: B018
    assert copy.deepcopy(table) == table
    assert hash(table) == hash(copy.copy(table))


def test_a_flipped_bit_is_found(here):
    table = rh.table({"x": list(range(50_000))}, path=here.path + "/t").write()
    (file,) = table.opened_files()[1].files
    place = os.path.join(table.path, file.key)
    data = bytearray(Path(place).read_bytes())
    data[len(data) // 2] ^= 1
    Path(place).write_bytes(data)
    found = table.verify()
    assert not found
    assert [*found.corrupt, *found.modified] == [file.key]
    for opened in (table, rh.table(path=table.path)):
        with pytest.raises(errors.IntegrityError, match="damaged"):
            opened.to_arrow()


@pytest.mark.parametrize("harm", ["changed", "lost"])
@pytest.mark.parametrize("cure", ["restored", "written again"])
def test_a_damaged_table_is_whole_again_by_what_the_error_says(folder, harm, cure):
    table = rh.table(ROWS, name="harmed", path=(folder / "harmed").url).save()
    table.commit()
    (file,) = table.opened_files()[1].files
    place = rh.folder(path=table.url)
    place.rm(contents=[file.key])
    if harm == "changed":
        place.put({file.key: b"no table"})
    with pytest.raises(errors.IntegrityError, match="restore"):
        rh.table(name="harmed").fetch()
    if cure == "restored":
        rh.table(name="harmed").restore("v1")
    else:
        table.write(ROWS, mode="overwrite")
    assert rh.table(name="harmed").fetch() == ROWS
    assert table.verify() or cure == "written again"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"data": 5}, "not a table"),
        ({"data": {"a": [1], "b": [1, 2]}}, None),
        ({"name": "s3://bucket/x", "data": ROWS}, "path="),
        ({}, "needs a name or a place"),
        ({"data": ROWS, "partition_cols": "x"}, "is a list of names"),
        ({"data": ROWS, "partition_cols": 5}, "is a list of names"),
        ({"path": "x", "format": "xml"}, "parquet"),
        ({"query": "select 1"}, "system="),
        ({"query": "select 1", "data": ROWS, "system": "sqlite:///x"}, "without data="),
        ({"data": ROWS, "parameters": [1]}, "query="),
    ],
)
def test_wrong_arguments(arguments, says):
    with pytest.raises(errors.InvalidError, match=says):
        rh.table(**arguments).write()


def test_the_calls_of_runhouse_work_as_written(world, python):
    import pandas as pd

    df = pd.DataFrame({"id": range(250), "text": [f"row {n}" for n in range(250)]})
    my_table = rh.table(data=df, name="~/my_pandas_table", path="/preproc-data/pandas", system="s3", mkdir=True).save()
    assert "/preproc-data/pandas" in my_table.url
    reloaded_table = rh.table(name="~/my_pandas_table", dryrun=True)
    sizes = []
    for batch in reloaded_table.stream(batch_size=100):
        sizes.append(len(batch))
    assert sizes == [100, 100, 50]
    assert reloaded_table.fetch().equals(df)


@pytest.mark.parametrize("name", ["\udcff", "%FF", "//x"])
@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz", "jsonl", "arrow"])
def test_files_whose_names_are_no_text_are_read(ending, name):
    """Arrow takes UTF-8, and unzips by the name."""
    form, _, zipped = ending.partition(".")
    place = open_system(locate(f"memory://{uuid4().hex}"))
    for key, number in ((f"{name}.{ending}", 1), (f"z.{ending}", 2)):
        data = encoded(pa.table({"n": [number]}), form)
        place.write(key, gzip.compress(data) if zipped else data)
    table = rh.table(path=place.url())
    rows = sorted(table.to_arrow()["n"].to_pylist())
    assert rows == sorted(n for batch in table.stream(1) for n in batch["n"].to_pylist()) == [1, 2]
    assert table.to_arrow(where=[("n", ">", 1)]).num_rows == table.sql("select * from t where n > 1").num_rows == 1


def test_a_directory_that_must_be_there(here):
    with pytest.raises(errors.NotFoundError, match="mkdir"):
        rh.table(ROWS, path=here.path + "/missing", mkdir=False).write()
    (here / "there").mkdir()
    assert rh.table(ROWS, path=here.path + "/there", mkdir=False).write().num_rows == 4
    assert INDEX not in (here / "there").ls(full_paths=False)


def test_a_copy_without_its_index_is_taken_as_it_is_only_when_asked(here):
    table = rh.table(ROWS, path=here.path + "/t").write()
    copy = rh.folder(path=table.path).to(path=here.path + "/copy")
    with pytest.raises(errors.NotFoundError, match="no index") as caught:
        rh.table(path=copy.path).fetch()
    assert "format=" in caught.value.hint
    assert rh.table(path=copy.path, format="parquet").to_arrow().to_pydict() == ROWS


@pytest.mark.parametrize("name", ["chunk0", "part-0123456789abcdef0123-00000.parquet"])
def test_rows_are_appended_to_files_that_are_a_table_by_the_format_given_alone(here, name):
    """They would be no part of it from then on."""
    (here / "mixed").put({name: encoded(pa.table({"n": [1]}), "parquet")})
    table = rh.table(path=here.path + "/mixed", format="parquet")
    with pytest.raises(errors.ExistsError, match="already"):
        table.write({"n": [2]})
    assert table.write({"n": [2]}, mode="append").fetch("dict") == {"n": [1, 2]}


def test_what_no_name_says_to_be_a_table_is_not_overwritten(here):
    (here / "t").put({"notes": b"mine"})
    table = rh.table(path=here.path + "/t", format="parquet").write({"n": [2]}, mode="overwrite")
    assert table.fetch("dict") == {"n": [2]}
    assert here.get("t/notes") == b"mine"


def test_a_directory_does_not_become_what_looks_like_one_file(here):
    table = rh.table(ROWS, path=here.path + "/t").write()
    for call in (table.to, table.plan):
        with pytest.raises(errors.InvalidError, match="this path names one file") as caught:
            call(path=here.path + "/x.parquet")
        assert "leave out the ending" in caught.value.hint
    assert not os.path.exists(here.path + "/x.parquet")


def test_a_directory_that_others_named_like_a_file(here):
    """Spark writes such."""
    here.put({"y.parquet/1.parquet": encoded(pa.table({"n": [1]}), "parquet")})
    table = rh.table(path=here.path + "/y.parquet")
    for moved in (table.to(path=here.path + "/z.parquet"), table.to(path=here.path + "/z")):
        assert moved.to_arrow().to_pydict() == {"n": [1]}
    assert os.path.isdir(here.path + "/z.parquet")


def test_parts_appended_with_partitions_are_moved_in_the_order_of_the_rows(here):
    table = rh.table({"n": [1, 2], "k": ["a", "b"]}, path=here.path + "/t", partition_cols=["k"]).write()
    table = table.write({"n": [3, 4], "k": ["b", "a"]}, mode="append")
    assert table.to(path=here.path + "/copy").to_arrow() == table.to_arrow()


WRONG = [5, -1, "x", None, 1.5, [1], {"a": 1}, object(), b"x", [["a"]], ("a",), [None], True]
CALLS = {
    "head": lambda table, wrong: table.head(wrong),
    "head columns": lambda table, wrong: table.head(2, columns=wrong),
    "sample": lambda table, wrong: table.sample(wrong),
    "sample seed": lambda table, wrong: table.sample(1, seed=wrong),
    "sample columns": lambda table, wrong: table.sample(1, columns=wrong),
    "diff": lambda table, wrong: table.diff(wrong),
    "diff keys": lambda table, wrong: table.diff(table, keys=wrong),
    "fetch": lambda table, wrong: table.fetch(wrong),
    "fetch columns": lambda table, wrong: table.fetch(columns=wrong),
    "where": lambda table, wrong: table.fetch(where=wrong),
    "where of one": lambda table, wrong: table.fetch(where=[wrong]),
    "where value": lambda table, wrong: table.fetch(where=[("x", "in", wrong)]),
    "where operator": lambda table, wrong: table.fetch(where=[("x", wrong, 1)]),
    "where column": lambda table, wrong: table.fetch(where=[(wrong, "==", 1)]),
    "sql": lambda table, wrong: table.sql(wrong),
    "sql parameters": lambda table, wrong: table.sql("select * from t where x = ?", parameters=wrong),
    "sql tables": lambda table, wrong: table.sql("select * from t", other=wrong),
    "write": lambda table, wrong: table.write(wrong),
    "write mode": lambda table, wrong: table.write(ROWS, mode=wrong),
    "write partition_cols": lambda table, wrong: table.write(ROWS, mode="overwrite", partition_cols=wrong or 5),
    "compact": lambda table, wrong: table.compact(wrong),
    "torch": lambda table, wrong: table.to_torch(wrong),
    "load_state_dict": lambda table, wrong: table.stream(1).load_state_dict(wrong),
    "query": lambda _table, wrong: rh.table(query=wrong or 5, system="sqlite:///nix.db"),
    "query parameters": lambda _table, wrong: rh.table(
        query="select ?", parameters=wrong, system="duckdb:///no"
    ).fetch(),
    "format": lambda table, wrong: rh.table(path=table.url, format=wrong or "x").fetch(),
    "options": lambda table, wrong: rh.table(path=table.url, format="parquet", options=wrong or 5).fetch(),
    **{
        f"stream {name}": lambda table, wrong, name=name: list(table.stream(**{name: wrong}))
        for name in ("batch_size", "format", "columns", "shuffle_seed", "shuffle_buffer", "prefetch", "rank", "start")
    },
}


@pytest.mark.parametrize("call", CALLS, ids=lambda name: name.replace(" ", "-"))
def test_arguments_of_a_wrong_kind_are_never_a_bare_error_of_python(here, call):
    """Each is an error of ours, or means something after all."""
    table = rh.table(ROWS, path=here.path + "/t").write()
    refused = 0
    for wrong in WRONG:
        try:
            CALLS[call](table, wrong)
        except errors.RhError:
            refused += 1
    assert refused
    assert table.fetch() == ROWS


def test_two_tables_of_any_kind_are_compared(here):
    import pandas as pd
    import polars as pl

    table = rh.table({"x": [1, 2], "y": ["a", "b"]}, path=here.path + "/t").write()
    newer = {"x": [2, 3], "y": ["b", "c"]}
    for other in (newer, pd.DataFrame(newer), pl.DataFrame(newer), pa.table(newer), rh.table(newer)):
        found = table.diff(other)
        assert (found.added, found.removed, found.same, found.columns_changed) == (1, 1, 1, ())
    assert not table.diff(pd.DataFrame({"x": [1, 2], "y": ["a", "b"]}))


def test_a_path_that_is_no_unicode_holds_a_table(here):
    """Only a record cannot have such a path."""
    place = here.path + "/x\udcff"
    table = rh.table({"n": [1]}, path=place).write().write({"n": [2]}, mode="append").compact()
    assert table.verify().ok
    copy = table.to(path=here.path + "/y\udcfe")
    assert rh.table(path=copy.path).fetch("dict") == rh.table(path=place).fetch("dict") == {"n": [1, 2]}
    with pytest.raises(errors.InvalidError, match="not valid Unicode"):
        copy.save("rows")


def test_rows_that_are_appended_come_last(here):
    pq.write_table(pa.table({"n": [1, 2]}), os.fspath(here.mkdir().path + "/zzz.parquet"))
    table = rh.table(path=here.path).write({"n": [3]}, mode="append")
    assert table.fetch("dict") == {"n": [1, 2, 3]}
    assert [batch["n"].to_pylist() for batch in table.stream(2)] == [[1, 2], [3]]


@pytest.mark.slow
def test_a_damaged_footer_is_found_before_arrow_believes_it(here):
    """Arrow ends the process over some footers, so none that was not written here reaches it."""
    rows = pa.table({f"column {n}": pa.array(range(20_000), pa.float64()) for n in range(12)})
    table = rh.table(rows, path=here.path + "/t").write()
    (file,) = table.opened_files()[1].files
    place = Path(table.path) / file.key
    whole = place.read_bytes()
    length = int(file.footer.partition(":")[0])
    assert file.size > 1 << 16
    for at in range(file.size - length, file.size, max(1, length // 40)):
        place.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        damaged = rh.folder(path=table.path).to(path=here.path + "/copy", delete=True, include=["*.parquet"])
        Path(damaged.path, INDEX).write_bytes(Path(table.path, INDEX).read_bytes())
        for read in (lambda t: t.to_arrow(), lambda t: list(t.stream(1000)), lambda t: t.sql("select * from t")):
            with pytest.raises(errors.IntegrityError, match="footer"):
                read(rh.table(path=damaged.path))


def test_a_table_that_other_tools_copied_can_be_read_and_written(here):
    table = rh.table(ROWS, path=here.path + "/t").write()
    shutil.copytree(table.path, here.path + "/copy")
    copy = rh.table(path=here.path + "/copy")
    assert copy.to_arrow().to_pydict() == ROWS
    assert [len(batch) for batch in copy.stream(3)] == [3, 1]
    assert copy.write({"x": [5], "y": ["e"]}, mode="append").num_rows == 5
    assert table.num_rows == 4
    os.rename(table.path, here.path + "/moved")
    assert rh.table(path=here.path + "/moved").verify()


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "arrow"])
@pytest.mark.parametrize("system", ["file", "s3"])
def test_columns_that_only_later_files_have_are_never_left_out_silently(kind, system, world, here):
    """Whoever wants all columns is told of them; whoever names columns gets those."""
    place = rh.folder(path={**world, "file": here.url}[system] + f"/later-{kind}")
    first, second = pa.table({"a": [1, 2]}), pa.table({"a": [3], "b": ["x"]})
    place.put({f"1.{kind}": encoded(first, kind), f"2.{kind}": encoded(second, kind)})
    table = rh.table(path=place.url)
    reads = [
        lambda: list(table.stream(10)),
        lambda: list(table.stream(10, shuffle_seed=1)),
        lambda: table.to_reader().read_all(),
        table.to_arrow,
        lambda: table.to_dask().compute(scheduler="synchronous"),
        lambda: table.sql("select * from t"),
        table.profile,
        lambda: table.sample(3),
    ]
    for read in reads:
        with pytest.raises(errors.InvalidError, match="column 'b' is in this file") as caught:
            read()
        assert f"2.{kind}" in str(caught.value)
    assert sorted(table.to_arrow(columns=["a"])["a"].to_pylist()) == [1, 2, 3]
    assert sum(batch.num_rows for batch in table.stream(10, columns=["a"])) == 3
    assert table.num_rows == 3


def encoded(rows, kind):
    out = io.BytesIO()
    if kind == "parquet":
        pq.write_table(rows, out)
    elif kind == "csv":
        pyarrow.csv.write_csv(rows, out)
    elif kind == "arrow":
        with pa.ipc.new_file(out, rows.schema) as writer:
            writer.write(rows)
    else:
        out.write("".join(json.dumps(row) + "\n" for row in rows.to_pylist()).encode())
    return out.getvalue()


def test_a_restored_table_is_the_version_it_was_restored_from(here):
    """Equal content makes no new version, whoever wrote it, when and how often."""
    table = rh.table({"n": [1, 2]}, name="again", path=(here / "rows").url).write().save()
    first = table.commit()
    table.write({"n": [3]}, mode="append")
    second = table.commit()
    assert second.digest != first.digest
    table.restore("v1")
    assert table.fetch() == {"n": [1, 2]}
    third = table.commit()
    assert (third.label, third.digest) == ("v3", first.digest)
    assert table.commit().label == "v3"


def test_what_is_known_of_a_live_table_is_not_told_of_a_version(here):
    table = rh.table({"n": [1, 2]}, name="grown", path=(here / "rows").url).save()
    table.commit()
    table.write({"n": [3]}, mode="append").save()
    with pytest.raises(TypeError, match="num_rows"):
        len(rh.table(name="grown:v1"))
    assert len(rh.table(name="grown:v1").to(path=here.path + "/copy").save("copy")) == len(rh.table(name="copy")) == 2
    assert len(rh.table(name="grown").restore("v1")) == 2


def adopted(place: rh.Folder, kind: str, **columns) -> rh.Table:
    """A table of one file that others wrote, `a.csv` or `a.parquet`."""
    sink = io.BytesIO()
    (pq.write_table if kind == "parquet" else pa.csv.write_csv)(pa.table(columns), sink)
    place.put({f"a.{kind}": sink.getvalue()})
    return rh.table(path=place.url)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_of_others_are_restored_where_rh_wrote_since(folder, kind):
    place = folder / "mixed"
    adopted(place, kind, x=[1]).save("mixed").commit()
    rh.table(name="mixed").write({"x": [9]}, mode="overwrite").save().commit()
    place.put({"README.md": b"beside"})
    mine = place.ls(full_paths=False)
    for which, rows, files in [
        ("v1", {"x": [1]}, ["README.md", f"a.{kind}"]),
        ("v2", {"x": [9]}, mine),
        ("v1", {"x": [1]}, ["README.md", f"a.{kind}"]),
    ]:
        live = rh.table(name="mixed")
        restored = live.restore(which)
        for table in (live, restored, rh.table(name="mixed"), rh.table(path=place.url)):
            assert table.fetch("dict") == rows
            assert table.verify()
        assert place.ls(full_paths=False) == files
        assert restored.own is (which == "v2")
        assert restored.revision == rh.table(name="mixed").revision
        again = restored.restore(which)
        assert (again.receipt.bytes_moved, again.fetch("dict")) == (0, rows)
        assert restored.commit().digest == restored.at(which).committed_version().digest
    restored.write({"x": [5]}, mode="append" if kind == "parquet" else "overwrite").save()
    rh.table(name="mixed").restore("v1")
    assert rh.table(name="mixed").fetch("dict") == {"x": [1]}


def test_what_came_since_to_files_of_others_goes_when_they_are_restored(here):
    table = adopted(here, "csv", x=[1]).save("grown")
    table.commit()
    here.put({"b.csv": b"x\n2\n", "notes.txt": b"beside"})
    assert table.num_rows == 2
    table.commit()
    assert table.restore("v1").fetch("dict") == {"x": [1]}
    assert here.ls(full_paths=False) == ["a.csv", "notes.txt"]
    assert table.restore("v2").fetch("dict") == {"x": [1, 2]}
    here.rm("a.csv")
    here.rm("b.csv")
    assert table.restore("v1").fetch("dict") == {"x": [1]}


def test_a_copy_of_files_of_others_takes_the_place_of_a_table(folder):
    place = folder / "own"
    rh.table(ROWS, path=(folder / "first").url).write().to(path=place.url)
    place.put({"notes.txt": b"beside"})
    source = adopted(folder / "theirs", "csv", x=[1, 2])
    copy = source.to(path=place.url)
    for table in (copy, rh.table(path=place.url)):
        assert table.fetch("dict") == {"x": [1, 2]}
        assert table.verify()
    assert place.ls(full_paths=False) == ["a.csv", "notes.txt"]
    assert source.to(path=place.url).receipt.done == 0


@pytest.mark.parametrize("own", [True, False])
def test_what_would_become_rows_stops_a_copy_of_files_of_others(here, own):
    """What lies beside a table that `rh` wrote is none of its rows, and would be when its index is gone."""
    place = here / "shared"
    if own:
        rh.table(ROWS, name="shared", path=place.url).save()
    place.put({"theirs.csv": b"x\n7\n", "theirs.jsonl": b'{"x": 8}\n'})
    before = place.digest()
    source = adopted(here / "theirs", "csv", x=[1, 2])
    with pytest.raises(errors.ExistsError, match="other data"):
        source.to(path=place.url)
    assert place.digest() == before
    if own:
        rh.table(name="shared").commit()
        source.save("source").commit()
        source.save("source").export(here.path + "/source.rh")
        rh.table(name="shared").import_(here.path + "/source.rh")
        with pytest.raises(errors.ExistsError, match="other data"):
            rh.table(name="shared").restore("v2")
        assert place.digest() == before
        assert rh.table(name="shared").restore("v1").fetch() == ROWS


class CutError(Exception):
    pass


@pytest.mark.parametrize("given", [None, "parquet"])
def test_a_restore_that_is_cut_off_never_shows_other_rows(here, monkeypatch, given):
    """Whatever step it ends at: the rows are the old or the new ones, or it is an error; the next call completes."""
    adopted(here, "parquet", x=[1]).save("cut").commit()
    system = type(here.handle())
    left = -1

    def counted(real):
        def step(*args, **options):
            nonlocal left
            left -= 1
            if not left:
                raise CutError
            return real(*args, **options)

        return step

    def seen():
        for reader in (rh.table(name="cut"), rh.table(path=here.url), rh.table(path=here.url, format=given)):
            try:
                yield reader.fetch("dict")["x"]
            except (errors.IntegrityError, errors.NotFoundError):
                yield None

    for steps in range(1, 100):
        rh.table(name="cut").write({"x": [5]}, mode="append").save()
        assert list(seen()) == [[1, 5]] * 3
        live, left = replace(rh.table(name="cut"), format=given), steps
        with monkeypatch.context() as patched:
            for verb in ("write", "delete"):
                patched.setattr(system, verb, counted(getattr(system, verb)))
            try:
                live.restore("v1")
            except (CutError, errors.TransferError):
                assert all(rows in ([1], [1, 5], None) for rows in seen())
        live.restore("v1")
        assert list(seen()) == [[1]] * 3
        if left > 0:
            break
    assert steps > 3


def test_a_column_that_is_not_there_has_the_nearest(here):
    table = rh.table({"id": [1], "kind": ["a"]}, path=(here / "rows").url).write()
    with pytest.raises(errors.InvalidError, match="no column 'idd'") as caught:
        table.to_pandas(columns=["idd"])
    assert caught.value.hint == "did you mean 'id'?"
    with pytest.raises(errors.InvalidError) as caught:
        table.to_pandas(columns=["zzz"])
    assert caught.value.hint == "there is 'id', 'kind'"


def test_a_table_of_few_of_the_files_in_a_directory_is_told_of(here):
    mixed = here / "mixed"
    mixed.put({"labels.csv": b"a\n1\n", ".hidden": b"", **{f"{number}.jpg": b"" for number in range(4)}})
    with pytest.warns(LeftOutWarning, match=r"mixed is read as a table of 1 of the 5 files there: 'labels.csv'\."):
        assert rh.table(path=mixed.url).num_rows == 1
    assert rh.table(path=mixed.url, format="csv").num_rows == 1
    assert rh.table(path=mixed.url + "/labels.csv").num_rows == 1
    mixed.rm("3.jpg")
    assert rh.table(path=mixed.url).num_rows == 1, "a note beside a table is nothing to tell of"
