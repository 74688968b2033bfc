"""Fleets for the tests of faults, of each kind of server there is.

``replica_pair``, ``sentinel_trio`` and ``cluster_six`` are shared: each test gets them empty and
whole, but masters and slots may be where another test left them. A test that changes settings, or
leaves more behind than killed or paused servers, takes a ``fresh_`` one. Whoever needs more
(proxies, passwords, TLS) asks for ``kind`` and starts its own: ``fleets.cluster(kind, tmp_path,
proxied=True)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from ..support import faults_kit as kit
from ..support import fleets, servers
from ..support import proxy as proxies

KINDS = [pytest.param(name, id=name) for name in sorted(servers.binaries())]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session", params=KINDS)
def shared_pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[fleets.Replicas]:
    with fleets.replicas(request.param, tmp_path_factory.mktemp("pair"), 1) as made:
        yield made


@pytest.fixture(scope="session", params=KINDS)
def shared_trio(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[fleets.Trio]:
    with fleets.sentinels(request.param, tmp_path_factory.mktemp("trio")) as made:
        yield made


@pytest.fixture(scope="session", params=KINDS)
def shared_six(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[fleets.Cluster]:
    with fleets.cluster(request.param, tmp_path_factory.mktemp("six")) as made:
        yield made


@pytest.fixture
def replica_pair(shared_pair: fleets.Replicas) -> fleets.Replicas:
    """A master and a replica."""
    shared_pair.heal()
    shared_pair.flush()
    return shared_pair


@pytest.fixture
def sentinel_trio(shared_trio: fleets.Trio) -> fleets.Trio:
    """A master and two replicas under three Sentinels."""
    shared_trio.heal()
    shared_trio.flush()
    return shared_trio


@pytest.fixture
def cluster_six(shared_six: fleets.Cluster) -> fleets.Cluster:
    """Three masters with a replica each."""
    shared_six.heal()
    shared_six.flush()
    return shared_six


@pytest.fixture
def fresh_sentinel_trio(kind: str, tmp_path: Path) -> Iterator[fleets.Trio]:
    with fleets.sentinels(kind, tmp_path) as made:
        yield made


@pytest.fixture
def fresh_cluster_six(kind: str, tmp_path: Path) -> Iterator[fleets.Cluster]:
    with fleets.cluster(kind, tmp_path) as made:
        yield made


@pytest.fixture
def own(kind: str, tmp_path: Path) -> Iterator[servers.Server]:
    """One server for this test alone."""
    with servers.running(kind, tmp_path) as made:
        yield made


@pytest.fixture
def kept(kind: str, tmp_path: Path) -> Iterator[servers.Server]:
    """As ``own``; what it acknowledged is there again after a restart."""
    with servers.running(kind, tmp_path, *servers.KEEP) as made:
        yield made


@pytest.fixture
def steady(kind: str, pool: Any) -> servers.Server:
    """An empty server for tests that leave it and its settings as they are."""
    server: servers.Server = pool.get(kind)
    server.ask("FLUSHALL")
    return server


@pytest.fixture
def proxy(steady: servers.Server) -> Iterator[proxies.Proxy]:
    """Before that server: cuts and delays."""
    with proxies.before(steady.port) as made:
        yield made


@pytest.fixture
def open_site(make_app: Callable[..., Flask]) -> Iterator[Callable[..., kit.Site]]:
    """Makes sites on a store, which are closed at the end; arguments as for ``make_app``."""
    with ExitStack() as stack:

        def make(store: Any, **settings: Any) -> kit.Site:
            settings.setdefault("store_timeout", kit.PATIENCE)
            site = kit.Site(make_app(store=store, **settings))
            stack.callback(site.close)
            return site

        yield make
