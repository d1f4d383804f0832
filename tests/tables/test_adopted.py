"""Files that others wrote and that do not quite agree: read together where nothing is lost, else told which and why."""

from __future__ import annotations

import gzip
import io
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rh
from rh import errors, observe
from rh.tables import fragments, schemas

BIG = 1 << 40


def parquet(table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def arrow(table) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write(table)
    return out.getvalue()


def stream(table) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, 2)
    return out.getvalue()


def column(values, kind):
    return pa.table({"n": pa.array(values, kind)})


@pytest.fixture
def place(tmp_path):
    return rh.folder(path=tmp_path / "data")


WAYS = (
    lambda table: table.to_arrow()["n"].to_pylist(),
    lambda table: table.to_arrow(columns=["n"])["n"].to_pylist(),
    lambda table: table.to_reader().read_all()["n"].to_pylist(),
    lambda table: [n for batch in table.stream(2) for n in batch["n"].to_pylist()],
    lambda table: [n for batch in table.stream(2, columns=["n"]) for n in batch["n"].to_pylist()],
    lambda table: table.sql("select n from t")["n"].to_pylist(),
    lambda table: table.sample(100)["n"].to_pylist(),
    lambda table: table.to_dask().compute(scheduler="synchronous")["n"].to_list(),
)


def ways(table):
    """Each way to read all rows, as the values of the column `n`."""
    return [partial(way, table) for way in WAYS]


@pytest.mark.parametrize("encoded", [parquet, arrow], ids=["parquet", "arrow"])
@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int64(), pa.int8(), pa.int64()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.int16(), pa.float32(), pa.float32()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.null(), pa.int32(), pa.int32()),
        (pa.int32(), pa.null(), pa.int32()),
        (pa.string(), pa.large_string(), pa.string()),
        (pa.dictionary(pa.int32(), pa.string()), pa.string(), pa.string()),
        (pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.decimal128(5, 2), pa.decimal128(9, 3), pa.decimal128(9, 3)),
    ],
    ids=str,
)
def test_types_that_hold_each_others_values_are_read_as_the_wider_one(place, encoded, first, second, together):
    plain = {
        pa.null(): [None],
        pa.string(): ["a"],
        pa.large_string(): ["b"],
        pa.dictionary(pa.int32(), pa.string()): ["c"],
    }
    one = {pa.decimal128(5, 2): [Decimal("1.25")], pa.decimal128(9, 3): [Decimal("1.125")]}
    values = [{**plain, **one}.get(kind) or pa.array([1]).cast(kind).to_pylist() for kind in (first, second)]
    kind = encoded.__name__
    place.put(
        {
            f"{n}.{kind}": encoded(column(some, type_))
            for n, (some, type_) in enumerate(zip(values, (first, second), strict=True))
        }
    )
    table = rh.table(path=place.url)
    assert table.schema == pa.schema({"n": together})
    assert table.to_arrow().schema == pa.schema({"n": together})
    for way in ways(table)[:-1]:
        assert way() == [*values[0], *values[1]]


def test_a_later_value_that_only_the_wider_type_holds(place):
    place.put({"1.parquet": parquet(column([1], pa.int32())), "2.parquet": parquet(column([BIG], pa.int64()))})
    for way in ways(rh.table(path=place.url)):
        assert way() == [1, BIG]


def test_types_without_a_common_one_are_told_with_file_column_both_types_and_the_way_out(place):
    place.put({"1.parquet": parquet(column([1], pa.int64())), "2.parquet": parquet(column(["x"], pa.string()))})
    table = rh.table(path=place.url)
    for way in ways(table):
        with pytest.raises(
            errors.InvalidError, match="column 'n' is string in this file and int64 in the table"
        ) as caught:
            way()
        assert "2.parquet" in caught.value.where
        assert 'options={"column_types": {"n": "string"}}' in caught.value.hint
    for way in ways(rh.table(path=place.url, options={"column_types": {"n": "string"}})):
        assert way() == ["1", "x"]


def test_columns_that_agree_are_read_beside_one_that_does_not(place):
    place.put({
        "1.parquet": parquet(pa.table({"n": [1], "m": [1]})),
        "2.parquet": parquet(pa.table({"n": [2], "m": ["x"]})),
    })  # fmt: skip
    table = rh.table(path=place.url)
    assert table.to_arrow(columns=["n"])["n"].to_pylist() == [1, 2]
    with pytest.raises(errors.InvalidError, match="column 'm'"):
        table.to_arrow()


