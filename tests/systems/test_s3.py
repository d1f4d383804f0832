"""The S3 system on two real servers: rclone (fast, no preconditions) and moto (complete)."""

from __future__ import annotations

import hashlib
import http.server
import ipaddress
import json
import logging
import pickle
import socket
import ssl
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import ClassVar
from urllib.parse import unquote_to_bytes
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rh import observe
from rh.errors import (
    AccessError,
    ConflictError,
    DeadlineError,
    ExistsError,
    FullError,
    IntegrityError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from rh.systems.abilities import Bucketed, Bulk, Multipart, Paging, ServerCopy, Signing, Sweeping, Versioned, Vouching
from rh.systems.s3 import S3System
from rh.systems.s3.sign import UNSIGNED, Credentials, quote_key, sign
from rh.systems.wrap import Retrying
from rh.testing import servers
from rh.testing.faults import Cut, DropAnswer, FaultProxy, Flip, Swallow, Truncate
from rh.testing.systems import FLAT_KEYS, SystemSuite, noise, pieces, split
from rh.types import ABSENT, Location, Match

ABILITIES = frozenset({Bucketed, Bulk, Multipart, Paging, ServerCopy, Signing, Sweeping, Versioned, Vouching})


def opened(server, root: str | None = None, name: str = "s3", **more) -> S3System:
    path = root if root is not None else f"data/{uuid4().hex}"
    return S3System.open(Location(name, path), server.settings(**{"timeout_s": 20, **more}))


class TestOnMoto(SystemSuite):
    abilities: ClassVar = ABILITIES
    refused: ClassVar = {"new\nline": NotFoundError}

    @pytest.fixture
    def system(self, moto_server):
        return opened(moto_server)

    def test_threads(self, system):
        """moto answers 500 to a listing beside writes: it is tried again, as in every transfer."""
        super().test_threads(Retrying(system))

    def test_sweeping(self, system):
        """moto says of every upload that it began in 2010, so all are old."""
        system.write("keep", b"1")
        system.write("dir/.rh-manifest", b"m")
        system.write("dir/.rh-probe-left", b"p")
        inner = system.at("dir")
        upload = inner.begin("big", 6 << 20, part_size=5 << 20)
        other = system.at("sibling").begin("big", 6 << 20, part_size=5 << 20)
        upload.put(0, bytes(5 << 20))
        assert inner.sweep() == 2
        with pytest.raises(NotFoundError):
            upload.parts()
        assert other.parts() == {}
        assert inner.sweep() == 0
        assert system.sweep(older_than_s=3600) == 1
        assert system.read("keep").read() == b"1"
        assert system.read("dir/.rh-manifest").read() == b"m"
        with pytest.raises(NotFoundError):
            system.head("dir/.rh-probe-left")


class TestOnRclone(SystemSuite):
    conditions: ClassVar = frozenset()
    abilities: ClassVar = ABILITIES
    refused: ClassVar = dict.fromkeys((key for key in FLAT_KEYS if not key.endswith("/")), NameClashError)

    @pytest.fixture
    def system(self, s3_server):
        return opened(s3_server)

    # What this server does otherwise, each told by the test that fails when it no longer does.

    def test_unicode_forms_are_different_keys(self, system):
        """rclone folds Unicode forms into one."""
        for key in ("é", "e\u0301", "K", "k", "\u212a"):
            system.write(key, b"1")
        assert [entry.key for entry in system.list()] == ["K", "k", "é"]

    def test_clash(self, system):
        """rclone keeps a tree: a directory's name can be no file's."""
        system.write("dir/x", b"x")
        with pytest.raises(UnavailableError):
            system.write("dir", b"d")
        assert [entry.key for entry in system.list()] == ["dir/x"]

    def test_delete(self, system):
        """rclone fails when a directory's name is deleted; nothing is lost, and keys go one by one."""
        for key in ("a", "ab", "a.c", "d/a", "d/ab", "e"):
            system.write(key, b"1")
        system.delete([])
        system.delete(["a", "missing", "d/a", "no/such/dir"])
        assert [entry.key for entry in system.list()] == ["a.c", "ab", "d/ab", "e"]
        with pytest.raises(UnavailableError):
            system.delete(["d"])
        assert [entry.key for entry in system.list()] == ["a.c", "ab", "d/ab", "e"]

    def test_readers_see_whole_files(self, system):
        """rclone in memory changes an object under its readers: without them, each write is whole."""
        system.write("f", b"0" * 300_000)
        for number in range(1, 6):
            data = bytes([ord("0") + number]) * (300_000 + number)
            entry = system.write("f", data if number % 2 else pieces(data, 65536))
            body = system.read("f")
            assert (body.entry.check, body.read()) == (entry.check, data)

    def test_multipart(self, system):
        """rclone takes a part once, unless it has the same bytes."""
        data = noise((10 << 20) + 12345)
        upload = system.begin("dir/big", len(data), part_size=5 << 20)
        parts = split(data, upload.part_size)
        tags = [upload.put(number, part) for number, part in enumerate(parts)]
        assert list(system.list()) == []
        assert upload.parts() == dict(enumerate(tags))
        assert upload.finish(tags) == system.head("dir/big")
        assert system.read("dir/big").read() == data


class Scripted:
    """A small HTTP server whose answers a test decides, for what no S3 server here does."""

    def __init__(self, answer) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status, headers, data = answer(self.command, self.path, body)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

            def log_message(self, *_args) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def open(self, **settings) -> S3System:
        base = {"kind": "s3", "endpoint_url": f"http://127.0.0.1:{self.server.server_port}", "timeout_s": 10}
        return S3System.open(Location("s3", "data/x"), {**base, **settings})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_exc):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def test_pages_of_buckets():
    """AWS tells ten thousand names at a time; its XML has a name space, that of others need not."""
    space = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    name = "<Bucket><Name>{}</Name><CreationDate>2026-01-01T00:00:00Z</CreationDate></Bucket>".format
    page = "<ListAllMyBucketsResult{}><Buckets>{}</Buckets>{}</ListAllMyBucketsResult>".format
    first = page(space, name("a") + name("b"), "<ContinuationToken>a/b c=</ContinuationToken>")

    def answer(_method, path, _body):
        return 200, {}, (page("", name("c"), "") if "token" in path else first).encode()

    with Scripted(answer) as server:
        settings = {**server.open().settings, "name": "s3", "anonymous": True}
        assert list(S3System.buckets(settings)) == ["a", "b", "c"]
    assert [path for _, path, _, _ in server.seen] == ["/", "/?continuation-token=a%2Fb%20c%3D"]


