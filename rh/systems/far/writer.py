"""Writing on the far side of an SSH link, all or nothing, and the records of what was done.

This module runs on the far side: standard library only, Python 3.7 or newer.
"""

from __future__ import annotations

import hashlib
import os

from rh.systems.far.files import TEMP, Root, clash, flags_of
from rh.systems.far.flush import lock, still_wanted, sync, sync_file_system, unlock, write_all
from rh.systems.far.wire import DIR, EXEC, FAILED, LINK, OUTCOME, Failure, dumps, etag, failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rh.systems.far.wire import Buffer

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_token = os.urandom(6).hex().encode()
_count = 0


def temp_name() -> bytes:
    """A name for an unfinished file that no other process uses."""
    global _count  # noqa: PLW0603 - one number per process
    _count += 1
    return b"%s%s-%x" % (TEMP, _token, _count)


def _is_special(fd: int, name: bytes) -> bool:
    """Whether it is a pipe, socket or device, whose users would write to a file that took its place."""
    try:
        return not flags_of(os.stat(name, dir_fd=fd, follow_symlinks=False))
    except FileNotFoundError:
        return False


class Pending:
    """A file that is written but not yet under its key."""

    __slots__ = ("digest", "file", "head", "key", "name", "number", "temp", "when")

    def __init__(self, number: int, key: bytes, temp: bytes, file: int, when: bytes, digest: bytes) -> None:
        self.number, self.key, self.temp, self.file, self.when, self.digest = number, key, temp, file, when, digest
        self.head, _, self.name = key.rpartition(b"/")


