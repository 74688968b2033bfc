"""The dashboard, through its pages; and its figures, which are pure."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask, abort, redirect, session
from flask.testing import FlaskClient

from flask_safesession import ConfigError, SafeSession, StoreUnavailable
from flask_safesession.dashboard import chart, csrf, dashboard, minutes, pages, table, views
from flask_safesession.dashboard.minutes import Figures, Minute
from flask_safesession.events import SessionCreated, SessionEnded, StoreFailed, emit
from flask_safesession.model.policy import as_datetime
from flask_safesession.stores.base import UserStore
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

from ..support import servers
from ..support.counting import PlainStore

MINUTE = 60_000
TIERS = {name: {"idle_timeout": "10m"} for name in ("anonymous", "customer", "admin")}
CANARY = '"><script>alert(1)</script>&'
INLINE_OR_FOREIGN = r"""<style|<script>|<script[^>]*>[^<]|\s(style|on\w+)=|=["']?(https?:)?//"""
GET = ["/", "/figures", "/diagnosis", "/end-user"]
POST = ["/end", "/end-user"]
PATHS = sorted({*GET, *POST})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}


Mount = Callable[..., Flask]


@pytest.fixture
def mount(
    store: MemoryStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Flask]:
    """Makes an app with the dashboard: for ``ada``, unless it is told whom to allow."""
    monkeypatch.setattr(pages, "now", lambda: as_datetime(clock()))

    def make(allowed: Any = lambda: session.get("user_id") == "ada", **settings: Any) -> Flask:
        app = Flask("tested")
        app.secret_key = "a key for tests that is long enough"
        settings = {"store": store, "check_interval": None, "idle_timeout": "10m", **settings}
        safe = SafeSession(app, expiry="tiered", tiers=TIERS, **settings)
        app.extensions["tested.safe"] = safe
        app.register_blueprint(dashboard(safe, allowed=allowed), url_prefix="/watch")

        @app.get("/in/<path:user>")
        def sign_in(user: str) -> str:
            session["user_id"] = user
            session["_tier"] = "admin" if user == "ada" else "customer"
            return session.info.handle or ""  # type: ignore[attr-defined]

        @app.get("/stranger")
        def stranger() -> str:
            session["cart"] = 1
            return ""

        @app.get("/who")
        @safe.passive
        def who() -> str:
            return str(session.get("user_id"))

        @app.get("/handle")
        @safe.passive
        def handle() -> str:
            return str(session.info.handle)  # type: ignore[attr-defined]

        return app

    return make


@pytest.fixture
def app(mount: Mount) -> Flask:
    return mount()


@pytest.fixture
def ada(app: Flask) -> FlaskClient:
    """Who is allowed."""
    return signed_in(app, "ada")


def signed_in(app: Flask, user: str) -> FlaskClient:
    client = app.test_client()
    assert client.get(f"/in/{user}").status_code == 200
    return client


def test_a_dashboard_shows_the_sessions_of_the_extension_that_it_was_given() -> None:
    apps, safes = [Flask("shop"), Flask("admin")], []
    for app, tier in zip(apps, ("customer", "clerk"), strict=True):
        tiers = {tier: {"idle_timeout": "10m"}}
        app.secret_key = "a key for tests that is long enough"
        safes.append(SafeSession(app, expiry="tiered", tiers=tiers, check_interval=None))
        app.add_url_rule("/in/<user>", "in", lambda user: str(session.update(user_id=user)))
    shop, admin = apps
    shop_pages = dashboard(safes[0], allowed=lambda: True, name="shop", url_prefix="/shop")
    own_pages = dashboard(safes[1], allowed=lambda: True, url_prefix="/own")
    for blueprint in (shop_pages, own_pages):
        admin.register_blueprint(blueprint)
    for user in ("carl", "cora"):
        signed_in(shop, user)
    ada = signed_in(admin, "ada")
    assert safes[0].count() == 2
    page, own = ada.get("/shop/").text, ada.get("/own/").text
    assert ("customer" in page, "clerk" in page) == (True, False)
    assert ("customer" in own, "clerk" in own) == (False, True)
    token = re.search(r'name="token" value="([^"]+)"', ada.get("/shop/end-user?user=carl").text)
    assert token is not None
    ada.post("/shop/end-user", data={"user": "carl", "token": token[1]})
    assert (safes[0].count(), safes[1].count()) == (1, 1)
    ended = [sum(minute.gone for minute in figures_of(a).last()) for a in apps]
    assert ended == [1, 0]


def test_a_dashboard_of_other_apps_with_several_stores_is_refused() -> None:
    safe, admin = SafeSession(check_interval=None), Flask("admin")
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        safe.init_app(app)
    SafeSession(admin, check_interval=None)
    with pytest.raises(ConfigError, match="'admin', which is not one of its apps"):
        admin.register_blueprint(dashboard(safe, allowed=lambda: True))


