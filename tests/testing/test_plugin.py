"""The pytest plugin, used as in a user's project: in a folder and a run of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flask_login
import pytest
from flask import Flask, session
from prometheus_client import CollectorRegistry

from flask_safesession import StoreUnavailable, testing
from flask_safesession.events import SessionCreated, SessionEnded, SessionRotated
from flask_safesession.instrumentation import prometheus
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import AppKit, FakeClock

from ..support import servers

pytest_plugins = ["pytester"]

PAGE = (Path(__file__).parents[2] / "docs/testing-your-app.md").read_text("utf-8")
# File name to code: the blocks of the page whose first line is a comment with the name.
FILES = dict(re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))

APP = """
    import pytest
    from flask import Flask, session
    from flask_safesession import SafeSession

    @pytest.fixture{scope}
    def app():
        app = Flask("theirs")
        app.secret_key = "only for tests"
        SafeSession(app, check_interval=None{settings})
        app.add_url_rule("/", "who", lambda: str(session.get("user_id")))
        app.add_url_rule("/why", "why", lambda: str(session.info.ended_reason))
        return app
"""
STORY = """
    import pytest

    def test_a_session_ends(safesession):
        client, other = safesession.sign_in(7), safesession.sign_in(8)
        safesession.travel("29m")
        assert other.get("/").text == "8"
        safesession.travel("2m")
        assert (client.get("/").text, other.get("/").text) == ("None", "8")
        safesession.expire(other)
        assert other.get("/").text == "None"

    @pytest.mark.parametrize("hours", [1, 12])
    def test_how_a_session_ended_is_known_after_any_leap(safesession, hours):
        client, idler = safesession.sign_in(7), safesession.sign_in(8)
        for _ in range(hours * 3):
            safesession.travel("19m")
            client.get("/")
        safesession.travel(f"{hours}h")
        assert client.get("/why").text == "idle"
        assert idler.get("/why").text == "idle"
        safesession.end(safesession.sign_in(9, client=client))
        assert client.get("/why").text == "revoked"
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A user's project, in which no plugin is loaded that a test does not name."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_PLUGINS", raising=False)
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    return project.runpytest_inprocess(
        "-p", "pytest_safesession", "-p", "no:cacheprovider", "-W", "error", *options
    )


def app_file(settings: str = "", scope: str = "") -> str:
    return APP.format(settings=f", {settings}" if settings else "", scope=scope)


# -- in a user's project ----------------------------------------------------------------------


def test_the_examples_of_the_documentation_work(project: pytest.Pytester) -> None:
    assert len(FILES) == PAGE.count("```python")
    for name, code in FILES.items():
        (project.path / name).write_text(code)
    run(project).assert_outcomes(passed=PAGE.count("\ndef test_"))


@pytest.mark.parametrize("kind", servers.binaries())
def test_it_works_on_a_real_server(
    project: pytest.Pytester, pool: Any, prefix: str, kind: str
) -> None:
    url = pool.get(kind).url
    settings = f"store={url!r}, key_prefix={prefix!r}, store_timeout=10, shards=2"
    project.makeconftest(app_file(settings))
    project.makepyfile(STORY)
    run(project).assert_outcomes(passed=3)


@pytest.mark.parametrize("store", ["'memory://'", "__import__('fakeredis').FakeRedis()"])
def test_it_works_without_a_server(project: pytest.Pytester, store: str) -> None:
    project.makeconftest(app_file(f"store={store}"))
    project.makepyfile(STORY)
    run(project).assert_outcomes(passed=3)


def test_it_is_there_without_being_asked_for_and_costs_nothing(
    project: pytest.Pytester,
) -> None:
    assert [found.name for found in entry_points(group="pytest11", name="safesession")]
    project.makepyfile("""
        import sys

        def test_nothing_is_imported(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("safesession")
            assert not {"flask", "flask_safesession", "redis", "msgpack"} & sys.modules.keys()
    """)
    # As pytest loads it by itself; other plugins that are installed may import all of those.
    options = ["-p", "safesession", "-p", "no:cacheprovider"]
    project.runpytest_subprocess(*options).assert_outcomes(passed=1)


def test_it_can_be_switched_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_gone(safesession): pass")
    options = ["-p", "no:safesession", "-p", "no:flask", "-p", "no:valkey"]
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'safesession' not found*"])


