"""The conformance suite of systems: what `rh.systems.base` promises, as tests.

A new system subclasses `SystemSuite`, gives one fixture and declares what it can do::

    class TestMySystem(SystemSuite):
        keeps = frozenset({"executable"})
        conditions = frozenset({"absent"})
        abilities = frozenset({Bulk})
        refused = {"a//b": NameClashError}

        @pytest.fixture
        def system(self, my_server):
            return MySystem.open(Location("my", f"{my_server}/{uuid4().hex}"), {"kind": "my", "timeout_s": 10})

Nothing is skipped: a declared gap is tested to raise the exception it must raise, and an ability
that `ask` no longer answers fails. Numbers in docstrings are the promises of `rh.systems.base`.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "rh.testing._suite", "rh.testing._suite_bytes", "rh.testing._suite_writes", "rh.testing._suite_abilities"
)

from rh.systems import abilities as protocols  # noqa: E402
from rh.systems.base import System  # noqa: E402
from rh.testing._suite import (  # noqa: E402
    FLAT_KEYS,
    ODD_KEYS,
    by_key,
    expected_listing,
    in_child,
    noise,
    pieces,
    same,
    send,
    shown,
    split,
    web,
)
from rh.testing._suite_abilities import AbilitiesSuite  # noqa: E402
from rh.testing._suite_bytes import BytesSuite  # noqa: E402
from rh.testing._suite_writes import WritesSuite  # noqa: E402

__all__ = [
    "FLAT_KEYS",
    "ODD_KEYS",
    "SystemSuite",
    "by_key",
    "expected_listing",
    "in_child",
    "noise",
    "pieces",
    "same",
    "send",
    "shown",
    "split",
    "web",
]


class SystemSuite(BytesSuite, WritesSuite, AbilitiesSuite):
    """Subclass it, and give the fixture `system`: a handle on a fresh, empty root.

    Attributes:
        keeps: which of `"links"`, `"executable"`, `"directories"` the place stores itself.
        conditions: which of `"absent"`, `"match"` it checks; the others must raise `UnsupportedError`.
        abilities: exactly the protocols of `rh.systems.abilities` that `ask` answers.
        flat: whether `a` and `a/b` may stand side by side (stores), or must clash (disks).
        refused: odd keys the place cannot hold, and the error that says so.
        writable: whether it can be written to. If not, override `put` (and `link`).
        large: size in bytes of the large objects.
    """

    def test_declarations_match(self, system: System) -> None:
        """What the suite is told is what the system says."""
        flags = {name for name in ("links", "executable", "directories") if getattr(system, f"keeps_{name}")}
        assert flags == self.keeps
        assert system.writable == self.writable
        known = [getattr(protocols, name) for name in protocols.__all__]
        asked = {one for one in known if getattr(one, "_is_runtime_protocol", False) and system.ask(one) is not None}
        assert asked == self.abilities
