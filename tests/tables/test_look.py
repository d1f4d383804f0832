"""What is in a table: profile, difference and sample, held against the same computed the slow way."""

from __future__ import annotations

import pickle
from collections import Counter
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from rh import observe
from rh.errors import ConflictError, InvalidError
from rh.systems import locate, open_system
from rh.tables import look, store, writing
from tests.tables.data import packages, sources
from tests.tables.test_store import ROWS, place

__all__ = ["place"]


def written(table: pa.Table, **options):
    system = open_system(locate(f"memory://{uuid4().hex}/table"))
    return system, writing.write(system, table.to_reader(), **options)


@pytest.mark.slow
def test_profile_of_real_data() -> None:
    """Nulls, distinct values, least, greatest, mean and the most frequent of the package index."""
    table = packages()
    profile = look.profile(*written(table, group_rows=10_000))
    assert profile.rows == table.num_rows
    for name in ("version", "section", "priority", "architecture", "maintainer", "installed_size_kib", "size_bytes"):
        column, known = profile[name], table[name].drop_null()
        assert (column.rows, column.nulls) == (table.num_rows, table[name].null_count)
        assert (column.min, column.max) == (pc.min(known).as_py(), pc.max(known).as_py())
        counts = Counter(known.to_pylist())
        assert column.exact
        assert column.distinct == len(counts)
        assert column.top == tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:5])
    assert profile["size_bytes"].mean == pytest.approx(pc.mean(table["size_bytes"]).as_py())
    assert profile["section"].mean is None
    nested = profile["depends"]
    assert (nested.distinct, nested.min, nested.top) == (None, None, ())
    assert nested.nulls == table["depends"].null_count
    assert "section" in str(profile)
    assert profile.as_dict()["columns"][0]["name"] == "package"


def test_profile_of_many_values(monkeypatch) -> None:
    """Past what is counted one by one, `distinct` is near, counts are never too high, and the frequent are found."""
    monkeypatch.setattr(look, "COUNTED", 2000)
    often = [n if n % 3 else -(n % 2) - 1 for n in range(300_000)]
    table = pa.table({"number": often, "text": [f"text {n}" for n in often]})
    profile = look.profile(*written(table))
    for name in ("number", "text"):
        column, counts = profile[name], Counter(table[name].to_pylist())
        assert not column.exact
        assert column.distinct == pytest.approx(len(counts), rel=0.08)
        assert {value for value, _ in column.top[:2]} == {value for value, _ in counts.most_common(2)}
        assert all(count <= counts[value] for value, count in column.top)


def test_profile_of_odd_columns() -> None:
    """NaN, infinities, empty texts, all nulls, dictionaries, half floats, bytes and no rows at all."""
    table = pa.table(
        {
            "f": [float("nan"), 1.0, float("-inf"), None],
            "h": pa.array([0.5, 1.5, None, 0.5], pa.float16()),
            "none": pa.nulls(4),
            "empty": pa.array([None] * 4, pa.string()),
            "d": pa.array(["b", None, "a", "b"]).dictionary_encode(),
            "bytes": [b"\xff", b"", None, b"\0"],
            "flag": [True, None, False, True],
            "id": pa.array([(1 << 63) + 1, None, 1, 1], pa.uint64()),
            "uuid": pa.array([b"0123456789abcdef"] * 4, pa.binary(16)).cast(pa.uuid()),
        }
    )
    found = look.profile(*written(table))
    assert (found["f"].min, found["f"].max, found["f"].nulls, found["f"].distinct) == (float("-inf"), 1.0, 1, 3)
    assert found["h"].top == ((0.5, 2), (1.5, 1))
    assert (found["none"].nulls, found["none"].distinct, found["none"].top) == (4, 0, ())
    assert (found["empty"].nulls, found["empty"].min) == (4, None)
    assert (found["d"].min, found["d"].max, found["d"].top[0]) == ("a", "b", ("b", 2))
    assert (found["bytes"].min, found["bytes"].max) == (b"", b"\xff")
    assert found["flag"].top == ((True, 2), (False, 1))
    assert (found["id"].max, found["id"].top[0], found["id"].mean) == ((1 << 63) + 1, (1, 2), pytest.approx(2**63 / 3))
    assert found["uuid"].distinct == 1
    empty = look.profile(*written(table.slice(0, 0)))
    assert (empty.rows, empty["f"].distinct, empty["f"].mean) == (0, 0, None)
    assert str(empty)


