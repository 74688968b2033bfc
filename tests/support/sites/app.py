"""The app of the tests that run processes of their own."""

from __future__ import annotations

import os
import threading
from typing import Any

from flask import Blueprint, Flask, Response

from flask_safesession import SafeSession, session
from flask_safesession.admin import job as purge_job

views = Blueprint("site", __name__)


@views.get("/write/<owner>/<int:turn>")
def write(owner: str, turn: int) -> dict[str, Any]:
    """Note whose session it is, and say what stood there."""
    before = session.get("mine")
    session["mine"] = [owner, turn]
    return {"mine": before}


@views.get("/read")
def read() -> dict[str, Any]:
    return {"mine": session.get("mine")}


@views.get("/put/<key>")
def put(key: str) -> dict[str, Any]:
    session[key] = True
    return {}


@views.get("/keys")
def keys() -> dict[str, Any]:
    return {"keys": sorted(session)}


@views.get("/process")
def process() -> dict[str, Any]:
    """The purge jobs here, and the threads that wait for their time."""
    names = [thread.name for thread in threading.enumerate()]
    scheduler: Any = purge_job._scheduler
    jobs = scheduler.get_jobs() if scheduler else []
    return {"jobs": len(jobs), "schedulers": names.count("APScheduler")}


@views.after_app_request
def say_who_answers(response: Response) -> Response:
    response.headers["X-Pid"] = str(os.getpid())
    return response


def make_app() -> Flask:
    made = Flask("site")
    made.secret_key = "a key for tests that is long enough"
    store, prefix = os.environ["SITE_STORE"], os.environ["SITE_PREFIX"]
    timeout = os.environ.get("SITE_TIMEOUT", "5s")
    safe = SafeSession(
        made, store=store, key_prefix=prefix, check_interval="1h", store_timeout=timeout
    )
    made.register_blueprint(views)
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        from flask_safesession.instrumentation import prometheus

        made.add_url_rule("/metrics", "metrics", prometheus.instrument(safe).page)
        made.add_url_rule("/purge", "purge", lambda: safe.purge()._asdict())
    return made


app = make_app()
if os.environ.get("SITE_USED"):
    # The worst that a preloaded app can do: workers inherit open connections and a job.
    client = app.test_client()
    client.get("/write/parent/0")
    jobs = len(app.extensions["safesession"].opened.shards)  # none without an index
    assert client.get("/process").json == {"jobs": jobs, "schedulers": jobs}
