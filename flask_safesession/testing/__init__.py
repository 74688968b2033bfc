"""Tools for tests: the sessions of an app, and the contract that every store keeps.

Tests of apps get an :class:`AppKit` from the pytest plugin, by its fixture ``safesession``.

Your own store is done when a subclass of :class:`StoreContract` passes::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def kit(self):
            clock = FakeClock()
            return StoreKit(MyStore(clock=clock), clock.advance)

A server's clock cannot be set; :func:`age_redis` makes the records of a Redis store older instead.
"""

from .contract import StoreContract
from .kit import FakeClock, StoreKit, age_redis, make_draft, make_rules, new_key
from .plugin import AppKit

__all__ = [
    "AppKit",
    "FakeClock",
    "StoreContract",
    "StoreKit",
    "age_redis",
    "make_draft",
    "make_rules",
    "new_key",
]
