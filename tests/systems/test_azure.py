"""The Azure system on azurite."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import pickle
import time
import traceback
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import ClassVar
from urllib.parse import quote
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rh import observe
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
)
from rh.systems.abilities import Bucketed, Bulk, Multipart, Paging, ServerCopy, Signing, Sweeping, Versioned
from rh.systems.azure import AzureSystem, identify
from rh.systems.azure.container import in_byte_order
from rh.testing import servers
from rh.testing.faults import DropAnswer, FaultProxy, Flip, Status, Swallow, Truncate
from rh.testing.servers.azure_versions import AzureVersions, _Answer
from rh.testing.systems import SystemSuite, noise, pieces
from rh.types import ABSENT, ANY, Entry, Location, Match


def opened(server, root: str | None = None, name: str = "azure", **more) -> AzureSystem:
    path = root if root is not None else f"data/{uuid4().hex}"
    return AzureSystem.open(Location(name, path), server.settings(**{"timeout_s": 20, **more}))


class SlowCopies(AzureVersions):
    """Copies that are not made at once, as between far-off places: azurite's are."""

    progress: ClassVar[list[str]] = []
    left: ClassVar = iter(())
    outcome: ClassVar[dict[str, str]] = {}
    ended: ClassVar[dict[str, str]] = {}
    aborted = 0

    def _through(self, handler, body=b""):
        if "comp=copy" in handler.path and self.outcome:
            return _Answer(409, {"x-ms-error-code": "NoPendingCopyOperation"}, b"")
        if "comp=copy" in handler.path:
            self.aborted += 1
            self.left = iter(())
            self.ended = {"x-ms-copy-id": "1", "x-ms-copy-status": "aborted"}
            return _Answer(204, {}, b"")
        answer = super()._through(handler, body)
        if handler.headers.get("x-ms-copy-source"):
            self.left, self.ended = iter(self.progress), self.outcome
            answer.headers.update({"x-ms-copy-id": "1", "x-ms-copy-status": "pending"})
        elif handler.command == "HEAD" and (now := next(self.left, None)) is not None:
            answer.headers.update({"x-ms-copy-status": "pending", "x-ms-copy-progress": now})
        elif handler.command == "HEAD" and answer.status == 200:
            answer.headers.update(self.ended)
        return answer


class TestOnAzurite(SystemSuite):
    abilities: ClassVar = frozenset({Bucketed, Bulk, Multipart, Paging, ServerCopy, Signing, Sweeping, Versioned})
    refused: ClassVar = dict.fromkeys(("b/./c", "b/../c", "back\\slash", "bell\x07"), NameClashError)

    @pytest.fixture
    def system(self, azure_server):
        return opened(azure_server)


class TestVersions:
    @pytest.fixture
    def system(self, azure_versions_server):
        return opened(azure_versions_server)

    def test_conformance(self, system):
        """What the suite promises of systems whose place keeps versions."""
        TestOnAzurite().test_versions(system)
        assert len(system.versions_of([system.head("other")])) == 1

    def test_links_are_to_one_version(self, system):
        """A signed URL gives the version that is meant, whatever is there now, and that one only."""
        system.write("dir/ü 1", b"first")
        names = system.versions_of([system.head("dir/ü 1")])
        link = system.pinned(names).sign_read("dir/ü 1").url
        system.write("dir/ü 1", b"second")
        with urllib.request.urlopen(link, timeout=10) as answer:
            assert answer.read() == b"first"
        current = system.versions_of([system.head("dir/ü 1")])["dir/ü 1"]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(link.replace(quote(names["dir/ü 1"], safe=""), quote(current, safe="")), timeout=10)

    def test_what_there_is_none_of(self, system):
        """A version that is no more, or no name of one, is not taken for what is there."""
        system.write("a", b"data")
        for name in ("2020-01-01T00:00:00.0000000Z", "7", "ä"):
            with pytest.raises((NotFoundError, InvalidError)):
                system.pinned({"a": name}).read("a").read()
        assert system.pinned({"b": "7"}).read("a").read() == b"data"

    def test_an_account_without_versions_is_asked_little(self, azure_server):
        """A few of many blobs tell that none is a version."""
        system = opened(azure_server)
        entries = [system.write(f"{number:02}", b"data") for number in range(40)]
        with observe.counting() as counts:
            assert system.versions_of(entries) == {}
        assert counts.total("azure") <= 8

    def test_others_are_asked_for_each(self, system):
        """Of blobs that are versions each tells its own; one that has changed since it was listed none."""
        entries = [system.write(f"{number:02}", b"data") for number in range(20)]
        system.write("07", b"other")
        with observe.counting() as counts:
            names = system.versions_of(entries)
        assert sorted(names) == [f"{number:02}" for number in range(20) if number != 7]
        assert counts.total("azure") == 20


