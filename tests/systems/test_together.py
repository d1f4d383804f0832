"""Many requests at once on one thread: whatever one answer is like, the others are not the worse for it."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from rh.errors import DeadlineError, IntegrityError, InvalidError, RhError, UnavailableError
from rh.systems.objects.http import Pool, parse_endpoint
from rh.systems.objects.together import Call, Response, together
from tests.systems.test_gcs import self_signed

pytestmark = pytest.mark.slow  # they wait for deadlines

Speak = Callable[[socket.socket, str, bytes], bool]
"""Answers a request, given its path and body; whether the connection stays open."""


class Server:
    """A TCP server that speaks as it is told, and counts connections and requests under way."""

    def __init__(self, speak: Speak, tls: ssl.SSLContext | None = None) -> None:
        self.speak, self.tls = speak, tls
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self.listening.getsockname()[1]
        self.lock = threading.Lock()
        self.connections = self.now = self.most = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listening.close()

    def pool(self, timeout_s: float = 10.0, **more: Any) -> Pool:
        scheme, host = ("https", "localhost") if self.tls else ("http", "127.0.0.1")
        return Pool(parse_endpoint(f"{scheme}://{host}:{self.port}"), timeout_s, **more)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listening.accept()
            except OSError:
                return
            with self.lock:
                self.connections += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
            with sock, sock.makefile("rb") as reader:
                while first := reader.readline():
                    length = 0
                    while (line := reader.readline().strip().lower()) != b"":
                        length = int(line[15:]) if line.startswith(b"content-length:") else length
                    body = reader.read(length)
                    with self.lock:
                        self.now += 1
                        self.most = max(self.most, self.now)
                    stays = self.speak(sock, first.split()[1].decode(), body)
                    with self.lock:
                        self.now -= 1
                    if not stays:
                        return
        except OSError:
            return


def plain(data: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nETag: x\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(data), data)


def echo(sock: socket.socket, path: str, body: bytes) -> bool:
    sock.sendall(plain(path.encode() + body))
    return True


def get(path: str, limit: int = 1 << 20) -> Call:
    return Call("GET", path, {}, b"", path, limit)


def put(path: str, body: bytes) -> Call:
    return Call("PUT", path, {}, body, path, 1 << 20)


def ask(pool: Pool, calls: Iterator[Call], workers: int = 8) -> dict[str, Response | RhError]:
    found: dict[str, Response | RhError] = {}
    for tag, answer in together(pool, ((call.target, call) for call in calls), workers=workers):
        assert tag not in found, "each is answered once"
        found[tag] = answer
    pool.close()
    return found


def data_of(answer: Response | RhError) -> bytes | None:
    assert isinstance(answer, Response), answer
    return answer.data


@pytest.mark.parametrize("workers", [1, 3, 16])
def test_so_many_at_once_and_no_more(workers: int) -> None:
    with Server(echo) as server:
        found = ask(server.pool(), (put(f"/{n}", b"%d" % (n * n)) for n in range(300)), workers)
        assert {path: data_of(answer) for path, answer in found.items()} == {
            f"/{n}": b"/%d%d" % (n, n * n) for n in range(300)
        }
        assert server.most <= workers
        assert server.connections <= workers, "connections are used again"


def test_they_are_taken_as_room_is() -> None:
    taken: list[int] = []

    def calls() -> Iterator[tuple[int, Call]]:
        for n in range(1000):
            taken.append(n)
            yield n, get(f"/{n}")

    with Server(echo) as server:
        answers = together(server.pool(), calls(), workers=4)
        for _ in range(10):
            next(answers)
        assert len(taken) <= 10 + 2 * 4
        answers.close()  # type: ignore[attr-defined]


def test_what_is_an_error_already_is_handed_on() -> None:
    with Server(echo) as server:
        wrong = InvalidError("no such name")
        given: list[tuple[int, Call | RhError]] = [(n, wrong if n % 3 == 0 else get(f"/{n}")) for n in range(30)]
        found = dict(together(server.pool(), iter(given), workers=4))
    assert {n for n, answer in found.items() if answer is wrong} == set(range(0, 30, 3))
    assert len(found) == 30


def odd(sock: socket.socket, path: str, body: bytes) -> bool:
    kind = path.rpartition("/")[2]
    match kind:
        case "chunked":
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            time.sleep(0.05)
            sock.sendall(b"2\r\nde\r\n0\r\n\r\n")
        case "to-the-end":
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nabcde")
            return False
        case "interim":
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + plain(b"abcde"))
        case "byte-by-byte":
            for byte in plain(b"abcde"):
                sock.sendall(bytes([byte]))
                time.sleep(0.002)
        case "long":
            sock.sendall(plain(b"x" * 300_000))
        case "talks-on":
            sock.sendall(plain(b"abcde") + b"and more")
        case "closes":
            return False
        case "cut":
            sock.sendall(plain(b"abcde")[:-2])
            return False
        case "no-http":
            sock.sendall(b"220 smtp.example ESMTP\r\n\r\n")
        case "folded":
            sock.sendall(b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n")
        case "refused":
            sock.sendall(plain(b"<Error/>", "403 Forbidden"))
        case "stalls":
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab")
            time.sleep(3)
            return False
        case "bad-chunk":
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcde\r\n0\r\n\r\n")
        case "chunked-refusal":
            sock.sendall(
                b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n<Error/>\r\n0\r\nA: b\r\n\r\n"
            )
        case "silent":
            time.sleep(3)
            return False
        case _:
            return echo(sock, path, body)
    return True


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("chunked", b"abcde"),
        ("to-the-end", b"abcde"),
        ("interim", b"abcde"),
        ("byte-by-byte", b"abcde"),
        ("long", b"x" * 300_000),
        ("talks-on", b"abcde"),
        ("refused", b"<Error/>"),
        ("chunked-refusal", b"<Error/>"),
        ("bad-chunk", IntegrityError),
        ("stalls", DeadlineError),
        ("closes", UnavailableError),
        ("cut", UnavailableError),
        ("no-http", IntegrityError),
        ("folded", IntegrityError),
        ("silent", DeadlineError),
    ],
)
def test_an_odd_answer_hurts_no_other(kind: str, expected: bytes | type[RhError]) -> None:
    with Server(odd) as server:
        paths = [f"/{n}/{kind if n % 20 == 7 else 'usual'}" for n in range(100)]
        started = time.monotonic()
        found = ask(server.pool(timeout_s=1.0), map(get, paths), workers=6)
        assert time.monotonic() - started < 8
    assert set(found) == set(paths)
    for path, answer in found.items():
        if path.endswith("usual"):
            assert data_of(answer) == path.encode()
        elif isinstance(expected, bytes):
            assert data_of(answer) == expected
        else:
            assert isinstance(answer, expected)
            assert path in str(answer) or str(server.port) in str(answer)


@pytest.mark.parametrize("kind", ["long", "chunked"])
def test_an_answer_that_is_too_long_is_not_read(kind: str) -> None:
    with Server(odd) as server:
        calls = [get(f"/{n}/{kind}", limit=4) for n in range(5)] + [get(f"/{n}/usual") for n in range(20)]
        found = ask(server.pool(), iter(calls), workers=3)
    assert [data_of(found[f"/{n}/{kind}"]) for n in range(5)] == [None] * 5
    assert [data_of(found[f"/{n}/usual"]) for n in range(20)] == [b"/%d/usual" % n for n in range(20)]


def test_bodies_that_the_other_side_takes_slowly_hold_nobody_up() -> None:
    begun = threading.Event()

    def speak(sock: socket.socket, path: str, body: bytes) -> bool:
        if path == "/slow":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return echo(sock, path, str(len(body)).encode())

    class Slow(Server):
        def _serve(self, sock: socket.socket) -> None:
            if not begun.is_set():
                begun.set()
                time.sleep(1.0)
            super()._serve(sock)

    with Slow(speak) as server:
        body = os.urandom(4 << 20)
        order = []
        calls = [put("/slow", body), *(get(f"/{n}") for n in range(50))]
        for tag, answer in together(server.pool(), ((call.target, call) for call in calls), workers=4):
            order.append(tag)
            if tag == "/slow":
                assert data_of(answer) == b"/slow%d" % len(body)
    assert len(order) == 51


def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = ask(Pool(parse_endpoint(f"http://127.0.0.1:{port}"), 5.0), (get(f"/{n}") for n in range(20)))
    assert len(found) == 20
    assert all(isinstance(answer, UnavailableError) for answer in found.values())
    assert "nothing answers" in str(found["/0"])


def test_fewer_connections_than_wanted_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(echo) as server:
        pool = server.pool()
        made, usual = [], pool.connect

        def connect() -> Any:
            made.append(1)
            if len(made) > 2:
                raise ConnectionResetError("too many")
            return usual()

        monkeypatch.setattr(pool, "connect", connect)
        found = ask(pool, (get(f"/{n}") for n in range(200)), workers=12)
        assert all(isinstance(answer, Response) for answer in found.values())
        assert len(found) == 200
        assert server.connections == 2
        assert len(made) < 40


def test_whoever_stops_in_the_middle_leaves_nothing_behind() -> None:
    with Server(echo) as server:
        pool = server.pool()
        before = threading.active_count()
        answers = together(pool, ((n, get(f"/{n}")) for n in range(1000)), workers=8)
        for _ in range(100):
            next(answers)
        answers.close()  # type: ignore[attr-defined]
        again = ask(pool, (get(f"/{n}") for n in range(100)))
        assert all(data_of(answer) == path.encode() for path, answer in again.items())
        until = time.monotonic() + 5
        while server.now and time.monotonic() < until:
            time.sleep(0.01)
        assert threading.active_count() <= before + server.connections
        assert server.connections < 24, "idle connections were given back"


@pytest.mark.parametrize("after_s", [0.0, 0.03, 1.0])
def test_a_place_that_cannot_be_reached_fails_each_once(after_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where refusals come one after the other, as they do from far away."""
    made: list[int] = []

    def connect() -> Any:
        made.append(1)
        time.sleep(after_s * (1 + len(made) % 7 / 10))
        raise ConnectionRefusedError(111, "refused")

    with Server(echo) as server:
        pool = server.pool()
        monkeypatch.setattr(pool, "connect", connect)
        found = ask(pool, (get(f"/{n}") for n in range(24)), workers=8)
    assert len(found) == 24
    assert all(isinstance(answer, UnavailableError) for answer in found.values())
    assert len(made) <= 24 + 8


