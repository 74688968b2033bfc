"""What the tests of faults share: a site on a store, its visitors, what an outage is to them."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_safesession import SafeSession, StoreUnavailable, events, session
from flask_safesession.model import record
from flask_safesession.stores.remote.breaker import FAILURES
from flask_safesession.testing.kit import age_redis

from . import servers
from .counting import CALLS

#: SAFESESSION_STORE_TIMEOUT of sites, in seconds: much, for this machine may be busy.
PATIENCE = 10.0
#: What a visitor has to wait at most where the server is known to be no help. Far from PATIENCE.
AT_ONCE = 4.0
#: SAFESESSION_STORE_TIMEOUT in tests that wait for it in vain, and what a store call may take then.
TIMEOUT = 1.0
BOUND = TIMEOUT * 1.5
MINUTE = 60_000
IDLE = 30 * MINUTE

#: All that a visitor with a session can do to it, and the store call that saves it.
CHANGES = {
    "/add/fig": "commit",
    "/login/eve": "rotate",
    "/renew": "rotate",
    "/logout": "end",
    "/empty": "end",
}
#: What makes a session for a visitor who has none.
FIRSTS = ("/add/fig", "/login/eve")

_SIGNALS = (
    events.session_created,
    events.session_rotated,
    events.session_ended,
    events.session_lost,
    events.session_replayed,
    events.store_failed,
    events.store_state_changed,
    events.replicas_missing,
)


class Site:
    """An app and what it does: the store calls it makes, the events it sends.

    ``during``: called in each request that changes its session, between its load and its save.
    ``slowest``: seconds that the slowest store call took.
    """

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.safe: SafeSession = app.extensions["tested.safe"]
        self.store: Any = app.extensions["safesession"].store
        self.calls: list[str] = []
        self.events: list[Any] = []
        self.slowest = 0.0
        self.during: Callable[[], object] = time.monotonic  # nothing, that is
        for signal in _SIGNALS:
            signal.connect(self._note, app)
        for name in CALLS:
            setattr(self.store, name, partial(self._call, name, getattr(self.store, name)))
        add_views(self)

    def close(self) -> None:
        """Nothing of it shall come to the next test, which may be on the same server."""
        leave = self.app.extensions["safesession"].job._leaving
        if leave is not None:
            leave()
        self.store.close()

    def _note(self, sender: Flask, event: Any) -> None:
        self.events.append(event)

    def _call(self, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.calls.append(name)
        watch = Stopwatch()
        try:
            return method(*args, **kwargs)
        finally:
            self.slowest = max(self.slowest, watch.read())

    def strike(self, action: Callable[[], object]) -> None:
        """Do *action* in the next request that changes its session, between load and save."""

        def once() -> None:
            self.during = time.monotonic
            action()

        self.during = once

    def take(self) -> list[str]:
        """The store calls since the last time."""
        calls, self.calls = self.calls, []
        return calls

    def take_events(self, kind: type[Any] = object) -> list[Any]:
        """The events of a kind since the last time."""
        taken = [event for event in self.events if isinstance(event, kind)]
        self.events = [event for event in self.events if not isinstance(event, kind)]
        return taken

    def errors(self) -> str:
        """What the store said since the last time, as the log has it."""
        return " | ".join(event.error for event in self.take_events(events.StoreFailed))

    def visitor(self, like: FlaskClient | None = None) -> FlaskClient:
        """Somebody new; or another browser with the same cookie."""
        client = self.app.test_client()
        if like is not None:
            client.set_cookie("session", cookie_of(like) or "")
        return client

    def member(self, name: str = "ann", thing: str = "pear") -> FlaskClient:
        """The browser of somebody who is signed in and has one thing in the cart."""
        client = self.visitor()
        for path in (f"/add/{thing}", f"/login/{name}"):
            assert client.get(path).status_code == 200
        self.take()
        self.take_events()
        return client

    def command(self, *words: str) -> dict[str, Any]:
        """What ``flask safesession …`` prints, in another process's place."""
        result = self.app.test_cli_runner().invoke(args=["safesession", *words, "--json"])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        found: dict[str, Any] = json.loads(result.stdout)
        return found


