"""For tests: a clock that can be turned, and the contract that every store keeps.

A store of your own is done when a subclass of :class:`StoreContract` passes::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def kit(self):
            clock = FakeClock()
            yield StoreKit(MyStore(clock=clock), clock.advance)

Stores that run by a server's clock cannot have it turned; they can have their records aged instead,
as :func:`age_redis` does.
"""

from __future__ import annotations
