"""What ``flask safesession check`` finds, by which names, and how a finding is accepted."""

from __future__ import annotations

import gc
import json
import logging
import re
import weakref
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgpack
import pytest
from flask import Flask
from flask.sessions import SecureCookieSessionInterface

from flask_safesession import SafeSession, session
from flask_safesession.admin import check as doctor
from flask_safesession.stores.base import Finding
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import make_draft, new_key

ROOT = Path(__file__).parents[2]
GOOD: dict[str, Any] = {
    "SECRET_KEY": "0123456789abcdef0123456789abcdef",
    "SESSION_COOKIE_SECURE": True,
    "SESSION_COOKIE_SAMESITE": "Lax",
}


class SharedStore(MemoryStore):
    """A store that several processes see, as this process plays it."""

    shared = True


def app_with(config: dict[str, Any] | None = None, **settings: Any) -> Flask:
    app = Flask("tested")
    app.config.update(GOOD | (config or {}))
    SafeSession(app, **settings)
    return app


def check(app: Flask, *args: str) -> tuple[int, dict[str, str]]:
    """The exit code, and the findings by name."""
    result = app.test_cli_runner().invoke(args=["safesession", "check", "--json", *args])
    found = json.loads(result.stdout)["findings"]
    return result.exit_code, {one["name"]: one["text"] for one in found}


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    told = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    caplog.clear()
    return told


# -- names --------------------------------------------------------------------------------------


def test_a_finding_shows_its_name_and_can_be_ignored_by_it() -> None:
    app = app_with({"SESSION_COOKIE_SECURE": False, "SESSION_COOKIE_HTTPONLY": False})
    shown = app.test_cli_runner().invoke(args=["safesession", "check"]).stdout.splitlines()
    assert [line.rpartition(" ")[2] for line in shown] == [
        "[cookie-not-secure]",
        "[cookie-not-httponly]",
    ]
    code, found = check(app, "--ignore", "cookie-not-secure")
    assert (code, list(found)) == (1, ["cookie-not-httponly"])
    both = ("--ignore", "cookie-not-secure", "--ignore", "cookie-not-httponly")
    assert check(app, *both) == (0, {})


def test_a_name_that_is_none_is_an_error_that_lists_all() -> None:
    arguments = ["safesession", "check", "--ignore", "samesite"]
    result = app_with().test_cli_runner().invoke(args=arguments)
    assert result.exit_code == 2
    assert all(repr(name) in result.stderr for name in doctor.NAMES)


def test_every_name_of_a_finding_is_known_and_every_known_name_is_one() -> None:
    code = "".join(path.read_text() for path in (ROOT / "flask_safesession").rglob("*.py"))
    used = set(re.findall(r'Finding\(\s*"([a-z-]+)"', code))
    assert used | {"store"} == set(doctor.NAMES)
    assert len(doctor.NAMES) == len(set(doctor.NAMES))


def test_every_name_of_a_finding_is_documented() -> None:
    section = (ROOT / "docs/cli.md").read_text().split("## `check`")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE) == list(doctor.NAMES)


def test_what_a_store_of_ones_own_finds_is_a_finding_of_the_store() -> None:
    class Own(MemoryStore):
        def inspect(self) -> list[Finding]:
            return [Finding("disk", "the disk is full\x1b[31m"), Finding("replica", "a replica")]

    app = app_with(store=Own())
    assert list(check(app)[1]) == ["store", "replica"]
    shown = app.test_cli_runner().invoke(args=["safesession", "check"]).stdout
    assert "the disk is full\\x1b[31m [store]" in shown


# -- cookies of embedded apps -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["session", "__Host-session"])
@pytest.mark.parametrize("secure", [True, False])
def test_the_right_settings_of_an_embedded_app_pass(name: str, secure: bool) -> None:
    app = app_with(
        {
            "SESSION_COOKIE_NAME": name,
            "SESSION_COOKIE_SAMESITE": "None",
            "SESSION_COOKIE_PARTITIONED": True,
            "SESSION_COOKIE_SECURE": secure,
        }
    )
    app.add_url_rule("/", "home", lambda: str(session.setdefault("a", 1)))
    cookie = app.test_client().get("/").headers["Set-Cookie"]
    assert "; Secure" in cookie
    assert "; Partitioned" in cookie
    assert list(check(app)[1]) == ["cookie-samesite"]
    assert check(app, "--ignore", "cookie-samesite") == (0, {})


