"""Part of `rh.testing.systems`: what its tests are made of."""

from __future__ import annotations

import os
import random
import select
import signal
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from rh.errors import (
    RhError,
    UnsupportedError,
)
from rh.systems.abilities import (
    Bulk,
    Item,
)
from rh.systems.base import System
from rh.systems.wrap import unwrap
from rh.types import Entry, Link, Outcome, SignedRequest

ODD_KEYS: tuple[str, ...] = (
    "two words",
    " lead and trail ",
    "quote'\"`",
    "semi;colon&and|pipe",
    "$(touch x)${HOME}",
    "percent%2Fslash%00",
    "plus+and=eq?query#hash",
    "-rf",
    "--",
    "~home",
    "star*[glob]?{a,b}",
    "back\\slash",
    "tab\there",
    "new\nline",
    "bell\x07",
    "del\x7f",
    "<xml>&amp;",
    "comma,colon:at@",
    "emoji 😀",
    "nfc é",
    "nfd e\u0301",
    "right\u202eleft",
    "～fullwidth",
    ".dot",
    "...",
    "dir with space/-x/;y",
    "n" * 255,
)
"""Keys every system holds exactly, unless its suite declares that it refuses one."""

FLAT_KEYS: tuple[str, ...] = ("a//b", "a///", "b/./c", "b/../c", "/lead")
"""Keys that only a place with a flat name space can hold; it may refuse them all the same."""

ESCAPES: tuple[str, ...] = ("../evil", "/evil", "..", "x/../../evil", "./../evil")

ORDERED: tuple[str, ...] = (
    "A",
    "a-b",
    "a.b",
    "a/b",
    "a/c/d",
    "a/c/e",
    "a/c.d",
    "a/c0",
    "a0",
    "ab",
    "aé",
    "b",
    "c/d/e/f",
    "z～",
    "z😀",
    "zz/y",
)


class BrokenError(Exception):
    """Raised by a test's own stream of bytes: a writer must let it through unchanged."""


def expected_listing(
    keys: Iterable[str], prefix: str = "", after: str = "", depth: int | None = None
) -> list[tuple[str, str]]:
    """The listing the contract asks for, as `(key, kind)`, of a place that holds files under `keys`."""
    found: dict[str, str] = {}
    for key in keys:
        if not key.startswith(prefix):
            continue
        rest = key[len(prefix) :]
        if depth is not None and rest.count("/") >= depth:
            found[prefix + "/".join(rest.split("/")[:depth]) + "/"] = "dir"
        else:
            found[key] = "file"
    order = sorted(found, key=os.fsencode)
    return [(key, found[key]) for key in order if os.fsencode(key) > os.fsencode(after)]


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not repeat, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def pieces(data: bytes, step: int = 1 << 20) -> Iterator[bytes]:
    """The bytes as a one-shot stream."""
    for at in range(0, len(data), step):
        yield data[at : at + step]


def same(written: Entry, stored: Entry) -> bool:
    """Whether the answer to a write is the entry as stored; times are for people, and servers tell several."""
    return written._replace(modified=None) == stored._replace(modified=None)


