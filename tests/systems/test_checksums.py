"""Objects that a host fetches by itself are what their store has: every checksum that a store tells is compared."""

from __future__ import annotations

import hashlib
import itertools
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rh import config, observe, transfer
from rh.errors import IntegrityError, TransferError
from rh.systems import locate, open_system
from rh.systems.abilities import Multipart, Vouching
from rh.systems.base import System
from rh.systems.far import checks, net
from rh.systems.far.wire import Failure
from rh.systems.s3 import S3System
from rh.systems.ssh import SSHSystem
from rh.testing import servers
from rh.testing.faults import FaultProxy, Flip, Request
from rh.transfer.vouched import running
from rh.types import Entry, Location, SignedRequest
from tests.systems.test_s3 import Scripted

MIB = 1 << 20


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# The sums themselves


def byte_by_byte(polynomial: int, bits: int, data: bytes) -> str:
    crc = ones = (1 << bits) - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (polynomial if crc & 1 else 0)
    return f"{crc ^ ones:0{bits // 4}x}"


def test_the_check_values_of_the_catalogue() -> None:
    """The CRCs of "123456789", as the catalogue of parametrised CRC algorithms has them."""
    wanted = {"crc32c": "e3069283", "crc64nvme": "ae8b14860a799888"}
    assert {name: checks.checksum(name, lambda a, b: b"123456789"[a:b], 9) for name in wanted} == wanted


@given(size=st.integers(0, 300_000), cuts=st.lists(st.integers(0, 300_000), max_size=6))
def test_crc32c_is_that_of_the_c_library(size: int, cuts: list[int]) -> None:
    """However the bytes come, below, at and beyond the block that is folded."""
    data, crc = noise(size), checks.Crc("crc32c")
    places = [0, *sorted(cut for cut in cuts if cut < size), size]
    for start, stop in itertools.pairwise(places):
        crc.update(data[start:stop])
    assert crc.hexdigest() == f"{google_crc32c.value(data):08x}"


@pytest.mark.parametrize("size", [0, 1, 35_359, 35_360, 35_361, 35_375, 35_376, 100_000])
def test_crc64nvme_is_that_of_its_definition(size: int) -> None:
    data, crc = noise(size), checks.Crc("crc64nvme")
    crc.update(data)
    assert crc.hexdigest() == byte_by_byte(0x9A6C9329AC4BC9B5, 64, data)


def test_every_kind_on_every_python(tmp_path: Path) -> None:
    """What a host computes does not depend on its Python."""
    data = noise(3 * MIB + 5)
    (tmp_path / "data").write_bytes(data)
    parts = b"".join(hashlib.md5(data[at : at + MIB]).digest() for at in range(0, len(data), MIB))
    wanted = [
        f"md5 {hashlib.md5(data).hexdigest()}",
        f"md5-{MIB} {hashlib.md5(parts).hexdigest()}",
        f"sha256 {hashlib.sha256(data).hexdigest()}",
        f"crc32c {google_crc32c.value(data):08x}",
        "crc99 None",
    ]
    code = (
        "import sys; names = {}; source, data = open(sys.argv[1]).read(), open(sys.argv[2], 'rb').read()\n"
        "exec(compile(source, 'checks', 'exec'), names)\n"
        f"for name in {[line.split()[0] for line in wanted]}:\n"
        "    print(name, names['checksum'](name, lambda a, b: data[a:b], len(data)))"
    )
    for python in [sys.executable, *filter(None, map(shutil.which, ("python3.7", "python3.8", "python3.9")))]:
        if subprocess.run([python, "-c", "pass"], capture_output=True, check=False).returncode:
            continue
        told = subprocess.run(
            [python, "-c", code, checks.__file__, str(tmp_path / "data")], capture_output=True, text=True, check=True
        )
        assert told.stdout.splitlines() == wanted, python


# Hosts that fetch


