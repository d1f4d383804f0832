"""Hosts reached by SSH, on a real sshd: the conformance suite over each road, and what is particular to hosts."""

from __future__ import annotations

import hashlib
import http.server
import logging
import os
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rh import digest, observe
from rh.errors import (
    AccessError,
    ConflictError,
    FullError,
    InvalidError,
    NameClashError,
    NotFoundError,
    RhError,
    UnavailableError,
    UnsupportedError,
)
from rh.systems.abilities import (
    Bulk,
    Digesting,
    Direct,
    Fetching,
    Following,
    Item,
    Linked,
    Multipart,
    Paging,
    Running,
    ServerCopy,
    Sweeping,
)
from rh.systems.ssh import SSHSystem
from rh.systems.ssh.streams import FarBody
from rh.testing import servers
from rh.testing.systems import SystemSuite
from rh.types import Entry, Link, Location, SignedRequest
from tests.systems.hosts import ROADS, TRANSPORTS, fresh, opened


class OnAHost(SystemSuite):
    keeps = frozenset({"links", "executable", "directories"})
    flat = False

    def test_no_file_takes_the_place_of_a_device(self, system: SSHSystem) -> None:
        """Who reads the pipe would wait for ever, and what others write to the device would fill a disk."""
        system.write("x", b"")
        path = os.path.join(os.fsdecode(system.real_path()), "pipe")
        os.mkfifo(path)
        for data in (b"data", Link("x")):
            with pytest.raises(NameClashError, match="a pipe, socket or device"):
                system.write("pipe", data)
        assert stat.S_ISFIFO(os.lstat(path).st_mode)
        assert [entry.key for entry in system.list()] == ["pipe", "x"]


class TestOpenSSH(OnAHost):
    """The system's client, and the far program."""

    abilities = frozenset(
        {Bulk, Digesting, Direct, Fetching, Following, Linked, Multipart, Paging, Running, ServerCopy, Sweeping}
    )

    @pytest.fixture
    def system(self, host: servers.SSHServer, openssh: SSHSystem) -> SSHSystem:
        return fresh(openssh)


@pytest.fixture(scope="module")
def paramiko(host: servers.SSHServer) -> Iterator[SSHSystem]:
    with opened(host, "~", transport="paramiko") as system:
        yield system


class TestParamiko(OnAHost):
    """No client installed: paramiko, and the far program."""

    abilities = TestOpenSSH.abilities

    @pytest.fixture
    def system(self, paramiko: SSHSystem) -> SSHSystem:
        return fresh(paramiko)


@pytest.fixture(scope="module")
def bare() -> Iterator[servers.SSHServer]:
    """A host without Python."""
    with servers.ssh(alias="bare", python=False) as server:
        yield server


@pytest.fixture(scope="module")
def sftp(bare: servers.SSHServer) -> Iterator[SSHSystem]:
    with opened(bare, "~") as system:
        yield system


class TestSFTP(OnAHost):
    """No Python on the host: plain SFTP."""

    abilities = frozenset({Bulk, Following, Linked, Paging, Running, Sweeping})
    conditions = frozenset({"absent"})

    @pytest.fixture
    def system(self, sftp: SSHSystem) -> SSHSystem:
        return fresh(sftp)

    def test_an_etag_tells_contents_of_one_size_apart(self, system: SSHSystem) -> None:
        """By their times, which SFTP tells in whole seconds (`docs/limits.md`)."""
        etag = system.write("f", b"one").etag
        os.utime(os.path.join(system.real_path(), "f"), (1, 1))
        assert system.head("f").etag != etag


# What the host makes of it


@TRANSPORTS
@ROADS
def test_noisy_start_up_files(transport: str, far: str) -> None:
    """Start-up files that print to both streams break nothing."""
    with servers.ssh() as server:
        server.noisy("Welcome! " * 5000)
        with opened(server, transport=transport, far=far) as system:
            if far == "sftp":
                server.noisy("")  # sftp itself does not survive noise from the shell, with any client
            system.write("x", b"1")
            assert system.read("x").read() == b"1"
            assert [entry.key for entry in system.list()] == ["x"]


