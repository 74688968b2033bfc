"""What other projects' advisories taught, as tests; docs/security.md says which is whose."""

from __future__ import annotations

import json
import pickle
import random
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask, Response

from flask_safesession import ConfigError, SafeSession, StoreUnavailable, session
from flask_safesession.model.record import header_length
from flask_safesession.stores.redis import RedisStore
from flask_safesession.testing import StoreKit, age_redis, make_draft, make_rules, new_key

from ..support.kits import memory_kit
from ..support.security_kit import (
    KEY,
    MINUTE,
    Answer,
    Site,
    Work,
    ask,
    before_payload,
    dump,
    login,
    logout,
    name_of,
    overwrite,
    raw,
    read,
    write,
)
from ..support.servers import Server


@pytest.fixture
def site(kit: StoreKit) -> Site:
    return Site(kit)


@pytest.fixture
def memory_site() -> Site:
    return Site(memory_kit())


@pytest.fixture
def shared_site(server: Server, prefix: str) -> Iterator[Site]:
    """On a server on which others write, too."""
    with closing(server.client()) as client:
        store = RedisStore(client, prefix=prefix, timeout=5)
        yield Site(StoreKit(store, lambda ms: age_redis(client, ms, prefix), exact_clock=False))
        store.close()


# -- Vary: Cookie ---------------------------------------------------------------------------------

USES: dict[str, Callable[[Any], Any]] = {
    "in": lambda s: "a" in s,
    "len": len,
    "bool": bool,
    "iter": list,
    "reversed": lambda s: list(reversed(s)),
    "get": lambda s: s.get("a"),
    "[]": lambda s: s["a"],
    "keys": lambda s: list(s.keys()),
    "values": lambda s: list(s.values()),
    "items": lambda s: list(s.items()),
    "==": lambda s: s == {},
    "|": lambda s: s | {},
    "copy": methodcaller("copy"),
    "dict": dict,
    "json": lambda s: json.dumps(dict(s)),
    "permanent": lambda s: s.permanent,
    "new": lambda s: s.new,
    "info": lambda s: repr(s.info),
    "[]=": lambda s: s.__setitem__("a", 2),
    "del": lambda s: s.__delitem__("a"),
    "pop": lambda s: s.pop("a"),
    "popitem": methodcaller("popitem"),
    "setdefault": lambda s: s.setdefault("b", 1),
    "update": lambda s: s.update(a=3),
    "|=": lambda s: s.__ior__({"a": 3}) is None,
    "clear": methodcaller("clear"),
    "modified": lambda s: setattr(s, "modified", True),
    "regenerate": methodcaller("regenerate"),
    "invalidate": methodcaller("invalidate"),
}


@pytest.mark.parametrize("use", USES)
def test_every_use_of_the_session_varies_the_response_by_cookie(
    memory_site: Site, use: str
) -> None:
    cookie = memory_site.visit(write("a", 1)).cookie
    for cookies in ((), (cookie,)):
        answer = memory_site.visit(lambda: str(USES[use](session)), *cookies)
        assert "cookie" in answer.headers.get("Vary", "").lower(), cookies


def test_vary_is_added_to_what_the_app_varies_by(memory_site: Site) -> None:
    def work() -> Response:
        return Response(str(len(session)), headers={"Vary": "Accept-Encoding"})

    assert memory_site.visit(work).headers["Vary"] == "Accept-Encoding, Cookie"


def test_an_untouched_response_neither_varies_nor_refreshes_a_permanent_cookie(
    memory_site: Site,
) -> None:
    def stay() -> None:
        session.permanent = True
        session["a"] = 1

    memory_site.app.config["SESSION_REFRESH_EACH_REQUEST"] = True
    cookie = memory_site.visit(stay).cookie
    answer = memory_site.visit(None, cookie)
    assert "Vary" not in answer.headers
    assert "Set-Cookie" not in answer.headers


def test_a_response_that_varies_by_everything_stays_so(memory_site: Site) -> None:
    def work() -> Response:
        return Response(str(len(session)), headers={"Vary": "*"})

    assert memory_site.visit(work).headers["Vary"] == "*"


def test_whoever_sets_a_cookie_varies(memory_site: Site) -> None:
    for work in (login(1), logout, write("a", 1)):
        answer = memory_site.visit(work, memory_site.visit(login(0)).cookie)
        assert "Set-Cookie" not in answer.headers or "Cookie" in answer.headers["Vary"]


