"""Which files are a table's own: adoption, the index, and changes that are all or nothing, on every system."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import rh
from rh import config, observe
from rh.errors import ConflictError, ExistsError, IntegrityError, InvalidError, NotFoundError, UnsupportedError
from rh.systems import locate, open_system
from rh.systems.base import System
from rh.tables import access, index, store, writing
from rh.tables.base import INDEX
from rh.tables.stream import Stream
from rh.testing import servers
from rh.testing.faults import DropAnswer, FaultProxy

EVERYWHERE = ["file", "memory", "s3", "moto", "gs", "azure", "ssh-a"]
ROWS = pa.table({"n": pa.array(range(1000)), "word": [f"word {n % 7}" for n in range(1000)]})


@pytest.fixture(scope="module")
def bare() -> Iterator[servers.SSHServer]:
    """A host without Python, where nobody can check an etag and write in one step."""
    with servers.ssh(alias="bare", python=False) as server:
        yield server


@pytest.fixture
def place(request, world, moto_server, tmp_path) -> System:
    """An empty place on the system that the test asks for by its name."""
    roots = {**world, "file": str(tmp_path / "t"), "memory": f"memory://{uuid4().hex}/t"}
    if request.param == "sftp":
        host = request.getfixturevalue("bare")
        config.register("sftp", host.settings())
        roots["sftp"] = f"sftp:{host.home / uuid4().hex}"
    if request.param == "moto":
        roots["moto"] = f"moto://{moto_server.buckets[0]}/{uuid4().hex}"
        config.register("moto", moto_server.settings())
    return open_system(locate(roots[request.param])).at("table")


everywhere = pytest.mark.parametrize("place", EVERYWHERE, indirect=True)
and_by_sftp = pytest.mark.parametrize("place", [*EVERYWHERE, "sftp"], indirect=True)


@pytest.fixture
def here(tmp_path) -> System:
    return open_system(locate(str(tmp_path / "table")))


def rows_of(system: System) -> pa.Table:
    return access.dataset(system, store.look(system)).to_table()


def names(system: System) -> list[str]:
    return [entry.key for entry in system.list() if entry.kind == "file"]


@and_by_sftp
def test_the_life_of_a_table(place) -> None:
    """Written, found again by one request, added to, replaced, removed; a sibling survives all of it."""
    place.write("README.md", b"not a table's")
    place.write("_notes/x.parquet", b"neither")
    written = writing.write(place, ROWS.to_reader())
    with observe.counting() as counts:
        assert store.look(place) == written
    assert counts.total() <= 1
    assert rows_of(place) == ROWS
    with pytest.raises(ExistsError):
        writing.write(place, ROWS.to_reader())
    longer = writing.write(place, ROWS.to_reader(), mode="append")
    assert longer == store.look(place)
    assert longer.files[: len(written.files)] == written.files
    assert rows_of(place) == pa.concat_tables([ROWS, ROWS])
    shorter = writing.write(place, ROWS.slice(10, 5).to_reader(), mode="overwrite")
    assert rows_of(place) == ROWS.slice(10, 5)
    assert names(place) == ["README.md", "_notes/x.parquet", *(file.key for file in shorter.files)]
    store.remove(place, shorter)
    assert names(place) == ["README.md", "_notes/x.parquet"]
    with pytest.raises(NotFoundError):
        place.read(INDEX).close()


@and_by_sftp
def test_two_that_began_together(place) -> None:
    """Two appenders both land; of two that overwrite, one gets `ConflictError`, and its files are gone."""
    writing.write(place, ROWS.to_reader())

    def begun(mode):
        begin = writing.begin(place, ROWS.schema, mode=mode)
        return begin, writing.write_part(place.location, ROWS.to_reader(), begin.write_id, 0)

    for begin, files in [begun("append"), begun("append")]:
        writing.finish(place, begin, files)
    assert rows_of(place).num_rows == 3000
    (first, theirs), (second, ours) = begun("overwrite"), begun("overwrite")
    kept = writing.finish(place, first, theirs)
    with pytest.raises(ConflictError):
        writing.finish(place, second, ours)
    assert store.look(place) == kept
    assert names(place) == [file.key for file in theirs]


@and_by_sftp
def test_two_that_create_together(place) -> None:
    """Of two first writes one gets `ExistsError`; first appends both land."""
    both = [writing.begin(place, ROWS.schema, mode="append") for _ in range(2)]
    for begin in both:
        writing.finish(place, begin, writing.write_part(place.location, ROWS.to_reader(), begin.write_id, 0))
    assert rows_of(place).num_rows == 2000
    late = both[0]._replace(mode="error")
    with pytest.raises(ExistsError):
        writing.finish(place, late, [])


APPEND = """
import sys, pyarrow as pa
from rh.systems import locate, open_system
from rh.tables import writing
from rh import config
if sys.argv[3] != "-":
    import json
    config.register("moto", json.loads(sys.argv[3]))
