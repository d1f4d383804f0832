"""The far program by itself: what it is made of, and what the near side makes of broken answers."""

from __future__ import annotations

import ast
import os
import random
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rh import digest
from rh.errors import DeadlineError, IntegrityError, NotFoundError, RhError, UnavailableError
from rh.systems.abilities import Item
from rh.systems.far import wire
from rh.systems.ssh.road import FarRoad
from rh.systems.ssh.session import _MODULES, Pool, Session
from rh.systems.ssh.transport import Channel, Host
from rh.types import ANY, Entry

SOURCES = {name: (files(place[0]) / place[1]).read_text("utf-8") for name, place in _MODULES.items() if place}


def pythons() -> list[str]:
    """Every interpreter here that a host might have, the oldest included where it is installed."""
    found = [sys.executable]
    for minor in range(7, 15):
        path = shutil.which(f"python3.{minor}")
        if path and not subprocess.run([path, "-c", "pass"], capture_output=True, check=False).returncode:
            found.append(path)
    return found


class Local(Channel):
    """The far program in a child of this process. `damage` may change its answers; fewer bytes are the end of them."""

    patience_s = 5.0

    def __init__(self, python: str = sys.executable, damage: Callable[[bytes], bytes] | None = None) -> None:
        self.child = subprocess.Popen(
            [python, "-I", "-S", "-c", wire.BOOTSTRAP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.damage = damage
        self.left = b""
        self.ended = False

    def send(self, *parts: Any) -> None:
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[self.child.stdin.write(view) :]
        except OSError as error:
            raise UnavailableError("the connection was lost", where="local") from error

    def readinto(self, view: memoryview) -> int:
        if not self.left and not self.ended:
            if not select.select([self.child.stdout], [], [], self.patience_s)[0]:
                raise DeadlineError("no sign of life", where="local")
            self.left = self.child.stdout.read(65536)
            if self.damage is not None:
                came, self.left = len(self.left), self.damage(self.left)
                self.ended = len(self.left) < came
        count = min(len(view), len(self.left))
        view[:count], self.left = self.left[:count], self.left[count:]
        return count

    def waiting(self) -> bool:
        return bool(self.left or select.select([self.child.stdout], [], [], 0)[0])

    def alive(self) -> bool:
        return self.child.poll() is None

    def status(self) -> tuple[int | None, str]:
        return self.child.poll() or 0, ""

    def whole(self, stdin: bytes, timeout_s: float | None) -> tuple[int, bytes, bytes]:
        raise NotImplementedError

    def close(self) -> None:
        self.child.stdin.close()
        self.child.stdout.close()
        self.child.kill()
        self.child.wait()

    forget = close


class LocalPool(Pool):
    """Sessions with far programs on this machine."""

    def __init__(self, python: str = sys.executable) -> None:
        super().__init__(Host("local", timeout_s=5.0))
        self.interpreter = python
        self.damage: Callable[[bytes], bytes] | None = None

    def _new(self) -> Session:
        session = Session(Local(self.interpreter), self.host, lambda: ("local", 22, None))
        try:
            session.begin()
        except BaseException:
            session.channel.close()
            raise
        session.channel.damage = self.damage
        self._all.add(session)
        return session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def road(pool: Pool, root: Path) -> FarRoad:
    return FarRoad(pool, os.fsencode(root), "local", lambda key="": f"local:{root}/{key}", str.encode, flush=True)


def use(far: FarRoad) -> None:
    """Something of everything."""
    data = random.Random(1).randbytes(3 << 20)
    far.write("d/a", [data], size=len(data), executable=True, when=ANY)
    outcomes = list(far.write_many([Item(f"many/{number}", b"x" * number) for number in range(300)]))
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    entries = list(far.list("", "", None))
    assert len(entries) == 301
    assert {entry.key: len(got) for entry, got in far.read_many(entries)} == {
        entry.key: entry.size for entry in entries
    }
    assert far.read("d/a", (5, 2 << 20), ANY).read() == data[5 : 2 << 20]
    assert next(far.digest_many([far.head("d/a")])).digest == digest.of_bytes(data).text
    assert [outcome.key for outcome in far.copy_many(far, [(far.head("d/a"), "copy")])] == ["copy"]
    upload = far.begin("parts", 17 << 20, 16 << 20, executable=None)
    tags = [upload.put(number, bytes(size)) for number, size in ((0, 16 << 20), (1, 1 << 20))]
    assert upload.parts() == dict(enumerate(tags))
    assert upload.finish(tags).size == 17 << 20
    assert far.run(["cat"], b"given", None) == (0, b"given", b"")
    far.delete(["d/a", "missing"])
    with pytest.raises(NotFoundError):
        far.head("d/a")
    assert far.sweep(0) == 0


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
def test_every_python(python: str, tmp_path: Path) -> None:
    """The program does all it can on every interpreter there is here."""
    with LocalPool(python) as pool:
        use(road(pool, tmp_path))


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_standard_library_only(name: str) -> None:
    """Every module of the program is Python 3.7, and imports the standard library and the program only."""
    tree = ast.parse(SOURCES[name], feature_version=(3, 7))
    for node in ast.walk(tree):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "rh.systems"
                else [node.module]
            )
        for module in found:
            assert module in SOURCES or module.partition(".")[0] in sys.stdlib_module_names, module


def test_the_command_is_constant() -> None:
    """What stands in an argument list is one short line without quotes, whatever is asked for."""
    assert len(wire.BOOTSTRAP) < 200
    assert not re.search(r"['\"$`\\\n]", wire.BOOTSTRAP)


def test_program_ends_with_its_input(tmp_path: Path) -> None:
    """It ends when nobody is there any more, in the middle of a write too, and leaves nothing."""
    with LocalPool() as pool:
        with pool.session() as session:
            session.request("write", os.fsencode(tmp_path), b"x", 0, -1, b"", True)
            session.send(wire.DATA, bytes(100_000))
            until = time.monotonic() + 5
            while not os.listdir(tmp_path) and time.monotonic() < until:
                time.sleep(0.01)
            assert os.listdir(tmp_path)[0].startswith(".rh-tmp-")
            session.channel.child.stdin.close()
            assert session.channel.child.wait(5) == 0
        assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_program_ends_while_it_works(tmp_path: Path) -> None:
    """A command that runs when the near side goes away is ended."""
    with LocalPool() as pool, pool.session() as session:
        marker = f"{random.random()}"
        session.request("run", os.fsencode(tmp_path), [b"sh", b"-c", f"sleep 60; : {marker}".encode()], 0.0, False)
        time.sleep(0.5)
        session.channel.child.stdin.close()
        session.channel.child.stdout.close()
        session.channel.child.wait(10)
        time.sleep(0.1)
        running = subprocess.run(["pgrep", "-f", marker], capture_output=True, text=True, check=False).stdout.split()
        assert running == []


@pytest.mark.parametrize("at", [0, 1, 5, 6, 40, 100, 5000, 70_000, 200_000, 1_000_000])
def test_truncated_answers(tmp_path: Path, at: int) -> None:
    """Answers that stop anywhere are an error, never a shorter result."""
    (tmp_path / "d").mkdir()
    for number in range(50):
        (tmp_path / "d" / f"{number}").write_bytes(bytes(40_000))
    (tmp_path / "large").write_bytes(bytes(3 << 20))
    entries: list[Entry] = []
    with LocalPool() as pool:
        entries = list(road(pool, tmp_path).list("", "", None))
    for verb in (
        lambda far: list(far.list("", "", None)),
        lambda far: far.read("large", None, ANY).read(),
        lambda far: list(far.read_many(entries)),
        lambda far: list(far.digest_many(entries)),
    ):
        with LocalPool() as pool:
            left = at

            def damage(block: bytes) -> bytes:
                nonlocal left
                block = block[:left]
                left -= len(block)
                return block

            pool.damage = damage
            try:
                result = verb(road(pool, tmp_path))
            except (UnavailableError, IntegrityError):
                assert left == 0
                continue
            assert left > 0
            assert len(result) in (len(entries), 3 << 20)


@pytest.mark.slow
def test_garbled_answers(tmp_path: Path) -> None:
    """Answers that are changed anywhere raise what is ours, and nothing else."""
    for number in range(20):
        (tmp_path / f"{number}").write_bytes(bytes(100))
    chance = random.Random(5)
    with LocalPool() as pool:
        far = road(pool, tmp_path)
        entries = list(far.list("", "", None))
        raised = 0
        for number in range(60):
            pool.close()
            at = chance.randrange(2000) if number > 10 else number

            def damage(block: bytes) -> bytes:
                nonlocal at
                changed = bytearray(block)
                if 0 <= at < len(changed):
                    changed[at] ^= 1 << chance.randrange(8)
                at -= len(changed)
                return bytes(changed)

            pool.damage = damage
            with pool.session() as session:
                session.channel.patience_s = 0.3
            try:
                list(far.list("", "", None) if number % 2 else far.read_many(entries))
            except RhError:
                raised += 1
        assert raised > 5


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
def test_values_round_trip(value: Any) -> None:
    assert wire.loads(wire.dumps(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_garbled(junk: bytes) -> None:
    try:
        wire.loads(junk)
    except wire.Garbled:
        pass


@given(st.binary(max_size=400))
def test_any_bytes_are_a_pack_or_garbled(junk: bytes) -> None:
    try:
        list(wire.unpack_items(memoryview(junk)))
    except wire.Garbled:
        pass


_NAMES = st.binary(min_size=1, max_size=40).map(lambda name: name.replace(b"\0", b"n"))
_FIELDS = st.tuples(
    st.sampled_from([wire.EXEC, wire.NOEXEC, wire.LINK, wire.DIR]),
    st.integers(0, (1 << 64) - 1),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(0, (1 << 64) - 1),
)


@given(st.lists(st.tuples(_NAMES, _FIELDS, _NAMES), min_size=1, max_size=20), st.integers(0))
def test_pages_round_trip(found: list[Any], cut: int) -> None:
    """A page of a listing comes back as it was; one that was cut short is garbled, never shorter."""
    page = wire.pack_page(found)
    keys, stats, targets = wire.unpack_page(page)
    assert [key.encode("utf-8", "surrogateescape") for key in keys] == [key for key, _, _ in found]
    assert list(stats) == [fields for _, fields, _ in found]
    links = [target for _, fields, target in found if fields[0] & wire.LINK]
    assert [target.encode("utf-8", "surrogateescape") for target in targets if links] == links
    with pytest.raises(wire.Garbled):
        wire.unpack_page(page[: cut % len(page)])
    with pytest.raises(wire.Garbled):
        wire.unpack_page(page + b"x")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_page_or_garbled(junk: bytes) -> None:
    try:
        keys, stats, _ = wire.unpack_page(junk)
    except wire.Garbled:
        return
    assert len(keys) == len(list(stats))


def test_a_name_leads_nowhere_else(tmp_path: Path) -> None:
    """The far side refuses what leads out of the root by itself, whatever the near side let through."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"s")
    (root / "link").symlink_to(tmp_path)
    with LocalPool() as pool:
        far = road(pool, root)
        for key in ("../secret", "..", "a/../../x", "link/new", "./x", "a//b"):
            with pytest.raises(RhError):
                far.write(key, [b"evil"], size=None, executable=None, when=ANY)
            (outcome,) = far.write_many([Item(key, b"evil")])
            assert outcome.error is not None
            with pytest.raises(RhError):
                far.begin(key, 10, 10, executable=None)
        with pytest.raises(RhError):
            far.delete(["../secret"])
        with pytest.raises(RhError):
            far.delete(["link/secret"])
    assert sorted(os.listdir(tmp_path)) == ["root", "secret"]
    assert (tmp_path / "secret").read_bytes() == b"s"


@pytest.mark.slow
def test_many_directories(tmp_path: Path) -> None:
    """More directories than descriptors are kept open, in one conversation, both ways."""
    with LocalPool() as pool:
        far = road(pool, tmp_path)

        def items() -> Iterator[Item]:
            for number in range(3000):
                yield Item(f"{number % 50}/{number}/deep/er/f", b"%d" % number)

        assert [outcome.error for outcome in far.write_many(items()) if outcome.error] == []
        entries = list(far.list("", "", None))
        assert len(entries) == 3000
        assert all(data == entry.key.split("/")[1].encode() for entry, data in far.read_many(entries))