@pytest.mark.parametrize("encoded", [parquet, arrow], ids=["parquet", "arrow"])
def test_a_column_that_a_later_file_lacks(place, encoded):
    """It is no null that nobody wrote; a schema that is given says that it is one."""
    kind = encoded.__name__
    place.put({f"1.{kind}": encoded(column([1], pa.int64())), f"2.{kind}": encoded(pa.table({"m": [2]}))})
    for way in ways(rh.table(path=place.url)):
        with pytest.raises(errors.InvalidError, match=r"column '[nm]'.* in this file") as caught:
            way()
        assert f"2.{kind}" in caught.value.where
    for way in ways(rh.table(path=place.url, options={"column_types": {"n": "int8"}})):
        with pytest.raises(errors.InvalidError, match=r"column '[nm]'.* in this file"):
            way()
    for way in ways(rh.table(path=place.url, schema={"n": "int64"}))[:-1]:
        assert way() == [1, None]


def test_arrow_streams_are_read_as_files_with_a_footer_are(place):
    """And both beside each other; one that is cut is damaged."""
    place.put({"a.arrow": stream(column([1, 2, 3], pa.int64())), "b.arrows": stream(column([4], pa.int32()))})
    place.put({"c.arrow": arrow(column([5], pa.int64()))})
    table = rh.table(path=place.url)
    assert table.num_rows == 5
    assert table.schema == pa.schema({"n": pa.int64()})
    for way in ways(table):
        assert way() == [1, 2, 3, 4, 5]
    assert rh.table(path=place.url + "/b.arrows").to_arrow().to_pydict() == {"n": [4]}
    place.put({"cut/a.arrows": stream(column([1, 2, 3], pa.int64()))[:-40]})
    cut = rh.table(path=place.url + "/cut")
    for way in [*ways(cut), lambda: cut.num_rows]:
        with pytest.raises(errors.IntegrityError, match="damaged"):
            way()


def test_a_folder_that_datasets_saved(tmp_path):
    datasets.Dataset(column([1, 2, 3], pa.int64())).save_to_disk(tmp_path / "saved")
    table = rh.table(path=tmp_path / "saved")
    assert table.num_rows == 3
    for way in ways(table):
        assert way() == [1, 2, 3]


@pytest.mark.parametrize("log", ["_delta_log/00000000000000000000.json", "metadata/v1.metadata.json"])
def test_a_table_with_a_log_of_its_own_is_refused(place, log):
    """Its log names the files that count; others, whose rows were removed, still lie there."""
    place.put({"data/a.parquet": parquet(column([1], pa.int64())), log: b"{}"})
    before = place.ls(full_paths=False)
    table = rh.table(path=place.url)
    for work in (table.fetch, table.rm, lambda: table.write({"n": [1]}, mode="overwrite")):
        with pytest.raises(errors.UnsupportedError, match=r"(Delta Lake|Iceberg), whose log(.|\n)*Arrow"):
            work()
    assert place.ls(full_paths=False) == before
    assert rh.table(path=place.url, format="parquet").fetch().to_pydict() == {"n": [1]}


@pytest.mark.parametrize("system", ["here", "s3", "ssh-a"])
def test_a_file_whose_name_does_not_say_its_format(place, world, system):
    folder = place if system == "here" else rh.folder(path=world[system] + "/odd")
    folder.put({"export.txt": b"n\n1\n2\n", "other.csv": b"m\n3\n"})
    table = rh.table(path=folder.url + "/export.txt", format="csv")
    assert table.num_rows == 2
    assert table.exists_in_system()
    for way in ways(table):
        assert way() == [1, 2]
    assert not table.verify().missing
    with pytest.raises(errors.InvalidError, match="does not tell the format") as caught:
        rh.table(path=folder.url + "/export.txt").fetch()
    assert caught.value.hint == "format= one of parquet, csv, jsonl, arrow"
    for form in (None, "csv"):
        for missing in (folder.url + "/nothing.txt", "s3://no-such-bucket"):
            with pytest.raises(errors.NotFoundError):
                rh.table(path=missing, format=form).fetch()
    table.rm()
    assert folder.ls(full_paths=False) == ["other.csv"]