@pytest.fixture
def keys(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDCANARY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret-4711")


def certificates(place):
    """An authority nobody knows, and a certificate of it for 127.0.0.1 with its key: three files."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("authority", "127.0.0.1")]
    made = []
    for number, (key, name) in enumerate(zip(keys, names, strict=True)):
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(names[0]).public_key(key.public_key())
        builder = builder.serial_number(number + 1).not_valid_before(now - timedelta(days=1))
        builder = builder.not_valid_after(now + timedelta(days=1))
        if number:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key())
            builder = builder.add_extension(issuer, critical=False)
        else:
            subject = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
            builder = builder.add_extension(subject, critical=False)
            usage = dict.fromkeys(("content_commitment", "data_encipherment", "encipher_only", "decipher_only"), False)
            usage |= dict.fromkeys(("digital_signature", "key_encipherment", "key_agreement"), False)
            builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        builder = builder.add_extension(x509.BasicConstraints(ca=not number, path_length=None), critical=True)
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files = place / "authority.pem", place / "certificate.pem", place / "key.pem"
    for file, data in zip(files, (*made, keys[1].private_bytes(*encoding)), strict=True):
        file.write_bytes(data)
    return files


def stored_ok(method, path, body):
    return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"', "Last-Modified": "Tue, 15 Nov 1994 12:45:26 GMT"}, b""


# Keys and signatures


CHARACTERS = st.characters(exclude_categories=("Cs",))
SEGMENTS = st.lists(
    st.one_of(
        st.text(CHARACTERS, max_size=6), st.sampled_from(["", ".", "..", "%2F", "%", "+", "?", "#", "\\", "~", "é"])
    ),
    min_size=1,
    max_size=4,
)


class TestKeys:
    def test_every_key_is_on_the_wire_as_it_is(self, keys):
        """Whatever is in a key, the store is asked for just that key, and told the MD5 of the bytes."""
        with Scripted(stored_ok) as server:
            system = server.open()

            @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
            @given(SEGMENTS)
            def exact(segments):
                key = "/".join(segments)
                if not key or key.endswith("/"):
                    return
                server.seen.clear()
                system.write(key, b"x")
                method, target, headers, body = server.seen[-1]
                assert (method, body) == ("PUT", b"x")
                assert unquote_to_bytes(target) == f"/data/x/{key}".encode()
                assert headers["content-md5"] == "ndTkYSaMgDT1yFZOFVxnpg=="

            exact()

    @settings(max_examples=100, deadline=None)
    @given(SEGMENTS, st.dictionaries(st.sampled_from(["uploadId", "prefix", "a b"]), st.text(CHARACTERS, max_size=8)))
    def test_signatures_are_those_of_botocore(self, segments, query):
        """Another implementation of signature version 4 signs every request the same way."""
        import botocore.auth
        import botocore.awsrequest
        import botocore.credentials

        moment = 1_700_000_000.0
        path = "/b/" + quote_key("/".join(segments))
        who = Credentials("AKID", "secret", "token")
        pairs = list(query.items())
        target, headers = sign(
            "PUT",
            "h:9",
            path,
            pairs,
            {"x-amz-meta-a": "1  2"},
            payload=UNSIGNED,
            credentials=who,
            region="eu-1",
            now=moment,
        )
        request = botocore.awsrequest.AWSRequest("PUT", f"http://h:9{target}", headers={"x-amz-meta-a": "1  2"})
        request.context.update(timestamp=headers["x-amz-date"], signing={}, payload_signing_enabled=False)
        request.headers["X-Amz-Date"] = headers["x-amz-date"]
        request.headers["x-amz-content-sha256"] = UNSIGNED
        request.headers["X-Amz-Security-Token"] = "token"
        theirs = botocore.auth.S3SigV4Auth(botocore.credentials.Credentials("AKID", "secret", "token"), "s3", "eu-1")
        text = theirs.string_to_sign(request, theirs.canonical_request(request))
        assert headers["authorization"].endswith(theirs.signature(text, request))

    def test_virtual_addressing_through_a_proxy(self, keys, monkeypatch):
        """The bucket is in the host, and requests take the proxy of the environment."""
        with Scripted(stored_ok) as server:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server.server_port}")
            system = server.open(addressing="virtual", endpoint_url="http://s3.test")
            for key in ("plain", "a//odd"):
                system.write(key, b"1")
                _, target, headers, _ = server.seen[-1]
                assert (target, headers["host"]) == (f"http://data.s3.test/x/{key}", "data.s3.test")


# Integrity


class TestIntegrity:
    @pytest.mark.parametrize("key", ["plain", "odd//key"])
    def test_flipped_upload_is_found(self, moto_server, key):
        """moto checks nothing: what it says it got is held against what was sent, and goes again."""
        with FaultProxy(moto_server.port, [Flip(direction="up", match=is_put, times=1)], http=True) as proxy:
            system = opened(moto_server, via=proxy.port)
            with pytest.raises(IntegrityError) as caught:
                system.write(key, b"real bytes" * 100)
            assert caught.value.retryable
            assert caught.value.expected != caught.value.got
            assert proxy.counts.faults["Flip"] == 1
            assert list(system.list()) == []
            assert system.write(key, b"real bytes" * 100).size == 1000

    def test_flipped_part_is_found(self, moto_server):
        """A part that arrives otherwise is not accepted, and the upload goes on."""
        with FaultProxy(moto_server.port, http=True) as proxy:
            system = opened(moto_server, via=proxy.port)
            upload = system.begin("big", 6 << 20, part_size=5 << 20)
            proxy.plan = [Flip(direction="up", match=is_put, times=1)]
            with pytest.raises(IntegrityError):
                upload.put(0, bytes(5 << 20))
            tags = [upload.put(0, bytes(5 << 20)), upload.put(1, bytes(1 << 20))]
            upload.finish(tags)
            assert system.read("big").read() == bytes(6 << 20)

    @pytest.mark.parametrize("server", ["s3_server", "moto_server"])
    def test_flipped_stream_leaves_nothing(self, request, server):
        """A stream damaged on the way is an error, and neither an object nor an upload stays."""
        server = request.getfixturevalue(server)
        with FaultProxy(server.port, [Flip(direction="up", match=is_put, times=1)], http=True) as proxy:
            system = opened(server, via=proxy.port)
            with pytest.raises(IntegrityError):
                system.write("s", pieces(noise(20 << 20)), size=20 << 20)
            assert list(system.list()) == []
            assert system.sweep() == 0

    @pytest.mark.parametrize("span", [(10, 4000), (10, 3 << 20)], ids=["fast", "exact"])
    @pytest.mark.parametrize("server", ["s3_server", "moto_server"])
    def test_short_answers_are_errors(self, request, server, span):
        """A range that comes short, with a length that fits, is no success."""
        server = request.getfixturevalue(server)
        with FaultProxy(server.port, http=True) as proxy:
            system = opened(server, via=proxy.port)
            system.write("f", noise(3 << 20))
            system.read("f", span).read()
            proxy.plan = [Truncate(at=-5, match=is_get, times=1)]
            with pytest.raises((IntegrityError, UnavailableError)):
                system.read("f", span).read()
            proxy.plan = [Cut(at=-5, match=is_get, times=1)]
            with pytest.raises(UnavailableError):
                b"".join(system.read("f", span))

    def test_entries_carry_the_checksum(self, moto_server):
        """What the store vouches for is in every entry, and it finds a bit flipped on the way back."""
        with FaultProxy(moto_server.port, [Flip(match=is_get)], http=True) as proxy:
            direct, system = opened(moto_server, "data/check"), opened(moto_server, "data/check", via=proxy.port)
            data = noise(100_000)
            wanted = "md5:" + hashlib.md5(data).hexdigest()
            assert direct.write("f", data).check == wanted
            assert direct.head("f").check == wanted
            body = system.read("f")
            assert body.entry.check == wanted
            assert "md5:" + hashlib.md5(body.read()).hexdigest() != wanted

    def test_encrypted_etags_are_no_checksums(self, keys):
        """Under KMS an etag looks like an MD5 and is none: no false alarm, and no check claimed."""
        sse = {"x-amz-server-side-encryption": "aws:kms", "ETag": '"' + "ab" * 16 + '"', "Last-Modified": ""}

        def answer(method, path, body):
            return 200, {**sse, "Content-Length": "5"} if method == "HEAD" else sse, b""

        with Scripted(answer) as server:
            system = server.open()
            assert system.write("k", b"bytes").check is None
            assert system.head("k").check is None
            before = len(server.seen)
            system.write("k", b"bytes")
            assert len(server.seen) == before + 1


# Preconditions


def is_put(request) -> bool:
    return request.method == "PUT" and ".rh-probe" not in request.path


def is_get(request) -> bool:
    return request.method == "GET" and "list-type" not in request.query


class TestPreconditions:
    @pytest.mark.parametrize("change", ["absent", "match"])
    def test_lost_answer_is_no_conflict(self, moto_server, change):
        """Our own write, whose answer was lost, is recognised when it is tried again; another's is a conflict."""
        with FaultProxy(moto_server.port, http=True) as proxy:
            system = opened(moto_server, via=proxy.port)
            when = ABSENT if change == "absent" else Match(system.write("k", b"before").etag)
            system.write("first", b"probes", when=ABSENT)
            proxy.plan = [DropAnswer(match=is_put, times=1)]
            with pytest.raises(UnavailableError):
                system.write("k", b"ours", when=when)
            entry = system.write("k", b"ours", when=when)
            assert entry.etag == system.head("k").etag
            with pytest.raises(ExistsError if change == "absent" else ConflictError):
                system.write("k", b"ours", when=when)

    def test_lost_answer_to_a_write_that_lost(self, moto_server):
        """An unanswered try does not make another writer's object ours."""
        with FaultProxy(moto_server.port, http=True) as proxy:
            system, other = opened(moto_server, "data/lost", via=proxy.port), opened(moto_server, "data/lost")
            system.write("probe", b"", when=ABSENT)
            proxy.plan = [Cut(direction="up", at=0, match=is_put, times=1)]
            with pytest.raises(UnavailableError):
                system.write("k", b"same bytes", when=ABSENT)
            other.write("k", b"same bytes", when=ABSENT)
            with pytest.raises(ExistsError):
                system.write("k", b"same bytes", when=ABSENT)

    def test_lost_answer_to_finish(self, moto_server):
        """An upload finished once is finished, whatever became of the answer."""
        with FaultProxy(moto_server.port, http=True) as proxy:
            system = opened(moto_server, via=proxy.port)
            upload = system.begin("big", 6 << 20, part_size=5 << 20)
            tags = [upload.put(0, bytes(5 << 20)), upload.put(1, bytes(1 << 20))]
            proxy.plan = [DropAnswer(match=lambda request: request.method == "POST", times=1)]
            with pytest.raises(UnavailableError):
                upload.finish(tags)
            assert upload.finish(tags) == system.head("big")

    def test_probing_is_done_once_and_leaves_nothing(self, s3_server):
        """That rclone ignores conditions is found out before anything is written, once per bucket."""
        bucket = s3_server.make_bucket("probed").removeprefix("s3://")
        system = opened(s3_server, f"{bucket}/p")
        with observe.counting() as counts:
            for when in (ABSENT, Match("x"), ABSENT):
                with pytest.raises(UnsupportedError, match="does not check preconditions"):
                    system.write("k", b"1", when=when)
        assert counts.requests["s3", "probe"] == 4
        assert counts.requests["s3", "write"] == 0
        status, listing = s3_server.request("GET", f"/{bucket}", query={"list-type": "2"})
        assert status == 200
        assert b"<Key>" not in listing


# Directories, hidden names, copies


class TestListing:
    def test_markers_of_consoles(self, moto_server):
        """An empty object `d/` is an empty directory as long as nothing is below it; it can be deleted."""
        for path in ("marks/", "marks/d/", "marks/e/", "marks/e/f", "marks/z"):
            moto_server.request("PUT", f"/data/{path}", expect=(200,))
        system = opened(moto_server, "data/marks")
        assert [(e.key, e.kind) for e in system.list()] == [("d/", "dir"), ("e/f", "file"), ("z", "file")]
        assert [(e.key, e.kind) for e in system.list(depth=1)] == [("d/", "dir"), ("e/", "dir"), ("z", "file")]
        assert [(e.key, e.kind) for e in system.list("d/", depth=1)] == [("d/", "dir")]
        with pytest.raises(NotFoundError):
            system.head("d/")
        system.delete(["e/f"])
        assert [e.key for e in system.list()] == ["d/", "e/", "z"]
        system.delete(["d/", "e/"])
        assert [e.key for e in system.list()] == ["z"]

    def test_a_large_hidden_store_is_jumped_over(self, s3_server):
        """Listing a root costs what is seen there, not what is hidden in it."""
        system = opened(s3_server)
        # rclone answers 500 when two writes make the same directory at once: the first one goes alone.
        system.write("d/.rh-store/00000", b"")
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n: system.write(f"d/.rh-store/{n:05d}", b""), range(1, 3100)))
        system.write("d/a", b"")
        system.write("d/z", b"")
        with observe.counting() as counts:
            assert [entry.key for entry in system.list()] == ["d/a", "d/z"]
        assert counts.requests["s3", "list"] == 2

    def test_copy_in_parts(self, moto_server, monkeypatch):
        """What is too large for one copy request is copied in parts, while the source is the one listed."""
        monkeypatch.setattr("rh.systems.s3.COPY_LIMIT", 1 << 20)
        monkeypatch.setattr("rh.systems.s3.parts.COPY_PART", 5 << 20)
        moto_server.make_bucket("other")
        source, target = opened(moto_server), opened(moto_server, f"other/{uuid4().hex}")
        data = noise(12 << 20)
        entry = source.write("big é", data)
        seen = []
        outcome = next(target.copy_many(source, [(entry, "copy")], watch=lambda *told: seen.append(told)))
        assert outcome.error is None
        assert seen == [("copy", 5 << 20), ("copy", 10 << 20), ("copy", 12 << 20)]
        assert outcome.entry.etag.endswith("-3")
        assert target.read("copy").read() == data
        source.write("big é", b"changed")
        stale = next(target.copy_many(source, [(entry, "stale")]))
        assert isinstance(stale.error, ConflictError)

        def no_more(key, _size):
            raise RhError("enough", where=key)

        stopped = next(target.copy_many(target, [(outcome.entry, "half")], watch=no_more))
        assert "enough" in str(stopped.error)
        assert target.sweep() == 0
        assert [entry.key for entry in target.list()] == ["copy"]


