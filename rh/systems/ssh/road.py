"""The verbs of an SSH system by way of the far program."""

from __future__ import annotations

import builtins
import io
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rh import observe
from rh.digest import Hasher
from rh.errors import IntegrityError, InvalidError, RhError
from rh.systems.abilities import Item
from rh.systems.base import Body, Bytes
from rh.systems.far import wire
from rh.systems.far.skip import Skip
from rh.systems.ssh.fetching import Request, items_of, signed
from rh.systems.ssh.session import Pool, Session, problem
from rh.systems.ssh.streams import WINDOW, FarBody, FarUpload, entries_of, entry_of
from rh.types import ABSENT, Condition, Entry, Link, Match, Outcome, SignedRequest, Span

__all__ = ["FarRoad"]

_BATCH = 256
_AHEAD = 8 << 20
_OPEN = 4096
"""Items whose outcome is not known yet; their outcomes fit the buffers of any SSH channel."""


class FarRoad:
    """The six verbs and the abilities, one conversation each."""

    def __init__(
        self,
        pool: Pool,
        root: bytes,
        system: str,
        url: Callable[[str], str],
        name: Callable[[str], bytes],
        *,
        flush: bool,
    ) -> None:
        self.pool, self.root, self.system, self.url, self.name, self.flush = pool, root, system, url, name, flush

    def call(self, verb: str, request: str, *args: Any) -> Any:
        """A conversation without data."""
        with self.pool.session() as session:
            session.request(request, self.root, *args)
            observe.count(self.system, verb)
            return session.answer(self.url)

    def list(self, prefix: str, after: str, depth: int | None, *, follow: bool = False) -> Iterator[Entry]:
        for page in self.list_pages(prefix, after, depth, follow=follow):
            yield from page

    def list_pages(
        self, prefix: str, after: str, depth: int | None, *, follow: bool = False, skip: Skip | None = None
    ) -> Iterator[Sequence[Entry]]:
        with self.pool.session() as session:
            names = (prefix.encode("utf-8", "surrogateescape"), after.encode("utf-8", "surrogateescape"))
            left_out = [pattern.encode("utf-8", "surrogateescape") for pattern in skip.patterns] if skip else []
            session.request("listing", self.root, *names, depth or 0, follow, left_out, WINDOW)
            observe.count(self.system, "list")
            credit = 0
            try:
                while True:
                    kind, payload = session.next(self.url, keep=False)
                    if kind == wire.OK:
                        return
                    if kind != wire.ITEMS:
                        raise wire.Garbled(f"frame {kind} in a listing")
                    credit += len(payload)
                    if credit >= WINDOW // 4:
                        session.send(wire.CREDIT, wire.dumps(credit))
                        credit = 0
                    yield entries_of(bytes(payload))
            except GeneratorExit:
                _cancel(session)
                raise

    def head(self, key: str) -> Entry:
        with self.pool.session() as session:
            session.request("head", self.root, self.name(key))
            observe.count(self.system, "head")
            stat, target = session.answer(self.url, key)
        return entry_of(key, wire.STAT.unpack(stat), target)

    def read(self, key: str, span: Span | None, when: Condition) -> Body:
        return FarBody(self, key, span, when.etag.encode() if isinstance(when, Match) else b"")

    def write(
        self, key: str, data: Iterable[Bytes] | Link, *, size: int | None, executable: bool | None, when: Condition
    ) -> Entry:
        name, flags = self.name(key), _flags(executable)
        want = b"*" if when is ABSENT else when.etag.encode() if isinstance(when, Match) else b""
        if isinstance(data, Link):
            flags, target = wire.LINK, data.target.encode("utf-8", "surrogateescape")
            return self._write(key, name, flags, -1, want, lambda session: session.send(wire.DATA, target))
        if key.endswith("/"):
            return self._write(key, name, wire.DIR, -1, want, lambda session: session.send(wire.DATA))
        hasher = Hasher(size)

        def send(session: Session) -> None:
            count = 0
            for piece in _pieces(data):
                hasher.update(piece)
                count += len(piece)
                if size is not None and count > size:
                    break
                session.send(wire.DATA, piece)
                if session.waiting():
                    return  # it has failed over there: the answer says why
            observe.count(self.system, "write", requests=0, sent=count)
            if size is not None and count != size:
                session.send(wire.CANCEL)
                session.answer(self.url)
                more = "more" if count > size else "fewer"
                raise InvalidError(f"the stream has {more} bytes than the {size} announced", where=self.url(key))
            session.send(wire.FINISH, wire.dumps([None, hasher.finish().text, b""]))

        return self._write(key, name, flags, -1 if size is None else size, want, send)

    def _write(
        self, key: str, name: bytes, flags: int, size: int, when: bytes, send: Callable[[Session], None]
    ) -> Entry:
        with self.pool.session() as session:
            session.request("write", self.root, name, flags, size, when, self.flush)
            observe.count(self.system, "write")
            try:
                send(session)
            except RhError:
                raise
            except Exception:
                # The caller's stream broke, not the channel: have the unfinished file removed before that is told.
                session.send(wire.CANCEL)
                session.answer(self.url)
                raise
            told = session.answer(self.url)
        outcome = next(iter(self.outcomes(memoryview(told), {0: key})))
        if outcome.error is not None:
            raise outcome.error
        if outcome.entry is None:
            raise IntegrityError("the answer is garbled", where=self.url(key))
        return outcome.entry

    def delete(self, keys: Sequence[str]) -> None:
        names = [self.name(key) for key in keys]
        for at in range(0, len(names), 1000):
            failed = self.call("delete", "delete", names[at : at + 1000])
            if failed:
                error = problem(failed[0], self.url)
                if len(failed) > 1:
                    error.message += f" (and {len(failed) - 1} more)"
                raise error

    def outcomes(self, payload: memoryview, keys: dict[int, str]) -> Iterator[Outcome]:
        """The outcomes in a frame. `keys` are those still expected, by number."""
        data = bytes(payload)
        at, end, size, unpack = 0, len(data), wire.OUTCOME.size, wire.OUTCOME.unpack_from
        while at < end:
            try:
                number, flags, length, mtime, ctime, inode, extra = unpack(data, at)
            except struct.error as error:
                raise wire.Garbled("a record is cut short") from error
            at += size
            told = data[at : at + extra]
            at += extra
            key = keys.pop(number, None)
            if key is None:
                raise wire.Garbled("an outcome of nothing")
            if flags & wire.FAILED:
                yield Outcome(key, error=problem(told, self.url))
                continue
            entry = entry_of(key, (flags, length, mtime, ctime, inode), told if flags & wire.LINK else b"")
            if flags & wire.BIG:
                text, chunks, tags, md5 = wire.loads(told)
                check = f"md5:{md5}" if md5 else None
                yield Outcome(key, entry._replace(etag=tags, check=check), None, text, chunks)
            elif flags & wire.LINK:
                yield Outcome(key, entry)
            elif len(told) == 32:
                yield Outcome(key, entry, None, "sha256:" + told.hex(), b"")
            else:
                yield Outcome(key, entry, None, *(wire.loads(told) if told else ()))

    # Bulk

    def read_many(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, bytes | Exception]]:
        entries = iter(entries)
        first = next(entries, None)
        if first is None:
            return
        with self.pool.session() as session:
            session.request("read_many", self.root)
            asked: deque[Entry] = deque()
            ahead = 0
            more = True
            batch: builtins.list[Any] = []
            bad: builtins.list[tuple[Entry, Exception]] = []
            entry: Entry | None = first
            while True:
                while more and ahead < _AHEAD and len(asked) < _OPEN:
                    size = 0
                    while entry is not None and len(batch) < _BATCH and size < wire.PIECE:
                        try:
                            known = wire.KNOWN if (entry.check or "").startswith("sha256:") else 0
                            batch.append([self.name(entry.key), (entry.etag or "").encode(), b"", known])
                        except RhError as error:
                            bad.append((entry, error))
                        else:
                            asked.append(entry)
                            size += entry.size
                        entry = next(entries, None)
                    more = entry is not None
                    if batch:
                        session.send(wire.ITEMS, wire.dump_items(batch))
                        observe.count(self.system, "read_many")
                        batch, ahead = [], ahead + size
                    if not more:
                        session.send(wire.END)
                yield from bad
                bad.clear()
                kind, payload = session.next(self.url, keep=False)
                if kind == wire.OK:
                    if asked:
                        raise IntegrityError("answers are missing", where=self.url(asked[0].key))
                    return
                for found, data in self._unpack(session, kind, payload, asked):
                    ahead -= found.size
                    yield found, data

    def _unpack(
        self, session: Session, kind: int, payload: memoryview, asked: deque[Entry]
    ) -> Iterator[tuple[Entry, bytes | Exception]]:
        """The files in a frame, or in a run of frames."""
        if kind == wire.PACK:
            received = 0
            for flags, _, digest, data in wire.unpack_items(payload):
                entry = asked.popleft()
                if flags & wire.FAILED:
                    yield entry, problem(data, self.url)
                else:
                    received += len(data)
                    if flags & wire.SUM:
                        key, size, kind_, etag, modified, _, executable, target = entry
                        check = "sha256:" + digest.hex()
                        entry = Entry(key, size, kind_, etag, modified, check, executable, target)
                    yield entry, bytes(data)
            observe.count(self.system, "read_many", requests=0, received=received)
            return
        if kind != wire.BEGIN:
            raise wire.Garbled(f"frame {kind} among the packs")
        entry = asked.popleft()
        _, _, size = wire.ITEM.unpack_from(payload)
        if size > max(entry.size, wire.LIMIT):
            raise wire.Garbled(f"{size} bytes of a file of {entry.size}")
        whole, at = io.BytesIO(bytes(size)), 0  # which lets its bytes be filled, and hands them over, without a copy
        with whole.getbuffer() as room:
            while True:
                kind, payload = session.next(self.url, keep=False, room=room[at:])
                if kind == wire.FINISH:
                    break
                if kind != wire.DATA or len(payload) > size - at:
                    raise wire.Garbled(f"frame {kind} among the data")
                at += len(payload)
        told, text, _ = wire.loads(payload)
        if told is not None:
            yield entry, problem(told, self.url)
            return
        if at != size:
            yield entry, IntegrityError("the bytes ended early", where=self.url(entry.key))
            return
        data_ = whole.getvalue()
        observe.count(self.system, "read_many", requests=0, received=len(data_))
        yield entry._replace(check=text) if text else entry, data_

    def write_many(self, items: Iterable[Item]) -> Iterator[Outcome]:
        items = iter(items)
        first = next(items, None)
        if first is None:
            return
        with self.pool.session() as session:
            session.request("write_many", self.root, self.flush)
            keys: dict[int, str] = {}
            parts: builtins.list[Any] = []
            number = size = 0
            item: Item | None = first
            while item is not None:
                try:
                    name, flags, data = self._item(item)
                except RhError as error:
                    yield Outcome(item.key, error=error)
                    item = next(items, None)
                    continue
                keys[number] = item.key
                number += 1
                if len(data) > wire.PIECE:
                    self._flush(session, parts, size)
                    size = 0
                    self._send_large(session, name, flags, memoryview(data))
                else:
                    parts += (wire.ITEM.pack(flags, len(name), len(data)), name, data)
                    size += len(data) + 64
                    if size >= wire.PIECE or len(parts) >= 3 * _BATCH:
                        self._flush(session, parts, size)
                        size = 0
                while not parts and (len(keys) > _OPEN or session.waiting()):
                    yield from self._told(session, keys)
                item = next(items, None)
            self._flush(session, parts, size)
            session.send(wire.END)
            while session.busy:
                yield from self._told(session, keys)
            if keys:
                raise IntegrityError("outcomes are missing", where=self.url(next(iter(keys.values()))))

    def _told(self, session: Session, keys: dict[int, str]) -> Iterator[Outcome]:
        kind, payload = session.next(self.url)
        if kind == wire.OUT:
            yield from self.outcomes(payload, keys)
        elif kind != wire.OK:
            raise wire.Garbled(f"frame {kind} among the outcomes")

    def _item(self, item: Item) -> tuple[bytes, int, Bytes]:
        name = self.name(item.key)
        if isinstance(item.data, Link):
            return name, wire.LINK, item.data.target.encode("utf-8", "surrogateescape")
        if item.key.endswith("/"):
            if len(item.data):
                raise InvalidError("a directory holds no bytes", where=self.url(item.key))
            return name, wire.DIR, b""
        data = item.data
        if isinstance(data, memoryview) and data.nbytes != len(data):
            data = data.cast("B")
        return name, _flags(item.executable), data

    def _flush(self, session: Session, parts: builtins.list[Any], size: int) -> None:
        if parts:
            session.send(wire.PACK, b"".join(parts))
            parts.clear()
            observe.count(self.system, "write_many", sent=size)

    def _send_large(self, session: Session, name: bytes, flags: int, data: memoryview) -> None:
        session.send(wire.BEGIN, wire.ITEM.pack(flags | wire.BIG, len(name), len(data)), name)
        for at in range(0, len(data), wire.PIECE):
            session.send(wire.DATA, data[at : at + wire.PIECE])
        session.send(wire.FINISH, wire.dumps([None, "", b""]))
        observe.count(self.system, "write_many", sent=len(data))

    # What the far side does by itself

    def batches(
        self,
        verb: str,
        request: Sequence[Any],
        items: Iterable[tuple[Sequence[str], Any]],
        batch: int = _BATCH,
        window: int | None = None,
    ) -> Iterator[Outcome]:
        """A conversation of items out and outcomes back. Each item comes with the keys that it is about.

        No more is asked for while the outcomes of `window` keys (by default, of four batches) are not known.
        """
        window = window or 4 * batch
        items = iter(items)
        first = next(items, None)
        if first is None:
            return
        with self.pool.session() as session:
            session.request(request[0], *request[1:])
            keys: dict[int, str] = {}
            number, sending = 0, True
            item: tuple[Sequence[str], Any] | None = first
            while sending or session.busy:
                while sending and len(keys) < window:
                    many: builtins.list[Any] = []
                    while item is not None and len(many) < batch:
                        keys.update(enumerate(item[0], number))
                        number += len(item[0])
                        many.append(item[1])
                        item = next(items, None)
                    if many:
                        session.send(wire.ITEMS, wire.dump_items(many))
                        observe.count(self.system, verb)
                    if item is None:
                        session.send(wire.END)
                        sending = False
                yield from self._told(session, keys)
            if keys:
                raise IntegrityError("outcomes are missing", where=self.url(next(iter(keys.values()))))

    def _wanted(self, name: Callable[[str], bytes], entry: Entry, *more: Any) -> builtins.list[Any]:
        return [name(entry.key), (entry.etag or "").encode(), *more]

    def digest_many(self, entries: Iterable[Entry]) -> Iterator[Outcome]:
        items = (((entry.key,), [self.name(entry.key)]) for entry in entries)
        return self.batches("digest", ("digest", self.root), items)

    def copy_many(self, source: FarRoad, pairs: Iterable[tuple[Entry, str]]) -> Iterator[Outcome]:
        request = ("copy", source.root, self.root, self.flush)
        return self.batches("copy", request, self._copied(source, self, pairs), 64)

    def _copied(
        self, source: FarRoad, target: FarRoad, pairs: Iterable[tuple[Entry, str]]
    ) -> Iterator[tuple[Sequence[str], Any]]:
        """Items of what goes from one directory to another, on the same host or not."""
        for entry, key in pairs:
            told = entry.check if entry.check is not None and entry.check.startswith("sha256") else ""
            yield (key,), self._wanted(source.name, entry, target.name(key), _flags(entry.executable), told.encode())

    def fetch_many(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        request = ("fetch", self.root, self.flush, self.pool.host.timeout_s)
        return self.batches("fetch", request, items_of(requests, self.name), 16, _OPEN)

    def send_many(self, requests: Iterable[tuple[Entry, Sequence[tuple[Span, SignedRequest]]]]) -> Iterator[Outcome]:
        items = (
            ((entry.key,), self._wanted(self.name, entry, [[*span, signed(request)] for span, request in parts]))
            for entry, parts in requests
        )
        request = ("send", self.root, self.pool.host.timeout_s)
        return self.batches("send", request, items, 16, 512)

    def direct(self, other: FarRoad, pairs: Iterable[tuple[Entry, str]], *, away: bool) -> Iterator[Outcome]:
        """Send to, or receive from, another host that this one logs in to."""
        peer = list(other.pool.transport.address())
        source, target = (self, other) if away else (other, self)
        limits = [self.flush, other.pool.host.python, self.pool.host.timeout_s]
        request = ("direct", self.root, peer, other.root, away, *limits)
        return self.batches("direct", request, self._copied(source, target, pairs))

    def reaches(self, other: FarRoad) -> bool:
        """Whether this host can log in to the other one and run the far program there."""
        host, port, user = other.pool.transport.address()
        key = (host, port, user, other.pool.host.python)
        if key not in self.pool.reaches:
            with other.pool.session() as session:
                identity = session.info[5]
            with self.pool.session() as session:
                peer = [[host, port, user], other.pool.host.python, self.pool.host.timeout_s, identity]
                session.request("reach", *peer)
                observe.count(self.system, "reach")
                self.pool.reaches[key] = bool(session.answer(self.url))
        return self.pool.reaches[key]

    def run(self, argv: Sequence[str], stdin: bytes | None, timeout_s: float | None) -> tuple[int, bytes, bytes]:
        words = [word.encode("utf-8", "surrogateescape") for word in argv]
        out: builtins.list[Any] = []
        err: builtins.list[Any] = []
        with self.pool.session() as session:
            session.request("run", self.root, words, float(timeout_s or 0), stdin is not None)
            observe.count(self.system, "run")
            if stdin is not None:
                view = memoryview(stdin)
                for at in range(0, len(view), wire.PIECE):
                    session.send(wire.DATA, view[at : at + wire.PIECE])
                session.send(wire.END)
            while True:
                kind, payload = session.next(self.url)
                if kind == wire.OK:
                    return wire.loads(payload), b"".join(out), b"".join(err)
                (out if kind == wire.DATA else err).append(payload)

    def real_path(self) -> bytes:
        return bytes(self.call("real_path", "real_path"))

    def sweep(self, older_than_s: float) -> int:
        return int(self.call("sweep", "sweep", float(older_than_s)))

    # Multipart

    def begin(self, key: str, size: int, part_size: int, *, executable: bool | None) -> FarUpload:
        temp = self.call("begin", "begin", self.name(key), size, _flags(executable), part_size)
        return FarUpload(self, key, temp, size, part_size)

    def resume(self, key: str, token: str) -> FarUpload:
        temp = token.encode("utf-8", "surrogateescape")
        size, part_size, _ = self.call("resume", "parts", self.name(key), temp)
        return FarUpload(self, key, temp, size, part_size)


def _flags(executable: bool | None) -> int:  # noqa: FBT001
    return 0 if executable is None else wire.EXEC if executable else wire.NOEXEC


def _pieces(data: Iterable[Bytes]) -> Iterator[Bytes]:
    """Pieces neither tiny nor huge."""
    small: list[Bytes] = []
    size = 0
    for piece in data:
        view = memoryview(piece).cast("B") if len(piece) else memoryview(b"")
        if len(view) < 65536:
            small.append(bytes(view))
            size += len(view)
            if size < 262144:
                continue
        if small:
            yield b"".join(small)
            small, size = [], 0
        if len(view) >= 65536:
            for at in range(0, len(view), wire.PIECE):
                yield view[at : at + wire.PIECE]
    if size:
        yield b"".join(small)


def _cancel(session: Session) -> None:
    """End a conversation whose rest nobody wants, so that its session can go on."""
    try:
        session.send(wire.CANCEL)
        while session.next()[0] != wire.OK:
            continue
    except RhError:
        return  # the pool closes what is broken
