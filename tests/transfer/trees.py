"""Trees that go through everything: names and contents that break careless code."""

from __future__ import annotations

import random
from pathlib import Path

JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffdb0043") + bytes(range(256)) + b"\xff\xd9"

FILES: dict[str, bytes] = {
    "a.txt": b"plain\n",
    "crlf.txt": b"one\r\ntwo\r\n\x00\x1a",
    "empty": b"",
    "photo.jpg": JPEG,
    ".hidden": b"dot",
    ".git/config": b"[core]\n",
    "node_modules/x.pyc": b"what Git ignores is data",
    "a-b": b"sorts before a/",
    "a/b": b"and this after",
    "a/c/deep/er/file": b"deep",
    "with space/in name": b"1",
    "quote'\"`": b"2",
    "semi;colon$(touch x)": b"3",
    "percent%2Fsign %41": b"4",
    "-rf": b"5",
    "emoji-\U0001f600": b"6",
    "nfc-\u00e9": b"7",
    "nfd-e\u0301": b"8",
    "plus+and&=?#[]*": b"9",
    "{braces}|pipe": b"10",
    "tilde~": b"11",
}
EXECUTABLE = {"a/b", "-rf"}
EMPTY = ["empty dir", "a/nothing here"]


def make(root: Path, *, large: bool = False) -> dict[str, bytes]:
    """Write the tree below `root`; returns its files. `large` adds one file of more than two chunks."""
    files = dict(FILES)
    files["mid.bin"] = random.Random(1).randbytes(300_000)
    if large:
        files["large.bin"] = random.Random(2).randbytes(33 * 1024 * 1024 + 7)
    for key, data in files.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if key in EXECUTABLE:
            path.chmod(0o755)
    for key in EMPTY:
        (root / key).mkdir(parents=True)
    return files


def read(root: Path) -> dict[str, tuple[bytes, bool] | None]:
    """What is below `root`, apart from what is ours: contents and executable bits; `None` for empty directories."""
    found: dict[str, tuple[bytes, bool] | None] = {}
    for path in sorted(root.rglob("*")):
        key = str(path.relative_to(root))
        if path.name.startswith(".rh-"):
            continue
        if path.is_dir():
            if not any(path.iterdir()):
                found[key + "/"] = None
        else:
            found[key] = (path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return found