OpenSite = Callable[..., Site]


def add_views(site: Site) -> None:
    app = site.app
    app.add_url_rule("/read", "read", lambda: dict(session))
    app.add_url_rule("/untouched", "untouched", lambda: "nothing of the session")

    def add(thing: str) -> None:
        session["cart"] = [*session.get("cart", []), thing]

    def swap(thing: str) -> None:
        session.clear()
        add(thing)

    def login(name: str) -> None:
        session["user_id"] = name

    changes: dict[str, Callable[..., object]] = {
        "/add/<thing>": add,
        "/login/<name>": login,
        "/renew": lambda: session.regenerate(),  # noqa: PLW0108  # outside a request there is none
        "/logout": lambda: session.clear(),  # noqa: PLW0108
        "/empty": lambda: [session.pop(key) for key in list(session)],
        "/swap/<thing>": swap,
    }
    for path, change in changes.items():
        app.add_url_rule(path, path, partial(_change, site, change))


def _change(site: Site, change: Callable[..., object], **where: str) -> str:
    len(session)  # loaded
    site.during()
    change(**where)
    return "done"


def reasons(site: Site) -> list[str]:
    """Why sessions ended since the last time."""
    return [event.reason for event in site.take_events(events.SessionEnded)]


def use_in_error_page(site: Site) -> None:
    """The site has a page of its own for outages, which reads the session and writes to it."""

    @site.app.errorhandler(StoreUnavailable)
    def page(error: StoreUnavailable) -> tuple[str, int]:
        session["seen"] = dict(session)
        session.permanent = True
        return "back soon", 503


def cookie_of(client: FlaskClient) -> str | None:
    cookie = client.get_cookie("session")
    return cookie.value if cookie else None


class _Pulse(threading.Thread):
    """Adds up how late this process gets its turn: what it asks for may be that much late, too."""

    EVERY, USUAL = 0.01, 0.002  # seconds

    def __init__(self) -> None:
        super().__init__(name="pulse", daemon=True)
        self.late = 0.0
        self.beat = threading.Condition()
        self.start()

    def run(self) -> None:
        while True:
            asked = time.monotonic()
            time.sleep(self.EVERY)
            late = time.monotonic() - asked - self.EVERY
            with self.beat:
                self.late += late if late > self.USUAL else 0
                self.beat.notify_all()


_pulse = cache(_Pulse)


class Stopwatch:
    """Counts seconds, but for those in which the machine had no time for this process."""

    def __init__(self) -> None:
        self._late, self._started = _pulse().late, time.monotonic()

    def read(self) -> float:
        took = time.monotonic() - self._started
        if took < 0.05:  # nobody looks that closely
            return took
        with _pulse().beat:  # that a turn was late is known when it has come
            _pulse().beat.wait(1)
            return took - (_pulse().late - self._late)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    watch = Stopwatch()
    yield
    took = watch.read()
    assert took < seconds, f"it took {took:.2f} s"


def outage(client: FlaskClient, path: str, bound: float = AT_ONCE) -> TestResponse:
    """Ask for *path*; what a visitor has to see, and when, while sessions cannot be had."""
    with within(bound):
        response = client.get(path)
    return unavailable(response)


def unavailable(response: TestResponse) -> TestResponse:
    """It claims nothing, and changes nothing in the browser."""
    assert response.status_code == 503, (response.request.path, response.status, response.text)
    assert "Retry-After" in response.headers
    assert "Set-Cookie" not in response.headers
    assert "done" not in response.text
    return response


def good(client: FlaskClient, path: str) -> TestResponse:
    response = client.get(path)
    assert response.status_code == 200, (path, response.status, response.text)
    return response


def open_circuit(site: Site) -> None:
    """Ask until nobody waits for the server any more."""
    visitor = site.visitor()
    for _ in range(FAILURES):
        unavailable(visitor.get("/add/fig"))
    assert set(site.safe.servers().values()) == {"open"}


def read(client: FlaskClient) -> dict[str, Any]:
    """What is in the visitor's session."""
    found: Any = good(client, "/read").json
    return {key: value for key, value in found.items() if key != "_permanent"}


