"""`Blob`: exact bytes everywhere, objects that come back the same, and pickles that run only when trusted."""

import functools
import io
import os
import pickle
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy
import pyarrow
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rh
from rh import config, errors
from rh import digest as digests
from rh.registry import local
from rh.resources import codecs
from rh.systems import locate, memory, open_system
from rh.testing.faults import FaultProxy, Flip

JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffdb0043") + bytes(range(256)) + b"\xff\xd9"
EXACT = (b"", b"\x00", b"a\r\nb\nc\r", b"\xef\xbb\xbfbom", JPEG, b"\x1a\x1a", os.urandom(70_000))


def same(one, other):
    if isinstance(one, numpy.ndarray):
        return isinstance(other, numpy.ndarray) and one.dtype == other.dtype and numpy.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, pyarrow.Table):  # of which no chunk need have the dictionary it had
        return one.schema.equals(other.schema, check_metadata=True) and one.to_pylist() == other.to_pylist()
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("data", EXACT)
def test_bytes_are_exact(folder, data):
    place = (folder / "blob").location
    blob = rh.blob(data, path=place.path, system=place.system) if folder.system == "file" else rh.blob(data).to(place)
    blob = blob if blob.written else blob.write()
    assert blob.read() == blob.data == blob.fetch() == data
    assert blob.open().read() == data
    assert blob.size() == len(data)
    assert blob.exists_in_system()
    assert blob.verify()
    assert blob.digest() == blob.stamp.digest


OBJECTS = [
    (b"\x00\xff\r\n", "bytes"),
    ("grüß\r\n😀", "text"),
    ({"a": [1, 2.5, None, True, {"b": "é"}], "": -1}, "json"),
    ([], "json"),
    (10**40, "json"),
    (True, "json"),
    (numpy.arange(12, dtype="<i2").reshape(3, 4), "npy"),
    (numpy.array(3.5), "npy"),
    (numpy.asfortranarray(numpy.eye(3)), "npy"),
    (numpy.array([("a", 1)], dtype=[("s", "U1"), ("n", "i4")]), "npy"),
    (pyarrow.table({"n": [1, 2], "s": ["a", None]}).replace_schema_metadata({"k": "v"}), "arrow"),
    (pyarrow.table({"c": pyarrow.chunked_array([[1], [2, 3]])}), "arrow"),
    ({"w": numpy.ones((2, 3), "float32"), "b": numpy.zeros(3, "float64")}, "safetensors"),
    ({"rate": numpy.array(0.5), "t": numpy.eye(2, 3).T}, "safetensors"),
    (
        pyarrow.concat_tables(pyarrow.table({"c": pyarrow.array([word]).dictionary_encode()}) for word in "ab"),
        "arrow",
    ),
]


@pytest.mark.parametrize(("value", "serializer"), OBJECTS, ids=lambda value: value if isinstance(value, str) else "")
def test_an_object_comes_back_the_same_in_another_process(value, serializer, python):
    blob = rh.blob(value, name="b").save()
    assert blob.serializer == serializer
    assert same(rh.blob(name="b").fetch(), value)
    out = python("import rh; b = rh.load('b'); print(b.serializer, b.digest(), type(b.data).__module__.split('.')[0])")
    module = type(value).__module__.split(".")[0]
    assert out == f"{serializer} {blob.digest()} {module}\n"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_json_gives_back_what_it_takes(value):
    """Any JSON value comes back equal and of the same types; text that is no Unicode is refused."""
    try:
        encoded = codecs.encode(value, "json")
    except errors.InvalidError:
        with pytest.raises(UnicodeEncodeError):
            repr(value).encode() if "\\ud" not in repr(value) else "\ud800".encode()
        return
    assert repr(codecs.decode(encoded, "json", trust=False, where="x")) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        (1, 2),
        {1: "a"},
        {"a": (1,)},
        float("nan"),
        {"a": {1, 2}},
        {"a": b"x"},
        object(),
        numpy.array([object()]),
        random.Random(1),
        numpy.float64(1.5),
        {"a": numpy.float32(1)},
        "\ud800",
        {"m": numpy.ma.array([1, 2], mask=[False, True])},
        {"m": numpy.array([1j])},
        {"__metadata__": numpy.arange(3)},
        {"\ud800": numpy.arange(3)},
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),
)
def test_what_would_not_come_back_the_same_is_refused(value, tmp_path):
    with pytest.raises(errors.InvalidError):
        rh.blob(value, path=tmp_path / "b").write()
    assert not (tmp_path / "b").exists()