# -- shared caches (RFC 9111) ---------------------------------------------------------------------

_KINDS_OF_SET_COOKIE = ["a first write", "a login", "a renewal", "a new signature", "a logout"]
_PAST = "Thu, 01 Jan 1970 00:00:00 GMT"
_FUTURE = "Fri, 01 Jan 2100 00:00:00 GMT"
# What the app says, and what becomes of it.
_POLICIES: dict[str, tuple[list[tuple[str, str]], dict[str, str]]] = {
    "none": ([], {"no-store": ""}),
    "public": ([("Cache-Control", "public, max-age=60")], {"max-age": "60", "private": ""}),
    "s-maxage": ([("Cache-Control", "s-maxage=60")], {"private": ""}),
    "another spelling": ([("Cache-Control", "PUBLIC,S-MaxAge=60")], {"private": ""}),
    "two lines": (
        [("Cache-Control", "max-age=60"), ("cache-control", "public, immutable")],
        {"max-age": "60", "immutable": "", "private": ""},
    ),
    "private": ([("Cache-Control", "private, max-age=60")], {"max-age": "60", "private": ""}),
    "private but for a header": ([("Cache-Control", 'private="X-A, X-B"')], {"private": ""}),
    "no-cache": ([("Cache-Control", "no-cache")], {"no-cache": "", "private": ""}),
    "no-store": ([("Cache-Control", "no-store, public")], {"no-store": ""}),
    "not a policy": ([("Cache-Control", '"')], {"private": ""}),
    "Expires": ([("Expires", _FUTURE)], {"private": ""}),
    "Expires in the past": ([("Expires", _PAST)], {"private": ""}),
    "Pragma": ([("Pragma", "no-cache")], {"no-store": ""}),
    **{
        f"{name} alone": ([(name, "public, max-age=60")], {"no-store": ""})
        for name in (
            "CDN-Cache-Control",
            "Cloudflare-CDN-Cache-Control",
            "Surrogate-Control",
            "surrogate-control",
            "Edge-Control",
            "X-Accel-Expires",
            "X-LiteSpeed-Cache-Control",
        )
    },
    "CDN-Cache-Control besides": (
        [("Cache-Control", "max-age=1"), ("CDN-Cache-Control", "max-age=60")],
        {"max-age": "1", "private": ""},
    ),
}


def _under_policy(work: Work, headers: list[tuple[str, str]]) -> Work:
    def view() -> Response:
        work()
        return Response("done", headers=headers)

    return view


def _set_cookie(kind: str, headers: list[tuple[str, str]]) -> Answer:
    """A response of that kind, with the app's *headers*."""
    kit = memory_kit()
    site = Site(kit, renew_interval="1m")
    work: Work = write("a", 1) if kind in ("a first write", "a new signature") else read
    cookies = [] if kind == "a first write" else [site.visit(login(1)).cookie]
    if kind in ("a login", "a logout"):
        work = login(2) if kind == "a login" else logout
    elif kind == "a renewal":
        site.visit(read, *cookies)  # the browser shows that it has the cookie
        kit.advance(2 * MINUTE)
    elif kind == "a new signature":
        site.app.config.update(SECRET_KEY="the next key, long enough", SECRET_KEY_FALLBACKS=[KEY])
    return site.visit(_under_policy(work, headers), *cookies)


@pytest.mark.parametrize("kind", _KINDS_OF_SET_COOKIE)
@pytest.mark.parametrize("policy", _POLICIES)
def test_no_response_with_a_cookie_of_ours_is_for_shared_caches(kind: str, policy: str) -> None:
    headers, expected = _POLICIES[policy]
    answer = _set_cookie(kind, headers)
    assert answer.morsel is not None
    [line] = answer.headers.getlist("Cache-Control")
    directives = [one.strip().partition("=") for one in line.split(",")]
    assert {name: value for name, _, value in directives} == expected
    others = {name.lower() for name, _ in answer.headers} - {"cache-control"}
    assert not [name for name in others if name.endswith("-control") or name == "x-accel-expires"]


