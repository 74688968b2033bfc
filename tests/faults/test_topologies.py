"""The same promises wherever the sessions are: on a cluster, and behind Sentinel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from typing import Any

import pytest

from flask_safesession.stores.redis import RedisStore
from flask_safesession.testing import StoreContract, StoreKit, age_redis

from ..stores.test_model import run_stories
from ..support import fleets, servers

pytestmark = pytest.mark.faults

_prefixes = count()


def kit_on(url: str, node_of: Callable[[str], servers.Server], prefix: str) -> StoreKit:
    """*node_of*: the server that a key is on."""

    def advance(milliseconds: int) -> None:
        with closing(node_of(f"{{{prefix}:0}}").client()) as client:
            age_redis(client, milliseconds, prefix)

    store = RedisStore.from_url(url, prefix=prefix, timeout=5)
    return StoreKit(store, advance, exact_clock=False)


def on_cluster(six: fleets.Cluster, prefix: str) -> StoreKit:
    return kit_on(six.url, six.node_of, prefix)


def behind_sentinel(trio: fleets.Trio, prefix: str) -> StoreKit:
    return kit_on(trio.url, lambda _: trio.master(), prefix)


def closed_at_the_end(kit: StoreKit) -> Iterator[StoreKit]:
    yield kit
    kit.store.close()


class TestTheContractOnACluster(StoreContract):
    @pytest.fixture
    def kit(self, cluster_six: fleets.Cluster, prefix: str) -> Iterator[StoreKit]:
        yield from closed_at_the_end(on_cluster(cluster_six, prefix))


class TestTheContractBehindSentinel(StoreContract):
    @pytest.fixture
    def kit(self, sentinel_trio: fleets.Trio, prefix: str) -> Iterator[StoreKit]:
        yield from closed_at_the_end(behind_sentinel(sentinel_trio, prefix))


def stories(make: Callable[[Any, str], StoreKit], fleet: Any) -> None:
    run_stories(lambda: make(fleet, f"model{next(_prefixes)}"), 10)


def test_no_story_breaks_a_promise_on_a_cluster(cluster_six: fleets.Cluster) -> None:
    stories(on_cluster, cluster_six)


def test_no_story_breaks_a_promise_behind_sentinel(sentinel_trio: fleets.Trio) -> None:
    stories(behind_sentinel, sentinel_trio)
