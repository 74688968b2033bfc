"""``session.expires_in()``: limits of one session, within what the settings allow."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from flask import Flask, request

from flask_safesession import SafeSession, session
from flask_safesession.config.settings import read_settings
from flask_safesession.errors import ConfigError
from flask_safesession.model.policy import Limits
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

from ..support.counting import CountingStore

MINUTE = 60_000
HOUR, DAY = 60 * MINUTE, 1440 * MINUTE
TIERS = {
    "anonymous": {"idle_timeout": "10m"},
    "shop": {"idle_timeout": "1h", "lifetime": "8h", "longest_lifetime": "10d"},
    "admin": {"idle_timeout": "10m", "lifetime": "1h"},
}

Work = Callable[[], Any]
MakeApp = Callable[..., Flask]


class Visitor:
    """A browser in which each request does a given work."""

    def __init__(self, app: Flask, clock: FakeClock) -> None:
        self.safe: SafeSession = app.extensions["tested.safe"]
        self._http = app.test_client()
        self._clock = clock

    def do(self, *works: Work, path: str = "/", **options: Any) -> Any:
        return self._http.post(path, environ_overrides={"tested.works": works}, **options)

    def sign_in(self, *works: Work, user: str = "ann", tier: str = "shop") -> Any:
        return self.do(lambda: session.update(user_id=user, _tier=tier), *works)

    def lasts(self) -> tuple[int, int] | None:
        """Returns minutes of idle time and of lifetime that are left; ``None``: it is over."""
        keys: list[str | None] = []
        self.do(lambda: keys.append(session.info.handle), path="/passive")
        if keys[0] is None:
            return None
        state = self._http.application.extensions["safesession"]
        record = state.store.load(keys[0], state.settings.rules, slide=False).record
        left = (record.last_active + record.idle - self._clock(), record.absolute - self._clock())
        return left[0] // MINUTE, left[1] // MINUTE

    def copy(self) -> Visitor:
        """Returns another browser with the same cookie."""
        other = Visitor(self._http.application, self._clock)
        other._http.set_cookie("session", self._http.get_cookie("session").value)  # type: ignore[union-attr]
        return other

    def after(self, milliseconds: int) -> Visitor:
        self._clock.advance(milliseconds)
        return self

    def cookie(self, *works: Work, **options: Any) -> int | str | None:
        """Returns the maximum age of the cookie that a response sets; "none": it sets none."""
        lines = self.do(*works, **options).headers.getlist("Set-Cookie")
        return _age(lines[0]) if lines else "none"


def _age(line: str) -> int | None:
    parts = dict(part.strip().partition("=")[::2] for part in line.split(";"))
    return int(parts["Max-Age"]) if "Max-Age" in parts else None


def expires_in(lifetime: Any, **options: Any) -> Work:
    return lambda: session.expires_in(lifetime, **options)


def regenerate() -> None:
    session.regenerate()


def clear() -> None:
    session.clear()


@pytest.fixture
def store(clock: FakeClock) -> CountingStore:
    return CountingStore(MemoryStore(clock))


@pytest.fixture
def start(make_app: MakeApp, store: CountingStore, clock: FakeClock) -> Callable[..., Visitor]:
    def start(**settings: Any) -> Visitor:
        app = make_app(store=store, **settings)
        safe: SafeSession = app.extensions["tested.safe"]

        def work() -> str:
            for one in request.environ["tested.works"]:
                one()
            return ""

        app.add_url_rule("/", "work", work, methods=["POST"])
        app.add_url_rule("/passive", "passive", safe.passive(partial(work)), methods=["POST"])
        app.add_url_rule("/exempt", "exempt", safe.exempt(partial(work)), methods=["POST"])
        return Visitor(app, clock)

    return start


# -- what a session gets ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lifetime", "idle", "lasts"),
    [
        ("2h", None, (30, 120)),  # shorter: the tier's idle timeout stays
        ("10m", None, (10, 10)),
        (timedelta(hours=2), 600, (10, 120)),
        ("12h", None, (30, 720)),
        ("20d", None, (28_800, 28_800)),  # longer: idle time must not end it sooner
        ("20d", "2d", (2_880, 28_800)),
        ("60d", None, (43_200, 43_200)),  # cut to the most
        ("2h", "2h", (120, 120)),
    ],
)
def test_a_session_gets_what_it_asks_for_up_to_the_most(
    start: Callable[..., Visitor], lifetime: Any, idle: Any, lasts: tuple[int, int]
) -> None:
    visitor = start(longest_lifetime="30d")
    visitor.sign_in(expires_in(lifetime, idle=idle))
    assert visitor.lasts() == lasts
    visitor.do(lambda: session.update(page=1))  # another save keeps them
    assert visitor.lasts() == lasts


@pytest.mark.parametrize(
    ("lifetime", "idle", "lasts"),
    [("30d", None, (30, 720)), ("2h", "2h", (30, 120)), ("2h", "5m", (5, 120))],
)
def test_without_the_setting_own_limits_can_only_be_shorter(
    start: Callable[..., Visitor], lifetime: str, idle: str | None, lasts: tuple[int, int]
) -> None:
    visitor = start()
    visitor.sign_in(expires_in(lifetime, idle=idle))
    assert visitor.lasts() == lasts


def test_a_remembered_session_lives_on_for_weeks_and_a_usual_one_does_not(
    start: Callable[..., Visitor],
) -> None:
    visitor = start(longest_lifetime="30d")
    visitor.sign_in(expires_in("30d"))
    for _ in range(3):
        assert visitor.after(9 * DAY).lasts() is not None
        visitor.do(lambda: session["user_id"])
    assert visitor.after(3 * DAY).lasts() is None
    visitor.sign_in()
    assert visitor.lasts() == (30, 720)


def test_each_tier_says_what_its_sessions_may_have(start: Callable[..., Visitor]) -> None:
    """A tier that says nothing allows nothing longer, whatever other tiers allow."""
    visitor = start(expiry="tiered", tiers=TIERS, longest_lifetime="30d")
    visitor.sign_in(expires_in("20d"), tier="shop")
    assert visitor.lasts() == (14_400, 14_400)
    visitor.sign_in(expires_in("20d"), tier="admin", user="root")
    assert visitor.lasts() == (10, 60)
    visitor.sign_in(expires_in("20d"), tier="other", user="bob")
    assert visitor.lasts() == (28_800, 28_800)


def test_what_is_more_than_allowed_is_reported_once(
    start: Callable[..., Visitor], caplog: pytest.LogCaptureFixture
) -> None:
    visitor = start(expiry="tiered", tiers=TIERS, idle_timeout="20m")
    for _ in range(2):
        visitor.sign_in(expires_in("20d"), tier="other")
        visitor.sign_in(expires_in("2h", idle="90m"), tier="admin", user="root")
    visitor.sign_in(expires_in("2h"), tier="shop")
    default, admin = (record.getMessage() for record in caplog.records)
    assert default == (
        "session.expires_in() asks for 20d (20d without use), longer than the settings allow for"
        " the tier 'default': the session gets 12h (20m). To allow more, set"
        " SAFESESSION_LONGEST_LIFETIME"
    )
    assert admin == (
        "session.expires_in() asks for 2h (90m without use), longer than the settings allow for"
        " the tier 'admin': the session gets 1h (10m). To allow more, set"
        " SAFESESSION_TIERS['admin']['longest_lifetime']"
    )


def test_limits_count_from_the_call_and_can_be_asked_for_again(
    start: Callable[..., Visitor],
) -> None:
    """As an identity provider's token is refreshed. In all, a session has what the settings say."""
    visitor = start(lifetime="5h", longest_lifetime="6h")
    visitor.sign_in(expires_in("2h", idle="2h"))
    visitor.after(HOUR).do(expires_in("2h"))
    assert visitor.lasts() == (30, 120)
    for _ in range(9):
        visitor.after(29 * MINUTE).do(expires_in("5h"))
    assert visitor.lasts() == (30, 39)  # of 6 hours
    visitor.do(expires_in("10m"))
    assert visitor.lasts() == (30, 10)


