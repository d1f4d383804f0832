"""Part of `rh.testing.systems`: what only some systems can do."""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rh import digest
from rh.errors import (
    ConflictError,
    ExistsError,
    IntegrityError,
    InvalidError,
    NotFoundError,
    RhError,
    UnsupportedError,
)
from rh.systems.abilities import (
    Bulk,
    Composed,
    Digesting,
    Fetching,
    Following,
    Item,
    Linked,
    Multipart,
    Paging,
    Running,
    ServerCopy,
    Signing,
    Streaming,
    Sweeping,
    Versioned,
)
from rh.systems.base import System
from rh.systems.far.skip import Skip
from rh.testing._suite import (
    Suite,
    by_key,
    noise,
    same,
    send,
    shown,
    split,
    web,
)
from rh.types import ABSENT, Entry, Link, Match, SignedRequest


class AbilitiesSuite(Suite):
    """What a system can do beyond the six verbs."""

    def test_pages(self, system: System) -> None:
        """The pages of a listing are the listing: none is empty, none is long (4)."""
        paging: Paging | None = self.given(system, Paging)
        if paging is None:
            return
        keys = [f"p/{number:04d}" for number in range(1010)] + ["p-q", "p.q/a", "p0", "q/é/a", "q/é0", "z"]
        self.put(system, {key: key.encode() for key in keys})
        for prefix, after in (
            ("", ""),
            ("p", ""),
            ("p/", "p/0500"),
            ("", "p/0999"),
            ("q/", "q/é/a"),
            ("no", ""),
            ("", "zz"),
        ):
            pages = list(paging.list_pages(prefix, after=after))
            assert all(0 < len(page) <= 10_000 for page in pages)
            assert [entry for page in pages for entry in page] == list(system.list(prefix, after=after)), (
                prefix,
                after,
            )

    def test_pages_of_what_is_wanted(self, system: System) -> None:
        """Directories that are skipped take nothing else with them; a place on disk does not show what is in them."""
        paging: Paging | None = self.given(system, Paging)
        if paging is None:
            return
        keys = ["a/skip/x/y", "a/skip.txt", "a/skipped/x", "b/x", "skip/a/x", "skip/x", "z"]
        self.put(system, {key: key.encode() for key in keys})
        for follow in (False, Following in self.abilities):
            pages = paging.list_pages(follow=follow, skip=Skip([r"(?:.+/)?skip/"]))
            found = [entry.key for page in pages for entry in page]
            assert [key for key in found if "skip/" not in key] == [key for key in keys if "skip/" not in key]
            assert Following not in self.abilities or not any("skip/" in key for key in found)

    def test_bulk_write(self, system: System) -> None:
        """Many small writes: one outcome each, one bad item hurts no other."""
        bulk: Bulk | None = self.given(system, Bulk)
        if bulk is None:
            return
        if not self.writable:
            refused = list(bulk.write_many([Item("x", b"1")]))
            assert isinstance(refused[0].error, UnsupportedError)
            return
        items = [Item(f"d{number % 7}/f {number}", noise(number * 7, number)) for number in range(300)]
        if "executable" in self.keeps:
            items.append(Item("run", b"#!", executable=True))
        if "links" in self.keeps:
            items.append(Item("link", Link("d0/f 0")))
        if "directories" in self.keeps:
            items.append(Item("void/", b""))
        bad = "" if self.flat else "d0/f 0/under a file"
        outcomes = by_key(bulk.write_many(iter([*items, Item(bad, b"x")])))
        assert len(outcomes) == len(items) + 1
        assert isinstance(outcomes.pop(bad).error, InvalidError)
        assert [outcome.error for outcome in outcomes.values() if outcome.error] == []
        listed = {entry.key: entry for entry in system.list()}
        assert outcomes.keys() == listed.keys()
        for key, outcome in outcomes.items():
            assert outcome.entry is not None
            assert same(outcome.entry, listed[key]), key
        for item in random.Random(3).sample(items[:300], 20):
            assert system.read(item.key).read() == item.data
        assert list(bulk.write_many([])) == []
        words = memoryview(array("I", [1, 2, 3]))
        (outcome,) = bulk.write_many([Item("words", words)], workers=1)
        assert outcome.error is None
        assert system.read("words").read() == words.tobytes()

    def test_bulk_read(self, system: System) -> None:
        """Many small reads: the bytes of each entry, or its own error."""
        bulk: Bulk | None = self.given(system, Bulk)
        if bulk is None:
            return
        tree = {f"d{number % 7}/f {number}": noise(number * 7, number) for number in range(300)}
        self.put(system, tree)
        entries = list(system.list())
        found = {entry.key: data for entry, data in bulk.read_many(iter(entries))}
        assert found == tree
        self.put(system, {"d0/f 0": b"changed since"})
        gone = Entry("d1/gone", 5, etag=entries[0].etag)
        outcome = dict(bulk.read_many([*entries[:3], gone]))
        errors = {entry.key: data for entry, data in outcome.items() if isinstance(data, Exception)}
        if entries[0].etag is not None:
            assert isinstance(errors.pop("d0/f 0"), ConflictError)
        assert isinstance(errors.pop("d1/gone"), (NotFoundError, ConflictError))
        assert errors == {}
        assert list(bulk.read_many([])) == []
        assert len(list(bulk.read_many(entries[3:50], workers=2))) == 47
        # What has grown since somebody looked is all of it or an error, never the beginning.
        ((_, data),) = bulk.read_many([Entry("d0/f 0", 0)])
        assert isinstance(data, Exception) or data == b"changed since"

    def test_digesting(self, system: System) -> None:
        """Digests computed over there are the ones of `rh.digest`, plain and chunked."""
        digesting: Digesting | None = self.given(system, Digesting)
        if digesting is None:
            return
        tree = {"empty": b"", "small": noise(4096), "large": noise(self.large)}
        self.put(system, tree)
        gone = Entry("gone", 3)
        outcomes = by_key(digesting.digest_many([*system.list(), gone]))
        assert isinstance(outcomes.pop("gone").error, NotFoundError)
        assert set(outcomes) == set(tree)
        for key, data in tree.items():
            want = digest.of_bytes(data)
            assert outcomes[key].error is None
            assert (outcomes[key].digest, outcomes[key].chunks or b"") == (want.text, want.chunks), key

    def test_server_copy(self, system: System) -> None:
        """The place copies by itself: same bytes, whole or not at all, only what was listed."""
        copier: ServerCopy | None = self.given(system.at("to"), ServerCopy)
        if copier is None:
            return
        source, target = system.at("from"), system.at("to")
        tree = {"a": b"1", "d/ü 2": noise(5000), "empty": b"", "large": noise(self.large)}
        self.put(source, tree)
        assert copier.can_copy_from(source)
        pairs = [(entry, f"new/{entry.key}") for entry in source.list()]
        seen: dict[str, int] = {}
        outcomes = by_key(copier.copy_many(source, pairs, watch=seen.__setitem__))
        assert set(outcomes) == {f"new/{key}" for key in tree}
        assert all(there <= len(tree[key.removeprefix("new/")]) for key, there in seen.items())
        for key, data in tree.items():
            outcome = outcomes[f"new/{key}"]
            assert outcome.error is None
            assert outcome.entry is not None
            assert same(outcome.entry, target.head(f"new/{key}"))
            assert target.read(f"new/{key}").read() == data
            if outcome.digest is not None:
                assert outcome.digest == digest.of_bytes(data).text
        stale = source.head("a")
        self.put(source, {"a": b"newer"})
        outcomes = by_key(copier.copy_many(source, [(stale, "stale"), (Entry("no", 1), "gone")]))
        assert isinstance(outcomes["gone"].error, NotFoundError)
        if stale.etag is not None:
            assert isinstance(outcomes["stale"].error, ConflictError)
            with pytest.raises(NotFoundError):
                target.head("stale")

    def test_following(self, system: System) -> None:
        """A listing through links shows what they lead to, in order, and its etags read the same way."""
        following: Following | None = self.given(system, Following)
        if following is None:
            return
        self.put(system, {"real/a": b"1", "real/d/b": b"22", "z": b"333"})
        self.link(system, {"l": "z", "m": "real", "real/up": "../z"})
        expected = ["l", "m/a", "m/d/b", "m/up", "real/a", "real/d/b", "real/up", "z"]
        entries = list(following.list_following())
        assert shown(entries) == [(key, "file") for key in expected]
        sizes = dict(zip(expected, [3, 1, 2, 3, 1, 2, 3, 3], strict=True))
        assert {entry.key: entry.size for entry in entries} == sizes
        for entry in entries:
            assert entry.etag is not None
            assert len(system.read(entry.key, when=Match(entry.etag)).read()) == entry.size
        bulk = system.ask(Bulk)
        if bulk is not None:
            assert {entry.key: len(data) for entry, data in bulk.read_many(entries)} == sizes  # type: ignore[arg-type]
        assert shown(following.list_following("m/")) == [(key, "file") for key in expected[1:4]]
        assert shown(following.list_following(after="m/d")) == [(key, "file") for key in expected[2:]]
        assert shown(following.list_following(depth=1)) == [
            ("l", "file"),
            ("m/", "dir"),
            ("real/", "dir"),
            ("z", "file"),
        ]
        plain = {entry.key: entry.kind for entry in system.list()}
        assert (plain["l"], plain["m"], plain["real/up"]) == ("link", "link", "link")

    def test_what_cannot_be_followed(self, system: System) -> None:
        """A link to nothing, to no name, to itself, below a file or back to where it lies is a link, in its place."""
        following: Following | None = self.given(system, Following)
        if following is None:
            return
        self.put(system, {"dir/file": b"1", "dir/sub/file": b"2"})
        bad = {"none": "nowhere", "self": "self", "sub/up": "..", "sub/up.x": "../../dir/sub", "through": "file/x"}
        bad |= {"long": "x" * 256, "top": ".."}
        self.link(system, {f"dir/{name}": target for name, target in bad.items()})
        found = {entry.key: entry for entry in following.list_following()}
        assert shown(found.values()) == [
            ("dir/file", "file"),
            ("dir/long", "link"),
            ("dir/none", "link"),
            ("dir/self", "link"),
            ("dir/sub/file", "file"),
            ("dir/sub/up", "link"),
            ("dir/sub/up.x", "link"),
            ("dir/through", "link"),
            ("dir/top", "link"),
        ]
        assert found["dir/none"].target == "nowhere"
        assert shown(following.list_following("dir/sub/")) == shown(found.values())[4:7]

    def test_real_paths(self, system: System) -> None:
        """What links lead to has one path, whether it is there or not."""
        linked: Linked | None = self.given(system, Linked)
        if linked is None:
            return
        self.put(system, {"dir/sub/file": b"1"})
        self.link(system, {"l": "dir"})
        top = linked.real_path()
        assert top.startswith("/")
        for path in ("dir", "l"):
            for below in ("", "/sub", "/sub/not/there"):
                root: Any = self.again(system.at(path + below))
                assert root.real_path() == f"{top}/dir{below}"

    def test_fetching(self, system: System) -> None:
        """The place gets and puts URLs by itself, whole and in parts, and tells the digest of what moved."""
        fetching: Fetching | None = self.given(system, Fetching)
        if fetching is None:
            return
        data, big = noise(100_000), noise(self.large)
        with web({"/a b": data, "/big": big}) as (address, held):
            requests = [
                (Entry("there", len(data)), "got/ü 1", SignedRequest("GET", f"{address}/a%20b")),
                (Entry("big", len(big)), "got/big", SignedRequest("GET", f"{address}/big")),
                (Entry("gone", 5), "got/gone", SignedRequest("GET", f"{address}/gone")),
            ]
            outcomes = by_key(fetching.fetch_many(requests))
            assert outcomes.pop("got/gone").error is not None
            assert {key: outcome.error for key, outcome in outcomes.items()} == {"got/ü 1": None, "got/big": None}
            assert [entry.key for entry in system.list()] == ["got/big", "got/ü 1"]
            for key, content in (("got/ü 1", data), ("got/big", big)):
                want = digest.of_bytes(content)
                assert system.read(key).read() == content
                assert (outcomes[key].digest, outcomes[key].chunks or b"") == (want.text, want.chunks)
            middle = len(big) // 2
            spans = [(0, middle), (middle, len(big))]
            parts = [(span, SignedRequest("PUT", f"{address}/part{n}")) for n, span in enumerate(spans)]
            whole = [((0, len(data)), SignedRequest("PUT", f"{address}/whole"))]
            sent = by_key(fetching.send_many([(system.head("got/big"), parts), (system.head("got/ü 1"), whole)]))
            assert [outcome.error for outcome in sent.values()] == [None, None]
            assert held["/part0"] + held["/part1"] == big
            assert held["/whole"] == data
            assert sent["got/big"].digest == digest.of_bytes(big).text
            entry = sent["got/big"].entry
            assert entry is not None
            assert entry.etag == "tag-/part0\ntag-/part1"

    def test_fetching_ranges(self, system: System) -> None:
        """Neighbours in a URL come together, a file comes in pieces; what has another digest is not published."""
        fetching: Fetching | None = self.given(system, Fetching)
        if fetching is None:
            return
        pack, tail = noise(300_000), noise(70_000)
        with web({"/pack": pack, "/tail": tail}) as (address, held):

            def part(path: str, start: int, stop: int) -> tuple[tuple[int, int], SignedRequest]:
                return (start, stop), SignedRequest("GET", f"{address}{path}")

            def entry(data: bytes, *, executable: bool = False) -> Entry:
                return Entry("x", len(data), check=digest.of_bytes(data).text, executable=executable)

            wanted = {f"run/{n:02}": pack[n * 5_000 : n * 5_000 + 4_000] for n in range(50)}
            requests = [
                (entry(data), key, [part("/pack", n * 5_000, n * 5_000 + 4_000)])
                for n, (key, data) in enumerate(wanted.items())
            ]
            again = (entry(wanted["run/49"], executable=True), "run/again", [part("/pack", 245_000, 249_000)])
            joined = pack[100:200_100] + tail[5:] + pack[:50]
            pieces = [part("/pack", 100, 200_100), part("/tail", 5, 70_000), part("/pack", 0, 50)]
            wrong = [part("/pack", 0, 10)]
            bad = [
                (entry(b"other data"), "bad/digest", wrong),
                (entry(b"x" * 11), "bad/pieces", [*wrong, part("/tail", 0, 2)]),
                (entry(b"x" * 10), "bad/gone", [part("/none", 0, 10)]),
            ]
            outcomes = by_key(fetching.fetch_many([*requests, again, (entry(joined), "joined", pieces), *bad]))
        assert {key for key, outcome in outcomes.items() if outcome.error} == {"bad/digest", "bad/pieces", "bad/gone"}
        assert isinstance(outcomes["bad/digest"].error, IntegrityError)
        assert isinstance(outcomes["bad/gone"].error, NotFoundError)
        for key, data in {**wanted, "run/again": wanted["run/49"], "joined": joined}.items():
            assert system.read(key).read() == data
            assert outcomes[key].digest == digest.of_bytes(data).text
        assert [found.key for found in system.list() if found.key.startswith("bad") and found.kind == "file"] == []
        assert system.head("run/again").executable in (True, None)
        assert held.ranges["/pack"] <= 6, "neighbours come with one request"  # of 54 that were asked for

    def test_pieces(self, system: System) -> None:
        """The pieces of a file, where they are, are its bytes; its etag is their digest."""
        composed: Composed | None = self.given(system, Composed)
        if composed is None:
            return
        tree = {"a": noise(1000), "dir/b": noise(5000), "dir/c": b"", "large": noise(self.large)}
        self.put(system, tree)
        assert len(composed.origins()) > 0
        for key, data in tree.items():
            entry = system.head(key)
            assert entry.etag == digest.of_bytes(data).text
            found = [
                (piece, None if piece.start is None else (piece.start, piece.start + piece.size))
                for piece in composed.pieces_of(entry)
            ]
            assert sum(piece.size for piece, _ in found) == len(data)
            assert b"".join(piece.system.read(piece.key, span).read() for piece, span in found) == data
            with pytest.raises(ConflictError):
                composed.pieces_of(entry._replace(etag=digest.of_bytes(b"other").text))

    def test_versions(self, system: System) -> None:
        """What a key was is read as it was when it is overwritten and when it is deleted, or is `NotFoundError`."""
        versioned: Versioned | None = self.given(system, Versioned)
        if versioned is None:
            return
        self.put(system, {"dir/ü 1": b"first", "other": b"other"})
        entries = [system.head("dir/ü 1"), system.head("other")]
        names = versioned.versions_of(entries)
        assert set(names) <= {"dir/ü 1", "other"}
        pinned = versioned.pinned(names)
        assert pinned.read("dir/ü 1").read() == b"first"
        system.write("dir/ü 1", b"second")
        if "dir/ü 1" not in names:
            return
        for gone in (False, True):
            if gone:
                system.delete(["dir/ü 1"])
            try:
                assert pinned.read("dir/ü 1", when=Match(entries[0].etag or "")).read() == b"first"
                assert pinned.read("dir/ü 1", (1, 3)).read() == b"ir"
                assert pinned.head("dir/ü 1").etag == entries[0].etag
            except NotFoundError:
                continue
        assert pinned.read("other").read() == b"other"

    def test_multipart(self, system: System) -> None:
        """Parts in any order and thread; nothing to be seen until the end."""
        multipart: Multipart | None = self.given(system, Multipart)
        if multipart is None:
            return
        data = noise(2 * 5 * 1024 * 1024 + 12345)
        upload = multipart.begin("dir/big", len(data), part_size=5 * 1024 * 1024)
        parts = split(data, upload.part_size)
        with ThreadPoolExecutor(3) as pool:
            upload.put(0, bytes(len(parts[0])))
            tags = list(pool.map(upload.put, range(len(parts)), parts))
        assert [entry for entry in system.list() if entry.kind != "dir"] == []
        assert upload.parts() == dict(enumerate(tags))
        entry = upload.finish(tags)
        assert same(entry, system.head("dir/big"))
        assert system.read("dir/big").read() == data
        assert [listed.key for listed in system.list()] == ["dir/big"]

    def test_multipart_resumes(self, system: System) -> None:
        """Another process goes on with an upload by its token, and knows what has arrived."""
        multipart: Multipart | None = self.given(system, Multipart)
        if multipart is None:
            return
        data = noise(2 * 5 * 1024 * 1024 + 1)
        upload = multipart.begin("big", len(data), part_size=5 * 1024 * 1024)
        parts = split(data, upload.part_size)
        tag = upload.put(1, parts[1])
        other = self.again(system).ask(Multipart)
        assert other is not None
        resumed = other.resume("big", upload.token)
        assert resumed.part_size == upload.part_size
        assert resumed.parts() == {1: tag}
        tags = [tag if number == 1 else resumed.put(number, part) for number, part in enumerate(parts)]
        resumed.finish(tags)
        assert system.read("big").read() == data
        with pytest.raises(NotFoundError):
            other.resume("big", upload.token).parts()

    def test_multipart_aborts(self, system: System) -> None:
        """An upload given up leaves nothing; one that may not replace does not."""
        multipart: Multipart | None = self.given(system, Multipart)
        if multipart is None:
            return
        upload = multipart.begin("big", 6 * 1024 * 1024, part_size=5 * 1024 * 1024)
        upload.put(0, bytes(5 * 1024 * 1024))
        upload.abort()
        upload.abort()
        assert list(system.list()) == []
        with pytest.raises(NotFoundError):
            multipart.resume("big", upload.token).parts()
        if "absent" not in self.conditions:
            return
        system.write("big", b"old")
        upload = multipart.begin("big", 100, part_size=5 * 1024 * 1024)
        tag = upload.put(0, bytes(100))
        with pytest.raises(ExistsError):
            upload.finish([tag], when=ABSENT)
        assert system.read("big").read() == b"old"
        upload.abort()

    def test_streaming(self, system: System) -> None:
        """A part may come in pieces, which share a buffer; one whose pieces end in an error is put again."""
        streaming: Streaming | None = self.given(system, Streaming)
        multipart = system.ask(Multipart)
        if streaming is None or multipart is None:
            return
        data = noise(2 * 5 * 1024 * 1024 + 12345)
        upload = multipart.begin("dir/big", len(data), part_size=5 * 1024 * 1024)
        parts = split(data, upload.part_size)

        def pieces(part: bytes, error: Exception | None = None) -> Iterator[memoryview]:
            with memoryview(bytearray(1 << 16)) as buffer:
                for at in range(0, len(part), len(buffer)):
                    size = len(part[at : at + len(buffer)])
                    buffer[:size] = part[at : at + size]
                    yield buffer[:size]
            if error is not None:
                raise error

        for error in (IntegrityError("damaged"), ValueError("of another kind")):
            with pytest.raises(type(error)) as caught:
                streaming.put_stream(upload, 1, pieces(bytes(len(parts[1])), error))
            assert caught.value is error
        for wrong in (parts[1][:-1], parts[1] + b"x"):
            with pytest.raises(IntegrityError):
                streaming.put_stream(upload, 1, pieces(wrong))
        with pytest.raises(InvalidError):
            streaming.put_stream(upload, len(parts), pieces(b""))
        assert upload.parts() == {}
        tags = [streaming.put_stream(upload, number, pieces(part)) for number, part in enumerate(parts)]
        assert upload.parts() == dict(enumerate(tags))
        upload.finish(tags)
        assert system.read("dir/big").read() == data
        system.write("streamed", pieces(data), size=len(data))
        assert system.read("streamed").read() == data

    def test_sweeping(self, system: System) -> None:
        """What a crash left behind is collected; what is there stays."""
        sweeping: Sweeping | None = self.given(system, Sweeping)
        if sweeping is None:
            return
        self.put(system, {"keep": b"1", "dir/.rh-manifest": b"m"})
        multipart = system.ask(Multipart)
        token = None
        if multipart is not None:
            upload = multipart.begin("dir/big", 6 * 1024 * 1024, part_size=5 * 1024 * 1024)
            upload.put(0, bytes(5 * 1024 * 1024))
            token = upload.token
        assert sweeping.sweep(older_than_s=3600) == 0
        swept = sweeping.sweep()
        if multipart is not None and token is not None:
            assert swept >= 1
            with pytest.raises(NotFoundError):
                multipart.resume("dir/big", token).parts()
        assert sweeping.sweep() == 0
        assert system.read("keep").read() == b"1"
        assert system.read("dir/.rh-manifest").read() == b"m"

    def test_signing(self, system: System) -> None:
        """A signed request reads or writes one object without our credentials."""
        signing: Signing | None = self.given(system, Signing)
        if signing is None:
            return
        data = noise(100_000)
        self.put(system, {"d/ü x+y": data})
        status, _, got = send(signing.sign_read("d/ü x+y"))
        assert (status, got) == (200, data)
        status, _, _ = send(signing.sign_write("d/new %", len(data)), data)
        assert status in (200, 201)
        assert system.read("d/new %").read() == data
        request = signing.sign_read("d/ü x+y")
        assert request.url not in repr(request)
        multipart = system.ask(Multipart)
        if multipart is None:
            return
        big = noise(5 * 1024 * 1024 + 7)
        upload = multipart.begin("big", len(big), part_size=5 * 1024 * 1024)
        tags = []
        for number, part in enumerate(split(big, upload.part_size)):
            status, headers, _ = send(signing.sign_part(upload, number, len(part)), part)
            assert status in (200, 201)
            tags.append(headers.get("ETag") or upload.parts()[number])
        upload.finish(tags)
        assert system.read("big").read() == big

    def test_running(self, system: System) -> None:
        """A command runs in the root from its argument list, exactly."""
        running: Running | None = self.given(system, Running)
        if running is None:
            return
        system.write("here", b"1")
        odd = "a b;$(x) 'q' \"d\" \\ * ü"
        assert running.run(["printf", "%s|", odd, ""]) == (0, f"{odd}||".encode(), b"")
        assert running.run(["ls"]) == (0, b"here\n", b"")
        assert running.run(["cat"], stdin=b"\0in\xff") == (0, b"\0in\xff", b"")
        status, out, err = running.run(["sh", "-c", "echo no >&2; exit 3"])
        assert (status, out, err) == (3, b"", b"no\n")
        begun = time.monotonic()
        with pytest.raises(RhError) as caught:
            running.run(["sleep", "60"], timeout_s=0.5)
        assert caught.value.kind == "deadline"
        assert time.monotonic() - begun < 15
