"""An app on Memcached: what its visitors and its operators see."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry, generate_latest

from example import create_app
from example.people import DEMO_PASSWORDS
from example.sessions import safe
from flask_safesession import ConfigError, session
from flask_safesession.dashboard import dashboard
from flask_safesession.events import Once
from flask_safesession.heartbeat import HEADER
from flask_safesession.instrumentation.prometheus import instrument
from flask_safesession.stores.memcached import store as module
from flask_safesession.stores.memcached.store import MemcachedStore
from flask_safesession.stores.opening import CannotDo
from flask_safesession.testing.plugin import AppKit
from flask_safesession.testing.tampering import clock_of

from ...support import memcached
from ...support.memcached import needs_memcached

pytestmark = needs_memcached
MakeApp = Callable[..., Flask]


@pytest.fixture(scope="module")
def server() -> Iterator[memcached.Server]:
    with memcached.running() as made:
        yield made


@pytest.fixture
def app(make_app: MakeApp, server: memcached.Server, prefix: str) -> Iterator[Flask]:
    made = make_app(
        store=server.url, key_prefix=prefix, store_timeout="1s", renew_interval="1m", renew_grace=0
    )
    made.add_url_rule("/add/<key>", "add", add)
    made.add_url_rule("/in/<user>", "sign_in", sign_in, methods=["POST"])
    made.add_url_rule("/out", "sign_out", sign_out, methods=["POST"])
    made.add_url_rule("/everywhere", "everywhere", everywhere, methods=["POST"])
    made.add_url_rule("/", "show", lambda: json.dumps(dict(session)))
    yield made
    made.extensions["safesession"].store.close()


def add(key: str) -> str:
    session[key] = True
    return ""


def sign_in(user: str) -> str:
    session["user_id"] = user
    return ""


def sign_out() -> str:
    session.clear()
    return ""


def everywhere() -> str:
    return str(session.end_others())


def test_visitors_sign_in_change_sign_out_and_sign_out_everywhere(app: Flask) -> None:
    phone, desk = app.test_client(), app.test_client()
    for browser in (phone, desk):
        browser.get("/add/cart")
        before = browser.get_cookie("session")
        browser.post("/in/ann")
        assert browser.get_cookie("session") != before
        assert json.loads(browser.get("/").text) == {"cart": True, "user_id": "ann"}
    safe = app.extensions["tested.safe"]
    assert len(safe.sessions_of("ann")) == 2
    assert desk.post("/everywhere").text == "1"
    assert phone.get("/").text == "{}"
    assert json.loads(desk.get("/").text)["user_id"] == "ann"
    desk.post("/out")
    assert desk.get("/").text == "{}"
    assert safe.sessions_of("ann") == []
    desk.post("/in/ann")
    safe.end_all()
    assert desk.get("/").text == "{}"


def test_an_outage_is_a_503_without_a_cookie_and_not_a_logout(
    app: Flask, server: memcached.Server
) -> None:
    client = app.test_client()
    client.post("/in/ann")
    with server.paused():
        before = time.monotonic()
        for request in (client.get("/"), client.get("/add/fig"), client.post("/out")):
            assert request.status_code == 503
            assert "Set-Cookie" not in request.headers
        assert time.monotonic() - before < 4.5
    assert json.loads(client.get("/").text) == {"user_id": "ann"}


def test_ids_are_renewed_and_sessions_expire_by_the_time_of_the_server(app: Flask) -> None:
    client = app.test_client()
    travel = clock_of(app.extensions["safesession"].opened, None).advance
    client.post("/in/ann")
    client.get("/")
    first = client.get_cookie("session")
    travel(61_000)
    assert json.loads(client.get("/").text) == {"user_id": "ann"}
    assert client.get_cookie("session") != first
    travel(31 * 60_000)
    assert client.get("/").text == "{}"


def test_settings_that_need_a_count_are_refused_with_what_to_do(
    make_app: MakeApp, server: memcached.Server
) -> None:
    ready = MemcachedStore(server.url)
    for store in (server.url, ready):
        with pytest.raises(ConfigError) as refused:
            make_app(store=store, max_sessions=10, when_full="reject", max_sessions_per_user=5000)
        capped, full, user = refused.value.problems
        assert "MAX_SESSIONS is 10: Memcached cannot count" in capped
        assert "set it to None. The server's memory is the cap" in capped
        assert "WHEN_FULL is 'reject'" in full
        assert "MAX_SESSIONS_PER_USER is 5000: give 1000 at most" in user
        make_app(store=store, max_sessions=None)
    with pytest.raises(ConfigError, match="SHARDS is 2, but the store is Memcached: remove it"):
        make_app(store=server.url, shards=2)
    with pytest.raises(ConfigError, match="no failover to another one"):
        make_app(store=f"{server.url}?failover=yes")


def test_what_needs_a_list_of_all_sessions_says_so(app: Flask) -> None:
    safe, run = app.extensions["tested.safe"], app.test_cli_runner().invoke
    app.test_client().post("/in/ann")
    for call in (safe.count, safe.stats, safe.purge, safe.browse):
        with pytest.raises(CannotDo, match="Memcached has no list of its sessions"):
            call()
    for command in ("list", "stats", "purge", "diagnose", "tune", "tune --idle-timeout 5m"):
        done = run(args=["safesession", *command.split()])
        assert done.exit_code == 1
        assert "Memcached has no list of its sessions" in done.output
        assert "Sessions in a database or on redis:// can" in done.output
    assert "no-purge-job" not in run(args=["safesession", "check"]).output
    handle = safe.sessions_of("ann")[0].handle
    assert handle in run(args=["safesession", "list", "--user", "ann"]).output
    assert "tier: default" in run(args=["safesession", "show", handle]).output
    assert run(args=["safesession", "end", "--user", "ann", "--yes"]).output == "Ended 1 session.\n"
    assert run(args=["safesession", "end", "--all", "--yes"]).output == "Ended all sessions.\n"


def test_the_dashboard_shows_what_can_be_shown(app: Flask) -> None:
    app.register_blueprint(dashboard(app.extensions["tested.safe"], allowed=lambda: True))
    assert app.test_client().get("/safesession/").status_code == 200


def test_a_server_that_has_evicted_something_is_a_finding(make_app: MakeApp) -> None:
    with memcached.running("-m", "2") as small:
        app = make_app(store=small.url)
        with small.client() as client:
            while int(small.stats()["evictions"]) == 0:
                for number in range(1000):
                    client.set(f"cache{number}", b"x" * 50_000)
        found = app.extensions["safesession"].store.inspect()
        app.extensions["safesession"].store.close()
    assert [one.name for one in found] == ["eviction-policy"]
    assert "which signs visitors out" in found[0].text


def test_that_no_cache_may_share_the_server_is_said_once(
    make_app: MakeApp,
    server: memcached.Server,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_warn", Once())
    with caplog.at_level(logging.WARNING, "flask_safesession"):
        for _ in range(2):
            make_app(store=server.url)
    assert [record.message for record in caplog.records] == [module._SHARED]


def sign_in_to(app: Flask, name: str) -> FlaskClient:
    client = app.test_client()
    form = {"username": name, "password": DEMO_PASSWORDS[name]}
    assert client.post("/sign-in", data=form).status_code == 303
    return client


@pytest.mark.usefixtures("cheap_passwords")
def test_the_pages_of_the_example_metrics_and_the_plugin_work(
    server: memcached.Server, prefix: str
) -> None:
    app = create_app(
        store=server.url,
        key_prefix=prefix,
        check_interval=None,
        max_sessions=None,
        store_timeout="10s",
    )
    app.config["TESTING"] = True
    registry = CollectorRegistry()
    instrument(safe, registry)
    with AppKit(app) as kit:
        phone, laptop = sign_in_to(app, "carl"), sign_in_to(app, "carl")
        assert phone.get("/devices").text.count('name="handle"') == 1
        assert phone.post("/heartbeat", headers={HEADER: "1"}).status_code == 200
        assert phone.post("/devices/end-others").status_code == 303
        assert laptop.get("/devices").status_code == 303
        assert sign_in_to(app, "ada").get("/control/").status_code == 200
        kit.travel("31m")
        assert phone.get("/devices").status_code == 303
    assert re.search('_total{.*"idle".*} 1', generate_latest(registry).decode())
    app.extensions["safesession"].store.close()