def shown(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    return [(entry.key, entry.kind) for entry in entries]


def split(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def send(request: SignedRequest, data: bytes | None = None) -> tuple[int, Mapping[str, str], bytes]:
    """Send a signed request with nothing but the standard library, as a stranger would."""
    from urllib.request import Request, urlopen

    query = Request(request.url, data=data, method=request.method, headers=dict(request.headers))
    with urlopen(query, timeout=30) as answer:
        return answer.status, answer.headers, answer.read()


def in_child(work: Callable[[], None], timeout_s: float = 30.0) -> None:
    """Run `work` in a forked child; its exception, or its hanging, fails the test."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reader)
            try:
                work()
                status = 0
            except BaseException:  # noqa: BLE001  (whatever it is, the parent reports it)
                os.write(writer, traceback.format_exc().encode()[-60_000:])
        finally:
            os._exit(status)
    os.close(writer)
    try:
        text = b""
        until = time.monotonic() + timeout_s
        while select.select([reader], [], [], max(0.0, until - time.monotonic()))[0]:
            more = os.read(reader, 65536)
            if not more:
                break
            text += more
        else:
            os.kill(child, signal.SIGKILL)
            text = f"the child did not finish within {timeout_s} s".encode()
    finally:
        os.close(reader)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, text.decode("utf-8", "replace")


def by_key(outcomes: Iterable[Outcome]) -> dict[str, Outcome]:
    """Outcomes by their key; a key that comes twice is an error."""
    found: dict[str, Outcome] = {}
    for outcome in outcomes:
        assert outcome.key not in found, f"two outcomes for {outcome.key!r}"
        found[outcome.key] = outcome
    return found


class Held(dict[str, bytes]):
    """What a web server holds, by path; `ranges` counts the requests for parts of it."""

    def __init__(self, held: Mapping[str, bytes]) -> None:
        super().__init__(held)
        self.ranges: Counter[str] = Counter()


@contextmanager
def web(tree: Mapping[str, bytes]) -> Iterator[tuple[str, Held]]:
    """A web server on loopback that gives what it holds and keeps what it is given: its address, and what it holds."""
    held = Held(tree)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            from urllib.parse import unquote

            data = held.get(unquote(self.path))
            status = 404
            if data is not None:
                status, span = 200, self.headers.get("Range")
                if span is not None:
                    first, _, last = span.removeprefix("bytes=").partition("-")
                    held.ranges[unquote(self.path)] += 1
                    start, stop = int(first), min(int(last) + 1, len(data)) if last else len(data)
                    told = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
                    return self.answer(206, data[start:stop], told)
            return self.answer(status, data or b"")

        def do_PUT(self) -> None:
            held[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(200, b"", {"ETag": f"tag-{self.path}"})

        def answer(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", held
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Suite:
    """What the parts of the suite share; `SystemSuite` says what the attributes mean."""

    keeps: ClassVar[frozenset[str]] = frozenset()
    conditions: ClassVar[frozenset[str]] = frozenset({"absent", "match"})
    abilities: ClassVar[frozenset[Any]] = frozenset()
    flat: ClassVar[bool] = True
    refused: ClassVar[Mapping[str, type[RhError]]] = {}
    writable: ClassVar[bool] = True
    large: ClassVar[int] = 17 * 1024 * 1024

    @pytest.fixture
    def system(self) -> System:
        raise NotImplementedError("a subclass gives the fixture `system`")

    def put(self, system: System, tree: Mapping[str, bytes]) -> None:
        """Make the place hold these files. Read-only systems override this."""
        bulk = system.ask(Bulk)
        if bulk is not None and len(tree) > 50:
            outcomes = list(bulk.write_many(Item(key, data) for key, data in tree.items()))
            assert [outcome.error for outcome in outcomes if outcome.error] == []
        elif len(tree) > 50:
            first, *others = tree.items()
            system.write(*first)  # what the place makes for the first one is not made by eight at once
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda item: system.write(*item), others))
        else:
            for key, data in tree.items():
                system.write(key, data)

    def link(self, system: System, links: Mapping[str, str]) -> None:
        """Make the place hold these links. Read-only systems override this."""
        for key, target in links.items():
            system.write(key, Link(target))

    def again(self, system: System) -> System:
        """A second handle on the same place, as another process would open it."""
        inner = unwrap(system)
        return type(inner).open(system.location, system.settings)

    def refuses_to_write(self, system: System) -> None:
        with pytest.raises(UnsupportedError):
            system.write("x", b"1")
        with pytest.raises(UnsupportedError):
            system.delete(["x"])

    def given(self, system: System, protocol: type[Any]) -> Any:
        """The ability if it is declared; else `None`, and `ask` must say so too."""
        found = system.ask(protocol)
        assert (found is not None) == (protocol in self.abilities)
        return found