def test_a_number_is_seconds_from_now(start: Callable[..., Visitor]) -> None:
    claims = {"exp": int(time.time()) + 3600}
    visitor = start()
    visitor.sign_in(expires_in(claims["exp"] - time.time()))
    assert visitor.lasts() in ((30, 59), (30, 60))


# -- how long they hold -------------------------------------------------------------------------


def test_a_sign_in_ends_them(start: Callable[..., Visitor]) -> None:
    """They belong to the sign-in that set them."""
    visitor = start(longest_lifetime="30d")
    visitor.sign_in(expires_in("30d"))
    visitor.after(HOUR).sign_in()
    assert visitor.lasts() == (30, 720)
    visitor.sign_in(expires_in("30d"), user="bob")
    assert visitor.lasts() == (43_200, 43_200)
    visitor.sign_in(user="ann")
    assert visitor.lasts() == (30, 720)


def test_a_logout_ends_them(start: Callable[..., Visitor]) -> None:
    visitor = start(longest_lifetime="30d")
    visitor.sign_in(expires_in("30d"))
    visitor.do(lambda: session.pop("user_id"))
    assert visitor.lasts() == (30, 720)
    visitor.do(expires_in("30d"), clear, lambda: session.update(cart=1))
    assert visitor.lasts() == (30, 720)