def test_it_gets_on_with_pytest_flask(project: pytest.Pytester) -> None:
    project.makeconftest(app_file())
    project.makepyfile("""
        from flask import session

        def test_theirs(client, safesession, app):
            session["written"] = "in the context that pytest-flask has pushed"
            assert client.get("/").text == "None"
            assert safesession.sign_in(7, client=client) is client
            assert client.get("/").text == "7"
            assert safesession.read(client) == {"user_id": 7}
            assert session["user_id"] == 7  # of the last request, which pytest-flask keeps open
    """)
    project.makepyfile(test_story=STORY)
    run(project, "-p", "pytest_flask.plugin").assert_outcomes(passed=4)


def test_without_an_app_it_says_what_to_write(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(safesession): pass")
    result = run(project)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*a fixture named 'app'*safesession_for(app)*"])


def test_a_fixture_that_the_app_needs_and_is_missing_is_named(project: pytest.Pytester) -> None:
    project.makeconftest("import pytest\n@pytest.fixture\ndef app(database): return 1")
    project.makepyfile("def test_it(safesession): pass")
    result = run(project)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'database' not found*"])


def test_an_app_for_many_tests_gets_its_clock_and_its_sessions_back(
    project: pytest.Pytester,
) -> None:
    project.makeconftest(app_file(scope='(scope="session")'))
    project.makepyfile("""
        import pytest

        @pytest.fixture(scope="session")
        def client(app):
            client = app.test_client()
            with client.session_transaction() as session:
                session["user_id"] = 7
            return client

        @pytest.mark.parametrize("turn", [1, 2])
        def test_each_test_begins_where_the_first_began(client, safesession, turn):
            assert client.get("/").text == "7"
            safesession.sign_in(8)
            assert safesession.app.extensions["safesession"].store.tables.records.keys() > {
                safesession.info(client).handle
            }
            safesession.travel("31m")
            assert client.get("/").text == "None"

        def test_after_all(client, app):
            assert len(app.extensions["safesession"].store.tables.records) == 1
    """)
    run(project).assert_outcomes(passed=3)


# -- what an AppKit does ----------------------------------------------------------------------


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    tiers = {"admin": {"idle_timeout": "10m", "lifetime": "1h"}, "anonymous": {"lifetime": "2h"}}
    app = make_app(expiry="tiered", tiers=tiers)
    app.get("/")(lambda: str(session.get("user_id")))

    @app.post("/")
    def write() -> str:
        session["n"] = session.get("n", 0) + 1
        return "written"

    return app


@pytest.fixture
def safesession(app: Flask) -> Iterator[AppKit]:
    with AppKit(app) as kit:
        yield kit


def test_the_session_has_the_tier_and_the_user(safesession: AppKit) -> None:
    info = safesession.info(safesession.sign_in(7, "admin"))
    assert info is not None
    assert (info.user, info.tier, info.new) == (7, "admin", False)
    assert info.expires_at is not None
    assert info.created_at is not None
    assert (info.expires_at - info.created_at).total_seconds() == 600


@pytest.mark.parametrize("tier", ["admni", "anonymous"])
def test_a_tier_that_users_cannot_have_is_refused(safesession: AppKit, tier: str) -> None:
    with pytest.raises(ValueError, match="it has admin"):
        safesession.sign_in(7, tier)


def test_another_key_and_a_single_key_are_used(make_app: Callable[..., Flask]) -> None:
    with AppKit(make_app(user_key=("_user_id", "uid", "other"))) as kit:
        assert kit.read(kit.sign_in(7)) == {"uid": 7}
        assert kit.read(kit.sign_in(7, key="other")) == {"other": 7}
    with AppKit(make_app(user_key="_user_id")) as kit:
        assert kit.read(kit.sign_in(7)) == {"_user_id": 7}


@pytest.mark.parametrize("protection", ["basic", "strong"])
@pytest.mark.parametrize("whole", [True, False], ids=["a user", "an id"])
def test_flask_login_knows_the_user_and_finds_the_sign_in_fresh(
    make_app: Callable[..., Flask], protection: str, whole: bool
) -> None:
    app, manager = make_app(), flask_login.LoginManager()
    manager.session_protection = protection
    manager.init_app(app)
    manager.user_loader(lambda user: SimpleNamespace(name=f"user {user}", is_authenticated=True))
    fresh = flask_login.fresh_login_required(lambda: flask_login.current_user.name)
    app.add_url_rule("/fresh", "fresh", fresh)
    user = SimpleNamespace(get_id=lambda: "7") if whole else 7
    with AppKit(app) as kit:
        client = kit.sign_in(user)
        assert client.get("/fresh").text == "user 7"
        assert client.get("/fresh", headers={"User-Agent": "a thief's"}).status_code == 401


def test_the_cookie_is_as_a_response_would_set_it(make_app: Callable[..., Flask]) -> None:
    app = make_app()
    app.config.update(SESSION_COOKIE_PATH="/in", SESSION_COOKIE_DOMAIN="shop.example")
    app.get("/in/")(lambda: str(session.get("user_id")))
    with AppKit(app) as kit:
        client = kit.sign_in(7, base_url="http://shop.example")
        assert client.get("/in/", base_url="http://shop.example").text == "7"
        assert client.get("/in/").text == "None"
        assert kit.read(client) == {"user_id": 7}


def test_looking_does_not_slide_and_changing_does(safesession: AppKit) -> None:
    client, other = safesession.sign_in(7), safesession.sign_in(8)
    safesession.travel("20m")
    assert safesession.read(client) == {"user_id": 7}
    with safesession.change(other) as inside:
        inside["n"] = 1
    safesession.travel("10m")
    assert safesession.read(client) is None
    assert safesession.read(other) == {"user_id": 8, "n": 1}


def test_without_a_session_there_is_nothing_to_see_or_end(safesession: AppKit, app: Flask) -> None:
    client = app.test_client()
    assert (safesession.read(client), safesession.info(client)) == (None, None)
    client.set_cookie("session", "forged")
    assert safesession.read(client) is None
    for act in (safesession.expire, safesession.end, lambda c: safesession.change(c).__enter__()):
        with pytest.raises(LookupError):
            act(client)
    assert safesession.events == []


@pytest.mark.parametrize("reason", ["idle", "lifetime"])
def test_one_session_expires_for_a_reason(safesession: AppKit, reason: Any) -> None:
    client, other = safesession.sign_in(7), safesession.sign_in(7)
    safesession.expire(client, reason)
    assert (client.get("/").text, other.get("/").text) == ("None", "7")
    [ended] = safesession.happened(SessionEnded)
    assert (ended.reason, ended.tier) == (reason, "default")


def test_the_end_of_a_session_is_final_and_told(safesession: AppKit) -> None:
    client = safesession.sign_in(7, "admin")
    info = safesession.info(client)
    assert info is not None
    safesession.end(client)
    assert client.get("/").text == "None"
    assert safesession.happened(SessionEnded) == [
        SessionEnded(str(info.handle), "revoked", "admin")
    ]


def test_a_session_that_is_found_due_is_told_of(safesession: AppKit) -> None:
    client = safesession.sign_in(7)
    safesession.travel("12h")
    assert safesession.read(client) is None
    assert client.get("/").text == "None"
    assert [event.reason for event in safesession.happened(SessionEnded)] == ["idle"]


def test_events_are_those_of_this_app_in_their_order(
    safesession: AppKit, app: Flask, make_app: Callable[..., Flask]
) -> None:
    with AppKit(make_app()) as other:
        other.sign_in(1)
    client = app.test_client()
    client.post("/")
    safesession.sign_in(7, client=client)
    assert [type(event) for event in safesession.events] == [SessionCreated, SessionRotated]
    with AppKit(app):
        pass
    safesession.end(client)
    assert len(safesession.events) == 3


def test_after_the_test_nothing_is_heard_any_more(app: Flask) -> None:
    with AppKit(app) as kit:
        pass
    app.test_client().post("/")
    assert kit.events == []


def test_an_outage_ends_with_its_block_also_by_an_error(safesession: AppKit, app: Flask) -> None:
    client = safesession.sign_in(7)
    state = app.extensions["safesession"]

    def fail() -> None:
        with safesession.outage():
            assert client.get("/").status_code == 503
            with pytest.raises(StoreUnavailable):
                state.store.count(state.settings.rules)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert client.get("/").text == "7"


def test_a_part_of_the_store_can_fail_inside_an_outage(safesession: AppKit) -> None:
    client = safesession.sign_in(7)
    with safesession.outage("commit"):
        with safesession.outage():
            assert client.get("/").status_code == 503
        assert client.get("/").text == "7"
        assert client.post("/").status_code == 503
    assert client.post("/").text == "written"
    with pytest.raises(ValueError, match=r"no comit; it has .*commit"), safesession.outage("comit"):
        pass


def test_a_server_that_is_down_is_seen_to_be(make_app: Callable[..., Flask], server: Any) -> None:
    app = make_app(store=server.url)
    safe = app.extensions["tested.safe"]
    with AppKit(app) as kit:
        with kit.outage():
            assert {*safe.servers().values()} == {"open"}
        assert {*safe.servers().values()} == {"closed"}
    app.extensions["safesession"].store.close()


def test_an_app_with_metrics_is_tested_like_any_other(app: Flask) -> None:
    registry = CollectorRegistry()
    prometheus.instrument(app.extensions["tested.safe"], registry)
    with AppKit(app) as kit:
        client = kit.sign_in(7)
        kit.travel("29m")
        assert client.get("/").text == "7"
        with kit.outage():
            assert client.get("/").status_code == 503
        kit.travel("31m")
        assert client.get("/").text == "None"
    labels = {"flask_app": app.name, "operation": "load", "outcome": "unavailable"}
    assert registry.get_sample_value("safesession_store_call_seconds_count", labels) == 1


def test_time_passes_for_a_store_of_ones_own_as_one_says(make_app: Callable[..., Flask]) -> None:
    class Own:
        shared, counts = False, None

        def __init__(self) -> None:
            self.clock = FakeClock(0)
            self.inner = MemoryStore(self.clock)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    own = Own()
    app = make_app(store=own)
    with AppKit(app) as kit, pytest.raises(RuntimeError, match="advance="):
        kit.travel(1)
    with AppKit(app, advance=own.clock.advance) as kit:
        kit.travel("1s")
    assert own.clock.now == 1000


def test_a_clock_of_the_tests_own_is_turned_and_turned_back(
    make_app: Callable[..., Flask],
) -> None:
    clock = FakeClock()
    then = clock.now
    with AppKit(make_app(store=MemoryStore(clock))) as kit:
        kit.travel("1m")
        assert clock.now == then + 60_000
    assert clock.now == then


def test_time_goes_on_after_the_test(make_app: Callable[..., Flask]) -> None:
    store = MemoryStore(count(1).__next__)
    with AppKit(make_app(store=store)) as kit:
        kit.sign_in(7)
    assert store.tables.clock() < store.tables.clock()


def test_wrong_use_is_told(make_app: Callable[..., Flask]) -> None:
    with pytest.raises(TypeError, match="has no SafeSession"):
        AppKit(Flask("bare"))
    app = make_app()
    with pytest.raises(RuntimeError, match="context manager"):
        AppKit(app).travel("1m")
    with AppKit(app) as kit, pytest.raises(ValueError, match="timedelta"):
        kit.travel("-1m")
    app.secret_key = None
    with AppKit(app) as kit, pytest.raises(RuntimeError, match="secret_key"):
        kit.read(app.test_client())


WITHOUT_PYTEST = """
import sys

for name in ("pytest", "_pytest"):
    sys.modules[name] = None
from flask import Flask
from flask_safesession import SafeSession, testing

app = Flask("bare")
app.secret_key = "a key for tests that is long enough"
SafeSession(app, check_interval=None)
with testing.AppKit(app) as kit:
    assert kit.read(kit.sign_in(7)) == {"user_id": 7}
for name in testing.__all__:
    try:
        getattr(testing, name)
    except ModuleNotFoundError:
        print(name)
"""


def test_only_the_contract_of_stores_needs_pytest() -> None:
    """In an interpreter of its own, which cannot import pytest."""
    command = [sys.executable, "-c", WITHOUT_PYTEST]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "StoreContract\n"), done.stderr
    with pytest.raises(AttributeError, match="no attribute 'StoreContrat'"):
        testing.StoreContrat  # type: ignore[attr-defined]  # noqa: B018
