"""The store that ``writing-a-store.md`` shows keeps the contract."""

import pytest

from docs.example_store import ExampleStore
from flask_safesession.testing import FakeClock, StoreContract, StoreKit


class TestExampleStore(StoreContract):
    @pytest.fixture
    def kit(self) -> StoreKit:
        clock = FakeClock()
        return StoreKit(ExampleStore(clock), clock.advance)