def test_a_short_failure_leaves_as_many_workers_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def speak(sock: socket.socket, path: str, body: bytes) -> bool:
        time.sleep(0.02)
        return echo(sock, path, body)

    with Server(speak) as server:
        pool = server.pool()
        made, usual = [], pool.connect

        def connect() -> Any:
            made.append(1)
            if 1 < len(made) <= 8:
                raise ConnectionResetError("a blip")
            return usual()

        monkeypatch.setattr(pool, "connect", connect)
        found = ask(pool, (get(f"/{n}") for n in range(700)), workers=8)
        assert sum(isinstance(answer, Response) for answer in found.values()) >= 690
        assert server.most == 8
        assert len(made) < 40


def slowly(server: Server, pause_s: float, workers: int = 1, count: int = 5, **more: Any) -> list[Response | RhError]:
    def calls() -> Iterator[tuple[int, Call]]:
        for n in range(count):
            time.sleep(pause_s)
            yield n, get(f"/{n}")

    return [answer for _, answer in together(server.pool(**more), calls(), workers=workers)]


def test_what_is_said_unasked_is_nobodys_answer() -> None:
    def speak(sock: socket.socket, path: str, body: bytes) -> bool:
        echo(sock, path, body)
        time.sleep(0.05)
        sock.sendall(plain(b"stray"))
        return True

    with Server(speak) as server:
        assert [data_of(answer) for answer in slowly(server, 0.2)] == [b"/%d" % n for n in range(5)]


