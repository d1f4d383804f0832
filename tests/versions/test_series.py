"""Numbers, aliases and their history in a registry."""

import multiprocessing
import threading

import pytest

from rh.errors import ConflictError, InvalidError, NotFoundError
from rh.registry.sql.sqlite import SQLiteRegistry
from rh.types import Location
from rh.versions.series import Series, check_alias

STORE = Location("memory", "data/.rh-store")


def tree(number):
    return f"sha256:{number:064x}"


@pytest.fixture
def series(tmp_path):
    with SQLiteRegistry(tmp_path / "registry.db") as registry:
        yield Series(registry, "a1", "~/cats")


def add(series, number, **more):
    return series.add(tree(number), STORE, files=1, size=1, **more)


def test_numbers_grow_and_equal_content_makes_no_new_version(series):
    first, new = add(series, 1, message="begin", tags=("a",), metadata={"k": 1})
    assert (first.number, first.parent, new) == (1, None, True)
    assert (first.message, first.tags, first.metadata, first.aliases) == ("begin", ("a",), {"k": 1}, ("latest",))
    again, new = add(series, 1)
    assert (again.number, new) == (1, False)
    assert add(series, 2)[0].parent == 1
    assert add(series, 1)[0].number == 3  # what was once is new again after something else
    assert [version.number for version in series] == [1, 2, 3]
    assert series.get("latest").number == series.get(None).number == 3
    assert series.get("v2").digest == tree(2)


def test_what_is_not_there_is_named_with_the_nearest(series):
    with pytest.raises(NotFoundError, match="no versions"):
        series.get(None)
    version, _ = add(series, 1, aliases=("production",))
    assert version.aliases == ("latest", "production")
    with pytest.raises(NotFoundError, match="did you mean production"):
        series.get("producton")
    with pytest.raises(NotFoundError, match="no version v7") as caught:
        series.get("v7")
    assert "v1" in caught.value.hint
    add(series, 0x10 << 248)
    assert series.get(tree(1)[:30]).number == 1
    add(series, 2)
    with pytest.raises(InvalidError, match="several"):
        series.get("sha256:00")
    with pytest.raises(NotFoundError, match="sha256:ff"):
        series.get("sha256:ff")


@pytest.mark.parametrize("alias", ["a:b", "a/b", "", "latest", "v3", "-x", "x" * 129, "ü", 5])
def test_words_that_are_no_alias(alias):
    with pytest.raises(InvalidError, match="alias"):
        check_alias(alias)


def test_an_alias_moves_only_from_where_it_was_seen(series):
    one, two = add(series, 1)[0], add(series, 2)[0]
    series.alias("staging", one, expect=None)
    with pytest.raises(ConflictError, match="stands on v1 by now, not on no version"):
        series.alias("staging", two, expect=None)
    series.alias("staging", two, expect=1)
    series.alias("staging", two)
    assert series.aliases() == {"staging": 2}
    series.unalias("staging")
    with pytest.raises(NotFoundError):
        series.unalias("staging")
    assert [move.version for move in series.alias_history("staging")] == [1, 2, None]
    assert [move.version for move in series.alias_history("latest")] == [one.number for one in series.all()]


def test_a_parent_that_is_not_the_newest_is_a_conflict(series):
    add(series, 1)
    add(series, 2, parent=1)
    with pytest.raises(ConflictError, match="is at v2 by now, and this was made from v1"):
        add(series, 3, parent=1)
    assert series.latest() == 2


def test_only_what_nobody_needs_is_dropped(series):
    one, two, three = (add(series, number)[0] for number in (1, 2, 3))
    series.alias("kept", two)
    with pytest.raises(ConflictError, match="kept"):
        series.drop(two)
    with pytest.raises(ConflictError, match="newest"):
        series.drop(three)
    series.drop(one)
    with pytest.raises(NotFoundError):
        series.alias("late", one)
    assert [version.number for version in series] == [2, 3]
    assert add(series, 4)[0].number == 4


def test_nothing_is_dropped_while_an_alias_moves_onto_it(series):
    """Of a drop and an alias at once, one wins, whichever: no alias stands on nothing (promise 16)."""
    for round_ in range(30):
        version = add(series, 2 * round_ + 1)[0]
        add(series, 2 * round_ + 2)
        gate = threading.Barrier(2)
        failed = []

        def attempt(do, gate=gate, failed=failed):
            gate.wait()
            try:
                do()
            except (ConflictError, NotFoundError) as error:
                failed.append(error)

        threads = [
            threading.Thread(target=attempt, args=(lambda version=version: series.drop(version),)),
            threading.Thread(target=attempt, args=(lambda version=version: series.alias("x", version),)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(failed) <= 1
        for number in series.aliases().values():
            assert series.get(f"v{number}").number == number


def _commit(path, start):
    with SQLiteRegistry(path) as registry:
        for number in range(start, start + 25):
            add(Series(registry, "a1", "~/cats"), number)


def test_processes_that_commit_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_commit, args=(tmp_path / "r.db", 100 * n + 1)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    with SQLiteRegistry(tmp_path / "r.db") as registry:
        found = Series(registry, "a1", "~/cats").all()
    assert [version.number for version in found] == list(range(1, 101))
    assert len({version.digest for version in found}) == 100
