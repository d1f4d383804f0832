"""What the far program does with signed URLs: it gets and puts them itself.

The bytes go between this machine and the server; the near side only says which, and hears how it went.

This module runs on the far side: standard library only, Python 3.7 or newer.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import queue
import re
import threading
from contextlib import suppress
from urllib.parse import SplitResult, unquote, urlsplit

from rh.digest import CHUNK, Hasher, chunk_size, combine
from rh.systems.far.checks import checksum, new_md5
from rh.systems.far.files import Root
from rh.systems.far.flush import still_wanted, write_all, write_all_at
from rh.systems.far.http1 import Ended, Line, Malformed, Reply, request_of
from rh.systems.far.program import batches, stat_fields
from rh.systems.far.wire import (
    BIG,
    EXEC,
    NOEXEC,
    OUT,
    OUTCOME,
    PIECE,
    Failure,
    Wire,
    dumps,
)
from rh.systems.far.writer import Writer, digest_field, expect, plain_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from rh.systems.far.wire import Buffer

WORKERS = 8
IN_PARTS = 64 << 20
"""Objects of this size and more are fetched in ranges, by several connections."""
_RANGES = 4
_TIDY_S = 2.0
"""So many seconds may a thread take to remove what it has begun."""
_BLOCK = 256 << 10
_DAMAGED = {b"BadDigest", b"InvalidDigest", b"Md5Mismatch", b"InvalidMd5"}
"""How stores say that they did not receive the bytes that were sent."""
_MD5 = re.compile(r"[0-9a-f]{32}(-\d+)?")
_AZURE = re.compile(r"0x[0-9A-F]+")


class Answer(Reply):
    """An answer to a request of `Web`."""

    __slots__ = ("where",)

    def __init__(self, line: Line, method: str, where: tuple[str, str]) -> None:
        super().__init__(line, method)
        self.where = where

    def readinto(self, buffer: memoryview) -> int:
        """Some of the body, into a buffer: how many bytes; 0 at the end, which may come too early."""
        try:
            return super().readinto(buffer)
        except Ended:
            self._drop()
            if self.left is None:  # else whoever reads knows how much is missing
                raise Failure("unavailable", f"{self.where[1]} closed the connection") from None
            return 0
        except Malformed as error:
            self._drop()
            raise Failure("integrity", f"{self.where[1]} did not answer in HTTP: {error}") from error
        except OSError as error:
            self._drop()
            raise _broken(error, self.where) from error

    def _drop(self) -> None:
        self.stays = False
        self.line.close()

    def read(self, limit: int) -> bytes:
        """The body, or as much of it as the limit allows."""
        buffer = memoryview(bytearray(min(limit, self.left if self.left is not None else limit)))
        at = 0
        while at < len(buffer):
            count = self.readinto(buffer[at:])
            if not count:
                break
            at += count
        return bytes(buffer[:at])


class Web:
    """Kept-alive connections of one thread."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.kept: dict[tuple[str, str], Line] = {}
        self.proxies: dict[tuple[str, str], str | None] = {}

    def ask(
        self,
        signed: list[Any],
        more: dict[str, str],
        body: Callable[[], Iterable[Buffer]] | None = None,
        length: int = 0,
    ) -> Answer:
        """The answer to a request, with a body of so many bytes that `body` gives each time it is called.

        A kept connection that turns out to be closed is replaced, once.
        """
        method, url, headers = signed
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Failure("invalid", "only http and https are fetched")
        where = (parts.scheme, parts.netloc.rpartition("@")[2])
        sent = {name.lower(): value for name, value in list(more.items()) + [tuple(pair) for pair in headers]}
        sent.pop("content-length", None)
        usual = {"http": ":80", "https": ":443"}[parts.scheme]
        sent.setdefault("host", where[1][: -len(usual)] if where[1].endswith(usual) else where[1])  # noqa: FURB188 - 3.7
        target = parts.path or "/"
        if parts.query:
            target += "?" + parts.query
        proxy = self._proxy(*where)
        if proxy and parts.scheme == "http":
            target = f"http://{where[1]}{target}"
            sent.update(_login(urlsplit(proxy)))
        if any(sign in text for text in (method, target, *sent, *sent.values()) for sign in "\r\n"):
            raise Failure("invalid", "a header with a line break")
        head = request_of(method, target, "", sent, None if body is None else length)
        while True:
            kept = self.kept.pop(where, None)
            line = kept or self._connect(*where)
            try:
                try:
                    line.send(head, body() if body is not None else (), length)
                except (BrokenPipeError, ConnectionResetError):
                    # The server may have answered before it had everything, and closed: hear what it said.
                    if kept is not None:
                        raise
                return Answer(line, method, where)
            except (BrokenPipeError, ConnectionResetError, Ended) as error:
                line.close()
                if kept is None:
                    raise Failure("unavailable", f"{where[1]} closed the connection") from error
            except Malformed as error:
                line.close()
                raise Failure("integrity", f"{where[1]} did not answer in HTTP: {error}") from error
            except OSError as error:
                line.close()
                raise _broken(error, where) from error

    def _connect(self, scheme: str, place: str) -> Line:
        """A connection as the standard library makes it."""
        proxy = self._proxy(scheme, place)
        secure = http.client.HTTPSConnection
        kind = secure if scheme == "https" else http.client.HTTPConnection
        try:
            if proxy:
                through = urlsplit(proxy)
                made: Any = kind(through.hostname or "", through.port or 8080, timeout=self.timeout_s)
                if scheme == "https":
                    made.set_tunnel(place, headers=_login(through))
            else:
                made = kind(place, timeout=self.timeout_s)
        except (ValueError, http.client.InvalidURL):
            raise Failure("invalid", "not a URL of a host") from None
        try:
            made.connect()
        except OSError as error:
            made.close()
            raise _broken(error, (scheme, place)) from error
        except (ValueError, http.client.HTTPException) as error:  # a name that is none; what no proxy should say
            made.close()
            raise Failure("unavailable", f"{place}: {type(error).__name__} {error}") from error
        return Line(made.sock, self.timeout_s)

    def _proxy(self, scheme: str, place: str) -> str | None:
        """Who connects for us, if the environment says so."""
        if (scheme, place) not in self.proxies:
            from urllib.request import getproxies, proxy_bypass

            found = None if proxy_bypass(place) else getproxies().get(scheme)
            self.proxies[scheme, place] = found and (found if "://" in found else "http://" + found)
        return self.proxies[scheme, place]

    def done(self, answer: Answer) -> None:
        """The answer is not of interest any more: keep its connection if that costs little."""
        over = not answer.read(_BLOCK) or not answer.read(1)
        if over and answer.stays and not answer.line.rest:
            self.kept[answer.where] = answer.line
        else:
            answer.line.close()

    def refuse(self, answer: Answer) -> Failure:
        """The error that a status stands for."""
        code = re.search(rb"<Code>([A-Za-z0-9.]{1,60})</Code>", answer.read(65536))
        answer.line.close()
        reason = code.group(1).decode() if code else http.client.responses.get(answer.status, "")
        text = f"{answer.where[1]} answered {answer.status} {reason}"
        kinds = {401: "access", 403: "access", 404: "not_found", 409: "conflict", 410: "not_found", 412: "conflict"}
        kinds.update(
            {400: "invalid", 405: "unsupported", 413: "full", 416: "conflict", 501: "unsupported", 507: "full"}
        )
        damaged = code is not None and code.group(1) in _DAMAGED
        return Failure("integrity" if damaged else kinds.get(answer.status, "unavailable"), text[:200])

    def close(self) -> None:
        """Close every connection."""
        for line in self.kept.values():
            line.close()


