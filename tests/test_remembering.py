"""What is remembered of a tree changes or goes while it is used: nothing is silently left out for that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from rh import config, transfer
from rh.content.cache import Described, DigestCache
from rh.content.manifest import Footer
from rh.content.rows import Rows
from rh.content.tree import Row
from rh.systems import locate, open_system
from rh.systems.base import System
from rh.systems.local import LocalSystem
from rh.systems.wrap import Wrapper
from rh.testing import servers
from rh.transfer.survey import Survey
from rh.types import Location
from tests.transfer import trees

T = TypeVar("T")


class Meanwhile(Wrapper):
    """Something happens right after the manifest was looked at."""

    def __init__(self, inner: System, happens: Callable[[], object]) -> None:
        super().__init__(inner)
        self._happens = happens

    def call(self, verb: str, key: str, work: Callable[[], T]) -> T:
        done = work()
        if verb == "head":
            self._happens()
        return done


def forget(_: System) -> None:
    for path in (config.home() / "cache").glob("digests.db*"):
        path.unlink()


def damage(_: System) -> None:
    (config.home() / "cache" / "digests.db").write_bytes(b"no database at all" * 1000)
    for path in (config.home() / "cache").glob("digests.db-*"):
        path.unlink()


def learn(system: System) -> None:
    DigestCache(system).remember([Row("a.txt", 6, "file", "sha256:00", "another")])


@pytest.mark.parametrize("happens", [forget, damage, learn])
def test_a_tree_is_whole_without_what_was_remembered(
    happens: Callable[[System], None], s3_server: servers.S3Server, tmp_path: Path
) -> None:
    """Empty directories and executable bits are in the manifest only, here of a store that keeps neither."""
    trees.make(tmp_path / "a")
    config.register("there", s3_server.settings())
    place = locate(f"remembered-{happens.__name__}", "there")
    receipt = transfer.copy_tree(locate(str(tmp_path / "a")), place)
    system = open_system(place)
    assert DigestCache(system).described() is not None
    before = {known.entry.key: (known.digest, known.executable) for known in Survey(system)}
    survey = Survey(Meanwhile(system, lambda: happens(system)))
    assert {known.entry.key: (known.digest, known.executable) for known in survey} == before
    assert survey.exact
    assert set(trees.EMPTY) <= {key.rstrip("/") for key in before}
    assert survey.footer is not None
    assert survey.footer.tree == receipt.digest


def test_rows_break_off_where_they_are_no_longer_those_of_the_manifest(tmp_path: Path) -> None:
    system = LocalSystem(Location("file", "/data"), {"timeout_s": 5})
    cache = DigestCache(system, tmp_path / "digests.db")
    rows = [Row(f"{n:05}", 3, "file", f"sha256:{n:064x}", "e") for n in range(12_000)]
    described = Described("m", Footer(len(rows), 3 * len(rows), "sha256:00"))
    cache.replace((Rows.of(rows[at : at + 1000]) for at in range(0, len(rows), 1000)), described)

    def taken(of: Described | None, *, learning: bool) -> tuple[list[str], str | None]:
        pages, keys = cache.pages(of), []
        while True:
            try:
                keys += next(pages).keys
            except StopIteration as stop:
                return keys, stop.value
            if learning and len(keys) == 3000:
                cache.remember([Row("00000-new", 3, "file", "sha256:00", "e")])

    assert taken(described, learning=False) == ([row.key for row in rows], None)
    keys, last = taken(described, learning=True)
    assert last == keys[-1]
    assert keys == [row.key for row in rows[: len(keys)]]
    assert 3000 <= len(keys) < len(rows)
    assert taken(described, learning=False) == ([], "")
    assert len(taken(None, learning=False)[0]) == len(rows) + 1
