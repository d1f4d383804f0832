"""Part of `rh.testing.tables`: what an adapter promises, as tests."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

import rh
from rh.errors import InvalidError, NotFoundError
from rh.tables import adapters

_ZONE = datetime.UTC
_MOMENT = datetime.datetime(2026, 2, 28, 23, 59, 59, 123456)  # noqa: DTZ001 - a column without a zone

TYPES: Mapping[str, Any] = {
    "small": pa.array([1, -128, 127, 0, 5], pa.int8()),
    "unsigned": pa.array([0, 2**64 - 1, 1, 2, 3], pa.uint64()),
    "whole": pa.array([1, -5, 2**62 + 1, 0, 7], pa.int64()),
    "whole_or_null": pa.array([1, None, 2**62 + 1, -5, 0], pa.int64()),
    "real": pa.array([1.5, float("nan"), None, float("inf"), -0.0], pa.float64()),
    "real32": pa.array([1.5, 2, 3, 4, 5], pa.float32()),
    "text": pa.array(["a", "", "ü😀", None, "x\0y\n"], pa.string()),
    "bytes": pa.array([b"\x00\xff", b"", None, b"a", b"b"], pa.binary()),
    "truth": pa.array([True, False, True, False, True]),
    "truth_or_null": pa.array([True, None, False, None, True]),
    "moment": pa.array([_MOMENT, None, _MOMENT, _MOMENT, _MOMENT], pa.timestamp("us")),
    "moment_ns": pa.array([1, 2, 3, 4, None], pa.timestamp("ns")),
    "moment_zone": pa.array([_MOMENT.replace(tzinfo=_ZONE)] * 4 + [None], pa.timestamp("us", "Europe/Paris")),
    "date": pa.array([datetime.date(2026, 2, 28), None, datetime.date(1, 1, 1), datetime.date(9999, 12, 31), None]),
    "time": pa.array([datetime.time(1, 2, 3, 4)] * 4 + [None], pa.time64("us")),
    "duration": pa.array([datetime.timedelta(1, 2, 3)] * 4 + [None], pa.duration("us")),
    "decimal": pa.array(
        [decimal.Decimal("1.10"), None, *(decimal.Decimal(text) for text in ("-9.99", "0", "5"))], pa.decimal128(10, 2)
    ),
    "list": pa.array([[1, 2], [], None, [3, None], [3]], pa.list_(pa.int64())),
    "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}, {"a": 2, "b": None}, {"a": 3, "b": "z"}]),
    "nested": pa.array([[{"n": "x", "k": [1]}], [], None, [{"n": None, "k": None}], []]),
    "category": pa.array(["u", "v", "u", None, "w"]).dictionary_encode(),
    "nothing": pa.nulls(5),
}
"""A column of each type, five rows, with what is most easily lost: nulls beside NaN, zones, the ends of ranges."""


class AdapterSuite:
    """Subclass it for an adapter.

    Attributes:
        name: of the adapter.
        kind: the type of what it fetches, and what `make` makes.
        lacks: columns of `TYPES` that the library itself cannot hold.
        lacks_when_empty: those whose type is in their values, so that without rows it is not kept.
        bad: values that cannot be a table, each with a part of the message that says so.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    lacks: ClassVar[frozenset[str]] = frozenset()
    lacks_when_empty: ClassVar[frozenset[str]] = frozenset()

    def make(self, table: pa.Table) -> Any:
        """A table as one of the library's own."""
        raise NotImplementedError

    def same(self, one: Any, other: Any) -> None:
        """Assert that two of the library's tables have equal columns, types and rows."""
        raise NotImplementedError

    def bad(self) -> list[tuple[Any, str]]:
        """Values of the library that cannot be a table, and what the error has to say."""
        return []

    @pytest.fixture
    def place(self, tmp_path: Any) -> str:
        """Where this test's table is to be."""
        return str(tmp_path / "table")

    def types(self) -> pa.Table:
        """What the library can hold of `TYPES`."""
        return pa.table({name: column for name, column in TYPES.items() if name not in self.lacks})

    def test_owner(self) -> None:
        """The adapter, and no other, takes the library's tables; the name finds it."""
        value = self.make(_numbers(3))
        found = [name for name in adapters.names() if adapters.named(name).owns(value)]
        assert found == [self.name]
        assert adapters.owner_of(value) is adapters.named(self.name)
        assert adapters.named(self.name).name == self.name

    def test_types(self, place: str) -> None:
        """What went in comes out: the library's own type, its columns, their types and values."""
        value = self.make(self.types())
        table = rh.table(value, path=place).write()
        assert table.native == self.name
        fetched = table.fetch()
        assert type(fetched).__name__ == self.kind
        self.same(fetched, self.make(self.types()))

    def test_other_handle(self, place: str) -> None:
        """Who only knows the place gets the same values, as Arrow or as any library's type that is asked for."""
        rh.table(_numbers(10), path=place).write()
        table = rh.table(path=place)
        assert table.fetch().equals(_numbers(10))
        adapter = adapters.named(self.name)
        self.same(table.fetch(self.name), adapter.of_arrow(_numbers(10)))
        if hasattr(table, f"to_{self.name}"):
            self.same(getattr(table, f"to_{self.name}")(), adapter.of_arrow(_numbers(10)))

    def test_no_rows(self, place: str) -> None:
        """A table without rows keeps its columns and their types."""
        empty = self.types().slice(0, 0).drop_columns(list(self.lacks_when_empty))
        table = rh.table(self.make(empty), path=place).write()
        assert table.num_rows == 0
        self.same(table.fetch(), self.make(empty))

    def test_one_row(self, place: str) -> None:
        """One row is a table."""
        table = rh.table(self.make(_numbers(1)), path=place).write()
        assert table.num_rows == 1
        self.same(table.fetch(), self.make(_numbers(1)))

    def test_many_batches(self, place: str) -> None:
        """The order of the rows is kept over batches, and they stream in batches of the size asked for."""
        rows = pa.concat_tables(_numbers(20_000).slice(at, 1_000) for at in range(0, 20_000, 1_000))
        table = rh.table(self.make(rows), path=place).write()
        assert table.num_rows == 20_000
        self.same(table.fetch(), self.make(rows))
        with table.stream(6_000) as stream:
            assert [len(batch) for batch in stream] == [6_000, 6_000, 6_000, 2_000]

    def test_not_written(self) -> None:
        """Rows that are not written yet stream, and are fetched as they were given."""
        value = self.make(_numbers(1_000))
        table = rh.table(value)
        assert table.fetch() is value
        with table.stream(300) as stream:
            assert [number for batch in stream for number in batch["number"].to_pylist()] == list(range(1_000))

    def test_columns_and_where(self, place: str) -> None:
        """Only the columns and rows that are asked for, in the order asked for."""
        table = rh.table(self.make(_numbers(100)), path=place).write()
        wanted = _numbers(100).slice(90).select(["text", "number"])
        self.same(table.fetch(columns=["text", "number"], where=[("number", ">=", 90)]), self.make(wanted))
        with pytest.raises(InvalidError, match="nmber"):
            table.fetch(columns=["nmber"])
        with pytest.raises(InvalidError, match="nmber"):
            table.fetch(where=[("nmber", ">", 3)])

    def test_append(self, place: str) -> None:
        """More rows of the library's own come after those that are there."""
        rows = _numbers(30)
        table = rh.table(self.make(rows.slice(0, 20)), path=place).write()
        table = table.write(self.make(rows.slice(20)), mode="append")
        self.same(table.fetch(), self.make(rows))

    def test_append_to_arrow_and_back(self, place: str) -> None:
        """Rows of one library are appended to another's table; it stays the first one's."""
        rows = _numbers(30)
        table = rh.table(rows.slice(0, 10), path=place).write()
        table = table.write(self.make(rows.slice(10, 10)), mode="append")
        table = table.write(rows.slice(20), mode="append")
        assert table.native == "arrow"
        assert table.fetch().equals(rows)

    def test_append_arrow(self, place: str) -> None:
        """Arrow's rows are appended to the library's table; what comes out is still the library's."""
        rows = _numbers(30)
        table = rh.table(self.make(rows.slice(0, 20)), path=place).write()
        table = table.write(rows.slice(20), mode="append")
        self.same(table.fetch(), self.make(rows))

    def test_wrong_type(self, place: str) -> None:
        """Rows of other types are refused, with the column and both types, before anything is stored."""
        table = rh.table(_numbers(3), path=place).write()
        wrong = _numbers(3).set_column(0, "number", pa.array(["1", "2", "3"]))
        before = sorted(Path(place).rglob("*"))
        with pytest.raises(InvalidError, match=r"number.*int64.*string"):
            table.write(self.make(wrong), mode="append")
        assert sorted(Path(place).rglob("*")) == before
        assert table.fetch().equals(_numbers(3))

    def test_bad_values(self, place: str) -> None:
        """What cannot be a table is refused, with the column that is the cause, and nothing is stored."""
        for value, said in self.bad():
            with pytest.raises(InvalidError, match=said):
                rh.table(value, path=place).write()
            with pytest.raises(NotFoundError):
                rh.table(path=place).fetch()


def _numbers(rows: int) -> pa.Table:
    """A whole number, a text, a float and a truth value in each of so many rows."""
    return pa.table(
        {
            "number": pa.array(range(rows), pa.int64()),
            "text": pa.array([f"row {row}" for row in range(rows)], pa.string()),
            "half": pa.array([row / 2 for row in range(rows)], pa.float64()),
            "even": pa.array([row % 2 == 0 for row in range(rows)], pa.bool_()),
        }
    )
