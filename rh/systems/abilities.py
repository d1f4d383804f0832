"""What a place may be able to do beyond the six verbs.

Each is a protocol, asked for with `system.ask(Protocol)`: wrappers and plug-ins answer for what they wrap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from rh.systems.base import Bytes, Settings, System
from rh.systems.far.skip import Skip
from rh.types import ANY, Condition, Entry, Link, Outcome, SignedRequest, Span

__all__ = [
    "WORKERS",
    "Bucketed",
    "Bulk",
    "Composed",
    "Digesting",
    "Direct",
    "Fetching",
    "Following",
    "Held",
    "Item",
    "Linked",
    "Multipart",
    "Paging",
    "Piece",
    "Running",
    "ServerCopy",
    "Signing",
    "Streaming",
    "Sweeping",
    "Upload",
    "Versioned",
    "Vouching",
]


class Item(NamedTuple):
    """One thing to write in bulk: `data` is whole, in memory, at most a few MiB; or a link."""

    key: str
    data: Bytes | Link
    executable: bool | None = None


WORKERS = 16
"""So many requests at once, where many are better than one and nobody says how many."""


@runtime_checkable
class Bucketed(Protocol):
    """A kind of system whose places begin with a bucket. The class itself is asked: no bucket is open yet."""

    def buckets(self, settings: Settings) -> Iterator[str]:
        """The names of the buckets that there are, as far as who asks may list them."""


@runtime_checkable
class Bulk(Protocol):
    """Many small things in few round trips, or at once. Outcomes come in any order, one for each item.

    `workers` bounds the requests that are under way at once; where one stream carries all, it means nothing.
    """

    largest: int
    """Files of more bytes than this go better one by one, by several threads."""

    def read_many(
        self, entries: Iterable[Entry], *, workers: int = WORKERS
    ) -> Iterator[tuple[Entry, bytes | Exception]]:
        """The bytes of each entry, or its error. `ConflictError` if an entry's etag is no longer current.

        Entries may come back with a `check` that was computed next to the bytes; those that had a SHA-256 as `check`
        need none, since the caller compares with it.
        """

    def write_many(self, items: Iterable[Item], *, workers: int = WORKERS) -> Iterator[Outcome]:
        """Write each item with no precondition; lazily: items are taken as room is."""


class Piece(NamedTuple):
    """`size` bytes that another place holds: all there are under `key`, or, from byte `start` on, a range of them.

    With an `etag`, they are those only while the object has it; with a `version`, what is under the key now may be
    another state of it (`Versioned`).
    """

    system: System
    key: str
    size: int
    start: int | None = None
    etag: str | None = None
    version: str | None = None


@runtime_checkable
class Composed(Protocol):
    """What is here is made of bytes that other places hold, so it can be moved from there, not by way of here.

    The etag of an entry is the digest of its bytes (text form of `rh.content.digest`): who takes the pieces compares.
    """

    def origins(self) -> Sequence[System]:
        """The places that the bytes are in, the likeliest first; single files may be at others."""

    def pieces_of(self, entry: Entry) -> Sequence[Piece]:
        """What the bytes of a file are, in order. `ConflictError` if it is not the one that was listed."""


@runtime_checkable
class Held(Protocol):
    """Some of what is here lies on a disk of this machine, whole."""

    def held(self, entry: Entry) -> tuple[System, Entry] | None:
        """The file with the bytes of an entry, compared with its digest; `None` if there is none."""


@runtime_checkable
class Direct(Protocol):
    """A host that can log in to another host with its own keys, and move bytes there or from there."""

    def can_send_to(self, other: System) -> bool:
        """Whether this host reaches `other` by itself (tried once, then remembered)."""

    def send_to(self, other: System, pairs: Iterable[tuple[Entry, str]]) -> Iterator[Outcome]:
        """Send each entry of this host to the key on `other`; digests of what moved are in the outcomes.

        What contradicts the entry's `check` is not published.
        """

    def receive_from(self, other: System, pairs: Iterable[tuple[Entry, str]]) -> Iterator[Outcome]:
        """The same, begun by the receiving host (`can_send_to` of the receiver says whether it reaches `other`)."""


class Upload(Protocol):
    """One large object arriving in parts. Part `n` covers bytes `[n·part_size, (n+1)·part_size)`."""

    token: str
    """Enough to go on with this upload in another process (`Multipart.resume`); no secret."""
    part_size: int

    def put(self, number: int, data: Bytes) -> str:
        """Store part `number` (from 0; any order, any thread, again if need be). Returns the part's tag."""

    def parts(self) -> dict[int, str]:
        """Tags of the parts that have arrived."""

    def finish(self, tags: Sequence[str], *, when: Condition = ANY) -> Entry:
        """Publish the object, given the tag of every part in order.

        Raises:
            NotFoundError: the upload is gone; perhaps because it was finished, and the answer to that was lost.
        """

    def abort(self) -> None:
        """Forget it; nothing remains."""


@runtime_checkable
class Multipart(Protocol):
    """Large objects in parallel, resumable parts."""

    def begin(self, key: str, size: int, *, part_size: int, executable: bool | None = None) -> Upload:
        """Start an upload of `size` bytes. The upload may choose a larger `part_size` (a multiple)."""

    def resume(self, key: str, token: str) -> Upload:
        """Go on with an upload begun earlier; `NotFoundError` when it is gone."""


@runtime_checkable
class Streaming(Protocol):
    """Bytes are stored as they come: nothing is won by holding a file, or a part of one, until all of it is there.

    Also in `System.write`, a piece is done with when the next is asked for.
    """

    def put_stream(self, upload: Upload, number: int, pieces: Iterable[Bytes]) -> str:
        """`Upload.put` of a part that comes in pieces. What they raise passes as it is; the part is to be put again."""


