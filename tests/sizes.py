"""How many tries the tests make whose promises are about very many: a sample, or all of them with `RH_TEST_FULL=1`."""

from __future__ import annotations

import os

FULL = os.environ.get("RH_TEST_FULL", "0") != "0"
"""Whether all tries are made; read once, before the settings of whoever runs the tests are taken away."""

LIMIT_S = 4 * 3600.0
"""How long one test may take then."""


def sized(sample: int, *, full: int) -> int:
    """The number of tries: `full` of them if all are asked for."""
    return full if FULL else sample