def test_a_new_id_and_another_tier_keep_them_within_what_that_tier_allows(
    start: Callable[..., Visitor],
) -> None:
    visitor = start(expiry="tiered", tiers=TIERS)
    visitor.sign_in(expires_in("10d"))
    visitor.after(10 * MINUTE).do(regenerate)
    assert visitor.lasts() == (14_400, 14_390)
    visitor.do(lambda: session.update(_tier="admin"))
    assert visitor.lasts() == (10, 50)
    visitor.do(lambda: session.update(_tier="shop"))
    assert visitor.lasts() == (14_400, 14_390)


def test_a_renewal_of_the_secret_keeps_them(start: Callable[..., Visitor]) -> None:
    visitor = start(longest_lifetime="30d", renew_interval="1d")
    visitor.sign_in(expires_in("30d"))
    visitor.after(2 * DAY).do(lambda: session["user_id"])
    assert visitor.lasts() == (43_200, 40_320)
    assert visitor.cookie(lambda: session["user_id"]) == "none"


def test_the_note_of_a_replaced_secret_keeps_them(start: Callable[..., Visitor]) -> None:
    visitor = start(longest_lifetime="30d", renew_interval="1h")
    visitor.sign_in(expires_in("30d"))
    other = visitor.copy()
    for _ in range(2):
        visitor.after(HOUR).do(lambda: session["user_id"])
    assert other.lasts() is None
    assert visitor.lasts() == (43_200, 43_080)


def test_a_session_that_is_filed_anew_keeps_them(
    start: Callable[..., Visitor], store: CountingStore
) -> None:
    visitor = start(longest_lifetime="30d", user_key="account")
    visitor.do(lambda: session.update(user_id="ann"), expires_in("20d"))
    assert visitor.lasts() == (28_800, 28_800)
    app = visitor._http.application.extensions["safesession"]
    app.overrides.settings = read_settings({}, {"longest_lifetime": "10d"})
    assert visitor.lasts() == (14_400, 14_400)
    assert visitor.safe.sessions_of("ann")[0].own_lifetime == timedelta(days=20)


def test_an_operator_who_shortens_the_most_cuts_them_at_once(
    start: Callable[..., Visitor],
) -> None:
    visitor = start(longest_lifetime="30d")
    visitor.sign_in(expires_in("30d"))
    visitor.safe.reconfigure(longest_lifetime="2d")
    assert visitor.lasts() == (2_880, 2_880)
    visitor.safe.reconfigure(idle_timeout="10m", lifetime="1h")
    assert visitor.lasts() == (2_880, 2_880)
    visitor.safe.reconfigure(longest_lifetime="1h")
    assert visitor.lasts() == (60, 60)
    visitor.safe.reconfigure(longest_lifetime="20d")
    visitor.do(lambda: session.update(page=1))
    assert visitor.lasts() == (28_800, 28_800)


