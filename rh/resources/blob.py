"""One object's bytes, wherever they are, and how they become the object again."""

from __future__ import annotations

import enum
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Self, Unpack, overload

from rh import digest as digests
from rh.content.tree import Row
from rh.errors import IntegrityError, InvalidError, NotFoundError, UnsupportedError
from rh.registry.lineage import recording
from rh.resources import codecs, places, places_saved
from rh.resources.arguments import load_only, place_for, split_options
from rh.resources.base import UNWRITTEN, Located
from rh.resources.nearest import telling_nearest
from rh.resources.places import Place
from rh.resources.versioned import Versioned
from rh.systems import settings_of
from rh.systems.base import System
from rh.types import BytesMode, Entry, Location, TextKeywords, TextMode

if TYPE_CHECKING:
    from rh.transfer import Keywords, Plan, Receipt, Verification, WholeKeywords
    from rh.versions.diff import Diff
    from rh.versions.lease import Lease
    from rh.versions.store import Store, Tree

__all__ = ["Blob", "Stamp"]


class _Nothing(enum.Enum):
    NOTHING = "nothing"


NOTHING = _Nothing.NOTHING
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Stamp:
    """What was stored: its digest, and the etag the store gave it. It holds while the etag is the same."""

    digest: str
    size: int
    etag: str | None = None

    def describes(self, entry: Entry) -> bool:
        """Whether `entry` is still what was stored then."""
        return self.etag is not None and self.etag == entry.etag and self.size == entry.size


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Blob(Versioned):
    """Bytes under one key, or an object that is still to be written there.

    Attributes:
        location: the file itself; `None` until it has a place.
        serializer: how the object becomes bytes: `bytes`, `text`, `json`, `npy`, `arrow`, `safetensors`, `pickle`.
        stamp: what was stored, while that is known; lets `read` and `verify` notice damaged bytes.
        receipt: what the `.to()` that made this value really moved.

    Example:
        >>> import rh
        >>> blob = rh.blob({"epochs": 3}, name="docs-params").save()
        >>> rh.blob(name="docs-params").fetch()
        {'epochs': 3}
    """

    kind: ClassVar[str] = "blob"
    serializer: str | None = None
    stamp: Stamp | None = None
    receipt: Receipt | None = None
    value: Any = NOTHING

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.serializer is not None:
            codecs.named(self.serializer)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Blob):
            return NotImplemented
        if self.value is not other.value:
            return False
        mine, theirs = ((b.name, b.location, b.serializer or "bytes", b.tags, dict(b.metadata)) for b in (self, other))
        return mine == theirs

    __hash__ = Versioned.__hash__

    # The value as plain data.

    def document(self) -> dict[str, Any]:
        if self.value is not NOTHING:
            raise InvalidError(
                "this blob is not written yet, so there is nothing to describe", hint=".write() or .save()"
            )
        document = super().document()
        if self.serializer is not None:
            document["serializer"] = self.serializer
        if self.stamp is not None:
            document["stamp"] = {"digest": self.stamp.digest, "size": self.stamp.size, "etag": self.stamp.etag}
        return document

    @classmethod
    def of_document(cls, document: dict[str, Any], *, local: bool) -> dict[str, Any]:
        fields = super().of_document(document, local=local)
        stamp = document.pop("stamp", None)
        if stamp is not None:
            fields["stamp"] = Stamp(str(stamp["digest"]), int(stamp["size"]), stamp.get("etag"))
        return fields | {"serializer": document.pop("serializer", None)}

    def committed(self, store: Store, base: str | None, lease: Lease) -> Tree:
        from rh.versions.commit import commit_file
        from rh.versions.source import Written

        if self.value is not NOTHING:
            raise InvalidError("this blob is not written yet", hint=UNWRITTEN)
        system, key = self.handle()
        written = None if self.stamp is None else Written(self.stamp.digest, self.stamp.etag)
        return commit_file(system, key, store, base=base, written=written, lease=lease)

    def at_version(self, location: Location) -> dict[str, Any]:
        return {"location": location / Located.placed(self).name, "stamp": None, "value": NOTHING, "receipt": None}

    @property
    def written(self) -> bool:
        """Whether the bytes are in their place; an object given to `rh.blob` is not until `write`, `save` or `to`."""
        return self.value is NOTHING

    def handle(self) -> tuple[System, str]:
        """The system opened at the directory of the file, and the file's key there."""
        location = self.placed()
        path = location.path.rstrip("/")
        repository = "://" in location.system and settings_of(location.system)["kind"] == "git"
        if not path or ("/" not in path and not repository):
            raise InvalidError("this is the root of a place, not a file in it", where=self.url)
        above = self.pin if self.version is None else None  # nothing is in what is a version of one file
        return places.at(location.parent, self.host, above), location.name

    @property
    def stored(self) -> Row | None:
        """What the record tells of the bytes, for transfers."""
        stamp = self.stamp
        return None if stamp is None else Row(self.placed().name, stamp.size, "file", stamp.digest, stamp.etag)

    # Getting.

    @property
    def data(self) -> Any:
        """The object: the one that was given, or else `fetch()`."""
        return self.fetch()

    def fetch(self, *, trust: bool = False) -> Any:
        """The object, as it was given to `rh.blob`.

        Args:
            trust: run a pickle. Everybody who could write to the blob's place may then run code here.

        Raises:
            NotFoundError: nothing is there.
            AccessError: it is a pickle, and `trust` is not true.
            IntegrityError: the bytes are not what was stored, or not of the declared serializer.
        """
        if self.value is not NOTHING:
            return self.value
        serializer = self.serializer or "bytes"
        if serializer == "pickle" and trust is not True:
            return codecs.decode(b"", serializer, trust=False, where=self.url)
        return codecs.decode(self.read(), serializer, trust=trust, where=self.url)

    @telling_nearest()
    def read(self) -> bytes:
        """The bytes, exactly; checked if they are those that were stored through `rh`."""
        if self.value is not NOTHING:
            return codecs.encode(self.value, self._chosen(self.value))
        from rh.resources.files import compare, reading

        recording.read(self)
        system, key = self.handle()
        with reading(system, key), system.read(key) as body:
            data = body.read()
            entry = body.entry
        if self.stamp is not None and self.stamp.describes(entry):
            got = digests.of_bytes(data).text
            if got != self.stamp.digest:
                raise IntegrityError(
                    "the bytes are not what was stored", where=self.url, expected=self.stamp.digest, got=got
                )
        else:
            compare(data, entry, self.url)
        return data

    @overload
    def open(self, mode: BytesMode = "rb") -> IO[bytes]: ...
    @overload
    def open(self, mode: TextMode, **text: Unpack[TextKeywords]) -> IO[str]: ...
    @overload
    def open(self, mode: str, **text: Unpack[TextKeywords]) -> IO[Any]: ...
    @telling_nearest()
    def open(
        self,
        mode: str = "rb",
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """The bytes as a file object, as `Folder.open` has it."""
        from rh.resources.files import Expected, open_file

        if self.value is not NOTHING:
            if "r" not in mode:
                raise InvalidError(
                    "this blob holds an object that is still to be written",
                    hint=UNWRITTEN,
                )
            raw = io.BytesIO(self.read())
            return raw if "b" in mode else io.TextIOWrapper(raw, encoding or "utf-8", errors, newline)
        if "r" not in mode:
            self.check_live()
        recording.opened(self, mode)
        system, key = self.handle()

        def known(entry: Entry) -> Expected | None:
            stamp = self.stamp
            return Expected(stamp.digest) if stamp is not None and stamp.describes(entry) else None

        return open_file(system, key, mode, encoding=encoding, errors=errors, newline=newline, expected=known)

    def stream(self, size: int = _PIECE) -> Iterator[bytes]:
        """The bytes in order, piece by piece; checked as `open` does it. Nothing is asked before the first one.

        Args:
            size: bytes of each piece; the last one may be shorter.

        Example:
            >>> import rh
            >>> b"-".join(rh.blob(b"abcde", name="docs-pieces").save().stream(2))
            b'ab-cd-e'
        """
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InvalidError(f"size={size!r} is not a number of bytes", hint="1 or more; leave it out for 1 MiB")

        def pieces() -> Iterator[bytes]:
            with self.open() as file:
                while piece := file.read(size):
                    yield piece

        return pieces()

    def diff(self, old: str, new: str = "latest") -> Diff:
        """What differs from one version to another, as `Folder.diff` has it. No bytes are read.

        Args:
            old: `"v1"`, an alias, or a digest.
            new: the same.
        """
        from rh.resources.comparing import diff_versions

        return diff_versions(self, old, new)

    def exists_in_system(self) -> bool:
        """Whether the bytes are in their place."""
        if self.location is None or self.value is not NOTHING:
            return False
        system, key = self.handle()
        try:
            system.head(key)
        except NotFoundError:
            return False
        return True

    @telling_nearest()
    def size(self) -> int:
        """Bytes."""
        if self.value is not NOTHING:
            return len(self.read())
        system, key = self.handle()
        return system.head(key).size

    @telling_nearest()
    def local(self) -> Path:
        """A file of this machine with the bytes: the blob itself if it is here, else a copy in the cache.

        As for `Folder.local`, the copy is not to be written to, and stays at least as long as this process does.
        """
        if self.value is not NOTHING:
            raise InvalidError(
                "this blob is not written yet",
                hint=UNWRITTEN,
            )
        recording.read(self)
        location = self.placed()
        if places.is_here(location):
            if not self.exists_in_system():
                raise NotFoundError("there is no such file", where=self.url)
            return Path(location.path)
        from rh import transfer
        from rh.versions import copies

        self.check_reachable()
        path = copies.taken("blobs", self.url, location.name)
        receipt = transfer.copy_file(location, Location("file", str(path)), stored=self.stored)
        copies.made(path, self.url, receipt.digest, receipt.bytes_moved)
        return path

    def __fspath__(self) -> str:
        if self.location is None or self.location.system != "file":
            raise UnsupportedError(
                "this blob is no file of this machine", where=repr(self), hint=".local() makes it one"
            )
        return self.location.path

    # Putting.

    def write(self, data: Any = None, *, serializer: str | None = None) -> Blob:
        """Store an object (by default the one given to `rh.blob`) and return the blob that has it.

        What was there before is replaced, all or nothing.

        Args:
            data: what to store instead.
            serializer: how; by default the one that belongs to the object's type.

        Raises:
            InvalidError: there is nothing to write, no serializer would give it back the same, or the record of the
                blob, by which others read it, says another one.
        """
        self.check_live()
        value = self.value if data is None else data
        if value is NOTHING:
            raise InvalidError("there is nothing to write", hint=".write(data)")
        serializer = serializer or self._chosen(value)
        if self.revision is not None and self.serializer not in (None, serializer):
            raise InvalidError(
                f"{self.name} is saved as {self.serializer}, and this would be {serializer}",
                where=self.url,
                hint=f"rh.blob(…, name={self.name!r}).save() changes the record, too",
            )
        encoded = codecs.encode(value, serializer)
        digest = digests.of_bytes(encoded).text
        location = self.location
        if location is None:
            stem = places.stem_of(self.name) or digest.replace(":", "-")
            location = places.default_place("file", stem)
        blob = replace(
            self,
            location=location,
            value=NOTHING,
            serializer=serializer,
            stamp=None,
            receipt=None,
            host=self.host or places.portable(location),
        )
        system, key = blob.handle()
        entry = system.write(key, encoded, size=len(encoded))
        recording.wrote(blob)
        return replace(blob, stamp=Stamp(digest, len(encoded), entry.etag))

    def _chosen(self, value: Any) -> str:
        """The serializer asked for, for the object asked about; else the one of another object's type."""
        if self.serializer is not None and (value is self.value or self.serializer == "pickle"):
            return self.serializer
        return codecs.pick(value)

    @telling_nearest()
    def to(self, system: Place = None, path: str | os.PathLike[str] | None = None, **options: Unpack[Keywords]) -> Blob:
        """Copy the bytes to another place, verified, and return the copy; an object not written yet is written there.

        Args:
            system: as for `Folder.to`.
            path: the file's place on that system, or a URL; one that ends with `/` is a directory for it.
            options: as for `Folder.to`.
        """
        from rh import transfer

        chosen, watch = split_options(options)
        if chosen.dry_run:
            raise InvalidError("a dry run makes no copy to return", hint=".plan(…) says what would be moved")
        target = self._target(system, path)
        if self.value is not NOTHING:
            return replace(self, location=target, host=places.portable(target), revision=self.revision).write()
        if target == self.location:
            return self
        recording.read(self)
        receipt = transfer.copy_file(self.placed(), target, chosen, stored=self.stored, **watch)
        moved = replace(self, location=target, host=places.portable(target), stamp=None, receipt=receipt, version=None)
        recording.wrote(moved)
        if receipt.digest is None:
            return moved
        there, key = moved.handle()
        entry = there.head(key)
        return replace(moved, stamp=Stamp(receipt.digest, entry.size, entry.etag))

    @telling_nearest()
    def plan(
        self, system: Place = None, path: str | os.PathLike[str] | None = None, **options: Unpack[Keywords]
    ) -> Plan:
        """What `.to()` with the same arguments would move."""
        from rh import transfer

        if self.value is not NOTHING:
            raise InvalidError(
                "this blob is not written yet, so there is nothing to move",
                hint=UNWRITTEN,
            )
        chosen, _ = split_options(options)
        return transfer.plan_file(self.placed(), self._target(system, path), chosen, stored=self.stored)

    def restore(self, which: str, **options: Unpack[WholeKeywords]) -> Blob:
        """Make the live bytes what they were in a version. Versions stay.

        Args:
            which: `"v3"`, an alias, or a digest.
            options: as for `to`, without patterns.

        Raises:
            NotFoundError: there is no such version; nothing is changed.
            InvalidError: no version can be named like that.
        """
        self.check_live()
        return replace(self, receipt=self.at(which).to(path=self.url, **options).receipt)

    def _target(self, system: Place, path: str | os.PathLike[str] | None) -> Location:
        self.check_reachable()
        stem = places.stem_of(self.name)
        into = system if path is None and isinstance(system, str) and places.is_place(system) else path
        if isinstance(into, str) and into.endswith("/") and into.strip("/"):
            folder = places.target(system, path, stem)
            last = self.location.name if self.location is not None else (stem or self.digest()).rpartition("/")[2]
            if folder is not None:
                return folder / last.replace(":", "-")
        return places.target(system, path, stem or (lambda: self.digest().replace(":", "-")))

    def ready(self) -> Self:
        """The blob with its bytes in their place."""
        if self.value is not NOTHING:
            written = self.write()
            return replace(
                self, **{name: getattr(written, name) for name in ("location", "value", "serializer", "stamp", "host")}
            )
        if not self.exists_in_system():
            raise NotFoundError("there is nothing here to give a name to", where=self.url, hint=".write(data) first")
        return self

    @telling_nearest()
    def rm(self) -> None:
        """Remove the bytes, and nothing beside them. The record stays (`delete_configs`).

        Raises:
            NotFoundError: they are not there.
        """
        self.check_live()
        recording.wrote(self)
        system, key = self.handle()
        system.head(key)
        system.delete([key])

    @telling_nearest()
    def digest(self) -> str:
        """The digest of the bytes as they are now."""
        if self.value is not NOTHING:
            return digests.of_bytes(self.read()).text
        from rh import transfer

        self.check_reachable()
        return transfer.digest_file(self.placed())

    @telling_nearest()
    def verify(self) -> Verification:
        """Read every byte again and compare it with what was stored."""
        if self.version is not None or self.placed().in_version:
            return self.check_version()
        from rh import transfer

        system, key = self.handle()
        entry = system.head(key)
        got = transfer.digest_file(self.placed())
        wrong = self.stamp is not None and got != self.stamp.digest
        same = self.stamp is not None and self.stamp.describes(entry)
        return transfer.Verification(
            self.url,
            "nothing" if self.stamp is None else "record",
            1,
            entry.size,
            corrupt=(key,) if wrong and same else (),
            modified=(key,) if wrong and not same else (),
            digest=got,
        )

    def facts(self) -> Iterator[tuple[str, str]]:
        yield from super().facts()
        if self.serializer is not None:
            yield "serializer", self.serializer
        if self.value is not NOTHING:
            yield "holds", f"a {type(self.value).__name__}, not written yet"
        if self.stamp is not None:
            yield "size", f"{self.stamp.size:,} bytes"
            yield "digest", self.stamp.digest


def blob(
    data: Any = None,
    name: str | None = None,
    path: str | os.PathLike[str] | None = None,
    system: Place = None,
    *,
    serializer: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    dryrun: bool = False,
) -> Blob:
    r"""Return a blob: of an object to store, of an existing file, or with a name alone the one saved under it.

    Nothing is read or written yet; `read`, `write`, `save` and `to` do that.

    Args:
        data: bytes, text, JSON values, a numpy array, an Arrow table, a dict of numpy arrays; anything else needs
            `serializer="pickle"`.
        name: `x`, `~/x`, `@/x` or `/org/team/x`. The first argument is the data: `rh.blob("x")` is a blob of text, and
            `rh.blob(name="x")` the saved one.
        path: the file, as a path or URL; `rh://name:v3/file` is one in what was saved. Without it the place is
            `<root>/<name or digest>`.
        system: a system's name, a URL, a cluster.
        serializer: how the object becomes bytes, where its type does not say it.
        metadata: plain JSON values to be saved with it.
        dryrun: give the saved record even if its system is not known here.

    Example:
        >>> import rh
        >>> rh.blob(b"\r\n\x00\xff", name="docs-bytes").save().read()
        b'\r\n\x00\xff'
    """
    name, saved = places_saved.meant(name, path, system, dryrun=dryrun)
    if saved is not None and saved.is_directory and not saved.below:
        resource = saved.resource
        raise InvalidError(f"{resource.name} is a {resource.kind}, and no file", hint=f"rh.{resource.kind}(name=…)")
    if saved is not None and data is None and name is None and isinstance(saved.resource, Blob):
        return _with(saved.resource, serializer, metadata)
    if saved is None and data is None and path is None and system is None:
        found = load_only(name, Blob, dryrun=dryrun)
        return _with(found, serializer, metadata)
    if data is not None and serializer is None:
        serializer = codecs.pick(data)
    if saved is not None:
        value = NOTHING if data is None else data
        return Blob(name=name, serializer=serializer, metadata=metadata or {}, value=value, **saved.fields())
    place = None
    if path is not None or (system is not None and (name is not None or "://" in str(system))):
        place = place_for(name, path, system)
    elif name is not None:
        place = place_for(name, None, "here")
    elif system is not None and data is not None and serializer is not None:
        digest = digests.of_bytes(codecs.encode(data, serializer)).text
        place = places.target(system, None, digest.replace(":", "-"))
    return Blob(
        name=name,
        location=place,
        host=None if place is None else places.portable(place),
        serializer=serializer,
        metadata=metadata or {},
        value=NOTHING if data is None else data,
    )


def _with(blob: Blob, serializer: str | None, metadata: Mapping[str, Any] | None) -> Blob:
    """A saved blob with what else was said."""
    if serializer is not None:
        blob = replace(blob, serializer=serializer)
    return blob if metadata is None else replace(blob, metadata=metadata)