def is_put(request) -> bool:
    return request.method == "PUT"


def is_get(request) -> bool:
    return request.method == "GET" and "comp=list" not in request.query


class TestIntegrity:
    @pytest.mark.parametrize("key", ["plain", "odd//key"])
    def test_flipped_upload_is_found(self, azure_server, key):
        """The service checks the MD5 that goes with every write, and keeps nothing of a damaged one."""
        with FaultProxy(azure_server.port, [Flip(direction="up", match=is_put, times=1)], http=True) as proxy:
            system = opened(azure_server, via=proxy.port)
            with pytest.raises(IntegrityError) as caught:
                system.write(key, b"real bytes" * 100)
            assert caught.value.retryable
            assert list(system.list()) == []
            assert system.write(key, b"real bytes" * 100).size == 1000

    def test_flipped_stream_leaves_nothing(self, azure_server):
        """A stream damaged on the way leaves neither a blob nor blocks."""
        damage = Flip(direction="up", match=lambda r: is_put(r) and "comp=block&" in f"{r.query}&", times=1)
        with FaultProxy(azure_server.port, [damage], http=True) as proxy:
            system = opened(azure_server, via=proxy.port)
            with pytest.raises(IntegrityError):
                system.write("s", pieces(noise(20 << 20)), size=20 << 20)
            assert proxy.counts.faults["Flip"] == 1
            assert list(system.list()) == []
            assert system.sweep() == 0

    @pytest.mark.parametrize("span", [(10, 4000), (10, 3 << 20)], ids=["fast", "exact"])
    def test_short_answers_are_errors(self, azure_server, span):
        """A range that comes short, with a length that fits, is no success."""
        with FaultProxy(azure_server.port, http=True) as proxy:
            system = opened(azure_server, via=proxy.port)
            system.write("f", noise(3 << 20))
            proxy.plan = [Truncate(at=-5, match=is_get, times=1)]
            with pytest.raises((IntegrityError, UnavailableError)):
                system.read("f", span).read()

    def test_entries_carry_the_checksum(self, azure_server):
        """The MD5 the service keeps is in every entry."""
        system = opened(azure_server)
        data = noise(100_000)
        wanted = "md5:" + hashlib.md5(data).hexdigest()
        written = system.write("f", data)
        assert {written.check, system.head("f").check, next(system.list()).check} == {wanted}


class TestPreconditions:
    @pytest.mark.parametrize("change", ["absent", "match"])
    def test_lost_answer_is_no_conflict(self, azure_server, change):
        """Our own write, whose answer was lost, is recognised when it is tried again; another's is a conflict."""
        with FaultProxy(azure_server.port, http=True) as proxy:
            system = opened(azure_server, via=proxy.port)
            when = ABSENT if change == "absent" else Match(system.write("k", b"before").etag)
            proxy.plan = [DropAnswer(match=is_put, times=1)]
            with pytest.raises(UnavailableError):
                system.write("k", b"ours", when=when)
            assert system.write("k", b"ours", when=when) == system.head("k")
            with pytest.raises(ExistsError if change == "absent" else ConflictError):
                system.write("k", b"ours", when=when)

    @pytest.mark.parametrize("when", [ANY, ABSENT], ids=["any", "absent"])
    def test_lost_answer_to_finish(self, azure_server, when):
        """An upload finished once is finished, whatever became of the answer."""
        with FaultProxy(azure_server.port, http=True) as proxy:
            system = opened(azure_server, via=proxy.port)
            upload = system.begin("big", 6 << 20, part_size=5 << 20)
            tags = [upload.put(0, bytes(5 << 20)), upload.put(1, bytes(1 << 20))]
            proxy.plan = [DropAnswer(match=lambda r: "comp=blocklist" in r.query, times=1)]
            with pytest.raises(UnavailableError):
                upload.finish(tags, when=when)
            assert upload.finish(tags, when=when) == system.head("big")