def test_quick_profile() -> None:
    """From the footers alone: the same nulls and bounds, and no row group is read."""
    table = packages()
    system, snapshot = written(table, partition_cols=["priority"])
    whole = look.profile(system, snapshot)
    names = ["section", "installed_size_kib", "priority", "depends"]
    with observe.counting() as counts:
        quick = look.profile(system, snapshot, columns=names, quick=True)
    assert [column.name for column in quick.columns] == names
    for column in quick.columns[:3]:
        same = whole[column.name]
        assert (column.nulls, column.min, column.max) == (same.nulls, same.min, same.max)
    assert quick["depends"].nulls is None
    assert sum(counts.received.values()) < sum(file.size for file in snapshot.files) / 4
    with pytest.raises(InvalidError, match="sektion"):
        look.profile(system, snapshot, columns=["sektion"])


def test_diff_of_whole_rows() -> None:
    """Rows are counted as often as they come, in whatever order, files and partitions they lie."""
    table = packages().slice(0, 5000)
    old = written(table)
    order = pc.sort_indices(table["size_bytes"])
    same = look.diff(old, written(table.take(order), partition_cols=["section"], group_rows=700))
    assert not same
    assert (same.added, same.removed, same.changed, same.same) == (0, 0, None, 5000)
    twice = pa.concat_tables([table.slice(3), table.slice(100, 2), table.slice(100, 2)])
    found = look.diff(old, written(twice))
    assert found
    assert (found.added, found.removed, found.same) == (4, 3, 4997)
    assert str(found).endswith("+4 rows, -3 rows, 4,997 the same")
    assert pickle.loads(pickle.dumps(found)) == found


def test_diff_by_key() -> None:
    """With keys, rows are told as changed; a key that two rows have is refused."""
    old = pa.table({"id": range(100), "a": [n % 7 for n in range(100)], "b": [[n] for n in range(100)]})
    rows = old.slice(10).to_pylist()
    rows[0]["a"], rows[1]["b"], rows[2]["a"] = None, [0, 1], -1
    rows += [{"id": 1000 + n, "a": 0, "b": None} for n in range(5)]
    new = pa.Table.from_pylist(rows, old.schema)
    found = look.diff(written(old), written(new), keys=["id"])
    assert (found.added, found.removed, found.changed, found.same) == (5, 10, 3, 87)
    with pytest.raises(InvalidError, match="a is no key"):
        look.diff(written(old), written(new), keys=["a"])
    with pytest.raises(InvalidError, match="ID"):
        look.diff(written(old), written(new), keys=["ID"])


def test_diff_of_schemas() -> None:
    """Columns come, go and change type; numbers of other widths are the same numbers."""
    old = pa.table({"n": pa.array([1, 2, None], pa.int8()), "x": [0.0, 0.5, None], "gone": ["a", "b", "c"]})
    new = pa.table(
        {"more": [1, 1, 1], "x": pa.array([-0.0, 0.5, None], pa.float32()), "n": pa.array([1, 2, None], pa.int64())}
    )
    found = look.diff(written(old), written(new))
    assert (found.columns_added, found.columns_removed) == (("more",), ("gone",))
    assert found.columns_changed == (("n", "int8", "int64"), ("x", "double", "float"))
    assert (found.added, found.removed, found.same) == (0, 0, 3)
    assert "~ column n: int8 → int64" in str(found)
    apart = look.diff(written(pa.table({"a": [1]})), written(pa.table({"b": [1, 2]})))
    assert (apart.added, apart.removed) == (2, 1)


