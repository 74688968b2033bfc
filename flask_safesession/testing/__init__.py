"""For tests: apps' sessions in the hands of a test, and the contract that every store keeps.

Tests of apps get an :class:`AppKit` from the pytest plugin, by its fixture ``safesession``.

A store of your own is done when a subclass of :class:`StoreContract` passes::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def kit(self):
            clock = FakeClock()
            return StoreKit(MyStore(clock=clock), clock.advance)

A server's clock cannot be turned, but its records can be aged, which comes to the same:
:func:`age_redis` does it for the Redis store.
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
