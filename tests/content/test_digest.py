"""The digest: plain SHA-256 up to 16 MiB, S3's composite construction above."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rh import digest as digests

CHUNK = digests.CHUNK


def test_small_content_has_its_plain_sha256() -> None:
    assert digests.of_bytes(b"abc").text == "sha256:" + hashlib.sha256(b"abc").hexdigest()
    assert digests.of_bytes(bytes(CHUNK)).text == "sha256:" + hashlib.sha256(bytes(CHUNK)).hexdigest()


def test_large_content_has_the_digest_of_its_chunk_digests() -> None:
    data = bytes(range(256)) * (CHUNK // 256) * 2 + b"tail"
    parts = [hashlib.sha256(data[at : at + CHUNK]).digest() for at in range(0, len(data), CHUNK)]
    expected = "sha256-16m:" + hashlib.sha256(b"".join(parts)).hexdigest()
    assert digests.of_bytes(data) == (expected, b"".join(parts))
    assert digests.of_reader(lambda a, b: data[a:b], len(data), workers=1).text == expected


@given(st.lists(st.integers(0, CHUNK), max_size=5), st.booleans())
def test_a_stream_in_any_blocks_has_the_same_digest(sizes: list[int], known: bool) -> None:
    data = bytes(sum(sizes))
    hasher = digests.Hasher(len(data) if known else None)
    at = 0
    for size in sizes:
        hasher.update(data[at : at + size])
        at += size
    assert hasher.finish() == digests.of_bytes(data)


def test_chunks_double_until_there_are_few_enough() -> None:
    assert digests.chunk_size(CHUNK) == 0
    assert digests.chunk_size(CHUNK + 1) == CHUNK
    assert digests.chunk_size(CHUNK * 8192) == CHUNK
    assert digests.chunk_size(CHUNK * 8192 + 1) == 2 * CHUNK
    assert digests.chunk_size(5 << 40) == 1024 << 20
    assert digests.combine(b"", 32 << 20).text.startswith("sha256-32m:")


@pytest.mark.parametrize(
    "text", ["", "abc", "md5:" + "0" * 32, "sha256:" + "g" * 64, "sha256-1x:" + "0" * 64, "sha256-8m:" + "0" * 64]
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        digests.parse(text)


def test_digests_parse() -> None:
    value = "0" * 64
    assert digests.parse("sha256:" + value) == ("sha256", 0, value)
    assert digests.parse("sha256-32m:" + value) == ("sha256", 32 << 20, value)