def test_values_that_look_alike_differ() -> None:
    """Null is not the empty text, not zero and not the text of null; columns cannot swap their values."""
    cells = [None, "", "0", "None", "null", "\0"]
    table = pa.table({"a": [a for a in cells for _ in cells], "b": cells * len(cells)})
    swapped = table.rename_columns(["b", "a"])
    assert not look.diff(written(table), written(swapped))
    for n in range(table.num_rows):
        row = table.slice(n, 1)
        found = look.diff(written(row), written(row.rename_columns(["b", "a"])))
        assert bool(found) == (row["a"].to_pylist() != row["b"].to_pylist())
    numbers = pa.table({"n": pa.array([0, None], pa.int64())})
    assert look.diff(written(numbers.slice(0, 1)), written(numbers.slice(1)))


@pytest.mark.parametrize("place", ["file", "s3", "ssh-a"], indirect=True)
def test_sample(place) -> None:
    """The same rows for the same seed, in the table's order, of the row groups in which they lie."""
    table = sources().append_column("at", pa.array(range(sources().num_rows)))
    snapshot = writing.write(place, table.to_reader(), group_rows=50, file_bytes=200_000)
    with observe.counting() as counts:
        picked = look.sample(place, snapshot, 2, seed=5)
    if place.location.system != "file":
        assert sum(counts.received.values()) < sum(file.size for file in snapshot.files) / 2
    at = picked["at"].to_pylist()
    assert at == sorted(set(at))
    assert len(at) == 2
    assert picked == table.take(at)
    assert look.sample(place, snapshot, 2, seed=5) == picked
    assert look.sample(place, snapshot, 2, seed=6) != picked
    assert look.sample(place, snapshot, 10**6) == table
    assert look.sample(place, snapshot, 0) == table.slice(0, 0)
    assert look.sample(place, snapshot, 3, columns=["size"]).column_names == ["size"]
    with pytest.raises(InvalidError):
        look.sample(place, snapshot, -1)


@pytest.mark.slow
def test_sample_is_fair() -> None:
    """Every row is picked about as often as any other, wherever the row groups and files end."""
    system, snapshot = written(ROWS.slice(0, 60), group_rows=7, file_bytes=1, partition_cols=["word"])
    counts = Counter(n for seed in range(300) for n in look.sample(system, snapshot, 20, seed)["n"].to_pylist())
    assert set(counts) == set(range(60))
    assert min(counts.values()) > 60
    assert max(counts.values()) < 140


def test_other_formats(tmp_path) -> None:
    """Adopted files of other formats are profiled, compared and sampled alike."""
    here = open_system(locate(str(tmp_path)))
    here.write("k=1/x.csv", b"n,word\n" + b"".join(b"%d,w%d\n" % (n, n % 3) for n in range(1000)))
    mine = here, store.look(here)
    assert look.profile(*mine)["word"].top[0] == ("w0", 334)
    assert look.sample(*mine, 5, 1)["n"].to_pylist() == look.sample(*mine, 5, 1)["n"].to_pylist()
    other = pa.table({"n": range(1000), "word": [f"w{n % 3}" for n in range(1000)], "k": [1] * 1000})
    assert not look.diff(mine, written(other))
    with pytest.raises(InvalidError, match="footers"):
        look.profile(*mine, quick=True)


def test_a_table_that_changes_meanwhile(tmp_path) -> None:
    """What was looked at is not there any more: `ConflictError`, never a mixture."""
    here = open_system(locate(str(tmp_path)))
    old = writing.write(here, ROWS.to_reader())
    writing.write(here, ROWS.slice(5).to_reader(), mode="overwrite")
    pq.write_table(ROWS.slice(7), tmp_path / old.files[0].key)
    for work in (
        lambda: look.profile(here, old),
        lambda: look.sample(here, old, 5),
        lambda: look.diff((here, old), (here, old)),
    ):
        with pytest.raises(ConflictError):
            work()
