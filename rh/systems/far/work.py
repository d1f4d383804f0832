"""What the far program can do beyond the verbs: hash, copy, take files in parts, sweep, run commands.

This module runs on the far side: standard library only, Python 3.7 or newer.
"""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import time

from rh.systems.far.files import TEMP, Root, clash, flags_of
from rh.systems.far.flush import write_all
from rh.systems.far.program import batches, pieces
from rh.systems.far.wire import CANCEL, DATA, FAILED, OUT, OUTCOME, PIECE, Cancelled, Failure, Garbled, Wire, failure
from rh.systems.far.writer import Writer, digest_field, expect, plain_digest, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PARTS = b".parts"


def digest(wire: Wire, root: bytes) -> None:
    """`Digesting.digest_many`."""
    place = Root(root, follow=True)
    number = 0
    try:
        for items in batches(wire):
            records: list[bytes] = []
            for (key,) in items:
                try:
                    records.append(_digest_one(place, number, key))
                except (OSError, Failure) as error:
                    told = failure(error, key)
                    records.append(OUTCOME.pack(number, FAILED, 0, 0, 0, 0, len(told)) + told)
                number += 1
                if len(records) >= 256:
                    wire.send(OUT, b"".join(records))
                    records = []
            if records:
                wire.send(OUT, b"".join(records))
            place.trim()
    finally:
        place.close()


def _digest_one(place: Root, number: int, key: bytes) -> bytes:
    file, found = place.read(key)
    try:
        if found.st_size <= PIECE:
            data = os.read(file, found.st_size + 1)
            if len(data) != found.st_size:
                raise Failure("conflict", "it changed while it was read", key)
            extra = hashlib.sha256(data).digest()
        else:
            extra = digest_of(file, found.st_size, key)
        place.unchanged(file, found, key)
    finally:
        os.close(file)
    return record(number, found, extra)


def digest_of(file: int, size: int, key: bytes, check: bytes = b"") -> bytes:
    """The digest of an open file as the end of an `OUTCOME`, on all cores, if it is the one that was told."""
    from rh.digest import of_reader

    def exact(start: int, stop: int) -> bytes:
        data = os.pread(file, stop - start, start)
        if len(data) != stop - start:
            raise Failure("conflict", "it became shorter while it was read", key)
        return data

    found = of_reader(exact, size)
    expect(check, found.text, key)
    return digest_field(*found)


def copy(wire: Wire, source: bytes, root: bytes, flush: bool) -> None:  # noqa: FBT001 - fields of a request come by position
    """`ServerCopy.copy_many`: the kernel copies, and what was copied is hashed.

    Items are key, etag, name to use, whether it is to be executable (nothing: as it is) and the digest, if it is known.
    """
    there, here = Root(source, follow=True), Root(root)
    writer = Writer(here, lambda records: wire.send(OUT, records), flush=flush)
    number = 0
    try:
        for items in batches(wire):
            for item in items:
                try:
                    _copy_one(there, writer, number, *item)
                except (OSError, Failure) as error:
                    writer.fail(number, error, item[2])
                number += 1
                if len(writer.pending) >= writer.BATCH or writer.bytes >= writer.BATCH_BYTES * 4:
                    writer.commit()
            writer.commit()
            there.trim()
    finally:
        writer.abort()
        there.close()
        here.close()


def _copy_one(
    there: Root, writer: Writer, number: int, key: bytes, want: bytes, name: bytes, flags: int, check: bytes
) -> None:
    file, found = there.read(key, want)
    try:
        flags, size = flags or flags_of(found), found.st_size
        if size <= PIECE:
            data = os.read(file, size + 1)
            if len(data) != size:
                raise Failure("conflict", "it changed while it was read", key)
            there.unchanged(file, found, key)
            writer.put(number, name, flags, data, plain_digest(check))
            return
        target = writer.create(name, flags)
        try:
            clone(file, target, size, key)
            there.unchanged(file, found, key)
            extra = digest_of(target, size, name, check)
        except BaseException:
            writer.drop(target)
            raise
        writer.add(number, name, target, extra, b"", size)
    finally:
        os.close(file)


def clone(file: int, target: int, size: int, key: bytes) -> None:
    """Copy an open file: shared blocks where the file system has them, else by the kernel, else by hand."""
    import fcntl

    try:
        fcntl.ioctl(target, 0x40049409, file)  # FICLONE
        return
    except OSError:
        pass
    at = 0
    by_kernel = getattr(os, "copy_file_range", None)
    while by_kernel is not None and at < size:
        try:
            count = by_kernel(file, target, min(size - at, 1 << 30), at, at)
        except OSError:
            if at:
                raise
            break
        if not count:
            break
        at += count
    os.lseek(target, at, os.SEEK_SET)
    for piece in pieces(file, at, size, key):
        write_all(target, piece)