class TestListing:
    def test_markers_of_other_tools(self, azure_server):
        """Directories that other tools made are empty directories where their key belongs, and can be deleted."""
        system = opened(azure_server)
        for name, headers in (
            ("a", {"x-ms-meta-hdi_isfolder": "true"}),
            ("b", {"x-ms-meta-hdi_isfolder": "true"}),
            ("c/", {}),
            ("c/in/", {}),
        ):
            system.container.ask("write", "PUT", name, headers={"x-ms-blob-type": "BlockBlob", **headers})
        for key in ("a-b", "b/file", "b.x"):
            system.write(key, b"1")
        assert [(e.key, e.kind) for e in system.list()] == [
            ("a-b", "file"),
            ("a/", "dir"),
            ("b.x", "file"),
            ("b/file", "file"),
            ("c/in/", "dir"),
        ]
        assert [e.key for e in system.list(depth=1)] == ["a-b", "a/", "b.x", "b/", "c/"]
        with pytest.raises(NotFoundError):
            system.head("a")
        system.delete(["a/", "b/file", "b/", "c/", "c/in/"])
        assert [e.key for e in system.list()] == ["a-b", "b.x"]

    @settings(max_examples=200, deadline=None)
    @given(st.sets(st.text(st.sampled_from("a/\ue000～😀\U0010fffd"), min_size=1, max_size=5)))
    def test_order_of_utf16_is_mended(self, keys):
        """What a service orders by UTF-16 units, and what it orders rightly, comes out in the order of UTF-8 bytes."""
        for given_order in ("utf-16-be", "utf-8"):
            entries = [Entry(key, 0) for key in sorted(keys, key=lambda key: key.encode(given_order))]
            assert [entry.key for entry in in_byte_order(entries)] == sorted(keys, key=str.encode)


class TestUploads:
    def test_another_process_resumes(self, azure_server, python):
        """An upload begun by a process that is gone is finished by this one."""
        system = opened(azure_server, "data/resumed")
        code = (
            "import json,sys; from rh.systems.azure import AzureSystem; from rh.types import Location\n"
            "s = AzureSystem.open(Location('azure', 'data/resumed'), json.loads(sys.argv[1]))\n"
            "u = s.begin('big', 6 << 20, part_size=5 << 20); u.put(0, b'a' * (5 << 20)); print(u.token, end='')"
        )
        upload = system.resume("big", python(code, json.dumps(azure_server.settings())))
        tags = upload.parts()
        assert list(tags) == [0]
        upload.finish([tags[0], upload.put(1, b"b" * (1 << 20))])
        assert system.read("big").read() == b"a" * (5 << 20) + b"b" * (1 << 20)

    def test_giving_up_spares_others(self, azure_server):
        """Giving an upload up drops its blocks, but neither a blob under its key nor the blocks of another upload."""
        system = opened(azure_server)
        one = system.begin("k", 100, part_size=50)
        two = system.begin("k", 100, part_size=50)
        tags = [two.put(0, bytes(50)), two.put(1, bytes(50))]
        one.put(0, b"1" * 50)
        one.abort()
        assert two.finish(tags).size == 100
        three = system.begin("k", 60, part_size=50)
        three.put(0, bytes(50))
        three.abort()
        assert system.head("k").size == 100
        assert system.sweep() == 0

    def test_small_parts(self, azure_server):
        """Parts may be small here; names of blocks go through signed URLs unharmed."""
        system = opened(azure_server)
        data = noise(1000)
        upload = system.begin("k", 1000, part_size=7)
        tags = [upload.put(number, data[number * 7 : number * 7 + 7]) for number in range(143)]
        assert upload.finish(tags).size == 1000
        assert system.read("k").read() == data


