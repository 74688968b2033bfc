"""Every store keeps the contract."""

import pytest

from flask_safesession.testing import StoreContract


@pytest.mark.every_store
class TestEveryStore(StoreContract):
    """The fixture ``kit`` of conftest.py gives each store in turn."""
