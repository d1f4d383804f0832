"""The trees that are moved: deterministic, incompressible, every file different."""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_PER_DIRECTORY = 100
_BLOCK = 4 * MIB


@dataclass(frozen=True)
class Shape:
    """A tree of `files` files of `size` bytes. `again`: what is timed is its copy to where it lies already."""

    name: str
    files: int
    size: int
    again: bool = False

    @property
    def bytes(self) -> int:
        return self.files * self.size

    @property
    def title(self) -> str:
        return f"{self.files:,} × {_size(self.size)}" + (", unchanged" if self.again else "")

    @property
    def by_files(self) -> bool:
        """Whether its speed is told in files/s (else in MB/s)."""
        return self.size < MIB

    def scaled(self, scale: float) -> Shape:
        """A smaller one of the same kind: fewer files, or if it is one file, a shorter one."""
        if self.files == 1:
            return replace(self, size=max(1, round(self.size * scale)))
        return replace(self, files=max(1, round(self.files * scale)))


SHAPES = (
    Shape("small", 5_000, 4 * KIB),
    Shape("medium", 200, 5 * MIB),
    Shape("large", 1, GIB),
    Shape("unchanged", 10_000, 4 * KIB, again=True),
)
HASHED = (Shape("files", 50_000, 4 * KIB), Shape("large", 1, GIB))
"""What is digested in place."""


def _size(size: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} B"


def memory_directory() -> Path:
    """Where data lies: tmpfs where there is one, so that no disk is measured."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() and os.access(shm, os.W_OK) else Path(tempfile.gettempdir())


def make(root: Path, shape: Shape) -> Path:
    """The tree of a shape below `root`, written unless it is there; its directory."""
    place = root / f"{shape.files}x{shape.size}"
    if place.exists():
        return place
    block = memoryview(random.Random(7).randbytes(_BLOCK + MIB))
    building = place.with_name(place.name + ".part")
    for number, name in enumerate(_names(shape)):
        path = building / name
        if number % _PER_DIRECTORY == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for index, start in enumerate(range(0, shape.size, _BLOCK)):
                length = min(_BLOCK, shape.size - start)
                head = b"%08d.%08d" % (number, index)
                at = (number * 257 + index * 4099) % MIB
                file.write(head[:length])
                file.write(block[at : at + max(0, length - len(head))])
    building.rename(place)
    return place


def _names(shape: Shape) -> Iterator[str]:
    for number in range(shape.files):
        yield f"d{number // _PER_DIRECTORY:04}/f{number:06}.bin"


def count(root: Path) -> tuple[int, int]:
    """Files and bytes below a directory, without those of `rh` itself."""
    files = size = 0
    for path, _, names in os.walk(root):
        for name in names:
            if not name.startswith(".rh-"):
                files += 1
                size += os.stat(os.path.join(path, name)).st_size
    return files, size


def same(left: Path, right: Path, shape: Shape) -> bool:
    """Whether two directories hold the same bytes under the names of a shape."""
    return all(filecmp.cmp(left / name, right / name, shallow=False) for name in _names(shape))


def remove(root: Path) -> None:
    """Remove a directory, if it is there."""
    shutil.rmtree(root, ignore_errors=True)
