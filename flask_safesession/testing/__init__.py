"""For tests: a clock that can be turned, and the contract that every store keeps.

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

__all__ = [
    "FakeClock",
    "StoreContract",
    "StoreKit",
    "age_redis",
    "make_draft",
    "make_rules",
    "new_key",
]
