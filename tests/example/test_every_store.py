"""The whole product on each store: pages, commands, dashboard, heartbeat, metrics and plugin.

What each of them does is tested on the memory store; here, that each works on the others.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry, generate_latest

from example import create_app
from example.people import DEMO_PASSWORDS
from example.sessions import safe
from flask_safesession.heartbeat import HEADER
from flask_safesession.instrumentation.prometheus import instrument
from flask_safesession.testing.plugin import AppKit

from ..support.databases import STARTS

pytestmark = [pytest.mark.usefixtures("cheap_passwords"), pytest.mark.every_store]


@pytest.fixture
def app(
    store_kind: str, request: pytest.FixtureRequest, prefix: str, tmp_path: Path
) -> Iterator[Flask]:
    pool: Any = request.getfixturevalue("pool")
    if store_kind in STARTS:
        url = pool.database(store_kind).url()
    elif store_kind in ("memory", "sqlite"):
        url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/sessions.sqlite3"}[
            store_kind
        ]
    elif store_kind == "mongodb":
        url = pool.mongodb().url
    else:
        url = f"redis://127.0.0.1:{pool.get(store_kind).port}/0"
    made = create_app(store=url, key_prefix=prefix, check_interval=None, store_timeout="10s")
    made.config["TESTING"] = True
    yield made
    made.extensions["safesession"].store.close()


def sign_in(app: Flask, name: str) -> FlaskClient:
    client = app.test_client()
    form = {"username": name, "password": DEMO_PASSWORDS[name]}
    assert client.post("/sign-in", data=form).status_code == 303
    return client


def run(app: Flask, command: str) -> str:
    result = app.test_cli_runner().invoke(args=["safesession", *command.split()])
    assert result.exit_code == 0, result.output
    return result.output


def test_pages_dashboard_and_heartbeat_work(app: Flask) -> None:
    phone, laptop = sign_in(app, "carl"), sign_in(app, "carl")
    assert phone.post("/cart/mug", data={"change": "add"}).status_code in (303, 404)
    assert phone.get("/devices").text.count('name="handle"') >= 1
    assert phone.get("/heartbeat").json is not None
    assert phone.post("/heartbeat", headers={HEADER: "1"}).status_code == 200
    assert phone.post("/devices/end-others").status_code == 303
    assert laptop.get("/devices").status_code == 303
    admin = sign_in(app, "ada")
    page = admin.get("/control/")
    assert page.status_code == 200
    assert admin.get("/control/figures").status_code == 200
    phone.post("/sign-out")
    assert phone.get("/devices").status_code == 303


def test_commands_work(app: Flask) -> None:
    sign_in(app, "carl")
    with app.app_context():
        [handle] = [one.handle or "" for one in safe.sessions_of("carl")]
    assert handle in run(app, "list --user carl")
    assert handle in run(app, f"show {handle}")
    assert "customer" in run(app, "stats")
    findings = app.test_cli_runner().invoke(args=["safesession", "check", "--json"])
    assert findings.exit_code in (0, 1), findings.output  # it finds what is fine in a test
    assert "Traceback" not in findings.output
    run(app, "purge")
    run(app, "tune --max-sessions 500")
    run(app, f"end {handle}")
    with app.app_context():
        assert safe.count() == 0


def test_metrics_and_plugin_work(app: Flask) -> None:
    registry = CollectorRegistry()
    instrument(safe, registry)
    with AppKit(app) as kit:
        client = sign_in(app, "carl")
        assert client.get("/devices").status_code == 200
        kit.travel("31m")
        assert client.get("/devices").status_code == 303
    text = generate_latest(registry).decode()
    assert re.search('_total{.*"idle".*} 1', text)
