"""The heartbeat's endpoints, its script as it is served, and the tag that pages have."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from enum import Enum
from html import unescape
from itertools import product
from typing import Any

import flask
import pytest
from flask import Flask, render_template_string, session
from flask.testing import FlaskClient
from flask_login import LoginManager, UserMixin, login_user

from flask_safesession import ConfigError, SafeSession, StoreUnavailable
from flask_safesession.heartbeat import TEXTS, heartbeat
from flask_safesession.model.tokens import user_tag
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

OURS = {"X-Heartbeat": "1"}
MINUTE = 60
# Parsers of addresses raise on most of these.
NO_ORIGINS = [
    "http://[",
    "http://[::1",
    "http://a]b",
    "http://[v1.x",
    "//[",
    "[",
    "",
    "://",
    "http://\xe2\x91\xa0",
]
# Bytes that the script may have: on its way, and unpacked.
MOST_PACKED, MOST_PLAIN = 1_536, 3_000


class Site:
    """An app with a heartbeat, on a clock that a test turns; counts what it asks of its store."""

    def __init__(self, make_app: Callable[..., Flask], **options: Any) -> None:
        self.clock = FakeClock()
        self.store = _Counting(self.clock)
        settings = options.pop("settings", {})
        self.app = make_app(**{"store": self.store, **settings})
        self.safe: SafeSession = self.app.extensions["tested.safe"]
        self.app.register_blueprint(heartbeat(self.safe, **options))
        self.app.add_url_rule("/login/<user>", view_func=self.login)
        self.app.add_url_rule("/put", view_func=self.put)
        self.app.add_url_rule("/page", view_func=self.page)
        self.app.add_url_rule("/out", view_func=self.out)
        self.visitor: FlaskClient = self.app.test_client()

    def login(self, user: str) -> str:
        session["user_id"] = user
        return ""

    def put(self) -> str:
        session["cart"] = ["mug"]
        return render_template_string("{{ heartbeat() }}")

    def page(self) -> str:
        return render_template_string("{{ heartbeat(nonce='n') }}")

    def out(self) -> str:
        session.clear()
        return ""

    def wait(self, seconds: float) -> None:
        self.clock.advance(round(seconds * 1000))

    def ask(self) -> Any:
        self.store.calls.clear()
        answer = self.visitor.get("/heartbeat")
        assert answer.status_code == 200
        assert "Set-Cookie" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store"
        # One call; for an ID that is over, one more to see what stands in for it.
        assert self.store.calls in ([], ["load"], ["load", "load"])
        return answer.json

    def extend(self, **headers: str) -> int:
        return self.visitor.post("/heartbeat", headers={**OURS, **headers}).status_code


class _Counting(MemoryStore):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.calls: list[str] = []
        self.down = False

    def load(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("load")
        if self.down:
            raise StoreUnavailable("unplugged by a test")
        return super().load(*args, **kwargs)

    def create(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("create")
        return super().create(*args, **kwargs)

    def commit(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("commit")
        return super().commit(*args, **kwargs)


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Site:
    return Site(make_app)


# -- asking -------------------------------------------------------------------------------------


def test_a_visitor_without_a_cookie_is_answered_without_the_store(site: Site) -> None:
    told = site.ask()
    assert (told["left"], told["signed_in"], told["ended"]) == (None, False, None)
    assert site.store.calls == []


def test_asking_tells_the_time_left_by_the_stores_clock_and_keeps_nothing_alive(
    site: Site,
) -> None:
    site.visitor.get("/login/u")
    site.wait(10 * MINUTE)
    assert site.ask()["left"] == 20 * MINUTE
    site.wait(19 * MINUTE)
    told = site.ask()
    who = told.pop("who")
    assert [len(digest) for digest in who] == [16]
    assert told == {
        "left": MINUTE,
        "extendable": True,
        "signed_in": True,
        "ended": None,
        "text": TEXTS["other"],
    }
    assert site.store.calls == ["load"]
    site.wait(2 * MINUTE)
    assert site.ask()["left"] is None


def test_a_stranger_with_a_session_is_not_signed_in(site: Site) -> None:
    site.visitor.get("/put")
    told = site.ask()
    assert (told["left"], told["signed_in"]) == (30 * MINUTE, False)


def test_why_a_session_has_ended_is_told_with_a_sentence(site: Site) -> None:
    site.visitor.get("/login/u")
    site.wait(31 * MINUTE)
    told = site.ask()
    assert (told["ended"], told["text"]) == ("idle", TEXTS["idle"])


def test_who_was_ended_by_somebody_else_is_told_so(site: Site) -> None:
    site.visitor.get("/login/u")
    with site.app.app_context():
        site.safe.end_user("u")
    assert site.ask()["ended"] == "revoked"


def test_who_signed_out_is_given_no_reason(site: Site) -> None:
    site.visitor.get("/login/u")
    site.visitor.get("/out")
    told = site.ask()
    assert (told["left"], told["ended"], told["text"]) == (None, None, TEXTS["ended"])


def test_a_request_with_the_cookie_of_before_a_rotation_is_told_to_ask_again(site: Site) -> None:
    site.visitor.get("/put")
    before = site.visitor.get_cookie("session")
    assert before is not None
    site.visitor.get("/login/u")
    site.visitor.set_cookie("session", before.value)
    answer = site.visitor.get("/heartbeat")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (409, "no-store")


@pytest.mark.parametrize("policy", ["unavailable", "readonly-anonymous"])
def test_an_outage_is_never_told_as_an_end(make_app: Callable[..., Flask], policy: str) -> None:
    site = Site(make_app, settings={"on_outage": policy})
    site.visitor.get("/login/u")
    site.store.down = True
    answer = site.visitor.get("/heartbeat")
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
    assert "Set-Cookie" not in answer.headers


# -- whose it is --------------------------------------------------------------------------------


def test_the_state_says_by_a_digest_whether_the_user_is_another_one(site: Site) -> None:
    site.visitor.get("/login/u")
    first = site.ask()["who"]
    site.visitor.get("/out")
    assert site.ask()["who"] == []
    site.visitor.get("/login/u")
    assert site.ask()["who"] == first
    site.visitor.get("/login/another")
    assert not {*site.ask()["who"]} & {*first}


def test_the_digest_of_an_anonymous_visitor_is_that_of_the_session(site: Site) -> None:
    site.visitor.get("/put")
    first = site.ask()["who"]
    site.visitor.get("/put")
    assert site.ask()["who"] == first != []
    site.visitor.get("/out")
    site.visitor.get("/put")
    assert not {*site.ask()["who"]} & {*first}


def test_a_renewed_id_does_not_change_whose_page_it_is(make_app: Callable[..., Flask]) -> None:
    site = Site(make_app, settings={"renew_interval": "5m"})
    site.visitor.get("/login/u")
    first, cookie = site.ask()["who"], site.visitor.get_cookie("session")
    site.wait(6 * MINUTE)
    site.visitor.get("/page")
    site.visitor.get("/page")
    assert site.visitor.get_cookie("session") != cookie
    assert site.ask()["who"] == first


def test_a_digest_is_neither_the_user_nor_the_handle_and_depends_on_the_secret_key(
    site: Site,
) -> None:
    site.app.add_url_rule("/handle", view_func=lambda: session.info.handle)  # type: ignore[attr-defined]
    found = set()
    for key, address in product(["one key" * 6, "another key" * 4], ["/login/u", "/put"]):
        site.app.secret_key, site.visitor = key, site.app.test_client()
        site.visitor.get(address)
        (digest,) = site.ask()["who"]
        assert digest[:8] not in site.visitor.get("/handle").text
        assert digest[:8] not in {user_tag("u")[:8], "u"}
        found.add(digest)
    assert len(found) == 4


def test_whose_page_it_is_does_not_change_when_the_user_is_stored(site: Site) -> None:
    class Name(str, Enum):
        CARL = "carl"

    def login_by_enum() -> str:
        session["user_id"] = Name.CARL  # what comes back from the store is its text
        return render_template_string("{{ heartbeat() }}")

    site.app.add_url_rule("/login", view_func=login_by_enum)
    site.visitor.get("/put")
    page = attributes(site.visitor.get("/login").text)
    assert json.loads(page["data-state"])["who"] == site.ask()["who"]


@pytest.mark.parametrize("address", ["/login/u", "/put"])
def test_a_new_secret_key_ends_no_page(site: Site, address: str) -> None:
    site.visitor.get(address)
    before = site.ask()["who"]
    old, site.app.secret_key = site.app.secret_key, "a new key, which is long enough as well"
    site.app.config["SECRET_KEY_FALLBACKS"] = [old]
    assert before[0] in site.ask()["who"]
    assert site.ask()["who"][0] != before[0]  # what pages that are drawn from now on keep


# -- extending ----------------------------------------------------------------------------------


def test_extending_restarts_the_idle_time_and_tells_what_is_left(site: Site) -> None:
    site.visitor.get("/login/u")
    site.wait(29 * MINUTE)
    answer = site.visitor.post("/heartbeat", headers=OURS)
    assert answer.json == site.ask()
    assert site.ask()["left"] == 30 * MINUTE


def test_what_cannot_be_extended_says_so(make_app: Callable[..., Flask]) -> None:
    site = Site(make_app, settings={"expiry": "fixed", "lifetime": "5m"})
    site.visitor.get("/login/u")
    site.wait(4 * MINUTE)
    assert site.extend() == 200
    told = site.ask()
    assert (told["left"], told["extendable"]) == (MINUTE, False)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**OURS, "Sec-Fetch-Site": "cross-site"},
        {**OURS, "Sec-Fetch-Site": "same-site"},
        {**OURS, "Sec-Fetch-Site": "none"},
        {**OURS, "Origin": "https://evil.example"},
        {**OURS, "Origin": "null"},
        {**OURS, "Origin": "http://localhost.evil.example"},
        {**OURS, "Origin": "http://evil.example/://localhost"},
        {**OURS, "Origin": "null", "Host": "["},  # a host that is none is ""
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
def test_another_sites_page_cannot_keep_a_session_alive(
    site: Site, headers: dict[str, str]
) -> None:
    site.visitor.get("/login/u")
    site.wait(20 * MINUTE)
    site.store.calls.clear()
    assert site.visitor.post("/heartbeat", headers=headers).status_code == 403
    assert site.store.calls == []
    assert site.ask()["left"] == 10 * MINUTE


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        # behind a proxy the host may be another one than the browser's
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://shop.example"},
        {"Origin": "http://localhost"},
    ],
)
def test_our_own_pages_can(site: Site, headers: dict[str, str]) -> None:
    site.visitor.get("/login/u")
    assert site.extend(**headers) == 200


@pytest.mark.parametrize("origin", NO_ORIGINS)
def test_an_origin_that_is_none_is_another_sites(site: Site, origin: str) -> None:
    assert site.extend(Origin=origin) == 403


def test_a_visitor_without_a_session_gets_none_by_extending(site: Site) -> None:
    assert site.extend() == 200
    assert site.store.calls == []
    assert site.visitor.get_cookie("session") is None


# -- the tag and the script ---------------------------------------------------------------------


def attributes(text: str) -> dict[str, str]:
    assert text.startswith("<script ")
    assert text.endswith(" defer></script>")
    return {name: unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', text)}


def test_the_tag_tells_the_page_what_the_endpoint_would(site: Site) -> None:
    site.visitor.get("/login/u")
    site.wait(5 * MINUTE)
    page = attributes(site.visitor.get("/page").text)
    assert json.loads(page["data-state"]) == site.ask()
    assert (page["data-url"], page["nonce"]) == ("/heartbeat", "n")
    assert (page["data-warn"], page["data-every"]) == ("60", "60")
    assert page["data-soon"] == TEXTS["soon"]
    assert "data-next" not in page


def test_a_page_that_makes_a_session_leaves_the_asking_to_the_script(site: Site) -> None:
    assert "data-state" not in attributes(site.visitor.get("/put").text)


def test_an_app_says_where_to_sign_in_and_in_which_words(make_app: Callable[..., Flask]) -> None:
    texts = {"soon": 'Gleich "Schluss" & <aus>', "idle": "Zu lange nichts getan."}
    site = Site(make_app, texts=texts, sign_in="page", warn="2m", every=90, url_prefix="/pulse")
    page = attributes(site.visitor.get("/page").text)
    assert page["data-soon"] == texts["soon"]
    assert (page["data-next"], page["data-url"]) == ("/page", "/pulse")
    assert (page["data-warn"], page["data-every"]) == ("120", "90")
    site.visitor.get("/login/u")
    site.wait(31 * MINUTE)
    told = site.visitor.get("/pulse").json
    assert told is not None
    assert told["text"] == "Zu lange nichts getan."


def test_the_script_is_small_and_cached_for_good_under_its_digest(site: Site) -> None:
    site.app.before_request(lambda: session.get("user_id") and None)  # as many apps do
    site.visitor.get("/login/u")
    where = attributes(site.visitor.get("/page").text)["src"]
    site.store.calls.clear()
    packed = site.visitor.get(where, headers={"Accept-Encoding": "br, gzip"})
    plain = site.visitor.get(where)
    assert gzip.decompress(packed.data) == plain.data
    assert len(packed.data) <= MOST_PACKED
    assert len(plain.data) <= MOST_PLAIN
    for answer in (packed, plain):
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert answer.mimetype == "text/javascript"
    assert site.store.calls == []


def test_a_page_of_another_version_gets_the_script_but_no_cache_keeps_it(site: Site) -> None:
    answer = site.visitor.get("/heartbeat/0123456789abcdef.js")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-cache")


def test_the_script_needs_nothing_that_a_strict_policy_forbids(site: Site) -> None:
    script = site.visitor.get("/heartbeat/any.js").text
    assert not re.search(r"eval|Function\(|innerHTML|setAttribute\(.style|//", script)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"warn": 19}, r"warn=19\): .*20 seconds"),
        ({"warn": None}, r"warn=None\): write seconds"),
        ({"every": "often"}, r"every='often'\): write seconds"),
        ({"every": "500ms"}, r"every='500ms'\): .*1 second"),
        ({"every": 0}, r"every=0\): .*at least a millisecond"),
        ({"texts": {"sonn": "!"}}, "there is no text 'sonn'"),
        ({"texts": {1: "!", "soon": "!"}}, "there is no text 1"),
        ({"texts": "soon"}, r"texts='soon'\): give a dict"),
        ({"texts": {"soon": None}}, "'soon' must be a text"),
        ({"texts": {"soon": " "}}, "'soon' must be a text"),
        ({"texts": {"soon": str}}, "'soon' must be a text"),
        ({"sign_in": "/login"}, r"sign_in='/login'\): give the name of an endpoint"),
        ({"sign_in": "account/login"}, "give the name of an endpoint"),
        ({"sign_in": "https://login.example"}, "give the name of an endpoint"),
        ({"sign_in": ".login"}, "give the name of an endpoint"),
        ({"sign_in": ""}, "give the name of an endpoint"),
        ({"sign_in": heartbeat}, "give the name of an endpoint"),
        ({"url_prefix": "heartbeat"}, r"url_prefix='heartbeat'\): give a path"),
        ({"url_prefix": "//elsewhere.example"}, "one slash"),
        ({"url_prefix": "/"}, "give a path"),
        ({"url_prefix": ""}, "give a path"),
        ({"url_prefix": None}, "give a path"),
        ({"safe": Flask("app")}, "give the SafeSession"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        heartbeat(**{"safe": SafeSession(), **options})


def test_lazy_texts_are_taken_as_they_are_until_a_page_is_drawn(
    make_app: Callable[..., Flask],
) -> None:
    class Lazy:
        def __str__(self) -> str:
            assert flask.has_request_context()
            return "translated"

    site = Site(make_app, texts={"soon": Lazy()})
    assert attributes(site.visitor.get("/page").text)["data-soon"] == "translated"


def test_a_sign_in_page_that_is_not_there_is_named_with_the_argument(
    make_app: Callable[..., Flask],
) -> None:
    site = Site(make_app, sign_in="pagge")
    site.app.testing = True
    with pytest.raises(ConfigError, match=r"heartbeat\(sign_in='pagge'\).*'page'"):
        site.visitor.get("/page")


def test_an_app_without_sessions_is_told_what_it_lacks() -> None:
    app = Flask("tested")
    app.testing = True
    app.register_blueprint(heartbeat(SafeSession()))
    with pytest.raises(RuntimeError, match="SECRET_KEY"):
        app.test_client().get("/heartbeat")


def test_it_works_with_flask_login(make_app: Callable[..., Flask]) -> None:
    site = Site(make_app)
    logins = LoginManager(site.app)

    class User(UserMixin):  # type: ignore[misc]
        id = "u"

    logins.user_loader(lambda _: User())

    @site.app.get("/flask-login")
    def flask_login() -> str:
        login_user(User())
        return ""

    site.visitor.get("/flask-login")
    assert site.ask()["signed_in"] is True
    site.wait(25 * MINUTE)
    assert site.extend() == 200
    assert site.ask()["left"] == 30 * MINUTE


def test_a_process_that_has_heard_no_time_yet_tells_the_time_left_all_the_same(
    make_app: Callable[..., Flask], store: MemoryStore, clock: FakeClock
) -> None:
    one, other = (Site(make_app, settings={"store": store}).app.test_client() for _ in range(2))
    one.get("/login/u")
    cookie = one.get_cookie("session")
    assert cookie is not None
    clock.advance(29 * MINUTE * 1000)
    other.set_cookie("session", cookie.value)
    told = other.get("/heartbeat").json
    assert told is not None
    assert 55 < told["left"] <= 60
