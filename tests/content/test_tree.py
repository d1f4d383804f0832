"""The tree digest and the manifest: one definition, any tree."""

import hashlib
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rh import digest as digests
from rh.content import manifest
from rh.content.rows import paged
from rh.content.tree import Row, key_bytes, key_text, tree_digest, without_implied
from rh.errors import IntegrityError, UnsupportedError
from rh.systems.memory import MemorySystem
from rh.types import Location

PART = st.binary(min_size=1, max_size=6).filter(lambda b: b"/" not in b and b not in (b".", b"..")).map(key_text)
KEYS = st.lists(PART, min_size=1, max_size=4).map("/".join)


def rows_of(files: dict[str, bytes]) -> list[Row]:
    return [
        Row(key, len(data), "file", digests.of_bytes(data).text, f"e{len(data)}", len(data) % 2 == 1)
        for key, data in sorted(files.items(), key=lambda pair: key_bytes(pair[0]))
    ]


def node(lines: list[tuple[bytes, int, str, bytes]]) -> str:
    text = b"".join(b"%s %d %s %d:%s\n" % (k, s, d.encode(), len(n), n) for k, s, d, n in lines)
    return "sha256:" + hashlib.sha256(text).hexdigest()


def test_the_digest_is_the_documented_construction() -> None:
    files = {"a-b": b"1", "a/x": b"22", "a/y/z": b"", "b": b"3"}
    inner = node([(b"f", 0, digests.of_bytes(b"").text, b"z")])
    a = node([(b"f", 2, digests.of_bytes(b"22").text, b"x"), (b"d", 0, inner, b"y")])
    root = node(
        [
            (b"x", 1, digests.of_bytes(b"1").text, b"a-b"),
            (b"d", 2, a, b"a"),
            (b"x", 1, digests.of_bytes(b"3").text, b"b"),
        ]
    )
    assert tree_digest(rows_of(files)) == root


@given(st.dictionaries(KEYS, st.binary(max_size=40), max_size=12))
def test_any_change_changes_the_digest(files: dict[str, bytes]) -> None:
    before = tree_digest(rows_of(files))
    assert tree_digest(rows_of(dict(reversed(files.items())))) == before
    for key, data in files.items():
        assert tree_digest(rows_of(files | {key: data + b"!"})) != before
        assert tree_digest(rows_of({k: v for k, v in files.items() if k != key})) != before


def test_empty_directories_count_and_implied_ones_do_not() -> None:
    file = rows_of({"a/x": b"1"})
    assert tree_digest(without_implied([Row("a/", 0, "dir"), *file])) == tree_digest(file)
    assert tree_digest([*file, Row("b/", 0, "dir")]) != tree_digest(file)


def test_keys_out_of_order_or_without_digest_are_refused() -> None:
    with pytest.raises(IntegrityError, match="order"):
        tree_digest([Row("b", 0, "file", digests.of_bytes(b"").text), Row("a", 0, "file", digests.of_bytes(b"").text)])
    with pytest.raises(IntegrityError, match="not known"):
        tree_digest([Row("a", 0)])


@given(st.dictionaries(KEYS, st.binary(max_size=40), max_size=12))
def test_a_manifest_gives_back_its_rows(files: dict[str, bytes]) -> None:
    system = MemorySystem.open(Location("memory", "manifest-test"), {"kind": "memory", "name": "memory"})
    rows = rows_of(files)
    footer, _ = manifest.write(system, paged(rows))
    reader = manifest.read(system)
    assert reader is not None
    assert list(reader.each()) == rows
    assert reader.footer == footer
    assert footer.tree == tree_digest(rows)


def test_a_large_manifest_is_written_as_a_stream_and_read_in_blocks() -> None:
    system = MemorySystem.open(Location("memory", "manifest-large"), {"kind": "memory", "name": "memory"})
    noise = (random.Random(n).randbytes(512) for n in range(30_000))
    rows = [
        Row(f"{n:06}", n, "file", "sha256:" + chunks[:32].hex(), "e", False, chunks) for n, chunks in enumerate(noise)
    ]
    manifest.write(system, paged(rows))
    assert system.head(manifest.NAME).size > 8 * 1024 * 1024
    reader = manifest.read(system)
    assert reader is not None
    assert list(reader.each()) == rows


@given(st.data())
def test_no_cut_and_no_flipped_bit_goes_unnoticed(data: st.DataObject) -> None:
    system = MemorySystem.open(Location("memory", "manifest-cut"), {"kind": "memory", "name": "memory"})
    rows = rows_of({f"k{n}": bytes([n]) * n for n in range(30)})
    manifest.write(system, paged(rows))
    whole = system.read(manifest.NAME).read()
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        # The gzip header's time, flags and system bytes carry nothing; a flip there is no damage.
        at = data.draw(st.integers(10, len(whole) - 1))
        damaged = whole[:at] + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[at + 1 :]
    system.write(manifest.NAME, damaged)
    with pytest.raises(IntegrityError):
        list(manifest.read(system) or ())


def test_a_newer_format_is_refused_and_unknown_fields_are_not() -> None:
    system = MemorySystem.open(Location("memory", "manifest-new"), {"kind": "memory", "name": "memory"})
    packer = zlib.compressobj(wbits=31)
    system.write(manifest.NAME, packer.compress(b'{"rh-manifest":99}\n') + packer.flush())
    with pytest.raises(UnsupportedError, match="format"):
        list(manifest.read(system) or ())
    packer = zlib.compressobj(wbits=31)
    lines = b'{"rh-manifest":1}\n{"k":"a","s":1,"zz":[1,{"y":2}]}\n{"files":1,"size":1,"tree":null,"more":3}\n'
    system.write(manifest.NAME, packer.compress(lines) + packer.flush())
    reader = manifest.read(system)
    assert reader is not None
    assert list(reader.each()) == [Row("a", 1, executable=False)]
    assert reader.footer == manifest.Footer(1, 1, None)
