"""The order of rows: the same everywhere, every row once, shares that are equal."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rh.errors import InvalidError
from rh.tables import order
from rh.tables.order import Group, Window

PERMUTED = [6, 3, 4, 0, 5, 2, 7, 1]
FEW = [5, 7, 0, 4, 2, 3, 6, 1]
MANY = [94718, 77584, 78278, 156914, 160711, 95755, 77378, 156957]
DIGEST = "9e4432d6508f46ca7958ffae3495bcba3b219cc2491d86d89bfd9bf7b850d538"


@given(total=st.integers(0, 10**15), world_size=st.integers(1, 500))
def test_shares_follow_each_other_cover_all_and_differ_by_one_row(total: int, world_size: int) -> None:
    shares = [order.share(total, rank, world_size) for rank in range(world_size)]
    assert shares[0][0] == 0
    assert shares[-1][1] == total
    assert all(left[1] == right[0] for left, right in itertools.pairwise(shares))
    sizes = [stop - start for start, stop in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("rank", "world_size"), [(1, 1), (-1, 2), (4, 4), (0, 0), (0, -1), ("0", 1)])
def test_a_rank_is_one_of_the_world(rank: int, world_size: int) -> None:
    with pytest.raises(InvalidError, match=r"rank|world_size"):
        order.check_rank(rank, world_size)


@given(count=st.integers(1, 5000), seed=st.integers(), first=st.integers(0, 10**12))
def test_scattering_is_a_permutation_that_depends_on_its_arguments_alone(count: int, seed: int, first: int) -> None:
    places = order.scatter(count, seed, first)
    assert sorted(places.tolist()) == list(range(count))
    assert (order.scatter(count, seed, first) == places).all()


def test_the_order_of_a_seed_is_this_one_on_every_machine() -> None:
    """A change of these numbers makes states and experiments of earlier releases mean other rows."""
    assert order.permutation(8, 42, "files") == PERMUTED
    assert order.scatter(8, 42, 0).tolist() == FEW
    many = order.scatter(200_000, 42, 131_072)
    assert many[:8].tolist() == MANY
    assert hashlib.sha256(many.astype("<u4").tobytes()).hexdigest() == DIGEST


def test_scattered_rows_are_as_far_from_each_other_as_chance_puts_them() -> None:
    """Neighbours end up a third of the table apart, and the blocks of the result draw evenly from all blocks."""
    import numpy as np

    for count in (300, 4096, 100_000, 131_072):
        places = order.scatter(count, 7, 0).astype(np.int64)
        assert abs(np.abs(np.diff(places)).mean() / count - 1 / 3) < 0.05
        side = 8
        counts = np.histogram2d(np.arange(count), places, bins=side)[0]
        expected = count / side**2
        assert ((counts - expected) ** 2 / expected).sum() / (side - 1) ** 2 < 2.2


def test_seeds_and_places_give_other_orders() -> None:
    orders = {tuple(order.scatter(1000, seed, first).tolist()) for seed in range(8) for first in (0, 1000)}
    assert len(orders) == 16
    assert len({tuple(order.permutation(20, 1, "groups", file)) for file in range(8)}) == 8


GROUPS = [Group(0, number, rows, rows) for number, rows in enumerate((40, 40, 40, 300, 10, 20))]


def test_windows_are_whole_groups_and_the_same_from_wherever_they_begin() -> None:
    """A stream that resumes at a window meets the windows it would have met."""
    found = list(order.windows([GROUPS], 0, rows=100, size=1 << 40, across=True))
    assert [[group.number for group in window.groups] for window in found] == [[0, 1], [2], [3], [4, 5]]
    assert [window.start for window in found] == [0, 80, 120, 420]
    for window in found:
        left = order.between([GROUPS], window.start, None)
        assert list(order.windows(left, window.start, rows=100, size=1 << 40, across=True)) == [
            Window(tuple(group._replace(stop=group.rows) for group in one.groups), one.start)
            for one in found
            if one.start >= window.start
        ]
    small = order.windows([GROUPS], 0, rows=1000, size=70, across=True)
    assert [len(window.groups) for window in small] == [1, 1, 1, 1, 2]


def test_the_next_file_is_not_looked_into_for_a_window_of_this_one() -> None:
    """Looking into it costs a request."""

    def files():
        yield GROUPS[:2]
        pytest.fail("looked into")

    assert len(next(order.windows(files(), 0, rows=1000, size=1 << 40, across=False)).groups) == 2
    assert len(next(order.windows(files(), 0, rows=80, size=1 << 40, across=True)).groups) == 2


@given(start=st.integers(0, 500), stop=st.integers(0, 500))
def test_between_cuts_groups_at_the_row(start: int, stop: int) -> None:
    rows = [(group.number, row) for group in GROUPS for row in range(group.rows or 0)]
    files = [GROUPS[:2], [], GROUPS[2:]]
    left = [group for groups in order.between(files, start, stop) for group in groups]
    found = [(group.number, row) for group in left for row in range(group.start, group.stop or 0)]
    assert found == rows[start:stop]