def figures_of(app: Flask) -> Figures:
    found = app.extensions[views.WATCHED].report(app.extensions["safesession"].opened.index)
    assert isinstance(found, Figures)
    return found


def handle_of(client: FlaskClient) -> str:
    return client.get("/handle").text


def user_of(client: FlaskClient) -> str:
    return client.get("/who").text


def token_on(client: FlaskClient, path: str = "/watch/end-user?user=ada") -> str:
    found = re.search(r'name="token" value="([^"]+)"', client.get(path).text)
    assert found, "there is no form on that page"
    return found[1]


def handles_on(page: str) -> list[str]:
    return re.findall(r'<td data-label="Handle"><code>([^<]+)</code>', page)


def location(response: Any) -> tuple[str, dict[str, list[str]]]:
    parts = urlsplit(response.headers["Location"])
    return parts.path, parse_qs(parts.query)


# -- who may see it ---------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [None, True, "admin"])
def test_it_refuses_to_start_without_a_permission_check(allowed: Any) -> None:
    with pytest.raises(ConfigError, match="allowed"):
        dashboard(SafeSession(), allowed=allowed)


def test_it_refuses_an_app_that_has_no_safesession() -> None:
    with pytest.raises(ConfigError, match="init_app"):
        Flask("bare").register_blueprint(dashboard(SafeSession(), allowed=lambda: True))


@pytest.mark.parametrize("path", PATHS)
def test_who_is_not_allowed_gets_no_page_and_changes_nothing(app: Flask, path: str) -> None:
    carl = signed_in(app, "carl")
    form = {"handle": handle_of(carl), "user": "carl"}
    assert carl.get(f"/watch{path}").status_code in {403, 405}
    assert carl.post(f"/watch{path}", data=form).status_code in {403, 405}
    assert user_of(carl) == "carl"


@pytest.mark.parametrize("verdict", [None, 1, "yes", object(), ("Sign in", 401)])
@pytest.mark.parametrize("path", GET)
def test_an_answer_that_is_not_true_or_false_lets_nobody_in(
    mount: Mount, path: str, verdict: Any
) -> None:
    app = mount(lambda: verdict)
    app.testing = True
    with pytest.raises(TypeError, match="True or False"):
        app.test_client().get(f"/watch{path}")


def test_the_check_can_be_asynchronous(mount: Mount) -> None:
    async def allowed() -> bool:
        return session.get("user_id") == "ada"

    app = mount(allowed)
    assert signed_in(app, "carl").get("/watch/").status_code == 403
    assert signed_in(app, "ada").get("/watch/").status_code == 200


def test_the_check_can_send_visitors_to_a_page_where_they_sign_in(mount: Mount) -> None:
    app = mount(lambda: session.get("user_id") == "ada" or abort(redirect("/sign-in")))
    assert location(app.test_client().get("/watch/"))[0] == "/sign-in"
    assert signed_in(app, "ada").get("/watch/").status_code == 200


def test_its_files_ask_neither_the_check_nor_the_store(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, store: MemoryStore
) -> None:
    asked: list[str] = []

    def allowed() -> bool:
        asked.append("asked")
        return False

    app = mount(allowed)
    client = signed_in(app, "carl")
    monkeypatch.setattr(store, "load", None)
    for name in ("dashboard.css", "dashboard.js", "icon.svg"):
        with client.get(f"/watch/assets/{name}") as response:
            assert response.status_code == 200
            assert "Set-Cookie" not in response.headers
    assert asked == []


def test_one_app_can_mount_it_twice_and_counts_once(app: Flask) -> None:
    safe = app.extensions["tested.safe"]
    emit(app, SessionCreated("h", "default"))
    again = dashboard(safe, allowed=lambda: True, name="again", url_prefix="/again")
    app.register_blueprint(again)
    signed_in(app, "carl")
    assert figures_of(app).last()[-1].created == 2
    assert 'href="/again/' in app.test_client().get("/again/").text


# -- what the pages are -----------------------------------------------------------------------


@pytest.mark.parametrize("path", [*GET, "/?q=ada", "/assets/dashboard.css"])
def test_every_answer_has_the_headers_that_keep_others_out(ada: FlaskClient, path: str) -> None:
    with ada.get(f"/watch{path}") as response:
        assert {name: response.headers.get(name) for name in HEADERS} == HEADERS
        assert (response.headers["Cache-Control"] == "no-store") is not path.startswith("/assets")