def test_whole_numbers_that_fractions_cannot_hold_are_never_rounded(place):
    place.put(
        {"1.parquet": parquet(column([0.5], pa.float64())), "2.parquet": parquet(column([2**53 + 1], pa.int64()))}
    )
    for way in ways(rh.table(path=place.url)):
        with pytest.raises(errors.InvalidError, match=r"'n' is int64 in this file and double in .*9007199") as caught:
            way()
        assert "2.parquet" in caught.value.where


def test_footers_are_asked_once(world):
    place = rh.folder(path=world["s3"] + "/many")
    place.put({f"{n:02}.parquet": parquet(column([n], pa.int32())) for n in range(20)})
    with observe.counting() as counts:
        assert rh.table(path=place.url).schema == pa.schema({"n": pa.int32()})
        again = rh.table(path=place.url)
        assert again.schema == pa.schema({"n": pa.int32()})
    assert counts.requests["s3", "read"] <= 20 + 2  # each look asks for an index
    place.put({"10.parquet": parquet(column([BIG], pa.int64()))}, overwrite=True)
    assert again.schema == pa.schema({"n": pa.int64()})


def test_of_very_many_files_some_are_asked(place, monkeypatch):
    """One that was not and has a wider type is told when it is read."""
    monkeypatch.setattr(schemas, "LOOKED_INTO", 3)
    place.put({f"{n}.parquet": parquet(column([n], pa.int32())) for n in range(9)})
    table = rh.table(path=place.url)
    assert sorted(table.to_arrow()["n"].to_pylist()) == list(range(9))
    place.put({"8.parquet": parquet(column([BIG], pa.int64()))}, overwrite=True)
    assert table.to_arrow()["n"].to_pylist()[-1] == BIG
    place.put(
        {"8.parquet": parquet(column([8], pa.int32())), "7.parquet": parquet(column([BIG], pa.int64()))}, overwrite=True
    )
    with pytest.raises(errors.InvalidError, match="'n' is int64 in this file and int32 in the table") as caught:
        table.to_arrow()
    assert "7.parquet" in caught.value.where
    with pytest.raises(errors.InvalidError, match="'n' is int64 in this file"):
        list(table.stream(3))
    given = rh.table(path=place.url, options={"column_types": {"n": "int64"}})
    assert BIG in given.to_arrow()["n"].to_pylist()


# Text


def test_csv_files_whose_types_differ(place):
    place.put({"1.csv": b"n,m\n1,2\n", "2.csv": b"m,n\n3,x\n"})
    table = rh.table(path=place.url)
    for way in ways(table):
        with pytest.raises(
            errors.InvalidError, match="column 'n' is string in this file and int64 in the table"
        ) as caught:
            way()
        assert "2.csv" in caught.value.where
        assert 'options={"column_types": {"n": "string"}}' in caught.value.hint
    for way in ways(rh.table(path=place.url, options={"column_types": {"n": "string"}})):
        assert way() == ["1", "x"]


def test_a_value_behind_the_first_block_of_a_csv_file(place):
    place.put({"1.csv": b"n\n" + b"1\n" * 600_000 + b"x\n"})
    for way in ways(rh.table(path=place.url))[:6]:
        with pytest.raises(errors.InvalidError, match=r"a value of column 'n' is no int64.*'x'"):
            way()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_whole_numbers_in_one_file_and_fractions_in_another(place, kind):
    rows = ["1", "2.5"]
    texts = [f'{{"n": {row}}}\n' if kind == "jsonl" else f"n\n{row}\n" for row in rows]
    place.put({f"{n}.{kind}": text.encode() for n, text in enumerate(texts)})
    for way in ways(rh.table(path=place.url)):
        assert way() == [1.0, 2.5]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "jsonl", "jsonl.gz"])