@pytest.fixture(params=["moto", "s3", "gcs", "azure"])
def store(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    """The system `store` is behind a proxy."""
    server = request.getfixturevalue(
        {"s3": "s3_server", "gs": "gcs_server"}.get(request.param, f"{request.param}_server")
    )
    with FaultProxy(server.port, http=True, seed=3) as proxy:
        scheme = server.settings()["root"].partition("://")[0]
        root = f"{scheme}://{server.buckets[0]}/{uuid4().hex}"
        config.register("store", server.settings(via=proxy.port, root=root, retries=0))
        yield proxy


@pytest.fixture
def target(ssh_a: servers.SSHServer) -> Location:
    config.register("target", ssh_a.settings(retries=0))
    return Location("target", str(ssh_a.home / uuid4().hex))


def in_parts(system: System, key: str, data: bytes, part: int) -> None:
    """An object that somebody uploads in parts, and tells nobody its digest."""
    multipart = system.ask(Multipart)
    assert multipart is not None
    upload = multipart.begin(key, len(data), part_size=part)
    step = upload.part_size
    upload.finish([upload.put(at // step, data[at : at + step]) for at in range(0, len(data), step)])


def reading(request: Request) -> bool:
    return request.method == "GET" and "big" in request.path


@pytest.mark.slow
@pytest.mark.parametrize("size", [12 * MIB + 7, 70 * MIB + 1], ids=["in one", "in ranges"])
def test_a_bit_flipped_on_the_way_into_a_host_is_found(store: FaultProxy, target: Location, size: int) -> None:
    """Objects that came in parts, of which nobody wrote a manifest."""
    data, place = noise(size), locate(None, "store")
    in_parts(open_system(place), "big", data, 5 * MIB)
    receipt = transfer.copy_file(place / "big", target / "good")
    assert receipt.route == "PULL"
    assert open_system(target).read("good").read() == data
    store.plan = [Flip(at=MIB, match=reading)]
    with observe.counting() as counts, pytest.raises(TransferError) as caught:
        transfer.copy_file(place / "big", target / "bad")
    assert isinstance(caught.value.receipt.failed[0].error, IntegrityError)
    assert sum(counts.received.values()) < MIB
    assert store.counts.faults["Flip"]
    assert [entry.key for entry in open_system(target).list()] == ["good"]


@pytest.mark.slow
def test_a_bit_flipped_once_is_healed(moto_server: servers.MotoServer, target: Location) -> None:
    """The host fetches again what came damaged."""
    config.register("target", config.system("target") | {"retries": 3})
    with FaultProxy(moto_server.port, http=True) as proxy:
        config.register("store", moto_server.settings(via=proxy.port, root=f"s3://data/{uuid4().hex}"))
        data, place = noise(6 * MIB), locate(None, "store")
        in_parts(open_system(place), "big", data, 5 * MIB)
        proxy.plan = [Flip(at=5 * MIB + 9, match=reading, times=1)]
        transfer.copy_file(place / "big", target / "big")
        assert proxy.counts.faults["Flip"] == 1
        assert open_system(target).read("big").read() == data


@pytest.mark.slow
def test_a_bit_flipped_on_the_way_from_a_host_is_found(moto_server: servers.MotoServer, target: Location) -> None:
    """Parts that a host sends are held against what the store says it got: moto itself compares nothing."""
    data = noise(70 * MIB)
    open_system(target).write("big", data)
    with FaultProxy(moto_server.port, http=True) as proxy:
        config.register("store", moto_server.settings(via=proxy.port, root=f"s3://data/{uuid4().hex}"))
        place = locate(None, "store")
        proxy.plan = [Flip(direction="up", match=lambda request: "partNumber=2" in request.query)]
        with pytest.raises(TransferError) as caught:
            transfer.copy_file(target / "big", place / "big")
        assert isinstance(caught.value.receipt.failed[0].error, IntegrityError)
        assert list(open_system(place).list()) == []


# What is pulled here


@pytest.mark.slow
@pytest.mark.parametrize("size", [12 * MIB + 7, 40 * MIB + 1], ids=["in one", "in parts"])
def test_a_bit_flipped_on_the_way_here_is_found(store: FaultProxy, tmp_path: Path, size: int) -> None:
    """Objects that came in parts, of which nobody wrote a manifest: of the parts of a large one, none is kept."""
    data, place = noise(size), locate(None, "store")
    in_parts(open_system(place), "big", data, 5 * MIB)
    transfer.copy_file(place / "big", locate(str(tmp_path / "good")))
    assert (tmp_path / "good").read_bytes() == data
    store.plan = [Flip(at=MIB, match=reading)]
    with pytest.raises(TransferError) as caught:
        transfer.copy_file(place / "big", locate(str(tmp_path / "bad")))
    assert isinstance(caught.value.receipt.failed[0].error, IntegrityError)
    assert store.counts.faults["Flip"]
    assert [path.name for path in tmp_path.iterdir()] == ["good"]
    store.plan = []
    transfer.copy_file(place / "big", locate(str(tmp_path / "bad")))
    assert (tmp_path / "bad").read_bytes() == data


@given(part=st.integers(1, 40), cuts=st.lists(st.integers(0, 100), max_size=5), size=st.integers(0, 100))
def test_a_running_checksum_is_that_of_the_whole(part: int, cuts: list[int], size: int) -> None:
    data = noise(size)
    edges = [0, *sorted(min(cut, size) for cut in cuts), size]
    for name in ("md5", f"md5-{part}", "sha256", "crc32c"):
        right = checks.checksum(name, lambda a, b: data[a:b], size)
        told = running(f"{name}:{right}")
        assert told is not None
        for start, stop in itertools.pairwise(edges):
            told.update(data[start:stop])
        told.compare("")
        wrong = running(f"{name}:{'f' * len(right or '')}")
        assert wrong is not None
        with pytest.raises(IntegrityError):
            wrong.compare("")


# What S3 tells


def vouched(system: System, key: str) -> str | None:
    voucher = system.ask(Vouching)
    assert voucher is not None
    (entry,) = [entry for entry in system.list() if entry.key == key]
    assert entry.check is None
    return voucher.vouch(entry).check


def of_parts(data: bytes, part: int) -> str:
    sums = b"".join(hashlib.md5(data[at : at + part]).digest() for at in range(0, len(data), part))
    return f"md5-{part}:{hashlib.md5(sums).hexdigest()}"


def test_the_etag_of_parts(moto_server: servers.MotoServer) -> None:
    """It is a checksum once the size of the parts is asked for."""
    data = noise(11 * MIB)
    config.register("store", moto_server.settings(root=f"s3://data/{uuid4().hex}"))
    with open_system(locate(None, "store")) as system:
        for part in (5 * MIB, 6 * MIB, 16 * MIB):
            in_parts(system, f"{part}", data, part)
            with observe.counting() as counts:
                assert vouched(system, f"{part}") == of_parts(data, min(part, len(data)))
            assert counts.requests["store", "head"] == (3 if part < len(data) else 1)


def test_parts_of_many_sizes_are_not_compared(moto_server: servers.MotoServer, target: Location) -> None:
    """What others put together from pieces as they came is fetched all the same."""
    import boto3

    data, root = noise(17 * MIB), uuid4().hex
    client = boto3.client("s3", endpoint_url=moto_server.endpoint, aws_access_key_id="a", aws_secret_access_key="b")
    begun = client.create_multipart_upload(Bucket="data", Key=f"{root}/big")
    named = {"Bucket": "data", "Key": f"{root}/big", "UploadId": begun["UploadId"]}
    parts, at = [], 0
    for number, size in enumerate((5 * MIB, 7 * MIB, 5 * MIB), 1):
        done = client.upload_part(**named, PartNumber=number, Body=data[at : at + size])
        parts.append({"PartNumber": number, "ETag": done["ETag"]})
        at += size
    client.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    config.register("store", moto_server.settings(root=f"s3://data/{root}"))
    with open_system(locate(None, "store")) as system:
        assert vouched(system, "big") is None
    transfer.copy_file(locate(None, "store") / "big", target / "big")
    assert open_system(target).read("big").read() == data


@pytest.mark.parametrize(
    ("headers", "check"),
    [
        ({"x-amz-checksum-crc64nvme": "rosUhgp5mIg="}, "crc64nvme:ae8b14860a799888"),
        ({"x-amz-checksum-crc32c": "4waSgw==", "x-amz-server-side-encryption": "aws:kms"}, "crc32c:e3069283"),
        ({"x-amz-checksum-crc32c": "4waSgw==", "x-amz-checksum-type": "COMPOSITE"}, None),
        ({"x-amz-checksum-sha256": f"{'A' * 43}=-3"}, None),
        ({"x-amz-server-side-encryption": "aws:kms"}, None),
        ({}, None),
    ],
)
def test_what_a_head_tells_of_the_whole(headers: dict[str, str], check: str | None) -> None:
    """A checksum of the whole object is taken, one of parts and an etag under KMS are not."""
    etag = "ab" * 16 + "-3"

    def answer(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        return 200, {"ETag": f'"{etag}"', "Content-Length": str(20 * MIB), **headers}, b""

    with Scripted(answer) as server:
        system = server.open(anonymous=True)
        assert system.vouch(Entry("k", 20 * MIB, etag=etag)).check == check
        assert system.vouch(Entry("k", 20 * MIB, etag="cd" * 16 + "-3")).check is None
        assert server.seen[0][2]["x-amz-checksum-mode"] == "ENABLED"


def test_small_objects_of_aws_cost_no_request() -> None:
    """Their etag goes along, for the host to judge by the answer it gets."""
    with S3System.open(Location("s3", "data/x"), {"kind": "s3", "region": "eu-west-1", "anonymous": True}) as system:
        with observe.counting() as counts:
            assert system.vouch(Entry("k", 9, etag="ab" * 16)).check == "etag:" + "ab" * 16
        assert counts.total("s3") == 0


@pytest.mark.parametrize(
    ("encrypted", "right"), [("", True), ("", False), ("AES256", False), ("aws:kms", False)], ids=str
)
def test_an_etag_counts_unless_the_object_is_encrypted(encrypted: str, right: bool, openssh: SSHSystem) -> None:
    data = b"what the store has"
    etag = hashlib.md5(data if right else b"something else").hexdigest()

    def answer(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        more = {"x-amz-server-side-encryption": encrypted} if encrypted else {}
        return 200, {"ETag": f'"{etag}"', **more}, data

    with Scripted(answer) as server:
        request = SignedRequest("GET", f"http://127.0.0.1:{server.server.server_port}/k")
        entry = Entry("k", len(data), etag=etag, check=f"etag:{etag}")
        (outcome,) = openssh.fetch_many([(entry, uuid4().hex, request)])
    assert (outcome.error is None) == (right or encrypted == "aws:kms")


def test_a_plain_sha256_of_a_large_file_is_compared() -> None:
    """The digest of such a file is of its chunks, so that what a store tells of the whole is another checksum."""
    data = bytes(17 << 20)
    told = b"sha256:" + hashlib.sha256(data).hexdigest().encode()
    net._vouched(told, lambda start, stop: data[start:stop], len(data), b"k")
    with pytest.raises(Failure, match="not what the store has"):
        net._vouched(b"sha256:" + b"0" * 64, lambda start, stop: data[start:stop], len(data), b"k")