@pytest.mark.parametrize("path", [*GET, "/?q=ada", "/?q=nobody", "/end-user?user=ada"])
def test_nothing_stands_inline_and_nothing_comes_from_elsewhere(
    ada: FlaskClient, path: str
) -> None:
    page = ada.get(f"/watch{path}").text
    assert not re.search(INLINE_OR_FOREIGN, page.replace("http://www.w3.org/", ""))


def test_a_users_name_is_shown_as_text(app: Flask, ada: FlaskClient) -> None:
    app.jinja_env.autoescape = False  # the app's environment is not what draws these pages
    signed_in(app, CANARY)
    page = ada.get("/watch/", query_string={"q": CANARY}).text
    assert "<script>" not in page
    assert "&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;</a>" in page


@pytest.mark.parametrize("name", ["q", "tier", "after", "note", "count", "user"])
@pytest.mark.parametrize("path", ["/", "/end-user"])
def test_what_stands_in_the_address_is_shown_as_text_if_at_all(
    ada: FlaskClient, path: str, name: str
) -> None:
    page = ada.get(f"/watch{path}", query_string={name: CANARY})
    assert page.status_code == 200
    assert "<script>" not in page.text
    assert '""' + CANARY[1:] not in page.text


def test_it_shows_handles_and_never_an_id(app: Flask, ada: FlaskClient) -> None:
    carl = signed_in(app, "carl")
    page = ada.get("/watch/").text
    assert {handle_of(ada), handle_of(carl)} == set(handles_on(page))
    for client in (ada, carl):
        cookie = client.get_cookie("session")
        assert cookie is not None
        assert cookie.value.partition(".")[0] not in page


def test_watching_does_not_keep_the_own_session_alive(ada: FlaskClient, clock: FakeClock) -> None:
    for path in GET * 2:
        clock.advance(4 * MINUTE if path == "/" else 0)
        assert ada.get(f"/watch{path}").status_code == 200
    clock.advance(2 * MINUTE)
    assert ada.get("/watch/").status_code == 403


def test_ending_a_session_is_a_use_of_the_own_one(
    app: Flask, ada: FlaskClient, clock: FakeClock
) -> None:
    carl = handle_of(signed_in(app, "carl"))
    clock.advance(9 * MINUTE)
    ada.post("/watch/end", data={"handle": carl, "token": token_on(ada)})
    clock.advance(9 * MINUTE)
    assert ada.get("/watch/").status_code == 200


# -- ending -----------------------------------------------------------------------------------


def test_one_session_can_be_ended(app: Flask, ada: FlaskClient) -> None:
    carl, phone = signed_in(app, "carl"), signed_in(app, "carl")
    form = {"handle": handle_of(carl), "token": token_on(ada), "q": "carl"}
    done = ada.post("/watch/end", data=form)
    assert (done.status_code, location(done)) == (
        303,
        ("/watch/", {"q": ["carl"], "note": ["ended"]}),
    )
    assert (user_of(carl), user_of(phone)) == ("None", "carl")
    assert "The session has ended." in ada.get(done.headers["Location"]).text


def test_a_session_that_has_ended_already_is_told(app: Flask, ada: FlaskClient) -> None:
    form = {"handle": "A" * 18, "token": token_on(ada)}
    done = ada.post("/watch/end", data=form, follow_redirects=True)
    assert "There is no such session" in done.text


def test_all_sessions_of_a_user_are_ended_after_a_question(app: Flask, ada: FlaskClient) -> None:
    carls = [signed_in(app, "carl") for _ in range(3)]
    carla = signed_in(app, "carla")
    assert 'href="/watch/end-user?user=carl"' in ada.get("/watch/?q=carl").text
    question = ada.get("/watch/end-user?user=carl").text
    assert "3 sessions end at once" in question
    assert [user_of(carl) for carl in carls] == ["carl"] * 3
    form = {"user": "carl", "token": token_on(ada, "/watch/end-user?user=carl")}
    done = ada.post("/watch/end-user", data=form, follow_redirects=True)
    assert "Sessions ended: 3." in done.text
    assert [user_of(carl) for carl in carls] == ["None"] * 3
    assert user_of(carla) == "carla"


def test_who_ends_all_of_their_own_can_keep_the_one_in_use(app: Flask, ada: FlaskClient) -> None:
    phone = signed_in(app, "ada")
    assert 'name="keep"' in ada.get("/watch/end-user?user=ada").text
    ada.post("/watch/end-user", data={"user": "ada", "keep": "1", "token": token_on(ada)})
    assert (user_of(ada), user_of(phone)) == ("ada", "None")
    ada.post("/watch/end-user", data={"user": "ada", "token": token_on(ada)})
    assert user_of(ada) == "None"


# -- forms that others made -------------------------------------------------------------------


@pytest.fixture
def target(app: Flask) -> FlaskClient:
    return signed_in(app, "carl")


