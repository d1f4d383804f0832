"""Google Cloud Storage on fake-gcs-server: the contract, and what is particular to this store."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import secrets
import select
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rh.errors import (
    AccessError,
    ConflictError,
    DeadlineError,
    ExistsError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from rh.observe import counting
from rh.systems.abilities import Bucketed, Multipart, Paging, ServerCopy, Signing, Sweeping, Versioned
from rh.systems.base import Body
from rh.systems.far import net
from rh.systems.gcs import GCSSystem, parts
from rh.systems.objects import http
from rh.systems.objects.failures import NoBucketError
from rh.systems.objects.http import parse_endpoint
from rh.systems.wrap import wrap
from rh.testing.faults import Cut, DropAnswer, FaultProxy, Flip, Repeat, Request, Status, Swallow, Truncate
from rh.testing.servers import GCSServer
from rh.testing.systems import SystemSuite, noise, pieces
from rh.types import ABSENT, Entry, Location, Match, SignedRequest

MIB = 1 << 20


def place(server: GCSServer, path: str | None = None, **more: Any) -> GCSSystem:
    root = path if path is not None else f"{server.buckets[0]}/t{secrets.token_hex(6)}"
    return GCSSystem.open(Location("gs", root), server.settings(**{"timeout_s": 20.0, **more}))


def send(request: SignedRequest, data: bytes | None = None) -> tuple[int, bytes]:
    """What a stranger without any library of ours does with a signed request."""
    query = urllib.request.Request(request.url, data=data, method=request.method, headers=dict(request.headers))
    with urllib.request.urlopen(query, timeout=20) as answer:
        return answer.status, answer.read()


class TestOnFakeGCSServer(SystemSuite):
    """The conformance suite. Line ends are the one thing names of this store cannot hold."""

    abilities: ClassVar[frozenset[Any]] = frozenset(
        {Bucketed, Multipart, Paging, ServerCopy, Signing, Sweeping, Versioned}
    )
    refused: ClassVar[Mapping[str, type[RhError]]] = {"new\nline": NameClashError}

    @pytest.fixture
    def system(self, gcs_server: GCSServer) -> GCSSystem:
        return place(gcs_server)


@pytest.fixture
def system(gcs_server: GCSServer) -> GCSSystem:
    return place(gcs_server)


@pytest.fixture
def proxy(gcs_server: GCSServer) -> Iterator[FaultProxy]:
    with FaultProxy(gcs_server.port, http=True, seed=1) as proxy:
        yield proxy


def writing(request: Request) -> bool:
    return request.method in ("POST", "PUT") and request.path.startswith("/upload/")


def composing(request: Request) -> bool:
    return request.path.endswith("/compose")


# What the server gets wrong: each of these fails when it improves, and then a gap in the tests can be closed.


def test_canary_preconditions_that_the_server_ignores(system: GCSSystem) -> None:
    """Resumable uploads, composing, deleting and downloading go ahead whatever the generation is."""
    api = system._api
    old = system.write("k", b"one").etag
    system.write("k", b"two")
    what = system._target("k")
    session = api.begin(what, size=3, when=ABSENT, stamp=None)
    crc = google_crc32c.value(b"six")
    made = api.append(what, session, (b"six",), 0, 3, crc=crc, last=True, when=ABSENT)
    assert made is not None
    assert system.read("k").read() == b"six"
    api.compose(what, [(what.name, made.generation)], when=ABSENT)
    answer = api.open(what, None, Match(old or ""))
    assert answer.status == 200
    assert answer.read() == b"six"
    assert api.delete(what, "1") is None
    with pytest.raises(NotFoundError):
        system.head("k")


def test_canary_checksums_that_the_server_ignores(system: GCSSystem) -> None:
    """It accepts bytes that are not what their checksum says, in one request and in a session."""
    what = system._target("k")
    made = system._api.insert(what, (b"abc",), 3, 1)
    assert made.crc == google_crc32c.value(b"abc")
    session = system._api.begin(what, size=3, when=ABSENT, stamp=None)
    last = system._api.append(what, session, (b"abc",), 0, 3, crc=1, last=True, when=ABSENT)
    assert last is not None
    assert last.crc == google_crc32c.value(b"abc")


def test_canary_prefixes_on_every_page(system: GCSSystem) -> None:
    """Common prefixes come whole with the first page, out of turn."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: system.write(f"{n:04d}", b""), range(1001)))
    system.write("zz/x", b"")
    page, _ = system._api.page(system._bucket, system._root, start="", delimiter="/", token=None, where="")
    assert page.next_page_token
    assert page.prefixes == [f"{system._root}zz/"]
    assert [entry.key for entry in system.list(depth=1)] == [*(f"{n:04d}" for n in range(1001)), "zz/"]


# Requests


def test_what_a_verb_costs(system: GCSSystem) -> None:
    """Reads and writes are one request each, and so are the errors that will not go away."""
    entry = system.write("d/a", b"12345")
    for work in (
        lambda: system.write("d/a", b"12345"),
        lambda: system.write("d/b", iter([b"1", b"2"]), size=2),
        lambda: system.write("d/c", b"1", when=ABSENT),
        lambda: system.read("d/a").read(),
        lambda: system.read("d/a", (1, 3), when=Match(entry.etag or "")).close(),
        lambda: system.head("d/a"),
        lambda: list(system.list()),
        lambda: system.delete(["d/a"]),
        lambda: system.delete(["d/b", "d/c", "d/nothing"]),
    ):
        with counting() as counts:
            try:
                work()
            except ConflictError:
                pass
        assert counts.total() == 1
    for work in (
        lambda: system.head("gone"),
        lambda: system.read("gone"),
        lambda: place_of(system, "no-such-bucket").write("x", b"1"),
        lambda: list(place_of(system, "no-such-bucket").list()),
    ):
        with counting() as counts, pytest.raises(NotFoundError):
            work()
        assert counts.total("gs") == 1


