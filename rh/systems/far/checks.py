"""Checksums as stores tell them, computed: `md5`, `md5-<part>`, `sha256`, `crc32c`, `crc64nvme`.

`md5-<part>` is the MD5 of the MD5s of parts of so many bytes, S3's etag of an object that arrived in parts.

Python's library has no CRC-32C and no CRC-64, and byte by byte in Python they would take minutes a gigabyte. Here some
40 KiB are folded at once, as one long integer: bytes are coefficients of a polynomial, the first one times x to the
power of `_Polynomial.fold` is congruent to the same times a polynomial of few terms, so a fold is a few shifts and
exclusive ors. Source: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ", Intel 2009.

This module runs on the far side: standard library only, Python 3.7 or newer.
"""

from __future__ import annotations

import hashlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_BLOCK = 1 << 20


class _Polynomial:
    """A reflected CRC that begins and ends with all bits turned.

    Args:
        bits: of the checksum.
        polynomial: without its highest term, the lowest bit first.
        fold: bits between what is folded and where; 7 beyond whole bytes less one bit more than `bits`.
        terms: exponents of the terms of x to the power of `fold`, modulo the polynomial. A fold was searched for that
            has few.

    """

    def __init__(self, bits: int, polynomial: int, fold: int, terms: tuple[int, ...]) -> None:
        self.bits = bits
        self.polynomial = polynomial
        self.step = (fold - (bits - 1)) // 8
        self.shifts = [bits - 1 - term for term in terms]
        self.table = [self._of_byte(value) for value in range(256)]

    def _of_byte(self, value: int) -> int:
        for _ in range(8):
            value = (value >> 1) ^ (self.polynomial if value & 1 else 0)
        return value


_POLYNOMIALS = {
    "crc32c": (32, 0x82F63B78, 343951, (5, 12, 15, 18, 26)),
    "crc64nvme": (64, 0x9A6C9329AC4BC9B5, 282943, (7, 11, 12, 20, 23, 27, 31, 33, 36, 37, 43, 47, 48, 52, 53, 57)),
}
_made: dict[str, _Polynomial] = {}


class Crc:
    """A running CRC: `update` it with bytes, then ask for its `hexdigest`."""

    def __init__(self, name: str) -> None:
        kept = _made.get(name)
        self._of = kept if kept is not None else _made.setdefault(name, _Polynomial(*_POLYNOMIALS[name]))
        self._held = bytearray()
        self._ones = (1 << self._of.bits) - 1
        self._state = self._ones
        """What has been folded, `_width` bits of it, the first to come lowest; before the first fold the beginning."""
        self._width = self._of.bits
        self._mask = (1 << 8 * self._of.step) - 1
        self._begun = False

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Go on with these bytes."""
        of = self._of
        self._held += data
        at, step = 0, of.step
        if not self._begun:
            wide = step + of.bits // 8
            if len(self._held) < wide:
                return
            self._state ^= int.from_bytes(self._held[:wide], "little")
            self._begun, at = True, wide
        while len(self._held) - at >= step:
            low = self._state & self._mask
            piece = int.from_bytes(self._held[at : at + step], "little")
            self._state = (self._state >> 8 * step) | (piece << of.bits)
            for shift in of.shifts:
                self._state ^= low << shift
            at += step
        del self._held[:at]

    def hexdigest(self) -> str:
        """The checksum of all bytes so far."""
        table, rest = self._of.table, bytes(self._held)
        if self._begun:
            crc, rest = 0, self._state.to_bytes(self._of.step + self._of.bits // 8, "little") + rest
        else:
            crc = self._ones
        for byte in rest:
            crc = (crc >> 8) ^ table[(crc ^ byte) & 255]
        return format(crc ^ self._ones, "x").rjust(self._of.bits // 4, "0")


def checksum(name: str, read: Callable[[int, int], bytes], size: int) -> str | None:
    """The checksum in hex of `size` bytes that `read(start, stop)` gives; `None` for a kind that is not known here.

    Args:
        name: what is before the colon of `rh.types.Entry.check`.
        read: may give less than it was asked for, but not nothing.
        size: how many bytes.
    """
    kind, _, part = name.partition("-")
    if kind == "md5" and part.isdigit() and int(part):
        digests = [_md5(read, at, min(at + int(part), size)) for at in range(0, size, int(part))]
        return str(new_md5(b"".join(digests)).hexdigest())
    if name == "md5":
        return _md5(read, 0, size).hex()
    if name == "sha256":
        sha256 = hashlib.sha256()
        _each(read, 0, size, sha256.update)
        return sha256.hexdigest()
    if name in _POLYNOMIALS:
        crc = Crc(name)
        _each(read, 0, size, crc.update)
        return crc.hexdigest()
    return None


def new_md5(data: bytes = b"") -> Any:
    """An MD5 for a checksum, on every Python."""
    try:
        return hashlib.md5(data, usedforsecurity=False)
    except TypeError:  # before Python 3.9
        return hashlib.md5(data)  # noqa: S324


def _md5(read: Callable[[int, int], bytes], start: int, stop: int) -> bytes:
    state = new_md5()
    _each(read, start, stop, state.update)
    digest: bytes = state.digest()
    return digest


def _each(read: Callable[[int, int], bytes], start: int, stop: int, take: Callable[[bytes], None]) -> None:
    while start < stop:
        data = read(start, min(start + _BLOCK, stop))
        if not data:
            break
        take(data)
        start += len(data)