@pytest.mark.parametrize("blank", [b"", b"\n", b"\xef\xbb\xbf"], ids=["nothing", "a line", "a mark"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_empty_files_are_passed_over(place, kind, blank, at):
    row = b'{"n": %d}\n' if kind.startswith("jsonl") else b"n\n%d\n"
    texts = [row % 1, row % 2]
    texts.insert(at, blank)
    place.put({f"{n}.{kind}": gzip.compress(text) if kind.endswith("gz") else text for n, text in enumerate(texts)})
    table = rh.table(path=place.url)
    for way in ways(table):
        assert way() == [1, 2]
    assert table.num_rows == 2
    assert [len(batch) for batch in table.stream(1, shuffle_seed=1)] == [1, 1]
    assert [len(batch) for batch in table.stream(1, rank=1, world_size=2)] == [1]
    assert table.profile().rows == 2


LATIN = pa.array([b"ok", b"M\xfcller"]).view(pa.string())


@pytest.mark.parametrize(
    "made",
    [
        lambda text: text,
        lambda text: text.cast(pa.large_string()),
        lambda text: text.dictionary_encode(),
        lambda text: pa.StructArray.from_arrays([text], ["s"]),
        lambda text: pa.ListArray.from_arrays(range(len(text) + 1), text),
        lambda text: pa.MapArray.from_arrays(range(len(text) + 1), text, text),
    ],
    ids=["string", "large_string", "dictionary", "struct", "list", "map"],
)
@pytest.mark.parametrize("encoded", [parquet, arrow, stream])
def test_text_that_is_no_utf8_is_told_with_its_file(place, encoded, made):
    """Arrow believes what a file says of its text, and everything that text is handed to fails in its own way."""
    place.put({str(n): encoded(pa.table({"n": made(LATIN[:n])})) for n in (1, 2)})
    for way in ways(rh.table(path=place.url, format="parquet" if encoded is parquet else "arrow")):
        with pytest.raises(errors.InvalidError, match=r"column 'n' has text that is not UTF-8 \[.*/2\]"):
            way()


@pytest.mark.parametrize("more", [{}, {"schema": {"n": "string"}}], ids=["", "given"])
def test_late_text_of_csv_that_is_no_utf8_has_another_encoding(place, more):
    """The first block says that the column is text, and text it stays."""
    place.put({"1.csv": b"n\n" + b"name\n" * 300_000 + b"M\xfcller\n"})
    for way in ways(rh.table(path=place.url, **more)):
        with pytest.raises(errors.InvalidError, match=r"'n' has text that is not UTF-8.*\n.*encoding.*latin-1"):
            way()
    latin = rh.table(path=place.url, options={"encoding": "latin-1"}, **more)
    assert latin.to_arrow()["n"].to_pylist()[-1] == "Müller"


def test_a_key_of_json_lines_that_is_no_utf8_is_told_with_its_line(place):
    place.put({"1.jsonl": b'{"n": 1}\n{"n": 2, "M\xfcller": 3}\n'})
    for way in ways(rh.table(path=place.url)):
        with pytest.raises(errors.InvalidError, match=r"line 2 of this file is not UTF-8.*\n.*iconv"):
            way()


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (b"n;m\n1;2,5\n2;3\n", {"delimiter": ";"}),
        ("n,m\n1,2\n2,3\n".encode("utf-16"), {"encoding": "utf-16"}),
        ("n,Größe\n1,2\n2,3\n".encode("latin-1"), {"encoding": "latin-1"}),
    ],
    ids=["delimiter", "utf-16", "latin-1"],
)
def test_csv_of_another_form_is_told_of_with_the_options_for_it(place, data, options):
    place.put({"1.csv": data})
    for way in ways(rh.table(path=place.url)):
        with pytest.raises(errors.IntegrityError, match=r"\n.*delimiter.*encoding"):
            way()
    for way in ways(rh.table(path=place.url, options=options)):
        assert way() == [1, 2]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_csv_that_has_another_encoding_than_was_said(place, encoding):
    place.put({"1.csv": b"n,m\n1,2\n"})
    for way in ways(rh.table(path=place.url, options={"encoding": encoding})):
        with pytest.raises(errors.IntegrityError, match=r"(?i)utf-?(16|32).*\n.*encoding"):
            way()


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_one_column_that_looks_like_several_is_told_of(place, caplog, delimiter):
    place.put({"1.csv": f"a{delimiter}n\n1{delimiter}2\n".encode()})
    for _ in range(2):
        assert rh.table(path=place.url).to_arrow().num_columns == 1
    assert [one.getMessage().partition("; ")[2] for one in caplog.records] == [
        f"options={{'delimiter': {delimiter!r}}} makes several of it"
    ]
    assert rh.table(path=place.url, options={"delimiter": delimiter}).to_arrow().num_columns == 2


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_later_file_with_more_columns_is_read_with_a_schema(place, form):
    if form == "csv":
        place.put({"1.csv": b"n\n1\n", "2.csv": b"n,m\n2,3\n"})
    else:
        place.put({"1.parquet": parquet(pa.table({"n": [1]})), "2.parquet": parquet(pa.table({"n": [2], "m": [3]}))})
    table = rh.table(path=place.url)
    for read in (table.to_arrow, lambda: list(table.stream(2))):
        with pytest.raises(errors.InvalidError, match=r"'m' is in this file and not.*\n.*schema=.*columns="):
            read()
    both = rh.table(path=place.url, schema={"n": "int64", "m": "int64"})
    assert both.to_arrow().to_pydict() == {"n": [1, 2], "m": [None, 3]}