@pytest.mark.parametrize("tls", [False, True])
def test_connections_that_are_closed_meanwhile_are_not_used(tls: bool, tmp_path: Path) -> None:
    def speak(sock: socket.socket, path: str, body: bytes) -> bool:
        echo(sock, path, body)
        time.sleep(0.1)
        return False

    path = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with Server(speak, tls=context if tls else None) as server:
        found = slowly(server, 0.25, **({"ca_bundle": str(path)} if tls else {}))
        assert [data_of(answer) for answer in found] == [b"/%d" % n for n in range(5)]


def test_whoever_is_slow_finds_the_answers_that_came_in_time() -> None:
    with Server(echo) as server:
        pool = server.pool(timeout_s=0.5)
        found = []
        for _, answer in together(pool, ((n, get(f"/{n}")) for n in range(40)), workers=8):
            found.append(answer)
            if len(found) == 10:
                time.sleep(1.5)
        assert [answer for answer in found if isinstance(answer, RhError)] == []
        assert [answer for answer in slowly(server, 0.2, 8, 20, timeout_s=0.5) if isinstance(answer, RhError)] == []


def test_a_source_that_fails_takes_no_answer_along() -> None:
    def calls() -> Iterator[tuple[int, Call]]:
        for n in range(30):
            yield n, get(f"/{n}")
        raise ValueError("the source")

    found = []
    with Server(echo) as server, pytest.raises(ValueError, match="the source"):  # noqa: PT012 - what came before counts
        for tag, answer in together(server.pool(), calls(), workers=8):
            assert isinstance(answer, Response)
            found.append(tag)
    assert sorted(found) == list(range(30))


