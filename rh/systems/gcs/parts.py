"""Large objects on Google Cloud Storage, in parallel parts: hidden objects beside the target, composed at the end.

A part is an ordinary object called `.rh-part-<id>-<number>`; at most 32 of them are composed in one request, more by
way of intermediate objects. Their generations and checksums are pinned, and the checksum of the whole is computed from
theirs.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from rh.errors import ConflictError, ExistsError, IntegrityError, InvalidError, NotFoundError, RhError
from rh.observe import log
from rh.systems.base import HIDDEN, Bytes
from rh.systems.gcs.json_api import BATCH, STAMP, Api, Crc, Object, Target, precheck
from rh.systems.gcs.listing import objects
from rh.types import ANY, Condition, Entry

__all__ = ["PART", "ComposedUpload", "combine", "remove"]

PART = f"{HIDDEN}part-"
COMPOSE = 32
MAX_PARTS = COMPOSE**3
"""Three levels of composing."""
ROOMY = 32 << 20
"""Parts are made larger than asked for, up to this many bytes, if that saves a round of composing."""
_TOKEN = re.compile(r"([0-9a-f]{16})\.(\d{1,14})\.(\d{1,14})\.(\d{1,4})", re.ASCII)
_TAG = re.compile(r"(\d{1,20})\.([0-9a-f]{8})", re.ASCII)
_POLYNOMIAL = 0x82F63B78


def _times(left: int, right: int) -> int:
    """The product of two polynomials modulo that of CRC-32C, bits reflected."""
    product = 0
    bit = 1 << 31
    while bit:
        if left & bit:
            product ^= right
        right = (right >> 1) ^ (_POLYNOMIAL if right & 1 else 0)
        bit >>= 1
    return product


def _shift(length: int) -> int:
    """The polynomial x to the power of 8·length."""
    power, square = 1 << 31, 1 << 23
    while length:
        if length & 1:
            power = _times(square, power)
        square = _times(square, square)
        length >>= 1
    return power


def combine(parts: Iterable[tuple[int, int]]) -> int:
    """The CRC-32C of concatenated bytes, from the `(crc, length)` of each piece."""
    whole = 0
    shifts: dict[int, int] = {}
    for crc, length in parts:
        if length not in shifts:
            shifts[length] = _shift(length)
        whole = _times(shifts[length], whole) ^ crc
    return whole


def remove(api: Api, targets: Sequence[Target]) -> list[RhError]:
    """Delete objects in few requests; the errors of those that could not be."""
    batches = [targets[at : at + BATCH] for at in range(0, len(targets), BATCH)]
    if len(batches) < 2:
        found = [api.delete_batch(batch) for batch in batches]
    else:
        with ThreadPoolExecutor(min(4, len(batches)), "rh-gcs-delete") as pool:
            found = list(pool.map(api.delete_batch, batches))
    return [error for errors in found for error in errors]


def _near(name: str, up: int) -> str:
    """The directory of an object's name, `up` levels higher; ends with `/` unless it is the bucket's top."""
    head = name
    for _ in range(up + 1):
        head = head.rstrip("/").rpartition("/")[0]
    return f"{head}/" if head else ""


def _parse(token: str) -> tuple[str, int, int, int]:
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise InvalidError("not the token of an upload to Google Cloud Storage", where=token[:80])
    identity, size, part_size, up = found.groups()
    return identity, int(size), int(part_size), int(up)


class _Piece(NamedTuple):
    name: str
    generation: str
    crc: int
    length: int


class ComposedUpload:
    """One large object arriving in parts (`rh.systems.abilities.Upload`)."""

    def __init__(self, api: Api, what: Target, key: str, token: str) -> None:
        self.token = token
        self._id, self.size, self.part_size, up = _parse(token)
        self._near = _near(what.name, up)
        self._api = api
        self._what = what
        self._key = key

    @classmethod
    def begin(cls, api: Api, what: Target, key: str, size: int, part_size: int) -> ComposedUpload:
        """A fresh upload. No request is sent before the first part."""
        if size < 0 or part_size < 1:
            raise InvalidError(f"not a size and a part size: {size}, {part_size}", where=what.where)
        step = part_size
        # One round of composing is the cheapest; beyond that, parts stay as small as was asked for.
        while -(-size // step) > (COMPOSE if step + part_size <= ROOMY else MAX_PARTS):
            step += part_size
        up = 0
        while len(_near(what.name, up).encode()) > 960:
            up += 1
        return cls(api, what, key, f"{secrets.token_hex(8)}.{size}.{step}.{up}")

    @property
    def count(self) -> int:
        """How many parts there are."""
        return -(-self.size // self.part_size)

    def length(self, number: int) -> int:
        """Bytes of part `number`."""
        if not 0 <= number < self.count:
            raise InvalidError(f"there is no part {number} of {self.count}", where=self._what.where)
        return min(self.part_size, self.size - number * self.part_size)

    def target(self, number: int, size: int) -> Target:
        """The object that holds part `number`, which has `size` bytes."""
        if size != self.length(number):
            raise InvalidError(f"part {number} has {self.length(number)} bytes, not {size}", where=self._what.where)
        return self._target(f"{number:05d}")

    def _target(self, tail: str) -> Target:
        return self._what._replace(name=f"{self._near}{PART}{self._id}-{tail}")

    def put(self, number: int, data: Bytes) -> str:
        """Store a part; its tag is its generation and checksum."""
        got = memoryview(data).nbytes
        target = self.target(number, got)
        crc = Crc(self._api.extend)
        crc.update(data)
        made = self._api.insert(target, (data,), got, crc.value)
        if made.size != got or made.crc != crc.value:
            raise IntegrityError(
                f"part {number} was damaged on the way",
                where=self._what.where,
                expected=f"{crc.value:08x}",
                got=str(made.crc),
            )
        return _tag(made)

    def _arrived(self) -> dict[int, Object]:
        lead = f"{self._near}{PART}{self._id}-"
        found = {}
        for thing in objects(self._api, self._what.bucket, lead, self._what.where):
            tail = thing.name[len(lead) :]
            if tail.isdigit() and int(tail) < self.count and thing.size == self.length(int(tail)):
                found[int(tail)] = thing
        return found

    def parts(self) -> dict[int, str]:
        """Tags of the parts that have arrived whole; `NotFoundError` when there is none."""
        found = {number: _tag(thing) for number, thing in self._arrived().items()}
        if not found:
            raise NotFoundError("no part of this upload is there", where=self._what.where, hint="begin again")
        return found

    def finish(self, tags: Sequence[str], *, when: Condition = ANY) -> Entry:
        """Compose the parts into the object and remove them. May be repeated when its answer was lost."""
        if len(tags) != self.count:
            raise InvalidError(f"there are {self.count} parts, not {len(tags)}", where=self._what.where)
        stamp = None if when is ANY else self._id
        if not tags:
            return self._checked(self._api.insert(self._what, (), 0, 0, when=when, stamp=stamp), 0)
        pieces = self._pieces(tags)
        crc = combine((piece.crc, piece.length) for piece in pieces)
        try:
            precheck(self._api, self._what, when)
            level = 0
            while len(pieces) > COMPOSE:
                pieces = self._compose_level(pieces, level)
                level += 1
            sources = [(piece.name, piece.generation) for piece in pieces]
            made = self._api.compose(self._what, sources, when=when, stamp=stamp)
        except (ExistsError, ConflictError):
            # Composed already, by an attempt of ours whose answer was lost?
            made = self._api.get(self._what)
            if (made.metadata or {}).get(STAMP) != stamp or made.crc != crc:
                raise
        entry = self._checked(made, crc)
        for error in self._clear():
            log.warning("a part of %s stays behind until the next sweep: %s", self._what.where, error)
        return entry

    def _pieces(self, tags: Sequence[str]) -> list[_Piece]:
        found = [_TAG.fullmatch(tag) for tag in tags]
        arrived = {} if all(found) else self._arrived()
        pieces = []
        for number, told in enumerate(found):
            if told:
                generation, crc = told.group(1), int(told.group(2), 16)
            else:
                # Sent by another machine to a signed URL: what it was told by the store need not reach us.
                thing = arrived.get(number)
                if thing is None or thing.crc is None:
                    raise NotFoundError(f"part {number} has not arrived", where=self._what.where)
                generation, crc = thing.generation, thing.crc
            pieces.append(_Piece(self._target(f"{number:05d}").name, generation, crc, self.length(number)))
        return pieces

    def _compose_level(self, pieces: list[_Piece], level: int) -> list[_Piece]:
        groups = [pieces[at : at + COMPOSE] for at in range(0, len(pieces), COMPOSE)]

        def one(number: int) -> _Piece:
            group = groups[number]
            what = self._target(f"c{level}-{number:05d}")
            made = self._api.compose(what, [(piece.name, piece.generation) for piece in group])
            crc, length = combine((piece.crc, piece.length) for piece in group), sum(piece.length for piece in group)
            if made.size != length or made.crc != crc:
                raise IntegrityError("parts were not composed as they are", where=what.where)
            return _Piece(what.name, made.generation, crc, length)

        with ThreadPoolExecutor(min(8, len(groups)), "rh-gcs-compose") as pool:
            return list(pool.map(one, range(len(groups))))

    def _checked(self, made: Object, crc: int) -> Entry:
        if made.size != self.size or made.crc != crc:
            made = self._api.get(self._what)
        if made.size != self.size or made.crc != crc:
            self._api.delete(self._what, made.generation)
            raise IntegrityError(
                "the object is not the parts it was composed of",
                where=self._what.where,
                expected=f"{self.size} bytes, crc32c {crc:08x}",
                got=f"{made.size} bytes, crc32c {made.crc or 0:08x}",
            )
        return made.entry(self._key)

    def _clear(self) -> list[RhError]:
        lead = f"{self._near}{PART}{self._id}-"
        try:
            names = [thing.name for thing in objects(self._api, self._what.bucket, lead, self._what.where)]
            return remove(self._api, [self._what._replace(name=name) for name in names])
        except RhError as error:
            return [error]

    def abort(self) -> None:
        """Remove the parts that have arrived."""
        errors = self._clear()
        if errors:
            raise errors[0]


def _tag(thing: Object) -> str:
    return f"{thing.generation}.{thing.crc or 0:08x}"