class TestPlaces:
    def test_standard_variables(self, azure_server, monkeypatch):
        """With the connection string in the environment, nothing needs to be configured."""
        for name, value in azure_server.environment().items():
            monkeypatch.setenv(name, value)
        system = AzureSystem.open(Location("azure", f"data/{uuid4().hex}"), {"kind": "azure", "timeout_s": 10})
        system.write("k", b"v")
        assert system.read("k").read() == b"v"

    def test_account_and_key(self, azure_server, monkeypatch):
        """An account, its key and an endpoint will do as well."""
        monkeypatch.setenv("AZURE_STORAGE_KEY", azure_server.key)
        settings = {"kind": "azure", "account": azure_server.account, "endpoint_url": azure_server.endpoint}
        system = AzureSystem.open(Location("azure", f"data/{uuid4().hex}"), settings)
        system.write("k", b"v")
        assert system.read("k").read() == b"v"

    def test_shared_access_signature(self, azure_server, monkeypatch):
        """A signature of the container works on both roads, copies too; it cannot sign for others, and is not shown."""
        from azure.storage.blob import generate_container_sas

        monkeypatch.setenv(
            "AZURE_STORAGE_SAS_TOKEN",
            "?"
            + generate_container_sas(
                azure_server.account,
                "data",
                account_key=azure_server.key,
                permission="racwdl",
                expiry=datetime.now(UTC) + timedelta(hours=1),
            ),
        )
        settings = {"kind": "azure", "account": azure_server.account, "endpoint_url": azure_server.endpoint}
        system = AzureSystem.open(Location("azure", f"data/{uuid4().hex}"), settings)
        entry = system.write("odd//é", b"v")
        assert system.read("odd//é").read() == b"v"
        system.write("plain", b"w")
        assert system.read("plain").read() == b"w"
        outcome = next(system.copy_many(system, [(entry, "copy")]))
        assert outcome.error is None
        assert system.read("copy").read() == b"v"
        with pytest.raises(UnauthenticatedError, match="cannot sign"):
            system.sign_read("plain")
        with pytest.raises(NotFoundError) as caught:
            system.read("gone")
        assert "sig=" not in "".join(traceback.format_exception(caught.value))
        assert "sig=" not in repr(vars(system.container.place))

    def test_a_copy_that_takes_its_time(self, azure_server):
        """It may take longer than an answer may, as long as it goes on; what stands still is given up, and aborted."""
        with SlowCopies(azure_server) as server:
            system = AzureSystem.open(Location("azure", f"data/{uuid4().hex}"), {**server.settings(), "timeout_s": 1})
            entry = system.write("f", b"12345678")
            seen = []
            server.progress = [f"{size}/8" for size in range(1, 6)]  # the pauses between them come to 1.5 s
            outcome = next(system.copy_many(system, [(entry, "copy")], watch=lambda *told: seen.append(told)))
            assert outcome.error is None
            assert seen == [("copy", size) for size in range(1, 6)]
            assert server.aborted == 0
            server.progress = ["1/8"] * 1000
            outcome = next(system.copy_many(system, [(entry, "late")]))
            assert isinstance(outcome.error, DeadlineError)
            assert "does not go on" in str(outcome.error)
            assert server.aborted == 1

            def no_more(key, _size):
                raise RhError("enough", where=key)

            outcome = next(system.copy_many(system, [(entry, "stopped")], watch=no_more))
            assert "enough" in str(outcome.error)
            assert server.aborted == 2
            server.progress, server.outcome = ["1/8"], {"x-ms-copy-id": "1", "x-ms-copy-status": "failed"}
            outcome = next(system.copy_many(system, [(entry, "failed")]))
            assert "gave the copy up: failed" in str(outcome.error)
            assert [one.key for one in system.list()] == ["copy", "f"], "of what was given up, nothing is left"

    def test_two_accounts_side_by_side(self, azure_server):
        """Two accounts in one process; neither copies from the other by itself."""
        with servers.azure() as second:
            one, two = opened(azure_server, "data/side"), opened(second, "data/side", "az-two")
            one.write("same", b"1")
            two.write("same", b"2")
            assert (one.read("same").read(), two.read("same").read()) == (b"1", b"2")
            assert not two.can_copy_from(one)

    def test_no_secret_is_shown(self, azure_server, tmp_path, caplog):
        """A canary given as the account key is in no log, repr, error or traceback."""
        canary = base64.b64encode(b"CANARY secret 0815 canary").decode()
        file = tmp_path / "connection"
        file.write_text(azure_server.connection_string.replace(azure_server.key, canary))
        seen = []
        with caplog.at_level(logging.DEBUG):
            system = opened(azure_server, connection_string_file=str(file))
            for attempt in (
                lambda: system.write("k", b"1"),
                lambda: system.read("k").read(),
                lambda: system.read("k//odd").read(),
                lambda: list(system.list()),
                lambda: system.delete(["a", "b"]),
            ):
                with pytest.raises(AccessError) as caught:
                    attempt()
                seen += [str(caught.value), repr(pickle.dumps(caught.value))]
                seen += traceback.format_exception(caught.value)
            seen += [repr(system), repr(vars(system.container.place)), caplog.text, repr(system.sign_read("k"))]
        assert not [text for text in seen if canary in text]

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({}, "no storage account is named"),
            ({"connection_string_file": "/no/such"}, "cannot be read"),
            ({"account": "a", "anonymous": "maybe"}, "neither true nor false"),
            ({"account": "a", "anonymous": True, "endpoint_url": "ftp://x"}, "http or https"),
        ],
    )
    def test_wrong_settings(self, settings, words):
        """Each says what is wrong, before anything is sent."""
        with pytest.raises(InvalidError, match=words):
            AzureSystem.open(Location("azure", "data"), {"kind": "azure", "timeout_s": 2, **settings}).head("k")

    def test_an_empty_key_names_nothing(self, azure_server):
        """It is refused before a request is sent, which would be about the container."""
        system = opened(azure_server)
        with observe.counting() as counts:
            for work in (
                system.head,
                system.read,
                lambda key: system.write(key, b""),
                lambda key: system.delete([key]),
            ):
                with pytest.raises(InvalidError, match="an empty key"):
                    work("")
        assert not counts.requests

    def test_a_container_is_needed(self):
        with pytest.raises(InvalidError, match="a container is needed"):
            AzureSystem.open(Location("azure", ""), {"kind": "azure"})