def _login(proxy: SplitResult) -> dict[str, str]:
    """The header that logs in to a proxy."""
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"proxy-authorization": "Basic " + base64.b64encode(pair).decode()}


def _broken(error: OSError, where: tuple[str, str]) -> Failure:
    """The error for what happened to a connection. `timeout` is what old Pythons call it."""
    if isinstance(error, (TimeoutError, BlockingIOError)) or type(error).__name__ == "timeout":
        return Failure("deadline", f"{where[1]} does not answer")
    if type(error).__name__ == "SSLCertVerificationError":
        return Failure("access", f"the certificate of {where[1]} was refused: {error}")
    return Failure("unavailable", f"{where[1]}: {error}")


def crew(wire: Wire, work: Callable[[Any], None]) -> None:
    """Hand the near side's items, numbered, to threads that run `work` on a queue of them; `None` ends a queue."""
    waiting: queue.Queue[Any] = queue.Queue()
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []
    ended: queue.SimpleQueue[None] = queue.SimpleQueue()  # a `join` that a signal broke cannot be begun again

    def run() -> None:
        try:
            work(waiting)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that answers
            errors.append(error)
        finally:
            ended.put(None)

    def finish(patience_s: float | None) -> None:
        for _ in threads:
            waiting.put(None)
        while threads:
            ended.get(timeout=patience_s)
            threads.pop()

    number = 0
    try:
        for items in batches(wire):
            for item in items:
                waiting.put((number, item))
                number += 1
                if len(threads) < WORKERS:
                    thread = threading.Thread(target=run, daemon=True)
                    thread.start()
                    threads.append(thread)
        finish(None)
    except BaseException as error:
        with suppress(queue.Empty):
            while True:
                waiting.get_nowait()
        # Threads remove what they have begun, but who is told to leave does not wait for servers.
        with suppress(queue.Empty):
            finish(_TIDY_S if isinstance(error, (EOFError, SystemExit)) else None)
        raise
    if errors:
        raise errors[0]