def test_shorter_usual_limits_still_cut_usual_sessions(start: Callable[..., Visitor]) -> None:
    visitor = start(longest_lifetime="30d")
    visitor.sign_in()
    visitor.safe.reconfigure(idle_timeout="10m", lifetime="1h")
    assert visitor.lasts() == (10, 60)


def test_a_dry_run_counts_what_a_shorter_most_would_end(start: Callable[..., Visitor]) -> None:
    visitor = start(longest_lifetime="30d")
    visitor.sign_in(expires_in("30d"))
    visitor.after(2 * DAY)
    assert visitor.safe.reconfigure(lifetime="1h", dry_run=True).would_end == 0
    assert visitor.safe.reconfigure(longest_lifetime="3d", dry_run=True).would_end == 0
    assert visitor.safe.reconfigure(longest_lifetime="1d", dry_run=True).would_end == 1


# -- the cookie ---------------------------------------------------------------------------------


def test_the_cookie_lasts_as_long_as_the_session(start: Callable[..., Visitor]) -> None:
    visitor = start(longest_lifetime="60d")
    assert visitor.cookie(*[lambda: session.update(user_id="ann"), expires_in("60d")]) == 5_184_000
    visitor.after(DAY)
    assert visitor.cookie(lambda: session.update(page=1)) == "none"
    assert visitor.cookie(expires_in("1h")) == 3600
    assert visitor.after(MINUTE).cookie(expires_in("1h")) == 3600


def test_a_sign_in_without_limits_of_its_own_has_a_usual_cookie(
    start: Callable[..., Visitor],
) -> None:
    visitor = start(longest_lifetime="30d")
    visitor.sign_in(expires_in("30d"))
    assert visitor.cookie(lambda: session.update(user_id="bob")) is None


def test_the_cookie_can_end_with_the_browser(start: Callable[..., Visitor]) -> None:
    visitor = start()
    ends = [expires_in("1h"), lambda: setattr(session, "permanent", False)]
    assert visitor.cookie(lambda: session.update(user_id="ann"), *ends) is None
    assert visitor.lasts() == (30, 60)
    assert visitor.cookie(lambda: session.update(page=1)) == "none"


def test_a_socket_sets_limits_and_the_next_page_the_cookie(start: Callable[..., Visitor]) -> None:
    visitor = start(longest_lifetime="30d")
    visitor.sign_in(expires_in("1h"))
    upgrade = {"headers": {"Upgrade": "websocket"}}
    assert visitor.cookie(expires_in("20d"), **upgrade) == "none"
    assert visitor.after(DAY).cookie(lambda: session["user_id"]) == 19 * 86_400
    assert visitor.cookie(lambda: session["user_id"]) == "none"


# -- where it is called -------------------------------------------------------------------------


def test_an_anonymous_session_may_have_them_too(start: Callable[..., Visitor]) -> None:
    visitor = start(expiry="tiered", tiers=TIERS)
    visitor.do(lambda: session.update(cart=1), expires_in("5m"))
    assert visitor.lasts() == (5, 5)
    visitor.do(lambda: session.update(cart=2), expires_in("5d"))
    assert visitor.lasts() == (10, 720)


def test_a_new_session_that_stays_empty_is_not_stored(
    start: Callable[..., Visitor], store: CountingStore
) -> None:
    assert start().cookie(expires_in("5m")) == "none"
    assert store.calls == []


def test_a_passive_view_sets_them_and_is_no_use(start: Callable[..., Visitor]) -> None:
    visitor = start()
    visitor.sign_in()
    visitor.after(MINUTE).do(lambda: session["user_id"])
    visitor.after(10 * MINUTE).do(expires_in("2h"), path="/passive")
    assert visitor.lasts() == (20, 120)