def test_a_response_without_a_cookie_of_ours_keeps_the_apps_policy(memory_site: Site) -> None:
    cookie = memory_site.visit(write("a", 1)).cookie
    given = [("Cache-Control", "public, s-maxage=60"), ("CDN-Cache-Control", "max-age=600")]
    answer = memory_site.visit(_under_policy(read, given), cookie)
    assert [pair for pair in answer.headers if pair in given] == given


# -- a failed logout ------------------------------------------------------------------------------

_ACTS = {
    "Clear-Site-Data": '"cookies"',
    "Refresh": "0; url=/goodbye",
    "HX-Redirect": "/goodbye",
    "HX-Trigger": "signed-out",
    "Location": "/goodbye",
    "Link": "</goodbye>; rel=preload",
    "Set-Cookie": "remember_token=; Max-Age=0",
    "X-Accel-Redirect": "/goodbye",
    "X-Anything": "of the page",
}
_PROTECTS = {
    "Access-Control-Allow-Origin": "https://example.org",
    "Access-Control-Expose-Headers": "X-Request-ID",
    "Strict-Transport-Security": "max-age=60",
    "Content-Security-Policy": "default-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "X-Request-ID": "7",
}


def _goodbye() -> Response:
    session.clear()
    response = Response("signed out", headers={**_ACTS, **_PROTECTS, "Vary": "Origin"})
    response.set_cookie("goodbye", "1")
    return response


def test_a_failed_logout_carries_nothing_of_the_page_that_acts_on_the_browser(
    memory_site: Site,
) -> None:
    cookie = memory_site.visit(login(1)).cookie
    memory_site.store.failing = {"end"}
    answer = memory_site.visit(_goodbye, cookie)
    assert answer.status == 503
    assert {name: answer.headers.get(name) for name in _PROTECTS} == _PROTECTS
    assert [name for name in _ACTS if name in answer.headers] == []
    assert answer.headers.getlist("Vary") == ["Origin, Cookie"]
    memory_site.store.failing = set()
    assert memory_site.visit(read, cookie).value == {"user_id": 1}
    answer = memory_site.visit(_goodbye, cookie)
    assert (answer.status, answer.text) == (200, "signed out")
    assert [name for name in _ACTS if name not in answer.headers] == []


def test_the_headers_of_an_apps_own_error_page_are_its_own(memory_site: Site) -> None:
    own = {**_ACTS, "Vary": "Accept", "X-Frame-Options": "SAMEORIGIN"}

    @memory_site.app.errorhandler(StoreUnavailable)
    def back_soon(error: StoreUnavailable) -> Response:
        return Response("back soon", 503, headers=own)

    cookie = memory_site.visit(login(1)).cookie
    memory_site.store.failing = {"end"}
    answer = memory_site.visit(_goodbye, cookie)
    assert (answer.status, answer.text) == (503, "back soon")
    assert answer.headers.getlist("Set-Cookie") == [_ACTS["Set-Cookie"]]
    assert [answer.headers.getlist(name) for name in own if name != "Vary"] == [
        [value] for name, value in own.items() if name != "Vary"
    ]
    assert answer.headers.getlist("Vary") == ["Accept, Origin, Cookie"]


# -- confused deputy ------------------------------------------------------------------------------

_DEEDS: dict[str, Callable[[SafeSession, str], object]] = {
    "count": lambda safe, _: safe.count(),
    "stats": lambda safe, _: safe.stats(),
    "purge": lambda safe, _: safe.purge(),
    "reconfigure": lambda safe, _: safe.reconfigure(max_sessions=7),
    "tuned": lambda safe, _: safe.tuned(),
    "sessions_of": lambda safe, _: safe.sessions_of("ann"),
    "browse": lambda safe, _: safe.browse(),
    "find": lambda safe, handle: safe.find(handle),
    "end": lambda safe, handle: safe.end(handle),
    "end_user": lambda safe, _: safe.end_user("ann"),
    "end_all": lambda safe, _: safe.end_all(),
}


def _shop_and_admin() -> tuple[Site, Site]:
    """Two sites with stores of their own. The shop's has more of everything."""
    shop, admin = Site(memory_kit()), Site(memory_kit())
    shop.safe.reconfigure(max_sessions=9)
    shop.visit(login("due"))
    shop.kit.advance(20 * MINUTE)
    for site in (shop, shop, admin):
        site.visit(login("ann"))
    shop.kit.advance(11 * MINUTE)
    return shop, admin