def begin(_wire: Wire, root: bytes, key: bytes, size: int, flags: int, part: int) -> Any:
    """`Multipart.begin`: the name of a temporary file of the final size, and beside it the list of its parts."""
    place = Root(root)
    writer = Writer(place, len)
    try:
        fd, name = place.parent(key, create=True)
        try:
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                raise clash(key, "there is a directory of that name")
        except FileNotFoundError:
            pass
        space = os.fstatvfs(fd)
        free = space.f_bavail * space.f_frsize
        if free < size:
            raise Failure("full", f"{size:,} bytes are needed, and {free:,} are free", key)
        file = writer.create(key, flags)
        try:
            temp = writer.open[file][0]
            os.ftruncate(file, size)
            parts = os.open(temp + _PARTS, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=fd)
            made = len(place.fresh) + len(place.above)
            write_all(parts, b"%s %d %d %d\n" % (_boot(), size, part, made))
            os.close(parts)
        except BaseException:
            writer.drop(file)
            raise
        os.close(file)
        return temp
    except BaseException:
        place.unmake()
        raise
    finally:
        place.close()


def _boot() -> bytes:
    """What changes when this machine starts anew: what was written before may then be lost."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip()
    except OSError:
        return b"-"


def _upload(place: Root, key: bytes, temp: bytes, flags: int) -> tuple[int, bytes, int, int]:
    """An upload's file, its boot id, size and part size."""
    if not temp.startswith(TEMP) or b"/" in temp:
        raise Failure("invalid", "this is no upload", key)
    try:
        fd, _ = place.parent(key)
        parts = os.open(temp + _PARTS, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            boot, size, part, _ = os.read(parts, 256).split(b"\n")[0].split()
        finally:
            os.close(parts)
        return os.open(temp, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd), boot, int(size), int(part)
    except (FileNotFoundError, ValueError):
        raise Failure("not_found", "this upload is gone", key) from None


def _made(fd: int, temp: bytes) -> int:
    """How many of the directories above an upload were made for it."""
    try:
        parts = os.open(temp + _PARTS, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except FileNotFoundError:
        return 0
    try:
        return int(os.read(parts, 256).split(b"\n")[0].split()[3])
    except (IndexError, ValueError):
        return 0  # it was cut off before it was whole
    finally:
        os.close(parts)


def _recorded(place: Root, key: bytes, temp: bytes) -> dict[int, bytes]:
    """The parts that have arrived: raw chunk digests by number."""
    fd, _ = place.parent(key)
    found = {}
    file = os.open(temp + _PARTS, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    with os.fdopen(file, "rb") as lines:
        next(lines, None)
        for line in lines:
            words = line.split()
            if line.endswith(b"\n") and len(words) == 2:
                found[int(words[0])] = bytes.fromhex(words[1].decode())
    return found


def part(wire: Wire, root: bytes, key: bytes, temp: bytes, number: int, length: int) -> Any:
    """`Upload.put`: pieces of one part; tells the raw digests of its chunks."""
    from rh.digest import CHUNK, chunk_size

    place = Root(root)
    file = -1
    try:
        file, _, size, step = _upload(place, key, temp, os.O_WRONLY)
        start = number * step
        if not 0 <= start < max(size, 1) or length != min(step, size - start):
            raise Failure("invalid", f"part {number} has {length} bytes", key)
        chunk = chunk_size(size) or CHUNK
        done, states = 0, []  # type: tuple[int, list[Any]]
        os.lseek(file, start, os.SEEK_SET)
        while done < length:
            kind, payload = wire.recv()
            if kind != DATA or done + len(payload) > length:
                raise Cancelled if kind == CANCEL else Garbled(f"frame {kind} among the data")
            at = 0
            while at < len(payload):
                room = chunk - done % chunk
                if room == chunk:
                    states.append(hashlib.sha256())
                piece = payload[at : at + room]
                states[-1].update(piece)
                at += len(piece)
                done += len(piece)
            write_all(file, payload)
        raw = b"".join(state.digest() for state in states)
        fd, _ = place.parent(key)
        parts = os.open(temp + _PARTS, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        write_all(parts, b"%d %s\n" % (number, raw.hex().encode()))
        os.close(parts)
        return raw
    except FileNotFoundError:
        raise Failure("not_found", "this upload is gone", key) from None
    finally:
        if file >= 0:
            os.close(file)
        place.close()


def parts(_wire: Wire, root: bytes, key: bytes, temp: bytes) -> Any:
    """`Upload.parts`: numbers and raw digests. If the machine was started anew since, they are checked first."""
    from rh.digest import CHUNK, chunk_size

    place = Root(root)
    try:
        file, boot, size, step = _upload(place, key, temp, os.O_RDONLY)
        try:
            found = _recorded(place, key, temp)
            if boot != _boot() or boot == b"-":
                chunk = chunk_size(size) or CHUNK
                for number, raw in list(found.items()):
                    stop = min((number + 1) * step, size)
                    starts = range(number * step, stop, chunk)
                    got = (hashlib.sha256(os.pread(file, min(chunk, stop - at), at)).digest() for at in starts)
                    if b"".join(got) != raw:
                        del found[number]
        finally:
            os.close(file)
        return [size, step, [[number, raw] for number, raw in sorted(found.items())]]
    finally:
        place.close()


def finish(_wire: Wire, root: bytes, key: bytes, temp: bytes, tags: list[bytes], when: bytes, flush: bool) -> Any:  # noqa: FBT001 - fields of a request come by position
    """`Upload.finish`: tells an `OUTCOME`."""
    from rh.digest import chunk_size, combine

    place = Root(root)
    told: list[bytes] = []
    writer = Writer(place, told.append, flush=flush)
    file = -1
    try:
        file, _, size, step = _upload(place, key, temp, os.O_RDWR)
        found = _recorded(place, key, temp)
        if [found.get(number) for number in range(-(-size // step))] != tags:
            raise Failure("integrity", "the parts that arrived are not those that were sent", key)
        chunk = chunk_size(size)
        if chunk and step % chunk == 0:
            extra = digest_field(*combine(b"".join(tags), chunk))
        else:
            extra = tags[0] if len(tags) == 1 and not chunk else digest_of(file, size, key)
        writer.open[file] = (temp, key)
        writer.add(0, key, file, extra, when, size)
        writer.keep, file = True, -1
        writer.commit()
        if not writer.open:
            fd, _ = place.parent(key)
            os.unlink(temp + _PARTS, dir_fd=fd)
        return b"".join(told)
    finally:
        if file >= 0:
            os.close(file)
        writer.abort()
        place.close()


def abort(_wire: Wire, root: bytes, key: bytes, temp: bytes) -> None:
    """`Upload.abort`."""
    place = Root(root)
    if not temp.startswith(TEMP) or b"/" in temp:
        return
    try:
        fd, _ = place.parent(key)
        made = _made(fd, temp)
        for name in (temp, temp + _PARTS):
            try:
                os.unlink(name, dir_fd=fd)
            except FileNotFoundError:
                continue
        place.unmake_above(key, made)
    except FileNotFoundError:
        return
    finally:
        place.close()


def real_path(_wire: Wire, root: bytes) -> Any:
    """`Linked.real_path`."""
    return os.path.realpath(Root(root).path)


def sweep(_wire: Wire, root: bytes, older_than_s: float) -> Any:
    """`Sweeping.sweep`."""
    place = Root(root).open()
    count = 0
    before = time.time() - older_than_s

    def stop(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    try:
        for top, folders, files in os.walk(place.path, onerror=stop):
            for name in [name for name in (*folders, *files) if name.startswith(TEMP)]:
                path = os.path.join(top, name)
                try:
                    if os.lstat(path).st_mtime <= before:
                        _remove(path)
                        count += not name.endswith(_PARTS)
                except FileNotFoundError:
                    continue
            folders[:] = [name for name in folders if not name.startswith(TEMP)]
        return count
    finally:
        place.close()


def _remove(path: bytes) -> None:
    """Remove a file, or a directory that copies on this machine left unfinished."""
    if os.path.isdir(path) and not os.path.islink(path):
        import shutil

        shutil.rmtree(path)
    else:
        os.unlink(path)


def run(wire: Wire, root: bytes, argv: list[bytes], timeout_s: float, given: bool) -> Any:  # noqa: FBT001 - fields of a request come by position
    """`Running.run`: input comes in `DATA` frames; output goes in `DATA`, errors in `OUT`. Tells the status."""
    import subprocess

    place = Root(root).open()
    data = b""
    while given:
        kind, payload = wire.recv()
        if kind != DATA:
            break
        data += payload
    try:
        child = subprocess.Popen(
            argv,
            cwd=place.path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise Failure("not_found", f"there is no command {os.fsdecode(argv[0])!r} to run (exit status 127)") from None
    except PermissionError:
        raise Failure("access", f"{os.fsdecode(argv[0])!r} may not be run (exit status 126)") from None
    finally:
        place.close()
    try:
        out, err = child.communicate(data, timeout_s if timeout_s > 0 else None)
    except subprocess.TimeoutExpired:
        raise Failure("deadline", f"the command did not end within {timeout_s:g} s") from None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    for kind, text in ((DATA, out), (OUT, err)):
        for at in range(0, len(text), PIECE):
            wire.send(kind, text[at : at + PIECE])
    return child.returncode
