"""The disk keeps the contract, and what only a disk can get wrong."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from rh import digest
from rh.content import manifest
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
    UnsupportedError,
)
from rh.systems.abilities import (
    Bulk,
    Digesting,
    Following,
    Item,
    Linked,
    Multipart,
    Paging,
    Running,
    ServerCopy,
    Streaming,
    Sweeping,
)
from rh.systems.far.skip import Skip
from rh.systems.local import LocalSystem, batch, copies, disk, draft, plain
from rh.testing.systems import SystemSuite, by_key, in_child, noise, pieces
from rh.types import ABSENT, Entry, Link, Location, Match

SETTINGS = {"kind": "file", "timeout_s": 10.0}


def open_at(path):
    return LocalSystem.open(Location("file", str(path)), SETTINGS)


def debris(path):
    """Every unfinished file below a directory."""
    return [str(one) for one in Path(path).rglob(".rh-tmp-*")]


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def system(root):
    return open_at(root)


class TestLocal(SystemSuite):
    keeps = frozenset({"links", "executable", "directories"})
    abilities = frozenset(
        {Bulk, ServerCopy, Digesting, Following, Linked, Multipart, Paging, Running, Streaming, Sweeping}
    )
    flat = False

    @pytest.fixture
    def system(self, root):
        system = open_at(root)
        yield system
        assert debris(root) == []


# Opening


def test_a_root_is_absolute():
    with pytest.raises(InvalidError):
        open_at("relative/path")
    with pytest.raises(InvalidError):
        open_at("/with\0nul")


def test_a_missing_root(tmp_path):
    """Promise 4: never an empty listing for a directory that is not there."""
    system = open_at(tmp_path / "no" / "such")
    with pytest.raises(NotFoundError, match="no such directory"):
        list(system.list())
    with pytest.raises(NotFoundError):
        list(system.list("sub/"))
    with pytest.raises(NotFoundError):
        system.head("x")
    assert system.write("a/b", b"1").size == 1
    assert (tmp_path / "no/such/a/b").read_bytes() == b"1"


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    system = open_at(tmp_path / "file")
    with pytest.raises(NotFoundError, match="a file, not a directory"):
        list(system.list())
    with pytest.raises(NameClashError):
        system.write("x", b"1")
    assert (tmp_path / "file").read_bytes() == b"1"


def test_the_whole_disk_is_a_root(tmp_path):
    (tmp_path / "x").write_bytes(b"1")
    system = open_at("/")
    key = str(tmp_path / "x").lstrip("/")
    assert system.read(key).read() == b"1"
    assert system.url(key) == f"file://{tmp_path}/x"
    assert [entry.key for entry in system.list(os.path.dirname(key) + "/")] == [key]


def test_a_root_may_be_a_link(tmp_path, root):
    (tmp_path / "link").symlink_to(root)
    system = open_at(tmp_path / "link")
    system.write("a/b", b"1")
    assert [entry.key for entry in system.list()] == ["a/b"]
    assert (root / "a/b").read_bytes() == b"1"


# Listing


def test_names_that_are_not_text(system, root):
    """Bytes that are no UTF-8 come back as they were, and sort as the bytes they are (promise 4 of systems)."""
    names = [b"\xff", b"\xfe\x80", "é".encode(), "～".encode(), "😀".encode(), b"z"]
    for name in names:
        (root / os.fsdecode(name)).write_bytes(name)
    entries = list(system.list())
    assert [os.fsencode(entry.key) for entry in entries] == sorted(names)
    for entry in entries:
        assert system.read(entry.key).read() == os.fsencode(entry.key)
    middle = entries[2].key
    assert [entry.key for entry in system.list(after=middle)] == [entry.key for entry in entries[3:]]
    with pytest.raises(NameClashError):
        system.write("\ud800", b"no bytes stand for this")


def test_listing_shows_links_as_links(system, root):
    system.write("real/x", b"1")
    (root / "dirlink").symlink_to("real")
    (root / "broken").symlink_to("nowhere")
    assert [(entry.key, entry.kind, entry.target) for entry in system.list()] == [
        ("broken", "link", "nowhere"),
        ("dirlink", "link", "real"),
        ("real/x", "file", None),
    ]
    assert list(system.list("dirlink/")) == []


def test_special_files_are_seen_and_never_data(system, root):
    """Not hidden, not followed, not read as nothing, and nobody hangs on a pipe."""
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
        os.mknod(root / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
        entries = list(system.list())
        assert [(entry.key, entry.size, entry.etag) for entry in entries] == [
            ("pipe", 0, None),
            ("socket", 0, None),
            ("zero", 0, None),
        ]
        for entry in entries:
            with pytest.raises(UnsupportedError, match="no data"):
                system.read(entry.key)
            assert system.head(entry.key) == entry
        for error in (
            *[data for _, data in system.read_many(entries)],
            *[outcome.error for outcome in system.digest_many(entries)],
            *[outcome.error for outcome in system.at("copy").copy_many(system, [(e, e.key) for e in entries])],
        ):
            assert isinstance(error, UnsupportedError)
            assert "a line in its .rhignore" in str(error)
        for entry in entries:
            for data in (b"data", Link("x")):
                with pytest.raises(NameClashError, match="a pipe, socket or device"):
                    system.write(entry.key, data)
        assert list(system.list()) == entries
        assert [entry.key for entry in system.list()] == ["pipe", "socket", "zero"]


def test_listing_goes_on_when_files_vanish(system, root):
    """What is there is complete. What was deleted is passed over, unless the listing had seen it by then."""
    (root / "many").mkdir(parents=True)
    for number in range(1_500):
        (root / "many" / f"{number:04}").touch()
    for name in ("other", "third"):
        (root / name).mkdir()
        (root / name / "f").touch()
    listing = system.list()
    assert next(listing).key == "many/0000"
    os.unlink(root / "many" / "1400")
    shutil.rmtree(root / "other")
    keys = [entry.key for entry in listing]
    assert keys[-1] == "third/f"
    assert "many/1400" not in keys
    assert len(set(keys) - {"other/f"}) == len(keys) - ("other/f" in keys) == 1_498 + 1


def test_a_deep_tree(system, root):
    key = "/".join(["d"] * 1200) + "/f"
    with pytest.raises(NameClashError):
        system.write("/".join(["long" * 60] * 30), b"")
    system.write(key, b"deep")
    assert [entry.key for entry in system.list()] == [key]
    assert system.read(key).read() == b"deep"
    subprocess.run(["rm", "-rf", root / "d"], check=True)


def test_prefixes_stay_inside(system):
    for prefix in ("../", "a/../../", "/etc/"):
        with pytest.raises(NameClashError):
            list(system.list(prefix))


def test_what_may_not_be_looked_at_is_an_error():
    """Promise 4: an unreadable directory or file is never an absence."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        system = open_at(path)
        system.write("open/a", b"1")
        system.write("shut/b", b"1")
        system.write("shut-file", b"1")
        os.chmod(f"{path}/shut", 0o700)
        os.chmod(f"{path}/shut-file", 0o600)

        def stranger():
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            for attempt in (
                lambda: list(system.list()),
                lambda: list(system.list("shut/")),
                lambda: system.head("shut/b"),
                lambda: system.read("shut/b"),
                lambda: system.read("shut-file"),
                lambda: system.write("open/new", b""),
                lambda: system.delete(["open/a"]),
            ):
                with pytest.raises(AccessError):
                    attempt()
            assert [entry.key for page in system.list_pages(skip=Skip(["shut/"])) for entry in page] == [
                "open/a",
                "shut-file",
            ]
            ((_, error),) = system.read_many([Entry("shut/b", 1)])
            assert isinstance(error, AccessError)
            assert "nobody needs a right to it" in str(error)
            with pytest.raises(AccessError, match=f"{re.escape(path)}/shut]"):
                manifest.read(open_at(f"{path}/shut"))
            (outcome,) = system.write_many([Item("open/new", b"")])
            assert isinstance(outcome.error, AccessError)

        in_child(stranger)


