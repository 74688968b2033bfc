"""``flask safesession list``, ``show`` and ``end``: what they say, and what they never say."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask, session
from markupsafe import Markup
from werkzeug.datastructures import MultiDict

from flask_safesession.events import session_ended
from flask_safesession.testing import make_draft, new_key

from ...support.cli_kit import MINUTE, Deploy, Deployment, MakeApp, run
from ...support.counting import PlainStore

TIERS: dict[str, Any] = {"guest": {"idle_timeout": "20m"}, "admin": {"idle_timeout": "15m"}}
NOBODY = "A" * 18


@pytest.fixture
def deploy(deploy: Deploy) -> Deploy:
    """Makes deployments of an app with a login."""

    def make(**settings: Any) -> Deployment:
        there = deploy(**settings)
        with_login(there.app)
        return there

    return make


def with_login(app: Flask) -> Flask:
    @app.get("/visit")
    def visit() -> str:
        session["cart"] = ["tea"]
        return ""

    @app.get("/login/<user>/<tier>")
    def login(user: str, tier: str) -> str:
        session.update(user_id=user, _tier=tier, cart=["tea", "milk"])
        return ""

    @app.get("/who")
    def who() -> str:
        return str(session.get("user_id"))

    return app


def sign_in(there: Deployment, user: str, tier: str = "default") -> Any:
    """A client who has signed in."""
    client = there.app.test_client()
    assert client.get(f"/login/{user}/{tier}").status_code == 200
    return client


def listed(there: Deployment, *options: str) -> list[dict[str, Any]]:
    said = run(there.app, "list", *options, "--json")
    assert said.code == 0
    sessions: list[dict[str, Any]] = said.json["sessions"]
    return sessions


# -- list ---------------------------------------------------------------------------------------


@pytest.mark.every_store
def test_all_live_sessions_are_listed(deploy: Deploy) -> None:
    there = deploy(expiry="tiered", tiers=TIERS)
    there.app.test_client().get("/visit")
    sign_in(there, "ada", "admin")
    sign_in(there, "bob", "guest")
    sign_in(there, "cy")
    found = listed(there)
    assert sorted(one["tier"] for one in found) == ["admin", "default", "default", "guest"]
    assert {one["user"] for one in found} == {None}
    seen = {(one["endpoint"], one["used_again"]) for one in found}
    assert seen == {("visit", False), ("login", False)}
    assert list(found[0]) == [
        "handle",
        "user",
        "tier",
        "created_at",
        "last_active",
        "expires_at",
        "idle_seconds",
        "left_seconds",
        "client",
        "last_client",
        "endpoint",
        "used_again",
        "own_lifetime_seconds",
    ]


def test_a_users_sessions_are_listed_newest_first(deploy: Deploy) -> None:
    there = deploy()
    for _ in range(3):
        sign_in(there, "ada")
        there.advance(MINUTE)
    sign_in(there, "bob")
    found = listed(there, "--user", "ada")
    assert [one["user"] for one in found] == ["ada"] * 3
    assert [round(one["idle_seconds"] / 60) for one in found] == [1, 2, 3]
    assert [round(one["left_seconds"] / 60) for one in found] == [29, 28, 27]
    assert listed(there, "--user", "nobody") == []


def test_a_list_can_be_of_one_tier(deploy: Deploy) -> None:
    there = deploy(expiry="tiered", tiers=TIERS)
    there.app.test_client().get("/visit")
    for user, tier in (("ada", "admin"), ("bob", "guest"), ("ada", "guest")):
        sign_in(there, user, tier)
    assert [one["tier"] for one in listed(there, "--tier", "guest")] == ["guest"] * 2
    assert len(listed(there, "--tier", "anonymous")) == 1
    assert [one["tier"] for one in listed(there, "--user", "ada", "--tier", "admin")] == ["admin"]
    said = run(there.app, "list", "--tier", "admn")
    assert (said.code, said.out) == (2, "")
    assert "'admn' is not a tier; there are anonymous, default, guest, admin" in said.err


def test_a_list_can_be_of_those_that_nobody_uses(deploy: Deploy) -> None:
    there = deploy()
    sign_in(there, "ada")
    there.app.test_client().get("/visit")
    there.advance(10 * MINUTE)
    sign_in(there, "bob")
    assert len(listed(there, "--idle-over", "9m")) == 2
    assert len(listed(there, "--idle-over", "11m")) == 0
    assert len(listed(there, "--user", "ada", "--idle-over", "9m")) == 1
    assert len(listed(there)) == 3


@pytest.mark.parametrize("count", [3, 4, 5])
def test_a_list_says_whether_there_are_more(deploy: Deploy, count: int) -> None:
    there = deploy()
    there.fill(count)
    said = run(there.app, "list", "--limit", "4", "--json")
    assert len(said.json["sessions"]) == min(count, 4)
    assert (said.json["next"] is not None) is (count > 4)
    text = run(there.app, "list", "--limit", "4").out
    assert ("There are more" in text) is (count > 4)


@pytest.mark.every_store
@pytest.mark.parametrize(
    "options", [[], ["--user", "ada"], ["--tier", "default"], ["--idle-over", "9m"]], ids=" ".join
)
def test_pages_continue_where_the_last_one_ended(deploy: Deploy, options: list[str]) -> None:
    there = deploy()
    there.fill(5, user="ada")
    there.fill(0 if "--user" in options or "--tier" in options else 3)
    there.advance(10 * MINUTE)
    there.fill(2 if "--idle-over" in options else 0)
    everything = [one["handle"] for one in listed(there, *options)]
    seen: list[str] = []
    after: list[str] = []
    while not seen or after:
        said = run(there.app, "list", "--limit", "2", "--json", *options, *after).json
        assert len(said["sessions"]) <= 2
        seen += [one["handle"] for one in said["sessions"]]
        after = ["--after", said["next"]] if said["next"] else []
    assert seen == everything
    assert len(seen) == (5 if "--user" in options or "--tier" in options else 8)


def test_users_come_before_anonymous_sessions(deploy: Deploy) -> None:
    there = deploy(expiry="tiered", tiers={"anonymous": {"idle_timeout": "5m"}})
    there.fill(1, user="ada")
    there.fill(1)
    assert [one["tier"] for one in listed(there)] == ["default", "anonymous"]


@pytest.mark.parametrize("after", ["x", "default|x", "nobody|"])
def test_an_end_of_a_page_that_is_none_is_a_usage_error(deploy: Deploy, after: str) -> None:
    said = run(deploy().app, "list", "--after", after)
    assert (said.code, said.out) == (2, "")
    assert "it is not the end of such a list" in said.err


def test_a_user_is_found_by_what_the_app_knows(deploy: Deploy) -> None:
    there = deploy()
    there.app.extensions["safesession"].people.find_user = {"Ada Minh": "ada"}.get
    sign_in(there, "ada")
    assert [one["user"] for one in listed(there, "--user", "Ada Minh")] == ["ada"]
    assert [one["user"] for one in listed(there, "--user", "ada")] == ["ada"]
    assert listed(there, "--user", "Carl") == []


def test_a_list_goes_on_over_pages(deploy: Deploy) -> None:
    there = deploy()
    there.fill(450)
    found = listed(there, "--limit", "1000")
    assert len({one["handle"] for one in found}) == len(found) == 450


def test_a_list_as_text_is_a_table(deploy: Deploy) -> None:
    there = deploy()
    sign_in(there, "ada")
    there.advance(90_000)
    head, row = run(there.app, "list").out.splitlines()
    assert head.split() == ["HANDLE", "TIER", "IDLE", "LEFT", "CREATED", "CLIENT"]
    handle, tier, idle, left, *created = row.split()
    assert (handle, tier) == (listed(there)[0]["handle"], "default")
    assert idle.startswith("1m3")
    assert left.startswith("28m")
    assert len(created) == 2
    assert run(there.app, "list", "--idle-over", "1h").out == "No sessions.\n"


@pytest.mark.parametrize(
    "option", [["--limit", "0"], ["--idle-over", "soon"], ["--idle-over", "0"]]
)
def test_a_wrong_option_of_a_list_is_a_usage_error(deploy: Deploy, option: list[str]) -> None:
    assert run(deploy().app, "list", *option).code == 2


# -- show ---------------------------------------------------------------------------------------


def test_a_session_is_shown_without_its_data_and_without_being_used(deploy: Deploy) -> None:
    there = deploy()
    sign_in(there, "ada")
    there.advance(10 * MINUTE)
    [one] = listed(there)
    said = run(there.app, "show", one["handle"])
    assert said.code == 0
    assert f"handle: {one['handle']}\n" in said.out
    assert "\nendpoint: " in said.out
    assert "\nused_again: false\n" in said.out
    assert "milk" not in said.out + run(there.app, "show", one["handle"], "--json").out
    for _ in range(2):
        run(there.app, "show", one["handle"], "--data")
    assert listed(there)[0]["last_active"] == one["last_active"]


def test_the_data_are_shown_to_who_asks_for_them(deploy: Deploy) -> None:
    there = deploy()
    sign_in(there, "ada")
    handle = listed(there)[0]["handle"]
    said = run(there.app, "show", handle, "--data", "--json")
    assert said.json["data"].items() >= {"user_id": "ada", "cart": ["tea", "milk"]}.items()
    assert '"cart": ["tea", "milk"]' in run(there.app, "show", handle, "--data").out


DEEP: list[Any] = []
for _ in range(99):
    DEEP = [DEEP]
ODD: dict[str, tuple[Any, Any]] = {
    "a number too long for digits": (10**5000, hex(10**5000)),
    "one below zero": ([-(10**5000)], [hex(-(10**5000))]),
    "a set of one": ({10**5000}, "<set with a number that is too long>"),
    "a long number": (10**500, 10**500),
    "a key too long": ({10**5000: 1}, {"<int with a number that is too long>": 1}),
    "keys that look the same": ({1: "a", "1": "b"}, [["1", "a"], ["1", "b"]]),
    "no number": ([float("nan"), float("-inf")], ["nan", "-inf"]),
    "a decimal of a million digits": (Decimal("1e1000000"), "Decimal('1E+1000000')"),
    "the last moment": (
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-23, minutes=-59))),
        repr(datetime.max.replace(tzinfo=timezone(timedelta(hours=-23, minutes=-59)))),
    ),
    "a form": (MultiDict([("tag", "red"), ("tag", "blue")]), {"tag": ["red", "blue"]}),
    "many levels": (DEEP, DEEP),
    "truth": ([True, None, Markup("<b>")], [True, None, "<b>"]),
}


@pytest.mark.parametrize("name", ODD)
def test_data_of_every_kind_are_json(make_app: MakeApp, name: str) -> None:
    there = Deployment(with_login(make_app()), lambda _: None)
    value, shown = ODD[name]
    client = sign_in(there, "ada")
    with client.session_transaction() as data:
        data["odd"] = value
    [one] = listed(there)
    assert run(there.app, "show", one["handle"], "--data").code == 0
    out = run(there.app, "show", one["handle"], "--data", "--json").out

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    assert json.loads(out, parse_constant=refuse)["data"]["odd"] == shown


def test_data_nested_too_deep_are_a_message(make_app: MakeApp) -> None:
    there = Deployment(with_login(make_app()), lambda _: None)
    for payload in (b"\x81\xa1a" + b"\x91" * 500, b"\x81\xa7_client\x94" + b"\x91" * 900):
        draft = make_draft(payload + b"\x01", rules=there.rules, user="ada")
        there.store.create(new_key(), draft, there.rules)
    for one in listed(there):
        assert run(there.app, "show", one["handle"]).code == 0
        said = run(there.app, "show", one["handle"], "--data")
        assert said.err.startswith("Error: The data cannot be read: the stored bytes are not")


@pytest.mark.parametrize("command", [["list"], ["end"], ["end", "--keep", NOBODY]])
def test_an_empty_name_is_a_usage_error(make_app: MakeApp, command: list[str]) -> None:
    said = run(make_app(), *command, "--user", "")
    assert (said.code, said.out) == (2, "")
    assert "it is empty" in said.err


@pytest.mark.parametrize("command", ["show", "end"])
@pytest.mark.parametrize(
    "handle", ["x", "../../etc", "A" * 17, "A" * 19, "ä" * 18, "A" * 17 + "\x1b"]
)
def test_what_is_no_handle_is_a_usage_error(deploy: Deploy, command: str, handle: str) -> None:
    said = run(deploy().app, command, handle)
    assert (said.code, said.out) == (2, "")
    assert "is not a handle" in said.err
    assert "\x1b" not in said.err


@pytest.mark.parametrize("command", [["show"], ["show", "--data"]])
def test_a_session_that_is_not_there_is_a_message(deploy: Deploy, command: list[str]) -> None:
    said = run(deploy().app, *command, NOBODY)
    assert (said.code, said.out) == (1, "")
    assert said.err == "Error: No live session has this handle.\n"


@pytest.mark.parametrize("handle", ["-" + "A" * 17, "--" + "x" * 16, "-" * 18])
@pytest.mark.parametrize(
    "command", [["show"], ["end"], ["end", "--yes", "--user", "ada", "--keep"]]
)
def test_a_handle_may_begin_with_a_dash(deploy: Deploy, command: list[str], handle: str) -> None:
    there = deploy()
    draft = make_draft(rules=there.rules, user="ada")
    there.store.create(handle, draft, there.rules)
    there.fill(1, user="ada")
    said = run(there.app, *command, handle, "--json")
    assert said.code == 0
    assert said.json.get("handle", handle) == handle
    left = [one["handle"] for one in listed(there)]
    assert (handle in left) is (command != ["end"])
    assert len(left) == (2 if command == ["show"] else 1)


# -- end ----------------------------------------------------------------------------------------


@pytest.mark.every_store
def test_a_session_is_ended_by_its_handle(deploy: Deploy) -> None:
    there = deploy()
    ada, bob = sign_in(there, "ada"), sign_in(there, "bob")
    [one] = listed(there, "--user", "ada")
    said = run(there.app, "end", one["handle"])
    assert (said.code, said.out) == (0, "Ended 1 session.\n")
    assert (ada.get("/who").text, bob.get("/who").text) == ("None", "bob")
    again = run(there.app, "end", one["handle"], "--json")
    assert (again.code, again.json["ended"]) == (1, 0)


def test_all_sessions_of_a_user_are_ended(deploy: Deploy) -> None:
    there = deploy()
    adas = [sign_in(there, "ada") for _ in range(3)]
    bob = sign_in(there, "bob")
    said = run(there.app, "end", "--user", "ada", "--yes", "--json")
    assert (said.code, said.json["ended"], said.err) == (0, 3, "")
    assert {client.get("/who").text for client in adas} == {"None"}
    assert bob.get("/who").text == "bob"
    assert run(there.app, "end", "--user", "ada").code == 1


def test_one_of_a_users_can_be_kept(deploy: Deploy) -> None:
    there = deploy()
    old = sign_in(there, "ada")
    there.advance(MINUTE)
    new = sign_in(there, "ada")
    newest = listed(there, "--user", "ada")[0]["handle"]
    said = run(there.app, "end", "--user", "ada", "--keep", newest, "--yes")
    assert said.out == "Ended 1 session.\n"
    assert (old.get("/who").text, new.get("/who").text) == ("None", "ada")


def test_everybody_is_ended_by_who_is_sure(deploy: Deploy) -> None:
    there = deploy()
    clients = [sign_in(there, "ada"), sign_in(there, "bob")]
    there.app.test_client().get("/visit")
    there.advance(1000)
    said = run(there.app, "end", "--all", "--yes", "--json")
    assert (said.code, said.json["ended"], said.err) == (0, 3, "")
    assert {client.get("/who").text for client in clients} == {"None"}
    assert listed(there) == []


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 2), ("\n", 2), ("", 2)])
def test_who_is_not_sure_is_asked(deploy: Deploy, answer: str, left: int) -> None:
    there = deploy()
    sign_in(there, "ada")
    sign_in(there, "bob")
    there.advance(1000)
    command = ["safesession", "end", "--all", "--json"]
    result = there.app.test_cli_runner().invoke(args=command, input=answer)
    assert "End all 2 sessions, of users and anonymous visitors?" in result.stderr
    assert result.exit_code == (0 if left == 0 else 1)
    assert len(listed(there)) == left
    assert (result.stdout == "") is (left == 2)


@pytest.mark.parametrize(("answer", "left"), [("y\n", 1), ("n\n", 3), ("", 3)])
def test_before_all_sessions_of_a_user_end_it_asks(deploy: Deploy, answer: str, left: int) -> None:
    there = deploy()
    there.app.extensions["safesession"].people.find_user = {"Ada Minh": "ada"}.get
    there.app.extensions["safesession"].people.name_of = {"ada": "Ada Minh"}.get
    for user in ("ada", "ada", "bob"):
        sign_in(there, user)
    command = ["safesession", "end", "--user", "Ada Minh"]
    result = there.app.test_cli_runner().invoke(args=command, input=answer)
    assert "End 2 sessions of user Ada Minh (ada)?" in result.stderr
    assert (result.exit_code, len(listed(there))) == (0 if left == 1 else 1, left)


WRONG = [
    [],
    [NOBODY, "--all"],
    [NOBODY, "--user", "ada"],
    ["--user", "ada", "--all"],
    ["--keep", NOBODY],
    ["--all", "--yes", "--keep", NOBODY],
    ["--user", "ada", "--keep", "x"],
]


@pytest.mark.parametrize("options", WRONG, ids=" ".join)
def test_it_must_be_clear_who_is_to_be_ended(deploy: Deploy, options: list[str]) -> None:
    there = deploy()
    sign_in(there, "ada")
    said = run(there.app, "end", *options)
    assert (said.code, said.out) == (2, "")
    assert len(listed(there)) == 1


def test_an_event_tells_of_each(deploy: Deploy) -> None:
    there = deploy()
    sign_in(there, "ada")
    sign_in(there, "bob")
    heard: list[Any] = []

    def hear(sender: object, event: Any) -> None:
        heard.append((sender, event.reason))

    with session_ended.connected_to(hear, there.app):
        run(there.app, "end", "--user", "ada", "--yes")
        run(there.app, "end", listed(there)[0]["handle"])
    assert heard == [(there.app, "revoked")] * 2


# -- all of them --------------------------------------------------------------------------------


def test_no_command_tells_an_id(deploy: Deploy, caplog: pytest.LogCaptureFixture) -> None:
    there = deploy()
    client = sign_in(there, "ada")
    cookie = client.get_cookie("session").value
    handle = listed(there)[0]["handle"]
    commands = [["list"], ["list", "--user", "ada"], ["show", handle, "--data"], ["end", handle]]
    with caplog.at_level(logging.DEBUG):
        told = "".join(
            said.out + said.err
            for command in commands
            for said in (run(there.app, *command), run(there.app, *command, "--json"))
        )
    assert handle in told
    for secret in (cookie, cookie.partition(".")[0]):
        assert secret not in told + caplog.text
    assert (
        there.app.test_client().get("/who", headers={"Cookie": f"session={handle}"}).text == "None"
    )


@pytest.mark.parametrize("command", [["list", "--user", "a"], ["end", "--user", "a"]])
def test_a_store_that_knows_no_users_is_a_message(make_app: MakeApp, command: list[str]) -> None:
    said = run(make_app(store=PlainStore()), *command)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(
        "Error: tests.support.counting.PlainStore cannot list the sessions of a user: give it"
    )


@pytest.mark.parametrize("command", ["list", "stats", "purge"])
def test_a_store_without_an_index_is_a_message(make_app: MakeApp, command: str) -> None:
    said = run(make_app(store=PlainStore()), *command.split())
    assert (said.code, said.out) == (1, "")
    assert "PlainStore has no index of its sessions: give it audit, " in said.err
    assert "(flask_safesession.stores.base.IndexedStore)" in said.err


def test_all_sessions_of_a_store_without_an_index_are_ended_uncounted(make_app: MakeApp) -> None:
    app = make_app(store=PlainStore())
    app.add_url_rule("/add", "add", view_func=lambda: str(session.setdefault("n", 1)))
    app.add_url_rule("/", "show", view_func=lambda: str(session.get("n")))
    client = app.test_client()
    client.get("/add")
    assert client.get("/").text == "1"
    said = run(app, "end", "--all", "--yes", "--json")
    assert (said.code, json.loads(said.out)["ended"]) == (0, None)
    assert client.get("/").text == "None"