# Places, identity, errors


class TestPlaces:
    def test_two_endpoints_side_by_side(self, s3_server, moto_server):
        """Two stores, two identities, one process; neither copies from the other by itself."""
        with servers.s3(buckets=("data",)) as second:
            one, two, three = (
                opened(s3_server, "data/k", "s3"),
                opened(second, "data/k", "ovh"),
                opened(moto_server, "data/k", "m"),
            )
            with observe.counting() as counts:
                for number, system in enumerate((one, two, three)):
                    system.write("same", str(number).encode())
                assert [system.read("same").read() for system in (one, two, three)] == [b"0", b"1", b"2"]
            assert (
                counts.requests["s3", "write"] == counts.requests["ovh", "write"] == counts.requests["m", "write"] == 1
            )
            assert not two.can_copy_from(one)
            assert next(iter(two.list())).check == "md5:" + hashlib.md5(b"1").hexdigest()

    def test_standard_variables(self, s3_server, monkeypatch):
        """With AWS_ENDPOINT_URL and keys in the environment, nothing needs to be configured."""
        for name, value in s3_server.environment().items():
            monkeypatch.setenv(name, value)
        system = S3System.open(Location("s3", f"data/{uuid4().hex}"), {"kind": "s3", "timeout_s": 10})
        system.write("k", b"v")
        assert system.read("k").read() == b"v"
        assert system.sign_read("k").url.startswith(s3_server.endpoint)

    def test_another_process_resumes(self, s3_server, python):
        """An upload begun by a process that is gone is finished by this one."""
        system = opened(s3_server, "data/resumed")
        code = (
            "import json,sys; from rh.systems.s3 import S3System; from rh.types import Location\n"
            "s = S3System.open(Location('s3', 'data/resumed'), json.loads(sys.argv[1]))\n"
            "u = s.begin('big', 6 << 20, part_size=5 << 20); u.put(0, b'a' * (5 << 20)); print(u.token, end='')"
        )
        upload = system.resume("big", python(code, json.dumps(s3_server.settings())))
        tags = upload.parts()
        assert list(tags) == [0]
        upload.finish([tags[0], upload.put(1, b"b" * (1 << 20))])
        assert system.read("big").read() == b"a" * (5 << 20) + b"b" * (1 << 20)

    def test_credentials_are_refreshed(self, s3_server, tmp_path, monkeypatch):
        """Credentials that a process gives for a short time are asked for again, without a new handle."""
        source = tmp_path / "now.json"
        config = tmp_path / "config"
        config.write_text(
            f"[profile short]\ncredential_process = {sys.executable} -c \"print(open('{source}').read())\"\n"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))

        def give(access, secret):
            soon = datetime.now(UTC) + timedelta(seconds=60)
            told = {"Version": 1, "AccessKeyId": access, "SecretAccessKey": secret, "Expiration": soon.isoformat()}
            source.write_text(json.dumps(told))

        give("AKWRONG", "wrong")
        settings = {"kind": "s3", "endpoint_url": s3_server.endpoint, "profile": "short", "timeout_s": 10}
        system = S3System.open(Location("s3", f"data/{uuid4().hex}"), settings)
        with pytest.raises(AccessError):
            list(system.list())
        give(s3_server.access_key, s3_server.secret_key)
        assert list(system.list()) == []
        system.write("k", b"by the new ones")
        assert system.read("k").read() == b"by the new ones"

    def test_no_secret_is_shown(self, s3_server, tmp_path, caplog):
        """A canary given as the secret key is in no log, repr, error or traceback."""
        canary = "CANARY/secret+0815"
        file = tmp_path / "credentials"
        file.write_text(f"[rh-playground]\naws_access_key_id = AKCANARY\naws_secret_access_key = {canary}\n")
        seen = []
        with caplog.at_level(logging.DEBUG):
            system = opened(s3_server, credentials_file=str(file))
            for attempt in (
                lambda: system.write("k", b"1"),
                lambda: system.write("k//odd", b"1"),
                lambda: system.read("k").read(),
                lambda: list(system.list()),
                lambda: system.delete(["a", "b"]),
                lambda: system.begin("k", 1, part_size=1),
            ):
                with pytest.raises(AccessError) as caught:
                    attempt()
                seen += [str(caught.value), repr(caught.value), repr(pickle.dumps(caught.value))]
                seen += traceback.format_exception(caught.value)
            seen += [
                repr(system),
                repr(vars(system.bucket.place)),
                repr(system.bucket.place.credentials()),
                caplog.text,
            ]
            seen += [repr(system.sign_read("k")), repr(pickle.dumps(system.location))]
        assert not [text for text in seen if canary in text or "CANARY/secret%2B0815" in text]

    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"profile": "nobody"}, InvalidError, "there is no AWS profile 'nobody'"),
            ({}, UnauthenticatedError, "aws sso login"),
            ({"credentials_file": "/no/such"}, InvalidError, "no such credentials file"),
            ({"addressing": "odd", "anonymous": True}, InvalidError, "path or virtual"),
            ({"anonymous": "maybe"}, InvalidError, "neither true nor false"),
            ({"anonymous": True, "endpoint_url": "ftp://x"}, InvalidError, "http or https"),
            ({"anonymous": True, "endpoint_url": "http://u:canary@x"}, InvalidError, "holds no secret"),
        ],
    )
    def test_wrong_settings(self, settings, error, words):
        """Each says what is wrong and how to mend it, before anything is sent."""
        base = {"kind": "s3", "timeout_s": 2, "endpoint_url": "http://127.0.0.1:9"}
        with pytest.raises(error) as caught:
            S3System.open(Location("s3", "data"), {**base, **settings}).head("k")
        assert words in str(caught.value)
        assert "canary" not in str(caught.value)

    def test_a_bucket_is_needed(self):
        with pytest.raises(InvalidError, match="a bucket is needed"):
            S3System.open(Location("s3", ""), {"kind": "s3"})