Watch: TypeAlias = Callable[[str, int], None]
"""Told a key, and how many bytes of it are there by now; by any thread."""


@runtime_checkable
class Linked(Protocol):
    """Paths that links may lead to by others."""

    def real_path(self) -> str:
        """The root's path, absolute and without links. It need not be there."""


@runtime_checkable
class ServerCopy(Protocol):
    """Copies that the place itself makes."""

    def can_copy_from(self, source: System) -> bool:
        """Whether objects of `source` can be copied here without their bytes leaving the place."""

    def copy_many(
        self, source: System, pairs: Iterable[tuple[Entry, str]], *, watch: Watch | None = None
    ) -> Iterator[Outcome]:
        """Copy each entry of `source` to the key here; each copy is all or nothing and `Match`es the entry's etag.

        Where the place computes digests on the way, they are in the outcomes, and one that contradicts the entry's
        `check` is an `IntegrityError`: then nothing is published.

        Args:
            source: where the entries are; `can_copy_from` says whether that will do.
            pairs: entries there, and keys here.
            watch: is told of large files how far they are, where the place can tell. An error of it ends that copy.
        """


@runtime_checkable
class Signing(Protocol):
    """Requests another machine may send without our credentials."""

    def sign_read(self, key: str, *, expires_s: int = 3600) -> SignedRequest: ...

    def sign_write(self, key: str, size: int, *, expires_s: int = 3600) -> SignedRequest: ...

    def sign_part(self, upload: Upload, number: int, size: int, *, expires_s: int = 3600) -> SignedRequest:
        """A request that stores one part of an upload; its tag is the answer's `ETag` header, if any."""


@runtime_checkable
class Versioned(Protocol):
    """The place can keep the states of an object that were overwritten or deleted, each under a name of its own."""

    def versions_of(self, entries: Sequence[Entry]) -> Mapping[str, str]:
        """By key, the names of the states that these entries are, of those that the place may keep."""

    def pinned(self, versions: Mapping[str, str]) -> System:
        """The same place, to read: each of these keys is the state of that name, whatever is there now.

        A state that there is none of any more is `NotFoundError`.
        """


@runtime_checkable
class Vouching(Protocol):
    """The place knows checksums that neither its listings nor its heads tell."""

    def vouch(self, entry: Entry) -> Entry:
        """The entry with the checksum of its bytes, if there is one; asked for with a few requests.

        A checksum `"etag:<hex>"` is an MD5 unless the answer to a read says that the object is encrypted. An entry that
        is no longer what the place has comes back as it is.
        """


@runtime_checkable
class Fetching(Protocol):
    """The place fetches by itself: it moves bytes between its own files and URLs; they do not pass here."""

    def fetch_many(
        self, requests: Iterable[tuple[Entry, str, SignedRequest | Sequence[tuple[Span, SignedRequest]]]]
    ) -> Iterator[Outcome]:
        """Get each URL, or ranges of URLs one after the other, into the key here.

        The entry is the source's: what its size, its etag or its checksum shows to be something else is not published.
        The digest of what arrived is in the outcome. Neighbours in a URL that come one after the other are fetched
        together.
        """

    def send_many(self, requests: Iterable[tuple[Entry, Sequence[tuple[Span, SignedRequest]]]]) -> Iterator[Outcome]:
        """Put each entry of this place to URLs, whole or part by part.

        `Outcome.digest` and `.chunks` are of the bytes sent; `entry.etag` is the tags the URLs answered, one
        a line; `entry.check` is the MD5 of what went in one request, to be held against what the store then has.
        """


@runtime_checkable
class Following(Protocol):
    """The place has symbolic links and can look through them.

    `System.list` shows a link as a link. What was listed through links is read through them, wherever they lead, when
    it is asked for with its etag (`Match`, or in `Bulk`, `Digesting`, `ServerCopy`); writing and deleting never do
    (promise 10).
    """

    def list_following(self, prefix: str = "", *, after: str = "", depth: int | None = None) -> Iterator[Entry]:
        """`System.list`, with what a link points to in its place: a file, or the members of a directory, under the
        link's key.

        The order is that of the keys shown. A link that cannot be followed is shown as the link that it is: one
        that leads to nothing, to a directory it lies in, or to where nobody may look.
        """


@runtime_checkable
class Paging(Protocol):
    """Whole trees are listed in pages, which costs less than entry by entry."""

    def list_pages(
        self, prefix: str = "", *, after: str = "", follow: bool = False, skip: Skip | None = None
    ) -> Iterator[Sequence[Entry]]:
        """`System.list` without a depth, in pages of at least one entry and at most some thousands.

        `follow` is asked only of places that are `Following`: then it is `list_following`. Nobody wants what is in the
        directories of which `skip` is true: a place that reads each of them by itself does not.
        """


@runtime_checkable
class Digesting(Protocol):
    """The place computes digests next to the bytes."""

    def digest_many(self, entries: Iterable[Entry]) -> Iterator[Outcome]:
        """The digest (and chunk digests) of each entry, as it is now."""


@runtime_checkable
class Running(Protocol):
    """The place can run a command."""

    def run(
        self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float | None = None
    ) -> tuple[int, bytes, bytes]:
        """Exit status, standard output and standard error of `argv` (never a shell line), run in the root."""


@runtime_checkable
class Sweeping(Protocol):
    """The place can collect what crashes left behind."""

    def sweep(self, *, older_than_s: float = 0.0) -> int:
        """Remove unfinished uploads and files of ours below the root. Returns how many."""