# Staying inside the root


@pytest.fixture
def outside(tmp_path, root):
    """A directory beside the root with a file in it, and links to both in the root."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_bytes(b"secret")
    (root / "out").symlink_to(path)
    (root / "outfile").symlink_to(path / "secret")
    (root / "up").symlink_to("..")
    return path


def test_no_write_goes_through_a_link_that_leads_out(system, outside):
    """Promises 10 and 32."""
    attempts = [
        lambda: system.write("out/new", b"x"),
        lambda: system.write("out/secret", b"x"),
        lambda: system.write("out/sub/deep", b"x"),
        lambda: system.write("up/outside/secret", b"x"),
        lambda: system.write("out/dir/", b""),
        lambda: system.write("out/l", Link("x")),
        lambda: system.delete(["out/secret"]),
        lambda: system.begin("out/big", 10, part_size=5),
        lambda: system.at("out").write("new", b"x"),
        lambda: system.at("up").at("outside").delete(["secret"]),
    ]
    for attempt in attempts:
        with pytest.raises(NameClashError, match="leads out of the root") as caught:
            attempt()
        assert "'out'" in str(caught.value) or "'up'" in str(caught.value) or "''" in str(caught.value)
    for outcome in system.write_many([Item("out/new", b"x"), Item("out/sub/x", b"x"), Item("out/d/", b"")]):
        assert isinstance(outcome.error, NameClashError)
    good = system.write("good", b"1")
    (outcome,) = system.copy_many(system, [(good, "out/copy")])
    assert isinstance(outcome.error, NameClashError)
    big = system.write("big", noise(3 << 20))
    (outcome,) = system.copy_many(system, [(big, "out/copy")])
    assert isinstance(outcome.error, NameClashError)
    assert sorted(os.listdir(outside)) == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_no_read_goes_through_a_link_that_leads_out(system, outside):
    """Promises 10 and 32."""
    for key in ("out/secret", "outfile", "up/outside/secret"):
        with pytest.raises(NameClashError, match="leads out of the root"):
            system.read(key)
        ((_, error),) = system.read_many([Entry(key, 6)])
        assert isinstance(error, NameClashError)
        (outcome,) = system.digest_many([Entry(key, 6)])
        assert isinstance(outcome.error, NameClashError)
        (outcome,) = system.copy_many(system, [(Entry(key, 6), "stolen")])
        assert isinstance(outcome.error, NameClashError)
    with pytest.raises(NameClashError):
        system.head("out/secret")
    with pytest.raises(NotFoundError):
        system.head("stolen")


def test_links_inside_the_root_are_ways(system, root, outside):
    """A linked directory whose real place is inside the root is as good as any other."""
    system.write("real/x", b"1")
    (root / "way").symlink_to("real")
    (root / "absolute").symlink_to(root / "real")
    (root / "file").symlink_to("real/x")
    for key in ("way/x", "absolute/x", "file"):
        assert system.read(key).read() == b"1"
    system.write("way/y", b"2")
    system.write("absolute/sub/z", b"3")
    assert (root / "real/y").read_bytes() == b"2"
    assert (root / "real/sub/z").read_bytes() == b"3"


def test_writing_on_a_link_replaces_the_link(system, root, outside):
    for key in ("outfile", "out", "up"):
        system.write(key, b"mine")
        assert not (root / key).is_symlink()
        assert (root / key).read_bytes() == b"mine"
    assert (outside / "secret").read_bytes() == b"secret"
    (root / "again").symlink_to(outside / "secret")
    list(system.write_many([Item("again", b"mine")]))
    assert (outside / "secret").read_bytes() == b"secret"
    (root / "third").symlink_to(outside / "secret")
    system.delete(["third"])
    assert (outside / "secret").exists()


def test_a_root_further_down_keeps_the_fence(system, root, outside):
    """`at` does not widen what links may reach, nor narrow it to less than the first root."""
    (root / "a/b").mkdir(parents=True)
    (root / "shared").mkdir()
    (root / "shared/x").write_bytes(b"1")
    (root / "a/b/shared").symlink_to("../../shared")
    (root / "a/b/evil").symlink_to(outside)
    below = system.at("a").at("b")
    assert below.read("shared/x").read() == b"1"
    with pytest.raises(NameClashError):
        below.read("evil/secret")
    for path in ("..", "a/../../x", "/../x"):
        with pytest.raises(NameClashError):
            system.at(path)


def test_a_link_put_in_while_we_work_changes_nothing(system, root, outside, monkeypatch):
    """The directory is checked after it was opened, so a swap between check and use has no effect."""
    system.write("dir/x", b"1")
    opened = []
    make = disk.Root.make

    def swapping(self, parent, *args, **kwargs):
        descriptor = make(self, parent, *args, **kwargs)
        if not opened:
            opened.append(parent)
            os.rename(root / "dir", root / "moved")
            os.symlink(outside, root / "dir")
        return descriptor

    monkeypatch.setattr(disk.Root, "make", swapping)
    system.write("dir/x", b"2")
    assert opened == ["dir"]
    assert (root / "moved/x").read_bytes() == b"2"
    assert sorted(os.listdir(outside)) == ["secret"]


def test_following_goes_where_it_is_asked_to(system, root, outside):
    """Only what was listed through links is read across the root, and only under the etag that says so."""
    (root / "up").unlink()  # leads to a directory above itself, which is another test
    entries = {entry.key: entry for entry in system.list_following()}
    assert list(entries) == ["out/secret", "outfile"]
    for key, entry in entries.items():
        assert system.read(key, when=Match(entry.etag)).read() == b"secret"
    assert [data for _, data in system.read_many(entries.values())] == [b"secret"] * 2
    outcomes = list(system.at("copy").copy_many(system, [(entry, key) for key, entry in entries.items()]))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert (root / "copy/out/secret").read_bytes() == b"secret"
    outcomes = list(system.digest_many(entries.values()))
    assert [outcome.entry for outcome in outcomes] == list(entries.values())
    (outside / "secret").write_bytes(b"newer")
    with pytest.raises(ConflictError):
        system.read("outfile", when=Match(entries["outfile"].etag))


# Reading what changes


def test_a_file_that_is_written_to_while_it_is_read(system, root):
    """Promise 10: an error, never a mix."""
    system.write("f", bytes(3 << 20))
    body = iter(system.read("f"))
    next(body)
    with open(root / "f", "r+b") as file:
        file.seek(2 << 20)
        file.write(b"new")
    with pytest.raises(ConflictError):
        list(body)


@pytest.mark.parametrize("how", ["truncate", "same time"])
def test_changes_that_try_to_hide(system, root, how):
    system.write("f", bytes(3 << 20))
    at = os.stat(root / "f")
    body = iter(system.read("f"))
    next(body)
    if how == "truncate":
        os.truncate(root / "f", 5)
    else:
        with open(root / "f", "r+b") as file:
            file.write(b"new")
        os.utime(root / "f", ns=(at.st_atime_ns, at.st_mtime_ns))
    with pytest.raises(ConflictError):
        list(body)


def test_a_file_that_is_replaced_while_it_is_read(system):
    """Promise 5: the reader has the old bytes, whole."""
    entry = system.write("f", b"o" * (3 << 20))
    body = system.read("f", when=Match(entry.etag))
    first = next(iter(body))
    system.write("f", b"n" * (3 << 20))
    assert first + b"".join(body) == b"o" * (3 << 20)
    body = system.read("f")
    next(iter(body))
    system.delete(["f"])
    assert len(b"".join(body)) == 2 << 20


def test_a_source_that_changes_while_it_is_copied(system, root, monkeypatch):
    """Promise 10: nothing is published, and the outcome says why."""
    big = system.write("big", noise(3 << 20))
    huge = system.write("huge", noise(65 << 20))
    small = system.write("small", b"1234")
    process, read = copies._process, os.read

    def meddle(*args):
        done = process(*args)
        for name in ("big", "huge", "small"):
            os.utime(root / name)
        return done

    def meddle_small(descriptor, size):
        data = read(descriptor, size)
        if data == b"1234":
            os.utime(root / "small")
        return data

    monkeypatch.setattr(copies, "_process", meddle)
    monkeypatch.setattr(os, "read", meddle_small)
    pairs = [(entry, f"to/{entry.key}") for entry in (big, huge, small)]
    outcomes = by_key(system.copy_many(system, pairs))
    assert {key: type(outcome.error) for key, outcome in outcomes.items()} == {
        "to/big": ConflictError,
        "to/huge": ConflictError,
        "to/small": ConflictError,
    }
    assert not (root / "to").exists()
    errors = [outcome.error for outcome in system.digest_many([big, huge, small])]
    assert {type(error) for error in errors} == {ConflictError}


def test_nobody_writes_into_a_file_whose_copy_failed(system, monkeypatch):
    """Its descriptor is closed then, and the next file has the same number."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1})
    huge = system.write("huge", noise(65 << 20))
    begun, ended = threading.Event(), threading.Event()
    late = []
    read, write = os.preadv, os.pwrite

    def fail_first(descriptor, buffers, at):
        if at == 0:
            assert begun.wait(30)
            raise OSError(errno.EIO, "a bad block")
        if not begun.is_set():
            begun.set()
            ended.wait(0.5)
        return read(descriptor, buffers, at)

    def note(descriptor, data, at):
        if ended.is_set():
            late.append(at)
        return write(descriptor, data, at)

    monkeypatch.setattr(os, "preadv", fail_first)
    monkeypatch.setattr(os, "pwrite", note)
    copied = system.copy_many(system, [(huge, "copy")])
    assert "a bad block" in str(next(copied).error)
    ended.set()
    assert list(copied) == []
    assert late == []


