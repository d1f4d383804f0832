"""The conformance suites of tables: what an adapter promises, and what a table promises on every system.

An adapter's suite says how to make the library's own table of an Arrow table, and when two of them are the same::

    class TestMine(AdapterSuite):
        name = "mine"
        kind = "MyFrame"

        def make(self, table):
            return mine.from_arrow(table)

        def same(self, one, other):
            assert one.equals(other)

A system's suite says where a table may be::

    class TestThere(TableSuite):
        @pytest.fixture
        def place(self, my_server):
            return f"my://{uuid4().hex}/table"

Nothing is skipped: what a library cannot hold is declared in `lacks`.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("rh.testing._suite_adapters", "rh.testing._suite_tables")

from rh.testing._suite_adapters import TYPES, AdapterSuite  # noqa: E402
from rh.testing._suite_tables import TableSuite  # noqa: E402

__all__ = ["TYPES", "AdapterSuite", "TableSuite"]