#: What is in a member's session, after each thing that can be asked.
ANN = {"user_id": "ann", "cart": ["pear"]}
FIG = {"user_id": "ann", "cart": ["pear", "fig"]}
AFTER: dict[str, dict[str, Any]] = {
    "/read": ANN,
    "/add/fig": FIG,
    "/login/eve": {"user_id": "eve", "cart": ["pear"]},
    "/renew": ANN,
    "/logout": {},
    "/empty": {},
}


def commands_of_the_docs() -> list[str]:
    """Returns the commands that the page of stores lists; those of connecting are the last."""
    page = (Path(__file__).parents[2] / "docs" / "stores.md").read_text("utf-8")
    [lists] = re.findall(r"and these commands:\s*`([^`]*)`[^`]*`([^`]*)`", page)
    return " ".join(lists).lower().split()


# -- what is in the server ----------------------------------------------------------------------


def records(server: servers.Server) -> dict[str, bytes]:
    """Keys of sessions and what is stored; nothing of another type."""
    with server.client() as client:
        names = sorted(client.scan_iter("{safesession:*}:s:*", count=1000, _type="string"))
        found = dict(zip(names, client.mget(names), strict=True)) if names else {}
    return {name.decode(): raw for name, raw in found.items() if raw}


def use_until_noted(server: servers.Server, client: FlaskClient) -> None:
    """Use a session until that is noted: not by a use within the millisecond of its creation.

    Afterwards no use is noted until the touch interval is over.
    """

    def is_noted() -> bool:
        read(client)
        return all(record.loads(raw).is_used for raw in records(server).values())

    servers.poll("a use that is noted", is_noted)


def only_record(server: servers.Server) -> str:
    """The key of the only session there is."""
    (name,) = records(server)
    return name


def entries(server: servers.Server) -> list[str]:
    """Keys of sessions that the index has, in order; one that is there twice is there twice."""
    with server.client() as client:
        buckets = list(client.scan_iter("{safesession:*}:t:*", count=1000, _type="zset"))
        members: Any = [member for bucket in buckets for member in client.zrange(bucket, 0, -1)]
    return sorted(member.decode()[:18] for member in members)


def assert_whole(site: Site, server: servers.Server) -> None:
    """There is nothing to fix, and what is not due is in the index and in a record."""
    assert site.command("purge")["repaired"] == 0
    stored = sorted(name[-18:] for name in records(server))
    assert entries(server) == stored
    assert site.safe.count() == len(stored)


def scripts_run(server: servers.Server) -> int:
    stats = server.ask("INFO", "commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


def refused_scripts(server: servers.Server) -> int:
    """How often the server would not run a script, or did not get to its end."""
    found = server.ask("INFO", "commandstats").get("cmdstat_evalsha", {})
    return int(found.get("rejected_calls", 0) + found.get("failed_calls", 0))


def age(server: servers.Server, milliseconds: int) -> None:
    """Let time pass for all sessions, in all shards."""
    with server.client() as client:
        age_redis(client, milliseconds)


def rows_of(store: str) -> dict[str, tuple[str, list[int]]]:
    """The table of a store in docs/incidents.md: by fault, a text of the log, and the statuses of
    those who read, change and log out."""
    page = (Path(__file__).parents[2] / "docs/incidents.md").read_text("utf-8")
    section = page.partition(f"### {store}\n")[2].partition("\n##")[0]
    row = re.compile(r"^\| (.+?) \| `(.+?)` \| (\d+) \| (\d+) \| (\d+) \|", re.MULTILINE)
    return {name: (text, [*map(int, seen)]) for name, text, *seen in row.findall(section)}


def members(site: Site, paths: tuple[str, ...]) -> list[FlaskClient]:
    """A member for each path. The first use is recorded always, so they have read once."""
    made = [site.member() for _ in paths]
    for member in made:
        read(member)
    return made


@contextmanager
def logged_to(lines: list[str]) -> Iterator[None]:
    """Append what the package logs to *lines*, also where the test's own capture is off."""

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    note, logger = Note(), logging.getLogger("flask_safesession")
    logger.addHandler(note)
    try:
        yield
    finally:
        logger.removeHandler(note)