# Publishing


def trace(root, code, calls):
    """The system calls that a piece of Python makes on files below a root, in order."""
    script = f"""
        from rh.systems.local import LocalSystem
        from rh.systems.abilities import Item
        from rh.types import ABSENT, Location, Match
        import os
        system = LocalSystem.open(Location("file", {str(root)!r}), {{"kind": "file"}})
        os.path.exists("/mark")
    """
    script = textwrap.dedent(script) + code
    log = root.parent / "trace"
    subprocess.run(
        ["strace", "-f", "-y", "-o", log, "-e", "trace=stat,newfstatat," + calls, sys.executable, "-c", script],
        check=True,
        timeout=60,
    )
    text = log.read_text().split("/mark", 1)[1]
    return [line.split(None, 1)[1] for line in text.splitlines()[1:] if str(root) in line]


def name_of(call):
    return call.partition("(")[0]


CALLS = "openat,write,pwrite64,fsync,fdatasync,syncfs,rename,renameat,renameat2,linkat,unlinkat"


@pytest.mark.parametrize("when", ["ANY", "ABSENT", "Match"])
def test_a_publish_is_write_fsync_rename_fsync(root, when):
    """Promise 7, from a trace of the system calls."""
    condition = {"ANY": "", "ABSENT": ", when=ABSENT", "Match": ", when=Match(system.head('f').etag)"}[when]
    if when == "Match":
        (root / "f").write_bytes(b"before")
    calls = trace(root, f"system.write('f', b'the bytes'{condition})", CALLS)
    published = [
        (name_of(call), call) for call in calls if "the bytes" in call or ".rh-tmp-" in call or "sync(" in call
    ]
    names = [name for name, call in published if name != "newfstatat"]
    assert names == ["openat", "write", "fsync", "renameat2" if when == "ABSENT" else "renameat", "fsync"]
    first, second = (call for name, call in published if name == "fsync")
    assert f"<{root}/.rh-tmp-" in first
    assert f"<{root}>)" in second