def test_no_python_is_said(bare: servers.SSHServer) -> None:
    """Asking for the far program where there is no Python says so."""
    with opened(bare, far="python") as system, pytest.raises(UnsupportedError, match=r"Python 3\.7"):
        system.head("x")
    with opened(bare, python="/no/such/python") as system:
        system.write("x", b"1")
        assert system.read("x").read() == b"1"


HOSTILE = (
    b"; touch HACKED;",
    b"$(touch HACKED)",
    b"`touch HACKED`",
    b"'\"\\'",
    b"new\nline\n",
    b"-rf",
    b"--help",
    "emoji \N{GRINNING FACE}".encode(),
    b"not utf-8 \xff\xfe\x80",
    b"*",
    b"~",
    b" ",
    b"\x01\x1b[31m",
    b"a|b>c<d&",
)


@TRANSPORTS
@ROADS
def test_hostile_names(host: servers.SSHServer, transport: str, far: str) -> None:
    """Names are bytes, never shell text: as keys, as directories, as the root itself, and as words of a command."""
    keys = [os.fsdecode(name) for name in HOSTILE]
    with opened(host, transport=transport, far=far) as top:
        for root in (top, *(top.at(f"in/{keys[number]}") for number in (0, 4, 8))):
            for key in keys:
                root.write(key + "/" + key, key.encode("utf-8", "surrogateescape"))
            wanted = sorted((f"{key}/{key}" for key in keys), key=os.fsencode)
            listed = [entry for entry in root.list() if entry.key in wanted]
            assert [entry.key for entry in listed] == wanted
            for entry, data in root.read_many(listed):
                assert isinstance(data, bytes)
                assert os.fsencode(entry.key) == data + b"/" + data
            status, out, _ = root.run(["printf", "%s\\0", *keys])
            assert (status, out) == (0, b"\0".join(HOSTILE) + b"\0")
        assert "HACKED" not in [name for _, _, names in os.walk(host.home) for name in names]


@ROADS
def test_no_link_leads_out(host: servers.SSHServer, far: str) -> None:
    """Writing and deleting through a link is refused; reading through it is not."""
    with opened(host, far=far) as system:
        outside = host.home / f"outside-{far}"
        outside.mkdir()
        (outside / "kept").write_bytes(b"kept")
        system.write("link", Link(str(outside)))
        for key in ("link/new", "link/kept", "link/deep/er"):
            with pytest.raises(NameClashError):
                system.write(key, b"evil")
            assert next(iter(system.write_many([Item(key, b"evil")]))).error is not None
        with pytest.raises(NameClashError):
            system.delete(["link/kept"])
        assert sorted(os.listdir(outside)) == ["kept"]
        assert system.read("link/kept").read() == b"kept"
        system.write("link", b"now a file")
        assert (outside / "kept").read_bytes() == b"kept"


@ROADS
def test_following(host: servers.SSHServer, far: str) -> None:
    """What links point to appears in their place, in key order."""
    with opened(host, far=far) as system:
        for key in ("a/1", "a.b", "z/deep/2", "m"):
            system.write(key, key.encode())
        system.write("l", Link("z"))
        system.write("a0", Link("m"))
        found = list(system.list_following())
        assert [entry.key for entry in found] == ["a.b", "a/1", "a0", "l/deep/2", "m", "z/deep/2"]
        assert {entry.kind for entry in found} == {"file"}
        assert {entry.key: data for entry, data in system.read_many(found)}["l/deep/2"] == b"z/deep/2"
        assert [entry.key for entry in system.list_following(depth=1)] == ["a.b", "a/", "a0", "l/", "m", "z/"]
        assert [entry.kind for entry in system.list()].count("link") == 2