# -- secret keys --------------------------------------------------------------------------------

SHOWN = re.compile(r"""secret_key(?:_fallbacks)?["']?\]?\s*=\s*\[?b?(["'])(.+?)\1""", re.IGNORECASE)


def documented_keys() -> set[str]:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.py")]
    code = [*(ROOT / "example").rglob("*.py"), *(ROOT / "flask_safesession").rglob("*.py")]
    text = "".join(path.read_text() for path in [*pages, *code])
    return {key for _, key in SHOWN.findall(text)}


def test_every_secret_key_that_the_documentation_shows_is_known_to_check() -> None:
    keys = documented_keys()
    assert "only for tests" in keys
    for key in {*keys, "make one with secrets.token_hex()"}:
        assert "is a well-known key" in check(app_with({"SECRET_KEY": key}))[1]["weak-secret-key"]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/quickstart.md"])
def test_the_first_pages_take_the_secret_key_from_the_environment(page: str) -> None:
    assert 'secret_key = os.environ["SECRET_KEY"]' in (ROOT / page).read_text()


# -- settings that lost their meaning -----------------------------------------------------------


@pytest.mark.parametrize("value", [timedelta(minutes=5), 300, timedelta(hours=11)], ids=str)
def test_a_lifetime_of_flasks_that_ends_nothing_is_a_warning_and_a_finding(
    caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    app = app_with({"PERMANENT_SESSION_LIFETIME": value})
    [told] = warnings_in(caplog)
    assert told.startswith(f"PERMANENT_SESSION_LIFETIME is {value}, less than sessions may last")
    assert check(app) == (1, {"permanent-session-lifetime": told})


@pytest.mark.parametrize(
    ("value", "settings"),
    [
        (timedelta(days=31), {"lifetime": "60d"}),  # Flask's default: nobody has set it
        (timedelta(hours=12), {}),
        (timedelta(days=90), {"lifetime": "60d"}),
    ],
    ids=["default", "equal", "longer"],
)
def test_a_lifetime_of_flasks_that_still_means_something_is_none(
    caplog: pytest.LogCaptureFixture, value: timedelta, settings: dict[str, Any]
) -> None:
    app = app_with({"PERMANENT_SESSION_LIFETIME": value}, **settings)
    assert (warnings_in(caplog), check(app)) == ([], (0, {}))


def test_a_tiers_lifetime_counts_too(caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"lifetime": "1h", "tiers": {"staff": {"lifetime": "9h"}}}
    app_with({"PERMANENT_SESSION_LIFETIME": 7200}, expiry="tiered", **settings)
    assert len(warnings_in(caplog)) == 1


def test_settings_of_flask_session_are_one_warning_and_one_finding(
    caplog: pytest.LogCaptureFixture,
) -> None:
    left = {"SESSION_TYPE": "redis", "SESSION_REDIS": "redis://:hunter2@cache"}
    app = app_with({**left, "SESSION_KEY_PREFIX": "shop:", "SESSION_PROTECTION": "strong"})
    [told] = warnings_in(caplog)
    assert told.startswith(
        "SESSION_TYPE, SESSION_KEY_PREFIX, SESSION_REDIS: settings of Flask-Session"
    )
    assert "hunter2" not in told
    assert check(app) == (1, {"flask-session-settings": told})


def test_a_key_that_an_argument_overrules_is_logged_for_debugging_and_a_finding(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="flask_safesession")
    app = app_with({"SAFESESSION_IDLE_TIMEOUT": "5m"}, idle_timeout="10m")
    [record] = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.getMessage().startswith("SAFESESSION_IDLE_TIMEOUT of app.config is not used")
    assert check(app) == (1, {"overruled-setting": record.getMessage()})


def test_a_key_that_says_the_same_as_the_argument_is_none() -> None:
    app = app_with({"SAFESESSION_IDLE_TIMEOUT": "5m"}, idle_timeout="5m")
    assert check(app) == (0, {})


def test_a_key_that_is_set_too_late_is_a_finding() -> None:
    app = app_with()
    app.config["SAFESESSION_LIFETIME"] = "1h"
    assert "set after SafeSession had read it" in check(app)[1]["overruled-setting"]


# -- another session extension ------------------------------------------------------------------


class Another(SecureCookieSessionInterface):
    """The interface of another extension."""


def test_an_extension_that_was_there_before_is_a_warning_and_a_finding(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Flask("tested")
    app.config.update(GOOD)
    app.session_interface = Another()
    SafeSession(app)
    [told] = warnings_in(caplog)
    assert told.startswith("app.session_interface was a tests.admin.test_check.Another")
    assert check(app) == (1, {"second-session-extension": told})


def test_an_extension_that_comes_later_is_a_warning_at_the_first_request_and_a_finding(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = app_with()
    app.session_interface = Another()
    assert warnings_in(caplog) == []
    for _ in range(2):
        app.test_client().get("/")
    [told] = warnings_in(caplog)
    assert told.startswith(
        "app.session_interface is a tests.admin.test_check.Another: another extension"
    )
    assert check(app) == (1, {"second-session-extension": told})


def test_alone_nothing_is_reported_and_nothing_holds_the_app(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = app_with()
    app.test_client().get("/")
    idle = app_with()
    seen = weakref.ref(app), weakref.ref(idle)
    del app, idle
    gc.collect()
    assert [one() for one in seen] == [None, None]
    assert warnings_in(caplog) == []


# -- users under another key --------------------------------------------------------------------


def fill(app: Flask, *contents: Any, user: Any = None) -> None:
    state = app.extensions["safesession"]
    for data in contents:
        draft = make_draft(msgpack.packb(data), rules=state.settings.rules, user=user)
        state.store.create(new_key(), draft, state.settings.rules)


@pytest.mark.parametrize(
    "data",
    [
        {"user": {"id": 7}},
        {"cart": [1], "username": "ann"},
        {"userinfo": {"sub": "x" * 2000}},
        {"identity.id": 7},
        {"logged_in": True},
        {"account": 7},
    ],
    ids=lambda data: list(data)[-1],
)
def test_users_under_a_key_that_is_not_the_user_key_are_a_finding(data: dict[str, Any]) -> None:
    app = app_with(store=SharedStore())
    fill(app, {"cart": [1]}, data)
    code, found = check(app)
    [text] = found.values()
    assert (code, list(found)) == (1, ["user-elsewhere"])
    assert text.startswith(f"1 of 2 sessions without a user hold {list(data)[-1]!r}")
    assert "SAFESESSION_USER_KEY (it is '_user_id', 'user_id')" in text


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        ({"cart": {"user": 1}}, {}),
        ({"user": None, "username": "", "logged_in": False, "account": {}}, {}),
        ({"user": 7}, {"user_key": "user"}),
        ({"user": {"name": "ann"}}, {"user_key": "user.id"}),
        ({"cart": "x" * 2000, "user": 7}, {}),
    ],
    ids=["deeper", "nobody", "the-user-key", "the-user-keys-container", "cut-off"],
)
def test_sessions_of_anonymous_visitors_are_none(
    data: dict[str, Any], settings: dict[str, Any]
) -> None:
    app = app_with(store=SharedStore(), **settings)
    fill(app, data)
    assert check(app) == (0, {})


def test_sessions_of_users_are_not_looked_into() -> None:
    app = app_with(store=SharedStore())
    fill(app, {"user_id": 7, "user": {"id": 7}}, user=7)
    assert check(app) == (0, {})


def test_a_payload_that_cannot_be_read_is_no_finding() -> None:
    app = app_with(store=SharedStore())
    fill(app, [1], 5, {b"\xff": 1}, {5: 1})
    assert check(app) == (0, {})


def test_fifty_sessions_are_looked_at() -> None:
    app = app_with(store=SharedStore())
    fill(app, *({"user": number + 1} for number in range(60)))
    assert check(app)[1]["user-elsewhere"].startswith("50 of 50 sessions")