def test_what_json_has_no_room_for_is_refused():
    for value in (10**5000, functools.reduce(lambda inner, _: [inner], range(100_000), 1)):
        with pytest.raises(errors.InvalidError, match="cannot be json"):
            rh.blob(value).write()


def test_the_wrong_serializer_for_an_object():
    for value, serializer in (
        (b"x", "text"),
        ("x", "bytes"),
        ([1], "npy"),
        ("x", "arrow"),
        ({"a": 1}, "safetensors"),
        ({"a": numpy.ma.array([1, 2], mask=[False, True])}, "safetensors"),
        (b"", "yaml"),
    ):
        with pytest.raises(errors.InvalidError):
            rh.blob(value, serializer=serializer).read()


def test_bytes_that_are_not_of_the_serializer(tmp_path):
    (tmp_path / "b").write_bytes(b"\x93NUMPY garbage \xff")
    for serializer in ("text", "json", "npy", "arrow", "safetensors"):
        with pytest.raises(errors.IntegrityError, match=f"not {serializer}"):
            rh.blob(path=tmp_path / "b", serializer=serializer).fetch()
    with pytest.raises(errors.IntegrityError, match="not pickle"):
        rh.blob(path=tmp_path / "b", serializer="pickle").fetch(trust=True)


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_a_pickle_is_never_run_without_trust(tmp_path, python):
    """Promise 35."""
    canary = tmp_path / "canary"
    blob = rh.blob(Canary(canary), name="b", path=tmp_path / "b", serializer="pickle").save()
    planted = rh.blob(path=tmp_path / "b", serializer="pickle")
    for one in (blob, rh.blob(name="b"), rh.load("b"), planted):
        for call in (
            one.fetch,
            lambda b=one: b.data,
            lambda b=one: b.fetch(trust=False),
            lambda b=one: b.fetch(trust=1),
        ):
            with pytest.raises(errors.AccessError, match="pickle") as caught:
                call()
            assert "trust=True" in caught.value.hint
        assert one.read().startswith(b"\x80\x05")
        assert one.verify() or one is planted
        assert one.local() == tmp_path / "b"
        one.open().close()
        repr(one), one._repr_html_(), one.config()
    assert not canary.exists()
    # Bytes that say they are something else are not unpickled either, nor is a record, a numpy file, a manifest.
    data = blob.read()
    array = io.BytesIO()
    numpy.save(array, numpy.array([Canary(canary)], dtype=object), allow_pickle=True)
    for serializer, planted_bytes in (
        ("npy", array.getvalue()),
        ("npy", data),
        ("arrow", data),
        ("json", data),
        ("safetensors", data),
        ("text", data),
    ):
        (tmp_path / "c").write_bytes(planted_bytes)
        with pytest.raises(errors.IntegrityError):
            rh.blob(path=tmp_path / "c", serializer=serializer).fetch()
    assert rh.blob(path=tmp_path / "b").fetch() == data
    assert not canary.exists()
    rh.blob(name="b").fetch(trust=True)
    assert canary.is_dir()


def test_a_record_cannot_make_a_pickle_of_other_bytes(tmp_path):
    blob = rh.blob(b"bytes", name="b", path=tmp_path / "b").save()
    local().update("resources/~/b", lambda document: {**document, "serializer": "pickle"})
    with pytest.raises(errors.AccessError):
        rh.blob(name="b").fetch()
    local().update("resources/~/b", lambda document: {**document, "serializer": "marshal"})
    with pytest.raises(errors.IntegrityError, match="marshal"):
        rh.blob(name="b")
    assert blob.read() == b"bytes"


def test_an_object_stays_where_it_is_until_it_is_written():
    home = Path(os.environ["RH_HOME"])
    blob = rh.blob({"a": 1}, name="b")
    assert (blob.written, blob.exists_in_system(), blob.fetch(), blob.read()) == (False, False, {"a": 1}, b'{"a":1}')
    assert blob.size() == 7
    assert blob.open("r").read() == '{"a":1}'
    assert not home.exists() or os.listdir(home) == []
    assert not rh.exists("b")
    with pytest.raises(errors.InvalidError, match="not written"):
        blob.config()
    written = blob.write()
    assert (written.written, written.path, blob.written) == (True, str(home / "data" / "b"), False)
    assert not rh.exists("b")
    written.save()
    assert rh.blob(name="b") == written


def test_the_place_of_an_unnamed_blob():
    home = Path(os.environ["RH_HOME"])
    blob = rh.blob(b"x").write()
    assert blob.path == str(home / "data" / blob.digest().replace(":", "-"))
    assert rh.blob(b"x", system="memory").write().url == "memory://data/" + blob.digest().replace(":", "-")
    assert rh.blob(b"y", name="org/n", system="memory").url == "memory://data/org/n"


