"""The conformance suite of `rh`, run on a system of another package."""

import pytest
from rh_sqlite import SQLiteSystem

from rh.testing.systems import SystemSuite
from rh.types import Location


class TestSQLite(SystemSuite):
    @pytest.fixture
    def system(self, tmp_path):
        with SQLiteSystem.open(Location("notes", "root"), {"file": str(tmp_path / "a.db"), "timeout_s": 30}) as system:
            yield system
