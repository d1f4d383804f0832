"""The wider of two types holds every value of both."""

from __future__ import annotations

import datetime
from decimal import Decimal
from itertools import product

import pyarrow as pa
import pytest

from rh.tables.promotion import alike, fits, wider

EDGES = {
    **{getattr(pa, f"int{bits}")(): [-(1 << bits - 1), (1 << bits - 1) - 1, None] for bits in (8, 16, 32, 64)},
    **{getattr(pa, f"uint{bits}")(): [0, (1 << bits) - 1] for bits in (8, 16, 32, 64)},
    pa.float32(): [0.1, 1.5, float("inf")],
    pa.float64(): [0.1, 1e300],
    pa.decimal128(5, 2): [Decimal("-999.99")],
    pa.decimal128(38, 0): [Decimal(10**38 - 1)],
    pa.string(): ["", "ü"],
    pa.large_string(): ["x"],
    pa.binary(): [b"\xff"],
    pa.bool_(): [True],
    pa.null(): [None],
    pa.date32(): [datetime.date(2026, 1, 1)],
    pa.date64(): [datetime.date(1900, 1, 1)],
    pa.time32("s"): [datetime.time(1, 2, 3)],
    pa.time64("us"): [datetime.time(1, 2, 3, 4)],
    pa.timestamp("s"): [1_767_225_600],
    pa.timestamp("us"): [1_767_225_600_000_001],
    pa.timestamp("us", "UTC"): [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)],
    pa.duration("ms"): [datetime.timedelta(milliseconds=1)],
    pa.dictionary(pa.int8(), pa.string()): ["a"],
    pa.list_(pa.int8()): [[1, None], None],
    pa.list_(pa.int64()): [[1 << 40]],
    pa.struct([("a", pa.int8())]): [{"a": 1}],
    pa.struct([("a", pa.int32())]): [{"a": 70_000}],
    pa.struct([("b", pa.int32())]): [{"b": 1}],
}


@pytest.mark.parametrize("one", EDGES, ids=str)
def test_no_value_is_lost(one) -> None:
    for other in EDGES:
        found = wider(one, other)
        assert (found is None) == (wider(other, one) is None)
        if found is None:
            continue
        assert fits(one, found)
        assert fits(other, found)
        for kind in (one, other):
            values = pa.array(EDGES[kind], pa.string() if pa.types.is_dictionary(kind) else kind).cast(kind)
            assert values.cast(found).to_pylist() == values.to_pylist()


def test_what_has_no_wider_type() -> None:
    apart = [
        pa.int64(),
        pa.string(),
        pa.bool_(),
        pa.binary(),
        pa.timestamp("us"),
        pa.timestamp("us", "UTC"),
        pa.date32(),
    ]
    for one, other in product(apart, apart):
        assert (wider(one, other) is not None) == (one == other)
    assert wider(pa.int64(), pa.float64()) is None
    assert wider(pa.uint64(), pa.int8()) is None
    assert wider(pa.struct([("a", pa.int8())]), pa.struct([("b", pa.int8())])) is None
    assert wider(pa.decimal128(38, 0), pa.decimal128(38, 38)) == pa.decimal256(76, 38)
    assert alike(pa.list_(pa.large_string()), pa.large_list(pa.string()))
    assert not fits(pa.int64(), pa.int32())