@pytest.mark.parametrize("count", [3, 20])
def test_a_bulk_publish_keeps_that_order(root, count):
    """Promise 7: no file gets its name before its bytes are durable, and no outcome before the names are."""
    calls = trace(
        root,
        f"for o in system.write_many(Item(f'd{{n % 2}}/f{{n}}', b'the bytes') for n in range({count})):\n"
        f"    os.path.exists({str(root)!r} + '/outcome')",
        CALLS,
    )
    steps = {"write": "write", "fsync": "sync", "syncfs": "sync", "renameat": "rename", "renameat2": "rename"}
    kinds = []
    for call in calls:
        kind = "outcome" if "/outcome" in call else steps.get(name_of(call))
        if kind and kinds[-1:] != [kind]:
            kinds.append(kind)
    assert kinds == ["write", "sync", "rename", "sync", "outcome"]
    first_rename = next(n for n, call in enumerate(calls) if call.startswith("renameat"))
    assert sum("the bytes" in call for call in calls[:first_rename]) == count


@pytest.mark.slow
def test_polling_readers_in_another_process(system, root):
    """Promise 5: 1,000 overwrites, and every reader sees whole old or whole new content."""
    size = 50_000
    system.write("f", b"a" * size)

    def overwrite():
        for number in range(1000):
            letter = number % 20
            system.write("f", bytes([ord("a") + letter]) * (size + letter))

    writer = threading.Thread(target=in_child, args=(overwrite, 60.0))
    writer.start()
    reads = 0
    while writer.is_alive():
        data = system.read("f").read()
        assert data == data[:1] * (size + data[0] - ord("a"))
        reads += 1
    writer.join()
    assert reads > 100
    assert system.read("f").read() == b"t" * (size + 19)


