"""Metrics: what happened is counted, what is there is asked for, and nobody is named."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import re
import subprocess
import sys
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from flask import Flask
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from flask_safesession import ConfigError, SafeSession, StoreUnavailable, events, session
from flask_safesession.events import emit
from flask_safesession.instrumentation import prometheus
from flask_safesession.instrumentation.prometheus.counts import CALL_BUCKETS, _Times
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

from ..support.counting import PlainStore
from ..support.servers import Server, free_port, poll
from ..support.sites.running import Site, gunicorn

MakeApp = Callable[..., Flask]
HOUR = 3_600_000


class Measured:
    """An app with some views, and its metrics."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.safe: SafeSession = app.extensions["tested.safe"]
        self.registry = CollectorRegistry()
        self.metrics = prometheus.instrument(self.safe, self.registry)
        app.add_url_rule("/metrics", "metrics", self.metrics.page)
        app.add_url_rule("/put/<key>/<value>", "put", put)
        app.add_url_rule("/read", "read", read)
        app.add_url_rule("/out", "out", out)

    def value(self, name: str, **labels: str) -> float | None:
        labels = {"flask_app": self.app.name, **labels}
        return self.registry.get_sample_value(f"safesession_{name}", labels)

    def calls(self, operation: str, outcome: str = "ok") -> float | None:
        return self.value("store_call_seconds_count", operation=operation, outcome=outcome)

    def text(self) -> str:
        response = self.app.test_client().get("/metrics")
        assert response.status_code == 200
        return response.text


def put(key: str, value: str) -> str:
    session[key] = value
    return ""


def read() -> str:
    session.get("anything")
    return str(session.info.handle)


def out() -> str:
    session.clear()
    return ""


@pytest.fixture
def measured(make_app: MakeApp, clock: FakeClock) -> Measured:
    tiers = {"admin": {"idle_timeout": "10m", "lifetime": "1h"}}
    store = MemoryStore(clock)
    app = make_app(store=store, expiry="tiered", tiers=tiers, max_sessions=100)
    return Measured(app)


# -- what happens -------------------------------------------------------------------------------


def test_the_life_of_a_session_is_counted(measured: Measured) -> None:
    client = measured.app.test_client()
    client.get("/put/cart/3")
    assert measured.value("creations_total", tier="default") == 1
    client.get("/put/user_id/7")
    client.get("/put/_tier/admin")
    assert measured.value("rotations_total", tier="default") == 1
    assert measured.value("rotations_total", tier="admin") == 1
    client.get("/out")
    assert measured.value("ends_total", tier="admin", reason="logout") == 1
    assert measured.value("creations_total", tier="default") == 1


def test_all_that_alerts_look_at_begins_at_nought(measured: Measured) -> None:
    for tier in ("anonymous", "default", "admin"):
        assert measured.value("creations_total", tier=tier) == 0
        for reason in ("logout", "idle", "lifetime", "evicted", "revoked", "replayed", "corrupt"):
            assert measured.value("ends_total", tier=tier, reason=reason) == 0
        assert measured.value("rejections_total", tier=tier, reason="full") == 0
    assert measured.value("store_failures_total", operation="load") == 0
    assert measured.value("purge_seconds_count") == 0


def test_each_event_adds_one_where_it_belongs(measured: Measured) -> None:
    told: list[tuple[Any, str, dict[str, str]]] = [
        (events.SessionMerged("handle", 3), "merges_total", {}),
        (events.SessionLost("handle", "logout"), "losses_total", {"reason": "logout"}),
        (
            events.SessionRejected("too-large", "admin"),
            "rejections_total",
            {"tier": "admin", "reason": "too-large"},
        ),
        (events.StoreFailed("save", "x"), "store_failures_total", {"operation": "save"}),
        (
            events.ReplicasMissing("end", "handle", 2, 1),
            "replicas_missing_total",
            {"operation": "end"},
        ),
    ]
    for event, name, labels in told:
        for _ in range(2):
            emit(measured.app, event)
        assert measured.value(name, **labels) == 2


def test_what_happens_in_another_app_is_not_counted(measured: Measured, make_app: MakeApp) -> None:
    emit(make_app(), events.SessionCreated("handle", "default"))
    assert measured.value("creations_total", tier="default") == 0


