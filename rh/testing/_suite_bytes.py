"""Part of `rh.testing.systems`: bytes, keys, listings and handles."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rh.errors import (
    InvalidError,
    NameClashError,
    NotFoundError,
)
from rh.systems.base import System
from rh.testing._suite import (
    ESCAPES,
    FLAT_KEYS,
    ODD_KEYS,
    ORDERED,
    Suite,
    expected_listing,
    in_child,
    noise,
    pieces,
    same,
    shown,
)
from rh.types import Match


class BytesSuite(Suite):
    """What every system does."""

    # Bytes in and out

    @pytest.mark.parametrize("size", [0, 1, 4096, 5 * 1024 * 1024 + 1])
    def test_bytes_round_trip(self, system: System, size: int) -> None:
        """Bytes come back as given, and `write`, `head` and `list` tell the same entry (9)."""
        data = noise(size, seed=size)
        self.put(system, {"dir/file": data})
        with system.read("dir/file") as body:
            assert body.entry.size == size
            assert body.read() == data
        entry = system.head("dir/file")
        assert (entry.key, entry.size, entry.kind, entry.target) == ("dir/file", size, "file", None)
        assert list(system.list()) == [entry]
        if self.writable:
            again = system.write("dir/other", data)
            assert same(again, system.head("dir/other"))
            assert again.size == size

    @pytest.mark.parametrize("known", [True, False], ids=["size", "no-size"])
    def test_stream_round_trip(self, system: System, known: bool) -> None:
        """A stream larger than any buffer comes back as given, with and without its size (9)."""
        if not self.writable:
            return self.refuses_to_write(system)
        data = noise(self.large)
        entry = system.write("stream", pieces(data), size=len(data) if known else None)
        assert entry.size == len(data)
        with system.read("stream") as body:
            assert hashlib.sha256(body.read()).digest() == hashlib.sha256(data).digest()
        return None

    def test_buffers_and_empty_streams(self, system: System) -> None:
        """Any bytes-like object and any stream of them will do, also an empty one."""
        if not self.writable:
            return self.refuses_to_write(system)
        given: dict[str, Any] = {
            "bytearray": bytearray(b"abc"),
            "memoryview": memoryview(b"xabcx")[1:4],
            "list": [b"a", b"", bytearray(b"b"), memoryview(b"c")],
            "none": iter(()),
            "blank": iter([b"", b""]),
        }
        for key, data in given.items():
            system.write(key, data)
            expected = b"" if key in ("none", "blank") else b"abc"
            assert system.read(key).read() == expected, key
        return None

    def test_body_iterates_and_closes(self, system: System) -> None:
        """A body gives its bytes piece by piece, and may be closed early and twice."""
        data = noise(3 * 1024 * 1024 + 5)
        self.put(system, {"f": data})
        body = system.read("f")
        assert b"".join(bytes(piece) for piece in body) == data
        body.close()
        body.close()
        early = system.read("f")
        assert bytes(next(iter(early)))[:10] == data[:10]
        early.close()
        early.close()
        assert system.read("f").read() == data

    @pytest.mark.parametrize("room", [1000, 1 << 20, 4 << 20])
    def test_into_a_buffer(self, system: System, room: int) -> None:
        """A body fills buffers of any size with just its bytes, and tells its end with 0, again and again."""
        data = noise(3 * 1024 * 1024 + 5)
        self.put(system, {"f": data, "empty": b""})
        for key, span, expected in (
            ("f", None, data),
            ("f", (5, 2_000_005), data[5:2_000_005]),
            ("f", (9, 5_000_000), data[9:]),
            ("empty", None, b""),
        ):
            got = bytearray()
            buffer = memoryview(bytearray(room))
            with system.read(key, span) as body:
                while count := body.readinto(buffer):
                    got += buffer[:count]
                assert body.readinto(buffer) == 0
            assert got == expected, (key, span)
        early = system.read("f")
        assert early.readinto(memoryview(bytearray(10)))
        early.close()
        assert system.read("f").read() == data

    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 1), (0, 100), (7, 4096), (999, 1000), (70_000, 70_001), (69_000, 999_999), (0, 70_001)]
    )
    def test_spans(self, system: System, start: int, stop: int) -> None:
        """A span is exactly those bytes; beyond the end it is cut."""
        data = noise(70_001)
        self.put(system, {"f": data})
        with system.read("f", (start, stop)) as body:
            assert body.read() == data[start:stop]
            assert body.entry.size == len(data)

    def test_empty_spans(self, system: System) -> None:
        """A span of nothing gives nothing: at a point, at the end, beyond it, and in an empty object."""
        self.put(system, {"f": b"0123456789", "empty": b""})
        for key, span in (("f", (4, 4)), ("f", (10, 20)), ("f", (50, 60)), ("empty", (0, 10))):
            assert system.read(key, span).read() == b"", (key, span)

    def test_bad_spans(self, system: System) -> None:
        """A span that cannot be is refused, not guessed."""
        self.put(system, {"f": b"0123456789"})
        for span in ((-1, 4), (5, 4)):
            with pytest.raises(InvalidError):
                system.read("f", span).read()

    # Keys

    @pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: ascii(key)[:40])
    def test_odd_keys(self, system: System, key: str) -> None:
        """A key is exact: written, listed, read, deleted as it is (10)."""
        if not self.writable:
            return self.refuses_to_write(system)
        error = self.refused.get(key)
        if error is not None:
            with pytest.raises(error):
                system.write(key, b"odd")
            assert list(system.list()) == []
            return None
        system.write(f"{key}", b"odd")
        assert [entry.key for entry in system.list()] == [key]
        assert system.head(key).size == 3
        assert system.read(key).read() == b"odd"
        assert [entry.key for entry in system.list(prefix=key)] == [key]
        system.delete([key])
        assert [entry.key for entry in system.list() if entry.kind != "dir"] == []
        return None

    @pytest.mark.parametrize("key", FLAT_KEYS)
    def test_flat_keys(self, system: System, key: str) -> None:
        """Doubled, leading and dotted slashes are kept exactly, or refused; never tidied (10)."""
        if not self.writable:
            return self.refuses_to_write(system)
        if key in self.refused or not self.flat or key.endswith("/"):
            with pytest.raises(self.refused.get(key, InvalidError)):
                system.write(key, b"odd")
            assert list(system.list()) == []
            return None
        system.write(key, b"odd")
        assert [entry.key for entry in system.list()] == [key]
        assert system.read(key).read() == b"odd"
        return None

    def test_unicode_forms_are_different_keys(self, system: System) -> None:
        """NFC and NFD, upper and lower case are different keys."""
        keys = ["é", "e\u0301", "K", "k", "\u212a"]
        keys = [key for key in keys if key not in self.refused]
        self.put(system, {key: key.encode() for key in keys})
        assert [entry.key for entry in system.list()] == sorted(keys, key=str.encode)
        for key in keys:
            assert system.read(key).read() == key.encode()

    @pytest.mark.parametrize("key", ESCAPES)
    def test_no_key_leads_outside(self, system: System, key: str) -> None:
        """What would leave the root is refused, or is plain text below it (10)."""
        inner = system.at("inner/most")
        if not self.writable:
            with pytest.raises((NameClashError, NotFoundError)):
                inner.read(key)
            return
        try:
            inner.write(key, b"evil")
        except NameClashError:
            assert [entry for entry in system.list() if entry.kind != "dir"] == []
            for verb in (inner.head, inner.read):
                with pytest.raises((NameClashError, NotFoundError)):
                    verb(key)
        else:
            assert [entry.key for entry in inner.list()] == [key]
        for outside in ("evil", "inner/evil"):
            with pytest.raises(NotFoundError):
                system.head(outside)

    def test_impossible_keys(self, system: System) -> None:
        """An empty key is refused, and nothing is written."""
        if not self.writable:
            return self.refuses_to_write(system)
        with pytest.raises(InvalidError):
            system.write("", b"x")
        assert list(system.list()) == []
        return None

    def test_hidden_names(self, system: System) -> None:
        """Names that begin with `.rh-` are readable by exact key and never listed (10)."""
        self.put(system, {".rh-manifest": b"m", "dir/.rh-part": b"p", "dir/seen": b"s", ".rhignore": b"i"})
        assert [entry.key for entry in system.list()] == [".rhignore", "dir/seen"]
        assert [entry.key for entry in system.list(depth=1)] == [".rhignore", "dir/"]
        assert [entry.key for entry in system.list(prefix="dir/.rh")] == []
        assert system.read(".rh-manifest").read() == b"m"
        assert system.read("dir/.rh-part").read() == b"p"
        assert system.head("dir/.rh-part").size == 1

    # Listing

    def test_empty_root(self, system: System) -> None:
        """An empty root lists as nothing (4)."""
        assert list(system.list()) == []
        assert list(system.list(depth=1)) == []
        assert list(system.list(prefix="x/")) == []

    def test_listing_order(self, system: System) -> None:
        """Key order is that of the UTF-8 bytes of the whole key, `a-b` before `a/b` (4)."""
        keys = [key for key in ORDERED if key not in self.refused]
        self.put(system, dict.fromkeys(reversed(keys), b"x"))
        whole = shown(system.list())
        assert whole == expected_listing(keys)
        for prefix in ("", "a", "a/", "a/c", "a/c/", "a/c/d", "a-", "c/d/", "nope", "nope/", "zz/y/", "z"):
            for depth in (None, 1):
                want = expected_listing(keys, prefix, depth=depth)
                assert shown(system.list(prefix, depth=depth)) == want, (prefix, depth)
        for after in (*keys, "a/", "a/a", "a/z", "0", "zzzz", "c/d"):
            assert shown(system.list(after=after)) == expected_listing(keys, after=after), after
        for after in ("a-b", "a.b", "a0", "b"):
            want = expected_listing(keys, after=after, depth=1)
            assert shown(system.list(after=after, depth=1)) == want, after
        assert shown(system.list("a/", after="a/c/d")) == expected_listing(keys, "a/", after="a/c/d")

    def test_listing_pages(self, system: System) -> None:
        """More keys than a page holds: all of them, once, in order; and they can all be deleted (4, 5)."""
        keys = [f"p/{number:05d}" for number in range(1105)] + ["q/only"]
        self.put(system, dict.fromkeys(keys, b""))
        assert [entry.key for entry in system.list()] == keys
        assert [entry.key for entry in system.list(after="p/00998")] == keys[999:]
        assert [entry.key for entry in system.list(prefix="p/010")] == keys[1000:1100]
        assert [entry.key for entry in system.list(depth=1)] == ["p/", "q/"]
        first = system.list()
        assert next(first).key == keys[0]
        if self.writable:
            system.delete(keys[:-1])
            assert [entry.key for entry in system.list() if entry.kind != "dir"] == ["q/only"]

    def test_listing_tells_what_head_tells(self, system: System) -> None:
        """An entry is the same from the listing and from `head`, and its etag holds for a read (3, 4)."""
        self.put(system, {"a": b"1", "d/b": b"22", "d/e/c": b""})
        for entry in system.list():
            assert system.head(entry.key) == entry
            if entry.etag is not None:
                with system.read(entry.key, when=Match(entry.etag)) as body:
                    assert body.entry.etag == entry.etag
                    assert len(body.read()) == entry.size

    # Missing things and errors

    def test_missing(self, system: System) -> None:
        """What is not there is `NotFoundError` with its place, and it pickles (6)."""
        self.put(system, {"there/x": b""})
        attempts: list[Callable[[], Any]] = [
            lambda: system.head("gone"),
            lambda: system.read("gone").read(),
            lambda: system.read("there/gone", (0, 5)).read(),
            lambda: system.head("there/x/y"),
            lambda: system.head("ther"),
        ]
        for attempt in attempts:
            with pytest.raises(NotFoundError) as caught:
                attempt()
            error = caught.value
            assert isinstance(error, FileNotFoundError)
            assert error.where
            back = pickle.loads(pickle.dumps(error))
            assert type(back) is type(error)
            assert (str(back), back.where, back.hint) == (str(error), error.where, error.hint)

    def test_directory_is_not_a_file(self, system: System) -> None:
        """The name of a directory holds no bytes."""
        self.put(system, {"dir/x": b"1"})
        with pytest.raises(NotFoundError):
            system.head("dir")
        with pytest.raises(NotFoundError):
            system.read("dir").read()

    # Handles

    def test_at(self, system: System) -> None:
        """`at` is the same place further down; siblings by name are not in it."""
        self.put(system, {"sub/a": b"1", "sub/deep/b": b"2", "subway": b"3"})
        sub = system.at("sub")
        assert [entry.key for entry in sub.list()] == ["a", "deep/b"]
        assert [entry.key for entry in system.at("sub").at("deep").list()] == ["b"]
        assert [entry.key for entry in system.at("sub/deep").list()] == ["b"]
        assert sub.read("deep/b").read() == b"2"
        with pytest.raises(NotFoundError):
            sub.head("way")
        if self.writable:
            sub.write("new", b"4")
            assert system.read("sub/new").read() == b"4"
            system.at("fresh/place").write("x", b"5")
            assert system.read("fresh/place/x").read() == b"5"

    def test_url_and_repr(self, system: System) -> None:
        """The place of a key reads as a URL, and opens again by its location."""
        assert system.url("a/b").endswith("/a/b")
        assert system.url() in repr(system)
        assert pickle.loads(pickle.dumps(system.location)) == system.location
        self.put(system, {"a": b"1"})
        other = self.again(system)
        assert other.read("a").read() == b"1"
        other.close()

    def test_close_and_use_again(self, system: System) -> None:
        """A closed handle connects again when it is used, and may be closed twice."""
        self.put(system, {"a": b"1"})
        system.close()
        system.close()
        assert system.read("a").read() == b"1"
        with system as entered:
            assert entered.head("a").size == 1

    def test_threads(self, system: System) -> None:
        """One handle serves many threads at once (7)."""
        tree = {f"t{number}/f": noise(20_000, number) for number in range(8)}
        self.put(system, tree)

        def work(number: int) -> None:
            own = f"t{number}/f"
            for round_ in range(4):
                assert system.read(own).read() == tree[own]
                if self.writable:
                    key = f"t{number}/{round_}"
                    system.write(key, tree[own][: round_ * 1000])
                    assert system.head(key).size == round_ * 1000
                    system.delete([key])
                assert [entry.key for entry in system.list(f"t{number}/")] == [own]

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))

    def test_fork(self, system: System) -> None:
        """A handle used before a fork works in the child, and still in the parent (7)."""
        data = noise(100_000)
        self.put(system, {"f": data})
        assert system.read("f").read() == data

        def child() -> None:
            assert system.read("f").read() == data
            assert [entry.key for entry in system.list()] == ["f"]
            if self.writable:
                system.write("g", data[:10])
                assert system.read("g").read() == data[:10]

        in_child(child)
        assert system.read("f").read() == data
        if self.writable:
            system.write("h", b"parent")
            assert system.head("h").size == 6
