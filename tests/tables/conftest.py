"""What every test of tables gets."""

import pytest

from rh.resources import places


@pytest.fixture(autouse=True, scope="module")
def _connections_closed():
    """The connections that resources keep end with the module."""
    yield
    places.close()