def test_what_is_refused_at_once_is_not_taken_without_end() -> None:
    taken = []

    def calls() -> Iterator[tuple[int, Call | RhError]]:
        for n in range(10_000):
            taken.append(n)
            yield n, InvalidError("no")

    with Server(echo) as server:
        answers = together(server.pool(), calls(), workers=8)
        next(answers)
        assert len(taken) <= 16
        answers.close()  # type: ignore[attr-defined]


def test_a_refusal_is_read_within_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def speak(sock: socket.socket, path: str, body: bytes) -> bool:
        sock.sendall(plain(b"x" * 100_000, "500 Internal Server Error"))
        return True

    with Server(speak) as server:
        assert len(data_of(ask(server.pool(), iter([get("/", limit=4)]))["/"]) or b"") == 100_000
        monkeypatch.setattr("rh.systems.objects.together.ANSWER_LIMIT", 50_000)
        assert isinstance(ask(server.pool(), iter([get("/", limit=4)]))["/"], IntegrityError)


def test_a_call_shows_no_secret() -> None:
    call = Call("GET", "/k?sig=secret", {"authorization": "secret"}, b"secret", "az://c/k", 1)
    assert repr(call) == "<Call GET az://c/k>"


def test_over_tls(tmp_path: Path) -> None:
    path = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with Server(odd, tls=context) as server:
        bodies = {f"/{n}/put": os.urandom(n * 4000) for n in range(60)}
        calls = [put(path, body) for path, body in bodies.items()]
        calls += [get(f"/{n}/{kind}") for n in range(5) for kind in ("long", "chunked", "byte-by-byte", "closes")]
        pool = server.pool(ca_bundle=str(path))
        found = ask(pool, iter(calls), workers=5)
        for path_, body in bodies.items():
            assert data_of(found[path_]) == path_.encode() + body
        for n in range(5):
            assert data_of(found[f"/{n}/long"]) == b"x" * 300_000
            assert data_of(found[f"/{n}/chunked"]) == data_of(found[f"/{n}/byte-by-byte"]) == b"abcde"
            assert isinstance(found[f"/{n}/closes"], UnavailableError)
        assert server.connections < 30


def test_connections_serve_both_ways_of_asking() -> None:
    """What is given back waits again: for single requests, which count on it."""
    with Server(odd) as server:
        pool = server.pool(timeout_s=2.0)
        for answer in together(pool, ((n, get(f"/{n}")) for n in range(40)), workers=2):
            assert isinstance(answer[1], Response)
        single = pool.request("GET", "/9/byte-by-byte", {}, where="/9")
        assert single.read() == b"abcde"
        assert server.connections <= 2
        pool.close()