def test_permission_denied_and_full(host: servers.SSHServer) -> None:
    """What the host's kernel refuses is typed, and leaves nothing behind."""
    place = host.home / "fixed"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)], check=True)
    try:
        with opened(host, str(place)) as system, pytest.raises(AccessError) as caught:
            system.write("x", b"1")
        assert caught.value.where == f"ssh-a:{place}/x"
    finally:
        subprocess.run(["umount", str(place)], check=True)
    with opened(host, "/dev/null") as system:
        with pytest.raises(NameClashError):
            system.write("x", b"1")
        with pytest.raises(RhError):
            list(system.list())
    with opened(host) as system:
        with pytest.raises(FullError):
            system.begin("x", 1 << 60, part_size=1 << 40)
        assert not (host.home / system.location.path[2:]).exists()
        with pytest.raises(NameClashError):
            system.write("n" * 256, b"1")


def test_disk_full_over_there(host: servers.SSHServer) -> None:
    """A file system that fills up: `FullError`, the old version intact, no unfinished file."""
    place = host.home / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    try:
        with opened(host, str(place)) as system:
            system.write("f", b"old")
            with pytest.raises(FullError):
                system.write("f", bytes(3 << 20))
            with pytest.raises(FullError):
                system.write("f", iter([bytes(1 << 20)] * 3))
            outcomes = list(system.write_many([Item("g", bytes(3 << 20)), Item("h", b"small")]))
            assert isinstance({outcome.key: outcome for outcome in outcomes}["g"].error, FullError)
            assert system.read("f").read() == b"old"
            assert sorted(os.listdir(place)) == ["f", "h"]
    finally:
        subprocess.run(["umount", str(place)], check=True)


# What the host does by itself


class _Store(http.server.BaseHTTPRequestHandler):
    """A web server that keeps what is put, and answers ranges."""

    protocol_version = "HTTP/1.1"
    kept: ClassVar[dict[str, bytes]] = {}
    seen: ClassVar[list[str]] = []

    def log_message(self, *args: Any) -> None: ...

    def _say(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.seen.append(f"GET {self.client_address[1]}")
        if path == "/denied":
            return self._say(403, b"<Error><Code>AccessDenied</Code></Error>")
        if path == "/broken":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"x" * 50)
            self.close_connection = True
            return None
        data = self.kept.get(path)
        if data is None:
            return self._say(404, b"")
        wanted = self.headers.get("Range")
        if wanted:
            start, stop = map(int, wanted[6:].split("-"))
            part = data[start : stop + 1]
            return self._say(206, part, Content_Range=f"bytes {start}-{stop}/{len(data)}", ETag='"v"')
        return self._say(200, data, ETag='"v"')

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("x-signed") != "yes":
            return self._say(403, b"")
        self.kept[self.path] = data
        return self._say(200, b"", ETag=f'"{hashlib.md5(data).hexdigest()}"')


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Store)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_fetch_and_send(openssh: SSHSystem, web: str) -> None:
    """The host gets and puts signed URLs itself: no byte passes here, digests are of what moved."""
    system = fresh(openssh)
    large = os.urandom((65 << 20) + 3)
    tree = {"small": b"s" * 100, "middle": large[: 3 << 20], "large": large, "empty": b""}
    for name, data in tree.items():
        _Store.kept[f"/{name}"] = data
    wanted = [
        (Entry(name, len(data), etag='"v"'), f"got/{name}", SignedRequest("GET", f"{web}/{name}?signature=hush"))
        for name, data in tree.items()
    ]
    wrong = {
        "gone": (SignedRequest("GET", f"{web}/gone"), NotFoundError),
        "denied": (SignedRequest("GET", f"{web}/denied?signature=hush"), AccessError),
        "broken": (SignedRequest("GET", f"{web}/broken"), UnavailableError),
        "file": (SignedRequest("GET", "file:///etc/passwd"), InvalidError),
        "small": (SignedRequest("GET", f"{web}/small"), ConflictError),
    }
    wanted += [
        (Entry(name, 100 if name == "broken" else 7), f"bad/{name}", request) for name, (request, _) in wrong.items()
    ]
    with observe.counting() as counts:
        outcomes = {outcome.key: outcome for outcome in system.fetch_many(wanted)}
    assert (counts.sent.total(), counts.received.total()) == (0, 0)
    for name, data in tree.items():
        outcome = outcomes.pop(f"got/{name}")
        assert outcome.error is None
        assert outcome.digest == digest.of_bytes(data).text
        assert system.read(f"got/{name}").read() == data
    for name, (_, kind) in wrong.items():
        error = outcomes.pop(f"bad/{name}").error
        assert type(error) is kind, (name, error)
        assert "hush" not in str(error)
    assert outcomes == {}
    assert [entry.key for entry in system.list() if entry.key.startswith("bad")] == []
    _Store.seen.clear()
    many = [(Entry("small", 100), f"many/{number}", SignedRequest("GET", f"{web}/small")) for number in range(60)]
    assert [outcome.error for outcome in system.fetch_many(many) if outcome.error] == []
    assert len(_Store.seen) == 60
    assert len(set(_Store.seen)) <= 8  # connections are kept

    def put(name: str) -> SignedRequest:
        return SignedRequest("PUT", f"{web}/put/{name}", {"x-signed": "yes"})

    part = 16 << 20
    entries = list(system.list("got/"))
    parts = {
        entry.key: [
            ((at, min(at + part, entry.size)), put(f"{entry.key}/{at}")) for at in range(0, entry.size or 1, part)
        ]
        for entry in entries
    }
    stale = Entry("got/small", 100, etag="stale")
    with observe.counting() as counts:
        sent = list(
            system.send_many([*((entry, parts[entry.key]) for entry in entries), (stale, [((0, 100), put("no"))])])
        )
        denied = list(system.send_many([(entries[-1], [((0, 100), SignedRequest("PUT", f"{web}/put/x"))])]))
    assert (counts.sent.total(), counts.received.total()) == (0, 0)
    assert isinstance(denied[0].error, AccessError)
    assert [type(outcome.error) for outcome in sent if outcome.error] == [ConflictError]
    for outcome in sent:
        if outcome.error is None and outcome.entry is not None:
            data = tree[outcome.key.removeprefix("got/")]
            assert b"".join(_Store.kept[f"/put/{outcome.key}/{at}"] for at in range(0, len(data) or 1, part)) == data
            assert outcome.digest == digest.of_bytes(data).text
            assert (outcome.entry.etag or "").count("\n") == len(parts[outcome.key]) - 1