def fetch(wire: Wire, root: bytes, flush: bool, timeout_s: float) -> None:  # noqa: FBT001 - a request's fields
    """`Fetching.fetch_many`: items are the number of the first file, files and parts.

    A file is its key, source (size, etag, executable, checksum) and, where there is one part and it is a range, the
    place in that where it begins. A part is start, stop and request; a start of -1 is the whole of what is there.
    """
    from rh.systems.far.ranges import write_joined, write_run

    def work(waiting: Any) -> None:
        place, web = Root(root), Web(timeout_s)
        writer = Writer(place, lambda records: wire.send(OUT, records), flush=flush)
        try:
            while True:
                if waiting.empty():
                    writer.commit()
                found = waiting.get()
                if found is None:
                    break
                _, (number, files, parts) = found
                if len(parts) == 1 and parts[0][0] >= 0:
                    write_run(web, writer, number, parts[0], files)
                    continue
                ((key, source, _),) = files
                try:
                    if len(parts) == 1:
                        _fetch(web, writer, number, key, source, parts[0][2])
                    else:
                        write_joined(web, writer, number, key, source, parts)
                except (OSError, Failure) as error:
                    writer.fail(number, error, key)
            writer.commit()
        finally:
            writer.abort()
            place.close()
            web.close()

    crew(wire, work)


def _fetch(web: Web, writer: Writer, number: int, key: bytes, source: list[Any], signed: list[Any]) -> None:
    size, want, executable, check = source
    flags = EXEC if executable else NOEXEC
    if size >= IN_PARTS and _in_ranges(web, writer, number, key, source, signed):
        return
    answer = web.ask(signed, {"Accept-Encoding": "identity"})
    if answer.status != 200:
        raise web.refuse(answer)
    _same(answer, want, key)
    check = _unless_encrypted(check, answer)
    if 0 <= size <= PIECE:
        data = answer.read(size + 1)
        if len(data) != size:
            answer.line.close()
            raise _other_size(answer, len(data), size, key)
        web.done(answer)
        digest = plain_digest(check)
        if not digest:
            _vouched(check, lambda start, stop: data[start:stop], size, key)
        writer.put(number, key, flags, data, digest)
        return
    file = writer.create(key, flags)
    try:
        hasher = Hasher(size if size >= 0 else None)
        buffer = memoryview(bytearray(_BLOCK))
        while True:
            count = answer.readinto(buffer)
            if not count:
                break
            hasher.update(buffer[:count])
            write_all(file, buffer[:count])
        if size >= 0 and hasher.size != size:
            answer.line.close()
            raise _other_size(answer, hasher.size, size, key)
        if check:
            _vouched(check, lambda start, stop: os.pread(file, stop - start, start), hasher.size, key)
        found = hasher.finish()
        expect(check, found.text, key)
    except BaseException:
        writer.drop(file)
        raise
    web.done(answer)
    writer.add(number, key, file, digest_field(*found), b"", hasher.size)


