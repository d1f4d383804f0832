"""The wire-fault proxy does to a real wire what its faults say, and nothing else."""

from __future__ import annotations

import hashlib
import http.client
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from rh.errors import InvalidError, UnavailableError
from rh.testing import servers
from rh.testing.faults import (
    Bandwidth,
    Cut,
    Delay,
    DropAnswer,
    Duplicate,
    Fault,
    FaultProxy,
    Flip,
    Refuse,
    Repeat,
    Status,
    Swallow,
    Truncate,
)
from rh.testing.servers.web import ask

DATA = random.Random(1).randbytes(300_000)


class Echo:
    """Sends back what it gets, byte for byte, and keeps it."""

    def __init__(self) -> None:
        self.got = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        with one:
            try:
                while data := one.recv(65536):
                    self.got += data
                    one.sendall(data)
            except OSError:
                pass
        self.ended.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


def talk(port: int, data: bytes, *, timeout_s: float = 5.0, close: bool = True) -> bytes:
    """Send everything, end the sending side, return everything that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as one:
        one.settimeout(timeout_s)
        lost: list[OSError] = []
        sender = threading.Thread(target=_send, args=(one, data, close, lost))
        sender.start()
        back = bytearray()
        try:
            while piece := one.recv(65536):
                back += piece
        finally:
            sender.join(timeout_s)
        # A reset is told once, to whoever uses the socket first.
        for error in lost:
            raise error
        return bytes(back)


def _send(one: socket.socket, data: bytes, close: bool, lost: list[OSError]) -> None:
    try:
        one.sendall(data)
        if close:
            one.shutdown(socket.SHUT_WR)
    except OSError as error:
        lost.append(error)


def different_bits(one: bytes, other: bytes) -> list[tuple[int, int]]:
    assert len(one) == len(other)
    return [(i, (a ^ b).bit_count()) for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]


# Any protocol.


def test_without_faults_nothing_changes(echo: Echo) -> None:
    with FaultProxy(echo.port) as proxy:
        assert talk(proxy.port, DATA) == DATA
        assert (proxy.counts.connections, proxy.counts.sent, proxy.counts.received) == (1, len(DATA), len(DATA))
        assert not proxy.counts.faults


@pytest.mark.parametrize("at", [0, 1, 65_536, len(DATA) - 1])
def test_flip_down(echo: Echo, at: int) -> None:
    with FaultProxy(echo.port, [Flip(at=at, bit=3)]) as proxy:
        back = talk(proxy.port, DATA)
        assert different_bits(DATA, back) == [(at, 1)]
        assert back[at] == DATA[at] ^ 8
        assert bytes(echo.got) == DATA
        assert [(i.fault.direction, i.at) for i in proxy.injected] == [("down", at)]


def test_flip_up(echo: Echo) -> None:
    with FaultProxy(echo.port, [Flip(at=777, direction="up")]) as proxy:
        assert different_bits(DATA, talk(proxy.port, DATA)) == [(777, 1)]
        assert different_bits(DATA, bytes(echo.got)) == [(777, 1)]


def test_beyond_the_end_nothing_happens(echo: Echo) -> None:
    with FaultProxy(echo.port, [Flip(at=len(DATA))]) as proxy:
        assert talk(proxy.port, DATA) == DATA
        assert not proxy.injected


def test_truncate_closes_in_order(echo: Echo) -> None:
    with FaultProxy(echo.port, [Truncate(at=1000)]) as proxy:
        assert talk(proxy.port, DATA) == DATA[:1000]


def test_cut_resets(echo: Echo) -> None:
    with FaultProxy(echo.port, [Cut(at=1000)]) as proxy, pytest.raises(ConnectionError):
        talk(proxy.port, DATA)


def test_duplicate_in_place(echo: Echo) -> None:
    with FaultProxy(echo.port, [Duplicate(at=1000, size=50)]) as proxy:
        assert talk(proxy.port, DATA) == DATA[:1050] + DATA[1000:1050] + DATA[1100:]


def test_duplicate_inserted(echo: Echo) -> None:
    with FaultProxy(echo.port, [Duplicate(at=100_000, size=70_000, inserted=True)]) as proxy:
        assert talk(proxy.port, DATA) == DATA[:170_000] + DATA[100_000:170_000] + DATA[170_000:]


@pytest.mark.parametrize("direction", ["up", "down"])
def test_swallow_passes_nothing_more_and_keeps_the_connection(echo: Echo, direction: str) -> None:
    with FaultProxy(echo.port, [Swallow(at=10, direction=direction)]) as proxy:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            talk(proxy.port, DATA, timeout_s=0.5)
        assert time.monotonic() - begun >= 0.5
        assert (proxy.counts.sent if direction == "up" else proxy.counts.received) == 10


def test_refuse_as_often_as_told(echo: Echo) -> None:
    with FaultProxy(echo.port, [Refuse(times=2)]) as proxy:
        for _ in range(2):
            with pytest.raises(ConnectionError):
                talk(proxy.port, b"x")
        assert talk(proxy.port, b"x") == b"x"
        assert proxy.counts.faults["Refuse"] == 2


def test_delay_is_latency_not_bandwidth(echo: Echo) -> None:
    with FaultProxy(echo.port, [Delay(each_way_s=0.1)]) as proxy:
        begun = time.monotonic()
        assert talk(proxy.port, DATA) == DATA
        took = time.monotonic() - begun
        # Making the connection (two ways), the first byte there and back, and the end of the stream likewise.
        assert 0.4 <= took < 1.5
        with socket.create_connection(("127.0.0.1", proxy.port), 5) as one:
            one.sendall(b"a")
            assert one.recv(1) == b"a"
            begun = time.monotonic()
            one.sendall(b"b")
            assert one.recv(1) == b"b"
            assert time.monotonic() - begun >= 0.2


def test_bandwidth(echo: Echo) -> None:
    with FaultProxy(echo.port, [Bandwidth(bytes_per_s=600_000)]) as proxy:
        begun = time.monotonic()
        assert talk(proxy.port, DATA) == DATA
        assert time.monotonic() - begun >= 0.4


def test_drop_resets_what_is_open(echo: Echo) -> None:
    with FaultProxy(echo.port) as proxy, socket.create_connection(("127.0.0.1", proxy.port), 5) as one:
        one.sendall(b"a")
        assert one.recv(1) == b"a"
        assert proxy.drop() == 1
        with pytest.raises(ConnectionResetError):
            one.recv(1)


def test_stop_refuses_and_start_goes_on_at_the_same_port(echo: Echo) -> None:
    proxy = FaultProxy(echo.port).start()
    try:
        port = proxy.port
        proxy.stop()
        with pytest.raises(ConnectionRefusedError):
            talk(port, b"x")
        proxy.start()
        assert proxy.port == port
        assert talk(port, b"x") == b"x"
    finally:
        proxy.stop()


def test_same_seed_same_faults(echo: Echo) -> None:
    def strikes(seed: int) -> list[tuple[int, int | None]]:
        plan = [Flip(probability=0.5, within=len(DATA)), Flip(probability=0.5, within=len(DATA), direction="up")]
        with FaultProxy(echo.port, plan, seed=seed) as proxy:
            for _ in range(12):
                talk(proxy.port, DATA)
            return sorted((one.connection, one.at) for one in proxy.injected)

    first = strikes(3)
    assert first == strikes(3)
    assert first != strikes(4)
    assert 4 <= len(first) <= 20


def test_http_faults_need_http(echo: Echo) -> None:
    with pytest.raises(InvalidError, match="http=True"):
        FaultProxy(echo.port, [Status()])


# HTTP, in front of a real S3 server.


@contextmanager
def before(server: servers.S3Server, *plan: Fault, seed: int = 0) -> Iterator[FaultProxy]:
    with FaultProxy(server.port, plan, seed=seed, http=True) as proxy:
        yield proxy


def put(server: servers.S3Server, key: str, data: bytes, via: int | None = None) -> int:
    return server.request("PUT", f"/data/{key}", body=data, port=via)[0]


def get(server: servers.S3Server, key: str, via: int | None = None) -> bytes:
    status, body = server.request("GET", f"/data/{key}", port=via)
    assert status == 200, body
    return body


def test_http_passes_unchanged_and_counts(s3_server: servers.S3Server) -> None:
    with before(s3_server) as proxy:
        assert put(s3_server, "plain", DATA, proxy.port) == 200
        assert get(s3_server, "plain", proxy.port) == DATA
        assert s3_server.request("HEAD", "/data/plain", port=proxy.port) == (200, b"")
        assert s3_server.request("DELETE", "/data/plain", port=proxy.port)[0] == 204
        assert proxy.counts.requests == {"PUT": 1, "GET": 1, "HEAD": 1, "DELETE": 1}
        assert [r.path for r in proxy.requests] == ["/data/plain"] * 4
        assert proxy.counts.sent > len(DATA)
        assert proxy.counts.received > len(DATA)


def test_http_flip_in_an_answer(s3_server: servers.S3Server) -> None:
    put(s3_server, "flip", DATA)
    with before(s3_server, Flip(times=1), seed=5) as proxy:
        (hit,) = different_bits(DATA, get(s3_server, "flip", proxy.port))
        assert hit == (proxy.injected[0].at, 1)
        assert get(s3_server, "flip", proxy.port) == DATA


def test_http_flip_in_a_request(s3_server: servers.S3Server) -> None:
    with before(s3_server, Flip(direction="up", at=10)) as proxy:
        put(s3_server, "flip-up", DATA, proxy.port)
        assert different_bits(DATA, get(s3_server, "flip-up")) == [(10, 1)]


def test_http_truncate_looks_whole(s3_server: servers.S3Server) -> None:
    put(s3_server, "cut", DATA)
    with before(s3_server, Truncate(at=5000)) as proxy:
        assert get(s3_server, "cut", proxy.port) == DATA[:5000]


def test_http_duplicate_keeps_the_length(s3_server: servers.S3Server) -> None:
    put(s3_server, "twice", DATA)
    with before(s3_server, Duplicate(at=-30_000, size=1000)) as proxy:
        at = len(DATA) - 30_000
        expected = DATA[: at + 1000] + DATA[at : at + 1000] + DATA[at + 2000 :]
        assert get(s3_server, "twice", proxy.port) == expected


def test_http_duplicate_inserted_lengthens(s3_server: servers.S3Server) -> None:
    put(s3_server, "longer", DATA)
    with before(s3_server, Duplicate(at=0, size=1000, inserted=True)) as proxy:
        assert get(s3_server, "longer", proxy.port) == DATA[:1000] + DATA


def test_http_cut_in_an_answer(s3_server: servers.S3Server) -> None:
    put(s3_server, "reset", DATA)
    with before(s3_server, Cut(at=150_000, times=1)) as proxy:
        with pytest.raises(UnavailableError):
            get(s3_server, "reset", proxy.port)
        assert get(s3_server, "reset", proxy.port) == DATA


def test_http_swallow(s3_server: servers.S3Server) -> None:
    put(s3_server, "hole", DATA)
    with before(s3_server, Swallow(at=100)) as proxy, pytest.raises(UnavailableError, match="timed out"):
        ask(proxy.port, "GET", "/data/hole", headers=_signed(s3_server, "GET", "/data/hole"), timeout_s=0.5)


def _signed(server: servers.S3Server, method: str, path: str) -> dict[str, str]:
    from rh.testing.servers.web import signature_v4

    host = f"127.0.0.1:{server.port}"
    return signature_v4(method, host, path, access_key=server.access_key, secret_key=server.secret_key)


def test_http_status_does_not_reach_the_server(s3_server: servers.S3Server) -> None:
    busy = Status(code=503, times=1, headers={"Retry-After": "1"}, body=b"<Error/>", match=lambda r: r.method == "PUT")
    with before(s3_server, busy) as proxy:
        assert s3_server.request("PUT", "/data/busy", body=DATA, port=proxy.port) == (503, b"<Error/>")
        assert s3_server.request("HEAD", "/data/busy")[0] == 404
        assert put(s3_server, "busy", DATA, proxy.port) == 200
        assert proxy.counts.faults == {"Status": 1}


def test_http_status_on_a_connection_that_goes_on(s3_server: servers.S3Server) -> None:
    with before(s3_server, Status(code=500, times=1)) as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5)
        headers = _signed(s3_server, "GET", "/data")
        statuses = []
        for _ in range(2):
            connection.request("GET", "/data", headers=headers)
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()
        assert statuses == [500, 200]
        assert proxy.counts.connections == 1


def test_http_drop_answer_after_success(s3_server: servers.S3Server) -> None:
    with before(s3_server, DropAnswer(times=1)) as proxy:
        with pytest.raises(UnavailableError):
            put(s3_server, "lost", DATA, proxy.port)
        assert get(s3_server, "lost") == DATA


def test_http_drop_answer_spares_failures(s3_server: servers.S3Server) -> None:
    with before(s3_server, DropAnswer()) as proxy:
        assert s3_server.request("GET", "/data/nothing", port=proxy.port)[0] == 404
        assert not proxy.injected


@pytest.mark.parametrize("answer", ["first", "second"])
def test_http_repeat(moto_server: servers.MotoServer, answer: str) -> None:
    bucket = moto_server.make_bucket(f"repeat-{answer}").removeprefix("s3://")
    with FaultProxy(moto_server.port, [Repeat(answer=answer)], http=True) as proxy:
        status = _create_only(moto_server, f"/{bucket}/once", proxy.port)
        # The server saw it twice and refused the second: whoever hears that answer must not call it a conflict.
        assert status == (200 if answer == "first" else 412)
        assert proxy.counts.requests["PUT"] == 1
        assert moto_server.request("GET", f"/{bucket}/once") == (200, DATA)
        assert ask(proxy.port, "GET", f"/{bucket}/once", headers=_signed(moto_server, "GET", "/"))[0] == 200
        assert proxy.counts.faults == {"Repeat": 1}


def _create_only(server: servers.MotoServer, path: str, port: int) -> int:
    headers = {**_signed(server, "PUT", path), "If-None-Match": "*"}
    return ask(port, "PUT", path, body=DATA, headers=headers)[0]


def test_http_probability_by_request_is_reproducible_over_threads(s3_server: servers.S3Server) -> None:
    keys = [f"p{i}" for i in range(40)]
    for key in keys:
        put(s3_server, key, b"x" * 100)

    def failed() -> set[str]:
        with before(s3_server, Status(probability=0.3), seed=9) as proxy:
            lost: set[str] = set()

            def work(mine: list[str]) -> None:
                for key in mine:
                    if s3_server.request("GET", f"/data/{key}", port=proxy.port)[0] == 503:
                        lost.add(key)

            threads = [threading.Thread(target=work, args=(keys[i::4],)) for i in range(4)]
            for one in threads:
                one.start()
            for one in threads:
                one.join()
            return lost

    first = failed()
    assert first == failed()
    assert 4 <= len(first) <= 22


def test_http_rewrite(gcs_server: servers.GCSServer) -> None:
    with FaultProxy(gcs_server.port, http=True, rewrite=True) as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5)
        path = "/upload/storage/v1/b/data/o?uploadType=resumable&name=rewritten"
        connection.request("POST", path, body=b"{}", headers={"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        place = answer.headers["Location"]
        connection.close()
        assert answer.status == 200
        assert f"127.0.0.1:{proxy.port}" in place
        target = place.partition(str(proxy.port))[2]
        assert ask(proxy.port, "PUT", target, body=DATA)[0] == 200
        assert ask(gcs_server.port, "GET", "/storage/v1/b/data/o/rewritten?alt=media") == (200, DATA)


def test_http_chunked_bodies(echo_http: Callable[[], int]) -> None:
    port = echo_http()
    with FaultProxy(port, [Flip(direction="up", at=5, bit=0)], http=True) as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5)
        connection.request("POST", "/", body=iter([b"abc", b"defghi"]), encode_chunked=True)
        body = connection.getresponse().read()
        connection.close()
        assert body == b"abcdegghi"


@pytest.fixture
def echo_http() -> Iterator[Callable[[], int]]:
    """A web server that answers a chunked request with the same body, chunked."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(0, len(body), 4):
                piece = body[at : at + 4]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield lambda: server.server_address[1]
    server.shutdown()
    server.server_close()


def test_ssh_notices_a_flipped_bit(ssh_a: servers.SSHServer) -> None:
    with FaultProxy(ssh_a.port, [Flip(at=60_000)]) as proxy:
        ssh_a.settings(via=proxy.port)
        command = ssh_a.ssh("head -c 1000000 /dev/zero")
        command[1:1] = ["-p", str(proxy.port)]
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
        assert done.returncode != 0
        assert b"message authentication code incorrect" in done.stderr
        assert proxy.counts.faults == {"Flip": 1}


def test_digest_of_a_large_body_through_http(s3_server: servers.S3Server) -> None:
    data = random.Random(2).randbytes(8 << 20)
    with before(s3_server) as proxy:
        assert put(s3_server, "large", data, proxy.port) == 200
        assert hashlib.sha256(get(s3_server, "large", proxy.port)).digest() == hashlib.sha256(data).digest()