def test_processes_count_with_compare_and_swap(system, root):
    """Promise 12 across processes: no update is lost, nobody wins who should not."""
    system.write("n", b"0")
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            status = 1
            try:
                for _ in range(50):
                    while True:
                        body = system.read("n")
                        number = int(body.read())
                        try:
                            system.write("n", b"%d" % (number + 1), when=Match(body.entry.etag))
                            break
                        except ConflictError:
                            continue
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert system.read("n").read() == b"200"
    assert debris(root) == []


def test_a_lock_held_for_ever_is_a_deadline(root):
    import fcntl

    system = LocalSystem.open(Location("file", str(root)), {"timeout_s": 0.2})
    etag = system.write("f", b"1").etag
    folder = os.open(root, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        for when in (ABSENT, Match(etag)):
            with pytest.raises(DeadlineError):
                system.write("f", b"2", when=when)
        (outcome,) = system.write_many([Item("g", b"1")])
        assert isinstance(outcome.error, DeadlineError)
    finally:
        os.close(folder)
    assert system.read("f").read() == b"1"
    assert debris(root) == []


def test_create_only_where_renameat2_is_missing(system, root, monkeypatch):
    monkeypatch.setattr(draft, "_renameat2", lambda: None)
    system.write("f", b"1", when=ABSENT)
    with pytest.raises(ExistsError):
        system.write("f", b"2", when=ABSENT)
    system.write("d/x", b"1")
    with pytest.raises(NameClashError):
        system.write("d", b"2", when=ABSENT)
    system.write("l", Link("t"), when=ABSENT)
    assert debris(root) == []
    monkeypatch.setattr(os, "link", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    with pytest.raises(UnsupportedError):
        system.write("g", b"2", when=ABSENT)
    assert debris(root) == []


def test_permissions(system, root):
    """A new file obeys the umask; a file that replaces another takes its permissions over: private stays private."""
    before = os.umask(0o027)
    try:
        system.write("f", b"")
        system.write("x", b"", executable=True)
        list(system.write_many([Item("bf", b""), Item("bx", b"", executable=True)]))
    finally:
        os.umask(before)
    mode = lambda name: os.stat(root / name).st_mode & 0o777  # noqa: E731
    assert [mode(name) for name in ("f", "x", "bf", "bx")] == [0o640, 0o750, 0o640, 0o750]
    for name in ("f", "bf"):
        os.chmod(root / name, 0o600)
    system.write("f", b"2")
    list(system.write_many([Item("bf", b"2")]))
    assert [mode("f"), mode("bf")] == [0o600, 0o600]
    system.write("f", b"2", executable=True)
    assert mode("f") == 0o700


def test_a_private_file_is_private_while_it_is_written(system, root):
    """Nobody who could not read the old bytes can read the new ones under their temporary name."""
    system.write("f", b"before")
    os.chmod(root / "f", 0o600)
    seen = []

    def stream():
        yield b"secret"
        seen.extend(os.stat(name).st_mode & 0o777 for name in debris(root))

    system.write("f", stream())
    upload = system.begin("f", 6, part_size=6)
    seen.extend(os.stat(name).st_mode & 0o777 for name in debris(root) if not name.endswith(".parts"))
    upload.abort()
    assert seen == [0o600, 0o600]


def test_copies_take_the_executable_bit_along(system, root):
    system.write("x", b"", executable=True)
    system.write("bf", b"")
    os.chmod(root / "bf", 0o600)
    (outcome,) = system.copy_many(system, [(system.head("x"), "bf")])
    assert outcome.entry.executable is True
    assert os.stat(root / "bf").st_mode & 0o777 == 0o700


def test_a_failed_write_takes_its_directories_away(system, root):
    """Promise 2 of systems: no debris, not even an empty directory."""

    def stream():
        yield b"x" * 100_000
        raise KeyError("mine")

    with pytest.raises(KeyError):
        system.write("new/deep/f", stream())
    with pytest.raises(InvalidError):
        system.write("new/deep//f", b"")
    assert os.listdir(root) == []
    system.write("kept/f", b"1")
    with pytest.raises(KeyError):
        system.write("kept/more/f", stream())
    assert sorted(str(p.relative_to(root)) for p in root.rglob("*")) == ["kept", "kept/f"]


def test_an_error_of_the_stream_is_the_stream_s(system):
    """A stream that fails with an error of the operating system is not mistaken for a failing disk."""

    def stream():
        yield b"x"
        raise OSError(errno.ENOSPC, "somewhere else")

    with pytest.raises(OSError, match="somewhere else") as caught:
        system.write("f", stream())
    assert type(caught.value) is OSError


def test_writers_whose_directories_come_and_go(system, root):
    """A writer that fails takes its directories away under one that succeeds, who must not notice."""
    stop = threading.Event()

    def failing():
        def stream():
            yield b"x"
            raise KeyError

        while not stop.is_set():
            with pytest.raises(KeyError):
                system.write("a/b/c/bad", stream())

    thread = threading.Thread(target=failing)
    thread.start()
    try:
        for _ in range(100):
            system.write("a/b/c/good", b"1")
            list(system.write_many([Item("a/b/d/good", b"1")]))
            assert system.head("a/b/c/good").size == 1
            shutil.rmtree(root / "a", ignore_errors=True)  # the other thread makes and removes directories meanwhile
    except FileNotFoundError:
        raise AssertionError("a writer lost its directory") from None
    finally:
        stop.set()
        thread.join()


def test_zeros_become_holes(system, root):
    data = bytes(3 << 20) + b"end" + bytes(5 << 20)
    entry = system.write("f", pieces(data, 300_000))
    assert entry.size == len(data)
    assert system.read("f").read() == data
    assert os.stat(root / "f").st_blocks * 512 < 2 << 20


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_full_disk(small_disk, tmp_path):
    """Promise 8: `FullError`, no temporary file left, the previous version intact."""
    system = open_at(small_disk)
    system.write("f", b"before")
    other = open_at(tmp_path / "source")
    big = other.write("big", noise(4 << 20))
    small = [other.write(f"s{n:03d}", noise(50_000, n)) for n in range(100)]
    whole = noise(4 << 20)
    for data in (whole, pieces(whole, 100_000)):
        with pytest.raises(FullError):
            system.write("f", data)
    with pytest.raises(FullError, match="4,194,304 bytes are needed"):
        system.begin("f", 4 << 20, part_size=4 << 20)
    upload = system.begin("f", 2 << 20, part_size=2 << 20)
    system.write("g", whole[: 2 << 20])
    with pytest.raises(FullError):
        upload.put(0, whole[: 2 << 20])
    upload.abort()
    system.delete(["g"])
    (outcome,) = system.copy_many(other, [(big, "f")])
    assert isinstance(outcome.error, FullError)
    assert debris(small_disk) == []
    assert system.read("f").read() == b"before"
    for road in (
        system.copy_many(other, [(entry, f"d/{entry.key}") for entry in small]),
        system.write_many([Item(f"d/{entry.key}", noise(50_000, n)) for n, entry in enumerate(small)]),
    ):
        outcomes = by_key(road)
        assert len(outcomes) == 100
        failed = [outcome for outcome in outcomes.values() if outcome.error]
        assert failed
        assert {type(outcome.error) for outcome in failed} == {FullError}
        assert debris(small_disk) == []
        for entry in system.list("d/"):
            assert entry.size == 50_000
            assert outcomes[entry.key].error is None
        assert len(list(system.list("d/"))) == 100 - len(failed)
        shutil.rmtree(small_disk / "d")
    assert system.read("f").read() == b"before"


# Crashes


def test_a_killed_writer_leaves_nothing_to_be_seen(system, root):
    """Promises 6 and 9: whatever is left has a hidden name, and `sweep` takes it away."""
    system.write("f", b"before")
    child = os.fork()
    if not child:
        try:

            def stream():
                yield b"x" * 100_000
                os.kill(os.getpid(), signal.SIGKILL)

            system.write("f", stream())
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(debris(root)) == 1
    assert [entry.key for entry in system.list()] == ["f"]
    assert system.read("f").read() == b"before"
    assert system.sweep(older_than_s=60) == 0
    assert system.sweep() == 1
    assert debris(root) == []


@pytest.mark.parametrize("key", ["f", "new/f"])
def test_an_interruption_leaves_nothing_wherever_it_comes(system, root, monkeypatch, key):
    """Promise 28: as soon as a file is there, before anybody could know of it."""

    def interrupted(*args, **more):
        os.close(plain.create(*args, **more))
        raise KeyboardInterrupt

    for module in (batch, draft):
        monkeypatch.setattr(module, "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(system.write_many([Item(key, b"1")], workers=1))
    with pytest.raises(KeyboardInterrupt):
        system.write(key, pieces(noise(2 << 20)))
    assert list(root.iterdir()) == []


def test_an_upload_goes_on_after_its_process_was_killed(system, root):
    """Promise 6: parts that arrived are not sent again."""
    data = noise(2_500_000)
    upload = system.begin("big", len(data), part_size=1_000_000, executable=True)
    child = os.fork()
    if not child:
        try:
            upload.put(0, data[:1_000_000])
            upload.put(2, data[2_000_000:])
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    again = open_at(root).resume("big", upload.token)
    tags = again.parts()
    assert sorted(tags) == [0, 2]
    with pytest.raises(ConflictError):
        again.finish([tags[0], "missing", tags[2]])
    tags[1] = again.put(1, data[1_000_000:2_000_000])
    entry = again.finish([tags[number] for number in range(3)])
    assert entry.executable is True
    assert (root / "big").read_bytes() == data
    assert debris(root) == []


def test_an_upload_killed_when_it_had_its_name_is_gone(system, root):
    """Its log is all that is left of it, and goes with the question."""
    upload = system.begin("big", 100, part_size=100)
    upload.put(0, noise(100))
    (temp,) = (path for path in map(Path, debris(root)) if path.suffix != ".parts")
    temp.rename(root / "big")
    with pytest.raises(NotFoundError):
        open_at(root).resume("big", upload.token)
    assert debris(root) == []
    assert system.read("big").read() == noise(100)


def test_a_file_that_grew_is_not_read_into_memory(system, root):
    """It may be of any size when it is reached; that it is another one is seen at its first byte too many."""
    system.write("log", b"x")
    (listed,) = system.list()
    os.truncate(root / "log", 1 << 30)
    tracemalloc.start()
    try:
        ((_, read),) = system.read_many([listed], workers=1)
        (copied,) = system.at("copy").copy_many(system, [(listed, "log")])
        (hashed,) = system.digest_many([listed])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(read, ConflictError)
    assert isinstance(copied.error, ConflictError)
    assert hashed.entry.size == 1 << 30
    assert hashed.digest.startswith("sha256-16m:")
    assert peak < 16 << 20


@pytest.mark.parametrize("size", [100, 3 << 20])
def test_a_copy_that_is_not_what_it_should_be_replaces_nothing(system, size):
    """Bytes that rotted at the source do not take the place of good ones."""
    system.write("new", noise(size, seed=2))
    system.write("old", noise(size))
    entry = system.head("new")._replace(check=digest.of_bytes(noise(size)).text)
    (outcome,) = system.copy_many(system, [(entry, "old")])
    assert isinstance(outcome.error, IntegrityError)
    assert system.read("old").read() == noise(size)
    (outcome,) = system.copy_many(system, [(entry._replace(check=digest.of_bytes(noise(size, seed=2)).text), "old")])
    assert outcome.error is None
    assert system.read("old").read() == noise(size, seed=2)


def test_a_token_is_not_a_path(system, root, outside):
    """Promise 32."""
    for token in ("../outside/secret 6 5 0", "secret 6 5 0", ".rh-tmp-/../x 6 5 0", "", "x" * 1000):
        with pytest.raises(InvalidError):
            system.resume("f", token)
    with pytest.raises(NotFoundError):
        system.resume("f", ".rh-tmp-1-2-3 6 5 0")
    upload = system.begin("dir/f", 5, part_size=5)
    with pytest.raises(NotFoundError):
        system.resume("f", upload.token)
    (root / ".rh-tmp-1-2-3").symlink_to(outside / "secret")
    (root / ".rh-tmp-1-2-3.parts").symlink_to(outside / "secret")
    with pytest.raises(NameClashError):
        system.resume("f", ".rh-tmp-1-2-3 6 5 0")


def test_sweeping_takes_only_what_is_ours(system, root, outside):
    (outside / ".rh-tmp-1").write_bytes(b"")
    for name in (".rh-manifest", ".rhignore", "rh-tmp-1"):
        (root / name).write_bytes(b"")
    (root / ".rh-store").mkdir()
    (root / ".rh-store/.rh-tmp-2").write_bytes(b"")
    assert system.sweep() == 1
    assert (outside / ".rh-tmp-1").exists()
    assert sorted(os.listdir(root)) == sorted(
        [".rh-manifest", ".rhignore", "rh-tmp-1", ".rh-store", "out", "outfile", "up"]
    )


# Copies


def test_copies_of_every_kind(system, root):
    """Links, empty directories, the executable bit, odd names, sizes around every limit."""
    sizes = [0, 1, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 16 << 20, (16 << 20) + 1, (64 << 20) + 5]
    source, target = system.at("from"), system.at("to/deep")
    tree = {f"d{n}/size {size}": noise(size, n) for n, size in enumerate(sizes)}
    tree[os.fsdecode(b"odd \xff\n")] = b"odd"
    for key, data in tree.items():
        source.write(key, data, executable=len(data) % 2 == 1)
    source.write("link", Link("../../no/where"))
    source.write("void/", b"")
    outcomes = by_key(target.copy_many(source, [(entry, entry.key) for entry in source.list()]))
    assert {outcome.error for outcome in outcomes.values()} == {None}
    for key, data in tree.items():
        want = digest.of_bytes(data)
        assert (root / "to/deep" / key).read_bytes() == data
        assert (outcomes[key].digest, outcomes[key].chunks or b"") == (want.text, want.chunks), key
        assert outcomes[key].entry == target.head(key)
        assert outcomes[key].entry.executable is (len(data) % 2 == 1)
    assert os.readlink(root / "to/deep/link") == "../../no/where"
    assert [entry.key for entry in target.list() if entry.kind == "dir"] == ["void/"]
    assert debris(root) == []
    digests = by_key(target.digest_many(entry for entry in target.list() if entry.kind == "file"))
    assert {key: one.digest for key, one in digests.items()} == {key: outcomes[key].digest for key in tree}


def test_a_copy_in_parts_of_a_file_and_what_is_below_it(system):
    """A batch notices when one of its own files stands where the next needs a directory."""
    one = system.write("one", b"1")
    outcomes = by_key(system.copy_many(system, [(one, "a"), (one, "a/b"), (one, "c/d"), (one, "c")]))
    assert {key: type(outcome.error) for key, outcome in outcomes.items()} == {
        "a": type(None),
        "a/b": NameClashError,
        "c/d": type(None),
        "c": NameClashError,
    }
    assert [entry.key for entry in system.list()] == ["a", "c/d", "one"]


def test_sparse_files_stay_sparse(system, root):
    """Promise 4: a 5 GiB sparse file."""
    size = 5 << 30
    with open(root / "sparse", "wb") as file:
        file.truncate(size)
        for at in (0, 1 << 30, (3 << 30) + 12345, size - 3):
            file.seek(at)
            file.write(b"yes")
    begun = time.monotonic()
    (outcome,) = system.copy_many(system, [(system.head("sparse"), "copy")])
    assert outcome.error is None
    assert time.monotonic() - begun < 20
    at = os.stat(root / "copy")
    assert at.st_size == size
    assert at.st_blocks * 512 < 16 << 20
    with open(root / "copy", "rb") as file:
        for at in (0, 1 << 30, (3 << 30) + 12345, size - 3):
            file.seek(at)
            assert file.read(3) == b"yes"
    (again,) = system.digest_many([system.head("copy")])
    assert again.digest == outcome.digest
    zero = digest.of_bytes(bytes(16 << 20)).text.removeprefix("sha256:")
    raw = [outcome.chunks[n : n + 32].hex() for n in range(0, len(outcome.chunks), 32)]
    assert len(raw) == 320
    assert raw[1] == zero
    first = digest.of_bytes(b"yes" + bytes((16 << 20) - 3)).text.removeprefix("sha256:")
    assert raw[0] == first


def test_an_abandoned_copy_leaves_nothing(system, root):
    """Promise 28: a generator that is closed halfway takes its unfinished files with it."""
    for number in range(30):
        system.write(f"from/f{number:02d}", b"x" * number)
    entries = list(system.list("from/"))
    copying = system.copy_many(system, [(Entry("gone", 1), "to/gone"), *((e, f"to/{e.key}") for e in entries)])

    def pairs():
        for entry in entries:
            yield entry, f"to/{entry.key}"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(system.copy_many(system, pairs()))
    assert isinstance(next(copying).error, NotFoundError)
    copying.close()
    assert debris(root) == []
    assert not (root / "to").exists()


# Commands


def test_a_command_takes_its_children_along(system, root):
    """A timeout ends the whole process group, so nothing goes on in the background."""
    with pytest.raises(DeadlineError):
        system.run(["sh", "-c", "sleep 1.5 && touch late & wait"], timeout_s=0.3)
    time.sleep(1.6)
    assert not (root / "late").exists()


def test_a_command_that_is_not_there(system):
    with pytest.raises(NotFoundError, match="no-such-program"):
        system.run(["no-such-program"])
    with pytest.raises(InvalidError):
        system.run("ls -l")
    with pytest.raises(InvalidError):
        system.run([])
    with pytest.raises(NotFoundError, match="no such directory"):
        open_at(system.root.path + "/gone").run(["true"])


# Nothing is held


def test_nothing_is_held_open(system):
    """A handle owns no descriptor between calls, so there is nothing to inherit, leak or close."""
    before = len(os.listdir("/proc/self/fd"))
    for number in range(40):
        system.write(f"d{number}/f", b"1")
    entries = list(system.list())
    list(system.read_many(entries))
    list(system.copy_many(system, [(entry, f"c/{entry.key}") for entry in entries]))
    list(system.digest_many(entries))
    next(iter(system.read("d1/f")))
    system.read("d1/f").close()
    next(system.list())
    for key in ("missing", "d1/f/x", "../x", "d1"):
        with pytest.raises(Exception):  # noqa: B017
            system.read(key)
        with pytest.raises(Exception):  # noqa: B017
            system.write(key + "/", b"data")
    upload = system.begin("big", 10, part_size=5)
    upload.put(0, b"12345")
    upload.abort()
    assert len(os.listdir("/proc/self/fd")) == before