class Writer:
    """Writes files all or nothing: temporary file → flushed → renamed → directory flushed, many at a time.

    `when` is `b"*"` (only if nothing is there), an etag (only if that is there) or empty. `tell` gets the `OUTCOME`s.
    """

    BATCH = 256
    BATCH_BYTES = 16 << 20

    def __init__(self, root: Root, tell: Callable[[bytes], object], *, flush: bool = True) -> None:
        self.root = root
        self.tell = tell
        self.flush = flush
        self.pending: list[Pending] = []
        self.bytes = 0
        self.records: list[bytes] = []
        self.open: dict[int, tuple[bytes, bytes]] = {}
        self.lost = False
        """Whether anything was not written."""
        self.keep = False
        """Whether a file that could not be published stays where it is."""

    def put(self, number: int, key: bytes, flags: int, data: Buffer, digest: bytes = b"", when: bytes = b"") -> None:
        """Write one whole thing; its outcome follows with the batch."""
        try:
            if key.endswith(b"/") or flags & DIR:
                self.folder(number, key.rstrip(b"/"))
            elif flags & LINK:
                self.link(number, key, bytes(data), when)
            else:
                got = hashlib.sha256(data).digest()
                if digest and digest != got:
                    raise Failure("integrity", "the bytes that arrived are not those that were sent", key)
                file = self.create(key, flags)
                try:
                    write_all(file, data)
                except BaseException:
                    self.drop(file)
                    raise
                self.add(number, key, file, got, when, len(data))
        except (OSError, Failure) as error:
            self.fail(number, error, key)
        if len(self.pending) >= self.BATCH or self.bytes >= self.BATCH_BYTES:
            self.commit()

    def create(self, key: bytes, flags: int) -> int:
        """A new temporary file beside `key`."""
        mode = 0o777 if flags & EXEC else 0o666
        temp = temp_name()
        if key.rpartition(b"/")[2].startswith(TEMP):
            raise clash(key, "names of unfinished files are ours")
        try:
            file = os.open(temp, _NEW, mode, dir_fd=self.root.parent(key, create=True)[0])
        except FileNotFoundError:  # the directory was removed, perhaps by another writer that had made it
            self.commit()
            self.root.close()
            fd, _ = self.root.parent(key, create=True)
            try:
                file = os.open(temp, _NEW, mode, dir_fd=fd)
            except FileNotFoundError:
                raise Failure("access", "no file can be made in this directory", key) from None
        self.open[file] = (temp, key)
        return file

    def add(self, number: int, key: bytes, file: int, digest: bytes, when: bytes, size: int) -> None:
        """A temporary file of `create` is complete: publish it with the batch."""
        self.pending.append(Pending(number, key, self.open[file][0], file, when, digest))
        self.bytes += size

    def drop(self, file: int) -> None:
        """Forget a temporary file of `create`."""
        temp, key = self.open.pop(file)
        self.lost = True
        os.close(file)
        try:
            fd, _ = self.root.parent(key)
            os.unlink(temp, dir_fd=fd)
        except (OSError, Failure):
            pass  # its directory is gone, and it with that

    def folder(self, number: int, key: bytes) -> None:
        """Make an empty directory."""
        fd = self.root.directory(key, create=True)
        self.root.fresh.discard(key)
        if not key:
            self.root.above.clear()
        self.records.append(record(number, os.fstat(fd), b""))

    def link(self, number: int, key: bytes, target: bytes, when: bytes) -> None:
        """Make a symbolic link."""
        fd, name = self.root.parent(key, create=True)
        temp = temp_name()
        os.symlink(target, temp, dir_fd=fd)
        try:
            self._publish(fd, temp, name, key, when)
        except BaseException:
            os.unlink(temp, dir_fd=fd)
            raise
        if self.flush:
            sync(fd)
        self.records.append(record(number, os.stat(name, dir_fd=fd, follow_symlinks=False), target))

    def fail(self, number: int, error: BaseException, key: bytes) -> None:
        """Tell of an item that was not written."""
        self.lost = True
        data = failure(error, key)
        self.records.append(OUTCOME.pack(number, FAILED, 0, 0, 0, 0, len(data)) + data)

    def commit(self) -> None:
        """Publish everything that is complete and tell the outcomes."""
        pending, self.pending, self.bytes = self.pending, [], 0
        if pending:
            if self.flush:
                self._flush(pending)
            touched: set[int] = set()
            last, locked = None, -1
            try:
                for item in pending:
                    if item.head != last:
                        unlock(locked)
                        locked, last = -1, item.head
                        try:
                            locked = lock(self.root.parent(item.key)[0])
                        except (OSError, Failure):
                            locked = -1  # the item itself will fail on the same error
                    self._finish(item, touched)
            finally:
                unlock(locked)
            if self.flush:
                touched |= self.root.made
                self.root.made.clear()
                if len(touched) > 8:
                    self._sync_all(touched)
                else:
                    for fd in touched:
                        sync(fd)
        if self.records:
            records, self.records = self.records, []
            self.tell(b"".join(records))
        self.root.trim()

    def _finish(self, item: Pending, touched: set[int]) -> None:
        try:
            fd, name = self.root.parent(item.key)
            self._publish(fd, item.temp, name, item.key, item.when)
            self.open.pop(item.file)
            found = os.fstat(item.file)
            os.close(item.file)
            touched.add(fd)
            self.records.append(record(item.number, found, item.digest))
        except (OSError, Failure) as error:
            if item.file in self.open and not self.keep:
                self.drop(item.file)
            self.fail(item.number, error, item.key)

    def _publish(self, fd: int, temp: bytes, name: bytes, key: bytes, when: bytes) -> None:
        still_wanted()
        if when == b"*":
            try:
                os.link(temp, name, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
            except FileExistsError:
                raise Failure("exists", "something is there already", key) from None
            os.unlink(temp, dir_fd=fd)
            return
        if when:
            try:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                raise Failure("conflict", "it is gone", key) from None
            if etag(found).encode() != when:
                raise Failure("conflict", "somebody else changed it", key)
        elif _is_special(fd, name):
            raise clash(key, "a pipe, socket or device stands where a file is to be")
        try:
            os.rename(temp, name, src_dir_fd=fd, dst_dir_fd=fd)
        except (IsADirectoryError, FileExistsError):
            raise clash(key, "there is a directory of that name") from None

    def _flush(self, pending: list[Pending]) -> None:
        if len(pending) < 4:
            for item in pending:
                os.fsync(item.file)
            return
        devices = {os.fstat(item.file).st_dev: item.file for item in (pending[0], pending[-1])}
        heads = {item.head: item.file for item in pending}
        if len(heads) > 1:
            for file in heads.values():
                devices.setdefault(os.fstat(file).st_dev, file)
        for file in devices.values():
            if not sync_file_system(file):
                for item in pending:
                    os.fsync(item.file)
                return

    def _sync_all(self, touched: set[int]) -> None:
        for fd in {os.fstat(fd).st_dev: fd for fd in touched}.values():
            if not sync_file_system(fd):
                for each in touched:
                    sync(each)
                return

    def abort(self) -> None:
        """Remove every temporary file, and directories that were made for what did not come."""
        self.pending = []
        for file in list(self.open):
            if self.keep:
                os.close(file)
            else:
                self.drop(file)
        if self.lost:
            self.root.unmake()


def record(number: int, found: os.stat_result, extra: bytes) -> bytes:
    """The `OUTCOME` of something that was done."""
    flags = flags_of(found)
    return (
        OUTCOME.pack(number, flags, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, len(extra))
        + extra
    )


def expect(check: bytes, text: str, key: bytes) -> None:
    """Hold the digest of what came against the one that was told, if one of its kind was."""
    from rh.digest import contradict

    if contradict(check.decode(), text):
        raise Failure("integrity", "what came is not what was asked for", key)


def plain_digest(check: bytes) -> bytes:
    """The raw SHA-256 of the whole that a checksum is; nothing if it is another."""
    return bytes.fromhex(check[7:].decode()) if check.startswith(b"sha256:") else b""


def digest_field(text: str, chunks: bytes) -> bytes:
    """A digest as the end of an `OUTCOME`: 32 raw bytes, or text and chunks."""
    return dumps([text, chunks]) if chunks else bytes.fromhex(text.rpartition(":")[2])