def test_a_key_within_objects_of_a_later_file(place):
    """The fix that is named works: the columns are the first file's, however much of it is read at once."""
    place.put({"1.jsonl": b'{"n": {"y": 1}}\n', "2.jsonl": b'{"n": {"y": 2, "z": 3}}\n'})
    with pytest.raises(
        errors.InvalidError, match=r"column 'n\.z'.*\n.*\"n\": pyarrow\.struct.*columns=\['n'\]"
    ) as caught:
        rh.table(path=place.url).to_arrow()
    assert "block_size" not in str(caught.value)
    kind = pa.struct([("y", pa.int64()), ("z", pa.int64())])
    both = [{"y": 1, "z": None}, {"y": 2, "z": 3}]
    for way in ways(rh.table(path=place.url, options={"column_types": {"n": kind}}))[:5]:
        assert way() == both
    assert rh.table(path=place.url).to_arrow(columns=["n"])["n"].to_pylist() == [{"y": 1}, {"y": 2}]


def test_text_that_is_no_utf8_is_read_as_bytes(place):
    place.put({"1.parquet": parquet(pa.table({"n": LATIN}))})
    place.put({"lines/1.jsonl": b'{"n": "ok"}\n{"n": "M\xfcller"}\n'})
    for part in ("1.parquet", "lines"):
        table = rh.table(path=f"{place.url}/{part}", options={"column_types": {"n": "binary"}})
        for way in ways(table):
            assert [bytes(value) for value in way()] == [b"ok", b"M\xfcller"]


def test_text_of_json_lines_that_is_no_utf8_is_told_with_its_line(place):
    place.put({"1.jsonl": b'{"n": "a"}\n', "2.jsonl": b'{"n": "b"}\n\n{"n": "M\xfcller"}\n'})
    for way in ways(rh.table(path=place.url)):
        with pytest.raises(errors.InvalidError, match=r"line 3 of this file is not UTF-8.*/2.jsonl\]\n.*iconv.*binary"):
            way()


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (b"made by x\nn,word\n1,x\n2,y\n", {}),
        (b"made by x\r\n\r\nn,word\r\n1,x\r\n2,y", {}),
        (b"made by x\r\rword;n\rx;1\ry;2\r", {"delimiter": ";"}),
        (b"\xef\xbb\xbfa,b,c\nn,word\n1,x\n2,y\n", {}),
        ("made by ü\nn,word\n1,x\n2,y\n".encode("utf-16-le"), {"encoding": "utf-16-le"}),
        ("made by ü\nn,word\n1,x\n2,y\n".encode("latin-1"), {}),
        (b"a,b,c\n1,x\n2,y\n", {"autogenerate_column_names": True}),
    ],
)
def test_lines_before_the_header_of_a_csv_file(place, data, options):
    """They have any number of fields; Arrow's datasets would take them for rows."""
    place.put({"1.csv": data})
    table = rh.table(path=place.url, options={"skip_rows": 1, **options})
    if "autogenerate_column_names" in options:
        assert table.to_arrow().to_pydict() == {"f0": [1, 2], "f1": ["x", "y"]}
        return
    for way in ways(table):
        assert way() == [1, 2]
    assert table.num_rows == 2


