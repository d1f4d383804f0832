"""Web sites: real servers (Python's own, and rclone's), and one that misbehaves on demand."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from urllib.parse import unquote

import pytest

from rh import config, observe, plugins
from rh.errors import (
    AccessError,
    ConflictError,
    DeadlineError,
    FullError,
    IntegrityError,
    InvalidError,
    MissingExtraError,
    NameClashError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from rh.systems import locate, open_system, settings_of
from rh.systems.http import HTTPSystem
from rh.systems.http.index import members
from rh.systems.wrap import Counting, Faulty, Limited, Retrying
from rh.testing.systems import SystemSuite
from rh.types import ANY, Location, Match

NAMES = {
    "100%25.txt": b"percent",
    "a b.txt": b"space",
    "empty.bin": b"",
    'q?m&a"<x>#.txt': b"odd",
    "sub/c.txt": b"deep",
    "sub/deep/d.bin": bytes(range(256)) * 4096,
    "sub.txt": b"before sub/",
    "ünï/é.txt": b"unicode",
}


def site(url: str, **settings: object) -> HTTPSystem:
    location = locate(url)
    return HTTPSystem.open(location, {**settings_of(location.system), "timeout_s": 5.0, **settings})


@contextmanager
def serving(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    for name, data in NAMES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1_700_000_000, 1_700_000_000))
    (root / "hollow").mkdir()
    (root / ".rh-manifest").write_bytes(b"ours")
    return root


@pytest.fixture(scope="module")
def python_server(tree):
    with serving(functools.partial(Quiet, directory=str(tree))) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def rclone_server(tree):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = os.path.join(os.path.dirname(sys.executable), "rclone")
    argv = [program, "serve", "http", str(tree), "--addr", f"127.0.0.1:{port}", "--config", os.devnull]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            raise AssertionError("rclone serve http did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(params=["python", "rclone"])
def server(request):
    return request.getfixturevalue(f"{request.param}_server")


def test_a_site_lists_complete_and_in_order_and_reads_back(server):
    with site(server + "/") as system:
        entries = list(system.list())
        assert [e.key for e in entries] == sorted([*NAMES, "hollow/"], key=str.encode)
        assert {e.key: e.size for e in entries if e.kind == "file"} == {k: len(v) for k, v in NAMES.items()}
        for key, data in NAMES.items():
            assert system.read(key).read() == data
            assert system.head(key).size == len(data)
        assert [e.key for e in system.list(depth=1)] == sorted(
            ["100%25.txt", "a b.txt", "empty.bin", "hollow/", 'q?m&a"<x>#.txt', "sub.txt", "sub/", "ünï/"],
            key=str.encode,
        )
        assert [e.key for e in system.list("sub/d")] == ["sub/deep/d.bin"]
        assert [e.key for e in system.list("sub")] == ["sub.txt", "sub/c.txt", "sub/deep/d.bin"]
        assert [e.key for e in system.list("sub", after="sub/c.txt")] == ["sub/deep/d.bin"]
        assert list(system.list("nothing/here")) == []
        assert [e.key for e in system.at("sub").list()] == ["c.txt", "deep/d.bin"]
        assert system.at("ünï").read("é.txt").read() == b"unicode"


def test_url_text_is_decoded_once(server):
    assert locate(server + "/a%20b.txt").path == "/a b.txt"
    system = site(server + "/%C3%BCn%C3%AF")
    assert system.read("é.txt").read() == b"unicode"
    assert system.url("é.txt") == server + "/%C3%BCn%C3%AF/%C3%A9.txt"


def test_ranges_are_exact(server):
    data = NAMES["sub/deep/d.bin"]
    with site(server) as system:
        etag = system.head("sub/deep/d.bin").etag
        assert etag
        for span in [
            (0, 1),
            (10, 20),
            (len(data) - 3, len(data) + 100),
            (5, 5),
            (len(data), len(data) + 5),
            (0, len(data)),
        ]:
            body = system.read("sub/deep/d.bin", span, when=Match(etag))
            assert body.read() == data[span[0] : span[1]]
            assert body.entry.size == len(data)
        with pytest.raises(InvalidError):
            system.read("a b.txt", (4, 2))


def test_a_range_where_the_server_has_them_is_a_bounded_transfer(rclone_server):
    with observe.counting() as counts, site(rclone_server) as system:
        assert system.read("sub/deep/d.bin", (500_000, 500_010)).read() == NAMES["sub/deep/d.bin"][500_000:500_010]
    assert counts.received[rclone_server] == 10
    assert counts.requests[rclone_server, "read"] == 1


def test_missing_things_and_directories_are_not_found(server):
    with site(server) as system:
        for key in ("nope", "sub", "sub/", "hollow", "nope/x"):
            with pytest.raises(NotFoundError):
                system.head(key)
            with pytest.raises(NotFoundError):
                system.read(key)
    with pytest.raises(NotFoundError, match="nothing is there"):
        list(site(server + "/nope").list())


def test_a_site_is_read_only_and_keys_stay_below_the_root(server):
    system = site(server + "/sub")
    assert not system.writable
    with pytest.raises(UnsupportedError, match="cannot be written"):
        system.write("x", b"")
    with pytest.raises(UnsupportedError, match="deleted"):
        system.delete(["c.txt"])
    for key in ("../a b.txt", "deep/../c.txt", "/c.txt", "./c.txt"):
        with pytest.raises(NameClashError):
            system.head(key)


def test_a_changed_file_is_a_conflict(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"one")
    os.utime(path, (1_700_000_000,) * 2)
    with serving(functools.partial(Quiet, directory=str(tmp_path))) as port:
        system = site(f"http://127.0.0.1:{port}")
        etag = system.head("f").etag
        assert etag
        assert system.read("f", when=Match(etag)).read() == b"one"
        path.write_bytes(b"two")
        os.utime(path, (1_700_000_005,) * 2)
        with pytest.raises(ConflictError):
            system.read("f", when=Match(etag))


def test_a_date_is_no_validator_while_the_second_lasts(tmp_path):
    """Two writes within one second have one Last-Modified: equal etags would not mean equal bytes."""
    with serving(functools.partial(Quiet, directory=str(tmp_path))) as port:
        (tmp_path / "f").write_bytes(b"one")
        assert site(f"http://127.0.0.1:{port}").head("f").etag is None


# a server that misbehaves as told

DATA = b"0123456789" * 1000
LONG = DATA * 100


class Told(http.server.BaseHTTPRequestHandler):
    """Answers by the first component of the path."""

    protocol_version = "HTTP/1.1"
    seen: list

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        if self.path.startswith("/nohead"):
            self.answer(405, b"")
        elif self.path.startswith("/signed"):
            self.answer(403, b"")
        elif self.path.startswith("/none"):
            self.answer(200, b"")
        elif self.path.startswith("/chunked"):
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
        else:
            self.do_GET()

    def answer(self, status, data, **headers):
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(data)))
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self):
        type(self).seen.append((self.command, self.path, dict(self.headers)))
        kind, _, rest = self.path.lstrip("/").partition("/")
        port = self.server.server_port
        if kind == "short":
            self.answer(200, DATA[:-5], Content_Length=str(len(DATA)))
            self.close_connection = True
        elif kind == "wrongrange":
            self.answer(206, DATA[7:17], Content_Range=f"bytes 7-16/{len(DATA)}")
        elif kind == "unsaid":
            self.answer(206, DATA[:10])
        elif kind in ("md5", "badmd5"):
            good = base64.b64encode(hashlib.md5(DATA).digest()).decode()
            self.answer(200, DATA if kind == "md5" else b"X" + DATA[1:], Content_MD5=good)
        elif kind == "odd":
            name, _, value = unquote(rest).partition("=")
            self.answer(200, DATA, Connection="close", **{name: value})
        elif kind in ("repr", "badrepr"):
            good = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
            self.answer(200, DATA if kind == "repr" else DATA[:-1] + b"X", Repr_Digest=f"sha-256=:{good}:")
        elif kind in ("torn", "stalled"):
            good = base64.b64encode(hashlib.sha256(LONG).digest()).decode()
            if len([path for _, path, _ in self.seen if path == self.path]) > 1:
                self.answer(200, LONG, ETag='"strong"', Repr_Digest=f"sha-256=:{good}:")
                return
            half = b"X" + LONG[1 : len(LONG) // 2]
            self.answer(200, half, ETag='"strong"', Repr_Digest=f"sha-256=:{good}:", Content_Length=str(len(LONG)))
            time.sleep(2 if kind == "stalled" else 0.3)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
            self.close_connection = True
        elif kind == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            for piece in [LONG] * 12 if rest == "large" else (DATA[at : at + 4000] for at in range(0, len(DATA), 4000)):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if rest != "cut":
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True
        elif kind == "loop":
            self.answer(302, b"", Location=self.path)
        elif kind == "to":
            self.answer(302, b"", Location=f"http://localhost:{port}/{rest}")
        elif kind == "astray":
            self.answer(302, b"", Location="http://[bad/")
        elif kind == "status":
            self.answer(int(rest), b"no", Retry_After="7")
        elif kind == "busy":
            first = len([path for _, path, _ in self.seen if path == self.path]) == 1
            self.answer(503 if first or rest == "3600" else 200, DATA, Retry_After=unquote(rest))
        elif kind == "slow":
            time.sleep(3)
            self.close_connection = True
        elif kind == "brief" and rest:
            time.sleep(0.0 if rest == "f000" else 0.5)
            self.answer(200, b"")
        elif kind == "silent" and rest:
            time.sleep(5)
            self.close_connection = True
        elif kind in ("brief", "silent"):
            links = "".join(f"<a href='f{at:03}'>x</a>" for at in range(64)) + "</html>"
            self.answer(200, f"<html><title>Index of /{kind}/</title>{links}".encode(), Content_Type="text/html")
        elif kind == "page":
            self.answer(200, b"<html><title>Welcome</title><a href='x'>x</a></html>", Content_Type="text/html")
        elif kind == "auth" and "Authorization" not in self.headers:
            self.answer(401, b"")
        elif kind == "weak":
            self.answer(200, DATA, ETag='W/"1"')
        else:
            self.answer(200, DATA, ETag='"strong"')


@pytest.fixture
def told():
    handler = type("Handler", (Told,), {"seen": []})
    with serving(handler) as port:
        yield f"http://127.0.0.1:{port}", handler.seen


def test_a_short_answer_is_an_integrity_error(told):
    with pytest.raises(IntegrityError, match="ended early"):
        site(told[0]).read("short").read()


def test_a_wrong_range_is_an_integrity_error(told):
    system = site(told[0])
    with pytest.raises(IntegrityError, match="another range"):
        system.read("wrongrange", (0, 10)).read()
    with pytest.raises(IntegrityError, match="without saying"):
        system.read("unsaid", (0, 10)).read()


@pytest.mark.parametrize("kind", ["md5", "repr"])
def test_stated_digests_are_checked(told, kind):
    system = site(told[0])
    assert system.read(kind).read() == DATA
    name = {"md5": "md5", "repr": "sha256"}[kind]
    assert system.head(kind).check == f"{name}:{hashlib.new(name, DATA).hexdigest()}"
    with pytest.raises(IntegrityError, match="not the ones"):
        system.read("bad" + kind).read()


@pytest.mark.parametrize("header", ["Repr_Digest=sha-256=:é:", "Content_MD5=é", "Content_Length=" + "9" * 5000])
def test_headers_that_make_no_sense_say_nothing(told, header):
    system = site(f"{told[0]}/odd")
    assert system.read(header).read() == DATA
    assert system.head(header).check is None


@pytest.mark.parametrize("kind", ["torn", "stalled"])
def test_a_stated_digest_holds_for_a_read_that_broke(told, kind):
    """Going on by a range would hand out the first half, a byte of which is wrong, as if it had been compared."""
    url, seen = told
    with pytest.raises(IntegrityError if kind == "torn" else DeadlineError):
        site(url, timeout_s=0.5).read(kind).read()
    seen.clear()
    config.register("torn", {"kind": "http", "endpoint_url": url, "timeout_s": 0.5, "retry_s": 10})
    assert open_system(locate("torn:/")).read(kind).read() == LONG
    assert [headers.get("Range") for _, _, headers in seen] == [None, None]


@pytest.mark.parametrize("wrapper", [Counting, Faulty, functools.partial(Limited, bytes_per_s=1e12)])
def test_a_stated_digest_holds_through_wrappers(told, wrapper):
    system = Retrying(wrapper(site(told[0], timeout_s=0.5)), budget_s=10)
    with pytest.raises(DeadlineError):
        list(system.read("stalled"))


@pytest.mark.parametrize(("asked", "tries"), [("0", 2), ("1", 2), ("3600", 1), ("soon", 2)])
def test_a_server_that_asks_to_wait_is_left_alone(told, asked, tries):
    """As long as it asks for, if there is so much time; to ask it again before that is in vain."""
    url, seen = told
    system = Retrying(site(url), budget_s=10)
    if tries == 1:
        with pytest.raises(UnavailableError, match="asks to wait 3,600 s"):
            system.read(f"busy/{asked}")
    else:
        assert system.read(f"busy/{asked}").read() == DATA
    assert len(seen) == tries


def test_a_server_without_ranges_is_skipped_through(told):
    with observe.counting() as counts:
        assert site(told[0]).read("plain", (100, 120)).read() == DATA[100:120]
    assert counts.received[told[0]] >= 120


def test_unknown_sizes_are_found_out_and_a_cut_stream_is_noticed(told):
    system = site(told[0])
    assert system.head("chunked").size == len(DATA)
    body = system.read("chunked")
    assert body.entry.size == len(DATA)
    assert body.read() == DATA
    assert system.read("chunked", (9_990, 20_000)).read() == DATA[9_990:]
    with pytest.raises((IntegrityError, UnavailableError)):
        system.read("chunked/cut").read()


def test_no_room_for_a_file_of_unknown_size(told, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with pytest.raises(FullError, match="no room") as full:
            site(told[0]).read("chunked/large")
        assert "TMPDIR" in (full.value.hint or "")
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_head_that_says_nothing_is_there_is_not_believed(told):
    """Of a file that is made while it is sent, some servers tell a HEAD that it has 0 bytes."""
    system = site(told[0])
    assert system.head("none") == system.read("none").entry
    assert system.head("none").size == len(DATA)
    assert system.head("brief/f000").size == 0


def test_head_where_only_get_is_allowed(told):
    system = site(told[0])
    assert system.head("nohead").size == len(DATA)
    with pytest.raises(AccessError):
        system.head("signed")
    assert site(told[0] + "/signed?sig=s3cret").at("").settings["url"].endswith("sig=s3cret")
    location = locate(told[0] + "/signed?sig=s3cret").parent
    signed = HTTPSystem.open(location, {**settings_of(location.system), "timeout_s": 5.0})
    assert signed.head("signed").size == len(DATA)
    assert "s3cret" not in repr(signed) + signed.url("signed")
    assert told[1][-1][1] == "/signed?sig=s3cret"


def test_redirects_are_limited_and_carry_no_credentials(told, tmp_path, monkeypatch):
    url, seen = told
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ada password s3cret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    system = site(url)
    assert system.read("to/plain").read() == DATA
    (first, second) = seen[-2:]
    assert first[2]["Authorization"].startswith("Basic ")
    assert second[1] == "/plain"
    assert "Authorization" not in second[2]
    with pytest.raises(UnavailableError, match="more than 5 redirects"):
        system.read("loop")
    assert system.read("auth").read() == DATA
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UnauthenticatedError, match="netrc"):
        system.read("auth")
    netrc.write_text("machine s3cret what s3cret")
    monkeypatch.setenv("NETRC", str(netrc))
    with pytest.raises(InvalidError, match="netrc") as caught:
        system.read("auth")
    assert "s3cret" not in str(caught.value)


def test_a_proxy_is_told_the_password_itself(told, monkeypatch):
    url, seen = told
    monkeypatch.setenv("http_proxy", url.replace("//", "//ada%40home:p%40s%E2%82%AC@"))
    monkeypatch.setenv("no_proxy", "")
    assert site("http://example.test").read("plain").read() == DATA
    ((_, path, headers),) = seen
    assert path == "http://example.test/plain"
    assert base64.b64decode(headers["Proxy-Authorization"].removeprefix("Basic ")).decode() == "ada@home:p@s€"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, UnauthenticatedError),
        (403, AccessError),
        (404, NotFoundError),
        (408, DeadlineError),
        (410, NotFoundError),
        (412, ConflictError),
        (418, InvalidError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
    ],
)
def test_each_status_is_a_typed_error_and_costs_one_request(told, status, error):
    url, seen = told
    with pytest.raises(error) as caught:
        site(url).read(f"status/{status}")
    assert type(caught.value) is error
    assert caught.value.where == f"{url}/status/{status}"
    assert len(seen) == 1


def test_silence_ends_at_the_deadline(told):
    begun = time.monotonic()
    with pytest.raises(DeadlineError):
        site(told[0], timeout_s=0.5).read("slow")
    assert time.monotonic() - begun < 2


def test_a_listing_whose_files_are_silent_ends_at_the_deadline(told):
    """The files that wait to be asked about are not asked about any more."""
    url, seen = told
    with pytest.raises(DeadlineError):
        list(site(url + "/silent", timeout_s=1).list())
    assert sum(method == "HEAD" for method, *_ in seen) <= 16


@pytest.mark.slow
def test_a_listing_that_is_left_asks_no_more(told):
    url, seen = told
    listing = site(url + "/brief").list()
    assert next(listing).key == "f000"
    listing.close()
    assert sum(method == "HEAD" for method, *_ in seen) <= 20


def test_an_ordinary_page_is_not_taken_for_a_directory(told):
    with pytest.raises(UnsupportedError, match="no directory listing"):
        list(site(told[0] + "/page").list())


def test_weak_tags_alone_vouch_for_nothing(told):
    system = site(told[0])
    assert system.head("weak").etag is None
    assert system.head("plain").etag == '"strong"'


def test_nobody_there(unused_port):
    with pytest.raises(UnavailableError, match="connection could not be made"):
        site(f"http://127.0.0.1:{unused_port}").head("x")
    with pytest.raises(UnavailableError, match="resolved"):
        site("http://no-such-host.invalid").head("x")


@pytest.fixture
def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


def test_https_never_falls_back(tmp_path, tree, monkeypatch):
    """A certificate nobody vouches for is refused; a redirect from https to http is refused."""
    pem, key = tmp_path / "pem", tmp_path / "key"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    words = [*make.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(pem)]
    subprocess.run(words, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)

    class Falling(Quiet):
        def do_GET(self):
            if self.path == "/fall":
                self.send_response(302)
                self.send_header("Location", "http://localhost:9/plain")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Falling, directory=str(tree)))
    server.handle_error = lambda *_: None
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        url = f"https://localhost:{server.server_port}"
        with pytest.raises(AccessError, match="certificate"):
            site(url).head("a b.txt")
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        assert site(url).read("a b.txt").read() == b"space"
        with pytest.raises(AccessError, match="https to http"):
            site(url).read("fall")
    finally:
        server.shutdown()
        server.server_close()


def test_bad_urls_are_refused_without_telling_secrets():
    with pytest.raises(InvalidError, match="no fragment"):
        locate("https://h/a#b")
    with pytest.raises(InvalidError, match="encoded slash"):
        locate("https://h/a%2Fb")
    with pytest.raises(InvalidError, match="needs a host"):
        locate("https:///x")
    with pytest.raises(InvalidError, match="password") as caught:
        site("https://ada:s3cret@h/x")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(InvalidError, match="not a URL") as caught:
        site("https://ada:s3cret@[::1/x")
    assert "s3cret" not in str(caught.value)


def test_no_log_tells_what_a_url_is_signed_with(told, caplog):
    caplog.set_level("DEBUG")
    assert site(told[0] + "/?sig=s3cret").read("plain").read() == DATA
    assert '"GET /plain HTTP/1.1" 200' in caplog.text
    assert "s3cret" not in caplog.text


def test_a_redirect_to_what_is_no_url_is_a_typed_error(told):
    with pytest.raises(InvalidError, match="redirects to what is no URL"):
        site(told[0]).head("astray")


def test_a_handle_works_in_many_threads_and_after_fork(server):
    system = site(server)
    expected = {k: v for k, v in NAMES.items() if v}
    errors = []

    def work():
        try:
            for key, data in expected.items():
                assert system.read(key, when=ANY).read() == data
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not errors
    child = os.fork()
    if child == 0:
        os._exit(0 if system.read("a b.txt").read() == b"space" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


PAGES = {
    "nginx": """<html>
