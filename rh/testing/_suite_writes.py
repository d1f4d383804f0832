"""Part of `rh.testing.systems`: writes, preconditions and deletes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rh.errors import (
    ConflictError,
    ExistsError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnsupportedError,
)
from rh.systems.base import System
from rh.testing._suite import (
    BrokenError,
    Suite,
    pieces,
    shown,
)
from rh.types import ABSENT, Link, Match


class WritesSuite(Suite):
    """What every system that can be written to does; the others refuse."""

    # Writing

    def test_overwrite(self, system: System) -> None:
        """A write replaces all of what was there, longer or shorter, and changes the etag (1)."""
        if not self.writable:
            return self.refuses_to_write(system)
        etags = []
        for data in (b"first, long", b"second", b"", b"third and last"):
            etags.append(system.write("dir/f", data).etag)
            assert system.read("dir/f").read() == data
        assert len(set(etags)) == len(etags) or None in etags
        return None

    def test_an_etag_tells_contents_of_one_size_apart(self, system: System) -> None:
        """What is replaced by as many bytes, at once, has another etag, or none (3)."""
        if not self.writable:
            return self.refuses_to_write(system)
        etags = [system.write("f", data).etag for data in (b"one", b"two")]
        assert etags[0] != etags[1] or None in etags
        return None

    @pytest.mark.parametrize("size", [10, 3 * 1024 * 1024])
    def test_a_body_is_what_its_entry_says(self, system: System, size: int) -> None:
        """What is replaced after a read has begun is read as it was, or not at all (1)."""
        if not self.writable:
            return self.refuses_to_write(system)
        system.write("f", b"0" * size)
        with system.read("f") as body:
            system.write("f", b"1" * (size - 1))
            try:
                data = body.read()
            except ConflictError:
                return None
        assert (len(data), set(data)) == (body.entry.size, {ord("0")})
        return None

    def test_readers_see_whole_files(self, system: System) -> None:
        """A reader polling during overwrites sees the old bytes or the new ones, never a mix (1)."""
        if not self.writable:
            return self.refuses_to_write(system)
        size = 300_000
        system.write("f", b"0" * size)
        stop = threading.Event()
        seen: list[str] = []

        def poll() -> None:
            while not stop.is_set():
                try:
                    data = system.read("f").read()
                except ConflictError:
                    continue
                if len(set(data)) != 1 or len(data) != size + data[0] - ord("0"):
                    seen.append(f"{len(data)} bytes of {sorted(set(data))}")

        readers = [threading.Thread(target=poll) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for number in range(1, 25):
                letter = number % 10
                data = bytes([ord("0") + letter]) * (size + letter)
                system.write("f", data if number % 2 else pieces(data, 65536))
        finally:
            stop.set()
            for reader in readers:
                reader.join(30)
        assert seen == []
        return None

    @pytest.mark.parametrize("before", [None, b"old bytes"], ids=["new", "over"])
    @pytest.mark.parametrize("good", [0, 100, 9 * 1024 * 1024])
    def test_failed_stream_leaves_nothing(self, system: System, before: bytes | None, good: int) -> None:
        """A stream that breaks leaves what was there before, and nothing else (2)."""
        if not self.writable:
            return self.refuses_to_write(system)

        def stream() -> Iterator[bytes]:
            yield from pieces(bytes(good))
            raise BrokenError("the stream broke")

        if before is not None:
            system.write("dir/f", before)
        with pytest.raises(BrokenError):
            system.write("dir/f", stream())
        files = [entry.key for entry in system.list() if entry.kind != "dir"]
        if before is None:
            assert files == []
            with pytest.raises(NotFoundError):
                system.head("dir/f")
        else:
            assert files == ["dir/f"]
            assert system.read("dir/f").read() == before
        return None

    @pytest.mark.parametrize("told", [99, 101])
    def test_wrong_size_is_refused(self, system: System, told: int) -> None:
        """A stream that is shorter or longer than told is an error, and nothing is stored (2, 9)."""
        if not self.writable:
            return self.refuses_to_write(system)
        with pytest.raises(RhError):
            system.write("f", iter([b"x" * 60, b"y" * 40]), size=told)
        assert list(system.list()) == []
        return None

    def test_clash(self, system: System) -> None:
        """`a` beside `a/b`: both in a flat place; elsewhere `NameClashError`, and nothing is lost."""
        if not self.writable:
            return self.refuses_to_write(system)
        system.write("dir/x", b"x")
        system.write("file", b"f")
        if self.flat:
            system.write("dir", b"d")
            system.write("file/y", b"y")
            assert [entry.key for entry in system.list()] == ["dir", "dir/x", "file", "file/y"]
            assert [entry.key for entry in system.list(depth=1)] == ["dir", "dir/", "file", "file/"]
            system.delete(["dir", "file/y"])
            assert [entry.key for entry in system.list()] == ["dir/x", "file"]
            return None
        for key in ("dir", "file/y", "file/y/z"):
            with pytest.raises(NameClashError):
                system.write(key, b"new")
        assert shown(system.list()) == [("dir/x", "file"), ("file", "file")]
        assert system.read("file").read() == b"f"
        return None

    # Preconditions

    def test_absent(self, system: System) -> None:
        """Create-only writes once; the second is `ExistsError` and changes nothing (3)."""
        if not self.writable:
            return self.refuses_to_write(system)
        if "absent" not in self.conditions:
            with pytest.raises(UnsupportedError):
                system.write("f", b"1", when=ABSENT)
            assert list(system.list()) == []
            return None
        system.write("dir/f", b"1", when=ABSENT)
        for data in (b"2", b"", iter([b"3", b"4"])):
            with pytest.raises(ExistsError):
                system.write("dir/f", data, when=ABSENT)
        assert system.read("dir/f").read() == b"1"
        assert [entry.key for entry in system.list()] == ["dir/f"]
        system.delete(["dir/f"])
        system.write("dir/f", b"5", when=ABSENT)
        return None

    def test_match(self, system: System) -> None:
        """A write that names an etag happens only while that etag stands (3)."""
        if not self.writable:
            return self.refuses_to_write(system)
        first = system.write("f", b"1")
        if "match" not in self.conditions:
            with pytest.raises(UnsupportedError):
                system.write("f", b"2", when=Match(first.etag or "none"))
            assert system.read("f").read() == b"1"
            return None
        assert first.etag is not None
        second = system.write("f", b"22", when=Match(first.etag))
        assert second.etag not in (None, first.etag)
        with pytest.raises(ConflictError):
            system.write("f", b"333", when=Match(first.etag))
        with pytest.raises(ConflictError):
            system.write("missing", b"1", when=Match(first.etag))
        assert system.read("f").read() == b"22"
        assert [entry.key for entry in system.list()] == ["f"]
        return None

    def test_read_match(self, system: System) -> None:
        """A read that names an etag is of that content, or `ConflictError` (3)."""
        self.put(system, {"f": b"one"})
        first = system.head("f")
        if first.etag is None:
            return
        assert system.read("f", when=Match(first.etag)).read() == b"one"
        assert system.read("f", (1, 3), when=Match(first.etag)).read() == b"ne"
        self.put(system, {"f": b"two!"})
        for span in (None, (0, 2)):
            with pytest.raises(ConflictError):
                system.read("f", span, when=Match(first.etag)).read()

    def test_one_creator_wins(self, system: System) -> None:
        """Of many who create the same key at once, exactly one does (3, 7)."""
        if "absent" not in self.conditions or not self.writable:
            return self.test_absent(system)
        for round_ in range(5):
            gate = threading.Barrier(6)

            def create(number: int, key: str = f"k{round_}", gate: threading.Barrier = gate) -> bool:
                gate.wait(30)
                try:
                    system.write(key, b"%d" % number, when=ABSENT)
                except ExistsError:
                    return False
                return True

            with ThreadPoolExecutor(6) as pool:
                won = list(pool.map(create, range(6)))
            assert won.count(True) == 1
            assert system.read(f"k{round_}").read() == b"%d" % won.index(True)
        return None

    def test_one_replacer_wins(self, system: System) -> None:
        """Of many who replace the same content at once, exactly one does (3, 7)."""
        if "match" not in self.conditions or not self.writable:
            return self.test_match(system)
        for _ in range(5):
            etag = system.write("k", b"start").etag
            assert etag is not None
            gate = threading.Barrier(6)

            def replace(number: int, etag: str = etag, gate: threading.Barrier = gate) -> bool:
                gate.wait(30)
                try:
                    system.write("k", b"%d" % number, when=Match(etag))
                except ConflictError:
                    return False
                return True

            with ThreadPoolExecutor(6) as pool:
                won = list(pool.map(replace, range(6)))
            assert won.count(True) == 1
            assert system.read("k").read() == b"%d" % won.index(True)
        return None

    # Deleting

    def test_delete(self, system: System) -> None:
        """Only the keys given go; missing ones are fine (5)."""
        if not self.writable:
            return self.refuses_to_write(system)
        self.put(system, dict.fromkeys(["a", "ab", "a.c", "d/a", "d/ab", "e"], b"1"))
        system.delete([])
        system.delete(["a", "missing", "d/a", "no/such/dir", "ab/c"])
        assert [entry.key for entry in system.list()] == ["a.c", "ab", "d/ab", "e"]
        system.delete(["a", "d"])
        system.delete(["d/"])
        assert [entry.key for entry in system.list()] == ["a.c", "ab", "d/ab", "e"]
        return None

    # What the place keeps

    def test_directories(self, system: System) -> None:
        """Empty directories are kept as such, or refused."""
        if not self.writable:
            return self.refuses_to_write(system)
        if "directories" not in self.keeps:
            with pytest.raises(UnsupportedError):
                system.write("empty/", b"")
            assert list(system.list()) == []
            return None
        made = system.write("deep/empty/", b"")
        assert (made.key, made.kind, made.size) == ("deep/empty/", "dir", 0)
        system.write("other/", iter(()))
        system.write("other/", b"")
        assert shown(system.list()) == [("deep/empty/", "dir"), ("other/", "dir")]
        assert shown(system.list(depth=1)) == [("deep/", "dir"), ("other/", "dir")]
        system.write("other/file", b"1")
        assert shown(system.list()) == [("deep/empty/", "dir"), ("other/file", "file")]
        system.delete(["deep/empty/", "other/"])
        assert ("other/file", "file") in shown(system.list())
        assert "deep/empty/" not in dict(shown(system.list()))
        with pytest.raises(InvalidError):
            system.write("with data/", b"data")
        return None

    def test_links(self, system: System) -> None:
        """Links are kept as text, never followed on the way in, or refused."""
        if not self.writable:
            return self.refuses_to_write(system)
        if "links" not in self.keeps:
            with pytest.raises(UnsupportedError):
                system.write("l", Link("target"))
            assert list(system.list()) == []
            return None
        system.write("target", b"bytes")
        for target in ("target", "no/such thing; é", "../up"):
            made = system.write("dir/l", Link(target))
            assert (made.key, made.kind, made.target) == ("dir/l", "link", target)
            assert system.head("dir/l") == made
            assert list(system.list("dir/")) == [made]
        system.write("to", Link("target"))
        system.write("to", b"a file now")
        assert system.head("to").kind == "file"
        assert system.read("target").read() == b"bytes"
        system.write("to", Link("target"))
        system.delete(["to", "dir/l"])
        assert system.read("target").read() == b"bytes"
        return None

    def test_executable(self, system: System) -> None:
        """The executable bit is kept, or said to be unknown."""
        if not self.writable:
            return self.refuses_to_write(system)
        made = [system.write("x", b"#!", executable=True), system.write("y", b"", executable=False)]
        if "executable" not in self.keeps:
            assert [entry.executable for entry in made] == [None, None]
            return None
        assert [entry.executable for entry in made] == [True, False]
        assert [entry.executable for entry in system.list()] == [True, False]
        assert system.write("x", iter([b"#!"]), executable=False).executable is False
        assert system.head("x").executable is False
        return None