def test_words_that_nobody_knows_count_as_other(measured: Measured) -> None:
    for number in range(50):
        emit(measured.app, events.SessionEnded("handle", f"whim {number}", "default"))
        emit(measured.app, events.SessionLost("handle", f"whim {number}"))
    assert measured.value("ends_total", tier="default", reason="other") == 50
    assert measured.value("losses_total", reason="other") == 50
    assert "whim" not in measured.text()


def test_a_purge_run_is_counted_with_what_it_removed(measured: Measured, clock: FakeClock) -> None:
    for _ in range(3):
        measured.app.test_client().get("/put/cart/3")
    clock.advance(24 * HOUR)
    assert measured.safe.purge().due == 3
    assert measured.value("purge_seconds_count") == 1
    assert measured.value("purge_removed_total", cause="due") == 3
    assert measured.value("purge_removed_total", cause="cap") == 0
    assert measured.value("purge_repaired_total") == 0
    assert measured.value("ends_total", tier="default", reason="idle") == 3
    assert (measured.value("purge_last_run_timestamp_seconds") or 0) > 1_600_000_000


# -- store calls --------------------------------------------------------------------------------


def test_store_calls_are_counted_by_operation_and_outcome(measured: Measured) -> None:
    client = measured.app.test_client()
    client.get("/put/cart/3")
    for _ in range(4):
        client.get("/read")
    assert (measured.calls("create"), measured.calls("load")) == (1, 4)
    total = measured.value("store_call_seconds_sum", operation="load", outcome="ok")
    assert total is not None
    assert 0 < total < 60
    largest = measured.value("store_call_seconds_bucket", operation="load", outcome="ok", le="+Inf")
    assert largest == 4


def test_a_request_that_leaves_the_session_alone_counts_nothing(measured: Measured) -> None:
    client = measured.app.test_client()
    client.get("/put/cart/3")
    client.get("/metrics")
    assert measured.calls("load") is None


def test_the_job_and_a_purge_by_hand_count_each_shard(
    make_app: MakeApp, any_server: Server, prefix: str
) -> None:
    measured = Measured(make_app(store=any_server.url, key_prefix=prefix, shards=4))
    measured.app.extensions["safesession"].job.run()
    assert measured.calls("purge") == 8  # before the audit, and after it
    measured.safe.purge()
    assert measured.calls("purge") == 16
    measured.app.extensions["safesession"].store.close()


def test_times_are_in_the_buckets_where_the_client_library_would_put_them() -> None:
    bounds = CALL_BUCKETS
    ours, theirs = [
        kind("t", "Times.", registry=CollectorRegistry(), buckets=bounds)
        for kind in (_Times, Histogram)
    ]
    for amount in (0.0, 0.003, 0.003, 0.02, *bounds, *[bound * 1.01 for bound in bounds], 1e9):
        ours.observe(amount)
        theirs.observe(amount)
    samples = [
        [(s.name, s.labels, s.value) for s in metric.samples if not s.name.endswith("_created")]
        for [metric] in (ours.collect(), theirs.collect())
    ]
    assert samples[0] == samples[1]


# -- what is there ------------------------------------------------------------------------------


def test_live_sessions_stand_by_tier_and_kind(measured: Measured) -> None:
    for _ in range(3):
        measured.app.test_client().get("/put/cart/3")
    for user in range(2):
        measured.app.test_client().get(f"/put/user_id/{user}")
    assert measured.value("sessions", tier="anonymous", kind="anonymous") == 3
    assert measured.value("sessions", tier="default", kind="user") == 2
    assert measured.value("sessions", tier="admin", kind="user") == 0  # and not missing
    assert measured.value("sessions_cap") == 100
    assert measured.value("user_sessions_cap") == 95
    assert measured.value("store_up") == 1


def test_the_lag_of_the_purge_is_what_is_due_and_for_how_long(
    measured: Measured, clock: FakeClock
) -> None:
    measured.app.test_client().get("/put/cart/3")
    clock.advance(2 * HOUR)
    assert measured.value("due_sessions") == 1
    overdue = measured.value("overdue_seconds")
    assert overdue == 90 * 60  # its idle timeout is half an hour


def test_the_interval_of_the_purge_is_there_where_there_is_a_job(
    measured: Measured, make_app: MakeApp
) -> None:
    assert measured.value("purge_interval_seconds") is None
    assert Measured(make_app(check_interval="90s")).value("purge_interval_seconds") == 90