def refused(client: FlaskClient, token: str | None, target: FlaskClient) -> None:
    form = {"handle": handle_of(target), "user": "carl"} | ({"token": token} if token else {})
    for path in POST:
        answer = client.post(f"/watch{path}", data=form)
        assert answer.status_code == 403
        assert "Nothing was ended" in answer.text
    assert user_of(target) == "carl"


@pytest.mark.parametrize("token", [None, "x", ".", "x.y", "é.é", "a." + "b" * 43, "a." * 5000])
def test_a_form_without_a_token_of_ours_ends_nothing(
    ada: FlaskClient, target: FlaskClient, token: str | None
) -> None:
    refused(ada, token, target)


def test_a_token_is_of_one_session(app: Flask, ada: FlaskClient, target: FlaskClient) -> None:
    refused(ada, token_on(signed_in(app, "ada")), target)


def test_a_token_ends_with_its_session(app: Flask, ada: FlaskClient, target: FlaskClient) -> None:
    before = token_on(ada)
    ada.get("/in/somebody")
    ada.get("/in/ada")  # another login: another session
    refused(ada, before, target)


def test_a_token_of_another_key_ends_nothing_unless_it_is_a_fallback(
    app: Flask, ada: FlaskClient, target: FlaskClient
) -> None:
    token, handle = token_on(ada), handle_of(ada)
    with app.test_request_context():
        assert csrf.is_token_of(handle, token)
        app.secret_key = "another key that is long enough"
        assert not csrf.is_token_of(handle, token)
        app.config["SECRET_KEY_FALLBACKS"] = ["a key for tests that is long enough"]
        assert csrf.is_token_of(handle, token)
        assert not csrf.is_token_of(None, token)


def test_no_two_tokens_look_alike(ada: FlaskClient) -> None:
    tokens = {token_on(ada) for _ in range(5)}
    assert len(tokens) == 5
    assert len({token.partition(".")[2] for token in tokens}) == 5


def test_without_a_session_of_ones_own_nothing_can_be_ended(mount: Mount) -> None:
    app = mount(lambda: True)
    carl = signed_in(app, "carl")
    guest = app.test_client()
    page = guest.get("/watch/?q=carl").text
    assert "nothing can be ended" in page
    assert 'method="post"' not in page
    assert 'method="post"' not in guest.get("/watch/end-user?user=carl").text
    refused(guest, None, carl)
    with app.test_request_context():
        refused(guest, csrf.new_token("None"), carl)


# -- the table --------------------------------------------------------------------------------


def test_it_lists_all_sessions_in_pages(
    app: Flask, ada: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "PAGE", 3)
    made = {handle_of(ada), *(handle_of(signed_in(app, f"user{n}")) for n in range(7))}
    seen: list[str] = []
    path: str | None = "/watch/"
    while path:
        page = ada.get(path).text
        assert len(handles_on(page)) <= 3
        seen += handles_on(page)
        following = re.search(r'rel="next" href="([^"]+)"', page)
        path = following[1].replace("&amp;", "&") if following else None
    assert sorted(seen) == sorted(made)


def test_it_lists_the_sessions_of_one_tier(app: Flask, ada: FlaskClient) -> None:
    carl = signed_in(app, "carl")
    assert handles_on(ada.get("/watch/?tier=customer").text) == [handle_of(carl)]
    assert handles_on(ada.get("/watch/?tier=admin").text) == [handle_of(ada)]
    assert len(handles_on(ada.get("/watch/?tier=unheard-of").text)) == 2


def test_a_users_sessions_are_found_newest_first_and_in_pages(
    app: Flask, ada: FlaskClient, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "PAGE", 2)
    made = []
    for _ in range(3):
        clock.advance(1000)
        made.append(handle_of(signed_in(app, "carl")))
    signed_in(app, "carla")
    first, second = ada.get("/watch/?q=carl").text, ada.get("/watch/?q=carl&after=2").text
    assert "3 sessions of this user" in first
    assert handles_on(first) + handles_on(second) == made[::-1]
    assert 'rel="next"' in first
    assert 'rel="next"' not in second


def test_a_session_is_found_by_its_handle(app: Flask, ada: FlaskClient) -> None:
    handle = handle_of(signed_in(app, "carl"))
    signed_in(app, "carl")
    assert handles_on(ada.get("/watch/", query_string={"q": f" {handle} "}).text) == [handle]


@pytest.mark.parametrize("q", ["nobody", "A" * 18, "é" * 600, "\x00"])
def test_who_looks_for_what_is_not_there_is_told(ada: FlaskClient, q: str) -> None:
    page = ada.get("/watch/", query_string={"q": q})
    assert page.status_code == 200
    assert "No session was found." in page.text