def test_write_replaces_and_keeps_the_place(folder):
    place = (folder / "b").location
    first = rh.blob("one").to(place)
    second = first.write([1, 2])
    assert (second.location, second.serializer, second.fetch()) == (place, "json", [1, 2])
    assert second.write("three").fetch() == "three"
    with pytest.raises(errors.InvalidError, match="nothing to write"):
        second.write()
    assert first.fetch() == "three", "the place is live: a blob reads what is there"


def test_a_saved_blob_is_written_as_its_record_says(tmp_path):
    """Else others would read text as a number, or what they cannot read at all."""
    for value, other in (("one", 5), ({"a": 1}, "123"), ("two", numpy.arange(3))):
        saved = rh.blob(value, name="b", path=tmp_path / "b").save(overwrite=True)
        with pytest.raises(errors.InvalidError, match=f"is saved as {saved.serializer}"):
            rh.blob(name="b").write(other)
        assert rh.blob(name="b").fetch() == value
        saved.write(value).write(data=value, serializer=saved.serializer)
        rh.blob(other, name="b", path=tmp_path / "b").save()
        assert same(rh.blob(name="b").fetch(), other)
    rh.blob(path=tmp_path / "b").save("bytes").write({"a": 1})
    assert rh.blob(name="bytes").fetch() == b'{"a":1}'


def test_to(folder, tmp_path):
    blob = rh.blob(JPEG, name="cat", path=tmp_path / "cat.jpg").save()
    copy = blob.to(folder.location / "copy.jpg")
    assert copy.read() == JPEG
    assert (copy.name, copy.location) == ("~/cat", folder.location / "copy.jpg")
    assert copy.receipt.bytes_moved == len(JPEG)
    assert copy.verify()
    back = copy.to(path=tmp_path / "back") if folder.system == "file" else copy.to("here", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == JPEG == back.read()
    assert copy.to(copy.location) is copy
    into = blob.to(folder.url + "/dir/")
    assert into.url == folder.url + "/dir/cat.jpg"
    assert (folder / "dir").ls(full_paths=False) == ["cat.jpg"]
    assert sorted(folder.ls(full_paths=False)) == ["copy.jpg", "dir/"]
    moved = copy.save()
    assert rh.blob(name="cat") == moved
    assert blob.plan(folder.location / "x").bytes_to_move == len(JPEG)
    with pytest.raises(errors.InvalidError, match="dry run"):
        blob.to(folder.location / "x", dry_run=True)


def test_rm_removes_the_blob_and_nothing_else(folder):
    folder.put({"b": b"1", "b2": b"2", "b.txt": b"3", "c/b": b"4"})
    place = folder.location / "b"
    blob = type(rh.blob(b""))(location=place, host=folder.host)
    blob.rm()
    assert not blob.exists_in_system()
    with pytest.raises(errors.NotFoundError):
        blob.rm()
    with pytest.raises(errors.NotFoundError):
        blob.read()
    assert folder.ls(full_paths=False) == ["b.txt", "b2", "c/"]


def test_open_for_writing(folder):
    blob = type(rh.blob(b""))(location=folder.location / "b", host=folder.host)
    with blob.open("w") as file:
        file.write("text")
    assert blob.read() == b"text"
    with pytest.raises(RuntimeError), blob.open("wb") as file:  # noqa: PT012
        file.write(b"half")
        raise RuntimeError
    assert blob.read() == b"text"


def test_damage_is_noticed_and_a_change_is_not_called_damage():
    blob = rh.blob(os.urandom(1000)).to("memory://s/b")
    blob.save("b")
    thing = memory._stores["s"].objects["b"]
    thing.data = b"\0" + thing.data[1:]
    for one in (blob, rh.blob(name="b")):
        with pytest.raises(errors.IntegrityError, match="not what was stored"):
            one.read()
        with pytest.raises(errors.IntegrityError):
            one.open().read()
        verification = one.verify()
        assert (bool(verification), verification.corrupt, verification.modified) == (False, ("b",), ())
    rh.blob(b"new", path="memory://s/b").write()
    assert blob.read() == b"new"
    assert blob.verify().modified == ("b",)


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, digests.CHUNK + 1])
def test_damaged_bytes_go_nowhere(folder, here, size):
    """Read, streamed, copied, put elsewhere, kept here: what is not what was stored is an error, and leaves no copy."""
    blob = rh.blob(bytes(size), name="rotten", path=(folder / "rotten").url).save()
    wrong = digests.of_bytes(b"\1" + bytes(size - 1)).text
    rotten = replace(blob, stamp=replace(blob.stamp, digest=wrong)).save()  # as if a bit had flipped since
    assert rotten.verify().corrupt == ("rotten",)
    ways = [
        rotten.read,
        lambda: rotten.open().read(),
        lambda: list(rotten.stream()),
        lambda: rotten.to(path=(here / "copy").url),
        lambda: here.put({"put": rotten}),
    ]
    for way in ways if folder.system == "file" else [*ways, rotten.local]:
        with pytest.raises((errors.IntegrityError, errors.TransferError), match=r"not (what was s|those)"):
            way()
    assert here.ls() == []
    assert blob.to(path=(here / "copy").url).read() == blob.open().read() == bytes(size)