def test_a_store_that_fails_breaks_no_scrape(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise StoreUnavailable("no answer")

    store = measured.app.extensions["safesession"].store
    monkeypatch.setattr(store, "count", fail)
    assert measured.value("store_up") == 0
    text = measured.text()
    assert 'safesession_sessions_cap{flask_app="tested"} 100.0' in text
    assert "safesession_creations_total{" in text
    assert "safesession_sessions{" not in text  # old figures would be a lie
    assert "safesession_due_sessions{" not in text


def test_without_an_index_only_that_the_store_is_up_is_known(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    measured = Measured(make_app(store=PlainStore(), check_interval="1m"))
    assert measured.value("store_up") == 1
    for name in ("sessions_cap", "user_sessions_cap", "purge_interval_seconds", "full_seconds"):
        assert measured.value(name) is None, name
    assert caplog.messages == []


def test_without_an_index_a_server_that_was_given_up_is_down(make_app: MakeApp) -> None:
    server = f"127.0.0.1:{free_port()}"
    app = make_app(store=f"memcached://{server}", store_timeout="200ms")
    measured = Measured(app)
    for _ in range(6):
        with contextlib.suppress(StoreUnavailable):
            measured.safe.sessions_of("ada")
    assert measured.value("store_up") == 0


def test_registering_asks_the_store_for_nothing(make_app: MakeApp) -> None:
    measured = Measured(make_app())
    assert measured.calls("count") is None
    for _ in range(5):
        measured.text()
    assert measured.calls("count") == 1


def test_a_server_that_was_given_up_shows_until_it_is_back_or_gone(make_app: MakeApp) -> None:
    server = f"127.0.0.1:{free_port()}"
    app = make_app(store=f"redis://{server}", store_timeout="200ms")
    measured = Measured(app)
    assert measured.value("store_circuit_open", server=server) == 0
    for _ in range(6):
        with contextlib.suppress(StoreUnavailable):
            measured.safe.count()
    assert measured.value("store_circuit_open", server=server) == 1
    store = app.extensions["safesession"].overrides.bare.store
    store.states = dict  # a node that has left its cluster
    measured.text()
    assert measured.value("store_circuit_open", server=server) == 0


# -- labels -------------------------------------------------------------------------------------


def test_no_metric_names_anybody_and_their_number_does_not_grow_with_visitors(
    measured: Measured,
) -> None:
    def visit(name: str) -> str:
        client = measured.app.test_client()
        client.get("/put/cart/3")
        client.get(f"/put/user_id/{name}")
        client.get("/put/_tier/invented-by-the-app")
        handle = client.get("/read").text
        assert len(handle) > 10
        client.get("/out")
        return handle

    visit("first")
    measured.text()
    before = len(measured.text().splitlines())
    handles = [visit(f"user-{number}@example.org") for number in range(20)]
    text = measured.text()
    assert len(text.splitlines()) == before
    assert not any(handle in text for handle in handles)
    assert "example.org" not in text
    assert "invented-by-the-app" not in text


# -- where the metrics are ----------------------------------------------------------------------


def test_a_second_time_counts_nothing_twice(measured: Measured) -> None:
    again = prometheus.instrument(measured.safe, measured.registry)
    assert again.live is measured.metrics.live
    measured.app.test_client().get("/put/cart/3")
    assert measured.value("creations_total", tier="default") == 1
    assert measured.calls("create") == 1


def test_two_registries_each_have_all_of_it(measured: Measured) -> None:
    other = CollectorRegistry()
    prometheus.instrument(measured.safe, other)
    measured.app.test_client().get("/put/cart/3")
    labels = {"flask_app": "tested", "tier": "default"}
    for registry in (measured.registry, other):
        assert registry.get_sample_value("safesession_creations_total", labels) == 1
        assert registry.get_sample_value("safesession_store_up", {"flask_app": "tested"}) == 1


def test_apps_of_one_extension_are_told_apart() -> None:
    safe, registry, apps = SafeSession(check_interval=None), CollectorRegistry(), []
    for name in ("shop", "office"):
        app = Flask(name)
        app.secret_key = "a key for tests that is long enough"
        safe.init_app(app)
        app.add_url_rule("/put/<key>/<value>", "put", put)
        apps.append(app)
    prometheus.instrument(safe, registry)
    apps[0].test_client().get("/put/cart/3")
    for name, count in (("shop", 1), ("office", 0)):
        labels = {"flask_app": name, "tier": "anonymous", "kind": "anonymous"}
        assert registry.get_sample_value("safesession_sessions", labels) == count


def test_of_two_apps_with_one_name_the_later_is_shown(make_app: MakeApp) -> None:
    registry = CollectorRegistry()
    apps = [make_app(max_sessions=cap) for cap in (50, 60)]
    for app in apps:
        prometheus.instrument(app.extensions["tested.safe"], registry)
    assert registry.get_sample_value("safesession_sessions_cap", {"flask_app": "tested"}) == 60


def test_an_app_is_not_held_and_its_live_figures_go_with_it(make_app: MakeApp) -> None:
    registry = CollectorRegistry()
    app = make_app()
    prometheus.instrument(app.extensions["tested.safe"], registry)
    app.test_client().get("/")
    left = weakref.ref(app)
    del app
    gc.collect()
    assert left() is None
    assert registry.get_sample_value("safesession_store_up", {"flask_app": "tested"}) is None


def test_without_an_app_it_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="call init_app before instrument"):
        prometheus.instrument(SafeSession(), CollectorRegistry())


def test_the_page_speaks_openmetrics_where_that_is_asked_for(measured: Measured) -> None:
    client = measured.app.test_client()
    plain = client.get("/metrics")
    assert plain.content_type.startswith("text/plain; version=")
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    modern = client.get("/metrics", headers=accept)
    assert modern.content_type.startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")


@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
@pytest.mark.parametrize(
    "version", ["x", "1", "1.x", "=", ";", "1.0.0;version=x", "\xe9", '"1.0.0"']
)
def test_a_header_that_no_scraper_sends_is_no_error(
    measured: Measured, kind: str, version: str
) -> None:
    headers = {"Accept": f"{kind};version={version}"}
    assert measured.app.test_client().get("/metrics", headers=headers).status_code == 200


# -- several processes --------------------------------------------------------------------------


@pytest.fixture
def site(
    any_server: Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """Two workers of gunicorn that share a directory, as the documentation sets them up."""
    shared = tmp_path / "metrics"
    shared.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(shared))
    config = tmp_path / "metrics.conf.py"
    config.write_text(GUNICORN)
    options = ("--preload", "--workers", "2", "--config", str(config))
    with gunicorn(any_server, prefix, tmp_path, *options) as site:
        poll("two workers", lambda: len(site.workers()) == 2)
        yield site


GUNICORN = """
from prometheus_client import multiprocess

control_socket_disable = True

def child_exit(server, worker):
    multiprocess.mark_process_dead(worker.pid)
"""


def scrape(site: Site) -> tuple[int, dict[tuple[str, tuple[tuple[str, str], ...]], float]]:
    """Which worker answered, and all of its samples; one that is there twice is a fault."""
    with urllib.request.urlopen(f"http://127.0.0.1:{site.port}/metrics", timeout=20) as response:
        pid, text = int(response.headers["X-Pid"]), response.read().decode()
    samples: dict[Any, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples, key
            samples[key] = sample.value
    return pid, samples


def scrape_each(site: Site) -> dict[int, Any]:
    """The samples as each worker tells them."""
    found: dict[int, Any] = {}
    for worker in site.workers():
        with site.only(worker):
            pid, found[worker] = scrape(site)
        assert pid == worker
    return found


def key(name: str, **labels: str) -> Any:
    return f"safesession_{name}", tuple(sorted({"flask_app": "site", **labels}.items()))


def test_workers_of_gunicorn_tell_the_same_story_and_count_nothing_twice(site: Site) -> None:
    visitors = 0
    for worker in [*site.workers()] * 5:
        visitors += 1
        with site.only(worker), site.browser() as browser:
            browser.get(f"/write/{visitors}/0")
            browser.get("/purge")
            assert browser.pids == {worker}
    expected = {
        key("creations_total", tier="default"): visitors,
        key("store_call_seconds_count", operation="create", outcome="ok"): visitors,
        key("sessions", tier="anonymous", kind="anonymous"): visitors,
        key("purge_seconds_count"): visitors,
        key("sessions_cap"): 1_000_000,
        key("store_up"): 1,
    }
    [server] = {dict(labels)["server"] for name, labels in scrape(site)[1] if "circuit" in name}
    expected[key("store_circuit_open", server=server)] = 0
    for samples in scrape_each(site).values():
        assert {name: samples.get(name) for name in expected} == expected
        assert not any("pid" in dict(labels) for _, labels in samples)
        assert samples[key("purge_last_run_timestamp_seconds")] > 1_600_000_000
    # A worker that dies takes nothing along of what it has counted.
    victim = min(site.workers())
    psutil.Process(victim).kill()
    poll("another worker", lambda: len(site.workers() - {victim}) == 2)
    for samples in scrape_each(site).values():
        assert samples[key("creations_total", tier="default")] == visitors


def test_where_files_are_shared_a_registry_more_counts_nothing_twice(tmp_path: Path) -> None:
    """In a process of its own: the client library decides when it is imported."""
    done = sharing_files(TWO_REGISTRIES, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1.0", "1.0", "None"]


def sharing_files(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_process_that_ends_takes_its_circuits_along_and_leaves_its_counts(tmp_path: Path) -> None:
    done = sharing_files(f"SERVER = '127.0.0.1:{free_port()}'\n{GIVES_UP}", tmp_path)
    assert (done.returncode, done.stdout) == (0, "open\n"), done.stderr
    left = {path.name.partition("_")[0] for path in tmp_path.iterdir()}
    assert left == {"counter", "histogram"}


GIVES_UP = """
from contextlib import suppress
from flask import Flask
from flask_safesession import SafeSession, StoreUnavailable
from flask_safesession.instrumentation.prometheus import instrument

app = Flask("one")
safe = SafeSession(app, store=f"redis://{SERVER}", store_timeout="200ms", check_interval=None)
instrument(safe)
for _ in range(6):
    with suppress(StoreUnavailable):
        safe.count()
print(safe.servers()[SERVER])
"""


def test_the_directory_of_all_processes_is_made(tmp_path: Path) -> None:
    done = sharing_files(TWO_REGISTRIES, tmp_path / "new" / "metrics")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "new" / "metrics").glob("*.db"))


def test_a_directory_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = sharing_files(TWO_REGISTRIES, tmp_path / "file" / "metrics")
    assert done.returncode == 1
    assert "ConfigError: The metrics cannot be kept:" in done.stderr
    assert "which cannot be used (Not a directory): give a directory that the app" in done.stderr


TWO_REGISTRIES = """
from flask import Flask, session
from flask_safesession import SafeSession
from flask_safesession.instrumentation.prometheus import instrument
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

app = Flask("one")
app.secret_key = "a key for tests that is long enough"
safe = SafeSession(app, check_interval=None)
app.add_url_rule("/", "write", lambda: str(session.setdefault("cart", 3)))
instrument(safe)
scrape = CollectorRegistry()
MultiProcessCollector(scrape)
instrument(safe, scrape)
app.test_client().get("/")
created = "safesession_creations_total", {"flask_app": "one", "tier": "default"}
print(scrape.get_sample_value(*created))
print(scrape.get_sample_value("safesession_store_up", {"flask_app": "one"}))
plain = CollectorRegistry()
instrument(safe, plain)
print(plain.get_sample_value(*created))
"""


# -- the documentation --------------------------------------------------------------------------


@functools.cache
def exported() -> dict[str, set[str]]:
    """Every series that ``instrument`` can make, and the names of its labels."""
    app = Flask("exporting")
    registry = CollectorRegistry()
    prometheus.instrument(SafeSession(app, check_interval=None), registry)
    labels: dict[str, set[str]] = {}
    for collector in {*registry._names_to_collectors.values()}:
        described: Any = collector
        for family in described.describe():
            names = set(getattr(described, "_labelnames", None) or family._labelnames)
            for suffix in SUFFIXES[family.type]:
                extra = {"le"} if suffix == "_bucket" else set()
                labels[family.name + suffix] = names | extra
    return labels


SUFFIXES = {
    "counter": ["_total"],
    "gauge": [""],
    "histogram": ["_bucket", "_count", "_sum"],
}


def test_the_documentation_lists_every_metric_with_its_labels() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
    listed = {
        name: set(re.findall(r"`(\w+)`", labels))
        for name, labels in re.findall(r"^\| `(safesession_\w+)` \|([^|]*)\|", page, re.MULTILINE)
    }
    families = {
        re.sub("_(bucket|count|sum)$", "", name): labels - {"le", "flask_app"}
        for name, labels in exported().items()
    }
    assert listed == families