def place_of(system: GCSSystem, path: str) -> GCSSystem:
    return GCSSystem.open(Location("gs", path), system.settings)


def test_bytes_are_counted(system: GCSSystem) -> None:
    with counting() as counts:
        system.write("a", bytes(1000))
        system.write("b", pieces(bytes(9 * MIB)))
        system.read("a").read()
        system.read("b", (10, 30)).read()
        upload = system.begin("c", 500, part_size=300)
        upload.finish([upload.put(0, bytes(300)), upload.put(1, bytes(200))])
    assert counts.sent["gs"] == 1000 + 9 * MIB + 500
    assert counts.received["gs"] == 1020


@pytest.mark.parametrize(
    "key",
    ["x" * 1025, "é" * 513, "a\rb", "a\nb", "\ud800", ""],
    ids=["long", "long-utf8", "cr", "lf", "surrogate", "empty"],
)
def test_impossible_names_cost_nothing(system: GCSSystem, key: str) -> None:
    """A name that cannot be is refused before any request, by every verb."""
    with counting() as counts:
        for work in (
            lambda: system.head(key),
            lambda: system.read(key),
            lambda: system.write(key, b""),
            lambda: system.delete([key]),
            lambda: system.begin(key, 10, part_size=10),
            lambda: system.sign_read(key),
        ):
            with pytest.raises(InvalidError):
                work()
    assert counts.total() == 0


