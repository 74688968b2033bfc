"""Deployments on a store that the commands and the app share."""

from __future__ import annotations

import pytest

from flask_safesession.testing import StoreKit

from ...support.cli_kit import Deploy, Deployment, MakeApp


@pytest.fixture
def deploy(make_app: MakeApp, kit: StoreKit) -> Deploy:
    """Makes deployments on one store, each of them a process; arguments are settings."""
    return lambda **settings: Deployment(make_app(store=kit.store, **settings), kit.advance)