@pytest.mark.parametrize("deed", _DEEDS)
def test_an_extension_object_never_acts_on_another_apps_sessions(deed: str) -> None:
    shop, admin = _shop_and_admin()
    handle = shop.safe.sessions_of("ann")[0].handle or ""
    before = dump(admin.kit.store)
    with admin.app.app_context():
        within = _DEEDS[deed](shop.safe, handle)
    assert dump(admin.kit.store) == before
    again, _ = _shop_and_admin()
    handle = again.safe.sessions_of("ann")[0].handle or ""
    assert _shape(within) == _shape(_DEEDS[deed](again.safe, handle))


def _shape(value: object) -> str:
    """What it looks like without what differs between two sites: handles and times."""
    return re.sub(r"'[\w-]{18}'|datetime\.datetime\([^)]*\)|seconds=[^,)]*", "?", repr(value))


def test_a_view_of_one_app_ends_sessions_of_another_by_that_ones_extension() -> None:
    shop, admin = _shop_and_admin()
    assert admin.visit(lambda: shop.safe.end_user("ann")).value == 2
    assert (shop.safe.count(), admin.safe.count()) == (0, 1)


def test_a_list_of_another_apps_sessions_asks_nothing_of_the_current_apps_store() -> None:
    shop, admin = _shop_and_admin()
    cookie = admin.visit(login("ann")).cookie
    admin.store.calls.clear()
    assert admin.visit(lambda: len(shop.safe.sessions_of("ann")), cookie).value == 2
    assert admin.store.calls == []


def test_an_extension_with_several_stores_acts_on_none_in_another_apps_context() -> None:
    safe, foreign = SafeSession(check_interval=None), Site(memory_kit())
    apps = {Flask("one"): _shop_and_admin()[1], Flask("two"): _shop_and_admin()[1]}
    for app, site in apps.items():
        safe.init_app(app, store=site.kit.store)
    foreign.visit(login("ann"))
    for deed in _DEEDS.values():
        with foreign.app.app_context(), pytest.raises(RuntimeError, match="several stores"):
            deed(safe, "A" * 18)
    with next(iter(apps)).app_context():
        assert safe.end_user("ann") == 1
    assert [site.count() for site in (*apps.values(), foreign)] == [0, 1, 1]


# -- never pickle ---------------------------------------------------------------------------------


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("behind_a_header", [True, False])
def test_a_pickle_bomb_under_a_valid_key_is_never_executed(
    shared_site: Site, tmp_path: Path, behind_a_header: bool
) -> None:
    crater = tmp_path / "crater"
    cookie = shared_site.visit(login(1)).cookie
    key, store = shared_site.sid(cookie).key, shared_site.kit.store
    head = before_payload(raw(store, key)) if behind_a_header else b""
    overwrite(store, key, head + pickle.dumps(_Bomb(crater)))
    assert shared_site.visit(read, cookie).value == {}
    assert shared_site.visit(write("a", 1), cookie).status == 200
    shared_site.app.test_cli_runner().invoke(args=["safesession", "purge"])
    assert not crater.exists()
    pickle.loads(pickle.dumps(_Bomb(crater)))
    assert crater.exists()  # the bomb is a live one


@pytest.mark.parametrize("name", ["pickle", "marshal", "yaml", "shelve", "jsonpickle", "dill"])
def test_pickle_marshal_and_yaml_are_banned_by_lint(name: str) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename"]
    command += [str(root / "flask_safesession" / "codec.py"), "-"]
    done = subprocess.run(
        command, input=f"import {name}\n", capture_output=True, text=True, check=False, cwd=root
    )
    assert f"TID251 `{name}` is banned" in done.stdout


# -- foreign values -------------------------------------------------------------------------------

