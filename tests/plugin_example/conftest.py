"""This package's own tests need it installed: `tests/systems/test_plugin.py` does that and runs them."""

from importlib.util import find_spec

collect_ignore_glob = ["test_*.py"] if find_spec("rh_sqlite") is None else []
