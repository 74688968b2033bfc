"""Tools for tests: the sessions of an app, and the contract that every store keeps.

Tests of apps get an :class:`AppKit` from the pytest plugin, by its fixture ``safesession``.

Your own store is done when a subclass of :class:`StoreContract` passes::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def kit(self):
            clock = FakeClock()
            return StoreKit(MyStore(clock=clock), clock.advance)

Only the contract imports pytest. Everything else works under any test runner.

A server's clock cannot be set; :func:`age_redis` makes the records of a Redis store older instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .kit import FakeClock, StoreKit, age_redis, make_draft, make_rules, new_key
from .plugin import AppKit

if TYPE_CHECKING:
    from .contract import StoreContract
else:  # type checkers would accept any name because of it

    def __getattr__(name: str) -> Any:
        """Returns the contract, which imports pytest, once it is used."""
        if name != "StoreContract":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .contract import StoreContract

        return StoreContract


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