FOREIGN: dict[str, bytes] = {
    "nothing": b"",
    "text": b"hello",
    "JSON": json.dumps({"user_id": 1}).encode(),
    "a pickle": pickle.dumps({"user_id": 1}),
    "our magic alone": b"SS1",
    "our magic and text": b"SS1 is what this app writes" * 10,
    "our magic and blanks": b"SS1" + b" " * 200,
    "our magic and high bytes": b"SS1" + b"\xff" * 200,
    "our magic and digits": b"SS1" + b"0" * 200,
    "an older magic": b"SS0" + b"0" * 200,
    "the magic of older tombstones": b"SST",
    "that magic and high bytes": b"SST" + b"\xff" * 200,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_value_that_the_app_wrote_into_the_same_redis_never_loads_as_a_session(
    shared_site: Site, kind: str
) -> None:
    cookie = shared_site.visit(login(1)).cookie
    store, key = shared_site.kit.store, shared_site.sid(cookie).key
    overwrite(store, key, FOREIGN[kind])
    _is_a_strangers(shared_site, cookie)
    assert raw(store, key) == FOREIGN[kind]


@pytest.mark.parametrize("kind", [b"-", b"+"], ids=["anonymous", "a user's"])
def test_a_value_that_looks_like_ours_and_is_due_never_loads_as_a_session(
    shared_site: Site, kind: bytes
) -> None:
    cookie = shared_site.visit(login(1)).cookie
    store, key = shared_site.kit.store, shared_site.sid(cookie).key
    overwrite(store, key, b"SS1" + b"0" * 76 + kind + b"0" * 120)
    ended = shared_site.visit(read, cookie)
    assert ended.value == {}
    assert raw(store, key) is None, "it was due, and is removed"
    for work in (read, write("a", 1), logout):
        assert shared_site.visit(work, cookie).status == 200
    assert shared_site.visit(read, cookie).value == {}


@pytest.mark.parametrize("table", ["tombstones:users", "tombstones:anonymous", "ended"])
@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"|",
        b"|" + b"\xff" * 60,
        b"|" + b"\xff" * 7 + b"rotated|",
        b"0123456rotated|" + b"\xff" * 40,
        b"|0123456rotated|" + b"\xff" * 40,
        b"|0123456rotated|" + b"A" * 18 + b"0",
    ],
)
def test_what_the_app_wrote_into_the_tables_of_what_is_over_never_gets_in_the_way(
    shared_site: Site, table: str, value: bytes
) -> None:
    cookie = shared_site.visit(login(1)).cookie
    store: Any = shared_site.kit.store
    key = shared_site.sid(cookie).key
    name = name_of(store, key)
    tables = name.rpartition(":s:")[0]
    ask(store, "DEL", name)
    ask(store, "HSET", f"{tables}:{table}:keys", key, value)
    ask(store, "ZADD", f"{tables}:{table}", 10**14, key.encode() + value.partition(b"|")[0])
    for work in (read, write("a", 1), logout):
        assert shared_site.visit(work, cookie).status == 200
    assert shared_site.visit(read, cookie).value == {}
    assert shared_site.visit(login(2)).status == 200


@pytest.mark.parametrize("kind", ["list", "hash", "set", "sorted set", "stream"])
def test_a_value_of_another_type_under_a_sessions_key_never_loads_as_a_session(
    shared_site: Site, kind: str
) -> None:
    cookie = shared_site.visit(login(1)).cookie
    store: Any = shared_site.kit.store
    name = name_of(store, shared_site.sid(cookie).key)
    ask(store, "DEL", name)
    command, *value = {
        "list": ("RPUSH", "a"),
        "hash": ("HSET", "a", "b"),
        "set": ("SADD", "a"),
        "sorted set": ("ZADD", 1, "a"),
        "stream": ("XADD", "*", "a", "b"),
    }[kind]
    ask(store, command, name, *value)
    _is_a_strangers(shared_site, cookie)
    assert ask(store, "EXISTS", name)


def _is_a_strangers(site: Site, cookie: str) -> None:
    """Nothing loads, nothing is adopted, nothing gets stuck: also not the purge job."""
    assert site.visit(read, cookie).value == {}
    assert site.visit(write("a", 1), cookie).morsel is None  # kept by what stands in for it
    assert site.visit(read, cookie).value == {"a": 1}
    made = site.visit(login(2), cookie).cookie
    assert made != cookie
    assert site.visit(read, made).value == {"a": 1, "user_id": 2}
    assert site.visit(logout, cookie).status == 200
    result = site.app.test_cli_runner().invoke(args=["safesession", "purge"])
    assert result.exit_code == 0, result.output


# -- corrupt records ------------------------------------------------------------------------------