def test_the_longest_names(gcs_server: GCSServer) -> None:
    """1,024 bytes with the root, and parts of such an object are found again."""
    system = place(gcs_server)
    room = 1024 - len(system._root)
    for key in ("n" * room, "d/" * ((room - 2) // 2) + "é"):
        upload = system.begin(key, 20, part_size=10)
        upload.finish([upload.put(0, b"0" * 10), upload.put(1, b"1" * 10)])
        assert system.read(key).read() == b"0" * 10 + b"1" * 10
        assert system.sweep() == 0
        with pytest.raises(NameClashError):
            system.write(key + "x" * 3, b"")


def test_roots(gcs_server: GCSServer) -> None:
    """A root with odd slashes is taken as it is; the bucket itself is a root; a bucket is needed."""
    bucket = gcs_server.make_bucket("b" + secrets.token_hex(4)).removeprefix("gs://")
    whole = place(gcs_server, bucket)
    place(gcs_server, f"{bucket}/a//b").write("/c", b"1")
    place(gcs_server, f"{bucket}/d/").write("e", b"2")
    place(gcs_server, f"{bucket}").at("f/g").write("h", b"3")
    assert [entry.key for entry in whole.list()] == ["a//b//c", "d/e", "f/g/h"]
    assert whole.at("d").url("e") == f"gs://{bucket}/d/e"
    with pytest.raises(InvalidError, match="needs a bucket"):
        place(gcs_server, "")


def test_directory_markers_of_other_tools(system: GCSSystem) -> None:
    """A zero-byte `dir/` is an empty directory while nothing is in it; it can be deleted."""
    for name in ("empty/", "full/", "full/x", "hid/", "hid/.rh-x", "data/"):
        body = b"bytes" if name == "data/" else b""
        system._api.insert(system._target("x")._replace(name=system._root + name), (body,), len(body), 0)
    entries = {entry.key: entry.kind for entry in system.list()}
    assert entries == {"data/": "file", "empty/": "dir", "full/x": "file", "hid/": "dir"}
    assert [entry.key for entry in system.list(depth=1)] == ["data/", "empty/", "full/", "hid/"]
    assert [(entry.key, entry.kind) for entry in system.list("empty/", depth=1)] == [("empty/", "dir")]
    system._api.insert(system._target("x")._replace(name=system._root), (), 0, 0)
    assert "" not in {entry.key for entry in system.list()}
    system.delete(["empty/"])
    assert "empty/" not in {entry.key for entry in system.list()}


def test_deeper_listings(system: GCSSystem) -> None:
    for key in ("a", "b/c", "b/d/e", "b/d/f/g", "b/d/h", "i/j/k/l"):
        system.write(key, b"")
    shown = [entry.key for entry in system.list(depth=2)]
    assert shown == ["a", "b/c", "b/d/", "i/j/"]
    with pytest.raises(InvalidError):
        system.list(depth=0)


def test_compressed_objects_come_as_they_are_stored(system: GCSSystem) -> None:
    """The store would unpack what it holds as gzip: sizes, ranges and checksums would be of something else."""
    packed = gzip.compress(noise(10) * 1000)
    what = system._target("log")
    boundary = "b" * 20
    head = f'--{boundary}\r\nContent-Type: application/json\r\n\r\n{{"contentEncoding": "gzip"}}\r\n'
    body = f"{head}--{boundary}\r\nContent-Type: text/plain\r\n\r\n".encode() + packed + f"\r\n--{boundary}--".encode()
    target = f"/upload/storage/v1/b/{what.bucket}/o?uploadType=multipart&name={what.name.replace('/', '%2F')}"
    more = {"Content-Type": f"multipart/related; boundary={boundary}"}
    assert system._api.send("write", "POST", target, where="", more=more, body=(body,)).read()
    assert system.head("log").size == len(packed)
    assert system.read("log").read() == packed
    assert system.read("log", (5, 50)).read() == packed[5:50]
    assert send(system.sign_read("log"))[1] == packed


# Integrity


@pytest.mark.parametrize("size", [4096, 9 * MIB], ids=["whole", "stream"])
def test_a_bit_flipped_on_the_way_up(gcs_server: GCSServer, proxy: FaultProxy, size: int) -> None:
    """The server takes the wrong byte; we do not: an error, and nothing stays under the key."""
    system = place(gcs_server, via=proxy.port)
    proxy.plan = [Flip(direction="up", at=size // 3, times=1, match=writing)]
    if size > 8 * MIB:
        proxy.plan = [Flip(direction="up", at=size // 3, times=1, match=lambda request: request.method == "PUT")]
    data: Any = noise(size) if size < 8 * MIB else pieces(noise(size))
    with pytest.raises(IntegrityError) as caught:
        system.write("k", data)
    assert proxy.counts.faults["Flip"] == 1
    assert caught.value.expected != caught.value.got
    assert list(system.list()) == []


def test_a_damaged_answer_costs_nobody_an_object(gcs_server: GCSServer, proxy: FaultProxy) -> None:
    """When only the answer to a write is damaged, the object is asked for again, and stays."""
    system = place(gcs_server, via=proxy.port)
    whole = system._api.insert(system._target("k"), (b"x" * 5,), 5, 0)
    assert whole.size == 5
    # The answer is JSON of a fixed shape: this hits the digit of `"size":"5"`.
    seen = system._api.call("head", "GET", f"/storage/v1/{system._target('k').path}", where="")
    at = seen.index(b'"size":"5"') + len('"size":"')
    proxy.plan = [Flip(direction="down", at=at, bit=1, times=1, match=writing)]
    entry = system.write("k", b"x" * 5)
    assert proxy.counts.faults["Flip"] == 1
    assert entry == system.head("k")
    assert entry.size == 5


def test_an_answer_without_a_checksum_vouches_for_nothing(gcs_server: GCSServer, proxy: FaultProxy) -> None:
    """A bit flipped in the bytes, and another in the name of the checksum that would have told."""
    system = place(gcs_server, via=proxy.port)
    system.write("k", b"x" * 4096)
    seen = system._api.call("head", "GET", f"/storage/v1/{system._target('k').path}", where="")
    at = seen.index(b'"crc32c"') + 3
    proxy.plan = [
        Flip(direction="up", at=2000, times=1, match=writing),
        Flip(direction="down", at=at, bit=0, times=1, match=writing),
    ]
    with pytest.raises(IntegrityError):
        system.write("k", b"x" * 4096)
    assert proxy.counts.faults["Flip"] == 2
    assert list(system.list()) == []


def into_buffers(body: Body) -> bytes:
    got, buffer = b"", memoryview(bytearray(70_000))
    while count := body.readinto(buffer):
        got += buffer[:count]
    return got


def test_what_is_damaged_or_cut_on_the_way_down(gcs_server: GCSServer, proxy: FaultProxy) -> None:
    """A flipped bit in a whole object, and an answer that ends early, are errors; never other bytes."""
    system = place(gcs_server, via=proxy.port)
    data = noise(300_000)
    system.write("k", data)
    for fault in (Flip(at=1000), Flip(at=-1), Truncate(at=299_999), Truncate(at=0), Cut(at=150_000)):
        proxy.plan = [fault]
        with pytest.raises(IntegrityError):
            system.read("k").read()
        proxy.plan = [fault]
        with pytest.raises(IntegrityError):
            into_buffers(system.read("k"))
    for fault in (Truncate(at=99), Truncate(at=0), Cut(at=50)):
        proxy.plan = [fault]
        with pytest.raises(IntegrityError):
            system.read("k", (100, 200)).read()
    proxy.plan = []
    assert system.read("k").read() == data
    assert into_buffers(system.read("k")) == data


def test_random_damage_is_never_silent(gcs_server: GCSServer, proxy: FaultProxy) -> None:
    """Writes and whole reads through a wire that flips bits in half of all bodies: right, or an error."""
    system = place(gcs_server, via=proxy.port)
    proxy.plan = [Flip(direction="up", probability=0.5), Flip(direction="down", probability=0.5)]
    wrong, failed = [], 0
    for number in range(150):
        data = noise(1 + number * 37, number)
        try:
            system.write(f"k{number}", data)
            if system.read(f"k{number}").read() != data:
                wrong.append(number)
        except (IntegrityError, InvalidError, NotFoundError, ConflictError, UnavailableError):
            failed += 1
    assert wrong == []
    assert proxy.counts.faults["Flip"] > 100
    assert failed > 20


def test_a_stream_that_is_not_as_told_is_never_published(system: GCSSystem) -> None:
    for told in (9 * MIB - 1, 9 * MIB + 1, 20 * MIB, 1):
        with pytest.raises(IntegrityError):
            system.write("k", pieces(bytes(9 * MIB)), size=told)
    assert list(system.list()) == []


def test_buffers_that_are_filled_again(system: GCSSystem) -> None:
    """A stream may hand out the same buffer each time."""

    def refilled() -> Iterator[bytearray]:
        buffer = bytearray(MIB)
        for number in range(10):
            buffer[:] = bytes([number]) * MIB
            yield buffer

    system.write("k", refilled())
    assert system.read("k").read() == b"".join(bytes([number]) * MIB for number in range(10))


# Answers that are lost


@pytest.mark.parametrize("large", [False, True], ids=["whole", "stream"])
def test_a_lost_answer_is_no_conflict(gcs_server: GCSServer, proxy: FaultProxy, large: bool) -> None:
    """Our own create, done but not answered, is recognised when it is tried again; anybody else's is a conflict."""
    system = place(gcs_server, via=proxy.port)
    content = noise(9 * MIB if large else 1000)

    def data(what: bytes = content) -> Any:
        return pieces(what) if large else what

    def last(request: Request) -> bool:
        return request.method == "PUT" and not request.headers.get("content-range", "/*").endswith("/*")

    proxy.plan = [DropAnswer(times=1, match=last if large else writing)]
    with pytest.raises(UnavailableError):
        system.write("k", data(), when=ABSENT)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ExistsError):
        pool.submit(system.write, "k", data(), when=ABSENT).result()
    entry = system.write("k", data(), when=ABSENT)
    assert entry == system.head("k")
    with pytest.raises(ExistsError):
        system.write("k", data(), when=ABSENT)


def test_a_lost_answer_and_other_bytes(gcs_server: GCSServer, proxy: FaultProxy) -> None:
    """Trying again with other bytes is another write, and a lost replacement is recognised like a create."""
    system = place(gcs_server, via=proxy.port)
    proxy.plan = [DropAnswer(times=1, match=writing)]
    with pytest.raises(UnavailableError):
        system.write("k", b"one", when=ABSENT)
    with pytest.raises(ExistsError):
        system.write("k", b"two", when=ABSENT)
    etag = system.head("k").etag
    proxy.plan = [DropAnswer(times=1, match=writing)]
    with pytest.raises(UnavailableError):
        system.write("k", b"three", when=Match(etag or ""))
    assert system.write("k", b"three", when=Match(etag or "")).etag != etag
    with pytest.raises(ConflictError):
        system.write("k", b"three", when=Match(etag or ""))


def test_lost_and_repeated_requests_behind_the_retry_wrapper(gcs_server: GCSServer, proxy: FaultProxy) -> None:
    """With every tenth answer lost and every tenth change made twice, each create succeeds once and is whole."""
    system = wrap(place(gcs_server, via=proxy.port, retries=8))
    proxy.plan = [DropAnswer(probability=0.1), Repeat(probability=0.1)]
    for number in range(60):
        entry = system.write(f"k{number}", b"%d" % number, when=ABSENT)
        assert system.read(f"k{number}", when=Match(entry.etag or "")).read() == b"%d" % number
    proxy.plan = []
    assert len(list(system.list())) == 60


def test_composing_again_after_a_lost_answer(gcs_server: GCSServer, proxy: FaultProxy) -> None:
    system = place(gcs_server, via=proxy.port)
    upload = system.begin("k", 30, part_size=10)
    tags = [upload.put(number, bytes([number]) * 10) for number in range(3)]
    proxy.plan = [DropAnswer(times=1, match=composing)]
    with pytest.raises(UnavailableError):
        upload.finish(tags, when=ABSENT)
    assert upload.finish(tags, when=ABSENT) == system.head("k")
    assert system.sweep() == 0
    other = system.begin("k", 1, part_size=10)
    with pytest.raises(ExistsError):
        other.finish([other.put(0, b"x")], when=ABSENT)
    other.abort()


# Parts


@given(st.lists(st.binary(max_size=300), max_size=8))
@settings(max_examples=60, deadline=None)
def test_checksums_combine(pieces: list[bytes]) -> None:
    assert parts.combine((google_crc32c.value(part), len(part)) for part in pieces) == google_crc32c.value(
        b"".join(pieces)
    )


@pytest.mark.parametrize(("count", "at_once"), [(1, 32), (32, 32), (33, 32), (65, 32), (70, 4)])
def test_many_parts(system: GCSSystem, monkeypatch: pytest.MonkeyPatch, count: int, at_once: int) -> None:
    """More parts than can be composed at once are composed in rounds; nothing of them remains."""
    monkeypatch.setattr(parts, "ROOMY", 0)
    monkeypatch.setattr(parts, "COMPOSE", at_once)
    data = noise(count * 7 - 3, count)
    upload = system.begin("dir/big", len(data), part_size=7)
    assert upload.part_size == 7
    with ThreadPoolExecutor(8) as pool:
        tags = list(pool.map(lambda n: upload.put(n, data[n * 7 : n * 7 + 7]), range(count)))
    entry = upload.finish(tags)
    assert entry == system.head("dir/big")
    assert system.read("dir/big").read() == data
    assert [entry.key for entry in system.list()] == ["dir/big"]
    assert system.sweep() == 0


def test_parts_are_made_roomy(system: GCSSystem) -> None:
    """Up to 1 GiB goes in 32 parts of 32 MiB; 5 TiB in at most 32,768 of a multiple of what was asked."""
    assert system.begin("k", 1 << 30, part_size=16 * MIB).part_size == 32 * MIB
    assert system.begin("k", 100 * MIB, part_size=16 * MIB).part_size == 16 * MIB
    assert system.begin("k", 10 << 30, part_size=16 * MIB).part_size == 32 * MIB
    huge = system.begin("k", 5 << 40, part_size=16 * MIB)
    assert huge.part_size % (16 * MIB) == 0
    assert -(-(5 << 40) // huge.part_size) <= 32**3
    nothing = system.begin("none", 0, part_size=16 * MIB)
    assert nothing.finish([]).size == 0
    assert system.read("none").read() == b""


def test_another_process_goes_on(gcs_server: GCSServer, python: Any) -> None:
    """A process that is killed leaves its parts; the next one sends the others and finishes."""
    system = place(gcs_server)
    size, step = 5 * MIB + 11, 2 * MIB
    code = """
import json, os, signal, sys
from rh.systems.gcs import GCSSystem
from rh.testing.systems import noise
from rh.types import Location
path, settings, size, step = json.loads(sys.argv[1])
system = GCSSystem.open(Location("gs", path), settings)
upload = system.begin("dir/big", size, part_size=step)
data = noise(size)
upload.put(2, data[2 * step:])
upload.put(0, data[:step])
print(upload.token, flush=True)
"""
    given = json.dumps([system.location.path, dict(system.settings), size, step])
    token = python(code, given).strip()
    assert list(system.list()) == []
    upload = system.resume("dir/big", token)
    parts = upload.parts()
    assert sorted(parts) == [0, 2]
    data = noise(size)
    with counting() as counts:
        parts[1] = upload.put(1, data[step : 2 * step])
        upload.finish([parts[number] for number in range(3)])
    assert counts.sent["gs"] == step
    assert system.read("dir/big").read() == data
    with pytest.raises(NotFoundError):
        system.resume("dir/big", token)
    with pytest.raises(InvalidError):
        system.resume("dir/big", "../../etc")


def test_a_part_that_was_replaced_is_noticed(system: GCSSystem) -> None:
    """Composing pins the parts that were confirmed: a part sent again later by somebody else is not taken for it."""
    upload = system.begin("k", 20, part_size=10)
    tags = [upload.put(0, b"0" * 10), upload.put(1, b"1" * 10)]
    upload.put(1, b"X" * 10)
    with pytest.raises(RhError):
        upload.finish(tags)
    with pytest.raises(NotFoundError):
        system.head("k")
    with pytest.raises(InvalidError):
        upload.put(1, b"short")
    with pytest.raises(InvalidError):
        upload.put(2, b"")
    with pytest.raises(InvalidError):
        upload.finish(tags[:1])
    upload.abort()


def test_parts_of_another_hand(system: GCSSystem) -> None:
    """Parts sent to signed URLs are composed whatever their sender could tell of them, if all have arrived whole."""
    data = noise(25)
    upload = system.begin("k", 25, part_size=10)
    for number in range(3):
        part = data[number * 10 : number * 10 + 10]
        assert send(system.sign_part(upload, number, len(part)), part)[0] == 200
    with pytest.raises(InvalidError):
        system.sign_part(upload, 2, 10)
    upload.finish(["", "?", '"etag"'])
    assert system.read("k").read() == data
    again = system.begin("k", 25, part_size=10)
    again.put(0, data[:10])
    with pytest.raises(NotFoundError):
        again.finish(["", "", ""])
    again.abort()


def test_without_composing(gcs_server: GCSServer) -> None:
    """`composite = false`: large objects go as one stream, and no part is ever made."""
    for value in (False, "false", "0"):
        system = place(gcs_server, composite=value)
        assert system.ask(Multipart) is None
        assert system.ask(Signing) is system
        assert wrap(system).ask(Multipart) is None
    system.write("k", pieces(noise(17 * MIB)), size=17 * MIB)
    assert system.head("k").size == 17 * MIB
    with pytest.raises(InvalidError):
        place(gcs_server, composite="perhaps")


def test_sweeping_leaves_what_is_not_ours(system: GCSSystem) -> None:
    """Only parts are collected, in every directory below the root, and none that is too young."""
    below = system.at("a/b")
    for where in (system, below):
        where.begin("k", 5, part_size=5).put(0, b"12345")
    outside = place_of(system, f"{system.location.path}x")
    outside.begin("k", 5, part_size=5).put(0, b"12345")
    system.write("a/.rh-manifest", b"m")
    system.write("a/.rh-partly", b"p")
    assert system.sweep(older_than_s=600) == 0
    assert below.sweep() == 1
    assert system.sweep() == 1
    assert system.read("a/.rh-manifest").read() == b"m"
    assert system.read("a/.rh-partly").read() == b"p"
    assert outside.sweep() == 1


# Copies


def test_copies_by_the_store(gcs_server: GCSServer, system: GCSSystem) -> None:
    """No bytes pass here; another bucket of the account is fine, another account or endpoint is not."""
    bucket = gcs_server.make_bucket("c" + secrets.token_hex(4)).removeprefix("gs://")
    target = place(gcs_server, f"{bucket}/to")
    for number in range(40):
        system.write(f"{number:02d}", noise(100, number))
    with counting() as counts:
        outcomes = list(target.copy_many(system, ((entry, entry.key) for entry in system.list())))
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert counts.sent["gs"] == counts.received["gs"] == 0
    assert target.read("07").read() == noise(100, 7)
    assert not target.can_copy_from(place(gcs_server, user_project="other"))
    assert not target.can_copy_from(GCSSystem.open(Location("gs", "b"), {"anonymous": True}))
    with pytest.raises(UnsupportedError):
        target.copy_many(GCSSystem.open(Location("gs", "b"), {"anonymous": True}), [])


def test_a_copy_of_something_else_is_refused(system: GCSSystem) -> None:
    """An entry whose checksum is not that of what was copied: an error, and no copy."""
    entry = system.write("a", b"bytes")
    outcome = next(iter(system.copy_many(system, [(entry._replace(check="md5:" + "0" * 32), "b")])))
    assert isinstance(outcome.error, IntegrityError)
    with pytest.raises(NotFoundError):
        system.head("b")
    # Copying stops when nobody wants the rest.
    copies = system.copy_many(system, ((entry, f"c/{number}") for number in range(1000)))
    next(copies)
    copies.close()  # type: ignore[attr-defined]
    assert len(list(system.list("c/"))) < 200


# Errors


def refused_by(code: int, reason: str, message: str) -> Status:
    body = {"error": {"code": code, "message": message, "errors": [{"domain": "global", "reason": reason}]}}
    return Status(code=code, headers={"Content-Type": "application/json"}, body=json.dumps(body).encode())


@pytest.mark.parametrize(
    ("code", "reason", "message", "error", "hint"),
    [
        (401, "required", "Anonymous caller does not have storage.objects.get access", UnauthenticatedError, "gcloud"),
        (401, "authError", "Invalid Credentials", UnauthenticatedError, "gcloud"),
        (403, "forbidden", "x@y does not have storage.objects.get access", AccessError, "objectUser"),
        (403, "accountDisabled", "The billing account for the owning project is disabled", AccessError, "billing"),
        (403, "rateLimitExceeded", "The rate of change requests exceeds", UnavailableError, ""),
        (404, "notFound", "The specified bucket does not exist.", NoBucketError, "bucket"),
        (
            400,
            "required",
            "Bucket is a requester pays bucket but no user project provided.",
            InvalidError,
            "user_project",
        ),
        (400, "invalid", 'Provided CRC32C "AA==" doesn\'t match calculated CRC32C "BB==".', IntegrityError, ""),
        (400, "invalid", "Invalid argument", InvalidError, ""),
        (412, "conditionNotMet", "At least one of the pre-conditions did not hold.", ConflictError, ""),
        (429, "rateLimitExceeded", "slow down", UnavailableError, ""),
        (500, "backendError", "", UnavailableError, ""),
        (503, "backendError", "We encountered an internal error.", UnavailableError, ""),
        (301, "", "", InvalidError, "endpoint_url"),
    ],
)
def test_refusals(
    gcs_server: GCSServer, proxy: FaultProxy, code: int, reason: str, message: str, error: type[RhError], hint: str
) -> None:
    """Each refusal the API documents is one request and one typed error with the place, and the fix if there is one."""
    system = place(gcs_server, via=proxy.port)
    proxy.plan = [refused_by(code, reason, message)]
    for verb in ("read", "head", "write", "delete", "list"):
        proxy.reset()
        with pytest.raises(RhError) as caught:
            {
                "read": lambda: system.read("d/k"),
                "head": lambda: system.head("d/k"),
                "write": lambda: system.write("d/k", b"x"),
                "delete": lambda: system.delete(["d/k"]),
                "list": lambda: list(system.list("d/k")),
            }[verb]()
        assert type(caught.value) is error, verb
        assert caught.value.where == system.url("d/k")
        assert hint in (caught.value.hint or "")
        assert message in str(caught.value) or code in (404, 412)
        assert caught.value.retryable == (error in (UnavailableError, IntegrityError))
        assert len(proxy.requests) == 1
        back = pickle.loads(pickle.dumps(caught.value))
        assert str(back) == str(caught.value)


def test_refusals_that_are_not_json(gcs_server: GCSServer, proxy: FaultProxy) -> None:
    """A page of some proxy in between is an error like any other."""
    system = place(gcs_server, via=proxy.port)
    proxy.plan = [Status(code=502, headers={"Content-Type": "text/html"}, body=b"<html><h1>Bad gateway")]
    with pytest.raises(UnavailableError, match="502"):
        system.head("k")
    proxy.plan = [Status(code=200, headers={"Content-Type": "text/html"}, body=b"<html>Please log in")]
    for work in (lambda: system.head("k"), lambda: list(system.list()), lambda: system.write("k", b"")):
        with pytest.raises(IntegrityError):
            work()


def test_one_failure_in_a_batch(gcs_server: GCSServer, proxy: FaultProxy) -> None:
    """Many deletes go in batches of 100; an error for one is told, and the others are done."""
    system = place(gcs_server, via=proxy.port)
    keys = [f"{number:03d}" for number in range(250)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: system.write(key, b""), keys))
    with counting() as counts:
        system.delete(keys[:201])
    assert counts.requests["gs", "delete"] == 3
    assert [entry.key for entry in system.list()] == keys[201:]
    answer = (
        b"--b\r\nContent-Type: application/http\r\nContent-ID: <response-0>\r\n\r\n"
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n\r\n"
        b"--b\r\nContent-Type: application/http\r\nContent-ID: <response-1>\r\n\r\n"
        b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n\r\n"
        b'{"error": {"code": 403, "message": "subject to a retention policy", "errors": [{"reason": "x"}]}}'
        b"\r\n--b--\r\n"
    )
    proxy.plan = [Status(code=200, headers={"Content-Type": "multipart/mixed; boundary=b"}, body=answer)]
    with pytest.raises(AccessError, match="retention") as caught:
        system.delete(["one", "two"])
    assert caught.value.where == system.url("two")
    proxy.plan = [Status(code=200, headers={"Content-Type": "multipart/mixed; boundary=b"}, body=answer[:100])]
    with pytest.raises(UnavailableError):
        system.delete(["one", "two"])


@pytest.mark.parametrize(("asked", "tries"), [("1", 2), ("3600", 1)])
def test_a_store_that_asks_to_wait(gcs_server: GCSServer, proxy: FaultProxy, asked: str, tries: int) -> None:
    """It is left alone for so long, if there is so much time."""
    system = wrap(place(gcs_server, via=proxy.port, retry_s=10))
    for work in (lambda: system.write("k", b"1"), lambda: system.read("k").read(), lambda: list(system.list())):
        busy = Status(code=503, times=1, headers={"Retry-After": asked}, body=b"{}")
        proxy.plan = [busy]
        begun = time.monotonic()
        with counting() as counts:
            if tries == 1:
                with pytest.raises(UnavailableError, match="asks to wait 3,600 s"):
                    work()
            else:
                work()
                assert time.monotonic() - begun >= 1
        assert counts.total("gs") == tries


def test_nobody_answers(gcs_server: GCSServer) -> None:
    """Refused, unknown, silent and speaking something else: typed, with the place, within the deadline."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    system = place(gcs_server, endpoint_url=f"http://127.0.0.1:{port}")
    with pytest.raises(UnavailableError, match="nothing answers") as caught:
        system.head("k")
    assert "endpoint_url" in (caught.value.hint or "")
    with pytest.raises(UnavailableError, match="cannot be resolved"):
        place(gcs_server, endpoint_url="http://no-such-host.invalid").head("k")
    with FaultProxy(gcs_server.port, [Swallow(direction="up", at=0)]) as hole:
        system = place(gcs_server, via=hole.port, timeout_s=0.5)
        for work in (lambda: system.head("k"), lambda: system.write("k", bytes(MIB)), lambda: list(system.list())):
            with pytest.raises(DeadlineError):
                work()
    with FaultProxy(gcs_server.port, [Flip(at=0)]) as garbled, pytest.raises(IntegrityError, match="HTTP"):
        place(gcs_server, via=garbled.port).head("k")


def test_idle_connections_are_let_go(gcs_server: GCSServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody used for a while is closed when anybody connects anywhere, however many endpoints there were."""
    first, second = place(gcs_server, timeout_s=21.0), place(gcs_server, timeout_s=22.0)
    first.write("a", b"1")
    (held,) = first._api.pool._idle
    second.write("b", b"1")
    assert held.sock.fileno() >= 0
    monkeypatch.setattr(http, "IDLE_S", 0.0)
    place(gcs_server, timeout_s=23.0).write("c", b"1")
    assert held.sock.fileno() < 0
    assert not first._api.pool._idle
    assert first.read("a").read() == b"1"


def test_a_certificate_nobody_vouches_for(gcs_server: GCSServer, tmp_path: Any) -> None:
    import ssl

    certificate = self_signed(tmp_path)
    data = noise(300_000)
    crc = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    class Handler(Quiet):
        def do_GET(self) -> None:
            if "alt=media" in self.path:
                self.answer(200, data, x_goog_generation="7", x_goog_hash=f"crc32c={crc}")
            else:
                self.answer(200, b'{"items": [{"name": "x/k", "size": "3", "generation": "7"}]}')

    with serving(Handler, context) as port:
        place = Location("gs", "b/x")
        common = {"endpoint_url": f"https://localhost:{port}", "anonymous": True, "timeout_s": 5}
        with pytest.raises(AccessError, match="certificate") as caught:
            list(GCSSystem.open(place, common).list())
        assert "SSL_CERT_FILE" in (caught.value.hint or "")
        trusting = GCSSystem.open(place, {**common, "ca_bundle": str(certificate)})
        for _ in range(3):
            assert list(trusting.list()) == [Entry("k", 3, etag="7")]
            assert into_buffers(trusting.read("k")) == data
        trusting.close()
        with pytest.raises(InvalidError):
            list(GCSSystem.open(place, {**common, "ca_bundle": str(tmp_path / "none")}).list())


def test_pages_of_buckets(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google tells a thousand names at a time, and wants to know the project; the server of tests does neither."""
    asked: list[str] = []

    class Handler(Quiet):
        def do_GET(self) -> None:
            asked.append(self.path)
            more = b"" if "pageToken" in self.path else b', "nextPageToken": "t/="'
            self.answer(200, b'{"items": [{"name": "b%d"}]%s}' % (len(asked), more))

    login = tmp_path / "login.json"
    login.write_text('{"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}')
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    with serving(Handler) as port:
        settings = {"name": "gs", "endpoint_url": f"http://localhost:{port}", "timeout_s": 5}
        with pytest.raises(InvalidError, match="none is named") as caught:
            list(GCSSystem.buckets({**settings, "credentials_file": str(login)}))
        assert "GOOGLE_CLOUD_PROJECT" in (caught.value.hint or "")
        assert not asked
        assert list(GCSSystem.buckets({**settings, "anonymous": True, "project": "p/q"})) == ["b1", "b2"]
    first = "/storage/v1/b?project=p%2Fq&maxResults=1000&fields=nextPageToken,items(name)"
    assert asked == [first, f"{first}&pageToken=t%2F%3D"]


def test_by_way_of_a_proxy(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS goes through a proxy that connects for us, from here and from a host; one that refuses is named."""
    import ssl

    asked: list[tuple[str, str | None]] = []
    refusing = threading.Event()

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.answer(200, b'{"items": [{"name": "x/k", "size": "3", "generation": "7"}]}')

    class Proxy(Quiet):
        def do_CONNECT(self) -> None:
            asked.append((self.path, self.headers.get("Proxy-Authorization")))
            if refusing.is_set():
                self.answer(403, b"")
                return
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=10) as far:
                ends = {self.connection: far, far: self.connection}
                while True:
                    for end in select.select(list(ends), [], [], 10)[0]:
                        data = end.recv(65536)
                        if not data:
                            return
                        ends[end].sendall(data)

    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(Handler, context) as port, serving(Proxy) as proxy:
        monkeypatch.setenv("https_proxy", f"http://ada:s3cret@127.0.0.1:{proxy}")
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        settings = {"endpoint_url": f"https://localhost:{port}", "anonymous": True, "timeout_s": 5}
        system = GCSSystem.open(Location("gs", "b/x"), settings)
        assert list(system.list()) == list(system.list()) == [Entry("k", 3, etag="7")]
        assert asked == [(f"localhost:{port}", "Basic YWRhOnMzY3JldA==")]
        system.close()
        web = net.Web(5.0)
        for _ in range(2):
            answer = web.ask(["GET", f"https://localhost:{port}/storage", []], {})
            assert answer.status == 200
            assert b"items" in answer.read(1000)
            web.done(answer)
        web.close()
        assert asked[1:] == [(f"localhost:{port}", "Basic YWRhOnMzY3JldA==")]
        refusing.set()
        with pytest.raises(UnavailableError, match=r"the proxy 127\.0\.0\.1 answered 'HTTP/1\.1 403 Forbidden'"):
            list(system.list())
        ipv6 = {**settings, "endpoint_url": f"https://[::1]:{port}"}
        with pytest.raises(UnavailableError, match="the proxy"):
            list(GCSSystem.open(Location("gs", "b/x"), ipv6).list())
        assert asked[-1][0] == f"[::1]:{port}"
        monkeypatch.setenv("no_proxy", f"localhost:{port}")
        direct = GCSSystem.open(Location("gs", "b/x"), {**settings, "timeout_s": 6})
        assert list(direct.list()) == [Entry("k", 3, etag="7")]
        direct.close()
    with pytest.raises(UnavailableError, match=f"the proxy 127.0.0.1:{proxy} cannot be reached") as caught:
        list(system.list())
    assert "HTTPS_PROXY" in (caught.value.hint or "")


def test_what_a_host_hears_of_servers_that_go_wrong(tmp_path: Any) -> None:
    """A certificate that nobody vouches for, a chunked answer that is cut, a proxy that speaks something else."""
    import ssl

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nhello\r\n" + (b"0\r\n\r\n" if self.path == "/whole" else b"9\r\nwo"))
            self.close_connection = self.path != "/whole"

    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    web = net.Web(5.0)
    with serving(Handler, context) as port, pytest.raises(net.Failure, match="the certificate of localhost") as caught:
        web.ask(["GET", f"https://localhost:{port}/", []], {})
    assert caught.value.kind == "access"
    with serving(Handler) as port:
        for _ in range(2):
            answer = web.ask(["GET", f"http://localhost:{port}/whole", []], {})
            assert answer.read(100) == b"hello"
            web.done(answer)
        assert list(web.kept) == [("http", f"localhost:{port}")]
        answer = web.ask(["GET", f"http://localhost:{port}/cut", []], {})
        with pytest.raises(net.Failure, match="closed the connection") as caught:
            answer.read(100)
        assert caught.value.kind == "unavailable"
    with socket.create_server(("127.0.0.1", 0)) as odd:

        def talk() -> None:
            line, _ = odd.accept()
            with line:
                line.recv(65536)
                line.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=talk, daemon=True).start()
        web.proxies["https", "localhost:1"] = f"http://127.0.0.1:{odd.getsockname()[1]}"
        with pytest.raises(net.Failure, match="localhost:1") as caught:
            web.ask(["GET", "https://localhost:1/", []], {})
        assert caught.value.kind == "unavailable"
    web.close()


def test_connections_are_kept_and_replaced(gcs_server: GCSServer, proxy: FaultProxy) -> None:
    """Requests in a row use one connection; one that died while idle is not used again."""
    system = place(gcs_server, via=proxy.port)
    for _ in range(20):
        system.write("k", b"x")
        system.read("k").read()
    assert proxy.counts.connections == 1
    proxy.drop()
    time.sleep(0.2)
    assert system.read("k").read() == b"x"
    early = system.read("k")
    early.close()
    assert system.read("k").read() == b"x"
    barrier = threading.Barrier(24)

    def work(number: int) -> bytes:
        barrier.wait(20)
        return system.read("k").read()

    with ThreadPoolExecutor(24) as pool:
        assert set(pool.map(work, range(24))) == {b"x"}
    assert proxy.counts.connections <= 28
    system.close()
    assert system.read("k").read() == b"x"


def test_endpoints(monkeypatch: pytest.MonkeyPatch, gcs_server: GCSServer) -> None:
    """Where the API is served: the setting, else the emulators' variable, else Google."""
    bucket = Location("gs", "b")
    assert GCSSystem.open(bucket, {"anonymous": True})._place.endpoint.url == "https://storage.googleapis.com"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{gcs_server.port}")
    emulated = GCSSystem.open(Location("gs", gcs_server.buckets[0]), {})
    assert emulated._place.identity is None
    assert emulated.head is not None
    assert isinstance(list(emulated.at("t" + secrets.token_hex(4)).list()), list)
    assert parse_endpoint("https://[::1]:8443/base/").url == "https://[::1]:8443/base"
    for bad in ("ftp://x", "http://", "http://u:p@x", "http://x:port", "http://x/?q=1", "http://x..y"):
        with pytest.raises(InvalidError) as caught:
            GCSSystem.open(bucket, {"endpoint_url": bad})
        assert "u:p" not in str(caught.value)
    with pytest.raises(InvalidError, match="in the clear"):
        GCSSystem.open(bucket, {"endpoint_url": "http://example.org", "credentials_file": "key.json"})


def test_buckets_are_made(gcs_server: GCSServer) -> None:
    name = "made-" + secrets.token_hex(4)
    system = place(gcs_server, f"{name}/x", project="p")
    with pytest.raises(NotFoundError):
        list(system.list())
    assert system.make_bucket(region="EU")
    assert not system.make_bucket()
    assert list(system.list()) == []


def test_a_handle_travels(system: GCSSystem) -> None:
    """A pickled handle opens the same place."""
    system.write("k", b"x")
    back = pickle.loads(pickle.dumps(system))
    assert back.location == system.location
    assert back.read("k").read() == b"x"


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class serving:
    """An HTTP server on a free loopback port while the block runs; its value is the port."""

    def __init__(self, handler: type[BaseHTTPRequestHandler], tls: Any = None) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> int:
        self.thread.start()
        return int(self.server.server_address[1])

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def self_signed(directory: Any) -> Any:
    """A certificate for localhost and its key, in one file."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "server.pem"
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(certificate.public_bytes(pem) + key.private_bytes(pem, private, serialization.NoEncryption()))
    return path


def test_a_missing_object_of_a_bucket_called_bucket_is_no_missing_bucket():
    """Google's answers quote the bucket and the name."""

    class Google(Quiet):
        def answered(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.answer(404, b'{"error": {"code": 404, "message": "No such object: my-bucket/x/gone bucket"}}')

        do_GET = do_DELETE = answered

    with serving(Google) as port:
        settings = {"kind": "gs", "endpoint_url": f"http://127.0.0.1:{port}", "anonymous": True, "timeout_s": 5}
        system = GCSSystem.open(Location("gs", "my-bucket/x"), settings)
        system.delete(["gone bucket"])
        with pytest.raises(NotFoundError, match="nothing under this name"):
            system.head("gone bucket")


@pytest.mark.parametrize("how", ["broken", "silent"])
def test_what_came_before_a_break_is_not_forgotten_by_the_checksum(how: str):
    """Promise 1: nobody reads on in the middle of what is compared as a whole."""
    data = noise(2 << 20)
    wrong = bytes([data[0] ^ 1]) + data[1:]
    crc = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
    waiting = threading.Event()
    asked: list[str | None] = []

    class Google(Quiet):
        def do_GET(self) -> None:
            span = self.headers.get("Range")
            asked.append(span)
            self.send_response(200 if span is None else 206)
            for name, value in {
                "x-goog-hash": f"crc32c={crc}",
                "x-goog-generation": "1",
                "x-goog-stored-content-length": str(len(data)),
                "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT",
                "ETag": '"1"',
            }.items():
                self.send_header(name, value)
            start = 0 if span is None else int(span.removeprefix("bytes=").partition("-")[0])
            if span is not None:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if span is None:
                self.wfile.write(wrong[: 1 << 20])
                if how == "silent":
                    waiting.wait(10)
                self.close_connection = True
            else:
                self.wfile.write(data[start:])

    with serving(Google) as port:
        settings = {
            "kind": "gs",
            "endpoint_url": f"http://127.0.0.1:{port}",
            "anonymous": True,
            "timeout_s": 1,
            "retry_s": 20,
            "retries": 3,
        }
        system = wrap(GCSSystem.open(Location("gs", "data"), settings))
        with pytest.raises((IntegrityError, DeadlineError)):
            list(system.read("k"))
        waiting.set()
        assert asked[0] is None
