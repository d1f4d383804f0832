"""The program that runs on the far side of an SSH link.

It is streamed there when a session begins (nothing is installed, no port is opened), answers one request after the
other, and ends with the session. It works on files next to the bytes: lists, reads, packs and writes them.
`work`, `net` and `peer` add what is asked for less often, and what goes to other places.

This module runs on the far side: standard library only, Python 3.7 or newer.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import os
import select
import signal
import stat
import sys
import threading
import time

from rh.systems.far.files import Root, flags_of
from rh.systems.far.flush import nobody_listens, write_all
from rh.systems.far.skip import Skip
from rh.systems.far.wire import (
    BEGIN,
    BIG,
    CANCEL,
    DATA,
    DIR,
    END,
    ERR,
    FAILED,
    FINISH,
    ITEM,
    ITEMS,
    KNOWN,
    LINK,
    OK,
    OUT,
    PACK,
    PIECE,
    PING,
    PROTOCOL,
    REQ,
    STAT,
    SUM,
    Cancelled,
    Failure,
    Garbled,
    Wire,
    dumps,
    failure,
    load_items,
    loads,
    pack_page,
    unpack_items,
)
from rh.systems.far.writer import Writer, digest_field, plain_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from rh.systems.far.wire import Buffer


PAGE_FILES = 500


def stat_fields(found: os.stat_result) -> tuple[int, int, int, int, int]:
    """The fields of a `STAT`."""
    return flags_of(found), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def head(_wire: Wire, root: bytes, key: bytes) -> Any:
    """`System.head`: a `STAT`, and the target of a link."""
    place = Root(root, follow=True)
    try:
        found = place.stat(key.rstrip(b"/"))
        folder = stat.S_ISDIR(found.st_mode)
        if folder != key.endswith(b"/"):
            raise FileNotFoundError(2, "")
        target = place.target(key) if stat.S_ISLNK(found.st_mode) else b""
        return [STAT.pack(*stat_fields(found)), target]
    except NotADirectoryError:
        raise FileNotFoundError(2, "") from None
    finally:
        place.close()


def listing(
    wire: Wire,
    root: bytes,
    prefix: bytes,
    after: bytes,
    depth: int,
    follow: bool,  # noqa: FBT001 - fields of a request come by position
    left_out: list[bytes],
    window: int,
) -> None:
    """`System.list` in frames of `pack_page`."""
    place = Root(root, follow=True)
    wire.room = window
    page: list[tuple[bytes, tuple[int, int, int, int, int], bytes]] = []
    try:
        skip = Skip(pattern.decode("utf-8", "surrogateescape") for pattern in left_out) if left_out else None
        for key, found, target in place.walk(prefix, after, depth, skip, through=follow):
            page.append((key, stat_fields(found), target))
            if len(page) >= PAGE_FILES:
                wire.emit(ITEMS, pack_page(page))
                page = []
        if page:
            wire.emit(ITEMS, pack_page(page))
    finally:
        place.close()


def read(wire: Wire, root: bytes, key: bytes, start: int, stop: int, want: bytes, window: int) -> None:
    """`System.read`: a `STAT`, then the bytes. The file stays open, so they are of one moment if it is replaced."""
    place = Root(root, follow=True)
    wire.room = window
    try:
        file, found = place.read(key, want)
        try:
            wire.send(OUT, STAT.pack(*stat_fields(found)))
            for piece in pieces(file, min(start, found.st_size), min(stop, found.st_size), key):
                wire.emit(DATA, piece)
            place.unchanged(file, found, key)
        finally:
            os.close(file)
    finally:
        place.close()


def pieces(file: int, start: int, stop: int, key: bytes) -> Iterator[memoryview]:
    """The bytes of a span of an open file; each piece lives until the next."""
    buffer = memoryview(bytearray(min(PIECE, max(1, stop - start))))
    os.lseek(file, start, os.SEEK_SET)
    while start < stop:
        count = os.readv(file, [buffer[: min(PIECE, stop - start)]])
        if not count:
            raise Failure("conflict", "it became shorter while it was read", key)
        start += count
        yield buffer[:count]


def pack(place: Root, items: Iterable[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    """The frames that carry files: small ones many to a frame, large ones in pieces.

    Items are key, etag, name to use and flags: that of the executable bit where it is not the file's own, and `KNOWN`
    where who asks knows the digest, so that it is computed there alone; and the digest, if who writes is to compare it.
    """
    parts: list[Buffer] = []
    size = 0
    for key, want, name, asked, *known in items:
        try:
            check = known[0] if known else b""
            file, found = place.read(key, want)
            flags = asked & ~KNOWN or flags_of(found)
            try:
                length = found.st_size
                if length > PIECE:
                    if parts:
                        yield (PACK, *parts)
                        parts, size = [], 0
                    yield from _large(place, file, found, key, name, flags | asked & KNOWN, check)
                    continue
                data = os.read(file, length + 1)
                if len(data) != length:
                    raise Failure("conflict", "it changed while it was read", key)
                place.unchanged(file, found, key)
            finally:
                os.close(file)
            if asked & KNOWN:
                parts += (ITEM.pack(flags, len(name), length), name, data)
            else:
                digest = plain_digest(check) or hashlib.sha256(data).digest()
                parts += (ITEM.pack(flags | SUM, len(name), length), name, digest, data)
            size += length + 100
        except (OSError, Failure) as error:
            told = failure(error, key)
            parts += (ITEM.pack(FAILED, len(name), len(told)), name, told)
            size += len(told)
        if size >= PIECE:
            yield (PACK, *parts)
            parts, size = [], 0
            place.trim()
    if parts:
        yield (PACK, *parts)


def _large(
    place: Root, file: int, found: os.stat_result, key: bytes, name: bytes, flags: int, check: bytes
) -> Iterator[tuple[Any, ...]]:
    from rh.digest import Hasher

    yield BEGIN, ITEM.pack(flags | BIG, len(name), found.st_size), name
    hasher = None if flags & KNOWN or check else Hasher(found.st_size)
    try:
        for piece in pieces(file, 0, found.st_size, key):
            if hasher is not None:
                hasher.update(piece)
            yield DATA, piece
        place.unchanged(file, found, key)
    except (OSError, Failure) as error:
        yield FINISH, dumps([failure(error, key), "", b""])
        return
    digest = hasher.finish() if hasher is not None else None
    yield FINISH, dumps([None, digest.text, digest.chunks] if digest is not None else [None, check.decode(), b""])


def batches(wire: Wire) -> Iterator[Any]:
    """The lists of items that the near side sends, up to its `END`."""
    while True:
        kind, payload = wire.recv()
        if kind == ITEMS:
            yield load_items(payload)
        elif kind == CANCEL:
            raise Cancelled
        elif kind == END:
            return
        else:
            raise Garbled(f"frame {kind} among the items")


def read_many(wire: Wire, root: bytes) -> None:
    """`Bulk.read_many`."""
    place = Root(root, follow=True)
    try:
        for items in batches(wire):
            for frame in pack(place, items):
                wire.send(*frame)
            place.trim()
    finally:
        place.close()


def write_many(wire: Wire, root: bytes, flush: bool) -> None:  # noqa: FBT001
    """`Bulk.write_many`. Outcomes are told when a batch is published: it is full, or nothing more has come yet."""
    place = Root(root)
    writer = Writer(place, lambda records: wire.send(OUT, records), flush=flush)
    try:
        unpack(writer, wire.recv, wire.waiting)
    finally:
        writer.abort()
        place.close()


def unpack(writer: Writer, recv: Callable[[], tuple[int, memoryview]], waiting: Callable[[], bool]) -> None:
    """Write what frames of `pack` carry, up to `END`."""
    number = 0
    while True:
        kind, payload = recv()
        if kind == PACK:
            for flags, name, digest, data in unpack_items(payload):
                if flags & FAILED:
                    kind_, message, path = loads(data)
                    writer.fail(number, Failure(kind_, message, path), name)
                else:
                    writer.put(number, name, flags, data, digest)
                number += 1
            if not waiting():
                writer.commit()
        elif kind == BEGIN:
            flags, names, size = ITEM.unpack_from(payload)
            name = bytes(payload[ITEM.size : ITEM.size + names])
            _unpack_large(writer, recv, number, name, flags, size)
            number += 1
            if not waiting():
                writer.commit()
        elif kind == END:
            writer.commit()
            return
        elif kind == CANCEL:
            raise Cancelled
        else:
            raise Garbled(f"frame {kind} among the packs")


def _unpack_large(
    writer: Writer,
    recv: Callable[[], tuple[int, memoryview]],
    number: int,
    key: bytes,
    flags: int,
    size: int,
    when: bytes = b"",
) -> None:
    """Write one file that comes in pieces. After an error the rest of it is read and dropped, as others may follow."""
    from rh.digest import Hasher

    file, wrong, got = -1, None, 0  # type: tuple[int, Any, int]
    hasher = Hasher(size if size != 1 << 62 else None)
    try:
        try:
            file = writer.create(key, flags)
        except (OSError, Failure) as error:
            wrong = error
        while True:
            kind, payload = recv()
            if kind == FINISH:
                break
            if kind == CANCEL:
                raise Cancelled
            if kind != DATA:
                raise Garbled(f"frame {kind} among the data")
            if wrong is None:
                try:
                    hasher.update(payload)
                    got += len(payload)
                    write_all(file, payload)
                except OSError as error:
                    wrong = error
        told, text, _ = loads(payload)
        if wrong is None and told is not None:
            wrong = Failure(*loads(told))
        if wrong is None and size not in (1 << 62, got):
            wrong = Failure("integrity", f"{got} bytes came, {size} were announced", key)
        if wrong is None:
            digest = hasher.finish()
            if text and text != digest.text:
                wrong = Failure("integrity", "the bytes that arrived are not those that were sent", key)
        if wrong is None:
            writer.add(number, key, file, digest_field(*digest), when, got)
            file = -1
            if writer.bytes >= writer.BATCH_BYTES:
                writer.commit()
        else:
            writer.fail(number, wrong, key)
    finally:
        if file >= 0:
            writer.drop(file)


def write(wire: Wire, root: bytes, key: bytes, flags: int, size: int, when: bytes, flush: bool) -> Any:  # noqa: FBT001
    """`System.write`: pieces, then `FINISH` with their digest. Tells an `OUTCOME`."""
    place = Root(root)
    told: list[bytes] = []
    writer = Writer(place, told.append, flush=flush)
    try:
        if when == b"*" and not key.endswith(b"/"):
            fd, name = place.parent(key, create=True)
            try:
                os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                pass
            else:
                raise Failure("exists", "something is there already", key)
        if flags & (LINK | DIR):
            kind, payload = wire.recv()
            if kind != DATA:
                raise Garbled(f"frame {kind} instead of a target")
            writer.put(0, key, flags, payload, b"", when)
        else:
            _unpack_large(writer, wire.recv, 0, key, flags, size if size >= 0 else 1 << 62, when)
        writer.commit()
        return b"".join(told)
    finally:
        writer.abort()
        place.close()


def delete(_wire: Wire, root: bytes, keys: list[bytes]) -> Any:
    """`System.delete`; tells what could not be deleted."""
    place = Root(root)
    failed = []
    try:
        for key in keys:
            try:
                place.remove(key)
            except (OSError, Failure) as error:
                if isinstance(error, FileNotFoundError):
                    continue
                failed.append(failure(error, key))
        return failed
    finally:
        place.close()


def _later(module: str, name: str) -> Callable[..., Any]:
    """A request whose code is compiled when it is first asked for."""

    def call(wire: Wire, *args: Any) -> Any:
        return getattr(importlib.import_module("rh.systems.far." + module), name)(wire, *args)

    return call


REQUESTS = {work.__name__: work for work in (head, listing, read, read_many, write_many, write, delete)}
for _name in ("digest", "copy", "begin", "part", "parts", "finish", "abort", "sweep", "run", "real_path"):
    REQUESTS[_name] = _later("work", _name)
for _name in ("fetch", "send"):
    REQUESTS[_name] = _later("net", _name)
for _name in ("direct", "reach"):
    REQUESTS[_name] = _later("peer", _name)


def serve(wire: Wire) -> None:
    """Answer requests until the near side is gone. What is left of a conversation that ended early is skipped."""
    while True:
        try:
            kind, payload = wire.recv()
        except EOFError:
            return
        if kind != REQ:
            continue
        wire.busy = True
        try:
            name, args = loads(payload)
            answer = REQUESTS[name](wire, *args)
        except Cancelled:
            wire.send(OK, dumps(None))
        except (EOFError, BrokenPipeError, ConnectionError):
            return
        except Exception as error:  # noqa: BLE001 - every error is told
            wire.send(ERR, failure(error))
        else:
            wire.send(OK, dumps(answer))
        wire.busy = False


def _beat(wire: Wire, every_s: float) -> None:
    """Tell the near side that a long request is still being worked on; stop working when nobody listens any more."""
    sent = 0
    while True:
        time.sleep(every_s)
        if wire.busy and wire.sent == sent:
            try:
                wire.send(PING)
            except OSError:
                os.kill(os.getpid(), signal.SIGTERM)
                return
        sent = wire.sent


def _watch(source: int) -> None:
    """Stop working as soon as the near side is gone, whatever is under way and however much is left to be read."""
    gone = select.poll()
    gone.register(source, getattr(select, "POLLRDHUP", 0))  # a pipe tells its end in any case
    gone.poll()
    nobody_listens()
    os.kill(os.getpid(), signal.SIGTERM)


def _identity(home: bytes) -> bytes:
    """What tells this login on this machine from every other, without telling anything about it."""
    top = os.stat("/")
    told = [home, b"%d %d %d %d" % (os.getuid(), top.st_dev, top.st_ino, top.st_ctime_ns), os.uname()[1].encode()]
    for path in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        try:
            with open(path, "rb") as file:
                told.append(file.read(64))
        except OSError:
            told.append(b"")
    return hashlib.sha256(b"\0".join(told)).digest()


def main(marker: bytes, beat_s: float, program: bytes) -> None:
    """Take over this process: standard output becomes the wire, and nothing else gets onto it."""
    import resource

    sink = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    source = os.dup(0)
    os.dup2(null, 0)
    for pipe in (source, sink):
        try:
            fcntl.fcntl(pipe, 1031, PIECE)  # F_SETPIPE_SZ: fewer turns between us and sshd
        except OSError:
            continue  # a socket, or a smaller limit
    wire = Wire(source, sink)
    wire.program = program

    def leave(_number: int, _frame: Any) -> None:
        nobody_listens()
        if not wire.over:  # else it is tidying up already, which nothing may cut short
            wire.over = True
            raise SystemExit(1)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < want:
        resource.setrlimit(resource.RLIMIT_NOFILE, (want, hard))
    os.write(sink, b"\n" + marker + b"\n")
    home = os.path.expanduser(b"~")
    wire.send(
        OK, dumps([PROTOCOL, os.getpid(), home, os.cpu_count() or 1, list(sys.version_info[:3]), _identity(home)])
    )
    threading.Thread(target=_beat, args=(wire, beat_s), daemon=True).start()
    threading.Thread(target=_watch, args=(source,), daemon=True).start()
    try:
        serve(wire)
    finally:
        # Threads that still wait for a server must not keep the process.
        os._exit(0)