def _damaged(good: bytes, rnd: random.Random, kind: str) -> bytes:
    broken = bytearray(good)
    note, payload = header_length(good), len(before_payload(good))
    parts = {"header": (3, note), "note": (note, payload), "payload": (payload, len(good))}
    places = range(*parts[kind.rsplit(maxsplit=1)[-1]])
    for _ in range(rnd.choice((1, 1, 2, 5))):
        byte = rnd.choice(b"0189-. xeinNA") if "readable" in kind else rnd.randrange(256)
        broken[rnd.choice(places)] = byte
    return bytes(broken[: rnd.randrange(len(broken))] if "cut" in kind else broken)


@pytest.mark.parametrize("kind", ["header", "readable header", "note", "payload", "cut header"])
def test_a_corrupt_record_never_gives_a_lasting_500(shared_site: Site, kind: str) -> None:
    rnd = random.Random(kind)
    cookie = shared_site.visit(write("a", {"b": (1, "c")})).cookie
    store, key = shared_site.kit.store, shared_site.sid(cookie).key
    good, bad = raw(store, key), []
    # An idle allowance that C's functions read as a number, and Python's do not.
    half_a_number = good[:57] + b"000001800\x00" + good[67:]
    for damaged in [half_a_number, *(_damaged(good, rnd, kind) for _ in range(100))]:
        overwrite(store, key, damaged)
        seen = [shared_site.visit(work, cookie).status for work in (read, write("z", 1))]
        if seen != [200, 200]:
            bad.append((seen, damaged))
    assert bad == []


@pytest.mark.every_store
@pytest.mark.parametrize("payload", [b"\xc1 corrupt", b"\x81\xa1a" + b"\x91" * 500 + b"\x01"])
def test_a_corrupt_payload_is_a_fresh_session_on_every_store(site: Site, payload: bytes) -> None:
    cookie = site.visit(login(1)).cookie
    store, key = site.kit.store, site.sid(cookie).key
    overwrite(store, key, before_payload(raw(store, key)) + payload)
    assert site.visit(read, cookie).value == {}
    made = site.visit(login(1), cookie).cookie
    assert made != cookie
    assert site.visit(read, made).value == {"user_id": 1}


@pytest.mark.parametrize("field", [(67, 71), (75, 79)], ids=["generation", "tier tag"])
def test_a_corrupt_record_harms_neither_the_visitor_who_sweeps_it_nor_the_purge(
    shared_site: Site, field: tuple[int, int]
) -> None:
    begin, end = field
    store = shared_site.kit.store
    for user in (1, 2):
        key = shared_site.sid(shared_site.visit(login(user)).cookie).key
        head = raw(store, key)
        overwrite(store, key, head[:begin] + b"\xff" * 4 + head[end:])
    shared_site.kit.advance(24 * 3_600_000)
    answer = shared_site.visit(login("somebody else"))  # removes what is due on its way
    assert answer.status == 200
    assert shared_site.visit(read, answer.cookie).value == {"user_id": "somebody else"}
    shared_site.app.extensions["safesession"].job.run()
    assert shared_site.count() == 1


# -- ended is ended, in every order ---------------------------------------------------------------


@pytest.mark.every_store
def test_a_loads_b_logs_out_a_saves_and_it_stays_logged_out(site: Site) -> None:
    cookie = site.visit(login(1)).cookie

    def a() -> None:
        session["cart"] = [*session.get("cart", []), "x"]
        site.store.before("commit", lambda: site.visit(logout, cookie))

    answer = site.visit(a, cookie)
    assert "commit" in site.store.calls
    assert answer.morsel is None
    assert site.visit(read, cookie).value == {}
    assert site.count() == 0


def test_clear_and_then_a_login_rotates_and_the_old_id_is_gone_from_the_store(site: Site) -> None:
    old = site.visit(lambda: session.update(planted=True, user_id=1)).cookie

    def clear_and_login() -> None:
        session.clear()
        session["user_id"] = 1

    new = site.visit(clear_and_login, old).cookie
    assert new != old
    assert site.is_gone(old)
    assert site.visit(read, new).value == {"user_id": 1}
    assert site.visit(read, old).value == {}


def test_a_login_in_flight_does_not_undo_a_logout_of_its_old_id(site: Site) -> None:
    cookie = site.visit(login(1)).cookie

    def other() -> None:
        assert session["user_id"] == 1
        site.visit(logout, cookie)
        session["user_id"] = 2

    new = site.visit(other, cookie).cookie
    assert site.visit(read, new).value == {"user_id": 2}
    assert site.visit(read, cookie).value == {}