class TestErrors:
    def test_missing_container(self, azure_server):
        """Every verb says that the container is missing, for exactly one request."""
        system = opened(azure_server, "no-such-container/x")
        for attempt in (
            lambda: list(system.list()),
            lambda: system.read("k"),
            lambda: system.read("k//odd"),
            lambda: system.write("k", b"1"),
            lambda: system.delete(["k"]),
        ):
            with observe.counting() as counts, pytest.raises(NotFoundError, match="there is no container"):
                attempt()
            assert counts.total() == 1

    @pytest.mark.parametrize(
        ("code", "error"),
        [(503, UnavailableError), (500, UnavailableError), (403, AccessError), (401, UnauthenticatedError)],
    )
    def test_refusals_cost_one_request(self, azure_server, code, error):
        """On both roads nothing is tried twice here."""
        with FaultProxy(azure_server.port, [Status(code=code)], http=True) as proxy:
            system = opened(azure_server, via=proxy.port)
            for number, attempt in enumerate(
                (
                    lambda: system.read("k"),
                    lambda: system.read("k//odd"),
                    lambda: system.write("k", b""),
                    lambda: list(system.list()),
                ),
                1,
            ):
                with pytest.raises(error):
                    attempt()
                assert sum(proxy.counts.requests.values()) == number

    def test_a_peer_that_swallows_packets(self, azure_server):
        """Every verb returns within its deadline."""
        with FaultProxy(azure_server.port, [Swallow(direction="down", at=0)]) as proxy:
            system = opened(azure_server, via=proxy.port, timeout_s=1)
            for attempt in (
                lambda: system.read("f").read(),
                lambda: system.head("f"),
                lambda: list(system.list()),
                lambda: system.write("g", b"1"),
                lambda: system.delete(["g"]),
            ):
                begun = time.monotonic()
                with pytest.raises(DeadlineError):
                    attempt()
                assert time.monotonic() - begun < 3

    @pytest.mark.parametrize(
        "given",
        [
            {"AZURE_STORAGE_ACCOUNT": "mine", "AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=CANARY"},
            {"AZURE_STORAGE_ACCOUNT": "mine", "AZURE_STORAGE_KEY": "Q0FOQVJZ"},
            {
                "AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=https://mine.blob.core.windows.net/;"
                "SharedAccessSignature=sv=1&sig=CANARY"
            },
        ],
    )
    def test_what_is_told_of_one_account_is_no_other_s(self, monkeypatch, given):
        """Credentials of the environment go to no account but their own."""
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        found = identify({"kind": "azure", "account": "partner", "endpoint_url": "https://other.example"})
        assert (found.key, found.sas, found.account) == (None, None, "partner")
        own = identify({"kind": "azure", "account": "mine"})
        assert own.key or own.sas

    def test_nothing_secret_travels_in_the_clear(self, monkeypatch):
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=CANARY")
        settings = {"kind": "azure", "account": "a"}
        with pytest.raises(InvalidError, match="in the clear"):
            identify({**settings, "endpoint_url": "http://192.0.2.2"})
        assert identify({**settings, "endpoint_url": "http://127.0.0.1:1/a"}).sas


def test_a_copy_is_held_against_its_source(azure_server):
    """Promise 1, also where the service copies by itself."""
    system = opened(azure_server)
    entry = system.write("k", b"v")
    (outcome,) = system.copy_many(system, [(entry._replace(check="md5:" + "0" * 32), "j")])
    assert isinstance(outcome.error, IntegrityError)
    (outcome,) = system.copy_many(system, [(entry, "j")])
    assert outcome.error is None


def test_a_range_that_is_there_is_never_empty(azure_server, monkeypatch):
    """An object that was replaced by a larger one between the two answers."""
    system = opened(azure_server)
    system.write("k", b"0123456789")
    assert system.read("k", (10, 20)).read() == b""
    monkeypatch.setattr(type(system.container), "_open", lambda *_: None)
    with pytest.raises(ConflictError, match="replaced"):
        system.read("k", (5, 20))