MADE_UP = [
    "x",
    "-1",
    "9" * 5000,
    "\x00",
    "é",
    "٣",
    *(f"{tier}|{where}" for tier in ("admin", "nobody") for where in ("", "0:abc", "0:nan:x", "é")),
]


@pytest.mark.parametrize("after", MADE_UP, ids=lambda after: ascii(after)[:20])
@pytest.mark.parametrize("q", ["", "ada"])
def test_a_cursor_that_somebody_made_up_is_no_error(ada: FlaskClient, q: str, after: str) -> None:
    response = ada.get("/watch/", query_string={"q": q, "after": after})
    assert response.status_code == 200


@pytest.mark.parametrize("after", MADE_UP, ids=lambda after: ascii(after)[:20])
def test_a_cursor_that_the_server_refuses_is_no_outage(
    mount: Mount, prefix: str, any_server: servers.Server, after: str
) -> None:
    app = mount(store=any_server.url, key_prefix=prefix)
    ada = signed_in(app, "ada")
    for tier in ("", "admin"):
        page = ada.get("/watch/", query_string={"after": after, "tier": tier})
        assert page.status_code == 200
        assert "does not answer" not in page.text
    assert set(app.extensions["tested.safe"].servers().values()) == {"closed"}
    app.extensions["safesession"].store.close()


ODD_USERS = [" carl", "carl ", "\tcarl", "c\narl", "c\x00arl", "c" * 600, "-", "été/?&#"]


@pytest.mark.parametrize("user", ODD_USERS, ids=lambda user: ascii(user)[:20])
def test_a_user_of_any_name_is_found_and_ended_and_no_other(
    app: Flask, ada: FlaskClient, user: str
) -> None:
    others = ["carl", "c\r\narl", "c\ufffdarl", "c" * 500]
    names = dict.fromkeys([user, *others])
    clients = {name: app.test_client() for name in names}
    for name, client in clients.items():
        with client.session_transaction() as data:
            data["user_id"] = name
    found = ada.get("/watch/", query_string={"q": user}).text
    assert handles_on(found) == [handle_of(clients[user])]
    [question] = re.findall(r'href="(/watch/end-user[^"]+)"', found)
    page = ada.get(question.replace("&amp;", "&")).text
    [action] = re.findall(r'<form method="post" action="([^"]+)"', page)
    # As a browser sends it: the fields of the form, and the address that it names.
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    done = ada.post(action.replace("&amp;", "&"), data=fields, follow_redirects=True)
    assert "Sessions ended: 1." in done.text
    assert [name for name, client in clients.items() if user_of(client) == "None"] == [user]


def test_a_user_is_found_whose_name_was_typed_with_blanks_around_it(
    app: Flask, ada: FlaskClient
) -> None:
    carl = signed_in(app, "carl")
    page = ada.get("/watch/?q=+carl+").text
    assert handles_on(page) == [handle_of(carl)]
    assert 'href="/watch/end-user?user=carl"' in page
    assert len(handles_on(ada.get("/watch/?q=++").text)) == 2


def test_the_page_names_no_tier_that_it_does_not_list(ada: FlaskClient) -> None:
    page = ada.get("/watch/?tier=unheard-of").text
    assert "All sessions" in page
    assert "unheard-of" not in page


def test_without_a_name_nobody_is_ended(app: Flask, ada: FlaskClient) -> None:
    assert "There is no session of this user." in ada.get("/watch/end-user").text
    token = token_on(ada)
    done = ada.post("/watch/end-user", data={"token": token}, follow_redirects=True)
    assert "Sessions ended: 0." in done.text
    assert user_of(ada) == "ada"


def test_the_own_session_is_marked_and_has_no_button(app: Flask, ada: FlaskClient) -> None:
    signed_in(app, "carl")
    page = ada.get("/watch/").text
    assert page.count("<strong>yours</strong>") == 1
    assert page.count("End<span") == 1