@pytest.mark.parametrize("preamble", [0, 1])
def test_lines_behind_the_header_of_a_csv_file_are_not_counted(place, preamble):
    place.put({"1.csv": b"made by x\n" * preamble + b"n,word\nm,unit\n1,x\n2,y\n"})
    table = rh.table(path=place.url, options={"skip_rows": preamble, "skip_rows_after_names": 1})
    for way in ways(table):
        assert way() == [1, 2]
    shares = [batch["n"].to_pylist() for rank in (0, 1) for batch in table.stream(2, rank=rank, world_size=2)]
    assert (table.num_rows, shares) == (2, [[1], [2]])


def test_each_csv_file_has_its_own_header_behind_other_lines(place):
    files = {"1.csv": b"x\nn,word\n1,x\n", "2.csv.gz": gzip.compress(b"y,y,y\n\nword,n\ny,2\n"), "3.csv": b""}
    place.put(files)
    options = {"skip_rows": 1}
    for way in ways(rh.table(path=place.url, options=options)):
        assert way() == [1, 2]
    given = rh.table(path=place.url, options=options, schema={"word": "string", "n": "int8"})
    assert given.to_arrow().to_pydict() == {"word": ["x", "y"], "n": [1, 2]}
    place.put({"4.csv": b"z\nn,word,more\n3,z,1\n"})
    with pytest.raises(errors.InvalidError, match="'more' is in this file and not in the first") as caught:
        rh.table(path=place.url, options=options).to_arrow()
    assert "4.csv" in caught.value.where
    place.put({"4.csv": b"nothing else\n"}, overwrite=True)
    with pytest.raises(errors.InvalidError, match="no header behind skip_rows=1") as caught:
        rh.table(path=place.url, options=options).to_arrow()
    assert "4.csv" in caught.value.where


def test_a_long_row_behind_lines_before_the_header(place):
    """It is read again in larger blocks, and the header is found again."""
    place.put({"1.csv": b"x\nn,word\n1,x\n2," + b"y" * (3 << 20) + b"\n3,z\n"})
    for way in ways(rh.table(path=place.url, options={"skip_rows": 1})):
        assert way() == [1, 2, 3]


LARGE = 13816973012072644543
"""A whole number that `int64` does not hold, and `double` rounds."""


def numbers(kind, values) -> bytes:
    head, row = ("n\n", "{}\n") if kind == "csv" else ("", '{{"n": {}}}\n')
    return (head + "".join(map(row.format, values))).encode()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("files", [[[LARGE, 12]], [[(1 << 62) + 1], [LARGE]], [[LARGE], [(1 << 62) + 1]]], ids=str)
def test_whole_numbers_of_64_bits_unsigned_in_text(place, kind, files):
    """They are themselves, in their own file and in the others."""
    place.put({f"{at}.{kind}": numbers(kind, values) for at, values in enumerate(files)})
    table = rh.table(path=place.url)
    assert table.schema.field("n").type == pa.uint64()
    for way in WAYS:
        assert sorted(way(table)) == sorted(n for values in files for n in values)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_negative_numbers_beside_unsigned_ones_in_text(place, kind):
    """No type of Arrow's holds both: an error that says how to read them, and none of them is rounded."""
    place.put({f"0.{kind}": numbers(kind, [-1]), f"1.{kind}": numbers(kind, [LARGE])})
    with pytest.raises(errors.InvalidError, match="'n'") as caught:
        rh.table(path=place.url).to_arrow()
    assert '{"column_types": {"n": "decimal128(20, 0)"}}' in str(caught.value)
    table = rh.table(path=place.url, options={"column_types": {"n": "decimal128(20, 0)"}})
    assert table.to_arrow()["n"].to_pylist() == [-1, LARGE]
    place.put({f"0.{kind}": numbers(kind, [1.5]), f"1.{kind}": numbers(kind, [1e300, LARGE])}, overwrite=True)
    assert rh.table(path=place.url).to_arrow()["n"].to_pylist() == [1.5, 1e300, float(LARGE)]


def test_a_csv_file_of_nothing_but_its_header(place):
    place.put({"1.csv": b"n,word\n", "2.csv": b"n,word\n7,x\n", "3.csv": b"n,word\n"})
    table = rh.table(path=place.url)
    assert table.schema == pa.schema({"n": pa.int64(), "word": pa.string()})
    for way in ways(table):
        assert way() == [7]