ANSWERS = [
    (404, "NoSuchBucket", NotFoundError, "there is no bucket 'data'"),
    (404, "NoSuchKey", NotFoundError, "nothing is there"),
    (403, "AccessDenied", AccessError, "access denied"),
    (403, "InvalidAccessKeyId", UnauthenticatedError, "aws configure list"),
    (400, "ExpiredToken", UnauthenticatedError, "aws sso login"),
    (403, "RequestTimeTooSkewed", UnauthenticatedError, "clock"),
    (301, "PermanentRedirect", InvalidError, "AWS_REGION="),
    (400, "AuthorizationHeaderMalformed", InvalidError, 'region = "eu-west-3"'),
    (503, "SlowDown", UnavailableError, "try later"),
    (500, "InternalError", UnavailableError, "failing for the moment"),
    (501, "NotImplemented", UnsupportedError, "cannot do that"),
    (507, "XMinioStorageFull", FullError, "no room is left"),
    (400, "KeyTooLongError", InvalidError, "refuses this name"),
    (400, "BadDigest", IntegrityError, "did not receive"),
    (403, "InvalidObjectState", AccessError, "archived"),
]


class TestErrors:
    @pytest.mark.parametrize(("status", "code", "error", "words"), ANSWERS, ids=[answer[1] for answer in ANSWERS])
    def test_refusals(self, keys, status, code, error, words):
        """Each refusal is its own error with place and fix, and costs exactly one request."""
        xml = f"<Error><Code>{code}</Code><Message>it isn&#39;t so</Message><Region>eu-west-3</Region></Error>".encode()
        with Scripted(lambda *_request: (status, {}, xml)) as server:
            system = server.open()
            attempts = [
                lambda: system.read("k").read(),
                lambda: system.read("k//odd").read(),
                lambda: system.write("k", b"1"),
                lambda: system.write("k//odd", b"1"),
                lambda: list(system.list()),
            ]
            for number, attempt in enumerate(attempts, 1):
                with pytest.raises(error) as caught:
                    attempt()
                assert words in str(caught.value)
                assert "&#39;" not in str(caught.value)
                assert caught.value.where
                assert len(server.seen) == number

    @pytest.mark.parametrize(("asked", "tries"), [("1", 2), ("3600", 1)])
    def test_a_store_that_asks_to_wait(self, keys, asked, tries):
        """It is left alone for so long, if there is so much time."""
        busy = (503, {"Retry-After": asked}, b"<Error><Code>SlowDown</Code></Error>")
        with Scripted(lambda *_: busy if len(server.seen) == 1 else (200, {}, b"")) as server:
            system = Retrying(server.open(), budget_s=10)
            if tries == 1:
                with pytest.raises(UnavailableError, match="asks to wait 3,600 s"):
                    system.delete(["k"])
            else:
                system.delete(["k"])
            assert len(server.seen) == tries

    def test_nobody_listens(self, keys):
        """A refused connection is `UnavailableError` that names the place, at once."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            system = S3System.open(
                Location("s3", "data"), {"kind": "s3", "endpoint_url": f"http://127.0.0.1:{port}", "timeout_s": 10}
            )
            begun = time.monotonic()
            for attempt in (lambda: system.read("k"), lambda: system.write("k//odd", b""), lambda: next(system.list())):
                with pytest.raises(UnavailableError, match="nothing answers"):
                    attempt()
            assert time.monotonic() - begun < 2

    def test_a_peer_that_swallows_packets(self, s3_server):
        """Every verb returns within its deadline, wherever the silence begins."""
        opened(s3_server, "data/silent").write("f", noise(2 << 20))
        with FaultProxy(s3_server.port, [Swallow(direction="down", at=0)]) as proxy:
            system = opened(s3_server, "data/silent", via=proxy.port, timeout_s=1)
            for attempt in (
                lambda: system.read("f").read(),
                lambda: system.read("f//odd").read(),
                lambda: system.head("f"),
                lambda: list(system.list()),
                lambda: system.write("g", b"1"),
                lambda: system.write("g//odd", b"1"),
                lambda: system.delete(["g"]),
            ):
                begun = time.monotonic()
                with pytest.raises(DeadlineError):
                    attempt()
                assert time.monotonic() - begun < 3
        with FaultProxy(s3_server.port, [Swallow(direction="down", at=500_000)]) as proxy:
            system = opened(s3_server, "data/silent", via=proxy.port, timeout_s=1)
            for span in (None, (0, 2 << 20)):
                with pytest.raises(DeadlineError):
                    system.read("f", span).read()

    def test_hosts_are_signed_as_they_are_sent(self, s3_server):
        """An endpoint may be written with capitals."""
        endpoint = s3_server.endpoint.replace("127.0.0.1", "LocalHost")
        assert opened(s3_server, endpoint_url=endpoint).write("k", b"1").size == 1

    def test_tls(self, keys, tmp_path, monkeypatch):
        """The server's certificate is checked; what `ca_bundle` names is trusted besides."""
        bundle, chain, key = certificates(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        with Scripted(stored_ok) as server:
            plain, server.server.socket = (
                server.server.socket,
                context.wrap_socket(server.server.socket, server_side=True),
            )
            endpoint = f"https://127.0.0.1:{server.server.server_port}"
            server.open(endpoint_url=endpoint, ca_bundle=str(bundle)).write("k", b"1")
            monkeypatch.setenv("HOME", str(tmp_path))
            server.open(endpoint_url=endpoint, ca_bundle=f"~/{bundle.name}").write("k//odd", b"1")
            assert len(server.seen) == 2
            for name in ("k", "k//odd"):
                with pytest.raises(AccessError, match="certificate"):
                    server.open(endpoint_url=endpoint).write(name, b"1")
            assert len(server.seen) == 2
            plain.close()

    def test_a_missing_bucket_is_no_empty_place(self, s3_server):
        """Listing, reading and writing say that the bucket is missing."""
        system = opened(s3_server, "no-such-bucket/x")
        for attempt in (lambda: list(system.list()), lambda: system.read("k"), lambda: system.write("k", b"1")):
            with pytest.raises(NotFoundError):
                attempt()
        with pytest.raises(NotFoundError, match="no bucket"):
            list(system.list())