def test_a_page_makes_a_few_store_calls_whatever_the_store_holds(
    app: Flask, ada: FlaskClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(store, monkeypatch)
    paths = ["/", "/figures", "/?q=carl", "/?tier=customer", "/end-user?user=carl"]

    def cost() -> list[int]:
        taken = []
        for path in paths:
            calls.clear()
            assert ada.get(f"/watch{path}").status_code == 200
            taken.append(len(calls))
        return taken

    few = cost()
    for _ in range(60):
        signed_in(app, "carl")
    many = cost()
    assert all(later <= before for later, before in zip(many, few, strict=True))
    # Load, count, the figures of the fleet, and each tier, which may be empty.
    assert max(few) <= 4 + len(TIERS) + 1


def counted(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The public calls of *store* from now on."""
    calls: list[str] = []

    def count(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return method(*args, **kwargs)

        return call

    for name in dir(store):
        method = getattr(store, name)
        if not name.startswith("_") and callable(method):
            monkeypatch.setattr(store, name, count(name, method))
    return calls


def test_a_server_is_never_walked_through(
    mount: Mount, any_server: servers.Server, prefix: str
) -> None:
    with any_server.client() as client:
        app = mount(store=client, key_prefix=prefix)
        ada = signed_in(app, "ada")
        signed_in(app, "carl")
        client.config_resetstat()
        for path in ("/", "/figures", "/?q=carl", "/?tier=customer", "/end-user?user=carl"):
            assert ada.get(f"/watch{path}").status_code == 200
        ada.post("/watch/end-user", data={"user": "carl", "token": token_on(ada)})
        used = {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
        app.extensions["safesession"].store.close()
    assert used
    assert not used & {"scan", "keys", "sscan", "zscan", "hscan"}


# -- the figures ------------------------------------------------------------------------------


def test_it_shows_how_many_there_are_of_how_many_and_of_which_tier(
    app: Flask, ada: FlaskClient
) -> None:
    for _ in range(3):
        signed_in(app, "carl")
    page = ada.get("/watch/figures").text
    assert '<p class="figure">4</p>' in page
    assert "of 10,000 at most, 0.04 %" in page
    tiers = dict(re.findall(r'<th scope="row">(\w+)</th><td class="count">(\d+)', page))
    assert (tiers["customer"], tiers["admin"]) == ("3", "1")


@pytest.mark.parametrize(
    ("cap", "kind", "told"), [(20, "", False), (10, "warn", True), (8, "bad", True)]
)
def test_a_store_that_is_nearly_full_is_told(mount: Mount, cap: int, kind: str, told: bool) -> None:
    app = mount(lambda: True, max_sessions=cap)
    for number in range(7):
        signed_in(app, f"user{number}")
    app.test_client().get("/stranger")
    page = app.test_client().get("/watch/figures").text
    assert ("Nearly full" in page) is told
    assert f'<svg class="bar {kind}"' in page


def test_what_happened_is_counted_by_the_minute(
    app: Flask, ada: FlaskClient, clock: FakeClock
) -> None:
    carl = signed_in(app, "carl")
    clock.advance(MINUTE)
    ada.post("/watch/end", data={"handle": handle_of(carl), "token": token_on(ada)})
    page = ada.get("/watch/figures").text
    minute = f"{as_datetime(clock()):%H:%M}"
    assert f"<title>{minute}: 2 created, 1 revoked</title>" in page
    assert "Of this process, in the last 60 minutes." in page


def test_a_session_that_ended_for_a_reason_of_somebody_elses_counts_as_other(app: Flask) -> None:
    emit(app, SessionEnded("h", "a whim of the store's", "default"))
    assert figures_of(app).last()[-1].ended == {minutes.OTHER: 1}


def test_another_apps_sessions_are_not_counted(app: Flask, mount: Mount) -> None:
    signed_in(mount(), "carl")
    assert figures_of(app).last()[-1].created == 0


def test_the_last_purge_runs_are_shown(
    app: Flask, ada: FlaskClient, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "It has not run yet." in ada.get("/watch/").text
    signed_in(app, "carl")
    clock.advance(11 * MINUTE)
    app.extensions["tested.safe"].purge()
    ada.get("/in/ada")
    row = re.search(r" s</td><td>(\d+)</td><td>(\d+)</td><td>(\d+)</td>", ada.get("/watch/").text)
    assert row
    assert row.groups() == ("2", "0", "0")
    emit(app, StoreFailed("purge", "gone"))
    assert "the store did not answer" in ada.get("/watch/").text


def test_only_the_last_purge_runs_are_kept(app: Flask) -> None:
    for _ in range(minutes.RUNS + 5):
        app.extensions["tested.safe"].purge()
    emit(app, StoreFailed("load", "of no purge"))
    kept = figures_of(app).newest_runs()
    assert [run.did is None for run in kept] == [False] * minutes.RUNS


def test_what_makes_sessions_grow_is_shown_with_cause_and_fix(
    app: Flask, ada: FlaskClient, clock: FakeClock
) -> None:
    for _ in range(30):
        app.test_client().get("/stranger")
    clock.advance(MINUTE)
    page = ada.get("/watch/diagnosis").text
    assert "/stranger (stranger) creates an anonymous session for every visitor" in page
    assert "<dt>Cause</dt>" in page
    assert "<dt>Fix</dt>" in page
    assert "<code>cart</code>" in page
    clock.advance(MINUTE)
    ada.get("/watch/diagnosis")
    assert "sessions an hour" in ada.get("/watch/diagnosis").text


def test_names_of_keys_are_escaped_and_values_are_not_there(mount: Mount) -> None:
    app = mount(lambda: True)

    @app.get("/odd")
    def odd() -> str:
        session[CANARY + "\x1b[2J"] = "a value"
        return ""

    app.test_client().get("/odd")
    page = app.test_client().get("/watch/diagnosis").text
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert "a value" not in page


def test_a_user_with_several_sessions_is_a_link_to_the_newest(app: Flask, ada: FlaskClient) -> None:
    for _ in range(3):
        signed_in(app, "carl")
    page = ada.get("/watch/diagnosis").text
    assert re.findall(r"<tr><td>3</td><td><a href=\"/watch/\?q=([\w-]+)#table\">", page)
    assert "carl" not in page


def test_a_store_without_sessions_has_no_findings(mount: Mount) -> None:
    page = mount(lambda: True).test_client().get("/watch/diagnosis")
    assert page.status_code == 200
    assert "None: nothing here makes sessions grow." in page.text


def test_while_the_store_is_down_the_page_says_so(
    mount: Mount, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = mount(lambda: True)
    client = signed_in(app, "carl")
    for name in ("load", "count", "page", "sessions_of"):
        monkeypatch.setattr(store, name, out_of_order)
    page = client.get("/watch/")
    assert page.status_code == 503
    assert "The store does not answer, so no session can be listed." in page.text
    assert '<p class="figure">unknown</p>' in page.text
    assert "The store does not answer, so the figures are unknown." in page.text
    assert "Set-Cookie" not in page.headers
    assert "unknown" in client.get("/watch/figures").text
    diagnosis = client.get("/watch/diagnosis")
    assert diagnosis.status_code == 503
    assert "The store does not answer" in diagnosis.text


def test_a_store_without_an_index_is_not_counted_and_the_page_says_so(
    mount: Mount, store: MemoryStore
) -> None:
    app = mount(store=PlainStore(store))
    ada = signed_in(app, "ada")
    page = ada.get("/watch/?q=ada")
    assert page.status_code == 200
    assert "This store does not count its sessions." in page.text
    assert "This store has no index, so it keeps no figures of its workers." in page.text
    assert "This store has no index of its sessions, so they cannot be listed." in page.text
    assert "<dt>Answers</dt><dd>yes</dd>" in page.text
    assert "There is none: the store removes expired sessions by itself." in page.text
    assert 'role="search"' not in page.text
    diagnosis = ada.get("/watch/diagnosis")
    assert diagnosis.status_code == 200
    assert "This store has no index of its sessions" in diagnosis.text


def test_without_an_index_the_sessions_of_a_user_are_listed(
    mount: Mount, store: MemoryStore
) -> None:
    app = mount(store=PlainStore(store, UserStore), check_interval="1m")
    ada, carl = signed_in(app, "ada"), signed_in(app, "carl")
    page = ada.get("/watch/").text
    assert "Search for a user to see their sessions." in page
    for wrong in ('data-label="Handle"', '<select id="tier"', "Every 1 min"):
        assert wrong not in page
    for query in ("q=carl", "user=carl", f"q={handle_of(carl)}"):
        found = ada.get(f"/watch/?{query}")
        assert (found.status_code, handles_on(found.text)) == (200, [handle_of(carl)])


def test_names_of_users_cannot_change_how_the_page_is_read(app: Flask, ada: FlaskClient) -> None:
    signed_in(app, "carl\u202eada")
    for path in ("?user=", "?q=", "end-user?user="):
        page = ada.get(f"/watch/{path}carl%E2%80%AEada").text
        heading = re.search(r"<h[12] id=\"(?:listed|ask)\">(.*?)</h", page, re.DOTALL)
        assert heading
        assert "carl\\u202eada" in heading[1]


def out_of_order(*_: object, **__: object) -> None:
    raise StoreUnavailable("unplugged by a test")


def test_figures_of_a_newer_version_are_not_shown(
    app: Flask, ada: FlaskClient, store: MemoryStore
) -> None:
    store.keep("minutes", b'{"version": 2}', store.document("minutes").document)
    page = ada.get("/watch/figures")
    assert page.status_code == 200
    assert "a newer version of Flask-SafeSession keeps them" in page.text
    assert "Its runs are unknown." in page.text


@pytest.mark.parametrize("command", [["purge"], ["end", "--user", "carl", "--yes"]])
def test_what_a_command_ends_is_in_the_figures(
    mount: Mount, store: MemoryStore, clock: FakeClock, command: list[str]
) -> None:
    app = mount(lambda: True)
    signed_in(app, "carl")
    clock.advance(11 * MINUTE if command == ["purge"] else 0)
    other = mount()  # as in a process of its own
    done = other.test_cli_runner().invoke(args=["safesession", *command])
    assert done.exit_code == 0, done.output
    figures = figures_of(app)
    reason = "idle" if command == ["purge"] else "revoked"
    assert figures.last()[-1].ended == {reason: 1}
    assert [run.did and run.did.due for run in figures.newest_runs()] == (
        [1] if command == ["purge"] else []
    )


# -- names of users ---------------------------------------------------------------------------


NAMES = {"1": "Ada <Minh>", "2": "Carl", "3": "1"}


@pytest.fixture
def named(store: MemoryStore) -> Flask:
    """An app whose users are numbers, and whose operators know names."""
    app = Flask("named")
    app.secret_key = "a key for tests that is long enough"
    safe = SafeSession(app, store=store, check_interval=None)

    async def find_user(text: str) -> int | None:
        return next((int(user) for user, name in NAMES.items() if name == text), None)

    pages = dashboard(
        safe, allowed=lambda: True, name_of=NAMES.get, find_user=find_user, back="home"
    )
    app.register_blueprint(pages, url_prefix="/watch")
    app.add_url_rule("/home", "home", lambda: "")

    @app.get("/in/<int:user>")
    def sign_in(user: int) -> str:
        session["user_id"] = user
        return ""

    @app.get("/stranger")
    def stranger() -> str:
        session["cart"] = 1
        return ""

    return app


def test_lists_have_the_names_of_users_and_users_come_first(named: Flask) -> None:
    named.test_client().get("/stranger")
    for user in (1, 2, 4):
        named.test_client().get(f"/in/{user}")
    page = named.test_client().get("/watch/").text
    rows = re.findall(r'data-label="User">(.*?)</td>', page)
    texts = [re.sub("<[^>]+>", "", row) for row in rows]
    assert sorted(texts[:3]) == ["4", "Ada &lt;Minh&gt; (1)", "Carl (2)"]
    assert texts[3] == "anonymous"


def test_a_link_to_a_user_means_that_user_and_not_one_of_that_name(named: Flask) -> None:
    for user in (1, 3):
        named.test_client().get(f"/in/{user}")
    client = named.test_client()
    typed, linked = client.get("/watch/?q=1").text, client.get("/watch/?user=1").text
    assert "Sessions of “1 (3)”" in typed
    assert "Sessions of “Ada &lt;Minh&gt; (1)”" in linked
    assert "No session was found." in client.get("/watch/?user=7").text


def test_the_frame_has_the_app_the_operator_and_a_link_back(named: Flask, ada: FlaskClient) -> None:
    client = named.test_client()
    assert "Signed in as" not in client.get("/watch/").text
    client.get("/in/1")
    for path in GET:
        page = client.get(f"/watch{path}").text
        if path != "/figures":
            assert "Signed in as Ada &lt;Minh&gt; (1)" in page
            assert 'href="/home">Back to the app</a>' in page
            assert '<span class="soft">of named</span>' in page
    assert 'href="/">Back to the app</a>' in ada.get("/watch/").text


def test_a_user_that_cannot_be_one_is_an_error_of_the_app(mount: Mount) -> None:
    app = mount(lambda: True)
    app.testing = True
    app.extensions["safesession"].people.find_user = lambda _: ["carl"]
    with pytest.raises(TypeError, match=r"find_user\(…\) returned a .*list: return the value"):
        app.test_client().get("/watch/?q=carl")


# -- the chart --------------------------------------------------------------------------------


def quiet(start: int) -> Minute:
    return Minute(start, 0, {})


def test_what_began_stands_on_the_line_and_what_ended_hangs_below_it() -> None:
    busy = Minute(60, 10, {"logout": 2, "idle": 3})
    drawn = chart.chart_of([quiet(0), busy])
    created, logout, idle = drawn.columns[1].bars
    assert (created.kind, created.y, created.height) == ("created", 0, 50)
    assert (logout.kind, logout.y, logout.height) == ("logout", 50, 10)
    assert (idle.kind, idle.y, idle.height) == ("idle", 60, 15)
    assert {bar.x for bar in drawn.columns[1].bars} == {1.1}
    assert (drawn.peak, drawn.created, drawn.ended) == (10, 10, {"logout": 2, "idle": 3})


def test_both_sides_have_one_scale_and_nothing_leaves_the_picture() -> None:
    drawn = chart.chart_of([Minute(0, 1, {"idle": 400, "evicted": 600}), Minute(60, 500, {})])
    bottom = max(bar.y + bar.height for column in drawn.columns for bar in column.bars)
    assert (drawn.peak, bottom) == (1000, 100)
    assert drawn.columns[1].bars[0].height == 25


# -- words ------------------------------------------------------------------------------------


def test_figures_are_written_for_readers() -> None:
    results = doctest.testmod(pages)
    assert (results.attempted, results.failed) == (6, 0)