# -- check (Superset's CVE-2023-27524) ------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    ["dev", "short", "CHANGE_ME_TO_A_COMPLEX_RANDOM_SECRET", "thisismyscretkey", b"dev bytes"],
)
@pytest.mark.parametrize("as_fallback", [False, True])
def test_check_flags_short_and_well_known_secret_keys(
    memory_site: Site, key: str | bytes, as_fallback: bool
) -> None:
    name = "SECRET_KEY_FALLBACKS" if as_fallback else "SECRET_KEY"
    memory_site.app.config[name] = [key] if as_fallback else key
    result = memory_site.app.test_cli_runner().invoke(args=["safesession", "check"])
    assert result.exit_code == 1
    assert any(line.startswith(f"- {name} is ") for line in result.output.splitlines())
    assert repr(key) not in result.output


def test_check_does_not_flag_a_good_key(memory_site: Site) -> None:
    result = memory_site.app.test_cli_runner().invoke(args=["safesession", "check"])
    assert "SECRET_KEY" not in result.output


# -- replies (redis-py's CVE-2023-28858 and -28859) -----------------------------------------------


class _Interrupt(BaseException):
    """As a signal's handler or a greenlet's time-out raises it, anywhere."""


_MOMENTS = ["after the command was sent", "before the reply is read", "in the middle of the reply"]
_moment: list[str] = []


def _break_off(moment: str) -> None:
    if _moment == [moment]:
        _moment.clear()
        raise _Interrupt


class _TornSocket(socket.socket):
    """Gives the first bytes of a reply, and no more."""

    _torn = False

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        return super().recv(self._share(size), flags)

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0, /) -> int:
        """As :meth:`recv`; parsers read with either, hiredis with this one."""
        return super().recv_into(buffer, self._share(size), flags)

    def _share(self, size: int) -> int:
        if _moment != ["in the middle of the reply"]:
            return size
        if self._torn:
            _break_off("in the middle of the reply")
        self._torn = True
        return 3


class _Interrupted(redis.Connection):
    """A connection on which one call can be broken off at a chosen moment."""

    def _connect(self) -> socket.socket:
        whole: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
        torn = _TornSocket(fileno=whole.detach())
        torn.settimeout(self.socket_timeout)
        return torn

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]
        _break_off("after the command was sent")

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        _break_off("before the reply is read")
        return super().read_response(*args, **kwargs)


@pytest.mark.parametrize("moment", _MOMENTS)
@pytest.mark.parametrize("slow_server", [False, True])
def test_an_interrupted_call_never_shifts_answers_to_the_next_request(
    server: Server, prefix: str, moment: str, slow_server: bool
) -> None:
    client = redis.Redis(
        connection_pool=redis.ConnectionPool(connection_class=_Interrupted, port=server.port)
    )
    store, rules = RedisStore(client, prefix=prefix, timeout=5), make_rules()
    mine, others = new_key(), new_key()
    store.create(mine, make_draft(b"mine"), rules)
    store.create(others, make_draft(b"others"), rules)
    store.load(mine, rules, slide=True)
    with closing(server.client()) as control, closing(client):
        if slow_server:  # the reply is on its way still when the next request takes the connection
            control.client_pause(200)
        _moment[:] = [moment]
        with pytest.raises(_Interrupt):
            store.load(others, rules, slide=True)
        seen = [store.load(mine, rules, slide=True) for _ in range(3)]
        store.close()
    assert [answer.record.payload for answer in seen] == [b"mine"] * 3  # type: ignore[union-attr]


def test_a_single_connection_client_is_refused(any_server: Server) -> None:
    client = redis.Redis(port=any_server.port, single_connection_client=True)
    with closing(client), pytest.raises(ConfigError, match="single_connection_client"):
        SafeSession(Flask("tested"), store=client)


# -- static files ---------------------------------------------------------------------------------


def test_a_static_file_costs_no_store_call(memory_site: Site, tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text("body {}")
    memory_site.app.static_folder = str(tmp_path)
    cookie = memory_site.visit(login(1)).cookie
    memory_site.store.take()
    answer = memory_site.visit(None, cookie, path="/static/style.css")
    assert answer.text == "body {}"
    assert memory_site.store.calls == []
    assert "Set-Cookie" not in answer.headers
    assert "Vary" not in answer.headers