def test_nothing_but_empty_files(place):
    place.put({"1.csv": b"", "2.csv": b""})
    with pytest.raises(errors.InvalidError, match="the files are empty"):
        rh.table(path=place.url).to_arrow()
    assert rh.table(path=place.url).num_rows == 0
    rh.table(path=place.url).rm()
    assert place.ls() == []


def test_an_empty_parquet_file_is_damaged(place):
    place.put({"1.parquet": parquet(column([1], pa.int64())), "2.parquet": b""})
    with pytest.raises(errors.IntegrityError, match=r"2\.parquet"):
        rh.table(path=place.url).to_arrow()


# JSON lines

MANY = b'{"n": 1}\n' * 200_000


@pytest.mark.slow
def test_a_key_that_only_later_lines_have_is_an_error_that_names_it(place):
    place.put({"1.jsonl": MANY + b'{"n": 2, "late": "x"}\n'})
    for way in [way for at, way in enumerate(ways(rh.table(path=place.url))) if at not in (1, 4, 5)]:
        with pytest.raises(errors.InvalidError, match="column 'late' is in this file") as caught:
            way()
        assert "1.jsonl" in caught.value.where
        assert 'options={"column_types": {"late": "string"}}' in caught.value.hint
    with pytest.raises(errors.InvalidError, match="column 'late'"):
        rh.table(path=place.url).sql("select * from t")
    assert len(rh.table(path=place.url).to_arrow(columns=["n"])) == 200_001
    assert sum(map(len, rh.table(path=place.url).stream(5000, columns=["n"]))) == 200_001
    known = rh.table(path=place.url, options={"column_types": {"late": "string"}})
    assert known.schema == pa.schema({"n": pa.int64(), "late": pa.string()})
    assert known.to_arrow()["late"].to_pylist()[-2:] == [None, "x"]
    assert known.sql("select late from t where late is not null").to_pylist() == [{"late": "x"}]


def test_a_key_inside_an_object_is_told_too(place):
    place.put(
        {"1.jsonl": b'{"n": {"a": 1}, "l": [{"b": 1}]}\n' * 80_000 + b'{"n": {"a": 1}, "l": [{"b": 1}, {"c": 2}]}\n'}
    )
    with pytest.raises(errors.InvalidError, match=r"column 'l\.c' is in this file"):
        rh.table(path=place.url).to_arrow()


def test_keys_that_lines_do_not_have_are_null(place):
    place.put({"1.jsonl": b'{"n": 1, "a": "x"}\n{"n": 2}\n', "year=2026/2.jsonl": b'{"n": 3}\n'})
    with pytest.raises(errors.InvalidError, match="partition columns"):
        rh.table(path=place.url).to_arrow()
    place.rm("year=2026/2.jsonl")
    place.put({"2.jsonl": b'{"n": 3}\n'})
    table = rh.table(path=place.url)
    assert table.to_arrow().to_pydict() == {"n": [1, 2, 3], "a": ["x", None, None]}
    assert pa.Table.from_batches(list(table.stream(2))).to_pydict() == table.to_arrow().to_pydict()


@pytest.mark.slow
def test_many_that_read_at_once(place):
    """More than Arrow has threads for: none waits for another."""
    place.put({f"{n}.jsonl": b'{"n": 1, "m": "%s"}\n' % (b"x" * 99) * 20_000 for n in range(2)})
    table = rh.table(path=place.url)
    with ThreadPoolExecutor(2 * pa.io_thread_count()) as threads:
        assert [len(rows) for rows in threads.map(lambda _: table.to_arrow(), range(48))] == [40_000] * 48


def test_a_column_of_lines_that_is_left_out(place):
    place.put({"1.jsonl": b'{"n": 1, "m": 1}\n', "2.jsonl": b'{"n": 2, "m": "x"}\n'})
    table = rh.table(path=place.url)
    assert table.to_arrow(columns=["n"])["n"].to_pylist() == [1, 2]
    assert table.to_arrow(columns=["n"], where=[("n", ">", 1)])["n"].to_pylist() == [2]
    assert table.sql("select count(*) as c from t where n > 1").to_pylist() == [{"c": 1}]
    with pytest.raises(errors.InvalidError, match="column 'm' is string"):
        table.to_arrow()