def test_direct(host: servers.SSHServer) -> None:
    """One host sends to another by its own login: nothing passes here; without such a login it says no."""
    with servers.ssh(alias="ssh-b") as other, opened(host, "~/direct") as ours, opened(other, "~/got") as theirs:
        tree = {"small": b"1", "dir/run": b"#!", "large": os.urandom(20 << 20), "empty": b""}
        for name, data in tree.items():
            ours.write(name, data, executable=name == "dir/run")
        assert not ours.can_send_to(theirs)
        assert not theirs.can_send_to(ours)
        host.trust(other)
        ours.pool.reaches.clear()
        assert ours.can_send_to(theirs)
        assert not theirs.can_send_to(ours)
        entries = list(ours.list())
        gone = Entry("gone", 5)
        with observe.counting() as counts:
            sent = {o.key: o for o in ours.send_to(theirs, [(entry, f"to/{entry.key}") for entry in [*entries, gone]])}
        assert (counts.sent.total(), counts.received.total()) == (0, 0)
        assert isinstance(sent.pop("to/gone").error, NotFoundError)
        assert {key: outcome.digest for key, outcome in sent.items()} == {
            f"to/{key}": digest.of_bytes(data).text for key, data in tree.items()
        }
        assert {key: outcome.entry for key, outcome in sent.items()} == {entry.key: entry for entry in theirs.list()}
        assert theirs.head("to/dir/run").executable
        assert theirs.read("to/large").read() == tree["large"]
        other.trust(host)
        theirs.pool.reaches.clear()
        assert theirs.can_send_to(ours)
        got = {
            o.key: o for o in theirs.receive_from(ours, [(entry, f"back/{entry.key}") for entry in [*entries, gone]])
        }
        assert isinstance(got.pop("back/gone").error, NotFoundError)
        assert [outcome.error for outcome in got.values() if outcome.error] == []
        assert theirs.read("back/large").read() == tree["large"]
        host.distrust()
        with pytest.raises(UnavailableError):
            list(ours.send_to(theirs, [(entries[0], "late")]))


