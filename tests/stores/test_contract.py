"""Every store keeps the contract."""

from flask_safesession.testing import StoreContract


class TestEveryStore(StoreContract):
    """The fixture ``kit`` of conftest.py gives each store in turn."""