def test_an_exempt_view_sets_nothing_and_says_so(
    start: Callable[..., Visitor], caplog: pytest.LogCaptureFixture
) -> None:
    visitor = start()
    visitor.sign_in()
    visitor.do(expires_in("5m"), path="/exempt")
    assert visitor.lasts() == (30, 720)
    assert "marked safe.exempt" in caplog.text


def test_limits_that_cannot_be_stored_are_an_error(
    start: Callable[..., Visitor], store: CountingStore
) -> None:
    """A session that should end sooner must not go on as before, unnoticed."""
    visitor = start()
    visitor.sign_in(expires_in("4h"))
    store.failing = {"commit"}
    assert visitor.after(MINUTE).do(expires_in("1h")).status_code == 503


def test_another_request_that_saves_at_the_same_time_keeps_them(
    start: Callable[..., Visitor], store: CountingStore
) -> None:
    visitor = start(longest_lifetime="30d")
    visitor.sign_in()
    store.before("commit", lambda: visitor.do(lambda: session.update(page=1)))
    visitor.do(expires_in("20d"))
    assert visitor.lasts() == (28_800, 28_800)
    store.before("commit", lambda: visitor.do(expires_in("10d")))
    visitor.do(lambda: session.update(page=2))
    assert visitor.lasts() == (14_400, 14_400)


def test_a_list_shows_what_a_session_asked_for(start: Callable[..., Visitor]) -> None:
    visitor = start()
    visitor.sign_in(expires_in("20d"))
    visitor.do(lambda: session.update(user_id="bob"))
    visitor.after(MINUTE).do(expires_in("2h"))
    assert visitor.safe.sessions_of("bob")[0].own_lifetime == timedelta(minutes=121)
    assert visitor.safe.sessions_of("ann") == []


# -- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lifetime", "idle", "message"),
    [
        ("soon", None, "lifetime is 'soon': write seconds, a timedelta, or text such as"),
        (-5, None, "lifetime is -5: a duration must be at least a millisecond; it is counted from"),
        (1_764_000_000, None, "a duration can be ten years at most; it is counted from now"),
        (None, None, "lifetime is None: write seconds"),
        ("1h", "x", "idle is 'x': write seconds"),
        ("1h", "2h", "idle is '2h', longer than the lifetime, '1h'"),
        ("1h", "30s", "idle is '30s': it must be longer than the touch interval (30s)"),
    ],
)
def test_a_wrong_value_is_an_error_and_changes_nothing(
    start: Callable[..., Visitor], lifetime: Any, idle: Any, message: str
) -> None:
    visitor = start()

    def wrong() -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            session.expires_in(lifetime, idle=idle)

    visitor.sign_in(wrong)
    assert visitor.lasts() == (30, 720)


def test_the_most_is_a_setting_of_each_tier() -> None:
    given = {"expiry": "tiered", "tiers": TIERS, "longest_lifetime": "30d"}
    policy = read_settings({}, given).rules.policy
    assert policy.default == Limits(30 * MINUTE, 12 * HOUR, 30_000, 30 * DAY)
    assert [policy.tiers[name].longest for name in TIERS] == [0, 10 * DAY, 0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"longest_lifetime": "6h"},
            "SAFESESSION_LONGEST_LIFETIME is '6h', shorter than SAFESESSION_LIFETIME ('12h' by",
        ),
        ({"longest_lifetime": "long"}, "SAFESESSION_LONGEST_LIFETIME is 'long': give a duration"),
        (
            {"expiry": "tiered", "tiers": {"a": {"lifetime": "1h", "longest_lifetime": "5m"}}},
            "SAFESESSION_TIERS['a']['longest_lifetime'] is '5m', shorter than SAFESESSION_TIERS",
        ),
        (
            {"expiry": "tiered", "tiers": {"a": {"longest_lifetime": "5d"}}},
            "SAFESESSION_TIERS['a'] is {'longest_lifetime': '5d'}: give",
        ),
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_settings({}, given)
