"""What every test of registries needs."""

from __future__ import annotations

import pytest

from rh.registry import mirror


@pytest.fixture(autouse=True)
def _nothing_known_to_be_silent():
    mirror._silent.clear()
    yield
    mirror._silent.clear()
