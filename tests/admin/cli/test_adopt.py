"""``flask safesession adopt``, and what ``check`` says of an adoption that is over."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock, make_draft, make_rules, new_key

from ...support.cli_kit import Deploy, MakeApp, run

DAY = 86_400_000
END = datetime(2030, 12, 31, tzinfo=UTC)


def adopt_one(app: Any) -> None:
    store = app.extensions["safesession"].opened.need_adopting()
    store.adopt(new_key(), new_key(), make_draft(), make_rules(), 0)


def old_store(sessions: int) -> MemoryStore:
    store = MemoryStore()
    for _ in range(sessions):
        store.create(new_key(), make_draft(), make_rules())
    return store


@pytest.mark.every_store
def test_it_shows_what_is_left_and_what_came(deploy: Deploy) -> None:
    there = deploy(adopt=[old_store(3), "flask-cookie"], adopt_until=END)
    adopt_one(there.app)
    said = run(there.app, "adopt")
    assert said.code == 0
    one, two, came, ends = said.out.splitlines()
    assert one == "MemoryStore: 3 sessions are left"
    assert two == "flask-cookie: its sessions cannot be counted"
    assert re.fullmatch(r"Adopted until now: 1 sessions, the last one at \S+\.", came)
    assert ends == "Adoption ends: 2030-12-31T00:00:00.000+00:00."
    found = run(there.app, "adopt", "--json", "--most", "2").json
    assert found["places"][0] == {"place": "MemoryStore", "left": 2}
    assert (found["adopted"], found["until"]) == (1, "2030-12-31T00:00:00.000+00:00")
    assert "at least 2 sessions are left" in run(there.app, "adopt", "--most", "2").out


def test_without_a_date_it_says_how_adoption_ends(deploy: Deploy) -> None:
    said = run(deploy(adopt=[old_store(0)]).app, "adopt").out.splitlines()
    assert said[1:] == [
        "Adopted until now: 0 sessions.",
        "Adoption ends: when the setting is removed.",
    ]


def test_without_the_setting_it_is_an_error(deploy: Deploy) -> None:
    said = run(deploy().app, "adopt")
    assert said.code == 1
    assert said.err == "Error: SAFESESSION_ADOPT is not set: no sessions are adopted\n"


def test_a_place_that_is_down_is_an_error_and_hides_no_other_figure(deploy: Deploy) -> None:
    there = deploy(adopt=["flask-session+redis://127.0.0.1:1/0", old_store(3)])
    said = run(there.app, "adopt")
    assert said.code == 1
    down, other, came, _ = said.out.splitlines()
    assert "redis://127.0.0.1:1/0 in SAFESESSION_ADOPT: ConnectionError" in down
    assert other == "MemoryStore: 3 sessions are left"
    assert came == "Adopted until now: 0 sessions."
    found = run(there.app, "adopt", "--json").json["places"][0]
    assert found["left"] is None
    assert "ConnectionError" in found["error"]


@pytest.mark.parametrize(
    "place",
    [
        *("flask-session+redis://127.0.0.1:1/0", "flask-session+memcached://127.0.0.1:1"),
        *("flask-session+file:///not/there", "flask-session+sqlite:////not/it"),
        "redis://127.0.0.1:1/0",
    ],
)
def test_check_reports_a_place_that_does_not_answer(make_app: MakeApp, place: str) -> None:
    app = make_app(adopt=[place])
    said = findings(app)["older-place"]
    assert said.startswith(f"{place} in SAFESESSION_ADOPT: ")
    assert said.endswith("each request with an old cookie gets a 503")


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_what_is_wrong_in_a_database_is_not_said_of_the_store(
    request: pytest.FixtureRequest, make_app: MakeApp, kind: str
) -> None:
    url = request.getfixturevalue(kind).url()
    said = findings(make_app(adopt=[f"flask-session+{url}"]))["older-place"]
    assert "check SESSION_SQLALCHEMY_TABLE" in said
    assert "flask safesession schema" not in said
    said = findings(make_app(adopt=[f"flask-session+{url}_not_there"]))["older-place"]
    assert "SAFESESSION_STORE" not in said


def findings(app: Any) -> dict[str, str]:
    return {one["name"]: one["text"] for one in run(app, "check", "--json").json["findings"]}


def test_check_reminds_when_nothing_has_come_for_a_week(make_app: MakeApp) -> None:
    clock = FakeClock()
    app = make_app(store=MemoryStore(clock), adopt=[old_store(0)])
    assert "adoption-over" not in findings(app)
    adopt_one(app)
    clock.advance(6 * DAY)
    assert "adoption-over" not in findings(app)
    clock.advance(DAY)
    assert "no session has come from an older place for a week" in findings(app)["adoption-over"]
    adopt_one(app)
    assert "adoption-over" not in findings(app)


def test_check_reminds_when_the_date_has_passed(make_app: MakeApp) -> None:
    clock = FakeClock(int(END.timestamp() * 1000))
    app = make_app(store=MemoryStore(clock), adopt=[old_store(0)], adopt_until=END)
    assert "the date of SAFESESSION_ADOPT_UNTIL has passed" in findings(app)["adoption-over"]
    assert "That is over." in run(app, "adopt").out