def test_it_is_a_value(tmp_path):
    blob = rh.blob(b"x", name="b", path=tmp_path / "b", metadata={"n": 1}).write()
    assert rh.Blob.from_config(blob.config()) == blob
    assert pickle.loads(pickle.dumps(blob)) == blob
    assert hash(blob) == hash(rh.Blob.from_config(blob.config()))
    assert rh.blob(b"x") != rh.blob(b"y")
    unwritten = rh.blob([1], name="u")
    assert unwritten == unwritten  # noqa: PLR0124
    assert pickle.loads(pickle.dumps(unwritten)).fetch() == [1]
    assert "not written" in repr(rh.blob(b"x"))
    assert "holds" in unwritten._repr_html_()
    assert os.fspath(blob) == str(tmp_path / "b")
    with pytest.raises(errors.UnsupportedError):
        os.fspath(rh.blob(path="memory://s/b"))


def test_local(folder):
    blob = rh.blob(JPEG).to(folder.location / "cat.jpg")
    assert blob.local().read_bytes() == JPEG
    assert blob.local().name == "cat.jpg"
    with pytest.raises(errors.InvalidError, match="not written"):
        rh.blob(b"x").local()


def test_the_first_argument_is_data():
    assert rh.blob("name?").fetch() == "name?"
    with pytest.raises(errors.NotFoundError):
        rh.blob(name="name")
    with pytest.raises(errors.InvalidError, match="root"):
        rh.blob(b"x", path="memory://store").write()


def test_a_file_at_the_top_of_a_repository(git_server):
    git_server.make_repository("team/top")
    git_server.commit("team/top", {"top.txt": b"top", "sub/deep.txt": b"deep"})
    url = f"git+{git_server.url}/team/top.git"
    assert rh.blob(path=f"{url}/top.txt").fetch() == b"top"
    assert rh.blob(path=f"{url}/sub/deep.txt").fetch() == b"deep"
    assert rh.blob(path="github://owner/repo@main/README.md").handle()[1] == "README.md"
    for root in (url, f"{url}/", "github://owner/repo@main", "memory://store"):
        with pytest.raises(errors.InvalidError, match="root of a place"):
            rh.blob(path=root).fetch()


@pytest.mark.parametrize("fixture", ["s3_server", "azure_server"])
def test_what_others_stored_is_compared_with_the_store_s_checksum(fixture, request):
    """Promise 1: of a blob that `rh` knows nothing about, and of a file of a folder without a manifest."""
    server = request.getfixturevalue(fixture)
    config.register("clean", server.settings())
    open_system(locate("told", "clean")).write("f", bytes(100_000))
    flip = {"direction": "down", "match": lambda request: request.method == "GET" and request.path.endswith("/f")}
    with FaultProxy(server.port, [Flip(**flip)], http=True) as proxy:
        config.register("bad", server.settings(via=proxy.port))
        folder = rh.folder(path="told", system="bad")
        blob = rh.blob(path="told/f", system="bad")
        for read in (blob.read, lambda: folder.get("f")):
            with pytest.raises(errors.IntegrityError, match="vouches"):
                read()
        assert proxy.counts.faults["Flip"] >= 2


@pytest.mark.parametrize("serializer", [None, "safetensors"])
def test_tensors_are_told_how_they_go(tmp_path, serializer):
    """They are pickled only by those who ask for it, and safetensors gives back arrays."""
    weight = torch.nn.Parameter(torch.ones(2))
    for value in (weight, {"w": weight}, {"w": weight.data}):
        with pytest.raises(errors.InvalidError, match=r"safetensors.*numpy") as caught:
            rh.blob(value, path=tmp_path / "w", serializer=serializer).write()
        assert "pickle" not in str(caught.value)
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in {"w": weight}.items()}
    written = rh.blob(arrays, path=tmp_path / "w", serializer="safetensors").write()
    assert written.fetch()["w"].tolist() == [1, 1]