def _vouched(check: bytes, read: Callable[[int, int], bytes], size: int, key: bytes) -> None:
    """Hold what came against the checksum that the store vouches for, if it does."""
    name, _, value = check.decode().partition(":")
    told = name == "sha256" and size <= CHUNK  # that is the digest, which `expect` compares
    got = None if told else checksum(name, read, size)
    if got is not None and got != value:
        raise Failure("integrity", "what came is not what the store has", key)


def _unless_encrypted(check: bytes, answer: Any) -> bytes:
    """The checksum that an etag is, where its object turns out not to be encrypted with a key of the customer's."""
    if not check.startswith(b"etag:"):
        return check
    customer = answer.headers.get("x-amz-server-side-encryption-customer-algorithm")
    if customer or (answer.headers.get("x-amz-server-side-encryption") or "").startswith("aws:kms"):
        return b""
    return b"md5:" + check.partition(b":")[2]


def _other_size(answer: Any, got: int, size: int, key: bytes) -> Failure:
    told = answer.headers.get("content-length")
    if told is not None and told.isdigit() and int(told) == size:
        return Failure("unavailable", f"the connection broke after {got} of {size} bytes", key)
    return Failure("conflict", f"it has {told or got} bytes now, not {size}", key)


def _same(answer: Any, want: bytes, key: bytes) -> None:
    """Refuse an answer that is recognisably of another version than the one listed."""
    listed, got = want.decode("utf-8", "replace").strip('"'), (answer.headers.get("etag") or "").strip('"')
    generation = answer.headers.get("x-goog-generation")
    if listed.isdigit() and generation is not None:
        changed = listed != generation
    else:
        changed = listed != got and any(kind.fullmatch(listed) and kind.fullmatch(got) for kind in (_MD5, _AZURE))
    if changed:
        answer.line.close()
        raise Failure("conflict", "it has changed", key)