def test_json_lines_in_directories_that_say_a_column(place):
    place.put({"k=a/1.jsonl": b'{"n": 1}\n', "k=b/1.jsonl": b'{"n": 2}\n{"n": 3}\n'})
    table = rh.table(path=place.url)
    assert table.to_arrow(where=[("k", "==", "b")]).to_pydict() == {"n": [2, 3], "k": ["b", "b"]}
    assert table.sql("select k, count(*) as c from t group by k order by k").to_pydict() == {
        "k": ["a", "b"],
        "c": [1, 2],
    }
    for way in ways(table):
        assert way() == [1, 2, 3]


def test_a_json_array_is_no_json_lines(place):
    place.put({"a.json": b' [{"n": 1},\n {"n": 2}]', "b.jsonl": b'[{"n": 1}]\n'})
    for name in ("a.json", "b.jsonl"):
        table = rh.table(path=place.url + "/" + name)
        for work in (table.to_arrow, lambda table=table: table.num_rows, lambda table=table: table.schema):
            with pytest.raises(errors.InvalidError, match="one JSON array") as caught:
                work()
            assert name in caught.value.where


@pytest.mark.parametrize(("values", "types"), [((b"1", b'"x"'), "string int64"), ((b'"x"', b"1"), "number string")])
def test_a_line_whose_value_is_of_another_kind(place, values, types):
    have, want = types.split()
    place.put({f"{n}.jsonl": b'{"n": ' + value + b"}\n" for n, value in enumerate(values)})
    for way in ways(rh.table(path=place.url)):
        with pytest.raises(
            errors.InvalidError, match=f"column 'n' is {have} in line 1 of this file and {want}"
        ) as caught:
            way()
        assert "1.jsonl" in caught.value.where


@pytest.mark.slow
def test_a_fraction_in_a_later_line(place):
    place.put({"1.jsonl": MANY + b'{"n": 2.5}\n'})
    for way in ways(rh.table(path=place.url))[:6]:
        with pytest.raises(
            errors.InvalidError, match=r"number in line \d+ .*int64 in the table: 2\.5.*1\.jsonl"
        ) as caught:
            way()
        assert '{"n": "float64"}' in caught.value.hint
    given = rh.table(path=place.url, options={"column_types": {"n": "float64"}})
    assert given.to_arrow()["n"].to_pylist()[-1] == 2.5


def test_files_that_end_with_json(place):
    place.put({"a.json": b'{"n": 1}\n{"n": 2}\n'})
    assert rh.table(path=place.url + "/a.json").to_arrow()["n"].to_pylist() == [1, 2]
    with pytest.raises(errors.InvalidError) as caught:
        rh.table(path=place.url).to_arrow()
    assert 'format="jsonl"' in caught.value.hint
    assert rh.table(path=place.url, format="jsonl").to_arrow()["n"].to_pylist() == [1, 2]
    place.put({"x.parquet": parquet(column([7], pa.int64()))})  # now the other is something about it
    assert rh.table(path=place.url).to_arrow()["n"].to_pylist() == [7]


# Options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"column_types": 5}, "a dict of columns and types"),
        ({"column_types": {"n": "integer"}}, "'integer' is no type for column 'n'"),
        ({"column_types": {"m": "int64"}}, "no column 'm'"),
        ({"delimiter": ";"}, "for CSV and JSON lines"),
        (5, "options= is a dict"),
    ],
)
def test_options_that_cannot_be(place, options, says):
    place.put({"1.parquet": parquet(column([1], pa.int64()))})
    with pytest.raises(errors.InvalidError, match=says):
        rh.table(path=place.url, options=options).to_arrow()


def test_types_that_are_given(place):
    place.put({"year=2026/1.parquet": parquet(column([1], pa.int64()))})
    table = rh.table(path=place.url, options={"column_types": {"year": "string", "n": pa.float64()}})
    assert table.to_arrow().to_pydict() == {"n": [1.0], "year": ["2026"]}
    assert fragments.given_types(table.opened_files()[1]) == {"year": pa.string(), "n": pa.float64()}