def test_same_host_by_another_login_is_no_copy(host: servers.SSHServer) -> None:
    with servers.ssh(alias="ssh-b") as other, opened(host) as ours, opened(other) as theirs:
        assert not ours.can_copy_from(theirs)
        assert ours.can_copy_from(ours.at("x"))


# Listing and sweeping


@pytest.mark.parametrize("far", ["python", "sftp"])
def test_pages(host: servers.SSHServer, far: str) -> None:
    """Pages are the listing, some hundred entries each; leaving them early costs no session."""
    with opened(host, far=far) as system:
        keys = [f"d{number % 7}/f{number:04}" for number in range(2300)]
        assert all(outcome.error is None for outcome in system.write_many(Item(key, b"1") for key in keys))
        system.write("d3/void/", b"")
        system.write("link", Link("d3"))
        pages = list(system.list_pages())
        assert [entry for page in pages for entry in page] == list(system.list())
        assert sorted(entry.key for page in pages for entry in page) == sorted([*keys, "d3/void/", "link"])
        assert len(pages) > 2
        assert all(0 < len(page) <= 1000 for page in pages)
        last = pages[0][-1].key
        rest = [entry.key for page in system.list_pages(after=last) for entry in page]
        assert rest == [entry.key for page in pages[1:] for entry in page]
        below = [entry.key for page in system.list_pages("d3/") for entry in page]
        assert below == [entry.key for page in pages for entry in page if entry.key.startswith("d3/")]
        followed = [entry for page in system.list_pages(follow=True) for entry in page]
        assert followed == list(system.list_following())
        sessions = set(system.pool._all)
        for _ in range(3):
            next(iter(system.list_pages()))
        assert set(system.pool._all) == sessions


def test_sweeping_takes_directories_of_ours(host: servers.SSHServer) -> None:
    """What a copy on that machine left unfinished goes as a whole; other names stay."""
    with opened(host) as system:
        system.write("keep/f", b"1")
        root = Path(os.fsdecode(system.run(["pwd"])[1].strip()))
        (root / ".rh-tmp-1-2-3/sub").mkdir(parents=True)
        (root / ".rh-tmp-1-2-3/sub/f").write_bytes(b"half")
        (root / "keep/.rh-tmp-4").symlink_to(root / "keep")
        (root / "keep/.rh-store").mkdir()
        assert system.sweep(older_than_s=3600) == 0
        assert system.sweep() == 2
        assert sorted(os.listdir(root)) == ["keep"]
        assert sorted(os.listdir(root / "keep")) == [".rh-store", "f"]


# Speed and silence


def test_multiplexed(host: servers.SSHServer) -> None:
    """Many sessions share few logins."""
    before = host.log.count("Accepted publickey")
    with opened(host, transport="openssh", connections=1, persist_s=0) as system:
        system.write("x", bytes(1 << 20))
        bodies = [system.read("x") for _ in range(6)]
        assert [len(body.read()) for body in bodies] == [1 << 20] * 6
    assert host.log.count("Accepted publickey") - before == 1