system = open_system(locate(sys.argv[1]))
for n in range(6):
    rows = pa.table({"who": [sys.argv[2]] * 10, "n": [n] * 10})
    writing.write(system, rows.to_reader(), mode="append")
"""


@pytest.mark.parametrize("place", ["file", "moto"], indirect=True)
def test_processes_that_append_at_once(place, moto_server) -> None:
    """Everything that three processes append at once is in the table, once."""
    settings = json.dumps(moto_server.settings()) if place.location.system == "moto" else "-"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", APPEND, place.url(), str(who), settings], stderr=subprocess.PIPE, text=True
        )
        for who in range(3)
    ]
    for process in running:
        _, told = process.communicate(timeout=110)
        assert process.returncode == 0, told
    found = rows_of(place).to_pylist()
    assert len(found) == 180
    assert {(row["who"], row["n"]) for row in found} == {(str(who), n) for who in range(3) for n in range(6)}


@pytest.mark.parametrize("place", ["file", "memory", "azure"], indirect=True)
def test_a_reader_of_a_table_that_is_being_replaced(place) -> None:
    """Promises 5 and 10: it sees one table or the next, whole, or is told that the table changed; never a mixture."""
    seen, done = [], threading.Event()

    def table(n: int) -> pa.Table:
        return pa.table({"n": [n] * 100, "part": [0, 1] * 50})

    def read() -> None:
        while not done.is_set() or not seen:
            try:
                seen.append(rows_of(place)["n"].to_pylist())
            except ConflictError:
                continue
            except BaseException as error:
                seen.append(error)
                raise

    writing.write(place, table(0).to_reader(), partition_cols=["part"])
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for n in range(1, 30):
            writing.write(place, table(n).to_reader(), mode="overwrite", partition_cols=["part"])
        done.set()
        reading.result()
    assert seen
    assert all(len(rows) == 100 and len(set(rows)) == 1 for rows in seen)
    assert [rows[0] for rows in seen] == sorted(rows[0] for rows in seen)


def test_the_lost_answer_to_our_own_index(moto_server) -> None:
    """Promise 11: an index that was replaced although its answer got lost is no conflict."""
    with FaultProxy(moto_server.port, http=True) as proxy:
        config.register("moto", moto_server.settings(via=proxy.port))
        system = open_system(locate(f"moto://{moto_server.buckets[0]}/{uuid4().hex}"))
        for mode in ("error", "append", "overwrite"):
            lost = DropAnswer(match=lambda request: request.method == "PUT" and INDEX in request.path, times=1)
            proxy.plan = [lost]
            writing.write(system, ROWS.to_reader(), mode=mode)
        assert rows_of(system) == ROWS


# Adoption


def test_what_others_wrote_is_adopted(here, tmp_path) -> None:
    """Every data file below the root, hive directories as columns; hidden ones and other files are left alone."""
    for key in ["year=2026/kind=a%2Fb/x.parquet", "year=2025/kind=__HIVE_DEFAULT_PARTITION__/y.pq"]:
        path = tmp_path / "table" / key
        path.parent.mkdir(parents=True)
        pq.write_table(ROWS.slice(0, 3), path)
    for key in ["_SUCCESS", "_temporary/z.parquet", ".hidden/z.parquet", "year=2026/.z.parquet.crc", "LICENSE"]:
        here.write(key, b"x")
    snapshot = store.look(here)
    assert not snapshot.owned
    assert (snapshot.format, snapshot.partition_cols) == ("parquet", ("year", "kind"))
    assert [file.values for file in snapshot.files] == [("2025", None), ("2026", "a/b")]
    assert access.dataset(here, snapshot).to_table(columns=["year", "kind", "n"]).num_rows == 6


@pytest.mark.parametrize(
    ("ending", "form", "options"),
    [
        (".csv", "csv", None),
        (".CSV", "csv", None),
        (".tsv", "csv", {"delimiter": "\t"}),
        (".csv.gz", "csv", None),
        (".jsonl", "jsonl", None),
        (".ndjson", "jsonl", None),
        (".json.gz", "jsonl", None),
        (".arrow", "arrow", None),
        (".feather", "arrow", None),
        (".pq", "parquet", None),
    ],
)
def test_formats_by_name(here, ending, form, options) -> None:
    """Endings tell the format, of a directory and of one file."""
    here.write("x" + ending, b"1,2\n")
    for snapshot in (store.look(here), store.look(here, "x" + ending)):
        assert (snapshot.format, snapshot.options) == (form, options)
        assert [file.key for file in snapshot.files] == ["x" + ending]


def test_what_is_no_table(here, tmp_path) -> None:
    """Nothing, an empty directory, other files, a mixture: each says what it is."""
    with pytest.raises(NotFoundError):
        store.look(here)
    with pytest.raises(NotFoundError):
        store.look(here, "x.parquet")
    (tmp_path / "table").mkdir()
    with pytest.raises(NotFoundError, match="no files"):
        store.look(here)
    here.write("notes.txt", b"a,b\n1,2\n")
    with pytest.raises(InvalidError, match=r"no data files.*'notes.txt'"):
        store.look(here)
    with pytest.raises(InvalidError, match="format="):
        store.look(here, "notes.txt")
    assert store.look(here, "notes.txt", format="csv").format == "csv"
    assert [file.key for file in store.look(here, format="csv").files] == ["notes.txt"]
    here.write("a.csv", b"a\n1\n")
    here.write("b.parquet", b"PAR1")
    with pytest.raises(InvalidError, match=r"csv \('a.csv'\), parquet \('b.parquet'\)"):
        store.look(here)
    assert [file.key for file in store.look(here, format="csv").files] == ["a.csv"]
    with pytest.raises(InvalidError, match="xlsx"):
        store.look(here, format="xlsx")
    with pytest.raises(ExistsError):
        writing.write(here, ROWS.to_reader())
    here.delete(["b.parquet"])
    here.write("k=1/c.csv", b"a\n1\n")
    with pytest.raises(InvalidError, match="partition columns"):
        store.look(here)


def test_an_empty_prefix_is_nothing() -> None:
    """A store cannot tell an empty directory from none; it is not found."""
    system = open_system(locate(f"memory://{uuid4().hex}/t"))
    with pytest.raises(NotFoundError):
        store.look(system)


def test_links_are_read_and_stay_links(here, tmp_path) -> None:
    """Files that links point to are adopted, as in a cache of downloads; removing the table leaves them."""
    elsewhere = tmp_path / "elsewhere.parquet"
    pq.write_table(ROWS, elsewhere)
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "x.parquet").symlink_to(elsewhere)
    assert rows_of(here) == ROWS
    store.remove(here, store.look(here))
    assert not list((tmp_path / "table").iterdir())
    assert elsewhere.exists()


def test_a_link_to_nothing(here, tmp_path) -> None:
    """It is told, by readers and writers, and nothing is written beside it."""
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "x.parquet").symlink_to(tmp_path / "gone")
    for work in (lambda: store.look(here), lambda: writing.write(here, ROWS.to_reader())):
        with pytest.raises(NotFoundError, match="link"):
            work()
    assert os.listdir(tmp_path / "table") == ["x.parquet"]


def test_append_to_an_adopted_table(here, tmp_path) -> None:
    """Its files come into the index; overwriting removes exactly them."""
    (tmp_path / "table").mkdir()
    pq.write_table(ROWS, tmp_path / "table" / "a.parquet")
    snapshot = writing.write(here, ROWS.to_reader(), mode="append")
    assert snapshot.owned
    assert snapshot.files[0].key == "a.parquet"
    assert rows_of(here).num_rows == 2000
    pq.write_table(ROWS, tmp_path / "table" / "later.parquet")
    assert rows_of(here).num_rows == 2000
    writing.write(here, ROWS.slice(0, 1).to_reader(), mode="overwrite")
    assert rows_of(here).num_rows == 1
    assert "later.parquet" in names(here)
    assert "a.parquet" not in names(here)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"n": [1]}, {"n": [2], "kept": ["x"]}, "'kept' is in this file and not in the first"),
        ({"n": [1], "kept": ["x"]}, {"n": [2]}, "'kept' of the table is not in this file"),
        ({"n": [1]}, {"n": [2.0]}, "'n' is double in this file and int64"),
    ],
)
def test_appending_to_files_that_are_no_table_is_refused(here, tmp_path, first, second, said) -> None:
    """As readers refuse them; in an index, columns would be left out without a word."""
    (tmp_path / "table").mkdir()
    for name, rows in (("a", first), ("b", second)):
        pq.write_table(pa.table(rows), tmp_path / "table" / f"{name}.parquet")
    with pytest.raises(InvalidError, match=said):
        writing.write(here, pa.table(first).to_reader(), mode="append")
    assert names(here) == ["a.parquet", "b.parquet"]


def test_appending_to_files_of_several_widths(here, tmp_path) -> None:
    """What readers take stays as it was, for tables and streams."""
    (tmp_path / "table").mkdir()
    for name, kind in (("a", pa.int32()), ("b", pa.int64())):
        pq.write_table(pa.table({"n": pa.array([1], kind)}), tmp_path / "table" / f"{name}.parquet")
    snapshot = writing.write(here, pa.table({"n": [2]}).to_reader(), mode="append")
    assert rows_of(here)["n"].to_pylist() == [1, 1, 2]
    with Stream(here, snapshot, 3) as stream:
        assert next(stream)["n"].to_pylist() == [1, 1, 2]


def test_overwriting_an_adopted_csv(here, tmp_path) -> None:
    """Rows cannot be appended to CSV, and can take its place."""
    here.write("year=1/a.csv", b"n,word\n1,x\n")
    with pytest.raises(InvalidError, match="csv"):
        writing.write(here, ROWS.to_reader(), mode="append")
    assert names(here) == ["year=1/a.csv"]
    writing.write(here, ROWS.to_reader(), mode="overwrite")
    assert rows_of(here) == ROWS
    assert not (tmp_path / "table" / "year=1").exists()


def test_a_first_write_is_invisible_until_it_is_whole(here) -> None:
    """Parts without an index are no table, unless one says so."""
    begin = writing.begin(here, ROWS.schema)
    files = writing.write_part(here.location, ROWS.to_reader(), begin.write_id, 0)
    with pytest.raises(NotFoundError, match="no index"):
        store.look(here)
    assert [file.key for file in store.look(here, parts=True).files] == [file.key for file in files]
    here.write("theirs.parquet", b"PAR1")
    assert [file.key for file in store.look(here).files] == ["theirs.parquet"]


# The index


def test_a_garbled_index(here, tmp_path) -> None:
    """Any flipped bit, and any cut, is `IntegrityError`; nothing is written over it."""
    writing.write(here, ROWS.to_reader())
    path = tmp_path / "table" / INDEX
    whole = path.read_bytes()
    damaged = [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(len(whole))]
    damaged += [whole[:at] for at in range(0, len(whole), 7)]
    before = names(here)
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises((IntegrityError, UnsupportedError)):
            store.look(here)
    for mode in ("error", "append", "overwrite"):
        with pytest.raises(IntegrityError):
            writing.write(here, ROWS.to_reader(), mode=mode)
    assert names(here) == before
    assert path.read_bytes() == damaged[-1]


def _rewrite(path: Path, **fields: object) -> None:
    document = json.loads(path.read_bytes())
    document["files"][0]["colour"] = "blue"
    path.write_bytes(index.encoded({**document, **fields}))


def test_fields_of_a_newer_rh(here, tmp_path) -> None:
    """Fields that are not known here survive; an index of a newer format is refused and nothing is written."""
    writing.write(here, ROWS.to_reader())
    path = tmp_path / "table" / INDEX
    _rewrite(path, mood={"a": [1]})
    writing.write(here, ROWS.to_reader(), mode="append")
    document = json.loads(path.read_bytes())
    assert document["mood"] == {"a": [1]}
    assert [line.get("colour") for line in document["files"]] == ["blue", None]
    assert (document["rows"], document["format"]) == (2000, 1)
    assert document["bytes"] == sum(file.size for file in store.look(here).files)
    _rewrite(path, format=2)
    before = {name: (tmp_path / "table" / name).read_bytes() for name in os.listdir(tmp_path / "table")}
    for work in (
        lambda: store.look(here),
        lambda: writing.write(here, ROWS.to_reader(), mode="append"),
        lambda: writing.write(here, ROWS.to_reader(), mode="overwrite"),
    ):
        with pytest.raises(UnsupportedError, match="newer"):
            work()
    assert before == {name: (tmp_path / "table" / name).read_bytes() for name in os.listdir(tmp_path / "table")}


def test_names_that_are_no_text(here, tmp_path) -> None:
    """Files of adopted tables whose names are not UTF-8 are kept in the index as they are."""
    (tmp_path / "table").mkdir()
    pq.write_table(ROWS, os.fsencode(tmp_path / "table").decode() + "/x.parquet")
    os.rename(tmp_path / "table" / "x.parquet", os.fsencode(tmp_path / "table") + b"/\xff.parquet")
    writing.write(here, ROWS.to_reader(), mode="append")
    assert store.look(here).files[0].key == "\udcff.parquet"
    assert rows_of(here).num_rows == 2 * ROWS.num_rows
    writing.write(here, ROWS.to_reader(), mode="overwrite")
    assert len(names(here)) == 1


def test_removing_what_changed_since(here) -> None:
    """A table that is not the one that was looked at is not removed."""
    old = writing.write(here, ROWS.to_reader())
    writing.write(here, ROWS.to_reader(), mode="append")
    with pytest.raises(ConflictError):
        store.remove(here, old)
    assert rows_of(here).num_rows == 2000


def test_debris(here, tmp_path) -> None:
    """Files of a killed writer are found when they are old enough; a table's own and others' never."""
    writing.write(here, ROWS.to_reader(), partition_cols=["word"])
    here.write("sibling.parquet", b"x")
    begin = writing.begin(here, ROWS.schema, mode="append")
    left = writing.write_part(here.location, ROWS.to_reader(), begin.write_id, 0, begin.partition_cols)
    for path in (tmp_path / "table").rglob("*.parquet"):
        os.utime(path, (1, 1))
    assert {entry.key for entry in store.debris(here)} == {file.key for file in left}
    copied = tmp_path / "table" / "copy" / os.path.basename(left[0].key)
    copied.parent.mkdir()
    shutil.copy2(tmp_path / "table" / left[0].key, copied)
    assert rh.folder(path=tmp_path / "table").sweep() == len(left)
    kept = [file.key for file in store.look(here).files]
    assert names(here) == sorted([*kept, "sibling.parquet", f"copy/{copied.name}"])
    again = writing.write_part(here.location, ROWS.to_reader(), begin.write_id, 0, begin.partition_cols)
    assert store.debris(here) == []
    assert {entry.key for entry in store.debris(here, older_than_s=-60)} == {file.key for file in again}
    copied.unlink()
    writing.abandon(here, begin.write_id)
    assert names(here) == sorted([*kept, "sibling.parquet"])