<head><title>Index of /d x/</title></head>
<body>
<h1>Index of /d x/</h1><hr><pre><a href="../">../</a>
<a href="sub/">sub/</a>      21-Nov-2026 05:11     -
<a href="a%20b.txt">a b.txt</a>  21-Nov-2026 05:11    3
</pre><hr></body>
</html>
""",
    "apache": """<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">
<html>
 <head>
  <title>Index of /d x</title>
 </head>
 <body>
<h1>Index of /d x</h1>
<table><tr><th><a href="?C=N;O=D">Name</a></th></tr>
<tr><td><a href="/">Parent Directory</a></td></tr>
<tr><td><a href="a%20b.txt">a b.txt</a></td><td>1.2K</td></tr>
<tr><td><a href="sub/">sub/</a></td></tr></table>
<address>Apache/2.4</address>
</body></html>""",
}


@pytest.mark.parametrize("server", PAGES)
def test_pages_of_other_servers(server):
    url = "http://h/d%20x/"
    assert members(PAGES[server], url) == ["a b.txt", "sub/"]
    assert members(PAGES[server].replace("</html>", ""), url) is None, "a page that was cut is no listing"
    assert members(PAGES[server], "http://h/other/") is None
    assert members(PAGES[server].replace("a%20b.txt", "a%2Fb.txt"), url) is None
    assert members(PAGES[server].replace("<a href", "<![odd[<a href", 1), url) is None
    other = PAGES[server].replace("<a href", '<a href="http://[bad/">x</a><a href', 1)
    assert members(other, url) == ["a b.txt", "sub/"], "a link that is no URL is none to a file here"


def test_absolute_links_may_be_quoted_otherwise():
    """aiohttp writes whole paths, and leaves parentheses as they are: the directory looked empty."""
    page = (
        "<title>Index of /d (1)/é</title><a href='/d%20(1)/%C3%A9/a(b).txt'>a</a><a href='/d%20(1)/c.txt'>b</a></html>"
    )
    assert members(page, "http://h/d%20%281%29/é/") == ["a(b).txt"]


class TestConformance(SystemSuite):
    """The promises of the contract, as far as something that is only read keeps them."""

    keeps = frozenset({"directories"})
    flat = False
    writable = False

    @pytest.fixture
    def system(self, http_server):
        web = http_server
        root = f"r{len(os.listdir(web.root))}"
        (web.root / root).mkdir()
        with HTTPSystem.open(Location("site", root), {**web.settings(), "name": "site", "timeout_s": 10.0}) as system:
            system.directory = web.root / root
            yield system

    def put(self, system, tree):
        for key, data in tree.items():
            path = system.directory / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def test_the_system_opens_by_url(python_server):
    system = open_system(locate(python_server + "/sub"))
    assert system.read("c.txt").read() == b"deep"


def test_without_the_library_the_fix_is_the_line_that_installs_it(monkeypatch):
    for module in ("urllib3", "azure.identity"):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(plugins._loaded, module, raising=False)
    with pytest.raises(MissingExtraError, match=r"urllib3 is not installed") as caught:
        list(open_system(locate("http://127.0.0.1:9/x/")).list())
    assert caught.value.hint == 'pip install "rh-data[http]"'
    with pytest.raises(MissingExtraError, match=r"azure.identity is not installed") as caught:
        list(open_system(locate("az://container/x")).list())
    assert caught.value.hint == 'pip install "rh-data[azure]"'
    monkeypatch.setenv("AZURE_STORAGE_KEY", "a2V5")
    with pytest.raises(InvalidError, match="no storage account is named"):
        list(open_system(locate("az://container/x")).list())