def _in_ranges(web: Web, writer: Writer, number: int, key: bytes, source: list[Any], signed: list[Any]) -> bool:
    """Fetch a large object in ranges of its digest's chunks. False where the server gives no ranges."""
    size, want, executable, check = source
    chunk = chunk_size(size)
    file = writer.create(key, EXEC if executable else NOEXEC)
    digests: dict[int, bytes] = {}
    tags: set[Any] = set()

    def one(web: Web, start: int) -> bool:
        stop = min(start + chunk, size)
        answer = web.ask(signed, {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"})
        if answer.status == 200:
            answer.line.close()
            return False
        if answer.status != 206:
            raise web.refuse(answer)
        _same(answer, want, key)
        if answer.headers.get("content-range") != f"bytes {start}-{stop - 1}/{size}":
            answer.line.close()
            raise Failure("conflict", "it has another size now", key)
        tags.add(answer.headers.get("etag"))
        state, at = hashlib.sha256(), start
        buffer = memoryview(bytearray(_BLOCK))
        while at < stop:
            count = answer.readinto(buffer[: stop - at])
            if not count:
                answer.line.close()
                raise Failure("unavailable", f"the connection broke at byte {at}", key)
            state.update(buffer[:count])
            write_all_at(file, buffer[:count], at)
            at += count
        web.done(answer)
        digests[start] = state.digest()
        return True

    try:
        if not one(web, 0):
            writer.drop(file)
            return False
        side_by_side(range(chunk, size, chunk), one, web.timeout_s)
        if len(tags) != 1:
            raise Failure("conflict", "it changed while it was fetched", key)
        if check:
            _vouched(check, lambda start, stop: os.pread(file, stop - start, start), size, key)
        digest = combine(b"".join(digests[start] for start in range(0, size, chunk)), chunk)
        expect(check, digest.text, key)
    except BaseException:
        if file in writer.open:
            writer.drop(file)
        raise
    writer.add(number, key, file, digest_field(*digest), b"", size)
    return True


def side_by_side(todo: Iterable[Any], one: Callable[[Web, Any], Any], timeout_s: float) -> None:
    """Run `one` on each thing, with some connections at once; the first error ends it."""
    left = iter(todo)
    lock = threading.Lock()
    errors: list[BaseException] = []

    def run() -> None:
        web = Web(timeout_s)
        try:
            while not errors:
                with lock:
                    thing = next(left, None)
                if thing is None:
                    return
                one(web, thing)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)
        finally:
            web.close()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(_RANGES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def send(wire: Wire, root: bytes, timeout_s: float) -> None:
    """`Fetching.send_many`: items are key, etag and spans (start, stop, request)."""

    def work(waiting: Any) -> None:
        place, web = Root(root, follow=True), Web(timeout_s)
        told = Writer(place, lambda records: wire.send(OUT, records), flush=False)
        try:
            while True:
                if waiting.empty() or len(told.records) >= 16:
                    told.commit()
                found = waiting.get()
                if found is None:
                    break
                number, (key, want, spans) = found
                try:
                    told.records.append(_send(web, place, number, key, want, spans))
                except (OSError, Failure) as error:
                    told.fail(number, error, key)
            told.commit()
        finally:
            place.close()
            web.close()

    crew(wire, work)


def _send(web: Web, place: Root, number: int, key: bytes, want: bytes, spans: list[Any]) -> bytes:
    file, found = place.read(key, want)
    size = found.st_size
    chunk = chunk_size(size)
    step = chunk or CHUNK
    digests: dict[int, bytes] = {}
    tags: dict[int, str] = {}
    md5s: dict[int, bytes] = {}

    def one(web: Web, span: Any) -> None:
        start, stop, signed = span
        if not 0 <= start <= stop <= size:
            raise Failure("conflict", "it has another size now", key)

        def body() -> Iterator[bytes]:
            # From the beginning each time: a stale connection makes us send it again.
            at = start
            while at < stop:
                first, state = at, hashlib.sha256()
                end = min(stop, at - at % step + step)
                while at < end:
                    still_wanted()  # a request that breaks off stores nothing
                    data = os.pread(file, min(_BLOCK, end - at), at)
                    if not data:
                        raise Failure("conflict", "it became shorter while it was read", key)
                    state.update(data)
                    yield data
                    at += len(data)
                if first % step == 0 and (end == size or end % step == 0):
                    digests[first] = state.digest()

        # The store refuses other bytes than these. Not all do: whoever asked compares what the store then has, too.
        md5s[start] = _md5(file, start, stop)
        headers = {"Content-MD5": base64.b64encode(md5s[start]).decode()}
        answer = web.ask(signed, headers, body, stop - start)
        if not 200 <= answer.status < 300:
            raise web.refuse(answer)
        tags[start] = answer.headers.get("etag") or ""
        web.done(answer)
        tag = tags[start].strip('"')
        encrypted = answer.headers.get("x-amz-server-side-encryption")
        if len(spans) > 1 and _MD5.fullmatch(tag) and tag != md5s[start].hex() and not encrypted:
            raise Failure("integrity", "the store received other bytes than were sent", key)

    try:
        if len(spans) == 1:
            one(web, spans[0])
        else:
            side_by_side(spans, one, web.timeout_s)
        place.unchanged(file, found, key)
        starts = range(0, size, step)
        if not size:
            text, chunks = "sha256:" + hashlib.sha256().hexdigest(), b""
        elif any(start not in digests for start in starts):
            from rh.digest import of_reader

            text, chunks = of_reader(lambda a, b: os.pread(file, b - a, a), size)
            place.unchanged(file, found, key)
        elif chunk:
            text, chunks = combine(b"".join(digests[start] for start in starts), chunk)
        else:
            text, chunks = "sha256:" + digests[0].hex(), b""
    finally:
        os.close(file)
    md5 = md5s[spans[0][0]].hex() if len(spans) == 1 else ""
    extra = dumps([text, chunks, "\n".join(tags[span[0]] for span in spans), md5])
    flags, *rest = stat_fields(found)
    return OUTCOME.pack(number, flags | BIG, *rest, len(extra)) + extra


def _md5(file: int, start: int, stop: int) -> bytes:
    state = new_md5()
    while start < stop:
        data = os.pread(file, min(_BLOCK, stop - start), start)
        if not data:
            break
        state.update(data)
        start += len(data)
    digest: bytes = state.digest()
    return digest