def test_a_connection_that_the_user_has_open(tmp_path: Path) -> None:
    """It is used where ssh_config says how connections are shared, without a login; when it ends, ours are."""
    with servers.ssh() as server:
        config, socket = tmp_path / "config", tmp_path / "shared"
        config.write_text(f"{server.config_file.read_text()}\nHost *\n  ControlPath {socket}\n")
        master = subprocess.Popen(["ssh", "-F", config, "-M", "-N", server.alias], stderr=subprocess.DEVNULL)
        try:
            while not socket.exists():
                assert master.poll() is None
                time.sleep(0.01)
            logins = server.log.count("Accepted publickey")
            keys = server.directory / "authorized_keys"
            known = keys.read_text()
            keys.write_text("")  # as good as a second factor that nobody gives
            host = Location(server.alias, "~/x")
            settings = {"host": server.alias, "config_file": str(config), "transport": "openssh", "timeout_s": 20}
            with SSHSystem.open(host, settings) as system:
                system.write("x", bytes(1 << 20))
                bodies = [system.read("x") for _ in range(4)]
                assert [len(body.read()) for body in bodies] == [1 << 20] * 4
            keys.write_text(known)
        finally:
            master.terminate()
            master.wait()
        assert server.log.count("Accepted publickey") == logins
        with SSHSystem.open(host, settings) as system:
            assert system.head("x").size == 1 << 20
        assert server.log.count("Accepted publickey") == logins + 1


@pytest.mark.parametrize("size", [4096, 3 << 20])
def test_digests_that_are_known_are_not_computed_there(host: servers.SSHServer, size: int) -> None:
    """Who has the digest of a file compares with it here; the host hashes what nobody knows."""
    with opened(host) as system:
        system.write("x", bytes(size))
        entry = system.head("x")
        (told, data), *_ = system.read_many([entry])
        assert (told.check, data) == (f"sha256:{hashlib.sha256(bytes(size)).hexdigest()}", bytes(size))
        asked = entry._replace(check="sha256:" + "0" * 64)
        assert list(system.read_many([asked])) == [(asked, bytes(size))]


@TRANSPORTS
def test_server_allows_one_session(transport: str) -> None:
    """A server that allows one session per connection gets more connections."""
    with servers.ssh(options={"MaxSessions": "1"}) as server, opened(server, transport=transport) as system:
        system.write("x", bytes(1 << 20))
        bodies = [system.read("x") for _ in range(4)]
        assert [len(body.read()) for body in bodies] == [1 << 20] * 4


def test_memory_is_bounded(openssh: SSHSystem) -> None:
    """A stream of 5 GiB of small items would not be held here: what is in flight is bounded."""
    system = fresh(openssh)
    ahead = behind = most = 0

    def items() -> Iterator[Item]:
        nonlocal ahead
        for number in range(600):
            ahead += 256 << 10
            yield Item(f"{number}", bytes(256 << 10))

    for _ in system.write_many(items()):
        behind += 256 << 10
        most = max(most, ahead - behind)
    assert most <= 40 << 20


CANARY = "canary-5e1f0c7a"


def test_no_secret_escapes(openssh: SSHSystem, web: str, caplog: pytest.LogCaptureFixture) -> None:
    """The secret in a signed URL is in no argument list, log, error or repr."""
    system = fresh(openssh)
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.append(place.read_bytes().decode("utf-8", "replace"))
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _Store.kept["/c"] = b"c" * (1 << 20)
        requests = [
            (Entry("c", 1 << 20), f"c{number}", SignedRequest("GET", f"{web}/c?sig={CANARY}", {"x-key": CANARY}))
            for number in range(20)
        ]
        requests.append((Entry("c", 1), "bad", SignedRequest("GET", f"{web}/nope?sig={CANARY}")))
        said = [repr(outcome) for outcome in system.fetch_many(requests)]
    finally:
        stop.set()
        watcher.join()
    assert any("ssh" in line for line in seen)
    for text in (*seen, *said, caplog.text, repr(requests), repr(system), repr(system.host)):
        assert CANARY not in text


def test_all_of_a_small_body_that_came_in_pieces_fits_a_buffer() -> None:
    """A host whose file system reads less than was asked for sends more pieces than one."""
    body = FarBody.__new__(FarBody)
    body._held, body._session, body._left = [b"a" * 10, b"b" * 10], None, 0
    buffer, got = memoryview(bytearray(64)), b""
    while count := body.readinto(buffer):
        got += buffer[:count]
    assert got == b"a" * 10 + b"b" * 10
